// SPDX-License-Identifier: GPL-2.0

//! Changing and reading the rows of a container: batches, and whole-row write(2).
//!
//! A batch writes its vectors behind the last row, or in the place of deleted ones, where no search looks, then
//! records keys, tags, births and tombstones under a batch number that is not confirmed, then publishes rows and
//! number together in memory. `container::push_durable` makes that last step durable.

use crate::container::{self, Container, HIDDEN_CREDITS};
use crate::element::{self, RowCheck};
use crate::file::{drop_tail, reserve};
use crate::index;
use crate::node::{self, Change};
use crate::txn::Txn;
use crate::VexFs;
use kernel::prelude::*;
use kernel::uaccess::{UserSlice, UserSliceReader};
use libvexfs::format::row::RowMeta;
use libvexfs::format::VectorArea;
use libvexfs::{rows, tree};
use vexfs_uapi::VEXFS_KEY_NONE;
use vexfs_vfs::file::{OpenFile, Source};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{sort, task, Inode};

/// Bytes moved at once between user memory and the page cache: fits the L2 cache.
const CHUNK: usize = 64 * 1024;

/// The user's side of an insertion.
pub(crate) struct Vectors {
    /// User address of the first vector.
    pub(crate) address: usize,
    /// Bytes from one vector to the next.
    pub(crate) stride: usize,
}

/// Where the rows of a batch go: first those in the place of deleted ones, then those behind the last.
pub(crate) struct Places {
    /// Deleted rows, in order.
    reused: KVVec<u64>,
    /// The first behind the last one.
    first: u64,
    /// Rows of the batch.
    count: u64,
}

impl Places {
    /// `count` rows behind the last one.
    fn behind(first: u64, count: u64) -> Self {
        Places {
            reused: KVVec::new(),
            first,
            count,
        }
    }

    /// How many rows come behind the last one.
    fn appended(&self) -> u64 {
        self.count.saturating_sub(self.reused.len() as u64)
    }

    /// The row that vector `index` of the batch becomes.
    pub(crate) fn row(&self, index: u64) -> u64 {
        match self.reused.get(index as usize) {
            Some(row) => *row,
            None => self
                .first
                .saturating_add(index.saturating_sub(self.reused.len() as u64)),
        }
    }

    /// The vectors, from `index` on and `most` of them, that lie one after the other in the file: their first row, and
    /// how many they are.
    fn run(&self, index: u64, most: u64) -> (u64, u64) {
        let first = self.row(index);
        let reused = self.reused.get(index as usize..).unwrap_or(&[]);
        if reused.is_empty() {
            return (first, most);
        }
        let follows = |(n, row): &(u64, &u64)| first.saturating_add(*n) == **row;
        let run = (0..most).zip(reused).take_while(follows).count();
        (first, run as u64)
    }
}

/// What [`insert`] may do.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Rows that have one of the keys are replaced.
    pub(crate) upsert: bool,
    /// Rows may take the place of deleted ones.
    pub(crate) reuse: bool,
}

/// An error, and the index in the batch of the row it is about.
pub(crate) struct BatchError {
    pub(crate) error: Error,
    pub(crate) row: Option<u64>,
}

impl From<Error> for BatchError {
    fn from(error: Error) -> Self {
        BatchError { error, row: None }
    }
}

impl From<kernel::alloc::AllocError> for BatchError {
    fn from(_: kernel::alloc::AllocError) -> Self {
        ENOMEM.into()
    }
}

fn about(error: Error, row: usize) -> BatchError {
    BatchError {
        error,
        row: Some(row as u64),
    }
}

type BatchResult<T> = core::result::Result<T, BatchError>;

/// The index of the first element of `keys` that occurred before.
fn first_repeated(keys: &[u64]) -> Result<Option<usize>> {
    let mut order = KVVec::with_capacity(keys.len(), GFP_KERNEL | __GFP_NOWARN)?;
    for (index, key) in keys.iter().enumerate() {
        order
            .push_within_capacity((*key, index))
            .map_err(|_| ENOMEM)?;
    }
    sort::pairs(&mut order);
    Ok(order
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] if a.0 == b.0 => Some(b.1),
            _ => None,
        })
        .min())
}

