// SPDX-License-Identifier: GPL-2.0

//! Claims on the slot of a kind: one build or load goes on for each.
//!
//! Who claims a slot lists an index in it that is not for searches yet, then puts it up. Who drops the
//! index takes the claim away, and so does a user's build from one that goes on by itself; whoever finds his
//! gone changes nothing more.

use super::build::Going;
use super::catch_up::GoOn;
use super::resident::Ready;
use super::{Index, Kind, Slot};
use crate::container;
use crate::VexFs;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_vfs::work::Stop;
use vexfs_vfs::Inode;

/// The claim on a slot. It is given up by [`Claim::give_up`].
#[derive(Clone)]
pub(super) struct Claim {
    kind: Kind,
    /// Whether to go on; also tells claims apart.
    pub(super) stop: Arc<Stop>,
}

impl Claim {
    /// Claims the slot of a kind, if it is free and `may` says so.
    ///
    /// Who `gives_way` loses it again to who does not. The latter gets the job that has lost it, if there is one, and ends
    /// it, so that its memory is there for what is built now.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is not free, what `may` says, `ENOMEM`.
    pub(super) fn take(
        inode: &Inode<VexFs>,
        kind: Kind,
        stop: Stop,
        gives_way: bool,
        may: impl FnOnce(&Slot) -> Result,
    ) -> Result<(Self, Option<Going>)> {
        let stop = Arc::new(stop, GFP_KERNEL)?;
        let (claim, building, job) = container::with(inode, |c| {
            let slot = c.indexes.slot(kind);
            may(slot)?;
            if slot.claim.is_some() && (gives_way || !slot.gives_way) {
                return Err(EBUSY);
            }
            slot.target = 0;
            slot.saving = false;
            slot.gives_way = gives_way;
            let claim = slot.claim.replace(stop.clone());
            Ok((claim, slot.building.take(), slot.job.take()))
        })?;
        if let Some(claim) = claim {
            claim.cancel();
        }
        // Freed without the lock.
        core::mem::drop(building);
        Ok((Claim { kind, stop }, job))
    }

    /// Whether this is the claim on `slot`.
    pub(super) fn has(&self, slot: &Slot) -> bool {
        let mine = |claim: &Arc<Stop>| Arc::ptr_eq(claim, &self.stop);
        slot.claim.as_ref().is_some_and(mine)
    }

    /// Runs `f` with the slot, unless the claim is gone.
    pub(super) fn with_slot<R>(
        &self,
        inode: &Inode<VexFs>,
        f: impl FnOnce(&mut Slot) -> R,
    ) -> Option<R> {
        let mut container = inode.node().container.lock();
        let slot = container.indexes.slot(self.kind);
        self.has(slot).then(|| f(slot))
    }

    /// Lists `index`, which will have `rows` rows: from now on it is told of deletes and overwritten rows.
    ///
    /// # Errors
    ///
    /// `ECANCELED` if the claim is gone.
    pub(super) fn list(&self, inode: &Inode<VexFs>, index: &Arc<Index>, rows: u64) -> Result {
        let list = |slot: &mut Slot| {
            slot.building = Some(index.clone());
            slot.target = rows;
        };
        self.with_slot(inode, list).ok_or(ECANCELED)
    }

    /// Trains `index` and takes in the first `rows` rows, then gives it, which is listed, to searches.
    ///
    /// # Errors
    ///
    /// `ECANCELED` if the claim is gone, and those of [`Index::catch_up`].
    pub(super) fn put_up(
        &self,
        inode: &Inode<VexFs>,
        index: &Arc<Index>,
        rows: u64,
        threads: u32,
        go_on: GoOn<'_>,
    ) -> Result {
        index
            .structure
            .train(inode, rows, threads, &|| index.may_go_on(go_on))?;
        index.catch_up(inode, rows, threads, go_on)?;
        index.structure.account().settle();
        index.arrange(go_on)?;
        let ready = Ready::new(&inode.volume().index_memory, index.clone())?;
        // It stays until it has all rows.
        let _used = ready.get();
        let replaced = self.with_slot(inode, |slot| {
            slot.target = 0;
            slot.saving = true;
            slot.building = None;
            slot.ready.replace(ready)
        });
        // What was replaced is freed here, not under the lock.
        core::mem::drop(replaced.ok_or(ECANCELED)?);
        // Rows that came meanwhile. The index is right without them; the next batch takes them in as well.
        let rows = inode.node().container.lock().area.rows;
        index.take_in(inode, rows, go_on);
        Ok(())
    }

    /// Gives the slot back, after `last` has changed it, unless the claim is gone.
    pub(super) fn give_up(&self, inode: &Inode<VexFs>, last: impl FnOnce(&mut Slot)) {
        // Freed without the lock.
        let _freed = self.with_slot(inode, |slot| {
            last(slot);
            slot.claim = None;
            slot.gives_way = false;
            slot.target = 0;
            slot.saving = false;
            (slot.building.take(), slot.job.take())
        });
    }
}
