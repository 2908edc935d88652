// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! `vexfs_simd` for user space: the kernel's door with its implementation behind it.
//!
//! Tools and tests depend on this crate alone and call the door with [`token`] and [`Isa::best`].

#![warn(missing_docs)]

pub use vexfs_simd_ffi::*;

/// Keeps one exported function for the door, whatever the linker's order of archives.
macro_rules! keep {
    ($($function:ident),*) => {$(
        const _: () = {
            #[used]
            static KEEP: Address = Address(vexfs_simd::$function as *const ());
        };
    )*};
}

/// The address of a function, which every thread may know.
#[allow(dead_code)]
struct Address(*const ());

// SAFETY: nobody reads or writes through the address.
unsafe impl Sync for Address {}

keep!(
    vexfs_simd_score_rows,
    vexfs_simd_score_gather,
    vexfs_simd_score_list,
    vexfs_simd_score_many_rows,
    vexfs_simd_score_many_list,
    vexfs_simd_first_non_finite,
    vexfs_simd_convert,
    vexfs_simd_quantise,
    vexfs_simd_normalise,
    vexfs_simd_assign,
    vexfs_simd_accumulate,
    vexfs_simd_centroids,
    vexfs_simd_rotate,
    vexfs_simd_sign_bits,
    vexfs_simd_spill,
    vexfs_simd_pq_encode,
    vexfs_simd_pq_table,
    vexfs_simd_pq_scan8,
    vexfs_simd_pq_reduce_table,
    vexfs_simd_pq_scan4,
    vexfs_simd_rabitq_encode,
    vexfs_simd_rabitq_prepare,
    vexfs_simd_rabitq_scan,
    vexfs_simd_graph_prepare,
    vexfs_simd_graph_encode,
    vexfs_simd_graph_score,
    vexfs_simd_graph_between,
    vexfs_simd_fixed,
    vexfs_simd_encode_signs,
    vexfs_simd_encode_parts,
    vexfs_simd_sign_table,
    vexfs_simd_subtract,
    vexfs_simd_scan_postings,
    vexfs_simd_self_test
);

/// The right to use vector registers, which every user-space thread has.
///
/// In the kernel a token lives as long as an FPU section, and the compiler keeps it there: it can't
/// be taken out of the closure that is the section,
///
/// ```compile_fail,E0521
/// use vexfs_simd_host::{token, FpuToken};
/// fn section<R>(f: impl FnOnce(&FpuToken<'_>) -> R) -> R {
///     f(&token())
/// }
/// let mut kept: Option<&FpuToken<'static>> = None;
/// section(|t| kept = Some(t));
/// ```
///
/// nor given to another thread or a work item.
///
/// ```compile_fail,E0277
/// let t = vexfs_simd_host::token();
/// std::thread::spawn(move || drop(t));
/// ```
pub fn token() -> FpuToken<'static> {
    // SAFETY: the operating system saves and restores the vector registers of its threads.
    unsafe { FpuToken::new_unchecked() }
}

/// The instruction sets this machine has, least capable first.
pub fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Whether `isa` agrees with the portable code in every step of its self-test.
///
/// # Errors
///
/// The first step that does not agree.
pub fn self_test_all(isa: Isa) -> Result<u32, u32> {
    let token = token();
    let mut step = 0;
    loop {
        match self_test(&token, isa, step) {
            Some(true) => step += 1,
            Some(false) => return Err(step),
            None => return Ok(step),
        }
    }
}
