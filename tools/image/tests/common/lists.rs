// SPDX-License-Identifier: Apache-2.0

//! Images of inverted lists and hash tables, written as the kernel writes them, of rows that are all zeros.

#![allow(dead_code)]

use super::saved::{bytes, checked, Saved};
use super::Random;
use std::sync::atomic::{AtomicU32, Ordering};
use vexfs_ann::ivf::params::{BLOCK_ROWS, LIST_WORDS};
use vexfs_ann::ivf::{self, Code, Store};
use vexfs_ann::lsh;
use vexfs_format::index::{Parameters, KIND_IVF, KIND_LSH, KIND_PQ};
use vexfs_format::BLOCK_SIZE;
use vexfs_simd_host::{encode_parts, encode_signs, token, Isa, Metric, PqShape};

/// Rows of the container, and of which the index knows.
pub const ROWS: u64 = 420;
pub const WATERMARK: u64 = 400;
/// Rows that are deleted: the first two are in no list any more, of the others lists know nothing yet.
pub const DELETED: [u64; 4] = [2, 40, 81, 200];
pub const HOLE: u32 = 1 << 31;
pub const NOWHERE: u32 = u32::MAX;

/// The words of an index, or of one table.
#[derive(Clone)]
pub struct Table {
    pub heads: Vec<u32>,
    pub blocks: Vec<u32>,
    pub used: u32,
    pub free: u32,
}

/// What an image is made of, and what its container says.
#[derive(Clone)]
pub struct Parts {
    pub kind: u32,
    pub parameters: Parameters,
    pub params: ivf::Params,
    pub seed: u64,
    pub rows: u64,
    pub watermark: u64,
    pub deleted: Vec<u64>,
    /// The batch that deleted them; the container says that 5 are done.
    pub batch: u64,
    pub born: u64,
    pub known: u64,
    pub tables: Vec<Table>,
}

