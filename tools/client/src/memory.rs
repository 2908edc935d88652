// SPDX-License-Identifier: Apache-2.0
//! Containers in memory that keep the rules of `vexfs.h`: for tests of this crate
//! and of programs that use it, on machines without the kernel module. Distances
//! are computed in f64, one by one.

use crate::backend::{Access, Backend, GetBuffers, SearchBuffers, SearchRequest, Volume};
use crate::error::{Error, Failure, Operation, Result};
use crate::types::{
    BuildOptions, Counters, CreateOptions, IndexKind, Inserted, Metric, Rows, Select,
};
use crate::Container;
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use vexfs_uapi::*;
use zerocopy::FromZeros;

#[derive(Clone, Debug)]
struct StoredRow {
    key: u64,
    tags: u64,
    bytes: Vec<u8>,
    numbers: Vec<f32>,
}

#[derive(Debug)]
struct Stored {
    options: CreateOptions,
    rows: Vec<Option<StoredRow>>,
    by_key: HashMap<u64, usize>,
    generation: u64,
}

type Shared = Arc<Mutex<Option<Stored>>>;

/// A volume in memory. Clones show the same containers.
#[derive(Clone, Debug, Default)]
pub struct MemoryVolume {
    files: Arc<Mutex<HashMap<PathBuf, Shared>>>,
}

/// One open file of it.
#[derive(Debug)]
struct MemoryFile {
    stored: Shared,
    access: Access,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn at_row(errno: Errno, row: usize) -> Failure {
    Failure {
        errno,
        row: Some(row as u64),
    }
}

/// The distance in `metric`, in f64. Smaller is nearer.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let dot = pairs().map(|(x, y)| x * y).sum::<f64>();
    match metric {
        // Of bits the two are the same.
        Metric::L2 | Metric::Hamming => pairs().map(|(x, y)| (x - y) * (x - y)).sum(),
        Metric::Dot => -dot,
        Metric::Cosine => {
            let squares: f64 =
                pairs().map(|(x, _)| x * x).sum::<f64>() * pairs().map(|(_, y)| y * y).sum::<f64>();
            if squares == 0.0 {
                1.0
            } else {
                1.0 - dot / squares.sqrt()
            }
        }
    }
}

/// Bytes from one row to the next.
fn stride(options: &CreateOptions) -> u32 {
    let bytes = options.element_type.row_bytes(options.dim as usize) as u32;
    bytes.next_multiple_of(options.alignment.max(4))
}

impl MemoryFile {
    fn with<T>(
        &self,
        access: Access,
        work: impl FnOnce(&mut Stored) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        if access == Access::Write && self.access == Access::Read {
            return Err(Errno::BADF.into());
        }
        let mut stored = lock(&self.stored);
        work(stored.as_mut().ok_or(Errno::NOTTY)?)
    }
}

impl Stored {
    fn find(&self, select: Select<'_>, i: usize) -> Option<usize> {
        match select {
            Select::Keys(keys) => self.by_key.get(keys.get(i)?).copied(),
            Select::Rows(rows) => {
                let row = usize::try_from(*rows.get(i)?).ok()?;
                self.rows.get(row)?.as_ref().map(|_| row)
            }
        }
    }

    fn remove(&mut self, row: usize) {
        if let Some(old) = self.rows.get_mut(row).and_then(Option::take) {
            self.by_key.remove(&old.key);
        }
    }
}

impl Backend for MemoryFile {
    fn create(&mut self, options: &CreateOptions) -> std::result::Result<u32, Failure> {
        let mut stored = lock(&self.stored);
        if stored.is_some() {
            return Err(Errno::EXIST.into());
        }
        let align = options.alignment;
        let aligned = align == 0 || (align.is_power_of_two() && (4..=4096).contains(&align));
        let has_metric = options.element_type.has(options.metric);
        if !(1..=VEXFS_MAX_DIM).contains(&options.dim) || !aligned || !has_metric {
            return Err(Errno::INVAL.into());
        }
        *stored = Some(Stored {
            options: options.clone(),
            rows: Vec::new(),
            by_key: HashMap::new(),
            generation: 0,
        });
        Ok(stride(options))
    }

