// SPDX-License-Identifier: Apache-2.0

//! How the benchmarks use criterion: short runs, and the time of one item (a distance, a code, a vector)
//! rather than of the batch it is computed in.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

/// There are hundreds of combinations: a quarter of a second for each.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .nresamples(1000)
        .without_plots()
        .configure_from_args()
}

/// Measures `batch`, which computes `items` items of `len_bytes` each, and reports the time of one.
pub fn per_item(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    items: usize,
    len_bytes: usize,
    mut batch: impl FnMut(),
) {
    group.throughput(Throughput::BytesDecimal(len_bytes as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let batches = iterations.div_ceil(items as u64);
            let start = Instant::now();
            for _ in 0..batches {
                batch();
            }
            let done = batches * items as u64;
            start.elapsed().mul_f64(iterations as f64 / done as f64)
        });
    });
}
