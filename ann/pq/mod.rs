// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Product quantisation (Jegou et al., "Product quantization for nearest neighbor search", 2011): codebooks.
//!
//! A vector is cut into parts, and each is replaced by the number of the nearest of 16 or 256 centroids.
//! Codes and scans are those of lists (`ivf/`); a flat index of codes is an inverted file with one list,
//! [`flat`], whose search scans every code.

use crate::ivf::{Code, Params, Vectors};
use crate::kmeans::{self, Failure, Sample};

/// Parameters of a flat index of codes over vectors of `dim` elements: one list, and parts of four elements with
/// 4-bit codes, or of eight with 8-bit codes, an eighth of a byte an element either way.
///
/// 4-bit codes are scanned some twenty times as fast as 8-bit ones; these find a few more of the
/// nearest among as many candidates. The dimension is a multiple of 4 or 8; else one part is taken for
/// each element.
pub fn flat(dim: u32, eight_bits: bool, seed: u64) -> Params {
    let parts = |dsub: u32| {
        if dim.is_multiple_of(dsub) {
            dim / dsub
        } else {
            dim
        }
    };
    Params {
        dim,
        nlist: 1,
        code: if eight_bits {
            Code::Pq8 { nsub: parts(8) }
        } else {
            Code::Pq4 { nsub: parts(4) }
        },
        copies: 1,
        hashed: false,
        seed,
    }
}

/// Trains `nsub` codebooks of `ksub` centroids for the parts of a sample of residuals.
///
/// # Errors
///
/// [`Failure`].
#[allow(clippy::too_many_arguments)]
pub fn train<V: Vectors>(
    vectors: &mut V,
    residuals: Sample<'_>,
    nsub: usize,
    ksub: usize,
    seed: u64,
    memory: &mut kmeans::Memory<'_>,
    codebooks: &mut [u8],
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), Failure<V::Error>> {
    let dsub = residuals.dim.checked_div(nsub).ok_or(Failure::Memory)?;
    let book_bytes = ksub.saturating_mul(dsub).saturating_mul(4);
    if book_bytes == 0 || codebooks.len() != book_bytes.saturating_mul(nsub) {
        return Err(Failure::Memory);
    }
    for (s, book) in codebooks.chunks_mut(book_bytes).enumerate() {
        let at = s.saturating_mul(dsub).saturating_mul(4);
        let part = Sample {
            bytes: residuals.bytes.get(at..).ok_or(Failure::Memory)?,
            dim: dsub,
            ..residuals
        };
        let seed = seed.wrapping_add(s as u64);
        kmeans::train(vectors, part, seed, memory, book, stop)?;
    }
    Ok(())
}
