// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which rows a search may return, and when it must end.

use core::ops::Range;

/// A search's view of the container: filter, tombstones, permissions and budget.
pub trait Visible {
    /// Why a row's visibility cannot be told.
    type Error;

    /// Whether `row` passes the filter and is not deleted. Asked often, during traversal.
    fn allows(&mut self, row: u64) -> bool {
        let _ = row;
        true
    }

    /// The first row of `rows` that passes the filter, for exact scans.
    fn next_allowed(&mut self, rows: Range<u64>) -> Option<u64> {
        rows.into_iter().find(|&row| self.allows(row))
    }

    /// The key of `row`, or `None` if it is deleted or does not pass the filter. Asked once per
    /// result.
    fn key(&mut self, row: u64) -> Result<Option<u64>, Self::Error>;

    /// Whether to stop, after `distances` were computed altogether. Asked once per batch, which is some
    /// microseconds of work.
    fn stop(&mut self, distances: u64) -> bool {
        let _ = distances;
        false
    }
}
