// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Conversions between element types, and normalisation. The same bits on every instruction set.
//!
//! Narrowing rounds to nearest, ties to even; what is too large becomes infinite, and NaN stays a
//! (quiet) NaN. Widening, of integers and bits too, is exact. Quantisation to i8 is affine: `x = code * scale + offset`, with one
//! pair of `offset` and `scale` for all dimensions or one for each.

use crate::abi::{Elem, Isa};
use crate::isa::per_isa;
use crate::math::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, sqrt};

per_isa! {
    /// Converts `n` elements of type `from` at `src` to type `to` at `dst`: from any type but f32 to f32,
    /// or from f32 to f16 or bf16. Returns 0, or 1 if there is no such conversion.
    pub unsafe fn convert(isa, from: Elem, to: Elem, src: *const u8, dst: *mut u8, n: usize) -> u32 =
        convert_body;

    /// Quantises a vector of `dim` f32 at `src` to i8 at `dst`. `offset` and `scale` are f32, `dim` of
    /// them if `per_dim` and one if not.
    pub unsafe fn quantise(
        isa, src: *const u8, dst: *mut u8, dim: usize,
        offset: *const u8, scale: *const u8, per_dim: bool,
    ) -> () = quantise_body;

    /// The reverse of [`quantise`], up to half a `scale`.
    pub unsafe fn dequantise(
        isa, src: *const u8, dst: *mut u8, dim: usize,
        offset: *const u8, scale: *const u8, per_dim: bool,
    ) -> () = dequantise_body;

    /// Divides the vector of `dim` f32 at `p` by its norm. Returns 1, or 0 if it is zero or not
    /// finite; then it is left as it is.
    pub unsafe fn normalise(isa, p: *mut u8, dim: usize) -> u32 = normalise_body;
}

#[inline(always)]
unsafe fn load(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the vector; the read allows any alignment.
    unsafe { p.cast::<f32>().add(i).read_unaligned() }
}

#[inline(always)]
unsafe fn store(p: *mut u8, i: usize, v: f32) {
    // SAFETY: the caller keeps `i` within the vector; the write allows any alignment.
    unsafe { p.cast::<f32>().add(i).write_unaligned(v) }
}

/// # Safety
///
/// `n` elements are readable at `src` and writable at `dst`, which do not overlap.
#[inline(always)]
unsafe fn convert_body(from: Elem, to: Elem, src: *const u8, dst: *mut u8, n: usize) -> u32 {
    let (half_src, half_dst) = (src.cast::<u16>(), dst.cast::<u16>());
    // SAFETY: every index is below `n`; the accesses allow any alignment.
    unsafe {
        match (from, to) {
            (Elem::F32, Elem::F16) => {
                for i in 0..n {
                    half_dst.add(i).write_unaligned(f32_to_f16(load(src, i)));
                }
            }
            (Elem::F32, Elem::Bf16) => {
                for i in 0..n {
                    half_dst.add(i).write_unaligned(f32_to_bf16(load(src, i)));
                }
            }
            (Elem::F16, Elem::F32) => {
                for i in 0..n {
                    store(dst, i, f16_to_f32(half_src.add(i).read_unaligned()));
                }
            }
            (Elem::Bf16, Elem::F32) => {
                for i in 0..n {
                    store(dst, i, bf16_to_f32(half_src.add(i).read_unaligned()));
                }
            }
            (Elem::I8, Elem::F32) => {
                for i in 0..n {
                    store(dst, i, *src.add(i) as i8 as f32);
                }
            }
            (Elem::U8, Elem::F32) => {
                for i in 0..n {
                    store(dst, i, *src.add(i) as f32);
                }
            }
            (Elem::Binary, Elem::F32) => {
                for i in 0..n {
                    store(dst, i, (*src.add(i >> 3) >> (i & 7) & 1) as f32);
                }
            }
            _ => return 1,
        }
    }
    0
}

