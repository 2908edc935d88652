// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances with AVX2, FMA, F16C and POPCNT.
//!
//! Four rows share each load of the query.

use core::arch::x86_64::*;

use super::{
    bit_lead, scalar, Ahead, Kind, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8,
};
use crate::abi::{Elem, Metric};

/// Elements per block: bounds the chain of roundings in one lane.
const BLOCK: usize = 512;

/// `MASK[8 - n..]` selects the first `n` of eight lanes.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// As [`super::score`], with AVX2.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
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
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
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
            let (_, [qq]) = float_sums::<E, M, 1>(query, [query], &Ahead::none(query), dim);
            _mm_cvtss_f32(sum4(qq, qq, qq, qq))
        } else {
            1.0
        };
        let len_bytes = dim * if E == F32 { 4 } else { 2 };
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b) = if count == 1 {
                let ([a], [b]) = float_sums::<E, M, 1>(query, [p[0]], &Ahead::none(p[0]), dim);
                ([a; TILE], [b; TILE])
            } else {
                let ahead = Ahead::tile(rows, i, n, len_bytes);
                float_sums::<E, M, TILE>(query, p, &ahead, dim)
            };
            let (keys, good) = float_keys::<M>(
                sum4(a[0], a[1], a[2], a[3]),
                sum4(b[0], b[1], b[2], b[3]),
                qq,
            );
            if count == TILE && good == 0xf {
                _mm_storeu_si128(out.add(i).cast(), keys);
            } else {
                let mut some = [0u32; TILE];
                _mm_storeu_si128(some.as_mut_ptr().cast(), keys);
                for k in 0..count {
                    *out.add(i + k) = if good >> k & 1 != 0 {
                        some[k]
                    } else {
                        scalar::float_key::<E, M>(query, p[k], dim)
                    };
                }
            }
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. Each row has two independent sums, one of each kind or two of one kind: with four rows
/// that is eight, the product of two multiply-add units and a latency of four cycles. The order of
/// additions is the same for any `N`. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn float_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([__m256; N], [__m256; N]) {
    let zero = _mm256_setzero_ps();
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let (mut block_a, mut block_b) = ([[zero; 2]; N], [[zero; 2]; N]);
    let groups = if M == COSINE { 1 } else { 2 };
    let size = if E == F32 { 4 } else { 2 };
    let step = 8 * groups;
    let whole = dim - dim % step;
    let mut block_end = if whole < BLOCK { whole } else { BLOCK };
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i < whole {
            let mut end = block_end;
            if i * size >= ahead.cut {
                fetch = &ahead.far;
            } else if end * size > ahead.cut {
                end = ahead.cut / size;
                end += (step - end % step) % step;
            }
            while i < end {
                let mut q_parts = [zero; 2];
                for u in 0..groups {
                    q_parts[u] = load8::<E>(q.add((i + 8 * u) * size));
                }
                for k in 0..N {
                    for u in 0..groups {
                        let at = (i + 8 * u) * size;
                        if u * 8 * size % 64 == 0 {
                            _mm_prefetch::<_MM_HINT_T0>(
                                fetch[k].wrapping_add(at << ahead.shift).cast(),
                            );
                        }
                        let r = load8::<E>(p[k].add(at));
                        block_a[k][u] = term::<M>(q_parts[u], r, block_a[k][u]);
                        if M == COSINE {
                            block_b[k][u] = _mm256_fmadd_ps(r, r, block_b[k][u]);
                        }
                    }
                }
                i += step;
            }
            if i == block_end {
                for k in 0..N {
                    for u in 0..groups {
                        a[k] = _mm256_add_ps(a[k], block_a[k][u]);
                        b[k] = _mm256_add_ps(b[k], block_b[k][u]);
                    }
                    block_a[k] = [zero; 2];
                    block_b[k] = [zero; 2];
                }
                block_end = if whole - i < BLOCK { whole } else { i + BLOCK };
            }
        }
        while i < dim {
            let count = if dim - i < 8 { dim - i } else { 8 };
            let q_part = load_part::<E>(q.add(i * size), count);
            for k in 0..N {
                let r = load_part::<E>(p[k].add(i * size), count);
                a[k] = term::<M>(q_part, r, a[k]);
                if M == COSINE {
                    b[k] = _mm256_fmadd_ps(r, r, b[k]);
                }
            }
            i += 8;
        }
    }
    (a, b)
}

