// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! How long kernels take, and so how much work a bounded FPU section may hold.
//!
//! Times are measured, not assumed: a section of 20 microseconds is a megabyte of rows in the cache of
//! one machine and a dozen rows on another. Everything is integers; the caller brings sections and
//! a clock.

use crate::{first_non_finite, score_many_rows, score_rows, Elem, FpuToken, Isa, Metric};

/// A way to open FPU sections, and a clock.
pub trait Sections {
    /// Nanoseconds of a monotonic clock.
    fn now_ns(&self) -> u64;
    /// Runs `f` in a section; `None` if there can be none now.
    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R>;
}

/// What rows cost in a section, in picoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// For each row, whatever its length.
    pub row_ps: u32,
    /// For each KiB of rows in the cache, and each of several queries.
    pub hot_ps: u32,
    /// For each KiB of rows that come from memory.
    pub cold_ps: u32,
}

/// Memory that [`Pace::measure`] needs, in bytes.
pub const PACE_BYTES: usize = 64 * 1024;
/// Results that [`Pace::measure`] needs room for.
pub const PACE_ROWS: usize = 128;

/// A clock that stands still must not make sections endless, and one that jumps not make them
/// useless. 512 and 128 GB/s are more than one core reads from its cache and from memory; what takes
/// a millisecond is not worth measuring closer.
const LEAST_HOT_PS: u64 = 2_000;
const LEAST_COLD_PS: u64 = 8_000;
const LEAST_ROW_PS: u64 = 500;
const MOST_PS: u64 = 1_000_000_000;

/// Length of the rows that are measured, and the step between rows too short to matter.
const ROW: usize = 1024;
const STEP: usize = 32;
/// Bytes of rows in one section while it is measured, and the queries that meet them in the cache.
const SECTION: usize = 16 * 1024;
const QUERIES: usize = 4;
/// What is measured takes at least this long, where it can be repeated: there are clocks that tick
/// every 256 ns.
const WINDOW_NS: u64 = 4_000;

impl Cost {
    const SLOWEST: Cost = Cost {
        row_ps: MOST_PS as u32,
        hot_ps: MOST_PS as u32,
        cold_ps: MOST_PS as u32,
    };

    /// From picoseconds for `PACE_ROWS` short rows, for `SECTION` bytes in cache and a query, and for
    /// `PACE_BYTES` from memory.
    fn new(rows_ps: u64, hot_ps: u64, cold_ps: u64) -> Cost {
        let per = |ps: u64, n: usize, least| (ps / n as u64).clamp(least, MOST_PS) as u32;
        let hot_ps = per(hot_ps, SECTION >> 10, LEAST_HOT_PS);
        Cost {
            row_ps: per(rows_ps, PACE_ROWS, LEAST_ROW_PS),
            hot_ps,
            cold_ps: per(cold_ps, PACE_BYTES >> 10, LEAST_COLD_PS).max(hot_ps),
        }
    }

    fn row(&self, row_bytes: usize, kib_ps: u32) -> u64 {
        let bytes = (row_bytes as u64).saturating_mul(u64::from(kib_ps)) >> 10;
        bytes.saturating_add(u64::from(self.row_ps)).max(1)
    }

    /// How many rows of `row_bytes` bytes that come from memory fit `budget_ns`. At least one: a row
    /// is not divided. Many are whole blocks of the kernels, which take the rows behind the last one one by one.
    pub fn rows(&self, budget_ns: u64, row_bytes: usize) -> usize {
        /// What the kernels of the shortest rows take at a time.
        const BLOCK: usize = 64;
        let rows = budget_ns.saturating_mul(1000) / self.row(row_bytes, self.cold_ps);
        let rows = usize::try_from(rows).unwrap_or(usize::MAX).max(1);
        if rows < 8 * BLOCK {
            return rows;
        }
        rows - rows % BLOCK
    }

