// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! From lane sums to keys with AVX-512.

use core::arch::x86_64::*;

use super::{scalar, BLOCK_ROWS, COSINE, INNER_PRODUCT, L2SQ, TILE};

/// Writes the keys of the first `count` rows of a block from the lane sums of their terms and squares; of sums
/// that are out of range, from another look at the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn store_keys<const E: u32, const M: u32>(
    a: &[__m512; BLOCK_ROWS],
    b: &[__m512; BLOCK_ROWS],
    qq: f32,
    query: *const u8,
    row: impl Fn(usize) -> *const u8,
    dim: usize,
    out: *mut u32,
    count: usize,
) {
    let rr = if M == COSINE { sum16(b) } else { a[0] };
    let (keys, good) = float_keys::<M>(sum16(a), rr, qq);
    let wanted = (0xffff_u32 >> (BLOCK_ROWS - count)) as __mmask16;
    // SAFETY: the caller has room for `count` keys; masked ones are not written.
    unsafe {
        _mm512_mask_storeu_epi32(out.cast(), wanted, keys);
        let mut bad = wanted & !good;
        while bad != 0 {
            let k = bad.trailing_zeros() as usize;
            *out.add(k) = scalar::float_key::<E, M>(query, row(k), dim);
            bad &= bad - 1;
        }
    }
}

/// Sixteen keys from pairs of sums, and a bit for each that says whether the sums were in range.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn float_keys<const M: u32>(a: __m512, rr: __m512, qq: f32) -> (__m512i, __mmask16) {
    let zero = _mm512_setzero_ps();
    // Not a number and infinity fail the comparison.
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let mut good = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(a), infinity);
    let distance = match M {
        L2SQ => a,
        INNER_PRODUCT => _mm512_sub_ps(zero, a),
        _ => {
            // Squares this far from the ends of the range have lost nothing to overflow or
            // underflow, and neither does their product's root.
            let (low, high) = (_mm512_set1_ps(1e-24), _mm512_set1_ps(1e30));
            let qq = _mm512_set1_ps(qq);
            let inside = |v| {
                _mm512_cmp_ps_mask::<_CMP_GE_OQ>(v, low) & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(v, high)
            };
            good &= inside(rr) & inside(qq);
            let norms = _mm512_mul_ps(_mm512_sqrt_ps(rr), _mm512_sqrt_ps(qq));
            let d = _mm512_sub_ps(_mm512_set1_ps(1.0), _mm512_div_ps(a, norms));
            _mm512_min_ps(_mm512_max_ps(d, zero), _mm512_set1_ps(2.0))
        }
    };
    // Order-preserving image: negative numbers are complemented, others get the sign bit.
    let bits = _mm512_castps_si512(distance);
    let flip = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
    (_mm512_xor_si512(bits, flip), good)
}

/// The sums of the lanes of each of sixteen vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum16(v: &[__m512; BLOCK_ROWS]) -> __m512 {
    // A transposition with the additions between its steps: fewer shuffles than horizontal additions are made
    // of.
    let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let four = |a, b, c, d| {
        let (low, high) = (_mm512_castps_pd(pair(a, b)), _mm512_castps_pd(pair(c, d)));
        _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)),
        )
    };
    let eight = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        )
    };
    let low = eight(four(v[0], v[1], v[2], v[3]), four(v[4], v[5], v[6], v[7]));
    let high = eight(
        four(v[8], v[9], v[10], v[11]),
        four(v[12], v[13], v[14], v[15]),
    );
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b10_00_10_00>(low, high),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high),
    )
}

/// The sums of the lanes of four vectors, modulo 2^32.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn sum4(v: [__m512i; TILE]) -> __m128i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (pair(v[0], v[1]), pair(v[2], v[3]));
    sum_quarters(_mm512_add_epi32(
        _mm512_unpacklo_epi64(low, high),
        _mm512_unpackhi_epi64(low, high),
    ))
}

/// The sum of the four quarters of a vector.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn sum_quarters(v: __m512i) -> __m128i {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}

/// The nearest floats to four unsigned integers.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
fn unsigned_to_float(v: __m128i) -> __m128 {
    // There is no intrinsic for less than a whole register.
    _mm512_castps512_ps128(_mm512_cvtepu32_ps(_mm512_zextsi128_si512(v)))
}

/// Keys of distances that are unsigned integers.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn keys_of_counts(v: __m128i) -> __m128i {
    let bits = _mm_castps_si128(unsigned_to_float(v));
    _mm_xor_si128(bits, _mm_set1_epi32(i32::MIN))
}

/// Keys of the negatives of unsigned products.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn keys_of_products(v: __m128i) -> __m128i {
    ordered(_mm_sub_ps(_mm_setzero_ps(), unsigned_to_float(v)))
}

/// Keys of 1 - `qr` / sqrt(`qq` `rr`), in the operations of the portable code; `root` is that of `qq`.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn keys_of_cosines(qr: __m256d, rr: __m128i, qq: u32, root: f64) -> __m128i {
    let one = _mm256_set1_pd(1.0);
    let rr = _mm256_cvtepu32_pd(rr);
    let norms = _mm256_mul_pd(_mm256_set1_pd(root), _mm256_sqrt_pd(rr));
    let distance = _mm256_sub_pd(one, _mm256_div_pd(qr, norms));
    let distance = _mm256_max_pd(distance, _mm256_setzero_pd());
    let distance = _mm256_min_pd(distance, _mm256_set1_pd(2.0));
    let zero = if qq == 0 {
        0xf
    } else {
        _mm256_cmp_pd_mask::<_CMP_EQ_OQ>(rr, _mm256_setzero_pd())
    };
    ordered(_mm256_cvtpd_ps(_mm256_mask_mov_pd(distance, zero, one)))
}

/// The order-preserving images of four floats.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) fn ordered(v: __m128) -> __m128i {
    // Negative numbers are complemented, others get the sign bit.
    let bits = _mm_castps_si128(v);
    let flip = _mm_or_si128(_mm_srai_epi32::<31>(bits), _mm_set1_epi32(i32::MIN));
    _mm_xor_si128(bits, flip)
}

/// Writes the first `count` keys, 1 to 4.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt"
)]
pub(super) unsafe fn store(out: *mut u32, keys: __m128i, count: usize) {
    // SAFETY: the caller has room for `count` keys, and masked ones are not written.
    unsafe { _mm_mask_storeu_epi32(out.cast(), 0xf >> (TILE - count), keys) }
}
