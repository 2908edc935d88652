// SPDX-License-Identifier: GPL-2.0

//! Searches: an index, the rows that it does not have, and rows that were deleted behind its back.

use super::resident::Used;
use super::Query;
use crate::candidates::Candidates;
use crate::container;
use crate::scorer::{self, Scan};
use kernel::prelude::*;
use vexfs_ann::topk::{Hit, TopK};
use vexfs_ann::visible::Visible;
use vexfs_uapi as uapi;
use vexfs_vfs::{sort, task};

/// An index, and how to search it.
pub(crate) struct Walk {
    index: Used,
    query: Query,
    /// Rows from here on are not in the index.
    watermark: u64,
}

impl Walk {
    /// Decides whether and how to search `index` for `s.k` rows among `candidates`, which were taken
    /// after `index`. `None` if comparing all candidates is less work, or `k` is too great for it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for parameters out of range.
    pub(crate) fn plan(
        index: Used,
        s: &uapi::vexfs_search,
        candidates: &Candidates,
    ) -> Result<Option<Self>> {
        // After the candidates: what was inserted before them is below one of the two.
        let watermark = index.watermark();
        let query = index.structure.plan(s, candidates, watermark)?;
        Ok(query.map(|query| Walk {
            index,
            query,
            watermark,
        }))
    }

    /// Searches for each of the packed queries of `scan` in the index, then in the rows behind it; in all rows,
    /// exactly, if there is no memory for the former.
    ///
    /// # Errors
    ///
    /// `EINTR` for a fatal signal, `ENOMEM`, `EIO` and the like if rows can't be read.
    pub(crate) fn search(
        &self,
        scan: &Scan<'_>,
        heaps: &mut [TopK<'_>],
        outcome: &mut Outcome,
    ) -> Result {
        let end = self.watermark.min(scan.candidates.rows);
        let structure = &self.index.structure;
        match structure.search(scan, &self.query, end, heaps, outcome) {
            // There is no memory for a walk, under `index_memory=` or at all. A scan needs little.
            Err(e) if e == ENOMEM => {
                outcome.add(&scan_beside(scan, heaps)?);
                return Ok(());
            }
            walked => walked?,
        }
        if let (Some(deleted), false) = (deleted_since(scan, end)?, outcome.partial) {
            let again = Scan {
                candidates: &deleted,
                ..*scan
            };
            outcome.add(&scan_beside(&again, heaps)?);
        }
        if self.watermark < scan.candidates.rows && !outcome.partial {
            let tail = Scan {
                first: self.watermark,
                ..*scan
            };
            outcome.add(&scorer::scan(&tail, heaps)?);
        }
        Ok(())
    }
}

/// What a search asks for, or the default if it does not say.
pub(super) fn or_default(asked: u32, default: u32) -> u32 {
    match asked {
        0 => default,
        asked => asked,
    }
}

/// Whether who searches names the index and says how to search it: then it is not for the planner to decide, however
/// few rows there are. With a filter it is.
pub(super) fn is_asked_for(s: &uapi::vexfs_search, candidates: &Candidates) -> bool {
    let effort = s.ef != 0 || s.nprobe != 0 || s.rerank != 0;
    effort && s.index_kind != uapi::VEXFS_INDEX_AUTO && !candidates.filtered
}

/// What a search did.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) distances: u64,
    pub(crate) hops: u64,
    /// Rows compared outside of the index.
    pub(crate) rows_exact: u64,
    pub(crate) partial: bool,
}

impl Outcome {
    /// Adds what another thread did for the same search.
    pub(crate) fn merge(&mut self, other: &Outcome) {
        self.distances = self.distances.saturating_add(other.distances);
        self.hops = self.hops.saturating_add(other.hops);
        self.rows_exact = self.rows_exact.saturating_add(other.rows_exact);
        self.partial |= other.partial;
    }

