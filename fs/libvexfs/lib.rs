// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What the filesystem does to blocks: trees, extents, directories, allocation, checks.
//!
//! The same code runs in the kernel, in mkfs and fsck, and in model tests. It reaches
//! blocks through [`Blocks`] and changes them through [`Txn`], one journal transaction; it
//! has no locks, no memory of its own and no idea of time. The host holds a lock over each
//! tree (readers may share it) and one over each [`alloc::Allocator`].
//!
//! - [`tree`]: the B+tree rooted in an inode, from 64-bit keys to records
//! - [`extent`]: file blocks; [`dir`]: names; [`symlink`]: targets; [`orphan`]: inodes to
//!   free after a crash; [`rows`]: what stands beside a vector; [`index`]: which indexes there are
//! - [`alloc`]: blocks and inodes, by group
//! - [`check`]: whether a tree is one
//!
//! # Errors and transactions
//!
//! `Exists`, `NotFound`, `NotEmpty`, `NameTooLong`, `TooManyCollisions`, `TooDeep`,
//! `Invalid` and `NoSpace` leave everything as it was: the transaction can go on. After any
//! other error of a changing operation the transaction has to be given up.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod alloc;
pub mod check;
pub mod dir;
mod error;
pub mod extent;
pub mod index;
mod node;
pub mod orphan;
pub mod rows;
mod siphash;
pub mod symlink;
pub mod tree;

pub use error::{Error, Result};
pub use vexfs_format as format;

use core::ops::Deref;

/// A block number on the volume.
pub type BlockNo = u64;

/// Reads metadata blocks.
///
/// Two buffers of one block are never held at the same time by this crate, so a host may
/// hand out the bytes themselves.
pub trait Blocks {
    /// A pinned, verified block of `format::BLOCK_SIZE` bytes.
    type Buf: Deref<Target = [u8]>;

    /// Block `block`, which has to be of kind `magic` and to belong to `owner`. May sleep.
    ///
    /// # Errors
    ///
    /// Whatever `format::verify` says when the block comes from the disk; `Io` or `Store`
    /// if it does not come.
    fn read(&self, block: u64, magic: u32, owner: u64) -> Result<Self::Buf>;
}

/// One open journal transaction. What it changes becomes durable together.
pub trait Txn: Blocks {
    /// Joins the block to the transaction and returns its bytes for changing.
    ///
    /// # Errors
    ///
    /// `Store` if the journal is gone or the transaction has no credits left.
    fn modify<'b>(&mut self, buf: &'b mut Self::Buf) -> Result<&'b mut [u8]>;

    /// Makes block `block` an empty one of kind `magic` owned by `owner`, joined to the
    /// transaction. What the disk held there is not read.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    fn create(&mut self, block: u64, magic: u32, owner: u64) -> Result<Self::Buf>;

    /// Makes block `block` of an inode table an empty one: eight free inodes.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    fn init_inode_block(&mut self, block: u64) -> Result<()>;

    /// Forgets a metadata block: recovery must not write it again (a journal revoke). Its
    /// space is freed separately, after this.
    ///
    /// # Errors
    ///
    /// As [`modify`](Self::modify).
    fn discard(&mut self, buf: Self::Buf) -> Result<()>;

    /// Allocates one block for a tree node, near `goal`; 0 leaves the place to the host.
    ///
    /// # Errors
    ///
    /// `NoSpace`, and those of [`alloc::Allocator`].
    fn allocate_block(&mut self, goal: u64) -> Result<u64>;

    /// Frees one block that [`allocate_block`](Self::allocate_block) returned.
    ///
    /// # Errors
    ///
    /// Those of [`alloc::Allocator`].
    fn release_block(&mut self, block: u64) -> Result<()>;
}
