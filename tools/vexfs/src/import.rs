// SPDX-License-Identifier: Apache-2.0
//! `vexfs import` and `vexfs upsert`: a file of vectors into a container, batch by batch.

use crate::args;
use crate::error::{sentence, Error, Result};
use crate::formats::{integers::Integers, source::Source};
use crate::output::{per_second, Output};
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::{Duration, Instant};
use vexfs_client::{
    Access, Container, CreateOptions, ElementType, Errno, Rows, VectorBuf, Vectors, Volume,
};

/// Vector bytes of a batch unless the user says otherwise: enough that a batch's fixed
/// cost vanishes, little enough that a progress bar moves.
const BATCH_BYTES: usize = 8 << 20;

/// What becomes of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They are added.
    Insert,
    /// They are added to a container that goes away if that fails.
    Create,
    /// They replace those that have the key.
    Upsert,
}

/// What was done, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    source: String,
    rows: u64,
    dim: usize,
    element_type: &'static str,
    first_row: Option<u64>,
    batches: u64,
    bytes: u64,
    /// All of it: reading the source, inserting, waiting for the disk.
    seconds: f64,
    rows_per_second: f64,
    /// In the calls that insert.
    insert_seconds: f64,
    inserts_per_second: f64,
    /// In the call that waits until all is on the disk.
    sync_seconds: f64,
}

/// The columns beside the vectors.
#[derive(Debug, Default)]
struct Columns {
    keys: Option<Integers<BufReader<File>>>,
    tags: Option<Integers<BufReader<File>>>,
}

impl Columns {
    fn open(keys: Option<&Path>, from: &args::From, rows: u64) -> Result<Self> {
        let open = |path: Option<&Path>, what| -> Result<_> {
            let mut column = path
                .map(|p| Integers::open_column(p, what, rows))
                .transpose()?;
            if let Some(column) = &mut column {
                column.skip(from.skip)?;
            }
            Ok(column)
        };
        Ok(Self {
            keys: open(keys, "keys")?,
            tags: open(from.tags.as_deref(), "tags")?,
        })
    }
}

/// Adds the vectors of a file.
pub fn import(args: &args::Import, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let (from, keys) = (&args.from, args.keys.as_deref());
    let source = open_source(from)?;
    let columns = Columns::open(keys, from, source.rows())?;
    // clap sees to it that --create and --metric come together.
    let Some(metric) = args.metric else {
        let container = volume.open(&from.file, Access::Write)?;
        return fill(from, container, source, columns, Mode::Insert, output);
    };
    let element_type = args.element_type.unwrap_or(ElementType::F32);
    let options = CreateOptions {
        element_type,
        ..CreateOptions::new(source.dim_of(element_type)? as u32, metric)
    };
    let container = volume.create(&from.file, &options)?;
    let filled = fill(from, container, source, columns, Mode::Create, output);
    if filled.is_err() {
        // Half a container would stand in the way of the next attempt.
        volume.remove(&from.file)?;
    }
    filled
}

/// Adds the vectors of a file, or replaces those that have the key.
pub fn upsert(args: &args::Upsert, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let source = open_source(&args.from)?;
    let columns = Columns::open(Some(&args.keys), &args.from, source.rows())?;
    let container = volume.open(&args.from.file, Access::Write)?;
    fill(&args.from, container, source, columns, Mode::Upsert, output)
}

fn open_source(from: &args::From) -> Result<Source<BufReader<File>>> {
    let mut source = Source::open(&from.source)?;
    if from.skip > source.rows() {
        return Err(sentence!(
            "{} has only {} rows; give a smaller --skip",
            source.name(),
            source.rows()
        ));
    }
    source.seek_row(from.skip)?;
    Ok(source)
}

