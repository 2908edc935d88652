// SPDX-License-Identifier: Apache-2.0

//! Cases of `doors.rs` that are about codes: of product quantisation, of single bits, of graph nodes.

use std::sync::atomic::Ordering::Relaxed;

use crate::common::*;
use crate::doors::{number, numbers, same};
use crate::guard::{Arena, Side};
use crate::source::{is_finite, Source};
use vexfs_simd_host::*;

/// Encoding and tables of product quantisation are those of its distances.
pub fn codebooks(src: &mut Source<'_>, [a, b, x, y]: [&mut Arena; 4]) {
    let t = token();
    let dsub = src.dim(20);
    let shape = PqShape {
        nsub: 1 + src.below(4),
        ksub: 1 + src.below(256),
        dsub,
    };
    let vector = src.row(Elem::F32, shape.nsub * dsub);
    let books = src.row(Elem::F32, shape.nsub * shape.ksub * dsub);
    let metric = src.pick(&[Metric::L2Sq, Metric::InnerProduct]);
    let (vector, books) = (a.put(&vector, src.side()), b.put(&books, src.side()));
    let sides = (src.side(), src.side());
    for isa in available() {
        let codes = x.bytes(shape.nsub, sides.0);
        pq_encode(&t, isa, shape, vector, books, codes).unwrap();
        let table = y.words::<u32>(shape.nsub * shape.ksub, sides.1);
        pq_table(&t, isa, shape, metric, vector, books, table).unwrap();
        for s in 0..shape.nsub {
            let part = &vector[4 * s * dsub..][..4 * dsub];
            let book = &books[4 * s * shape.ksub * dsub..][..4 * shape.ksub * dsub];
            let mut keys = vec![0; shape.ksub];
            let mut score = |metric| {
                score_rows(
                    &t,
                    isa,
                    Elem::F32,
                    metric,
                    part,
                    book,
                    4 * dsub,
                    dsub,
                    &mut keys,
                )
                .unwrap();
                keys.clone()
            };
            let distances = score(Metric::L2Sq);
            let least = distances.iter().min().unwrap();
            let nearest = distances.iter().position(|key| key == least).unwrap();
            assert_eq!(codes[s] as usize, nearest, "{isa:?} {shape:?}");
            let row = &table[s * shape.ksub..][..shape.ksub];
            let entries = score(metric)
                .into_iter()
                .map(|key| Distance(key).to_f32_bits());
            assert!(
                row.iter().copied().eq(entries),
                "{isa:?} {shape:?} {metric:?}"
            );
        }
    }
}

/// Scans of byte codes.
pub fn byte_codes(src: &mut Source<'_>, [a, b, x]: [&mut Arena; 3]) {
    let nsub = 1 + src.below(130);
    let n = src.below(50);
    let table: Vec<u32> = src
        .row(Elem::F32, nsub * 256)
        .chunks(4)
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
        .collect();
    let codes = src.row(Elem::U8, (n * nsub).max(1))[..n * nsub].to_vec();
    let (table, codes) = (a.put_words(&table, src.side()), b.put(&codes, src.side()));
    let side = src.side();
    same("a scan of byte codes", |isa| {
        let out = x.words(n, side);
        pq_scan8(&token(), isa, nsub, table, codes, out).unwrap();
        out.to_vec()
    });
}

/// Reduced tables and scans of 4-bit codes.
pub fn block_codes(src: &mut Source<'_>, [a, x, y]: [&mut Arena; 3]) {
    let t = token();
    let nsub = match src.byte() {
        0..250 => 1 + src.below(100),
        _ => 257,
    };
    let n = 1 + src.below(100);
    let table: Vec<u32> = src
        .row(Elem::F32, nsub * 16)
        .chunks(4)
        .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
        .collect();
    let mut codes = src.row(Elem::U8, n * nsub);
    codes.iter_mut().for_each(|code| *code &= 15);
    let mut packed = vec![0; n.div_ceil(32) * nsub * 16];
    pq_pack4(nsub, &codes, &mut packed).unwrap();
    let packed = a.put(&packed, src.side());
    let sides = (src.side(), src.side());
    same("a scan of 4-bit codes", |isa| {
        let (small, mut affine) = (x.bytes(nsub * 16, sides.0), [0; 2]);
        pq_reduce_table(&t, isa, &table, small, &mut affine).unwrap();
        let out = y.words(n.div_ceil(32) * 32, sides.1);
        pq_scan4(&t, isa, small, &affine, packed, out).unwrap();
        let affine = affine.map(|bits| number(f32::from_bits(bits)));
        (small.to_vec(), affine, out.to_vec())
    });
}

