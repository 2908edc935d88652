// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! From lane sums to keys with AVX-512.

use core::arch::x86_64::*;

use super::{scalar, BLOCK_ROWS, INNER_PRODUCT, L2SQ, TILE};

/// Writes the keys of the first `count` rows of a block from the sums of their terms and squares; of sums that are
/// out of range, from another look at the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn store_keys<const E: u32, const M: u32>(
    (a, rr): (__m512, __m512),
    qq: f32,
    query: *const u8,
    row: impl Fn(usize) -> *const u8,
    dim: usize,
    out: *mut u32,
    count: usize,
) {
    let (keys, good) = float_keys::<M>(a, rr, qq);
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
    (ordered(distance), good)
}

/// The order-preserving images of sixteen floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn ordered(v: __m512) -> __m512i {
    // Negative numbers are complemented, others get the sign bit.
    let bits = _mm512_castps_si512(v);
    let flip = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
    _mm512_xor_si512(bits, flip)
}

/// Keys of distances that are unsigned integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn keys_of_counts(v: __m512i) -> __m512i {
    let bits = _mm512_castps_si512(_mm512_cvtepu32_ps(v));
    _mm512_xor_si512(bits, _mm512_set1_epi32(i32::MIN))
}

/// Keys of the negatives of unsigned products.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn keys_of_products(v: __m512i) -> __m512i {
    ordered(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_cvtepu32_ps(v)))
}

/// What cosines need of a query.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    /// The sum of the squares of its elements.
    square: u32,
    /// The root of that, and its inverse in two parts.
    root: f64,
    inverse: [f32; 2],
}

impl Norm {
    pub(super) const NONE: Norm = Norm {
        square: 0,
        root: 0.0,
        inverse: [0.0; 2],
    };

    #[inline]
    pub(super) fn new(square: u32) -> Norm {
        let root = crate::math::sqrt(square as f64);
        let inverse = 1.0 / root;
        let high = inverse as f32;
        Norm {
            square,
            root,
            inverse: [high, (inverse - high as f64) as f32],
        }
    }
}

/// Keys of 1 - `qr` / sqrt(`rr` times the query's square), the same as from the operations of the portable code, of
/// products and squares below 2^24. `EXACT`: so is the product of both squares.
///
/// The result is rounded to f32, and an estimate almost always tells to which (Ziv's rounding test): one in pairs of
/// f32, of which the second makes up for what the first lost to rounding. It is a long chain of operations, which
/// a processor does best for several blocks of rows at the same time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn keys_of_small_cosines<const N: usize, const EXACT: bool>(
    qr: [__m512i; N],
    rr: [__m512i; N],
    q: &Norm,
) -> [__m512i; N] {
    /// Above the error of the estimate. `rsqrt14` is within 2^-14, so e is at most 2^-13. What the step loses, 3/8 e^2,
    /// and its roundings, of r y above all, leave y within 1.6 * 2^-24, so f is at most 2^-22.3: half of what its two
    /// roundings lose and 3/8 f^2 are 2^-46 each, all others together are less than 2^-45.
    const ERROR: f32 = 1.0 / (1u64 << 43) as f32;
    let (one, half, error) = (
        _mm512_set1_ps(1.0),
        _mm512_set1_ps(0.5),
        _mm512_set1_ps(ERROR),
    );
    // Zeros, of a row too, make NaNs, which are not equal below.
    if q.square == 0 {
        return [ordered(one); N];
    }
    let square = _mm512_set1_ps(q.square as f32);
    let [inverse, inverse_low] = q.inverse.map(|v| _mm512_set1_ps(v));
    let (mut keys, mut good) = ([_mm512_setzero_si512(); N], [0; N]);
    for k in 0..N {
        let r = _mm512_cvtepi32_ps(rr[k]);
        let r = if EXACT { _mm512_mul_ps(r, square) } else { r };
        let product = _mm512_cvtepi32_ps(qr[k]);
        let y = _mm512_rsqrt14_ps(r);
        let e = _mm512_fnmadd_ps(_mm512_mul_ps(r, y), y, one);
        let y = _mm512_fmadd_ps(_mm512_mul_ps(y, half), e, y);
        // Of r y both parts, and so what 1 - r y y is to a few bits.
        let t = _mm512_mul_ps(r, y);
        let t_low = _mm512_fmsub_ps(r, y, t);
        let f = _mm512_fnmadd_ps(t_low, y, _mm512_fnmadd_ps(t, y, one));
        let z = if EXACT { y } else { _mm512_mul_ps(inverse, y) };
        let cosine = _mm512_mul_ps(product, z);
        let distance = _mm512_sub_ps(one, cosine);
        // Back from there is exact.
        let mut low = _mm512_fmsub_ps(product, z, _mm512_sub_ps(one, distance));
        if !EXACT {
            let z_low = _mm512_fmadd_ps(inverse_low, y, _mm512_fmsub_ps(inverse, y, z));
            low = _mm512_fmadd_ps(product, z_low, low);
        }
        let low = _mm512_fmadd_ps(_mm512_mul_ps(cosine, half), f, low);
        let least = _mm512_sub_ps(distance, _mm512_add_ps(low, error));
        let greatest = _mm512_sub_ps(distance, _mm512_sub_ps(low, error));
        good[k] = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(least, greatest);
        // If they are equal they are neither zero nor out of range.
        let sign = _mm512_set1_epi32(i32::MIN);
        keys[k] = _mm512_xor_si512(_mm512_castps_si512(least), sign);
    }
    if good.iter().fold(0xffff, |all, good| all & good) != 0xffff {
        for k in 0..N {
            if good[k] != 0xffff {
                keys[k] = keys_of_cosines::<true>(qr[k], rr[k], q);
            }
        }
    }
    keys
}

