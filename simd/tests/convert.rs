// SPDX-License-Identifier: Apache-2.0

//! Conversions, quantisation and normalisation: against their definitions in f64, and the same bits
//! on every instruction set.

mod common;

use common::*;
use vexfs_simd_host::*;

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |w: &[u8]| f32::from_le_bytes(w.try_into().unwrap());
    bytes.chunks_exact(4).map(word).collect()
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    let half = |h: &[u8]| u16::from_le_bytes(h.try_into().unwrap());
    bytes.chunks_exact(2).map(half).collect()
}

/// Converts at an odd address.
fn converted(isa: Isa, from: Elem, to: Elem, src: &[u8]) -> Vec<u8> {
    let n = src.len() / from.row_bytes(1);
    let mut odd = vec![0];
    odd.extend_from_slice(src);
    let mut dst = vec![0xaa; to.row_bytes(n) + 2];
    let last = dst.len() - 1;
    convert(&token(), isa, from, to, &odd[1..], &mut dst[1..last]).unwrap();
    assert_eq!(
        (dst[0], dst[last]),
        (0xaa, 0xaa),
        "{isa:?} wrote beyond its slice"
    );
    dst[1..last].to_vec()
}

/// The value of a 16-bit number.
type Value = fn(u16) -> f64;

fn bf16_value(bits: u16) -> f64 {
    f32::from_bits((bits as u32) << 16) as f64
}

/// Every number of the small type, widened, by definition.
#[test]
fn widening_is_exact_for_every_number() {
    let all: Vec<u16> = if cfg!(miri) {
        (0..0x8000).step_by(331).chain(0x7bff..0x7c03).collect()
    } else {
        (0..=u16::MAX).collect()
    };
    let src: Vec<u8> = all.iter().flat_map(|h| h.to_le_bytes()).collect();
    for isa in available() {
        let values: [(Elem, Value); 2] = [(Elem::F16, f16_value), (Elem::Bf16, bf16_value)];
        for (elem, value) in values {
            let wide = floats(&converted(isa, elem, Elem::F32, &src));
            for (&bits, &got) in all.iter().zip(&wide) {
                let want = value(bits);
                if want.is_nan() {
                    assert!(got.is_nan(), "{isa:?} {elem:?} {bits:#x}");
                } else {
                    assert_eq!(got as f64, want, "{isa:?} {elem:?} {bits:#x}");
                    assert_eq!(got.is_sign_negative(), bits >> 15 == 1);
                }
            }
            // And back: nothing changes.
            let back = halves(&converted(isa, Elem::F32, elem, &f32_bytes(&wide)));
            for (&bits, &got) in all.iter().zip(&back) {
                assert!(
                    got == bits || value(bits).is_nan(),
                    "{isa:?} {elem:?} {bits:#x}"
                );
            }
        }
    }
}

/// All midpoints between neighbouring numbers, and the f32 next to them on either side.
#[test]
fn narrowing_rounds_to_nearest_and_ties_to_even() {
    let step = if cfg!(miri) { 997 } else { 1 };
    let values: [(Elem, u16, Value); 2] = [
        (Elem::F16, 0x7c00, f16_value),
        (Elem::Bf16, 0x7f80, bf16_value),
    ];
    for (elem, infinity, value) in values {
        let (mut src, mut want) = (vec![], vec![]);
        for low in (0..infinity - 1).step_by(step) {
            // Neighbours in the small type are exact in f32, and so is their midpoint, unless it
            // is below the smallest f32.
            let middle = ((value(low) + value(low + 1)) / 2.0) as f32;
            if middle as f64 != (value(low) + value(low + 1)) / 2.0 {
                continue;
            }
            let even = low + (low & 1);
            let bits = middle.to_bits();
            for (x, nearest) in [(bits - 1, low), (bits, even), (bits + 1, low + 1)] {
                src.extend([f32::from_bits(x), -f32::from_bits(x)]);
                want.extend([nearest, nearest | 0x8000]);
            }
        }
        let beyond = [65519.996, 65520.0, f32::MAX, f32::INFINITY];
        if elem == Elem::F16 {
            src.extend(beyond);
            want.extend([0x7bff, 0x7c00, 0x7c00, 0x7c00]);
        }
        src.push(f32::INFINITY);
        want.push(infinity);
        for isa in available() {
            let got = halves(&converted(isa, Elem::F32, elem, &f32_bytes(&src)));
            for ((x, got), want) in src.iter().zip(got).zip(&want) {
                assert_eq!(got, *want, "{isa:?} {elem:?} {x:e}");
            }
            for bits in [0x7f80_0001, 0x7fff_ffff, 0xffc0_0000u32] {
                let nan = f32_bytes(&[f32::from_bits(bits)]);
                assert!(value(halves(&converted(isa, Elem::F32, elem, &nan))[0]).is_nan());
            }
        }
    }
}

