// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Every float operation of VexFS, behind a C ABI of integers and pointers.
//!
//! In the kernel this crate is one hard-float object that links against nothing but `memcpy` and
//! `memset`: a possible panic, an allocation or formatting is an undefined symbol. All of its
//! functions may touch vector registers, so they run between `kernel_fpu_begin` and `kernel_fpu_end`
//! only. Nobody calls them directly: `ffi.rs` is the door, which checks shapes and asks for proof
//! that a section is open. User space builds the same sources and goes through the same door.
//!
//! - `distance/`: queries against many rows, one file per instruction set
//! - `cluster.rs`: k-means steps, random rotation, sign bits
//! - `convert.rs`: between element types; normalisation
//! - `finite.rs`: search for NaN and infinity
//! - `lsh.rs`: projections for locality-sensitive hashes
//! - `postings/`: blocks of an inverted list, by codes and factors
//! - `pq.rs`: product quantisation, its tables and its scans
//! - `rabitq.rs`: one-bit codes with an error bound
//! - `graph/`: codes of graph nodes, of 8, 4 or 1 bits per element, and their distances
//! - `self_test.rs`: every instruction set against the portable code
//! - `isa.rs`: one body, compiled once per instruction set
//! - `abi.rs`: numbers shared with the door; `math.rs`: what `core` lacks

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
// Exported functions take plain words because of the C ABI; indices keep loops over arrays of
// registers readable next to each other.
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

#[allow(dead_code)]
mod abi;
mod cluster;
mod convert;
mod distance;
mod finite;
mod graph;
mod isa;
mod lsh;
mod math;
mod postings;
mod pq;
mod rabitq;
mod self_test;

pub use cluster::{
    vexfs_simd_accumulate, vexfs_simd_assign, vexfs_simd_centroids, vexfs_simd_rotate,
    vexfs_simd_sign_bits, vexfs_simd_spill,
};
pub use convert::{vexfs_simd_convert, vexfs_simd_normalise, vexfs_simd_quantise};
pub use graph::{
    vexfs_simd_graph_between, vexfs_simd_graph_encode, vexfs_simd_graph_prepare,
    vexfs_simd_graph_score,
};
pub use lsh::vexfs_simd_fixed;
pub use postings::{
    vexfs_simd_encode_parts, vexfs_simd_encode_signs, vexfs_simd_scan_postings,
    vexfs_simd_sign_table, vexfs_simd_subtract,
};
pub use pq::{
    vexfs_simd_pq_encode, vexfs_simd_pq_reduce_table, vexfs_simd_pq_scan4, vexfs_simd_pq_scan8,
    vexfs_simd_pq_table,
};
pub use rabitq::{vexfs_simd_rabitq_encode, vexfs_simd_rabitq_prepare, vexfs_simd_rabitq_scan};

use abi::{Elem, Isa, Metric};
use distance::{Gathered, Listed, Strided};

/// One query against `n` rows, `stride` bytes apart. Writes `n` keys; returns 0, or 1 if a number
/// stands for nothing this crate knows.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used. `query` and `rows + i * stride` for
/// `i < n` are readable for a row of `dim` elements, at any alignment; `out` is writable for `n`
/// elements. `dim` is in `1..=MAX_DIM`.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_score_rows(
    isa: u32,
    elem: u32,
    metric: u32,
    query: *const u8,
    rows: *const u8,
    stride: usize,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    match (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) {
        (Some(isa), Some(elem), Some(metric)) => {
            let rows = Strided { base: rows, stride };
            // SAFETY: as promised by the caller.
            unsafe { distance::score(isa, (elem, metric), query, rows, dim, out, n) };
            0
        }
        _ => 1,
    }
}

