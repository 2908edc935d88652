// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The proof an instruction set gives before it is used: its results against the portable code.
//!
//! Steps are functions of their own, so that the stack holds the buffers of one at a time. The caller
//! runs one step per FPU section. A step works on a few rows, at most some tens of
//! microseconds, and on data from a table in the image, at odd addresses.

use crate::abi::{Distance, Elem, Isa, Metric};
use crate::cluster::{accumulate, rotate, sign_bits};
use crate::convert::{convert, normalise, quantise};
use crate::distance::{score, score_many, F32Kind, Strided};
use crate::finite::first_non_finite;
use crate::lsh::fixed;
use crate::math::{bf16_to_f32, f16_to_f32};
use crate::postings::{encode_signs, scan_postings};
use crate::pq::{reduce_table, scan4};
use crate::rabitq;

/// Dimensions beyond these are multiples of what they exercise.
const SMALL_DIMS: u32 = 130;
const LARGE_DIMS: [u16; 6] = [255, 256, 257, 384, 768, 1536];
const DIMS: u32 = SMALL_DIMS + LARGE_DIMS.len() as u32;
const METRICS: u32 = Metric::COMMON.len() as u32;
/// One tile of four rows and one row alone.
const ROWS: usize = 5;
/// Elements between the rows of a test; they overlap, which does no harm.
const ROW_STEP: usize = 64;
/// The query starts after the first row, so that no distance is trivially zero.
const QUERY_AT: usize = 24;
const TABLE_ELEMS: usize = 1536 + ROW_STEP * ROWS;

const DISTANCE_STEPS: u32 = Elem::ALL.len() as u32 * METRICS * DIMS;
const FINITE_STEPS: u32 = 3;
const RANGE_STEPS: u32 = METRICS;

/// Runs step `step` of the self-test of `isa`; `None` after the last.
///
/// # Safety
///
/// The processor has `isa` and vector registers may be used.
pub unsafe fn run(isa: Isa, step: u32) -> Option<bool> {
    // SAFETY: as promised by the caller.
    unsafe {
        if step < DISTANCE_STEPS {
            let dim = step % DIMS;
            let dim = if dim < SMALL_DIMS {
                dim as usize + 1
            } else {
                large_dim(dim - SMALL_DIMS)
            };
            let metric = Metric::from_u32(step / DIMS % METRICS)?;
            let elem = Elem::from_u32(step / DIMS / METRICS)?;
            return Some(distances_agree(isa, elem, metric, dim));
        }
        let step = step - DISTANCE_STEPS;
        if step < FINITE_STEPS {
            return Some(finds_non_finite(isa, Elem::from_u32(step)?));
        }
        let step = step - FINITE_STEPS;
        if step < RANGE_STEPS {
            return Some(range_agrees(isa, Metric::from_u32(step)?));
        }
        match step - RANGE_STEPS {
            0 => Some(conversions_agree(isa)),
            1 => Some(rotations_agree(isa)),
            2 => Some(codes_agree(isa)),
            3 => Some(block_scans_agree(isa)),
            4..13 => Some(graph_codes_agree(isa, step - RANGE_STEPS - 4)),
            13 => Some(postings_agree(isa)),
            14 => Some(projections_agree(isa)),
            _ => None,
        }
    }
}

/// A `match` instead of an index: an index could panic as far as the compiler knows.
fn large_dim(i: u32) -> usize {
    match i {
        0 => LARGE_DIMS[0] as usize,
        1 => LARGE_DIMS[1] as usize,
        2 => LARGE_DIMS[2] as usize,
        3 => LARGE_DIMS[3] as usize,
        4 => LARGE_DIMS[4] as usize,
        _ => LARGE_DIMS[5] as usize,
    }
}

/// Bytes that begin at an odd address.
#[repr(C, align(64))]
struct Table<const N: usize> {
    odd: u8,
    bytes: [u8; N],
}

/// Signs, zeros and magnitudes over eight binades: the exponent occupies the bits from `mantissa`
/// up to the sign and counts from `low`.
const fn floats<const N: usize>(size: usize, mantissa: u32, low: u32) -> Table<N> {
    let mut bytes = [0; N];
    let mut state = 0x2545_f491u32;
    let mut at = 0;
    while at < N {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // The low bits of a congruential generator have short periods.
        let random = state ^ state >> 15;
        let sign = (random >> 31) << (size as u32 * 8 - 1);
        let exponent = (low + (random >> 28 & 7)) << mantissa;
        let fraction = random & ((1 << mantissa) - 1);
        let bits = if random >> 24 & 15 == 0 {
            sign
        } else {
            sign | exponent | fraction
        };
        let mut k = 0;
        while k < size {
            bytes[at + k] = (bits >> (8 * k)) as u8;
            k += 1;
        }
        at += size;
    }
    Table { odd: 0, bytes }
}