/// The same of any products, `SIGNED` or not, and squares: the estimate is one in f64.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn keys_of_cosines<const SIGNED: bool>(qr: __m512i, rr: __m512i, q: &Norm) -> __m512i {
    /// Above the error of the estimate: `rsqrt14` is within 2^-14, so e is at most 2^-13 and the first term left
    /// out of the series of (1 - e)^(-1/2), 5/16 e^3, below 2^-40.6; the roundings, each at most 2^-52, do not count.
    const ERROR: f64 = 1.0 / (1u64 << 40) as f64;
    let one = _mm512_set1_pd(1.0);
    if q.square == 0 {
        return ordered(_mm512_set1_ps(1.0));
    }
    let halves = |v| [_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)];
    let qr = halves(qr).map(|v| {
        if SIGNED {
            _mm512_cvtepi32_pd(v)
        } else {
            _mm512_cvtepu32_pd(v)
        }
    });
    let rr = halves(rr).map(|v| _mm512_cvtepu32_pd(v));
    let inverse = _mm512_set1_pd(1.0 / q.root);
    let bounds = |k: usize| {
        let y = _mm512_rsqrt14_pd(rr[k]);
        let e = _mm512_fnmadd_pd(_mm512_mul_pd(rr[k], y), y, one);
        let series = _mm512_fmadd_pd(e, _mm512_set1_pd(0.375), _mm512_set1_pd(0.5));
        let y = _mm512_fmadd_pd(_mm512_mul_pd(y, e), series, y);
        let distance = _mm512_fnmadd_pd(_mm512_mul_pd(qr[k], inverse), y, one);
        let zero = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(rr[k], _mm512_setzero_pd());
        let distance = _mm512_mask_mov_pd(distance, zero, one);
        let error = _mm512_set1_pd(ERROR);
        [
            _mm512_cvtpd_ps(_mm512_sub_pd(distance, error)),
            _mm512_cvtpd_ps(_mm512_add_pd(distance, error)),
        ]
    };
    let both = |low, high| {
        let v = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
        let v = _mm512_max_ps(v, _mm512_setzero_ps());
        _mm512_min_ps(v, _mm512_set1_ps(2.0))
    };
    let (low, high) = (bounds(0), bounds(1));
    let (least, greatest) = (both(low[0], high[0]), both(low[1], high[1]));
    if _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(least, greatest) == 0xffff {
        return ordered(least);
    }
    let exact = |k: usize| {
        let norms = _mm512_mul_pd(_mm512_set1_pd(q.root), _mm512_sqrt_pd(rr[k]));
        let distance = _mm512_sub_pd(one, _mm512_div_pd(qr[k], norms));
        let zero = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(rr[k], _mm512_setzero_pd());
        _mm512_cvtpd_ps(_mm512_mask_mov_pd(distance, zero, one))
    };
    ordered(both(exact(0), exact(1)))
}

