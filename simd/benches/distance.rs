// SPDX-License-Identifier: Apache-2.0

//! Time per distance and bytes per second of every element type and metric, in cache and streaming,
//! beside a plain read of the same bytes. `peers/` compares them with other libraries.
//!
//!     cargo bench -p vexfs_simd --bench distance -- [FILTER]
//!
//! Names are place/instruction set/element type/metric/dimension, and end in `gather` for rows at scattered
//! places. Streaming and scattered rows are measured with the best instruction set only. One thread.

mod common;
#[path = "common/harness.rs"]
mod harness;

use std::hint::black_box;

use common::{metrics, read_all, scattered, Memory, BATCH, CACHE_BYTES, DIMS, STREAM_BYTES};
use criterion::{criterion_group, criterion_main, Criterion};
use harness::per_item;
use vexfs_simd_host::*;

fn distances(criterion: &mut Criterion) {
    let t = token();
    for (place, size) in [("cache", CACHE_BYTES), ("stream", STREAM_BYTES)] {
        let mut group = criterion.benchmark_group(place);
        for elem in Elem::ALL {
            let memory = Memory::new(size, elem, 1);
            let memory = memory.bytes();
            if elem == Elem::F32 {
                let mut parts = memory.chunks_exact(64 * BATCH).cycle();
                per_item(&mut group, "read".into(), BATCH, 64, || {
                    black_box(read_all(black_box(parts.next().unwrap())));
                });
            }
            for metric in metrics(elem) {
                for dim in DIMS {
                    let row = elem.row_bytes(dim);
                    let n = (size / row).min(BATCH);
                    let query = Memory::new(row, elem, 2);
                    let query = query.bytes();
                    let offsets = scattered(size / row, row);
                    let mut out = vec![0; n];
                    for isa in available() {
                        // Memory is read by the best one.
                        if isa != Isa::best() && place == "stream" {
                            continue;
                        }
                        let name =
                            format!("{}/{}/{}/{dim}", isa.name(), elem.name(), metric.name());
                        let mut batches = memory.chunks_exact(n * row).cycle();
                        per_item(&mut group, name.clone(), n, row, || {
                            let rows = batches.next().unwrap();
                            score_rows(&t, isa, elem, metric, query, rows, row, dim, &mut out)
                                .unwrap();
                            black_box(&mut out);
                        });
                        if isa != Isa::best() {
                            continue;
                        }
                        let mut batches = offsets.chunks_exact(n).cycle();
                        per_item(&mut group, name + "/gather", n, row, || {
                            let offsets = batches.next().unwrap();
                            score_gather(
                                &t, isa, elem, metric, query, memory, offsets, dim, &mut out,
                            )
                            .unwrap();
                            black_box(&mut out);
                        });
                    }
                }
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = harness::criterion();
    targets = distances
}
criterion_main!(benches);
