// SPDX-License-Identifier: Apache-2.0

//! Graphs that change for long: recall and space after deletes and inserts, threads, failures.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::*;
use proptest::prelude::*;
use vexfs_ann::hnsw::*;
use vexfs_ann::{Hit, TopK};

const QUERY: Query = Query {
    ef: 40,
    rerank: 20,
    allowed: None,
};

#[test]
fn ten_times_the_rows_later_recall_and_space_are_what_they_were() {
    let n = 2000;
    let rows = points(2 * n, 1);
    let queries = points(200, 2);
    // A fifth more slots than rows: the space that may be lost.
    let slots = (n + n / 5) as u32;
    let index = index(PARAMS, slots, rows.len());
    let mut scratch = Scratch::new(slots, 512);
    let mut live: Vec<usize> = (0..n).collect();
    let mut gone: Vec<usize> = (n..2 * n).collect();
    for &row in &live {
        insert(&index, &mut scratch, &rows, row);
    }
    let mut rng = Rng(3);
    let (mut changes, mut repaired) = (0, 0);
    for _ in 0..10 * n {
        let (i, j) = (rng.below(live.len()), rng.below(gone.len()));
        delete(&index, &mut scratch, &rows, live[i]);
        std::mem::swap(&mut live[i], &mut gone[j]);
        insert(&index, &mut scratch, &rows, live[i]);
        let counts = index.counts();
        changes += 1;
        if changes == counts.live / 10 {
            changes = 0;
            sweep(&index, &rows);
            assert_linked(&index);
            repaired += repair(&index, &mut scratch, &rows);
            assert_sound(&index);
        }
    }
    println!("{repaired} rows were repaired");
    assert_linked(&index);
    let is_live: Vec<bool> = (0..rows.len()).map(|row| live.contains(&row)).collect();
    let allows = |row: u64| is_live[row as usize];
    let old = recall(&index, &mut scratch, &rows, &queries, QUERY, allows);

    let fresh = common::index(PARAMS, slots, rows.len());
    live.sort();
    for &row in &live {
        insert(&fresh, &mut scratch, &rows, row);
    }
    let new = recall(&fresh, &mut scratch, &rows, &queries, QUERY, allows);
    println!(
        "recall after churn {old}, of a fresh build {new}, {:?}",
        index.counts()
    );
    assert!(old + 10 >= new, "{old} after churn, {new} in a fresh build");
}

#[test]
fn equal_rows_do_not_fall_off_the_graph() {
    let mut rows = points(1000, 4);
    // Half of the rows are copies of ten.
    for i in 0..500 {
        rows[2 * i] = rows[2 * (i % 10)];
    }
    let index = index(PARAMS, 1000, 1000);
    let mut scratch = Scratch::new(1000, 512);
    for row in 0..rows.len() {
        insert(&index, &mut scratch, &rows, row);
        if row % 100 == 99 {
            assert_linked(&index);
        }
    }
    println!("{} rows were repaired", repair(&index, &mut scratch, &rows));
    assert_sound(&index);
    for row in (0..1000).step_by(3) {
        delete(&index, &mut scratch, &rows, row);
    }
    assert_linked(&index);
    println!("{} rows were repaired", repair(&index, &mut scratch, &rows));
    assert_sound(&index);
}

#[test]
fn searchers_and_writers_do_not_disturb_each_other() {
    let n = 1500;
    let rows = points(n, 5);
    let slots = n as u32 + 200;
    let index = index(PARAMS, slots, n);
    let mut scratch = Scratch::new(slots, 512);
    // The first third stays, and every search of one of them finds it.
    for row in 0..n / 3 {
        insert(&index, &mut scratch, &rows, row);
    }
    let done = AtomicBool::new(false);
    let searches = AtomicUsize::new(0);
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (index, rows) = (&index, &rows);
                scope.spawn(move || {
                    let mut scratch = Scratch::new(slots, 512);
                    let mut rng = Rng(writer);
                    let mut own: Vec<usize> = (n / 3..n)
                        .filter(|row| row % 2 == writer as usize)
                        .collect();
                    let mut live = vec![];
                    for _ in 0..3000 {
                        if !own.is_empty() && (live.is_empty() || rng.below(5) < 3) {
                            let row = own.swap_remove(rng.below(own.len()));
                            let mut numeric = Points::new(rows, rows[row]);
                            let mut work = scratch.lend();
                            loop {
                                match index.insert(&mut work, &mut numeric, row as u64) {
                                    Ok(_) => break,
                                    // Searches hold back the slots of deleted rows for a while.
                                    Err(Error::Full) => {
                                        index.sweep(&mut numeric, 0, slots).unwrap();
                                        std::thread::yield_now();
                                    }
                                    Err(error) => panic!("{error:?}"),
                                }
                            }
                            live.push(row);
                        } else {
                            let row = live.swap_remove(rng.below(live.len()));
                            delete(index, &mut scratch, rows, row);
                            own.push(row);
                        }
                    }
                    live.len()
                })
            })
            .collect();
        for searcher in 0..4 {
            let (index, rows, done, searches, found) = (&index, &rows, &done, &searches, &found);
            scope.spawn(move || {
                let mut scratch = Scratch::new(slots, 512);
                let mut rng = Rng(searcher);
                // On a busy machine a thread may begin when the writers are done.
                for own in 0.. {
                    if own >= 300 && done.load(Ordering::Relaxed) {
                        break;
                    }
                    let row = rng.below(n / 3);
                    let query = rows[row];
                    let (hits, _) = search(index, &mut scratch, rows, &query, 10, QUERY, |_| true);
                    assert_eq!(hits.len(), 10);
                    for hit in &hits {
                        // Whatever else goes on, a hit is a row at its distance.
                        assert_eq!(hit.0, distance(&query, &rows[hit.1 as usize]));
                    }
                    searches.fetch_add(1, Ordering::Relaxed);
                    let nearest = hits.iter().any(|hit| hit.0 == distance(&query, &query));
                    found.fetch_add(nearest as usize, Ordering::Relaxed);
                }
            });
        }
        let live: usize = writers.into_iter().map(|w| w.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        assert_eq!(index.counts().live as usize, n / 3 + live);
    });
    let (searches, found) = (searches.into_inner(), found.into_inner());
    println!("{searches} searches, {found} found their row");
    assert!(found * 1000 >= searches * 995, "{found} of {searches}");
    sweep(&index, &rows);
    let report = check(&index);
    assert_eq!(report.first_fault, None, "{report:?}");
    assert_eq!(
        (report.deleted, report.orphans, report.unreachable),
        (0, 0, 0),
        "{report:?}"
    );
}