#[test]
fn conversions_that_do_not_exist_or_fit_are_refused() {
    let t = token();
    let try_it = |from, to, src: usize, dst: usize| {
        convert(&t, Isa::Scalar, from, to, &vec![0; src], &mut vec![0; dst])
    };
    assert_eq!(try_it(Elem::F32, Elem::F16, 8, 4), Ok(()));
    assert_eq!(try_it(Elem::F32, Elem::F16, 8, 3), Err(BadShape));
    assert_eq!(try_it(Elem::F32, Elem::F16, 9, 4), Err(BadShape));
    assert_eq!(try_it(Elem::Bf16, Elem::F32, 4, 8), Ok(()));
    assert_eq!(try_it(Elem::Bf16, Elem::F32, 5, 8), Err(BadShape));
    assert_eq!(try_it(Elem::Bf16, Elem::F32, 4, 9), Err(BadShape));
    assert_eq!(try_it(Elem::I8, Elem::F32, 3, 12), Ok(()));
    assert_eq!(try_it(Elem::U8, Elem::F32, 3, 8), Err(BadShape));
    assert_eq!(try_it(Elem::Binary, Elem::F32, 2, 36), Ok(()));
    assert_eq!(try_it(Elem::Binary, Elem::F32, 2, 32), Err(BadShape));
    assert_eq!(try_it(Elem::Binary, Elem::F32, 2, 68), Err(BadShape));
    assert_eq!(try_it(Elem::F32, Elem::U8, 12, 3), Err(BadShape));
    assert_eq!(try_it(Elem::F32, Elem::F32, 4, 4), Err(BadShape));
    assert_eq!(try_it(Elem::F16, Elem::Bf16, 4, 4), Err(BadShape));
}

