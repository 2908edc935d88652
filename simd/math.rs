// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The few float functions that `core` lacks, from the baseline instructions of each architecture.

/// The square root of `x`, correctly rounded.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn sqrt(x: f64) -> f64 {
    use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set_sd, _mm_sqrt_sd};
    // SAFETY: SSE2 is part of the x86-64 baseline this crate is compiled for.
    unsafe {
        let v = _mm_set_sd(x);
        _mm_cvtsd_f64(_mm_sqrt_sd(v, v))
    }
}

/// The square root of `x`, correctly rounded.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub fn sqrt(x: f64) -> f64 {
    use core::arch::aarch64::{vdup_n_f64, vget_lane_f64, vsqrt_f64};
    // SAFETY: Advanced SIMD is part of the arm64 baseline this crate is compiled for.
    unsafe { vget_lane_f64::<0>(vsqrt_f64(vdup_n_f64(x))) }
}

/// The value of the binary16 with these bits; exact.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = ((bits & 0x8000) as u32) << 16;
    let rest = ((bits & 0x7fff) as u32) << 13;
    let magnitude = if rest >= 0x7c00 << 13 {
        rest | 0x7f80_0000
    } else {
        // Moves the exponent from bias 15 to bias 127; a multiplication by a power of two also
        // normalises subnormal numbers.
        (f32::from_bits(rest) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

/// The value of the bfloat16 with these bits; exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The bits of the binary16 nearest to `x`, ties to even.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // From 2^-14 on: the exponent moves from bias 127 to bias 15, half a unit is added, and one
    // unit less if that is even. Rounding up may carry into the exponent, which is what it should do.
    let normal = (magnitude
        .wrapping_sub(112 << 23)
        .wrapping_add(0xfff)
        .wrapping_add(magnitude >> 13 & 1)
        >> 13) as u16;
    // Below: adding 0.5, whose unit is 2^-24 as that of subnormal binary16, makes the processor round.
    let half = f32::from_bits(126 << 23);
    let subnormal = (f32::from_bits(magnitude) + half)
        .to_bits()
        .wrapping_sub(half.to_bits()) as u16;
    let finite = if magnitude < 113 << 23 {
        subnormal
    } else {
        normal
    };
    // From 65520 on, halfway to the first number that does not exist, infinity is nearest.
    let rounded = if magnitude >= 0x477f_f000 {
        0x7c00
    } else {
        finite
    };
    let not_a_number = 0x7e00 | (magnitude >> 13 & 0x1ff) as u16;
    sign | if magnitude > 0x7f80_0000 {
        not_a_number
    } else {
        rounded
    }
}

/// The bits of the bfloat16 nearest to `x`, ties to even.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) >> 16) as u16;
    // Rounding must not carry a NaN into infinity.
    let not_a_number = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        not_a_number
    } else {
        rounded
    }
}
