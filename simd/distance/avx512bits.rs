// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of bits with AVX-512 VPOPCNTDQ.

use core::arch::x86_64::*;

use super::avx512keys::{
    add_words, four_counts, keys_of_cosines, keys_of_counts, keys_of_products, store, sum16_counts,
    sum_halves, sum_quarters,
};
use super::{Ahead, Rows, BLOCK_ROWS, COSINE, INNER_PRODUCT, L2SQ, ROW_LEAD, TILE};
use crate::abi::Elem;

/// Bytes of one register.
const WIDTH: usize = 64;

/// Keys for bit vectors. Not inlined: its frame is not on the stack of the others.
#[inline(never)]
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
    let len = shape.len_bytes;
    // SAFETY: rows without gaps begin at the first; otherwise the caller's promises are those of each.
    unsafe {
        let mut qq = [(0, 0.0); Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                let [[s]] =
                    bit_sums::<INNER_PRODUCT, 1, 1, false>([q], [q], &Ahead::none(q), shape);
                let s = _mm512_reduce_add_epi64(s) as u32;
                *qq = (s, crate::math::sqrt(s as f64));
            }
        }
        if rows.are_packed(len) && dim.is_multiple_of(8) && (len == 16 || len == 32 && M != COSINE)
        {
            for j in 0..Q {
                if len == 16 {
                    short_bits::<16, M>(queries[j], qq[j], rows.row(0), out[j], n);
                } else {
                    short_bits::<32, M>(queries[j], qq[j], rows.row(0), out[j], n);
                }
            }
            return;
        }
        if Q == 1 && rows.are_dense(len) {
            in_order::<R, M, true>(queries[0], qq[0], rows, shape, out[0], n);
        } else if Q == 1 {
            in_order::<R, M, false>(queries[0], qq[0], rows, shape, out[0], n);
        } else {
            tiles::<R, M, Q>(queries, qq, rows, shape, out, n);
        }
    }
}

/// Keys for one query and rows that are read one after the other, for the reasons and in the way of
/// `avx512.rs`.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn in_order<R: Rows, const M: u32, const DENSE: bool>(
    query: *const u8,
    qq: (u32, f64),
    rows: R,
    shape: Bits,
    out: *mut u32,
    n: usize,
) {
    let mut sums = [_mm512_setzero_si512(); BLOCK_ROWS];
    // Short rows take a cache line each.
    let lead = ROW_LEAD.div_ceil(usize::max(shape.len_bytes, 64));
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index of a row is less
    // than `n`, and of a sum less than `BLOCK_ROWS`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut k = 0;
            while k < count {
                let p = rows.row(i + k);
                let ahead = if DENSE {
                    Ahead::linear(p, shape.len_bytes)
                } else {
                    Ahead::row(lead, rows, i + k, n)
                };
                let [[s]] = bit_sums::<M, 1, 1, true>([query], [p], &ahead, shape);
                *sums.as_mut_ptr().add(k) = s;
                k += 1;
            }
            store(out.add(i), bit_keys::<M>(&sums, qq), count);
            i += BLOCK_ROWS;
        }
    }
}

/// Keys for several queries, four rows at a time.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn tiles<R: Rows, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    qq: [(u32, f64); Q],
    rows: R,
    shape: Bits,
    out: [*mut u32; Q],
    n: usize,
) {
    // Of each tile the sums of `add_words`, or else of `four_counts`.
    let mut parts = [[_mm512_setzero_si512(); BLOCK_ROWS / 2]; Q];
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every index of a
    // row is less than `n`, and of a part less than `BLOCK_ROWS` / 2: `at` is a multiple of `TILE` below `BLOCK_ROWS`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut at = 0;
            while at < count {
                // The last tile repeats its last row.
                let row = |k: usize| rows.row(i + if at + k < count { at + k } else { count - 1 });
                let p = [row(0), row(1), row(2), row(3)];
                let ahead = Ahead::tile(rows, i + at, n, shape.len_bytes);
                let tile = bit_sums::<M, Q, TILE, true>(queries, p, &ahead, shape);
                for (part, [t, u, v, w]) in parts.iter_mut().zip(tile) {
                    let part = part.as_mut_ptr();
                    if M == COSINE {
                        *part.add(at / 2) = add_words::<false>(t, u);
                        *part.add(at / 2 + 1) = add_words::<false>(v, w);
                    } else {
                        *part.add(at / 4) = four_counts([t, u, v, w]);
                    }
                }
                at += TILE;
            }
            for j in 0..Q {
                let [s, t, u, v, rest @ ..] = parts[j];
                let sums = sum_quarters::<false>([s, t, u, v]);
                let keys = if M == COSINE {
                    cosines([sums, sum_quarters::<false>(rest)], qq[j])
                } else {
                    count_keys::<M>(sums)
                };
                store(out[j].add(i), keys, count);
            }
            i += BLOCK_ROWS;
        }
    }
}

