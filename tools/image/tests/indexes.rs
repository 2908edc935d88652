// SPDX-License-Identifier: Apache-2.0

//! Images of inverted lists and hash tables, written as the kernel writes them: sound ones pass, and each kind of
//! damage under checksums that fit is found.

mod common;

use common::lists::{all, found, hashes, lists, Parts, DELETED, HOLE, NOWHERE, ROWS, WATERMARK};
use common::saved::{checked, findings};
use common::Random;
use std::collections::{BTreeMap, BTreeSet};
use vexfs_ann::ivf::params::{BLOCK_ROWS, LIST_WORDS};
use vexfs_ann::ivf::Code;
use vexfs_format::index::{KIND_IVF, KIND_PQ};

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
fn others_may_be_in_the_place_of_rows_that_an_image_has() {
    for mut parts in all() {
        let row = u64::from(*parts.row(5));
        parts.deleted = vec![DELETED[0], DELETED[1], row];
        parts.batch = 3;
        parts.born = 4;
        // The image may have the row that was there before, or none, and its code is not looked at.
        parts.known = 3;
        assert_eq!(parts.check(), Ok(()));
        // It knows of them: then two are missing.
        parts.known = 4;
        assert!(found(&parts, "2 live rows below the watermark are missing"));
        // A batch that was cut off has put none there.
        parts.born = 6;
        assert_eq!(parts.check(), Ok(()));
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
        ("row twice", "in more slots than it should be", |p| {
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
            // The other list still has the row.
            let words = match *name {
                "fewer slots" | "row missing" if parts.params.copies > 1 => "in fewer lists",
                _ => words,
            };
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

#[test]
fn codes_that_are_not_those_of_the_rows_are_counted() {
    let coded = [
        lists(KIND_IVF, 1536, 4, Code::Signs),
        lists(KIND_IVF, 64, 4, Code::Pq8 { nsub: 8 }),
        lists(KIND_PQ, 64, 1, Code::Pq4 { nsub: 16 }),
        hashes(384, Code::Signs),
    ];
    for mut parts in coded {
        let first = parts.first();
        let words = parts.block_words();
        // A code of the first row of list 0; a factor of the second: row 0, and 4, as row 2 is deleted.
        parts.block(first)[16] ^= 1;
        let factors_at = words - 2 * BLOCK_ROWS as usize;
        parts.block(first)[factors_at + 1] ^= 1 << 20;
        let found = findings(parts.saved().volume().0);
        // A hole's codes are nobody's.
        let hole = *parts.row(1) & HOLE != 0;
        assert_eq!(
            found.wrong_codes,
            if hole { 1 } else { 2 },
            "{:?}",
            parts.params
        );
        assert!((found.faults, found.wrong_rows, found.bad_image) == (0, 0, false));
    }
    // The codes of lists.
    let mut parts = lists(KIND_IVF, 64, 256, Code::Signs);
    let of_lists = parts.head(256)[0];
    parts.block(of_lists)[16] ^= 1;
    assert!(found(&parts, "1 lists have not the code of their centroid"));
    // Rows in a bucket that is not theirs.
    let mut parts = hashes(8, Code::Flat);
    let (first, other) = (parts.head(0).to_vec(), parts.head(1).to_vec());
    parts.head(1).copy_from_slice(&first);
    parts.head(0).copy_from_slice(&other);
    let mut block = first[0];
    while block != NOWHERE {
        parts.block(block)[1] = 1;
        block = parts.block(block)[0];
    }
    let found = findings(parts.saved().volume().0);
    assert_eq!(found.wrong_codes, WATERMARK - DELETED.len() as u64);
}

/// Sound is only what is: the rows of each table, walked as plainly as can be, are the live ones, and each in as many
/// lists as it should be.
fn is_right(parts: &Parts) -> bool {
    let words = parts.block_words();
    let rows_at = words - BLOCK_ROWS as usize;
    parts.tables.iter().all(|table| {
        let mut there = BTreeMap::<u32, BTreeSet<usize>>::new();
        for (list, head) in table
            .heads
            .chunks_exact(LIST_WORDS)
            .take(parts.params.nlist as usize)
            .enumerate()
        {
            let (mut block, mut left) = (head[0] as usize, head[1] as usize);
            while left > 0 {
                let Some(block_words) = table.blocks.chunks_exact(words).nth(block) else {
                    return false;
                };
                let slots = left.min(BLOCK_ROWS as usize);
                for row in &block_words[rows_at..][..slots] {
                    let hole = row & HOLE != 0;
                    if hole {
                        continue;
                    }
                    let lists = there.entry(*row).or_default();
                    if u64::from(*row) >= parts.watermark || !lists.insert(list) {
                        return false;
                    }
                }
                left -= slots;
                block = block_words[0] as usize;
            }
        }
        let copies = parts.params.copies as usize;
        let right = there.values().all(|lists| lists.len() == copies);
        right
            && (0..parts.watermark)
                .filter(|row| !parts.deleted.contains(row))
                .all(|row| there.contains_key(&(row as u32)))
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
