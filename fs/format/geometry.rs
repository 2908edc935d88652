// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Where everything is: the layout of groups, computed from six numbers of the
//! superblock and never stored.
//!
//! A group of 32256 blocks is 126 MiB, 63 times 2 MiB, so that 2 MiB of data can be
//! aligned to 2 MiB of the device in any group and one bitmap block with its header covers
//! the group. It starts with
//!
//! ```text
//! [superblock, group 0: and descriptors] [block bitmap] [inode bitmap] [inode table] data
//! ```

use crate::{Error, Result, BLOCK_SIZE, INODES_PER_BLOCK};
use core::ops::Range;

/// Blocks in a group: what 4032 bytes of bitmap cover.
pub const BLOCKS_PER_GROUP: u64 = 63 * 512;
/// First block of the group descriptor table.
pub const GDT_START: u64 = 1;
/// Descriptors in one block of the table.
pub const DESCRIPTORS_PER_BLOCK: u64 = 63;
/// Data blocks a last group must offer to be worth having.
pub const MIN_DATA_BLOCKS: u64 = 64;
/// Smallest volume: 8 MiB, in blocks.
pub const MIN_BLOCKS: u64 = 2048;
/// Smallest journal jbd2 accepts, in blocks.
pub const MIN_JOURNAL_BLOCKS: u64 = 1024;
/// Largest journal made: 64 MiB, in blocks. More only delays checkpoints.
pub const MAX_JOURNAL_BLOCKS: u64 = 16384;
/// One inode per this many bytes of a group.
pub const BYTES_PER_INODE: u64 = 16384;
/// Inodes in a group of full size.
pub const INODES_PER_FULL_GROUP: u64 = BLOCKS_PER_GROUP * BLOCK_SIZE as u64 / BYTES_PER_INODE;
/// Most groups whose descriptors still fit into group 0: about 236 TiB.
pub const MAX_GROUPS: u64 =
    (BLOCKS_PER_GROUP - 3 - INODES_PER_FULL_GROUP / INODES_PER_BLOCK - MIN_DATA_BLOCKS)
        * DESCRIPTORS_PER_BLOCK;

const _: () = assert!(INODES_PER_FULL_GROUP == 8064);
const _: () = assert!(MAX_GROUPS * BLOCKS_PER_GROUP > 128 << (40 - 12));

/// The shape of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of the filesystem.
    pub blocks_count: u64,
    /// Block groups.
    pub group_count: u64,
    /// Inodes per group.
    pub inodes_per_group: u64,
    /// Blocks of the group descriptor table.
    pub gdt_blocks: u64,
    /// First block of the journal.
    pub journal_start: u64,
    /// Blocks of the journal.
    pub journal_blocks: u64,
}

impl Geometry {
    /// The shape of a new volume on a device of `device_blocks` blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the device is too small or too large.
    pub fn plan(device_blocks: u64) -> Result<Geometry> {
        if device_blocks < MIN_BLOCKS {
            return Err(Error::Invalid("a volume needs at least 8 MiB"));
        }
        let mut geometry = Geometry {
            blocks_count: device_blocks,
            group_count: device_blocks.div_ceil(BLOCKS_PER_GROUP),
            inodes_per_group: INODES_PER_FULL_GROUP,
            gdt_blocks: 0,
            journal_start: 0,
            journal_blocks: 0,
        };
        if geometry.group_count == 1 {
            let inodes = device_blocks.saturating_mul(BLOCK_SIZE as u64) / BYTES_PER_INODE;
            geometry.inodes_per_group = inodes & !7;
        }
        // A tail that could hold little more than its own description is left out.
        if let Some(last) = geometry.group_count.checked_sub(1).filter(|last| *last > 0) {
            if geometry.blocks_in_group(last) < geometry.overhead(last) + MIN_DATA_BLOCKS {
                geometry.blocks_count = geometry.group_first_block(last);
                geometry.group_count = last;
            }
        }
        if geometry.group_count > MAX_GROUPS {
            return Err(Error::Invalid("a volume can have at most 236 TiB"));
        }
        geometry.gdt_blocks = geometry.group_count.div_ceil(DESCRIPTORS_PER_BLOCK);
        geometry.journal_blocks =
            (geometry.blocks_count / 64).clamp(MIN_JOURNAL_BLOCKS, MAX_JOURNAL_BLOCKS);
        let home = (0..geometry.group_count)
            .find(|g| {
                let used = geometry.overhead(*g) + MIN_DATA_BLOCKS + geometry.journal_blocks;
                geometry.blocks_in_group(*g) >= used
            })
            .ok_or(Error::Invalid("the device has no room for a journal"))?;
        geometry.journal_start = geometry.group_first_block(home) + geometry.overhead(home);
        geometry.check().map_err(Error::Invalid)?;
        Ok(geometry)
    }

