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
use super::{Ahead, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8};
use crate::abi::{Elem, Metric};

/// Bytes of one register.
const WIDTH: usize = 64;

/// As [`super::score`], with AVX-512 VNNI and VPOPCNTDQ.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
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

/// Keys for byte elements of type `E`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) unsafe fn bytes<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let [q] = byte_sums::<E, COSINE, 1>(query, [query], &Ahead::none(query), dim);
        let q = Sums {
            a: _mm_cvtsi128_si32(sum4([q.a; TILE])),
            b: _mm_cvtsi128_si32(sum4([q.b; TILE])),
            c: _mm_cvtsi128_si32(sum4([q.c; TILE])),
        };
        let padded = if E == I8 {
            dim.next_multiple_of(WIDTH)
        } else {
            dim
        } as i32;
        let q_sum = q.c.wrapping_sub(padded.wrapping_mul(128));
        let signed_qq = q.b.wrapping_sub(q_sum.wrapping_mul(128));
        let qq = if E == I8 {
            signed_qq as u32
        } else {
            q.b.wrapping_add(q.c.wrapping_mul(128)) as u32
        };
        let root = crate::math::sqrt(qq as f64);
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let s = byte_sums::<E, M, TILE>(query, p, &Ahead::tile(rows, i, n, dim), dim);
            let a = sum4([s[0].a, s[1].a, s[2].a, s[3].a]);
            let (mut b, mut c) = (a, a);
            if M != INNER_PRODUCT {
                b = sum4([s[0].b, s[1].b, s[2].b, s[3].b]);
            }
            if M != INNER_PRODUCT || E == U8 {
                c = sum4([s[0].c, s[1].c, s[2].c, s[3].c]);
            }
            let scale = |v| _mm_slli_epi32::<7>(v);
            let keys = if M == L2SQ {
                let r_sum = _mm_sub_epi32(c, _mm_set1_epi32(padded.wrapping_mul(128)));
                let rr = _mm_sub_epi32(b, scale(r_sum));
                let qr = _mm_sub_epi32(a, _mm_set1_epi32(q_sum.wrapping_mul(128)));
                let squares = _mm_add_epi32(rr, _mm_set1_epi32(signed_qq));
                keys_of_counts(_mm_sub_epi32(squares, _mm_slli_epi32::<1>(qr)))
            } else if E == I8 {
                let qr = _mm_sub_epi32(a, _mm_set1_epi32(q_sum.wrapping_mul(128)));
                if M == INNER_PRODUCT {
                    // Products of signed bytes fit 31 bits; the negative of a float zero would
                    // be another key.
                    let negated = _mm_sub_epi32(_mm_setzero_si128(), qr);
                    ordered(_mm_cvtepi32_ps(negated))
                } else {
                    let r_sum = _mm_sub_epi32(c, _mm_set1_epi32(padded.wrapping_mul(128)));
                    let rr = _mm_sub_epi32(b, scale(r_sum));
                    keys_of_cosines(_mm256_cvtepi32_pd(qr), rr, qq, root)
                }
            } else {
                let qr = _mm_add_epi32(a, scale(c));
                if M == INNER_PRODUCT {
                    keys_of_products(qr)
                } else {
                    let rr = _mm_add_epi32(b, scale(c));
                    keys_of_cosines(_mm256_cvtepu32_pd(qr), rr, qq, root)
                }
            };
            store(out.add(i), keys, count);
            i += TILE;
        }
    }
}

/// The sums of the module's documentation, of one row.
#[derive(Clone, Copy)]
struct Sums<T> {
    a: T,
    b: T,
    c: T,
}

/// Lane sums for `N` rows, of those that `M` and `E` need. The order of additions does not matter,
/// they are exact. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn byte_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> [Sums<__m512i>; N] {
    let zero = _mm512_setzero_si512();
    let mut sums = [Sums {
        a: zero,
        b: zero,
        c: zero,
    }; N];
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i + WIDTH <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = _mm512_loadu_si512(q.add(i).cast());
            for k in 0..N {
                _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                let r0 = _mm512_loadu_si512(p[k].add(i).cast());
                byte_terms::<E, M>(q0, r0, &mut sums[k]);
            }
            i += WIDTH;
        }
        if i < dim {
            let mask = u64::MAX >> (WIDTH - (dim - i));
            let q0 = _mm512_maskz_loadu_epi8(mask, q.add(i).cast());
            for k in 0..N {
                let r0 = _mm512_maskz_loadu_epi8(mask, p[k].add(i).cast());
                byte_terms::<E, M>(q0, r0, &mut sums[k]);
            }
        }
    }
    sums
}

