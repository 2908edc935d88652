// SPDX-License-Identifier: Apache-2.0

//! Inverted files against exact answers: recall, filters, changes, damage, threads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::RwLock;

use vexfs_ann::ivf::train::{train, TrainMemory};
use vexfs_ann::ivf::{
    BadParams, CheckMemory, Code, Error, Fault, Index, Params, Query, Store, Workspace,
};
use vexfs_ann::kmeans::Random;
use vexfs_ann::{pq, Hit, TopK};
use vexfs_recall::lists::*;
use vexfs_simd_host::*;

/// Uniform in -1..1.
fn unit(random: &mut Random) -> f64 {
    (random.word() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Rows around centres, spread in twelve directions and a little in all others, as embeddings are.
fn clustered(seed: u64, n: usize, dim: usize) -> Vec<Vec<f64>> {
    let mut fixed = Random(1234);
    let mut vectors = |n: usize| -> Vec<Vec<f64>> {
        (0..n)
            .map(|_| (0..dim).map(|_| unit(&mut fixed)).collect())
            .collect()
    };
    let (centres, directions) = (vectors(50), vectors(12));
    let mut random = Random(seed);
    (0..n)
        .map(|_| {
            let mut row = centres[random.below(50) as usize].clone();
            for direction in &directions {
                let by = 0.5 * unit(&mut random);
                row.iter_mut()
                    .zip(direction)
                    .for_each(|(x, d)| *x += by * d);
            }
            row.iter_mut().for_each(|x| *x += 0.1 * unit(&mut random));
            row
        })
        .collect()
}

/// Rows as elements of a type.
fn encode(elem: Elem, rows: &[Vec<f64>]) -> Vec<u8> {
    let t = token();
    let mut out = Vec::new();
    for row in rows {
        let floats: Vec<u8> = row.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        let mut bytes = vec![0; elem.row_bytes(row.len())];
        match elem {
            Elem::F32 => bytes = floats,
            Elem::F16 | Elem::Bf16 => {
                convert(&t, Isa::Scalar, Elem::F32, elem, &floats, &mut bytes).unwrap()
            }
            Elem::I8 => bytes = row.iter().map(|x| (x * 60.0) as i8 as u8).collect(),
            Elem::U8 => bytes = row.iter().map(|x| (x * 60.0 + 128.0) as u8).collect(),
            Elem::Binary => sign_bits_f32(&t, Isa::Scalar, &floats, &mut bytes).unwrap(),
        }
        out.extend(bytes);
    }
    out
}

fn space(elem: Elem, metric: Metric, params: Params, n: usize) -> Space {
    let dim = params.dim as usize;
    let rows = encode(elem, &clustered(1, n, dim));
    Space {
        elem,
        metric,
        dim,
        rows,
        isa: Isa::best(),
        params,
    }
}

fn queries(elem: Elem, dim: usize, n: usize) -> Vec<Vec<u8>> {
    let rows = encode(elem, &clustered(2, n, dim));
    rows.chunks(elem.row_bytes(dim))
        .map(<[u8]>::to_vec)
        .collect()
}

fn params(dim: u32, nlist: u32, code: Code) -> Params {
    Params {
        dim,
        nlist,
        code,
        copies: 1,
        hashed: false,
        seed: 3,
    }
}

/// Rows in two lists each.
fn twice(dim: u32, nlist: u32, code: Code) -> Params {
    Params {
        copies: 2,
        ..params(dim, nlist, code)
    }
}

fn built(elem: Elem, metric: Metric, params: Params, n: usize) -> Built {
    let built = Built::train(
        space(elem, metric, params, n),
        params.most_blocks(n as u64) as u32,
    );
    built.build();
    built
}

fn query(nprobe: u32, rerank: u32) -> Query {
    Query {
        nprobe,
        rerank,
        allowed: u64::MAX,
    }
}

fn recall_of(built: &Built, queries: &[Vec<u8>], how: &Query, k: usize) -> f64 {
    let mut memory = Memory::new(&built.space.params, how.rerank as usize, built.space.n());
    let found: Vec<_> = queries
        .iter()
        .map(|q| built.search(&mut memory, q, &mut All, how, k).0)
        .collect();
    let exact: Vec<_> = queries
        .iter()
        .map(|q| built.exact(q, &mut All, k))
        .collect();
    assert!(found.iter().all(|hits| hits.len() == k));
    recall(&found, &exact)
}

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
    let built = built(
        Elem::Binary,
        Metric::Hamming,
        params(100, 16, Code::Flat),
        1500,
    );
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
        let built = built(Elem::F32, Metric::L2Sq, pq::flat(48, eight_bits, 5), 2000);
        let recall = recall_of(&built, &queries, &query(1, 100), 10);
        assert!(recall >= 0.98, "8 bits {eight_bits}: {recall}");
    }
}

