// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Why an operation on blocks failed.

use vexfs_format as format;

/// Why an operation failed. Small and `Copy`; the host maps it to an errno and, for the
/// corruptions, to one log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The device failed.
    Io,
    /// No free block or inode.
    NoSpace,
    /// A block breaks a rule of the format.
    Corrupt {
        /// Block number on the volume.
        block: u64,
        /// The rule.
        what: &'static str,
    },
    /// The checksum of a block does not match.
    BadChecksum {
        /// Block number on the volume.
        block: u64,
    },
    /// An inode, or the root of its tree, breaks a rule of the format.
    CorruptInode {
        /// Inode number.
        ino: u64,
        /// The rule.
        what: &'static str,
    },
    /// The checksum of an inode does not match.
    BadInodeChecksum {
        /// Inode number.
        ino: u64,
    },
    /// The key, name or range is there already.
    Exists,
    /// The key, name or range is not there.
    NotFound,
    /// The directory has entries.
    NotEmpty,
    /// The name or target is longer than the format allows.
    NameTooLong,
    /// More names with equal hashes than a directory can tell apart.
    TooManyCollisions,
    /// The tree is as high as it may be.
    TooDeep,
    /// The caller asked for something that makes no sense.
    Invalid(&'static str),
    /// A negative errno of the host, passed through.
    Store(i32),
}

/// A `Result` with this crate's [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

impl From<format::Error> for Error {
    fn from(error: format::Error) -> Error {
        match error {
            format::Error::BadChecksum { block } => Error::BadChecksum { block },
            format::Error::Corrupt { block, what } => Error::Corrupt { block, what },
            format::Error::BadInodeChecksum { ino } => Error::BadInodeChecksum { ino },
            format::Error::CorruptInode { ino, what } => Error::CorruptInode { ino, what },
            format::Error::Invalid(what) => Error::Invalid(what),
        }
    }
}
