// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The same distance kernels in user space and in the kernel, in turn, on rows that stay in the cache:
//!
//!     simd_bench [--kernel FILE] [--rounds N] [--kib N] [WORD...]
//!
//! `FILE` is `vexfs/simd_bench` in debugfs, of a module on this machine; without it only user space is
//! measured. Both sides run the same sources by the same method on as many packed rows as fit
//! 128 KiB (`--kib`), in windows of 2 ms of which the fastest counts; the kernel's sections are those of a
//! search. Words restrict the measurement to lines that contain them all, such as `f16 384`.
//!
//! Prints one JSON object per line, the fastest of the rounds on each side, and at the end what the
//! ratios come to.

use std::io::{Error, Read, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Instant;

use vexfs_simd_host::*;

const DIMS: [usize; 4] = [128, 384, 768, 1536];

struct Host(Instant);

impl Sections for Host {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
        Some(f(&token()))
    }
}

/// What the kernel said about one selection.
struct InKernel {
    isa: Isa,
    section_rows: usize,
    ps: u64,
    section_ps: u64,
}

fn in_kernel(file: &str, selection: &str) -> Result<InKernel, Error> {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)?;
    file.write_all(selection.as_bytes())?;
    let mut line = String::new();
    file.read_to_string(&mut line)?;
    let parse = || {
        let answer = line.split_once(' ')?;
        let numbers = answer.1.strip_prefix(selection)?;
        let mut numbers = numbers.split_whitespace().map(|word| word.parse());
        let mut next = || numbers.next()?.ok();
        Some(InKernel {
            isa: Isa::from_name(answer.0.as_bytes())?,
            section_rows: next()? as usize,
            ps: next()?,
            section_ps: next()?,
        })
    };
    parse().ok_or_else(|| Error::other(format!("unexpected answer: {line:?}")))
}

/// The least.
fn fastest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// A number in a range.
fn number(word: Option<String>, range: RangeInclusive<usize>) -> Result<usize, Error> {
    word.and_then(|word| word.parse().ok())
        .filter(|n| range.contains(n))
        .ok_or_else(|| Error::other(format!("a number from {range:?} is missing")))
}

fn run() -> Result<(), Error> {
    let (mut kernel, mut rounds, mut kib, mut words) = (None, 3, 128, vec![]);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--kernel" => kernel = args.next(),
            "--rounds" => rounds = number(args.next(), 1..=1000)?,
            "--kib" => kib = number(args.next(), 8..=4096)?,
            _ => words.push(arg),
        }
    }
    let host = Host(Instant::now());
    // Numbers of ordinary size in every element type, page-aligned like the kernel's.
    let bytes = kib << 10;
    let memory = vec![0x3cu8; bytes + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let memory = &memory[start..start + bytes];
    let mut ratios = vec![];
    for elem in Elem::ALL {
        let metrics: &[Metric] = match elem {
            Elem::Binary => &[Metric::Hamming],
            _ => &Metric::COMMON,
        };
        for &metric in metrics {
            for dim in DIMS {
                let row = elem.row_bytes(dim);
                let n = bytes / row;
                let selection = format!("{} {} {dim} {n}", elem.name(), metric.name());
                if !words.iter().all(|word| selection.contains(word.as_str())) {
                    continue;
                }
                let mut out = vec![0; n];
                let mut isa = Isa::best();
                let (mut user, mut inside) = (vec![], vec![]);
                let mut section = None;
                for _ in 0..rounds {
                    let there = match &kernel {
                        Some(file) => Some(in_kernel(file, &selection)?),
                        None => None,
                    };
                    if let Some(there) = &there {
                        isa = there.isa;
                    }
                    let work = Work {
                        isa,
                        elem,
                        metric,
                        dim,
                        section_rows: n,
                    };
                    let ps = work
                        .ps_per_distance(&host, memory, &mut out, Work::WINDOW_NS, Work::WINDOWS)
                        .ok_or_else(|| Error::other("shapes do not fit"))?;
                    user.push(ps as f64 / 1000.0);
                    if let Some(there) = there {
                        inside.push(there.ps as f64 / 1000.0);
                        section = Some(there);
                    }
                }
                let user_ns = fastest(&user);
                print!(
                    "{{\"bench\":\"simd\",\"isa\":\"{}\",\"element\":\"{}\",\"metric\":\"{}\",\
                     \"dim\":{dim},\"rows\":{n},\"rounds\":{rounds},\"user_ns_per_distance\":{user_ns:.3},\
                     \"user_gb_per_s\":{:.1}",
                    isa.name(),
                    elem.name(),
                    metric.name(),
                    row as f64 / user_ns
                );
                if let Some(section) = section {
                    let ns = fastest(&inside);
                    ratios.push(ns / user_ns);
                    print!(
                        ",\"kernel_ns_per_distance\":{ns:.3},\"kernel_gb_per_s\":{:.1},\
                         \"ratio_kernel_to_user\":{:.3},\"section_rows\":{},\"empty_section_ns\":{:.1}",
                        row as f64 / ns,
                        ns / user_ns,
                        section.section_rows,
                        section.section_ps as f64 / 1000.0
                    );
                }
                println!("}}");
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    if let Some(worst) = ratios.last() {
        println!(
            "{{\"bench\":\"simd_summary\",\"lines\":{},\"median_ratio_kernel_to_user\":{:.3},\
             \"worst_ratio_kernel_to_user\":{worst:.3}}}",
            ratios.len(),
            ratios[ratios.len() / 2]
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("simd_bench: {e}");
            ExitCode::FAILURE
        }
    }
}
