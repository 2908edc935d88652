// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Locality-sensitive hashing: rows in buckets of several hash tables.
//!
//! - cosine: signs of random projections (Charikar, "Similarity estimation techniques from rounding
//!   algorithms", 2002)
//! - L2: projections cut into cells of a width, p-stable (Datar et al., "Locality-sensitive hashing scheme
//!   based on p-stable distributions", 2004)
//! - bits: some of them (Indyk and Motwani, 1998), see [`sample_bits`]
//!
//! A search looks into the query's own bucket of each table and into those it missed most narrowly (multi-probe:
//! Lv et al., "Multi-probe LSH", 2007), so a few tables do what otherwise took dozens, and scores
//! the rows in them exactly.
//!
//! Projections come from the caller as fixed-point integers. A table is an inverted file without codes
//! ([`Code::Flat`]) whose lists are buckets: memory, images, checks, deletes and threads are as there.
//! Inner products have no such hash; containers with that metric are searched by other indexes.

pub mod probe;

use core::sync::atomic::Ordering;

use crate::ivf::{Code, Error, Found, Index, Params as TableParams, Store, BATCH};
use crate::{Hit, TopK, Visible};
use probe::{Heap, Perturbation};

/// The largest dimension, that of the vectors in a container.
const MAX_DIM: u32 = crate::ivf::params::MAX_DIM;

/// The most projections of a table.
pub const MAX_BITS: u32 = 16;

/// The most tables.
pub const MAX_TABLES: u32 = 32;

/// How projections become a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// By their signs.
    Signs,
    /// By cells of width 2^16.
    Cells,
}

/// What an index is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Elements of a vector.
    pub dim: u32,
    /// How projections become a bucket.
    pub family: Family,
    /// Tables, in `1..=MAX_TABLES`: each holds every row, in 4 to 6 bytes.
    pub ntables: u32,
    /// Projections of a table, in `1..=MAX_BITS` and at most `dim`. There are 2^nbits buckets.
    pub nbits: u32,
    /// Seed of the hashes.
    pub seed: u64,
}

impl Params {
    /// Defaults for `rows` rows of `dim` elements: buckets of about 16 rows, and eight tables, whose 50 bytes a
    /// row are 3 % of 384 floats. More tables raise recall less than more probes do.
    pub fn default_for(rows: u64, dim: u32, family: Family) -> Params {
        let log = u64::BITS.saturating_sub((rows / 16).leading_zeros());
        Params {
            dim,
            family,
            ntables: 8,
            nbits: log.clamp(4, MAX_BITS).min(dim.max(1)),
            seed: 0,
        }
    }

    /// The parameters of each table's [`Index`].
    ///
    /// # Errors
    ///
    /// [`BadParams`](crate::ivf::BadParams) if a parameter is out of its range.
    pub fn table(&self) -> Result<TableParams, crate::ivf::BadParams> {
        let tables = (1..=MAX_TABLES).contains(&self.ntables);
        let bits = (1..=MAX_BITS.min(self.dim)).contains(&self.nbits);
        if !tables || !bits {
            return Err(crate::ivf::BadParams);
        }
        let params = TableParams {
            dim: self.dim,
            nlist: 1 << self.nbits,
            code: Code::Flat,
            seed: self.seed,
        };
        params.layout().map(|_| params)
    }

    /// Bytes that stay in memory for `rows` rows: blocks and heads of lists.
    pub fn resident_bytes(&self, rows: u64) -> u64 {
        let Ok(table) = self.table() else {
            return 0;
        };
        // There are no centroids.
        let lists = (table.list_words() as u64).saturating_mul(4);
        let block = table
            .layout()
            .map_or(0, |layout| u64::from(layout.block_words));
        let blocks = table
            .usual_blocks(rows)
            .saturating_mul(block)
            .saturating_mul(4);
        lists
            .saturating_add(blocks)
            .saturating_mul(u64::from(self.ntables))
    }

    /// The bucket of a row or query.
    pub fn bucket(&self, projections: &[i32]) -> u32 {
        self.bucket_but(projections, 0)
    }

