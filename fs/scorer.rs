// SPDX-License-Identifier: GPL-2.0

//! The exact scan: pins the pages of a stretch of rows, scores them against a group of
//! queries, and offers the distances to each query's heap.
//!
//! Pages are pinned and straddling rows copied before an FPU section begins; a section
//! scores a bounded number of rows. Keys are looked up only for rows that enter a heap.

use crate::container;
use crate::search::metric;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use vexfs_ann::topk::{Hit, TopK};
use vexfs_simd_ffi::{score_list, score_rows, BadShape, Elem, FpuToken, Isa};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, task, Inode};

/// Bytes of rows scored in one FPU section: some microseconds of work.
const SECTION_BYTES: usize = 64 * 1024;
/// Rows scored in one section at most.
const SECTION_ROWS: usize = 32;
/// Rows that lie together from which on their addresses are computed, not listed.
const RUN: usize = 16;
/// Bytes for copies of rows that lie across pages.
const COPIES: usize = 64 * 1024;

/// The rows that may be hits.
pub(crate) struct Candidates {
    /// Rows from here on are not.
    pub(crate) rows: u64,
    /// If present, a row is one only if its bit is set.
    pub(crate) bitmap: Option<KVVec<u64>>,
}

impl Candidates {
    fn allows(&self, row: u64) -> bool {
        self.bitmap.as_ref().is_none_or(|words| {
            words
                .get((row / 64) as usize)
                .is_some_and(|word| word >> (row % 64) & 1 != 0)
        })
    }

    /// The first candidate from `row` on.
    fn next(&self, mut row: u64) -> Option<u64> {
        let Some(words) = &self.bitmap else {
            return (row < self.rows).then_some(row);
        };
        while row < self.rows {
            let word = words.get((row / 64) as usize)? >> (row % 64);
            if word != 0 {
                row = row.saturating_add(u64::from(word.trailing_zeros()));
                return (row < self.rows).then_some(row);
            }
            row = (row / 64).saturating_add(1).saturating_mul(64);
        }
        None
    }
}

/// What to scan for.
pub(crate) struct Scan<'a> {
    pub(crate) inode: &'a Inode<VexFs>,
    pub(crate) area: &'a VectorArea,
    /// The queries, packed.
    pub(crate) queries: &'a [u8],
    pub(crate) candidates: &'a Candidates,
    /// Distances beyond this key are no hits.
    pub(crate) bound: u32,
    /// When to stop, in nanoseconds of the monotonic clock.
    pub(crate) deadline: Option<u64>,
}

/// What a scan did.
pub(crate) struct Outcome {
    pub(crate) distances: u64,
    pub(crate) partial: bool,
}

/// A stretch of rows, and where they are.
struct Batch {
    first_row: u64,
    rows: usize,
}

