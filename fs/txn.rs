// SPDX-License-Identifier: GPL-2.0

//! Blocks as `libvexfs` wants them: over the buffer cache for reading, over a journal
//! handle for changing.

use crate::errno;
use crate::volume::Volume;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{self, header, Geometry, INODE_SIZE};
use libvexfs::{Blocks, Error as E, Result as R};
use vexfs_vfs::buffer::Buffer;
use vexfs_vfs::jbd2::Handle;
use vexfs_vfs::task::crc32c;
use vexfs_vfs::SuperBlock;

/// Reads metadata outside a transaction.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) sb: &'a SuperBlock<VexFs>,
    pub(crate) seed: u32,
}

fn store(e: Error) -> E {
    if e == EIO {
        E::Io
    } else {
        E::Store(e.to_errno())
    }
}

impl Blocks for Reader<'_> {
    type Buf = Buffer;

    fn read(&self, block: u64, magic: u32, owner: u64) -> R<Buffer> {
        let buffer = self.sb.read_block(block).map_err(store)?;
        if buffer.is_verified() {
            // The checksum of a block that was changed since is computed at commit, but
            // whose block it is must still be right.
            header::check_identity(block, magic, owner, &buffer)?;
        } else {
            format::verify(block, magic, owner, &buffer, self.seed, crc32c)?;
            buffer.set_verified();
        }
        Ok(buffer)
    }
}

impl Reader<'_> {
    /// Inode `ino`, checked; `ESTALE` if it is free.
    pub(crate) fn inode(&self, geo: &Geometry, ino: u64) -> Result<format::Inode> {
        let (block, offset) = geo.inode_location(ino).ok_or(ESTALE)?;
        let buffer = self.sb.read_block(block)?;
        let mut raw = [0u8; INODE_SIZE];
        buffer.read_at(offset, &mut raw)?;
        if format::inode::is_free(&raw) {
            return Err(ESTALE);
        }
        format::Inode::parse(&raw, ino, self.seed, crc32c).map_err(|e| errno::of_format(self.sb, e))
    }
}

