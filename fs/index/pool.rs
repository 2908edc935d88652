// SPDX-License-Identifier: GPL-2.0

//! Scratch memories of operations on a structure, kept for the next ones.

use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};

/// Scratch memories that are kept at most.
const IDLE: usize = 8;

/// Scratch memory of one operation at a time.
pub(super) trait Scratch: Sized {
    /// Bytes that it holds.
    fn bytes(&self) -> u64;
}

/// The scratch memories of a structure that nobody uses.
#[pin_data]
pub(super) struct Pool<S> {
    #[pin]
    idle: Mutex<KVec<S>>,
}

impl<S: Scratch> Pool<S> {
    /// An empty pool. `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let idle = KVec::with_capacity(IDLE, GFP_KERNEL_ACCOUNT)?;
        Ok(pin_init!(Pool {
            idle <- new_mutex!(idle, "vexfs_pool"),
        }))
    }

    /// Runs `f` with a scratch memory: one that is idle, or one that `make` makes.
    ///
    /// # Errors
    ///
    /// What `make` and `f` return.
    pub(super) fn with<R>(
        &self,
        make: impl FnOnce() -> Result<S>,
        f: impl FnOnce(&mut S) -> Result<R>,
    ) -> Result<R> {
        let idle = self.idle.lock().pop();
        let mut scratch = match idle {
            Some(scratch) => scratch,
            None => make()?,
        };
        let result = f(&mut scratch);
        let mut idle = self.idle.lock();
        let left = idle.push_within_capacity(scratch);
        // One too many is freed without the lock.
        drop(idle);
        drop(left);
        result
    }

    /// Bytes of those that are idle.
    pub(super) fn bytes(&self) -> u64 {
        let idle = self.idle.lock();
        idle.iter().map(S::bytes).fold(0, u64::saturating_add)
    }
}
