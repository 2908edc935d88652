// SPDX-License-Identifier: Apache-2.0
//! `vexfs bench recall`: what an index finds of the exact answers, and how fast, for a sweep of its
//! parameter.
//!
//! Exact answers come from the same container through the same call, so they are right whatever happened
//! to its rows. A hit counts if it is one of them, or as near as the farthest of them.

mod plot;
mod queries;

use crate::args;
use crate::error::{sentence, Error, Result};
use crate::output::{per_second, Output};
use queries::Queries;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use vexfs_client::{
    Access, Container, Counters, Errno, Hit, IndexKind, IndexState, SearchOptions, Volume,
};

const EF: &[u32] = &[10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];
const NPROBE: &[u32] = &[1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128];
const RERANK: &[u32] = &[10, 20, 40, 80, 160, 320, 640, 1280];

/// One setting of an index.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Point {
    /// Of the parameter that is swept.
    value: u32,
    recall: f64,
    searches_per_second: f64,
    /// Per query, as all that follow.
    distances: f64,
    hops: f64,
    rows_exact: f64,
}

/// What an index did.
#[derive(Clone, Debug, Serialize)]
struct Curve {
    index: &'static str,
    parameter: &'static str,
    points: Vec<Point>,
}

/// All that was measured, as it is printed and written.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    dim: usize,
    rows: u64,
    metric: &'static str,
    isa: &'static str,
    k: u32,
    queries: usize,
    held_out: bool,
    rounds: u32,
    exact_searches_per_second: f64,
    curves: Vec<Curve>,
}

/// The hits of each query, what they cost, and the seconds they took.
struct Answers {
    hits: Vec<Vec<Hit>>,
    counters: Counters,
    seconds: f64,
}

/// What a kind of index is swept over, and its values by default.
fn parameter(kind: IndexKind) -> (&'static str, &'static [u32]) {
    match kind {
        IndexKind::Hnsw => ("ef", EF),
        IndexKind::Ivf | IndexKind::Lsh => ("nprobe", NPROBE),
        IndexKind::Pq => ("rerank", RERANK),
        IndexKind::Auto | IndexKind::Exact => ("none", &[0]),
    }
}

/// The search of a setting.
fn options(args: &args::Recall, kind: IndexKind, k: u32, value: u32) -> SearchOptions<'static> {
    let mut options = SearchOptions {
        index: kind,
        rerank: args.rerank,
        tags_all: args.tags_all,
        ..SearchOptions::new(k)
    };
    match parameter(kind).0 {
        "ef" => options.ef = value,
        "nprobe" => options.nprobe = value,
        "rerank" => options.rerank = value,
        _ => (),
    }
    options
}

/// Runs one of the commands.
pub fn bench(command: &args::Bench, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    match command {
        args::Bench::Recall(args) => recall(args, volume, output),
    }
}

fn recall(args: &args::Recall, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let container = volume.open(&args.file, Access::Read)?;
    let kinds = match args.index.as_slice() {
        [] => built(&container)?,
        named => named.to_vec(),
    };
    if kinds.is_empty() {
        return Err(sentence!(
            "{} has no index to measure; build one with vexfs index build, or name --index exact",
            args.file.display()
        ));
    }
    let queries = match &args.queries {
        Some(path) => Queries::from_file(path, args.limit, &container)?,
        None => Queries::sample(args.sample, args.seed, &container)?,
    };
    let stats = container.stats()?;
    let settings: usize = kinds.iter().map(|kind| values(args, *kind).len()).sum();
    let rounds = args.rounds as usize;
    let bar = output.progress((settings * rounds + 1) as u64, "passes");
    let mut run = |options: &SearchOptions<'_>| {
        let answers = ask(&container, &queries, options);
        bar.inc(1);
        answers
    };
    // One more than wanted, because a row of the container finds itself.
    let k = args.k + u32::from(queries.held_out());
    let want = run(&options(args, IndexKind::Exact, k, 0))?;
    let exact_searches_per_second = per_second(queries.len() as u64, want.seconds);
    let want = queries.without_themselves(want.hits, args.k);
    let mut curves = Vec::new();
    for kind in kinds {
        curves.push(curve(args, kind, k, &queries, &want, &mut run)?);
    }
    bar.finish_and_clear();
    let report = Report {
        file: args.file.display().to_string(),
        dim: container.dim(),
        rows: stats.live,
        metric: container.metric().map_or("unknown", |m| m.name()),
        isa: stats.isa.map_or("unknown", |isa| isa.name()),
        k: args.k,
        queries: queries.len(),
        held_out: queries.held_out(),
        rounds: args.rounds,
        exact_searches_per_second,
        curves,
    };
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::output(e.into()))?;
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = &args.plot {
        write(path, &plot::svg(&report)?)?;
    }
    print(&report, output)
}

