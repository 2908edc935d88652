// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Training: centroids of the lists from a sample of rows, and codebooks from its residuals.

use super::store::{Vectors, BATCH};
use super::Params;
use crate::kmeans::{self, Failure, Random, Sample};
use crate::pq;

/// Rows of the sample per list. With 32 recall is within 0.3 points of what all rows give (384-d
/// embeddings, 512 lists).
pub const SAMPLE_PER_LIST: u64 = 32;

/// Rows of the sample per centroid of a codebook.
pub const SAMPLE_PER_CODE: u64 = 64;

/// Memory of training, lent while it runs: the sizes are those of [`TrainMemory::sizes`], or for fewer rows of the
/// sample than that.
#[derive(Debug)]
pub struct TrainMemory<'a> {
    /// The sample, 4-byte floats, and a row more.
    pub sample: &'a mut [u8],
    /// One for each row of the sample.
    pub ids: &'a mut [u32],
    /// One for each row of the sample.
    pub keys: &'a mut [u32],
    /// `max(nlist, ksub) * dim`.
    pub sums: &'a mut [u64],
    /// `max(nlist, ksub)`.
    pub counts: &'a mut [u64],
}

/// An index is built again when rows are so many times those it learnt from,
const GROWTH: u64 = 4;
/// and as many as this: less are compared about as fast without it.
const LEAST_GROWN: u64 = 4096;

/// Whether lists that learnt from a container of `learnt_from` rows are to be made again, now that it has `live`: they
/// hold several times the rows they were made for, and would be more by default now, or have learnt from a sample
/// that was shorter than it is to be. 0 means that nobody knows from how many. Rows are of `row_bytes` bytes.
pub fn is_outgrown(params: &Params, learnt_from: u64, live: u64, row_bytes: u32) -> bool {
    let grown = live >= learnt_from.saturating_mul(GROWTH).max(LEAST_GROWN);
    let more_lists = has_default_lists(params, learnt_from, row_bytes)
        && params.nlist < params.default_nlist(live, row_bytes);
    learnt_from > 0 && grown && (more_lists || learnt_from < sample_rows(params))
}

/// Whether the lists are as many as there are by default over `rows` rows of `row_bytes` bytes.
pub fn has_default_lists(params: &Params, rows: u64, row_bytes: u32) -> bool {
    params.nlist > 1 && params.nlist == params.default_nlist(rows, row_bytes)
}

/// Rows that the sample has if there are enough.
fn sample_rows(params: &Params) -> u64 {
    let ksub = params.layout().map_or(0, |layout| layout.ksub);
    let lists = u64::from(params.nlist).saturating_mul(SAMPLE_PER_LIST);
    lists.max(u64::from(ksub).saturating_mul(SAMPLE_PER_CODE))
}

/// How long the slices of [`TrainMemory`] are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainSizes {
    /// Rows of the sample.
    pub rows: usize,
    /// Bytes of `sample`.
    pub sample: usize,
    /// Elements of `sums`.
    pub sums: usize,
    /// Elements of `counts`.
    pub counts: usize,
}

impl TrainMemory<'_> {
    /// The sizes for a container of `rows` rows.
    pub fn sizes(params: &Params, rows: u64) -> TrainSizes {
        TrainMemory::sizes_of(params, rows, u64::MAX)
    }

    /// The sizes for a container of `rows` rows, of which the sample takes at most `most`.
    pub fn sizes_of(params: &Params, rows: u64, most: u64) -> TrainSizes {
        let ksub = params.layout().map_or(0, |layout| layout.ksub);
        let dim = params.dim as usize;
        let n = sample_rows(params)
            .min(rows)
            .min(most)
            .min(u64::from(u32::MAX)) as usize;
        let k = params.nlist.max(ksub) as usize;
        TrainSizes {
            rows: n,
            sample: n.saturating_add(1).saturating_mul(dim).saturating_mul(4),
            sums: k.saturating_mul(dim),
            counts: k,
        }
    }
}

/// How often [`train`] asks whether to stop, about: what progress is measured by. `n` rows are in the sample.
pub fn steps(params: &Params, n: usize) -> u64 {
    let batches = n.div_ceil(BATCH) as u64;
    let (nsub, ksub) = params
        .layout()
        .map_or((0, 0), |layout| (layout.nsub, layout.ksub as usize));
    let books = if ksub > 0 { u64::from(nsub) } else { 0 };
    batches
        .saturating_add(kmeans::steps(n, params.nlist as usize))
        .saturating_add(books.saturating_mul(kmeans::steps(n, ksub)))
}

