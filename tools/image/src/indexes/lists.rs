// SPDX-License-Identifier: Apache-2.0

//! Inverted lists and hash tables: opened as the kernel opens them, over plain memory.

use super::codes::{Coder, Vectors};
use super::{number, Fail, Reader, Rows, Seen};
use crate::Device;
use std::sync::atomic::{AtomicU32, Ordering};
use vexfs_ann::ivf::params::{BLOCK_ROWS, LIST_WORDS};
use vexfs_ann::ivf::{self, CheckMemory, Code, Fault, Image, Params, Report, Store};
use vexfs_ann::lsh;
use vexfs_format::index::{ImageHeader, Parameters, KIND_IVF};
use vexfs_format::vector_area::{element_bits, METRIC_L2SQ};
use vexfs_format::{Inode, VectorArea, BLOCK_SIZE};

/// Sections of both kinds.
const HEADS: u32 = 1;
const BLOCKS: u32 = 2;
/// Sections of lists.
const CENTROIDS: u32 = 3;
const CODEBOOKS: u32 = 4;
/// Sections of tables: how many blocks each uses, and its first free one; the centre of codes.
const TABLES: u32 = 3;
const CENTRE: u32 = 4;

/// Seeds of the sample and rotation of lists, and of hashes: the kernel has no others.
const LISTS_SEED: u64 = 1;
const HASHES_SEED: u64 = 2;

/// A row that is nowhere.
const NOWHERE: u32 = u32::MAX;

/// `nbits` of lists whose codes are signs, and of those without codes.
const SIGNS: u32 = 1;
const NO_CODES: u32 = 32;

/// Checks the lists of an image of kind IVF or PQ.
pub(super) fn lists<D: Device>(
    reader: &mut Reader<'_, D>,
    header: &ImageHeader,
    rows: &Rows,
    vectors: Option<&mut Vectors<'_, D>>,
    seen: &mut Seen,
) -> Result<(), Fail> {
    let params = lists_params(header).ok_or("has bad parameters")?;
    let [used, free, seed, ..] = header.state;
    if seed != LISTS_SEED {
        return Err("has codes of another kind".into());
    }
    let start = Image {
        used: number(used)?,
        free: number(free)?,
    };
    floats(header, CENTROIDS, params.centroid_bytes())?;
    floats(header, CODEBOOKS, params.codebook_bytes())?;
    let memory = Memory::read(reader, header, &params, &[start], rows)?;
    let open = memory
        .open(0, rows)
        .map_err(|what| format!("the lists are not sound: {what}"))?;
    rows.missing(|row| open.has(row), seen);
    let Some(vectors) = vectors else {
        return Ok(());
    };
    let centroids = reader.bytes(header, CENTROIDS, params.centroid_bytes())?;
    let codebooks = reader.bytes(header, CODEBOOKS, params.codebook_bytes())?;
    let mut coder = Coder::new(&params, vectors, centroids, codebooks)?;
    if params.code == Code::Flat {
        return Ok(());
    }
    let places = open.places(rows)?;
    let each = params.copies as usize;
    let (mut wrong, mut first) = (0, None);
    for row in rows.live() {
        reader.step("rows of an index", row, rows.watermark)?;
        let places = &places[each * row as usize..][..each];
        if places.iter().any(|(_, place)| *place == NOWHERE) {
            continue;
        }
        coder.set(vectors.row(row)?)?;
        let mut right = true;
        for (list, place) in places {
            coder.encode(*list)?;
            right &= open.index.holds(*place, row, &coder.codes, &coder.factors);
        }
        if !right {
            wrong += 1;
            first.get_or_insert(row);
        }
    }
    seen.codes(wrong, first);
    // Lists that have codes themselves, around the mean of all.
    let mut wrong = 0u64;
    for (list, place) in open.rows_in(params.nlist)? {
        coder.set_centroid(number(list)?)?;
        coder.encode(params.nlist)?;
        wrong += u64::from(!open.index.holds(place, list, &coder.codes, &coder.factors));
    }
    if wrong > 0 {
        seen.findings.wrong_codes += wrong;
        seen.wrong
            .push(format!("{wrong} lists have not the code of their centroid"));
    }
    Ok(())
}

