// SPDX-License-Identifier: Apache-2.0

//! The distance functions of the peers, each as something that scores a batch of rows.

mod faiss;
mod hnswlib;
mod numkong;

use vexfs_simd_host::{Elem, Metric};

pub use faiss::open as open_faiss;

/// How a peer writes a distance, and what it means.
#[derive(Clone, Copy)]
pub enum Output {
    F32,
    F64,
    I32,
    U32,
}

/// From a peer's number to ours.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// The same.
    Same,
    /// The inner product: ours is negated.
    Negated,
    /// One minus the inner product: ours is less by one.
    OneMore,
    /// The Euclidean distance: ours is squared.
    Root,
}

/// Scores rows `rows[..n]`, which follow each other without gaps, and writes `n` numbers to `out`.
type Run = Box<dyn Fn(*const u8, usize, *mut u8)>;

pub struct Peer {
    /// The library, and which of its interfaces if it has several.
    pub name: &'static str,
    /// The instruction set it chose.
    pub isa: String,
    pub output: Output,
    pub meaning: Meaning,
    /// Whether its signed bytes are stored with 128 added.
    pub biased: bool,
    /// Whether it reads a copy it has laid out for itself, with norms: not what is compared.
    pub repacked: bool,
    pub run: Run,
}

impl Peer {
    /// The distance the peer found for row `i`, in our terms.
    pub fn distance(&self, out: &[u64], i: usize) -> f64 {
        let half = |i: usize| (out[i / 2] >> (32 * (i % 2))) as u32;
        let number = match self.output {
            Output::F32 => f32::from_bits(half(i)) as f64,
            Output::F64 => f64::from_bits(out[i]),
            Output::I32 => half(i) as i32 as f64,
            Output::U32 => half(i) as f64,
        };
        match self.meaning {
            Meaning::Same => number,
            Meaning::Negated => -number,
            Meaning::OneMore => number - 1.0,
            Meaning::Root => number * number,
        }
    }
}

/// Every peer that has this distance. The query stays where it is.
pub fn peers(elem: Elem, metric: Metric, dim: usize, query: &'static [u8]) -> Vec<Peer> {
    let mut all = Vec::new();
    numkong::simsimd_peers(elem, metric, dim, query, &mut all);
    numkong::numkong_peers(elem, metric, dim, query, &mut all);
    faiss::peers(elem, metric, dim, query, &mut all);
    hnswlib::peers(elem, metric, dim, query, &mut all);
    all
}

/// What each library says of itself.
pub fn versions() -> Vec<(&'static str, String)> {
    vec![
        ("simsimd", env!("SIMSIMD_VERSION").into()),
        ("numkong", env!("NUMKONG_VERSION").into()),
        ("faiss", faiss::version()),
        ("hnswlib", env!("HNSWLIB_VERSION").into()),
    ]
}
