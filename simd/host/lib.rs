// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! `vexfs_simd` for user space: the kernel's door with its implementation behind it.
//!
//! Tools and tests depend on this crate alone and call the door with [`token`] and [`Isa::best`].

#![warn(missing_docs)]

pub use vexfs_simd_ffi::*;

/// The exported functions, named once so that every linker keeps them for the door.
#[used]
static IMPLEMENTATION: (
    unsafe extern "C" fn(u32, u32, u32, *const u8, *const u8, usize, usize, *mut u32, usize) -> u32,
    unsafe extern "C" fn(
        u32,
        u32,
        u32,
        *const u8,
        *const u8,
        *const u64,
        usize,
        *mut u32,
        usize,
    ) -> u32,
    unsafe extern "C" fn(u32, u32, *const u8, usize) -> usize,
    unsafe extern "C" fn(u32, u32) -> u32,
) = (
    vexfs_simd::vexfs_simd_score_rows,
    vexfs_simd::vexfs_simd_score_gather,
    vexfs_simd::vexfs_simd_first_non_finite,
    vexfs_simd::vexfs_simd_self_test,
);

/// The right to use vector registers, which every user-space thread has.
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
