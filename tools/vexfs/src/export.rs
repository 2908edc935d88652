// SPDX-License-Identifier: Apache-2.0
//! `vexfs export`: the live rows of a container into a file.

use crate::args;
use crate::error::{sentence, Result};
use crate::formats::sink::{KeySink, VectorSink};
use crate::output::Output;
use serde::Serialize;
use vexfs_client::{Access, Select, Volume};

/// Vector bytes that are read at once.
const BATCH_BYTES: usize = 8 << 20;

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    dest: String,
    keys: Option<String>,
    rows: u64,
    dim: usize,
    element_type: &'static str,
}

/// Writes the live rows, in the order of their numbers.
pub fn export(args: &args::Export, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    if args.keys.as_ref() == Some(&args.dest) {
        return Err(sentence!(
            "{} cannot take both rows and keys; name two files",
            args.dest.display()
        ));
    }
    let container = volume.open(&args.file, Access::Read)?;
    let mut vectors = VectorSink::create(&args.dest, container.element_type(), container.dim())?;
    let mut keys = args.keys.as_deref().map(KeySink::create).transpose()?;
    // Rows inserted from now on are not part of it.
    let end = container.stats()?.rows;
    let batch =
        (BATCH_BYTES / container.row_bytes().max(1)).clamp(1, container.rows_per_batch()) as u64;
    let bar = output.progress(end, "rows");
    let (mut next, mut live) = (0, 0);
    while next < end {
        let numbers: Vec<u64> = (next..end.min(next + batch)).collect();
        let fetched = container.get(Select::Rows(&numbers))?;
        for row in fetched.iter() {
            vectors.push(&row.vector)?;
            if let Some(keys) = &mut keys {
                keys.push(row.key)?;
            }
            live += 1;
        }
        next += numbers.len() as u64;
        bar.inc(numbers.len() as u64);
    }
    vectors.finish()?;
    keys.map_or(Ok(()), KeySink::finish)?;
    bar.finish_and_clear();
    let report = Report {
        file: args.file.display().to_string(),
        dest: args.dest.display().to_string(),
        keys: args.keys.as_ref().map(|k| k.display().to_string()),
        rows: live,
        dim: container.dim(),
        element_type: container.element_type().name(),
    };
    output.print(&report, |to| {
        writeln!(
            to,
            "{}: {} rows of {} x {} to {}",
            report.file, report.rows, report.dim, report.element_type, report.dest
        )
    })
}
