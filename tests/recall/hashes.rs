// SPDX-License-Identifier: Apache-2.0

//! Hash tables in user space, over arrays, for tests and benchmarks.

use vexfs_ann::ivf::{self, Code, Found, Index, Run, Vectors};
use vexfs_ann::lsh::probe::Perturbation;
use vexfs_ann::lsh::{cell_scale, sample_bits, search, Family, Numeric, Params, Query, Workspace};
use vexfs_ann::{reservoir, TopK, Visible};
use vexfs_simd_host::*;

use crate::lists::{Arena, Scorer as Codes, Space};

/// Rows and their tables.
pub struct Tables {
    pub space: Space,
    pub params: Params,
    /// The mean of the rows, as codes and projections know it.
    pub centre: Vec<u8>,
    pub scale: u32,
    pub tables: Vec<Index<Arena>>,
}

impl Tables {
    /// Empty tables. `near` is the squared distance of near rows, for cells.
    pub fn new(elem: Elem, metric: Metric, params: Params, near: f32, rows: Vec<u8>) -> Self {
        let table = params.table().unwrap();
        let space = Space {
            elem,
            metric,
            dim: params.dim as usize,
            rows,
            isa: Isa::best(),
            params: table,
        };
        let blocks = table.most_blocks(space.n() as u64) as u32;
        let new = |_| Index::new(table, Arena::new(&table, blocks)).unwrap();
        let scale = match params.family {
            Family::Signs => 65536f32.to_bits(),
            Family::Cells => cell_scale(params.dim, near.to_bits()),
        };
        let mut tables = Tables {
            centre: vec![0; 4 * space.dim],
            space,
            params,
            scale,
            tables: (0..params.ntables).map(new).collect(),
        };
        if params.code != Code::Flat {
            tables.find_centre();
        }
        tables
    }

    fn find_centre(&mut self) {
        let (dim, n) = (self.space.dim, self.space.n());
        let (mut sums, mut count) = (vec![0u64; dim], [0u64]);
        let mut vector = vec![0; 4 * dim];
        for row in (0..n).step_by(n.div_ceil(1000)) {
            self.space.prepare(self.space.row(row), &mut vector);
            let (t, isa) = (token(), self.space.isa);
            accumulate_f32(&t, isa, &vector, 4 * dim, dim, &[0], &mut sums, &mut count).unwrap();
        }
        centroids_f32(
            &token(),
            self.space.isa,
            dim,
            &sums,
            &count,
            &mut self.centre,
        )
        .unwrap();
    }

    /// Bytes of blocks in use.
    pub fn bytes(&self) -> usize {
        let used = |table: &Index<Arena>| {
            let words = table.layout().block_words as usize * table.counts().used as usize;
            4 * (words + table.params().list_words())
        };
        self.tables.iter().map(used).sum()
    }

    /// Projections of a row, which `vector` is as [`Space::prepare`] makes it, for a table.
    fn project(&self, row: &[u8], vector: &[u8], table: u32, out: &mut [i32]) {
        let Params { seed, dim, .. } = self.params;
        if self.space.elem == Elem::Binary {
            return sample_bits(seed, table, dim, row, out);
        }
        let (t, isa) = (token(), self.space.isa);
        let mut rotated = vec![0; vector.len()];
        subtract_f32(&t, isa, vector, &self.centre, &mut rotated).unwrap();
        let (rotation, first) = self.params.rotation(table);
        if self.params.code == Code::Flat || rotation != seed {
            rotate_f32(&t, isa, rotation, &mut rotated).unwrap();
        }
        let part = &rotated[4 * first as usize..];
        fixed_f32(&t, isa, part, self.scale, out).unwrap();
    }

    fn vector(&self, row: u64) -> Vec<u8> {
        let mut vector = vec![0; 4 * self.space.dim];
        if self.space.elem != Elem::Binary {
            self.space
                .prepare(self.space.row(row as usize), &mut vector);
        }
        vector
    }

    fn bucket_of(&self, row: u64, vector: &[u8], table: u32) -> u32 {
        let mut projections = vec![0; self.params.nbits as usize];
        let row = self.space.row(row as usize);
        self.project(row, vector, table, &mut projections);
        self.params.bucket(&projections)
    }

