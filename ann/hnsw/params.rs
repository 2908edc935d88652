// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Parameters of an index with their bounds and defaults, and how much memory they ask for.

use crate::MOST_PERCENT;

/// The most nodes of one index: a candidate packs a slot and a flag into 32 bits.
pub const MAX_NODES: u32 = (1 << 31) - 1;

/// The least `m`. With fewer links the graph falls apart, and levels become too many.
pub const MIN_M: u32 = 4;

/// The greatest `m`. Recall hardly gains from more links, and `2 * m` of them must fit one batch: lists and
/// batches lie on the stack, of which a kernel has little.
pub const MAX_M: u32 = 32;

/// The greatest number of links of a node on level 0.
pub const MAX_M0: usize = 2 * MAX_M as usize;

/// The greatest `ef` and `ef_construction`: candidates are kept sorted, which costs more than
/// linear time in their number.
pub const MAX_EF: u32 = 4096;

/// The topmost level. `MIN_M` to the power of this exceeds the number of nodes 2^30.
pub const MAX_LEVEL: u32 = 15;

/// The most words of a code. Up to some 980 of them a node with its links is one block of a file or of a page.
pub const MAX_CODE_WORDS: u32 = 4096;

/// Words of a node besides its code and its links: row (2), anchor, upper block, next free.
pub const NODE_HEADER_WORDS: usize = 5;

/// Words of an upper block besides its links: node, anchor, block of the next level.
pub const UPPER_HEADER_WORDS: usize = 3;

/// What an index is made with. It stays the same for the life of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Links of a new node on each level; a node keeps up to `m` links on the levels above 0 and
    /// `2 * m` on level 0. [`MIN_M`]..=[`MAX_M`], even. 16 suits most data.
    pub m: u32,
    /// Candidates collected for a new node; `m`..=[`MAX_EF`]. 200 suits most data: less is faster
    /// to build, more gains little.
    pub ef_construction: u32,
    /// Words of a code, as the arithmetic behind [`Numeric`](super::Numeric) wants them; 1 to
    /// [`MAX_CODE_WORDS`].
    pub code_words: u32,
    /// Decides the levels of rows.
    pub seed: u64,
}

/// Links of a node by default, and the fewest that are still a default where they take less memory.
const DEFAULT_M: u32 = 16;
const LEAST_DEFAULT_M: u32 = 8;

/// Elements from which on codes of one bit tell enough about a row: with 192 of them a search with defaults finds 0.96 of
/// the ten nearest (sentence embeddings), with 384 0.986.
const BIT_DIM: u32 = 192;

/// Rows that defaults are judged by: upper blocks of few are more than their share.
const MANY_ROWS: u32 = 1 << 20;

/// Bits of an element's code and links of a node by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// 4, or 1 where codes of 4 bits take too much of the rows' memory, or there are none.
    pub bits: u32,
    /// As [`Params::m`].
    pub m: u32,
}

impl Defaults {
    /// Defaults for rows of `dim` elements and `row_bytes` bytes; `code_words` says how long codes of so many bits are.
    ///
    /// 4 bits and 16 links find the most, and an index of them is less than half of rows of 4 bytes an element. Where it
    /// would be more it has fewer links, and then codes of 1 bit. Where that is no way either, as with
    /// rows of 128 bytes, it takes more than half.
    pub fn of(dim: u32, row_bytes: u32, code_words: impl Fn(u32) -> u32) -> Defaults {
        let layout = |bits, m| {
            let params = Params {
                m,
                ef_construction: MAX_EF,
                code_words: code_words(bits),
                seed: 0,
            };
            params.layout().ok()
        };
        let raw = u64::from(row_bytes).saturating_mul(u64::from(MANY_ROWS));
        let fits = |bits, m| {
            let layout: Option<Layout> = layout(bits, m);
            layout.is_some_and(|l| l.resident_bytes(MANY_ROWS) <= raw / 100 * MOST_PERCENT)
        };
        let bits = if layout(4, DEFAULT_M).is_some() { 4 } else { 1 };
        let largest = Defaults { bits, m: DEFAULT_M };
        if row_bytes >= dim.saturating_mul(4) {
            return largest;
        }
        for bits in [4, 1] {
            let m = (LEAST_DEFAULT_M..=DEFAULT_M)
                .rev()
                .step_by(2)
                .find(|m| fits(bits, *m));
            if let Some(m) = m.filter(|_| bits > 1 || dim >= BIT_DIM) {
                return Defaults { bits, m };
            }
        }
        largest
    }
}

