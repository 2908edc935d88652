// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to distances.

use crate::{BadShape, Elem, FpuToken, Isa, Metric, MAX_DIM};

extern "C" {
    fn vexfs_simd_score_rows(
        isa: u32,
        elem: u32,
        metric: u32,
        query: *const u8,
        rows: *const u8,
        stride: usize,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
    fn vexfs_simd_score_gather(
        isa: u32,
        elem: u32,
        metric: u32,
        query: *const u8,
        rows: *const u8,
        offsets: *const u64,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
    pub(crate) fn vexfs_simd_score_list(
        isa: u32,
        elem: u32,
        metric: u32,
        query: *const u8,
        rows: *const *const u8,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
    fn vexfs_simd_score_many_rows(
        isa: u32,
        elem: u32,
        metric: u32,
        queries: *const u8,
        query_stride: usize,
        nq: usize,
        rows: *const u8,
        stride: usize,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
    fn vexfs_simd_score_many_list(
        isa: u32,
        elem: u32,
        metric: u32,
        queries: *const u8,
        query_stride: usize,
        nq: usize,
        rows: *const *const u8,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
}

/// Addresses of rows handed over at once, on the stack.
const LIST_AT_ONCE: usize = 64;

/// Bytes of a row of `dim` elements, if there is such a row and it can be measured by `metric`.
pub(crate) fn row_bytes(elem: Elem, metric: Metric, dim: usize) -> Result<usize, BadShape> {
    if dim == 0 || dim > MAX_DIM || (metric == Metric::Hamming && elem != Elem::Binary) {
        return Err(BadShape);
    }
    Ok(elem.row_bytes(dim))
}

/// Scores one query against rows at a fixed stride.
///
/// Shapes: `query` is one row of `dim` elements of type `elem`; row `i` of `out.len()` rows starts at
/// byte `i * stride` of `rows`; any alignment. `out[i]` becomes the [`Distance`](crate::Distance) of row `i`. Rows that
/// contain NaN or infinity get some key, every other row the right one.
///
/// Context: an FPU section. It takes about `out.len() * row size` bytes of memory bandwidth: the
/// caller bounds it.
///
/// Errors: [`BadShape`] if `dim` is not in `1..=MAX_DIM`, the query is not exactly one row, a row
/// would end beyond `rows`, or the metric does not exist for the element type.
pub fn score_rows(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    metric: Metric,
    query: &[u8],
    rows: &[u8],
    stride: usize,
    dim: usize,
    out: &mut [u32],
) -> Result<(), BadShape> {
    let row = row_bytes(elem, metric, dim)?;
    if query.len() != row {
        return Err(BadShape);
    }
    let Some(last) = out.len().checked_sub(1) else {
        return Ok(());
    };
    let end = last.checked_mul(stride).and_then(|at| at.checked_add(row));
    if end.is_none_or(|end| end > rows.len()) {
        return Err(BadShape);
    }
    // SAFETY: the query and every row are inside their slices, as just checked; `out` is exclusive
    // and as long as the number of rows. The token proves that vector registers may be used, and
    // `word` that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_score_rows(
            isa.word(),
            elem as u32,
            metric as u32,
            query.as_ptr(),
            rows.as_ptr(),
            stride,
            dim,
            out.as_mut_ptr(),
            out.len(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Scores one query against rows at listed places.
///
/// As [`score_rows`], but row `i` starts at byte `offsets[i]` of `rows`, and the rows that come next
/// are prefetched while one is computed.
///
/// Errors: [`BadShape`] as there, or if there are not as many offsets as results.
pub fn score_gather(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    metric: Metric,
    query: &[u8],
    rows: &[u8],
    offsets: &[u64],
    dim: usize,
    out: &mut [u32],
) -> Result<(), BadShape> {
    let row = row_bytes(elem, metric, dim)?;
    if query.len() != row || offsets.len() != out.len() {
        return Err(BadShape);
    }
    let mut greatest = 0;
    for &offset in offsets {
        greatest = greatest.max(offset);
    }
    // The subtraction leaves the last offset at which a row fits.
    let fits = rows
        .len()
        .checked_sub(row)
        .is_some_and(|last| greatest <= last as u64);
    if !offsets.is_empty() && !fits {
        return Err(BadShape);
    }
    // SAFETY: the query and every row are inside their slices, as just checked; `offsets` and `out`
    // have the same length and `out` is exclusive. The token proves that vector registers may be
    // used, and `word` that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_score_gather(
            isa.word(),
            elem as u32,
            metric as u32,
            query.as_ptr(),
            rows.as_ptr(),
            offsets.as_ptr(),
            dim,
            out.as_mut_ptr(),
            out.len(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Scores one query against rows that lie anywhere, such as in different pages.
///
/// As [`score_rows`], but row `i` is the beginning of `rows[i]`, and the rows that come next are
/// prefetched while one is computed.
///
/// Errors: [`BadShape`] as there, or if there are not as many rows as results.
pub fn score_list(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    metric: Metric,
    query: &[u8],
    rows: &[&[u8]],
    dim: usize,
    out: &mut [u32],
) -> Result<(), BadShape> {
    let row = row_bytes(elem, metric, dim)?;
    if query.len() != row || rows.len() != out.len() || rows.iter().any(|r| r.len() < row) {
        return Err(BadShape);
    }
    for (rows, out) in rows.chunks(LIST_AT_ONCE).zip(out.chunks_mut(LIST_AT_ONCE)) {
        let mut addresses = [core::ptr::null(); LIST_AT_ONCE];
        for (address, row) in addresses.iter_mut().zip(rows) {
            *address = row.as_ptr();
        }
        // SAFETY: the query and every row are long enough, as just checked, and as many addresses
        // as results were filled in; `out` is exclusive. The token proves that vector registers
        // may be used, and `word` that the processor has the instructions.
        let failed = unsafe {
            vexfs_simd_score_list(
                isa.word(),
                elem as u32,
                metric as u32,
                query.as_ptr(),
                addresses.as_ptr(),
                dim,
                out.as_mut_ptr(),
                out.len(),
            )
        };
        if failed != 0 {
            return Err(BadShape);
        }
    }
    Ok(())
}

/// How many queries of `query` bytes are packed in `queries`, and rows in `out`, if neither has a part left.
fn tile_shape(query: usize, queries: &[u8], out: &[u32]) -> Result<(usize, usize), BadShape> {
    let nq = queries.len() / query;
    if nq == 0 || !queries.len().is_multiple_of(query) || !out.len().is_multiple_of(nq) {
        return Err(BadShape);
    }
    Ok((nq, out.len() / nq))
}

/// Scores several queries against rows at a fixed stride.
///
/// Shapes: `queries` are `nq` packed rows of `dim` elements of type `elem`; `out` is `nq x n`, the distances of
/// a query together; otherwise as [`score_rows`], which gives the same results. Rows are read once
/// for all queries, and on some instruction sets each load of a row serves two of them.
///
/// Context: an FPU section. It takes up to `nq * n` times the work of one distance: the caller bounds it.
///
/// Errors: [`BadShape`] as there, or if `queries` is not a number of rows or `out` not a multiple of it.
pub fn score_many_rows(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    metric: Metric,
    queries: &[u8],
    rows: &[u8],
    stride: usize,
    dim: usize,
    out: &mut [u32],
) -> Result<(), BadShape> {
    let row = row_bytes(elem, metric, dim)?;
    let (nq, n) = tile_shape(row, queries, out)?;
    let Some(last) = n.checked_sub(1) else {
        return Ok(());
    };
    let end = last.checked_mul(stride).and_then(|at| at.checked_add(row));
    if end.is_none_or(|end| end > rows.len()) {
        return Err(BadShape);
    }
    // SAFETY: each query and every row are inside their slices, as just checked; `out` is exclusive
    // and has `nq * n` elements. The token proves that vector registers may be used, and `word` that
    // the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_score_many_rows(
            isa.word(),
            elem as u32,
            metric as u32,
            queries.as_ptr(),
            row,
            nq,
            rows.as_ptr(),
            stride,
            dim,
            out.as_mut_ptr(),
            n,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Scores several queries against rows that lie anywhere: [`score_many_rows`] as [`score_list`] is to
/// [`score_rows`].
///
/// Errors: [`BadShape`] as there, if there are more than 64 rows, or not `nq` times as many results as rows.
pub fn score_many_list(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    metric: Metric,
    queries: &[u8],
    rows: &[&[u8]],
    dim: usize,
    out: &mut [u32],
) -> Result<(), BadShape> {
    let row = row_bytes(elem, metric, dim)?;
    let (nq, n) = tile_shape(row, queries, out)?;
    let mut addresses = [core::ptr::null(); LIST_AT_ONCE];
    if n != rows.len() || n > LIST_AT_ONCE || rows.iter().any(|r| r.len() < row) {
        return Err(BadShape);
    }
    for (address, row) in addresses.iter_mut().zip(rows) {
        *address = row.as_ptr();
    }
    // SAFETY: each query and every row are long enough, as just checked, and as many addresses as rows
    // were filled in; `out` is exclusive and has `nq * n` elements. The token proves that vector
    // registers may be used, and `word` that the processor has the instructions.
    let failed = unsafe {
        vexfs_simd_score_many_list(
            isa.word(),
            elem as u32,
            metric as u32,
            queries.as_ptr(),
            row,
            nq,
            addresses.as_ptr(),
            dim,
            out.as_mut_ptr(),
            n,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}
