// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! k-means over vectors it sees as bytes: the training of centroids and codebooks.
//!
//! The first centroids are chosen far apart (k-means++: Arthur and Vassilvitskii, 2007), from a part of
//! the sample, because each choice scores all of it; then Lloyd's iterations over the whole sample. A cluster
//! that becomes empty takes the vector that is farthest from its own.

use crate::ivf::insert::assign;
use crate::ivf::Vectors;

/// Lloyd's iterations. After ten, another one moves recall by less than 0.2 points (384-d embeddings).
pub const ITERATIONS: u32 = 10;

/// Vectors per cluster to choose the first centroids from.
const SEEDS_PER_CLUSTER: usize = 4;

/// Vectors per call to the arithmetic.
const BATCH: usize = 64;

/// Batches compared with one centroid between two questions whether to stop.
const CHOICE_BATCHES: usize = 64;

/// Where the vectors lie: `n` of `dim` floats, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The first vector begins here.
    pub bytes: &'a [u8],
    /// Bytes from one vector to the next.
    pub stride: usize,
    /// Elements.
    pub dim: usize,
    /// Vectors.
    pub n: usize,
}

impl<'a> Sample<'a> {
    /// The bytes from vector `i` on.
    fn from(&self, i: usize) -> &'a [u8] {
        self.bytes
            .get(i.saturating_mul(self.stride)..)
            .unwrap_or(&[])
    }

    fn vector(&self, i: usize) -> Option<&'a [u8]> {
        self.from(i).get(..self.dim.checked_mul(4)?)
    }
}

/// Scratch memory: `ids` and `keys` of a word for each vector, `sums` of `k * dim`, `counts` of `k`.
#[derive(Debug)]
pub struct Memory<'a> {
    /// The cluster of each vector, when training is over.
    pub ids: &'a mut [u32],
    /// Distances.
    pub keys: &'a mut [u32],
    /// Sums, floats of 8 bytes.
    pub sums: &'a mut [u64],
    /// Vectors of each cluster.
    pub counts: &'a mut [u64],
}

/// Why training ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure<E> {
    /// A slice is too short, or there are no vectors.
    Memory,
    /// The caller asked for it.
    Stopped,
    /// Arithmetic failed.
    Caller(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Failure::Caller(error)
    }
}

/// Pseudo-random numbers from a seed (SplitMix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, or 0 if there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of a product is uniform up to n / 2^64.
        ((u128::from(self.word()) * u128::from(n)) >> 64) as u64
    }
}

/// How often [`train`] asks whether to stop, for `k` centroids of `n` vectors.
pub fn steps(n: usize, k: usize) -> u64 {
    let candidates = (k.saturating_mul(SEEDS_PER_CLUSTER)).min(n).max(1);
    let choices = candidates.div_ceil(BATCH.saturating_mul(CHOICE_BATCHES));
    let rounds = u64::from(ITERATIONS).saturating_add(1);
    (k as u64)
        .saturating_mul(choices as u64)
        .saturating_add(rounds.saturating_mul(n.div_ceil(BATCH) as u64))
}

/// Trains `k = centroids.len() / (4 * dim)` centroids. `stop` is asked after each batch of some ten
/// microseconds. The same sample, seed and arithmetic give the same centroids.
///
/// # Errors
///
/// [`Failure`].
pub fn train<V: Vectors>(
    vectors: &mut V,
    sample: Sample<'_>,
    seed: u64,
    memory: &mut Memory<'_>,
    centroids: &mut [u8],
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), Failure<V::Error>> {
    let Sample { stride, dim, n, .. } = sample;
    let row = dim.checked_mul(4).ok_or(Failure::Memory)?;
    let k = centroids.len().checked_div(row).ok_or(Failure::Memory)?;
    let ids = memory.ids.get_mut(..n).ok_or(Failure::Memory)?;
    let keys = memory.keys.get_mut(..n).ok_or(Failure::Memory)?;
    let elems = k.checked_mul(dim).ok_or(Failure::Memory)?;
    let sums = memory.sums.get_mut(..elems).ok_or(Failure::Memory)?;
    let counts = memory.counts.get_mut(..k).ok_or(Failure::Memory)?;
    let last = n.checked_sub(1).ok_or(Failure::Memory)?;
    sample.vector(last).ok_or(Failure::Memory)?;
    choose(vectors, sample, seed, ids, keys, centroids, stop)?;
    for iteration in 0..=ITERATIONS {
        sums.fill(0);
        counts.fill(0);
        vectors.assign_all(sample, centroids, ids, keys, stop)?;
        if iteration < ITERATIONS {
            for (i, ids) in ids.chunks(BATCH).enumerate() {
                let rows = sample.from(i.saturating_mul(BATCH));
                vectors.accumulate(rows, stride, dim, ids, sums, counts)?;
            }
        }
        // The last round only says where each vector belongs.
        if iteration < ITERATIONS {
            // One centroid at a time: all of them are more than one section's work.
            let parts = sums.chunks(dim.max(1)).zip(counts.chunks(1));
            for (out, (sum, count)) in centroids.chunks_mut(row).zip(parts) {
                vectors.centroids(dim, sum, count, out)?;
            }
            for (out, _) in centroids
                .chunks_mut(row)
                .zip(&*counts)
                .filter(|c| *c.1 == 0)
            {
                let farthest = keys.iter().enumerate().max_by_key(|(i, key)| (**key, !*i));
                let Some((at, _)) = farthest else {
                    continue;
                };
                copy(out, sample.vector(at).ok_or(Failure::Memory)?);
                if let Some(key) = keys.get_mut(at) {
                    *key = 0;
                }
            }
        }
    }
    Ok(())
}

