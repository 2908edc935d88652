// SPDX-License-Identifier: GPL-2.0

//! An inode in memory: what VexFS keeps beside `struct inode`, and how both get to and from
//! the disk.
//!
//! Lock order: inode lock (VFS) > transaction > `Node::state` > allocator. The state of two
//! nodes is never locked at the same time. A directory's tree changes only under its inode
//! lock, so lookup and readdir, which hold that shared, work on a copy of the root.

use crate::container::Container;
use crate::errno;
use crate::txn::{Reader, Txn};
use crate::VexFs;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};
use libvexfs::format::{self, inode::TREE_ROOT_BYTES, InodeTime};
use vexfs_vfs::inode::Time;
use vexfs_vfs::killable::KillableMutex;
use vexfs_vfs::new_inode::{Fields, Got};
use vexfs_vfs::page_cache::RwSem;
use vexfs_vfs::{IRef, Inode, SuperBlock};

/// What VexFS keeps beside `struct inode`.
#[pin_data]
pub(crate) struct Node {
    #[pin]
    pub(crate) state: Mutex<State>,
    /// The part that only containers use.
    #[pin]
    pub(crate) container: Mutex<Container>,
    /// Held shared by searches, exclusively by what changes rows in place.
    #[pin]
    pub(crate) rows: RwSem,
    /// Held by who reads or writes the image of an index, or overwrites rows that one is of.
    #[pin]
    pub(crate) images: KillableMutex,
    /// Changes whenever a mapping that was handed out may be wrong.
    sequence: AtomicU32,
    /// `State::disk.size`, for readers without the lock.
    disk_size: AtomicU64,
    /// The last transaction that changed the inode, and the last that fdatasync needs.
    sync_tid: AtomicU32,
    data_tid: AtomicU32,
}

/// The inode as the disk has it, where the VFS does not keep it.
pub(crate) struct State {
    /// Read from disk or made; false for an inode that never got that far.
    pub(crate) live: bool,
    /// Tree root, vector area, parent, creation time and `size` on disk are kept here.
    /// Mode, owner, links, times and blocks are the VFS's and filled in when it is written.
    pub(crate) disk: format::Inode,
}

impl Node {
    pub(crate) fn new() -> impl PinInit<Node, Error> {
        try_pin_init!(Node {
            state <- new_mutex!(State {
                live: false,
                disk: format::Inode::empty(),
            }),
            container <- new_mutex!(Container::new()),
            rows <- RwSem::new(),
            images <- KillableMutex::new(),
            sequence: AtomicU32::new(0),
            disk_size: AtomicU64::new(0),
            sync_tid: AtomicU32::new(0),
            data_tid: AtomicU32::new(0),
        }? Error)
    }

    /// The number that mappings carry.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Makes mappings handed out so far invalid. The state is locked.
    pub(crate) fn invalidate_mappings(&self) {
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// The size that the disk knows of.
    pub(crate) fn disk_size(&self) -> u64 {
        self.disk_size.load(Ordering::Relaxed)
    }

    /// The transaction that fsync waits for.
    pub(crate) fn sync_tid(&self, data_only: bool) -> u32 {
        if data_only {
            self.data_tid.load(Ordering::Relaxed)
        } else {
            self.sync_tid.load(Ordering::Relaxed)
        }
    }
}

/// What a change of an inode means to fdatasync.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Only times: fdatasync need not wait for it.
    Times,
    /// Anything needed to read the data back.
    Data,
}

fn time(t: InodeTime) -> Time {
    Time {
        seconds: t.sec,
        nanoseconds: t.nsec,
    }
}

fn disk_time(t: Time) -> InodeTime {
    InodeTime {
        sec: t.seconds,
        nsec: t.nanoseconds,
    }
}

/// The present, as a creation time.
pub(crate) fn birth(inode: &Inode<VexFs>) -> InodeTime {
    disk_time(inode.ctime())
}

/// Finds inode `ino`, reading it if need be.
///
/// # Errors
///
/// `ESTALE` if it is free, `EFSBADCRC`, `EFSCORRUPTED`, `EIO`.
pub(crate) fn iget(sb: &SuperBlock<VexFs>, ino: u64) -> Result<IRef<VexFs>> {
    let volume = sb.volume();
    if !volume.geo.is_inode(ino) {
        return Err(ESTALE);
    }
    let new = match sb.iget(ino)? {
        Got::Cached(inode) => return Ok(inode),
        Got::New(new) => new,
    };
    let reader = Reader {
        sb,
        seed: volume.seed,
    };
    let disk = reader.inode(&volume.geo, ino)?;
    if disk.flags & format::inode::FLAG_HIDDEN != 0 {
        return Err(ESTALE);
    }
    new.set_fields(&Fields {
        mode: disk.mode,
        owner: Some((disk.uid, disk.gid)),
        nlink: disk.nlink,
        size: disk.size,
        disk_bytes: disk.blocks.saturating_mul(format::BLOCK_SIZE as u64),
        rdev: disk.rdev,
        generation: disk.generation,
        times: Some([time(disk.atime), time(disk.mtime), time(disk.ctime)]),
    })?;
    let node = new.node();
    node.disk_size.store(disk.size, Ordering::Relaxed);
    let mut state = node.state.lock();
    state.disk = disk;
    state.live = true;
    drop(state);
    Ok(new.publish())
}

