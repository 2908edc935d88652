// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances in portable code: the reference, the fallback, and the judge of sums that leave the
//! range of the vector kernels.

use super::{key, Kind, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, U8};
use crate::abi::{Elem, Metric};
use crate::math::{bf16_to_f32, f16_to_f32, sqrt};

/// As [`super::score`], in portable code. Not inlined: its frame is not on the stack of the others.
///
/// # Safety
///
/// As [`super::score`].
#[inline(never)]
pub unsafe fn score<R: Rows>(
    kind: impl Kind,
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe { dispatch!(kind, (query, rows, dim, out, n)) }
}

/// Keys for float elements of type `E`.
unsafe fn floats<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: the caller promises `n` rows and `n` places for results.
        unsafe { *out.add(i) = float_key::<E, M>(query, rows.row(i), dim) }
    }
}

/// The key for one row of floats. Products of two f32 are exact in f64.
pub unsafe fn float_key<const E: u32, const M: u32>(q: *const u8, r: *const u8, dim: usize) -> u32 {
    let mut dot = [0f64; 4];
    let mut qq = [0f64; 4];
    let mut rr = [0f64; 4];
    for i in 0..dim {
        // SAFETY: `i` is below the dimension, and the caller promises that many elements.
        let (a, b) = unsafe { (float::<E>(q, i) as f64, float::<E>(r, i) as f64) };
        // Four partial sums, because one would wait for its own last addition.
        let lane = i & 3;
        if M == L2SQ {
            dot[lane] += (a - b) * (a - b);
        } else {
            dot[lane] += a * b;
        }
        if M == COSINE {
            qq[lane] += a * a;
            rr[lane] += b * b;
        }
    }
    let sum = |s: [f64; 4]| (s[0] + s[1]) + (s[2] + s[3]);
    key(finish::<M>(sum(dot), sum(qq), sum(rr)))
}

/// Element `i` of a float vector.
#[inline(always)]
unsafe fn float<const E: u32>(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the vector; the reads allow any alignment.
    unsafe {
        match E {
            F32 => p.cast::<f32>().add(i).read_unaligned(),
            F16 => f16_to_f32(p.cast::<u16>().add(i).read_unaligned()),
            _ => bf16_to_f32(p.cast::<u16>().add(i).read_unaligned()),
        }
    }
}

/// Keys for byte elements of type `E`.
unsafe fn bytes<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: the caller promises `n` rows and `n` places for results.
        unsafe { *out.add(i) = byte_key::<E, M>(query, rows.row(i), dim) }
    }
}

/// The key for one row of bytes.
unsafe fn byte_key<const E: u32, const M: u32>(q: *const u8, r: *const u8, dim: usize) -> u32 {
    let (mut dot, mut qq, mut rr) = (0u32, 0u32, 0u32);
    for i in 0..dim {
        // SAFETY: `i` is below the dimension, and the caller promises that many bytes.
        let (a, b) = unsafe { (byte::<E>(q, i), byte::<E>(r, i)) };
        // MAX_DIM keeps each sum within 32 bits.
        if M == L2SQ {
            let d = a.wrapping_sub(b);
            dot = dot.wrapping_add(d.wrapping_mul(d) as u32);
        } else {
            dot = dot.wrapping_add(a.wrapping_mul(b) as u32);
        }
        if M == COSINE {
            qq = qq.wrapping_add(a.wrapping_mul(a) as u32);
            rr = rr.wrapping_add(b.wrapping_mul(b) as u32);
        }
    }
    finish_bytes::<E, M>(dot, qq, rr)
}

/// Element `i` of a byte vector.
#[inline(always)]
unsafe fn byte<const E: u32>(p: *const u8, i: usize) -> i32 {
    // SAFETY: the caller keeps `i` within the vector.
    let b = unsafe { *p.add(i) };
    if E == I8 {
        b as i8 as i32
    } else {
        b as i32
    }
}

/// The key from the exact sums of a pair of byte vectors.
#[inline(always)]
pub fn finish_bytes<const E: u32, const M: u32>(dot: u32, qq: u32, rr: u32) -> u32 {
    // Only a product of signed bytes can be negative, and it fits 31 bits.
    let dot = if E == U8 || M == L2SQ {
        dot as f64
    } else {
        dot as i32 as f64
    };
    key(finish::<M>(dot, qq as f64, rr as f64))
}

/// Keys for bit vectors.
unsafe fn bits<R: Rows, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: the caller promises `n` rows and `n` places for results.
        unsafe { *out.add(i) = bit_key::<M>(query, rows.row(i), dim) }
    }
}

/// The key for one row of bits.
#[inline(always)]
pub unsafe fn bit_key<const M: u32>(q: *const u8, r: *const u8, dim: usize) -> u32 {
    let (mut dot, mut qq, mut rr) = (0u64, 0u64, 0u64);
    let mut add = |a: u64, b: u64| {
        dot += if M == L2SQ { a ^ b } else { a & b }.count_ones() as u64;
        if M == COSINE {
            qq += a.count_ones() as u64;
            rr += b.count_ones() as u64;
        }
    };
    let whole = dim >> 6;
    for i in 0..whole {
        // SAFETY: word `i` ends at or before bit `dim`; the reads allow any alignment.
        unsafe {
            add(
                q.cast::<u64>().add(i).read_unaligned(),
                r.cast::<u64>().add(i).read_unaligned(),
            )
        }
    }
    let left = dim & 63;
    if left != 0 {
        let (mut a, mut b) = (0, 0);
        for i in 0..(left + 7) >> 3 {
            // SAFETY: the byte holds a bit below `dim`, so the caller promises it.
            unsafe {
                a |= (*q.add(whole * 8 + i) as u64) << (8 * i);
                b |= (*r.add(whole * 8 + i) as u64) << (8 * i);
            }
        }
        let mask = (1 << left) - 1;
        add(a & mask, b & mask);
    }
    key(finish::<M>(dot as f64, qq as f64, rr as f64))
}

/// The distance from the sums: of squared differences or of products, and of both squares.
#[inline(always)]
fn finish<const M: u32>(dot: f64, qq: f64, rr: f64) -> f32 {
    match M {
        L2SQ => dot as f32,
        INNER_PRODUCT => -dot as f32,
        _ => {
            if qq == 0.0 || rr == 0.0 {
                return 1.0;
            }
            let distance = 1.0 - dot / (sqrt(qq) * sqrt(rr));
            // Rounding may take the cosine past 1. NaN stays NaN.
            if distance < 0.0 {
                0.0
            } else if distance > 2.0 {
                2.0
            } else {
                distance as f32
            }
        }
    }
}
