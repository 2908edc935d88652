// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What an index knows besides its nodes: where to start, which slots are free, who is inside.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::node::NOWHERE;
use super::spread::Spread;

/// Where searches start: a slot and its top level in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) level: u32,
}

impl Entry {
    /// The entry of an empty index.
    const NONE: u64 = u64::MAX;

    pub(super) const fn word(entry: Option<Entry>) -> u64 {
        match entry {
            Some(entry) => (entry.level as u64) << 32 | entry.slot as u64,
            None => Entry::NONE,
        }
    }

    pub(super) const fn from_word(word: u64) -> Option<Entry> {
        match word {
            Entry::NONE => None,
            word => Some(Entry {
                slot: word as u32,
                level: (word >> 32) as u32,
            }),
        }
    }
}

/// The state of an index outside of its blocks.
pub(super) struct Head {
    entry: AtomicU64,
    /// Slots never used yet start here.
    pub(super) used: AtomicU32,
    pub(super) free: Stack,
    /// Upper blocks never used yet start here.
    pub(super) used_uppers: AtomicU32,
    pub(super) free_uppers: Stack,
    pub(super) live: AtomicU32,
    /// Deleted nodes that links still lead to, or that wait for those who may look at them.
    pub(super) deleted: AtomicU32,
    /// All rows ever inserted are below this.
    pub(super) row_end: AtomicU64,
    pub(super) gate: Gate,
    /// Of rows, as inserts found them.
    pub(super) spread: Spread,
}

impl Head {
    pub(super) const fn new() -> Head {
        Head {
            entry: AtomicU64::new(Entry::NONE),
            used: AtomicU32::new(0),
            free: Stack::new(),
            used_uppers: AtomicU32::new(0),
            free_uppers: Stack::new(),
            live: AtomicU32::new(0),
            deleted: AtomicU32::new(0),
            row_end: AtomicU64::new(0),
            gate: Gate::new(),
            spread: Spread::new(),
        }
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        Entry::from_word(self.entry.load(Ordering::Acquire))
    }

    /// Replaces the entry if it still is `old`.
    pub(super) fn change_entry(&self, old: Option<Entry>, new: Option<Entry>) -> bool {
        let (old, new) = (Entry::word(old), Entry::word(new));
        self.entry
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// The next of `limit` numbers that were never given out, counted by `used`.
pub(super) fn next_unused(used: &AtomicU32, limit: u32) -> Option<u32> {
    used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
        (n < limit).then(|| n.wrapping_add(1))
    })
    .ok()
}

/// Numbers linked through words of their own (Treiber's stack). A count beside the top tells a stack
/// from one that has changed and changed back.
pub(super) struct Stack {
    top: AtomicU64,
}

impl Stack {
    pub(super) const fn new() -> Stack {
        Stack {
            top: AtomicU64::new(NOWHERE as u64),
        }
    }

    const fn tagged(old: u64, top: u32) -> u64 {
        ((old >> 32).wrapping_add(1) << 32) | top as u64
    }

    /// Adds `n`, whose word is `link`.
    pub(super) fn push(&self, n: u32, link: &AtomicU32) {
        let _ = self
            .top
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                link.store(old as u32, Ordering::Relaxed);
                Some(Stack::tagged(old, n))
            });
    }

    /// Takes the last number added; `link` finds the words of numbers.
    pub(super) fn pop<'s>(&self, link: impl Fn(u32) -> Option<&'s AtomicU32>) -> Option<u32> {
        let taken = self
            .top
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                let next = link(old as u32)?.load(Ordering::Relaxed);
                Some(Stack::tagged(old, next))
            });
        taken.ok().map(|old| old as u32)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.top.load(Ordering::Acquire) as u32 == NOWHERE
    }

    /// Takes everything; the numbers stay linked to each other.
    pub(super) fn take(&self) -> u32 {
        let old = self
            .top
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                Some(Stack::tagged(old, NOWHERE))
            });
        old.map_or(NOWHERE, |old| old as u32)
    }
}

/// Tells when everybody has left who may still look at a slot that nothing leads to any more.
///
/// Whoever is inside counts as one of an even or odd epoch, as in the kernel's SRCU. The epoch
/// advances when the one before it is empty; what was retired in an epoch is free two later. Entering and
/// leaving is one atomic addition each, and never waits.
pub(super) struct Gate {
    epoch: AtomicU32,
    inside: [AtomicU32; 2],
    retired: [Stack; 3],
}