static F32: Table<{ TABLE_ELEMS * 4 }> = floats(4, 23, 121);
static F16: Table<{ TABLE_ELEMS * 2 }> = floats(2, 10, 9);
static BF16: Table<{ TABLE_ELEMS * 2 }> = floats(2, 7, 121);

fn table(elem: Elem) -> *const u8 {
    match elem {
        Elem::F16 => F16.bytes.as_ptr(),
        Elem::Bf16 => BF16.bytes.as_ptr(),
        // Bytes and bits may be anything.
        _ => F32.bytes.as_ptr(),
    }
}

/// Whether `isa` and the portable code agree about `ROWS` rows.
#[inline(never)]
unsafe fn distances_agree(isa: Isa, elem: Elem, metric: Metric, dim: usize) -> bool {
    let row_step = if matches!(elem, Elem::Binary) {
        ROW_STEP / 8
    } else {
        elem.row_bytes(ROW_STEP)
    };
    let rows = Strided {
        base: table(elem),
        stride: row_step,
    };
    // Bytes and bits use a table of 4 bytes per element, so the query may lie anywhere below.
    let query = rows.base.wrapping_add(match elem {
        Elem::F32 | Elem::F16 | Elem::Bf16 => elem.row_bytes(QUERY_AT),
        _ => 2001,
    });
    let (mut got, mut want) = ([0u32; ROWS], [1u32; ROWS]);
    // SAFETY: the last row ends at element 4 * 64 + 1536 of the table, the query before it.
    unsafe {
        score(
            isa,
            (elem, metric),
            query,
            rows,
            dim,
            got.as_mut_ptr(),
            ROWS,
        );
        score(
            Isa::Scalar,
            (elem, metric),
            query,
            rows,
            dim,
            want.as_mut_ptr(),
            ROWS,
        );
        let mut ok = true;
        for (i, (got, want)) in got.iter().zip(want.iter()).enumerate() {
            let row = rows.base.wrapping_add(i.wrapping_mul(row_step));
            ok &= got == want || agree(*got, *want, terms(elem, metric, query, row, dim), dim);
        }
        ok & pairs_agree(isa, elem, metric, query, rows, dim)
    }
}

/// Whether two queries at once get what each gets alone.
#[inline(never)]
unsafe fn pairs_agree(
    isa: Isa,
    elem: Elem,
    metric: Metric,
    query: *const u8,
    rows: Strided,
    dim: usize,
) -> bool {
    const NQ: usize = 2;
    let (base, stride) = (query, elem.row_bytes(8));
    let queries = Strided { base, stride };
    let (mut got, mut want) = ([0u32; NQ * ROWS], [1u32; NQ * ROWS]);
    // SAFETY: the second query lies 8 elements behind the first, before the last row's end.
    unsafe {
        let to = got.as_mut_ptr();
        score_many(isa, (elem, metric), queries, NQ, rows, dim, to, ROWS);
        for (q, want) in want.chunks_exact_mut(ROWS).enumerate() {
            let query = query.wrapping_add(q * stride);
            score(
                isa,
                (elem, metric),
                query,
                rows,
                dim,
                want.as_mut_ptr(),
                ROWS,
            );
        }
    }
    got.iter().zip(&want).all(|(a, b)| a == b)
}

/// Whether two keys stand for distances within 4 eps * `scale` of each other.
fn agree(a: u32, b: u32, scale: f64, dim: usize) -> bool {
    let value = |key| f32::from_bits(Distance(key).to_f32_bits()) as f64;
    let difference = value(a) - value(b);
    let eps = f32::EPSILON as f64;
    // 2^-149 is the unit of subnormal numbers.
    let subnormal = f32::from_bits(1) as f64 * dim as f64;
    difference.abs() <= 4.0 * eps * scale + subnormal
}

