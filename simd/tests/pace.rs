// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! How much work a section may hold: the sums, on clocks that mislead, and on this machine.

use std::cell::Cell;
use std::time::{Duration, Instant};

use vexfs_simd_host::*;

/// Costs that make the sums easy: 10 ns a row, 20 ns/KiB in cache, 100 ns/KiB from memory.
const COST: Cost = Cost {
    row_ps: 10_000,
    hot_ps: 20_000,
    cold_ps: 100_000,
};

#[test]
fn rows_fill_the_budget_and_not_more() {
    // A row of 1 KiB costs 110 ns from memory, 30 ns after that.
    assert_eq!(COST.rows(20_000, 1024), 181);
    assert_eq!(COST.queries(20_000, 1024, 181), 1);
    // 50 rows: 5.5 us for the first query, 1.5 us for each of the others.
    assert_eq!(COST.queries(20_000, 1024, 50), 10);
    // Rows of no length to speak of cost something too.
    let many = 20_000_000 / (10_000 + 97);
    assert_eq!(many, 1980);
    // In blocks of 64.
    assert_eq!(COST.rows(20_000, 1), 1920);
}

#[test]
fn there_is_always_one_row_and_one_query() {
    for budget in [0, 1, 20_000] {
        assert_eq!(COST.rows(budget, 65_536 * 4), 1);
        assert_eq!(COST.queries(budget, 65_536 * 4, 1), 1);
    }
}

#[test]
fn no_cost_and_no_size_overflows() {
    let most = Cost {
        row_ps: u32::MAX,
        hot_ps: u32::MAX,
        cold_ps: u32::MAX,
    };
    let none = Cost {
        row_ps: 0,
        hot_ps: 0,
        cold_ps: 0,
    };
    for cost in [most, none, COST] {
        for n in [0, 1, 4096, usize::MAX] {
            assert!(cost.rows(u64::MAX, n) >= 1);
            assert!(cost.queries(u64::MAX, n, n) >= 1);
        }
    }
}

/// A clock that reads what the test says.
struct Clock<F>(Cell<u64>, F);

impl<F: Fn(u64) -> u64> Sections for Clock<F> {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        (self.1)(self.0.get())
    }

    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
        Some(f(&token()))
    }
}

fn measure(sections: &impl Sections, isa: Isa) -> Pace {
    let memory = vec![0x3c; PACE_BYTES];
    Pace::measure(sections, isa, &memory, &mut [0; PACE_ROWS]).unwrap()
}

#[test]
fn a_clock_that_stands_still_or_jumps_gives_sections_of_some_length() {
    let still = measure(&Clock(Cell::new(0), |_| 7), Isa::Scalar);
    let back = measure(&Clock(Cell::new(0), |n| u64::MAX - n), Isa::Scalar);
    for pace in [still, back] {
        for cost in Elem::ALL.map(|elem| pace.score(elem)) {
            // 20 us at 128 GB/s.
            assert!(cost.rows(20_000, 1024) <= 2500, "{cost:?}");
        }
    }
    let jumping = measure(&Clock(Cell::new(0), |n| n << 40), Isa::Scalar);
    for cost in Elem::ALL.map(|elem| jumping.score(elem)) {
        assert_eq!(cost.rows(20_000, 1024), 1);
        assert_eq!(cost.rows(2_000_000, 1024), 1);
    }
}

#[test]
fn without_sections_there_is_no_measure() {
    struct Never;
    impl Sections for Never {
        fn now_ns(&self) -> u64 {
            0
        }
        fn run<R>(&self, _: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
            None
        }
    }
    let memory = vec![0; PACE_BYTES];
    assert!(Pace::measure(&Never, Isa::Scalar, &memory, &mut [0; PACE_ROWS]).is_none());
    assert!(Pace::measure(&Never, Isa::Scalar, &[], &mut []).is_none());
}

struct Host(Instant);

impl Sections for Host {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
        Some(f(&token()))
    }
}

#[test]
#[cfg_attr(miri, ignore = "times")]
fn what_is_planned_for_a_section_takes_about_its_time_here() {
    let host = Host(Instant::now());
    for isa in available() {
        let start = Instant::now();
        let pace = measure(&host, isa);
        println!("{} measured in {:?}", isa.name(), start.elapsed());
        for elem in Elem::ALL {
            let dim = 384;
            let bytes = elem.row_bytes(dim);
            let cost = pace.score(elem);
            let rows = cost.rows(20_000, bytes).min(1 << 16);
            let memory = vec![0x3c; rows * bytes];
            let mut out = vec![0; rows];
            let metric = Metric::L2Sq;
            let best = (0..20)
                .map(|_| {
                    let start = Instant::now();
                    let (query, t) = (&memory[..bytes], token());
                    score_rows(&t, isa, elem, metric, query, &memory, bytes, dim, &mut out)
                        .unwrap();
                    start.elapsed()
                })
                .min()
                .unwrap();
            println!(
                "{} {} {rows} rows: {best:?}, {cost:?}",
                isa.name(),
                elem.name()
            );
            // The rows are in the cache here, and machines are shared: only an error of the sums or
            // units is out of these bounds.
            assert!(best <= Duration::from_micros(200), "{best:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "times")]
fn a_benchmark_finds_the_time_of_one_distance() {
    let host = Host(Instant::now());
    let (dim, n) = (384, 64);
    let rows = vec![0x3c; n * 4 * dim];
    let work = |section_rows| Work {
        isa: Isa::Scalar,
        elem: Elem::F32,
        metric: Metric::L2Sq,
        dim,
        section_rows,
    };
    for section_rows in [1, 7, 64, usize::MAX / (4 * dim)] {
        let mut out = vec![0; n];
        let ps = work(section_rows)
            .ps_per_distance(&host, &rows, &mut out, 100_000, 3)
            .unwrap();
        // Between 30 elements and 0.03 elements a nanosecond.
        assert!((12_000..12_000_000).contains(&ps), "{ps} ps");
        assert!(out.iter().all(|key| *key == out[0]));
    }
    let mut out = vec![0; n + 1];
    let too_few = work(64).ps_per_distance(&host, &rows, &mut out, 1000, 1);
    assert!(too_few.is_none(), "rows for 64 results, room for 65");
}
