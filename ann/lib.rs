// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Nearest-neighbour search over rows it never sees.
//!
//! - `topk.rs`: the best k of a stream of hits
//! - `reservoir.rs`: the least of very many candidates
//! - `seen.rs`: rows that a search has met
//! - `visible.rs`: filters, tombstones, budgets
//! - `flat.rs`: the exact scan
//! - `hnsw/`: a graph of codes, and exact distances of the nearest
//! - `kmeans.rs`: centroids from a sample
//! - `ivf/`: lists around centroids, with codes or without
//! - `lsh/`: hash tables, probed at the likeliest buckets
//! - `planner.rs`: index or exact scan
//! - `pq/`: codebooks of product quantisers; the flat index of codes
//!
//! This room holds no float, does no I/O and allocates nothing. Distances are integers that order
//! like the floats they came from. Memory is lent by the caller; rows and arithmetic are reached
//! through traits, which the filesystem implements over its files and FPU sections, and tests over
//! arrays.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod flat;
pub mod hnsw;
pub mod ivf;
pub mod kmeans;
pub mod lsh;
pub mod planner;
pub mod pq;
pub mod reservoir;
mod seen;
pub mod topk;
pub mod visible;

pub use topk::{Hit, TopK};
pub use visible::Visible;

/// Defaults of indexes take no more of the rows' memory than this where they can: less than half, with room for what is
/// allocated in larger pieces.
const MOST_PERCENT: u64 = 46;