/// One query against `n` rows, at `rows + offsets[i]`. Otherwise as [`vexfs_simd_score_rows`].
///
/// # Safety
///
/// As [`vexfs_simd_score_rows`]; `offsets` is readable for `n` elements.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_score_gather(
    isa: u32,
    elem: u32,
    metric: u32,
    query: *const u8,
    rows: *const u8,
    offsets: *const u64,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    match (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) {
        (Some(isa), Some(elem), Some(metric)) => {
            let rows = Gathered {
                base: rows,
                offsets,
            };
            // SAFETY: as promised by the caller.
            unsafe { distance::score(isa, (elem, metric), query, rows, dim, out, n) };
            0
        }
        _ => 1,
    }
}

/// One query against `n` rows, at the addresses `rows[i]`. Otherwise as [`vexfs_simd_score_rows`].
///
/// # Safety
///
/// As [`vexfs_simd_score_rows`]; `rows` is readable for `n` elements.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_score_list(
    isa: u32,
    elem: u32,
    metric: u32,
    query: *const u8,
    rows: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    match (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) {
        (Some(isa), Some(elem), Some(metric)) => {
            let rows = Listed { rows };
            // SAFETY: as promised by the caller.
            unsafe { distance::score(isa, (elem, metric), query, rows, dim, out, n) };
            0
        }
        _ => 1,
    }
}

/// `nq` queries, `query_stride` bytes apart, against `n` rows, `stride` bytes apart. Writes `nq * n` keys,
/// those of a query together; otherwise as [`vexfs_simd_score_rows`].
///
/// # Safety
///
/// As [`vexfs_simd_score_rows`], for each of the queries; `out` is writable for `nq * n` elements.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_score_many_rows(
    isa: u32,
    elem: u32,
    metric: u32,
    queries: *const u8,
    query_stride: usize,
    nq: usize,
    rows: *const u8,
    stride: usize,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    match (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) {
        (Some(isa), Some(elem), Some(metric)) => {
            let (base, rows) = (queries, Strided { base: rows, stride });
            let stride = query_stride;
            let queries = Strided { base, stride };
            // SAFETY: as promised by the caller.
            unsafe { distance::score_many(isa, (elem, metric), queries, nq, rows, dim, out, n) };
            0
        }
        _ => 1,
    }
}

/// `nq` queries, `query_stride` bytes apart, against `n` rows, at the addresses `rows[i]`. Otherwise as
/// [`vexfs_simd_score_many_rows`].
///
/// # Safety
///
/// As [`vexfs_simd_score_many_rows`]; `rows` is readable for `n` elements.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_score_many_list(
    isa: u32,
    elem: u32,
    metric: u32,
    queries: *const u8,
    query_stride: usize,
    nq: usize,
    rows: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    match (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) {
        (Some(isa), Some(elem), Some(metric)) => {
            let (base, stride) = (queries, query_stride);
            let (queries, rows) = (Strided { base, stride }, Listed { rows });
            // SAFETY: as promised by the caller.
            unsafe { distance::score_many(isa, (elem, metric), queries, nq, rows, dim, out, n) };
            0
        }
        _ => 1,
    }
}

/// The index of the first of `n` elements that is NaN or infinite, or `usize::MAX`.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, and `n` elements are readable at `p`,
/// at any alignment.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_first_non_finite(
    isa: u32,
    elem: u32,
    p: *const u8,
    n: usize,
) -> usize {
    match (Isa::from_u32(isa), Elem::from_u32(elem)) {
        // SAFETY: as promised by the caller.
        (Some(isa), Some(elem)) => unsafe { finite::first_non_finite(isa, elem, p, n) },
        _ => usize::MAX,
    }
}

/// Compares step `step` of the self-test of `isa` with the portable code: 1 if they agree, 0 if not,
/// 2 if there is no such step.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_self_test(isa: u32, step: u32) -> u32 {
    match Isa::from_u32(isa) {
        // SAFETY: as promised by the caller.
        Some(isa) => match unsafe { self_test::run(isa, step) } {
            Some(true) => 1,
            Some(false) => 0,
            None => 2,
        },
        None => 0,
    }
}
