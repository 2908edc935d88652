// SPDX-License-Identifier: Apache-2.0
//! The words of the interface as Rust types: element types, metrics, index kinds,
//! and what goes into and comes out of each operation.

use crate::vectors::{VectorBuf, Vectors};
use std::time::Duration;
use vexfs_uapi as uapi;
use vexfs_uapi::{VEXFS_KEY_NONE, VEXFS_ROW_NONE};

/// Declares an enum whose values travel as `u32` and print as a word.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $raw:ident, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// All values, in the order of the header.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The value as the kernel knows it.
            pub const fn raw(self) -> u32 {
                match self { $($name::$variant => uapi::$raw),* }
            }

            /// The value the kernel means, or `None` if this crate is older than it.
            pub fn from_raw(raw: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.raw() == raw)
            }

            /// The word for it, as tools print and accept it.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.name() == word).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|v| v.name()).collect();
                    format!("use one of {}", words.join(", "))
                })
            }
        }
    };
}

wire_enum! {
    /// Type of a vector's elements.
    ElementType {
        /// IEEE-754 binary32.
        F32 = VEXFS_ELEMENT_F32, "f32";
        /// IEEE-754 binary16.
        F16 = VEXFS_ELEMENT_F16, "f16";
        /// The upper half of a binary32.
        Bf16 = VEXFS_ELEMENT_BF16, "bf16";
        /// Signed bytes.
        I8 = VEXFS_ELEMENT_I8, "i8";
        /// Unsigned bytes.
        U8 = VEXFS_ELEMENT_U8, "u8";
        /// Bits, which are the numbers 0 and 1.
        Binary = VEXFS_ELEMENT_BINARY, "binary";
    }
}

impl ElementType {
    /// Bytes of a row of `dim` elements.
    pub const fn row_bytes(self, dim: usize) -> usize {
        match self {
            ElementType::F32 => dim.saturating_mul(4),
            ElementType::F16 | ElementType::Bf16 => dim.saturating_mul(2),
            ElementType::I8 | ElementType::U8 => dim,
            ElementType::Binary => dim.div_ceil(8),
        }
    }

    /// Whether containers of this type can have the metric.
    pub fn has(self, metric: Metric) -> bool {
        metric != Metric::Hamming || self == ElementType::Binary
    }
}

wire_enum! {
    /// How far apart two vectors are. Smaller is nearer.
    Metric {
        /// Squared Euclidean distance.
        L2 = VEXFS_METRIC_L2, "l2";
        /// 1 - cos of the angle; a zero vector is at 1 from all.
        Cosine = VEXFS_METRIC_COSINE, "cosine";
        /// The negated inner product.
        Dot = VEXFS_METRIC_DOT, "dot";
        /// The number of bits that differ, of bits only. Their squared distance is the same.
        Hamming = VEXFS_METRIC_HAMMING, "hamming";
    }
}

wire_enum! {
    /// How to search.
    IndexKind {
        /// The kernel chooses; without an index it compares with every row.
        Auto = VEXFS_INDEX_AUTO, "auto";
        /// Compare with every row.
        Exact = VEXFS_INDEX_EXACT, "exact";
        /// Hierarchical navigable small world graph.
        Hnsw = VEXFS_INDEX_HNSW, "hnsw";
        /// Inverted file.
        Ivf = VEXFS_INDEX_IVF, "ivf";
        /// Product quantisation.
        Pq = VEXFS_INDEX_PQ, "pq";
        /// Locality-sensitive hashing.
        Lsh = VEXFS_INDEX_LSH, "lsh";
    }
}

wire_enum! {
    /// The instruction set the kernel computes distances with.
    Isa {
        /// Plain code.
        Scalar = VEXFS_ISA_SCALAR, "scalar";
        /// 256-bit x86.
        Avx2 = VEXFS_ISA_AVX2, "avx2";
        /// 512-bit x86.
        Avx512 = VEXFS_ISA_AVX512, "avx512";
        /// 128-bit Arm.
        Neon = VEXFS_ISA_NEON, "neon";
        /// 512-bit x86 with VNNI and VPOPCNTDQ.
        Avx512Vnni = VEXFS_ISA_AVX512_VNNI, "avx512vnni";
        /// 512-bit x86 with VNNI, VPOPCNTDQ and BF16.
        Avx512Bf16 = VEXFS_ISA_AVX512_BF16, "avx512bf16";
        /// 128-bit Arm with DotProd, FP16 and FHM.
        NeonDot = VEXFS_ISA_NEON_DOT, "neondot";
    }
}

