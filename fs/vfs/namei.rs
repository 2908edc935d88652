// SPDX-License-Identifier: GPL-2.0

//! Operations on names: lookup, create, link, unlink, rename, symbolic links.
//!
//! The VFS holds the locks of the directories and inodes concerned as
//! `Documentation/filesystems/locking.rst` has it.
//!
//! C header: `linux/fs.h`, `struct inode_operations`.

use crate::bindings;
use crate::inode::{IRef, Inode};
use crate::new_inode::NewInode;
use crate::{attr, errno, FileSystem, Types};
use core::marker::PhantomData;
use kernel::prelude::*;

/// The id mapping of the mount an operation came through.
#[repr(transparent)]
pub struct Idmap(core::cell::UnsafeCell<bindings::mnt_idmap>);

impl Idmap {
    /// # Safety
    ///
    /// The mapping lives as long as the result is used.
    pub(crate) unsafe fn from_raw<'a>(idmap: *mut bindings::mnt_idmap) -> &'a Self {
        // SAFETY: repr(transparent), alive by the caller's promise.
        unsafe { &*idmap.cast() }
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::mnt_idmap {
        self.0.get()
    }
}

/// What create, mkdir, mknod and symlink make.
pub struct Make<'a> {
    /// The new name.
    pub name: &'a [u8],
    /// Type and permission bits.
    pub mode: u16,
    /// Device number of a special file.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Option<&'a [u8]>,
}

/// `RENAME_NOREPLACE`: the VFS has seen to it.
pub const RENAME_NOREPLACE: u32 = bindings::RENAME_NOREPLACE;
/// `RENAME_EXCHANGE`.
pub const RENAME_EXCHANGE: u32 = bindings::RENAME_EXCHANGE;

/// One side of a rename.
pub struct Side<'a, T: FileSystem> {
    /// The directory.
    pub dir: &'a Inode<T>,
    /// The name in it.
    pub name: &'a [u8],
    /// What the name stands for, if anything.
    pub inode: Option<&'a Inode<T>>,
}

/// Operations on names.
pub trait Names: Types {
    /// The inode a name stands for.
    fn lookup(dir: &Inode<Self>, name: &[u8]) -> Result<Option<IRef<Self>>>
    where
        Self: FileSystem;
    /// Makes a file of any type under a name that does not exist.
    fn make(idmap: &Idmap, dir: &Inode<Self>, make: &Make<'_>) -> Result<NewInode<Self>>
    where
        Self: FileSystem;
    /// Makes a regular file without a name.
    fn make_tmpfile(idmap: &Idmap, dir: &Inode<Self>, mode: u16) -> Result<NewInode<Self>>
    where
        Self: FileSystem;
    /// Adds a name for an inode.
    fn link(inode: &Inode<Self>, dir: &Inode<Self>, name: &[u8]) -> Result
    where
        Self: FileSystem;
    /// Removes a name of a file that is not a directory.
    fn unlink(dir: &Inode<Self>, name: &[u8], inode: &Inode<Self>) -> Result
    where
        Self: FileSystem;
    /// Removes an empty directory.
    fn rmdir(dir: &Inode<Self>, name: &[u8], inode: &Inode<Self>) -> Result
    where
        Self: FileSystem;
    /// Renames or exchanges.
    fn rename(from: &Side<'_, Self>, to: &Side<'_, Self>, flags: u32) -> Result
    where
        Self: FileSystem;
    /// Reads a symbolic link's target into `buffer`, returning its length.
    fn read_link(inode: &Inode<Self>, buffer: &mut [u8]) -> Result<usize>
    where
        Self: FileSystem;
}

/// Longest target of a symbolic link, without the NUL.
pub const TARGET_MAX: usize = 4095;

pub(crate) struct DirOps<T>(PhantomData<T>);

impl<T: FileSystem> DirOps<T> {
    pub(crate) const INODE: &'static bindings::inode_operations = &bindings::inode_operations {
        lookup: Some(lookup::<T>),
        create: Some(create::<T>),
        link: Some(link::<T>),
        unlink: Some(unlink::<T>),
        symlink: Some(symlink::<T>),
        mkdir: Some(mkdir::<T>),
        rmdir: Some(rmdir::<T>),
        mknod: Some(mknod::<T>),
        rename: Some(rename::<T>),
        tmpfile: Some(tmpfile::<T>),
        setattr: Some(attr::setattr::<T>),
        getattr: Some(attr::getattr::<T>),
        ..pin_init::zeroed()
    };

    pub(crate) const SYMLINK: &'static bindings::inode_operations = &bindings::inode_operations {
        get_link: Some(get_link::<T>),
        setattr: Some(attr::setattr::<T>),
        getattr: Some(attr::getattr::<T>),
        ..pin_init::zeroed()
    };
}

