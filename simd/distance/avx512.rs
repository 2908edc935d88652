// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances of floats with AVX-512 F, BW, DQ and VL.
//!
//! Rows without gaps are read one after the other. Of others two or four share each load of the query, and two
//! queries, where there are two, each load of a row.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use super::avx512bytes::{bits, bytes};
use super::avx512keys::{four_floats, store_keys, sum16, sum_fours, sum_twos, two_floats};
use super::{
    Ahead, Kind, Rows, BF16, BLOCK_ROWS, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, LEAD, TILE, U8,
};
use crate::abi::{Elem, Metric};

/// Elements of type `E` per block: bounds the chain of roundings in one lane.
const fn block<const E: u32>() -> usize {
    if E == F16 {
        768
    } else {
        1024
    }
}

// What is not widened begins with a block, so that the order of additions stays the same.
const _: () = assert!(WIDENED.is_multiple_of(block::<F16>()));

/// Elements of a pass of the loop.
const STEP: usize = 64;

/// A dimension for which there is code of its own, since it is a common one (SIFT) and with rows this short what
/// is done once per row takes a fifth of the time.
pub(super) const SHORT: usize = 128;

/// As [`super::score`], with AVX-512, for each of `Q` queries.
///
/// # Safety
///
/// As [`super::score`], for each query and its results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
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

/// Keys for float elements of type `E`.
///
/// What it calls is not inlined, so that only one of their frames, of up to 2 KiB, is on a kernel's stack.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn floats<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each.
    unsafe {
        let mut qq = [1.0; Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                *qq = squares::<E>(q, dim);
            }
        }
        if Q == 1 {
            let (query, out) = (queries[0], out[0]);
            let dense = rows.are_dense(dim * size_of::<E>());
            // Rows that are listed are compared deep in a graph, where a kernel has no stack for a wide query.
            if E == F16 && n > TILE && dense {
                return if dim == SHORT {
                    short_f16::<R, M>(query, qq[0], rows, dim, out, n)
                } else {
                    in_pairs::<R, M>(query, qq[0], rows, dim, out, n)
                };
            }
            if E == F32 && dense {
                return if dim == SHORT {
                    in_order::<R, E, E, M, false, SHORT>(query, query, qq[0], rows, dim, out, n)
                } else {
                    in_order::<R, E, E, M, false, 0>(query, query, qq[0], rows, dim, out, n)
                };
            }
            if E == BF16 && dense {
                return if dim == SHORT {
                    in_order::<R, E, E, M, true, SHORT>(query, query, qq[0], rows, dim, out, n)
                } else {
                    in_order::<R, E, E, M, true, 0>(query, query, qq[0], rows, dim, out, n)
                };
            }
        }
        tiles::<R, E, M, Q>(queries, qq, rows, dim, out, n);
    }
}

/// The sum of the squares of a query of elements `E`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn squares<const E: u32>(query: *const u8, dim: usize) -> f32 {
    let none = Ahead::none(query);
    // SAFETY: the caller promises the query.
    unsafe {
        let (_, [s]) = float_sums::<E, E, COSINE, 1, 1, false>([query], [query], &none, dim, None);
        _mm512_cvtss_f32(sum16(&[s; BLOCK_ROWS]))
    }
}

/// Bytes of an element of type `E`.
const fn size_of<const E: u32>() -> usize {
    if E == F32 {
        4
    } else {
        2
    }
}

/// Elements of a query of binary16 that are widened once and not for each tile: 6 KiB of a kernel's stack.
const WIDENED: usize = 1536;

/// The beginning of a query of binary16 as f32. Loads of it do not cross cache lines.
struct Wide<const N: usize>([MaybeUninit<__m512>; N]);

impl<const N: usize> Wide<N> {
    const NONE: Self = Wide([MaybeUninit::uninit(); N]);

    /// Writes the first of `dim` elements of a query, and returns where they are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
    unsafe fn fill(&mut self, query: *const u8, dim: usize) -> *const u8 {
        let mut i = 0;
        for wide in &mut self.0 {
            if i >= dim {
                break;
            }
            // SAFETY: the caller promises `dim` elements.
            wide.write(unsafe { load_part::<F16>(query.add(2 * i), usize::min(dim - i, 16)) });
            i += 16;
        }
        self.0.as_ptr().cast()
    }
}

/// Keys for float elements of type `E` of rows without gaps. `own` is the query as it came, `query` one of elements
/// `QE`; `DIM` is `dim`, or 0.
///
/// A Zen 5 core reads its second-level cache at 200 GB/s, but at 135 GB/s if a load instruction goes on by 2 to
/// 4 KiB from one time to the next, and with several streams: its prefetcher fetches too much then. So there is one
/// copy of the code for all rows, which a compiler does not unroll, and their lane sums wait for those of a block
/// of rows. Rows of f32 need no prefetches. Elements of two bytes take so many instructions for each
/// cache line that the loads waiting in the processor do not cover the latency of memory, so they have prefetches
/// (`AHEAD`).
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn in_order<
    R: Rows,
    const E: u32,
    const QE: u32,
    const M: u32,
    const AHEAD: bool,
    const DIM: usize,
