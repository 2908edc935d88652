// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Lists as chains of blocks, and how they are read and written at the same time.
//!
//! A list's head has its first block, its number of slots, its last block, and its first hole. Slots are
//! filled in order. A slot without a row is a hole: the top bit of its row number is set, and the rest is
//! the next hole of the list. A hole's codes are nobody's, so a later row is written there first and
//! shown by its number afterwards.

use core::sync::atomic::{AtomicU32, Ordering};

use super::params::{BLOCK_ROWS, HEAD_WORDS, LIST_WORDS, MAX_ROWS};
use super::store::Store;
use super::{Error, Index, Layout, NOWHERE};

/// The bit of a row number that marks a hole.
pub(super) const HOLE: u32 = 1 << 31;

/// The end of a list's holes.
pub(super) const NO_HOLE: u32 = HOLE - 1;

/// A place that never had a row, or has none because its block is new. No slot has this name.
const EMPTY: u32 = HOLE | (NO_HOLE - 1);

/// The blocks that slots can name: `block * 32 + place` is less than the names above.
pub(super) const MAX_BLOCKS: u32 = (NO_HOLE - 1) / BLOCK_ROWS;

/// A list's head.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub first: &'a AtomicU32,
    pub slots: &'a AtomicU32,
    pub last: &'a AtomicU32,
    pub hole: &'a AtomicU32,
}

/// One block.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub words: &'a [AtomicU32],
    layout: &'a Layout,
}

impl<'a> Block<'a> {
    /// The next block of the list, or of those that are free.
    pub(crate) fn next(&self) -> Option<&'a AtomicU32> {
        self.words.first()
    }

    /// The list it belongs to.
    pub(crate) fn list(&self) -> Option<&'a AtomicU32> {
        self.words.get(1)
    }

    /// The row number at `place`.
    pub(crate) fn row(&self, place: u32) -> Option<&'a AtomicU32> {
        let at = self.layout.rows_at.checked_add(place)?;
        self.words.get(at as usize)
    }

    /// The word and the shift of code `sub` of the row at `place`, and the mask of a code.
    fn code(&self, place: u32, sub: u32) -> Option<(&'a AtomicU32, u32, u32)> {
        let (byte, shift, mask) = if self.layout.four_bits {
            (sub * 16 + (place & 15), place / 16 * 4, 15)
        } else {
            (place * self.layout.nsub + sub, 0, 255)
        };
        let at = HEAD_WORDS.checked_add(byte / 4)?;
        Some((self.words.get(at as usize)?, byte % 4 * 8 + shift, mask))
    }

    fn factor(&self, place: u32, i: u32) -> Option<&'a AtomicU32> {
        let at = self.layout.factors_at + i * BLOCK_ROWS + place;
        self.words.get(at as usize)
    }

    /// Code `sub` of the row at `place`.
    pub(super) fn code_at(&self, place: u32, sub: u32) -> Option<u32> {
        let (word, shift, mask) = self.code(place, sub)?;
        Some(word.load(Ordering::Relaxed) >> shift & mask)
    }

    /// Factor `i` of the row at `place`.
    pub(super) fn factor_at(&self, place: u32, i: u32) -> Option<u32> {
        Some(self.factor(place, i)?.load(Ordering::Relaxed))
    }

    /// Writes the codes and factors of a row that nobody sees yet.
    fn write(&self, place: u32, codes: &[u8], factors: &[u32; 3]) -> Option<()> {
        for (sub, &code) in (0u32..).zip(codes) {
            let (word, shift, mask) = self.code(place, sub)?;
            // One writer: nobody else changes the word between load and store.
            let rest = word.load(Ordering::Relaxed) & !(mask << shift);
            word.store(rest | (u32::from(code) & mask) << shift, Ordering::Relaxed);
        }
        if self.layout.nsub > 0 {
            for (i, &factor) in (0u32..).zip(factors) {
                self.factor(place, i)?.store(factor, Ordering::Relaxed);
            }
        }
        Some(())
    }

    /// Copies the row at `from` of another block to `place`.
    fn copy(&self, place: u32, other: &Block<'_>, from: u32) -> Option<()> {
        for sub in 0..self.layout.nsub {
            let code = other.code_at(from, sub)?;
            let (word, shift, mask) = self.code(place, sub)?;
            let rest = word.load(Ordering::Relaxed) & !(mask << shift);
            word.store(rest | code << shift, Ordering::Relaxed);
        }
        if self.layout.nsub > 0 {
            for i in 0..3 {
                let factor = other.factor_at(from, i)?;
                self.factor(place, i)?.store(factor, Ordering::Relaxed);
            }
        }
        let row = other.row(from)?.load(Ordering::Relaxed);
        self.row(place)?.store(row, Ordering::Relaxed);
        Some(())
    }

    /// A hash of the row at `place`: its number, codes and factors.
    pub(crate) fn hash(&self, place: u32, seed: u64) -> Option<u64> {
        let mut hash = super::mix(seed ^ u64::from(self.row(place)?.load(Ordering::Relaxed)));
        for sub in 0..self.layout.nsub {
            hash = super::mix(hash ^ u64::from(self.code_at(place, sub)?));
        }
        if self.layout.nsub > 0 {
            for i in 0..3 {
                hash = super::mix(hash ^ u64::from(self.factor_at(place, i)?));
            }
        }
        Some(hash)
    }
}

