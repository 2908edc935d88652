// SPDX-License-Identifier: Apache-2.0

//! Whether the indexes of a container are what its records say: images whole, and what is in them sound.
//!
//! An image that is damaged is no loss: the kernel notices it and builds the index again. It is a
//! finding all the same, because nothing but a fault of the device or of VexFS makes one.

mod lists;

use crate::{crc, Device, Image};
use libvexfs::extent::{self, State};
use libvexfs::rows;
use std::sync::atomic::{AtomicU32, Ordering};
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::{self, CheckMemory, Layout, Params, Store, NOWHERE};
use vexfs_format::header::{self, MAGIC_SUMS};
use vexfs_format::index::{
    data_position, data_sum, sum_of, sums_position, GraphState, ImageHeader, IndexRecord,
    KIND_HNSW, KIND_IVF, KIND_LSH, KIND_PQ, SUMS,
};
use vexfs_format::{Inode, BLOCK_SIZE};

/// Checks the image in inode `ino`, which `record` of the container `owner` refers to.
///
/// # Errors
///
/// The first thing that is wrong, in words.
pub fn check_image<D: Device>(
    image: &Image<D>,
    kind: u32,
    record: &IndexRecord,
    disk: &Inode,
    owner: &Inode,
) -> Result<(), String> {
    let mut reader = Reader {
        image,
        ino: record.image_ino,
        disk,
        sums: None,
    };
    let (block, bytes) = reader.block(0)?;
    let header = ImageHeader::parse(&bytes, block, record.image_ino, image.seed, crc)
        .map_err(|e| format!("{e:?}"))?;
    let area = &owner.vector;
    if header.kind != kind || header.generation != record.generation {
        return Err("is not the image that the record means".into());
    }
    if (header.dim, header.element, header.metric) != (area.dim, area.element, area.metric)
        || header.watermark > area.rows
    {
        return Err("is the image of an index over other rows".into());
    }
    // What is read below is no more than that.
    if disk.size != header.blocks() * BLOCK_SIZE as u64
        || header.blocks() > image.geometry.blocks_count
    {
        return Err("has not as many blocks as it says".into());
    }
    for data in 0..header.data_blocks() {
        reader.data(data)?;
    }
    let rows = Rows::of(image, owner, header.watermark)?;
    match kind {
        KIND_HNSW => graph(&mut reader, &header, &rows),
        KIND_IVF | KIND_PQ => lists::lists(&mut reader, &header, &rows),
        KIND_LSH => lists::tables(&mut reader, &header, area, &rows),
        _ => Ok(()),
    }
}

/// A number of blocks, nodes or words of a code.
fn number(n: u64) -> Result<u32, String> {
    u32::try_from(n).map_err(|_| "has a number that is too large".into())
}

/// The rows of a container that an index has, but for those that are deleted. It may have these, too: when they
/// were deleted, the image may have been there, and who loads it leaves them out.
struct Rows {
    /// They are below it.
    watermark: u64,
    /// Those that are deleted, in order.
    deleted: Vec<u64>,
}

impl Rows {
    fn of<D: Device>(image: &Image<D>, owner: &Inode, watermark: u64) -> Result<Rows, String> {
        let area = &owner.vector;
        let mut deleted = Vec::new();
        if area.row_meta_ino != 0 {
            let failed = |e| format!("the container's rows are not known: {e:?}");
            let ino = area.row_meta_ino;
            let tree = image.read_inode(ino).map_err(failed)?.tree_root;
            rows::for_each_from(image, &tree, ino, 0, |row, meta| {
                // A batch that was cut off has deleted nothing.
                let is_deleted = meta.tomb_seq != 0 && meta.tomb_seq <= area.batch_done;
                if row < watermark && is_deleted {
                    deleted.push(row);
                }
                Ok(row < watermark)
            })
            .map_err(failed)?;
        }
        Ok(Rows { watermark, deleted })
    }

    /// That the live ones fit into an index with `room`. The watermark may be any number before that.
    fn fit(&self, room: u64) -> Result<(), String> {
        match self.watermark.saturating_sub(self.deleted.len() as u64) > room {
            true => Err("lacks live rows below its watermark: there is no room for them".into()),
            false => Ok(()),
        }
    }

    /// That an index which has the rows that `has` says yes to has all that are live.
    fn missing(&self, has: impl Fn(u64) -> bool) -> Result<(), String> {
        let mut deleted = self.deleted.iter().copied().peekable();
        let mut missing = (0..self.watermark)
            .filter(|row| deleted.next_if_eq(row).is_none())
            .filter(|row| !has(*row));
        match missing.next() {
            Some(first) => Err(format!(
                "{} live rows below the watermark are missing, the first is {first}",
                1 + missing.count()
            )),
            None => Ok(()),
        }
    }
}

struct Reader<'a, D> {
    image: &'a Image<D>,
    ino: u64,
    disk: &'a Inode,
    sums: Option<(u64, Vec<u8>)>,
}