/// [`Vectors::assign_all`] by one thread.
///
/// # Errors
///
/// As there.
pub fn assign_in_turn<V: Vectors>(
    vectors: &mut V,
    sample: Sample<'_>,
    centroids: &[u8],
    ids: &mut [u32],
    keys: &mut [u32],
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), Failure<V::Error>> {
    let Sample { stride, dim, .. } = sample;
    let batches = ids.chunks_mut(BATCH).zip(keys.chunks_mut(BATCH));
    for (i, (ids, keys)) in batches.enumerate() {
        if stop() {
            return Err(Failure::Stopped);
        }
        let rows = sample.from(i.saturating_mul(BATCH));
        assign(vectors, rows, stride, dim, centroids, ids, keys)?;
    }
    Ok(())
}

/// Copies a vector to a place of the same length.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Chooses the first centroids: each with a probability proportional to its squared distance to those before.
fn choose<V: Vectors>(
    vectors: &mut V,
    sample: Sample<'_>,
    seed: u64,
    ids: &mut [u32],
    keys: &mut [u32],
    centroids: &mut [u8],
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), Failure<V::Error>> {
    let Sample { stride, dim, n, .. } = sample;
    let row = dim.saturating_mul(4).max(1);
    let k = centroids.len().checked_div(row).unwrap_or(0);
    // Every `step`th vector is a candidate.
    let step = n
        .checked_div(k.saturating_mul(SEEDS_PER_CLUSTER))
        .unwrap_or(1)
        .max(1);
    let spread = Sample {
        stride: stride.saturating_mul(step),
        n: n.checked_div(step).unwrap_or(n),
        ..sample
    };
    let candidates = spread.n.max(1);
    let best = keys.get_mut(..candidates).ok_or(Failure::Memory)?;
    best.fill(u32::MAX);
    let mut random = Random(seed);
    let mut next = random.below(candidates as u64) as usize;
    for place in centroids.chunks_mut(row) {
        copy(place, spread.vector(next).ok_or(Failure::Memory)?);
        let batches = best.chunks_mut(BATCH).zip(ids.chunks_mut(BATCH));
        for (i, (best, ids)) in batches.enumerate() {
            if i % CHOICE_BATCHES == 0 && stop() {
                return Err(Failure::Stopped);
            }
            let mut found = [0; BATCH];
            let (found, ids) = found
                .get_mut(..best.len())
                .zip(ids.get_mut(..best.len()))
                .ok_or(Failure::Memory)?;
            let rows = spread.from(i.saturating_mul(BATCH));
            vectors.assign(rows, spread.stride, dim, place, ids, found)?;
            for (best, found) in best.iter_mut().zip(found.iter()) {
                *best = (*best).min(*found);
            }
        }
        next = by_weight(best, &mut random);
    }
    Ok(())
}

/// Chooses one with a probability proportional to the distance its key stands for.
fn by_weight(keys: &[u32], random: &mut Random) -> usize {
    // A key of a positive distance is its bits with the sign turned over; its significand is shifted to the
    // exponent of the greatest.
    let bits = |key: &u32| key & !(1 << 31);
    let exponent = keys.iter().map(|key| bits(key) >> 23).max().unwrap_or(0);
    let weight = |key: &u32| {
        let significand = u64::from(bits(key) & 0x7f_ffff | 0x80_0000);
        let shift = exponent.saturating_sub(bits(key) >> 23);
        // Equal vectors have a distance of zero and no weight.
        if bits(key) == 0 {
            0
        } else {
            significand.checked_shr(shift).unwrap_or(0)
        }
    };
    let total = keys.iter().map(weight).fold(0u64, u64::saturating_add);
    if total == 0 {
        return random.below(keys.len() as u64) as usize;
    }
    let mut left = random.below(total);
    for (i, key) in keys.iter().enumerate() {
        let weight = weight(key);
        if left < weight {
            return i;
        }
        left = left.saturating_sub(weight);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_their_distances() {
        // The keys of 0.0, 1.0 and 3.0.
        let keys = [0x8000_0000, 0xbf80_0000, 0xc040_0000];
        let mut random = Random(5);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[by_weight(&keys, &mut random)] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((900..1100).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn equal_vectors_are_chosen_evenly() {
        let mut random = Random(7);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[by_weight(&[1 << 31; 4], &mut random)] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }
}
