// SPDX-License-Identifier: Apache-2.0

//! Distances of VexFS beside those of SimSIMD, NumKong, FAISS and hnswlib, in one process and on the
//! same rows. `tests/bench/simd.sh` builds and runs it.
//!
//!     peers FAISS-LIBRARY [FILTER...]
//!
//! A filter is a part of place/element type/metric/dimension, as in `f32/l2sq` or `cache`.
//!
//! The ratio of a row is the time of the fastest peer by ours, for peers that read the rows where they are;
//! `numkong-repacked` reads a copy of its own making, with norms, and is shown for orientation.
//! Everything takes turns on the same memory, round after round. Times are medians of the rounds, and so are
//! ratios, each of two turns of one round.
//! Standard output is one JSON object per line, standard error a table.

#[path = "../common/mod.rs"]
mod common;
mod libraries;

use std::hint::black_box;
use std::time::Instant;

use common::{metrics, read_all, scattered, Memory, BATCH, CACHE_BYTES, DIMS, STREAM_BYTES};
use libraries::{peers, Peer};
use vexfs_simd_host::*;

/// Rounds, and the least time of one turn.
struct Place {
    name: &'static str,
    bytes: usize,
    rounds: usize,
    turn_ns: f64,
}

const PLACES: [Place; 2] = [
    Place {
        name: "cache",
        bytes: CACHE_BYTES,
        rounds: 15,
        turn_ns: 300e3,
    },
    Place {
        name: "stream",
        bytes: STREAM_BYTES,
        rounds: 7,
        turn_ns: 0.0,
    },
];

/// The rows of one element type.
struct Rows {
    plain: Memory,
    /// The same signed bytes with 128 added: how FAISS stores them.
    biased: Option<Memory>,
}

impl Rows {
    fn new(len: usize, elem: Elem) -> Rows {
        let plain = Memory::new(len, elem, 1);
        let biased = (elem == Elem::I8).then(|| {
            let mut biased = Memory::new(len, elem, 1);
            biased.bytes_mut().iter_mut().for_each(|b| *b ^= 0x80);
            biased
        });
        Rows { plain, biased }
    }
}

/// A row as numbers.
pub fn to_f32(elem: Elem, row: &[u8]) -> Vec<f32> {
    let dim = match elem {
        Elem::F32 => row.len() / 4,
        Elem::F16 | Elem::Bf16 => row.len() / 2,
        Elem::I8 | Elem::U8 => row.len(),
        Elem::Binary => row.len() * 8,
    };
    (0..dim)
        .map(|i| match elem {
            Elem::F32 => f32::from_le_bytes(row[4 * i..4 * i + 4].try_into().unwrap()),
            Elem::F16 => {
                // The benchmark's numbers are normal.
                let h = u16::from_le_bytes(row[2 * i..2 * i + 2].try_into().unwrap()) as u32;
                f32::from_bits((h & 0x8000) << 16 | ((h & 0x7fff) + ((127 - 15) << 10)) << 13)
            }
            Elem::Bf16 => {
                let h = u16::from_le_bytes(row[2 * i..2 * i + 2].try_into().unwrap()) as u32;
                f32::from_bits(h << 16)
            }
            Elem::I8 => row[i] as i8 as f32,
            Elem::U8 => row[i] as f32,
            Elem::Binary => (row[i / 8] >> (i % 8) & 1) as f32,
        })
        .collect()
}

/// Something that takes a turn: passes once over all rows.
struct Turn<'a> {
    run: Box<dyn FnMut() + 'a>,
    passes: usize,
    times_ns: Vec<f64>,
}

impl<'a> Turn<'a> {
    fn new(run: impl FnMut() + 'a) -> Self {
        Turn {
            run: Box::new(run),
            passes: 1,
            times_ns: Vec::new(),
        }
    }

