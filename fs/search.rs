// SPDX-License-Identifier: GPL-2.0

//! Searches: decodes the request, takes a snapshot of what is visible, scans.

use crate::candidates;
use crate::container::{self, Reading};
use crate::element::{self, RowCheck};
use crate::index;
use crate::index::search::{Outcome, Walk};
use crate::ioctl::{self, user_address};
use crate::scorer::Scan;
use crate::spread;
use crate::VexFs;
use kernel::prelude::*;
use kernel::uaccess::UserSlice;
use libvexfs::format::VectorArea;
use vexfs_ann::topk::{Hit, TopK};
use vexfs_simd_ffi::Distance;
use vexfs_uapi as uapi;
use vexfs_vfs::file::OpenFile;
use vexfs_vfs::work::{self, Stop};
use vexfs_vfs::{task, Inode};
use zerocopy::IntoBytes;

const KNOWN_FLAGS: u32 = uapi::VEXFS_SEARCH_RADIUS
    | uapi::VEXFS_SEARCH_TAGS_ALL
    | uapi::VEXFS_SEARCH_TAGS_ANY
    | uapi::VEXFS_SEARCH_ROW_BITMAP
    | uapi::VEXFS_SEARCH_KEYS;

/// Results kept for the queries that are answered together, for each thread.
const GROUP_HITS: usize = 65_536;
/// Queries answered together: their vectors stay in the cache while rows stream by. With an index as
/// many for each thread.
const GROUP_QUERIES: usize = 64;
/// Bytes of queries beyond which there is one for each thread.
const GROUP_BYTES: usize = 16 << 20;

/// Queries answered together, by scans of rows of `bytes` bytes with one share, by walks with one for each thread.
fn together(s: &uapi::vexfs_search, bytes: usize, shares: usize) -> usize {
    let hits = GROUP_HITS.saturating_mul(shares) / (s.k as usize).max(1);
    hits.clamp(shares, GROUP_QUERIES.saturating_mul(shares))
        .min(GROUP_BYTES.checked_div(bytes).unwrap_or(1).max(shares))
        .min(s.nq as usize)
}

/// Queries that a scan of rows of `bytes` bytes compares with each row while it is in the cache.
pub(crate) fn scanned_together(s: &uapi::vexfs_search, bytes: usize) -> u64 {
    together(s, bytes, 1) as u64
}

/// `VEXFS_IOCTL_SIMILARITY_SEARCH`.
pub(crate) fn ioctl(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut s, size) = ioctl::read::<uapi::vexfs_search>(argument, uapi::first_size::SEARCH)?;
    let inode = file.inode();
    if !inode.is_regular() {
        return Err(ENOTTY);
    }
    let started = task::monotonic_ns();
    let area = container::with(inode, |c| Ok(c.area))?;
    if !file.is_readable() {
        return Err(EBADF);
    }
    check(&s)?;
    let flag = |bit: u32| s.flags & bit != 0;
    let bound = if flag(uapi::VEXFS_SEARCH_RADIUS) {
        radius_bound(s.radius)?
    } else {
        u32::MAX
    };
    let index = index::for_search(inode, s.index_kind)?;
    let stop = Stop::with_task();
    // What is a candidate now can be read until the end.
    let _reading = Reading::begin(inode);
    let candidates = candidates::of_search(inode, &s, &stop)?;
    let walk = match index {
        Some(index) => Walk::plan(index, &s, &candidates)?,
        None => None,
    };
    let deadline = match s.time_budget_ns {
        0 => None,
        budget => Some(started.saturating_add(budget)),
    };

    let (nq, k) = (s.nq as usize, s.k as usize);
    let bytes = element::row_bytes(&area)?;
    let query_stride = match s.query_stride {
        0 => bytes,
        stride => stride as usize,
    };
    if query_stride < bytes {
        return Err(EINVAL);
    }
    let threads = work::threads(s.threads);
    // Threads share the queries of walks, and the rows of scans.
    let shares = if walk.is_some() { threads as usize } else { 1 };
    let group = together(&s, bytes, shares);
    let mut queries = KVVec::from_elem(0u8, group * bytes, GFP_KERNEL | __GFP_NOWARN)?;
    let mut hits = KVVec::from_elem(Hit::default(), group * k, GFP_KERNEL | __GFP_NOWARN)?;
    let mut totals = Outcome::default();
    let mut first = 0;
    while first < nq {
        let n = group.min(nq - first);
        read_queries(inode, &area, &s, first, n, query_stride, &mut queries)?;
        let mut heaps = KVec::with_capacity(n, GFP_KERNEL)?;
        for memory in hits.chunks_mut(k).take(n) {
            heaps
                .push_within_capacity(TopK::new(memory))
                .map_err(|_| ENOMEM)?;
        }
        let scan = Scan {
            inode,
            area: &area,
            queries: queries.get(..n * bytes).ok_or(EINVAL)?,
            candidates: &candidates,
            first: 0,
            end: candidates.rows,
            bound,
            deadline,
            stop: &stop,
        };
        inode.node().rows.read(|| match &walk {
            Some(walk) => spread::walk(walk, &scan, &mut heaps, threads, &mut totals),
            None => spread::scan(&scan, &mut heaps, threads, &mut totals),
        })?;
        write_hits(&s, first, bound, heaps)?;
        first += n;
    }

    let elapsed = task::monotonic_ns().saturating_sub(started);
    container::with(inode, |c| {
        let counters = &mut c.counters;
        counters.searches = counters.searches.saturating_add(u64::from(s.nq));
        counters.distances = counters.distances.saturating_add(totals.distances);
        counters.search_ns = counters.search_ns.saturating_add(elapsed);
        Ok(())
    })?;
    s.distances = totals.distances;
    s.hops = totals.hops;
    s.rows_exact = totals.rows_exact;
    s.elapsed_ns = elapsed;
    s.outcome = if totals.partial {
        uapi::VEXFS_OUTCOME_PARTIAL
    } else {
        0
    };
    ioctl::write(argument, &s, size)
}