    /// How many queries can be compared with the same `rows` rows within `budget_ns`: the first
    /// brings them into the cache, the others find them there. At least one.
    pub fn queries(&self, budget_ns: u64, row_bytes: usize, rows: usize) -> usize {
        let rows = rows as u64;
        let first = self.row(row_bytes, self.cold_ps).saturating_mul(rows);
        let more = self.row(row_bytes, self.hot_ps).saturating_mul(rows).max(1);
        let left = budget_ns.saturating_mul(1000).saturating_sub(first);
        usize::try_from(left / more)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }
}

/// What the kernels of one instruction set cost on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    score: [Cost; Elem::ALL.len()],
    check: Cost,
}

impl Pace {
    /// Measures the kernels of `isa`, in some hundred microseconds on most machines.
    ///
    /// `memory` is [`PACE_BYTES`] bytes, in all element types numbers of ordinary size, since some
    /// processors take longer for others; `out` is any [`PACE_ROWS`] words. Each time is the least of a few, so that an interruption does not count. Scoring is
    /// measured with the cosine, which is the most work.
    ///
    /// `None` if a section could not be opened or the shapes do not fit.
    pub fn measure(
        sections: &impl Sections,
        isa: Isa,
        memory: &[u8],
        out: &mut [u32],
    ) -> Option<Pace> {
        let memory = memory.get(..PACE_BYTES)?;
        let out = out.get_mut(..PACE_ROWS)?;
        let mut score = [Cost::SLOWEST; Elem::ALL.len()];
        for (cost, elem) in score.iter_mut().zip(Elem::ALL) {
            let per_byte = match elem {
                Elem::Binary => 8,
                _ => 1,
            };
            let long = ROW / elem.row_bytes(per_byte) * per_byte;
            let short = per_byte.max(8);
            let metric = Metric::Cosine;
            let mut pass = |nq: usize, rows: &[u8], n: usize, stride, dim| {
                let queries = memory.get(..nq.checked_mul(elem.row_bytes(dim))?)?;
                let out = out.get_mut(..nq.checked_mul(n)?)?;
                let done = sections.run(|t| match nq {
                    1 => score_rows(t, isa, elem, metric, queries, rows, stride, dim, out),
                    _ => score_many_rows(t, isa, elem, metric, queries, rows, stride, dim, out),
                })?;
                done.ok()
            };
            let n = SECTION / ROW;
            let all = repeated(sections, || pass(QUERIES, memory, n, ROW, long))?;
            *cost = Cost::new(
                repeated(sections, || pass(1, memory, PACE_ROWS, STEP, short))?,
                all / QUERIES as u64,
                evicted(sections, memory, |rows| pass(1, rows, n, ROW, long))?,
            );
        }
        let check = |bytes: &[u8]| {
            sections.run(|t| first_non_finite(t, isa, Elem::F32, bytes))?;
            Some(())
        };
        let piece = memory.get(..SECTION)?;
        let check = Cost::new(
            0,
            repeated(sections, || check(piece))?,
            evicted(sections, memory, check)?,
        );
        Some(Pace { score, check })
    }

    /// The cost of comparing rows of `elem` with one query.
    pub fn score(&self, elem: Elem) -> Cost {
        let cost = self.score.get(elem as usize).copied();
        cost.unwrap_or(Cost::SLOWEST)
    }

    /// The cost of looking for elements that are not finite.
    pub fn check(&self) -> Cost {
        self.check
    }
}

/// Nanoseconds that `f` takes.
fn timed(sections: &impl Sections, f: impl FnOnce() -> Option<()>) -> Option<u64> {
    let start = sections.now_ns();
    f()?;
    Some(sections.now_ns().saturating_sub(start))
}

/// The least of a few times.
fn least(mut time: impl FnMut() -> Option<u64>) -> Option<u64> {
    let mut least = time()?;
    for _ in 0..2 {
        least = least.min(time()?);
    }
    Some(least)
}

/// Picoseconds of one call of `f`, of so many that they fill a window; the first ones warm up.
fn repeated(sections: &impl Sections, mut f: impl FnMut() -> Option<()>) -> Option<u64> {
    let mut n = 1u64;
    let mut window = |n: u64| timed(sections, || (0..n).try_for_each(|_| f()));
    // A clock that stands still ends this too.
    while window(n)? < WINDOW_NS && n < 64 {
        n = n.saturating_mul(2);
    }
    let ns = least(|| window(n))?;
    Some(ns.saturating_mul(1000) / n)
}

