// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Is an index what it should be; opening an image of one.
//!
//! Nothing here trusts a word: numbers lead nowhere or to blocks in use, and every loop ends.

use core::sync::atomic::{AtomicU32, Ordering};

use super::lists::{HOLE, MAX_BLOCKS, NO_HOLE};
use super::params::BLOCK_ROWS;
use super::store::Store;
use super::{mix, BadParams, Index, Params, NOWHERE};

/// What an image needs beside the words of lists and of blocks `0..used`, and the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// Blocks in use or once in use.
    pub used: u32,
    /// The first free block, or `u32::MAX`.
    pub free: u32,
}

/// Memory of a check: bits, all 0.
#[derive(Debug)]
pub struct CheckMemory<'a> {
    /// A bit for each block in use.
    pub blocks: &'a mut [u64],
    /// A bit for each row of the container.
    pub rows: &'a mut [u64],
    /// As many again twice if rows are in two lists, or none: a bit for each row that was met a second time, and for each
    /// of one list.
    pub again: &'a mut [u64],
}

/// The first thing wrong in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// More blocks in use than there are, or memory of the check is too short.
    Size,
    /// A link leads to no block in use, or the chain is longer or shorter than the list.
    Chain,
    /// A block belongs to two lists, or to a list and to those that are free, or says it is another's.
    Owner,
    /// A row is in two slots of a list, or in more lists than it should be.
    Twice,
    /// A row is in fewer lists than it should be.
    Once,
    /// A row number is not one of the container.
    Row,
    /// The holes are not those that are linked.
    Holes,
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Rows in lists, each once.
    pub live: u32,
    /// Slots without a row.
    pub holes: u32,
    /// Free blocks.
    pub free: u32,
    /// Blocks in use that nothing leads to: lost space, not an error of any answer.
    pub lost: u32,
    /// The first fault, and the list it is in; `nlist` is that of the lists' codes, `nlist + 1` the free blocks.
    pub fault: Option<(u32, Fault)>,
}

/// Sets a bit; says whether it was clear, or `None` if there is no such bit.
fn set(bits: &mut [u64], at: u32) -> Option<bool> {
    let word = bits.get_mut(at as usize / 64)?;
    let bit = 1 << (at % 64);
    let clear = *word & bit == 0;
    *word |= bit;
    Some(clear)
}

/// Rows that a check has met.
#[derive(Debug)]
pub struct Met<'a> {
    rows: &'a mut [u64],
    again: &'a mut [u64],
    in_list: &'a mut [u64],
    copies: u32,
}

impl<'a> Met<'a> {
    /// None of the rows yet of an index with these parameters; the memory is that of [`CheckMemory`].
    pub fn new(params: &Params, rows: &'a mut [u64], again: &'a mut [u64]) -> Self {
        let (again, in_list) = again.split_at_mut(again.len() / 2);
        Met {
            rows,
            again,
            in_list,
            copies: params.copies,
        }
    }

    /// Meets a row of a list.
    ///
    /// # Errors
    ///
    /// [`Fault::Twice`] if it is one time too many, [`Fault::Size`] if there is no bit for it.
    pub fn meet(&mut self, row: u32) -> Result<(), Fault> {
        let first = set(self.rows, row).ok_or(Fault::Size)?;
        if self.copies > 1 {
            let of_list = set(self.in_list, row).ok_or(Fault::Size)?;
            if first {
                return Ok(());
            }
            let second = set(self.again, row).ok_or(Fault::Size)?;
            return if of_list && second {
                Ok(())
            } else {
                Err(Fault::Twice)
            };
        }
        if first {
            Ok(())
        } else {
            Err(Fault::Twice)
        }
    }

