// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Moving the rows of a list together, and freeing the blocks that become empty.

use core::sync::atomic::Ordering;

use super::lists::{EMPTY, HOLE, NO_HOLE};
use super::params::BLOCK_ROWS;
use super::store::Store;
use super::{Error, Index, NOWHERE};

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

    /// The slot that follows; from the last of a chain it leads nowhere, which is no error yet.
    fn after(&self, block: u32, place: u32) -> Option<(u32, u32)> {
        if place.saturating_add(1) < BLOCK_ROWS {
            return Some((block, place.saturating_add(1)));
        }
        Some((self.block(block)?.next()?.load(Ordering::Relaxed), 0))
    }
}
