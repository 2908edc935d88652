// SPDX-License-Identifier: GPL-2.0

//! Indexes of containers, kept in step with the rows.
//!
//! ```text
//! build.rs claim.rs            building, in the background too, and dropping
//! catch_up.rs share.rs         taking in new rows, by several threads
//! slots.rs summary.rs          the places of a container's indexes, and what statistics say of them
//! search.rs                    searches: an index, and the rows that it does not have
//! graph.rs graph_*.rs          HNSW: changes, searches, memory, images
//! checkpoint.rs image.rs       indexes on disk
//! check.rs                     scrubbing
//! codes.rs                     rows become codes; arithmetic of a graph
//! lists.rs lists_*.rs          IVF and PQ: parameters, training, changes, searches, memory, images, arithmetic
//! hashes.rs hashes_*.rs        LSH: changes, searches, images
//! listed.rs                    what the last two have in common: which rows are in which lists
//! loaded.rs                    what a loaded structure has to make up for
//! pool.rs                      scratch memory of operations
//! exact.rs                     rows, and distances to them
//! budget.rs resident.rs        how much memory indexes take, and dropping those that can be read again
//! ```
//!
//! An index has a watermark: rows below it were taken in, rows from it on a search compares exactly.
//! So an index is right at any time, and only slower while it is behind. A build and every batch that
//! inserts move the watermark up; who is interrupted leaves the rest to the next one.
//!
//! Lock order: inode lock > `Node::rows` > a structure's writer > `Node::container`. Rows do not
//! change while `Node::rows` is held, so a row and its code agree.

use crate::candidates::Candidates;
use crate::container::{self, Container, Reading};
use crate::scorer::Scan;
use crate::VexFs;
use budget::Account;
use catch_up::GoOn;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;
use libvexfs::format::index as format;
use pool::Idle;
use resident::Used;
use search::Outcome;
use slots::Slot;
use vexfs_ann::topk::TopK;
use vexfs_uapi::{self as uapi, Findings};
use vexfs_vfs::work::Stop;
use vexfs_vfs::{task, Inode};

mod budget;
mod build;
mod catch_up;
mod check;
pub(crate) mod checkpoint;
mod claim;
mod codes;
pub(crate) mod exact;
mod graph;
mod graph_check;
mod graph_image;
mod graph_memory;
mod graph_search;
mod hashes;
mod hashes_hasher;
mod hashes_image;
mod hashes_search;
mod image;
mod listed;
mod lists;
mod lists_check;
mod lists_codes;
mod lists_image;
mod lists_insert;
mod lists_loader;
mod lists_memory;
mod lists_params;
mod lists_scorer;
mod lists_search;
mod lists_train;
mod loaded;
mod pool;
mod resident;
pub(crate) mod search;
mod share;
mod slots;
mod summary;

pub(crate) use budget::Budget;
pub(crate) use build::{build, drop, Build, Request};
pub(crate) use check::check;
pub(crate) use libvexfs::format::index::Parameters;
pub(crate) use slots::Indexes;
pub(crate) use summary::summary;

/// A kind of index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hnsw,
    Ivf,
    Pq,
    Lsh,
}

impl Kind {
    /// All, in the order in which a search that leaves the choice tries them.
    const ALL: [Kind; 4] = [Kind::Hnsw, Kind::Ivf, Kind::Pq, Kind::Lsh];

    /// The kind that `VEXFS_INDEX_*` means, if it is one that is built.
    pub(crate) fn from_uapi(kind: u32) -> Option<Kind> {
        match kind {
            uapi::VEXFS_INDEX_HNSW => Some(Kind::Hnsw),
            uapi::VEXFS_INDEX_IVF => Some(Kind::Ivf),
            uapi::VEXFS_INDEX_PQ => Some(Kind::Pq),
            uapi::VEXFS_INDEX_LSH => Some(Kind::Lsh),
            _ => None,
        }
    }

    /// Its number on disk.
    fn number(self) -> u32 {
        match self {
            Kind::Hnsw => format::KIND_HNSW,
            Kind::Ivf => format::KIND_IVF,
            Kind::Pq => format::KIND_PQ,
            Kind::Lsh => format::KIND_LSH,
        }
    }

