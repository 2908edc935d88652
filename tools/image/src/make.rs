// SPDX-License-Identifier: Apache-2.0

//! Formats a device: the whole of a new volume.
//!
//! Written are the superblock and its copies, the group descriptors, the bitmaps and the
//! first inode table blocks of group 0, and the start of the journal. Everything else is
//! marked as never written and made when it is first used, so the time this takes grows
//! with the descriptors only.

use crate::{crc, Device};
use libvexfs::alloc::bits::fill;
use libvexfs::alloc::{initial_block_bitmap, initial_inode_bitmap, GroupSummary};
use std::io;
use vexfs_format::geometry::{has_superblock, DESCRIPTORS_PER_BLOCK, GDT_START};
use vexfs_format::header::{self, MAGIC_BLOCK_BITMAP, MAGIC_GROUPS, MAGIC_INODE_BITMAP};
use vexfs_format::journal::JournalSuperblock;
use vexfs_format::{
    group, inode, superblock, Geometry, Inode, InodeTime, Superblock, BLOCK_SIZE, FIRST_INO,
    INODES_PER_BLOCK, INODE_SIZE, ORPHAN_INO, ROOT_INO,
};
use zerocopy::IntoBytes;

/// What a new volume is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Identity.
    pub uuid: [u8; 16],
    /// Key of the directory hash; random, unless the volume is to be reproducible.
    pub hash_seed: [u8; 16],
    /// Name, at most 32 bytes of UTF-8, padded with zeros.
    pub label: [u8; 32],
    /// Seconds since 1970 for all times on the volume.
    pub time: i64,
    /// Dimension, element type and metric that new containers get; zeros for none.
    pub vectors: (u32, u8, u8),
}

/// Journal blocks that are zeroed behind its superblock, so that nothing of an earlier
/// journal is found at the start of the log.
const JOURNAL_ZEROED: u64 = 8;

/// Blocks of the inode table that hold the reserved inodes.
const RESERVED_TABLE: u64 = (FIRST_INO - 1).div_ceil(INODES_PER_BLOCK);

/// Formats `device` with the shape `geometry`. The superblock is written last: until then
/// there is no volume.
///
/// # Errors
///
/// Those of the device.
pub fn make(device: &mut impl Device, geometry: &Geometry, options: &Options) -> io::Result<()> {
    let seed = vexfs_format::seed(&options.uuid, crc);
    let mut block = vec![0; BLOCK_SIZE];

    for index in 0..geometry.gdt_blocks {
        let number = GDT_START + index;
        header::init(&mut block, number, MAGIC_GROUPS, index);
        let first = index * DESCRIPTORS_PER_BLOCK;
        let end = geometry.group_count.min(first + DESCRIPTORS_PER_BLOCK);
        for group in first..end {
            let mut summary = GroupSummary::untouched(geometry, group);
            if group == 0 {
                summary.flags = 0;
                summary.free_inodes -= (FIRST_INO - 1) as u32;
                summary.used_dirs = 1;
                summary.itable_init_blocks = RESERVED_TABLE as u32;
            }
            let slot = (group - first) as usize;
            summary.to_descriptor().store(&mut block, slot);
        }
        header::seal(number, &mut block, seed, crc);
        device.write_block(number, &block)?;
    }

    let number = geometry.block_bitmap_block(0);
    header::init(&mut block, number, MAGIC_BLOCK_BITMAP, 0);
    initial_block_bitmap(geometry, 0, group::bits_mut(&mut block));
    header::seal(number, &mut block, seed, crc);
    device.write_block(number, &block)?;

    let number = geometry.inode_bitmap_block(0);
    header::init(&mut block, number, MAGIC_INODE_BITMAP, 0);
    initial_inode_bitmap(geometry, group::bits_mut(&mut block));
    fill(
        group::bits_mut(&mut block),
        0..(FIRST_INO - 1) as usize,
        true,
    );
    header::seal(number, &mut block, seed, crc);
    device.write_block(number, &block)?;

    let fixed = [
        (ROOT_INO, root(options.time)),
        (ORPHAN_INO, orphans(options.time)),
    ];
    for index in 0..RESERVED_TABLE {
        let number = geometry.inode_table_block(0, index);
        block.fill(0);
        for (ino, inode) in &fixed {
            if let Some((_, at)) = geometry.inode_location(*ino).filter(|l| l.0 == number) {
                let mut bytes = [0; INODE_SIZE];
                inode.encode(&mut bytes, *ino, seed, crc);
                block[at..at + INODE_SIZE].copy_from_slice(&bytes);
            }
        }
        device.write_block(number, &block)?;
    }

    block.fill(0);
    for index in 1..=JOURNAL_ZEROED {
        device.write_block(geometry.journal_start + index, &block)?;
    }
    let journal = JournalSuperblock::empty(geometry.journal_blocks as u32, options.uuid);
    block[..journal.as_bytes().len()].copy_from_slice(journal.as_bytes());
    device.write_block(geometry.journal_start, &block)?;

    let mut sb = Superblock::new(geometry, options.uuid, options.hash_seed);
    sb.label = options.label;
    sb.created = options.time.into();
    sb.written = options.time.into();
    let (dim, element, metric) = options.vectors;
    sb.vector_dim = dim.into();
    sb.vector_element = element;
    sb.vector_metric = metric;
    for group in (0..geometry.group_count).rev() {
        if !has_superblock(group) {
            continue;
        }
        sb.own_group = (group as u32).into();
        sb.flags = if group == 0 {
            0
        } else {
            superblock::FLAG_BACKUP
        }
        .into();
        sb.seal(crc);
        block.fill(0);
        block[superblock::OFFSET..][..superblock::BYTES].copy_from_slice(sb.as_bytes());
        device.write_block(geometry.group_first_block(group), &block)?;
    }
    Ok(())
}

fn at(time: i64) -> Inode {
    let time = InodeTime { sec: time, nsec: 0 };
    Inode {
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        generation: 1,
        ..Inode::empty()
    }
}

fn root(time: i64) -> Inode {
    Inode {
        mode: 0o040755,
        nlink: 2,
        parent_ino: ROOT_INO,
        parent_generation: 1,
        ..at(time)
    }
}

fn orphans(time: i64) -> Inode {
    Inode {
        mode: 0o100600,
        nlink: 1,
        flags: inode::FLAG_HIDDEN,
        ..at(time)
    }
}
