// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Codes of graph nodes: a vector in 8, 4 or 1 bits per element, an 8-bit query against them, and one code
//! against others.
//!
//! # The code
//!
//! A vector is reduced to x: less a centre, after normalisation if the metric is cosine, and rotated
//! at random so that its elements are alike. It is replaced by levels c of B bits, which stand for
//! v = c - (2^B - 1) / 2, at the step that makes the angle between v and x least among those tried, and by
//! a scale for which <q, scale * v> estimates <q, x> without bias: |x|^2 / <v, x>. This is the extended
//! RaBitQ code (Gao et al., arXiv 2409.09913), with B = 1 that of arXiv 2405.12497; for B = 8 it is
//! scalar quantisation with a scale per vector.
//!
//! Levels lie in groups of 64 bytes (of 8 bytes for one bit): with 8 bits in order; with 4 bits elements
//! 0..64 of 128 in the lower halves and 64..128 in the upper; with 1 bit the lowest first. Then come scale
//! and term as f32, and the sum of all levels. The elements that fill the last group have level 0.
//!
//! # The distance
//!
//! Of two reduced vectors a and b it is base + term(a) + term(b) - factor * <a, b>, where
//!
//! | metric | term(x) | base | factor |
//! |---|---|---|---|
//! | L2Sq | \|x\|^2 | 0 | 2 |
//! | Cosine | \|x\|^2 / 2 | 0 | 1 |
//! | InnerProduct | -<x, centre> | -\|centre\|^2 | 1 |
//!
//! The query's elements are rounded to 8 bits, so products are sums of small integers: all instruction
//! sets give the same bits.

use crate::abi::{Distance, Elem, Isa, Metric};
use crate::cluster;
use crate::isa::per_isa;
use crate::math::{bf16_to_f32, f16_to_f32, sqrt};

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
pub mod self_test;

/// Words before the elements of a query, so that these are aligned as the query is.
pub const HEADER_WORDS: usize = 16;

// The words of a query's header, as f32 unless it says otherwise.
/// base + term of the query.
const BASE: usize = 0;
/// Half of factor * the step of the query's elements.
const STEP: usize = 1;
/// The sum of the query's elements, an i32.
const SUM: usize = 2;
/// base.
const PAIR_BASE: usize = 3;
/// A fourth of factor.
const PAIR_FACTOR: usize = 4;
/// The term of the query as a node.
const TERM: usize = 5;

/// Elements of a query are filled up to a multiple of this.
const QUERY_ALIGN: usize = 128;

/// Bytes of the levels of a code.
#[inline(always)]
const fn level_bytes(bits: u32, dim: usize) -> usize {
    match bits {
        8 => dim.div_ceil(64) * 64,
        4 => dim.div_ceil(128) * 64,
        _ => dim.div_ceil(64) * 8,
    }
}

/// The code of a node, at any address.
#[derive(Clone, Copy)]
struct Code {
    levels: *const u8,
    tail: *const u8,
}

impl Code {
    #[inline(always)]
    unsafe fn at(node: *const u8, bits: u32, dim: usize) -> Code {
        Code {
            levels: node,
            // SAFETY: the caller promises a code, whose tail follows its levels.
            tail: unsafe { node.add(level_bytes(bits, dim)) },
        }
    }

    #[inline(always)]
    unsafe fn scale(self) -> f32 {
        // SAFETY: the tail has three words.
        unsafe { load(self.tail, 0) }
    }

