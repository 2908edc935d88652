// SPDX-License-Identifier: Apache-2.0

//! The B+tree against `BTreeMap`.

mod common;

use common::{empty_root, fresh, Random, Root, OWNER};
use libvexfs::{check, tree, Error};
use std::collections::{BTreeMap, BTreeSet};
use vexfs_image::{Image, MemDevice};

type Model = BTreeMap<u64, Vec<u8>>;

/// The whole tree equals the model, and every node is claimed once and in use.
fn assert_equal(image: &Image<MemDevice>, root: &Root, model: &Model, seed: u64) {
    let mut nodes = BTreeSet::new();
    let mut records = Vec::new();
    check::tree(
        image,
        root,
        OWNER,
        &mut |block| {
            assert!(nodes.insert(block), "seed {seed}: node {block} twice");
            Ok(())
        },
        &mut |key, record| {
            records.push((key, record.to_vec()));
            Ok(())
        },
    )
    .unwrap();
    let expected: Vec<_> = model.iter().map(|(k, v)| (*k, v.clone())).collect();
    assert_eq!(records, expected, "seed {seed}");
    let free: u64 = image.groups.iter().map(|g| u64::from(g.free_blocks)).sum();
    let data: u64 = (0..image.geometry.group_count)
        .map(|g| image.geometry.data_blocks_in_group(g))
        .sum();
    assert_eq!(
        data - free,
        nodes.len() as u64,
        "seed {seed}: leaked blocks"
    );
}

fn random_operations(seed: u64, keys: u64, max_record: u64, steps: u32) {
    let mut random = Random(seed);
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut model = Model::new();
    for step in 0..steps {
        // Phases that grow and phases that shrink, so that heights come and go.
        let growing = (step / 400) % 2 == 0;
        let saved = (root, model.clone());
        let mut t = image.begin();
        for _ in 0..=random.below(4) {
            let key = random.below(keys);
            let len = random.below(max_record + 1) as usize;
            let record = random.bytes(len);
            let height = tree::height(&root).unwrap();
            t.take_joined();
            t.take_discarded();
            match random.below(10) {
                0..=4 if growing => {
                    let done = tree::insert(&mut t, &mut root, OWNER, key, &record);
                    match model.entry(key) {
                        std::collections::btree_map::Entry::Occupied(_) => {
                            assert_eq!(done, Err(Error::Exists), "seed {seed}")
                        }
                        std::collections::btree_map::Entry::Vacant(entry) => {
                            assert_eq!(done, Ok(()), "seed {seed} step {step}");
                            entry.insert(record);
                        }
                    }
                    assert!(t.take_joined() <= tree::insert_credits(height) as usize);
                }
                5 => {
                    let done = tree::replace(&mut t, &mut root, OWNER, key, &record);
                    match model.get_mut(&key) {
                        Some(old) => {
                            assert_eq!(done, Ok(()), "seed {seed}");
                            *old = record;
                        }
                        None => assert_eq!(done, Err(Error::NotFound), "seed {seed}"),
                    }
                    assert!(t.take_joined() <= tree::insert_credits(height) as usize);
                }
                6 => {
                    let le = tree::seek_le(&t, &root, OWNER, key, |k, r| (k, r.to_vec()));
                    let expected = model.range(..=key).next_back();
                    let expected = expected.map(|(k, v)| (*k, v.clone()));
                    assert_eq!(le, Ok(expected), "seed {seed}");
                    let ge = tree::seek_ge(&t, &root, OWNER, key, |k, r| (k, r.to_vec()));
                    let expected = model.range(key..).next().map(|(k, v)| (*k, v.clone()));
                    assert_eq!(ge, Ok(expected), "seed {seed}");
                    let got = tree::get(&t, &root, OWNER, key, <[u8]>::to_vec);
                    assert_eq!(got, Ok(model.get(&key).cloned()), "seed {seed}");
                }
                _ => {
                    // Something that exists, most of the time.
                    let key = model.range(key..).next().map_or(key, |(k, _)| *k);
                    let done = tree::remove(&mut t, &mut root, OWNER, key);
                    match model.remove(&key) {
                        Some(_) => assert_eq!(done, Ok(()), "seed {seed} step {step}"),
                        None => assert_eq!(done, Err(Error::NotFound), "seed {seed}"),
                    }
                    assert!(t.take_joined() <= tree::remove_credits(height) as usize);
                    assert!(t.take_discarded() <= tree::remove_revokes(height) as usize);
                }
            }
        }
        if random.below(8) == 0 {
            // A crash: the transaction never was.
            drop(t);
            (root, model) = saved;
        } else {
            t.commit().unwrap();
        }
        if step % 50 == 0 {
            assert_equal(&image, &root, &model, seed);
        }
    }
    // What is on the device alone is the same tree.
    let image = Image::open(image.into_device()).unwrap();
    assert_equal(&image, &root, &model, seed);
}

#[test]
fn behaves_as_a_map_with_small_records() {
    for seed in 0..6 {
        random_operations(seed, 1 << 40, 24, 3000);
    }
}

#[test]
fn behaves_as_a_map_with_dense_keys() {
    for seed in 10..14 {
        random_operations(seed, 600, 60, 3000);
    }
}

#[test]
fn behaves_as_a_map_with_records_of_every_size() {
    for seed in 20..26 {
        random_operations(seed, 1 << 20, 1000, 2500);
    }
}