/// Writes the inode within a transaction. The state is locked, so writers do not overtake
/// each other.
pub(crate) fn store(
    txn: &mut Txn<'_>,
    inode: &Inode<VexFs>,
    state: &mut State,
    change: Change,
) -> Result {
    let node = inode.node();
    let disk = &mut state.disk;
    let (uid, gid) = inode.owner();
    disk.mode = inode.mode();
    disk.uid = uid;
    disk.gid = gid;
    disk.nlink = inode.nlink();
    disk.blocks = inode.disk_bytes() / format::BLOCK_SIZE as u64;
    disk.atime = disk_time(inode.atime());
    disk.mtime = disk_time(inode.mtime());
    disk.ctime = disk_time(inode.ctime());
    txn.write_inode(inode.ino(), disk).inspect_err(|e| {
        // What was done so far would be committed without the inode.
        inode.volume().give_up(inode.sb(), *e);
    })?;
    node.disk_size.store(disk.size, Ordering::Relaxed);
    let tid = txn.tid();
    node.sync_tid.store(tid, Ordering::Relaxed);
    if change == Change::Data {
        node.data_tid.store(tid, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes an inode whose VFS fields changed, in a transaction of its own.
pub(crate) fn store_alone(inode: &Inode<VexFs>, change: Change) -> Result {
    let volume = inode.volume();
    let mut txn = volume.begin(inode.sb(), 1, 0)?;
    let mut state = inode.node().state.lock();
    if state.live {
        store(&mut txn, inode, &mut state, change)?;
    }
    drop(state);
    txn.stop()
}

/// A copy of the tree's root. For directories and symbolic links, whose tree does not
/// change while the inode's lock is held shared, or ever.
pub(crate) fn root(inode: &Inode<VexFs>) -> [u8; TREE_ROOT_BYTES] {
    inode.node().state.lock().disk.tree_root
}

/// Runs `f` on the tree's root within a transaction, with the state locked.
pub(crate) fn change_tree<R>(
    txn: &mut Txn<'_>,
    inode: &Inode<VexFs>,
    f: impl FnOnce(&mut Txn<'_>, &mut [u8], u64) -> libvexfs::Result<R>,
) -> Result<R> {
    let mut state = inode.node().state.lock();
    let result = f(txn, &mut state.disk.tree_root, inode.ino());
    count_nodes(txn, inode);
    result.map_err(|e| txn.failed(e))
}

/// Counts the nodes that the inode's tree has gained, before the inode is written.
pub(crate) fn count_nodes(txn: &mut Txn<'_>, inode: &Inode<VexFs>) {
    let nodes = txn.take_nodes();
    let bytes = nodes.unsigned_abs() * format::BLOCK_SIZE as u64;
    if nodes >= 0 {
        inode.add_disk_bytes(bytes);
    } else {
        inode.sub_disk_bytes(bytes);
    }
}

/// Locks the state and writes the inode.
pub(crate) fn store_locked(txn: &mut Txn<'_>, inode: &Inode<VexFs>, change: Change) -> Result {
    let mut state = inode.node().state.lock();
    store(txn, inode, &mut state, change)
}

/// Frees everything an unlinked inode owns, then the inode. Nobody else sees it any more.
pub(crate) fn release(inode: &Inode<VexFs>) -> Result {
    // No system call holds a frozen volume off here, so this does.
    inode.sb().with_internal_write(|| release_unfrozen(inode))
}

fn release_unfrozen(inode: &Inode<VexFs>) -> Result {
    let sb = inode.sb();
    let volume = inode.volume();
    let node = inode.node();
    let mut state = node.state.lock();
    if !state.live {
        return Ok(());
    }
    state.live = false;
    let mut disk = state.disk.clone();
    drop(state);
    let hidden = [disk.vector.row_meta_ino, disk.vector.key_map_ino];
    let is_container = disk.flags & format::inode::FLAG_VECTOR != 0;
    crate::orphan::release_tree(sb, inode.ino(), &mut disk)?;
    if is_container {
        for ino in hidden.into_iter().filter(|ino| *ino != 0) {
            crate::orphan::release_hidden(sb, ino, false)?;
        }
        crate::index::checkpoint::release(sb, disk.vector.index_ino)?;
    }
    let credits = libvexfs::alloc::FREE_INODE_CREDITS + crate::orphan::CREDITS + 2;
    let mut txn = volume.begin(sb, credits, crate::orphan::REVOKES)?;
    crate::orphan::remove(&mut txn, sb, inode.ino())?;
    txn.clear_inode(inode.ino())?;
    txn.free_inode(inode.ino(), inode.is_dir())
        .map_err(|e| txn.failed_for_good(e))?;
    txn.stop()
}

/// Frees an inode that was made in this transaction and then not wanted.
pub(crate) fn undo_make(txn: &mut Txn<'_>, ino: u64, is_dir: bool) {
    if let Err(e) = txn.free_inode(ino, is_dir) {
        errno::of(txn.sb(), e);
    }
}
