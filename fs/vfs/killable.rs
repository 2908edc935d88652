// SPDX-License-Identifier: GPL-2.0

//! A lock that is held for seconds: who waits for it can be killed.
//!
//! C header: `linux/mutex.h`. The kernel crate's mutex has no such wait.

use crate::bindings;
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// The kernel's mutex, guarding nothing by itself. All of them are of one lock class.
#[pin_data]
pub struct KillableMutex {
    #[pin]
    mutex: UnsafeCell<bindings::mutex>,
}

// SAFETY: A lock is made to be shared.
unsafe impl Send for KillableMutex {}
// SAFETY: As above.
unsafe impl Sync for KillableMutex {}

/// The lock is held for as long as this lives.
///
/// # Invariants
///
/// The current task has locked the mutex.
#[must_use = "the lock is given back at once"]
pub struct KillableGuard<'a> {
    of: &'a KillableMutex,
    _task: PhantomData<NotThreadSafe>,
}

impl KillableMutex {
    /// Initialises the mutex in place.
    pub fn new() -> impl PinInit<Self, Error> {
        // SAFETY: The closure initialises the only field at its final, pinned address.
        unsafe {
            pin_init::pin_init_from_closure(|slot: *mut Self| {
                bindings::vexfs_init_mutex((&raw mut (*slot).mutex).cast());
                Ok(())
            })
        }
    }

    /// Locks it, whatever is sent to the task meanwhile.
    pub fn lock(&self) -> KillableGuard<'_> {
        // SAFETY: Initialised in `new`; the guard unlocks it.
        unsafe { bindings::vexfs_mutex_lock(self.mutex.get()) };
        self.guard()
    }

    /// Locks it, unless the task is killed first.
    ///
    /// # Errors
    ///
    /// `EINTR` for a fatal signal.
    pub fn lock_killable(&self) -> Result<KillableGuard<'_>> {
        // SAFETY: Initialised in `new`; the guard unlocks it.
        let locked: c_int = unsafe { bindings::vexfs_mutex_lock_killable(self.mutex.get()) };
        to_result(locked)?;
        Ok(self.guard())
    }

    fn guard(&self) -> KillableGuard<'_> {
        // INVARIANT: Both callers have just locked it.
        KillableGuard {
            of: self,
            _task: PhantomData,
        }
    }
}

impl Drop for KillableGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The guard's invariant: this task has it, as a guard never goes to another one.
        unsafe { bindings::vexfs_mutex_unlock(self.of.mutex.get()) };
    }
}
