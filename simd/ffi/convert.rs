// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to conversions between element types, and to normalisation.

use crate::{BadShape, Elem, FpuToken, Isa, MAX_DIM};

extern "C" {
    fn vexfs_simd_convert(
        isa: u32,
        from: u32,
        to: u32,
        src: *const u8,
        dst: *mut u8,
        n: usize,
    ) -> u32;
    fn vexfs_simd_quantise(
        isa: u32,
        back: u32,
        src: *const u8,
        dst: *mut u8,
        dim: usize,
        offset: *const u8,
        scale: *const u8,
        per_dim: u32,
    ) -> u32;
    fn vexfs_simd_normalise(isa: u32, p: *mut u8, dim: usize) -> u32;
}

/// Converts elements between f32 and f16 or bf16, or from integers or bits to f32.
///
/// Shapes: `src` and `dst` hold the same number of elements of type `from` and `to`; any alignment. Of
/// bits, `dst` says how many there are.
/// Narrowing rounds to nearest, ties to even; numbers beyond the range become infinite, so look for
/// them with [`first_non_finite`](crate::first_non_finite) afterwards. The same bits on every
/// instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit or there is no such conversion.
pub fn convert(
    _token: &FpuToken<'_>,
    isa: Isa,
    from: Elem,
    to: Elem,
    src: &[u8],
    dst: &mut [u8],
) -> Result<(), BadShape> {
    let (n, fits) = match (from, to) {
        (Elem::F32, Elem::F16 | Elem::Bf16) => (
            src.len() >> 2,
            src.len() & 3 == 0 && dst.len() == src.len() >> 1,
        ),
        (Elem::F16 | Elem::Bf16, Elem::F32) => (
            src.len() >> 1,
            dst.len() & 3 == 0 && src.len() == dst.len() >> 1,
        ),
        (Elem::I8 | Elem::U8 | Elem::Binary, Elem::F32) => {
            let n = dst.len() >> 2;
            // Four times fewer bytes cannot be too many to multiply.
            let rows = n <= usize::MAX >> 3 && src.len() == from.row_bytes(n);
            (n, dst.len() & 3 == 0 && rows)
        }
        _ => return Err(BadShape),
    };
    if !fits {
        return Err(BadShape);
    }
    // SAFETY: both slices hold `n` elements, as just checked, and a mutable one overlaps nothing. The
    // token proves that vector registers may be used, and `word` that the processor has the
    // instructions.
    let failed = unsafe {
        vexfs_simd_convert(
            isa.word(),
            from as u32,
            to as u32,
            src.as_ptr(),
            dst.as_mut_ptr(),
            n,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// The affine map between f32 and i8 codes: `x = code * scale + offset`.
///
/// Both are f32 in native byte order: one for all dimensions (4 bytes) or one for each.
#[derive(Clone, Copy, Debug)]
pub struct Quantiser<'a> {
    /// The value of code 0.
    pub offset: &'a [u8],
    /// The distance between the values of neighbouring codes.
    pub scale: &'a [u8],
}

impl Quantiser<'_> {
    /// Whether there is one pair for each of `dim` dimensions.
    fn per_dim(&self, dim: usize) -> Result<bool, BadShape> {
        if dim > MAX_DIM || self.offset.len() != self.scale.len() {
            Err(BadShape)
        } else if self.offset.len() == 4 {
            Ok(false)
        } else if self.offset.len() == Elem::F32.row_bytes(dim) {
            Ok(true)
        } else {
            Err(BadShape)
        }
    }
}

/// Quantises a vector of f32 to i8.
///
/// Shapes: `dst` is `dim` bytes, `src` 4 times as many. Codes are rounded to nearest, ties to even,
/// and saturate at -128 and 127, also where the difference to `offset` is beyond the range of f32.
/// The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn quantise_i8(
    _token: &FpuToken<'_>,
    isa: Isa,
    by: Quantiser<'_>,
    src: &[u8],
    dst: &mut [u8],
) -> Result<(), BadShape> {
    let dim = dst.len();
    let per_dim = by.per_dim(dim)?;
    if src.len() != Elem::F32.row_bytes(dim) {
        return Err(BadShape);
    }
    // SAFETY: `src` has `dim` f32, `dst` `dim` bytes and the quantiser one pair or `dim`, as just
    // checked. The token proves that vector registers may be used, and `word` that the processor
    // has the instructions.
    let failed = unsafe {
        vexfs_simd_quantise(
            isa.word(),
            0,
            src.as_ptr(),
            dst.as_mut_ptr(),
            dim,
            by.offset.as_ptr(),
            by.scale.as_ptr(),
            u32::from(per_dim),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// The reverse of [`quantise_i8`]; of a value within the range of codes it is off by at most half a
/// `scale`, and the rounding of the result.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn dequantise_i8(
    _token: &FpuToken<'_>,
    isa: Isa,
    by: Quantiser<'_>,
    src: &[u8],
    dst: &mut [u8],
) -> Result<(), BadShape> {
    let dim = src.len();
    let per_dim = by.per_dim(dim)?;
    if dst.len() != Elem::F32.row_bytes(dim) {
        return Err(BadShape);
    }
    // SAFETY: `src` has `dim` bytes, `dst` `dim` f32 and the quantiser one pair or `dim`, as just
    // checked. The token proves that vector registers may be used, and `word` that the processor
    // has the instructions.
    let failed = unsafe {
        vexfs_simd_quantise(
            isa.word(),
            1,
            src.as_ptr(),
            dst.as_mut_ptr(),
            dim,
            by.offset.as_ptr(),
            by.scale.as_ptr(),
            u32::from(per_dim),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Divides a vector of f32 by its Euclidean norm, computed in f64.
///
/// Returns whether it did: a vector that is zero or not finite stays as it is, and so does one whose
/// length is no multiple of 4 bytes. The same bits on every instruction set.
pub fn normalise_f32(_token: &FpuToken<'_>, isa: Isa, vector: &mut [u8]) -> bool {
    if vector.len() & 3 != 0 {
        return false;
    }
    // SAFETY: the slice holds that many f32. The token proves that vector registers may be used, and
    // `word` that the processor has the instructions.
    unsafe { vexfs_simd_normalise(isa.word(), vector.as_mut_ptr(), vector.len() >> 2) != 0 }
}
