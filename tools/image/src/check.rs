// SPDX-License-Identifier: Apache-2.0

//! Whether everything on a volume fits together: every inode in use is walked, and what it
//! owns is compared with the bitmaps, counters and link counts.

use crate::{indexes, Device, Image};
use libvexfs::alloc::{initial_block_bitmap, GroupSummary};
use libvexfs::{check, dir, index, orphan, Blocks};
use std::collections::{BTreeMap, BTreeSet};
use vexfs_format::extent::Extent;
use vexfs_format::group::{bits, BLOCK_UNINIT, PAYLOAD_BYTES};
use vexfs_format::header::MAGIC_BLOCK_BITMAP;
use vexfs_format::inode::{has_extents, FLAG_HIDDEN, FLAG_VECTOR};
use vexfs_format::{Inode, FIRST_INO, ORPHAN_INO, ROOT_INO};

const S_IFMT: u16 = 0o170000;
const S_IFDIR: u16 = 0o040000;

/// What a sound volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Directories, the root among them.
    pub directories: u64,
    /// Other inodes with a name.
    pub files: u64,
    /// Inodes without a name that the orphan tree knows.
    pub orphans: u64,
    /// Blocks of data and tree nodes.
    pub blocks: u64,
}

/// Checks the volume as it is on the device.
///
/// # Errors
///
/// Everything that is wrong, one sentence each.
pub fn check<D: Device>(image: &mut Image<D>) -> Result<Report, Vec<String>> {
    let mut walk = Walk {
        used: (0..image.geometry.group_count)
            .map(|group| {
                let mut bitmap = vec![0; PAYLOAD_BYTES];
                initial_block_bitmap(&image.geometry, group, &mut bitmap);
                bitmap
            })
            .collect(),
        problems: Vec::new(),
        report: Report::default(),
    };
    walk.inodes(image);
    walk.bitmaps(image);
    match walk.problems.is_empty() {
        true => Ok(walk.report),
        false => Err(walk.problems),
    }
}

struct Walk {
    /// The block bitmaps as they should be.
    used: Vec<Vec<u8>>,
    problems: Vec<String>,
    report: Report,
}

impl Walk {
    fn claim<D: Device>(&mut self, image: &Image<D>, ino: u64, start: u64, len: u64) {
        if !image.geometry.is_data_range(start, len) {
            self.problems.push(format!(
                "inode {ino}: owns blocks {start}+{len}, which are not for data"
            ));
            return;
        }
        for block in start..start + len {
            let group = image.geometry.group_of_block(block);
            let bit = (block - image.geometry.group_first_block(group)) as usize;
            let byte = &mut self.used[group as usize][bit / 8];
            if *byte & 1 << (bit % 8) != 0 {
                let text = format!("inode {ino}: block {block} has another owner too");
                self.problems.push(text);
            }
            *byte |= 1 << (bit % 8);
        }
        self.report.blocks += len;
    }

