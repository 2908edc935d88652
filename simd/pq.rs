// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Product quantisation: codes, tables of partial distances, and scans over codes.
//!
//! A vector of `nsub * dsub` elements is cut into `nsub` parts, and each part is replaced by the
//! number of the nearest of `ksub` centroids of its own codebook (Jegou et al., "Product quantization
//! for nearest neighbor search", 2011). A query makes one table of its distances to all centroids;
//! the distance to a row is then the sum of one entry per part (ADC).
//!
//! With 16 centroids a table row fits a register, and its entries as bytes are looked up for 32 rows
//! by one shuffle (Andre et al., "Quicker ADC", arXiv 1812.09162; `pq4_fast_scan` in FAISS).

use crate::abi::{Distance, Elem, Isa, Metric};
use crate::distance::{score, F32Kind, Strided};
use crate::isa::per_isa;

/// The most centroids of a codebook: a code is a byte.
const MAX_KSUB: usize = 256;

/// Rows per block of 4-bit codes.
const BLOCK: usize = 32;

/// Bytes that one part takes in a block.
const PART: usize = BLOCK / 2;

per_isa! {
    /// Sums one of 256 table entries per part for each of `n` rows of `nsub` bytes.
    pub unsafe fn scan8(
        isa, table: *const u32, nsub: usize, codes: *const u8, n: usize, out: *mut u32,
    ) -> () = scan8_body;

    /// Reduces a table for 16 centroids to bytes: an entry is `code * scale + least of its part`.
    /// Writes the f32 bits of `scale` and of the sum of all least entries to `affine`.
    pub unsafe fn reduce_table(
        isa, table: *const u32, nsub: usize, small: *mut u8, affine: *mut u32,
    ) -> () = reduce_table_body;

    /// Turns sums of bytes into keys, by the `affine` of [`reduce_table`].
    pub unsafe fn finish_scan4(
        isa, sums: *const u16, n: usize, affine: *const u32, out: *mut u32,
    ) -> () = finish_scan4_body;
}

/// Writes the key of each part of a vector to each of its `ksub` centroids.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, the vector has `nsub * dsub` f32, the
/// codebooks `nsub * ksub * dsub`, `keys` room for `nsub * ksub`.
unsafe fn part_keys(
    isa: Isa,
    metric: Metric,
    vector: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    keys: *mut u32,
) {
    let len_bytes = Elem::F32.row_bytes(dsub);
    for s in 0..nsub {
        // SAFETY: part `s`, its codebook and its place for keys are within what the caller promises.
        unsafe {
            let part = vector.add(s * len_bytes);
            let codebook = Strided {
                base: codebooks.add(s * ksub * len_bytes),
                stride: len_bytes,
            };
            let to = keys.add(s * ksub);
            score(isa, F32Kind(metric), part, codebook, dsub, to, ksub);
        }
    }
}

/// Writes the number of the nearest centroid of each part of a vector; of equal ones the first.
///
/// # Safety
///
/// As [`part_keys`]; `ksub` is in `1..=256` and `codes` has room for `nsub` bytes.
pub unsafe fn encode(
    isa: Isa,
    vector: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    codes: *mut u8,
) {
    let len_bytes = Elem::F32.row_bytes(dsub);
    let mut keys = [0u32; MAX_KSUB];
    for s in 0..nsub {
        let (mut nearest, mut least) = (0u8, u32::MAX);
        // SAFETY: part `s` and its codebook are within what the caller promises.
        unsafe {
            part_keys(
                isa,
                Metric::L2Sq,
                vector.add(s * len_bytes),
                codebooks.add(s * ksub * len_bytes),
                1,
                ksub,
                dsub,
                keys.as_mut_ptr(),
            );
            for (c, &key) in keys.iter().enumerate() {
                if c < ksub && key < least {
                    least = key;
                    nearest = c as u8;
                }
            }
            *codes.add(s) = nearest;
        }
    }
}

/// Fills the table of a query: the f32 bits of the distances of its parts to the centroids.
///
/// # Safety
///
/// As [`part_keys`].
unsafe fn fill_table(
    isa: Isa,
    metric: Metric,
    query: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    table: *mut u32,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        part_keys(isa, metric, query, codebooks, nsub, ksub, dsub, table);
        for i in 0..nsub * ksub {
            *table.add(i) = Distance(*table.add(i)).to_f32_bits();
        }
    }
}

