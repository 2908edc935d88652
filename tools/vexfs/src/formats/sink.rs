// SPDX-License-Identifier: Apache-2.0
//! Vectors and keys to a file. It appears under its name when it is complete, and
//! not before.

use super::{npy, Format};
use crate::error::{sentence, Error, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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

/// A file of vectors being written: `.npy` (float32) or `.fvecs`.
#[derive(Debug)]
pub struct VectorSink {
    file: Pending,
    format: Format,
    dim: usize,
    rows: u64,
}

impl VectorSink {
    /// Begins a file for rows of `dim` elements.
    pub fn create(path: &Path, dim: usize) -> Result<Self> {
        let format = Format::of(path)?;
        if format == Format::Bvecs {
            return Err(sentence!(
                "{} would need bytes where the rows are f32; export to .npy or .fvecs",
                path.display()
            ));
        }
        let mut file = Pending::create(path)?;
        if format == Format::Npy {
            file.write(&[0; npy::WRITTEN_HEADER_BYTES])?;
        }
        Ok(Self {
            file,
            format,
            dim,
            rows: 0,
        })
    }

    /// Appends one row.
    pub fn push(&mut self, row: &[f32]) -> Result<()> {
        if self.format == Format::Fvecs {
            self.file.write(&(self.dim as i32).to_le_bytes())?;
        }
        for value in row {
            self.file.write(&value.to_le_bytes())?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        let shape = format!("({}, {})", self.rows, self.dim);
        let header = npy::header_bytes("<f4", &shape);
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

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.fvecs"] {
            let path = dir.path().join(name);
            let mut sink = VectorSink::create(&path, 2).unwrap();
            sink.push(&[1.0, -0.5]).unwrap();
            sink.push(&[3.0, f32::MIN_POSITIVE]).unwrap();
            assert!(!path.exists(), "not before it is complete");
            sink.finish().unwrap();
            let mut source = Source::open(&path).unwrap();
            let mut values = Vec::new();
            assert_eq!(source.read(9, &mut values).unwrap(), 2);
            assert_eq!(values, [1.0, -0.5, 3.0, f32::MIN_POSITIVE]);
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
        drop(VectorSink::create(&path, 2).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let error = VectorSink::create(&dir.path().join("a.bvecs"), 2).unwrap_err();
        assert!(error.to_string().contains(".fvecs"), "{error}");
    }
}