wire_enum! {
    /// What is going on with an index.
    IndexState {
        /// It is being built, and not used yet.
        Building = VEXFS_INDEX_BUILDING, "building";
        /// Searches use it.
        Ready = VEXFS_INDEX_READY, "ready";
        /// Searches use it while a new one is being built.
        Rebuilding = VEXFS_INDEX_REBUILDING, "rebuilding";
        /// It is on disk; the next search loads it.
        Stored = VEXFS_INDEX_STORED, "stored";
        /// What is on disk is damaged or outdated; searches do without.
        Unusable = VEXFS_INDEX_UNUSABLE, "unusable";
        /// There is none, because its build failed.
        Failed = VEXFS_INDEX_FAILED, "failed";
    }
}

/// Properties of a new container.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Elements of a row, 1 to 65536.
    pub dim: u32,
    /// Type of the elements.
    pub element_type: ElementType,
    /// Distance of the container.
    pub metric: Metric,
    /// Alignment of a row's start in bytes: 0, or a power of two from 4 to 4096.
    pub alignment: u32,
    /// The caller's mark of the embedding model.
    pub model_tag: u64,
    /// Rows to preallocate space for.
    pub reserve_rows: u64,
}

impl CreateOptions {
    /// A container of `dim` f32 elements per row, packed, nothing reserved.
    pub fn new(dim: u32, metric: Metric) -> Self {
        Self {
            dim,
            element_type: ElementType::F32,
            metric,
            alignment: 0,
            model_tag: 0,
            reserve_rows: 0,
        }
    }
}

/// Rows to insert or upsert; all slices are borrowed for the call only.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The vectors, `n x dim`, row after row.
    pub vectors: Vectors<'a>,
    /// `n` keys. Without them the key of an inserted row is its number.
    pub keys: Option<&'a [u64]>,
    /// `n` tag masks. Without them a row has no tags.
    pub tags: Option<&'a [u64]>,
    /// They may take the places and the numbers of deleted rows, so that the file need not grow.
    pub reuse: bool,
}

impl<'a> Rows<'a> {
    /// Rows without keys and tags.
    pub fn new(vectors: impl Into<Vectors<'a>>) -> Self {
        Self {
            vectors: vectors.into(),
            keys: None,
            tags: None,
            reuse: false,
        }
    }

    /// The same rows with keys.
    pub fn with_keys(self, keys: &'a [u64]) -> Self {
        Self {
            keys: Some(keys),
            ..self
        }
    }

    /// The same rows, which may take the places of deleted ones.
    pub fn reusing_deleted(self) -> Self {
        Self {
            reuse: true,
            ..self
        }
    }

    /// The same rows with tag masks.
    pub fn with_tags(self, tags: &'a [u64]) -> Self {
        Self {
            tags: Some(tags),
            ..self
        }
    }
}

/// What an insert or upsert did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// Number of the first row; the others of the batch follow it, if they may not take the places of deleted ones.
    pub first_row: u64,
    /// Rows added.
    pub count: u64,
    /// Number of each, if they may.
    pub rows: Option<Vec<u64>>,
}

/// Rows that are meant, by key or by number.
#[derive(Clone, Copy, Debug)]
pub enum Select<'a> {
    /// By key.
    Keys(&'a [u64]),
    /// By row number.
    Rows(&'a [u64]),
}

impl Select<'_> {
    /// How many rows are meant.
    pub fn len(&self) -> usize {
        match self {
            Select::Keys(s) | Select::Rows(s) => s.len(),
        }
    }

    /// Whether none is meant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Rows that were read. Every vector has an entry for each row asked for.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Elements of a row.
    pub dim: usize,
    /// `n x dim`; a missing row is zeros.
    pub vectors: VectorBuf,
    /// Keys; `VEXFS_KEY_NONE` for a row that was asked for by number and is missing.
    pub keys: Vec<u64>,
    /// Row numbers; `VEXFS_ROW_NONE` for a key that is missing.
    pub rows: Vec<u64>,
    /// Tag masks.
    pub tags: Vec<u64>,
    /// Rows that were found.
    pub found: u64,
}

