// SPDX-License-Identifier: GPL-2.0

//! Inodes without a name that are still in use: their numbers stand in the tree of the
//! orphan inode, so that a mount after a crash can free them.

use crate::errno;
use crate::node;
use crate::txn::{Reader, Txn};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{self, ORPHAN_INO};
use libvexfs::{alloc, extent, tree};
use vexfs_vfs::SuperBlock;

/// Levels that the orphan tree can reasonably have: millions of orphans.
const HEIGHT: u16 = 3;
/// Blocks that adding or removing an orphan joins to a transaction.
pub(crate) const CREDITS: u32 = tree::insert_credits(HEIGHT) + 1;
/// Blocks that removing an orphan discards.
pub(crate) const REVOKES: u32 = tree::remove_revokes(HEIGHT);

/// Notes that inode `ino` has lost its last name.
pub(crate) fn add(txn: &mut Txn<'_>, sb: &SuperBlock<VexFs>, ino: u64) -> Result {
    let mut orphans = sb.volume().orphans.lock();
    txn.join_inode(ORPHAN_INO)?;
    libvexfs::orphan::add(txn, &mut orphans.tree_root, ino).map_err(|e| txn.failed(e))?;
    txn.count_nodes(&mut orphans);
    txn.write_owner(ORPHAN_INO, &orphans)
}

/// Takes inode `ino` off the list, if it is there.
pub(crate) fn remove(txn: &mut Txn<'_>, sb: &SuperBlock<VexFs>, ino: u64) -> Result {
    let mut orphans = sb.volume().orphans.lock();
    txn.join_inode(ORPHAN_INO)?;
    match libvexfs::orphan::remove(txn, &mut orphans.tree_root, ino) {
        Ok(()) => {
            txn.count_nodes(&mut orphans);
            txn.write_owner(ORPHAN_INO, &orphans)
        }
        // An inode whose creation failed never was on the list.
        Err(libvexfs::Error::NotFound) => Ok(()),
        Err(e) => Err(txn.failed(e)),
    }
}

/// Frees the orphans that a crash left behind. Errors of one do not keep the others.
pub(crate) fn process(sb: &SuperBlock<VexFs>) -> Result {
    let volume = sb.volume();
    let reader = Reader {
        sb,
        seed: volume.seed,
    };
    let mut from = 0;
    loop {
        let root = volume.orphans.lock().tree_root;
        let next = libvexfs::orphan::next(&reader, &root, from).map_err(|e| errno::of(sb, e))?;
        let Some(ino) = next else {
            return Ok(());
        };
        let hidden = reader.inode(&volume.geo, ino);
        if hidden.is_ok_and(|disk| disk.flags & format::inode::FLAG_HIDDEN != 0) {
            // An image that was not finished, or was replaced. The error is in the log.
            let _ = release_hidden(sb, ino, true);
            from = ino.saturating_add(1);
            continue;
        }
        // The superblock is not active yet, so dropping the reference evicts the inode, and
        // that frees it.
        match node::iget(sb, ino) {
            Ok(inode) if inode.nlink() == 0 => drop(inode),
            Ok(inode) => {
                pr_err!(
                    "{}: inode {}: orphan with {} links\n",
                    sb.id(),
                    ino,
                    inode.nlink()
                );
            }
            Err(e) => {
                pr_err!(
                    "{}: inode {}: orphan can't be read (error {})\n",
                    sb.id(),
                    ino,
                    e.to_errno()
                );
            }
        }
        from = ino.saturating_add(1);
    }
}

/// How many steps of `each` credits fit one transaction that needs `rest` besides.
pub(crate) fn steps_per_transaction(sb: &SuperBlock<VexFs>, each: u32, rest: u32) -> Result<u32> {
    let max = sb.volume().journal()?.max_credits();
    Ok((max.saturating_sub(rest) / each).clamp(1, 64))
}

/// Frees the data and the tree of an inode, in as many transactions as it takes. Each
/// leaves the inode on disk consistent with what is freed.
pub(crate) fn release_tree(sb: &SuperBlock<VexFs>, ino: u64, disk: &mut format::Inode) -> Result {
    let volume = sb.volume();
    let is_file = format::inode::has_extents(disk.mode, disk.flags);
    if !format::inode::has_tree(disk.mode) {
        return Ok(());
    }
    loop {
        let height = tree::height(&disk.tree_root).map_err(|e| errno::of(sb, e))?;
        if height == 0 && (!is_file || tree::is_empty(&disk.tree_root).unwrap_or(true)) {
            return Ok(());
        }
        let (each, revokes) = if is_file {
            (
                tree::remove_credits(height) + alloc::FREE_EXTENT_CREDITS,
                tree::remove_revokes(height),
            )
        } else {
            (
                tree::destroy_credits(height, 1),
                tree::destroy_revokes(height, 1),
            )
        };
        let steps = steps_per_transaction(sb, each, 2)?;
        let mut txn = volume
            .begin(
                sb,
                each.saturating_mul(steps).saturating_add(2),
                revokes.saturating_mul(steps),
            )?
            .essential();
        let mut freed = 0u64;
        let result = if is_file {
            extent::remove_tail(
                &mut txn,
                &mut disk.tree_root,
                ino,
                0,
                steps,
                &mut |t, start, len| {
                    freed = freed.saturating_add(len);
                    t.free(start, len)
                },
            )
        } else {
            tree::destroy_step(&mut txn, &mut disk.tree_root, ino, steps)
        };
        let finished = result.map_err(|e| txn.failed_for_good(e))?;
        disk.blocks = disk.blocks.saturating_sub(freed);
        txn.count_nodes(disk);
        txn.write_owner(ino, disk)?;
        txn.stop()?;
        if finished {
            return Ok(());
        }
    }
}

/// Frees a hidden inode of a container: its tree, then itself; and takes it off the list, if it is
/// an orphan of its own.
pub(crate) fn release_hidden(sb: &SuperBlock<VexFs>, ino: u64, orphan: bool) -> Result {
    let volume = sb.volume();
    let reader = Reader {
        sb,
        seed: volume.seed,
    };
    let mut disk = match reader.inode(&volume.geo, ino) {
        // Freed before a crash, with its owner still on the list.
        Err(e) if e == ESTALE => return Ok(()),
        other => other?,
    };
    if disk.flags & format::inode::FLAG_HIDDEN == 0 {
        return Err(errno::of(
            sb,
            libvexfs::Error::CorruptInode {
                ino,
                what: "is part of a container, but not hidden",
            },
        ));
    }
    release_tree(sb, ino, &mut disk)?;
    let (credits, revokes) = if orphan { (CREDITS, REVOKES) } else { (0, 0) };
    let mut txn = volume.begin(sb, alloc::FREE_INODE_CREDITS + 1 + credits, revokes)?;
    if orphan {
        remove(&mut txn, sb, ino)?;
    }
    txn.clear_inode(ino)?;
    txn.free_inode(ino, false)
        .map_err(|e| txn.failed_for_good(e))?;
    txn.stop()
}
