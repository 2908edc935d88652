// SPDX-License-Identifier: Apache-2.0

//! An open volume, and transactions over it.

use crate::{crc, Device};
use libvexfs::alloc::{self, Allocator, GroupSummary, Withheld};
use libvexfs::{Blocks, Error, Result, Txn};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Deref;
use std::rc::Rc;
use vexfs_format::geometry::GDT_START;
use vexfs_format::group::{BLOCK_UNINIT, INODE_UNINIT, PAYLOAD_BYTES};
use vexfs_format::header::{MAGIC_BLOCK_BITMAP, MAGIC_GROUPS, MAGIC_INODE_BITMAP};
use vexfs_format::inode::is_free;
use vexfs_format::{
    header, superblock, Geometry, Inode, Superblock, BLOCK_SIZE, INODES_PER_BLOCK, INODE_SIZE,
};

/// A block and whether it has the common header, and so a checksum to be sealed.
#[derive(Clone)]
struct Cached {
    bytes: Rc<Vec<u8>>,
    sealed: bool,
}

/// Blocks that were read and are kept, at most: 32 MiB.
const MOST_CLEAN: usize = 8192;

/// Blocks in memory: what was read or committed, and what the open transaction changed.
#[derive(Default)]
struct Cache {
    clean: HashMap<u64, Cached>,
    dirty: HashMap<u64, Cached>,
    /// Blocks with a buffer that was joined to the transaction and still lives. The kernel
    /// hands out the same bytes twice then, so reading one is a bug in `libvexfs`.
    held: HashSet<u64>,
    /// Blocks changed by the open transaction: what credits have to cover.
    joined: BTreeSet<u64>,
    /// Blocks discarded by it: what revoke records have to cover.
    discarded: usize,
}

/// A block, pinned. Changes return to the transaction when it is dropped.
pub struct Buf {
    block: u64,
    cached: Option<Cached>,
    joined: bool,
    cache: Rc<RefCell<Cache>>,
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.cached.as_ref().map_or(&[], |c| c.bytes.as_slice())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.joined {
            let mut cache = self.cache.borrow_mut();
            cache.held.remove(&self.block);
            if let Some(cached) = self.cached.take() {
                cache.dirty.insert(self.block, cached);
            }
        }
    }
}

/// An open volume.
pub struct Image<D> {
    device: D,
    /// Its shape.
    pub geometry: Geometry,
    /// Seed of its checksums.
    pub seed: u32,
    /// Key of its directory hash.
    pub hash_seed: [u8; 16],
    /// What each group has free.
    pub groups: Vec<GroupSummary>,
    /// Blocks of descriptors that can't be read: the summaries of their groups are what could be found out.
    pub lost_descriptors: BTreeSet<u64>,
    cache: Rc<RefCell<Cache>>,
}

impl<D: Device> Image<D> {
    /// Opens the volume on `device`.
    ///
    /// # Errors
    ///
    /// `Io`; `Invalid` or `Corrupt` if there is no sound volume.
    pub fn open(device: D) -> Result<Image<D>> {
        let mut image = Image::open_without_groups(device)?;
        image.load_groups()?;
        Ok(image)
    }

    /// As [`open`](Self::open), also if descriptors are damaged: for a check, which counts all that they count.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) that are not about descriptors.
    pub fn open_damaged(device: D) -> Result<Image<D>> {
        let mut image = Image::open_without_groups(device)?;
        for group in 0..image.geometry.group_count {
            let (block, _) = image.geometry.descriptor_location(group);
            match alloc::load_summary(&image, &image.geometry, group) {
                Ok(summary) => image.groups[group as usize] = summary,
                Err(Error::Io) => return Err(Error::Io),
                Err(_) => {
                    image.lost_descriptors.insert(block);
                }
            }
        }
        for group in 0..image.geometry.group_count {
            let (block, _) = image.geometry.descriptor_location(group);
            if image.lost_descriptors.contains(&block) {
                image.groups[group as usize] = image.guess(group);
            }
        }
        Ok(image)
    }

