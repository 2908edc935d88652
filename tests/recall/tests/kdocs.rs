// SPDX-License-Identifier: Apache-2.0

//! Graphs over real embeddings: recall against exact answers for every kind of code and metric.

use std::path::Path;

use vexfs_ann::hnsw::{Index, Query, Store};
use vexfs_recall::{
    check, index, insert, npy, search, upkeep, Arithmetic, Codec, Memory, Rows, Scratch,
};
use vexfs_simd_host::*;

const K: usize = 10;
const QUERY: Query = Query {
    ef: 64,
    rerank: 20,
    allowed: None,
};

/// The first `n` passages, and the questions.
fn kdocs(n: usize, metric: Metric) -> (Rows, Rows) {
    let load = |name: &str, n: usize| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../data/kdocs")
            .join(name);
        let (mut bytes, dim) = npy::read_f32(&path).unwrap();
        bytes.truncate(n * dim * 4);
        Rows {
            elem: Elem::F32,
            metric,
            dim,
            bytes,
        }
    };
    (
        load("base_f16.npy", n),
        load("questions_f16.npy", usize::MAX >> 16),
    )
}

/// A graph of the rows listed, with room for `slots`.
fn build_of(rows: &Rows, codec: &Codec, listed: &[usize], slots: u32) -> Index<Memory> {
    let index = index(codec, rows, slots, 16, 100);
    let mut scratch = Scratch::new(slots);
    let mut arithmetic = Arithmetic::new(rows, codec);
    for &row in listed {
        insert(&index, &mut scratch, &mut arithmetic, row);
    }
    index
}

fn build(rows: &Rows, codec: &Codec) -> Index<Memory> {
    let all: Vec<usize> = (0..rows.len()).collect();
    let index = build_of(rows, codec, &all, rows.len() as u32);
    let report = check(&index);
    assert_eq!(
        (report.first_fault, report.orphans, report.unreachable),
        (None, 0, 0)
    );
    index
}

/// Of the rows that are `there`, by searches for those that `filter` lets pass.
fn recall_of(
    index: &Index<Memory>,
    rows: &Rows,
    codec: &Codec,
    queries: &Rows,
    query: Query,
    filter: impl Fn(u64) -> bool,
    there: impl Fn(u64) -> bool,
) -> f64 {
    let mut scratch = Scratch::new(index.store().nodes());
    let mut arithmetic = Arithmetic::new(rows, codec);
    let (mut good, mut all) = (0, 0);
    for i in 0..queries.len() {
        let (q, scratch, arithmetic) = (queries.row(i), &mut scratch, &mut arithmetic);
        let hits = search(index, scratch, arithmetic, q, &query, &filter, K);
        let want = rows.nearest(q, K, &there);
        assert_eq!(hits.len(), want.len());
        assert!(hits.iter().all(|hit| there(hit.row)));
        let worst = want.last().unwrap().0;
        good += hits.iter().filter(|hit| hit.distance <= worst).count();
        all += want.len();
    }
    good as f64 / all as f64
}

fn recall(index: &Index<Memory>, rows: &Rows, codec: &Codec, queries: &Rows, query: Query) -> f64 {
    recall_of(index, rows, codec, queries, query, |_| true, |_| true)
}

#[test]
fn every_kind_of_code_finds_almost_all_neighbours() {
    let (rows, queries) = kdocs(5000, Metric::InnerProduct);
    for (kind, rerank) in [
        (GraphKind::Raw(Elem::F32), 10),
        (GraphKind::Raw(Elem::F16), 12),
        (GraphKind::Raw(Elem::Bf16), 20),
        (GraphKind::Sq8, 12),
        (GraphKind::Rabitq4, 20),
        (GraphKind::Rabitq1, 64),
    ] {
        let codec = Codec::new(&rows, kind);
        let index = build(&rows, &codec);
        let query = Query { rerank, ..QUERY };
        let recall = recall(&index, &rows, &codec, &queries, query);
        let want = if kind == GraphKind::Rabitq1 {
            0.9
        } else {
            0.97
        };
        assert!(recall >= want, "{}: {recall}", kind.name());
    }
}

