// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to posting blocks: 32 rows of an inverted list as codes and factors.

use core::sync::atomic::AtomicU32;

use crate::{BadShape, Elem, FpuToken, Isa, Metric, PqShape, MAX_DIM};

extern "C" {
    fn vexfs_simd_encode_signs(
        isa: u32,
        metric: u32,
        x: *const u8,
        c: *const u8,
        dim: usize,
        codes: *mut u8,
        factors: *mut u32,
    ) -> u32;
    fn vexfs_simd_encode_parts(
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
    ) -> u32;
    fn vexfs_simd_subtract(isa: u32, x: *const u8, c: *const u8, dim: usize, out: *mut u8) -> u32;
    fn vexfs_simd_sign_table(isa: u32, q: *const u8, dim: usize, table: *mut u32) -> u32;
    fn vexfs_simd_scan_postings(
        isa: u32,
        metric: u32,
        table: *const u8,
        affine: *const u32,
        nsub: usize,
        blocks: *const u8,
        stride: usize,
        n: usize,
        near: u32,
        inner: u32,
        sigmas: u32,
        threshold: u32,
        lower: *mut u32,
        hits: *mut u32,
    ) -> u32;
}

/// Rows of a block.
const ROWS: usize = 32;

/// Words before the codes of a block, and those after them: three factors and one of its owner's a row.
const HEAD_WORDS: usize = 16;
const TAIL_WORDS: usize = 4 * ROWS;

/// What [`scan_postings`] looks codes up in.
#[derive(Clone, Copy, Debug)]
pub enum PostingTable<'a> {
    /// Codes of 4 bits: bytes and their affine map, from [`pq_reduce_table`](crate::pq_reduce_table).
    Four(&'a [u8], &'a [u32; 2]),
    /// Codes of 8 bits: f32 bits, from [`pq_table`](crate::pq_table) with `ksub` 256.
    Eight(&'a [u32]),
}

/// Words of a block of codes of `nsub` parts of 4 or 8 bits: 16 of its owner's, the codes, 32 each of three
/// factors, and 32 of its owner's. `nsub` is at most [`MAX_DIM`].
pub const fn posting_words(nsub: usize, four_bits: bool) -> usize {
    let codes = nsub.wrapping_mul(if four_bits { 4 } else { 8 });
    codes.wrapping_add(HEAD_WORDS + TAIL_WORDS)
}

fn done(failed: u32) -> Result<(), BadShape> {
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Bytes of two vectors of the same dimension, if they are.
fn dim_of(x: &[u8], c: &[u8]) -> Result<usize, BadShape> {
    let dim = x.len() >> 2;
    if dim == 0 || dim > MAX_DIM || x.len() != Elem::F32.row_bytes(dim) || c.len() != x.len() {
        return Err(BadShape);
    }
    Ok(dim)
}

/// Encodes a row of the list with centre `c` by the signs of its residual: RaBitQ.
///
/// Shapes: `x` and `c` are f32 under the same random rotation; `codes` has a byte for every four elements,
/// which is a 4-bit code; `factors` are f32 bits for `metric`, which is not `Hamming`. Unit vectors for
/// `Cosine`. The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn encode_signs(
    _token: &FpuToken<'_>,
    isa: Isa,
    metric: Metric,
    x: &[u8],
    c: &[u8],
    codes: &mut [u8],
    factors: &mut [u32; 3],
) -> Result<(), BadShape> {
    let dim = dim_of(x, c)?;
    if codes.len() != dim.div_ceil(4) || metric == Metric::Hamming {
        return Err(BadShape);
    }
    // SAFETY: both vectors have `dim` f32 and codes a byte for every four of them, as just checked. The
    // token proves that vector registers may be used, and `word` that the processor has the
    // instructions.
    done(unsafe {
        vexfs_simd_encode_signs(
            isa.word(),
            metric as u32,
            x.as_ptr(),
            c.as_ptr(),
            dim,
            codes.as_mut_ptr(),
            factors.as_mut_ptr(),
        )
    })
}

/// Encodes a row of the list with centre `c` by a product quantiser of residuals.
///
/// Shapes: `x`, `c` and the scratch memory `residual` are `nsub * dsub` f32; `codebooks` as in
/// [`pq_encode`](crate::pq_encode); `codes` is one byte per part; `factors` as in [`encode_signs`].
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn encode_parts(
    _token: &FpuToken<'_>,
    isa: Isa,
    metric: Metric,
    shape: PqShape,
    x: &[u8],
    c: &[u8],
    codebooks: &[u8],
    residual: &mut [u8],
    codes: &mut [u8],
    factors: &mut [u32; 3],
) -> Result<(), BadShape> {
    shape.check(x, codebooks)?;
    dim_of(x, c)?;
    if residual.len() != x.len() || codes.len() != shape.nsub || metric == Metric::Hamming {
        return Err(BadShape);
    }
    // SAFETY: all slices have the lengths of the shape, as just checked, and mutable ones overlap nothing.
    // The token proves that vector registers may be used, and `word` that the processor has the
    // instructions.
    done(unsafe {
        vexfs_simd_encode_parts(
            isa.word(),
            metric as u32,
            x.as_ptr(),
            c.as_ptr(),
            codebooks.as_ptr(),
            shape.nsub,
            shape.ksub,
            shape.dsub,
            residual.as_mut_ptr(),
            codes.as_mut_ptr(),
            factors.as_mut_ptr(),
        )
    })
}