/// Inserts or upserts `count` rows. The inode is locked exclusively.
pub(crate) fn insert(
    file: &OpenFile<'_, VexFs>,
    vectors: &Vectors,
    count: u64,
    keys: Option<&[u64]>,
    tags: Option<&[u64]>,
    options: Options,
) -> BatchResult<Places> {
    let inode = file.inode();
    let started = task::monotonic_ns();
    let (area, has_keys) = container::with_locked(inode, |c| Ok((c.area, c.key_map.is_some())))?;
    let mut places = Places::behind(area.rows, count);
    if options.reuse {
        container::finish_undo(inode)?;
        places.reused = container::reusable(inode, count, keys.is_some())?;
    }
    let rows_after = area.rows.checked_add(places.appended()).ok_or(EFBIG)?;
    let bytes_after = rows_after
        .checked_mul(u64::from(area.stride))
        .filter(|bytes| *bytes <= libvexfs::format::inode::MAX_SIZE)
        .ok_or(EFBIG)?;
    let replaced = check_keys(inode, &places, keys, has_keys, options.upsert)?;

    file.modified()?;
    let written = write_vectors(file, &area, vectors, &places);
    let published = written
        .and_then(|()| publish(inode, &places, keys, tags, &replaced).map_err(BatchError::from));
    if let Err(e) = published {
        drop_tail(inode, area.rows.saturating_mul(u64::from(area.stride)));
        return Err(e);
    }
    debug_assert!(inode.size() == bytes_after);
    index::inserted(inode, &places.reused, &replaced);
    container::with_locked(inode, |c| {
        c.counters.inserted = c.counters.inserted.saturating_add(count);
        let elapsed = task::monotonic_ns().saturating_sub(started);
        c.counters.insert_ns = c.counters.insert_ns.saturating_add(elapsed);
        Ok(())
    })?;
    Ok(places)
}

/// Checks the keys of a batch; for an upsert, returns the rows that it replaces.
fn check_keys(
    inode: &Inode<VexFs>,
    places: &Places,
    keys: Option<&[u64]>,
    has_keys: bool,
    upsert: bool,
) -> BatchResult<KVVec<u64>> {
    let mut replaced = KVVec::new();
    let Some(keys) = keys else {
        // The keys are the row numbers. Only explicit keys can be in their way, and not where a row is used again.
        if has_keys {
            for index in places.reused.len() as u64..places.count {
                let key = places.row(index);
                if container::with_locked(inode, |c| c.find(inode.sb(), key))?.is_some() {
                    return Err(about(EEXIST, index as usize));
                }
            }
        }
        return Ok(replaced);
    };
    if let Some(index) = keys.iter().position(|key| *key == VEXFS_KEY_NONE) {
        return Err(about(EINVAL, index));
    }
    if let Some(index) = first_repeated(keys)? {
        return Err(about(if upsert { EINVAL } else { EEXIST }, index));
    }
    for (index, key) in keys.iter().enumerate() {
        match container::with_locked(inode, |c| c.find(inode.sb(), *key))? {
            Some(row) if upsert => replaced.push(row, GFP_KERNEL)?,
            Some(_) => return Err(about(EEXIST, index)),
            None => {}
        }
    }
    Ok(replaced)
}

/// Copies the vectors to their places.
#[inline(never)]
fn write_vectors(
    file: &OpenFile<'_, VexFs>,
    area: &VectorArea,
    vectors: &Vectors,
    places: &Places,
) -> BatchResult<()> {
    let inode = file.inode();
    let (bytes, stride) = (element::row_bytes(area)?, area.stride as usize);
    let check = RowCheck::new(inode, area, stride)?;
    let per_chunk = (CHUNK / stride).max(1);
    // Rows that are packed as the file has them go straight to the page cache.
    let direct = vectors.stride == stride && bytes == stride;
    let mut buffer = KVVec::new();
    if !direct {
        buffer.resize(per_chunk * stride, 0, GFP_KERNEL)?;
    }
    let mut pinned = Pinned::new()?;
    let mut done = 0usize;
    let at = |row: u64| row.saturating_mul(u64::from(area.stride));
    // One allocation for the batch, instead of one for each chunk.
    let end = places.first.saturating_add(places.appended());
    if places.first < end {
        reserve(inode, at(places.first), at(end))?;
    }
    let count = usize::try_from(places.count).map_err(|_| EFBIG)?;
    while done < count {
        if task::fatal_signal_pending() {
            return Err(EINTR.into());
        }
        let (row, n) = places.run(done as u64, per_chunk.min(count - done) as u64);
        let n = n as usize;
        let address = vectors
            .address
            .wrapping_add(done.wrapping_mul(vectors.stride));
        let position = at(row);
        let bad = if direct {
            file.write_user_at(position, address, n * stride)?;
            check.first_bad_in_file(&mut pinned, position, n * stride)?
        } else {
            let chunk = buffer.get_mut(..n * stride).ok_or(EINVAL)?;
            read_rows(address, vectors.stride, bytes, stride, chunk)?;
            file.write_at(position, chunk)?;
            check.first_bad(chunk, 0)?
        };
        if let Some(row) = bad {
            return Err(about(EINVAL, done + row));
        }
        done += n;
    }
    Ok(())
}

