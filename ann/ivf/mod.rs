// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Inverted files: rows in lists around centroids (Sivic and Zisserman, 2003; Jegou et al., "Product
//! quantization for nearest neighbor search", 2011).
//!
//! A search ranks the lists by their centroids, scans the codes of the nearest `nprobe`, and scores the
//! rows that may be among the best again by their exact distances. Codes are signs (RaBitQ, arXiv
//! 2405.12497) or those of a product quantiser, in blocks of 32 rows for shuffles within registers
//! (fast scan: Andre et al., arXiv 1812.09162; Guo et al. in FAISS); estimates are unbiased and
//! have an error bound, which decides which rows are worth an exact distance. The centroids themselves are
//! coded the same way, in a list of their own, so that ranking the lists is a scan too.
//!
//! Rows are in one list each or, as spilling with orthogonality-amplified residuals has it (SOAR: Sun et al., arXiv
//! 2404.00774), in two: a query that is far from the centroid of a row's first list is the likelier near that of its
//! second. Of 55,783 embeddings of 384 elements without codes, by inner product, one thread finds 0.95 of the ten nearest
//! at 6,200 queries/s instead of 4,200 and 0.99 at 2,000 instead of 1,000, in an index of 42 bytes a row instead of 36; by
//! cosine 0.956 at 4,600 instead of 3,800. With codes of signs it scans 44 % fewer of them for 0.95 and 48 % fewer for 0.99,
//! and takes 180 bytes a row instead of 114; twice as many lists instead, 164 bytes, save a tenth of the time. Of 200,000
//! synthetic rows with codes, by L2, 0.90 takes a fifth more time, 0.95 as much, and 0.99 45 % less. So it is the default
//! without codes by inner product and cosine. `ivf_bench --copies 2` measures it. A search shows each row once: without codes
//! before it is compared, others, whose second code may tell more, as candidates.
//!
//! With one list it is a flat compressed index: every code is scanned, every row found by its estimate.
//!
//! - `params.rs`: parameters, their bounds, defaults and sizes
//! - `store.rs`: what the caller provides: memory, a lock, arithmetic
//! - `train.rs`: centroids from a sample
//! - `lists.rs`: blocks as words, and their chains
//! - `writer.rs`: append and delete
//! - `compact.rs`: rows moved together after deletes
//! - `spill.rs`: the two lists of a row
//! - `insert.rs`: batches of rows, from vectors to lists
//! - `search.rs`: the search
//! - `rank.rs`: which lists are near
//! - `scan.rs`: codes of lists, collected until they are worth a call
//! - `offer.rs`: rows by their exact distances
//! - `check.rs`: is an index what it should be; opening an image of one
//!
//! Searches take no lock. Inserts and deletes run beside them, one writer at a time: a row's words are
//! written before its number is, or before the list's length that lets searches see it. Deleted slots
//! are used again by later rows of their list. [`Index::compact`] alone wants the index for itself,
//! for one list at a time. Parallel builds encode on many processors and append in the order of rows: the
//! same rows in the same order with the same seed give the same index, as [`Index::digest`] tells.

mod check;
mod compact;
pub(crate) mod insert;
mod lists;
pub(crate) mod offer;
pub mod params;
mod rank;
pub(crate) mod scan;
mod search;
mod spill;
mod store;
pub mod train;
mod writer;

use core::sync::atomic::{AtomicU32, Ordering};

pub use check::{CheckMemory, Fault, Image, Met, Report};
pub use compact::Compaction;
pub use insert::{assign, InsertMemory, Model, TILE};
pub use offer::exact;
pub use params::{BadParams, Code, Layout, Params};
pub use search::{Found, Query, Workspace};
pub use spill::NEAR_WORDS;
pub use store::{Numeric, Run, Store, Vectors, BATCH};
pub use writer::Writer;

/// No block, no hole.
const NOWHERE: u32 = u32::MAX;

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error<E> {
    /// No block is left; the store can be made larger. Nothing has changed, or what came first in a batch
    /// has.
    Full,
    /// Scratch memory or a slice is too short, or there is no such row or list.
    Workspace,
    /// The store does not keep what it promises.
    Damaged,
    /// Arithmetic failed, or the filter did.
    Caller(E),
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Error::Caller(error)
    }
}

/// An index over rows of one container, in memory that `S` provides.
pub struct Index<S> {
    params: Params,
    layout: Layout,
    store: S,
    /// Blocks in use or once in use; the others are untouched memory.
    used: AtomicU32,
    /// The first free block, linked by their heads.
    free: AtomicU32,
    /// Slots of lists that have rows.
    entries: AtomicU32,
}

/// How much an index holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Rows that can be found.
    pub live: u32,
    /// Blocks in use or once in use.
    pub used: u32,
}

impl<S: Store> Index<S> {
    /// An empty index in empty memory.
    ///
    /// # Errors
    ///
    /// [`BadParams`] as [`Params::layout`], or if the store has another number of lists.
    pub fn new(params: Params, store: S) -> Result<Self, BadParams> {
        let layout = params.layout()?;
        if store.lists().len() != params.list_words() {
            return Err(BadParams);
        }
        for list in store.lists().chunks_exact(params::LIST_WORDS) {
            if let [first, slots, last, hole] = list {
                first.store(NOWHERE, Ordering::Relaxed);
                slots.store(0, Ordering::Relaxed);
                last.store(NOWHERE, Ordering::Relaxed);
                hole.store(lists::NO_HOLE, Ordering::Relaxed);
            }
        }
        Ok(Index {
            params,
            layout,
            store,
            used: AtomicU32::new(0),
            free: AtomicU32::new(NOWHERE),
            entries: AtomicU32::new(0),
        })
    }

    /// What the index was made with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The shapes of its blocks.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its memory.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Rows in lists, each once.
    fn rows(&self) -> u32 {
        let entries = self.entries.load(Ordering::Relaxed);
        entries.div_ceil(self.params.copies.max(1))
    }

    /// How much there is; approximate while a writer runs.
    pub fn counts(&self) -> Counts {
        Counts {
            live: self.rows(),
            used: self.used.load(Ordering::Relaxed),
        }
    }
}

/// A bijection whose every output bit depends on every input bit (SplitMix64).
pub(crate) const fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
