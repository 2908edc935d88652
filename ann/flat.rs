// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The exact scan: every visible row, in order.
//!
//! Also the tail of every index search, over the rows above its watermark, and the judge of its
//! recall.

use core::ops::Range;

use crate::topk::{Hit, TopK};

/// Computes distances of one query to consecutive rows.
pub trait Scorer {
    /// Why a scan can fail: reading a row may need I/O, and a caller may be killed.
    type Error;

    /// The most rows to ask for at once; at least 1. One call is one FPU section.
    fn batch(&self) -> usize;

    /// Writes the distances of rows `first_row..first_row + out.len()` to `out`.
    fn score(&mut self, first_row: u64, out: &mut [u32]) -> Result<(), Self::Error>;
}

/// Decides which rows count, and knows their keys.
pub trait Filter {
    /// Why a row's visibility cannot be told.
    type Error;

    /// How many of the rows `first_row..first_row + max` to pass over without computing a distance:
    /// the length of a run of rows that are all deleted or filtered out. An answer of 0 is always
    /// right; it costs arithmetic, not correctness.
    fn skip(&mut self, first_row: u64, max: u64) -> Result<u64, Self::Error> {
        let _ = (first_row, max);
        Ok(0)
    }

    /// The key of `row`, or `None` if it is deleted or does not pass the filter. Asked only for rows
    /// near enough to enter the result.
    fn key(&mut self, row: u64) -> Result<Option<u64>, Self::Error>;
}

/// What a scan did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Distances computed.
    pub distances: u64,
    /// Rows passed over by [`Filter::skip`].
    pub skipped: u64,
}

