// SPDX-License-Identifier: Apache-2.0

//! Distances: every instruction set against the f64 oracle and against portable code, for every
//! element type and metric, around every vector width and at every alignment.

mod common;

use common::*;
use proptest::prelude::*;
use vexfs_simd_host::*;

fn metrics(elem: Elem) -> Vec<Metric> {
    let mut metrics = Metric::COMMON.to_vec();
    if elem == Elem::Binary {
        metrics.push(Metric::Hamming);
    }
    metrics
}

/// Scores `rows` placed `shift` bytes past an alignment of 64, by stride, by offsets in reverse
/// order and by addresses; all ways must agree. Guard bytes that would spoil a float surround everything.
fn score(
    isa: Isa,
    elem: Elem,
    metric: Metric,
    query: &[u8],
    rows: &[Vec<u8>],
    dim: usize,
    shift: usize,
) -> Vec<u32> {
    let gap = 3;
    let stride = elem.row_bytes(dim) + gap;
    let mut memory = vec![0xff_u8; rows.len() * stride + 256];
    let start = memory.as_ptr().align_offset(64) + shift;
    for (i, row) in rows.iter().enumerate() {
        memory[start + i * stride..][..row.len()].copy_from_slice(row);
    }
    let mut query_memory = vec![0xff_u8; query.len() + 256];
    let query_start = query_memory.as_ptr().align_offset(64) + shift * 7 % 64;
    query_memory[query_start..][..query.len()].copy_from_slice(query);
    let query = &query_memory[query_start..][..query.len()];
    let bytes = &memory[start..start + rows.len() * stride - gap];

    let mut by_stride = vec![0; rows.len()];
    score_rows(
        &token(),
        isa,
        elem,
        metric,
        query,
        bytes,
        stride,
        dim,
        &mut by_stride,
    )
    .unwrap();
    let offsets: Vec<u64> = (0..rows.len() as u64)
        .rev()
        .map(|i| i * stride as u64)
        .collect();
    let mut by_offset = vec![0; rows.len()];
    score_gather(
        &token(),
        isa,
        elem,
        metric,
        query,
        bytes,
        &offsets,
        dim,
        &mut by_offset,
    )
    .unwrap();
    by_offset.reverse();
    let row = elem.row_bytes(dim);
    let list: Vec<&[u8]> = (0..rows.len())
        .map(|i| &bytes[i * stride..][..row])
        .collect();
    let mut by_list = vec![0; rows.len()];
    score_list(&token(), isa, elem, metric, query, &list, dim, &mut by_list).unwrap();
    assert_eq!(by_stride, by_list, "{isa:?} {elem:?} {metric:?} dim {dim}");
    assert_eq!(
        by_stride, by_offset,
        "{isa:?} {elem:?} {metric:?} dim {dim}"
    );
    by_stride
}

/// Checks `n` random rows of one dimension on one instruction set against the oracle.
fn check(isa: Isa, elem: Elem, metric: Metric, dim: usize, n: usize, shift: usize, seed: u64) {
    let mut rng = Rng(seed);
    let query = random_row(&mut rng, elem, dim);
    let mut rows: Vec<Vec<u8>> = (0..n).map(|_| random_row(&mut rng, elem, dim)).collect();
    if n > 2 {
        rows[0] = query.clone();
        rows[1].fill(0);
    }
    let got = score(isa, elem, metric, &query, &rows, dim, shift);
    let q = values(elem, &query, dim);
    for (row, key) in rows.iter().zip(&got) {
        let r = values(elem, row, dim);
        let (exact, terms) = oracle(metric, &q, &r);
        let error = (distance(*key) - exact).abs();
        let allowed = tolerance(isa, elem, exact, terms, &q, &r);
        assert!(
            error <= allowed,
            "{isa:?} {elem:?} {metric:?} dim {dim} shift {shift} seed {seed}: \
             {} is {error:e} from {exact}, {allowed:e} is allowed",
            distance(*key),
        );
    }
    if !FLOATS.contains(&elem) {
        let want = score(Isa::Scalar, elem, metric, &query, &rows, dim, 0);
        assert_eq!(
            got, want,
            "{isa:?} {elem:?} {metric:?} dim {dim}: not bit-exact"
        );
    }
}

#[test]
fn every_isa_agrees_with_the_oracle_in_every_dimension() {
    for isa in available() {
        for elem in Elem::ALL {
            for metric in metrics(elem) {
                for dim in dims() {
                    if cfg!(miri) && !matches!(dim, 1 | 7 | 16 | 33 | 47 | 65) {
                        continue;
                    }
                    check(
                        isa,
                        elem,
                        metric,
                        dim,
                        if cfg!(miri) { 5 } else { 7 },
                        dim % 64,
                        dim as u64,
                    );
                }
            }
        }
    }
}

