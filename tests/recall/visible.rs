// SPDX-License-Identifier: Apache-2.0

//! Which rows a search sees, and how many of the right ones it found.

use vexfs_ann::{Hit, Visible};
use vexfs_simd_host::BadShape;

/// Everything is visible.
pub struct All;

impl Visible for All {
    type Error = BadShape;

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok(Some(row))
    }
}

/// A filter by a function of the row; keys are rows.
pub struct Passing<F>(pub F);

impl<F: FnMut(u64) -> bool> Visible for Passing<F> {
    type Error = BadShape;

    #[inline]
    fn allows(&mut self, row: u64) -> bool {
        (self.0)(row)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok((self.0)(row).then_some(row))
    }
}

/// How many of the exact answer were found, of all queries together.
pub fn recall(found: &[Vec<Hit>], exact: &[Vec<Hit>]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (found, exact) in found.iter().zip(exact) {
        all += exact.len();
        hits += exact
            .iter()
            .filter(|e| found.iter().any(|f| f.row == e.row))
            .count();
    }
    hits as f64 / all.max(1) as f64
}