/// The key of a sum of table entries.
#[inline(always)]
fn key(sum: f32) -> u32 {
    if sum.is_nan() {
        Distance::NAN.0
    } else {
        Distance::from_f32_bits((sum + 0.0).to_bits()).0
    }
}

/// The sum of one of 256 entries for each part of a code.
///
/// # Safety
///
/// The table has `nsub * 256` entries, the code `nsub` bytes.
#[inline(always)]
pub unsafe fn sum8(table: *const u32, nsub: usize, code: *const u8) -> f32 {
    // SAFETY: a code is a byte, so entries are inside of the table.
    let entry = |s: usize, code: u8| unsafe { *table.cast::<f32>().add(s * 256 + code as usize) };
    let mut sums = [0f32; 4];
    let mut s = 0;
    // SAFETY: `s` is below `nsub`.
    unsafe {
        // Four sums, because one would wait for its own last addition.
        while s + 4 <= nsub {
            for u in 0..4 {
                sums[u] += entry(s + u, *code.add(s + u));
            }
            s += 4;
        }
        while s < nsub {
            sums[0] += entry(s, *code.add(s));
            s += 1;
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// # Safety
///
/// The table has `nsub * 256` entries, `codes` `n * nsub` bytes, `out` room for `n`.
#[inline(always)]
unsafe fn scan8_body(table: *const u32, nsub: usize, codes: *const u8, n: usize, out: *mut u32) {
    for i in 0..n {
        // SAFETY: `i` is below `n`.
        unsafe { *out.add(i) = key(sum8(table, nsub, codes.add(i * nsub))) };
    }
}

/// The least and the greatest of 16 entries, by halves, so that they are found within registers.
#[inline(always)]
fn bounds16(v: [f32; 16]) -> (f32, f32) {
    let (mut low, mut high) = (v, v);
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            low[i] = if low[i + half] < low[i] {
                low[i + half]
            } else {
                low[i]
            };
            high[i] = if high[i + half] > high[i] {
                high[i + half]
            } else {
                high[i]
            };
        }
        half >>= 1;
    }
    (low[0], high[0])
}

/// # Safety
///
/// The table has `nsub * 16` entries, `small` room for as many bytes, `affine` for two words.
#[inline(always)]
unsafe fn reduce_table_body(table: *const u32, nsub: usize, small: *mut u8, affine: *mut u32) {
    // SAFETY: `s` is below `nsub`, and each part has 16 entries.
    unsafe {
        let entries = |s: usize| table.cast::<[f32; 16]>().add(s).read_unaligned();
        let (mut widest, mut base) = (0f32, 0f32);
        for s in 0..nsub {
            let (low, high) = bounds16(entries(s));
            widest = if high - low > widest {
                high - low
            } else {
                widest
            };
            base += low;
        }
        let scale = widest / 255.0;
        // A table of equal entries has a width of zero.
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for s in 0..nsub {
            let v = entries(s);
            let (low, _) = bounds16(v);
            let mut bytes = [0u8; 16];
            for c in 0..16 {
                let v = (v[c] - low) * inverse;
                let v = if v < 255.0 { v } else { 255.0 };
                // Adding 2^23 leaves the nearest integer in the lowest bits.
                bytes[c] = (v + 8_388_608.0).to_bits() as u8;
            }
            small.cast::<[u8; 16]>().add(s).write_unaligned(bytes);
        }
        *affine = scale.to_bits();
        *affine.add(1) = base.to_bits();
    }
}

/// # Safety
///
/// `sums` and `out` have `n` elements, `affine` two.
#[inline(always)]
unsafe fn finish_scan4_body(sums: *const u16, n: usize, affine: *const u32, out: *mut u32) {
    // SAFETY: every index is below `n`.
    unsafe {
        let scale = f32::from_bits(*affine);
        let base = f32::from_bits(*affine.add(1));
        for i in 0..n {
            *out.add(i) = key(*sums.add(i) as f32 * scale + base);
        }
    }
}

/// Sums the bytes of a reduced table for the 32 rows of a block of 4-bit codes. In a block part `s`
/// takes 16 bytes; byte `j` holds the code of row `j` in its low and of row `j + 16` in its high half.
/// Sums are modulo 2^16: `nsub` is at most 257.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, `small` and `codes` have `nsub * 16` bytes,
/// `sums` room for 32.
pub unsafe fn scan4(isa: Isa, small: *const u8, nsub: usize, codes: *const u8, sums: *mut u16) {
    // SAFETY: as promised by the caller, who has `isa`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => scan4_avx2(small, nsub, codes, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16 => {
                scan4_avx512(small, nsub, codes, sums)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => scan4_neon(small, nsub, codes, sums),
            _ => scan4_scalar(small, nsub, codes, sums),
        }
    }
}

