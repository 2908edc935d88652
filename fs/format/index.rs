// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Indexes of a container on disk: the record that defines one, and the image that spares building it.
//!
//! The tree of the container's index inode has a record for each kind of index. An image is the data of
//! another hidden inode, and never changes: another one takes its place. Its blocks are a header, then
//! groups of a block of checksums and the data blocks that these are of. Data blocks hold the items of
//! sections one after the other, as many to a block as fit whole: so a node of a graph, with its links and
//! its code, is read with one block, unless it is longer than that.

use crate::header::{self, HEADER_BYTES, MAGIC_INDEX};
use crate::{bytes_at, put, Crc, Error, Result, BLOCK_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Kind of index, as in `uapi/vexfs.h`: HNSW.
pub const KIND_HNSW: u32 = 2;
/// Kind of index: inverted lists.
pub const KIND_IVF: u32 = 3;
/// Kind of index: product quantisation.
pub const KIND_PQ: u32 = 4;
/// Kind of index: locality-sensitive hashing.
pub const KIND_LSH: u32 = 5;

/// Bytes of an index record.
pub const RECORD_BYTES: usize = 64;
/// `IndexRecord::flags`: rows were overwritten since the image was made.
pub const RECORD_STALE: u32 = 1;

/// Parameters of an index; zero for what its kind does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// HNSW: links per node.
    pub m: u32,
    /// HNSW: candidates while building.
    pub ef_construction: u32,
    /// IVF: lists.
    pub nlist: u32,
    /// PQ: sub-quantisers.
    pub nsub: u32,
    /// PQ, LSH: bits.
    pub nbits: u32,
    /// LSH: hash tables.
    pub ntables: u32,
}

/// Bytes of [`Parameters`].
const PARAMETER_BYTES: usize = 24;

impl Parameters {
    fn load(bytes: &[u8], at: usize) -> Parameters {
        let field = |n: usize| u32::from_le_bytes(bytes_at(bytes, at.saturating_add(4 * n)));
        Parameters {
            m: field(0),
            ef_construction: field(1),
            nlist: field(2),
            nsub: field(3),
            nbits: field(4),
            ntables: field(5),
        }
    }

    fn to_bytes(self) -> [u8; PARAMETER_BYTES] {
        let mut bytes = [0; PARAMETER_BYTES];
        let fields = [
            self.m,
            self.ef_construction,
            self.nlist,
            self.nsub,
            self.nbits,
            self.ntables,
        ];
        for (to, field) in bytes.chunks_mut(4).zip(fields) {
            crate::copy(to, &field.to_le_bytes());
        }
        bytes
    }
}

/// An index that a container is to have; its key in the tree is the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRecord {
    /// `RECORD_*`.
    pub flags: u32,
    /// What it was asked for, with defaults filled in once it was built.
    pub parameters: Parameters,
    /// Hidden inode of the image; 0 if it has to be built.
    pub image_ino: u64,
    /// The image's number: each is greater than the one before.
    pub generation: u64,
}

impl IndexRecord {
    /// The index in `record`.
    ///
    /// # Errors
    ///
    /// The rule that is broken.
    pub fn parse(record: &[u8]) -> core::result::Result<IndexRecord, &'static str> {
        if record.len() != RECORD_BYTES {
            return Err("index: record has the wrong size");
        }
        let flags = u32::from_le_bytes(bytes_at(record, 0));
        if flags & !RECORD_STALE != 0 {
            return Err("index: record has an unknown flag");
        }
        Ok(IndexRecord {
            flags,
            parameters: Parameters::load(record, 8),
            image_ino: u64::from_le_bytes(bytes_at(record, 32)),
            generation: u64::from_le_bytes(bytes_at(record, 40)),
        })
    }

    /// The record.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        put(&mut record, 0, &self.flags.to_le_bytes());
        put(&mut record, 8, &self.parameters.to_bytes());
        put(&mut record, 32, &self.image_ino.to_le_bytes());
        put(&mut record, 40, &self.generation.to_le_bytes());
        record
    }
}

/// Checksums in one block of them, and so data blocks in a group.
pub const SUMS: u64 = ((BLOCK_SIZE - SUMS_AT) / 4) as u64;
/// Where checksums begin in their block.
pub const SUMS_AT: usize = 64;
/// Sections of an image at most.
pub const MAX_SECTIONS: usize = 16;
/// Words of state in the header.
pub const STATE_WORDS: usize = 16;
/// Version of the layout of images.
pub const IMAGE_VERSION: u32 = 1;

/// Items of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// What the items are: the kind of index says it.
    pub tag: u32,
    /// Bytes of an item, at most a block's.
    pub item_bytes: u32,
    /// How many there are.
    pub items: u64,
}

/// Bytes of the pieces in which items lie that are longer than a block: a line of a cache.
const PIECE_BYTES: usize = 64;

