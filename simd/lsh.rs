// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Projections of a vector as fixed-point numbers, for locality-sensitive hashes.

use crate::abi::Isa;
use crate::isa::per_isa;

per_isa! {
    /// Writes `x * scale` of `n` f32 as integers, rounded towards zero; what is too large becomes the
    /// greatest or least, NaN becomes 0.
    pub unsafe fn fixed(isa, src: *const u8, n: usize, scale: u32, out: *mut i32) -> () = fixed_body;
}

/// # Safety
///
/// `n` f32 are readable at `src`, as many integers writable at `out`.
#[inline(always)]
unsafe fn fixed_body(src: *const u8, n: usize, scale: u32, out: *mut i32) {
    let scale = f32::from_bits(scale);
    for i in 0..n {
        // SAFETY: `i` is below `n`; the read allows any alignment.
        unsafe {
            let x = src.cast::<f32>().add(i).read_unaligned();
            *out.add(i) = (x * scale) as i32;
        }
    }
}

/// See [`fixed`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; otherwise as [`fixed_body`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_fixed(
    isa: u32,
    src: *const u8,
    n: usize,
    scale: u32,
    out: *mut i32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { fixed(isa, src, n, scale, out) };
    0
}
