// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What an index asks of its caller: memory and locks, arithmetic, and which rows count.

use core::sync::atomic::AtomicU32;

/// The memory of one index, and its writers' locks.
///
/// Blocks never move while the index lives; there may become more of them. A caller with large
/// chunks of memory finds a block by a shift and a mask. New blocks are zeros.
pub trait Store {
    /// Holds a lock until it is dropped.
    type Guard<'a>
    where
        Self: 'a;

    /// The node in `slot`: exactly [`Layout::node_words`](super::Layout::node_words) words, or `None`
    /// from [`Store::nodes`] on.
    fn node(&self, slot: u32) -> Option<&[AtomicU32]>;

    /// How many nodes there is memory for, at most [`MAX_NODES`](super::params::MAX_NODES).
    fn nodes(&self) -> u32;

    /// The upper block `at`: exactly [`Layout::upper_words`](super::Layout::upper_words) words.
    fn upper(&self, at: u32) -> Option<&[AtomicU32]>;

    /// How many upper blocks there is memory for; see
    /// [`Layout::upper_blocks`](super::Layout::upper_blocks).
    fn uppers(&self) -> u32;

    /// The word that holds the slot of `row`, [`NOWHERE`](super::NOWHERE) at first, or `None` if
    /// there is no such row.
    fn place(&self, row: u64) -> Option<&AtomicU32>;

    /// Excludes other writers from the links of `slot`. An index takes one such lock at a time, and
    /// holds it while [`Numeric::between`] scores at most some hundred nodes. Locks may be shared by
    /// slots. Searches take none.
    fn lock(&self, slot: u32) -> Self::Guard<'_>;
}

/// The arithmetic of one vector, the query, against the codes of nodes and against rows.
///
/// Distances are order-preserving keys of one metric. Nodes are given whole; their code is in front,
/// of [`Params::code_words`](super::Params::code_words) words. Each call is a section of bounded work
/// and gets at most [`BATCH`] nodes.
pub trait Numeric {
    /// Why a distance cannot be had: reading a row may need I/O, and a caller may be killed.
    type Error;

    /// Writes the query's own code to `code`.
    fn encode(&mut self, code: &mut [u32]) -> Result<(), Self::Error>;

    /// Writes the (estimated) distances from the query to `nodes` to `out`, of the same length.
    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result<(), Self::Error>;

    /// As [`Numeric::score`], from the node `from` instead of the query.
    fn between(
        &mut self,
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), Self::Error>;

    /// Writes the exact distances from the query to `rows` to `out`, of the same length.
    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), Self::Error>;

    /// Brings part of a node towards the processor. Doing nothing is right, and slow.
    fn prefetch(&self, part: &[AtomicU32]);
}

/// The most nodes or rows of one call to [`Numeric`].
pub const BATCH: usize = 64;

/// Scratch memory of one operation, lent by the caller; what it holds is of no importance except for
/// `visited`. An operation that finds it too short fails with
/// [`Error::Workspace`](super::Error::Workspace).
pub struct Workspace<'a> {
    /// [`visited_words`](super::params::visited_words) of the slots there are, and all 0. Operations
    /// leave it so.
    pub visited: &'a mut [u64],
    /// Which of them are in use: if there are fewer than the nodes an operation looks at, it clears
    /// all of `visited`. 4096 are plenty.
    pub touched: &'a mut [u32],
    /// Candidates: at least `ef` for searches and `ef_construction` for changes.
    pub candidates: &'a mut [u64],
    /// A code: `code_words` for inserts.
    pub code: &'a mut [u32],
}
