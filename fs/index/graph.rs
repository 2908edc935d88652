// SPDX-License-Identifier: GPL-2.0

//! A graph index over the rows of a container: HNSW, see `vexfs_ann::hnsw`.

use super::budget::{Account, Charge};
use super::catch_up::GoOn;
use super::codes::{self, Arithmetic, Codec, Vectors};
use super::graph_memory::{Memory, Work};
use super::image::Reader as Image;
use super::loaded::Difference;
use super::pool::{self, Idle, Pool, CANDIDATES};
use super::search::Outcome;
use super::{
    graph_check, graph_image, graph_search, is_live, Counts, Parameters, Query, Shared, Stamp,
    Structure,
};
use crate::candidates::Candidates;
use crate::element;
use crate::scorer::Scan;
use crate::VexFs;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use libvexfs::format::VectorArea;
use vexfs_ann::hnsw::params::{visited_words, Defaults};
use vexfs_ann::hnsw::{self, OrderMemory, Params, RepairMemory, Store, NOWHERE};
use vexfs_ann::topk::TopK;
use vexfs_simd_ffi::Elem;
use vexfs_uapi::{self as uapi, Findings};
use vexfs_vfs::{task, Inode};

/// Rows taken in while `Node::rows` and the writer's lock are held: some milliseconds.
const PIECE: u64 = 16;
/// Rows whose codes are checked while these are held.
const CHECKED: u64 = 64;
/// Slots swept for each row that is deleted, once a 1/[`SWEEP_SHARE`] of the slots waits for it.
const SWEEP_PER_ROW: u32 = 64;
const SWEEP_SHARE: u32 = 32;
/// Deletes after which paths are repaired: a 1/[`REPAIR_SHARE`] of the rows.
const REPAIR_SHARE: u32 = 8;
/// Rows from which on codes are worth a centre.
const CENTRED_ROWS: u64 = 256;
/// Seed of the levels of rows. The same for all, so that equal rows give equal graphs.
pub(super) const SEED: u64 = 1;
/// Defaults of a build.
const M: u32 = 16;
const EF_CONSTRUCTION: u32 = 200;

/// A graph over the rows of a container.
#[pin_data]
pub(super) struct Graph {
    account: Arc<Account>,
    pub(super) graph: hnsw::Index<Memory>,
    pub(super) codec: Codec,
    /// Of the codec.
    _charge: Charge,
    /// Held by who changes the graph.
    #[pin]
    writer: Mutex<Writer>,
    #[pin]
    pool: Pool<Scratch>,
}

/// Scratch memory of a search.
pub(super) struct Scratch {
    pub(super) vectors: Vectors,
    /// Has the charge, so it goes last.
    pub(super) work: KBox<Work>,
}

impl Scratch {
    fn new(account: &Arc<Account>, codec: &Codec) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let vectors = Vectors::new(&mut charge, codec)?;
        let work = Work::new(charge, codec.code_words())?;
        Ok(Scratch {
            vectors,
            work: KBox::new(work, GFP_KERNEL_ACCOUNT)?,
        })
    }
}

