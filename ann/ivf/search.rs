// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The search: rank lists, scan codes, score the candidates by their rows.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::lists::HOLE;
use super::offer::{rerank, Rows};
use super::params::BLOCK_ROWS;
use super::store::{Numeric, Run, Store, BATCH};
use super::{Code, Error, Index, Params};
use crate::reservoir::{self, candidate, distance_of, number_of, Reservoir};
use crate::seen::Seen;
use crate::visible::Visible;
use crate::TopK;

/// Runs of one call to [`Numeric::scan`]: a kilobyte of stack.
const RUNS: usize = 32;

/// Blocks of the first scan of a search, which has no bound to compare with yet.
const FIRST_BLOCKS: usize = 8;

/// Lists ranked by their codes beyond those asked for, some of which will turn out to be farther.
const SPARE_LISTS: usize = 24;

/// What to search for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Lists to scan; more of them if rows pass a filter rarely, or `k` rows are not found.
    pub nprobe: u32,
    /// Candidates that may be scored by their rows, at least `k`.
    pub rerank: u32,
    /// Rows that pass the filter, at least about; as many as there are without one.
    pub allowed: u64,
}

impl Query {
    /// Defaults for the best `k` without a filter, for recall@10 of 0.95: a 21st of the lists, of few lists 64, or
    /// half; two fifths as many if each row is in two. Over 384-d embeddings it takes 48 of 1024 lists, 62 of 512 (8,200 rows), 50 of 256 (4,000), 25 of 64 (500).
    pub fn default_for(k: u32, params: &Params) -> Query {
        let nlist = params.nlist;
        let nprobe = (nlist / 21).max((nlist / 2).min(64)).max(8);
        // Two fifths of the lists hold four fifths of as many slots, and more of the rows that are near.
        let nprobe = match params.copies {
            2 => nprobe.saturating_mul(2) / 5,
            _ => nprobe,
        };
        Query {
            nprobe,
            rerank: params.default_rerank(k),
            allowed: u64::MAX,
        }
    }

    /// Candidates that a search for the best `k` keeps. A row may be among them once for each of its lists, and `k`
    /// rows are to be found all the same.
    pub fn kept(&self, k: usize, params: &Params) -> usize {
        (self.rerank as usize).max(k.saturating_mul(params.copies as usize))
    }

    /// Lists to scan of `nlist` that hold `live` rows: `nprobe`, times the root of how few rows pass.
    pub fn probes(&self, nlist: u32, live: u64) -> u32 {
        let allowed = self.allowed.clamp(1, live.max(1));
        let ratio = live.max(1).saturating_mul(10_000) / allowed;
        let probes = u64::from(self.nprobe.max(1)).saturating_mul(ratio.isqrt()) / 100;
        probes.clamp(1, u64::from(nlist.max(1))) as u32
    }
}

/// Scratch memory of a search, lent by the caller. What it holds is of no importance but for `visited`.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// `nlist + 1` words of 8 bytes, or [`Workspace::lists_for`].
    pub lists: &'a mut [u64],
    /// `nlist + 1` words.
    pub near: &'a mut [u32],
    /// At least [`reservoir::memory`] of [`Query::kept`].
    pub candidates: &'a mut [u64],
    /// Bounds of the codes scanned at once: a multiple of 32, at least 32. 4096 rows of 384 signs are some
    /// ten microseconds.
    pub lower: &'a mut [u32],
    /// An element for each 32 of `lower`.
    pub hits: &'a mut [u32],
    /// If rows are in two lists, a bit for each row that may be visible, all 0. A search leaves it so.
    pub visited: &'a mut [u64],
    /// Which of its words are in use; if there are more, all of `visited` is cleared at the end.
    pub touched: &'a mut [u32],
}

impl Workspace<'_> {
    /// Elements of `lists` for any `nprobe`.
    pub fn lists_for(nlist: u32) -> usize {
        (nlist as usize)
            .saturating_add(1)
            .max(reservoir::memory(SPARE_LISTS))
    }
}

/// What a search did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Lists scanned.
    pub lists: u32,
    /// Codes scanned.
    pub codes: u64,
    /// Exact distances computed, those to centroids not counted.
    pub distances: u64,
    /// The caller stopped it: better rows may exist.
    pub partial: bool,
}

/// A list to scan, and the query's distances to its centre.
#[derive(Clone, Copy, Default)]
pub(crate) struct Probe {
    pub(crate) list: u32,
    pub(crate) near: u32,
    pub(crate) rank: u32,
}

