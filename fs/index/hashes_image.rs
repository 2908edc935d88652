// SPDX-License-Identifier: GPL-2.0

//! Hash tables on disk: the heads and blocks of all tables as they are in memory, and the centre of their codes.

use super::catch_up::GoOn;
use super::hashes::Hashes;
use super::hashes_hasher::SEED;
use super::image::{self, Reader as Image, Writer};
use super::lists_codes::Model;
use super::lists_image::{self, pieces, section, BLOCKS, HEADS, HEAD_BYTES};
use super::lists_memory::Memory;
use super::{Stamp, Structure};
use crate::container;
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::index::KIND_LSH;
use vexfs_ann::ivf;
use vexfs_ann::ivf::params::LIST_WORDS;
use vexfs_ann::lsh::Params;
use vexfs_vfs::Inode;

/// A section beside those of lists: how many blocks each table uses, and its first free one.
const TABLES: u32 = 3;
const TABLE_BYTES: usize = 8;
/// And the centre of codes.
const CENTRE: u32 = 4;

/// Words of state.
const SCALE: usize = 0;
const STATE_SEED: usize = 1;

/// Writes the image of tables that nobody changes meanwhile; returns its inode.
pub(super) fn save(
    hashes: &Hashes,
    inode: &Inode<VexFs>,
    stamp: Stamp,
    watermark: u64,
    go_on: GoOn<'_>,
) -> Result<u64> {
    let area = container::with(inode, |c| Ok(c.area))?;
    let scale = hashes.hasher.scale().ok_or(ENOENT)?;
    let model = hashes.hasher.model.as_ref().ok_or(ENOENT)?;
    hashes.tables.read(|tables| {
        let first = tables.first().ok_or(EIO)?;
        let heads = (first.params().list_words() / LIST_WORDS) as u64;
        let (piece, each) = pieces(first.layout());
        let count = tables.len() as u64;
        let used = tables.iter().map(|table| u64::from(table.image().used));
        let used = used.fold(0, u64::saturating_add);
        let sections = [
            section(TABLES, TABLE_BYTES, count),
            section(HEADS, HEAD_BYTES, heads.saturating_mul(count)),
            section(BLOCKS, piece, used.saturating_mul(each)),
            lists_image::bytes_section(CENTRE, &model.centroids),
        ];
        let mut header = image::header(KIND_LSH, &area, hashes.parameters(), &sections);
        header.generation = stamp.generation;
        header.batch = stamp.batch;
        header.watermark = watermark;
        let state = [u64::from(scale), hashes.hasher.params.seed];
        for (to, from) in header.state.iter_mut().zip(state) {
            *to = from;
        }
        let mut writer = Writer::new(inode, &header, go_on)?;
        for table in tables {
            let ivf::Image { used, free } = table.image();
            let mut bytes = [0; TABLE_BYTES];
            let both = u64::from(used) | u64::from(free) << 32;
            libvexfs::format::copy(&mut bytes, &both.to_le_bytes());
            writer.bytes(&bytes)?;
        }
        writer.end_section()?;
        for table in tables {
            lists_image::write_heads(&mut writer, table)?;
        }
        writer.end_section()?;
        for table in tables {
            lists_image::write_blocks(&mut writer, table)?;
        }
        writer.end_section()?;
        lists_image::write_bytes(&mut writer, &model.centroids)?;
        writer.finish(&header)
    })
}

/// The factor of projections of an image.
pub(super) fn scale(image: &Image<'_>) -> Result<u32> {
    let state = |at: usize| image.header.state.get(at).copied().unwrap_or(0);
    if state(STATE_SEED) != SEED {
        return Err(image.corrupt("has hashes of another kind"));
    }
    u32::try_from(state(SCALE)).map_err(|_| image.corrupt("has a factor that is none"))
}

/// Reads the tables of an image into `memories`, which are empty, and the centre. `rows` has a bit, 0, for each row below the
/// watermark; those that are in all tables get set.
pub(super) fn read(
    image: &mut Image<'_>,
    params: &Params,
    memories: KVec<Memory>,
    rows: &mut [u64],
) -> Result<(KVec<ivf::Index<Memory>>, Model)> {
    let table = params.table().map_err(|_| EINVAL)?;
    let mut starts = KVec::with_capacity(memories.len(), GFP_KERNEL)?;
    image.items(TABLES, TABLE_BYTES, |_, bytes| {
        let mut both = [0; TABLE_BYTES];
        libvexfs::format::copy(&mut both, bytes);
        let both = u64::from_le_bytes(both);
        let start = ivf::Image {
            used: both as u32,
            free: (both >> 32) as u32,
        };
        starts.push_within_capacity(start).map_err(|_| EINVAL)
    })?;
    // No more than there are in the image is asked for.
    let (_, each) = pieces(&table.layout().map_err(|_| EINVAL)?);
    let blocks = image.header.section(BLOCKS).map_or(0, |(s, _)| s.items);
    let used = starts.iter().map(|start| u64::from(start.used));
    let used = used.fold(0, u64::saturating_add);
    if starts.len() != memories.len() || used.saturating_mul(each) != blocks {
        return Err(image.corrupt("has more or fewer tables or blocks than it says"));
    }
    let mut tables = KVec::with_capacity(memories.len(), GFP_KERNEL)?;
    for (memory, start) in memories.into_iter().zip(starts) {
        memory.grow(start.used)?;
        tables
            .push_within_capacity((memory, start))
            .map_err(|_| ENOMEM)?;
    }
    lists_image::read_words(image, &table, &tables)?;
    let mut model = Model::empty(&table)?;
    model.centroids = lists_image::read_bytes(image, CENTRE, model.centroids.len())?;
    let mut open = KVec::with_capacity(tables.len(), GFP_KERNEL_ACCOUNT)?;
    let mut there = KVVec::from_elem(0u64, rows.len(), GFP_KERNEL | __GFP_NOWARN)?;
    rows.fill(u64::MAX);
    for (memory, start) in tables {
        there.fill(0);
        let index = lists_image::open(image, &table, memory, start, &mut there)?;
        open.push_within_capacity(index).map_err(|_| ENOMEM)?;
        for (all, there) in rows.iter_mut().zip(&there) {
            *all &= *there;
        }
    }
    let rows_in = |table: &ivf::Index<Memory>| table.counts().live;
    let here = rows.iter().map(|word| word.count_ones());
    let here = here.fold(0, u32::saturating_add);
    if open.iter().any(|table| rows_in(table) != here) {
        return Err(image.corrupt("has tables of different rows"));
    }
    Ok((open, model))
}