#[test]
fn every_byte_offset_gives_the_same_distances() {
    let dims: &[usize] = if cfg!(miri) {
        &[21]
    } else {
        &[1, 6, 77, 257, 384]
    };
    for isa in available() {
        for elem in Elem::ALL {
            for metric in metrics(elem) {
                for &dim in dims {
                    let mut rng = Rng(7);
                    let query = random_row(&mut rng, elem, dim);
                    let rows: Vec<_> = (0..6).map(|_| random_row(&mut rng, elem, dim)).collect();
                    let want = score(isa, elem, metric, &query, &rows, dim, 0);
                    for shift in 1..if cfg!(miri) { 3 } else { 64 } {
                        let got = score(isa, elem, metric, &query, &rows, dim, shift);
                        assert_eq!(got, want, "{isa:?} {elem:?} {metric:?} shift {shift}");
                    }
                }
            }
        }
    }
}

#[test]
fn any_number_of_rows_gives_each_row_its_distance() {
    let mut rng = Rng(3);
    for isa in available() {
        for elem in Elem::ALL {
            let dim = if cfg!(miri) { 9 } else { 40 };
            let query = random_row(&mut rng, elem, dim);
            let rows: Vec<_> = (0..if cfg!(miri) { 6 } else { 11 })
                .map(|_| random_row(&mut rng, elem, dim))
                .collect();
            for metric in metrics(elem) {
                let all = score(isa, elem, metric, &query, &rows, dim, 1);
                for n in 1..rows.len() {
                    let some = score(isa, elem, metric, &query, &rows[..n], dim, 1);
                    assert_eq!(some, all[..n], "{isa:?} {elem:?} {metric:?} {n} rows");
                }
            }
        }
    }
}

#[test]
fn byte_sums_do_not_overflow_at_the_largest_dimension() {
    let dim = if cfg!(miri) { 130 } else { MAX_DIM };
    for isa in available() {
        for (elem, low, high) in [(Elem::I8, 0x80_u8, 0x7f_u8), (Elem::U8, 0, 255)] {
            for metric in Metric::COMMON {
                let rows = vec![vec![high; dim], vec![low; dim]];
                for query in [vec![low; dim], vec![high; dim]] {
                    let q = values(elem, &query, dim);
                    for (row, key) in rows
                        .iter()
                        .zip(score(isa, elem, metric, &query, &rows, dim, 0))
                    {
                        let (exact, _) = oracle(metric, &q, &values(elem, row, dim));
                        assert_eq!(
                            distance(key),
                            exact as f32 as f64,
                            "{isa:?} {elem:?} {metric:?}"
                        );
                    }
                }
            }
        }
    }
}

