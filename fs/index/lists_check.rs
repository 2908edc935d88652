// SPDX-License-Identifier: GPL-2.0

//! Whether inverted lists are sound, and of the rows that their container has.

use super::lists::{errno, Lists};
use super::lists_loader::{Loader, Source};
use super::lists_memory::{Batch, Memory};
use crate::VexFs;
use kernel::prelude::*;
use vexfs_ann::ivf::{self, Fault, Met};
use vexfs_uapi::Findings;
use vexfs_vfs::{task, Inode};

/// Slots that are looked at while changes wait, but for the last list's: some hundred microseconds.
const PIECE: u32 = 4096;

/// Runs a closure with lists that nobody changes, and with how often rows were moved from one list to another:
/// the inode is locked, and so is the writer.
pub(super) type Locked<'a> =
    &'a dyn Fn(&mut dyn FnMut(&ivf::Index<Memory>, u64) -> Result) -> Result;

/// Checks the words of lists, and compares the rows that are in them with the live ones below `watermark`. Changes
/// wait while the blocks are counted, and then for one piece of the rows at a time.
pub(super) fn rows(
    inode: &Inode<VexFs>,
    watermark: u64,
    copies: u32,
    locked: Locked<'_>,
    findings: &mut Findings,
) -> Result {
    let mut check = RowCheck::new(inode, watermark, copies)?;
    let (mut first, mut last, mut lists) = (0, 0, 0);
    locked(&mut |index, moved| {
        (first, lists) = (moved, index.params().all_lists());
        check.chains(index)
    })?;
    let mut list = 0;
    while list < lists {
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
        task::cond_resched();
        locked(&mut |index, _| {
            list = check.some_lists(index, list, PIECE);
            Ok(())
        })?;
    }
    locked(&mut |_, moved| {
        last = moved;
        check.missing();
        Ok(())
    })?;
    if first != last {
        // Rows may have been passed by, or met twice: all at once.
        check = RowCheck::new(inode, watermark, copies)?;
        locked(&mut |index, _| {
            check.chains(index)?;
            check.some_lists(index, 0, u32::MAX);
            check.missing();
            Ok(())
        })?;
    }
    findings.faults = findings.faults.saturating_add(check.found.faults);
    findings.wrong_rows = findings.wrong_rows.saturating_add(check.found.wrong_rows);
    findings.rows = findings.rows.saturating_add(check.found.rows);
    Ok(())
}

/// A check of rows that is under way.
struct RowCheck<'a> {
    inode: &'a Inode<VexFs>,
    watermark: u64,
    /// Bits for each row that a container had at the beginning, if it was met, and if it was again.
    met: KVVec<u64>,
    again: KVVec<u64>,
    copies: u32,
    found: Findings,
}

impl<'a> RowCheck<'a> {
    fn new(inode: &'a Inode<VexFs>, watermark: u64, copies: u32) -> Result<Self> {
        let rows = inode.node().container.lock().area.rows;
        let words = usize::try_from(rows.div_ceil(64))?;
        Ok(RowCheck {
            inode,
            watermark,
            met: KVVec::from_elem(0, words, GFP_KERNEL | __GFP_NOWARN)?,
            again: KVVec::from_elem(
                0,
                if copies > 1 { 2 * words } else { 0 },
                GFP_KERNEL | __GFP_NOWARN,
            )?,
            copies,
            found: Findings::default(),
        })
    }

    fn chains(&mut self, index: &ivf::Index<Memory>) -> Result {
        let words = index.image().used.div_ceil(64) as usize;
        let mut blocks = KVVec::from_elem(0, words, GFP_KERNEL | __GFP_NOWARN)?;
        self.fault(index.check_chains(&mut blocks).fault.is_some());
        Ok(())
    }

    fn fault(&mut self, is: bool) {
        self.found.faults = self.found.faults.saturating_add(u64::from(is));
    }

