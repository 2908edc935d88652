// SPDX-License-Identifier: Apache-2.0

//! Builds a graph over the rows of a `.npy` file and measures searches of another one's rows.
//!
//! `--elem` narrows the rows and queries to another element type first, integers by the greatest absolute value of the rows,
//! bits by the sign.
//!
//! `--reorder 0` leaves nodes in the order of inserts, as they are in the filesystem until a build is over.
//!
//! Every line of standard input is `EF RERANK REPEAT [ALLOWED]` for searches, of all rows or of a share of so many in
//! 10,000, or `churn COUNT` to delete and insert so many rows; the answer is one line of JSON. So a driver can interleave measurements with those of another
//! library.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::Path;

use vexfs_ann::hnsw::{Error, Index, Plan, Query, Store};
use vexfs_ann::{Hit, TopK, Visible};
use vexfs_recall::*;
use vexfs_simd_host::*;

const K: usize = 10;

/// Shares of all rows that a filter allows.
const SHARES: u32 = 10_000;

/// A bit for each row, as the filesystem has them.
#[derive(Clone)]
struct Filter {
    bits: Vec<u64>,
    count: u64,
}

impl Filter {
    /// So many in [`SHARES`] of `n` rows, here and there.
    fn new(n: usize, share: u32) -> Filter {
        let mut filter = Filter {
            bits: vec![0; n.div_ceil(64)],
            count: 0,
        };
        for row in 0..n as u64 {
            let mixed = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if mixed % u64::from(SHARES) < u64::from(share) {
                filter.bits[row as usize / 64] |= 1 << (row % 64);
                filter.count += 1;
            }
        }
        filter
    }

    fn has(&self, row: u64) -> bool {
        let word = self.bits.get((row / 64) as usize);
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }
}

impl Visible for Filter {
    type Error = BadShape;

    #[inline]
    fn allows(&mut self, row: u64) -> bool {
        self.has(row)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok(self.has(row).then_some(row))
    }
}

/// The nearest rows to each query of those that pass.
fn exact(rows: &Rows, queries: &Rows, filter: &Filter) -> Vec<Vec<u64>> {
    let nearest = |i| rows.nearest(queries.row(i), K, |row| filter.has(row));
    (0..queries.len())
        .map(|i| nearest(i).iter().map(|hit| hit.1).collect())
        .collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: HashMap<&str, &str> = args
        .chunks_exact(2)
        .map(|pair| (pair[0].trim_start_matches('-'), pair[1].as_str()))
        .collect();
    let text = |name: &str, default: &'static str| *args.get(name).unwrap_or(&default);
    let number = |name: &str, default: u32| {
        args.get(name)
            .map_or(default, |n| n.parse().expect("a number"))
    };
    let metric = Metric::COMMON
        .into_iter()
        .chain([Metric::Hamming])
        .find(|m| m.name() == text("metric", "inner_product"))
        .expect("a metric");
    let elem = Elem::ALL
        .into_iter()
        .find(|elem| elem.name() == text("elem", "f32"))
        .expect("a type of elements");
    let kind = [
        GraphKind::Raw(Elem::F32),
        GraphKind::Raw(Elem::F16),
        GraphKind::Raw(Elem::Bf16),
        GraphKind::Sq8,
        GraphKind::Rabitq4,
        GraphKind::Rabitq1,
        GraphKind::Raw(Elem::Binary),
    ]
    .into_iter()
    .find(|kind| kind.name() == text("code", "rabitq4"))
    .expect("a kind of code");
    let load = |name: &str| {
        let (bytes, dim) = npy::read_f32(Path::new(text(name, ""))).expect("a file of vectors");
        (dim, bytes)
    };
    let ((dim, mut base), (_, queries)) = (load("base"), load("queries"));
    let limit = number("limit", u32::MAX) as usize;
    base.truncate(limit.saturating_mul(4 * dim));
    let most = narrow::greatest(&base);
    let of_type = |bytes: Vec<u8>| Rows {
        elem,
        metric,
        dim,
        bytes: narrow::rows(elem, dim, most, &bytes),
    };
    let (rows, queries) = (of_type(base), of_type(queries));
    let n = rows.len();

    let start = processor_ns();
    let mut codec = Codec::new(&rows, kind);
    if let Some(isa) = args
        .get("isa")
        .and_then(|name| Isa::from_name(name.as_bytes()))
    {
        codec.isa = isa;
    }
    let (m, ef_construction) = (number("m", 16), number("efc", 200));
    // Some percent more slots than rows, for those that wait to be free.
    let slots = (n + n * number("spare", 0) as usize / 100) as u32;
    let index = index(&codec, &rows, slots, m, ef_construction);
    let mut scratch = Scratch::new(slots);
    let mut arithmetic = Arithmetic::new(&rows, &codec);
    for row in 0..n {
        insert(&index, &mut scratch, &mut arithmetic, row);
    }
    let seconds = (processor_ns() - start) as f64 * 1e-9;
    let built = processor_ns();
    if number("reorder", 1) == 1 {
        reorder(&index);
    }
    let reordering = (processor_ns() - built) as f64 * 1e-9;
    let report = check(&index);
    println!(
        "{{\"rows\": {n}, \"dim\": {}, \"elem\": \"{}\", \"metric\": \"{}\", \"code\": \"{}\", \"m\": {m}, \"ef_construction\": \
         {ef_construction}, \"isa\": \"{}\", \"build_rows_per_s\": {:.0}, \"reorder_s\": {reordering:.3}, \"bytes_per_row\": {:.1}, \
         \"links_per_row\": {:.1}, \"faults\": {}, \"orphans\": {}, \"unreachable\": {}, \"digest\": \"{:016x}\"}}",
        rows.dim,
        elem.name(),
        metric.name(),
        kind.name(),
        codec.isa.name(),
        n as f64 / seconds,
        index.store().bytes() as f64 / n as f64,
        report.links as f64 / n as f64,
        report.faults,
        report.orphans,
        report.unreachable,
        index.digest(),
    );
    let truth = match args.get("truth") {
        Some(path) => npy::read_rows(Path::new(path), K).expect("a file of rows"),
        None => exact(&rows, &queries, &Filter::new(n, SHARES)),
    };
    println!("{{\"ready\": true, \"nodes\": {}}}", index.store().nodes());
    let _ = std::io::stdout().flush();

    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        if let Some(count) = line.strip_prefix("churn ").and_then(|n| n.parse().ok()) {
            churn(&index, &rows, &mut scratch, &mut arithmetic, count);
            continue;
        }
        let words: Vec<u32> = line
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        let (ef, rerank, repeat, share) = match words[..] {
            [ef, rerank, repeat] => (ef, rerank, repeat, SHARES),
            [ef, rerank, repeat, share] => (ef, rerank, repeat, share),
            _ => break,
        };
        let filter = Filter::new(n, share);
        let query = Query {
            ef,
            rerank,
            allowed: (share < SHARES).then_some(filter.count),
        };
        let truth = if share < SHARES {
            &exact(&rows, &queries, &filter)
        } else {
            &truth
        };
        let mut plan = Plan::Walk;
        let mut visible = filter.clone();
        let (mut best, mut good, mut distances, mut hops, mut exact) = (f64::INFINITY, 0, 0, 0, 0);
        for _ in 0..repeat {
            (good, distances, hops, exact) = (0, 0, 0, 0);
            let mut results = vec![Hit::default(); K * queries.len()];
            let start = processor_ns();
            for (i, hits) in results.chunks_mut(K).enumerate() {
                arithmetic.set_query(queries.row(i));
                let mut top = TopK::new(hits);
                let found = index
                    .search(
                        &mut scratch.lend(),
                        &mut arithmetic,
                        &mut visible,
                        &query,
                        &mut top,
                    )
                    .expect("a search");
                top.into_sorted();
                distances += found.distances;
                hops += found.hops;
                exact += found.exact;
                plan = found.plan;
            }
            best = best.min((processor_ns() - start) as f64 * 1e-9);
            for (truth, hits) in truth.iter().zip(results.chunks(K)) {
                good += hits.iter().filter(|hit| truth.contains(&hit.row)).count();
            }
        }
        let nq = queries.len() as f64;
        println!(
            "{{\"ef\": {ef}, \"rerank\": {rerank}, \"recall@10\": {:.4}, \"qps\": {:.0}, \"distances\": {:.0}, \
             \"exact\": {:.1}, \"hops\": {:.0}, \"allowed\": {}, \"plan\": \"{plan:?}\"}}",
            good as f64 / (nq * K as f64),
            nq / best,
            distances as f64 / nq,
            exact as f64 / nq,
            hops as f64 / nq,
            filter.count,
        );
        let _ = std::io::stdout().flush();
    }
}

