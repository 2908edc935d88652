// SPDX-License-Identifier: Apache-2.0
//! Integers from a `.npy` file: keys and tags (one per row), ground truth (a row
//! of row numbers per query).

use super::npy::{self, Dtype};
use super::{check_length, open_regular};
use crate::error::{sentence, Result};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Columns that a matrix of integers may have; ground truth has as many as k can be.
const MAX_COLUMNS: u64 = 65536;

/// A matrix of integers, read from the first row to the last.
#[derive(Debug)]
pub struct Integers<R> {
    name: String,
    input: R,
    dtype: Dtype,
    big_endian: bool,
    rows: u64,
    columns: usize,
    next: u64,
}

impl Integers<BufReader<File>> {
    /// Opens a `.npy` file of integers with 1 or 2 dimensions.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, length) = open_regular(path)?;
        Self::new(&path.display().to_string(), BufReader::new(file), length)
    }

    /// Opens a file that has one integer for each of `rows` rows; `what` they are.
    pub fn open_column(path: &Path, what: &str, rows: u64) -> Result<Self> {
        let column = Self::open(path)?;
        if column.columns != 1 || column.rows != rows {
            return Err(sentence!(
                "{} has {} x {} {what} for {rows} rows; give one for each row",
                path.display(),
                column.rows,
                column.columns
            ));
        }
        Ok(column)
    }
}

impl<R: Read> Integers<R> {
    /// The integers in `input`, which has `length` bytes; `name` is for messages.
    pub fn new(name: &str, mut input: R, length: u64) -> Result<Self> {
        let header = npy::read_header(name, &mut input)?;
        let (rows, columns) = match header.shape[..] {
            [rows] => (rows, 1),
            [rows, columns] if (1..=MAX_COLUMNS).contains(&columns) => (rows, columns as usize),
            _ => {
                return Err(sentence!(
                    "{name} has the shape {:?}; integers are wanted with 1 or 2 dimensions",
                    header.shape
                ))
            }
        };
        if matches!(header.dtype, Dtype::Float(_)) {
            return Err(sentence!(
                "{name} holds floats where integers are wanted; save x.astype('int64')"
            ));
        }
        let have = length.saturating_sub(header.data_start);
        check_length(name, rows, columns * header.dtype.bytes(), have)?;
        Ok(Self {
            name: name.into(),
            input,
            dtype: header.dtype,
            big_endian: header.big_endian,
            rows,
            columns,
            next: 0,
        })
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Reads up to `max_rows` rows, `n x columns`.
    pub fn read(&mut self, max_rows: usize) -> Result<Vec<i128>> {
        let left = usize::try_from(self.rows - self.next).unwrap_or(usize::MAX);
        let rows = max_rows.min(left);
        let size = self.dtype.bytes();
        let mut bytes = vec![0; rows * self.columns * size];
        self.input.read_exact(&mut bytes).map_err(|e| {
            sentence!(
                "cannot read row {} of {}: {e}; make or copy it again",
                self.next,
                self.name
            )
        })?;
        self.next += rows as u64;
        Ok(bytes.chunks_exact(size).map(|b| self.integer(b)).collect())
    }

    /// Reads up to `max_rows` rows of unsigned integers, such as keys.
    pub fn read_unsigned(&mut self, max_rows: usize) -> Result<Vec<u64>> {
        let first = self.next;
        let values = self.read(max_rows)?;
        let convert = |(i, value): (usize, i128)| {
            u64::try_from(value).map_err(|_| {
                let row = first + i as u64;
                sentence!(
                    "row {row} of {} is {value}; only numbers from 0 are taken",
                    self.name
                )
            })
        };
        values.into_iter().enumerate().map(convert).collect()
    }

    /// Skips `rows` rows.
    pub fn skip(&mut self, rows: u64) -> Result<()> {
        let mut left = rows;
        while left > 0 && self.next < self.rows {
            let some = left.min(65536);
            self.read(some as usize)?;
            left -= some;
        }
        Ok(())
    }

    /// An element from its bytes.
    fn integer(&self, bytes: &[u8]) -> i128 {
        let mut wide = [0; 8];
        for (i, byte) in bytes.iter().enumerate() {
            let at = if self.big_endian {
                bytes.len() - 1 - i
            } else {
                i
            };
            wide[at] = *byte;
        }
        let value = u64::from_le_bytes(wide);
        match self.dtype {
            Dtype::Int(n) => {
                // Moves the sign bit to the top and back.
                let shift = 64 - 8 * u32::from(n);
                i128::from(((value << shift) as i64) >> shift)
            }
            _ => i128::from(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(descr: &str, shape: &str, data: &[u8]) -> Result<Integers<std::io::Cursor<Vec<u8>>>> {
        let mut bytes = npy::header_bytes(descr, shape).to_vec();
        bytes.extend(data);
        let length = bytes.len() as u64;
        Integers::new("x", std::io::Cursor::new(bytes), length)
    }

    #[test]
    fn signs_widths_and_byte_orders_are_kept() {
        let cases: [(&str, &[u8], i128); 6] = [
            ("<i4", &[0xff, 0xff, 0xff, 0xff], -1),
            (">i4", &[0, 0, 1, 2], 258),
            ("|i1", &[0x80], -128),
            ("|u1", &[0x80], 128),
            ("<u8", &[0xff; 8], u64::MAX as i128),
            (">i8", &[0x80, 0, 0, 0, 0, 0, 0, 0], i64::MIN as i128),
        ];
        for (descr, data, want) in cases {
            let mut m = matrix(descr, "(1,)", data).unwrap();
            assert_eq!(m.read(5).unwrap(), [want], "{descr}");
        }
    }

    #[test]
    fn keys_are_not_negative_and_floats_are_no_keys() {
        let mut m = matrix("|i1", "(3, 1)", &[1, 2, 0xff]).unwrap();
        m.skip(1).unwrap();
        let error = m.read_unsigned(9).unwrap_err().to_string();
        assert!(error.contains("row 2 of x is -1"), "{error}");
        let error = matrix("<f4", "(1,)", &[0; 4]).unwrap_err().to_string();
        assert!(error.contains("floats"), "{error}");
        let error = matrix("<i4", "(2,)", &[0; 4]).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }
}
