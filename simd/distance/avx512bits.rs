// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of bits with AVX-512 VPOPCNTDQ.

use core::arch::x86_64::*;

use super::avx512keys::{
    add_words, four_counts, keys_of_cosines, keys_of_counts, keys_of_products,
    keys_of_small_cosines, store, sum16_counts, sum_halves, sum_quarters, Norm,
};
use super::{Ahead, Rows, Strided, BLOCK_ROWS, COSINE, INNER_PRODUCT, L2SQ, ROW_LEAD, TILE};
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
        let mut norms = [Norm::NONE; Q];
        if M == COSINE {
            for (norm, q) in norms.iter_mut().zip(queries) {
                let [[s]] =
                    bit_sums::<INNER_PRODUCT, 1, 1, false>([q], [q], &Ahead::none(q), shape);
                *norm = Norm::new(_mm512_reduce_add_epi64(s) as u32);
            }
        }
        // Dimensions 128, 256, 384 and 768.
        if rows.are_packed(len) && dim.is_multiple_of(8) && matches!(len, 16 | 32 | 48 | 96) {
            for j in 0..Q {
                let (query, norm, row, out) = (queries[j], &norms[j], rows.row(0), out[j]);
                match len {
                    16 => packed::<16, M>(query, norm, row, shape, out, n),
                    32 => packed::<32, M>(query, norm, row, shape, out, n),
                    48 => packed::<48, M>(query, norm, row, shape, out, n),
                    _ => packed::<96, M>(query, norm, row, shape, out, n),
                }
            }
            return;
        }
        if Q == 1 && rows.are_dense(len) {
            in_order::<R, M, true>(queries[0], &norms[0], rows, shape, out[0], n);
        } else if Q == 1 {
            in_order::<R, M, false>(queries[0], &norms[0], rows, shape, out[0], n);
        } else {
            tiles::<R, M, Q>(queries, &norms, rows, shape, out, n);
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
    norm: &Norm,
    rows: R,
    shape: Bits,
    out: *mut u32,
    n: usize,
) {
    let zero = _mm512_setzero_si512();
    let (mut sums, mut first) = ([zero; BLOCK_ROWS], zero);
    // Rows that are listed are compared deep in a graph, where a kernel has less stack: two in one vector.
    let mut pairs = [zero; BLOCK_ROWS / 2];
    // Short rows take a cache line each.
    let lead = ROW_LEAD.div_ceil(usize::max(shape.len_bytes, 64));
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index of a row is less
    // than `n`, of a sum less than `BLOCK_ROWS`, and of a pair less than half of that.
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
                if DENSE {
                    *sums.as_mut_ptr().add(k) = s;
                } else if k % 2 == 0 {
                    first = s;
                } else {
                    *pairs.as_mut_ptr().add(k / 2) = two_rows::<M>(first, s);
                }
                k += 1;
            }
            let keys = if DENSE {
                bit_keys::<M>(&sums, norm)
            } else {
                if count % 2 == 1 {
                    *pairs.as_mut_ptr().add(count / 2) = two_rows::<M>(first, first);
                }
                pair_keys::<M>(pairs, norm)
            };
            store(out.add(i), keys, count);
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
    norms: &[Norm; Q],
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
                    cosines::<false>([sums, sum_quarters::<false>(rest)], &norms[j])
                } else {
                    count_keys::<M>(sums)
                };
                store(out[j].add(i), keys, count);
            }
            i += BLOCK_ROWS;
        }
    }
}

/// Keys of sixteen rows from the lane sums of `bit_sums`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn bit_keys<const M: u32>(sums: &[__m512i; BLOCK_ROWS], norm: &Norm) -> __m512i {
    if M != COSINE {
        return count_keys::<M>(sum16_counts(sums));
    }
    let half = |k: usize| sum_halves([0, 1, 2, 3, 4, 5, 6, 7].map(|i| sums[k + i]));
    cosines::<true>([half(0), half(8)], norm)
}

/// The lane sums of two rows from `bit_sums` in one vector.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn two_rows<const M: u32>(a: __m512i, b: __m512i) -> __m512i {
    if M == COSINE {
        add_words::<false>(a, b)
    } else {
        join(a, b)
    }
}

