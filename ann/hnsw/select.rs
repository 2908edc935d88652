// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which candidates become neighbours (the paper's algorithm 4), and how a list is changed.

use core::sync::atomic::{AtomicU32, Ordering};

use super::beam::Batch;
use super::node::{self, acquire, list, release_unless_last, Anchor, List, State};
use super::params::MAX_M0;
use super::pool::{distance_of, entry, slot_of};
use super::store::{Numeric, Store, BATCH};
use super::{Error, Index};

/// Slots of neighbours.
pub(super) struct Neighbours {
    slots: [u32; MAX_M0],
    len: usize,
}

impl Neighbours {
    pub(super) const fn new() -> Self {
        Neighbours {
            slots: [node::NOWHERE; MAX_M0],
            len: 0,
        }
    }

    pub(super) fn of(list: &List<'_>) -> Self {
        let mut all = Neighbours::new();
        for slot in list.iter() {
            all.push(slot);
        }
        all
    }

    pub(super) fn push(&mut self, slot: u32) {
        if let Some(place) = self.slots.get_mut(self.len) {
            *place = slot;
            self.len += 1;
        }
    }

    /// Adds a slot if `new`, without a jump that depends on it.
    #[inline]
    pub(super) fn push_if(&mut self, slot: u32, new: bool) {
        if let Some(place) = self.slots.get_mut(self.len) {
            *place = slot;
            self.len += usize::from(new);
        }
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        self.slots.get(..self.len).unwrap_or(&[])
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.as_slice().contains(&slot)
    }

    fn swap_remove(&mut self, at: usize) {
        let last = self.len.wrapping_sub(1);
        if at < self.len && last < MAX_M0 {
            self.slots.swap(at, last);
            self.len = last;
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        if let Some(at) = self.as_slice().iter().position(|&s| s == slot) {
            self.swap_remove(at);
        }
    }
}

const _: () = assert!(MAX_M0 <= BATCH);

/// A candidate is left out only for one that is nearer to it by more than a tenth, as in the robust pruning of DiskANN
/// (Subramanya et al., NeurIPS 2019): keys of distances are nearly logarithms, and this is that of 1.1 in them.
const LENIENCE: u32 = 1_153_434;

/// With a lesser `m` there are too few links for that, and those that go far are wanted more.
const LENIENT_FROM: usize = 8;

/// Scored candidates for one list, at most this many: two lists, and a node.
pub(super) const MAX_SCORED: usize = 2 * MAX_M0 + 1;

impl<S: Store> Index<S> {
    /// Scores `slots` from `node` and sorts them into `out`; returns how many there are. Slots without
    /// a node are left out.
    // Not inlined: its batch must have left the stack, of which a kernel has little, before `select` is called.
    #[inline(never)]
    pub(super) fn rank<N: Numeric>(
        &self,
        numeric: &mut N,
        node: &[AtomicU32],
        slots: impl Iterator<Item = u32>,
        out: &mut [u64; MAX_SCORED],
    ) -> Result<usize, Error<N::Error>> {
        let mut slots = slots.take(MAX_SCORED);
        let mut keys = [0; BATCH];
        let mut n = 0;
        loop {
            let mut batch = Batch::new(node);
            for slot in slots.by_ref() {
                let Some(other) = self.store.node(slot) else {
                    continue;
                };
                numeric.prefetch(other.get(..self.layout.front_words()).unwrap_or(other));
                if !batch.push(slot, other) {
                    break;
                }
            }
            if batch.is_empty() {
                break;
            }
            let keys = keys.get_mut(..batch.len()).ok_or(Error::Damaged)?;
            numeric.between(node, batch.nodes(), keys)?;
            // By insertion: `core`'s sort may panic where an order contradicts itself, which objtool does not
            // expect, and there are few.
            for (&key, &slot) in keys.iter().zip(batch.slots()) {
                let new = entry(key, slot);
                let sorted = out.get(..n).unwrap_or(&[]);
                let at = sorted.partition_point(|&e| e < new);
                if n < MAX_SCORED {
                    out.copy_within(at..n, at + 1);
                    if let Some(place) = out.get_mut(at) {
                        *place = new;
                    }
                    n += 1;
                }
            }
        }
        Ok(n)
    }