/// Reads rows of `bytes` bytes from user memory, `from_stride` apart, into `chunk`, where
/// they are `stride` apart. Padding in `chunk` stays zero.
fn read_rows(
    address: usize,
    from_stride: usize,
    bytes: usize,
    stride: usize,
    chunk: &mut [u8],
) -> Result {
    for (index, row) in chunk.chunks_mut(stride).enumerate() {
        let at = address.wrapping_add(index.wrapping_mul(from_stride));
        user(at, bytes).read_slice(row.get_mut(..bytes).ok_or(EINVAL)?)?;
    }
    Ok(())
}

fn user(address: usize, len: usize) -> UserSliceReader {
    UserSlice::new(UserPtr::from_addr(address), len).reader()
}

/// Makes the rows of a batch visible, and hides those they replace.
#[inline(never)]
fn publish(
    inode: &Inode<VexFs>,
    places: &Places,
    keys: Option<&[u64]>,
    tags: Option<&[u64]>,
    replaced: &[u64],
) -> Result {
    let volume = inode.volume();
    let node = inode.node();
    container::finish_undo(inode)?;
    let (rows_after, registered) = {
        let mut c = node.container.lock();
        let after = c.area.rows.saturating_add(places.appended());
        // Whatever can fail for lack of memory comes before any change.
        if keys.is_some() || !c.keys.is_empty() {
            c.reserve_keys(after)?;
        }
        if tags.is_some() || !c.tags.is_empty() {
            c.reserve_tags(after)?;
        }
        if !replaced.is_empty() || !c.tombstones.is_empty() {
            c.reserve_tombstones(after)?;
        }
        if !places.reused.is_empty() || c.has_births() {
            c.reserve_births(after)?;
        }
        (after, c.registered)
    };
    if !registered {
        volume.register_unpushed(inode.ino())?;
        node.container.lock().registered = true;
    }
    announce(inode, replaced)?;
    record(inode, places, keys, tags, replaced).inspect_err(|_| {
        container::undo_batch(inode, replaced);
        node.container.lock().replacing.clear();
    })?;
    let mut guard = node.container.lock();
    let c = &mut *guard;
    let (has_keys, has_tags) = (
        !c.keys.is_empty() || keys.is_some(),
        !c.tags.is_empty() || tags.is_some(),
    );
    for index in 0..places.count {
        let row = places.row(index);
        if has_keys {
            let key = keys.and_then(|k| k.get(index as usize)).copied();
            set_or_push(&mut c.keys, row, key.unwrap_or(row));
        }
        if has_tags {
            let tag = tags.and_then(|t| t.get(index as usize)).copied();
            set_or_push(&mut c.tags, row, tag.unwrap_or(0));
        }
    }
    c.replacing.clear();
    c.bury(replaced);
    c.area.rows = rows_after;
    c.area.live = c.area.live.saturating_add(places.appended());
    c.area.batch_done = c.area.batch_started;
    let batch = c.area.batch_done;
    c.bear(&places.reused, batch);
    c.area.generation = c.area.generation.wrapping_add(1);
    drop(guard);
    // Writeback of the pages alone would not write the inode.
    inode.mark_dirty();
    Ok(())
}

/// Sets what a row has, or appends it. Room was made.
fn set_or_push(values: &mut KVVec<u64>, row: u64, value: u64) {
    match values.get_mut(row as usize) {
        Some(place) => *place = value,
        None => {
            let _ = values.push_within_capacity(value);
        }
    }
}

