// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Codes and factors of a row, and the table of a query for codes of signs.

use super::load;
use crate::abi::{Isa, Metric};
use crate::isa::per_isa;
use crate::math::sqrt;
use crate::pq;

/// Elements of a part of signs.
const SIGNS: usize = 4;

per_isa! {
    /// Writes the signs of `x - c` as codes of four each, and the factors.
    pub unsafe fn encode_signs(
        isa, metric: Metric, x: *const u8, c: *const u8, dim: usize, codes: *mut u8, factors: *mut u32,
    ) -> () = encode_signs_body;

    /// Fills the table of a query for codes of signs: negated sums of four elements, f32 bits.
    pub unsafe fn sign_table(isa, q: *const u8, dim: usize, table: *mut u32) -> () = sign_table_body;

    /// Writes `x - c`.
    pub unsafe fn subtract(isa, x: *const u8, c: *const u8, dim: usize, out: *mut u8) -> () =
        subtract_body;

    /// Writes the factors for the direction that codes and codebooks stand for.
    pub unsafe fn part_factors(
        isa, metric: Metric, residual: *const u8, c: *const u8, codebooks: *const u8,
        nsub: usize, ksub: usize, dsub: usize, codes: *const u8, factors: *mut u32,
    ) -> () = part_factors_body;
}

/// Products of a residual r, a direction x and a centre c.
#[derive(Default)]
struct Products {
    rr: f64,
    rx: f64,
    xx: f64,
    cx: f64,
    cr: f64,
}

impl Products {
    #[inline(always)]
    fn add(&mut self, r: f32, x: f32, c: f32) {
        let (r, x, c) = (r as f64, x as f64, c as f64);
        self.rr += r * r;
        self.rx += r * x;
        self.xx += x * x;
        self.cx += c * x;
        self.cr += c * r;
    }

    /// # Safety
    ///
    /// `factors` is writable for three words.
    #[inline(always)]
    unsafe fn factors(&self, metric: Metric, dim: usize, factors: *mut u32) {
        // A residual of zero, or a direction that leads away from it, estimates nothing.
        let slope = if self.rx > 0.0 {
            self.rr / self.rx
        } else {
            0.0
        };
        // (|r| / ip)^2 - |r|^2, where rounding may take a difference of zero below it.
        let excess = if slope > 0.0 {
            slope * slope * self.xx - self.rr
        } else {
            self.rr
        };
        let degrees = if dim > 1 { dim as f64 - 1.0 } else { 1.0 };
        let spread = sqrt(if excess > 0.0 { excess } else { 0.0 } / degrees);
        let values = if let Metric::InnerProduct = metric {
            [slope * self.cx - self.cr, slope, spread]
        } else {
            let half = if let Metric::Cosine = metric {
                0.5
            } else {
                1.0
            };
            [
                half * (self.rr + 2.0 * slope * self.cx),
                half * 2.0 * slope,
                half * 2.0 * spread,
            ]
        };
        for i in 0..3 {
            // SAFETY: as promised by the caller.
            unsafe { *factors.add(i) = (values[i] as f32).to_bits() };
        }
    }
}

/// Elements beyond `dim` are zeros in both vectors and add nothing.
///
/// # Safety
///
/// `x` and `c` have `dim` f32; `codes` has room for a byte for every four of them, `factors` for three.
#[inline(always)]
unsafe fn encode_signs_body(
    metric: Metric,
    x: *const u8,
    c: *const u8,
    dim: usize,
    codes: *mut u8,
    factors: *mut u32,
) {
    // Sixteen sums side by side, so that they need not wait for each other.
    let (mut rr, mut rx, mut cx, mut cr) = ([0f64; 16], [0f64; 16], [0f64; 16], [0f64; 16]);
    let mut at = 0;
    while at < dim {
        let (mut r, mut c_part) = ([0f32; 16], [0f32; 16]);
        let mut bits = 0u32;
        // SAFETY: every index is below `dim`, or that of a part of four elements.
        unsafe {
            if dim - at >= 16 {
                c_part = c.cast::<[f32; 16]>().byte_add(at * 4).read_unaligned();
                r = x.cast::<[f32; 16]>().byte_add(at * 4).read_unaligned();
            } else {
                for k in 0..dim - at {
                    c_part[k & 15] = load(c, at + k);
                    r[k & 15] = load(x, at + k);
                }
            }
            for k in 0..16 {
                r[k] -= c_part[k];
                bits |= ((r[k] > 0.0) as u32) << k;
            }
            for k in 0..16 {
                let (r, c) = (r[k] as f64, c_part[k] as f64);
                rr[k] += r * r;
                rx[k] += if r > 0.0 { r } else { -r };
                cx[k] += if r > 0.0 { c } else { -c };
                cr[k] += c * r;
            }
            let mut part = 0;
            while part < 4 && at < dim {
                *codes.add(at / SIGNS) = (bits >> (4 * part) & 15) as u8;
                at += SIGNS;
                part += 1;
            }
        }
    }
    let sum = |mut v: [f64; 16]| {
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half >>= 1;
        }
        v[0]
    };
    let products = Products {
        rr: sum(rr),
        rx: sum(rx),
        xx: dim as f64,
        cx: sum(cx),
        cr: sum(cr),
    };
    // SAFETY: as promised by the caller.
    unsafe { products.factors(metric, dim, factors) };
}

