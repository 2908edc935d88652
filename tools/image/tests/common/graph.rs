// SPDX-License-Identifier: Apache-2.0

//! A graph of real rows, with the codes that the kernel gives them.

#![allow(dead_code)]

#[path = "../../../../ann/tests/common/mod.rs"]
mod points;

use super::saved::{bytes, Saved};
use super::Random;
use points::{Memory, Scratch};
use std::sync::atomic::AtomicU32;
use vexfs_ann::hnsw::{Index, Numeric, Params};
use vexfs_format::index::{GraphState, Parameters, Section, KIND_HNSW};
use vexfs_format::BLOCK_SIZE;
use vexfs_simd_host::{score_list, token, BadShape, Elem, GraphCode, GraphKind, Isa, Metric};

/// Rows of the container; the graph has those below the watermark, but not row 40 any more.
pub const ROWS: u64 = 300;
pub const WATERMARK: u64 = 290;
pub const DELETED: [u64; 2] = [40, 41];
pub const DIM: usize = 64;

/// Arithmetic on rows, as the kernel's.
struct Codes<'a> {
    code: GraphCode,
    centre: &'a [u8],
    rows: &'a [Vec<u8>],
    row: &'a [u8],
    vector: Vec<u32>,
    query: Vec<u32>,
}

impl<'a> Codes<'a> {
    fn new(code: GraphCode, centre: &'a [u8], rows: &'a [Vec<u8>], row: usize) -> Self {
        let (mut vector, mut query) = (vec![0; code.vector_words()], vec![0; code.query_words()]);
        let row = rows[row].as_slice();
        code.prepare(
            &token(),
            Isa::best(),
            1,
            centre,
            row,
            &mut vector,
            &mut query,
        )
        .unwrap();
        Codes {
            code,
            centre,
            rows,
            row,
            vector,
            query,
        }
    }
}

impl Numeric for Codes<'_> {
    type Error = BadShape;

    fn encode(&mut self, code: &mut [u32]) -> Result<(), BadShape> {
        self.code
            .encode(&token(), Isa::best(), &self.vector, &self.query, code)
    }

    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result<(), BadShape> {
        self.code
            .score(&token(), Isa::best(), &self.query, nodes, out)
    }

    fn between(
        &mut self,
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), BadShape> {
        self.code
            .between(&token(), Isa::best(), &self.query, from, nodes, out)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), BadShape> {
        let list: Vec<&[u8]> = rows.iter().map(|row| &*self.rows[*row as usize]).collect();
        let (isa, elem, metric) = (Isa::best(), Elem::F32, Metric::L2Sq);
        let dim = self.row.len() / 4;
        score_list(&token(), isa, elem, metric, self.row, &list, dim, out)
    }

    fn prefetch(&self, _: &[AtomicU32]) {}
}

/// Words of a code.
pub fn code_words() -> usize {
    code(GraphKind::Rabitq4).code_words()
}

fn code(kind: GraphKind) -> GraphCode {
    code_of(kind, DIM)
}

fn code_of(kind: GraphKind, dim: usize) -> GraphCode {
    GraphCode::new(kind, Elem::F32, Metric::L2Sq, dim).unwrap()
}

/// A container of rows around some centres, and its graph, as it was saved before images said the bits of codes.
pub fn saved() -> Saved {
    saved_with(GraphKind::Rabitq4, 0)
}

/// The same with codes of a kind, and what the image says of their bits.
pub fn saved_with(kind: GraphKind, nbits: u32) -> Saved {
    saved_of(kind, nbits, DIM)
}