    fn inodes<D: Device>(&mut self, image: &mut Image<D>) {
        let mut inodes = BTreeMap::new();
        for ino in 1..=image.geometry.inode_count() {
            let reserved = ino < FIRST_INO;
            let fixed = ino == ROOT_INO || ino == ORPHAN_INO;
            match image.inode_in_use(ino) {
                Ok(true) if reserved && !fixed => {}
                Ok(true) => match image.read_inode(ino) {
                    Ok(inode) => drop(inodes.insert(ino, inode)),
                    Err(error) => self.problems.push(format!("inode {ino}: {error:?}")),
                },
                Ok(false) if reserved => self
                    .problems
                    .push(format!("inode {ino}: reserved, but free")),
                Ok(false) => {}
                Err(error) => self.problems.push(format!("inode {ino}: {error:?}")),
            }
        }
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        let mut subdirs: BTreeMap<u64, u32> = BTreeMap::new();
        for (ino, inode) in &inodes {
            if let Err(error) = self.tree(image, *ino, inode, &inodes, &mut names, &mut subdirs) {
                self.problems.push(format!("inode {ino}: {error:?}"));
            }
        }
        let orphans = self.orphans(image, &inodes);
        self.containers(image, &inodes, &orphans);
        let mut dirs_by_group = vec![0u32; image.geometry.group_count as usize];
        for (ino, inode) in &inodes {
            let is_dir = inode.mode & S_IFMT == S_IFDIR;
            if is_dir {
                let group = (ino - 1) / image.geometry.inodes_per_group;
                dirs_by_group[group as usize] += 1;
            }
            let named = names.get(ino).copied().unwrap_or(0);
            let expected = match is_dir {
                true => 2 + subdirs.get(ino).copied().unwrap_or(0),
                false => named,
            };
            let hidden = inode.flags & FLAG_HIDDEN != 0;
            if named == 0 && orphans.contains(ino) {
                self.report.orphans += 1;
            } else if *ino != ROOT_INO && !hidden && named == 0 {
                self.problems.push(format!("inode {ino}: has no name"));
            } else if !hidden && inode.nlink != expected {
                let have = inode.nlink;
                self.problems
                    .push(format!("inode {ino}: {have} links, should be {expected}"));
            } else if is_dir {
                self.report.directories += 1;
            } else if !hidden {
                self.report.files += 1;
            }
        }
        for (group, (summary, dirs)) in image.groups.iter().zip(dirs_by_group).enumerate() {
            if summary.used_dirs != dirs {
                let have = summary.used_dirs;
                self.problems.push(format!(
                    "group {group}: {have} directories, should be {dirs}"
                ));
            }
            let in_use = inodes
                .keys()
                .chain(&[1, 3, 4, 6, 7, 8, 9, 10])
                .filter(|ino| (*ino - 1) / image.geometry.inodes_per_group == group as u64)
                .count() as u64;
            let free = image.geometry.inodes_per_group - in_use;
            if u64::from(summary.free_inodes) != free {
                let have = summary.free_inodes;
                self.problems.push(format!(
                    "group {group}: {have} free inodes, should be {free}"
                ));
            }
        }
    }

    /// What containers own besides their rows. No hidden inode is without an owner, or has two.
    fn containers<D: Device>(
        &mut self,
        image: &Image<D>,
        inodes: &BTreeMap<u64, Inode>,
        orphans: &BTreeSet<u64>,
    ) {
        let mut owned = BTreeSet::from([ORPHAN_INO]);
        let containers = inodes
            .iter()
            .filter(|(_, inode)| inode.flags & FLAG_VECTOR != 0);
        for (ino, inode) in containers {
            let area = &inode.vector;
            let mut parts = vec![area.row_meta_ino, area.key_map_ino, area.index_ino];
            if let Some(tree) = inodes.get(&area.index_ino) {
                let all =
                    index::for_each(image, &tree.tree_root, area.index_ino, |kind, record| {
                        parts.push(record.image_ino);
                        if let Some(disk) = inodes.get(&record.image_ino) {
                            let checked = indexes::check_image(image, kind, &record, disk, inode);
                            if let Err(what) = checked {
                                let image = record.image_ino;
                                self.problems.push(format!("inode {image}: {what}"));
                            }
                        }
                        Ok(())
                    });
                if let Err(error) = all {
                    self.problems.push(format!("inode {ino}: {error:?}"));
                }
            }
            for part in parts.into_iter().filter(|part| *part != 0) {
                let is_hidden = |i: &Inode| i.flags & FLAG_HIDDEN != 0 && i.parent_ino == *ino;
                if !inodes.get(&part).is_some_and(is_hidden) || !owned.insert(part) {
                    self.problems.push(format!(
                        "inode {part}: not a hidden inode of container {ino} alone"
                    ));
                }
            }
        }
        for (ino, inode) in inodes {
            let hidden = inode.flags & FLAG_HIDDEN != 0;
            if hidden && owned.contains(ino) == orphans.contains(ino) && *ino != ORPHAN_INO {
                self.problems.push(format!(
                    "inode {ino}: hidden, but neither a container's nor an orphan"
                ));
            }
        }
    }