    /// Its name in the log.
    fn name(self) -> &'static str {
        match self {
            Kind::Hnsw => "HNSW",
            Kind::Ivf => "IVF",
            Kind::Pq => "PQ",
            Kind::Lsh => "LSH",
        }
    }
}

/// How much is in an index.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Rows.
    pub(crate) live: u64,
    /// Places of deleted rows that are not free yet.
    pub(crate) deleted: u64,
}

/// Which state of a container an image is of.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// That of the record that will refer to it.
    pub(crate) generation: u64,
    /// Rows that came with a later batch are not in it.
    pub(crate) batch: u64,
}

/// How one search uses an index.
#[derive(Clone, Copy)]
pub(crate) struct Query {
    /// `ef`, `nprobe` or the number of probes.
    pub(crate) effort: u32,
    /// Candidates that are compared exactly.
    pub(crate) rerank: u32,
    /// About how many rows of the index pass the filter, if there is one.
    pub(crate) allowed: Option<u64>,
}

/// What an index of some kind is made of. Searches, changes and questions may come at the same time.
pub(crate) trait Structure: Send + Sync {
    fn parameters(&self) -> Parameters;
    fn counts(&self) -> Counts;
    /// What this has taken of the budget: nearly all memory that it holds.
    fn account(&self) -> &Account;
    /// Scratch memory.
    fn scratch(&self) -> &dyn Idle;
    /// A checksum: equal for equal indexes. Changes wait meanwhile.
    fn digest(&self) -> u64;

    /// Bytes that this takes of the budget with room for `live` rows, numbered below `rows`, with scratch memory for a
    /// search; what training takes among them, if it is to come. `ENOMEM`.
    fn bytes_with(&self, live: u32, rows: u64) -> Result<u64>;

    /// Makes room for `live` rows, numbered below `rows`. `ENOMEM`, `EFBIG`.
    fn reserve(&self, live: u32, rows: u64) -> Result;

    /// Learns from the first `rows` rows what it must know before it takes any in, unless it knows, for as
    /// long as `go_on` says, with up to `threads` threads. It takes seconds; `Node::rows` is not held. After
    /// [`Structure::reserve`]. What it learns does not depend on the number of threads.
    /// `ENODATA` if there are no rows, `EINTR`, `ECANCELED`, `ENOMEM`, and what reading says.
    fn train(&self, _inode: &Inode<VexFs>, _rows: u64, _threads: u32, _go_on: GoOn<'_>) -> Result {
        Ok(())
    }

    /// Arranges what was built so that searches are faster, which only find the same. Nobody searches yet, nor inserts; what
    /// else changes it waits. What `go_on` says, `ENOMEM`; all is as before then.
    fn arrange(&self, _go_on: GoOn<'_>) -> Result {
        Ok(())
    }

    /// How much of [`Structure::train`] is done, in thousandths.
    fn trained(&self) -> u32 {
        1000
    }

    /// The parameters to build it anew with, if it was made for much fewer rows than there are now.
    fn outgrown(&self) -> Option<Parameters> {
        None
    }

    /// Takes in some of the rows from `watermark` on, less than `end`, and moves it up as far as that went:
    /// it takes some milliseconds. Up to `threads` threads may be used, with the same result. `Node::rows` is held
    /// shared. `ENOMEM`, `EFBIG`, and what reading says.
    fn extend(&self, inode: &Inode<VexFs>, watermark: &AtomicU64, end: u64, threads: u32)
        -> Result;

    /// Itself, if several threads may insert at the same time, out of turn.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }

