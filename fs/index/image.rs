// SPDX-License-Identifier: GPL-2.0

//! Images of indexes: writing one beside the old one, and reading it back. `libvexfs::format::index` says
//! what they look like.
//!
//! The inode of a new image is an orphan until a record refers to it, so a crash gives its space back. Its
//! data go past all caches: they are written once and read once. They are on their way to the medium before
//! the transaction that refers to them begins, and the commit of that flushes the device.

use super::catch_up::GoOn;
use super::Parameters;
use crate::container;
use crate::errno;
use crate::orphan;
use crate::txn::Reader as Metadata;
use crate::VexFs;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;
use libvexfs::format::header::{self, MAGIC_SUMS};
use libvexfs::format::index::{self as format, ImageHeader, Section, SUMS};
use libvexfs::format::inode::{FLAG_HIDDEN, FLAG_IMAGE};
use libvexfs::format::{Inode as DiskInode, VectorArea, BLOCK_SIZE};
use libvexfs::{alloc, extent, tree};
use vexfs_vfs::task::{self, crc32c};
use vexfs_vfs::{Inode, SuperBlock};

/// Blocks that go to or from the disk at once: memory that comes in one piece.
const PIECE: usize = 32;
/// The most blocks allocated at once: what one group's bitmap can give.
const MAX_ALLOCATION: u64 = 32_256;

/// Blocks of the volume that follow each other in the image.
#[derive(Clone, Copy)]
struct Run {
    logical: u64,
    physical: u64,
    len: u64,
}

/// Where block `logical` is, and how many follow it there.
fn locate(runs: &[Run], logical: u64) -> Option<(u64, u64)> {
    let at = runs.partition_point(|run| run.logical <= logical);
    let run = runs.get(at.checked_sub(1)?)?;
    let within = logical.checked_sub(run.logical)?;
    let left = run.len.checked_sub(within).filter(|left| *left > 0)?;
    Some((run.physical.checked_add(within)?, left))
}

/// An image being written.
pub(super) struct Writer<'a> {
    sb: &'a SuperBlock<VexFs>,
    ino: u64,
    /// Asked for every piece.
    go_on: GoOn<'a>,
    runs: KVec<Run>,
    header: ImageHeader,
    /// Data blocks on their way, and how many of them are full.
    piece: KVec<u8>,
    full: usize,
    /// Bytes of the block that is being filled.
    filled: usize,
    /// Data block that is the first of `piece`.
    first: u64,
    /// The checksums of the present group.
    sums: KVec<u8>,
}

impl<'a> Writer<'a> {
    /// Makes an image inode for `header`, whose sections are given; an orphan for now. What `header`
    /// says besides can change until [`Writer::finish`].
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `ENOMEM`, `EROFS`, what `go_on` and what metadata says. Nothing is left then.
    pub(super) fn new(
        inode: &'a Inode<VexFs>,
        header: &ImageHeader,
        go_on: GoOn<'a>,
    ) -> Result<Self> {
        let sb = inode.sb();
        let mut writer = Writer {
            sb,
            ino: 0,
            go_on,
            runs: KVec::new(),
            header: *header,
            piece: KVec::from_elem(0, PIECE * BLOCK_SIZE, GFP_KERNEL)?,
            full: 0,
            filled: 0,
            first: 0,
            sums: KVec::from_elem(0, BLOCK_SIZE, GFP_KERNEL)?,
        };
        let volume = sb.volume();
        if header.blocks() >= volume.free_for_data() {
            return Err(ENOSPC);
        }
        let credits = container::HIDDEN_CREDITS + orphan::CREDITS;
        let mut txn = volume.begin(sb, credits, 0)?;
        let mut image = container::make_hidden(&mut txn, inode)?;
        image.disk.flags = FLAG_HIDDEN | FLAG_IMAGE;
        image.disk.size = header.blocks().saturating_mul(BLOCK_SIZE as u64);
        txn.write_inode(image.ino, &image.disk)?;
        orphan::add(&mut txn, sb, image.ino)?;
        txn.stop()?;
        writer.ino = image.ino;
        if let Err(e) = writer.allocate(&mut image.disk) {
            discard(sb, image.ino);
            return Err(e);
        }
        Ok(writer)
    }