    /// Nanoseconds of `passes` passes.
    fn time(&mut self) -> f64 {
        let start = Instant::now();
        for _ in 0..self.passes {
            (self.run)();
        }
        start.elapsed().as_nanos() as f64
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Round after round, each begun by another one.
fn take_turns(turns: &mut [Turn<'_>], place: &Place) {
    for turn in turns.iter_mut() {
        while turn.time() < place.turn_ns {
            turn.passes *= 2;
        }
    }
    for round in 0..place.rounds {
        for i in 0..turns.len() {
            let turn = &mut turns[(i + round) % turns.len()];
            if place.turn_ns > 0.0 {
                // Brings its code, and the rows, back into the caches.
                (turn.run)();
            }
            let time = turn.time() / turn.passes as f64;
            turn.times_ns.push(time);
        }
    }
}

/// Our distances and a peer's differ by rounding only. Panics if not.
fn compare(
    peer: &Peer,
    elem: Elem,
    metric: Metric,
    query: &[u8],
    rows: &[u8],
    ours: &[f64],
    out: &[u64],
) {
    // SimSIMD subtracts BF16 in BF16.
    let tolerance = match elem {
        Elem::F32 | Elem::I8 | Elem::U8 | Elem::Binary => 1e-3,
        Elem::F16 => 2e-3,
        Elem::Bf16 => 2e-2,
    };
    let query = to_f32(elem, query);
    let row = rows.len() / ours.len();
    for (i, &want) in ours.iter().enumerate() {
        let got = peer.distance(out, i);
        let scale: f64 = match metric {
            Metric::Cosine => 1.0,
            Metric::L2Sq | Metric::Hamming => want,
            Metric::InnerProduct => to_f32(elem, &rows[i * row..(i + 1) * row])
                .iter()
                .zip(&query)
                .map(|(a, b)| (a * b).abs() as f64)
                .sum(),
        };
        assert!(
            (got - want).abs() <= tolerance * scale,
            "{} {} {}: row {i} is {got}, ours {want}",
            peer.name,
            elem.name(),
            metric.name(),
        );
    }
}

/// One line of the result.
struct Line {
    what: String,
    /// The best peer's time by ours, if there is a peer.
    ratio: Option<(f64, &'static str)>,
    /// The read loop's time by ours.
    share: f64,
}

fn measure(
    place: &Place,
    rows: &Rows,
    query: &'static [u8],
    elem: Elem,
    metric: Metric,
    dim: usize,
) -> Line {
    let row = elem.row_bytes(dim);
    let n = place.bytes / row;
    let memory = &rows.plain.bytes()[..n * row];
    let rows_of = |peer: &Peer| match &rows.biased {
        Some(biased) if peer.biased => &biased.bytes()[..n * row],
        _ => memory,
    };
    let query = &query[..row];
    let (t, isa) = (token(), Isa::best());
    let mut peers = peers(elem, metric, dim, query);
    // A copy of everything is no search in place.
    peers.retain(|peer| !peer.repacked || place.name == "cache");

    // The same distances?
    let n_checked = n.min(BATCH);
    let mut keys = vec![0; n_checked];
    score_rows(&t, isa, elem, metric, query, memory, row, dim, &mut keys).unwrap();
    let ours: Vec<f64> = keys
        .iter()
        .map(|&key| f32::from_bits(Distance(key).to_f32_bits()) as f64)
        .collect();
    for peer in &peers {
        let mut out = vec![0u64; BATCH];
        (peer.run)(rows_of(peer).as_ptr(), n_checked, out.as_mut_ptr().cast());
        compare(
            peer,
            elem,
            metric,
            query,
            &memory[..n_checked * row],
            &ours,
            &out,
        );
    }

    let offsets = scattered(n, row);
    let (mut keys, mut gathered) = ([0; BATCH], [0; BATCH]);
    let mut turns = vec![
        Turn::new(|| {
            black_box(read_all(black_box(memory)));
        }),
        Turn::new(|| {
            for rows in memory.chunks(BATCH * row) {
                let out = &mut keys[..rows.len() / row];
                score_rows(&t, isa, elem, metric, query, rows, row, dim, out).unwrap();
            }
            black_box(&mut keys);
        }),
        Turn::new(|| {
            for offsets in offsets.chunks(BATCH) {
                let out = &mut gathered[..offsets.len()];
                score_gather(&t, isa, elem, metric, query, memory, offsets, dim, out).unwrap();
            }
            black_box(&mut gathered);
        }),
    ];
    for peer in &peers {
        let mut out = vec![0u64; BATCH];
        let memory = rows_of(peer);
        turns.push(Turn::new(move || {
            for rows in memory.chunks(BATCH * row) {
                (peer.run)(rows.as_ptr(), rows.len() / row, out.as_mut_ptr().cast());
            }
            black_box(&mut out);
        }));
    }
    take_turns(&mut turns, place);
    let ns = |turn: &Turn| median(turn.times_ns.clone()) / n as f64;
    let (read, rows, gather) = (ns(&turns[0]), ns(&turns[1]), ns(&turns[2]));
    // Compared within each round: what else the machine does changes from one to the next.
    let by_ours = |turn: &Turn| {
        let pairs = turn.times_ns.iter().zip(&turns[1].times_ns);
        median(pairs.map(|(theirs, ours)| theirs / ours).collect())
    };
    let share = by_ours(&turns[0]);
    let others: Vec<(&Peer, f64)> = peers.iter().zip(turns[3..].iter().map(ns)).collect();
    let best = peers
        .iter()
        .zip(turns[3..].iter().map(by_ours))
        .filter(|(peer, _)| !peer.repacked)
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(peer, ratio)| (ratio, peer.name));

    let what = format!("{} {} {dim}", elem.name(), metric.name());
    let gb_s = |ns: f64| row as f64 / ns;
    let list = |f: &dyn Fn(&Peer, f64) -> String| {
        let items: Vec<String> = others.iter().map(|(peer, ns)| f(peer, *ns)).collect();
        items
    };
    println!(
        "{{\"bench\":\"distance\",\"place\":\"{}\",\"elem\":\"{}\",\"metric\":\"{}\",\"dim\":{dim},\
         \"isa\":\"{}\",\"ns\":{rows:.3},\"gb_s\":{:.2},\"gather_ns\":{gather:.3},\
         \"read_ns\":{read:.3},\"read_gb_s\":{:.2},\"read_share\":{:.3},\"peers\":{{{}}}{}}}",
        place.name,
        elem.name(),
        metric.name(),
        isa.name(),
        gb_s(rows),
        gb_s(read),
        share,
        list(&|peer, ns| format!(
            "\"{}\":{{\"isa\":\"{}\",\"ns\":{ns:.3}{}}}",
            peer.name,
            peer.isa,
            if peer.repacked {
                ",\"repacked\":true"
            } else {
                ""
            }
        ))
        .join(","),
        best.map_or(String::new(), |(ratio, name)| format!(
            ",\"best_peer\":\"{name}\",\"ratio\":{ratio:.3}"
        )),
    );
    eprintln!(
        "{:6} {what:24} {rows:8.2} ns {:6.1} GB/s  gather {gather:8.2} ns  read {:6.1} GB/s ({:3.0} %)  ratio {}  {}",
        place.name,
        gb_s(rows),
        gb_s(read),
        100.0 * share,
        best.map_or("   -".into(), |(ratio, _)| format!("{ratio:4.2}")),
        list(&|peer, ns| format!("{} {ns:.2} ({})", peer.name, peer.isa)).join("  "),
    );
    Line {
        what,
        ratio: best,
        share,
    }
}

fn summary(place: &Place, lines: &[Line]) {
    let ratios: Vec<f64> = lines.iter().filter_map(|l| Some(l.ratio?.0)).collect();
    let shares: Vec<f64> = lines.iter().map(|l| l.share).collect();
    if ratios.is_empty() {
        return;
    }
    let slowest = lines
        .iter()
        .filter(|l| l.ratio.is_some())
        .min_by(|a, b| a.ratio.unwrap().0.total_cmp(&b.ratio.unwrap().0))
        .unwrap();
    let (minimum, peer) = slowest.ratio.unwrap();
    let least = lines
        .iter()
        .min_by(|a, b| a.share.total_cmp(&b.share))
        .unwrap();
    let (rows, below) = (ratios.len(), ratios.iter().filter(|&&r| r < 1.0).count());
    let (ratio, share) = (median(ratios), median(shares));
    println!(
        "{{\"bench\":\"distance-summary\",\"place\":\"{}\",\"rows\":{rows},\"median_ratio\":{ratio:.3},\
         \"below_one\":{below},\"min_ratio\":{minimum:.3},\"min_ratio_row\":\"{}\",\"min_ratio_peer\":\"{peer}\",\
         \"median_read_share\":{share:.3},\"min_read_share\":{:.3},\"min_read_share_row\":\"{}\"}}",
        place.name, slowest.what, least.share, least.what,
    );
    eprintln!(
        "{}: {rows} rows with a peer; best peer's time by ours: median {ratio:.2}, least {minimum:.2} ({}, {peer}), \
         {below} below 1; share of the read loop: median {:.0} %, least {:.0} % ({})",
        place.name,
        slowest.what,
        100.0 * share,
        100.0 * least.share,
        least.what,
    );
    for line in lines.iter().filter(|l| l.ratio.is_some_and(|r| r.0 < 1.0)) {
        let (ratio, name) = line.ratio.unwrap();
        eprintln!("  below 1: {} {ratio:.2} ({name})", line.what);
    }
}

fn processor() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("model name"))?;
            Some(line.split(':').nth(1)?.trim().to_string())
        })
        .unwrap_or_else(|| "unknown".into())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let faiss = arguments
        .next()
        .expect("usage: peers FAISS-LIBRARY [FILTER...]");
    let filter: Vec<String> = arguments.collect();
    if let Err(error) = libraries::open_faiss(&faiss) {
        panic!("FAISS: {error}");
    }
    let versions = libraries::versions();
    println!(
        "{{\"bench\":\"machine\",\"processor\":\"{}\",\"compiler\":\"{}\",\"isa\":\"{}\",\"threads\":1,{}}}",
        processor(),
        env!("COMPILER"),
        Isa::best().name(),
        versions
            .iter()
            .map(|(name, version)| format!("\"{name}\":\"{version}\""))
            .collect::<Vec<_>>()
            .join(",")
    );
    eprintln!(
        "{}, one thread; peers built by {}; VexFS {}, {}",
        processor(),
        env!("COMPILER"),
        Isa::best().name(),
        versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    for place in &PLACES {
        let mut lines = Vec::new();
        let mut rows: Option<(Elem, Rows)> = None;
        let all = Elem::ALL
            .into_iter()
            .flat_map(|elem| metrics(elem).map(|metric| (elem, metric)));
        for (elem, metric) in all {
            for dim in DIMS {
                let name = format!("{}/{}/{}/{dim}", place.name, elem.name(), metric.name());
                if !filter.iter().all(|f| name.contains(f)) {
                    continue;
                }
                if rows.as_ref().is_none_or(|(e, _)| *e != elem) {
                    rows = Some((elem, Rows::new(place.bytes, elem)));
                }
                let Some((_, rows)) = &rows else { continue };
                let query: &'static Memory =
                    Box::leak(Box::new(Memory::new(elem.row_bytes(DIMS[3]), elem, 2)));
                lines.push(measure(place, rows, query.bytes(), elem, metric, dim));
            }
        }
        summary(place, &lines);
    }
}