#[test]
fn every_metric_finds_almost_all_neighbours() {
    for metric in Metric::COMMON {
        let (mut rows, queries) = kdocs(5000, metric);
        // Lengths from 1 to 2 tell the metrics apart.
        for (i, element) in rows.bytes.chunks_exact_mut(4).enumerate() {
            let x = f32::from_le_bytes(element.try_into().unwrap());
            let length = 1.0 + (i / rows.dim * 37 % 101) as f32 / 101.0;
            element.copy_from_slice(&(x * length).to_le_bytes());
        }
        for nbits in [4, 16, 32] {
            let kind = GraphKind::of(Elem::F32, nbits).unwrap();
            let codec = Codec::new(&rows, kind);
            let index = build(&rows, &codec);
            let recall = recall(&index, &rows, &codec, &queries, QUERY);
            assert!(recall >= 0.95, "{}, {nbits} bits: {recall}", metric.name());
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_graph() {
    let (rows, _) = kdocs(1000, Metric::L2Sq);
    let mut digests: Vec<u64> = available()
        .map(|isa| {
            let mut codec = Codec::new(&rows, GraphKind::Rabitq4);
            codec.isa = isa;
            build(&rows, &codec).digest()
        })
        .collect();
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn an_index_takes_less_than_half_the_memory_of_its_rows() {
    let (rows, _) = kdocs(2000, Metric::L2Sq);
    for (kind, share) in [(GraphKind::Rabitq4, 0.28), (GraphKind::Sq8, 0.41)] {
        let codec = Codec::new(&rows, kind);
        let index = build(&rows, &codec);
        let bytes = index.store().bytes() as f64 / rows.bytes.len() as f64;
        assert!(bytes < share, "{}: {bytes}", kind.name());
    }
}

/// Deletes and inserts at random, ten times as many as rows, with the upkeep that they ask for.
#[test]
fn recall_after_long_churn_is_that_of_a_fresh_build() {
    let (rows, queries) = kdocs(2000, Metric::Cosine);
    let codec = Codec::new(&rows, GraphKind::Rabitq4);
    let n = rows.len() / 2;
    let slots = (n + n / 6) as u32;
    let mut live: Vec<usize> = (0..n).collect();
    let index = build_of(&rows, &codec, &live, slots);
    let mut scratch = Scratch::new(slots);
    let mut arithmetic = Arithmetic::new(&rows, &codec);
    let mut gone: Vec<usize> = (n..rows.len()).collect();
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut repaired = 0;
    for change in 0..10 * n {
        let (i, j) = (below(live.len()), below(gone.len()));
        index
            .delete(&mut scratch.lend(), &mut arithmetic, live[i] as u64)
            .unwrap();
        std::mem::swap(&mut live[i], &mut gone[j]);
        insert(&index, &mut scratch, &mut arithmetic, live[i]);
        if change % (n / 10) == 0 {
            repaired += upkeep(&index, &mut scratch, &mut arithmetic);
        }
    }
    let report = check(&index);
    assert_eq!((report.first_fault, report.orphans), (None, 0));
    let is_live: Vec<bool> = (0..rows.len()).map(|row| live.contains(&row)).collect();
    let of = |index: &Index<Memory>| {
        // Without a filter: the index itself does not know deleted rows.
        let there = |row| is_live[row as usize];
        recall_of(index, &rows, &codec, &queries, QUERY, |_| true, there)
    };
    let churned = of(&index);
    let fresh = of(&build_of(&rows, &codec, &live, slots));
    println!(
        "{churned} after churn, {fresh} in a fresh build, {repaired} repaired, {:?}",
        index.counts()
    );
    assert!(
        churned >= fresh - 0.01,
        "{churned} after churn, {fresh} in a fresh build"
    );
}

#[test]
fn filters_keep_recall_at_every_selectivity() {
    let (rows, queries) = kdocs(12_000, Metric::InnerProduct);
    let codec = Codec::new(&rows, GraphKind::Rabitq4);
    let index = build(&rows, &codec);
    let n = rows.len() as u32;
    for per_mille in [500, 250, 100, 10, 1] {
        // Every row is in by its own chance, whatever its neighbours.
        let allows =
            |row: u64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < (per_mille << 32) / 1000;
        let allowed = (0..n as u64).filter(|&row| allows(row)).count() as u64;
        let query = Query {
            allowed: Some(allowed),
            ..QUERY
        };
        let recall = recall_of(&index, &rows, &codec, &queries, query, allows, allows);
        println!(
            "{per_mille} per mille: {:?}, recall {recall}",
            index.plan(&query, K)
        );
        assert!(recall >= 0.95, "{per_mille} per mille: {recall}");
    }
}
