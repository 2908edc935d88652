// SPDX-License-Identifier: GPL-2.0

//! Building indexes, and dropping them.

use super::graph::Graph;
use super::hashes::Hashes;
use super::lists::Lists;
use super::{checkpoint, is_live, Index, Kind, Parameters, Structure};
use crate::container::{self, Container};
use crate::VexFs;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_vfs::Inode;

/// What a build is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) parameters: Parameters,
    /// Builds anew where there is one, which serves searches meanwhile.
    pub(crate) replace: bool,
}

/// Builds an index over the rows of a container, which searches then use. Not with the inode locked:
/// searches and batches go on meanwhile.
///
/// # Errors
///
/// `EEXIST` if there is one that is not to be replaced, `EBUSY` if one is being built, `EINVAL` for bad
/// parameters, `EOPNOTSUPP` if rows are too long, `ENODATA` if there are none to train on, `ECANCELED` if it was dropped meanwhile; `EINTR`,
/// `ENOMEM`, and what reading says. Then all is as before.
pub(crate) fn build(inode: &Inode<VexFs>, request: &Request) -> Result {
    let Request {
        kind, parameters, ..
    } = *request;
    let area = container::with(inode, |c| Ok(c.area))?;
    // Bad parameters are told before anything is read.
    match kind {
        Kind::Hnsw => Graph::check(&parameters)?,
        Kind::Ivf | Kind::Pq => Lists::check(kind, &parameters, &area)?,
        Kind::Lsh => Hashes::check(&parameters, &area)?,
    }
    let may_build = |c: &mut Container| {
        let area = c.area;
        let slot = c.indexes.slot(kind);
        if slot.ready.is_some() && !request.replace {
            return Err(EEXIST);
        }
        match slot.building {
            Some(_) => Err(EBUSY),
            None => Ok(area),
        }
    };
    checkpoint::load(inode, kind.number())?;
    let area = container::with(inode, may_build)?;
    let takes = |row| is_live(inode, row);
    let structure: Arc<dyn Structure> = match kind {
        Kind::Hnsw => Graph::new(inode, &area, &parameters, takes)?,
        Kind::Ivf | Kind::Pq => Lists::new(inode, &area, kind, &parameters)?,
        Kind::Lsh => Hashes::new(inode, &area, &parameters)?,
    };
    let index = Index::new(kind, structure)?;
    reserve(inode, &index, area.live, area.rows)?;
    container::with(inode, |c| {
        may_build(c)?;
        c.indexes.slot(kind).building = Some(index.clone());
        Ok(())
    })?;
    put_up(inode, &index, area.rows)?;
    checkpoint::save_or_warn(inode, kind);
    Ok(())
}

/// Takes in the first `rows` rows, then gives `index`, which is listed as being built, to searches.
///
/// # Errors
///
/// `ECANCELED`, and those of [`Index::catch_up`]. It is not listed any more then.
pub(super) fn put_up(inode: &Inode<VexFs>, index: &Arc<Index>, rows: u64) -> Result {
    let built = index
        .structure
        .train(inode, rows, &index.cancelled)
        .and_then(|()| index.catch_up(inode, rows));
    let mut container = inode.node().container.lock();
    let mine = |other: &mut Arc<Index>| Arc::ptr_eq(other, index);
    let slot = container.indexes.slot(index.kind);
    let building = slot.building.take_if(mine);
    let outcome = match (&built, building.is_some()) {
        (Ok(()), true) => Ok(core::mem::replace(&mut slot.ready, building)),
        (Err(e), _) => Err(*e),
        (Ok(()), false) => Err(ECANCELED),
    };
    let rows = container.area.rows;
    core::mem::drop(container);
    // What was replaced is freed here, not under the lock.
    core::mem::drop(outcome?);
    // Rows that came meanwhile. The index is right without them; the next batch takes them in as well.
    index.take_in(inode, rows);
    Ok(())
}

/// Makes room for all rows at once, so that what does not fit is known before it takes time.
fn reserve(inode: &Inode<VexFs>, index: &Index, live: u64, rows: u64) -> Result {
    let live = u32::try_from(live).map_err(|_| EFBIG)?;
    let structure = &index.structure;
    structure.reserve(live, rows).inspect_err(|_| {
        let (id, ino, name) = (inode.sb().id(), inode.ino(), index.kind.name());
        let needs = structure.bytes_with(live, rows);
        let left = inode.volume().index_memory.left();
        if needs > left {
            pr_warn!("{id}: inode {ino}: an {name} index over {live} rows needs {needs} bytes, index_memory= leaves {left}\n");
        } else {
            pr_warn!("{id}: inode {ino}: there is no memory for an {name} index over {live} rows, which needs {needs} bytes\n");
        }
    })
}

/// Drops the index of a kind, and one that is being built.
///
/// # Errors
///
/// `ENOENT` if there is none.
pub(crate) fn drop(inode: &Inode<VexFs>, kind: Kind) -> Result {
    let stored = container::with(inode, |c| Ok(c.indexes.slot(kind).record.is_some()))?;
    if !drop_from_memory(inode, kind) && !stored {
        return Err(ENOENT);
    }
    checkpoint::forget(inode, kind)
}

/// Has searches not use the index of a kind any more, and ends a build. Says whether there was one.
pub(super) fn drop_from_memory(inode: &Inode<VexFs>, kind: Kind) -> bool {
    let mut container = inode.node().container.lock();
    let slot = container.indexes.slot(kind);
    let dropped = [slot.ready.take(), slot.building.take()];
    slot.unusable = slot.record.is_some();
    core::mem::drop(container);
    let mut any = false;
    for index in dropped.into_iter().flatten() {
        index.cancelled.store(true, Ordering::Relaxed);
        any = true;
    }
    any
}