    /// Removes rows that were deleted; those that are not here are none of its business.
    fn remove(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result;

    /// Follows rows that were overwritten. `Node::rows` is held exclusively.
    fn replace(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result;

    /// Takes in `rows`, which are in order and took the place of deleted ones, as far as [`Structure::extend`] has
    /// passed them: all below what `below` says with this locked. If `untidy`, the deleted ones may still be here.
    /// `Node::rows` is held shared. As [`Structure::extend`].
    fn restore(
        &self,
        inode: &Inode<VexFs>,
        rows: &[u64],
        below: &dyn Fn() -> u64,
        untidy: bool,
    ) -> Result;

    /// Writes an image, marked with `stamp`, of what is here, and of `watermark`. Changes wait meanwhile.
    /// Returns its inode, an orphan. What `go_on` says, `ENOSPC`, `ENOMEM`, `EIO`, and what metadata says.
    fn save(
        &self,
        inode: &Inode<VexFs>,
        stamp: Stamp,
        watermark: &AtomicU64,
        go_on: GoOn<'_>,
    ) -> Result<u64>;

    /// Removes those of `rows` that are here but deleted, and takes in those that are not here but live. Those that
    /// came after batch `since` are not here, whatever is in their place. `Node::rows` is held shared. As
    /// [`Structure::extend`].
    fn reconcile(&self, inode: &Inode<VexFs>, rows: Range<u64>, since: u64) -> Result;

    /// Checks everything that can be wrong, about the rows below `watermark`. Changes wait for short times. As
    /// [`Structure::extend`], and `EINTR`.
    fn check(&self, inode: &Inode<VexFs>, watermark: u64, findings: &mut Findings) -> Result;

    /// Decides how to search for `s.k` rows among `candidates`, those below `watermark`. `None` if
    /// comparing all candidates is less work, or k is too great. `EINVAL` for parameters out of range.
    fn plan(
        &self,
        s: &uapi::vexfs_search,
        candidates: &Candidates,
        watermark: u64,
    ) -> Result<Option<Query>>;

    /// Searches for each of the packed queries of `scan` among the rows below `end`. `Node::rows` is held
    /// shared. `EINTR` for a fatal signal, `ENOMEM`, and what reading says.
    fn search(
        &self,
        scan: &Scan<'_>,
        query: &Query,
        end: u64,
        heaps: &mut [TopK<'_>],
        outcome: &mut Outcome,
    ) -> Result;
}

/// A structure into which several threads may insert at the same time, beside searches and changes.
pub(crate) trait Shared: Structure {
    /// Takes in those of `rows` that are live; `end` rows may be read on the way. Those that are here
    /// already stay. [`Structure::reserve`] has made room for them. `Node::rows` is held shared.
    /// `ENOMEM`, `EFBIG`, and what reading says; some rows may be here then.
    fn insert(&self, inode: &Inode<VexFs>, rows: Range<u64>, end: u64) -> Result;
}

/// An index over the rows of a container.
pub(crate) struct Index {
    kind: Kind,
    structure: Arc<dyn Structure>,
    watermark: AtomicU64,
    /// Rows from here on are not in the structure; some of those below may be, from the watermark on.
    claimed: AtomicU64,
    cancelled: AtomicBool,
    /// There is an image of it.
    stored: AtomicBool,
    /// Rows taken in, removed or replaced since it was saved.
    changes: AtomicU64,
    /// It was said in the log that rows could not be taken in.
    warned: AtomicBool,
    /// Deleted rows may be in the structure, for want of memory to remove them.
    untidy: AtomicBool,
}

impl Index {
    fn new(kind: Kind, structure: Arc<dyn Structure>) -> Result<Arc<Self>> {
        let index = Index {
            kind,
            structure,
            watermark: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            stored: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            untidy: AtomicBool::new(false),
        };
        Ok(Arc::new(index, GFP_KERNEL_ACCOUNT)?)
    }

    /// Rows below this were taken in, unless they were deleted before.
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark.load(Ordering::Acquire)
    }

    /// Whether its image on disk says all that it does.
    fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed) && self.changes.load(Ordering::Relaxed) == 0
    }

    /// Bytes that it has taken of the budget.
    fn charged(&self) -> u64 {
        self.structure.account().used()
    }

    /// Makes up for what happened to the first `end` rows since the index was saved, after batch `since`.
    ///
    /// # Errors
    ///
    /// As [`Index::catch_up`].
    fn reconcile(&self, inode: &Inode<VexFs>, end: u64, since: u64, go_on: GoOn<'_>) -> Result {
        let mut first = 0u64;
        while first < end {
            self.may_go_on(go_on)?;
            let last = first.saturating_add(RECONCILED).min(end);
            let reconcile = || self.structure.reconcile(inode, first..last, since);
            steadily(inode, reconcile)?;
            first = last;
        }
        Ok(())
    }

