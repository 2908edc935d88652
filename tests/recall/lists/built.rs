// SPDX-License-Identifier: Apache-2.0

//! An inverted file over the rows of a container: building, changing, searching and checking it.

use vexfs_ann::ivf::train::{TrainMemory, TrainSizes};
use vexfs_ann::ivf::{
    self, BadParams, CheckMemory, Error, Found, Index, InsertMemory, Model, Params, Query, Report,
    Vectors, Workspace, BATCH, NEAR_WORDS,
};
use vexfs_ann::kmeans::Failure;
use vexfs_ann::{reservoir, Hit, TopK, Visible};
use vexfs_simd_host::BadShape;

use super::{Arena, Scorer, Space};

/// Memory of searches.
pub struct Memory {
    lists: Vec<u64>,
    near: Vec<u32>,
    candidates: Vec<u64>,
    lower: Vec<u32>,
    hits: Vec<u32>,
    visited: Vec<u64>,
    touched: Vec<u32>,
}

impl Memory {
    /// For the best `keep` of `rows` rows at most.
    pub fn new(params: &Params, keep: usize, rows: usize) -> Self {
        let bits = if params.copies > 1 { rows } else { 0 };
        Memory {
            lists: vec![0; Workspace::lists_for(params.nlist)],
            near: vec![0; params.nlist as usize + 1],
            candidates: vec![0; reservoir::memory(keep)],
            lower: vec![0; 4096],
            hits: vec![0; 128],
            visited: vec![0; bits.div_ceil(64)],
            touched: vec![0; 4096],
        }
    }

    pub fn lend(&mut self) -> Workspace<'_> {
        Workspace {
            lists: &mut self.lists,
            near: &mut self.near,
            candidates: &mut self.candidates,
            lower: &mut self.lower,
            hits: &mut self.hits,
            visited: &mut self.visited,
            touched: &mut self.touched,
        }
    }
}

/// Trains over the rows of a container: its centroids and codebooks. `sizes` are those of the sample, `stop` is asked as
/// [`ivf::train::train`] does.
pub fn train(
    space: &Space,
    sizes: TrainSizes,
    stop: &mut dyn FnMut() -> bool,
) -> (Vec<u8>, Vec<u8>) {
    let params = &space.params;
    let mut centroids = vec![0; params.centroid_bytes()];
    let mut codebooks = vec![0; params.codebook_bytes()];
    let mut memory = TrainMemory {
        sample: &mut vec![0; sizes.sample],
        ids: &mut vec![0; sizes.rows],
        keys: &mut vec![0; sizes.rows],
        sums: &mut vec![0; sizes.sums],
        counts: &mut vec![0; sizes.counts],
    };
    let trained = ivf::train::train(
        params,
        &mut &*space,
        space.n() as u64,
        &mut memory,
        &mut centroids,
        &mut codebooks,
        stop,
    );
    assert_eq!(trained, Ok::<(), Failure<BadShape>>(()));
    (centroids, codebooks)
}

/// A container with its index.
pub struct Built {
    pub space: Space,
    pub centroids: Vec<u8>,
    pub codebooks: Vec<u8>,
    pub index: Index<Arena>,
    pub sigmas: u32,
}

impl Built {
    /// Trains over all rows; the index is empty yet but for its lists' codes.
    pub fn train(space: Space, blocks: u32) -> Self {
        let params = space.params;
        let n = space.n() as u64;
        let sizes = TrainMemory::sizes(&params, n);
        let (centroids, codebooks) = train(&space, sizes, &mut || false);
        let index = Index::new(params, Arena::new(&params, blocks)).unwrap();
        let built = Built {
            space,
            centroids,
            codebooks,
            index,
            sigmas: 150,
        };
        built.with_memory(|model, memory| {
            built
                .index
                .encode_lists(&mut &built.space, model, memory)
                .unwrap()
        });
        built
    }

    fn with_memory<T>(&self, f: impl FnOnce(&Model<'_>, &mut InsertMemory<'_>) -> T) -> T {
        let model = Model {
            centroids: &self.centroids,
            codebooks: &self.codebooks,
        };
        let nsub = self.index.layout().nsub as usize;
        let copies = self.space.params.copies as usize;
        let mut memory = InsertMemory {
            vectors: &mut vec![0; BATCH * 4 * self.space.dim],
            codes: &mut vec![0; copies * BATCH * nsub],
            near: &mut vec![0; NEAR_WORDS],
        };
        f(&model, &mut memory)
    }

    /// Inserts rows one batch after the other.
    pub fn insert(&self, rows: impl Iterator<Item = u64>) {
        let rows: Vec<u64> = rows.collect();
        self.with_memory(|model, memory| {
            for batch in rows.chunks(BATCH) {
                self.index
                    .insert(&mut &self.space, model, batch, memory)
                    .unwrap();
            }
        });
    }