/// Lets those who look for the keys of rows that a batch is about to replace find these rows
/// until the batch is published.
fn announce(inode: &Inode<VexFs>, replaced: &[u64]) -> Result {
    let mut replacing = KVVec::with_capacity(replaced.len(), GFP_KERNEL | __GFP_NOWARN)?;
    let mut c = inode.node().container.lock();
    for row in replaced {
        replacing
            .push_within_capacity((c.key_of(*row), usize::try_from(*row)?))
            .map_err(|_| ENOMEM)?;
    }
    sort::pairs(&mut replacing);
    c.replacing = replacing;
    Ok(())
}

/// Records on disk, under a batch number, what a batch says beside its vectors.
fn record(
    inode: &Inode<VexFs>,
    places: &Places,
    keys: Option<&[u64]>,
    tags: Option<&[u64]>,
    replaced: &[u64],
) -> Result {
    let mut batch = None;
    let all = keys.is_some() || tags.is_some_and(|tags| tags.iter().any(|t| *t != 0));
    if all || !places.reused.is_empty() {
        let sequence = begin_batch(inode, keys.is_some())?;
        batch = Some(sequence);
        // Others need no record.
        let count = match all {
            true => places.count,
            false => places.reused.len() as u64,
        };
        let sb = inode.sb();
        for_each_in_transactions(inode, count, |c, txn, index| {
            let row = places.row(index);
            let key = keys
                .and_then(|k| k.get(index as usize))
                .copied()
                .unwrap_or(row);
            let tags = tags
                .and_then(|t| t.get(index as usize))
                .copied()
                .unwrap_or(0);
            let mut record = RowMeta {
                key,
                tags,
                ..RowMeta::default()
            };
            if index < places.reused.len() as u64 {
                // Until the batch is confirmed, the tombstone counts.
                record.tomb_seq = c.tomb_seq(sb, row)?;
                record.born_seq = sequence;
            }
            if let Some(meta) = c.row_meta.as_mut() {
                rows::set_meta(txn, &mut meta.disk.tree_root, meta.ino, row, &record)
                    .map_err(|e| txn.failed(e))?;
                txn.count_nodes(&mut meta.disk);
            }
            if let (Some(_), Some(map)) = (keys, c.key_map.as_mut()) {
                rows::set_row_of_key(txn, &mut map.disk.tree_root, map.ino, key, row)
                    .map_err(|e| txn.failed(e))?;
                txn.count_nodes(&mut map.disk);
            }
            Ok(())
        })?;
    }
    if !replaced.is_empty() {
        bury(inode, replaced, batch)?;
    }
    Ok(())
}

/// Deletes rows, which are live and different. The inode is locked exclusively.
pub(crate) fn delete(inode: &Inode<VexFs>, rows: &[u64]) -> Result {
    if rows.is_empty() {
        return Ok(());
    }
    let node = inode.node();
    container::finish_undo(inode)?;
    let registered = container::with_locked(inode, |c| {
        c.reserve_tombstones(c.area.rows)?;
        Ok(c.registered)
    })?;
    if !registered {
        inode.volume().register_unpushed(inode.ino())?;
        node.container.lock().registered = true;
    }
    bury(inode, rows, None).inspect_err(|_| container::undo_batch(inode, &[]))?;
    let mut c = node.container.lock();
    c.bury(rows);
    c.area.batch_done = c.area.batch_started;
    c.area.generation = c.area.generation.wrapping_add(1);
    c.counters.deleted = c.counters.deleted.saturating_add(rows.len() as u64);
    drop(c);
    inode.mark_dirty();
    index::deleted(inode, rows);
    Ok(())
}

/// Records tombstones on disk, under a batch number.
fn bury(inode: &Inode<VexFs>, rows: &[u64], batch: Option<u64>) -> Result {
    let sequence = match batch {
        Some(sequence) => sequence,
        None => begin_batch(inode, false)?,
    };
    for_each_in_transactions(inode, rows.len() as u64, |c, txn, index| {
        let Some(row) = rows.get(index as usize) else {
            return Ok(());
        };
        let record = RowMeta {
            key: c.key_of(*row),
            tags: c.tags_of(*row),
            tomb_seq: sequence,
            born_seq: c.born(*row),
        };
        if let Some(meta) = c.row_meta.as_mut() {
            rows::set_meta(txn, &mut meta.disk.tree_root, meta.ino, *row, &record)
                .map_err(|e| txn.failed(e))?;
            txn.count_nodes(&mut meta.disk);
        }
        Ok(())
    })
}

