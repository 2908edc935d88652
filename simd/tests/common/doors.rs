// SPDX-License-Identifier: Apache-2.0

//! One call of one function of the door, its shape, places and contents drawn from bytes, on every
//! instruction set. The fuzz target draws them from libFuzzer, a test from a generator.
//!
//! Buffers lie between guard pages. Results are compared with portable code, or with the oracle where
//! documentation allows a difference.

use crate::codes::{block_codes, byte_codes, codebooks, graph_codes, one_bit_codes};
use crate::common::*;
use crate::guard::{Arena, Side};
use crate::source::{is_finite, Source};
use vexfs_simd_host::*;

/// Room for the buffers of one call: three to read, two to write.
pub struct Arenas([Arena; 5]);

/// Bytes of an arena: eleven of the longest rows.
const ROOM: usize = 3 << 20;

impl Arenas {
    /// Large enough for every case.
    pub fn new() -> Arenas {
        Arenas(std::array::from_fn(|_| Arena::new(ROOM)))
    }

    fn check(&self) {
        let intact = self.0.iter().all(Arena::is_intact);
        assert!(intact, "a write beyond a buffer");
    }
}

/// Draws one case and checks it on every instruction set.
pub fn case(bytes: &[u8], arenas: &mut Arenas) {
    let src = &mut Source(bytes);
    let [a, b, c, x, y] = &mut arenas.0;
    match src.byte() % 21 {
        0..4 => scores(src, [a, b, c, x, y]),
        4 => wild_shapes(src, [a, b, c, x, y]),
        5 => non_finite(src, a),
        6 => conversions(src, [a, x]),
        7 => quantisers(src, [a, b, c, x, y]),
        8 => in_place(src, x),
        9 => assignments(src, [a, b, x, y]),
        10 => sums(src, [a, b, x, y]),
        11 => codebooks(src, [a, b, x, y]),
        12 => byte_codes(src, [a, b, x]),
        13 => block_codes(src, [a, x, y]),
        14 => one_bit_codes(src, [a, b, c, x, y]),
        15 => signs(src, [a, x]),
        16 | 17 => tiles(src, [a, b, x]),
        18 => spills(src, [a, x]),
        _ => graph_codes(src, [a, b, c, x, y]),
    }
    arenas.check();
}

/// `run` gives the same on every instruction set.
pub fn same<T: PartialEq>(what: &str, mut run: impl FnMut(Isa) -> T) {
    let want = run(Isa::Scalar);
    for isa in available() {
        assert!(run(isa) == want, "{isa:?}: {what}");
    }
}

/// The bits of f32s, one pattern for all NaN.
pub fn numbers(bytes: &[u8]) -> Vec<u32> {
    let word = |w: &[u8]| f32::from_le_bytes(w.try_into().unwrap());
    let words = bytes.chunks_exact(4).map(word);
    words.map(number).collect()
}

/// The bits of an f32, one pattern for all NaN.
pub fn number(v: f32) -> u32 {
    if v.is_nan() {
        f32::NAN.to_bits()
    } else {
        v.to_bits()
    }
}

