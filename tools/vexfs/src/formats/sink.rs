// SPDX-License-Identifier: Apache-2.0
//! Vectors and keys to a file. It appears under its name when it is complete, and
//! not before.

use super::{npy, Format};
use crate::error::{sentence, Error, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use vexfs_client::{ElementType, Vectors};

/// A file that takes its name when it is finished.
#[derive(Debug)]
struct Pending {
    path: PathBuf,
    partial: PathBuf,
    output: BufWriter<File>,
    finished: bool,
}

impl Pending {
    fn create(path: &Path) -> Result<Self> {
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(|e| Error::file("create", &partial, &e))?;
        Ok(Self {
            path: path.into(),
            partial,
            output: BufWriter::with_capacity(1 << 20, file),
            finished: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.output.write_all(bytes);
        written.map_err(|e| Error::file("write", &self.path, &e))
    }

    /// Rewrites the beginning and gives the file its name.
    fn finish(mut self, header: &[u8]) -> Result<()> {
        let mut close = || {
            self.output.flush()?;
            if !header.is_empty() {
                self.output.seek(SeekFrom::Start(0))?;
                self.output.write_all(header)?;
                self.output.flush()?;
            }
            std::fs::rename(&self.partial, &self.path)
        };
        close().map_err(|e| Error::file("write", &self.path, &e))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing better can be done about an error here.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// A file of vectors being written: `.npy` of the container's type, `.fvecs` or `.bvecs`.
#[derive(Debug)]
pub struct VectorSink {
    file: Pending,
    format: Format,
    element_type: ElementType,
    dim: usize,
    rows: u64,
}

impl VectorSink {
    /// Begins a file for rows of `dim` elements.
    ///
    /// Errors: those of the system; a format that cannot hold such elements.
    pub fn create(path: &Path, element_type: ElementType, dim: usize) -> Result<Self> {
        let format = Format::of(path)?;
        let fits = match format {
            Format::Npy => true,
            Format::Fvecs => element_type != ElementType::Binary,
            Format::Bvecs => element_type == ElementType::U8,
        };
        if !fits {
            return Err(sentence!(
                "{} cannot hold rows of {element_type}; export to .npy{}",
                path.display(),
                match element_type {
                    ElementType::Binary => "",
                    _ => " or .fvecs",
                }
            ));
        }
        let mut file = Pending::create(path)?;
        if format == Format::Npy {
            file.write(&[0; npy::WRITTEN_HEADER_BYTES])?;
        }
        Ok(Self {
            file,
            format,
            element_type,
            dim,
            rows: 0,
        })
    }

    /// Appends one row.
    pub fn push(&mut self, row: &Vectors<'_>) -> Result<()> {
        self.rows += 1;
        if self.format != Format::Npy {
            self.file.write(&(self.dim as i32).to_le_bytes())?;
        }
        if self.format != Format::Fvecs {
            // Little-endian, as the machines that VexFS is for.
            return self.file.write(row.as_bytes());
        }
        for value in row.to_f32(self.dim) {
            self.file.write(&value.to_le_bytes())?;
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        let (descr, columns) = match self.element_type {
            ElementType::F32 => ("<f4", self.dim),
            ElementType::F16 => ("<f2", self.dim),
            // numpy has no bfloat16: its bits.
            ElementType::Bf16 => ("<u2", self.dim),
            ElementType::I8 => ("|i1", self.dim),
            ElementType::U8 => ("|u1", self.dim),
            ElementType::Binary => ("|u1", self.dim.div_ceil(8)),
        };
        let header = npy::header_bytes(descr, &format!("({}, {columns})", self.rows));
        self.file.finish(match self.format {
            Format::Npy => &header,
            _ => &[],
        })
    }
}

/// A `.npy` file of keys being written.
#[derive(Debug)]
pub struct KeySink {
    file: Pending,
    rows: u64,
}

impl KeySink {
    /// Begins a file.
    pub fn create(path: &Path) -> Result<Self> {
        if Format::of(path)? != Format::Npy {
            return Err(sentence!(
                "{} is not named .npy; keys are written as .npy",
                path.display()
            ));
        }
        let mut file = Pending::create(path)?;
        file.write(&[0; npy::WRITTEN_HEADER_BYTES])?;
        Ok(Self { file, rows: 0 })
    }

    /// Appends one key.
    pub fn push(&mut self, key: u64) -> Result<()> {
        self.rows += 1;
        self.file.write(&key.to_le_bytes())
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        let header = npy::header_bytes("<u8", &format!("({},)", self.rows));
        self.file.finish(&header)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{integers::Integers, source::Source};
    use super::*;
    use half::{bf16, f16};
    use vexfs_client::VectorBuf;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            ("f.npy", Vectors::F32(&[1.0, -0.5, 3.0, f32::MIN_POSITIVE])),
            (
                "f.fvecs",
                Vectors::F32(&[1.0, -0.5, 3.0, f32::MIN_POSITIVE]),
            ),
            (
                "h.npy",
                Vectors::F16(&[f16::ONE, f16::MAX, f16::ZERO, f16::EPSILON]),
            ),
            (
                "h.fvecs",
                Vectors::F16(&[f16::ONE, f16::MAX, f16::ZERO, f16::EPSILON]),
            ),
            (
                "b.npy",
                Vectors::Bf16(&[bf16::ONE, bf16::MAX, bf16::ZERO, bf16::EPSILON]),
            ),
            (
                "b.fvecs",
                Vectors::Bf16(&[bf16::ONE, bf16::MAX, bf16::ZERO, bf16::EPSILON]),
            ),
            ("i.npy", Vectors::I8(&[-128, 127, 0, 1])),
            ("i.fvecs", Vectors::I8(&[-128, 127, 0, 1])),
            ("u.npy", Vectors::U8(&[0, 255, 3, 4])),
            ("u.bvecs", Vectors::U8(&[0, 255, 3, 4])),
            ("bits.npy", Vectors::Binary(&[0b01, 0b10])),
        ];
        for (name, vectors) in rows {
            let path = dir.path().join(name);
            let mut sink = VectorSink::create(&path, vectors.element_type(), 2).unwrap();
            for row in 0..2 {
                sink.push(&vectors.row(2, row).unwrap()).unwrap();
            }
            assert!(!path.exists(), "not before it is complete");
            sink.finish().unwrap();
            let mut source = Source::open(&path).unwrap();
            let mut back = VectorBuf::zeroed(vectors.element_type(), 2, 0);
            assert_eq!(source.read(9, &mut back).unwrap(), 2, "{name}");
            assert_eq!(back.as_vectors(), vectors, "{name}");
        }
        let path = dir.path().join("k.npy");
        let mut sink = KeySink::create(&path).unwrap();
        sink.push(u64::MAX - 1).unwrap();
        sink.finish().unwrap();
        let mut keys = Integers::open_column(&path, "keys", 1).unwrap();
        assert_eq!(keys.read_unsigned(5).unwrap(), [u64::MAX - 1]);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        drop(VectorSink::create(&path, ElementType::F32, 2).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for (name, element_type, hint) in [
            ("a.bvecs", ElementType::F32, ".fvecs"),
            ("a.fvecs", ElementType::Binary, "export to .npy"),
        ] {
            let error = VectorSink::create(&dir.path().join(name), element_type, 2).unwrap_err();
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
