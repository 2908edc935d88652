// SPDX-License-Identifier: Apache-2.0

//! What the tests of graphs share: memory, and vectors of small integers in place of codes.

#![allow(dead_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use vexfs_ann::hnsw::params::{visited_words, MAX_CODE_WORDS};
use vexfs_ann::hnsw::*;
use vexfs_ann::{Hit, TopK};

/// SplitMix64: the same seed gives the same numbers on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Memory of fixed size.
pub struct Memory {
    layout: Layout,
    nodes: Vec<AtomicU32>,
    uppers: Vec<AtomicU32>,
    places: Vec<AtomicU32>,
    locks: Vec<Mutex<()>>,
}

impl Memory {
    pub fn new(layout: Layout, nodes: u32, rows: usize) -> Memory {
        let zeros = |n: usize| (0..n).map(|_| AtomicU32::new(0)).collect();
        Memory {
            layout,
            nodes: zeros(nodes as usize * layout.node_words()),
            uppers: zeros(layout.upper_blocks(nodes) as usize * layout.upper_words()),
            places: (0..rows).map(|_| AtomicU32::new(NOWHERE)).collect(),
            locks: (0..64).map(|_| Mutex::new(())).collect(),
        }
    }

    /// The words that an image consists of.
    pub fn words(&self) -> (Vec<u32>, Vec<u32>) {
        let load = |words: &[AtomicU32]| words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        (load(&self.nodes), load(&self.uppers))
    }

    pub fn from_words(layout: Layout, nodes: &[u32], uppers: &[u32], rows: usize) -> Memory {
        let store = |words: &[u32]| words.iter().map(|&w| AtomicU32::new(w)).collect();
        Memory {
            nodes: store(nodes),
            uppers: store(uppers),
            ..Memory::new(layout, 0, rows)
        }
    }
}

impl Store for Memory {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn node(&self, slot: u32) -> Option<&[AtomicU32]> {
        let words = self.layout.node_words();
        self.nodes
            .get((slot as usize).checked_mul(words)?..)?
            .get(..words)
    }

    fn nodes(&self) -> u32 {
        (self.nodes.len() / self.layout.node_words()) as u32
    }

    fn upper(&self, at: u32) -> Option<&[AtomicU32]> {
        let words = self.layout.upper_words();
        self.uppers
            .get((at as usize).checked_mul(words)?..)?
            .get(..words)
    }

    fn uppers(&self) -> u32 {
        (self.uppers.len() / self.layout.upper_words()) as u32
    }

    fn place(&self, row: u64) -> Option<&AtomicU32> {
        self.places.get(row as usize)
    }

    fn lock(&self, slot: u32) -> MutexGuard<'_, ()> {
        self.locks[slot as usize % self.locks.len()].lock().unwrap()
    }
}

pub const DIM: usize = 8;
pub type Point = [u32; DIM];

/// The key of a distance that is this number: those of the filesystem are bits of binary32, so nearly logarithms.
fn key(number: u32) -> u32 {
    let Some(log) = number.checked_ilog2() else {
        return 1 << 31;
    };
    let mantissa = (u64::from(number) << 23 >> log) as u32 & ((1 << 23) - 1);
    1 << 31 | (127 + log) << 23 | mantissa
}

/// Squared Euclidean distance of points with coordinates below 2^12.
pub fn distance(a: &Point, b: &Point) -> u32 {
    key(a.iter().zip(b).map(|(a, b)| a.abs_diff(*b).pow(2)).sum())
}

/// Points in clusters.
pub fn points(n: usize, seed: u64) -> Vec<Point> {
    let mut rng = Rng(seed);
    let centres: Vec<Point> = (0..n.div_ceil(50))
        .map(|_| std::array::from_fn(|_| rng.below(1500) as u32))
        .collect();
    (0..n)
        .map(|_| {
            let centre = centres[rng.below(centres.len())];
            centre.map(|c| c + (rng.below(400) + rng.below(400)) as u32)
        })
        .collect()
}

/// Arithmetic on points, whose codes are their coordinates.
pub struct Points<'a> {
    pub rows: &'a [Point],
    pub query: Point,
    /// Whether the code keeps all bits of a coordinate, or only the upper ones.
    pub lost_bits: u32,
    /// Calls until one fails.
    pub fails_in: u64,
}

impl<'a> Points<'a> {
    pub fn new(rows: &'a [Point], query: Point) -> Self {
        Points {
            rows,
            query,
            lost_bits: 0,
            fails_in: u64::MAX,
        }
    }

    fn may_fail(&mut self) -> Result<(), Failure> {
        self.fails_in = self.fails_in.checked_sub(1).ok_or(Failure)?;
        Ok(())
    }
}

/// What [`Points::fails_in`] ends in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure;

fn decode(node: &[AtomicU32]) -> Point {
    std::array::from_fn(|i| node[i].load(Ordering::Relaxed))
}

impl Numeric for Points<'_> {
    type Error = Failure;

    fn encode(&mut self, code: &mut [u32]) -> Result<(), Failure> {
        self.may_fail()?;
        code.copy_from_slice(&self.query.map(|c| c >> self.lost_bits << self.lost_bits));
        Ok(())
    }

    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result<(), Failure> {
        self.may_fail()?;
        assert!(nodes.len() == out.len() && out.len() <= BATCH);
        for (node, out) in nodes.iter().zip(out) {
            *out = distance(&self.query, &decode(node));
        }
        Ok(())
    }

    fn between(
        &mut self,
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), Failure> {
        self.may_fail()?;
        assert!(nodes.len() == out.len() && out.len() <= BATCH);
        for (node, out) in nodes.iter().zip(out) {
            *out = distance(&decode(from), &decode(node));
        }
        Ok(())
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), Failure> {
        self.may_fail()?;
        assert!(rows.len() == out.len() && out.len() <= BATCH);
        for (row, out) in rows.iter().zip(out) {
            *out = distance(&self.query, &self.rows[*row as usize]);
        }
        Ok(())
    }

    fn prefetch(&self, _: &[AtomicU32]) {}
}

