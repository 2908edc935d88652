// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! One node of a tree, in a block or in an inode: finding, inserting and removing entries.
//!
//! The bytes were checked by `format::node::check` when they came from the disk, so the
//! answers here are right. Should they ever not be, nothing here panics: every access is
//! bounded, and changes report [`BROKEN`] instead of being made.

use crate::{Error, Result};
use vexfs_format::node::{
    NodeHeader, Slot, BLOCK_HEADER_AT, CHILD_BYTES, NODE_HEADER_BYTES, ROOT_HEADER_AT, SLOT_BYTES,
};
use vexfs_format::{copy, BLOCK_SIZE};

/// What is reported when checked bytes contradict themselves later.
const BROKEN: &str = "tree node: changed behind our back";

/// Bytes for slots and records in a node that fills a block.
pub(crate) const BLOCK_CAPACITY: usize = BLOCK_SIZE - BLOCK_HEADER_AT - NODE_HEADER_BYTES;
/// Bytes an entry above level 0 takes.
pub(crate) const CHILD_ENTRY: usize = SLOT_BYTES + CHILD_BYTES;

/// Where a node is, for error messages.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// In the inode with this number.
    Root(u64),
    /// In this block.
    Block(u64),
}

impl Place {
    pub(crate) fn corrupt(self, what: &'static str) -> Error {
        match self {
            Place::Root(ino) => Error::CorruptInode { ino, what },
            Place::Block(block) => Error::Corrupt { block, what },
        }
    }

    #[inline]
    fn header_at(self) -> usize {
        match self {
            Place::Root(_) => ROOT_HEADER_AT,
            Place::Block(_) => BLOCK_HEADER_AT,
        }
    }
}

/// A node, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    bytes: &'a [u8],
    place: Place,
    header: NodeHeader,
}

impl<'a> Node<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], place: Place) -> Node<'a> {
        Node {
            bytes,
            place,
            header: NodeHeader::load(bytes, place.header_at()),
        }
    }

    #[inline]
    pub(crate) fn level(&self) -> u16 {
        self.header.level
    }

    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.header.count.into()
    }

    #[inline]
    fn slot(&self, index: usize) -> Slot {
        Slot::load(self.bytes, self.place.header_at(), index)
    }

    #[inline]
    pub(crate) fn key(&self, index: usize) -> u64 {
        Slot::load_key(self.bytes, self.place.header_at(), index)
    }

    #[inline]
    pub(crate) fn record_len(&self, index: usize) -> usize {
        self.slot(index).len
    }

    #[inline]
    pub(crate) fn record(&self, index: usize) -> Result<&'a [u8]> {
        let slot = self.slot(index);
        self.bytes
            .get(slot.offset..slot.offset.saturating_add(slot.len))
            .filter(|_| index < self.count())
            .ok_or(self.place.corrupt(BROKEN))
    }

    /// The block number in entry `index` of a node above level 0.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> Result<u64> {
        let record = self.record(index)?;
        let child = record
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| self.place.corrupt(BROKEN))?;
        if child == 0 {
            return Err(self.place.corrupt("tree node: a child is block 0"));
        }
        Ok(child)
    }

    /// The entry with `key`, or where it would be inserted.
    #[inline]
    pub(crate) fn find(&self, key: u64) -> core::result::Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(&key) {
                core::cmp::Ordering::Less => low = middle.saturating_add(1),
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The child that takes `key`; the first one takes what lies below its own key too.
    #[inline]
    pub(crate) fn child_index(&self, key: u64) -> usize {
        match self.find(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }

    /// Bytes between slots and records.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        usize::from(self.header.heap)
            .saturating_sub(Slot::position(self.place.header_at(), self.count()))
    }

    /// Bytes of slots and records.
    #[inline]
    pub(crate) fn used(&self) -> usize {
        self.bytes
            .len()
            .saturating_sub(self.place.header_at())
            .saturating_sub(NODE_HEADER_BYTES)
            .saturating_sub(self.free())
    }
}

/// A node, to be changed.
pub(crate) struct NodeMut<'a> {
    bytes: &'a mut [u8],
    place: Place,
}