    #[inline(always)]
    unsafe fn term(self) -> f32 {
        // SAFETY: the tail has three words.
        unsafe { load(self.tail, 1) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> u32 {
        // SAFETY: the tail has three words.
        unsafe { self.tail.cast::<u32>().add(2).read_unaligned() }
    }
}

#[inline(always)]
unsafe fn load(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within what is readable; the read allows any alignment.
    unsafe { p.cast::<f32>().add(i).read_unaligned() }
}

#[inline(always)]
fn key(distance: f32) -> u32 {
    if distance.is_nan() {
        Distance::NAN.0
    } else {
        Distance::from_f32_bits((distance + 0.0).to_bits()).0
    }
}

/// The key of the distance to a code, given the sum of products of levels and query elements.
#[inline(always)]
unsafe fn finish(query: *const u8, code: Code, bits: u32, dot: i32) -> u32 {
    // SAFETY: the query has a header, the code a tail.
    unsafe {
        let (base, step) = (load(query, BASE), load(query, STEP));
        let sum = query.cast::<i32>().add(SUM).read_unaligned();
        let twice = 2 * dot - ((1 << bits) - 1) * sum;
        key((base + code.term()) - (code.scale() * step) * twice as f32)
    }
}

/// The key of the distance between two codes, given the sum of products of levels.
#[inline(always)]
unsafe fn finish_pair(query: *const u8, a: Code, b: Code, bits: u32, dim: usize, dot: i32) -> u32 {
    // SAFETY: the query has a header, codes have tails.
    unsafe {
        let (base, factor) = (load(query, PAIR_BASE), load(query, PAIR_FACTOR));
        let most = (1u32 << bits) - 1;
        let levels = a.sum().wrapping_add(b.sum());
        let four = (4 * dot as u32)
            .wrapping_sub(levels.wrapping_mul(2 * most))
            .wrapping_add(dim as u32 * most * most) as i32;
        let product = (a.scale() * b.scale()) * factor;
        key((base + (a.term() + b.term())) - product * four as f32)
    }
}

per_isa! {
    /// Reduces a row of `dim` elements to f32 at `vector`, all but the rotation, and writes the header of
    /// its query. `centre` is `dim` f32, or null for none.
    pub unsafe fn reduce(
        isa, elem: Elem, metric: Metric, row: *const u8, centre: *const u8, dim: usize,
        vector: *mut u8, query: *mut u8,
    ) -> () = reduce_body;

    /// Writes the elements of the query for the reduced and rotated `vector`.
    pub unsafe fn quantise_query(isa, vector: *const u8, dim: usize, query: *mut u8) -> () =
        quantise_query_body;

    /// Writes the code of the reduced and rotated `vector` in `bits` bits; `query` has its header.
    pub unsafe fn encode(
        isa, bits: u32, vector: *const u8, dim: usize, query: *const u8, code: *mut u8,
    ) -> () = encode_body;
}

/// Sums in independent lanes vectorise without changing a result.
const LANES: usize = 16;

#[inline(always)]
fn total(lanes: &[f32; LANES]) -> f32 {
    let mut sum = 0f64;
    for x in lanes {
        sum += *x as f64;
    }
    sum as f32
}

#[inline(always)]
unsafe fn element(elem: Elem, row: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the row; the reads allow any alignment.
    unsafe {
        match elem {
            Elem::F32 => load(row, i),
            Elem::F16 => f16_to_f32(row.cast::<u16>().add(i).read_unaligned()),
            Elem::Bf16 => bf16_to_f32(row.cast::<u16>().add(i).read_unaligned()),
            Elem::I8 => *row.cast::<i8>().add(i) as f32,
            Elem::U8 => *row.add(i) as f32,
            Elem::Binary => (*row.add(i >> 3) >> (i & 7) & 1) as f32,
        }
    }
}

/// # Safety
///
/// `row` is readable for `dim` elements, `centre` for as many f32 if it is not null; `vector` is writable
/// for as many, `query` for a header.
#[inline(always)]
unsafe fn reduce_body(
    elem: Elem,
    metric: Metric,
    row: *const u8,
    centre: *const u8,
    dim: usize,
    vector: *mut u8,
    query: *mut u8,
) {
    let out = vector.cast::<f32>();
    let (mut norm_sq, mut along, mut centre_sq) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    // SAFETY: every index is below `dim` or within the header; lanes are below `LANES`.
    unsafe {
        let mut inverse = 1.0f32;
        if matches!(metric, Metric::Cosine) {
            let mut sum = 0f64;
            for i in 0..dim {
                let x = element(elem, row, i) as f64;
                sum += x * x;
            }
            inverse = if sum > 0.0 {
                (1.0 / sqrt(sum)) as f32
            } else {
                0.0
            };
        }
        for i in 0..dim {
            out.add(i).write_unaligned(element(elem, row, i) * inverse);
        }
        let mut i = 0;
        while i < dim {
            let left = if dim - i < LANES { dim - i } else { LANES };
            for k in 0..left {
                let c = if centre.is_null() {
                    0.0
                } else {
                    load(centre, i + k)
                };
                let x = load(vector, i + k) - c;
                out.add(i + k).write_unaligned(x);
                norm_sq[k] += x * x;
                along[k] += x * c;
                centre_sq[k] += c * c;
            }
            i += LANES;
        }
        let (norm_sq, along, centre_sq) = (total(&norm_sq), total(&along), total(&centre_sq));
        let (term, base, factor) = match metric {
            Metric::InnerProduct => (0.0 - along, 0.0 - centre_sq, 1.0f32),
            Metric::Cosine => (norm_sq * 0.5, 0.0, 1.0),
            _ => (norm_sq, 0.0, 2.0),
        };
        let header = query.cast::<f32>();
        for i in 0..HEADER_WORDS {
            header.add(i).write_unaligned(0.0);
        }
        header.add(BASE).write_unaligned(base + term);
        header.add(STEP).write_unaligned(factor * 0.5);
        header.add(PAIR_BASE).write_unaligned(base);
        header.add(PAIR_FACTOR).write_unaligned(factor * 0.25);
        header.add(TERM).write_unaligned(term);
    }
}

/// # Safety
///
/// `vector` is readable for `dim` f32; `query` has a header of [`reduce`] and is writable for its elements.
#[inline(always)]
unsafe fn quantise_query_body(vector: *const u8, dim: usize, query: *mut u8) {
    // SAFETY: every index is below `dim`, or `dim` filled up to a multiple of `QUERY_ALIGN`.
    unsafe {
        let mut most = [0f32; LANES];
        let mut i = 0;
        while i < dim {
            let left = if dim - i < LANES { dim - i } else { LANES };
            for k in 0..left {
                let x = load(vector, i + k).abs();
                most[k] = if x > most[k] { x } else { most[k] };
            }
            i += LANES;
        }
        let mut max = 0f32;
        for x in most {
            max = if x > max { x } else { max };
        }
        let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
        let elements = query.add(4 * HEADER_WORDS);
        let mut sum = 0i32;
        for i in 0..dim {
            // Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits.
            let level = ((load(vector, i) * inverse + 12_582_912.0).to_bits() & 0xff) as u8;
            *elements.add(i) = level;
            sum += level as i8 as i32;
        }
        for i in dim..dim.div_ceil(QUERY_ALIGN) * QUERY_ALIGN {
            *elements.add(i) = 0;
        }
        let header = query.cast::<f32>();
        let half_factor = header.add(STEP).read_unaligned();
        header
            .add(STEP)
            .write_unaligned(half_factor * (max / 127.0));
        query.cast::<i32>().add(SUM).write_unaligned(sum);
    }
}

/// # Safety
///
/// `vector` is readable for `dim` f32, `query` for a header; `code` is writable for a code.
#[inline(always)]
unsafe fn encode_body(bits: u32, vector: *const u8, dim: usize, query: *const u8, code: *mut u8) {
    let most = ((1u32 << bits) - 1) as f32;
    let middle = most * 0.5;
    // The level of x, as a number. A NaN, which only a row with NaN or infinity causes, becomes 0.
    let level = |x: f32, inverse: f32| {
        let y = x * inverse + middle;
        let y = if y < most { y } else { most };
        let y = if y > 0.0 { y } else { 0.0 };
        (y + 12_582_912.0) - 12_582_912.0
    };
    // SAFETY: every index is below `dim` or within a code.
    unsafe {
        let (mut norm_sq, mut max) = ([0f32; LANES], [0f32; LANES]);
        let mut i = 0;
        while i < dim {
            let left = if dim - i < LANES { dim - i } else { LANES };
            for k in 0..left {
                let x = load(vector, i + k);
                norm_sq[k] += x * x;
                max[k] = if x.abs() > max[k] { x.abs() } else { max[k] };
            }
            i += LANES;
        }
        let norm_sq = total(&norm_sq);
        let mut greatest = 0f32;
        for x in max {
            greatest = if x > greatest { x } else { greatest };
        }
        // Steps to try, in standard deviations: around that which is best for 16 levels of normally
        // distributed elements, and the one that leaves nothing out.
        let deviation = sqrt(norm_sq as f64 / dim as f64) as f32;
        let tries = if bits == 4 { 10 } else { 1 };
        let (mut best, mut inverse, mut along) = (-1f32, 0f32, 0f32);
        for t in 0..tries {
            let step = match (bits, t) {
                (1, _) => f32::MIN_POSITIVE,
                (4, 1..) => deviation * (0.24 + 0.02 * t as f32),
                _ => greatest / middle,
            };
            let i = if step > 0.0 { 1.0 / step } else { 0.0 };
            let (xv, vv) = products(vector, dim, |x| level(x, i) - middle);
            let quality = xv * xv / vv;
            if quality > best {
                (best, inverse, along) = (quality, i, xv);
            }
        }
        let mut sum = 0u32;
        let bytes = level_bytes(bits, dim);
        for i in 0..bytes {
            *code.add(i) = 0;
        }
        for i in 0..dim {
            let c = level(load(vector, i), inverse) as u32;
            sum += c;
            match bits {
                8 => *code.add(i) = c as u8,
                4 => *code.add(i / 128 * 64 + i % 64) |= (c << (i / 64 % 2 * 4)) as u8,
                _ => *code.add(i / 8) |= (c << (i % 8)) as u8,
            }
        }
        let scale = if along > 0.0 { norm_sq / along } else { 0.0 };
        let tail = code.add(bytes).cast::<u32>();
        tail.write_unaligned(scale.to_bits());
        tail.add(1).write_unaligned(load(query, TERM).to_bits());
        tail.add(2).write_unaligned(sum);
    }
}

/// The products of x and v(x), and of v(x) and itself.
#[inline(always)]
unsafe fn products(vector: *const u8, dim: usize, v: impl Fn(f32) -> f32) -> (f32, f32) {
    let (mut xv, mut vv) = ([0f32; LANES], [0f32; LANES]);
    let mut i = 0;
    while i < dim {
        let left = if dim - i < LANES { dim - i } else { LANES };
        for k in 0..left {
            // SAFETY: the index is below `dim`.
            let x = unsafe { load(vector, i + k) };
            let v = v(x);
            xv[k] += x * v;
            vv[k] += v * v;
        }
        i += LANES;
    }
    (total(&xv), total(&vv))
}

/// Writes the keys of the distances from `query` to `n` codes.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; `query` is a query and each of `nodes` a code
/// of `dim` elements; `out` is writable for `n` elements.
pub unsafe fn score(
    isa: Isa,
    bits: u32,
    query: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => {
                avx512::vnni::score(bits, query, nodes, dim, out, n)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::plain::score(bits, query, nodes, dim, out, n),
            _ => scalar::score(isa, bits, query, nodes, dim, out, n),
        }
    }
}

/// Writes the keys of the distances from the code `from` to `n` codes; `query` is any of the same metric and
/// centre.
///
/// # Safety
///
/// As [`score`]; `from` is a code, too.
pub unsafe fn between(
    isa: Isa,
    bits: u32,
    query: *const u8,
    from: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Bf16 => {
                avx512::vnni::between(bits, query, from, nodes, dim, out, n)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::plain::between(bits, query, from, nodes, dim, out, n),
            _ => scalar::between(isa, bits, query, from, nodes, dim, out, n),
        }
    }
}

