// SPDX-License-Identifier: Apache-2.0

//! One-bit codes: their contents, the estimate and the error bound.

mod common;

use common::*;
use vexfs_simd_host::*;

fn rotated(rng: &mut Rng, dim: usize) -> Vec<u8> {
    let mut v: Vec<u8> = (0..dim)
        .flat_map(|_| (rng.unit() as f32).to_le_bytes())
        .collect();
    rotate_f32(&token(), Isa::Scalar, 71, &mut v).unwrap();
    v
}

fn code(isa: Isa, vector: &[u8]) -> Vec<u8> {
    let mut code = vec![0xaa; rabitq_code_bytes(vector.len() / 4)];
    rabitq_encode(&token(), isa, vector, &mut code).unwrap();
    code
}

#[test]
fn a_code_holds_the_signs_and_their_number_and_is_the_same_everywhere() {
    let mut rng = Rng(73);
    for dim in [1, 2, 63, 64, 65, 100, 384, 1000] {
        let vector = rotated(&mut rng, dim);
        let v = values(Elem::F32, &vector, dim);
        let want = code(Isa::Scalar, &vector);
        for (i, x) in v.iter().enumerate() {
            assert_eq!(want[i / 8] >> (i % 8) & 1 == 1, *x > 0.0, "dim {dim}");
        }
        let ones = v.iter().filter(|x| **x > 0.0).count() as u32;
        assert_eq!(want[want.len() - 4..], ones.to_le_bytes());
        for isa in available() {
            assert_eq!(code(isa, &vector), want, "{isa:?} dim {dim}");
        }
    }
}

#[test]
fn estimates_are_unbiased_and_their_bound_holds() {
    let mut rng = Rng(79);
    let t = token();
    let (dims, n): (&[_], _) = if cfg!(miri) {
        (&[64, 100], 20)
    } else {
        (&[64, 100, 384, 768], 1000)
    };
    for &dim in dims {
        let rows: Vec<_> = (0..n).map(|_| rotated(&mut rng, dim)).collect();
        let stride = rabitq_code_bytes(dim) + 5;
        let mut codes = vec![0; n * stride];
        for (row, place) in rows.iter().zip(codes.chunks_mut(stride)) {
            place[..stride - 5].copy_from_slice(&code(Isa::best(), row));
        }
        let query = rotated(&mut rng, dim);
        let q = values(Elem::F32, &query, dim);
        let mut first = None;
        for isa in available() {
            let (mut planes, mut affine) = (vec![0; rabitq_query_words(dim)], [0; 6]);
            rabitq_prepare(&t, isa, &query, &mut planes, &mut affine).unwrap();
            let (mut out, mut lower) = (vec![0; n], vec![0; n]);
            rabitq_scan(
                &t, isa, &planes, &affine, dim, &codes, stride, &mut out, &mut lower,
            )
            .unwrap();
            let (mut bias, mut missed, mut width, mut scale) = (0.0, 0, 0.0, 0.0);
            for (i, row) in rows.iter().enumerate() {
                let (exact, _) = oracle(Metric::L2Sq, &q, &values(Elem::F32, row, dim));
                bias += distance(out[i]) - exact;
                missed += (exact < distance(lower[i])) as usize;
                width += distance(out[i]) - distance(lower[i]);
                scale += exact;
            }
            // Of so few rows as Miri has time for nothing follows.
            assert!(
                cfg!(miri) || bias.abs() < 0.02 * scale,
                "{isa:?} dim {dim}: bias {}",
                bias / scale
            );
            assert!(
                cfg!(miri) || missed <= n / 50,
                "{isa:?} dim {dim}: {missed} bounds of {n} missed"
            );
            // A bound that excludes nothing would be useless.
            assert!(
                width < 0.6 * scale,
                "{isa:?} dim {dim}: width {}",
                width / scale
            );
            let got = (planes, affine, out, lower);
            assert_eq!(*first.get_or_insert(got.clone()), got, "{isa:?} dim {dim}");
        }
    }
}