/// Writes the first `count` keys, 1 to 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) unsafe fn store(out: *mut u32, keys: __m512i, count: usize) {
    let mask = (0xffff_u32 >> (BLOCK_ROWS - count)) as __mmask16;
    // SAFETY: the caller has room for `count` keys, and masked ones are not written.
    unsafe { _mm512_mask_storeu_epi32(out.cast(), mask, keys) }
}

/// The sums of the lanes of each of sixteen vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum16(v: &[__m512; BLOCK_ROWS]) -> __m512 {
    sum_fours(FOURS.map(|k| four_floats([v[k], v[k + 1], v[k + 2], v[k + 3]])))
}

/// In each quarter the two halves of the sums of lanes of two vectors, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn two_floats(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
}

/// In each quarter four sums of lanes of as many vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn four_floats([a, b, c, d]: [__m512; TILE]) -> __m512 {
    four_of_twos(two_floats(a, b), two_floats(c, d))
}

/// The same from two of `two_floats`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn four_of_twos(a: __m512, b: __m512) -> __m512 {
    let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
    _mm512_castsi512_ps(add_words::<true>(a, b))
}

/// The sums of the lanes of sixteen vectors, from those of each two by `two_floats`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum_twos(v: &[__m512; BLOCK_ROWS / 2]) -> __m512 {
    sum_fours([0, 2, 4, 6].map(|k| four_of_twos(v[k], v[k + 1])))
}

/// The sums of the lanes of sixteen vectors, from those of each four by `four_floats`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum_fours(v: [__m512; BLOCK_ROWS / TILE]) -> __m512 {
    let words = v.map(|v| _mm512_castps_si512(v));
    _mm512_castsi512_ps(sum_quarters::<true>(words))
}

/// The sums of the lanes of each of sixteen vectors of 32-bit integers, modulo 2^32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum16_integers(v: &[__m512i; BLOCK_ROWS]) -> __m512i {
    sum_quarters::<false>(FOURS.map(|k| four_integers([v[k], v[k + 1], v[k + 2], v[k + 3]])))
}

/// The sums of the lanes of each of sixteen vectors of 64-bit integers that fit 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum16_counts(v: &[__m512i; BLOCK_ROWS]) -> __m512i {
    sum_quarters::<false>(FOURS.map(|k| four_counts([v[k], v[k + 1], v[k + 2], v[k + 3]])))
}

/// In each quarter four sums of lanes of as many vectors of 32-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn four_integers(v: [__m512i; TILE]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    add_words::<false>(pair(v[0], v[1]), pair(v[2], v[3]))
}

/// In each quarter four sums of lanes of as many vectors of 64-bit integers that fit 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn four_counts(v: [__m512i; TILE]) -> __m512i {
    let pair = |a, b| _mm512_or_si512(a, _mm512_slli_epi64::<32>(b));
    add_words::<false>(pair(v[0], v[1]), pair(v[2], v[3]))
}

/// The first of each four of sixteen vectors.
const FOURS: [usize; 4] = [0, 4, 8, 12];

/// The sums of the even and of the odd lanes of each of eight vectors of 32-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum_halves(v: [__m512i; 8]) -> __m512i {
    // A transposition with the additions between its steps: fewer shuffles than horizontal additions are made
    // of.
    sum_quarters::<false>([0, 2, 4, 6].map(|k| add_words::<false>(v[k], v[k + 1])))
}

/// In each quarter the sums of the 64-bit words of a quarter of each vector, lane by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn add_words<const FLOATS: bool>(a: __m512i, b: __m512i) -> __m512i {
    add::<FLOATS>(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// The sums of the quarters of each of four vectors, lane by lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub(super) fn sum_quarters<const FLOATS: bool>(v: [__m512i; 4]) -> __m512i {
    let two = |a, b| {
        add::<FLOATS>(
            _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b),
        )
    };
    let (low, high) = (two(v[0], v[1]), two(v[2], v[3]));
    add::<FLOATS>(
        _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high),
    )
}

/// The sum of two vectors of f32 or of 32-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
fn add<const FLOATS: bool>(a: __m512i, b: __m512i) -> __m512i {
    if FLOATS {
        let sum = _mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        _mm512_castps_si512(sum)
    } else {
        _mm512_add_epi32(a, b)
    }
}
