// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Nearest-neighbour search over rows it never sees.
//!
//! - `topk.rs`: the best k of a stream of hits
//! - `flat.rs`: the exact scan
//! - `hnsw/`: a graph of codes, and exact distances of the nearest
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
pub mod topk;

pub use topk::{Hit, TopK};
