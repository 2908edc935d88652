// SPDX-License-Identifier: Apache-2.0
//! The calls into the kernel: the only file of this crate with `unsafe`.
//!
//! An ioctl structure carries addresses as integers, so the compiler cannot see
//! that the kernel reads and writes our buffers. Each function here therefore
//! takes slices, checks their lengths against each other, builds the structure
//! and makes the call, all in one place, so that the proof fits on a page.

#![allow(unsafe_code)]

use crate::backend::{Backend, GetBuffers, SearchBuffers, SearchRequest};
use crate::error::Failure;
use crate::types::{BuildOptions, CreateOptions, IndexKind, Inserted, Rows, Select};
use crate::vectors::Vectors;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use vexfs_uapi::*;
use zerocopy::FromZeros;

/// A file of a VexFS volume.
///
/// # Invariants
///
/// `file` is on a filesystem whose magic is `VEXFS_SUPER_MAGIC`, so the command
/// numbers mean what `vexfs.h` says.
#[derive(Debug)]
pub(crate) struct KernelFile {
    file: File,
}

/// Whether `file` is on a VexFS volume.
pub(crate) fn is_on_vexfs(file: &File) -> Result<bool, Errno> {
    // The width and sign of `f_type` depend on the architecture.
    Ok(rustix::fs::fstatfs(file)?.f_type as u32 == VEXFS_SUPER_MAGIC)
}

/// A structure's size for its `size` field.
const fn size_field<T>() -> u32 {
    size_of::<T>() as u32
}

/// A flag if it is wanted.
fn flag(wanted: bool, flag: u32) -> u32 {
    if wanted {
        flag
    } else {
        0
    }
}

/// The address of a slice the kernel reads, 0 for none.
fn input<T>(slice: Option<&[T]>) -> u64 {
    slice.map_or(0, |s| s.as_ptr().expose_provenance() as u64)
}

/// The address of a slice the kernel writes.
fn output<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

/// Bytes of one of these rows.
fn row_bytes(vectors: &Vectors<'_>, dim: usize) -> usize {
    vectors.element_type().row_bytes(dim)
}

/// Fails with EINVAL if a slice is not as long as the call will tell the kernel.
/// The callers have checked already and say it in words; this is what the
/// `SAFETY` comments stand on.
fn require(fits: bool) -> Result<(), Failure> {
    if fits {
        Ok(())
    } else {
        Err(Errno::INVAL.into())
    }
}

impl KernelFile {
    /// Takes a file, or gives it back if it is not on a VexFS volume.
    pub(crate) fn new(file: File) -> Result<Result<Self, File>, Errno> {
        // INVARIANT: The magic was compared.
        Ok(if is_on_vexfs(&file)? {
            Ok(Self { file })
        } else {
            Err(file)
        })
    }

    /// Makes one ioctl.
    ///
    /// # Safety
    ///
    /// `T` is the structure of the command `OPCODE`, and every address in it is 0 or
    /// that of memory that is valid for what the command does with it, as `vexfs.h`
    /// says: reads for inputs, writes for outputs, of the length the counts give.
    unsafe fn call<const OPCODE: u32, T>(&self, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: By the type's invariant the file is a VexFS one, so OPCODE has the
        // meaning of `vexfs.h`; the caller vouches for `T` and its addresses.
        unsafe {
            let call = rustix::ioctl::Updater::<OPCODE, T>::new(argument);
            rustix::ioctl::ioctl(self.file.as_fd(), call)
        }
    }

    /// A batch call, with the row an error is about.
    ///
    /// # Safety
    ///
    /// As for [`Self::call`] with `VEXFS_IOCTL_BATCH_OPERATIONS`.
    unsafe fn batch(&self, batch: &mut vexfs_batch) -> Result<(), Failure> {
        batch.size = size_field::<vexfs_batch>();
        batch.error_row = VEXFS_ROW_NONE;
        // SAFETY: The type fits the command, and the caller vouches for the addresses.
        let done = unsafe { self.call::<VEXFS_IOCTL_BATCH_OPERATIONS, _>(batch) };
        done.map_err(|errno| Failure {
            errno,
            row: (batch.error_row != VEXFS_ROW_NONE).then_some(batch.error_row),
        })
    }
}

impl Backend for KernelFile {
    fn create(&mut self, options: &CreateOptions) -> Result<u32, Failure> {
        let mut argument = vexfs_create_vector {
            size: size_field::<vexfs_create_vector>(),
            dim: options.dim,
            element_type: options.element_type.raw(),
            metric: options.metric.raw(),
            alignment: options.alignment,
            model_tag: options.model_tag,
            reserve_rows: options.reserve_rows,
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_CREATE_VECTOR, _>(&mut argument)? };
        Ok(argument.stride)
    }

