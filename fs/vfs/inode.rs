// SPDX-License-Identifier: GPL-2.0

//! `struct inode` as others use it: what it says, its locks, and counted references to it. The memory it
//! comes from is in `inode_cache`, and how it begins in `new_inode`.
//!
//! C header: `linux/fs.h`.

use crate::bindings;
use crate::inode_cache::node;
use crate::super_block::SuperBlock;
use crate::FileSystem;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;

/// A point in time, as the VFS has it.
#[derive(Clone, Copy, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl From<bindings::timespec64> for Time {
    fn from(ts: bindings::timespec64) -> Self {
        Time {
            seconds: ts.tv_sec,
            nanoseconds: ts.tv_nsec as u32,
        }
    }
}

impl From<Time> for bindings::timespec64 {
    fn from(t: Time) -> Self {
        bindings::timespec64 {
            tv_sec: t.seconds,
            tv_nsec: t.nanoseconds as c_long,
        }
    }
}

/// File type bits of a mode.
pub mod mode {
    /// The mask of the type.
    pub const TYPE: u16 = 0o170000;
    /// Directory.
    pub const DIRECTORY: u16 = 0o040000;
    /// Regular file.
    pub const REGULAR: u16 = 0o100000;
    /// Symbolic link.
    pub const SYMLINK: u16 = 0o120000;
}

/// An inode of filesystem `T`, alive for as long as the reference.
#[repr(transparent)]
pub struct Inode<T: FileSystem>(UnsafeCell<bindings::inode>, PhantomData<T>);

// SAFETY: struct inode does its own locking; fields read here without a lock are read as the
// VFS itself reads them. The node is Send and Sync.
unsafe impl<T: FileSystem> Send for Inode<T> {}
// SAFETY: As above.
unsafe impl<T: FileSystem> Sync for Inode<T> {}

