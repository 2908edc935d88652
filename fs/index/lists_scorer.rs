// SPDX-License-Identifier: GPL-2.0

//! Arithmetic of queries over lists: tables of codes, scans, exact distances.

use super::budget::Charge;
use super::lists_codes::{Coder, Model};
use crate::VexFs;
use kernel::prelude::*;

use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::{Code, Numeric, Run, BATCH};
use vexfs_simd_ffi::{
    pq_reduce_table, pq_table, scan_postings, score_gather, sign_table, Elem, Metric, PostingTable,
    PqShape,
};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, Inode};

/// Lower bounds of distances lie this many hundredths of a standard deviation below the estimates.
const SIGMAS: u32 = 150;
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
