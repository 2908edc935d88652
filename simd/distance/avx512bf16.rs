// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Products of bfloat16 with AVX-512 BF16; integers and bits are those of `avx512vnni.rs`, other floats
//! those of `avx512.rs`.
//!
//! `vdpbf16ps` multiplies pairs and adds them to an f32 sum. It takes subnormal elements as zeros and
//! flushes subnormal results, whatever the control register says.

use core::arch::x86_64::*;

use super::avx512vnni::{bits, bytes};
use super::{
    avx512, Ahead, Rows, BF16, COSINE, DENSE_MAX, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8,
};
use crate::abi::{Elem, Metric};

/// Elements of one register.
const WIDTH: usize = 32;

/// As [`super::score`], with AVX-512 BF16, for each of `Q` queries.
///
/// # Safety
///
/// As [`super::score`], for each query and its results.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
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
    // SAFETY: the caller promises the queries, `n` rows and `n` places for results of each; every
    // index below is less than `n`.
    unsafe {
        let mut qq = [1.0; Q];
        if M == COSINE {
            for (qq, q) in qq.iter_mut().zip(queries) {
                let (_, [s]) = products::<M, 1, 1, false>([q], [q], &Ahead::none(q), dim);
                *qq = _mm_cvtss_f32(avx512::sum4(s, s, s, s));
            }
        }
        let dense = dim * 2 <= DENSE_MAX && rows.are_dense(dim * 2);
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b) = if Q == 1 && dense {
                let sums = |p: [*const u8; 2]| {
                    products::<M, Q, 2, true>(queries, p, &Ahead::linear(p[0], dim * 2), dim)
                };
                let (a, b) = sums([p[0], p[1]]);
                let (c, d) = sums([p[2], p[3]]);
                let mut both = [[_mm512_setzero_ps(); TILE]; Q];
                for j in 0..Q {
                    both[j] = [a[j][0], a[j][1], c[j][0], c[j][1]];
                }
                (both, [b[0], b[1], d[0], d[1]])
            } else {
                let ahead = Ahead::tile(rows, i, n, dim * 2);
                products::<M, Q, TILE, true>(queries, p, &ahead, dim)
            };
            let b = avx512::sum4(b[0], b[1], b[2], b[3]);
            for j in 0..Q {
                let a = avx512::sum4(a[j][0], a[j][1], a[j][2], a[j][3]);
                let out = out[j].add(i);
                avx512::store_keys::<E, M>(a, b, qq[j], queries[j], p, dim, out, count);
            }
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows: of products with each of `Q` queries, and for `COSINE` of the squares of the row.
/// The order of additions is the same for any `Q` and `N`. Prefetches `ahead` at the same pace.
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
    /// Elements per block: bounds the chain of roundings in one lane.
    const BLOCK: usize = 2048;
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([[zero; N]; Q], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i < dim {
            let end = if dim - i < BLOCK { dim } else { i + BLOCK };
            let (mut block_a, mut block_b) = ([[zero; N]; Q], [zero; N]);
            while i + WIDTH <= end {
                if i * 2 >= ahead.cut {
                    fetch = &ahead.far;
                }
                let q0 = q.map(|q| pairs(_mm512_loadu_si512(q.add(i * 2).cast())));
                for k in 0..N {
                    let at = (i * 2) << ahead.shift;
                    if AHEAD {
                        _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(at).cast());
                    }
                    let r0 = pairs(_mm512_loadu_si512(p[k].add(i * 2).cast()));
                    for j in 0..Q {
                        block_a[j][k] = _mm512_dpbf16_ps(block_a[j][k], q0[j], r0);
                    }
                    if M == COSINE {
                        block_b[k] = _mm512_dpbf16_ps(block_b[k], r0, r0);
                    }
                }
                i += WIDTH;
            }
            if i < end {
                let mask = u32::MAX >> (WIDTH - (end - i));
                let q0 = q.map(|q| pairs(_mm512_maskz_loadu_epi16(mask, q.add(i * 2).cast())));
                for k in 0..N {
                    let r0 = pairs(_mm512_maskz_loadu_epi16(mask, p[k].add(i * 2).cast()));
                    for j in 0..Q {
                        block_a[j][k] = _mm512_dpbf16_ps(block_a[j][k], q0[j], r0);
                    }
                    if M == COSINE {
                        block_b[k] = _mm512_dpbf16_ps(block_b[k], r0, r0);
                    }
                }
                i = end;
            }
            for k in 0..N {
                for j in 0..Q {
                    a[j][k] = _mm512_add_ps(a[j][k], block_a[j][k]);
                }
                b[k] = _mm512_add_ps(b[k], block_b[k]);
            }
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
