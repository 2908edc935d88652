// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Parameters of an inverted file, their bounds and defaults, and the sizes that follow from them.

use crate::MOST_PERCENT;

/// Rows of a block: a scan of 4-bit codes scores as many at once.
pub const BLOCK_ROWS: u32 = 32;

/// Words before the codes of a block: a cache line, so that codes begin at one.
pub(super) const HEAD_WORDS: u32 = 16;

/// Words of a list: the first block, slots, the last block, the first hole.
pub const LIST_WORDS: usize = 4;

/// The most lists. A search ranks all of them in memory of 8 bytes each, and 65,536 lists of 4096 rows
/// are already 268 million rows.
pub const MAX_NLIST: u32 = 65536;

/// The largest dimension, that of the vectors in a container.
pub const MAX_DIM: u32 = 65536;

/// The largest block, in bytes: two fit a chunk of 2 MiB.
pub const MAX_BLOCK_BYTES: u32 = 1 << 20;

/// The most rows: the top bit of a row number marks a slot without one.
pub const MAX_ROWS: u64 = (1 << 31) - 1;

/// From this many lists on, they have codes themselves and are found by a scan of these. With fewer, exact
/// distances to all cost no more than the table and the second look.
pub const CODED_NLIST: u32 = 256;

/// Where codes alone take that, lists may take one of so many bytes of rows beside them.
const LEAST_SHARE: u64 = 16;

/// How a row is kept in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// By its number alone: distances are exact, from the container's rows.
    Flat,
    /// One bit an element, the signs of its rotated residual: RaBitQ (arXiv 2405.12497).
    Signs,
    /// `nsub` codes of 4 bits of its rotated residual: product quantisation, scanned by shuffles.
    Pq4 {
        /// Parts of a vector; a divisor of the dimension.
        nsub: u32,
    },
    /// `nsub` codes of 8 bits: product quantisation, scanned by table lookups.
    Pq8 {
        /// Parts of a vector; a divisor of the dimension.
        nsub: u32,
    },
}

/// What an index is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Elements of a vector, in `1..=MAX_DIM`.
    pub dim: u32,
    /// Lists, in `1..=MAX_NLIST`.
    pub nlist: u32,
    /// How rows are kept.
    pub code: Code,
    /// Lists that a row is in: 1, or 2 where there are two lists at least, see `spill.rs`.
    pub copies: u32,
    /// Lists are buckets of a hash: codes are around one centre for all of them, and lists have none themselves.
    pub hashed: bool,
    /// Seed of the sample, of the first centroids and, by the caller's arithmetic, of the rotation.
    pub seed: u64,
}

/// A parameter is out of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadParams;

/// Shapes of blocks, in words of 4 bytes.
///
/// A block is a head (the next block, its list), codes, 32 words for each factor, 32 row numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Words of a block.
    pub block_words: u32,
    /// Codes of a row, one byte each while they are outside of a block.
    pub nsub: u32,
    /// Centroids of a codebook: 16 or 256, or 0 without codebooks.
    pub ksub: u32,
    /// Whether a code is 4 bits in the block.
    pub four_bits: bool,
    /// Where the factors begin.
    pub factors_at: u32,
    /// Where the row numbers begin.
    pub rows_at: u32,
}

impl Params {
    /// Defaults for `rows` rows of `dim` elements of `row_bytes` bytes altogether.
    ///
    /// Signs need no training beyond the centroids, an eighth of a byte an element, and find 99 % of the ten
    /// nearest among the first 40 (384-d embeddings). Rows of up to 128 bytes, and bits, are not worth codes: they
    /// are read about as fast.
    pub fn default_for(rows: u64, dim: u32, row_bytes: u32) -> Params {
        let mut params = Params {
            dim,
            nlist: 1,
            code: if row_bytes <= 128.max(dim / 4) {
                Code::Flat
            } else {
                Code::Signs
            },
            copies: 1,
            hashed: false,
            seed: 0,
        };
        params.nlist = params.default_nlist(rows, row_bytes);
        params
    }

    /// Lists for `rows` rows of `row_bytes` bytes: about 4 sqrt(n), a power of two, which makes ranking the lists and
    /// scanning a few of them about the same work. Centroids are of 4 bytes an element, so where elements of rows are
    /// shorter there are half as many lists, and so on, until an index takes less than half of the rows' memory, unless it
    /// is the codes that take it.
    pub fn default_nlist(&self, rows: u64, row_bytes: u32) -> u32 {
        // A number of 2 l or 2 l + 1 bits is 2^(2 l - 1) at least and less than 2^(2 l + 1).
        let log = u64::BITS.saturating_sub(rows.saturating_mul(16).leading_zeros());
        let mut nlist = (1u32 << (log / 2).min(16)).clamp(1, MAX_NLIST);
        let vector = self.dim.saturating_mul(4);
        if row_bytes >= vector {
            return nlist;
        }
        let raw = rows.saturating_mul(u64::from(row_bytes));
        let bytes = |nlist| {
            let params = Params {
                nlist,
                copies: self.copies.min(nlist),
                ..*self
            };
            params.resident_bytes(rows)
        };
        let most = (raw / 100 * MOST_PERCENT).max(bytes(1).saturating_add(raw / LEAST_SHARE));
        while nlist > 1 && bytes(nlist) > most {
            nlist /= 2;
        }
        nlist
    }