    /// The bucket of projections of which those in `changed` are in a neighbouring cell: two bits each, for below
    /// and above.
    fn bucket_but(&self, projections: &[i32], changed: u64) -> u32 {
        let mut bucket = 0u64;
        for (i, &p) in (0u32..).zip(projections.iter().take(MAX_BITS as usize)) {
            let (below, above) = (changed >> (2 * i) & 1 != 0, changed >> (2 * i) & 2 != 0);
            match self.family {
                Family::Signs => bucket |= u64::from((p >= 0) != (below || above)) << i,
                Family::Cells => {
                    let cell = (p >> 16)
                        .wrapping_sub(i32::from(below))
                        .wrapping_add(i32::from(above));
                    // Cells are hashed to as many buckets as projections could have signs.
                    bucket = crate::ivf::mix(bucket ^ u64::from(cell as u32));
                }
            }
        }
        (bucket & ((1u64 << self.nbits.min(MAX_BITS)) - 1)) as u32
    }

    /// The ways to a neighbouring cell and their costs, the squared distances to the border.
    fn perturbations<'p>(
        &self,
        projections: &[i32],
        memory: &'p mut [Perturbation; 2 * MAX_BITS as usize],
    ) -> &'p mut [Perturbation] {
        let mut n = 0usize;
        let mut add = |bit: u32, by: u64| {
            if let Some(place) = memory.get_mut(n) {
                *place = Perturbation {
                    cost: by.saturating_mul(by),
                    bits: 1 << bit,
                };
                n = n.saturating_add(1);
            }
        };
        for (i, &p) in (0u32..).zip(projections.iter().take(MAX_BITS as usize)) {
            match self.family {
                Family::Signs => add(2 * i, u64::from(p.unsigned_abs())),
                Family::Cells => {
                    let within = (p & 0xffff) as u64;
                    add(2 * i, within);
                    add(2 * i + 1, 0x1_0000u64.saturating_sub(within));
                }
            }
        }
        let (all, _) = memory.split_at_mut(n.min(2 * MAX_BITS as usize));
        // Insertion sort: there are at most 64, and objtool does not know that the panic of core's sort of
        // structures does not return.
        for end in 1..all.len() {
            for at in (1..=end).rev() {
                match all.get_mut(at.wrapping_sub(1)..=at) {
                    Some([a, b]) if (b.cost, b.bits) < (a.cost, a.bits) => core::mem::swap(a, b),
                    _ => break,
                }
            }
        }
        all
    }
}

/// What a squared distance counts as that is none: cells are 1 wide.
const UNKNOWN: u32 = 0x3d80_0000;

/// The factor by which projections of rotated vectors become those of [`Family::Cells`], binary32 bits: `sqrt(dim) * 2^16 / w`,
/// where the cells' width `w` is four times the distance of near rows. `near` is its square, binary32 bits; if that is no
/// positive number, cells are 1 wide.
pub fn cell_scale(dim: u32, near: u32) -> u32 {
    let (exponent, near) = match near >> 23 {
        exponent @ 1..=254 => (exponent, near),
        _ => (UNKNOWN >> 23, UNKNOWN),
    };
    // sqrt(dim / near) in fixed point: a significand of 24 bits, and two to the power of `power`.
    let significand = u64::from(near & 0x7f_ffff | 0x80_0000);
    let ratio = (u64::from(dim.min(MAX_DIM)) << 38)
        .checked_div(significand)
        .unwrap_or(0);
    let power = 112 - exponent as i32;
    let (ratio, power) = if power & 1 == 0 {
        (ratio, power)
    } else {
        (ratio << 1, power - 1)
    };
    let root = (ratio << 30).isqrt().max(1);
    let top = 63 - root.leading_zeros();
    let mantissa = if top > 23 {
        root >> (top - 23)
    } else {
        root << (23 - top)
    };
    // At most 212 and at least 77: no overflow.
    let exponent = 127 + top as i32 + power / 2 - 1;
    (exponent as u32) << 23 | mantissa as u32 & 0x7f_ffff
}

