// SPDX-License-Identifier: GPL-2.0

//! Sections in which the kernel may use vector registers.
//!
//! C headers: `asm/fpu/api.h`, `linux/fpu.h`.

//!
//! # What keeps sleeping code out
//!
//! Rust has no effect for "may sleep", so no type can forbid every such call. What types do:
//!
//! - A section is a closure's run: it has no guard that a later line, an early return or an
//!   `.await` could leave open, and nobody can leak it.
//! - The token cannot leave the closure, because its lifetime is the section's, and cannot
//!   reach another thread or a work item, because it is neither `Send` nor `Sync`.
//! - Rows are lent to the closure by what pins them. Pinning more pages, which may sleep,
//!   takes that value by `&mut` and does not compile inside.
//!
//! The rest is checked at run time:
//!
//! | | x86 | arm64 | User-Mode Linux |
//! |---|---|---|---|
//! | `might_sleep()` with DEBUG_ATOMIC_SLEEP | softirqs are off: reports | preemption is off: reports | the same where configured |
//! | sleeping in fact | `scheduling while atomic` on every kernel | the same if preemption is counted | not noticed |
//! | returning from sleep, here | `WARN_ONCE` at the section's end on every kernel | same | same |
//! | nesting, here | `WARN_ON_ONCE`, refused | same | same |

use crate::bindings;
use kernel::prelude::*;
use vexfs_simd_ffi::FpuToken;

/// Vector registers may not be used here: in an interrupt, or within another section.
///
/// There is no scalar way out: the portable code keeps its numbers in vector registers too. A caller that can run in such a context hands the work to
/// a workqueue. As an errno it is `EAGAIN`, upon which io_uring does that.
#[derive(Clone, Copy, Debug)]
pub struct Unusable;

impl From<Unusable> for Error {
    fn from(_: Unusable) -> Self {
        EAGAIN
    }
}

/// An open section; closes when dropped.
///
/// # Invariants
///
/// The current task is in process context and owns the vector registers of the processor it
/// runs on, from when the value is made until it is dropped.
struct Section {
    /// How often the task had been switched out when the section began.
    switched: usize,
}

impl Section {
    fn begin() -> core::result::Result<Self, Unusable> {
        let mut switched = 0;
        // SAFETY: Callable in any context; it says whether the section is open.
        if unsafe { bindings::vexfs_fpu_begin(&mut switched) } {
            // INVARIANT: It is. The value does not leave `section`, which drops it in the
            // same task.
            Ok(Section { switched })
        } else {
            Err(Unusable)
        }
    }

    /// Proof of the section, for as long as it is borrowed.
    fn token(&self) -> FpuToken<'_> {
        // SAFETY: By the invariant the registers are ours while `self` lives, and the token's
        // lifetime is that of the borrow.
        unsafe { FpuToken::new_unchecked() }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        // SAFETY: By the invariant the section is open, in this task and on this processor.
        unsafe { bindings::vexfs_fpu_end(self.switched) }
    }
}

/// Runs `f` with vector registers usable.
///
/// `f` must not sleep or fault, and is bounded: preemption is off meanwhile. The token it gets
/// is proof of the section and ends with it. Works in process context, of user tasks,
/// kworkers and io_uring's workers alike, with interrupts on or off.
///
/// # Errors
///
/// [`Unusable`] in interrupts and within another section; `f` has not run then. Code that is
/// only called in process context and opens no section inside another does not get it.
pub fn section<R>(f: impl FnOnce(&FpuToken<'_>) -> R) -> core::result::Result<R, Unusable> {
    let section = Section::begin()?;
    Ok(f(&section.token()))
}

/// Whether the processor has vector registers that the kernel may use.
pub fn exists() -> bool {
    // SAFETY: Reads the boot processor's features.
    unsafe { bindings::vexfs_fpu_exists() }
}

/// Whether the processor and the kernel support AVX2 and FMA.
pub fn has_avx2() -> bool {
    // SAFETY: Reads the boot processor's features.
    unsafe { bindings::vexfs_cpu_has_avx2() }
}

/// Whether the processor and the kernel support AVX-512 F, BW, VL and DQ.
pub fn has_avx512() -> bool {
    // SAFETY: Reads the boot processor's features.
    unsafe { bindings::vexfs_cpu_has_avx512() }
}

/// Whether the processor and the kernel support AVX-512 VNNI and VPOPCNTDQ.
pub fn has_avx512_vnni() -> bool {
    // SAFETY: Reads the boot processor's features.
    unsafe { bindings::vexfs_cpu_has_avx512_vnni() }
}

/// Whether the processor and the kernel support AVX-512 BF16.
pub fn has_avx512_bf16() -> bool {
    // SAFETY: Reads the boot processor's features.
    unsafe { bindings::vexfs_cpu_has_avx512_bf16() }
}

/// Whether all processors and the kernel support Advanced SIMD's DotProd, FP16 and FHM.
pub fn has_neon_dot() -> bool {
    // SAFETY: Reads the features common to all processors.
    unsafe { bindings::vexfs_cpu_has_neon_dot() }
}