    /// What a group's own blocks say about it, in place of its descriptor. Who asks counts all else.
    fn guess(&self, group: u64) -> GroupSummary {
        let geometry = &self.geometry;
        let mut summary = GroupSummary::untouched(geometry, group);
        // Damaged, they are recognised all the same.
        let there = |block, magic| {
            let cached = self.raw(block);
            cached.is_ok_and(|c| header::check_identity(block, magic, group, &c.bytes).is_ok())
        };
        if there(geometry.block_bitmap_block(group), MAGIC_BLOCK_BITMAP) {
            summary.flags &= !BLOCK_UNINIT;
        }
        if there(geometry.inode_bitmap_block(group), MAGIC_INODE_BITMAP) {
            summary.flags &= !INODE_UNINIT;
        }
        // Places behind the last inode that is one were never written, or are free.
        for index in 0..geometry.inode_table_blocks() {
            let block = geometry.inode_table_block(group, index);
            let Ok(cached) = self.raw(block) else {
                continue;
            };
            let first = index * INODES_PER_BLOCK;
            let mut inodes = (first..).zip(cached.bytes.chunks_exact(INODE_SIZE));
            let is_one = |(at, raw): (u64, &[u8])| {
                Inode::parse(raw, geometry.ino(group, at), self.seed, crc).is_ok()
            };
            if inodes.any(is_one) {
                summary.flags &= !INODE_UNINIT;
                summary.itable_init_blocks = index as u32 + 1;
            }
        }
        summary
    }

    fn open_without_groups(device: D) -> Result<Image<D>> {
        let mut block = vec![0; BLOCK_SIZE];
        device.read_block(0, &mut block).map_err(|_| Error::Io)?;
        let sb = Superblock::parse(&block[superblock::OFFSET..], crc)?;
        let geometry = sb.geometry()?;
        Ok(Image {
            geometry,
            seed: vexfs_format::seed(&sb.uuid, crc),
            hash_seed: sb.hash_seed,
            groups: vec![GroupSummary::default(); geometry.group_count as usize],
            lost_descriptors: BTreeSet::new(),
            cache: Rc::default(),
            device,
        })
    }

    fn load_groups(&mut self) -> Result<()> {
        let mut groups = std::mem::take(&mut self.groups);
        let loaded = alloc::load_summaries(self, &self.geometry, &mut groups);
        self.groups = groups;
        loaded.map(|_| ())
    }

    /// Gives the device back.
    pub fn into_device(self) -> D {
        self.device
    }