impl pool::Scratch for Scratch {
    fn bytes(&self) -> u64 {
        self.work.charged()
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

/// The graph's parameters and the codes of `nbits`, with defaults filled in.
///
/// # Errors
///
/// `EINVAL` for a bad parameter, `EOPNOTSUPP` if rows are too long.
fn params(parameters: &Parameters, area: &VectorArea) -> Result<(Params, u32)> {
    let Parameters {
        m,
        ef_construction,
        nbits,
        nlist,
        nsub,
        ntables,
    } = *parameters;
    if nlist | nsub | ntables != 0 {
        return Err(EINVAL);
    }
    let default = match element::elem(area)? {
        Elem::Binary => Defaults { bits: 1, m: M },
        _ => {
            let row_bytes = u32::try_from(element::row_bytes(area)?)?;
            let words = |bits| codes::code_words(area, bits).unwrap_or(u32::MAX);
            Defaults::of(area.dim, row_bytes, words)
        }
    };
    let or = |value, default| if value == 0 { default } else { value };
    let bits = or(nbits, default.bits);
    let fewest = if bits == default.bits { default.m } else { M };
    let mut params = Params {
        m: or(m, fewest),
        ef_construction: or(ef_construction, EF_CONSTRUCTION),
        code_words: 1,
        seed: SEED,
    };
    params.layout().map_err(|_| EINVAL)?;
    params.code_words = codes::code_words(area, bits)?;
    // What the caller chose is good, so it is the code that is too long.
    params.layout().map_err(|_| EOPNOTSUPP)?;
    Ok((params, bits))
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

impl Graph {
    /// Checks what a build is asked for, as [`Graph::new`] does.
    pub(super) fn check(parameters: &Parameters, area: &VectorArea) -> Result {
        params(parameters, area).map(|_| ())
    }

    /// An empty graph for the rows of `inode` that `takes` says yes to; reads a sample of them.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if rows are too long; what `go_on` says, `EFBIG`, `ENOMEM`, and what reading says.
    pub(super) fn new(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        parameters: &Parameters,
        takes: impl Fn(u64) -> bool,
        go_on: GoOn<'_>,
    ) -> Result<Arc<Self>> {
        let (params, bits) = params(parameters, area)?;
        let codec = Codec::new(inode, area, bits, area.rows, takes, go_on)?;
        let layout = params.layout().map_err(|_| EINVAL)?;
        let expected = u32::try_from(area.rows).map_err(|_| EFBIG)?;
        let account = Account::new(&inode.volume().index_memory)?;
        let memory = Memory::new(account.clone(), layout, expected)?;
        let graph = hnsw::Index::new(params, memory).map_err(|_| EINVAL)?;
        Graph::with(account, graph, codec)
    }

    /// The graph of an image, over the rows of `inode`.
    ///
    /// # Errors
    ///
    /// `EFSCORRUPTED`, `EFSBADCRC` with a line in the log, if it is damaged; `ENOMEM`, `EIO`, `EINTR`.
    pub(super) fn load(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        image: &mut Image<'_>,
    ) -> Result<Arc<Self>> {
        let mut parameters = image.header.parameters;
        if parameters.nbits == 0 {
            parameters.nbits = codes::bits_once(area)?;
        }
        let (params, bits) =
            params(&parameters, area).map_err(|_| image.corrupt("has bad parameters"))?;
        let centre = graph_image::read_centre(image, codes::centre_bytes(area, bits)?)?;
        let codec = Codec::around(inode, area, bits, centre)?;
        let layout = params.layout().map_err(|_| EINVAL)?;
        let expected = u32::try_from(area.rows).map_err(|_| EFBIG)?;
        let account = Account::opened(&inode.volume().index_memory)?;
        let memory = Memory::new(account.clone(), layout, expected)?;
        let graph = graph_image::read(image, params, memory, area.rows)?;
        Graph::with(account, graph, codec)
    }

    fn with(account: Arc<Account>, graph: hnsw::Index<Memory>, codec: Codec) -> Result<Arc<Self>> {
        let scratch = Scratch::new(&account, &codec)?;
        let charge = Charge::new(account.clone(), codec.bytes())?;
        let writer = Writer {
            scratch,
            swept: 0,
            deleted: 0,
        };
        let graph = Arc::pin_init(
            try_pin_init!(Graph {
                account,
                graph,
                codec,
                _charge: charge,
                writer <- new_mutex!(writer, "vexfs_graph_writer"),
                pool <- Pool::new()?,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(graph)
    }

    /// Scratch memory, charged to `account`, for inserts and searches among `nodes` nodes.
    fn scratch_for(&self, account: &Arc<Account>, nodes: u32) -> Result<Scratch> {
        let mut scratch = Scratch::new(account, &self.codec)?;
        let candidates = self.graph.params().ef_construction as usize;
        scratch.work.reserve(nodes, candidates.max(CANDIDATES))?;
        Ok(scratch)
    }

    /// Inserts the row that is the vector of `arithmetic`. If it is there already, that is fine. The
    /// writer's lock is held, or `grow`, which makes room for so many nodes and places, takes it.
    fn insert(
        &self,
        work: &mut Work,
        arithmetic: &mut Arithmetic<'_>,
        row: u64,
        grow: impl Fn(u32, u64) -> Result,
    ) -> Result {
        let memory = self.graph.store();
        let candidates = self.graph.params().ef_construction as usize;
        loop {
            work.reserve(memory.nodes(), candidates)?;
            match self
                .graph
                .insert(&mut work.lend(candidates), arithmetic, row)
            {
                Ok(_) | Err(hnsw::Error::Exists) => return Ok(()),
                Err(hnsw::Error::Full) => {
                    let nodes = memory.nodes().checked_add(1).ok_or(EFBIG)?;
                    grow(nodes, row.saturating_add(1))?;
                }
                Err(e) => return Err(errno(e)),
            }
        }
    }

    /// Inserts a row if it is live; `end` rows may be read on the way. As for [`Graph::insert`].
    fn take_in(
        &self,
        inode: &Inode<VexFs>,
        work: &mut Work,
        arithmetic: &mut Arithmetic<'_>,
        row: u64,
        end: u64,
        grow: impl Fn(u32, u64) -> Result,
    ) -> Result {
        if !is_live(inode, row) {
            return Ok(());
        }
        arithmetic.set_row(row, end)?;
        self.insert(work, arithmetic, row, grow)?;
        // Who deleted it meanwhile may not have found it.
        if !is_live(inode, row) {
            self.remove_one(work, arithmetic, row)?;
        }
        Ok(())
    }

    /// Removes a row. If it is not there, that is fine.
    fn remove_one(&self, work: &mut Work, arithmetic: &mut Arithmetic<'_>, row: u64) -> Result {
        if self.graph.store().place(row).is_none() {
            return Ok(());
        }
        work.reserve(self.graph.store().nodes(), 0)?;
        match self.graph.delete(&mut work.lend(0), arithmetic, row) {
            Ok(()) | Err(hnsw::Error::Missing) => Ok(()),
            Err(e) => Err(errno(e)),
        }
    }

    /// Makes sure that paths lead to all rows. Its memory is what [`Memory::spare_with`] says, so that no index can't
    /// be saved for want of room under `index_memory=`.
    fn repair(&self, work: &mut Work, arithmetic: &mut Arithmetic<'_>) -> Result {
        let used = self.graph.counts().used;
        let candidates = self.graph.params().ef_construction as usize;
        work.reserve(self.graph.store().nodes(), candidates)?;
        let mut queue = KVVec::from_elem(0u32, used as usize, GFP_KERNEL | __GFP_NOWARN)?;
        let mut parents = KVVec::from_elem(0u32, used as usize, GFP_KERNEL | __GFP_NOWARN)?;
        let mut visited = KVVec::from_elem(0u64, visited_words(used), GFP_KERNEL | __GFP_NOWARN)?;
        let mut memory = RepairMemory {
            queue: &mut queue,
            parents: &mut parents,
            visited: &mut visited,
        };
        let mut work = work.lend(candidates);
        let repaired = self.graph.repair(&mut work, &mut memory, arithmetic);
        repaired.map(|_| ()).map_err(errno)
    }
}

impl Shared for Graph {
    fn insert(&self, inode: &Inode<VexFs>, rows: Range<u64>, end: u64) -> Result {
        let grow = |nodes, rows| {
            let _writer = self.writer.lock();
            self.graph.store().grow(nodes, rows)
        };
        self.pool.with(
            || Scratch::new(&self.account, &self.codec),
            |scratch| {
                let Scratch { work, vectors } = scratch;
                let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
                for row in rows {
                    self.take_in(inode, work, &mut arithmetic, row, end, grow)?;
                }
                Ok(())
            },
        )
    }
}

impl Structure for Graph {
    fn parameters(&self) -> Parameters {
        let params = self.graph.params();
        Parameters {
            m: params.m,
            ef_construction: params.ef_construction,
            nbits: self.codec.bits(),
            ..Parameters::default()
        }
    }

    fn counts(&self) -> Counts {
        let counts = self.graph.counts();
        Counts {
            live: u64::from(counts.live),
            deleted: u64::from(counts.deleted),
        }
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn scratch(&self) -> &dyn Idle {
        &self.pool
    }

    fn digest(&self) -> u64 {
        let _writer = self.writer.lock();
        self.graph.digest()
    }

    fn bytes_with(&self, live: u32, rows: u64) -> Result<u64> {
        let store = self.graph.store();
        let measure = self.account.measuring()?;
        let scratch = self.scratch_for(&measure, store.nodes_with(live))?;
        let small = Scratch::new(&measure, &self.codec)?;
        let bytes = scratch.work.charged();
        // The writer's grows by as much.
        let grown = bytes.saturating_sub(small.work.charged());
        Ok(store
            .bytes_with(live, rows)
            .saturating_add(store.spare_with(live))
            .saturating_add(bytes)
            .saturating_add(grown))
    }

    fn reserve(&self, live: u32, rows: u64) -> Result {
        self.graph.store().grow(live, rows)?;
        let nodes = self.graph.store().nodes();
        self.pool.prepare(|| self.scratch_for(&self.account, nodes))
    }

    /// Made for no rows, it has codes around nothing.
    fn outgrown(&self) -> Option<Parameters> {
        let is_outgrown = self.codec.lacks_centre() && self.counts().live >= CENTRED_ROWS;
        is_outgrown.then(|| self.parameters())
    }

    fn extend(
        &self,
        inode: &Inode<VexFs>,
        watermark: &AtomicU64,
        end: u64,
        _threads: u32,
    ) -> Result {
        let mut writer = self.writer.lock();
        let first = watermark.load(Ordering::Acquire);
        let last = first.saturating_add(PIECE).min(end);
        let grow = |nodes, rows| self.graph.store().grow(nodes, rows);
        // Room for nodes is made where no slot of a deleted row is free.
        grow(0, last)?;
        let Scratch { work, vectors } = &mut writer.scratch;
        let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
        for row in first..last {
            self.take_in(inode, work, &mut arithmetic, row, end, grow)?;
            watermark.store(row.saturating_add(1), Ordering::Release);
        }
        Ok(())
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    /// Neighbours come to lie near each other. Its memory is what [`Memory::spare_with`] says.
    fn arrange(&self, go_on: GoOn<'_>) -> Result {
        let mut writer = self.writer.lock();
        let used = self.graph.counts().used as usize;
        let mut stack = KVVec::from_elem(0u32, used, GFP_KERNEL | __GFP_NOWARN)?;
        let mut places = KVVec::from_elem(0u32, used, GFP_KERNEL | __GFP_NOWARN)?;
        let mut memory = OrderMemory {
            stack: &mut stack,
            places: &mut places,
        };
        writer.swept = 0;
        self.graph.reorder(&mut memory, go_on).map_err(errno)
    }

    /// Tidies up in proportion to what is removed.
    fn remove(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result {
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
                self.remove_one(work, &mut arithmetic, *row)?;
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

    fn replace(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result {
        let mut writer = self.writer.lock();
        let Scratch { work, vectors } = &mut writer.scratch;
        let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
        let grow = |nodes, rows| self.graph.store().grow(nodes, rows);
        for row in rows.clone() {
            task::cond_resched();
            if is_live(inode, row) {
                arithmetic.set_row(row, rows.end)?;
                self.remove_one(work, &mut arithmetic, row)?;
                self.insert(work, &mut arithmetic, row, grow)?;
            }
        }
        Ok(())
    }

    fn restore(
        &self,
        inode: &Inode<VexFs>,
        rows: &[u64],
        below: &dyn Fn() -> u64,
        untidy: bool,
    ) -> Result {
        let grow = |nodes, rows| self.graph.store().grow(nodes, rows);
        for rows in rows.chunks(PIECE as usize) {
            task::cond_resched();
            let mut writer = self.writer.lock();
            let end = below();
            let Scratch { work, vectors } = &mut writer.scratch;
            let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
            for row in rows.iter().filter(|row| **row < end) {
                if untidy {
                    self.remove_one(work, &mut arithmetic, *row)?;
                }
                arithmetic.set_row(*row, row.saturating_add(1))?;
                // A thread of a build may have been faster.
                self.insert(work, &mut arithmetic, *row, grow)?;
            }
        }
        Ok(())
    }

    fn save(
        &self,
        inode: &Inode<VexFs>,
        stamp: Stamp,
        watermark: &AtomicU64,
        go_on: GoOn<'_>,
    ) -> Result<u64> {
        let mut writer = self.writer.lock();
        // What is on disk is sound as it is, so that a check outside can tell; inserts can lose paths, too.
        let Scratch { work, vectors } = &mut writer.scratch;
        self.repair(work, &mut Arithmetic::new(inode, &self.codec, vectors)?)?;
        writer.deleted = 0;
        let watermark = watermark.load(Ordering::Acquire);
        graph_image::save(self, inode, stamp, watermark, go_on)
    }

    fn reconcile(&self, inode: &Inode<VexFs>, rows: Range<u64>, since: u64) -> Result {
        let mut writer = self.writer.lock();
        let Scratch { work, vectors } = &mut writer.scratch;
        let mut arithmetic = Arithmetic::new(inode, &self.codec, vectors)?;
        let grow = |nodes, rows| self.graph.store().grow(nodes, rows);
        let here = |row| {
            let place = self.graph.store().place(row);
            place.is_some_and(|place| place.load(Ordering::Relaxed) != NOWHERE)
        };
        let Difference { gone, missing } = Difference::of(inode, rows.clone(), since, here)?;
        for row in &gone {
            self.remove_one(work, &mut arithmetic, *row)?;
        }
        for row in &missing {
            arithmetic.set_row(*row, rows.end)?;
            self.insert(work, &mut arithmetic, *row, grow)?;
        }
        Ok(())
    }

    fn check(&self, inode: &Inode<VexFs>, watermark: u64, findings: &mut Findings) -> Result {
        let writer = self.writer.lock();
        graph_check::links(self, findings)?;
        core::mem::drop(writer);
        let mut first = 0u64;
        while first < watermark {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            let rows = first..first.saturating_add(CHECKED).min(watermark);
            first = rows.end;
            // A batch deletes rows from the container and then from here.
            let lock = inode.lock();
            inode.node().rows.read(|| {
                let mut writer = self.writer.lock();
                graph_check::codes(self, inode, &mut writer.scratch, rows, findings)
            })?;
            core::mem::drop(lock);
        }
        Ok(())
    }

    fn plan(
        &self,
        s: &uapi::vexfs_search,
        candidates: &Candidates,
        watermark: u64,
    ) -> Result<Option<Query>> {
        graph_search::plan(self, s, candidates, watermark)
    }

    fn search(
        &self,
        scan: &Scan<'_>,
        query: &Query,
        end: u64,
        heaps: &mut [TopK<'_>],
        outcome: &mut Outcome,
    ) -> Result {
        self.pool.with(
            || Scratch::new(&self.account, &self.codec),
            |scratch| graph_search::search(self, scratch, scan, query, end, heaps, outcome),
        )
    }
}