>(
    query: *const u8,
    own: *const u8,
    qq: f32,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let dim = if DIM == 0 { dim } else { DIM };
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([zero; BLOCK_ROWS], [zero; BLOCK_ROWS]);
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index of a row is less
    // than `n`, and of a sum less than `BLOCK_ROWS`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut k = 0;
            while k < count {
                let p = rows.row(i + k);
                let ahead = if AHEAD {
                    Ahead::linear(p, dim * size_of::<E>())
                } else {
                    Ahead::none(p)
                };
                let ([[x]], [y]) =
                    float_sums::<E, QE, M, 1, 1, AHEAD>([query], [p], &ahead, dim, None);
                *a.as_mut_ptr().add(k) = x;
                if M == COSINE {
                    *b.as_mut_ptr().add(k) = y;
                }
                k += 1;
            }
            let row = |k: usize| rows.row(i + k);
            let sums = (sum16(&a), sum16(&b));
            store_keys::<E, M>(sums, qq, own, row, dim, out.add(i), count);
            i += BLOCK_ROWS;
        }
    }
}

/// Keys for rows of binary16 without gaps, of `SHORT` elements.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn short_f16<R: Rows, const M: u32>(
    query: *const u8,
    qq: f32,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let mut wide = Wide::<{ SHORT / 16 }>::NONE;
    // SAFETY: the caller promises `dim` elements of the query, and the rest.
    unsafe {
        let wide = wide.fill(query, dim);
        in_order::<R, F16, F32, M, true, SHORT>(wide, query, qq, rows, dim, out, n)
    }
}

/// Keys for rows of binary16 without gaps, two at a time: converting is most of the work, so that each load of the
/// query counts. Sums of two rows wait in one vector, beside the query on a kernel's stack.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn in_pairs<R: Rows, const M: u32>(
    query: *const u8,
    qq: f32,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([zero; BLOCK_ROWS / 2], [zero; BLOCK_ROWS / 2]);
    let mut wide = Wide::<{ WIDENED / 16 }>::NONE;
    let widened = usize::min(dim, WIDENED);
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index of a row is less
    // than `n`, and of a pair less than `BLOCK_ROWS / 2`.
    unsafe {
        let wide = wide.fill(query, dim);
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut k = 0;
            while k < count {
                // The last pair repeats its last row.
                let other = usize::min(k + 1, count - 1);
                let p = [rows.row(i + k), rows.row(i + other)];
                let ahead = Ahead::linear(p[0], dim * 2);
                let mut sums =
                    float_sums::<F16, F32, M, 1, 2, true>([wide], p, &ahead, widened, None);
                if widened < dim {
                    let at = widened * 2;
                    let (q, p, ahead) = (query.add(at), p.map(|p| p.add(at)), ahead.after(at));
                    let (left, before) = (dim - widened, Some(sums));
                    sums = float_sums::<F16, F16, M, 1, 2, true>([q], p, &ahead, left, before);
                }
                let ([[x, y]], [v, w]) = sums;
                *a.as_mut_ptr().add(k / 2) = two_floats(x, y);
                if M == COSINE {
                    *b.as_mut_ptr().add(k / 2) = two_floats(v, w);
                }
                k += 2;
            }
            let row = |k: usize| rows.row(i + k);
            let sums = (sum_twos(&a), sum_twos(&b));
            store_keys::<F16, M>(sums, qq, query, row, dim, out.add(i), count);
            i += BLOCK_ROWS;
        }
    }
}

/// Keys for float elements of type `E`, four rows at a time. `qq` are the sums of the queries' squares.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn tiles<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    qq: [f32; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([[zero; BLOCK_ROWS / TILE]; Q], [zero; BLOCK_ROWS / TILE]);
    // Of one tile, and of each by `four_floats`.
    let (mut four_a, mut four_b) = ([[zero; TILE]; Q], [zero; TILE]);
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every index of a
    // row is less than `n`, of four rows less than `BLOCK_ROWS / TILE`, since `at` is a multiple of `TILE` below
    // `BLOCK_ROWS`, and of one of them less than `TILE`.
    unsafe {
        let mut i = 0;
        while i < n {
            let count = usize::min(n - i, BLOCK_ROWS);
            let mut at = 0;
            while at < count {
                // The last tile repeats its last row.
                let row = |k: usize| rows.row(i + if at + k < count { at + k } else { count - 1 });
                let len_bytes = dim * size_of::<E>();
                if count - at == 1 {
                    let p = [row(0)];
                    let ahead = Ahead::none(p[0]);
                    let (x, [y]) =
                        float_sums::<E, E, M, Q, 1, false>(queries, p, &ahead, dim, None);
                    for j in 0..Q {
                        four_a[j][0] = x[j][0];
                    }
                    four_b[0] = y;
                } else if Q == 1 && M != COSINE {
                    let p = [row(0), row(1), row(2), row(3)];
                    let ahead = Ahead::tile(rows, i + at, n, len_bytes);
                    (four_a, four_b) =
                        float_sums::<E, E, M, Q, TILE, true>(queries, p, &ahead, dim, None);
                } else {
                    // There are registers for the sums of two rows.
                    let ahead = Ahead::tile_by(2 * LEAD, rows, i + at, n, len_bytes).halves();
                    for (h, ahead) in ahead.into_iter().enumerate() {
                        let p = [row(2 * h), row(2 * h + 1)];
                        let (x, y) =
                            float_sums::<E, E, M, Q, 2, true>(queries, p, &ahead, dim, None);
                        for k in 0..2 {
                            for j in 0..Q {
                                *four_a[j].as_mut_ptr().add(2 * h + k) = x[j][k];
                            }
                            *four_b.as_mut_ptr().add(2 * h + k) = y[k];
                        }
                    }
                }
                for j in 0..Q {
                    *a[j].as_mut_ptr().add(at / TILE) = four_floats(four_a[j]);
                }
                if M == COSINE {
                    *b.as_mut_ptr().add(at / TILE) = four_floats(four_b);
                }
                at += TILE;
            }
            for j in 0..Q {
                let row = |k: usize| rows.row(i + k);
                let sums = (sum_fours(a[j]), sum_fours(b));
                store_keys::<E, M>(sums, qq[j], queries[j], row, dim, out[j].add(i), count);
            }
            i += BLOCK_ROWS;
        }
    }
}

