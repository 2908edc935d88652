// SPDX-License-Identifier: GPL-2.0

//! Registration of the file_system_type, and mounting through the fs_context API.
//!
//! C headers: `linux/fs_context.h`, `linux/fs_parser.h`.

use crate::bindings;
use crate::super_block::{self, SuperBlock};
use crate::{errno, inode_cache, FileSystem};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::ForeignOwnable;

// The object holds lock classes, which lockdep wants in static memory. One module registers
// one filesystem.
struct Static(UnsafeCell<bindings::file_system_type>);

// SAFETY: Written once by `Registration::new`, before it is registered and under `TAKEN`; the
// VFS locks what it changes afterwards.
unsafe impl Sync for Static {}

static FS_TYPE: Static = Static(UnsafeCell::new(pin_init::zeroed()));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A registered filesystem type; dropping it unregisters.
///
/// # Invariants
///
/// `FS_TYPE` is registered, and `TAKEN` is set.
pub struct Registration<T: FileSystem> {
    cache: inode_cache::Cache<T>,
}

impl<T: FileSystem> Registration<T> {
    /// Registers `T`. `EBUSY` if this module has a filesystem registered.
    pub fn new(module: &'static ThisModule) -> Result<Self> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(EBUSY);
        }
        let result = Self::register(module);
        if result.is_err() {
            TAKEN.store(false, Ordering::Release);
        }
        result
    }

    fn register(module: &'static ThisModule) -> Result<Self> {
        let cache = inode_cache::Cache::<T>::new()?;
        let fs = FS_TYPE.0.get();
        // SAFETY: `TAKEN` makes this the only writer, and the object is not registered.
        unsafe {
            (*fs).owner = module.as_ptr();
            (*fs).name = T::NAME.as_char_ptr();
            (*fs).fs_flags = (bindings::FS_REQUIRES_DEV | bindings::FS_MGTIME) as c_int;
            (*fs).init_fs_context = Some(init_fs_context::<T>);
            (*fs).kill_sb = Some(kill_sb::<T>);
        }
        // SAFETY: Static memory, so it stays until `drop` unregisters it.
        to_result(unsafe { bindings::register_filesystem(fs) })?;
        Ok(Registration { cache })
    }
}

impl<T: FileSystem> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: Registered by the type invariant. The module cannot unload while mounts
        // hold it, so no superblock is left.
        unsafe { bindings::unregister_filesystem(FS_TYPE.0.get()) };
        TAKEN.store(false, Ordering::Release);
        // The cache goes after this, when no inode can be made any more.
        self.cache.quiesce();
    }
}

struct Context<T: FileSystem> {
    options: ManuallyDrop<T::Options>,
}

struct Ops<T>(PhantomData<T>);

impl<T: FileSystem> Ops<T> {
    const CONTEXT: &'static bindings::fs_context_operations = &bindings::fs_context_operations {
        free: Some(free::<T>),
        parse_param: Some(parse_param::<T>),
        get_tree: Some(get_tree::<T>),
        reconfigure: Some(reconfigure::<T>),
        dup: None,
        parse_monolithic: None,
    };
}

