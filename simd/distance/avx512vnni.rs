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
//!
//! So a row needs one sum, X, and for `COSINE` another, Y; what they lack is the same for all rows:
//!
//! ```text
//! X = B - 128 C - 2 A for L2SQ, A for products of signed and A + 128 C for those of unsigned elements
//! Y = B - 128 C for signed and B + 128 C for unsigned elements
//! ```

use core::arch::x86_64::*;

use super::avx512::{floats, SHORT};
use super::avx512bits::bits;
use super::avx512keys::{
    four_integers, keys_of_cosines, keys_of_counts, keys_of_products, keys_of_small_cosines,
    ordered, store, sum16_integers, sum_quarters, Norm,
};
use super::{
    Ahead, Kind, Rows, BF16, BLOCK_ROWS, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8,
};
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
    kind: impl Kind,
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe { dispatch!(kind, (queries, rows, dim, out, n), Q) }
}

/// Bytes of -128 and of 1. They come from the caller, or else a compiler takes them from memory each time where
/// addresses are of 64 bits, as in User-Mode Linux.
#[derive(Clone, Copy)]
struct Bytes {
    sign: __m512i,
    one: __m512i,
}

impl Bytes {
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    fn new() -> Self {
        Bytes {
            sign: _mm512_set1_epi8(-128),
            one: _mm512_set1_epi8(1),
        }
    }

    /// A vector with the highest bit of each byte changed: between elements and 128 more or less.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    fn flip(self, v: __m512i) -> __m512i {
        _mm512_xor_si512(v, self.sign)
    }
}

/// What is known of a query of bytes.
#[derive(Clone, Copy)]
struct Query {
    /// What X of the module's documentation lacks of a distance or a product, and Y of the row's square.
    x: u32,
    y: u32,
    norm: Norm,
}

impl Query {
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    unsafe fn new<const E: u32, const M: u32>(q: *const u8, dim: usize) -> Self {
        // SAFETY: the caller promises `dim` elements.
        let [b, c] = unsafe {
            let sums =
                byte_sums::<E, COSINE, 1, 1, false>(Bytes::new(), [q], [q], &Ahead::none(q), dim);
            [sums.b[0], sums.c[0]].map(|v| _mm512_reduce_add_epi32(v) as u32)
        };
        let padded = if E == I8 {
            dim.next_multiple_of(WIDTH)
        } else {
            dim
        } as u32;
        let padding = padded.wrapping_mul(128 * 128);
        let sum = c.wrapping_sub(padded.wrapping_mul(128));
        let signed_qq = b.wrapping_sub(c.wrapping_mul(128)).wrapping_add(padding);
        let qq = if E == I8 {
            signed_qq
        } else {
            b.wrapping_add(c.wrapping_mul(128))
        };
        let x = match M {
            L2SQ => padding
                .wrapping_add(signed_qq)
                .wrapping_add(sum.wrapping_mul(256)),
            _ if E == I8 => sum.wrapping_mul(128).wrapping_neg(),
            _ => 0,
        };
        let y = if E == I8 { padding } else { 0 };
        let norm = Norm::new(qq);
        Query { x, y, norm }
    }
}

/// Keys for byte elements of type `E`. Not inlined: its frame is not on the stack of the others.
#[inline(never)]
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
    // SAFETY: the caller's promises are those of each.
    unsafe {
        let known = queries.map(|q| Query::new::<E, M>(q, dim));
        let bytes = &Bytes::new();
        if Q == 1 && rows.are_dense(dim) {
            if dim == SHORT {
                in_order::<R, E, M, SHORT>(bytes, queries[0], &known[0], rows, dim, out[0], n);
            } else {
                in_order::<R, E, M, 0>(bytes, queries[0], &known[0], rows, dim, out[0], n);
            }
        } else {
            tiles::<R, E, M, Q>(bytes, queries, &known, rows, dim, out, n);
        }
    }
}

