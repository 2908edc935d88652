// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances with arm64 Advanced SIMD.
//!
//! Four rows share each load of the query.

use core::arch::aarch64::*;

use super::{scalar, Ahead, Kind, Rows, BF16, COSINE, F16, F32, I8, INNER_PRODUCT, L2SQ, TILE, U8};
use crate::abi::{Elem, Metric};

/// Elements per block: bounds the chain of roundings in one lane.
const BLOCK: usize = 512;

/// As [`super::score`], with Advanced SIMD.
///
/// # Safety
///
/// As [`super::score`].
#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
pub(super) unsafe fn floats<R: Rows, const E: u32, const M: u32>(
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
            vgetq_lane_f32::<0>(sum4(qq, qq, qq, qq))
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

/// Lane sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. Each row has four independent sums, two of each kind or four of one kind: with four
/// rows that is sixteen, the product of four multiply-add units and a latency of four cycles. The order of
/// additions is the same for any `N`. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn float_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([float32x4_t; N], [float32x4_t; N]) {
    let zero = vdupq_n_f32(0.0);
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let (mut block_a, mut block_b) = ([[zero; 4]; N], [[zero; 4]; N]);
    let groups = if M == COSINE { 2 } else { 4 };
    let size = if E == F32 { 4 } else { 2 };
    let step = 4 * groups;
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
                let mut q_parts = [zero; 4];
                for u in 0..groups {
                    q_parts[u] = load4::<E>(q.add((i + 4 * u) * size));
                }
                for k in 0..N {
                    for u in 0..groups {
                        let at = (i + 4 * u) * size;
                        if at % 64 == 0 {
                            prefetch(fetch[k].wrapping_add(at << ahead.shift));
                        }
                        let r = load4::<E>(p[k].add(at));
                        block_a[k][u] = term::<M>(q_parts[u], r, block_a[k][u]);
                        if M == COSINE {
                            block_b[k][u] = vfmaq_f32(block_b[k][u], r, r);
                        }
                    }
                }
                i += step;
            }
            if i == block_end {
                for k in 0..N {
                    let [a0, a1, a2, a3] = block_a[k];
                    let [b0, b1, _, _] = block_b[k];
                    let sum = vaddq_f32(vaddq_f32(a0, a1), vaddq_f32(a2, a3));
                    a[k] = vaddq_f32(a[k], sum);
                    b[k] = vaddq_f32(b[k], vaddq_f32(b0, b1));
                    block_a[k] = [zero; 4];
                    block_b[k] = [zero; 4];
                }
                block_end = if whole - i < BLOCK { whole } else { i + BLOCK };
            }
        }
        while i < dim {
            let count = if dim - i < 4 { dim - i } else { 4 };
            let q_part = load_part::<E>(q.add(i * size), count);
            for k in 0..N {
                let r = load_part::<E>(p[k].add(i * size), count);
                a[k] = term::<M>(q_part, r, a[k]);
                if M == COSINE {
                    b[k] = vfmaq_f32(b[k], r, r);
                }
            }
            i += 4;
        }
    }
    (a, b)
}

/// `sum` plus the terms of four elements.
#[inline]
#[target_feature(enable = "neon")]
fn term<const M: u32>(q: float32x4_t, r: float32x4_t, sum: float32x4_t) -> float32x4_t {
    if M == L2SQ {
        let d = vsubq_f32(q, r);
        vfmaq_f32(sum, d, d)
    } else {
        vfmaq_f32(sum, q, r)
    }
}

/// Brings the line at `p` into the cache, if there is one.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn prefetch(p: *const u8) {
    // SAFETY: a prefetch does not fault and changes no state of the program.
    #[cfg(not(miri))]
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{0}]", in(reg) p,
            options(nostack, preserves_flags, readonly));
    }
    let _ = p;
}

/// Four float elements.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load4<const E: u32>(p: *const u8) -> float32x4_t {
    // SAFETY: the caller promises four elements at `p`; the reads allow any alignment.
    unsafe {
        match E {
            F32 => vld1q_f32(p.cast()),
            F16 => widen_f16(vcreate_u16(p.cast::<u64>().read_unaligned())),
            _ => widen_bf16(vcreate_u16(p.cast::<u64>().read_unaligned())),
        }
    }
}

