// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Locality-sensitive hashing: rows in buckets of several hash tables.
//!
//! - cosine: signs of random projections (Charikar, "Similarity estimation techniques from rounding
//!   algorithms", 2002), seen from the mean of the rows
//! - L2: projections cut into cells of a width, p-stable (Datar et al., "Locality-sensitive hashing scheme
//!   based on p-stable distributions", 2004)
//! - bits: some of them (Indyk and Motwani, 1998), see [`sample_bits`]
//!
//! A search looks into the query's own bucket of each table and into those it missed most narrowly (multi-probe:
//! Lv et al., "Multi-probe LSH", 2007), so a few tables do what otherwise took dozens. Buckets only say which rows are
//! worth a look: in its bucket a row has a longer code, all signs of its rotated residual with the factors that
//! make of them an estimate with an error bound (RaBitQ, arXiv 2405.12497), and those whose bounds are least are scored
//! exactly. Where a look at the row itself is no more work, it has no code.
//!
//! Projections come from the caller as fixed-point integers. A table is an inverted file whose lists are
//! buckets: memory, images, checks, deletes and threads are as there.
//! Inner products have no such hash; rows are hashed by their direction, which finds less.
//!
//! What to expect: hashes that know nothing of the data have to look at much of it. On 55,783 sentence embeddings of
//! 384 floats recall@10 of 0.96 takes codes of 32,000 rows, a few of them twice or more, where an inverted file needs 5,000.
//! One thread, Zen 5: 8,600 to 10,500 searches/s with four tables of 8 bits and 36 probes (295 bytes a row), beside
//! 29,000 of the inverted file, 9,400 at recall 0.987 of a scan of all codes (66 bytes a row), and 280 of an exact
//! scan. Fewer tables with more probes are as fast; longer hashes look at fewer codes, down to 15,000, which are then so
//! scattered over memory that it takes longer. On 200,000 synthetic rows of 128 floats, recall is 0.98 at 2,000 searches/s.

pub mod probe;
mod search;

use crate::ivf::params::BLOCK_ROWS;
use crate::ivf::{Code, Params as TableParams};
use crate::MOST_PERCENT;
use probe::Perturbation;

pub use search::{search, Numeric, Query, Workspace};

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
    /// By cells of width 2^16, of which every other one has a bit (Boufounos and Rane, "Efficient coding of signal
    /// distances using universal quantized embeddings", 2013): neighbouring cells differ in it.
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
    /// How rows are kept in their buckets: [`Code::Flat`] or [`Code::Signs`].
    pub code: Code,
    /// Seed of the hashes.
    pub seed: u64,
}

impl Params {
    /// Defaults for `rows` rows of `dim` elements of `row_bytes` bytes altogether: buckets of 128 to 256 rows, and four
    /// tables, or as many as have room in two fifths of the rows' own memory. Rows of up to 128 bytes, and bits, have
    /// no codes: they are read about as fast.
    ///
    /// Of 384 floats four tables take 18 %.
    pub fn default_for(rows: u64, dim: u32, row_bytes: u32, family: Family) -> Params {
        let log = u64::BITS.saturating_sub((rows / 256).leading_zeros());
        let mut params = Params {
            dim,
            family,
            ntables: 1,
            nbits: log.clamp(4, MAX_BITS).min(dim.max(1)),
            code: if row_bytes <= 128.max(dim / 4) {
                Code::Flat
            } else {
                Code::Signs
            },
            seed: 0,
        };
        let layout = params.table().and_then(|table| table.layout());
        let block = layout.map_or(u32::MAX, |layout| layout.block_words.saturating_mul(4));
        let budget = row_bytes.saturating_mul(BLOCK_ROWS) / 5 * 2;
        params.ntables = budget.checked_div(block).unwrap_or(1).clamp(1, 4);
        // Of few rows of short elements the last blocks of buckets are a part that counts.
        let most = rows.saturating_mul(u64::from(row_bytes)) / 100 * MOST_PERCENT;
        let is_short = row_bytes < dim.saturating_mul(4);
        while is_short && params.ntables > 1 && params.resident_bytes(rows) > most {
            params.ntables = params.ntables.saturating_sub(1);
        }
        params
    }

