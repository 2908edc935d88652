// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The superblock: 1024 bytes at byte 1024 of the volume, and copies of it at byte 1024
//! of the first block of group 1 and of the groups that are powers of 3, 5 and 7.

use crate::{vector_area, Crc, Error, Geometry, Result, BLOCK_SHIFT, BLOCK_SIZE};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a superblock. Not text, and broken by a transfer that changes line ends.
pub const MAGIC: [u8; 8] = *b"\xd7vexfs2\n";
/// Format version this code reads and writes.
pub const VERSION: u32 = 2;
/// Byte of the block at which the superblock starts.
pub const OFFSET: usize = 1024;
/// Bytes in a superblock.
pub const BYTES: usize = 1024;

/// Compatible features this code knows: unknown ones can be ignored.
pub const KNOWN_COMPAT: u64 = 0;
/// Containers may have indexes: who writes a container without knowing of them leaves them wrong.
pub const RO_COMPAT_INDEXES: u64 = 1;
/// Features without which a volume may only be read.
pub const KNOWN_RO_COMPAT: u64 = RO_COMPAT_INDEXES;
/// Features without which a volume may not be used at all.
pub const KNOWN_INCOMPAT: u64 = 0;

/// `state`: every structure was written back before the volume was released.
pub const STATE_CLEAN: u16 = 1;
/// `state`: mounted for writing, or not unmounted.
pub const STATE_MOUNTED: u16 = 2;

/// `flags`: the journal holds transactions that must be replayed.
pub const FLAG_NEEDS_RECOVERY: u32 = 1;
/// `flags`: this is a copy; it says how to find things, not what state they are in.
pub const FLAG_BACKUP: u32 = 2;
/// `flags`: corruption was found; a check is due.
pub const FLAG_ERRORS: u32 = 4;

/// The superblock as it lies on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// CRC32C over these 1024 bytes with this field zero.
    pub checksum: U32,
    /// [`VERSION`].
    pub version: U32,
    /// Volume identity; seeds every checksum but this one.
    pub uuid: [u8; 16],
    /// Name of the volume, UTF-8, padded with zeros.
    pub label: [u8; 32],
    /// Features that can be ignored if unknown.
    pub feature_compat: U64,
    /// Features that forbid writing if unknown.
    pub feature_ro_compat: U64,
    /// Features that forbid mounting if unknown.
    pub feature_incompat: U64,
    /// Blocks in use by the filesystem; may be less than the device has.
    pub blocks_count: U64,
    /// Number of block groups.
    pub group_count: U32,
    /// Blocks in every group but possibly the last.
    pub blocks_per_group: U32,
    /// Inodes in every group.
    pub inodes_per_group: U32,
    /// Base-2 logarithm of the block size.
    pub log_block_size: u8,
    /// Zero.
    pub reserved0: u8,
    /// Bytes per inode.
    pub inode_size: U16,
    /// First block of the group descriptor table.
    pub gdt_start: U64,
    /// Blocks in the group descriptor table.
    pub gdt_blocks: U64,
    /// First block of the journal.
    pub journal_start: U64,
    /// Blocks in the journal.
    pub journal_blocks: U32,
    /// Group whose first block holds this superblock.
    pub own_group: U32,
    /// Key of the directory hash.
    pub hash_seed: [u8; 16],
    /// Default dimension of new vector containers; 0 for none.
    pub vector_dim: U32,
    /// Default element type, one of `vector_area::ELEMENT_*`; 0 for none.
    pub vector_element: u8,
    /// Default metric, one of `vector_area::METRIC_*`; 0 for none.
    pub vector_metric: u8,
    /// Zero.
    pub reserved1: U16,
    /// Bytes to which rows are aligned for SIMD loads, a power of two.
    pub simd_align: U32,
    /// Times mounted for writing.
    pub mount_count: U32,
    /// Seconds since 1970: made.
    pub created: I64,
    /// Seconds since 1970: last mounted for writing.
    pub mounted: I64,
    /// Seconds since 1970: superblock last written.
    pub written: I64,
    /// [`STATE_CLEAN`] or [`STATE_MOUNTED`].
    pub state: U16,
    /// Zero.
    pub reserved2: U16,
    /// `FLAG_*`.
    pub flags: U32,
    /// Inode of the root directory.
    pub root_ino: U64,
    /// Inode of the orphan tree.
    pub orphan_ino: U64,
    /// Corruptions found since the last check.
    pub error_count: U32,
    /// Zero.
    pub reserved3: U32,
    /// Block in which the last corruption was found.
    pub last_error_block: U64,
    /// Seconds since 1970: when it was found.
    pub last_error: I64,
    /// Defaults for indexes, for a later version; zero.
    pub index_defaults: [u8; 32],
    /// Zero.
    pub reserved: [u8; 744],
}