impl<T: FileSystem> Inode<T> {
    /// # Safety
    ///
    /// `inode` is an inode of `T` that is referenced for as long as the result is used.
    pub(crate) unsafe fn from_raw<'a>(inode: *mut bindings::inode) -> &'a Self {
        // SAFETY: repr(transparent), and referenced by the caller's promise.
        unsafe { &*inode.cast() }
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// The filesystem's own part.
    pub fn node(&self) -> &T::Node {
        // SAFETY: The node is dropped after the last reference to the inode.
        unsafe { &*node::<T>(self.as_ptr()) }
    }

    /// The superblock.
    pub fn sb(&self) -> &SuperBlock<T> {
        // SAFETY: An inode's superblock outlives it.
        unsafe { SuperBlock::from_raw((*self.as_ptr()).i_sb) }
    }

    /// The volume.
    pub fn volume(&self) -> &T::Volume {
        self.sb().volume()
    }

    /// Another reference.
    pub fn hold(&self) -> IRef<T> {
        // SAFETY: The inode is referenced, so a reference may be added.
        unsafe {
            bindings::ihold(self.as_ptr());
            IRef::from_raw(self.as_ptr())
        }
    }

    /// Whether it has no name, and the caller's reference, which is not that of an open file, is the only
    /// one.
    pub fn is_abandoned(&self) -> bool {
        // SAFETY: The inode is referenced; the count is atomic.
        self.nlink() == 0 && unsafe { bindings::vexfs_inode_count(self.as_ptr()) } == 1
    }

    /// The inode's number.
    pub fn ino(&self) -> u64 {
        // SAFETY: Constant after setup.
        unsafe { (*self.as_ptr()).i_ino }
    }

    /// Type and permission bits.
    pub fn mode(&self) -> u16 {
        // SAFETY: A plain field, read without a lock as the VFS does.
        unsafe { (*self.as_ptr()).i_mode }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode() & mode::TYPE == mode::DIRECTORY
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode() & mode::TYPE == mode::REGULAR
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode() & mode::TYPE == mode::SYMLINK
    }

    /// Device number of a special file, as `new_encode_dev` gives it.
    pub fn rdev(&self) -> u32 {
        // SAFETY: Constant after setup.
        unsafe { (*self.as_ptr()).i_rdev }
    }

    /// Owner and group as stored on disk.
    pub fn owner(&self) -> (u32, u32) {
        // SAFETY: Plain fields.
        unsafe {
            (
                bindings::vexfs_i_uid_read(self.as_ptr()),
                bindings::vexfs_i_gid_read(self.as_ptr()),
            )
        }
    }

    /// Links.
    pub fn nlink(&self) -> u32 {
        // SAFETY: A plain field.
        unsafe { bindings::vexfs_inode_nlink(self.as_ptr()) }
    }

    /// Sets the links; the inode's lock is held.
    pub fn set_nlink(&self, n: u32) {
        // SAFETY: The caller holds the inode's lock or is alone with it.
        unsafe { bindings::vexfs_inode_set_nlink(self.as_ptr(), n) }
    }

    /// Adds a link.
    pub fn inc_nlink(&self) {
        // SAFETY: As in `set_nlink`.
        unsafe { bindings::inc_nlink(self.as_ptr()) }
    }

    /// Takes a link away.
    pub fn drop_nlink(&self) {
        // SAFETY: As in `set_nlink`.
        unsafe { bindings::drop_nlink(self.as_ptr()) }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        // SAFETY: The accessor copes with concurrent writers.
        unsafe { bindings::vexfs_i_size_read(self.as_ptr()) as u64 }
    }

    /// Sets the size; the inode's lock is held.
    pub fn set_size(&self, size: u64) {
        // SAFETY: The caller holds the inode's lock.
        unsafe { bindings::vexfs_i_size_write(self.as_ptr(), size as i64) }
    }

    /// Bytes of disk space that stat(2) reports.
    pub fn disk_bytes(&self) -> u64 {
        // SAFETY: The accessor takes the lock it needs.
        unsafe { bindings::inode_get_bytes(self.as_ptr()) as u64 }
    }

    /// Adds to the disk space.
    pub fn add_disk_bytes(&self, bytes: u64) {
        // SAFETY: The accessor takes the lock it needs.
        unsafe { bindings::inode_add_bytes(self.as_ptr(), bytes as i64) }
    }

    /// Subtracts from the disk space.
    pub fn sub_disk_bytes(&self, bytes: u64) {
        // SAFETY: The accessor takes the lock it needs.
        unsafe { bindings::inode_sub_bytes(self.as_ptr(), bytes as i64) }
    }

    /// Last access.
    pub fn atime(&self) -> Time {
        // SAFETY: Plain fields, as the VFS reads them. The same for the times below.
        unsafe { bindings::vexfs_inode_atime(self.as_ptr()) }.into()
    }

    /// Last change of the data.
    pub fn mtime(&self) -> Time {
        // SAFETY: As in `atime`.
        unsafe { bindings::vexfs_inode_mtime(self.as_ptr()) }.into()
    }

    /// Last change of the inode.
    pub fn ctime(&self) -> Time {
        // SAFETY: As in `atime`.
        unsafe { bindings::vexfs_inode_ctime(self.as_ptr()) }.into()
    }

    /// Marks data and inode as changed now.
    pub fn touch_mtime_ctime(&self) -> Time {
        // SAFETY: The caller holds the inode's lock.
        unsafe {
            let now = bindings::inode_set_ctime_current(self.as_ptr());
            bindings::vexfs_inode_set_mtime(self.as_ptr(), now);
            now.into()
        }
    }

    /// Marks the inode as changed now.
    pub fn touch_ctime(&self) {
        // SAFETY: The caller holds the inode's lock.
        unsafe { bindings::inode_set_ctime_current(self.as_ptr()) };
    }

    /// The generation that tells apart inodes of one number.
    pub fn generation(&self) -> u32 {
        // SAFETY: Constant after setup.
        unsafe { (*self.as_ptr()).i_generation }
    }

    /// Whether the page cache holds anything dirty or under writeback.
    pub fn has_unwritten_pages(&self) -> bool {
        // SAFETY: A test of tags.
        unsafe { bindings::vexfs_mapping_busy(self.as_ptr()) }
    }

    /// Whether a shared mapping may be written.
    pub fn is_writably_mapped(&self) -> bool {
        // SAFETY: A test of a counter.
        unsafe { bindings::vexfs_mapping_writably_mapped(self.as_ptr()) }
    }

    /// Writes dirty pages of a byte range (inclusive end) and waits for them.
    pub fn write_and_wait(&self, start: u64, end: u64) -> Result {
        // SAFETY: The mapping lives as long as the inode.
        to_result(unsafe {
            bindings::filemap_write_and_wait_range(
                (*self.as_ptr()).i_mapping,
                start as i64,
                end.min(i64::MAX as u64) as i64,
            )
        })
    }

    /// Starts writing dirty pages without waiting.
    pub fn start_writeback(&self) {
        // SAFETY: The mapping lives as long as the inode. Errors reach fsync through the
        // mapping's error sequence.
        unsafe { bindings::filemap_flush((*self.as_ptr()).i_mapping) };
    }

    /// Waits for direct I/O under way.
    pub fn wait_for_direct_io(&self) {
        // SAFETY: The caller holds the inode's lock, so no new one starts.
        unsafe { bindings::inode_dio_wait(self.as_ptr()) }
    }

    /// Tells the VFS that the inode needs write_inode.
    pub fn mark_dirty(&self) {
        // SAFETY: The inode is referenced.
        unsafe { bindings::vexfs_mark_inode_dirty(self.as_ptr()) }
    }

    /// The inode's lock, exclusive.
    pub fn lock(&self) -> Locked<'_, T> {
        // SAFETY: The inode is referenced; released in `drop`.
        unsafe { bindings::vexfs_inode_lock(self.as_ptr()) };
        Locked {
            inode: self,
            shared: false,
        }
    }