/// Deletes and inserts `count` rows in an order that is no order of theirs, with upkeep after each tenth of
/// all.
fn churn(
    index: &Index<Memory>,
    rows: &Rows,
    scratch: &mut Scratch,
    arithmetic: &mut Arithmetic<'_>,
    count: usize,
) {
    let n = rows.len();
    let (mut deleting, mut inserting, mut keeping, mut repaired, mut kept) = (0, 0, 0, 0, 0);
    let mut done = 0;
    while done < count {
        // Together, so that slots are free for what is inserted.
        let batch: Vec<usize> = (done..count.min(done + 100))
            .map(|i| i.wrapping_mul(0x9e37_79b9) % n)
            .collect();
        let start = processor_ns();
        let mut gone = Vec::new();
        for row in batch {
            if index
                .delete(&mut scratch.lend(), arithmetic, row as u64)
                .is_ok()
            {
                gone.push(row);
            }
        }
        let middle = processor_ns();
        for &row in &gone {
            arithmetic.set_query(rows.row(row));
            if index.insert(&mut scratch.lend(), arithmetic, row as u64) == Err(Error::Full) {
                repaired += upkeep(index, scratch, arithmetic);
                index
                    .insert(&mut scratch.lend(), arithmetic, row as u64)
                    .expect("there is room after upkeep");
            }
        }
        let end = processor_ns();
        deleting += middle - start;
        inserting += end - middle;
        done += 100;
        if done / (n / 10) != kept {
            kept = done / (n / 10);
            repaired += upkeep(index, scratch, arithmetic);
            keeping += processor_ns() - end;
        }
    }
    let report = check(index);
    let rate = |ns: u64| done as f64 / (ns.max(1) as f64 * 1e-9);
    println!(
        "{{\"churn\": {done}, \"deletes_per_s\": {:.0}, \"inserts_per_s\": {:.0}, \"upkeep_us_per_change\": {:.1}, \
         \"repaired\": {repaired}, \"used\": {}, \"live\": {}, \"faults\": {}, \"orphans\": {}, \"unreachable\": {}}}",
        rate(deleting),
        rate(inserting),
        keeping as f64 * 1e-3 / done as f64,
        index.counts().used,
        report.live,
        report.faults,
        report.orphans,
        report.unreachable,
    );
    let _ = std::io::stdout().flush();
}
