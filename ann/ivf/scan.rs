// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Scans: blocks of lists are collected until they are worth a call, and rows below the bound become candidates.

use core::sync::atomic::Ordering;

use super::lists::HOLE;
use super::params::BLOCK_ROWS;
use super::store::{Numeric, Run, Store};
use super::{Error, Index};
use crate::reservoir::{candidate, Reservoir};

/// Runs of one call to [`Numeric::scan`]: a kilobyte of stack.
const RUNS: usize = 32;

/// Blocks of the first scan of a search, which has no bound to compare with yet.
const FIRST_BLOCKS: usize = 8;

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
}
