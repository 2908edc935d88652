// SPDX-License-Identifier: Apache-2.0

//! Recall, queries per second and bytes per row of hash tables beside an exact scan, one thread.
//!
//!     cargo run --release -p vexfs_recall --bin lsh_bench -- BASE.npy QUERIES.npy
//!         [--metric l2sq|cosine] [--ntables N] [--nbits N] [--near N] [--flat 1]
//!
//! Every line of standard input is `NPROBE RERANK`; the answer is one line of JSON. Rates are of the thread's
//! processor time.

use std::collections::HashMap;
use std::path::Path;

use vexfs_ann::ivf::Code;
use vexfs_ann::lsh::{Family, Params, Query};
use vexfs_ann::{Hit, TopK};
use vexfs_recall::hashes::{Memory, Tables};
use vexfs_recall::{npy, processor_ns, All, Rows};
use vexfs_simd_host::*;

const K: usize = 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, options @ ..] = &args[..] else {
        eprintln!("no data named: see the head of lsh_bench.rs");
        return;
    };
    let options: HashMap<&str, &str> = options
        .chunks_exact(2)
        .map(|pair| (pair[0].trim_start_matches('-'), pair[1].as_str()))
        .collect();
    let number = |name: &str, default: u32| {
        options
            .get(name)
            .map_or(default, |n| n.parse().expect("a number"))
    };
    let (metric, family) = match options.get("metric") {
        Some(&"l2sq") => (Metric::L2Sq, Family::Cells),
        _ => (Metric::Cosine, Family::Signs),
    };
    let load = |name: &str| npy::read_f32(Path::new(name)).expect("a file of vectors");
    let ((base, dim), (queries, _)) = (load(base), load(queries));
    let rows = Rows {
        elem: Elem::F32,
        metric,
        dim,
        bytes: base,
    };
    let row_bytes = 4 * dim;
    let n = rows.len();
    let default = Params::default_for(n as u64, dim as u32, row_bytes as u32, family);
    let params = Params {
        ntables: number("ntables", default.ntables),
        nbits: number("nbits", default.nbits),
        code: if number("flat", 0) == 1 {
            Code::Flat
        } else {
            default.code
        },
        ..default
    };
    let start = processor_ns();
    let truth: Vec<Vec<u64>> = queries
        .chunks(row_bytes)
        .map(|q| {
            rows.nearest(q, K, |_| true)
                .iter()
                .map(|hit| hit.1)
                .collect()
        })
        .collect();
    let exact = truth.len() as f64 / (processor_ns() - start) as f64 * 1e9;
    let near = options
        .get("near")
        .map_or(0.0, |n| n.parse().expect("a number"));
    let start = processor_ns();
    let tables = Tables::new(Elem::F32, metric, params, near, rows.bytes);
    tables.build();
    let seconds = (processor_ns() - start) as f64 * 1e-9;
    println!(
        "{{\"rows\":{n},\"dim\":{dim},\"ntables\":{},\"nbits\":{},\"rows_per_s\":{:.0},\"bytes_per_row\":{:.1},\"exact_qps\":{exact:.0}}}",
        params.ntables,
        params.nbits,
        n as f64 / seconds,
        tables.bytes() as f64 / n as f64,
    );
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<u32> = line
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect();
        let [nprobe, rerank] = words[..] else {
            return;
        };
        let query = Query {
            nprobe,
            rerank,
            rows: n as u64,
        };
        let mut memory = Memory::new(n, nprobe, rerank.max(K as u32) as usize);
        let mut best = u64::MAX;
        let (mut hits, mut codes, mut distances) = (0, 0, 0);
        for _ in 0..3 {
            (hits, codes, distances) = (0, 0, 0);
            let mut results = vec![[Hit::default(); K]; truth.len()];
            let start = processor_ns();
            for (q, result) in queries.chunks(row_bytes).zip(&mut results) {
                let mut top = TopK::new(result);
                let found = tables.search(&mut memory, q, &mut All, &query, &mut top);
                top.into_sorted();
                codes += found.codes;
                distances += found.distances;
            }
            best = best.min(processor_ns() - start);
            for (result, truth) in results.iter().zip(&truth) {
                hits += result.iter().filter(|hit| truth.contains(&hit.row)).count();
            }
        }
        let nq = truth.len() as f64;
        println!(
            "{{\"nprobe\":{nprobe},\"rerank\":{rerank},\"recall@10\":{:.4},\"qps\":{:.0},\"codes\":{:.0},\"exact\":{:.1}}}",
            hits as f64 / (nq * K as f64),
            nq / best as f64 * 1e9,
            codes as f64 / nq,
            distances as f64 / nq,
        );
    }
}
