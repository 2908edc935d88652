// SPDX-License-Identifier: Apache-2.0
//! recall@k against ground truth, by distance: a hit counts if it is as near as the
//! k-th true neighbour, so that the order of ties does not matter.
//!
//! The distances that decide are computed here, in f64, from the vectors that the
//! container gives back; those that the kernel reported are compared with them.

use crate::error::{sentence, Result};
use serde::Serialize;
use std::collections::HashMap;
use vexfs_client::{Container, Hit, Metric, Select};

/// How much farther than the k-th neighbour a hit may be, in units of
/// f32's rounding (2^-23) times the scale of the terms that are summed up.
const TIE_ULPS: f64 = 4.0;

/// The sum over the queries so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recall {
    wanted: u64,
    found: u64,
    max_error: f64,
}

/// recall@k, as it is printed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RecallReport {
    /// Hits per query.
    pub k: u32,
    /// Hits that are true neighbours or as near, of those there could be.
    pub recall: f64,
    /// Largest difference between a reported distance and the same in f64.
    pub max_distance_error: f64,
}

/// A distance in f64 with the scale that its rounding in f32 goes by.
#[derive(Clone, Copy, Debug)]
struct Exact {
    distance: f64,
    scale: f64,
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> Exact {
    let (mut dot, mut aa, mut bb, mut l2) = (0.0, 0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        dot += x * y;
        aa += x * x;
        bb += y * y;
        l2 += (x - y) * (x - y);
    }
    let lengths = (aa * bb).sqrt();
    match metric {
        // Of bits the two are the same.
        Metric::L2 | Metric::Hamming => Exact {
            distance: l2,
            scale: l2,
        },
        Metric::Dot => Exact {
            distance: -dot,
            scale: lengths,
        },
        Metric::Cosine if lengths > 0.0 => Exact {
            distance: 1.0 - dot / lengths,
            scale: 1.0,
        },
        Metric::Cosine => Exact {
            distance: 1.0,
            scale: 1.0,
        },
    }
}

impl Recall {
    /// Adds one query: its vector, its hits and the rows of its true neighbours, nearest
    /// first. Negative numbers end the truth.
    ///
    /// Errors: the truth names rows that the container does not have.
    pub fn add(
        &mut self,
        container: &Container,
        query: &[f32],
        hits: &[Hit],
        truth: &[i128],
        k: usize,
    ) -> Result<()> {
        let metric = container
            .metric()
            .ok_or_else(|| sentence!("the container's metric is not known; use a newer vexfs"))?;
        let truth: Vec<u64> = truth
            .iter()
            .take(k)
            .map_while(|row| u64::try_from(*row).ok())
            .collect();
        let mut rows: Vec<u64> = truth.clone();
        rows.extend(hits.iter().map(|hit| hit.row));
        rows.sort_unstable();
        rows.dedup();
        let fetched = container.get(Select::Rows(&rows))?;
        let distances: HashMap<u64, Exact> = fetched
            .iter()
            .map(|row| {
                let vector = row.vector.to_f32(container.dim());
                (row.row, exact(metric, query, &vector))
            })
            .collect();
        let of = |row: u64| {
            distances.get(&row).copied().ok_or_else(|| {
                sentence!(
                    "{} has no row {row}, which the ground truth or a hit names; use the ground truth of the same data",
                    container.path().display()
                )
            })
        };
        // The farthest of the truth, whatever its order.
        let mut limit = f64::NEG_INFINITY;
        for row in &truth {
            limit = limit.max(of(*row)?.distance);
        }
        for hit in hits {
            let exact = of(hit.row)?;
            let error = (f64::from(hit.distance) - exact.distance).abs();
            self.max_error = self.max_error.max(error);
        }
        // A row counts once, however often it was returned.
        let mut counted: Vec<u64> = hits.iter().take(k).map(|hit| hit.row).collect();
        counted.sort_unstable();
        counted.dedup();
        for row in counted {
            let exact = of(row)?;
            let slack = TIE_ULPS * f64::from(f32::EPSILON) * exact.scale;
            self.found += u64::from(exact.distance <= limit + slack);
        }
        self.wanted += truth.len() as u64;
        Ok(())
    }

    /// The result for `k` hits per query.
    pub fn report(&self, k: u32) -> RecallReport {
        RecallReport {
            k,
            recall: match self.wanted {
                0 => 1.0,
                wanted => (self.found as f64 / wanted as f64).min(1.0),
            },
            max_distance_error: self.max_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use vexfs_client::{memory::MemoryVolume, CreateOptions, Rows, SearchOptions, Volume};

    /// Rows 0 to 4 at 0, 1, 2, 2, 9 of a line.
    fn line() -> Container {
        let volume = MemoryVolume::new();
        let mut c = volume
            .create(Path::new("/c"), &CreateOptions::new(1, Metric::L2))
            .unwrap();
        c.insert(&Rows::new(&[0.0, 1.0, 2.0, 2.0, 9.0])).unwrap();
        c
    }

    fn recall_of(hit_rows: &[u64], truth: &[i128], k: usize) -> f64 {
        let c = line();
        let positions = [0.0, 1.0, 2.0, 2.0, 9.0f32];
        let hits: Vec<Hit> = hit_rows
            .iter()
            .map(|row| Hit {
                key: *row,
                row: *row,
                distance: positions[*row as usize].powi(2),
            })
            .collect();
        let mut recall = Recall::default();
        recall.add(&c, &[0.0], &hits, truth, k).unwrap();
        recall.report(k as u32).recall
    }

    #[test]
    fn ties_count_and_misses_and_repetitions_do_not() {
        assert_eq!(recall_of(&[0, 1, 2], &[0, 1, 2, 3], 3), 1.0);
        assert_eq!(recall_of(&[0, 1, 3], &[0, 1, 2, 3], 3), 1.0, "a tie");
        assert_eq!(recall_of(&[0, 1, 4], &[0, 1, 2, 3], 3), 2.0 / 3.0);
        assert_eq!(recall_of(&[0, 0, 0], &[0, 1, 2, 3], 3), 1.0 / 3.0);
        assert_eq!(recall_of(&[0], &[0, 1, 2, 3], 3), 1.0 / 3.0);
        assert_eq!(recall_of(&[], &[0, 1, 2, 3], 3), 0.0);
        assert_eq!(recall_of(&[0], &[0, -1, -1, -1], 3), 1.0, "padded truth");
    }

    #[test]
    fn a_wrong_reported_distance_shows() {
        let c = line();
        let found = c.search(&[0.0], &SearchOptions::new(2)).unwrap();
        let mut hits: Vec<Hit> = found.hits(0).collect();
        let mut recall = Recall::default();
        recall.add(&c, &[0.0], &hits, &[0, 1], 2).unwrap();
        assert_eq!(recall.report(2).max_distance_error, 0.0);
        hits[1].distance += 0.25;
        recall.add(&c, &[0.0], &hits, &[0, 1], 2).unwrap();
        assert_eq!(recall.report(2).max_distance_error, 0.25);
    }

    #[test]
    fn truth_of_other_data_is_noticed() {
        let mut recall = Recall::default();
        let error = recall.add(&line(), &[0.0], &[], &[77], 1).unwrap_err();
        assert!(error.to_string().contains("no row 77"), "{error}");
    }
}
