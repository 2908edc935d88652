// SPDX-License-Identifier: Apache-2.0
//! The `.npy` format: the header, and what its element types mean.
//!
//! Source: `numpy/lib/format.py`, versions 1.0, 2.0 and 3.0. The header is a Python
//! literal; this parser takes the dictionaries that numpy writes and nothing more.

use crate::error::{sentence, Result};
use std::io::Read;

/// Longer headers only come from structured types with many fields, or from garbage.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The headers written here have this size, so that the row count can be filled in later.
pub const WRITTEN_HEADER_BYTES: usize = 128;

/// Type of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE-754 floats of 2, 4 or 8 bytes.
    Float(u8),
    /// Signed integers of 1, 2, 4 or 8 bytes.
    Int(u8),
    /// Unsigned integers of 1, 2, 4 or 8 bytes.
    Uint(u8),
}

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::Float(n) | Dtype::Int(n) | Dtype::Uint(n) => n.into(),
        }
    }
}

/// What the header of an array says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Whether the elements have their most significant byte first.
    pub big_endian: bool,
    /// Length of each dimension.
    pub shape: Vec<u64>,
    /// Where the elements begin.
    pub data_start: u64,
}

/// A value of the header's dictionary.
#[derive(Debug)]
enum Value {
    Text(String),
    Bool(bool),
    Shape(Vec<u64>),
}

/// Reads the header of `name` from its beginning.
///
/// Errors: not a `.npy` file, a header that is cut off or that numpy would not write,
/// Fortran order, an element type that is no plain number.
pub fn read_header(name: &str, input: &mut impl Read) -> Result<Header> {
    let cut = |_| sentence!("{name} ends within its header; make or copy it again");
    let mut start = [0; 8];
    input.read_exact(&mut start).map_err(|_| {
        sentence!("{name} is too short for a .npy file; save the array with numpy.save")
    })?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(sentence!(
            "{name} is not a .npy file; save the array with numpy.save"
        ));
    }
    let (length_bytes, length) = match start[6] {
        1 => {
            let mut length = [0; 2];
            input.read_exact(&mut length).map_err(cut)?;
            (2, usize::from(u16::from_le_bytes(length)))
        }
        2 | 3 => {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(cut)?;
            (4, u32::from_le_bytes(length) as usize)
        }
        version => {
            return Err(sentence!(
                "{name} has .npy version {version}, which is not known; save it with numpy.save"
            ))
        }
    };
    if length > MAX_HEADER_BYTES {
        return Err(sentence!(
            "{name} has a header of {length} bytes, which no plain array has; save one 2-d array of numbers"
        ));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(cut)?;
    let header = Literal {
        name,
        text: &text,
        at: 0,
    }
    .dictionary()?;
    Ok(Header {
        data_start: (8 + length_bytes + length) as u64,
        ..header
    })
}

