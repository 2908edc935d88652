// SPDX-License-Identifier: Apache-2.0

//! Images of indexes and damage: found when they are opened, or without harm.

use std::sync::atomic::Ordering;

use vexfs_ann::ivf::{Code, Error, Fault, Store};
use vexfs_ann::kmeans::Random;
use vexfs_recall::All;
use vexfs_simd_host::Elem;

use super::{memory, params, plain, queries, query, twice};

#[test]
fn an_image_opens_as_the_same_index() {
    for params in [
        params(32, 300, Code::Flat),
        params(32, 300, Code::Signs),
        twice(32, 300, Code::Signs),
    ] {
        let built = plain(params, 3000);
        (0..500).for_each(|row| assert!(built.delete(row * 3)));
        let opened = built.open(built.index.store().copy()).ok().unwrap();
        assert_eq!(opened.digest(), built.index.digest());
        assert_eq!(opened.counts(), built.index.counts());
    }
}

#[test]
fn damage_is_found_or_does_no_harm() {
    let mut random = Random(17);
    let once = [Code::Flat, Code::Signs, Code::Pq8 { nsub: 4 }];
    let once = once.map(|code| params(16, 260, code));
    for params in once.into_iter().chain([twice(16, 260, Code::Flat)]) {
        let code = params.code;
        let mut built = plain(params, 600);
        (0..100).for_each(|row| assert!(built.delete(row * 5)));
        built.index.compact::<()>(3).unwrap();
        let q = &queries(Elem::F32, 16, 1)[0];
        let list_words = built.space.params.list_words();
        let words = built.index.store().words().len();
        let (mut refused, mut opened) = (0, 0);
        for _ in 0..600 {
            let arena = built.index.store().copy();
            for _ in 0..1 + random.below(2) {
                // Heads of lists as often as blocks, small numbers as often as any.
                let at = if random.below(2) == 0 {
                    random.below(list_words as u64)
                } else {
                    random.below(words as u64)
                } as usize;
                let value = match random.below(4) {
                    0 => random.word() as u32,
                    1 => u32::MAX >> random.below(3),
                    _ => random.below(100) as u32,
                };
                arena.words()[at].store(value, Ordering::Relaxed);
            }
            match built.open(arena) {
                Err(report) => {
                    assert!(report.unwrap().fault.is_some());
                    refused += 1;
                }
                Ok(index) => {
                    // Codes and factors may be any: searches, changes and checks end without a panic.
                    opened += 1;
                    let mut memory = memory(&built, 20);
                    let (work, how) = (&mut memory.lend(), query(30, 20));
                    let found = built.search_of(&index, work, q, &mut All, &how, 10);
                    found.unwrap();
                    let codes = vec![1; index.layout().nsub as usize];
                    let mut writer = index.writer();
                    let _ = writer.append::<()>(random.below(260) as u32, 0, &codes, &[1; 3]);
                    let _ = writer.delete::<()>(&[0], 7);
                }
            }
        }
        assert!(
            refused > 100 && opened > 60,
            "{code:?}: {refused} refused, {opened} opened"
        );
    }
}

#[test]
fn a_damaged_index_in_use_ends_its_searches() {
    // Not opened, so not checked: what memory that breaks would do.
    let built = plain(params(16, 8, Code::Signs), 1000);
    let mut random = Random(19);
    let words = built.index.store().words();
    let q = &queries(Elem::F32, 16, 1)[0];
    let mut memory = memory(&built, 20);
    for _ in 0..300 {
        let list = &words[random.below(8 * 4) as usize];
        let old = list.swap(random.below(50) as u32, Ordering::Relaxed);
        let (work, how) = (&mut memory.lend(), query(8, 20));
        let result = built.search_of(&built.index, work, q, &mut All, &how, 10);
        assert!(matches!(result, Ok(_) | Err(Error::Damaged)), "{result:?}");
        list.store(old, Ordering::Relaxed);
    }
}

#[test]
fn a_check_names_the_list_and_the_fault() {
    let built = plain(params(16, 8, Code::Flat), 1000);
    let words = built.index.store().words();
    let word = |at: usize| words[at].load(Ordering::Relaxed);
    let first = word(4);
    let block = built.index.store().lists().len() + first as usize * 48;
    for (at, value, fault) in [
        (4, 100_000, Fault::Chain),
        (4, word(0), Fault::Owner),
        (5, 100_000, Fault::Chain),
        (7, first * 32, Fault::Holes),
        (block + 1, 3, Fault::Owner),
        (block + 16, 1_000, Fault::Row),
        (block + 16, word(block + 17), Fault::Twice),
    ] {
        let old = words[at].swap(value, Ordering::Relaxed);
        assert_eq!(built.check().fault, Some((1, fault)));
        words[at].store(old, Ordering::Relaxed);
    }
    assert_eq!(built.check().fault, None);
}