fn check(s: &uapi::vexfs_search) -> Result {
    if s.flags & !KNOWN_FLAGS != 0 || s.nq == 0 || s.k == 0 {
        return Err(EINVAL);
    }
    let has = |bit: u32| s.flags & bit != 0;
    // A field without its flag is a caller's mistake.
    if (!has(uapi::VEXFS_SEARCH_RADIUS) && s.radius != 0)
        || (!has(uapi::VEXFS_SEARCH_TAGS_ALL) && s.tags_all != 0)
        || (!has(uapi::VEXFS_SEARCH_TAGS_ANY) && s.tags_any != 0)
        || (!has(uapi::VEXFS_SEARCH_ROW_BITMAP) && (s.row_bitmap | s.row_bitmap_rows) != 0)
        || (!has(uapi::VEXFS_SEARCH_KEYS) && (s.filter_keys | s.filter_key_count) != 0)
    {
        return Err(EINVAL);
    }
    if s.nq > uapi::VEXFS_MAX_QUERIES
        || s.k > uapi::VEXFS_MAX_K
        || u64::from(s.nq).saturating_mul(u64::from(s.k)) > u64::from(uapi::VEXFS_MAX_RESULTS)
    {
        return Err(E2BIG);
    }
    match s.index_kind {
        uapi::VEXFS_INDEX_AUTO..=uapi::VEXFS_INDEX_LSH => Ok(()),
        _ => Err(EINVAL),
    }
}

/// The key of the largest distance within the radius.
fn radius_bound(bits: u32) -> Result<u32> {
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    if is_nan {
        return Err(EINVAL);
    }
    // Minus zero is zero.
    let bits = if bits == 1 << 31 { 0 } else { bits };
    Ok(Distance::from_f32_bits(bits).0)
}

fn read_queries(
    inode: &Inode<VexFs>,
    area: &VectorArea,
    s: &uapi::vexfs_search,
    first: usize,
    n: usize,
    stride: usize,
    out: &mut [u8],
) -> Result {
    let bytes = element::row_bytes(area)?;
    let base = usize::try_from(s.queries).map_err(|_| EFAULT)?;
    for (index, query) in out.chunks_mut(bytes).take(n).enumerate() {
        let at = base.wrapping_add((first + index).wrapping_mul(stride));
        UserSlice::new(UserPtr::from_addr(at), bytes)
            .reader()
            .read_slice(query)?;
    }
    let read = out.get(..n.saturating_mul(bytes)).ok_or(EINVAL)?;
    match RowCheck::new(inode, area, bytes)?.first_bad(read, 0)? {
        Some(_) => Err(EINVAL),
        None => Ok(()),
    }
}

/// Sorts, names and writes out the hits of a group of queries, which begins at `first`: those whose
/// distance is not beyond `bound`.
fn write_hits(s: &uapi::vexfs_search, first: usize, bound: u32, heaps: KVec<TopK<'_>>) -> Result {
    const NONE: uapi::vexfs_hit = uapi::vexfs_hit {
        key: uapi::VEXFS_KEY_NONE,
        row: uapi::VEXFS_ROW_NONE,
        distance: uapi::DISTANCE_NONE,
        reserved: 0,
    };
    let k = s.k as usize;
    let mut out = KVVec::from_elem(NONE, k, GFP_KERNEL | __GFP_NOWARN)?;
    for (index, heap) in heaps.into_iter().enumerate() {
        let sorted = heap.into_sorted();
        // A walk knows no bound.
        let within = sorted.partition_point(|hit| hit.distance <= bound);
        let sorted = sorted.get(..within).unwrap_or(&[]);
        out.fill(NONE);
        for (to, hit) in out.iter_mut().zip(sorted.iter()) {
            *to = uapi::vexfs_hit {
                key: hit.key,
                row: hit.row,
                distance: Distance(hit.distance).to_f32_bits(),
                reserved: 0,
            };
        }
        let at = (first + index) * k * size_of::<uapi::vexfs_hit>();
        let address = s.hits.checked_add(at as u64).ok_or(EFAULT)?;
        UserSlice::new(user_address(address)?, size_of_val(&out[..]))
            .writer()
            .write_slice(out.as_bytes())?;
        if s.counts != 0 {
            let count = (sorted.len() as u32).to_ne_bytes();
            let address = s
                .counts
                .checked_add(((first + index) * 4) as u64)
                .ok_or(EFAULT)?;
            UserSlice::new(user_address(address)?, 4)
                .writer()
                .write_slice(&count)?;
        }
    }
    Ok(())
}
