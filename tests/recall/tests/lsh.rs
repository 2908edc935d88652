// SPDX-License-Identifier: Apache-2.0

//! Hash tables against exact answers.

use vexfs_ann::ivf::{BadParams, Code, Found};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{cell_scale, Family, Params, Query};
use vexfs_ann::{Hit, TopK, Visible};
use vexfs_recall::hashes::{Memory, Tables};
use vexfs_recall::{narrow, recall, unit, All, Passing};
use vexfs_simd_host::*;

/// Rows near one of 200 centres, as elements of a type.
fn rows(elem: Elem, seed: u64, n: usize, dim: usize) -> Vec<u8> {
    let mut fixed = Random(77);
    let centres: Vec<f64> = (0..200 * dim).map(|_| unit(&mut fixed)).collect();
    let mut random = Random(seed);
    let mut floats = Vec::new();
    for _ in 0..n {
        let at = random.below(200) as usize * dim;
        let centre = centres[at..at + dim].iter();
        floats.extend(centre.flat_map(|c| ((c + 0.35 * unit(&mut random)) as f32).to_le_bytes()));
    }
    narrow::rows(elem, dim, 1.0, &floats)
}

/// Tables with or without codes; near rows are some 2.2 apart.
fn tables(elem: Elem, metric: Metric, code: Code, n: usize, dim: usize) -> Tables {
    let family = match metric {
        Metric::L2Sq => Family::Cells,
        _ => Family::Signs,
    };
    let row_bytes = elem.row_bytes(dim) as u32;
    let params = Params {
        nbits: 8,
        ntables: 8,
        code,
        ..Params::default_for(n as u64, dim as u32, row_bytes, family)
    };
    let tables = Tables::new(elem, metric, params, 5.0, rows(elem, 1, n, dim));
    tables.build();
    tables
}

fn search(
    tables: &Tables,
    query: &[u8],
    nprobe: u32,
    visible: &mut impl Visible<Error = BadShape>,
    k: usize,
) -> (Vec<Hit>, Found) {
    let rows = tables.space.n();
    let query_of = Query {
        nprobe,
        rerank: 10 * k as u32,
        rows: rows as u64,
    };
    let mut memory = Memory::new(rows, nprobe, 10 * k);
    let mut hits = vec![Hit::default(); k];
    let mut top = TopK::new(&mut hits);
    let found = tables.search(&mut memory, query, visible, &query_of, &mut top);
    assert!(memory.is_clear());
    (top.into_sorted().to_vec(), found)
}

fn exact(tables: &Tables, query: &[u8], passes: impl Fn(u64) -> bool, k: usize) -> Vec<Hit> {
    let space = &tables.space;
    let rows: Vec<u64> = (0..space.n() as u64).filter(|row| passes(*row)).collect();
    let list: Vec<&[u8]> = rows.iter().map(|row| space.row(*row as usize)).collect();
    let mut out = vec![0; rows.len()];
    let (elem, metric, dim) = (space.elem, space.metric, space.dim);
    score_list(
        &token(),
        Isa::best(),
        elem,
        metric,
        query,
        &list,
        dim,
        &mut out,
    )
    .unwrap();
    let mut hits: Vec<Hit> = rows
        .iter()
        .zip(out)
        .map(|(&row, distance)| Hit {
            distance,
            key: row,
            row,
        })
        .collect();
    hits.sort();
    hits.truncate(k);
    hits
}

#[test]
fn every_family_finds_what_an_exact_scan_finds_in_few_rows() {
    for (elem, metric, code) in [
        (Elem::F32, Metric::Cosine, Code::Flat),
        (Elem::F32, Metric::Cosine, Code::Signs),
        (Elem::F32, Metric::L2Sq, Code::Flat),
        (Elem::F32, Metric::L2Sq, Code::Signs),
        (Elem::Binary, Metric::Hamming, Code::Flat),
    ] {
        let (n, dim) = (8000, 64);
        let tables = tables(elem, metric, code, n, dim);
        let queries = rows(elem, 2, 50, dim);
        let (mut found, mut truth, mut scored, mut alone) = (vec![], vec![], 0, 0);
        let cost = |found: Found| match code {
            Code::Flat => found.distances,
            _ => found.codes,
        };
        for q in queries.chunks(elem.row_bytes(dim)) {
            let (hits, done) = search(&tables, q, 12, &mut All, 10);
            scored += cost(done);
            found.push(hits);
            truth.push(exact(&tables, q, |_| true, 10));
            alone += cost(search(&tables, q, 1, &mut All, 10).1);
            if code != Code::Flat {
                assert!(done.distances <= 100, "{} rows scored", done.distances);
            }
        }
        let recall = recall(&found, &truth);
        assert!(recall >= 0.9, "{metric:?} {code:?}: {recall}");
        assert!(
            scored < 50 * n as u64 / 2,
            "{metric:?} {code:?}: {scored} rows scored"
        );
        assert!(
            alone < scored,
            "{metric:?} {code:?}: probes find no more rows"
        );
    }
}

