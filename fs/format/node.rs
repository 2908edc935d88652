// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! A node of the B+tree: how keys and records lie in a block, or in the root area of an
//! inode.
//!
//! ```text
//! [level, count, heap, 0][slot 0][slot 1]...   free   ...[record][record]
//! ```
//!
//! A node is a run of bytes with its 8-byte header at a given place: byte 24 of a block,
//! where it takes the type-specific bytes of the common header, or byte 0 of the 176
//! bytes in an inode. Behind the header come slots in key order, each a key and the offset
//! and length of its record; records fill the end of the bytes, without gaps, in any order.
//! `heap` is where they start. In a node of level 0 (a leaf) records are the tree's
//! records; above that they are the 8-byte numbers of child blocks, and a slot's key is the
//! lowest key its child may hold. The first child also takes what lies below its key, down
//! to the bound that the parent sets, or 0 in the root.

use crate::{bytes_at, header::HEADER_BYTES};

/// Place of the node header in a block.
pub const BLOCK_HEADER_AT: usize = 24;
/// Place of the node header in the root area of an inode.
pub const ROOT_HEADER_AT: usize = 0;
/// Bytes in a node header.
pub const NODE_HEADER_BYTES: usize = 8;
/// Bytes in a slot: key, offset, length.
pub const SLOT_BYTES: usize = 12;
/// Longest record. Four of them fit a node, so that a split always makes room.
pub const MAX_RECORD: usize = 1000;
/// Bytes of a record above level 0: a block number.
pub const CHILD_BYTES: usize = 8;
/// Highest level of a root. With 100 children per node this is never reached.
pub const MAX_LEVEL: u16 = 8;

const _: () = assert!(BLOCK_HEADER_AT + NODE_HEADER_BYTES == HEADER_BYTES);

/// A slot: where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The key.
    pub key: u64,
    /// First byte of the record, from the start of the node's bytes.
    pub offset: usize,
    /// Bytes in the record.
    pub len: usize,
}

/// The header of a node, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHeader {
    /// Distance from the leaves.
    pub level: u16,
    /// Slots.
    pub count: u16,
    /// First byte of the records.
    pub heap: u16,
}

impl NodeHeader {
    /// The header at `at` of a node's bytes.
    #[inline]
    pub fn load(bytes: &[u8], at: usize) -> NodeHeader {
        let raw: [u8; 8] = bytes_at(bytes, at);
        let [l0, l1, c0, c1, h0, h1, _, _] = raw;
        NodeHeader {
            level: u16::from_le_bytes([l0, l1]),
            count: u16::from_le_bytes([c0, c1]),
            heap: u16::from_le_bytes([h0, h1]),
        }
    }

    /// Writes the header at `at`.
    #[inline]
    pub fn store(&self, bytes: &mut [u8], at: usize) {
        let [l0, l1] = self.level.to_le_bytes();
        let [c0, c1] = self.count.to_le_bytes();
        let [h0, h1] = self.heap.to_le_bytes();
        crate::put(bytes, at, &[l0, l1, c0, c1, h0, h1, 0, 0]);
    }
}

impl Slot {
    /// Where slot `index` lies in a node whose header is at `at`.
    #[inline]
    pub fn position(at: usize, index: usize) -> usize {
        index
            .saturating_mul(SLOT_BYTES)
            .saturating_add(at)
            .saturating_add(NODE_HEADER_BYTES)
    }

    /// Slot `index`; a slot outside the bytes reads as an empty one.
    #[inline]
    pub fn load(bytes: &[u8], at: usize, index: usize) -> Slot {
        let raw: [u8; SLOT_BYTES] = bytes_at(bytes, Slot::position(at, index));
        let [k0, k1, k2, k3, k4, k5, k6, k7, o0, o1, l0, l1] = raw;
        Slot {
            key: u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            offset: u16::from_le_bytes([o0, o1]).into(),
            len: u16::from_le_bytes([l0, l1]).into(),
        }
    }

    /// The key of slot `index`: all that a search looks at.
    #[inline]
    pub fn load_key(bytes: &[u8], at: usize, index: usize) -> u64 {
        u64::from_le_bytes(bytes_at(bytes, Slot::position(at, index)))
    }

    /// Writes slot `index`. Offset and length are below 65536 because nodes are.
    #[inline]
    pub fn store(&self, bytes: &mut [u8], at: usize, index: usize) {
        let position = Slot::position(at, index);
        crate::put(bytes, position, &self.key.to_le_bytes());
        let [o0, o1] = (self.offset as u16).to_le_bytes();
        let [l0, l1] = (self.len as u16).to_le_bytes();
        crate::put(bytes, position.saturating_add(8), &[o0, o1, l0, l1]);
    }
}

/// Checks a node slot by slot: header, order of keys, and that records are where they may
/// be. What holds between nodes is checked on the way down the tree.
///
/// # Errors
///
/// The rule that is broken.
pub fn check(bytes: &[u8], at: usize) -> Result<(), &'static str> {
    let header = NodeHeader::load(bytes, at);
    let count = usize::from(header.count);
    let heap = usize::from(header.heap);
    if header.level > MAX_LEVEL {
        return Err("tree node: level is too high");
    }
    if bytes_at::<2>(bytes, at.saturating_add(6)) != [0; 2] {
        return Err("tree node: reserved bytes are not zero");
    }
    let root = at == ROOT_HEADER_AT;
    if count == 0 && (!root || header.level > 0) {
        return Err("tree node: empty");
    }
    if heap > bytes.len() || Slot::position(at, count) > heap {
        return Err("tree node: slots and records overlap");
    }
    let mut used = 0usize;
    let mut last = None;
    for index in 0..count {
        let slot = Slot::load(bytes, at, index);
        if last.is_some_and(|last| last >= slot.key) {
            return Err("tree node: keys are not in order");
        }
        last = Some(slot.key);
        if slot.offset < heap || slot.offset.saturating_add(slot.len) > bytes.len() {
            return Err("tree node: a record is outside the node");
        }
        if slot.len > MAX_RECORD {
            return Err("tree node: a record is too long");
        }
        if header.level > 0 && slot.len != CHILD_BYTES {
            return Err("tree node: a child is not a block number");
        }
        used = used.saturating_add(slot.len);
    }
    // Together with the bounds above: no gaps, hence room is what the header says.
    if used != bytes.len().saturating_sub(heap) {
        return Err("tree node: records leave gaps");
    }
    Ok(())
}