fn fill(
    from: &args::From,
    mut container: Container,
    mut source: Source<BufReader<File>>,
    mut columns: Columns,
    mode: Mode,
    output: &mut Output<'_>,
) -> Result<()> {
    let (dim, element_type) = (container.dim(), container.element_type());
    source.check_shape(element_type, dim, &from.file)?;
    let total = source.rows() - source.position();
    let batch = match from.batch {
        Some(rows) => rows as usize,
        None => BATCH_BYTES / container.row_bytes().max(1),
    };
    let batch = batch.clamp(1, container.rows_per_batch());
    let bar = output.progress(total, "rows");
    let start = Instant::now();
    let (mut first_row, mut batches) = (None, 0);
    let mut vectors = VectorBuf::zeroed(element_type, dim, 0);
    let mut inserting = Duration::ZERO;
    loop {
        let at = source.position();
        // What is in already stays: say how to go on.
        let interrupted = |error: Error| match at > from.skip && mode != Mode::Create {
            true => sentence!("{error}; {at} rows of the source are done, go on with --skip {at}"),
            false => error,
        };
        let rows = source.read(batch, &mut vectors).map_err(interrupted)?;
        if rows == 0 {
            break;
        }
        let read = |column: &mut Option<Integers<_>>| {
            let column = column.as_mut();
            column.map(|c| c.read_unsigned(rows)).transpose()
        };
        let keys = read(&mut columns.keys).map_err(interrupted)?;
        let tags = read(&mut columns.tags).map_err(interrupted)?;
        let rows = Rows {
            vectors: vectors.as_vectors(),
            keys: keys.as_deref(),
            tags: tags.as_deref(),
            // Who replaces rows has no use for their numbers.
            reuse: mode == Mode::Upsert,
        };
        let before = Instant::now();
        let done = match mode {
            Mode::Upsert => container.upsert(&rows),
            Mode::Insert | Mode::Create => container.insert(&rows),
        };
        let done =
            done.map_err(|e| interrupted(explain(&e, source.name(), at, &rows.vectors, dim)))?;
        inserting += before.elapsed();
        first_row.get_or_insert(done.first_row);
        batches += 1;
        bar.inc(done.count);
    }
    let before = Instant::now();
    container.sync()?;
    let sync_seconds = before.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let insert_seconds = inserting.as_secs_f64();
    let r = Report {
        file: from.file.display().to_string(),
        source: source.name().into(),
        rows: total,
        dim,
        element_type: element_type.name(),
        first_row,
        batches,
        bytes: total * container.row_bytes() as u64,
        seconds,
        rows_per_second: per_second(total, seconds),
        insert_seconds,
        inserts_per_second: per_second(total, insert_seconds),
        sync_seconds,
    };
    output.print(&r, |to| {
        writeln!(
            to,
            "{}: {} rows of {} x {} on the disk after {:.3} s, {:.3} s of it inserting ({:.0} rows/s)",
            r.file, r.rows, r.dim, r.element_type, r.seconds, r.insert_seconds, r.inserts_per_second
        )
    })
}

/// The sentence for an error about a batch that begins at row `at` of the source.
fn explain(
    error: &vexfs_client::Error,
    source: &str,
    at: u64,
    vectors: &Vectors<'_>,
    dim: usize,
) -> Error {
    let Some(row) = error.row() else {
        return sentence!("{error}");
    };
    let vector = vectors.row(dim, row as usize);
    let valid = vector.is_none_or(|v| v.are_valid(dim));
    let row = at + row;
    match error.errno() {
        Some(Errno::INVAL) if !valid && matches!(vectors, Vectors::Binary(_)) => sentence!(
            "row {row} of {source} has a bit set behind the {dim} of the container; pack bits with bitorder='little'"
        ),
        Some(Errno::INVAL) if !valid => {
            sentence!("row {row} of {source} holds a NaN or infinity; repair or leave out that row")
        }
        Some(Errno::INVAL) => sentence!(
            "the key of row {row} of {source} is reserved or comes twice in a batch; change it"
        ),
        Some(Errno::EXIST) => sentence!(
            "the key of row {row} of {source} is in the container already or comes twice; use other keys, or vexfs upsert"
        ),
        _ => sentence!("{error}, which is row {row} of {source}"),
    }
}
