// SPDX-License-Identifier: Apache-2.0
//! Safe client for VexFS vector containers.
//!
//! ```no_run
//! use vexfs_client::{Container, CreateOptions, Metric, Rows, SearchOptions};
//!
//! # fn main() -> vexfs_client::Result<()> {
//! let mut notes = Container::create("/mnt/notes.vec", &CreateOptions::new(3, Metric::Cosine))?;
//! notes.insert(&Rows::new(&[1.0, 0.0, 0.0, 0.6, 0.8, 0.0]).with_keys(&[10, 20]))?;
//! let found = notes.search(&[0.0, 1.0, 0.0], &SearchOptions::new(1))?;
//! assert_eq!(found.hits(0).next().unwrap().key, 20);
//! # Ok(())
//! # }
//! ```
//!
//! Vectors go in and come out as the type that the container has: slices of `f32`, `f16`, `bf16`
//! and `i8` as they are, bytes as [`Vectors::U8`] or [`Vectors::Binary`].
//!
//! Files: `types` has the words of the interface, `vectors` what goes in and comes out, `error`
//! the sentences, `backend` the door to the kernel or to memory, `ioctl` the calls, `memory` the
//! container in memory for tests.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod backend;
mod error;
mod ioctl;
#[cfg(feature = "memory")]
pub mod memory;
mod types;
mod vectors;

pub use backend::{Access, Backend, GetBuffers, Mounted, SearchBuffers, SearchRequest, Volume};
pub use error::{Error, Failure, Operation, Result};
pub use half::{bf16, f16};
pub use rustix::io::Errno;
pub use types::{
    BuildOptions, Counters, CreateOptions, ElementType, Fetched, FetchedRow, Hit, IndexKind,
    IndexState, IndexStats, Inserted, Isa, Metric, Rows, SearchOptions, SearchResult, Select,
    Stats,
};
pub use vectors::{VectorBuf, Vectors};
/// The interface as the kernel has it: bounds, reserved values, raw structures.
pub use vexfs_uapi::{self as uapi, Findings};

use std::path::{Path, PathBuf};
use zerocopy::FromZeros;

/// An open vector container.
///
/// Each call is one call of the kernel and as atomic as that is: after an error or
/// a crash, a batch has changed nothing. Callers split what is larger than the
/// bounds of `vexfs.h`; [`Container::rows_per_batch`] helps.
#[derive(Debug)]
pub struct Container {
    backend: Box<dyn Backend>,
    path: PathBuf,
    dim: usize,
    element_type: ElementType,
    metric: Option<Metric>,
}

impl Container {
    /// Makes a new or empty file a container and opens it for writing.
    ///
    /// Errors: the file is not on a VexFS volume, is a container already, or the
    /// options are refused. A file that was not there before is not left behind.
    pub fn create(path: impl AsRef<Path>, options: &CreateOptions) -> Result<Self> {
        Mounted.create(path.as_ref(), options)
    }

