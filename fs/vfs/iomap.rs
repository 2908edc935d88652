// SPDX-License-Identifier: GPL-2.0

//! File data: address_space operations over iomap, and what happens when writes complete.
//!
//! Rules, after `Documentation/filesystems/iomap/`:
//! - blocks for a write are allocated, unwritten, in [`Mapper::map_for_write`], which may
//!   open and close a transaction because no folio is locked then;
//! - writeback only looks mappings up, as it holds a folio lock;
//! - unwritten blocks become written, and the size on disk grows, in [`Mapper::written`],
//!   which runs in a workqueue after the data is on the medium;
//! - a mapping carries the sequence number it was made under, and iomap asks whether that
//!   is still current once it holds the folio lock.
//!
//! C header: `linux/iomap.h`.

use crate::bindings;
use crate::inode::Inode;
use crate::inode_cache::storage;
use crate::task::NoFs;
use crate::{FileSystem, Types};
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::error::to_result;
use kernel::prelude::*;

/// What a range of a file is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is allocated; reads as zeros.
    Hole,
    /// Allocated, reads as zeros.
    Unwritten,
    /// Allocated and written.
    Written,
}

/// A mapping of a file's bytes to the device's.
#[derive(Clone, Copy)]
pub struct Mapping {
    /// First byte in the file, at most the position asked for.
    pub offset: u64,
    /// Bytes, reaching beyond the position asked for.
    pub len: u64,
    /// First byte on the device; of no meaning for a hole.
    pub address: u64,
    /// What it is.
    pub state: State,
    /// Just allocated.
    pub new: bool,
    /// The file's sequence number when the mapping was looked up.
    pub sequence: u32,
}

/// Where a file's data is.
pub trait Mapper: Types {
    /// Looks a mapping up. Opens no transaction: a folio may be locked.
    fn map(inode: &Inode<Self>, position: u64, len: u64) -> Result<Mapping>
    where
        Self: FileSystem;
    /// Looks a mapping up and fills a hole at `position` with unwritten blocks. With
    /// `locked` a folio is locked and no transaction may be opened: a hole is an error.
    fn map_for_write(inode: &Inode<Self>, position: u64, len: u64, locked: bool) -> Result<Mapping>
    where
        Self: FileSystem;
    /// The file's sequence number: it changes whenever a mapping handed out may be wrong.
    fn sequence(inode: &Inode<Self>) -> u32
    where
        Self: FileSystem;
    /// Does a completed write need [`Mapper::written`]? May be called in interrupt context.
    fn wants_written(inode: &Inode<Self>, end: u64, unwritten: bool) -> bool
    where
        Self: FileSystem;
    /// `len` bytes at `offset` are on the medium. Process context, no locks held.
    fn written(inode: &Inode<Self>, offset: u64, len: u64, unwritten: bool) -> Result
    where
        Self: FileSystem;
}

// Not there without CONFIG_MIGRATION.
#[cfg(CONFIG_MIGRATION)]
const MIGRATE_FOLIO: MigrateFolio = Some(bindings::filemap_migrate_folio);
#[cfg(not(CONFIG_MIGRATION))]
const MIGRATE_FOLIO: MigrateFolio = None;

type MigrateFolio = Option<
    unsafe extern "C" fn(
        *mut bindings::address_space,
        *mut bindings::folio,
        *mut bindings::folio,
        bindings::migrate_mode,
    ) -> c_int,
>;

pub(crate) struct Ops<T>(PhantomData<T>);

impl<T: FileSystem> Ops<T> {
    pub(crate) const ADDRESS_SPACE: &'static bindings::address_space_operations =
        &bindings::address_space_operations {
            read_folio: Some(read_folio::<T>),
            readahead: Some(readahead::<T>),
            writepages: Some(writepages::<T>),
            dirty_folio: Some(bindings::iomap_dirty_folio),
            release_folio: Some(bindings::iomap_release_folio),
            invalidate_folio: Some(bindings::iomap_invalidate_folio),
            is_partially_uptodate: Some(bindings::iomap_is_partially_uptodate),
            migrate_folio: MIGRATE_FOLIO,
            error_remove_folio: Some(bindings::generic_error_remove_folio),
            bmap: Some(bmap::<T>),
            ..pin_init::zeroed()
        };

