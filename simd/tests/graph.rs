// SPDX-License-Identifier: Apache-2.0

//! Codes of graph nodes: what they hold, how near their distances come, and equal bits everywhere.

mod common;

use std::sync::atomic::AtomicU32;

use common::*;
use vexfs_simd_host::*;

const QUANTISED: [GraphKind; 3] = [GraphKind::Sq8, GraphKind::Rabitq4, GraphKind::Rabitq1];

struct Coder {
    code: GraphCode,
    centre: Vec<u8>,
    isa: Isa,
}

impl Coder {
    fn new(kind: GraphKind, elem: Elem, metric: Metric, dim: usize, isa: Isa) -> Coder {
        Coder {
            code: GraphCode::new(kind, elem, metric, dim).unwrap(),
            centre: vec![],
            isa,
        }
    }

    fn prepare(&self, row: &[u8]) -> (Vec<u32>, Vec<u32>) {
        let mut vector = vec![7; self.code.vector_words()];
        let mut query = vec![7; self.code.query_words()];
        self.code
            .prepare(
                &token(),
                self.isa,
                5,
                &self.centre,
                row,
                &mut vector,
                &mut query,
            )
            .unwrap();
        (vector, query)
    }

    fn encode(&self, row: &[u8]) -> Vec<AtomicU32> {
        let (vector, query) = self.prepare(row);
        let mut code = vec![7; self.code.code_words()];
        self.code
            .encode(&token(), self.isa, &vector, &query, &mut code)
            .unwrap();
        code.into_iter().map(AtomicU32::new).collect()
    }

    fn score(&self, query: &[u8], codes: &[Vec<AtomicU32>]) -> Vec<u32> {
        let (_, query) = self.prepare(query);
        let nodes: Vec<&[AtomicU32]> = codes.iter().map(|c| &c[..]).collect();
        let mut out = vec![0; codes.len()];
        self.code
            .score(&token(), self.isa, &query, &nodes, &mut out)
            .unwrap();
        out
    }

    fn between(&self, from: &[AtomicU32], codes: &[Vec<AtomicU32>], any: &[u8]) -> Vec<u32> {
        let (_, query) = self.prepare(any);
        let nodes: Vec<&[AtomicU32]> = codes.iter().map(|c| &c[..]).collect();
        let mut out = vec![0; codes.len()];
        self.code
            .between(&token(), self.isa, &query, from, &nodes, &mut out)
            .unwrap();
        out
    }
}

/// Rows of elements between -1 and 1, off the origin by `shift`.
fn rows(rng: &mut Rng, n: usize, dim: usize, shift: f64) -> Vec<Vec<u8>> {
    (0..n)
        .map(|_| {
            (0..dim)
                .flat_map(|_| ((rng.unit() + shift) as f32).to_le_bytes())
                .collect()
        })
        .collect()
}

fn words(code: &[AtomicU32]) -> Vec<u32> {
    code.iter()
        .map(|w| w.load(std::sync::atomic::Ordering::Relaxed))
        .collect()
}

/// Estimates are compared with exact distances, in units of |q| |x| over the root of the dimension, in which an
/// inner product of random vectors has a standard deviation of 1.
#[test]
fn estimates_come_near_for_every_metric_kind_and_type() {
    let mut rng = Rng(11);
    for dim in [100, 128, 384] {
        for metric in Metric::COMMON {
            for shift in [0.0, 0.4] {
                let rows = rows(&mut rng, if cfg!(miri) { 6 } else { 60 }, dim, shift);
                let normalised = |row: &[u8]| {
                    let v = values(Elem::F32, row, dim);
                    let norm = match metric {
                        Metric::Cosine => v.iter().map(|x| x * x).sum::<f64>().sqrt(),
                        _ => 1.0,
                    };
                    v.iter().map(|x| x / norm).collect::<Vec<f64>>()
                };
                let mut mean = vec![0.0; dim];
                for row in &rows {
                    let row = normalised(row);
                    mean.iter_mut()
                        .zip(row)
                        .for_each(|(m, x)| *m += x / rows.len() as f64);
                }
                for (kind, allowed) in QUANTISED.into_iter().zip([0.03, 0.2, 1.6]) {
                    let mut coder = Coder::new(kind, Elem::F32, metric, dim, Isa::best());
                    coder.centre = mean
                        .iter()
                        .flat_map(|x| (*x as f32).to_le_bytes())
                        .collect();
                    let codes: Vec<_> = rows.iter().map(|row| coder.encode(row)).collect();
                    let scored = coder.score(&rows[0], &codes);
                    let between = coder.between(&codes[0], &codes, &rows[1]);
                    let reduced = |row: &[u8]| {
                        let row = normalised(row);
                        let squares = row.iter().zip(&mean).map(|(x, m)| (x - m) * (x - m));
                        squares.sum::<f64>().sqrt()
                    };
                    let q = values(Elem::F32, &rows[0], dim);
                    let (mut sum, mut sum_between) = (0.0, 0.0);
                    for (i, row) in rows.iter().enumerate().skip(1) {
                        let (exact, _) = oracle(metric, &q, &values(Elem::F32, row, dim));
                        let factor = if metric == Metric::L2Sq { 2.0 } else { 1.0 };
                        let unit = factor * reduced(&rows[0]) * reduced(row) / (dim as f64).sqrt();
                        sum += ((distance(scored[i]) - exact) / unit).powi(2);
                        sum_between += ((distance(between[i]) - exact) / unit).powi(2);
                    }
                    let n = rows.len() as f64 - 1.0;
                    let (error, error_between) = ((sum / n).sqrt(), (sum_between / n).sqrt());
                    let what = format!("{kind:?} {metric:?} dim {dim} shift {shift}");
                    assert!(error < allowed, "{what}: {error}");
                    assert!(
                        error_between < 1.6 * allowed,
                        "{what} between: {error_between}"
                    );
                }
            }
        }
    }
}

