// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Records and image headers there and back, what they refuse, and where blocks of an image are.

use std::collections::BTreeSet;
use vexfs_format::header::HEADER_BYTES;
use vexfs_format::index::*;
use vexfs_format::{seal, seed, BLOCK_SIZE};

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

fn parameters() -> Parameters {
    Parameters {
        m: 0xf1f2_f3f4,
        ef_construction: 0xe1e2_e3e4,
        nlist: 0xd1d2_d3d4,
        nsub: 0xc1c2_c3c4,
        nbits: 0xb1b2_b3b4,
        ntables: 0xa1a2_a3a4,
    }
}

#[test]
fn things_longer_than_a_block_lie_in_pieces() {
    let of = |bytes, count| {
        let section = Section::of(3, bytes, count);
        (
            section.tag,
            section.item_bytes,
            section.items,
            section.blocks(),
        )
    };
    assert_eq!(of(384, 11), (3, 384, 11, 2));
    assert_eq!(of(4096, 11), (3, 4096, 11, 11));
    // No part of a block is left over.
    assert_eq!(of(4160, 64), (3, 64, 64 * 65, 65));
    assert_eq!(of(4160, 0), (3, 64, 0, 0));
    assert_eq!(of(16_704, u64::MAX).2, u64::MAX);
}

#[test]
fn a_record_comes_back_as_it_was_and_a_wrong_one_is_refused() {
    let record = IndexRecord {
        flags: RECORD_STALE,
        parameters: parameters(),
        image_ino: u64::MAX - 1,
        generation: u64::MAX - 2,
    };
    let bytes = record.encode();
    assert_eq!(IndexRecord::parse(&bytes), Ok(record));
    assert!(IndexRecord::parse(&bytes[1..]).is_err());
    let mut unknown = bytes;
    unknown[1] = 1;
    assert!(IndexRecord::parse(&unknown).is_err());
}

fn header() -> ImageHeader {
    let mut header = ImageHeader {
        kind: KIND_LSH,
        generation: u64::MAX - 3,
        watermark: u64::MAX - 4,
        dim: 0x9192_9394,
        element: 3,
        metric: 2,
        parameters: parameters(),
        state: core::array::from_fn(|i| u64::MAX - 100 - i as u64),
        ..ImageHeader::default()
    };
    for (i, section) in header.sections.iter_mut().enumerate().take(5) {
        *section = Section {
            tag: 10 + i as u32,
            item_bytes: [4096, 1000, 1, 4095, 384][i],
            items: [3, 9, 4097, 0, 1_000_000][i],
        };
    }
    header
}

#[test]
fn a_header_comes_back_as_it_was_and_only_in_its_place() {
    let (header, seed) = (header(), seed(&[5; 16], crc));
    let mut block = vec![7; BLOCK_SIZE];
    header.encode(&mut block, 77, 12, seed, crc);
    assert_eq!(ImageHeader::parse(&block, 77, 12, seed, crc), Ok(header));
    for (block_no, ino, seed) in [(78, 12, seed), (77, 13, seed), (77, 12, seed ^ 1)] {
        assert!(ImageHeader::parse(&block, block_no, ino, seed, crc).is_err());
    }
    for byte in 0..BLOCK_SIZE {
        block[byte] ^= 4;
        assert!(ImageHeader::parse(&block, 77, 12, seed, crc).is_err());
        block[byte] ^= 4;
    }
}

/// With a checksum that fits, whatever the header says.
#[test]
fn sections_of_no_possible_size_are_refused() {
    let seed = seed(&[5; 16], crc);
    let sections = HEADER_BYTES + 192;
    let change = |at: usize, bytes: &[u8]| {
        let mut block = vec![0; BLOCK_SIZE];
        header().encode(&mut block, 77, 12, seed, crc);
        block[at..at + bytes.len()].copy_from_slice(bytes);
        seal(77, &mut block, seed, crc);
        ImageHeader::parse(&block, 77, 12, seed, crc)
    };
    assert!(change(0, b"v").is_ok());
    assert!(change(HEADER_BYTES, &2u32.to_le_bytes()).is_err());
    assert!(change(sections + 4, &4097u32.to_le_bytes()).is_err());
    assert!(change(sections + 4, &0u32.to_le_bytes()).is_err());
    assert!(change(sections + 8, &4u64.to_le_bytes()).is_err());
    assert!(change(sections + 8, &u64::MAX.to_le_bytes()).is_err());
}

#[test]
fn every_block_of_an_image_has_one_use() {
    let header = header();
    let blocks = [3, 3, 2, 0, 100_000];
    for (i, blocks) in blocks.into_iter().enumerate() {
        assert_eq!(header.sections[i].blocks(), blocks);
    }
    assert_eq!(header.section(12), Some((header.sections[2], 6)));
    assert_eq!(header.section(14), Some((header.sections[4], 8)));
    assert_eq!(header.section(0), None);
    let mut used = BTreeSet::from([0]);
    for data in 0..header.data_blocks() {
        assert!(used.insert(data_position(data)));
        if data % SUMS == 0 {
            assert!(used.insert(sums_position(data)));
        }
        assert_eq!(sums_position(data), sums_position(data / SUMS * SUMS));
    }
    assert_eq!(used.len() as u64, header.blocks());
    assert_eq!(used.last(), Some(&(header.blocks() - 1)));
}

#[test]
fn sums_of_a_group_do_not_disturb_each_other() {
    let mut sums = vec![0; BLOCK_SIZE];
    for data in SUMS..2 * SUMS {
        set_sum(&mut sums, data, data as u32 ^ 0x5555_5555);
    }
    for data in SUMS..2 * SUMS {
        assert_eq!(sum_of(&sums, data), data as u32 ^ 0x5555_5555);
    }
    assert!(sums[..SUMS_AT].iter().all(|byte| *byte == 0));
    let data = vec![1; BLOCK_SIZE];
    assert_ne!(data_sum(5, &data, 1, crc), data_sum(6, &data, 1, crc));
}

#[test]
fn the_state_of_a_graph_has_its_words_in_their_order() {
    let mut words: [u64; STATE_WORDS] = core::array::from_fn(|i| 0x100 + i as u64);
    for (i, pair) in words.iter_mut().skip(7).take(4).enumerate() {
        let low = 0x8000_0000 + 2 * i as u64;
        *pair = low | (low + 1) << 32;
    }
    words[11..].fill(0);
    let state = GraphState {
        entry: 0x100,
        used: 0x101,
        used_uppers: 0x102,
        centre_bytes: 0x103,
        level_seed: 0x104,
        code_seed: 0x105,
        code_words: 0x106,
        spread: core::array::from_fn(|i| 0x8000_0000 + i as u32),
    };
    assert_eq!(state.words(), words);
    assert_eq!(GraphState::of(&words), state);
    // What versions after this one add is none of its business.
    words[11..].fill(9);
    assert_eq!(GraphState::of(&words), state);
}
