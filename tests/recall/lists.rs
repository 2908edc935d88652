// SPDX-License-Identifier: Apache-2.0

//! Inverted files in user space: memory, locks and arithmetic over arrays, for tests and benchmarks.

use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard};

use vexfs_ann::ivf::{
    self, CheckMemory, Code, Found, Index, InsertMemory, Model, Numeric, Params, Query, Run, Store,
    Vectors, Workspace, BATCH, NEAR_WORDS,
};
use vexfs_ann::kmeans::Failure;
use vexfs_ann::{reservoir, Hit, TopK, Visible};
use vexfs_simd_host::*;

/// Bytes of a chunk of blocks.
const CHUNK: usize = 2 << 20;

/// Words at a cache line's beginning.
pub struct Words {
    memory: Vec<AtomicU32>,
    skip: usize,
    len: usize,
}

impl Words {
    pub fn new(len: usize) -> Self {
        let memory: Vec<AtomicU32> = (0..len + 16).map(|_| AtomicU32::new(0)).collect();
        let skip = memory.as_ptr().align_offset(64);
        Words { memory, skip, len }
    }

    pub fn get(&self) -> &[AtomicU32] {
        &self.memory[self.skip..][..self.len]
    }
}

/// Blocks in chunks of 2 MiB.
pub struct Arena {
    lists: Words,
    chunks: Vec<Words>,
    block_words: usize,
    per_chunk: u32,
    blocks: u32,
    lock: Mutex<()>,
}

impl Arena {
    pub fn new(params: &Params, blocks: u32) -> Self {
        let block_words = params.layout().unwrap().block_words as usize;
        // Small ones are not a whole chunk, so that tests copy less.
        let per_chunk = ((CHUNK / 4 / block_words) as u32).min(blocks.max(1));
        Arena {
            lists: Words::new(params.list_words()),
            chunks: (0..blocks.div_ceil(per_chunk))
                .map(|_| Words::new(per_chunk as usize * block_words))
                .collect(),
            block_words,
            per_chunk,
            blocks,
            lock: Mutex::new(()),
        }
    }

    /// A copy, word by word.
    pub fn copy(&self) -> Self {
        let copy = |words: &Words| {
            let new = Words::new(words.len);
            for (to, from) in new.get().iter().zip(words.get()) {
                to.store(
                    from.load(std::sync::atomic::Ordering::Relaxed),
                    std::sync::atomic::Ordering::Relaxed,
                );
            }
            new
        };
        Arena {
            lists: copy(&self.lists),
            chunks: self.chunks.iter().map(copy).collect(),
            lock: Mutex::new(()),
            ..*self
        }
    }

    /// All words, those of lists first.
    pub fn words(&self) -> Vec<&AtomicU32> {
        let chunks = self.chunks.iter().flat_map(|chunk| chunk.get());
        self.lists.get().iter().chain(chunks).collect()
    }
}

impl Store for Arena {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lists(&self) -> &[AtomicU32] {
        self.lists.get()
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }

    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        let at = first % self.per_chunk;
        let count = count
            .min(self.per_chunk - at)
            .min(self.blocks.checked_sub(first)?) as usize;
        if count == 0 {
            return None;
        }
        let chunk = self.chunks.get((first / self.per_chunk) as usize)?.get();
        chunk
            .get(at as usize * self.block_words..)?
            .get(..count * self.block_words)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap()
    }
}

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

    fn shape(&self) -> PqShape {
        let layout = self.params.layout().unwrap();
        PqShape {
            nsub: layout.nsub as usize,
            ksub: layout.ksub as usize,
            dsub: self.dim / (layout.nsub as usize).max(1),
        }
    }

    /// The metric of codes: bits differ by their squared distance.
    fn code_metric(&self) -> Metric {
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

/// Everything is visible.
pub struct All;

impl Visible for All {
    type Error = BadShape;

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok(Some(row))
    }
}

/// Rows that pass a test.
pub struct Only<F>(pub F);

impl<F: FnMut(u64) -> bool> Visible for Only<F> {
    type Error = BadShape;

    fn allows(&mut self, row: u64) -> bool {
        (self.0)(row)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok((self.0)(row).then_some(row))
    }
}

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
        let sizes = ivf::train::TrainMemory::sizes(&params, n);
        let (mut centroids, mut codebooks) = (
            vec![0; params.centroid_bytes()],
            vec![0; params.codebook_bytes()],
        );
        let mut memory = ivf::train::TrainMemory {
            sample: &mut vec![0; sizes.sample],
            ids: &mut vec![0; sizes.rows],
            keys: &mut vec![0; sizes.rows],
            sums: &mut vec![0; sizes.sums],
            counts: &mut vec![0; sizes.counts],
        };
        let trained = ivf::train::train(
            &params,
            &mut &space,
            n,
            &mut memory,
            &mut centroids,
            &mut codebooks,
            &mut || false,
        );
        assert_eq!(trained, Ok::<(), Failure<BadShape>>(()));
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
        let mut hits = vec![Hit::default(); k];
        let mut top = TopK::new(&mut hits);
        let mut scorer = Scorer::new(self, query);
        let found = self
            .index
            .search(&mut memory.lend(), &mut scorer, visible, how, &mut top)
            .unwrap();
        (top.into_sorted().to_vec(), found)
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

    pub fn check(&self) -> ivf::Report {
        let (blocks, rows) = (self.index.counts().used, self.space.n());
        let mut memory = CheckMemory {
            blocks: &mut vec![0; blocks.div_ceil(64) as usize],
            rows: &mut vec![0; rows.div_ceil(64)],
            again: &mut vec![0; 2 * rows.div_ceil(64)],
        };
        self.index.check(rows as u64, &mut memory)
    }
}

/// How many of the exact answer were found, of all queries together.
pub fn recall(found: &[Vec<Hit>], exact: &[Vec<Hit>]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (found, exact) in found.iter().zip(exact) {
        all += exact.len();
        hits += exact
            .iter()
            .filter(|e| found.iter().any(|f| f.row == e.row))
            .count();
    }
    hits as f64 / all.max(1) as f64
}