impl Section {
    /// A section of `count` things of `bytes` bytes: an item each, or, of those longer than a block, pieces of
    /// 64 bytes one after the other. They are whole pieces long.
    pub fn of(tag: u32, bytes: usize, count: u64) -> Section {
        let (item_bytes, each) = match bytes {
            0..=BLOCK_SIZE => (bytes, 1),
            _ => (PIECE_BYTES, bytes.div_ceil(PIECE_BYTES) as u64),
        };
        Section {
            tag,
            item_bytes: item_bytes as u32,
            items: count.saturating_mul(each),
        }
    }

    /// Items in a data block.
    pub fn items_per_block(&self) -> u64 {
        (BLOCK_SIZE as u64)
            .checked_div(u64::from(self.item_bytes))
            .unwrap_or(0)
    }

    /// Data blocks of the section.
    pub fn blocks(&self) -> u64 {
        match self.items_per_block() {
            0 => 0,
            each => self.items.div_ceil(each),
        }
    }
}

/// What an image says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageHeader {
    /// `KIND_*`.
    pub kind: u32,
    /// As in [`IndexRecord`].
    pub generation: u64,
    /// Rows below it are in the index, unless they were deleted.
    pub watermark: u64,
    /// The last batch that it may know of: a row that took the place of a deleted one in a later batch is not in it, but the
    /// deleted one may be.
    pub batch: u64,
    /// As in the vector area.
    pub dim: u32,
    /// As in the vector area.
    pub element: u8,
    /// As in the vector area.
    pub metric: u8,
    /// As in [`IndexRecord`].
    pub parameters: Parameters,
    /// What else the kind of index wants to know.
    pub state: [u64; STATE_WORDS],
    /// Sections, in the order in which they lie; those behind the last have no items and no tag.
    pub sections: [Section; MAX_SECTIONS],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSection {
    tag: U32,
    item_bytes: U32,
    items: U64,
}

/// Doublings of the rank in [`GraphState::spread`].
pub const OCTAVES: usize = 8;

/// What [`ImageHeader::state`] says of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphState {
    /// The entry: slot in the low half, level in the high one; all ones if there are no nodes.
    pub entry: u64,
    /// Nodes.
    pub used: u64,
    /// Upper blocks.
    pub used_uppers: u64,
    /// Bytes of the vector that codes are around; 0 if there is none.
    pub centre_bytes: u64,
    /// What levels of rows are drawn with.
    pub level_seed: u64,
    /// What codes are made with.
    pub code_seed: u64,
    /// Words of a code.
    pub code_words: u64,
    /// By how much distances grow from the nearest row to the second, to the fourth and so on, as a difference of their
    /// keys. Two to a word, the first one low; zeros in images of versions that did not know it.
    pub spread: [u32; OCTAVES],
}

impl GraphState {
    /// What to store.
    pub fn words(&self) -> [u64; STATE_WORDS] {
        let [a, b, c, d, e, f, g, h] = self.spread.map(u64::from);
        [
            self.entry,
            self.used,
            self.used_uppers,
            self.centre_bytes,
            self.level_seed,
            self.code_seed,
            self.code_words,
            a | b << 32,
            c | d << 32,
            e | f << 32,
            g | h << 32,
            0,
            0,
            0,
            0,
            0,
        ]
    }

    /// What was stored.
    pub fn of(words: &[u64; STATE_WORDS]) -> Self {
        let [entry, used, used_uppers, centre_bytes, level_seed, code_seed, code_words, rest @ ..] =
            *words;
        let [a, b, c, d, ..] = rest;
        let (low, high) = (|word: u64| word as u32, |word: u64| (word >> 32) as u32);
        GraphState {
            entry,
            used,
            used_uppers,
            centre_bytes,
            level_seed,
            code_seed,
            code_words,
            spread: [
                low(a),
                high(a),
                low(b),
                high(b),
                low(c),
                high(c),
                low(d),
                high(d),
            ],
        }
    }
}

/// The header as it lies behind the block's own.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    version: U32,
    kind: U32,
    generation: U64,
    watermark: U64,
    dim: U32,
    element: u8,
    metric: u8,
    reserved0: [u8; 2],
    parameters: [u8; PARAMETER_BYTES],
    data_blocks: U64,
    state: [U64; STATE_WORDS],
    sections: [RawSection; MAX_SECTIONS],
    batch: U64,
}

const _: () = assert!(core::mem::offset_of!(RawHeader, state) + HEADER_BYTES == 96);
const _: () = assert!(core::mem::size_of::<RawHeader>() + HEADER_BYTES == 488);

impl ImageHeader {
    /// Data blocks of all sections.
    pub fn data_blocks(&self) -> u64 {
        let blocks = self.sections.iter().map(Section::blocks);
        blocks.fold(0, u64::saturating_add)
    }

    /// Blocks of the whole image.
    pub fn blocks(&self) -> u64 {
        let data = self.data_blocks();
        data.saturating_add(data.div_ceil(SUMS)).saturating_add(1)
    }