    fn insert(&mut self, dim: usize, rows: &Rows<'_>, upsert: bool) -> Result<Inserted, Failure> {
        let (bytes, stride) = (rows.vectors.as_bytes(), row_bytes(&rows.vectors, dim));
        let count = bytes.len().checked_div(stride).unwrap_or(0);
        require(count.checked_mul(stride) == Some(bytes.len()))?;
        require(rows.keys.is_none_or(|keys| keys.len() == count))?;
        require(rows.tags.is_none_or(|tags| tags.len() == count))?;
        let mut numbers = rows.reuse.then(|| vec![VEXFS_ROW_NONE; count]);
        let mut batch = vexfs_batch {
            flags: if rows.reuse { VEXFS_BATCH_REUSE } else { 0 },
            op: if upsert {
                VEXFS_OP_UPSERT
            } else {
                VEXFS_OP_INSERT
            },
            vector_stride: stride.try_into().map_err(|_| Errno::INVAL)?,
            count: count as u64,
            vectors: input(Some(bytes)),
            keys: input(rows.keys),
            tags: input(rows.tags),
            rows: numbers.as_deref_mut().map_or(0, output),
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The kernel reads `count` vectors that start `vector_stride` bytes apart
        // and, because the stride must not be less than a vector, are that long at most:
        // the length of `bytes`, whatever the container's elements are. It reads `count` keys and tags, the
        // lengths of those slices, and writes as many numbers to `rows` if that is not 0; all are
        // borrowed for this call.
        unsafe { self.batch(&mut batch)? };
        Ok(Inserted {
            first_row: batch.first_row,
            count: batch.done,
            rows: numbers,
        })
    }

    fn delete(&mut self, select: Select<'_>, skip_missing: bool) -> Result<u64, Failure> {
        let mut batch = vexfs_batch {
            op: VEXFS_OP_DELETE,
            count: select.len() as u64,
            ..FromZeros::new_zeroed()
        };
        match select {
            Select::Keys(keys) => batch.keys = input(Some(keys)),
            Select::Rows(rows) => {
                batch.rows = input(Some(rows));
                batch.flags |= VEXFS_BATCH_BY_ROW;
            }
        }
        if skip_missing {
            batch.flags |= VEXFS_BATCH_SKIP_MISSING;
        }
        // SAFETY: The kernel reads `count` keys or rows, the length of the slice that the
        // other addresses, being 0, leave; it is borrowed for this call.
        unsafe { self.batch(&mut batch)? };
        Ok(batch.done)
    }

    fn get(
        &self,
        row_bytes: usize,
        select: Select<'_>,
        out: &mut GetBuffers<'_>,
    ) -> Result<u64, Failure> {
        let count = select.len();
        require(count.checked_mul(row_bytes) == Some(out.vectors.len()))?;
        require(out.other.len() == count && out.tags.len() == count)?;
        let mut batch = vexfs_batch {
            op: VEXFS_OP_GET,
            vector_stride: row_bytes.try_into().map_err(|_| Errno::INVAL)?,
            count: count as u64,
            vectors: output(out.vectors),
            tags: output(out.tags),
            ..FromZeros::new_zeroed()
        };
        match select {
            Select::Keys(keys) => {
                batch.keys = input(Some(keys));
                batch.rows = output(out.other);
            }
            Select::Rows(rows) => {
                batch.rows = input(Some(rows));
                batch.keys = output(out.other);
                batch.flags |= VEXFS_BATCH_BY_ROW;
            }
        }
        // SAFETY: The kernel writes `count` vectors that start `vector_stride` bytes apart
        // and are not longer than it: the length of `vectors`. It writes
        // `count` tags and `count` numbers to `other` and reads `count` of the selection,
        // as long as those slices are. The three outputs are borrowed exclusively.
        unsafe { self.batch(&mut batch)? };
        Ok(batch.done)
    }

    fn search(
        &self,
        request: &SearchRequest<'_>,
        out: &mut SearchBuffers<'_>,
    ) -> Result<crate::types::Counters, Failure> {
        let options = request.options;
        let (bytes, stride) = (
            request.queries.as_bytes(),
            row_bytes(&request.queries, request.dim),
        );
        let nq = bytes.len().checked_div(stride).ok_or(Errno::INVAL)?;
        require(nq.checked_mul(stride) == Some(bytes.len()))?;
        require(nq.checked_mul(options.k as usize) == Some(out.hits.len()))?;
        require(out.counts.len() == nq)?;
        let mut search = vexfs_search {
            size: size_field::<vexfs_search>(),
            nq: nq.try_into().map_err(|_| Errno::TOOBIG)?,
            k: options.k,
            index_kind: options.index.raw(),
            ef: options.ef,
            nprobe: options.nprobe,
            rerank: options.rerank,
            queries: input(Some(bytes)),
            query_stride: stride.try_into().map_err(|_| Errno::INVAL)?,
            hits: output(out.hits),
            counts: output(out.counts),
            threads: options.threads,
            ..FromZeros::new_zeroed()
        };
        if let Some(radius) = options.radius {
            search.flags |= VEXFS_SEARCH_RADIUS;
            search.radius = radius.to_bits();
        }
        if let Some(mask) = options.tags_all {
            search.flags |= VEXFS_SEARCH_TAGS_ALL;
            search.tags_all = mask;
        }
        if let Some(mask) = options.tags_any {
            search.flags |= VEXFS_SEARCH_TAGS_ANY;
            search.tags_any = mask;
        }
        if let Some(bitmap) = options.row_bitmap {
            search.flags |= VEXFS_SEARCH_ROW_BITMAP;
            search.row_bitmap = input(Some(bitmap));
            search.row_bitmap_rows = (bitmap.len() as u64).saturating_mul(64);
        }
        if let Some(keys) = options.keys {
            search.flags |= VEXFS_SEARCH_KEYS;
            search.filter_keys = input(Some(keys));
            search.filter_key_count = keys.len() as u64;
        }
        if let Some(budget) = options.time_budget {
            // 0 would mean no budget at all.
            search.time_budget_ns = budget.as_nanos().clamp(1, u64::MAX.into()) as u64;
        }
        // SAFETY: The kernel reads `nq` queries that start `query_stride` bytes apart and
        // are not longer than it: the length of `bytes`. It reads the words of the bitmap
        // and the filter keys that their slices have, and writes `nq * k` hits and `nq`
        // counts, the lengths of those exclusively borrowed slices, checked above.
        unsafe { self.call::<VEXFS_IOCTL_SIMILARITY_SEARCH, _>(&mut search)? };
        Ok(crate::types::Counters {
            distances: search.distances,
            hops: search.hops,
            rows_exact: search.rows_exact,
            elapsed_ns: search.elapsed_ns,
            partial: search.outcome & VEXFS_OUTCOME_PARTIAL != 0,
        })
    }

    fn build_index(&mut self, kind: IndexKind, options: &BuildOptions) -> Result<(), Failure> {
        let mut argument = vexfs_build_index {
            size: size_field::<vexfs_build_index>(),
            flags: flag(options.replace, VEXFS_BUILD_REPLACE)
                | flag(options.background, VEXFS_BUILD_BACKGROUND),
            index_kind: kind.raw(),
            m: options.m,
            ef_construction: options.ef_construction,
            nlist: options.nlist,
            nsub: options.nsub,
            nbits: options.nbits,
            ntables: options.ntables,
            threads: options.threads,
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_BUILD_INDEX, _>(&mut argument)? };
        Ok(())
    }

    fn drop_index(&mut self, kind: IndexKind) -> Result<(), Failure> {
        let mut argument = vexfs_build_index {
            size: size_field::<vexfs_build_index>(),
            flags: VEXFS_BUILD_DROP,
            index_kind: kind.raw(),
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_BUILD_INDEX, _>(&mut argument)? };
        Ok(())
    }

    fn index_stats(&self, kind: IndexKind, digest: bool) -> Result<vexfs_index_stats, Failure> {
        let mut stats = vexfs_index_stats {
            size: size_field::<vexfs_index_stats>(),
            flags: flag(digest, VEXFS_INDEX_STATS_DIGEST),
            index_kind: kind.raw(),
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_GET_INDEX_STATS, _>(&mut stats)? };
        Ok(stats)
    }

    fn check_index(&mut self, kind: IndexKind, repair: bool) -> Result<vexfs_index_check, Failure> {
        let mut check = vexfs_index_check {
            size: size_field::<vexfs_index_check>(),
            flags: flag(repair, VEXFS_CHECK_REPAIR),
            index_kind: kind.raw(),
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_CHECK_INDEX, _>(&mut check)? };
        Ok(check)
    }

    fn stats(&self) -> Result<vexfs_vector_stats, Failure> {
        let mut stats = vexfs_vector_stats {
            size: size_field::<vexfs_vector_stats>(),
            ..FromZeros::new_zeroed()
        };
        // SAFETY: The structure of this command holds no address.
        unsafe { self.call::<VEXFS_IOCTL_GET_VECTOR_STATS, _>(&mut stats)? };
        Ok(stats)
    }

    fn sync(&self) -> Result<(), Failure> {
        Ok(rustix::fs::fsync(&self.file)?)
    }
}
