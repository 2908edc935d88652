// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What the caller provides: memory, a lock, and arithmetic.

use crate::kmeans::{self, Failure, Sample};
use core::sync::atomic::AtomicU32;

/// The most vectors or rows of one call to [`Numeric`] or [`Vectors`].
pub const BATCH: usize = 64;

/// Memory of an index. All of it is zeros at first, and words never move.
pub trait Store {
    /// Keeps other writers out as long as it lives.
    type Guard<'a>
    where
        Self: 'a;

    /// The heads of lists: exactly [`Params::list_words`](super::Params::list_words).
    fn lists(&self) -> &[AtomicU32];

    /// How many blocks there are; it may grow.
    fn blocks(&self) -> u32;

    /// The words of the blocks from `first` on, as far as they lie one after the other: at least one and
    /// at most `count`, whole blocks. `None` if there is no block `first` or `count` is 0.
    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]>;

    /// Waits until no other writer is inside. It is held for the append of a batch or one delete.
    fn lock(&self) -> Self::Guard<'_>;
}

/// Blocks of one list that lie together, and the query's distances to its centre.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Whole blocks.
    pub blocks: &'a [AtomicU32],
    /// Rows in them: all slots but some of the last block.
    pub rows: u32,
    /// The distance by squared L2, from [`Numeric::centres`].
    pub near: u32,
    /// The distance by the index's metric, from there too.
    pub rank: u32,
}

/// Arithmetic for one query. One call is one FPU section, and at most about 20 microseconds.
pub trait Numeric {
    /// Why a distance cannot be had: reading a row may need I/O, and a caller may be killed.
    type Error;

    /// Writes the distances from the query to the centres of `lists`: `near` by squared L2, `rank` by inner
    /// product if that is the metric, and else the same as `near`. List `nlist` is the mean of all centres.
    fn centres(
        &mut self,
        lists: &[u32],
        near: &mut [u32],
        rank: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// Scans codes, run by run: writes lower bounds of distances to `lower`, from a multiple of 32 on for
    /// each run, and a bit for each that is at most `threshold` to `hits`, a word for each block.
    fn scan(
        &mut self,
        runs: &[Run<'_>],
        threshold: u32,
        lower: &mut [u32],
        hits: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// Writes the exact distances from the query to `rows` to `out`, of the same length.
    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), Self::Error>;
}

/// Arithmetic for training and inserts. Vectors are dense 4-byte floats, as codes want them: converted from the
/// container's type, normalised for cosine, rotated unless the code is `Flat`. One call is one FPU section
/// or two, and at most about 20 microseconds.
pub trait Vectors {
    /// Why a vector cannot be had.
    type Error;

    /// Multiply-adds of one call to [`assign`](Vectors::assign) at most, as training and inserts make them: some
    /// ten microseconds.
    fn assign_work(&self) -> usize {
        1 << 20
    }

    /// Writes the vectors of `rows` to `out`.
    fn load(&mut self, rows: &[u64], out: &mut [u8]) -> Result<(), Self::Error>;

    /// Finds the nearest centroid of each of `ids.len()` vectors of `dim` floats, `stride` bytes apart, by
    /// squared L2: of equal ones the first.
    fn assign(
        &mut self,
        vectors: &[u8],
        stride: usize,
        dim: usize,
        centroids: &[u8],
        ids: &mut [u32],
        keys: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// As [`assign`](Vectors::assign), for all vectors of a sample. `stop` is asked for each batch of them. An
    /// implementation may share the batches among processors, and ask something else whether to stop.
    ///
    /// # Errors
    ///
    /// [`Failure::Stopped`], [`Failure::Caller`].
    fn assign_all(
        &mut self,
        sample: Sample<'_>,
        centroids: &[u8],
        ids: &mut [u32],
        keys: &mut [u32],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<(), Failure<Self::Error>>
    where
        Self: Sized,
    {
        kmeans::assign_in_turn(self, sample, centroids, ids, keys, stop)
    }

    /// Writes the squared L2 distances of vectors of `dim` floats, dense, to dense centroids to `keys`: those of a vector
    /// together. Of as much work at most as a call to [`assign`](Vectors::assign).
    fn distances(
        &mut self,
        vectors: &[u8],
        centroids: &[u8],
        dim: usize,
        keys: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// Writes to `costs` what it costs a vector that is in list `first`, at the squared L2 distance `key`, to be in each of
    /// `lists` too, at `keys`: `|s|^2 + 1.5 <r,s>^2 / |r|^2` for residuals `r` in the first and `s` in the second
    /// list. At most [`BATCH`] lists.
    #[allow(clippy::too_many_arguments)]
    fn spill(
        &mut self,
        centroids: &[u8],
        dim: usize,
        first: u32,
        key: u32,
        lists: &[u32],
        keys: &[u32],
        costs: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// Adds vectors to the 8-byte sums of their clusters, and 1 each to the counts.
    fn accumulate(
        &mut self,
        vectors: &[u8],
        stride: usize,
        dim: usize,
        ids: &[u32],
        sums: &mut [u64],
        counts: &mut [u64],
    ) -> Result<(), Self::Error>;

    /// Turns sums into centroids; one without vectors stays as it is.
    fn centroids(
        &mut self,
        dim: usize,
        sums: &[u64],
        counts: &[u64],
        out: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Writes `vector - centroid` to `out`.
    fn subtract(
        &mut self,
        vector: &[u8],
        centroid: &[u8],
        out: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Encodes a vector of the list with this centroid: one code a byte, and the factors.
    fn encode(
        &mut self,
        vector: &[u8],
        centroid: &[u8],
        codebooks: &[u8],
        codes: &mut [u8],
        factors: &mut [u32; 3],
    ) -> Result<(), Self::Error>;
}