/// # Safety
///
/// The dentry is valid and its name stable, as the VFS guarantees for the dentries of
/// operations that hold the parent's lock, for as long as the result is used.
unsafe fn name<'a>(dentry: *mut bindings::dentry) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: Valid and stable by the caller's promise.
    unsafe {
        let name = bindings::vexfs_dentry_name(dentry, &mut len);
        core::slice::from_raw_parts(name, len)
    }
}

/// # Safety
///
/// As for [`name`]; the inode, if any, is kept by the dentry.
unsafe fn inode_of<'a, T: FileSystem>(dentry: *mut bindings::dentry) -> Option<&'a Inode<T>> {
    // SAFETY: Valid by the caller's promise.
    unsafe {
        let inode = (*dentry).d_inode;
        (!inode.is_null()).then(|| Inode::from_raw(inode))
    }
}

/// `inode_operations.lookup`.
///
/// # Safety
///
/// `dir` is a locked directory of `T` and `dentry` a new name in it, both held by the caller.
unsafe extern "C" fn lookup<T: FileSystem>(
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    _flags: c_uint,
) -> *mut bindings::dentry {
    // SAFETY: The VFS holds the directory and the dentry for the call; the same for all
    // callbacks below.
    let result = unsafe { T::lookup(Inode::from_raw(dir), name(dentry)) };
    let inode = match result {
        Ok(Some(inode)) => inode.into_raw(),
        Ok(None) => core::ptr::null_mut(),
        Err(e) => e.to_ptr(),
    };
    // SAFETY: The reference is given to d_splice_alias, which handles null and errors too.
    unsafe { bindings::d_splice_alias(inode, dentry) }
}

/// # Safety
///
/// Arguments of a create-like callback.
unsafe fn make<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: u16,
    rdev: u32,
    target: Option<&[u8]>,
) -> Result {
    // SAFETY: By the caller's promise.
    let (idmap, dir, name) = unsafe {
        (
            Idmap::from_raw(idmap),
            Inode::<T>::from_raw(dir),
            name(dentry),
        )
    };
    let inode = T::make(
        idmap,
        dir,
        &Make {
            name,
            mode,
            rdev,
            target,
        },
    )?;
    // SAFETY: The dentry is negative and the inode new; the reference goes to the dentry.
    unsafe { bindings::d_instantiate_new(dentry, inode.into_new_raw()) };
    Ok(())
}

/// `inode_operations.create`.
///
/// # Safety
///
/// `dir` is a directory of `T` locked for writing, `dentry` a negative name in it and `idmap` the
/// mount's; the caller holds them all.
unsafe extern "C" fn create<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
) -> c_int {
    // SAFETY: Arguments of create.
    errno(unsafe { make::<T>(idmap, dir, dentry, mode, 0, None) })
}

/// `inode_operations.mknod`.
///
/// # Safety
///
/// As for [`create`].
unsafe extern "C" fn mknod<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
    rdev: bindings::dev_t,
) -> c_int {
    // SAFETY: Arguments of mknod.
    errno(unsafe { make::<T>(idmap, dir, dentry, mode, rdev, None) })
}

/// `inode_operations.mkdir`.
///
/// # Safety
///
/// As for [`create`].
unsafe extern "C" fn mkdir<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
) -> *mut bindings::dentry {
    let mode = mode | crate::inode::mode::DIRECTORY;
    // SAFETY: Arguments of mkdir.
    match unsafe { make::<T>(idmap, dir, dentry, mode, 0, None) } {
        Ok(()) => core::ptr::null_mut(),
        Err(e) => e.to_ptr(),
    }
}

/// `inode_operations.symlink`.
///
/// # Safety
///
/// As for [`create`], and `target` is NUL-terminated.
unsafe extern "C" fn symlink<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    target: *const c_char,
) -> c_int {
    // SAFETY: The target is NUL-terminated and lives for the call.
    let target = unsafe { kernel::str::CStr::from_char_ptr(target) }.to_bytes();
    let mode = crate::inode::mode::SYMLINK | 0o777;
    // SAFETY: Arguments of symlink.
    errno(unsafe { make::<T>(idmap, dir, dentry, mode, 0, Some(target)) })
}

/// `inode_operations.tmpfile`.
///
/// # Safety
///
/// `dir` is a directory of `T` and `idmap` the mount's, both held by the caller, who is opening
/// `file`.
unsafe extern "C" fn tmpfile<T: FileSystem>(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    file: *mut bindings::file,
    mode: bindings::umode_t,
) -> c_int {
    // SAFETY: Arguments of tmpfile.
    let result = unsafe { T::make_tmpfile(Idmap::from_raw(idmap), Inode::from_raw(dir), mode) };
    let error = match result {
        Ok(inode) => {
            let inode = inode.into_new_raw();
            // SAFETY: d_tmpfile takes over the reference; the inode is complete.
            unsafe {
                bindings::d_tmpfile(file, inode);
                bindings::unlock_new_inode(inode);
            }
            0
        }
        Err(e) => e.to_errno(),
    };
    // SAFETY: The file is being opened by this call.
    unsafe { bindings::vexfs_finish_open_simple(file, error) }
}