/// `file_system_type.init_fs_context`.
///
/// # Safety
///
/// `fc` is a context under construction, for filesystem `T`.
unsafe extern "C" fn init_fs_context<T: FileSystem>(
    fc: *mut kernel::bindings::fs_context,
) -> c_int {
    // Opaque in the kernel crate.
    let fc = fc.cast::<bindings::fs_context>();
    errno((|| {
        let context = KBox::new(
            Context::<T> {
                options: ManuallyDrop::new(T::Options::default()),
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The VFS passes a context under construction, ours to fill.
        unsafe {
            (*fc).fs_private = context.into_foreign().cast();
            (*fc).ops = Ops::<T>::CONTEXT;
        }
        Ok(())
    })())
}

/// `fs_context_operations.free`.
///
/// # Safety
///
/// `fc` is a context of `T`; this is the last call on it.
unsafe extern "C" fn free<T: FileSystem>(fc: *mut bindings::fs_context) {
    // SAFETY: fs_private is null or the box made in `init_fs_context`; the VFS calls this once.
    unsafe {
        let private = (*fc).fs_private;
        if !private.is_null() {
            let mut context = KBox::<Context<T>>::from_foreign(private.cast());
            ManuallyDrop::drop(&mut context.options);
            (*fc).fs_private = core::ptr::null_mut();
        }
    }
}

/// `fs_context_operations.parse_param`.
///
/// # Safety
///
/// [`init_fs_context`] succeeded on `fc`; nobody else uses it or `param` during the call.
unsafe extern "C" fn parse_param<T: FileSystem>(
    fc: *mut bindings::fs_context,
    param: *mut bindings::fs_parameter,
) -> c_int {
    // SAFETY: The VFS serialises calls on a context and passes a valid parameter, whose
    // strings are NUL-terminated and live for the call.
    let (options, key, value) = unsafe {
        let context = (*fc).fs_private.cast::<Context<T>>();
        let key = bindings::vexfs_param_key(param);
        let value = bindings::vexfs_param_string(param);
        (
            &mut *(*context).options,
            kernel::str::CStr::from_char_ptr(key).to_bytes(),
            (!value.is_null()).then(|| kernel::str::CStr::from_char_ptr(value).to_bytes()),
        )
    };
    match T::parse_option(options, key, value) {
        Ok(true) => 0,
        // The VFS handles `source` and the generic flags itself.
        Ok(false) => ENOPARAM.to_errno(),
        Err(e) => e.to_errno(),
    }
}

/// `fs_context_operations.get_tree`.
///
/// # Safety
///
/// [`init_fs_context`] succeeded on `fc`, and it is for a new mount.
unsafe extern "C" fn get_tree<T: FileSystem>(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The context is valid, and fill_super has the type that the VFS expects.
    unsafe { bindings::get_tree_bdev(fc.cast(), Some(fill_super::<T>)) }
}

/// What `get_tree_bdev` calls on a new superblock.
///
/// # Safety
///
/// `sb` is a new superblock with its device open, which nobody else uses yet; [`init_fs_context`]
/// succeeded on `fc`.
unsafe extern "C" fn fill_super<T: FileSystem>(
    sb: *mut bindings::super_block,
    fc: *mut bindings::fs_context,
) -> c_int {
    // SAFETY: The VFS passes a new superblock with its device open, exclusively ours, and
    // the context that `init_fs_context` prepared.
    let (sb, options) = unsafe {
        let context = (*fc).fs_private.cast::<Context<T>>();
        (
            SuperBlock::<T>::from_raw(sb),
            core::mem::take(&mut *(*context).options),
        )
    };
    match super_block::fill(sb, options) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// `fs_context_operations.reconfigure`.
///
/// # Safety
///
/// [`init_fs_context`] succeeded on `fc`, whose root is a dentry of a live superblock of `T` with
/// `s_umount` held.
unsafe extern "C" fn reconfigure<T: FileSystem>(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: For reconfiguration the context carries the root dentry of a live superblock.
    let (sb, options, read_only) = unsafe {
        let context = (*fc).fs_private.cast::<Context<T>>();
        let sb = (*(*fc).root).d_sb;
        (
            SuperBlock::<T>::from_raw(sb),
            core::mem::take(&mut *(*context).options),
            (*fc).sb_flags & bindings::vexfs_sb_rdonly_flag as c_uint != 0,
        )
    };
    // SAFETY: The superblock is alive and s_umount is held, as reconfigure demands.
    let sync = unsafe { bindings::sync_filesystem(sb.as_ptr()) };
    errno(to_result(sync).and_then(|()| T::reconfigure(sb, options, read_only)))
}

/// `file_system_type.kill_sb`.
///
/// # Safety
///
/// `sb` is a superblock of `T` without users, [`fill_super`] may have failed on it; called once.
unsafe extern "C" fn kill_sb<T: FileSystem>(sb: *mut bindings::super_block) {
    // s_fs_info may be read until the superblock is shut down, so it goes afterwards.
    // SAFETY: The VFS passes a superblock it is done with. With s_fs_info it is one that `fill_super`
    // has got far enough with.
    unsafe {
        let volume = (*sb).s_fs_info;
        if !volume.is_null() {
            T::before_shutdown(SuperBlock::from_raw(sb));
        }
        bindings::kill_block_super(sb);
        super_block::drop_volume::<T>(volume);
    }
}
