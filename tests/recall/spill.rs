// SPDX-License-Identifier: Apache-2.0

//! Rows in two lists of an inverted file each (SOAR, arXiv 2404.00774), to measure what that gives: the second list is the
//! one whose centroid leaves the residual that is short and not along the first one.

use vexfs_ann::Visible;
use vexfs_simd_host::*;

use crate::lists::Built;
use crate::Rows;

/// Centroids near a row that may be its second.
const NEAR: usize = 32;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn elements(bytes: &[u8]) -> Vec<f32> {
    let element = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(element).collect()
}

/// Puts all rows of `built` into two lists each. A residual r' costs `|r'|^2 + lambda * <r, r'>^2 / |r|^2` beside the
/// first one, r.
pub fn build(built: &Built, lambda: f32) {
    let (dim, n) = (built.space.dim, built.space.n());
    let nlist = built.space.params.nlist as usize;
    let bytes = &built.centroids[..4 * dim * nlist];
    let centroids = elements(bytes);
    let near = Rows {
        elem: Elem::F32,
        metric: Metric::L2Sq,
        dim,
        bytes: bytes.to_vec(),
    };
    let mut vector = vec![0; 4 * dim];
    let mut lists_of = |row: usize| {
        built.space.prepare(built.space.row(row), &mut vector);
        let x = elements(&vector);
        let residual = |list: u64| -> Vec<f32> {
            let centroid = &centroids[list as usize * dim..][..dim];
            x.iter().zip(centroid).map(|(x, c)| x - c).collect()
        };
        let near = near.nearest(&vector, NEAR.min(nlist), |_| true);
        let first = near[0].1;
        let r = residual(first);
        let along = lambda / dot(&r, &r).max(f32::MIN_POSITIVE);
        let cost = |list: u64| {
            let other = residual(list);
            dot(&other, &other) + along * dot(&r, &other).powi(2)
        };
        let others = near[1..].iter().map(|hit| hit.1);
        let second = others.min_by(|a, b| cost(*a).total_cmp(&cost(*b)));
        [Some(first as u32), second.map(|list| list as u32)]
    };
    let lists: Vec<_> = (0..n).map(&mut lists_of).collect();
    let mut counts = vec![0; nlist];
    for list in lists.iter().flatten().flatten() {
        counts[*list as usize] += 1;
    }
    for (list, count) in (0..).zip(counts) {
        built.index.writer().reserve::<()>(list, count).unwrap();
    }
    for (row, lists) in (0..).zip(lists) {
        for list in lists.into_iter().flatten() {
            let (codes, factors) = built.codes_of(row, list);
            let mut writer = built.index.writer();
            writer.append::<()>(list, row, &codes, &factors).unwrap();
        }
    }
}

/// Shows each row once a query: rows without codes before they are compared, others, whose second code may tell more,
/// as results.
pub struct Once {
    bits: Vec<u64>,
    shown: Vec<u64>,
    coded: bool,
}

impl Once {
    pub fn new(rows: usize, coded: bool) -> Once {
        Once {
            bits: vec![0; rows.div_ceil(64)],
            shown: Vec::new(),
            coded,
        }
    }

    /// Begins another query.
    pub fn clear(&mut self) {
        for row in self.shown.drain(..) {
            self.bits[row as usize / 64] = 0;
        }
    }

    fn show(&mut self, row: u64) -> bool {
        let word = &mut self.bits[row as usize / 64];
        let clear = *word >> (row % 64) & 1 == 0;
        if clear {
            *word |= 1 << (row % 64);
            self.shown.push(row);
        }
        clear
    }
}

impl Visible for Once {
    type Error = BadShape;

    fn allows(&mut self, row: u64) -> bool {
        self.coded || self.show(row)
    }

    fn key(&mut self, row: u64) -> Result<Option<u64>, BadShape> {
        Ok((!self.coded || self.show(row)).then_some(row))
    }
}
