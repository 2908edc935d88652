// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Products of levels, in portable code compiled for each instruction set.

use super::{finish, finish_pair, Code, HEADER_WORDS};
use crate::isa::per_isa;

per_isa! {
    /// As [`super::score`].
    pub unsafe fn score(
        isa, bits: u32, query: *const u8, nodes: *const *const u8, dim: usize,
        out: *mut u32, n: usize,
    ) -> () = score_body;

    /// As [`super::between`].
    pub unsafe fn between(
        isa, bits: u32, query: *const u8, from: *const u8, nodes: *const *const u8, dim: usize,
        out: *mut u32, n: usize,
    ) -> () = between_body;
}

/// # Safety
///
/// As [`super::score`].
#[inline(always)]
unsafe fn score_body(
    bits: u32,
    query: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: every index is below `n`, or within a code or a query.
    unsafe {
        let elements = query.add(4 * HEADER_WORDS).cast::<i8>();
        for i in 0..n {
            let code = Code::at(*nodes.add(i), bits, dim);
            let dot = match bits {
                8 => products8(code.levels, elements, dim),
                4 => products4(code.levels, elements, dim),
                _ => products1(code.levels, elements, dim),
            };
            *out.add(i) = finish(query, code, bits, dot);
        }
    }
}

#[inline(always)]
unsafe fn products8(levels: *const u8, elements: *const i8, dim: usize) -> i32 {
    let mut sum = 0;
    for i in 0..dim {
        // SAFETY: the index is below `dim`.
        sum += unsafe { *levels.add(i) as i32 * *elements.add(i) as i32 };
    }
    sum
}

#[inline(always)]
unsafe fn products4(levels: *const u8, elements: *const i8, dim: usize) -> i32 {
    let mut sum = 0;
    let mut first = 0;
    while first < dim {
        for i in 0..64 {
            // SAFETY: code and query are filled up to 128 elements.
            unsafe {
                let both = *levels.add(first / 2 + i);
                sum += (both & 15) as i32 * *elements.add(first + i) as i32;
                sum += (both >> 4) as i32 * *elements.add(first + 64 + i) as i32;
            }
        }
        first += 128;
    }
    sum
}

#[inline(always)]
unsafe fn products1(levels: *const u8, elements: *const i8, dim: usize) -> i32 {
    let mut sum = 0;
    let mut first = 0;
    while first < dim {
        // SAFETY: code and query are filled up to 64 elements.
        unsafe {
            for k in 0..8 {
                let bits = *levels.add(first / 8 + k) as i32;
                for b in 0..8 {
                    sum += (bits >> b & 1) * *elements.add(first + 8 * k + b) as i32;
                }
            }
        }
        first += 64;
    }
    sum
}

/// # Safety
///
/// As [`super::between`].
#[inline(always)]
unsafe fn between_body(
    bits: u32,
    query: *const u8,
    from: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: every index is below `n`, or within a code.
    unsafe {
        let from = Code::at(from, bits, dim);
        for i in 0..n {
            let code = Code::at(*nodes.add(i), bits, dim);
            let (a, b) = (from.levels, code.levels);
            let dot = match bits {
                8 => pairs8(a, b, dim),
                4 => pairs4(a, b, dim),
                _ => pairs1(a, b, dim),
            };
            *out.add(i) = finish_pair(query, from, code, bits, dim, dot as i32);
        }
    }
}

#[inline(always)]
unsafe fn pairs8(a: *const u8, b: *const u8, dim: usize) -> u32 {
    let mut sum = 0;
    for i in 0..dim {
        // SAFETY: the index is below `dim`.
        sum += unsafe { *a.add(i) as u32 * *b.add(i) as u32 };
    }
    sum
}

#[inline(always)]
unsafe fn pairs4(a: *const u8, b: *const u8, dim: usize) -> u32 {
    let mut sum = 0;
    for i in 0..dim.div_ceil(128) * 64 {
        // SAFETY: codes are filled up to 128 elements.
        let (a, b) = unsafe { (*a.add(i) as u32, *b.add(i) as u32) };
        sum += (a & 15) * (b & 15) + (a >> 4) * (b >> 4);
    }
    sum
}

#[inline(always)]
unsafe fn pairs1(a: *const u8, b: *const u8, dim: usize) -> u32 {
    let mut sum = 0;
    for i in 0..dim.div_ceil(64) {
        let word = |p: *const u8| {
            // SAFETY: codes are filled up to 64 elements.
            unsafe { p.cast::<u64>().add(i).read_unaligned() }
        };
        sum += (word(a) & word(b)).count_ones();
    }
    sum
}
