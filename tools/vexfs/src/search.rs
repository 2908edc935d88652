// SPDX-License-Identifier: Apache-2.0
//! `vexfs search`: the nearest rows of queries from a file or of a row of the container.

use crate::args;
use crate::error::{sentence, Error, Result};
use crate::formats::{integers::Integers, source::Source};
use crate::output::{per_second, Output};
use crate::recall::{Recall, RecallReport};
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, Instant};
use vexfs_client::{
    Access, Container, Counters, Hit, IndexKind, SearchOptions, Select, VectorBuf, Vectors, Volume,
};

/// Queries of one call of the kernel: many, because a call costs, but not so many that
/// a progress bar stands still.
const QUERIES_PER_CALL: usize = 256;

#[derive(Debug, Serialize)]
struct HitReport {
    row: u64,
    key: u64,
    distance: f32,
}

#[derive(Debug, Serialize)]
struct QueryReport {
    query: u64,
    hits: Vec<HitReport>,
}

/// The whole answer, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    metric: &'static str,
    isa: &'static str,
    k: u32,
    queries: u64,
    seconds: f64,
    searches_per_second: f64,
    kernel_ns: u64,
    distances: u64,
    hops: u64,
    rows_exact: u64,
    partial: bool,
    recall: Option<RecallReport>,
    results: Vec<QueryReport>,
}

/// Where the queries come from.
enum Queries {
    File(Box<Source<BufReader<File>>>, u64),
    Row(VectorBuf),
    Done,
}

impl Queries {
    fn open(args: &args::Search, container: &Container) -> Result<Self> {
        let Some(path) = &args.queries else {
            return Self::of_container(args, container);
        };
        let source = Source::open(path)?;
        source.check_shape(container.element_type(), container.dim(), &args.file)?;
        let count = args.limit.unwrap_or(u64::MAX).min(source.rows());
        Ok(Queries::File(Box::new(source), count))
    }

    fn of_container(args: &args::Search, container: &Container) -> Result<Self> {
        let (key, row) = (args.key.as_slice(), args.row.as_slice());
        let (select, what, number) = match (key, row) {
            ([key], _) => (Select::Keys(std::slice::from_ref(key)), "key", key),
            (_, [row]) => (Select::Rows(std::slice::from_ref(row)), "row", row),
            // clap requires one of the three.
            _ => return Ok(Queries::Done),
        };
        match container.get(select)?.row(0) {
            Some(row) => Ok(Queries::Row(row.vector.to_buf())),
            None => Err(sentence!(
                "{} has no {what} {number}; name one that it has",
                args.file.display()
            )),
        }
    }

    /// How many there are in all.
    fn len(&self) -> u64 {
        match self {
            Queries::File(_, count) => *count,
            Queries::Row(_) => 1,
            Queries::Done => 0,
        }
    }

    /// Replaces `out` by the next ones, at most `max`; returns how many.
    fn read(&mut self, max: usize, out: &mut VectorBuf) -> Result<usize> {
        match self {
            Queries::File(source, count) => {
                let left = count.saturating_sub(source.position());
                source.read(max.min(usize::try_from(left).unwrap_or(max)), out)
            }
            Queries::Row(vector) => {
                *out = std::mem::take(vector);
                *self = Queries::Done;
                Ok(1)
            }
            Queries::Done => Ok(0),
        }
    }
}

/// Opens the ground truth and compares its shape with the search.
fn open_truth(args: &args::Search, queries: u64) -> Result<Option<Integers<BufReader<File>>>> {
    let Some(path) = &args.ground_truth else {
        return Ok(None);
    };
    let truth = Integers::open(path)?;
    if truth.rows() < queries || truth.columns() < args.k as usize {
        return Err(sentence!(
            "{} is {} x {} for {queries} queries and k {}; use the ground truth of these queries, or a smaller -k",
            path.display(),
            truth.rows(),
            truth.columns(),
            args.k
        ));
    }
    Ok(Some(truth))
}

