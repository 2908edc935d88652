// SPDX-License-Identifier: Apache-2.0

//! Memory of an inverted file: heads of lists, and blocks in chunks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use vexfs_ann::ivf::{Params, Store};

/// Bytes of a chunk of blocks.
const CHUNK: usize = 2 << 20;

/// Words at a cache line's beginning.
pub struct Words {
    memory: Vec<AtomicU32>,
    skip: usize,
    len: usize,
}

impl Words {
    pub fn new(len: usize) -> Self {
        let memory: Vec<AtomicU32> = (0..len + 16).map(|_| AtomicU32::new(0)).collect();
        let skip = memory.as_ptr().align_offset(64);
        Words { memory, skip, len }
    }

    pub fn get(&self) -> &[AtomicU32] {
        &self.memory[self.skip..][..self.len]
    }
}

/// Blocks in chunks of 2 MiB.
pub struct Arena {
    lists: Words,
    chunks: Vec<Words>,
    block_words: usize,
    per_chunk: u32,
    blocks: u32,
    lock: Mutex<()>,
}

impl Arena {
    pub fn new(params: &Params, blocks: u32) -> Self {
        let block_words = params.layout().unwrap().block_words as usize;
        // Small ones are not a whole chunk, so that tests copy less.
        let per_chunk = ((CHUNK / 4 / block_words) as u32).min(blocks.max(1));
        Arena {
            lists: Words::new(params.list_words()),
            chunks: (0..blocks.div_ceil(per_chunk))
                .map(|_| Words::new(per_chunk as usize * block_words))
                .collect(),
            block_words,
            per_chunk,
            blocks,
            lock: Mutex::new(()),
        }
    }

    /// A copy, word by word.
    pub fn copy(&self) -> Self {
        let copy = |words: &Words| {
            let new = Words::new(words.len);
            for (to, from) in new.get().iter().zip(words.get()) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            new
        };
        Arena {
            lists: copy(&self.lists),
            chunks: self.chunks.iter().map(copy).collect(),
            lock: Mutex::new(()),
            ..*self
        }
    }

    /// All words, those of lists first.
    pub fn words(&self) -> Vec<&AtomicU32> {
        let chunks = self.chunks.iter().flat_map(|chunk| chunk.get());
        self.lists.get().iter().chain(chunks).collect()
    }
}

impl Store for Arena {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lists(&self) -> &[AtomicU32] {
        self.lists.get()
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }

    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        let at = first % self.per_chunk;
        let count = count
            .min(self.per_chunk - at)
            .min(self.blocks.checked_sub(first)?) as usize;
        if count == 0 {
            return None;
        }
        let chunk = self.chunks.get((first / self.per_chunk) as usize)?.get();
        chunk
            .get(at as usize * self.block_words..)?
            .get(..count * self.block_words)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap()
    }
}
