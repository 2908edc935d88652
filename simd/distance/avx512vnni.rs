// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of integers and bits with AVX-512 VNNI and VPOPCNTDQ; floats are those of `avx512.rs`.
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

/// The sums of the lanes of four vectors, modulo 2^32.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn sum4(v: [__m512i; TILE]) -> __m128i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (pair(v[0], v[1]), pair(v[2], v[3]));
    sum_quarters(_mm512_add_epi32(
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    ))
}

/// The sum of the four quarters of a vector.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn sum_quarters(v: __m512i) -> __m128i {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}

/// The nearest floats to four unsigned integers.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn unsigned_to_float(v: __m128i) -> __m128 {
    // There is no intrinsic for less than a whole register.
    _mm512_castps512_ps128(_mm512_cvtepu32_ps(_mm512_zextsi128_si512(v)))
}

/// Keys of distances that are unsigned integers.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn keys_of_counts(v: __m128i) -> __m128i {
    let bits = _mm_castps_si128(unsigned_to_float(v));
    _mm_xor_si128(bits, _mm_set1_epi32(i32::MIN))
}

/// Keys of the negatives of unsigned products.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn keys_of_products(v: __m128i) -> __m128i {
    ordered(_mm_sub_ps(_mm_setzero_ps(), unsigned_to_float(v)))
}

/// Keys of 1 - `qr` / sqrt(`qq` `rr`), in the operations of the portable code; `root` is that of `qq`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn keys_of_cosines(qr: __m256d, rr: __m128i, qq: u32, root: f64) -> __m128i {
    let one = _mm256_set1_pd(1.0);
    let rr = _mm256_cvtepu32_pd(rr);
    let norms = _mm256_mul_pd(_mm256_set1_pd(root), _mm256_sqrt_pd(rr));
    let distance = _mm256_sub_pd(one, _mm256_div_pd(qr, norms));
    let distance = _mm256_max_pd(distance, _mm256_setzero_pd());
    let distance = _mm256_min_pd(distance, _mm256_set1_pd(2.0));
    let zero = if qq == 0 {
        0xf
    } else {
        _mm256_cmp_pd_mask::<_CMP_EQ_OQ>(rr, _mm256_setzero_pd())
    };
    ordered(_mm256_cvtpd_ps(_mm256_mask_mov_pd(distance, zero, one)))
}

/// The order-preserving images of four floats.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn ordered(v: __m128) -> __m128i {
    // Negative numbers are complemented, others get the sign bit.
    let bits = _mm_castps_si128(v);
    let flip = _mm_or_si128(_mm_srai_epi32::<31>(bits), _mm_set1_epi32(i32::MIN));
    _mm_xor_si128(bits, flip)
}

/// Writes the first `count` keys, 1 to 4.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn store(out: *mut u32, keys: __m128i, count: usize) {
    // SAFETY: the caller has room for `count` keys, and masked ones are not written.
    unsafe { _mm_mask_storeu_epi32(out.cast(), 0xf >> (TILE - count), keys) }
}

/// Keys for bit vectors.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) unsafe fn bits<R: Rows, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let shape = Bits::new(dim);
    if M != COSINE && rows.are_packed(shape.len_bytes) && dim.is_multiple_of(8) {
        let len = shape.len_bytes;
        if len == 16 || len == 32 {
            for (query, out) in queries.into_iter().zip(out) {
                // SAFETY: rows without gaps begin at the first; otherwise as promised by the caller.
                unsafe {
                    if len == 16 {
                        short_bits::<16, M>(query, rows.row(0), out, n);
                    } else {
                        short_bits::<32, M>(query, rows.row(0), out, n);
                    }
                }
            }
            return;
        }
    }
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every
    // index below is less than `n`.
    unsafe {
        let mut qq = [0u32; Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                let (_, [s]) = bit_sums::<M, 1, 1, false>([q], [q], &Ahead::none(q), shape);
                *qq = _mm512_reduce_add_epi64(s) as u32;
            }
        }
        let root = qq.map(|qq| crate::math::sqrt(qq as f64));
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let ahead = Ahead::tile(rows, i, n, shape.len_bytes);
            let (dot, rr) = bit_sums::<M, Q, TILE, true>(queries, p, &ahead, shape);
            let rr = sum4_words(rr);
            for j in 0..Q {
                let dot = sum4_words(dot[j]);
                let keys = match M {
                    L2SQ => keys_of_counts(dot),
                    INNER_PRODUCT => keys_of_products(dot),
                    _ => keys_of_cosines(_mm256_cvtepu32_pd(dot), rr, qq[j], root[j]),
                };
                store(out[j].add(i), keys, count);
            }
            i += TILE;
        }
    }
}

/// How a vector of bits ends.
#[derive(Clone, Copy)]
struct Bits {
    len_bytes: usize,
    /// The bytes of its last register that are there.
    mask: u64,
    /// The bits of them that count.
    counts: __m512i,
}

impl Bits {
    #[inline]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
    )]
    fn new(dim: usize) -> Self {
        let len_bytes = Elem::Binary.row_bytes(dim);
        let last = (len_bytes - 1) % WIDTH;
        let last_byte = 0xff_u8 >> (len_bytes * 8 - dim);
        Bits {
            len_bytes,
            mask: u64::MAX >> (WIDTH - 1 - last),
            counts: _mm512_mask_set1_epi8(_mm512_set1_epi8(-1), 1 << last, last_byte as i8),
        }
    }
}