/// Memory of an index, as large as it will be.
pub struct Plain {
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

pub fn zeros(n: usize) -> Vec<AtomicU32> {
    (0..n).map(|_| AtomicU32::new(0)).collect()
}

pub fn words(of: &[AtomicU32]) -> Vec<u32> {
    of.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// The codes and factors of a row of zeros, as all are, in a list whose centroid is zeros, as all are.
pub fn codes(params: &ivf::Params) -> (Vec<u8>, [u32; 3]) {
    let layout = params.layout().unwrap();
    let zeros = vec![0; 4 * params.dim as usize];
    let (mut codes, mut factors) = (vec![0; layout.nsub as usize], [0; 3]);
    let (token, isa, metric) = (token(), Isa::best(), Metric::L2Sq);
    match params.code {
        Code::Flat => {}
        Code::Signs => encode_signs(
            &token,
            isa,
            metric,
            &zeros,
            &zeros,
            &mut codes,
            &mut factors,
        )
        .unwrap(),
        Code::Pq4 { nsub } | Code::Pq8 { nsub } => {
            let shape = PqShape {
                nsub: nsub as usize,
                ksub: layout.ksub as usize,
                dsub: (params.dim / nsub) as usize,
            };
            let books = vec![0; params.codebook_bytes()];
            let mut scratch = zeros.clone();
            encode_parts(
                &token,
                isa,
                metric,
                shape,
                &zeros,
                &zeros,
                &books,
                &mut scratch,
                &mut codes,
                &mut factors,
            )
            .unwrap()
        }
    }
    (codes, factors)
}

/// An index of the rows below the watermark. Every other row is in list 0, so that it has some blocks; all are, if that
/// is the bucket of zeros.
pub fn table(params: ivf::Params, seed: u64) -> Table {
    let layout = params.layout().unwrap();
    let store = Plain {
        heads: zeros(params.list_words()),
        blocks: zeros(params.most_blocks(2 * ROWS) as usize * layout.block_words as usize),
        words: layout.block_words as usize,
    };
    let mut index = ivf::Index::new(params, store).unwrap();
    let mut random = Random(seed);
    let (codes, factors) = codes(&params);
    let list_of: Vec<u32> = (0..WATERMARK)
        .map(|row| match row % 2 {
            0 => 0,
            _ if params.hashed => 0,
            _ => random.below(u64::from(params.nlist)) as u32,
        })
        .collect();
    let append = |list, row| {
        let appended = index.writer().append::<()>(list, row, &codes, &factors);
        appended.unwrap();
    };
    if params.code != Code::Flat && !params.hashed && params.nlist >= 256 {
        for list in 0..params.nlist {
            append(params.nlist, u64::from(list));
        }
    }
    // The second list is the next one.
    let other = |list: u32| (list + 1) % params.nlist;
    for (row, list) in (0..).zip(&list_of) {
        append(*list, row);
        if params.copies > 1 {
            append(other(*list), row);
        }
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
        let lists = [0, other(0)];
        let lists = &lists[..params.copies as usize];
        let deleted = index.writer().delete_from_all::<()>(lists, *row);
        assert_eq!(deleted, Ok(lists.len()));
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

pub fn lists(kind: u32, dim: u32, nlist: u32, code: Code) -> Parts {
    lists_of(kind, dim, nlist, code, 1)
}

/// Lists that have each row so many times. Images of one list a row may say nothing of it.
pub fn lists_of(kind: u32, dim: u32, nlist: u32, code: Code, copies: u32) -> Parts {
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
        copies,
        hashed: false,
        seed: 1,
    };
    Parts {
        kind,
        parameters: Parameters {
            nlist: if kind == KIND_IVF { nlist } else { 0 },
            nsub,
            nbits,
            ntables: if copies > 1 { copies } else { 0 },
            ..Parameters::default()
        },
        params,
        seed: 1,
        rows: ROWS,
        watermark: WATERMARK,
        deleted: DELETED.to_vec(),
        batch: 5,
        born: 0,
        known: 0,
        tables: vec![table(params, 7)],
    }
}

pub fn hashes(dim: u32, code: Code) -> Parts {
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
        born: 0,
        known: 0,
        tables: (0..3).map(|seed| table(params, seed)).collect(),
    }
}

/// Every kind of code; blocks larger than one of the volume; lists that are found by codes of their own.
pub fn all() -> Vec<Parts> {
    vec![
        lists(KIND_IVF, 8, 16, Code::Flat),
        lists_of(KIND_IVF, 8, 16, Code::Flat, 2),
        lists(KIND_IVF, 1536, 4, Code::Signs),
        lists_of(KIND_IVF, 64, 256, Code::Signs, 2),
        lists(KIND_IVF, 64, 256, Code::Signs),
        lists(KIND_IVF, 64, 4, Code::Pq8 { nsub: 8 }),
        lists(KIND_PQ, 64, 1, Code::Pq4 { nsub: 16 }),
        hashes(8, Code::Flat),
        hashes(384, Code::Signs),
    ]
}

impl Parts {
    pub fn block_words(&self) -> usize {
        self.params.layout().unwrap().block_words as usize
    }

    /// The last table: nothing is wrong with those before it.
    pub fn table(&mut self) -> &mut Table {
        self.tables.last_mut().unwrap()
    }

    /// The head of a list: first block, slots, last block, first hole.
    pub fn head(&mut self, list: usize) -> &mut [u32] {
        &mut self.table().heads[LIST_WORDS * list..][..LIST_WORDS]
    }

    pub fn block(&mut self, block: u32) -> &mut [u32] {
        let words = self.block_words();
        &mut self.table().blocks[block as usize * words..][..words]
    }

    pub fn first(&mut self) -> u32 {
        self.head(0)[0]
    }

    /// The row number of a slot of the first block of list 0.
    pub fn row(&mut self, place: usize) -> &mut u32 {
        let first = self.first();
        let rows_at = self.block_words() - BLOCK_ROWS as usize;
        &mut self.block(first)[rows_at + place]
    }

    /// Makes a slot of the first block of list 0 a hole.
    pub fn remove(&mut self, place: usize) {
        let name = self.first() * BLOCK_ROWS + place as u32;
        *self.row(place) = HOLE | self.head(0)[3];
        self.head(0)[3] = name;
    }

    /// Sections: tag, bytes of an item, items.
    pub fn sections(&self) -> Vec<(u32, usize, Vec<u8>)> {
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

    pub fn state(&self) -> Vec<u64> {
        match (self.kind, &self.tables[0]) {
            (KIND_LSH, _) => vec![0x4780_0000, self.seed],
            (_, table) => vec![table.used.into(), table.free.into(), self.seed],
        }
    }

    pub fn saved(&self) -> Saved {
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
            born: self.born,
            known: self.known,
            vectors: Vec::new(),
            flags: 0,
        }
    }

    /// What a check of the volume says.
    pub fn check(&self) -> Result<(), Vec<String>> {
        checked(self.saved().volume().0)
    }
}

/// Whether one of the problems is that.
pub fn found(parts: &Parts, words: &str) -> bool {
    let problems = parts.check().expect_err(words);
    problems.iter().any(|problem| problem.contains(words))
}