    /// The section with tag `tag`, and its first data block.
    pub fn section(&self, tag: u32) -> Option<(Section, u64)> {
        let mut first = 0u64;
        for section in &self.sections {
            if section.tag == tag && section.item_bytes != 0 {
                return Some((*section, first));
            }
            first = first.saturating_add(section.blocks());
        }
        None
    }

    /// The checked header in `block`, which is block `block_no` and the first of inode `ino`.
    ///
    /// # Errors
    ///
    /// Those of [`header::verify`]; [`Error::Corrupt`] if it breaks a rule.
    pub fn parse(block: &[u8], block_no: u64, ino: u64, seed: u32, crc: Crc) -> Result<Self> {
        let corrupt = |what| Error::Corrupt {
            block: block_no,
            what,
        };
        header::verify(block_no, MAGIC_INDEX, ino, block, seed, crc)?;
        let raw = block.get(HEADER_BYTES..).unwrap_or(&[]);
        let Ok((raw, _)) = RawHeader::ref_from_prefix(raw) else {
            return Err(corrupt("image: cut short"));
        };
        if raw.version.get() != IMAGE_VERSION {
            return Err(corrupt("image: of another version"));
        }
        let mut image = ImageHeader {
            kind: raw.kind.get(),
            generation: raw.generation.get(),
            watermark: raw.watermark.get(),
            batch: raw.batch.get(),
            dim: raw.dim.get(),
            element: raw.element,
            metric: raw.metric,
            parameters: Parameters::load(&raw.parameters, 0),
            state: [0; STATE_WORDS],
            sections: [Section::default(); MAX_SECTIONS],
        };
        for (to, from) in image.state.iter_mut().zip(&raw.state) {
            *to = from.get();
        }
        for (to, from) in image.sections.iter_mut().zip(&raw.sections) {
            *to = Section {
                tag: from.tag.get(),
                item_bytes: from.item_bytes.get(),
                items: from.items.get(),
            };
            let none = to.item_bytes == 0 && to.items == 0;
            if to.item_bytes as usize > BLOCK_SIZE || (to.item_bytes == 0) != none {
                return Err(corrupt("image: a section has items of no possible size"));
            }
        }
        if raw.data_blocks.get() != image.data_blocks() || image.blocks() >= 1 << 40 {
            return Err(corrupt("image: blocks and sections disagree"));
        }
        Ok(image)
    }

    /// Makes `block` the header, sealed, of an image whose first block is `block_no` of inode `ino`.
    pub fn encode(&self, block: &mut [u8], block_no: u64, ino: u64, seed: u32, crc: Crc) {
        header::init(block, block_no, MAGIC_INDEX, ino);
        let mut raw = RawHeader {
            version: U32::new(IMAGE_VERSION),
            kind: U32::new(self.kind),
            generation: U64::new(self.generation),
            watermark: U64::new(self.watermark),
            dim: U32::new(self.dim),
            element: self.element,
            metric: self.metric,
            reserved0: [0; 2],
            parameters: self.parameters.to_bytes(),
            data_blocks: U64::new(self.data_blocks()),
            state: [U64::new(0); STATE_WORDS],
            sections: core::array::from_fn(|_| RawSection {
                tag: U32::new(0),
                item_bytes: U32::new(0),
                items: U64::new(0),
            }),
            batch: U64::new(self.batch),
        };
        for (to, from) in raw.state.iter_mut().zip(self.state) {
            to.set(from);
        }
        for (to, from) in raw.sections.iter_mut().zip(&self.sections) {
            to.tag.set(from.tag);
            to.item_bytes.set(from.item_bytes);
            to.items.set(from.items);
        }
        put(block, HEADER_BYTES, raw.as_bytes());
        header::seal(block_no, block, seed, crc);
    }
}

/// Where data block `data` is in the image: its logical block.
pub fn data_position(data: u64) -> u64 {
    sums_position(data)
        .saturating_add(1)
        .saturating_add(data % SUMS)
}

/// Where the checksum of data block `data` is: the logical block with those of its group.
pub fn sums_position(data: u64) -> u64 {
    (data / SUMS).saturating_mul(SUMS + 1).saturating_add(1)
}

/// The checksum of a data block that is block `block_no` of the volume.
pub fn data_sum(block_no: u64, data: &[u8], seed: u32, crc: Crc) -> u32 {
    crc(crc(seed, &block_no.to_le_bytes()), data)
}

/// The checksum of data block `data` in the checked block of sums of its group.
pub fn sum_of(sums: &[u8], data: u64) -> u32 {
    let at = SUMS_AT.saturating_add((data % SUMS) as usize * 4);
    u32::from_le_bytes(bytes_at(sums, at))
}

/// Notes the checksum of data block `data` in the block of sums of its group.
pub fn set_sum(sums: &mut [u8], data: u64, sum: u32) {
    let at = SUMS_AT.saturating_add((data % SUMS) as usize * 4);
    put(sums, at, &sum.to_le_bytes());
}
