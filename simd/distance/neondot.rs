// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances with the arm64 instructions for dot products: of bytes (DotProd) and of binary16 (FHM).
//! Everything else is that of `neon.rs`.
//!
//! UDOT and SDOT add four products of bytes to each lane of 32 bits. FMLAL widens binary16, whose
//! products f32 holds exactly, and adds with one rounding, as a conversion and an f32 multiply-add would.
//! They are assembly because their intrinsics are younger than the oldest compiler the kernel takes.

use core::arch::aarch64::*;
use core::arch::asm;

use super::neon::{
    self, bits, float_keys, integer_keys, load_part128, prefetch, store, sum4, sum4_words,
};
use super::{scalar, Ahead, Kind, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8};
use crate::abi::{Elem, Metric};

/// As [`super::score`], with DotProd and FHM.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
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
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
unsafe fn floats<R: Rows, const E: u32, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // A difference of two binary16 is not one, so there is nothing to gain for `L2SQ`.
    if E != F16 || M == L2SQ {
        // SAFETY: as promised by the caller.
        return unsafe { neon::floats::<R, E, M>(query, rows, dim, out, n) };
    }
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let qq = if M == COSINE {
            let (_, [qq]) = products::<M, 1>(query, [query], &Ahead::none(query), dim);
            vgetq_lane_f32::<0>(sum4(qq, qq, qq, qq))
        } else {
            1.0
        };
        let mut i = 0;
        while i < n {
            // The last tile repeats its last row.
            let row = |k: usize| rows.row(if i + k < n { i + k } else { n - 1 });
            let p = [row(0), row(1), row(2), row(3)];
            let count = if n - i < TILE { n - i } else { TILE };
            let (a, b) = if count == 1 {
                let ([a], [b]) = products::<M, 1>(query, [p[0]], &Ahead::none(p[0]), dim);
                ([a; TILE], [b; TILE])
            } else {
                products::<M, TILE>(query, p, &Ahead::tile(rows, i, n, dim * 2), dim)
            };
            let (keys, good) = float_keys::<M>(
                sum4(a[0], a[1], a[2], a[3]),
                sum4(b[0], b[1], b[2], b[3]),
                qq,
            );
            store(out.add(i), keys, count);
            for k in 0..count {
                if good >> k & 1 == 0 {
                    *out.add(i + k) = scalar::float_key::<E, M>(query, row(k), dim);
                }
            }
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows of binary16: of products, and for `COSINE` of the squares of the row. Each row
/// has two independent sums of each kind. The order of additions is the same for any `N`. Prefetches
/// `ahead` at the same pace.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
unsafe fn products<const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([float32x4_t; N], [float32x4_t; N]) {
    /// Elements of one register.
    const WIDTH: usize = 8;
    /// Elements per block: bounds the chain of roundings in one lane.
    const BLOCK: usize = 512;
    let zero = vdupq_n_f32(0.0);
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i < dim {
            let end = if dim - i < BLOCK { dim } else { i + BLOCK };
            let (mut low_a, mut low_b) = ([zero; N], [zero; N]);
            let (mut high_a, mut high_b) = ([zero; N], [zero; N]);
            while i + WIDTH <= end {
                if i * 2 >= ahead.cut {
                    fetch = &ahead.far;
                }
                let q0 = vreinterpretq_u16_u8(vld1q_u8(q.add(i * 2)));
                for k in 0..N {
                    if i % 32 == 0 {
                        prefetch(fetch[k].wrapping_add((i * 2) << ahead.shift));
                    }
                    let r0 = vreinterpretq_u16_u8(vld1q_u8(p[k].add(i * 2)));
                    low_a[k] = fmlal(low_a[k], q0, r0);
                    high_a[k] = fmlal2(high_a[k], q0, r0);
                    if M == COSINE {
                        low_b[k] = fmlal(low_b[k], r0, r0);
                        high_b[k] = fmlal2(high_b[k], r0, r0);
                    }
                }
                i += WIDTH;
            }
            if i < end {
                let left = (end - i) * 2;
                let q0 = vreinterpretq_u16_u8(load_part128(q.add(i * 2), left));
                for k in 0..N {
                    let r0 = vreinterpretq_u16_u8(load_part128(p[k].add(i * 2), left));
                    low_a[k] = fmlal(low_a[k], q0, r0);
                    high_a[k] = fmlal2(high_a[k], q0, r0);
                    if M == COSINE {
                        low_b[k] = fmlal(low_b[k], r0, r0);
                        high_b[k] = fmlal2(high_b[k], r0, r0);
                    }
                }
                i = end;
            }
            for k in 0..N {
                a[k] = vaddq_f32(a[k], vaddq_f32(low_a[k], high_a[k]));
                b[k] = vaddq_f32(b[k], vaddq_f32(low_b[k], high_b[k]));
            }
        }
    }
    (a, b)
}