impl<D: Device> Reader<'_, D> {
    /// Block `logical` of the image: its number on the volume, and its bytes.
    fn block(&self, logical: u64) -> Result<(u64, Vec<u8>), String> {
        let mapping = extent::map(self.image, &self.disk.tree_root, self.ino, logical, 1)
            .map_err(|e| format!("{e:?}"))?;
        if mapping.state != State::Written {
            return Err(format!("block {logical} is a hole"));
        }
        let mut bytes = vec![0; BLOCK_SIZE];
        self.image
            .device()
            .read_block(mapping.physical, &mut bytes)
            .map_err(|e| format!("block {}: {e}", mapping.physical))?;
        Ok((mapping.physical, bytes))
    }

    /// Data block `data`, whose checksum is right.
    fn data(&mut self, data: u64) -> Result<Vec<u8>, String> {
        let group = data / SUMS;
        if self.sums.as_ref().is_none_or(|(of, _)| *of != group) {
            let (block, bytes) = self.block(sums_position(data))?;
            header::verify(block, MAGIC_SUMS, self.ino, &bytes, self.image.seed, crc)
                .map_err(|e| format!("{e:?}"))?;
            self.sums = Some((group, bytes));
        }
        let (block, bytes) = self.block(data_position(data))?;
        let want = self.sums.as_ref().map(|(_, sums)| sum_of(sums, data));
        if want != Some(data_sum(block, &bytes, self.image.seed, crc)) {
            return Err(format!("block {block}: bad checksum"));
        }
        Ok(bytes)
    }

    /// The words of all items of a section.
    fn words(&mut self, header: &ImageHeader, tag: u32) -> Result<Vec<AtomicU32>, String> {
        let (section, first) = header.section(tag).ok_or("lacks a section")?;
        let each = section.item_bytes as usize;
        let mut words = Vec::new();
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
}

/// The memory of a graph that nobody changes.
struct Still {
    layout: Layout,
    nodes: Vec<AtomicU32>,
    uppers: Vec<AtomicU32>,
    places: Vec<AtomicU32>,
}

impl Store for Still {
    type Guard<'a> = ();

    fn node(&self, slot: u32) -> Option<&[AtomicU32]> {
        let each = self.layout.node_words();
        self.nodes.chunks_exact(each).nth(slot as usize)
    }

    fn nodes(&self) -> u32 {
        (self.nodes.len() / self.layout.node_words()) as u32
    }

    fn upper(&self, at: u32) -> Option<&[AtomicU32]> {
        let each = self.layout.upper_words();
        self.uppers.chunks_exact(each).nth(at as usize)
    }

    fn uppers(&self) -> u32 {
        (self.uppers.len() / self.layout.upper_words()) as u32
    }

    fn place(&self, row: u64) -> Option<&AtomicU32> {
        self.places.get(usize::try_from(row).ok()?)
    }

    fn lock(&self, _slot: u32) -> Self::Guard<'_> {}
}

/// Checks the graph of an image.
fn graph<D: Device>(
    reader: &mut Reader<'_, D>,
    header: &ImageHeader,
    rows: &Rows,
) -> Result<(), String> {
    let GraphState {
        entry,
        used,
        used_uppers,
        level_seed,
        code_words,
        spread,
        ..
    } = GraphState::of(&header.state);
    let params = Params {
        m: header.parameters.m,
        ef_construction: header.parameters.ef_construction,
        code_words: number(code_words)?,
        seed: level_seed,
    };
    let layout = params.layout().map_err(|_| "has bad parameters")?;
    let sizes = [
        (1, layout.node_bytes(), used),
        (2, layout.upper_bytes(), used_uppers),
    ];
    for (tag, bytes, items) in sizes {
        let section = header.section(tag).map(|(section, _)| section);
        if section.map(|s| s.item_bytes as usize) != Some(bytes) {
            return Err("has nodes of another size".into());
        }
        if section.is_none_or(|s| s.items < items) {
            return Err("has fewer nodes than it says".into());
        }
    }
    rows.fit(used)?;
    let places = 0..rows.watermark;
    let store = Still {
        layout,
        nodes: reader.words(header, 1)?,
        uppers: reader.words(header, 2)?,
        places: places.map(|_| AtomicU32::new(NOWHERE)).collect(),
    };
    let start = hnsw::Image {
        entry,
        used: number(used)?,
        used_uppers: number(used_uppers)?,
        spread,
    };
    let mut counts = vec![0; start.used as usize];
    let mut upper_counts = vec![0; start.used_uppers as usize];
    let mut queue = vec![0; start.used as usize];
    let mut visited = vec![0; visited_words(start.used)];
    let mut memory = CheckMemory {
        counts: &mut counts,
        upper_counts: &mut upper_counts,
        queue: &mut queue,
        visited: &mut visited,
    };
    let index = hnsw::Index::open(params, store, start, &mut memory)
        .map_err(|report| format!("the graph is not sound: {report:?}"))?;
    let report = index.check(&mut memory);
    if report.faults > 0 || report.unreachable > 0 {
        return Err(format!("the graph is not sound: {report:?}"));
    }
    let place = |row| index.store().place(row);
    rows.missing(|row| place(row).is_some_and(|p| p.load(Ordering::Relaxed) != NOWHERE))
}