/// Gives the coming batch a number and makes the hidden inodes it needs. The number is on
/// disk, unconfirmed, before any record carries it.
fn begin_batch(inode: &Inode<VexFs>, wants_keys: bool) -> Result<u64> {
    let volume = inode.volume();
    volume.with_space(|| try_to_begin_batch(inode, wants_keys))
}

fn try_to_begin_batch(inode: &Inode<VexFs>, wants_keys: bool) -> Result<u64> {
    let mut txn = inode
        .volume()
        .begin(inode.sb(), 2 * HIDDEN_CREDITS + 1, 0)?;
    let mut c = inode.node().container.lock();
    let made = make_trees(&mut txn, inode, &mut c, wants_keys);
    if made.is_ok() {
        c.area.batch_started = c.area.batch_started.wrapping_add(1);
    }
    let area = c.area;
    drop(c);
    // Also after an error: one of them may be there.
    let mut state = inode.node().state.lock();
    state.disk.vector.row_meta_ino = area.row_meta_ino;
    state.disk.vector.key_map_ino = area.key_map_ino;
    state.disk.vector.batch_started = area.batch_started;
    let stored = node::store(&mut txn, inode, &mut state, Change::Data);
    drop(state);
    made.and(stored).and(txn.stop())?;
    Ok(area.batch_started)
}

/// Makes the hidden inodes that a batch needs and that are not there yet.
fn make_trees(
    txn: &mut Txn<'_>,
    inode: &Inode<VexFs>,
    c: &mut Container,
    wants_keys: bool,
) -> Result {
    if c.row_meta.is_none() {
        let meta = container::make_hidden(txn, inode)?;
        c.area.row_meta_ino = meta.ino;
        c.row_meta = Some(meta);
    }
    if wants_keys && c.key_map.is_none() {
        let map = container::make_hidden(txn, inode)?;
        c.area.key_map_ino = map.ino;
        c.key_map = Some(map);
    }
    Ok(())
}

