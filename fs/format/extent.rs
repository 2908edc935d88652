// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The record of a run of file blocks; its key is the first logical block.

use crate::bytes_at;

/// Bytes in an extent record.
pub const EXTENT_BYTES: usize = 16;
/// Longest extent: 4 GiB, in blocks.
pub const MAX_LEN: u64 = 1 << 20;
/// `flags`: allocated, but reads as zeros until the data has reached the disk.
pub const UNWRITTEN: u32 = 1;
/// Logical blocks are below this: file sizes stay below 2^63 bytes.
pub const MAX_LOGICAL: u64 = 1 << (63 - crate::BLOCK_SHIFT);

/// A checked extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First logical block.
    pub logical: u64,
    /// First block on the volume.
    pub physical: u64,
    /// Blocks, 1 to [`MAX_LEN`].
    pub len: u64,
    /// True until the data has reached the disk.
    pub unwritten: bool,
}

impl Extent {
    /// The extent with key `logical` in `record`.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn parse(logical: u64, record: &[u8]) -> Result<Extent, &'static str> {
        if record.len() != EXTENT_BYTES {
            return Err("extent: record has the wrong size");
        }
        let physical = u64::from_le_bytes(bytes_at(record, 0));
        let len = u64::from(u32::from_le_bytes(bytes_at(record, 8)));
        let flags = u32::from_le_bytes(bytes_at(record, 12));
        if len == 0 || len > MAX_LEN {
            return Err("extent: length is out of range");
        }
        if flags & !UNWRITTEN != 0 {
            return Err("extent: unknown flag");
        }
        if logical >= MAX_LOGICAL || logical.saturating_add(len) > MAX_LOGICAL {
            return Err("extent: past the largest file");
        }
        if physical == 0 || physical.checked_add(len).is_none() {
            return Err("extent: physical blocks are out of range");
        }
        Ok(Extent {
            logical,
            physical,
            len,
            unwritten: flags & UNWRITTEN != 0,
        })
    }

    /// The record; the key is [`Extent::logical`].
    pub fn encode(&self) -> [u8; EXTENT_BYTES] {
        let mut record = [0; EXTENT_BYTES];
        let flags = if self.unwritten { UNWRITTEN } else { 0 };
        crate::put(&mut record, 0, &self.physical.to_le_bytes());
        crate::put(&mut record, 8, &(self.len as u32).to_le_bytes());
        crate::put(&mut record, 12, &flags.to_le_bytes());
        record
    }

    /// The first logical block behind the extent.
    pub fn end(&self) -> u64 {
        self.logical.saturating_add(self.len)
    }
}