/// Somebody is inside as long as this lives.
pub(super) struct Passage<'a> {
    counter: &'a AtomicU32,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    const fn new() -> Gate {
        Gate {
            epoch: AtomicU32::new(0),
            inside: [AtomicU32::new(0), AtomicU32::new(0)],
            retired: [Stack::new(), Stack::new(), Stack::new()],
        }
    }

    fn counter(&self, epoch: u32) -> &AtomicU32 {
        let [even, odd] = &self.inside;
        if epoch & 1 == 0 {
            even
        } else {
            odd
        }
    }

    /// Epochs wrap at a multiple of 6, so that both remainders stay continuous.
    const EPOCHS: u32 = 6 << 20;

    fn stack(&self, epoch: u32) -> &Stack {
        let [a, b, c] = &self.retired;
        match epoch % 3 {
            0 => a,
            1 => b,
            _ => c,
        }
    }

    pub(super) fn enter(&self) -> Passage<'_> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let counter = self.counter(epoch);
            counter.fetch_add(1, Ordering::SeqCst);
            let passage = Passage { counter };
            // An epoch that has advanced meanwhile may have been seen empty. It advances only when a
            // slot is retired, so this is no endless loop.
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return passage;
            }
        }
    }

    /// Lists a slot that nothing leads to. Only inside.
    pub(super) fn retire(&self, slot: u32, link: &AtomicU32) {
        self.stack(self.epoch.load(Ordering::SeqCst))
            .push(slot, link);
    }

    /// Whether slots wait to be free.
    pub(super) fn has_retired(&self) -> bool {
        self.retired.iter().any(|stack| !stack.is_empty())
    }

    /// Lets the epoch advance if it can, and calls `free` with each slot nobody looks at any more. `link`
    /// finds the words of slots; at most `most` are followed.
    pub(super) fn advance<'s>(
        &self,
        most: u32,
        link: impl Fn(u32) -> Option<&'s AtomicU32>,
        mut free: impl FnMut(u32),
    ) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let next = epoch.wrapping_add(1) % Gate::EPOCHS;
        if self.counter(next).load(Ordering::SeqCst) != 0 {
            return;
        }
        let advanced = self
            .epoch
            .compare_exchange(epoch, next, Ordering::SeqCst, Ordering::SeqCst);
        if advanced.is_err() {
            return;
        }
        // Retired two epochs before `next`, or by somebody inside who was slow to, which is as good.
        let mut slot = self.stack(next.wrapping_add(1)).take();
        for _ in 0..most {
            let Some(word) = link(slot) else {
                break;
            };
            let following = word.load(Ordering::Relaxed);
            free(slot);
            slot = following;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_retired_slot_is_free_when_all_who_were_inside_have_left() {
        let words: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(NOWHERE)).collect();
        let gate = Gate::new();
        let freed = |gate: &Gate| {
            let mut freed = vec![];
            gate.advance(4, |slot| words.get(slot as usize), |slot| freed.push(slot));
            freed
        };
        let old = gate.enter();
        gate.retire(1, &words[1]);
        gate.retire(2, &words[2]);
        // One step is possible, the second is not while `old` is inside.
        assert!(freed(&gate).is_empty());
        assert!(freed(&gate).is_empty());
        let young = gate.enter();
        gate.retire(3, &words[3]);
        drop(old);
        assert_eq!(freed(&gate), [2, 1]);
        assert!(freed(&gate).is_empty());
        drop(young);
        assert_eq!(freed(&gate), [3]);
    }

    #[test]
    fn a_stack_gives_back_what_was_pushed() {
        let words: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
        let stack = Stack::new();
        let pop = || stack.pop(|n| words.get(n as usize));
        assert_eq!(pop(), None);
        stack.push(2, &words[2]);
        stack.push(0, &words[0]);
        assert_eq!((pop(), pop(), pop()), (Some(0), Some(2), None));
    }

    #[test]
    fn numbers_run_out() {
        let used = AtomicU32::new(0);
        let next = || next_unused(&used, 2);
        assert_eq!((next(), next(), next()), (Some(0), Some(1), None));
    }
}