/// The scans that are collected until they are worth a call.
pub(crate) struct Scan<'w, 's> {
    lower: &'w mut [u32],
    hits: &'w mut [u32],
    runs: [Run<'s>; RUNS],
    used: usize,
    blocks: usize,
    /// Blocks that make a call; it grows from one to the next.
    enough: usize,
    pub(crate) codes: u64,
}

impl<'w, 's> Scan<'w, 's> {
    pub(crate) fn new(lower: &'w mut [u32], hits: &'w mut [u32]) -> Self {
        let empty = Run {
            blocks: &[],
            rows: 0,
            near: 0,
            rank: 0,
        };
        Scan {
            lower,
            hits,
            runs: [empty; RUNS],
            used: 0,
            blocks: 0,
            enough: FIRST_BLOCKS,
            codes: 0,
        }
    }

    /// Blocks of one call at most.
    pub(crate) fn most(&self) -> usize {
        self.hits.len().min(self.lower.len() / BLOCK_ROWS as usize)
    }

    /// Whether to call before another run of `blocks`.
    fn is_full(&self, blocks: usize) -> bool {
        let limit = self.enough.min(self.most());
        self.used == RUNS || (self.blocks > 0 && self.blocks.saturating_add(blocks) > limit)
    }

    fn add(&mut self, run: Run<'s>, blocks: usize) {
        if let Some(place) = self.runs.get_mut(self.used) {
            *place = run;
            self.used = self.used.saturating_add(1);
            self.blocks = self.blocks.saturating_add(blocks);
        }
    }