/// An open transaction.
pub(crate) struct Txn<'a> {
    sb: &'a SuperBlock<VexFs>,
    volume: &'a Volume,
    handle: Handle<'a>,
    /// Blocks that stay free for transactions that matter more.
    leave_free: u64,
    /// Tree nodes made less those given back since somebody asked.
    nodes: i64,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(sb: &'a SuperBlock<VexFs>, volume: &'a Volume, handle: Handle<'a>) -> Self {
        Txn {
            sb,
            volume,
            handle,
            leave_free: volume.reserve(),
            nodes: 0,
        }
    }

    /// The volume's superblock.
    pub(crate) fn sb(&self) -> &'a SuperBlock<VexFs> {
        self.sb
    }

    /// Lets the transaction use the last of the space: it gives space back, moves a name, or
    /// finishes what was begun, and must not fail on a full volume.
    pub(crate) fn essential(mut self) -> Self {
        self.leave_free = 0;
        self
    }

    fn reader(&self) -> Reader<'a> {
        Reader {
            sb: self.sb,
            seed: self.volume.seed,
        }
    }

    /// The transaction's number.
    pub(crate) fn tid(&self) -> u32 {
        self.handle.tid()
    }

    /// How many more blocks it may join.
    pub(crate) fn credits_left(&self) -> u32 {
        self.handle.credits_left()
    }

    /// Closes the transaction; it commits with the others of its time.
    pub(crate) fn stop(self) -> Result {
        self.handle.stop()
    }

    /// Turns an error of a changing operation into an errno, giving the volume up if the
    /// operation may have left things half done.
    pub(crate) fn failed(&self, e: E) -> Error {
        let errno = errno::of(self.sb, e);
        if !errno::is_clean(&e) {
            self.volume.give_up(self.sb, errno);
        }
        errno
    }

    /// As [`Txn::failed`], for steps after which there is no going back.
    pub(crate) fn failed_for_good(&self, e: E) -> Error {
        let errno = errno::of(self.sb, e);
        self.volume.give_up(self.sb, errno);
        errno
    }

    /// Writes inode `ino`.
    pub(crate) fn write_inode(&mut self, ino: u64, inode: &format::Inode) -> Result {
        let mut raw = [0u8; INODE_SIZE];
        inode.encode(&mut raw, ino, self.volume.seed, crc32c);
        self.write_in_inode(ino, &raw)
    }

    /// Joins the block of inode `ino`, whose tree is about to be changed: afterwards [`Txn::write_owner`] wants no memory.
    pub(crate) fn join_inode(&mut self, ino: u64) -> Result {
        self.write_in_inode(ino, &[])
    }

    /// Writes inode `ino`, whose tree was changed. If it can't be, the volume is given up: the changes would be committed
    /// without the tree's root.
    pub(crate) fn write_owner(&mut self, ino: u64, inode: &format::Inode) -> Result {
        let written = self.write_inode(ino, inode);
        written.inspect_err(|e| self.volume.give_up(self.sb, *e))
    }

    /// Makes inode `ino` a free one on disk.
    pub(crate) fn clear_inode(&mut self, ino: u64) -> Result {
        self.write_in_inode(ino, &[0u8; INODE_SIZE])
    }

    fn write_in_inode(&mut self, ino: u64, raw: &[u8]) -> Result {
        let (block, offset) = self.volume.geo.inode_location(ino).ok_or(EFSCORRUPTED)?;
        let buffer = self.sb.read_block(block)?;
        self.handle.write_at(&buffer, offset, raw)
    }

    /// How many nodes the tree that was just changed has gained. Its inode owns them.
    pub(crate) fn take_nodes(&mut self) -> i64 {
        core::mem::take(&mut self.nodes)
    }

    /// Counts the nodes of a tree whose inode is no VFS inode.
    pub(crate) fn count_nodes(&mut self, inode: &mut format::Inode) {
        inode.blocks = inode.blocks.saturating_add_signed(self.take_nodes());
    }

    /// Allocates file data: up to `want` contiguous blocks, near `goal`.
    pub(crate) fn allocate(&mut self, goal: u64, want: u32) -> R<(u64, u64)> {
        // Data leaves room for the metadata of what is there already.
        let leave_free = self.leave_free.saturating_mul(2);
        self.allocate_leaving(goal, want, leave_free)
    }

    fn allocate_leaving(&mut self, goal: u64, want: u32, leave_free: u64) -> R<(u64, u64)> {
        let volume = self.volume;
        let available = volume.free_blocks().saturating_sub(leave_free);
        let want = u32::try_from(available).map_or(want, |available| available.min(want));
        if want == 0 {
            return Err(E::NoSpace);
        }
        let (start, len) = volume.with_allocator(|a| {
            let withheld = volume.withheld().lock();
            a.allocate_blocks(self, goal, want, &*withheld)
        })?;
        volume.took_blocks(len);
        Ok((start, len))
    }

    /// Frees blocks; they can be used again once this transaction is committed.
    pub(crate) fn free(&mut self, start: u64, len: u64) -> R<()> {
        let volume = self.volume;
        let tid = self.tid();
        volume.with_allocator(|a| {
            a.free_blocks(self, start, len)?;
            volume.withheld().lock().add(tid, start, len);
            volume.gave_blocks(len);
            Ok(())
        })
    }

    /// Allocates an inode number.
    pub(crate) fn allocate_inode(&mut self, parent: u64, is_dir: bool) -> R<u64> {
        let volume = self.volume;
        let group = volume
            .geo
            .inode_position(parent)
            .map_or(0, |(group, _)| group);
        volume.with_allocator(|a| a.allocate_inode(self, group, is_dir))
    }

    /// Frees an inode number.
    pub(crate) fn free_inode(&mut self, ino: u64, was_dir: bool) -> R<()> {
        let volume = self.volume;
        volume.with_allocator(|a| a.free_inode(self, ino, was_dir))
    }
}

impl Blocks for Txn<'_> {
    type Buf = Buffer;

    fn read(&self, block: u64, magic: u32, owner: u64) -> R<Buffer> {
        self.reader().read(block, magic, owner)
    }
}

impl libvexfs::Txn for Txn<'_> {
    fn modify<'b>(&mut self, buf: &'b mut Buffer) -> R<&'b mut [u8]> {
        self.handle.modify(buf).map_err(store)
    }

    fn create(&mut self, block: u64, magic: u32, owner: u64) -> R<Buffer> {
        let mut buffer = self.handle.create(self.sb, block, true).map_err(store)?;
        let bytes = self.handle.modify(&mut buffer).map_err(store)?;
        header::init(bytes, block, magic, owner);
        Ok(buffer)
    }

    fn init_inode_block(&mut self, block: u64) -> R<()> {
        self.handle.create(self.sb, block, false).map_err(store)?;
        Ok(())
    }

    fn discard(&mut self, buf: Buffer) -> R<()> {
        self.handle.revoke(buf).map_err(store)
    }

    fn allocate_block(&mut self, goal: u64) -> R<u64> {
        let (block, _) = self.allocate_leaving(goal, 1, self.leave_free)?;
        self.nodes = self.nodes.saturating_add(1);
        Ok(block)
    }

    fn release_block(&mut self, block: u64) -> R<()> {
        self.nodes = self.nodes.saturating_sub(1);
        self.free(block, 1)
    }
}
