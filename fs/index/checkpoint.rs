// SPDX-License-Identifier: GPL-2.0

//! Indexes on disk: which there are, loading and saving them.
//!
//! A record says that a container has an index of some kind, and where its image is. An image is written
//! beside the one before it, and a single transaction makes the record refer to it. Before that the rows it
//! speaks of, and their tombstones, become durable: so an image never knows more than the container does
//! after a crash. What it does not know yet is taken in when it is loaded. Only rows that are overwritten
//! in place cannot be told afterwards, so the record is marked before the first of them.
//!
//! Lock order: inode lock > `Node::images` > `Node::rows` > a structure's writer > transaction >
//! `Node::container`. Whoever holds `Node::images` may read and write an image.

use super::catch_up::GoOn;
use super::claim::Claim;
use super::graph::Graph;
use super::hashes::Hashes;
use super::image::{self, Reader as Image};
use super::lists::Lists;
use super::{build, Index, Indexes, Kind, Parameters, Slot, Stamp, Structure};
use crate::container::{self, Container, Hidden, Unwritten};
use crate::node::{self, Change};
use crate::txn::Txn;
use crate::{errno, orphan, VexFs};
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use libvexfs::format::index::{IndexRecord, RECORD_STALE};
use libvexfs::{index as records, tree};
use vexfs_uapi as uapi;
use vexfs_vfs::work::Stop;
use vexfs_vfs::{task, Inode, SuperBlock};

/// Height of the tree of records, with room for more kinds than there are.
const HEIGHT: u16 = 1;
/// Blocks that setting or removing a record joins to a transaction, if one image comes and one goes.
const CREDITS: u32 =
    tree::insert_credits(HEIGHT) + 1 + 2 * orphan::CREDITS + container::HIDDEN_CREDITS + 1;
/// Blocks that it discards.
const REVOKES: u32 = tree::remove_revokes(HEIGHT) + 2 * orphan::REVOKES;
/// How long there is no try to load an index for which there was no memory, in nanoseconds.
const RETRY_NS: u64 = 1_000_000_000;
/// A batch saves an index that a 1/[`CHANGE_SHARE`] of its rows have changed in since it was saved,
const CHANGE_SHARE: u64 = 8;
/// and so many at least.
const LEAST_CHANGES: u64 = 4096;

/// Reads which indexes a container has, whose records are in hidden inode `ino`.
///
/// # Errors
///
/// What reading says; a line in the log.
pub(crate) fn read_records(sb: &SuperBlock<VexFs>, tree: &Hidden, indexes: &mut Indexes) -> Result {
    let reader = container::reader(sb);
    records::for_each(&reader, &tree.disk.tree_root, tree.ino, |kind, record| {
        // A kind that is not known here is left alone.
        if let Some(kind) = Kind::from_uapi(kind) {
            indexes.slot(kind).record = Some(record);
        }
        Ok(())
    })
    .map_err(|e| errno::of(sb, e))
}

/// Sees to it that the index that a search for `kind` wants is in memory, if it is on disk. An image that
/// can't be used is reported in the log, once, and searches do without.
///
/// # Errors
///
/// `EINTR`, `ENOMEM`.
pub(super) fn load(inode: &Inode<VexFs>, kind: u32) -> Result {
    if wanted(inode, kind)?.is_none() {
        return Ok(());
    }
    let _images = inode.node().images.lock_killable()?;
    while let Some((kind, record)) = wanted(inode, kind)? {
        let may = |slot: &Slot| match slot.is_ready() {
            true => Err(EBUSY),
            false => Ok(()),
        };
        let (claim, _) = match Claim::take(inode, kind, Stop::with_task(), true, may) {
            Ok(taken) => taken,
            // Who was faster builds one.
            Err(EBUSY) => continue,
            Err(e) => return Err(e),
        };
        let loaded = load_one(inode, &claim, kind, &record);
        let known = claim.with_slot(inode, |slot| slot.error == Some(ENOMEM));
        claim.give_up(inode, |slot| {
            slot.unusable = loaded.is_err_and(|e| e != EINTR && e != ENOMEM);
            slot.error = loaded.err().filter(|e| *e == ENOMEM);
            slot.load_at = slot
                .error
                .map_or(0, |_| task::monotonic_ns().saturating_add(RETRY_NS));
        });
        let Err(e) = loaded else {
            // Not looked for again: it may have gone already, for lack of memory.
            return Ok(());
        };
        match e {
            EINTR => return Err(e),
            // It was dropped, or the log says so already.
            ECANCELED => {}
            ENOMEM if known == Some(true) => {}
            e => warn_of_load(inode, kind, e),
        }
    }
    Ok(())
}

