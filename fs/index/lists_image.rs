// SPDX-License-Identifier: GPL-2.0

//! Inverted lists on disk: heads and blocks as they are in memory, centroids and codebooks.

use super::catch_up::GoOn;
use super::image::{self, load_words, Reader as Image, Writer};
use super::lists::{Lists, SEED};
use super::lists_codes::Model;
use super::lists_memory::Memory;
use super::{Stamp, Structure};
use crate::container;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::index::Section;
use libvexfs::format::BLOCK_SIZE;
use vexfs_ann::ivf::params::LIST_WORDS;
use vexfs_ann::ivf::{self, CheckMemory, Layout, Params, Store};
use vexfs_vfs::array::Array;
use vexfs_vfs::Inode;

/// Sections.
pub(super) const HEADS: u32 = 1;
pub(super) const BLOCKS: u32 = 2;
const CENTROIDS: u32 = 3;
const CODEBOOKS: u32 = 4;

/// Words of state.
const USED: usize = 0;
const FREE: usize = 1;
const STATE_SEED: usize = 2;
const LEARNT_FROM: usize = 3;

/// Bytes of a list's head.
pub(super) const HEAD_BYTES: usize = 4 * LIST_WORDS;

/// Blocks of lists that are larger than a block of the volume are cut into pieces of that size: bytes of a
/// piece, and how many there are.
pub(super) fn pieces(layout: &Layout) -> (usize, u64) {
    let bytes = (layout.block_words as usize).saturating_mul(4);
    (bytes.min(BLOCK_SIZE), bytes.div_ceil(BLOCK_SIZE) as u64)
}

pub(super) fn section(tag: u32, item_bytes: usize, items: u64) -> Section {
    Section {
        tag,
        // At most a block's.
        item_bytes: item_bytes as u32,
        items,
    }
}

/// A section for an array of bytes.
pub(super) fn bytes_section(tag: u32, bytes: &[u8]) -> Section {
    section(tag, BLOCK_SIZE, bytes.len().div_ceil(BLOCK_SIZE) as u64)
}

/// Writes an array of bytes, a section of its own.
pub(super) fn write_bytes(writer: &mut Writer<'_>, bytes: &[u8]) -> Result {
    for piece in bytes.chunks(BLOCK_SIZE) {
        writer.bytes(piece)?;
        writer.end_section()?;
    }
    Ok(())
}

/// Writes the lists of `index`, after the sections of others before it.
pub(super) fn write_heads(writer: &mut Writer<'_>, index: &ivf::Index<Memory>) -> Result {
    for head in index.store().lists().chunks(LIST_WORDS) {
        writer.words(head)?;
    }
    Ok(())
}

/// Writes the blocks of `index`.
pub(super) fn write_blocks(writer: &mut Writer<'_>, index: &ivf::Index<Memory>) -> Result {
    for block in 0..index.image().used {
        let words = index.store().run(block, 1).ok_or(EIO)?;
        for piece in words.chunks(BLOCK_SIZE / 4) {
            writer.words(piece)?;
            if words.len() > BLOCK_SIZE / 4 {
                writer.end_section()?;
            }
        }
    }
    Ok(())
}

/// Writes the image of lists that nobody changes meanwhile; returns its inode.
pub(super) fn save(
    lists: &Lists,
    inode: &Inode<VexFs>,
    stamp: Stamp,
    watermark: u64,
    go_on: GoOn<'_>,
) -> Result<u64> {
    let area = container::with(inode, |c| Ok(c.area))?;
    let model = lists.model.as_ref().ok_or(ENOENT)?;
    lists.index.read(|index| {
        let start = index.image();
        let params = index.params();
        let heads = (params.list_words() / LIST_WORDS) as u64;
        let (piece, each) = pieces(index.layout());
        let sections = [
            section(HEADS, HEAD_BYTES, heads),
            section(BLOCKS, piece, u64::from(start.used).saturating_mul(each)),
            bytes_section(CENTROIDS, &model.centroids),
            bytes_section(CODEBOOKS, &model.codebooks),
        ];
        let kind = lists.kind.number();
        let mut header = image::header(kind, &area, lists.parameters(), &sections);
        header.generation = stamp.generation;
        header.batch = stamp.batch;
        header.watermark = watermark;
        let state = [
            u64::from(start.used),
            u64::from(start.free),
            params.seed,
            lists.learnt_from,
        ];
        for (to, from) in header.state.iter_mut().zip(state) {
            *to = from;
        }
        let mut writer = Writer::new(inode, &header, go_on)?;
        write_heads(&mut writer, index)?;
        writer.end_section()?;
        write_blocks(&mut writer, index)?;
        writer.end_section()?;
        write_bytes(&mut writer, &model.centroids)?;
        write_bytes(&mut writer, &model.codebooks)?;
        writer.finish(&header)
    })
}

/// How many rows the lists of an image have learnt from; 0 if it does not say.
pub(super) fn learnt_from(image: &Image<'_>) -> u64 {
    image.header.state.get(LEARNT_FROM).copied().unwrap_or(0)
}