    /// The device; what is cached of it stays cached.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Opens a transaction. Dropping it gives it up.
    pub fn begin(&mut self) -> Transaction<'_, D> {
        Transaction {
            image: self,
            freed: Freed::default(),
            done: false,
        }
    }

    fn raw(&self, block: u64) -> Result<Cached> {
        let mut cache = self.cache.borrow_mut();
        assert!(
            !cache.held.contains(&block),
            "block {block} is read while a changed buffer of it is held"
        );
        if let Some(found) = cache.dirty.get(&block).or(cache.clean.get(&block)) {
            return Ok(found.clone());
        }
        if block >= self.geometry.blocks_count {
            return Err(Error::Corrupt {
                block,
                what: "past the end of the volume",
            });
        }
        let mut bytes = vec![0; BLOCK_SIZE];
        self.device
            .read_block(block, &mut bytes)
            .map_err(|_| Error::Io)?;
        let cached = Cached {
            bytes: Rc::new(bytes),
            sealed: false,
        };
        if cache.clean.len() >= MOST_CLEAN {
            cache.clean.clear();
        }
        cache.clean.insert(block, cached.clone());
        Ok(cached)
    }

    fn buf(&self, block: u64, cached: Cached) -> Buf {
        Buf {
            block,
            cached: Some(cached),
            joined: false,
            cache: self.cache.clone(),
        }
    }

    /// Inode `ino`, whether or not its bitmap says that it is in use.
    ///
    /// # Errors
    ///
    /// `CorruptInode` if there is no such inode, or what is wrong with it; `Io`.
    pub fn read_inode(&self, ino: u64) -> Result<Inode> {
        let (block, at) = self.inode_location(ino)?;
        let cached = self.raw(block)?;
        let bytes = &cached.bytes[at..at + INODE_SIZE];
        Ok(Inode::parse(bytes, ino, self.seed, crc)?)
    }

    /// True if inode `ino` is free by its own bytes, which freeing makes zeros; or there never was one.
    pub fn is_zeroed(&self, ino: u64) -> bool {
        let Some((block, at)) = self.geometry.inode_location(ino) else {
            return true;
        };
        let cached = self.raw(block);
        cached.is_ok_and(|cached| {
            let bytes = &cached.bytes[at..at + INODE_SIZE];
            match self.is_made(ino) {
                true => is_free(bytes),
                // Anything may be there, but no inode of this volume.
                false => Inode::parse(bytes, ino, self.seed, crc).is_err(),
            }
        })
    }

    /// True if the place of inode `ino` in its table was written.
    pub fn is_made(&self, ino: u64) -> bool {
        self.geometry
            .inode_position(ino)
            .is_some_and(|(group, index)| {
                let made = self.groups[group as usize].itable_init_blocks;
                index / INODES_PER_BLOCK < made.into()
            })
    }

    /// Waits until what was written is on the medium.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn sync(&mut self) -> Result<()> {
        self.device.sync().map_err(|_| Error::Io)
    }

    fn inode_location(&self, ino: u64) -> Result<(u64, usize)> {
        self.geometry
            .inode_location(ino)
            .ok_or(Error::CorruptInode {
                ino,
                what: "past the last inode",
            })
    }

    /// True if inode `ino` is in use.
    ///
    /// # Errors
    ///
    /// Those of [`Allocator::inode_in_use`].
    pub fn inode_in_use(&mut self, ino: u64) -> Result<bool> {
        let mut groups = std::mem::take(&mut self.groups);
        let geo = self.geometry;
        let allocator = Allocator {
            geo: &geo,
            groups: &mut groups,
        };
        let used = allocator.inode_in_use(self, ino);
        self.groups = groups;
        used
    }
}

impl<D: Device> Blocks for Image<D> {
    type Buf = Buf;

    fn read(&self, block: u64, magic: u32, owner: u64) -> Result<Buf> {
        let mut cached = self.raw(block)?;
        if !cached.sealed {
            header::verify(block, magic, owner, &cached.bytes, self.seed, crc)?;
            cached.sealed = true;
            self.cache.borrow_mut().clean.insert(block, cached.clone());
        }
        Ok(self.buf(block, cached))
    }
}

/// Blocks freed by the open transaction, by group.
#[derive(Default)]
struct Freed(HashMap<u64, Vec<u8>>);

impl Withheld for Freed {
    fn bitmap(&self, group: u64) -> Option<&[u8]> {
        self.0.get(&group).map(Vec::as_slice)
    }
}

/// An open transaction: everything it changes is written by [`commit`](Self::commit), or
/// nothing.
pub struct Transaction<'i, D: Device> {
    image: &'i mut Image<D>,
    freed: Freed,
    done: bool,
}

