// SPDX-License-Identifier: GPL-2.0

//! Arithmetic of training and of inserts: rows are read and become vectors, vectors find their lists and become codes.

use super::budget::Charge;
use super::catch_up::GoOn;
use super::exact::Rows;
use super::lists_codes::Coder;
use super::share;
use crate::VexFs;
use kernel::prelude::*;

use vexfs_ann::ivf::{self, Code, Vectors, BATCH, TILE};
use vexfs_ann::kmeans::{self, Failure, Sample};
use vexfs_simd_ffi::{
    accumulate_f32, assign_f32, centroids_f32, encode_parts, encode_signs, score_gather,
    score_many_rows, spill_costs, subtract_f32, Elem, Metric,
};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, Inode};

/// Which rows are loaded.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// Those that are named, below `end`. `Node::rows` is held, or the inode is locked.
    Named { end: u64 },
    /// The next live ones. Nothing is held.
    Sample,
}

/// Scratch memory of loading.
pub(super) struct LoadMemory {
    row: KVVec<u8>,
    residual: KVVec<u8>,
}

impl LoadMemory {
    /// Memory in which nothing is loaded.
    fn none() -> Self {
        LoadMemory {
            row: KVVec::new(),
            residual: KVVec::new(),
        }
    }

    /// Memory that is charged to `charge`.
    pub(super) fn new(charge: &mut Charge, coder: &Coder) -> Result<Self> {
        let residual = if coder.layout.ksub > 0 {
            coder.rows.vector_bytes()
        } else {
            0
        };
        Ok(LoadMemory {
            row: charge.make(coder.rows.bytes)?,
            residual: charge.make(residual)?,
        })
    }
}

/// Arithmetic of training and of inserts.
pub(super) struct Loader<'a> {
    inode: &'a Inode<VexFs>,
    coder: &'a Coder,
    memory: &'a mut LoadMemory,
    pinned: Pinned,
    source: Source,
    wide: Option<Wide<'a>>,
}

/// How training uses several threads.
#[derive(Clone, Copy)]
pub(super) struct Wide<'a> {
    pub(super) threads: u32,
    /// Asked for each batch of vectors.
    pub(super) go_on: GoOn<'a>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        inode: &'a Inode<VexFs>,
        coder: &'a Coder,
        memory: &'a mut LoadMemory,
        source: Source,
    ) -> Result<Self> {
        Ok(Loader {
            inode,
            coder,
            memory,
            pinned: Pinned::new()?,
            source,
            wide: None,
        })
    }

    /// Uses several threads where there are many vectors.
    pub(super) fn widen(&mut self, wide: Wide<'a>) {
        self.wide = Some(wide);
    }

    fn read(&mut self, row: u64) -> Result {
        let Loader {
            inode,
            coder,
            memory,
            pinned,
            source,
            ..
        } = self;
        match *source {
            Source::Named { end } => coder.rows.read(inode, pinned, row, end, &mut memory.row),
            Source::Sample => {
                let next = |rows: u64| {
                    let container = inode.node().container.lock();
                    container.next_live(rows)
                };
                // Whoever asks for a row behind the last live one gets the first.
                let row = next(row).or_else(|| next(0)).ok_or(ENODATA)?;
                let end = row.saturating_add(1);
                let read = || coder.rows.read(inode, pinned, row, end, &mut memory.row);
                inode.node().rows.read(read)
            }
        }
    }
}