/// Says in the log that an index can't be loaded. Not inlined: loading wants the stack.
#[inline(never)]
fn warn_of_load(inode: &Inode<VexFs>, kind: Kind, e: Error) {
    let until = match e {
        ENOMEM => "there is memory for it",
        _ => "it is built again",
    };
    pr_warn!(
        "{}: inode {}: the {} index can't be loaded (error {}); rows are compared exactly until {until}\n",
        inode.sb().id(),
        inode.ino(),
        kind.name(),
        e.to_errno()
    );
}

/// The index on disk that a search for `kind` would use and that is not in memory.
fn wanted(inode: &Inode<VexFs>, kind: u32) -> Result<Option<(Kind, IndexRecord)>> {
    container::with(inode, |c| {
        for candidate in Kind::ALL {
            if kind != uapi::VEXFS_INDEX_AUTO && Kind::from_uapi(kind) != Some(candidate) {
                continue;
            }
            let slot = c.indexes.slot(candidate);
            if slot.is_ready() {
                return Ok(None);
            }
            let may =
                slot.claim.is_none() && (slot.load_at == 0 || task::monotonic_ns() >= slot.load_at);
            if let Some(record) = slot.stored().filter(|_| may) {
                return Ok(Some((candidate, record)));
            }
        }
        Ok(None)
    })
}

/// Loads one image and puts it up for searches. `Node::images` is held.
fn load_one(inode: &Inode<VexFs>, claim: &Claim, kind: Kind, record: &IndexRecord) -> Result {
    let (index, watermark, since, rows) = read_image(inode, kind, record)?;
    // From now on deletes are told to it; those before are found below.
    claim.list(inode, &index, rows)?;
    let go_on = || claim.stop.check();
    index.reconcile(inode, watermark, since, &go_on)?;
    claim.put_up(inode, &index, rows, 1, &go_on)
}

/// Reads the index of an image, up to which row and which batch it knows of all, and how many rows there are. Not
/// inlined: this needs much of the stack, and so does what comes afterwards.
#[inline(never)]
fn read_image(
    inode: &Inode<VexFs>,
    kind: Kind,
    record: &IndexRecord,
) -> Result<(Arc<Index>, u64, u64, u64)> {
    let sb = inode.sb();
    let area = &container::with(inode, |c| Ok(c.area))?;
    let mut image = Image::new(sb, record.image_ino, kind.number(), area)?;
    if record.flags & RECORD_STALE != 0 || image.header.generation != record.generation {
        return Err(image.corrupt("is the image of an index whose rows were overwritten since"));
    }
    let structure: Arc<dyn Structure> = match kind {
        Kind::Hnsw => Graph::load(inode, area, &mut image)?,
        Kind::Ivf | Kind::Pq => Lists::load(inode, area, kind, &mut image)?,
        Kind::Lsh => Hashes::load(inode, area, &mut image)?,
    };
    let index = Index::new(kind, structure)?;
    let (watermark, batch) = (image.header.watermark, image.header.batch);
    index.watermark.store(watermark, Ordering::Release);
    index.stored.store(true, Ordering::Relaxed);
    Ok((index, watermark, batch, area.rows))
}

/// Saves the index of a kind. The inode may be locked.
///
/// # Errors
///
/// `ENOENT` if there is none, or not any more; `EROFS`; `EINTR`; what `go_on` says; `ENOSPC`, `EIO` and what metadata
/// says.
/// The image so far stays then.
pub(super) fn save(inode: &Inode<VexFs>, kind: Kind, go_on: GoOn<'_>) -> Result {
    if inode.sb().is_read_only() {
        return Err(EROFS);
    }
    let _images = inode.node().images.lock_killable()?;
    // At unmount and in the background no system call holds a frozen volume off.
    inode.sb().with_internal_write(|| {
        let volume = inode.volume();
        volume.with_space(|| save_unfrozen(inode, kind, go_on))
    })
}

