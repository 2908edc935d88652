// SPDX-License-Identifier: Apache-2.0

//! What indexes with defaults take of memory: less than half of the rows, wherever there is a way to.

use vexfs_ann::hnsw;
use vexfs_ann::hnsw::params::Defaults;
use vexfs_ann::lsh::{self, Family};
use vexfs_ann::{ivf, pq};
use vexfs_recall::graph_words;
use vexfs_simd_host::*;

fn graph(rows: u64, elem: Elem, dim: u32) -> u64 {
    let row_bytes = elem.row_bytes(dim as usize) as u32;
    let words = |bits| graph_words(elem, bits, dim as usize);
    let Defaults { bits, m } = match elem {
        Elem::Binary => Defaults { bits: 1, m: 16 },
        _ => Defaults::of(dim, row_bytes, words),
    };
    let params = hnsw::Params {
        m,
        ef_construction: 200,
        code_words: words(bits),
        seed: 1,
    };
    let layout = params.layout().expect("rows are not too long");
    layout.resident_bytes(rows as u32)
}

/// Those that take more: a node has links, whatever the row is, and the code of a bit is a bit.
fn takes_more(kind: &str, elem: Elem, dim: u32) -> bool {
    match (kind, elem) {
        ("hnsw", Elem::Binary) | ("pq", Elem::Binary) => true,
        ("hnsw", Elem::F16 | Elem::Bf16 | Elem::I8 | Elem::U8) => dim == 128,
        _ => false,
    }
}

#[test]
fn defaults_take_less_than_half_of_the_rows_where_they_can() {
    for rows in [10_000u64, 55_783, 1_000_000] {
        for elem in Elem::ALL {
            for dim in [128u32, 384, 768, 1536] {
                let row_bytes = elem.row_bytes(dim as usize) as u32;
                let family = Family::Signs;
                let all = [
                    ("hnsw", graph(rows, elem, dim)),
                    (
                        "ivf",
                        ivf::Params::default_for(rows, dim, row_bytes).resident_bytes(rows),
                    ),
                    ("pq", pq::flat(dim, false, 1).resident_bytes(rows)),
                    (
                        "lsh",
                        lsh::Params::default_for(rows, dim, row_bytes, family).resident_bytes(rows),
                    ),
                ];
                let mut twice = ivf::Params {
                    code: ivf::Code::Flat,
                    copies: 2,
                    ..ivf::Params::default_for(rows, dim, row_bytes)
                };
                twice.nlist = twice.default_nlist(rows, row_bytes);
                let raw = rows * u64::from(row_bytes);
                // Without codes but in two lists, as by inner product.
                let twice = ("ivf without codes", twice.resident_bytes(rows));
                for (kind, bytes) in all.into_iter().chain([twice]) {
                    let each = bytes as f64 / rows as f64;
                    let what = format!(
                        "{rows} rows of {dim} {}, {kind}: {each:.1} bytes a row, {} %",
                        elem.name(),
                        100 * bytes / raw
                    );
                    println!("{what}");
                    assert_eq!(2 * bytes > raw, takes_more(kind, elem, dim), "{what}");
                }
            }
        }
    }
}
