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
use vexfs_simd_ffi::{score_rows, Elem};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, task, Inode};

/// Bytes of rows scored in one FPU section: some microseconds of work.
const SECTION_BYTES: usize = 64 * 1024;
/// Rows scored in one section at most.
const SECTION_ROWS: usize = 256;

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

/// Rows whose distances wait to be offered.
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
    let stride = scan.area.stride as usize;
    let bytes = crate::rows::row_bytes(scan.area);
    let mut pinned = Pinned::new()?;
    let mut straddling = KVVec::from_elem(0u8, bytes, GFP_KERNEL)?;
    let mut distances = KVec::from_elem(0u32, SECTION_ROWS, GFP_KERNEL)?;
    let mut outcome = Outcome {
        distances: 0,
        partial: false,
    };
    let file_end = scan.candidates.rows.saturating_mul(stride as u64);
    let mut range = 0u64..0u64;
    let mut row = 0;
    while let Some(next) = scan.candidates.next(row) {
        row = next;
        let start = row.saturating_mul(stride as u64);
        let end = start.saturating_add(bytes as u64);
        if !range.contains(&start) || end > range.end {
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
        let here = pinned.bytes_at(start);
        let batch = if here.len() >= bytes {
            let whole = (here.len() - bytes) / stride + 1;
            let limit = (SECTION_BYTES / stride).clamp(1, SECTION_ROWS);
            let left = usize::try_from(scan.candidates.rows - row).unwrap_or(usize::MAX);
            let batch = Batch {
                first_row: row,
                rows: whole.min(limit).min(left),
            };
            score(scan, here, &batch, heaps, &mut distances)?;
            batch
        } else {
            // The row lies across pages, maybe beyond those pinned.
            copy_row(scan, &mut pinned, &mut range, start, &mut straddling)?;
            let batch = Batch {
                first_row: row,
                rows: 1,
            };
            score(scan, &straddling, &batch, heaps, &mut distances)?;
            batch
        };
        let n = batch.rows as u64;
        outcome.distances = outcome
            .distances
            .saturating_add(n.saturating_mul(heaps.len() as u64));
        row = row.saturating_add(n);
    }
    Ok(outcome)
}

/// Copies a row, pinning further pages where needed.
fn copy_row(
    scan: &Scan<'_>,
    pinned: &mut Pinned,
    range: &mut core::ops::Range<u64>,
    start: u64,
    out: &mut [u8],
) -> Result {
    let file_end = scan
        .candidates
        .rows
        .saturating_mul(u64::from(scan.area.stride));
    let mut done = 0;
    while done < out.len() {
        let at = start.saturating_add(done as u64);
        if !range.contains(&at) {
            *range = 0..0;
            *range = at..pinned.fill(scan.inode, at, file_end)?;
        }
        let n = usize::try_from(range.end.saturating_sub(at))?.min(out.len() - done);
        let piece = out
            .get_mut(done..done + n)
            .filter(|piece| !piece.is_empty())
            .ok_or(EIO)?;
        pinned.copy_at(at, piece)?;
        done += n;
    }
    Ok(())
}

fn score(
    scan: &Scan<'_>,
    rows: &[u8],
    batch: &Batch,
    heaps: &mut [TopK<'_>],
    distances: &mut [u32],
) -> Result {
    let bytes = crate::rows::row_bytes(scan.area);
    let metric = metric(scan.area)?;
    let isa = scan.inode.volume().isa;
    let distances = distances.get_mut(..batch.rows).ok_or(EINVAL)?;
    for (query, heap) in scan.queries.chunks(bytes).zip(heaps.iter_mut()) {
        fpu::section(|t| {
            score_rows(
                t,
                isa,
                Elem::F32,
                metric,
                query,
                rows,
                scan.area.stride as usize,
                scan.area.dim as usize,
                distances,
            )
        })
        .map_err(|_| EINVAL)?;
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
