// SPDX-License-Identifier: Apache-2.0

//! Inserts, deletes and compaction, also beside searches.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::RwLock;

use vexfs_ann::ivf::{Code, Error};
use vexfs_ann::kmeans::Random;
use vexfs_recall::lists::Built;
use vexfs_recall::{recall, All, Passing};
use vexfs_simd_host::{Elem, Metric};

use super::{memory, params, plain, queries, query, rows_of, space, trained, twice};

const N: u64 = 2000;
const LISTS: u32 = 16;

/// Deletes rows that are there, and inserts rows that are not, `N` times.
fn churn(built: &Built, random: &mut Random, there: &mut [bool]) {
    for _ in 0..N {
        let row = random.below(N);
        if std::mem::replace(&mut there[row as usize], false) {
            assert!(built.delete(row), "row {row}");
            assert!(!built.delete(row));
        } else {
            built.insert([row].into_iter());
            there[row as usize] = true;
        }
    }
}

/// Compacts all lists in pieces, between which all rows are found, each as often as it is to be.
fn compact(built: &mut Built, there: &[bool]) {
    let copies = built.space.params.copies as usize;
    let live = built.index.counts().live as usize;
    for list in 0..LISTS {
        let mut compaction = built.index.begin_compaction::<()>(list).unwrap();
        for slots in 1.. {
            let done = built.index.compact_some::<()>(&mut compaction, slots);
            let rows = (0..LISTS).flat_map(|list| rows_of(built, list));
            let mut rows: Vec<u64> = rows.map(|(row, _)| row).collect();
            rows.sort_unstable();
            assert_eq!(rows.len(), live * copies);
            rows.dedup();
            assert_eq!(rows.len(), live);
            assert!(rows.iter().all(|row| there[*row as usize]));
            if done.unwrap().is_some() {
                break;
            }
        }
    }
    assert_eq!(built.check().holes, 0);
}

#[test]
fn deleted_rows_are_gone_and_their_slots_are_used_again() {
    let once = [
        Code::Flat,
        Code::Signs,
        Code::Pq4 { nsub: 8 },
        Code::Pq8 { nsub: 4 },
    ];
    let once = once.map(|code| params(32, LISTS, code));
    let twice = [Code::Flat, Code::Signs].map(|code| twice(32, LISTS, code));
    for params in once.into_iter().chain(twice) {
        let code = params.code;
        let mut built = plain(params, N as usize);
        let fresh = built.index.digest();
        let used = built.index.counts().used;
        let mut random = Random(9);
        let mut there = vec![true; N as usize];
        for round in 0..10 {
            churn(&built, &mut random, &mut there);
            if round % 3 == 0 {
                compact(&mut built, &there);
            }
            let report = built.check();
            assert_eq!((report.fault, report.lost), (None, 0), "{code:?}");
            assert_eq!(report.live as usize, there.iter().filter(|t| **t).count());
            assert_eq!(report.live, built.index.counts().live);
        }
        let mut memory = memory(&built, 200);
        let of_those = |row: u64| there[row as usize];
        let (mut found, mut exact) = (vec![], vec![]);
        for q in queries(Elem::F32, 32, 40) {
            // Without a filter: the index itself does not know deleted rows.
            let (hits, _) = built.search(&mut memory, &q, &mut All, &query(LISTS, 200), 10);
            found.push(hits);
            exact.push(built.exact(&q, &mut Passing(of_those), 10));
        }
        assert!(found.iter().flatten().all(|hit| of_those(hit.row)));
        assert!(recall(&found, &exact) >= 0.95, "{code:?}");
        // With all rows back there is no more space in use than a fifth.
        built.insert((0..N).filter(|row| !of_those(*row)));
        assert_eq!(built.check().live as u64, N);
        assert!(built.index.counts().used <= used + used / 5, "{code:?}");
        // Out and in again, in order: the same index as a new one.
        for row in 0..N {
            assert!(built.delete(row));
        }
        let (mut freed, free) = (0, built.check().free);
        for list in 0..LISTS {
            freed += built.index.compact::<()>(list).unwrap();
        }
        assert_eq!((built.check().free, built.check().live), (freed + free, 0));
        built.insert(0..N);
        assert_eq!(built.index.digest(), fresh, "{code:?}");
    }
}

