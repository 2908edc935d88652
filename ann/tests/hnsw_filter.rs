// SPDX-License-Identifier: Apache-2.0

//! Searches with a filter, and searches that are stopped.

mod common;

use common::*;
use vexfs_ann::hnsw::*;
use vexfs_ann::{Hit, TopK};

fn built(rows: &[Point]) -> (Index<Memory>, Scratch) {
    built_with(PARAMS, rows)
}

fn built_with(params: Params, rows: &[Point]) -> (Index<Memory>, Scratch) {
    let n = rows.len() as u32;
    let index = index(params, n, rows.len());
    let mut scratch = Scratch::new(n, 512);
    for row in 0..rows.len() {
        insert(&index, &mut scratch, rows, row);
    }
    (index, scratch)
}

/// Whether a row is among some per mille, at random.
fn sampled(row: u64, per_mille: u64) -> bool {
    Rng(row).next() % 1000 < per_mille
}

#[test]
fn recall_holds_for_every_selectivity() {
    let rows = points(20_000, 1);
    let queries = points(60, 2);
    let (index, mut scratch) = built(&rows);
    let mut plans = vec![];
    for per_mille in [1000, 500, 300, 100, 30, 10, 3, 1, 0] {
        let allows = |row: u64| sampled(row, per_mille);
        let allowed = (0..rows.len() as u64).filter(|&row| allows(row)).count() as u64;
        let query = Query {
            ef: 64,
            rerank: 20,
            allowed: Some(allowed),
        };
        let recall = recall(&index, &mut scratch, &rows, &queries, query, allows);
        let plan = index.plan(&query, 10);
        println!("{per_mille} per mille: {plan:?}, recall {recall}");
        if per_mille > 0 {
            assert!(recall >= 950, "{per_mille} per mille, {plan:?}: {recall}");
        }
        plans.push(plan);
    }
    for plan in [Plan::Walk, Plan::Exact] {
        assert!(plans.contains(&plan), "{plan:?} is not in {plans:?}");
    }
}

/// Where so many rows fail that a walk would keep too many candidates, and so many pass that comparing all is more work.
#[test]
fn two_hops_find_what_a_walk_would_take_long_for() {
    let rows = points(60_000, 1);
    let queries = points(30, 2);
    let (index, mut scratch) = built_with(Params { m: 4, ..PARAMS }, &rows);
    let allows = |row: u64| sampled(row, 120);
    let query = Query {
        ef: 280,
        rerank: 20,
        allowed: Some((0..rows.len() as u64).filter(|&row| allows(row)).count() as u64),
    };
    assert_eq!(index.plan(&query, 10), Plan::TwoHop);
    let recall = recall(&index, &mut scratch, &rows, &queries, query, allows);
    assert!(recall >= 950, "{recall}");
}

#[test]
fn a_wrong_guess_of_the_selectivity_costs_time_and_no_results() {
    let rows = points(5000, 3);
    let (index, mut scratch) = built(&rows);
    // Rows far from the query, which a walk towards it does not meet.
    let query = rows[0];
    let mut far: Vec<u64> = (0..rows.len() as u64).collect();
    far.sort_by_key(|&row| std::cmp::Reverse(distance(&query, &rows[row as usize])));
    let allowed = &far[..15];
    let allows = |row: u64| allowed.contains(&row);
    let want = nearest(&rows, &query, 10, allows);
    for guess in [
        None,
        Some(0),
        Some(15),
        Some(700),
        Some(2500),
        Some(5000),
        Some(u64::MAX),
    ] {
        let parameters = Query {
            ef: 32,
            rerank: 10,
            allowed: guess,
        };
        let (got, found) = search(&index, &mut scratch, &rows, &query, 10, parameters, allows);
        assert_eq!(got, want, "{guess:?} {found:?}");
    }
}

#[test]
fn a_search_that_is_stopped_says_so() {
    let rows = points(5000, 4);
    let (index, mut scratch) = built(&rows);
    let mut numeric = Points::new(&rows, points(1, 5)[0]);
    let mut hits = [Hit::default(); 10];
    for allowed in [None, Some(1500), Some(100)] {
        let query = Query {
            ef: 100,
            rerank: 20,
            allowed,
        };
        let mut last = 0;
        for budget in [0, 100, 300, u64::MAX] {
            let mut top = TopK::new(&mut hits);
            let mut visible = Rows {
                allows: |row| allowed.is_none_or(|n| row < n),
                budget,
            };
            let found = index
                .search(
                    &mut scratch.lend(),
                    &mut numeric,
                    &mut visible,
                    &query,
                    &mut top,
                )
                .unwrap();
            let spent = found.distances + found.exact;
            assert_eq!(
                found.partial,
                budget <= spent,
                "{allowed:?} {budget} {found:?}"
            );
            // One batch more, the way down from the top, and exact distances of what was found.
            assert!(
                budget == u64::MAX || spent <= budget + 300,
                "{budget} {found:?}"
            );
            assert!(spent >= last);
            last = spent;
            for hit in top.into_sorted() {
                assert_eq!(
                    hit.distance,
                    distance(&numeric.query, &rows[hit.row as usize])
                );
            }
        }
    }
}

#[test]
fn lossy_codes_are_mended_by_exact_distances() {
    let rows = points(3000, 6);
    let index = index(PARAMS, 3000, 3000);
    let mut scratch = Scratch::new(3000, 512);
    for row in 0..rows.len() {
        let mut numeric = Points::new(&rows, rows[row]);
        numeric.lost_bits = 7;
        index
            .insert(&mut scratch.lend(), &mut numeric, row as u64)
            .unwrap();
    }
    assert_sound(&index);
    let queries = points(100, 7);
    let mut of = |rerank| {
        let query = Query {
            ef: 64,
            rerank,
            allowed: None,
        };
        recall(&index, &mut scratch, &rows, &queries, query, |_| true)
    };
    let (few, many) = (of(10), of(64));
    assert!(few < 900 && many >= 950, "{few} {many}");
}
