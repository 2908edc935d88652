// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Products of levels with AVX-512 F, BW, DQ and VL, and with VNNI on top.
//!
//! Both are one text: they differ in how four products of bytes are added to a sum.

use core::arch::x86_64::*;

use super::{finish_pair, scalar, Code, BASE, HEADER_WORDS, STEP, SUM};
use crate::abi::Isa;

/// Rows that share each load of the query.
const TILE: usize = 4;

/// `sum` plus four products of unsigned bytes `a` below 128 and signed bytes `b` each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn add_small(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // Two products of 127 * 128 fit 16 bits.
    let pairs = _mm512_maddubs_epi16(a, b);
    _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
}

/// `sum` plus four products of unsigned bytes `a` and signed bytes `b` each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn add_bytes(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let even = _mm512_madd_epi16(
        _mm512_and_si512(a, _mm512_set1_epi16(0xff)),
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)),
    );
    let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(a), _mm512_srai_epi16::<8>(b));
    _mm512_add_epi32(sum, _mm512_add_epi32(even, odd))
}

/// As [`add_bytes`], in one instruction.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn add_vnni(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // Miri does not know the instruction.
    #[cfg(miri)]
    return add_bytes(sum, a, b);
    #[cfg(not(miri))]
    _mm512_dpbusd_epi32(sum, a, b)
}

macro_rules! kernels {
    ($module:ident, $isa:expr, $features:literal, $add_small:ident, $add_bytes:ident) => {
        pub mod $module {
            use super::*;

            /// As [`super::super::score`].
            ///
            /// # Safety
            ///
            /// As [`super::super::score`].
            #[target_feature(enable = $features)]
            pub unsafe fn score(
                bits: u32,
                query: *const u8,
                nodes: *const *const u8,
                dim: usize,
                out: *mut u32,
                n: usize,
            ) {
                // SAFETY: the caller's promises are those of each variant.
                unsafe {
                    match bits {
                        8 => score_bits::<8>(query, nodes, dim, out, n),
                        4 => score_bits::<4>(query, nodes, dim, out, n),
                        _ => score_bits::<1>(query, nodes, dim, out, n),
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn score_bits<const B: u32>(
                query: *const u8,
                nodes: *const *const u8,
                dim: usize,
                out: *mut u32,
                n: usize,
            ) {
                let mut i = 0;
                // SAFETY: every index is below `n`, or within a code or a query.
                unsafe {
                    let elements = query.add(4 * HEADER_WORDS);
                    while i < n {
                        // The last tile repeats its last row.
                        let row = |k: usize| *nodes.add(if i + k < n { i + k } else { n - 1 });
                        let p = [row(0), row(1), row(2), row(3)];
                        let sums = query_sums::<B>(elements, p, dim);
                        let keys = finish4::<B>(query, p, dim, sums);
                        if n - i >= TILE {
                            _mm_storeu_si128(out.add(i).cast(), keys);
                        } else {
                            _mm_mask_storeu_epi32(
                                out.add(i).cast(),
                                ((1u32 << (n - i)) - 1) as __mmask8,
                                keys,
                            );
                        }
                        i += TILE;
                    }
                }
            }

            /// The sums of products of levels and elements of the query, of four codes.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn query_sums<const B: u32>(
                elements: *const u8,
                p: [*const u8; TILE],
                dim: usize,
            ) -> __m128i {
                let zero = _mm512_setzero_si512();
                let (mut a, mut b) = ([zero; TILE], [zero; TILE]);
                let low = _mm512_set1_epi8(15);
                let one = _mm512_set1_epi8(1);
                let mut first = 0;
                // SAFETY: codes and queries are filled up to the groups that are read.
                unsafe {
                    while first < dim {
                        let q = _mm512_loadu_si512(elements.add(first).cast());
                        match B {
                            8 => {
                                for k in 0..TILE {
                                    let c = _mm512_loadu_si512(p[k].add(first).cast());
                                    a[k] = $add_bytes(a[k], c, q);
                                }
                                first += 64;
                            }
                            4 => {
                                let q1 = _mm512_loadu_si512(elements.add(first + 64).cast());
                                for k in 0..TILE {
                                    let c = _mm512_loadu_si512(p[k].add(first >> 1).cast());
                                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(c), low);
                                    a[k] = $add_small(a[k], _mm512_and_si512(c, low), q);
                                    b[k] = $add_small(b[k], high, q1);
                                }
                                first += 128;
                            }
                            _ => {
                                for k in 0..TILE {
                                    let mask = p[k].add(first >> 3).cast::<u64>().read_unaligned();
                                    let some = _mm512_maskz_mov_epi8(mask, q);
                                    a[k] = $add_small(a[k], one, some);
                                }
                                first += 64;
                            }
                        }
                    }
                }
                for k in 0..TILE {
                    a[k] = _mm512_add_epi32(a[k], b[k]);
                }
                sum4(a)
            }

            /// As [`super::super::between`].
            ///
            /// # Safety
            ///
            /// As [`super::super::between`].
            #[target_feature(enable = $features)]
            pub unsafe fn between(
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
                    match bits {
                        8 => between_bits::<8>(query, from, nodes, dim, out, n),
                        4 => between_bits::<4>(query, from, nodes, dim, out, n),
                        _ => scalar::between($isa, bits, query, from, nodes, dim, out, n),
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn between_bits<const B: u32>(
                query: *const u8,
                from: *const u8,
                nodes: *const *const u8,
                dim: usize,
                out: *mut u32,
                n: usize,
            ) {
                let mut i = 0;
                // SAFETY: every index is below `n`, or within a code.
                unsafe {
                    let from = Code::at(from, B, dim);
                    while i < n {
                        let row = |k: usize| *nodes.add(if i + k < n { i + k } else { n - 1 });
                        let p = [row(0), row(1), row(2), row(3)];
                        let mut dots = [0i32; TILE];
                        let sums = pair_sums::<B>(from.levels, p, dim);
                        _mm_storeu_si128(dots.as_mut_ptr().cast(), sums);
                        for k in 0..TILE {
                            if i + k < n {
                                let code = Code::at(p[k], B, dim);
                                let mut dot = dots[k];
                                if B == 8 {
                                    // Levels of the second code are signed, less 128.
                                    dot = dot.wrapping_add((from.sum() << 7) as i32);
                                }
                                *out.add(i + k) = finish_pair(query, from, code, B, dim, dot);
                            }
                        }
                        i += TILE;
                    }
                }
            }

            /// The sums of products of levels of one and four codes, those of 8 bits less 128.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn pair_sums<const B: u32>(
                from: *const u8,
                p: [*const u8; TILE],
                dim: usize,
            ) -> __m128i {
                let zero = _mm512_setzero_si512();
                let (mut a, mut b) = ([zero; TILE], [zero; TILE]);
                let low = _mm512_set1_epi8(15);
                let sign = _mm512_set1_epi8(-128);
                let bytes = super::super::level_bytes(B, dim);
                let mut at = 0;
                // SAFETY: codes are filled up to 64 bytes.
                unsafe {
                    while at < bytes {
                        let f = _mm512_loadu_si512(from.add(at).cast());
                        let f_low = _mm512_and_si512(f, low);
                        let f_high = _mm512_and_si512(_mm512_srli_epi16::<4>(f), low);
                        for k in 0..TILE {
                            let c = _mm512_loadu_si512(p[k].add(at).cast());
                            if B == 8 {
                                a[k] = $add_bytes(a[k], f, _mm512_xor_si512(c, sign));
                            } else {
                                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(c), low);
                                a[k] = $add_small(a[k], f_low, _mm512_and_si512(c, low));
                                b[k] = $add_small(b[k], f_high, high);
                            }
                        }
                        at += 64;
                    }
                }
                for k in 0..TILE {
                    a[k] = _mm512_add_epi32(a[k], b[k]);
                }
                sum4(a)
            }
        }
    };
}

kernels!(
    plain,
    Isa::Avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt",
    add_small,
    add_bytes
);
kernels!(
    vnni,
    Isa::Avx512Vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt",
    add_vnni,
    add_vnni
);

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn sum4(v: [__m512i; TILE]) -> __m128i {
    let half = |v| _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    let [a, b, c, d] = v;
    let s = _mm256_hadd_epi32(
        _mm256_hadd_epi32(half(a), half(b)),
        _mm256_hadd_epi32(half(c), half(d)),
    );
    _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s))
}

