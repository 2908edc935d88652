// SPDX-License-Identifier: Apache-2.0

//! Reading two-dimensional `.npy` arrays, little-endian, in C order.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use vexfs_simd_host::{convert, token, Elem, Isa};

/// The type, the bytes and the second dimension of an array.
fn read(path: &Path) -> Result<(String, Vec<u8>, usize)> {
    let mut bytes = std::fs::read(path)?;
    let header_len = match bytes.get(..10).ok_or_else(|| bad(path))? {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high] => u16::from_le_bytes([*low, *high]),
        _ => return Err(bad(path)),
    };
    let data = 10 + header_len as usize;
    let header = bytes.get(10..data).ok_or_else(|| bad(path))?;
    let header = String::from_utf8_lossy(header).into_owned();
    let shape = header
        .split("'shape':")
        .nth(1)
        .and_then(|s| s.split(['(', ')']).nth(1));
    let shape: Vec<usize> = shape
        .ok_or_else(|| bad(path))?
        .split(',')
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    let [n, dim] = shape[..] else {
        return Err(bad(path));
    };
    let kind = header
        .split("'descr':")
        .nth(1)
        .and_then(|s| s.split('\'').nth(1));
    let kind = kind.ok_or_else(|| bad(path))?.to_owned();
    bytes.drain(..data);
    let size = match &kind[..] {
        "<f4" | "<i4" => 4,
        "<f2" => 2,
        _ => return Err(bad(path)),
    };
    if header.contains("'fortran_order': True") || bytes.len() != size * n * dim {
        return Err(bad(path));
    }
    Ok((kind, bytes, dim))
}

fn bad(path: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("{}: not understood", path.display()),
    )
}

/// The elements of an array of f16 or f32 as f32 bytes, and how many a row has.
pub fn read_f32(path: &Path) -> Result<(Vec<u8>, usize)> {
    let (kind, bytes, dim) = read(path)?;
    match &kind[..] {
        "<f4" => Ok((bytes, dim)),
        "<f2" => {
            let mut wide = vec![0; 2 * bytes.len()];
            convert(
                &token(),
                Isa::best(),
                Elem::F16,
                Elem::F32,
                &bytes,
                &mut wide,
            )
            .map_err(|_| bad(path))?;
            Ok((wide, dim))
        }
        _ => Err(bad(path)),
    }
}

/// The first `k` elements of each row of an array of i32.
pub fn read_rows(path: &Path, k: usize) -> Result<Vec<Vec<u64>>> {
    let (kind, bytes, dim) = read(path)?;
    if kind != "<i4" || dim < k {
        return Err(bad(path));
    }
    let number = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u64;
    let row = |b: &[u8]| b.chunks_exact(4).take(k).map(number).collect();
    Ok(bytes.chunks_exact(4 * dim).map(row).collect())
}
