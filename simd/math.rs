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
