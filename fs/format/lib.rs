// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! VexFS format v2: what the bytes on disk mean, and nothing else.
//!
//! One structure per file, each with its layout assertions, its reader and its
//! writer. Nothing here does I/O or looks at more than one block at a time;
//! `libvexfs` says what the filesystem does to blocks. The prose description is
//! `Documentation/format-v2.rst`; a change to one is a change to both.
//!
//! - [`header`]: the 32 bytes every metadata block starts with, and its checksum
//! - [`superblock`]: the volume
//! - [`geometry`]: where everything is, computed from the superblock
//! - [`group`]: group descriptors and the bitmap blocks they count
//! - [`inode`], [`vector_area`]: 512 bytes per file
//! - [`node`]: a node of the one B+tree that extents, names and the rest live in
//! - [`extent`], [`dirent`], [`row`]: the records in those trees
//! - [`index`]: indexes of a container
//! - [`journal`]: the jbd2 superblock that mkfs writes

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod dirent;
pub mod extent;
pub mod geometry;
pub mod group;
pub mod header;
pub mod index;
pub mod inode;
pub mod journal;
pub mod node;
pub mod row;
pub mod superblock;
pub mod vector_area;

pub use geometry::Geometry;
pub use header::{seal, verify};
pub use inode::{Inode, InodeTime};
pub use superblock::Superblock;
pub use vector_area::VectorArea;

/// Bytes per block. The superblock stores its logarithm; 4096 is the only size so far.
pub const BLOCK_SIZE: usize = 4096;
/// Base-2 logarithm of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;
/// Bytes per inode on disk.
pub const INODE_SIZE: usize = 512;
/// Inodes in one inode table block.
pub const INODES_PER_BLOCK: u64 = (BLOCK_SIZE / INODE_SIZE) as u64;

/// Inode number of the root directory.
pub const ROOT_INO: u64 = 2;
/// Inode number of the hidden inode whose tree holds the numbers of orphans.
pub const ORPHAN_INO: u64 = 5;
/// Inode numbers below this one are reserved.
pub const FIRST_INO: u64 = 11;

/// A CRC32C step as the kernel defines it: no inversion before or after, so that
/// calls can be chained. `crc(seed, bytes)`.
pub type Crc = fn(u32, &[u8]) -> u32;

/// Returns the checksum seed of a volume: every checksum on it starts from its UUID,
/// so a block of another volume never verifies.
pub fn seed(uuid: &[u8; 16], crc: Crc) -> u32 {
    crc(!0, uuid)
}

/// Why bytes were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The checksum of block `block` does not match its contents.
    BadChecksum {
        /// Block number on the volume.
        block: u64,
    },
    /// The checksum holds, but the contents of `block` break a rule of the format.
    Corrupt {
        /// Block number on the volume.
        block: u64,
        /// The rule.
        what: &'static str,
    },
    /// The checksum of inode `ino` does not match its contents.
    BadInodeChecksum {
        /// Inode number.
        ino: u64,
    },
    /// The checksum holds, but inode `ino` breaks a rule of the format.
    CorruptInode {
        /// Inode number.
        ino: u64,
        /// The rule.
        what: &'static str,
    },
    /// Not a volume this code can use: foreign, too small, or of a newer format.
    Invalid(&'static str),
}

/// A `Result` with this crate's [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// The `N` bytes of `bytes` at `at`; zeros if it is too short, which callers have excluded.
#[inline]
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
        Some(chunk) => *chunk,
        None => [0; N],
    }
}

#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = at.saturating_add(value.len());
    if let Some(to) = bytes.get_mut(at..end) {
        copy(to, value);
    }
}

/// Copies as many bytes as both have. The standard copy panics on different lengths, with a
/// function that objtool does not know to return never; this one compiles to a `memcpy` too.
#[inline]
pub fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
