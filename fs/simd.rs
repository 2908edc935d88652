// SPDX-License-Identifier: GPL-2.0

//! Which instruction set distances are computed with, chosen once at module load, proven
//! against the portable code, lowered by a parameter or a mount option; and how much of its
//! work an FPU section may hold, measured.

use kernel::sync::SetOnce;
use kernel::{fmt, prelude::*};
use vexfs_simd_ffi::{self_test, Cost, Elem, FpuToken, Isa, Pace, Sections, PACE_BYTES, PACE_ROWS};
use vexfs_vfs::{fpu, task};

/// The instruction sets' names, for messages.
pub(crate) struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = Isa::ALL.iter();
        if let Some(first) = rest.next() {
            f.write_str(first.name())?;
        }
        rest.try_for_each(|isa| write!(f, ", {}", isa.name()))
    }
}

/// Bounds of the parameter `section_us`. Preemption is off in a section: a millisecond is what
/// a kernel built for throughput may still call short.
const SECTION_US: core::ops::RangeInclusive<u32> = 1..=1000;

/// An instruction set, and how much of its work an FPU section holds.
#[derive(Clone, Copy)]
pub(crate) struct Simd {
    pub(crate) isa: Isa,
    pace: Pace,
    section_ns: u64,
}

static CHOSEN: SetOnce<Simd> = SetOnce::new();

/// Sections and time of the kernel.
pub(crate) struct Kernel;

impl Sections for Kernel {
    fn now_ns(&self) -> u64 {
        task::monotonic_ns()
    }

    fn run<R>(&self, f: impl FnOnce(&FpuToken<'_>) -> R) -> Option<R> {
        fpu::section(f).ok()
    }
}

impl Simd {
    /// Measures `isa`. The contents of the memory are numbers of ordinary size in every element
    /// type.
    fn measure(isa: Isa, section_ns: u64) -> Result<Self> {
        let memory = KVVec::from_elem(0x3cu8, PACE_BYTES, GFP_KERNEL)?;
        let mut out = KVVec::from_elem(0u32, PACE_ROWS, GFP_KERNEL)?;
        Ok(Simd {
            isa,
            pace: Pace::measure(&Kernel, isa, &memory, &mut out).ok_or(EIO)?,
            section_ns,
        })
    }

    /// What the module chose.
    ///
    /// # Errors
    ///
    /// `EINVAL` before [`choose`].
    pub(crate) fn chosen() -> Result<Self> {
        CHOSEN.copy().ok_or(EINVAL)
    }

    /// Rows of `row_bytes` bytes that one section may compare with a query. At least one.
    pub(crate) fn section_rows(&self, elem: Elem, row_bytes: usize) -> usize {
        self.pace.score(elem).rows(self.section_ns, row_bytes)
    }

    /// Queries that one section may compare with the same `rows` rows. At least one.
    pub(crate) fn section_queries(&self, elem: Elem, row_bytes: usize, rows: usize) -> usize {
        let cost = self.pace.score(elem);
        cost.queries(self.section_ns, row_bytes, rows)
    }

    /// Bytes in which one section may look for elements that are not finite: whole elements.
    pub(crate) fn check_bytes(&self) -> usize {
        const AT_ONCE: usize = 1024;
        let pieces = self.pace.check().rows(self.section_ns, AT_ONCE);
        pieces.saturating_mul(AT_ONCE)
    }
}

/// The measured costs, in ns for a KiB in cache and from memory, for the log.
struct Costs(Simd);

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |f: &mut fmt::Formatter<'_>, name, cost: Cost| {
            let (hot, cold) = (cost.hot_ps / 100, cost.cold_ps / 100);
            let (hot, hot_tenths) = (hot / 10, hot % 10);
            let (cold, cold_tenths) = (cold / 10, cold % 10);
            write!(f, " {name} {hot}.{hot_tenths}/{cold}.{cold_tenths}")
        };
        for elem in Elem::ALL {
            one(f, elem.name(), self.0.pace.score(elem))?;
        }
        one(f, "check", self.0.pace.check())
    }
}

fn has(isa: Isa) -> bool {
    let kernel = match isa {
        Isa::Scalar => true,
        Isa::Avx2 => fpu::has_avx2(),
        Isa::Avx512 => fpu::has_avx512(),
        Isa::Avx512Vnni => fpu::has_avx512() && fpu::has_avx512_vnni(),
        Isa::Avx512Bf16 => has(Isa::Avx512Vnni) && fpu::has_avx512_bf16(),
        Isa::Neon => true,
        Isa::NeonDot => fpu::has_neon_dot(),
    };
    kernel && isa.is_available()
}

/// Runs every step of the self-test, each in a section of its own.
fn proves_itself(isa: Isa) -> bool {
    for step in 0.. {
        match fpu::section(|t| self_test(t, isa, step)) {
            Ok(Some(true)) => (),
            Ok(Some(false)) | Err(_) => return false,
            Ok(None) => break,
        }
    }
    true
}

/// The best instruction set of this processor's up to `limit`, if it agrees with the portable
/// code.
fn best(limit: Option<Isa>) -> Isa {
    vexfs_simd_ffi::choose(limit, has, proves_itself, |isa| {
        pr_err!(
            "{} disagrees with the portable code and is not used\n",
            isa.name()
        )
    })
}

/// Chooses the best instruction set that the processor has, that the parameter `simd=` does
/// not rule out and that agrees with the portable code, and measures it.
///
/// # Errors
///
/// `EINVAL` for a parameter that is no instruction set or a time out of bounds, `ENODEV` if the
/// processor has no vector registers for the kernel.
pub(crate) fn choose() -> Result {
    let parameter = task::simd_parameter();
    let limit = if parameter == b"auto" {
        None
    } else {
        Some(Isa::from_name(parameter).ok_or_else(|| {
            pr_err!("simd= takes auto or one of {}\n", Names);
            EINVAL
        })?)
    };
    let section_us = task::section_parameter();
    if !SECTION_US.contains(&section_us) {
        let (least, most) = (SECTION_US.start(), SECTION_US.end());
        pr_err!(
            "section_us= takes microseconds from {} to {}\n",
            least,
            most
        );
        return Err(EINVAL);
    }
    if !fpu::exists() {
        pr_err!("this processor has no vector registers for the kernel\n");
        return Err(ENODEV);
    }
    let isa = best(limit);
    let simd = Simd::measure(isa, u64::from(section_us).saturating_mul(1000))?;
    pr_info!(
        "distances are computed with {}, {} us at once; ns per KiB in cache/memory:{}\n",
        isa.name(),
        section_us,
        Costs(simd)
    );
    CHOSEN.populate(simd);
    Ok(())
}

/// The instruction set for a mount that asked for no more than `limit`. A lower one than the
/// module's is proven and measured first; `avx2` means `scalar` on arm64.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn for_mount(limit: Option<Isa>) -> Result<Simd> {
    let chosen = Simd::chosen()?;
    if limit.is_none_or(|limit| chosen.isa.is_at_most(limit)) {
        return Ok(chosen);
    }
    Simd::measure(best(limit), chosen.section_ns)
}
