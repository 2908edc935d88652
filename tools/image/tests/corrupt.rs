// SPDX-License-Identifier: Apache-2.0

//! Damaged volumes: what is read is right or an error, and nothing panics or loops.

mod common;

use common::{fresh, options, Random, Root, OWNER};
use libvexfs::{check, dir, extent, tree, Error};
use std::collections::BTreeMap;
use vexfs_format::{header, superblock, Geometry, Inode, Superblock, BLOCK_SIZE, ROOT_INO};
use vexfs_image::{crc, Image, MemDevice};

const SEED: &[u8; 16] = b"seed of the hash";

type Model = BTreeMap<u64, Vec<u8>>;

/// A volume with one tree of three levels.
fn volume() -> (MemDevice, Root, Model, Vec<u64>) {
    let mut image = fresh(8);
    let mut root = common::empty_root();
    let mut random = Random(1);
    let mut model = Model::new();
    let mut t = image.begin();
    for _ in 0..2500 {
        let key = random.next() >> 20;
        let record = random.bytes(60);
        if tree::insert(&mut t, &mut root, OWNER, key, &record).is_ok() {
            model.insert(key, record);
        }
    }
    t.commit().unwrap();
    assert_eq!(tree::height(&root), Ok(2));
    let mut nodes = Vec::new();
    let mut note = |block| {
        nodes.push(block);
        Ok(())
    };
    check::tree(&image, &root, OWNER, &mut note, &mut |_, _| Ok(())).unwrap();
    (image.into_device(), root, model, nodes)
}

fn is_corruption(error: Error) -> bool {
    matches!(
        error,
        Error::Corrupt { .. }
            | Error::BadChecksum { .. }
            | Error::CorruptInode { .. }
            | Error::BadInodeChecksum { .. }
    )
}

/// Every byte of a leaf, an inner node, a bitmap and a descriptor block, flipped in turn.
#[test]
fn every_flipped_byte_is_noticed() {
    let (device, root, model, nodes) = volume();
    let (inner, leaf) = (nodes[0], nodes[1]);
    for block in [inner, leaf] {
        for at in 0..BLOCK_SIZE {
            let mut device = device.clone();
            device.blocks.get_mut(&block).unwrap()[at] ^= 0x40;
            let image = Image::open(device).unwrap();
            let mut read = Vec::new();
            let done = tree::for_each_from(&image, &root, OWNER, 0, |key, record| {
                read.push((key, record.to_vec()));
                Ok(true)
            });
            assert_eq!(done, Err(Error::BadChecksum { block }), "byte {at}");
            assert!(read.iter().all(|(k, r)| model.get(k) == Some(r)));
        }
    }
    let geometry = Image::open(device.clone()).unwrap().geometry;
    for at in 0..BLOCK_SIZE {
        let mut damaged = device.clone();
        damaged.blocks.get_mut(&1).unwrap()[at] ^= 1;
        assert_eq!(
            Image::open(damaged).err(),
            Some(Error::BadChecksum { block: 1 })
        );
        let mut damaged = device.clone();
        let block = geometry.block_bitmap_block(0);
        damaged.blocks.get_mut(&block).unwrap()[at] ^= 1;
        let mut image = Image::open(damaged).unwrap();
        let done = image.begin().allocate_blocks(0, 1);
        assert_eq!(done, Err(Error::BadChecksum { block }));
    }
}

#[test]
fn blocks_in_the_wrong_place_are_noticed() {
    let (device, root, _, nodes) = volume();
    let scan = |device: MemDevice, owner| {
        let image = Image::open(device).unwrap();
        tree::for_each_from(&image, &root, owner, 0, |_, _| Ok(true))
    };
    let (a, b) = (nodes[1], nodes[2]);
    let mut swapped = device.clone();
    let (left, right) = (swapped.blocks[&a].clone(), swapped.blocks[&b].clone());
    swapped.blocks.insert(a, right);
    swapped.blocks.insert(b, left);
    assert_eq!(scan(swapped, OWNER), Err(Error::BadChecksum { block: a }));
    let mut lost = device.clone();
    lost.blocks.insert(a, vec![0; BLOCK_SIZE]);
    assert_eq!(scan(lost, OWNER), Err(Error::BadChecksum { block: a }));
    let other = scan(device, OWNER + 1);
    assert!(matches!(other, Err(Error::Corrupt { block, .. }) if block == nodes[0]));
}

