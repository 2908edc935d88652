// SPDX-License-Identifier: Apache-2.0
//! Errors as sentences: what is wrong, and what to do.

use rustix::io::Errno;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was being done when an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening the file.
    Open,
    /// Making it a container.
    Create,
    /// Inserting rows.
    Insert,
    /// Inserting or replacing rows.
    Upsert,
    /// Deleting rows.
    Delete,
    /// Reading rows.
    Get,
    /// Searching.
    Search,
    /// Building an index.
    Build,
    /// Dropping an index.
    Drop,
    /// Reading the statistics of an index.
    IndexStats,
    /// Checking an index.
    Check,
    /// Reading statistics.
    Stats,
    /// Waiting until all is on the disk.
    Sync,
}

impl Operation {
    /// As in "cannot ... FILE".
    fn words(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Insert => "insert into",
            Operation::Upsert => "upsert into",
            Operation::Delete => "delete from",
            Operation::Get => "read rows of",
            Operation::Search => "search",
            Operation::Build => "build an index over",
            Operation::Drop => "drop an index of",
            Operation::IndexStats => "read the index statistics of",
            Operation::Check => "check an index of",
            Operation::Stats => "read the statistics of",
            Operation::Sync => "sync",
        }
    }
}

/// What the kernel (or a test's container in memory) answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error number.
    pub errno: Errno,
    /// The row of the batch it is about, counted from 0.
    pub row: Option<u64>,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, row: None }
    }
}

/// An error of this crate. `Display` gives one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is on another filesystem.
    NotVexfs {
        /// The file.
        path: PathBuf,
    },
    /// The file is on a VexFS volume but is no container.
    NotContainer {
        /// The file.
        path: PathBuf,
    },
    /// The caller's slices or numbers do not fit each other; nothing was asked of the kernel.
    Argument(String),
    /// The kernel refused.
    Refused {
        /// What was being done.
        operation: Operation,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        failure: Failure,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn refused(operation: Operation, path: &Path, failure: Failure) -> Self {
        if failure.errno == Errno::NOTTY {
            return Error::NotContainer { path: path.into() };
        }
        Error::Refused {
            operation,
            path: path.into(),
            failure,
        }
    }

    pub(crate) fn io(operation: Operation, path: &Path, error: &std::io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Error::refused(operation, path, errno.into())
    }

    /// The kernel's error number, if it was the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { failure, .. } => Some(failure.errno),
            Error::NotVexfs { .. } | Error::NotContainer { .. } => Some(Errno::NOTTY),
            Error::Argument(_) => None,
        }
    }

    /// The row of the batch the error is about, counted from 0.
    pub fn row(&self) -> Option<u64> {
        match self {
            Error::Refused { failure, .. } => failure.row,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotVexfs { path } => write!(
                f,
                "{} is not on a VexFS volume; name a file below a mount of type vexfs",
                path.display()
            ),
            Error::NotContainer { path } => write!(
                f,
                "{} is not a vector container; create it with `vexfs create`",
                path.display()
            ),
            Error::Argument(sentence) => f.write_str(sentence),
            Error::Refused {
                operation,
                path,
                failure,
            } => {
                let path = path.display();
                if let Some(sentence) = advice(*operation, failure.errno) {
                    write!(f, "cannot {} {path}: {sentence}", operation.words())?;
                } else {
                    write!(
                        f,
                        "cannot {} {path}: {}",
                        operation.words(),
                        std::io::Error::from(failure.errno)
                    )?;
                }
                match failure.row {
                    Some(row) => write!(f, " (row {row} of the batch)"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Error {}

/// What an error number means here and what helps, where the system's words do not say.
fn advice(operation: Operation, errno: Errno) -> Option<&'static str> {
    use Operation::*;
    Some(match (operation, errno) {
        (Open, Errno::NOENT) => "there is no such file; create it with `vexfs create`",
        (Create, Errno::NOENT) => "its directory does not exist; make it first",
        (Create, Errno::EXIST) => {
            "it is a container already or is not empty; remove it or choose another name"
        }
        (Create, Errno::OPNOTSUPP) => "only regular files can be containers; name one",
        (Create, Errno::INVAL) => {
            "the dimension must be 1 to 65536, the alignment a power of two from 4 to 4096, and hamming is for binary elements only"
        }
        (Create, Errno::ACCESS) => "it is mapped writable by a program; end that program first",
        (Insert | Upsert, Errno::INVAL) => {
            "a vector holds a NaN, an infinity or a bit behind its last element, or a key is repeated or reserved; repair that row"
        }
        (Insert, Errno::EXIST) => {
            "the key is in use or repeated; use upsert to replace rows, or other keys"
        }
        (Delete | Get, Errno::INVAL) => "a key or row is repeated or reserved; name each once",
        (Delete, Errno::NOENT) => "a key or row is not in it, so nothing was deleted",
        (Insert | Upsert | Delete | Get, Errno::TOOBIG) => {
            "the batch is too large; use smaller batches"
        }
        (Search, Errno::TOOBIG) => "too many hits are asked for; use a smaller k or fewer queries",
        (Search, Errno::INVAL) => {
            "a query holds a NaN, an infinity or a bit behind its last element, or an option is out of range: k is at most 16384, ef and rerank 4096, nprobe 65536"
        }
        (Search, Errno::NOENT) => {
            "it has no index of that kind; leave out --index or search with --exact"
        }
        (Build, Errno::OPNOTSUPP) => {
            "this kernel module has no index of that kind yet, or its rows are too long for one"
        }
        (Build, Errno::EXIST) => "it has one of that kind; replace it with --replace",
        (Build, Errno::INVAL) => {
            "a parameter is out of range, or the kind has none such; see vexfs index build --help"
        }
        (Build, Errno::NODATA) => "it has no rows to train the index on; insert some first",
        (Build, Errno::BUSY) => "one is being built; wait for it",
        (Build, Errno::CANCELED) => "it was dropped while it was built",
        (Build, Errno::NOMEM) => "the index does not fit into memory; search goes on without it",
        (Drop | IndexStats | Check, Errno::NOENT) => "it has no index of that kind",
        (_, Errno::OPNOTSUPP) => "this kernel module cannot do that yet; update it",
        (_, Errno::NOSPC) => "the volume is full; delete files or use a larger one",
        (_, Errno::DQUOT) => "your quota is used up; delete files or ask for more",
        (_, Errno::ROFS) => "the volume is mounted read-only; mount it with -o rw",
        (_, Errno::UCLEAN | Errno::BADMSG) => {
            "its metadata is damaged; see dmesg and unmount the volume before repairing it"
        }
        _ => return None,
    })
}
