// SPDX-License-Identifier: GPL-2.0

//! Vector containers: what the inode's vector area says, what stands beside the rows, and
//! when changes become durable.
//!
//! ```text
//! load.rs     a container from disk
//! undo.rs     batches that failed or were cut off
//! reuse.rs    deleted rows whose place others take
//! durable.rs  the vector area follows the rows to the medium
//! ```
//!
//! In memory the truth is [`Container`]; the vector area on disk follows it. It is written
//! when the data of the rows it speaks of is on the medium ([`push_durable`]), always at the
//! end of a batch. So a crash shows complete batches only. Keys, tags and tombstones of later
//! batches may already be on disk then; they carry numbers that the vector area does not
//! confirm, are ignored, and removed when the container is next loaded for writing.
//!
//! Lock order: inode lock > transaction > `Node::container` > `Node::state`. All changes are
//! made under the inode lock, held exclusively.

mod durable;
mod load;
mod reuse;
mod undo;

use crate::candidates::Recent;
use crate::errno;
use crate::index::Indexes;
use crate::node::{self, Change, State};
use crate::txn::{Reader, Txn};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{self, inode::FLAG_HIDDEN, inode::FLAG_VECTOR, VectorArea};
use libvexfs::{alloc, rows};
use load::load;
use reuse::Reuse;
use vexfs_vfs::task::random_u32;
use vexfs_vfs::{Inode, SuperBlock};

pub(crate) use durable::{push_durable, Unwritten};
pub(crate) use reuse::{reusable, Reading};
pub(crate) use undo::{finish_undo, undo_batch};

/// Whether the inode is a container. For callers that have its state locked.
pub(crate) fn is_container(state: &State) -> bool {
    state.disk.flags & FLAG_VECTOR != 0
}

/// A hidden inode: a tree that belongs to a container.
pub(crate) struct Hidden {
    pub(crate) ino: u64,
    pub(crate) disk: format::Inode,
}

/// What a container has done since it was loaded.
#[derive(Default, Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) inserted: u64,
    pub(crate) deleted: u64,
    pub(crate) searches: u64,
    pub(crate) distances: u64,
    pub(crate) insert_ns: u64,
    pub(crate) search_ns: u64,
}

/// A container in memory.
///
/// # Invariants
///
/// When `loaded`: `keys`, `tags` and `births` are empty or have an entry for each of the `area.rows`
/// rows, and `tombstones` is empty or has a bit for each.
pub(crate) struct Container {
    pub(crate) loaded: bool,
    /// As it will be on disk.
    pub(crate) area: VectorArea,
    /// Record of each row that has a key, tags or a tombstone.
    pub(crate) row_meta: Option<Hidden>,
    /// Row of each explicit key.
    pub(crate) key_map: Option<Hidden>,
    pub(crate) keys: KVVec<u64>,
    pub(crate) tags: KVVec<u64>,
    pub(crate) tombstones: KVVec<u64>,
    /// The batch that put a row in the place of a deleted one; 0 for the others.
    births: KVVec<u64>,
    /// What stands in the way of doing so.
    reuse: Reuse,
    /// How many rows were deleted since it was loaded.
    pub(crate) buried: u64,
    /// The last batch that the indexes in memory know all of.
    pub(crate) indexed: u64,
    pub(crate) counters: Counters,
    pub(crate) indexes: Indexes,
    pub(crate) recent: Recent,
    /// The volume knows that sync(2) has to see to this container.
    pub(crate) registered: bool,
    /// Rows that a batch under way will replace, by key, in order: the key map already names
    /// rows that nobody may see yet.
    pub(crate) replacing: KVVec<(u64, usize)>,
    /// `key_map` names rows of batches that a crash cut off, and could not be repaired.
    stale_map: bool,
    /// Records of a batch that failed or was cut off are still there. No later one may be confirmed
    /// before they are removed.
    unfinished: bool,
}

impl Container {
    pub(crate) fn new() -> Self {
        Container {
            loaded: false,
            area: VectorArea::default(),
            row_meta: None,
            key_map: None,
            keys: KVVec::new(),
            tags: KVVec::new(),
            tombstones: KVVec::new(),
            births: KVVec::new(),
            reuse: Reuse::default(),
            buried: 0,
            indexed: 0,
            counters: Counters::default(),
            indexes: Indexes::default(),
            recent: Recent::default(),
            registered: false,
            replacing: KVVec::new(),
            stale_map: false,
            unfinished: false,
        }
    }

    /// The key of a row.
    pub(crate) fn key_of(&self, row: u64) -> u64 {
        self.keys.get(row as usize).copied().unwrap_or(row)
    }

    /// The tags of a row.
    pub(crate) fn tags_of(&self, row: u64) -> u64 {
        self.tags.get(row as usize).copied().unwrap_or(0)
    }

