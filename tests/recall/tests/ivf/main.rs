// SPDX-License-Identifier: Apache-2.0

//! Inverted files against exact answers.

mod build;
mod changes;
mod damage;
mod search;
mod twice;

use vexfs_ann::ivf::{Code, Params, Query};
use vexfs_ann::kmeans::Random;
use vexfs_recall::lists::{Built, Memory, Space};
use vexfs_recall::{narrow, recall, unit, All};
use vexfs_simd_host::{Elem, Isa, Metric};

/// Rows around centres, spread in twelve directions and a little in all others, as embeddings are.
fn clustered(elem: Elem, seed: u64, n: usize, dim: usize) -> Vec<u8> {
    let mut fixed = Random(1234);
    let mut vectors = |n: usize| -> Vec<Vec<f64>> {
        (0..n)
            .map(|_| (0..dim).map(|_| unit(&mut fixed)).collect())
            .collect()
    };
    let (centres, directions) = (vectors(50), vectors(12));
    let mut random = Random(seed);
    let mut floats = Vec::new();
    for _ in 0..n {
        let mut row = centres[random.below(50) as usize].clone();
        for direction in &directions {
            let by = 0.5 * unit(&mut random);
            row.iter_mut()
                .zip(direction)
                .for_each(|(x, d)| *x += by * d);
        }
        let elements = row.iter().map(|x| (x + 0.1 * unit(&mut random)) as f32);
        floats.extend(elements.flat_map(f32::to_le_bytes));
    }
    // Few elements are greater.
    narrow::rows(elem, dim, 2.0, &floats)
}

fn queries(elem: Elem, dim: usize, n: usize) -> Vec<Vec<u8>> {
    let rows = clustered(elem, 2, n, dim);
    rows.chunks(elem.row_bytes(dim))
        .map(<[u8]>::to_vec)
        .collect()
}

fn params(dim: u32, nlist: u32, code: Code) -> Params {
    Params {
        dim,
        nlist,
        code,
        copies: 1,
        hashed: false,
        seed: 3,
    }
}

/// Rows in two lists each.
fn twice(dim: u32, nlist: u32, code: Code) -> Params {
    Params {
        copies: 2,
        ..params(dim, nlist, code)
    }
}

fn space(elem: Elem, metric: Metric, params: Params, n: usize) -> Space {
    let dim = params.dim as usize;
    Space {
        elem,
        metric,
        dim,
        rows: clustered(elem, 1, n, dim),
        isa: Isa::best(),
        params,
    }
}

/// An index over `n` rows that has learnt from them and holds none yet.
fn trained(elem: Elem, metric: Metric, params: Params, n: usize) -> Built {
    let blocks = params.most_blocks(n as u64) as u32;
    Built::train(space(elem, metric, params, n), blocks)
}

/// An index of `n` rows.
fn built(elem: Elem, metric: Metric, params: Params, n: usize) -> Built {
    let built = trained(elem, metric, params, n);
    built.build();
    built
}

/// Of rows of binary32 by L2, where type and metric do not matter.
fn plain(params: Params, n: usize) -> Built {
    built(Elem::F32, Metric::L2Sq, params, n)
}

/// For searches that score `keep` candidates at most.
fn memory(built: &Built, keep: usize) -> Memory {
    Memory::new(&built.space.params, keep, built.space.n())
}

fn query(nprobe: u32, rerank: u32) -> Query {
    Query {
        nprobe,
        rerank,
        allowed: u64::MAX,
    }
}

fn recall_of(built: &Built, queries: &[Vec<u8>], how: &Query, k: usize) -> f64 {
    let mut memory = memory(built, how.rerank as usize);
    let found: Vec<_> = queries
        .iter()
        .map(|q| built.search(&mut memory, q, &mut All, how, k).0)
        .collect();
    let exact: Vec<_> = queries
        .iter()
        .map(|q| built.exact(q, &mut All, k))
        .collect();
    assert!(found.iter().all(|hits| hits.len() == k));
    recall(&found, &exact)
}

/// The rows of a list and their places, asked for in pieces.
fn rows_of(built: &Built, list: u32) -> Vec<(u64, u32)> {
    let (mut rows, mut from) = (Vec::new(), Some(0));
    while let Some(skip) = from {
        let mut piece = [(0, 0); 40];
        let (n, next) = built.index.rows_in(list, skip, &mut piece).unwrap();
        assert!(next.is_none() || n == piece.len());
        rows.extend(&piece[..n]);
        from = next;
    }
    rows
}
