// SPDX-License-Identifier: Apache-2.0

//! k-means steps, the random rotation and sign bits.

mod common;

use common::*;
use vexfs_simd_host::*;

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |w: &[u8]| f32::from_le_bytes(w.try_into().unwrap());
    bytes.chunks_exact(4).map(word).collect()
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.unit() as f32).collect()
}

#[test]
fn each_row_gets_its_nearest_centroid() {
    let mut rng = Rng(41);
    let t = token();
    let shapes: &[_] = if cfg!(miri) {
        &[(1, 1, 3), (2, 5, 9), (9, 65, 2)]
    } else {
        &[
            (1, 1, 3),
            (2, 5, 9),
            (7, 64, 20),
            (33, 65, 11),
            (96, 200, 30),
        ]
    };
    for &(dim, k, n) in shapes {
        let (rows, centroids) = (random(&mut rng, n * dim), random(&mut rng, k * dim));
        for isa in available() {
            let (mut ids, mut keys) = (vec![0; n], vec![0; n]);
            assign_f32(
                &t,
                isa,
                &f32_bytes(&rows),
                4 * dim,
                dim,
                &f32_bytes(&centroids),
                &mut ids,
                &mut keys,
            )
            .unwrap();
            for (i, row) in rows.chunks(dim).enumerate() {
                let to = |c: usize| -> f64 {
                    let pairs = row.iter().zip(&centroids[c * dim..][..dim]);
                    pairs.map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum()
                };
                let least = (0..k).map(to).fold(f64::INFINITY, f64::min);
                let got = to(ids[i] as usize);
                assert!(got <= least * (1.0 + 1e-6), "{isa:?} dim {dim} k {k}");
                assert!(
                    (distance(keys[i]) - got).abs() <= got * 1e-6,
                    "{isa:?} dim {dim}"
                );
            }
        }
    }
}

#[test]
fn of_equally_near_centroids_the_first_is_taken() {
    let t = token();
    let centroids = f32_bytes(&vec![1.0; 3 * 130]);
    for isa in available() {
        let (mut ids, mut keys) = ([7], [7]);
        let row = f32_bytes(&[0.0; 3]);
        assign_f32(&t, isa, &row, 0, 3, &centroids, &mut ids, &mut keys).unwrap();
        assert_eq!((ids[0], distance(keys[0])), (0, 3.0), "{isa:?}");
    }
}

#[test]
fn centroids_are_means_and_empty_clusters_stay() {
    let mut rng = Rng(43);
    let t = token();
    let (dim, n, k) = (19, 50, 4);
    let rows = random(&mut rng, n * dim);
    // Cluster 2 is empty.
    let ids: Vec<u32> = (0..n)
        .map(|_| [0, 1, 3][(rng.next() % 3) as usize])
        .collect();
    for isa in available() {
        let (mut sums, mut counts) = (vec![0; k * dim], vec![0; k]);
        // In two parts, as a long scan does it.
        for part in [0..20, 20..n] {
            let bytes = f32_bytes(&rows[part.start * dim..part.end * dim]);
            accumulate_f32(
                &t,
                isa,
                &bytes,
                4 * dim,
                dim,
                &ids[part],
                &mut sums,
                &mut counts,
            )
            .unwrap();
        }
        let mut out = f32_bytes(&vec![7.0; k * dim]);
        assert_eq!(centroids_f32(&t, isa, dim, &sums, &counts, &mut out), Ok(1));
        let out = floats(&out);
        for c in 0..k {
            let members: Vec<_> = (0..n).filter(|&i| ids[i] == c as u32).collect();
            assert_eq!(counts[c], members.len() as u64);
            for d in 0..dim {
                let sum: f64 = members.iter().map(|i| rows[i * dim + d] as f64).sum();
                let want = if c == 2 {
                    7.0
                } else {
                    sum / members.len() as f64
                };
                assert!((out[c * dim + d] as f64 - want).abs() < 1e-7, "{isa:?}");
            }
        }
    }
}

