// SPDX-License-Identifier: Apache-2.0
//! Vectors from a file, as elements of a container.

use super::narrow::{self, narrow};
use super::npy::{self, Dtype};
use super::{check_length, open_regular, Format};
use crate::error::{sentence, Error, Result};
use half::f16;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use vexfs_client::uapi::VEXFS_MAX_DIM;
use vexfs_client::{ElementType, VectorBuf};

/// How a row lies in the file.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Bytes before the elements of each row: its dimension in `.fvecs` and `.bvecs`.
    prefix: usize,
    dtype: Dtype,
    big_endian: bool,
}

/// A file of vectors, read from the first row to the last.
#[derive(Debug)]
pub struct Source<R> {
    name: String,
    input: R,
    layout: Layout,
    dim: usize,
    rows: u64,
    next: u64,
    data_start: u64,
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}

impl Source<BufReader<File>> {
    /// Opens a file of vectors.
    ///
    /// Errors: those of the system; a name or content of no known format; a length
    /// that does not fit the header; a dimension of 0 or above 65536.
    pub fn open(path: &Path) -> Result<Self> {
        let format = Format::of(path)?;
        let (file, length) = open_regular(path)?;
        Source::new(
            &path.display().to_string(),
            format,
            BufReader::new(file),
            length,
        )
    }
}

