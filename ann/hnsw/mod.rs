// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Hierarchical navigable small world graphs (Malkov and Yashunin, arXiv 1603.09320) over codes.
//!
//! A row is a node of a graph, linked to near and diverse others; a search walks towards the query. Nodes
//! hold codes of rows, such as 4 bits per element or the rows themselves, and are scored by them; some of the
//! nearest are scored again by their rows. A node's code and links are in one place, found by its slot alone.
//!
//! - `params.rs`: parameters, their bounds, sizes of blocks
//! - `store.rs`: what the caller provides: memory, locks, arithmetic, filters
//! - `node.rs`: blocks as words, and how they are read and written at the same time
//! - `head.rs`: entry, free slots, and when a slot may be used again
//! - `pool.rs`: candidates and visited slots
//! - `beam.rs`: the walk on one level
//! - `select.rs`: which candidates become neighbours
//! - `spread.rs`: how far the next nearest rows are, on average
//! - `insert.rs`, `delete.rs`, `search.rs`: the operations
//! - `repair.rs`: links to nodes that no path leads to
//! - `check.rs`: is a graph what it should be; opening an image of one
//! - `order.rs`: nodes in an order in which neighbours lie near each other
//!
//! Insert, delete and search run at the same time from any number of threads. Searches take no lock.
//! The same inserts in the same order with the same seed give the same graph, as
//! [`Index::digest`] tells; concurrent ones need not.

mod beam;
mod check;
mod delete;
mod head;
mod insert;
mod node;
mod order;
pub mod params;
mod pool;
mod repair;
mod search;
mod select;
mod spread;
mod store;

use core::sync::atomic::Ordering;

pub use check::{CheckMemory, Fault, Image, Report};
pub use node::NOWHERE;
pub use order::OrderMemory;
pub use params::{BadParams, Layout, Params};
pub use repair::RepairMemory;
pub use search::{Found, Plan, Query};
pub use spread::OCTAVES;
pub use store::{Numeric, Store, Workspace, BATCH};

pub use crate::visible::Visible;

use head::Head;

/// Why an operation failed. Nothing has changed, unless it says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error<E> {
    /// No slot is left; the store can be made larger, or deleted slots are not free yet.
    Full,
    /// The row is in the index already.
    Exists,
    /// The row is not in the index.
    Missing,
    /// Scratch memory is too short, `ef` is out of its range, or there is no such row.
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
    head: Head,
    store: S,
}

/// How many nodes an index has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Rows that can be found.
    pub live: u32,
    /// Slots of deleted rows that are not free yet; see [`Index::sweep`].
    pub deleted: u32,
    /// Slots in use or once in use: those from here on are untouched memory.
    pub used: u32,
    /// Upper blocks in use or once in use.
    pub used_uppers: u32,
}

impl<S: Store> Index<S> {
    /// An empty index in empty memory.
    ///
    /// # Errors
    ///
    /// [`BadParams`] as [`Params::layout`].
    pub fn new(params: Params, store: S) -> Result<Self, BadParams> {
        Ok(Index {
            params,
            layout: params.layout()?,
            head: Head::new(),
            store,
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

    /// How many nodes there are; approximate while writers run.
    pub fn counts(&self) -> Counts {
        Counts {
            live: self.head.live.load(Ordering::Relaxed),
            deleted: self.head.deleted.load(Ordering::Relaxed),
            used: self.head.used.load(Ordering::Acquire),
            used_uppers: self.head.used_uppers.load(Ordering::Acquire),
        }
    }

    /// The top level of a row's node: `l` with probability `m^-l`, decided by seed and row.
    fn level_of(&self, row: u64) -> u32 {
        let hash = mix(self.params.seed ^ mix(row));
        // It is not less, and so not 0, which the compiler does not know.
        let m = u64::from(self.params.m.max(params::MIN_M));
        let (mut level, mut below) = (0, u64::MAX / m);
        while hash < below && level < params::MAX_LEVEL {
            level += 1;
            below /= m;
        }
        level
    }
}

/// A bijection whose every output bit depends on every input bit (SplitMix64).
const fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
