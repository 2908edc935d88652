// SPDX-License-Identifier: GPL-2.0

//! Files: where their data is, size changes, fsync, preallocation.
//!
//! New data goes to unwritten extents, allocated before a folio is locked. They become
//! written, and the size on disk grows, when the data is on the medium. So a crash shows
//! zeros or the data, never what the blocks held before, and no commit waits for data.

use crate::container;
use crate::errno;
use crate::ioctl;
use crate::namei;
use crate::node::{self, Change};
use crate::orphan::steps_per_transaction;
use crate::txn::{Reader, Txn};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{self, BLOCK_SHIFT, BLOCK_SIZE};
use libvexfs::{alloc, extent, tree};
use vexfs_vfs::attr::Attributes;
use vexfs_vfs::file::{DirEmitter, Files, OpenFile, Source};
use vexfs_vfs::inode::Time;
use vexfs_vfs::iomap::{Mapper, Mapping, State};
use vexfs_vfs::{jbd2, Inode};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// The most blocks allocated at once: what one group's bitmap can give.
const MAX_ALLOCATION: u64 = 32_256;

fn blocks_spanned(position: u64, len: u64) -> (u64, u64) {
    let first = position >> BLOCK_SHIFT;
    let last = position.saturating_add(len.max(1)).saturating_sub(1) >> BLOCK_SHIFT;
    (first, last.saturating_sub(first).saturating_add(1))
}

fn to_bytes(mapping: &extent::Mapping, new: bool, sequence: u32) -> Mapping {
    Mapping {
        offset: mapping.logical << BLOCK_SHIFT,
        len: mapping.len << BLOCK_SHIFT,
        address: mapping.physical << BLOCK_SHIFT,
        state: match mapping.state {
            extent::State::Hole => State::Hole,
            extent::State::Unwritten => State::Unwritten,
            extent::State::Written => State::Written,
        },
        new,
        sequence,
    }
}

/// Sees to it that a mapping read from disk leads to data, not to metadata or beyond the end.
fn check(inode: &Inode<VexFs>, mapping: &extent::Mapping) -> Result {
    let inside = inode
        .volume()
        .geo
        .is_data_range(mapping.physical, mapping.len);
    if mapping.state != extent::State::Hole && !inside {
        return Err(errno::of(
            inode.sb(),
            libvexfs::Error::CorruptInode {
                ino: inode.ino(),
                what: "an extent leads to metadata or past the end of the volume",
            },
        ));
    }
    Ok(())
}

/// The mapping at a block, with the state locked for the look-up.
fn look_up(inode: &Inode<VexFs>, first: u64, count: u64) -> Result<Mapping> {
    let node = inode.node();
    let state = node.state.lock();
    let reader = Reader {
        sb: inode.sb(),
        seed: inode.volume().seed,
    };
    let mapping = extent::map(&reader, &state.disk.tree_root, inode.ino(), first, count)
        .map_err(|e| errno::of(inode.sb(), e))?;
    check(inode, &mapping)?;
    Ok(to_bytes(&mapping, false, node.sequence()))
}

fn height(inode: &Inode<VexFs>) -> Result<u16> {
    tree::height(&node::root(inode)).map_err(|e| errno::of(inode.sb(), e))
}

/// Fills the hole at `first` with unwritten blocks, as many of `count` as lie together.
fn allocate(inode: &Inode<VexFs>, first: u64, count: u64) -> Result<Mapping> {
    let sb = inode.sb();
    let volume = inode.volume();
    let node = inode.node();
    // Another writer may make the tree higher in between, by one level at most.
    let height = height(inode)?.saturating_add(1);
    let credits = extent::change_credits(height)
        + alloc::ALLOCATE_BLOCKS_CREDITS
        + alloc::FREE_BLOCKS_CREDITS
        + 1;
    let mut txn = volume.begin(sb, credits, tree::remove_revokes(height))?;
    let mut state = node.state.lock();
    let ino = inode.ino();
    let here =
        extent::map(&txn, &state.disk.tree_root, ino, first, count).map_err(|e| txn.failed(e))?;
    if here.state != extent::State::Hole {
        check(inode, &here)?;
        return Ok(to_bytes(&here, false, node.sequence()));
    }
    let goal = match extent::goal(&txn, &state.disk.tree_root, ino, first) {
        Some(goal) => goal,
        None => volume
            .geo
            .inode_position(ino)
            .map_or(0, |(group, _)| volume.geo.group_first_block(group)),
    };
    let want = here.len.min(count).min(MAX_ALLOCATION) as u32;
    let (physical, len) = txn.allocate(goal, want).map_err(|e| txn.failed(e))?;
    let inserted = extent::insert(
        &mut txn,
        &mut state.disk.tree_root,
        ino,
        first,
        physical,
        len,
        true,
    );
    if let Err(e) = inserted {
        let errno = txn.failed(e);
        txn.free(physical, len)
            .map_err(|e| txn.failed_for_good(e))?;
        return Err(errno);
    }
    inode.add_disk_bytes(len << BLOCK_SHIFT);
    node::count_nodes(&mut txn, inode);
    node::store(&mut txn, inode, &mut state, Change::Data)?;
    let mapping = extent::Mapping {
        logical: first,
        physical,
        len,
        state: extent::State::Unwritten,
    };
    let mapping = to_bytes(&mapping, true, node.sequence());
    drop(state);
    txn.stop()?;
    // A block that was metadata before may still be cached as such.
    sb.forget_cached(physical, len);
    Ok(mapping)
}