    pub(crate) const READ: &'static bindings::iomap_ops = &bindings::iomap_ops {
        iomap_begin: Some(begin_read::<T>),
        iomap_end: None,
        iomap_next: None,
    };

    pub(crate) const REPORT: &'static bindings::iomap_ops = Self::READ;

    pub(crate) const WRITE: &'static bindings::iomap_ops = &bindings::iomap_ops {
        iomap_begin: Some(begin_write::<T>),
        iomap_end: None,
        iomap_next: None,
    };

    const WRITE_OPS: &'static bindings::iomap_write_ops = &bindings::iomap_write_ops {
        iomap_valid: Some(valid::<T>),
        ..pin_init::zeroed()
    };

    const WRITEBACK: &'static bindings::iomap_writeback_ops = &bindings::iomap_writeback_ops {
        writeback_range: Some(writeback_range::<T>),
        writeback_submit: Some(writeback_submit::<T>),
    };

    pub(crate) const DIRECT_WRITE: &'static bindings::iomap_dio_ops = &bindings::iomap_dio_ops {
        end_io: Some(direct_end::<T>),
        submit_io: None,
        bio_set: ptr::null_mut(),
    };

    pub(crate) const MAPPED: &'static bindings::vm_operations_struct =
        &bindings::vm_operations_struct {
            fault: Some(bindings::filemap_fault),
            map_pages: Some(bindings::filemap_map_pages),
            page_mkwrite: Some(page_mkwrite::<T>),
            ..pin_init::zeroed()
        };

    pub(crate) fn write_ops() -> *const bindings::iomap_write_ops {
        Self::WRITE_OPS
    }
}

/// # Safety
///
/// `iomap` is iomap's to fill, and `raw` a live inode.
unsafe fn fill(raw: *mut bindings::inode, iomap: *mut bindings::iomap, m: &Mapping) {
    // SAFETY: By the caller's promise.
    unsafe {
        (*iomap).offset = m.offset as i64;
        (*iomap).length = m.len;
        (*iomap).bdev = (*(*raw).i_sb).s_bdev;
        (*iomap).validity_cookie = u64::from(m.sequence);
        (*iomap).flags = if m.new {
            bindings::IOMAP_F_NEW as u16
        } else {
            0
        };
        match m.state {
            State::Hole => {
                (*iomap).type_ = bindings::IOMAP_HOLE as u16;
                (*iomap).addr = u64::MAX;
            }
            State::Unwritten => {
                (*iomap).type_ = bindings::IOMAP_UNWRITTEN as u16;
                (*iomap).addr = m.address;
            }
            State::Written => {
                (*iomap).type_ = bindings::IOMAP_MAPPED as u16;
                (*iomap).addr = m.address;
            }
        }
    }
}

/// `iomap_ops.iomap_begin` of operations that allocate nothing.
///
/// # Safety
///
/// `raw` is a live inode of `T`, `iomap` is the caller's to fill; position and length are not
/// negative.
unsafe extern "C" fn begin_read<T: FileSystem>(
    raw: *mut bindings::inode,
    position: bindings::loff_t,
    len: bindings::loff_t,
    _flags: c_uint,
    iomap: *mut bindings::iomap,
    _source: *mut bindings::iomap,
) -> c_int {
    // SAFETY: iomap keeps the inode for the call and gives a mapping to fill.
    unsafe {
        match T::map(Inode::from_raw(raw), position as u64, len as u64) {
            Ok(m) => {
                fill(raw, iomap, &m);
                0
            }
            Err(e) => e.to_errno(),
        }
    }
}

/// `iomap_ops.iomap_begin` of writes.
///
/// # Safety
///
/// As for [`begin_read`]; the inode is locked as its kind of write demands.
unsafe extern "C" fn begin_write<T: FileSystem>(
    raw: *mut bindings::inode,
    position: bindings::loff_t,
    len: bindings::loff_t,
    flags: c_uint,
    iomap: *mut bindings::iomap,
    _source: *mut bindings::iomap,
) -> c_int {
    // SAFETY: As in `begin_read`.
    unsafe {
        let inode = Inode::<T>::from_raw(raw);
        let (position, len) = (position as u64, len as u64);
        // Zeroing leaves holes alone.
        let mapping = if flags & bindings::IOMAP_ZERO != 0 {
            T::map(inode, position, len)
        } else if flags & bindings::IOMAP_NOWAIT != 0 {
            T::map(inode, position, len).and_then(|m| match m.state {
                State::Hole => Err(EAGAIN),
                _ => Ok(m),
            })
        } else {
            T::map_for_write(inode, position, len, flags & bindings::IOMAP_FAULT != 0)
        };
        match mapping {
            Ok(m) => {
                fill(raw, iomap, &m);
                0
            }
            Err(e) => e.to_errno(),
        }
    }
}

