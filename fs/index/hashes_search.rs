// SPDX-License-Identifier: GPL-2.0

//! Searches in hash tables.

use super::budget::{Account, Charge};
use super::hashes::Hashes;
use super::hashes_hasher::Hasher;
use super::listed;
use super::lists::errno;
use super::lists_scorer::{QueryMemory, Scorer as Codes};
use super::pool;
use super::search::{or_default, Outcome, Snapshot};
use super::Query;
use crate::candidates::Candidates;
use crate::scorer::Scan;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::{self, Code, Run};
use vexfs_ann::lsh::probe::Perturbation;
use vexfs_ann::lsh::{self, Numeric, Workspace};
use vexfs_ann::planner::Container;
use vexfs_ann::reservoir;
use vexfs_ann::topk::TopK;
use vexfs_uapi as uapi;

/// Words of [`Workspace::touched`].
const TOUCHED: usize = 4096;

/// Scratch memory of a search.
pub(super) struct Scratch {
    visited: KVVec<u64>,
    touched: KVVec<u32>,
    heap: KVVec<Perturbation>,
    candidates: KVVec<u64>,
    lower: KVVec<u32>,
    hits: KVVec<u32>,
    rotated: KVVec<u8>,
    query: QueryMemory,
    charge: Charge,
}

impl Scratch {
    /// Scratch memory that is charged to `account`.
    pub(super) fn new(account: &Arc<Account>, hasher: &Hasher) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let coder = &hasher.coder;
        let codes = match hasher.params.code {
            Code::Flat => 0,
            _ => coder.codes_at_once(),
        };
        Ok(Scratch {
            visited: KVVec::new(),
            touched: charge.make(TOUCHED)?,
            heap: KVVec::new(),
            candidates: KVVec::new(),
            lower: charge.make(codes)?,
            hits: charge.make(codes / BLOCK_ROWS as usize)?,
            rotated: charge.make(coder.rows.vector_bytes())?,
            query: QueryMemory::new(&mut charge, coder)?,
            charge,
        })
    }

    /// Makes room for `rows` rows, `nprobe` probes and `keep` candidates.
    pub(super) fn reserve(&mut self, rows: u64, nprobe: u32, keep: usize) -> Result {
        let words = usize::try_from(rows.div_ceil(64))?;
        self.charge.widen(&mut self.visited, words)?;
        self.charge.widen(&mut self.heap, nprobe as usize)?;
        let len = reservoir::memory(keep);
        self.charge.widen(&mut self.candidates, len)
    }
}

impl pool::Scratch for Scratch {
    fn bytes(&self) -> u64 {
        self.charge.bytes()
    }
}

/// Arithmetic of a query. `Node::rows` is held for as long as it lives.
struct Scorer<'a> {
    hasher: &'a Hasher,
    codes: Codes<'a>,
    rotated: &'a mut [u8],
}

impl ivf::Numeric for Scorer<'_> {
    type Error = Error;

    fn centres(&mut self, lists: &[u32], near: &mut [u32], rank: &mut [u32]) -> Result {
        self.codes.centres(lists, near, rank)
    }

    fn scan(
        &mut self,
        runs: &[Run<'_>],
        threshold: u32,
        lower: &mut [u32],
        hits: &mut [u32],
    ) -> Result {
        self.codes.scan(runs, threshold, lower, hits)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result {
        self.codes.exact(rows, out)
    }
}

impl Numeric for Scorer<'_> {
    fn project(&mut self, table: u32, out: &mut [i32]) -> Result {
        let (row, vector) = self.codes.query();
        self.hasher.project(row, vector, self.rotated, table, out)
    }
}

/// As `Structure::plan`.
pub(super) fn plan(
    hashes: &Hashes,
    s: &uapi::vexfs_search,
    candidates: &Candidates,
    watermark: u64,
) -> Result<Option<Query>> {
    let params = &hashes.hasher.params;
    let live = hashes
        .tables
        .read(|tables| tables.first().map_or(0, count_of));
    let wish = |allowed| {
        // The nearest of few rows are farther away: as many more buckets as lists of an inverted file.
        let wider = ivf::Query {
            nprobe: or_default(s.nprobe, params.default_nprobe()),
            rerank: 0,
            allowed,
        };
        let rerank = params.default_rerank(s.k).min(uapi::VEXFS_MAX_EF);
        let nprobe = wider.probes(1 << params.nbits, live);
        (nprobe, or_default(s.rerank, rerank))
    };
    let work = |container: &Container, query: &Query| {
        container.lsh_work(params, query.effort, query.rerank, s.k)
    };
    let bytes = hashes.hasher.coder.rows.bytes;
    listed::plan(s, candidates, watermark, live, bytes, wish, work)
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
    let Some(model) = hasher.model.as_ref() else {
        // Nothing is learnt yet, so there are no rows.
        return Ok(());
    };
    let k = heaps.first().map_or(0, TopK::k);
    scratch.reserve(end, query.effort, k.max(query.rerank as usize))?;
    let Scratch {
        visited,
        touched,
        heap,
        candidates,
        lower,
        hits,
        rotated,
        query: memory,
        ..
    } = scratch;
    let mut work = Workspace {
        visited,
        touched,
        heap,
        candidates,
        lower,
        hits,
    };
    let mut scorer = Scorer {
        hasher,
        codes: Codes::new(scan.inode, &hasher.coder, model, memory)?,
        rotated,
    };
    let mut visible = Snapshot::new(scan, end);
    let query = lsh::Query {
        nprobe: query.effort,
        rerank: query.rerank,
        rows: end,
    };
    let search = |vector: &[u8], visible: &mut Snapshot<'_>, top: &mut TopK<'_>| {
        scorer.codes.set(vector)?;
        let (params, work, scorer) = (&hasher.params, &mut work, &mut scorer);
        hashes
            .tables
            .read(|tables| lsh::search(params, tables, work, scorer, visible, &query, top))
            .map_err(errno)
    };
    let bytes = hasher.coder.rows.bytes;
    listed::search_each(scan, bytes, heaps, &mut visible, outcome, search)
}
