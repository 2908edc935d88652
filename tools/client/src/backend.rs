// SPDX-License-Identifier: Apache-2.0
//! The door between [`Container`] and what holds the rows: the
//! kernel, or memory in tests. It speaks in slices, never in addresses.

use crate::error::{Error, Failure, Operation, Result};
use crate::ioctl::KernelFile;
use crate::types::{
    BuildOptions, Counters, CreateOptions, IndexKind, Inserted, Rows, SearchOptions, Select,
};
use crate::vectors::Vectors;
use crate::Container;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::path::Path;
use vexfs_uapi::{vexfs_hit, vexfs_index_check, vexfs_index_stats, vexfs_vector_stats};

/// Where a get puts what it finds: an entry for each row asked for.
#[derive(Debug)]
pub struct GetBuffers<'a> {
    /// `n` rows.
    pub vectors: &'a mut [u8],
    /// The row numbers of a get by key, the keys of a get by row.
    pub other: &'a mut [u64],
    /// Tag masks.
    pub tags: &'a mut [u64],
}

/// A search, with the shape of its queries.
#[derive(Debug)]
pub struct SearchRequest<'a> {
    /// Elements of a query.
    pub dim: usize,
    /// `nq x dim`.
    pub queries: Vectors<'a>,
    /// How to search.
    pub options: &'a SearchOptions<'a>,
}

/// Where a search puts what it finds.
#[derive(Debug)]
pub struct SearchBuffers<'a> {
    /// `nq x k`.
    pub hits: &'a mut [vexfs_hit],
    /// `nq`.
    pub counts: &'a mut [u32],
}

/// The operations of `vexfs.h` on one open file.
pub trait Backend: std::fmt::Debug + Send {
    /// Makes the file a container; returns its stride in bytes.
    fn create(&mut self, options: &CreateOptions) -> std::result::Result<u32, Failure>;
    /// Inserts or upserts rows of `dim` elements, all or none.
    fn insert(
        &mut self,
        dim: usize,
        rows: &Rows<'_>,
        upsert: bool,
    ) -> std::result::Result<Inserted, Failure>;
    /// Deletes rows, all or none; returns how many.
    fn delete(
        &mut self,
        select: Select<'_>,
        skip_missing: bool,
    ) -> std::result::Result<u64, Failure>;
    /// Reads rows of `row_bytes` bytes; returns how many were found.
    fn get(
        &self,
        row_bytes: usize,
        select: Select<'_>,
        out: &mut GetBuffers<'_>,
    ) -> std::result::Result<u64, Failure>;
    /// Searches.
    fn search(
        &self,
        request: &SearchRequest<'_>,
        out: &mut SearchBuffers<'_>,
    ) -> std::result::Result<Counters, Failure>;
    /// Builds an index.
    fn build_index(
        &mut self,
        kind: IndexKind,
        options: &BuildOptions,
    ) -> std::result::Result<(), Failure>;
    /// Drops an index.
    fn drop_index(&mut self, kind: IndexKind) -> std::result::Result<(), Failure>;
    /// What an index is; its digest only with `digest`.
    fn index_stats(
        &self,
        kind: IndexKind,
        digest: bool,
    ) -> std::result::Result<vexfs_index_stats, Failure>;
    /// What is wrong with an index.
    fn check_index(
        &mut self,
        kind: IndexKind,
        repair: bool,
    ) -> std::result::Result<vexfs_index_check, Failure>;
    /// What the container is and has done.
    fn stats(&self) -> std::result::Result<vexfs_vector_stats, Failure>;
    /// Returns when all changes are on the disk.
    fn sync(&self) -> std::result::Result<(), Failure>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Get, search and statistics.
    Read,
    /// Those, and insert, upsert and delete.
    Write,
}

/// Where containers live: mounted volumes, or memory in tests.
pub trait Volume {
    /// Opens a container.
    fn open(&self, path: &Path, access: Access) -> Result<Container>;
    /// Makes a new or empty file a container and opens it for writing. After an error
    /// there is no file that was not there before.
    fn create(&self, path: &Path, options: &CreateOptions) -> Result<Container>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;
}

/// The volumes that this machine has mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mounted;

impl Mounted {
    fn take(file: File, path: &Path, operation: Operation) -> Result<KernelFile> {
        match KernelFile::new(file) {
            Ok(Ok(file)) => Ok(file),
            Ok(Err(_)) => Err(Error::NotVexfs { path: path.into() }),
            Err(errno) => Err(Error::refused(operation, path, errno.into())),
        }
    }
}

impl Volume for Mounted {
    fn open(&self, path: &Path, access: Access) -> Result<Container> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .open(path)
            .map_err(|e| Error::io(Operation::Open, path, &e))?;
        let file = Self::take(file, path, Operation::Open)?;
        Container::from_backend(Box::new(file), path)
    }

    fn create(&self, path: &Path, options: &CreateOptions) -> Result<Container> {
        let open = |new: bool| {
            let mut how = OpenOptions::new();
            how.read(true).write(true).create_new(new).open(path)
        };
        let (file, is_new) = match open(true) {
            Ok(file) => (file, true),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::EXIST) => {
                let file = open(false).map_err(|e| Error::io(Operation::Create, path, &e))?;
                (file, false)
            }
            Err(e) => return Err(Error::io(Operation::Create, path, &e)),
        };
        let made = Self::take(file, path, Operation::Create).and_then(|mut file| {
            file.create(options)
                .map_err(|f| Error::refused(Operation::Create, path, f))?;
            Container::from_backend(Box::new(file), path)
        });
        if made.is_err() && is_new {
            // The error that matters is the first one.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(|e| Error::io(Operation::Open, path, &e))
    }
}
