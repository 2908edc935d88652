// SPDX-License-Identifier: Apache-2.0

//! Product quantisation: codes, tables and scans against their definitions.

mod common;

use common::{distance, oracle, values, Rng};
use proptest::prelude::*;
use vexfs_simd_host::*;

fn random(rng: &mut Rng, n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|_| (rng.unit() as f32).to_le_bytes())
        .collect()
}

fn part(bytes: &[u8], i: usize, dsub: usize) -> Vec<f64> {
    values(Elem::F32, &bytes[4 * i * dsub..4 * (i + 1) * dsub], dsub)
}

fn table(isa: Isa, shape: PqShape, metric: Metric, query: &[u8], books: &[u8]) -> Vec<u32> {
    let mut table = vec![0; shape.nsub * shape.ksub];
    pq_table(&token(), isa, shape, metric, query, books, &mut table).unwrap();
    table
}

#[test]
fn codes_name_the_nearest_centroid_of_each_part() {
    let mut rng = Rng(61);
    let all = [(1, 1, 1), (3, 7, 5), (8, 16, 4), (6, 256, 8), (96, 256, 4)];
    let shapes = if cfg!(miri) { &all[..3] } else { &all };
    for &(nsub, ksub, dsub) in shapes {
        let shape = PqShape { nsub, ksub, dsub };
        let (vector, books) = (
            random(&mut rng, nsub * dsub),
            random(&mut rng, nsub * ksub * dsub),
        );
        for isa in available() {
            let mut codes = vec![0; nsub];
            pq_encode(&token(), isa, shape, &vector, &books, &mut codes).unwrap();
            for (s, &code) in codes.iter().enumerate() {
                let to = |c: usize| {
                    let centroid = part(&books, s * ksub + c, dsub);
                    oracle(Metric::L2Sq, &part(&vector, s, dsub), &centroid).0
                };
                let least = (0..ksub).map(to).fold(f64::INFINITY, f64::min);
                assert!((code as usize) < ksub);
                assert!(
                    to(code as usize) <= least * (1.0 + 1e-6),
                    "{isa:?} {shape:?}"
                );
            }
        }
    }
}

#[test]
fn of_equal_centroids_the_first_is_taken() {
    for isa in available() {
        let shape = PqShape {
            nsub: 2,
            ksub: 256,
            dsub: 3,
        };
        let mut codes = [9; 2];
        let books = vec![0; 2 * 256 * 12];
        pq_encode(&token(), isa, shape, &[0; 24], &books, &mut codes).unwrap();
        assert_eq!(codes, [0, 0], "{isa:?}");
    }
}

#[test]
fn a_scan_sums_the_partial_distances_of_its_codes() {
    let mut rng = Rng(67);
    let all = [(1, 2), (3, 5), (4, 1), (48, 8), (97, 4)];
    let shapes = if cfg!(miri) { &all[..1] } else { &all };
    for &(nsub, dsub) in shapes {
        let shape = PqShape {
            nsub,
            ksub: 256,
            dsub,
        };
        let (query, books) = (
            random(&mut rng, nsub * dsub),
            random(&mut rng, nsub * 256 * dsub),
        );
        let n = 37;
        let codes: Vec<u8> = (0..n * nsub).map(|_| rng.next() as u8).collect();
        for metric in [Metric::L2Sq, Metric::InnerProduct] {
            for isa in available() {
                let table = table(isa, shape, metric, &query, &books);
                let mut out = vec![0; n];
                pq_scan8(&token(), isa, nsub, &table, &codes, &mut out).unwrap();
                for (row, key) in codes.chunks(nsub).zip(&out) {
                    let (mut exact, mut terms) = (0.0, 0.0);
                    for (s, &code) in row.iter().enumerate() {
                        let centroid = part(&books, s * 256 + code as usize, dsub);
                        let (d, t) = oracle(metric, &part(&query, s, dsub), &centroid);
                        exact += d;
                        terms += t;
                    }
                    let error = (distance(*key) - exact).abs();
                    assert!(
                        error <= terms * 1e-6,
                        "{isa:?} {shape:?} {metric:?}: {error:e}"
                    );
                }
                let mut again = vec![0; n];
                pq_scan8(&token(), Isa::Scalar, nsub, &table, &codes, &mut again).unwrap();
                assert_eq!(out, again, "{isa:?} {shape:?}: not bit-exact");
            }
        }
    }
}