    /// Checks that the numbers fit each other, so that the methods below cannot overflow.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn check(&self) -> core::result::Result<(), &'static str> {
        if self.blocks_count < MIN_BLOCKS || self.group_count > MAX_GROUPS {
            return Err("superblock: block count is out of range");
        }
        if self.blocks_count.div_ceil(BLOCKS_PER_GROUP) != self.group_count {
            return Err("superblock: group count does not fit the block count");
        }
        if self.inodes_per_group == 0
            || !self.inodes_per_group.is_multiple_of(8)
            || self.inodes_per_group > BLOCKS_PER_GROUP
            || self.inodes_per_group < crate::FIRST_INO
        {
            return Err("superblock: inodes per group is out of range");
        }
        if self.gdt_blocks != self.group_count.div_ceil(DESCRIPTORS_PER_BLOCK) {
            return Err("superblock: descriptor table does not fit the group count");
        }
        let last = self.group_count.saturating_sub(1);
        for group in [0, last] {
            if self.blocks_in_group(group) < self.overhead(group).saturating_add(MIN_DATA_BLOCKS) {
                return Err("superblock: a group is smaller than its own metadata");
            }
        }
        // One contiguous range, behind the metadata of the group it is in.
        if self.journal_blocks < MIN_JOURNAL_BLOCKS || self.journal_blocks > BLOCKS_PER_GROUP {
            return Err("superblock: journal size is out of range");
        }
        if self.journal_start >= self.blocks_count {
            return Err("superblock: journal starts past the end");
        }
        let home = self.group_of_block(self.journal_start);
        let first = self.group_first_block(home);
        let end = self.journal_start.saturating_add(self.journal_blocks);
        if self.journal_start < first + self.overhead(home)
            || end > first + self.blocks_in_group(home)
        {
            return Err("superblock: journal overlaps other metadata");
        }
        Ok(())
    }

    /// The group that `block` is in.
    pub fn group_of_block(&self, block: u64) -> u64 {
        block / BLOCKS_PER_GROUP
    }

    /// The first block of `group`, which exists.
    pub fn group_first_block(&self, group: u64) -> u64 {
        group.saturating_mul(BLOCKS_PER_GROUP)
    }

    /// Blocks in `group`: all the same but the last. Zero past the last.
    pub fn blocks_in_group(&self, group: u64) -> u64 {
        self.blocks_count
            .saturating_sub(self.group_first_block(group))
            .min(BLOCKS_PER_GROUP)
    }

    /// Blocks of one group's inode table.
    pub fn inode_table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Inodes of the whole volume, the reserved ones included.
    pub fn inode_count(&self) -> u64 {
        self.inodes_per_group.saturating_mul(self.group_count)
    }

    /// Blocks before the block bitmap: the superblock copy, in group 0 the descriptors too.
    fn bitmap_offset(&self, group: u64) -> u64 {
        match group {
            0 => GDT_START.saturating_add(self.gdt_blocks),
            _ => u64::from(has_superblock(group)),
        }
    }

    /// Blocks at the start of `group` that describe it; the journal is not among them.
    pub fn overhead(&self, group: u64) -> u64 {
        self.bitmap_offset(group)
            .saturating_add(2)
            .saturating_add(self.inode_table_blocks())
    }

    /// The block that holds the block bitmap of `group`.
    pub fn block_bitmap_block(&self, group: u64) -> u64 {
        self.group_first_block(group)
            .saturating_add(self.bitmap_offset(group))
    }

    /// The block that holds the inode bitmap of `group`.
    pub fn inode_bitmap_block(&self, group: u64) -> u64 {
        self.block_bitmap_block(group).saturating_add(1)
    }

    /// Block number `index` of the inode table of `group`.
    pub fn inode_table_block(&self, group: u64, index: u64) -> u64 {
        self.block_bitmap_block(group)
            .saturating_add(2)
            .saturating_add(index)
    }

    /// The block of the descriptor table that describes `group`, and the index in it.
    pub fn descriptor_location(&self, group: u64) -> (u64, usize) {
        let block = GDT_START.saturating_add(group / DESCRIPTORS_PER_BLOCK);
        (block, (group % DESCRIPTORS_PER_BLOCK) as usize)
    }

    /// True for the number of an inode this volume has room for.
    pub fn is_inode(&self, ino: u64) -> bool {
        ino >= 1 && ino <= self.inode_count()
    }

    /// Group and index within the group of inode `ino`; nothing if there is no such inode.
    pub fn inode_position(&self, ino: u64) -> Option<(u64, u64)> {
        let index = ino.checked_sub(1).filter(|_| self.is_inode(ino))?;
        Some((
            index.checked_div(self.inodes_per_group)?,
            index.checked_rem(self.inodes_per_group)?,
        ))
    }

    /// The number of the inode at `index` of `group`.
    pub fn ino(&self, group: u64, index: u64) -> u64 {
        group
            .saturating_mul(self.inodes_per_group)
            .saturating_add(index)
            .saturating_add(1)
    }

    /// The block and the byte in it at which inode `ino` lies; nothing if there is no such
    /// inode.
    pub fn inode_location(&self, ino: u64) -> Option<(u64, usize)> {
        let (group, index) = self.inode_position(ino)?;
        let block = self.inode_table_block(group, index / INODES_PER_BLOCK);
        Some((
            block,
            (index % INODES_PER_BLOCK) as usize * crate::INODE_SIZE,
        ))
    }

    /// The blocks of `group` that never hold data, as at most two ranges of block numbers.
    pub fn metadata_in_group(&self, group: u64) -> impl Iterator<Item = Range<u64>> {
        let first = self.group_first_block(group);
        let own = first..first.saturating_add(self.overhead(group));
        let journal = if self.group_of_block(self.journal_start) == group {
            self.journal_start..self.journal_start.saturating_add(self.journal_blocks)
        } else {
            0..0
        };
        [own, journal].into_iter().filter(|range| !range.is_empty())
    }

    /// Blocks of `group` that can hold data.
    pub fn data_blocks_in_group(&self, group: u64) -> u64 {
        let metadata = self
            .metadata_in_group(group)
            .map(|range| range.end.saturating_sub(range.start))
            .fold(0u64, u64::saturating_add);
        self.blocks_in_group(group).saturating_sub(metadata)
    }

    /// True if `block` is not for data: metadata of its group, journal, or past the end.
    pub fn is_metadata(&self, block: u64) -> bool {
        block >= self.blocks_count
            || self
                .metadata_in_group(self.group_of_block(block))
                .any(|range| range.contains(&block))
    }

    /// True if all of `start..start + len` can hold data. The range may span groups; an
    /// extent never does more than it covers.
    pub fn is_data_range(&self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len) else {
            return false;
        };
        if len == 0 || end > self.blocks_count {
            return false;
        }
        let groups = self.group_of_block(start)..=self.group_of_block(end.saturating_sub(1));
        groups.into_iter().all(|group| {
            self.metadata_in_group(group)
                .all(|range| range.end <= start || range.start >= end)
        })
    }
}

/// True if the first block of `group` holds a superblock: groups 0 and 1 and the powers of
/// 3, 5 and 7, which are far apart but not all at once.
pub fn has_superblock(group: u64) -> bool {
    let is_power = |base: u64| {
        let mut power = base;
        while power < group {
            power = power.saturating_mul(base);
        }
        power == group
    };
    group <= 1 || is_power(3) || is_power(5) || is_power(7)
}