    /// Whether a row was deleted.
    pub(crate) fn is_deleted(&self, row: u64) -> bool {
        self.tombstones
            .get((row / 64) as usize)
            .is_some_and(|word| word >> (row % 64) & 1 != 0)
    }

    /// The batch that put the row in the place of a deleted one; 0 if it was the first there.
    pub(crate) fn born(&self, row: u64) -> u64 {
        self.births.get(row as usize).copied().unwrap_or(0)
    }

    /// The batch that deleted a row, as its record says.
    pub(crate) fn tomb_seq(&self, sb: &SuperBlock<VexFs>, row: u64) -> Result<u64> {
        let Some(meta) = &self.row_meta else {
            return Ok(0);
        };
        let record = rows::meta(&reader(sb), &meta.disk.tree_root, meta.ino, row);
        let record = record.map_err(|e| errno::of(sb, e))?;
        let what = "has no record of a deleted row";
        let lost = libvexfs::Error::CorruptInode {
            ino: meta.ino,
            what,
        };
        Ok(record.ok_or_else(|| errno::of(sb, lost))?.tomb_seq)
    }

    /// What is another value after each batch: rows, tombstones and batches so far.
    pub(crate) fn state(&self) -> (u64, u64, u64) {
        (self.area.rows, self.buried, self.area.batch_done)
    }

    /// How many rows are deleted.
    pub(crate) fn deleted(&self) -> u64 {
        self.area.rows.saturating_sub(self.area.live)
    }

    /// Whether a search can find the row.
    pub(crate) fn is_live(&self, row: u64) -> bool {
        row < self.area.rows && !self.is_deleted(row)
    }

    /// The first row from `row` on that a search can find.
    pub(crate) fn next_live(&self, mut row: u64) -> Option<u64> {
        while row < self.area.rows {
            let word = self.tombstones.get((row / 64) as usize).copied();
            let live = !word.unwrap_or(0) >> (row % 64);
            if live != 0 {
                let row = row.saturating_add(u64::from(live.trailing_zeros()));
                return (row < self.area.rows).then_some(row);
            }
            row = (row / 64).saturating_add(1).saturating_mul(64);
        }
        None
    }

    /// The live row with key `key`.
    pub(crate) fn find(&self, sb: &SuperBlock<VexFs>, key: u64) -> Result<Option<u64>> {
        if let Some(map) = &self.key_map {
            let reader = reader(sb);
            let row = rows::row_of_key(&reader, &map.disk.tree_root, map.ino, key)
                .map_err(|e| errno::of(sb, e))?;
            if let Some(row) = row.filter(|row| self.is_live(*row) && self.key_of(*row) == key) {
                return Ok(Some(row));
            }
        }
        if let Ok(index) = self.replacing.binary_search_by_key(&key, |(key, _)| *key) {
            let row = self.replacing.get(index).map(|(_, row)| *row as u64);
            return Ok(row.filter(|row| self.is_live(*row)));
        }
        if self.stale_map {
            let found = (0..self.area.rows)
                .rev()
                .find(|row| self.key_of(*row) == key && self.is_live(*row));
            return Ok(found);
        }
        // A row without an explicit key has its number for key.
        Ok((self.is_live(key) && self.key_of(key) == key).then_some(key))
    }

    /// Notes that the records of a batch that did not come to be can't be removed now.
    fn left_unfinished(&mut self) {
        self.unfinished = true;
        self.stale_map = self.key_map.is_some();
    }

