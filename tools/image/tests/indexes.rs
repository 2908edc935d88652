// SPDX-License-Identifier: Apache-2.0

//! Images of inverted lists and hash tables, written as the kernel writes them: sound ones pass, and each kind of
//! damage under checksums that fit is found.

mod common;

use common::saved::{bytes, checked, Saved};
use common::Random;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use vexfs_ann::ivf::params::{BLOCK_ROWS, LIST_WORDS};
use vexfs_ann::ivf::{self, Code, Store};
use vexfs_ann::lsh;
use vexfs_format::index::{Parameters, KIND_IVF, KIND_LSH, KIND_PQ};
use vexfs_format::BLOCK_SIZE;

/// Rows of the container, and of which the index knows.
const ROWS: u64 = 420;
const WATERMARK: u64 = 400;
/// Rows that are deleted: the first two are in no list any more, of the others lists know nothing yet.
const DELETED: [u64; 4] = [2, 40, 81, 200];
const HOLE: u32 = 1 << 31;
const NOWHERE: u32 = u32::MAX;

/// The words of an index, or of one table.
#[derive(Clone)]
struct Table {
    heads: Vec<u32>,
    blocks: Vec<u32>,
    used: u32,
    free: u32,
}

/// What an image is made of, and what its container says.
#[derive(Clone)]
struct Parts {
    kind: u32,
    parameters: Parameters,
    params: ivf::Params,
    seed: u64,
    rows: u64,
    watermark: u64,
    deleted: Vec<u64>,
    /// The batch that deleted them; the container says that 5 are done.
    batch: u64,
    tables: Vec<Table>,
}

/// Memory of an index, as large as it will be.
struct Plain {
    heads: Vec<AtomicU32>,
    blocks: Vec<AtomicU32>,
    words: usize,
}

impl Store for Plain {
    type Guard<'a> = ();

    fn lists(&self) -> &[AtomicU32] {
        &self.heads
    }

    fn blocks(&self) -> u32 {
        (self.blocks.len() / self.words) as u32
    }

    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        let words = self.blocks.chunks_exact(self.words).nth(first as usize)?;
        (count > 0).then_some(words)
    }

    fn lock(&self) {}
}

fn zeros(n: usize) -> Vec<AtomicU32> {
    (0..n).map(|_| AtomicU32::new(0)).collect()
}

