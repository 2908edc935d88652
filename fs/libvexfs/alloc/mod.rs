// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Blocks and inodes, by group.
//!
//! The bitmaps on disk say what is in use. How much of each group is, the host keeps in
//! memory as one [`GroupSummary`] per group, the same as the group's descriptor on disk;
//! every change goes to bitmap, descriptor and summary together, and what does not agree
//! is reported as corruption of the block that says so. If a transaction is given up, the
//! summaries have to be loaded again.
//!
//! - this file: summaries and descriptors; `blocks.rs`; `inodes.rs`; `bits.rs`: runs of bits

pub mod bits;
mod blocks;
mod inodes;

pub use blocks::initial_block_bitmap;
pub use inodes::initial_inode_bitmap;

use crate::{Blocks, Error, Result, Txn};
use vexfs_format::geometry::GDT_START;
use vexfs_format::group::{Descriptor, BLOCK_UNINIT, INODE_UNINIT};
use vexfs_format::header::{check_identity, MAGIC_GROUPS};
use vexfs_format::Geometry;

/// Blocks one allocation can join to its transaction: bitmap and descriptor.
pub const ALLOCATE_BLOCKS_CREDITS: u32 = 2;
/// Blocks freeing one range can join to its transaction: an extent of 2^20 blocks touches up
/// to 34 groups, each with a bitmap and at most two descriptor blocks for all of them.
pub const FREE_EXTENT_CREDITS: u32 = 34 + 2;
/// Blocks freeing a range of at most one group's size can join to its transaction.
pub const FREE_BLOCKS_CREDITS: u32 = 4;
/// Blocks one inode allocation can join to its transaction: bitmap, descriptor, table block.
pub const ALLOCATE_INODE_CREDITS: u32 = 3;
/// Blocks freeing an inode can join to its transaction: bitmap and descriptor.
pub const FREE_INODE_CREDITS: u32 = 2;

/// What a group's descriptor says, in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSummary {
    /// Blocks not in use.
    pub free_blocks: u32,
    /// Inodes not in use.
    pub free_inodes: u32,
    /// Directories.
    pub used_dirs: u32,
    /// Blocks of the inode table that have been made.
    pub itable_init_blocks: u32,
    /// `BLOCK_UNINIT`, `INODE_UNINIT` of `format::group`.
    pub flags: u16,
}

impl GroupSummary {
    /// The summary of a group that nothing was ever put into.
    pub fn untouched(geo: &Geometry, group: u64) -> GroupSummary {
        GroupSummary {
            // A group has at most 32256 of either.
            free_blocks: geo.data_blocks_in_group(group) as u32,
            free_inodes: geo.inodes_per_group as u32,
            used_dirs: 0,
            itable_init_blocks: 0,
            flags: BLOCK_UNINIT | INODE_UNINIT,
        }
    }

    /// The descriptor that says the same on disk.
    pub fn to_descriptor(self) -> Descriptor {
        Descriptor {
            free_blocks: self.free_blocks.into(),
            free_inodes: self.free_inodes.into(),
            used_dirs: self.used_dirs.into(),
            itable_init_blocks: self.itable_init_blocks.into(),
            flags: self.flags.into(),
            reserved: [0; 46],
        }
    }

    fn from_descriptor(descriptor: &Descriptor) -> GroupSummary {
        GroupSummary {
            free_blocks: descriptor.free_blocks.get(),
            free_inodes: descriptor.free_inodes.get(),
            used_dirs: descriptor.used_dirs.get(),
            itable_init_blocks: descriptor.itable_init_blocks.get(),
            flags: descriptor.flags.get(),
        }
    }

    fn check(&self, geo: &Geometry, group: u64) -> core::result::Result<(), &'static str> {
        let data = geo.data_blocks_in_group(group);
        let in_use = geo
            .inodes_per_group
            .checked_sub(self.free_inodes.into())
            .ok_or("group descriptor: more free inodes than there are")?;
        if u64::from(self.free_blocks) > data {
            return Err("group descriptor: more free blocks than there are");
        }
        if u64::from(self.used_dirs) > in_use {
            return Err("group descriptor: more directories than inodes in use");
        }
        if u64::from(self.itable_init_blocks) > geo.inode_table_blocks() {
            return Err("group descriptor: inode table is too long");
        }
        if self.flags & !(BLOCK_UNINIT | INODE_UNINIT) != 0 {
            return Err("group descriptor: unknown flag");
        }
        if self.flags & BLOCK_UNINIT != 0 && u64::from(self.free_blocks) != data {
            return Err("group descriptor: blocks in use, but no bitmap");
        }
        if self.flags & INODE_UNINIT != 0 && in_use != 0 {
            return Err("group descriptor: inodes in use, but no bitmap");
        }
        Ok(())
    }
}

/// Blocks freed by a transaction that has not committed yet: after a crash they would
/// belong to their old owner again, so nobody else may write to them before.
pub trait Withheld {
    /// A bitmap as on disk, 4032 bytes, of the blocks of `group` that are free but may not
    /// be used; nothing if there are none.
    fn bitmap(&self, group: u64) -> Option<&[u8]>;
}