/// Checks the hash tables of an image of rows like those of `owner`.
pub(super) fn tables<D: Device>(
    reader: &mut Reader<'_, D>,
    header: &ImageHeader,
    owner: &Inode,
    rows: &Rows,
    vectors: Option<&mut Vectors<'_, D>>,
    seen: &mut Seen,
) -> Result<(), Fail> {
    let hashes = hashes_params(&header.parameters, &owner.vector);
    let both = hashes.and_then(|hashes| hashes.table().ok().map(|table| (hashes, table)));
    let (hashes, params) = both.ok_or("has bad parameters")?;
    let [scale, seed, ..] = header.state;
    let scale = match u32::try_from(scale) {
        Ok(scale) if seed == HASHES_SEED => scale,
        _ => return Err("has hashes of another kind".into()),
    };
    floats(header, CENTRE, params.centroid_bytes())?;
    sized(header, TABLES, 8, hashes.ntables.into())?;
    let starts = reader.words(header, TABLES)?;
    let starts: Vec<Image> = starts
        .chunks_exact(2)
        .map(|both| Image {
            used: both[0].load(Ordering::Relaxed),
            free: both[1].load(Ordering::Relaxed),
        })
        .collect();
    let memory = Memory::read(reader, header, &params, &starts, rows)?;
    let mut tables: Vec<Open<'_>> = Vec::new();
    for at in 0..starts.len() {
        let not_sound = |what| format!("the tables are not sound: table {at}: {what}");
        let table = memory.open(at, rows).map_err(not_sound)?;
        rows.missing(|row| table.has(row), seen);
        if seen.findings.wrong_rows > 0 {
            return Ok(());
        }
        if tables
            .first()
            .is_some_and(|first| first.there != table.there)
        {
            return Err(not_sound("it has other rows than table 0".into()).into());
        }
        tables.push(table);
    }
    let Some(first_table) = tables.first() else {
        return Ok(());
    };
    let Some(vectors) = vectors else {
        return Ok(());
    };
    let centre = reader.bytes(header, CENTRE, params.centroid_bytes())?;
    let mut coder = Coder::new(&params, vectors, centre, Vec::new())?;
    let mut of_rows = Vec::new();
    for table in &tables {
        of_rows.push(table.places(rows)?);
    }
    let (mut wrong, mut first) = (0, None);
    for row in rows.live() {
        reader.step("rows of an index", row, rows.watermark)?;
        if !first_table.has(row) {
            continue;
        }
        let bytes = vectors.row(row)?;
        coder.set(bytes)?;
        coder.encode(0)?;
        let mut right = true;
        for ((number, table), places) in (0..).zip(&tables).zip(&of_rows) {
            let (bucket, place) = places[row as usize];
            right &= bucket == coder.bucket(&hashes, scale, bytes, number)?
                && table.index.holds(place, row, &coder.codes, &coder.factors);
        }
        if !right {
            wrong += 1;
            first.get_or_insert(row);
        }
    }
    seen.codes(wrong, first);
    Ok(())
}

/// What lists were made with. Defaults are filled in in an image.
fn lists_params(header: &ImageHeader) -> Option<Params> {
    let Parameters {
        m,
        ef_construction,
        nlist,
        nsub,
        nbits,
        ntables,
    } = header.parameters;
    let ivf = header.kind == KIND_IVF;
    if m | ef_construction != 0 || (!ivf && nlist | ntables != 0) {
        return None;
    }
    let params = Params {
        dim: header.dim,
        nlist: if ivf { nlist } else { 1 },
        code: match (nbits, nsub) {
            (SIGNS, 0) if ivf => Code::Signs,
            (NO_CODES, 0) if ivf => Code::Flat,
            (4, _) => Code::Pq4 { nsub },
            (8, _) => Code::Pq8 { nsub },
            _ => return None,
        },
        // Older images say nothing of it.
        copies: ntables.max(1),
        hashed: false,
        seed: LISTS_SEED,
    };
    params.layout().is_ok().then_some(params)
}