/// Writes `x - c`: the residual of a row to its centre.
///
/// Shapes: all three are f32 of the same dimension. The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn subtract_f32(
    _token: &FpuToken<'_>,
    isa: Isa,
    x: &[u8],
    c: &[u8],
    out: &mut [u8],
) -> Result<(), BadShape> {
    let dim = dim_of(x, c)?;
    if out.len() != x.len() {
        return Err(BadShape);
    }
    // SAFETY: all three have `dim` f32, as just checked, and a mutable slice overlaps nothing. The token
    // proves that vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe { vexfs_simd_subtract(isa.word(), x.as_ptr(), c.as_ptr(), dim, out.as_mut_ptr()) })
}

/// Fills the table of a query for codes of signs: its negated inner products with all signs of a part.
///
/// Shapes: `query` is f32 under the rotation of the codes, of which four are a part; `table` is 16 f32 bits
/// per part, for [`pq_reduce_table`](crate::pq_reduce_table). The same bits on every instruction set.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn sign_table(
    _token: &FpuToken<'_>,
    isa: Isa,
    query: &[u8],
    table: &mut [u32],
) -> Result<(), BadShape> {
    let dim = dim_of(query, query)?;
    if table.len() != dim.div_ceil(4).wrapping_mul(16) {
        return Err(BadShape);
    }
    // SAFETY: the query has `dim` f32 and the table 16 entries for every four, as just checked. The token
    // proves that vector registers may be used, and `word` that the processor has the instructions.
    done(unsafe { vexfs_simd_sign_table(isa.word(), query.as_ptr(), dim, table.as_mut_ptr()) })
}

/// Scans the postings of one list: estimates distances, takes `sigmas` hundredths of their standard
/// deviation off, and tells which are at most `threshold`.
///
/// Shapes: `table` is the query's negated inner products with all codes; `blocks` are blocks of
/// [`posting_words`], one after the other, that hold `lower.len()` rows; `near` is the
/// [`Distance`](crate::Distance) by `L2Sq` of the query to the list's centre and `inner` that by
/// `InnerProduct`, which only this metric looks at. `lower[i]` becomes the key of row `i`, bit `i % 32` of
/// `hits[i / 32]` whether it is at most `threshold`. The same bits on every instruction set.
///
/// Blocks may be written meanwhile. What comes out for a row whose words are is some key and no more: the
/// caller has seen those published whose keys it believes.
///
/// Context: an FPU section; the work is about the size of the blocks, which the caller bounds.
///
/// Errors: [`BadShape`] if the lengths do not fit.
pub fn scan_postings(
    _token: &FpuToken<'_>,
    isa: Isa,
    metric: Metric,
    table: PostingTable<'_>,
    blocks: &[AtomicU32],
    near: u32,
    inner: u32,
    sigmas: u32,
    threshold: u32,
    lower: &mut [u32],
    hits: &mut [u32],
) -> Result<(), BadShape> {
    let (bytes, affine, nsub) = match table {
        PostingTable::Four(small, affine) if small.len() & 15 == 0 => {
            (small.as_ptr(), affine.as_ptr(), small.len() >> 4)
        }
        PostingTable::Eight(table) if table.len() & 255 == 0 => {
            (table.as_ptr().cast(), core::ptr::null(), table.len() >> 8)
        }
        _ => return Err(BadShape),
    };
    if nsub == 0 || nsub > MAX_DIM || metric == Metric::Hamming {
        return Err(BadShape);
    }
    let words = posting_words(nsub, !affine.is_null());
    let used = lower.len().div_ceil(ROWS);
    if hits.len() != used || used.checked_mul(words).is_none_or(|w| w > blocks.len()) {
        return Err(BadShape);
    }
    // SAFETY: the table is that of `nsub` parts, the blocks of all rows are inside their slice, and there is
    // a word for each row and each block, as just checked. Any bytes are codes and factors: they select
    // entries of the table and are summed, so what another thread changes meanwhile, by atomic stores
    // of words, changes numbers of rows that are not published, and nothing else. The token proves that vector registers may be used, and `word` that the processor has the
    // instructions.
    done(unsafe {
        vexfs_simd_scan_postings(
            isa.word(),
            metric as u32,
            bytes,
            affine,
            nsub,
            blocks.as_ptr().cast(),
            words.wrapping_mul(4),
            lower.len(),
            near,
            inner,
            sigmas,
            threshold,
            lower.as_mut_ptr(),
            hits.as_mut_ptr(),
        )
    })
}