/// `iomap_write_ops.iomap_valid`.
///
/// # Safety
///
/// `raw` is a live inode of `T` and `iomap` a mapping that [`fill`] filled.
unsafe extern "C" fn valid<T: FileSystem>(
    raw: *mut bindings::inode,
    iomap: *const bindings::iomap,
) -> bool {
    // SAFETY: iomap keeps the inode and the mapping for the call.
    unsafe { (*iomap).validity_cookie == u64::from(T::sequence(Inode::<T>::from_raw(raw))) }
}

/// `address_space_operations.read_folio`.
///
/// # Safety
///
/// `folio` is a locked folio of a file of `T`.
unsafe extern "C" fn read_folio<T: FileSystem>(
    _file: *mut bindings::file,
    folio: *mut bindings::folio,
) -> c_int {
    // SAFETY: The VFS passes a locked folio of one of our files.
    unsafe { bindings::vexfs_bio_read_folio(folio, Ops::<T>::READ) }
}

/// `address_space_operations.readahead`.
///
/// # Safety
///
/// `control` holds locked folios of a file of `T`.
unsafe extern "C" fn readahead<T: FileSystem>(control: *mut bindings::readahead_control) {
    // SAFETY: The VFS passes locked folios of one of our files.
    unsafe { bindings::vexfs_bio_readahead(control, Ops::<T>::READ) }
}

/// `address_space_operations.bmap`.
///
/// # Safety
///
/// `mapping` is that of a live inode of `T`.
unsafe extern "C" fn bmap<T: FileSystem>(
    mapping: *mut bindings::address_space,
    block: bindings::sector_t,
) -> bindings::sector_t {
    // SAFETY: The VFS passes a live mapping of one of our files.
    unsafe { bindings::iomap_bmap(mapping, block, Ops::<T>::READ) }
}

/// `inode_operations.fiemap`.
///
/// # Safety
///
/// `raw` is a live inode of `T` that the caller has not locked, and `info` belongs to this call.
pub(crate) unsafe extern "C" fn fiemap<T: FileSystem>(
    raw: *mut bindings::inode,
    info: *mut bindings::fiemap_extent_info,
    start: u64,
    len: u64,
) -> c_int {
    // SAFETY: The VFS keeps inode and info for the call.
    unsafe {
        let _lock = Inode::<T>::from_raw(raw).lock_shared();
        bindings::iomap_fiemap(raw, info.cast(), start, len, Ops::<T>::REPORT)
    }
}

/// `address_space_operations.writepages`.
///
/// # Safety
///
/// `mapping` is that of a live inode of `T`, and `wbc` outlives the call.
unsafe extern "C" fn writepages<T: FileSystem>(
    mapping: *mut bindings::address_space,
    wbc: *mut bindings::writeback_control,
) -> c_int {
    // SAFETY: The VFS passes a live mapping; the context lives on this stack for the call,
    // and iomap completes or submits all of it before it returns.
    unsafe {
        let mut context: bindings::iomap_writepage_ctx = pin_init::zeroed();
        context.inode = (*mapping).host;
        context.wbc = wbc;
        context.ops = Ops::<T>::WRITEBACK;
        bindings::iomap_writepages(&mut context)
    }
}

/// `iomap_writeback_ops.writeback_range`.
///
/// # Safety
///
/// `context` is the one that [`writepages`] made, and `folio` is locked and belongs to its inode.
unsafe extern "C" fn writeback_range<T: FileSystem>(
    context: *mut bindings::iomap_writepage_ctx,
    folio: *mut bindings::folio,
    position: u64,
    len: c_uint,
    end: u64,
) -> isize {
    // SAFETY: iomap passes its own context, with the folio locked.
    unsafe {
        let raw = (*context).inode;
        let inode = Inode::<T>::from_raw(raw);
        let map = &raw mut (*context).iomap;
        let start = (*map).offset as u64;
        let fits = position >= start
            && position < start.saturating_add((*map).length)
            && (*map).validity_cookie == u64::from(T::sequence(inode))
            && (*map).type_ != bindings::IOMAP_HOLE as u16;
        if !fits {
            // The mapping may be as long as it likes: ask for what is dirty around here.
            match T::map(inode, position, end.saturating_sub(position).max(1 << 20)) {
                // A hole is possible: a large folio that lay across the end when the file was cut
                // keeps the dirty bits of its blocks behind it. They hold zeros; iomap skips
                // them. A store would have faulted and allocated.
                Ok(m) => fill(raw, map, &m),
                Err(e) => return e.to_errno() as isize,
            }
        }
        bindings::iomap_add_to_ioend(context, folio, position as i64, end as i64, len)
    }
}