/// What hash tables were made with. Rows alone decide whether there are codes.
fn hashes_params(parameters: &Parameters, area: &VectorArea) -> Option<lsh::Params> {
    let Parameters {
        m,
        ef_construction,
        nlist,
        nsub,
        nbits,
        ntables,
    } = *parameters;
    if m | ef_construction | nlist | nsub != 0 {
        return None;
    }
    let family = match area.metric {
        METRIC_L2SQ => lsh::Family::Cells,
        _ => lsh::Family::Signs,
    };
    let row_bits = u64::from(area.dim) * element_bits(area.element)?;
    let row_bytes = u32::try_from(row_bits.div_ceil(8)).ok()?;
    Some(lsh::Params {
        nbits,
        ntables,
        seed: HASHES_SEED,
        ..lsh::Params::default_for(area.live, area.dim, row_bytes, family)
    })
}

/// That there is a section with so many items of so many bytes.
fn sized(header: &ImageHeader, tag: u32, item_bytes: usize, items: u64) -> Result<(), Fail> {
    match header.section(tag) {
        Some((section, _))
            if section.item_bytes as usize == item_bytes && section.items == items =>
        {
            Ok(())
        }
        _ => Err(format!(
            "has not the {items} items of {item_bytes} bytes in section {tag} that it says"
        )
        .into()),
    }
}

/// That there is a section for an array of so many bytes.
fn floats(header: &ImageHeader, tag: u32, bytes: usize) -> Result<(), Fail> {
    sized(header, tag, BLOCK_SIZE, bytes.div_ceil(BLOCK_SIZE) as u64)
}

/// The words of lists, or of all tables one after the other.
struct Memory {
    params: Params,
    starts: Vec<Image>,
    heads: Vec<AtomicU32>,
    blocks: Vec<AtomicU32>,
    /// Words of a block, and with what is between two of them.
    words: usize,
    stride: usize,
}

impl Memory {
    /// Reads an image. Nothing is read before the sections are what `starts` says.
    fn read<D: Device>(
        reader: &mut Reader<'_, D>,
        header: &ImageHeader,
        params: &Params,
        starts: &[Image],
        rows: &Rows,
    ) -> Result<Memory, Fail> {
        let layout = params.layout().map_err(|_| "has bad parameters")?;
        let words = layout.block_words as usize;
        // Larger blocks are cut into pieces.
        let piece = (4 * words).min(BLOCK_SIZE);
        let pieces = (4 * words).div_ceil(BLOCK_SIZE);
        let heads = (params.all_lists() as usize * starts.len()) as u64;
        let used: u64 = starts.iter().map(|start| u64::from(start.used)).sum();
        sized(header, HEADS, 4 * LIST_WORDS, heads)?;
        sized(header, BLOCKS, piece, used * pieces as u64)?;
        for start in starts {
            rows.fit(u64::from(start.used) * u64::from(BLOCK_ROWS))?;
        }
        Ok(Memory {
            params: *params,
            starts: starts.to_vec(),
            heads: reader.words(header, HEADS)?,
            blocks: reader.words(header, BLOCKS)?,
            words,
            stride: pieces * piece / 4,
        })
    }