impl Mapper for VexFs {
    fn map(inode: &Inode<Self>, position: u64, len: u64) -> Result<Mapping> {
        let (first, count) = blocks_spanned(position, len);
        look_up(inode, first, count)
    }

    fn map_for_write(
        inode: &Inode<Self>,
        position: u64,
        len: u64,
        locked: bool,
    ) -> Result<Mapping> {
        let (first, count) = blocks_spanned(position, len);
        let mapping = look_up(inode, first, count)?;
        if mapping.state != State::Hole {
            return Ok(mapping);
        }
        if locked {
            return Err(EIO);
        }
        inode.volume().with_space(|| allocate(inode, first, count))
    }

    fn sequence(inode: &Inode<Self>) -> u32 {
        inode.node().sequence()
    }

    fn wants_written(inode: &Inode<Self>, end: u64, unwritten: bool) -> bool {
        unwritten || end > inode.node().disk_size()
    }

    fn written(inode: &Inode<Self>, offset: u64, len: u64, unwritten: bool) -> Result {
        let sb = inode.sb();
        let volume = inode.volume();
        let node = inode.node();
        let (first, count) = blocks_spanned(offset, len);
        let end = first.saturating_add(count);
        let mut at = first;
        loop {
            let height = height(inode)?.saturating_add(1);
            let credits = extent::change_credits(height) + 1;
            // Without it the data would be on the medium, clean in the cache, and zeros after that.
            let mut txn = volume
                .begin_when_possible(sb, credits, tree::remove_revokes(height))?
                .essential();
            let mut state = node.state.lock();
            if unwritten && at < end {
                let done = extent::mark_written(
                    &mut txn,
                    &mut state.disk.tree_root,
                    inode.ino(),
                    at,
                    end.saturating_sub(at),
                )
                .map_err(|e| txn.failed(e))?;
                at = at.saturating_add(done.max(1));
                node.invalidate_mappings();
            } else {
                at = end;
            }
            if at >= end && !container::is_container(&state) {
                // The size never runs ahead of the data, so it is set last.
                let size = offset.saturating_add(len).min(inode.size());
                state.disk.size = state.disk.size.max(size);
            }
            state.disk.data_seq = u64::from(txn.tid());
            node::count_nodes(&mut txn, inode);
            node::store(&mut txn, inode, &mut state, Change::Data)?;
            drop(state);
            txn.stop()?;
            if at >= end {
                return Ok(());
            }
        }
    }
}

