// SPDX-License-Identifier: GPL-2.0

//! Searches in inverted lists.

use super::listed;
use super::lists::{errno, Lists};
use super::lists_memory::Scratch;
use super::lists_scorer::Scorer;
use super::search::{or_default, Outcome, Snapshot};
use super::Query;
use crate::candidates::Candidates;
use crate::scorer::Scan;
use kernel::prelude::*;
use vexfs_ann::ivf;
use vexfs_ann::planner::Container;
use vexfs_ann::topk::TopK;
use vexfs_uapi as uapi;

fn lists_query(query: &Query) -> ivf::Query {
    ivf::Query {
        nprobe: query.effort,
        rerank: query.rerank,
        allowed: query.allowed.unwrap_or(u64::MAX),
    }
}

/// As `Structure::plan`.
pub(super) fn plan(
    lists: &Lists,
    s: &uapi::vexfs_search,
    candidates: &Candidates,
    watermark: u64,
) -> Result<Option<Query>> {
    let params = &lists.coder.params;
    let default = ivf::Query::default_for(s.k, params);
    let wish = |_| {
        let nprobe = or_default(s.nprobe, default.nprobe).min(params.nlist);
        let rerank = default.rerank.min(uapi::VEXFS_MAX_EF);
        (nprobe, or_default(s.rerank, rerank))
    };
    let live = lists.index.read(|index| u64::from(index.counts().live));
    let work =
        |container: &Container, query: &Query| container.ivf_work(params, &lists_query(query), s.k);
    let bytes = lists.coder.rows.bytes;
    listed::plan(s, candidates, watermark, live, bytes, wish, work)
}

/// As `Structure::search`.
pub(super) fn search(
    lists: &Lists,
    scratch: &mut Scratch,
    scan: &Scan<'_>,
    query: &Query,
    end: u64,
    heaps: &mut [TopK<'_>],
    outcome: &mut Outcome,
) -> Result {
    let Some(model) = lists.model.as_ref() else {
        // Not trained, so there are no rows.
        return Ok(());
    };
    let k = heaps.first().map_or(0, TopK::k);
    let query = lists_query(query);
    let keep = query.kept(k, &lists.coder.params);
    scratch.reserve(keep, lists.coder.marked(end))?;
    let (mut work, memory) = scratch.lend();
    let mut scorer = Scorer::new(scan.inode, &lists.coder, model, memory)?;
    let mut visible = Snapshot::new(scan, end);
    let bytes = lists.coder.rows.bytes;
    let search = |vector: &[u8], visible: &mut Snapshot<'_>, heap: &mut TopK<'_>| {
        scorer.set(vector)?;
        lists
            .index
            .read(|index| index.search(&mut work, &mut scorer, visible, &query, heap))
            .map_err(errno)
    };
    listed::search_each(scan, bytes, heaps, &mut visible, outcome, search)
}