    fn insert(
        &mut self,
        dim: usize,
        rows: &Rows<'_>,
        upsert: bool,
    ) -> std::result::Result<Inserted, Failure> {
        self.with(Access::Write, |stored| {
            let first = stored.rows.len();
            let count = rows.vectors.rows(dim).unwrap_or(0);
            let vectors: Vec<_> = (0..count)
                .filter_map(|i| rows.vectors.row(dim, i))
                .collect();
            if vectors.is_empty() || vectors.len() > VEXFS_MAX_BATCH_ROWS as usize {
                return Err(Errno::TOOBIG.into());
            }
            let key = |i: usize| rows.keys.map_or((first + i) as u64, |k| k[i]);
            let mut seen = HashSet::new();
            for (i, vector) in vectors.iter().enumerate() {
                if !vector.are_valid(dim) || key(i) == VEXFS_KEY_NONE {
                    return Err(at_row(Errno::INVAL, i));
                }
                if !seen.insert(key(i)) {
                    let errno = if upsert { Errno::INVAL } else { Errno::EXIST };
                    return Err(at_row(errno, i));
                }
                if !upsert && stored.by_key.contains_key(&key(i)) {
                    return Err(at_row(Errno::EXIST, i));
                }
            }
            for (i, vector) in vectors.iter().enumerate() {
                if let Some(old) = stored.by_key.get(&key(i)).copied() {
                    stored.remove(old);
                }
                stored.by_key.insert(key(i), stored.rows.len());
                stored.rows.push(Some(StoredRow {
                    key: key(i),
                    tags: rows.tags.map_or(0, |t| t[i]),
                    bytes: vector.as_bytes().to_vec(),
                    numbers: vector.to_f32(dim),
                }));
            }
            stored.generation += 1;
            Ok(Inserted {
                first_row: first as u64,
                count: vectors.len() as u64,
                rows: rows
                    .reuse
                    .then(|| (first as u64..).take(vectors.len()).collect()),
            })
        })
    }

    fn delete(
        &mut self,
        select: Select<'_>,
        skip_missing: bool,
    ) -> std::result::Result<u64, Failure> {
        self.with(Access::Write, |stored| {
            let mut rows = Vec::new();
            for i in 0..select.len() {
                match stored.find(select, i) {
                    Some(row) if rows.contains(&row) => return Err(at_row(Errno::INVAL, i)),
                    Some(row) => rows.push(row),
                    None if skip_missing => {}
                    None => return Err(at_row(Errno::NOENT, i)),
                }
            }
            rows.iter().for_each(|row| stored.remove(*row));
            stored.generation += 1;
            Ok(rows.len() as u64)
        })
    }

    fn get(
        &self,
        row_bytes: usize,
        select: Select<'_>,
        out: &mut GetBuffers<'_>,
    ) -> std::result::Result<u64, Failure> {
        self.with(Access::Read, |stored| {
            let mut found = 0;
            for (i, vector) in out.vectors.chunks_exact_mut(row_bytes).enumerate() {
                let place = stored.find(select, i);
                let row = place.and_then(|row| stored.rows[row].as_ref());
                vector.fill(0);
                (out.other[i], out.tags[i]) = (u64::MAX, 0);
                if let (Some(place), Some(row)) = (place, row) {
                    vector.copy_from_slice(&row.bytes);
                    out.tags[i] = row.tags;
                    out.other[i] = match select {
                        Select::Keys(_) => place as u64,
                        Select::Rows(_) => row.key,
                    };
                    found += 1;
                }
            }
            Ok(found)
        })
    }

    fn search(
        &self,
        request: &SearchRequest<'_>,
        out: &mut SearchBuffers<'_>,
    ) -> std::result::Result<Counters, Failure> {
        let options = request.options;
        let k = options.k as usize;
        if options.k == 0 || !request.queries.are_valid(request.dim) {
            return Err(Errno::INVAL.into());
        }
        if !matches!(options.index, IndexKind::Auto | IndexKind::Exact) {
            return Err(Errno::NOENT.into());
        }
        self.with(Access::Read, |stored| {
            let mut counters = Counters::default();
            let allowed = |row: usize, r: &StoredRow| {
                options.tags_all.is_none_or(|m| r.tags & m == m)
                    && options.tags_any.is_none_or(|m| r.tags & m != 0)
                    && options.keys.is_none_or(|keys| keys.contains(&r.key))
                    && options.row_bitmap.is_none_or(|b| {
                        b.get(row / 64)
                            .is_some_and(|word| word >> (row % 64) & 1 == 1)
                    })
            };
            let queries = request.queries.to_f32(request.dim);
            for (q, query) in queries.chunks_exact(request.dim).enumerate() {
                let mut hits = Vec::new();
                for (row, stored_row) in stored.rows.iter().enumerate() {
                    let Some(r) = stored_row.as_ref().filter(|r| allowed(row, r)) else {
                        continue;
                    };
                    let d = distance(stored.options.metric, query, &r.numbers) as f32;
                    counters.distances += 1;
                    if options.radius.is_none_or(|radius| d <= radius) {
                        hits.push((d, r.key, row as u64));
                    }
                }
                hits.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                hits.truncate(k);
                out.counts[q] = hits.len() as u32;
                for (i, hit) in out.hits[q * k..(q + 1) * k].iter_mut().enumerate() {
                    let (d, key, row) = hits.get(i).copied().unwrap_or((
                        f32::INFINITY,
                        VEXFS_KEY_NONE,
                        VEXFS_ROW_NONE,
                    ));
                    *hit = vexfs_hit {
                        key,
                        row,
                        distance: d.to_bits(),
                        reserved: 0,
                    };
                }
            }
            counters.rows_exact = counters.distances;
            Ok(counters)
        })
    }