/// Lane sums for `N` rows, added to those of the elements `before`: of squared differences or products with each of `Q`
/// queries, and for `COSINE` of the squares of the row; the queries' elements are of type `QE`. Each pair has
/// four independent sums of a kind: a multiply-add has a latency of four cycles. The order of additions is
/// the same for any `Q` and `N`. Prefetches `ahead`, if `AHEAD`, at the same pace.
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
    before: Option<([[__m512; N]; Q], [__m512; N])>,
) -> ([[__m512; N]; Q], [__m512; N]) {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = before.unwrap_or(([[zero; N]; Q], [zero; N]));
    let (size, q_size) = (size_of::<E>(), size_of::<QE>());
    let whole = dim - dim % STEP;
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i < whole {
            let block_end = usize::min(whole, i + block::<E>());
            let (mut block_a, mut block_b) = ([[[zero; 4]; N]; Q], [[zero; 4]; N]);
            loop {
                let mut end = block_end;
                if AHEAD {
                    if i * size >= ahead.cut {
                        fetch = &ahead.far;
                    } else if end * size > ahead.cut {
                        end = ahead.cut / size;
                        end += (STEP - end % STEP) % STEP;
                    }
                }
                let mut pass = |i: usize| {
                    for g in [0, 2] {
                        // Two registers of elements at a time.
                        let at = i + 16 * g;
                        let q_parts = q.map(|q| load::<QE>(q.add(at * q_size)));
                        for k in 0..N {
                            let line = at * size;
                            if AHEAD {
                                let line = fetch[k].wrapping_add(line << ahead.shift);
                                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                                if size == 4 {
                                    let line = line.wrapping_add(64 << ahead.shift);
                                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                                }
                            }
                            let r = load::<E>(p[k].add(line));
                            for u in 0..2 {
                                for j in 0..Q {
                                    let sum = &mut block_a[j][k][g + u];
                                    *sum = term::<M>(q_parts[j][u], r[u], *sum);
                                }
                                if M == COSINE {
                                    let sum = &mut block_b[k][g + u];
                                    *sum = _mm512_fmadd_ps(r[u], r[u], *sum);
                                }
                            }
                        }
                    }
                };
                if N == 1 {
                    while end - i >= 2 * STEP {
                        pass(i);
                        pass(i + STEP);
                        i += 2 * STEP;
                    }
                    if i < end {
                        pass(i);
                        i += STEP;
                    }
                } else {
                    loop {
                        pass(i);
                        i += STEP;
                        if i >= end {
                            break;
                        }
                    }
                }
                if !AHEAD || i >= block_end {
                    break;
                }
            }
            for k in 0..N {
                for j in 0..Q {
                    a[j][k] = _mm512_add_ps(a[j][k], sum_of_four(block_a[j][k]));
                }
                if M == COSINE {
                    b[k] = _mm512_add_ps(b[k], sum_of_four(block_b[k]));
                }
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

/// The sum of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn sum_of_four([s, t, u, v]: [__m512; 4]) -> __m512 {
    _mm512_add_ps(_mm512_add_ps(s, t), _mm512_add_ps(u, v))
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

/// 32 float elements. Those of two registers of bfloat16 are its even and its odd ones: for sums over pairs of
/// elements any order will do, and this one costs no shuffle.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn load<const E: u32>(p: *const u8) -> [__m512; 2] {
    // SAFETY: the caller promises that many elements at `p`.
    unsafe {
        match E {
            F32 => [_mm512_loadu_ps(p.cast()), _mm512_loadu_ps(p.add(64).cast())],
            F16 => [
                widen_f16(_mm256_loadu_si256(p.cast())),
                widen_f16(_mm256_loadu_si256(p.add(32).cast())),
            ],
            _ => {
                let v = _mm512_loadu_si512(p.cast());
                let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                [
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)),
                    _mm512_castsi512_ps(_mm512_and_si512(v, high)),
                ]
            }
        }
    }
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