fn scores(src: &mut Source<'_>, [a, b, c, x, _]: [&mut Arena; 5]) {
    let t = token();
    let elem = src.pick(&Elem::ALL);
    let metric = match src.pick(&[0, 1, 2, 3]) {
        3 if elem == Elem::Binary => Metric::Hamming,
        m => Metric::COMMON[m % 3],
    };
    let dim = src.dim(MAX_DIM);
    let row = elem.row_bytes(dim);
    // Rows may overlap.
    let stride = match src.byte() {
        0..128 => row,
        128..224 => row + src.below(100),
        _ => src.below(row + 1),
    };
    let most = ((ROOM - 256 - row) / stride.max(1) + 1).min(24);
    let n = 1 + src.below(most);
    let mut memory = vec![0; (n - 1) * stride + row];
    let mut kind = src.row(elem, dim);
    for i in 0..n {
        if i < 3 {
            kind = src.row(elem, dim);
        } else {
            // Further rows are the third with its bytes in another order.
            kind.rotate_left(elem.row_bytes(8).min(row - 1));
        }
        memory[i * stride..][..row].copy_from_slice(&kind);
    }
    let query = src.row(elem, dim);
    let offsets: Vec<u64> = match src.byte() % 3 {
        0 => (0..n).map(|i| (i * stride) as u64).collect(),
        1 => (0..n).rev().map(|i| (i * stride) as u64).collect(),
        _ => (0..n)
            .map(|_| src.below(memory.len() - row + 1) as u64)
            .collect(),
    };
    let way = if offsets[0] == 0 && offsets[n - 1] == ((n - 1) * stride) as u64 {
        src.byte() % 3
    } else {
        1 + src.byte() % 2
    };
    let query = a.put(&query, src.side());
    let rows = b.put(&memory, src.side());
    let offsets = c.put_words(&offsets, src.side());
    let at = |i: usize| &rows[offsets[i] as usize..][..row];
    let list: Vec<&[u8]> = (0..n).map(at).collect();
    let side = src.side();
    let mut keys = |isa: Isa| -> Vec<u32> {
        let out = x.words(n, side);
        match way {
            0 => score_rows(&t, isa, elem, metric, query, rows, stride, dim, out),
            1 => score_gather(&t, isa, elem, metric, query, rows, offsets, dim, out),
            _ => score_list(&t, isa, elem, metric, query, &list, dim, out),
        }
        .unwrap();
        out.to_vec()
    };
    let reference = keys(Isa::Scalar);
    let q = values(elem, query, dim);
    // A row that is not finite gets some key, and disturbs no other.
    let exact: Vec<_> = (0..n)
        .filter(|&i| is_finite(elem, query) && is_finite(elem, at(i)))
        .map(|i| (i, values(elem, at(i), dim)))
        .map(|(i, r)| (i, oracle(metric, &q, &r), r))
        .collect();
    for isa in available() {
        let got = keys(isa);
        for &(i, (exact, terms), ref r) in &exact {
            let what = || format!("{isa:?} {elem:?} {metric:?} dim {dim} row {i} of {n}");
            let mut alone = [0];
            score_list(&t, isa, elem, metric, query, &[at(i)], dim, &mut alone).unwrap();
            assert_eq!(got[i], alone[0], "{}: another key than alone", what());
            if !FLOATS.contains(&elem) {
                assert_eq!(got[i], reference[i], "{}: not bit-exact", what());
            }
            let allowed = worst_case(isa, elem, exact, terms, &q, r);
            let error = (distance(got[i]) - exact).abs();
            let overflows = exact.abs() + allowed > f32::MAX as f64
                && distance(got[i]) == f64::INFINITY.copysign(exact);
            assert!(
                error <= allowed || overflows,
                "{}: {} is {error:e} from {exact}, {allowed:e} is allowed",
                what(),
                distance(got[i]),
            );
        }
    }
}

/// Several queries at once get what each gets alone.
fn tiles(src: &mut Source<'_>, [a, b, x]: [&mut Arena; 3]) {
    let t = token();
    let elem = src.pick(&Elem::ALL);
    let metric = src.pick(&Metric::COMMON);
    let dim = src.dim(2000);
    let row = elem.row_bytes(dim);
    let (nq, n) = (1 + src.below(9), 1 + src.below(20));
    let stride = row + src.below(70);
    let mut memory = vec![0; (n - 1) * stride + row];
    for place in memory.chunks_mut(stride) {
        place[..row].copy_from_slice(&src.row(elem, dim));
    }
    let queries: Vec<u8> = (0..nq).flat_map(|_| src.row(elem, dim)).collect();
    let (queries, rows) = (a.put(&queries, src.side()), b.put(&memory, src.side()));
    let at = |i: usize| &rows[i * stride..][..row];
    let list: Vec<&[u8]> = (0..n).map(at).collect();
    let (listed, side) = (src.pick(&[false, true]), src.side());
    for isa in available() {
        let out = x.words::<u32>(nq * n, side);
        if listed {
            score_many_list(&t, isa, elem, metric, queries, &list, dim, out).unwrap();
        } else {
            score_many_rows(&t, isa, elem, metric, queries, rows, stride, dim, out).unwrap();
        }
        for (query, keys) in queries.chunks(row).zip(out.chunks(n)) {
            let mut alone = vec![0; n];
            score_rows(&t, isa, elem, metric, query, rows, stride, dim, &mut alone).unwrap();
            for i in 0..n {
                if is_finite(elem, query) && is_finite(elem, at(i)) {
                    let what = format!("{isa:?} {elem:?} {metric:?} dim {dim}");
                    assert_eq!(keys[i], alone[i], "{what} {nq} x {n} row {i}");
                }
            }
        }
    }
}