/// Answers queries.
pub fn search(args: &args::Search, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&args.file, Access::Read)?;
    let mut queries = Queries::open(args, &container)?;
    let total = queries.len();
    let mut truth = open_truth(args, total)?;
    let options = SearchOptions {
        index: match args.exact {
            true => IndexKind::Exact,
            false => args.index,
        },
        ef: args.ef,
        nprobe: args.nprobe,
        rerank: args.rerank,
        radius: args.radius,
        tags_all: args.tags_all,
        tags_any: args.tags_any,
        threads: args.threads,
        ..SearchOptions::new(args.k)
    };
    let per_call = QUERIES_PER_CALL.min(container.queries_per_search(args.k));
    let bar = output.progress(total, "queries");
    let mut results: Vec<QueryReport> = Vec::new();
    let (mut counters, mut recall) = (Counters::default(), Recall::default());
    let dim = container.dim();
    let mut vectors = VectorBuf::zeroed(container.element_type(), dim, 0);
    let mut spent = Duration::ZERO;
    loop {
        let count = queries.read(per_call, &mut vectors)?;
        if count == 0 {
            break;
        }
        let start = Instant::now();
        let found = container
            .search(&vectors, &options)
            .map_err(|e| explain(e, &vectors.as_vectors(), dim, results.len()))?;
        spent += start.elapsed();
        counters += found.counters;
        let truth = match &mut truth {
            Some(t) => Some((t.columns(), t.read(count)?)),
            None => None,
        };
        for q in 0..count {
            let hits: Vec<Hit> = found.hits(q).collect();
            if let Some((columns, truth)) = &truth {
                let truth = truth.chunks_exact(*columns).nth(q).unwrap_or_default();
                let query = vectors.as_vectors().row(dim, q);
                let query = query.map_or_else(Vec::new, |query| query.to_f32(dim));
                recall.add(&container, &query, &hits, truth, args.k as usize)?;
            }
            results.push(QueryReport {
                query: results.len() as u64,
                hits: hits
                    .iter()
                    .map(|h| HitReport {
                        row: h.row,
                        key: h.key,
                        distance: h.distance,
                    })
                    .collect(),
            });
        }
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    let seconds = spent.as_secs_f64();
    let r = Report {
        file: args.file.display().to_string(),
        metric: container.metric().map_or("unknown", |m| m.name()),
        isa: container.stats()?.isa.map_or("unknown", |isa| isa.name()),
        k: args.k,
        queries: total,
        seconds,
        searches_per_second: per_second(total, seconds),
        kernel_ns: counters.elapsed_ns,
        distances: counters.distances,
        hops: counters.hops,
        rows_exact: counters.rows_exact,
        partial: counters.partial,
        recall: truth.is_some().then(|| recall.report(args.k)),
        results,
    };
    print(&r, output)?;
    match (args.min_recall, r.recall) {
        (Some(least), Some(have)) if have.recall < least => Err(sentence!(
            "recall@{} is {:.4}, less than the {least} that was asked for; search with --exact or a higher --ef",
            have.k,
            have.recall
        )),
        _ => Ok(()),
    }
}

/// Says which query of the file an error is about, where that can be seen.
fn explain(error: vexfs_client::Error, vectors: &Vectors<'_>, dim: usize, before: usize) -> Error {
    let mut rows = (0..).map_while(|q| vectors.row(dim, q));
    match rows.position(|query| !query.are_valid(dim)) {
        Some(q) => sentence!(
            "query {} holds {}; repair or leave out that query",
            before + q,
            match vectors {
                Vectors::Binary(_) => "a bit behind its last element",
                _ => "a NaN or infinity",
            }
        ),
        None => error.into(),
    }
}

/// The hits go to the output, the same for the same answers; times go to the remarks.
fn print(r: &Report, output: &mut Output<'_>) -> Result<()> {
    output.print(r, |to| {
        writeln!(
            to,
            "{:>6} {:>5} {:>14} {:>12} {:>20}",
            "query", "rank", "distance", "row", "key"
        )?;
        for result in &r.results {
            for (rank, hit) in result.hits.iter().enumerate() {
                writeln!(
                    to,
                    "{:>6} {:>5} {:>14} {:>12} {:>20}",
                    result.query,
                    rank + 1,
                    hit.distance,
                    hit.row,
                    hit.key
                )?;
            }
        }
        Ok(())
    })?;
    output.remark(&format!(
        "{} queries in {:.3} s ({:.0} searches/s), {} distances by {}{}",
        r.queries,
        r.seconds,
        r.searches_per_second,
        r.distances,
        r.isa,
        if r.partial { ", partial" } else { "" }
    ));
    if let Some(recall) = &r.recall {
        output.remark(&format!(
            "recall@{} {:.4}, largest error of a distance {:.2e}",
            recall.k, recall.recall, recall.max_distance_error
        ));
    }
    Ok(())
}