/// Damage under a checksum that was made to fit, as somebody would who wants to harm us:
/// every operation ends, without panic, and within the number of blocks there are.
#[test]
fn hostile_nodes_harm_nobody() {
    let (device, root, _, nodes) = volume();
    let seed = vexfs_format::seed(&options().uuid, crc);
    let rounds = if cfg!(debug_assertions) { 1000 } else { 10_000 };
    let mut errors = 0;
    for round in 0..rounds {
        let mut random = Random(round);
        let mut device = device.clone();
        let mut root = root;
        for _ in 0..1 + random.below(3) {
            let block = nodes[random.below(nodes.len().min(30) as u64) as usize];
            let bytes = device.blocks.get_mut(&block).unwrap();
            // Mostly where it hurts: the header and the slots.
            for _ in 0..1 + random.below(4) {
                let at = match random.below(4) {
                    0 => 8 + random.below(24),
                    1 | 2 => 32 + random.below(1000),
                    _ => random.below(BLOCK_SIZE as u64),
                } as usize;
                bytes[at] = match random.below(3) {
                    0 => random.next() as u8,
                    1 => bytes[at].wrapping_add(1),
                    _ => bytes[at] ^ 1 << random.below(8),
                };
            }
            if random.below(6) == 0 {
                // A child that is one of our nodes: a loop, or two parents.
                let child = nodes[random.below(nodes.len() as u64) as usize];
                let at = BLOCK_SIZE - 8 * (1 + random.below(20) as usize);
                bytes[at..at + 8].copy_from_slice(&child.to_le_bytes());
            }
            header::seal(block, bytes, seed, crc);
        }
        if random.below(3) == 0 {
            let at = random.below(root.len() as u64) as usize;
            root[at] = random.next() as u8;
            if vexfs_format::node::check(&root, 0).is_err() {
                continue;
            }
        }
        if random.below(4) == 0 {
            // A bitmap that has nodes as free.
            let number = Image::open(device.clone()).unwrap().geometry;
            let number = number.block_bitmap_block(0);
            let bitmap = device.blocks.get_mut(&number).unwrap();
            for _ in 0..20 {
                let node = nodes[random.below(nodes.len() as u64) as usize] as usize;
                bitmap[64 + node / 8] &= !(1 << (node % 8));
            }
            header::seal(number, bitmap, seed, crc);
        }
        let mut image = Image::open(device).unwrap();
        let mut visited = 0;
        let mut note = |result: Result<(), Error>| {
            errors += u32::from(result.is_err_and(is_corruption));
        };
        note(tree::for_each_from(&image, &root, OWNER, 0, |_, _| {
            visited += 1;
            assert!(visited < 400 * nodes.len(), "round {round}: a loop");
            Ok(true)
        }));
        note(check::tree(&image, &root, OWNER, &mut |_| Ok(()), &mut |_, _| Ok(())).map(|_| ()));
        let mut t = image.begin();
        for _ in 0..40 {
            let key = random.next() >> 20;
            let ge = tree::seek_ge(&t, &root, OWNER, key, |k, _| k);
            let le = tree::seek_le(&t, &root, OWNER, key, |k, _| k);
            if let (Ok(Some(ge)), Ok(Some(le))) = (ge, le) {
                assert!(le <= key && key <= ge, "round {round}");
            }
            note(ge.map(|_| ()));
            // After an error a transaction is given up, but nothing depends on that here.
            let record = random.bytes(random.0 as usize % 1000);
            note(tree::insert(&mut t, &mut root, OWNER, key, &record));
            if let Ok(Some(key)) = ge {
                note(tree::replace(&mut t, &mut root, OWNER, key, &record));
                note(tree::rekey(&mut t, &mut root, OWNER, key, key + 1, &record).map(|_| ()));
                note(tree::remove(&mut t, &mut root, OWNER, key));
            }
            note(extent::map(&t, &root, OWNER, key & 0xffff, 10).map(|_| ()));
            note(dir::lookup(&t, &root, OWNER, SEED, b"name").map(|_| ()));
        }
        for _ in 0..2 * nodes.len() {
            match tree::destroy_step(&mut t, &mut root, OWNER, 4) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    note(Err(error));
                    break;
                }
            }
        }
    }
    assert!(
        errors as u64 > rounds,
        "damage was noticed only {errors} times"
    );
}

