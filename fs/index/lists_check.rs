// SPDX-License-Identifier: GPL-2.0

//! Whether inverted lists are sound, and of the rows that their container has.

use super::check::Findings;
use super::lists::{errno, Lists};
use super::lists_codes::{Loader, Source};
use super::lists_memory::{Batch, Memory};
use crate::VexFs;
use kernel::prelude::*;
use vexfs_ann::ivf::{self, CheckMemory};
use vexfs_vfs::{task, Inode};

/// Checks the words of `index`, and compares the rows that are in it with the live ones below `watermark`.
/// The inode is locked, and nobody changes the index.
pub(super) fn rows(
    index: &ivf::Index<Memory>,
    inode: &Inode<VexFs>,
    watermark: u64,
    findings: &mut Findings,
) -> Result {
    let used = index.image().used.div_ceil(64) as usize;
    let numbers = inode.node().container.lock().area.rows;
    let mut blocks = KVVec::from_elem(0u64, used, GFP_KERNEL)?;
    let words = usize::try_from(numbers.div_ceil(64))?;
    let mut there = KVVec::from_elem(0u64, words, GFP_KERNEL)?;
    let mut memory = CheckMemory {
        blocks: &mut blocks,
        rows: &mut there,
    };
    let report = index.check(numbers, &mut memory);
    findings.faults = findings
        .faults
        .saturating_add(u64::from(report.fault.is_some()));
    let container = inode.node().container.lock();
    for (at, there) in (0u64..).zip(&there) {
        let first = at.saturating_mul(64);
        let below = match watermark.saturating_sub(first) {
            64.. => u64::MAX,
            rows => (1u64 << rows) - 1,
        };
        let ours = match numbers.saturating_sub(first) {
            64.. => u64::MAX,
            rows => (1u64 << rows) - 1,
        };
        let dead = container.tombstones.get(at as usize).copied();
        let live = !dead.unwrap_or(0) & below & ours;
        // Of rows from the watermark on some may be there.
        let wrong = (live ^ (there & below)).count_ones();
        findings.wrong_rows = findings.wrong_rows.saturating_add(u64::from(wrong));
        let looked = (below & ours).count_ones();
        findings.rows = findings.rows.saturating_add(u64::from(looked));
    }
    Ok(())
}

/// Compares the codes of the rows of each list with their vectors.
pub(super) fn codes(lists: &Lists, inode: &Inode<VexFs>, findings: &mut Findings) -> Result {
    if lists.coder.layout.nsub == 0 || lists.model.as_ref().is_none() {
        return Ok(());
    }
    let mut places = KVec::from_elem((0u64, 0u32), lists.coder.batch(), GFP_KERNEL)?;
    for list in 0..lists.coder.params.nlist {
        let mut from = Some(0);
        while let Some(skip) = from {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            from = inode.node().rows.read(|| {
                let batch = &mut lists.writer.lock().batch;
                some_codes(lists, inode, batch, &mut places, list, skip, findings)
            })?;
        }
    }
    Ok(())
}

/// Compares the codes of some rows of a list, from slot `skip` on; says where to go on. Nobody changes the lists
/// meanwhile, and `Node::rows` is held shared.
fn some_codes(
    lists: &Lists,
    inode: &Inode<VexFs>,
    batch: &mut Batch,
    places: &mut [(u64, u32)],
    list: u32,
    skip: u32,
    findings: &mut Findings,
) -> Result<Option<u32>> {
    let model = lists.model.as_ref().ok_or(EIO)?.lend();
    lists.index.read(|index| {
        let found = index.rows_in(list, skip, places);
        let (found, next) = found.ok_or(EIO)?;
        let places = places.get(..found).ok_or(EIO)?;
        batch.rows.clear();
        for (row, _) in places {
            batch.rows.push_within_capacity(*row).map_err(|_| EINVAL)?;
        }
        let mut lent = batch.lend();
        let end = lent
            .rows
            .iter()
            .max()
            .map_or(0, |row| row.saturating_add(1));
        let source = Source::Named { end };
        let mut loader = Loader::new(inode, &lists.coder, lent.load, source)?;
        lent.lists.fill(list);
        let bytes = found.saturating_mul(lists.coder.rows.vector_bytes());
        let vectors = lent.memory.vectors.get_mut(..bytes).ok_or(EIO)?;
        ivf::Vectors::load(&mut loader, lent.rows, vectors)?;
        let memory = &mut lent.memory;
        index
            .encode(&mut loader, &model, lent.lists, memory, lent.factors)
            .map_err(errno)?;
        let codes = memory.codes.chunks(lists.coder.layout.nsub as usize);
        for (((row, place), codes), factors) in places.iter().zip(codes).zip(&*lent.factors) {
            if !index.holds(*place, *row, codes, factors) {
                findings.wrong_codes = findings.wrong_codes.saturating_add(1);
            }
        }
        Ok(next)
    })
}
