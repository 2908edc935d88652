// SPDX-License-Identifier: Apache-2.0

//! The documented error bounds against data made to break them: equal terms, whose roundings all go the
//! same way, terms that a larger sum swallows, cancellation, and both ends of each type's range.

mod common;

use common::*;
use vexfs_simd_host::*;

/// Element `i` of a row of a dimension.
type Series = fn(usize, usize, &mut Rng) -> f64;

/// Rows made against sums of floats, with magnitudes that every type has.
const SERIES: [Series; 8] = [
    |_, _, _| 1.0,
    |i, dim, _| (1 + i) as f64 / dim as f64,
    |i, dim, _| (dim - i) as f64 / dim as f64,
    |i, dim, _| power_of_two(-((i * 14 / dim) as i32)),
    // A few terms at the beginning make a sum that loses half a unit at each further one.
    |i, _, _| match i {
        0..64 => 1.0,
        _ => power_of_two(-12) * 0.99,
    },
    |i, dim, _| power_of_two(if i == dim / 2 { 0 } else { -13 }),
    |_, _, rng| rng.unit().abs(),
    |_, _, rng| 1.0 + (rng.next() % 8) as f64 * power_of_two(-7),
];

/// `v` rounded to an element of type `elem`.
fn encode(elem: Elem, v: f64) -> Vec<u8> {
    let bytes = (v as f32).to_le_bytes();
    if elem == Elem::F32 {
        return bytes.to_vec();
    }
    let mut out = vec![0; 2];
    convert(&token(), Isa::Scalar, Elem::F32, elem, &bytes, &mut out).unwrap();
    out
}

/// A row by its elements.
fn row(elem: Elem, dim: usize, mut value: impl FnMut(usize) -> f64) -> Vec<u8> {
    (0..dim).flat_map(|i| encode(elem, value(i))).collect()
}

/// Checks one pair on every instruction set and metric.
fn check(elem: Elem, query: &[u8], row: &[u8], dim: usize, what: &str) {
    let (q, r) = (values(elem, query, dim), values(elem, row, dim));
    for metric in Metric::COMMON {
        let (exact, terms) = oracle(metric, &q, &r);
        for isa in available() {
            // A tile and a row alone take different paths.
            let (mut tile, mut alone) = ([0; 2], [0; 1]);
            score_rows(&token(), isa, elem, metric, query, row, 0, dim, &mut tile).unwrap();
            score_rows(&token(), isa, elem, metric, query, row, 0, dim, &mut alone).unwrap();
            let at = format!("{isa:?} {elem:?} {metric:?} dim {dim} {what}");
            assert_eq!(tile, [alone[0]; 2], "{at}");
            let got = distance(alone[0]);
            let allowed = worst_case(isa, elem, exact, terms, &q, &r);
            // Near the end of the range either side of it is right.
            let overflows = exact.abs() + allowed > f32::MAX as f64;
            let infinite = got == f64::INFINITY.copysign(exact);
            assert!(
                (got - exact).abs() <= allowed || overflows && infinite,
                "{at}: {got} is {:e} from {exact}, {allowed:e} is allowed",
                (got - exact).abs()
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "about rounding only, and long")]
fn no_data_exceeds_the_worst_case() {
    for elem in FLOATS {
        for (number, series) in SERIES.into_iter().enumerate() {
            for dim in [70, 130, 257, 1536, 2048, 4096, 65536] {
                // Mantissas near to and far from powers of two. One of so many terms is negative.
                for (scale, cancel) in [
                    (1.0, usize::MAX),
                    (1.0 / 3.0, usize::MAX),
                    (0.1, usize::MAX),
                    (1.9, usize::MAX),
                    (1.1, 2),
                    (0.7, 3),
                ] {
                    let mut rng = Rng(dim as u64);
                    let query = row(elem, dim, |i| series(i, dim, &mut rng) * scale);
                    let other = row(elem, dim, |i| {
                        let sign = if i % cancel == 1 { -1.0 } else { 1.0 };
                        series(i, dim, &mut rng) * scale * sign
                    });
                    let what = format!("series {number} x {scale} with every {cancel}th negative");
                    check(elem, &query, &other, dim, &what);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "about rounding only, and long")]
fn both_ends_of_the_range_are_within_the_bounds() {
    for elem in FLOATS {
        let scales: &[f64] = match elem {
            Elem::F16 => &[6e-8, 1e-5, 1.0, 65504.0],
            _ => &[
                2e-45, 1e-41, 1e-38, 1e-30, 1e-19, 1e-13, 1.0, 1e15, 1e18, 2e19, 1e30, 3.3e38,
            ],
        };
        for dim in [1, 35, 300, 4096] {
            for &of_query in scales {
                for &of_row in scales {
                    let mut rng = Rng(dim as u64);
                    let query = row(elem, dim, |_| rng.unit() * of_query);
                    let other = row(elem, dim, |_| rng.unit() * of_row);
                    let what = format!("scales {of_query:e} and {of_row:e}");
                    check(elem, &query, &other, dim, &what);
                }
            }
        }
    }
}