fn f32_row(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn ends_of_the_float_range_are_handled() {
    let dim = 21;
    for isa in available() {
        for scale in [1e-44, 1e-30, 1e-20, 1.0, 1e18, 1e25, 3e38] {
            let mut rng = Rng(11);
            let mut random =
                || -> Vec<f32> { (0..dim).map(|_| (rng.unit() * scale) as f32).collect() };
            let (query, row) = (random(), random());
            let wide = |v: &[f32]| v.iter().map(|&x| x as f64).collect::<Vec<_>>();
            for metric in Metric::COMMON {
                let key = score(
                    isa,
                    Elem::F32,
                    metric,
                    &f32_row(&query),
                    &[f32_row(&row)],
                    dim,
                    0,
                );
                let (q, r) = (wide(&query), wide(&row));
                let (exact, terms) = oracle(metric, &q, &r);
                let got = distance(key[0]);
                if (exact as f32).is_infinite() {
                    assert_eq!(got, (exact as f32) as f64, "{isa:?} {metric:?} {scale:e}");
                } else {
                    let allowed = tolerance(isa, Elem::F32, exact, terms, &q, &r);
                    assert!(
                        (got - exact).abs() <= allowed,
                        "{isa:?} {metric:?} {scale:e}: {got}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_distance_is_negative_zero_and_cosine_of_a_zero_vector_is_one() {
    for isa in available() {
        for (query, row) in [
            ([0.0; 9], [1.0; 9]),
            ([-1.0; 9], [0.0; 9]),
            ([-0.0; 9], [0.0; 9]),
        ] {
            let (query, row) = (f32_row(&query), f32_row(&row));
            let key = |metric| {
                score(
                    isa,
                    Elem::F32,
                    metric,
                    &query,
                    std::slice::from_ref(&row),
                    9,
                    0,
                )[0]
            };
            assert_eq!(
                Distance(key(Metric::InnerProduct)).to_f32_bits(),
                0,
                "{isa:?}"
            );
            assert_eq!(
                Distance(key(Metric::Cosine)).to_f32_bits(),
                1f32.to_bits(),
                "{isa:?}"
            );
        }
    }
}

/// Estimates must be recognised as too coarse wherever they are.
#[test]
fn every_cosine_there_is_of_128_bits_is_that_of_portable_code() {
    let (dim, ones) = (128, |n: usize| {
        u128::MAX.checked_shr(128 - n as u32).unwrap_or(0)
    });
    for qq in (1..=dim).step_by(if cfg!(miri) { 64 } else { 1 }) {
        let query = ones(qq).to_le_bytes();
        // Rows of rr bits, of which qr are the query's.
        let rows: Vec<u8> = (0..=dim)
            .flat_map(|rr| {
                let common = (qq + rr).saturating_sub(dim)..=qq.min(rr);
                common.flat_map(move |qr| (ones(qr) | ones(rr - qr) << (qq % 128)).to_le_bytes())
            })
            .collect();
        let keys = |isa| {
            let mut out = vec![0; rows.len() / 16];
            let (elem, metric) = (Elem::Binary, Metric::Cosine);
            score_rows(
                &token(),
                isa,
                elem,
                metric,
                &query,
                &rows,
                16,
                dim,
                &mut out,
            )
            .unwrap();
            out
        };
        let expected = keys(Isa::Scalar);
        for isa in available() {
            assert_eq!(keys(isa), expected, "{isa:?}, {qq} bits in the query");
        }
    }
}

#[test]
fn a_row_that_is_not_finite_does_not_disturb_its_neighbours() {
    let dim = 50;
    let mut rng = Rng(5);
    let query = random_row(&mut rng, Elem::F32, dim);
    let mut rows: Vec<_> = (0..4)
        .map(|_| random_row(&mut rng, Elem::F32, dim))
        .collect();
    for isa in available() {
        for metric in Metric::COMMON {
            let want = score(isa, Elem::F32, metric, &query, &rows, dim, 0);
            let good = rows[2].clone();
            rows[2][..4].copy_from_slice(&f32::NAN.to_le_bytes());
            let got = score(isa, Elem::F32, metric, &query, &rows, dim, 0);
            assert_eq!(Distance(got[2]), Distance::NAN, "{isa:?} {metric:?}");
            assert_eq!((got[0], got[1], got[3]), (want[0], want[1], want[3]));
            rows[2] = good;
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let t = token();
    let mut out = [7u32; 3];
    let (query, rows) = ([0u8; 16], [0u8; 40]);
    let mut strided = |query: &[u8], rows: &[u8], stride, dim, metric| {
        score_rows(
            &t,
            Isa::best(),
            Elem::F32,
            metric,
            query,
            rows,
            stride,
            dim,
            &mut out,
        )
    };
    assert_eq!(strided(&query, &rows, 12, 4, Metric::L2Sq), Ok(()));
    assert_eq!(strided(&query, &rows, 13, 4, Metric::L2Sq), Err(BadShape));
    assert_eq!(
        strided(&query, &rows[..39], 12, 4, Metric::L2Sq),
        Err(BadShape)
    );
    assert_eq!(
        strided(&query, &rows, usize::MAX, 4, Metric::L2Sq),
        Err(BadShape)
    );
    assert_eq!(
        strided(&query, &rows, usize::MAX / 2 - 3, 4, Metric::L2Sq),
        Err(BadShape)
    );
    assert_eq!(
        strided(&query[..15], &rows, 0, 4, Metric::L2Sq),
        Err(BadShape)
    );
    assert_eq!(strided(&query, &rows, 0, 3, Metric::L2Sq), Err(BadShape));
    assert_eq!(strided(&query, &rows, 0, 4, Metric::Hamming), Err(BadShape));
    assert_eq!(strided(&[], &rows, 0, 0, Metric::L2Sq), Err(BadShape));
    let long = vec![0; 4 * (MAX_DIM + 1)];
    assert_eq!(
        strided(&long, &long, 0, MAX_DIM + 1, Metric::L2Sq),
        Err(BadShape)
    );

    let mut gathered = |rows: &[u8], offsets: &[u64]| {
        let l2sq = Metric::L2Sq;
        score_gather(
            &t,
            Isa::best(),
            Elem::F32,
            l2sq,
            &query,
            rows,
            offsets,
            4,
            &mut out,
        )
    };
    assert_eq!(gathered(&rows, &[24, 0, 1]), Ok(()));
    assert_eq!(gathered(&rows, &[25, 0, 1]), Err(BadShape));
    assert_eq!(gathered(&rows, &[0, u64::MAX, 1]), Err(BadShape));
    assert_eq!(gathered(&rows, &[0, 0]), Err(BadShape));
    assert_eq!(gathered(&rows[..15], &[0, 0, 0]), Err(BadShape));
}

#[test]
fn long_lists_are_scored_to_their_end_and_short_rows_refused() {
    let dim = 5;
    let mut rng = Rng(17);
    let query = random_row(&mut rng, Elem::F32, dim);
    // More than the door hands over at once.
    let rows: Vec<_> = (0..150)
        .map(|_| random_row(&mut rng, Elem::F32, dim))
        .collect();
    for isa in available() {
        let keys = score(isa, Elem::F32, Metric::L2Sq, &query, &rows, dim, 0);
        for (row, key) in rows.iter().zip(keys) {
            let alone = std::slice::from_ref(row);
            let want = score(isa, Elem::F32, Metric::L2Sq, &query, alone, dim, 0);
            assert_eq!(want, [key], "{isa:?}");
        }
    }
    let t = token();
    let mut list: Vec<&[u8]> = rows.iter().map(|row| &row[..]).collect();
    let refused = |list: &[&[u8]], results: usize| {
        let (elem, metric) = (Elem::F32, Metric::L2Sq);
        let mut out = vec![7; results];
        let refused = score_list(&t, Isa::best(), elem, metric, &query, list, dim, &mut out);
        assert!(out.iter().all(|&key| key == 7), "nothing is computed");
        refused
    };
    assert_eq!(refused(&list, 149), Err(BadShape));
    list[149] = &rows[149][..19];
    assert_eq!(refused(&list, 150), Err(BadShape));
}

#[test]
fn keys_order_like_the_floats_they_came_from() {
    let mut rng = Rng(1);
    let mut floats = vec![
        f32::NEG_INFINITY,
        f32::MIN,
        -1.0,
        -1e-45,
        0.0,
        1e-45,
        1.0,
        f32::MAX,
    ];
    floats.push(f32::INFINITY);
    while floats.len() < 1000 {
        let v = f32::from_bits(rng.next() as u32);
        if !v.is_nan() {
            floats.push(v + 0.0);
        }
    }
    for pair in floats.windows(2) {
        let key = |v: f32| Distance::from_f32_bits(v.to_bits());
        assert_eq!(
            key(pair[0]).cmp(&key(pair[1])),
            pair[0].partial_cmp(&pair[1]).unwrap()
        );
        assert_eq!(key(pair[0]).to_f32_bits(), pair[0].to_bits());
        assert!(key(pair[0]) < Distance::NAN);
    }
}

#[test]
#[cfg_attr(
    miri,
    ignore = "hours of interpretation; the tests above cover the same code"
)]
fn every_available_isa_passes_its_self_test() {
    for isa in available() {
        let steps = self_test_all(isa).unwrap_or_else(|step| panic!("{isa:?}: step {step}"));
        assert!(steps > 2000, "{isa:?}: {steps} steps only");
    }
}

#[test]
fn an_unavailable_isa_fails_its_self_test_and_computes_in_portable_code() {
    let row = f32_row(&[1.0, 2.0, 3.0]);
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        assert_eq!(self_test_all(isa), Err(0));
        let key = score(
            isa,
            Elem::F32,
            Metric::InnerProduct,
            &row,
            std::slice::from_ref(&row),
            3,
            0,
        );
        assert_eq!(distance(key[0]), -14.0);
    }
}

/// Who runs the tests on a processor chosen for an instruction set learns here if it has another.
#[test]
fn the_best_isa_is_the_one_expected() {
    if let Ok(name) = std::env::var("VEXFS_EXPECT_ISA") {
        assert_eq!(Isa::best().name(), name);
    }
}

#[test]
fn names_lead_back_to_their_isa() {
    for isa in Isa::ALL {
        assert_eq!(Isa::from_name(isa.name().as_bytes()), Some(isa));
        assert_eq!(Isa::from_u32(isa as u32), Some(isa));
    }
    assert_eq!(Isa::from_name(b"sse"), None);
    assert_eq!(Isa::from_u32(7), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_shape_agrees_with_the_oracle(
        elem in prop::sample::select(&Elem::ALL[..]),
        metric in prop::sample::select(&Metric::COMMON[..]),
        dim in 1usize..if cfg!(miri) { 80 } else { 600 },
        n in 1usize..if cfg!(miri) { 6 } else { 12 },
        shift in 0usize..64,
        seed: u64,
    ) {
        for isa in available() {
            check(isa, elem, metric, dim, n, shift, seed);
        }
    }
}
