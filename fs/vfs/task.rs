// SPDX-License-Identifier: GPL-2.0

//! The current task, memory allocation scopes, clocks and random numbers.
//!
//! C headers: `linux/sched/mm.h`, `linux/sched/signal.h`, `linux/random.h`, `linux/crc32.h`.

use crate::bindings;
use core::marker::PhantomData;
use kernel::str::CStrExt;

/// While it lives, the task's allocations do not enter a filesystem for reclaim.
pub struct NoFs {
    flags: u32,
    // The scope belongs to one task.
    _not_send: PhantomData<*mut ()>,
}

impl NoFs {
    /// Opens the scope.
    pub fn enter() -> Self {
        NoFs {
            // SAFETY: Sets a flag of the current task; no preconditions.
            flags: unsafe { bindings::vexfs_nofs_save() },
            _not_send: PhantomData,
        }
    }
}

impl Drop for NoFs {
    fn drop(&mut self) {
        // SAFETY: `flags` came from the matching save in this task, as the type is not Send.
        unsafe { bindings::vexfs_nofs_restore(self.flags) }
    }
}

/// Whether a fatal signal waits for the current task.
pub fn fatal_signal_pending() -> bool {
    // SAFETY: Reads flags of the current task.
    unsafe { bindings::vexfs_fatal_signal_pending() }
}

/// Lets another task run if one is due. May sleep.
pub fn cond_resched() {
    // SAFETY: No preconditions for memory safety; where it must not sleep, in an FPU section,
    // the kernel says so.
    unsafe { bindings::vexfs_cond_resched() }
}

/// Whether the current task is reclaiming memory and must not start a transaction.
pub fn is_reclaiming() -> bool {
    // SAFETY: Reads flags of the current task.
    unsafe { bindings::vexfs_task_is_reclaiming() }
}

/// Waits a little, after an allocation failed that is about to be tried again. Sleeps.
pub fn wait_for_memory() {
    // SAFETY: No preconditions for memory safety, as for `cond_resched`.
    unsafe { bindings::vexfs_wait_for_memory() }
}

/// Whether the current task has a journal handle open.
pub fn in_transaction() -> bool {
    // SAFETY: Reads a field of the current task.
    unsafe { bindings::vexfs_in_handle() }
}

/// CRC32C without inversion at either end, as the kernel's `crc32c()`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // SAFETY: The pointer and length are those of a live slice.
    unsafe { bindings::crc32c(seed, bytes.as_ptr().cast(), bytes.len()) }
}

/// Nanoseconds of the monotonic clock.
pub fn monotonic_ns() -> u64 {
    // SAFETY: No preconditions.
    unsafe { bindings::ktime_get() as u64 }
}

/// Seconds of the wall clock since 1970.
pub fn real_seconds() -> i64 {
    // SAFETY: No preconditions.
    unsafe { bindings::ktime_get_real_seconds() }
}

/// A random number for generation fields and spreading, not for keys.
pub fn random_u32() -> u32 {
    // SAFETY: No preconditions.
    unsafe { bindings::get_random_u32() }
}

/// Name of the instruction set asked for at module load: `simd=NAME`.
pub fn simd_parameter() -> &'static [u8] {
    // SAFETY: The parameter is a NUL-terminated string that the kernel owns for as long as
    // the module is loaded, and it is read-only after load.
    let name = unsafe { kernel::str::CStr::from_char_ptr(bindings::vexfs_simd_parameter()) };
    name.to_bytes()
}

/// Microseconds of work in one FPU section, asked for at module load: `section_us=N`.
pub fn section_parameter() -> u32 {
    // SAFETY: Reads a variable that is read-only after load.
    unsafe { bindings::vexfs_section_parameter() }
}
