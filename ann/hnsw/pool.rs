// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Candidates in the order of their distance, and the set of slots that were looked at.

use super::select::Neighbours;

/// The nearest candidates seen, sorted; each is expanded once.
///
/// One sorted array serves as both queues of the paper's search: its end is the worst result, its
/// first unexpanded entry the next candidate. For hundreds of entries, moving some of them is cheaper than
/// two heaps.
///
/// # Invariants
///
/// `entries[..len]` is strictly increasing, up to the lowest bits. Entries before `cursor` are expanded. An
/// entry is a distance, a slot and whether it was expanded, from high to low bits: 32, 31 and 1.
pub(super) struct Pool<'a> {
    entries: &'a mut [u64],
    len: usize,
    cursor: usize,
    /// See [`Pool::within`].
    least: usize,
    nearest: usize,
    reach: u32,
    /// What is farther neither enters nor is expanded, beyond the `least` nearest.
    limit: u32,
}

const EXPANDED: u64 = 1;

/// Entries among which one is found faster by comparing it with many of them than by a binary search, whose
/// comparisons wait for each other.
const COUNTED: usize = 64;

/// Entries that are moved faster one by one than by a call, above all of a kernel's memmove.
const SHORT: usize = 32;

pub(super) const fn entry(distance: u32, slot: u32) -> u64 {
    (distance as u64) << 32 | (slot as u64) << 1
}

/// The distance of an entry.
pub(super) const fn distance_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

/// The slot of an entry.
pub(super) const fn slot_of(entry: u64) -> u32 {
    entry as u32 >> 1
}

/// How many of `sorted` are less than `new`.
#[inline]
fn rank(sorted: &[u64], new: u64) -> usize {
    let less = |e: &u64| usize::from(*e < new);
    let (mut below, mut rest) = (0, sorted);
    while rest.len() > COUNTED {
        let (low, high) = rest.split_at(rest.len() / 2);
        if low.last().is_some_and(|&e| e < new) {
            below += low.len();
            rest = high;
        } else {
            rest = low;
        }
    }
    let ends = rest.chunks_exact(8).filter_map(|eight| eight.last());
    let whole = 8 * ends.map(less).sum::<usize>();
    let part = rest.get(whole..).unwrap_or(&[]);
    below + whole + part.iter().take(8).map(less).sum::<usize>()
}

impl<'a> Pool<'a> {
    /// An empty pool of as many candidates as `memory` holds.
    pub(super) fn new(memory: &'a mut [u64]) -> Self {
        // INVARIANT: nothing is in no order.
        Pool {
            entries: memory,
            len: 0,
            cursor: 0,
            least: usize::MAX,
            nearest: 0,
            reach: 0,
            limit: u32::MAX,
        }
    }

    /// Beyond the `least` nearest, leaves out what is more than `reach` farther than the `nearest`th candidate.
    /// Candidates that are there already are only not expanded.
    pub(super) fn within(self, least: usize, nearest: usize, reach: u32) -> Self {
        Pool {
            least,
            nearest,
            reach,
            ..self
        }
    }

    /// The candidates, nearest first.
    #[cfg(test)]
    fn entries(&self) -> &[u64] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    /// The candidates, nearest first, for as long as the memory is lent.
    pub(super) fn into_entries(self) -> &'a [u64] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    /// What is farther does not enter.
    #[inline]
    pub(super) fn bound(&self) -> u32 {
        let at = |rank: usize| {
            let kept = self.entries.get(..self.len)?;
            kept.get(rank.checked_sub(1)?).map(|&e| distance_of(e))
        };
        let limit = at(self.least).map_or(u32::MAX, |least| least.max(self.limit));
        at(self.entries.len()).map_or(limit, |last| last.min(limit))
    }