    pub(crate) fn add(&mut self, scanned: &scorer::Outcome) {
        self.distances = self.distances.saturating_add(scanned.distances);
        self.rows_exact = self.rows_exact.saturating_add(scanned.distances);
        self.partial |= scanned.partial;
    }
}

/// What a search may return: the rows of the index that were live when it began and pass its filter.
pub(super) struct Snapshot<'a> {
    scan: &'a Scan<'a>,
    end: u64,
    /// A fatal signal has stopped the search.
    pub(super) killed: bool,
}

impl<'a> Snapshot<'a> {
    /// The rows below `end`.
    pub(super) fn new(scan: &'a Scan<'a>, end: u64) -> Self {
        Snapshot {
            scan,
            end,
            killed: false,
        }
    }
}

impl Visible for Snapshot<'_> {
    type Error = Error;

    #[inline]
    fn allows(&mut self, row: u64) -> bool {
        row < self.end && self.scan.candidates.allows(row)
    }

    fn next_allowed(&mut self, rows: core::ops::Range<u64>) -> Option<u64> {
        let next = self.scan.candidates.next(rows.start)?;
        (next < rows.end.min(self.end)).then_some(next)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>> {
        if !self.allows(row) {
            return Ok(None);
        }
        // Loaded, or there were no search. Loading would need much of the stack, deep down as this is.
        Ok(Some(self.scan.inode.node().container.lock().key_of(row)))
    }

    fn stop(&mut self, _distances: u64) -> bool {
        task::cond_resched();
        self.killed = self.scan.stop.check().is_err();
        let over = |at| task::monotonic_ns() >= at;
        self.killed || self.scan.deadline.is_some_and(over)
    }
}

/// Candidates below `end` that were deleted after they were listed, if there are some: the index may have lost them
/// before the search came by, though the search began before.
fn deleted_since(scan: &Scan<'_>, end: u64) -> Result<Option<Candidates>> {
    let candidates = scan.candidates;
    if container::with(scan.inode, |c| Ok(c.buried))? == candidates.buried {
        return Ok(None);
    }
    let words = usize::try_from(candidates.rows.div_ceil(64))?;
    let mut lost = KVVec::from_elem(u64::MAX, words, GFP_KERNEL | __GFP_NOWARN)?;
    container::with(scan.inode, |c| {
        for (at, word) in lost.iter_mut().enumerate() {
            if let Some(allowed) = candidates.bitmap() {
                *word = allowed.get(at).copied().unwrap_or(0);
            }
            *word &= c.tombstones.get(at).copied().unwrap_or(0);
        }
        Ok(())
    })?;
    let lost = Candidates::among(end.min(candidates.rows), lost)?;
    Ok(lost.next(0).map(|_| lost))
}

/// Scans rows that may be among the hits already, and adds those that are not.
fn scan_beside(scan: &Scan<'_>, heaps: &mut [TopK<'_>]) -> Result<scorer::Outcome> {
    let k = heaps.first().map_or(0, TopK::k);
    let mut memory = KVVec::from_elem(
        Hit::default(),
        k.saturating_mul(heaps.len()),
        GFP_KERNEL | __GFP_NOWARN,
    )?;
    let mut beside = KVec::with_capacity(heaps.len(), GFP_KERNEL)?;
    for memory in memory.chunks_mut(k) {
        beside
            .push_within_capacity(TopK::new(memory))
            .map_err(|_| ENOMEM)?;
    }
    let outcome = scorer::scan(scan, &mut beside)?;
    let mut known = KVVec::with_capacity(k, GFP_KERNEL | __GFP_NOWARN)?;
    for (heap, beside) in heaps.iter_mut().zip(beside) {
        known.clear();
        for hit in heap.hits() {
            known
                .push_within_capacity((hit.row, 0usize))
                .map_err(|_| ENOMEM)?;
        }
        sort::pairs(&mut known);
        for hit in beside.into_sorted() {
            if known
                .binary_search_by_key(&hit.row, |known| known.0)
                .is_err()
            {
                heap.push(*hit);
            }
        }
    }
    Ok(outcome)
}