#[test]
fn ids_and_shapes_that_do_not_fit_are_refused() {
    let t = token();
    let isa = Isa::best();
    let rows = f32_bytes(&[1.0; 6]);
    let (mut sums, mut counts) = ([0; 6], [0; 2]);
    let mut add = |rows: &[u8], dim, ids: &[u32]| {
        accumulate_f32(&t, isa, rows, 12, dim, ids, &mut sums, &mut counts)
    };
    assert_eq!(add(&rows, 3, &[0, 2]), Err(BadShape));
    assert_eq!(add(&rows, 3, &[0, 1, 1]), Err(BadShape));
    assert_eq!(add(&rows, 2, &[0, 1]), Err(BadShape));
    assert_eq!(add(&rows, 0, &[0, 1]), Err(BadShape));
    assert_eq!(add(&rows, 3, &[0, 1]), Ok(()));
    assert_eq!(counts, [1, 1]);
    let (mut ids, mut keys) = ([0; 2], [0; 2]);
    let mut assign = |rows: &[u8], dim, centroids: &[u8]| {
        assign_f32(&t, isa, rows, 12, dim, centroids, &mut ids, &mut keys)
    };
    assert_eq!(assign(&rows, 3, &rows), Ok(()));
    assert_eq!(assign(&rows, 3, &rows[..23]), Err(BadShape));
    assert_eq!(assign(&rows, 3, &[]), Err(BadShape));
    assert_eq!(assign(&rows[..23], 3, &rows), Err(BadShape));
    let mut out = [0; 23];
    assert_eq!(
        centroids_f32(&t, isa, 3, &sums, &counts, &mut out),
        Err(BadShape)
    );
    assert_eq!(rotate_f32(&t, isa, 1, &mut [0; 7]), Err(BadShape));
    assert_eq!(rotate_f32(&t, isa, 1, &mut []), Err(BadShape));
    assert_eq!(sign_bits_f32(&t, isa, &rows, &mut [0; 2]), Err(BadShape));
}

#[test]
fn rotation_keeps_lengths_and_angles_and_bits_across_isas() {
    let mut rng = Rng(47);
    let t = token();
    let dims: &[_] = if cfg!(miri) {
        &[1, 2, 5, 13, 64, 100]
    } else {
        &[1, 2, 3, 5, 8, 13, 64, 100, 128, 384, 768, 1000]
    };
    for &dim in dims {
        let (a, b) = (random(&mut rng, dim), random(&mut rng, dim));
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(x, y)| *x as f64 * *y as f64).sum()
        };
        let mut first: Option<Vec<u8>> = None;
        for isa in available() {
            let turned = |v: &[f32], seed| {
                let mut bytes = f32_bytes(v);
                rotate_f32(&t, isa, seed, &mut bytes).unwrap();
                bytes
            };
            let (ta, tb) = (turned(&a, 9), turned(&b, 9));
            let scale = (dot(&a, &a) * dot(&b, &b)).sqrt();
            let error = dot(&floats(&ta), &floats(&tb)) - dot(&a, &b);
            assert!(error.abs() < 2e-6 * scale, "{isa:?} dim {dim}: {error}");
            if dim > 8 {
                assert_ne!(ta, turned(&a, 10), "{isa:?} dim {dim}: the seed matters");
            }
            assert_eq!(*first.get_or_insert(ta.clone()), ta, "{isa:?} dim {dim}");
        }
    }
}

#[test]
fn rotation_spreads_a_single_dimension_over_all() {
    let t = token();
    let dims: &[_] = if cfg!(miri) {
        &[64]
    } else {
        &[64, 100, 384, 768, 1000]
    };
    for &dim in dims {
        for at in [0, dim / 2, dim - 1] {
            let mut v = vec![0.0; dim];
            v[at] = 1.0;
            let mut bytes = f32_bytes(&v);
            rotate_f32(&t, Isa::best(), 5, &mut bytes).unwrap();
            let largest = floats(&bytes).iter().fold(0f32, |m, x| m.max(x.abs()));
            // A random unit vector has elements of about sqrt(1/dim), hardly any beyond 5 times that.
            assert!(
                largest < 6.0 / (dim as f32).sqrt(),
                "dim {dim} at {at}: {largest}"
            );
        }
    }
}

