// SPDX-License-Identifier: Apache-2.0

//! Graphs of real arithmetic in user space: arrays of vectors, memory and arithmetic for an index.
//!
//! What the filesystem does over its files and FPU sections this does over arrays, for tests and
//! benchmarks.

pub mod hashes;
pub mod lists;
pub mod narrow;
pub mod npy;
pub mod synthetic;
mod visible;

use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard};

use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::*;
use vexfs_ann::kmeans::Random;
use vexfs_ann::{Hit, TopK};
use vexfs_simd_host::*;

pub use visible::{recall, All, Passing};

/// Rows of one container.
pub struct Rows {
    pub elem: Elem,
    pub metric: Metric,
    pub dim: usize,
    pub bytes: Vec<u8>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.bytes.len() / self.elem.row_bytes(self.dim)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn row(&self, i: usize) -> &[u8] {
        let len = self.elem.row_bytes(self.dim);
        &self.bytes[i * len..][..len]
    }

    /// The nearest `k` rows that pass, by exact distances, as distances and rows.
    pub fn nearest(&self, query: &[u8], k: usize, allows: impl Fn(u64) -> bool) -> Vec<(u32, u64)> {
        let stride = self.elem.row_bytes(self.dim);
        let mut out = vec![0; self.len()];
        score_rows(
            &token(),
            Isa::best(),
            self.elem,
            self.metric,
            query,
            &self.bytes,
            stride,
            self.dim,
            &mut out,
        )
        .expect("rows are of one shape");
        let mut hits = vec![Hit::default(); k];
        let mut top = TopK::new(&mut hits);
        for (row, distance) in (0..).zip(out) {
            if distance <= top.bound() && allows(row) {
                top.push(Hit {
                    distance,
                    key: row,
                    row,
                });
            }
        }
        top.into_sorted()
            .iter()
            .map(|hit| (hit.distance, hit.row))
            .collect()
    }

    /// The mean of up to `most` rows as f32, normalised ones if the metric is cosine: the centre of codes.
    pub fn centre(&self, most: usize) -> Vec<u8> {
        let stride = self.len().div_ceil(most).max(1);
        let mut sums = vec![0u64; self.dim];
        let mut count = [0u64];
        let (t, isa) = (token(), Isa::best());
        let mut wide = vec![0; 4 * self.dim];
        for i in (0..self.len()).step_by(stride) {
            match self.elem {
                Elem::F32 => wide.copy_from_slice(self.row(i)),
                _ => convert(&t, isa, self.elem, Elem::F32, self.row(i), &mut wide)
                    .expect("float rows"),
            }
            if self.metric == Metric::Cosine {
                let _ = normalise_f32(&t, isa, &mut wide);
            }
            accumulate_f32(
                &t,
                isa,
                &wide,
                4 * self.dim,
                self.dim,
                &[0],
                &mut sums,
                &mut count,
            )
            .expect("one row");
        }
        let mut centre = vec![0; 4 * self.dim];
        centroids_f32(&t, isa, self.dim, &sums, &count, &mut centre).expect("one sum");
        centre
    }
}