fn save_unfrozen(inode: &Inode<VexFs>, kind: Kind, go_on: GoOn<'_>) -> Result {
    let (index, old, batch) = container::with(inode, |c| {
        let batch = c.indexed;
        let slot = c.indexes.slot(kind);
        Ok((slot.ready().ok_or(ENOENT)?, slot.record, batch))
    })?;
    let old = old.unwrap_or_default();
    // Where deleted rows may be in it, those in their place may not.
    let untidy = index.untidy.load(Ordering::Relaxed);
    let changes = index.changes.load(Ordering::Relaxed);
    let record = IndexRecord {
        flags: 0,
        parameters: index.structure.parameters(),
        image_ino: 0,
        generation: old.generation.wrapping_add(1),
    };
    let stamp = Stamp {
        generation: record.generation,
        batch: if untidy { 0 } else { batch },
    };
    let image_ino = index
        .structure
        .save(inode, stamp, &index.watermark, go_on)?;
    let record = IndexRecord {
        image_ino,
        ..record
    };
    let switched = container::push_durable(inode, Unwritten::Wait).and_then(|()| {
        let still = |slot: &Slot| slot.ready.as_ref().is_some_and(|ready| ready.is(&index));
        set_record(inode, kind, Some(record), still)
    });
    if let Err(e) = switched {
        image::discard(inode.sb(), image_ino);
        return Err(e);
    }
    index.stored.store(true, Ordering::Relaxed);
    index.changes.fetch_sub(changes, Ordering::Relaxed);
    if old.image_ino != 0 {
        image::discard(inode.sb(), old.image_ino);
    }
    Ok(())
}

/// Changes the record of a kind, in one transaction: to `new`, that of `index`, or to none. What the record
/// referred to so far is an orphan then, and the new image is none any more.
fn set_record(
    inode: &Inode<VexFs>,
    kind: Kind,
    record: Option<IndexRecord>,
    still: impl FnOnce(&Slot) -> bool,
) -> Result {
    let sb = inode.sb();
    let mut txn = inode.volume().begin(sb, CREDITS, REVOKES)?.essential();
    let mut guard = inode.node().container.lock();
    let container: &mut Container = &mut guard;
    let slot = container.indexes.slot(kind);
    if !still(slot) {
        return Err(ENOENT);
    }
    let old = slot.record.map_or(0, |record| record.image_ino);
    write_record(&mut txn, inode, container, kind, record.as_ref())?;
    if let Some(record) = record.filter(|record| record.image_ino != 0) {
        orphan::remove(&mut txn, sb, record.image_ino)?;
    }
    if old != 0 {
        orphan::add(&mut txn, sb, old)?;
    }
    let slot = container.indexes.slot(kind);
    slot.record = record;
    slot.unusable = false;
    if record.is_none() {
        slot.error = slot.error.filter(|e| *e != ECANCELED);
    }
    let tree = container.area.index_ino;
    core::mem::drop(guard);
    // Also where it is not new, so that fsync(2) of the container waits for this transaction.
    let mut state = inode.node().state.lock();
    state.disk.vector.index_ino = tree;
    node::store(&mut txn, inode, &mut state, Change::Data)?;
    core::mem::drop(state);
    txn.stop()
}

/// Writes or removes a record, in the tree that is made for it if need be.
fn write_record(
    txn: &mut Txn<'_>,
    inode: &Inode<VexFs>,
    container: &mut Container,
    kind: Kind,
    record: Option<&IndexRecord>,
) -> Result {
    if container.area.index_ino != 0 && container.indexes.tree.is_none() {
        // It could not be read; the log says why.
        return Err(EFSCORRUPTED);
    }
    let mut tree = match container.indexes.tree.take() {
        Some(tree) => tree,
        None => container::make_hidden(txn, inode)?,
    };
    container.area.index_ino = tree.ino;
    let (root, ino, number) = (&mut tree.disk.tree_root, tree.ino, kind.number());
    let written = txn.join_inode(ino).and_then(|()| {
        match record {
            Some(record) => records::set(txn, root, ino, number, record),
            None => records::remove(txn, root, ino, number),
        }
        .map_err(|e| txn.failed(e))
    });
    txn.count_nodes(&mut tree.disk);
    let stored = written.and_then(|()| txn.write_owner(tree.ino, &tree.disk));
    container.indexes.tree = Some(tree);
    stored
}

