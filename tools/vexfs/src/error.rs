// SPDX-License-Identifier: Apache-2.0
//! The program's errors: one sentence that says what to do.

use std::fmt;
use std::io;
use std::path::Path;

/// A sentence for the user.
#[derive(Debug)]
pub enum Error {
    /// What is wrong and what to do.
    Sentence(String),
    /// The reader of our output went away, which is its right.
    OutputClosed,
}

/// Result of this program.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Sentence(sentence) => f.write_str(sentence),
            Error::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<vexfs_client::Error> for Error {
    fn from(error: vexfs_client::Error) -> Self {
        Error::Sentence(error.to_string())
    }
}

impl Error {
    /// For an error of the system about a file.
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Error::Sentence(format!("cannot {what} {}: {error}", path.display()))
    }

    /// For an error of the system about our output.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Error::OutputClosed,
            _ => Error::Sentence(format!("cannot write the output: {error}")),
        }
    }
}

/// Makes an [`Error`] from a format string.
macro_rules! sentence {
    ($($arg:tt)*) => { $crate::error::Error::Sentence(format!($($arg)*)) };
}
pub(crate) use sentence;
