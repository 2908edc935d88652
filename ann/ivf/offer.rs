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

impl<S: Store> Index<S> {
    /// Scores those rows of a list that `keep` says yes to, a batch at a time; the last ones stay in `rows`. Ends early if
    /// `found` is partial.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn offer_list<N, F>(
        &self,
        list: u32,
        rows: &mut Rows,
        numeric: &mut N,
        visible: &mut F,
        keep: &mut impl FnMut(&mut F, u64) -> bool,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<N::Error>>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let mut result = Ok(());
        let walked = self.walk(list, |_, block, in_it| {
            for place in 0..in_it {
                let Some(row) = block.row(place) else {
                    continue;
                };
                let row = row.load(Ordering::Acquire);
                if row & HOLE != 0 || !keep(visible, u64::from(row)) {
                    continue;
                }
                if rows.push(u64::from(row)) {
                    result = rows.flush(numeric, visible, top, found);
                    if result.is_err() || found.partial {
                        return false;
                    }
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        result?;
        found.lists = found.lists.saturating_add(1);
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

    /// Offers what was collected.
    pub(crate) fn flush<N, F>(
        &mut self,
        numeric: &mut N,
        visible: &mut F,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), N::Error>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let rows = self.rows.get(..self.used).unwrap_or(&[]);
        self.used = 0;
        offer(numeric, visible, rows, top, found)
    }
}

/// Offers the candidates of a scan that `keep` says yes to by their exact distances, until none of the others can be
/// among the best.
pub(crate) fn rerank<N, F>(
    candidates: Reservoir<'_>,
    numeric: &mut N,
    visible: &mut F,
    keep: &mut impl FnMut(u64) -> bool,
    top: &mut TopK<'_>,
    found: &mut Found,
) -> Result<(), N::Error>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    for batch in candidates.into_sorted().chunks(RERANK) {
        let first = batch.first().map_or(u32::MAX, |first| distance_of(*first));
        // What comes now has a bound beyond the worst result: none of it can enter.
        if top.is_full() && first > top.bound() {
            break;
        }
        let (mut rows, mut used) = ([0; RERANK], 0usize);
        let numbers = batch.iter().map(|of| u64::from(number_of(*of)));
        for (place, row) in rows.iter_mut().zip(numbers.filter(|row| keep(*row))) {
            *place = row;
            used = used.saturating_add(1);
        }
        let rows = rows.get(..used).unwrap_or(&[]);
        offer(numeric, visible, rows, top, found)?;
        if found.partial {
            break;
        }
    }
    Ok(())
}

/// Offers rows, at most [`BATCH`], by their exact distances.
fn offer<N, F>(
    numeric: &mut N,
    visible: &mut F,
    rows: &[u64],
    top: &mut TopK<'_>,
    found: &mut Found,
) -> Result<(), N::Error>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let mut distances = [0; BATCH];
    let Some(distances) = distances.get_mut(..rows.len()).filter(|d| !d.is_empty()) else {
        return Ok(());
    };
    numeric.exact(rows, distances)?;
    found.distances = found.distances.saturating_add(rows.len() as u64);
    for (&row, &distance) in rows.iter().zip(distances.iter()) {
        if distance > top.bound() {
            continue;
        }
        if let Some(key) = visible.key(row)? {
            top.push(Hit { distance, key, row });
        }
    }
    found.partial = visible.stop(found.codes.saturating_add(found.distances));
    Ok(())
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
    let mut found = Found::default();
    offer_all(numeric, visible, rows, &mut |_| true, top, &mut found)?;
    Ok(found)
}

/// As [`exact`], of the rows that `keep` says yes to.
pub(crate) fn offer_all<N, F>(
    numeric: &mut N,
    visible: &mut F,
    mut rows: Range<u64>,
    keep: &mut impl FnMut(u64) -> bool,
    top: &mut TopK<'_>,
    found: &mut Found,
) -> Result<(), N::Error>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let mut batch = Rows::default();
    while let Some(row) = visible.next_allowed(rows.clone()) {
        rows.start = row.saturating_add(1);
        if keep(row) && batch.push(row) {
            batch.flush(numeric, visible, top, found)?;
            if found.partial {
                return Ok(());
            }
        }
    }
    batch.flush(numeric, visible, top, found)
}