    /// Gives the image its blocks.
    fn allocate(&mut self, disk: &mut DiskInode) -> Result {
        let volume = self.sb.volume();
        let blocks = self.header.blocks();
        let mut at = 0u64;
        while at < blocks {
            (self.go_on)()?;
            let height = tree::height(&disk.tree_root).map_err(|e| errno::of(self.sb, e))?;
            let credits = extent::change_credits(height.saturating_add(1))
                + alloc::ALLOCATE_BLOCKS_CREDITS
                + alloc::FREE_BLOCKS_CREDITS
                + 1;
            let revokes = tree::remove_revokes(height.saturating_add(1));
            let mut txn = volume.begin(self.sb, credits, revokes)?;
            txn.join_inode(self.ino)?;
            let goal = match extent::goal(&txn, &disk.tree_root, self.ino, at) {
                Some(goal) => goal,
                None => volume
                    .geo
                    .inode_position(self.ino)
                    .map_or(0, |(group, _)| volume.geo.group_first_block(group)),
            };
            let want = blocks.saturating_sub(at).min(MAX_ALLOCATION) as u32;
            let (physical, len) = txn.allocate(goal, want).map_err(|e| txn.failed(e))?;
            let root = &mut disk.tree_root;
            let inserted = extent::insert(&mut txn, root, self.ino, at, physical, len, false);
            if let Err(e) = inserted {
                let errno = txn.failed(e);
                txn.free(physical, len)
                    .map_err(|e| txn.failed_for_good(e))?;
                return Err(errno);
            }
            disk.blocks = disk.blocks.saturating_add(len);
            txn.count_nodes(disk);
            txn.write_owner(self.ino, disk)?;
            txn.stop()?;
            self.sb.forget_cached(physical, len);
            let run = Run {
                logical: at,
                physical,
                len,
            };
            self.runs.push(run, GFP_KERNEL)?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    /// Adds the next item of a section, `words` in little-endian order.
    pub(super) fn words(&mut self, words: &[AtomicU32]) -> Result {
        let bytes = words.len().saturating_mul(4);
        let room = self.room(bytes)?;
        for (to, from) in room.chunks_mut(4).zip(words) {
            let word = from.load(Ordering::Relaxed).to_le_bytes();
            libvexfs::format::copy(to, &word);
        }
        self.filled = self.filled.saturating_add(bytes);
        Ok(())
    }

    /// Adds the next item of a section.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result {
        libvexfs::format::copy(self.room(bytes.len())?, bytes);
        self.filled = self.filled.saturating_add(bytes.len());
        Ok(())
    }

    /// Ends a section: the next item begins a block.
    pub(super) fn end_section(&mut self) -> Result {
        if self.filled > 0 {
            self.next_block()?;
        }
        Ok(())
    }

    /// Room for an item, in this block if it fits whole, else in the next.
    fn room(&mut self, bytes: usize) -> Result<&mut [u8]> {
        if self.filled.saturating_add(bytes) > BLOCK_SIZE {
            self.next_block()?;
        }
        let start = self
            .full
            .saturating_mul(BLOCK_SIZE)
            .saturating_add(self.filled);
        let end = start.saturating_add(bytes);
        self.piece.get_mut(start..end).ok_or(EINVAL)
    }

    fn next_block(&mut self) -> Result {
        self.full = self.full.saturating_add(1);
        self.filled = 0;
        let data = self.first.saturating_add(self.full as u64);
        if self.full == PIECE || data.checked_rem(SUMS) == Some(0) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the full blocks, all of one group, and at its end its checksums.
    fn flush(&mut self) -> Result {
        if self.full == 0 {
            return Ok(());
        }
        (self.go_on)()?;
        task::cond_resched();
        let seed = self.sb.volume().seed;
        let mut data = self.first;
        let logical = format::data_position(data);
        for (block, at) in self.piece.chunks(BLOCK_SIZE).take(self.full).zip(logical..) {
            let (physical, _) = locate(&self.runs, at).ok_or(EIO)?;
            let sum = format::data_sum(physical, block, seed, crc32c);
            format::set_sum(&mut self.sums, data, sum);
            data = data.saturating_add(1);
        }
        self.put_piece(logical)?;
        if data.checked_rem(SUMS) == Some(0) {
            self.put_sums(data.saturating_sub(1))?;
        }
        self.first = data;
        self.full = 0;
        self.piece.fill(0);
        Ok(())
    }

    /// Writes the full blocks of the piece to block `logical` of the image and the following.
    fn put_piece(&mut self, logical: u64) -> Result {
        let mut done = 0usize;
        while done < self.full {
            let at = logical.saturating_add(done as u64);
            let (physical, left) = locate(&self.runs, at).ok_or(EIO)?;
            let blocks = usize::try_from(left)?.min(self.full.saturating_sub(done));
            let end = done.saturating_add(blocks);
            let range = done.saturating_mul(BLOCK_SIZE)..end.saturating_mul(BLOCK_SIZE);
            self.sb.write_past_cache(physical, &self.piece, range)?;
            done = end;
        }
        Ok(())
    }

    /// Writes the checksums of the group that data block `data` is in.
    fn put_sums(&mut self, data: u64) -> Result {
        let (physical, _) = locate(&self.runs, format::sums_position(data)).ok_or(EIO)?;
        let sums = &mut self.sums;
        // Checksums are behind the header, which is filled in here.
        header::fill(sums, physical, MAGIC_SUMS, self.ino);
        header::seal(physical, sums, self.sb.volume().seed, crc32c);
        self.sb
            .write_past_cache(physical, &self.sums, 0..BLOCK_SIZE)?;
        self.sums.fill(0);
        Ok(())
    }

    /// Writes what is left, and the header. The image is complete then.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there were more or fewer items than the sections say; `EIO`.
    pub(super) fn finish(mut self, header: &ImageHeader) -> Result<u64> {
        self.end_section()?;
        self.flush()?;
        if self.first != self.header.data_blocks() || header.sections != self.header.sections {
            return Err(EINVAL);
        }
        if self.first.checked_rem(SUMS) != Some(0) {
            self.put_sums(self.first.saturating_sub(1))?;
        }
        let (physical, _) = locate(&self.runs, 0).ok_or(EIO)?;
        let seed = self.sb.volume().seed;
        header.encode(&mut self.sums, physical, self.ino, seed, crc32c);
        self.sb
            .write_past_cache(physical, &self.sums, 0..BLOCK_SIZE)?;
        let ino = self.ino;
        self.ino = 0;
        Ok(ino)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.ino != 0 {
            discard(self.sb, self.ino);
        }
    }
}

/// Frees an image that is an orphan. What does not work now, the next mount does.
pub(super) fn discard(sb: &SuperBlock<VexFs>, ino: u64) {
    if let Err(e) = orphan::release_hidden(sb, ino, true) {
        pr_warn!(
            "{}: inode {}: an index image can't be freed before the next mount (error {})
",
            sb.id(),
            ino,
            e.to_errno()
        );
    }
}

/// An image being read.
pub(super) struct Reader<'a> {
    sb: &'a SuperBlock<VexFs>,
    ino: u64,
    pub(super) header: ImageHeader,
    disk: DiskInode,
    piece: KVec<u8>,
    sums: KVec<u8>,
    /// The group whose checksums are in `sums`.
    group: Option<u64>,
}

impl<'a> Reader<'a> {
    /// The image in inode `ino`, for an index of `kind` over rows like those of `area`.
    ///
    /// # Errors
    ///
    /// `EFSBADCRC`, `EFSCORRUPTED`, each with a line in the log, if it is damaged or another's; `EIO`,
    /// `ENOMEM`.
    pub(super) fn new(
        sb: &'a SuperBlock<VexFs>,
        ino: u64,
        kind: u32,
        area: &VectorArea,
    ) -> Result<Self> {
        let metadata = Metadata {
            sb,
            seed: sb.volume().seed,
        };
        let mut reader = Reader {
            sb,
            ino,
            header: ImageHeader::default(),
            disk: metadata.inode(&sb.volume().geo, ino).map_err(|e| {
                if e == ESTALE {
                    corrupt(sb, ino, "is the image of an index, but free")
                } else {
                    e
                }
            })?,
            piece: KVec::from_elem(0, PIECE * BLOCK_SIZE, GFP_KERNEL)?,
            sums: KVec::from_elem(0, BLOCK_SIZE, GFP_KERNEL)?,
            group: None,
        };
        let both = FLAG_HIDDEN | FLAG_IMAGE;
        if reader.disk.flags & both != both {
            return Err(corrupt(sb, ino, "is no image of an index"));
        }
        let (physical, _) = reader.locate(0)?;
        let seed = sb.volume().seed;
        sb.read_past_cache(physical, &mut reader.sums, 0..BLOCK_SIZE)?;
        let header = ImageHeader::parse(&reader.sums, physical, ino, seed, crc32c)
            .map_err(|e| errno::of_format(sb, e))?;
        let fits = header.kind == kind
            && (header.dim, header.element, header.metric) == (area.dim, area.element, area.metric)
            && header.watermark <= area.rows;
        if !fits {
            return Err(corrupt(sb, ino, "is the image of an index over other rows"));
        }
        reader.header = header;
        Ok(reader)
    }