    /// Takes a row out of those of one list, when all of it has been met.
    fn forget(&mut self, row: u32) {
        if let Some(word) = self.in_list.get_mut(row as usize / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    /// Whether a row was met once, and should have been twice.
    fn is_alone(&self, row: u32) -> bool {
        let bit = |bits: &[u64]| {
            let word = bits.get(row as usize / 64).copied();
            word.unwrap_or(0) >> (row % 64) & 1 != 0
        };
        bit(self.rows) && !bit(self.again)
    }

    /// Rows that were met as often as they should be: a bit for each.
    pub fn met(&self) -> &[u64] {
        if self.copies > 1 {
            self.again
        } else {
            self.rows
        }
    }
}

impl<S: Store> Index<S> {
    /// What to write beside the words, when no writer is inside.
    pub fn image(&self) -> Image {
        Image {
            used: self.used.load(Ordering::Acquire),
            free: self.free.load(Ordering::Relaxed),
        }
    }

    /// An index from the words of another, in a store that holds them. `rows` is the number of rows of the
    /// container.
    ///
    /// # Errors
    ///
    /// [`BadParams`] as [`Index::new`], or what is wrong with the image.
    pub fn open(
        params: Params,
        store: S,
        image: Image,
        rows: u64,
        memory: &mut CheckMemory<'_>,
    ) -> Result<Self, Result<Report, BadParams>> {
        let layout = params.layout().map_err(Err)?;
        if store.lists().len() != params.list_words() {
            return Err(Err(BadParams));
        }
        let index = Index {
            params,
            layout,
            store,
            used: AtomicU32::new(image.used),
            free: AtomicU32::new(image.free),
            entries: AtomicU32::new(0),
        };
        let report = index.check(rows, memory);
        if report.fault.is_some() {
            return Err(Ok(report));
        }
        let entries = report.live.saturating_mul(params.copies);
        index.entries.store(entries, Ordering::Relaxed);
        Ok(index)
    }

    /// Checks chains, owners, rows and holes, when no writer is inside. Codes are any bytes and are not
    /// looked at: [`Index::digest`] tells whether they are those of another index.
    pub fn check(&self, rows: u64, memory: &mut CheckMemory<'_>) -> Report {
        let mut report = self.check_chains(memory.blocks);
        if report.fault.is_some() {
            return report;
        }
        let CheckMemory {
            rows: bits, again, ..
        } = memory;
        let mut met = Met::new(&self.params, bits, again);
        for list in 0..self.params.all_lists() {
            let checked = self.check_rows(list, |row| {
                if u64::from(row) >= rows {
                    return Err(Fault::Row);
                }
                met.meet(row)
            });
            match checked {
                Ok((live, holes)) => {
                    report.live = report.live.saturating_add(live);
                    report.holes = report.holes.saturating_add(holes);
                }
                Err(fault) => {
                    report.fault = Some((list, fault));
                    return report;
                }
            }
            self.end_list(list, &mut met);
        }
        report.fault = self.first_alone(&met).map(|list| (list, Fault::Once));
        report.live = report.live.checked_div(self.params.copies).unwrap_or(0);
        report
    }

    /// Ends what [`Met::meet`] was told of the rows of a list.
    pub fn end_list(&self, list: u32, met: &mut Met<'_>) {
        if self.params.copies > 1 {
            // It was walked just now.
            let _ = self.check_rows(list, |row| {
                met.forget(row);
                Ok(())
            });
        }
    }

    /// The first list with a row that was met but once, of those that are in two lists.
    fn first_alone(&self, met: &Met<'_>) -> Option<u32> {
        if self.params.copies < 2 {
            return None;
        }
        (0..self.params.nlist).find(|list| {
            let each = |row| match met.is_alone(row) {
                true => Err(Fault::Once),
                false => Ok(()),
            };
            self.check_rows(*list, each).is_err()
        })
    }

    /// Checks the chains of all lists and of free blocks, when no writer is inside: reads some words of each
    /// block. `blocks` has a bit, 0, for each block in use.
    pub fn check_chains(&self, blocks: &mut [u64]) -> Report {
        let mut report = Report::default();
        let used = self.used.load(Ordering::Relaxed);
        let enough = used <= self.store.blocks()
            && used <= MAX_BLOCKS
            && blocks.len() >= used.div_ceil(64) as usize;
        if !enough {
            report.fault = Some((0, Fault::Size));
            return report;
        }
        let mut seen = 0u32;
        for list in 0..self.params.all_lists() {
            if let Err(fault) = self.check_chain(list, blocks, &mut seen) {
                report.fault = Some((list, fault));
                return report;
            }
        }
        let mut free = self.free.load(Ordering::Relaxed);
        while free != NOWHERE {
            let fault = match self.check_block(free, blocks) {
                Ok(next) => {
                    free = next;
                    report.free = report.free.saturating_add(1);
                    seen = seen.saturating_add(1);
                    continue;
                }
                Err(fault) => fault,
            };
            report.fault = Some((self.params.all_lists(), fault));
            return report;
        }
        report.lost = used.saturating_sub(seen);
        report
    }

    /// Marks a block and returns the next one: no chain of blocks comes back to itself.
    fn check_block(&self, number: u32, blocks: &mut [u64]) -> Result<u32, Fault> {
        if number >= self.used.load(Ordering::Relaxed) {
            return Err(Fault::Chain);
        }
        match set(blocks, number) {
            Some(true) => {}
            Some(false) => return Err(Fault::Owner),
            None => return Err(Fault::Size),
        }
        let next = self.block(number).and_then(|block| block.next());
        Ok(next.ok_or(Fault::Chain)?.load(Ordering::Relaxed))
    }

    fn check_chain(&self, list: u32, blocks: &mut [u64], seen: &mut u32) -> Result<(), Fault> {
        let head = self.head(list).ok_or(Fault::Size)?;
        let mut left = head.slots.load(Ordering::Relaxed);
        let mut number = head.first.load(Ordering::Relaxed);
        let mut last = NOWHERE;
        // Reserved blocks follow those of the slots.
        while number != NOWHERE {
            let next = self.check_block(number, blocks)?;
            *seen = seen.saturating_add(1);
            let block = self.block(number).ok_or(Fault::Chain)?;
            let owner = block.list().ok_or(Fault::Chain)?;
            if owner.load(Ordering::Relaxed) != list {
                return Err(Fault::Owner);
            }
            if left > 0 {
                last = number;
            }
            left = left.saturating_sub(BLOCK_ROWS);
            number = next;
        }
        if left > 0 || head.last.load(Ordering::Relaxed) != last {
            return Err(Fault::Chain);
        }
        Ok(())
    }

    /// Checks the rows and holes of a list, whose chain is sound, when no writer is inside: calls `each` with each row,
    /// except for the list of the lists' codes, and says how many rows and holes there are, which for that one are 0.
    ///
    /// # Errors
    ///
    /// The first fault, or what `each` says.
    pub fn check_rows(
        &self,
        list: u32,
        mut each: impl FnMut(u32) -> Result<(), Fault>,
    ) -> Result<(u32, u32), Fault> {
        let of_lists = list == self.params.nlist;
        let (mut holes, mut count) = (0u32, 0u32);
        let mut found = Ok(());
        let walked = self.walk(list, |_, block, in_it| {
            for place in 0..in_it {
                let Some(row) = block.row(place).map(|row| row.load(Ordering::Relaxed)) else {
                    found = Err(Fault::Chain);
                    return false;
                };
                if row & HOLE != 0 {
                    holes = holes.saturating_add(1);
                    continue;
                }
                count = count.saturating_add(1);
                // The list of the lists' codes names lists, each once and in order.
                found = match of_lists {
                    true if row >= self.params.nlist => Err(Fault::Row),
                    true if row.saturating_add(1) != count => Err(Fault::Twice),
                    true => Ok(()),
                    false => each(row),
                };
                if found.is_err() {
                    return false;
                }
            }
            true
        });
        found?;
        let coded = !of_lists || !self.params.lists_have_codes() || count == self.params.nlist;
        if walked.is_none() || !coded {
            return Err(Fault::Chain);
        }
        let hole = self.head(list).ok_or(Fault::Size)?.hole;
        self.check_holes(list, hole.load(Ordering::Relaxed), holes)?;
        Ok(if of_lists { (0, 0) } else { (count, holes) })
    }

    /// Follows as many holes as there are: they lie in the list's own blocks, and the last ends it. A hole that
    /// came twice would leave the chain without an end, and a place that is empty leads to no block.
    fn check_holes(&self, list: u32, mut hole: u32, holes: u32) -> Result<(), Fault> {
        for _ in 0..holes {
            let (number, place) = (hole / BLOCK_ROWS, hole % BLOCK_ROWS);
            if hole >= NO_HOLE || number >= self.used.load(Ordering::Relaxed) {
                return Err(Fault::Holes);
            }
            let block = self.block(number).ok_or(Fault::Holes)?;
            let owner = block.list().ok_or(Fault::Holes)?.load(Ordering::Relaxed);
            let word = block
                .row(place)
                .ok_or(Fault::Holes)?
                .load(Ordering::Relaxed);
            if owner != list || word & HOLE == 0 {
                return Err(Fault::Holes);
            }
            hole = word & !HOLE;
        }
        if hole == NO_HOLE {
            Ok(())
        } else {
            Err(Fault::Holes)
        }
    }

    /// Writes rows of a list from slot `skip` on to `rows`, each with its place for [`Index::holds`]. Says how many
    /// they are, and the slot to go on from, if there is one. When no writer is inside; `None` if there is no such
    /// list.
    pub fn rows_in(
        &self,
        list: u32,
        skip: u32,
        rows: &mut [(u64, u32)],
    ) -> Option<(usize, Option<u32>)> {
        let (mut slot, mut found, mut next) = (0u32, 0usize, None);
        self.walk(list, |number, block, in_it| {
            for place in 0..in_it {
                let at = slot.saturating_add(place);
                if at < skip {
                    continue;
                }
                let row = block.row(place).map(|row| row.load(Ordering::Relaxed));
                let Some(row) = row.filter(|row| row & HOLE == 0) else {
                    continue;
                };
                let Some(out) = rows.get_mut(found) else {
                    next = Some(at);
                    return false;
                };
                *out = (u64::from(row), number.saturating_mul(BLOCK_ROWS) | place);
                found = found.saturating_add(1);
            }
            slot = slot.saturating_add(in_it);
            true
        })?;
        Some((found, next))
    }

    /// Whether a row is in a list, with these codes and factors. When no writer is inside.
    pub fn has(&self, list: u32, row: u64, codes: &[u8], factors: &[u32; 3]) -> bool {
        let mut found = false;
        let walked = self.walk(list, |number, block, rows| {
            let here = |place| block.row(place).map(|row| row.load(Ordering::Relaxed));
            let place = (0..rows).find(|place| here(*place).map(u64::from) == Some(row));
            found = place.is_some_and(|place| {
                let at = number.saturating_mul(BLOCK_ROWS) | place;
                self.holds(at, row, codes, factors)
            });
            place.is_none()
        });
        walked.is_some() && found
    }

    /// Whether `row` is at a place from [`Index::rows_in`], with these codes and factors.
    pub fn holds(&self, place: u32, row: u64, codes: &[u8], factors: &[u32; 3]) -> bool {
        let same = || {
            let block = self.block(place / BLOCK_ROWS)?;
            let place = place % BLOCK_ROWS;
            let mut same = u64::from(block.row(place)?.load(Ordering::Relaxed)) == row;
            for (sub, code) in (0u32..).zip(codes) {
                same &= block.code_at(place, sub)? == u32::from(*code);
            }
            if !codes.is_empty() {
                for (i, factor) in (0u32..).zip(factors) {
                    same &= block.factor_at(place, i)? == *factor;
                }
            }
            Some(same)
        };
        same().unwrap_or(false)
    }

    /// A hash of all lists: their rows, codes and factors in order, without holes.
    pub fn digest(&self) -> u64 {
        let mut digest = mix(self.params.seed);
        for list in 0..self.params.all_lists() {
            digest = mix(digest ^ u64::from(list));
            let walked = self.walk(list, |_, block, rows| {
                for place in 0..rows {
                    let hole = block
                        .row(place)
                        .is_none_or(|row| row.load(Ordering::Relaxed) & HOLE != 0);
                    if !hole {
                        digest = block.hash(place, digest).unwrap_or(0);
                    }
                }
                true
            });
            if walked.is_none() {
                return 0;
            }
        }
        digest
    }
}
