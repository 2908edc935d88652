// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The record that stands beside a row of vectors; its key is the row number.

use crate::bytes_at;

/// Bytes in the record of a row that was never there before.
pub const ROW_BYTES: usize = 24;
/// Bytes in the record of a row that was deleted and has become another one since.
pub const REUSED_ROW_BYTES: usize = 32;

/// Key, tags and life of one row.
///
/// Batches that delete a row and that put another one in its place may be on disk before the vector area
/// confirms them: [`RowMeta::is_deleted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RowMeta {
    /// The user's key.
    pub key: u64,
    /// Tag mask for filters.
    pub tags: u64,
    /// Sequence number of the batch that deleted the row, or, if that is less than [`RowMeta::born_seq`], the one that
    /// was here before; 0 if none was.
    pub tomb_seq: u64,
    /// Sequence number of the batch that put the row in the place of a deleted one; 0 if it was the first here.
    pub born_seq: u64,
}

/// A record as it lies on disk.
pub struct Encoded {
    bytes: [u8; REUSED_ROW_BYTES],
    len: usize,
}

impl Encoded {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl RowMeta {
    /// The row in `record`.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn parse(record: &[u8]) -> Result<RowMeta, &'static str> {
        let reused = match record.len() {
            ROW_BYTES => false,
            REUSED_ROW_BYTES => true,
            _ => return Err("row: record has the wrong size"),
        };
        let meta = RowMeta {
            key: u64::from_le_bytes(bytes_at(record, 0)),
            tags: u64::from_le_bytes(bytes_at(record, 8)),
            tomb_seq: u64::from_le_bytes(bytes_at(record, 16)),
            born_seq: match reused {
                true => u64::from_le_bytes(bytes_at(record, 24)),
                false => 0,
            },
        };
        // There was a row here before.
        if reused && (meta.born_seq == 0 || meta.tomb_seq == meta.born_seq) {
            return Err("row: record of a row in the place of none");
        }
        Ok(meta)
    }

    /// The record.
    pub fn encode(&self) -> Encoded {
        let mut bytes = [0; REUSED_ROW_BYTES];
        crate::put(&mut bytes, 0, &self.key.to_le_bytes());
        crate::put(&mut bytes, 8, &self.tags.to_le_bytes());
        crate::put(&mut bytes, 16, &self.tomb_seq.to_le_bytes());
        crate::put(&mut bytes, 24, &self.born_seq.to_le_bytes());
        let len = match self.born_seq {
            0 => ROW_BYTES,
            _ => REUSED_ROW_BYTES,
        };
        Encoded { bytes, len }
    }

    /// Whether the row is deleted if all batches up to `batch_done` have happened, and no others.
    pub fn is_deleted(&self, batch_done: u64) -> bool {
        let born = self.born_seq <= batch_done;
        let buried = self.tomb_seq > self.born_seq && self.tomb_seq <= batch_done;
        !born || buried
    }

    /// The record without what batches after `batch_done` say in it; itself if these say nothing. What is deleted stays
    /// so, though the number of the batch may have been overwritten.
    pub fn confirmed(&self, batch_done: u64) -> RowMeta {
        match *self {
            meta if meta.born_seq > batch_done => RowMeta {
                tomb_seq: meta.tomb_seq.min(batch_done),
                born_seq: 0,
                ..meta
            },
            meta if meta.tomb_seq > batch_done => RowMeta {
                tomb_seq: 0,
                ..meta
            },
            meta => meta,
        }
    }
}