/// # Safety
///
/// The shapes are those of [`quantise`]; `dst` overlaps nothing.
#[inline(always)]
unsafe fn quantise_body(
    src: *const u8,
    dst: *mut u8,
    dim: usize,
    offset: *const u8,
    scale: *const u8,
    per_dim: bool,
) {
    let code = |x: f32, offset: f32, scale: f32| {
        let v = (x - offset) / scale;
        // A NaN, from 0/0 in a dimension of constant value, fails both comparisons and ends as 0.
        let v = if v > 127.0 { 127.0 } else { v };
        let v = if v < -128.0 { -128.0 } else { v };
        // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the lowest bits.
        ((v + 12_582_912.0).to_bits() & if v.is_nan() { 0 } else { 0xff }) as u8
    };
    // SAFETY: every index is below `dim`.
    unsafe {
        if per_dim {
            for i in 0..dim {
                *dst.add(i) = code(load(src, i), load(offset, i), load(scale, i));
            }
        } else {
            let (offset, scale) = (load(offset, 0), load(scale, 0));
            for i in 0..dim {
                *dst.add(i) = code(load(src, i), offset, scale);
            }
        }
    }
}

/// # Safety
///
/// The shapes are those of [`quantise`], reversed; `dst` overlaps nothing.
#[inline(always)]
unsafe fn dequantise_body(
    src: *const u8,
    dst: *mut u8,
    dim: usize,
    offset: *const u8,
    scale: *const u8,
    per_dim: bool,
) {
    // SAFETY: every index is below `dim`.
    unsafe {
        if per_dim {
            for i in 0..dim {
                let code = *src.add(i) as i8 as f32;
                store(dst, i, code * load(scale, i) + load(offset, i));
            }
        } else {
            let (offset, scale) = (load(offset, 0), load(scale, 0));
            for i in 0..dim {
                store(dst, i, *src.add(i) as i8 as f32 * scale + offset);
            }
        }
    }
}

/// # Safety
///
/// `dim` f32 are readable and writable at `p`.
#[inline(always)]
unsafe fn normalise_body(p: *mut u8, dim: usize) -> u32 {
    const LANES: usize = 8;
    let mut sums = [0f64; LANES];
    // SAFETY: every index is below `dim`.
    unsafe {
        let whole = dim & !(LANES - 1);
        let mut i = 0;
        while i < whole {
            for k in 0..LANES {
                let x = load(p, i + k) as f64;
                sums[k] += x * x;
            }
            i += LANES;
        }
        while i < dim {
            let x = load(p, i) as f64;
            sums[0] += x * x;
            i += 1;
        }
        let sum = ((sums[0] + sums[4]) + (sums[1] + sums[5]))
            + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
        // No f32 has a square that overflows or vanishes in f64. NaN fails the comparison.
        if !(sum > 0.0 && sum < f64::INFINITY) {
            return 0;
        }
        let inverse = 1.0 / sqrt(sum);
        for i in 0..dim {
            store(p, i, (load(p, i) as f64 * inverse) as f32);
        }
    }
    1
}

/// Converts `n` elements of type `from` at `src` to type `to` at `dst`: from any type but f32 to f32, or
/// from f32 to f16 or bf16. Returns 0, or 1 if there is no such conversion.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, `n` elements are readable at `src` and
/// writable at `dst`, at any alignment, and the two do not overlap.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_convert(
    isa: u32,
    from: u32,
    to: u32,
    src: *const u8,
    dst: *mut u8,
    n: usize,
) -> u32 {
    match (Isa::from_u32(isa), Elem::from_u32(from), Elem::from_u32(to)) {
        (Some(isa), Some(from), Some(to)) => {
            // SAFETY: as promised by the caller.
            unsafe { convert(isa, from, to, src, dst, n) }
        }
        _ => 1,
    }
}

/// Quantises a vector of f32 at `src` to i8 at `dst`, or back if `back` is not 0. `offset` and `scale`
/// are `dim` f32 each if `per_dim` is not 0, else one each. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, all vectors are readable or writable at
/// any alignment, and `dst` overlaps none of the others.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_quantise(
    isa: u32,
    back: u32,
    src: *const u8,
    dst: *mut u8,
    dim: usize,
    offset: *const u8,
    scale: *const u8,
    per_dim: u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe {
        if back == 0 {
            quantise(isa, src, dst, dim, offset, scale, per_dim != 0);
        } else {
            dequantise(isa, src, dst, dim, offset, scale, per_dim != 0);
        }
    }
    0
}

/// Divides the vector of `dim` f32 at `p` by its norm. Returns 1, or 0 if it is zero or not finite,
/// and then leaves it as it is.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, and `dim` f32 are readable and writable at
/// `p`, at any alignment.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_normalise(isa: u32, p: *mut u8, dim: usize) -> u32 {
    match Isa::from_u32(isa) {
        // SAFETY: as promised by the caller.
        Some(isa) => unsafe { normalise(isa, p, dim) },
        None => 0,
    }
}
