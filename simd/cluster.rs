// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Steps of k-means, the structured random rotation, and sign bits. All but `assign` give the same
//! bits on every instruction set.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use crate::abi::{Distance, Elem, Isa, Metric};
use crate::distance::{score_many, F32Kind, Strided};
use crate::isa::per_isa;

/// Centroids met at once; the distances of `ROWS` rows to them fit the stack.
const BLOCK: usize = 48;

/// Rows that share each load of a centroid.
const ROWS: usize = 8;

per_isa! {
    /// Adds each of `n` rows of `dim` f32 to the f64 sums of its cluster, and 1 to its count.
    pub unsafe fn accumulate(
        isa, rows: *const u8, stride: usize, n: usize, dim: usize,
        ids: *const u32, sums: *mut u64, counts: *mut u64,
    ) -> () = accumulate_body;

    /// Divides `k` sums by their counts; a centroid without rows stays as it is. Returns how many have
    /// none.
    pub unsafe fn centroids(
        isa, sums: *const u64, counts: *const u64, k: usize, dim: usize, out: *mut u8,
    ) -> usize = centroids_body;

    /// What `n` second lists of a row cost.
    pub unsafe fn spill(isa, first: u32, keys: *const u32, costs: *mut u32, n: usize) -> () = spill_body;

    /// As [`rotate`], with what every processor has.
    pub unsafe fn rotate_portably(isa, seed: u64, p: *mut u8, dim: usize) -> () = rotate_portable_body;

    /// Writes one bit per element: whether it is greater than zero.
    pub unsafe fn sign_bits(isa, src: *const u8, dim: usize, dst: *mut u8) -> () = sign_bits_body;
}

/// The nearest of `k` dense centroids for each of `n` rows; of equal ones the first.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, rows and centroids are readable, `ids` and
/// `keys` writable for `n` elements. `k` is not 0.
unsafe fn assign(
    isa: Isa,
    rows: *const u8,
    stride: usize,
    n: usize,
    dim: usize,
    centroids: *const u8,
    k: usize,
    ids: *mut u32,
    keys: *mut u32,
) {
    let len_bytes = Elem::F32.row_bytes(dim);
    let mut tile = [0u32; ROWS * BLOCK];
    let mut at = 0;
    while at < n {
        let group = if n - at < ROWS { n - at } else { ROWS };
        // SAFETY: the rows and each block of centroids are within what the caller promises, and so
        // are the results; `tile` has room for a group of rows and a block.
        unsafe {
            let queries = Strided {
                base: rows.add(at * stride),
                stride,
            };
            let mut first = 0;
            while first < k {
                let count = if k - first < BLOCK { k - first } else { BLOCK };
                let part = Strided {
                    base: centroids.add(first * len_bytes),
                    stride: len_bytes,
                };
                let (kind, found) = (F32Kind(Metric::L2Sq), tile.as_mut_ptr());
                score_many(isa, kind, queries, group, part, dim, found, count);
                for i in 0..group {
                    let (id, key) = (ids.add(at + i), keys.add(at + i));
                    let (mut nearest, mut least) = if first == 0 {
                        (0, *found.add(i * count))
                    } else {
                        (*id, *key)
                    };
                    for c in 0..count {
                        let key = *found.add(i * count + c);
                        if key < least {
                            least = key;
                            nearest = (first + c) as u32;
                        }
                    }
                    *id = nearest;
                    *key = least;
                }
                first += count;
            }
        }
        at += group;
    }
}

#[inline(always)]
unsafe fn load(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller keeps `i` within the vector; the read allows any alignment.
    unsafe { p.cast::<f32>().add(i).read_unaligned() }
}

#[inline(always)]
unsafe fn store(p: *mut u8, i: usize, v: f32) {
    // SAFETY: the caller keeps `i` within the vector; the write allows any alignment.
    unsafe { p.cast::<f32>().add(i).write_unaligned(v) }
}

/// # Safety
///
/// The rows are readable, every id is below the number of clusters that `sums` and `counts` have room
/// for, and these two overlap nothing.
#[inline(always)]
unsafe fn accumulate_body(
    rows: *const u8,
    stride: usize,
    n: usize,
    dim: usize,
    ids: *const u32,
    sums: *mut u64,
    counts: *mut u64,
) {
    for i in 0..n {
        // SAFETY: as promised by the caller.
        unsafe {
            let row = rows.add(i * stride);
            let id = *ids.add(i) as usize;
            let sum = sums.add(id * dim).cast::<f64>();
            for d in 0..dim {
                *sum.add(d) += load(row, d) as f64;
            }
            *counts.add(id) += 1;
        }
    }
}

