// SPDX-License-Identifier: GPL-2.0

//! Durability: the vector area on disk follows the rows that it speaks of to the medium.

use crate::node::{self, Change};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use vexfs_vfs::Inode;

/// What [`push_durable`] does about rows whose data is not on the medium yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// Writes them and waits.
    Wait,
    /// Leaves it; the inode stays dirty and the next writeback tries again.
    Later,
    /// Leaves it: the inode is going away.
    Never,
}

/// Writes the vector area to the inode on disk, once the data of all rows it speaks of is on
/// the medium. Does nothing for what is no container or has not changed.
pub(crate) fn push_durable(inode: &Inode<VexFs>, unwritten: Unwritten) -> Result {
    let node = inode.node();
    let area = {
        let container = node.container.lock();
        if !container.loaded {
            return Ok(());
        }
        container.area
    };
    if node.state.lock().disk.vector.generation == area.generation {
        return Ok(());
    }
    let bytes = area.rows.saturating_mul(u64::from(area.stride));
    match unwritten {
        // Only the rows of the copy count: later batches may be under way.
        Unwritten::Wait => inode.write_and_wait(0, bytes)?,
        _ if inode.has_unwritten_pages() => {
            if unwritten == Unwritten::Later {
                inode.mark_dirty();
            }
            return Ok(());
        }
        _ => {}
    }
    let mut txn = inode.volume().begin(inode.sb(), 1, 0)?;
    let mut state = node.state.lock();
    let newer = state.disk.vector.generation < area.generation;
    if newer {
        // A batch begun since the copy was made may have put these on disk already.
        let old = state.disk.vector;
        state.disk.vector = VectorArea {
            batch_started: old.batch_started.max(area.batch_started),
            row_meta_ino: old.row_meta_ino.max(area.row_meta_ino),
            key_map_ino: old.key_map_ino.max(area.key_map_ino),
            index_ino: old.index_ino.max(area.index_ino),
            ..area
        };
        state.disk.size = bytes;
        state.disk.data_seq = u64::from(txn.tid());
        node::store(&mut txn, inode, &mut state, Change::Data)?;
    }
    drop(state);
    if newer {
        let mut container = node.container.lock();
        container.reuse.pushed(area.batch_done, txn.tid());
    }
    txn.stop()
}