/// Shapes that mostly do not fit: refused or computed, but nothing beyond the slices.
fn wild_shapes(src: &mut Source<'_>, [a, b, c, x, y]: [&mut Arena; 5]) {
    let t = token();
    let isa = src.pick(&Isa::ALL);
    let elem = src.pick(&Elem::ALL);
    let metric = src.pick(&[
        Metric::L2Sq,
        Metric::InnerProduct,
        Metric::Cosine,
        Metric::Hamming,
    ]);
    let mut size = || match src.byte() {
        0..160 => src.below(70),
        160..200 => src.below(5000),
        200..220 => MAX_DIM + 1 - src.below(3),
        220..240 => usize::MAX - src.below(70),
        _ => 1usize << src.below(64),
    };
    let (dim, stride, third) = (size(), size(), size());
    let [la, lb, lc, lx, ly] = std::array::from_fn(|_| size().min(300_000));
    let (one, two) = (a.bytes(la, Side::End), b.bytes(lb, Side::Start));
    one.fill(0x3c);
    two.fill(0x3d);
    let words = c.words::<u64>(lc / 8, Side::End);
    for (i, word) in words.iter_mut().enumerate() {
        *word = i.wrapping_mul(third) as u64;
    }
    let out = x.bytes(lx, Side::End);
    let more = y.words::<u32>(ly / 4, Side::End);
    let shape = PqShape {
        nsub: dim,
        ksub: third,
        dsub: stride,
    };
    let by = Quantiser {
        offset: two,
        scale: two,
    };
    // What comes of it is for the tests of each function; here it may only stay within its slices.
    let _ = match src.byte() % 24 {
        0 => score_rows(&t, isa, elem, metric, one, two, stride, dim, more),
        1 => score_gather(&t, isa, elem, metric, one, two, words, dim, more),
        2 => score_list(&t, isa, elem, metric, one, &[&*two, &*one], dim, more),
        3 => convert(&t, isa, elem, src.pick(&Elem::ALL), one, out),
        4 => quantise_i8(&t, isa, by, one, out),
        5 => dequantise_i8(&t, isa, by, one, out),
        6 => normalise_f32(&t, isa, out).then_some(()).ok_or(BadShape),
        7 => {
            let (ids, keys) = more.split_at_mut(ly / 8);
            assign_f32(&t, isa, one, stride, dim, two, ids, keys)
        }
        8 => {
            let counts = &mut vec![0; third.min(1000)];
            more.fill(1);
            accumulate_f32(&t, isa, one, stride, dim, more, words, counts)
        }
        9 => centroids_f32(&t, isa, dim, words, &vec![0; third.min(1000)], out).map(|_| ()),
        10 => rotate_f32(&t, isa, 7, out),
        11 => sign_bits_f32(&t, isa, one, out),
        12 => pq_encode(&t, isa, shape, one, two, out),
        13 => pq_table(&t, isa, shape, metric, one, two, more),
        14 => pq_scan8(&t, isa, dim, &vec![0; dim.min(2000) * 256], one, more),
        15 => pq_reduce_table(&t, isa, &vec![0; la / 4], out, &mut [0; 2]),
        16 => pq_pack4(dim, &vec![7; la], out),
        17 => pq_scan4(&t, isa, one, &[0; 2], two, more),
        19 => score_many_rows(&t, isa, elem, metric, one, two, stride, dim, more),
        20 => score_many_list(&t, isa, elem, metric, one, &[&*two, &*one], dim, more),
        21 => GraphCode::new(
            src.pick(&[GraphKind::Sq8, GraphKind::Rabitq4, GraphKind::Rabitq1]),
            elem,
            metric,
            dim,
        )
        .and_then(|code| {
            let query = &mut vec![0; code.query_words().min(1 << 17)];
            code.prepare(&t, isa, 5, two, one, more, query)
        }),
        18 => rabitq_prepare(&t, isa, one, words, &mut [0; 6]),
        22 => {
            let (keys, costs) = more.split_at_mut(ly / 8);
            spill_costs(&t, isa, third as u32, keys, costs)
        }
        _ => {
            let lower = &mut vec![0; ly / 4];
            rabitq_encode(&t, isa, one, out).and(rabitq_scan(
                &t, isa, words, &[0; 6], dim, two, stride, more, lower,
            ))
        }
    };
}

