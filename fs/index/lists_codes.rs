// SPDX-License-Identifier: GPL-2.0

//! How rows of a container become vectors and codes, in FPU sections of bounded time.
//!
//! `lists_loader.rs` does so for training and inserts, `lists_scorer.rs` for queries.

use super::exact::Rows;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;

use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::{Code, Layout, Params, BATCH};
use vexfs_simd_ffi::{rotate_f32, Elem, Metric, PqShape};
use vexfs_vfs::array::Array;
use vexfs_vfs::{fpu, Inode};

/// Codes scanned at once at most.
const MOST_CODES: usize = 4096;
/// 8-bit codes are looked up one by one, some this many times as slowly as 4-bit ones of as many bytes.
const EIGHT_BIT_WEIGHT: usize = 16;
/// Bytes of vectors that are loaded at once.
const LOAD_BYTES: usize = 1 << 20;

/// How the rows of one container become vectors and codes.
pub(super) struct Coder {
    pub(super) rows: Rows,
    pub(super) params: Params,
    pub(super) layout: Layout,
}

/// What training made.
pub(super) struct Model {
    pub(super) centroids: Array<u8>,
    pub(super) codebooks: Array<u8>,
}

impl Model {
    /// Zeros, until it is trained. `ENOMEM`.
    pub(super) fn empty(params: &Params) -> Result<Self> {
        Ok(Model {
            centroids: Array::zeros(params.centroid_bytes())?,
            codebooks: Array::zeros(params.codebook_bytes())?,
        })
    }

    pub(super) fn lend(&self) -> vexfs_ann::ivf::Model<'_> {
        vexfs_ann::ivf::Model {
            centroids: &self.centroids,
            codebooks: &self.codebooks,
        }
    }
}

impl Coder {
    /// `EINVAL` for bad parameters.
    pub(super) fn new(inode: &Inode<VexFs>, area: &VectorArea, params: Params) -> Result<Self> {
        Ok(Coder {
            rows: Rows::new(inode, area)?,
            params,
            layout: params.layout().map_err(|_| EINVAL)?,
        })
    }

    /// The metric of codes: bits differ by their squared distance.
    pub(super) fn metric(&self) -> Metric {
        match self.rows.metric {
            Metric::Hamming => Metric::L2Sq,
            metric => metric,
        }
    }

    /// How vectors are cut. Of codes of signs it has no meaning.
    pub(super) fn shape(&self) -> PqShape {
        let nsub = self.layout.nsub as usize;
        PqShape {
            nsub,
            ksub: self.layout.ksub as usize,
            dsub: self.rows.dim.checked_div(nsub).unwrap_or(0),
        }
    }

    /// Of `rows` rows, those that a search marks because it may meet them twice.
    pub(super) fn marked(&self, rows: u64) -> u64 {
        if self.params.copies > 1 {
            rows
        } else {
            0
        }
    }

    /// Vectors that are loaded at once.
    pub(super) fn batch(&self) -> usize {
        let bytes = self.rows.vector_bytes().max(1);
        (LOAD_BYTES / bytes).clamp(1, BATCH)
    }

    /// Codes that one section may scan: a multiple of a block's.
    pub(super) fn codes_at_once(&self) -> usize {
        const KIB: usize = 1024;
        let kib = self.rows.simd.section_rows(Elem::F32, KIB);
        let weight = if self.layout.four_bits {
            1
        } else {
            EIGHT_BIT_WEIGHT
        };
        let block = (self.layout.block_words as usize).saturating_mul(4 * weight);
        let blocks = kib.saturating_mul(KIB).checked_div(block).unwrap_or(1);
        let block_rows = BLOCK_ROWS as usize;
        blocks.clamp(1, MOST_CODES / block_rows) * block_rows
    }

    /// Elements of a query's table.
    pub(super) fn table_len(&self) -> usize {
        let entries = match self.params.code {
            Code::Signs => 16,
            _ => self.layout.ksub as usize,
        };
        (self.layout.nsub as usize).saturating_mul(entries)
    }

    /// Bytes of a query's table of bytes.
    pub(super) fn small_len(&self) -> usize {
        if self.layout.four_bits {
            self.table_len()
        } else {
            0
        }
    }

    /// Makes a row a vector: binary32, of length 1 for cosine, rotated for codes.
    pub(super) fn vector(&self, row: &[u8], out: &mut [u8]) -> Result {
        let unit = self.rows.metric == Metric::Cosine;
        fpu::section(|t| {
            self.rows.widen(t, row, unit, out)?;
            if self.params.code == Code::Flat {
                return Ok(());
            }
            rotate_f32(t, self.rows.simd.isa, self.params.seed, out)
        })?
        .map_err(|_| EINVAL)
    }
}
