// SPDX-License-Identifier: GPL-2.0

//! How much memory the indexes of a volume take.

use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The memory that the indexes of a volume may take together: `index_memory=`.
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Budget {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
        }
    }

    /// Changes the limit. What is used stays, even if it is more.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that may still be taken.
    pub(crate) fn left(&self) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    fn take(&self, bytes: u64) -> Result {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            });
        taken.map(|_| ()).map_err(|_| ENOMEM)
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one index has taken of a budget.
pub(super) struct Account {
    budget: Arc<Budget>,
    used: AtomicU64,
}

impl Account {
    /// An account without anything. `ENOMEM`.
    pub(super) fn new(budget: &Arc<Budget>) -> Result<Arc<Self>> {
        let account = Account {
            budget: budget.clone(),
            used: AtomicU64::new(0),
        };
        Ok(Arc::new(account, GFP_KERNEL_ACCOUNT)?)
    }

    /// Bytes that it has taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`. `ENOMEM`.
    pub(super) fn take(&self, bytes: u64) -> Result {
        self.budget.take(bytes)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives `bytes` back that were taken.
    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.give(bytes);
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
        // The old memory goes first, so that there is never more than what is taken.
        *memory = KVVec::new();
        match KVVec::from_elem(T::default(), len, GFP_KERNEL_ACCOUNT) {
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
