// SPDX-License-Identifier: Apache-2.0

//! The search for NaN and infinity.

mod common;

use common::*;
use vexfs_simd_host::*;

/// Bit patterns that are not finite, and finite ones that look similar.
fn patterns(elem: Elem) -> (&'static [u32], &'static [u32]) {
    match elem {
        Elem::F32 => (
            &[
                0x7f80_0000,
                0xff80_0000,
                0x7fc0_0000,
                0xff80_0001,
                0x7fff_ffff,
            ],
            &[0x7f7f_ffff, 0xff7f_ffff, 0x8000_0000, 0x807f_ffff],
        ),
        Elem::F16 => (
            &[0x7c00, 0xfc00, 0x7e00, 0xfc01, 0x7fff],
            &[0x7bff, 0xfbff, 0x8000, 0x83ff],
        ),
        _ => (
            &[0x7f80, 0xff80, 0x7fc0, 0xff81, 0x7fff],
            &[0x7f7f, 0xff7f, 0x8000, 0x807f],
        ),
    }
}

#[test]
fn finds_the_first_of_any_pattern_at_any_place_and_alignment() {
    for isa in available() {
        for elem in [Elem::F32, Elem::F16, Elem::Bf16] {
            let size = elem.row_bytes(1);
            let (bad, good) = patterns(elem);
            for len in [0, 1, 2, 127, 128, 129, 300] {
                for shift in 0..if cfg!(miri) { 2 } else { 8 } {
                    let mut bytes = vec![0xff; shift];
                    for i in 0..len {
                        bytes.extend(&good[i % good.len()].to_le_bytes()[..size]);
                    }
                    let find =
                        |bytes: &[u8]| first_non_finite(&token(), isa, elem, &bytes[shift..]);
                    assert_eq!(find(&bytes), None, "{isa:?} {elem:?} len {len}");
                    // An incomplete element is not looked at.
                    let mut cut = bytes.clone();
                    cut.extend(vec![0xff; size - 1]);
                    assert_eq!(find(&cut), None, "{isa:?} {elem:?} len {len}");
                    for at in (0..len).step_by(if cfg!(miri) { 50 } else { 1 }) {
                        let mut spoilt = bytes.clone();
                        let pattern = bad[at % bad.len()].to_le_bytes();
                        spoilt[shift + at * size..][..size].copy_from_slice(&pattern[..size]);
                        // A later one changes nothing.
                        let last = shift + (len - 1) * size;
                        spoilt[last..last + size].copy_from_slice(&pattern[..size]);
                        assert_eq!(find(&spoilt), Some(at), "{isa:?} {elem:?} len {len}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_and_bits_are_always_finite() {
    for isa in available() {
        for elem in [Elem::I8, Elem::U8, Elem::Binary] {
            assert_eq!(first_non_finite(&token(), isa, elem, &[0xff; 64]), None);
        }
    }
}

#[test]
fn random_rows_of_these_tests_are_finite() {
    let mut rng = Rng(9);
    for elem in Elem::ALL {
        let row = random_row(&mut rng, elem, 1000);
        assert_eq!(
            first_non_finite(&token(), Isa::Scalar, elem, &row),
            None,
            "{elem:?}"
        );
    }
}
