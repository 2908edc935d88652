// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to product quantisation: encoding, query tables and scans over codes.
//!
//! Tables are f32 bits; codes are bytes, one per part, or 4-bit codes in blocks of 32 rows.

use crate::{BadShape, Elem, FpuToken, Isa, Metric, MAX_DIM};

extern "C" {
    fn vexfs_simd_pq_encode(
        isa: u32,
        vector: *const u8,
        codebooks: *const u8,
        nsub: usize,
        ksub: usize,
        dsub: usize,
        codes: *mut u8,
    ) -> u32;
    fn vexfs_simd_pq_table(
        isa: u32,
        metric: u32,
        query: *const u8,
        codebooks: *const u8,
        nsub: usize,
        ksub: usize,
        dsub: usize,
        table: *mut u32,
    ) -> u32;
    fn vexfs_simd_pq_scan8(
        isa: u32,
        table: *const u32,
        nsub: usize,
        codes: *const u8,
        n: usize,
        out: *mut u32,
    ) -> u32;
    fn vexfs_simd_pq_reduce_table(
        isa: u32,
        table: *const u32,
        nsub: usize,
        small: *mut u8,
        affine: *mut u32,
    ) -> u32;
    fn vexfs_simd_pq_scan4(
        isa: u32,
        small: *const u8,
        affine: *const u32,
        nsub: usize,
        codes: *const u8,
        blocks: usize,
        out: *mut u32,
    ) -> u32;
}

/// Rows per block of 4-bit codes.
const BLOCK: usize = 32;

/// Bytes that one part takes in a block, and centroids of a 4-bit codebook.
const PART: usize = 16;

/// How a vector is cut: `nsub` parts of `dsub` elements, `ksub` centroids for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PqShape {
    /// Parts of a vector: the bytes of a code.
    pub nsub: usize,
    /// Centroids of a codebook, 1 to 256.
    pub ksub: usize,
    /// Elements of a part.
    pub dsub: usize,
}

impl PqShape {
    /// Whether the shape, a vector and codebooks fit each other.
    pub(crate) fn check(&self, vector: &[u8], codebooks: &[u8]) -> Result<(), BadShape> {
        let dim = self.nsub.checked_mul(self.dsub).ok_or(BadShape)?;
        if dim == 0 || dim > MAX_DIM || self.ksub == 0 || self.ksub > 256 {
            return Err(BadShape);
        }
        let row = Elem::F32.row_bytes(dim);
        // At most 2^26, so this does not overflow.
        if vector.len() != row || codebooks.len() != row.wrapping_mul(self.ksub) {
            return Err(BadShape);
        }
        Ok(())
    }
}

/// The words of the unsafe blocks below: 0 is success.
fn done(failed: u32) -> Result<(), BadShape> {
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Replaces each part of a vector by the number of its nearest centroid; of equal ones the first.
///
/// Shapes: `vector` is `nsub * dsub` f32; `codebooks` are `nsub` codebooks of `ksub` centroids of `dsub`
/// f32; `codes` is one byte per part.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn pq_encode(
    _token: &FpuToken<'_>,
    isa: Isa,
    shape: PqShape,
    vector: &[u8],
    codebooks: &[u8],
    codes: &mut [u8],
) -> Result<(), BadShape> {
    shape.check(vector, codebooks)?;
    if codes.len() != shape.nsub {
        return Err(BadShape);
    }
    // SAFETY: all three slices have the lengths of the shape, as just checked. The token proves that
    // vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe {
        vexfs_simd_pq_encode(
            isa.word(),
            vector.as_ptr(),
            codebooks.as_ptr(),
            shape.nsub,
            shape.ksub,
            shape.dsub,
            codes.as_mut_ptr(),
        )
    })
}

/// Fills the table of a query: its partial distances to all centroids.
///
/// Shapes: `query` and `codebooks` as in [`pq_encode`]; `table` is `nsub` rows of `ksub` f32 bits.
/// For `Cosine` normalise and use `InnerProduct`: cosine is no sum over parts.
///
/// Errors: [`BadShape`] if the lengths do not fit or the metric is neither `L2Sq` nor
/// `InnerProduct`.
pub fn pq_table(
    _token: &FpuToken<'_>,
    isa: Isa,
    shape: PqShape,
    metric: Metric,
    query: &[u8],
    codebooks: &[u8],
    table: &mut [u32],
) -> Result<(), BadShape> {
    shape.check(query, codebooks)?;
    let sums = matches!(metric, Metric::L2Sq | Metric::InnerProduct);
    if !sums || shape.nsub.checked_mul(shape.ksub) != Some(table.len()) {
        return Err(BadShape);
    }
    // SAFETY: all three slices have the lengths of the shape, as just checked. The token proves that
    // vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe {
        vexfs_simd_pq_table(
            isa.word(),
            metric as u32,
            query.as_ptr(),
            codebooks.as_ptr(),
            shape.nsub,
            shape.ksub,
            shape.dsub,
            table.as_mut_ptr(),
        )
    })
}

