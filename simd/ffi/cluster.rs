// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to k-means steps, the random rotation and sign bits.

use crate::{BadShape, Elem, FpuToken, Isa, MAX_DIM};

extern "C" {
    fn vexfs_simd_assign(
        isa: u32,
        rows: *const u8,
        stride: usize,
        n: usize,
        dim: usize,
        centroids: *const u8,
        k: usize,
        ids: *mut u32,
        keys: *mut u32,
    ) -> u32;
    fn vexfs_simd_accumulate(
        isa: u32,
        rows: *const u8,
        stride: usize,
        n: usize,
        dim: usize,
        ids: *const u32,
        sums: *mut u64,
        counts: *mut u64,
    ) -> u32;
    fn vexfs_simd_centroids(
        isa: u32,
        sums: *const u64,
        counts: *const u64,
        k: usize,
        dim: usize,
        out: *mut u8,
    ) -> usize;
    fn vexfs_simd_spill(isa: u32, first: u32, keys: *const u32, costs: *mut u32, n: usize) -> u32;
    fn vexfs_simd_rotate(isa: u32, seed: u64, p: *mut u8, dim: usize) -> u32;
    fn vexfs_simd_sign_bits(isa: u32, src: *const u8, dim: usize, dst: *mut u8) -> u32;
}

/// Bytes of a row of `dim` f32, if `n` of them, `stride` apart, lie in `rows`.
fn rows_fit(rows: &[u8], stride: usize, n: usize, dim: usize) -> Result<usize, BadShape> {
    if dim == 0 || dim > MAX_DIM {
        return Err(BadShape);
    }
    let row = Elem::F32.row_bytes(dim);
    let end = match n.checked_sub(1) {
        Some(last) => last.checked_mul(stride).and_then(|at| at.checked_add(row)),
        None => Some(0),
    };
    if end.is_none_or(|end| end > rows.len()) {
        return Err(BadShape);
    }
    Ok(row)
}

