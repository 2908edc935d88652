// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The two lists of each row (SOAR: Sun et al., arXiv 2404.00774).
//!
//! The first is that of the nearest centroid. A query that a row is near to misses this list if the row's residual there
//! points away from the query, so the second one is of a near centroid whose residual is not along the first.

use super::insert::TILE;
use super::store::Vectors;
use super::Error;
use crate::reservoir::{candidate, distance_of, memory, number_of, Reservoir};

/// Centroids near a row whose lists may be its own.
const NEAR: usize = 32;

/// Centroids that a tile of rows is compared with at once: some hundred bytes of stack.
const CENTROIDS: usize = 24;

/// Elements of [`InsertMemory::near`](super::InsertMemory::near) for rows in two lists.
pub const NEAR_WORDS: usize = TILE * memory(NEAR);

/// Writes the two lists of each of `lists.len() / 2` dense vectors of `dim` floats, the nearest first. There are two
/// centroids at least. Not inlined: loading rows wants the stack.
///
/// # Errors
///
/// [`Error::Workspace`] if a slice is too short, [`Error::Caller`].
#[inline(never)]
pub(super) fn lists_of<V: Vectors>(
    vectors: &mut V,
    rows: &[u8],
    dim: usize,
    centroids: &[u8],
    near: &mut [u64],
    lists: &mut [u32],
) -> Result<(), Error<V::Error>> {
    let row = dim.saturating_mul(4).max(1);
    let at_once = vectors
        .assign_work()
        .checked_div(dim.saturating_mul(TILE))
        .unwrap_or(1)
        .clamp(1, CENTROIDS);
    let near = near.get_mut(..NEAR_WORDS).ok_or(Error::Workspace)?;
    let tiles = rows.chunks(row.saturating_mul(TILE));
    for (rows, lists) in tiles.zip(lists.chunks_mut(2 * TILE)) {
        let mut memories = near.chunks_exact_mut(memory(NEAR));
        let mut nearest: [_; TILE] = core::array::from_fn(|_| {
            let memory = memories.next().unwrap_or(&mut []);
            Reservoir::new(memory, NEAR)
        });
        let parts = centroids.chunks(row.saturating_mul(at_once));
        for (first, part) in (0u32..).step_by(at_once).zip(parts) {
            let count = part.len().checked_div(row).unwrap_or(0).max(1);
            let mut keys = [0; TILE * CENTROIDS];
            let used = (lists.len() / 2).saturating_mul(count);
            let keys = keys.get_mut(..used).ok_or(Error::Workspace)?;
            vectors.distances(rows, part, dim, keys)?;
            for (near, keys) in nearest.iter_mut().zip(keys.chunks(count)) {
                for (list, key) in (first..).zip(keys) {
                    near.push(candidate(*key, list));
                }
            }
        }
        for (near, lists) in nearest.into_iter().zip(lists.chunks_mut(2)) {
            let (Some((first, others)), [one, two]) = (near.into_sorted().split_first(), lists)
            else {
                return Err(Error::Workspace);
            };
            *one = number_of(*first);
            *two = second(vectors, dim, centroids, *first, others)?;
        }
    }
    Ok(())
}

/// The one of `others` that costs least beside `first`; of equal ones the nearest. Not inlined: comparing a tile of rows
/// wants the stack too.
#[inline(never)]
fn second<V: Vectors>(
    vectors: &mut V,
    dim: usize,
    centroids: &[u8],
    first: u64,
    others: &[u64],
) -> Result<u32, Error<V::Error>> {
    let (mut numbers, mut keys, mut costs) = ([0; NEAR], [0; NEAR], [0; NEAR]);
    let places = numbers.iter_mut().zip(keys.iter_mut());
    for ((number, key), other) in places.zip(others) {
        (*number, *key) = (number_of(*other), distance_of(*other));
    }
    let n = others.len();
    let slices = (numbers.get(..n), keys.get(..n), costs.get_mut(..n));
    let (Some(numbers), Some(keys), Some(costs)) = slices else {
        return Err(Error::Workspace);
    };
    let (list, key) = (number_of(first), distance_of(first));
    vectors.spill(centroids, dim, list, key, numbers, keys, costs)?;
    let all = costs.iter().zip(numbers);
    let least = all.min_by_key(|(cost, _)| **cost);
    Ok(*least.ok_or(Error::Workspace)?.1)
}