impl<D: Device> Transaction<'_, D> {
    /// The volume, as this transaction sees it.
    pub fn image(&self) -> &Image<D> {
        self.image
    }

    /// Seals and writes what changed.
    ///
    /// # Errors
    ///
    /// `Io`; the volume is in an undefined state then.
    pub fn commit(mut self) -> Result<()> {
        self.done = true;
        let mut cache = self.image.cache.borrow_mut();
        assert!(
            cache.held.is_empty(),
            "a changed buffer outlives its operation"
        );
        cache.joined.clear();
        for (block, mut cached) in std::mem::take(&mut cache.dirty) {
            if cached.sealed {
                let bytes = Rc::make_mut(&mut cached.bytes);
                header::seal(block, bytes, self.image.seed, crc);
                // What is written must be what would be accepted.
                let h = header::BlockHeader::of(bytes).ok_or(Error::Io)?;
                let (magic, owner) = (h.magic.get(), h.owner.get());
                header::verify(block, magic, owner, bytes, self.image.seed, crc)?;
            }
            self.image
                .device
                .write_block(block, &cached.bytes)
                .map_err(|_| Error::Io)?;
            cache.clean.insert(block, cached);
        }
        Ok(())
    }

    /// Number of blocks changed so far, and starts to count again.
    pub fn take_joined(&mut self) -> usize {
        let mut cache = self.image.cache.borrow_mut();
        std::mem::take(&mut cache.joined).len()
    }

    /// Number of blocks discarded so far, and starts to count again.
    pub fn take_discarded(&mut self) -> usize {
        let mut cache = self.image.cache.borrow_mut();
        std::mem::take(&mut cache.discarded)
    }

    fn allocator<R>(&mut self, f: impl FnOnce(&mut Allocator<'_>, &mut Self) -> R) -> R {
        let mut groups = std::mem::take(&mut self.image.groups);
        let geo = self.image.geometry;
        let mut allocator = Allocator {
            geo: &geo,
            groups: &mut groups,
        };
        let result = f(&mut allocator, self);
        self.image.groups = groups;
        result
    }

    /// Allocates up to `want` blocks; see [`Allocator::allocate_blocks`].
    ///
    /// # Errors
    ///
    /// Those of the allocator.
    pub fn allocate_blocks(&mut self, goal: u64, want: u32) -> Result<(u64, u64)> {
        let freed = std::mem::take(&mut self.freed);
        let result = self.allocator(|a, t| a.allocate_blocks(t, goal, want, &freed));
        self.freed = freed;
        result
    }

    /// Frees blocks; see [`Allocator::free_blocks`].
    ///
    /// # Errors
    ///
    /// Those of the allocator.
    pub fn free_blocks(&mut self, start: u64, len: u64) -> Result<()> {
        self.allocator(|a, t| a.free_blocks(t, start, len))?;
        for block in start..start + len {
            let group = self.image.geometry.group_of_block(block);
            let bit = (block - self.image.geometry.group_first_block(group)) as usize;
            let bits = self.freed.0.entry(group);
            let bits = bits.or_insert_with(|| vec![0; PAYLOAD_BYTES]);
            bits[bit / 8] |= 1 << (bit % 8);
        }
        Ok(())
    }

    /// Allocates an inode; see [`Allocator::allocate_inode`].
    ///
    /// # Errors
    ///
    /// Those of the allocator.
    pub fn allocate_inode(&mut self, parent_group: u64, is_dir: bool) -> Result<u64> {
        self.allocator(|a, t| a.allocate_inode(t, parent_group, is_dir))
    }

    /// Zeroes inode `ino` and frees it; see [`Allocator::free_inode`].
    ///
    /// # Errors
    ///
    /// Those of the allocator.
    pub fn free_inode(&mut self, ino: u64, was_dir: bool) -> Result<()> {
        self.clear_inode(ino)?;
        self.allocator(|a, t| a.free_inode(t, ino, was_dir))
    }

    /// Makes inode `ino` zeros.
    ///
    /// # Errors
    ///
    /// As [`write_inode`](Self::write_inode).
    pub fn clear_inode(&mut self, ino: u64) -> Result<()> {
        self.change_inode(ino, |bytes| bytes.fill(0))
    }

    /// Makes a new block of descriptors, with what is known of the groups in it.
    ///
    /// # Errors
    ///
    /// Those of the transaction.
    pub fn write_descriptors(&mut self, block: u64) -> Result<()> {
        let geometry = self.image.geometry;
        let mut buf = self.create(block, MAGIC_GROUPS, block - GDT_START)?;
        let bytes = self.modify(&mut buf)?;
        for (group, summary) in (0..).zip(&self.image.groups) {
            let (of, index) = geometry.descriptor_location(group);
            if of == block {
                summary.to_descriptor().store(bytes, index);
            }
        }
        drop(buf);
        self.image.lost_descriptors.remove(&block);
        Ok(())
    }

    /// Makes `summary` what the descriptor of `group` says.
    ///
    /// # Errors
    ///
    /// `Corrupt` if its block can't be read.
    pub fn set_summary(&mut self, group: u64, summary: GroupSummary) -> Result<()> {
        let (block, index) = self.image.geometry.descriptor_location(group);
        let mut buf = self.read(block, MAGIC_GROUPS, block - GDT_START)?;
        summary.to_descriptor().store(self.modify(&mut buf)?, index);
        self.image.groups[group as usize] = summary;
        Ok(())
    }

    /// Writes inode `ino`.
    ///
    /// # Errors
    ///
    /// `CorruptInode` if there is no such inode; `Io`.
    pub fn write_inode(&mut self, ino: u64, inode: &Inode) -> Result<()> {
        let mut raw = [0; INODE_SIZE];
        inode.encode(&mut raw, ino, self.image.seed, crc);
        self.change_inode(ino, |bytes| bytes.copy_from_slice(&raw))
    }

    fn change_inode(&mut self, ino: u64, f: impl FnOnce(&mut [u8])) -> Result<()> {
        let (block, at) = self.image.inode_location(ino)?;
        let cached = self.image.raw(block)?;
        let mut buf = self.image.buf(block, cached);
        f(&mut self.modify(&mut buf)?[at..at + INODE_SIZE]);
        Ok(())
    }

    fn join(&self, block: u64) {
        let mut cache = self.image.cache.borrow_mut();
        cache.joined.insert(block);
        cache.held.insert(block);
        // The buffer has the only copy until it is dropped.
        cache.dirty.remove(&block);
    }
}

