// SPDX-License-Identifier: Apache-2.0

//! What searches find: by every code, type and metric, with filters, stopped, without scratch memory.

use vexfs_ann::ivf::{Code, Error, Query, Workspace};
use vexfs_ann::kmeans::Random;
use vexfs_ann::{pq, Visible};
use vexfs_recall::{recall, All, Passing};
use vexfs_simd_host::{BadShape, Elem, Metric};

use super::{built, memory, params, plain, queries, query, recall_of};

#[test]
fn every_code_and_metric_finds_what_an_exact_scan_finds() {
    let queries = queries(Elem::F32, 64, 50);
    for code in [
        Code::Flat,
        Code::Signs,
        Code::Pq4 { nsub: 16 },
        Code::Pq8 { nsub: 8 },
    ] {
        for metric in Metric::COMMON {
            let built = built(Elem::F32, metric, params(64, 32, code), 3000);
            assert_eq!(built.check().fault, None);
            assert_eq!(built.check().live, 3000);
            // Inner products are greatest for long rows, which are in other lists as often.
            let nprobe = if metric == Metric::InnerProduct {
                24
            } else {
                12
            };
            let recall = recall_of(&built, &queries, &query(nprobe, 100), 10);
            assert!(recall >= 0.95, "{code:?} {metric:?}: {recall}");
            // With all lists and enough candidates, only bounds that are too high lose rows.
            let recall = recall_of(&built, &queries, &query(32, 1000), 10);
            assert!(recall >= 0.99, "{code:?} {metric:?}, all lists: {recall}");
        }
    }
}

#[test]
fn every_element_type_is_indexed() {
    for elem in [Elem::F16, Elem::Bf16, Elem::I8, Elem::U8] {
        for metric in [Metric::L2Sq, Metric::Cosine] {
            let built = built(elem, metric, params(50, 16, Code::Signs), 1500);
            let recall = recall_of(&built, &queries(elem, 50, 30), &query(12, 100), 10);
            assert!(recall >= 0.95, "{elem:?} {metric:?}: {recall}");
        }
    }
    let params = params(100, 16, Code::Flat);
    let built = built(Elem::Binary, Metric::Hamming, params, 1500);
    let recall = recall_of(&built, &queries(Elem::Binary, 100, 30), &query(16, 10), 10);
    assert_eq!(recall, 1.0);
}

#[test]
fn lists_found_by_their_codes_are_those_that_are_near() {
    let queries = queries(Elem::F32, 32, 100);
    for metric in Metric::COMMON {
        let built = built(Elem::F32, metric, params(32, 512, Code::Signs), 6000);
        let few = recall_of(&built, &queries, &query(64, 100), 10);
        // From a third of the lists on, all are ranked by exact distances.
        let many = recall_of(&built, &queries, &query(512, 100), 10);
        assert!(few >= 0.9 && many >= 0.97, "{metric:?}: {few} {many}");
    }
}

#[test]
fn one_list_is_a_flat_index_of_codes() {
    let queries = queries(Elem::F32, 48, 50);
    for eight_bits in [false, true] {
        let built = plain(pq::flat(48, eight_bits, 5), 2000);
        let recall = recall_of(&built, &queries, &query(1, 100), 10);
        assert!(recall >= 0.98, "8 bits {eight_bits}: {recall}");
    }
}

#[test]
fn fewer_rows_than_lists_are_no_trouble() {
    let built = plain(params(16, 300, Code::Signs), 40);
    assert_eq!(built.check().live, 40);
    let recall = recall_of(&built, &queries(Elem::F32, 16, 20), &query(300, 40), 10);
    assert_eq!(recall, 1.0);
}

#[test]
fn the_bound_keeps_rows_from_being_scored() {
    let built = plain(params(64, 32, Code::Signs), 3000);
    let mut memory = memory(&built, 1000);
    let (mut codes, mut exact) = (0, 0);
    for q in queries(Elem::F32, 64, 50) {
        let (_, found) = built.search(&mut memory, &q, &mut All, &query(32, 1000), 10);
        codes += found.codes;
        exact += found.distances;
    }
    assert_eq!(codes, 50 * 3000);
    assert!(exact < codes / 10, "{exact} of {codes}");
}

