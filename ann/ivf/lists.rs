// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Lists as chains of blocks, and how they are read and written at the same time.
//!
//! A list's head has its first block, its number of slots, its last block, and its first hole. Slots are
//! filled in order. A slot without a row is a hole: the top bit of its row number is set, and the rest is
//! the next hole of the list. A hole's codes are nobody's, so a later row is written there first and
//! shown by its number afterwards.

use core::sync::atomic::{AtomicU32, Ordering};

use super::params::{BLOCK_ROWS, HEAD_WORDS, LIST_WORDS};
use super::store::Store;
use super::{Index, Layout};

/// The bit of a row number that marks a hole.
pub(super) const HOLE: u32 = 1 << 31;

/// The end of a list's holes.
pub(super) const NO_HOLE: u32 = HOLE - 1;

/// A place that never had a row, or has none because its block is new. No slot has this name.
pub(super) const EMPTY: u32 = HOLE | (NO_HOLE - 1);

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

impl Head<'_> {
    /// Makes the slot of this name, whose row's number is in `word`, the first hole.
    pub(super) fn make_hole(&self, word: &AtomicU32, slot: u32) {
        word.store(HOLE | self.hole.load(Ordering::Relaxed), Ordering::Relaxed);
        self.hole.store(slot, Ordering::Relaxed);
    }
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

    fn set_code(&self, place: u32, sub: u32, code: u32) -> Option<()> {
        let (word, shift, mask) = self.code(place, sub)?;
        // One writer: nobody else changes the word between load and store.
        let rest = word.load(Ordering::Relaxed) & !(mask << shift);
        word.store(rest | (code & mask) << shift, Ordering::Relaxed);
        Some(())
    }

    /// Writes the codes and factors of a row that nobody sees yet.
    pub(super) fn write(&self, place: u32, codes: &[u8], factors: &[u32; 3]) -> Option<()> {
        for (sub, &code) in (0u32..).zip(codes) {
            self.set_code(place, sub, u32::from(code))?;
        }
        if self.layout.nsub > 0 {
            for (i, &factor) in (0u32..).zip(factors) {
                self.factor(place, i)?.store(factor, Ordering::Relaxed);
            }
        }
        Some(())
    }

    /// Copies the row at `from` of another block to `place`.
    pub(super) fn copy(&self, place: u32, other: &Block<'_>, from: u32) -> Option<()> {
        for sub in 0..self.layout.nsub {
            self.set_code(place, sub, other.code_at(from, sub)?)?;
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
    pub(super) fn slot(&self, slot: u32) -> Option<(Block<'_>, u32)> {
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
}