/// One block, in portable code.
unsafe fn scan4_scalar(small: *const u8, nsub: usize, codes: *const u8, sums: *mut u16) {
    let mut total = [0u16; BLOCK];
    let (low_rows, high_rows) = total.split_at_mut(PART);
    for s in 0..nsub {
        for (j, (low, high)) in low_rows.iter_mut().zip(high_rows.iter_mut()).enumerate() {
            // SAFETY: a half byte is below 16, the entries of a part.
            unsafe {
                let code = *codes.add(s * PART + j);
                *low = low.wrapping_add(*small.add(s * 16 + (code & 15) as usize) as u16);
                *high = high.wrapping_add(*small.add(s * 16 + (code >> 4) as usize) as u16);
            }
        }
    }
    for (i, sum) in total.iter().enumerate() {
        // SAFETY: there is room for 32 sums.
        unsafe { *sums.add(i) = *sum };
    }
}

/// One block. Each 16-bit lane first sums an odd byte times 256 plus an even one; the odd sums, kept
/// apart as well, are taken off at the end.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn scan4_avx2(small: *const u8, nsub: usize, codes: *const u8, sums: *mut u16) {
    use core::arch::x86_64::*;
    let nibble = _mm256_set1_epi8(15);
    let (mut both, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    // SAFETY: every load takes the 16 bytes of a part, every store 16 of the 32 sums.
    unsafe {
        for s in 0..nsub {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(small.add(s * 16).cast()));
            let codes = _mm_loadu_si128(codes.add(s * PART).cast());
            let codes = _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes);
            let found = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
            both = _mm256_add_epi16(both, found);
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(found));
        }
        let even = _mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd));
        // The unpacking works within halves of 128 bits: rows 0..16 and rows 16..32.
        let first = _mm256_unpacklo_epi16(even, odd);
        let second = _mm256_unpackhi_epi16(even, odd);
        let low = _mm256_permute2x128_si256::<0x20>(first, second);
        let high = _mm256_permute2x128_si256::<0x31>(first, second);
        _mm256_storeu_si256(sums.cast(), low);
        _mm256_storeu_si256(sums.add(PART).cast(), high);
    }
}

/// One block.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
unsafe fn scan4_avx512(small: *const u8, nsub: usize, codes: *const u8, sums: *mut u16) {
    use core::arch::x86_64::*;
    // SAFETY: as promised by the caller, and there is room for 32 sums.
    unsafe {
        let [low, high] = sums4_avx512(small, nsub, codes, 0);
        _mm256_storeu_si256(sums.cast(), low);
        _mm256_storeu_si256(sums.add(PART).cast(), high);
    }
}

/// The sums of a block, in registers: rows 0..16 and rows 16..32. Four parts at once: a lane of 128 bits
/// sums every fourth part, as [`scan4_avx2`] sums all. Prefetches what is `ahead` bytes further on.
///
/// # Safety
///
/// As [`scan4`]; the processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")]
pub unsafe fn sums4_avx512(
    small: *const u8,
    nsub: usize,
    codes: *const u8,
    ahead: usize,
) -> [core::arch::x86_64::__m256i; 2] {
    use core::arch::x86_64::*;
    let nibble = _mm512_set1_epi8(15);
    let zero = _mm512_setzero_si512();
    let (mut both, mut odd) = ([zero; 2], [zero; 2]);
    let mut s = 0;
    // SAFETY: every load takes at most 64 bytes of the parts that are left.
    unsafe {
        while s < nsub {
            let (table, codes) = (small.add(s * 16), codes.add(s * PART));
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(ahead).cast());
            let (table, codes) = (table.cast(), codes.cast());
            let (table, codes) = if nsub - s >= 4 {
                (_mm512_loadu_si512(table), _mm512_loadu_si512(codes))
            } else {
                // Entries of parts that are missing are zeros.
                let mask = (0xffff_u32 >> (16 - 4 * (nsub - s))) as __mmask16;
                (
                    _mm512_maskz_loadu_epi32(mask, table.cast()),
                    _mm512_maskz_loadu_epi32(mask, codes.cast()),
                )
            };
            let rows = [
                _mm512_and_si512(codes, nibble),
                _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble),
            ];
            for half in 0..2 {
                let found = _mm512_shuffle_epi8(table, rows[half]);
                both[half] = _mm512_add_epi16(both[half], found);
                odd[half] = _mm512_add_epi16(odd[half], _mm512_srli_epi16::<8>(found));
            }
            s += 4;
        }
    }
    let quarters = |v: __m512i| {
        let v = _mm256_add_epi16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
        _mm_add_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
    };
    let mut sums = [_mm256_setzero_si256(); 2];
    for half in 0..2 {
        let even = _mm512_sub_epi16(both[half], _mm512_slli_epi16::<8>(odd[half]));
        let (even, odd) = (quarters(even), quarters(odd[half]));
        sums[half] = _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
    }
    sums
}

