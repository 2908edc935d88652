// SPDX-License-Identifier: GPL-2.0

//! Memory for large arrays that grow while they are read: equal blocks of words, in chunks that
//! never move.
//!
//! All chunks of an arena are on one node of the machine's memory, its home, as far as that has any left: where it was
//! made, whoever makes it grow.
//!
//! C headers: `linux/gfp.h`, `linux/topology.h`, `linux/vmalloc.h`.

use crate::bindings;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use kernel::prelude::*;

/// Bytes of a chunk at most: what one entry of a second-level page table maps.
const CHUNK_BYTES: usize = 2 << 20;
/// Bytes of a chunk at least.
const LEAST_CHUNK_BYTES: usize = 64 << 10;
/// Chunks of one table, and tables: 512 GiB of chunks of full size.
const FAN_OUT: usize = 512;

type Table = [AtomicPtr<AtomicU32>; FAN_OUT];

/// Blocks of words, numbered from 0.
///
/// # Invariants
///
/// `tables` are [`FAN_OUT`] pointers, each null or to a table that lives as long as this value.
/// An entry of a table is null or points to a chunk of `block_words << shift` initialised words
/// that lives as long. The chunks of all blocks below `blocks` are there; that is published by the
/// store to `blocks`.
pub struct Arena {
    tables: KVec<AtomicPtr<Table>>,
    blocks: AtomicU32,
    block_words: usize,
    shift: u32,
    ones: bool,
    /// Where chunks are, if they can.
    node: c_int,
}

impl Arena {
    /// An arena without blocks, each of which will have `block_words` words, 0 or, with `ones`, all
    /// ones. Chunks are sized so that `expected` blocks waste little, and are of up to 2 MiB.
    ///
    /// # Errors
    ///
    /// `EINVAL` if a block has no words or more than fit a chunk, `ENOMEM`.
    pub fn new(block_words: usize, expected: u32, ones: bool) -> Result<Self> {
        let block_bytes = block_words.checked_mul(4).ok_or(EINVAL)?;
        if block_bytes == 0 || block_bytes > CHUNK_BYTES {
            return Err(EINVAL);
        }
        let wanted = block_bytes.saturating_mul(expected as usize) / 8;
        let least = LEAST_CHUNK_BYTES.max(block_bytes);
        let chunk = wanted.max(least).min(CHUNK_BYTES);
        let mut tables = KVec::with_capacity(FAN_OUT, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..FAN_OUT {
            tables
                .push_within_capacity(AtomicPtr::new(null_mut()))
                .map_err(|_| ENOMEM)?;
        }
        // INVARIANT: there are no tables, no chunks and no blocks.
        Ok(Arena {
            tables,
            blocks: AtomicU32::new(0),
            block_words,
            shift: (chunk / block_bytes).checked_ilog2().unwrap_or(0),
            ones,
            // SAFETY: Looks at this processor.
            node: unsafe { bindings::vexfs_memory_node() },
        })
    }

    /// How many blocks there are.
    #[inline]
    pub fn blocks(&self) -> u32 {
        self.blocks.load(Ordering::Acquire)
    }

    /// Block `at`.
    #[inline]
    pub fn get(&self, at: u32) -> Option<&[AtomicU32]> {
        if at >= self.blocks() {
            return None;
        }
        let (data, _) = self.place(at)?;
        // SAFETY: Block `at` is there, as just checked: `block_words` initialised words from `data` on.
        Some(unsafe { core::slice::from_raw_parts(data, self.block_words) })
    }

    /// The blocks from `first` on, as far as they lie one after the other: at least one and at most
    /// `count`. `None` if there is no block `first` or `count` is 0.
    #[inline]
    pub fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        let there = self.blocks().checked_sub(first)?.min(count) as usize;
        if there == 0 {
            return None;
        }
        let (data, left) = self.place(first)?;
        // SAFETY: Block `first` is there, as just checked, and so are those that follow it in its chunk.
        Some(unsafe { core::slice::from_raw_parts(data, there.min(left) * self.block_words) })
    }