    /// Makes room for the tombstones of `rows` rows.
    pub(crate) fn reserve_tombstones(&mut self, rows: u64) -> Result {
        let words = usize::try_from(rows.div_ceil(64))?;
        if self.tombstones.len() < words {
            self.tombstones
                .resize(words, 0, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        }
        self.reuse.reserve(words)
    }

    /// Sets the tombstone of a row that room was made for.
    fn set_deleted(&mut self, row: u64) {
        if let Some(word) = self.tombstones.get_mut((row / 64) as usize) {
            *word |= 1 << (row % 64);
        }
    }

    /// Deletes live rows that room was made for.
    pub(crate) fn bury(&mut self, rows: &[u64]) {
        for row in rows {
            self.set_deleted(*row);
            self.reuse.bar(*row);
        }
        let number = rows.len() as u64;
        self.area.live = self.area.live.saturating_sub(number);
        self.buried = self.buried.saturating_add(number);
    }

    /// Makes deleted rows live that batch `batch` has put others in the place of. Room was made.
    pub(crate) fn bear(&mut self, rows: &[u64], batch: u64) {
        for row in rows {
            if let Some(birth) = self.births.get_mut(*row as usize) {
                *birth = batch;
            }
            if let Some(word) = self.tombstones.get_mut((*row / 64) as usize) {
                *word &= !(1 << (*row % 64));
            }
        }
        self.area.live = self.area.live.saturating_add(rows.len() as u64);
    }

    /// Makes room for the births of `rows` rows.
    pub(crate) fn reserve_births(&mut self, rows: u64) -> Result {
        let rows = usize::try_from(rows)?;
        if self.births.len() < rows {
            self.births
                .resize(rows, 0, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        }
        Ok(())
    }

    /// Whether some row is in the place of a deleted one.
    pub(crate) fn has_births(&self) -> bool {
        !self.births.is_empty()
    }

    /// Makes room for explicit keys (or tags) of `rows` rows; rows so far have their number.
    pub(crate) fn reserve_keys(&mut self, rows: u64) -> Result {
        let have = self.keys.len() as u64;
        self.keys.reserve(
            usize::try_from(rows.saturating_sub(have))?,
            GFP_KERNEL_ACCOUNT | __GFP_NOWARN,
        )?;
        for row in have..self.area.rows {
            self.keys.push_within_capacity(row).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    pub(crate) fn reserve_tags(&mut self, rows: u64) -> Result {
        let have = self.tags.len() as u64;
        self.tags.reserve(
            usize::try_from(rows.saturating_sub(have))?,
            GFP_KERNEL_ACCOUNT | __GFP_NOWARN,
        )?;
        for _ in have..self.area.rows {
            self.tags.push_within_capacity(0).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }
}

pub(crate) fn reader(sb: &SuperBlock<VexFs>) -> Reader<'_> {
    Reader {
        sb,
        seed: sb.volume().seed,
    }
}

/// Runs `f` on the loaded container; `ENOTTY` if the inode is none. The container is locked:
/// `f` must not sleep for long and must not touch user memory.
pub(crate) fn with<R>(
    inode: &Inode<VexFs>,
    f: impl FnOnce(&mut Container) -> Result<R>,
) -> Result<R> {
    {
        let mut container = inode.node().container.lock();
        if container.loaded {
            return f(&mut container);
        }
    }
    if !is_container(&inode.node().state.lock()) {
        return Err(ENOTTY);
    }
    let lock = inode.lock();
    load(inode)?;
    drop(lock);
    f(&mut inode.node().container.lock())
}

/// As [`with`], for callers that hold the inode lock.
pub(crate) fn with_locked<R>(
    inode: &Inode<VexFs>,
    f: impl FnOnce(&mut Container) -> Result<R>,
) -> Result<R> {
    if !is_container(&inode.node().state.lock()) {
        return Err(ENOTTY);
    }
    load(inode)?;
    f(&mut inode.node().container.lock())
}

/// Credits for making a hidden inode.
pub(crate) const HIDDEN_CREDITS: u32 = alloc::ALLOCATE_INODE_CREDITS + 1;

/// Makes a hidden inode for the container.
pub(crate) fn make_hidden(txn: &mut Txn<'_>, inode: &Inode<VexFs>) -> Result<Hidden> {
    let ino = txn
        .allocate_inode(inode.ino(), false)
        .map_err(|e| txn.failed(e))?;
    let mut disk = format::Inode::empty();
    disk.mode = 0o100600;
    disk.nlink = 1;
    disk.flags = FLAG_HIDDEN;
    disk.generation = random_u32();
    disk.btime = node::birth(inode);
    disk.parent_ino = inode.ino();
    disk.parent_generation = inode.generation();
    txn.write_inode(ino, &disk)?;
    Ok(Hidden { ino, disk })
}

/// Turns an empty regular file into a container, with space for `reserve_bytes` of rows. The
/// inode lock is held.
pub(crate) fn create(inode: &Inode<VexFs>, area: VectorArea, reserve_bytes: u64) -> Result {
    if is_container(&inode.node().state.lock()) || inode.size() != 0 {
        return Err(EEXIST);
    }
    if reserve_bytes > 0 {
        if reserve_bytes / format::BLOCK_SIZE as u64 >= inode.volume().free_for_data() {
            return Err(ENOSPC);
        }
        if let Err(e) = crate::file::reserve(inode, 0, reserve_bytes) {
            crate::file::free_tail(inode, 0)?;
            return Err(e);
        }
    }
    let volume = inode.volume();
    let mut txn = volume.begin(inode.sb(), 1, 0)?;
    let mut state = inode.node().state.lock();
    if inode.is_writably_mapped() {
        return Err(EACCES);
    }
    state.disk.vector = area;
    state.disk.flags |= FLAG_VECTOR;
    inode.touch_ctime();
    node::store(&mut txn, inode, &mut state, Change::Data)?;
    drop(state);
    txn.stop()
}