    /// Where block `logical` of the image is, and how many follow it there.
    fn locate(&self, logical: u64) -> Result<(u64, u64)> {
        let metadata = Metadata {
            sb: self.sb,
            seed: self.sb.volume().seed,
        };
        let mapping = extent::map(&metadata, &self.disk.tree_root, self.ino, logical, SUMS)
            .map_err(|e| errno::of(self.sb, e))?;
        let geo = &self.sb.volume().geo;
        if mapping.state != extent::State::Written
            || !geo.is_data_range(mapping.physical, mapping.len)
        {
            return Err(self.corrupt("has a hole or an extent outside of the data"));
        }
        Ok((mapping.physical, mapping.len))
    }

    /// Says in the log what is wrong with the image.
    pub(super) fn corrupt(&self, what: &'static str) -> Error {
        corrupt(self.sb, self.ino, what)
    }

    /// Calls `f` with each item of the section with tag `tag`, in order.
    ///
    /// # Errors
    ///
    /// `EFSCORRUPTED` if there is no such section or its items have not `item_bytes` bytes; `EFSBADCRC`,
    /// `EIO`, `EINTR`; what `f` returns.
    pub(super) fn items(
        &mut self,
        tag: u32,
        item_bytes: usize,
        mut f: impl FnMut(u64, &[u8]) -> Result,
    ) -> Result {
        let section = self.header.section(tag);
        let Some((section, first)) = section.filter(|s| s.0.item_bytes as usize == item_bytes)
        else {
            return Err(self.corrupt("lacks a section of its kind of index"));
        };
        let mut item = 0u64;
        let mut data = first;
        let end = first.saturating_add(section.blocks());
        while data < end {
            let blocks = self.fill(data, end)?;
            for block in self.piece.chunks(BLOCK_SIZE).take(blocks) {
                for bytes in block.chunks_exact(item_bytes) {
                    if item == section.items {
                        break;
                    }
                    f(item, bytes)?;
                    item = item.saturating_add(1);
                }
            }
            data = data.saturating_add(blocks as u64);
        }
        Ok(())
    }