/// Records that an index is to be built, if there is none, so that a build that a crash or an unmount cuts off
/// starts again. What can't be recorded does not. Returns what was recorded before.
///
/// # Errors
///
/// `EINTR`.
pub(super) fn define(
    inode: &Inode<VexFs>,
    claim: &Claim,
    kind: Kind,
    parameters: &Parameters,
) -> Result<Option<IndexRecord>> {
    let _images = inode.node().images.lock_killable()?;
    let before = inode.node().container.lock().indexes.slot(kind).record;
    let record = IndexRecord {
        parameters: *parameters,
        ..IndexRecord::default()
    };
    if before.is_none_or(|before| before.image_ino == 0) {
        set_definition(inode, claim, kind, Some(record));
    }
    Ok(before)
}

/// Takes back what [`define`] recorded, after a build that failed by itself; also if the task is killed, as
/// nobody else would.
pub(super) fn undefine(
    inode: &Inode<VexFs>,
    claim: &Claim,
    kind: Kind,
    before: Option<IndexRecord>,
) {
    let _images = inode.node().images.lock();
    let record = inode.node().container.lock().indexes.slot(kind).record;
    if record.is_some_and(|record| record.image_ino == 0) {
        set_definition(inode, claim, kind, before);
    }
}

/// Changes a record that refers to no image, unless it is the same, or the claim is gone.
fn set_definition(inode: &Inode<VexFs>, claim: &Claim, kind: Kind, record: Option<IndexRecord>) {
    let other = |slot: &Slot| claim.has(slot) && slot.record != record;
    if !inode.sb().is_read_only() && claim.with_slot(inode, |slot| other(slot)) == Some(true) {
        let set = || set_record(inode, kind, record, other);
        let _ = inode.sb().with_internal_write(set);
    }
}

/// Has the index that a search for `kind` would use built in the background, if what is on disk of it is
/// damaged or outdated, or its build was cut off, or rows have outgrown it and there was no memory then.
pub(super) fn rebuild(inode: &Inode<VexFs>, kind: u32) {
    let wanted = |c: &mut Container| {
        for candidate in Kind::ALL {
            if kind != uapi::VEXFS_INDEX_AUTO && Kind::from_uapi(kind) != Some(candidate) {
                continue;
            }
            let slot = c.indexes.slot(candidate);
            let may = slot.may_build();
            if slot.is_ready() {
                let failed = slot.error.is_some();
                return Ok((failed && may).then_some((candidate, None)));
            }
            let lost = |record: &IndexRecord| slot.unusable || record.image_ino == 0;
            if let Some(record) = slot.record.filter(lost).filter(|_| may) {
                return Ok(Some((candidate, Some(record.parameters))));
            }
        }
        Ok(None)
    };
    if inode.sb().is_read_only() {
        return;
    }
    match container::with(inode, wanted) {
        Ok(Some((kind, Some(parameters)))) => build::by_itself(inode, kind, parameters),
        Ok(Some((_, None))) => build::outgrown(inode),
        _ => {}
    }
}

/// Forgets the index of a kind that `dropped` was the record of, unless somebody has built another one
/// meanwhile. Searches do not use it any more.
///
/// # Errors
///
/// `EINTR`, `EROFS`, and what metadata says. It stays on disk then.
pub(super) fn forget(inode: &Inode<VexFs>, kind: Kind, dropped: &IndexRecord) -> Result {
    let same = |slot: &Slot| {
        // Its rows may have been overwritten since. Without an image it may be what a later build has defined.
        let image = |record: &IndexRecord| (record.image_ino, record.generation);
        slot.record.as_ref().map(image) == Some(image(dropped))
            && (dropped.image_ino != 0 || slot.claim.is_none())
    };
    let _images = inode.node().images.lock_killable()?;
    if !container::with(inode, |c| Ok(same(c.indexes.slot(kind))))? {
        return Ok(());
    }
    if inode.sb().is_read_only() {
        return Err(EROFS);
    }
    inode.sb().with_internal_write(|| {
        match set_record(inode, kind, None, same) {
            // A build has begun just now.
            Err(ENOENT) => return Ok(()),
            other => other?,
        }
        if dropped.image_ino != 0 {
            image::discard(inode.sb(), dropped.image_ino);
        }
        Ok(())
    })
}

