// SPDX-License-Identifier: GPL-2.0

//! Searches in inverted lists.

use super::lists::{errno, Lists};
use super::lists_codes::Scorer;
use super::lists_memory::Scratch;
use super::search::{is_asked_for, Outcome, Snapshot};
use super::Query;
use crate::scorer::{Candidates, Scan};
use crate::search::scanned_together;
use kernel::prelude::*;
use vexfs_ann::ivf;
use vexfs_ann::planner::{Container, Plan};
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
    if s.nprobe > uapi::VEXFS_MAX_NPROBE || s.rerank > uapi::VEXFS_MAX_EF {
        return Err(EINVAL);
    }
    let params = &lists.coder.params;
    let default = ivf::Query::default_for(s.k, params);
    let or = |value, default| if value == 0 { default } else { value };
    let query = Query {
        effort: or(s.nprobe, default.nprobe).min(params.nlist),
        rerank: or(s.rerank, default.rerank.min(uapi::VEXFS_MAX_EF)).max(s.k),
        allowed: candidates.filtered.then(|| candidates.count(watermark)),
    };
    let live = lists.index.read(|index| u64::from(index.counts().live));
    let container = Container {
        rows: live,
        allowed: query.allowed.unwrap_or(live).min(live),
        row_bytes: lists.coder.rows.bytes as u64,
        together: scanned_together(s, lists.coder.rows.bytes),
    };
    let work = container.ivf_work(params, &lists_query(&query), s.k);
    let index = is_asked_for(s, candidates) || container.plan(work) == Plan::Index;
    Ok(index.then_some(query))
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
    scratch.reserve(k.max(query.rerank as usize))?;
    let (mut work, memory) = scratch.lend();
    let mut scorer = Scorer::new(scan.inode, &lists.coder, model, memory)?;
    let mut visible = Snapshot::new(scan, end);
    let query = lists_query(query);
    let bytes = lists.coder.rows.bytes;
    for (vector, heap) in scan.queries.chunks(bytes).zip(heaps) {
        scorer.set(vector)?;
        let found = lists
            .index
            .read(|index| index.search(&mut work, &mut scorer, &mut visible, &query, heap))
            .map_err(errno)?;
        if visible.killed {
            return Err(EINTR);
        }
        outcome.distances = outcome
            .distances
            .saturating_add(found.codes)
            .saturating_add(found.distances);
        outcome.hops = outcome.hops.saturating_add(u64::from(found.lists));
        outcome.partial |= found.partial;
        if outcome.partial {
            break;
        }
    }
    Ok(())
}
