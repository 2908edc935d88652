// SPDX-License-Identifier: Apache-2.0

//! Repairs: what can be mended is, what can't be is left as it is, and a repair that is cut off at any write leaves a
//! volume that the next one mends.

mod common;

use common::damage::{all, volume, Damage};
use common::Random;
use std::io;
use vexfs_format::{header, BLOCK_SIZE};
use vexfs_image::check::{self, Found};
use vexfs_image::mend::mend;
use vexfs_image::{crc, Device, Image, MemDevice};

/// A device on which writes get lost from one on.
struct CutOff {
    device: MemDevice,
    writes_left: usize,
}

impl Device for CutOff {
    fn read_block(&self, block: u64, out: &mut [u8]) -> io::Result<()> {
        self.device.read_block(block, out)
    }

    fn write_block(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        if self.writes_left == 0 {
            return Err(io::ErrorKind::Other.into());
        }
        self.writes_left -= 1;
        self.device.write_block(block, bytes)
    }
}

fn examine<D: Device>(image: &mut Image<D>) -> Found {
    check::examine(image, &mut ()).unwrap()
}

/// Mends until nothing is left that can be; says what is left, or fails where a write does.
fn repair<D: Device>(image: &mut Image<D>) -> Result<Vec<String>, libvexfs::Error> {
    for _ in 0..10 {
        let found = examine(image);
        let mut mends: Vec<_> = found
            .problems
            .iter()
            .filter_map(|p| p.mend.as_ref())
            .collect();
        mends.sort_by_key(|mend| !matches!(mend, check::Mend::Group(_)));
        let mut any = false;
        for what in mends {
            match mend(image, &found, what) {
                Ok(()) => any = true,
                Err(libvexfs::Error::Io) => return Err(libvexfs::Error::Io),
                Err(_) => {}
            }
        }
        if !any {
            return Ok(found.problems.into_iter().map(|p| p.text).collect());
        }
    }
    panic!("it does not come to an end: {:?}", examine(image).problems);
}

#[test]
fn the_volume_itself_is_sound() {
    let mut image = Image::open(volume()).unwrap();
    let report = check::check(&mut image).unwrap();
    assert_eq!((report.directories, report.files), (2, 3));
}

#[test]
fn each_kind_of_damage_is_said_and_mended_or_left() {
    for Damage { words, can, make } in all() {
        let damaged = make(volume());
        let mut image = Image::open_damaged(damaged).unwrap();
        let found = examine(&mut image);
        let said = |text: &str| text.contains(words);
        assert!(
            found.problems.iter().any(|p| said(&p.text)),
            "{words}: {:?}",
            found.problems
        );
        let left = repair(&mut image).unwrap();
        assert_eq!(left.is_empty(), can, "{words}: {left:?}");
        assert_eq!(left.iter().any(|text| said(text)), !can, "{left:?}");
        let mut again = Image::open_damaged(image.into_device()).unwrap();
        assert_eq!(check::check(&mut again).is_ok(), can, "{words}");
    }
}

#[test]
fn a_repair_can_be_cut_off_at_any_write() {
    let mut cuts = 0;
    for Damage { words, make, .. } in all().into_iter().filter(|damage| damage.can) {
        for writes_left in 0.. {
            let device = make(volume());
            let mut image = Image::open_damaged(CutOff {
                device,
                writes_left,
            })
            .unwrap();
            let done = repair(&mut image).is_ok();
            let mut image = Image::open_damaged(image.into_device().device).unwrap();
            let left = repair(&mut image).unwrap();
            assert!(left.is_empty(), "{words}, {writes_left} writes: {left:?}");
            if done {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 50, "{cuts}");
}

/// What could not be read keeps its blocks: nothing of it is free after a repair.
#[test]
fn nothing_is_freed_that_may_belong_to_what_is_unreadable() {
    let mut incomplete = 0;
    for Damage { words, make, .. } in all().into_iter().filter(|damage| !damage.can) {
        let device = make(volume());
        let mut image = Image::open(device.clone()).unwrap();
        // A bitmap that has too much besides.
        let mut t = image.begin();
        t.allocate_blocks(0, 8).unwrap();
        t.commit().unwrap();
        if examine(&mut image).complete {
            continue;
        }
        incomplete += 1;
        let before = image.groups[0].free_blocks;
        repair(&mut image).unwrap();
        assert_eq!(image.groups[0].free_blocks, before, "{words}");
    }
    assert_eq!(incomplete, 3);
}

/// Random bytes anywhere, some of them under checksums that fit: checks and repairs end, and what is called sound
/// after a repair is.
#[test]
fn random_damage_harms_nobody() {
    let rounds = if cfg!(debug_assertions) { 300 } else { 3000 };
    let (whole, image) = (volume(), Image::open(volume()).unwrap());
    let (geometry, seed) = (image.geometry, image.seed);
    let mut blocks: Vec<u64> = whole.blocks.keys().copied().collect();
    blocks.sort_unstable();
    // All but the journal, which nobody looks at here.
    let journal = geometry.journal_start..geometry.journal_start + geometry.journal_blocks;
    blocks.retain(|block| !journal.contains(block) && *block > 0);
    let (mut sound, mut mended, mut left, mut refused) = (0, 0, 0, 0);
    for round in 0..rounds {
        let mut random = Random(round);
        let mut device = whole.clone();
        for _ in 0..1 + random.below(4) {
            // Mostly there is an image; the first blocks are bitmaps and inodes.
            let most = if random.below(2) == 0 {
                6
            } else {
                blocks.len()
            };
            let block = blocks[random.below(most as u64) as usize];
            let bytes = device.blocks.get_mut(&block).unwrap();
            let table = geometry.inode_table_block(0, 0);
            let in_table = (table..table + 3).contains(&block);
            for _ in 0..1 + random.below(3) {
                let at = match random.below(3) {
                    0 => 32 + random.below(200),
                    _ => random.below(BLOCK_SIZE as u64),
                } as usize;
                bytes[at] = match random.below(3) {
                    0 => random.next() as u8,
                    1 => bytes[at].wrapping_add(1),
                    _ => bytes[at] ^ 1 << random.below(8),
                };
            }
            if random.below(4) > 0 && !in_table {
                header::seal(block, bytes, seed, crc);
            } else if in_table && random.below(4) > 0 {
                reseal_inodes(bytes, geometry.ino(0, (block - table) * 8), seed);
            }
        }
        let Ok(mut image) = Image::open_damaged(device) else {
            refused += 1;
            continue;
        };
        if examine(&mut image).problems.is_empty() {
            sound += 1;
            continue;
        }
        let still = repair(&mut image).unwrap();
        let mut again = Image::open_damaged(image.into_device()).unwrap();
        let said: Vec<String> = check::check(&mut again).err().unwrap_or_default();
        assert_eq!(said, still, "round {round}");
        match still.is_empty() {
            true => mended += 1,
            false => left += 1,
        }
    }
    assert!(
        mended > 20 && left > 20,
        "{sound} {mended} {left} {refused}"
    );
}

/// Gives the inodes of a table block checksums that fit.
fn reseal_inodes(block: &mut [u8], first: u64, seed: u32) {
    for (ino, raw) in (first..).zip(block.chunks_exact_mut(512)) {
        if raw.iter().any(|b| *b != 0) {
            let sum = crc(seed, &ino.to_le_bytes());
            let sum = crc(sum, &raw[28..32]);
            let sum = crc(sum, &raw[..4]);
            let sum = crc(sum, &[0; 4]);
            let sum = crc(sum, &raw[8..]);
            raw[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}
