// SPDX-License-Identifier: GPL-2.0

//! Operations on attributes: stat, chmod, chown, utimes, truncate, fiemap.
//!
//! C header: `linux/fs.h`, `struct inode_operations`.

use crate::bindings;
use crate::inode::{Inode, Time};
use crate::{errno, iomap, FileSystem, Types};
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::prelude::*;

/// Operations on attributes.
pub trait Attributes: Types {
    /// Changes the size. The inode's lock is held and no direct I/O is under way.
    fn set_size(inode: &Inode<Self>, size: u64) -> Result
    where
        Self: FileSystem;
    /// Records changed owner, mode and times.
    fn attributes_changed(inode: &Inode<Self>) -> Result
    where
        Self: FileSystem;
    /// Creation time.
    fn birth_time(inode: &Inode<Self>) -> Time
    where
        Self: FileSystem;
    /// Granularity of direct I/O in bytes: memory, file offset.
    fn direct_io_alignment(inode: &Inode<Self>) -> (u32, u32)
    where
        Self: FileSystem;
}

pub(crate) struct Ops<T>(PhantomData<T>);

impl<T: FileSystem> Ops<T> {
    pub(crate) const REGULAR: &'static bindings::inode_operations = &bindings::inode_operations {
        setattr: Some(setattr::<T>),
        getattr: Some(getattr::<T>),
        fiemap: Some(iomap::fiemap::<T>),
        ..pin_init::zeroed()
    };

    pub(crate) const SPECIAL: &'static bindings::inode_operations = &bindings::inode_operations {
        setattr: Some(setattr::<T>),
        getattr: Some(getattr::<T>),
        ..pin_init::zeroed()
    };
}

/// `inode_operations.setattr`.
///
/// # Safety
///
/// `dentry` is a positive dentry of `T` with its inode locked for writing; the caller keeps it,
/// `idmap` and `attr`.
pub(crate) unsafe extern "C" fn setattr<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dentry: *mut bindings::dentry,
    attr: *mut bindings::iattr,
) -> c_int {
    errno((|| {
        // SAFETY: The VFS holds the inode's lock and keeps all arguments for the call.
        let (raw, valid) = unsafe { ((*dentry).d_inode, (*attr).ia_valid) };
        // SAFETY: As above.
        to_result(unsafe { bindings::setattr_prepare(idmap, dentry, attr) })?;
        // SAFETY: As above.
        let inode = unsafe { Inode::<T>::from_raw(raw) };
        if valid & bindings::ATTR_SIZE != 0 {
            // SAFETY: As above.
            let size = unsafe { (*attr).ia_size } as u64;
            inode.wait_for_direct_io();
            T::set_size(inode, size)?;
        }
        // SAFETY: As above.
        unsafe { bindings::setattr_copy(idmap, raw, attr) };
        T::attributes_changed(inode)
    })())
}

/// `inode_operations.getattr`.
///
/// # Safety
///
/// `path` is that of a positive dentry of `T`, which the caller keeps with `idmap`; `stat` is the
/// caller's to fill.
pub(crate) unsafe extern "C" fn getattr<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    path: *const bindings::path,
    stat: *mut bindings::kstat,
    request_mask: u32,
    _flags: c_uint,
) -> c_int {
    // SAFETY: The VFS keeps the path and gives a buffer to fill.
    unsafe {
        let raw = (*(*path).dentry).d_inode;
        let inode = Inode::<T>::from_raw(raw);
        bindings::generic_fillattr(idmap, request_mask, raw, stat);
        let birth = T::birth_time(inode);
        (*stat).btime = birth.into();
        (*stat).result_mask |= bindings::STATX_BTIME;
        if request_mask & bindings::STATX_DIOALIGN != 0 && inode.is_regular() {
            let (memory, offset) = T::direct_io_alignment(inode);
            (*stat).dio_mem_align = memory;
            (*stat).dio_offset_align = offset;
            (*stat).result_mask |= bindings::STATX_DIOALIGN;
        }
    }
    0
}
