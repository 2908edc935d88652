// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Rows by their exact distances: those of a list, the candidates of a scan, or all that pass a filter.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::lists::HOLE;
use super::search::Found;
use super::store::{Numeric, Store, BATCH};
use super::{Error, Index};
use crate::reservoir::{distance_of, number_of, Reservoir};
use crate::visible::Visible;
use crate::{Hit, TopK};

/// Candidates scored at once: enough to hide the latency of memory, few enough to stop in time.
const RERANK: usize = 16;

/// One search: whom it asks for distances and visibility, and what it has found.
pub(crate) struct Search<'a, 't, N, F> {
    pub(crate) numeric: &'a mut N,
    pub(crate) visible: &'a mut F,
    pub(crate) top: &'a mut TopK<'t>,
    pub(crate) found: Found,
}

impl<'a, 't, N, F> Search<'a, 't, N, F>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    /// Nothing is done yet.
    pub(crate) fn new(numeric: &'a mut N, visible: &'a mut F, top: &'a mut TopK<'t>) -> Self {
        Search {
            numeric,
            visible,
            top,
            found: Found::default(),
        }
    }

    /// Scores those rows of a list that `keep` says yes to, a batch at a time; the last ones stay in `rows`. Ends early if
    /// the search is stopped.
    pub(crate) fn offer_list<S: Store>(
        &mut self,
        index: &Index<S>,
        list: u32,
        rows: &mut Rows,
        keep: &mut impl FnMut(&mut F, u64) -> bool,
    ) -> Result<(), Error<N::Error>> {
        let mut result = Ok(());
        let walked = index.walk(list, |_, block, in_it| {
            for place in 0..in_it {
                let Some(row) = block.row(place) else {
                    continue;
                };
                let row = row.load(Ordering::Acquire);
                if row & HOLE != 0 || !keep(self.visible, u64::from(row)) {
                    continue;
                }
                if rows.push(u64::from(row)) {
                    result = self.offer_rows(rows);
                    if result.is_err() || self.found.partial {
                        return false;
                    }
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        result?;
        self.found.lists = self.found.lists.saturating_add(1);
        Ok(())
    }

    /// Offers every row of `rows` that passes the filter and `keep` says yes to.
    pub(crate) fn offer_all(
        &mut self,
        mut rows: Range<u64>,
        keep: &mut impl FnMut(u64) -> bool,
    ) -> Result<(), N::Error> {
        let mut batch = Rows::default();
        while let Some(row) = self.visible.next_allowed(rows.clone()) {
            rows.start = row.saturating_add(1);
            if keep(row) && batch.push(row) {
                self.offer_rows(&mut batch)?;
                if self.found.partial {
                    return Ok(());
                }
            }
        }
        self.offer_rows(&mut batch)
    }

    /// Offers the candidates of a scan that `keep` says yes to by their exact distances, until none of the others can
    /// be among the best.
    pub(crate) fn rerank(
        &mut self,
        candidates: Reservoir<'_>,
        keep: &mut impl FnMut(u64) -> bool,
    ) -> Result<(), N::Error> {
        for batch in candidates.into_sorted().chunks(RERANK) {
            let first = batch.first().map_or(u32::MAX, |first| distance_of(*first));
            // What comes now has a bound beyond the worst result: none of it can enter.
            if self.top.is_full() && first > self.top.bound() {
                break;
            }
            let (mut rows, mut used) = ([0; RERANK], 0usize);
            let numbers = batch.iter().map(|of| u64::from(number_of(*of)));
            for (place, row) in rows.iter_mut().zip(numbers.filter(|row| keep(*row))) {
                *place = row;
                used = used.saturating_add(1);
            }
            self.offer(rows.get(..used).unwrap_or(&[]))?;
            if self.found.partial {
                break;
            }
        }
        Ok(())
    }

    /// Offers what was collected.
    pub(crate) fn offer_rows(&mut self, rows: &mut Rows) -> Result<(), N::Error> {
        let collected = rows.rows.get(..rows.used).unwrap_or(&[]);
        rows.used = 0;
        self.offer(collected)
    }

    /// Offers rows, at most [`BATCH`], by their exact distances.
    fn offer(&mut self, rows: &[u64]) -> Result<(), N::Error> {
        let mut distances = [0; BATCH];
        let Some(distances) = distances.get_mut(..rows.len()).filter(|d| !d.is_empty()) else {
            return Ok(());
        };
        self.numeric.exact(rows, distances)?;
        self.found.distances = self.found.distances.saturating_add(rows.len() as u64);
        for (&row, &distance) in rows.iter().zip(distances.iter()) {
            if distance > self.top.bound() {
                continue;
            }
            if let Some(key) = self.visible.key(row)? {
                self.top.push(Hit { distance, key, row });
            }
        }
        let done = self.found.codes.saturating_add(self.found.distances);
        self.found.partial = self.visible.stop(done);
        Ok(())
    }
}

/// Rows that are collected until they are worth a call.
pub(crate) struct Rows {
    rows: [u64; BATCH],
    used: usize,
}

impl Default for Rows {
    fn default() -> Self {
        Rows {
            rows: [0; BATCH],
            used: 0,
        }
    }
}

impl Rows {
    /// Adds a row; says whether there is room for no more.
    fn push(&mut self, row: u64) -> bool {
        if let Some(place) = self.rows.get_mut(self.used) {
            *place = row;
            self.used = self.used.saturating_add(1);
        }
        self.used >= BATCH
    }
}

/// Scores every row of `rows` that passes the filter: the exact answer, for filters that few rows pass. What
/// `top` holds already must not be among them.
///
/// # Errors
///
/// The first error of the arithmetic or of the filter.
pub fn exact<N, F>(
    numeric: &mut N,
    visible: &mut F,
    rows: Range<u64>,
    top: &mut TopK<'_>,
) -> Result<Found, N::Error>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let mut search = Search::new(numeric, visible, top);
    search.offer_all(rows, &mut |_| true)?;
    Ok(search.found)
}