/// A filter by a function of the row; keys are rows.
pub struct Rows<F> {
    pub allows: F,
    /// Distances after which to stop.
    pub budget: u64,
}

impl<F: FnMut(u64) -> bool> Visible for Rows<F> {
    type Error = Failure;

    fn allows(&mut self, row: u64) -> bool {
        (self.allows)(row)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>, Failure> {
        Ok((self.allows)(row).then_some(row))
    }

    fn stop(&mut self, distances: u64) -> bool {
        distances >= self.budget
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
    pub fn new(nodes: u32, candidates: usize) -> Scratch {
        Scratch {
            visited: vec![0; visited_words(nodes)],
            touched: vec![0; 500],
            candidates: vec![0; candidates],
            code: vec![0; MAX_CODE_WORDS as usize],
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

pub const PARAMS: Params = Params {
    m: 8,
    ef_construction: 60,
    code_words: DIM as u32,
    seed: 5,
};

/// An empty index with room for `nodes` nodes and as many rows as there are points.
pub fn index(params: Params, nodes: u32, rows: usize) -> Index<Memory> {
    let layout = params.layout().unwrap();
    Index::new(params, Memory::new(layout, nodes, rows)).unwrap()
}

pub fn insert(index: &Index<Memory>, scratch: &mut Scratch, rows: &[Point], row: usize) {
    let mut numeric = Points::new(rows, rows[row]);
    index
        .insert(&mut scratch.lend(), &mut numeric, row as u64)
        .unwrap();
}

pub fn delete(index: &Index<Memory>, scratch: &mut Scratch, rows: &[Point], row: usize) {
    let mut numeric = Points::new(rows, rows[row]);
    index
        .delete(&mut scratch.lend(), &mut numeric, row as u64)
        .unwrap();
}

/// Links to all rows that no path leads to; says how many there were.
pub fn repair(index: &Index<Memory>, scratch: &mut Scratch, rows: &[Point]) -> u32 {
    let used = index.counts().used;
    let mut numeric = Points::new(rows, rows[0]);
    let mut memory = RepairMemory {
        parents: &mut vec![0; used as usize],
        queue: &mut vec![0; used as usize],
        visited: &mut vec![0; visited_words(used)],
    };
    index
        .repair(&mut scratch.lend(), &mut memory, &mut numeric)
        .unwrap()
}

/// Sweeps everything until all free slots can be used.
pub fn sweep(index: &Index<Memory>, rows: &[Point]) {
    let mut numeric = Points::new(rows, rows[0]);
    for _ in 0..4 {
        let mut at = Some(0);
        while let Some(slot) = at {
            at = index.sweep(&mut numeric, slot, 100).unwrap();
        }
    }
}

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

/// The graph has no fault, and every live row but the entry has a link to it.
pub fn assert_linked(index: &Index<Memory>) -> Report {
    let report = check(index);
    assert_eq!(report.first_fault, None, "{report:?}");
    assert_eq!(report.orphans, 0, "{report:?}");
    assert_eq!(report.live, index.counts().live);
    report
}

/// The graph is sound, and a path leads to every live row.
pub fn assert_sound(index: &Index<Memory>) -> Report {
    let report = assert_linked(index);
    assert_eq!(report.unreachable, 0, "{report:?}");
    report
}

/// The nearest `k` rows that pass.
pub fn nearest(
    rows: &[Point],
    query: &Point,
    k: usize,
    allows: impl Fn(u64) -> bool,
) -> Vec<(u32, u64)> {
    let mut all: Vec<_> = (0..rows.len() as u64)
        .filter(|&row| allows(row))
        .map(|row| (distance(query, &rows[row as usize]), row))
        .collect();
    all.sort();
    all.truncate(k);
    all
}

/// Searches for `k` rows.
pub fn search(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    rows: &[Point],
    query: &Point,
    k: usize,
    parameters: Query,
    allows: impl FnMut(u64) -> bool,
) -> (Vec<(u32, u64)>, Found) {
    let mut hits = vec![Hit::default(); k];
    let mut top = TopK::new(&mut hits);
    let mut numeric = Points::new(rows, *query);
    let mut visible = Rows {
        allows,
        budget: u64::MAX,
    };
    let found = index
        .search(
            &mut scratch.lend(),
            &mut numeric,
            &mut visible,
            &parameters,
            &mut top,
        )
        .unwrap();
    let hits = top
        .into_sorted()
        .iter()
        .map(|hit| (hit.distance, hit.row))
        .collect();
    (hits, found)
}

/// How many of a thousand true neighbours are found, counted by distance.
pub fn recall(
    index: &Index<Memory>,
    scratch: &mut Scratch,
    rows: &[Point],
    queries: &[Point],
    parameters: Query,
    allows: impl Fn(u64) -> bool,
) -> usize {
    let k = 10;
    let (mut good, mut all) = (0, 0);
    for query in queries {
        let want = nearest(rows, query, k, &allows);
        let (got, _) = search(index, scratch, rows, query, k, parameters, &allows);
        assert_eq!(got.len(), want.len(), "k is filled while there are rows");
        let mut seen: Vec<u64> = got.iter().map(|hit| hit.1).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), got.len(), "no row twice");
        assert!(got.iter().all(|hit| allows(hit.1)), "only rows that pass");
        let worst = want.last().map_or(0, |w| w.0);
        good += got.iter().filter(|hit| hit.0 <= worst).count();
        all += want.len();
    }
    1000 * good / all.max(1)
}
