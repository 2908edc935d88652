// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The common header of self-describing metadata blocks.
//!
//! Bitmaps, group descriptor blocks and tree nodes start with it, so one function
//! seals them all and one verifies them all. The superblock and the inode table have
//! checksums of their own, because the first is smaller than a block and the second
//! is updated by the inode.

use crate::{node, Crc, Error, Result, BLOCK_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Magic of a block bitmap; its owner is the group number.
pub const MAGIC_BLOCK_BITMAP: u32 = u32::from_le_bytes(*b"vBmp");
/// Magic of an inode bitmap; its owner is the group number.
pub const MAGIC_INODE_BITMAP: u32 = u32::from_le_bytes(*b"vImp");
/// Magic of a group descriptor block; its owner is its index in the table.
pub const MAGIC_GROUPS: u32 = u32::from_le_bytes(*b"vGrp");
/// Magic of a tree node; its owner is the inode whose tree it is in.
pub const MAGIC_NODE: u32 = u32::from_le_bytes(*b"vNod");

/// Magic of the header of an index image; its owner is the image's inode.
pub const MAGIC_INDEX: u32 = u32::from_le_bytes(*b"vIdx");
/// Magic of a block of checksums of an index image; its owner is the image's inode.
pub const MAGIC_SUMS: u32 = u32::from_le_bytes(*b"vSum");

/// Bytes in the header.
pub const HEADER_BYTES: usize = 32;

/// First bytes of a metadata block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockHeader {
    /// What kind of block this is: one of the `MAGIC_` constants.
    pub magic: U32,
    /// CRC32C over the block's number and the block with this field zero.
    pub checksum: U32,
    /// The block's own number: catches a write that went elsewhere.
    pub block_no: U64,
    /// Inode or group the block belongs to: catches a stale pointer.
    pub owner: U64,
    /// Belongs to the kind of block; tree nodes keep level and count here.
    pub specific: [u8; 8],
}

const _: () = assert!(core::mem::size_of::<BlockHeader>() == HEADER_BYTES);

impl BlockHeader {
    /// The header of `block`, or nothing if that is shorter than a header.
    #[inline]
    pub fn of(block: &[u8]) -> Option<&BlockHeader> {
        BlockHeader::ref_from_prefix(block).ok().map(|(h, _)| h)
    }
}

/// Makes `block` an empty one of kind `magic`: zeros behind a filled-in header.
/// The checksum comes last, with [`seal`].
pub fn init(block: &mut [u8], block_no: u64, magic: u32, owner: u64) {
    block.fill(0);
    fill(block, block_no, magic, owner);
}

/// Fills in the header of `block`, and leaves what is behind it.
pub fn fill(block: &mut [u8], block_no: u64, magic: u32, owner: u64) {
    let header = BlockHeader {
        magic: U32::new(magic),
        checksum: U32::new(0),
        block_no: U64::new(block_no),
        owner: U64::new(owner),
        specific: [0; 8],
    };
    // A slice too short for a header stays zero and never verifies.
    let _ = header.write_to_prefix(block);
}

fn checksum(block_no: u64, block: &[u8], seed: u32, crc: Crc) -> u32 {
    let sum = crc(seed, &block_no.to_le_bytes());
    let sum = crc(sum, block.get(..4).unwrap_or(&[]));
    let sum = crc(sum, &[0; 4]);
    crc(sum, block.get(8..).unwrap_or(&[]))
}

/// Writes the checksum of `block` into its header. Never sleeps and never fails, so it
/// can run from a journal trigger. `seed` is [`crate::seed`] of the volume.
pub fn seal(block_no: u64, block: &mut [u8], seed: u32, crc: Crc) {
    let sum = checksum(block_no, block, seed, crc);
    crate::put(block, 4, &sum.to_le_bytes());
}

/// Checks that `block` is block `block_no`, of kind `magic`, and belongs to `owner`. A
/// tree node is also checked slot by slot, so that whoever verified a block once can
/// walk it without looking again.
///
/// # Errors
///
/// [`Error::BadChecksum`] if the bytes are not those that were sealed, which includes
/// blocks written to the wrong place; [`Error::Corrupt`] for everything else.
pub fn verify(
    block_no: u64,
    magic: u32,
    owner: u64,
    block: &[u8],
    seed: u32,
    crc: Crc,
) -> Result<()> {
    let corrupt = |what| Error::Corrupt {
        block: block_no,
        what,
    };
    if block.len() != BLOCK_SIZE {
        return Err(corrupt("block is cut short"));
    }
    let header = BlockHeader::of(block).ok_or(corrupt("block has no header"))?;
    if header.checksum.get() != checksum(block_no, block, seed, crc) {
        return Err(Error::BadChecksum { block: block_no });
    }
    check_identity(block_no, magic, owner, block)?;
    if magic == MAGIC_NODE {
        node::check(block, node::BLOCK_HEADER_AT).map_err(corrupt)?;
    }
    Ok(())
}

/// The part of [`verify`] that is cheap enough for every use of a block that was
/// verified when it came from the disk.
///
/// # Errors
///
/// [`Error::Corrupt`], saying which field is not what the pointer to the block promised.
#[inline]
pub fn check_identity(block_no: u64, magic: u32, owner: u64, block: &[u8]) -> Result<()> {
    let corrupt = |what| Error::Corrupt {
        block: block_no,
        what,
    };
    let header = BlockHeader::of(block).ok_or(corrupt("block has no header"))?;
    if header.magic.get() != magic {
        return Err(corrupt("block is of another kind"));
    }
    if header.block_no.get() != block_no {
        return Err(corrupt("block carries another number"));
    }
    if header.owner.get() != owner {
        return Err(corrupt("block belongs to another owner"));
    }
    Ok(())
}