/// How far the rows of a list have been moved together.
#[derive(Debug)]
pub struct Compaction {
    list: u32,
    /// Block and place of the next slot, and where its row goes. What is between them are holes.
    from: (u32, u32),
    to: (u32, u32),
    /// Slots that were not looked at.
    left: u32,
    kept: u32,
    /// The block of the last row that was kept.
    last: u32,
    /// There is something to do.
    holes: bool,
}

impl<S: Store> Index<S> {
    pub(super) fn head(&self, list: u32) -> Option<Head<'_>> {
        let at = (list as usize).checked_mul(LIST_WORDS)?;
        match self.store.lists().get(at..)? {
            [first, slots, last, hole, ..] => Some(Head {
                first,
                slots,
                last,
                hole,
            }),
            _ => None,
        }
    }

    pub(super) fn block(&self, block: u32) -> Option<Block<'_>> {
        let words = self.store.run(block, 1)?;
        (words.len() == self.layout.block_words as usize).then_some(Block {
            words,
            layout: &self.layout,
        })
    }

    /// The block and the place of a slot's name.
    fn slot(&self, slot: u32) -> Option<(Block<'_>, u32)> {
        let block = self.block(slot / BLOCK_ROWS)?;
        Some((block, slot % BLOCK_ROWS))
    }

    /// Calls `each(number, block, rows in it)` for the blocks of a list, until it says so.
    pub(crate) fn walk<'a>(
        &'a self,
        list: u32,
        mut each: impl FnMut(u32, Block<'a>, u32) -> bool,
    ) -> Option<()> {
        let head = self.head(list)?;
        // Acquire: the rows below this number are written, and so are the links to their blocks.
        let mut left = head.slots.load(Ordering::Acquire);
        let mut number = head.first.load(Ordering::Relaxed);
        while left > 0 {
            let block = self.block(number)?;
            let rows = left.min(BLOCK_ROWS);
            if !each(number, block, rows) {
                break;
            }
            left = left.saturating_sub(BLOCK_ROWS);
            number = block.next()?.load(Ordering::Relaxed);
        }
        Some(())
    }

    /// Keeps other writers out, and waits for one that is inside.
    pub fn writer(&self) -> Writer<'_, S> {
        Writer {
            index: self,
            _guard: self.store.lock(),
        }
    }

    /// Moves the rows of a list together and frees the blocks that become empty. Takes some microseconds for
    /// a list of hundreds of rows. Says how many blocks it freed.
    ///
    /// # Errors
    ///
    /// As [`Index::compact_some`].
    pub fn compact<E>(&mut self, list: u32) -> Result<u32, Error<E>> {
        let mut compaction = self.begin_compaction(list)?;
        loop {
            if let Some(freed) = self.compact_some(&mut compaction, u32::MAX)? {
                return Ok(freed);
            }
        }
    }

    /// Begins to move the rows of a list together. Until [`Index::compact_some`] has ended it, searches see each row
    /// once, and nobody writes.
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if there is no such list.
    pub fn begin_compaction<E>(&mut self, list: u32) -> Result<Compaction, Error<E>> {
        let head = self.head(list).ok_or(Error::Workspace)?;
        let first = head.first.load(Ordering::Relaxed);
        let holes = head.hole.swap(NO_HOLE, Ordering::Relaxed) != NO_HOLE;
        let slots = head.slots.load(Ordering::Relaxed);
        Ok(Compaction {
            list,
            from: (first, 0),
            to: (first, 0),
            left: slots,
            kept: 0,
            last: NOWHERE,
            holes,
        })
    }

    /// Goes on with a compaction for `slots` more slots. Says how many blocks it freed when it is done.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`].
    pub fn compact_some<E>(
        &mut self,
        compaction: &mut Compaction,
        slots: u32,
    ) -> Result<Option<u32>, Error<E>> {
        let head = self.head(compaction.list).ok_or(Error::Workspace)?;
        if !compaction.holes {
            return Ok(Some(0));
        }
        let Compaction {
            from,
            to,
            left,
            kept,
            last,
            ..
        } = compaction;
        let now = (*left).min(slots);
        for _ in 0..now {
            let source = self.block(from.0).ok_or(Error::Damaged)?;
            let row = source.row(from.1).ok_or(Error::Damaged)?;
            if row.load(Ordering::Relaxed) & HOLE == 0 {
                let target = self.block(to.0).ok_or(Error::Damaged)?;
                if from != to {
                    target.copy(to.1, &source, from.1).ok_or(Error::Damaged)?;
                    row.store(EMPTY, Ordering::Relaxed);
                }
                *last = to.0;
                *kept = kept.saturating_add(1);
                *to = self.after(to.0, to.1).ok_or(Error::Damaged)?;
            }
            *from = self.after(from.0, from.1).ok_or(Error::Damaged)?;
        }
        *left = left.saturating_sub(now);
        if *left > 0 {
            return Ok(None);
        }
        compaction.holes = false;
        // What follows the last row is free.
        let last = *last;
        let mut free = if last == NOWHERE {
            head.first.swap(NOWHERE, Ordering::Relaxed)
        } else {
            let link = self.block(last).and_then(|block| block.next());
            link.ok_or(Error::Damaged)?.swap(NOWHERE, Ordering::Relaxed)
        };
        head.last.store(last, Ordering::Relaxed);
        head.slots.store(*kept, Ordering::Relaxed);
        let mut freed = 0u32;
        while free != NOWHERE {
            let link = self.block(free).and_then(|block| block.next());
            let link = link.ok_or(Error::Damaged)?;
            let next = link.load(Ordering::Relaxed);
            link.store(self.free.load(Ordering::Relaxed), Ordering::Relaxed);
            self.free.store(free, Ordering::Relaxed);
            freed = freed.saturating_add(1);
            if freed > self.used.load(Ordering::Relaxed) {
                return Err(Error::Damaged);
            }
            free = next;
        }
        Ok(Some(freed))
    }

    /// Slots without a row in the lists of rows: later rows of their lists take them, [`Index::compact`] frees
    /// them. Reads a word of each list; approximate while a writer runs.
    pub fn holes(&self) -> u64 {
        let slots = (0..self.params.nlist).filter_map(|list| self.slots(list));
        let slots = slots.fold(0u64, |sum, slots| sum.saturating_add(u64::from(slots)));
        slots.saturating_sub(u64::from(self.entries.load(Ordering::Relaxed)))
    }

    /// Slots of a list, those of holes among them.
    pub fn slots(&self, list: u32) -> Option<u32> {
        Some(self.head(list)?.slots.load(Ordering::Relaxed))
    }

    /// The slot that follows; from the last of a chain it leads nowhere, which is no error yet.
    fn after(&self, block: u32, place: u32) -> Option<(u32, u32)> {
        if place.saturating_add(1) < BLOCK_ROWS {
            return Some((block, place.saturating_add(1)));
        }
        Some((self.block(block)?.next()?.load(Ordering::Relaxed), 0))
    }
}

