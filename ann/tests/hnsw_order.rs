// SPDX-License-Identifier: Apache-2.0

//! Reordering: the same graph with its nodes in other places.

mod common;

use common::*;
use vexfs_ann::hnsw::*;

const QUERY: Query = Query {
    ef: 40,
    rerank: 20,
    allowed: None,
};

/// Reorders; returns what became of it and how often it asked whether to go on. It is told no at question `stop`.
fn reorder_until(index: &Index<Memory>, stop: usize) -> (Result<(), Error<Failure>>, usize) {
    let used = index.counts().used as usize;
    let mut memory = OrderMemory {
        stack: &mut vec![7; used],
        places: &mut vec![7; used],
    };
    let mut asked = 0;
    let done = index.reorder(&mut memory, || {
        asked += 1;
        if asked == stop {
            Err(Failure)
        } else {
            Ok(())
        }
    });
    (done, asked)
}

fn reorder(index: &Index<Memory>) {
    reorder_until(index, 0).0.unwrap();
}

/// A graph after random inserts and deletes, swept now and then, and which of its rows are live. Some slots are free, and
/// some are not yet. Rows come again if `again`, with nodes of deleted ones as near to everything.
fn random_graph(rows: &[Point], seed: u64, again: bool) -> (Index<Memory>, Vec<bool>) {
    let n = rows.len() as u32;
    let index = index(PARAMS, 2 * n, rows.len());
    let mut scratch = Scratch::new(2 * n, 512);
    let mut rng = Rng(seed);
    let (mut live, mut gone) = (vec![false; rows.len()], vec![false; rows.len()]);
    for change in 0..2 * rows.len() {
        let row = rng.below(rows.len());
        if live[row] {
            delete(&index, &mut scratch, rows, row);
            gone[row] = true;
        } else if again || !gone[row] {
            insert(&index, &mut scratch, rows, row);
        } else {
            continue;
        }
        live[row] = !live[row];
        if change % 300 == 0 && seed.is_multiple_of(2) {
            sweep(&index, rows);
        }
    }
    for row in (0..rows.len()).step_by(9) {
        if std::mem::take(&mut live[row]) {
            delete(&index, &mut scratch, rows, row);
        }
    }
    (index, live)
}

#[test]
fn searches_find_the_same_on_the_same_ways() {
    let mut free = 0;
    for seed in 0..if cfg!(miri) { 2 } else { 12 } {
        let n = if cfg!(miri) { 60 } else { 100 + 60 * seed };
        let rows = points(n as usize, seed);
        let (index, _) = random_graph(&rows, seed, false);
        let before = index.counts();
        let mut scratch = Scratch::new(index.store().nodes(), 512);
        let all = |scratch: &mut Scratch| -> Vec<_> {
            let one = |q| search(&index, scratch, &rows, q, 10, QUERY, |row| row % 5 > 0);
            rows.iter().map(one).collect()
        };
        let found = all(&mut scratch);
        let report = assert_linked(&index);
        reorder(&index);
        for (row, (one, other)) in all(&mut scratch).iter().zip(&found).enumerate() {
            assert_eq!(one, other, "seed {seed}, row {row}");
        }
        let after = assert_linked(&index);
        assert_eq!(
            (after.links, after.stale_links, after.unreachable),
            (report.links, report.stale_links, report.unreachable)
        );
        let counts = index.counts();
        assert_eq!(
            (counts.live, counts.deleted, counts.used_uppers),
            (before.live, before.deleted, before.used_uppers)
        );
        // No slot is lost between them.
        assert_eq!(counts.used, counts.live + counts.deleted);
        free += before.used - counts.used;
        assert_eq!(index.image().entry as u32, 0, "the entry comes first");
    }
    assert!(free > 0, "some had free slots");
}

#[test]
fn an_order_depends_on_the_graph_alone() {
    let rows = points(500, 3);
    let (one, _) = random_graph(&rows, 4, true);
    let (other, _) = random_graph(&rows, 4, true);
    let before = one.digest();
    reorder(&one);
    reorder(&other);
    assert_ne!(one.digest(), before);
    assert_eq!(one.digest(), other.digest());
    // It is in order already.
    reorder(&one);
    assert_eq!(one.digest(), other.digest());
}

