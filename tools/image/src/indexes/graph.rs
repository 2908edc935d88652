// SPDX-License-Identifier: Apache-2.0

//! Graphs: opened as the kernel opens them, over plain memory; and the codes of their nodes.

use super::codes::Vectors;
use super::{number, Fail, Reader, Rows, Seen};
use crate::Device;
use std::sync::atomic::{AtomicU32, Ordering};
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::{self, CheckMemory, Fault, Layout, Params, Report, Store, NOWHERE};
use vexfs_format::index::{GraphState, ImageHeader, Section};
use vexfs_simd_host::{token, Elem, GraphCode, GraphKind, Isa};

/// Sections.
const NODES: u32 = 1;
const UPPERS: u32 = 2;
const CENTRE: u32 = 3;

/// Seeds of levels and of the rotation of codes: the kernel has no others.
const LEVELS_SEED: u64 = 1;
const CODES_SEED: u64 = 1;

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
pub(super) fn check<D: Device>(
    reader: &mut Reader<'_, D>,
    header: &ImageHeader,
    rows: &Rows,
    vectors: Option<&mut Vectors<'_, D>>,
    seen: &mut Seen,
) -> Result<(), Fail> {
    let GraphState {
        entry,
        used,
        used_uppers,
        centre_bytes,
        level_seed: seed,
        code_seed,
        code_words,
        spread,
    } = GraphState::of(&header.state);
    let params = Params {
        m: header.parameters.m,
        ef_construction: header.parameters.ef_construction,
        code_words: number(code_words)?,
        seed,
    };
    let layout = params.layout().map_err(|_| "has bad parameters")?;
    if (seed, code_seed) != (LEVELS_SEED, CODES_SEED) {
        return Err("has codes of another kind".into());
    }
    let expected = [
        Section::of(NODES, layout.node_bytes(), used),
        Section::of(UPPERS, layout.upper_bytes(), used_uppers),
    ];
    for expected in expected {
        let section = header.section(expected.tag).map(|(section, _)| section);
        if section.is_none() && expected.items == 0 {
            continue;
        }
        if section.map(|s| s.item_bytes) != Some(expected.item_bytes) {
            return Err("has nodes of another size".into());
        }
        if section != Some(expected) {
            return Err("has more or fewer nodes than it says".into());
        }
    }
    rows.fit(used)?;
    let places = 0..rows.watermark;
    let store = Still {
        layout,
        nodes: reader.words(header, NODES)?,
        uppers: reader.words(header, UPPERS)?,
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
    let opened = hnsw::Index::open(params, store, start, &mut memory);
    let index = match opened {
        Ok(index) => index,
        Err(report) => {
            seen.findings.faults = report.faults;
            return Err(format!("the graph is not sound: {}", describe(&report)).into());
        }
    };
    let report = index.check(&mut memory);
    seen.findings.faults = report.faults;
    seen.findings.unreachable = report.unreachable.into();
    if report.faults > 0 || report.unreachable > 0 {
        let what = describe(&report);
        seen.wrong.push(format!("the graph is not sound: {what}"));
    }
    let place = |row| {
        let place = index.store().place(row)?.load(Ordering::Relaxed);
        (place != NOWHERE).then_some(place)
    };
    rows.missing(|row| place(row).is_some(), seen);
    let Some(vectors) = vectors else {
        return Ok(());
    };
    // Images of versions that had codes of one length do not say it.
    let nbits = match (vectors.elem, header.parameters.nbits) {
        (Elem::Binary, 0) => 1,
        (_, 0) => 4,
        (_, nbits) => nbits,
    };
    let kind = GraphKind::of(vectors.elem, nbits).ok_or("has codes of another kind")?;
    let code = GraphCode::new(kind, vectors.elem, vectors.metric, vectors.dim)
        .map_err(|_| "is of rows that have no codes")?;
    let centre = match usize::try_from(centre_bytes) {
        Ok(bytes) if bytes == 0 || bytes == code.centre_bytes() => bytes,
        _ => return Err("has a centre of another size".into()),
    };
    if code.code_words() != params.code_words as usize {
        return Err("has codes of another kind".into());
    }
    let centre = reader.bytes(header, CENTRE, centre)?;
    let (mut vector, mut query) = (vec![0; code.vector_words()], vec![0; code.query_words()]);
    let mut words = vec![0; code.code_words()];
    let (mut wrong, mut first) = (0, None);
    let (token, isa) = (token(), Isa::best());
    for row in rows.live() {
        reader.step("rows of an index", row, rows.watermark)?;
        let node = place(row).and_then(|slot| index.store().node(slot));
        let Some(node) = node else {
            continue;
        };
        let bytes = vectors.row(row)?;
        code.prepare(
            &token,
            isa,
            CODES_SEED,
            &centre,
            bytes,
            &mut vector,
            &mut query,
        )
        .and_then(|()| code.encode(&token, isa, &vector, &query, &mut words))
        .map_err(|_| "has codes of another kind")?;
        let same = node
            .iter()
            .zip(&words)
            .all(|(word, code)| word.load(Ordering::Relaxed) == *code);
        if !same {
            wrong += 1;
            first.get_or_insert(row);
        }
    }
    seen.codes(wrong, first);
    Ok(())
}

/// What a check of a graph found, in words.
fn describe(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some((fault, slot)) = report.first_fault {
        let what = match fault {
            Fault::Memory => "there are more nodes than it can have",
            Fault::Entry => "the entry is no live node of its level",
            Fault::Anchor => "a node has a state or level that none has",
            Fault::Upper => "the upper blocks of a node are not those of its level",
            Fault::Link => "a link leads to no node of its level, or to one twice",
            Fault::InDegree => "the number of links to a node is not what it says",
            Fault::Row => "two nodes are of one row, or one is of a row above the watermark",
        };
        let more = match report.faults {
            0 | 1 => String::new(),
            faults => format!(" ({faults} faults in all)"),
        };
        parts.push(format!("node {slot}: {what}{more}"));
    }
    if report.unreachable > 0 {
        parts.push(format!("no walk can come by {} rows", report.unreachable));
    }
    parts.join("; ")
}