/// `inode_operations.link`.
///
/// # Safety
///
/// `old` is a positive dentry of `T` with its inode locked, `new` a negative one in the locked
/// directory `dir`; the caller holds them all.
unsafe extern "C" fn link<T: FileSystem>(
    old: *mut bindings::dentry,
    dir: *mut bindings::inode,
    new: *mut bindings::dentry,
) -> c_int {
    // SAFETY: Arguments of link; the old dentry is positive.
    let (inode, dir, name) = unsafe {
        (
            Inode::<T>::from_raw((*old).d_inode),
            Inode::from_raw(dir),
            name(new),
        )
    };
    errno(T::link(inode, dir, name).map(|()| {
        // SAFETY: The dentry is negative; it gets a reference of its own.
        unsafe { bindings::d_instantiate(new, inode.hold().into_raw()) }
    }))
}

/// `inode_operations.unlink`.
///
/// # Safety
///
/// `dentry` is a positive name in the directory `dir` of `T`; directory and inode are locked and
/// held by the caller.
unsafe extern "C" fn unlink<T: FileSystem>(
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
) -> c_int {
    // SAFETY: Arguments of unlink; the dentry is positive.
    errno(unsafe {
        T::unlink(
            Inode::from_raw(dir),
            name(dentry),
            Inode::from_raw((*dentry).d_inode),
        )
    })
}

/// `inode_operations.rmdir`.
///
/// # Safety
///
/// As for [`unlink`], and the inode is a directory.
unsafe extern "C" fn rmdir<T: FileSystem>(
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
) -> c_int {
    // SAFETY: Arguments of rmdir; the dentry is positive.
    errno(unsafe {
        T::rmdir(
            Inode::from_raw(dir),
            name(dentry),
            Inode::from_raw((*dentry).d_inode),
        )
    })
}

/// `inode_operations.rename`.
///
/// # Safety
///
/// `old` is a positive name in `old_dir` and `new` any name in `new_dir`, directories of `T`; the
/// caller holds all locks that `vfs_rename` takes.
unsafe extern "C" fn rename<T: FileSystem>(
    _idmap: *mut bindings::mnt_idmap,
    old_dir: *mut bindings::inode,
    old: *mut bindings::dentry,
    new_dir: *mut bindings::inode,
    new: *mut bindings::dentry,
    flags: c_uint,
) -> c_int {
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 {
        return EINVAL.to_errno();
    }
    // SAFETY: Arguments of rename, with all the locks that go with it.
    let (from, to) = unsafe {
        (
            Side {
                dir: Inode::<T>::from_raw(old_dir),
                name: name(old),
                inode: inode_of(old),
            },
            Side {
                dir: Inode::from_raw(new_dir),
                name: name(new),
                inode: inode_of(new),
            },
        )
    };
    errno(T::rename(&from, &to, flags))
}

/// `inode_operations.get_link`.
///
/// # Safety
///
/// `inode` is a symbolic link of `T`; if `dentry` is not null, the caller holds it. `done` is the
/// caller's, to be run after the target was used.
unsafe extern "C" fn get_link<T: FileSystem>(
    dentry: *mut bindings::dentry,
    inode: *mut bindings::inode,
    done: *mut bindings::delayed_call,
) -> *const c_char {
    if dentry.is_null() {
        // A walk under RCU must not sleep: the VFS comes again with a reference.
        return ECHILD.to_ptr();
    }
    let read = || -> Result<*const c_char> {
        let mut buffer = KVec::from_elem(0u8, TARGET_MAX + 1, GFP_KERNEL)?;
        // SAFETY: Not under RCU, so the VFS holds the inode.
        let inode = unsafe { Inode::<T>::from_raw(inode) };
        let len = T::read_link(inode, buffer.get_mut(..TARGET_MAX).ok_or(EINVAL)?)?;
        *buffer.get_mut(len).ok_or(EUCLEAN)? = 0;
        let (ptr, _, _) = buffer.into_raw_parts();
        // SAFETY: `done` is the caller's; the memory came from kmalloc and is freed by it.
        unsafe { bindings::vexfs_set_delayed_kfree(done, ptr.cast()) };
        Ok(ptr.cast())
    };
    match read() {
        Ok(target) => target,
        Err(e) => e.to_ptr(),
    }
}
