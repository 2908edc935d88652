// SPDX-License-Identifier: GPL-2.0

//! Arithmetic of inverted files: rows of a container become vectors and codes, queries tables, in FPU
//! sections of bounded time.

use super::budget::Charge;
use super::catch_up::GoOn;
use super::exact::Rows;
use super::share;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;

use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::{self, Code, Layout, Numeric, Params, Run, Vectors, BATCH, TILE};
use vexfs_ann::kmeans::{self, Failure, Sample};
use vexfs_simd_ffi::{
    accumulate_f32, assign_f32, centroids_f32, encode_parts, encode_signs, pq_reduce_table,
    pq_table, rotate_f32, scan_postings, score_gather, score_many_rows, sign_table, spill_costs,
    subtract_f32, Elem, Metric, PostingTable, PqShape,
};
use vexfs_vfs::array::Array;
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, Inode};

/// Lower bounds of distances lie this many hundredths of a standard deviation below the estimates.
const SIGMAS: u32 = 150;
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
    fn shape(&self) -> PqShape {
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

/// Scratch memory of a query.
pub(super) struct QueryMemory {
    row: KVVec<u8>,
    vector: KVVec<u8>,
    table: KVVec<u32>,
    small: KVVec<u8>,
    affine: [u32; 2],
    gathered: KVVec<u8>,
}

impl QueryMemory {
    /// Memory that is charged to `charge`.
    pub(super) fn new(charge: &mut Charge, coder: &Coder) -> Result<Self> {
        Ok(QueryMemory {
            row: charge.make(coder.rows.bytes)?,
            vector: charge.make(coder.rows.vector_bytes())?,
            table: charge.make(coder.table_len())?,
            small: charge.make(coder.small_len())?,
            affine: [0; 2],
            gathered: charge.make(coder.rows.gathered_bytes(BATCH))?,
        })
    }
}

/// Arithmetic of a query. `Node::rows` is held for as long as it lives.
pub(super) struct Scorer<'a> {
    inode: &'a Inode<VexFs>,
    coder: &'a Coder,
    model: &'a Model,
    memory: &'a mut QueryMemory,
    pinned: Pinned,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(
        inode: &'a Inode<VexFs>,
        coder: &'a Coder,
        model: &'a Model,
        memory: &'a mut QueryMemory,
    ) -> Result<Self> {
        Ok(Scorer {
            inode,
            coder,
            model,
            memory,
            pinned: Pinned::new()?,
        })
    }

    /// The query, and as a vector.
    pub(super) fn query(&self) -> (&[u8], &[u8]) {
        (&self.memory.row, &self.memory.vector)
    }

    /// Makes `query`, a row, the query.
    pub(super) fn set(&mut self, query: &[u8]) -> Result {
        let coder = self.coder;
        let QueryMemory {
            row,
            vector,
            table,
            small,
            affine,
            ..
        } = &mut *self.memory;
        if row.len() != query.len() {
            return Err(EINVAL);
        }
        for (to, from) in row.iter_mut().zip(query) {
            *to = *from;
        }
        coder.vector(row, vector)?;
        let isa = coder.rows.simd.isa;
        match coder.params.code {
            Code::Flat => return Ok(()),
            Code::Signs => {
                fpu::section(|t| sign_table(t, isa, vector, table))?.map_err(|_| EINVAL)?
            }
            Code::Pq4 { .. } | Code::Pq8 { .. } => {
                // A table is as much work as comparing `ksub` vectors.
                let PqShape { nsub, ksub, dsub } = coder.shape();
                let vectors = coder.rows.section_vectors();
                let parts = nsub.saturating_mul(vectors).checked_div(ksub);
                let parts = parts.unwrap_or(1).clamp(1, nsub.max(1));
                let part_bytes = Elem::F32.row_bytes(dsub).saturating_mul(parts);
                let queries = vector.chunks(part_bytes.max(1));
                let books = part_bytes.saturating_mul(ksub).max(1);
                let books = self.model.codebooks.chunks(books);
                let tables = table.chunks_mut(parts.saturating_mul(ksub).max(1));
                for ((query, books), table) in queries.zip(books).zip(tables) {
                    let nsub = table.len().checked_div(ksub).unwrap_or(0);
                    let shape = PqShape { nsub, ksub, dsub };
                    let metric = Metric::InnerProduct;
                    fpu::section(|t| pq_table(t, isa, shape, metric, query, books, table))?
                        .map_err(|_| EINVAL)?;
                }
            }
        }
        if coder.layout.four_bits {
            fpu::section(|t| pq_reduce_table(t, isa, table, small, affine))?.map_err(|_| EINVAL)?;
        }
        Ok(())
    }
}

