// SPDX-License-Identifier: GPL-2.0

//! The memory of inverted lists, and scratch memory for operations on them.

use super::budget::{Account, Charge};
use super::lists_codes::Coder;
use super::lists_loader::LoadMemory;
use super::lists_scorer::QueryMemory;
use super::pool;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::lock::{mutex::MutexBackend, Guard};
use kernel::sync::{new_mutex, Arc, Mutex};
use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::{InsertMemory, Params, Store, Workspace, BATCH, NEAR_WORDS};
use vexfs_ann::reservoir;
use vexfs_vfs::arena::Arena;
use vexfs_vfs::array::Array;

/// Words of [`Workspace::touched`].
const TOUCHED: usize = 4096;

/// Heads of lists, and their blocks.
///
/// # Invariants
///
/// `charged` bytes are taken from `account`, at least what the blocks hold.
pub(super) struct Memory {
    account: Arc<Account>,
    charged: AtomicU64,
    heads: Array<AtomicU32>,
    blocks: Arena,
    /// Bytes that its owner holds beside it.
    beside: u64,
    lock: Pin<KBox<Mutex<()>>>,
}

impl Memory {
    /// Memory of lists without blocks, in chunks that suit `expected` of them. Nothing is taken from
    /// `account` yet: [`Memory::grow`] does that first of all, `beside` bytes among it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for bad parameters, `ENOMEM`.
    pub(super) fn new(
        account: Arc<Account>,
        params: &Params,
        expected: u32,
        beside: u64,
    ) -> Result<Self> {
        let layout = params.layout().map_err(|_| EINVAL)?;
        // INVARIANT: There are no blocks.
        Ok(Memory {
            account,
            charged: AtomicU64::new(0),
            heads: Array::zeros(params.list_words())?,
            blocks: Arena::new(layout.block_words as usize, expected, false)?,
            beside,
            lock: KBox::pin_init(new_mutex!((), "vexfs_lists_store"), GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Bytes that this takes with `blocks` blocks.
    pub(super) fn bytes_with(&self, blocks: u32) -> u64 {
        self.beside
            .saturating_add(self.heads.bytes() as u64)
            .saturating_add(self.blocks.bytes_with(blocks))
    }

    /// Makes more blocks, so that there are at least `blocks`. One caller at a time.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the budget or memory does not suffice.
    pub(super) fn grow(&self, blocks: u32) -> Result {
        let after = self.bytes_with(blocks);
        let charged = self.charged.load(Ordering::Relaxed);
        if let Some(more @ 1..) = after.checked_sub(charged) {
            self.account.take(more)?;
            // INVARIANT: Taken before there are more blocks. If there will not be, the next call needs less.
            self.charged.store(after, Ordering::Relaxed);
        }
        self.blocks.grow(blocks)
    }

    /// Makes a block more.
    pub(super) fn grow_by_one(&self) -> Result {
        self.grow(self.blocks.blocks().checked_add(1).ok_or(EFBIG)?)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.give(self.charged.load(Ordering::Relaxed));
    }
}

impl Store for Memory {
    type Guard<'a> = Guard<'a, (), MutexBackend>;

    #[inline]
    fn lists(&self) -> &[AtomicU32] {
        &self.heads
    }

    fn blocks(&self) -> u32 {
        self.blocks.blocks()
    }

    #[inline]
    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        self.blocks.run(first, count)
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.lock.lock()
    }
}

/// Scratch memory of a search.
pub(super) struct Scratch {
    lists: KVVec<u64>,
    near: KVVec<u32>,
    candidates: KVVec<u64>,
    lower: KVVec<u32>,
    hits: KVVec<u32>,
    visited: KVVec<u64>,
    touched: KVVec<u32>,
    pub(super) query: QueryMemory,
    charge: Charge,
}

impl Scratch {
    /// Scratch memory that is charged to `account`.
    pub(super) fn new(account: &Arc<Account>, coder: &Coder) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let nlist = coder.params.nlist;
        let codes = coder.codes_at_once();
        Ok(Scratch {
            lists: charge.make(Workspace::lists_for(nlist))?,
            near: charge.make((nlist as usize).saturating_add(1))?,
            candidates: KVVec::new(),
            lower: charge.make(codes)?,
            hits: charge.make(codes / BLOCK_ROWS as usize)?,
            visited: KVVec::new(),
            touched: charge.make(if coder.params.copies > 1 { TOUCHED } else { 0 })?,
            query: QueryMemory::new(&mut charge, coder)?,
            charge,
        })
    }

    /// Makes room for `keep` candidates, and bits for `rows` rows, which are none if each is in one list.
    pub(super) fn reserve(&mut self, keep: usize, rows: u64) -> Result {
        let words = usize::try_from(rows.div_ceil(64))?;
        self.charge.widen(&mut self.visited, words)?;
        let len = reservoir::memory(keep);
        self.charge.widen(&mut self.candidates, len)
    }

    /// Lends the memory, and that of the query.
    pub(super) fn lend(&mut self) -> (Workspace<'_>, &mut QueryMemory) {
        let workspace = Workspace {
            lists: &mut self.lists,
            near: &mut self.near,
            candidates: &mut self.candidates,
            lower: &mut self.lower,
            hits: &mut self.hits,
            visited: &mut self.visited,
            touched: &mut self.touched,
        };
        (workspace, &mut self.query)
    }
}

impl pool::Scratch for Scratch {
    fn bytes(&self) -> u64 {
        self.charge.bytes()
    }
}

/// Scratch memory of who changes lists: a batch of rows.
pub(super) struct Batch {
    pub(super) load: LoadMemory,
    vectors: KVVec<u8>,
    codes: KVVec<u8>,
    near: KVVec<u64>,
    copies: usize,
    pub(super) rows: KVec<u64>,
    pub(super) lists: KVec<u32>,
    pub(super) factors: KVec<[u32; 3]>,
    charge: Charge,
}

impl Batch {
    /// Bytes that are charged for it.
    pub(super) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Scratch memory that is charged to `account`.
    pub(super) fn new(account: &Arc<Account>, coder: &Coder) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let rows = coder.batch();
        let vectors = rows.saturating_mul(coder.rows.vector_bytes());
        let copies = coder.params.copies as usize;
        let slots = BATCH.saturating_mul(copies);
        let codes = rows.saturating_mul(copies);
        let codes = codes.saturating_mul(coder.layout.nsub as usize);
        Ok(Batch {
            load: LoadMemory::new(&mut charge, coder)?,
            vectors: charge.make(vectors)?,
            codes: charge.make(codes)?,
            near: charge.make(if copies > 1 { NEAR_WORDS } else { 0 })?,
            copies,
            rows: KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT)?,
            lists: KVec::from_elem(0, slots, GFP_KERNEL_ACCOUNT)?,
            factors: KVec::from_elem([0; 3], slots, GFP_KERNEL_ACCOUNT)?,
            charge,
        })
    }
}

/// The parts of a [`Batch`], lent at the same time.
pub(super) struct Lent<'a> {
    pub(super) load: &'a mut LoadMemory,
    pub(super) memory: InsertMemory<'a>,
    pub(super) rows: &'a [u64],
    /// The lists of each row, one after the other, and its factors in them.
    pub(super) lists: &'a mut [u32],
    pub(super) factors: &'a mut [[u32; 3]],
}

impl Batch {
    /// Puts these rows in, in place of others: [`Coder::batch`] at most.
    pub(super) fn fill(&mut self, rows: impl Iterator<Item = u64>) -> Result {
        self.rows.clear();
        for row in rows {
            self.rows.push_within_capacity(row).map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    /// Lends all of it, for the rows that were put in.
    pub(super) fn lend(&mut self) -> Lent<'_> {
        let slots = self.rows.len().saturating_mul(self.copies);
        Lent {
            load: &mut self.load,
            memory: InsertMemory {
                vectors: &mut self.vectors,
                codes: &mut self.codes,
                near: &mut self.near,
            },
            rows: &self.rows,
            lists: self.lists.get_mut(..slots).unwrap_or(&mut []),
            factors: self.factors.get_mut(..slots).unwrap_or(&mut []),
        }
    }
}
