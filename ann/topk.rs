// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The best k of a stream of hits, in memory lent by the caller.

use core::cmp::Ordering;

/// A row that was found, ordered by distance, then key, then row.
///
/// Keys are unique among the visible rows of a container, so the order is total and a result does
/// not depend on the order in which rows were scanned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Hit {
    /// Order-preserving integer image of the distance.
    pub distance: u32,
    /// The row's key.
    pub key: u64,
    /// The row's number.
    pub row: u64,
}

/// Collects the `k` smallest hits, where `k` is the length of the lent memory.
///
/// # Invariants
///
/// `len <= heap.len()`. `heap[..len]` is a binary max-heap: no element is greater than its
/// parent. `bound` is the distance of its root if `len == heap.len()` and `u32::MAX` if not
/// (0 if the heap has no room at all).
#[derive(Debug)]
pub struct TopK<'a> {
    heap: &'a mut [Hit],
    len: usize,
    bound: u32,
}

impl<'a> TopK<'a> {
    /// Starts with nothing collected. What `memory` holds is ignored and overwritten.
    pub fn new(memory: &'a mut [Hit]) -> Self {
        let bound = if memory.is_empty() { 0 } else { u32::MAX };
        // INVARIANT: an empty heap is a heap; the bound is that of a heap with or without room.
        TopK {
            heap: memory,
            len: 0,
            bound,
        }
    }

    /// Forgets all hits.
    pub fn clear(&mut self) {
        // INVARIANT: as in `new`.
        self.len = 0;
        self.bound = if self.heap.is_empty() { 0 } else { u32::MAX };
    }

    /// How many hits are kept at most.
    pub fn k(&self) -> usize {
        self.heap.len()
    }

    /// How many hits are kept now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a further hit must displace one.
    pub fn is_full(&self) -> bool {
        self.len == self.heap.len()
    }

    /// A hit with a greater distance than this cannot enter; one with this distance may, by its key.
    /// Callers test it before they look up a key.
    #[inline]
    pub fn bound(&self) -> u32 {
        self.bound
    }

    /// Offers a hit; says whether it was kept.
    #[inline]
    pub fn push(&mut self, hit: Hit) -> bool {
        if hit.distance > self.bound {
            return false;
        }
        self.insert(hit)
    }

    /// The greatest hit kept, if any.
    pub fn worst(&self) -> Option<&Hit> {
        self.heap.get(..self.len)?.first()
    }

    /// The hits kept, in no order.
    pub fn hits(&self) -> &[Hit] {
        self.heap.get(..self.len).unwrap_or(&[])
    }

    /// Sorts the hits, nearest first, and returns them in the lent memory.
    pub fn into_sorted(self) -> &'a mut [Hit] {
        let TopK { heap, len, .. } = self;
        // `len` never exceeds the memory; `min` lets the compiler know.
        let len = len.min(heap.len());
        let (hits, _) = heap.split_at_mut(len);
        // Heapsort in place: the root, the greatest, goes to the end of what is left.
        for end in (1..hits.len()).rev() {
            hits.swap(0, end);
            let (left, _) = hits.split_at_mut(end);
            sift_down(left);
        }
        hits
    }

    fn insert(&mut self, hit: Hit) -> bool {
        let k = self.heap.len();
        if self.len < k {
            if let Some(place) = self.heap.get_mut(self.len) {
                *place = hit;
            }
            self.len = self.len.saturating_add(1);
            // INVARIANT: the new leaf moves up until its parent is not smaller.
            if let Some(hits) = self.heap.get_mut(..self.len) {
                sift_up(hits);
            }
        } else {
            match self.heap.first_mut() {
                Some(root) if hit.cmp(root) == Ordering::Less => *root = hit,
                _ => return false,
            }
            // INVARIANT: the new root moves down until no child is greater.
            sift_down(self.heap);
        }
        if self.len == k {
            if let Some(root) = self.heap.first() {
                // INVARIANT: the heap is full.
                self.bound = root.distance;
            }
        }
        true
    }
}