/// Calls `f` for each index of a batch, in as many transactions as it takes; again after a commit, if there is no
/// space but what that frees.
fn for_each_in_transactions(
    inode: &Inode<VexFs>,
    count: u64,
    mut f: impl FnMut(&mut Container, &mut Txn<'_>, u64) -> Result,
) -> Result {
    /// Levels that a tree may grow while a transaction is open.
    const GROWTH: u16 = 1;
    /// Entries while the container is locked: some hundred microseconds.
    const LET_IN: u64 = 64;
    let volume = inode.volume();
    let max = volume.journal()?.max_credits();
    let mut index = 0;
    // A commit has made space, and nothing has used it yet.
    let mut reclaimed = false;
    while index < count {
        let heights = {
            let c = inode.node().container.lock();
            let height = |h: &Option<container::Hidden>| {
                h.as_ref()
                    .map_or(0, |h| tree::height(&h.disk.tree_root).unwrap_or(0))
            };
            (height(&c.row_meta), height(&c.key_map))
        };
        let each = tree::insert_credits(heights.0.saturating_add(GROWTH))
            .saturating_add(tree::insert_credits(heights.1.saturating_add(GROWTH)));
        let inodes = 2;
        let left = u32::try_from(count.saturating_sub(index)).unwrap_or(u32::MAX);
        let credits = each
            .saturating_mul(left)
            .min(max)
            .max(each)
            .saturating_add(inodes);
        let mut txn = volume.begin(inode.sb(), credits, 8)?;
        let mut c = inode.node().container.lock();
        for hidden in [&c.row_meta, &c.key_map].into_iter().flatten() {
            txn.join_inode(hidden.ino)?;
        }
        let mut result = loop {
            let result = f(&mut c, &mut txn, index);
            if result.is_err() {
                break result;
            }
            reclaimed = false;
            index = index.saturating_add(1);
            if index >= count || txn.credits_left() < each.saturating_add(inodes) {
                break Ok(());
            }
            if index % LET_IN == 0 {
                // Who searches wants the lock too.
                drop(c);
                task::cond_resched();
                c = inode.node().container.lock();
            }
        };
        // Also after an error: the trees may have grown since the transaction began.
        for hidden in [&c.row_meta, &c.key_map].into_iter().flatten() {
            result = result.and(txn.write_owner(hidden.ino, &hidden.disk));
        }
        drop(c);
        match result.and(txn.stop()) {
            Err(e) if e == ENOSPC && !reclaimed => {
                reclaimed = volume.reclaim_by_commit();
                if !reclaimed {
                    return Err(e);
                }
            }
            other => other?,
        }
    }
    Ok(())
}

/// Copies rows to user memory; rows that are `None` become zeros.
pub(crate) fn read_to_user(
    inode: &Inode<VexFs>,
    wanted: &[Option<u64>],
    address: usize,
    user_stride: usize,
) -> Result {
    let area = container::with(inode, |c| Ok(c.area))?;
    let bytes = element::row_bytes(&area)?;
    let mut row_buffer = KVVec::from_elem(0u8, bytes, GFP_KERNEL | __GFP_NOWARN)?;
    let mut pinned = Pinned::new()?;
    for (index, row) in wanted.iter().enumerate() {
        match row {
            None => row_buffer.fill(0),
            Some(row) => {
                let start = row.saturating_mul(u64::from(area.stride));
                let end = start.saturating_add(bytes as u64);
                pinned.read(inode, start, end, &mut row_buffer)?;
            }
        }
        let at = address.wrapping_add(index.wrapping_mul(user_stride));
        UserSlice::new(UserPtr::from_addr(at), bytes)
            .writer()
            .write_slice(&row_buffer)?;
    }
    Ok(())
}

/// A write(2) of whole rows: overwrites those that are there, appends the rest. The inode is
/// locked exclusively.
///
/// # Errors
///
/// `EINVAL` for a part of a row, a gap behind the last row, or a row that [`RowCheck`] finds; then
/// nothing is written.
pub(crate) fn write(
    file: &OpenFile<'_, VexFs>,
    position: u64,
    source: &mut Source<'_>,
) -> Result<usize> {
    let inode = file.inode();
    let area = container::with_locked(inode, |c| Ok(c.area))?;
    let stride = u64::from(area.stride);
    let len = source.len() as u64;
    let end = area.rows.saturating_mul(stride);
    let whole = |n: u64| n.checked_rem(stride) == Some(0);
    if !whole(position) || !whole(len) || position > end {
        return Err(EINVAL);
    }
    // All of it is read and checked before any row changes.
    if len > u64::from(vexfs_uapi::VEXFS_MAX_BATCH_BYTES) {
        return Err(EINVAL);
    }
    let mut bytes = KVVec::from_elem(0u8, usize::try_from(len)?, GFP_KERNEL | __GFP_NOWARN)?;
    source.read(&mut bytes)?;
    let data = element::row_bytes(&area)?;
    for row in bytes.chunks_mut(area.stride as usize) {
        row.get_mut(data..).ok_or(EINVAL)?.fill(0);
    }
    let check = RowCheck::new(inode, &area, area.stride as usize)?;
    if check.first_bad(&bytes, 0)?.is_some() {
        return Err(EINVAL);
    }
    file.modified()?;
    let over = usize::try_from(len.min(end.saturating_sub(position)))?;
    let (old, new) = bytes.split_at_checked(over).ok_or(EINVAL)?;
    if !old.is_empty() {
        let first = position.checked_div(stride).ok_or(EINVAL)?;
        let count = (old.len() as u64).checked_div(stride).ok_or(EINVAL)?;
        let rows = first..first.saturating_add(count);
        index::overwriting(inode, rows, || file.write_at(position, old))?;
        container::with_locked(inode, |c| {
            c.area.generation = c.area.generation.wrapping_add(1);
            Ok(())
        })?;
    }
    if !new.is_empty() {
        let count = (new.len() as u64).checked_div(stride).ok_or(EINVAL)?;
        let written = file
            .write_at(position.saturating_add(over as u64), new)
            .and_then(|()| {
                let places = Places::behind(area.rows, count);
                publish(inode, &places, None, None, &[])
            });
        if let Err(e) = written {
            drop_tail(inode, end);
            return Err(e);
        }
        index::inserted(inode, &[], &[]);
    }
    Ok(bytes.len())
}