#[test]
fn narrow_elements_give_the_codes_of_the_same_numbers_as_f32() {
    let mut rng = Rng(13);
    let dim = 75;
    for elem in [Elem::F16, Elem::Bf16, Elem::I8, Elem::U8] {
        let row = random_row(&mut rng, elem, dim);
        let wide: Vec<u8> = values(elem, &row, dim)
            .iter()
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect();
        for kind in QUANTISED {
            let narrow = Coder::new(kind, elem, Metric::L2Sq, dim, Isa::best());
            let reference = Coder::new(kind, Elem::F32, Metric::L2Sq, dim, Isa::best());
            assert_eq!(
                words(&narrow.encode(&row)),
                words(&reference.encode(&wide)),
                "{elem:?}"
            );
        }
    }
}

#[test]
fn every_isa_gives_the_same_codes_and_keys() {
    let mut rng = Rng(17);
    let dims = (1..=5).chain([63, 64, 65, 127, 128, 129, 200, 384, 512, 513, 1000]);
    for dim in dims {
        for kind in QUANTISED {
            let rows = rows(&mut rng, 7, dim, 0.2);
            let mut first = None;
            for isa in available() {
                let coder = Coder::new(kind, Elem::F32, Metric::L2Sq, dim, isa);
                let codes: Vec<_> = rows.iter().map(|row| coder.encode(row)).collect();
                for n in 1..=codes.len() {
                    let got = (
                        codes.iter().map(|c| words(c)).collect::<Vec<_>>(),
                        coder.score(&rows[0], &codes[..n])[n - 1],
                        coder.between(&codes[1], &codes[..n], &rows[0])[n - 1],
                    );
                    if n == codes.len() {
                        assert_eq!(
                            *first.get_or_insert_with(|| got.clone()),
                            got,
                            "{isa:?} {kind:?} dim {dim}"
                        );
                    } else {
                        // A key does not depend on how many there are.
                        let all = coder.score(&rows[0], &codes);
                        assert_eq!(got.1, all[n - 1], "{isa:?} {kind:?} dim {dim} n {n}");
                    }
                }
            }
        }
    }
}

#[test]
fn raw_codes_have_the_distances_of_their_rows() {
    let mut rng = Rng(19);
    let dim = 50;
    for elem in Elem::ALL {
        let rows: Vec<_> = (0..70).map(|_| random_row(&mut rng, elem, dim)).collect();
        let coder = Coder::new(GraphKind::Raw(elem), elem, Metric::L2Sq, dim, Isa::best());
        let codes: Vec<_> = rows.iter().map(|row| coder.encode(row)).collect();
        let list: Vec<&[u8]> = rows.iter().map(|row| &row[..]).collect();
        let mut want = vec![0; rows.len()];
        score_list(
            &token(),
            Isa::best(),
            elem,
            Metric::L2Sq,
            &rows[3],
            &list,
            dim,
            &mut want,
        )
        .unwrap();
        assert_eq!(coder.score(&rows[3], &codes), want, "{elem:?}");
        assert_eq!(coder.between(&codes[3], &codes, &rows[9]), want, "{elem:?}");
    }
    let row = random_row(&mut rng, Elem::F32, dim);
    for elem in [Elem::F16, Elem::Bf16] {
        let coder = Coder::new(
            GraphKind::Raw(elem),
            Elem::F32,
            Metric::L2Sq,
            dim,
            Isa::best(),
        );
        let mut narrow = vec![0; elem.row_bytes(dim)];
        convert(&token(), Isa::best(), Elem::F32, elem, &row, &mut narrow).unwrap();
        let code: Vec<u8> = words(&coder.encode(&row))
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect();
        assert_eq!(code[..narrow.len()], narrow);
    }
}

