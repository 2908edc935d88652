// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to one-bit codes with an error bound (RaBitQ, arXiv 2405.12497).

use crate::{BadShape, Elem, FpuToken, Isa, MAX_DIM};

extern "C" {
    fn vexfs_simd_rabitq_encode(isa: u32, src: *const u8, dim: usize, code: *mut u8) -> u32;
    fn vexfs_simd_rabitq_prepare(
        isa: u32,
        src: *const u8,
        dim: usize,
        planes: *mut u64,
        affine: *mut u32,
    ) -> u32;
    fn vexfs_simd_rabitq_scan(
        isa: u32,
        planes: *const u64,
        affine: *const u32,
        dim: usize,
        codes: *const u8,
        stride: usize,
        n: usize,
        out: *mut u32,
        lower: *mut u32,
    ) -> u32;
}

/// Words of a query's bits for `dim` elements, at most [`MAX_DIM`].
pub const fn rabitq_query_words(dim: usize) -> usize {
    dim.div_ceil(64).wrapping_mul(4)
}

/// Bytes of a code of `dim` elements, at most [`MAX_DIM`]: one bit each in words of 64, and 16 bytes.
pub const fn rabitq_code_bytes(dim: usize) -> usize {
    dim.div_ceil(64).wrapping_mul(8).wrapping_add(16)
}

fn dim_of(vector: &[u8]) -> Result<usize, BadShape> {
    let dim = vector.len() >> 2;
    if dim == 0 || dim > MAX_DIM || vector.len() != Elem::F32.row_bytes(dim) {
        return Err(BadShape);
    }
    Ok(dim)
}

fn done(failed: u32) -> Result<(), BadShape> {
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Encodes a vector.
///
/// Shapes: `vector` is the residual to a centre, rotated by [`rotate_f32`](crate::rotate_f32), as f32;
/// `code` has [`rabitq_code_bytes`] bytes. The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn rabitq_encode(
    _token: &FpuToken<'_>,
    isa: Isa,
    vector: &[u8],
    code: &mut [u8],
) -> Result<(), BadShape> {
    let dim = dim_of(vector)?;
    if code.len() != rabitq_code_bytes(dim) {
        return Err(BadShape);
    }
    // SAFETY: the vector has `dim` f32 and there is room for its code, as just checked. The token
    // proves that vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe { vexfs_simd_rabitq_encode(isa.word(), vector.as_ptr(), dim, code.as_mut_ptr()) })
}

/// Prepares a query for [`rabitq_scan`].
///
/// Shapes: `query` is the residual to the same centre under the same rotation, as f32; `planes` has
/// [`rabitq_query_words`] words; `affine` are f32 bits.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn rabitq_prepare(
    _token: &FpuToken<'_>,
    isa: Isa,
    query: &[u8],
    planes: &mut [u64],
    affine: &mut [u32; 6],
) -> Result<(), BadShape> {
    let dim = dim_of(query)?;
    if planes.len() != rabitq_query_words(dim) {
        return Err(BadShape);
    }
    // SAFETY: the query has `dim` f32 and there is room for its planes and factors, as just checked. The
    // token proves that vector registers may be used, and `word` that the processor has the
    // instructions.
    done(unsafe {
        vexfs_simd_rabitq_prepare(
            isa.word(),
            query.as_ptr(),
            dim,
            planes.as_mut_ptr(),
            affine.as_mut_ptr(),
        )
    })
}

/// Estimates squared Euclidean distances to codes.
///
/// Shapes: `planes` and `affine` are from [`rabitq_prepare`] for `dim` elements; code `i` of `out.len()`
/// starts at byte `i * stride` of `codes`. `out[i]` becomes the estimated
/// [`Distance`](crate::Distance), and `lower[i]` what the exact one falls below in at most some of a
/// thousand cases: only rows whose lower bound is less than the worst result need an exact
/// distance.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn rabitq_scan(
    _token: &FpuToken<'_>,
    isa: Isa,
    planes: &[u64],
    affine: &[u32; 6],
    dim: usize,
    codes: &[u8],
    stride: usize,
    out: &mut [u32],
    lower: &mut [u32],
) -> Result<(), BadShape> {
    if dim == 0 || dim > MAX_DIM || planes.len() != rabitq_query_words(dim) {
        return Err(BadShape);
    }
    if lower.len() != out.len() {
        return Err(BadShape);
    }
    let Some(last) = out.len().checked_sub(1) else {
        return Ok(());
    };
    let end = last
        .checked_mul(stride)
        .and_then(|at| at.checked_add(rabitq_code_bytes(dim)));
    if end.is_none_or(|end| end > codes.len()) {
        return Err(BadShape);
    }
    // SAFETY: the planes are those of `dim` elements, every code is inside its slice, and both results
    // are as long as the number of codes, as just checked. The token proves that vector registers may be
    // used, and `word` that the processor has the instructions.
    done(unsafe {
        vexfs_simd_rabitq_scan(
            isa.word(),
            planes.as_ptr(),
            affine.as_ptr(),
            dim,
            codes.as_ptr(),
            stride,
            out.len(),
            out.as_mut_ptr(),
            lower.as_mut_ptr(),
        )
    })
}