/// Keys of sixteen rows from the lane sums of `bit_sums`; `qq` are the query's bits and their root.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn bit_keys<const M: u32>(sums: &[__m512i; BLOCK_ROWS], qq: (u32, f64)) -> __m512i {
    if M != COSINE {
        return count_keys::<M>(sum16_counts(sums));
    }
    let half = |k: usize| sum_halves::<false>([0, 1, 2, 3, 4, 5, 6, 7].map(|i| sums[k + i]));
    cosines([half(0), half(8)], qq)
}

/// Keys of sixteen counts of bits that differ or are common.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn count_keys<const M: u32>(counts: __m512i) -> __m512i {
    if M == L2SQ {
        keys_of_counts(counts)
    } else {
        keys_of_products(counts)
    }
}

/// Keys of sixteen rows from a 64-bit word of each, common bits below and the row's above; `qq` are the query's
/// bits and their root.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn cosines(words: [__m512i; 2], qq: (u32, f64)) -> __m512i {
    let qr = words.map(|v| _mm512_cvtepu64_pd(_mm512_and_si512(v, _mm512_set1_epi64(0xffff_ffff))));
    let rr = words.map(|v| _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(v)));
    keys_of_cosines(qr, rr, qq.0, qq.1)
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

/// Lane sums for `N` rows and each of `Q` queries, in 64-bit words: of bits that differ or are common, and for
/// `COSINE` above them in the same words of the row's bits. Prefetches `ahead`, if `AHEAD`, at the same pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn bit_sums<const M: u32, const Q: usize, const N: usize, const AHEAD: bool>(
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    shape: Bits,
) -> [[__m512i; N]; Q] {
    let zero = _mm512_setzero_si512();
    let (mut sums, mut rr) = ([[zero; N]; Q], [zero; N]);
    let mut fetch = &ahead.near;
    let last = (shape.len_bytes - 1) / WIDTH * WIDTH;
    // SAFETY: each load ends at or before the last byte, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        let mut add = |i: usize, q: [__m512i; Q], p: [__m512i; N]| {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            for k in 0..N {
                if AHEAD {
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                }
                for j in 0..Q {
                    let term = if M == L2SQ {
                        _mm512_xor_si512(q[j], p[k])
                    } else {
                        _mm512_and_si512(q[j], p[k])
                    };
                    sums[j][k] = _mm512_add_epi64(sums[j][k], _mm512_popcnt_epi64(term));
                }
                if M == COSINE {
                    rr[k] = _mm512_add_epi64(rr[k], _mm512_popcnt_epi64(p[k]));
                }
            }
        };
        let mut i = 0;
        while i < last {
            let take = |p: *const u8| _mm512_loadu_si512(p.add(i).cast());
            add(i, q.map(take), p.map(take));
            i += WIDTH;
        }
        let take = |p: *const u8| {
            let v = _mm512_maskz_loadu_epi8(shape.mask, p.add(i).cast());
            _mm512_and_si512(v, shape.counts)
        };
        add(i, q.map(take), p.map(take));
    }
    if M == COSINE {
        for k in 0..N {
            let rr = _mm512_slli_epi64::<32>(rr[k]);
            for j in 0..Q {
                sums[j][k] = _mm512_or_si512(sums[j][k], rr);
            }
        }
    }
    sums
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
    qq: (u32, f64),
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
            let keys = short_keys::<LEN, M>(q, qq, parts, order);
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
            let keys = short_keys::<LEN, M>(q, qq, parts, order);
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
    qq: (u32, f64),
    parts: [__m512i; 4],
    order: __m512i,
) -> __m512i {
    if M == COSINE {
        // As from `bit_sums`, of rows of 16 bytes.
        let words = parts.map(|r| {
            let qr = _mm512_popcnt_epi64(_mm512_and_si512(q, r));
            _mm512_or_si512(qr, _mm512_slli_epi64::<32>(_mm512_popcnt_epi64(r)))
        });
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        let eight = |a, b| {
            let (low, high) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            _mm512_permutexvar_epi64(order, _mm512_add_epi32(low, high))
        };
        return cosines([eight(words[0], words[1]), eight(words[2], words[3])], qq);
    }
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
