// SPDX-License-Identifier: Apache-2.0

//! What the benchmarks share: memory to measure on, and the plain read of it.

// Each benchmark is a crate of its own, and uses what it needs.
#![allow(dead_code)]

use vexfs_simd_host::{Elem, Isa, Metric};

/// Dimensions measured: those of common embedding models.
pub const DIMS: [usize; 4] = [128, 384, 768, 1536];
/// A working set that fits the second-level cache and not the first.
pub const CACHE_BYTES: usize = 256 << 10;
/// A working set that fits no cache.
pub const STREAM_BYTES: usize = 256 << 20;
/// Rows per call: enough to amortise it, few enough for the results to stay in cache.
pub const BATCH: usize = 1024;

/// The metrics of an element type that are functions of their own.
pub fn metrics(elem: Elem) -> [Metric; 3] {
    let differences = if elem == Elem::Binary {
        Metric::Hamming
    } else {
        Metric::L2Sq
    };
    [differences, Metric::InnerProduct, Metric::Cosine]
}

const HUGE_PAGE: usize = 2 << 20;

/// Bytes at an address that is a multiple of 2 MiB, in huge pages where the kernel grants them:
/// a 4 KiB page ends the processor's own prefetching, and the page cache is mapped by larger ones.
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// `len` bytes of elements of type `elem`, the same for the same `seed`.
    ///
    /// Floats have any sign and mantissa and the exponents of 0.5 to 2; the others are any bits.
    pub fn new(len: usize, elem: Elem, seed: u64) -> Memory {
        let mut bytes: Vec<u8> = Vec::with_capacity(len + HUGE_PAGE);
        let start = bytes.as_ptr().align_offset(HUGE_PAGE);
        advise_huge_pages(bytes.as_mut_ptr().wrapping_add(start), len);
        bytes.resize(start + len, 0);
        let (free, fixed) = match elem {
            Elem::F32 => (0x80ff_ffff_80ff_ffff, 0x3f00_0000_3f00_0000),
            Elem::F16 => (0x87ff_87ff_87ff_87ff, 0x3800_3800_3800_3800),
            Elem::Bf16 => (0x80ff_80ff_80ff_80ff, 0x3f00_3f00_3f00_3f00),
            Elem::I8 | Elem::U8 | Elem::Binary => (u64::MAX, 0),
        };
        // SplitMix64.
        let mut state = seed;
        for word in bytes[start..].chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = (z ^ (z >> 31)) & free | fixed;
            word.copy_from_slice(&bits.to_le_bytes()[..word.len()]);
        }
        Memory { bytes, start, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut u8, len: usize) {
    extern "C" {
        fn madvise(addr: *mut core::ffi::c_void, len: usize, advice: i32) -> i32;
    }
    const MADV_HUGEPAGE: i32 = 14;
    // SAFETY: the advice changes how the pages are backed, not what they hold, and a range the
    // kernel does not like is refused.
    unsafe { madvise(start.cast(), len / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: *mut u8, _: usize) {}

/// Byte offsets of `n` rows of `len_bytes`, each once, in a scattered order.
pub fn scattered(n: usize, len_bytes: usize) -> Vec<u64> {
    // A prime that divides no number of rows used here.
    (0..n)
        .map(|i| (i * 1_000_003 % n * len_bytes) as u64)
        .collect()
}

/// Reads every byte with the widest loads there are into eight accumulators: what no kernel that
/// looks at every byte once can beat.
#[inline(never)]
pub fn read_all(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if Isa::Avx512.is_available() {
            // SAFETY: the processor has AVX-512 F.
            return unsafe { read_avx512(bytes) };
        }
        if Isa::Avx2.is_available() {
            // SAFETY: the processor has AVX2.
            return unsafe { read_avx2(bytes) };
        }
    }
    // Sixteen-byte loads on arm64.
    let mut sums = [0u64; 16];
    for chunk in bytes.chunks_exact(128) {
        for (sum, word) in sums.iter_mut().zip(chunk.chunks_exact(8)) {
            *sum |= u64::from_le_bytes(word.try_into().unwrap());
        }
    }
    sums.into_iter().fold(0, |all, sum| all | sum)
}

#[cfg(target_arch = "x86_64")]
macro_rules! read_loop {
    ($name:ident, $feature:literal, $width:literal, $zero:ident, $load:ident, $or:ident, $low:ident) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name(bytes: &[u8]) -> u64 {
            use std::arch::x86_64::*;
            let mut sums = [$zero(); 8];
            for chunk in bytes.chunks_exact(8 * $width) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the chunk has eight times the width of a load.
                    let v = unsafe { $load(chunk.as_ptr().add($width * i).cast()) };
                    *sum = $or(*sum, v);
                }
            }
            let sum = sums.into_iter().fold($zero(), |all, sum| $or(all, sum));
            _mm_cvtsi128_si64($low(sum)) as u64
        }
    };
}

#[cfg(target_arch = "x86_64")]
read_loop!(
    read_avx2,
    "avx2",
    32,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_or_si256,
    _mm256_castsi256_si128
);
#[cfg(target_arch = "x86_64")]
read_loop!(
    read_avx512,
    "avx512f",
    64,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_or_si512,
    _mm512_castsi512_si128
);
