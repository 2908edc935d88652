// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! One-bit codes with an error bound: RaBitQ (Gao and Long, arXiv 2405.12497).
//!
//! A vector r, the rotated residual to some centre, is replaced by the signs of its elements. With x the
//! unit vector of these signs and D the dimension, <x,q>/<x,r> estimates <r,q>/|r|^2 without bias over
//! random rotations, and
//!
//! ```text
//! |r - q|^2 = |r|^2 + |q|^2 - 2 <r,q>,   <r,q> ~ slope * sum(+-q),   slope = |r| / (sqrt(D) <x,r>/|r|)
//! ```
//!
//! with an error of <r,q> below `|q| * spread`, `spread = |r| sqrt(1/ip^2 - 1) * 1.9 / sqrt(D - 1)` for ip =
//! <x,r>/|r|, in all but some of a thousand cases. The query is cut to 4 bits per element, so that sums
//! are popcounts; its rounding errors, of standard deviation step/sqrt(12) each, add three standard
//! deviations to the bound.
//!
//! A code is the bits in words of 64, then |r|^2, slope and spread as f32, then the number of ones. All
//! functions give the same bits on every instruction set.

use crate::abi::{Distance, Isa};
use crate::isa::per_isa;
use crate::math::sqrt;

/// Bits per element of a query.
const PLANES: usize = 4;

/// The factor of the error bound, epsilon_0 in the paper.
const CONFIDENCE: f64 = 1.9;

per_isa! {
    /// Writes the code of a vector of `dim` f32.
    pub unsafe fn encode(isa, src: *const u8, dim: usize, code: *mut u8) -> () = encode_body;

    /// Cuts a query of `dim` f32 to 4 planes of bits, and writes |q|^2, least element, step, the sum of all
    /// elements and the error bounds' two factors to `affine`.
    pub unsafe fn prepare(
        isa, src: *const u8, dim: usize, planes: *mut u64, affine: *mut u32,
    ) -> () = prepare_body;

    /// Writes the keys of the estimated distances to `n` codes, and of their lower bounds.
    pub unsafe fn scan(
        isa, planes: *const u64, affine: *const u32, dim: usize,
        codes: *const u8, stride: usize, n: usize, out: *mut u32, lower: *mut u32,
    ) -> () = scan_body;
}

#[inline(always)]
unsafe fn load(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the vector; the read allows any alignment.
    unsafe { p.cast::<f32>().add(i).read_unaligned() }
}

/// # Safety
///
/// `dim` f32 are readable at `src`, a code writable at `code`.
#[inline(always)]
unsafe fn encode_body(src: *const u8, dim: usize, code: *mut u8) {
    let words = dim.div_ceil(64);
    let (mut norm_sq, mut sum_abs, mut ones) = (0f64, 0f64, 0u32);
    // SAFETY: every index is below `dim` or `words`.
    unsafe {
        for w in 0..words {
            let mut word = 0u64;
            let left = dim - w * 64;
            for k in 0..if left < 64 { left } else { 64 } {
                let x = load(src, w * 64 + k);
                word |= ((x > 0.0) as u64) << k;
                norm_sq += x as f64 * x as f64;
                sum_abs += x.abs() as f64;
            }
            ones += word.count_ones();
            code.cast::<u64>().add(w).write_unaligned(word);
        }
        // |r| * sqrt(D) * ip is the sum of absolute values, so slope = |r|^2 / that sum.
        let (mut slope, mut spread) = (0f64, 0f64);
        if sum_abs > 0.0 {
            slope = norm_sq / sum_abs;
            // (|r| / ip)^2 - |r|^2, where rounding may take a difference of zero below it.
            let excess = slope * slope * dim as f64 - norm_sq;
            let degrees = if dim > 1 { dim as f64 - 1.0 } else { 1.0 };
            spread = sqrt(if excess > 0.0 { excess } else { 0.0 } / degrees) * CONFIDENCE;
        }
        let tail = code.add(words * 8).cast::<u32>();
        tail.write_unaligned((norm_sq as f32).to_bits());
        tail.add(1).write_unaligned((slope as f32).to_bits());
        tail.add(2).write_unaligned((spread as f32).to_bits());
        tail.add(3).write_unaligned(ones);
    }
}