/// See [`reduce`] and [`quantise_query`]; rotates in between. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As there.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_graph_prepare(
    isa: u32,
    elem: u32,
    metric: u32,
    row: *const u8,
    centre: *const u8,
    seed: u64,
    dim: usize,
    vector: *mut u8,
    query: *mut u8,
) -> u32 {
    let (Some(isa), Some(elem), Some(metric)) = (
        Isa::from_u32(isa),
        Elem::from_u32(elem),
        Metric::from_u32(metric),
    ) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe {
        reduce(isa, elem, metric, row, centre, dim, vector, query);
        cluster::rotate(isa, seed, vector, dim);
        quantise_query(isa, vector, dim, query);
    }
    0
}

/// See [`encode`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As there.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_graph_encode(
    isa: u32,
    bits: u32,
    vector: *const u8,
    dim: usize,
    query: *const u8,
    code: *mut u8,
) -> u32 {
    let (Some(isa), 1 | 4 | 8) = (Isa::from_u32(isa), bits) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { encode(isa, bits, vector, dim, query, code) };
    0
}

/// See [`score`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As there.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_graph_score(
    isa: u32,
    bits: u32,
    query: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    let (Some(isa), 1 | 4 | 8) = (Isa::from_u32(isa), bits) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { score(isa, bits, query, nodes, dim, out, n) };
    0
}

/// See [`between`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As there.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_graph_between(
    isa: u32,
    bits: u32,
    query: *const u8,
    from: *const u8,
    nodes: *const *const u8,
    dim: usize,
    out: *mut u32,
    n: usize,
) -> u32 {
    let (Some(isa), 1 | 4 | 8) = (Isa::from_u32(isa), bits) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { between(isa, bits, query, from, nodes, dim, out, n) };
    0
}
