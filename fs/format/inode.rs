// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The inode: 512 bytes with a checksum of their own, which covers the inode's number and
//! generation, so that neither a misplaced nor a reused inode is taken for this one.
//!
//! An inode of zeros is free. The tail is the root of the file's tree: small files need no
//! other metadata block.

use crate::{node, vector_area::VECTOR_AREA_BYTES, Crc, Error, Result, VectorArea, INODE_SIZE};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of an inode.
pub const MAGIC: u16 = u16::from_le_bytes(*b"vI");
/// Version of the layout.
pub const VERSION: u16 = 2;
/// Bytes of the tree root.
pub const TREE_ROOT_BYTES: usize = 176;
/// Bytes kept for extended attributes.
pub const XATTR_BYTES: usize = 96;
/// Largest file, in bytes.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Most names an inode may have.
pub const MAX_LINKS: u32 = 1 << 30;

/// `flags`: the vector area is in use.
pub const FLAG_VECTOR: u32 = 1;
/// `flags`: may not be changed.
pub const FLAG_IMMUTABLE: u32 = 2;
/// `flags`: may only grow.
pub const FLAG_APPEND: u32 = 4;
/// `flags`: access time is not kept.
pub const FLAG_NOATIME: u32 = 8;
/// `flags`: not dumped by backup tools.
pub const FLAG_NODUMP: u32 = 16;
/// `flags`: every write is synchronous.
pub const FLAG_SYNC: u32 = 32;
/// `flags`: belongs to the filesystem; no directory names it.
pub const FLAG_HIDDEN: u32 = 64;
/// `flags`: a hidden inode whose tree holds extents: the image of an index.
pub const FLAG_IMAGE: u32 = 128;
/// Every flag this version knows.
pub const KNOWN_FLAGS: u32 = 255;

const S_IFMT: u16 = 0o170000;
const S_IFREG: u16 = 0o100000;
const S_IFDIR: u16 = 0o040000;
const S_IFLNK: u16 = 0o120000;

/// True if the tree of an inode with this mode and these flags holds extents.
pub fn has_extents(mode: u16, flags: u32) -> bool {
    mode & S_IFMT == S_IFREG && flags & (FLAG_HIDDEN | FLAG_IMAGE) != FLAG_HIDDEN
}

/// A time on disk: seconds since 1970, which may be negative, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeTime {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds, below 1000000000.
    pub nsec: u32,
}

/// A checked inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permissions, as `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names this inode has; 0 for an orphan.
    pub nlink: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Tells the lives of one inode number apart.
    pub generation: u32,
    /// Device number of a device node, as `new_encode_dev`.
    pub rdev: u32,
    /// Project, for quotas.
    pub project: u32,
    /// Bytes in the file; in a directory, the number of entries.
    pub size: u64,
    /// Blocks owned: data and tree nodes.
    pub blocks: u64,
    /// Last access.
    pub atime: InodeTime,
    /// Last change of the data.
    pub mtime: InodeTime,
    /// Last change of the inode.
    pub ctime: InodeTime,
    /// Creation.
    pub btime: InodeTime,
    /// A directory that names this inode; the only one for a directory.
    pub parent_ino: u64,
    /// Its generation.
    pub parent_generation: u32,
    /// Sequence number of the last change of the data.
    pub data_seq: u64,
    /// Sequence number of the last attached embedding.
    pub attach_seq: u64,
    /// Block with more extended attributes; 0 for none.
    pub xattr_block: u64,
    /// Shape and state of a vector container; zeros without [`FLAG_VECTOR`].
    pub vector: VectorArea,
    /// Extended attributes, for a later version.
    pub xattrs: [u8; XATTR_BYTES],
    /// Root of the tree, see [`node`].
    pub tree_root: [u8; TREE_ROOT_BYTES],
}

