// SPDX-License-Identifier: GPL-2.0

//! Reading a file's pages in place and writing them from kernel memory.
//!
//! C header: `linux/pagemap.h`.

use crate::bindings;
use crate::file::OpenFile;
use crate::inode::Inode;
use crate::iomap;
use crate::FileSystem;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr;
use kernel::error::to_result;
use kernel::prelude::*;

const PAGE_SIZE: u64 = kernel::page::PAGE_SIZE as u64;
/// Folios looked up at once: those of a folio_batch.
const BATCH: usize = 31;
/// Pages read ahead at once.
const READAHEAD_PAGES: u64 = 256;

struct Span {
    folio: *mut bindings::folio,
    data: *const u8,
    start: u64,
    end: u64,
    /// Where the bytes end that follow `data` without a gap in memory: this folio's end, or
    /// that of a later one, since pages read or written in sequence often lie in sequence.
    run_end: u64,
}

/// Pages of a byte range, uptodate and kept from going away.
///
/// # Invariants
///
/// `spans` are folios on which this value holds a count, in the order of the file and
/// without gaps; `data` is the folio's address in the kernel's linear map and covers
/// `start..end` of the file, and `start..run_end` with the folios that follow.
pub struct Pinned {
    spans: KVec<Span>,
    start: u64,
    end: u64,
}