    /// Lists that a row is in by default, where there are as many. `angular` is whether rows are compared by inner product
    /// or cosine. In two lists rows without codes are found in a third less time by inner product then, in a fifth less by
    /// cosine, in a sixth more memory. Codes would be there twice. By L2 it saves a sixth over embeddings; over synthetic
    /// rows it saves time for recalls above 0.95 only.
    pub fn default_copies(&self, angular: bool) -> u32 {
        if angular && self.code == Code::Flat {
            2
        } else {
            1
        }
    }

    /// Checks all bounds.
    ///
    /// # Errors
    ///
    /// [`BadParams`] if `dim`, `nlist` or `copies` is out of its range, `nsub` does not divide `dim`, or a block would be
    /// larger than [`MAX_BLOCK_BYTES`].
    pub fn layout(&self) -> Result<Layout, BadParams> {
        if !(1..=MAX_DIM).contains(&self.dim) || !(1..=MAX_NLIST).contains(&self.nlist) {
            return Err(BadParams);
        }
        // Buckets are of one hash.
        let most_copies = if self.hashed { 1 } else { self.nlist.min(2) };
        if !(1..=most_copies).contains(&self.copies) {
            return Err(BadParams);
        }
        let (nsub, ksub, four_bits) = match self.code {
            Code::Flat => (0, 0, false),
            Code::Signs => (self.dim.div_ceil(4), 0, true),
            Code::Pq4 { nsub } => (nsub, 16, true),
            Code::Pq8 { nsub } => (nsub, 256, false),
        };
        let parts = matches!(self.code, Code::Pq4 { .. } | Code::Pq8 { .. });
        if parts && (nsub == 0 || self.dim.checked_rem(nsub) != Some(0)) {
            return Err(BadParams);
        }
        // 32 codes are 16 bytes, or 32. All numbers are below 2^23.
        let codes = nsub * if four_bits { 4 } else { 8 };
        let factors = if nsub == 0 { 0 } else { 3 * BLOCK_ROWS };
        let factors_at = HEAD_WORDS + codes;
        let rows_at = factors_at + factors;
        let block_words = rows_at + BLOCK_ROWS;
        if block_words * 4 > MAX_BLOCK_BYTES {
            return Err(BadParams);
        }
        Ok(Layout {
            block_words,
            nsub,
            ksub,
            four_bits,
            factors_at,
            rows_at,
        })
    }

    /// Candidates that get an exact distance by default. The shorter codes are, the more rows may be nearer than they
    /// seem: of the ten nearest of 50,000 rows, codes of 128 bits find 0.99 among 130, those of 384 bits among 56.
    pub fn default_rerank(&self, k: u32) -> u32 {
        let bits = match self.code {
            Code::Flat => return k,
            Code::Signs => self.dim,
            Code::Pq4 { nsub } => nsub.saturating_mul(4),
            Code::Pq8 { nsub } => nsub.saturating_mul(8),
        };
        let part = |of: u32| of.checked_div(bits).unwrap_or(0);
        // Both codes of a row may be among them.
        k.saturating_mul(part(256).saturating_add(3))
            .saturating_add(part(10_240))
            .saturating_mul(self.copies)
    }

    /// Lists with that of the lists' own codes.
    pub fn all_lists(&self) -> u32 {
        self.nlist.saturating_add(1)
    }

    /// Whether lists are found by their codes.
    pub(crate) fn lists_have_codes(&self) -> bool {
        self.code != Code::Flat && !self.hashed && self.nlist >= CODED_NLIST
    }

    /// Words of all lists' heads.
    pub fn list_words(&self) -> usize {
        LIST_WORDS.saturating_mul(self.all_lists() as usize)
    }

    /// Bytes of the centroids, 4-byte floats, and of their mean after them; of the one centre of buckets.
    pub fn centroid_bytes(&self) -> usize {
        let centroids = match (self.hashed, self.code) {
            (false, _) => self.all_lists(),
            (true, Code::Flat) => 0,
            (true, _) => 1,
        };
        (centroids as usize)
            .saturating_mul(self.dim as usize)
            .saturating_mul(4)
    }

    /// Bytes of the codebooks, 4-byte floats: `nsub` of `ksub` centroids of `dim / nsub` elements.
    pub fn codebook_bytes(&self) -> usize {
        let ksub = self.layout().map_or(0, |layout| layout.ksub);
        (ksub as usize)
            .saturating_mul(self.dim as usize)
            .saturating_mul(4)
    }

