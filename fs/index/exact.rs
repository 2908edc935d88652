// SPDX-License-Identifier: GPL-2.0

//! The rows of a container as indexes use them: read, and compared exactly with a query.

use crate::element;
use crate::simd::Simd;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::VectorArea;
use vexfs_simd_ffi::{convert, normalise_f32, score_list, BadShape, Elem, FpuToken, Metric};
use vexfs_vfs::page_cache::{Pinned, Scattered};
use vexfs_vfs::{fpu, Inode};

/// Bytes of rows compared exactly at once: half of them may come from memory while the rest is
/// in the L2 cache.
const EXACT_BYTES: usize = 128 * 1024;

/// What the rows of a container are.
pub(crate) struct Rows {
    pub(super) elem: Elem,
    pub(super) metric: Metric,
    pub(super) dim: usize,
    /// Bytes of a row, without the padding to the stride.
    pub(super) bytes: usize,
    stride: u64,
    pub(super) simd: Simd,
}

impl Rows {
    pub(crate) fn new(inode: &Inode<VexFs>, area: &VectorArea) -> Result<Self> {
        Ok(Rows {
            elem: element::elem(area)?,
            metric: element::metric(area)?,
            dim: area.dim as usize,
            bytes: element::row_bytes(area)?,
            stride: u64::from(area.stride),
            simd: inode.volume().simd,
        })
    }

    /// Bytes of a row as binary32.
    pub(super) fn vector_bytes(&self) -> usize {
        Elem::F32.row_bytes(self.dim)
    }

    /// Rows of binary32 that one section may compare with a vector, or touch in another way that costs as much.
    pub(super) fn section_vectors(&self) -> usize {
        self.simd.section_rows(Elem::F32, self.vector_bytes())
    }

    /// Reads row `row` into `out`. Rows below `end` may be read on the way.
    pub(super) fn read(
        &self,
        inode: &Inode<VexFs>,
        pinned: &mut Pinned,
        row: u64,
        end: u64,
        out: &mut [u8],
    ) -> Result {
        let start = row.saturating_mul(self.stride);
        pinned.read(inode, start, end.saturating_mul(self.stride), out)
    }

    /// Makes a row binary32, of length 1 if `unit`; a row of zeros stays one. Within a section.
    pub(super) fn widen(
        &self,
        t: &FpuToken<'_>,
        row: &[u8],
        unit: bool,
        out: &mut [u8],
    ) -> core::result::Result<(), BadShape> {
        if self.elem == Elem::F32 {
            for (to, from) in out.iter_mut().zip(row) {
                *to = *from;
            }
        } else {
            convert(t, self.simd.isa, self.elem, Elem::F32, row, out)?;
        }
        if unit {
            let _ = normalise_f32(t, self.simd.isa, out);
        }
        Ok(())
    }

    /// Bytes of memory in which up to `most` rows are compared at once.
    pub(super) fn gathered_bytes(&self, most: usize) -> usize {
        let rows = (EXACT_BYTES / self.bytes.max(1)).clamp(1, most.max(1));
        rows.saturating_mul(self.bytes)
    }

    /// Rows that [`Rows::listed`] takes at once, with so many bytes of memory for copies.
    pub(crate) fn listed_at_once(&self, copies: usize) -> usize {
        (copies / self.bytes.max(1)).clamp(1, Scattered::PARTS)
    }

    /// Runs `f` with the bytes of `rows`, as many as [`Rows::listed_at_once`] says: where they lie, or copied to
    /// `copies` if that is two places.
    pub(crate) fn listed<R>(
        &self,
        inode: &Inode<VexFs>,
        pinned: &mut Pinned,
        copies: &mut [u8],
        rows: &[u64],
        f: impl FnOnce(&[&[u8]]) -> Result<R>,
    ) -> Result<R> {
        let bytes = self.bytes.max(1);
        let mut scattered = Scattered::new();
        let mut in_place = [false; Scattered::PARTS];
        let mut positions = [0; Scattered::PARTS];
        for (position, number) in positions.iter_mut().zip(rows) {
            *position = number.saturating_mul(self.stride);
        }
        let positions = positions.get(..rows.len()).ok_or(EINVAL)?;
        Scattered::prefetch(inode, positions, bytes);
        let places = copies.chunks_mut(bytes).zip(&mut in_place);
        for (&start, (to, in_place)) in positions.iter().zip(places) {
            *in_place = scattered.push(inode, pinned, start, bytes)?;
            if !*in_place {
                // No page is read or pinned for the sake of rows behind it.
                let end = start.saturating_add(bytes as u64);
                pinned.read(inode, start, end, to)?;
            }
        }
        let mut list: [&[u8]; Scattered::PARTS] = [&[]; Scattered::PARTS];
        let mut part = 0;
        for ((place, copy), in_place) in list.iter_mut().zip(copies.chunks(bytes)).zip(in_place) {
            *place = copy;
            if in_place {
                *place = scattered.part(part);
                part += 1;
            }
        }
        f(list.get(..rows.len()).ok_or(EINVAL)?)
    }

    /// Writes the distances from `query`, a row, to `rows` to `out`. `gathered` has room for a row at least.
    pub(super) fn exact(
        &self,
        inode: &Inode<VexFs>,
        pinned: &mut Pinned,
        query: &[u8],
        gathered: &mut [u8],
        rows: &[u64],
        out: &mut [u32],
    ) -> Result {
        let at_once = self.listed_at_once(gathered.len());
        let section = self.simd.section_rows(self.elem, self.bytes);
        for (rows, out) in rows.chunks(at_once).zip(out.chunks_mut(at_once)) {
            self.listed(inode, pinned, gathered, rows, |list| {
                for (rows, out) in list.chunks(section).zip(out.chunks_mut(section)) {
                    fpu::section(|t| {
                        let (isa, elem, metric) = (self.simd.isa, self.elem, self.metric);
                        score_list(t, isa, elem, metric, query, rows, self.dim, out)
                    })?
                    .map_err(|_| EINVAL)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