/// `count` float elements, 1 to 4, and zeros after them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_part<const E: u32>(p: *const u8, count: usize) -> float32x4_t {
    let size = if E == F32 { 4 } else { 2 };
    // SAFETY: the caller promises `count` elements.
    let v = unsafe { load_part128(p, count * size) };
    match E {
        F32 => vreinterpretq_f32_u8(v),
        F16 => widen_f16(vget_low_u16(vreinterpretq_u16_u8(v))),
        _ => widen_bf16(vget_low_u16(vreinterpretq_u16_u8(v))),
    }
}

/// `count` bytes, 1 to 16, and zeros after them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_part128(p: *const u8, count: usize) -> uint8x16_t {
    // SAFETY: the reads together cover `count` bytes; each is inside of them.
    unsafe {
        if count >= 16 {
            return vld1q_u8(p);
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
        let (low, high) = if count >= 8 { (low, part) } else { (part, 0) };
        vcombine_u8(vcreate_u8(low), vcreate_u8(high))
    }
}

/// Four binary16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(v: uint16x4_t) -> float32x4_t {
    // The intrinsic takes a type that is not stable.
    #[cfg(not(miri))]
    {
        let wide: float32x4_t;
        // SAFETY: the instruction is part of the baseline and touches its two registers only.
        unsafe {
            core::arch::asm!("fcvtl {0:v}.4s, {1:v}.4h", lateout(vreg) wide, in(vreg) v,
                options(pure, nomem, nostack, preserves_flags));
        }
        wide
    }
    #[cfg(miri)]
    {
        // SAFETY: both are four lanes of plain numbers.
        let halves: [u16; 4] = unsafe { core::mem::transmute(v) };
        // SAFETY: as above.
        unsafe { core::mem::transmute(halves.map(crate::math::f16_to_f32)) }
    }
}

/// Four bfloat16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn widen_bf16(v: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshll_n_u16::<16>(v))
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum4(a: float32x4_t, b: float32x4_t, c: float32x4_t, d: float32x4_t) -> float32x4_t {
    vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
}

/// Four keys from four pairs of sums, and a bit for each that says whether the sums were in range.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn float_keys<const M: u32>(
    a: float32x4_t,
    rr: float32x4_t,
    qq: f32,
) -> (uint32x4_t, u32) {
    let zero = vdupq_n_f32(0.0);
    // Not a number and infinity fail the comparison.
    let mut good = vcltq_f32(vabsq_f32(a), vdupq_n_f32(f32::INFINITY));
    let distance = match M {
        L2SQ => a,
        INNER_PRODUCT => vsubq_f32(zero, a),
        _ => {
            // Squares this far from the ends of the range have lost nothing to overflow or
            // underflow, and neither does their product's root.
            let (low, high) = (vdupq_n_f32(1e-24), vdupq_n_f32(1e30));
            let qq = vdupq_n_f32(qq);
            for v in [rr, qq] {
                good = vandq_u32(good, vandq_u32(vcgeq_f32(v, low), vcleq_f32(v, high)));
            }
            let norms = vmulq_f32(vsqrtq_f32(rr), vsqrtq_f32(qq));
            let d = vsubq_f32(vdupq_n_f32(1.0), vdivq_f32(a, norms));
            vminq_f32(vmaxq_f32(d, zero), vdupq_n_f32(2.0))
        }
    };
    let lanes = vcombine_u32(vcreate_u32(1 | 2 << 32), vcreate_u32(4 | 8 << 32));
    (ordered(distance), vaddvq_u32(vandq_u32(good, lanes)))
}

/// The order-preserving images of four floats.
#[inline]
#[target_feature(enable = "neon")]
fn ordered(v: float32x4_t) -> uint32x4_t {
    // Negative numbers are complemented, others get the sign bit.
    let bits = vreinterpretq_s32_f32(v);
    let flip = vorrq_s32(vshrq_n_s32::<31>(bits), vdupq_n_s32(i32::MIN));
    vreinterpretq_u32_s32(veorq_s32(bits, flip))
}

/// The sums of the lanes of four vectors, modulo 2^32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum4_words(v: [uint32x4_t; TILE]) -> uint32x4_t {
    vpaddq_u32(vpaddq_u32(v[0], v[1]), vpaddq_u32(v[2], v[3]))
}