/// The inode as it lies on disk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInode {
    magic: U16,
    version: U16,
    checksum: U32,
    mode: U16,
    reserved0: U16,
    nlink: U32,
    uid: U32,
    gid: U32,
    flags: U32,
    generation: U32,
    size: U64,
    blocks: U64,
    atime: I64,
    mtime: I64,
    ctime: I64,
    btime: I64,
    atime_nsec: U32,
    mtime_nsec: U32,
    ctime_nsec: U32,
    btime_nsec: U32,
    parent_ino: U64,
    parent_generation: U32,
    rdev: U32,
    data_seq: U64,
    attach_seq: U64,
    project: U32,
    reserved1: U32,
    xattr_block: U64,
    vector: [u8; VECTOR_AREA_BYTES],
    xattrs: [u8; XATTR_BYTES],
    tree_root: [u8; TREE_ROOT_BYTES],
}

const _: () = assert!(core::mem::size_of::<RawInode>() == INODE_SIZE);
const _: () = assert!(core::mem::offset_of!(RawInode, checksum) == 4);
const _: () = assert!(core::mem::offset_of!(RawInode, size) == 32);
const _: () = assert!(core::mem::offset_of!(RawInode, parent_ino) == 96);
const _: () = assert!(core::mem::offset_of!(RawInode, vector) == 144);
const _: () = assert!(core::mem::offset_of!(RawInode, tree_root) == 336);

/// CRC32C over the inode's number and generation and its bytes with the checksum zero.
fn checksum(raw: &RawInode, ino: u64, seed: u32, crc: Crc) -> u32 {
    let bytes = raw.as_bytes();
    let sum = crc(seed, &ino.to_le_bytes());
    let sum = crc(sum, raw.generation.as_bytes());
    let sum = crc(sum, bytes.get(..4).unwrap_or(&[]));
    let sum = crc(sum, &[0; 4]);
    crc(sum, bytes.get(8..).unwrap_or(&[]))
}

/// True if these 512 bytes are a free inode.
pub fn is_free(raw: &[u8]) -> bool {
    raw.iter().all(|b| *b == 0)
}

/// True if files of this mode have a tree behind [`Inode::tree_root`].
pub fn has_tree(mode: u16) -> bool {
    matches!(mode & S_IFMT, S_IFREG | S_IFDIR | S_IFLNK)
}

impl Inode {
    /// An inode of zeros with an empty tree, to be filled in.
    pub fn empty() -> Inode {
        let mut tree_root = [0; TREE_ROOT_BYTES];
        node::NodeHeader {
            level: 0,
            count: 0,
            heap: TREE_ROOT_BYTES as u16,
        }
        .store(&mut tree_root, node::ROOT_HEADER_AT);
        Inode {
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            flags: 0,
            generation: 0,
            rdev: 0,
            project: 0,
            size: 0,
            blocks: 0,
            atime: InodeTime::default(),
            mtime: InodeTime::default(),
            ctime: InodeTime::default(),
            btime: InodeTime::default(),
            parent_ino: 0,
            parent_generation: 0,
            data_seq: 0,
            attach_seq: 0,
            xattr_block: 0,
            vector: VectorArea::default(),
            xattrs: [0; XATTR_BYTES],
            tree_root,
        }
    }

    /// The checked inode `ino` in the 512 bytes `raw`. `seed` is [`crate::seed`] of the
    /// volume.
    ///
    /// # Errors
    ///
    /// [`Error::BadInodeChecksum`] if these are not the bytes that were written as inode
    /// `ino`; [`Error::CorruptInode`] if it is free or breaks a rule.
    pub fn parse(raw: &[u8], ino: u64, seed: u32, crc: Crc) -> Result<Inode> {
        let corrupt = |what| Error::CorruptInode { ino, what };
        let raw = RawInode::ref_from_bytes(raw).map_err(|_| corrupt("cut short"))?;
        if is_free(raw.as_bytes()) {
            return Err(corrupt("free, but something refers to it"));
        }
        if raw.checksum.get() != checksum(raw, ino, seed, crc) {
            return Err(Error::BadInodeChecksum { ino });
        }
        if raw.magic.get() != MAGIC || raw.version.get() != VERSION {
            return Err(corrupt("not an inode of this version"));
        }
        let time = |sec: I64, nsec: U32| InodeTime {
            sec: sec.get(),
            nsec: nsec.get(),
        };
        let inode = Inode {
            mode: raw.mode.get(),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            nlink: raw.nlink.get(),
            flags: raw.flags.get(),
            generation: raw.generation.get(),
            rdev: raw.rdev.get(),
            project: raw.project.get(),
            size: raw.size.get(),
            blocks: raw.blocks.get(),
            atime: time(raw.atime, raw.atime_nsec),
            mtime: time(raw.mtime, raw.mtime_nsec),
            ctime: time(raw.ctime, raw.ctime_nsec),
            btime: time(raw.btime, raw.btime_nsec),
            parent_ino: raw.parent_ino.get(),
            parent_generation: raw.parent_generation.get(),
            data_seq: raw.data_seq.get(),
            attach_seq: raw.attach_seq.get(),
            xattr_block: raw.xattr_block.get(),
            vector: VectorArea::load(&raw.vector),
            xattrs: raw.xattrs,
            tree_root: raw.tree_root,
        };
        inode.check().map_err(corrupt)?;
        Ok(inode)
    }