    /// Notes that `rows` rows have changed since the index was saved.
    fn changed(&self, inode: &Inode<VexFs>, rows: u64) {
        if rows > 0 && self.changes.fetch_add(rows, Ordering::Relaxed) == 0 {
            // What is not on the list is only not saved at unmount.
            let _ = inode.volume().register_unsaved(inode.ino());
        }
    }

    /// Takes in rows that took the place of deleted ones: below the watermark searches rely on it. Not to be killed, so
    /// one that can't is dropped.
    fn restore(&self, inode: &Inode<VexFs>, rows: &[u64]) {
        let untidy = self.untidy.load(Ordering::Relaxed);
        for rows in rows.chunks(RESTORED) {
            task::cond_resched();
            self.changed(inode, rows.len() as u64);
            let below = || self.inserted_below();
            let restore = || self.structure.restore(inode, rows, &below, untidy);
            if let Err(e) = inode.node().rows.read(restore) {
                self.lose(inode, "reused", e);
                return;
            }
        }
    }

    /// Drops an index that does not know of rows below its watermark. A build may wait for locks that the caller holds,
    /// so nobody waits for it here.
    fn lose(&self, inode: &Inode<VexFs>, what: &str, e: Error) {
        build::drop_from_memory(inode, self.kind, false);
        pr_warn!(
            "{}: inode {}: the {} index can't follow {what} rows (error {}) and is dropped\n",
            inode.sb().id(),
            inode.ino(),
            self.kind.name(),
            e.to_errno()
        );
    }

    /// Takes in new rows; an index that can't be extended stays as it is.
    fn take_in(&self, inode: &Inode<VexFs>, rows: u64, go_on: GoOn<'_>) {
        let before = self.watermark();
        let caught_up = self.catch_up(inode, rows, 1, go_on);
        self.changed(inode, self.watermark().saturating_sub(before));
        let Err(e) = caught_up else {
            return;
        };
        if e != EINTR && e != ECANCELED && !self.warned.swap(true, Ordering::Relaxed) {
            pr_warn!(
                "{}: inode {}: the {} index ends at row {} (error {}); rows from there on are compared exactly\n",
                inode.sb().id(),
                inode.ino(),
                self.kind.name(),
                self.watermark(),
                e.to_errno()
            );
        }
    }
}

/// Rows that are taken in at once that took the place of deleted ones, while `Node::rows` is held.
const RESTORED: usize = 256;

/// Rows that are reconciled while `Node::rows` is held.
const RECONCILED: u64 = 1024;

/// Why training was asked to stop: by a fatal signal, or else somebody dropped the index.
fn stopped() -> Error {
    if task::fatal_signal_pending() {
        EINTR
    } else {
        ECANCELED
    }
}

/// Runs `f` while rows that are live when it looks keep their bytes.
fn steadily<R>(inode: &Inode<VexFs>, f: impl FnOnce() -> R) -> R {
    let _reading = Reading::begin(inode);
    inode.node().rows.read(f)
}

/// Whether a row is there and not deleted.
fn is_live(inode: &Inode<VexFs>, row: u64) -> bool {
    inode.node().container.lock().is_live(row)
}

/// The index that a search for `kind`, `VEXFS_INDEX_*`, uses; `None` for an exact search. Loads it if need be.
///
/// # Errors
///
/// `ENOENT` if there is no index of the kind, `EINVAL` if that is no kind.
pub(crate) fn for_search(inode: &Inode<VexFs>, kind: u32) -> Result<Option<Used>> {
    if kind == uapi::VEXFS_INDEX_EXACT {
        return Ok(None);
    }
    checkpoint::load(inode, kind)?;
    checkpoint::rebuild(inode, kind);
    container::with(inode, |c| match kind {
        uapi::VEXFS_INDEX_AUTO => {
            let mut all = Kind::ALL.into_iter();
            Ok(all.find_map(|kind| c.indexes.slot(kind).ready()))
        }
        kind => {
            let kind = Kind::from_uapi(kind).ok_or(EINVAL)?;
            let slot = c.indexes.slot(kind);
            match slot.ready() {
                Some(ready) => Ok(Some(ready)),
                // It is there, and can't be used now: exact hits are hits too.
                None if slot.record.is_some() => Ok(None),
                None => Err(ENOENT),
            }
        }
    })
    .map(|used| used.map(Used::searched))
}