    pub fn insert(&self, row: u64) {
        let vector = self.vector(row);
        let layout = self.tables[0].layout();
        let (mut codes, mut factors) = (vec![0; layout.nsub as usize], [0; 3]);
        if self.params.code != Code::Flat {
            let mut space = &self.space;
            space
                .encode(&vector, &self.centre, &[], &mut codes, &mut factors)
                .unwrap();
        }
        for (t, table) in (0..).zip(&self.tables) {
            let bucket = self.bucket_of(row, &vector, t);
            let mut writer = table.writer();
            writer.append::<()>(bucket, row, &codes, &factors).unwrap();
        }
    }

    /// Inserts all rows as a build does that knows all of them: room for each bucket first.
    pub fn build(&self) {
        let rows = 0..self.space.n() as u64;
        for (t, table) in (0..).zip(&self.tables) {
            let mut counts = vec![0; table.params().nlist as usize];
            for row in rows.clone() {
                counts[self.bucket_of(row, &self.vector(row), t) as usize] += 1;
            }
            let mut writer = table.writer();
            for (bucket, count) in (0..).zip(counts) {
                writer.reserve::<()>(bucket, count).unwrap();
            }
        }
        for row in rows {
            self.insert(row);
        }
    }

    pub fn delete(&self, row: u64) {
        let vector = self.vector(row);
        for (t, table) in (0..).zip(&self.tables) {
            let bucket = self.bucket_of(row, &vector, t);
            assert!(table.writer().delete_from::<()>(bucket, row).unwrap());
        }
    }

    pub fn search<F: Visible<Error = BadShape>>(
        &self,
        memory: &mut Memory,
        query: &[u8],
        visible: &mut F,
        how: &Query,
        top: &mut TopK<'_>,
    ) -> Found {
        let codes = Codes::of(&self.space, &self.centre, &[], 150, query);
        let mut scorer = Scorer {
            tables: self,
            query,
            codes,
        };
        let (params, tables) = (&self.params, &self.tables);
        let work = &mut memory.lend();
        search(params, tables, work, &mut scorer, visible, how, top).unwrap()
    }
}

/// Memory of searches.
pub struct Memory {
    visited: Vec<u64>,
    touched: Vec<u32>,
    heap: Vec<Perturbation>,
    candidates: Vec<u64>,
    lower: Vec<u32>,
    hits: Vec<u32>,
}

impl Memory {
    pub fn new(rows: usize, nprobe: u32, keep: usize) -> Self {
        Memory {
            visited: vec![0; rows.div_ceil(64)],
            // Too few for many probes: then all is cleared.
            touched: vec![0; 20],
            heap: vec![Perturbation::default(); nprobe as usize],
            candidates: vec![0; reservoir::memory(keep)],
            lower: vec![0; 4096],
            hits: vec![0; 128],
        }
    }

    /// Whether no row is marked.
    pub fn is_clear(&self) -> bool {
        self.visited.iter().all(|word| *word == 0)
    }

    fn lend(&mut self) -> Workspace<'_> {
        Workspace {
            visited: &mut self.visited,
            touched: &mut self.touched,
            heap: &mut self.heap,
            candidates: &mut self.candidates,
            lower: &mut self.lower,
            hits: &mut self.hits,
        }
    }
}

struct Scorer<'a> {
    tables: &'a Tables,
    query: &'a [u8],
    codes: Codes<'a>,
}

impl ivf::Numeric for Scorer<'_> {
    type Error = BadShape;

    fn centres(
        &mut self,
        lists: &[u32],
        near: &mut [u32],
        rank: &mut [u32],
    ) -> Result<(), BadShape> {
        self.codes.centres(lists, near, rank)
    }

    fn scan(
        &mut self,
        runs: &[Run<'_>],
        threshold: u32,
        lower: &mut [u32],
        hits: &mut [u32],
    ) -> Result<(), BadShape> {
        self.codes.scan(runs, threshold, lower, hits)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), BadShape> {
        self.codes.exact(rows, out)
    }
}

impl Numeric for Scorer<'_> {
    fn project(&mut self, table: u32, out: &mut [i32]) -> Result<(), BadShape> {
        self.tables
            .project(self.query, &self.codes.vector, table, out);
        Ok(())
    }
}