impl<'a> NodeMut<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a mut [u8], place: Place) -> NodeMut<'a> {
        NodeMut { bytes, place }
    }

    #[inline]
    pub(crate) fn view(&self) -> Node<'_> {
        Node::new(self.bytes, self.place)
    }

    fn at(&self) -> usize {
        self.place.header_at()
    }

    /// Makes the node an empty one.
    pub(crate) fn init(&mut self, level: u16) {
        let at = self.at();
        let start = at.saturating_add(NODE_HEADER_BYTES);
        if let Some(rest) = self.bytes.get_mut(start..) {
            rest.fill(0);
        }
        // Nodes are at most 4096 bytes.
        let heap = self.bytes.len() as u16;
        NodeHeader {
            level,
            count: 0,
            heap,
        }
        .store(self.bytes, at);
    }

    fn broken(&self) -> Error {
        self.place.corrupt(BROKEN)
    }

    /// Moves the bytes `from..to` so that they start at `dest`.
    fn shift(&mut self, from: usize, to: usize, dest: usize) -> Result<()> {
        let len = to.checked_sub(from).ok_or(self.broken())?;
        if to > self.bytes.len() || dest.saturating_add(len) > self.bytes.len() {
            return Err(self.broken());
        }
        self.bytes.copy_within(from..to, dest);
        Ok(())
    }

    /// Inserts an entry at `index`. The caller has checked that it fits and is in order.
    pub(crate) fn insert(&mut self, index: usize, key: u64, record: &[u8]) -> Result<()> {
        let at = self.at();
        let mut header = NodeHeader::load(self.bytes, at);
        let count = usize::from(header.count);
        let need = record.len().saturating_add(SLOT_BYTES);
        if index > count || self.view().free() < need {
            return Err(self.broken());
        }
        let heap = usize::from(header.heap).saturating_sub(record.len());
        let (from, to) = (Slot::position(at, index), Slot::position(at, count));
        self.shift(from, to, from.saturating_add(SLOT_BYTES))?;
        let end = heap.saturating_add(record.len());
        match self.bytes.get_mut(heap..end) {
            Some(place) => copy(place, record),
            None => return Err(self.broken()),
        }
        Slot {
            key,
            offset: heap,
            len: record.len(),
        }
        .store(self.bytes, at, index);
        header.count = header.count.saturating_add(1);
        header.heap = heap as u16;
        header.store(self.bytes, at);
        Ok(())
    }

    /// Appends an entry.
    pub(crate) fn push(&mut self, key: u64, record: &[u8]) -> Result<()> {
        let count = self.view().count();
        self.insert(count, key, record)
    }

    /// Removes entry `index` and closes the gap its record leaves.
    pub(crate) fn remove(&mut self, index: usize) -> Result<()> {
        let at = self.at();
        let mut header = NodeHeader::load(self.bytes, at);
        let count = usize::from(header.count);
        if index >= count {
            return Err(self.broken());
        }
        let gone = Slot::load(self.bytes, at, index);
        let heap = usize::from(header.heap);
        self.shift(heap, gone.offset, heap.saturating_add(gone.len))?;
        for other in 0..count {
            let mut slot = Slot::load(self.bytes, at, other);
            // Not `<`: an empty record may lie where this one starts.
            if slot.offset <= gone.offset {
                slot.offset = slot.offset.saturating_add(gone.len);
                slot.store(self.bytes, at, other);
            }
        }
        let next = Slot::position(at, index.saturating_add(1));
        let end = Slot::position(at, count);
        self.shift(next, end, Slot::position(at, index))?;
        header.count = header.count.saturating_sub(1);
        header.heap = heap.saturating_add(gone.len) as u16;
        header.store(self.bytes, at);
        Ok(())
    }

    /// Gives entry `index` another key, which keeps the order.
    pub(crate) fn set_key(&mut self, index: usize, key: u64) {
        let at = self.at();
        let mut slot = Slot::load(self.bytes, at, index);
        slot.key = key;
        slot.store(self.bytes, at, index);
    }

    /// Gives entry `index` another record of any length that fits.
    pub(crate) fn set_record(&mut self, index: usize, record: &[u8]) -> Result<()> {
        let slot = Slot::load(self.bytes, self.at(), index);
        if slot.len == record.len() {
            let end = slot.offset.saturating_add(slot.len);
            let place = self.place;
            return match self.bytes.get_mut(slot.offset..end) {
                Some(to) => {
                    copy(to, record);
                    Ok(())
                }
                None => Err(place.corrupt(BROKEN)),
            };
        }
        self.remove(index)?;
        self.insert(index, slot.key, record)
    }

    /// Cuts the node to its first `count` entries.
    pub(crate) fn truncate(&mut self, count: usize) -> Result<()> {
        while self.view().count() > count {
            let last = self.view().count().saturating_sub(1);
            self.remove(last)?;
        }
        Ok(())
    }
}