/// Reads the words of `heads` lists and of `used` blocks of an image into `memories`, which are empty and have room
/// for them, one after the other.
pub(super) fn read_words(
    image: &mut Image<'_>,
    params: &Params,
    memories: &[(Memory, ivf::Image)],
) -> Result {
    let layout = params.layout().map_err(|_| EOPNOTSUPP)?;
    let (piece, each) = pieces(&layout);
    let heads = (params.list_words() / LIST_WORDS) as u64;
    let items = |tag| image.header.section(tag).map_or(0, |(s, _)| s.items);
    let used = memories.iter().map(|(_, start)| u64::from(start.used));
    let used = used.fold(0, u64::saturating_add);
    let expected = (
        heads.saturating_mul(memories.len() as u64),
        used.saturating_mul(each),
    );
    if (items(HEADS), items(BLOCKS)) != expected {
        return Err(image.corrupt("has more or fewer lists than it says"));
    }
    image.items(HEADS, HEAD_BYTES, |item, bytes| {
        let memory = usize::try_from(item.checked_div(heads).unwrap_or(0))?;
        let head = usize::try_from(item.checked_rem(heads).unwrap_or(0))?;
        let (memory, _) = memories.get(memory).ok_or(EIO)?;
        let words = memory.lists().get(head.saturating_mul(LIST_WORDS)..);
        load_words(words.ok_or(EIO)?, bytes);
        Ok(())
    })?;
    let mut of = memories.iter();
    let (mut memory, mut block, mut part) = (of.next(), 0u32, 0u64);
    image.items(BLOCKS, piece, |_, bytes| {
        while memory.is_some_and(|(_, start)| block == start.used) {
            (memory, block) = (of.next(), 0);
        }
        let (store, _) = memory.ok_or(EIO)?;
        let words = store.run(block, 1).ok_or(EIO)?;
        let from = usize::try_from(part)?.saturating_mul(BLOCK_SIZE / 4);
        load_words(words.get(from..).ok_or(EIO)?, bytes);
        part = part.saturating_add(1);
        if part == each {
            (block, part) = (block.saturating_add(1), 0);
        }
        Ok(())
    })
}

/// Verifies the words that were read; sets the bits in `rows` of the rows that are there.
pub(super) fn open(
    image: &Image<'_>,
    params: &Params,
    memory: Memory,
    start: ivf::Image,
    rows: &mut [u64],
) -> Result<ivf::Index<Memory>> {
    let words = start.used.div_ceil(64) as usize;
    let mut blocks = KVVec::from_elem(0u64, words, GFP_KERNEL | __GFP_NOWARN)?;
    let twice = if params.copies > 1 { 2 * rows.len() } else { 0 };
    let mut again = KVVec::from_elem(0u64, twice, GFP_KERNEL | __GFP_NOWARN)?;
    let mut check = CheckMemory {
        blocks: &mut blocks,
        rows,
        again: &mut again,
    };
    ivf::Index::open(*params, memory, start, image.header.watermark, &mut check)
        .map_err(|_| image.corrupt("has lists that break their rules"))
}

/// Reads the lists of an image into `memory`, which is empty, and what training made. `rows` has a bit, 0, for each
/// row below the watermark.
pub(super) fn read(
    image: &mut Image<'_>,
    params: &Params,
    memory: Memory,
    rows: &mut [u64],
) -> Result<(ivf::Index<Memory>, Model)> {
    let state = |at: usize| image.header.state.get(at).copied().unwrap_or(0);
    let start = (u32::try_from(state(USED)), u32::try_from(state(FREE)));
    let (Ok(used), Ok(free)) = start else {
        return Err(image.corrupt("has more blocks than lists have"));
    };
    if state(STATE_SEED) != SEED {
        return Err(image.corrupt("has codes of another kind"));
    }
    // No more than there are in the image is asked for.
    let each = pieces(&params.layout().map_err(|_| EOPNOTSUPP)?).1;
    let blocks = image.header.section(BLOCKS).map_or(0, |(s, _)| s.items);
    if u64::from(used).saturating_mul(each) != blocks {
        return Err(image.corrupt("has more or fewer blocks than it says"));
    }
    memory.grow(used)?;
    let memories = [(memory, ivf::Image { used, free })];
    read_words(image, params, &memories)?;
    let model = Model {
        centroids: read_bytes(image, CENTROIDS, params.centroid_bytes())?,
        codebooks: read_bytes(image, CODEBOOKS, params.codebook_bytes())?,
    };
    let [(memory, start)] = memories;
    let index = open(image, params, memory, start, rows)?;
    Ok((index, model))
}

/// Reads an array of bytes that is a section of its own.
pub(super) fn read_bytes(image: &mut Image<'_>, tag: u32, len: usize) -> Result<Array<u8>> {
    let items = image.header.section(tag).map_or(0, |(s, _)| s.items);
    if items != len.div_ceil(BLOCK_SIZE) as u64 {
        return Err(image.corrupt("has centroids or codebooks that are cut short"));
    }
    let mut out = Array::zeros(len)?;
    image.items(tag, BLOCK_SIZE, |item, bytes| {
        let at = usize::try_from(item)?.saturating_mul(BLOCK_SIZE);
        let out = out.get_mut(at..).ok_or(EIO)?;
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(())
    })?;
    Ok(out)
}