/// f32 as f16 and bf16: the same codes on every instruction set, and the distances of the rounded numbers.
#[test]
fn raw_codes_of_rounded_numbers_come_near_for_every_metric() {
    let mut rng = Rng(23);
    for (elem, error) in [(Elem::F16, 0.5f64.powi(11)), (Elem::Bf16, 0.5f64.powi(8))] {
        for dim in [1, 3, 50, 384] {
            for metric in Metric::COMMON {
                let rows = rows(&mut rng, 9, dim, 0.2);
                let mut first = None;
                for isa in available() {
                    let coder = Coder::new(GraphKind::Raw(elem), Elem::F32, metric, dim, isa);
                    let codes: Vec<_> = rows.iter().map(|row| coder.encode(row)).collect();
                    let all: Vec<_> = codes.iter().map(|c| words(c)).collect();
                    assert_eq!(*first.get_or_insert_with(|| all.clone()), all, "{isa:?}");
                    let scored = coder.score(&rows[0], &codes);
                    let between = coder.between(&codes[0], &codes, &rows[1]);
                    assert_eq!(scored, between, "{isa:?} {elem:?} {metric:?} dim {dim}");
                    let q = values(Elem::F32, &rows[0], dim);
                    for (row, key) in rows.iter().zip(scored) {
                        let row = values(Elem::F32, row, dim);
                        let (exact, _) = oracle(metric, &q, &row);
                        // Each number is off by its own part, and so is what is summed.
                        let sum = |f: fn(f64, f64) -> f64| -> f64 {
                            q.iter().zip(&row).map(|(q, x)| f(*q, *x)).sum()
                        };
                        let scale = match metric {
                            Metric::L2Sq => {
                                sum(|q, x| (q - x).abs() * (q.abs() + x.abs()) * 2.0 + 0.02)
                            }
                            Metric::Cosine => 4.0,
                            _ => sum(|q, x| 2.0 * (q * x).abs()),
                        };
                        let off = (distance(key) - exact).abs();
                        assert!(
                            off <= error * scale + 1e-5,
                            "{isa:?} {elem:?} {metric:?} dim {dim}: {off} of {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn kinds_have_the_names_that_make_them() {
    let mut found = 0;
    for elem in Elem::ALL {
        let metric = match elem {
            Elem::Binary => Metric::Hamming,
            _ => Metric::L2Sq,
        };
        for nbits in (0..=0x200).chain([u32::MAX]) {
            let Some(kind) = GraphKind::of(elem, nbits) else {
                continue;
            };
            let code = GraphCode::new(kind, elem, metric, 70).unwrap();
            assert_eq!(code.nbits(), nbits, "{elem:?} {kind:?}");
            // A code has so many bits an element, and little else.
            let bits = (nbits & 0xff) as usize;
            let (least, tail) = ((70 * bits).div_ceil(32), 3 + 128 * bits / 32);
            assert!(
                (least..=least + tail).contains(&code.code_words()),
                "{elem:?} {kind:?}"
            );
            found += 1;
        }
    }
    // 1, 4 and 8 of all but bits.
    assert_eq!(found, 6 + 4 + 4 + 3 + 3 + 1);
    assert_eq!(
        GraphKind::of(Elem::F32, 16),
        Some(GraphKind::Raw(Elem::Bf16))
    );
    assert_eq!(
        GraphKind::of(Elem::F32, NBITS_F16),
        Some(GraphKind::Raw(Elem::F16))
    );
    assert_eq!(
        GraphKind::of(Elem::Bf16, 16),
        Some(GraphKind::Raw(Elem::Bf16))
    );
    assert_eq!(
        GraphKind::of(Elem::F16, 16),
        Some(GraphKind::Raw(Elem::F16))
    );
}

#[test]
fn a_zero_row_has_a_code() {
    for kind in QUANTISED {
        for metric in Metric::COMMON {
            let coder = Coder::new(kind, Elem::F32, metric, 20, Isa::best());
            let zero = vec![0; 80];
            let one: Vec<u8> = (0..20)
                .flat_map(|i| ((i == 3) as u8 as f32).to_le_bytes())
                .collect();
            let codes = [coder.encode(&zero), coder.encode(&one)];
            let got = coder.score(&zero, &codes);
            let (exact, _) = oracle(
                metric,
                &values(Elem::F32, &zero, 20),
                &values(Elem::F32, &one, 20),
            );
            // A zero vector has no direction; cosine takes it for one halfway to everything.
            let exact = if metric == Metric::Cosine { 0.5 } else { exact };
            assert!(
                (distance(got[1]) - exact).abs() < 1e-6,
                "{kind:?} {metric:?}"
            );
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let new = |kind, elem, metric, dim| GraphCode::new(kind, elem, metric, dim).map(|_| ());
    let (sq8, l2) = (GraphKind::Sq8, Metric::L2Sq);
    assert_eq!(new(sq8, Elem::F32, l2, 0), Err(BadShape));
    assert_eq!(new(sq8, Elem::F32, l2, 3968), Ok(()));
    assert_eq!(new(sq8, Elem::F32, l2, 3969), Err(BadShape));
    assert_eq!(new(GraphKind::Rabitq4, Elem::F32, l2, 3969), Ok(()));
    assert_eq!(new(sq8, Elem::F32, l2, MAX_DIM + 1), Err(BadShape));
    assert_eq!(new(sq8, Elem::Binary, l2, 8), Err(BadShape));
    assert_eq!(new(sq8, Elem::F32, Metric::Hamming, 8), Err(BadShape));
    assert_eq!(
        new(GraphKind::Raw(Elem::F32), Elem::F16, l2, 8),
        Err(BadShape)
    );
    let (f32, f16) = (GraphKind::Raw(Elem::F32), GraphKind::Raw(Elem::F16));
    assert_eq!(new(f16, Elem::F32, l2, 8), Ok(()));
    assert_eq!(new(f32, Elem::F32, l2, 4096), Ok(()));
    assert_eq!(new(f32, Elem::F32, l2, 4097), Err(BadShape));
    assert_eq!(new(f16, Elem::F32, l2, 8192), Ok(()));
    assert_eq!(new(f16, Elem::F16, l2, 8193), Err(BadShape));
    assert_eq!(
        new(
            GraphKind::Raw(Elem::Binary),
            Elem::Binary,
            Metric::Hamming,
            MAX_DIM
        ),
        Ok(())
    );
    assert_eq!(
        new(GraphKind::Raw(Elem::Binary), Elem::Binary, l2, 8),
        Ok(())
    );

    let t = token();
    let isa = Isa::best();
    let code = GraphCode::new(sq8, Elem::F32, l2, 10).unwrap();
    let (v, q, c) = (code.vector_words(), code.query_words(), code.code_words());
    let prepare = |row: usize, centre: usize, v: usize, q: usize| {
        let (row, centre) = (vec![0; row], vec![0; centre]);
        code.prepare(&t, isa, 0, &centre, &row, &mut vec![0; v], &mut vec![0; q])
    };
    assert_eq!(prepare(40, 0, v, q), Ok(()));
    assert_eq!(prepare(40, 40, v, q), Ok(()));
    let raw = GraphCode::new(f32, Elem::F32, l2, 10).unwrap();
    let around = |centre: usize| {
        raw.prepare(
            &t,
            isa,
            0,
            &vec![0; centre],
            &[0; 40],
            &mut [],
            &mut [0; 10],
        )
    };
    assert_eq!((around(0), around(40)), (Ok(()), Err(BadShape)));
    assert_eq!(prepare(39, 0, v, q), Err(BadShape));
    assert_eq!(prepare(40, 36, v, q), Err(BadShape));
    assert_eq!(prepare(40, 0, v - 1, q), Err(BadShape));
    assert_eq!(prepare(40, 0, v, q - 1), Err(BadShape));
    let encode = |v: usize, q: usize, c: usize| {
        code.encode(&t, isa, &vec![0; v], &vec![0; q], &mut vec![0; c])
    };
    assert_eq!(encode(v, q, c), Ok(()));
    assert_eq!(encode(v - 1, q, c), Err(BadShape));
    assert_eq!(encode(v, q - 1, c), Err(BadShape));
    assert_eq!(encode(v, q, c - 1), Err(BadShape));
    let node: Vec<AtomicU32> = (0..c).map(|_| AtomicU32::new(0)).collect();
    let (long, short) = (&node[..], &node[1..]);
    let score = |nodes: &[&[AtomicU32]], out: usize| {
        code.score(&t, isa, &vec![0; q], nodes, &mut vec![0; out])
    };
    assert_eq!(score(&[long, long], 2), Ok(()));
    assert_eq!(score(&[], 0), Ok(()));
    assert_eq!(score(&[long, short], 2), Err(BadShape));
    assert_eq!(score(&[long, long], 1), Err(BadShape));
    let between = |from: &[AtomicU32]| code.between(&t, isa, &vec![0; q], from, &[long], &mut [0]);
    assert_eq!(between(long), Ok(()));
    assert_eq!(between(short), Err(BadShape));
}