/// `sum` plus the terms of eight elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn term<const M: u32>(q: __m256, r: __m256, sum: __m256) -> __m256 {
    if M == L2SQ {
        let d = _mm256_sub_ps(q, r);
        _mm256_fmadd_ps(d, d, sum)
    } else {
        _mm256_fmadd_ps(q, r, sum)
    }
}

/// Eight float elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn load8<const E: u32>(p: *const u8) -> __m256 {
    // SAFETY: the caller promises eight elements at `p`.
    unsafe {
        match E {
            F32 => _mm256_loadu_ps(p.cast()),
            F16 => widen_f16(_mm_loadu_si128(p.cast())),
            _ => widen_bf16(_mm_loadu_si128(p.cast())),
        }
    }
}

/// `count` float elements, 1 to 8, and zeros after them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn load_part<const E: u32>(p: *const u8, count: usize) -> __m256 {
    // SAFETY: masked lanes are not read; the halves read `count` elements in pieces.
    unsafe {
        if E == F32 {
            let mask = _mm256_loadu_si256(MASK.as_ptr().add(8 - count).cast());
            return _mm256_maskload_ps(p.cast(), mask);
        }
        let halves = load_part128(p, count * 2);
        if E == F16 {
            widen_f16(halves)
        } else {
            widen_bf16(halves)
        }
    }
}

/// `count` bytes, 1 to 16, and zeros after them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn load_part128(p: *const u8, count: usize) -> __m128i {
    // SAFETY: the reads together cover `count` bytes; each is inside of them.
    unsafe {
        if count >= 16 {
            return _mm_loadu_si128(p.cast());
        }
        let (mut low, mut at) = (0u64, 0usize);
        if count >= 8 {
            low = p.cast::<u64>().read_unaligned();
            at = 8;
        }
        let (mut part, mut shift) = (0u64, 0u32);
        if count & 4 != 0 {
            part = p.add(at).cast::<u32>().read_unaligned() as u64;
            at += 4;
            shift = 32;
        }
        if count & 2 != 0 {
            part |= (p.add(at).cast::<u16>().read_unaligned() as u64) << shift;
            at += 2;
            shift += 16;
        }
        if count & 1 != 0 {
            part |= (*p.add(at) as u64) << shift;
        }
        if count >= 8 {
            _mm_set_epi64x(part as i64, low as i64)
        } else {
            _mm_set_epi64x(0, part as i64)
        }
    }
}

/// Eight binary16 as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn widen_f16(v: __m128i) -> __m256 {
    // Miri does not know the instruction.
    #[cfg(miri)]
    return {
        // SAFETY: both are eight lanes of plain numbers.
        let halves: [u16; 8] = unsafe { core::mem::transmute(v) };
        // SAFETY: as above.
        unsafe { core::mem::transmute(halves.map(crate::math::f16_to_f32)) }
    };
    #[cfg(not(miri))]
    _mm256_cvtph_ps(v)
}

/// Eight bfloat16 as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn widen_bf16(v: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn sum4(a: __m256, b: __m256, c: __m256, d: __m256) -> __m128 {
    let s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s))
}