fn words(of: &[AtomicU32]) -> Vec<u32> {
    of.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// An index of the rows below the watermark. Every other row is in list 0, so that it has some blocks.
fn table(params: ivf::Params, seed: u64) -> Table {
    let layout = params.layout().unwrap();
    let store = Plain {
        heads: zeros(params.list_words()),
        blocks: zeros(params.most_blocks(2 * ROWS) as usize * layout.block_words as usize),
        words: layout.block_words as usize,
    };
    let mut index = ivf::Index::new(params, store).unwrap();
    let mut random = Random(seed);
    let codes = random.bytes(layout.nsub as usize);
    let list_of: Vec<u32> = (0..WATERMARK)
        .map(|row| match row % 2 {
            0 => 0,
            _ => random.below(u64::from(params.nlist)) as u32,
        })
        .collect();
    let append = |list, row| {
        let appended = index.writer().append::<()>(list, row, &codes, &[1, 2, 3]);
        appended.unwrap();
    };
    if params.code != Code::Flat && !params.hashed && params.nlist >= 256 {
        for list in 0..params.nlist {
            append(params.nlist, u64::from(list));
        }
    }
    for (row, list) in (0..).zip(&list_of) {
        append(*list, row);
    }
    // Some rows came and went: their blocks are free.
    let last = params.nlist - 1;
    let gone = WATERMARK..WATERMARK + 70;
    for row in gone.clone() {
        append(last, row);
    }
    for row in gone {
        let deleted = index.writer().delete_from::<()>(last, row);
        assert_eq!(deleted, Ok(true));
    }
    assert!(index.compact::<()>(last).unwrap() > 0);
    for row in &DELETED[..2] {
        let deleted = index.writer().delete_from::<()>(0, *row);
        assert_eq!(deleted, Ok(true));
    }
    let ivf::Image { used, free } = index.image();
    let store = index.store();
    Table {
        heads: words(&store.heads),
        blocks: words(&store.blocks[..used as usize * store.words]),
        used,
        free,
    }
}

fn lists(kind: u32, dim: u32, nlist: u32, code: Code) -> Parts {
    let (nbits, nsub) = match code {
        Code::Flat => (32, 0),
        Code::Signs => (1, 0),
        Code::Pq4 { nsub } => (4, nsub),
        Code::Pq8 { nsub } => (8, nsub),
    };
    let params = ivf::Params {
        dim,
        nlist,
        code,
        hashed: false,
        seed: 1,
    };
    Parts {
        kind,
        parameters: Parameters {
            nlist: if kind == KIND_IVF { nlist } else { 0 },
            nsub,
            nbits,
            ..Parameters::default()
        },
        params,
        seed: 1,
        rows: ROWS,
        watermark: WATERMARK,
        deleted: DELETED.to_vec(),
        batch: 5,
        tables: vec![table(params, 7)],
    }
}

fn hashes(dim: u32, code: Code) -> Parts {
    let params = lsh::Params {
        dim,
        family: lsh::Family::Cells,
        ntables: 3,
        nbits: 4,
        code,
        seed: 2,
    };
    let params = params.table().unwrap();
    Parts {
        kind: KIND_LSH,
        parameters: Parameters {
            nbits: 4,
            ntables: 3,
            ..Parameters::default()
        },
        params,
        seed: 2,
        rows: ROWS,
        watermark: WATERMARK,
        deleted: DELETED.to_vec(),
        batch: 5,
        tables: (0..3).map(|seed| table(params, seed)).collect(),
    }
}

/// Every kind of code; blocks larger than one of the volume; lists that are found by codes of their own.
fn all() -> Vec<Parts> {
    vec![
        lists(KIND_IVF, 8, 16, Code::Flat),
        lists(KIND_IVF, 1536, 4, Code::Signs),
        lists(KIND_IVF, 64, 256, Code::Signs),
        lists(KIND_IVF, 64, 4, Code::Pq8 { nsub: 8 }),
        lists(KIND_PQ, 64, 1, Code::Pq4 { nsub: 16 }),
        hashes(8, Code::Flat),
        hashes(384, Code::Signs),
    ]
}

impl Parts {
    fn block_words(&self) -> usize {
        self.params.layout().unwrap().block_words as usize
    }

    /// The last table: nothing is wrong with those before it.
    fn table(&mut self) -> &mut Table {
        self.tables.last_mut().unwrap()
    }

    /// The head of a list: first block, slots, last block, first hole.
    fn head(&mut self, list: usize) -> &mut [u32] {
        &mut self.table().heads[LIST_WORDS * list..][..LIST_WORDS]
    }

    fn block(&mut self, block: u32) -> &mut [u32] {
        let words = self.block_words();
        &mut self.table().blocks[block as usize * words..][..words]
    }

    fn first(&mut self) -> u32 {
        self.head(0)[0]
    }

    /// The row number of a slot of the first block of list 0.
    fn row(&mut self, place: usize) -> &mut u32 {
        let first = self.first();
        let rows_at = self.block_words() - BLOCK_ROWS as usize;
        &mut self.block(first)[rows_at + place]
    }

    /// Makes a slot of the first block of list 0 a hole.
    fn remove(&mut self, place: usize) {
        let name = self.first() * BLOCK_ROWS + place as u32;
        *self.row(place) = HOLE | self.head(0)[3];
        self.head(0)[3] = name;
    }

    /// Sections: tag, bytes of an item, items.
    fn sections(&self) -> Vec<(u32, usize, Vec<u8>)> {
        let words = self.block_words();
        let piece = (4 * words).min(BLOCK_SIZE);
        let (mut heads, mut blocks) = (Vec::new(), Vec::new());
        for table in &self.tables {
            heads.extend(bytes(&table.heads));
            for block in table.blocks.chunks(words) {
                blocks.extend(bytes(block));
                blocks.resize(blocks.len().next_multiple_of(piece), 0);
            }
        }
        let floats = |tag, bytes: usize| {
            let bytes = bytes.next_multiple_of(BLOCK_SIZE);
            (tag, BLOCK_SIZE, vec![0; bytes])
        };
        let centroids = self.params.centroid_bytes();
        let (heads, blocks) = ((1, 16, heads), (2, piece, blocks));
        if self.kind == KIND_LSH {
            let starts = self.tables.iter().flat_map(|t| [t.used, t.free]);
            let starts = bytes(&starts.collect::<Vec<_>>());
            return vec![(3, 8, starts), heads, blocks, floats(4, centroids)];
        }
        let codebooks = floats(4, self.params.codebook_bytes());
        vec![heads, blocks, floats(3, centroids), codebooks]
    }

    fn state(&self) -> Vec<u64> {
        match (self.kind, &self.tables[0]) {
            (KIND_LSH, _) => vec![0x4780_0000, self.seed],
            (_, table) => vec![table.used.into(), table.free.into(), self.seed],
        }
    }

    fn saved(&self) -> Saved {
        Saved {
            kind: self.kind,
            dim: self.params.dim,
            parameters: self.parameters,
            state: self.state(),
            sections: self.sections(),
            rows: self.rows,
            watermark: self.watermark,
            deleted: self.deleted.clone(),
            batch: self.batch,
        }
    }

    /// What a check of the volume says.
    fn check(&self) -> Result<(), Vec<String>> {
        checked(self.saved().volume().0)
    }
}

/// Whether one of the problems is that.
fn found(parts: &Parts, words: &str) -> bool {
    let problems = parts.check().expect_err(words);
    problems.iter().any(|problem| problem.contains(words))
}

#[test]
fn sound_images_pass() {
    for mut parts in all() {
        assert_eq!(parts.check(), Ok(()), "{:?}", parts.params);
        assert!(parts.table().free != NOWHERE && parts.head(0)[3] != HOLE - 1);
    }
}

#[test]
fn each_block_has_a_checksum() {
    let (device, blocks) = lists(KIND_IVF, 1536, 4, Code::Signs).saved().volume();
    for block in blocks {
        let mut device = device.clone();
        device.blocks.get_mut(&block).unwrap()[100] ^= 4;
        let problems = checked(device).unwrap_err();
        assert!(problems[0].contains("hecksum"), "{problems:?}");
    }
}

#[test]
fn an_index_without_rows_passes() {
    for mut parts in all() {
        parts.watermark = 0;
        for table in &mut parts.tables {
            for head in table.heads.chunks_exact_mut(LIST_WORDS) {
                head.copy_from_slice(&[NOWHERE, 0, NOWHERE, HOLE - 1]);
            }
            (table.used, table.free) = (0, NOWHERE);
            table.blocks.clear();
        }
        let coded = parts.params.nlist >= 256;
        assert_eq!(parts.check().is_ok(), !coded, "{:?}", parts.params);
    }
}

#[test]
fn deleted_rows_may_be_there_or_not() {
    for mut parts in all() {
        let row = u64::from(*parts.row(5));
        parts.deleted = vec![DELETED[0], DELETED[1], row];
        assert_eq!(parts.check(), Ok(()));
        // A batch that was cut off has deleted nothing.
        parts.batch = 6;
        assert!(found(&parts, "live rows below the watermark are missing"));
    }
}

#[test]
fn damage_under_fitting_checksums_is_found() {
    type Damage = fn(&mut Parts);
    let damage: [(&str, &str, Damage); 19] = [
        ("link out of range", "leads to no block", |p| {
            let (first, used) = (p.first(), p.table().used);
            p.block(first)[0] = used;
        }),
        ("cycle", "a block is there twice", |p| {
            let (first, last) = (p.first(), p.head(0)[2]);
            p.block(last)[0] = first;
        }),
        ("cycle of one block", "a block is there twice", |p| {
            let first = p.first();
            p.block(first)[0] = first;
        }),
        ("block of another list", "a block is there twice", |p| {
            let first = p.first();
            p.block(first)[1] = 1;
        }),
        ("block in a list and free", "a block is there twice", |p| {
            p.table().free = p.first();
        }),
        ("block in no list", "1 blocks are in no list", |p| {
            let words = p.block_words();
            let table = p.table();
            table.used += 1;
            table.blocks.extend(vec![0; words]);
        }),
        ("free block out of range", "the free blocks: a link", |p| {
            p.table().free = p.table().used;
        }),
        ("more slots than blocks", "not as long as it says", |p| {
            p.head(0)[1] += 64;
        }),
        ("fewer slots", "live rows below the watermark", |p| {
            p.head(0)[1] -= 1;
        }),
        ("first block lost", "not as long as it says", |p| {
            p.head(0)[0] = NOWHERE;
        }),
        ("another last block", "not as long as it says", |p| {
            p.head(0)[2] = p.first();
        }),
        ("row above the watermark", "above the watermark", |p| {
            *p.row(3) = WATERMARK as u32;
        }),
        ("row twice", "in two slots", |p| {
            *p.row(3) = *p.row(4);
        }),
        ("row missing", "1 live rows below the watermark", |p| {
            p.remove(3);
        }),
        ("hole that is not linked", "the holes are not", |p| {
            *p.row(3) = HOLE;
        }),
        ("more blocks than there are", "has not the", |p| {
            p.table().used += 1;
        }),
        ("another seed", "of another kind", |p| p.seed += 1),
        ("bad parameters", "bad parameters", |p| {
            p.parameters.nbits = 17;
        }),
        ("watermark without bound", "no room for them", |p| {
            p.rows = 1 << 40;
            p.watermark = p.rows - 1;
        }),
    ];
    for parts in all() {
        for (name, words, damage) in &damage {
            let mut damaged = parts.clone();
            damage(&mut damaged);
            let said = damaged.check();
            assert!(
                found(&damaged, words),
                "{name}, {:?}: {said:?}",
                parts.params
            );
        }
    }
}

#[test]
fn damage_of_some_kinds_of_index_is_found() {
    // A block in two lists, each of which says so.
    let mut parts = lists(KIND_IVF, 8, 16, Code::Flat);
    let list = parts.head(0).to_vec();
    parts.head(1).copy_from_slice(&list);
    assert!(found(&parts, "list 1: a block is there twice"));
    // The list of the lists' codes.
    let mut parts = lists(KIND_IVF, 64, 256, Code::Signs);
    let first = parts.head(256)[0];
    let row = parts.block_words() - 1;
    parts.block(first)[row] = 256;
    assert!(found(
        &parts,
        "the list of the lists' codes: a row is above"
    ));
    // A deleted row that two tables have and one has not.
    let mut parts = hashes(8, Code::Flat);
    let row = u64::from(*parts.row(9));
    parts.deleted = vec![DELETED[0], DELETED[1], row];
    assert_eq!(parts.check(), Ok(()));
    parts.remove(9);
    assert!(found(&parts, "table 2: it has other rows than table 0"));
    // More tables than are there.
    parts.parameters.ntables = 4;
    assert!(found(&parts, "has not the 4 items"));
}

/// Sound is only what is: the rows of each table, walked as plainly as can be, are the live ones and each once.
fn is_right(parts: &Parts) -> bool {
    let words = parts.block_words();
    let rows_at = words - BLOCK_ROWS as usize;
    parts.tables.iter().all(|table| {
        let mut there = BTreeSet::new();
        for head in table
            .heads
            .chunks_exact(LIST_WORDS)
            .take(parts.params.nlist as usize)
        {
            let (mut block, mut left) = (head[0] as usize, head[1] as usize);
            while left > 0 {
                let Some(block_words) = table.blocks.chunks_exact(words).nth(block) else {
                    return false;
                };
                let slots = left.min(BLOCK_ROWS as usize);
                for row in &block_words[rows_at..][..slots] {
                    let hole = row & HOLE != 0;
                    if !hole && (u64::from(*row) >= parts.watermark || !there.insert(*row)) {
                        return false;
                    }
                }
                left -= slots;
                block = block_words[0] as usize;
            }
        }
        (0..parts.watermark)
            .filter(|row| !parts.deleted.contains(row))
            .all(|row| there.contains(&(row as u32)))
    })
}

#[test]
fn random_damage_harms_nobody() {
    let rounds = if cfg!(debug_assertions) { 300 } else { 3000 };
    let (mut sound, mut damaged) = (0, 0);
    for (kind, parts) in (0..).zip(all()) {
        for round in 0..rounds {
            let mut random = Random(round << 8 | kind);
            let mut parts = parts.clone();
            for _ in 0..1 + random.below(3) {
                let blocks = parts.table().blocks.len() / parts.block_words();
                let value = match random.below(4) {
                    0 => random.next() as u32,
                    1 => random.below(blocks as u64 + 2) as u32,
                    2 => random.below(ROWS) as u32,
                    _ => NOWHERE - random.below(3) as u32,
                };
                let words = parts.block_words();
                let table = parts.table();
                let at = random.next() as usize;
                match random.below(8) {
                    0..=2 => {
                        let len = table.heads.len();
                        table.heads[at % len] = value;
                    }
                    3 | 4 => {
                        let block = at % blocks * words;
                        let word = match random.below(3) {
                            0 => 0,
                            1 => 1,
                            _ => words - 1 - random.below(32) as usize,
                        };
                        table.blocks[block + word] = value;
                    }
                    // Codes are any bytes.
                    5 if words > 200 => {
                        let block = at % blocks * words;
                        table.blocks[block + 16] = value;
                    }
                    5 | 6 => table.free = value,
                    _ => match random.below(4) {
                        0 => table.used = value,
                        1 => parts.watermark = u64::from(value) % (ROWS + 1),
                        2 => parts.parameters.nbits = value,
                        _ => parts.parameters.nlist = value,
                    },
                }
            }
            match parts.check() {
                Ok(()) => {
                    assert!(is_right(&parts), "kind {kind} round {round}");
                    sound += 1;
                }
                Err(_) => damaged += 1,
            }
        }
    }
    assert!(sound > 5 && damaged > rounds, "{sound} {damaged}");
}
