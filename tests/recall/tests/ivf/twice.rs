// SPDX-License-Identifier: Apache-2.0

//! Rows in two lists each.

use vexfs_ann::ivf::{Code, Error, Fault, Query};
use vexfs_recall::lists::Built;
use vexfs_recall::{All, Passing};
use vexfs_simd_host::{Elem, Metric};

use super::{built, memory, params, plain, queries, query, recall_of, space, trained, twice};

#[test]
fn rows_in_two_lists_are_found_once_and_in_fewer_lists() {
    let n = 4000;
    for (code, metric) in [
        (Code::Flat, Metric::InnerProduct),
        (Code::Flat, Metric::L2Sq),
        (Code::Signs, Metric::Cosine),
        (Code::Pq4 { nsub: 8 }, Metric::InnerProduct),
    ] {
        let one = built(Elem::F32, metric, params(32, 64, code), n);
        let two = built(Elem::F32, metric, twice(32, 64, code), n);
        assert_eq!(two.check().fault, None);
        assert_eq!(two.index.counts().live as usize, n);
        let again = trained(Elem::F32, metric, twice(32, 64, code), n);
        again.insert(0..n as u64);
        assert_eq!(again.index.digest(), two.index.digest());
        let queries = queries(Elem::F32, 32, 60);
        let rerank = two.space.params.default_rerank(10);
        // As many codes for both: half as many lists.
        let recalls = [
            recall_of(&one, &queries, &query(6, rerank), 10),
            recall_of(&two, &queries, &query(3, rerank), 10),
        ];
        assert!(recalls[1] + 0.02 > recalls[0], "{code:?}: {recalls:?}");
        assert!(recall_of(&two, &queries, &query(6, rerank), 10) > recalls[0]);
        // From list to list until `k` are found, with a filter or without: each once.
        let mut memory = memory(&two, 2 * n);
        for q in &queries[..10] {
            for (k, of) in [(20, 1), (300, 1), (50, 40)] {
                let mut passing = Passing(|row: u64| row.is_multiple_of(of));
                let how = Query {
                    allowed: n as u64 / of,
                    ..query(1, k as u32)
                };
                let (hits, _) = two.search(&mut memory, q, &mut passing, &how, k);
                let mut rows: Vec<_> = hits.iter().map(|hit| hit.row).collect();
                rows.sort_unstable();
                rows.dedup();
                assert_eq!(rows.len(), k, "{code:?}");
                assert!(rows.iter().all(|row| row.is_multiple_of(of)));
            }
            let all = two.search(&mut memory, q, &mut All, &query(64, 2 * n as u32), 10);
            assert_eq!(all.0, two.exact(q, &mut All, 10), "{code:?}");
        }
    }
}

#[test]
fn few_candidates_fill_k_where_rows_are_in_two_lists() {
    let n = 600;
    for code in [Code::Signs, Code::Pq4 { nsub: 8 }] {
        for nlist in [2, 3, 16] {
            let two = built(Elem::F32, Metric::L2Sq, twice(32, nlist, code), n);
            let how = query(nlist, 1);
            for k in [1, 10, 100, 599] {
                let mut memory = memory(&two, how.kept(k, &two.space.params));
                for q in &queries(Elem::F32, 32, 10) {
                    let (hits, _) = two.search(&mut memory, q, &mut All, &how, k);
                    let rows: std::collections::BTreeSet<_> =
                        hits.iter().map(|hit| hit.row).collect();
                    assert_eq!(rows.len(), k, "{code:?}, {nlist} lists");
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_in_one_list_of_two_or_in_three_is_a_fault() {
    let built = plain(twice(16, 8, Code::Flat), 500);
    let lists = built.lists_of(7);
    let third = (0..8).find(|list| !lists.contains(list)).unwrap();
    let mut writer = built.index.writer();
    writer.append::<()>(third, 7, &[], &[0; 3]).unwrap();
    assert!(matches!(built.check().fault, Some((_, Fault::Twice))));
    assert_eq!(writer.delete_from::<()>(third, 7), Ok(true));
    writer.append::<()>(lists[0], 7, &[], &[0; 3]).unwrap();
    assert_eq!(built.check().fault, Some((lists[0], Fault::Twice)));
    assert_eq!(writer.delete_from::<()>(lists[0], 7), Ok(true));
    assert_eq!(built.check().fault, None);
    assert_eq!(writer.delete_from::<()>(lists[1], 7), Ok(true));
    assert_eq!(built.check().fault, Some((lists[0], Fault::Once)));
    // In the wrong lists it is found all the same.
    writer.append::<()>(third, 7, &[], &[0; 3]).unwrap();
    assert_eq!(built.check().fault, None);
    assert_eq!(writer.delete::<()>(&lists, 7), Ok(true));
    assert_eq!(writer.delete::<()>(&lists, 7), Ok(false));
    assert_eq!((built.check().fault, built.check().live), (None, 499));
}

#[test]
fn a_row_without_room_for_its_second_copy_is_in_no_list() {
    let params = twice(16, 8, Code::Signs);
    let n = 600;
    let built = Built::train(space(Elem::F32, Metric::L2Sq, params, n), 20);
    let mut refused = 0;
    for row in 0..n as u64 {
        let lists = built.lists_of(row);
        let (codes, factors): (Vec<_>, Vec<_>) =
            lists.iter().map(|list| built.codes_of(row, *list)).unzip();
        let mut writer = built.index.writer();
        match writer.append_to::<()>(&lists, row, &codes.concat(), &factors) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, Error::Full);
                refused += 1;
            }
        }
    }
    let report = built.check();
    assert!(refused > 0);
    assert_eq!((report.fault, report.live), (None, n as u32 - refused));
}
