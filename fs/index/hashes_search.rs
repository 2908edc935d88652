// SPDX-License-Identifier: GPL-2.0

//! Searches in hash tables.

use super::hashes::Hashes;
use super::hashes_hasher::Hasher;
use super::lists::errno;
use super::pool;
use super::search::{Outcome, Snapshot};
use super::Query;
use crate::scorer::{Candidates, Scan};
use crate::VexFs;
use kernel::prelude::*;
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
}

/// Scratch memory of a query.
struct QueryMemory {
    row: KVVec<u8>,
    vector: KVVec<u8>,
    rotated: KVVec<u8>,
    gathered: KVVec<u8>,
}

impl Scratch {
    pub(super) fn new(hasher: &Hasher) -> Result<Self> {
        let wide = hasher.rows.vector_bytes();
        let gathered = hasher.rows.gathered_bytes(BATCH);
        Ok(Scratch {
            visited: KVVec::new(),
            touched: KVVec::from_elem(0, TOUCHED, GFP_KERNEL_ACCOUNT)?,
            heap: KVVec::new(),
            query: QueryMemory {
                row: KVVec::from_elem(0, hasher.rows.bytes, GFP_KERNEL_ACCOUNT)?,
                vector: KVVec::from_elem(0, wide, GFP_KERNEL_ACCOUNT)?,
                rotated: KVVec::from_elem(0, wide, GFP_KERNEL_ACCOUNT)?,
                gathered: KVVec::from_elem(0, gathered, GFP_KERNEL_ACCOUNT)?,
            },
        })
    }

    /// Makes room for `rows` rows and `nprobe` probes.
    fn reserve(&mut self, rows: u64, nprobe: u32) -> Result {
        let words = usize::try_from(rows.div_ceil(64))?;
        if self.visited.len() < words {
            self.visited.resize(words, 0, GFP_KERNEL_ACCOUNT)?;
        }
        let probes = nprobe as usize;
        if self.heap.len() < probes {
            let none = Perturbation::default();
            self.heap.resize(probes, none, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

impl pool::Scratch for Scratch {
    fn bytes(&self) -> u64 {
        let QueryMemory {
            row,
            vector,
            rotated,
            gathered,
        } = &self.query;
        let bytes = [row, vector, rotated, gathered];
        let bytes = bytes.iter().map(|bytes| bytes.len() as u64);
        let heap = self.heap.len().saturating_mul(size_of::<Perturbation>());
        bytes
            .fold(heap as u64, u64::saturating_add)
            .saturating_add((self.visited.len() as u64).saturating_mul(8))
            .saturating_add((self.touched.len() as u64).saturating_mul(4))
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