#[test]
fn filters_leave_k_filled_and_recall_high() {
    for code in [Code::Flat, Code::Signs, Code::Pq4 { nsub: 16 }] {
        let n = 20_000;
        let built = plain(params(64, 128, code), n);
        let mut memory = memory(&built, 200);
        for every in [1u64, 2, 10, 100, 1000, 10_000] {
            let passes = |row: u64| Random(row).word().is_multiple_of(every);
            let allowed = (0..n as u64).filter(|row| passes(*row)).count() as u64;
            let how = Query {
                allowed,
                ..query(16, 60)
            };
            let (mut found, mut exact) = (vec![], vec![]);
            for q in queries(Elem::F32, 64, 30) {
                found.push(
                    built
                        .search(&mut memory, &q, &mut Passing(passes), &how, 10)
                        .0,
                );
                exact.push(built.exact(&q, &mut Passing(passes), 10));
            }
            let full = found
                .iter()
                .all(|hits| hits.len() as u64 == allowed.min(10));
            assert!(full, "{code:?}, one of {every} of {allowed}");
            assert!(found.iter().flatten().all(|hit| passes(hit.row)));
            let recall = recall(&found, &exact);
            assert!(recall >= 0.95, "{code:?}, one of {every}: {recall}");
        }
        // Nobody passes: nothing is found, and all was looked at.
        let how = Query {
            allowed: 0,
            ..query(1, 10)
        };
        let q = &queries(Elem::F32, 64, 1)[0];
        let (hits, found) = built.search(&mut memory, q, &mut Passing(|_| false), &how, 10);
        assert_eq!((hits.len(), found.lists), (0, 128));
    }
}

#[test]
fn searches_that_are_stopped_say_so() {
    struct Budget(u64);
    impl Visible for Budget {
        type Error = BadShape;
        fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
            Ok(Some(row))
        }
        fn stop(&mut self, distances: u64) -> bool {
            distances >= self.0
        }
    }
    for code in [Code::Flat, Code::Signs] {
        let built = plain(params(32, 64, code), 8000);
        let mut memory = memory(&built, 100);
        let q = &queries(Elem::F32, 32, 1)[0];
        let how = query(64, 100);
        let (_, all) = built.search(&mut memory, q, &mut Budget(u64::MAX), &how, 10);
        assert!(!all.partial);
        let (hits, part) = built.search(&mut memory, q, &mut Budget(500), &how, 10);
        assert!(
            part.partial && part.codes + part.distances < 5000,
            "{code:?} {part:?}"
        );
        assert!(hits.len() <= 10);
    }
}

#[test]
fn scratch_memory_that_is_too_short_is_refused() {
    let built = plain(params(16, 300, Code::Signs), 500);
    let q = &queries(Elem::F32, 16, 1)[0];
    let run = |lists: usize, near: usize, candidates: usize, lower: usize, hits: usize| {
        let mut work = Workspace {
            lists: &mut vec![0; lists],
            near: &mut vec![0; near],
            candidates: &mut vec![0; candidates],
            lower: &mut vec![0; lower],
            hits: &mut vec![0; hits],
            visited: &mut [],
            touched: &mut [],
        };
        let found = built.search_of(&built.index, &mut work, q, &mut All, &query(2, 5), 5);
        found.map(|(hits, _)| hits.len())
    };
    assert_eq!(run(301, 301, 6, 32, 1), Ok(5));
    assert_eq!(run(300, 301, 6, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 300, 6, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 5, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 6, 31, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 6, 64, 1), Err(Error::Workspace));
    // Nothing is asked for, or more lists than there are.
    let mut memory = memory(&built, 5);
    for (how, k) in [(query(0, 0), 0), (query(0, 0), 5), (query(u32::MAX, 5), 5)] {
        let (hits, _) = built.search(&mut memory, q, &mut All, &how, k);
        assert_eq!(hits.len(), k);
    }
}