// SAFETY: Folio counts may be dropped by any task.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Room for the folios of one call of [`Pinned::fill`].
    pub fn new() -> Result<Self> {
        Ok(Pinned {
            spans: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            start: 0,
            end: 0,
        })
    }

    /// Pins pages from byte `start` on, as many as one look-up gives, but none that begin
    /// at `end` or later. Returns where the pinned range ends. May sleep and read.
    ///
    /// Pages may be written while they are pinned; callers see to it that the rows they
    /// read are not (see `RwSem`).
    pub fn fill<T: FileSystem>(&mut self, inode: &Inode<T>, start: u64, end: u64) -> Result<u64> {
        self.clear();
        let first = start / PAGE_SIZE;
        let last = end.saturating_sub(1) / PAGE_SIZE;
        let mut folios = [ptr::null_mut::<bindings::folio>(); BATCH];
        // SAFETY: The mapping lives as long as the inode; the array has BATCH entries.
        let mapping = unsafe { (*inode.as_ptr()).i_mapping };
        // SAFETY: As above.
        let mut n = unsafe {
            bindings::vexfs_folio_run(
                mapping,
                first as usize,
                last as usize,
                folios.as_mut_ptr(),
                BATCH as c_uint,
            )
        } as usize;
        // SAFETY: The folios found carry a count.
        let ready = |f: *mut bindings::folio| unsafe { bindings::vexfs_folio_uptodate(f) };
        let usable = folios.iter().take(n).take_while(|f| ready(**f)).count();
        for folio in folios.iter().take(n).skip(usable) {
            // SAFETY: Gives back the count of a folio that is not used.
            unsafe { bindings::vexfs_folio_put(*folio) };
        }
        n = usable;
        if n == 0 {
            // SAFETY: The mapping is alive. Reads at most what lies below the end.
            n = unsafe {
                let pages = (last - first + 1).min(READAHEAD_PAGES);
                bindings::vexfs_readahead(mapping, first as usize, pages as usize);
                to_result(bindings::vexfs_read_folio(
                    mapping,
                    first as usize,
                    folios.as_mut_ptr(),
                ))?;
                1
            };
        }
        self.start = start;
        self.end = start;
        for folio in folios.iter().take(n) {
            let (mut bytes, mut position) = (0, 0);
            // SAFETY: The folio carries a count, so its address and size stay.
            let data = unsafe {
                bindings::vexfs_folio_address(*folio, &mut bytes, &mut position).cast::<u8>()
            };
            let span = Span {
                folio: *folio,
                data,
                start: position as u64,
                end: (position as u64).saturating_add(bytes as u64),
                run_end: (position as u64).saturating_add(bytes as u64),
            };
            self.end = span.end.min(end);
            // INVARIANT: The count moves into the span. Capacity is BATCH, n at most that.
            if self.spans.push_within_capacity(span).is_err() {
                return Err(EINVAL);
            }
        }
        let (mut next, mut run_end) = (ptr::null(), 0);
        for span in self.spans.iter_mut().rev() {
            let len = (span.end - span.start) as usize;
            // INVARIANT: The next folio's bytes begin where these end.
            if span.data.wrapping_add(len) == next {
                span.run_end = run_end;
            }
            next = span.data;
            run_end = span.run_end;
        }
        Ok(self.end)
    }

    /// The bytes at `position`, as many as lie together in memory; empty outside the range.
    pub fn bytes_at(&self, position: u64) -> &[u8] {
        self.bytes_near(position, &mut 0)
    }

    /// As [`Pinned::bytes_at`], for positions that grow from call to call: `hint` begins as 0
    /// and saves the search.
    pub fn bytes_near(&self, position: u64, hint: &mut usize) -> &[u8] {
        if position < self.start || position >= self.end {
            return &[];
        }
        while self.spans.get(*hint).is_some_and(|s| s.end <= position) {
            *hint = hint.saturating_add(1);
        }
        match self.spans.get(*hint) {
            Some(s) if s.start <= position => {
                let end = s.run_end.min(self.end);
                // SAFETY: By the invariant `data` covers `start..run_end` of the file in the
                // linear map, which is one mapping of all memory, and the folios stay for as
                // long as their counts, which `&self` outlives.
                unsafe {
                    core::slice::from_raw_parts(
                        s.data.add((position - s.start) as usize),
                        (end - position) as usize,
                    )
                }
            }
            _ => &[],
        }
    }

    /// Brings bytes into the cache ahead of their use; those outside the range are left out.
    pub fn prefetch(&self, position: u64, len: usize, hint: &mut usize) {
        let mut done = 0usize;
        while done < len {
            let bytes = self.bytes_near(position.saturating_add(done as u64), hint);
            let n = bytes.len().min(len - done);
            if n == 0 {
                return;
            }
            // SAFETY: The address range is part of a live slice; prefetching reads nothing
            // that the program could notice.
            unsafe { bindings::vexfs_prefetch(bytes.as_ptr().cast(), n) };
            done += n;
        }
    }

    /// Copies `out.len()` bytes at `position`, across folios. `EINVAL` outside the range.
    pub fn copy_at(&self, position: u64, out: &mut [u8]) -> Result {
        let mut done = 0usize;
        while done < out.len() {
            let from = self.bytes_at(position.saturating_add(done as u64));
            let n = from.len().min(out.len() - done);
            if n == 0 {
                return Err(EINVAL);
            }
            let (Some(to), Some(from)) = (out.get_mut(done..done + n), from.get(..n)) else {
                return Err(EINVAL);
            };
            // Equally long, as just cut; a plain loop becomes a memcpy without a panic path.
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            done += n;
        }
        Ok(())
    }

    /// The bytes pinned.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Copies `out.len()` bytes at `position`, pinning pages as it goes, but none that begin at
    /// `limit` or later. `EIO` if the file ends before.
    pub fn read<T: FileSystem>(
        &mut self,
        inode: &Inode<T>,
        position: u64,
        limit: u64,
        out: &mut [u8],
    ) -> Result {
        let mut done = 0usize;
        while done < out.len() {
            let at = position.saturating_add(done as u64);
            if !self.range().contains(&at) {
                self.fill(inode, at, limit)?;
            }
            let n = usize::try_from(self.end.saturating_sub(at))?.min(out.len() - done);
            let piece = out
                .get_mut(done..done + n)
                .filter(|piece| !piece.is_empty())
                .ok_or(EIO)?;
            self.copy_at(at, piece)?;
            done += n;
        }
        Ok(())
    }

    fn clear(&mut self) {
        while let Some(span) = self.spans.pop() {
            // SAFETY: Gives back the count of the invariant.
            unsafe { bindings::vexfs_folio_put(span.folio) };
        }
        self.start = 0;
        self.end = 0;
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Parts of a file that lie anywhere, uptodate and kept from going away.
///
/// # Invariants
///
/// On each of `folios[..held]` this value holds a count. `parts[..len]` are ranges of the kernel's linear
/// map that those folios cover.
pub struct Scattered {
    folios: [*mut bindings::folio; 2 * Scattered::PARTS],
    held: usize,
    parts: [(*const u8, usize); Scattered::PARTS],
    len: usize,
}

impl Scattered {
    /// Parts that there is room for, of two folios each: on the stack.
    pub const PARTS: usize = bindings::VEXFS_MAX_PARTS as usize;

    /// No parts.
    pub fn new() -> Self {
        // INVARIANT: There are no folios and no parts.
        Scattered {
            folios: [ptr::null_mut(); 2 * Self::PARTS],
            held: 0,
            parts: [(ptr::null(), 0); Self::PARTS],
            len: 0,
        }
    }

    /// Begins to fetch parts of `bytes` bytes at `positions` that are in memory, before they are pushed.
    pub fn prefetch<T: FileSystem>(inode: &Inode<T>, positions: &[u64], bytes: usize) {
        // SAFETY: The mapping lives as long as the inode, `positions` are as many as said. Nothing is
        // returned, and prefetching does not fault.
        unsafe {
            bindings::vexfs_prefetch_parts(
                (*inode.as_ptr()).i_mapping,
                positions.as_ptr(),
                positions.len() as c_uint,
                bytes,
            );
        }
    }

    /// Adds the `bytes` bytes at `position` as the next part. Says no if they do not lie together in memory, or
    /// there is no room; `pinned` is used in passing. May sleep and read.
    pub fn push<T: FileSystem>(
        &mut self,
        inode: &Inode<T>,
        pinned: &mut Pinned,
        position: u64,
        bytes: usize,
    ) -> Result<bool> {
        if self.push_one(inode, position, bytes) {
            return Ok(true);
        }
        pinned.fill(inode, position, position.saturating_add(bytes as u64))?;
        let Some(data) = pinned.bytes_at(position).get(..bytes) else {
            return Ok(false);
        };
        let free = self.folios.get_mut(self.held..).unwrap_or(&mut []);
        let Some(part) = self.parts.get_mut(self.len) else {
            return Ok(false);
        };
        if pinned.spans.len() > free.len() {
            return Ok(false);
        }
        *part = (data.as_ptr(), bytes);
        // INVARIANT: The counts of the folios that cover the part move here.
        for place in free {
            let Some(span) = pinned.spans.pop() else {
                break;
            };
            *place = span.folio;
            self.held += 1;
        }
        self.len += 1;
        pinned.clear();
        Ok(true)
    }

    /// Adds a part that lies in one folio in memory; says no to others.
    fn push_one<T: FileSystem>(&mut self, inode: &Inode<T>, position: u64, bytes: usize) -> bool {
        let (Some(place), Some(part)) =
            (self.folios.get_mut(self.held), self.parts.get_mut(self.len))
        else {
            return false;
        };
        let (mut size, mut start) = (0, 0);
        // SAFETY: The mapping lives as long as the inode. The folio found carries a count, so its address and
        // size stay.
        let (folio, data) = unsafe {
            let mapping = (*inode.as_ptr()).i_mapping;
            let folio = bindings::vexfs_folio_at(mapping, (position / PAGE_SIZE) as usize);
            if folio.is_null() {
                return false;
            }
            let data = bindings::vexfs_folio_address(folio, &mut size, &mut start).cast::<u8>();
            (folio, data)
        };
        let offset = position.saturating_sub(start as u64) as usize;
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            // SAFETY: Gives back the count that was just taken.
            unsafe { bindings::vexfs_folio_put(folio) };
            return false;
        }
        // INVARIANT: The count moves here; the folio, which covers the page of `position`, covers all of the part.
        *place = folio;
        *part = (data.wrapping_add(offset), bytes);
        self.held += 1;
        self.len += 1;
        true
    }

    /// Part number `at`; empty if there are not as many.
    pub fn part(&self, at: usize) -> &[u8] {
        match self.parts.get(..self.len).and_then(|parts| parts.get(at)) {
            // SAFETY: By the invariant the range is readable for as long as the folios' counts are
            // held, which `&self` outlives.
            Some((data, bytes)) => unsafe { core::slice::from_raw_parts(*data, *bytes) },
            None => &[],
        }
    }
}

