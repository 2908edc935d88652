// SPDX-License-Identifier: GPL-2.0

//! Searches in hash tables.

use super::budget::{Account, Charge};
use super::hashes::Hashes;
use super::hashes_hasher::Hasher;
use super::lists::errno;
use super::search::{Outcome, Snapshot};
use super::Query;
use crate::scorer::{Candidates, Scan};
use crate::VexFs;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_ann::ivf::BATCH;
use vexfs_ann::lsh::probe::Perturbation;
use vexfs_ann::lsh::{self, Numeric, Workspace};
use vexfs_ann::planner::{Container, Plan};
use vexfs_ann::topk::TopK;
use vexfs_uapi as uapi;
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::Inode;

/// Buckets of each table by default: 8 of about 16 rows each, and more for a greater k.
const NPROBE: u32 = 8;
const HITS_PER_PROBE: u32 = 8;
/// Words of [`Workspace::touched`].
const TOUCHED: usize = 4096;

/// Scratch memory of a search.
pub(super) struct Scratch {
    visited: KVVec<u64>,
    touched: KVVec<u32>,
    heap: KVVec<Perturbation>,
    query: QueryMemory,
    charge: Charge,
}

/// Scratch memory of a query.
struct QueryMemory {
    row: KVVec<u8>,
    vector: KVVec<u8>,
    rotated: KVVec<u8>,
    gathered: KVVec<u8>,
}

impl Scratch {
    /// Scratch memory that is charged to `account`.
    pub(super) fn new(account: &Arc<Account>, hasher: &Hasher) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let wide = hasher.rows.vector_bytes();
        Ok(Scratch {
            visited: KVVec::new(),
            touched: charge.make(TOUCHED)?,
            heap: KVVec::new(),
            query: QueryMemory {
                row: charge.make(hasher.rows.bytes)?,
                vector: charge.make(wide)?,
                rotated: charge.make(wide)?,
                gathered: charge.make(hasher.rows.gathered_bytes(BATCH))?,
            },
            charge,
        })
    }

    /// Makes room for `rows` rows and `nprobe` probes.
    pub(super) fn reserve(&mut self, rows: u64, nprobe: u32) -> Result {
        let words = usize::try_from(rows.div_ceil(64))?;
        self.charge.widen(&mut self.visited, words)?;
        self.charge.widen(&mut self.heap, nprobe as usize)
    }
}

/// Arithmetic of a query. `Node::rows` is held for as long as it lives.
struct Scorer<'a> {
    inode: &'a Inode<VexFs>,
    hasher: &'a Hasher,
    memory: &'a mut QueryMemory,
    pinned: Pinned,
}

impl Scorer<'_> {
    /// Makes `query`, a row, the query.
    fn set(&mut self, query: &[u8]) -> Result {
        let QueryMemory { row, vector, .. } = &mut *self.memory;
        if row.len() != query.len() {
            return Err(EINVAL);
        }
        for (to, from) in row.iter_mut().zip(query) {
            *to = *from;
        }
        self.hasher.vector(row, vector)
    }
}

impl Numeric for Scorer<'_> {
    type Error = Error;

    fn project(&mut self, table: u32, out: &mut [i32]) -> Result {
        let QueryMemory {
            row,
            vector,
            rotated,
            ..
        } = &mut *self.memory;
        self.hasher.project(row, vector, rotated, table, out)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result {
        let QueryMemory { row, gathered, .. } = &mut *self.memory;
        let of = &self.hasher.rows;
        of.exact(self.inode, &mut self.pinned, row, gathered, rows, out)
    }
}

/// As `Structure::plan`.
pub(super) fn plan(
    hashes: &Hashes,
    s: &uapi::vexfs_search,
    candidates: &Candidates,
    watermark: u64,
) -> Result<Option<Query>> {
    if s.nprobe > uapi::VEXFS_MAX_NPROBE || s.rerank > uapi::VEXFS_MAX_EF {
        return Err(EINVAL);
    }
    let params = &hashes.hasher.params;
    let nprobe = match s.nprobe {
        0 => NPROBE.max(s.k / HITS_PER_PROBE),
        nprobe => nprobe,
    };
    let count = |tables: &KVec<_>| tables.first().map_or(0, count_of);
    let live = hashes.tables.read(count);
    let allowed = if candidates.filtered {
        candidates.count(watermark).min(live)
    } else {
        live
    };
    // The nearest of few rows are farther away: as many more buckets as lists of an inverted file.
    let wider = vexfs_ann::ivf::Query {
        nprobe,
        rerank: 0,
        allowed,
    };
    let nprobe = wider.probes(1 << params.nbits, live);
    let container = Container {
        rows: live,
        allowed,
        row_bytes: hashes.hasher.rows.bytes as u64,
    };
    let query = Query {
        effort: nprobe,
        rerank: 0,
        allowed: candidates.filtered.then_some(allowed),
    };
    let work = container.lsh_work(params, nprobe);
    Ok((container.plan(work) == Plan::Index).then_some(query))
}

fn count_of(table: &vexfs_ann::ivf::Index<super::lists_memory::Memory>) -> u64 {
    u64::from(table.counts().live)
}

/// As `Structure::search`.
pub(super) fn search(
    hashes: &Hashes,
    scratch: &mut Scratch,
    scan: &Scan<'_>,
    query: &Query,
    end: u64,
    heaps: &mut [TopK<'_>],
    outcome: &mut Outcome,
) -> Result {
    let hasher = &hashes.hasher;
    scratch.reserve(end, query.effort)?;
    let Scratch {
        visited,
        touched,
        heap,
        query: memory,
        ..
    } = scratch;
    let mut work = Workspace {
        visited,
        touched,
        heap,
    };
    let mut scorer = Scorer {
        inode: scan.inode,
        hasher,
        memory,
        pinned: Pinned::new()?,
    };
    let mut visible = Snapshot::new(scan, end);
    let query = lsh::Query {
        nprobe: query.effort,
        rows: end,
    };
    for (vector, top) in scan.queries.chunks(hasher.rows.bytes).zip(heaps) {
        scorer.set(vector)?;
        let (params, work, scorer) = (&hasher.params, &mut work, &mut scorer);
        let found = hashes
            .tables
            .read(|tables| lsh::search(params, tables, work, scorer, &mut visible, &query, top))
            .map_err(errno)?;
        if visible.killed {
            return Err(EINTR);
        }
        outcome.distances = outcome.distances.saturating_add(found.distances);
        outcome.hops = outcome.hops.saturating_add(u64::from(found.lists));
        outcome.partial |= found.partial;
        if outcome.partial {
            break;
        }
    }
    Ok(())
}
