// SPDX-License-Identifier: Apache-2.0

//! Time per distance and bytes per second, in cache and streaming, beside a plain read of the same
//! bytes.
//!
//!     cargo bench -p vexfs_simd --bench distance [-- FILTER]
//!
//! One line per instruction set, element type, metric, dimension and working set:
//! best of several runs, one thread. `ratio` is the share of the read loop's speed.

use std::hint::black_box;
use std::time::Instant;

use vexfs_simd_host::*;

/// The best time of one call of `f`, over runs of at least 30 ms in all.
fn best_ns(mut f: impl FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || begin.elapsed().as_millis() < 30 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_nanos() as f64);
        runs += 1;
    }
    best
}

/// `len` bytes at an address that is a multiple of 64, as containers have them.
fn aligned(len: usize, fill: impl Fn(&mut [u8])) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; len + 64];
    let start = bytes.as_ptr().align_offset(64);
    fill(&mut bytes[start..start + len]);
    (bytes, start)
}

/// Reads every byte with the widest loads the compiler finds, and does nothing with them.
#[inline(never)]
fn read_all(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if Isa::Avx2.is_available() {
            // SAFETY: the processor has AVX2.
            return unsafe { read_avx2(bytes) };
        }
    }
    bytes.chunks_exact(8).fold(0, |sum, word| {
        sum ^ u64::from_le_bytes(word.try_into().unwrap())
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn read_avx2(bytes: &[u8]) -> u64 {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_si256(); 4];
    for chunk in bytes.chunks_exact(128) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the chunk has 128 bytes.
            let v = unsafe { _mm256_loadu_si256(chunk.as_ptr().add(32 * i).cast()) };
            *sum = _mm256_xor_si256(*sum, v);
        }
    }
    let sum = _mm256_xor_si256(
        _mm256_xor_si256(sums[0], sums[1]),
        _mm256_xor_si256(sums[2], sums[3]),
    );
    _mm256_extract_epi64::<0>(sum) as u64
}

fn main() {
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let t = token();
    // 128 KiB fits the L2 cache; 256 MiB fits none.
    for (place, size) in [("cache", 128 << 10), ("stream", 256 << 20)] {
        for elem in Elem::ALL {
            let (memory, start) = aligned(size, |bytes| {
                for (i, word) in bytes.chunks_exact_mut(4).enumerate() {
                    // Any mantissa and sign; the exponent is that of numbers from 0.5 to 2.
                    let (free, fixed) = match elem {
                        Elem::F32 => (0x80ff_ffff, 0x3f00_0000),
                        Elem::F16 => (0x87ff_87ff, 0x3800_3800),
                        Elem::Bf16 => (0x80ff_80ff, 0x3f00_3f00),
                        _ => (u32::MAX, 0),
                    };
                    let bits = (i as u32).wrapping_mul(2_654_435_761) & free | fixed;
                    word.copy_from_slice(&bits.to_le_bytes());
                }
            });
            let memory = &memory[start..start + size];
            let read_ns = best_ns(|| {
                black_box(read_all(black_box(memory)));
            });
            let read = size as f64 / read_ns;
            println!("{place:6} read loop: {read:.1} GB/s");
            for metric in Metric::COMMON {
                for dim in [128, 384, 768, 1536] {
                    let row = elem.row_bytes(dim);
                    let n = memory.len() / row;
                    let (query, start) =
                        aligned(row, |bytes| bytes.copy_from_slice(&memory[..row]));
                    let query = &query[start..start + row];
                    let mut out = vec![0; n];
                    // Each row once, in a scattered order.
                    let offsets: Vec<u64> = (0..n as u64)
                        .map(|i| i * 7919 % n as u64 * row as u64)
                        .collect();
                    for isa in available() {
                        let name =
                            format!("{} {} {} {dim}", isa.name(), elem.name(), metric.name());
                        if isa == Isa::Scalar && place == "stream"
                            || !filter
                                .iter()
                                .all(|f| name.contains(f.as_str()) || place == f)
                        {
                            continue;
                        }
                        let rows_ns = best_ns(|| {
                            score_rows(&t, isa, elem, metric, query, memory, row, dim, &mut out)
                                .unwrap();
                        });
                        let gather_ns = best_ns(|| {
                            score_gather(
                                &t, isa, elem, metric, query, memory, &offsets, dim, &mut out,
                            )
                            .unwrap();
                        });
                        let (rows_ns, gather_ns) = (rows_ns / n as f64, gather_ns / n as f64);
                        let speed = row as f64 / rows_ns;
                        println!(
                            "{place:6} {name:32} rows {rows_ns:8.2} ns {speed:6.1} GB/s \
                             ratio {:.2}   gather {gather_ns:8.2} ns {:6.1} GB/s",
                            speed / read,
                            row as f64 / gather_ns,
                        );
                    }
                }
            }
        }
    }
}