    /// Checks table `at`, or the lists, and opens it.
    fn open(&self, at: usize, rows: &Rows) -> Result<Open<'_>, String> {
        let start = self.starts[at];
        let before = self.starts[..at].iter().map(|start| start.used as usize);
        let first = before.sum::<usize>() * self.stride;
        let heads = self.params.list_words();
        let table = Table {
            heads: &self.heads[at * heads..][..heads],
            blocks: &self.blocks[first..][..start.used as usize * self.stride],
            words: self.words,
            stride: self.stride,
        };
        let mut blocks = vec![0; start.used.div_ceil(64) as usize];
        let mut there = vec![0; rows.watermark.div_ceil(64) as usize];
        let twice = if self.params.copies > 1 {
            2 * there.len()
        } else {
            0
        };
        let mut memory = CheckMemory {
            blocks: &mut blocks,
            rows: &mut there,
            again: &mut vec![0; twice],
        };
        let index = ivf::Index::open(self.params, table, start, rows.watermark, &mut memory);
        let index = index.map_err(|why| match why {
            Ok(report) => describe(&self.params, &report),
            Err(_) => "it has bad parameters".into(),
        })?;
        blocks.fill(0);
        let lost = index.check_chains(&mut blocks).lost;
        if lost > 0 {
            return Err(format!("{lost} blocks are in no list and not free"));
        }
        Ok(Open { index, there })
    }
}

/// Lists that are sound.
struct Open<'a> {
    index: ivf::Index<Table<'a>>,
    /// A bit for each row below the watermark, if it is there.
    there: Vec<u64>,
}

impl Open<'_> {
    fn has(&self, row: u64) -> bool {
        self.there[(row / 64) as usize] >> (row % 64) & 1 != 0
    }

    /// The rows of a list, and their places.
    fn rows_in(&self, list: u32) -> Result<Vec<(u64, u32)>, Fail> {
        let mut rows = vec![(0, 0); self.index.slots(list).unwrap_or(0) as usize];
        let found = self.index.rows_in(list, 0, &mut rows);
        let (found, _) = found.ok_or("has fewer lists than it says")?;
        rows.truncate(found);
        Ok(rows)
    }

    /// List and place of each row below the watermark, as often as it is in lists.
    fn places(&self, rows: &Rows) -> Result<Vec<(u32, u32)>, Fail> {
        let each = self.index.params().copies as usize;
        let mut places = vec![(0, NOWHERE); each * rows.watermark as usize];
        for list in 0..self.index.params().nlist {
            for (row, place) in self.rows_in(list)? {
                let of_row = &mut places[each * row as usize..][..each];
                if let Some(free) = of_row.iter_mut().find(|(_, place)| *place == NOWHERE) {
                    *free = (list, place);
                }
            }
        }
        Ok(places)
    }
}

/// What a check found first, in words.
fn describe(params: &Params, report: &Report) -> String {
    let Some((list, fault)) = report.fault else {
        return "it can't be opened".into();
    };
    let at = if list < params.nlist {
        format!("list {list}")
    } else if list == params.nlist {
        "the list of the lists' codes".into()
    } else {
        "the free blocks".into()
    };
    let what = match fault {
        Fault::Size => "there are more blocks than lists can have",
        Fault::Chain => "a link leads to no block, or the chain is not as long as it says",
        Fault::Owner => "a block is there twice, in two lists, or says that it is another's",
        Fault::Twice => "a row is in more slots than it should be",
        Fault::Once => "a row is in fewer lists than it should be",
        Fault::Row => "a row is above the watermark",
        Fault::Holes => "the holes are not those that are linked",
    };
    format!("{at}: {what}")
}

/// The memory of lists that nobody changes.
struct Table<'a> {
    heads: &'a [AtomicU32],
    blocks: &'a [AtomicU32],
    words: usize,
    stride: usize,
}

impl Store for Table<'_> {
    type Guard<'g>
        = ()
    where
        Self: 'g;

    fn lists(&self) -> &[AtomicU32] {
        self.heads
    }

    fn blocks(&self) -> u32 {
        (self.blocks.len() / self.stride) as u32
    }

    fn run(&self, first: u32, count: u32) -> Option<&[AtomicU32]> {
        let first = (first as usize).checked_mul(self.stride)?;
        let words = self.blocks.get(first..)?.get(..self.words)?;
        (count > 0).then_some(words)
    }

    fn lock(&self) -> Self::Guard<'_> {}
}
