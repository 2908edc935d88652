// SPDX-License-Identifier: Apache-2.0

//! Inodes in use, what their trees own, and the names that lead to them.

use super::{words, Mend, Path, Seen, Stopped, Walk};
use crate::{Device, Image};
use libvexfs::alloc::initial_inode_bitmap;
use libvexfs::{check, dir, orphan, Blocks, Error};
use std::collections::BTreeSet;
use vexfs_format::extent::Extent;
use vexfs_format::group::{bits, INODE_UNINIT, PAYLOAD_BYTES};
use vexfs_format::header::MAGIC_INODE_BITMAP;
use vexfs_format::inode::{has_extents, has_tree, FLAG_HIDDEN};
use vexfs_format::{Inode, FIRST_INO, INODES_PER_BLOCK, ORPHAN_INO, ROOT_INO};

const S_IFMT: u16 = 0o170000;
const S_IFDIR: u16 = 0o040000;

/// True for a directory.
pub(super) fn is_dir(mode: u16) -> bool {
    mode & S_IFMT == S_IFDIR
}

/// A directory entry that has to be looked at once more.
enum Odd {
    Twice(Vec<u8>),
    Lost(Vec<u8>),
    Free(Vec<u8>, u64),
    Type(Vec<u8>, u64),
    Parent(u64),
}