fn non_finite(src: &mut Source<'_>, a: &mut Arena) {
    let elem = src.pick(&FLOATS);
    let dim = src.dim(4096);
    let mut row = src.row(elem, dim);
    row.extend(vec![0xff; src.below(elem.row_bytes(1))]);
    let row = a.put(&row, src.side());
    same("the first element that is not finite", |isa| {
        first_non_finite(&token(), isa, elem, row)
    });
    let bad = values(elem, row, dim).iter().position(|v| !v.is_finite());
    assert_eq!(first_non_finite(&token(), Isa::Scalar, elem, row), bad);
}

fn conversions(src: &mut Source<'_>, [a, x]: [&mut Arena; 2]) {
    let half = src.pick(&[Elem::F16, Elem::Bf16]);
    let (from, to) = src.pick(&[(Elem::F32, half), (half, Elem::F32)]);
    let dim = src.dim(4096);
    let row = a.put(&src.row(from, dim), src.side());
    let side = src.side();
    same("conversion", |isa| {
        let out = x.bytes(to.row_bytes(dim), side);
        convert(&token(), isa, from, to, row, out).unwrap();
        out.to_vec()
    });
}

fn quantisers(src: &mut Source<'_>, [a, b, c, x, y]: [&mut Arena; 5]) {
    let t = token();
    let dim = src.dim(4096);
    let row = a.put(&src.row(Elem::F32, dim), src.side());
    let pairs = src.pick(&[1, dim]);
    let by = Quantiser {
        offset: b.put(&src.row(Elem::F32, pairs), src.side()),
        scale: c.put(&src.row(Elem::F32, pairs), src.side()),
    };
    let sides = (src.side(), src.side());
    same("quantisation", |isa| {
        let codes = x.bytes(dim, sides.0);
        quantise_i8(&t, isa, by, row, codes).unwrap();
        let back = y.bytes(4 * dim, sides.1);
        dequantise_i8(&t, isa, by, codes, back).unwrap();
        (codes.to_vec(), numbers(back))
    });
}

fn in_place(src: &mut Source<'_>, x: &mut Arena) {
    let dim = src.dim(MAX_DIM);
    let row = src.row(Elem::F32, dim);
    let (seed, side) = (src.word() as u64, src.side());
    let rotates = src.pick(&[false, true]);
    same(if rotates { "rotation" } else { "normalisation" }, |isa| {
        let out = x.bytes(4 * dim, side);
        out.copy_from_slice(&row);
        if rotates {
            rotate_f32(&token(), isa, seed, out).unwrap();
        } else if !normalise_f32(&token(), isa, out) {
            assert_eq!(out, row);
        }
        numbers(out)
    });
}

fn assignments(src: &mut Source<'_>, [a, b, x, y]: [&mut Arena; 4]) {
    let t = token();
    let dim = src.dim(300);
    let (n, k) = (1 + src.below(9), 1 + src.below(150));
    let rows: Vec<u8> = (0..n).flat_map(|_| src.row(Elem::F32, dim)).collect();
    let mut centroids: Vec<u8> = (0..k.min(4))
        .flat_map(|_| src.row(Elem::F32, dim))
        .collect();
    let mut rng = src.rng();
    while centroids.len() < 4 * k * dim {
        centroids.extend(random_row(&mut rng, Elem::F32, dim));
    }
    let (rows, centroids) = (a.put(&rows, src.side()), b.put(&centroids, src.side()));
    let sides = (src.side(), src.side());
    for isa in available() {
        let (ids, keys) = (x.words(n, sides.0), y.words(n, sides.1));
        assign_f32(&t, isa, rows, 4 * dim, dim, centroids, ids, keys).unwrap();
        for (i, row) in rows.chunks(4 * dim).enumerate() {
            let mut all = vec![0; k];
            score_rows(
                &t,
                isa,
                Elem::F32,
                Metric::L2Sq,
                row,
                centroids,
                4 * dim,
                dim,
                &mut all,
            )
            .unwrap();
            let least = *all.iter().min().unwrap();
            let nearest = all.iter().position(|&key| key == least).unwrap();
            let what = format!("{isa:?} dim {dim} k {k}");
            assert_eq!((ids[i] as usize, keys[i]), (nearest, least), "{what}");
        }
    }
}

