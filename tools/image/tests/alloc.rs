// SPDX-License-Identifier: Apache-2.0

//! The allocator against sets of numbers.

mod common;

use common::{fresh, options, Random};
use libvexfs::alloc::{Allocator, GroupSummary, ALLOCATE_BLOCKS_CREDITS};
use libvexfs::{Error, Txn};
use std::collections::BTreeSet;
use vexfs_format::group::{BLOCK_UNINIT, INODE_UNINIT};
use vexfs_format::{Geometry, FIRST_INO, ROOT_INO};
use vexfs_image::{make, Image, MemDevice};

fn free_blocks(image: &Image<MemDevice>) -> u64 {
    image.groups.iter().map(|g| u64::from(g.free_blocks)).sum()
}

#[test]
fn blocks_are_given_once_and_only_data() {
    for seed in 0..3 {
        let mut random = Random(seed);
        let mut image = fresh(300);
        let mut used: BTreeSet<u64> = BTreeSet::new();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let all = free_blocks(&image);
        for step in 0..400 {
            let saved = (used.clone(), runs.clone());
            let mut t = image.begin();
            let mut freed_now = BTreeSet::new();
            for _ in 0..random.below(5) {
                if random.below(5) < 3 || runs.is_empty() {
                    let goal = random.below(t.image().geometry.blocks_count * 5 / 4);
                    let want = 1 << random.below(13);
                    t.take_joined();
                    let given = t.allocate_blocks(goal, want);
                    assert!(t.take_joined() <= ALLOCATE_BLOCKS_CREDITS as usize);
                    match given {
                        Ok((start, len)) => {
                            assert!(len >= 1 && len <= u64::from(want));
                            for block in start..start + len {
                                assert!(!t.image().geometry.is_metadata(block));
                                assert!(used.insert(block), "seed {seed}: {block} given twice");
                                let withheld = freed_now.contains(&block);
                                assert!(!withheld, "seed {seed}: {block} reused too early");
                            }
                            runs.push((start, len));
                        }
                        Err(error) => assert_eq!(error, Error::NoSpace, "seed {seed}"),
                    }
                } else {
                    let index = random.below(runs.len() as u64) as usize;
                    let (start, len) = runs.swap_remove(index);
                    // Sometimes only a part.
                    let keep = if random.below(3) == 0 { len / 2 } else { 0 };
                    t.free_blocks(start + keep, len - keep).unwrap();
                    for block in start + keep..start + len {
                        assert!(used.remove(&block));
                        freed_now.insert(block);
                    }
                    if keep > 0 {
                        runs.push((start, keep));
                    }
                }
            }
            if random.below(5) == 0 {
                drop(t);
                (used, runs) = saved;
            } else {
                t.commit().unwrap();
            }
            assert_eq!(
                free_blocks(&image),
                all - used.len() as u64,
                "seed {seed} {step}"
            );
        }
        // The device says the same.
        let image = Image::open(image.into_device()).unwrap();
        assert_eq!(free_blocks(&image), all - used.len() as u64);
    }
}

#[test]
fn the_whole_volume_can_be_filled_and_emptied() {
    let mut image = fresh(260);
    let all = free_blocks(&image);
    let mut t = image.begin();
    let mut runs = Vec::new();
    let mut sum = 0;
    loop {
        match t.allocate_blocks(0, 5000) {
            Ok((start, len)) => {
                runs.push((start, len));
                sum += len;
            }
            Err(error) => {
                assert_eq!(error, Error::NoSpace);
                break;
            }
        }
    }
    assert_eq!(sum, all);
    for (start, len) in runs {
        t.free_blocks(start, len).unwrap();
    }
    // All free, but nothing to be had before the commit.
    assert_eq!(free_blocks(t.image()), all);
    assert_eq!(t.allocate_blocks(0, 1), Err(Error::NoSpace));
    t.commit().unwrap();
    assert!(image.begin().allocate_blocks(0, 1).is_ok());
}

/// The last group is short, the others are untouched: none of them has what is asked for,
/// and the best one is taken without touching the others.
#[test]
fn a_request_larger_than_any_group_takes_the_best_and_touches_one() {
    let mut image = fresh(1300);
    let mut t = image.begin();
    t.take_joined();
    let (_, len) = t.allocate_blocks(0, 32256).unwrap();
    assert_eq!(len, 32256 - 2 - 1008, "all of a group without superblock");
    assert!(t.take_joined() <= ALLOCATE_BLOCKS_CREDITS as usize);
    t.commit().unwrap();
    let made = image.groups.iter().filter(|g| g.flags & BLOCK_UNINIT == 0);
    assert_eq!(made.count(), 2);
}

#[test]
fn large_requests_are_aligned_and_continue_where_they_should() {
    let mut image = fresh(300);
    let mut t = image.begin();
    let (start, len) = t.allocate_blocks(0, 512).unwrap();
    assert_eq!((start % 512, len), (0, 512));
    let (next, len) = t.allocate_blocks(start + 512, 100).unwrap();
    assert_eq!((next, len), (start + 512, 100));
    // In another group if the goal is there.
    let (other, _) = t.allocate_blocks(32256 + 5000, 512).unwrap();
    assert_eq!(t.image().geometry.group_of_block(other), 1);
    // A run that is long enough is preferred to one that is near and short.
    let (a, _) = t.allocate_blocks(40000, 4).unwrap();
    let (b, _) = t.allocate_blocks(a + 4, 4).unwrap();
    assert_eq!(b, a + 4);
}

