// SPDX-License-Identifier: GPL-2.0

//! What the rows of a container are made of: the element type and the metric as the distance
//! kernels know them, and which rows no container takes.

use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{vector_area, VectorArea};
use vexfs_simd_ffi::{first_non_finite, Elem, Metric};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, Inode};

/// The element type.
pub(crate) fn elem(area: &VectorArea) -> Result<Elem> {
    match area.element {
        vector_area::ELEMENT_FLOAT32 => Ok(Elem::F32),
        vector_area::ELEMENT_FLOAT16 => Ok(Elem::F16),
        vector_area::ELEMENT_BFLOAT16 => Ok(Elem::Bf16),
        vector_area::ELEMENT_INT8 => Ok(Elem::I8),
        vector_area::ELEMENT_UINT8 => Ok(Elem::U8),
        vector_area::ELEMENT_BIT => Ok(Elem::Binary),
        _ => Err(EFSCORRUPTED),
    }
}

/// The metric.
pub(crate) fn metric(area: &VectorArea) -> Result<Metric> {
    match area.metric {
        vector_area::METRIC_L2SQ => Ok(Metric::L2Sq),
        vector_area::METRIC_COSINE => Ok(Metric::Cosine),
        vector_area::METRIC_INNER_PRODUCT => Ok(Metric::InnerProduct),
        vector_area::METRIC_HAMMING => Ok(Metric::Hamming),
        _ => Err(EFSCORRUPTED),
    }
}

/// Bytes of a vector, without the padding to the stride.
pub(crate) fn row_bytes(area: &VectorArea) -> Result<usize> {
    Ok(elem(area)?.row_bytes(area.dim as usize))
}

/// Looks for rows that no container takes: those with a NaN or an infinity, and rows of bits that
/// have one set behind the last element, where nothing would look at it.
pub(crate) struct RowCheck<'a> {
    inode: &'a Inode<VexFs>,
    elem: Elem,
    bytes: usize,
    stride: usize,
    /// Bits of a row's last byte that belong to no element.
    stray: u8,
}

impl<'a> RowCheck<'a> {
    /// For rows of `area` that start `stride` bytes apart; what is between them is zero.
    pub(crate) fn new(inode: &'a Inode<VexFs>, area: &VectorArea, stride: usize) -> Result<Self> {
        let elem = elem(area)?;
        let stray = match (elem, area.dim % 8) {
            (Elem::Binary, used @ 1..) => 0xff << used,
            _ => 0,
        };
        Ok(RowCheck {
            inode,
            elem,
            bytes: row_bytes(area)?,
            stride,
            stray,
        })
    }

    /// Whether every row is one that a container takes.
    fn takes_all(&self) -> bool {
        match self.elem {
            Elem::F32 | Elem::F16 | Elem::Bf16 => false,
            Elem::I8 | Elem::U8 => true,
            Elem::Binary => self.stray == 0,
        }
    }

    /// The first row of `rows` that is not taken. They begin `before` bytes, a number of elements,
    /// behind the start of row 0, and may end anywhere.
    pub(crate) fn first_bad(&self, rows: &[u8], before: usize) -> Result<Option<usize>> {
        let at = match self.elem {
            _ if self.takes_all() => None,
            Elem::Binary => self.first_stray(rows, before),
            _ => self.first_non_finite(rows)?,
        };
        let row = |at: usize| before.saturating_add(at).checked_div(self.stride);
        Ok(at.and_then(row))
    }

    fn first_stray(&self, rows: &[u8], before: usize) -> Option<usize> {
        let last = self.bytes.checked_sub(1)?;
        // From where `rows` begins to the next last byte of a row.
        let into = before.checked_rem(self.stride)?;
        let skip = match last.checked_sub(into) {
            Some(skip) => skip,
            None => last.saturating_add(self.stride).saturating_sub(into),
        };
        let bytes = rows.iter().enumerate().skip(skip);
        let mut last_bytes = bytes.step_by(self.stride);
        last_bytes.find_map(|(at, byte)| (byte & self.stray != 0).then_some(at))
    }

    /// Where the first element that is not finite begins.
    fn first_non_finite(&self, rows: &[u8]) -> Result<Option<usize>> {
        let simd = &self.inode.volume().simd;
        let mut before = 0usize;
        for piece in rows.chunks(simd.check_bytes()) {
            let found = fpu::section(|t| first_non_finite(t, simd.isa, self.elem, piece))?;
            if let Some(element) = found {
                let bytes = element.saturating_mul(self.elem.row_bytes(1));
                return Ok(Some(before.saturating_add(bytes)));
            }
            before = before.saturating_add(piece.len());
        }
        Ok(None)
    }

    /// As [`first_bad`](Self::first_bad), of `len` bytes of rows that were just written to the page
    /// cache from `position` on, where row 0 starts and nobody else writes.
    pub(crate) fn first_bad_in_file(
        &self,
        pinned: &mut Pinned,
        position: u64,
        len: usize,
    ) -> Result<Option<usize>> {
        if self.takes_all() {
            return Ok(None);
        }
        let end = position.saturating_add(len as u64);
        let mut at = position;
        while at < end {
            let pinned_end = pinned.fill(self.inode, at, end)?;
            while at < pinned_end {
                let bytes = pinned.bytes_at(at);
                if bytes.is_empty() {
                    return Err(EIO);
                }
                let before = usize::try_from(at.saturating_sub(position))?;
                if let Some(row) = self.first_bad(bytes, before)? {
                    return Ok(Some(row));
                }
                at = at.saturating_add(bytes.len() as u64);
            }
        }
        Ok(None)
    }
}
