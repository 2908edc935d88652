// SPDX-License-Identifier: Apache-2.0

//! Product quantisation and RaBitQ, in cache: time per vector of encoding, per query of its tables, and
//! per code of the scans.
//!
//!     cargo bench -p vexfs_simd --bench codes -- [FILTER]

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::hint::black_box;

use common::{Memory, BATCH, DIMS};
use criterion::{criterion_group, criterion_main, Criterion};
use harness::per_item;
use vexfs_simd_host::*;

/// Elements per part: 4 bits and 8 bits of code for eight elements are 1/64 and 1/32 of f32.
const DSUB: usize = 8;

fn product_quantisation(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("pq");
    for dim in DIMS {
        let nsub = dim / DSUB;
        let len = Elem::F32.row_bytes(dim);
        let vector = Memory::new(len, Elem::F32, 1);
        for (bits, ksub) in [(4, 16), (8, 256)] {
            let shape = PqShape {
                nsub,
                ksub,
                dsub: DSUB,
            };
            let books = Memory::new(ksub * len, Elem::F32, 2);
            let (vector, books) = (vector.bytes(), books.bytes());
            let mut code = vec![0; nsub];
            let mut table = vec![0; nsub * ksub];
            for isa in available() {
                let name = |what| format!("{}/{what}{bits}/{dim}", isa.name());
                per_item(&mut group, name("encode"), 1, len, || {
                    pq_encode(&t, isa, shape, black_box(vector), books, &mut code).unwrap();
                    black_box(&mut code);
                });
                per_item(&mut group, name("table"), 1, ksub * len, || {
                    let metric = Metric::L2Sq;
                    pq_table(&t, isa, shape, metric, black_box(vector), books, &mut table).unwrap();
                    black_box(&mut table);
                });
            }
            let codes = Memory::new(BATCH * nsub, Elem::U8, 3);
            let mut out = vec![0; BATCH];
            if bits == 8 {
                for isa in available() {
                    let name = format!("{}/scan8/{dim}", isa.name());
                    per_item(&mut group, name, BATCH, nsub, || {
                        pq_scan8(&t, isa, nsub, &table, codes.bytes(), &mut out).unwrap();
                        black_box(&mut out);
                    });
                }
            } else {
                let (mut small, mut affine) = (vec![0; nsub * 16], [0; 2]);
                pq_reduce_table(&t, Isa::best(), &table, &mut small, &mut affine).unwrap();
                let nibbles: Vec<u8> = codes.bytes().iter().map(|c| c & 15).collect();
                let mut blocks = vec![0; BATCH * nsub / 2];
                pq_pack4(nsub, &nibbles, &mut blocks).unwrap();
                for isa in available() {
                    let name = format!("{}/scan4/{dim}", isa.name());
                    per_item(&mut group, name, BATCH, nsub / 2, || {
                        pq_scan4(&t, isa, &small, &affine, &blocks, &mut out).unwrap();
                        black_box(&mut out);
                    });
                }
            }
        }
    }
    group.finish();
}

fn rabitq(criterion: &mut Criterion) {
    let t = token();
    let mut group = criterion.benchmark_group("rabitq");
    for dim in DIMS {
        let (len, code_bytes) = (Elem::F32.row_bytes(dim), rabitq_code_bytes(dim));
        let vectors = Memory::new(BATCH * len, Elem::F32, 1);
        let query = Memory::new(len, Elem::F32, 2);
        let mut codes = vec![0; BATCH * code_bytes];
        let (mut planes, mut affine) = (vec![0; rabitq_query_words(dim)], [0; 6]);
        let (mut out, mut lower) = (vec![0; BATCH], vec![0; BATCH]);
        for isa in available() {
            let name = |what| format!("{}/{what}/{dim}", isa.name());
            let mut rows = vectors.bytes().chunks_exact(len).cycle();
            per_item(&mut group, name("encode"), BATCH, len, || {
                for code in codes.chunks_exact_mut(code_bytes) {
                    rabitq_encode(&t, isa, rows.next().unwrap(), code).unwrap();
                }
                black_box(&mut codes);
            });
            per_item(&mut group, name("prepare"), 1, len, || {
                let query = black_box(query.bytes());
                rabitq_prepare(&t, isa, query, &mut planes, &mut affine).unwrap();
                black_box((&mut planes, &mut affine));
            });
            per_item(&mut group, name("scan"), BATCH, code_bytes, || {
                let stride = code_bytes;
                rabitq_scan(
                    &t, isa, &planes, &affine, dim, &codes, stride, &mut out, &mut lower,
                )
                .unwrap();
                black_box((&mut out, &mut lower));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = harness::criterion();
    targets = product_quantisation, rabitq
}
criterion_main!(benches);
