// SPDX-License-Identifier: GPL-2.0

//! Taking in the rows that an index does not have yet.

use super::{steadily, Index, Shared};
use crate::VexFs;
use core::ops::Range;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};
use vexfs_vfs::work;
use vexfs_vfs::{task, Inode};

/// Rows that a thread takes in while it holds `Node::rows`: some milliseconds.
const PIECE: u64 = 16;

/// Whether work may go on.
pub(super) type GoOn<'a> = &'a (dyn Fn() -> Result + Sync);

impl Index {
    /// Rows from here on are not in the structure. Called with `Node::rows` held, it says so for as long.
    pub(super) fn inserted_below(&self) -> u64 {
        self.watermark().max(self.claimed.load(Ordering::Acquire))
    }

    /// Takes in the rows up to `end` with up to `threads` threads. The inode may be locked. With
    /// more than one, room was made for all of them, and nobody else takes in rows.
    ///
    /// # Errors
    ///
    /// What `go_on` says, which is asked often; `ECANCELED` if the index was dropped, `ENOMEM`, `EFBIG`,
    /// and what reading says. Of one thread stays what was done until then.
    pub(super) fn catch_up(
        &self,
        inode: &Inode<VexFs>,
        end: u64,
        threads: u32,
        go_on: GoOn<'_>,
    ) -> Result {
        match self.structure.shared() {
            Some(structure) if threads > 1 => {
                return self.share(structure, inode, end, threads, go_on);
            }
            _ => {}
        }
        while self.watermark() < end {
            self.may_go_on(go_on)?;
            let extend = || self.structure.extend(inode, &self.watermark, end, threads);
            steadily(inode, extend)?;
        }
        Ok(())
    }

    /// Arranges what was built for searches, which do not use it yet. What was loaded stays as it was saved, and what
    /// there is no memory to arrange as it is. Not inlined: taking rows in wants the stack.
    ///
    /// # Errors
    ///
    /// What `go_on` says, and `ECANCELED` if the index was dropped.
    #[inline(never)]
    pub(super) fn arrange(&self, go_on: GoOn<'_>) -> Result {
        if self.stored.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.structure.arrange(&|| self.may_go_on(go_on)) {
            Err(ENOMEM) => Ok(()),
            arranged => arranged,
        }
    }

    pub(super) fn may_go_on(&self, go_on: GoOn<'_>) -> Result {
        task::cond_resched();
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ECANCELED);
        }
        go_on()
    }

    /// As [`Index::catch_up`]: threads take pieces of the rows until none is left.
    fn share(
        &self,
        structure: &dyn Shared,
        inode: &Inode<VexFs>,
        end: u64,
        threads: u32,
        go_on: GoOn<'_>,
    ) -> Result {
        let pieces = Pieces {
            rest: self.watermark()..end,
            begun: KVec::with_capacity(threads as usize, GFP_KERNEL)?,
            result: Ok(()),
        };
        pin_init::stack_pin_init!(let pieces = new_mutex!(pieces, "vexfs_pieces"));
        let pieces: &Mutex<Pieces> = &pieces;
        work::parallel(threads, || loop {
            let may = self.may_go_on(go_on);
            let mut locked = pieces.lock();
            locked.end_with(may);
            let Some(rows) = locked.take() else {
                return;
            };
            // Before `Node::rows` is taken: who overwrites rows knows that these may be in.
            self.claimed.fetch_max(rows.end, Ordering::Release);
            drop(locked);
            let first = rows.start;
            let done = steadily(inode, || structure.insert(inode, rows, end));
            let mut locked = pieces.lock();
            let failed = done.is_err();
            locked.end_with(done);
            if failed {
                // The piece stays begun, so that the watermark does not pass it.
                return;
            }
            let below = locked.done(first);
            self.watermark.fetch_max(below, Ordering::Release);
        });
        let result = pieces.lock().result;
        result
    }
}

/// Rows that are to be taken in.
struct Pieces {
    rest: Range<u64>,
    /// First rows of pieces that were begun and are not done.
    begun: KVec<u64>,
    result: Result,
}

impl Pieces {
    fn take(&mut self) -> Option<Range<u64>> {
        let first = self.rest.start;
        if self.result.is_err() || first >= self.rest.end {
            return None;
        }
        // There is room for one piece for each thread.
        self.begun.push_within_capacity(first).ok()?;
        self.rest.start = first.saturating_add(PIECE).min(self.rest.end);
        Some(first..self.rest.start)
    }

    /// Keeps the first error.
    fn end_with(&mut self, result: Result) {
        if self.result.is_ok() {
            self.result = result;
        }
    }

    /// Ends the piece that begins at `first`. Returns below which row all are done.
    fn done(&mut self, first: u64) -> u64 {
        self.begun.retain(|begun| *begun != first);
        self.begun.iter().copied().fold(self.rest.start, u64::min)
    }
}
