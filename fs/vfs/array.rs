// SPDX-License-Identifier: GPL-2.0

//! Large arrays of a fixed length, in one piece of the kernel's address space.
//!
//! Unlike `KVVec` they neither warn nor kill anybody if there is no memory for them: how long they are
//! is for the user to say. They are on the node of who makes them, as far as that has memory.
//!
//! C headers: `linux/gfp.h`, `linux/vmalloc.h`.

use crate::bindings;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use kernel::prelude::*;

mod sealed {
    /// # Safety
    ///
    /// Zeros are a value, nothing is to be done when one goes, and it is aligned to 8 bytes at most.
    pub unsafe trait Word: Send + Sync {}
}

pub use sealed::Word;

// SAFETY: An integer.
unsafe impl Word for u8 {}
// SAFETY: An integer.
unsafe impl Word for u32 {}
// SAFETY: An integer.
unsafe impl Word for u64 {}
// SAFETY: An integer that may be shared.
unsafe impl Word for AtomicU32 {}

/// `len` values of an integer type, charged to who makes it.
///
/// # Invariants
///
/// If `len` is not 0, `data` is memory of [`Array::bytes`] bytes from `vexfs_chunk_alloc`, initialised, which is
/// this value's alone.
pub struct Array<T: Word> {
    data: NonNull<T>,
    len: usize,
}

// SAFETY: It owns its elements, which are `Send`.
unsafe impl<T: Word> Send for Array<T> {}
// SAFETY: Shared, it lends shared references to elements, which are `Sync`.
unsafe impl<T: Word> Sync for Array<T> {}

impl<T: Word> Array<T> {
    /// An array of zeros. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn zeros(len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(ENOMEM)?;
        if bytes == 0 {
            // INVARIANT: There is no element.
            return Ok(Array {
                data: NonNull::dangling(),
                len: 0,
            });
        }
        // SAFETY: May sleep, as the caller may.
        let data = unsafe {
            let node = bindings::vexfs_memory_node();
            bindings::vexfs_chunk_alloc(bytes, false, node)
        };
        let data = data.cast::<T>();
        // INVARIANT: Fresh memory of that size; pages are aligned to more than any `Word`, and zeros are values.
        Ok(Array {
            data: NonNull::new(data).ok_or(ENOMEM)?,
            len,
        })
    }

    /// Bytes of memory that its elements take.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Word> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: By the invariant there are `len` elements, which live as long as `self`.
        unsafe { core::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Word> DerefMut for Array<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: As above, and `&mut self` is the only way to them.
        unsafe { core::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: Word> Drop for Array<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: By the invariant this memory is ours; elements need no drop.
            unsafe { bindings::vexfs_chunk_free(self.data.as_ptr().cast(), self.bytes()) };
        }
    }
}