/// The same of rows of `dim` elements.
pub fn saved_of(kind: GraphKind, nbits: u32, dim: usize) -> Saved {
    let mut random = Random(3);
    let mut number = |most: u64| random.below(most) as f32 / 64.0;
    let centres: Vec<Vec<f32>> = (0..8)
        .map(|_| (0..dim).map(|_| number(1000)).collect())
        .collect();
    let rows: Vec<Vec<u8>> = (0..ROWS as usize)
        .map(|row| {
            let near = centres[row % 8].iter().map(|x| x + number(200));
            near.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let code = code_of(kind, dim);
    let params = Params {
        m: 8,
        ef_construction: 60,
        code_words: code.code_words() as u32,
        seed: 1,
    };
    let centre = rows[0][..code.centre_bytes()].to_vec();
    let layout = params.layout().unwrap();
    let store = Memory::new(layout, ROWS as u32, rows.len());
    let graph = Index::new(params, store).unwrap();
    let mut scratch = Scratch::new(ROWS as u32, 512);
    for row in 0..WATERMARK as usize {
        let mut numeric = Codes::new(code, &centre, &rows, row);
        graph
            .insert(&mut scratch.lend(), &mut numeric, row as u64)
            .unwrap();
    }
    let mut numeric = Codes::new(code, &centre, &rows, DELETED[0] as usize);
    graph
        .delete(&mut scratch.lend(), &mut numeric, DELETED[0])
        .unwrap();
    let image = graph.image();
    let (nodes, uppers) = graph.store().words();
    let nodes = &nodes[..image.used as usize * layout.node_words()];
    let uppers = &uppers[..image.used_uppers as usize * layout.upper_words()];
    let mut centre_block = centre.clone();
    centre_block.resize(centre.len().next_multiple_of(BLOCK_SIZE), 0);
    let node = Section::of(1, layout.node_bytes(), 1);
    Saved {
        kind: KIND_HNSW,
        dim: dim as u32,
        parameters: Parameters {
            m: params.m,
            ef_construction: params.ef_construction,
            nbits,
            ..Parameters::default()
        },
        state: GraphState {
            entry: image.entry,
            used: image.used.into(),
            used_uppers: image.used_uppers.into(),
            centre_bytes: centre.len() as u64,
            level_seed: params.seed,
            code_seed: 1,
            code_words: params.code_words.into(),
            spread: image.spread,
        }
        .words()
        .to_vec(),
        sections: vec![
            (1, node.item_bytes as usize, bytes(nodes)),
            (2, layout.upper_bytes(), bytes(uppers)),
            (3, BLOCK_SIZE, centre_block),
        ],
        rows: ROWS,
        watermark: WATERMARK,
        deleted: DELETED.to_vec(),
        batch: 5,
        born: 0,
        known: 0,
        vectors: rows.concat(),
        flags: 0,
    }
}

/// Changes the words of a node that is no longer than a block.
pub fn change_node(saved: &mut Saved, slot: u32, change: impl FnOnce(&mut [u32])) {
    let (_, each, nodes) = &mut saved.sections[0];
    let node = &mut nodes[slot as usize * *each..][..*each];
    let words = node.chunks_exact(4);
    let mut words: Vec<u32> = words
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    change(&mut words);
    node.copy_from_slice(&bytes(&words));
}

/// Takes all links to a node of level 0 away, so that nothing contradicts itself and no walk comes by.
pub fn cut_off(saved: &mut Saved) {
    let (code, m0) = (code_words(), 16);
    let (anchor, links) = (code + 2, code + 5);
    let entry = saved.state[0] as u32;
    let nodes = saved.state[1] as u32;
    let mut victim = None;
    for slot in (0..nodes).filter(|slot| *slot != entry) {
        // Live, on level 0 alone.
        change_node(saved, slot, |words| {
            if words[anchor] & 0xff == 2 {
                victim = victim.or(Some(slot));
            }
        });
    }
    let victim = victim.unwrap();
    for slot in 0..nodes {
        change_node(saved, slot, |words| {
            if slot == victim {
                words[anchor] &= 0xff;
            }
            let links = &mut words[links..links + m0];
            if let Some(at) = links.iter().position(|link| *link == victim) {
                links[at..].rotate_left(1);
                links[m0 - 1] = u32::MAX;
            }
        });
    }
}