impl<D: Device> Drop for Transaction<'_, D> {
    fn drop(&mut self) {
        if !self.done {
            let mut cache = self.image.cache.borrow_mut();
            cache.dirty.clear();
            cache.joined.clear();
            drop(cache);
            // Lost descriptors can't have been changed, and the others were sound when they were read.
            if self.image.lost_descriptors.is_empty() {
                let loaded = self.image.load_groups();
                debug_assert_eq!(loaded, Ok(()));
            }
        }
    }
}

impl<D: Device> Blocks for Transaction<'_, D> {
    type Buf = Buf;

    fn read(&self, block: u64, magic: u32, owner: u64) -> Result<Buf> {
        self.image.read(block, magic, owner)
    }
}

impl<D: Device> Txn for Transaction<'_, D> {
    fn modify<'b>(&mut self, buf: &'b mut Buf) -> Result<&'b mut [u8]> {
        if !buf.joined {
            self.join(buf.block);
            buf.joined = true;
        }
        let cached = buf.cached.as_mut().ok_or(Error::Io)?;
        Ok(Rc::make_mut(&mut cached.bytes).as_mut_slice())
    }

    fn create(&mut self, block: u64, magic: u32, owner: u64) -> Result<Buf> {
        let mut bytes = vec![0; BLOCK_SIZE];
        header::init(&mut bytes, block, magic, owner);
        let cached = Cached {
            bytes: Rc::new(bytes),
            sealed: true,
        };
        let mut buf = self.image.buf(block, cached);
        self.modify(&mut buf)?;
        Ok(buf)
    }

    fn init_inode_block(&mut self, block: u64) -> Result<()> {
        let cached = Cached {
            bytes: Rc::new(vec![0; BLOCK_SIZE]),
            sealed: false,
        };
        let mut buf = self.image.buf(block, cached);
        self.modify(&mut buf)?;
        Ok(())
    }

    fn discard(&mut self, buf: Buf) -> Result<()> {
        let block = buf.block;
        drop(buf);
        let mut cache = self.image.cache.borrow_mut();
        cache.dirty.remove(&block);
        // It stays counted: joining it took a credit.
        cache.discarded += 1;
        Ok(())
    }

    fn allocate_block(&mut self, goal: u64) -> Result<u64> {
        self.allocate_blocks(goal, 1).map(|(block, _)| block)
    }

    fn release_block(&mut self, block: u64) -> Result<()> {
        self.free_blocks(block, 1)
    }
}