/// # Safety
///
/// `sums` and `out` hold `k * dim` elements, `counts` holds `k`.
#[inline(always)]
unsafe fn centroids_body(
    sums: *const u64,
    counts: *const u64,
    k: usize,
    dim: usize,
    out: *mut u8,
) -> usize {
    let mut empty = 0;
    for c in 0..k {
        // SAFETY: as promised by the caller.
        unsafe {
            let count = *counts.add(c);
            if count == 0 {
                empty += 1;
                continue;
            }
            let inverse = 1.0 / count as f64;
            for d in c * dim..(c + 1) * dim {
                store(out, d, (*sums.cast::<f64>().add(d) * inverse) as f32);
            }
        }
    }
    empty
}

/// How much more a residual costs the part of it that is along the first one: 1.5, as SOAR has it for recalls of
/// 0.9 and more.
const LAMBDA: f32 = 1.5;

/// Replaces the squared distances `b` of centroids from that of a row's first list by the costs of second lists there,
/// `|s|^2 + LAMBDA <r,s>^2 / |r|^2`: `r` is the residual in the first list and `|r|^2` is `first`, `s` one in the
/// second and `|s|^2` is its key. By the law of cosines `2 <r,s> = |r|^2 + |s|^2 - b`.
///
/// # Safety
///
/// `n` keys are readable, and `n` costs readable and writable.
#[inline(always)]
unsafe fn spill_body(first: u32, keys: *const u32, costs: *mut u32, n: usize) {
    let value = |key| f32::from_bits(Distance(key).to_f32_bits());
    let r = value(first);
    for i in 0..n {
        // SAFETY: `i` is below `n`.
        unsafe {
            let (s, between) = (value(*keys.add(i)), value(*costs.add(i)));
            let inner = 0.5 * (r + s - between);
            // No more than `|s|^2`, whatever rounding made of it.
            let along = inner * inner / r;
            let along = if along < s { along } else { s };
            let cost = s + LAMBDA * if r > 0.0 { along } else { 0.0 };
            *costs.add(i) = Distance::from_f32_bits(cost.to_bits()).0;
        }
    }
}

/// Bits `64 * i..64 * i + 64` of the random signs of a round: SplitMix64.
#[inline(always)]
fn signs(seed: u64, round: usize, i: usize) -> u64 {
    let counter = (round as u64) << 32 | i as u64;
    let z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Elements that are in registers together.
const SMALL: usize = 16;

/// The elements from `i` on.
///
/// # Safety
///
/// [`SMALL`] f32 are readable from there.
#[inline(always)]
unsafe fn load_small(p: *const u8, i: usize) -> [f32; SMALL] {
    // SAFETY: as promised by the caller.
    unsafe { p.add(4 * i).cast::<[f32; SMALL]>().read_unaligned() }
}

/// # Safety
///
/// [`SMALL`] f32 are writable at `p` from the element `i` on.
#[inline(always)]
unsafe fn store_small(p: *mut u8, i: usize, v: [f32; SMALL]) {
    // SAFETY: as promised by the caller.
    unsafe { p.add(4 * i).cast::<[f32; SMALL]>().write_unaligned(v) };
}

/// Negates those elements whose bit is 1.
#[inline(always)]
fn flip_small(v: [f32; SMALL], bits: u64) -> [f32; SMALL] {
    let bits = bits as u32;
    core::array::from_fn(|i| f32::from_bits(v[i].to_bits() ^ (bits >> i << 31)))
}

/// The first four steps of a Walsh-Hadamard transform. Each new element is the sum of two old ones, one of
/// them perhaps negated, so that a step is a permutation and an addition.
#[inline(always)]
fn transform_small(mut v: [f32; SMALL]) -> [f32; SMALL] {
    let mut half = 1;
    while half < SMALL {
        let old = v;
        for i in 0..SMALL {
            let sign = if i & half == 0 { 0 } else { 1 << 31 };
            v[i] = old[i ^ half] + f32::from_bits(old[i].to_bits() ^ sign);
        }
        half *= 2;
    }
    v
}

/// Replaces the element `i` and the one at `j`, `n` times, by `scale` times their sum and difference.
///
/// # Safety
///
/// `n` f32 are readable and writable at `p` from the elements `i` and `j` on, and no element is both.
#[inline(always)]
unsafe fn mix(p: *mut u8, i: usize, j: usize, n: usize, scale: f32) {
    let mut k = 0;
    // SAFETY: every index is below `i + n` or `j + n`.
    unsafe {
        while k + SMALL <= n {
            let (a, b) = (load_small(p, i + k), load_small(p, j + k));
            store_small(p, i + k, core::array::from_fn(|e| (a[e] + b[e]) * scale));
            store_small(p, j + k, core::array::from_fn(|e| (a[e] - b[e]) * scale));
            k += SMALL;
        }
        while k < n {
            let (a, b) = (load(p, i + k), load(p, j + k));
            store(p, i + k, (a + b) * scale);
            store(p, j + k, (a - b) * scale);
            k += 1;
        }
    }
}

/// As [`flip_small`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn flip_small_avx512(v: [f32; SMALL], bits: u64) -> [f32; SMALL] {
    // SAFETY: vectors and arrays of as many numbers are the same bytes.
    unsafe {
        let v: __m512 = core::mem::transmute(v);
        core::mem::transmute(_mm512_mask_xor_ps(v, bits as u16, v, _mm512_set1_ps(-0.0)))
    }
}

