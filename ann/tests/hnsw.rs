// SPDX-License-Identifier: Apache-2.0

//! Graphs of points with integer coordinates: recall against exact answers, determinism, deletes,
//! filters, budgets, and what a check says after each.

mod common;

use common::*;
use vexfs_ann::hnsw::*;
use vexfs_ann::{Hit, TopK};

const QUERY: Query = Query {
    ef: 64,
    rerank: 20,
    allowed: None,
};

fn built(params: Params, rows: &[Point]) -> (Index<Memory>, Scratch) {
    let index = index(params, rows.len() as u32, rows.len());
    let mut scratch = Scratch::new(rows.len() as u32, 512);
    for row in 0..rows.len() {
        insert(&index, &mut scratch, rows, row);
    }
    (index, scratch)
}

#[test]
fn almost_all_nearest_rows_are_found() {
    let rows = points(4000, 1);
    let (index, mut scratch) = built(PARAMS, &rows);
    assert_sound(&index);
    let recall = recall(&index, &mut scratch, &rows, &points(200, 2), QUERY, |_| {
        true
    });
    assert!(recall >= 980, "{recall}");
}

#[test]
fn every_size_from_empty_on_works() {
    let rows = points(70, 3);
    let index = index(PARAMS, 70, 70);
    let mut scratch = Scratch::new(70, 512);
    for n in 0..rows.len() {
        let (got, found) = search(&index, &mut scratch, &rows, &rows[0], 10, QUERY, |_| true);
        let want = nearest(&rows[..n], &rows[0], 10, |_| true);
        assert_eq!(got, want, "{n} {found:?}");
        insert(&index, &mut scratch, &rows, n);
        assert_sound(&index);
    }
}

#[test]
fn the_same_inserts_give_the_same_graph() {
    let rows = points(1000, 4);
    let digest = |params: Params, rows: &[Point]| built(params, rows).0.digest();
    let first = digest(PARAMS, &rows);
    assert_eq!(first, digest(PARAMS, &rows));
    assert_ne!(first, digest(Params { seed: 6, ..PARAMS }, &rows));
    let mut other = rows.clone();
    other[500][0] += 1;
    assert_ne!(first, digest(PARAMS, &other));
}

#[test]
fn rows_come_and_go() {
    let rows = points(300, 5);
    let (index, mut scratch) = built(PARAMS, &rows);
    let mut rng = Rng(6);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    for (i, &row) in order.iter().enumerate() {
        delete(&index, &mut scratch, &rows, row);
        let gone = &order[..=i];
        assert_linked(&index);
        let allows = |row: u64| !gone.contains(&(row as usize));
        let want = nearest(&rows, &rows[row], 10, allows);
        let (got, _) = search(&index, &mut scratch, &rows, &rows[row], 10, QUERY, |_| true);
        assert_eq!(got.len(), want.len());
        assert!(got.iter().all(|hit| allows(hit.1)));
    }
    assert_eq!(index.counts().live, 0);
    sweep(&index, &rows);
    assert_eq!(assert_sound(&index).deleted, 0);
    for row in 0..rows.len() {
        insert(&index, &mut scratch, &rows, row);
    }
    assert_sound(&index);
}

#[test]
fn errors_name_their_cause() {
    let rows = points(20, 7);
    let index = index(PARAMS, 10, 20);
    let mut scratch = Scratch::new(10, 512);
    let mut numeric = Points::new(&rows, rows[0]);
    let mut work = scratch.lend();
    assert_eq!(
        index.delete(&mut work, &mut numeric, 0),
        Err(Error::Missing)
    );
    for row in 0..10 {
        assert!(index.insert(&mut work, &mut numeric, row).is_ok());
    }
    assert_eq!(index.insert(&mut work, &mut numeric, 5), Err(Error::Exists));
    assert_eq!(index.insert(&mut work, &mut numeric, 10), Err(Error::Full));
    assert_eq!(
        index.insert(&mut work, &mut numeric, 20),
        Err(Error::Workspace)
    );
    assert_eq!(
        index.delete(&mut work, &mut numeric, 11),
        Err(Error::Missing)
    );
    work.candidates = &mut [];
    assert_eq!(
        index.insert(&mut work, &mut numeric, 11),
        Err(Error::Workspace)
    );
    let mut hits = [Hit::default(); 3];
    let mut top = TopK::new(&mut hits);
    let mut all = Rows {
        allows: |_| true,
        budget: u64::MAX,
    };
    for ef in [0, 10, 5000] {
        let query = Query { ef, ..QUERY };
        let result = index.search(&mut work, &mut numeric, &mut all, &query, &mut top);
        assert_eq!(result, Err(Error::Workspace), "ef {ef}");
    }
}