    /// Opens a container.
    ///
    /// Errors: the file is not there, not on a VexFS volume, or not a container, or
    /// its elements are of a type that this crate does not know.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        Mounted.open(path.as_ref(), access)
    }

    /// A container over any backend, such as the kernel's file or memory.
    ///
    /// Errors: those of reading its statistics; elements of a type that this crate does not know.
    pub fn from_backend(backend: Box<dyn Backend>, path: &Path) -> Result<Self> {
        let mut container = Self {
            backend,
            path: path.into(),
            dim: 0,
            element_type: ElementType::F32,
            metric: None,
        };
        let stats = container.stats()?;
        container.element_type = stats.element_type.ok_or_else(|| {
            Error::Argument(format!(
                "{} holds elements of an unknown type; use a newer vexfs tool for it",
                path.display()
            ))
        })?;
        container.dim = stats.dim as usize;
        container.metric = stats.metric;
        Ok(container)
    }

    /// Elements of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Bytes of a row, without what aligns it.
    pub fn row_bytes(&self) -> usize {
        self.element_type.row_bytes(self.dim)
    }

    /// Its metric, `None` if this crate does not know it.
    pub fn metric(&self) -> Option<Metric> {
        self.metric
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows that one batch may have at most.
    pub fn rows_per_batch(&self) -> usize {
        (uapi::VEXFS_MAX_BATCH_BYTES as usize / self.row_bytes().max(1))
            .min(uapi::VEXFS_MAX_BATCH_ROWS as usize)
    }

    /// Queries that one search for `k` hits may have at most.
    pub fn queries_per_search(&self, k: u32) -> usize {
        let by_hits = uapi::VEXFS_MAX_RESULTS / k.max(1);
        by_hits.clamp(1, uapi::VEXFS_MAX_QUERIES) as usize
    }

    fn refused(&self, operation: Operation) -> impl FnOnce(Failure) -> Error + '_ {
        move |failure| Error::refused(operation, &self.path, failure)
    }

    /// Number of `vectors`, or an error that names types or shapes.
    fn count(&self, what: &str, vectors: &Vectors<'_>) -> Result<usize> {
        let (given, path) = (vectors.element_type(), self.path.display());
        if given != self.element_type {
            return Err(Error::Argument(format!(
                "{what} are of {given} where {path} holds {}; convert them",
                self.element_type
            )));
        }
        match vectors.rows(self.dim) {
            None | Some(0) => Err(Error::Argument(format!(
                "{what} of {} bytes are not rows of {} x {given} ({path}); pass whole rows, at least one",
                vectors.as_bytes().len(),
                self.dim,
            ))),
            Some(rows) => Ok(rows),
        }
    }

    fn write(&mut self, rows: &Rows<'_>, upsert: bool) -> Result<Inserted> {
        let count = self.count("vectors", &rows.vectors)?;
        for (what, given) in [("keys", rows.keys), ("tags", rows.tags)] {
            if let Some(given) = given.filter(|g| g.len() != count) {
                return Err(Error::Argument(format!(
                    "{} {what} do not fit {count} rows; pass one for each row",
                    given.len()
                )));
            }
        }
        let operation = match upsert {
            true => Operation::Upsert,
            false => Operation::Insert,
        };
        self.backend
            .insert(self.dim, rows, upsert)
            .map_err(|failure| Error::refused(operation, &self.path, failure))
    }

    /// Adds rows, all or none.
    ///
    /// Errors: types or shapes that do not fit; a NaN, an infinity, a bit behind the last
    /// element, or a key in use, with the row in [`Error::row`]; a full volume.
    pub fn insert(&mut self, rows: &Rows<'_>) -> Result<Inserted> {
        self.write(rows, false)
    }

    /// Adds rows or replaces those that have the key, all or none.
    ///
    /// Errors: as for [`Self::insert`]; no keys; a key twice.
    pub fn upsert(&mut self, rows: &Rows<'_>) -> Result<Inserted> {
        if rows.keys.is_none() {
            return Err(Error::Argument(
                "an upsert finds rows by key; pass a key for each row".into(),
            ));
        }
        self.write(rows, true)
    }

    /// Deletes rows, all or none, and returns how many. A missing row is an error
    /// unless `skip_missing`.
    pub fn delete(&mut self, select: Select<'_>, skip_missing: bool) -> Result<u64> {
        if select.is_empty() {
            return Ok(0);
        }
        self.backend
            .delete(select, skip_missing)
            .map_err(|failure| Error::refused(Operation::Delete, &self.path, failure))
    }

    /// Reads rows. A missing one is no error; see [`Fetched::row`].
    pub fn get(&self, select: Select<'_>) -> Result<Fetched> {
        let count = select.len();
        let mut fetched = Fetched {
            dim: self.dim,
            vectors: VectorBuf::zeroed(self.element_type, self.dim, count),
            tags: vec![0; count],
            ..Fetched::default()
        };
        let mut other = vec![u64::MAX; count];
        if count > 0 {
            let mut out = GetBuffers {
                vectors: fetched.vectors.as_mut_bytes(),
                other: &mut other,
                tags: &mut fetched.tags,
            };
            fetched.found = self
                .backend
                .get(self.row_bytes(), select, &mut out)
                .map_err(self.refused(Operation::Get))?;
        }
        match select {
            Select::Keys(keys) => (fetched.keys, fetched.rows) = (keys.to_vec(), other),
            Select::Rows(rows) => (fetched.keys, fetched.rows) = (other, rows.to_vec()),
        }
        Ok(fetched)
    }

    /// The nearest rows of each query; `queries` is `nq x dim`.
    ///
    /// Errors: types or shapes that do not fit; a query that could not be a row, as with a NaN;
    /// no index of the kind; more hits than one search may have.
    pub fn search<'a>(
        &self,
        queries: impl Into<Vectors<'a>>,
        options: &SearchOptions<'_>,
    ) -> Result<SearchResult> {
        let queries = queries.into();
        let nq = self.count("queries", &queries)?;
        if nq > self.queries_per_search(options.k) {
            return Err(Error::refused(
                Operation::Search,
                &self.path,
                Errno::TOOBIG.into(),
            ));
        }
        let k = options.k as usize;
        let mut hits = vexfs_hits(nq.saturating_mul(k));
        let mut counts = vec![0; nq];
        let request = SearchRequest {
            dim: self.dim,
            queries,
            options,
        };
        let mut out = SearchBuffers {
            hits: &mut hits,
            counts: &mut counts,
        };
        let counters = self
            .backend
            .search(&request, &mut out)
            .map_err(self.refused(Operation::Search))?;
        Ok(SearchResult {
            k,
            hits,
            counts,
            counters,
        })
    }

    /// Builds an index of a kind. Exact search needs none, so that is done at once.
    ///
    /// Errors: a kind or parameter that the kernel module does not have.
    pub fn build_index(&mut self, kind: IndexKind, options: &BuildOptions) -> Result<()> {
        self.backend
            .build_index(kind, options)
            .map_err(|failure| Error::refused(Operation::Build, &self.path, failure))
    }

    /// Drops an index, or ends its build.
    ///
    /// Errors: there is none of that kind.
    pub fn drop_index(&mut self, kind: IndexKind) -> Result<()> {
        self.backend
            .drop_index(kind)
            .map_err(|failure| Error::refused(Operation::Drop, &self.path, failure))
    }

    /// What an index is, with its digest if wanted, for which the kernel reads all of it.
    ///
    /// Errors: there is none of that kind.
    pub fn index_stats(&self, kind: IndexKind, digest: bool) -> Result<IndexStats> {
        let raw = self
            .backend
            .index_stats(kind, digest)
            .map_err(self.refused(Operation::IndexStats))?;
        Ok(IndexStats {
            state: IndexState::from_raw(raw.state),
            m: raw.m,
            ef_construction: raw.ef_construction,
            nlist: raw.nlist,
            nsub: raw.nsub,
            nbits: raw.nbits,
            ntables: raw.ntables,
            trained: raw.trained,
            nodes: raw.nodes,
            deleted: raw.deleted,
            watermark: raw.watermark,
            resident_bytes: raw.resident_bytes,
            // 0 while there is none.
            digest: Some(raw.digest).filter(|digest| *digest != 0),
            build_watermark: raw.build_watermark,
            build_rows: raw.build_rows,
            build_error: raw.build_error,
        })
    }

    /// Reads all rows and the index of a kind, and says what is wrong with it; with `repair` the kernel
    /// builds it anew if anything is.
    ///
    /// Errors: there is none of that kind; with `repair`, those of a build.
    pub fn check_index(&mut self, kind: IndexKind, repair: bool) -> Result<Findings> {
        let raw = self
            .backend
            .check_index(kind, repair)
            .map_err(self.refused(Operation::Check))?;
        Ok(raw.findings())
    }

    /// What the container is and has done.
    pub fn stats(&self) -> Result<Stats> {
        let raw = self
            .backend
            .stats()
            .map_err(self.refused(Operation::Stats))?;
        Ok(Stats {
            dim: raw.dim,
            element_type: ElementType::from_raw(raw.element_type),
            metric: Metric::from_raw(raw.metric),
            isa: Isa::from_raw(raw.isa),
            stride: raw.stride,
            alignment: raw.alignment,
            rows: raw.rows,
            live: raw.live,
            durable_rows: raw.durable_rows,
            generation: raw.generation,
            model_tag: raw.model_tag,
            bytes_on_disk: raw.bytes_on_disk,
            inserted: raw.inserted,
            deleted: raw.deleted,
            searches: raw.searches,
            distances: raw.distances,
            insert_ns: raw.insert_ns,
            search_ns: raw.search_ns,
            index_count: raw.index_count,
        })
    }

    /// Returns when every batch so far is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.backend.sync().map_err(self.refused(Operation::Sync))
    }
}

/// Zeroed room for `n` hits.
fn vexfs_hits(n: usize) -> Vec<uapi::vexfs_hit> {
    let mut hits = Vec::with_capacity(n);
    hits.resize_with(n, FromZeros::new_zeroed);
    hits
}