/// Scans all candidates for all queries; `heaps` has one for each.
///
/// # Errors
///
/// `EINTR` for a fatal signal, `EIO` and the like if rows can't be read.
pub(crate) fn scan(scan: &Scan<'_>, heaps: &mut [TopK<'_>]) -> Result<Outcome> {
    let stride = u64::from(scan.area.stride);
    let bytes = crate::rows::row_bytes(scan.area);
    let limit = (SECTION_BYTES / bytes).clamp(1, SECTION_ROWS);
    let mut pinned = Pinned::new()?;
    let mut copies = Copies::new(bytes)?;
    let mut distances = KVec::from_elem(0u32, SECTION_ROWS, GFP_KERNEL)?;
    let mut outcome = Outcome {
        distances: 0,
        partial: false,
    };
    let file_end = scan.candidates.rows.saturating_mul(stride);
    let mut range = 0u64..0u64;
    let mut row = 0;
    while let Some(next) = scan.candidates.next(row) {
        let start = next.saturating_mul(stride);
        if !range.contains(&start) || start.saturating_add(bytes as u64) > range.end {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            if scan.deadline.is_some_and(|at| task::monotonic_ns() >= at) {
                outcome.partial = true;
                break;
            }
            range = start..pinned.fill(scan.inode, start, file_end)?;
        }
        // Rows that end inside what is pinned; none if the row is larger than that.
        let inside = range.end.saturating_sub(start);
        let whole = match inside.checked_sub(bytes as u64) {
            Some(rest) => (rest / stride).saturating_add(1),
            None => 0,
        };
        let left = scan.candidates.rows.saturating_sub(next);
        let whole = usize::try_from(whole.min(left)).unwrap_or(usize::MAX);
        let mut batch = Batch {
            first_row: next,
            rows: whole.min(limit),
        };
        let run = pinned.bytes_at(start);
        if batch.rows == 0 {
            batch.rows = 1;
            // A row larger than what is pinned at once.
            pinned.read(scan.inode, start, file_end, copies.first()?)?;
            range = pinned.range();
            score_run(scan, copies.first()?, &batch, heaps, &mut distances)?;
        } else if run.len() >= RUN * scan.area.stride as usize
            || batch.rows == 1 && run.len() >= bytes
        {
            let together = (run.len() - bytes) / scan.area.stride as usize + 1;
            batch.rows = batch.rows.min(together);
            score_run(scan, run, &batch, heaps, &mut distances)?;
        } else {
            batch.rows = copies.fill(&pinned, start, stride, batch.rows)?;
            // The next stretch's rows across pages arrive while this one is scored: copying
            // them cold cost a third of the scan.
            let after = start.saturating_add(stride.saturating_mul(batch.rows as u64));
            copies.prefetch(&pinned, after, stride, limit);
            score_scattered(scan, &pinned, &copies, &batch, heaps, &mut distances)?;
        }
        let n = batch.rows as u64;
        outcome.distances = outcome
            .distances
            .saturating_add(n.saturating_mul(heaps.len() as u64));
        row = next.saturating_add(n);
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
        Ok(Copies {
            bytes,
            memory: KVVec::from_elem(0, slots.checked_mul(bytes).ok_or(EINVAL)?, GFP_KERNEL)?,
        })
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

/// Scores rows that lie together.
fn score_run(
    scan: &Scan<'_>,
    rows: &[u8],
    batch: &Batch,
    heaps: &mut [TopK<'_>],
    distances: &mut [u32],
) -> Result {
    let metric = metric(scan.area)?;
    let (stride, dim) = (scan.area.stride as usize, scan.area.dim as usize);
    score(scan, batch, heaps, distances, |t, isa, query, out| {
        score_rows(t, isa, Elem::F32, metric, query, rows, stride, dim, out)
    })
}

/// Scores rows in different pages, those across pages from their copies.
fn score_scattered(
    scan: &Scan<'_>,
    pinned: &Pinned,
    copies: &Copies,
    batch: &Batch,
    heaps: &mut [TopK<'_>],
    distances: &mut [u32],
) -> Result {
    let metric = metric(scan.area)?;
    let stride = u64::from(scan.area.stride);
    let mut at = batch.first_row.saturating_mul(stride);
    let mut list: [&[u8]; SECTION_ROWS] = [&[]; SECTION_ROWS];
    let mut copied = copies.memory.chunks(copies.bytes);
    let mut hint = 0;
    for place in list.iter_mut().take(batch.rows) {
        let here = pinned.bytes_near(at, &mut hint);
        *place = if here.len() < copies.bytes {
            copied.next().ok_or(EINVAL)?
        } else {
            here
        };
        at = at.saturating_add(stride);
    }
    let list = list.get(..batch.rows).ok_or(EINVAL)?;
    score(scan, batch, heaps, distances, |t, isa, query, out| {
        score_list(
            t,
            isa,
            Elem::F32,
            metric,
            query,
            list,
            scan.area.dim as usize,
            out,
        )
    })
}

/// Scores a batch for each query, a section each, and offers the distances.
fn score(
    scan: &Scan<'_>,
    batch: &Batch,
    heaps: &mut [TopK<'_>],
    distances: &mut [u32],
    f: impl Fn(&FpuToken<'_>, Isa, &[u8], &mut [u32]) -> core::result::Result<(), BadShape>,
) -> Result {
    let isa = scan.inode.volume().isa;
    let distances = distances.get_mut(..batch.rows).ok_or(EINVAL)?;
    let queries = scan.queries.chunks(crate::rows::row_bytes(scan.area));
    for (query, heap) in queries.zip(heaps.iter_mut()) {
        fpu::section(|t| f(t, isa, query, distances)).map_err(|_| EINVAL)?;
        offer(scan, batch, distances, heap)?;
    }
    Ok(())
}

fn offer(scan: &Scan<'_>, batch: &Batch, distances: &[u32], heap: &mut TopK<'_>) -> Result {
    for (row, distance) in (batch.first_row..).zip(distances.iter().copied()) {
        if distance > heap.bound().min(scan.bound) || !scan.candidates.allows(row) {
            continue;
        }
        let key = container::with(scan.inode, |c| Ok(c.key_of(row)))?;
        heap.push(Hit { distance, key, row });
    }
    Ok(())
}
