// SPDX-License-Identifier: Apache-2.0

//! Whether the indexes of a container are what its records say: images whole, what is in them sound, and the codes in
//! them those of the container's rows.
//!
//! An image that is damaged is no loss: the kernel notices it and builds the index again. It is a
//! finding all the same, because nothing but a fault of the device or of VexFS makes one.
//!
//! - this file: images as the format has them
//! - `graph.rs`, `lists.rs`: opened as the kernel opens them, with the code of `ann/`
//! - `codes.rs`: rows, and what becomes of them, with the code of `simd/`

mod codes;
mod graph;
mod lists;

use crate::check::{words, Stopped, Watch};
use crate::{crc, Device, Image};
use libvexfs::extent::{self, State};
use libvexfs::rows;
use std::sync::atomic::AtomicU32;
use vexfs_format::header::{self, MAGIC_SUMS};
use vexfs_format::index::{
    data_position, data_sum, sum_of, sums_position, ImageHeader, IndexRecord, KIND_HNSW, KIND_IVF,
    KIND_LSH, KIND_PQ, RECORD_STALE, SUMS,
};
use vexfs_format::{Inode, BLOCK_SIZE};
use vexfs_uapi::Findings;

/// An index to look at.
pub struct Index<'a> {
    /// `KIND_*` of the format.
    pub kind: u32,
    /// The record of the container, which refers to an image.
    pub record: &'a IndexRecord,
    /// The inode of the image.
    pub disk: &'a Inode,
    /// The container.
    pub owner_ino: u64,
    /// Its inode.
    pub owner: &'a Inode,
}

/// The name of a kind of index, as `vexfs index` has it.
pub fn name(kind: u32) -> &'static str {
    match kind {
        KIND_HNSW => "hnsw",
        KIND_IVF => "ivf",
        KIND_PQ => "pq",
        KIND_LSH => "lsh",
        _ => "unknown",
    }
}

/// Why a look at an index came to an end.
#[derive(Debug)]
enum Fail {
    /// Whoever watches wants no more.
    Stopped,
    /// It can't be gone on, in words.
    Wrong(String),
}

impl From<String> for Fail {
    fn from(words: String) -> Fail {
        Fail::Wrong(words)
    }
}

impl From<&str> for Fail {
    fn from(words: &str) -> Fail {
        Fail::Wrong(words.into())
    }
}

/// What has been found of an index.
#[derive(Default)]
struct Seen {
    findings: Findings,
    wrong: Vec<String>,
}

/// Checks an index and its image: what is wrong, in numbers and in words.
///
/// # Errors
///
/// [`Stopped`] if `watch` says so.
pub fn check_image<D: Device>(
    image: &Image<D>,
    index: &Index<'_>,
    watch: &mut dyn Watch,
) -> Result<(Findings, Vec<String>), Stopped> {
    let mut reader = Reader {
        image,
        ino: index.record.image_ino,
        disk: index.disk,
        sums: None,
        watch,
    };
    let mut seen = Seen::default();
    let header = reader.whole(index);
    let failed = match &header {
        Ok((header, rows)) => {
            let result = structure(&mut reader, index, header, rows, &mut seen);
            seen.findings.faults += u64::from(result.is_err() && seen.findings.faults == 0);
            result.err()
        }
        Err(_) => {
            seen.findings.bad_image = true;
            header.err()
        }
    };
    match failed {
        Some(Fail::Stopped) => return Err(Stopped),
        Some(Fail::Wrong(what)) => seen.wrong.push(what),
        None => {}
    }
    Ok((seen.findings, seen.wrong))
}

/// Checks what is in an image whose blocks are whole.
fn structure<D: Device>(
    reader: &mut Reader<'_, D>,
    index: &Index<'_>,
    header: &ImageHeader,
    rows: &Rows,
    seen: &mut Seen,
) -> Result<(), Fail> {
    seen.findings.rows = header.watermark;
    // Rows that were overwritten since have other codes: the kernel does not use the image.
    let mut vectors = match index.record.flags & RECORD_STALE {
        0 => Some(codes::Vectors::new(
            reader.image,
            index.owner_ino,
            index.owner,
        )?),
        _ => None,
    };
    match index.kind {
        KIND_HNSW => graph::check(reader, header, rows, vectors.as_mut(), seen),
        KIND_IVF | KIND_PQ => lists::lists(reader, header, rows, vectors.as_mut(), seen),
        KIND_LSH => lists::tables(reader, header, index.owner, rows, vectors.as_mut(), seen),
        _ => Ok(()),
    }
}