/// Parameters out of their bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadParams;

impl Params {
    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// [`BadParams`] if a parameter is out of its range.
    pub fn layout(&self) -> Result<Layout, BadParams> {
        let m_fits = (MIN_M..=MAX_M).contains(&self.m) && self.m.is_multiple_of(2);
        if !m_fits || self.ef_construction < self.m || self.ef_construction > MAX_EF {
            return Err(BadParams);
        }
        if !(1..=MAX_CODE_WORDS).contains(&self.code_words) {
            return Err(BadParams);
        }
        Ok(Layout {
            code_words: self.code_words as usize,
            m: self.m as usize,
            m0: 2 * self.m as usize,
        })
    }
}

/// Where things are in a node: its code, then row, anchor and such, then its links on level 0.
///
/// A distance touches the front of a node and leaves the header in the cache that it needs to be
/// judged by; an expansion touches the end.
///
/// # Invariants
///
/// The bounds of [`Params::layout`] hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub(super) code_words: usize,
    pub(super) m: usize,
    pub(super) m0: usize,
}

impl Layout {
    /// Words of a node: whole cache lines of 64 bytes, or halves of lines if that saves a tenth. The front of a
    /// node is in as many lines either way, unless it is a whole number of them.
    pub const fn node_words(&self) -> usize {
        let words = self.code_words + NODE_HEADER_WORDS + self.m0;
        let (lines, halves) = (words.next_multiple_of(16), words.next_multiple_of(8));
        if (lines - halves) * 10 > lines {
            halves
        } else {
            lines
        }
    }

    /// Bytes of a node, a multiple of 32, and of 64 from 320 on. An arena should be aligned to 64.
    pub const fn node_bytes(&self) -> usize {
        self.node_words() * 4
    }

    /// Words of an upper block: the links of one node on one level above 0.
    pub const fn upper_words(&self) -> usize {
        (self.m + UPPER_HEADER_WORDS).next_multiple_of(4)
    }

    /// Bytes of an upper block.
    pub const fn upper_bytes(&self) -> usize {
        self.upper_words() * 4
    }

    /// How many upper blocks `nodes` nodes need, with room for chance: each node has one with
    /// probability 1/m, a second one with 1/m^2 and so on, `nodes / (m - 1)` altogether, with a
    /// standard deviation below its root. Where blocks run out nodes get fewer levels, which costs some
    /// speed and nothing else.
    pub const fn upper_blocks(&self, nodes: u32) -> u32 {
        let mean = match (nodes as u64).checked_div((self.m as u64).saturating_sub(1)) {
            Some(mean) => mean,
            None => 0,
        };
        // Six deviations, and what a tiny index may want by chance.
        let blocks = mean + 6 * mean.isqrt() + MAX_LEVEL as u64;
        if blocks < MAX_NODES as u64 {
            blocks as u32
        } else {
            MAX_NODES
        }
    }

    /// Bytes that stay in memory for `rows` rows, beside the rows themselves: nodes, upper blocks, and where each row's
    /// node is.
    pub const fn resident_bytes(&self, rows: u32) -> u64 {
        let nodes = (self.node_bytes() as u64 + 4) * rows as u64;
        nodes + self.upper_bytes() as u64 * self.upper_blocks(rows) as u64
    }

    /// Where the row of a node is.
    pub(super) const fn row_words(&self) -> core::ops::Range<usize> {
        self.code_words..self.code_words + 2
    }