/// # Safety
///
/// `q` has `dim` f32, the table room for 16 words for every four of them.
#[inline(always)]
unsafe fn sign_table_body(q: *const u8, dim: usize, table: *mut u32) {
    let mut at = 0;
    while at < dim {
        let mut part = [0f32; SIGNS];
        for k in 0..SIGNS {
            if at + k < dim {
                // SAFETY: the index is below `dim`.
                part[k] = unsafe { load(q, at + k) };
            }
        }
        for code in 0..16 {
            let signed = |k: usize| {
                if code >> k & 1 == 1 {
                    -part[k]
                } else {
                    part[k]
                }
            };
            let sum = (signed(0) + signed(1)) + (signed(2) + signed(3));
            // SAFETY: 16 entries for each part.
            unsafe { *table.add(at / SIGNS * 16 + code) = sum.to_bits() };
        }
        at += SIGNS;
    }
}

/// # Safety
///
/// All three vectors have `dim` f32; `out` overlaps none.
#[inline(always)]
unsafe fn subtract_body(x: *const u8, c: *const u8, dim: usize, out: *mut u8) {
    for i in 0..dim {
        // SAFETY: `i` is below `dim`.
        unsafe {
            let r = load(x, i) - load(c, i);
            out.cast::<f32>().add(i).write_unaligned(r);
        }
    }
}

/// # Safety
///
/// The vectors have `nsub * dsub` f32, codes are below `ksub`, codebooks have `nsub * ksub * dsub` f32.
#[inline(always)]
unsafe fn part_factors_body(
    metric: Metric,
    residual: *const u8,
    c: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    codes: *const u8,
    factors: *mut u32,
) {
    let mut products = Products::default();
    // SAFETY: every index is below those of the vectors or of a codebook.
    unsafe {
        for s in 0..nsub {
            let word = (s * ksub + *codes.add(s) as usize) * dsub;
            for d in 0..dsub {
                let at = s * dsub + d;
                products.add(load(residual, at), load(codebooks, word + d), load(c, at));
            }
        }
        products.factors(metric, nsub * dsub, factors);
    }
}

/// Encodes `x - c` by a product quantiser. `residual` is scratch memory for a vector.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, vectors have `nsub * dsub` f32, codebooks
/// `nsub * ksub * dsub`, `ksub` is in `1..=256`, `codes` has room for `nsub` bytes, `factors` for three words.
unsafe fn encode_parts(
    isa: Isa,
    metric: Metric,
    x: *const u8,
    c: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    residual: *mut u8,
    codes: *mut u8,
    factors: *mut u32,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        subtract(isa, x, c, nsub * dsub, residual);
        pq::encode(isa, residual, codebooks, nsub, ksub, dsub, codes);
        part_factors(
            isa, metric, residual, c, codebooks, nsub, ksub, dsub, codes, factors,
        );
    }
}

/// See [`encode_signs`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; otherwise as [`encode_signs_body`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_encode_signs(
    isa: u32,
    metric: u32,
    x: *const u8,
    c: *const u8,
    dim: usize,
    codes: *mut u8,
    factors: *mut u32,
) -> u32 {
    let (Some(isa), Some(metric)) = (Isa::from_u32(isa), Metric::from_u32(metric)) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { encode_signs(isa, metric, x, c, dim, codes, factors) };
    0
}

/// See [`encode_parts`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As [`encode_parts`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_encode_parts(
    isa: u32,
    metric: u32,
    x: *const u8,
    c: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    residual: *mut u8,
    codes: *mut u8,
    factors: *mut u32,
) -> u32 {
    let (Some(isa), Some(metric)) = (Isa::from_u32(isa), Metric::from_u32(metric)) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe {
        encode_parts(
            isa, metric, x, c, codebooks, nsub, ksub, dsub, residual, codes, factors,
        )
    };
    0
}

/// See [`sign_table`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; otherwise as [`sign_table_body`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_sign_table(
    isa: u32,
    q: *const u8,
    dim: usize,
    table: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { sign_table(isa, q, dim, table) };
    0
}

/// See [`subtract`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; otherwise as [`subtract_body`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_subtract(
    isa: u32,
    x: *const u8,
    c: *const u8,
    dim: usize,
    out: *mut u8,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { subtract(isa, x, c, dim, out) };
    0
}
