// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! One body of code, compiled once per instruction set.
//!
//! Loops whose order of operations is fixed by the source give the same bits on every instruction
//! set, and the compiler vectorises them well; they need no intrinsics and no second version. `per_isa!`
//! wraps such a body in functions that enable the features of each set, and selects one of them.

/// `pub unsafe fn name(isa, args) -> ret = body;`: calls `body(args)`, an `#[inline(always)]`
/// function, compiled for `isa`.
macro_rules! per_isa {
    ($(
        $(#[$doc:meta])*
        pub unsafe fn $name:ident($isa:ident, $($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $body:ident;
    )*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The processor has `isa` and vector registers may be used; otherwise as the body.
        pub unsafe fn $name($isa: $crate::abi::Isa, $($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,popcnt")]
            unsafe fn avx2($($arg: $ty),*) -> $ret {
                // SAFETY: as promised by the caller.
                unsafe { $body($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
            unsafe fn avx512($($arg: $ty),*) -> $ret {
                // SAFETY: as promised by the caller.
                unsafe { $body($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
            )]
            unsafe fn avx512vnni($($arg: $ty),*) -> $ret {
                // SAFETY: as promised by the caller.
                unsafe { $body($($arg),*) }
            }
            // SAFETY: as promised by the caller, who has `isa`.
            unsafe {
                match $isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::abi::Isa::Avx512Vnni | $crate::abi::Isa::Avx512Bf16 => {
                        avx512vnni($($arg),*)
                    }
                    #[cfg(target_arch = "x86_64")]
                    $crate::abi::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::abi::Isa::Avx2 => avx2($($arg),*),
                    // The baseline: portable code on x86, Advanced SIMD on arm64.
                    _ => $body($($arg),*),
                }
            }
        }
    )*};
}
pub(crate) use per_isa;
