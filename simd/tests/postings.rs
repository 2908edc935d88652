// SPDX-License-Identifier: Apache-2.0

//! Posting blocks: encoding, factors, tables and scans.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use vexfs_simd_host::*;

const METRICS: [Metric; 3] = Metric::COMMON;

fn unit(rng: &mut Rng, dim: usize, shift: f64) -> Vec<f64> {
    let v: Vec<f64> = (0..dim).map(|_| rng.unit() + shift).collect();
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.iter().map(|x| (x / norm) as f32 as f64).collect()
}

fn bytes(v: &[f64]) -> Vec<u8> {
    v.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect()
}

/// A unit vector under a random rotation, without which errors of parts would have a direction.
fn rotated(rng: &mut Rng, dim: usize, shift: f64) -> Vec<f64> {
    let mut v = bytes(&unit(rng, dim, shift));
    rotate_f32(&token(), Isa::Scalar, 7, &mut v).unwrap();
    values(Elem::F32, &v, dim)
}

/// Rows of a list in blocks, as an owner keeps them.
struct List {
    nsub: usize,
    four: bool,
    n: usize,
    words: Vec<AtomicU32>,
}

impl List {
    fn new(nsub: usize, four: bool) -> Self {
        List {
            nsub,
            four,
            n: 0,
            words: Vec::new(),
        }
    }

    fn push(&mut self, codes: &[u8], factors: [u32; 3]) {
        let words = posting_words(self.nsub, self.four);
        let j = self.n % 32;
        if j == 0 {
            self.words
                .extend((0..words).map(|_| AtomicU32::new(0xffff_ffff)));
            for w in &self.words[self.words.len() - words..][16..][..words - 16 - 128] {
                w.store(0, Ordering::Relaxed);
            }
        }
        let block = &self.words[self.n / 32 * words..];
        for (s, code) in codes.iter().enumerate() {
            let (byte, shift) = if self.four {
                (s * 16 + j % 16, j / 16 * 4)
            } else {
                (j * self.nsub + s, 0)
            };
            let word = (*code as u32) << (byte % 4 * 8 + shift);
            block[16 + byte / 4].fetch_or(word, Ordering::Relaxed);
        }
        for (f, factor) in factors.iter().enumerate() {
            block[words - 128 + f * 32 + j].store(*factor, Ordering::Relaxed);
        }
        self.n += 1;
    }

    fn scan(
        &self,
        isa: Isa,
        metric: Metric,
        table: PostingTable<'_>,
        [near, inner]: [u32; 2],
        sigmas: u32,
        threshold: u32,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut lower, mut hits) = (vec![0; self.n], vec![0xaaaa_aaaa; self.n.div_ceil(32)]);
        scan_postings(
            &token(),
            isa,
            metric,
            table,
            &self.words,
            near,
            inner,
            sigmas,
            threshold,
            &mut lower,
            &mut hits,
        )
        .unwrap();
        (lower, hits)
    }
}

fn centre_keys(isa: Isa, q: &[u8], c: &[u8], dim: usize) -> [u32; 2] {
    [Metric::L2Sq, Metric::InnerProduct].map(|metric| {
        let mut key = [0];
        score_rows(&token(), isa, Elem::F32, metric, q, c, 0, dim, &mut key).unwrap();
        key[0]
    })
}