    /// Checks lists from `list` on, until they have `slots` slots. Says where to go on.
    fn some_lists(&mut self, index: &ivf::Index<Memory>, mut list: u32, slots: u32) -> u32 {
        let inode = self.inode;
        let container = inode.node().container.lock();
        let bits = self.met.len();
        let mut met = Met::new(index.params(), &mut self.met, &mut self.again);
        let mut looked = 0u32;
        while list < index.params().all_lists() && looked < slots {
            let checked = index.check_rows(list, |row| {
                let number = u64::from(row);
                if number >= container.area.rows {
                    return Err(Fault::Row);
                }
                let dead = u64::from(container.is_deleted(number));
                self.found.wrong_rows = self.found.wrong_rows.saturating_add(dead);
                // A later row than those at the beginning has no bit.
                if row as usize / 64 >= bits {
                    return Ok(());
                }
                met.meet(row)
            });
            let faults = &mut self.found.faults;
            *faults = faults.saturating_add(u64::from(checked.is_err()));
            index.end_list(list, &mut met);
            looked = looked.saturating_add(index.slots(list).unwrap_or(0).max(1));
            list = list.saturating_add(1);
        }
        list
    }

    /// Counts the live rows below the watermark that were not met, or not as often as they should be.
    fn missing(&mut self) {
        let container = self.inode.node().container.lock();
        let met = if self.copies > 1 {
            &self.again
        } else {
            &self.met
        };
        for (at, met) in (0u64..).zip(met.iter().take(self.met.len())) {
            let first = at.saturating_mul(64);
            let below = match self.watermark.saturating_sub(first) {
                64.. => u64::MAX,
                rows => (1u64 << rows) - 1,
            };
            let dead = container.tombstones.get(at as usize).copied();
            let missing = (!dead.unwrap_or(0) & below & !met).count_ones();
            self.found.wrong_rows = self.found.wrong_rows.saturating_add(u64::from(missing));
            let looked = below.count_ones();
            self.found.rows = self.found.rows.saturating_add(u64::from(looked));
        }
    }
}

/// Compares the codes of the rows of each list with their vectors.
pub(super) fn codes(lists: &Lists, inode: &Inode<VexFs>, findings: &mut Findings) -> Result {
    if lists.coder.layout.nsub == 0 || lists.model.as_ref().is_none() {
        return Ok(());
    }
    let mut places = KVec::from_elem((0u64, 0u32), lists.coder.batch(), GFP_KERNEL)?;
    let mut wrong = Wrong::new(inode, lists.coder.params.copies)?;
    for list in 0..lists.coder.params.nlist {
        let mut from = Some(0);
        while let Some(skip) = from {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            from = inode.node().rows.read(|| {
                let batch = &mut lists.writer.lock().batch;
                some_codes(lists, inode, batch, &mut places, list, skip, &mut wrong)
            })?;
        }
    }
    findings.wrong_codes = findings.wrong_codes.saturating_add(wrong.count);
    Ok(())
}

/// Rows whose code is not that of their vector, each once, in however many lists it is.
struct Wrong {
    count: u64,
    /// A bit for each row that is counted, if it may come again.
    counted: KVVec<u64>,
}

impl Wrong {
    fn new(inode: &Inode<VexFs>, copies: u32) -> Result<Self> {
        let rows = inode.node().container.lock().area.rows;
        let words = if copies > 1 { rows.div_ceil(64) } else { 0 };
        Ok(Wrong {
            count: 0,
            counted: KVVec::from_elem(0, usize::try_from(words)?, GFP_KERNEL | __GFP_NOWARN)?,
        })
    }

    fn add(&mut self, row: u64) {
        let bit = 1u64 << (row % 64);
        // A later row than those at the beginning has no bit.
        if let Some(word) = self.counted.get_mut((row / 64) as usize) {
            if *word & bit != 0 {
                return;
            }
            *word |= bit;
        }
        self.count = self.count.saturating_add(1);
    }
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
    wrong: &mut Wrong,
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
        // A row's code in this list alone.
        let of_rows = (lent.lists.get_mut(..found), lent.factors.get_mut(..found));
        let (Some(of_lists), Some(factors)) = of_rows else {
            return Err(EIO);
        };
        of_lists.fill(list);
        let bytes = found.saturating_mul(lists.coder.rows.vector_bytes());
        let vectors = lent.memory.vectors.get_mut(..bytes).ok_or(EIO)?;
        ivf::Vectors::load(&mut loader, lent.rows, vectors)?;
        let memory = &mut lent.memory;
        index
            .encode(&mut loader, &model, of_lists, 1, memory, factors)
            .map_err(errno)?;
        let codes = memory.codes.chunks(lists.coder.layout.nsub as usize);
        for (((row, place), codes), factors) in places.iter().zip(codes).zip(&*factors) {
            if !index.holds(*place, *row, codes, factors) {
                wrong.add(*row);
            }
        }
        Ok(next)
    })
}
