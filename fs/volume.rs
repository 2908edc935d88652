// SPDX-License-Identifier: GPL-2.0

//! A mounted volume: geometry, journal, allocator, and the state in the superblock.

use crate::errno;
use crate::index::{Budget, Build};
use crate::options::Options;
use crate::simd::{self, Simd};
use crate::txn::{Reader, Txn};
use crate::withheld::Withheld;
use crate::VexFs;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use libvexfs::alloc::{Allocator, GroupSummary};
use libvexfs::format::{self, superblock, Geometry, Superblock};
use vexfs_vfs::jbd2::{self, Journal};
use vexfs_vfs::task::{self, crc32c, real_seconds};
use vexfs_vfs::work::Jobs;
use vexfs_vfs::SuperBlock;

/// What the journal calls back: seals blocks, releases what was withheld.
pub(crate) struct Hooks {
    seed: u32,
    withheld: Arc<Mutex<Withheld>>,
}

impl jbd2::Callbacks for Hooks {
    fn seal(&self, block: u64, bytes: &mut [u8]) {
        format::seal(block, bytes, self.seed, crc32c);
    }

    fn committed(&self, tid: jbd2::Tid) {
        self.withheld.lock().committed(tid);
    }
}

/// A mounted volume.
#[pin_data]
pub(crate) struct Volume {
    pub(crate) geo: Geometry,
    /// Where every checksum of this volume starts.
    pub(crate) seed: u32,
    pub(crate) hash_seed: [u8; 16],
    pub(crate) uuid: [u8; 16],
    /// Absent when the device is read-only and the volume clean.
    journal: Option<Journal<Hooks>>,
    /// Free space and inodes, by group. Taken inside a transaction and inside the lock of a
    /// node, never the other way round.
    #[pin]
    groups: Mutex<KVVec<GroupSummary>>,
    withheld: Arc<Mutex<Withheld>>,
    /// The sum over `groups`, for quick answers.
    free_blocks: AtomicU64,
    /// The inode whose tree holds the orphans.
    #[pin]
    pub(crate) orphans: Mutex<format::Inode>,
    #[pin]
    pub(crate) options: Mutex<Options>,
    /// Containers with changes that sync(2) has to write out, by inode number.
    #[pin]
    unpushed: Mutex<KVVec<u64>>,
    /// Containers whose indexes have changed since they were saved, by inode number.
    #[pin]
    unsaved: Mutex<KVVec<u64>>,
    pub(crate) simd: Simd,
    /// What the indexes of this volume may take.
    pub(crate) index_memory: Arc<Budget>,
    /// Builds of indexes in the background.
    pub(crate) builds: Jobs<Build>,
    /// A feature that only a reader may ignore is set.
    only_readable: bool,
}

/// Reads and checks the superblock, then replays the journal, then reads what the rest needs.
pub(crate) fn mount(sb: &SuperBlock<VexFs>, options: Options) -> Result<Pin<KBox<Volume>>> {
    sb.set_block_size(format::BLOCK_SIZE as u32)?;
    let superblock = read_superblock(sb)?;
    let geo = superblock.geometry().map_err(|e| errno::of_format(sb, e))?;
    let bytes = geo.blocks_count.saturating_mul(format::BLOCK_SIZE as u64);
    if bytes > sb.device_bytes() {
        pr_err!(
            "{}: block 0: the volume has {} bytes, the device only {}\n",
            sb.id(),
            bytes,
            sb.device_bytes()
        );
        return Err(EFSCORRUPTED);
    }
    let only_readable = superblock.is_read_only();
    if only_readable && !sb.is_read_only() {
        pr_err!(
            "{}: a newer VexFS wrote this volume: mount it read-only\n",
            sb.id()
        );
        return Err(EROFS);
    }
    let seed = format::seed(&superblock.uuid, crc32c);
    let withheld = Arc::pin_init(new_mutex!(Withheld::new(geo.group_count)?), GFP_KERNEL)?;
    let dirty = superblock.flags.get() & superblock::FLAG_NEEDS_RECOVERY != 0;
    let journal = if sb.is_device_read_only() {
        if dirty {
            pr_err!(
                "{}: the journal has to be replayed, but the device is read-only\n",
                sb.id()
            );
            return Err(EROFS);
        }
        None
    } else {
        let config = jbd2::Config {
            start: geo.journal_start,
            blocks: u32::try_from(geo.journal_blocks)?,
            barrier: options.barrier,
            commit_interval: options.commit_interval,
        };
        let hooks = Hooks {
            seed,
            withheld: withheld.clone(),
        };
        Some(Journal::load(sb, &config, hooks).inspect_err(|e| {
            pr_err!(
                "{}: block {}: the journal can't be replayed (error {})\n",
                sb.id(),
                geo.journal_start,
                e.to_errno()
            );
        })?)
    };
    // From here on metadata is what the journal says.
    let reader = Reader { sb, seed };
    let mut groups = KVVec::from_elem(
        GroupSummary::default(),
        usize::try_from(geo.group_count)?,
        GFP_KERNEL | __GFP_NOWARN,
    )?;
    for block in 0..geo.gdt_blocks {
        sb.read_ahead(format::geometry::GDT_START.saturating_add(block));
    }
    let totals = libvexfs::alloc::load_summaries(&reader, &geo, &mut groups)
        .map_err(|e| errno::of(sb, e))?;
    let orphans = reader
        .inode(&geo, format::ORPHAN_INO)
        .map_err(|e| missing(sb, format::ORPHAN_INO, e))?;
    let simd = simd::for_mount(options.simd)?;
    let index_memory = Arc::pin_init(Budget::new(options.index_memory), GFP_KERNEL)?;
    KBox::pin_init(
        try_pin_init!(Volume {
            geo,
            seed,
            hash_seed: superblock.hash_seed,
            uuid: superblock.uuid,
            journal,
            groups <- new_mutex!(groups),
            withheld,
            free_blocks: AtomicU64::new(totals.free_blocks),
            orphans <- new_mutex!(orphans),
            options <- new_mutex!(options),
            unpushed <- new_mutex!(KVVec::new()),
            unsaved <- new_mutex!(KVVec::new()),
            simd,
            index_memory,
            builds: Jobs::new()?,
            only_readable,
        }? Error),
        GFP_KERNEL,
    )
}

