// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Finds the first float element that is NaN or infinite: its exponent bits are all ones.

use crate::abi::Elem;
use crate::isa::per_isa;

per_isa! {
    /// The index of the first of `n` elements that is not finite, or `usize::MAX`.
    pub unsafe fn first_non_finite(isa, elem: Elem, p: *const u8, n: usize) -> usize = scan;
}

/// # Safety
///
/// `n` elements are readable at `p`, at any alignment.
#[inline(always)]
unsafe fn scan(elem: Elem, p: *const u8, n: usize) -> usize {
    // SAFETY: `blocks` asks for indices below `n` only.
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
