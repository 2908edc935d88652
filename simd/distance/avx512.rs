// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances with AVX-512 F, BW, DQ and VL.
//!
//! Four rows share each load of the query, and two queries, where there are two, each load of a row.

use core::arch::x86_64::*;

use super::{
    avx2, scalar, Ahead, Rows, BF16, COSINE, DENSE_MAX, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8,
};
use crate::abi::{Elem, Metric};

/// Elements per block: bounds the chain of roundings in one lane.
const BLOCK: usize = 1024;

/// As [`super::score`], with AVX-512, for each of `Q` queries.
///
/// # Safety
///
/// As [`super::score`], for each query and its results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
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

/// Keys for float elements of type `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn floats<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every
    // index below is less than `n`.
    unsafe {
        let mut qq = [1.0; Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                let (_, [s]) = float_sums::<E, E, M, 1, 1, false>([q], [q], &Ahead::none(q), dim);
                *qq = _mm_cvtss_f32(sum4(s, s, s, s));
            }
        }
        if E == F16 && Q == 1 && n > TILE && dim <= WIDENED {
            return widened::<R, M>(queries[0], qq[0], rows, dim, out[0], n);
        }
        tiles::<R, E, E, M, Q>(queries, queries, qq, rows, dim, out, n);
    }
}

/// The shortest rows of f32 without gaps whose products are summed one row at a time, in bytes: a single stream
/// is what the processor's own prefetcher follows best, if a row's sums are added up fast enough meanwhile.
const ALONE: usize = 2048;

/// The longest query that is widened once and not for each tile, in elements: 3 KiB of a kernel's stack.
const WIDENED: usize = 768;

/// Keys for rows of binary16, of which converting is most of the work.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn widened<R: Rows, const M: u32>(
    query: *const u8,
    qq: f32,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let mut wide = [0f32; WIDENED];
    let p = wide.as_mut_ptr();
    // SAFETY: the caller promises `dim` elements of the query, not more than fit, and the rest.
    unsafe {
        let mut i = 0;
        while i + 16 <= dim {
            _mm512_storeu_ps(p.add(i), load::<F16>(query.add(2 * i), 1)[0]);
            i += 16;
        }
        if i < dim {
            let mask = (0xffff_u32 >> (16 - (dim - i))) as __mmask16;
            _mm512_mask_storeu_ps(p.add(i), mask, load_part::<F16>(query.add(2 * i), dim - i));
        }
        tiles::<R, F16, F32, M, 1>([p.cast()], [query], [qq], rows, dim, [out], n);
    }
}