impl<R: Read + Seek> Source<R> {
    /// The vectors in `input`, which has `length` bytes; `name` is for messages.
    pub fn new(name: &str, format: Format, mut input: R, length: u64) -> Result<Self> {
        let (layout, dim, rows, data_start) = match format {
            Format::Npy => Self::begin_npy(name, &mut input, length)?,
            Format::Fvecs => Self::begin_vecs(name, &mut input, length, Dtype::Float(4))?,
            Format::Bvecs => Self::begin_vecs(name, &mut input, length, Dtype::Uint(1))?,
        };
        Ok(Self {
            name: name.into(),
            input,
            layout,
            dim,
            rows,
            next: 0,
            data_start,
            bytes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    fn begin_npy(name: &str, input: &mut R, length: u64) -> Result<(Layout, usize, u64, u64)> {
        let header = npy::read_header(name, input)?;
        let [rows, dim] = header.shape[..] else {
            return Err(sentence!(
                "{name} has {} dimension(s); vectors need 2, rows x elements: use x.reshape(-1, DIM)",
                header.shape.len()
            ));
        };
        let dim = check_dim(name, dim)?;
        let have = length.saturating_sub(header.data_start);
        check_length(name, rows, dim * header.dtype.bytes(), have)?;
        let layout = Layout {
            prefix: 0,
            dtype: header.dtype,
            big_endian: header.big_endian,
        };
        Ok((layout, dim, rows, header.data_start))
    }

    fn begin_vecs(
        name: &str,
        input: &mut R,
        length: u64,
        dtype: Dtype,
    ) -> Result<(Layout, usize, u64, u64)> {
        let mut first = [0; 4];
        input.read_exact(&mut first).map_err(|_| {
            sentence!("{name} has no row, or it is truncated; make or copy it again")
        })?;
        input
            .seek(SeekFrom::Start(0))
            .map_err(|e| sentence!("cannot read {name}: {e}"))?;
        let dim = check_dim(name, i64::from(i32::from_le_bytes(first)).max(0) as u64)?;
        let row_bytes = 4 + dim * dtype.bytes();
        if !length.is_multiple_of(row_bytes as u64) {
            return Err(sentence!(
                "{name} is truncated or not of its format: {length} bytes are not rows of {row_bytes} (dimension {dim}); make or copy it again"
            ));
        }
        let layout = Layout {
            prefix: 4,
            dtype,
            big_endian: false,
        };
        Ok((layout, dim, length / row_bytes as u64, 0))
    }

    /// Elements of a row as a container of `element_type` counts them: of bits, there are eight in a
    /// byte of the file.
    ///
    /// Errors: elements that cannot be of that type.
    pub fn dim_of(&self, element_type: ElementType) -> Result<usize> {
        narrow::check(self.layout.dtype, element_type)
            .map_err(|what| Error::Sentence(format!("{} {what}", self.name)))?;
        Ok(match element_type {
            ElementType::Binary => check_dim(&self.name, self.dim as u64 * 8)?,
            _ => self.dim,
        })
    }

    /// Compares what a row of the file is with what a container takes.
    ///
    /// Errors: elements that cannot be of `element_type`, or another number of them than `dim`.
    pub fn check_shape(
        &self,
        element_type: ElementType,
        dim: usize,
        container: &Path,
    ) -> Result<()> {
        let have = self.dim_of(element_type)?;
        // The last byte of bits need not be used up.
        let want = match element_type {
            ElementType::Binary => dim.next_multiple_of(8),
            _ => dim,
        };
        if have != want {
            return Err(sentence!(
                "{} has vectors of {have} elements and {} wants {dim}; use vectors of the same model",
                self.name,
                container.display()
            ));
        }
        Ok(())
    }

    /// Rows of the file.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The row that is read next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn row_bytes(&self) -> usize {
        self.layout.prefix + self.dim * self.layout.dtype.bytes()
    }

    /// Goes to row `row`, or behind the last.
    pub fn seek_row(&mut self, row: u64) -> Result<()> {
        let row = row.min(self.rows);
        // Below the file's length, so it does not overflow.
        let at = self.data_start + row * self.row_bytes() as u64;
        self.input
            .seek(SeekFrom::Start(at))
            .map_err(|e| sentence!("cannot read {}: {e}", self.name))?;
        self.next = row;
        Ok(())
    }

    /// Replaces `out` by up to `max_rows` rows of its type; returns how many, 0 at the end.
    ///
    /// Errors: those of the system; a value that neither f32 nor the type can hold; a row of another
    /// dimension; a type that [`Self::dim_of`] refuses.
    pub fn read(&mut self, max_rows: usize, out: &mut VectorBuf) -> Result<usize> {
        self.dim_of(out.as_vectors().element_type())?;
        out.clear();
        let left = usize::try_from(self.rows - self.next).unwrap_or(usize::MAX);
        let rows = max_rows.min(left);
        let row_bytes = self.row_bytes();
        self.bytes.resize(rows.saturating_mul(row_bytes), 0);
        self.input.read_exact(&mut self.bytes).map_err(|e| {
            sentence!(
                "cannot read row {} of {}: {e}; make or copy it again",
                self.next,
                self.name
            )
        })?;
        for (i, row) in self.bytes.chunks_exact(row_bytes).enumerate() {
            let (prefix, elements) = row.split_at(self.layout.prefix);
            let converted = check_prefix(prefix, self.dim)
                .and_then(|()| convert(&self.layout, elements, &mut self.numbers, out));
            converted.map_err(|what| {
                let row = self.next + i as u64;
                Error::Sentence(format!("row {row} of {} {what}", self.name))
            })?;
        }
        self.next += rows as u64;
        Ok(rows)
    }
}

fn check_dim(name: &str, dim: u64) -> Result<usize> {
    if (1..=u64::from(VEXFS_MAX_DIM)).contains(&dim) {
        Ok(dim as usize)
    } else {
        Err(sentence!(
            "{name} has vectors of {dim} elements, or is not of its format; a container takes 1 to {VEXFS_MAX_DIM}"
        ))
    }
}

fn check_prefix(prefix: &[u8], dim: usize) -> std::result::Result<(), String> {
    match prefix.try_into().map(i32::from_le_bytes) {
        // `.npy` has no prefix.
        Err(_) => Ok(()),
        Ok(have) if usize::try_from(have) == Ok(dim) => Ok(()),
        Ok(have) => Err(format!(
            "says dimension {have} where the first row says {dim}; make or copy the file again"
        )),
    }
}

/// Appends one row's elements to `out`, by way of `numbers` if they are not of its type already.
fn convert(
    layout: &Layout,
    bytes: &[u8],
    numbers: &mut Vec<f32>,
    out: &mut VectorBuf,
) -> std::result::Result<(), String> {
    if narrow::as_they_are(layout.dtype, layout.big_endian, bytes, out) {
        return Ok(());
    }
    numbers.clear();
    widen(layout, bytes, numbers)?;
    narrow(numbers, out)
}

/// Appends one row's elements to `out`, exactly.
fn widen(layout: &Layout, bytes: &[u8], out: &mut Vec<f32>) -> std::result::Result<(), String> {
    /// The elements of `N` bytes each, least significant byte first.
    fn elements<const N: usize>(bytes: &[u8], big: bool) -> impl Iterator<Item = [u8; N]> + '_ {
        bytes.chunks_exact(N).map(move |chunk| {
            let mut element = [0; N];
            element.copy_from_slice(chunk);
            if big {
                element.reverse();
            }
            element
        })
    }
    let big = layout.big_endian;
    match layout.dtype {
        Dtype::Float(2) => {
            out.extend(elements::<2>(bytes, big).map(|b| f16::from_le_bytes(b).to_f32()))
        }
        Dtype::Float(4) => out.extend(elements::<4>(bytes, big).map(f32::from_le_bytes)),
        Dtype::Float(_) => {
            for wide in elements::<8>(bytes, big).map(f64::from_le_bytes) {
                let narrow = wide as f32;
                // A NaN goes on: whoever takes the row says what it thinks of it.
                if f64::from(narrow) != wide && !wide.is_nan() {
                    return Err(format!(
                        "holds {wide}, which f32 cannot hold exactly; round knowingly with x.astype('float32')"
                    ));
                }
                out.push(narrow);
            }
        }
        Dtype::Int(_) => out.extend(bytes.iter().map(|b| f32::from(*b as i8))),
        Dtype::Uint(_) => out.extend(bytes.iter().map(|b| f32::from(*b))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use vexfs_client::Vectors;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = npy::header_bytes(descr, shape).to_vec();
        bytes.extend(data);
        bytes
    }

    fn open(format: Format, bytes: &[u8]) -> Result<Source<Cursor<&[u8]>>> {
        Source::new("x", format, Cursor::new(bytes), bytes.len() as u64)
    }

    fn all(format: Format, bytes: &[u8]) -> Result<(usize, Vec<f32>)> {
        let mut source = open(format, bytes)?;
        let (mut values, mut some) = (Vec::new(), VectorBuf::default());
        while source.read(2, &mut some)? > 0 {
            values.extend(some.as_vectors().to_f32(source.dim));
        }
        Ok((source.dim, values))
    }

    fn sentence_of<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn every_npy_type_becomes_the_same_f32() {
        let want = (2, vec![1.0f32, -2.0, 3.0, 4.0, -5.0, 6.0]);
        let f64s = want.1.iter().map(|v| f64::from(*v));
        let f64_big: Vec<u8> = f64s.clone().flat_map(f64::to_be_bytes).collect();
        let f64_little: Vec<u8> = f64s.flat_map(f64::to_le_bytes).collect();
        let f32_little: Vec<u8> = want.1.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16_big: Vec<u8> = want
            .1
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_be_bytes())
            .collect();
        let i8s: Vec<u8> = want.1.iter().map(|v| *v as i8 as u8).collect();
        for (descr, data) in [
            (">f8", f64_big),
            ("<f8", f64_little),
            ("<f4", f32_little),
            (">f2", f16_big),
            ("|i1", i8s),
        ] {
            let file = npy(descr, "(3, 2)", &data);
            assert_eq!(all(Format::Npy, &file).unwrap(), want, "{descr}");
        }
        let file = npy("|u1", "(1, 3)", &[0, 128, 255]);
        assert_eq!(all(Format::Npy, &file).unwrap().1, [0.0, 128.0, 255.0]);
    }

    #[test]
    fn a_value_that_f32_cannot_hold_is_refused_with_its_row() {
        let data: Vec<u8> = [1.5f64, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let error = sentence_of(all(Format::Npy, &npy("<f8", "(2, 1)", &data)));
        assert!(error.contains("row 1 of x holds 0.1"), "{error}");
        let data = f64::MAX.to_le_bytes();
        let error = sentence_of(all(Format::Npy, &npy("<f8", "(1, 1)", &data)));
        assert!(error.contains("cannot hold"), "{error}");
        let error = sentence_of(all(Format::Npy, &npy("<i4", "(1, 1)", &[0; 4])));
        assert!(error.contains("astype"), "{error}");
        let data = f64::NAN.to_le_bytes();
        let values = all(Format::Npy, &npy("<f8", "(1, 1)", &data)).unwrap().1;
        assert!(values[0].is_nan());
    }

    #[test]
    fn elements_of_the_same_type_stay_as_they_are() {
        let halves = [0x3c01u16, 0xbc00];
        let little: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
        let big: Vec<u8> = halves.iter().flat_map(|h| h.to_be_bytes()).collect();
        let cases = [
            ("<f2", &little, ElementType::F16),
            (">f2", &big, ElementType::F16),
            ("<u2", &little, ElementType::Bf16),
            (">u2", &big, ElementType::Bf16),
        ];
        for (descr, data, element_type) in cases {
            let mut out = VectorBuf::zeroed(element_type, 2, 0);
            let file = npy(descr, "(1, 2)", data);
            let mut source = open(Format::Npy, &file).unwrap();
            assert_eq!(source.read(9, &mut out).unwrap(), 1, "{descr}");
            let want = halves.map(f16::from_bits);
            let want = Vectors::from(&want).as_bytes();
            assert_eq!(out.as_mut_bytes(), want, "{descr}");
        }
        let file = npy("|u1", "(2, 2)", &[0xff, 1, 0x80, 0]);
        let mut source = open(Format::Npy, &file).unwrap();
        assert_eq!(source.dim_of(ElementType::Binary).unwrap(), 16);
        let path = Path::new("c");
        source.check_shape(ElementType::Binary, 9, path).unwrap();
        source
            .check_shape(ElementType::Binary, 8, path)
            .unwrap_err();
        let mut out = VectorBuf::zeroed(ElementType::Binary, 16, 0);
        source.read(9, &mut out).unwrap();
        assert_eq!(out, VectorBuf::Binary(vec![0xff, 1, 0x80, 0]));
    }

    #[test]
    fn a_number_that_the_container_cannot_hold_is_refused_with_its_row() {
        let numbers = [1.0f32, 70000.0];
        let data: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        let file = npy("<f4", "(2, 1)", &data);
        for (element_type, what) in [
            (
                ElementType::F16,
                "row 1 of x holds 70000, which is beyond f16",
            ),
            (ElementType::U8, "row 1 of x holds 70000, which is no uint8"),
            (ElementType::Binary, "x has no packed bits"),
        ] {
            let mut out = VectorBuf::zeroed(element_type, 1, 0);
            let mut source = open(Format::Npy, &file).unwrap();
            let error = sentence_of(source.read(9, &mut out));
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn vecs_files_are_read_and_their_rows_checked() {
        let mut fvecs = Vec::new();
        for row in [[1.0f32, 2.0], [3.0, 4.0]] {
            fvecs.extend(2i32.to_le_bytes());
            fvecs.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        }
        let want = (2, vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(all(Format::Fvecs, &fvecs).unwrap(), want);
        let bvecs = [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 3, 4];
        assert_eq!(all(Format::Bvecs, &bvecs).unwrap(), want);
        let error = sentence_of(open(Format::Fvecs, &fvecs[..20]));
        assert!(error.contains("truncated"), "{error}");
        fvecs[12] = 3;
        let error = sentence_of(all(Format::Fvecs, &fvecs));
        assert!(error.contains("row 1 of x says dimension 3"), "{error}");
        let error = sentence_of(open(Format::Fvecs, &[]));
        assert!(error.contains("no row"), "{error}");
        let error = sentence_of(open(Format::Fvecs, &[0xff; 8]));
        assert!(error.contains("1 to 65536"), "{error}");
    }

    #[test]
    fn a_length_that_does_not_fit_the_header_is_noticed_at_once() {
        let whole = npy("<f4", "(2, 2)", &[0; 16]);
        assert!(open(Format::Npy, &whole).is_ok());
        let error = sentence_of(open(Format::Npy, &whole[..whole.len() - 1]));
        assert!(error.contains("is truncated (15 bytes"), "{error}");
        let error = sentence_of(open(Format::Npy, &npy("<f4", "(2, 2)", &[0; 17])));
        assert!(error.contains("longer"), "{error}");
        for shape in ["(18446744073709551615, 2)", "(2305843009213693952, 2)"] {
            let error = sentence_of(open(Format::Npy, &npy("<f4", shape, &[])));
            assert!(error.contains("truncated"), "{error}");
        }
        let error = sentence_of(open(Format::Npy, &npy("<f4", "(2, 0)", &[])));
        assert!(error.contains("1 to 65536"), "{error}");
        let error = sentence_of(open(Format::Npy, &npy("<f4", "(2,)", &[0; 8])));
        assert!(error.contains("reshape"), "{error}");
    }

    #[test]
    fn reading_can_begin_at_a_later_row() {
        let file = npy("|u1", "(4, 1)", &[1, 2, 3, 4]);
        let mut source = open(Format::Npy, &file).unwrap();
        let mut out = VectorBuf::default();
        source.seek_row(2).unwrap();
        assert_eq!(source.read(9, &mut out).unwrap(), 2);
        assert_eq!(out, VectorBuf::F32(vec![3.0, 4.0]));
        source.seek_row(99).unwrap();
        assert_eq!(source.read(9, &mut out).unwrap(), 0);
    }
}