#[test]
fn few_rows_need_an_exact_distance_to_find_the_nearest() {
    let mut rng = Rng(83);
    let t = token();
    let (dim, n) = if cfg!(miri) { (64, 20) } else { (256, 2000) };
    let query = rotated(&mut rng, dim);
    let q = values(Elem::F32, &query, dim);
    // Rows around the query at distances from 0.2 to 3 times its norm.
    let rows: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let noise = values(Elem::F32, &rotated(&mut rng, dim), dim);
            let by = 0.2 + 2.8 * i as f64 / n as f64;
            let row = q.iter().zip(noise).map(|(a, b)| (a + b * by) as f32);
            row.flat_map(|x| x.to_le_bytes()).collect()
        })
        .collect();
    let isa = Isa::best();
    let codes: Vec<u8> = rows.iter().flat_map(|row| code(isa, row)).collect();
    let (mut planes, mut affine) = (vec![0; rabitq_query_words(dim)], [0; 6]);
    rabitq_prepare(&t, isa, &query, &mut planes, &mut affine).unwrap();
    let (mut out, mut lower) = (vec![0; n], vec![0; n]);
    let stride = rabitq_code_bytes(dim);
    rabitq_scan(
        &t, isa, &planes, &affine, dim, &codes, stride, &mut out, &mut lower,
    )
    .unwrap();
    let (mut best, mut exact_distances) = (f64::INFINITY, 0);
    for (row, bound) in rows.iter().zip(&lower) {
        if distance(*bound) < best {
            exact_distances += 1;
            best = best.min(oracle(Metric::L2Sq, &q, &values(Elem::F32, row, dim)).0);
        }
    }
    let all = rows
        .iter()
        .map(|row| oracle(Metric::L2Sq, &q, &values(Elem::F32, row, dim)).0);
    assert_eq!(best, all.fold(f64::INFINITY, f64::min));
    assert!(
        cfg!(miri) || exact_distances < n / 4,
        "{exact_distances} of {n}"
    );
}

#[test]
fn the_distance_to_a_zero_vector_is_the_norm_of_the_query() {
    let mut rng = Rng(89);
    let t = token();
    let dim = 70;
    let query = rotated(&mut rng, dim);
    let norm_sq: f64 = values(Elem::F32, &query, dim).iter().map(|x| x * x).sum();
    for isa in available() {
        let codes = code(isa, &vec![0; 4 * dim]);
        let (mut planes, mut affine) = (vec![0; rabitq_query_words(dim)], [0; 6]);
        rabitq_prepare(&t, isa, &query, &mut planes, &mut affine).unwrap();
        let (mut out, mut lower) = ([0], [0]);
        rabitq_scan(
            &t, isa, &planes, &affine, dim, &codes, 0, &mut out, &mut lower,
        )
        .unwrap();
        assert!(
            (distance(out[0]) - norm_sq).abs() < 1e-5 * norm_sq,
            "{isa:?}"
        );
        assert_eq!(out, lower, "{isa:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let t = token();
    let isa = Isa::best();
    let encode =
        |vector: usize, code: usize| rabitq_encode(&t, isa, &vec![0; vector], &mut vec![0; code]);
    assert_eq!(encode(4, 24), Ok(()));
    assert_eq!(encode(4, 23), Err(BadShape));
    assert_eq!(encode(5, 24), Err(BadShape));
    assert_eq!(encode(0, 16), Err(BadShape));
    assert_eq!(encode(4 * 65, 32), Ok(()));
    let prepare =
        |words: usize| rabitq_prepare(&t, isa, &[0; 260], &mut vec![0; words], &mut [0; 6]);
    assert_eq!(prepare(8), Ok(()));
    assert_eq!(prepare(7), Err(BadShape));
    let scan = |dim, codes: usize, stride, n: usize, lower: usize| {
        let (mut out, mut lower) = (vec![0; n], vec![0; lower]);
        rabitq_scan(
            &t,
            isa,
            &[0; 8],
            &[0; 6],
            dim,
            &vec![0; codes],
            stride,
            &mut out,
            &mut lower,
        )
    };
    assert_eq!(scan(65, 64, 32, 2, 2), Ok(()));
    assert_eq!(scan(65, 63, 32, 2, 2), Err(BadShape));
    assert_eq!(scan(65, 64, usize::MAX, 2, 2), Err(BadShape));
    assert_eq!(scan(65, 64, 32, 2, 1), Err(BadShape));
    assert_eq!(scan(129, 64, 32, 1, 1), Err(BadShape));
    assert_eq!(scan(0, 64, 32, 1, 1), Err(BadShape));
}
