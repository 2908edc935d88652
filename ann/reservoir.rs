// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The least of a stream of candidates, in memory lent by the caller.
//!
//! Unlike a heap it collects until its memory is full and then keeps the lower part, which costs a
//! few comparisons for each candidate however many are kept. FAISS calls this a reservoir.

/// A candidate: its (estimated) distance, and which row or list it is. Candidates order by distance,
/// then by number, so that what is kept does not depend on the order they came in.
pub const fn candidate(distance: u32, number: u32) -> u64 {
    (distance as u64) << 32 | number as u64
}

/// The distance of a candidate.
pub const fn distance_of(candidate: u64) -> u32 {
    (candidate >> 32) as u32
}

/// The number of a candidate.
pub const fn number_of(candidate: u64) -> u32 {
    candidate as u32
}

/// Memory for a reservoir that keeps `keep` candidates: each is moved twice on average.
pub const fn memory(keep: usize) -> usize {
    keep.saturating_mul(2).saturating_add(64)
}

/// Keeps the `keep` least candidates.
///
/// # Invariants
///
/// `len <= memory.len()`, and `keep < memory.len()` unless both are 0. No candidate whose distance is
/// greater than `bound` is among the `keep` least.
#[derive(Debug)]
pub struct Reservoir<'a> {
    memory: &'a mut [u64],
    len: usize,
    keep: usize,
    bound: u32,
}

impl<'a> Reservoir<'a> {
    /// Starts with nothing collected. At most one less than the memory has room for are kept.
    pub fn new(memory: &'a mut [u64], keep: usize) -> Self {
        let keep = keep.min(memory.len().saturating_sub(1));
        let bound = if keep == 0 { 0 } else { u32::MAX };
        // INVARIANT: `keep` is less than the memory; of nothing everything is among the least.
        Reservoir {
            memory,
            len: 0,
            keep,
            bound,
        }
    }

    /// A candidate with a greater distance than this is not kept.
    #[inline]
    pub fn bound(&self) -> u32 {
        self.bound
    }

    /// Lowers the bound: candidates beyond `bound` are of no use to the caller.
    pub fn lower_bound_to(&mut self, bound: u32) {
        self.bound = self.bound.min(bound);
    }

    /// Offers a candidate.
    #[inline]
    pub fn push(&mut self, candidate: u64) {
        if distance_of(candidate) > self.bound {
            return;
        }
        if let Some(place) = self.memory.get_mut(self.len) {
            *place = candidate;
            self.len = self.len.saturating_add(1);
        }
        if self.len == self.memory.len() {
            self.shrink();
        }
    }

    /// Keeps the lower part.
    fn shrink(&mut self) {
        let Some(last) = self.keep.checked_sub(1) else {
            self.len = 0;
            return;
        };
        if self.len <= self.keep {
            return;
        }
        if let Some(candidates) = self.memory.get_mut(..self.len) {
            let (_, &mut greatest, _) = candidates.select_nth_unstable(last);
            // INVARIANT: `keep` candidates are not greater than this one.
            self.bound = self.bound.min(distance_of(greatest));
            self.len = self.keep;
        }
    }

    /// The least candidates, in order.
    pub fn into_sorted(mut self) -> &'a mut [u64] {
        self.shrink();
        let Reservoir { memory, len, .. } = self;
        let (candidates, _) = memory.split_at_mut(len.min(memory.len()));
        candidates.sort_unstable();
        candidates
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_are_kept_whatever_their_order(
            values in prop::collection::vec((0u32..50, 0u32..1000), 0..400),
            keep in 0usize..40,
            spare in 0usize..70,
        ) {
            let mut memory = vec![7; keep + spare];
            let mut reservoir = Reservoir::new(&mut memory, keep);
            let mut all: Vec<u64> = values.iter().map(|v| candidate(v.0, v.1)).collect();
            for &c in &all {
                reservoir.push(c);
            }
            let keep = keep.min((keep + spare).saturating_sub(1));
            all.sort();
            all.truncate(keep);
            prop_assert_eq!(&*reservoir.into_sorted(), &all[..]);
        }
    }

    #[test]
    fn a_lowered_bound_keeps_out_what_is_beyond() {
        let mut memory = [0; 8];
        let mut reservoir = Reservoir::new(&mut memory, 4);
        reservoir.lower_bound_to(5);
        for d in [9, 5, 6, 1] {
            reservoir.push(candidate(d, d));
        }
        assert_eq!(reservoir.bound(), 5);
        assert_eq!(reservoir.into_sorted(), [candidate(1, 1), candidate(5, 5)]);
    }
}
