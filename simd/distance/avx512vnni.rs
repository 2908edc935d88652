// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of integers with AVX-512 VNNI; bits are those of `avx512bits.rs`, floats those of `avx512.rs`.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes. A row is seen both ways: as signed bytes r, and as
//! unsigned bytes r + 128, which differ in the highest bit only. With q the signed query and P the
//! elements of a row with its padding, three sums give every distance, modulo 2^32 and so exactly:
//!
//! ```text
//! A = sum (r + 128) q     B = sum (r + 128) r     C = sum (r + 128)
//! sum r = C - 128 P       sum r q = A - 128 sum q       sum r r = B - 128 sum r
//! ```
//!
//! Unsigned elements are u = r + 128: their differences are those of r, and
//! `sum u v = A + 128 C` for a query v = q + 128.

use core::arch::x86_64::*;

use super::avx512::floats;
use super::avx512bits::bits;
use super::avx512keys::{keys_of_cosines, keys_of_counts, keys_of_products, ordered, store, sum4};
use super::{Ahead, Rows, BF16, COSINE, DENSE_MAX, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8};
use crate::abi::{Elem, Metric};

/// Bytes of one register.
const WIDTH: usize = 64;

/// As [`super::score`], with AVX-512 VNNI and VPOPCNTDQ, for each of `Q` queries.
///
/// # Safety
///
/// As [`super::score`], for each query and its results.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub unsafe fn score<R: Rows, const Q: usize>(
    elem: Elem,
    metric: Metric,
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe { dispatch!(elem, metric, (queries, rows, dim, out, n), Q) }
}

/// What is known of a query of bytes.
#[derive(Clone, Copy)]
struct Query {
    /// The sum of its signed elements.
    sum: i32,
    /// The sum of their squares.
    signed_qq: i32,
    /// The sum of the squares of its elements.
    qq: u32,
    /// Its root.
    root: f64,
}

impl Query {
    /// `padded` is what 128 has to be taken off times.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    unsafe fn new<const E: u32>(q: *const u8, dim: usize, padded: i32) -> Self {
        // SAFETY: the caller promises `dim` elements.
        let (_, [b], [c]) =
            unsafe { byte_sums::<E, COSINE, 1, 1, false>([q], [q], &Ahead::none(q), dim) };
        let (b, c) = (_mm512_reduce_add_epi32(b), _mm512_reduce_add_epi32(c));
        let sum = c.wrapping_sub(padded.wrapping_mul(128));
        let signed_qq = b.wrapping_sub(sum.wrapping_mul(128));
        let qq = if E == I8 {
            signed_qq as u32
        } else {
            b.wrapping_add(c.wrapping_mul(128)) as u32
        };
        Query {
            sum,
            signed_qq,
            qq,
            root: crate::math::sqrt(qq as f64),
        }
    }
}

/// Keys for byte elements of type `E`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) unsafe fn bytes<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let padded = if E == I8 {
        dim.next_multiple_of(WIDTH)
    } else {
        dim
    } as i32;
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every
    // index below is less than `n`.
    unsafe {
        let known = queries.map(|q| Query::new::<E>(q, dim, padded));
        let dense = dim <= DENSE_MAX && rows.are_dense(dim);
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b, c) = if Q == 1 && dense {
                let sums = |p: [*const u8; 2]| {
                    byte_sums::<E, M, Q, 2, true>(queries, p, &Ahead::linear(p[0], dim), dim)
                };
                let (x, y) = (sums([p[0], p[1]]), sums([p[2], p[3]]));
                let mut a = [[_mm512_setzero_si512(); TILE]; Q];
                for j in 0..Q {
                    a[j] = [x.0[j][0], x.0[j][1], y.0[j][0], y.0[j][1]];
                }
                let both = |x: [__m512i; 2], y: [__m512i; 2]| [x[0], x[1], y[0], y[1]];
                (a, both(x.1, y.1), both(x.2, y.2))
            } else {
                let ahead = Ahead::tile(rows, i, n, dim);
                byte_sums::<E, M, Q, TILE, true>(queries, p, &ahead, dim)
            };
            let (b, c) = (sum4(b), sum4(c));
            for j in 0..Q {
                let keys = byte_keys::<E, M>(sum4(a[j]), b, c, padded, known[j]);
                store(out[j].add(i), keys, count);
            }
            i += TILE;
        }
    }
}

