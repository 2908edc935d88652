// SPDX-License-Identifier: Apache-2.0

//! Recall, queries per second, build rate and bytes per row of inverted files, one thread.
//!
//!     cargo run --release -p vexfs_recall --bin ivf_bench -- BASE.npy QUERIES.npy GROUND_TRUTH.npy
//!         [--metric l2sq|inner_product|cosine] [--code signs|flat|pq4:NSUB|pq8:NSUB] [--nlist N]
//!         [--nprobe A,B,..] [--rerank A,B,..] [--sigmas N] [--rounds N] [--copies 2]
//!
//! With `--serve`, settings are read from standard input instead, `NPROBE RERANK` a line, and each is one round:
//! so another program can take turns with it (`tests/bench/compare.py`). Rates are of the thread's processor time, which
//! says more than the clock on a machine with other work to do.
//!
//! Base and queries are float16, float32 or uint8 matrices; the ground truth is int32, nearest first. One JSON
//! object a line: first the build, then each setting with its best round.

use std::path::Path;

use vexfs_ann::ivf::{Code, Params, Query};
use vexfs_ann::{Hit, TopK};
use vexfs_recall::lists::{Built, Memory, Scorer, Space};
use vexfs_recall::{npy, processor_ns, All};
use vexfs_simd_host::{Isa, Metric};

const K: usize = 10;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let paths: Vec<&String> = args.iter().take_while(|a| !a.starts_with("--")).collect();
    let [base, queries, truth] = paths[..] else {
        eprintln!("no data named: see the head of ivf_bench.rs");
        return;
    };
    let option = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let numbers = |name: &str, default: &str| -> Vec<u32> {
        let list = option(name).unwrap_or(default.into());
        list.split(',').map(|n| n.parse().unwrap()).collect()
    };
    let load = |name: &str| npy::read(Path::new(name)).expect("a file of vectors");
    let ((elem, base, dim), (_, queries, _)) = (load(base), load(queries));
    let truth = npy::read_rows(Path::new(truth), K).expect("a file of rows");
    let metric = option("--metric").unwrap_or("l2sq".into());
    let metric = Metric::COMMON
        .into_iter()
        .find(|m| m.name() == metric)
        .unwrap();
    let row_bytes = elem.row_bytes(dim);
    let n = base.len() / row_bytes;
    let mut params = Params::default_for(n as u64, dim as u32, row_bytes as u32);
    params.nlist = numbers("--nlist", &params.nlist.to_string())[0];
    params.copies = numbers("--copies", "1")[0];
    if let Some(code) = option("--code") {
        let nsub = code.split(':').nth(1).map_or(0, |n| n.parse().unwrap());
        params.code = match code.split(':').next() {
            Some("flat") => Code::Flat,
            Some("pq4") => Code::Pq4 { nsub },
            Some("pq8") => Code::Pq8 { nsub },
            _ => Code::Signs,
        };
    }
    let space = Space {
        elem,
        metric,
        dim,
        rows: base,
        isa: Isa::best(),
        params,
    };
    let start = seconds_so_far();
    let mut built = Built::train(space, params.most_blocks(n as u64) as u32);
    let trained = seconds_so_far() - start;
    built.build();
    let seconds = seconds_so_far() - start;
    let layout = params.layout().unwrap();
    let resident = built.index.counts().used as usize * layout.block_words as usize * 4
        + params.centroid_bytes()
        + params.codebook_bytes()
        + params.list_words() * 4;
    let code = format!("{:?}", params.code)
        .to_lowercase()
        .replace(['{', '}', ' ', ':'], "");
    let twice = if params.copies > 1 { " twice" } else { "" };
    let index = format!("vexfs ivf{} {code}{twice}", params.nlist);
    println!(
        "{{\"index\":\"{index}\",\"rows\":{n},\"dim\":{dim},\"train_s\":{trained:.2},\"build_s\":{seconds:.2},\
         \"rows_per_s\":{:.0},\"bytes_per_row\":{:.1}}}",
        n as f64 / seconds,
        resident as f64 / n as f64
    );
    built.sigmas = numbers("--sigmas", "150")[0];
    let rounds = numbers("--rounds", "5")[0];
    let rerank = numbers("--rerank", "30");
    let mut memory = Memory::new(&params, 1000, n);
    let nq = queries.len() / row_bytes;
    let mut run = |nprobe, rerank, rounds| {
        let query = Query {
            nprobe,
            rerank,
            allowed: u64::MAX,
        };
        let (mut best, mut hits, mut codes, mut exact) = (f64::INFINITY, 0, 0, 0);
        for _ in 0..rounds {
            let mut scorer = Scorer::new(&built, &queries[..row_bytes]);
            let start = seconds_so_far();
            let mut found = vec![[Hit::default(); K]; nq];
            (codes, exact) = (0, 0);
            for (q, hits) in queries.chunks(row_bytes).zip(found.iter_mut()) {
                let mut top = TopK::new(hits);
                scorer.set(q);
                let (index, memory) = (&built.index, &mut memory.lend());
                let done = index.search(memory, &mut scorer, &mut All, &query, &mut top);
                let done = done.unwrap();
                codes += done.codes;
                exact += done.distances;
                top.into_sorted();
            }
            best = best.min(seconds_so_far() - start);
            let near = |found: &[Hit], truth: &[u64]| -> usize {
                let right = found.iter().filter(|hit| truth.contains(&hit.row));
                right.count()
            };
            let each = found.iter().zip(&truth);
            hits = each.map(|(found, truth)| near(found, truth)).sum();
        }
        println!(
            "{{\"index\":\"{index}\",\"nprobe\":{nprobe},\"rerank\":{rerank},\"recall@10\":{:.4},\
             \"qps\":{:.0},\"codes\":{:.0},\"exact\":{:.1}}}",
            hits as f64 / (nq * K) as f64,
            nq as f64 / best,
            codes as f64 / nq as f64,
            exact as f64 / nq as f64
        );
    };
    if args.iter().any(|a| a == "--serve") {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let mut words = line.split_whitespace().map(|w| w.parse().unwrap());
            if let (Some(nprobe), Some(rerank)) = (words.next(), words.next()) {
                run(nprobe, rerank, 1);
            }
        }
        return;
    }
    for nprobe in numbers("--nprobe", "8,16,32,64,128") {
        for &rerank in &rerank {
            run(nprobe, rerank, rounds);
        }
    }
}

/// Time this thread was on a processor.
fn seconds_so_far() -> f64 {
    processor_ns() as f64 * 1e-9
}
