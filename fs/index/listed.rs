// SPDX-License-Identifier: GPL-2.0

//! What inverted lists and hash tables have in common: rows are in lists that their vectors say.

use super::loaded::{Difference, Loaded};
use super::search::{is_asked_for, Outcome, Snapshot};
use super::Query;
use crate::candidates::Candidates;
use crate::scorer::Scan;
use crate::search::scanned_together;
use crate::VexFs;
use core::ops::Range;
use kernel::prelude::*;
use vexfs_ann::ivf::Found;
use vexfs_ann::planner::{Container, Plan};
use vexfs_ann::topk::TopK;
use vexfs_uapi as uapi;
use vexfs_vfs::{sort, task, Inode};

/// Lists are compacted once holes are a 1/[`HOLE_SHARE`] of the rows, and all of them by the time that as many
/// more were deleted.
const HOLE_SHARE: u64 = 16;

/// Rows whose lists hold them no more, or that are looked for in all lists, in order.
pub(super) type Elsewhere = KVVec<(u64, usize)>;

/// Which rows a structure has taken in, for who changes it.
pub(super) struct Taken {
    /// No row from here on.
    pub(super) end: u64,
    /// Rows that an image had, until all are reconciled.
    loaded: Option<Loaded>,
    sweep: Sweep,
    /// How often rows have moved to other lists.
    pub(super) moved: u64,
}

impl Taken {
    /// Of a structure that is empty, or has the rows of an image, all below `end`.
    pub(super) fn new(end: u64, loaded: Option<Loaded>) -> Self {
        Taken {
            end,
            loaded,
            sweep: Sweep::default(),
            moved: 0,
        }
    }
}

/// Which lists are compacted when.
#[derive(Default)]
struct Sweep {
    next: u32,
}

impl Sweep {
    /// How many of the lists to compact, now that `removed` more rows are removed.
    fn due(extent: &Extent, removed: u64) -> u32 {
        let Extent { nlist, live, holes } = *extent;
        if holes <= live / HOLE_SHARE {
            return 0;
        }
        let lists = removed
            .saturating_mul(u64::from(nlist))
            .saturating_mul(HOLE_SHARE)
            .checked_div(live);
        let lists = lists.unwrap_or(u64::MAX).saturating_add(1);
        u32::try_from(lists).unwrap_or(u32::MAX).min(nlist)
    }

    /// The one whose turn it is.
    fn next(&mut self, nlist: u32) -> u32 {
        let list = self.next;
        let next = list.saturating_add(1);
        self.next = if next < nlist { next } else { 0 };
        list
    }
}

/// How much is in lists.
#[derive(Default)]
pub(super) struct Extent {
    pub(super) nlist: u32,
    pub(super) live: u64,
    pub(super) holes: u64,
}

/// Lists of rows. Who calls has `Writer`, locked.
pub(super) trait Listed {
    /// What who changes the lists needs.
    type Writer;

    fn taken(writer: &mut Self::Writer) -> &mut Taken;

    fn extent(&self) -> Extent;

    /// Removes rows from the lists that their vectors say. Those that are not in all of these are added to
    /// `elsewhere`.
    fn remove_from_own(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Self::Writer,
        rows: &[u64],
        elsewhere: &mut Elsewhere,
    ) -> Result;

    /// Removes the rows that `gone` says yes to from whatever lists they are in.
    fn remove_where(&self, gone: impl FnMut(u64) -> bool) -> Result;

    /// Takes in the live ones of `rows`, each of which is in none of the lists, or in its own, if there are several: then it
    /// is there once afterwards, too. `end` rows may be read on the way.
    fn insert_live(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Self::Writer,
        rows: impl Iterator<Item = u64>,
        end: u64,
    ) -> Result;

    /// Moves the rows of a list together.
    fn compact(&self, list: u32) -> Result;
}

/// As `Structure::plan`, for `live` rows of `bytes` bytes. `wish` completes what the caller has said of `nprobe` and
/// `rerank`, among as many rows as pass the filter; `work` says how much that is.
pub(super) fn plan(
    s: &uapi::vexfs_search,
    candidates: &Candidates,
    watermark: u64,
    live: u64,
    bytes: usize,
    wish: impl FnOnce(u64) -> (u32, u32),
    work: impl FnOnce(&Container, &Query) -> u64,
) -> Result<Option<Query>> {
    if s.nprobe > uapi::VEXFS_MAX_NPROBE || s.rerank > uapi::VEXFS_MAX_EF {
        return Err(EINVAL);
    }
    let passing = candidates
        .filtered
        .then(|| candidates.count(watermark).min(live));
    let container = Container {
        rows: live,
        allowed: passing.unwrap_or(live),
        row_bytes: bytes as u64,
        together: scanned_together(s, bytes),
    };
    let (effort, rerank) = wish(container.allowed);
    let query = Query {
        effort,
        rerank: rerank.max(s.k),
        allowed: passing,
    };
    let planned = container.plan(work(&container, &query));
    let index = planned == Plan::Index || is_asked_for(s, candidates);
    Ok(index.then_some(query))
}