impl Walk<'_> {
    /// Finds the inodes in use, and claims what they own.
    pub(super) fn scan<D: Device>(&mut self, image: &mut Image<D>) -> Result<(), Stopped> {
        let geometry = image.geometry;
        for group in 0..geometry.group_count {
            self.step("groups", group, geometry.group_count)?;
            if image.groups[group as usize].flags & INODE_UNINIT != 0 {
                continue;
            }
            let mut used = self.inodes_in_use(image, group);
            for index in 0..geometry.inodes_per_group {
                if used[index as usize / 8] >> (index % 8) & 1 == 0 {
                    continue;
                }
                let ino = geometry.ino(group, index);
                let fixed = ino == ROOT_INO || ino == ORPHAN_INO;
                if ino < FIRST_INO && !fixed {
                    continue;
                }
                if !image.is_made(ino) {
                    let what = "in use, but its place in the inode table was never written";
                    self.unreadable("inode", Error::CorruptInode { ino, what });
                    continue;
                }
                if index % 1024 == 0 {
                    self.step("groups", group, geometry.group_count)?;
                }
                if !self.inode(image, group, ino) {
                    used[index as usize / 8] &= !(1 << (index % 8));
                }
            }
            self.found.groups[group as usize].inodes = used;
        }
        if self.seen(ROOT_INO).is_none() {
            self.found.complete = false;
        }
        Ok(())
    }

    /// The inode bitmap of a group, as it is; if it can't be read, as the inodes themselves say.
    fn inodes_in_use<D: Device>(&mut self, image: &mut Image<D>, group: u64) -> Vec<u8> {
        let geometry = image.geometry;
        let mut used = vec![0; PAYLOAD_BYTES];
        initial_inode_bitmap(&geometry, &mut used);
        if group == 0 {
            for index in 0..FIRST_INO - 1 {
                used[index as usize / 8] |= 1 << (index % 8);
            }
        }
        let summary = image.groups[group as usize];
        match image.read(
            geometry.inode_bitmap_block(group),
            MAGIC_INODE_BITMAP,
            group,
        ) {
            Ok(buf) => {
                let bits = bits(&buf);
                let missing = used.iter().zip(bits).any(|(must, is)| must & !is != 0);
                if missing {
                    let text =
                        format!("group {group}: a reserved inode, or one behind the last, is free");
                    self.problem(text, Some(Mend::Group(group)));
                }
                for (to, from) in used.iter_mut().zip(bits) {
                    *to |= from;
                }
            }
            Err(error) => {
                let text = format!("group {group}: {}", words(error));
                self.problem(text, Some(Mend::Group(group)));
                let made = u64::from(summary.itable_init_blocks) * INODES_PER_BLOCK;
                for index in 0..made.min(geometry.inodes_per_group) {
                    // Freed inodes are zeros.
                    if !image.is_zeroed(geometry.ino(group, index)) {
                        used[index as usize / 8] |= 1 << (index % 8);
                    }
                }
            }
        }
        used
    }

    /// Looks at an inode that its bitmap has as in use; says whether it is.
    fn inode<D: Device>(&mut self, image: &Image<D>, group: u64, ino: u64) -> bool {
        let inode = match image.read_inode(ino) {
            Ok(inode) => inode,
            Err(_) if ino >= FIRST_INO && image.is_zeroed(ino) => {
                let text = format!("inode {ino}: in use by its bitmap, but there is nothing in it");
                self.problem(text, Some(Mend::Group(group)));
                return false;
            }
            Err(error) => {
                self.unreadable("inode", error);
                return true;
            }
        };
        self.inodes.push(Seen {
            ino,
            parent: inode.parent_ino,
            nlink: inode.nlink,
            flags: inode.flags,
            names: 0,
            subdirs: 0,
            mode: inode.mode,
            orphan: false,
            owned: ino == ORPHAN_INO,
            doubtful: false,
            path: Path::Unknown,
        });
        if let Err(error) = self.tree(image, ino, &inode) {
            self.unreadable(&format!("inode {ino}"), error);
        }
        true
    }

    /// Claims the nodes of a tree, and the blocks of extents in it.
    fn tree<D: Device>(&mut self, image: &Image<D>, ino: u64, inode: &Inode) -> Result<(), Error> {
        if !has_tree(inode.mode) {
            return Ok(());
        }
        let before = self.found.report.blocks;
        let is_file = has_extents(inode.mode, inode.flags);
        let mut nodes = Vec::new();
        let mut extents: Vec<Extent> = Vec::new();
        let walked = check::tree(
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
                        .map_err(|what| Error::CorruptInode { ino, what })?;
                    extents.push(extent);
                }
                Ok(())
            },
        );
        // What was come by before an error is in use all the same.
        let mut apart = true;
        for block in nodes {
            apart &= self.claim(image, ino, block, 1);
        }
        for pair in extents.windows(2) {
            if pair[0].end() > pair[1].logical {
                self.problem(format!("inode {ino}: extents overlap"), None);
            }
        }
        for extent in extents {
            apart &= self.claim(image, ino, extent.physical, extent.len);
        }
        walked?;
        let owned = self.found.report.blocks - before;
        if inode.blocks != owned {
            let have = inode.blocks;
            self.problem(
                format!("inode {ino}: {have} blocks, should be {owned}"),
                apart.then_some(Mend::Blocks(ino, owned)),
            );
        }
        Ok(())
    }

    /// Marks blocks as in use; says whether that is all right.
    fn claim<D: Device>(&mut self, image: &Image<D>, ino: u64, start: u64, len: u64) -> bool {
        if !image.geometry.is_data_range(start, len) {
            let text = format!("inode {ino}: owns blocks {start}+{len}, which are not for data");
            self.problem(text, None);
            return false;
        }
        let mut first_shared = None;
        let mut shared = 0u64;
        for block in start..start + len {
            let group = image.geometry.group_of_block(block);
            let bit = (block - image.geometry.group_first_block(group)) as usize;
            let bitmap = self.found.groups[group as usize].blocks_mut(&image.geometry, group);
            let byte = &mut bitmap[bit / 8];
            if *byte & 1 << (bit % 8) != 0 {
                first_shared.get_or_insert(block);
                shared += 1;
            }
            *byte |= 1 << (bit % 8);
        }
        self.found.report.blocks += len;
        if let Some(block) = first_shared {
            let and = match shared {
                1 => String::new(),
                more => format!(", and {} behind it", more - 1),
            };
            let text = format!("inode {ino}: block {block} has another owner too{and}");
            self.problem(text, None);
        }
        first_shared.is_none()
    }

    /// Follows the names in all directories.
    pub(super) fn directories<D: Device>(&mut self, image: &mut Image<D>) -> Result<(), Stopped> {
        let all = self.inodes.len() as u64;
        for at in 0..self.inodes.len() {
            let Seen { ino, mode, .. } = self.inodes[at];
            if !is_dir(mode) {
                continue;
            }
            self.step("directories", at as u64, all)?;
            // Read before; a block may be damaged all the same.
            let read = image.read_inode(ino);
            let listed = read.and_then(|inode| self.entries(image, ino, &inode));
            match listed {
                Ok(odd) => odd.into_iter().for_each(|odd| self.odd(image, ino, odd)),
                // Who walked its tree has said what is wrong with a block.
                Err(Error::BadChecksum { .. } | Error::Corrupt { .. }) if !self.found.complete => {}
                Err(error) => self.unreadable(&format!("inode {ino}"), error),
            }
        }
        Ok(())
    }

    fn entries<D: Device>(
        &mut self,
        image: &Image<D>,
        ino: u64,
        inode: &Inode,
    ) -> Result<Vec<Odd>, Error> {
        let mut odd = Vec::new();
        let mut subdirs = 0;
        // Names with equal hashes are near each other.
        let (mut near, mut hash) = (BTreeSet::new(), 0);
        let seed = image.hash_seed;
        let walked = dir::for_each_from(image, &inode.tree_root, ino, 0, |entry| {
            let name = || entry.name.to_vec();
            if entry.cookie >> 8 != hash {
                near.clear();
                hash = entry.cookie >> 8;
            }
            if !near.insert(name()) {
                odd.push(Odd::Twice(name()));
            } else if dir::lookup(image, &inode.tree_root, ino, &seed, entry.name)?.is_none() {
                odd.push(Odd::Lost(name()));
            }
            let Some(target) = self.seen(entry.ino) else {
                odd.push(Odd::Free(name(), entry.ino));
                return Ok(true);
            };
            target.names += 1;
            if u16::from(entry.file_type) != target.mode >> 12 {
                odd.push(Odd::Type(name(), entry.ino));
            }
            if is_dir(target.mode) {
                subdirs += 1;
                if target.parent != ino {
                    odd.push(Odd::Parent(entry.ino));
                }
            }
            Ok(true)
        });
        if let Some(seen) = self.seen(ino) {
            seen.subdirs = subdirs;
        }
        walked.map(|()| odd)
    }

    fn odd<D: Device>(&mut self, image: &Image<D>, ino: u64, odd: Odd) {
        match odd {
            Odd::Twice(name) => {
                let name = String::from_utf8_lossy(&name);
                self.problem(
                    format!("inode {ino}: the name {name:?} is there twice"),
                    None,
                );
            }
            Odd::Lost(name) => {
                let name = String::from_utf8_lossy(&name);
                let text = format!("inode {ino}: the name {name:?} is where nobody looks for it");
                self.problem(text, None);
            }
            Odd::Free(name, target) => {
                let mend = match image.read_inode(target) {
                    Ok(_) if image.is_made(target) => Some(Mend::InUse(target)),
                    Ok(_) => None,
                    Err(_) if image.is_zeroed(target) => Some(Mend::Name(ino, name.clone())),
                    Err(_) => None,
                };
                let name = String::from_utf8_lossy(&name);
                let what = match &mend {
                    Some(Mend::InUse(_)) => "which its bitmap has as free",
                    Some(_) => "which is free",
                    None => "which can't be read, or was never made",
                };
                let text =
                    format!("inode {ino}: the name {name:?} leads to inode {target}, {what}");
                self.problem(text, mend);
            }
            Odd::Type(name, target) => {
                let name = String::from_utf8_lossy(&name);
                let text =
                    format!("inode {ino}: the name {name:?} has the wrong type for inode {target}");
                self.problem(text, None);
            }
            Odd::Parent(target) => {
                let mend = match self.seen(target) {
                    Some(seen) if seen.names == 1 => {
                        // The way to it is sound.
                        seen.parent = ino;
                        Some(Mend::Parent(target, ino))
                    }
                    _ => None,
                };
                let text =
                    format!("inode {target}: its parent is inode {ino}, but it says another");
                self.problem(text, mend);
            }
        }
    }

    /// Follows the list of orphans.
    pub(super) fn orphans<D: Device>(&mut self, image: &mut Image<D>) {
        if self.seen(ORPHAN_INO).is_none() {
            return;
        }
        let Ok(list) = image.read_inode(ORPHAN_INO) else {
            return;
        };
        let mut from = 0;
        loop {
            match orphan::next(image, &list.tree_root, from) {
                Ok(Some(ino)) => {
                    match self.seen(ino) {
                        Some(seen) => seen.orphan = true,
                        None => {
                            let text = format!("inode {ino}: an orphan, but free");
                            let mend = image.is_zeroed(ino).then_some(Mend::Orphan(ino));
                            self.problem(text, mend);
                        }
                    }
                    let Some(next) = ino.checked_add(1) else {
                        return;
                    };
                    from = next;
                }
                Ok(None) => return,
                Err(error) => return self.unreadable("orphans", error),
            }
        }
    }

    /// Looks for directories to which no path leads from the root: each of a ring of them has a name.
    pub(super) fn paths(&mut self) {
        let mut on_path = Vec::new();
        for at in 0..self.inodes.len() {
            let Seen { mode, names, .. } = self.inodes[at];
            if !is_dir(mode) || names == 0 {
                continue;
            }
            // Up to a directory of which it is known, or has been asked on this way.
            let (mut up, mut reached) = (Some(at), false);
            while let Some(at) = up {
                let seen = &mut self.inodes[at];
                reached = seen.ino == ROOT_INO || seen.path == Path::FromRoot;
                if reached || seen.path != Path::Unknown || !is_dir(seen.mode) {
                    break;
                }
                seen.path = Path::Asked;
                on_path.push(at);
                let parent = seen.parent;
                let found = self.inodes.binary_search_by_key(&parent, |seen| seen.ino);
                up = found.ok();
            }
            for at in on_path.drain(..) {
                self.inodes[at].path = if reached { Path::FromRoot } else { Path::Asked };
                let Seen { ino, names, .. } = self.inodes[at];
                // Without a name, or with a wrong parent, something else was said.
                if !reached && names > 0 && self.found.complete {
                    let text = format!("inode {ino}: no path leads here from the root directory");
                    self.problem(text, None);
                }
            }
        }
    }

    /// Compares link counts with the names that were found.
    pub(super) fn names(&mut self) {
        for at in 0..self.inodes.len() {
            let seen = self.inodes[at];
            let Seen {
                ino, names, nlink, ..
            } = seen;
            let expected = match is_dir(seen.mode) {
                true => 2 + seen.subdirs,
                false => names,
            };
            let hidden = seen.flags & FLAG_HIDDEN != 0;
            let complete = self.found.complete;
            if is_dir(seen.mode) && names > 1 {
                let text = format!("inode {ino}: a directory with {names} names");
                self.problem(text, None);
            }
            if names == 0 && seen.orphan {
                self.found.report.orphans += 1;
            } else if ino != ROOT_INO && !hidden && names == 0 {
                let free = complete && nlink == 0;
                let text = format!("inode {ino}: has no name");
                self.problem(text, free.then_some(Mend::Free(ino)));
            } else if !hidden && nlink != expected {
                let text = format!("inode {ino}: {nlink} links, should be {expected}");
                self.problem(text, complete.then_some(Mend::Links(ino, expected)));
            } else if is_dir(seen.mode) {
                self.found.report.directories += 1;
            } else if !hidden {
                self.found.report.files += 1;
            }
        }
    }
}