/// Picoseconds of `f` over all of `memory`, a section at a time, when none of it is in a cache.
fn evicted(
    sections: &impl Sections,
    memory: &[u8],
    mut f: impl FnMut(&[u8]) -> Option<()>,
) -> Option<u64> {
    let ns = least(|| {
        evict(memory);
        timed(sections, || memory.chunks(SECTION).try_for_each(&mut f))
    })?;
    Some(ns.saturating_mul(1000))
}

/// Puts `bytes` out of all caches, so that the next use reads memory.
fn evict(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        let address = line.as_ptr();
        // SAFETY: flushing a line of cache writes it back and changes no memory; the address is
        // that of a live slice. Both instructions are allowed at every privilege level: CLFLUSH is
        // part of x86-64, and Linux sets SCTLR_EL1.UCI.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        unsafe {
            core::arch::asm!("clflush [{}]", in(reg) address, options(nostack, preserves_flags));
        }
        // SAFETY: as above.
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        unsafe {
            core::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags));
        }
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        let _ = address;
    }
    // SAFETY: barriers have no preconditions.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        core::arch::asm!("mfence", options(nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// One kernel at work, for benchmarks that compare the kernel with user space.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Instruction set.
    pub isa: Isa,
    /// Element type of query and rows.
    pub elem: Elem,
    /// Metric.
    pub metric: Metric,
    /// Elements of a row.
    pub dim: usize,
    /// Rows compared in one section.
    pub section_rows: usize,
}

impl Work {
    /// A window for benchmarks: long beside reading a clock by a slow system call, short enough that
    /// some windows see no interruption.
    pub const WINDOW_NS: u64 = 2_000_000;
    /// Windows for benchmarks.
    pub const WINDOWS: u32 = 15;

    /// Picoseconds for one distance: of `windows` windows of at least `window_ns`, in which all of
    /// `rows` is compared with its first row again and again, the fastest.
    ///
    /// `rows` are packed; `out` has a word for each. Reading the clock is not counted: its cost differs
    /// most between the two sides.
    ///
    /// `None` if a section could not be opened or the shapes do not fit.
    pub fn ps_per_distance(
        &self,
        sections: &impl Sections,
        rows: &[u8],
        out: &mut [u32],
        window_ns: u64,
        windows: u32,
    ) -> Option<u64> {
        let row = self.elem.row_bytes(self.dim);
        let query = rows.get(..row)?;
        let rows = rows.get(..row.checked_mul(out.len())?)?;
        let piece = self.section_rows.clamp(1, out.len().max(1));
        let mut pass = || {
            let pieces = rows.chunks(piece.checked_mul(row)?);
            for (rows, out) in pieces.zip(out.chunks_mut(piece)) {
                let Work {
                    isa,
                    elem,
                    metric,
                    dim,
                    ..
                } = *self;
                let done = sections
                    .run(|t| score_rows(t, isa, elem, metric, query, rows, row, dim, out))?;
                done.ok()?;
            }
            Some(())
        };
        let mut clock_ns = u64::MAX;
        for _ in 0..64 {
            clock_ns = clock_ns.min(timed(sections, || Some(()))?);
        }
        // As many passes as fill a window.
        let mut passes = 1u64;
        loop {
            let start = sections.now_ns();
            for _ in 0..passes {
                pass()?;
            }
            if sections.now_ns().saturating_sub(start) >= window_ns || passes >= 1 << 32 {
                break;
            }
            passes = passes.saturating_mul(2);
        }
        let mut best = u64::MAX;
        for _ in 0..windows {
            let start = sections.now_ns();
            for _ in 0..passes {
                pass()?;
            }
            let ns = sections.now_ns().saturating_sub(start);
            best = best.min(ns.saturating_sub(clock_ns));
        }
        let distances = passes.checked_mul(out.len() as u64)?.max(1);
        Some(best.saturating_mul(1000) / distances)
    }
}