/// The scale of a distance's error: the sum of the absolute values of its terms. Zero for integer
/// elements, whose distances are exact.
unsafe fn terms(elem: Elem, metric: Metric, q: *const u8, r: *const u8, dim: usize) -> f64 {
    let value = |p: *const u8, i: usize| {
        // SAFETY: the caller promises `dim` elements.
        let v = unsafe {
            match elem {
                Elem::F32 => p.cast::<f32>().wrapping_add(i).read_unaligned(),
                Elem::F16 => f16_to_f32(p.cast::<u16>().wrapping_add(i).read_unaligned()),
                _ => bf16_to_f32(p.cast::<u16>().wrapping_add(i).read_unaligned()),
            }
        };
        v as f64
    };
    if !matches!(elem, Elem::F32 | Elem::F16 | Elem::Bf16) {
        return 0.0;
    }
    if matches!(metric, Metric::Cosine) {
        return 2.0;
    }
    let mut sum = 0.0;
    for i in 0..dim {
        let (a, b) = (value(q, i), value(r, i));
        sum += match metric {
            Metric::L2Sq => (a - b) * (a - b),
            _ => (a * b).abs(),
        };
    }
    sum
}

/// Whether `isa` finds a planted NaN or infinity at positions around its block size, and nothing
/// where there is none.
#[inline(never)]
unsafe fn finds_non_finite(isa: Isa, elem: Elem) -> bool {
    const LEN: usize = 300;
    let size = elem.row_bytes(1);
    let mut buffer = [0u8; 1 + 4 * LEN];
    let p = buffer.as_mut_ptr().wrapping_add(1);
    // SAFETY: the table and the buffer hold `LEN` elements; positions are below `LEN`.
    unsafe {
        core::ptr::copy_nonoverlapping(table(elem), p, elem.row_bytes(LEN));
        let mut ok = first_non_finite(isa, elem, p, LEN) == usize::MAX;
        for at in [0, 1, 7, 126, 127, 128, 129, 255, 256, 257, 298, 299] {
            // The sign and exponent sit in the last two bytes of every float type here.
            let place = p.wrapping_add((at + 1) * size - 2).cast::<u16>();
            let was = place.read_unaligned();
            let infinite = match elem {
                Elem::F16 => 0xfc00,
                _ => 0x7f80,
            };
            place.write_unaligned(infinite | (at as u16 & 1));
            ok &= first_non_finite(isa, elem, p, LEN) == at;
            place.write_unaligned(was);
        }
        ok
    }
}

/// Whether `isa` agrees with the portable code at the ends of the range, where sums of f32 overflow
/// or vanish, and about zero vectors.
#[inline(never)]
unsafe fn range_agrees(isa: Isa, metric: Metric) -> bool {
    const DIM: usize = 37;
    // Bits of 0, 1, 1e-30, 1e30 and 3e38.
    let magnitudes = [0u32, 0x3f80_0000, 0x0da2_4260, 0x7149_f2ca, 0x7f61_b1e6];
    let (mut q, mut r) = ([0u32; DIM], [0u32; DIM]);
    let mut ok = true;
    for a in magnitudes {
        for b in magnitudes {
            for sign in [0, 1u32 << 31] {
                for (i, (q, r)) in q.iter_mut().zip(r.iter_mut()).enumerate() {
                    *q = if i & 1 == 0 { a } else { a ^ sign };
                    *r = if i % 3 == 0 { b } else { b ^ sign };
                }
                let (q, r) = (q.as_ptr().cast::<u8>(), r.as_ptr().cast::<u8>());
                let row = Strided { base: r, stride: 0 };
                let (mut got, mut want) = (0u32, 1u32);
                // SAFETY: both arrays hold `DIM` elements.
                unsafe {
                    score(isa, F32Kind(metric), q, row, DIM, &mut got, 1);
                    score(Isa::Scalar, F32Kind(metric), q, row, DIM, &mut want, 1);
                    ok &= got == want || agree(got, want, terms(Elem::F32, metric, q, r, DIM), DIM);
                }
            }
        }
    }
    ok
}

