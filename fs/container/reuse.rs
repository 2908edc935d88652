// SPDX-License-Identifier: GPL-2.0

//! Which deleted rows another row may take the place of.
//!
//! Not one that a search or a [`Reading`] may still look at, because it began before the row was deleted. And not one
//! that would be live after a crash: its tombstone has to be on the medium before its bytes change.
//!
//! Rows that are deleted are barred, in one of two generations. The one that collects them is closed when the other
//! is empty, and emptied when what it waits for has happened: as with the two counters of SRCU
//! (`kernel/rcu/srcutree.c`), readers that began before it was closed are counted apart from those that came later.

use super::{push_durable, Container, Unwritten};
use crate::VexFs;
use kernel::prelude::*;
use vexfs_vfs::jbd2::Tid;
use vexfs_vfs::Inode;

/// Deleted rows that wait to be used again are made durable when they are this part of the live ones,
const WAITING_SHARE: u64 = 16;
/// and so many at least.
const LEAST_WAITING: u64 = 256;

/// What stands in the way of using deleted rows again.
///
/// # Invariants
///
/// While `closed` is `None`, nobody is counted in `readers` but in the phase of now, and no bit is set in the bitmap that
/// does not collect.
#[derive(Default)]
pub(crate) struct Reuse {
    /// A bit for each row that was deleted lately. The one at `phase` collects.
    barred: [KVVec<u64>; 2],
    /// Rows in each of them.
    count: [u64; 2],
    /// Who reads rows, by the phase in which they began.
    readers: [u64; 2],
    phase: usize,
    /// The last batch when the other bitmap was closed, if there is something in it.
    closed: Option<u64>,
    /// The vector area that was last written, and by which transaction: all up to this batch.
    pushed: Option<(u64, Tid)>,
    /// Tombstones that were there when the container was loaded are on the medium.
    settled: bool,
    /// Where the last search for deleted rows ended.
    next: usize,
}

impl Reuse {
    /// Makes room for a number of words, of 64 rows each.
    pub(super) fn reserve(&mut self, words: usize) -> Result {
        for barred in &mut self.barred {
            if barred.len() < words {
                barred.resize(words, 0, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
            }
        }
        Ok(())
    }

    /// Bars a row that was deleted, and that room was made for.
    pub(super) fn bar(&mut self, row: u64) {
        let words = self.barred.get_mut(self.phase);
        if let Some(word) = words.and_then(|words| words.get_mut((row / 64) as usize)) {
            *word |= 1 << (row % 64);
        }
        if let Some(count) = self.count.get_mut(self.phase) {
            *count = count.saturating_add(1);
        }
    }

    /// Notes that all up to batch `batch` is in transaction `tid`.
    pub(super) fn pushed(&mut self, batch: u64, tid: Tid) {
        self.pushed = Some((batch, tid));
    }

    fn is_barred(&self, word: usize) -> u64 {
        let of = |barred: &KVVec<u64>| barred.get(word).copied().unwrap_or(0);
        self.barred.iter().map(of).fold(0, |all, word| all | word)
    }

    /// Lets rows go whose time has come, `durable` being the last batch that is on the medium, `done` the last of all.
    fn advance(&mut self, done: u64, durable: u64) {
        let other = self.phase ^ 1;
        if let Some(closed) = self.closed {
            let read = self.readers.get(other).is_none_or(|readers| *readers > 0);
            if read || closed > durable {
                return;
            }
            if let (Some(barred), Some(count)) =
                (self.barred.get_mut(other), self.count.get_mut(other))
            {
                barred.fill(0);
                *count = 0;
            }
            self.closed = None;
        }
        if self.count.get(self.phase).is_some_and(|count| *count > 0) {
            self.closed = Some(done);
            // INVARIANT: Nobody is counted in the other phase, and none of its bits is set.
            self.phase = other;
        }
    }
}

/// For as long as it is there, rows that are live now keep their bytes, and so do those that are deleted
/// meanwhile, unless they are overwritten in place, which `Node::rows` excludes.
pub(crate) struct Reading<'a> {
    inode: &'a Inode<VexFs>,
    phase: usize,
}