/// One row that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FetchedRow<'a> {
    /// Its key.
    pub key: u64,
    /// Its number.
    pub row: u64,
    /// Its tag mask.
    pub tags: u64,
    /// Its elements.
    pub vector: Vectors<'a>,
}

impl Fetched {
    /// The `i`-th row asked for, or `None` if it is missing (or there is no `i`-th).
    pub fn row(&self, i: usize) -> Option<FetchedRow<'_>> {
        let (key, row) = (*self.keys.get(i)?, *self.rows.get(i)?);
        if key == VEXFS_KEY_NONE || row == VEXFS_ROW_NONE {
            return None;
        }
        Some(FetchedRow {
            key,
            row,
            tags: *self.tags.get(i)?,
            vector: self.vectors.as_vectors().row(self.dim, i)?,
        })
    }

    /// The rows that were found, in the order they were asked for.
    pub fn iter(&self) -> impl Iterator<Item = FetchedRow<'_>> {
        (0..self.keys.len()).filter_map(|i| self.row(i))
    }
}

/// How to search. `SearchOptions::new(k)` is a search for the k nearest rows.
#[derive(Clone, Debug)]
pub struct SearchOptions<'a> {
    /// Hits per query, 1 to 16384.
    pub k: u32,
    /// Index to use.
    pub index: IndexKind,
    /// HNSW: candidates kept, 0 for the default.
    pub ef: u32,
    /// IVF: lists visited, 0 for the default.
    pub nprobe: u32,
    /// Candidates compared exactly, 0 for the default.
    pub rerank: u32,
    /// Only hits at most this far.
    pub radius: Option<f32>,
    /// Only rows with all of these tag bits.
    pub tags_all: Option<u64>,
    /// Only rows with one of these tag bits.
    pub tags_any: Option<u64>,
    /// Only rows with one of these keys.
    pub keys: Option<&'a [u64]>,
    /// Only rows whose bit is set: bit `i % 64` of word `i / 64`. Rows beyond are no hits.
    pub row_bitmap: Option<&'a [u64]>,
    /// Stop after about so long.
    pub time_budget: Option<Duration>,
    /// Processors to use, as far as there are as many: 0 and 1 for the calling thread alone.
    pub threads: u32,
}

impl SearchOptions<'_> {
    /// The `k` nearest rows, as the kernel finds them best.
    pub fn new(k: u32) -> Self {
        Self {
            k,
            index: IndexKind::Auto,
            ef: 0,
            nprobe: 0,
            rerank: 0,
            radius: None,
            tags_all: None,
            tags_any: None,
            keys: None,
            row_bitmap: None,
            time_budget: None,
            threads: 0,
        }
    }
}

/// Parameters of an index; 0 is the kernel's default for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Builds anew where there is an index of the kind, which serves searches until then.
    pub replace: bool,
    /// HNSW: links per node.
    pub m: u32,
    /// HNSW: candidates while building.
    pub ef_construction: u32,
    /// IVF: lists.
    pub nlist: u32,
    /// IVF, PQ: sub-quantisers.
    pub nsub: u32,
    /// Bits of a code, or [`uapi::VEXFS_NBITS_F16`]; IVF: 32 for none; LSH: bits of a hash.
    pub nbits: u32,
    /// LSH: hash tables. IVF: lists that a row is in, 1 or 2.
    pub ntables: u32,
    /// Processors to use, as far as there are as many: 0 and 1 for one.
    pub threads: u32,
    /// Returns at once; the kernel builds while the volume is mounted. See [`IndexStats`] for progress
    /// and errors.
    pub background: bool,
}

/// A row found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its key.
    pub key: u64,
    /// Its number.
    pub row: u64,
    /// Its distance from the query, in the container's metric.
    pub distance: f32,
}

