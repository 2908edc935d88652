// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which buckets beside its own a query most likely has near rows in: sets of perturbations by their
//! cost, algorithm 1 of Lv et al., "Multi-probe LSH" (2007).

/// A way to a neighbouring cell, or a set of them: which, a bit for each projection, and the sum of the
/// squared distances to the borders. In the heap, `bits` are places in the order of costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Perturbation {
    /// What it costs.
    pub cost: u64,
    /// Which.
    pub bits: u64,
}

/// Sets of perturbations, cheapest first.
///
/// From a set whose dearest member is `ways[i]` follow two: one with `ways[i + 1]` beside it and one with it instead,
/// which are not cheaper; so each set is made once. What memory has no room for is dropped: later sets
/// are missing then, never earlier ones out of order.
pub struct Heap<'a> {
    heap: &'a mut [Perturbation],
    len: usize,
    ways: &'a [Perturbation],
}

impl<'a> Heap<'a> {
    /// Starts with the cheapest way alone; `ways` are in the order of costs, at most 64.
    pub fn new(heap: &'a mut [Perturbation], ways: &'a [Perturbation]) -> Self {
        let mut new = Heap { heap, len: 0, ways };
        if let Some(first) = ways.first() {
            new.push(Perturbation {
                cost: first.cost,
                bits: 1,
            });
        }
        new
    }

    /// The projections that the next set changes.
    pub fn cheapest(&mut self) -> Option<u64> {
        let set = self.pop()?;
        let dearest = 63u32.saturating_sub(set.bits.leading_zeros());
        let following = (dearest as usize).saturating_add(1);
        if let (Some(way), Some(next)) = (self.ways.get(dearest as usize), self.ways.get(following))
        {
            let beside = set.cost.saturating_add(next.cost);
            let instead = beside.saturating_sub(way.cost);
            let with = set.bits | 1 << following;
            self.push(Perturbation {
                cost: instead,
                bits: with & !(1 << dearest),
            });
            self.push(Perturbation {
                cost: beside,
                bits: with,
            });
        }
        let mut changed = 0;
        for (i, way) in self.ways.iter().enumerate() {
            if set.bits >> i & 1 == 1 {
                changed |= way.bits;
            }
        }
        Some(changed)
    }

    fn at(&self, i: usize) -> Option<Perturbation> {
        self.heap.get(..self.len)?.get(i).copied()
    }

    /// Whether the element at `a` comes before that at `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        match (self.at(a), self.at(b)) {
            (Some(a), Some(b)) => (a.cost, a.bits) < (b.cost, b.bits),
            _ => false,
        }
    }

    fn push(&mut self, set: Perturbation) {
        let mut child = self.len;
        let Some(place) = self.heap.get_mut(child) else {
            return;
        };
        *place = set;
        self.len = child.saturating_add(1);
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.before(child, parent) {
                break;
            }
            self.heap.swap(child, parent);
            child = parent;
        }
    }

    fn pop(&mut self) -> Option<Perturbation> {
        let first = self.at(0)?;
        let last = self.len.saturating_sub(1);
        self.heap.swap(0, last);
        self.len = last;
        let mut parent = 0usize;
        loop {
            let left = parent.saturating_mul(2).saturating_add(1);
            let right = left.saturating_add(1);
            let child = if self.before(right, left) {
                right
            } else {
                left
            };
            if !self.before(child, parent) {
                return Some(first);
            }
            self.heap.swap(child, parent);
            parent = child;
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
    fn sets_come_in_the_order_of_their_costs_and_each_once() {
        let mut ways: Vec<Perturbation> = [3u64, 90, 20, 40, 70, 11, 8, 66, 1, 100]
            .into_iter()
            .zip(0..)
            .map(|(cost, i)| Perturbation { cost, bits: 1 << i })
            .collect();
        ways.sort_by_key(|way| way.cost);
        let mut memory = vec![Perturbation::default(); 4096];
        let mut heap = Heap::new(&mut memory, &ways);
        let mut got = Vec::new();
        while let Some(set) = heap.cheapest() {
            got.push(set);
        }
        let cost = |set: u64| -> u64 {
            ways.iter()
                .filter(|way| set & way.bits != 0)
                .map(|way| way.cost)
                .sum()
        };
        assert!(got.windows(2).all(|w| cost(w[0]) <= cost(w[1])));
        got.sort();
        let want: Vec<u64> = (1..1024).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn without_room_the_first_sets_are_right() {
        let ways = [1, 2, 4, 8].map(|cost| Perturbation {
            cost,
            bits: cost * cost,
        });
        let mut memory = [Perturbation::default(); 2];
        let mut heap = Heap::new(&mut memory, &ways);
        assert_eq!(heap.cheapest(), Some(1));
        assert_eq!(heap.cheapest(), Some(4));
        let mut none = Heap::new(&mut [], &ways);
        assert_eq!(none.cheapest(), None);
    }
}
