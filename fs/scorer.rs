// SPDX-License-Identifier: GPL-2.0

//! The exact scan: pins the pages of a stretch of rows, scores them against a group of
//! queries, and offers the distances to each query's heap.
//!
//! Pages are pinned and straddling rows copied before an FPU section begins; a section
//! compares as many rows with as many queries as fit its time (`simd.rs`). Keys are looked up
//! only for rows that enter a heap.

use crate::candidates::Candidates;
use crate::element;
use crate::index::exact::Rows;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use vexfs_ann::topk::{Hit, TopK};
use vexfs_simd_ffi::{score_many_list, score_many_rows, BadShape, FpuToken, Isa};
use vexfs_vfs::page_cache::{Pinned, Scattered};
use vexfs_vfs::work::Stop;
use vexfs_vfs::{fpu, task, Inode};

/// Bytes of rows that all queries of a group are compared with before the next: with the
/// queries they stay in the L2 cache.
const TILE_BYTES: usize = 64 * 1024;
/// Rows scored in one section at most.
const SECTION_ROWS: usize = 1024;
/// Distances computed in one section at most: there is memory for so many.
const SECTION_DISTANCES: usize = 4096;
/// Rows in different pages scored in one section at most: they are listed on the stack.
const LISTED: usize = 64;
/// Rows that lie together from which on their addresses are computed, not listed.
const RUN: usize = 16;
/// Bytes for copies of rows that lie across pages.
const COPIES: usize = TILE_BYTES;
/// To look one row up costs as much as to go through so many bytes of rows in order.
const LOOKUP_BYTES: u64 = 1024;
/// Rows looked up at once.
const LOOKED_UP: usize = Scattered::PARTS;

/// What to scan for.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) inode: &'a Inode<VexFs>,
    pub(crate) area: &'a VectorArea,
    /// The queries, packed.
    pub(crate) queries: &'a [u8],
    pub(crate) candidates: &'a Candidates,
    /// Rows below this are not looked at.
    pub(crate) first: u64,
    /// Rows from here on are not either.
    pub(crate) end: u64,
    /// Distances beyond this key are no hits.
    pub(crate) bound: u32,
    /// When to stop, in nanoseconds of the monotonic clock.
    pub(crate) deadline: Option<u64>,
    /// When to give up.
    pub(crate) stop: &'a Stop,
}

/// What a scan did.
pub(crate) struct Outcome {
    pub(crate) distances: u64,
    pub(crate) partial: bool,
}

impl Outcome {
    fn add(&mut self, rows: usize, queries: usize) {
        let distances = (rows as u64).saturating_mul(queries as u64);
        self.distances = self.distances.saturating_add(distances);
    }
}

/// Rows, and where they are: a stretch from `first_row` on, if they are not [`Place::Listed`].
struct Batch<'a> {
    first_row: u64,
    rows: usize,
    place: Place<'a>,
}

impl<'a> Batch<'a> {
    fn new(first_row: u64, rows: usize, place: Place<'a>) -> Self {
        Batch {
            first_row,
            rows,
            place,
        }
    }
}