const _: () = assert!(core::mem::size_of::<Superblock>() == BYTES);
const _: () = assert!(core::mem::offset_of!(Superblock, feature_compat) == 64);
const _: () = assert!(core::mem::offset_of!(Superblock, gdt_start) == 112);
const _: () = assert!(core::mem::offset_of!(Superblock, hash_seed) == 144);
const _: () = assert!(core::mem::offset_of!(Superblock, state) == 200);
const _: () = assert!(core::mem::offset_of!(Superblock, index_defaults) == 248);

impl Superblock {
    /// A superblock for a volume of this shape; everything not given is zero.
    pub fn new(geometry: &Geometry, uuid: [u8; 16], hash_seed: [u8; 16]) -> Superblock {
        let mut sb = Superblock::new_zeroed();
        sb.magic = MAGIC;
        sb.version = U32::new(VERSION);
        sb.uuid = uuid;
        sb.feature_ro_compat = U64::new(RO_COMPAT_INDEXES);
        sb.blocks_count = U64::new(geometry.blocks_count);
        sb.group_count = U32::new(u32::try_from(geometry.group_count).unwrap_or(0));
        sb.blocks_per_group = U32::new(crate::geometry::BLOCKS_PER_GROUP as u32);
        sb.inodes_per_group = U32::new(u32::try_from(geometry.inodes_per_group).unwrap_or(0));
        sb.log_block_size = BLOCK_SHIFT as u8;
        sb.inode_size = U16::new(crate::INODE_SIZE as u16);
        sb.gdt_start = U64::new(crate::geometry::GDT_START);
        sb.gdt_blocks = U64::new(geometry.gdt_blocks);
        sb.journal_start = U64::new(geometry.journal_start);
        sb.journal_blocks = U32::new(u32::try_from(geometry.journal_blocks).unwrap_or(0));
        sb.hash_seed = hash_seed;
        sb.simd_align = U32::new(64);
        sb.state = U16::new(STATE_CLEAN);
        sb.root_ino = U64::new(crate::ROOT_INO);
        sb.orphan_ino = U64::new(crate::ORPHAN_INO);
        sb
    }

