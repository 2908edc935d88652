// SPDX-License-Identifier: GPL-2.0

//! Batches that did not come to be: the records they left are removed, and keys name the rows
//! again that they named before.

use super::{reader, Hidden};
use crate::errno;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use libvexfs::{rows, tree};
use vexfs_vfs::Inode;

/// Makes the key map name the live rows among `candidates` again: a batch that did not come to
/// be may have pointed their keys to rows of its own.
#[inline(never)]
pub(super) fn repair_keys(inode: &Inode<VexFs>, candidates: impl Iterator<Item = u64>) -> Result {
    let sb = inode.sb();
    let node = inode.node();
    for row in candidates {
        let wrong = {
            let container = node.container.lock();
            let Some(map) = container.key_map.as_ref() else {
                return Ok(());
            };
            let key = container.key_of(row);
            let named = rows::row_of_key(&reader(sb), &map.disk.tree_root, map.ino, key)
                .map_err(|e| errno::of(sb, e))?;
            // A row without an explicit key is found without the map.
            named.is_some_and(|named| named != row) && container.is_live(row)
        };
        if !wrong {
            continue;
        }
        let mut txn = inode.volume().begin(sb, MAP_CREDITS, 0)?.essential();
        let mut guard = node.container.lock();
        let container = &mut *guard;
        let key = container.key_of(row);
        if let Some(map) = container.key_map.as_mut() {
            txn.join_inode(map.ino)?;
            rows::set_row_of_key(&mut txn, &mut map.disk.tree_root, map.ino, key, row)
                .map_err(|e| txn.failed(e))?;
            txn.count_nodes(&mut map.disk);
            txn.write_owner(map.ino, &map.disk)?;
        }
        drop(guard);
        txn.stop()?;
    }
    Ok(())
}

/// Credits for changing one entry of a key map of billions of keys.
const MAP_CREDITS: u32 = tree::insert_credits(5) + 1;

/// Removes the traces of batches that a crash cut off: records of rows that never came to
/// be, in the place of deleted ones too, and tombstones that were not confirmed.
#[inline(never)]
pub(super) fn forget_unfinished(
    inode: &Inode<VexFs>,
    area: &VectorArea,
    meta: &mut Hidden,
) -> Result {
    const AT_ONCE: usize = 64;
    let sb = inode.sb();
    let mut from = 0u64;
    loop {
        let mut found = KVec::with_capacity(AT_ONCE, GFP_KERNEL)?;
        rows::for_each_from(
            &reader(sb),
            &meta.disk.tree_root,
            meta.ino,
            from,
            |row, record| {
                from = row.saturating_add(1);
                if row >= area.rows || record.confirmed(area.batch_done) != record {
                    let _ = found.push_within_capacity((row, record));
                }
                Ok(found.len() < AT_ONCE)
            },
        )
        .map_err(|e| errno::of(sb, e))?;
        if found.is_empty() {
            return Ok(());
        }
        for (row, record) in &found {
            let height = tree::height(&meta.disk.tree_root).map_err(|e| errno::of(sb, e))?;
            let credits = tree::remove_credits(height).max(tree::insert_credits(height)) + 1;
            let mut txn = inode
                .volume()
                .begin(sb, credits, tree::remove_revokes(height))?
                .essential();
            txn.join_inode(meta.ino)?;
            let result = if *row >= area.rows {
                tree::remove(&mut txn, &mut meta.disk.tree_root, meta.ino, *row)
            } else {
                let record = record.confirmed(area.batch_done);
                rows::set_meta(&mut txn, &mut meta.disk.tree_root, meta.ino, *row, &record)
            };
            result.map_err(|e| txn.failed(e))?;
            txn.count_nodes(&mut meta.disk);
            txn.write_owner(meta.ino, &meta.disk)?;
            txn.stop()?;
        }
        if found.len() < AT_ONCE {
            return Ok(());
        }
    }
}

/// Removes the traces of a batch that failed: its number may be confirmed by the next one, so
/// no record may carry it. `replaced` are the rows it would have replaced. The inode lock is
/// held.
///
/// Where there is no memory for it, the traces stay as after a crash, and the next batch or load removes them.
pub(crate) fn undo_batch(inode: &Inode<VexFs>, replaced: &[u64]) {
    match forget_batch(inode, replaced.iter().copied()) {
        Err(ENOMEM) => inode.node().container.lock().left_unfinished(),
        Err(e) => inode.volume().give_up(inode.sb(), e),
        Ok(()) => {}
    }
}

/// Removes the traces of batches that failed or were cut off, if some are left. The inode lock is held; each
/// batch does so before it records anything.
///
/// # Errors
///
/// `ENOMEM`, and what metadata says.
pub(crate) fn finish_undo(inode: &Inode<VexFs>) -> Result {
    let rows = {
        let container = inode.node().container.lock();
        if !container.unfinished {
            return Ok(());
        }
        container.area.rows
    };
    forget_batch(inode, 0..rows)?;
    let mut container = inode.node().container.lock();
    container.unfinished = false;
    container.stale_map = false;
    Ok(())
}

/// Removes the traces of batches that are not confirmed. Their keys are among those of the rows `candidates`.
fn forget_batch(inode: &Inode<VexFs>, candidates: impl Iterator<Item = u64>) -> Result {
    let (area, meta) = {
        let mut container = inode.node().container.lock();
        (container.area, container.row_meta.take())
    };
    let Some(mut meta) = meta else {
        return Ok(());
    };
    let result = forget_unfinished(inode, &area, &mut meta);
    inode.node().container.lock().row_meta = Some(meta);
    result.and_then(|()| repair_keys(inode, candidates))
}
