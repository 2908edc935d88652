// SPDX-License-Identifier: Apache-2.0

//! What the tests of this room share: seeded numbers, element encodings and the f64 oracle.

#![allow(dead_code)]

use vexfs_simd_host::{Distance, Elem, Isa, Metric};

/// Element types whose distances are rounded at every step.
pub const FLOATS: [Elem; 3] = [Elem::F32, Elem::F16, Elem::Bf16];

/// Dimensions around every vector width, and those that embeddings have.
pub fn dims() -> impl Iterator<Item = usize> {
    (1..=130).chain([255, 256, 257, 384, 768, 1536, 4096, 65536])
}

/// A small generator: the same seed gives the same numbers on every machine.
pub struct Rng(pub u64);

impl Rng {
    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// 2^n. Exact, which `powi` need not be, and in Miri is not.
pub fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

/// binary16 to f64, by the definition of the format.
pub fn f16_value(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let exponent = (bits >> 10 & 31) as i32;
    let fraction = (bits & 1023) as f64;
    sign * match exponent {
        0 => fraction * power_of_two(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * power_of_two(exponent - 25),
    }
}

/// Random elements of a type, with zeros, both signs and several magnitudes among them.
pub fn random_row(rng: &mut Rng, elem: Elem, dim: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(elem.row_bytes(dim));
    match elem {
        Elem::F32 => {
            for _ in 0..dim {
                let v = match rng.next() % 16 {
                    0 => 0.0,
                    1 => (rng.unit() * 1000.0) as f32,
                    2 => (rng.unit() * 1e-6) as f32,
                    _ => rng.unit() as f32,
                };
                bytes.extend(v.to_le_bytes());
            }
        }
        Elem::F16 => {
            for _ in 0..dim {
                // Any finite number up to 2: subnormal ones are among them.
                let bits = (rng.next() % 0x4000) as u16 | (rng.next() as u16 & 0x8000);
                bytes.extend(bits.to_le_bytes());
            }
        }
        Elem::Bf16 => {
            for _ in 0..dim {
                let bits = ((rng.unit() as f32).to_bits() >> 16) as u16;
                bytes.extend(bits.to_le_bytes());
            }
        }
        Elem::I8 | Elem::U8 | Elem::Binary => {
            bytes.extend((0..elem.row_bytes(dim)).map(|_| rng.next() as u8));
        }
    }
    bytes
}

/// The elements of a row as numbers.
pub fn values(elem: Elem, row: &[u8], dim: usize) -> Vec<f64> {
    let half = |i: usize| u16::from_le_bytes([row[2 * i], row[2 * i + 1]]);
    (0..dim)
        .map(|i| match elem {
            Elem::F32 => f32::from_le_bytes(row[4 * i..4 * i + 4].try_into().unwrap()) as f64,
            Elem::F16 => f16_value(half(i)),
            Elem::Bf16 => f32::from_bits((half(i) as u32) << 16) as f64,
            Elem::I8 => row[i] as i8 as f64,
            Elem::U8 => row[i] as f64,
            Elem::Binary => (row[i / 8] >> (i % 8) & 1) as f64,
        })
        .collect()
}

/// The distance by its formula in f64, and the sum of the absolute values of its terms.
pub fn oracle(metric: Metric, q: &[f64], r: &[f64]) -> (f64, f64) {
    let pairs = || q.iter().zip(r);
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    match metric {
        Metric::L2Sq | Metric::Hamming => {
            let sum = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
            (sum, sum)
        }
        Metric::InnerProduct => (0.0 - dot, pairs().map(|(a, b)| (a * b).abs()).sum()),
        Metric::Cosine => {
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let (nq, nr) = (norm(q), norm(r));
            if nq == 0.0 || nr == 0.0 {
                return (1.0, 1.0);
            }
            // An error of the dot product, and one of the root, the division and the subtraction.
            let terms: f64 = pairs().map(|(a, b)| (a * b).abs()).sum();
            ((1.0 - dot / nq / nr).clamp(0.0, 2.0), 1.0 + terms / nq / nr)
        }
    }
}

/// The distance a key stands for.
pub fn distance(key: u32) -> f64 {
    f32::from_bits(Distance(key).to_f32_bits()) as f64
}

/// How far a kernel may be from the oracle on data that is not made against it: 4 eps of the terms, or
/// nothing but the last rounding for integer elements.
pub fn tolerance(isa: Isa, elem: Elem, exact: f64, terms: f64, q: &[f64], r: &[f64]) -> f64 {
    if FLOATS.contains(&elem) {
        4.0 * f32::EPSILON as f64 * terms + underflow(isa, elem, q, r)
    } else {
        integer_tolerance(exact)
    }
}

/// How far a kernel may be from the oracle on any data: as many units as the longest chain of roundings
/// has links, and the errors of differences, of the result and of what underflows.
pub fn worst_case(isa: Isa, elem: Elem, exact: f64, terms: f64, q: &[f64], r: &[f64]) -> f64 {
    if !FLOATS.contains(&elem) {
        return integer_tolerance(exact);
    }
    let unit = power_of_two(-24);
    let chain = match isa {
        Isa::Scalar => {
            return 1.01 * unit * exact.abs() + power_of_two(-37) * terms + power_of_two(-149)
        }
        Isa::Avx512Bf16 if elem == Elem::Bf16 => 140 + q.len() / 2048,
        _ => 72 + q.len() / 256,
    };
    chain as f64 * unit * terms + underflow(isa, elem, q, r)
}

fn integer_tolerance(exact: f64) -> f64 {
    exact.abs() * f32::EPSILON as f64 / 2.0 + 1e-15
}

/// What subnormal numbers may cost.
fn underflow(isa: Isa, elem: Elem, q: &[f64], r: &[f64]) -> f64 {
    let dim = q.len() as f64;
    let flushed = if isa == Isa::Avx512Bf16 && elem == Elem::Bf16 {
        let largest = |v: &[f64]| v.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        power_of_two(-126) * largest(q).max(largest(r))
    } else {
        0.0
    };
    dim * (power_of_two(-149) + flushed)
}
