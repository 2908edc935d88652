// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances with AVX-512 F, BW, DQ and VL.
//!
//! Four rows share each load of the query. Two independent sums per row keep both multiply-add
//! units busy. Tails are masked loads.

use core::arch::x86_64::*;

use super::{avx2, scalar, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, U8};
use crate::abi::{Elem, Metric};

/// Elements per block: bounds the chain of roundings in one lane.
const BLOCK: usize = 1024;

/// As [`super::score`], with AVX-512.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub unsafe fn score<R: Rows>(
    elem: Elem,
    metric: Metric,
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe { dispatch!(elem, metric, (query, rows, dim, out, n)) }
}

/// Keys for float elements of type `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn floats<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let qq = if M == COSINE {
            let (_, [qq]) = float_sums::<E, M, 1>(query, [query], [query], dim);
            _mm_cvtss_f32(sum4(qq, qq, qq, qq))
        } else {
            1.0
        };
        let mut i = 0;
        while i + 4 <= n {
            let p = [
                rows.row(i),
                rows.row(i + 1),
                rows.row(i + 2),
                rows.row(i + 3),
            ];
            let ahead = |k: usize| rows.row(if i + k < n { i + k } else { i });
            let next = [ahead(4), ahead(5), ahead(6), ahead(7)];
            let (a, b) = float_sums::<E, M, 4>(query, p, next, dim);
            let (keys, good) = avx2::float_keys::<M>(
                sum4(a[0], a[1], a[2], a[3]),
                sum4(b[0], b[1], b[2], b[3]),
                qq,
            );
            _mm_storeu_si128(out.add(i).cast(), keys);
            if good != 0xf {
                for k in 0..4 {
                    if good >> k & 1 == 0 {
                        *out.add(i + k) = scalar::float_key::<E, M>(query, p[k], dim);
                    }
                }
            }
            i += 4;
        }
        while i < n {
            let p = rows.row(i);
            let ahead = rows.row(if i + 1 < n { i + 1 } else { i });
            let ([a], [b]) = float_sums::<E, M, 1>(query, [p], [ahead], dim);
            let (keys, good) = avx2::float_keys::<M>(sum4(a, a, a, a), sum4(b, b, b, b), qq);
            *out.add(i) = if good == 0xf {
                _mm_cvtsi128_si32(keys) as u32
            } else {
                scalar::float_key::<E, M>(query, p, dim)
            };
            i += 1;
        }
    }
}

/// Lane sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. Prefetches `next` at the same pace.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn float_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    next: [*const u8; N],
    dim: usize,
) -> ([__m512; N], [__m512; N]) {
    let zero = _mm512_setzero_ps();
    // Without a second kind of sum both places take every other group of sixteen elements.
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let (mut block_a, mut block_b) = ([zero; N], [zero; N]);
    let size = if E == F32 { 4 } else { 2 };
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i + 32 <= dim {
            let left = dim - i;
            let end = i + if left < BLOCK { left & !31 } else { BLOCK };
            while i < end {
                let at = i * size;
                let (q0, q1) = (load16::<E>(q.add(at)), load16::<E>(q.add(at + 16 * size)));
                for k in 0..N {
                    let r0 = load16::<E>(p[k].add(at));
                    let r1 = load16::<E>(p[k].add(at + 16 * size));
                    _mm_prefetch::<_MM_HINT_T0>(next[k].wrapping_add(at).cast());
                    if E == F32 {
                        _mm_prefetch::<_MM_HINT_T0>(next[k].wrapping_add(at + 64).cast());
                    }
                    block_a[k] = term::<M>(q0, r0, block_a[k]);
                    if M == COSINE {
                        block_b[k] = _mm512_fmadd_ps(r0, r0, block_b[k]);
                        block_a[k] = term::<M>(q1, r1, block_a[k]);
                        block_b[k] = _mm512_fmadd_ps(r1, r1, block_b[k]);
                    } else {
                        block_b[k] = term::<M>(q1, r1, block_b[k]);
                    }
                }
                i += 32;
            }
            for k in 0..N {
                a[k] = _mm512_add_ps(a[k], block_a[k]);
                b[k] = _mm512_add_ps(b[k], block_b[k]);
                block_a[k] = zero;
                block_b[k] = zero;
            }
        }
        while i < dim {
            let count = if dim - i < 16 { dim - i } else { 16 };
            let q0 = load_part::<E>(q.add(i * size), count);
            for k in 0..N {
                let r0 = load_part::<E>(p[k].add(i * size), count);
                a[k] = term::<M>(q0, r0, a[k]);
                if M == COSINE {
                    b[k] = _mm512_fmadd_ps(r0, r0, b[k]);
                }
            }
            i += 16;
        }
    }
    if M != COSINE {
        for k in 0..N {
            a[k] = _mm512_add_ps(a[k], b[k]);
        }
    }
    (a, b)
}

