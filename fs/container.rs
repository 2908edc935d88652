// SPDX-License-Identifier: GPL-2.0

//! Vector containers: what the inode's vector area says, what stands beside the rows, and
//! when changes become durable.
//!
//! In memory the truth is [`Container`]; the vector area on disk follows it. It is written
//! when the data of the rows it speaks of is on the medium ([`push_durable`]), always at the
//! end of a batch. So a crash shows complete batches only. Keys, tags and tombstones of later
//! batches may already be on disk then; they carry numbers that the vector area does not
//! confirm, are ignored, and removed when the container is next loaded for writing.
//!
//! Lock order: inode lock > transaction > `Node::container` > `Node::state`. All changes are
//! made under the inode lock, held exclusively.

use crate::errno;
use crate::index::{self, Indexes};
use crate::node::{self, Change, State};
use crate::txn::{Reader, Txn};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::row::RowMeta;
use libvexfs::format::{self, inode::FLAG_HIDDEN, inode::FLAG_VECTOR, VectorArea};
use libvexfs::{alloc, rows, tree};
use vexfs_vfs::task::random_u32;
use vexfs_vfs::{Inode, SuperBlock};

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
/// When `loaded`: `keys` and `tags` are empty or have an entry for each of the `area.rows`
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
    pub(crate) counters: Counters,
    pub(crate) indexes: Indexes,
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
            counters: Counters::default(),
            indexes: Indexes::default(),
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
            self.tombstones.resize(words, 0, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Sets the tombstone of a row that room was made for.
    pub(crate) fn set_deleted(&mut self, row: u64) {
        if let Some(word) = self.tombstones.get_mut((row / 64) as usize) {
            *word |= 1 << (row % 64);
        }
    }

    /// Makes room for explicit keys (or tags) of `rows` rows; rows so far have their number.
    pub(crate) fn reserve_keys(&mut self, rows: u64) -> Result {
        let have = self.keys.len() as u64;
        self.keys.reserve(
            usize::try_from(rows.saturating_sub(have))?,
            GFP_KERNEL_ACCOUNT,
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
            GFP_KERNEL_ACCOUNT,
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

/// Loads the container, if it is not yet. The inode lock is held.
///
/// Neither this nor what it calls is inlined: inodes are half a KiB each, and not all of them at once need be on
/// the stack.
#[inline(never)]
fn load(inode: &Inode<VexFs>) -> Result {
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
        container.reserve_keys(area.rows)?;
        container.reserve_tags(area.rows)?;
        container.reserve_tombstones(area.rows)?;
        let mut deleted = 0u64;
        let target = &mut *container;
        rows::for_each_from(
            &reader(sb),
            &meta.disk.tree_root,
            meta.ino,
            0,
            |row, record| {
                if row >= area.rows {
                    return Ok(false);
                }
                if let Some(key) = target.keys.get_mut(row as usize) {
                    *key = record.key;
                }
                if let Some(tags) = target.tags.get_mut(row as usize) {
                    *tags = record.tags;
                }
                if record.tomb_seq != 0 && record.tomb_seq <= area.batch_done {
                    target.set_deleted(row);
                    deleted = deleted.saturating_add(1);
                }
                Ok(true)
            },
        )
        .map_err(|e| errno::of(sb, e))?;
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

/// Makes the key map name the live rows among `candidates` again: a batch that did not come to
/// be may have pointed their keys to rows of its own.
#[inline(never)]
fn repair_keys(inode: &Inode<VexFs>, candidates: impl Iterator<Item = u64>) -> Result {
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
            rows::set_row_of_key(&mut txn, &mut map.disk.tree_root, map.ino, key, row)
                .map_err(|e| txn.failed(e))?;
            txn.count_nodes(&mut map.disk);
            txn.write_inode(map.ino, &map.disk)?;
        }
        drop(guard);
        txn.stop()?;
    }
    Ok(())
}

/// Credits for changing one entry of a key map of billions of keys.
const MAP_CREDITS: u32 = tree::insert_credits(5) + 1;

/// Removes the traces of batches that a crash cut off: records of rows that never came to
/// be, and tombstones that were not confirmed.
#[inline(never)]
fn forget_unfinished(inode: &Inode<VexFs>, area: &VectorArea, meta: &mut Hidden) -> Result {
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
                if row >= area.rows || record.tomb_seq > area.batch_done {
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
            let result = if *row >= area.rows {
                tree::remove(&mut txn, &mut meta.disk.tree_root, meta.ino, *row)
            } else {
                let record = RowMeta {
                    tomb_seq: 0,
                    ..*record
                };
                rows::set_meta(&mut txn, &mut meta.disk.tree_root, meta.ino, *row, &record)
            };
            result.map_err(|e| txn.failed(e))?;
            txn.count_nodes(&mut meta.disk);
            txn.write_inode(meta.ino, &meta.disk)?;
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
    if state.disk.vector.generation < area.generation {
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
    txn.stop()
}