/// Costs are at least the squared residual and at most two and a half times that, and those of the formula wherever
/// its squares fit an f32.
fn spills(src: &mut Source<'_>, [a, x]: [&mut Arena; 2]) {
    let n = src.below(70);
    // Distances have no sign; whatever has one may be there too.
    let sign = src.pick(&[0, 0, 0, 1 << 31]);
    let key = |v: f32| Distance::from_f32_bits(v.to_bits() & (0x7fff_ffff | sign)).0;
    let mut keys = |n| -> Vec<u32> {
        let row = src.row(Elem::F32, n);
        let floats = row
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        floats.map(key).collect()
    };
    let (first, others, between) = (keys(1)[0], keys(n), keys(n));
    let (others, side) = (a.put_words(&others, src.side()), src.side());
    let mut costs = |isa: Isa| -> Vec<u32> {
        let out = x.words::<u32>(n, side);
        out.copy_from_slice(&between);
        spill_costs(&token(), isa, first, others, out).unwrap();
        let float = |key: &u32| number(f32::from_bits(Distance(*key).to_f32_bits()));
        out.iter().map(float).collect()
    };
    same("costs of second lists", &mut costs);
    let r = distance(first);
    for (i, cost) in costs(Isa::Scalar).into_iter().enumerate() {
        let (s, b, cost) = (
            distance(others[i]),
            distance(between[i]),
            f32::from_bits(cost) as f64,
        );
        let what = format!("{cost:e} of {r:e}, {s:e} and {b:e}");
        if (0.0..1e38).contains(&s) {
            assert!((s..=s * 2.500001 + 1e-44).contains(&cost), "{what}");
        }
        if [r, s, b].iter().all(|v| (1e-9..1e9).contains(v)) {
            let (inner, error) = ((r + s - b) / 2.0, f32::EPSILON as f64 * (r + s + b));
            let want = s + 1.5 * (inner * inner / r).min(s);
            let allowed = 1.5 * error * (2.0 * inner.abs() + error) / r + 1e-6 * want;
            assert!(
                (cost - want).abs() <= allowed,
                "{what}: {want:e} +- {allowed:e}"
            );
        }
    }
}

fn sums(src: &mut Source<'_>, [a, b, x, y]: [&mut Arena; 4]) {
    let t = token();
    let dim = src.dim(2000);
    let (n, k) = (src.below(9), 1 + src.below(5));
    let rows: Vec<u8> = (0..n).flat_map(|_| src.row(Elem::F32, dim)).collect();
    let ids: Vec<u32> = (0..n).map(|_| src.below(k) as u32).collect();
    let (rows, ids) = (a.put(&rows, src.side()), b.put_words(&ids, src.side()));
    let sides = (src.side(), src.side());
    same("centroids", |isa| {
        let (sums, mut counts) = (x.words::<u64>(k * dim, sides.0), vec![0; k]);
        sums.fill(0);
        accumulate_f32(&t, isa, rows, 4 * dim, dim, ids, sums, &mut counts).unwrap();
        let out = y.bytes(4 * k * dim, sides.1);
        out.fill(7);
        let empty = centroids_f32(&t, isa, dim, sums, &counts, out).unwrap();
        let nan = |bits: u64| f64::from_bits(bits).is_nan();
        let sums: Vec<u64> = sums.iter().map(|&s| if nan(s) { 0 } else { s }).collect();
        (sums, counts, empty, numbers(out))
    });
}

fn signs(src: &mut Source<'_>, [a, x]: [&mut Arena; 2]) {
    let dim = src.dim(4096);
    let row = a.put(&src.row(Elem::F32, dim), src.side());
    let side = src.side();
    let positive: Vec<bool> = values(Elem::F32, row, dim)
        .iter()
        .map(|&v| v > 0.0)
        .collect();
    for isa in available() {
        let bits = x.bytes(dim.div_ceil(8), side);
        sign_bits_f32(&token(), isa, row, bits).unwrap();
        for i in 0..8 * bits.len() {
            let want = positive.get(i).copied().unwrap_or(false);
            assert_eq!(
                bits[i / 8] >> (i % 8) & 1 == 1,
                want,
                "{isa:?} dim {dim} bit {i}"
            );
        }
    }
}