/// A cursor over the header's text.
struct Literal<'a> {
    name: &'a str,
    text: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        match self.eat(byte) {
            true => Ok(()),
            false => Err(self.garbled()),
        }
    }

    fn garbled(&self) -> crate::error::Error {
        sentence!(
            "{} has a garbled header (at byte {} of it); save the array again with numpy.save",
            self.name,
            self.at
        )
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|b| !keep(*b)).unwrap_or(rest.len());
        self.at += end;
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }

    fn quoted(&mut self) -> Result<String> {
        let quote = match self.peek() {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.garbled()),
        };
        self.at += 1;
        let text = self.take_while(|b| b != quote && b != b'\\');
        self.expect(quote)?;
        Ok(text)
    }

    fn value(&mut self) -> Result<Value> {
        match self.peek() {
            Some(b'\'' | b'"') => Ok(Value::Text(self.quoted()?)),
            Some(b'(') => Ok(Value::Shape(self.tuple()?)),
            Some(b'[') => Err(sentence!(
                "{} has a structured element type; save one 2-d array of plain numbers",
                self.name
            )),
            _ => match self.take_while(|b| b.is_ascii_alphabetic()).as_str() {
                "True" => Ok(Value::Bool(true)),
                "False" => Ok(Value::Bool(false)),
                _ => Err(self.garbled()),
            },
        }
    }

    fn tuple(&mut self) -> Result<Vec<u64>> {
        self.expect(b'(')?;
        let mut numbers = Vec::new();
        while !self.eat(b')') {
            self.peek();
            let digits = self.take_while(|b| b.is_ascii_digit());
            numbers.push(digits.parse().map_err(|_| self.garbled())?);
            // Python 2 wrote long integers with an L.
            self.eat(b'L');
            if !self.eat(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(numbers)
    }

    fn dictionary(&mut self) -> Result<Header> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.quoted()?;
            self.expect(b':')?;
            match (key.as_str(), self.value()?) {
                ("descr", Value::Text(v)) if descr.is_none() => descr = Some(v),
                ("fortran_order", Value::Bool(v)) if fortran.is_none() => fortran = Some(v),
                ("shape", Value::Shape(v)) if shape.is_none() => shape = Some(v),
                _ => return Err(self.garbled()),
            }
            if !self.eat(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        if self.peek().is_some() {
            return Err(self.garbled());
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(self.garbled());
        };
        // An array of one row or column is both.
        if fortran && shape.iter().filter(|n| **n > 1).count() > 1 {
            return Err(sentence!(
                "{} is in Fortran order; save it with numpy.save(FILE, numpy.ascontiguousarray(x))",
                self.name
            ));
        }
        let (dtype, big_endian) = parse_descr(&descr).ok_or_else(|| {
            sentence!(
                "{} has elements of type {descr:?}, which are not plain numbers; save it as x.astype('float32')",
                self.name
            )
        })?;
        Ok(Header {
            dtype,
            big_endian,
            shape,
            data_start: 0,
        })
    }
}

/// Type and byte order of numpy's `descr`, such as `<f4` or `|u1`.
fn parse_descr(descr: &str) -> Option<(Dtype, bool)> {
    let (order, rest) = descr.split_at_checked(1)?;
    let (kind, bytes) = rest.split_at_checked(1)?;
    let bytes: u8 = bytes.parse().ok()?;
    let dtype = match (kind, bytes) {
        ("f", 2 | 4 | 8) => Dtype::Float(bytes),
        ("i", 1 | 2 | 4 | 8) => Dtype::Int(bytes),
        ("u", 1 | 2 | 4 | 8) => Dtype::Uint(bytes),
        _ => return None,
    };
    match order {
        "<" => Some((dtype, false)),
        ">" => Some((dtype, true)),
        "|" | "=" if bytes == 1 => Some((dtype, false)),
        _ => None,
    }
}

/// A header of [`WRITTEN_HEADER_BYTES`] bytes for a little-endian array in C order.
///
/// `descr` is numpy's, `shape` the tuple as text, such as `(3, 4)`.
pub fn header_bytes(descr: &str, shape: &str) -> [u8; WRITTEN_HEADER_BYTES] {
    let mut header = [b' '; WRITTEN_HEADER_BYTES];
    let length = (WRITTEN_HEADER_BYTES - 10) as u16;
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&length.to_le_bytes());
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // Two numbers of 20 digits leave room to spare.
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[WRITTEN_HEADER_BYTES - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    fn read(text: &str) -> Result<Header> {
        read_header("x.npy", &mut file(text).as_slice())
    }

    #[test]
    fn headers_of_numpy_are_understood() {
        let text = "{'descr': '<f2', 'fortran_order': False, 'shape': (12000, 384), }   \n";
        let header = read(text).unwrap();
        assert_eq!(header.dtype, Dtype::Float(2));
        assert_eq!(header.shape, [12000, 384]);
        assert_eq!(header.data_start, 10 + text.len() as u64);
        let header = read("{'shape': (7L,), \"fortran_order\": True, 'descr': '>i8'}").unwrap();
        assert_eq!((header.dtype, header.big_endian), (Dtype::Int(8), true));
        assert_eq!(header.shape, [7]);
        let header = read("{'descr':'|u1','fortran_order':False,'shape':()}").unwrap();
        assert_eq!(header.shape, [0u64; 0]);
    }

    #[test]
    fn the_written_header_is_read_back() {
        for shape in ["(0, 384)", "(18446744073709551615, 65536)", "(5,)"] {
            let bytes = header_bytes("<f4", shape);
            let header = read_header("x", &mut bytes.as_slice()).unwrap();
            assert_eq!(header.data_start, WRITTEN_HEADER_BYTES as u64);
            assert_eq!(header.dtype, Dtype::Float(4));
        }
    }

    #[test]
    fn what_is_refused_says_what_to_do() {
        for (text, hint) in [
            (
                "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }",
                "ascontiguousarray",
            ),
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }",
                "astype",
            ),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
                "structured",
            ),
            (
                "{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }",
                "astype",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
                "garbled",
            ),
            ("{'descr': '<f4', 'fortran_order': False}", "garbled"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
                "garbled",
            ),
            ("", "garbled"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        let mut long = b"\x93NUMPY\x02\x00".to_vec();
        long.extend(u32::MAX.to_le_bytes());
        let error = read_header("x", &mut long.as_slice()).unwrap_err();
        assert!(error.to_string().contains("header of 4294967295 bytes"));
    }
}
