// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Rows in batches: load, assign, encode, append.
//!
//! All but the last step touches nothing that is shared, so a build does it on many processors and
//! appends in the order of rows.

use super::store::{Store, Vectors, BATCH};
use super::{spill, Error, Index};

/// What training made: kept by the caller, beside the lists.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// [`Params::centroid_bytes`](super::Params::centroid_bytes): `nlist` rows of 4-byte floats, and their mean.
    pub centroids: &'a [u8],
    /// [`Params::codebook_bytes`](super::Params::codebook_bytes).
    pub codebooks: &'a [u8],
}

/// Scratch memory of one batch, of the same number of rows everywhere, at most [`BATCH`] and, but for `vectors`, each as
/// often as it is in lists.
#[derive(Debug)]
pub struct InsertMemory<'a> {
    /// `4 * dim` bytes a row.
    pub vectors: &'a mut [u8],
    /// `nsub` bytes a row.
    pub codes: &'a mut [u8],
    /// [`NEAR_WORDS`](super::NEAR_WORDS) if rows are in two lists, or none.
    pub near: &'a mut [u64],
}

/// Rows that share each load of a centroid.
pub const TILE: usize = 8;

/// The nearest centroid for each of `ids.len()` vectors of `dim` floats, `stride` bytes apart, in calls of bounded
/// work: [`Vectors::assign_work`].
///
/// # Errors
///
/// Those of [`Vectors::assign`].
pub fn assign<V: Vectors>(
    vectors: &mut V,
    rows: &[u8],
    stride: usize,
    dim: usize,
    centroids: &[u8],
    ids: &mut [u32],
    keys: &mut [u32],
) -> Result<(), V::Error> {
    let at_once = vectors
        .assign_work()
        .checked_div(dim.saturating_mul(TILE))
        .unwrap_or(1)
        .max(1);
    let part_bytes = dim.saturating_mul(4).max(1).saturating_mul(at_once);
    let tiles = ids.chunks_mut(TILE).zip(keys.chunks_mut(TILE));
    for (tile, (ids, keys)) in tiles.enumerate() {
        let rows = rows.get(tile.saturating_mul(TILE).saturating_mul(stride)..);
        let rows = rows.unwrap_or(&[]);
        let (mut part_ids, mut part_keys) = ([0; TILE], [0; TILE]);
        let n = ids.len().min(TILE);
        for (first, part) in (0u32..).step_by(at_once).zip(centroids.chunks(part_bytes)) {
            let found = part_ids.get_mut(..n).zip(part_keys.get_mut(..n));
            let Some((found, found_keys)) = found else {
                return Ok(());
            };
            vectors.assign(rows, stride, dim, part, found, found_keys)?;
            let places = ids.iter_mut().zip(keys.iter_mut());
            for ((id, key), (at, part_key)) in places.zip(found.iter().zip(found_keys.iter())) {
                if first == 0 || *part_key < *key {
                    *id = at.saturating_add(first);
                    *key = *part_key;
                }
            }
        }
    }
    Ok(())
}