    /// As a build does that knows all rows: lists first, then room for each, then codes.
    pub fn build(&self) {
        let (n, copies) = (self.space.n(), self.space.params.copies as usize);
        let mut lists = vec![0; copies * n];
        let rows: Vec<u64> = (0..n as u64).collect();
        self.with_memory(|model, memory| {
            for (rows, lists) in rows.chunks(BATCH).zip(lists.chunks_mut(copies * BATCH)) {
                self.index
                    .lists_of(&mut &self.space, model, rows, memory, lists)
                    .unwrap();
            }
            let mut counts = vec![0; self.space.params.nlist as usize];
            lists.iter().for_each(|list| counts[*list as usize] += 1);
            let mut writer = self.index.writer();
            for (list, count) in (0..).zip(counts) {
                writer.reserve::<()>(list, count).unwrap();
            }
            drop(writer);
            for (rows, lists) in rows.chunks(BATCH).zip(lists.chunks(copies * BATCH)) {
                self.add(model, memory, rows, lists);
            }
        });
    }

    fn add(&self, model: &Model<'_>, memory: &mut InsertMemory<'_>, rows: &[u64], lists: &[u32]) {
        let mut space = &self.space;
        let copies = space.params.copies;
        let mut factors = vec![[0; 3]; lists.len()];
        let bytes = rows.len() * 4 * space.dim;
        space.load(rows, &mut memory.vectors[..bytes]).unwrap();
        self.index
            .encode(&mut space, model, lists, copies, memory, &mut factors)
            .unwrap();
        let each = copies as usize;
        let step = each * self.index.layout().nsub as usize;
        let mut writer = self.index.writer();
        let places = lists.chunks(each).zip(factors.chunks(each));
        for (i, (row, (lists, factors))) in rows.iter().zip(places).enumerate() {
            let codes = &memory.codes[i * step..][..step];
            writer.append_to::<()>(lists, *row, codes, factors).unwrap();
        }
    }

    /// The lists of a row, as inserting it chose them.
    pub fn lists_of(&self, row: u64) -> Vec<u32> {
        let mut lists = vec![0; self.space.params.copies as usize];
        self.with_memory(|model, memory| {
            self.index
                .lists_of(&mut &self.space, model, &[row], memory, &mut lists)
                .unwrap()
        });
        lists
    }

    /// The codes and factors of a row in a list, as inserting it computes them.
    pub fn codes_of(&self, row: u64, list: u32) -> (Vec<u8>, [u32; 3]) {
        let mut space = &self.space;
        let mut factors = [[0; 3]];
        let codes = self.with_memory(|model, memory| {
            let bytes = 4 * space.dim;
            space.load(&[row], &mut memory.vectors[..bytes]).unwrap();
            self.index
                .encode(&mut space, model, &[list], 1, memory, &mut factors)
                .unwrap();
            memory.codes[..self.index.layout().nsub as usize].to_vec()
        });
        (codes, factors[0])
    }

    pub fn delete(&self, row: u64) -> bool {
        let lists = self.lists_of(row);
        self.index.writer().delete::<()>(&lists, row).unwrap()
    }

    pub fn search<F: Visible<Error = BadShape>>(
        &self,
        memory: &mut Memory,
        query: &[u8],
        visible: &mut F,
        how: &Query,
        k: usize,
    ) -> (Vec<Hit>, Found) {
        self.search_of(&self.index, &mut memory.lend(), query, visible, how, k)
            .unwrap()
    }

    /// Searches in an index of the same rows, which may be a damaged one.
    pub fn search_of<F: Visible<Error = BadShape>>(
        &self,
        index: &Index<Arena>,
        work: &mut Workspace<'_>,
        query: &[u8],
        visible: &mut F,
        how: &Query,
        k: usize,
    ) -> Result<(Vec<Hit>, Found), Error<BadShape>> {
        let mut hits = vec![Hit::default(); k];
        let mut top = TopK::new(&mut hits);
        let mut scorer = Scorer::new(self, query);
        let found = index.search(work, &mut scorer, visible, how, &mut top)?;
        Ok((top.into_sorted().to_vec(), found))
    }

    /// The exact answer, by scoring everything that is visible.
    pub fn exact<F: Visible<Error = BadShape>>(
        &self,
        query: &[u8],
        visible: &mut F,
        k: usize,
    ) -> Vec<Hit> {
        let mut hits = vec![Hit::default(); k];
        let mut top = TopK::new(&mut hits);
        let rows = 0..self.space.n() as u64;
        ivf::exact(&mut Scorer::new(self, query), visible, rows, &mut top).unwrap();
        top.into_sorted().to_vec()
    }

    /// Checks the index and its rows.
    pub fn check(&self) -> Report {
        self.with_check_memory(|rows, memory| self.index.check(rows, memory))
    }

    /// Opens what may be a copy of the index's memory as an image of it.
    pub fn open(&self, words: Arena) -> Result<Index<Arena>, Result<Report, BadParams>> {
        let image = self.index.image();
        self.with_check_memory(|rows, memory| {
            Index::open(self.space.params, words, image, rows, memory)
        })
    }

    fn with_check_memory<T>(&self, f: impl FnOnce(u64, &mut CheckMemory<'_>) -> T) -> T {
        let (blocks, rows) = (self.index.counts().used, self.space.n());
        let mut memory = CheckMemory {
            blocks: &mut vec![0; blocks.div_ceil(64) as usize],
            rows: &mut vec![0; rows.div_ceil(64)],
            again: &mut vec![0; 2 * rows.div_ceil(64)],
        };
        f(rows as u64, &mut memory)
    }
}