    /// Scans what was collected, and offers what is below the bound and `allows`.
    pub(crate) fn flush<S: Store, N: Numeric>(
        &mut self,
        index: &Index<S>,
        numeric: &mut N,
        allows: &mut impl FnMut(u32) -> bool,
        into: &mut Reservoir<'_>,
    ) -> Result<(), N::Error> {
        let rows = self.blocks.saturating_mul(BLOCK_ROWS as usize);
        let (Some(runs), Some(lower), Some(hits)) = (
            self.runs.get(..self.used),
            self.lower.get_mut(..rows),
            self.hits.get_mut(..self.blocks),
        ) else {
            // `add` is called when `is_full` has said that there is room.
            return Ok(());
        };
        if runs.is_empty() {
            return Ok(());
        }
        numeric.scan(runs, into.bound(), lower, hits)?;
        let words = index.layout.block_words as usize;
        let rows_at = index.layout.rows_at as usize;
        let blocks = runs.iter().flat_map(|run| run.blocks.chunks_exact(words));
        let results = lower.chunks_exact(BLOCK_ROWS as usize).zip(hits.iter());
        for (block, (lower, &hits)) in blocks.zip(results) {
            let rows = block.get(rows_at..).unwrap_or(&[]);
            let mut left = hits;
            while left != 0 {
                let place = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                let (Some(row), Some(&lower)) = (rows.get(place), lower.get(place)) else {
                    continue;
                };
                // The bound may have become lower since the scan.
                if lower > into.bound() {
                    continue;
                }
                // Acquire: what a row's number shows was written before; see `lists.rs` on holes.
                let row = row.load(Ordering::Acquire);
                if row & HOLE == 0 && allows(row) {
                    into.push(candidate(lower, row));
                }
            }
        }
        for run in runs {
            self.codes = self.codes.saturating_add(u64::from(run.rows));
        }
        self.used = 0;
        self.blocks = 0;
        self.enough = self.enough.saturating_mul(4);
        Ok(())
    }
}

impl<S: Store> Index<S> {
    /// Finds the nearest rows that are visible, and offers them to `top`: other rows may be there already, such
    /// as those above the index's watermark.
    ///
    /// The lists of `query.nprobe` are scanned, or more for a filter that few rows pass: their number grows with
    /// the root of its selectivity, since the nearest of few rows are farther away. If `top` is not full
    /// then, four times as many are, and so on to all of them, so `k` rows are found if there are as many.
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if scratch memory is too short, [`Error::Caller`], [`Error::Damaged`]. `top` holds
    /// what was found so far.
    pub fn search<N, F>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        visible: &mut F,
        query: &Query,
        top: &mut TopK<'_>,
    ) -> Result<Found, Error<N::Error>>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let mut found = Found::default();
        let keep = query.kept(top.k(), &self.params);
        let nlist = self.params.nlist as usize;
        let blocks = work.lower.len() / BLOCK_ROWS as usize;
        let short = work.lists.len() < Workspace::lists_for(self.params.nlist)
            || work.near.len() <= nlist
            || blocks == 0
            || work.hits.len() < blocks
            || work.candidates.len() <= keep;
        if short {
            return Err(Error::Workspace);
        }
        if top.k() == 0 {
            return Ok(found);
        }
        let mut seen = Seen::new(work.visited, work.touched);
        // Rows in two lists come once: by the better of two codes, whichever list it is in.
        let copies = self.params.copies > 1;
        let mut once = |row| !copies || seen.insert(row);
        let work = &mut Workspace {
            lists: work.lists,
            near: work.near,
            candidates: work.candidates,
            lower: work.lower,
            hits: work.hits,
            visited: &mut [],
            touched: &mut [],
        };
        let live = u64::from(self.rows());
        let mut until = query.probes(self.params.nlist, live) as usize;
        let mut from = 0;
        let mut ranked = self.rank_near(work, numeric, until)?;
        loop {
            if ranked < until {
                self.rank_others(work, numeric, from)?;
                ranked = nlist;
            }
            if self.params.code == Code::Flat {
                let mut keep = |visible: &mut F, row| visible.allows(row) && once(row);
                self.scan_rows(
                    work,
                    numeric,
                    visible,
                    from..until,
                    &mut keep,
                    top,
                    &mut found,
                )?;
            } else {
                self.scan_codes(
                    work,
                    numeric,
                    visible,
                    from..until,
                    keep,
                    &mut once,
                    top,
                    &mut found,
                )?;
            }
            if found.partial || top.is_full() || until >= nlist {
                return Ok(found);
            }
            // Rows are missing: on to further lists.
            from = until;
            until = until.saturating_mul(4).min(nlist);
        }
    }

    /// Writes the nearest lists to `work.lists`, in order; says how many, which is none if ranking all of them
    /// is no more work.
    fn rank_near<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        probes: usize,
    ) -> Result<usize, Error<N::Error>> {
        let nlist = self.params.nlist as usize;
        let wanted = (probes.saturating_mul(5) / 4).saturating_add(SPARE_LISTS);
        if !self.params.lists_have_codes() || wanted.saturating_mul(3) > nlist {
            return Ok(0);
        }
        let mut probe = Probe {
            list: self.params.nlist,
            ..Probe::default()
        };
        numeric.centres(
            &[probe.list],
            core::slice::from_mut(&mut probe.near),
            core::slice::from_mut(&mut probe.rank),
        )?;
        let mut into = Reservoir::new(work.lists, wanted);
        let mut scan = Scan::new(work.lower, work.hits);
        self.collect(&mut scan, probe, |scan| {
            scan.flush(self, numeric, &mut |_| true, &mut into)
        })?;
        scan.flush(self, numeric, &mut |_| true, &mut into)?;
        let lists = into.into_sorted();
        self.rank(lists, work.near, numeric)?;
        lists.sort_unstable();
        Ok(lists.len())
    }

    /// Ranks all lists but the first `from` of `work.lists`, behind those.
    fn rank_others<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        from: usize,
    ) -> Result<(), Error<N::Error>> {
        let nlist = self.params.nlist as usize;
        let near = work.near.get_mut(..nlist).ok_or(Error::Workspace)?;
        let lists = work.lists.get_mut(..nlist).ok_or(Error::Workspace)?;
        near.fill(0);
        let (done, others) = lists.split_at_mut_checked(from).ok_or(Error::Workspace)?;
        for &list in done.iter() {
            if let Some(near) = near.get_mut(number_of(list) as usize) {
                *near = u32::MAX;
            }
        }
        let left = (0u32..).zip(near.iter()).filter(|(_, near)| **near == 0);
        for (place, (list, _)) in others.iter_mut().zip(left) {
            *place = candidate(0, list);
        }
        self.rank(others, work.near, numeric)?;
        others.sort_unstable();
        Ok(())
    }

    /// Replaces the distances of lists by exact ones, and writes those by L2 to `near`.
    fn rank<N: Numeric>(
        &self,
        lists: &mut [u64],
        near: &mut [u32],
        numeric: &mut N,
    ) -> Result<(), Error<N::Error>> {
        for batch in lists.chunks_mut(BATCH) {
            let (mut numbers, mut nears, mut ranks) = ([0; BATCH], [0; BATCH], [0; BATCH]);
            let n = batch.len();
            for (number, list) in numbers.iter_mut().zip(batch.iter()) {
                *number = number_of(*list);
            }
            if let (Some(numbers), Some(nears), Some(ranks)) =
                (numbers.get(..n), nears.get_mut(..n), ranks.get_mut(..n))
            {
                numeric.centres(numbers, nears, ranks)?;
                for ((list, number), (key, rank)) in batch
                    .iter_mut()
                    .zip(numbers)
                    .zip(nears.iter().zip(ranks.iter()))
                {
                    *list = candidate(*rank, *number);
                    if let Some(place) = near.get_mut(*number as usize) {
                        *place = *key;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the blocks of a list to a scan; calls `flush` whenever it is full.
    pub(crate) fn collect<'s, E>(
        &'s self,
        scan: &mut Scan<'_, 's>,
        probe: Probe,
        mut flush: impl FnMut(&mut Scan<'_, 's>) -> Result<(), E>,
    ) -> Result<(), Error<E>> {
        let head = self.head(probe.list).ok_or(Error::Damaged)?;
        // Acquire: the rows below this number are written, and so are the links to their blocks.
        let mut left = head.slots.load(Ordering::Acquire);
        let mut number = head.first.load(Ordering::Relaxed);
        let words = self.layout.block_words as usize;
        while left > 0 {
            // Blocks that follow each other are one run.
            let (most, first) = (scan.most(), number);
            let mut blocks = 0usize;
            while blocks < most && (blocks as u64) * u64::from(BLOCK_ROWS) < u64::from(left) {
                let block = self.block(number).ok_or(Error::Damaged)?;
                let next = block.next().ok_or(Error::Damaged)?.load(Ordering::Relaxed);
                blocks = blocks.saturating_add(1);
                let follows = next == number.wrapping_add(1);
                number = next;
                if !follows {
                    break;
                }
            }
            let run = self.store.run(first, blocks as u32).ok_or(Error::Damaged)?;
            let together = run.len().checked_div(words).unwrap_or(0);
            if together == 0 || together > blocks {
                return Err(Error::Damaged);
            }
            if together < blocks {
                // The rest lies elsewhere in memory.
                number = first.wrapping_add(together as u32);
            }
            let rows = left.min((together as u32).saturating_mul(BLOCK_ROWS));
            if scan.is_full(together) {
                flush(scan)?;
            }
            let Probe { near, rank, .. } = probe;
            let blocks = run;
            scan.add(
                Run {
                    blocks,
                    rows,
                    near,
                    rank,
                },
                together,
            );
            left = left.saturating_sub(rows);
        }
        Ok(())
    }

    /// Scans the codes of ranked lists and scores the candidates that `once` says yes to.
    #[allow(clippy::too_many_arguments)]
    fn scan_codes<N, F>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        visible: &mut F,
        probes: Range<usize>,
        keep: usize,
        once: &mut impl FnMut(u64) -> bool,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<N::Error>>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let lists = work.lists.get(probes).ok_or(Error::Workspace)?;
        let mut into = Reservoir::new(work.candidates, keep);
        into.lower_bound_to(top.bound());
        let mut scan = Scan::new(work.lower, work.hits);
        for &list in lists {
            let probe = Probe {
                list: number_of(list),
                near: work
                    .near
                    .get(number_of(list) as usize)
                    .copied()
                    .unwrap_or(0),
                rank: distance_of(list),
            };
            let mut flushed = false;
            self.collect(&mut scan, probe, |scan| {
                flushed = true;
                scan.flush(
                    self,
                    numeric,
                    &mut |row| visible.allows(u64::from(row)),
                    &mut into,
                )
            })?;
            found.lists = found.lists.saturating_add(1);
            let done = found.codes.saturating_add(scan.codes);
            if flushed && visible.stop(done.saturating_add(found.distances)) {
                found.partial = true;
                break;
            }
        }
        scan.flush(
            self,
            numeric,
            &mut |row| visible.allows(u64::from(row)),
            &mut into,
        )?;
        found.codes = found.codes.saturating_add(scan.codes);
        rerank(into, numeric, visible, once, top, found)?;
        Ok(())
    }

    /// Scores the rows of ranked lists that `keep` says yes to.
    #[allow(clippy::too_many_arguments)]
    fn scan_rows<N, F>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        visible: &mut F,
        probes: Range<usize>,
        keep: &mut impl FnMut(&mut F, u64) -> bool,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<N::Error>>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let mut rows = Rows::default();
        for &list in work.lists.get(probes).ok_or(Error::Workspace)? {
            self.offer_list(
                number_of(list),
                &mut rows,
                numeric,
                visible,
                keep,
                top,
                found,
            )?;
            if found.partial {
                return Ok(());
            }
        }
        rows.flush(numeric, visible, top, found)?;
        Ok(())
    }
}