/// Adds the terms of 64 elements.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn byte_terms<const E: u32, const M: u32>(q: __m512i, r: __m512i, sums: &mut Sums<__m512i>) {
    let flip = |v| _mm512_xor_si512(v, _mm512_set1_epi8(-128));
    let (q, signed, unsigned) = if E == I8 {
        (q, r, flip(r))
    } else {
        (flip(q), flip(r), r)
    };
    sums.a = _mm512_dpbusd_epi32(sums.a, unsigned, q);
    if M != INNER_PRODUCT {
        sums.b = _mm512_dpbusd_epi32(sums.b, unsigned, signed);
    }
    if M != INNER_PRODUCT || E == U8 {
        sums.c = _mm512_dpbusd_epi32(sums.c, unsigned, _mm512_set1_epi8(1));
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
pub(super) unsafe fn bits<R: Rows, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let len_bytes = Elem::Binary.row_bytes(dim);
    // Bytes of the last register, and which bits of them count.
    let last = (len_bytes - 1) % WIDTH;
    let mask = u64::MAX >> (WIDTH - 1 - last);
    let last_byte = 0xff_u8 >> (len_bytes * 8 - dim);
    let counts = _mm512_mask_set1_epi8(_mm512_set1_epi8(-1), 1 << last, last_byte as i8);
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let mut qq = 0;
        if M == COSINE {
            let [(_, q)] =
                bit_sums::<M, 1>(query, [query], &Ahead::none(query), len_bytes, mask, counts);
            qq = _mm512_reduce_add_epi64(q) as u32;
        }
        let root = crate::math::sqrt(qq as f64);
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let ahead = Ahead::tile(rows, i, n, len_bytes);
            let s = bit_sums::<M, TILE>(query, p, &ahead, len_bytes, mask, counts);
            let dot = sum4_words([s[0].0, s[1].0, s[2].0, s[3].0]);
            let keys = match M {
                L2SQ => keys_of_counts(dot),
                INNER_PRODUCT => keys_of_products(dot),
                _ => {
                    let rr = sum4_words([s[0].1, s[1].1, s[2].1, s[3].1]);
                    keys_of_cosines(_mm256_cvtepu32_pd(dot), rr, qq, root)
                }
            };
            store(out.add(i), keys, count);
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows: of differing or common bits, and for `COSINE` of the row's. `mask` says which
/// bytes of the last register are there, `counts` which of their bits count.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn bit_sums<const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    len_bytes: usize,
    mask: u64,
    counts: __m512i,
) -> [(__m512i, __m512i); N] {
    let zero = _mm512_setzero_si512();
    let mut sums = [(zero, zero); N];
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before byte `len_bytes`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i + WIDTH < len_bytes {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = _mm512_loadu_si512(q.add(i).cast());
            for k in 0..N {
                _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                let r0 = _mm512_loadu_si512(p[k].add(i).cast());
                bit_terms::<M>(q0, r0, &mut sums[k]);
            }
            i += WIDTH;
        }
        if i >= ahead.cut {
            fetch = &ahead.far;
        }
        let q0 = _mm512_maskz_loadu_epi8(mask, q.add(i).cast());
        let q0 = _mm512_and_si512(q0, counts);
        for k in 0..N {
            _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
            let r0 = _mm512_maskz_loadu_epi8(mask, p[k].add(i).cast());
            bit_terms::<M>(q0, _mm512_and_si512(r0, counts), &mut sums[k]);
        }
    }
    sums
}

/// Adds the counts of 512 bits.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn bit_terms<const M: u32>(q: __m512i, r: __m512i, (dot, rr): &mut (__m512i, __m512i)) {
    let term = if M == L2SQ {
        _mm512_xor_si512(q, r)
    } else {
        _mm512_and_si512(q, r)
    };
    *dot = _mm512_add_epi64(*dot, _mm512_popcnt_epi64(term));
    if M == COSINE {
        *rr = _mm512_add_epi64(*rr, _mm512_popcnt_epi64(r));
    }
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