    /// Offers a candidate that was not offered before; says whether it entered.
    #[inline]
    pub(super) fn offer(&mut self, distance: u32, slot: u32) -> bool {
        let new = entry(distance, slot);
        let Some(kept) = self.entries.get(..self.len) else {
            return false;
        };
        if self.len == self.entries.len() && kept.last().is_none_or(|&last| new >= last) {
            return false;
        }
        let at = rank(kept, new);
        // The last entry falls out of a full pool.
        let end = self.len.min(self.entries.len().saturating_sub(1));
        // INVARIANT: `at` is at most `end`, because a full pool's last entry is greater.
        if end - at <= SHORT {
            let mut moved = new;
            for place in self.entries.get_mut(at..=end).unwrap_or(&mut []) {
                core::mem::swap(place, &mut moved);
            }
        } else {
            self.entries.copy_within(at..end, at + 1);
            if let Some(place) = self.entries.get_mut(at) {
                *place = new;
            }
        }
        self.len = end + 1;
        self.cursor = self.cursor.min(at);
        if at < self.nearest && self.len >= self.nearest {
            let nearest = self.entries.get(self.nearest.saturating_sub(1));
            let limit = nearest.map(|&e| distance_of(e).saturating_add(self.reach));
            self.limit = limit.unwrap_or(u32::MAX);
        }
        true
    }

    /// The nearest candidate not expanded yet; it counts as expanded from now on.
    #[inline]
    pub(super) fn next(&mut self) -> Option<u32> {
        let rest = self.entries.get_mut(self.cursor..self.len)?;
        let mut skipped = 0;
        for e in rest {
            skipped += 1;
            if *e & EXPANDED == 0 {
                if distance_of(*e) > self.limit && self.cursor + skipped > self.least {
                    return None;
                }
                *e |= EXPANDED;
                self.cursor += skipped;
                return Some(slot_of(*e));
            }
        }
        self.cursor = self.len;
        None
    }
}

/// A set of slots, emptied in time proportional to what was put in.
///
/// # Invariants
///
/// A word of `bits` that is not 0 is listed in `touched[..len]`, or `overflow` is set.
pub(super) struct Visited<'a> {
    bits: &'a mut [u64],
    touched: &'a mut [u32],
    len: usize,
    overflow: bool,
}

impl<'a> Visited<'a> {
    /// Starts empty; `bits` may hold anything if `dirty`, and zeros if not.
    pub(super) fn new(bits: &'a mut [u64], touched: &'a mut [u32], dirty: bool) -> Self {
        let mut visited = Visited {
            bits,
            touched,
            len: 0,
            overflow: dirty,
        };
        visited.clear();
        visited
    }

    /// Adds a slot; says whether it was not there before. Slots that there are no bits for count as
    /// visited.
    #[inline]
    pub(super) fn insert(&mut self, slot: u32) -> bool {
        let at = slot as usize >> 6;
        let Some(word) = self.bits.get_mut(at) else {
            return false;
        };
        let bit = 1 << (slot & 63);
        if *word & bit != 0 {
            return false;
        }
        if *word == 0 {
            // INVARIANT: the word is listed, or the overflow noted.
            match self.touched.get_mut(self.len) {
                Some(place) => {
                    *place = at as u32;
                    self.len += 1;
                }
                None => self.overflow = true,
            }
        }
        *word |= bit;
        true
    }

    /// Adds slots; `fresh` are those that were not there before. As [`Visited::insert`], without a jump that depends
    /// on it.
    #[inline]
    pub(super) fn insert_all(&mut self, slots: impl Iterator<Item = u32>, fresh: &mut Neighbours) {
        for slot in slots {
            let at = slot as usize >> 6;
            let Some(word) = self.bits.get_mut(at) else {
                continue;
            };
            let bit = 1 << (slot & 63);
            let new = *word & bit == 0;
            // INVARIANT: the word is listed, perhaps not for the first time, or the overflow noted.
            match self.touched.get_mut(self.len) {
                Some(place) => *place = at as u32,
                None => self.overflow |= new,
            }
            self.len = (self.len + usize::from(new)).min(self.touched.len());
            *word |= bit;
            fresh.push_if(slot, new);
        }
    }

    /// Whether a slot was added, or has no bit.
    #[inline]
    pub(super) fn contains(&self, slot: u32) -> bool {
        let word = self.bits.get(slot as usize >> 6);
        word.is_none_or(|word| word >> (slot & 63) & 1 != 0)
    }