/// Takes blocks out of the extent tree and frees them, in as many transactions as it takes.
/// `credits` are what one extent can join on a tree of some height, and `step` takes out at
/// most the number of extents it is given, adds up the blocks, and says whether it is done.
fn free_in_steps(
    inode: &Inode<VexFs>,
    credits: fn(u16) -> u32,
    mut step: impl FnMut(&mut Txn<'_>, &mut [u8], u32, &mut u64) -> libvexfs::Result<bool>,
) -> Result {
    let sb = inode.sb();
    let node = inode.node();
    loop {
        let height = height(inode)?.saturating_add(1);
        let each = credits(height).saturating_add(alloc::FREE_EXTENT_CREDITS);
        let steps = steps_per_transaction(sb, each, 2)?;
        let mut txn = inode
            .volume()
            .begin(
                sb,
                each.saturating_mul(steps).saturating_add(2),
                tree::remove_revokes(height).saturating_mul(steps),
            )?
            .essential();
        let mut state = node.state.lock();
        let mut freed = 0u64;
        // What was freed before an error that changes nothing itself is recorded all the same.
        let result =
            step(&mut txn, &mut state.disk.tree_root, steps, &mut freed).map_err(|e| txn.failed(e));
        node.invalidate_mappings();
        inode.sub_disk_bytes(freed << BLOCK_SHIFT);
        node::count_nodes(&mut txn, inode);
        node::store(&mut txn, inode, &mut state, Change::Data)?;
        drop(state);
        txn.stop()?;
        if result? {
            return Ok(());
        }
    }
}

/// Frees the blocks behind `size` bytes, which nothing refers to any more.
pub(crate) fn free_tail(inode: &Inode<VexFs>, size: u64) -> Result {
    let from = size.saturating_add(BLOCK - 1) >> BLOCK_SHIFT;
    let ino = inode.ino();
    free_in_steps(inode, tree::remove_credits, |t, root, steps, freed| {
        extent::remove_tail(t, root, ino, from, steps, &mut |t, start, len| {
            *freed = freed.saturating_add(len);
            t.free(start, len)
        })
    })
}

/// Takes back what was written behind `size` bytes, pages and blocks. The inode is locked.
pub(crate) fn drop_tail(inode: &Inode<VexFs>, size: u64) {
    let pages = inode.lock_page_cache();
    inode.truncate_page_cache(size);
    if free_tail(inode, size).is_err() {
        // They are the file's and go with it, or with the next attempt.
        pr_err!(
            "{}: inode {}: space behind the end is not freed\n",
            inode.sb().id(),
            inode.ino()
        );
    }
    drop(pages);
}

/// Records a new size on disk.
fn store_size(inode: &Inode<VexFs>, size: u64) -> Result {
    let mut txn = inode.volume().begin(inode.sb(), 1, 0)?;
    let mut state = inode.node().state.lock();
    state.disk.size = size;
    state.disk.data_seq = u64::from(txn.tid());
    node::store(&mut txn, inode, &mut state, Change::Data)?;
    drop(state);
    txn.stop()
}

/// Makes the bytes from the old end to `new` read as zeros, whatever blocks lie there. On
/// return the size is `new` in memory.
fn extend(inode: &Inode<VexFs>, new: u64) -> Result {
    let old = inode.size();
    // Pages beyond the size are not written back, so the size grows first.
    inode.set_size(new);
    if let Err(e) = inode.zero_range(old, new.saturating_sub(old)) {
        inode.set_size(old);
        return Err(e);
    }
    inode.page_cache_extended(old, new);
    Ok(())
}

impl Attributes for VexFs {
    fn set_size(inode: &Inode<Self>, size: u64) -> Result {
        let old = inode.size();
        if container::is_container(&inode.node().state.lock()) {
            // Rows are deleted with VEXFS_OP_DELETE, or with the file.
            return if size == old { Ok(()) } else { Err(EINVAL) };
        }
        if size > old {
            extend(inode, size)?;
        } else if size < old {
            inode.zero_block_tail(size)?;
        }
        // Data and zeros below the new end must be there before the size on disk says so.
        let on_disk = inode.node().disk_size();
        if size > on_disk {
            inode.write_and_wait(on_disk, size.saturating_sub(1))?;
        }
        if size > old {
            inode.touch_mtime_ctime();
            return store_size(inode, size);
        }
        let pages = inode.lock_page_cache();
        inode.truncate_page_cache(size);
        inode.touch_mtime_ctime();
        store_size(inode, size)?;
        let freed = free_tail(inode, size);
        drop(pages);
        freed
    }

    fn attributes_changed(inode: &Inode<Self>) -> Result {
        node::store_alone(inode, Change::Data)
    }

    fn birth_time(inode: &Inode<Self>) -> Time {
        let birth = inode.node().state.lock().disk.btime;
        Time {
            seconds: birth.sec,
            nanoseconds: birth.nsec,
        }
    }

    fn direct_io_alignment(inode: &Inode<Self>) -> (u32, u32) {
        (512, inode.sb().logical_block_size())
    }
}

/// `fallocate(2)` modes that are supported.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

impl Files for VexFs {
    fn read_dir(dir: &Inode<Self>, out: &mut DirEmitter<'_>) -> Result {
        namei::read_dir(dir, out)
    }

    fn fsync(inode: &Inode<Self>, start: u64, end: u64, data_only: bool) -> Result {
        let volume = inode.volume();
        if inode.is_regular() {
            inode.write_and_wait(start, end)?;
            container::push_durable(inode, container::Unwritten::Wait)?;
        }
        if inode.sb().is_read_only() {
            return Ok(());
        }
        let journal = volume.journal()?;
        if journal.is_aborted() {
            return Err(EROFS);
        }
        let flushed = journal.complete(inode.node().sync_tid(data_only))?;
        if !flushed && volume.options.lock().barrier {
            jbd2::flush_device(inode)?;
        }
        Ok(())
    }

    fn ioctl(file: &OpenFile<'_, Self>, command: u32, argument: usize) -> Result<isize> {
        ioctl::dispatch(file, command, argument)
    }

    fn may_map_writable(inode: &Inode<Self>) -> Result {
        if container::is_container(&inode.node().state.lock()) {
            return Err(EACCES);
        }
        Ok(())
    }

    fn write_special(
        file: &OpenFile<'_, Self>,
        position: u64,
        source: &mut Source<'_>,
    ) -> Option<Result<usize>> {
        let inode = file.inode();
        if !container::is_container(&inode.node().state.lock()) {
            return None;
        }
        Some(crate::rows::write(file, position, source))
    }

    fn before_extending(inode: &Inode<Self>, position: u64) -> Result {
        extend(inode, position)
    }

    fn fallocate(inode: &Inode<Self>, mode: u32, offset: u64, len: u64) -> Result {
        if container::is_container(&inode.node().state.lock()) {
            return Err(EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(EFBIG)?;
        match mode {
            0 | KEEP_SIZE => {
                reserve(inode, offset, end)?;
                if mode == 0 && end > inode.size() {
                    extend(inode, end)?;
                    store_size(inode, end)?;
                }
                Ok(())
            }
            m if m == KEEP_SIZE | PUNCH_HOLE => punch(inode, offset, end),
            _ => Err(EOPNOTSUPP),
        }
    }
}

/// Allocates what is missing between two bytes, unwritten, without changing the size.
pub(crate) fn reserve(inode: &Inode<VexFs>, start: u64, end: u64) -> Result {
    let mut at = start;
    while at < end {
        if vexfs_vfs::task::fatal_signal_pending() {
            return Err(EINTR);
        }
        let mapping = VexFs::map_for_write(inode, at, end.saturating_sub(at), false)?;
        at = mapping.offset.saturating_add(mapping.len);
    }
    Ok(())
}

/// Makes `offset..end` a hole.
fn punch(inode: &Inode<VexFs>, offset: u64, end: u64) -> Result {
    let end = end.min(inode.size().saturating_add(BLOCK - 1) & !(BLOCK - 1));
    if offset >= end {
        return Ok(());
    }
    let pages = inode.lock_page_cache();
    // Whole blocks go, the rest is zeroed in place.
    let first = offset.saturating_add(BLOCK - 1) >> BLOCK_SHIFT;
    let last = end >> BLOCK_SHIFT;
    inode.write_and_wait(offset & !(BLOCK - 1), end | (BLOCK - 1))?;
    let size = inode.size();
    let zero = |from: u64, to: u64| {
        let to = to.min(size);
        if from < to {
            inode.zero_range(from, to.saturating_sub(from))
        } else {
            Ok(())
        }
    };
    if first >= last {
        let middle = (first << BLOCK_SHIFT).clamp(offset, end);
        zero(offset, middle)?;
        return zero(middle, end);
    }
    zero(offset, first << BLOCK_SHIFT)?;
    zero(last << BLOCK_SHIFT, end)?;
    inode.drop_page_range(
        first << BLOCK_SHIFT,
        (last << BLOCK_SHIFT).saturating_sub(1),
    );
    let (ino, count) = (inode.ino(), last.saturating_sub(first));
    let freed = free_in_steps(inode, extent::change_credits, |t, root, steps, freed| {
        extent::punch(t, root, ino, first, count, steps, &mut |t, start, len| {
            *freed = freed.saturating_add(len);
            t.free(start, len)
        })
    });
    drop(pages);
    freed
}

const _: () = assert!(format::BLOCK_SIZE == 4096);