    /// Chooses at most `most` live neighbours among candidates, nearest first: a candidate that is nearer
    /// to one chosen before than to the node itself, by [`LENIENCE`], can be reached through that one. With `fill`, at
    /// least that many are chosen, the nearest of those left out being the first to be added.
    pub(super) fn select<N: Numeric>(
        &self,
        numeric: &mut N,
        candidates: &[u64],
        most: usize,
        fill: usize,
    ) -> Result<Neighbours, Error<N::Error>> {
        let mut chosen = Neighbours::new();
        let mut batch = Batch::new(&[]);
        let mut keys = [0; BATCH];
        let lenience = if self.layout.m < LENIENT_FROM {
            0
        } else {
            LENIENCE
        };
        for &candidate in candidates {
            if chosen.len() >= most {
                break;
            }
            let slot = slot_of(candidate);
            if !self.is_live(slot) {
                continue;
            }
            let node = self.store.node(slot).ok_or(Error::Damaged)?;
            if !batch.is_empty() {
                let keys = keys.get_mut(..batch.len()).ok_or(Error::Damaged)?;
                numeric.between(node, batch.nodes(), keys)?;
                if keys
                    .iter()
                    .any(|&key| key.saturating_add(lenience) <= distance_of(candidate))
                {
                    continue;
                }
            }
            chosen.push(slot);
            // `most` is at most `MAX_M0`, which is one batch.
            batch.push(slot, node);
        }
        for &candidate in candidates {
            if chosen.len() >= fill.min(most) {
                break;
            }
            if !chosen.contains(slot_of(candidate)) && self.is_live(slot_of(candidate)) {
                chosen.push(slot_of(candidate));
            }
        }
        Ok(chosen)
    }

    /// Makes `new` the links of `slot` on `level`, as far as counts of links allow: deleted nodes get
    /// none, and a node's last link stays if there is room. Under the node's lock.
    // Not inlined for the same reason as `rank`.
    #[inline(never)]
    pub(super) fn relink(&self, slot: u32, level: u32, list: &List<'_>, new: &Neighbours) {
        let old = Neighbours::of(list);
        let mut result = Neighbours::new();
        for &target in new.as_slice() {
            if old.contains(target) || (target != slot && self.acquire(target, level)) {
                result.push(target);
            }
        }
        let mut last = Neighbours::new();
        for &target in old.as_slice() {
            if !result.contains(target) && !self.release_unless_last(target, level) {
                last.push(target);
            }
        }
        for &target in last.as_slice() {
            if result.len() == list.links.len() && !self.make_place(&mut result, &old, level) {
                // All of them hang by this list, which is next to impossible. `sweep` finds the target.
                self.release(target, level);
                continue;
            }
            result.push(target);
        }
        list.write(result.as_slice());
    }

    /// Drops the farthest of `result` that has other links to it, or else one that `old` has not: a new
    /// node, whose insertion sees to it that there is a link.
    fn make_place(&self, result: &mut Neighbours, old: &Neighbours, level: u32) -> bool {
        let spare = result
            .as_slice()
            .iter()
            .rposition(|&t| self.release_unless_last(t, level));
        let new = || result.as_slice().iter().rposition(|&t| !old.contains(t));
        let Some(at) = spare.or_else(|| {
            let at = new()?;
            self.release(*result.as_slice().get(at)?, level);
            Some(at)
        }) else {
            return false;
        };
        result.swap_remove(at);
        true
    }

    /// Counts a link to `target`.
    pub(super) fn acquire(&self, target: u32, level: u32) -> bool {
        self.is_live(target)
            && list(&self.layout, &self.store, target, level).is_some_and(|l| acquire(l.anchor))
    }

    /// Takes a link to `target` back, unless it is the last one.
    pub(super) fn release_unless_last(&self, target: u32, level: u32) -> bool {
        let Some(list) = list(&self.layout, &self.store, target, level) else {
            return true;
        };
        match release_unless_last(list.anchor) {
            Ok(now) => {
                self.retire_if_unlinked(target, now);
                true
            }
            Err(()) => false,
        }
    }

    /// Takes a link to `target` back.
    pub(super) fn release(&self, target: u32, level: u32) {
        if let Some(list) = list(&self.layout, &self.store, target, level) {
            let now = node::release(list.anchor);
            self.retire_if_unlinked(target, now);
        }
    }

    fn retire_if_unlinked(&self, target: u32, now: Anchor) {
        if now.state() == State::Deleted && now.in_degree() == 0 {
            self.retire(target);
        }
    }

    /// How many links to `slot` there are on `level`.
    pub(super) fn in_degree(&self, slot: u32, level: u32) -> u32 {
        list(&self.layout, &self.store, slot, level).map_or(0, |list| {
            Anchor(list.anchor.load(Ordering::Acquire)).in_degree()
        })
    }
}
