// SPDX-License-Identifier: Apache-2.0

//! Arithmetic of one query over lists.

use vexfs_ann::ivf::{Code, Numeric, Run, BATCH};
use vexfs_simd_host::*;

use super::{Built, Space};

/// One query.
pub struct Scorer<'a> {
    space: &'a Space,
    centroids: &'a [u8],
    codebooks: &'a [u8],
    query: &'a [u8],
    pub vector: Vec<u8>,
    table: Vec<u32>,
    small: Vec<u8>,
    affine: [u32; 2],
    sigmas: u32,
}

impl<'a> Scorer<'a> {
    pub fn new(built: &'a Built, query: &'a [u8]) -> Self {
        let Built {
            space,
            centroids,
            codebooks,
            sigmas,
            ..
        } = built;
        Scorer::of(space, centroids, codebooks, *sigmas, query)
    }

    pub fn of(
        space: &'a Space,
        centroids: &'a [u8],
        codebooks: &'a [u8],
        sigmas: u32,
        query: &'a [u8],
    ) -> Self {
        let mut scorer = Scorer {
            space,
            centroids,
            codebooks,
            query,
            vector: vec![0; 4 * space.dim],
            table: Vec::new(),
            small: Vec::new(),
            affine: [0; 2],
            sigmas,
        };
        scorer.set(query);
        scorer
    }

    /// Another query, in the same memory.
    pub fn set(&mut self, query: &'a [u8]) {
        let (space, t) = (self.space, token());
        self.query = query;
        space.prepare(query, &mut self.vector);
        let (isa, layout) = (space.isa, space.params.layout().unwrap());
        match space.params.code {
            Code::Flat => return,
            Code::Signs => {
                self.table.resize(layout.nsub as usize * 16, 0);
                sign_table(&t, isa, &self.vector, &mut self.table).unwrap();
            }
            _ => {
                let shape = space.shape();
                self.table.resize(shape.nsub * shape.ksub, 0);
                let (inner, books) = (Metric::InnerProduct, self.codebooks);
                pq_table(&t, isa, shape, inner, &self.vector, books, &mut self.table).unwrap();
            }
        }
        if layout.four_bits {
            self.small.resize(self.table.len(), 0);
            pq_reduce_table(&t, isa, &self.table, &mut self.small, &mut self.affine).unwrap();
        }
    }
}

impl Numeric for Scorer<'_> {
    type Error = BadShape;

    fn centres(
        &mut self,
        lists: &[u32],
        near: &mut [u32],
        rank: &mut [u32],
    ) -> Result<(), BadShape> {
        let row = 4 * self.space.dim;
        let mut offsets = [0; BATCH];
        let offsets = offsets.get_mut(..lists.len()).ok_or(BadShape)?;
        for (offset, list) in offsets.iter_mut().zip(lists) {
            *offset = *list as u64 * row as u64;
        }
        let score = |metric, out: &mut [u32]| {
            let (isa, dim) = (self.space.isa, self.space.dim);
            let (q, c) = (&self.vector, self.centroids);
            score_gather(&token(), isa, Elem::F32, metric, q, c, offsets, dim, out)
        };
        score(Metric::L2Sq, near)?;
        if self.space.metric == Metric::InnerProduct {
            score(Metric::InnerProduct, rank)?;
        } else {
            rank.copy_from_slice(near);
        }
        Ok(())
    }

    fn scan(
        &mut self,
        runs: &[Run<'_>],
        threshold: u32,
        mut lower: &mut [u32],
        mut hits: &mut [u32],
    ) -> Result<(), BadShape> {
        let table = if self.small.is_empty() {
            PostingTable::Eight(&self.table)
        } else {
            PostingTable::Four(&self.small, &self.affine)
        };
        for run in runs {
            let blocks = run.rows.div_ceil(32) as usize;
            let (out, rest) = lower.split_at_mut(blocks * 32);
            let (mask, masks) = hits.split_at_mut(blocks);
            (lower, hits) = (rest, masks);
            scan_postings(
                &token(),
                self.space.isa,
                self.space.code_metric(),
                table,
                run.blocks,
                run.near,
                run.rank,
                self.sigmas,
                threshold,
                &mut out[..run.rows as usize],
                mask,
            )?;
        }
        Ok(())
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), BadShape> {
        let space = self.space;
        let bytes = space.row_bytes() as u64;
        let mut offsets = [0; BATCH];
        let offsets = offsets.get_mut(..rows.len()).ok_or(BadShape)?;
        for (offset, row) in offsets.iter_mut().zip(rows) {
            *offset = row * bytes;
        }
        let (elem, metric, dim) = (space.elem, space.metric, space.dim);
        score_gather(
            &token(),
            space.isa,
            elem,
            metric,
            self.query,
            &space.rows,
            offsets,
            dim,
            out,
        )
    }
}
