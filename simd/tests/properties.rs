// SPDX-License-Identifier: Apache-2.0

//! Properties of what is not a distance, against f64, for elements from anywhere in the range of f32:
//! zeros, subnormal and huge numbers among them. That all instruction sets give the same bits is
//! `tests/doors.rs`'s to show.

mod common;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vexfs_simd_host::*;

/// One unit in the last place of an f32 of magnitude `v`, or of the smallest.
fn ulp(v: f64) -> f64 {
    (v.abs() * power_of_two(-23)).max(power_of_two(-149))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |w: &[u8]| f32::from_le_bytes(w.try_into().unwrap());
    bytes.chunks_exact(4).map(word).collect()
}

/// Any finite f32, those of daily life more often.
fn any_finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1000.0f32..1000.0,
        2 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
        1 => prop::sample::select(vec![
            0.0, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, -1e-45, f32::MAX, f32::MIN, 1.0,
        ]),
    ]
}

/// Vectors of such numbers, or of one of them and its negative.
fn any_vector(most: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        2 => prop::collection::vec(any_finite(), 1..=most),
        1 => (any_finite(), prop::collection::vec(any::<bool>(), 1..=most))
            .prop_map(|(v, signs)| signs.iter().map(|&s| if s { v } else { -v }).collect()),
        1 => prop::collection::vec(-1.0f32..1.0, 1..=most),
    ]
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