/// What a search cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Distances computed.
    pub distances: u64,
    /// Graph nodes expanded.
    pub hops: u64,
    /// Rows compared without an index.
    pub rows_exact: u64,
    /// Nanoseconds spent in the kernel.
    pub elapsed_ns: u64,
    /// Whether the time budget ended the search.
    pub partial: bool,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.distances = self.distances.saturating_add(other.distances);
        self.hops = self.hops.saturating_add(other.hops);
        self.rows_exact = self.rows_exact.saturating_add(other.rows_exact);
        self.elapsed_ns = self.elapsed_ns.saturating_add(other.elapsed_ns);
        self.partial = self.partial || other.partial;
    }
}

/// The hits of each query, nearest first.
#[derive(Clone, Debug, Default)]
pub struct SearchResult {
    pub(crate) k: usize,
    pub(crate) hits: Vec<uapi::vexfs_hit>,
    pub(crate) counts: Vec<u32>,
    /// What it cost.
    pub counters: Counters,
}

impl SearchResult {
    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.counts.len()
    }

    /// The hits of query `q`, sorted by distance, then key; empty if there is no query `q`.
    pub fn hits(&self, q: usize) -> impl ExactSizeIterator<Item = Hit> + '_ {
        let count = self.counts.get(q).map_or(0, |c| *c as usize).min(self.k);
        let start = q.saturating_mul(self.k);
        let hits = self.hits.get(start..start.saturating_add(count));
        hits.unwrap_or_default().iter().map(|hit| Hit {
            key: hit.key,
            row: hit.row,
            distance: f32::from_bits(hit.distance),
        })
    }
}

/// What a container is and has done.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Elements of a row.
    pub dim: u32,
    /// Type of the elements, `None` if this crate does not know it.
    pub element_type: Option<ElementType>,
    /// Its metric, `None` if this crate does not know it.
    pub metric: Option<Metric>,
    /// Instruction set in use, `None` if this crate does not know it.
    pub isa: Option<Isa>,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Alignment of a row's start, in bytes.
    pub alignment: u32,
    /// Row numbers given out, deleted rows among them.
    pub rows: u64,
    /// Rows that a search can find.
    pub live: u64,
    /// Rows that are there after a power loss now.
    pub durable_rows: u64,
    /// Changes made, one per batch.
    pub generation: u64,
    /// As created.
    pub model_tag: u64,
    /// Bytes allocated to the file.
    pub bytes_on_disk: u64,
    /// Rows inserted since the inode was loaded, as for all that follow.
    pub inserted: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Queries answered.
    pub searches: u64,
    /// Distances computed.
    pub distances: u64,
    /// Nanoseconds in batches that insert.
    pub insert_ns: u64,
    /// Nanoseconds in searches.
    pub search_ns: u64,
    /// Indexes built.
    pub index_count: u32,
}

/// What an index is.
#[derive(Clone, Copy, Debug)]
pub struct IndexStats {
    /// What is going on with it, `None` if this crate does not know it.
    pub state: Option<IndexState>,
    /// HNSW: links per node.
    pub m: u32,
    /// HNSW: candidates while building.
    pub ef_construction: u32,
    /// IVF: lists.
    pub nlist: u32,
    /// IVF, PQ: sub-quantisers.
    pub nsub: u32,
    /// Bits of a code, or [`uapi::VEXFS_NBITS_F16`]; IVF: 32 for none; LSH: bits of a hash.
    pub nbits: u32,
    /// LSH: hash tables. IVF: lists that a row is in, 1 or 2.
    pub ntables: u32,
    /// Thousandths of training done, before any row is in it.
    pub trained: u32,
    /// Rows in it.
    pub nodes: u64,
    /// Places of deleted rows that are not free yet.
    pub deleted: u64,
    /// Rows below it are in the index, unless deleted; others are compared exactly.
    pub watermark: u64,
    /// Memory that it takes.
    pub resident_bytes: u64,
    /// Equal for equal indexes; `None` if it was not asked for.
    pub digest: Option<u64>,
    /// Rows that the build that goes on has taken in: those below it.
    pub build_watermark: u64,
    /// Rows that it will take in; 0 if none goes on, or it has not begun.
    pub build_rows: u64,
    /// The errno that ended the last build in the background, or 0.
    pub build_error: u32,
}
