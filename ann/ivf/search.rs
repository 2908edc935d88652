// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The search: rank lists, scan codes, score the candidates by their rows.

use core::ops::Range;

use super::offer::{Rows, Search};
use super::params::BLOCK_ROWS;
use super::rank::SPARE_LISTS;
use super::scan::{Probe, Scan};
use super::store::{Numeric, Store};
use super::{Code, Error, Index, Params};
use crate::reservoir::{self, distance_of, number_of, Reservoir};
use crate::seen::Seen;
use crate::visible::Visible;
use crate::TopK;

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
        let mut search = Search::new(numeric, visible, top);
        let keep = query.kept(search.top.k(), &self.params);
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
        if search.top.k() == 0 {
            return Ok(search.found);
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
        let mut ranked = self.rank_near(work, search.numeric, until)?;
        loop {
            if ranked < until {
                self.rank_others(work, search.numeric, from)?;
                ranked = nlist;
            }
            if self.params.code == Code::Flat {
                search.scan_rows(self, work, from..until, &mut once)?;
            } else {
                search.scan_codes(self, work, from..until, keep, &mut once)?;
            }
            if search.found.partial || search.top.is_full() || until >= nlist {
                return Ok(search.found);
            }
            // Rows are missing: on to further lists.
            from = until;
            until = until.saturating_mul(4).min(nlist);
        }
    }
}

impl<N, F> Search<'_, '_, N, F>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    /// Scans the codes of ranked lists and scores the candidates that `once` says yes to.
    fn scan_codes<S: Store>(
        &mut self,
        index: &Index<S>,
        work: &mut Workspace<'_>,
        probes: Range<usize>,
        keep: usize,
        once: &mut impl FnMut(u64) -> bool,
    ) -> Result<(), Error<N::Error>> {
        let lists = work.lists.get(probes).ok_or(Error::Workspace)?;
        let mut into = Reservoir::new(work.candidates, keep);
        into.lower_bound_to(self.top.bound());
        let mut scan = Scan::new(work.lower, work.hits);
        for &list in lists {
            let number = number_of(list);
            let probe = Probe {
                list: number,
                near: work.near.get(number as usize).copied().unwrap_or(0),
                rank: distance_of(list),
            };
            let mut flushed = false;
            index.collect(&mut scan, probe, |scan| {
                flushed = true;
                self.scan_allowed(index, scan, &mut into)
            })?;
            self.found.lists = self.found.lists.saturating_add(1);
            let done = self.found.codes.saturating_add(scan.codes);
            if flushed && self.visible.stop(done.saturating_add(self.found.distances)) {
                self.found.partial = true;
                break;
            }
        }
        self.scan_allowed(index, &mut scan, &mut into)?;
        self.found.codes = self.found.codes.saturating_add(scan.codes);
        self.rerank(into, once)?;
        Ok(())
    }

    /// Scans what was collected, for rows that the filter allows.
    fn scan_allowed<S: Store>(
        &mut self,
        index: &Index<S>,
        scan: &mut Scan<'_, '_>,
        into: &mut Reservoir<'_>,
    ) -> Result<(), N::Error> {
        let Search {
            numeric, visible, ..
        } = self;
        let mut allows = |row| visible.allows(u64::from(row));
        scan.flush(index, *numeric, &mut allows, into)
    }

    /// Scores the rows of ranked lists that the filter allows and `once` says yes to.
    fn scan_rows<S: Store>(
        &mut self,
        index: &Index<S>,
        work: &mut Workspace<'_>,
        probes: Range<usize>,
        once: &mut impl FnMut(u64) -> bool,
    ) -> Result<(), Error<N::Error>> {
        let mut keep = |visible: &mut F, row| visible.allows(row) && once(row);
        let mut rows = Rows::default();
        for &list in work.lists.get(probes).ok_or(Error::Workspace)? {
            self.offer_list(index, number_of(list), &mut rows, &mut keep)?;
            if self.found.partial {
                return Ok(());
            }
        }
        self.offer_rows(&mut rows)?;
        Ok(())
    }
}