/// Keeps the indexes in step with rows that were inserted, those in `reused` in the place of deleted ones, and rows
/// that they replace. The inode is locked exclusively, and the batch is published.
pub(crate) fn inserted(inode: &Inode<VexFs>, reused: &[u64], replaced: &[u64]) {
    let (indexes, rows) = in_memory(inode);
    let stop = Stop::with_task();
    for (index, _) in &indexes {
        let Some(index) = index else {
            continue;
        };
        index.take_in(inode, rows, &|| stop.check());
    }
    restored(inode, reused);
    deleted(inode, replaced);
    if replaced.is_empty() {
        settled(inode);
    }
    build::outgrown(inode);
}

/// Takes in rows in the place of deleted ones. Not inlined: what comes after it wants the stack.
#[inline(never)]
fn restored(inode: &Inode<VexFs>, reused: &[u64]) {
    if reused.is_empty() {
        return;
    }
    for (ready, building) in &in_memory(inode).0 {
        for index in [ready.as_deref(), building.as_deref()]
            .into_iter()
            .flatten()
        {
            index.restore(inode, reused);
        }
    }
}

/// Removes deleted rows from the indexes. The inode is locked exclusively, and the tombstones are
/// published.
pub(crate) fn deleted(inode: &Inode<VexFs>, rows: &[u64]) {
    if rows.is_empty() {
        return;
    }
    for (ready, building) in &in_memory(inode).0 {
        for index in [ready.as_deref(), building.as_deref()]
            .into_iter()
            .flatten()
        {
            // Searches leave deleted rows out anyway; what could not be tidied up costs time.
            if index.structure.remove(inode, rows).is_err() {
                index.untidy.store(true, Ordering::Relaxed);
            }
            index.changed(inode, rows.len() as u64);
        }
    }
    settled(inode);
}

/// Notes that the indexes in memory know of the last batch, and saves those that have changed much.
fn settled(inode: &Inode<VexFs>) {
    {
        let container: &mut Container = &mut inode.node().container.lock();
        container.indexed = container.area.batch_done;
    }
    checkpoint::save_changed(inode);
}

/// Runs `f`, which overwrites the rows `rows` in place, and has the indexes follow. The inode is locked
/// exclusively; searches wait.
///
/// # Errors
///
/// What `f` returns; before that, what metadata says.
pub(crate) fn overwriting(
    inode: &Inode<VexFs>,
    rows: Range<u64>,
    f: impl FnOnce() -> Result,
) -> Result {
    let follow = || {
        let written = f();
        // Some rows may be new even if not all are.
        overwritten(inode, rows);
        written
    };
    checkpoint::overwriting(inode, || inode.node().rows.write(follow))
}

fn overwritten(inode: &Inode<VexFs>, rows: Range<u64>) {
    for (ready, building) in &in_memory(inode).0 {
        for index in [ready.as_deref(), building.as_deref()]
            .into_iter()
            .flatten()
        {
            let end = rows.end.min(index.inserted_below());
            index.changed(inode, end.saturating_sub(rows.start));
            let Err(e) = index.structure.replace(inode, rows.start..end) else {
                continue;
            };
            // What is on disk is marked already.
            index.lose(inode, "overwritten", e);
            break;
        }
    }
}

/// For each kind what is in memory, for searches and being built.
type InMemory = [(Option<Used>, Option<Arc<Index>>); Kind::ALL.len()];

/// The indexes in memory, and how many rows the container has.
fn in_memory(inode: &Inode<VexFs>) -> (InMemory, u64) {
    let container: &mut Container = &mut inode.node().container.lock();
    let indexes = Kind::ALL.map(|kind| container.indexes.slot(kind).in_memory());
    (indexes, container.area.rows)
}