/// Keys of four rows from the sums of the module's documentation.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn byte_keys<const E: u32, const M: u32>(
    a: __m128i,
    b: __m128i,
    c: __m128i,
    padded: i32,
    q: Query,
) -> __m128i {
    let scale = |v| _mm_slli_epi32::<7>(v);
    let r_sum = _mm_sub_epi32(c, _mm_set1_epi32(padded.wrapping_mul(128)));
    let signed_rr = _mm_sub_epi32(b, scale(r_sum));
    let signed_qr = _mm_sub_epi32(a, _mm_set1_epi32(q.sum.wrapping_mul(128)));
    let (qr, rr) = if E == I8 {
        (signed_qr, signed_rr)
    } else {
        (_mm_add_epi32(a, scale(c)), _mm_add_epi32(b, scale(c)))
    };
    match M {
        L2SQ => {
            let squares = _mm_add_epi32(signed_rr, _mm_set1_epi32(q.signed_qq));
            keys_of_counts(_mm_sub_epi32(squares, _mm_slli_epi32::<1>(signed_qr)))
        }
        // Products of signed bytes fit 31 bits. The integer is negated, because the negative of a float
        // zero would have another key.
        INNER_PRODUCT if E == I8 => {
            ordered(_mm_cvtepi32_ps(_mm_sub_epi32(_mm_setzero_si128(), qr)))
        }
        INNER_PRODUCT => keys_of_products(qr),
        _ if E == I8 => keys_of_cosines(_mm256_cvtepi32_pd(qr), rr, q.qq, q.root),
        _ => keys_of_cosines(_mm256_cvtepu32_pd(qr), rr, q.qq, q.root),
    }
}

/// Lane sums A, B and C of the module's documentation for `N` rows, of those that `M` and `E` need, A with
/// each of `Q` queries. The order of additions does not matter, they are exact. Prefetches `ahead` at the same
/// pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn byte_sums<
    const E: u32,
    const M: u32,
    const Q: usize,
    const N: usize,
    const AHEAD: bool,
>(
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([[__m512i; N]; Q], [__m512i; N], [__m512i; N]) {
    let zero = _mm512_setzero_si512();
    let (mut a, mut b, mut c) = ([[zero; N]; Q], [zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i + WIDTH <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = q.map(|q| _mm512_loadu_si512(q.add(i).cast()));
            for k in 0..N {
                if AHEAD {
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                }
                let r0 = _mm512_loadu_si512(p[k].add(i).cast());
                for j in 0..Q {
                    a[j][k] = byte_products::<E>(q0[j], r0, a[j][k]);
                }
                row_terms::<E, M>(r0, &mut b[k], &mut c[k]);
            }
            i += WIDTH;
        }
        if i < dim {
            let mask = u64::MAX >> (WIDTH - (dim - i));
            let q0 = q.map(|q| _mm512_maskz_loadu_epi8(mask, q.add(i).cast()));
            for k in 0..N {
                let r0 = _mm512_maskz_loadu_epi8(mask, p[k].add(i).cast());
                for j in 0..Q {
                    a[j][k] = byte_products::<E>(q0[j], r0, a[j][k]);
                }
                row_terms::<E, M>(r0, &mut b[k], &mut c[k]);
            }
        }
    }
    (a, b, c)
}

/// A vector with the highest bit of each byte changed: between elements and 128 more or less.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn flip(v: __m512i) -> __m512i {
    _mm512_xor_si512(v, _mm512_set1_epi8(-128))
}

/// `a` plus the terms of 64 elements.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn byte_products<const E: u32>(q: __m512i, r: __m512i, a: __m512i) -> __m512i {
    if E == I8 {
        _mm512_dpbusd_epi32(a, flip(r), q)
    } else {
        _mm512_dpbusd_epi32(a, r, flip(q))
    }
}

/// Adds the terms of 64 elements that do without the query.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn row_terms<const E: u32, const M: u32>(r: __m512i, b: &mut __m512i, c: &mut __m512i) {
    let (signed, unsigned) = if E == I8 { (r, flip(r)) } else { (flip(r), r) };
    if M != INNER_PRODUCT {
        *b = _mm512_dpbusd_epi32(*b, unsigned, signed);
    }
    if M != INNER_PRODUCT || E == U8 {
        *c = _mm512_dpbusd_epi32(*c, unsigned, _mm512_set1_epi8(1));
    }
}
