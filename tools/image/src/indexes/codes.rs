// SPDX-License-Identifier: Apache-2.0

//! The rows of a container, and what inverted lists and hash tables make of them: the arithmetic of `simd/`, as
//! `fs/index/` calls it. Codes are the same bits on every instruction set, so those of another machine are right too.

use super::Fail;
use crate::check::words;
use crate::{Device, Image};
use libvexfs::extent::{self, Mapping, State};
use vexfs_ann::ivf::{Code, Layout, Params};
use vexfs_ann::lsh;
use vexfs_format::vector_area as format;
use vexfs_format::{Inode, BLOCK_SIZE};
use vexfs_simd_host::{
    convert, encode_parts, encode_signs, fixed_f32, normalise_f32, rotate_f32, subtract_f32, token,
    BadShape, Elem, Isa, Metric, PqShape,
};

/// The rows of a container, read from the volume.
pub(super) struct Vectors<'a, D> {
    image: &'a Image<D>,
    ino: u64,
    inode: &'a Inode,
    pub(super) elem: Elem,
    pub(super) metric: Metric,
    pub(super) dim: usize,
    stride: u64,
    mapping: Option<Mapping>,
    /// The last block that was read, and its bytes.
    at: Option<u64>,
    block: Vec<u8>,
    row: Vec<u8>,
}

impl<'a, D: Device> Vectors<'a, D> {
    pub(super) fn new(image: &'a Image<D>, ino: u64, inode: &'a Inode) -> Result<Self, Fail> {
        let area = &inode.vector;
        let elem = match area.element {
            format::ELEMENT_FLOAT32 => Elem::F32,
            format::ELEMENT_FLOAT16 => Elem::F16,
            format::ELEMENT_BFLOAT16 => Elem::Bf16,
            format::ELEMENT_INT8 => Elem::I8,
            format::ELEMENT_UINT8 => Elem::U8,
            format::ELEMENT_BIT => Elem::Binary,
            _ => return Err("is of rows of an unknown type".into()),
        };
        let metric = match area.metric {
            format::METRIC_L2SQ => Metric::L2Sq,
            format::METRIC_COSINE => Metric::Cosine,
            format::METRIC_INNER_PRODUCT => Metric::InnerProduct,
            format::METRIC_HAMMING => Metric::Hamming,
            _ => return Err("is of rows with an unknown metric".into()),
        };
        let dim = area.dim as usize;
        Ok(Vectors {
            image,
            ino,
            inode,
            elem,
            metric,
            dim,
            stride: area.stride.into(),
            mapping: None,
            at: None,
            block: vec![0; BLOCK_SIZE],
            row: vec![0; elem.row_bytes(dim)],
        })
    }

    /// The bytes of a row. Rows that follow each other are read in order.
    pub(super) fn row(&mut self, row: u64) -> Result<&[u8], Fail> {
        let start = row
            .checked_mul(self.stride)
            .ok_or("has a row without a place")?;
        let mut done = 0;
        while done < self.row.len() {
            let position = start + done as u64;
            let within = (position % BLOCK_SIZE as u64) as usize;
            self.load(position / BLOCK_SIZE as u64)?;
            let len = (BLOCK_SIZE - within).min(self.row.len() - done);
            self.row[done..done + len].copy_from_slice(&self.block[within..within + len]);
            done += len;
        }
        Ok(&self.row)
    }

    /// Reads block `logical` of the file; a hole is zeros.
    fn load(&mut self, logical: u64) -> Result<(), Fail> {
        if self.at == Some(logical) {
            return Ok(());
        }
        let holds = |m: &Mapping| m.logical <= logical && logical - m.logical < m.len;
        let mapping = match self.mapping.filter(holds) {
            Some(mapping) => mapping,
            None => {
                let tree = &self.inode.tree_root;
                let most = u64::from(u32::MAX);
                extent::map(self.image, tree, self.ino, logical, most)
                    .map_err(|e| format!("the container's rows can't be read: {}", words(e)))?
            }
        };
        self.mapping = Some(mapping);
        self.at = None;
        if mapping.state == State::Written {
            let block = mapping.physical + (logical - mapping.logical);
            let read = self.image.device().read_block(block, &mut self.block);
            read.map_err(|e| format!("the container's rows can't be read: block {block}: {e}"))?;
        } else {
            self.block.fill(0);
        }
        self.at = Some(logical);
        Ok(())
    }
}

/// How rows become codes of lists and tables.
pub(super) struct Coder {
    params: Params,
    layout: Layout,
    elem: Elem,
    metric: Metric,
    /// Centroids, or the centre, and codebooks, of binary32.
    centroids: Vec<u8>,
    codebooks: Vec<u8>,
    isa: Isa,
    /// The vector of a row.
    vector: Vec<u8>,
    scratch: Vec<u8>,
    /// Its codes and factors.
    pub(super) codes: Vec<u8>,
    pub(super) factors: [u32; 3],
}

