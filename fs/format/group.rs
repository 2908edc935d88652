// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Group descriptor blocks, and the two bitmaps that a descriptor counts.
//!
//! Both start with the common header and 32 reserved bytes, and then hold 4032 bytes:
//! 63 descriptors of 64 bytes, or the bits of 32256 blocks or inodes. A set bit is in use.

use crate::header::HEADER_BYTES;
use crate::BLOCK_SIZE;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First byte behind the headers of a descriptor block or a bitmap block.
pub const PAYLOAD_AT: usize = HEADER_BYTES + 32;
/// Bytes of payload.
pub const PAYLOAD_BYTES: usize = BLOCK_SIZE - PAYLOAD_AT;
/// Bytes in a descriptor.
pub const DESCRIPTOR_BYTES: usize = 64;

const _: () = assert!(PAYLOAD_BYTES * 8 == crate::geometry::BLOCKS_PER_GROUP as usize);
const _: () =
    assert!(PAYLOAD_BYTES / DESCRIPTOR_BYTES == crate::geometry::DESCRIPTORS_PER_BLOCK as usize);

/// `flags`: the block bitmap was never written; only metadata is in use.
pub const BLOCK_UNINIT: u16 = 1;
/// `flags`: the inode bitmap was never written; no inode is in use.
pub const INODE_UNINIT: u16 = 2;

/// What is in use in one group.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Descriptor {
    /// Blocks whose bit is clear.
    pub free_blocks: U32,
    /// Inodes whose bit is clear.
    pub free_inodes: U32,
    /// Directories among the inodes in use; new ones go where there are few.
    pub used_dirs: U32,
    /// Blocks at the start of the inode table that have been written. The rest holds
    /// whatever the device held before, and is made when an inode in it is first used.
    pub itable_init_blocks: U32,
    /// [`BLOCK_UNINIT`], [`INODE_UNINIT`].
    pub flags: U16,
    /// Zero.
    pub reserved: [u8; 46],
}

const _: () = assert!(core::mem::size_of::<Descriptor>() == DESCRIPTOR_BYTES);

impl Descriptor {
    /// Descriptor `index` of a verified descriptor block; nothing past the 63rd.
    pub fn of(block: &[u8], index: usize) -> Option<&Descriptor> {
        let at = PAYLOAD_AT.checked_add(index.checked_mul(DESCRIPTOR_BYTES)?)?;
        let bytes = block.get(at..at.checked_add(DESCRIPTOR_BYTES)?)?;
        Descriptor::ref_from_bytes(bytes).ok()
    }

    /// Writes this as descriptor `index` of `block`. Nothing is written past the 63rd.
    pub fn store(&self, block: &mut [u8], index: usize) {
        if index < PAYLOAD_BYTES / DESCRIPTOR_BYTES {
            let at = PAYLOAD_AT.saturating_add(index.saturating_mul(DESCRIPTOR_BYTES));
            crate::put(block, at, self.as_bytes());
        }
    }
}

/// The bits of a bitmap block: bit `n` is bit `n % 8` of byte `n / 8`.
pub fn bits(block: &[u8]) -> &[u8] {
    block.get(PAYLOAD_AT..BLOCK_SIZE).unwrap_or(&[])
}

/// The bits of a bitmap block, to be changed.
pub fn bits_mut(block: &mut [u8]) -> &mut [u8] {
    block.get_mut(PAYLOAD_AT..BLOCK_SIZE).unwrap_or(&mut [])
}