impl<S: Store> Index<S> {
    /// The centroids without their mean.
    pub(super) fn centres<'m>(&self, model: &Model<'m>) -> Option<&'m [u8]> {
        let row = (self.params.dim as usize).checked_mul(4)?;
        model
            .centroids
            .get(..row.checked_mul(self.params.nlist as usize)?)
    }

    /// Finds the lists of `rows`, at most [`BATCH`], and leaves their vectors in `memory`. `lists` has room for each row as
    /// often as it is in lists; these are together, the nearest first.
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if a slice is too short, [`Error::Caller`].
    pub fn lists_of<V: Vectors>(
        &self,
        vectors: &mut V,
        model: &Model<'_>,
        rows: &[u64],
        memory: &mut InsertMemory<'_>,
        lists: &mut [u32],
    ) -> Result<(), Error<V::Error>> {
        let dim = self.params.dim as usize;
        let bytes = rows.len().saturating_mul(dim).saturating_mul(4);
        let loaded = memory.vectors.get_mut(..bytes).ok_or(Error::Workspace)?;
        let centres = self.centres(model).ok_or(Error::Workspace)?;
        let copies = self.params.copies as usize;
        if rows.len().checked_mul(copies) != Some(lists.len()) {
            return Err(Error::Workspace);
        }
        vectors.load(rows, loaded)?;
        if copies > 1 {
            return spill::lists_of(vectors, loaded, dim, centres, memory.near, lists);
        }
        let mut keys = [0; BATCH];
        let keys = keys.get_mut(..rows.len()).ok_or(Error::Workspace)?;
        assign(
            vectors,
            loaded,
            dim.saturating_mul(4),
            dim,
            centres,
            lists,
            keys,
        )?;
        Ok(())
    }

    /// Encodes the vectors that [`Index::lists_of`] left in `memory`, with factors, each for the next `each` of `lists`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn encode<V: Vectors>(
        &self,
        vectors: &mut V,
        model: &Model<'_>,
        lists: &[u32],
        each: u32,
        memory: &mut InsertMemory<'_>,
        factors: &mut [[u32; 3]],
    ) -> Result<(), Error<V::Error>> {
        let row = (self.params.dim as usize).saturating_mul(4);
        let nsub = self.layout.nsub as usize;
        if factors.len() != lists.len() || memory.codes.len() < nsub.saturating_mul(lists.len()) {
            return Err(Error::Workspace);
        }
        if nsub == 0 {
            return Ok(());
        }
        let codes = memory.codes.chunks_mut(nsub);
        let places = codes.zip(factors.iter_mut());
        let again = |vector| core::iter::repeat_n(vector, each as usize);
        let rows = memory.vectors.chunks(row).flat_map(again);
        for ((vector, &list), (codes, factors)) in rows.zip(lists).zip(places) {
            let of = if self.params.hashed { 0 } else { list as usize };
            let at = row.saturating_mul(of);
            let centroid = model.centroids.get(at..at.saturating_add(row));
            let centroid = centroid.ok_or(Error::Workspace)?;
            vectors.encode(vector, centroid, model.codebooks, codes, factors)?;
        }
        Ok(())
    }

    /// Adds `rows`, at most [`BATCH`]; none of them is in the index already.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], then the first of the rows may be in, and [`Index::counts`] says how many;
    /// [`Error::Workspace`], [`Error::Caller`], [`Error::Damaged`].
    pub fn insert<V: Vectors>(
        &self,
        vectors: &mut V,
        model: &Model<'_>,
        rows: &[u64],
        memory: &mut InsertMemory<'_>,
    ) -> Result<(), Error<V::Error>> {
        let (mut lists, mut factors) = ([0; 2 * BATCH], [[0; 3]; 2 * BATCH]);
        let copies = self.params.copies;
        let each = copies.max(1) as usize;
        let used = rows.len().saturating_mul(each);
        let lists = lists.get_mut(..used).ok_or(Error::Workspace)?;
        let factors = factors.get_mut(..used).ok_or(Error::Workspace)?;
        self.lists_of(vectors, model, rows, memory, lists)?;
        self.encode(vectors, model, lists, copies, memory, factors)?;
        let step = (self.layout.nsub as usize).saturating_mul(each);
        let mut writer = self.writer();
        let places = lists.chunks(each).zip(factors.chunks(each));
        for (i, (&row, (lists, factors))) in rows.iter().zip(places).enumerate() {
            let at = i.saturating_mul(step);
            let codes = memory.codes.get(at..at.saturating_add(step));
            writer.append_to(lists, row, codes.ok_or(Error::Workspace)?, factors)?;
        }
        Ok(())
    }

    /// Gives the lists codes of their own, once, after training and before the first search.
    ///
    /// # Errors
    ///
    /// As [`Index::insert`].
    pub fn encode_lists<V: Vectors>(
        &self,
        vectors: &mut V,
        model: &Model<'_>,
        memory: &mut InsertMemory<'_>,
    ) -> Result<(), Error<V::Error>> {
        if !self.params.lists_have_codes() {
            return Ok(());
        }
        let nlist = self.params.nlist;
        let row = (self.params.dim as usize).saturating_mul(4).max(1);
        let centres = self.centres(model).ok_or(Error::Workspace)?;
        let mean = model.centroids.get(centres.len()..);
        let mean = mean.filter(|m| m.len() == row).ok_or(Error::Workspace)?;
        let nsub = self.layout.nsub as usize;
        let codes = memory.codes.get_mut(..nsub).ok_or(Error::Workspace)?;
        let mut writer = self.writer();
        writer.reserve(nlist, nlist)?;
        for (list, centroid) in (0u64..).zip(centres.chunks(row)) {
            let mut factors = [0; 3];
            vectors.encode(centroid, mean, model.codebooks, codes, &mut factors)?;
            writer.append(nlist, list, codes, &factors)?;
        }
        Ok(())
    }
}