/// The one who changes lists.
pub struct Writer<'a, S: Store> {
    index: &'a Index<S>,
    _guard: S::Guard<'a>,
}

impl<'a, S: Store> Writer<'a, S> {
    /// A block that is free or untouched, empty and linked to nothing.
    fn take<E>(&self, list: u32) -> Result<(u32, Block<'a>), Error<E>> {
        let index = self.index;
        let free = index.free.load(Ordering::Relaxed);
        let (number, block) = if free != NOWHERE {
            let block = index.block(free).ok_or(Error::Damaged)?;
            let next = block.next().ok_or(Error::Damaged)?;
            index
                .free
                .store(next.load(Ordering::Relaxed), Ordering::Relaxed);
            (free, block)
        } else {
            let number = index.used.load(Ordering::Relaxed);
            if number >= index.store.blocks() || number >= MAX_BLOCKS {
                return Err(Error::Full);
            }
            let block = index.block(number).ok_or(Error::Damaged)?;
            index
                .used
                .store(number.saturating_add(1), Ordering::Relaxed);
            (number, block)
        };
        let (next, owner) = block.next().zip(block.list()).ok_or(Error::Damaged)?;
        next.store(NOWHERE, Ordering::Relaxed);
        owner.store(list, Ordering::Relaxed);
        for place in 0..BLOCK_ROWS {
            let row = block.row(place).ok_or(Error::Damaged)?;
            row.store(EMPTY, Ordering::Relaxed);
        }
        Ok((number, block))
    }