/// As [`transform_small`], to the same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn transform_small_avx512(v: [f32; SMALL]) -> [f32; SMALL] {
    // SAFETY: vectors and arrays of as many numbers are the same bytes.
    let v: __m512 = unsafe { core::mem::transmute(v) };
    let minus = _mm512_set1_ps(-0.0);
    let v = _mm512_add_ps(
        _mm512_permute_ps::<0b10_11_00_01>(v),
        _mm512_mask_xor_ps(v, 0xaaaa, v, minus),
    );
    let v = _mm512_add_ps(
        _mm512_permute_ps::<0b01_00_11_10>(v),
        _mm512_mask_xor_ps(v, 0xcccc, v, minus),
    );
    let v = _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v),
        _mm512_mask_xor_ps(v, 0xf0f0, v, minus),
    );
    let v = _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v),
        _mm512_mask_xor_ps(v, 0xff00, v, minus),
    );
    // SAFETY: as above.
    unsafe { core::mem::transmute(v) }
}

/// Rotates the vector of `dim` f32 at `p` in place.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; `dim` f32 are readable and writable at `p`.
pub unsafe fn rotate(isa: Isa, seed: u64, p: *mut u8, dim: usize) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512(seed: u64, p: *mut u8, dim: usize) {
        // SAFETY: as promised by the caller.
        unsafe {
            rotate_body(
                seed,
                p,
                dim,
                |v, bits| flip_small_avx512(v, bits),
                |v| transform_small_avx512(v),
            )
        }
    }
    // SAFETY: as promised by the caller, who has `isa`.
    unsafe {
        match isa {
            // Of the portable transform the compiler makes shuffles of single elements.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => avx512(seed, p, dim),
            _ => rotate_portably(isa, seed, p, dim),
        }
    }
}

/// # Safety
///
/// As [`rotate_body`].
#[inline(always)]
unsafe fn rotate_portable_body(seed: u64, p: *mut u8, dim: usize) {
    // SAFETY: as promised by the caller.
    unsafe { rotate_body(seed, p, dim, flip_small, transform_small) }
}