#[test]
fn every_flipped_byte_of_the_superblock_is_noticed() {
    let (device, ..) = volume();
    for at in superblock::OFFSET..superblock::OFFSET + superblock::BYTES {
        for flip in [1, 0x80] {
            let mut device = device.clone();
            device.blocks.get_mut(&0).unwrap()[at] ^= flip;
            let error = Image::open(device).err();
            let expected = if at < superblock::OFFSET + 8 {
                matches!(error, Some(Error::Invalid(_)))
            } else {
                error == Some(Error::BadChecksum { block: 0 })
            };
            assert!(expected, "byte {at}: {error:?}");
        }
    }
}

/// A superblock with any values in it and a fitting checksum is refused or usable.
#[test]
fn hostile_superblocks_harm_nobody() {
    let geometry = Geometry::plan(100_000).unwrap();
    let mut refused = 0;
    for round in 0..20_000 {
        let mut random = Random(round);
        let options = options();
        let mut sb = Superblock::new(&geometry, options.uuid, options.hash_seed);
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut sb);
        for _ in 0..1 + random.below(3) {
            let at = 12 + random.below(240) as usize;
            bytes[at] = random.next() as u8;
        }
        sb.seal(crc);
        let bytes = zerocopy::IntoBytes::as_bytes(&sb);
        let Ok(sb) = Superblock::parse(bytes, crc) else {
            refused += 1;
            continue;
        };
        let geometry = sb.geometry().unwrap();
        for group in [0, geometry.group_count / 2, geometry.group_count - 1] {
            let metadata: u64 = geometry
                .metadata_in_group(group)
                .map(|r| r.end - r.start)
                .sum();
            assert!(metadata < geometry.blocks_in_group(group));
            for range in geometry.metadata_in_group(group) {
                assert!(range.end <= geometry.blocks_count);
            }
        }
        for ino in [1, geometry.inode_count()] {
            let (block, _) = geometry.inode_location(ino).unwrap();
            assert!(geometry.is_metadata(block) && block < geometry.blocks_count);
        }
        assert_eq!(geometry.inode_location(0), None);
        assert_eq!(geometry.inode_location(geometry.inode_count() + 1), None);
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn hostile_inodes_are_refused_or_make_sense() {
    let image = fresh(8);
    let root = image.read_inode(ROOT_INO).unwrap();
    let mut raw = [0; 512];
    root.encode(&mut raw, ROOT_INO, image.seed, crc);
    assert_eq!(
        Inode::parse(&raw, ROOT_INO, image.seed, crc),
        Ok(root.clone())
    );
    for at in 0..512 {
        let mut bad = raw;
        bad[at] ^= 4;
        let error = Inode::parse(&bad, ROOT_INO, image.seed, crc).unwrap_err();
        assert_eq!(
            error,
            vexfs_format::Error::BadInodeChecksum { ino: ROOT_INO },
            "byte {at}"
        );
    }
    // Another inode's place, another volume, nothing at all.
    assert!(Inode::parse(&raw, ROOT_INO + 1, image.seed, crc).is_err());
    assert!(Inode::parse(&raw, ROOT_INO, image.seed + 1, crc).is_err());
    assert!(Inode::parse(&[0; 512], ROOT_INO, image.seed, crc).is_err());
    assert!(Inode::parse(&raw[..511], ROOT_INO, image.seed, crc).is_err());
    // Rules that a fitting checksum does not help with.
    let refuse = |change: fn(&mut Inode)| {
        let mut inode = root.clone();
        change(&mut inode);
        let mut raw = [0; 512];
        inode.encode(&mut raw, ROOT_INO, image.seed, crc);
        let error = Inode::parse(&raw, ROOT_INO, image.seed, crc);
        assert!(
            matches!(error, Err(vexfs_format::Error::CorruptInode { .. })),
            "{error:?}"
        );
    };
    refuse(|i| i.mode = 0o070644);
    refuse(|i| i.size = 1 << 63);
    refuse(|i| i.flags = 1 << 20);
    refuse(|i| i.mtime.nsec = 1_000_000_000);
    refuse(|i| i.flags |= vexfs_format::inode::FLAG_VECTOR);
    refuse(|i| i.tree_root[0] = 200);
    refuse(|i| i.tree_root[2] = 1);
}
