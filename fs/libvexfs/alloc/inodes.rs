// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Allocating and freeing inodes.

use super::bits::{fill, Bits};
use super::{Allocator, GroupSummary};
use crate::{Blocks, Error, Result, Txn};
use vexfs_format::geometry::BLOCKS_PER_GROUP;
use vexfs_format::group::{bits, bits_mut, INODE_UNINIT};
use vexfs_format::header::{check_identity, MAGIC_INODE_BITMAP};
use vexfs_format::{Geometry, FIRST_INO, INODES_PER_BLOCK};

/// Groups among which a new directory looks for a quiet one.
const DIR_WINDOW: u64 = 32;
/// Directories that count as one when groups are compared: so many stay together before
/// the next group is better.
const DIR_CLUSTER: u32 = 16;

/// Writes to `bitmap` (4032 bytes) the bits of a group without inodes: those behind the
/// last inode are in use.
pub fn initial_inode_bitmap(geo: &Geometry, bitmap: &mut [u8]) {
    bitmap.fill(0);
    let len = geo.inodes_per_group as usize;
    fill(bitmap, len..BLOCKS_PER_GROUP as usize, true);
}

impl Allocator<'_> {
    fn inode_bitmap<S: Blocks>(&self, s: &S, group: u64) -> Result<(u64, S::Buf)> {
        let block = self.geo.inode_bitmap_block(group);
        let buf = s.read(block, MAGIC_INODE_BITMAP, group)?;
        check_identity(block, MAGIC_INODE_BITMAP, group, &buf)?;
        Ok((block, buf))
    }

    /// Allocates an inode and returns its number. A file goes to the group of its directory
    /// or one near it. A directory goes to a group near its parent's that has few of them
    /// and room for their files (after Orlov, as in fs/ext4/ialloc.c). The inode's bytes are
    /// zero or those of a freed inode; the host writes it in the same transaction.
    ///
    /// # Errors
    ///
    /// `NoSpace` if there is no free inode; `Corrupt` naming the bitmap or descriptor; those
    /// of the transaction.
    pub fn allocate_inode<T: Txn>(
        &mut self,
        t: &mut T,
        parent_group: u64,
        is_dir: bool,
    ) -> Result<u64> {
        let group = match is_dir {
            true => self.group_for_dir(parent_group),
            false => None,
        };
        let group = group
            .or_else(|| self.group_for_file(parent_group))
            .ok_or(Error::NoSpace)?;
        let summary = self.summary(group)?;
        let (block, mut buf) = match summary.flags & INODE_UNINIT {
            0 => self.inode_bitmap(t, group)?,
            _ => {
                let block = self.geo.inode_bitmap_block(group);
                let mut buf = t.create(block, MAGIC_INODE_BITMAP, group)?;
                initial_inode_bitmap(self.geo, bits_mut(t.modify(&mut buf)?));
                (block, buf)
            }
        };
        let corrupt = |what| Error::Corrupt { block, what };
        let map = Bits {
            used: bits(&buf),
            withheld: None,
        };
        let end = self.geo.inodes_per_group as usize;
        let index = map.find(0..end, false);
        if index >= end {
            return Err(corrupt(
                "inode bitmap: full, but its group counts free inodes",
            ));
        }
        let ino = self.geo.ino(group, index as u64);
        if ino < FIRST_INO {
            return Err(corrupt("inode bitmap: a reserved inode is free"));
        }
        // The lowest free inode: all table blocks before its own have been made.
        let table = index as u64 / INODES_PER_BLOCK;
        let made = u64::from(summary.itable_init_blocks);
        if table > made {
            return Err(corrupt("inode bitmap: inodes in use were never made"));
        }
        if table == made {
            t.init_inode_block(self.geo.inode_table_block(group, table))?;
        }
        fill(
            bits_mut(t.modify(&mut buf)?),
            index..index.saturating_add(1),
            true,
        );
        drop(buf);
        self.update(t, group, |summary| {
            summary.flags &= !INODE_UNINIT;
            summary.free_inodes = summary
                .free_inodes
                .checked_sub(1)
                .ok_or("group descriptor: fewer free inodes than its bitmap has")?;
            if is_dir {
                summary.used_dirs = summary.used_dirs.saturating_add(1);
            }
            if table == made {
                summary.itable_init_blocks = summary.itable_init_blocks.saturating_add(1);
            }
            Ok(())
        })?;
        Ok(ino)
    }

    /// The groups from `start` on, all around.
    fn groups_from(
        &self,
        start: u64,
        count: u64,
    ) -> impl Iterator<Item = (u64, GroupSummary)> + '_ {
        let all = self.geo.group_count;
        (0..count.min(all)).filter_map(move |step| {
            let group = start.saturating_add(step).checked_rem(all)?;
            Some((group, self.summary(group).ok()?))
        })
    }

    fn group_for_file(&self, parent: u64) -> Option<u64> {
        let all = self.geo.group_count;
        let with_room = |(group, summary): (u64, GroupSummary)| {
            (summary.free_inodes > 0 && summary.free_blocks > 0).then_some(group)
        };
        let any =
            |(group, summary): (u64, GroupSummary)| (summary.free_inodes > 0).then_some(group);
        self.groups_from(parent, all)
            .find_map(with_room)
            .or_else(|| self.groups_from(parent, all).find_map(any))
    }

    fn group_for_dir(&self, parent: u64) -> Option<u64> {
        let inodes = self.geo.inodes_per_group / 4;
        let blocks = BLOCKS_PER_GROUP / 8;
        self.groups_from(parent, DIR_WINDOW)
            .filter(|(_, summary)| {
                u64::from(summary.free_inodes) > inodes && u64::from(summary.free_blocks) > blocks
            })
            // The first of the best: nearest to the parent.
            .min_by_key(|(_, summary)| summary.used_dirs / DIR_CLUSTER)
            .map(|(group, _)| group)
    }

    /// Frees inode `ino`, whose bytes the host has zeroed.
    ///
    /// # Errors
    ///
    /// `CorruptInode` if there is no such inode or it is reserved; `Corrupt` naming the
    /// bitmap if it is free already; those of the transaction.
    pub fn free_inode<T: Txn>(&mut self, t: &mut T, ino: u64, was_dir: bool) -> Result<()> {
        let (group, index) = self
            .geo
            .inode_position(ino)
            .filter(|_| ino >= FIRST_INO)
            .ok_or(Error::CorruptInode {
                ino,
                what: "to be freed, but no inode of this volume",
            })?;
        if !self.inode_in_use(t, ino)? {
            return Err(Error::Corrupt {
                block: self.geo.inode_bitmap_block(group),
                what: "inode bitmap: an inode is freed twice",
            });
        }
        let (_, mut buf) = self.inode_bitmap(t, group)?;
        let index = index as usize;
        fill(
            bits_mut(t.modify(&mut buf)?),
            index..index.saturating_add(1),
            false,
        );
        drop(buf);
        self.update(t, group, |summary| {
            summary.free_inodes = summary.free_inodes.saturating_add(1);
            if was_dir {
                summary.used_dirs = summary
                    .used_dirs
                    .checked_sub(1)
                    .ok_or("group descriptor: fewer directories than there are")?;
            }
            Ok(())
        })
    }

    /// True if inode `ino` is in use; only then do its bytes mean something. False for a
    /// number this volume has no inode for: the number may come from a file handle.
    ///
    /// # Errors
    ///
    /// Those of [`Blocks::read`]; `Corrupt` if the inode table block was never made.
    pub fn inode_in_use<S: Blocks>(&self, s: &S, ino: u64) -> Result<bool> {
        let Some((group, index)) = self.geo.inode_position(ino) else {
            return Ok(false);
        };
        let summary = self.summary(group)?;
        if summary.flags & INODE_UNINIT != 0 {
            return Ok(false);
        }
        let (block, buf) = self.inode_bitmap(s, group)?;
        let map = Bits {
            used: bits(&buf),
            withheld: None,
        };
        let index_bit = index as usize;
        let used = map.find(index_bit..index_bit.saturating_add(1), true) == index_bit;
        if used && index / INODES_PER_BLOCK >= u64::from(summary.itable_init_blocks) {
            return Err(Error::Corrupt {
                block,
                what: "inode bitmap: inodes in use were never made",
            });
        }
        Ok(used)
    }
}