/// A random number, uniform in -1..1.
pub fn unit(random: &mut Random) -> f64 {
    (random.word() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Nanoseconds that this thread was on a processor: other load on the machine counts for less than in wall
/// time.
pub fn processor_ns() -> u64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// Words of a code of `bits` bits an element, or `u32::MAX` if rows are too long.
pub fn graph_words(elem: Elem, bits: u32, dim: usize) -> u32 {
    let kind = GraphKind::of(elem, bits).expect("codes exist");
    let metric = match elem {
        Elem::Binary => Metric::Hamming,
        _ => Metric::L2Sq,
    };
    let code = GraphCode::new(kind, elem, metric, dim);
    code.map_or(u32::MAX, |code| code.code_words() as u32)
}

/// How the rows of a container become codes.
pub struct Codec {
    pub code: GraphCode,
    pub centre: Vec<u8>,
    pub seed: u64,
    pub isa: Isa,
}

impl Codec {
    pub fn new(rows: &Rows, kind: GraphKind) -> Codec {
        let code = GraphCode::new(kind, rows.elem, rows.metric, rows.dim).expect("codes exist");
        let centre = match kind {
            GraphKind::Raw(_) => Vec::new(),
            _ => rows.centre(10_000),
        };
        Codec {
            code,
            centre,
            seed: 1,
            isa: Isa::best(),
        }
    }
}

/// Words at an alignment of 64 bytes.
pub struct Aligned {
    words: Vec<AtomicU32>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn zeros(len: usize) -> Aligned {
        let words: Vec<AtomicU32> = (0..len + 16).map(|_| AtomicU32::new(0)).collect();
        let start = words.as_ptr().align_offset(64).min(16);
        Aligned { words, start, len }
    }

    #[inline]
    pub fn as_slice(&self) -> &[AtomicU32] {
        &self.words[self.start..][..self.len]
    }
}

/// Memory of an index.
pub struct Memory {
    layout: Layout,
    nodes: Aligned,
    uppers: Aligned,
    places: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
}

impl Memory {
    pub fn new(layout: Layout, nodes: u32, rows: usize) -> Memory {
        Memory {
            layout,
            nodes: Aligned::zeros(nodes as usize * layout.node_words()),
            uppers: Aligned::zeros(layout.upper_blocks(nodes) as usize * layout.upper_words()),
            places: (0..rows).map(|_| AtomicU32::new(NOWHERE)).collect(),
            locks: (0..1024).map(|_| Mutex::new(())).collect(),
        }
    }

    /// All bytes that this holds.
    pub fn bytes(&self) -> usize {
        4 * (self.nodes.len + self.uppers.len + self.places.len()) + 8 * self.locks.len()
    }
}

impl Store for Memory {
    type Guard<'a> = MutexGuard<'a, ()>;

    #[inline]
    fn node(&self, slot: u32) -> Option<&[AtomicU32]> {
        let words = self.layout.node_words();
        let start = (slot as usize).checked_mul(words)?;
        self.nodes.as_slice().get(start..start.checked_add(words)?)
    }

    fn nodes(&self) -> u32 {
        (self.nodes.len / self.layout.node_words()) as u32
    }

    fn upper(&self, at: u32) -> Option<&[AtomicU32]> {
        let words = self.layout.upper_words();
        let start = (at as usize).checked_mul(words)?;
        self.uppers.as_slice().get(start..start.checked_add(words)?)
    }

    fn uppers(&self) -> u32 {
        (self.uppers.len / self.layout.upper_words()) as u32
    }

    fn place(&self, row: u64) -> Option<&AtomicU32> {
        self.places.get(row as usize)
    }

    fn lock(&self, slot: u32) -> MutexGuard<'_, ()> {
        // A test that panicked says so itself.
        let lock = &self.locks[slot as usize % self.locks.len()];
        lock.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Arithmetic of one vector; its memory serves the next one, too.
pub struct Arithmetic<'a> {
    rows: &'a Rows,
    codec: &'a Codec,
    query_row: Vec<u8>,
    vector: Vec<u32>,
    query: Vec<u32>,
    query_start: usize,
    query_words: usize,
}

impl<'a> Arithmetic<'a> {
    pub fn new(rows: &'a Rows, codec: &'a Codec) -> Self {
        let query_words = codec.code.query_words();
        let query = vec![0u32; query_words + 16];
        let query_start = query.as_ptr().align_offset(64).min(16);
        Arithmetic {
            rows,
            codec,
            query_row: vec![0; codec.code.row_bytes()],
            vector: vec![0; codec.code.vector_words()],
            query,
            query_start,
            query_words,
        }
    }

    /// Makes `row` the query.
    pub fn set_query(&mut self, row: &[u8]) {
        self.query_row.copy_from_slice(row);
        let query = &mut self.query[self.query_start..][..self.query_words];
        let codec = self.codec;
        codec
            .code
            .prepare(
                &token(),
                codec.isa,
                codec.seed,
                &codec.centre,
                row,
                &mut self.vector,
                query,
            )
            .expect("shapes fit");
    }

    #[inline]
    fn query(&self) -> &[u32] {
        &self.query[self.query_start..][..self.query_words]
    }
}

impl Numeric for Arithmetic<'_> {
    type Error = BadShape;

    fn encode(&mut self, code: &mut [u32]) -> Result<(), BadShape> {
        let codec = self.codec;
        codec
            .code
            .encode(&token(), codec.isa, &self.vector, self.query(), code)
    }

    #[inline]
    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result<(), BadShape> {
        let codec = self.codec;
        codec
            .code
            .score(&token(), codec.isa, self.query(), nodes, out)
    }

    #[inline]
    fn between(
        &mut self,
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), BadShape> {
        let codec = self.codec;
        codec
            .code
            .between(&token(), codec.isa, self.query(), from, nodes, out)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), BadShape> {
        let Rows {
            elem,
            metric,
            dim,
            bytes,
        } = self.rows;
        let mut offsets = [0; BATCH];
        let offsets = offsets.get_mut(..rows.len()).ok_or(BadShape)?;
        for (offset, row) in offsets.iter_mut().zip(rows) {
            *offset = row * elem.row_bytes(*dim) as u64;
        }
        score_gather(
            &token(),
            self.codec.isa,
            *elem,
            *metric,
            &self.query_row,
            bytes,
            offsets,
            *dim,
            out,
        )
    }

    #[inline]
    fn prefetch(&self, part: &[AtomicU32]) {
        prefetch(part);
    }
}

/// Owned scratch memory.
pub struct Scratch {
    visited: Vec<u64>,
    touched: Vec<u32>,
    candidates: Vec<u64>,
    code: Vec<u32>,
}

impl Scratch {
    pub fn new(nodes: u32) -> Scratch {
        Scratch {
            visited: vec![0; visited_words(nodes)],
            touched: vec![0; 8192],
            candidates: vec![0; 2048],
            code: vec![0; MAX_CODE_WORDS],
        }
    }

    pub fn lend(&mut self) -> Workspace<'_> {
        Workspace {
            visited: &mut self.visited,
            touched: &mut self.touched,
            candidates: &mut self.candidates,
            code: &mut self.code,
        }
    }
}

