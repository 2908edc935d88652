// SPDX-License-Identifier: Apache-2.0

//! Directories against `HashMap`, and their cookies under change.

mod common;

use common::{empty_root, fresh, Random, OWNER};
use libvexfs::{dir, tree, Error};
use std::collections::{BTreeMap, HashMap, HashSet};
use vexfs_format::dirent::{Dirent, MAX_DIRENT};

const SEED: &[u8; 16] = b"seed of the hash";

#[test]
fn behaves_as_a_map_of_names() {
    for seed in 0..5 {
        let mut random = Random(seed);
        let mut image = fresh(32);
        let mut root = empty_root();
        let mut model: HashMap<Vec<u8>, (u64, u8)> = HashMap::new();
        let mut cookies: HashMap<Vec<u8>, u64> = HashMap::new();
        for step in 0..4000 {
            let number = random.below(700);
            let mut name = format!("name-{number}").into_bytes();
            name.resize(name.len() + (number % 240) as usize, b'x');
            let (ino, kind) = (1 + random.below(1 << 40), random.below(13) as u8);
            let saved = (root, model.clone());
            let mut t = image.begin();
            match random.below(4) {
                0 | 1 => {
                    let done = dir::insert(&mut t, &mut root, OWNER, SEED, &name, ino, kind);
                    if model.contains_key(&name) {
                        assert_eq!(done, Err(Error::Exists), "seed {seed}");
                    } else {
                        assert_eq!(done, Ok(()), "seed {seed}");
                        model.insert(name.clone(), (ino, kind));
                        cookies.remove(&name);
                    }
                }
                2 => {
                    let done = dir::remove(&mut t, &mut root, OWNER, SEED, &name);
                    let expected = model.remove(&name).map(|_| ()).ok_or(Error::NotFound);
                    assert_eq!(done, expected, "seed {seed}");
                }
                _ => {
                    let done = dir::replace(&mut t, &mut root, OWNER, SEED, &name, ino, kind);
                    match model.get_mut(&name) {
                        Some(entry) => {
                            assert_eq!(done, Ok(()), "seed {seed}");
                            *entry = (ino, kind);
                        }
                        None => assert_eq!(done, Err(Error::NotFound), "seed {seed}"),
                    }
                }
            }
            let found = dir::lookup(&t, &root, OWNER, SEED, &name);
            assert_eq!(found, Ok(model.get(&name).copied()), "seed {seed}");
            if random.below(6) == 0 {
                drop(t);
                (root, model) = saved;
            } else {
                t.commit().unwrap();
            }
            if step % 100 != 0 {
                continue;
            }
            let mut listed = HashMap::new();
            let mut last = 1;
            dir::for_each_from(&image, &root, OWNER, 0, |entry| {
                assert!(entry.cookie > last && entry.cookie <= i64::MAX as u64);
                last = entry.cookie;
                let known = cookies.entry(entry.name.to_vec()).or_insert(entry.cookie);
                assert_eq!(*known, entry.cookie, "seed {seed}: a cookie changed");
                let value = (entry.ino, entry.file_type);
                assert!(listed.insert(entry.name.to_vec(), value).is_none());
                Ok(true)
            })
            .unwrap();
            assert_eq!(listed, model, "seed {seed}");
            assert_eq!(dir::is_empty(&root), Ok(model.is_empty()));
        }
    }
}