/// Finds the nearest centroid of each row, by squared Euclidean distance.
///
/// Shapes: `rows` are `ids.len()` rows of `dim` f32, `stride` bytes apart; `centroids` are rows of
/// `dim` f32 without gaps, at least one. `ids[i]` becomes the number of the nearest centroid, of equal
/// ones the first, and `keys[i]` the [`Distance`](crate::Distance) to it.
///
/// Context: an FPU section; the work is rows times centroids, which the caller bounds.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn assign_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    rows: &[u8],
    stride: usize,
    dim: usize,
    centroids: &[u8],
    ids: &mut [u32],
    keys: &mut [u32],
) -> Result<(), BadShape> {
    let row = rows_fit(rows, stride, ids.len(), dim)?;
    let k = centroids.len().checked_div(row).unwrap_or(0);
    let dense = k.checked_mul(row) == Some(centroids.len());
    if k == 0 || !dense || k > u32::MAX as usize || keys.len() != ids.len() {
        return Err(BadShape);
    }
    // SAFETY: the rows, `k` centroids and one result for each row are inside their slices, as just
    // checked. The token proves that vector registers may be used, and `word` that the processor has
    // the instructions.
    let failed = unsafe {
        vexfs_simd_assign(
            isa.word(),
            rows.as_ptr(),
            stride,
            ids.len(),
            dim,
            centroids.as_ptr(),
            k,
            ids.as_mut_ptr(),
            keys.as_mut_ptr(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Adds rows to the sums of their clusters.
///
/// Shapes: `rows` are `ids.len()` rows of `dim` f32, `stride` bytes apart; `counts` has one element for
/// each cluster and `sums` `dim` of them, f64 bits, zero at first. The same bits on every
/// instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit or an id is not that of a cluster; then nothing is
/// changed.
pub fn accumulate_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    rows: &[u8],
    stride: usize,
    dim: usize,
    ids: &[u32],
    sums: &mut [u64],
    counts: &mut [u64],
) -> Result<(), BadShape> {
    rows_fit(rows, stride, ids.len(), dim)?;
    let known = ids.iter().all(|&id| (id as usize) < counts.len());
    if !known || counts.len().checked_mul(dim) != Some(sums.len()) {
        return Err(BadShape);
    }
    // SAFETY: the rows are inside their slice, every id has its sum and count, as just checked, and
    // mutable slices overlap nothing. The token proves that vector registers may be used, and `word`
    // that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_accumulate(
            isa.word(),
            rows.as_ptr(),
            stride,
            ids.len(),
            dim,
            ids.as_ptr(),
            sums.as_mut_ptr(),
            counts.as_mut_ptr(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Turns sums into centroids.
///
/// Shapes: as [`accumulate_f32`]; `out` is one row of `dim` f32 for each cluster, without gaps. The
/// centroid of a cluster without rows stays as it is. Returns how many those are. The same bits on
/// every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn centroids_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    dim: usize,
    sums: &[u64],
    counts: &[u64],
    out: &mut [u8],
) -> Result<usize, BadShape> {
    let elems = counts.len().checked_mul(dim);
    if elems != Some(sums.len()) || sums.len().checked_mul(4) != Some(out.len()) {
        return Err(BadShape);
    }
    // SAFETY: sums, counts and centroids have `dim`, one and `dim` elements for each cluster, as just
    // checked. The token proves that vector registers may be used, and `word` that the processor has
    // the instructions.
    let empty = unsafe {
        vexfs_simd_centroids(
            isa.word(),
            sums.as_ptr(),
            counts.as_ptr(),
            counts.len(),
            dim,
            out.as_mut_ptr(),
        )
    };
    if empty <= counts.len() {
        Ok(empty)
    } else {
        Err(BadShape)
    }
}

/// What second lists cost a row: a residual that is long, or along the first one (SOAR, arXiv 2404.00774).
///
/// All are [`Distance`](crate::Distance)s by squared Euclidean distance: `first` from the row to the centroid of its first
/// list, `keys` to those of others, and `costs` from the centroid of the first list to them, which become the costs
/// `|s|^2 + 1.5 <r,s>^2 / |r|^2` of residuals `s` beside `r`. The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths differ.
pub fn spill_costs(
    _token: &FpuToken<'_>,
    isa: Isa,
    first: u32,
    keys: &[u32],
    costs: &mut [u32],
) -> Result<(), BadShape> {
    if keys.len() != costs.len() {
        return Err(BadShape);
    }
    // SAFETY: there are as many keys as costs, as just checked. The token proves that vector registers may be
    // used, and `word` that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_spill(
            isa.word(),
            first,
            keys.as_ptr(),
            costs.as_mut_ptr(),
            keys.len(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Rotates a vector of f32 in place, by the random rotation that `seed` names.
///
/// It keeps lengths and angles up to rounding, takes O(d log d), and spreads what is in few
/// dimensions over all of them. The same bits on every instruction set: codes of rotated vectors
/// can be stored.
///
/// Errors: [`BadShape`] if the vector is not of 1 to [`MAX_DIM`] f32.
pub fn rotate_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    seed: u64,
    vector: &mut [u8],
) -> Result<(), BadShape> {
    let dim = vector.len() >> 2;
    if dim == 0 || dim > MAX_DIM || vector.len() & 3 != 0 {
        return Err(BadShape);
    }
    // SAFETY: the slice holds `dim` f32. The token proves that vector registers may be used, and `word`
    // that the processor has the instructions.
    let failed = unsafe { vexfs_simd_rotate(isa.word(), seed, vector.as_mut_ptr(), dim) };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Writes the sign hash of a vector of f32: bit `i` says whether element `i` is greater than zero, in
/// the layout of [`Elem::Binary`]. Of a rotated vector these are hashes for random hyperplanes: two
/// vectors at angle a differ in about a/pi of their bits.
///
/// Errors: [`BadShape`] if the vector is not of 1 to [`MAX_DIM`] f32 or `bits` is not one row.
pub fn sign_bits_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    vector: &[u8],
    bits: &mut [u8],
) -> Result<(), BadShape> {
    let dim = vector.len() >> 2;
    let fits = bits.len() == Elem::Binary.row_bytes(dim);
    if dim == 0 || dim > MAX_DIM || vector.len() & 3 != 0 || !fits {
        return Err(BadShape);
    }
    // SAFETY: the slices hold `dim` f32 and as many bits. The token proves that vector registers may be
    // used, and `word` that the processor has the instructions.
    let failed =
        unsafe { vexfs_simd_sign_bits(isa.word(), vector.as_ptr(), dim, bits.as_mut_ptr()) };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}
