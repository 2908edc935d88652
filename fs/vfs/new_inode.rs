// SPDX-License-Identifier: GPL-2.0

//! Inodes that begin: read from disk or made, filled while nobody else sees them, then published.
//!
//! C header: `linux/fs.h`.

use crate::bindings;
use crate::inode::{mode, IRef, Inode, Time};
use crate::super_block::SuperBlock;
use crate::{attr, file, iomap, namei, FileSystem};
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::prelude::*;

/// What an inode starts with, whether read or made.
pub struct Fields {
    /// Type and permission bits.
    pub mode: u16,
    /// Owner and group, `None` to take them from the current task and the directory.
    pub owner: Option<(u32, u32)>,
    /// Links.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Disk space in bytes.
    pub disk_bytes: u64,
    /// Device number of a special file.
    pub rdev: u32,
    /// Generation.
    pub generation: u32,
    /// Access, data change and inode change times; `None` for now.
    pub times: Option<[Time; 3]>,
}

/// An inode that nobody else sees yet: it is hashed and marked new.
///
/// # Invariants
///
/// Holds one count of an inode in state I_NEW. Dropping it makes the inode bad and gone.
pub struct NewInode<T: FileSystem>(NonNull<Inode<T>>);

impl<T: FileSystem> Deref for NewInode<T> {
    type Target = Inode<T>;

    fn deref(&self) -> &Inode<T> {
        // SAFETY: The count keeps the inode alive.
        unsafe { self.0.as_ref() }
    }
}

impl<T: FileSystem> NewInode<T> {
    /// Sets the fields and the operations that go with the type of the file.
    ///
    /// # Errors
    ///
    /// `EUCLEAN` for a mode that is no file type.
    pub fn set_fields(&self, fields: &Fields) -> Result {
        let raw = self.as_ptr();
        // SAFETY: The inode is new: no other task touches its fields.
        unsafe {
            (*raw).i_mode = fields.mode;
            if let Some((uid, gid)) = fields.owner {
                bindings::vexfs_i_uid_write(raw, uid);
                bindings::vexfs_i_gid_write(raw, gid);
            }
            (*raw).i_generation = fields.generation;
            if fields.nlink == 0 {
                bindings::clear_nlink(raw);
            } else {
                bindings::set_nlink(raw, fields.nlink);
            }
            bindings::vexfs_i_size_write(raw, fields.size as i64);
            bindings::inode_set_bytes(raw, fields.disk_bytes as i64);
            match fields.times {
                Some([atime, mtime, ctime]) => {
                    bindings::vexfs_inode_set_atime(raw, atime.into());
                    bindings::vexfs_inode_set_mtime(raw, mtime.into());
                    bindings::inode_set_ctime_to_ts(raw, ctime.into());
                }
                None => {
                    bindings::simple_inode_init_ts(raw);
                }
            }
            match fields.mode & mode::TYPE {
                mode::DIRECTORY => {
                    (*raw).i_op = namei::DirOps::<T>::INODE;
                    bindings::vexfs_inode_set_fop(raw, file::Ops::<T>::DIRECTORY);
                }
                mode::REGULAR => {
                    (*raw).i_op = attr::Ops::<T>::REGULAR;
                    bindings::vexfs_inode_set_fop(raw, file::Ops::<T>::REGULAR);
                    (*raw).i_data.a_ops = iomap::Ops::<T>::ADDRESS_SPACE;
                    bindings::vexfs_inode_init_page_cache(raw, true);
                }
                mode::SYMLINK => {
                    (*raw).i_op = namei::DirOps::<T>::SYMLINK;
                }
                0o010000 | 0o020000 | 0o060000 | 0o140000 => {
                    (*raw).i_op = attr::Ops::<T>::SPECIAL;
                    bindings::init_special_inode(raw, fields.mode, fields.rdev);
                }
                _ => return Err(EUCLEAN),
            }
        }
        Ok(())
    }

    /// Takes owner and group from the current task and `dir`, and the setgid bit with them.
    pub fn inherit_owner(&self, idmap: &namei::Idmap, dir: &Inode<T>, mode: u16) -> u16 {
        // SAFETY: The inode is new; idmap and dir are alive for the callback.
        unsafe {
            bindings::inode_init_owner(idmap.as_ptr(), self.as_ptr(), dir.as_ptr(), mode);
            (*self.as_ptr()).i_mode
        }
    }

    /// Lets others see the inode.
    pub fn publish(self) -> IRef<T> {
        let raw = self.as_ptr();
        core::mem::forget(self);
        // SAFETY: New by the type invariant, and complete.
        unsafe {
            bindings::unlock_new_inode(raw);
            IRef::from_raw(raw)
        }
    }

    /// Lets others see the inode under the dentry of a create.
    pub(crate) fn into_new_raw(self) -> *mut bindings::inode {
        let raw = self.as_ptr();
        core::mem::forget(self);
        raw
    }
}

impl<T: FileSystem> Drop for NewInode<T> {
    fn drop(&mut self) {
        // SAFETY: New by the type invariant: nobody has used it, so it can be made bad.
        unsafe { bindings::iget_failed(self.as_ptr()) }
    }
}

/// An inode found in the cache, or one to fill.
pub enum Got<T: FileSystem> {
    /// It was there.
    Cached(IRef<T>),
    /// The caller reads it and publishes it.
    New(NewInode<T>),
}

impl<T: FileSystem> SuperBlock<T> {
    /// Looks inode `ino` up in the cache, or starts it.
    pub fn iget(&self, ino: u64) -> Result<Got<T>> {
        // SAFETY: The superblock is alive.
        let raw = unsafe { bindings::iget_locked(self.as_ptr(), ino) };
        let inode = NonNull::new(raw).ok_or(ENOMEM)?.cast();
        // SAFETY: The inode carries a count for us.
        if unsafe { bindings::vexfs_inode_is_new(raw) } {
            Ok(Got::New(NewInode(inode)))
        } else {
            // SAFETY: As above.
            Ok(Got::Cached(unsafe { IRef::from_raw(raw) }))
        }
    }

    /// Inode `ino`, if it is in the cache.
    pub fn find_cached(&self, ino: u64) -> Option<IRef<T>> {
        // SAFETY: The superblock is alive; the result is null or carries a count for us.
        unsafe {
            let raw = bindings::ilookup(self.as_ptr(), ino);
            (!raw.is_null()).then(|| IRef::from_raw(raw))
        }
    }

    /// An inode for number `ino`, which was just allocated on disk. `EUCLEAN` if the cache
    /// has one of that number: the allocation bitmap is wrong then.
    pub fn new_inode(&self, ino: u64) -> Result<NewInode<T>> {
        // SAFETY: The superblock is alive.
        let raw = unsafe { bindings::new_inode(self.as_ptr()) };
        let inode = NonNull::new(raw).ok_or(ENOMEM)?.cast();
        // SAFETY: The inode is ours alone.
        unsafe {
            (*raw).i_ino = ino;
            if bindings::insert_inode_locked(raw) < 0 {
                bindings::iput(raw);
                return Err(EUCLEAN);
            }
        }
        Ok(NewInode(inode))
    }
}
