// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The 96 bytes of an inode that make its file a vector container.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a vector area.
pub const VECTOR_AREA_BYTES: usize = 96;
/// Largest dimension.
pub const MAX_DIM: u32 = 65536;
/// Largest row alignment in bytes.
pub const MAX_ALIGN: u32 = 4096;

/// Element type: 32-bit IEEE-754.
pub const ELEMENT_FLOAT32: u8 = 1;
/// Element type: 16-bit IEEE-754.
pub const ELEMENT_FLOAT16: u8 = 2;
/// Element type: upper half of a 32-bit IEEE-754.
pub const ELEMENT_BFLOAT16: u8 = 3;
/// Element type: signed byte.
pub const ELEMENT_INT8: u8 = 4;
/// Element type: unsigned byte.
pub const ELEMENT_UINT8: u8 = 5;
/// Element type: bit, eight to a byte, the lowest first.
pub const ELEMENT_BIT: u8 = 6;

/// Metric: squared Euclidean distance. Of bits this is the number of bits that differ.
pub const METRIC_L2SQ: u8 = 1;
/// Metric: one minus the cosine of the angle.
pub const METRIC_COSINE: u8 = 2;
/// Metric: negated inner product.
pub const METRIC_INNER_PRODUCT: u8 = 3;
/// Metric: number of bits that differ, of bits only.
pub const METRIC_HAMMING: u8 = 4;

/// Bits in an element, nothing for an unknown type.
pub fn element_bits(element: u8) -> Option<u64> {
    match element {
        ELEMENT_FLOAT32 => Some(32),
        ELEMENT_FLOAT16 | ELEMENT_BFLOAT16 => Some(16),
        ELEMENT_INT8 | ELEMENT_UINT8 => Some(8),
        ELEMENT_BIT => Some(1),
        _ => None,
    }
}

/// True for a known metric of a known element type.
pub fn is_metric(metric: u8, element: u8) -> bool {
    match metric {
        METRIC_L2SQ | METRIC_COSINE | METRIC_INNER_PRODUCT => element_bits(element).is_some(),
        METRIC_HAMMING => element == ELEMENT_BIT,
        _ => false,
    }
}

/// Bytes from one row to the next, for rows of `dim` elements aligned to `align` bytes;
/// nothing if one of them is out of range.
pub fn stride(dim: u32, element: u8, align: u32) -> Option<u32> {
    if dim == 0 || dim > MAX_DIM || !align.is_power_of_two() || align > MAX_ALIGN {
        return None;
    }
    let bytes = u64::from(dim)
        .checked_mul(element_bits(element)?)?
        .div_ceil(8);
    u32::try_from(bytes.checked_next_multiple_of(align.into())?).ok()
}

/// What makes a file a container: shape of a row, how many there are, and where the rest is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorArea {
    /// Elements per row.
    pub dim: u32,
    /// `ELEMENT_*`.
    pub element: u8,
    /// `METRIC_*`.
    pub metric: u8,
    /// Zero so far.
    pub flags: u16,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes to which rows are aligned, a power of two.
    pub align: u32,
    /// Rows that exist, deleted ones included.
    pub rows: u64,
    /// Rows that are not deleted.
    pub live: u64,
    /// Changes with every batch.
    pub generation: u64,
    /// Batches whose bytes may have been written.
    pub batch_started: u64,
    /// Batches that are visible.
    pub batch_done: u64,
    /// Hidden inode with one record per row; 0 for none.
    pub row_meta_ino: u64,
    /// Hidden inode that maps keys to rows; 0 for none.
    pub key_map_ino: u64,
    /// Hidden inode of the index; 0 for none.
    pub index_ino: u64,
    /// The user's tag for the model that made the vectors.
    pub model_tag: u64,
}

/// The area as it lies in the inode.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawVectorArea {
    dim: U32,
    element: u8,
    metric: u8,
    flags: U16,
    stride: U32,
    align: U32,
    rows: U64,
    live: U64,
    generation: U64,
    batch_started: U64,
    batch_done: U64,
    row_meta_ino: U64,
    key_map_ino: U64,
    index_ino: U64,
    model_tag: U64,
    reserved: U64,
}

const _: () = assert!(core::mem::size_of::<RawVectorArea>() == VECTOR_AREA_BYTES);
const _: () = assert!(core::mem::offset_of!(RawVectorArea, model_tag) == 80);

impl VectorArea {
    /// The area in `bytes`. An inode without the vector flag has zeros here, which read as
    /// the default value; use [`check`](Self::check) if it has the flag.
    pub fn load(bytes: &[u8]) -> VectorArea {
        let Ok((raw, _)) = RawVectorArea::ref_from_prefix(bytes) else {
            return VectorArea::default();
        };
        VectorArea {
            dim: raw.dim.get(),
            element: raw.element,
            metric: raw.metric,
            flags: raw.flags.get(),
            stride: raw.stride.get(),
            align: raw.align.get(),
            rows: raw.rows.get(),
            live: raw.live.get(),
            generation: raw.generation.get(),
            batch_started: raw.batch_started.get(),
            batch_done: raw.batch_done.get(),
            row_meta_ino: raw.row_meta_ino.get(),
            key_map_ino: raw.key_map_ino.get(),
            index_ino: raw.index_ino.get(),
            model_tag: raw.model_tag.get(),
        }
    }

    /// Writes the area to the start of `bytes`.
    pub fn store(&self, bytes: &mut [u8]) {
        let raw = RawVectorArea {
            dim: U32::new(self.dim),
            element: self.element,
            metric: self.metric,
            flags: U16::new(self.flags),
            stride: U32::new(self.stride),
            align: U32::new(self.align),
            rows: U64::new(self.rows),
            live: U64::new(self.live),
            generation: U64::new(self.generation),
            batch_started: U64::new(self.batch_started),
            batch_done: U64::new(self.batch_done),
            row_meta_ino: U64::new(self.row_meta_ino),
            key_map_ino: U64::new(self.key_map_ino),
            index_ino: U64::new(self.index_ino),
            model_tag: U64::new(self.model_tag),
            reserved: U64::new(0),
        };
        // The only caller passes the 96 bytes of an inode.
        let _ = raw.write_to_prefix(bytes);
    }

    /// Checks the area of a container.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if element_bits(self.element).is_none() {
            return Err("vector area: unknown element type");
        }
        if !is_metric(self.metric, self.element) {
            return Err("vector area: unknown metric, or not one of the element type");
        }
        if stride(self.dim, self.element, self.align) != Some(self.stride) {
            return Err("vector area: stride does not fit dimension and alignment");
        }
        if self.live > self.rows || self.batch_done > self.batch_started {
            return Err("vector area: counts contradict each other");
        }
        if self
            .rows
            .checked_mul(self.stride.into())
            .is_none_or(|bytes| bytes > i64::MAX as u64)
        {
            return Err("vector area: more rows than the largest file holds");
        }
        Ok(())
    }
}
