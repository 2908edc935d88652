// SPDX-License-Identifier: GPL-2.0

//! Codes of rows: how the rows of a container become codes of graph nodes, and the arithmetic of an
//! operation on a graph, in FPU sections of bounded time.

use super::budget::Charge;
use super::catch_up::GoOn;
use super::exact::Rows;
use crate::element;
use crate::VexFs;
use core::sync::atomic::AtomicU32;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use vexfs_ann::hnsw::{Numeric, Query, BATCH};
use vexfs_simd_ffi::{
    accumulate_f32, centroids_f32, prefetch, Elem, GraphCode, GraphKind, Metric, NBITS_F16,
};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, task, Inode};

/// Decides the random rotation of codes. The same for all, so that equal rows give equal indexes.
pub(super) const SEED: u64 = 1;
const _: () = assert!(NBITS_F16 == vexfs_uapi::VEXFS_NBITS_F16);
/// Rows whose mean becomes the centre of codes.
const SAMPLE: u64 = 10_000;

/// The codes for the rows of a container that [`GraphKind::of`] calls `bits`.
///
/// # Errors
///
/// `EINVAL` if there are no such codes, `EOPNOTSUPP` if rows are too long for them.
fn code(area: &VectorArea, bits: u32) -> Result<GraphCode> {
    let (elem, metric) = (element::elem(area)?, element::metric(area)?);
    let kind = GraphKind::of(elem, bits).ok_or(EINVAL)?;
    GraphCode::new(kind, elem, metric, area.dim as usize).map_err(|_| EOPNOTSUPP)
}

/// The bits of codes in images that do not say it.
pub(super) fn bits_once(area: &VectorArea) -> Result<u32> {
    Ok(match element::elem(area)? {
        Elem::Binary => 1,
        _ => 4,
    })
}

/// Bytes that the centre of such codes has if there is one: numbers of [`Elem::F32`]. 0 if they never have one.
///
/// # Errors
///
/// As [`code`].
pub(super) fn centre_bytes(area: &VectorArea, bits: u32) -> Result<usize> {
    Ok(code(area, bits)?.centre_bytes())
}

/// Words of such codes.
///
/// # Errors
///
/// As [`code`].
pub(super) fn code_words(area: &VectorArea, bits: u32) -> Result<u32> {
    Ok(u32::try_from(code(area, bits)?.code_words())?)
}

/// How the rows of one container become codes.
pub(crate) struct Codec {
    code: GraphCode,
    rows: Rows,
    /// The mean of a sample of rows, of [`Elem::F32`], or nothing.
    centre: KVVec<u8>,
    /// Codes that one section may compare.
    at_once: usize,
}

impl Codec {
    /// Codes for the rows of `inode`, which [`GraphKind::of`] calls `bits`: around the mean of a sample of those rows
    /// among the first `rows` that `takes` says yes to, which are read, unless codes are whole elements.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if rows are too long for codes; what `go_on` says, `ENOMEM`, and what reading says.
    pub(crate) fn new(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        bits: u32,
        rows: u64,
        takes: impl Fn(u64) -> bool,
        go_on: GoOn<'_>,
    ) -> Result<Self> {
        let mut codec = Codec::around(inode, area, bits, KVVec::new())?;
        if rows > 0 && codec.code.centre_bytes() > 0 {
            codec.centre = codec.mean(inode, rows, takes, go_on)?;
        }
        Ok(codec)
    }

    /// The same codes around a centre that was computed before.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if rows are too long for codes.
    pub(crate) fn around(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        bits: u32,
        centre: KVVec<u8>,
    ) -> Result<Self> {
        let rows = Rows::new(inode, area)?;
        let code = code(area, bits)?;
        let like = code.compared_as();
        let at_once = rows.simd.section_rows(like, like.row_bytes(rows.dim));
        Ok(Codec {
            code,
            rows,
            centre,
            at_once: at_once.min(BATCH),
        })
    }

    /// What codes are around, or nothing.
    pub(super) fn centre(&self) -> &[u8] {
        &self.centre
    }

    /// Whether there was no row for a centre. Whole elements have none anyway.
    pub(super) fn lacks_centre(&self) -> bool {
        self.centre.is_empty() && self.code.centre_bytes() > 0
    }

    /// What [`GraphKind::of`] calls the codes: bits of an element, or [`NBITS_F16`].
    pub(super) fn bits(&self) -> u32 {
        self.code.nbits()
    }

    /// Candidates that get an exact distance by default. Codes of bits are the rows, however few these are.
    pub(super) fn default_rerank(&self, k: u32, ef: u32) -> u32 {
        let bits = match self.code.kind() {
            GraphKind::Raw(_) => 32,
            _ => self.bits(),
        };
        Query::default_rerank(k, ef, bits)
    }

    /// Words of a code.
    pub(crate) fn code_words(&self) -> usize {
        self.code.code_words()
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.code.row_bytes()
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.centre.len() as u64
    }