#[test]
fn changes_go_on_afterwards() {
    let rows = points(800, 5);
    let queries = points(100, 6);
    let (index, mut live) = random_graph(&rows, 7, true);
    let mut scratch = Scratch::new(index.store().nodes(), 512);
    let mut rng = Rng(8);
    for round in 0..6 {
        reorder(&index);
        let used = index.counts().used;
        for change in 0..200 {
            let row = rng.below(rows.len());
            if live[row] && change > 0 {
                delete(&index, &mut scratch, &rows, row);
                live[row] = false;
            } else if !live[row] {
                let mut numeric = Points::new(&rows, rows[row]);
                let slot = index.insert(&mut scratch.lend(), &mut numeric, row as u64);
                // What is inserted comes behind, until slots are free.
                if change == 0 {
                    assert_eq!(slot, Ok(used));
                }
                assert!(slot.is_ok_and(|slot| slot < index.counts().used));
                live[row] = true;
            }
        }
        assert_linked(&index);
        if round % 2 == 0 {
            sweep(&index, &rows);
        }
        repair(&index, &mut scratch, &rows);
        assert_sound(&index);
        let allows = |row: u64| live[row as usize];
        let found = recall(&index, &mut scratch, &rows, &queries, QUERY, allows);
        assert!(found >= 990, "round {round}: {found}");
    }
}

/// Also slots and upper blocks that were not free yet can be used again.
#[test]
fn an_emptied_graph_is_as_new() {
    let rows = points(400, 9);
    let n = rows.len() as u32;
    let fresh = index(PARAMS, n, rows.len());
    let index = index(PARAMS, n, rows.len());
    let mut scratch = Scratch::new(n, 512);
    for row in 0..rows.len() {
        insert(&fresh, &mut scratch, &rows, row);
    }
    for _ in 0..20 {
        for row in 0..rows.len() {
            insert(&index, &mut scratch, &rows, row);
        }
        assert_eq!(index.digest(), fresh.digest());
        reorder(&index);
        for row in 0..rows.len() {
            delete(&index, &mut scratch, &rows, row);
        }
        let mut numeric = Points::new(&rows, rows[0]);
        while index.counts().deleted > 0 {
            index.sweep(&mut numeric, 0, n).unwrap();
        }
        reorder(&index);
        assert_eq!(index.counts().used, 0);
    }
    reorder(&index);
    assert_eq!(index.counts().used_uppers, fresh.counts().used_uppers);
}

/// Told to stop it has either done nothing or all.
#[test]
fn it_stops_before_nodes_are_moved_or_not_at_all() {
    let n = if cfg!(miri) { 40 } else { 2500 };
    let rows = points(n, 10);
    let make = || {
        let index = index(PARAMS, n as u32, n);
        let mut scratch = Scratch::new(n as u32, 512);
        for row in 0..n {
            insert(&index, &mut scratch, &rows, row);
        }
        index
    };
    let index = make();
    let before = index.digest();
    let mut short = OrderMemory {
        stack: &mut vec![0; n],
        places: &mut vec![0; n - 1],
    };
    let refused = index.reorder(&mut short, || Ok::<_, Failure>(()));
    assert_eq!(refused, Err(Error::Workspace));
    let mut stopped = 0;
    let asked = loop {
        let (done, asked) = reorder_until(&index, stopped + 1);
        if done.is_ok() {
            break asked;
        }
        stopped += 1;
        assert_eq!(done, Err(Error::Caller(Failure)));
        assert_eq!(index.digest(), before);
        assert_sound(&index);
    };
    assert_eq!((stopped, asked), (n.div_ceil(1024), 3 * n.div_ceil(1024)));
    let whole = make();
    reorder(&whole);
    assert_eq!(index.digest(), whole.digest());
    assert_sound(&index);
}

#[test]
fn somebody_who_looks_at_a_free_slot_keeps_all_where_they_are() {
    let rows = points(300, 11);
    let (index, _) = random_graph(&rows, 13, true);
    let mut scratch = Scratch::new(index.store().nodes(), 512);
    let before = index.digest();
    let mut numeric = Points::new(&rows, rows[0]);
    let mut refused = 0;
    let mut visible = Rows {
        allows: |_| {
            refused += usize::from(reorder_until(&index, 0).0 == Err(Error::Full));
            true
        },
        budget: u64::MAX,
    };
    let mut hits = vec![vexfs_ann::Hit::default(); 10];
    let mut top = vexfs_ann::TopK::new(&mut hits);
    let work = &mut scratch.lend();
    index
        .search(work, &mut numeric, &mut visible, &QUERY, &mut top)
        .unwrap();
    assert!(refused > 0);
    assert_eq!(index.digest(), before);
}