/// Nothing is withheld.
impl Withheld for () {
    fn bitmap(&self, _group: u64) -> Option<&[u8]> {
        None
    }
}

/// What is free on the whole volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks that can hold data.
    pub data_blocks: u64,
    /// Blocks not in use.
    pub free_blocks: u64,
    /// Inodes not in use.
    pub free_inodes: u64,
    /// Directories.
    pub used_dirs: u64,
}

/// Reads all descriptors into `groups`, which has one place for each group.
///
/// # Errors
///
/// Those of [`Blocks::read`]; `Corrupt` for a descriptor that breaks a rule; `Invalid` if
/// `groups` has the wrong length.
pub fn load_summaries<S: Blocks>(
    s: &S,
    geo: &Geometry,
    groups: &mut [GroupSummary],
) -> Result<Totals> {
    if groups.len() as u64 != geo.group_count {
        return Err(Error::Invalid("one summary is needed for each group"));
    }
    let mut buf = None;
    for (group, place) in (0u64..).zip(groups.iter_mut()) {
        let (block, index) = geo.descriptor_location(group);
        if index == 0 {
            drop(buf.take());
            buf = Some(read_descriptors(s, block)?);
        }
        let bytes = buf.as_deref().unwrap_or(&[]);
        *place = summary_in(bytes, geo, group)?;
    }
    Ok(totals(geo, groups))
}

/// Reads the descriptor of one group.
///
/// # Errors
///
/// Those of [`Blocks::read`]; `Corrupt` for a descriptor that breaks a rule.
pub fn load_summary<S: Blocks>(s: &S, geo: &Geometry, group: u64) -> Result<GroupSummary> {
    let (block, _) = geo.descriptor_location(group);
    summary_in(&read_descriptors(s, block)?, geo, group)
}

/// The summary of `group` in its block of descriptors.
fn summary_in(bytes: &[u8], geo: &Geometry, group: u64) -> Result<GroupSummary> {
    let (block, index) = geo.descriptor_location(group);
    let corrupt = |what| Error::Corrupt { block, what };
    let summary = Descriptor::of(bytes, index)
        .map(GroupSummary::from_descriptor)
        .ok_or(corrupt("group descriptor: outside its block"))?;
    summary.check(geo, group).map_err(corrupt)?;
    Ok(summary)
}

/// Adds the summaries up.
pub fn totals(geo: &Geometry, groups: &[GroupSummary]) -> Totals {
    let mut totals = Totals::default();
    for (group, summary) in (0u64..).zip(groups) {
        let add = |sum: &mut u64, value: u64| *sum = sum.saturating_add(value);
        add(&mut totals.data_blocks, geo.data_blocks_in_group(group));
        add(&mut totals.free_blocks, summary.free_blocks.into());
        add(&mut totals.free_inodes, summary.free_inodes.into());
        add(&mut totals.used_dirs, summary.used_dirs.into());
    }
    totals
}

fn read_descriptors<S: Blocks>(s: &S, block: u64) -> Result<S::Buf> {
    let owner = block.saturating_sub(GDT_START);
    let buf = s.read(block, MAGIC_GROUPS, owner)?;
    check_identity(block, MAGIC_GROUPS, owner, &buf)?;
    Ok(buf)
}

/// Allocates and frees. Lives as long as the host holds the lock over `groups`.
pub struct Allocator<'a> {
    /// The shape of the volume.
    pub geo: &'a Geometry,
    /// One summary for each group, see [`load_summaries`].
    pub groups: &'a mut [GroupSummary],
}

impl Allocator<'_> {
    fn summary(&self, group: u64) -> Result<GroupSummary> {
        usize::try_from(group)
            .ok()
            .and_then(|group| self.groups.get(group))
            .copied()
            .ok_or(Error::Invalid("no such group"))
    }

    /// Changes descriptor and summary of `group` together.
    fn update<T: Txn>(
        &mut self,
        t: &mut T,
        group: u64,
        change: impl FnOnce(&mut GroupSummary) -> core::result::Result<(), &'static str>,
    ) -> Result<()> {
        let (block, index) = self.geo.descriptor_location(group);
        let corrupt = |what| Error::Corrupt { block, what };
        let old = self.summary(group)?;
        let mut buf = read_descriptors(t, block)?;
        let on_disk = Descriptor::of(&buf, index).map(GroupSummary::from_descriptor);
        if on_disk != Some(old) {
            return Err(corrupt("group descriptor: changed behind our back"));
        }
        let mut new = old;
        change(&mut new).map_err(corrupt)?;
        new.check(self.geo, group).map_err(corrupt)?;
        new.to_descriptor().store(t.modify(&mut buf)?, index);
        if let Some(place) = usize::try_from(group)
            .ok()
            .and_then(|group| self.groups.get_mut(group))
        {
            *place = new;
        }
        Ok(())
    }
}
