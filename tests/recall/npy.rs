// SPDX-License-Identifier: Apache-2.0

//! Two-dimensional `.npy` arrays, little-endian, in C order.

use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

use vexfs_simd_host::{convert, token, Elem, Isa};

/// The type, the bytes and the second dimension of an array.
fn read_raw(path: &Path) -> Result<(String, Vec<u8>, usize)> {
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
        "|u1" => 1,
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

/// The type, the elements and the second dimension of an array of numbers: f16 becomes f32, f32 and u8 stay.
pub fn read(path: &Path) -> Result<(Elem, Vec<u8>, usize)> {
    let (kind, bytes, dim) = read_raw(path)?;
    match &kind[..] {
        "<f4" => Ok((Elem::F32, bytes, dim)),
        "|u1" => Ok((Elem::U8, bytes, dim)),
        "<f2" => {
            let mut wide = vec![0; 2 * bytes.len()];
            let (t, isa) = (token(), Isa::best());
            convert(&t, isa, Elem::F16, Elem::F32, &bytes, &mut wide).map_err(|_| bad(path))?;
            Ok((Elem::F32, wide, dim))
        }
        _ => Err(bad(path)),
    }
}

/// The elements of an array of f16 or f32 as f32 bytes, and how many a row has.
pub fn read_f32(path: &Path) -> Result<(Vec<u8>, usize)> {
    match read(path)? {
        (Elem::F32, bytes, dim) => Ok((bytes, dim)),
        _ => Err(bad(path)),
    }
}

/// The first `k` elements of each row of an array of i32.
pub fn read_rows(path: &Path, k: usize) -> Result<Vec<Vec<u64>>> {
    let (kind, bytes, dim) = read_raw(path)?;
    if kind != "<i4" || dim < k {
        return Err(bad(path));
    }
    let number = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as u64;
    let row = |b: &[u8]| b.chunks_exact(4).take(k).map(number).collect();
    Ok(bytes.chunks_exact(4 * dim).map(row).collect())
}

/// Writes the header of an array of `rows` x `columns` f32, which follow it.
pub fn write_f32_header(out: &mut impl Write, rows: usize, columns: usize) -> Result<()> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The format wants the data aligned to 64 bytes, and a line's end before it.
    let len = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', len - header.len() - 1));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(len as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let path = std::env::temp_dir().join(format!("vexfs-npy-{}", std::process::id()));
        let mut bytes = Vec::new();
        write_f32_header(&mut bytes, 3, 2).unwrap();
        assert_eq!(bytes.len() % 64, 0);
        let elements: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        bytes.extend(&elements);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_f32(&path).unwrap(), (elements, 2));
        bytes.pop();
        std::fs::write(&path, &bytes).unwrap();
        assert!(read_f32(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