/// `iomap_writeback_ops.writeback_submit`.
///
/// # Safety
///
/// `context` is the one that [`writepages`] made, and its `wb_ctx` is an ioend.
unsafe extern "C" fn writeback_submit<T: FileSystem>(
    context: *mut bindings::iomap_writepage_ctx,
    error: c_int,
) -> c_int {
    // SAFETY: iomap passes its own context with a built ioend.
    unsafe {
        let ioend = (*context).wb_ctx.cast::<bindings::iomap_ioend>();
        let inode = Inode::<T>::from_raw((*ioend).io_inode);
        let end = (*ioend).io_offset as u64 + (*ioend).io_size as u64;
        let unwritten = (*ioend).io_flags & bindings::IOMAP_IOEND_UNWRITTEN as u16 != 0;
        if T::wants_written(inode, end, unwritten) {
            bindings::vexfs_ioend_defer(ioend, Some(end_bio::<T>));
        }
        bindings::iomap_ioend_writeback_submit(context, error)
    }
}

/// Completed writes of an inode that wait for the workqueue.
///
/// # Invariants
///
/// `head` is null or a list of ioends linked through `io_list.next`. An inode with ioends
/// here has pages under writeback and so cannot be evicted.
#[repr(C)]
pub(crate) struct Pending<T> {
    head: AtomicPtr<bindings::iomap_ioend>,
    work: bindings::work_struct,
    _fs: PhantomData<T>,
}

impl<T: FileSystem> Pending<T> {
    /// # Safety
    ///
    /// `this` is memory for a `Pending` that will not move.
    pub(crate) unsafe fn init(this: *mut Self) {
        // SAFETY: By the caller's promise.
        unsafe {
            (&raw mut (*this).head).write(AtomicPtr::new(ptr::null_mut()));
            bindings::vexfs_init_work(&raw mut (*this).work, Some(complete::<T>));
        }
    }
}

/// The workqueue of completions, for as long as the filesystem is registered.
pub struct Completions(());

static QUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(ptr::null_mut());