/// An orthogonal map in O(d log d): rounds of random signs and a Walsh-Hadamard transform of the
/// largest power of two of elements, at the beginning and at the end in turn, with a mixing of both
/// halves where that is not all of them. Compare the FHT-Kac rotator of the RaBitQ library
/// (arXiv 2409.09913).
///
/// # Safety
///
/// `dim` f32 are readable and writable at `p`.
#[inline(always)]
unsafe fn rotate_body(
    seed: u64,
    p: *mut u8,
    dim: usize,
    flip_small: impl Fn([f32; SMALL], u64) -> [f32; SMALL],
    transform_small: impl Fn([f32; SMALL]) -> [f32; SMALL],
) {
    if dim == 0 {
        return;
    }
    let log = usize::BITS - 1 - dim.leading_zeros();
    let part = 1 << log;
    // The transform of 2^log elements has norm 2^(log/2); an odd power leaves a root of two.
    let exponent = 127 - (log >> 1);
    let scale = f32::from_bits(exponent << 23)
        * if log & 1 == 1 {
            core::f32::consts::FRAC_1_SQRT_2
        } else {
            1.0
        };
    for round in 0..4 {
        let first = if round & 1 == 0 { 0 } else { dim - part };
        // SAFETY: every index is below `dim`: the transform covers `part` elements from `first`.
        unsafe {
            let mut i = 0;
            while i + SMALL <= dim {
                let bits = signs(seed, round, i >> 6) >> (i & 63);
                store_small(p, i, flip_small(load_small(p, i), bits));
                i += SMALL;
            }
            let bits = signs(seed, round, i >> 6);
            while i < dim {
                let flip = ((bits >> (i & 63)) as u32) << 31;
                store(p, i, f32::from_bits(load(p, i).to_bits() ^ flip));
                i += 1;
            }
            let q = p.add(first * 4);
            let mut half = 1;
            if part >= SMALL {
                let mut block = 0;
                while block < part {
                    store_small(q, block, transform_small(load_small(q, block)));
                    block += SMALL;
                }
                half = SMALL;
            }
            while half < part {
                let mut block = 0;
                while block < part {
                    mix(q, block, block + half, half, 1.0);
                    block += 2 * half;
                }
                half *= 2;
            }
            for i in 0..part {
                store(q, i, load(q, i) * scale);
            }
            if part != dim {
                let half = dim >> 1;
                mix(p, 0, half, half, core::f32::consts::FRAC_1_SQRT_2);
            }
        }
    }
}

/// # Safety
///
/// `dim` f32 are readable at `src`, and `(dim + 7) / 8` bytes writable at `dst`.
#[inline(always)]
unsafe fn sign_bits_body(src: *const u8, dim: usize, dst: *mut u8) {
    let mut i = 0;
    // SAFETY: every index is below `dim`.
    unsafe {
        while i + 8 <= dim {
            let mut byte = 0;
            for k in 0..8 {
                byte |= ((load(src, i + k) > 0.0) as u8) << k;
            }
            *dst.add(i >> 3) = byte;
            i += 8;
        }
        if i < dim {
            let mut byte = 0;
            for k in 0..dim - i {
                byte |= ((load(src, i + k) > 0.0) as u8) << k;
            }
            *dst.add(i >> 3) = byte;
        }
    }
}

/// See [`assign`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`assign`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_assign(
    isa: u32,
    rows: *const u8,
    stride: usize,
    n: usize,
    dim: usize,
    centroids: *const u8,
    k: usize,
    ids: *mut u32,
    keys: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { assign(isa, rows, stride, n, dim, centroids, k, ids, keys) };
    0
}

/// See [`accumulate`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`accumulate`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_accumulate(
    isa: u32,
    rows: *const u8,
    stride: usize,
    n: usize,
    dim: usize,
    ids: *const u32,
    sums: *mut u64,
    counts: *mut u64,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { accumulate(isa, rows, stride, n, dim, ids, sums, counts) };
    0
}

/// See [`centroids`]. Returns the number of empty clusters, or `usize::MAX` for an unknown `isa`.
///
/// # Safety
///
/// As [`centroids`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_centroids(
    isa: u32,
    sums: *const u64,
    counts: *const u64,
    k: usize,
    dim: usize,
    out: *mut u8,
) -> usize {
    match Isa::from_u32(isa) {
        // SAFETY: as promised by the caller.
        Some(isa) => unsafe { centroids(isa, sums, counts, k, dim, out) },
        None => usize::MAX,
    }
}

/// See [`spill`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used; otherwise as [`spill_body`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_spill(
    isa: u32,
    first: u32,
    keys: *const u32,
    costs: *mut u32,
    n: usize,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { spill(isa, first, keys, costs, n) };
    0
}

/// See [`rotate`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`rotate`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_rotate(isa: u32, seed: u64, p: *mut u8, dim: usize) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { rotate(isa, seed, p, dim) };
    0
}

/// See [`sign_bits`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`sign_bits`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_sign_bits(
    isa: u32,
    src: *const u8,
    dim: usize,
    dst: *mut u8,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { sign_bits(isa, src, dim, dst) };
    0
}
