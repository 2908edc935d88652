// SPDX-License-Identifier: Apache-2.0

//! Files of vectors for benchmarks: `.npy` arrays of float32.
//!
//!     vectors synthetic ROWS QUERIES DIR      DIR/base.npy and DIR/queries.npy, 128 elements a row
//!     vectors widen FILE.npy OUT.npy          the rows of an array of float16 or float32
//!
//! What is synthetic is the same on every machine.

use std::fs::{create_dir_all, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use vexfs_recall::npy;
use vexfs_recall::synthetic::{Synthetic, DIM};

fn synthetic(rows: usize, queries: usize, dir: &Path) -> std::io::Result<()> {
    create_dir_all(dir)?;
    // Streams of their own, so that no query is a row.
    for (name, stream, count) in [("base.npy", 0, rows), ("queries.npy", 1, queries)] {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join(name))?);
        npy::write_f32_header(&mut out, count, DIM)?;
        for row in Synthetic::new(stream).take(count) {
            for element in row {
                out.write_all(&element.to_le_bytes())?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn widen(from: &Path, to: &Path) -> std::io::Result<()> {
    let (bytes, dim) = npy::read_f32(from)?;
    let mut out = File::create(to)?;
    npy::write_f32_header(&mut out, bytes.len() / (4 * dim).max(1), dim)?;
    out.write_all(&bytes)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["synthetic", rows, queries, dir] => match (rows.parse(), queries.parse()) {
            (Ok(rows), Ok(queries)) => synthetic(rows, queries, Path::new(dir)),
            _ => return usage(),
        },
        ["widen", from, to] => widen(Path::new(from), Path::new(to)),
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vectors: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: vectors synthetic ROWS QUERIES DIR | vectors widen FILE.npy OUT.npy");
    ExitCode::from(2)
}