impl Coder {
    pub(super) fn new<D>(
        params: &Params,
        vectors: &Vectors<'_, D>,
        centroids: Vec<u8>,
        codebooks: Vec<u8>,
    ) -> Result<Self, Fail> {
        let layout = params.layout().map_err(|_| "has bad parameters")?;
        let wide = Elem::F32.row_bytes(vectors.dim);
        Ok(Coder {
            params: *params,
            layout,
            elem: vectors.elem,
            metric: vectors.metric,
            centroids,
            codebooks,
            isa: Isa::best(),
            vector: vec![0; wide],
            scratch: vec![0; wide],
            codes: vec![0; layout.nsub as usize],
            factors: [0; 3],
        })
    }

    /// Takes a row: binary32, of length 1 for cosine, rotated for codes.
    pub(super) fn set(&mut self, row: &[u8]) -> Result<(), Fail> {
        let token = token();
        match self.elem {
            Elem::F32 => self.vector.copy_from_slice(row),
            elem => {
                convert(&token, self.isa, elem, Elem::F32, row, &mut self.vector).map_err(bad)?
            }
        }
        if self.metric == Metric::Cosine {
            // A row of zeros stays one.
            let _ = normalise_f32(&token, self.isa, &mut self.vector);
        }
        if self.params.code != Code::Flat {
            rotate_f32(&token, self.isa, self.params.seed, &mut self.vector).map_err(bad)?;
        }
        Ok(())
    }

    /// The centroid of a list.
    fn centroid(&self, list: u32) -> Result<&[u8], Fail> {
        let bytes = self.vector.len();
        let centroid = self.centroids.chunks_exact(bytes).nth(list as usize);
        centroid.ok_or_else(|| "lacks a centroid".into())
    }

    /// Makes the centroid of a list the vector.
    pub(super) fn set_centroid(&mut self, list: u32) -> Result<(), Fail> {
        let centroid = self.centroid(list)?.to_vec();
        self.vector = centroid;
        Ok(())
    }

    /// Encodes the vector as one of a list.
    pub(super) fn encode(&mut self, list: u32) -> Result<(), Fail> {
        if self.layout.nsub == 0 {
            return Ok(());
        }
        let token = token();
        let list = if self.params.hashed { 0 } else { list };
        let centroid = self.centroid(list)?.to_vec();
        let metric = match self.metric {
            Metric::Hamming => Metric::L2Sq,
            metric => metric,
        };
        let (codes, factors) = (&mut self.codes, &mut self.factors);
        if self.params.code == Code::Signs {
            return encode_signs(
                &token,
                self.isa,
                metric,
                &self.vector,
                &centroid,
                codes,
                factors,
            )
            .map_err(bad);
        }
        let nsub = self.layout.nsub as usize;
        let shape = PqShape {
            nsub,
            ksub: self.layout.ksub as usize,
            dsub: self.params.dim as usize / nsub,
        };
        encode_parts(
            &token,
            self.isa,
            metric,
            shape,
            &self.vector,
            &centroid,
            &self.codebooks,
            &mut self.scratch,
            codes,
            factors,
        )
        .map_err(bad)
    }

    /// The bucket of the row in a table. `scale` is the factor of projections, binary32 bits.
    pub(super) fn bucket(
        &mut self,
        hashes: &lsh::Params,
        scale: u32,
        row: &[u8],
        table: u32,
    ) -> Result<u32, Fail> {
        let mut projections = [0; lsh::MAX_BITS as usize];
        let projections = projections
            .get_mut(..hashes.nbits as usize)
            .ok_or("has bad parameters")?;
        if self.elem == Elem::Binary && self.metric == Metric::Hamming {
            lsh::sample_bits(hashes.seed, table, hashes.dim, row, projections);
            return Ok(hashes.bucket(projections));
        }
        let (token, isa) = (token(), self.isa);
        let (rotation, first) = hashes.rotation(table);
        let direction = self.metric == Metric::InnerProduct;
        if self.centroids.is_empty() || direction {
            self.scratch.copy_from_slice(&self.vector);
        } else {
            subtract_f32(
                &token,
                isa,
                &self.vector,
                &self.centroids,
                &mut self.scratch,
            )
            .map_err(bad)?;
        }
        if direction {
            let _ = normalise_f32(&token, isa, &mut self.scratch);
        }
        if hashes.code == Code::Flat || rotation != hashes.seed {
            rotate_f32(&token, isa, rotation, &mut self.scratch).map_err(bad)?;
        }
        let skip = Elem::F32.row_bytes(first as usize);
        let rotated = self.scratch.get(skip..).ok_or("has bad parameters")?;
        fixed_f32(&token, isa, rotated, scale, projections).map_err(bad)?;
        Ok(hashes.bucket(projections))
    }
}

fn bad(_: BadShape) -> Fail {
    "has codes of another kind".into()
}