    /// The checked superblock in `bytes`, which starts where the superblock starts.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if this is no VexFS v2 volume or one of a newer format;
    /// [`Error::BadChecksum`] or [`Error::Corrupt`], naming block 0, if it is a damaged one.
    pub fn parse(bytes: &[u8], crc: Crc) -> Result<&Superblock> {
        let (sb, _) = Superblock::ref_from_prefix(bytes)
            .map_err(|_| Error::Invalid("the device is too small for a VexFS superblock"))?;
        if sb.magic != MAGIC {
            return Err(Error::Invalid("no VexFS v2 superblock"));
        }
        if sb.checksum.get() != sb.sum(crc) {
            return Err(Error::BadChecksum { block: 0 });
        }
        if sb.version.get() != VERSION {
            return Err(Error::Invalid(
                "the volume has a format version unknown here",
            ));
        }
        if sb.feature_incompat.get() & !KNOWN_INCOMPAT != 0 {
            return Err(Error::Invalid("the volume uses a feature unknown here"));
        }
        let corrupt = |what| Error::Corrupt { block: 0, what };
        if u32::from(sb.log_block_size) != BLOCK_SHIFT {
            return Err(Error::Invalid(
                "the volume has a block size other than 4096",
            ));
        }
        if usize::from(sb.inode_size.get()) != crate::INODE_SIZE {
            return Err(corrupt("superblock: inode size is not 512"));
        }
        if sb.root_ino.get() != crate::ROOT_INO || sb.orphan_ino.get() != crate::ORPHAN_INO {
            return Err(corrupt(
                "superblock: fixed inode numbers are not the fixed ones",
            ));
        }
        let align = sb.simd_align.get();
        if !align.is_power_of_two() || align as usize > BLOCK_SIZE {
            return Err(corrupt("superblock: SIMD alignment is not a power of two"));
        }
        if !matches!(sb.state.get(), STATE_CLEAN | STATE_MOUNTED) {
            return Err(corrupt("superblock: unknown state"));
        }
        let defaults = (
            sb.vector_dim.get(),
            u16::from(sb.vector_element),
            sb.vector_metric,
        );
        let known = defaults == (0, 0, 0)
            || (defaults.0 > 0
                && defaults.0 <= vector_area::MAX_DIM
                && vector_area::is_metric(sb.vector_metric, sb.vector_element));
        if !known {
            return Err(corrupt("superblock: vector defaults are not valid"));
        }
        sb.geometry()?;
        Ok(sb)
    }

    /// The superblock in `bytes`, to be changed and then [sealed](Self::seal). Nothing is
    /// checked: for bytes that were parsed before.
    pub fn from_bytes_mut(bytes: &mut [u8]) -> Option<&mut Superblock> {
        Superblock::mut_from_prefix(bytes).ok().map(|(sb, _)| sb)
    }

    /// Where everything is on this volume.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the numbers do not fit each other.
    pub fn geometry(&self) -> Result<Geometry> {
        let geometry = Geometry {
            blocks_count: self.blocks_count.get(),
            group_count: self.group_count.get().into(),
            inodes_per_group: self.inodes_per_group.get().into(),
            gdt_blocks: self.gdt_blocks.get(),
            journal_start: self.journal_start.get(),
            journal_blocks: self.journal_blocks.get().into(),
        };
        let corrupt = |what| Error::Corrupt { block: 0, what };
        if u64::from(self.blocks_per_group.get()) != crate::geometry::BLOCKS_PER_GROUP {
            return Err(corrupt("superblock: blocks per group is not 32256"));
        }
        if self.gdt_start.get() != crate::geometry::GDT_START {
            return Err(corrupt(
                "superblock: group descriptors do not start at block 1",
            ));
        }
        if u64::from(self.own_group.get()) >= geometry.group_count {
            return Err(corrupt("superblock: own group is past the last group"));
        }
        geometry.check().map_err(corrupt)?;
        Ok(geometry)
    }

    /// True if a feature unknown here forbids writing to the volume.
    pub fn is_read_only(&self) -> bool {
        self.feature_ro_compat.get() & !KNOWN_RO_COMPAT != 0
    }

    /// The label without its padding.
    pub fn label(&self) -> &[u8] {
        self.label.split(|b| *b == 0).next().unwrap_or(&[])
    }

    fn sum(&self, crc: Crc) -> u32 {
        let bytes = self.as_bytes();
        let sum = crc(!0, bytes.get(..8).unwrap_or(&[]));
        let sum = crc(sum, &[0; 4]);
        crc(sum, bytes.get(12..).unwrap_or(&[]))
    }

    /// Writes the checksum. Never sleeps and never fails.
    pub fn seal(&mut self, crc: Crc) {
        self.checksum = U32::new(self.sum(crc));
    }
}

/// Seals the superblock inside `block`, the whole first block of a group, for a journal
/// trigger that is handed the block.
pub fn seal_in_block(block: &mut [u8], crc: Crc) {
    if let Some(sb) = block.get_mut(OFFSET..).and_then(Superblock::from_bytes_mut) {
        sb.seal(crc);
    }
}