    /// Checks what one inode can say about itself.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn check(&self) -> core::result::Result<(), &'static str> {
        match self.mode & S_IFMT {
            0o010000 | 0o020000 | S_IFDIR | 0o060000 | S_IFREG | S_IFLNK | 0o140000 => {}
            _ => return Err("unknown file type"),
        }
        if self.size > MAX_SIZE {
            return Err("larger than the largest file");
        }
        if self.nlink > MAX_LINKS {
            return Err("too many links");
        }
        if self.flags & !KNOWN_FLAGS != 0 {
            return Err("unknown flag");
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            if time.nsec >= 1_000_000_000 {
                return Err("a time has too many nanoseconds");
            }
        }
        if has_tree(self.mode) {
            node::check(&self.tree_root, node::ROOT_HEADER_AT)?;
        }
        if self.flags & FLAG_VECTOR != 0 {
            if !matches!(self.mode & S_IFMT, S_IFREG | S_IFDIR) {
                return Err("neither file nor directory, but a vector container");
            }
            self.vector.check()?;
        }
        Ok(())
    }

    /// Writes the inode as number `ino` to the 512 bytes `out`, sealed. Never sleeps and
    /// never fails.
    pub fn encode(&self, out: &mut [u8; INODE_SIZE], ino: u64, seed: u32, crc: Crc) {
        let mut vector = [0; VECTOR_AREA_BYTES];
        if self.flags & FLAG_VECTOR != 0 {
            self.vector.store(&mut vector);
        }
        let mut raw = RawInode {
            magic: U16::new(MAGIC),
            version: U16::new(VERSION),
            checksum: U32::new(0),
            mode: U16::new(self.mode),
            reserved0: U16::new(0),
            nlink: U32::new(self.nlink),
            uid: U32::new(self.uid),
            gid: U32::new(self.gid),
            flags: U32::new(self.flags),
            generation: U32::new(self.generation),
            size: U64::new(self.size),
            blocks: U64::new(self.blocks),
            atime: I64::new(self.atime.sec),
            mtime: I64::new(self.mtime.sec),
            ctime: I64::new(self.ctime.sec),
            btime: I64::new(self.btime.sec),
            atime_nsec: U32::new(self.atime.nsec),
            mtime_nsec: U32::new(self.mtime.nsec),
            ctime_nsec: U32::new(self.ctime.nsec),
            btime_nsec: U32::new(self.btime.nsec),
            parent_ino: U64::new(self.parent_ino),
            parent_generation: U32::new(self.parent_generation),
            rdev: U32::new(self.rdev),
            data_seq: U64::new(self.data_seq),
            attach_seq: U64::new(self.attach_seq),
            project: U32::new(self.project),
            reserved1: U32::new(0),
            xattr_block: U64::new(self.xattr_block),
            vector,
            xattrs: self.xattrs,
            tree_root: self.tree_root,
        };
        raw.checksum = U32::new(checksum(&raw, ino, seed, crc));
        out.copy_from_slice(raw.as_bytes());
    }
}
