// SPDX-License-Identifier: GPL-2.0

//! The memory of inodes: the filesystem's node beside each `struct inode`, and the slab cache both come from.
//!
//! C headers: `linux/fs.h`, `linux/slab.h`.

use crate::bindings;
use crate::{iomap, FileSystem};
use core::marker::PhantomData;
use core::mem::{offset_of, MaybeUninit};
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::prelude::*;

#[repr(C)]
pub(crate) struct Storage<T: FileSystem> {
    inode: bindings::inode,
    pub(crate) ioends: iomap::Pending<T>,
    // Initialised from `alloc` to `destroy`.
    node: MaybeUninit<T::Node>,
}

/// The slab cache of inodes.
pub(crate) struct Cache<T: FileSystem>(PhantomData<T>);

// One module registers one filesystem, so one cache. It is set before the type is registered
// and cleared after it is unregistered and all RCU-delayed frees are done.
static CACHE: AtomicPtr<bindings::kmem_cache> = AtomicPtr::new(core::ptr::null_mut());

impl<T: FileSystem> Cache<T> {
    pub(crate) fn new() -> Result<Self> {
        let size = u32::try_from(size_of::<Storage<T>>())?;
        // SAFETY: The constructor initialises what `inode_init_once` wants.
        let cache = unsafe {
            bindings::vexfs_inode_cache_create(
                kernel::str::CStrExt::as_char_ptr(c"vexfs_inode_cache"),
                size,
                Some(construct::<T>),
            )
        };
        if cache.is_null() {
            return Err(ENOMEM);
        }
        if CACHE
            .compare_exchange(
                core::ptr::null_mut(),
                cache,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_err()
        {
            // SAFETY: Just made, and empty.
            unsafe { bindings::kmem_cache_destroy(cache) };
            return Err(EBUSY);
        }
        Ok(Cache(PhantomData))
    }

    /// Waits until inodes freed under RCU are back in the cache.
    pub(crate) fn quiesce(&self) {
        // SAFETY: No preconditions.
        unsafe { bindings::rcu_barrier() };
    }
}

impl<T: FileSystem> Drop for Cache<T> {
    fn drop(&mut self) {
        self.quiesce();
        let cache = CACHE.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: The cache was made in `new`, and is empty: the filesystem is unregistered
        // and pending frees are done.
        unsafe { bindings::kmem_cache_destroy(cache) };
    }
}

/// Constructor of the inode cache.
///
/// # Safety
///
/// `object` points to a new object of the cache, with room for a `Storage<T>`.
unsafe extern "C" fn construct<T: FileSystem>(object: *mut c_void) {
    // SAFETY: The slab allocator passes a new object of the cache's size.
    unsafe { bindings::inode_init_once(&raw mut (*object.cast::<Storage<T>>()).inode) }
}

/// `super_operations.alloc_inode`.
///
/// # Safety
///
/// `sb` is a superblock of `T`, and so the [`Cache`] exists.
pub(crate) unsafe extern "C" fn alloc<T: FileSystem>(
    sb: *mut bindings::super_block,
) -> *mut bindings::inode {
    // SAFETY: The cache exists while the filesystem is registered; objects have room for a
    // `Storage<T>`. The node is initialised in place and never moved, so it may be pinned.
    unsafe {
        let storage =
            bindings::vexfs_alloc_inode(sb, CACHE.load(Ordering::Acquire)).cast::<Storage<T>>();
        if storage.is_null() {
            return core::ptr::null_mut();
        }
        iomap::Pending::<T>::init(&raw mut (*storage).ioends);
        let node = (&raw mut (*storage).node).cast::<T::Node>();
        if pin_init::raw_try_init(node, T::node()).is_err() {
            bindings::kmem_cache_free(CACHE.load(Ordering::Acquire), storage.cast());
            return core::ptr::null_mut();
        }
        &raw mut (*storage).inode
    }
}

/// `super_operations.destroy_inode`.
///
/// # Safety
///
/// `inode` came from [`alloc`] and has no reference left; called once.
pub(crate) unsafe extern "C" fn destroy<T: FileSystem>(inode: *mut bindings::inode) {
    // Called once the inode is out of the hash and has no reference: no `&T::Node` is left,
    // and walkers under RCU do not look at the node. It may hold memory that wants a
    // sleeping context to be freed, so it goes here and not in `free`.
    // SAFETY: Initialised in `alloc`, dropped once.
    unsafe { core::ptr::drop_in_place(node::<T>(inode)) }
}

/// `super_operations.free_inode`.
///
/// # Safety
///
/// `inode` went through [`destroy`], and an RCU period has passed since; called once.
pub(crate) unsafe extern "C" fn free<T: FileSystem>(inode: *mut bindings::inode) {
    // SAFETY: The object came from this cache, and its RCU period is over.
    unsafe { bindings::kmem_cache_free(CACHE.load(Ordering::Acquire), storage::<T>(inode).cast()) }
}

/// What lies around an inode of `T`.
pub(crate) fn storage<T: FileSystem>(inode: *mut bindings::inode) -> *mut Storage<T> {
    inode
        .cast::<u8>()
        .wrapping_sub(offset_of!(Storage<T>, inode))
        .cast()
}

/// The node beside an inode, initialised from [`alloc`] to [`destroy`].
pub(crate) fn node<T: FileSystem>(inode: *mut bindings::inode) -> *mut T::Node {
    storage::<T>(inode)
        .cast::<u8>()
        .wrapping_add(offset_of!(Storage<T>, node))
        .cast()
}