#[test]
fn appended_records_fill_their_nodes() {
    let mut image = fresh(64);
    let mut root = empty_root();
    let mut model = Model::new();
    for key in 0..20_000u64 {
        let mut t = image.begin();
        let record = [key as u8; 24];
        tree::insert(&mut t, &mut root, OWNER, key, &record).unwrap();
        t.commit().unwrap();
        model.insert(key, record.to_vec());
    }
    assert_equal(&image, &root, &model, 0);
    let mut nodes = 0;
    check::tree(
        &image,
        &root,
        OWNER,
        &mut |_| {
            nodes += 1;
            Ok(())
        },
        &mut |_, _| Ok(()),
    )
    .unwrap();
    // 4064 bytes hold 112 records of 36 bytes.
    assert!(nodes <= 20_000 / 112 + 5, "{nodes} nodes");
}

#[test]
fn keys_at_both_ends_of_the_range_work() {
    let mut image = fresh(16);
    let mut root = empty_root();
    let mut t = image.begin();
    for low in 0..500 {
        tree::insert(&mut t, &mut root, OWNER, u64::MAX - low, &[1; 40]).unwrap();
        tree::insert(&mut t, &mut root, OWNER, low, &[2; 40]).unwrap();
    }
    assert!(tree::height(&root).unwrap() > 0);
    let last = tree::seek_le(&t, &root, OWNER, u64::MAX, |k, _| k);
    assert_eq!(last, Ok(Some(u64::MAX)));
    let middle = tree::seek_ge(&t, &root, OWNER, 500, |k, _| k);
    assert_eq!(middle, Ok(Some(u64::MAX - 499)));
    let middle = tree::seek_le(&t, &root, OWNER, u64::MAX - 500, |k, _| k);
    assert_eq!(middle, Ok(Some(499)));
    for low in 0..500 {
        tree::remove(&mut t, &mut root, OWNER, low).unwrap();
        tree::remove(&mut t, &mut root, OWNER, u64::MAX - low).unwrap();
    }
    assert_eq!(tree::is_empty(&root), Ok(true));
    assert_eq!(tree::height(&root), Ok(0));
}

#[test]
fn running_out_of_space_changes_nothing() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut model = Model::new();
    let mut t = image.begin();
    // All but three blocks are gone.
    while image_free(&t) > 3 {
        t.allocate_blocks(0, (image_free(&t) - 3) as u32).unwrap();
    }
    let mut random = Random(7);
    let mut refused = 0;
    while refused < 200 {
        let key = random.next();
        let record = random.bytes(900);
        let before = root;
        let free = image_free(&t);
        match tree::insert(&mut t, &mut root, OWNER, key, &record) {
            Ok(()) => {
                model.insert(key, record);
            }
            Err(error) => {
                assert_eq!(error, Error::NoSpace);
                assert_eq!(root, before);
                // Blocks tried and given back are withheld until the commit.
                assert_eq!(image_free(&t), free);
                refused += 1;
            }
        }
    }
    for (key, record) in &model {
        let got = tree::get(&t, &root, OWNER, *key, <[u8]>::to_vec);
        assert_eq!(got, Ok(Some(record.clone())));
    }
}

fn image_free(t: &vexfs_image::Transaction<'_, MemDevice>) -> u64 {
    let groups = &t.image().groups;
    groups.iter().map(|g| u64::from(g.free_blocks)).sum()
}

#[test]
fn destroying_frees_everything_in_bounded_steps() {
    let mut image = fresh(64);
    let mut root = empty_root();
    let mut t = image.begin();
    let before = image_free(&t);
    let mut random = Random(3);
    for _ in 0..30_000 {
        let record = random.bytes(30);
        tree::insert(&mut t, &mut root, OWNER, random.next(), &record).unwrap();
    }
    t.commit().unwrap();
    let mut steps = 0;
    loop {
        let mut t = image.begin();
        let height = tree::height(&root).unwrap();
        let free = image_free(&t);
        let finished = tree::destroy_step(&mut t, &mut root, OWNER, 10).unwrap();
        assert!(image_free(&t) - free <= 10 + u64::from(height));
        assert!(t.take_joined() <= tree::destroy_credits(height, 10) as usize);
        assert!(t.take_discarded() <= tree::destroy_revokes(height, 10) as usize);
        t.commit().unwrap();
        // Between steps it is a tree.
        check::tree(&image, &root, OWNER, &mut |_| Ok(()), &mut |_, _| Ok(())).unwrap();
        steps += 1;
        if finished {
            break;
        }
    }
    assert!(steps > 10);
    assert_eq!(tree::is_empty(&root), Ok(true));
    assert_eq!(image_free(&image.begin()), before);
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut t = image.begin();
    let done = tree::insert(&mut t, &mut root, OWNER, 1, &[0; 1001]);
    assert!(matches!(done, Err(Error::Invalid(_))));
    tree::insert(&mut t, &mut root, OWNER, 1, &[0; 1000]).unwrap();
}

#[test]
fn rekeying_keeps_order_or_refuses() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut t = image.begin();
    for key in [10, 20, 30] {
        tree::insert(&mut t, &mut root, OWNER, key, &[0; 16]).unwrap();
    }
    assert_eq!(
        tree::rekey(&mut t, &mut root, OWNER, 20, 25, &[1; 16]),
        Ok(true)
    );
    assert_eq!(
        tree::rekey(&mut t, &mut root, OWNER, 25, 30, &[1; 16]),
        Ok(false)
    );
    assert_eq!(
        tree::rekey(&mut t, &mut root, OWNER, 25, 5, &[1; 16]),
        Ok(false)
    );
    assert_eq!(
        tree::rekey(&mut t, &mut root, OWNER, 25, 26, &[1; 8]),
        Ok(false)
    );
    let missing = tree::rekey(&mut t, &mut root, OWNER, 7, 8, &[1; 16]);
    assert_eq!(missing, Err(Error::NotFound));
    assert_eq!(tree::get(&t, &root, OWNER, 25, |r| r[0]), Ok(Some(1)));
}