/// Four keys from exact sums, by the operations of the portable code and so with the same bits. Only for
/// `I8` products have a sign; bits are unsigned bytes of 0 and 1.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn integer_keys<const E: u32, const M: u32>(
    dot: uint32x4_t,
    rr: uint32x4_t,
    qq: u32,
) -> uint32x4_t {
    let signed = vreinterpretq_s32_u32(dot);
    ordered(match (M, E) {
        (L2SQ, _) => vcvtq_f32_u32(dot),
        // The negative of a float zero would be another key.
        (INNER_PRODUCT, I8) => vcvtq_f32_s32(vnegq_s32(signed)),
        (INNER_PRODUCT, _) => vsubq_f32(vdupq_n_f32(0.0), vcvtq_f32_u32(dot)),
        _ => {
            let (low, high) = if E == I8 {
                (
                    vcvtq_f64_s64(vmovl_s32(vget_low_s32(signed))),
                    vcvtq_f64_s64(vmovl_high_s32(signed)),
                )
            } else {
                (
                    vcvtq_f64_u64(vmovl_u32(vget_low_u32(dot))),
                    vcvtq_f64_u64(vmovl_high_u32(dot)),
                )
            };
            let low = cosines(low, vmovl_u32(vget_low_u32(rr)), qq);
            let high = cosines(high, vmovl_high_u32(rr), qq);
            vcvt_high_f32_f64(vcvt_f32_f64(low), high)
        }
    })
}

/// Two distances 1 - `qr` / sqrt(`qq` `rr`), or 1 for a zero vector.
#[inline]
#[target_feature(enable = "neon")]
fn cosines(qr: float64x2_t, rr: uint64x2_t, qq: u32) -> float64x2_t {
    let one = vdupq_n_f64(1.0);
    let root = vdupq_n_f64(crate::math::sqrt(qq as f64));
    let norms = vmulq_f64(root, vsqrtq_f64(vcvtq_f64_u64(rr)));
    let distance = vsubq_f64(one, vdivq_f64(qr, norms));
    let distance = vminq_f64(vmaxq_f64(distance, vdupq_n_f64(0.0)), vdupq_n_f64(2.0));
    vbslq_f64(vceqzq_f64(norms), one, distance)
}

/// Keys for byte elements of type `E`.
#[target_feature(enable = "neon")]
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

/// Writes the first `count` keys, 1 to 4.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store(out: *mut u32, keys: uint32x4_t, count: usize) {
    // SAFETY: the caller has room for `count` keys.
    unsafe {
        if count >= TILE {
            return vst1q_u32(out, keys);
        }
        let mut some = [0u32; TILE];
        vst1q_u32(some.as_mut_ptr(), keys);
        // Not by index: it could panic as far as the compiler knows.
        for (k, key) in some.iter().enumerate() {
            if k < count {
                *out.add(k) = *key;
            }
        }
    }
}

/// Lane sums for `N` rows: of squared differences or products, and for `COSINE` of the squares of
/// the row. They are exact modulo 2^32, which `MAX_DIM` makes enough.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn byte_sums<const E: u32, const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    dim: usize,
) -> ([uint32x4_t; N], [uint32x4_t; N]) {
    let zero = vdupq_n_u32(0);
    let (mut a, mut b) = ([zero; N], [zero; N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before element `dim`; prefetches do not fault.
    unsafe {
        while i + 16 <= dim {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = vld1q_u8(q.add(i));
            for k in 0..N {
                if i % 64 == 0 {
                    prefetch(fetch[k].wrapping_add(i << ahead.shift));
                }
                let r0 = vld1q_u8(p[k].add(i));
                a[k] = byte_terms::<E, M>(q0, r0, a[k]);
                if M == COSINE {
                    b[k] = byte_terms::<E, M>(r0, r0, b[k]);
                }
            }
            i += 16;
        }
        if i < dim {
            let q0 = load_part128(q.add(i), dim - i);
            for k in 0..N {
                let r0 = load_part128(p[k].add(i), dim - i);
                a[k] = byte_terms::<E, M>(q0, r0, a[k]);
                if M == COSINE {
                    b[k] = byte_terms::<E, M>(r0, r0, b[k]);
                }
            }
        }
    }
    (a, b)
}

/// `sum` plus the terms of sixteen elements, modulo 2^32.
#[inline]
#[target_feature(enable = "neon")]
fn byte_terms<const E: u32, const M: u32>(
    q: uint8x16_t,
    r: uint8x16_t,
    sum: uint32x4_t,
) -> uint32x4_t {
    if E == I8 && M != L2SQ {
        let (q, r) = (vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r));
        let low = vmull_s8(vget_low_s8(q), vget_low_s8(r));
        let sum = vpadalq_s16(vreinterpretq_s32_u32(sum), low);
        return vreinterpretq_u32_s32(vpadalq_s16(sum, vmull_high_s8(q, r)));
    }
    let (q, r) = if M != L2SQ {
        (q, r)
    } else {
        // The difference of signed bytes has at most eight bits as well, without a sign.
        let d = if E == I8 {
            vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(r)))
        } else {
            vabdq_u8(q, r)
        };
        (d, d)
    };
    let sum = vpadalq_u16(sum, vmull_u8(vget_low_u8(q), vget_low_u8(r)));
    vpadalq_u16(sum, vmull_high_u8(q, r))
}