impl Seen {
    /// Says how many codes of live rows were found to be wrong.
    fn codes(&mut self, wrong: u64, first: Option<u64>) {
        self.findings.wrong_codes += wrong;
        if let Some(first) = first {
            self.wrong.push(format!(
                "{wrong} rows have not the code of their vector, the first is {first}"
            ));
        }
    }
}

/// A number of blocks, nodes or words of a code.
fn number(n: u64) -> Result<u32, Fail> {
    u32::try_from(n).map_err(|_| "has a number that is too large".into())
}

/// The rows of a container that an index has, but for those that are deleted. It may have these, too: when they
/// were deleted, the image may have been there, and who loads it leaves them out, and takes in those that took their
/// place since.
struct Rows {
    /// They are below it.
    watermark: u64,
    /// Those that are deleted, or other rows than when the image was written, in order.
    deleted: Vec<u64>,
}

impl Rows {
    fn of<D: Device>(image: &Image<D>, owner: &Inode, header: &ImageHeader) -> Result<Rows, Fail> {
        let watermark = header.watermark;
        let area = &owner.vector;
        let mut deleted = Vec::new();
        if area.row_meta_ino != 0 {
            let failed = |e| format!("the container's rows are not known: {}", words(e));
            let ino = area.row_meta_ino;
            let tree = image.read_inode(ino).map_err(failed)?.tree_root;
            rows::for_each_from(image, &tree, ino, 0, |row, meta| {
                // A batch that was cut off has deleted nothing.
                let is_other = meta.born_seq > header.batch;
                if row < watermark && (is_other || meta.is_deleted(area.batch_done)) {
                    deleted.push(row);
                }
                Ok(row < watermark)
            })
            .map_err(failed)?;
        }
        Ok(Rows { watermark, deleted })
    }

    /// That the live ones fit into an index with `room`. The watermark may be any number before that.
    fn fit(&self, room: u64) -> Result<(), Fail> {
        match self.watermark.saturating_sub(self.deleted.len() as u64) > room {
            true => Err("lacks live rows below its watermark: there is no room for them".into()),
            false => Ok(()),
        }
    }

    /// Those that are live.
    fn live(&self) -> impl Iterator<Item = u64> + '_ {
        let mut deleted = self.deleted.iter().copied().peekable();
        (0..self.watermark).filter(move |row| deleted.next_if_eq(row).is_none())
    }

    /// That an index which has the rows that `has` says yes to has all that are live.
    fn missing(&self, has: impl Fn(u64) -> bool, seen: &mut Seen) {
        let mut missing = self.live().filter(|row| !has(*row));
        if let Some(first) = missing.next() {
            let count = 1 + missing.count() as u64;
            seen.findings.wrong_rows += count;
            seen.wrong.push(format!(
                "{count} live rows below the watermark are missing, the first is {first}"
            ));
        }
    }
}

struct Reader<'a, D> {
    image: &'a Image<D>,
    ino: u64,
    disk: &'a Inode,
    sums: Option<(u64, Vec<u8>)>,
    watch: &'a mut dyn Watch,
}

/// Blocks or rows between two looks at whether to go on.
const STEP: u64 = 1024;

