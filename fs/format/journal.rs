// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The superblock of the journal, as `struct journal_superblock_s` of
//! `include/linux/jbd2.h` has it. It is the one big-endian structure on the volume; after
//! mkfs only jbd2 writes it.

use crate::BLOCK_SIZE;
use zerocopy::big_endian::U32;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `JBD2_MAGIC_NUMBER`.
pub const MAGIC: u32 = 0xc03b_3998;
/// `JBD2_SUPERBLOCK_V2`.
pub const SUPERBLOCK_V2: u32 = 4;

/// The fields mkfs sets; the rest of the block is zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct JournalSuperblock {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`SUPERBLOCK_V2`].
    pub block_type: U32,
    /// Zero in a superblock.
    pub header_sequence: U32,
    /// Bytes per journal block.
    pub block_size: U32,
    /// Blocks in the journal, this one included.
    pub max_len: U32,
    /// First block of the log, from the start of the journal.
    pub first: U32,
    /// Sequence number the first commit will have.
    pub sequence: U32,
    /// First block of the oldest transaction; 0 for an empty log.
    pub start: U32,
    /// Error left by an abort.
    pub errno: U32,
    /// Compatible features.
    pub feature_compat: U32,
    /// Incompatible features; set by the kernel at the first mount.
    pub feature_incompat: U32,
    /// Read-only compatible features.
    pub feature_ro_compat: U32,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// Filesystems sharing the log: one.
    pub nr_users: U32,
}

const _: () = assert!(core::mem::size_of::<JournalSuperblock>() == 0x44);
const _: () = assert!(core::mem::offset_of!(JournalSuperblock, uuid) == 0x30);

impl JournalSuperblock {
    /// The superblock of an empty journal of `blocks` blocks.
    pub fn empty(blocks: u32, uuid: [u8; 16]) -> JournalSuperblock {
        JournalSuperblock {
            magic: U32::new(MAGIC),
            block_type: U32::new(SUPERBLOCK_V2),
            header_sequence: U32::new(0),
            block_size: U32::new(BLOCK_SIZE as u32),
            max_len: U32::new(blocks),
            first: U32::new(1),
            sequence: U32::new(1),
            start: U32::new(0),
            errno: U32::new(0),
            feature_compat: U32::new(0),
            feature_incompat: U32::new(0),
            feature_ro_compat: U32::new(0),
            uuid,
            nr_users: U32::new(1),
        }
    }
}