/// Lane sums for `N` rows: of bits that differ from each of `Q` queries or are common, and for `COSINE` of the
/// row's. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn bit_sums<const M: u32, const Q: usize, const N: usize, const AHEAD: bool>(
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    shape: Bits,
) -> ([[__m512i; N]; Q], [__m512i; N]) {
    let zero = _mm512_setzero_si512();
    let (mut dot, mut rr) = ([[zero; N]; Q], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before the last byte, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        loop {
            let is_last = i + WIDTH >= shape.len_bytes;
            let take = |p: *const u8| {
                if is_last {
                    let v = _mm512_maskz_loadu_epi8(shape.mask, p.add(i).cast());
                    _mm512_and_si512(v, shape.counts)
                } else {
                    _mm512_loadu_si512(p.add(i).cast())
                }
            };
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = q.map(take);
            for k in 0..N {
                if AHEAD {
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                }
                let r0 = take(p[k]);
                for j in 0..Q {
                    let term = if M == L2SQ {
                        _mm512_xor_si512(q0[j], r0)
                    } else {
                        _mm512_and_si512(q0[j], r0)
                    };
                    dot[j][k] = _mm512_add_epi64(dot[j][k], _mm512_popcnt_epi64(term));
                }
                if M == COSINE {
                    rr[k] = _mm512_add_epi64(rr[k], _mm512_popcnt_epi64(r0));
                }
            }
            if is_last {
                break;
            }
            i += WIDTH;
        }
    }
    (dot, rr)
}

/// The sums of the lanes of four vectors of 64-bit words, whose sums fit 32 bits.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn sum4_words(v: [__m512i; TILE]) -> __m128i {
    let pair = |a, b| _mm512_or_si512(a, _mm512_slli_epi64::<32>(b));
    let (low, high) = (pair(v[0], v[1]), pair(v[2], v[3]));
    sum_quarters(_mm512_add_epi32(
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    ))
}

/// Keys for bit vectors of `LEN` bytes, 16 or 32, without gaps, of which a register holds several.
///
/// # Safety
///
/// `LEN` bytes are readable at `query`, `n * LEN` at `rows`; `out` is writable for `n` elements.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn short_bits<const LEN: usize, const M: u32>(
    query: *const u8,
    rows: *const u8,
    out: *mut u32,
    n: usize,
) {
    // Sums come out with those of one register apart from each other by four.
    let order = if LEN == 16 {
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
    } else {
        _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0)
    };
    // SAFETY: loads and stores below end at row `n`; masked lanes are not touched.
    unsafe {
        let q = if LEN == 16 {
            _mm512_broadcast_i32x4(_mm_loadu_si128(query.cast()))
        } else {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(query.cast()))
        };
        let at_once = 4 * WIDTH / LEN;
        let mut i = 0;
        while n - i >= at_once {
            let p = rows.add(i * LEN);
            let parts = [0, 1, 2, 3].map(|k| _mm512_loadu_si512(p.add(k * WIDTH).cast()));
            let keys = short_keys::<LEN, M>(q, parts, order);
            if LEN == 16 {
                _mm512_storeu_si512(out.add(i).cast(), keys);
            } else {
                _mm256_storeu_si256(out.add(i).cast(), _mm512_castsi512_si256(keys));
            }
            i += at_once;
        }
        if i < n {
            let p = rows.add(i * LEN);
            let parts = [0, 1, 2, 3].map(|k| {
                let left = ((n - i) * LEN).saturating_sub(k * WIDTH);
                let mask = if left < WIDTH {
                    (1 << left) - 1
                } else {
                    u64::MAX
                };
                _mm512_maskz_loadu_epi8(mask, p.wrapping_add(k * WIDTH).cast())
            });
            let keys = short_keys::<LEN, M>(q, parts, order);
            let mask = (0xffff_u32 >> (16 - (n - i))) as __mmask16;
            _mm512_mask_storeu_epi32(out.add(i).cast(), mask, keys);
        }
    }
}

/// Keys for the rows of four registers, which are `LEN` bytes each.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn short_keys<const LEN: usize, const M: u32>(
    q: __m512i,
    parts: [__m512i; 4],
    order: __m512i,
) -> __m512i {
    let parts = parts.map(|r| {
        let term = if M == L2SQ {
            _mm512_xor_si512(q, r)
        } else {
            _mm512_and_si512(q, r)
        };
        _mm512_popcnt_epi64(term)
    });
    let pair = |a, b| _mm512_or_si512(a, _mm512_slli_epi64::<32>(b));
    let (low, high) = (pair(parts[0], parts[1]), pair(parts[2], parts[3]));
    let mut sums = _mm512_add_epi32(
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    );
    if LEN == 32 {
        sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2::<0b10_11_00_01>(sums, sums));
    }
    let counts = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(order, sums));
    let sign = _mm512_set1_epi32(i32::MIN);
    if M == L2SQ {
        _mm512_xor_si512(_mm512_castps_si512(counts), sign)
    } else {
        // As `ordered`: what is not negative gets the sign bit, the rest is complemented.
        let bits = _mm512_castps_si512(_mm512_sub_ps(_mm512_setzero_ps(), counts));
        _mm512_xor_si512(bits, _mm512_or_si512(_mm512_srai_epi32::<31>(bits), sign))
    }
}