/// The kinds of index that a container has.
fn built(container: &Container) -> Result<Vec<IndexKind>> {
    let mut kinds = Vec::new();
    for &kind in IndexKind::ALL {
        if matches!(kind, IndexKind::Auto | IndexKind::Exact) {
            continue;
        }
        match container.index_stats(kind, false) {
            Ok(stats) if is_usable(stats.state) => kinds.push(kind),
            Ok(_) => (),
            Err(e) if e.errno() == Some(Errno::NOENT) => (),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(kinds)
}

/// Whether searches use an index in this state, so that there is something to measure.
fn is_usable(state: Option<IndexState>) -> bool {
    use IndexState::{Ready, Rebuilding, Stored};
    matches!(state, Some(Ready | Rebuilding | Stored))
}

/// What the parameter of an index is set to.
fn values(args: &args::Recall, kind: IndexKind) -> &[u32] {
    let (name, default) = parameter(kind);
    match args.sweep.as_slice() {
        [] => default,
        _ if name == "none" => default,
        chosen => chosen,
    }
}

/// Answers of all queries.
fn ask(container: &Container, queries: &Queries, options: &SearchOptions<'_>) -> Result<Answers> {
    let mut answers = Answers {
        hits: Vec::with_capacity(queries.len()),
        counters: Counters::default(),
        seconds: 0.0,
    };
    for (count, vectors) in queries.calls() {
        let start = Instant::now();
        let found = container.search(vectors, options)?;
        answers.seconds += start.elapsed().as_secs_f64();
        answers.counters += found.counters;
        answers
            .hits
            .extend((0..count).map(|q| found.hits(q).collect()));
    }
    Ok(answers)
}

/// Sweeps one index; of each setting the fastest round counts.
fn curve(
    args: &args::Recall,
    kind: IndexKind,
    k: u32,
    queries: &Queries,
    want: &[Vec<Hit>],
    run: &mut dyn FnMut(&SearchOptions<'_>) -> Result<Answers>,
) -> Result<Curve> {
    let values = values(args, kind);
    let mut points: Vec<Option<Point>> = vec![None; values.len()];
    // In turns, so that a disturbance does not hit one setting alone.
    for _ in 0..args.rounds {
        for (value, best) in values.iter().zip(&mut points) {
            let found = run(&options(args, kind, k, *value))?;
            let rate = per_second(queries.len() as u64, found.seconds);
            if best.as_ref().is_some_and(|p| p.searches_per_second >= rate) {
                continue;
            }
            let each = |count: u64| count as f64 / queries.len().max(1) as f64;
            *best = Some(Point {
                value: *value,
                searches_per_second: rate,
                distances: each(found.counters.distances),
                hops: each(found.counters.hops),
                rows_exact: each(found.counters.rows_exact),
                recall: share(&queries.without_themselves(found.hits, args.k), want),
            });
        }
    }
    Ok(Curve {
        index: kind.name(),
        parameter: parameter(kind).0,
        points: points.into_iter().flatten().collect(),
    })
}

/// How many of the hits wanted were found, or others as near.
fn share(found: &[Vec<Hit>], want: &[Vec<Hit>]) -> f64 {
    let (mut good, mut all) = (0, 0);
    for (found, want) in found.iter().zip(want) {
        let farthest = want.last().map_or(f32::NEG_INFINITY, |hit| hit.distance);
        let near = |hit: &&Hit| {
            hit.distance <= farthest || want.iter().any(|wanted| wanted.row == hit.row)
        };
        let mut rows: Vec<u64> = found.iter().filter(near).map(|hit| hit.row).collect();
        // A row counts once.
        rows.sort_unstable();
        rows.dedup();
        good += rows.len().min(want.len());
        all += want.len();
    }
    match all {
        0 => 1.0,
        _ => good as f64 / all as f64,
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Error::file("write", path, &e))
}

fn print(r: &Report, output: &mut Output<'_>) -> Result<()> {
    output.print(r, |to: &mut dyn Write| {
        for curve in &r.curves {
            writeln!(
                to,
                "{:>6} {:>8} {:>10} {:>12} {:>11} {:>8} {:>11}",
                "index",
                curve.parameter,
                format!("recall@{}", r.k),
                "searches/s",
                "distances",
                "hops",
                "rows exact"
            )?;
            for p in &curve.points {
                writeln!(
                    to,
                    "{:>6} {:>8} {:>10.4} {:>12.0} {:>11.0} {:>8.0} {:>11.0}",
                    curve.index,
                    p.value,
                    p.recall,
                    p.searches_per_second,
                    p.distances,
                    p.hops,
                    p.rows_exact
                )?;
            }
        }
        Ok(())
    })?;
    output.remark(&format!(
        "{} queries, {} rows of {} elements, {}, {}; the best of {} rounds; exact: {:.0} searches/s",
        r.queries, r.rows, r.dim, r.metric, r.isa, r.rounds, r.exact_searches_per_second
    ));
    if r.held_out {
        output.remark(
            "queries are rows of the container, which are left out of their own answers; \
             an index knows them, so strange queries (--queries) may find less",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(rows: &[u64]) -> Vec<Hit> {
        let hit = |row: &u64| Hit {
            key: *row,
            row: *row,
            distance: (*row / 10) as f32,
        };
        rows.iter().map(hit).collect()
    }

    #[test]
    fn a_hit_counts_by_row_or_by_distance_and_once() {
        // Rows 20 to 29 are equally far.
        let want = vec![hits(&[1, 11, 20])];
        assert_eq!(share(&[hits(&[1, 11, 20])], &want), 1.0);
        assert_eq!(share(&[hits(&[1, 11, 27])], &want), 1.0, "a tie");
        assert_eq!(share(&[hits(&[1, 11, 30])], &want), 2.0 / 3.0);
        assert_eq!(share(&[hits(&[1, 1, 1])], &want), 1.0 / 3.0);
        assert_eq!(share(&[hits(&[])], &want), 0.0);
        assert_eq!(share(&[hits(&[1])], &[hits(&[])]), 1.0, "nothing to find");
    }

    #[test]
    fn an_index_whose_build_failed_or_goes_on_is_not_measured() {
        assert!(is_usable(Some(IndexState::Stored)) && is_usable(Some(IndexState::Rebuilding)));
        for state in [
            IndexState::Failed,
            IndexState::Building,
            IndexState::Unusable,
        ] {
            assert!(!is_usable(Some(state)), "{state:?}");
        }
    }

    #[test]
    fn every_kind_sweeps_what_it_has() {
        let mut args = args::Recall::of("c");
        assert_eq!(options(&args, IndexKind::Hnsw, 10, 48).ef, 48);
        assert_eq!(options(&args, IndexKind::Ivf, 10, 48).nprobe, 48);
        assert_eq!(options(&args, IndexKind::Pq, 10, 48).rerank, 48);
        assert_eq!(values(&args, IndexKind::Hnsw), EF);
        args.sweep = vec![7];
        assert_eq!(values(&args, IndexKind::Hnsw), [7]);
        assert_eq!(values(&args, IndexKind::Exact), [0], "nothing to sweep");
    }

    #[test]
    fn the_fastest_round_of_a_setting_counts() {
        let args = args::Recall {
            sweep: vec![10, 20],
            rounds: 2,
            ..args::Recall::of("c")
        };
        let queries = Queries::strange(2);
        let want = vec![hits(&[1, 11]), hits(&[2, 12])];
        let mut seconds = [4.0, 2.0, 1.0, 8.0].into_iter();
        let mut asked = Vec::new();
        let mut run = |options: &SearchOptions<'_>| {
            asked.push(options.ef);
            // Only with the greater ef all are found.
            let second = if options.ef == 20 { 12 } else { 35 };
            Ok(Answers {
                hits: vec![hits(&[1, 11]), hits(&[2, second])],
                counters: Counters {
                    distances: 100,
                    ..Counters::default()
                },
                seconds: seconds.next().unwrap(),
            })
        };
        let curve = curve(&args, IndexKind::Hnsw, 2, &queries, &want, &mut run).unwrap();
        assert_eq!(asked, [10, 20, 10, 20], "rounds take turns");
        let rates: Vec<f64> = curve.points.iter().map(|p| p.searches_per_second).collect();
        assert_eq!(rates, [2.0, 1.0]);
        let recalls: Vec<f64> = curve.points.iter().map(|p| p.recall).collect();
        assert_eq!(recalls, [0.75, 1.0]);
        assert_eq!(curve.points[0].distances, 50.0);
    }
}
