// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Products of bfloat16 with AVX-512 BF16; integers are those of `avx512vnni.rs`, bits those of
//! `avx512bits.rs`, other floats those of `avx512.rs`.
//!
//! `vdpbf16ps` multiplies pairs and adds them to an f32 sum. It takes subnormal elements as zeros and
//! flushes subnormal results, whatever the control register says.

use core::arch::x86_64::*;

use super::avx512bits::bits;
use super::avx512keys::{four_floats, store_keys, sum16, sum_fours};
use super::avx512vnni::bytes;
use super::{
    avx512, Ahead, Kind, Rows, BF16, BLOCK_ROWS, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE,
    U8,
};
use crate::abi::{Elem, Metric};

/// Elements of one register.
const WIDTH: usize = 32;

/// Elements per block: bounds the chain of roundings in one lane.
const BLOCK: usize = 2048;

/// As [`super::score`], with AVX-512 BF16, for each of `Q` queries.
///
/// # Safety
///
/// As [`super::score`], for each query and its results.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
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

/// Keys for float elements of type `E`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn floats<R: Rows, const E: u32, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    // A difference of two bfloat16 is not one, so there is nothing to gain for `L2SQ`.
    if E != BF16 || M == L2SQ {
        // SAFETY: as promised by the caller.
        return unsafe { avx512::floats::<R, E, M, Q>(queries, rows, dim, out, n) };
    }
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each.
    unsafe {
        let mut qq = [1.0; Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                *qq = squares(q, dim);
            }
        }
        if Q == 1 && rows.are_dense(dim * 2) {
            in_order::<R, M>(queries[0], qq[0], rows, dim, out[0], n)
        } else {
            tiles::<R, M, Q>(queries, qq, rows, dim, out, n)
        }
    }
}

/// The sum of the squares of a query.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn squares(query: *const u8, dim: usize) -> f32 {
    let none = Ahead::none(query);
    // SAFETY: the caller promises the query.
    unsafe {
        let (_, [s]) = products::<COSINE, 1, 1, false>([query], [query], &none, dim);
        _mm512_cvtss_f32(sum16(&[s; BLOCK_ROWS]))
    }
}

/// Keys for rows without gaps, which are read one after the other, for the reasons and in the way of
/// `avx512.rs`.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn in_order<R: Rows, const M: u32>(
    query: *const u8,
    qq: f32,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
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
                let ahead = Ahead::linear(p, dim * 2);
                let ([[x]], [y]) = products::<M, 1, 1, true>([query], [p], &ahead, dim);
                *a.as_mut_ptr().add(k) = x;
                if M == COSINE {
                    *b.as_mut_ptr().add(k) = y;
                }
                k += 1;
            }
            let row = |k: usize| rows.row(i + k);
            let sums = (sum16(&a), sum16(&b));
            store_keys::<BF16, M>(sums, qq, query, row, dim, out.add(i), count);
            i += BLOCK_ROWS;
        }
    }
}

/// Keys for any rows, four at a time.
#[inline(never)]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn tiles<R: Rows, const M: u32, const Q: usize>(
    queries: [*const u8; Q],
    qq: [f32; Q],
    rows: R,
    dim: usize,
    out: [*mut u32; Q],
    n: usize,
) {
    let zero = _mm512_setzero_ps();
    // Of each tile the sums of `four_floats`.
    let (mut a, mut b) = ([[zero; BLOCK_ROWS / TILE]; Q], [zero; BLOCK_ROWS / TILE]);
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every index of a
    // row is less than `n`, and of a tile less than `BLOCK_ROWS / TILE`: `at` is a multiple of `TILE` below
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
                let ahead = Ahead::tile(rows, i + at, n, dim * 2);
                let (x, y) = products::<M, Q, TILE, true>(queries, p, &ahead, dim);
                for j in 0..Q {
                    *a[j].as_mut_ptr().add(at / TILE) = four_floats(x[j]);
                }
                if M == COSINE {
                    *b.as_mut_ptr().add(at / TILE) = four_floats(y);
                }
                at += TILE;
            }
            for j in 0..Q {
                let row = |k: usize| rows.row(i + k);
                let (sums, out) = ((sum_fours(a[j]), sum_fours(b)), out[j].add(i));
                store_keys::<BF16, M>(sums, qq[j], queries[j], row, dim, out, count);
            }
            i += BLOCK_ROWS;
        }
    }
}

/// Lane sums for `N` rows: of products with each of `Q` queries, and for `COSINE` of the squares of the row.
/// Each pair has two independent sums of a kind. The order of additions is the same for any `Q` and `N`.
/// Prefetches `ahead`, if `AHEAD`, at the same pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn products<const M: u32, const Q: usize, const N: usize, const AHEAD: bool>(
    q: [*const u8; Q],
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([[__m512; N]; Q], [__m512; N]) {
    /// Elements of a pass of the loop.
    const STEP: usize = 4 * WIDTH;
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([[zero; N]; Q], [zero; N]);
    let mut fetch = &ahead.near;
    let whole = dim - dim % STEP;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i < whole {
            let end = if whole - i < BLOCK { whole } else { i + BLOCK };
            let (mut block_a, mut block_b) = ([[[zero; 2]; N]; Q], [[zero; 2]; N]);
            while i < end {
                for g in 0..4 {
                    let at = (i + g * WIDTH) * 2;
                    if at >= ahead.cut {
                        fetch = &ahead.far;
                    }
                    let q0 = q.map(|q| pairs(_mm512_loadu_si512(q.add(at).cast())));
                    for k in 0..N {
                        if AHEAD {
                            let line = fetch[k].wrapping_add(at << ahead.shift);
                            _mm_prefetch::<_MM_HINT_T0>(line.cast());
                        }
                        let r0 = pairs(_mm512_loadu_si512(p[k].add(at).cast()));
                        for j in 0..Q {
                            let sum = &mut block_a[j][k][g % 2];
                            *sum = _mm512_dpbf16_ps(*sum, q0[j], r0);
                        }
                        if M == COSINE {
                            let sum = &mut block_b[k][g % 2];
                            *sum = _mm512_dpbf16_ps(*sum, r0, r0);
                        }
                    }
                }
                i += STEP;
            }
            for k in 0..N {
                for u in 0..2 {
                    for j in 0..Q {
                        a[j][k] = _mm512_add_ps(a[j][k], block_a[j][k][u]);
                    }
                    b[k] = _mm512_add_ps(b[k], block_b[k][u]);
                }
            }
        }
        while i < dim {
            let mask = if dim - i < WIDTH {
                u32::MAX >> (WIDTH - (dim - i))
            } else {
                u32::MAX
            };
            let q0 = q.map(|q| pairs(_mm512_maskz_loadu_epi16(mask, q.add(i * 2).cast())));
            for k in 0..N {
                let r0 = pairs(_mm512_maskz_loadu_epi16(mask, p[k].add(i * 2).cast()));
                for j in 0..Q {
                    a[j][k] = _mm512_dpbf16_ps(a[j][k], q0[j], r0);
                }
                if M == COSINE {
                    b[k] = _mm512_dpbf16_ps(b[k], r0, r0);
                }
            }
            i += WIDTH;
        }
    }
    (a, b)
}

/// A register as pairs of bfloat16.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
fn pairs(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits of plain numbers.
    unsafe { core::mem::transmute(v) }
}
