// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of integers and bits with AVX-512 F and BW; `avx512vnni.rs` and `avx512bits.rs` have better ones for
//! processors with more.

use core::arch::x86_64::*;

use super::{avx2, scalar, Ahead, Rows, COSINE, I8, L2SQ, TILE};

/// Keys for byte elements of type `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn bytes<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    for (query, out) in queries.into_iter().zip(out) {
        // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
        // below is less than `n`.
        unsafe {
            let qq = if M == COSINE {
                let (_, [qq]) = byte_sums::<E, M, 1>(query, [query], &Ahead::none(query), dim);
                qq
            } else {
                0
            };
            let mut i = 0;
            while i < n {
                // The last tile repeats its last row.
                let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
                let p = [row(0), row(1), row(2), row(3)];
                let count = if n - i < TILE { n - i } else { TILE };
                let (dot, rr) = if count == 1 {
                    let none = Ahead::none(p[0]);
                    let ([dot], [rr]) = byte_sums::<E, M, 1>(query, [p[0]], &none, dim);
                    ([dot; TILE], [rr; TILE])
                } else {
                    byte_sums::<E, M, TILE>(query, p, &Ahead::tile(rows, i, n, dim), dim)
                };
                for k in 0..count {
                    *out.add(i + k) = scalar::finish_bytes::<E, M>(dot[k], qq, rr[k]);
                }
                i += TILE;
            }
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
    ahead: &Ahead<N>,
    dim: usize,
) -> ([u32; N], [u32; N]) {
    let zero = _mm512_setzero_si512();
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i + 32 <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = widen_bytes::<E>(_mm256_loadu_si256(q.add(i).cast()));
            for k in 0..N {
                if i % 64 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                }
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
pub(super) unsafe fn bits<R: Rows, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    for (query, out) in queries.into_iter().zip(out) {
        // SAFETY: as promised by the caller, who has AVX2 with this instruction set.
        unsafe { avx2::bits::<R, M>(query, rows, dim, out, n) }
    }
}