const MOST: usize = if cfg!(miri) { 12 } else { 700 };

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 300 },
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(101),
        ..ProptestConfig::default()
    })]

    #[test]
    fn narrowed_numbers_are_the_nearest(v in any_vector(MOST)) {
        for isa in available() {
            for (elem, greatest, smallest, digits) in [
                (Elem::F16, 65504.0, power_of_two(-24), 10),
                (Elem::Bf16, f32::from_bits(0x7f7f_0000) as f64, power_of_two(-133), 7),
            ] {
                let mut narrow = vec![0; 2 * v.len()];
                convert(&token(), isa, Elem::F32, elem, &bytes(&v), &mut narrow).unwrap();
                for (&x, got) in v.iter().zip(values(elem, &narrow, v.len())) {
                    let x = x as f64;
                    // Half a unit: of the binade of x, or of the subnormal numbers.
                    let half = (power_of_two(x.abs().log2().floor().max(-200.0) as i32 - digits) / 2.0)
                        .max(smallest / 2.0);
                    if got.is_infinite() {
                        prop_assert!(x.abs() >= greatest + half && got.signum() == x.signum());
                    } else {
                        prop_assert!((got - x).abs() <= half, "{:?} {:?} {} is {}", isa, elem, x, got);
                    }
                }
            }
        }
    }

    #[test]
    fn codes_are_nearest_and_saturate_for_any_range(
        v in any_vector(MOST),
        ranges in prop::collection::vec((any_finite(), any_finite()), MOST),
        per_dim: bool,
    ) {
        let n = if per_dim { v.len() } else { 1 };
        let offsets: Vec<f32> = ranges[..n].iter().map(|r| r.0).collect();
        let scales: Vec<f32> = ranges[..n].iter().map(|r| r.1.abs()).collect();
        let (offset, scale) = (bytes(&offsets), bytes(&scales));
        let by = Quantiser { offset: &offset, scale: &scale };
        for isa in available() {
            let (mut codes, mut back) = (vec![0; v.len()], vec![0; 4 * v.len()]);
            quantise_i8(&token(), isa, by, &bytes(&v), &mut codes).unwrap();
            dequantise_i8(&token(), isa, by, &codes, &mut back).unwrap();
            for (i, (&code, back)) in codes.iter().zip(floats(&back)).enumerate() {
                let (x, code) = (v[i] as f64, code as i8 as f64);
                let (offset, scale) = (offsets[i % n] as f64, scales[i % n] as f64);
                let exact = (x - offset) / scale;
                // A difference and a quotient, each rounded once.
                let blur = 0.5 + exact.abs().min(200.0) * power_of_two(-22);
                if exact.is_nan() {
                    prop_assert_eq!(code, 0.0);
                } else if ((x - offset) as f32).is_infinite() {
                    prop_assert_eq!(code, if x > offset { 127.0 } else { -128.0 });
                } else {
                    let error = code - exact.clamp(-128.0, 127.0);
                    prop_assert!(error.abs() <= blur, "{:?} {} of {} {} is {}", isa, x, offset, scale, code);
                }
                let value = code * scale + offset;
                if value.abs() < f32::MAX as f64 && (code * scale).abs() < f32::MAX as f64 {
                    let allowed = ulp(code * scale) + ulp(value);
                    prop_assert!((back as f64 - value).abs() <= allowed, "{:?} {} {}", isa, back, value);
                }
            }
        }
    }

    #[test]
    fn a_range_fitted_to_the_data_loses_half_a_step(rows in prop::collection::vec(
        prop::collection::vec(-1e3f32..1e3, 33), 2..8), per_dim: bool) {
        // The way a range is found: least and greatest of each dimension, or of all.
        let dims = if per_dim { 33 } else { 1 };
        let (mut low, mut high) = (vec![f32::MAX; dims], vec![f32::MIN; dims]);
        for row in &rows {
            for (i, &x) in row.iter().enumerate() {
                low[i % dims] = low[i % dims].min(x);
                high[i % dims] = high[i % dims].max(x);
            }
        }
        let scales: Vec<f32> = low.iter().zip(&high).map(|(l, h)| (h - l) / 255.0).collect();
        let offsets: Vec<f32> = low.iter().zip(&scales).map(|(l, s)| l + 128.0 * s).collect();
        let (offset, scale) = (bytes(&offsets), bytes(&scales));
        let by = Quantiser { offset: &offset, scale: &scale };
        for isa in available() {
            for row in &rows {
                let (mut codes, mut back) = ([0; 33], [0; 4 * 33]);
                quantise_i8(&token(), isa, by, &bytes(row), &mut codes).unwrap();
                dequantise_i8(&token(), isa, by, &codes, &mut back).unwrap();
                for (i, (x, back)) in row.iter().zip(floats(&back)).enumerate() {
                    let allowed = 0.5 * scales[i % dims] + 1e3 * 4.0 * f32::EPSILON;
                    prop_assert!((x - back).abs() <= allowed, "{:?} {} is {}", isa, x, back);
                }
            }
        }
    }

    #[test]
    fn normalised_vectors_point_the_same_way(v in any_vector(MOST)) {
        let norm = sum(v.iter().map(|&x| x as f64 * x as f64)).sqrt();
        for isa in available() {
            let mut unit = bytes(&v);
            prop_assert_eq!(normalise_f32(&token(), isa, &mut unit), norm > 0.0);
            for (&x, got) in v.iter().zip(floats(&unit)) {
                let want = if norm > 0.0 { x as f64 / norm } else { x as f64 };
                prop_assert!((got as f64 - want).abs() <= ulp(want) * 0.51, "{:?} {} of {}", isa, x, norm);
            }
        }
    }

    #[test]
    fn centroids_are_the_means_of_their_rows(
        rows in prop::collection::vec(prop::collection::vec(any_finite(), 21), 1..30),
        seed: u64,
    ) {
        let (dim, k) = (21, 3);
        let mut rng = Rng(seed);
        let ids: Vec<u32> = rows.iter().map(|_| (rng.next() % k as u64) as u32).collect();
        let all: Vec<u8> = rows.iter().flat_map(|row| bytes(row)).collect();
        for isa in available() {
            let (mut sums, mut counts) = (vec![0; k * dim], vec![0; k]);
            accumulate_f32(&token(), isa, &all, 4 * dim, dim, &ids, &mut sums, &mut counts).unwrap();
            let mut out = bytes(&vec![7.0; k * dim]);
            let empty = centroids_f32(&token(), isa, dim, &sums, &counts, &mut out).unwrap();
            prop_assert_eq!(empty, counts.iter().filter(|&&c| c == 0).count());
            let out = floats(&out);
            for c in 0..k {
                let members = || rows.iter().zip(&ids).filter(|(_, &id)| id == c as u32);
                prop_assert_eq!(counts[c], members().count() as u64);
                for d in 0..dim {
                    let n = members().count().max(1) as f64;
                    let mean = sum(members().map(|(row, _)| row[d] as f64)) / n;
                    let terms = sum(members().map(|(row, _)| row[d].abs() as f64)) / n;
                    let want = if counts[c] == 0 { 7.0 } else { mean };
                    let allowed = ulp(want) * 0.51 + terms * n * power_of_two(-52);
                    let got = out[c * dim + d] as f64;
                    prop_assert!((got - want).abs() <= allowed, "{:?} {} is {}", isa, want, got);
                }
            }
        }
    }

    #[test]
    fn rotation_keeps_the_distance_of_any_two_vectors(
        v in any_vector(MOST),
        seed: u64,
        log_scale in -60i32..60,
    ) {
        // Scaled so that neither sums overflow nor all is subnormal.
        let largest = v.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
        let scale = if largest > 0.0 { power_of_two(log_scale) / largest } else { 1.0 };
        let a: Vec<f32> = v.iter().map(|&x| (x as f64 * scale) as f32).collect();
        let b: Vec<f32> = a.iter().rev().copied().collect();
        let distance = |a: &[f32], b: &[f32]| {
            sum(a.iter().zip(b).map(|(x, y)| (*x as f64 - *y as f64).powi(2))).sqrt()
        };
        let zero = vec![0.0; a.len()];
        for isa in available() {
            let turned = |v: &[f32]| {
                let mut bytes = bytes(v);
                rotate_f32(&token(), isa, seed, &mut bytes).unwrap();
                floats(&bytes)
            };
            let (ta, tb) = (turned(&a), turned(&b));
            // Each of four rounds has a rounding per level, of which there are ten.
            let norms = distance(&a, &zero) + distance(&b, &zero);
            let error = (distance(&ta, &tb) - distance(&a, &b)).abs();
            prop_assert!(error <= norms * 60.0 * power_of_two(-24), "{:?} {} of {}", isa, error, norms);
            prop_assert_eq!(turned(&zero), zero.clone());
        }
    }

    #[test]
    fn one_bit_estimates_follow_their_formula(
        v in any_vector(MOST),
        seed: u64,
        log_scale in -20i32..20,
    ) {
        let largest = v.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
        let scale = if largest > 0.0 { power_of_two(log_scale) / largest } else { 1.0 };
        let row: Vec<f32> = v.iter().map(|&x| (x as f64 * scale) as f32).collect();
        let dim = row.len();
        let mut rng = Rng(seed);
        let query: Vec<f32> = (0..dim).map(|_| (rng.unit() * power_of_two(log_scale)) as f32).collect();
        let wide = |v: &[f32]| v.iter().map(|&x| x as f64).collect::<Vec<_>>();
        let (r, q) = (wide(&row), wide(&query));
        let (rr, qq) = (sum(r.iter().map(|x| x * x)), sum(q.iter().map(|x| x * x)));
        let abs = sum(r.iter().map(|x| x.abs()));
        let slope = if abs > 0.0 { rr / abs } else { 0.0 };
        let signed = sum(r.iter().zip(&q).map(|(r, q)| if *r > 0.0 { *q } else { -*q }));
        let estimate = rr + qq - 2.0 * slope * signed;
        let (low, high) = q.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        for isa in available() {
            let mut code = vec![0; rabitq_code_bytes(dim)];
            rabitq_encode(&token(), isa, &bytes(&row), &mut code).unwrap();
            let (mut planes, mut affine) = (vec![0; rabitq_query_words(dim)], [0; 6]);
            rabitq_prepare(&token(), isa, &bytes(&query), &mut planes, &mut affine).unwrap();
            let (mut out, mut lower) = ([0], [0]);
            rabitq_scan(&token(), isa, &planes, &affine, dim, &code, 0, &mut out, &mut lower).unwrap();
            // Each element of the query is off by half a step; sums are f32.
            let step = (high - low) / 15.0;
            let rounding = (rr + qq + 4.0 * slope * high.abs().max(low.abs()) * dim as f64) * 1e-6;
            let allowed = 2.0 * slope * 0.501 * step * dim as f64 + rounding;
            let got = distance(out[0]);
            prop_assert!((got - estimate).abs() <= allowed, "{:?} {} is {} dim {}", isa, estimate, got, dim);
            prop_assert!(distance(lower[0]) <= got);
        }
    }
}

