// SPDX-License-Identifier: Apache-2.0

//! Images of HNSW graphs: a sound one passes, and what a check of the graph alone can't know is found, too.

mod common;

use common::graph::{change_node, code_words, cut_off, saved, saved_of, saved_with, DIM};
use common::saved::{checked, findings, Saved};
use vexfs_format::index::RECORD_STALE;
use vexfs_format::BLOCK_SIZE;
use vexfs_simd_host::{Elem, GraphKind, NBITS_F16};
use vexfs_uapi::Findings;

#[test]
fn a_sound_graph_passes_and_damage_is_found() {
    type Damage = fn(&mut Saved);
    let damage: [(&str, Damage); 12] = [
        ("1 live rows below the watermark", |s| {
            s.deleted.remove(0);
        }),
        ("1 live rows below the watermark", |s| s.batch = 6),
        ("1 live rows below the watermark", |s| s.watermark += 1),
        ("a row above the watermark", |s| s.watermark -= 1),
        ("has more or fewer nodes than it says", |s| s.state[1] += 1),
        ("no room for them", |s| {
            s.rows = 1 << 40;
            s.watermark = s.rows;
        }),
        ("codes of another kind", |s| s.state[4] += 1),
        ("codes of another kind", |s| s.state[5] += 1),
        ("centre of another size", |s| s.state[3] -= 4),
        ("no walk can come by 1 rows", cut_off),
        (
            "1 rows have not the code of their vector, the first is",
            |s| {
                change_node(s, 7, |words| words[0] ^= 1);
            },
        ),
        ("leads to no node of its level", |s| {
            change_node(s, 7, |words| words[code_words() + 5] = 5000);
        }),
    ];
    assert_eq!(checked(saved().volume().0), Ok(()));
    for (words, damage) in damage {
        let mut damaged = saved();
        damage(&mut damaged);
        let problems = checked(damaged.volume().0).expect_err(words);
        assert!(problems.iter().any(|p| p.contains(words)), "{problems:?}");
    }
}

#[test]
fn codes_have_the_bits_that_the_image_says() {
    let kinds = [
        (GraphKind::Rabitq1, 1),
        (GraphKind::Rabitq4, 4),
        (GraphKind::Sq8, 8),
        (GraphKind::Raw(Elem::F32), 32),
        (GraphKind::Raw(Elem::Bf16), 16),
        (GraphKind::Raw(Elem::F16), NBITS_F16),
    ];
    for (kind, bits) in kinds {
        for nbits in [1, 4, 8, 16, 32, NBITS_F16, 2, u32::MAX] {
            let checked = checked(saved_with(kind, nbits).volume().0);
            assert_eq!(
                checked.is_ok(),
                nbits == bits,
                "{kind:?} {nbits}: {checked:?}"
            );
        }
    }
}

#[test]
fn codes_that_are_rows_have_no_centre() {
    let mut damaged = saved_with(GraphKind::Raw(Elem::F32), 32);
    assert_eq!(damaged.state[3], 0);
    damaged.state[3] = 4 * DIM as u64;
    damaged.sections[2].2 = vec![0; BLOCK_SIZE];
    let problems = checked(damaged.volume().0).expect_err("a centre");
    assert!(
        problems[0].contains("centre of another size"),
        "{problems:?}"
    );
}

#[test]
fn nodes_longer_than_a_block_are_checked_to_their_end() {
    type Damage = fn(&mut Saved);
    let kind = GraphKind::Raw(Elem::F32);
    let saved = || saved_of(kind, 32, 1100);
    // 1100 words of a code, 5 of a header, 16 links.
    let bytes = (4 * (1100 + 5 + 16usize)).next_multiple_of(64);
    assert_eq!((saved().sections[0].1, bytes), (64, 4544));
    assert_eq!(checked(saved().volume().0), Ok(()));
    let damage: [(&str, Damage); 5] = [
        ("1 rows have not the code of their vector", |s| {
            s.sections[0].2[4544 * 7 + 4 * 1099] ^= 1;
        }),
        ("1 rows have not the code of their vector", |s| {
            s.vectors[4400 * 8 + 3] ^= 1;
        }),
        ("leads to no node of its level", |s| {
            s.sections[0].2[4544 * 7 + 4 * 1105..][..4].copy_from_slice(&[0, 0, 9, 0]);
        }),
        ("more or fewer nodes", |s| {
            s.sections[0].2.truncate(4544 * 289 - 64);
        }),
        ("nodes of another size", |s| s.sections[0].1 = 32),
    ];
    for (words, damage) in damage {
        let mut damaged = saved();
        damage(&mut damaged);
        let problems = checked(damaged.volume().0).expect_err(words);
        assert!(problems.iter().any(|p| p.contains(words)), "{problems:?}");
    }
}

#[test]
fn what_is_wrong_is_counted() {
    let sound = Findings {
        rows: 290,
        ..Findings::default()
    };
    assert_eq!(findings(saved().volume().0), sound);
    let mut damaged = saved();
    cut_off(&mut damaged);
    let unreachable = 1;
    assert_eq!(
        findings(damaged.volume().0),
        Findings {
            unreachable,
            ..sound
        }
    );
    let mut damaged = saved();
    for slot in [1, 3, 9] {
        change_node(&mut damaged, slot, |words| words[2] ^= 0x100);
    }
    damaged.deleted.remove(0);
    let (wrong_codes, wrong_rows) = (3, 1);
    assert_eq!(
        findings(damaged.volume().0),
        Findings {
            wrong_codes,
            wrong_rows,
            ..sound
        }
    );
    // Another vector has another code.
    let mut damaged = saved();
    damaged.vectors[256 * 8 + 3] ^= 1;
    assert_eq!(findings(damaged.volume().0).wrong_codes, 1);
    // Where rows were overwritten, the kernel knows that codes are wrong.
    damaged.flags = RECORD_STALE;
    assert_eq!(findings(damaged.volume().0), sound);
    let (mut device, blocks) = saved().volume();
    device.blocks.get_mut(&(blocks.start + 2)).unwrap()[9] ^= 1;
    let bad_image = true;
    assert_eq!(
        findings(device),
        Findings {
            bad_image,
            ..Findings::default()
        }
    );
}
