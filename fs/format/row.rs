// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The record that stands beside a row of vectors; its key is the row number.

use crate::bytes_at;

/// Bytes in a row record.
pub const ROW_BYTES: usize = 24;

/// Key, tags and life of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RowMeta {
    /// The user's key.
    pub key: u64,
    /// Tag mask for filters.
    pub tags: u64,
    /// Sequence number of the batch that deleted the row; 0 while it lives.
    pub tomb_seq: u64,
}

impl RowMeta {
    /// The row in `record`.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn parse(record: &[u8]) -> Result<RowMeta, &'static str> {
        if record.len() != ROW_BYTES {
            return Err("row: record has the wrong size");
        }
        Ok(RowMeta {
            key: u64::from_le_bytes(bytes_at(record, 0)),
            tags: u64::from_le_bytes(bytes_at(record, 8)),
            tomb_seq: u64::from_le_bytes(bytes_at(record, 16)),
        })
    }

    /// The record.
    pub fn encode(&self) -> [u8; ROW_BYTES] {
        let mut record = [0; ROW_BYTES];
        crate::put(&mut record, 0, &self.key.to_le_bytes());
        crate::put(&mut record, 8, &self.tags.to_le_bytes());
        crate::put(&mut record, 16, &self.tomb_seq.to_le_bytes());
        record
    }
}
