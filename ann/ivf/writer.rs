// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Changes of lists: rows are appended, and removed.

use core::sync::atomic::Ordering;

use super::lists::{Block, Head, EMPTY, HOLE, MAX_BLOCKS, NO_HOLE};
use super::params::{BLOCK_ROWS, MAX_ROWS};
use super::store::Store;
use super::{Error, Index, NOWHERE};

impl<S: Store> Index<S> {
    /// Keeps other writers out, and waits for one that is inside.
    pub fn writer(&self) -> Writer<'_, S> {
        Writer {
            index: self,
            _guard: self.store.lock(),
        }
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
            let entries = entries.saturating_add(1);
            index.entries.store(entries, Ordering::Relaxed);
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
        head.make_hole(word, slot);
        self.forget(1);
        Ok(true)
    }

    /// Counts slots that are holes now.
    fn forget(&self, slots: u32) {
        let entries = &self.index.entries;
        let left = entries.load(Ordering::Relaxed).saturating_sub(slots);
        entries.store(left, Ordering::Relaxed);
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
                    head.make_hole(word, first | place);
                    removed = removed.saturating_add(1);
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        self.forget(removed);
        Ok(removed)
    }
}