/// Keys for rows without gaps, which are read one after the other, for the reasons and in the way of
/// `avx512.rs`; `DIM` is `dim`, or 0.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn in_order<R: Rows, const E: u32, const M: u32, const DIM: usize>(
    bytes: &Bytes,
    query: *const u8,
    known: &Query,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let dim = if DIM == 0 { dim } else { DIM };
    let zero = _mm512_setzero_si512();
    let (mut x, mut y) = ([zero; BLOCK_ROWS], [zero; BLOCK_ROWS]);
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index of a row is less
    // than `n`, and of a sum less than `BLOCK_ROWS`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut k = 0;
            while k < count {
                let p = rows.row(i + k);
                let ahead = Ahead::linear(p, dim);
                let sums = byte_sums::<E, M, 1, 1, true>(*bytes, [query], [p], &ahead, dim);
                *x.as_mut_ptr().add(k) = sums.x::<E, M>(0, 0);
                if M == COSINE {
                    *y.as_mut_ptr().add(k) = sums.y::<E>(0);
                }
                k += 1;
            }
            let x = sum16_integers(&x);
            let y = if M == COSINE { sum16_integers(&y) } else { x };
            store(
                out.add(i),
                byte_keys::<E, M>(x, y, known, dim <= SMALL),
                count,
            );
            i += BLOCK_ROWS;
        }
    }
}

/// Keys for any rows, four at a time.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn tiles<R: Rows, const E: u32, const M: u32, const Q: usize>(
    bytes: &Bytes,
    queries: [*const u8; Q],
    known: &[Query; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let zero = _mm512_setzero_si512();
    // Of each tile the sums of `four_integers`.
    let (mut x, mut y) = ([[zero; BLOCK_ROWS / TILE]; Q], [zero; BLOCK_ROWS / TILE]);
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every index of a
    // row is less than `n`, and of a part less than `BLOCK_ROWS` / `TILE`: `at` is a multiple of `TILE` below
    // `BLOCK_ROWS`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut at = 0;
            while at < count {
                // The last tile repeats its last row.
                let row = |k: usize| rows.row(i + if at + k < count { at + k } else { count - 1 });
                let p = [row(0), row(1), row(2), row(3)];
                let ahead = Ahead::tile(rows, i + at, n, dim);
                let sums = byte_sums::<E, M, Q, TILE, true>(*bytes, queries, p, &ahead, dim);
                for j in 0..Q {
                    let four = [0, 1, 2, 3].map(|k| sums.x::<E, M>(j, k));
                    *x[j].as_mut_ptr().add(at / TILE) = four_integers(four);
                }
                if M == COSINE {
                    let four = [0, 1, 2, 3].map(|k| sums.y::<E>(k));
                    *y.as_mut_ptr().add(at / TILE) = four_integers(four);
                }
                at += TILE;
            }
            let y = sum_quarters::<false>(y);
            for j in 0..Q {
                // Any estimate: that of small sums is inlined, and a kernel's stack is short here.
                let keys = byte_keys::<E, M>(sum_quarters::<false>(x[j]), y, &known[j], false);
                store(out[j].add(i), keys, count);
            }
            i += BLOCK_ROWS;
        }
    }
}

/// The largest dimension of which all sums of products are below 2^24.
const SMALL: usize = (1 << 24) / (255 * 255);

/// Keys of sixteen rows from the sums X and Y of the module's documentation; `small`: sums of products are below 2^24.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn byte_keys<const E: u32, const M: u32>(
    x: __m512i,
    y: __m512i,
    q: &Query,
    small: bool,
) -> __m512i {
    let x = _mm512_add_epi32(x, _mm512_set1_epi32(q.x as i32));
    match M {
        L2SQ => keys_of_counts(x),
        // Products of signed bytes fit 31 bits. The integer is negated, because the negative of a float
        // zero would have another key.
        INNER_PRODUCT if E == I8 => ordered(_mm512_cvtepi32_ps(_mm512_sub_epi32(
            _mm512_setzero_si512(),
            x,
        ))),
        INNER_PRODUCT => keys_of_products(x),
        _ => {
            let y = _mm512_add_epi32(y, _mm512_set1_epi32(q.y as i32));
            if small {
                let [keys] = keys_of_small_cosines::<1, false>([x], [y], &q.norm);
                keys
            } else if E == I8 {
                keys_of_cosines::<true>(x, y, &q.norm)
            } else {
                keys_of_cosines::<false>(x, y, &q.norm)
            }
        }
    }
}