impl<'a> Reading<'a> {
    /// From now on.
    pub(crate) fn begin(inode: &'a Inode<VexFs>) -> Self {
        let mut container = inode.node().container.lock();
        let reuse = &mut container.reuse;
        let phase = reuse.phase;
        if let Some(readers) = reuse.readers.get_mut(phase) {
            *readers = readers.saturating_add(1);
        }
        Reading { inode, phase }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut container = self.inode.node().container.lock();
        if let Some(readers) = container.reuse.readers.get_mut(self.phase) {
            *readers = readers.saturating_sub(1);
        }
    }
}

/// Up to `count` deleted rows, in order, whose place others may take. Those that come without keys get their row's
/// number for one, so it must not be the key of another row. The inode is locked exclusively. Not inlined: what comes
/// after it wants the stack.
///
/// # Errors
///
/// `ENOMEM`, and what writing the container says.
#[inline(never)]
pub(crate) fn reusable(inode: &Inode<VexFs>, count: u64, with_keys: bool) -> Result<KVVec<u64>> {
    let mut found = KVVec::new();
    if count == 0 || inode.node().container.lock().deleted() == 0 {
        return Ok(found);
    }
    let journal = inode.volume().journal()?;
    if !inode.node().container.lock().reuse.settled {
        // Its tombstones may be of transactions that are still open.
        journal.force_commit()?;
        inode.node().container.lock().reuse.settled = true;
    }
    advance(inode)?;
    collect(inode, count, with_keys, &mut found)?;
    let waiting = {
        let container = inode.node().container.lock();
        let waiting = container
            .reuse
            .count
            .iter()
            .fold(0, |all, n| n.saturating_add(all));
        waiting >= (container.area.live / WAITING_SHARE).max(LEAST_WAITING)
    };
    if (found.len() as u64) < count && waiting {
        push_durable(inode, Unwritten::Wait)?;
        journal.complete(inode.node().sync_tid(false))?;
        // Now the generation that waited may go, and the other one waits for nothing.
        advance(inode)?;
        found.clear();
        collect(inode, count, with_keys, &mut found)?;
    }
    // In order up to where it began anew with the first row, and from there on.
    let turn = found
        .windows(2)
        .position(|pair| matches!(pair, [a, b] if a > b));
    if let Some(turn) = turn {
        found.rotate_left(turn.saturating_add(1));
    }
    Ok(found)
}

fn advance(inode: &Inode<VexFs>) -> Result {
    let journal = inode.volume().journal()?;
    let mut container = inode.node().container.lock();
    let done = container.area.batch_done;
    let reuse = &mut container.reuse;
    let committed = reuse.pushed.filter(|(_, tid)| journal.is_committed(*tid));
    let durable = committed.map_or(0, |(batch, _)| batch);
    // One generation, and then the other.
    reuse.advance(done, durable);
    reuse.advance(done, durable);
    Ok(())
}

/// Adds up to `count` rows to `found`.
fn collect(inode: &Inode<VexFs>, count: u64, with_keys: bool, found: &mut KVVec<u64>) -> Result {
    let count = usize::try_from(count)?;
    let mut guard = inode.node().container.lock();
    let container: &mut Container = &mut guard;
    let words = container.tombstones.len();
    let mut at = container.reuse.next;
    for _ in 0..words {
        if at >= words {
            at = 0;
        }
        let tombstones = container.tombstones.get(at).copied().unwrap_or(0);
        let mut free = tombstones & !container.reuse.is_barred(at);
        while free != 0 {
            let row = (at as u64)
                .saturating_mul(64)
                .saturating_add(u64::from(free.trailing_zeros()));
            free &= free.wrapping_sub(1);
            let taken = !with_keys
                && container.key_map.is_some()
                && container.find(inode.sb(), row)?.is_some();
            if row >= container.area.rows || taken {
                continue;
            }
            found.push(row, GFP_KERNEL)?;
            if found.len() >= count {
                container.reuse.next = at;
                return Ok(());
            }
        }
        at = at.saturating_add(1);
    }
    Ok(())
}
