// SPDX-License-Identifier: Apache-2.0

//! Vectors as those of local image features (SIFT): 128 whole numbers from 0 to 218 in rows of about the same
//! length, a third of them zero, in clusters of clusters, of low intrinsic dimension.
//!
//! A row is a point of a latent space of 28 dimensions near the centre of one of 9,216 sub-clusters, each with its
//! own widths, mapped to 128 outputs of which neighbours correlate, rectified, blurred with some independent
//! noise, and scaled and clipped as SIFT's authors do. The numbers were chosen so that HNSW finds about as
//! much as is published for SIFT1M at the same parameters.

use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};

/// Elements of a row.
pub const DIM: usize = 128;

const SEED: u64 = 20_260;
/// The stream of random numbers that the structure is made from; those of rows count from 0.
const STRUCTURE: u64 = u64::MAX;
const LATENT: usize = 28;
const CLUSTERS: usize = 192;
/// Sub-clusters of a cluster.
const INNER: usize = 48;
/// How far the centres of sub-clusters are from that of their cluster; those of clusters are 1 apart.
const INNER_SPREAD: f32 = 0.4;
/// How fast widths within a sub-cluster fall from one latent dimension to the next.
const DECAY: f32 = 0.015;
/// Of the logarithm of a sub-cluster's width.
const WIDTH_DEVIATION: f32 = 0.35;
/// Decides how many elements are zero.
const BIAS: f32 = 0.55;
/// Independent noise, as a share of a row's root mean square.
const NOISE: f32 = 0.2;
/// A row's length, and the greatest share of it that one element has before the last scaling.
const LENGTH: f32 = 512.0;
const CLIP: f32 = 0.28;
const MAX: f32 = 218.0;

/// Where rows are dense, and how latent points become rows.
struct Structure {
    /// Of each sub-cluster.
    centres: Vec<[f32; LATENT]>,
    widths: Vec<[f32; LATENT]>,
    /// Up to which share of all rows they are of this sub-cluster or one before it.
    shares: Vec<f64>,
    weights: Vec<[f32; DIM]>,
    biases: [f32; DIM],
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    StandardNormal.sample(rng)
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    StandardUniform.sample(rng)
}

/// A random order of `items`.
fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let other = rng.next_u64() % (last as u64 + 1);
        items.swap(last, other as usize);
    }
}

impl Structure {
    fn new() -> Structure {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(STRUCTURE);
        let rng = &mut rng;
        let (mut centres, mut widths, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CLUSTERS {
            let cluster: [f32; LATENT] = std::array::from_fn(|_| normal(rng));
            for _ in 0..INNER {
                centres.push(cluster.map(|at| at + INNER_SPREAD * normal(rng)));
                let width = (WIDTH_DEVIATION * normal(rng)).exp();
                let mut scales: [f32; LATENT] =
                    std::array::from_fn(|j| width * (-DECAY * j as f32).exp());
                shuffle(rng, &mut scales);
                widths.push(scales);
                // Sub-clusters are of unequal size.
                shares.push((shares.len() as f64 + 40.0).powf(-0.6));
            }
        }
        shuffle(rng, &mut shares);
        let sum: f64 = shares.iter().sum();
        let mut so_far = 0.0;
        for share in &mut shares {
            so_far += *share / sum;
            *share = so_far;
        }
        // Neighbouring outputs are of one histogram of 8 bins, and correlate.
        let plain: Vec<[f32; DIM]> = (0..LATENT)
            .map(|_| std::array::from_fn(|_| normal(rng)))
            .collect();
        let mut weights: Vec<[f32; DIM]> = plain
            .iter()
            .map(|w| {
                let back = |i: usize, by: usize| w[(i + DIM - by) % DIM];
                std::array::from_fn(|i| 0.8 * w[i] + 0.45 * back(i, 1) + 0.45 * back(i, 8))
            })
            .collect();
        for i in 0..DIM {
            let length = weights.iter().map(|w| w[i] * w[i]).sum::<f32>().sqrt();
            weights.iter_mut().for_each(|w| w[i] /= length);
        }
        let scale = (LATENT as f32).sqrt() / 4.0;
        let biases =
            std::array::from_fn(|_| scale * (BIAS * (0.6 + 0.8 * uniform(rng) as f32) - 0.3));
        Structure {
            centres,
            widths,
            shares,
            weights,
            biases,
        }
    }

    fn row(&self, rng: &mut ChaCha8Rng) -> [f32; DIM] {
        let share = uniform(rng);
        let of = self.shares.partition_point(|upto| *upto <= share);
        let of = of.min(self.shares.len() - 1);
        let mut row = self.biases.map(|bias| -bias);
        for ((centre, width), weights) in self.centres[of]
            .iter()
            .zip(&self.widths[of])
            .zip(&self.weights)
        {
            let latent = centre + width * normal(rng);
            for (x, weight) in row.iter_mut().zip(weights) {
                *x += latent * weight;
            }
        }
        row = row.map(|x| x.max(0.0));
        let noise = NOISE * (length(&row) / (DIM as f32).sqrt() + 1e-6);
        row = row.map(|x| (x + noise * normal(rng)).max(0.0));
        for _ in 0..2 {
            let scale = 1.0 / length(&row).max(f32::MIN_POSITIVE);
            row = row.map(|x| (x * scale).min(CLIP));
        }
        let scale = LENGTH / length(&row).max(f32::MIN_POSITIVE);
        row.map(|x| (x * scale).round().clamp(0.0, MAX))
    }
}

fn length(row: &[f32; DIM]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Rows of a stream, without end. Each stream has others.
pub struct Synthetic {
    structure: Structure,
    rng: ChaCha8Rng,
}

impl Synthetic {
    /// The rows of stream `stream`.
    pub fn new(stream: u64) -> Synthetic {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(stream);
        Synthetic {
            structure: Structure::new(),
            rng,
        }
    }
}

impl Iterator for Synthetic {
    type Item = [f32; DIM];

    fn next(&mut self) -> Option<[f32; DIM]> {
        Some(self.structure.row(&mut self.rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_like_those_of_image_features() {
        let rows: Vec<[f32; DIM]> = Synthetic::new(0).take(2000).collect();
        let zeros = rows.iter().flatten().filter(|x| **x == 0.0).count();
        let share = zeros as f64 / (rows.len() * DIM) as f64;
        assert!((0.2..0.45).contains(&share), "{share} are zero");
        for row in &rows {
            assert!(row
                .iter()
                .all(|x| x.fract() == 0.0 && (0.0..=MAX).contains(x)));
            let length = length(row);
            assert!((480.0..530.0).contains(&length), "{length}");
        }
    }

    #[test]
    fn streams_differ_and_are_the_same_each_time() {
        let first = |stream| Synthetic::new(stream).take(3).collect::<Vec<_>>();
        assert_eq!(first(0), first(0));
        assert!(first(0).iter().all(|row| !first(1).contains(row)));
    }
}
