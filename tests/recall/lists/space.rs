// SPDX-License-Identifier: Apache-2.0

//! Rows of a container, and their arithmetic for training and inserts.

use vexfs_ann::ivf::{Code, Params, Vectors};
use vexfs_simd_host::*;

/// A container: rows of one type, and how they are compared.
pub struct Space {
    pub elem: Elem,
    pub metric: Metric,
    pub dim: usize,
    pub rows: Vec<u8>,
    pub isa: Isa,
    pub params: Params,
}

impl Space {
    pub fn row_bytes(&self) -> usize {
        self.elem.row_bytes(self.dim)
    }

    pub fn n(&self) -> usize {
        self.rows.len() / self.row_bytes()
    }

    pub fn row(&self, i: usize) -> &[u8] {
        &self.rows[i * self.row_bytes()..][..self.row_bytes()]
    }

    /// f32, of length 1 for cosine, rotated for codes.
    pub fn prepare(&self, row: &[u8], out: &mut [u8]) {
        let t = token();
        if self.elem == Elem::F32 {
            out.copy_from_slice(row);
        } else {
            convert(&t, self.isa, self.elem, Elem::F32, row, out).unwrap();
        }
        if self.metric == Metric::Cosine {
            normalise_f32(&t, self.isa, out);
        }
        if self.params.code != Code::Flat {
            rotate_f32(&t, self.isa, self.params.seed, out).unwrap();
        }
    }

    pub(super) fn shape(&self) -> PqShape {
        let layout = self.params.layout().unwrap();
        PqShape {
            nsub: layout.nsub as usize,
            ksub: layout.ksub as usize,
            dsub: self.dim / (layout.nsub as usize).max(1),
        }
    }

    /// The metric of codes: bits differ by their squared distance.
    pub(super) fn code_metric(&self) -> Metric {
        match self.metric {
            Metric::Hamming => Metric::L2Sq,
            metric => metric,
        }
    }
}

impl Vectors for &Space {
    type Error = BadShape;

    fn load(&mut self, rows: &[u64], out: &mut [u8]) -> Result<(), BadShape> {
        for (row, out) in rows.iter().zip(out.chunks_mut(4 * self.dim)) {
            self.prepare(self.row(*row as usize), out);
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
    ) -> Result<(), BadShape> {
        assign_f32(
            &token(),
            self.isa,
            vectors,
            stride,
            dim,
            centroids,
            ids,
            keys,
        )
    }

    fn distances(
        &mut self,
        vectors: &[u8],
        centroids: &[u8],
        dim: usize,
        keys: &mut [u32],
    ) -> Result<(), BadShape> {
        let (elem, metric, row) = (Elem::F32, Metric::L2Sq, 4 * dim);
        score_many_rows(
            &token(),
            self.isa,
            elem,
            metric,
            vectors,
            centroids,
            row,
            dim,
            keys,
        )
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
    ) -> Result<(), BadShape> {
        let (t, row) = (token(), 4 * dim);
        let offset = |list: u32| list as usize * row;
        let offsets: Vec<u64> = lists.iter().map(|list| offset(*list) as u64).collect();
        let first = &centroids[offset(first)..][..row];
        score_gather(
            &t,
            self.isa,
            Elem::F32,
            Metric::L2Sq,
            first,
            centroids,
            &offsets,
            dim,
            costs,
        )?;
        spill_costs(&t, self.isa, key, keys, costs)
    }

    fn accumulate(
        &mut self,
        vectors: &[u8],
        stride: usize,
        dim: usize,
        ids: &[u32],
        sums: &mut [u64],
        counts: &mut [u64],
    ) -> Result<(), BadShape> {
        accumulate_f32(&token(), self.isa, vectors, stride, dim, ids, sums, counts)
    }

    fn centroids(
        &mut self,
        dim: usize,
        sums: &[u64],
        counts: &[u64],
        out: &mut [u8],
    ) -> Result<(), BadShape> {
        centroids_f32(&token(), self.isa, dim, sums, counts, out).map(|_| ())
    }

    fn subtract(&mut self, vector: &[u8], centroid: &[u8], out: &mut [u8]) -> Result<(), BadShape> {
        subtract_f32(&token(), self.isa, vector, centroid, out)
    }

    fn encode(
        &mut self,
        vector: &[u8],
        centroid: &[u8],
        codebooks: &[u8],
        codes: &mut [u8],
        factors: &mut [u32; 3],
    ) -> Result<(), BadShape> {
        let (t, metric) = (token(), self.code_metric());
        if self.params.code == Code::Signs {
            return encode_signs(&t, self.isa, metric, vector, centroid, codes, factors);
        }
        let mut residual = [0; 4 * 4096];
        let residual = residual.get_mut(..vector.len()).ok_or(BadShape)?;
        let shape = self.shape();
        encode_parts(
            &t, self.isa, metric, shape, vector, centroid, codebooks, residual, codes, factors,
        )
    }
}