/// Mean error, how many bounds were missed, and mean width, all relative to the spread of distances.
fn judge(
    rows: &[Vec<f64>],
    q: &[f64],
    metric: Metric,
    estimate: &[u32],
    lower: &[u32],
) -> [f64; 3] {
    let exact: Vec<f64> = rows.iter().map(|row| oracle(metric, q, row).0).collect();
    let n = rows.len() as f64;
    let mean = exact.iter().sum::<f64>() / n;
    let spread = (exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let error = (0..rows.len())
        .map(|i| distance(estimate[i]) - exact[i])
        .sum::<f64>()
        / n;
    let missed = (0..rows.len())
        .filter(|i| exact[*i] < distance(lower[*i]))
        .count() as f64
        / n;
    let width = (0..rows.len())
        .map(|i| distance(estimate[i]) - distance(lower[i]))
        .sum::<f64>()
        / n;
    [error / spread, missed, width / spread]
}

#[test]
fn estimates_from_signs_are_unbiased_and_their_bounds_hold() {
    let mut rng = Rng(101);
    let n = if cfg!(miri) { 40 } else { 2000 };
    for dim in [30usize, 128, 384] {
        let nsub = dim.div_ceil(4);
        // Rows and centre lie off the origin, as data does.
        let centre = unit(&mut rng, dim, 0.5);
        let rows: Vec<Vec<f64>> = (0..n).map(|_| unit(&mut rng, dim, 0.5)).collect();
        let q = unit(&mut rng, dim, 0.6);
        for metric in METRICS {
            let mut first = None;
            for isa in available() {
                let t = token();
                let mut list = List::new(nsub, true);
                for row in &rows {
                    let (mut codes, mut factors) = (vec![0xaa; nsub], [0; 3]);
                    encode_signs(
                        &t,
                        isa,
                        metric,
                        &bytes(row),
                        &bytes(&centre),
                        &mut codes,
                        &mut factors,
                    )
                    .unwrap();
                    for (i, (r, c)) in row.iter().zip(&centre).enumerate() {
                        let sign = codes[i / 4] >> (i % 4) & 1 == 1;
                        assert_eq!(sign, *r as f32 > *c as f32, "{isa:?} dim {dim}");
                    }
                    list.push(&codes, factors);
                }
                let (mut table, mut small) = (vec![0; nsub * 16], vec![0; nsub * 16]);
                let mut affine = [0; 2];
                sign_table(&t, isa, &bytes(&q), &mut table).unwrap();
                pq_reduce_table(&t, isa, &table, &mut small, &mut affine).unwrap();
                let table = PostingTable::Four(&small, &affine);
                let keys = centre_keys(Isa::Scalar, &bytes(&q), &bytes(&centre), dim);
                let (estimate, _) = list.scan(isa, metric, table, keys, 0, 0);
                let (lower, _) = list.scan(isa, metric, table, keys, 300, 0);
                let [error, missed, width] = judge(&rows, &q, metric, &estimate, &lower);
                assert!(
                    error.abs() < 0.2,
                    "{isa:?} {metric:?} dim {dim}: bias {error}"
                );
                assert!(
                    missed < 0.02,
                    "{isa:?} {metric:?} dim {dim}: missed {missed}"
                );
                // A bound that excludes nothing would be useless.
                assert!(width < 6.0, "{isa:?} {metric:?} dim {dim}: width {width}");
                // The threshold tells rows apart, and stands for itself.
                let threshold = lower[n / 2];
                let (again, hits) = list.scan(isa, metric, table, keys, 300, threshold);
                assert_eq!(again, lower);
                for (i, key) in lower.iter().enumerate() {
                    let hit = hits[i / 32] >> (i % 32) & 1 == 1;
                    assert_eq!(hit, *key <= threshold, "{isa:?} row {i}");
                }
                assert!(
                    n % 32 == 0 || hits[n / 32] >> (n % 32) == 0,
                    "{isa:?} hits beyond the rows"
                );
                let got = (estimate, lower, hits);
                assert_eq!(*first.get_or_insert(got.clone()), got, "{isa:?} dim {dim}");
            }
        }
    }
}

#[test]
fn estimates_from_a_product_quantiser_are_close() {
    let mut rng = Rng(103);
    let n = if cfg!(miri) { 35 } else { 500 };
    let (nsub, dsub) = (if cfg!(miri) { 3 } else { 24 }, 4);
    let dim = nsub * dsub;
    let q = rotated(&mut rng, dim, 0.6);
    let rows: Vec<Vec<f64>> = (0..n).map(|_| rotated(&mut rng, dim, 0.5)).collect();
    // As in a list, the residuals have no common direction.
    let mean = |d: usize| rows.iter().map(|row| row[d]).sum::<f64>() / n as f64;
    let centre: Vec<f64> = (0..dim).map(|d| mean(d) as f32 as f64).collect();
    for ksub in [16, 256] {
        let shape = PqShape { nsub, ksub, dsub };
        // Parts of residuals of other rows make a codebook that is good enough.
        let mut codebooks = vec![0; nsub * ksub * dsub * 4];
        for (s, book) in codebooks.chunks_mut(ksub * dsub * 4).enumerate() {
            for word in book.chunks_mut(dsub * 4) {
                let row = rotated(&mut rng, dim, 0.5);
                let r: Vec<f64> = row.iter().zip(&centre).map(|(r, c)| r - c).collect();
                word.copy_from_slice(&bytes(&r[s * dsub..][..dsub]));
            }
        }
        for metric in METRICS {
            for isa in available() {
                let t = token();
                let mut list = List::new(nsub, ksub == 16);
                for row in &rows {
                    let (mut codes, mut factors) = (vec![0xaa; nsub], [0; 3]);
                    let mut residual = vec![0; 4 * dim];
                    encode_parts(
                        &t,
                        isa,
                        metric,
                        shape,
                        &bytes(row),
                        &bytes(&centre),
                        &codebooks,
                        &mut residual,
                        &mut codes,
                        &mut factors,
                    )
                    .unwrap();
                    let mut again = vec![0; nsub];
                    pq_encode(&t, isa, shape, &residual, &codebooks, &mut again).unwrap();
                    assert_eq!(codes, again);
                    list.push(&codes, factors);
                }
                let mut table = vec![0; nsub * ksub];
                let inner = Metric::InnerProduct;
                pq_table(&t, isa, shape, inner, &bytes(&q), &codebooks, &mut table).unwrap();
                let (mut small, mut affine) = (vec![0; table.len()], [0; 2]);
                pq_reduce_table(&t, isa, &table, &mut small, &mut affine).unwrap();
                let table = if ksub == 16 {
                    PostingTable::Four(&small, &affine)
                } else {
                    PostingTable::Eight(&table)
                };
                let keys = centre_keys(isa, &bytes(&q), &bytes(&centre), dim);
                let (estimate, _) = list.scan(isa, metric, table, keys, 0, 0);
                let (lower, _) = list.scan(isa, metric, table, keys, 300, 0);
                let [error, missed, width] = judge(&rows, &q, metric, &estimate, &lower);
                assert!(
                    error.abs() < 0.3,
                    "{isa:?} {metric:?} ksub {ksub}: bias {error}"
                );
                assert!(
                    missed < 0.02,
                    "{isa:?} {metric:?} ksub {ksub}: missed {missed}"
                );
                assert!(width < 6.0, "{isa:?} {metric:?} ksub {ksub}: width {width}");
            }
        }
    }
}

#[test]
fn long_vectors_do_not_overflow_their_sums() {
    let t = token();
    // More parts than 16 bits can sum, all with the greatest entry.
    let dim = 4 * 1500;
    let nsub = dim / 4;
    let row: Vec<f64> = (0..dim)
        .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    let q: Vec<f64> = row.iter().map(|x| -x).collect();
    for isa in available() {
        let (mut codes, mut factors) = (vec![0; nsub], [0; 3]);
        let zero = vec![0; 4 * dim];
        encode_signs(
            &t,
            isa,
            Metric::L2Sq,
            &bytes(&row),
            &zero,
            &mut codes,
            &mut factors,
        )
        .unwrap();
        let mut list = List::new(nsub, true);
        list.push(&codes, factors);
        let (mut table, mut small) = (vec![0; nsub * 16], vec![0; nsub * 16]);
        let mut affine = [0; 2];
        sign_table(&t, isa, &bytes(&q), &mut table).unwrap();
        pq_reduce_table(&t, isa, &table, &mut small, &mut affine).unwrap();
        let keys = centre_keys(isa, &bytes(&q), &zero, dim);
        let table = PostingTable::Four(&small, &affine);
        let (estimate, _) = list.scan(isa, Metric::L2Sq, table, keys, 0, 0);
        let exact = 4.0 * dim as f64;
        assert!(
            (distance(estimate[0]) - exact).abs() < 1e-3 * exact,
            "{isa:?}"
        );
    }
}

#[test]
fn a_row_in_its_centre_has_the_distance_of_the_centre() {
    let mut rng = Rng(107);
    let t = token();
    let dim = 50;
    let centre = unit(&mut rng, dim, 0.2);
    let q = unit(&mut rng, dim, 0.0);
    for isa in available() {
        let (mut codes, mut factors) = (vec![0; 13], [0; 3]);
        let c = bytes(&centre);
        encode_signs(&t, isa, Metric::L2Sq, &c, &c, &mut codes, &mut factors).unwrap();
        let mut list = List::new(13, true);
        list.push(&codes, factors);
        let keys = centre_keys(isa, &bytes(&q), &c, dim);
        let table = PostingTable::Four(&[7; 13 * 16], &[0x3f80_0000, 0]);
        let (lower, hits) = list.scan(isa, Metric::L2Sq, table, keys, 300, keys[0]);
        assert_eq!((lower[0], hits[0]), (keys[0], 1), "{isa:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let t = token();
    let isa = Isa::best();
    let signs = |x: usize, c: usize, codes: usize, metric| {
        let (x, c) = (vec![0; x], vec![0; c]);
        encode_signs(&t, isa, metric, &x, &c, &mut vec![0; codes], &mut [0; 3])
    };
    assert_eq!(signs(20, 20, 2, Metric::L2Sq), Ok(()));
    assert_eq!(signs(20, 20, 1, Metric::L2Sq), Err(BadShape));
    assert_eq!(signs(20, 16, 2, Metric::L2Sq), Err(BadShape));
    assert_eq!(signs(21, 21, 2, Metric::L2Sq), Err(BadShape));
    assert_eq!(signs(0, 0, 0, Metric::L2Sq), Err(BadShape));
    assert_eq!(signs(20, 20, 2, Metric::Hamming), Err(BadShape));
    let subtract = |c: usize, out: usize| {
        let (x, c) = (bytes(&[3.0, 1.0]), &bytes(&[1.0, 4.0, 0.0])[..c]);
        let mut out = vec![0; out];
        subtract_f32(&t, isa, &x, c, &mut out).map(|()| values(Elem::F32, &out, 2))
    };
    assert_eq!(subtract(8, 8), Ok(vec![2.0, -3.0]));
    assert_eq!(subtract(12, 8), Err(BadShape));
    assert_eq!(subtract(8, 12), Err(BadShape));
    assert_eq!(sign_table(&t, isa, &[0; 20], &mut [0; 32]), Ok(()));
    assert_eq!(sign_table(&t, isa, &[0; 20], &mut [0; 31]), Err(BadShape));
    let shape = PqShape {
        nsub: 2,
        ksub: 2,
        dsub: 3,
    };
    let parts = |x: usize, books: usize, residual: usize, codes: usize| {
        let (x, books) = (vec![0; x], vec![0; books]);
        let (mut residual, mut codes) = (vec![0; residual], vec![0; codes]);
        encode_parts(
            &t,
            isa,
            Metric::L2Sq,
            shape,
            &x,
            &x,
            &books,
            &mut residual,
            &mut codes,
            &mut [0; 3],
        )
    };
    assert_eq!(parts(24, 48, 24, 2), Ok(()));
    assert_eq!(parts(24, 47, 24, 2), Err(BadShape));
    assert_eq!(parts(24, 48, 20, 2), Err(BadShape));
    assert_eq!(parts(24, 48, 24, 3), Err(BadShape));
    assert_eq!(parts(20, 48, 20, 2), Err(BadShape));
    let scan = |nsub: usize, words: usize, n: usize, hits: usize, metric| {
        let blocks: Vec<AtomicU32> = (0..words).map(|_| AtomicU32::new(0)).collect();
        let (small, mut lower, mut hits) = (vec![0; nsub], vec![0; n], vec![0; hits]);
        let table = PostingTable::Four(&small, &[0; 2]);
        scan_postings(
            &t, isa, metric, table, &blocks, 0, 0, 0, 0, &mut lower, &mut hits,
        )
    };
    let words = posting_words(2, true);
    assert_eq!(scan(32, words, 32, 1, Metric::L2Sq), Ok(()));
    assert_eq!(scan(32, words, 33, 2, Metric::L2Sq), Err(BadShape));
    assert_eq!(scan(32, 2 * words, 33, 2, Metric::L2Sq), Ok(()));
    assert_eq!(scan(32, words - 1, 1, 1, Metric::L2Sq), Err(BadShape));
    assert_eq!(scan(32, words, 32, 2, Metric::L2Sq), Err(BadShape));
    assert_eq!(scan(31, words, 32, 1, Metric::L2Sq), Err(BadShape));
    assert_eq!(scan(0, words, 32, 1, Metric::L2Sq), Err(BadShape));
    assert_eq!(scan(32, words, 32, 1, Metric::Hamming), Err(BadShape));
    assert_eq!(scan(32, 0, 0, 0, Metric::L2Sq), Ok(()));
}
