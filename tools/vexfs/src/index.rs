// SPDX-License-Identifier: Apache-2.0
//! `vexfs index`: builds, lists and drops the indexes of a container.

use crate::args::{self, OfIndex};
use crate::error::Result;
use crate::output::{per_second, Output};
use serde::Serialize;
use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use vexfs_client::uapi::VEXFS_NBITS_F16;
use vexfs_client::{Access, BuildOptions, Container, Errno, IndexKind, Volume};

/// How often a build is asked how far it is.
const PROGRESS: Duration = Duration::from_millis(100);

/// An index, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    kind: &'static str,
    state: &'static str,
    m: u32,
    ef_construction: u32,
    nlist: u32,
    nsub: u32,
    nbits: u32,
    ntables: u32,
    trained: u32,
    nodes: u64,
    deleted: u64,
    watermark: u64,
    rows: u64,
    resident_bytes: u64,
    digest: Option<String>,
    build_watermark: u64,
    build_rows: u64,
    build_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    file: String,
    indexes: Vec<Report>,
}

#[derive(Debug, Serialize)]
struct Dropped {
    file: String,
    kind: &'static str,
}

fn report(container: &Container, of: &OfIndex, digest: bool) -> vexfs_client::Result<Report> {
    let rows = container.stats()?.rows;
    let s = container.index_stats(of.kind, digest)?;
    Ok(Report {
        file: of.file.display().to_string(),
        kind: of.kind.name(),
        state: s.state.map_or("unknown", |state| state.name()),
        m: s.m,
        ef_construction: s.ef_construction,
        nlist: s.nlist,
        nsub: s.nsub,
        nbits: s.nbits,
        ntables: s.ntables,
        trained: s.trained,
        nodes: s.nodes,
        deleted: s.deleted,
        watermark: s.watermark,
        rows,
        resident_bytes: s.resident_bytes,
        digest: s.digest.map(|digest| format!("{digest:016x}")),
        build_watermark: s.build_watermark,
        build_rows: s.build_rows,
        build_error: match s.build_error {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno as i32).to_string()),
        },
    })
}

/// Runs one of the commands.
pub fn index(command: &args::Index, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    match command {
        args::Index::Build(args) => build(args, volume, output),
        args::Index::List(args) => list(args, volume, output),
        args::Index::Drop(of) => drop(of, volume, output),
        args::Index::Status(of) => status(of, volume, output),
    }
}

fn build(args: &args::Build, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let mut container = volume.open(&args.of.file, Access::Write)?;
    let options = BuildOptions {
        replace: args.replace,
        m: args.m,
        ef_construction: args.ef_construction,
        nlist: args.nlist,
        nsub: args.nsub,
        nbits: args.nbits,
        // One field of the interface.
        ntables: args.ntables.max(args.copies),
        threads: args.threads,
        background: args.background,
    };
    let start = Instant::now();
    // A second open file, because a call for the first one goes on.
    let watcher = volume.open(&args.of.file, Access::Read)?;
    watch(&mut container, &watcher, args.of.kind, &options, output)?;
    let seconds = start.elapsed().as_secs_f64();
    // There is nothing to tell about a kind that needs no building.
    if args.of.kind == IndexKind::Exact {
        return Ok(());
    }
    let r = report(&container, &args.of, false)?;
    output.print(&r, |to| line(to, &r))?;
    if args.background {
        return Ok(());
    }
    output.remark(&format!(
        "built in {seconds:.3} s ({:.0} rows/s)",
        per_second(r.nodes, seconds)
    ));
    Ok(())
}

