// SPDX-License-Identifier: GPL-2.0

//! Indexes of containers: building, keeping in step with the rows, dropping.
//!
//! An index has a watermark: rows below it were taken in, rows from it on a search compares exactly.
//! So an index is right at any time, and only slower while it is behind. A build and every batch that
//! inserts move the watermark up; who is interrupted leaves the rest to the next one.
//!
//! Lock order: inode lock > `Node::rows` > `Index::writer` > `Node::container`. Rows do not change
//! while `Node::rows` is held, so a row and its code agree.

use crate::container::{self, Container};
use crate::index_codes::{Arithmetic, Codec, Vectors};
use crate::index_store::{Budget, Memory, Work};
use crate::VexFs;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::{self, Counts, Params, RepairMemory, Store};
use vexfs_uapi as uapi;
use vexfs_vfs::{task, Inode};

/// Rows taken in while `Node::rows` and the writer's lock are held: some milliseconds.
const PIECE: u64 = 16;
/// Slots swept for each row that is deleted, once a 1/[`SWEEP_SHARE`] of the slots waits for it.
const SWEEP_PER_ROW: u32 = 64;
const SWEEP_SHARE: u32 = 32;
/// Deletes after which paths are repaired: a 1/[`REPAIR_SHARE`] of the rows.
const REPAIR_SHARE: u32 = 8;
/// Seed of the levels of rows. The same for all, so that equal rows give equal graphs.
const SEED: u64 = 1;
/// Defaults of a build.
const M: u32 = 16;
const EF_CONSTRUCTION: u32 = 200;
/// Scratch memories of searches that are kept for the next ones.
const IDLE: usize = 8;

/// The indexes of a container.
pub(crate) struct Indexes {
    /// The graph that searches use.
    pub(crate) hnsw: Option<Arc<Index>>,
    /// One that is being built. Deletes and overwritten rows are told to it too.
    building: Option<Arc<Index>>,
}

impl Indexes {
    pub(crate) const fn new() -> Self {
        Indexes {
            hnsw: None,
            building: None,
        }
    }
}

/// What a build is asked for; 0 for a default.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) m: u32,
    pub(crate) ef_construction: u32,
    /// Builds anew where there is one, which serves searches meanwhile.
    pub(crate) replace: bool,
}

/// A graph index over the rows of a container.
#[pin_data]
pub(crate) struct Index {
    pub(crate) graph: hnsw::Index<Memory>,
    pub(crate) codec: Codec,
    watermark: AtomicU64,
    cancelled: AtomicBool,
    /// It was said in the log that rows could not be taken in.
    warned: AtomicBool,
    /// Held by who changes the graph.
    #[pin]
    writer: Mutex<Writer>,
    #[pin]
    idle: Mutex<KVec<Scratch>>,
}

/// Scratch memory of a search.
pub(crate) struct Scratch {
    pub(crate) work: KBox<Work>,
    pub(crate) vectors: Vectors,
}

impl Scratch {
    fn new(codec: &Codec) -> Result<Self> {
        Ok(Scratch {
            work: KBox::new(Work::new(codec.code_words())?, GFP_KERNEL_ACCOUNT)?,
            vectors: Vectors::new(codec)?,
        })
    }

    fn bytes(&self) -> u64 {
        self.work.bytes().saturating_add(self.vectors.bytes())
    }
}

/// What who changes the graph needs, one at a time.
struct Writer {
    scratch: Scratch,
    /// Where the next sweep begins.
    swept: u32,
    /// Rows deleted since paths were last repaired.
    deleted: u32,
}

/// What statistics say about an index.
pub(crate) struct Summary {
    pub(crate) params: Params,
    pub(crate) counts: Counts,
    pub(crate) bytes: u64,
    pub(crate) watermark: u64,
    /// `VEXFS_INDEX_*`.
    pub(crate) state: u32,
    pub(crate) digest: u64,
}