#[test]
fn the_bound_keeps_rows_from_being_scored() {
    let built = built(Elem::F32, Metric::L2Sq, params(64, 32, Code::Signs), 3000);
    let mut memory = Memory::new(&built.space.params, 1000, built.space.n());
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
        let built = built(Elem::F32, Metric::L2Sq, params(64, 128, code), n);
        let mut memory = Memory::new(&built.space.params, 200, built.space.n());
        for every in [1u64, 2, 10, 100, 1000, 10_000] {
            let passes = |row: u64| Random(row).word().is_multiple_of(every);
            let allowed = (0..n as u64).filter(|row| passes(*row)).count() as u64;
            let how = Query {
                allowed,
                ..query(16, 60)
            };
            let (mut found, mut exact) = (vec![], vec![]);
            for q in queries(Elem::F32, 64, 30) {
                found.push(built.search(&mut memory, &q, &mut Only(passes), &how, 10).0);
                exact.push(built.exact(&q, &mut Only(passes), 10));
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
        let (hits, found) = built.search(&mut memory, q, &mut Only(|_| false), &how, 10);
        assert_eq!((hits.len(), found.lists), (0, 128));
    }
}

#[test]
fn deleted_rows_are_gone_and_their_slots_are_used_again() {
    let once = [
        Code::Flat,
        Code::Signs,
        Code::Pq4 { nsub: 8 },
        Code::Pq8 { nsub: 4 },
    ];
    let once = once.map(|code| params(32, 16, code));
    let twice = [Code::Flat, Code::Signs].map(|code| twice(32, 16, code));
    for params in once.into_iter().chain(twice) {
        let (n, code) = (2000u64, params.code);
        let mut built = built(Elem::F32, Metric::L2Sq, params, n as usize);
        let fresh = built.index.digest();
        let used = built.index.counts().used;
        let mut random = Random(9);
        let mut there = vec![true; n as usize];
        for round in 0..10 {
            for _ in 0..n {
                let row = random.below(n);
                if std::mem::replace(&mut there[row as usize], false) {
                    assert!(built.delete(row), "{code:?} row {row}");
                    assert!(!built.delete(row));
                } else {
                    built.insert([row].into_iter());
                    there[row as usize] = true;
                }
            }
            if round % 3 == 0 {
                for list in 0..16 {
                    // In pieces, between which all rows are found, each once.
                    let mut compaction = built.index.begin_compaction::<()>(list).unwrap();
                    let live = built.index.counts().live as usize;
                    for slots in 1.. {
                        let done = built.index.compact_some::<()>(&mut compaction, slots);
                        let mut rows: Vec<u32> = vec![];
                        for list in 0..16 {
                            let mut some = [(0, 0); 40];
                            let mut from = Some(0);
                            while let Some(skip) = from {
                                let (n, next) = built.index.rows_in(list, skip, &mut some).unwrap();
                                rows.extend(some[..n].iter().map(|(row, _)| *row as u32));
                                from = next;
                            }
                        }
                        rows.sort_unstable();
                        assert_eq!(rows.len(), live * params.copies as usize);
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
            let report = built.check();
            assert_eq!((report.fault, report.lost), (None, 0), "{code:?}");
            assert_eq!(report.live as usize, there.iter().filter(|t| **t).count());
            assert_eq!(report.live, built.index.counts().live);
        }
        let mut memory = Memory::new(&built.space.params, 200, built.space.n());
        let of_those = |row: u64| there[row as usize];
        let (mut found, mut exact) = (vec![], vec![]);
        for q in queries(Elem::F32, 32, 40) {
            // Without a filter: the index itself does not know deleted rows.
            found.push(
                built
                    .search(&mut memory, &q, &mut All, &query(16, 200), 10)
                    .0,
            );
            exact.push(built.exact(&q, &mut Only(of_those), 10));
        }
        assert!(found.iter().flatten().all(|hit| of_those(hit.row)));
        assert!(recall(&found, &exact) >= 0.95, "{code:?}");
        // With all rows back there is no more space in use than a fifth.
        built.insert((0..n).filter(|row| !of_those(*row)));
        assert_eq!(built.check().live as u64, n);
        assert!(built.index.counts().used <= used + used / 5, "{code:?}");
        // Out and in again, in order: the same index as a new one.
        for row in 0..n {
            assert!(built.delete(row));
        }
        let (mut freed, free) = (0, built.check().free);
        for list in 0..16 {
            freed += built.index.compact::<()>(list).unwrap();
        }
        assert_eq!((built.check().free, built.check().live), (freed + free, 0));
        built.insert(0..n);
        assert_eq!(built.index.digest(), fresh, "{code:?}");
    }
}

#[test]
fn many_rows_are_removed_at_once_and_lists_count_their_holes() {
    let params = params(16, 20, Code::Signs);
    let n = 3000;
    let built = built(Elem::F32, Metric::L2Sq, params, n);
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
fn every_row_is_in_its_lists_with_its_codes() {
    let once = [
        Code::Flat,
        Code::Signs,
        Code::Pq4 { nsub: 4 },
        Code::Pq8 { nsub: 2 },
    ];
    let once = once.map(|code| params(16, 20, code));
    let twice = [Code::Flat, Code::Pq4 { nsub: 4 }].map(|code| twice(16, 20, code));
    for params in once.into_iter().chain(twice) {
        let (n, code) = (2000, params.code);
        let built = built(Elem::F32, Metric::L2Sq, params, n);
        (0..n as u64)
            .step_by(3)
            .for_each(|row| assert!(built.delete(row)));
        let mut seen = vec![0; n];
        for list in 0..20 {
            let mut from = Some(0);
            while let Some(skip) = from {
                let mut rows = [(0, 0); 7];
                let (found, next) = built.index.rows_in(list, skip, &mut rows).unwrap();
                assert!(next.is_none() || found == 7);
                for &(row, place) in &rows[..found] {
                    seen[row as usize] += 1;
                    assert!(built.lists_of(row).contains(&list));
                    let (mut codes, mut factors) = built.codes_of(row, list);
                    assert!(built.index.holds(place, row, &codes, &factors), "{code:?}");
                    assert!(!built.index.holds(place, row + 1, &codes, &factors));
                    if let Some(last) = codes.last_mut() {
                        *last ^= 1;
                        assert!(!built.index.holds(place, row, &codes, &factors));
                        *codes.last_mut().unwrap() ^= 1;
                        factors[2] ^= 1;
                        assert!(!built.index.holds(place, row, &codes, &factors));
                    }
                }
                from = next;
            }
        }
        // A row's lists are different, so it is in each of them.
        let times = |row: usize| {
            if row.is_multiple_of(3) {
                0
            } else {
                params.copies
            }
        };
        let right = |(row, seen): (usize, &u32)| *seen == times(row);
        assert!(seen.iter().enumerate().all(right));
        assert_eq!(built.index.rows_in(21, 0, &mut []), None);
        assert!(!built.index.holds(u32::MAX, 0, &[], &[0; 3]));
    }
}

#[test]
fn a_smaller_sample_is_enough_and_training_says_how_far_it_is() {
    for code in [Code::Signs, Code::Pq4 { nsub: 4 }, Code::Pq8 { nsub: 2 }] {
        let params = params(16, 20, code);
        let n = 3000;
        let space = space(Elem::F32, Metric::L2Sq, params, n);
        let sizes = TrainMemory::sizes_of(&params, n as u64, 500);
        assert_eq!(sizes.rows, 500);
        let mut centroids = vec![0; params.centroid_bytes()];
        let mut steps = 0;
        train(
            &params,
            &mut &space,
            n as u64,
            &mut TrainMemory {
                sample: &mut vec![0; sizes.sample],
                ids: &mut vec![0; sizes.rows],
                keys: &mut vec![0; sizes.rows],
                sums: &mut vec![0; sizes.sums],
                counts: &mut vec![0; sizes.counts],
            },
            &mut centroids,
            &mut vec![0; params.codebook_bytes()],
            &mut || {
                steps += 1;
                false
            },
        )
        .unwrap();
        assert_eq!(
            steps,
            vexfs_ann::ivf::train::steps(&params, 500),
            "{code:?}"
        );
        assert!(centroids.iter().any(|byte| *byte != 0));
    }
}

#[test]
fn the_same_rows_and_seed_give_the_same_index() {
    let build = |code, seed| {
        let params = Params {
            seed,
            ..params(24, 300, code)
        };
        built(Elem::F32, Metric::L2Sq, params, 1500).index.digest()
    };
    for code in [Code::Signs, Code::Pq4 { nsub: 6 }] {
        let digest = build(code, 3);
        assert_eq!(digest, build(code, 3));
        assert_ne!(digest, build(code, 4));
    }
    // Insertion one batch after the other is a build.
    let params = params(24, 300, Code::Signs);
    let space = space(Elem::F32, Metric::L2Sq, params, 1500);
    let built = Built::train(space, params.most_blocks(1500) as u32);
    built.insert(0..1500);
    assert_eq!(built.index.digest(), build(Code::Signs, 3));
}

#[test]
fn fewer_rows_than_lists_are_no_trouble() {
    let built = built(Elem::F32, Metric::L2Sq, params(16, 300, Code::Signs), 40);
    assert_eq!(built.check().live, 40);
    let recall = recall_of(&built, &queries(Elem::F32, 16, 20), &query(300, 40), 10);
    assert_eq!(recall, 1.0);
}

#[test]
fn searches_that_are_stopped_say_so() {
    struct Budget(u64);
    impl vexfs_ann::Visible for Budget {
        type Error = BadShape;
        fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
            Ok(Some(row))
        }
        fn stop(&mut self, distances: u64) -> bool {
            distances >= self.0
        }
    }
    for code in [Code::Flat, Code::Signs] {
        let built = built(Elem::F32, Metric::L2Sq, params(32, 64, code), 8000);
        let mut memory = Memory::new(&built.space.params, 100, built.space.n());
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
fn an_index_without_room_refuses_rows_and_stays_right() {
    let params = params(16, 4, Code::Signs);
    let built = Built::train(space(Elem::F32, Metric::L2Sq, params, 500), 6);
    let codes = vec![0; 4];
    let mut writer = built.index.writer();
    let mut added = 0;
    let error = loop {
        match writer.append::<()>(added % 4, added as u64, &codes, &[0; 3]) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Full);
    assert_eq!(
        writer.append::<()>(0, u64::MAX, &codes, &[0; 3]),
        Err(Error::Workspace)
    );
    assert_eq!(
        writer.append::<()>(5, 1, &codes, &[0; 3]),
        Err(Error::Workspace)
    );
    assert_eq!(
        writer.append::<()>(0, 1, &codes[1..], &[0; 3]),
        Err(Error::Workspace)
    );
    assert_eq!(writer.delete::<()>(&[0], u64::MAX), Ok(false));
    drop(writer);
    assert_eq!((built.check().fault, built.check().live), (None, added));
}

#[test]
fn scratch_memory_that_is_too_short_is_refused() {
    let built = built(Elem::F32, Metric::L2Sq, params(16, 300, Code::Signs), 500);
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
        let mut hits = [Hit::default(); 5];
        let (mut top, mut scorer) = (TopK::new(&mut hits), Scorer::new(&built, q));
        let found = built
            .index
            .search(&mut work, &mut scorer, &mut All, &query(2, 5), &mut top);
        found.map(|_| top.len())
    };
    assert_eq!(run(301, 301, 6, 32, 1), Ok(5));
    assert_eq!(run(300, 301, 6, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 300, 6, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 5, 32, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 6, 31, 1), Err(Error::Workspace));
    assert_eq!(run(301, 301, 6, 64, 1), Err(Error::Workspace));
    // Nothing is asked for.
    let mut memory = Memory::new(&built.space.params, 5, built.space.n());
    assert!(built
        .search(&mut memory, q, &mut All, &query(0, 0), 0)
        .0
        .is_empty());
    assert_eq!(
        built
            .search(&mut memory, q, &mut All, &query(0, 0), 5)
            .0
            .len(),
        5
    );
    assert_eq!(
        built
            .search(&mut memory, q, &mut All, &query(u32::MAX, 5), 5)
            .0
            .len(),
        5
    );
}

/// Opens the words of an index.
fn open(
    built: &Built,
    words: Arena,
) -> Result<Index<Arena>, Result<vexfs_ann::ivf::Report, BadParams>> {
    let used = built.index.counts().used;
    let mut memory = CheckMemory {
        blocks: &mut vec![0; used.div_ceil(64) as usize],
        rows: &mut vec![0; built.space.n().div_ceil(64)],
        again: &mut vec![0; 2 * built.space.n().div_ceil(64)],
    };
    let rows = built.space.n() as u64;
    Index::open(
        built.space.params,
        words,
        built.index.image(),
        rows,
        &mut memory,
    )
}

#[test]
fn an_image_opens_as_the_same_index() {
    for params in [
        params(32, 300, Code::Flat),
        params(32, 300, Code::Signs),
        twice(32, 300, Code::Signs),
    ] {
        let built = built(Elem::F32, Metric::L2Sq, params, 3000);
        (0..500).for_each(|row| assert!(built.delete(row * 3)));
        let opened = open(&built, built.index.store().copy()).ok().unwrap();
        assert_eq!(opened.digest(), built.index.digest());
        assert_eq!(opened.counts(), built.index.counts());
    }
}

#[test]
fn damage_is_found_or_does_no_harm() {
    let mut random = Random(17);
    let once = [Code::Flat, Code::Signs, Code::Pq8 { nsub: 4 }];
    let once = once.map(|code| params(16, 260, code));
    for params in once.into_iter().chain([twice(16, 260, Code::Flat)]) {
        let code = params.code;
        let mut built = built(Elem::F32, Metric::L2Sq, params, 600);
        (0..100).for_each(|row| assert!(built.delete(row * 5)));
        built.index.compact::<()>(3).unwrap();
        let q = &queries(Elem::F32, 16, 1)[0];
        let list_words = built.space.params.list_words();
        let words = built.index.store().words().len();
        let (mut refused, mut opened) = (0, 0);
        for _ in 0..600 {
            let arena = built.index.store().copy();
            for _ in 0..1 + random.below(2) {
                // Heads of lists as often as blocks, small numbers as often as any.
                let at = if random.below(2) == 0 {
                    random.below(list_words as u64)
                } else {
                    random.below(words as u64)
                } as usize;
                let value = match random.below(4) {
                    0 => random.word() as u32,
                    1 => u32::MAX >> random.below(3),
                    _ => random.below(100) as u32,
                };
                arena.words()[at].store(value, Ordering::Relaxed);
            }
            match open(&built, arena) {
                Err(report) => {
                    assert!(report.unwrap().fault.is_some());
                    refused += 1;
                }
                Ok(index) => {
                    // Codes and factors may be any: searches, changes and checks end without a panic.
                    opened += 1;
                    let mut memory = Memory::new(&built.space.params, 20, built.space.n());
                    let mut hits = [Hit::default(); 10];
                    let mut top = TopK::new(&mut hits);
                    let mut scorer = Scorer::new(&built, q);
                    let work = &mut memory.lend();
                    index
                        .search(work, &mut scorer, &mut All, &query(30, 20), &mut top)
                        .unwrap();
                    let codes = vec![1; index.layout().nsub as usize];
                    let mut writer = index.writer();
                    let _ = writer.append::<()>(random.below(260) as u32, 0, &codes, &[1; 3]);
                    let _ = writer.delete::<()>(&[0], 7);
                }
            }
        }
        assert!(
            refused > 100 && opened > 60,
            "{code:?}: {refused} refused, {opened} opened"
        );
    }
}

#[test]
fn a_damaged_index_in_use_ends_its_searches() {
    // Not opened, so not checked: what memory that breaks would do.
    let built = built(Elem::F32, Metric::L2Sq, params(16, 8, Code::Signs), 1000);
    let mut random = Random(19);
    let words = built.index.store().words();
    let q = &queries(Elem::F32, 16, 1)[0];
    let mut memory = Memory::new(&built.space.params, 20, built.space.n());
    for _ in 0..300 {
        let list = &words[random.below(8 * 4) as usize];
        let old = list.swap(random.below(50) as u32, Ordering::Relaxed);
        let mut hits = [Hit::default(); 10];
        let mut top = TopK::new(&mut hits);
        let mut scorer = Scorer::new(&built, q);
        let work = &mut memory.lend();
        let result = built
            .index
            .search(work, &mut scorer, &mut All, &query(8, 20), &mut top);
        assert!(matches!(result, Ok(_) | Err(Error::Damaged)), "{result:?}");
        list.store(old, Ordering::Relaxed);
    }
}

#[test]
fn a_check_names_the_list_and_the_fault() {
    let built = built(Elem::F32, Metric::L2Sq, params(16, 8, Code::Flat), 1000);
    let words = built.index.store().words();
    let set = |at: usize, value: u32| {
        let old = words[at].swap(value, Ordering::Relaxed);
        let fault = built.check().fault;
        words[at].store(old, Ordering::Relaxed);
        fault
    };
    let first = words[4].load(Ordering::Relaxed);
    assert_eq!(set(4, 100_000), Some((1, Fault::Chain)));
    assert_eq!(
        set(4, words[0].load(Ordering::Relaxed)),
        Some((1, Fault::Owner))
    );
    assert_eq!(set(5, 100_000), Some((1, Fault::Chain)));
    assert_eq!(set(7, first * 32), Some((1, Fault::Holes)));
    let block = built.index.store().lists().len() + first as usize * 48;
    assert_eq!(set(block + 1, 3), Some((1, Fault::Owner)));
    assert_eq!(set(block + 16, 1_000), Some((1, Fault::Row)));
    assert_eq!(
        set(block + 16, words[block + 17].load(Ordering::Relaxed)),
        Some((1, Fault::Twice))
    );
    assert_eq!(built.check().fault, None);
}

#[test]
fn searches_see_what_was_inserted_before_they_began() {
    let params = params(32, 300, Code::Signs);
    let n = 12_000u64;
    let built = Built::train(
        space(Elem::F32, Metric::L2Sq, params, n as usize),
        params.most_blocks(n) as u32,
    );
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
                    let mut memory = Memory::new(&params, 200, n as usize);
                    let query = query(300, 200);
                    let q = built.space.row(row as usize);
                    let (hits, _) = built.search(&mut memory, q, &mut All, &query, 3);
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
        let again = Built::train(
            space(Elem::F32, metric, twice(32, 64, code), n),
            two.space.params.most_blocks(n as u64) as u32,
        );
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
        let mut memory = Memory::new(&two.space.params, 2 * n, n);
        for q in &queries[..10] {
            for (k, of) in [(20, 1), (300, 1), (50, 40)] {
                let mut passing = Only(|row: u64| row.is_multiple_of(of));
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
                let kept = how.kept(k, &two.space.params);
                let mut memory = Memory::new(&two.space.params, kept, n);
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
    let built = built(Elem::F32, Metric::L2Sq, twice(16, 8, Code::Flat), 500);
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