/// `sum` plus the products of the first four of eight binary16.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
fn fmlal(mut sum: float32x4_t, a: uint16x8_t, b: uint16x8_t) -> float32x4_t {
    // SAFETY: the target feature has the instruction, which touches its three registers only.
    unsafe {
        asm!("fmlal {0:v}.4s, {1:v}.4h, {2:v}.4h", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum` plus the products of the last four of eight binary16.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
fn fmlal2(mut sum: float32x4_t, a: uint16x8_t, b: uint16x8_t) -> float32x4_t {
    // SAFETY: the target feature has the instruction, which touches its three registers only.
    unsafe {
        asm!("fmlal2 {0:v}.4s, {1:v}.4h, {2:v}.4h", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Keys for byte elements of type `E`.
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
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
            vaddvq_u32(qq)
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
            let keys = integer_keys::<E, M>(sum4_words(dot), sum4_words(rr), qq);
            store(out.add(i), keys, count);
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. They are exact modulo 2^32, which `MAX_DIM` makes enough. Each row has two independent sums
/// of each kind. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
unsafe fn byte_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([uint32x4_t; N], [uint32x4_t; N]) {
    /// Bytes of one step: two registers.
    const WIDTH: usize = 32;
    let zero = vdupq_n_u32(0);
    let (mut a, mut b) = ([[zero; 2]; N], [[zero; 2]; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i + WIDTH <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = [vld1q_u8(q.add(i)), vld1q_u8(q.add(i + 16))];
            for k in 0..N {
                if i % 64 == 0 {
                    prefetch(fetch[k].wrapping_add(i << ahead.shift));
                }
                for u in 0..2 {
                    let r0 = vld1q_u8(p[k].add(i + 16 * u));
                    a[k][u] = byte_terms::<E, M>(q0[u], r0, a[k][u]);
                    if M == COSINE {
                        b[k][u] = byte_terms::<E, M>(r0, r0, b[k][u]);
                    }
                }
            }
            i += WIDTH;
        }
        while i < dim {
            let q0 = load_part128(q.add(i), dim - i);
            for k in 0..N {
                let r0 = load_part128(p[k].add(i), dim - i);
                a[k][0] = byte_terms::<E, M>(q0, r0, a[k][0]);
                if M == COSINE {
                    b[k][0] = byte_terms::<E, M>(r0, r0, b[k][0]);
                }
            }
            i += 16;
        }
    }
    let sum = |v: [uint32x4_t; 2]| vaddq_u32(v[0], v[1]);
    (a.map(sum), b.map(sum))
}

/// `sum` plus the terms of sixteen elements, modulo 2^32.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
fn byte_terms<const E: u32, const M: u32>(
    q: uint8x16_t,
    r: uint8x16_t,
    sum: uint32x4_t,
) -> uint32x4_t {
    match (M, E) {
        // The difference of signed bytes has at most eight bits as well, without a sign.
        (L2SQ, I8) => {
            let d = vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r));
            udot(sum, vreinterpretq_u8_s8(d), vreinterpretq_u8_s8(d))
        }
        (L2SQ, _) => {
            let d = vabdq_u8(q, r);
            udot(sum, d, d)
        }
        (_, I8) => sdot(sum, q, r),
        _ => udot(sum, q, r),
    }
}

/// `sum` plus four products of unsigned bytes in each lane.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
fn udot(mut sum: uint32x4_t, a: uint8x16_t, b: uint8x16_t) -> uint32x4_t {
    // SAFETY: the target feature has the instruction, which touches its three registers only.
    unsafe {
        asm!("udot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum` plus four products of signed bytes in each lane.
#[inline]
#[target_feature(enable = "neon,dotprod,fp16,fhm")]
fn sdot(mut sum: uint32x4_t, a: uint8x16_t, b: uint8x16_t) -> uint32x4_t {
    // SAFETY: the target feature has the instruction, which touches its three registers only.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