/// One block.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn scan4_neon(small: *const u8, nsub: usize, codes: *const u8, sums: *mut u16) {
    use core::arch::aarch64::*;
    let mut total = [vdupq_n_u16(0); 4];
    // SAFETY: every load takes the 16 bytes of a part, every store 8 of the 32 sums.
    unsafe {
        for s in 0..nsub {
            let table = vld1q_u8(small.add(s * 16));
            let codes = vld1q_u8(codes.add(s * PART));
            let low = vqtbl1q_u8(table, vandq_u8(codes, vdupq_n_u8(15)));
            let high = vqtbl1q_u8(table, vshrq_n_u8::<4>(codes));
            total[0] = vaddw_u8(total[0], vget_low_u8(low));
            total[1] = vaddw_high_u8(total[1], low);
            total[2] = vaddw_u8(total[2], vget_low_u8(high));
            total[3] = vaddw_high_u8(total[3], high);
        }
        for k in 0..4 {
            vst1q_u16(sums.add(8 * k), total[k]);
        }
    }
}

/// See [`encode`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`encode`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_pq_encode(
    isa: u32,
    vector: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    codes: *mut u8,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { encode(isa, vector, codebooks, nsub, ksub, dsub, codes) };
    0
}

/// See [`fill_table`]. Returns 0, or 1 for an unknown number.
///
/// # Safety
///
/// As [`fill_table`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_pq_table(
    isa: u32,
    metric: u32,
    query: *const u8,
    codebooks: *const u8,
    nsub: usize,
    ksub: usize,
    dsub: usize,
    table: *mut u32,
) -> u32 {
    let (Some(isa), Some(metric)) = (Isa::from_u32(isa), Metric::from_u32(metric)) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { fill_table(isa, metric, query, codebooks, nsub, ksub, dsub, table) };
    0
}

/// See [`scan8`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`scan8`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_pq_scan8(
    isa: u32,
    table: *const u32,
    nsub: usize,
    codes: *const u8,
    n: usize,
    out: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { scan8(isa, table, nsub, codes, n, out) };
    0
}

/// See [`reduce_table`]. Returns 0, or 1 for an unknown `isa`.
///
/// # Safety
///
/// As [`reduce_table`].
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_pq_reduce_table(
    isa: u32,
    table: *const u32,
    nsub: usize,
    small: *mut u8,
    affine: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    // SAFETY: as promised by the caller.
    unsafe { reduce_table(isa, table, nsub, small, affine) };
    0
}

/// See [`scan4`] and [`finish_scan4`]: one key for each of `blocks * 32` rows. Returns 0, or 1 for an
/// unknown `isa`.
///
/// # Safety
///
/// As both; `out` has room for `blocks * 32` keys.
#[no_mangle]
pub unsafe extern "C" fn vexfs_simd_pq_scan4(
    isa: u32,
    small: *const u8,
    affine: *const u32,
    nsub: usize,
    codes: *const u8,
    blocks: usize,
    out: *mut u32,
) -> u32 {
    let Some(isa) = Isa::from_u32(isa) else {
        return 1;
    };
    let mut sums = [0u16; BLOCK];
    for block in 0..blocks {
        // SAFETY: each block is within what the caller promises.
        unsafe {
            let codes = codes.add(block * nsub * PART);
            scan4(isa, small, nsub, codes, sums.as_mut_ptr());
            finish_scan4(isa, sums.as_ptr(), BLOCK, affine, out.add(block * BLOCK));
        }
    }
    0
}
