// SPDX-License-Identifier: GPL-2.0

//! Which instruction set distances are computed with: chosen once at module load, proven
//! against the portable code, lowered by a parameter or a mount option.

use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{fmt, prelude::*};
use vexfs_simd_ffi::{self_test, Isa};
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

static CHOSEN: AtomicU32 = AtomicU32::new(Isa::Scalar as u32);

fn has(isa: Isa) -> bool {
    let kernel = match isa {
        Isa::Scalar => true,
        Isa::Avx2 => fpu::has_avx2(),
        Isa::Avx512 => fpu::has_avx512(),
        Isa::Avx512Vnni => fpu::has_avx512() && fpu::has_avx512_vnni(),
        Isa::Avx512Bf16 => has(Isa::Avx512Vnni) && fpu::has_avx512_bf16(),
        Isa::Neon | Isa::NeonDot => true,
    };
    kernel && isa.is_available()
}

/// Runs every step of the self-test, each in a section of its own.
fn proves_itself(isa: Isa) -> bool {
    (0..)
        .map_while(|step| fpu::section(|t| self_test(t, isa, step)))
        .all(|ok| ok)
}

/// Chooses the best instruction set that the processor has, that the parameter `simd=` does
/// not rule out and that agrees with the portable code.
///
/// # Errors
///
/// `EINVAL` for a parameter that is no instruction set.
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
    let mut chosen = Isa::Scalar;
    for isa in Isa::ALL.into_iter().rev() {
        if isa == Isa::Scalar || limit.is_some_and(|limit| !isa.is_at_most(limit)) || !has(isa) {
            continue;
        }
        if proves_itself(isa) {
            chosen = isa;
            break;
        }
        pr_err!(
            "{} disagrees with the portable code and is not used\n",
            isa.name()
        );
    }
    CHOSEN.store(chosen as u32, Ordering::Relaxed);
    pr_info!("distances are computed with {}\n", chosen.name());
    Ok(())
}

/// The instruction set for a mount that asked for `limit`.
pub(crate) fn for_mount(limit: Option<Isa>) -> Isa {
    let chosen = Isa::from_u32(CHOSEN.load(Ordering::Relaxed)).unwrap_or(Isa::Scalar);
    match limit {
        Some(limit) if limit.is_at_most(chosen) => limit,
        _ => chosen,
    }
}