/// `sum` plus the terms of sixteen elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn term<const M: u32>(q: __m512, r: __m512, sum: __m512) -> __m512 {
    if M == L2SQ {
        let d = _mm512_sub_ps(q, r);
        _mm512_fmadd_ps(d, d, sum)
    } else {
        _mm512_fmadd_ps(q, r, sum)
    }
}

/// Sixteen float elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn load16<const E: u32>(p: *const u8) -> __m512 {
    // SAFETY: the caller promises sixteen elements at `p`.
    unsafe {
        match E {
            F32 => _mm512_loadu_ps(p.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
            _ => widen_bf16(_mm256_loadu_si256(p.cast())),
        }
    }
}

/// `count` float elements, 1 to 16, and zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn load_part<const E: u32>(p: *const u8, count: usize) -> __m512 {
    let mask = (0xffff_u32 >> (16 - count)) as __mmask16;
    // SAFETY: masked lanes are not read.
    unsafe {
        match E {
            F32 => _mm512_maskz_loadu_ps(mask, p.cast()),
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())),
            _ => widen_bf16(_mm256_maskz_loadu_epi16(mask, p.cast())),
        }
    }
}

/// Sixteen bfloat16 as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn widen_bf16(v: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn sum4(a: __m512, b: __m512, c: __m512, d: __m512) -> __m128 {
    let half = |v| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let s = _mm256_hadd_ps(
        _mm256_hadd_ps(half(a), half(b)),
        _mm256_hadd_ps(half(c), half(d)),
    );
    _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s))
}

/// Keys for byte elements of type `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn bytes<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let qq = if M == COSINE {
            let (_, [qq]) = byte_sums::<E, M, 1>(query, [query], dim);
            qq
        } else {
            0
        };
        let mut i = 0;
        while i + 4 <= n {
            let p = [
                rows.row(i),
                rows.row(i + 1),
                rows.row(i + 2),
                rows.row(i + 3),
            ];
            let (dot, rr) = byte_sums::<E, M, 4>(query, p, dim);
            for k in 0..4 {
                *out.add(i + k) = scalar::finish_bytes::<E, M>(dot[k], qq, rr[k]);
            }
            i += 4;
        }
        while i < n {
            let ([dot], [rr]) = byte_sums::<E, M, 1>(query, [rows.row(i)], dim);
            *out.add(i) = scalar::finish_bytes::<E, M>(dot, qq, rr);
            i += 1;
        }
    }
}

/// Exact sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. They are modulo 2^32, which `MAX_DIM` makes enough.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn byte_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    dim: usize,
) -> ([u32; N], [u32; N]) {
    let zero = _mm512_setzero_si512();
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; masked lanes are not read.
    unsafe {
        while i + 32 <= dim {
            let q0 = widen_bytes::<E>(_mm256_loadu_si256(q.add(i).cast()));
            for k in 0..N {
                let r0 = widen_bytes::<E>(_mm256_loadu_si256(p[k].add(i).cast()));
                byte_terms::<M>(q0, r0, &mut a[k], &mut b[k]);
            }
            i += 32;
        }
        if i < dim {
            let mask = u32::MAX >> (32 - (dim - i));
            let q0 = widen_bytes::<E>(_mm256_maskz_loadu_epi8(mask, q.add(i).cast()));
            for k in 0..N {
                let r0 = widen_bytes::<E>(_mm256_maskz_loadu_epi8(mask, p[k].add(i).cast()));
                byte_terms::<M>(q0, r0, &mut a[k], &mut b[k]);
            }
        }
    }
    let (mut dot, mut rr) = ([0; N], [0; N]);
    for k in 0..N {
        dot[k] = _mm512_reduce_add_epi32(a[k]) as u32;
        rr[k] = _mm512_reduce_add_epi32(b[k]) as u32;
    }
    (dot, rr)
}

/// Adds the terms of 32 widened elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn byte_terms<const M: u32>(q: __m512i, r: __m512i, a: &mut __m512i, b: &mut __m512i) {
    let term = if M == L2SQ {
        let d = _mm512_sub_epi16(q, r);
        _mm512_madd_epi16(d, d)
    } else {
        _mm512_madd_epi16(q, r)
    };
    *a = _mm512_add_epi32(*a, term);
    if M == COSINE {
        *b = _mm512_add_epi32(*b, _mm512_madd_epi16(r, r));
    }
}

/// 32 bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn widen_bytes<const E: u32>(v: __m256i) -> __m512i {
    if E == I8 {
        _mm512_cvtepi8_epi16(v)
    } else {
        _mm512_cvtepu8_epi16(v)
    }
}

/// Keys for bit vectors: the portable code, compiled with the POPCNT instruction.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn bits<R: Rows, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: the caller promises `n` rows and `n` places for results.
        unsafe { *out.add(i) = scalar::bit_key::<M>(query, rows.row(i), dim) }
    }
}
