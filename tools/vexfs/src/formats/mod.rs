// SPDX-License-Identifier: Apache-2.0
//! Files of vectors: `.npy`, `.fvecs` and `.bvecs`, read row by row and written row
//! by row, so that a file may be larger than memory.
//!
//! `npy` has that format's header, `source` reads vectors, `narrow` makes them what a container
//! takes, `integers` reads keys, tags and ground truth, `sink` writes.

pub mod integers;
mod narrow;
pub mod npy;
pub mod sink;
pub mod source;

use crate::error::{sentence, Error, Result};
use std::fs::File;
use std::path::Path;

/// The formats, known by the end of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// numpy's array.
    Npy,
    /// Each row an `int32` dimension and that many `float32`.
    Fvecs,
    /// Each row an `int32` dimension and that many bytes.
    Bvecs,
}

impl Format {
    /// The format of a file name.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Format::Npy),
            Some("fvecs") => Ok(Format::Fvecs),
            Some("bvecs") => Ok(Format::Bvecs),
            _ => Err(sentence!(
                "the format of {} is not known by its name; name it .npy, .fvecs or .bvecs",
                path.display()
            )),
        }
    }
}

/// Opens a regular file and tells its length.
fn open_regular(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|e| Error::file("open", path, &e))?;
    let metadata = file
        .metadata()
        .map_err(|e| Error::file("examine", path, &e))?;
    if !metadata.is_file() {
        return Err(sentence!(
            "{} is not a regular file; save the vectors to one first",
            path.display()
        ));
    }
    Ok((file, metadata.len()))
}

/// Compares the length of a file's data with what its header says.
fn check_length(name: &str, rows: u64, row_bytes: usize, have: u64) -> Result<()> {
    let want = rows.checked_mul(row_bytes as u64);
    match want {
        Some(want) if want == have => Ok(()),
        Some(want) if want < have => Err(sentence!(
            "{name} is longer than its header says ({have} bytes of data for {rows} rows of {row_bytes}); save it again"
        )),
        _ => Err(sentence!(
            "{name} is truncated ({have} bytes of data for {rows} rows of {row_bytes}); make or copy it again"
        )),
    }
}