impl Default for Scattered {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scattered {
    fn drop(&mut self) {
        for folio in self.folios.iter().take(self.held) {
            // SAFETY: Gives back the count of the invariant.
            unsafe { bindings::vexfs_folio_put(*folio) };
        }
    }
}

impl<T: FileSystem> OpenFile<'_, T> {
    /// Writes `bytes` at `position` through the page cache; may be short only at an error,
    /// which it then returns. The inode's lock is held.
    pub fn write_at(&self, position: u64, bytes: &[u8]) -> Result {
        let mut done = 0usize;
        while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
            // SAFETY: The file is open, the slice alive, the tables static.
            let n = unsafe {
                bindings::vexfs_kernel_write(
                    self.as_ptr(),
                    position.saturating_add(done as u64) as i64,
                    rest.as_ptr().cast(),
                    rest.len(),
                    iomap::Ops::<T>::WRITE,
                    iomap::Ops::<T>::write_ops(),
                )
            };
            if n < 0 {
                return Err(Error::from_errno(n as c_int));
            }
            if n == 0 {
                return Err(EIO);
            }
            done += n as usize;
        }
        Ok(())
    }
}

impl<T: FileSystem> OpenFile<'_, T> {
    /// As [`OpenFile::write_at`], from user memory: `len` bytes at `address`. `EFAULT` if they
    /// can't be read; some may be written then.
    pub fn write_user_at(&self, position: u64, address: usize, len: usize) -> Result {
        let mut done = 0usize;
        while done < len {
            // SAFETY: The file is open and the tables static; a bad user address is handled by
            // the copy, which checks it.
            let n = unsafe {
                bindings::vexfs_user_write(
                    self.as_ptr(),
                    position.saturating_add(done as u64) as i64,
                    address.wrapping_add(done) as *mut c_void,
                    len - done,
                    iomap::Ops::<T>::WRITE,
                    iomap::Ops::<T>::write_ops(),
                )
            };
            if n < 0 {
                return Err(Error::from_errno(n as c_int));
            }
            if n == 0 {
                return Err(EFAULT);
            }
            done = done.saturating_add(n as usize);
        }
        Ok(())
    }
}

