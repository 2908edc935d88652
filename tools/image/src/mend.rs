// SPDX-License-Identifier: Apache-2.0

//! Mending what a check found.
//!
//! There is no journal here, so a repair that is cut off must leave a volume on which the next one goes on. Each is
//! a single block written, which a device does as a whole; what follows from it (space that is free now,
//! a count) is found by the next check and mended then. Bitmaps and the descriptor of a group are written one by
//! one, because each of them is made anew from what was found, and none is believed where they differ.
//! What can't be had so is left alone.

use crate::check::{Found, Mend};
use crate::{Device, Image, Transaction};
use libvexfs::{dir, index, orphan, Blocks, Error, Result, Txn};
use vexfs_format::group::{bits_mut, BLOCK_UNINIT, INODE_UNINIT};
use vexfs_format::header::{MAGIC_BLOCK_BITMAP, MAGIC_INODE_BITMAP};
use vexfs_format::{Inode, ORPHAN_INO};

/// Mends one thing that the check `found`, on the medium.
///
/// # Errors
///
/// `Invalid`, with a reason, if it can't be done by a single block; what reading and writing say.
pub fn mend<D: Device>(image: &mut Image<D>, found: &Found, mend: &Mend) -> Result<()> {
    match mend {
        Mend::Image(container, kind) => forget_image(image, *container, *kind)?,
        Mend::Free(ino) => {
            let mut t = image.begin();
            t.clear_inode(*ino)?;
            commit(t)?;
        }
        Mend::InUse(ino) => use_inode(image, *ino)?,
        Mend::Links(ino, links) => change(image, *ino, |inode| inode.nlink = *links)?,
        Mend::Blocks(ino, blocks) => change(image, *ino, |inode| inode.blocks = *blocks)?,
        Mend::Live(ino, live) => change(image, *ino, |inode| inode.vector.live = *live)?,
        Mend::Parent(ino, parent) => {
            let generation = image.read_inode(*parent)?.generation;
            change(image, *ino, |inode| {
                inode.parent_ino = *parent;
                inode.parent_generation = generation;
            })?;
        }
        Mend::Name(ino, name) => {
            let seed = image.hash_seed;
            change_tree(image, *ino, |t, root| {
                dir::remove(t, root, *ino, &seed, name)
            })?;
        }
        Mend::Orphan(ino) => {
            change_tree(image, ORPHAN_INO, |t, root| orphan::remove(t, root, *ino))?;
        }
        Mend::Group(group) => write_group(image, found, *group)?,
        Mend::Descriptors(block) => {
            for (group, should) in (0u64..).zip(&found.groups) {
                if image.geometry.descriptor_location(group).0 == *block {
                    image.groups[group as usize] = should.summary;
                }
            }
            let mut t = image.begin();
            t.write_descriptors(*block)?;
            commit(t)?;
        }
    }
    image.sync()
}

/// Commits what changes one block.
fn commit<D: Device>(mut t: Transaction<'_, D>) -> Result<()> {
    if t.take_joined() > 1 {
        return Err(Error::Invalid(
            "it takes more than one block, and so is not done without a journal",
        ));
    }
    t.commit()
}

fn change<D: Device>(image: &mut Image<D>, ino: u64, f: impl FnOnce(&mut Inode)) -> Result<()> {
    let mut inode = image.read_inode(ino)?;
    f(&mut inode);
    let mut t = image.begin();
    t.write_inode(ino, &inode)?;
    commit(t)
}

/// Changes a tree: its root, in its inode, or a leaf.
fn change_tree<D: Device>(
    image: &mut Image<D>,
    ino: u64,
    f: impl FnOnce(&mut Transaction<'_, D>, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut inode = image.read_inode(ino)?;
    let before = inode.tree_root;
    let mut t = image.begin();
    f(&mut t, &mut inode.tree_root)?;
    if inode.tree_root != before {
        t.write_inode(ino, &inode)?;
    }
    commit(t)
}

/// The record of an index refers to no image any more: so the kernel builds it anew. The image is nobody's then.
fn forget_image<D: Device>(image: &mut Image<D>, container: u64, kind: u32) -> Result<()> {
    let ino = image.read_inode(container)?.vector.index_ino;
    let tree = image.read_inode(ino)?;
    let mut found = None;
    index::for_each(image, &tree.tree_root, ino, |of, record| {
        if of == kind {
            found = Some(record);
        }
        Ok(())
    })?;
    let mut record = found.ok_or(Error::NotFound)?;
    record.image_ino = 0;
    record.flags = 0;
    change_tree(image, ino, |t, root| {
        index::set(t, root, ino, kind, &record)
    })
}

/// Marks an inode as in use; the group's count follows.
fn use_inode<D: Device>(image: &mut Image<D>, ino: u64) -> Result<()> {
    let place = image.geometry.inode_position(ino);
    let (group, index) = place.ok_or(Error::Invalid("there is no such inode"))?;
    let block = image.geometry.inode_bitmap_block(group);
    if image.groups[group as usize].flags & INODE_UNINIT != 0 {
        return Err(Error::Invalid("its group has no bitmap"));
    }
    let mut t = image.begin();
    let mut buf = t.read(block, MAGIC_INODE_BITMAP, group)?;
    bits_mut(t.modify(&mut buf)?)[index as usize / 8] |= 1 << (index % 8);
    drop(buf);
    commit(t)
}

fn write_group<D: Device>(image: &mut Image<D>, found: &Found, group: u64) -> Result<()> {
    let should = &found.groups[group as usize];
    if !should.certain {
        return Err(Error::Invalid("not all that is in use could be found"));
    }
    let geometry = image.geometry;
    let bitmaps = [
        (
            BLOCK_UNINIT,
            geometry.block_bitmap_block(group),
            MAGIC_BLOCK_BITMAP,
            &should.blocks,
        ),
        (
            INODE_UNINIT,
            geometry.inode_bitmap_block(group),
            MAGIC_INODE_BITMAP,
            &should.inodes,
        ),
    ];
    for (never_written, block, magic, bits) in bitmaps {
        if should.summary.flags & never_written == 0 {
            let mut t = image.begin();
            let mut buf = t.create(block, magic, group)?;
            bits_mut(t.modify(&mut buf)?).copy_from_slice(bits);
            drop(buf);
            commit(t)?;
        }
    }
    let (block, _) = geometry.descriptor_location(group);
    if image.lost_descriptors.contains(&block) {
        // They are all written together.
        image.groups[group as usize] = should.summary;
        return Ok(());
    }
    let mut t = image.begin();
    t.set_summary(group, should.summary)?;
    commit(t)
}
