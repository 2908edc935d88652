// SPDX-License-Identifier: Apache-2.0

//! Extents against one entry per block.

mod common;

use common::{empty_root, fresh, Random, Root, OWNER};
use libvexfs::extent::{self, State};
use libvexfs::{Blocks, Error};

/// What a block is: nothing, or where it is and whether it was written.
type Model = Vec<Option<(u64, bool)>>;

const BLOCKS: u64 = 3000;

fn assert_equal<S: Blocks>(s: &S, root: &Root, model: &Model, seed: u64) {
    let mut logical = 0;
    while logical < BLOCKS {
        let mapping = extent::map(s, root, OWNER, logical, BLOCKS - logical).unwrap();
        assert_eq!(mapping.logical, logical, "seed {seed}");
        assert!(mapping.len > 0, "seed {seed}");
        for offset in 0..mapping.len {
            let expected = model[(logical + offset) as usize];
            let got = match mapping.state {
                State::Hole => None,
                State::Unwritten => Some((mapping.physical + offset, false)),
                State::Written => Some((mapping.physical + offset, true)),
            };
            assert_eq!(got, expected, "seed {seed} block {}", logical + offset);
        }
        logical += mapping.len;
    }
    // Neighbours that could be one extent are one.
    let mut last: Option<extent::Mapping> = None;
    logical = 0;
    let mut split = 0;
    while logical < BLOCKS {
        let mapping = extent::map(s, root, OWNER, logical, BLOCKS - logical).unwrap();
        if let Some(last) = last.filter(|l| l.state == mapping.state) {
            split += u32::from(
                mapping.state != State::Hole && last.physical + last.len == mapping.physical,
            );
        }
        logical += mapping.len;
        last = Some(mapping);
    }
    assert_eq!(split, 0, "seed {seed}: extents are not merged");
}

/// Physical places are made up: those of a contiguous file with a few gaps, so that merging
/// is possible and sometimes is not.
fn place(logical: u64) -> u64 {
    100_000 + logical + logical / 100
}

fn random_operations(seed: u64, longest: u64) {
    let mut random = Random(seed);
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut model: Model = vec![None; BLOCKS as usize];
    for step in 0..4000 {
        let logical = random.below(BLOCKS - longest - 1);
        let len = 1 + random.below(longest);
        let range = logical as usize..(logical + len) as usize;
        let saved = (root, model.clone());
        let height = libvexfs::tree::height(&root).unwrap();
        let mut t = image.begin();
        match random.below(12) {
            0..=4 => {
                // An extent is contiguous: cut where the made-up places are not.
                let len = len.min(100 - logical % 100);
                let range = logical as usize..(logical + len) as usize;
                let unwritten = random.below(4) > 0;
                let done = extent::insert(
                    &mut t,
                    &mut root,
                    OWNER,
                    logical,
                    place(logical),
                    len,
                    unwritten,
                );
                if model[range.clone()].iter().any(Option::is_some) {
                    assert_eq!(done, Err(Error::Exists), "seed {seed} step {step}");
                } else {
                    assert_eq!(done, Ok(()), "seed {seed} step {step}");
                    for block in range {
                        model[block] = Some((place(logical) + block as u64 - logical, !unwritten));
                    }
                }
                assert!(t.take_joined() <= extent::change_credits(height) as usize);
            }
            5..=8 => {
                let mut at = logical;
                while at < logical + len {
                    t.take_joined();
                    let height = libvexfs::tree::height(&root).unwrap();
                    let rest = logical + len - at;
                    let done = extent::mark_written(&mut t, &mut root, OWNER, at, rest).unwrap();
                    assert!(done > 0 && done <= rest, "seed {seed} step {step}");
                    assert!(t.take_joined() <= extent::change_credits(height) as usize);
                    at += done;
                }
                for (_, written) in model[range].iter_mut().flatten() {
                    *written = true;
                }
            }
            9 | 10 => {
                let mut freed = Vec::new();
                while !extent::punch(&mut t, &mut root, OWNER, logical, len, 2, &mut |_, p, l| {
                    freed.extend(p..p + l);
                    Ok(())
                })
                .unwrap()
                {}
                let mut expected: Vec<_> = model[range.clone()].iter().flatten().collect();
                expected.sort();
                freed.sort();
                let expected: Vec<_> = expected.into_iter().map(|(p, _)| *p).collect();
                assert_eq!(freed, expected, "seed {seed} step {step}");
                model[range].fill(None);
            }
            _ if random.below(8) == 0 => {
                let mut freed = Vec::new();
                let from = logical + BLOCKS / 4;
                let from = from.min(BLOCKS);
                while !extent::remove_tail(&mut t, &mut root, OWNER, from, 3, &mut |_, p, l| {
                    freed.extend(p..p + l);
                    Ok(())
                })
                .unwrap()
                {}
                freed.sort();
                let tail = &mut model[from as usize..];
                let mut expected: Vec<_> = tail.iter().flatten().map(|(p, _)| *p).collect();
                expected.sort();
                assert_eq!(freed, expected, "seed {seed} step {step}");
                tail.fill(None);
            }
            _ => {}
        }
        if random.below(10) == 0 {
            drop(t);
            (root, model) = saved;
        } else {
            t.commit().unwrap();
        }
        if step % 40 == 0 {
            assert_equal(&image, &root, &model, seed);
        }
    }
    assert_equal(&image, &root, &model, seed);
}