#[test]
fn many_rows_are_removed_at_once_and_lists_count_their_holes() {
    let n = 3000;
    let built = plain(params(16, 20, Code::Signs), n);
    assert_eq!(built.index.holes(), 0);
    let mut removed = 0;
    for list in 0..20 {
        let slots = built.index.slots(list).unwrap();
        let gone = |row| row % 3 == 1 || (900..1000).contains(&row);
        removed += built.index.writer().delete_where::<()>(list, gone).unwrap();
        assert_eq!(built.index.slots(list), Some(slots));
    }
    let gone = (0..n as u64).filter(|row| row % 3 == 1 || (900..1000).contains(row));
    assert_eq!(removed as usize, gone.count());
    assert_eq!(built.index.holes(), removed as u64);
    assert_eq!(built.index.counts().live, n as u32 - removed);
    let report = built.check();
    assert_eq!((report.fault, report.live), (None, n as u32 - removed));
    // What was removed comes back into the same places.
    let used = built.index.counts().used;
    built.insert((900..1000).chain((0..900).filter(|row| row % 3 == 1)));
    assert_eq!(built.index.counts().used, used);
    assert_eq!(built.index.holes(), removed as u64 - 400);
    let removed = built.index.writer().delete_where::<()>(20, |_| true);
    assert_eq!(removed, Ok(0));
    let missing = built.index.writer().delete_where::<()>(21, |_| true);
    assert_eq!(missing, Err(Error::Workspace));
}

#[test]
fn an_index_without_room_refuses_rows_and_stays_right() {
    let params = params(16, 4, Code::Signs);
    let built = Built::train(space(Elem::F32, Metric::L2Sq, params, 500), 6);
    let codes = [0; 4];
    let mut writer = built.index.writer();
    let mut added = 0;
    let error = loop {
        match writer.append::<()>(added % 4, added as u64, &codes, &[0; 3]) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Full);
    for (list, row, codes) in [
        (0, u64::MAX, &codes[..]),
        (5, 1, &codes),
        (0, 1, &codes[1..]),
    ] {
        let refused = writer.append::<()>(list, row, codes, &[0; 3]);
        assert_eq!(refused, Err(Error::Workspace));
    }
    assert_eq!(writer.delete::<()>(&[0], u64::MAX), Ok(false));
    drop(writer);
    assert_eq!((built.check().fault, built.check().live), (None, added));
}

#[test]
fn searches_see_what_was_inserted_before_they_began() {
    let n = 12_000u64;
    let params = params(32, 300, Code::Signs);
    let built = trained(Elem::F32, Metric::L2Sq, params, n as usize);
    // Even rows come and go, odd ones stay once they are there.
    let (shown, gone) = (AtomicU64::new(0), AtomicU32::new(0));
    let built = RwLock::new(built);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (built, shown, gone) = (&built, &shown, &gone);
            scope.spawn(move || {
                let mut random = Random(thread);
                let mut searches = 0;
                // On a busy machine a thread may begin when all rows have come and gone.
                while gone.load(Ordering::Relaxed) == 0 || searches <= 10 {
                    let known = shown.load(Ordering::Acquire);
                    if known < 10 {
                        continue;
                    }
                    let row = random.below(known / 2) * 2 + 1;
                    if row >= known {
                        continue;
                    }
                    let built = built.read().unwrap();
                    let mut memory = memory(&built, 200);
                    let q = built.space.row(row as usize);
                    let (hits, _) = built.search(&mut memory, q, &mut All, &query(300, 200), 3);
                    assert!(
                        hits.iter().any(|hit| hit.row == row),
                        "row {row} of {known}"
                    );
                    searches += 1;
                }
            });
        }
        for first in (0..n).step_by(50) {
            let reading = built.read().unwrap();
            reading.insert(first..first + 50);
            shown.store(first + 50, Ordering::Release);
            for row in (first..first + 50).step_by(2) {
                assert!(reading.delete(row));
            }
            drop(reading);
            if first % 2000 == 0 {
                let mut alone = built.write().unwrap();
                for list in 0..300 {
                    alone.index.compact::<()>(list).unwrap();
                }
            }
        }
        gone.store(1, Ordering::Relaxed);
    });
    let built = built.into_inner().unwrap();
    assert_eq!(
        (built.check().fault, built.check().live as u64),
        (None, n / 2)
    );
}