/// RaBitQ.
pub fn one_bit_codes(src: &mut Source<'_>, [a, b, c, x, y]: [&mut Arena; 5]) {
    let t = token();
    let dim = src.dim(MAX_DIM);
    let n = 1 + src.below(5);
    let rows: Vec<Vec<u8>> = (0..n).map(|_| src.row(Elem::F32, dim)).collect();
    let query = b.put(&src.row(Elem::F32, dim), src.side());
    let code_bytes = rabitq_code_bytes(dim);
    let stride = code_bytes + src.below(20);
    let sides: [Side; 5] = std::array::from_fn(|_| src.side());
    same("one-bit codes", |isa| {
        let mut codes = vec![0; (n - 1) * stride + code_bytes];
        for (row, place) in rows.iter().zip(codes.chunks_mut(stride)) {
            let (row, code) = (a.put(row, sides[0]), x.bytes(code_bytes, sides[1]));
            rabitq_encode(&t, isa, row, code).unwrap();
            let (signs, tail) = code.split_at(code_bytes - 16);
            let tail: Vec<u8> = numbers(tail).iter().flat_map(|w| w.to_le_bytes()).collect();
            place[..code_bytes].copy_from_slice(&[signs, &tail].concat());
        }
        let mut affine = [0; 6];
        let planes = y.words::<u64>(rabitq_query_words(dim), sides[2]);
        rabitq_prepare(&t, isa, query, planes, &mut affine).unwrap();
        let scanned = c.put(&codes, sides[3]);
        let (out, mut lower) = (x.words(n, sides[4]), vec![0; n]);
        rabitq_scan(
            &t, isa, planes, &affine, dim, scanned, stride, out, &mut lower,
        )
        .unwrap();
        let affine = affine.map(|bits| number(f32::from_bits(bits)));
        (codes, planes.to_vec(), affine, out.to_vec(), lower)
    });
}

/// Codes of graph nodes.
pub fn graph_codes(src: &mut Source<'_>, [a, b, c, x, y]: [&mut Arena; 5]) {
    let t = token();
    let kinds = [GraphKind::Sq8, GraphKind::Rabitq4, GraphKind::Rabitq1];
    let elem = src.pick(&[Elem::F32, Elem::F16, Elem::Bf16, Elem::I8, Elem::U8]);
    let raw = match (elem, src.byte() % 3) {
        (Elem::F32, 1) => Elem::F16,
        (Elem::F32, 2) => Elem::Bf16,
        _ => elem,
    };
    let kind = src.pick(&[kinds[0], kinds[1], kinds[2], GraphKind::Raw(raw)]);
    let (metric, dim) = (src.pick(&Metric::COMMON), src.dim(MAX_DIM));
    let Ok(coder) = GraphCode::new(kind, elem, metric, dim) else {
        return;
    };
    let n = 1 + src.below(9);
    let rows: Vec<Vec<u8>> = (0..n).map(|_| src.row(elem, dim)).collect();
    if rows.iter().any(|row| !is_finite(elem, row)) {
        return;
    }
    let centre = match src.byte() % 2 {
        1 if coder.centre_bytes() > 0 => random_row(&mut src.rng(), Elem::F32, dim),
        _ => vec![],
    };
    let centre = a.put(&centre, src.side());
    let sides: [Side; 5] = std::array::from_fn(|_| src.side());
    let mut run = |isa: Isa| {
        let (mut all, mut query) = (vec![], vec![]);
        for row in &rows {
            let row = b.put(row, sides[0]);
            let vector = x.words::<u32>(coder.vector_words(), sides[1]);
            let prepared = y.words::<u32>(coder.query_words(), sides[2]);
            coder
                .prepare(&t, isa, 5, centre, row, vector, prepared)
                .unwrap();
            query = prepared.to_vec();
            let code = c.words::<u32>(coder.code_words(), sides[3]);
            coder.encode(&t, isa, vector, prepared, code).unwrap();
            all.extend_from_slice(code);
        }
        let all = c.atoms(&all, sides[3]);
        let nodes: Vec<_> = all.chunks(coder.code_words()).collect();
        let prepared = y.put_words(&query, sides[2]);
        let out = x.words(n, sides[4]);
        coder.score(&t, isa, prepared, &nodes, out).unwrap();
        let scored = out.to_vec();
        coder
            .between(&t, isa, prepared, nodes[0], &nodes, out)
            .unwrap();
        let words = |words: &[u32]| -> Vec<u32> {
            words
                .iter()
                .map(|&bits| number(f32::from_bits(bits)))
                .collect()
        };
        let codes: Vec<u32> = all.iter().map(|word| word.load(Relaxed)).collect();
        (words(&codes), words(&query), scored, out.to_vec())
    };
    if kinds.contains(&kind) || !FLOATS.contains(&elem) {
        same(&format!("{kind:?} of {elem:?} {metric:?} dim {dim}"), run);
    } else {
        for isa in available() {
            run(isa);
        }
    }
}