    /// Reads and verifies everything.
    ///
    /// # Errors
    ///
    /// As [`Reader::items`].
    pub(super) fn verify(&mut self) -> Result {
        let mut data = 0u64;
        let end = self.header.data_blocks();
        while data < end {
            data = data.saturating_add(self.fill(data, end)? as u64);
        }
        Ok(())
    }

    /// Reads data blocks from `data` on, before `end`, and verifies them. Returns how many.
    fn fill(&mut self, data: u64, end: u64) -> Result<usize> {
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
        task::cond_resched();
        let seed = self.sb.volume().seed;
        let group = data / SUMS;
        if self.group != Some(group) {
            self.group = None;
            let (physical, _) = self.locate(format::sums_position(data))?;
            self.sb
                .read_past_cache(physical, &mut self.sums, 0..BLOCK_SIZE)?;
            header::verify(physical, MAGIC_SUMS, self.ino, &self.sums, seed, crc32c)
                .map_err(|e| errno::of_format(self.sb, e))?;
            self.group = Some(group);
        }
        let of_group = SUMS.saturating_sub(data % SUMS);
        let (physical, left) = self.locate(format::data_position(data))?;
        let blocks = left
            .min(of_group)
            .min(end.saturating_sub(data))
            .min(PIECE as u64);
        let count = usize::try_from(blocks)?;
        self.sb.read_past_cache(
            physical,
            &mut self.piece,
            0..count.saturating_mul(BLOCK_SIZE),
        )?;
        let pieces = self.piece.chunks(BLOCK_SIZE).take(count);
        for (block, number) in pieces.zip(0u64..) {
            let at = physical.saturating_add(number);
            let sum = format::data_sum(at, block, seed, crc32c);
            if sum != format::sum_of(&self.sums, data.saturating_add(number)) {
                let e = libvexfs::format::Error::BadChecksum { block: at };
                return Err(errno::of_format(self.sb, e));
            }
        }
        Ok(count)
    }
}

fn corrupt(sb: &SuperBlock<VexFs>, ino: u64, what: &'static str) -> Error {
    errno::of(sb, libvexfs::Error::CorruptInode { ino, what })
}

/// The header of an image of `area`'s rows, with `sections`.
pub(super) fn header(
    kind: u32,
    area: &VectorArea,
    parameters: Parameters,
    sections: &[Section],
) -> ImageHeader {
    let mut header = ImageHeader {
        kind,
        dim: area.dim,
        element: area.element,
        metric: area.metric,
        parameters,
        ..ImageHeader::default()
    };
    for (to, from) in header.sections.iter_mut().zip(sections) {
        *to = *from;
    }
    header
}

/// Stores an item that was read.
pub(super) fn load_words(words: &[AtomicU32], bytes: &[u8]) {
    for (word, bytes) in words.iter().zip(bytes.chunks(4)) {
        let mut value = [0; 4];
        libvexfs::format::copy(&mut value, bytes);
        word.store(u32::from_le_bytes(value), Ordering::Relaxed);
    }
}