/// Keys for bit vectors.
#[target_feature(enable = "neon")]
pub(super) unsafe fn bits<R: Rows, const M: u32>(
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let len_bytes = Elem::Binary.row_bytes(dim);
    // Which bits of the last register count; those that are not there are zero anyway.
    let mut counts = [0xff_u8; 16];
    counts[(len_bytes - 1) % 16] = 0xff >> (len_bytes * 8 - dim);
    // SAFETY: the caller promises the query, `n` rows and `n` places for results; every index
    // below is less than `n`.
    unsafe {
        let counts = vld1q_u8(counts.as_ptr());
        let qq = if M == COSINE {
            let ahead = Ahead::none(query);
            let (_, [qq]) = bit_sums::<M, 1>(query, [query], &ahead, len_bytes, counts);
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
            let ahead = Ahead::tile(rows, i, n, len_bytes);
            let (dot, rr) = bit_sums::<M, TILE>(query, p, &ahead, len_bytes, counts);
            let keys = integer_keys::<U8, M>(sum4_words(dot), sum4_words(rr), qq);
            store(out.add(i), keys, count);
            i += TILE;
        }
    }
}

/// Lane sums for `N` rows: of differing or common bits, and for `COSINE` of the row's. `counts` says which
/// bits of the last register count. Prefetches `ahead` at the same pace.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn bit_sums<const M: u32, const N: usize>(
    q: *const u8,
    p: [*const u8; N],
    ahead: &Ahead<N>,
    len_bytes: usize,
    counts: uint8x16_t,
) -> ([uint32x4_t; N], [uint32x4_t; N]) {
    // Each lane takes at most 16 of every 128 bits: 8,192 of `MAX_DIM`.
    let (mut a, mut b) = ([vdupq_n_u16(0); N], [vdupq_n_u16(0); N]);
    let mut fetch = &ahead.near;
    let mut i = 0;
    // SAFETY: each load ends at or before byte `len_bytes`; prefetches do not fault.
    unsafe {
        while i + 16 < len_bytes {
            if i >= ahead.cut {
                fetch = &ahead.far;
            }
            let q0 = vld1q_u8(q.add(i));
            for k in 0..N {
                if i % 64 == 0 {
                    prefetch(fetch[k].wrapping_add(i << ahead.shift));
                }
                bit_terms::<M>(q0, vld1q_u8(p[k].add(i)), &mut a[k], &mut b[k]);
            }
            i += 16;
        }
        if i >= ahead.cut {
            fetch = &ahead.far;
        }
        let q0 = vandq_u8(load_part128(q.add(i), len_bytes - i), counts);
        for k in 0..N {
            prefetch(fetch[k].wrapping_add(i << ahead.shift));
            let r0 = vandq_u8(load_part128(p[k].add(i), len_bytes - i), counts);
            bit_terms::<M>(q0, r0, &mut a[k], &mut b[k]);
        }
    }
    (a.map(|v| vpaddlq_u16(v)), b.map(|v| vpaddlq_u16(v)))
}

/// Adds the counts of 128 bits.
#[inline]
#[target_feature(enable = "neon")]
fn bit_terms<const M: u32>(
    q: uint8x16_t,
    r: uint8x16_t,
    dot: &mut uint16x8_t,
    rr: &mut uint16x8_t,
) {
    let term = if M == L2SQ {
        veorq_u8(q, r)
    } else {
        vandq_u8(q, r)
    };
    *dot = vpadalq_u8(*dot, vcntq_u8(term));
    if M == COSINE {
        *rr = vpadalq_u8(*rr, vcntq_u8(r));
    }
}
