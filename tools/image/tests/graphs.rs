// SPDX-License-Identifier: Apache-2.0

//! Images of HNSW graphs: a sound one passes, and what a check of the graph alone can't know is found, too.

mod common;
#[path = "../../../ann/tests/common/mod.rs"]
mod graph;

use common::saved::{bytes, checked, Saved};
use graph::{delete, index, insert, points, Scratch};
use vexfs_ann::hnsw::Params;
use vexfs_format::index::{Parameters, KIND_HNSW};

/// Rows of the container; the graph has those below the watermark, but not row 40 any more.
const ROWS: u64 = 300;
const WATERMARK: u64 = 290;
const DELETED: [u64; 2] = [40, 41];

const PARAMS: Params = Params {
    m: 8,
    ef_construction: 60,
    code_words: graph::DIM as u32,
    seed: 9,
};

fn saved() -> Saved {
    let rows = points(ROWS as usize, 5);
    let graph = index(PARAMS, ROWS as u32, rows.len());
    let mut scratch = Scratch::new(ROWS as u32, 512);
    for row in 0..WATERMARK as usize {
        insert(&graph, &mut scratch, &rows, row);
    }
    delete(&graph, &mut scratch, &rows, DELETED[0] as usize);
    let layout = PARAMS.layout().unwrap();
    let image = graph.image();
    let (nodes, uppers) = graph.store().words();
    let nodes = &nodes[..image.used as usize * layout.node_words()];
    let uppers = &uppers[..image.used_uppers as usize * layout.upper_words()];
    Saved {
        kind: KIND_HNSW,
        dim: 64,
        parameters: Parameters {
            m: PARAMS.m,
            ef_construction: PARAMS.ef_construction,
            ..Parameters::default()
        },
        state: vec![
            image.entry,
            image.used.into(),
            image.used_uppers.into(),
            0,
            PARAMS.seed,
            0,
            PARAMS.code_words.into(),
        ],
        sections: vec![
            (1, layout.node_bytes(), bytes(nodes)),
            (2, layout.upper_bytes(), bytes(uppers)),
        ],
        rows: ROWS,
        watermark: WATERMARK,
        deleted: DELETED.to_vec(),
        batch: 5,
    }
}

#[test]
fn a_sound_graph_passes_and_damage_is_found() {
    type Damage = fn(&mut Saved);
    let damage: [(&str, Damage); 6] = [
        ("1 live rows below the watermark", |s| {
            s.deleted.remove(0);
        }),
        ("1 live rows below the watermark", |s| s.batch = 6),
        ("1 live rows below the watermark", |s| s.watermark += 1),
        ("the graph is not sound", |s| s.watermark -= 1),
        ("has fewer nodes than it says", |s| s.state[1] += 1),
        ("no room for them", |s| {
            s.rows = 1 << 40;
            s.watermark = s.rows;
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