fn errno(error: hnsw::Error<Error>) -> Error {
    match error {
        hnsw::Error::Full | hnsw::Error::Workspace => ENOMEM,
        hnsw::Error::Exists => EEXIST,
        hnsw::Error::Missing => ENOENT,
        hnsw::Error::Damaged => EIO,
        hnsw::Error::Caller(e) => e,
    }
}

impl Index {
    fn new(budget: Arc<Budget>, codec: Codec, params: Params, rows: u64) -> Result<Arc<Self>> {
        // What the caller chose is good, so it is the code that is too long.
        let layout = params.layout().map_err(|_| EOPNOTSUPP)?;
        let expected = u32::try_from(rows).map_err(|_| EFBIG)?;
        let memory = Memory::new(budget, layout, expected)?;
        let graph = hnsw::Index::new(params, memory).map_err(|_| EINVAL)?;
        let scratch = Scratch::new(&codec)?;
        let idle = KVec::with_capacity(IDLE, GFP_KERNEL_ACCOUNT)?;
        let writer = Writer {
            scratch,
            swept: 0,
            deleted: 0,
        };
        Arc::pin_init(
            try_pin_init!(Index {
                graph,
                codec,
                watermark: AtomicU64::new(0),
                cancelled: AtomicBool::new(false),
                warned: AtomicBool::new(false),
                writer <- new_mutex!(writer, "vexfs_index_writer"),
                idle <- new_mutex!(idle, "vexfs_index_idle"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Rows below this were taken in, unless they were deleted before.
    pub(crate) fn watermark(&self) -> u64 {
        self.watermark.load(Ordering::Acquire)
    }

    /// Runs `f` with scratch memory.
    pub(crate) fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> Result<R>) -> Result<R> {
        let idle = self.idle.lock().pop();
        let mut scratch = match idle {
            Some(scratch) => scratch,
            None => Scratch::new(&self.codec)?,
        };
        let result = f(&mut scratch);
        let mut idle = self.idle.lock();
        if idle.len() < idle.capacity() {
            let _ = idle.push_within_capacity(scratch);
        }
        result
    }

    /// Takes in the rows up to `end`. The inode may be locked.
    ///
    /// # Errors
    ///
    /// `EINTR`, `ECANCELED` if the index was dropped, `ENOMEM`, `EFBIG`, and what reading says. What
    /// was done until then stays.
    fn catch_up(&self, inode: &Inode<VexFs>, end: u64) -> Result {
        while self.watermark() < end {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(ECANCELED);
            }
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            inode.node().rows.read(|| {
                let mut writer = self.writer.lock();
                let first = self.watermark();
                let last = first.saturating_add(PIECE).min(end);
                self.extend(inode, &mut writer, first, last, end)
            })?;
        }
        Ok(())
    }

    /// Takes in the rows `first..last`; `end` of them may be read.
    fn extend(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        first: u64,
        last: u64,
        end: u64,
    ) -> Result {
        let memory = self.graph.store();
        // Room for nodes is made where no slot of a deleted row is free.
        memory.grow(0, last)?;
        let Scratch { work, vectors } = &mut writer.scratch;
        let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
        for row in first..last {
            if is_live(inode, row) {
                arithmetic.set_row(row, end)?;
                self.insert(work, &mut arithmetic, row)?;
                // Who deleted it meanwhile may not have found it.
                if !is_live(inode, row) {
                    self.remove(work, &mut arithmetic, row)?;
                }
            }
            self.watermark
                .store(row.saturating_add(1), Ordering::Release);
        }
        Ok(())
    }

    /// Inserts the row that is the vector of `arithmetic`. If it is there already, that is fine.
    fn insert(&self, work: &mut Work, arithmetic: &mut Arithmetic<'_>, row: u64) -> Result {
        let memory = self.graph.store();
        let candidates = self.graph.params().ef_construction as usize;
        loop {
            work.reserve(memory, candidates)?;
            match self
                .graph
                .insert(&mut work.lend(candidates), arithmetic, row)
            {
                Ok(_) | Err(hnsw::Error::Exists) => return Ok(()),
                Err(hnsw::Error::Full) => {
                    let nodes = memory.nodes().checked_add(1).ok_or(EFBIG)?;
                    memory.grow(nodes, row.saturating_add(1))?;
                }
                Err(e) => return Err(errno(e)),
            }
        }
    }

    /// Removes a row. If it is not there, that is fine.
    fn remove(&self, work: &mut Work, arithmetic: &mut Arithmetic<'_>, row: u64) -> Result {
        if self.graph.store().place(row).is_none() {
            return Ok(());
        }
        work.reserve(self.graph.store(), 0)?;
        match self.graph.delete(&mut work.lend(0), arithmetic, row) {
            Ok(()) | Err(hnsw::Error::Missing) => Ok(()),
            Err(e) => Err(errno(e)),
        }
    }

    /// Removes rows that were deleted, and tidies up in proportion.
    fn remove_all(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result {
        for rows in rows.chunks(PIECE as usize) {
            task::cond_resched();
            let mut writer = self.writer.lock();
            let Writer {
                scratch: Scratch { work, vectors },
                swept,
                deleted,
            } = &mut *writer;
            let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
            for row in rows {
                self.remove(work, &mut arithmetic, *row)?;
            }
            let number = u32::try_from(rows.len()).unwrap_or(u32::MAX);
            *deleted = deleted.saturating_add(number);
            let counts = self.graph.counts();
            if counts.deleted > counts.used / SWEEP_SHARE {
                let slots = number.saturating_mul(SWEEP_PER_ROW);
                let next = self.graph.sweep(&mut arithmetic, *swept, slots);
                *swept = next.map_err(errno)?.unwrap_or(0);
            }
            if *deleted > counts.live / REPAIR_SHARE {
                self.repair(work, &mut arithmetic)?;
                *deleted = 0;
            }
        }
        Ok(())
    }

    /// Makes sure that paths lead to all rows.
    fn repair(&self, work: &mut Work, arithmetic: &mut Arithmetic<'_>) -> Result {
        let used = self.graph.counts().used;
        let candidates = self.graph.params().ef_construction as usize;
        work.reserve(self.graph.store(), candidates)?;
        let mut queue = KVVec::from_elem(0u32, used as usize, GFP_KERNEL)?;
        let mut visited = KVVec::from_elem(0u64, visited_words(used), GFP_KERNEL)?;
        let mut memory = RepairMemory {
            queue: &mut queue,
            visited: &mut visited,
        };
        let mut work = work.lend(candidates);
        let repaired = self.graph.repair(&mut work, &mut memory, arithmetic);
        repaired.map(|_| ()).map_err(errno)
    }

    /// Replaces the codes of rows that were overwritten. `Node::rows` is held exclusively.
    fn reindex(&self, inode: &Inode<VexFs>, rows: core::ops::Range<u64>) -> Result {
        let mut writer = self.writer.lock();
        let Scratch { work, vectors } = &mut writer.scratch;
        let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
        let end = rows.end.min(self.watermark());
        for row in rows.start..end {
            task::cond_resched();
            if is_live(inode, row) {
                arithmetic.set_row(row, end)?;
                self.remove(work, &mut arithmetic, row)?;
                self.insert(work, &mut arithmetic, row)?;
            }
        }
        Ok(())
    }

    /// Bytes of memory that the index holds.
    fn bytes(&self) -> u64 {
        let scratch = self.writer.lock().scratch.bytes();
        let idle = self.idle.lock();
        let idle = idle.iter().map(Scratch::bytes).fold(0, u64::saturating_add);
        (size_of::<Index>() as u64)
            .saturating_add(self.graph.store().bytes())
            .saturating_add(self.codec.bytes())
            .saturating_add(scratch)
            .saturating_add(idle)
    }
}

/// Whether a row is there and not deleted.
fn is_live(inode: &Inode<VexFs>, row: u64) -> bool {
    inode.node().container.lock().is_live(row)
}

/// Builds a graph over the rows of a container, which searches then use. Not with the inode locked:
/// searches and batches go on meanwhile.
///
/// # Errors
///
/// `EEXIST` if there is one that is not to be replaced, `EBUSY` if one is being built, `EINVAL` for bad
/// parameters, `EOPNOTSUPP` if rows are too long, `ECANCELED` if it was dropped meanwhile; `EINTR`,
/// `ENOMEM`, and what reading says. Then all is as before.
pub(crate) fn build(inode: &Inode<VexFs>, request: &Request) -> Result {
    let or = |value, default| if value == 0 { default } else { value };
    let params = Params {
        m: or(request.m, M),
        ef_construction: or(request.ef_construction, EF_CONSTRUCTION),
        code_words: 1,
        seed: SEED,
    };
    // Bad parameters are told before anything is read.
    params.layout().map_err(|_| EINVAL)?;
    let may_build = |c: &Container| {
        if c.indexes.hnsw.is_some() && !request.replace {
            return Err(EEXIST);
        }
        match c.indexes.building {
            Some(_) => Err(EBUSY),
            None => Ok(c.area),
        }
    };
    let area = container::with(inode, |c| may_build(c))?;
    let codec = Codec::new(inode, &area, area.rows, |row| is_live(inode, row))?;
    let params = Params {
        code_words: u32::try_from(codec.code_words())?,
        ..params
    };
    let budget = &inode.volume().index_memory;
    let index = Index::new(budget.clone(), codec, params, area.rows)?;
    // All at once, so that what does not fit is known before it takes time.
    let live = u32::try_from(area.live).map_err(|_| EFBIG)?;
    let memory = index.graph.store();
    memory.grow(live, area.rows).inspect_err(|_| {
        let (needs, left) = (memory.bytes_with(live, area.rows), budget.left());
        let (id, ino) = (inode.sb().id(), inode.ino());
        if needs > left {
            pr_warn!("{id}: inode {ino}: an index over {live} rows needs {needs} bytes, index_memory= leaves {left}\n");
        } else {
            pr_warn!("{id}: inode {ino}: there is no memory for an index over {live} rows, which needs {needs} bytes\n");
        }
    })?;
    container::with(inode, |c| {
        may_build(c)?;
        c.indexes.building = Some(index.clone());
        Ok(())
    })?;
    let built = index.catch_up(inode, area.rows);
    let mut container = inode.node().container.lock();
    let mine = |other: &Option<Arc<Index>>| {
        other
            .as_ref()
            .is_some_and(|other| Arc::ptr_eq(other, &index))
    };
    let indexes = &mut container.indexes;
    let still = mine(&indexes.building);
    let building = if still { indexes.building.take() } else { None };
    let outcome = match (&built, still) {
        (Ok(()), true) => Ok(core::mem::replace(&mut indexes.hnsw, building)),
        (Err(e), _) => Err(*e),
        (Ok(()), false) => Err(ECANCELED),
    };
    let rows = container.area.rows;
    drop(container);
    // What was replaced is freed here, not under the lock.
    drop(outcome?);
    // Rows that came meanwhile. The index is right without them; the next batch takes them in as well.
    take_in(inode, &index, rows);
    Ok(())
}

/// Takes in new rows; an index that can't be extended stays as it is.
fn take_in(inode: &Inode<VexFs>, index: &Index, rows: u64) {
    let Err(e) = index.catch_up(inode, rows) else {
        return;
    };
    if e != EINTR && e != ECANCELED && !index.warned.swap(true, Ordering::Relaxed) {
        pr_warn!(
            "{}: inode {}: the index ends at row {} (error {}); rows from there on are compared exactly\n",
            inode.sb().id(),
            inode.ino(),
            index.watermark(),
            e.to_errno()
        );
    }
}

/// Drops the graph, and one that is being built.
///
/// # Errors
///
/// `ENOENT` if there is none.
pub(crate) fn drop_hnsw(inode: &Inode<VexFs>) -> Result {
    let dropped = container::with(inode, |c| {
        Ok((c.indexes.hnsw.take(), c.indexes.building.take()))
    })?;
    let mut any = false;
    for index in [dropped.0, dropped.1].into_iter().flatten() {
        index.cancelled.store(true, Ordering::Relaxed);
        any = true;
    }
    if any {
        Ok(())
    } else {
        Err(ENOENT)
    }
}

/// The graph that searches use.
pub(crate) fn hnsw(inode: &Inode<VexFs>) -> Result<Option<Arc<Index>>> {
    container::with(inode, |c| Ok(c.indexes.hnsw.clone()))
}

/// How many indexes a container has.
pub(crate) fn count(container: &Container) -> u32 {
    u32::from(container.indexes.hnsw.is_some())
}

/// What the graph of a container is; of one that is being built, if there is no other. With `digest`
/// a checksum of the graph.
///
/// # Errors
///
/// `ENOENT` if there is none.
pub(crate) fn summary(inode: &Inode<VexFs>, digest: bool) -> Result<Summary> {
    let (index, state) =
        container::with(inode, |c| match (&c.indexes.hnsw, &c.indexes.building) {
            (Some(ready), None) => Ok((ready.clone(), uapi::VEXFS_INDEX_READY)),
            (Some(ready), Some(_)) => Ok((ready.clone(), uapi::VEXFS_INDEX_REBUILDING)),
            (None, Some(building)) => Ok((building.clone(), uapi::VEXFS_INDEX_BUILDING)),
            (None, None) => Err(ENOENT),
        })?;
    let digest = if digest {
        // Nobody changes the graph meanwhile.
        let _writer = index.writer.lock();
        index.graph.digest()
    } else {
        0
    };
    Ok(Summary {
        params: *index.graph.params(),
        counts: index.graph.counts(),
        bytes: index.bytes(),
        watermark: index.watermark(),
        state,
        digest,
    })
}

/// Keeps the index in step with rows that were inserted, and rows that they replace. The inode is
/// locked exclusively, and the batch is published.
pub(crate) fn inserted(inode: &Inode<VexFs>, replaced: &[u64]) {
    let (index, rows) = {
        let container = inode.node().container.lock();
        (container.indexes.hnsw.clone(), container.area.rows)
    };
    if let Some(index) = &index {
        take_in(inode, index, rows);
    }
    deleted(inode, replaced);
}

/// Removes deleted rows from the indexes. The inode is locked exclusively, and the tombstones are
/// published.
pub(crate) fn deleted(inode: &Inode<VexFs>, rows: &[u64]) {
    if rows.is_empty() {
        return;
    }
    for index in all(inode).iter().flatten() {
        // Searches leave deleted rows out anyway; what could not be tidied up costs time.
        let _ = index.remove_all(inode, rows);
    }
}

/// Follows rows that were overwritten. The inode is locked, and `Node::rows` is held exclusively.
pub(crate) fn overwritten(inode: &Inode<VexFs>, rows: core::ops::Range<u64>) {
    for index in all(inode).iter().flatten() {
        let Err(e) = index.reindex(inode, rows.clone()) else {
            continue;
        };
        // Searches may miss these rows from now on.
        let _ = drop_hnsw(inode);
        pr_warn!(
            "{}: inode {}: the index can't follow overwritten rows (error {}) and is dropped\n",
            inode.sb().id(),
            inode.ino(),
            e.to_errno()
        );
        return;
    }
}

/// The graph that searches use, and the one that is being built.
fn all(inode: &Inode<VexFs>) -> [Option<Arc<Index>>; 2] {
    let container = inode.node().container.lock();
    [
        container.indexes.hnsw.clone(),
        container.indexes.building.clone(),
    ]
}