    /// Empties the set.
    pub(super) fn clear(&mut self) {
        if self.overflow {
            self.bits.fill(0);
        } else {
            for &at in self.touched.get(..self.len).unwrap_or(&[]) {
                if let Some(word) = self.bits.get_mut(at as usize) {
                    *word = 0;
                }
            }
        }
        // INVARIANT: all words are 0.
        self.overflow = false;
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pool_keeps_the_nearest_and_expands_each_once(
            offers in prop::collection::vec((0u32..40, 0u32..10_000), 0..300),
            capacity in 1usize..50,
            expand_each in 1usize..5,
        ) {
            let mut memory = vec![7; capacity];
            let mut pool = Pool::new(&mut memory);
            let mut seen = BTreeSet::new();
            let (mut slots, mut expanded) = (BTreeSet::new(), BTreeSet::new());
            for (i, &(distance, slot)) in offers.iter().enumerate() {
                if !slots.insert(slot) {
                    continue;
                }
                seen.insert((distance, slot));
                pool.offer(distance, slot);
                if i % expand_each == 0 {
                    if let Some(slot) = pool.next() {
                        prop_assert!(expanded.insert(slot));
                    }
                }
                let want: Vec<_> = seen.iter().copied().take(capacity).collect();
                let got: Vec<_> =
                    pool.entries().iter().map(|&e| (distance_of(e), slot_of(e))).collect();
                prop_assert_eq!(got, want);
            }
            while let Some(slot) = pool.next() {
                prop_assert!(expanded.insert(slot));
            }
            prop_assert!(pool.entries().iter().all(|e| e & EXPANDED != 0));
        }

        #[test]
        fn a_pool_with_a_reach_keeps_the_least_and_what_is_within(
            offers in prop::collection::vec((0u32..400, 0u32..10_000), 0..300),
            least in 1usize..20,
            nearest in 1usize..10,
            reach in 0u32..100,
        ) {
            let nearest = nearest.min(least);
            let mut memory = vec![7; 400];
            let mut pool = Pool::new(&mut memory).within(least, nearest, reach);
            let mut seen = BTreeSet::new();
            for (distance, slot) in offers {
                // A slot is offered once; its distance is what it is.
                if seen.iter().all(|&(_, s)| s != slot) {
                    let enters = distance <= pool.bound();
                    seen.insert((distance, slot));
                    if enters {
                        pool.offer(distance, slot);
                    }
                }
            }
            let limit = seen.iter().nth(nearest - 1).map_or(u32::MAX, |n| n.0 + reach);
            let near = |(i, &(distance, _)): &(usize, &(u32, u32))| *i < least || distance <= limit;
            let want: BTreeSet<_> = seen.iter().enumerate().filter(near).map(|(_, &e)| e.1).collect();
            let expanded: BTreeSet<_> = core::iter::from_fn(|| pool.next()).collect();
            prop_assert_eq!(expanded, want);
        }

        #[test]
        fn a_rank_is_the_number_of_lesser_entries(
            sorted in prop::collection::btree_set(0u64..5000, 0..400),
            new in 0u64..5000,
        ) {
            let sorted: Vec<u64> = sorted.into_iter().collect();
            prop_assert_eq!(rank(&sorted, new), sorted.partition_point(|&e| e < new));
        }

        #[test]
        fn slots_are_added_together_as_one_by_one(
            lists in prop::collection::vec(prop::collection::vec(0u32..2000, 0..20), 0..20),
            room in 0usize..40,
        ) {
            let (mut bits, mut others) = (vec![0; 1920 / 64], vec![0; 1920 / 64]);
            let (mut touched, mut other_touched) = (vec![0; room], vec![0; room]);
            let mut visited = Visited::new(&mut bits, &mut touched, false);
            let mut one_by_one = Visited::new(&mut others, &mut other_touched, false);
            for list in lists {
                let mut fresh = Neighbours::new();
                visited.insert_all(list.iter().copied(), &mut fresh);
                let want: Vec<u32> = list.into_iter().filter(|&s| one_by_one.insert(s)).collect();
                prop_assert_eq!(fresh.as_slice(), &want[..]);
            }
            visited.clear();
            prop_assert!(bits.iter().all(|&word| word == 0));
        }

        #[test]
        fn a_visited_set_is_a_set(
            slots in prop::collection::vec(0u32..2000, 0..300),
            room in 0usize..40,
            dirty: bool,
        ) {
            let mut bits = vec![if dirty { 5 } else { 0 }; 1920 / 64];
            let mut touched = vec![0; room];
            let mut visited = Visited::new(&mut bits, &mut touched, dirty);
            for _ in 0..2 {
                let mut model = BTreeSet::new();
                for &slot in &slots {
                    prop_assert_eq!(visited.insert(slot), slot < 1920 && model.insert(slot));
                }
                visited.clear();
            }
            prop_assert!(bits.iter().all(|&word| word == 0));
        }
    }
}
