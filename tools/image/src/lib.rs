// SPDX-License-Identifier: Apache-2.0

//! A VexFS volume in user space: in a file, on a device or in memory.
//!
//! - [`device`]: blocks in a file or in memory
//! - [`mod@make`]: formats a device
//! - [`image`]: opens one; reads and changes it in transactions through `libvexfs`
//! - [`in_use`]: whether somebody uses a device or file
//! - [`indexes`]: whether the indexes of a container are sound
//! - [`mod@check`]: whether everything on a volume fits together
//! - [`mod@mend`]: mending what does not
//!
//! There is no journal here: a transaction is written when it is committed, all of it or,
//! if it is dropped, nothing. That is what the kernel's journal makes of a crash, so tests
//! can crash between any two transactions.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
pub mod device;
pub mod image;
pub mod in_use;
pub mod indexes;
pub mod make;
pub mod mend;

pub use device::{Device, FileDevice, MemDevice};
pub use image::{Image, Transaction};
pub use make::{make, Options};

/// CRC32C as the kernel's `crc32c()` computes it: no inversion before or after.
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

#[cfg(test)]
mod tests {
    /// The value every description of CRC32C gives for these digits.
    #[test]
    fn crc_is_the_castagnoli_crc_without_its_inversions() {
        assert_eq!(!super::crc(!0, b"123456789"), 0xe306_9283);
        let whole = super::crc(!0, b"123456789");
        assert_eq!(super::crc(super::crc(!0, b"1234"), b"56789"), whole);
    }
}
