// SPDX-License-Identifier: Apache-2.0
//! The queries of a benchmark: from a file, or rows of the container that are left out of their own answers.

use crate::error::{sentence, Result};
use crate::formats::source::Source;
use std::collections::HashSet;
use std::path::Path;
use vexfs_client::{Container, Hit, Select, VectorBuf, Vectors};

/// Queries of one call: many, because a call costs.
const PER_CALL: usize = 1024;

/// Vectors, and the row that each is, if it is one.
#[derive(Debug)]
pub(super) struct Queries {
    /// Those of each call.
    calls: Vec<(usize, VectorBuf)>,
    rows: Option<Vec<u64>>,
}

impl Queries {
    /// The vectors of a file, `limit` at most.
    pub(super) fn from_file(
        path: &Path,
        limit: Option<u64>,
        container: &Container,
    ) -> Result<Self> {
        let mut source = Source::open(path)?;
        let (element_type, dim) = (container.element_type(), container.dim());
        source.check_shape(element_type, dim, container.path())?;
        let mut left = limit.unwrap_or(u64::MAX).min(source.rows());
        let mut calls = Vec::new();
        while left > 0 {
            let mut vectors = VectorBuf::zeroed(element_type, dim, 0);
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PER_CALL);
            let count = source.read(most, &mut vectors)?;
            left -= count as u64;
            calls.push((count, vectors));
        }
        if calls.is_empty() {
            return Err(sentence!("{} has no queries", path.display()));
        }
        Ok(Queries { calls, rows: None })
    }

    /// `count` rows of the container, or all if it has fewer, that `seed` chooses.
    pub(super) fn sample(count: u32, seed: u64, container: &Container) -> Result<Self> {
        let stats = container.stats()?;
        let count = u64::from(count).min(stats.live) as usize;
        let mut rows = Vec::new();
        let mut numbers = Permutation::new(stats.rows, seed);
        while rows.len() < count {
            let some: Vec<u64> = numbers.by_ref().take(PER_CALL).collect();
            if some.is_empty() {
                break;
            }
            // Rows that were deleted are missing.
            let live = container.get(Select::Rows(&some))?;
            rows.extend(live.iter().map(|row| row.row).take(count - rows.len()));
        }
        if rows.is_empty() {
            return Err(sentence!(
                "{} has no rows; import some before they are searched",
                container.path().display()
            ));
        }
        let mut calls = Vec::new();
        for some in rows.chunks(PER_CALL) {
            calls.push((some.len(), container.get(Select::Rows(some))?.vectors));
        }
        let rows = Some(rows);
        Ok(Queries { calls, rows })
    }

    /// `count` queries that are no rows and have no elements.
    #[cfg(test)]
    pub(super) fn strange(count: usize) -> Self {
        Queries {
            calls: vec![(count, VectorBuf::default())],
            rows: None,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.calls.iter().map(|(count, _)| count).sum()
    }

    /// How many there are in each call, and the vectors.
    pub(super) fn calls(&self) -> impl Iterator<Item = (usize, Vectors<'_>)> {
        self.calls
            .iter()
            .map(|(count, vectors)| (*count, vectors.into()))
    }

    /// Whether they are rows of the container.
    pub(super) fn held_out(&self) -> bool {
        self.rows.is_some()
    }

    /// The hits of each query but the row it is itself, `k` at most.
    pub(super) fn without_themselves(&self, mut hits: Vec<Vec<Hit>>, k: u32) -> Vec<Vec<Hit>> {
        for (q, hits) in hits.iter_mut().enumerate() {
            if let Some(own) = self.rows.as_ref().and_then(|rows| rows.get(q)) {
                hits.retain(|hit| hit.row != *own);
            }
            hits.truncate(k as usize);
        }
        hits
    }
}

/// Numbers below `count`, each once at most, in an order of their own for each seed.
struct Permutation {
    count: u64,
    left: u64,
    state: u64,
    seen: HashSet<u64>,
}

impl Permutation {
    fn new(count: u64, seed: u64) -> Self {
        Permutation {
            count,
            left: count,
            state: seed,
            seen: HashSet::new(),
        }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Iterator for Permutation {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let mut number = self.random() % self.count;
        // The next one that is left; a sample is small, so there is one soon.
        while !self.seen.insert(number) {
            number = (number + 1) % self.count;
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs_client::memory::MemoryVolume;
    use vexfs_client::{CreateOptions, Metric, Rows, Volume};

    fn line(n: u32) -> Container {
        let volume = MemoryVolume::new();
        let mut c = volume
            .create(Path::new("/c"), &CreateOptions::new(1, Metric::L2))
            .unwrap();
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        c.insert(&Rows::new(&values)).unwrap();
        c
    }

    #[test]
    fn a_sample_is_of_different_live_rows_and_the_seed_decides() {
        let mut c = line(3000);
        let gone: Vec<u64> = (0..3000).step_by(2).collect();
        c.delete(Select::Rows(&gone), false).unwrap();
        let rows = |seed| Queries::sample(1000, seed, &c).unwrap().rows.unwrap();
        let first = rows(1);
        assert_eq!(first.len(), 1000);
        assert!(first.iter().all(|row| row % 2 == 1));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 1000);
        assert_eq!(first, rows(1));
        assert_ne!(first, rows(2));
        assert_eq!(Queries::sample(9000, 1, &c).unwrap().len(), 1500, "all");
    }

    #[test]
    fn a_row_is_no_answer_to_itself() {
        let c = line(5);
        let queries = Queries::sample(5, 7, &c).unwrap();
        assert!(queries.held_out());
        let hit = |row: u64| Hit {
            key: row,
            row,
            distance: 0.0,
        };
        let all: Vec<Vec<Hit>> = (0..5).map(|_| (0..5).map(hit).collect()).collect();
        let rows = queries.rows.clone().unwrap();
        for (own, hits) in rows.iter().zip(queries.without_themselves(all, 3)) {
            assert_eq!(hits.len(), 3);
            assert!(hits.iter().all(|hit| hit.row != *own));
        }
        let error = Queries::sample(5, 7, &{
            let volume = MemoryVolume::new();
            volume
                .create(Path::new("/e"), &CreateOptions::new(1, Metric::L2))
                .unwrap()
        });
        assert!(error.unwrap_err().to_string().contains("has no rows"));
    }
}