    /// Slots that `rows` rows take.
    pub fn entries(&self, rows: u64) -> u64 {
        rows.saturating_mul(u64::from(self.copies))
    }

    /// Blocks that `rows` rows may need, however they spread: every list's last one may be nearly empty.
    pub fn most_blocks(&self, rows: u64) -> u64 {
        let lists = if self.lists_have_codes() { 2 } else { 1 };
        (self.entries(rows) / u64::from(BLOCK_ROWS))
            .saturating_add(u64::from(self.nlist).saturating_mul(lists))
            .saturating_add(1)
    }

    /// Blocks that `rows` rows need if every list's last block is half empty: what to expect.
    pub fn usual_blocks(&self, rows: u64) -> u64 {
        let codes = if self.lists_have_codes() {
            self.nlist / BLOCK_ROWS
        } else {
            0
        };
        (self.entries(rows) / u64::from(BLOCK_ROWS))
            .saturating_add(u64::from(self.nlist) / 2)
            .saturating_add(u64::from(codes))
    }

    /// Bytes that stay in memory for `rows` rows, beside the rows themselves.
    pub fn resident_bytes(&self, rows: u64) -> u64 {
        let block = self
            .layout()
            .map_or(0, |layout| u64::from(layout.block_words));
        let fixed = self
            .centroid_bytes()
            .saturating_add(self.codebook_bytes())
            .saturating_add(self.list_words().saturating_mul(4));
        self.usual_blocks(rows)
            .saturating_mul(block.saturating_mul(4))
            .saturating_add(fixed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(dim: u32, nlist: u32, code: Code) -> Params {
        Params {
            dim,
            nlist,
            code,
            copies: 1,
            hashed: false,
            seed: 1,
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert!(params(384, 1024, Code::Signs).layout().is_ok());
        for bad in [
            params(0, 1, Code::Flat),
            params(MAX_DIM + 1, 1, Code::Flat),
            params(u32::MAX, 1, Code::Signs),
            params(8, 0, Code::Flat),
            params(8, MAX_NLIST + 1, Code::Flat),
            params(8, u32::MAX, Code::Flat),
            params(8, 4, Code::Pq4 { nsub: 0 }),
            params(8, 4, Code::Pq4 { nsub: 3 }),
            params(8, 4, Code::Pq8 { nsub: u32::MAX }),
            params(MAX_DIM, 4, Code::Pq8 { nsub: MAX_DIM }),
            Params {
                copies: 2,
                ..params(8, 1, Code::Flat)
            },
            Params {
                copies: 0,
                ..params(8, 4, Code::Flat)
            },
            Params {
                copies: 3,
                ..params(8, 4, Code::Flat)
            },
            Params {
                copies: 2,
                hashed: true,
                ..params(8, 4, Code::Flat)
            },
        ] {
            assert_eq!(bad.layout(), Err(BadParams), "{bad:?}");
        }
        assert!(params(MAX_DIM, MAX_NLIST, Code::Signs).layout().is_ok());
    }

    #[test]
    fn every_default_stays_below_half_of_the_raw_rows() {
        for rows in [10_000u64, 55_783, 1_000_000, 100_000_000] {
            for dim in [96u32, 128, 384, 768, 1536] {
                let params = Params::default_for(rows, dim, dim * 4);
                assert!(params.layout().is_ok());
                let share = params.resident_bytes(rows) * 100 / (rows * dim as u64 * 4);
                assert!(share < 50, "{rows} rows of {dim}: {share} %");
            }
        }
    }

    #[test]
    fn lists_grow_with_the_root_of_the_rows() {
        let nlist = |rows| Params::default_for(rows, 384, 1536).nlist;
        assert_eq!(nlist(0), 1);
        assert_eq!(nlist(1), 4);
        assert_eq!(nlist(55_783), 1024);
        assert_eq!(nlist(1_000_000), 4096);
        assert_eq!(nlist(u64::MAX), MAX_NLIST);
    }

    #[test]
    fn short_rows_have_fewer_lists() {
        let nlist = |rows, row_bytes| Params::default_for(rows, 384, row_bytes).nlist;
        assert_eq!(
            [1536, 768, 384, 48].map(|bytes| nlist(10_000, bytes)),
            [512, 512, 256, 64]
        );
        assert_eq!(
            [1536, 768, 384, 48].map(|bytes| nlist(1_000_000, bytes)),
            [4096; 4]
        );
        // Codes longer than the row: it is not the lists that take too much.
        let long = params(384, 1, Code::Pq8 { nsub: 384 });
        assert_eq!(long.default_nlist(1_000_000, 384), 2048);
        assert_eq!(long.default_nlist(10_000, 384), 16);
        assert_eq!(long.default_nlist(0, 384), 1);
    }
}