/// Whether `isa` converts, quantises and normalises to the same bits as the portable code.
#[inline(never)]
unsafe fn conversions_agree(isa: Isa) -> bool {
    const LEN: usize = 203;
    type Buffer = [u8; 4 * LEN];
    let same = |a: &Buffer, b: &Buffer| a.iter().zip(b).fold(true, |ok, (a, b)| ok & (a == b));
    let mut ok = true;
    // SAFETY: tables and buffers hold `LEN` elements of every type.
    unsafe {
        for (from, to) in [
            (Elem::F32, Elem::F16),
            (Elem::F32, Elem::Bf16),
            (Elem::F16, Elem::F32),
            (Elem::Bf16, Elem::F32),
        ] {
            let (mut got, mut want): (Buffer, Buffer) = ([0; 4 * LEN], [0; 4 * LEN]);
            convert(isa, from, to, table(from), got.as_mut_ptr(), LEN);
            convert(Isa::Scalar, from, to, table(from), want.as_mut_ptr(), LEN);
            ok &= same(&got, &want);
        }
        let (offset, scale) = (0.25f32.to_bits(), 0.01f32.to_bits());
        let (offset, scale) = ((&raw const offset).cast(), (&raw const scale).cast());
        let (mut got, mut want): (Buffer, Buffer) = ([0; 4 * LEN], [0; 4 * LEN]);
        let src = table(Elem::F32);
        quantise(isa, src, got.as_mut_ptr(), LEN, offset, scale, false);
        quantise(
            Isa::Scalar,
            src,
            want.as_mut_ptr(),
            LEN,
            offset,
            scale,
            false,
        );
        ok &= same(&got, &want);
        core::ptr::copy_nonoverlapping(src, got.as_mut_ptr(), 4 * LEN);
        core::ptr::copy_nonoverlapping(src, want.as_mut_ptr(), 4 * LEN);
        ok &= normalise(isa, got.as_mut_ptr(), LEN) == 1;
        ok &= normalise(Isa::Scalar, want.as_mut_ptr(), LEN) == 1;
        ok & same(&got, &want)
    }
}

/// Whether `isa` rotates, hashes and sums to the same bits as the portable code.
#[inline(never)]
unsafe fn rotations_agree(isa: Isa) -> bool {
    const DIM: usize = 101;
    type Buffer = [u8; 4 * DIM];
    let run = |isa: Isa, buffer: &mut Buffer, bits: &mut [u8; 32], sums: &mut [u64; DIM]| {
        let (mut count, id) = (0u64, 0u32);
        let p = buffer.as_mut_ptr();
        // SAFETY: the table and the buffers hold `DIM` elements.
        unsafe {
            core::ptr::copy_nonoverlapping(table(Elem::F32), p, 4 * DIM);
            rotate(isa, 1, p, DIM);
            sign_bits(isa, p, DIM, bits.as_mut_ptr());
            accumulate(isa, p, 0, 1, DIM, &id, sums.as_mut_ptr(), &mut count);
        }
    };
    let (mut got, mut want): (Buffer, Buffer) = ([0; 4 * DIM], [0; 4 * DIM]);
    let (mut got_bits, mut want_bits) = ([0; 32], [0; 32]);
    let (mut got_sums, mut want_sums) = ([0; DIM], [0; DIM]);
    run(isa, &mut got, &mut got_bits, &mut got_sums);
    run(Isa::Scalar, &mut want, &mut want_bits, &mut want_sums);
    got.iter().zip(&want).all(|(a, b)| a == b)
        && got_bits.iter().zip(&want_bits).all(|(a, b)| a == b)
        && got_sums.iter().zip(&want_sums).all(|(a, b)| a == b)
}

/// Whether `isa` makes and scans one-bit codes to the same bits as the portable code.
#[inline(never)]
unsafe fn codes_agree(isa: Isa) -> bool {
    const DIM: usize = 203;
    const WORDS: usize = DIM.div_ceil(64);
    let run = |isa: Isa| {
        let mut code = [0u8; WORDS * 8 + 16];
        let (mut planes, mut affine) = ([0u64; WORDS * 4], [0u32; 6]);
        let mut keys = [0u32; 2];
        let [estimate, lower] = &mut keys;
        let (p, code) = (table(Elem::F32), code.as_mut_ptr());
        // SAFETY: the table holds the vector and, from an element further on, the query; the buffers are
        // those of `DIM` elements and one code.
        unsafe {
            rabitq::encode(isa, p, DIM, code);
            rabitq::prepare(
                isa,
                p.wrapping_add(4),
                DIM,
                planes.as_mut_ptr(),
                affine.as_mut_ptr(),
            );
            let (planes, affine) = (planes.as_ptr(), affine.as_ptr());
            rabitq::scan(isa, planes, affine, DIM, code, 0, 1, estimate, lower);
        }
        keys
    };
    let ([a, b], [c, d]) = (run(isa), run(Isa::Scalar));
    a == c && b == d
}