impl Vectors for Loader<'_> {
    type Error = Error;

    fn assign_work(&self) -> usize {
        let Rows { simd, dim, .. } = &self.coder.rows;
        let bytes = self.coder.rows.vector_bytes();
        let centroids = simd.section_queries(Elem::F32, bytes, TILE);
        centroids.saturating_mul(TILE).saturating_mul(*dim)
    }

    fn load(&mut self, rows: &[u64], out: &mut [u8]) -> Result {
        let bytes = self.coder.rows.vector_bytes().max(1);
        for (row, out) in rows.iter().zip(out.chunks_mut(bytes)) {
            self.read(*row)?;
            self.coder.vector(&self.memory.row, out)?;
        }
        Ok(())
    }

    fn assign(
        &mut self,
        vectors: &[u8],
        stride: usize,
        dim: usize,
        centroids: &[u8],
        ids: &mut [u32],
        keys: &mut [u32],
    ) -> Result {
        // A tile of rows comes with as many centroids as a section has time for, see `assign_work`; more rows
        // than that with few of them.
        let rows = self.coder.rows.section_vectors();
        let bytes = Elem::F32.row_bytes(dim).max(1);
        let count = (centroids.len() / bytes).max(1);
        let at_once = rows.checked_div(count).unwrap_or(1).max(TILE);
        let step = at_once.saturating_mul(stride);
        let isa = self.coder.rows.simd.isa;
        let pieces = ids.chunks_mut(at_once).zip(keys.chunks_mut(at_once));
        for (piece, (ids, keys)) in pieces.enumerate() {
            let vectors = vectors.get(piece.saturating_mul(step)..).ok_or(EINVAL)?;
            fpu::section(|t| assign_f32(t, isa, vectors, stride, dim, centroids, ids, keys))?
                .map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    fn assign_all(
        &mut self,
        sample: Sample<'_>,
        centroids: &[u8],
        ids: &mut [u32],
        keys: &mut [u32],
        stop: &mut dyn FnMut() -> bool,
    ) -> core::result::Result<(), Failure<Error>> {
        let Some(Wide { threads, go_on }) = self.wide else {
            return kmeans::assign_in_turn(self, sample, centroids, ids, keys, stop);
        };
        let (inode, coder) = (self.inode, self.coder);
        let Sample {
            bytes, stride, dim, ..
        } = sample;
        let batches = ids.chunks_mut(BATCH).zip(keys.chunks_mut(BATCH));
        let assign = |memory: &mut LoadMemory,
                      (at, (ids, keys)): (usize, (&mut [u32], &mut [u32]))| {
            go_on()?;
            let mut loader = Loader::new(inode, coder, memory, Source::Sample)?;
            let from = at.saturating_mul(BATCH).saturating_mul(stride);
            let rows = bytes.get(from..).ok_or(EINVAL)?;
            ivf::assign(&mut loader, rows, stride, dim, centroids, ids, keys)
        };
        share::each(
            threads,
            batches.enumerate(),
            || Ok(LoadMemory::none()),
            assign,
        )?;
        Ok(())
    }

    fn distances(
        &mut self,
        vectors: &[u8],
        centroids: &[u8],
        dim: usize,
        keys: &mut [u32],
    ) -> Result {
        let (isa, row) = (self.coder.rows.simd.isa, Elem::F32.row_bytes(dim));
        fpu::section(|t| {
            let (elem, metric) = (Elem::F32, Metric::L2Sq);
            score_many_rows(t, isa, elem, metric, vectors, centroids, row, dim, keys)
        })?
        .map_err(|_| EINVAL)
    }

    fn spill(
        &mut self,
        centroids: &[u8],
        dim: usize,
        first: u32,
        key: u32,
        lists: &[u32],
        keys: &[u32],
        costs: &mut [u32],
    ) -> Result {
        let (isa, row) = (self.coder.rows.simd.isa, Elem::F32.row_bytes(dim));
        let at = (first as usize).saturating_mul(row);
        let centre = centroids.get(at..at.saturating_add(row)).ok_or(EINVAL)?;
        let at_once = self.coder.rows.section_vectors().min(BATCH);
        let outs = keys.chunks(at_once).zip(costs.chunks_mut(at_once));
        let mut offsets = [0; BATCH];
        for (lists, (keys, costs)) in lists.chunks(at_once).zip(outs) {
            let offsets = offsets.get_mut(..lists.len()).ok_or(EINVAL)?;
            for (offset, list) in offsets.iter_mut().zip(lists) {
                *offset = u64::from(*list).saturating_mul(row as u64);
            }
            fpu::section(|t| {
                let (elem, metric) = (Elem::F32, Metric::L2Sq);
                score_gather(t, isa, elem, metric, centre, centroids, offsets, dim, costs)?;
                spill_costs(t, isa, key, keys, costs)
            })?
            .map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    fn accumulate(
        &mut self,
        vectors: &[u8],
        stride: usize,
        dim: usize,
        ids: &[u32],
        sums: &mut [u64],
        counts: &mut [u64],
    ) -> Result {
        let at_once = self.coder.rows.section_vectors();
        let step = at_once.saturating_mul(stride);
        let isa = self.coder.rows.simd.isa;
        for (piece, ids) in ids.chunks(at_once).enumerate() {
            let vectors = vectors.get(piece.saturating_mul(step)..).ok_or(EINVAL)?;
            fpu::section(|t| accumulate_f32(t, isa, vectors, stride, dim, ids, sums, counts))?
                .map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    fn centroids(&mut self, dim: usize, sums: &[u64], counts: &[u64], out: &mut [u8]) -> Result {
        let isa = self.coder.rows.simd.isa;
        fpu::section(|t| centroids_f32(t, isa, dim, sums, counts, out))?.map_err(|_| EINVAL)?;
        Ok(())
    }

    fn subtract(&mut self, vector: &[u8], centroid: &[u8], out: &mut [u8]) -> Result {
        let isa = self.coder.rows.simd.isa;
        fpu::section(|t| subtract_f32(t, isa, vector, centroid, out))?.map_err(|_| EINVAL)
    }

    fn encode(
        &mut self,
        vector: &[u8],
        centroid: &[u8],
        codebooks: &[u8],
        codes: &mut [u8],
        factors: &mut [u32; 3],
    ) -> Result {
        let coder = self.coder;
        let (isa, metric) = (coder.rows.simd.isa, coder.metric());
        let residual = &mut self.memory.residual;
        fpu::section(|t| {
            if coder.params.code == Code::Signs {
                return encode_signs(t, isa, metric, vector, centroid, codes, factors);
            }
            let shape = coder.shape();
            encode_parts(
                t, isa, metric, shape, vector, centroid, codebooks, residual, codes, factors,
            )
        })?
        .map_err(|_| EINVAL)
    }
}
