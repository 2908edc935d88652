// SPDX-License-Identifier: Apache-2.0

//! Time per vector of conversions, quantisation, normalisation and the search for NaN, in cache.
//!
//!     cargo bench -p vexfs_simd --bench convert -- [FILTER]

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::hint::black_box;

use common::{Memory, CACHE_BYTES, DIMS};
use criterion::{criterion_group, criterion_main, Criterion};
use harness::per_item;
use vexfs_simd_host::*;

fn conversions(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("convert");
    for (from, to) in [
        (Elem::F32, Elem::F16),
        (Elem::F32, Elem::Bf16),
        (Elem::F16, Elem::F32),
        (Elem::Bf16, Elem::F32),
    ] {
        for dim in DIMS {
            let (len, to_len) = (from.row_bytes(dim), to.row_bytes(dim));
            let n = CACHE_BYTES / len.max(to_len);
            let memory = Memory::new(n * len, from, 1);
            let mut out = vec![0; n * to_len];
            for isa in available() {
                let name = format!("{}/{}-{}/{dim}", isa.name(), from.name(), to.name());
                per_item(&mut group, name, n, len, || {
                    for (src, dst) in memory
                        .bytes()
                        .chunks_exact(len)
                        .zip(out.chunks_exact_mut(to_len))
                    {
                        convert(&t, isa, from, to, src, dst).unwrap();
                    }
                    black_box(&mut out);
                });
            }
        }
    }
    group.finish();
}

fn quantisation(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("quantise");
    for dim in DIMS {
        let len = Elem::F32.row_bytes(dim);
        let n = CACHE_BYTES / len;
        let memory = Memory::new(n * len, Elem::F32, 1);
        let offsets = Memory::new(len, Elem::F32, 2);
        let scales = 0.01f32.to_ne_bytes().repeat(dim);
        let codes = Memory::new(n * dim, Elem::I8, 3);
        let (mut out, mut back) = (vec![0; n * dim], vec![0; n * len]);
        for isa in available() {
            for (range, parameters) in [("global", 4), ("per-dimension", len)] {
                let by = Quantiser {
                    offset: &offsets.bytes()[..parameters],
                    scale: &scales[..parameters],
                };
                let name = |what| format!("{}/{what}/{range}/{dim}", isa.name());
                per_item(&mut group, name("f32-i8"), n, len, || {
                    for (src, dst) in memory
                        .bytes()
                        .chunks_exact(len)
                        .zip(out.chunks_exact_mut(dim))
                    {
                        quantise_i8(&t, isa, by, src, dst).unwrap();
                    }
                    black_box(&mut out);
                });
                per_item(&mut group, name("i8-f32"), n, dim, || {
                    for (src, dst) in codes
                        .bytes()
                        .chunks_exact(dim)
                        .zip(back.chunks_exact_mut(len))
                    {
                        dequantise_i8(&t, isa, by, src, dst).unwrap();
                    }
                    black_box(&mut back);
                });
            }
        }
    }
    group.finish();
}

fn checks(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("vector");
    for dim in DIMS {
        for isa in available() {
            let len = Elem::F32.row_bytes(dim);
            let n = CACHE_BYTES / len;
            let mut memory = Memory::new(n * len, Elem::F32, 1);
            let name = format!("{}/normalise/{dim}", isa.name());
            per_item(&mut group, name, n, len, || {
                for vector in memory.bytes_mut().chunks_exact_mut(len) {
                    assert!(normalise_f32(&t, isa, vector));
                }
            });
            for elem in [Elem::F32, Elem::F16, Elem::Bf16] {
                let len = elem.row_bytes(dim);
                let n = CACHE_BYTES / len;
                let memory = Memory::new(n * len, elem, 1);
                let name = format!("{}/finite/{}/{dim}", isa.name(), elem.name());
                per_item(&mut group, name, n, len, || {
                    for vector in memory.bytes().chunks_exact(len) {
                        assert!(first_non_finite(&t, isa, elem, black_box(vector)).is_none());
                    }
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = harness::criterion();
    targets = conversions, quantisation, checks
}
criterion_main!(benches);