    /// The inode's lock, shared.
    pub fn lock_shared(&self) -> Locked<'_, T> {
        // SAFETY: The inode is referenced; released in `drop`.
        unsafe { bindings::vexfs_inode_lock_shared(self.as_ptr()) };
        Locked {
            inode: self,
            shared: true,
        }
    }

    /// Keeps page faults and readahead from adding to the page cache.
    pub fn lock_page_cache(&self) -> PageCacheLocked<'_, T> {
        // SAFETY: The inode is referenced; released in `drop`.
        unsafe { bindings::vexfs_invalidate_lock(self.as_ptr()) };
        PageCacheLocked(self)
    }

    /// Sets the size and drops the pages beyond it. The inode's lock is held.
    pub fn truncate_page_cache(&self, size: u64) {
        // SAFETY: The caller holds the inode's lock and the page cache lock.
        unsafe { bindings::truncate_setsize(self.as_ptr(), size as i64) }
    }

    /// Drops the pages of a byte range (inclusive end). Inode and page cache are locked.
    pub fn drop_page_range(&self, start: u64, end: u64) {
        // SAFETY: The caller holds the inode's lock and the page cache lock.
        unsafe { bindings::truncate_pagecache_range(self.as_ptr(), start as i64, end as i64) }
    }

    /// After growing from `old`: makes the page at the old end fault for writing again.
    pub fn page_cache_extended(&self, old: u64, new: u64) {
        // SAFETY: The caller holds the inode's lock.
        unsafe { bindings::pagecache_isize_extended(self.as_ptr(), old as i64, new as i64) }
    }
}

/// Holds an inode's lock.
pub struct Locked<'a, T: FileSystem> {
    inode: &'a Inode<T>,
    shared: bool,
}

impl<T: FileSystem> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Taken when this value was made.
        unsafe {
            if self.shared {
                bindings::vexfs_inode_unlock_shared(self.inode.as_ptr())
            } else {
                bindings::vexfs_inode_unlock(self.inode.as_ptr())
            }
        }
    }
}

/// Holds an inode's page cache lock.
pub struct PageCacheLocked<'a, T: FileSystem>(&'a Inode<T>);

impl<T: FileSystem> Drop for PageCacheLocked<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Taken when this value was made.
        unsafe { bindings::vexfs_invalidate_unlock(self.0.as_ptr()) }
    }
}

/// A counted reference to an inode.
///
/// # Invariants
///
/// Holds one count.
pub struct IRef<T: FileSystem>(NonNull<Inode<T>>);

// SAFETY: An inode's count may be dropped by any task that may sleep.
unsafe impl<T: FileSystem> Send for IRef<T> {}
// SAFETY: Sharing gives `&Inode<T>`, which is Sync.
unsafe impl<T: FileSystem> Sync for IRef<T> {}

impl<T: FileSystem> IRef<T> {
    /// # Safety
    ///
    /// The caller gives a count of the inode to the result.
    pub(crate) unsafe fn from_raw(inode: *mut bindings::inode) -> Self {
        // SAFETY: An inode with a count is not null.
        IRef(unsafe { NonNull::new_unchecked(inode.cast()) })
    }

    pub(crate) fn into_raw(self) -> *mut bindings::inode {
        let raw = self.0.as_ptr().cast();
        core::mem::forget(self);
        raw
    }
}

impl<T: FileSystem> Deref for IRef<T> {
    type Target = Inode<T>;

    fn deref(&self) -> &Inode<T> {
        // SAFETY: The count keeps the inode alive.
        unsafe { self.0.as_ref() }
    }
}

impl<T: FileSystem> Drop for IRef<T> {
    fn drop(&mut self) {
        // SAFETY: Gives back the count of the type invariant.
        unsafe { bindings::iput(self.0.as_ptr().cast()) }
    }
}