/// Lane sums A, B and C of the module's documentation for `N` rows, A with each of `Q` queries.
struct Sums<const Q: usize, const N: usize> {
    a: [[__m512i; N]; Q],
    b: [__m512i; N],
    c: [__m512i; N],
}

impl<const Q: usize, const N: usize> Sums<Q, N> {
    /// Lane sums X of row `k` and query `j`.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    fn x<const E: u32, const M: u32>(&self, j: usize, k: usize) -> __m512i {
        let (a, c) = (self.a[j][k], _mm512_slli_epi32::<7>(self.c[k]));
        if M == L2SQ {
            let twice = _mm512_add_epi32(a, a);
            _mm512_sub_epi32(_mm512_sub_epi32(self.b[k], c), twice)
        } else if E == I8 {
            a
        } else {
            _mm512_add_epi32(a, c)
        }
    }

    /// Lane sums Y of row `k`.
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    fn y<const E: u32>(&self, k: usize) -> __m512i {
        let c = _mm512_slli_epi32::<7>(self.c[k]);
        if E == I8 {
            _mm512_sub_epi32(self.b[k], c)
        } else {
            _mm512_add_epi32(self.b[k], c)
        }
    }
}

/// The lane sums that `M` and `E` need. The order of additions does not matter, they are exact. Prefetches
/// `ahead`, if `AHEAD`, at the same pace.
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
    bytes: Bytes,
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> Sums<Q, N> {
    let zero = _mm512_setzero_si512();
    // A product has a latency of four cycles: one row alone has two sums of a kind.
    let lines = if N == 1 { 2 } else { 1 };
    let (mut a, mut b, mut c) = ([[[zero; N]; Q]; 2], [[zero; N]; 2], [[zero; N]; 2]);
    let mut fetch = &ahead.near;
    let whole = dim - dim % (lines * WIDTH);
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i < whole {
            for g in 0..lines {
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
                        a[g][j][k] = byte_products::<E>(bytes, q0[j], r0, a[g][j][k]);
                    }
                    row_terms::<E, M>(bytes, r0, &mut b[g][k], &mut c[g][k]);
                }
                i += WIDTH;
            }
        }
        while i < dim {
            let mask = u64::MAX >> (WIDTH - usize::min(dim - i, WIDTH));
            let q0 = q.map(|q| _mm512_maskz_loadu_epi8(mask, q.add(i).cast()));
            for k in 0..N {
                let r0 = _mm512_maskz_loadu_epi8(mask, p[k].add(i).cast());
                for j in 0..Q {
                    a[0][j][k] = byte_products::<E>(bytes, q0[j], r0, a[0][j][k]);
                }
                row_terms::<E, M>(bytes, r0, &mut b[0][k], &mut c[0][k]);
            }
            i += WIDTH;
        }
    }
    let mut sums = Sums {
        a: a[0],
        b: b[0],
        c: c[0],
    };
    if lines == 2 {
        for k in 0..N {
            for j in 0..Q {
                sums.a[j][k] = _mm512_add_epi32(sums.a[j][k], a[1][j][k]);
            }
            sums.b[k] = _mm512_add_epi32(sums.b[k], b[1][k]);
            sums.c[k] = _mm512_add_epi32(sums.c[k], c[1][k]);
        }
    }
    sums
}

/// `a` plus the terms of 64 elements.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn byte_products<const E: u32>(bytes: Bytes, q: __m512i, r: __m512i, a: __m512i) -> __m512i {
    if E == I8 {
        _mm512_dpbusd_epi32(a, bytes.flip(r), q)
    } else {
        _mm512_dpbusd_epi32(a, r, bytes.flip(q))
    }
}

/// Adds the terms of 64 elements that do without the query.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn row_terms<const E: u32, const M: u32>(
    bytes: Bytes,
    r: __m512i,
    b: &mut __m512i,
    c: &mut __m512i,
) {
    let (signed, unsigned) = if E == I8 {
        (r, bytes.flip(r))
    } else {
        (bytes.flip(r), r)
    };
    if M != INNER_PRODUCT {
        *b = _mm512_dpbusd_epi32(*b, unsigned, signed);
    }
    if M != INNER_PRODUCT || E == U8 {
        *c = _mm512_dpbusd_epi32(*c, unsigned, bytes.one);
    }
}
