// SPDX-License-Identifier: GPL-2.0

//! Mount options.

use kernel::prelude::*;
use vexfs_simd_ffi::Isa;

/// What `mount -o` asked for.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// `barrier` (default) or `nobarrier`: send cache flushes with commits.
    pub(crate) barrier: bool,
    /// `commit=SECONDS` between commits; 0 for the journal's default of 5.
    pub(crate) commit_interval: u32,
    /// `simd=NAME`: an instruction set lower than the module's.
    pub(crate) simd: Option<Isa>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            barrier: true,
            commit_interval: 0,
            simd: None,
        }
    }
}

/// The longest time between commits that is accepted, in seconds.
const MAX_COMMIT_INTERVAL: u32 = 3600;

/// Takes one option. `Ok(false)` if it is not one of ours, `EINVAL` if its value is bad.
pub(crate) fn parse(options: &mut Options, key: &[u8], value: Option<&[u8]>) -> Result<bool> {
    match (key, value) {
        (b"barrier", None) => options.barrier = true,
        (b"nobarrier", None) => options.barrier = false,
        (b"commit", Some(value)) => {
            let seconds = core::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
                .filter(|seconds| *seconds <= MAX_COMMIT_INTERVAL);
            options.commit_interval = seconds.ok_or_else(|| {
                pr_err!("commit= takes seconds from 0 to {}\n", MAX_COMMIT_INTERVAL);
                EINVAL
            })?;
        }
        (b"simd", Some(b"auto")) => options.simd = None,
        (b"simd", Some(value)) => {
            options.simd = Some(Isa::from_name(value).ok_or_else(|| {
                pr_err!("simd= takes auto or one of {}\n", crate::simd::Names);
                EINVAL
            })?);
        }
        (b"barrier" | b"nobarrier" | b"commit" | b"simd", _) => return Err(EINVAL),
        _ => return Ok(false),
    }
    Ok(true)
}