/// As [`super::finish`], for four codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn finish4<const B: u32>(
    query: *const u8,
    p: [*const u8; TILE],
    dim: usize,
    dots: __m128i,
) -> __m128i {
    // SAFETY: the query has a header, codes have tails.
    unsafe {
        let header = query.cast::<f32>();
        let base = _mm_set1_ps(header.add(BASE).read_unaligned());
        let step = _mm_set1_ps(header.add(STEP).read_unaligned());
        let sum = query.cast::<i32>().add(SUM).read_unaligned();
        let tail = |k: usize| _mm_loadl_epi64(Code::at(p[k], B, dim).tail.cast());
        // Scale and term of four codes, then all scales and all terms.
        let ab = _mm_unpacklo_epi32(tail(0), tail(1));
        let cd = _mm_unpacklo_epi32(tail(2), tail(3));
        let scales = _mm_castsi128_ps(_mm_unpacklo_epi64(ab, cd));
        let terms = _mm_castsi128_ps(_mm_unpackhi_epi64(ab, cd));
        let twice = _mm_sub_epi32(
            _mm_add_epi32(dots, dots),
            _mm_set1_epi32(((1 << B) - 1) * sum),
        );
        let product = _mm_mul_ps(_mm_mul_ps(scales, step), _mm_cvtepi32_ps(twice));
        let distance = _mm_sub_ps(_mm_add_ps(base, terms), product);
        // Minus zero becomes zero.
        let distance = _mm_add_ps(distance, _mm_setzero_ps());
        let words = _mm_castps_si128(distance);
        let negative = _mm_srai_epi32::<31>(words);
        let keys = _mm_xor_si128(words, _mm_or_si128(negative, _mm_set1_epi32(i32::MIN)));
        let nan = _mm_castps_si128(_mm_cmpunord_ps(distance, distance));
        _mm_or_si128(keys, nan)
    }
}