impl<D: Device> Reader<'_, D> {
    /// Says that `done` of `all` are done.
    fn step(&mut self, what: &'static str, done: u64, all: u64) -> Result<(), Fail> {
        match !done.is_multiple_of(STEP) || self.watch.step(what, done, all) {
            true => Ok(()),
            false => Err(Fail::Stopped),
        }
    }

    /// The header of an image all of whose blocks have the right checksum, and which is that of the record; and the
    /// rows that it is of.
    fn whole(&mut self, index: &Index<'_>) -> Result<(ImageHeader, Rows), Fail> {
        let (block, bytes) = self.block(0)?;
        let header = ImageHeader::parse(&bytes, block, self.ino, self.image.seed, crc)
            .map_err(|e| words(e.into()))?;
        let area = &index.owner.vector;
        let record = index.record;
        if header.kind != index.kind || header.generation != record.generation {
            return Err("is not the image that the record means".into());
        }
        if (header.dim, header.element, header.metric) != (area.dim, area.element, area.metric)
            || header.watermark > area.rows
        {
            return Err("is the image of an index over other rows".into());
        }
        // What is read below is no more than that.
        if self.disk.size != header.blocks() * BLOCK_SIZE as u64
            || header.blocks() > self.image.geometry.blocks_count
        {
            return Err("has not as many blocks as it says".into());
        }
        let all = header.data_blocks();
        for data in 0..all {
            self.step("blocks of an index", data, all)?;
            self.data(data)?;
        }
        let rows = Rows::of(self.image, index.owner, &header)?;
        Ok((header, rows))
    }

    /// Block `logical` of the image: its number on the volume, and its bytes.
    fn block(&self, logical: u64) -> Result<(u64, Vec<u8>), Fail> {
        let mapping =
            extent::map(self.image, &self.disk.tree_root, self.ino, logical, 1).map_err(words)?;
        if mapping.state != State::Written {
            return Err(format!("block {logical} is a hole").into());
        }
        let mut bytes = vec![0; BLOCK_SIZE];
        self.image
            .device()
            .read_block(mapping.physical, &mut bytes)
            .map_err(|e| format!("block {}: {e}", mapping.physical))?;
        Ok((mapping.physical, bytes))
    }

    /// Data block `data`, whose checksum is right.
    fn data(&mut self, data: u64) -> Result<Vec<u8>, Fail> {
        let group = data / SUMS;
        if self.sums.as_ref().is_none_or(|(of, _)| *of != group) {
            let (block, bytes) = self.block(sums_position(data))?;
            header::verify(block, MAGIC_SUMS, self.ino, &bytes, self.image.seed, crc)
                .map_err(|e| words(e.into()))?;
            self.sums = Some((group, bytes));
        }
        let (block, bytes) = self.block(data_position(data))?;
        let want = self.sums.as_ref().map(|(_, sums)| sum_of(sums, data));
        if want != Some(data_sum(block, &bytes, self.image.seed, crc)) {
            return Err(format!("block {block}: bad checksum").into());
        }
        Ok(bytes)
    }

    /// The words of all items of a section.
    fn words(&mut self, header: &ImageHeader, tag: u32) -> Result<Vec<AtomicU32>, Fail> {
        let (section, first) = header.section(tag).ok_or("lacks a section")?;
        let each = section.item_bytes as usize;
        let mut words = Vec::new();
        // The section is no larger than the volume.
        let count = section.items as usize * (each / 4);
        words
            .try_reserve_exact(count)
            .map_err(|_| "does not fit into memory, and was not looked at")?;
        let mut left = section.items;
        for data in first..first + section.blocks() {
            let items = left.min(section.items_per_block());
            left -= items;
            for word in self.data(data)?[..items as usize * each].chunks_exact(4) {
                let word = u32::from_le_bytes(word.try_into().map_err(|_| "odd words")?);
                words.push(AtomicU32::new(word));
            }
        }
        Ok(words)
    }

    /// An array of `len` bytes that is a section of its own; whole blocks.
    fn bytes(&mut self, header: &ImageHeader, tag: u32, len: usize) -> Result<Vec<u8>, Fail> {
        let (section, first) = match header.section(tag) {
            Some(found) => found,
            None if len == 0 => return Ok(Vec::new()),
            None => return Err("lacks a section".into()),
        };
        if section.item_bytes as usize != BLOCK_SIZE
            || section.blocks() != len.div_ceil(BLOCK_SIZE) as u64
        {
            return Err("has an array that is cut short".into());
        }
        let mut bytes = Vec::new();
        for data in first..first + section.blocks() {
            bytes.extend(self.data(data)?);
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}
