// SPDX-License-Identifier: GPL-2.0

//! Scratch memories of operations on a structure, kept for the next ones.
//!
//! They are charged to the structure's account. An operation for which there is no more memory waits until another
//! one has done with its; only if there is no other, it has to do without.

use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_mutex, CondVar, Mutex};
use vexfs_vfs::task;

/// Scratch memories that are kept at most.
const IDLE: usize = 8;
/// Candidates that there is always room for: more than searches with defaults want, if codes have 16 bits or more.
pub(super) const CANDIDATES: usize = 1024;
/// Scratch memories at most: more operations than that wait for each other.
const MOST: usize = 64;

/// Scratch memory of one operation at a time.
pub(super) trait Scratch {
    /// Bytes that are charged for it.
    fn bytes(&self) -> u64;
}

/// Scratch memories that nobody uses.
pub(crate) trait Idle {
    /// Bytes that they have.
    fn idle_bytes(&self) -> u64;
    /// Frees them, and returns how many bytes that were. Waits for nothing.
    fn drop_idle(&self) -> u64;
}

/// The scratch memories of a structure.
#[pin_data]
pub(super) struct Pool<S> {
    #[pin]
    state: Mutex<State<S>>,
    #[pin]
    returned: CondVar,
    idle_bytes: AtomicU64,
}

struct State<S> {
    idle: KVec<S>,
    /// How many are in use.
    lent: usize,
}

impl<S: Scratch> Pool<S> {
    /// An empty pool. `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let state = State {
            idle: KVec::with_capacity(IDLE, GFP_KERNEL_ACCOUNT)?,
            lent: 0,
        };
        Ok(pin_init!(Pool {
            state <- new_mutex!(state, "vexfs_pool"),
            returned <- new_condvar!("vexfs_pool_returned"),
            idle_bytes: AtomicU64::new(0),
        }))
    }

    /// Sees to it that there is one, so that no operation has to do without. What `make` says.
    pub(super) fn prepare(&self, make: impl Fn() -> Result<S>) -> Result {
        self.with(make, |_| Ok(()))
    }

    /// Runs `f` with a scratch memory: one that is idle, one that `make` makes, or another operation's afterwards.
    /// Whoever has one takes no other, and takes no lock that is held here.
    ///
    /// # Errors
    ///
    /// What `f` returns, and what `make` does, `ENOMEM` only if none is in use; `EINTR` for a fatal signal.
    pub(super) fn with<R>(
        &self,
        make: impl Fn() -> Result<S>,
        f: impl FnOnce(&mut S) -> Result<R>,
    ) -> Result<R> {
        let mut scratch = self.take(make)?;
        let result = f(&mut scratch);
        let mut state = self.state.lock();
        state.lent = state.lent.saturating_sub(1);
        let bytes = scratch.bytes();
        let left = state.idle.push_within_capacity(scratch);
        if left.is_ok() {
            self.idle_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        drop(state);
        // One too many is freed without the lock, and before somebody makes one.
        drop(left);
        self.returned.notify_all();
        result
    }

    fn take(&self, make: impl Fn() -> Result<S>) -> Result<S> {
        loop {
            let mut state = self.state.lock();
            let idle = self.pop(&mut state);
            if idle.is_some() || state.lent < MOST {
                state.lent = state.lent.saturating_add(1);
                drop(state);
                let made = idle.map_or_else(&make, Ok);
                let Err(e) = made else {
                    return made;
                };
                state = self.state.lock();
                state.lent = state.lent.saturating_sub(1);
                if e != ENOMEM || state.lent == 0 && state.idle.is_empty() {
                    return Err(e);
                }
            }
            if state.idle.is_empty() && self.returned.wait_interruptible(&mut state) {
                if task::fatal_signal_pending() {
                    return Err(EINTR);
                }
                // Other signals do not end a search, and it takes no longer than one.
                if state.idle.is_empty() && state.lent > 0 {
                    self.returned.wait(&mut state);
                }
            }
        }
    }

    fn pop(&self, state: &mut State<S>) -> Option<S> {
        let scratch = state.idle.pop()?;
        self.idle_bytes
            .fetch_sub(scratch.bytes(), Ordering::Relaxed);
        Some(scratch)
    }
}

impl<S: Scratch> Idle for Pool<S> {
    fn idle_bytes(&self) -> u64 {
        self.idle_bytes.load(Ordering::Relaxed)
    }

    fn drop_idle(&self) -> u64 {
        let mut freed = 0u64;
        while let Some(mut state) = self.state.try_lock() {
            let Some(scratch) = self.pop(&mut state) else {
                break;
            };
            drop(state);
            freed = freed.saturating_add(scratch.bytes());
        }
        freed
    }
}
