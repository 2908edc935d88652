// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Products of bfloat16 with AVX-512 BF16; integers and bits are those of `avx512vnni.rs`, other floats
//! those of `avx512.rs`.
//!
//! `vdpbf16ps` multiplies pairs and adds them to an f32 sum. It takes subnormal elements as zeros and
//! flushes subnormal results, whatever the control register says.

use core::arch::x86_64::*;

use super::avx512vnni::{bits, bytes};
use super::{
    avx2, avx512, scalar, Ahead, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8,
};
use crate::abi::{Elem, Metric};

/// Elements of one register.
const WIDTH: usize = 32;

/// As [`super::score`], with AVX-512 BF16.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
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

/// Keys for float elements of type `E`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn floats<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // A difference of two bfloat16 is not one, so there is nothing to gain for `L2SQ`.
    if E != BF16 || M == L2SQ {
        // SAFETY: as promised by the caller.
        return unsafe { avx512::floats::<R, E, M>(query, rows, dim, out, n) };
    }
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let qq = if M == COSINE {
            let (_, [qq]) = products::<M, 1>(query, [query], &Ahead::none(query), dim);
            _mm_cvtss_f32(avx512::sum4(qq, qq, qq, qq))
        } else {
            1.0
        };
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b) = products::<M, TILE>(query, p, &Ahead::tile(rows, i, n, dim * 2), dim);
            let a = avx512::sum4(a[0], a[1], a[2], a[3]);
            let b = avx512::sum4(b[0], b[1], b[2], b[3]);
            let (keys, good) = avx2::float_keys::<M>(a, b, qq);
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

/// Lane sums for `N` rows: of products, and for `COSINE` of the squares of the row. Each row has two
/// independent sums of products. The order of additions is the same for any `N`. Prefetches `ahead` at the
/// same pace.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx512bf16,avx2,fma,f16c,popcnt"
)]
unsafe fn products<const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([__m512; N], [__m512; N]) {
    /// Elements per block: bounds the chain of roundings in one lane.
    const BLOCK: usize = 2048;
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`, prefetches do not fault,
    // masked lanes are not read.
    unsafe {
        while i < dim {
            let end = if dim - i < BLOCK { dim } else { i + BLOCK };
            let (mut block_a, mut block_b) = ([zero; N], [zero; N]);
            while i + WIDTH <= end {
                if i * 2 >= ahead.cut {
                    fetch = &ahead.far;
                }
                let q0 = pairs(_mm512_loadu_si512(q.add(i * 2).cast()));
                for k in 0..N {
                    let at = (i * 2) << ahead.shift;
                    _mm_prefetch::<_MM_HINT_T0>(fetch[k].wrapping_add(at).cast());
                    let r0 = pairs(_mm512_loadu_si512(p[k].add(i * 2).cast()));
                    block_a[k] = _mm512_dpbf16_ps(block_a[k], q0, r0);
                    if M == COSINE {
                        block_b[k] = _mm512_dpbf16_ps(block_b[k], r0, r0);
                    }
                }
                i += WIDTH;
            }
            if i < end {
                let mask = u32::MAX >> (WIDTH - (end - i));
                let q0 = pairs(_mm512_maskz_loadu_epi16(mask, q.add(i * 2).cast()));
                for k in 0..N {
                    let r0 = pairs(_mm512_maskz_loadu_epi16(mask, p[k].add(i * 2).cast()));
                    block_a[k] = _mm512_dpbf16_ps(block_a[k], q0, r0);
                    if M == COSINE {
                        block_b[k] = _mm512_dpbf16_ps(block_b[k], r0, r0);
                    }
                }
                i = end;
            }
            for k in 0..N {
                a[k] = _mm512_add_ps(a[k], block_a[k]);
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