/// # Safety
///
/// `dim` f32 are readable at `src`; `planes` has room for 4 times `(dim + 63) / 64` words, `affine` for 6.
#[inline(always)]
unsafe fn prepare_body(src: *const u8, dim: usize, planes: *mut u64, affine: *mut u32) {
    let words = dim.div_ceil(64);
    // SAFETY: every index is below `dim`, or `words` of a plane.
    unsafe {
        let (mut low, mut high) = (load(src, 0), load(src, 0));
        let (mut norm_sq, mut sum) = (0f64, 0f64);
        for i in 0..dim {
            let x = load(src, i);
            low = if x < low { x } else { low };
            high = if x > high { x } else { high };
            norm_sq += x as f64 * x as f64;
            sum += x as f64;
        }
        let step = (high - low) / 15.0;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        for w in 0..words {
            let mut plane = [0u64; PLANES];
            let left = dim - w * 64;
            for k in 0..if left < 64 { left } else { 64 } {
                let v = (load(src, w * 64 + k) - low) * inverse;
                let v = if v < 15.0 { v } else { 15.0 };
                // Adding 2^23 leaves the nearest integer in the lowest bits.
                let level = ((v + 8_388_608.0).to_bits() & 15) as u64;
                for j in 0..PLANES {
                    plane[j] |= (level >> j & 1) << k;
                }
            }
            for j in 0..PLANES {
                *planes.add(w * PLANES + j) = plane[j];
            }
        }
        let rounding = step as f64 * 3.0 * sqrt(dim as f64 / 12.0);
        let words = [
            norm_sq as f32,
            low,
            step,
            sum as f32,
            sqrt(norm_sq) as f32,
            rounding as f32,
        ];
        for (i, word) in words.iter().enumerate() {
            *affine.add(i) = word.to_bits();
        }
    }
}

#[inline(always)]
fn key(distance: f32) -> u32 {
    if distance.is_nan() {
        Distance::NAN.0
    } else {
        Distance::from_f32_bits((distance + 0.0).to_bits()).0
    }
}

/// # Safety
///
/// `planes` and `affine` are from [`prepare`] with `dim`, codes from [`encode`] with it, `stride` apart;
/// `out` and `lower` have room for `n` keys.
#[inline(always)]
unsafe fn scan_body(
    planes: *const u64,
    affine: *const u32,
    dim: usize,
    codes: *const u8,
    stride: usize,
    n: usize,
    out: *mut u32,
    lower: *mut u32,
) {
    let words = dim.div_ceil(64);
    // SAFETY: every index is below `n`, `words` or the sizes of a code's tail and of `affine`.
    unsafe {
        let affine = |i: usize| f32::from_bits(*affine.add(i));
        let (norm_sq, low, step) = (affine(0), affine(1), affine(2));
        let (sum, norm, rounding) = (affine(3), affine(4), affine(5));
        for i in 0..n {
            let code = codes.add(i * stride);
            let mut counts = [0u32; PLANES];
            for w in 0..words {
                let bits = code.cast::<u64>().add(w).read_unaligned();
                for j in 0..PLANES {
                    counts[j] += (bits & *planes.add(w * PLANES + j)).count_ones();
                }
            }
            let levels = counts[0] + 2 * counts[1] + 4 * counts[2] + 8 * counts[3];
            let tail = code.add(words * 8);
            let (code_norm_sq, slope, spread) = (load(tail, 0), load(tail, 1), load(tail, 2));
            let ones = tail.cast::<u32>().add(3).read_unaligned();
            // The sum of the query's elements, with the code's signs.
            let signed = 2.0 * (low * ones as f32 + step * levels as f32) - sum;
            let distance = (code_norm_sq + norm_sq) - 2.0 * slope * signed;
            let error = 2.0 * (norm * spread + slope * rounding);
            *out.add(i) = key(distance);
            *lower.add(i) = key(distance - error);
        }
    }
}

/// See [`encode`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`encode`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_rabitq_encode(
    isa: u32,
    src: *const u8,
    dim: usize,
    code: *mut u8,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { encode(isa, src, dim, code) };
    0
}

/// See [`prepare`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`prepare`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_rabitq_prepare(
    isa: u32,
    src: *const u8,
    dim: usize,
    planes: *mut u64,
    affine: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { prepare(isa, src, dim, planes, affine) };
    0
}

/// See [`scan`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`scan`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_rabitq_scan(
    isa: u32,
    planes: *const u64,
    affine: *const u32,
    dim: usize,
    codes: *const u8,
    stride: usize,
    n: usize,
    out: *mut u32,
    lower: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { scan(isa, planes, affine, dim, codes, stride, n, out, lower) };
    0
}