/// Trains the centroids and codebooks of an index over the rows `0..rows` of a container.
///
/// `centroids` and `codebooks` are of [`Params::centroid_bytes`] and [`Params::codebook_bytes`]. `stop` is asked
/// after each batch. If there are fewer rows than lists, some centroids are equal and their lists stay empty.
/// The same rows, parameters and arithmetic give the same result.
///
/// # Errors
///
/// [`Failure`]; [`Failure::Memory`] also if there are no rows.
pub fn train<V: Vectors>(
    params: &Params,
    vectors: &mut V,
    rows: u64,
    memory: &mut TrainMemory<'_>,
    centroids: &mut [u8],
    codebooks: &mut [u8],
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), Failure<V::Error>> {
    let layout = params.layout().map_err(|_| Failure::Memory)?;
    let dim = params.dim as usize;
    let row = dim.saturating_mul(4);
    let n = TrainMemory::sizes_of(params, rows, memory.ids.len() as u64).rows;
    let fits = centroids.len() == params.centroid_bytes()
        && codebooks.len() == params.codebook_bytes()
        && memory.sample.len() >= n.saturating_add(1).saturating_mul(row);
    if !fits || n == 0 {
        return Err(Failure::Memory);
    }
    let (sample, spare) = memory.sample.split_at_mut(n.saturating_mul(row));
    let spare = spare.get_mut(..row).ok_or(Failure::Memory)?;

    // All rows if they are few enough, else each by chance.
    let mut random = Random(params.seed);
    let mut numbers = (0u64..).map(|i| {
        if n as u64 == rows {
            i
        } else {
            random.below(rows)
        }
    });
    for out in sample.chunks_mut(row.saturating_mul(BATCH)) {
        if stop() {
            return Err(Failure::Stopped);
        }
        let mut chosen = [0; BATCH];
        let many = out.len().checked_div(row).unwrap_or(0);
        let chosen = chosen.get_mut(..many).ok_or(Failure::Memory)?;
        for (place, number) in chosen.iter_mut().zip(&mut numbers) {
            *place = number;
        }
        vectors.load(chosen, out)?;
    }

    let mut scratch = kmeans::Memory {
        ids: &mut *memory.ids,
        keys: &mut *memory.keys,
        sums: &mut *memory.sums,
        counts: &mut *memory.counts,
    };
    let (centres, mean) = centroids.split_at_mut(row.saturating_mul(params.nlist as usize));
    let all = Sample {
        bytes: sample,
        stride: row,
        dim,
        n,
    };
    kmeans::train(vectors, all, random.word(), &mut scratch, centres, stop)?;

    // The mean of the centroids is the centre of their own list.
    let sums = scratch.sums.get_mut(..dim).ok_or(Failure::Memory)?;
    let counts = scratch.counts.get_mut(..1).ok_or(Failure::Memory)?;
    sums.fill(0);
    counts.fill(0);
    for centre in centres.chunks(row) {
        vectors.accumulate(centre, row, dim, &[0], sums, counts)?;
    }
    vectors.centroids(dim, sums, counts, mean)?;

    if layout.ksub > 0 {
        for (i, out) in sample.chunks_mut(row).enumerate() {
            let list = scratch.ids.get(i).map_or(0, |id| *id as usize);
            let at = list.saturating_mul(row);
            let centre = centres.get(at..at.saturating_add(row));
            vectors.subtract(out, centre.ok_or(Failure::Memory)?, spare)?;
            kmeans::copy(out, spare);
        }
        let residuals = Sample {
            bytes: sample,
            stride: row,
            dim,
            n,
        };
        let (nsub, ksub) = (layout.nsub as usize, layout.ksub as usize);
        let seed = random.word();
        pq::train(
            vectors,
            residuals,
            nsub,
            ksub,
            seed,
            &mut scratch,
            codebooks,
            stop,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_made_again_when_they_were_made_for_much_fewer_rows() {
        let by_default = |rows| Params::default_for(rows, 64, 256);
        let is_outgrown = |params: &_, learnt, live| is_outgrown(params, learnt, live, 256);
        let outgrown = |learnt, live| is_outgrown(&by_default(learnt), learnt, live);
        assert!(!outgrown(0, 1_000_000));
        assert!(!outgrown(100, 4095));
        assert!(outgrown(100, 4096));
        assert!(!outgrown(100_000, 399_999));
        assert!(outgrown(100_000, 400_000));
        // Lists that somebody has chosen stay, if they have learnt enough.
        let chosen = Params {
            nlist: 100,
            ..by_default(1)
        };
        assert!(is_outgrown(&chosen, 3199, 12_796));
        assert!(!is_outgrown(&chosen, 3200, 1_000_000));
        let pq = crate::pq::flat(64, false, 1);
        assert!(is_outgrown(&pq, 1023, 4096));
        assert!(!is_outgrown(&pq, 1024, 1_000_000));
    }
}