/// Runs `f`, which overwrites rows in place. Images of them are not used after a crash any more; that is on
/// the medium before `f` runs. The inode is locked exclusively.
///
/// # Errors
///
/// What `f` returns; before that, `EINTR`, and what metadata says.
pub(super) fn overwriting<R>(inode: &Inode<VexFs>, f: impl FnOnce() -> Result<R>) -> Result<R> {
    let _images = inode.node().images.lock_killable()?;
    let fresh = |record: &IndexRecord| record.image_ino != 0 && record.flags & RECORD_STALE == 0;
    let mut tid = None;
    for kind in Kind::ALL {
        let (record, ready) = container::with(inode, |c| {
            let slot = c.indexes.slot(kind);
            Ok((slot.record, slot.ready()))
        })?;
        let Some(record) = record.filter(fresh) else {
            continue;
        };
        if let Some(index) = ready {
            // It stays in memory, and an unmount saves it, whatever rows these are.
            index.changed(inode, 1);
        }
        let record = IndexRecord {
            flags: record.flags | RECORD_STALE,
            ..record
        };
        let mut txn = inode.volume().begin(inode.sb(), CREDITS, REVOKES)?;
        let mut guard = inode.node().container.lock();
        write_record(&mut txn, inode, &mut guard, kind, Some(&record))?;
        guard.indexes.slot(kind).record = Some(record);
        core::mem::drop(guard);
        tid = Some(txn.tid());
        txn.stop()?;
    }
    if let Some(tid) = tid {
        inode.volume().journal()?.complete(tid)?;
    }
    f()
}

/// Saves the indexes in which much has changed since they were saved. A batch does so at its end, so that a
/// load after a crash has little to take in.
pub(super) fn save_changed(inode: &Inode<VexFs>) {
    for kind in Kind::ALL {
        let ready = inode.node().container.lock().indexes.slot(kind).ready();
        let Some(index) = ready else {
            continue;
        };
        let changes = index.changes.load(Ordering::Relaxed);
        let enough = (index.structure.counts().live / CHANGE_SHARE).max(LEAST_CHANGES);
        if changes >= enough {
            save_or_warn(inode, kind, &unless_killed);
        }
    }
}

/// `EINTR` for a fatal signal.
fn unless_killed() -> Result {
    match task::fatal_signal_pending() {
        true => Err(EINTR),
        false => Ok(()),
    }
}

/// Saves an index; if it can't be saved, the log says so.
pub(super) fn save_or_warn(inode: &Inode<VexFs>, kind: Kind, go_on: GoOn<'_>) {
    let Err(e) = save(inode, kind, go_on) else {
        return;
    };
    if ![ECANCELED, EINTR, ENOENT, EROFS].contains(&e) {
        pr_warn!(
            "{}: inode {}: the {} index can't be saved (error {}); it is in memory only, or older on disk\n",
            inode.sb().id(),
            inode.ino(),
            kind.name(),
            e.to_errno()
        );
    }
}

/// Saves all indexes in memory that have changed: the volume is about to be unmounted or made read-only.
pub(crate) fn save_all(sb: &SuperBlock<VexFs>) {
    if sb.is_read_only() {
        return;
    }
    for ino in sb.volume().take_unsaved().iter() {
        let Some(inode) = sb.find_cached(*ino) else {
            continue;
        };
        for kind in Kind::ALL {
            let ready = inode.node().container.lock().indexes.slot(kind).ready();
            if ready.is_some_and(|index| index.changes.load(Ordering::Relaxed) > 0) {
                save_or_warn(&inode, kind, &unless_killed);
            }
        }
    }
}

/// Frees the images and the records of a container that is being freed itself.
pub(crate) fn release(sb: &SuperBlock<VexFs>, ino: u64) -> Result {
    if ino == 0 {
        return Ok(());
    }
    let reader = container::reader(sb);
    let disk = match reader.inode(&sb.volume().geo, ino) {
        // Freed before a crash, with its owner still an orphan.
        Err(e) if e == ESTALE => return Ok(()),
        other => other?,
    };
    let mut images = KVec::with_capacity(Kind::ALL.len(), GFP_KERNEL)?;
    records::for_each(&reader, &disk.tree_root, ino, |_, record| {
        if record.image_ino != 0 {
            // Of kinds that are not known here there are none yet.
            let _ = images.push_within_capacity(record.image_ino);
        }
        Ok(())
    })
    .map_err(|e| errno::of(sb, e))?;
    for image in &images {
        orphan::release_hidden(sb, *image, false)?;
    }
    orphan::release_hidden(sb, ino, false)
}
