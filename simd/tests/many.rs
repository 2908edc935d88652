// SPDX-License-Identifier: Apache-2.0

//! Several queries at once get, bit for bit, what each gets alone.

mod common;

use common::*;
use vexfs_simd_host::*;

fn metrics(elem: Elem) -> impl Iterator<Item = Metric> {
    let hamming = (elem == Elem::Binary).then_some(Metric::Hamming);
    Metric::COMMON.into_iter().chain(hamming)
}

/// `nq` queries against `n` rows by stride and by list, and each query alone.
fn check(isa: Isa, elem: Elem, metric: Metric, dim: usize, nq: usize, n: usize) {
    let mut rng = Rng((dim * 100 + nq * 10 + n) as u64);
    let row = elem.row_bytes(dim);
    let stride = row + 5;
    let queries: Vec<u8> = (0..nq)
        .flat_map(|_| random_row(&mut rng, elem, dim))
        .collect();
    let mut rows = vec![0xff; n * stride];
    for place in rows.chunks_exact_mut(stride) {
        place[..row].copy_from_slice(&random_row(&mut rng, elem, dim));
    }
    if n > 2 {
        // A zero row, and one equal to a query.
        rows[..row].fill(0);
        rows[stride..stride + row].copy_from_slice(&queries[..row]);
    }
    let t = token();
    let mut want = vec![0; nq * n];
    for (query, want) in queries.chunks_exact(row).zip(want.chunks_exact_mut(n)) {
        score_rows(&t, isa, elem, metric, query, &rows, stride, dim, want).unwrap();
    }
    let name = format!("{isa:?} {elem:?} {metric:?} dim {dim} nq {nq} n {n}");
    let mut got = vec![0; nq * n];
    score_many_rows(
        &t, isa, elem, metric, &queries, &rows, stride, dim, &mut got,
    )
    .unwrap();
    assert_eq!(got, want, "{name}");
    got.fill(0);
    if n <= 64 {
        let list: Vec<&[u8]> = rows.chunks_exact(stride).collect();
        score_many_list(&t, isa, elem, metric, &queries, &list, dim, &mut got).unwrap();
        assert_eq!(got, want, "{name} listed");
    }
}

#[test]
fn queries_together_get_what_each_gets_alone() {
    for isa in available() {
        for elem in Elem::ALL {
            for metric in metrics(elem) {
                for dim in [1, 7, 31, 32, 63, 64, 65, 127, 384, 1025, 2100] {
                    if cfg!(miri) && dim > 65 {
                        continue;
                    }
                    for (nq, n) in [(1, 5), (2, 4), (3, 9), (5, 1)] {
                        check(isa, elem, metric, dim, nq, n);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_beyond_one_part_are_scored_to_their_end() {
    if cfg!(miri) {
        return;
    }
    for isa in available() {
        for (elem, dim, n) in [
            (Elem::F32, 384, 61),
            (Elem::I8, 100, 700),
            (Elem::Binary, 65, 3001),
        ] {
            check(isa, elem, Metric::L2Sq, dim, 3, n);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let t = token();
    let (isa, elem, metric) = (Isa::best(), Elem::F32, Metric::L2Sq);
    let rows = [0u8; 40];
    let by_stride = |queries: &[u8], stride: usize, results: usize| {
        let mut out = vec![7; results];
        let result = score_many_rows(&t, isa, elem, metric, queries, &rows, stride, 4, &mut out);
        assert!(result.is_ok() || out.iter().all(|&key| key == 7));
        result
    };
    assert_eq!(by_stride(&[0; 32], 12, 6), Ok(()));
    assert_eq!(by_stride(&[0; 32], 13, 6), Err(BadShape), "rows end early");
    assert_eq!(
        by_stride(&[0; 32], 12, 5),
        Err(BadShape),
        "half a row of results"
    );
    assert_eq!(by_stride(&[0; 31], 12, 6), Err(BadShape), "part of a query");
    assert_eq!(by_stride(&[], 12, 6), Err(BadShape), "no query");
    assert_eq!(by_stride(&[0; 32], 12, 0), Ok(()), "no row");
    let by_list = |list: &[&[u8]], results: usize| {
        let mut out = vec![7; results];
        score_many_list(&t, isa, elem, metric, &[0; 32], list, 4, &mut out)
    };
    assert_eq!(by_list(&[&rows, &rows[24..]], 4), Ok(()));
    assert_eq!(by_list(&[&rows, &rows[25..]], 4), Err(BadShape));
    assert_eq!(by_list(&[&rows, &rows], 6), Err(BadShape));
    assert_eq!(by_list(&[&rows[..]; 65], 130), Err(BadShape));
}

#[test]
fn short_rows_without_gaps_are_as_far_as_rows_with_gaps() {
    let t = token();
    let mut rng = Rng(77);
    for isa in available() {
        for (elem, dim) in [
            (Elem::Binary, 128),
            (Elem::Binary, 256),
            (Elem::Binary, 250),
            (Elem::Binary, 64),
            (Elem::Binary, 384),
            (Elem::Binary, 768),
            (Elem::I8, 16),
            (Elem::I8, 128),
            (Elem::U8, 128),
            // Here sums of products reach 2^24.
            (Elem::U8, 258),
            (Elem::U8, 259),
            (Elem::F32, 8),
        ] {
            for metric in metrics(elem) {
                let row = elem.row_bytes(dim);
                // Integers give the same bits everywhere.
                let judge = if elem == Elem::F32 { isa } else { Isa::Scalar };
                for n in [
                    1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 128, 300,
                ] {
                    let mut rows: Vec<Vec<u8>> =
                        (0..n).map(|_| random_row(&mut rng, elem, dim)).collect();
                    let query = random_row(&mut rng, elem, dim);
                    // Distances that an estimate does not settle.
                    if n > 20 {
                        rows[n / 3].fill(0);
                        rows[n / 2] = query.clone();
                    }
                    let list: Vec<&[u8]> = rows.iter().map(|row| &row[..]).collect();
                    let mut want = vec![0; n];
                    score_list(&t, judge, elem, metric, &query, &list, dim, &mut want).unwrap();
                    let mut got = vec![7; n + 1];
                    let packed = rows.concat();
                    let out = &mut got[..n];
                    score_rows(&t, isa, elem, metric, &query, &packed, row, dim, out).unwrap();
                    assert_eq!(out, want, "{isa:?} {elem:?} {metric:?} dim {dim} n {n}");
                    assert_eq!(got[n], 7, "written beyond the end");
                }
            }
        }
    }
}