    /// The mean of a sample of rows; normalised ones, if the metric is cosine.
    fn mean(
        &self,
        inode: &Inode<VexFs>,
        rows: u64,
        takes: impl Fn(u64) -> bool,
        go_on: GoOn<'_>,
    ) -> Result<KVVec<u8>> {
        let (isa, dim) = (self.rows.simd.isa, self.rows.dim);
        let bytes = self.rows.vector_bytes();
        let mut row = KVVec::from_elem(0u8, self.row_bytes(), GFP_KERNEL | __GFP_NOWARN)?;
        let mut wide = KVVec::from_elem(0u8, bytes, GFP_KERNEL | __GFP_NOWARN)?;
        let mut sums = KVVec::from_elem(0u64, dim, GFP_KERNEL | __GFP_NOWARN)?;
        let mut count = [0u64];
        let mut pinned = Pinned::new()?;
        let step = usize::try_from(rows.div_ceil(SAMPLE).max(1))?;
        for first in (0..rows).step_by(step) {
            go_on()?;
            task::cond_resched();
            // If there are rows, there is a mean: of those deleted another one takes the place.
            let mut some = first..first.saturating_add(step as u64).min(rows);
            let Some(number) = some.find(|row| takes(*row)) else {
                continue;
            };
            let read = || self.rows.read(inode, &mut pinned, number, rows, &mut row);
            inode.node().rows.read(read)?;
            let unit = self.rows.metric == Metric::Cosine;
            fpu::section(|t| {
                self.rows.widen(t, &row, unit, &mut wide)?;
                accumulate_f32(t, isa, &wide, bytes, dim, &[0], &mut sums, &mut count)
            })?
            .map_err(|_| EINVAL)?;
        }
        let [counted] = count;
        if counted == 0 {
            return Ok(KVVec::new());
        }
        let mut centre = KVVec::from_elem(0u8, bytes, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        fpu::section(|t| centroids_f32(t, isa, dim, &sums, &count, &mut centre))?
            .map_err(|_| EINVAL)?;
        Ok(centre)
    }
}

/// The vector that an operation is about, and rows that it is compared with.
pub(crate) struct Vectors {
    row: KVVec<u8>,
    vector: KVVec<u32>,
    query: KVVec<u32>,
    gathered: KVVec<u8>,
}

impl Vectors {
    /// Memory that is charged to `charge`.
    pub(crate) fn new(charge: &mut Charge, codec: &Codec) -> Result<Self> {
        let code = &codec.code;
        Ok(Vectors {
            row: charge.make(codec.row_bytes())?,
            vector: charge.make(code.vector_words())?,
            query: charge.make(code.query_words())?,
            gathered: charge.make(codec.rows.gathered_bytes(BATCH))?,
        })
    }
}

/// Arithmetic between one vector, the codes of a graph and the rows of its container. Whoever asks for
/// rows holds `Node::rows` for as long as it lives, so that they do not change.
pub(crate) struct Arithmetic<'a> {
    inode: &'a Inode<VexFs>,
    codec: &'a Codec,
    vectors: &'a mut Vectors,
    pinned: Pinned,
}

impl<'a> Arithmetic<'a> {
    pub(crate) fn new(
        inode: &'a Inode<VexFs>,
        codec: &'a Codec,
        vectors: &'a mut Vectors,
    ) -> Result<Self> {
        Ok(Arithmetic {
            inode,
            codec,
            vectors,
            pinned: Pinned::new()?,
        })
    }

    /// Makes `query` the vector.
    pub(crate) fn set(&mut self, query: &[u8]) -> Result {
        let row = &mut self.vectors.row;
        if row.len() != query.len() {
            return Err(EINVAL);
        }
        for (to, from) in row.iter_mut().zip(query) {
            *to = *from;
        }
        self.prepare()
    }

    /// Makes row `row` of the container the vector. `end` rows may be read on the way.
    pub(crate) fn set_row(&mut self, row: u64, end: u64) -> Result {
        let to = &mut self.vectors.row;
        let rows = &self.codec.rows;
        rows.read(self.inode, &mut self.pinned, row, end, to)?;
        self.prepare()
    }

    fn prepare(&mut self) -> Result {
        let codec = self.codec;
        let Vectors {
            row, vector, query, ..
        } = &mut *self.vectors;
        let isa = codec.rows.simd.isa;
        fpu::section(|t| {
            codec
                .code
                .prepare(t, isa, SEED, &codec.centre, row, vector, query)
        })?
        .map_err(|_| EINVAL)
    }
}

impl Numeric for Arithmetic<'_> {
    type Error = Error;

    fn encode(&mut self, code: &mut [u32]) -> Result {
        let codec = self.codec;
        let (vector, query) = (&self.vectors.vector, &self.vectors.query);
        fpu::section(|t| {
            codec
                .code
                .encode(t, codec.rows.simd.isa, vector, query, code)
        })?
        .map_err(|_| EINVAL)
    }

    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result {
        let codec = self.codec;
        let query = &self.vectors.query;
        let pieces = nodes.chunks(codec.at_once);
        for (nodes, out) in pieces.zip(out.chunks_mut(codec.at_once)) {
            fpu::section(|t| codec.code.score(t, codec.rows.simd.isa, query, nodes, out))?
                .map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    fn between(&mut self, from: &[AtomicU32], nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result {
        let codec = self.codec;
        let query = &self.vectors.query;
        let pieces = nodes.chunks(codec.at_once);
        for (nodes, out) in pieces.zip(out.chunks_mut(codec.at_once)) {
            fpu::section(|t| {
                codec
                    .code
                    .between(t, codec.rows.simd.isa, query, from, nodes, out)
            })?
            .map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result {
        let Vectors { row, gathered, .. } = &mut *self.vectors;
        let of = &self.codec.rows;
        of.exact(self.inode, &mut self.pinned, row, gathered, rows, out)
    }

    #[inline]
    fn prefetch(&self, part: &[AtomicU32]) {
        prefetch(part);
    }
}
