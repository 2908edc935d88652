// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to projections for locality-sensitive hashes.

use crate::{BadShape, FpuToken, Isa};

extern "C" {
    fn vexfs_simd_fixed(isa: u32, src: *const u8, n: usize, scale: u32, out: *mut i32) -> u32;
}

/// Turns the first elements of a vector into fixed-point integers.
///
/// Shapes: `vector` has at least `out.len()` f32; `scale` is f32 bits. `out[i]` becomes `vector[i] * scale`, rounded
/// towards zero; what is too large becomes the greatest or least integer, NaN becomes 0. Of a
/// rotated vector of `dim` elements these are random projections: times the root of `dim` they have
/// the distribution of projections to Gaussian directions (Datar et al., 2004), and their signs are those
/// of random hyperplanes (Charikar, 2002). The same integers on every instruction set.
///
/// Errors: [`BadShape`] if the vector is shorter or its length no multiple of 4 bytes.
pub fn fixed_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    vector: &[u8],
    scale: u32,
    out: &mut [i32],
) -> Result<(), BadShape> {
    if vector.len() & 3 != 0 || vector.len() >> 2 < out.len() {
        return Err(BadShape);
    }
    // SAFETY: the vector has as many f32 as `out` has integers, as just checked. The token proves that
    // vector registers may be used, and `word` that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_fixed(
            isa.word(),
            vector.as_ptr(),
            out.len(),
            scale,
            out.as_mut_ptr(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}
