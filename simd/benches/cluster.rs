// SPDX-License-Identifier: Apache-2.0

//! The steps of k-means (time per distance to a centroid, and per row), random rotation and sign bits
//! (time per vector), in cache.
//!
//!     cargo bench -p vexfs_simd --bench cluster -- [FILTER]

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::hint::black_box;

use common::{Memory, CACHE_BYTES, DIMS};
use criterion::{criterion_group, criterion_main, Criterion};
use harness::per_item;
use vexfs_simd_host::*;

/// Rows and centroids of a batch.
const ROWS: usize = 64;
const CENTROIDS: usize = 64;

fn k_means(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("k-means");
    for dim in DIMS {
        let len = Elem::F32.row_bytes(dim);
        let rows = Memory::new(ROWS * len, Elem::F32, 1);
        let centroids = Memory::new(CENTROIDS * len, Elem::F32, 2);
        let (rows, centroids) = (rows.bytes(), centroids.bytes());
        let (mut ids, mut keys) = (vec![0; ROWS], vec![0; ROWS]);
        let (mut sums, mut counts) = (vec![0; CENTROIDS * dim], vec![0; CENTROIDS]);
        let mut out = vec![0; CENTROIDS * len];
        for isa in available() {
            let name = |what| format!("{}/{what}/{dim}", isa.name());
            per_item(&mut group, name("assign"), ROWS * CENTROIDS, len, || {
                assign_f32(&t, isa, rows, len, dim, centroids, &mut ids, &mut keys).unwrap();
                black_box((&mut ids, &mut keys));
            });
            per_item(&mut group, name("accumulate"), ROWS, len, || {
                accumulate_f32(&t, isa, rows, len, dim, &ids, &mut sums, &mut counts).unwrap();
                black_box((&mut sums, &mut counts));
            });
            per_item(&mut group, name("centroids"), CENTROIDS, len, || {
                centroids_f32(&t, isa, dim, &sums, &counts, &mut out).unwrap();
                black_box(&mut out);
            });
        }
    }
    group.finish();
}

fn rotation(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("rotation");
    for dim in DIMS {
        let len = Elem::F32.row_bytes(dim);
        let n = CACHE_BYTES / len;
        let mut memory = Memory::new(n * len, Elem::F32, 1);
        let mut bits = vec![0; Elem::Binary.row_bytes(dim)];
        for isa in available() {
            let name = |what| format!("{}/{what}/{dim}", isa.name());
            per_item(&mut group, name("rotate"), n, len, || {
                for vector in memory.bytes_mut().chunks_exact_mut(len) {
                    rotate_f32(&t, isa, 5, vector).unwrap();
                }
            });
            per_item(&mut group, name("sign-bits"), n, len, || {
                for vector in memory.bytes().chunks_exact(len) {
                    sign_bits_f32(&t, isa, vector, &mut bits).unwrap();
                    black_box(&mut bits);
                }
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = harness::criterion();
    targets = k_means, rotation
}
criterion_main!(benches);
