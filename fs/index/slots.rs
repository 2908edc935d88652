// SPDX-License-Identifier: GPL-2.0

//! The places of a container's indexes.

use super::resident::{Ready, Used};
use super::{Build, Index, Kind};
use crate::container::Hidden;
use kernel::prelude::*;
use kernel::sync::Arc;
use libvexfs::format::index::IndexRecord;
use vexfs_vfs::work::{Started, Stop};

/// The indexes of a container, one of each kind at most.
#[derive(Default)]
pub(crate) struct Indexes {
    /// The hidden inode with their records, once there is one.
    pub(crate) tree: Option<Hidden>,
    slots: [Slot; Kind::ALL.len()],
}

/// The place of an index of one kind.
#[derive(Default)]
pub(super) struct Slot {
    /// What searches use, if it is in memory.
    pub(super) ready: Option<Ready>,
    /// Who builds or loads, and what ends that. Only one does so for a slot.
    pub(super) claim: Option<Arc<Stop>>,
    /// What is being built. Deletes and overwritten rows are told to it too.
    pub(super) building: Option<Arc<Index>>,
    /// How many rows it will have.
    pub(super) target: u64,
    /// It is ready, and being saved.
    pub(super) saving: bool,
    /// The build, if it goes on in the background.
    pub(super) job: Option<Arc<Started<Build>>>,
    /// Why the last build in the background failed.
    pub(super) error: Option<Error>,
    /// What is on disk.
    pub(super) record: Option<IndexRecord>,
    /// What is on disk can't be used.
    pub(super) unusable: bool,
    /// There was no memory to load it: when to try again, in nanoseconds of the monotonic clock.
    pub(super) retry_at: u64,
}

impl Slot {
    /// What searches use, if it is in memory.
    pub(super) fn ready(&self) -> Option<Used> {
        self.ready.as_ref()?.get()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.as_ref().is_some_and(Ready::is_there)
    }

    /// What a search can load.
    pub(super) fn stored(&self) -> Option<IndexRecord> {
        let record = self.record.filter(|record| record.image_ino != 0);
        record.filter(|_| !self.unusable)
    }

    /// What is in memory: for searches, and being built.
    pub(super) fn in_memory(&self) -> (Option<Used>, Option<Arc<Index>>) {
        (self.ready(), self.building.clone())
    }
}

impl Indexes {
    pub(super) fn slot(&mut self, kind: Kind) -> &mut Slot {
        let [hnsw, ivf, pq, lsh] = &mut self.slots;
        match kind {
            Kind::Hnsw => hnsw,
            Kind::Ivf => ivf,
            Kind::Pq => pq,
            Kind::Lsh => lsh,
        }
    }

    /// How many there are for searches.
    pub(crate) fn count(&self) -> u32 {
        let ready = |slot: &Slot| u32::from(slot.is_ready());
        self.slots.iter().map(ready).fold(0, u32::saturating_add)
    }
}
