// SPDX-License-Identifier: Apache-2.0
//! `vexfs create` and `vexfs stats`: the properties of a container.

use crate::args;
use crate::error::Result;
use crate::output::Output;
use serde::Serialize;
use std::path::Path;
use vexfs_client::{Access, Container, CreateOptions, Volume};

/// A container, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    dim: u32,
    element_type: &'static str,
    metric: &'static str,
    stride: u32,
    alignment: u32,
    model_tag: u64,
    isa: &'static str,
    rows: u64,
    live: u64,
    durable_rows: u64,
    generation: u64,
    bytes_on_disk: u64,
    inserted: u64,
    deleted: u64,
    searches: u64,
    distances: u64,
    insert_ns: u64,
    search_ns: u64,
    index_count: u32,
}

fn report(container: &Container, path: &Path) -> Result<Report> {
    let s = container.stats()?;
    Ok(Report {
        file: path.display().to_string(),
        dim: s.dim,
        element_type: s.element_type.map_or("unknown", |t| t.name()),
        metric: s.metric.map_or("unknown", |m| m.name()),
        stride: s.stride,
        alignment: s.alignment,
        model_tag: s.model_tag,
        isa: s.isa.map_or("unknown", |isa| isa.name()),
        rows: s.rows,
        live: s.live,
        durable_rows: s.durable_rows,
        generation: s.generation,
        bytes_on_disk: s.bytes_on_disk,
        inserted: s.inserted,
        deleted: s.deleted,
        searches: s.searches,
        distances: s.distances,
        insert_ns: s.insert_ns,
        search_ns: s.search_ns,
        index_count: s.index_count,
    })
}

/// Makes a container.
pub fn create(args: &args::Create, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let options = CreateOptions {
        dim: args.dim,
        element_type: args.element_type,
        metric: args.metric,
        alignment: args.align,
        model_tag: args.model_tag,
        reserve_rows: args.reserve,
    };
    let container = volume.create(&args.file, &options)?;
    let r = report(&container, &args.file)?;
    output.print(&r, |to| {
        writeln!(
            to,
            "{}: {} x {}, {}, {} bytes per row",
            r.file, r.dim, r.element_type, r.metric, r.stride
        )
    })
}

/// Prints the statistics of a container.
pub fn stats(args: &args::Stats, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&args.file, Access::Read)?;
    let r = report(&container, &args.file)?;
    output.print(&r, |to| {
        let ms = |ns: u64| ns as f64 / 1e6;
        writeln!(to, "{}", r.file)?;
        writeln!(to, "  elements      {} x {}", r.dim, r.element_type)?;
        writeln!(to, "  metric        {}", r.metric)?;
        writeln!(
            to,
            "  row           {} bytes, aligned to {}",
            r.stride, r.alignment
        )?;
        writeln!(to, "  model tag     {:#x}", r.model_tag)?;
        writeln!(
            to,
            "  rows          {} live of {}, {} durable",
            r.live, r.rows, r.durable_rows
        )?;
        writeln!(to, "  generation    {}", r.generation)?;
        writeln!(to, "  on disk       {} bytes", r.bytes_on_disk)?;
        writeln!(to, "  indexes       {}", r.index_count)?;
        writeln!(to, "  distances by  {}", r.isa)?;
        writeln!(
            to,
            "  since loaded  {} rows inserted in {:.1} ms, {} deleted",
            r.inserted,
            ms(r.insert_ns),
            r.deleted
        )?;
        writeln!(
            to,
            "                {} searches in {:.1} ms, {} distances",
            r.searches,
            ms(r.search_ns),
            r.distances
        )
    })
}