enum Place<'a> {
    /// Together in memory, at the container's stride.
    Run(&'a [u8]),
    /// In different pages; those across pages, in order, in the copies.
    Scattered(&'a Pinned, &'a Copies),
    /// Anywhere; these are their numbers.
    Listed(&'a [u64], &'a [&'a [u8]]),
}

/// Scans all candidates for all queries; `heaps` has one for each.
///
/// # Errors
///
/// `EINTR` for a fatal signal, `EIO` and the like if rows can't be read.
pub(crate) fn scan(scan: &Scan<'_>, heaps: &mut [TopK<'_>]) -> Result<Outcome> {
    let stride = u64::from(scan.area.stride);
    let bytes = element::row_bytes(scan.area)?;
    let simd = &scan.inode.volume().simd;
    let limit = simd
        .section_rows(element::elem(scan.area)?, bytes)
        .min(SECTION_ROWS);
    let tile = (TILE_BYTES / bytes).clamp(1, limit);
    // A single query has no use for the rows once it has seen them.
    let run_limit = if heaps.len() > 1 { tile } else { limit };
    let mut pinned = Pinned::new()?;
    let mut copies = Copies::new(bytes)?;
    let mut distances = KVVec::from_elem(0u32, SECTION_DISTANCES, GFP_KERNEL | __GFP_NOWARN)?;
    let mut outcome = Outcome {
        distances: 0,
        partial: false,
    };
    let rows_end = scan.end.min(scan.candidates.rows);
    let file_end = rows_end.saturating_mul(stride);
    let mut range = 0u64..0u64;
    let mut row = scan.first;
    let rows = Rows::new(scan.inode, scan.area)?;
    let looked_up = rows.listed_at_once(COPIES.max(bytes)).min(limit);
    let sparse = 64 * bytes as u64 / LOOKUP_BYTES.saturating_add(bytes as u64);
    let mut numbers = [0; LOOKED_UP];
    while let Some(next) = scan.candidates.next(row).filter(|row| *row < rows_end) {
        let start = next.saturating_mul(stride);
        scan.stop.check()?;
        task::cond_resched();
        if scan.deadline.is_some_and(|at| task::monotonic_ns() >= at) {
            outcome.partial = true;
            break;
        }
        let numbers = numbers.get_mut(..looked_up).ok_or(EINVAL)?;
        let n = scan
            .candidates
            .sparse(next, rows_end, sparse as u32, numbers);
        if let Some(numbers @ [.., last]) = numbers.get(..n) {
            range = 0..0;
            rows.listed(
                scan.inode,
                &mut pinned,
                &mut copies.memory,
                numbers,
                |list| {
                    let batch = Batch::new(next, list.len(), Place::Listed(numbers, list));
                    score(scan, &batch, heaps, &mut distances)
                },
            )?;
            outcome.add(n, heaps.len());
            row = last.saturating_add(1);
            continue;
        }
        if !range.contains(&start) || start.saturating_add(bytes as u64) > range.end {
            range = start..pinned.fill(scan.inode, start, file_end)?;
        }
        // Rows that end inside what is pinned; none if the row is larger than that.
        let inside = range.end.saturating_sub(start);
        let whole = match inside.checked_sub(bytes as u64) {
            Some(rest) => (rest / stride).saturating_add(1),
            None => 0,
        };
        let left = rows_end.saturating_sub(next);
        let whole = usize::try_from(whole.min(left)).unwrap_or(usize::MAX);
        let run = pinned.bytes_at(start);
        let n = if whole == 0 {
            // A row larger than what is pinned at once.
            pinned.read(scan.inode, start, file_end, copies.first()?)?;
            range = pinned.range();
            let batch = Batch::new(next, 1, Place::Run(copies.first()?));
            score(scan, &batch, heaps, &mut distances)?;
            batch.rows
        } else if run.len() >= RUN * scan.area.stride as usize || whole == 1 && run.len() >= bytes {
            let together = (run.len() - bytes) / scan.area.stride as usize + 1;
            let batch = Batch::new(next, whole.min(run_limit).min(together), Place::Run(run));
            score(scan, &batch, heaps, &mut distances)?;
            batch.rows
        } else {
            let rows = copies.fill(&pinned, start, stride, whole.min(tile).min(LISTED))?;
            // The next stretch's rows across pages arrive while this one is scored: copying
            // them cold cost a third of the scan.
            let after = start.saturating_add(stride.saturating_mul(rows as u64));
            copies.prefetch(&pinned, after, stride, tile.min(LISTED));
            let batch = Batch::new(next, rows, Place::Scattered(&pinned, &copies));
            score(scan, &batch, heaps, &mut distances)?;
            batch.rows
        };
        outcome.add(n, heaps.len());
        row = next.saturating_add(n as u64);
    }
    Ok(outcome)
}

/// Copies of rows that lie across pages.
struct Copies {
    bytes: usize,
    memory: KVVec<u8>,
}

impl Copies {
    fn new(bytes: usize) -> Result<Self> {
        let slots = (COPIES / bytes).max(1);
        let bytes_of_all = slots.checked_mul(bytes).ok_or(EINVAL)?;
        // Who searches is told if memory is short; the kernel's log need not be.
        let memory = KVVec::from_elem(0, bytes_of_all, GFP_KERNEL | __GFP_NOWARN)?;
        Ok(Copies { bytes, memory })
    }

    fn first(&mut self) -> Result<&mut [u8]> {
        self.memory.get_mut(..self.bytes).ok_or(EINVAL)
    }

    /// Prefetches those of `rows` rows from `start` on that [`Copies::fill`] would copy.
    fn prefetch(&self, pinned: &Pinned, start: u64, stride: u64, rows: usize) {
        let (mut at, mut hint) = (start, 0);
        for _ in 0..rows {
            let here = pinned.bytes_near(at, &mut hint).len();
            if here > 0 && here < self.bytes {
                let mut hint = hint;
                pinned.prefetch(at, self.bytes, &mut hint);
            }
            at = at.saturating_add(stride);
        }
    }

    /// Copies those of `rows` rows from `start` on that do not lie together in memory, in
    /// order. Returns how many rows there was room for; at least one.
    fn fill(&mut self, pinned: &Pinned, start: u64, stride: u64, rows: usize) -> Result<usize> {
        let mut slots = self.memory.chunks_mut(self.bytes);
        let (mut at, mut hint) = (start, 0);
        for index in 0..rows {
            if pinned.bytes_near(at, &mut hint).len() < self.bytes {
                match slots.next() {
                    Some(slot) => pinned.copy_at(at, slot)?,
                    None => return Ok(index),
                }
            }
            at = at.saturating_add(stride);
        }
        Ok(rows)
    }
}

/// Scores a batch for all queries, as many of them in one section as fit its time, and offers
/// the distances.
fn score(
    scan: &Scan<'_>,
    batch: &Batch<'_>,
    heaps: &mut [TopK<'_>],
    distances: &mut [u32],
) -> Result {
    let simd = &scan.inode.volume().simd;
    let elem = element::elem(scan.area)?;
    let bytes = element::row_bytes(scan.area)?;
    let group = simd
        .section_queries(elem, bytes, batch.rows)
        .min(distances.len() / batch.rows.max(1));
    if group == 0 {
        return Err(EINVAL);
    }
    let queries = scan.queries.chunks(group.saturating_mul(bytes));
    for (queries, heaps) in queries.zip(heaps.chunks_mut(group)) {
        let distances = distances
            .get_mut(..heaps.len().saturating_mul(batch.rows))
            .ok_or(EINVAL)?;
        fpu::section(|t| score_tile(t, simd.isa, scan.area, batch, queries, distances))?
            .map_err(|_| EINVAL)?;
        for (distances, heap) in distances.chunks(batch.rows).zip(heaps) {
            offer(scan, batch, distances, heap)?;
        }
    }
    Ok(())
}

/// Compares each of the packed `queries` with each row of the batch: `distances` becomes a row
/// of `batch.rows` for each query. Inside a section: does not sleep.
fn score_tile(
    t: &FpuToken<'_>,
    isa: Isa,
    area: &VectorArea,
    batch: &Batch<'_>,
    queries: &[u8],
    distances: &mut [u32],
) -> core::result::Result<(), BadShape> {
    let elem = element::elem(area).map_err(|_| BadShape)?;
    let metric = element::metric(area).map_err(|_| BadShape)?;
    let (stride, dim) = (area.stride as usize, area.dim as usize);
    let (pinned, copies) = match &batch.place {
        Place::Run(rows) => {
            return score_many_rows(t, isa, elem, metric, queries, rows, stride, dim, distances);
        }
        Place::Listed(_, list) => {
            return score_many_list(t, isa, elem, metric, queries, list, dim, distances);
        }
        Place::Scattered(pinned, copies) => (pinned, copies),
    };
    let mut list: [&[u8]; LISTED] = [&[]; LISTED];
    let mut copied = copies.memory.chunks(copies.bytes);
    let mut at = batch.first_row.saturating_mul(stride as u64);
    let mut hint = 0;
    for place in list.iter_mut().take(batch.rows) {
        let here = pinned.bytes_near(at, &mut hint);
        *place = if here.len() < copies.bytes {
            copied.next().ok_or(BadShape)?
        } else {
            here
        };
        at = at.saturating_add(stride as u64);
    }
    let list = list.get(..batch.rows).ok_or(BadShape)?;
    score_many_list(t, isa, elem, metric, queries, list, dim, distances)
}

fn offer(scan: &Scan<'_>, batch: &Batch<'_>, distances: &[u32], heap: &mut TopK<'_>) -> Result {
    for (index, distance) in distances.iter().copied().enumerate() {
        let row = match batch.place {
            Place::Listed(numbers, _) => numbers.get(index).copied().ok_or(EINVAL)?,
            _ => batch.first_row.saturating_add(index as u64),
        };
        if distance > heap.bound().min(scan.bound) || !scan.candidates.allows(row) {
            continue;
        }
        let key = scan.inode.node().container.lock().key_of(row);
        heap.push(Hit { distance, key, row });
    }
    Ok(())
}
