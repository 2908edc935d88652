// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Scans of posting blocks: sums over codes, bounds, and what is below the threshold.

use super::{load, HEAD, ROWS};
use crate::abi::{Distance, Isa, Metric};
use crate::isa::per_isa;
use crate::math::sqrt;
use crate::pq;

/// How far ahead of its loads a scan prefetches, in bytes: 2.2 to 3 instead of 6.7 ns for a row of 384 signs that is in
/// memory, on a Zen 5 core.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// Parts whose bytes are summed in 16 bits.
const GROUP: usize = 256;

per_isa! {
    /// Sums of table entries for `n` rows of a block of 8-bit codes.
    pub unsafe fn sums8(
        isa, table: *const u32, nsub: usize, codes: *const u8, n: usize, sums: *mut f32,
    ) -> () = sums8_body;

    /// From sums to keys of lower bounds of `n` rows; returns a bit for each that is at most `threshold`.
    pub unsafe fn finish(
        isa, sums: *const f32, factors: *const u8, n: usize, base: f32, error: f32, threshold: u32,
        lower: *mut u32,
    ) -> u32 = finish_body;
}

/// # Safety
///
/// As [`pq::sum8`], for `n` rows.
#[inline(always)]
unsafe fn sums8_body(table: *const u32, nsub: usize, codes: *const u8, n: usize, sums: *mut f32) {
    for i in 0..n {
        // SAFETY: `i` is below `n`.
        unsafe { *sums.add(i) = pq::sum8(table, nsub, codes.add(i * nsub)) };
    }
}

/// # Safety
///
/// `sums`, each of the factors and `lower` have `n` elements, at most 32.
#[inline(always)]
unsafe fn finish_body(
    sums: *const f32,
    factors: *const u8,
    n: usize,
    base: f32,
    error: f32,
    threshold: u32,
    lower: *mut u32,
) -> u32 {
    let mut mask = 0;
    for i in 0..n {
        // SAFETY: `i` is below `n`.
        unsafe {
            let add = load(factors, i);
            let scale = load(factors, ROWS + i);
            let spread = load(factors, 2 * ROWS + i);
            let distance = (add + base) + scale * *sums.add(i);
            let bound = distance - spread * error;
            let key = if bound.is_nan() {
                Distance::NAN.0
            } else {
                Distance::from_f32_bits((bound + 0.0).to_bits()).0
            };
            *lower.add(i) = key;
            mask |= ((key <= threshold) as u32) << i;
        }
    }
    mask
}

/// The 4-bit sums of a block, `step` times each, plus `least`.
///
/// # Safety
///
/// As [`pq::scan4`] for any number of parts; `sums` has room for 32.
unsafe fn sums4(
    isa: Isa,
    small: *const u8,
    step: f32,
    least: f32,
    nsub: usize,
    codes: *const u8,
    sums: *mut f32,
) {
    let (mut group, mut total) = ([0u16; ROWS], [0u32; ROWS]);
    let mut s = 0;
    // SAFETY: each group of parts is within what the caller promises, and `i` is below 32.
    unsafe {
        while s < nsub {
            let count = if nsub - s < GROUP { nsub - s } else { GROUP };
            let codes = codes.add(s * 16);
            pq::scan4(isa, small.add(s * 16), count, codes, group.as_mut_ptr());
            for i in 0..ROWS {
                total[i] += group[i] as u32;
            }
            s += count;
        }
        for i in 0..ROWS {
            *sums.add(i) = total[i] as f32 * step + least;
        }
    }
}

/// What a scan knows of its query and its list, as floats.
#[derive(Clone, Copy)]
struct Centre {
    step: f32,
    least: f32,
    base: f32,
    error: f32,
    threshold: u32,
}

/// One block of 4-bit codes.
///
/// # Safety
///
/// As [`sums4`] and [`finish`].
unsafe fn scan_block4(
    isa: Isa,
    small: *const u8,
    nsub: usize,
    codes: *const u8,
    n: usize,
    to: Centre,
    lower: *mut u32,
) -> u32 {
    // SAFETY: as promised by the caller, who has `isa`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => {
                scan_block4_avx512(small, nsub, codes, n, to, lower)
            }
            _ => {
                let mut sums = [0f32; ROWS];
                sums4(
                    isa,
                    small,
                    to.step,
                    to.least,
                    nsub,
                    codes,
                    sums.as_mut_ptr(),
                );
                let factors = codes.add(nsub * ROWS / 2);
                let (sums, Centre { base, error, .. }) = (sums.as_ptr(), to);
                finish(isa, sums, factors, n, base, error, to.threshold, lower)
            }
        }
    }
}