/// Writes what takes the place of projections for a row of bits: 1 for a bit that is set and -1 for one that is
/// not, at `out.len()` places that table and seed choose. The buckets are [`Family::Signs`].
pub fn sample_bits(seed: u64, table: u32, dim: u32, row: &[u8], out: &mut [i32]) {
    for (i, out) in (0u64..).zip(out) {
        let random = crate::ivf::mix(seed ^ u64::from(table) << 32 ^ i);
        let bit = random.checked_rem(u64::from(dim)).unwrap_or(0);
        let byte = row.get((bit / 8) as usize).copied().unwrap_or(0);
        *out = if byte >> (bit % 8) & 1 == 1 { 1 } else { -1 };
    }
}

/// Arithmetic for one query. One call is one FPU section.
pub trait Numeric {
    /// Why a distance cannot be had.
    type Error;

    /// Writes the query's projections of a table, fixed-point, to `out`. For [`Family::Cells`] a cell is 2^16 wide.
    fn project(&mut self, table: u32, out: &mut [i32]) -> Result<(), Self::Error>;

    /// Writes the exact distances from the query to `rows` to `out`, of the same length.
    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), Self::Error>;
}

/// What to search for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Buckets of each table to look into.
    pub nprobe: u32,
    /// Rows of the container that the index knows: `0..rows`.
    pub rows: u64,
}

/// Scratch memory of a search, lent by the caller.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// A bit for each row of the query's `rows`, all 0. A search leaves it so.
    pub visited: &'a mut [u64],
    /// Which of its words are in use; if there are more, all of `visited` is cleared at the end.
    pub touched: &'a mut [u32],
    /// At least `nprobe` elements.
    pub heap: &'a mut [Perturbation],
}

/// Rows on their way to be scored.
struct Batch<'w, 'a> {
    work: &'w mut Workspace<'a>,
    touched: usize,
    rows: [u64; BATCH],
    used: usize,
}