/// Builds, and shows how far it is.
fn watch(
    container: &mut Container,
    watcher: &Container,
    kind: IndexKind,
    options: &BuildOptions,
    output: &Output<'_>,
) -> vexfs_client::Result<()> {
    let bar = output.progress(0, "rows");
    let (done, is_done) = mpsc::channel();
    let built = std::thread::scope(|scope| {
        let builder = scope.spawn(move || {
            let built = container.build_index(kind, options);
            // Who does not listen any more need not be told.
            let _ = done.send(());
            built
        });
        while is_done.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
            // What the statistics say is of no consequence here.
            if let Ok(s) = watcher.index_stats(kind, false) {
                if s.build_rows > 0 {
                    bar.set_length(s.build_rows);
                    bar.set_position(s.build_watermark);
                }
            }
        }
        builder.join()
    });
    bar.finish_and_clear();
    built.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn list(args: &args::Stats, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&args.file, Access::Read)?;
    let mut indexes = Vec::new();
    for &kind in IndexKind::ALL {
        let of = OfIndex {
            file: args.file.clone(),
            kind,
        };
        if matches!(kind, IndexKind::Auto | IndexKind::Exact) {
            continue;
        }
        match report(&container, &of, false) {
            Ok(found) => indexes.push(found),
            Err(e) if e.errno() == Some(Errno::NOENT) => (),
            Err(e) => return Err(e.into()),
        }
    }
    let list = List {
        file: args.file.display().to_string(),
        indexes,
    };
    output.print(&list, |to| {
        if list.indexes.is_empty() {
            return writeln!(
                to,
                "{}: no index, searches compare with every row",
                list.file
            );
        }
        list.indexes.iter().try_for_each(|r| line(to, r))
    })
}

fn drop(of: &OfIndex, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let mut container = volume.open(&of.file, Access::Write)?;
    container.drop_index(of.kind)?;
    let dropped = Dropped {
        file: of.file.display().to_string(),
        kind: of.kind.name(),
    };
    output.print(&dropped, |to| {
        writeln!(to, "{}: {} dropped", dropped.file, dropped.kind)
    })
}

fn status(of: &OfIndex, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&of.file, Access::Read)?;
    let r = report(&container, of, true)?;
    output.print(&r, |to| {
        writeln!(to, "{}", r.file)?;
        writeln!(
            to,
            "  kind          {}, {}{}",
            r.kind,
            r.state,
            progress(&r)
        )?;
        writeln!(to, "  parameters    {}", parameters(&r))?;
        writeln!(
            to,
            "  rows          {} in it, below {} of {}; {} deleted wait",
            r.nodes, r.watermark, r.rows, r.deleted
        )?;
        writeln!(to, "  in memory     {} bytes", r.resident_bytes)?;
        writeln!(
            to,
            "  digest        {}",
            r.digest.as_deref().unwrap_or("none")
        )
    })
}

/// Those parameters that the kind has.
fn parameters(r: &Report) -> String {
    let is_ivf = r.kind == IndexKind::Ivf.name();
    let tables = if is_ivf { "copies" } else { "ntables" };
    let all = [
        ("m", r.m),
        ("ef_construction", r.ef_construction),
        ("nlist", r.nlist),
        ("nsub", r.nsub),
        ("nbits", r.nbits),
        (tables, r.ntables),
    ];
    let mut list = Vec::new();
    for (name, value) in all.into_iter().filter(|(_, value)| *value != 0) {
        list.push(match (name, value) {
            ("nbits", VEXFS_NBITS_F16) => "nbits f16".into(),
            _ => format!("{name} {value}"),
        });
    }
    list.join(", ")
}

/// What an index is, in a line.
fn line(to: &mut dyn Write, r: &Report) -> std::io::Result<()> {
    let training = match r.trained {
        1000 => String::new(),
        trained => format!(" ({}.{} % trained)", trained / 10, trained % 10),
    };
    writeln!(
        to,
        "{}: {} {}{training}, {} rows below {} of {}, {} bytes in memory{}",
        r.file,
        r.kind,
        r.state,
        r.nodes,
        r.watermark,
        r.rows,
        r.resident_bytes,
        progress(r)
    )
}

/// How far a build is, or why it failed.
fn progress(r: &Report) -> String {
    match &r.build_error {
        Some(error) => format!("; the last build failed: {error}"),
        None if r.build_rows > 0 => {
            format!("; {} of {} rows built", r.build_watermark, r.build_rows)
        }
        None => String::new(),
    }
}
