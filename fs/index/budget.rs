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

    pub(super) fn take(&self, bytes: u64) -> Result {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            });
        taken.map(|_| ()).map_err(|_| ENOMEM)
    }

    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that are taken from a budget for as long as it lives.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Takes `bytes`. `ENOMEM`.
    pub(super) fn new(budget: Arc<Budget>, bytes: u64) -> Result<Self> {
        budget.take(bytes)?;
        Ok(Charge { budget, bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}