#[test]
fn quantisation_rounds_saturates_and_returns_within_half_a_step() {
    let mut rng = Rng(21);
    for dim in [1, 7, 8, 31, 64, 129, 384] {
        let row: Vec<f32> = (0..dim).map(|_| (rng.unit() * 2.0) as f32).collect();
        let offsets: Vec<f32> = (0..dim).map(|_| (rng.unit() * 0.1) as f32).collect();
        let scales: Vec<f32> = (0..dim)
            .map(|_| 0.01 + (rng.unit() * 0.005) as f32)
            .collect();
        for per_dim in [false, true] {
            let n = if per_dim { dim } else { 1 };
            let (offset, scale) = (f32_bytes(&offsets[..n]), f32_bytes(&scales[..n]));
            let by = Quantiser {
                offset: &offset,
                scale: &scale,
            };
            for isa in available() {
                let mut codes = vec![0; dim];
                quantise_i8(&token(), isa, by, &f32_bytes(&row), &mut codes).unwrap();
                let mut back = vec![0; 4 * dim];
                dequantise_i8(&token(), isa, by, &codes, &mut back).unwrap();
                for (i, back) in floats(&back).into_iter().enumerate() {
                    let (offset, scale) = (offsets[i % n], scales[i % n]);
                    let exact = ((row[i] - offset) / scale) as f64;
                    let code = codes[i] as i8;
                    let want = exact.round_ties_even().clamp(-128.0, 127.0);
                    assert_eq!(code as f64, want, "{isa:?} dim {dim}");
                    assert_eq!(back, code as f32 * scale + offset, "{isa:?} dim {dim}");
                    if (-128.0..=127.0).contains(&exact) {
                        assert!(
                            (back - row[i]).abs() <= scale * 0.500_01,
                            "{isa:?} dim {dim}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn quantisation_handles_ties_ranges_of_width_zero_and_wrong_shapes() {
    let zero = f32_bytes(&[0.0]);
    let one = f32_bytes(&[1.0]);
    let row = f32_bytes(&[0.5, 1.5, -0.5, -1.5, 1e30, -1e30, 126.5, -128.5]);
    for isa in available() {
        let mut codes = [0; 8];
        let by = Quantiser {
            offset: &zero,
            scale: &one,
        };
        quantise_i8(&token(), isa, by, &row, &mut codes).unwrap();
        assert_eq!(
            codes.map(|c| c as i8),
            [0, 2, 0, -2, 127, -128, 126, -128],
            "{isa:?}"
        );
        // 0/0 is code 0, and x/0 the end on its side.
        let by = Quantiser {
            offset: &one,
            scale: &zero,
        };
        let row = f32_bytes(&[1.0, 2.0, 0.0]);
        quantise_i8(&token(), isa, by, &row, &mut codes[..3]).unwrap();
        assert_eq!(codes[..3], [0, 127, 0x80], "{isa:?}");
        assert_eq!(
            quantise_i8(&token(), isa, by, &row, &mut codes),
            Err(BadShape)
        );
        let by = Quantiser {
            offset: &one,
            scale: &row,
        };
        assert_eq!(
            quantise_i8(&token(), isa, by, &row, &mut codes[..3]),
            Err(BadShape)
        );
        let by = Quantiser {
            offset: &row[..8],
            scale: &row[..8],
        };
        assert_eq!(
            quantise_i8(&token(), isa, by, &row, &mut codes[..3]),
            Err(BadShape)
        );
        assert_eq!(
            dequantise_i8(&token(), isa, by, &codes[..2], &mut [0; 9]),
            Err(BadShape)
        );
    }
}

#[test]
fn normalised_vectors_have_norm_one_and_the_same_bits_everywhere() {
    let mut rng = Rng(33);
    for dim in if cfg!(miri) {
        [1, 2, 7, 8, 9, 31, 33, 64]
    } else {
        [1, 2, 7, 8, 9, 100, 384, 1536]
    } {
        for scale in [1e-42, 1e-20, 1.0, 1e25, 3e38] {
            let row: Vec<f32> = (0..dim).map(|_| (rng.unit() * scale) as f32).collect();
            let norm = row.iter().map(|&x| x as f64 * x as f64).sum::<f64>().sqrt();
            let mut first: Option<Vec<u8>> = None;
            for isa in available() {
                let mut bytes = f32_bytes(&row);
                assert_eq!(normalise_f32(&token(), isa, &mut bytes), norm > 0.0);
                for (got, &x) in floats(&bytes).iter().zip(&row) {
                    let want = if norm > 0.0 { x as f64 / norm } else { 0.0 };
                    assert!(
                        (*got as f64 - want).abs() <= want.abs() * 6.1e-8 + 1e-44,
                        "{isa:?}"
                    );
                }
                assert_eq!(
                    *first.get_or_insert(bytes.clone()),
                    bytes,
                    "{isa:?} dim {dim}"
                );
            }
        }
    }
}

#[test]
fn vectors_without_a_direction_stay_as_they_are() {
    for isa in available() {
        for row in [
            vec![0.0f32; 5],
            vec![1.0, f32::NAN],
            vec![f32::INFINITY; 9],
            vec![],
        ] {
            let mut bytes = f32_bytes(&row);
            assert!(!normalise_f32(&token(), isa, &mut bytes));
            assert_eq!(bytes, f32_bytes(&row));
        }
        assert!(!normalise_f32(&token(), isa, &mut [0, 0, 0x80, 0x3f, 1]));
    }
}

#[test]
fn integers_and_bits_are_widened_exactly() {
    let bytes: Vec<u8> = (0..=255).collect();
    for isa in available() {
        for elem in [Elem::I8, Elem::U8, Elem::Binary] {
            let dim = if elem == Elem::Binary { 2045 } else { 256 };
            let mut got = vec![0xaa; 4 * dim];
            convert(&token(), isa, elem, Elem::F32, &bytes, &mut got).unwrap();
            assert_eq!(
                values(Elem::F32, &got, dim),
                values(elem, &bytes, dim),
                "{isa:?} {elem:?}"
            );
        }
    }
}