#[test]
fn filters_leave_k_filled_and_deleted_rows_are_gone() {
    for code in [Code::Flat, Code::Signs] {
        let tables = tables(Elem::F32, Metric::Cosine, code, 3000, 32);
        let row = |row| tables.space.row(row);
        for row in 0..1000 {
            tables.delete(row * 3);
        }
        let there = |row: u64| !row.is_multiple_of(3);
        for every in [1u64, 50, 1000, 100_000] {
            let passes = move |row: u64| there(row) && row % every == 1 % every;
            let truth = exact(&tables, row(5), passes, 10);
            let (hits, _) = search(&tables, row(5), 4, &mut Passing(passes), 10);
            assert_eq!(hits.len(), truth.len(), "one of {every}");
            assert!(hits.iter().all(|hit| passes(hit.row)));
            // Each once.
            let mut rows: Vec<u64> = hits.iter().map(|hit| hit.row).collect();
            rows.sort();
            rows.dedup();
            assert_eq!(rows.len(), hits.len());
        }
        let (hits, _) = search(&tables, row(6), 256, &mut All, 10);
        assert!(hits.iter().all(|hit| there(hit.row)));
        for row in 0..1000 {
            tables.insert(row * 3);
        }
        let (hits, _) = search(&tables, row(6), 1, &mut All, 1);
        assert_eq!(hits[0].row, 6);
    }
}

#[test]
fn a_row_is_in_its_own_bucket_of_every_table() {
    for (metric, code) in [
        (Metric::Cosine, Code::Flat),
        (Metric::L2Sq, Code::Flat),
        (Metric::L2Sq, Code::Signs),
    ] {
        let tables = tables(Elem::F32, metric, code, 500, 16);
        for row in 0..500 {
            let (hits, found) = search(&tables, tables.space.row(row), 1, &mut All, 1);
            assert_eq!(hits[0].row, row as u64);
            assert_eq!(found.lists, tables.params.ntables);
        }
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let good = Params::default_for(1000, 64, 256, Family::Signs);
    assert!(good.table().is_ok());
    for bad in [
        Params { ntables: 0, ..good },
        Params {
            ntables: 33,
            ..good
        },
        Params { nbits: 0, ..good },
        Params { nbits: 17, ..good },
        Params {
            nbits: 5,
            dim: 4,
            ..good
        },
        Params { dim: 0, ..good },
        Params {
            code: Code::Pq4 { nsub: 16 },
            ..good
        },
    ] {
        assert_eq!(bad.table().err(), Some(BadParams), "{bad:?}");
    }
}

#[test]
fn defaults_take_less_than_half_of_the_rows_whatever_their_type() {
    for rows in [1000, 10_000u64, 1_000_000, 100_000_000] {
        for dim in [128u32, 384, 768, 1536] {
            for row_bytes in [dim / 8, dim, 2 * dim, 4 * dim] {
                let params = Params::default_for(rows, dim, row_bytes, Family::Cells);
                let share = 100 * params.resident_bytes(rows) / (rows * u64::from(row_bytes));
                assert!(share < 50, "{rows} rows of {row_bytes} bytes: {share} %");
            }
        }
    }
}

#[test]
fn cells_are_several_near_distances_wide() {
    let mut random = Random(3);
    for dim in [1u32, 2, 3, 48, 128, 384, 1536, 65_535, 65_536] {
        for _ in 0..2000 {
            // Every exponent but those of zeros, subnormal numbers and infinities.
            let exponent = 1 + random.below(254) as u32;
            let near = exponent << 23 | random.below(1 << 23) as u32;
            let got = f32::from_bits(cell_scale(dim, near)) as f64;
            let width = (32.0 * f32::from_bits(near) as f64).sqrt();
            let want = (dim as f64).sqrt() * 65536.0 / width;
            assert!(
                (got / want - 1.0).abs() < 1e-4,
                "{dim} {near:#x}: {got} {want}"
            );
        }
        for none in [0, 1, 0x7f80_0000, 0x7fc0_0000, 0x8000_0000, 0xc040_0000] {
            let got = f32::from_bits(cell_scale(dim, none)) as f64;
            let want = (dim as f64).sqrt() * 65536.0;
            assert!((got / want - 1.0).abs() < 1e-4, "{dim} {none:#x}: {got}");
        }
    }
}
