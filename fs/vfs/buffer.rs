// SPDX-License-Identifier: GPL-2.0

//! Blocks of the device in the buffer cache.
//!
//! C header: `linux/buffer_head.h`.

use crate::bindings;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::prelude::*;

/// A reference to a cached, uptodate block.
///
/// # Invariants
///
/// The pointer is to a `buffer_head` on which this value holds a count, mapped to a block
/// of the filesystem's block size and uptodate.
///
/// # Concurrency
///
/// The bytes of a metadata block belong to whoever holds the lock of the structure the
/// block is part of (an inode's tree, the allocator). Readers hold that lock too, so a
/// slice of the bytes is never written by others while it lives, except for the checksum
/// word that the journal's frozen trigger fills in at commit and that nobody reads from
/// a live buffer.
pub struct Buffer(NonNull<bindings::buffer_head>);

// SAFETY: A buffer_head count may be dropped by any task, and the bytes are guarded by the
// locks named above.
unsafe impl Send for Buffer {}
// SAFETY: As above; shared use only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Takes over a counted reference.
    ///
    /// # Safety
    ///
    /// `bh` is null or carries a count for the caller, and is uptodate or about to be made so.
    pub(crate) unsafe fn from_raw(bh: *mut bindings::buffer_head) -> Result<Self> {
        NonNull::new(bh).map(Buffer).ok_or(EIO)
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::buffer_head {
        self.0.as_ptr()
    }

    /// Gives the count away.
    pub(crate) fn into_raw(self) -> *mut bindings::buffer_head {
        let bh = self.0.as_ptr();
        core::mem::forget(self);
        bh
    }

    /// The block's number.
    pub fn block(&self) -> u64 {
        // SAFETY: The type invariant keeps the buffer_head alive; b_blocknr of a mapped
        // buffer does not change.
        unsafe { (*self.as_ptr()).b_blocknr }
    }

    /// Whether the block passed its check since it was read.
    pub fn is_verified(&self) -> bool {
        // SAFETY: Alive by the type invariant; an atomic bit test.
        unsafe { bindings::vexfs_bh_verified(self.as_ptr()) }
    }

    /// Notes that the block passed its check.
    pub fn set_verified(&self) {
        // SAFETY: Alive by the type invariant; an atomic bit operation.
        unsafe { bindings::vexfs_bh_set_verified(self.as_ptr()) }
    }

    /// Forgets that the block passed its check.
    pub fn clear_verified(&self) {
        // SAFETY: Alive by the type invariant; an atomic bit operation.
        unsafe { bindings::vexfs_bh_clear_verified(self.as_ptr()) }
    }

    /// The bytes, for whoever owns the block's structure and has joined it to a transaction.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: b_data and b_size describe the block's bytes in a pinned page for as long
        // as the count is held. Exclusive use is the protocol in the type's documentation.
        unsafe {
            core::slice::from_raw_parts_mut(
                (*self.as_ptr()).b_data.cast::<u8>(),
                (*self.as_ptr()).b_size,
            )
        }
    }

    /// Copies `bytes` to `offset`. For blocks shared by several owners (inode tables), each
    /// of which writes its own range only.
    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) -> Result {
        // SAFETY: Alive by the type invariant.
        let (data, size) = unsafe { ((*self.as_ptr()).b_data, (*self.as_ptr()).b_size) };
        if offset.checked_add(bytes.len()).is_none_or(|end| end > size) {
            return Err(EINVAL);
        }
        // SAFETY: The range was checked against the block's size, the source is a live slice
        // elsewhere, and no Rust reference to this range exists: shared blocks are read
        // with `read_at` only.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                data.cast::<u8>().add(offset),
                bytes.len(),
            )
        };
        Ok(())
    }

    /// Copies out of a block shared by several owners.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result {
        // SAFETY: Alive by the type invariant.
        let (data, size) = unsafe { ((*self.as_ptr()).b_data, (*self.as_ptr()).b_size) };
        if offset.checked_add(bytes.len()).is_none_or(|end| end > size) {
            return Err(EINVAL);
        }
        // SAFETY: The range was checked against the block's size; a raw copy makes no claim
        // that nobody writes another range of the block.
        unsafe {
            core::ptr::copy_nonoverlapping(
                data.cast::<u8>().add(offset),
                bytes.as_mut_ptr(),
                bytes.len(),
            )
        };
        Ok(())
    }

    /// Changes the block outside the journal and waits until it is on the medium.
    ///
    /// For blocks that never enter a transaction: the superblock and its copies.
    pub fn write_sync(&mut self, fua: bool, f: impl FnOnce(&mut [u8])) -> Result {
        // SAFETY: Alive by the type invariant; the lock is released below.
        unsafe { bindings::vexfs_bh_lock(self.as_ptr()) };
        f(self.bytes_mut());
        // SAFETY: Locked above.
        unsafe {
            bindings::vexfs_bh_set_uptodate(self.as_ptr());
            bindings::vexfs_bh_unlock(self.as_ptr());
        }
        // SAFETY: Alive by the type invariant, unlocked and uptodate.
        kernel::error::to_result(unsafe { bindings::vexfs_bh_write_sync(self.as_ptr(), fua) })
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        // SAFETY: Alive by the type invariant; the new value owns the new count.
        unsafe { bindings::vexfs_get_bh(self.as_ptr()) };
        Buffer(self.0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: The type invariant says that this value holds a count.
        unsafe { bindings::vexfs_brelse(self.as_ptr()) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: b_data and b_size describe the block's bytes in a pinned page for as long
        // as the count is held; see the type's documentation for concurrent writers.
        unsafe {
            core::slice::from_raw_parts(
                (*self.as_ptr()).b_data.cast::<u8>(),
                (*self.as_ptr()).b_size,
            )
        }
    }
}
