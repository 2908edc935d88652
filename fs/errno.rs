// SPDX-License-Identifier: GPL-2.0

//! From what went wrong to an errno, and to the one line in the log.

use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format;
use vexfs_vfs::SuperBlock;

/// Maps an error of `libvexfs` to an errno. Corruption is logged, once for each occurrence,
/// with the volume and the block or inode it was found in.
pub(crate) fn of(sb: &SuperBlock<VexFs>, e: libvexfs::Error) -> Error {
    use libvexfs::Error as E;
    match e {
        E::Io => EIO,
        E::NoSpace => ENOSPC,
        E::Corrupt { block, what } => {
            pr_err!("{}: block {}: {}\n", sb.id(), block, what);
            EFSCORRUPTED
        }
        E::BadChecksum { block } => {
            pr_err!("{}: block {}: bad checksum\n", sb.id(), block);
            EFSBADCRC
        }
        E::CorruptInode { ino, what } => {
            pr_err!("{}: inode {}: {}\n", sb.id(), ino, what);
            EFSCORRUPTED
        }
        E::BadInodeChecksum { ino } => {
            pr_err!("{}: inode {}: bad checksum\n", sb.id(), ino);
            EFSBADCRC
        }
        E::Exists => EEXIST,
        E::NotFound => ENOENT,
        E::NotEmpty => ENOTEMPTY,
        E::NameTooLong => ENAMETOOLONG,
        // As other filesystems say when a directory's index is full.
        E::TooManyCollisions => ENOSPC,
        E::TooDeep => EFBIG,
        E::Invalid(_) => EINVAL,
        E::Store(errno) => Error::from_errno(errno),
    }
}

/// Maps an error of the format's parsers.
pub(crate) fn of_format(sb: &SuperBlock<VexFs>, e: format::Error) -> Error {
    match e {
        format::Error::Invalid(what) => {
            pr_err!("{}: {}\n", sb.id(), what);
            EINVAL
        }
        e => of(sb, e.into()),
    }
}

/// Errors after which a transaction may go on, because nothing was changed.
pub(crate) fn is_clean(e: &libvexfs::Error) -> bool {
    use libvexfs::Error as E;
    matches!(
        e,
        E::Exists
            | E::NotFound
            | E::NotEmpty
            | E::NameTooLong
            | E::TooManyCollisions
            | E::TooDeep
            | E::Invalid(_)
            | E::NoSpace
    )
}
