// SPDX-License-Identifier: Apache-2.0

//! Fixed-point projections.

mod common;

use common::*;
use vexfs_simd_host::*;

#[test]
fn projections_are_scaled_cut_and_saturated_everywhere_alike() {
    let mut rng = Rng(109);
    let mut x: Vec<f32> = (0..70).map(|_| (rng.unit() * 100.0) as f32).collect();
    x[3..8].copy_from_slice(&[f32::NAN, 1e30, -1e30, f32::INFINITY, -0.4]);
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    for isa in available() {
        for n in [0, 1, 15, 16, 70] {
            let mut out = vec![7; n];
            fixed_f32(&token(), isa, &bytes, 2.5f32.to_bits(), &mut out).unwrap();
            let want: Vec<i32> = x[..n].iter().map(|v| (v * 2.5) as i32).collect();
            assert_eq!(out, want, "{isa:?} {n}");
            assert!(n < 8 || out[3..8] == [0, i32::MAX, i32::MIN, i32::MAX, -1]);
        }
    }
}

#[test]
fn vectors_that_are_too_short_are_refused() {
    let fixed = |bytes: usize, n: usize| {
        fixed_f32(&token(), Isa::best(), &vec![0; bytes], 0, &mut vec![0; n])
    };
    assert_eq!(fixed(8, 2), Ok(()));
    assert_eq!(fixed(8, 3), Err(BadShape));
    assert_eq!(fixed(9, 2), Err(BadShape));
}