/// An empty index for `nodes` nodes and the rows of `rows`.
pub fn index(
    codec: &Codec,
    rows: &Rows,
    nodes: u32,
    m: u32,
    ef_construction: u32,
) -> Index<Memory> {
    let params = Params {
        m,
        ef_construction,
        code_words: codec.code.code_words() as u32,
        seed: 1,
    };
    let layout = params.layout().expect("parameters are good");
    Index::new(params, Memory::new(layout, nodes, rows.len())).expect("parameters are good")
}

/// Inserts a row of those that `arithmetic` is of.
pub fn insert(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    arithmetic: &mut Arithmetic<'_>,
    row: usize,
) {
    arithmetic.set_query(arithmetic.rows.row(row));
    index
        .insert(&mut scratch.lend(), arithmetic, row as u64)
        .expect("there is room");
}

/// The best `k` of the rows that pass.
pub fn search(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    arithmetic: &mut Arithmetic<'_>,
    vector: &[u8],
    query: &Query,
    passes: impl FnMut(u64) -> bool,
    k: usize,
) -> Vec<Hit> {
    arithmetic.set_query(vector);
    let mut hits = vec![Hit::default(); k];
    let mut top = TopK::new(&mut hits);
    let (work, mut visible) = (&mut scratch.lend(), Passing(passes));
    index
        .search(work, arithmetic, &mut visible, query, &mut top)
        .expect("there is scratch memory");
    top.into_sorted().to_vec()
}

/// A full check; scratch memory comes and goes.
pub fn check(index: &Index<Memory>) -> Report {
    let counts = index.counts();
    let used = counts.used as usize;
    index.check(&mut CheckMemory {
        counts: &mut vec![0; used],
        upper_counts: &mut vec![0; counts.used_uppers as usize],
        queue: &mut vec![0; used],
        visited: &mut vec![0; visited_words(counts.used)],
    })
}

/// Two rounds of sweeping and a repair; says how many rows were repaired.
pub fn upkeep(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    arithmetic: &mut Arithmetic<'_>,
) -> u32 {
    for _ in 0..2 {
        let mut at = Some(0);
        while let Some(slot) = at {
            at = index.sweep(arithmetic, slot, 1000).expect("shapes fit");
        }
    }
    repair(index, scratch, arithmetic)
}

/// Repairs the paths of a graph; says how many rows were joined.
pub fn repair(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    arithmetic: &mut Arithmetic<'_>,
) -> u32 {
    let used = index.counts().used;
    let mut memory = RepairMemory {
        queue: &mut vec![0; used as usize],
        parents: &mut vec![0; used as usize],
        visited: &mut vec![0; visited_words(used)],
    };
    index
        .repair(&mut scratch.lend(), &mut memory, arithmetic)
        .expect("there is scratch memory")
}

/// Moves the nodes into an order in which neighbours lie near each other.
pub fn reorder(index: &Index<Memory>) {
    let used = index.counts().used as usize;
    let mut memory = OrderMemory {
        stack: &mut vec![0; used],
        places: &mut vec![0; used],
    };
    index
        .reorder(&mut memory, || Ok::<_, BadShape>(()))
        .expect("there is scratch memory");
}
