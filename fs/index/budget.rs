// SPDX-License-Identifier: GPL-2.0

//! How much memory the indexes of a volume take.

use super::resident::Residents;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The memory that the indexes of a volume may take together: `index_memory=`.
#[pin_data]
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// What can be dropped for what is wanted more.
    #[pin]
    pub(super) residents: Residents,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> impl PinInit<Self> {
        pin_init!(Budget {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            residents <- Residents::new(),
        })
    }

    /// Changes the limit. What is used stays until somebody else needs the room, even if it is more.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that may still be taken.
    pub(crate) fn left(&self) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// Pages that [`Budget::reclaim`] could free, about. Waits for nothing.
    pub(crate) fn reclaimable(&self) -> u64 {
        self.residents.reclaimable()
    }

    /// Frees memory that can be read again, for memory reclaim: [`Residents::reclaim`].
    pub(crate) fn reclaim(&self, pages: u64) -> u64 {
        self.residents.reclaim(pages)
    }

    /// Takes `bytes`. Indexes are dropped that are not in use and that the disk has, if that makes enough room.
    fn take(&self, bytes: u64) -> Result {
        while let Err(missing) = self.take_what_is_left(bytes) {
            if self.residents.droppable() < missing {
                return Err(ENOMEM);
            }
            // If it came into use just now, another one may do.
            let _ = self.residents.drop_oldest();
        }
        Ok(())
    }

    /// Takes `bytes`, or says how many of them are missing.
    fn take_what_is_left(&self, bytes: u64) -> core::result::Result<(), u64> {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            });
        let missing = |used: u64| used.saturating_add(bytes).saturating_sub(limit);
        taken.map(|_| ()).map_err(missing)
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one index has taken of a budget.
///
/// A structure that is to be built is made first, then asked what it needs until it is built: that is taken in one piece,
/// with what it has by then, so that no other index is dropped for the sake of one that does not fit.
pub(crate) struct Account {
    budget: Arc<Budget>,
    used: AtomicU64,
    /// What is used is taken of the budget, and `ahead` besides.
    open: AtomicBool,
    ahead: AtomicU64,
    /// Taken as well, and used for moments only: by what must not fail for want of room.
    spare: AtomicU64,
    /// Memory is only counted, not made.
    measures: bool,
}

impl Account {
    /// An account without anything, which takes nothing of the budget before [`Account::open`]. `ENOMEM`.
    pub(super) fn new(budget: &Arc<Budget>) -> Result<Arc<Self>> {
        Account::make(budget, false)
    }

    /// An account whose charges say how much memory there would be, and make none. `ENOMEM`.
    pub(super) fn measuring(&self) -> Result<Arc<Self>> {
        Account::make(&self.budget, true)
    }

    fn make(budget: &Arc<Budget>, measures: bool) -> Result<Arc<Self>> {
        let account = Account {
            budget: budget.clone(),
            used: AtomicU64::new(0),
            open: AtomicBool::new(false),
            ahead: AtomicU64::new(0),
            spare: AtomicU64::new(0),
            measures,
        };
        Ok(Arc::new(account, GFP_KERNEL_ACCOUNT)?)
    }

    /// An account that takes of the budget at once. `ENOMEM`.
    pub(super) fn opened(budget: &Arc<Budget>) -> Result<Arc<Self>> {
        let account = Account::new(budget)?;
        account.open(0)?;
        Ok(account)
    }

    /// Takes what is used so far of the budget, and `bytes` ahead. One caller at a time. `ENOMEM`.
    pub(super) fn open(&self, bytes: u64) -> Result {
        let so_far = match self.open.load(Ordering::Relaxed) {
            true => 0,
            false => self.held(),
        };
        self.budget.take(so_far.saturating_add(bytes))?;
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
        self.open.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what was taken ahead and is not used.
    pub(super) fn settle(&self) {
        self.budget.give(self.ahead.swap(0, Ordering::Relaxed));
    }

    /// Bytes that are used.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that are used, and those that are spare.
    pub(super) fn held(&self) -> u64 {
        self.used()
            .saturating_add(self.spare.load(Ordering::Relaxed))
    }

    /// Takes `bytes`. `ENOMEM`.
    pub(super) fn take(&self, bytes: u64) -> Result {
        self.take_room(bytes)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Has `bytes` spare from now on, if it has less. One caller at a time. `ENOMEM`.
    pub(super) fn keep_spare(&self, bytes: u64) -> Result {
        if let Some(more @ 1..) = bytes.checked_sub(self.spare.load(Ordering::Relaxed)) {
            self.take_room(more)?;
            self.spare.fetch_add(more, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes `bytes` of what was taken ahead, then of the budget.
    fn take_room(&self, bytes: u64) -> Result {
        if self.open.load(Ordering::Relaxed) {
            let less = |ahead: u64| Some(ahead.saturating_sub(bytes));
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            let ahead = self.ahead.fetch_update(set, fetch, less).unwrap_or(0);
            if let more @ 1.. = bytes.saturating_sub(ahead) {
                self.budget.take(more).inspect_err(|_| {
                    self.ahead.fetch_add(ahead, Ordering::Relaxed);
                })?;
            }
        }
        Ok(())
    }

    /// Gives `bytes` back that were taken.
    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.open.load(Ordering::Relaxed) {
            self.budget.give(bytes);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
        if self.open.load(Ordering::Relaxed) {
            self.budget.give(self.spare.load(Ordering::Relaxed));
        }
    }
}

/// Bytes that are taken for as long as it lives.
pub(super) struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Charge {
    /// Takes `bytes`. `ENOMEM`.
    pub(super) fn new(account: Arc<Account>, bytes: u64) -> Result<Self> {
        account.take(bytes)?;
        Ok(Charge { account, bytes })
    }

    /// How many it has.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory for `len` values, which are the default one; taken first. It is freed before the charge is.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn make<T: Clone + Default>(&mut self, len: usize) -> Result<KVVec<T>> {
        let mut memory = KVVec::new();
        self.widen(&mut memory, len)?;
        Ok(memory)
    }

    /// Makes memory from [`Charge::make`] have `len` values at least. What it had is lost if it was shorter.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. It may be empty then.
    pub(super) fn widen<T: Clone + Default>(
        &mut self,
        memory: &mut KVVec<T>,
        len: usize,
    ) -> Result {
        let bytes = |len: usize| (len as u64).saturating_mul(size_of::<T>() as u64);
        if memory.len() >= len {
            return Ok(());
        }
        let more = bytes(len).saturating_sub(bytes(memory.len()));
        self.account.take(more)?;
        self.bytes = self.bytes.saturating_add(more);
        if self.account.measures {
            return Ok(());
        }
        // The old memory goes first, so that there is never more than what is taken.
        *memory = KVVec::new();
        match KVVec::from_elem(T::default(), len, GFP_KERNEL_ACCOUNT | __GFP_NOWARN) {
            Ok(wider) => *memory = wider,
            Err(e) => {
                self.account.give(bytes(len));
                self.bytes = self.bytes.saturating_sub(bytes(len));
                return Err(e.into());
            }
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}