/// The distance of a block scan from the reduced table by its definition, and the sum of the
/// absolute values of its two terms.
fn scan4_by_definition(small: &[u8], affine: &[u32; 2], row: &[u8]) -> (f64, f64) {
    let codes = row.iter().enumerate();
    let sum: u32 = codes.map(|(s, &c)| small[16 * s + c as usize] as u32).sum();
    let steps = sum as f64 * f32::from_bits(affine[0]) as f64;
    let base = f32::from_bits(affine[1]) as f64;
    (steps + base, steps + base.abs())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn block_scans_are_within_half_a_step_per_part(
        nsub in 1usize..=80,
        dsub in 1usize..6,
        n in 1usize..100,
        dot: bool,
        seed: u64,
    ) {
        let metric = if dot { Metric::InnerProduct } else { Metric::L2Sq };
        let mut rng = Rng(seed);
        let shape = PqShape { nsub, ksub: 16, dsub };
        let (query, books) = (random(&mut rng, nsub * dsub), random(&mut rng, nsub * 16 * dsub));
        let codes: Vec<u8> = (0..n * nsub).map(|_| rng.next() as u8 & 15).collect();
        let blocks = n.div_ceil(32);
        let mut packed = vec![0xff; blocks * nsub * 16];
        pq_pack4(nsub, &codes, &mut packed).unwrap();
        // The table of one instruction set for all: tables may differ in the last bits.
        let full = table(Isa::Scalar, shape, metric, &query, &books);
        let mut first: Option<Vec<u32>> = None;
        for isa in available() {
            let (mut small, mut affine) = (vec![0; nsub * 16], [0; 2]);
            pq_reduce_table(&token(), isa, &full, &mut small, &mut affine).unwrap();
            let mut out = vec![0; blocks * 32];
            pq_scan4(&token(), isa, &small, &affine, &packed, &mut out).unwrap();
            for (row, key) in codes.chunks(nsub).zip(&out) {
                let (want, terms) = scan4_by_definition(&small, &affine, row);
                prop_assert!((distance(*key) - want).abs() <= terms * 2e-7, "{:?}", isa);
                let exact: f64 = row
                    .iter()
                    .enumerate()
                    .map(|(s, &c)| f32::from_bits(full[16 * s + c as usize]) as f64)
                    .sum();
                let step = f32::from_bits(affine[0]) as f64;
                let error = (distance(*key) - exact).abs();
                prop_assert!(error <= step * 0.501 * nsub as f64 + 1e-5, "{:?}: {}", isa, error);
            }
            prop_assert_eq!(first.get_or_insert(out.clone()), &out, "{:?}: not bit-exact", isa);
        }
    }
}

#[test]
fn the_largest_number_of_parts_does_not_overflow() {
    for isa in available() {
        let (small, affine) = (vec![255; 257 * 16], [1f32.to_bits(), 0]);
        let mut out = vec![0; 32];
        pq_scan4(
            &token(),
            isa,
            &small,
            &affine,
            &vec![0x3c; 257 * 16],
            &mut out,
        )
        .unwrap();
        assert!(out.iter().all(|&key| distance(key) == 65535.0), "{isa:?}");
    }
}

#[test]
fn a_table_of_equal_entries_has_a_step_of_zero() {
    for isa in available() {
        let (mut small, mut affine) = (vec![7; 32], [9; 2]);
        pq_reduce_table(
            &token(),
            isa,
            &[1.5f32.to_bits(); 32],
            &mut small,
            &mut affine,
        )
        .unwrap();
        assert_eq!(
            (small, affine),
            (vec![0; 32], [0, 3f32.to_bits()]),
            "{isa:?}"
        );
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let t = token();
    let isa = Isa::best();
    let encode = |nsub, ksub, dsub, vector: usize, books: usize, codes: usize| {
        let shape = PqShape { nsub, ksub, dsub };
        pq_encode(
            &t,
            isa,
            shape,
            &vec![0; vector],
            &vec![0; books],
            &mut vec![0; codes],
        )
    };
    assert_eq!(encode(2, 4, 3, 24, 96, 2), Ok(()));
    assert_eq!(encode(2, 4, 3, 23, 96, 2), Err(BadShape));
    assert_eq!(encode(2, 4, 3, 24, 95, 2), Err(BadShape));
    assert_eq!(encode(2, 4, 3, 24, 96, 3), Err(BadShape));
    assert_eq!(encode(2, 0, 3, 24, 0, 2), Err(BadShape));
    assert_eq!(encode(1, 257, 1, 4, 4 * 257, 1), Err(BadShape));
    assert_eq!(encode(0, 4, 3, 0, 0, 0), Err(BadShape));
    assert_eq!(encode(usize::MAX, 4, 3, 24, 96, 2), Err(BadShape));
    let shape = PqShape {
        nsub: 2,
        ksub: 4,
        dsub: 3,
    };
    for metric in [Metric::Cosine, Metric::Hamming] {
        assert_eq!(
            pq_table(&t, isa, shape, metric, &[0; 24], &[0; 96], &mut [0; 8]),
            Err(BadShape)
        );
    }
    assert_eq!(
        pq_scan8(&t, isa, 2, &[0; 512], &[0; 6], &mut [0; 3]),
        Ok(())
    );
    assert_eq!(
        pq_scan8(&t, isa, 2, &[0; 511], &[0; 6], &mut [0; 3]),
        Err(BadShape)
    );
    assert_eq!(
        pq_scan8(&t, isa, 2, &[0; 512], &[0; 5], &mut [0; 3]),
        Err(BadShape)
    );
    assert_eq!(pq_pack4(2, &[0, 16], &mut [0; 32]), Err(BadShape));
    assert_eq!(pq_pack4(2, &[0, 1, 2], &mut [0; 32]), Err(BadShape));
    assert_eq!(pq_pack4(2, &[0, 1], &mut [0; 31]), Err(BadShape));
    assert_eq!(pq_pack4(0, &[], &mut []), Err(BadShape));
    let small = vec![0; 258 * 16];
    let scan = |parts: usize, codes: usize, out: usize| {
        pq_scan4(
            &t,
            isa,
            &small[..16 * parts],
            &[0; 2],
            &vec![0; codes],
            &mut vec![0; out],
        )
    };
    assert_eq!(scan(3, 96, 64), Ok(()));
    assert_eq!(scan(3, 95, 64), Err(BadShape));
    assert_eq!(scan(3, 96, 63), Err(BadShape));
    assert_eq!(scan(0, 0, 0), Err(BadShape));
    assert_eq!(scan(258, 258 * 16, 32), Err(BadShape));
}