impl Batch<'_, '_> {
    /// Marks a row; says whether it was not marked before.
    fn visit(&mut self, row: u64) -> bool {
        let at = row / 64;
        let Some(word) = self.work.visited.get_mut(at as usize) else {
            return false;
        };
        if *word == 0 {
            if let Some(place) = self.work.touched.get_mut(self.touched) {
                *place = at as u32;
            }
            self.touched = self.touched.saturating_add(1);
        }
        let bit = 1 << (row % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn push(&mut self, row: u64) {
        if let Some(place) = self.rows.get_mut(self.used) {
            *place = row;
            self.used = self.used.saturating_add(1);
        }
    }

    fn is_full(&self) -> bool {
        self.used == BATCH
    }

    /// Scores what was collected.
    fn flush<N, F>(
        &mut self,
        numeric: &mut N,
        visible: &mut F,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), N::Error>
    where
        N: Numeric,
        F: Visible<Error = N::Error>,
    {
        let mut distances = [0; BATCH];
        let rows = self.rows.get(..self.used).unwrap_or(&[]);
        if let Some(out) = distances
            .get_mut(..rows.len())
            .filter(|out| !out.is_empty())
        {
            numeric.exact(rows, out)?;
            found.distances = found.distances.saturating_add(rows.len() as u64);
            for (&row, &distance) in rows.iter().zip(out.iter()) {
                if distance > top.bound() {
                    continue;
                }
                if let Some(key) = visible.key(row)? {
                    top.push(Hit { distance, key, row });
                }
            }
        }
        self.used = 0;
        found.partial = visible.stop(found.distances);
        Ok(())
    }
}

impl Drop for Batch<'_, '_> {
    fn drop(&mut self) {
        match self.work.touched.get(..self.touched) {
            Some(touched) => {
                for &at in touched {
                    if let Some(word) = self.work.visited.get_mut(at as usize) {
                        *word = 0;
                    }
                }
            }
            None => self.work.visited.fill(0),
        }
    }
}

/// Finds near rows that are visible, and offers them to `top`, which holds none of `0..query.rows` yet. `tables`
/// are those of the parameters, in order.
///
/// If the buckets do not fill `top`, all other visible rows are scored too: `k` rows are found if there are as many.
///
/// # Errors
///
/// [`Error::Workspace`] if scratch memory is too short or there are not as many tables as parameters say,
/// [`Error::Caller`], [`Error::Damaged`]. `top` holds what was found so far.
pub fn search<S, N, F>(
    params: &Params,
    tables: &[Index<S>],
    work: &mut Workspace<'_>,
    numeric: &mut N,
    visible: &mut F,
    query: &Query,
    top: &mut TopK<'_>,
) -> Result<Found, Error<N::Error>>
where
    S: Store,
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let nprobe = query.nprobe.max(1) as usize;
    let enough = tables.len() == params.ntables as usize
        && params.table().is_ok()
        && work.visited.len() as u64 >= query.rows.div_ceil(64)
        && work.heap.len() >= nprobe;
    if !enough {
        return Err(Error::Workspace);
    }
    let mut found = Found::default();
    if top.k() == 0 {
        return Ok(found);
    }
    let heap_memory = core::mem::take(&mut work.heap);
    let mut batch = Batch {
        work,
        touched: 0,
        rows: [0; BATCH],
        used: 0,
    };
    let mut result = Ok(());
    for (table, index) in (0u32..).zip(tables) {
        result = search_table(
            params,
            table,
            index,
            &mut batch,
            heap_memory,
            numeric,
            visible,
            query,
            top,
            &mut found,
        );
        if result.is_err() || found.partial {
            break;
        }
    }
    if result.is_ok() && !found.partial {
        result = batch
            .flush(numeric, visible, top, &mut found)
            .map_err(Error::Caller);
        let mut row = 0;
        while result.is_ok() && !found.partial && !top.is_full() && row < query.rows {
            let Some(next) = visible.next_allowed(row..query.rows) else {
                break;
            };
            if batch.visit(next) {
                batch.push(next);
            }
            row = next.saturating_add(1);
            if batch.is_full() {
                // The bound alone decides now: every row that is left is scored.
                result = batch
                    .flush(numeric, visible, top, &mut found)
                    .map_err(Error::Caller);
            }
        }
        if result.is_ok() && !found.partial {
            result = batch
                .flush(numeric, visible, top, &mut found)
                .map_err(Error::Caller);
        }
    }
    drop(batch);
    work.heap = heap_memory;
    result.map(|()| found)
}

/// Looks into the buckets of one table, the likeliest first.
#[allow(clippy::too_many_arguments)]
fn search_table<S, N, F>(
    params: &Params,
    table: u32,
    index: &Index<S>,
    batch: &mut Batch<'_, '_>,
    heap: &mut [Perturbation],
    numeric: &mut N,
    visible: &mut F,
    query: &Query,
    top: &mut TopK<'_>,
    found: &mut Found,
) -> Result<(), Error<N::Error>>
where
    S: Store,
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let mut projections = [0; MAX_BITS as usize];
    let projections = projections
        .get_mut(..params.nbits as usize)
        .ok_or(Error::Workspace)?;
    numeric.project(table, projections)?;
    let mut memory = [Perturbation::default(); 2 * MAX_BITS as usize];
    let ways = params.perturbations(projections, &mut memory);
    let mut sets = Heap::new(heap, ways);
    let mut changed = 0;
    for _ in 0..query.nprobe.max(1) {
        let bucket = params.bucket_but(projections, changed);
        let mut result = Ok(());
        let walked = index.walk(bucket, |_, block, rows| {
            for place in 0..rows {
                let Some(row) = block.row(place).map(|row| row.load(Ordering::Acquire)) else {
                    continue;
                };
                // A hole's number is beyond every row.
                let row = u64::from(row);
                if row < query.rows && batch.visit(row) && visible.allows(row) {
                    batch.push(row);
                }
                if batch.is_full() {
                    result = batch.flush(numeric, visible, top, found);
                    if result.is_err() || found.partial {
                        return false;
                    }
                }
            }
            true
        });
        walked.ok_or(Error::Damaged)?;
        result?;
        found.lists = found.lists.saturating_add(1);
        if found.partial {
            return Ok(());
        }
        match sets.cheapest() {
            Some(set) => changed = set,
            None => break,
        }
    }
    Ok(())
}