    /// Where block `at`, which is below `blocks`, begins, and how many there are from there to the chunk's end.
    #[inline]
    fn place(&self, at: u32) -> Option<(*const AtomicU32, usize)> {
        let chunk = (at >> self.shift) as usize;
        let table = self.tables.get(chunk / FAN_OUT)?.load(Ordering::Relaxed);
        // SAFETY: By the invariant the table of a block below `blocks` is there, as the acquiring
        // load of `blocks` has seen, and lives as long as `self`.
        let data = unsafe { &*table }.get(chunk % FAN_OUT)?;
        let data = data.load(Ordering::Relaxed);
        let within = at as usize & ((1 << self.shift) - 1);
        let left = (1usize << self.shift) - within;
        // SAFETY: As above the chunk is there; it has `block_words << shift` initialised words, and
        // `within` is less than `1 << shift`.
        Some((unsafe { data.add(within * self.block_words) }, left))
    }

    /// Makes more blocks, so that there are at least `to`. May sleep. Several callers may do so at
    /// the same time.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; there may be some more blocks then.
    pub fn grow(&self, to: u32) -> Result {
        loop {
            let have = self.blocks();
            if have >= to {
                return Ok(());
            }
            self.add_chunk((have >> self.shift) as usize)?;
            // INVARIANT: the chunk of the blocks up to there is in its table.
            let more = have.checked_add(1 << self.shift).ok_or(ENOMEM)?;
            self.blocks.fetch_max(more, Ordering::AcqRel);
        }
    }

    /// Bytes of memory that this holds.
    pub fn bytes(&self) -> u64 {
        self.bytes_with(0)
    }

    /// Bytes of memory that this holds when it has `blocks` blocks, or those it has.
    pub fn bytes_with(&self, blocks: u32) -> u64 {
        let chunks = u64::from(self.blocks().max(blocks)).div_ceil(1 << self.shift);
        let tables = chunks.div_ceil(FAN_OUT as u64).saturating_add(1);
        chunks
            .saturating_mul(self.chunk_bytes() as u64)
            .saturating_add(tables.saturating_mul(size_of::<Table>() as u64))
    }

    fn chunk_bytes(&self) -> usize {
        // At most CHUNK_BYTES, as `new` has chosen the shift.
        (self.block_words * 4) << self.shift
    }

    /// Puts chunk `chunk` into its table, if it is not there yet.
    fn add_chunk(&self, chunk: usize) -> Result {
        let slot = self.tables.get(chunk / FAN_OUT).ok_or(ENOMEM)?;
        let mut table = slot.load(Ordering::Acquire);
        if table.is_null() {
            // Zeros are null pointers.
            table = install(slot, size_of::<Table>(), false, self.node)?;
        }
        // SAFETY: Tables live as long as `self`.
        let slot = unsafe { &*table }.get(chunk % FAN_OUT).ok_or(ENOMEM)?;
        if slot.load(Ordering::Acquire).is_null() {
            install(slot, self.chunk_bytes(), self.ones, self.node)?;
        }
        Ok(())
    }
}

/// Allocates `bytes` bytes for `slot`, or finds that somebody else was faster.
fn install<T>(slot: &AtomicPtr<T>, bytes: usize, ones: bool, node: c_int) -> Result<*mut T> {
    // SAFETY: May sleep, as all callers may.
    let new = unsafe { bindings::vexfs_chunk_alloc(bytes, ones, node) }.cast::<T>();
    if new.is_null() {
        return Err(ENOMEM);
    }
    match slot.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(new),
        Err(first) => {
            // SAFETY: Allocated above with this size, and nobody else knows it.
            unsafe { bindings::vexfs_chunk_free(new.cast(), bytes) };
            Ok(first)
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let bytes = self.chunk_bytes();
        for slot in &mut self.tables {
            let table = *slot.get_mut();
            if table.is_null() {
                continue;
            }
            // SAFETY: The table lives until it is freed below, and `&mut self` is the only user.
            for chunk in unsafe { &mut *table } {
                if !chunk.get_mut().is_null() {
                    // SAFETY: Chunks were allocated with this size, and are freed once.
                    unsafe { bindings::vexfs_chunk_free((*chunk.get_mut()).cast(), bytes) };
                }
            }
            // SAFETY: As for the chunks.
            unsafe { bindings::vexfs_chunk_free(table.cast(), size_of::<Table>()) };
        }
    }
}
