// SPDX-License-Identifier: GPL-2.0

//! Searches in a graph.

use super::codes::Arithmetic;
use super::graph::{Graph, Scratch};
use super::search::{is_asked_for, or_default, Outcome, Snapshot};
use super::{Query, Structure};
use crate::candidates::Candidates;
use crate::scorer::Scan;
use crate::search::scanned_together;
use kernel::prelude::*;
use vexfs_ann::hnsw::params::MAX_EF;
use vexfs_ann::hnsw::{self, Plan, Store};
use vexfs_ann::planner::{self, Container};
use vexfs_ann::topk::TopK;
use vexfs_uapi as uapi;

fn graph_query(query: &Query) -> hnsw::Query {
    hnsw::Query {
        ef: query.effort,
        rerank: query.rerank,
        allowed: query.allowed,
    }
}

/// As `Structure::plan`.
pub(super) fn plan(
    graph: &Graph,
    s: &uapi::vexfs_search,
    candidates: &Candidates,
    watermark: u64,
) -> Result<Option<Query>> {
    if s.ef > MAX_EF || s.rerank > MAX_EF {
        return Err(EINVAL);
    }
    if s.k > MAX_EF {
        return Ok(None);
    }
    let ef = or_default(s.ef, hnsw::Query::default_ef(s.k)).max(s.k);
    let query = Query {
        effort: ef,
        rerank: or_default(s.rerank, graph.codec.default_rerank(s.k, ef)).max(s.k),
        allowed: candidates.filtered.then(|| candidates.count(watermark)),
    };
    let exact = graph.graph.plan(&graph_query(&query), s.k as usize) == Plan::Exact
        || (!candidates.filtered && !is_asked_for(s, candidates) && is_scanned(graph, s, &query));
    Ok((!exact).then_some(query))
}

/// Whether comparing all rows is less work than a walk, as there are few of them, or many queries are compared at once.
fn is_scanned(graph: &Graph, s: &uapi::vexfs_search, query: &Query) -> bool {
    let live = graph.counts().live;
    let bytes = graph.codec.row_bytes();
    let container = Container {
        rows: live,
        allowed: live,
        row_bytes: bytes as u64,
        together: scanned_together(s, bytes),
    };
    let m = graph.graph.params().m;
    let work = container.hnsw_work(m, query.effort, query.rerank, s.k);
    container.plan(work) == planner::Plan::Exact
}

/// As `Structure::search`.
pub(super) fn search(
    graph: &Graph,
    scratch: &mut Scratch,
    scan: &Scan<'_>,
    query: &Query,
    end: u64,
    heaps: &mut [TopK<'_>],
    outcome: &mut Outcome,
) -> Result {
    let query = graph_query(query);
    let candidates = graph.graph.candidates(&query);
    let Scratch { work, vectors } = scratch;
    work.reserve(graph.graph.store().nodes(), candidates)?;
    let bytes = graph.codec.row_bytes();
    let mut arithmetic = Arithmetic::new(scan.inode, &graph.codec, vectors)?;
    let mut visible = Snapshot::new(scan, end);
    for (vector, heap) in scan.queries.chunks(bytes).zip(heaps) {
        arithmetic.set(vector)?;
        let work = &mut work.lend(candidates);
        let found = graph
            .graph
            .search(work, &mut arithmetic, &mut visible, &query, heap)
            .map_err(errno)?;
        if visible.killed {
            return Err(EINTR);
        }
        outcome.distances = outcome
            .distances
            .saturating_add(found.distances)
            .saturating_add(found.exact);
        outcome.hops = outcome.hops.saturating_add(found.hops);
        outcome.partial |= found.partial;
        if outcome.partial {
            break;
        }
    }
    Ok(())
}

fn errno(error: hnsw::Error<Error>) -> Error {
    match error {
        hnsw::Error::Caller(e) => e,
        // The graph is not what it should be; no argument of a search leads here.
        _ => EIO,
    }
}