#[test]
fn behaves_as_one_entry_per_block_with_short_extents() {
    for seed in 0..8 {
        random_operations(seed, 8);
    }
}

#[test]
fn behaves_as_one_entry_per_block_with_long_extents() {
    for seed in 100..106 {
        random_operations(seed, 300);
    }
}

#[test]
fn a_file_written_in_order_is_one_extent() {
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut t = image.begin();
    extent::insert(&mut t, &mut root, OWNER, 0, 5000, 1000, true).unwrap();
    for at in (0..1000).step_by(10) {
        assert_eq!(
            extent::mark_written(&mut t, &mut root, OWNER, at, 10),
            Ok(10)
        );
        let left = extent::map(&t, &root, OWNER, 0, 1000).unwrap();
        assert_eq!((left.len, left.state), (at + 10, State::Written));
    }
    assert_eq!(t.take_joined(), 0, "everything happens in the inode");
    assert_eq!(extent::goal(&t, &root, OWNER, 1000), Some(6000));
}

#[test]
fn extents_beyond_a_tebibyte_work_and_the_last_block_is_the_last() {
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut t = image.begin();
    let far = (3u64 << 40) / 4096;
    extent::insert(&mut t, &mut root, OWNER, far, 5000, 4, false).unwrap();
    let mapping = extent::map(&t, &root, OWNER, far + 2, 100).unwrap();
    assert_eq!((mapping.physical, mapping.len), (5002, 2));
    let hole = extent::map(&t, &root, OWNER, 0, u64::MAX).unwrap();
    assert_eq!((hole.state, hole.len), (State::Hole, far));
    let end = vexfs_format::extent::MAX_LOGICAL;
    extent::insert(&mut t, &mut root, OWNER, end - 1, 9000, 1, false).unwrap();
    let past = extent::insert(&mut t, &mut root, OWNER, end, 9001, 1, false);
    assert!(matches!(past, Err(Error::Invalid(_))));
    let past = extent::map(&t, &root, OWNER, end, 1);
    assert!(matches!(past, Err(Error::Invalid(_))));
}

#[test]
fn extents_grow_to_their_limit_and_not_beyond() {
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut t = image.begin();
    let max = vexfs_format::extent::MAX_LEN;
    extent::insert(&mut t, &mut root, OWNER, 0, 1 << 30, max, false).unwrap();
    extent::insert(&mut t, &mut root, OWNER, max, (1 << 30) + max, 5, false).unwrap();
    assert_eq!(extent::map(&t, &root, OWNER, 0, u64::MAX).unwrap().len, max);
    assert_eq!(extent::map(&t, &root, OWNER, max, u64::MAX).unwrap().len, 5);
    let longer = extent::insert(&mut t, &mut root, OWNER, 9 * max, 5, max + 1, false);
    assert!(matches!(longer, Err(Error::Invalid(_))));
}