    /// Buckets of each table to look into by default, for recall@10 above 0.95: all together as many as two thirds of the
    /// buckets of one table, so the more tables there are the fewer of each. A row is in several. Hashes of less than 8
    /// bits tell less, and are for few rows: with 4 bits it takes 1.24 times the buckets of one table.
    pub fn default_nprobe(&self) -> u32 {
        let buckets = 1u32 << self.nbits.min(MAX_BITS);
        let share = 8u32.saturating_sub(self.nbits).saturating_mul(3);
        buckets
            .saturating_mul(share.saturating_add(14))
            .div_ceil(self.ntables.max(1).saturating_mul(21))
            .min(buckets)
    }

    /// Candidates that get an exact distance by default: as many as in an inverted file of the same codes.
    pub fn default_rerank(&self, k: u32) -> u32 {
        self.table().map_or(k, |table| table.default_rerank(k))
    }

    /// The parameters of each table's [`ivf::Index`](crate::ivf::Index).
    ///
    /// # Errors
    ///
    /// [`BadParams`](crate::ivf::BadParams) if a parameter is out of its range.
    pub fn table(&self) -> Result<TableParams, crate::ivf::BadParams> {
        let tables = (1..=MAX_TABLES).contains(&self.ntables);
        let bits = (1..=MAX_BITS.min(self.dim)).contains(&self.nbits);
        let code = matches!(self.code, Code::Flat | Code::Signs);
        if !tables || !bits || !code {
            return Err(crate::ivf::BadParams);
        }
        let params = TableParams {
            dim: self.dim,
            nlist: 1 << self.nbits,
            code: self.code,
            copies: 1,
            hashed: true,
            seed: self.seed,
        };
        params.layout().map(|_| params)
    }

    /// Bytes that stay in memory for `rows` rows: blocks and heads of lists.
    pub fn resident_bytes(&self, rows: u64) -> u64 {
        let Ok(table) = self.table() else {
            return 0;
        };
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
            .saturating_add(table.centroid_bytes() as u64)
    }

    /// Where the projections of a table come from: the seed of a rotation, and the first of the rotated vector's elements.
    /// Those of one rotation serve as many tables as they are enough for; that of the first is also that of codes.
    pub fn rotation(&self, table: u32) -> (u64, u32) {
        let tables = self.dim.checked_div(self.nbits).unwrap_or(1).max(1);
        let seed = self.seed.wrapping_add(u64::from(table / tables));
        (seed, (table % tables).saturating_mul(self.nbits))
    }

    /// The bucket of a row or query: a bit for each projection.
    pub fn bucket(&self, projections: &[i32]) -> u32 {
        let mut bucket = 0u32;
        for (i, &p) in (0u32..).zip(projections.iter().take(MAX_BITS as usize)) {
            let bit = match self.family {
                Family::Signs => p >= 0,
                Family::Cells => p & 0x1_0000 != 0,
            };
            bucket |= u32::from(bit) << i;
        }
        bucket
    }

    /// The ways to a neighbouring cell and their costs, the squared distances to the border, in order. Each flips a bit
    /// of the bucket.
    fn perturbations<'p>(
        &self,
        projections: &[i32],
        memory: &'p mut [Perturbation; MAX_BITS as usize],
    ) -> &'p mut [Perturbation] {
        let ways = (0u32..).zip(projections).zip(memory.iter_mut());
        for ((i, &p), way) in ways {
            let by = match self.family {
                Family::Signs => p.unsigned_abs(),
                Family::Cells => {
                    let within = p as u32 & 0xffff;
                    within.min(0x1_0000u32.saturating_sub(within))
                }
            };
            let by = u64::from(by);
            *way = Perturbation {
                cost: by.saturating_mul(by),
                bits: 1 << i,
            };
        }
        let (all, _) = memory.split_at_mut(projections.len().min(MAX_BITS as usize));
        // Insertion sort: there are at most 16, and objtool does not know that the panic of core's sort of
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
const UNKNOWN: u32 = 0x3d00_0000;

/// The factor by which projections of rotated vectors become those of [`Family::Cells`], binary32 bits: `sqrt(dim) * 2^16 / w`,
/// where the cells' width `w` is 5.7 times the distance of near rows. `near` is its square, binary32 bits; if that is no
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
    let power = 111 - exponent as i32;
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
    // At most 211 and at least 76: no overflow.
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
