// SPDX-License-Identifier: GPL-2.0

//! `vexfs/simd_bench` in debugfs: one distance kernel at work, in sections as searches open them,
//! to be compared with the same kernel in user space (`simd_bench`, `make bench`).
//!
//! For root, as debugfs is. Writing an element type, a metric, a dimension and a number of rows
//! selects; reading measures, for about 40 ms, and says
//!
//! ```text
//! ISA ELEM METRIC DIM ROWS SECTION_ROWS PS_PER_DISTANCE PS_PER_EMPTY_SECTION
//! ```

use crate::simd::{Kernel, Simd};
use kernel::debugfs::{Dir, File};
use kernel::fmt;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;
use kernel::uaccess::UserSliceReader;
use vexfs_simd_ffi::{Elem, FpuToken, Metric, Sections, Work, MAX_DIM};
use vexfs_vfs::task;

/// Bytes of rows at most: what a benchmark in the cache needs.
const MAX_BYTES: usize = 4 << 20;

/// What is measured next.
#[derive(Clone, Copy)]
struct Selection {
    elem: Elem,
    metric: Metric,
    dim: usize,
    rows: usize,
}

#[pin_data]
struct Bench {
    #[pin]
    selection: Mutex<Selection>,
}

/// The debugfs file; it goes with the value.
pub(crate) struct DebugFile {
    _file: Pin<KBox<File<Bench>>>,
}

impl DebugFile {
    /// Creates the file; without debugfs in the kernel there is none.
    pub(crate) fn new() -> Result<Self> {
        let selection = Selection {
            elem: Elem::F32,
            metric: Metric::L2Sq,
            dim: 384,
            rows: 85,
        };
        let bench = try_pin_init!(Bench { selection <- new_mutex!(selection) } ? Error);
        let dir = Dir::new(c"vexfs");
        let file = dir.read_write_callback_file(c"simd_bench", bench, &show, &select);
        Ok(DebugFile {
            _file: KBox::pin_init(file, GFP_KERNEL)?,
        })
    }
}

/// Sections as [`Kernel`] opens them; between them the task is one among others.
struct Polite;

impl Sections for Polite {
    fn now_ns(&self) -> u64 {
        Kernel.now_ns()
    }

    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
        if task::fatal_signal_pending() {
            return None;
        }
        task::cond_resched();
        Kernel.run(f)
    }
}

fn show(bench: &Bench, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let selection = *bench.selection.lock();
    measure(selection, f).unwrap_or(Err(fmt::Error))
}

fn measure(s: Selection, f: &mut fmt::Formatter<'_>) -> Result<fmt::Result> {
    let simd = Simd::chosen()?;
    let row = s.elem.row_bytes(s.dim);
    let bytes = s.rows.checked_mul(row).ok_or(EINVAL)?;
    let rows = KVVec::from_elem(0x3cu8, bytes, GFP_KERNEL)?;
    let mut out = KVVec::from_elem(0u32, s.rows, GFP_KERNEL)?;
    let work = Work {
        isa: simd.isa,
        elem: s.elem,
        metric: s.metric,
        dim: s.dim,
        section_rows: simd.section_rows(s.elem, row).min(s.rows),
    };
    let ps = work
        .ps_per_distance(&Polite, &rows, &mut out, Work::WINDOW_NS, Work::WINDOWS)
        .ok_or(EINTR)?;
    let section_ps = empty_section_ps().ok_or(EINTR)?;
    Ok(writeln!(
        f,
        "{} {} {} {} {} {} {} {}",
        simd.isa.name(),
        s.elem.name(),
        s.metric.name(),
        s.dim,
        s.rows,
        work.section_rows,
        ps,
        section_ps
    ))
}

/// What opening and closing a section costs.
fn empty_section_ps() -> Option<u64> {
    const TIMES: u64 = 1000;
    let mut best = u64::MAX;
    for _ in 0..5 {
        let start = Polite.now_ns();
        for _ in 0..TIMES {
            Kernel.run(|_| ())?;
        }
        best = best.min(Polite.now_ns().saturating_sub(start));
    }
    Some(best.saturating_mul(1000) / TIMES)
}

fn select(bench: &Bench, reader: &mut UserSliceReader) -> Result {
    let mut line = [0u8; 64];
    let line = line.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.read_slice(line)?;
    let selection = parse(core::str::from_utf8(line).map_err(|_| EINVAL)?).ok_or(EINVAL)?;
    *bench.selection.lock() = selection;
    Ok(())
}

fn parse(line: &str) -> Option<Selection> {
    let mut words = line.split_ascii_whitespace();
    let elem = words.next()?;
    let elem = Elem::ALL.into_iter().find(|e| e.name() == elem)?;
    let metric = words.next()?;
    let metric = (0..)
        .map_while(Metric::from_u32)
        .find(|m| m.name() == metric)?;
    let dim = words.next()?.parse().ok()?;
    let rows = words.next()?.parse().ok()?;
    if !(1..=MAX_DIM).contains(&dim) || (metric == Metric::Hamming && elem != Elem::Binary) {
        return None;
    }
    let most = MAX_BYTES.checked_div(elem.row_bytes(dim))?;
    ((1..=most).contains(&rows) && words.next().is_none()).then_some(Selection {
        elem,
        metric,
        dim,
        rows,
    })
}