/// Keys for float elements of type `E` from queries of elements `QE`. `own` are the queries as they came, `qq`
/// the sums of their squares.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn tiles<R: Rows, const E: u32, const QE: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    own: [*const u8; Q],
    qq: [f32; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let len_bytes = dim * if E == F32 { 4 } else { 2 };
    let dense = len_bytes <= DENSE_MAX && rows.are_dense(len_bytes);
    let zero = _mm512_setzero_ps();
    // SAFETY: as promised by the caller; every index below is less than `n`.
    unsafe {
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b) = if count == 1 {
                let none = Ahead::none(p[0]);
                let (a, [b]) = float_sums::<E, QE, M, Q, 1, false>(queries, [p[0]], &none, dim);
                (a.map(|[a]| [a; TILE]), [b; TILE])
            } else if Q == 1 && dense && E == F16 && (M == COSINE || dim > WIDENED) {
                // Converting binary16 is most of the work, the query's too.
                let ahead = Ahead::linear(p[0], len_bytes);
                float_sums::<E, QE, M, Q, TILE, true>(queries, p, &ahead, dim)
            } else if Q == 1 && dense && E == F32 && M == INNER_PRODUCT && len_bytes >= ALONE {
                let (mut a, mut b) = ([[zero; TILE]; Q], [zero; TILE]);
                for k in 0..TILE {
                    let none = Ahead::none(p[k]);
                    let (x, [y]) = float_sums::<E, QE, M, Q, 1, false>(queries, [p[k]], &none, dim);
                    for j in 0..Q {
                        a[j][k] = x[j][0];
                    }
                    b[k] = y;
                }
                (a, b)
            } else if Q == 1 && dense {
                // Two at a time: the processor follows two streams better than four.
                let sums = |p: [*const u8; 2]| {
                    let ahead = Ahead::linear(p[0], len_bytes);
                    float_sums::<E, QE, M, Q, 2, true>(queries, p, &ahead, dim)
                };
                let ((a, b), (c, d)) = (sums([p[0], p[1]]), sums([p[2], p[3]]));
                let mut both = [[zero; TILE]; Q];
                for j in 0..Q {
                    both[j] = [a[j][0], a[j][1], c[j][0], c[j][1]];
                }
                (both, [b[0], b[1], d[0], d[1]])
            } else {
                let ahead = Ahead::tile(rows, i, n, len_bytes);
                float_sums::<E, QE, M, Q, TILE, true>(queries, p, &ahead, dim)
            };
            let b = sum4(b[0], b[1], b[2], b[3]);
            for j in 0..Q {
                let a = sum4(a[j][0], a[j][1], a[j][2], a[j][3]);
                store_keys::<E, M>(a, b, qq[j], own[j], p, dim, out[j].add(i), count);
            }
            i += TILE;
        }
    }
}

/// Writes the keys of the first `count` rows of a tile from the sums of their terms and squares; of sums
/// that are out of range, from another look at the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn store_keys<const E: u32, const M: u32>(
    a: __m128,
    b: __m128,
    qq: f32,
    query: *const u8,
    p: [*const u8; TILE],
    dim: usize,
    out: *mut u32,
    count: usize,
) {
    let (keys, good) = avx2::float_keys::<M>(a, b, qq);
    // SAFETY: the caller has room for `count` keys; masked ones are not written.
    unsafe {
        _mm_mask_storeu_epi32(out.cast(), 0xf >> (TILE - count), keys);
        if good != 0xf {
            for k in 0..TILE {
                if k < count && good >> k & 1 == 0 {
                    *out.add(k) = scalar::float_key::<E, M>(query, p[k], dim);
                }
            }
        }
    }
}

/// Lane sums for `N` rows: of squared differences or products with each of `Q` queries, and for `COSINE` of
/// the squares of the row; the queries' elements are of type `QE`. Each pair has two independent sums, one of
/// each kind or two of one kind: with four rows that is at least eight, the product of two multiply-add units
/// and a latency of four cycles. The order of additions is the same for any `Q` and `N`. Prefetches `ahead`,
/// if `AHEAD`, at the same pace.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn float_sums<
    const E: u32,
    const QE: u32,
    const M: u32,
    const Q: usize,
    const N: usize,
    const AHEAD: bool,
