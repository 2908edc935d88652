// SPDX-License-Identifier: Apache-2.0

//! Reading two-dimensional `.npy` arrays of floats, little-endian, in C order.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use vexfs_simd_host::{convert, token, Elem, Isa};

/// The elements of an array as f32 bytes, and how many a row has.
pub fn read_f32(path: &Path) -> Result<(Vec<u8>, usize)> {
    let bad = || {
        Error::new(
            ErrorKind::InvalidData,
            format!("{}: not understood", path.display()),
        )
    };
    let bytes = std::fs::read(path)?;
    let header_len = match bytes.get(..10).ok_or_else(bad)? {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high] => u16::from_le_bytes([*low, *high]),
        _ => return Err(bad()),
    };
    let header = bytes.get(10..10 + header_len as usize).ok_or_else(bad)?;
    let header = std::str::from_utf8(header).map_err(|_| bad())?;
    let data = &bytes[10 + header_len as usize..];
    let shape = header
        .split("'shape':")
        .nth(1)
        .and_then(|s| s.split(['(', ')']).nth(1));
    let shape: Vec<usize> = shape
        .ok_or_else(bad)?
        .split(',')
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    let [n, dim] = shape[..] else {
        return Err(bad());
    };
    let wide = if header.contains("'<f4'") {
        data.to_vec()
    } else if header.contains("'<f2'") {
        let mut wide = vec![0; 2 * data.len()];
        convert(&token(), Isa::best(), Elem::F16, Elem::F32, data, &mut wide).map_err(|_| bad())?;
        wide
    } else {
        return Err(bad());
    };
    if wide.len() != 4 * n * dim {
        return Err(bad());
    }
    Ok((wide, dim))
}
