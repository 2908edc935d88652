// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of bits with AVX-512 VPOPCNTDQ.

use core::arch::x86_64::*;

use super::avx512keys::{keys_of_cosines, keys_of_counts, keys_of_products, store, sum_quarters};
use super::{Ahead, Rows, COSINE, INNER_PRODUCT, L2SQ, TILE};
use crate::abi::Elem;

/// Bytes of one register.
const WIDTH: usize = 64;

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