/// Offers every visible row of `rows` to `top`.
///
/// `distances` is scratch memory for one batch; the scan works in steps of its length or
/// [`Scorer::batch`], whichever is less, and does nothing if that is 0. After an error `top` holds
/// the best of the rows scanned so far, which a caller may use as a partial answer.
///
/// # Errors
///
/// The first error of the scorer or of the filter.
pub fn scan<E, S, F>(
    scorer: &mut S,
    filter: &mut F,
    rows: Range<u64>,
    distances: &mut [u32],
    top: &mut TopK<'_>,
) -> Result<Scanned, E>
where
    S: Scorer<Error = E>,
    F: Filter<Error = E>,
{
    let mut done = Scanned::default();
    let batch = distances.len().min(scorer.batch()) as u64;
    if batch == 0 || top.k() == 0 {
        return Ok(done);
    }
    let mut row = rows.start;
    while row < rows.end {
        let left = rows.end.saturating_sub(row);
        let skip = filter.skip(row, left)?.min(left);
        if skip > 0 {
            row = row.saturating_add(skip);
            done.skipped = done.skipped.saturating_add(skip);
            continue;
        }
        let n = left.min(batch) as usize;
        let Some(out) = distances.get_mut(..n) else {
            return Ok(done);
        };
        scorer.score(row, out)?;
        done.distances = done.distances.saturating_add(n as u64);
        for (row, &distance) in (row..).zip(out.iter()) {
            // Almost all rows end here: no key is looked up for them.
            if distance > top.bound() {
                continue;
            }
            if let Some(key) = filter.key(row)? {
                top.push(Hit { distance, key, row });
            }
        }
        row = row.saturating_add(n as u64);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Rows whose distances are listed; an `Err` names the row at which reading fails.
    struct Listed<'a> {
        distances: &'a [u32],
        batch: usize,
        fails_at: u64,
        largest_call: usize,
    }

    impl Scorer for Listed<'_> {
        type Error = u64;

        fn batch(&self) -> usize {
            self.batch
        }

        fn score(&mut self, first_row: u64, out: &mut [u32]) -> Result<(), u64> {
            self.largest_call = self.largest_call.max(out.len());
            let first = first_row as usize;
            if first + out.len() > self.fails_at as usize {
                return Err(self.fails_at);
            }
            out.copy_from_slice(&self.distances[first..first + out.len()]);
            Ok(())
        }
    }

    /// Keys are listed; `None` is a deleted row. With `skips`, runs of them are passed over.
    struct Keys<'a> {
        keys: &'a [Option<u64>],
        skips: bool,
        lookups: u64,
    }

    impl Filter for Keys<'_> {
        type Error = u64;

        fn skip(&mut self, first_row: u64, max: u64) -> Result<u64, u64> {
            if !self.skips {
                return Ok(0);
            }
            let rows = &self.keys[first_row as usize..][..max as usize];
            Ok(rows.iter().take_while(|key| key.is_none()).count() as u64)
        }

        fn key(&mut self, row: u64) -> Result<Option<u64>, u64> {
            self.lookups += 1;
            Ok(self.keys[row as usize])
        }
    }

    /// Sorts everything.
    fn naive(
        distances: &[u32],
        keys: &[Option<u64>],
        rows: core::ops::Range<u64>,
        k: usize,
    ) -> Vec<Hit> {
        let mut hits: Vec<Hit> = rows
            .filter_map(|row| {
                Some(Hit {
                    distance: distances[row as usize],
                    key: keys[row as usize]?,
                    row,
                })
            })
            .collect();
        hits.sort();
        hits.truncate(k);
        hits
    }

    proptest! {
        #[test]
        fn finds_what_sorting_everything_would(
            table in prop::collection::vec((0u32..300, 0u8..10, any::<u64>()), 1..300),
            deleted in 0u8..=10,
            k in 0usize..30,
            batch in 1usize..70,
            scratch in 1usize..70,
            from in 0usize..40,
            skips: bool,
        ) {
            let distances: Vec<u32> = table.iter().map(|row| row.0).collect();
            let keys: Vec<Option<u64>> =
                table.iter().map(|row| (row.1 >= deleted).then_some(row.2)).collect();
            let rows = from.min(table.len()) as u64..table.len() as u64;
            let mut scorer =
                Listed { distances: &distances, batch, fails_at: u64::MAX >> 1, largest_call: 0 };
            let mut filter = Keys { keys: &keys, skips, lookups: 0 };
            let mut memory = vec![Hit::default(); k];
            let mut top = TopK::new(&mut memory);
            let mut buffer = vec![0; scratch];
            let done =
                scan(&mut scorer, &mut filter, rows.clone(), &mut buffer, &mut top).unwrap();
            if k > 0 {
                prop_assert_eq!(done.distances + done.skipped, rows.end - rows.start);
            }
            prop_assert!(scorer.largest_call <= batch.min(scratch));
            let want = naive(&distances, &keys, rows, k);
            prop_assert_eq!(&*top.into_sorted(), &want[..]);
        }
    }

    #[test]
    fn keys_are_looked_up_only_for_rows_that_may_enter() {
        // Distances rise, so after k rows none can enter.
        let distances: Vec<u32> = (0..1000).collect();
        let keys: Vec<Option<u64>> = (0..1000).map(Some).collect();
        let mut scorer = Listed {
            distances: &distances,
            batch: 64,
            fails_at: 1000,
            largest_call: 0,
        };
        let mut filter = Keys {
            keys: &keys,
            skips: false,
            lookups: 0,
        };
        let mut memory = [Hit::default(); 10];
        let mut top = TopK::new(&mut memory);
        scan(&mut scorer, &mut filter, 0..1000, &mut [0; 64], &mut top).unwrap();
        assert_eq!(filter.lookups, 10);
    }

    #[test]
    fn an_error_leaves_the_best_of_what_was_scanned() {
        let distances = [5, 4, 3, 2, 1, 0];
        let keys: Vec<Option<u64>> = (0..6).map(Some).collect();
        let mut scorer = Listed {
            distances: &distances,
            batch: 2,
            fails_at: 4,
            largest_call: 0,
        };
        let mut filter = Keys {
            keys: &keys,
            skips: false,
            lookups: 0,
        };
        let mut memory = [Hit::default(); 1];
        let mut top = TopK::new(&mut memory);
        let error = scan(&mut scorer, &mut filter, 0..6, &mut [0; 8], &mut top);
        assert_eq!(error, Err(4));
        assert_eq!(top.into_sorted()[0].row, 3);
    }

    #[test]
    fn without_scratch_memory_nothing_is_scanned() {
        let mut scorer = Listed {
            distances: &[1, 2],
            batch: 2,
            fails_at: 2,
            largest_call: 0,
        };
        let mut filter = Keys {
            keys: &[Some(1), Some(2)],
            skips: false,
            lookups: 0,
        };
        let mut memory = [Hit::default(); 1];
        let mut top = TopK::new(&mut memory);
        let done = scan(&mut scorer, &mut filter, 0..2, &mut [], &mut top);
        assert_eq!(done, Ok(Scanned::default()));
        assert!(top.is_empty());
    }
}
