// SPDX-License-Identifier: Apache-2.0

//! Hash tables against exact answers.

use vexfs_ann::ivf::{BadParams, Found, Index};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::probe::Perturbation;
use vexfs_ann::lsh::{cell_scale, sample_bits, search, Family, Numeric, Params, Query, Workspace};
use vexfs_ann::{Hit, TopK, Visible};
use vexfs_recall::lists::*;
use vexfs_simd_host::*;

/// Rows and their tables.
struct Tables {
    elem: Elem,
    metric: Metric,
    params: Params,
    /// How many units a cell is wide: some four times the distance of near rows.
    width: f64,
    rows: Vec<u8>,
    tables: Vec<Index<Arena>>,
}

fn unit(random: &mut Random) -> f64 {
    (random.word() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Rows near one of 200 centres, as elements of a type.
fn rows(elem: Elem, seed: u64, n: usize, dim: usize) -> Vec<u8> {
    let mut fixed = Random(77);
    let centres: Vec<f64> = (0..200 * dim).map(|_| unit(&mut fixed)).collect();
    let mut random = Random(seed);
    let mut out = Vec::new();
    for _ in 0..n {
        let at = random.below(200) as usize * dim;
        let floats: Vec<u8> = centres[at..at + dim]
            .iter()
            .flat_map(|c| ((c + 0.35 * unit(&mut random)) as f32).to_le_bytes())
            .collect();
        if elem == Elem::Binary {
            let mut bits = vec![0; elem.row_bytes(dim)];
            sign_bits_f32(&token(), Isa::Scalar, &floats, &mut bits).unwrap();
            out.extend(bits);
        } else {
            out.extend(floats);
        }
    }
    out
}

impl Tables {
    fn new(elem: Elem, metric: Metric, family: Family, n: usize, dim: usize) -> Self {
        let params = Params {
            nbits: 8,
            ..Params::default_for(n as u64, dim as u32, family)
        };
        let table = params.table().unwrap();
        let blocks = table.most_blocks(n as u64) as u32;
        let new = |_| Index::new(table, Arena::new(&table, blocks)).unwrap();
        let tables = Tables {
            elem,
            metric,
            params,
            width: 9.0,
            rows: rows(elem, 1, n, dim),
            tables: (0..params.ntables).map(new).collect(),
        };
        for row in 0..n as u64 {
            tables.insert(row);
        }
        tables
    }

    fn n(&self) -> u64 {
        (self.rows.len() / self.elem.row_bytes(self.params.dim as usize)) as u64
    }

    fn row(&self, row: u64) -> &[u8] {
        let bytes = self.elem.row_bytes(self.params.dim as usize);
        &self.rows[row as usize * bytes..][..bytes]
    }

    fn project(&self, vector: &[u8], table: u32, out: &mut [i32]) {
        let (seed, dim) = (self.params.seed, self.params.dim);
        if self.elem == Elem::Binary {
            return sample_bits(seed, table, dim, vector, out);
        }
        let mut rotated = vector.to_vec();
        rotate_f32(&token(), Isa::best(), seed + table as u64, &mut rotated).unwrap();
        let scale = (dim as f64).sqrt() * 65536.0 / self.width;
        fixed_f32(
            &token(),
            Isa::best(),
            &rotated,
            (scale as f32).to_bits(),
            out,
        )
        .unwrap();
    }

    fn bucket(&self, row: u64, table: u32) -> u32 {
        let mut projections = vec![0; self.params.nbits as usize];
        self.project(self.row(row), table, &mut projections);
        self.params.bucket(&projections)
    }

    fn insert(&self, row: u64) {
        for (t, table) in (0..).zip(&self.tables) {
            let mut writer = table.writer();
            writer
                .append::<()>(self.bucket(row, t), row, &[], &[0; 3])
                .unwrap();
        }
    }

    fn delete(&self, row: u64) {
        for (t, table) in (0..).zip(&self.tables) {
            let mut writer = table.writer();
            assert!(writer.delete_from::<()>(self.bucket(row, t), row).unwrap());
        }
    }

    fn search(
        &self,
        query: &[u8],
        nprobe: u32,
        visible: &mut impl Visible<Error = BadShape>,
        k: usize,
    ) -> (Vec<Hit>, Found) {
        let mut visited = vec![0; self.n().div_ceil(64) as usize];
        let mut hits = vec![Hit::default(); k];
        let mut top = TopK::new(&mut hits);
        let rows = self.n();
        let found = search(
            &self.params,
            &self.tables,
            &mut Workspace {
                visited: &mut visited,
                // Too few for many probes: then all is cleared.
                touched: &mut [0; 20],
                heap: &mut vec![Perturbation::default(); nprobe as usize],
            },
            &mut Scorer {
                tables: self,
                query,
            },
            visible,
            &Query { nprobe, rows },
            &mut top,
        )
        .unwrap();
        assert!(visited.iter().all(|word| *word == 0));
        (top.into_sorted().to_vec(), found)
    }

    fn exact(&self, query: &[u8], passes: impl Fn(u64) -> bool, k: usize) -> Vec<Hit> {
        let rows: Vec<u64> = (0..self.n()).filter(|row| passes(*row)).collect();
        let mut out = vec![0; rows.len()];
        Scorer {
            tables: self,
            query,
        }
        .exact(&rows, &mut out)
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
}

struct Scorer<'a> {
    tables: &'a Tables,
    query: &'a [u8],
}

impl Numeric for Scorer<'_> {
    type Error = BadShape;

    fn project(&mut self, table: u32, out: &mut [i32]) -> Result<(), BadShape> {
        self.tables.project(self.query, table, out);
        Ok(())
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), BadShape> {
        let Tables {
            elem,
            metric,
            ref params,
            ..
        } = *self.tables;
        let list: Vec<&[u8]> = rows.iter().map(|row| self.tables.row(*row)).collect();
        let dim = params.dim as usize;
        score_list(
            &token(),
            Isa::best(),
            elem,
            metric,
            self.query,
            &list,
            dim,
            out,
        )
    }
}

#[test]
fn every_family_finds_what_an_exact_scan_finds_in_few_rows() {
    for (elem, metric, family) in [
        (Elem::F32, Metric::Cosine, Family::Signs),
        (Elem::F32, Metric::L2Sq, Family::Cells),
        (Elem::Binary, Metric::Hamming, Family::Signs),
    ] {
        let (n, dim) = (8000, 64);
        let tables = Tables::new(elem, metric, family, n, dim);
        let queries = rows(elem, 2, 50, dim);
        let (mut found, mut exact, mut scored, mut alone) = (vec![], vec![], 0, 0);
        for q in queries.chunks(elem.row_bytes(dim)) {
            let (hits, done) = tables.search(q, 12, &mut All, 10);
            scored += done.distances;
            found.push(hits);
            exact.push(tables.exact(q, |_| true, 10));
            alone += tables.search(q, 1, &mut All, 10).1.distances;
        }
        let recall = recall(&found, &exact);
        assert!(recall >= 0.9, "{metric:?}: {recall}");
        assert!(
            scored < 50 * n as u64 / 2,
            "{metric:?}: {scored} rows scored"
        );
        assert!(alone < scored, "{metric:?}: probes find no more rows");
    }
}

#[test]
fn filters_leave_k_filled_and_deleted_rows_are_gone() {
    let tables = Tables::new(Elem::F32, Metric::Cosine, Family::Signs, 3000, 32);
    for row in 0..1000 {
        tables.delete(row * 3);
    }
    let there = |row: u64| !row.is_multiple_of(3);
    for every in [1u64, 50, 1000, 100_000] {
        let passes = move |row: u64| there(row) && row % every == 1 % every;
        let exact = tables.exact(tables.row(5), passes, 10);
        let (hits, _) = tables.search(tables.row(5), 4, &mut Only(passes), 10);
        assert_eq!(hits.len(), exact.len(), "one of {every}");
        assert!(hits.iter().all(|hit| passes(hit.row)));
    }
    let (hits, _) = tables.search(tables.row(6), 256, &mut All, 10);
    assert!(hits.iter().all(|hit| there(hit.row)));
    for row in 0..1000 {
        tables.insert(row * 3);
    }
    let (hits, _) = tables.search(tables.row(6), 1, &mut All, 1);
    assert_eq!(hits[0].row, 6);
}

#[test]
fn a_row_is_in_its_own_bucket_of_every_table() {
    for family in [Family::Signs, Family::Cells] {
        let tables = Tables::new(Elem::F32, Metric::L2Sq, family, 500, 16);
        for row in 0..500 {
            let (hits, found) = tables.search(tables.row(row), 1, &mut All, 1);
            assert_eq!(hits[0].row, row);
            assert_eq!(found.lists, tables.params.ntables);
        }
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let good = Params::default_for(1000, 64, Family::Signs);
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
    ] {
        assert_eq!(bad.table().err(), Some(BadParams), "{bad:?}");
    }
    for rows in [10_000, 1_000_000, 100_000_000] {
        let share = Params::default_for(rows, 384, Family::Cells).resident_bytes(rows) / rows;
        assert!(share < 768, "{share}");
    }
}

#[test]
fn cells_are_four_near_distances_wide() {
    let mut random = Random(3);
    for dim in [1u32, 2, 3, 48, 128, 384, 1536, 65_535, 65_536] {
        for _ in 0..2000 {
            // Every exponent but those of zeros, subnormal numbers and infinities.
            let exponent = 1 + random.below(254) as u32;
            let near = exponent << 23 | random.below(1 << 23) as u32;
            let got = f32::from_bits(cell_scale(dim, near)) as f64;
            let width = 4.0 * (f32::from_bits(near) as f64).sqrt();
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
