// SPDX-License-Identifier: GPL-2.0

//! The kernel's heapsort.
//!
//! `core`'s sort may panic when an order contradicts itself, which objtool does not expect.
//!
//! C header: `linux/sort.h`.

use crate::bindings;
use kernel::prelude::*;

/// Sorts by the first number, then the second.
pub fn pairs(values: &mut [(u64, usize)]) {
    // SAFETY: Base, count and size describe the slice; the comparison gets pointers to its
    // elements; swapping whole elements bytewise moves valid values.
    unsafe {
        bindings::sort(
            values.as_mut_ptr().cast(),
            values.len(),
            size_of::<(u64, usize)>(),
            Some(compare),
            None,
        )
    }
}

/// Compares two pairs for the kernel's `sort`.
///
/// # Safety
///
/// `a` and `b` point to `(u64, usize)` that are not written during the call.
unsafe extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: `sort` passes pointers to elements of the slice that `pairs` gave it.
    let (a, b) = unsafe { (&*a.cast::<(u64, usize)>(), &*b.cast::<(u64, usize)>()) };
    a.cmp(b) as c_int
}
