// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to vector arithmetic for soft-float code: slices, integers and an [`FpuToken`].
//!
//! Shapes are checked here, so that the hard-float object behind the door need not panic and its
//! callers need no `unsafe`. Nothing here is a float: vectors are bytes, a distance is a
//! [`Distance`]. The kernel compiles this crate soft-float; user space depends on `vexfs_simd_host`,
//! which links it with its implementation.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
#![allow(clippy::too_many_arguments)]

mod abi;
#[path = "ffi/choose.rs"]
mod choose;
#[path = "ffi/cluster.rs"]
mod cluster;
#[path = "ffi/convert.rs"]
mod convert;
#[path = "ffi/graph.rs"]
mod graph;
#[path = "ffi/lsh.rs"]
mod lsh;
#[path = "ffi/pace.rs"]
mod pace;
#[path = "ffi/postings.rs"]
mod postings;
#[path = "ffi/pq.rs"]
mod pq;
#[path = "ffi/rabitq.rs"]
mod rabitq;
#[path = "ffi/score.rs"]
mod score;

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

pub use abi::{Distance, Elem, Isa, Metric, MAX_DIM};
pub use choose::choose;
pub use cluster::{
    accumulate_f32, assign_f32, centroids_f32, rotate_f32, sign_bits_f32, spill_costs,
};
pub use convert::{convert, dequantise_i8, normalise_f32, quantise_i8, Quantiser};
pub use graph::{prefetch, GraphCode, GraphKind, MAX_CODE_WORDS, NBITS_F16};
pub use lsh::fixed_f32;
pub use pace::{Cost, Pace, Sections, Work, PACE_BYTES, PACE_ROWS};
pub use postings::{
    encode_parts, encode_signs, posting_words, scan_postings, sign_table, subtract_f32,
    PostingTable,
};
pub use pq::{pq_encode, pq_pack4, pq_reduce_table, pq_scan4, pq_scan8, pq_table, PqShape};
pub use rabitq::{
    rabitq_code_bytes, rabitq_encode, rabitq_prepare, rabitq_query_words, rabitq_scan,
};
pub use score::{score_gather, score_list, score_many_list, score_many_rows, score_rows};

extern "C" {
    fn vexfs_simd_first_non_finite(isa: u32, elem: u32, p: *const u8, n: usize) -> usize;
    fn vexfs_simd_self_test(isa: u32, step: u32) -> u32;
}

/// Proof that vector registers may be used, for as long as it lives.
///
/// It can be neither sent to another thread nor shared with one: an FPU section belongs to the
/// processor it was opened on.
pub struct FpuToken<'a> {
    _section: PhantomData<*mut &'a ()>,
}

impl FpuToken<'_> {
    /// Claims that vector registers may be used.
    ///
    /// # Safety
    ///
    /// For the lifetime the caller chooses, the running context owns the vector registers: in the
    /// kernel it is between `kernel_fpu_begin` and `kernel_fpu_end` (or their counterparts of another
    /// architecture) and does not sleep; in user space there is nothing to prove.
    pub const unsafe fn new_unchecked() -> Self {
        FpuToken {
            _section: PhantomData,
        }
    }
}

/// The shape of the arguments does not fit: a slice is too short, or the dimension, the element
/// type or the metric is not one there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadShape;

impl Isa {
    /// Whether this processor has the instructions and the operating system keeps their registers.
    ///
    /// Asked of the processor once and remembered. A kernel may have further reasons not to use an
    /// instruction set.
    pub fn is_available(self) -> bool {
        /// One bit for each available `Isa`, and this one once they are known.
        const KNOWN: u32 = 1 << 31;
        static AVAILABLE: AtomicU32 = AtomicU32::new(0);
        // Relaxed: whoever finds nothing asks again and stores the same answer.
        let mut bits = AVAILABLE.load(Ordering::Relaxed);
        if bits == 0 {
            bits = KNOWN | detect();
            AVAILABLE.store(bits, Ordering::Relaxed);
        }
        bits >> (self as u32) & 1 != 0
    }

    /// The most capable instruction set that is available.
    pub fn best() -> Isa {
        Isa::ALL
            .into_iter()
            .rfind(|isa| isa.is_available())
            .unwrap_or(Isa::Scalar)
    }

    /// Its number behind the door. What the processor lacks is computed by portable code, so that
    /// safe callers cannot reach an undefined instruction.
    fn word(self) -> u32 {
        if self.is_available() {
            self as u32
        } else {
            Isa::Scalar as u32
        }
    }
}