>(
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([[__m512; N]; Q], [__m512; N]) {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([[zero; N]; Q], [zero; N]);
    let (mut block_a, mut block_b) = ([[[zero; 2]; N]; Q], [[zero; 2]; N]);
    // The halves of a register of bfloat16 come together.
    let groups = if M == COSINE && E != BF16 { 1 } else { 2 };
    let size = if E == F32 { 4 } else { 2 };
    let q_size = if QE == F32 { 4 } else { 2 };
    let step = 16 * groups;
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
                let mut q_parts = [[zero; 2]; Q];
                for j in 0..Q {
                    q_parts[j] = load::<QE>(q[j].add(i * q_size), groups);
                }
                for k in 0..N {
                    for u in 0..groups {
                        let at = (i + 16 * u) * size;
                        if AHEAD && u * 16 * size % 64 == 0 {
                            _mm_prefetch::<_MM_HINT_T0>(
                                fetch[k].wrapping_add(at << ahead.shift).cast(),
                            );
                        }
                    }
                    let r = load::<E>(p[k].add(i * size), groups);
                    for u in 0..groups {
                        for j in 0..Q {
                            block_a[j][k][u] = term::<M>(q_parts[j][u], r[u], block_a[j][k][u]);
                        }
                        if M == COSINE {
                            block_b[k][u] = _mm512_fmadd_ps(r[u], r[u], block_b[k][u]);
                        }
                    }
                }
                i += step;
            }
            if i == block_end {
                for k in 0..N {
                    for u in 0..groups {
                        for j in 0..Q {
                            a[j][k] = _mm512_add_ps(a[j][k], block_a[j][k][u]);
                            block_a[j][k][u] = zero;
                        }
                        b[k] = _mm512_add_ps(b[k], block_b[k][u]);
                        block_b[k][u] = zero;
                    }
                }
                block_end = if whole - i < BLOCK { whole } else { i + BLOCK };
            }
        }
        while i < dim {
            let count = if dim - i < 16 { dim - i } else { 16 };
            let q_parts = q.map(|q| load_part::<QE>(q.add(i * q_size), count));
            for k in 0..N {
                let r = load_part::<E>(p[k].add(i * size), count);
                for j in 0..Q {
                    a[j][k] = term::<M>(q_parts[j], r, a[j][k]);
                }
                if M == COSINE {
                    b[k] = _mm512_fmadd_ps(r, r, b[k]);
                }
            }
            i += 16;
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

/// `groups` times sixteen float elements, 1 or 2. Those of two registers of bfloat16 are its even and its odd
/// ones: for sums over pairs of elements any order will do, and this one costs no shuffle.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn load<const E: u32>(p: *const u8, groups: usize) -> [__m512; 2] {
    let mut parts = [_mm512_setzero_ps(); 2];
    // SAFETY: the caller promises that many elements at `p`.
    unsafe {
        if E == BF16 {
            let v = _mm512_loadu_si512(p.cast());
            parts[0] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            parts[1] = _mm512_castsi512_ps(_mm512_and_si512(v, high));
        } else {
            // No loop: its index could go wrong as far as a compiler that doesn't inline this knows.
            let one = |p: *const u8| {
                if E == F32 {
                    _mm512_loadu_ps(p.cast())
                } else {
                    widen_f16(_mm256_loadu_si256(p.cast()))
                }
            };
            parts[0] = one(p);
            if groups == 2 {
                parts[1] = one(p.add(if E == F32 { 64 } else { 32 }));
            }
        }
    }
    parts
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
            F16 => widen_f16(_mm256_maskz_loadu_epi16(mask, p.cast())),
            _ => widen_bf16(_mm256_maskz_loadu_epi16(mask, p.cast())),
        }
    }
}

/// Sixteen binary16 as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn widen_f16(v: __m256i) -> __m512 {
    // Miri does not know the instruction.
    #[cfg(miri)]
    return {
        // SAFETY: both are sixteen lanes of plain numbers.
        let halves: [u16; 16] = unsafe { core::mem::transmute(v) };
        // SAFETY: as above.
        unsafe { core::mem::transmute(halves.map(crate::math::f16_to_f32)) }
    };
    #[cfg(not(miri))]
    _mm512_cvtph_ps(v)
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
pub(super) fn sum4(a: __m512, b: __m512, c: __m512, d: __m512) -> __m128 {
    // A transposition in two steps, with the additions between them: fewer shuffles than horizontal
    // additions are made of.
    let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (low, high) = (_mm512_castps_pd(pair(a, b)), _mm512_castps_pd(pair(c, d)));
    let s = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)),
    );
    let s = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps::<1>(s));
    _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s))
}

/// Keys for byte elements of type `E`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn bytes<R: Rows, const E: u32, const M: u32, const Q: usize>(
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
unsafe fn bits<R: Rows, const M: u32, const Q: usize>(
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