/// Restores the heap of which only the last element may be greater than its parent.
fn sift_up(heap: &mut [Hit]) {
    let mut child = heap.len().saturating_sub(1);
    while child > 0 {
        let parent = (child - 1) / 2;
        match (heap.get(parent), heap.get(child)) {
            (Some(p), Some(c)) if p < c => heap.swap(parent, child),
            _ => return,
        }
        child = parent;
    }
}

/// Restores the heap of which only the root may be smaller than its children.
fn sift_down(heap: &mut [Hit]) {
    let mut parent = 0usize;
    loop {
        // An index that overflows is beyond every slice.
        let left = parent.saturating_mul(2).saturating_add(1);
        let right = left.saturating_add(1);
        let Some(left_hit) = heap.get(left) else {
            return;
        };
        let child = match heap.get(right) {
            Some(right_hit) if right_hit > left_hit => right,
            _ => left,
        };
        match (heap.get(parent), heap.get(child)) {
            (Some(p), Some(c)) if p < c => heap.swap(parent, child),
            _ => return,
        }
        parent = child;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn hit(distance: u32, key: u64) -> Hit {
        Hit {
            distance,
            key,
            row: key ^ 1,
        }
    }

    #[test]
    fn no_room_keeps_nothing() {
        let mut top = TopK::new(&mut []);
        assert!(!top.push(hit(0, 0)));
        assert!(!top.push(hit(7, 1)));
        assert!(top.is_full());
        assert_eq!(top.worst(), None);
        assert!(top.into_sorted().is_empty());
    }

    #[test]
    fn bound_is_open_until_full_and_then_the_worst_distance() {
        let mut memory = [Hit::default(); 2];
        let mut top = TopK::new(&mut memory);
        assert_eq!(top.bound(), u32::MAX);
        assert!(top.push(hit(u32::MAX, 1)));
        assert_eq!(top.bound(), u32::MAX);
        assert!(top.push(hit(5, 2)));
        assert_eq!(top.bound(), u32::MAX);
        assert!(top.push(hit(9, 3)));
        assert_eq!(top.bound(), 9);
        assert_eq!(top.worst(), Some(&hit(9, 3)));
    }

    #[test]
    fn equal_distances_are_decided_by_key() {
        let mut memory = [Hit::default(); 2];
        let mut top = TopK::new(&mut memory);
        for key in [9, 3, 7, 1, 5] {
            top.push(hit(4, key));
        }
        assert_eq!(top.into_sorted(), [hit(4, 1), hit(4, 3)]);
    }

    #[test]
    fn cleared_it_starts_again() {
        let mut memory = [Hit::default(); 1];
        let mut top = TopK::new(&mut memory);
        top.push(hit(1, 1));
        top.clear();
        assert!(top.is_empty());
        assert!(top.push(hit(8, 8)));
        assert_eq!(top.into_sorted(), [hit(8, 8)]);
    }

    #[test]
    fn old_contents_of_the_memory_are_ignored() {
        let mut memory = [hit(0, 0); 3];
        let mut top = TopK::new(&mut memory);
        top.push(hit(8, 8));
        assert_eq!(top.into_sorted(), [hit(8, 8)]);
    }

    proptest! {
        #[test]
        fn keeps_what_sorting_everything_would(
            stream in prop::collection::vec((0u32..50, 0u64..1000), 0..400),
            k in 0usize..40,
        ) {
            let hits: Vec<Hit> = stream.iter().map(|&(d, key)| hit(d, key)).collect();
            let mut memory = vec![Hit::default(); k];
            let mut top = TopK::new(&mut memory);
            for &h in &hits {
                let enters = top.len() < k || top.worst().is_some_and(|worst| h < *worst);
                prop_assert_eq!(top.push(h), enters);
            }
            let mut want = hits;
            want.sort();
            want.truncate(k);
            prop_assert_eq!(&*top.into_sorted(), &want[..]);
        }
    }
}
