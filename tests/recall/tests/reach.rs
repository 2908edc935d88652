// SPDX-License-Identifier: Apache-2.0

//! Graphs of inner products: long rows are everybody's neighbours, and short ones nobody's, so that paths to these
//! are lost easily.

use vexfs_ann::kmeans::Random;
use vexfs_recall::*;
use vexfs_simd_host::*;

const DIM: usize = 48;

/// Rows of clusters, some of which are much longer than others.
fn hubs(seed: u64, n: usize, clusters: u64, spread: f64) -> Rows {
    let mut random = Random(seed);
    let centres: Vec<Vec<f64>> = (0..clusters)
        .map(|_| {
            let length = (spread * unit(&mut random)).exp();
            (0..DIM).map(|_| length * unit(&mut random)).collect()
        })
        .collect();
    let mut bytes = Vec::new();
    for _ in 0..n {
        let centre = &centres[random.below(clusters) as usize];
        for c in centre {
            let x = 0.7 * c + 0.3 * unit(&mut random);
            bytes.extend((x as f32).to_le_bytes());
        }
    }
    Rows {
        elem: Elem::F32,
        metric: Metric::InnerProduct,
        dim: DIM,
        bytes,
    }
}

#[test]
fn after_a_repair_every_row_is_reached_and_nothing_is_left_to_repair() {
    for (seed, clusters, spread) in [(1, 20, 0.0), (2, 200, 2.0), (3, 3, 3.0), (4, 3, 3.0)] {
        let n = 5333;
        let rows = hubs(seed, n, clusters, spread);
        for kind in [GraphKind::Raw(Elem::F32), GraphKind::Rabitq4] {
            let codec = Codec::new(&rows, kind);
            let index = index(&codec, &rows, n as u32, 8, 40);
            let mut scratch = Scratch::new(n as u32);
            let mut arithmetic = Arithmetic::new(&rows, &codec);
            for row in 0..n {
                insert(&index, &mut scratch, &mut arithmetic, row);
            }
            let mut deleting = Scratch::new(n as u32);
            let mut others = Arithmetic::new(&rows, &codec);
            let mut sound = |lost_is_sure: bool| {
                let before = check(&index);
                let lost = before.unreachable + before.orphans;
                let joined = repair(&index, &mut scratch, &mut arithmetic);
                assert!(
                    joined <= lost && (joined > 0) == (lost > 0),
                    "{joined} of {lost}"
                );
                assert!(lost > 0 || !lost_is_sure, "the rows are not bad enough");
                let after = check(&index);
                assert_eq!(
                    (after.first_fault, after.orphans, after.unreachable),
                    (None, 0, 0)
                );
                assert_eq!(repair(&index, &mut scratch, &mut arithmetic), 0);
            };
            sound(true);
            for row in (0..n).filter(|row| row % 3 != 0) {
                index
                    .delete(&mut deleting.lend(), &mut others, row as u64)
                    .unwrap();
            }
            sound(false);
        }
    }
}