#[test]
fn sign_bits_are_signs_and_their_hamming_distance_tells_the_angle() {
    let mut rng = Rng(53);
    let t = token();
    let dim = if cfg!(miri) { 253 } else { 1021 };
    let a = random(&mut rng, dim);
    // Both share half of their energy: the angle is 45 degrees or so.
    let b: Vec<f32> = a.iter().map(|x| x + rng.unit() as f32).collect();
    for isa in available() {
        let hash = |v: &[f32]| {
            let mut bytes = f32_bytes(v);
            rotate_f32(&t, isa, 3, &mut bytes).unwrap();
            let mut bits = vec![0xff; dim.div_ceil(8)];
            sign_bits_f32(&t, isa, &bytes, &mut bits).unwrap();
            for (i, x) in floats(&bytes).iter().enumerate() {
                assert_eq!(bits[i / 8] >> (i % 8) & 1 == 1, *x > 0.0);
            }
            assert_eq!(
                bits[dim / 8] >> (dim % 8),
                0,
                "bits beyond the dimension are zero"
            );
            bits
        };
        let (ha, hb) = (hash(&a), hash(&b));
        let mut key = [0];
        score_rows(
            &t,
            isa,
            Elem::Binary,
            Metric::Hamming,
            &ha,
            &hb,
            0,
            dim,
            &mut key,
        )
        .unwrap();
        let angle = distance(key[0]) / dim as f64 * 180.0;
        assert!((38.0..52.0).contains(&angle), "{isa:?}: {angle} degrees");
    }
}

#[test]
fn second_lists_cost_their_residuals_and_what_is_along_the_first() {
    let mut rng = Rng(53);
    let t = token();
    let dim = 9;
    let vector = |rng: &mut Rng| -> Vec<f32> { (0..dim).map(|_| rng.unit() as f32).collect() };
    let between =
        |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
    let key = |x: f32| Distance::from_f32_bits(x.to_bits()).0;
    let (x, first) = (vector(&mut rng), vector(&mut rng));
    let others: Vec<_> = (0..50).map(|_| vector(&mut rng)).collect();
    let keys: Vec<_> = others.iter().map(|c| key(between(&x, c))).collect();
    let mut all = Vec::new();
    for isa in available() {
        let mut costs: Vec<_> = others.iter().map(|c| key(between(&first, c))).collect();
        let r = between(&x, &first);
        spill_costs(&t, isa, key(r), &keys, &mut costs).unwrap();
        for (c, cost) in others.iter().zip(&costs) {
            let inner: f32 = (0..dim).map(|d| (x[d] - first[d]) * (x[d] - c[d])).sum();
            let want = between(&x, c) + 1.5 * inner * inner / r;
            let cost = f32::from_bits(Distance(*cost).to_f32_bits());
            assert!((cost - want).abs() < 1e-3 * want, "{isa:?}: {cost} {want}");
        }
        // A row that is its first centroid, or near it as rounding has it.
        let mut near = [key(4.0), key(4.1), key(3.9)];
        spill_costs(&t, isa, key(0.0), &[key(4.0); 3], &mut near).unwrap();
        assert_eq!(near, [key(4.0); 3]);
        spill_costs(&t, isa, key(1e-30), &[key(4.0); 3], &mut near).unwrap();
        assert!(near.iter().all(|cost| *cost <= key(10.0)));
        assert_eq!(spill_costs(&t, isa, 0, &keys, &mut [0]), Err(BadShape));
        all.push(costs);
    }
    assert!(all.iter().all(|costs| *costs == all[0]));
}
