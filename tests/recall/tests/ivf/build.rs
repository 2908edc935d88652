// SPDX-License-Identifier: Apache-2.0

//! What training and building make of rows: the same each time, every row in its lists.

use vexfs_ann::ivf::train::{self, TrainMemory};
use vexfs_ann::ivf::{Code, Params};
use vexfs_recall::lists;
use vexfs_simd_host::{Elem, Metric};

use super::{params, plain, rows_of, space, trained, twice};

#[test]
fn a_smaller_sample_is_enough_and_training_says_how_far_it_is() {
    for code in [Code::Signs, Code::Pq4 { nsub: 4 }, Code::Pq8 { nsub: 2 }] {
        let params = params(16, 20, code);
        let n = 3000;
        let space = space(Elem::F32, Metric::L2Sq, params, n);
        let sizes = TrainMemory::sizes_of(&params, n as u64, 500);
        assert_eq!(sizes.rows, 500);
        let mut steps = 0;
        let (centroids, _) = lists::train(&space, sizes, &mut || {
            steps += 1;
            false
        });
        assert_eq!(steps, train::steps(&params, 500), "{code:?}");
        assert!(centroids.iter().any(|byte| *byte != 0));
    }
}

#[test]
fn the_same_rows_and_seed_give_the_same_index() {
    let build = |code, seed| {
        let params = Params {
            seed,
            ..params(24, 300, code)
        };
        plain(params, 1500).index.digest()
    };
    for code in [Code::Signs, Code::Pq4 { nsub: 6 }] {
        let digest = build(code, 3);
        assert_eq!(digest, build(code, 3));
        assert_ne!(digest, build(code, 4));
    }
    // Insertion one batch after the other is a build.
    let params = params(24, 300, Code::Signs);
    let built = trained(Elem::F32, Metric::L2Sq, params, 1500);
    built.insert(0..1500);
    assert_eq!(built.index.digest(), build(Code::Signs, 3));
}

#[test]
fn every_row_is_in_its_lists_with_its_codes() {
    let once = [
        Code::Flat,
        Code::Signs,
        Code::Pq4 { nsub: 4 },
        Code::Pq8 { nsub: 2 },
    ];
    let once = once.map(|code| params(16, 20, code));
    let twice = [Code::Flat, Code::Pq4 { nsub: 4 }].map(|code| twice(16, 20, code));
    for params in once.into_iter().chain(twice) {
        let (n, code) = (2000, params.code);
        let built = plain(params, n);
        (0..n as u64)
            .step_by(3)
            .for_each(|row| assert!(built.delete(row)));
        let mut seen = vec![0; n];
        for list in 0..20 {
            for (row, place) in rows_of(&built, list) {
                seen[row as usize] += 1;
                assert!(built.lists_of(row).contains(&list));
                let (mut codes, mut factors) = built.codes_of(row, list);
                assert!(built.index.holds(place, row, &codes, &factors), "{code:?}");
                assert!(!built.index.holds(place, row + 1, &codes, &factors));
                if let Some(last) = codes.last_mut() {
                    *last ^= 1;
                    assert!(!built.index.holds(place, row, &codes, &factors));
                    *codes.last_mut().unwrap() ^= 1;
                    factors[2] ^= 1;
                    assert!(!built.index.holds(place, row, &codes, &factors));
                }
            }
        }
        // A row's lists are different, so it is in each of them.
        for (row, seen) in seen.into_iter().enumerate() {
            let deleted = row.is_multiple_of(3);
            assert_eq!(seen, if deleted { 0 } else { params.copies });
        }
        assert_eq!(built.index.rows_in(21, 0, &mut []), None);
        assert!(!built.index.holds(u32::MAX, 0, &[], &[0; 3]));
    }
}