/// Keys of sixteen rows from the lane sums of `two_rows`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn pair_keys<const M: u32>(pairs: [__m512i; BLOCK_ROWS / 2], norm: &Norm) -> __m512i {
    let [a, b, c, d, e, f, g, h] = pairs;
    if M == COSINE {
        let halves = [[a, b, c, d], [e, f, g, h]];
        return cosines::<false>(halves.map(|v| sum_quarters::<false>(v)), norm);
    }
    let fours = [(a, b), (c, d), (e, f), (g, h)].map(|(a, b)| add_words::<false>(a, b));
    count_keys::<M>(sum_quarters::<false>(fours))
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

/// Keys of sixteen rows from a 64-bit word of each, common bits below and the row's above.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn cosines<const DENSE: bool>([a, b]: [__m512i; 2], norm: &Norm) -> __m512i {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    let qr = _mm512_permutex2var_epi32(a, even, b);
    let rr = _mm512_permutex2var_epi32(a, odd, b);
    if !DENSE {
        // Not inlined, for a kernel's stack.
        return keys_of_cosines::<true>(qr, rr, norm);
    }
    let [keys] = keys_of_small_cosines::<1, false>([qr], [rr], norm);
    keys
}

/// 64-bit words of two counts, of words of which each holds one.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn join(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_shuffle_epi32::<0b10_10_00_00>(low, 0xaaaa, high)
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
            for j in 0..Q {
                sums[j][k] = join(sums[j][k], rr[k]);
            }
        }
    }
    sums
}

/// Keys for bit vectors of `LEN` bytes without gaps, 16, 32, 48 or 96, sixteen at a time: a register holds several,
/// or parts of two.
///
/// # Safety
///
/// `LEN` bytes are readable at `query`, `n * LEN` at `rows`; `out` is writable for `n` elements.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn packed<const LEN: usize, const M: u32>(
    query: *const u8,
    norm: &Norm,
    rows: *const u8,
    shape: Bits,
    out: *mut u32,
    n: usize,
) {
    // Of four rows, which `four_rows` takes to one quarter each: the sixteen of as many such registers.
    let order = if LEN == 48 {
        _mm512_setr_epi32(0, 12, 8, 4, 1, 13, 9, 5, 2, 14, 10, 6, 3, 15, 11, 7)
    } else {
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
    };
    // SAFETY: quarters below end at byte `LEN` of the query, other loads and stores at row `n`.
    unsafe {
        // Three registers begin with the query and end with it.
        let quarter = |i: usize| _mm_loadu_si128(query.add(16 * i % LEN).cast());
        let pattern = [0, 4, 8].map(|i| {
            let v = _mm512_castsi128_si512(quarter(i));
            let v = _mm512_inserti32x4::<1>(v, quarter(i + 1));
            let v = _mm512_inserti32x4::<2>(v, quarter(i + 2));
            _mm512_inserti32x4::<3>(v, quarter(i + 3))
        });
        let mut i = 0;
        // The arithmetic of cosines is a long chain for each block.
        while M == COSINE && n - i >= 4 * BLOCK_ROWS {
            packed_blocks::<4, LEN, M>(&pattern, norm, rows.add(i * LEN), order, out.add(i));
            i += 4 * BLOCK_ROWS;
        }
        while n - i >= BLOCK_ROWS {
            packed_blocks::<1, LEN, M>(&pattern, norm, rows.add(i * LEN), order, out.add(i));
            i += BLOCK_ROWS;
        }
        if i < n {
            let (base, stride) = (rows.add(i * LEN), LEN);
            in_order::<_, M, true>(
                query,
                norm,
                Strided { base, stride },
                shape,
                out.add(i),
                n - i,
            );
        }
    }
}

