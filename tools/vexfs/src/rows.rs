// SPDX-License-Identifier: Apache-2.0
//! `vexfs get` and `vexfs delete`: single rows by key or number.

use crate::args;
use crate::error::{sentence, Result};
use crate::output::Output;
use serde::Serialize;
use vexfs_client::{Access, ElementType, Select, Vectors, Volume};

impl args::Which {
    /// What was chosen. clap lets only one of the two through.
    fn select(&self) -> Select<'_> {
        match self.key.is_empty() {
            true => Select::Rows(&self.row),
            false => Select::Keys(&self.key),
        }
    }
}

/// The elements of a row, printed as what they are.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Numbers {
    Floats(Vec<f32>),
    Integers(Vec<i16>),
}

impl Numbers {
    fn of(vector: &Vectors<'_>, dim: usize) -> Self {
        let numbers = vector.to_f32(dim);
        match vector.element_type() {
            ElementType::F32 | ElementType::F16 | ElementType::Bf16 => Numbers::Floats(numbers),
            // Bytes and bits fit.
            _ => Numbers::Integers(numbers.into_iter().map(|x| x as i16).collect()),
        }
    }
}

#[derive(Debug, Serialize)]
struct RowReport {
    row: u64,
    key: u64,
    tags: u64,
    vector: Numbers,
}

#[derive(Debug, Serialize)]
struct GetReport {
    file: String,
    rows: Vec<RowReport>,
}

/// Prints rows. Those that are there are printed even if others are missing.
pub fn get(args: &args::Get, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&args.file, Access::Read)?;
    let select = args.which.select();
    let fetched = container.get(select)?;
    let report = GetReport {
        file: args.file.display().to_string(),
        rows: fetched
            .iter()
            .map(|r| RowReport {
                row: r.row,
                key: r.key,
                tags: r.tags,
                vector: Numbers::of(&r.vector, container.dim()),
            })
            .collect(),
    };
    output.print(&report, |to| {
        for r in &report.rows {
            write!(to, "row {} key {} tags {:#x}:", r.row, r.key, r.tags)?;
            match &r.vector {
                Numbers::Floats(all) => all.iter().try_for_each(|x| write!(to, " {x}"))?,
                Numbers::Integers(all) => all.iter().try_for_each(|x| write!(to, " {x}"))?,
            }
            writeln!(to)?;
        }
        Ok(())
    })?;
    match (0..select.len()).find(|i| fetched.row(*i).is_none()) {
        None => Ok(()),
        Some(missing) => Err(missing_row(select, missing, &report.file)),
    }
}

/// The sentence for a row that is not there.
fn missing_row(select: Select<'_>, i: usize, file: &str) -> crate::error::Error {
    let (what, number) = match select {
        Select::Keys(keys) => ("key", keys.get(i)),
        Select::Rows(rows) => ("row", rows.get(i)),
    };
    let number = number.copied().unwrap_or_default();
    sentence!("{file} has no {what} {number}; it may have been deleted, or never inserted")
}

#[derive(Debug, Serialize)]
struct DeleteReport {
    file: String,
    deleted: u64,
}

/// Deletes rows, all or none.
pub fn delete(args: &args::Delete, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let mut container = volume.open(&args.file, Access::Write)?;
    let select = args.which.select();
    let file = args.file.display().to_string();
    let deleted = container
        .delete(select, args.skip_missing)
        .map_err(|error| match (error.errno(), error.row()) {
            (Some(vexfs_client::Errno::NOENT), Some(i)) => {
                let missing = missing_row(select, i as usize, &file);
                sentence!("{missing}; nothing was deleted, --skip-missing deletes the others")
            }
            _ => error.into(),
        })?;
    container.sync()?;
    let report = DeleteReport { file, deleted };
    output.print(&report, |to| {
        writeln!(to, "{}: {} rows deleted", report.file, report.deleted)
    })
}
