// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! How much farther the next nearest rows are, on average, and so how far a search should look.
//!
//! A walk that keeps `ef` candidates looks as far as the `ef`th nearest row it knows: hardly beyond the `k`th where
//! rows are many and near each other, and far where they are few. One that looks beyond the `k`th by as much as the
//! `ef`th is farther on average finds more for the same number of distances. This is the termination of "Distance
//! Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search" (arXiv 2505.15636), with its
//! parameter taken from the rows instead of from the caller, who goes on to say `ef`. That many candidates are kept in any
//! case: next to a row that is nearly the query, distances are what codes are off by, and no measure of anything.

use core::sync::atomic::{AtomicU32, Ordering};

use super::pool::distance_of;

/// Doublings of the rank that are told apart.
pub const OCTAVES: usize = 8;

/// The most that a doubling counts for: keys of distances are nearly logarithms, and this is a factor of four.
const MOST: u32 = 1 << 24;

/// One of so many inserts is what the mean moves by.
const SHARE: u32 = 256;

/// By how much the distance grows from the nearest row to the second, to the fourth and so on, as a difference of keys;
/// 0 is not known. A mean over inserts, of which the last some hundred count.
pub(super) struct Spread {
    octaves: [AtomicU32; OCTAVES],
}

impl Spread {
    pub(super) const fn new() -> Self {
        Spread {
            octaves: [const { AtomicU32::new(0) }; OCTAVES],
        }
    }

    /// Takes the nearest rows of one more row into account, sorted.
    // Threads that do so at once may overwrite each other's mean, which is as good.
    pub(super) fn learn(&self, nearest: &[u64]) {
        let mut rank = 1usize;
        for octave in &self.octaves {
            let at = |rank: usize| Some(distance_of(*nearest.get(rank.checked_sub(1)?)?));
            let (Some(near), Some(far)) = (at(rank), at(rank.saturating_mul(2))) else {
                return;
            };
            let step = far.saturating_sub(near).min(MOST);
            let mean = match octave.load(Ordering::Relaxed) {
                0 => step,
                old => (old - old / SHARE).saturating_add(step / SHARE),
            };
            octave.store(mean, Ordering::Relaxed);
            rank = rank.saturating_mul(2);
        }
    }

    /// How much farther the row at this rank is than the nearest. What is beyond the last rank known goes on like that.
    fn at(&self, rank: u32) -> u32 {
        let (mut sum, mut step) = (0u32, 0);
        let mut octaves = self.octaves.iter();
        let mut from = 1u32;
        while from < rank {
            let next = octaves.next().map(|octave| octave.load(Ordering::Relaxed));
            step = next.filter(|&next| next > 0).unwrap_or(step);
            let ranks = u64::from(from.min(rank - from));
            let part = (u64::from(step) * ranks).checked_div(u64::from(from));
            sum = sum.saturating_add(u32::try_from(part.unwrap_or(0)).unwrap_or(u32::MAX));
            from = from.saturating_mul(2);
        }
        sum
    }

    /// Whether inserts, or an image, have told anything.
    pub(super) fn is_known(&self) -> bool {
        self.octaves.iter().any(|o| o.load(Ordering::Relaxed) > 0)
    }

    /// How much farther the `ef`th nearest row is than the `k`th, or `None` if nothing is known.
    pub(super) fn between(&self, k: u32, ef: u32) -> Option<u32> {
        self.is_known()
            .then(|| self.at(ef).saturating_sub(self.at(k)))
    }

    /// What to store.
    pub(super) fn words(&self) -> [u32; OCTAVES] {
        self.octaves.each_ref().map(|o| o.load(Ordering::Relaxed))
    }

    /// Goes on with what was stored.
    pub(super) fn set(&self, words: [u32; OCTAVES]) {
        for (octave, word) in self.octaves.iter().zip(words) {
            octave.store(word.min(MOST), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::super::pool::entry;
    use super::*;
    use std::vec::Vec;

    /// Rows at 1000, 1010, 1020 and so on.
    fn even(n: u32) -> Vec<u64> {
        (0..n).map(|i| entry(1000 + 10 * i, i)).collect()
    }

    #[test]
    fn a_reach_is_the_mean_between_two_ranks() {
        let spread = Spread::new();
        assert_eq!(spread.between(1, 10), None);
        spread.learn(&even(200));
        // The steps are 10, 20, 40 and so on, and so the ranks in between are even.
        assert_eq!(spread.between(10, 10), Some(0));
        assert_eq!(spread.between(1, 2), Some(10));
        assert_eq!(spread.between(10, 100), Some(900));
        // Beyond 128, which is the last one known, doubling adds what it added there.
        assert_eq!(spread.between(128, 256), Some(640));
        assert_eq!(spread.between(128, 1024), Some(3 * 640));
        assert_eq!(spread.between(20, 10), Some(0));
    }

    #[test]
    fn it_follows_what_comes_and_opens_as_it_was() {
        let spread = Spread::new();
        spread.learn(&even(3));
        let wide: Vec<u64> = (0..200)
            .map(|i| entry(1 << 20 << (i > 0) as u32, i))
            .collect();
        for _ in 0..4000 {
            spread.learn(&wide);
        }
        let step = spread.between(1, 2).unwrap();
        assert!(step.abs_diff(1 << 20) < 1 << 14, "{step}");
        let copy = Spread::new();
        copy.set(spread.words());
        assert_eq!(copy.words(), spread.words());
        copy.set([u32::MAX; OCTAVES]);
        assert!(copy.between(1, u32::MAX).is_some());
    }
}