    /// Words of the front of a node that a distance touches.
    pub(super) const fn front_words(&self) -> usize {
        self.code_words + NODE_HEADER_WORDS
    }
}

/// How many 64-bit words of [`Workspace::visited`](super::Workspace) an index of `nodes` slots needs.
pub const fn visited_words(nodes: u32) -> usize {
    (nodes as usize).div_ceil(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Params = Params {
        m: 16,
        ef_construction: 200,
        code_words: 51,
        seed: 0,
    };

    #[test]
    fn parameters_beyond_their_bounds_are_refused() {
        assert!(GOOD.layout().is_ok());
        for bad in [
            Params { m: 3, ..GOOD },
            Params { m: 0, ..GOOD },
            Params { m: 17, ..GOOD },
            Params { m: 34, ..GOOD },
            Params {
                ef_construction: 15,
                ..GOOD
            },
            Params {
                ef_construction: MAX_EF + 1,
                ..GOOD
            },
            Params {
                code_words: 0,
                ..GOOD
            },
            Params {
                code_words: MAX_CODE_WORDS + 1,
                ..GOOD
            },
            Params {
                code_words: u32::MAX,
                ..GOOD
            },
        ] {
            assert_eq!(bad.layout(), Err(BadParams), "{bad:?}");
        }
    }

    #[test]
    fn nodes_longer_than_a_block_are_whole_lines() {
        for (m, code_words) in [(16, 1000), (32, 1536), (8, 4095), (32, MAX_CODE_WORDS)] {
            let long = Params {
                m,
                code_words,
                ..GOOD
            };
            let layout = long.layout().unwrap();
            let least = 4 * (code_words as usize + NODE_HEADER_WORDS + 2 * m as usize);
            assert_eq!(layout.node_bytes(), least.next_multiple_of(64));
        }
    }

    #[test]
    fn nodes_of_short_rows_are_packed() {
        // 128 elements of 4 bits: 224 bytes are less than half of a row of 512, 256 are not.
        let layout = |m| {
            let short = Params {
                m,
                code_words: 19,
                ..GOOD
            };
            short.layout().unwrap()
        };
        assert_eq!(layout(16).node_bytes(), 224);
        assert_eq!(layout(20).node_bytes(), 256);
    }

    #[test]
    fn shorter_elements_have_fewer_links_and_then_shorter_codes() {
        let of = |dim: u32, row_bytes| {
            let words = |bits| match bits {
                4 if dim > 7936 => u32::MAX,
                4 => dim.div_ceil(128) * 16 + 3,
                _ => dim.div_ceil(64) * 2 + 3,
            };
            let Defaults { bits, m } = Defaults::of(dim, row_bytes, words);
            (bits, m)
        };
        assert_eq!(
            [96, 128, 384, 1536].map(|dim| of(dim, 4 * dim)),
            [(4, 16); 4]
        );
        assert_eq!([384, 768].map(|dim| of(dim, 2 * dim)), [(4, 12), (4, 16)]);
        assert_eq!([384, 768].map(|dim| of(dim, dim)), [(1, 10), (1, 16)]);
        // More than half of the rows: codes of 128 bits would tell too little.
        assert_eq!([of(128, 256), of(128, 128)], [(4, 16); 2]);
        // There are no codes of 4 bits.
        assert_eq!([of(7936, 4 * 7936), of(7937, 4 * 7937)], [(4, 16), (1, 16)]);
    }

    #[test]
    fn a_node_of_a_384_dimensional_row_takes_a_quarter_of_it() {
        let layout = GOOD.layout().unwrap();
        assert_eq!(layout.node_bytes(), 384);
        let per_row = layout.node_bytes()
            + layout.upper_blocks(1_000_000) as usize * layout.upper_bytes() / 1_000_000
            + 4;
        assert!(per_row <= 1536 / 4 + 16, "{per_row}");
    }
}
