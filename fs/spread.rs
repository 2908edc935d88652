// SPDX-License-Identifier: GPL-2.0

//! One search on several processors: threads take queries of a walk, or stretches of rows of an exact
//! scan, until none is left. The hits are those of one thread.
//!
//! The caller holds `Node::rows` for all of them. A fatal signal for it, and the time budget, end the
//! work of all through `Scan`.

use crate::element;
use crate::index::search::{Outcome, Walk};
use crate::scorer::{self, Scan};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};
use vexfs_ann::topk::{Hit, TopK};
use vexfs_vfs::work;

/// Pieces for each thread, so that none waits long for the last.
const PIECES: usize = 4;
/// Queries taken at once at most.
const QUERIES: usize = 16;
/// Bytes of rows taken at once at least.
const ROW_BYTES: u64 = 1 << 20;

/// What threads have in common.
struct Shared<I> {
    pieces: I,
    totals: Outcome,
    result: Result,
}

/// Runs `work` in up to `threads` threads. It gets pieces from the function that it is given, and returns
/// at the first error, after which nobody gets more.
///
/// # Errors
///
/// The first error of any thread.
fn spread<I: Iterator + Send + Unpin>(
    threads: u32,
    pieces: I,
    totals: &mut Outcome,
    work: impl Fn(&dyn Fn() -> Option<I::Item>, &mut Outcome) -> Result + Sync,
) -> Result {
    let shared = Shared {
        pieces,
        totals: Outcome::default(),
        result: Ok(()),
    };
    pin_init::stack_pin_init!(let shared = new_mutex!(shared, "vexfs_spread"));
    let shared: &Mutex<Shared<I>> = &shared;
    work::parallel(threads, || {
        let next = || {
            let mut shared = shared.lock();
            if shared.result.is_ok() {
                shared.pieces.next()
            } else {
                None
            }
        };
        let mut outcome = Outcome::default();
        let result = work(&next, &mut outcome);
        let mut shared = shared.lock();
        shared.totals.merge(&outcome);
        if shared.result.is_ok() {
            shared.result = result;
        }
    });
    let shared = shared.lock();
    totals.merge(&shared.totals);
    shared.result
}

/// Walks for each of the packed queries of `scan`; `heaps` has one for each.
///
/// # Errors
///
/// As [`Walk::search`].
pub(crate) fn walk(
    walk: &Walk,
    scan: &Scan<'_>,
    heaps: &mut [TopK<'_>],
    threads: u32,
    totals: &mut Outcome,
) -> Result {
    let bytes = element::row_bytes(scan.area)?;
    if threads == 1 || heaps.len() == 1 {
        return walk.search(scan, heaps, totals);
    }
    let at_once = heaps
        .len()
        .div_ceil(PIECES.saturating_mul(threads as usize));
    let at_once = at_once.clamp(1, QUERIES);
    let queries = scan.queries.chunks(at_once.saturating_mul(bytes));
    let pieces = queries.zip(heaps.chunks_mut(at_once));
    spread(threads, pieces, totals, |next, outcome| {
        while let Some((queries, heaps)) = next() {
            walk.search(&Scan { queries, ..*scan }, heaps, outcome)?;
        }
        Ok(())
    })
}

/// Scans all candidates for all queries; `heaps` has one for each.
///
/// # Errors
///
/// As [`scorer::scan`]; `ENOMEM`.
pub(crate) fn scan(
    scan: &Scan<'_>,
    heaps: &mut [TopK<'_>],
    threads: u32,
    totals: &mut Outcome,
) -> Result {
    let stride = u64::from(scan.area.stride).max(1);
    let rows = scan.end.saturating_sub(scan.first);
    let pieces = u64::from(threads).saturating_mul(PIECES as u64);
    let at_once = rows.div_ceil(pieces.max(1)).max(ROW_BYTES / stride).max(1);
    if threads == 1 || rows <= at_once {
        totals.add(&scorer::scan(scan, heaps)?);
        return Ok(());
    }
    let k = heaps.first().map_or(1, TopK::k);
    let queries = heaps.len();
    let pieces = (scan.first..scan.end).step_by(usize::try_from(at_once)?);
    pin_init::stack_pin_init!(let heaps = new_mutex!(heaps, "vexfs_spread_heaps"));
    let heaps: &Mutex<&mut [TopK<'_>]> = &heaps;
    spread(threads, pieces, totals, |next, outcome| {
        let mut piece = next();
        if piece.is_none() {
            return Ok(());
        }
        let mut memory = KVVec::from_elem(
            Hit::default(),
            k.saturating_mul(queries),
            GFP_KERNEL | __GFP_NOWARN,
        )?;
        let mut mine = KVec::with_capacity(queries, GFP_KERNEL)?;
        for memory in memory.chunks_mut(k) {
            mine.push_within_capacity(TopK::new(memory))
                .map_err(|_| ENOMEM)?;
        }
        while let Some(first) = piece {
            let end = first.saturating_add(at_once).min(scan.end);
            let stretch = Scan {
                first,
                end,
                ..*scan
            };
            outcome.add(&scorer::scan(&stretch, &mut mine)?);
            piece = next();
        }
        for (to, from) in heaps.lock().iter_mut().zip(&mine) {
            for hit in from.hits() {
                to.push(*hit);
            }
        }
        Ok(())
    })
}