/// Runs `search` for each of the packed queries of `scan`, whose rows have `bytes` bytes.
///
/// # Errors
///
/// As `Structure::search`.
pub(super) fn search_each(
    scan: &Scan<'_>,
    bytes: usize,
    heaps: &mut [TopK<'_>],
    visible: &mut Snapshot<'_>,
    outcome: &mut Outcome,
    mut search: impl FnMut(&[u8], &mut Snapshot<'_>, &mut TopK<'_>) -> Result<Found>,
) -> Result {
    for (vector, heap) in scan.queries.chunks(bytes).zip(heaps) {
        let found = search(vector, visible, heap)?;
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

/// As `Structure::remove`.
pub(super) fn remove<L: Listed>(
    lists: &L,
    inode: &Inode<VexFs>,
    writer: &mut L::Writer,
    rows: &[u64],
) -> Result {
    if let Some(loaded) = &mut L::taken(writer).loaded {
        loaded.forget(rows);
    }
    remove_all(lists, inode, writer, rows)?;
    let extent = lists.extent();
    let sweep = &mut L::taken(writer).sweep;
    for _ in 0..Sweep::due(&extent, rows.len() as u64) {
        task::cond_resched();
        lists.compact(sweep.next(extent.nlist))?;
    }
    Ok(())
}

/// Removes rows; those that were not taken in are left out.
fn remove_all<L: Listed>(
    lists: &L,
    inode: &Inode<VexFs>,
    writer: &mut L::Writer,
    rows: &[u64],
) -> Result {
    let mut elsewhere = KVVec::new();
    lists.remove_from_own(inode, writer, rows, &mut elsewhere)?;
    if elsewhere.is_empty() {
        return Ok(());
    }
    sort::pairs(&mut elsewhere);
    lists.remove_where(|row| elsewhere.binary_search_by_key(&row, |gone| gone.0).is_ok())
}

/// As `Structure::replace`.
pub(super) fn replace<L: Listed>(
    lists: &L,
    inode: &Inode<VexFs>,
    writer: &mut L::Writer,
    rows: Range<u64>,
) -> Result {
    let taken = L::taken(writer);
    taken.moved = taken.moved.wrapping_add(1);
    if rows.start >= taken.end {
        return Ok(());
    }
    // Where they are, their former vectors would say.
    lists.remove_where(|row| rows.contains(&row))?;
    let end = rows.end;
    lists.insert_live(inode, writer, rows, end)
}

/// As `Structure::restore`.
pub(super) fn restore<L: Listed>(
    lists: &L,
    inode: &Inode<VexFs>,
    writer: &mut L::Writer,
    rows: &[u64],
    untidy: bool,
) -> Result {
    let taken = L::taken(writer);
    taken.moved = taken.moved.wrapping_add(1);
    let below = rows.partition_point(|row| *row < taken.end);
    let rows = rows.get(..below).unwrap_or(&[]);
    let Some(last) = rows.last() else {
        return Ok(());
    };
    // Who extends the lists without the inode locked, as a build does, may have met them after they were published. Then
    // they are in their own lists; of one list all would have to be looked through for each.
    let mut stale = untidy || lists.extent().nlist <= 1;
    if let Some(loaded) = &mut taken.loaded {
        // Those of the image are other rows.
        stale |= rows.iter().any(|row| loaded.has(*row));
        loaded.learn(rows);
    }
    if stale {
        lists.remove_where(|row| rows.binary_search(&row).is_ok())?;
    }
    let end = last.saturating_add(1);
    lists.insert_live(inode, writer, rows.iter().copied(), end)
}

/// As `Structure::reconcile`.
pub(super) fn reconcile<L: Listed>(
    lists: &L,
    inode: &Inode<VexFs>,
    writer: &mut L::Writer,
    rows: Range<u64>,
    since: u64,
) -> Result {
    let taken = L::taken(writer);
    let Some(loaded) = &taken.loaded else {
        return Ok(());
    };
    let (end, last) = (rows.end, rows.end >= taken.end);
    let Difference { gone, missing } = Difference::of(inode, rows, since, |row| loaded.has(row))?;
    remove_all(lists, inode, writer, &gone)?;
    lists.insert_live(inode, writer, missing.iter().copied(), end)?;
    if last {
        L::taken(writer).loaded = None;
    }
    Ok(())
}
