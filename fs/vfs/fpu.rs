// SPDX-License-Identifier: GPL-2.0

//! Sections in which the kernel may use vector registers.
//!
//! C headers: `asm/fpu/api.h`, `linux/fpu.h`.

use crate::bindings;
use vexfs_simd_ffi::FpuToken;

/// Runs `f` with vector registers usable.
///
/// `f` must not sleep, fault or take long (tens of microseconds): preemption is off. The
/// token it gets is proof of the section and cannot leave it. Sections do not nest; the
/// token's lifetime keeps `f` from storing it, and nothing in `simd/` calls back here.
pub fn section<R>(f: impl for<'a> FnOnce(&FpuToken<'a>) -> R) -> R {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            // SAFETY: Pairs with the begin below, in the same task and context.
            unsafe { bindings::vexfs_fpu_end() }
        }
    }

    // SAFETY: This crate opens sections only here, in process context, and `f` runs to its
    // end before the section closes, so sections do not nest.
    unsafe { bindings::vexfs_fpu_begin() };
    let _end = End;
    // SAFETY: The section just opened lasts until `_end` is dropped, and the token's
    // lifetime is bound to this call.
    let token = unsafe { FpuToken::new_unchecked() };
    f(&token)
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
