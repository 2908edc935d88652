// SPDX-License-Identifier: GPL-2.0

//! The memory of a graph, and scratch memory for operations on it.

use super::budget::{Account, Charge};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::lock::{mutex::MutexBackend, Guard};
use kernel::sync::{new_mutex, Arc, Mutex};
use vexfs_ann::hnsw::params::{visited_words, MAX_NODES};
use vexfs_ann::hnsw::{Layout, Store, Workspace};
use vexfs_vfs::arena::Arena;

/// Locks that writers of one index share.
const STRIPES: usize = 64;
/// Words of [`Workspace::touched`].
const TOUCHED: usize = 4096;

/// Nodes, their upper levels, and where each row's node is.
///
/// # Invariants
///
/// `charged` bytes are taken from `account`, at least what the arenas hold.
pub(crate) struct Memory {
    account: Arc<Account>,
    charged: AtomicU64,
    layout: Layout,
    nodes: Arena,
    uppers: Arena,
    places: Arena,
    locks: KVec<Pin<KBox<Mutex<()>>>>,
}

impl Memory {
    /// Empty memory, in chunks that suit `expected` nodes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(account: Arc<Account>, layout: Layout, expected: u32) -> Result<Self> {
        let mut locks = KVec::with_capacity(STRIPES, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..STRIPES {
            let lock = KBox::pin_init(new_mutex!((), "vexfs_node"), GFP_KERNEL_ACCOUNT)?;
            locks.push_within_capacity(lock).map_err(|_| ENOMEM)?;
        }
        // INVARIANT: `grow` takes what is needed before it makes a first block.
        Ok(Memory {
            account,
            charged: AtomicU64::new(0),
            layout,
            nodes: Arena::new(layout.node_words(), expected, false)?,
            uppers: Arena::new(layout.upper_words(), layout.upper_blocks(expected), false)?,
            places: Arena::new(1, expected, true)?,
            locks,
        })
    }

    /// Bytes that this takes with room for `nodes` nodes and places for `rows` rows.
    pub(crate) fn bytes_with(&self, nodes: u32, rows: u64) -> u64 {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let uppers = self.layout.upper_blocks(nodes);
        let locks = STRIPES * (size_of::<Mutex<()>>() + size_of::<usize>());
        (locks as u64)
            .saturating_add(self.nodes.bytes_with(nodes))
            .saturating_add(self.uppers.bytes_with(uppers))
            .saturating_add(self.places.bytes_with(rows))
    }

    /// Nodes that there is room for, at most, with room for `nodes`: chunks are filled.
    pub(crate) fn nodes_with(&self, nodes: u32) -> u32 {
        let bytes = self.nodes.bytes_with(nodes);
        let nodes = bytes.checked_div(self.layout.node_bytes() as u64);
        nodes.unwrap_or(0).min(u64::from(MAX_NODES)) as u32
    }

    /// Bytes that must be spare with room for `nodes` nodes: what a repair takes for a moment, or a check.
    pub(crate) fn spare_with(&self, nodes: u32) -> u64 {
        let nodes = self.nodes_with(nodes);
        let words = u64::from(nodes)
            .saturating_mul(2)
            .saturating_add(u64::from(self.layout.upper_blocks(nodes)));
        let visited = visited_words(nodes) as u64;
        words
            .saturating_mul(size_of::<u32>() as u64)
            .saturating_add(visited.saturating_mul(size_of::<u64>() as u64))
    }

    /// Makes room for `nodes` nodes and places for `rows` rows. One caller at a time.
    ///
    /// # Errors
    ///
    /// `EFBIG` beyond what an index can hold, `ENOMEM` if the budget or memory does not suffice.
    pub(crate) fn grow(&self, nodes: u32, rows: u64) -> Result {
        let rows = u32::try_from(rows).map_err(|_| EFBIG)?;
        if nodes > MAX_NODES {
            return Err(EFBIG);
        }
        let after = self.bytes_with(nodes, u64::from(rows));
        let charged = self.charged.load(Ordering::Relaxed);
        if let Some(more @ 1..) = after.checked_sub(charged) {
            self.account.take(more)?;
            // Last: what nodes have no room for is left to searches.
            let spare = self.account.keep_spare(self.spare_with(nodes));
            spare.inspect_err(|_| self.account.give(more))?;
            // INVARIANT: taken before the arenas grow. If they cannot, the next call needs less.
            self.charged.store(after, Ordering::Relaxed);
        }
        self.places.grow(rows)?;
        self.nodes.grow(nodes)?;
        self.uppers.grow(self.layout.upper_blocks(nodes))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.give(self.charged.load(Ordering::Relaxed));
    }
}

impl Store for Memory {
    // There is a lock for every slot; the index below cannot fail.
    type Guard<'a> = Option<Guard<'a, (), MutexBackend>>;

    #[inline]
    fn node(&self, slot: u32) -> Option<&[AtomicU32]> {
        self.nodes.get(slot)
    }

    #[inline]
    fn nodes(&self) -> u32 {
        self.nodes.blocks().min(MAX_NODES)
    }

    #[inline]
    fn upper(&self, at: u32) -> Option<&[AtomicU32]> {
        self.uppers.get(at)
    }

    fn uppers(&self) -> u32 {
        self.uppers.blocks()
    }

    #[inline]
    fn place(&self, row: u64) -> Option<&AtomicU32> {
        self.places.get(u32::try_from(row).ok()?)?.first()
    }

    fn lock(&self, slot: u32) -> Self::Guard<'_> {
        Some(self.locks.get(slot as usize % STRIPES)?.lock())
    }
}

/// Scratch memory of one operation at a time.
pub(crate) struct Work {
    visited: KVVec<u64>,
    touched: KVVec<u32>,
    candidates: KVVec<u64>,
    code: KVVec<u32>,
    charge: Charge,
}

impl Work {
    /// Scratch memory for codes of `code_words` words, charged to `charge`; [`Work::reserve`] makes the rest.
    pub(crate) fn new(mut charge: Charge, code_words: usize) -> Result<Self> {
        Ok(Work {
            visited: KVVec::new(),
            touched: charge.make(TOUCHED)?,
            candidates: KVVec::new(),
            code: charge.make(code_words)?,
            charge,
        })
    }

    /// Makes room for `nodes` nodes, and for `candidates` candidates.
    pub(crate) fn reserve(&mut self, nodes: u32, candidates: usize) -> Result {
        let words = visited_words(nodes);
        self.charge.widen(&mut self.visited, words)?;
        self.charge.widen(&mut self.candidates, candidates)
    }

    /// Bytes that are charged for it, and for what is kept beside it.
    pub(crate) fn charged(&self) -> u64 {
        self.charge.bytes()
    }

    /// Lends the memory, with room for exactly `candidates` candidates if there is.
    pub(crate) fn lend(&mut self, candidates: usize) -> Workspace<'_> {
        let candidates = candidates.min(self.candidates.len());
        Workspace {
            visited: &mut self.visited,
            touched: &mut self.touched,
            candidates: self.candidates.get_mut(..candidates).unwrap_or(&mut []),
            code: &mut self.code,
        }
    }
}
