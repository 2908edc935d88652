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
    /// `index_memory=BYTES`: what indexes may take together; all ones if they may take any.
    pub(crate) index_memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            barrier: true,
            commit_interval: 0,
            simd: None,
            index_memory: u64::MAX,
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
        (b"index_memory", Some(value)) => {
            options.index_memory = bytes(value).ok_or_else(|| {
                pr_err!("index_memory= takes bytes, with K, M or G for multiples of 1024\n");
                EINVAL
            })?;
        }
        (b"barrier" | b"nobarrier" | b"commit" | b"simd" | b"index_memory", _) => {
            return Err(EINVAL)
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A number of bytes, with K, M or G for multiples of 1024.
fn bytes(text: &[u8]) -> Option<u64> {
    let (digits, shift) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        _ => (text, 0),
    };
    let number = core::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    number.checked_mul(1 << shift)
}
