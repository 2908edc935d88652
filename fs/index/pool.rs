// SPDX-License-Identifier: GPL-2.0

//! Scratch memories of operations on a structure, kept for the next ones.
//!
//! They are charged to the structure's account. An operation for which there is no more memory waits until another
//! one has done with its; only if there is no other, it has to do without.

use kernel::prelude::*;
use kernel::sync::{new_condvar, new_mutex, CondVar, Mutex};
use vexfs_vfs::task;

/// Scratch memories that are kept at most.
const IDLE: usize = 8;
/// Candidates that there is always room for: more than searches with defaults want.
pub(super) const CANDIDATES: usize = 1024;
/// Scratch memories at most: more operations than that wait for each other.
const MOST: usize = 64;

/// The scratch memories of a structure.
#[pin_data]
pub(super) struct Pool<S> {
    #[pin]
    state: Mutex<State<S>>,
    #[pin]
    returned: CondVar,
}

struct State<S> {
    idle: KVec<S>,
    /// How many are in use.
    lent: usize,
}

impl<S> Pool<S> {
    /// An empty pool. `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<Self>> {
        let state = State {
            idle: KVec::with_capacity(IDLE, GFP_KERNEL_ACCOUNT)?,
            lent: 0,
        };
        Ok(pin_init!(Pool {
            state <- new_mutex!(state, "vexfs_pool"),
            returned <- new_condvar!("vexfs_pool_returned"),
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
        let left = state.idle.push_within_capacity(scratch);
        drop(state);
        // One too many is freed without the lock, and before somebody makes one.
        drop(left);
        self.returned.notify_all();
        result
    }

    fn take(&self, make: impl Fn() -> Result<S>) -> Result<S> {
        loop {
            let mut state = self.state.lock();
            let idle = state.idle.pop();
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
}