/// Turns "this inode is free" into what it is for an inode that no volume lacks.
pub(crate) fn missing(sb: &SuperBlock<VexFs>, ino: u64, e: Error) -> Error {
    if e != ESTALE {
        return e;
    }
    errno::of(
        sb,
        libvexfs::Error::CorruptInode {
            ino,
            what: "is free, but no volume is without it",
        },
    )
}

/// The superblock of block 0, checked. It is copied: the buffer may change under replay.
fn read_superblock(sb: &SuperBlock<VexFs>) -> Result<Superblock> {
    let block = sb.read_block(0)?;
    let bytes = block
        .get(superblock::OFFSET..)
        .and_then(|rest| rest.get(..superblock::BYTES))
        .ok_or(EIO)?;
    let checked = Superblock::parse(bytes, crc32c).map_err(|e| errno::of_format(sb, e))?;
    Ok(*checked)
}

impl Volume {
    /// The journal; `EROFS` without one.
    pub(crate) fn journal(&self) -> Result<&Journal<Hooks>> {
        self.journal.as_ref().ok_or(EROFS)
    }

    /// Opens a transaction of at most `credits` blocks that discards at most `revokes`.
    pub(crate) fn begin<'a>(
        &'a self,
        sb: &'a SuperBlock<VexFs>,
        credits: u32,
        revokes: u32,
    ) -> Result<Txn<'a>> {
        let journal = self.journal()?;
        Ok(Txn::new(sb, self, journal.start(credits, revokes)?))
    }

    /// As [`Volume::begin`], but waits for memory: for what there is nobody to do again.
    pub(crate) fn begin_when_possible<'a>(
        &'a self,
        sb: &'a SuperBlock<VexFs>,
        credits: u32,
        revokes: u32,
    ) -> Result<Txn<'a>> {
        loop {
            match self.begin(sb, credits, revokes) {
                Err(ENOMEM) => task::wait_for_memory(),
                begun => return begun,
            }
        }
    }

    /// Runs `f` with the allocator.
    pub(crate) fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<'_>) -> R) -> R {
        let mut groups = self.groups.lock();
        let mut allocator = Allocator {
            geo: &self.geo,
            groups: &mut groups,
        };
        f(&mut allocator)
    }

    /// Has sync(2) see to container `ino`.
    pub(crate) fn register_unpushed(&self, ino: u64) -> Result {
        Ok(self.unpushed.lock().push(ino, GFP_KERNEL)?)
    }

    /// The containers registered so far.
    pub(crate) fn take_unpushed(&self) -> KVVec<u64> {
        core::mem::replace(&mut *self.unpushed.lock(), KVVec::new())
    }

    /// Has an unmount save the indexes of container `ino`.
    pub(crate) fn register_unsaved(&self, ino: u64) -> Result {
        let mut unsaved = self.unsaved.lock();
        if !unsaved.contains(&ino) {
            unsaved.push(ino, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// The containers registered so far.
    pub(crate) fn take_unsaved(&self) -> KVVec<u64> {
        core::mem::replace(&mut *self.unsaved.lock(), KVVec::new())
    }

    /// What is withheld, locked.
    pub(crate) fn withheld(&self) -> &Mutex<Withheld> {
        &self.withheld
    }

    /// Blocks that are free or will be after the next commit.
    pub(crate) fn free_blocks(&self) -> u64 {
        self.free_blocks.load(Ordering::Relaxed)
    }

    /// Blocks kept back so that unlink, rename and the completion of writes work on a full
    /// volume: one in a thousand, from 64 KiB to 1 MiB. Data leaves twice as much.
    pub(crate) fn reserve(&self) -> u64 {
        (self.geo.blocks_count / 1000).clamp(16, 256)
    }

    /// Blocks that data may take.
    pub(crate) fn free_for_data(&self) -> u64 {
        self.free_blocks().saturating_sub(2 * self.reserve())
    }

    pub(crate) fn took_blocks(&self, blocks: u64) {
        self.free_blocks.fetch_sub(blocks, Ordering::Relaxed);
    }

    pub(crate) fn gave_blocks(&self, blocks: u64) {
        self.free_blocks.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Runs an operation again after a commit, if it ran out of space that a commit can free. It has no
    /// transaction open then, and the caller holds no lock that is taken in one.
    pub(crate) fn with_space<R>(&self, mut f: impl FnMut() -> Result<R>) -> Result<R> {
        match f() {
            Err(e) if e == ENOSPC && self.reclaim_by_commit() => f(),
            other => other,
        }
    }

    /// Makes space that a commit can make. Says whether it is worth trying again. No
    /// transaction is open, and what is withheld not locked.
    pub(crate) fn reclaim_by_commit(&self) -> bool {
        if self.free_blocks() == 0 {
            return false;
        }
        if !self.withheld.lock().any() {
            // What was, a commit may have given back since.
            return true;
        }
        self.journal()
            .is_ok_and(|journal| journal.force_commit_and_callback().is_ok())
    }

    /// Gives the volume up after an error in the middle of a transaction: nothing of it may
    /// reach the disk.
    pub(crate) fn give_up(&self, sb: &SuperBlock<VexFs>, e: Error) {
        if let Ok(journal) = self.journal() {
            if !journal.is_aborted() {
                pr_err!(
                    "{}: giving up after error {}: the volume is read-only until it is mounted again\n",
                    sb.id(),
                    e.to_errno()
                );
                journal.abort(e);
            }
        }
    }

    /// May the volume be mounted for writing?
    pub(crate) fn may_write(&self, sb: &SuperBlock<VexFs>) -> Result {
        if self.only_readable || sb.is_device_read_only() || self.journal()?.is_aborted() {
            return Err(EROFS);
        }
        Ok(())
    }

    /// Records in the superblock that the volume is in use.
    pub(crate) fn mark_mounted(&self, sb: &SuperBlock<VexFs>) -> Result {
        self.update_superblock(sb, |s| {
            s.state.set(superblock::STATE_MOUNTED);
            s.flags.set(s.flags.get() | superblock::FLAG_NEEDS_RECOVERY);
            let features = s.feature_ro_compat.get() | superblock::RO_COMPAT_INDEXES;
            s.feature_ro_compat.set(features);
            s.mount_count.set(s.mount_count.get().wrapping_add(1));
            s.mounted.set(real_seconds());
        })
    }

    /// Records that the journal is empty and nothing is missing.
    pub(crate) fn mark_clean(&self, sb: &SuperBlock<VexFs>) -> Result {
        self.update_superblock(sb, |s| {
            s.state.set(superblock::STATE_CLEAN);
            s.flags
                .set(s.flags.get() & !superblock::FLAG_NEEDS_RECOVERY);
        })
    }

    fn update_superblock(&self, sb: &SuperBlock<VexFs>, f: impl FnOnce(&mut Superblock)) -> Result {
        let mut block = sb.read_block(0)?;
        block.write_sync(true, |bytes| {
            let range = superblock::OFFSET..superblock::OFFSET.saturating_add(superblock::BYTES);
            if let Some(s) = bytes.get_mut(range).and_then(Superblock::from_bytes_mut) {
                f(s);
                s.written.set(real_seconds());
                s.seal(crc32c);
            }
        })
    }

    /// Empties the journal and marks the volume clean, with no writers left.
    pub(crate) fn settle(&self, sb: &SuperBlock<VexFs>) -> Result {
        let journal = self.journal()?;
        journal.flush()?;
        self.mark_clean(sb)
    }

    /// Ends the use of the volume.
    pub(crate) fn close(&self, sb: &SuperBlock<VexFs>) {
        let Ok(journal) = self.journal() else {
            return;
        };
        let was_aborted = journal.is_aborted();
        let closed = journal.close();
        if was_aborted || closed.is_err() {
            // The next mount replays what the journal holds.
            return;
        }
        if !sb.is_device_read_only() && self.mark_clean(sb).is_err() {
            pr_err!("{}: block 0: can't be written\n", sb.id());
        }
    }
}
