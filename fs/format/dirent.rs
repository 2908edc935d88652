// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The record of a name in a directory; its key is the entry's cookie.
//!
//! A cookie is 55 bits of a keyed hash of the name, and 8 bits that tell names with equal
//! hashes apart. It stays with the entry for its life, so a directory can be read while it
//! changes, and it is below 2^63, so it fits what `telldir` returns. Cookies 0 and 1 are
//! "." and "..", which are not stored.

use crate::bytes_at;

/// Longest name in bytes.
pub const MAX_NAME: usize = 255;
/// Bytes of a record before the name.
pub const PREFIX_BYTES: usize = 9;
/// Longest record.
pub const MAX_DIRENT: usize = PREFIX_BYTES + MAX_NAME;
/// Lowest number that tells names with equal hashes apart.
pub const FIRST_DISAMBIGUATOR: u64 = 2;
/// Highest number that does.
pub const LAST_DISAMBIGUATOR: u64 = 255;
/// Highest file type, as in `DT_*` of readdir: 12 is a socket.
pub const MAX_FILE_TYPE: u8 = 12;

const _: () = assert!(MAX_DIRENT <= crate::node::MAX_RECORD);

/// A checked entry, borrowed from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The inode named.
    pub ino: u64,
    /// Its type, as `DT_*`.
    pub file_type: u8,
    /// The name, 1 to 255 bytes without '/' and NUL.
    pub name: &'a [u8],
}

/// True for a name that may be stored: not empty, not too long, no '/' or NUL, not "." or
/// "..".
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| *b == b'/' || *b == 0)
}

impl<'a> Dirent<'a> {
    /// The entry in `record`.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn parse(record: &'a [u8]) -> Result<Dirent<'a>, &'static str> {
        let name = record
            .get(PREFIX_BYTES..)
            .ok_or("directory entry: cut short")?;
        let ino = u64::from_le_bytes(bytes_at(record, 0));
        let [file_type] = bytes_at(record, 8);
        if ino == 0 {
            return Err("directory entry: names inode 0");
        }
        if file_type > MAX_FILE_TYPE {
            return Err("directory entry: unknown file type");
        }
        if !is_name(name) {
            return Err("directory entry: not a name");
        }
        Ok(Dirent {
            ino,
            file_type,
            name,
        })
    }

    /// Writes the record to the start of `out` and returns it.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn encode<'b>(&self, out: &'b mut [u8; MAX_DIRENT]) -> Result<&'b [u8], &'static str> {
        if !is_name(self.name) {
            return Err("directory entry: not a name");
        }
        crate::put(out, 0, &self.ino.to_le_bytes());
        crate::put(out, 8, &[self.file_type]);
        crate::put(out, PREFIX_BYTES, self.name);
        let len = PREFIX_BYTES.saturating_add(self.name.len());
        out.get(..len).ok_or("directory entry: name is too long")
    }
}