    /// Makes room for `rows` more rows in blocks that follow each other, as a build does that knows how many a
    /// list will have: its scan then reads memory in order.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Workspace`] if there is no such list, [`Error::Damaged`].
    pub fn reserve<E>(&mut self, list: u32, rows: u32) -> Result<(), Error<E>> {
        let index = self.index;
        let head = index.head(list).ok_or(Error::Workspace)?;
        let slots = head.slots.load(Ordering::Relaxed);
        let room = slots.next_multiple_of(BLOCK_ROWS).wrapping_sub(slots);
        let mut last = head.last.load(Ordering::Relaxed);
        for _ in 0..index.used.load(Ordering::Relaxed) {
            // What was reserved before stays.
            let next = index.block(last).and_then(|block| block.next());
            match next.map(|next| next.load(Ordering::Relaxed)) {
                Some(next) if next != NOWHERE => last = next,
                _ => break,
            }
        }
        for _ in 0..rows.saturating_sub(room).div_ceil(BLOCK_ROWS) {
            let (number, _) = self.take(list)?;
            self.link(head, last, number).ok_or(Error::Damaged)?;
            last = number;
        }
        Ok(())
    }

    /// Lets `last`, or the head of an empty list, lead to a block.
    fn link(&self, head: Head<'_>, last: u32, number: u32) -> Option<()> {
        let link = if last == NOWHERE {
            head.first
        } else {
            self.index.block(last)?.next()?
        };
        // Searches follow it once the number of slots, stored later, tells them to.
        link.store(number, Ordering::Relaxed);
        Some(())
    }