/// Dimensions that no generator above reaches.
#[test]
#[cfg_attr(miri, ignore = "long; shorter vectors take the same way")]
fn the_longest_vectors_keep_their_properties() {
    let t = token();
    let mut rng = Rng(97);
    for dim in [4096, 65535, MAX_DIM] {
        for largest in [1.0, 1e-30, 3e38] {
            let v: Vec<f32> = (0..dim).map(|_| (rng.unit() * largest) as f32).collect();
            let norm = sum(v.iter().map(|&x| x as f64 * x as f64)).sqrt();
            for isa in available() {
                let mut unit = bytes(&v);
                assert!(normalise_f32(&t, isa, &mut unit));
                let got = sum(floats(&unit).iter().map(|&x| x as f64 * x as f64)).sqrt();
                assert!((got - 1.0).abs() < 1e-6, "{isa:?} dim {dim}: norm {got}");
                let mut turned = unit.clone();
                rotate_f32(&t, isa, 3, &mut turned).unwrap();
                let got = sum(floats(&turned).iter().map(|&x| x as f64 * x as f64)).sqrt();
                assert!((got - 1.0).abs() < 1e-5, "{isa:?} dim {dim}: norm {got}");
                let (mut sums, mut counts) = (vec![0; dim], [0]);
                for _ in 0..3 {
                    accumulate_f32(&t, isa, &bytes(&v), 0, dim, &[0], &mut sums, &mut counts)
                        .unwrap();
                }
                let mut mean = vec![0; 4 * dim];
                centroids_f32(&t, isa, dim, &sums, &counts, &mut mean).unwrap();
                for (x, mean) in v.iter().zip(floats(&mean)) {
                    assert!(
                        (*x as f64 - mean as f64).abs() <= ulp(*x as f64) * 0.51,
                        "{isa:?} norm {norm}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_with_nan_or_infinity_spoil_only_themselves() {
    let t = token();
    let (dim, k) = (37, 2);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for isa in available() {
            let mut rows = vec![1.0f32; 4 * dim];
            rows[dim + 5] = bad;
            let rows = bytes(&rows);
            // The bad row is in a cluster of its own.
            let (mut sums, mut counts) = (vec![0; k * dim], vec![0; k]);
            let ids = [0, 1, 0, 0];
            accumulate_f32(&t, isa, &rows, 4 * dim, dim, &ids, &mut sums, &mut counts).unwrap();
            let mut out = vec![0; 4 * k * dim];
            centroids_f32(&t, isa, dim, &sums, &counts, &mut out).unwrap();
            let out = floats(&out);
            assert!(out[..dim].iter().all(|&x| x == 1.0), "{isa:?}");
            assert!(!out[dim + 5].is_finite(), "{isa:?}");
            // It gets some centroid there is, its neighbours the right one.
            let centroids: Vec<u8> = [bytes(&vec![9.0; dim]), bytes(&vec![1.0; dim])].concat();
            let (mut near, mut keys) = ([7; 4], [0; 4]);
            assign_f32(
                &t,
                isa,
                &rows,
                4 * dim,
                dim,
                &centroids,
                &mut near,
                &mut keys,
            )
            .unwrap();
            assert!(near[1] < 2, "{isa:?}");
            assert_eq!((near[0], near[2], near[3]), (1, 1, 1), "{isa:?}");
            // Quantisation saturates, or takes code 0 for what is no number.
            let (offset, scale) = (bytes(&[0.0]), bytes(&[1.0]));
            let by = Quantiser {
                offset: &offset,
                scale: &scale,
            };
            let mut codes = vec![0; 4 * dim];
            quantise_i8(&t, isa, by, &rows, &mut codes).unwrap();
            let want = match bad {
                f32::INFINITY => 127,
                f32::NEG_INFINITY => -128,
                _ => 0,
            };
            assert_eq!((codes[dim + 5] as i8, codes[dim + 6]), (want, 1), "{isa:?}");
        }
    }
}