    fn tree<D: Device>(
        &mut self,
        image: &Image<D>,
        ino: u64,
        inode: &Inode,
        inodes: &BTreeMap<u64, Inode>,
        names: &mut BTreeMap<u64, u32>,
        subdirs: &mut BTreeMap<u64, u32>,
    ) -> libvexfs::Result<()> {
        if !vexfs_format::inode::has_tree(inode.mode) {
            return Ok(());
        }
        let before = self.report.blocks;
        let mut nodes = Vec::new();
        let mut extents: Vec<Extent> = Vec::new();
        let is_file = has_extents(inode.mode, inode.flags);
        check::tree(
            image,
            &inode.tree_root,
            ino,
            &mut |block| {
                nodes.push(block);
                Ok(())
            },
            &mut |key, record| {
                if is_file {
                    let extent = Extent::parse(key, record)
                        .map_err(|what| libvexfs::Error::CorruptInode { ino, what })?;
                    extents.push(extent);
                }
                Ok(())
            },
        )?;
        for block in nodes {
            self.claim(image, ino, block, 1);
        }
        for pair in extents.windows(2) {
            if pair[0].end() > pair[1].logical {
                self.problems.push(format!("inode {ino}: extents overlap"));
            }
        }
        for extent in extents {
            self.claim(image, ino, extent.physical, extent.len);
        }
        let owned = self.report.blocks - before;
        if inode.blocks != owned {
            let have = inode.blocks;
            self.problems
                .push(format!("inode {ino}: {have} blocks, should be {owned}"));
        }
        if inode.mode & S_IFMT != S_IFDIR {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        dir::for_each_from(image, &inode.tree_root, ino, 0, |entry| {
            if !seen.insert(entry.name.to_vec()) {
                self.problems.push(format!("inode {ino}: a name is twice"));
            }
            *names.entry(entry.ino).or_default() += 1;
            let Some(target) = inodes.get(&entry.ino) else {
                let target = entry.ino;
                self.problems
                    .push(format!("inode {ino}: names inode {target}, which is free"));
                return Ok(true);
            };
            if u16::from(entry.file_type) != target.mode >> 12 {
                let target = entry.ino;
                self.problems
                    .push(format!("inode {ino}: wrong type for inode {target}"));
            }
            if target.mode & S_IFMT == S_IFDIR {
                *subdirs.entry(ino).or_default() += 1;
                if target.parent_ino != ino {
                    let target = entry.ino;
                    self.problems
                        .push(format!("inode {target}: parent is not inode {ino}"));
                }
            }
            Ok(true)
        })
    }

    fn orphans<D: Device>(
        &mut self,
        image: &Image<D>,
        inodes: &BTreeMap<u64, Inode>,
    ) -> BTreeSet<u64> {
        let mut orphans = BTreeSet::new();
        let Some(list) = inodes.get(&ORPHAN_INO) else {
            return orphans;
        };
        let mut from = 0;
        loop {
            match orphan::next(image, &list.tree_root, from) {
                Ok(Some(ino)) => {
                    if !inodes.contains_key(&ino) {
                        self.problems
                            .push(format!("inode {ino}: an orphan, but free"));
                    }
                    orphans.insert(ino);
                    from = ino + 1;
                }
                Ok(None) => return orphans,
                Err(error) => {
                    self.problems.push(format!("orphans: {error:?}"));
                    return orphans;
                }
            }
        }
    }

    fn bitmaps<D: Device>(&mut self, image: &Image<D>) {
        for (group, should) in self.used.iter().enumerate() {
            let summary: GroupSummary = image.groups[group];
            let group = group as u64;
            let free: u32 = should.iter().map(|byte| byte.count_zeros()).sum();
            if summary.free_blocks != free {
                let have = summary.free_blocks;
                self.problems.push(format!(
                    "group {group}: {have} free blocks, should be {free}"
                ));
            }
            if summary.flags & BLOCK_UNINIT != 0 {
                continue;
            }
            let block = image.geometry.block_bitmap_block(group);
            match image.read(block, MAGIC_BLOCK_BITMAP, group) {
                Ok(buf) if bits(&buf) == should.as_slice() => {}
                Ok(_) => self
                    .problems
                    .push(format!("group {group}: bitmap does not fit what is in use")),
                Err(error) => self.problems.push(format!("group {group}: {error:?}")),
            }
        }
    }
}