/// Keys of `N` blocks of rows of `LEN` bytes. `pattern` is the query again and again, `order` that of rows among those
/// of `four_rows`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
unsafe fn packed_blocks<const N: usize, const LEN: usize, const M: u32>(
    pattern: &[__m512i; 3],
    norm: &Norm,
    rows: *const u8,
    order: __m512i,
    out: *mut u32,
) {
    let zero = _mm512_setzero_si512();
    let (mut counts, mut rr) = ([zero; N], [zero; N]);
    for block in 0..N {
        let fours = [0, 1, 2, 3].map(|g| {
            four_rows::<LEN>(|k| {
                // SAFETY: the caller promises `N` blocks of rows; prefetches do not fault.
                unsafe {
                    let p = rows.add((block * LEN / 4 + g * LEN / 16 + k) * WIDTH);
                    // A line takes less time here than elsewhere. Of the shortest rows so little that the
                    // processor's own prefetcher is enough.
                    if LEN != 16 || M == COSINE {
                        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(2 * ROW_LEAD).cast());
                    }
                    words::<M>(pattern[k % 3], _mm512_loadu_si512(p.cast()))
                }
            })
        });
        [counts[block], rr[block]] = sixteen::<M>(fours);
    }
    let keys = if M == COSINE {
        // Products of squares are at most 768 * 768.
        keys_of_small_cosines::<N, true>(counts, rr, norm)
    } else {
        counts.map(|v| count_keys::<M>(v))
    };
    for block in 0..N {
        let keys = _mm512_permutexvar_epi32(order, keys[block]);
        // SAFETY: the caller has room for the keys of `N` blocks.
        unsafe { _mm512_storeu_si512(out.add(block * BLOCK_ROWS).cast(), keys) }
    }
}

/// Counts of bits of each 64-bit word, as `bit_sums` has them.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn words<const M: u32>(q: __m512i, r: __m512i) -> __m512i {
    match M {
        L2SQ => _mm512_popcnt_epi64(_mm512_xor_si512(q, r)),
        INNER_PRODUCT => _mm512_popcnt_epi64(_mm512_and_si512(q, r)),
        _ => join(
            _mm512_popcnt_epi64(_mm512_and_si512(q, r)),
            _mm512_popcnt_epi64(r),
        ),
    }
}

/// In each quarter the two halves of the sum of one of four rows of `LEN` bytes, from the counts of their registers.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn four_rows<const LEN: usize>(counts: impl Fn(usize) -> __m512i) -> __m512i {
    // From quarters 0 and 1, and 2 and 3, of two registers.
    let halves = |a, b| {
        _mm512_add_epi32(
            _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b),
        )
    };
    match LEN {
        16 => counts(0),
        32 => halves(counts(0), counts(1)),
        48 => {
            // Row 0 is in quarters 0 to 2 of the first register, row 1 in 3 and then 0 and 1, and so on. A row has no
            // quarter twice, so each of these is of rows 0, 3, 2 and 1, but begins elsewhere among them.
            let (a, b, c) = (counts(0), counts(1), counts(2));
            let pick = |a, b, c| {
                let v = _mm512_mask_blend_epi64(0b0000_1100, a, b);
                _mm512_mask_blend_epi64(0b0011_0000, v, c)
            };
            let (u, v, w) = (pick(a, c, b), pick(b, a, c), pick(c, b, a));
            let v = _mm512_shuffle_i64x2::<0b00_11_10_01>(v, v);
            let w = _mm512_shuffle_i64x2::<0b01_00_11_10>(w, w);
            _mm512_add_epi32(u, _mm512_add_epi32(v, w))
        }
        _ => {
            // Two rows of one register and a half, first to two quarters each.
            let two = |k: usize| {
                let (a, b, c) = (counts(k), counts(k + 1), counts(k + 2));
                let ends = _mm512_add_epi32(
                    _mm512_shuffle_i64x2::<0b01_00_01_00>(a, c),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(a, c),
                );
                _mm512_add_epi32(ends, b)
            };
            halves(two(0), two(3))
        }
    }
}

/// Counts of sixteen rows from the sums of `four_rows`, those of the first quarters, then of the second ones, and so on;
/// for `COSINE` and of the row's bits.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn sixteen<const M: u32>([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
    if M == COSINE {
        let (x, y) = (add_words::<false>(a, c), add_words::<false>(b, d));
        let rr = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(y, 0x5555, x);
        [join(x, y), rr]
    } else {
        [add_words::<false>(join(a, b), join(c, d)); 2]
    }
}