/// As [`scan_block4`], all in registers. No operations are fused, as in portable code.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn scan_block4_avx512(
    small: *const u8,
    nsub: usize,
    codes: *const u8,
    n: usize,
    to: Centre,
    lower: *mut u32,
) -> u32 {
    use core::arch::x86_64::*;
    let factors = codes.wrapping_add(nsub * ROWS / 2).cast::<f32>();
    let mut total = [_mm512_setzero_si512(); 2];
    let mut mask = 0;
    let mut s = 0;
    // SAFETY: each group of parts is within what the caller promises; masked lanes are neither read nor
    // written, and the others are of rows below `n`.
    unsafe {
        while s < nsub {
            let count = if nsub - s < GROUP { nsub - s } else { GROUP };
            let codes = codes.add(s * 16);
            let group = pq::sums4_avx512(small.add(s * 16), count, codes, AHEAD);
            for half in 0..2 {
                total[half] = _mm512_add_epi32(total[half], _mm512_cvtepu16_epi32(group[half]));
            }
            s += count;
        }
        for half in 0..2 {
            let first = half * 16;
            let rows = n.saturating_sub(first);
            let rows = if rows < 16 {
                (1u32 << rows) - 1
            } else {
                0xffff
            } as __mmask16;
            let value = |p: *const f32| _mm512_maskz_loadu_ps(rows, p.add(first));
            let sum = _mm512_add_ps(
                _mm512_mul_ps(_mm512_cvtepi32_ps(total[half]), _mm512_set1_ps(to.step)),
                _mm512_set1_ps(to.least),
            );
            let add = _mm512_add_ps(value(factors), _mm512_set1_ps(to.base));
            let scaled = _mm512_mul_ps(value(factors.add(ROWS)), sum);
            let spread = _mm512_mul_ps(value(factors.add(2 * ROWS)), _mm512_set1_ps(to.error));
            let bound = _mm512_sub_ps(_mm512_add_ps(add, scaled), spread);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(bound, bound);
            let bits = _mm512_castps_si512(_mm512_add_ps(bound, _mm512_setzero_ps()));
            // All bits of a negative number are turned over, and the sign of others.
            let sign = _mm512_set1_epi32(i32::MIN);
            let flip = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), sign);
            let key = _mm512_mask_set1_epi32(_mm512_xor_si512(bits, flip), nan, -1);
            _mm512_mask_storeu_epi32(lower.add(first).cast(), rows, key);
            let threshold = _mm512_set1_epi32(to.threshold as i32);
            let hits = _mm512_mask_cmple_epu32_mask(rows, key, threshold);
            mask |= (hits as u32) << first;
        }
    }
    mask
}

/// Scans `n` rows in blocks of 32, `stride` bytes apart: writes the keys of their lower bounds to `lower`
/// and a bit for each that is at most `threshold` to `hits`, a word for each block.
///
/// `keys` are those of |q - c|^2 and, for `InnerProduct`, of -<c,q>; the bound is `sigmas` hundredths of a
/// standard deviation below the estimate. The table is from `reduce_table` for 4-bit codes, with its
/// `affine`, and of f32 bits for 8-bit codes, with none (null).
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, the table is that of `nsub` parts, the blocks
/// that hold `n` rows are readable, `lower` and `hits` writable for a word for each row and each block.
pub unsafe fn scan_postings(
    isa: Isa,
    metric: Metric,
    table: *const u8,
    affine: *const u32,
    nsub: usize,
    blocks: *const u8,
    stride: usize,
    n: usize,
    keys: [u32; 2],
    sigmas: u32,
    threshold: u32,
    lower: *mut u32,
    hits: *mut u32,
) {
    let [near, inner] = keys;
    let near = f32::from_bits(Distance(near).to_f32_bits());
    let inner = f32::from_bits(Distance(inner).to_f32_bits());
    let base = match metric {
        Metric::InnerProduct => inner,
        Metric::Cosine => 0.5 * near,
        _ => near,
    };
    let mut to = Centre {
        step: 0.0,
        least: 0.0,
        base,
        error: sqrt(near as f64) as f32 * (sigmas as f32 * 0.01),
        threshold,
    };
    if !affine.is_null() {
        // SAFETY: two words, as promised by the caller.
        unsafe {
            to.step = f32::from_bits(*affine);
            to.least = f32::from_bits(*affine.add(1));
        }
    }
    let mut sums = [0f32; ROWS];
    let mut first = 0;
    while first < n {
        let count = if n - first < ROWS { n - first } else { ROWS };
        // SAFETY: the block holds row `first`, and what is written belongs to its rows.
        unsafe {
            let codes = blocks.add(first / ROWS * stride + HEAD);
            let lower = lower.add(first);
            *hits.add(first / ROWS) = if affine.is_null() {
                let factors = codes.add(nsub * ROWS);
                sums8(isa, table.cast(), nsub, codes, count, sums.as_mut_ptr());
                let sums = sums.as_ptr();
                finish(
                    isa, sums, factors, count, to.base, to.error, threshold, lower,
                )
            } else {
                scan_block4(isa, table, nsub, codes, count, to, lower)
            };
        }
        first += ROWS;
    }
}

/// See [`scan_postings`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As [`scan_postings`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_scan_postings(
    isa: u32,
    metric: u32,
    table: *const u8,
    affine: *const u32,
    nsub: usize,
    blocks: *const u8,
    stride: usize,
    n: usize,
    near: u32,
    inner: u32,
    sigmas: u32,
    threshold: u32,
    lower: *mut u32,
    hits: *mut u32,
) -> u32 {
    let (Some(isa), Some(metric)) = (Isa::from_u32(isa), Metric::from_u32(metric)) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe {
        scan_postings(
            isa,
            metric,
            table,
            affine,
            nsub,
            blocks,
            stride,
            n,
            [near, inner],
            sigmas,
            threshold,
            lower,
            hits,
        )
    };
    0
}
