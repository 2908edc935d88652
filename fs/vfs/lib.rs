// SPDX-License-Identifier: GPL-2.0

//! Safe Rust over the parts of the VFS, iomap, jbd2 and the buffer cache that a
//! journalling filesystem needs. Nothing here knows what VexFS is: a filesystem
//! implements [`FileSystem`] and its parts, and this crate turns the C callbacks into
//! calls of those methods.
//!
//! ```text
//! mount.rs        file_system_type, fs_context, mount options
//! super_block.rs  super_operations, SuperBlock
//! inode.rs        struct inode, its locks and references
//! inode_cache.rs  the slab cache of inodes, with the filesystem's own node in each
//! new_inode.rs    inodes that are read or made
//! namei.rs        inode_operations: names
//! attr.rs         inode_operations: attributes
//! file.rs         file_operations: regular files and directories
//! iomap.rs        address_space_operations, iomap, writeback completion
//! buffer.rs       buffer_head
//! jbd2.rs         journal and handles
//! page_cache.rs   reading and writing a file's pages from the kernel
//! arena.rs        large arrays that grow while they are read
//! array.rs        large arrays of a fixed length
//! rwlock.rs       a value behind a read-write semaphore
//! killable.rs     a lock that tasks can be killed in the wait for
//! fpu.rs          sections that may use vector registers
//! sort.rs         sorting
//! task.rs         current task, memory scopes, clocks, random numbers
//! work.rs         closures on several processors, jobs in the background
//! ```
//!
//! # Invariants
//!
//! A callback that gets an `&Inode<T>` may rely on the VFS holding a reference to the
//! inode for the whole call, so `&Inode<T>` never outlives the inode.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

use kernel::prelude::*;

#[allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    // Empty structures of some configurations, such as a spinlock without SMP.
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
mod bindings {
    // What the kernel crate leaves out or opaque, from this module's own bindgen run; the
    // rest comes through the file's glob import of the kernel crate's bindings, which its
    // own items shadow.
    include!(concat!(env!("VEXFS_GEN"), "/vfs_generated.rs"));
}

pub mod arena;
pub mod array;
pub mod attr;
pub mod buffer;
pub mod file;
pub mod fpu;
pub mod inode;
mod inode_cache;
pub mod iomap;
pub mod jbd2;
pub mod killable;
pub mod mount;
pub mod namei;
pub mod new_inode;
pub mod page_cache;
pub mod rwlock;
pub mod sort;
pub mod super_block;
pub mod task;
pub mod work;

pub use inode::{IRef, Inode};
pub use new_inode::NewInode;
pub use super_block::SuperBlock;

// The print macros of the kernel crate look for this name in the crate root.
const __LOG_PREFIX: &[u8] = b"vexfs\0";

/// A filesystem: its types, and all of its parts.
pub trait FileSystem:
    super_block::Super + namei::Names + attr::Attributes + file::Files + iomap::Mapper
{
}

/// Type parameters of a filesystem, shared by the traits of its parts.
pub trait Types: Sized + 'static {
    /// Mount options while a mount is being set up.
    type Options: Default + Send;
    /// What the filesystem keeps for a mounted volume.
    type Volume: Send + Sync;
    /// What the filesystem keeps beside each `struct inode`.
    type Node: Send + Sync;
    /// The name after `mount -t`.
    const NAME: &'static CStr;
}

/// The errno of a callback: 0 or the negative number.
fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}