/// What stays is seen exactly once, by a reader that stops at every few entries while
/// others come and go.
#[test]
fn a_reader_misses_nothing_while_the_directory_changes() {
    for seed in 0..5 {
        let mut random = Random(seed);
        let mut image = fresh(32);
        let mut root = empty_root();
        let mut t = image.begin();
        for n in 0..2000u64 {
            let name = format!("stays-{n}");
            dir::insert(&mut t, &mut root, OWNER, SEED, name.as_bytes(), n + 1, 8).unwrap();
        }
        let mut seen = HashSet::new();
        let mut cookie = 0;
        loop {
            let mut batch = 0;
            let mut more = false;
            dir::for_each_from(&t, &root, OWNER, cookie, |entry| {
                if batch == 7 {
                    more = true;
                    return Ok(false);
                }
                batch += 1;
                cookie = entry.cookie + 1;
                let new = seen.insert(entry.name.to_vec());
                assert!(new, "seed {seed}: seen twice");
                Ok(true)
            })
            .unwrap();
            if !more {
                break;
            }
            for _ in 0..10 {
                let name = format!("comes-{}", random.below(300));
                let name = name.as_bytes();
                if seen.contains(name) {
                    continue;
                }
                if dir::insert(&mut t, &mut root, OWNER, SEED, name, 9, 8).is_err() {
                    dir::remove(&mut t, &mut root, OWNER, SEED, name).unwrap();
                }
            }
        }
        for n in 0..2000 {
            assert!(
                seen.contains(format!("stays-{n}").as_bytes()),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn small_directories_stay_in_the_inode() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut t = image.begin();
    for name in ["a.txt", "b.txt", "notes", "lib"] {
        dir::insert(&mut t, &mut root, OWNER, SEED, name.as_bytes(), 20, 8).unwrap();
    }
    assert_eq!(tree::height(&root), Ok(0));
    assert_eq!(t.take_joined(), 0);
}

#[test]
fn names_that_are_none_are_refused() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut t = image.begin();
    let mut insert = |name: &[u8]| dir::insert(&mut t, &mut root, OWNER, SEED, name, 20, 8);
    assert_eq!(insert(&[b'x'; 256]), Err(Error::NameTooLong));
    assert_eq!(insert(&[b'x'; 255]), Ok(()));
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert!(matches!(insert(name), Err(Error::Invalid(_))), "{name:?}");
    }
    let mut insert = |ino, kind| dir::insert(&mut t, &mut root, OWNER, SEED, b"n", ino, kind);
    assert!(matches!(insert(0, 8), Err(Error::Invalid(_))));
    assert!(matches!(insert(20, 13), Err(Error::Invalid(_))));
}

/// Names whose hashes collide cannot be made, so the cookies of one hash are filled with
/// other names by hand.
#[test]
fn names_with_equal_hashes_are_told_apart_until_there_are_254() {
    let mut image = fresh(8);
    let mut root = empty_root();
    let mut t = image.begin();
    dir::insert(&mut t, &mut root, OWNER, SEED, b"wanted", 7, 8).unwrap();
    let first = tree::seek_ge(&t, &root, OWNER, 0, |cookie, _| cookie);
    let first = first.unwrap().unwrap();
    assert_eq!(first & 0xff, 2);
    for n in 1..254u64 {
        let name = format!("other-{n}");
        let entry = Dirent {
            ino: 1000 + n,
            file_type: 8,
            name: name.as_bytes(),
        };
        let mut buffer = [0; MAX_DIRENT];
        let record = entry.encode(&mut buffer).unwrap();
        tree::insert(&mut t, &mut root, OWNER, first + n, record).unwrap();
    }
    assert_eq!(
        dir::lookup(&t, &root, OWNER, SEED, b"wanted"),
        Ok(Some((7, 8)))
    );
    dir::remove(&mut t, &mut root, OWNER, SEED, b"wanted").unwrap();
    dir::insert(&mut t, &mut root, OWNER, SEED, b"wanted", 8, 8).unwrap();
    assert_eq!(
        dir::lookup(&t, &root, OWNER, SEED, b"wanted"),
        Ok(Some((8, 8)))
    );
    // The place of another one is found, wherever it is.
    dir::remove(&mut t, &mut root, OWNER, SEED, b"wanted").unwrap();
    let record = [&1000u64.to_le_bytes()[..], &[8], b"last"].concat();
    tree::insert(&mut t, &mut root, OWNER, first, &record).unwrap();
    let full = dir::insert(&mut t, &mut root, OWNER, SEED, b"wanted", 8, 8);
    assert_eq!(full, Err(Error::TooManyCollisions));
    tree::remove(&mut t, &mut root, OWNER, first + 100).unwrap();
    dir::insert(&mut t, &mut root, OWNER, SEED, b"wanted", 9, 8).unwrap();
    let place = tree::get(&t, &root, OWNER, first + 100, |r| r[9..].to_vec());
    assert_eq!(place, Ok(Some(b"wanted".to_vec())));
}

/// A million entries with optimisation; less without, where it would take minutes.
#[test]
fn a_million_entries_are_created_found_listed_and_removed() {
    let entries: u64 = if cfg!(debug_assertions) {
        30_000
    } else {
        1_000_000
    };
    let mut image = fresh(512);
    let mut root = empty_root();
    let name = |n: u64| format!("file-{n:07}");
    for base in (0..entries).step_by(1000) {
        let mut t = image.begin();
        for n in base..entries.min(base + 1000) {
            let done = dir::insert(
                &mut t,
                &mut root,
                OWNER,
                SEED,
                name(n).as_bytes(),
                n + 11,
                8,
            );
            assert_eq!(done, Ok(()), "{n}");
        }
        t.commit().unwrap();
    }
    assert!(tree::height(&root).unwrap() <= 4);
    for n in (0..entries).step_by(97) {
        let found = dir::lookup(&image, &root, OWNER, SEED, name(n).as_bytes());
        assert_eq!(found, Ok(Some((n + 11, 8))));
    }
    let mut listed = BTreeMap::new();
    dir::for_each_from(&image, &root, OWNER, 0, |entry| {
        listed.insert(entry.ino, entry.name.to_vec());
        Ok(true)
    })
    .unwrap();
    assert_eq!(listed.len() as u64, entries);
    assert!(listed.iter().all(|(ino, n)| name(ino - 11).as_bytes() == n));
    for base in (0..entries).step_by(1000) {
        let mut t = image.begin();
        for n in base..entries.min(base + 1000) {
            let done = dir::remove(&mut t, &mut root, OWNER, SEED, name(n).as_bytes());
            assert_eq!(done, Ok(()), "{n}");
        }
        t.commit().unwrap();
    }
    assert_eq!(dir::is_empty(&root), Ok(true));
    assert_eq!(tree::height(&root), Ok(0));
}

#[test]
fn symbolic_links_of_every_length_come_back() {
    use libvexfs::symlink;
    let mut image = fresh(8);
    let mut random = Random(1);
    let mut out = [0; symlink::MAX_TARGET];
    for len in [1, 2, 155, 156, 157, 960, 961, 1919, 1920, 1921, 4094, 4095] {
        let mut root = empty_root();
        let target = random.bytes(len);
        let mut t = image.begin();
        symlink::write(&mut t, &mut root, OWNER, &target).unwrap();
        assert!(t.take_joined() <= symlink::WRITE_CREDITS as usize);
        assert_eq!(tree::height(&root).unwrap() == 0, len <= 156, "{len}");
        let read = symlink::read(&t, &root, OWNER, &mut out).unwrap();
        assert_eq!(out[..read], target, "{len}");
    }
    let mut root = empty_root();
    let mut t = image.begin();
    let long = symlink::write(&mut t, &mut root, OWNER, &[b'x'; 4096]);
    assert_eq!(long, Err(Error::NameTooLong));
    let none = symlink::read(&t, &root, OWNER, &mut out);
    assert!(matches!(none, Err(Error::CorruptInode { ino: OWNER, .. })));
}