impl Completions {
    /// Makes the queue; once, before the filesystem is registered.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: The name is NUL-terminated and copied.
        let queue =
            unsafe { bindings::vexfs_alloc_workqueue(kernel::str::CStrExt::as_char_ptr(name)) };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        QUEUE.store(queue, Ordering::Release);
        Ok(Completions(()))
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        let queue = QUEUE.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: Made in `new`; the filesystem is unregistered, so nothing queues any more.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// `bio.bi_end_io` of writes that [`complete`] finishes.
///
/// # Safety
///
/// `bio` is that of an ioend of an inode of `T` and has ended; called once for it.
unsafe extern "C" fn end_bio<T: FileSystem>(bio: *mut bindings::bio) {
    // May run in interrupt context.
    // SAFETY: The bio is that of an ioend of ours, which keeps the inode under writeback.
    unsafe {
        let ioend = bindings::vexfs_ioend_from_bio(bio);
        let pending = &raw mut (*storage::<T>((*ioend).io_inode)).ioends;
        let head = &(*pending).head;
        let mut first = head.load(Ordering::Relaxed);
        loop {
            (*ioend).io_list.next = first.cast();
            match head.compare_exchange_weak(first, ioend, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => first = now,
            }
        }
        // The one who made the list non-empty queues the work. Once pushed, the ioend may
        // be completed by a work item that is already running, so it is not touched again;
        // the inode stays until its work has run if we are to queue it.
        if first.is_null() {
            bindings::vexfs_queue_work(QUEUE.load(Ordering::Acquire), &raw mut (*pending).work);
        }
    }
}

/// The work of a [`Pending`].
///
/// # Safety
///
/// `work` is the field of a `Pending<T>` in the storage of an inode.
unsafe extern "C" fn complete<T: FileSystem>(work: *mut bindings::work_struct) {
    let _nofs = NoFs::enter();
    // SAFETY: The work is the field of a `Pending` in the storage of an inode which pages
    // under writeback keep until the last of its ioends is finished below.
    unsafe {
        let pending = work
            .cast::<u8>()
            .sub(core::mem::offset_of!(Pending<T>, work))
            .cast::<Pending<T>>();
        let taken = (*pending).head.swap(ptr::null_mut(), Ordering::Acquire);
        // Newest first on the list: turn it round.
        let mut next = ptr::null_mut::<bindings::iomap_ioend>();
        let mut at = taken;
        while !at.is_null() {
            let after = (*at).io_list.next.cast::<bindings::iomap_ioend>();
            (*at).io_list.next = next.cast();
            next = at;
            at = after;
        }
        while !next.is_null() {
            let ioend = next;
            next = (*ioend).io_list.next.cast();
            bindings::vexfs_ioend_isolate(ioend);
            // Until the ioend is finished its pages are under writeback and keep the inode.
            let inode = Inode::<T>::from_raw((*ioend).io_inode);
            let mut error = bindings::vexfs_ioend_error(ioend);
            if error == 0 {
                let unwritten = (*ioend).io_flags & bindings::IOMAP_IOEND_UNWRITTEN as u16 != 0;
                let done = T::written(
                    inode,
                    (*ioend).io_offset as u64,
                    (*ioend).io_size as u64,
                    unwritten,
                );
                error = crate::errno(done);
            }
            bindings::iomap_finish_ioends(ioend, error);
        }
    }
}

/// `iomap_dio_ops.end_io` of writes.
///
/// # Safety
///
/// `iocb` is for an open file of `T`; `size` bytes were written from its position on, or `error`
/// is set.
unsafe extern "C" fn direct_end<T: FileSystem>(
    iocb: *mut bindings::kiocb,
    size: isize,
    error: c_int,
    flags: c_uint,
) -> c_int {
    if error != 0 {
        return error;
    }
    if size <= 0 {
        return 0;
    }
    // SAFETY: iomap keeps the iocb and its file until this returns.
    unsafe {
        let inode = Inode::<T>::from_raw((*(*iocb).ki_filp).f_inode);
        let offset = (*iocb).ki_pos as u64;
        let end = offset + size as u64;
        let unwritten = flags & bindings::IOMAP_DIO_UNWRITTEN != 0;
        // A write that neither converts nor grows may complete in interrupt context and
        // has nothing to do here.
        if !unwritten && end <= inode.size() {
            return 0;
        }
        if end > inode.size() {
            // The inode's lock is held by the writer, who waits.
            inode.set_size(end);
        }
        crate::errno(T::written(inode, offset, size as u64, unwritten))
    }
}

/// `vm_operations_struct.page_mkwrite`.
///
/// # Safety
///
/// `vmf` is a write fault on a shared mapping of a file of `T`; its folio is not locked but
/// referenced.
unsafe extern "C" fn page_mkwrite<T: FileSystem>(
    vmf: *mut bindings::vm_fault,
) -> bindings::vm_fault_t {
    // SAFETY: The fault holds the file; mmap_lock is held or the vma is locked.
    unsafe {
        let file = bindings::vexfs_fault_file(vmf);
        let raw = (*file).f_inode;
        let inode = Inode::<T>::from_raw(raw);
        bindings::vexfs_sb_start_pagefault((*raw).i_sb);
        bindings::file_update_time(file);
        bindings::vexfs_invalidate_lock_shared(raw);
        // Blocks are allocated before the folio is locked, because that opens a
        // transaction. The lock just taken keeps truncate from taking them away again.
        let mut len = 0;
        let start = bindings::vexfs_fault_folio_pos(vmf, &mut len) as u64;
        let mut at = start;
        let end = (start + len as u64).min(inode.size());
        let mut result = Ok(());
        while at < end {
            match T::map_for_write(inode, at, end - at, false) {
                Ok(m) => at = m.offset.saturating_add(m.len),
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        let ret = match result {
            Ok(()) => bindings::iomap_page_mkwrite(vmf, Ops::<T>::WRITE, ptr::null_mut()),
            Err(e) => bindings::vexfs_vmf_error(e.to_errno()),
        };
        bindings::vexfs_invalidate_unlock_shared(raw);
        bindings::vexfs_sb_end_pagefault((*raw).i_sb);
        ret
    }
}

impl<T: FileSystem> Inode<T> {
    /// Zeroes bytes of the page cache where blocks are written; holes stay holes. The
    /// inode's lock is held. The range lies below the size.
    pub fn zero_range(&self, start: u64, len: u64) -> Result {
        // SAFETY: The caller holds the inode's lock.
        to_result(unsafe {
            bindings::iomap_zero_range(
                self.as_ptr(),
                start as i64,
                len as i64,
                ptr::null_mut(),
                Ops::<T>::WRITE,
                Ops::<T>::write_ops(),
                ptr::null_mut(),
            )
        })
    }

    /// Zeroes from `position` to the end of its block. The inode's lock is held.
    pub fn zero_block_tail(&self, position: u64) -> Result {
        // SAFETY: The caller holds the inode's lock.
        to_result(unsafe {
            bindings::iomap_truncate_page(
                self.as_ptr(),
                position as i64,
                ptr::null_mut(),
                Ops::<T>::WRITE,
                Ops::<T>::write_ops(),
                ptr::null_mut(),
            )
        })
    }
}