#[test]
fn freeing_what_is_free_or_no_data_is_corruption() {
    let mut image = fresh(300);
    let mut t = image.begin();
    let (start, len) = t.allocate_blocks(0, 10).unwrap();
    t.free_blocks(start, 5).unwrap();
    let bitmap = t.image().geometry.block_bitmap_block(0);
    for (first, count) in [(start, len), (start, 1), (start + 10, 1)] {
        let done = t.free_blocks(first, count);
        assert!(matches!(done, Err(Error::Corrupt { block, .. }) if block == bitmap));
    }
    // A group that never had a bitmap.
    let untouched = t.free_blocks(32256 + 9000, 1);
    assert!(matches!(untouched, Err(Error::Corrupt { block: 1, .. })));
    let end = t.image().geometry.blocks_count;
    for (first, count) in [
        (0, 1),
        (1, 1),
        (bitmap, 1),
        (end - 1, 2),
        (u64::MAX, 1),
        (9, 0),
    ] {
        let done = t.free_blocks(first, count);
        let expected = matches!(done, Err(Error::Corrupt { block, .. }) if block == first);
        assert!(expected, "{first} {done:?}");
    }
    // Nothing of that changed anything.
    t.free_blocks(start + 5, 5).unwrap();
    t.commit().unwrap();
}

#[test]
fn inodes_are_given_once_near_their_parent_and_directories_spread() {
    let mut random = Random(5);
    let mut image = fresh(700);
    let groups = image.geometry.group_count;
    let mut used = BTreeSet::new();
    for _ in 0..300 {
        let mut t = image.begin();
        let is_dir = random.below(4) == 0;
        let parent = random.below(groups);
        let ino = t.allocate_inode(parent, is_dir).unwrap();
        assert!(ino >= FIRST_INO && used.insert((ino, is_dir)));
        let group = (ino - 1) / t.image().geometry.inodes_per_group;
        if !is_dir {
            assert_eq!(group, parent);
        }
        t.commit().unwrap();
        assert_eq!(image.inode_in_use(ino), Ok(true));
    }
    let dirs: Vec<_> = image.groups.iter().map(|g| g.used_dirs).collect();
    assert!(dirs.iter().all(|d| *d > 0), "{dirs:?}");
    let dirs_of = |image: &Image<MemDevice>| image.groups.iter().map(|g| g.used_dirs).sum::<u32>();
    let made = used.iter().filter(|(_, is_dir)| *is_dir).count() as u32;
    assert_eq!(dirs_of(&image), 1 + made);
    for (ino, is_dir) in used {
        let mut t = image.begin();
        t.free_inode(ino, is_dir).unwrap();
        let twice = t.free_inode(ino, is_dir);
        assert!(matches!(twice, Err(Error::Corrupt { .. })));
        t.commit().unwrap();
        assert_eq!(image.inode_in_use(ino), Ok(false));
    }
    assert_eq!(dirs_of(&image), 1);
    assert_eq!(image.inode_in_use(0), Ok(false));
    assert_eq!(image.inode_in_use(u64::MAX), Ok(false));
    assert_eq!(image.inode_in_use(ROOT_INO), Ok(true));
    let mut t = image.begin();
    for reserved in [0, 1, ROOT_INO, 10] {
        assert!(t.free_inode(reserved, false).is_err());
    }
}

#[test]
fn every_inode_can_be_had_and_its_table_is_made_on_the_way() {
    let geometry = Geometry::plan(2048).unwrap();
    let mut device = MemDevice::default();
    make(&mut device, &geometry, &options()).unwrap();
    // The table holds garbage, as on a device that was used before.
    for index in 2..geometry.inode_table_blocks() {
        let block = geometry.inode_table_block(0, index);
        device.blocks.insert(block, vec![0xa5; 4096]);
    }
    let mut image = Image::open(device).unwrap();
    let mut t = image.begin();
    for ino in FIRST_INO..=geometry.inode_count() {
        t.take_joined();
        assert_eq!(t.allocate_inode(0, false), Ok(ino));
        assert!(t.take_joined() <= libvexfs::alloc::ALLOCATE_INODE_CREDITS as usize);
    }
    assert_eq!(t.allocate_inode(0, false), Err(Error::NoSpace));
    assert_eq!(t.allocate_inode(0, true), Err(Error::NoSpace));
    t.commit().unwrap();
    let device = image.into_device();
    for index in 2..geometry.inode_table_blocks() {
        let block = &device.blocks[&geometry.inode_table_block(0, index)];
        assert!(block.iter().all(|b| *b == 0));
    }
}

#[test]
fn summaries_that_lie_are_noticed() {
    let mut image = fresh(300);
    for change in [
        |g: &mut GroupSummary| g.free_blocks += 1,
        |g: &mut GroupSummary| g.used_dirs += 1,
        |g: &mut GroupSummary| g.flags |= BLOCK_UNINIT | INODE_UNINIT,
    ] {
        let mut groups = image.groups.clone();
        change(&mut groups[0]);
        let geo = image.geometry;
        let mut t = image.begin();
        let mut allocator = Allocator {
            geo: &geo,
            groups: &mut groups,
        };
        let done = allocator.allocate_blocks(&mut t, 0, 1, &());
        assert!(matches!(done, Err(Error::Corrupt { .. })), "{done:?}");
        drop(t);
    }
    // A node can be released once.
    let mut t = image.begin();
    let block = t.allocate_block(0).unwrap();
    t.release_block(block).unwrap();
    assert!(t.release_block(block).is_err());
}