/// The kernel's read-write semaphore, guarding nothing by itself.
#[pin_data]
pub struct RwSem {
    #[pin]
    sem: UnsafeCell<bindings::rw_semaphore>,
}

// SAFETY: A lock is made to be shared.
unsafe impl Send for RwSem {}
// SAFETY: As above.
unsafe impl Sync for RwSem {}

impl RwSem {
    /// Initialises the semaphore in place.
    pub fn new() -> impl PinInit<Self, Error> {
        // SAFETY: The closure initialises the only field at its final, pinned address.
        unsafe {
            pin_init::pin_init_from_closure(|slot: *mut Self| {
                bindings::vexfs_init_rwsem((&raw mut (*slot).sem).cast());
                Ok(())
            })
        }
    }

    /// Runs `f` with the semaphore held shared.
    pub fn read<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: Initialised in `new`; released below.
        unsafe { bindings::down_read(self.sem.get()) };
        let result = f();
        // SAFETY: Taken above.
        unsafe { bindings::up_read(self.sem.get()) };
        result
    }

    /// Runs `f` with the semaphore held exclusively.
    pub fn write<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: Initialised in `new`; released below.
        unsafe { bindings::down_write(self.sem.get()) };
        let result = f();
        // SAFETY: Taken above.
        unsafe { bindings::up_write(self.sem.get()) };
        result
    }
}