impl Numeric for Scorer<'_> {
    type Error = Error;

    fn centres(&mut self, lists: &[u32], near: &mut [u32], rank: &mut [u32]) -> Result {
        let rows = &self.coder.rows;
        let bytes = rows.vector_bytes() as u64;
        let (vector, centroids) = (&self.memory.vector, &self.model.centroids);
        let inner = rows.metric == Metric::InnerProduct;
        let at_once = rows.section_vectors().min(BATCH);
        let mut offsets = [0; BATCH];
        let outs = near.chunks_mut(at_once).zip(rank.chunks_mut(at_once));
        for (lists, (near, rank)) in lists.chunks(at_once).zip(outs) {
            let offsets = offsets.get_mut(..lists.len()).ok_or(EINVAL)?;
            for (offset, list) in offsets.iter_mut().zip(lists) {
                *offset = u64::from(*list).saturating_mul(bytes);
            }
            let score = |metric, out: &mut [u32]| {
                fpu::section(|t| {
                    let (isa, elem, dim) = (rows.simd.isa, Elem::F32, rows.dim);
                    score_gather(t, isa, elem, metric, vector, centroids, offsets, dim, out)
                })?
                .map_err(|_| EINVAL)
            };
            score(Metric::L2Sq, near)?;
            if inner {
                score(Metric::InnerProduct, rank)?;
            } else {
                for (to, from) in rank.iter_mut().zip(near.iter()) {
                    *to = *from;
                }
            }
        }
        Ok(())
    }

    /// One section: runs are of as many codes as it has time for.
    fn scan(
        &mut self,
        runs: &[Run<'_>],
        threshold: u32,
        mut lower: &mut [u32],
        mut hits: &mut [u32],
    ) -> Result {
        let memory = &*self.memory;
        let table = if self.coder.layout.four_bits {
            PostingTable::Four(&memory.small, &memory.affine)
        } else {
            PostingTable::Eight(&memory.table)
        };
        let (isa, metric) = (self.coder.rows.simd.isa, self.coder.metric());
        fpu::section(|t| {
            for run in runs {
                let blocks = run.rows.div_ceil(BLOCK_ROWS) as usize;
                let codes = blocks.saturating_mul(BLOCK_ROWS as usize);
                let (out, rest) = core::mem::take(&mut lower)
                    .split_at_mut_checked(codes)
                    .ok_or(EINVAL)?;
                let (mask, masks) = core::mem::take(&mut hits)
                    .split_at_mut_checked(blocks)
                    .ok_or(EINVAL)?;
                (lower, hits) = (rest, masks);
                let out = out.get_mut(..run.rows as usize).ok_or(EINVAL)?;
                let Run {
                    blocks, near, rank, ..
                } = *run;
                scan_postings(
                    t, isa, metric, table, blocks, near, rank, SIGMAS, threshold, out, mask,
                )
                .map_err(|_| EINVAL)?;
            }
            Ok(())
        })?
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result {
        let QueryMemory { row, gathered, .. } = &mut *self.memory;
        let of = &self.coder.rows;
        of.exact(self.inode, &mut self.pinned, row, gathered, rows, out)
    }
}
