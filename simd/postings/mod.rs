// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Posting blocks of an inverted file: 32 rows as codes and factors, scanned together.
//!
//! A row o of the list with centre c is kept as a code for a direction x that is near to its residual
//! r = o - c, and as three factors. With slope = |r|^2 / <r,x>, slope * <x,y> estimates <r,y>: without bias
//! if x are signs under a random rotation (RaBitQ, Gao and Long, arXiv 2405.12497), closely if it is made
//! of centroids of a product quantiser. For the query q and y = q - c,
//!
//! ```text
//! |o - q|^2 = |q - c|^2 + |r|^2 - 2 <r,y> ~ |q - c|^2 + add + scale * -<x,q>
//!             add = |r|^2 + 2 slope <x,c>,   scale = 2 slope
//! -<o,q>    = -<c,q> - <c,r> - <r,y>      ~ -<c,q> + add + scale * -<x,q>
//!             add = slope <x,c> - <c,r>,     scale = slope
//! ```
//!
//! so -<x,q> is the only sum over the code, and its table depends on the query alone, not on the list.
//! The third factor, times |q - c|, is a standard deviation of the error: |r| sqrt(1/ip^2 - 1) / sqrt(D - 1)
//! for ip = <r,x>/|r||x|. Half the squared distance of unit vectors is their cosine distance, so for that
//! all is halved.
//!
//! Codes have 4 bits a part, in the order of [`scan4`](crate::pq::scan4), or 8 bits, row after row. A block
//! is `HEAD` bytes of its owner's, the codes, 32 f32 each of `add`, `scale` and `error`, and 32 words
//! of its owner's. All functions give the same bits on every instruction set.

mod encode;
mod scan;

pub use encode::{
    encode_signs, vexfs_simd_encode_parts, vexfs_simd_encode_signs, vexfs_simd_sign_table,
    vexfs_simd_subtract,
};
pub use scan::{scan_postings, vexfs_simd_scan_postings};

/// Rows of a block.
const ROWS: usize = 32;

/// Bytes before the codes.
const HEAD: usize = 64;

#[inline(always)]
unsafe fn load(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the vector; the read allows any alignment.
    unsafe { p.cast::<f32>().add(i).read_unaligned() }
}