/// Scores rows of codes: sums one table entry per part.
///
/// Shapes: `table` is from [`pq_table`] with `ksub` 256; `codes` are `out.len()` rows of `nsub` bytes.
/// `out` are [`Distance`](crate::Distance)s. The same bits on every instruction set for equal tables.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn pq_scan8(
    _token: &FpuToken<'_>,
    isa: Isa,
    nsub: usize,
    table: &[u32],
    codes: &[u8],
    out: &mut [u32],
) -> Result<(), BadShape> {
    if nsub.checked_mul(256) != Some(table.len())
        || nsub.checked_mul(out.len()) != Some(codes.len())
    {
        return Err(BadShape);
    }
    // SAFETY: a code is a byte and the table has 256 entries per part; codes and results have a row
    // each, as just checked. The token proves that vector registers may be used, and `word` that the
    // processor has the instructions.
    done(unsafe {
        vexfs_simd_pq_scan8(
            isa.word(),
            table.as_ptr(),
            nsub,
            codes.as_ptr(),
            out.len(),
            out.as_mut_ptr(),
        )
    })
}

/// Reduces a table with 16 entries per part to bytes, for [`pq_scan4`].
///
/// Shapes: `table` is from [`pq_table`] with `ksub` 16, `small` as many bytes; `affine` becomes the step
/// of a byte and the sum of the least entries, f32 bits. A reduced entry is off by at most half a step,
/// which is 1/255 of the widest part.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn pq_reduce_table(
    _token: &FpuToken<'_>,
    isa: Isa,
    table: &[u32],
    small: &mut [u8],
    affine: &mut [u32; 2],
) -> Result<(), BadShape> {
    if table.len() & 15 != 0 || small.len() != table.len() {
        return Err(BadShape);
    }
    // SAFETY: both tables have 16 entries for each of as many parts, as just checked. The token proves
    // that vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe {
        vexfs_simd_pq_reduce_table(
            isa.word(),
            table.as_ptr(),
            table.len() >> 4,
            small.as_mut_ptr(),
            affine.as_mut_ptr(),
        )
    })
}

/// Packs codes below 16 into blocks of 32 rows, for [`pq_scan4`].
///
/// Shapes: `codes` are rows of `nsub` bytes; `blocks` has `nsub * 16` bytes for every 32 rows or part of
/// them. In a block part `s` takes 16 bytes; byte `j` holds the code of row `j` in its low and of row
/// `j + 16` in its high half. Missing rows have code 0. No float is involved.
///
/// Errors: [`BadShape`] if the lengths do not fit or a code is greater than 15.
pub fn pq_pack4(nsub: usize, codes: &[u8], blocks: &mut [u8]) -> Result<(), BadShape> {
    let n = codes.len().checked_div(nsub).ok_or(BadShape)?;
    let block_bytes = nsub.checked_mul(PART).ok_or(BadShape)?;
    if n.checked_mul(nsub) != Some(codes.len())
        || n.div_ceil(BLOCK).checked_mul(block_bytes) != Some(blocks.len())
        || codes.iter().any(|&code| code > 15)
    {
        return Err(BadShape);
    }
    blocks.fill(0);
    let rows = codes.chunks(nsub.saturating_mul(BLOCK));
    for (block, rows) in blocks.chunks_mut(block_bytes).zip(rows) {
        for (i, row) in rows.chunks(nsub).enumerate() {
            for (part, code) in block.chunks_mut(PART).zip(row) {
                if let Some(byte) = part.get_mut(i & (PART - 1)) {
                    *byte |= if i < PART { *code } else { *code << 4 };
                }
            }
        }
    }
    Ok(())
}

/// Scores blocks of 4-bit codes: 32 rows at once, by shuffles within registers.
///
/// Shapes: `small` and `affine` are from [`pq_reduce_table`], `codes` from [`pq_pack4`]; `out` has 32
/// [`Distance`](crate::Distance)s for each block, of which those of missing rows mean nothing.
/// The same bits on every instruction set. Sums have 16 bits, so there are at most 257 parts.
///
/// Errors: [`BadShape`] if the lengths do not fit or there are more parts.
pub fn pq_scan4(
    _token: &FpuToken<'_>,
    isa: Isa,
    small: &[u8],
    affine: &[u32; 2],
    codes: &[u8],
    out: &mut [u32],
) -> Result<(), BadShape> {
    let nsub = small.len() >> 4;
    let blocks = out.len() >> 5;
    if nsub == 0
        || nsub > 257
        || small.len() & 15 != 0
        || out.len() & 31 != 0
        || small.len().checked_mul(blocks) != Some(codes.len())
    {
        return Err(BadShape);
    }
    // SAFETY: the table has 16 bytes per part, each block as many, and each has 32 results, as just
    // checked. The token proves that vector registers may be used, and `word` that the processor has
    // the instructions.
    done(unsafe {
        vexfs_simd_pq_scan4(
            isa.word(),
            small.as_ptr(),
            affine.as_ptr(),
            nsub,
            codes.as_ptr(),
            blocks,
            out.as_mut_ptr(),
        )
    })
}