#[test]
fn concurrent_builds_are_whole() {
    let rows = points(3000, 8);
    let index = index(PARAMS, 3000, 3000);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut scratch = Scratch::new(3000, 512);
                loop {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    if row >= rows.len() {
                        break;
                    }
                    insert(&index, &mut scratch, &rows, row);
                }
            });
        }
    });
    assert_sound(&index);
    let mut scratch = Scratch::new(3000, 512);
    let recall = recall(&index, &mut scratch, &rows, &points(100, 9), QUERY, |_| {
        true
    });
    assert!(recall >= 950, "{recall}");
}

#[test]
fn failing_arithmetic_leaves_a_sound_graph() {
    let rows = points(400, 10);
    let index = index(PARAMS, 500, 400);
    let mut scratch = Scratch::new(500, 512);
    for row in 0..300 {
        insert(&index, &mut scratch, &rows, row);
    }
    let mut rng = Rng(11);
    let (mut failures, mut successes) = (0, 0);
    for round in 0..400 {
        let row = rng.below(400);
        let mut numeric = Points::new(&rows, rows[row]);
        numeric.fails_in = round;
        let mut work = scratch.lend();
        let result =
            index
                .delete(&mut work, &mut numeric, row as u64)
                .or_else(|error| match error {
                    Error::Missing => index
                        .insert(&mut work, &mut numeric, row as u64)
                        .map(|_| ()),
                    error => Err(error),
                });
        match result {
            Ok(()) => successes += 1,
            Err(Error::Caller(Failure)) => failures += 1,
            Err(error) => panic!("{error:?}"),
        }
        let report = check(&index);
        assert_eq!(report.first_fault, None, "round {round}: {report:?}");
        assert_eq!(
            (report.orphans, report.unreachable),
            (0, 0),
            "round {round}: {report:?}"
        );
        let mut hits = [Hit::default(); 5];
        let mut top = TopK::new(&mut hits);
        let mut all = Rows {
            allows: |_| true,
            budget: u64::MAX,
        };
        let _ = index.search(&mut work, &mut numeric, &mut all, &QUERY, &mut top);
    }
    assert!(failures > 50 && successes > 50, "{failures} {successes}");
    sweep(&index, &rows);
    assert_eq!(assert_linked(&index).deleted, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_order_of_changes_keeps_the_graph_sound(
        changes in prop::collection::vec(0usize..60, 1..300),
        seed: u64,
        m in 2u32..5,
    ) {
        let rows = points(60, seed);
        let params = Params { m: 2 * m, ef_construction: 20, seed, ..PARAMS };
        // Few slots: some inserts find no room.
        let index = index(params, 50, 60);
        let mut scratch = Scratch::new(50, 512);
        let mut model = std::collections::BTreeSet::new();
        for row in changes {
            let mut numeric = Points::new(&rows, rows[row]);
            let mut work = scratch.lend();
            if model.remove(&row) {
                prop_assert_eq!(index.delete(&mut work, &mut numeric, row as u64), Ok(()));
            } else {
                match index.insert(&mut work, &mut numeric, row as u64) {
                    Ok(_) => {
                        model.insert(row);
                    }
                    Err(error) => {
                        prop_assert_eq!(error, Error::Full);
                        prop_assert!(model.len() + index.counts().deleted as usize >= 50);
                    }
                }
            }
        }
        assert_linked(&index);
        repair(&index, &mut scratch, &rows);
        assert_sound(&index);
        let (hits, _) = search(&index, &mut scratch, &rows, &rows[0], 60, Query { ef: 60, rerank: 60, allowed: None }, |_| true);
        let got: std::collections::BTreeSet<usize> = hits.iter().map(|hit| hit.1 as usize).collect();
        prop_assert_eq!(got, model);
        sweep(&index, &rows);
        prop_assert_eq!(assert_linked(&index).deleted, 0);
    }
}
