// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Finds the first float element that is NaN or infinite: its exponent bits are all ones.
//!
//! One body serves every instruction set: the test is a reduction over integers, which the
//! compiler turns into vector code for whatever features the wrapper enables.

use crate::abi::{Elem, Isa};

/// The index of the first of `n` elements that is not finite, or `usize::MAX`.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, and `n` elements are readable at `p`,
/// at any alignment.
pub unsafe fn first_non_finite(isa: Isa, elem: Elem, p: *const u8, n: usize) -> usize {
    // SAFETY: the caller's promises are those of each variant.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(elem, p, n),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(elem, p, n),
            _ => scan(elem, p, n),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(elem: Elem, p: *const u8, n: usize) -> usize {
    // SAFETY: as promised by the caller.
    unsafe { scan(elem, p, n) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(elem: Elem, p: *const u8, n: usize) -> usize {
    // SAFETY: as promised by the caller.
    unsafe { scan(elem, p, n) }
}

#[inline(always)]
unsafe fn scan(elem: Elem, p: *const u8, n: usize) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        match elem {
            Elem::F32 => blocks(n, |i| {
                p.cast::<u32>().add(i).read_unaligned() & 0x7f80_0000 == 0x7f80_0000
            }),
            Elem::F16 => blocks(n, |i| {
                p.cast::<u16>().add(i).read_unaligned() & 0x7c00 == 0x7c00
            }),
            Elem::Bf16 => blocks(n, |i| {
                p.cast::<u16>().add(i).read_unaligned() & 0x7f80 == 0x7f80
            }),
            Elem::I8 | Elem::U8 | Elem::Binary => usize::MAX,
        }
    }
}

/// The first of `n` indices that `hit` holds for. Whole blocks are tested without a branch per
/// element.
#[inline(always)]
fn blocks(n: usize, hit: impl Fn(usize) -> bool) -> usize {
    const BLOCK: usize = 128;
    let mut i = 0;
    while n - i >= BLOCK {
        let mut any = false;
        for k in 0..BLOCK {
            any |= hit(i + k);
        }
        if any {
            break;
        }
        i += BLOCK;
    }
    while i < n {
        if hit(i) {
            return i;
        }
        i += 1;
    }
    usize::MAX
}