    /// Adds a row to a list: one code a byte, as [`Vectors::encode`](super::Vectors::encode) writes them. A search
    /// that begins when this has returned sees it.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Workspace`] if there is no such list, the row's number is too great or
    /// there are not as many codes as parts, [`Error::Damaged`]. Nothing has changed then.
    pub fn append<E>(
        &mut self,
        list: u32,
        row: u64,
        codes: &[u8],
        factors: &[u32; 3],
    ) -> Result<(), Error<E>> {
        let index = self.index;
        if row >= MAX_ROWS || codes.len() != index.layout.nsub as usize {
            return Err(Error::Workspace);
        }
        let head = index.head(list).ok_or(Error::Workspace)?;
        let hole = head.hole.load(Ordering::Relaxed);
        if hole != NO_HOLE {
            let (block, place) = index.slot(hole).ok_or(Error::Damaged)?;
            let number = block.row(place).ok_or(Error::Damaged)?;
            let next = number.load(Ordering::Relaxed);
            if next & HOLE == 0 {
                return Err(Error::Damaged);
            }
            block.write(place, codes, factors).ok_or(Error::Damaged)?;
            head.hole.store(next & !HOLE, Ordering::Relaxed);
            // Release: who sees the number sees the codes.
            number.store(row as u32, Ordering::Release);
        } else {
            let slots = head.slots.load(Ordering::Relaxed);
            let place = slots % BLOCK_ROWS;
            let mut last = head.last.load(Ordering::Relaxed);
            if place == 0 {
                // The next block may be reserved already.
                let link = match index.block(last) {
                    Some(block) => block.next().ok_or(Error::Damaged)?,
                    None => head.first,
                };
                let reserved = link.load(Ordering::Relaxed);
                last = if reserved != NOWHERE {
                    reserved
                } else {
                    let (number, _) = self.take(list)?;
                    link.store(number, Ordering::Relaxed);
                    number
                };
                head.last.store(last, Ordering::Relaxed);
            }
            let block = index.block(last).ok_or(Error::Damaged)?;
            block.write(place, codes, factors).ok_or(Error::Damaged)?;
            let number = block.row(place).ok_or(Error::Damaged)?;
            number.store(row as u32, Ordering::Relaxed);
            // Release: who sees the slot sees its row, its codes and the way to its block.
            head.slots.store(slots.saturating_add(1), Ordering::Release);
        }
        if list != index.params.nlist {
            let entries = index.entries.load(Ordering::Relaxed);
            index
                .entries
                .store(entries.saturating_add(1), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Adds a row to each of `lists`: its codes for each of them, one after the other, and factors.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`]. The row is in none of the lists then.
    pub fn append_to<E>(
        &mut self,
        lists: &[u32],
        row: u64,
        codes: &[u8],
        factors: &[[u32; 3]],
    ) -> Result<(), Error<E>> {
        let nsub = self.index.layout.nsub as usize;
        for (at, (&list, factors)) in lists.iter().zip(factors).enumerate() {
            let from = at.saturating_mul(nsub);
            let codes = codes.get(from..from.saturating_add(nsub));
            let codes = codes.ok_or(Error::Workspace)?;
            if let Err(error) = self.append(list, row, codes, factors) {
                self.delete_from_all(lists.get(..at).unwrap_or(&[]), row)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes a row from those of `lists` that it is in. Says how many these are.
    ///
    /// # Errors
    ///
    /// As [`Writer::delete_from`].
    pub fn delete_from_all<E>(&mut self, lists: &[u32], row: u64) -> Result<usize, Error<E>> {
        let mut found = 0usize;
        for &list in lists {
            found = found.saturating_add(usize::from(self.delete_from(list, row)?));
        }
        Ok(found)
    }

    /// Removes a row from a list, if it is there. `list` is where its vector belongs; if a row is
    /// not found there, as when its list was chosen by another processor's rounding, any other may have it:
    /// see [`Writer::delete`].
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if there is no such list, [`Error::Damaged`].
    pub fn delete_from<E>(&mut self, list: u32, row: u64) -> Result<bool, Error<E>> {
        let index = self.index;
        let head = index.head(list).ok_or(Error::Workspace)?;
        let mut found = None;
        let walked = index.walk(list, |number, block, rows| {
            for place in 0..rows {
                let here = block.row(place);
                if here.is_some_and(|here| u64::from(here.load(Ordering::Relaxed)) == row) {
                    found = here
                        .zip(number.checked_mul(BLOCK_ROWS))
                        .map(|(w, n)| (w, n | place));
                    return false;
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        let Some((word, slot)) = found.filter(|_| row < MAX_ROWS) else {
            return Ok(false);
        };
        word.store(HOLE | head.hole.load(Ordering::Relaxed), Ordering::Relaxed);
        head.hole.store(slot, Ordering::Relaxed);
        let entries = index.entries.load(Ordering::Relaxed);
        index
            .entries
            .store(entries.saturating_sub(1), Ordering::Relaxed);
        Ok(true)
    }

    /// Removes a row, looked for in `lists` first and, unless it was in all of these, in all others: 4 bytes a row are
    /// read, 0.2 ms for a million. Says whether it was in the index.
    ///
    /// # Errors
    ///
    /// As [`Writer::delete_from`].
    pub fn delete<E>(&mut self, lists: &[u32], row: u64) -> Result<bool, Error<E>> {
        let mut found = self.delete_from_all(lists, row)?;
        for list in 0..self.index.params.nlist {
            if found >= self.index.params.copies as usize {
                break;
            }
            found = found.saturating_add(usize::from(self.delete_from(list, row)?));
        }
        Ok(found > 0)
    }

    /// Removes the rows of a list that `gone` says yes to: many at once, or rows whose vectors are no longer known.
    /// Says how many they were in this list.
    ///
    /// # Errors
    ///
    /// As [`Writer::delete_from`].
    pub fn delete_where<E>(
        &mut self,
        list: u32,
        mut gone: impl FnMut(u64) -> bool,
    ) -> Result<u32, Error<E>> {
        let index = self.index;
        let head = index.head(list).ok_or(Error::Workspace)?;
        let mut removed = 0u32;
        let walked = index.walk(list, |number, block, rows| {
            for place in 0..rows {
                let here = block.row(place).zip(number.checked_mul(BLOCK_ROWS));
                let Some((word, first)) = here else {
                    continue;
                };
                let row = word.load(Ordering::Relaxed);
                if row & HOLE == 0 && gone(u64::from(row)) {
                    word.store(HOLE | head.hole.load(Ordering::Relaxed), Ordering::Relaxed);
                    head.hole.store(first | place, Ordering::Relaxed);
                    removed = removed.saturating_add(1);
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        let entries = index.entries.load(Ordering::Relaxed);
        let entries = entries.saturating_sub(removed);
        index.entries.store(entries, Ordering::Relaxed);
        Ok(removed)
    }
}
