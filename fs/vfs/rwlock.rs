// SPDX-License-Identifier: GPL-2.0

//! A value behind the kernel's read-write semaphore.
//!
//! C header: `linux/rwsem.h`.

use crate::bindings;
use core::cell::UnsafeCell;
use kernel::prelude::*;

/// A value that many may read, or one may change. Both may sleep.
///
/// All of them are of one lock class, that of locks inside of everything but the page cache.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    sem: UnsafeCell<bindings::rw_semaphore>,
    value: UnsafeCell<T>,
}

// SAFETY: Whoever owns it owns the value.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: Several tasks at once get shared references, one alone a mutable one, with which it could move
// the value away.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// Puts `value` behind a lock.
    pub fn new(value: T) -> impl PinInit<Self, Error> {
        // SAFETY: The semaphore is initialised at its final, pinned address.
        let sem = unsafe {
            pin_init::pin_init_from_closure(|slot: *mut UnsafeCell<bindings::rw_semaphore>| {
                bindings::vexfs_init_rwlock(slot.cast());
                Ok::<(), Error>(())
            })
        };
        try_pin_init!(RwLock {
            sem <- sem,
            value: UnsafeCell::new(value),
        }? Error)
    }

    /// Runs `f` while nobody changes the value.
    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: Initialised in `new`; released below.
        unsafe { bindings::down_read(self.sem.get()) };
        // SAFETY: While the semaphore is held shared, references are shared ones.
        let result = f(unsafe { &*self.value.get() });
        // SAFETY: Taken above.
        unsafe { bindings::up_read(self.sem.get()) };
        result
    }

    /// Runs `f` while nobody else uses the value.
    pub fn write<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: Initialised in `new`; released below.
        unsafe { bindings::down_write(self.sem.get()) };
        // SAFETY: While the semaphore is held exclusively, this is the only reference.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: Taken above.
        unsafe { bindings::up_write(self.sem.get()) };
        result
    }
}