/// Whether `isa` reduces a table and scans a block of 4-bit codes to the same bits as the portable
/// code.
#[inline(never)]
unsafe fn block_scans_agree(isa: Isa) -> bool {
    const NSUB: usize = 33;
    // Any finite f32 make a table, and any bytes make codes.
    let mut full = [0u32; NSUB * 16];
    // SAFETY: the table of elements is longer.
    unsafe {
        let bytes = full.as_mut_ptr().cast::<u8>();
        core::ptr::copy_nonoverlapping(table(Elem::F32), bytes, NSUB * 64);
    }
    let run = |isa: Isa, small: &mut [u8; NSUB * 16], sums: &mut [u16; 32]| {
        let mut affine = [0u32; 2];
        // SAFETY: the buffers are those of `NSUB` parts and one block.
        unsafe {
            reduce_table(
                isa,
                full.as_ptr(),
                NSUB,
                small.as_mut_ptr(),
                affine.as_mut_ptr(),
            );
            scan4(
                isa,
                small.as_ptr(),
                NSUB,
                table(Elem::U8),
                sums.as_mut_ptr(),
            );
        }
        affine
    };
    let (mut got, mut want) = ([0; NSUB * 16], [0; NSUB * 16]);
    let (mut got_sums, mut want_sums) = ([0; 32], [0; 32]);
    let [a, b] = run(isa, &mut got, &mut got_sums);
    let [c, d] = run(Isa::Scalar, &mut want, &mut want_sums);
    a == c
        && b == d
        && got.iter().zip(&want).all(|(a, b)| a == b)
        && got_sums.iter().zip(&want_sums).all(|(a, b)| a == b)
}

/// Whether `isa` makes and scores codes of graph nodes to the same bits as the portable code; `which` of nine
/// pairs of a number of bits and a metric.
#[inline(never)]
unsafe fn graph_codes_agree(isa: Isa, which: u32) -> bool {
    let bits = match which % 3 {
        0 => 8,
        1 => 4,
        _ => 1,
    };
    let Some(metric) = Metric::from_u32(which / 3) else {
        return false;
    };
    // SAFETY: the table of elements is longer than the rows of this test.
    unsafe { crate::graph::self_test::agrees(isa, bits, metric, table(Elem::F32)) }
}

/// Whether `isa` encodes a row and scans a block to the same bits as the portable code.
#[inline(never)]
unsafe fn postings_agree(isa: Isa) -> bool {
    const DIM: usize = 131;
    const NSUB: usize = DIM.div_ceil(4);
    const ROWS: usize = 29;
    // Any bytes make codes, any finite f32 factors: the table of elements serves as a block.
    let run = |isa: Isa| {
        let p = table(Elem::F32);
        let (mut codes, mut factors) = ([0u8; NSUB], [0u32; 3]);
        let (mut lower, mut hits) = ([0u32; ROWS], 0u32);
        let affine = [0.5f32.to_bits(), 1.5f32.to_bits()];
        let to = Distance::from_f32_bits(2.0f32.to_bits()).0;
        // SAFETY: the table holds both vectors, a block of `NSUB` parts and its bytes; the buffers are those
        // of one code and `ROWS` rows.
        unsafe {
            let centre = p.wrapping_add(4);
            let codes = codes.as_mut_ptr();
            encode_signs(
                isa,
                Metric::L2Sq,
                p,
                centre,
                DIM,
                codes,
                factors.as_mut_ptr(),
            );
            scan_postings(
                isa,
                Metric::L2Sq,
                p,
                affine.as_ptr(),
                NSUB,
                p,
                0,
                ROWS,
                [to, to],
                100,
                to,
                lower.as_mut_ptr(),
                &mut hits,
            );
        }
        (codes, factors, lower, hits)
    };
    let ((a, b, c, d), (e, f, g, h)) = (run(isa), run(Isa::Scalar));
    d == h
        && a.iter().zip(&e).all(|(a, b)| a == b)
        && b.iter().zip(&f).all(|(a, b)| a == b)
        && c.iter().zip(&g).all(|(a, b)| a == b)
}

/// Whether `isa` makes the same fixed-point numbers as the portable code.
#[inline(never)]
unsafe fn projections_agree(isa: Isa) -> bool {
    const LEN: usize = 99;
    let run = |isa: Isa| {
        let mut out = [0i32; LEN];
        // SAFETY: the table holds as many elements.
        unsafe {
            fixed(
                isa,
                table(Elem::F32),
                LEN,
                1e8f32.to_bits(),
                out.as_mut_ptr(),
            )
        };
        out
    };
    run(isa).iter().zip(&run(Isa::Scalar)).all(|(a, b)| a == b)
}
