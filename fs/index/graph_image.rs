// SPDX-License-Identifier: GPL-2.0

//! A graph on disk: its nodes and upper blocks as they are in memory, and what its codes are around.

use super::catch_up::GoOn;
use super::codes;
use super::graph::{self, Graph};
use super::graph_memory::Memory;
use super::image::{self, load_words, Reader as Image, Writer};
use super::{Stamp, Structure};
use crate::container;
use crate::VexFs;
use core::sync::atomic::AtomicU32;
use kernel::prelude::*;
use libvexfs::format::index::{GraphState, Section, KIND_HNSW};
use libvexfs::format::BLOCK_SIZE;
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::{self, CheckMemory, Layout, Params, Store};
use vexfs_vfs::Inode;

/// Sections.
const NODES: u32 = 1;
const UPPERS: u32 = 2;
const CENTRE: u32 = 3;

/// Writes the image of a graph that nobody changes meanwhile; returns its inode. Not inlined: repairing the graph before wants
/// the stack.
#[inline(never)]
pub(super) fn save(
    graph: &Graph,
    inode: &Inode<VexFs>,
    stamp: Stamp,
    watermark: u64,
    go_on: GoOn<'_>,
) -> Result<u64> {
    let area = container::with(inode, |c| Ok(c.area))?;
    let image = graph.graph.image();
    let layout = graph.graph.layout();
    let centre = graph.codec.centre();
    let nodes = nodes_section(layout, image.used);
    let centres = centre.len().div_ceil(BLOCK_SIZE) as u64;
    let sections = [
        nodes,
        Section::of(UPPERS, layout.upper_bytes(), image.used_uppers.into()),
        Section::of(CENTRE, BLOCK_SIZE, centres),
    ];
    let mut header = image::header(KIND_HNSW, &area, graph.parameters(), &sections);
    header.generation = stamp.generation;
    header.batch = stamp.batch;
    header.watermark = watermark;
    let params = graph.graph.params();
    let state = GraphState {
        entry: image.entry,
        used: u64::from(image.used),
        used_uppers: u64::from(image.used_uppers),
        centre_bytes: centre.len() as u64,
        level_seed: params.seed,
        code_seed: codes::SEED,
        code_words: u64::from(params.code_words),
        spread: image.spread,
    };
    header.state = state.words();
    let mut writer = Writer::new(inode, &header, go_on)?;
    let store = graph.graph.store();
    let piece = (nodes.item_bytes as usize / 4).max(1);
    for slot in 0..image.used {
        let node = store.node(slot).ok_or(EIO)?;
        for words in node.chunks(piece) {
            writer.words(words)?;
        }
    }
    writer.end_section()?;
    for at in 0..image.used_uppers {
        writer.words(store.upper(at).ok_or(EIO)?)?;
    }
    writer.end_section()?;
    for piece in centre.chunks(BLOCK_SIZE) {
        writer.bytes(piece)?;
        writer.end_section()?;
    }
    writer.finish(&header)
}

fn nodes_section(layout: &Layout, used: u32) -> Section {
    Section::of(NODES, layout.node_bytes(), used.into())
}

/// What the codes of an image are around: nothing, or a vector of `row` bytes.
pub(super) fn read_centre(image: &mut Image<'_>, row: usize) -> Result<KVVec<u8>> {
    let GraphState {
        centre_bytes: bytes,
        level_seed,
        code_seed,
        ..
    } = GraphState::of(&image.header.state);
    let fits = bytes == 0 || bytes == row as u64;
    if !fits || (level_seed, code_seed) != (graph::SEED, codes::SEED) {
        return Err(image.corrupt("has codes of another kind"));
    }
    let mut centre = KVVec::with_capacity(row, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
    let bytes = usize::try_from(bytes)?;
    image.items(CENTRE, BLOCK_SIZE, |_, piece| {
        let left = bytes.saturating_sub(centre.len()).min(piece.len());
        let piece = piece.get(..left).ok_or(EINVAL)?;
        Ok(centre.extend_from_slice(piece, GFP_KERNEL_ACCOUNT)?)
    })?;
    if centre.len() != bytes {
        return Err(image.corrupt("has a centre that is cut short"));
    }
    Ok(centre)
}

/// Reads the graph of an image into `memory`, which is empty, with places for `rows` rows.
pub(super) fn read(
    image: &mut Image<'_>,
    params: Params,
    memory: Memory,
    rows: u64,
) -> Result<hnsw::Index<Memory>> {
    let GraphState {
        entry,
        used,
        used_uppers,
        code_words: words,
        spread,
        ..
    } = GraphState::of(&image.header.state);
    let layout = params.layout().map_err(|_| EOPNOTSUPP)?;
    let items = |tag| image.header.section(tag).map_or(0, |(s, _)| s.items);
    let counts = (u32::try_from(used), u32::try_from(used_uppers));
    let (Ok(used), Ok(used_uppers)) = counts else {
        return Err(image.corrupt("has more nodes than a graph holds"));
    };
    let sizes = (items(NODES), items(UPPERS), words);
    let nodes = nodes_section(&layout, used);
    let expected = (
        nodes.items,
        u64::from(used_uppers),
        u64::from(params.code_words),
    );
    if sizes != expected {
        return Err(image.corrupt("has more or fewer nodes than it says"));
    }
    memory.grow(used, rows)?;
    if memory.uppers() < used_uppers {
        return Err(image.corrupt("has more upper blocks than its nodes can have"));
    }
    let store = |part: Option<&[AtomicU32]>, bytes: &[u8]| {
        load_words(part.ok_or(EIO)?, bytes);
        Ok(())
    };
    let piece = nodes.item_bytes as usize;
    let pieces = layout.node_bytes().checked_div(piece).unwrap_or(1) as u64;
    image.items(NODES, piece, |item, bytes| {
        let slot = u32::try_from(item.checked_div(pieces).unwrap_or(0))?;
        let part = usize::try_from(item.checked_rem(pieces).unwrap_or(0))?;
        let from = part.saturating_mul(piece / 4);
        store(memory.node(slot).and_then(|node| node.get(from..)), bytes)
    })?;
    image.items(UPPERS, layout.upper_bytes(), |at, bytes| {
        store(memory.upper(u32::try_from(at)?), bytes)
    })?;
    let mut counts = KVVec::from_elem(0u32, used as usize, GFP_KERNEL | __GFP_NOWARN)?;
    let mut upper_counts = KVVec::from_elem(0u32, used_uppers as usize, GFP_KERNEL | __GFP_NOWARN)?;
    let mut queue = KVVec::from_elem(0u32, used as usize, GFP_KERNEL | __GFP_NOWARN)?;
    let mut visited = KVVec::from_elem(0u64, visited_words(used), GFP_KERNEL | __GFP_NOWARN)?;
    let mut check = CheckMemory {
        counts: &mut counts,
        upper_counts: &mut upper_counts,
        queue: &mut queue,
        visited: &mut visited,
    };
    let start = hnsw::Image {
        entry,
        used,
        used_uppers,
        spread,
    };
    hnsw::Index::open(params, memory, start, &mut check)
        .map_err(|_| image.corrupt("has a graph that breaks its rules"))
}
