// SPDX-License-Identifier: GPL-2.0

//! Loading a container: its vector area, the records beside its rows, and which indexes it has.

use super::undo::{forget_unfinished, repair_keys};
use super::{reader, Container, Hidden};
use crate::errno;
use crate::index::{self, Indexes};
use crate::node::{self, Change};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::inode::FLAG_HIDDEN;
use libvexfs::rows;
use vexfs_vfs::{Inode, SuperBlock};

#[inline(never)]
fn load_hidden(sb: &SuperBlock<VexFs>, ino: u64) -> Result<Option<Hidden>> {
    if ino == 0 {
        return Ok(None);
    }
    let disk = match reader(sb).inode(&sb.volume().geo, ino) {
        Ok(disk) if disk.flags & FLAG_HIDDEN != 0 => disk,
        Err(e) if e != ESTALE => return Err(e),
        _ => {
            return Err(errno::of(
                sb,
                libvexfs::Error::CorruptInode {
                    ino,
                    what: "is part of a container, but free or not hidden",
                },
            ))
        }
    };
    Ok(Some(Hidden { ino, disk }))
}

/// Which indexes a container has. Without those it has all its rows: what can't be read is not there.
#[inline(never)]
fn load_indexes(sb: &SuperBlock<VexFs>, ino: u64) -> Indexes {
    let mut indexes = Indexes::default();
    if let Ok(Some(tree)) = load_hidden(sb, ino) {
        if index::checkpoint::read_records(sb, &tree, &mut indexes).is_ok() {
            indexes.tree = Some(tree);
            return indexes;
        }
    }
    Indexes::default()
}

/// Loads what stands beside the rows, and says how many of them are deleted.
#[inline(never)]
fn load_rows(sb: &SuperBlock<VexFs>, meta: &Hidden, container: &mut Container) -> Result<u64> {
    let area = container.area;
    container.reserve_keys(area.rows)?;
    container.reserve_tags(area.rows)?;
    container.reserve_tombstones(area.rows)?;
    let (mut deleted, mut short) = (0u64, false);
    rows::for_each_from(
        &reader(sb),
        &meta.disk.tree_root,
        meta.ino,
        0,
        |row, record| {
            if row >= area.rows {
                return Ok(false);
            }
            if let Some(key) = container.keys.get_mut(row as usize) {
                *key = record.key;
            }
            if let Some(tags) = container.tags.get_mut(row as usize) {
                *tags = record.tags;
            }
            if record.is_deleted(area.batch_done) {
                container.set_deleted(row);
                deleted = deleted.saturating_add(1);
            } else if record.born_seq != 0 {
                short = container.reserve_births(area.rows).is_err();
                if let Some(birth) = container.births.get_mut(row as usize) {
                    *birth = record.born_seq;
                }
            }
            Ok(!short)
        },
    )
    .map_err(|e| errno::of(sb, e))?;
    if short {
        return Err(ENOMEM);
    }
    Ok(deleted)
}

/// Loads the container, if it is not yet. The inode lock is held.
///
/// Neither this nor what it calls is inlined: inodes are half a KiB each, and not all of them at once need be on
/// the stack.
#[inline(never)]
pub(super) fn load(inode: &Inode<VexFs>) -> Result {
    let node = inode.node();
    if node.container.lock().loaded {
        return Ok(());
    }
    let sb = inode.sb();
    let mut area = node.state.lock().disk.vector;
    let unfinished = area.batch_started != area.batch_done;
    let mut row_meta = load_hidden(sb, area.row_meta_ino)?;
    let key_map = load_hidden(sb, area.key_map_ino)?;
    let indexes = load_indexes(sb, area.index_ino);
    if unfinished && !sb.is_read_only() {
        if let Some(meta) = row_meta.as_mut() {
            forget_unfinished(inode, &area, meta)?;
        }
    }
    let mut container = node.container.lock();
    container.area = area;
    if let Some(meta) = &row_meta {
        // Read before anything is published, so an error leaves the container unloaded.
        let deleted = load_rows(sb, meta, &mut container)?;
        if area.live != area.rows.saturating_sub(deleted) {
            return Err(errno::of(
                sb,
                libvexfs::Error::CorruptInode {
                    ino: inode.ino(),
                    what: "live rows and tombstones disagree",
                },
            ));
        }
    }
    container.indexed = area.batch_done;
    container.row_meta = row_meta;
    container.key_map = key_map;
    container.indexes = indexes;
    if !unfinished {
        container.loaded = true;
        return Ok(());
    }
    if sb.is_read_only() {
        container.left_unfinished();
        container.loaded = true;
        return Ok(());
    }
    drop(container);
    repair_keys(inode, 0..area.rows)?;
    // The batch is forgotten now; the next one may have its number.
    area.batch_started = area.batch_done;
    let mut txn = inode.volume().begin(sb, 1, 0)?;
    let mut state = node.state.lock();
    state.disk.vector = area;
    node::store(&mut txn, inode, &mut state, Change::Data)?;
    drop(state);
    txn.stop()?;
    let mut container = node.container.lock();
    container.area = area;
    container.loaded = true;
    Ok(())
}