    fn build_index(
        &mut self,
        kind: IndexKind,
        _options: &BuildOptions,
    ) -> std::result::Result<(), Failure> {
        self.with(Access::Write, |_| match kind {
            IndexKind::Exact => Ok(()),
            IndexKind::Auto => Err(Errno::INVAL.into()),
            _ => Err(Errno::OPNOTSUPP.into()),
        })
    }

    fn drop_index(&mut self, kind: IndexKind) -> std::result::Result<(), Failure> {
        self.with(Access::Write, |_| match kind {
            IndexKind::Auto | IndexKind::Exact => Err(Errno::INVAL.into()),
            _ => Err(Errno::NOENT.into()),
        })
    }

    fn index_stats(
        &self,
        kind: IndexKind,
        _digest: bool,
    ) -> std::result::Result<vexfs_index_stats, Failure> {
        self.with(Access::Read, |_| match kind {
            IndexKind::Auto | IndexKind::Exact => Err(Errno::INVAL.into()),
            _ => Err(Errno::NOENT.into()),
        })
    }

    fn check_index(
        &mut self,
        kind: IndexKind,
        _repair: bool,
    ) -> std::result::Result<vexfs_index_check, Failure> {
        self.with(Access::Read, |_| match kind {
            IndexKind::Auto | IndexKind::Exact => Err(Errno::INVAL.into()),
            _ => Err(Errno::NOENT.into()),
        })
    }

    fn stats(&self) -> std::result::Result<vexfs_vector_stats, Failure> {
        self.with(Access::Read, |stored| {
            let options = &stored.options;
            Ok(vexfs_vector_stats {
                size: size_of::<vexfs_vector_stats>() as u32,
                dim: options.dim,
                element_type: options.element_type.raw(),
                metric: options.metric.raw(),
                stride: stride(options),
                alignment: options.alignment.max(4),
                rows: stored.rows.len() as u64,
                live: stored.by_key.len() as u64,
                durable_rows: stored.rows.len() as u64,
                generation: stored.generation,
                model_tag: options.model_tag,
                ..FromZeros::new_zeroed()
            })
        })
    }

    fn sync(&self) -> std::result::Result<(), Failure> {
        Ok(())
    }
}

impl MemoryVolume {
    /// An empty volume.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is a file.
    pub fn contains(&self, path: impl AsRef<Path>) -> bool {
        lock(&self.files).contains_key(path.as_ref())
    }
}

impl Volume for MemoryVolume {
    fn open(&self, path: &Path, access: Access) -> Result<Container> {
        let stored = lock(&self.files).get(path).cloned();
        let stored =
            stored.ok_or_else(|| Error::refused(Operation::Open, path, Errno::NOENT.into()))?;
        Container::from_backend(Box::new(MemoryFile { stored, access }), path)
    }

    fn create(&self, path: &Path, options: &CreateOptions) -> Result<Container> {
        let stored = lock(&self.files).get(path).cloned().unwrap_or_default();
        let mut file = MemoryFile {
            stored: stored.clone(),
            access: Access::Write,
        };
        file.create(options)
            .map_err(|failure| Error::refused(Operation::Create, path, failure))?;
        lock(&self.files).insert(path.into(), stored);
        Container::from_backend(Box::new(file), path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let gone = lock(&self.files).remove(path);
        gone.map(|_| ())
            .ok_or_else(|| Error::refused(Operation::Open, path, Errno::NOENT.into()))
    }
}
