// SPDX-License-Identifier: Apache-2.0

//! Rows of f32 in other types.

use vexfs_simd_host::{convert, token, Elem, Isa};

/// The elements of rows of f32.
fn elements(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let element = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(element)
}

/// The greatest absolute value of an element.
pub fn greatest(bytes: &[u8]) -> f32 {
    elements(bytes).fold(0.0, |most, x| most.max(x.abs()))
}

/// Rows of `dim` f32 as rows of `elem`: integers reach as far as `most`, those without a sign around 128, and bits say
/// which elements are positive.
pub fn rows(elem: Elem, dim: usize, most: f32, bytes: &[u8]) -> Vec<u8> {
    let levels = elements(bytes).map(|x| (x / most * 127.0).round());
    match elem {
        Elem::F32 => bytes.to_vec(),
        Elem::F16 | Elem::Bf16 => {
            let mut out = vec![0; bytes.len() / 2];
            convert(&token(), Isa::best(), Elem::F32, elem, bytes, &mut out).expect("floats");
            out
        }
        Elem::I8 => levels.map(|level| level as i8 as u8).collect(),
        Elem::U8 => levels.map(|level| (level + 128.0) as u8).collect(),
        Elem::Binary => {
            let positive: Vec<bool> = elements(bytes).map(|x| x > 0.0).collect();
            let pack = |bits: &[bool]| {
                (0..)
                    .zip(bits)
                    .fold(0, |byte, (i, &bit)| byte | u8::from(bit) << i)
            };
            positive
                .chunks(dim)
                .flat_map(|row| row.chunks(8))
                .map(pack)
                .collect()
        }
    }
}