/// One bit for each available instruction set.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn detect() -> u32 {
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    const OSXSAVE: u32 = 1 << 27;
    // Leaf 1 ECX: FMA, POPCNT, AVX, F16C.
    const LEAF1: u32 = 1 << 12 | 1 << 23 | 1 << 28 | 1 << 29 | OSXSAVE;
    // Leaf 7 EBX: AVX2, and AVX-512 F, DQ, BW, VL.
    const AVX2: u32 = 1 << 5;
    const AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31;
    // Leaf 7 ECX: AVX512_VNNI, AVX512_VPOPCNTDQ. Leaf 7.1 EAX: AVX512_BF16.
    const VNNI: u32 = 1 << 11 | 1 << 14;
    const BF16: u32 = 1 << 5;
    // XCR0: the registers that XSAVE keeps. XMM and YMM; opmask and both halves of ZMM.
    const YMM: u32 = 0b110;
    const ZMM: u32 = 0b1110_0110;

    let mut isas = 1 << Isa::Scalar as u32;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & LEAF1 != LEAF1 {
        return isas;
    }
    let xcr0: u32;
    // SAFETY: OSXSAVE says that XGETBV exists at every privilege level; it touches EAX and EDX.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") xcr0, out("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    let leaf7 = __cpuid_count(7, 0);
    if leaf7.ebx & AVX2 == 0 || xcr0 & YMM != YMM {
        return isas;
    }
    isas |= 1 << Isa::Avx2 as u32;
    if leaf7.ebx & AVX512 != AVX512 || xcr0 & ZMM != ZMM {
        return isas;
    }
    isas |= 1 << Isa::Avx512 as u32;
    if leaf7.ecx & VNNI != VNNI {
        return isas;
    }
    isas |= 1 << Isa::Avx512Vnni as u32;
    if leaf7.eax >= 1 && __cpuid_count(7, 1).eax & BF16 != 0 {
        isas |= 1 << Isa::Avx512Bf16 as u32;
    }
    isas
}

/// One bit for each available instruction set. Miri has what it was told to have.
#[cfg(all(target_arch = "x86_64", miri))]
fn detect() -> u32 {
    let avx2 = cfg!(all(
        target_feature = "avx2",
        target_feature = "fma",
        target_feature = "f16c",
        target_feature = "popcnt"
    ));
    let avx512 = cfg!(all(
        target_feature = "avx512f",
        target_feature = "avx512bw",
        target_feature = "avx512dq",
        target_feature = "avx512vl"
    ));
    let vnni = cfg!(all(
        target_feature = "avx512vnni",
        target_feature = "avx512vpopcntdq"
    ));
    let bf16 = cfg!(target_feature = "avx512bf16");
    let mut isas = 1 << Isa::Scalar as u32;
    let mut all = true;
    for (isa, has) in [
        (Isa::Avx2, avx2),
        (Isa::Avx512, avx512),
        (Isa::Avx512Vnni, vnni),
        (Isa::Avx512Bf16, bf16),
    ] {
        all &= has;
        isas |= (all as u32) << isa as u32;
    }
    isas
}

/// One bit for each available instruction set. Advanced SIMD is part of the arm64 baseline; what
/// comes on top is told by registers that Linux lets every privilege level read.
#[cfg(all(target_arch = "aarch64", not(miri)))]
fn detect() -> u32 {
    // A field of four bits, signed in ID_AA64PFR0_EL1, holds the version of a feature.
    let field = |register: u64, shift: u32| register >> shift & 15;
    let (isar0, pfr0): (u64, u64);
    // SAFETY: the registers can be read in the kernel, and Linux emulates the reads in user space;
    // they change nothing.
    unsafe {
        core::arch::asm!("mrs {0}, ID_AA64ISAR0_EL1", "mrs {1}, ID_AA64PFR0_EL1",
            out(reg) isar0, out(reg) pfr0, options(nomem, nostack, preserves_flags));
    }
    // ISAR0: DP in bits 44 to 47, FHM in 48 to 51. PFR0: AdvSIMD in 20 to 23, 1 with half precision.
    let dot = field(isar0, 44) >= 1 && field(isar0, 48) >= 1 && field(pfr0, 20) == 1;
    1 | 1 << Isa::Neon as u32 | u32::from(dot) << Isa::NeonDot as u32
}

/// One bit for each available instruction set: none but the baseline.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(miri)))))]
fn detect() -> u32 {
    1 | (cfg!(target_arch = "aarch64") as u32) << Isa::Neon as u32
}

/// The index of the first element that is NaN or infinite.
///
/// `bytes` are elements of type `elem` at any alignment; an incomplete one at the end is not looked
/// at. Integers and bits are always finite.
pub fn first_non_finite(
    _token: &FpuToken<'_>,
    isa: Isa,
    elem: Elem,
    bytes: &[u8],
) -> Option<usize> {
    let n = match elem {
        Elem::F32 => bytes.len() >> 2,
        Elem::F16 | Elem::Bf16 => bytes.len() >> 1,
        Elem::I8 | Elem::U8 | Elem::Binary => return None,
    };
    // SAFETY: `n` elements fit into `bytes`. The token proves that vector registers may be used, and
    // `word` that the processor has the instructions.
    let at = unsafe { vexfs_simd_first_non_finite(isa.word(), elem as u32, bytes.as_ptr(), n) };
    (at < n).then_some(at)
}

/// Compares `isa` with the portable code: whether step `step` agrees, or `None` after the last step.
///
/// Steps are numbered from 0, and each is at most some tens of microseconds of work, so that it fits
/// one FPU section. An instruction set that the processor lacks has failed.
pub fn self_test(_token: &FpuToken<'_>, isa: Isa, step: u32) -> Option<bool> {
    if !isa.is_available() {
        return (step == 0).then_some(false);
    }
    // SAFETY: the token proves that vector registers may be used, and the check above that the
    // processor has the instructions.
    match unsafe { vexfs_simd_self_test(isa as u32, step) } {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
