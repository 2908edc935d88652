// SPDX-License-Identifier: Apache-2.0

//! Bitmaps and counters, compared with what was found in use.

use super::inodes::is_dir;
use super::{words, Mend, Walk};
use crate::{Device, Image};
use libvexfs::alloc::{initial_block_bitmap, initial_inode_bitmap};
use libvexfs::Blocks;
use vexfs_format::geometry::GDT_START;
use vexfs_format::group::{bits, BLOCK_UNINIT, INODE_UNINIT, PAYLOAD_BYTES};
use vexfs_format::header::{MAGIC_BLOCK_BITMAP, MAGIC_GROUPS};

impl Walk<'_> {
    pub(super) fn groups<D: Device>(&mut self, image: &Image<D>) {
        let mut directories = vec![0u32; self.found.groups.len()];
        for seen in self.inodes.iter().filter(|seen| is_dir(seen.mode)) {
            if let Some((group, _)) = image.geometry.inode_position(seen.ino) {
                directories[group as usize] += 1;
            }
        }
        let complete = self.found.complete;
        for block in image.lost_descriptors.clone() {
            let error = match image.read(block, MAGIC_GROUPS, block - GDT_START) {
                Err(error) => words(error),
                Ok(_) => format!("block {block}: a descriptor breaks a rule"),
            };
            let text = format!("group descriptors: {error}");
            self.problem(text, Some(Mend::Descriptors(block)));
        }
        for (group, directories) in (0u64..).zip(directories) {
            self.group(image, group, directories, complete);
        }
        let groups = &self.found.groups;
        let certain_in = |block| {
            let mut of = (0u64..).zip(groups);
            of.all(|(group, g)| image.geometry.descriptor_location(group).0 != block || g.certain)
        };
        for problem in &mut self.found.problems {
            let mend = problem.mend.take();
            problem.mend = mend.filter(|mend| match mend {
                Mend::Group(group) => groups[*group as usize].certain,
                Mend::Descriptors(block) => certain_in(*block),
                _ => true,
            });
        }
    }

    fn group<D: Device>(&mut self, image: &Image<D>, group: u64, directories: u32, complete: bool) {
        let have = image.groups[group as usize];
        let at = group as usize;
        let (descriptors, _) = image.geometry.descriptor_location(group);
        let lost = image.lost_descriptors.contains(&descriptors);
        let should = &mut self.found.groups[at];
        let untouched = have.flags & (BLOCK_UNINIT | INODE_UNINIT) == BLOCK_UNINIT | INODE_UNINIT;
        if untouched && should.blocks.is_empty() && !lost {
            // Its counts were compared with that when they were read.
            should.certain = true;
            return;
        }
        should.blocks_mut(&image.geometry, group);
        if should.inodes.is_empty() {
            should.inodes = vec![0; PAYLOAD_BYTES];
            initial_inode_bitmap(&image.geometry, &mut should.inodes);
        }
        let mut problems = Vec::new();
        let on_disk = self.block_bitmap(image, group, &mut problems);
        let should = &mut self.found.groups[at];
        if let (Some(is), false) = (&on_disk, complete) {
            // What is in use without an owner may belong to what could not be read.
            for (to, from) in should.blocks.iter_mut().zip(is) {
                *to |= from;
            }
        }
        let zeros = |bits: &[u8]| bits.iter().map(|byte| byte.count_zeros()).sum::<u32>();
        let (free_blocks, free_inodes) = (zeros(&should.blocks), zeros(&should.inodes));
        let blocks_differ = on_disk.as_ref().is_some_and(|is| *is != should.blocks);
        should.certain = complete || (on_disk.is_some() && !lost);
        should.summary = have;
        should.summary.free_blocks = free_blocks;
        should.summary.free_inodes = free_inodes;
        // One that can't be read may be a directory.
        let directories = if complete {
            directories
        } else {
            have.used_dirs
        };
        should.summary.used_dirs = directories;
        if blocks_differ || on_disk.is_none() {
            should.summary.flags &= !BLOCK_UNINIT;
        }
        let inodes_uninit = have.flags & INODE_UNINIT != 0;
        if inodes_uninit && u64::from(free_inodes) != image.geometry.inodes_per_group {
            should.summary.flags &= !INODE_UNINIT;
        }
        if blocks_differ {
            problems.push("its block bitmap does not fit what is in use".into());
        }
        if lost {
            // All its counts are guesses.
            for what in problems {
                self.problem(format!("group {group}: {what}"), Some(Mend::Group(group)));
            }
            return;
        }
        let counts = [
            (have.free_blocks, free_blocks, "free blocks"),
            (have.free_inodes, free_inodes, "free inodes"),
            (have.used_dirs, directories, "directories"),
        ];
        for (have, should, what) in counts {
            if have != should {
                problems.push(format!("{have} {what}, should be {should}"));
            }
        }
        for what in problems {
            self.problem(format!("group {group}: {what}"), Some(Mend::Group(group)));
        }
        if self.found.problems.is_empty() {
            let group = &mut self.found.groups[at];
            (group.blocks, group.inodes) = (Vec::new(), Vec::new());
        }
    }

    /// The block bitmap of a group as it is on disk; none if it can't be read.
    fn block_bitmap<D: Device>(
        &self,
        image: &Image<D>,
        group: u64,
        problems: &mut Vec<String>,
    ) -> Option<Vec<u8>> {
        if image.groups[group as usize].flags & BLOCK_UNINIT != 0 {
            let mut bitmap = vec![0; PAYLOAD_BYTES];
            initial_block_bitmap(&image.geometry, group, &mut bitmap);
            return Some(bitmap);
        }
        let block = image.geometry.block_bitmap_block(group);
        match image.read(block, MAGIC_BLOCK_BITMAP, group) {
            Ok(buf) => Some(bits(&buf).to_vec()),
            Err(error) => {
                problems.push(words(error));
                None
            }
        }
    }
}