/// Four keys from four pairs of sums, and a bit for each that says whether the sums were in range.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn float_keys<const M: u32>(a: __m128, rr: __m128, qq: f32) -> (__m128i, i32) {
    let zero = _mm_setzero_ps();
    // Not a number and infinity fail the comparison.
    let magnitude = _mm_andnot_ps(_mm_set1_ps(-0.0), a);
    let mut good = _mm_cmplt_ps(magnitude, _mm_set1_ps(f32::INFINITY));
    let distance = match M {
        L2SQ => a,
        INNER_PRODUCT => _mm_sub_ps(zero, a),
        _ => {
            // Squares this far from the ends of the range have lost nothing to overflow or
            // underflow, and neither does their product's root.
            let (low, high) = (_mm_set1_ps(1e-24), _mm_set1_ps(1e30));
            let qq = _mm_set1_ps(qq);
            let inside = |v| _mm_and_ps(_mm_cmpge_ps(v, low), _mm_cmple_ps(v, high));
            good = _mm_and_ps(good, _mm_and_ps(inside(rr), inside(qq)));
            let norms = _mm_mul_ps(_mm_sqrt_ps(rr), _mm_sqrt_ps(qq));
            let d = _mm_sub_ps(_mm_set1_ps(1.0), _mm_div_ps(a, norms));
            _mm_min_ps(_mm_max_ps(d, zero), _mm_set1_ps(2.0))
        }
    };
    // Order-preserving image: negative numbers are complemented, others get the sign bit.
    let bits = _mm_castps_si128(distance);
    let flip = _mm_or_si128(_mm_srai_epi32::<31>(bits), _mm_set1_epi32(i32::MIN));
    (_mm_xor_si128(bits, flip), _mm_movemask_ps(good))
}

/// Keys for byte elements of type `E`.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
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
                let ([dot], [rr]) = byte_sums::<E, M, 1>(query, [p[0]], &Ahead::none(p[0]), dim);
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

/// Exact sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. They are modulo 2^32, which `MAX_DIM` makes enough.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn byte_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([u32; N], [u32; N]) {
    let zero = _mm256_setzero_si256();
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i + 16 <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = widen_bytes::<E>(_mm_loadu_si128(q.add(i).cast()));
            for k in 0..N {
                if i % 64 == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(i << ahead.shift).cast());
                }
                let r0 = widen_bytes::<E>(_mm_loadu_si128(p[k].add(i).cast()));
                byte_terms::<M>(q0, r0, &mut a[k], &mut b[k]);
            }
            i += 16;
        }
        if i < dim {
            let q0 = widen_bytes::<E>(load_part128(q.add(i), dim - i));
            for k in 0..N {
                let r0 = widen_bytes::<E>(load_part128(p[k].add(i), dim - i));
                byte_terms::<M>(q0, r0, &mut a[k], &mut b[k]);
            }
        }
    }
    let (mut dot, mut rr) = ([0; N], [0; N]);
    for k in 0..N {
        dot[k] = sum_lanes(a[k]);
        rr[k] = sum_lanes(b[k]);
    }
    (dot, rr)
}

/// Adds the terms of sixteen widened elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn byte_terms<const M: u32>(q: __m256i, r: __m256i, a: &mut __m256i, b: &mut __m256i) {
    let term = if M == L2SQ {
        let d = _mm256_sub_epi16(q, r);
        _mm256_madd_epi16(d, d)
    } else {
        _mm256_madd_epi16(q, r)
    };
    *a = _mm256_add_epi32(*a, term);
    if M == COSINE {
        *b = _mm256_add_epi32(*b, _mm256_madd_epi16(r, r));
    }
}

/// Sixteen bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn widen_bytes<const E: u32>(v: __m128i) -> __m256i {
    if E == I8 {
        _mm256_cvtepi8_epi16(v)
    } else {
        _mm256_cvtepu8_epi16(v)
    }
}

/// The sum of the lanes modulo 2^32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn sum_lanes(v: __m256i) -> u32 {
    let s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b0100_1110>(s));
    let s = _mm_add_epi32(s, _mm_shuffle_epi32::<0b1011_0001>(s));
    _mm_cvtsi128_si32(s) as u32
}

/// Keys for bit vectors: the portable code, compiled with the POPCNT instruction.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) unsafe fn bits<R: Rows, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let len_bytes = Elem::Binary.row_bytes(dim);
    let ahead = bit_lead(len_bytes);
    for i in 0..n {
        // SAFETY: the caller promises `n` rows and `n` places for results; a prefetch does not fault.
        unsafe {
            let next = rows.row(if i + ahead < n { i + ahead } else { i });
            let mut at = 0;
            while at < len_bytes {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(at).cast());
                at += 64;
            }
            *out.add(i) = scalar::bit_key::<M>(query, rows.row(i), dim);
        }
    }
}
