// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Geometry for many sizes, sealing and verifying, and every record there and back.

use vexfs_format::dirent::{Dirent, MAX_DIRENT};
use vexfs_format::extent::Extent;
use vexfs_format::geometry::{has_superblock, Geometry, BLOCKS_PER_GROUP, MAX_GROUPS};
use vexfs_format::inode::{FLAG_VECTOR, MAX_SIZE};
use vexfs_format::row::{RowMeta, REUSED_ROW_BYTES, ROW_BYTES};
use vexfs_format::vector_area::{self, VectorArea};
use vexfs_format::{header, seed, Error, Inode, InodeTime, Superblock, BLOCK_SIZE};

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Sizes around every edge, and a spread of others, in blocks.
fn sizes() -> Vec<u64> {
    let mut sizes: Vec<u64> = (2048..4200).collect();
    for groups in [1, 2, 3, 4, 10, 64, 1000, 133_000] {
        let edge = groups * BLOCKS_PER_GROUP;
        sizes.extend(edge - 3..edge + 3);
        sizes.extend(edge + 1060..edge + 1090);
    }
    sizes.extend((0..2000).map(|n| 5000 + n * n * 37));
    sizes.push(MAX_GROUPS * BLOCKS_PER_GROUP);
    sizes
}

#[test]
fn every_size_has_a_layout_without_overlap() {
    for size in sizes() {
        let geometry = Geometry::plan(size).unwrap_or_else(|e| panic!("{size}: {e:?}"));
        assert_eq!(geometry.check(), Ok(()), "{size}");
        assert!(geometry.blocks_count <= size && geometry.blocks_count + 1100 > size);
        let last = geometry.group_count - 1;
        for group in [0, 1, 3, last / 2, last] {
            let group = group.min(last);
            let first = geometry.group_first_block(group);
            let end = first + geometry.blocks_in_group(group);
            let mut at = first;
            for range in geometry.metadata_in_group(group) {
                assert!(
                    range.start >= at && range.end <= end,
                    "{size} group {group}"
                );
                at = range.end;
                assert!(geometry.is_metadata(range.start) && geometry.is_metadata(range.end - 1));
            }
            assert!(geometry.data_blocks_in_group(group) >= 64);
            let places = [
                geometry.block_bitmap_block(group),
                geometry.inode_bitmap_block(group),
                geometry.inode_table_block(group, 0),
                geometry.inode_table_block(group, geometry.inode_table_blocks() - 1),
            ];
            assert!(places.windows(2).all(|p| p[0] < p[1]));
            assert!(places.iter().all(|p| geometry.is_metadata(*p)), "{size}");
            assert!(geometry.is_metadata(first));
            assert!(geometry.is_data_range(end - 1, 1), "{size} group {group}");
            assert!(!geometry.is_data_range(end - 1, geometry.blocks_count));
            for index in [0, geometry.inodes_per_group - 1] {
                let ino = geometry.ino(group, index);
                assert_eq!(geometry.inode_position(ino), Some((group, index)));
            }
        }
        let sb = Superblock::new(&geometry, [7; 16], [8; 16]);
        assert_eq!(sb.geometry(), Ok(geometry), "{size}");
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    for size in [0, 1, 2047, (MAX_GROUPS + 1) * BLOCKS_PER_GROUP, u64::MAX] {
        assert!(matches!(Geometry::plan(size), Err(Error::Invalid(_))));
    }
}

#[test]
fn superblock_copies_are_in_group_1_and_powers_of_3_5_and_7() {
    let copies: Vec<u64> = (0..400).filter(|g| has_superblock(*g)).collect();
    assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
}

#[test]
fn a_sealed_block_verifies_as_itself_only() {
    let seed = seed(&[1; 16], crc);
    let mut block = vec![0; BLOCK_SIZE];
    header::init(&mut block, 77, header::MAGIC_GROUPS, 5);
    block[4000] = 9;
    header::seal(77, &mut block, seed, crc);
    let verify = |no, magic, owner, seed| header::verify(no, magic, owner, &block, seed, crc);
    assert_eq!(verify(77, header::MAGIC_GROUPS, 5, seed), Ok(()));
    let elsewhere = verify(78, header::MAGIC_GROUPS, 5, seed);
    assert_eq!(elsewhere, Err(Error::BadChecksum { block: 78 }));
    let other_volume = verify(77, header::MAGIC_GROUPS, 5, seed ^ 1);
    assert_eq!(other_volume, Err(Error::BadChecksum { block: 77 }));
    for (magic, owner) in [(header::MAGIC_NODE, 5), (header::MAGIC_GROUPS, 6)] {
        let other = verify(77, magic, owner, seed);
        assert!(matches!(other, Err(Error::Corrupt { block: 77, .. })));
    }
    let short = header::verify(77, header::MAGIC_GROUPS, 5, &block[..512], seed, crc);
    assert!(short.is_err());
}

/// Every field has a place of its own: all come back with values that use all their bits.
#[test]
fn an_inode_comes_back_as_it_was() {
    let time = |n: i64| InodeTime {
        sec: -(1 << 40) * n,
        nsec: 999_999_990 + n as u32,
    };
    let inode = Inode {
        mode: 0o107777,
        uid: 0xf1f2_f3f4,
        gid: 0xe1e2_e3e4,
        nlink: 0x0102_0304,
        flags: FLAG_VECTOR | 2 | 64,
        generation: 0xd1d2_d3d4,
        rdev: 0xc1c2_c3c4,
        project: 0xb1b2_b3b4,
        size: MAX_SIZE,
        blocks: u64::MAX - 1,
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        btime: time(4),
        parent_ino: u64::MAX - 2,
        parent_generation: 0xa1a2_a3a4,
        data_seq: u64::MAX - 3,
        attach_seq: u64::MAX - 4,
        xattr_block: u64::MAX - 5,
        vector: VectorArea {
            dim: 1000,
            element: vector_area::ELEMENT_INT8,
            metric: vector_area::METRIC_COSINE,
            flags: 0x1234,
            stride: 1024,
            align: 64,
            rows: 1 << 50,
            live: (1 << 50) - 1,
            generation: u64::MAX - 6,
            batch_started: u64::MAX - 7,
            batch_done: u64::MAX - 8,
            row_meta_ino: u64::MAX - 9,
            key_map_ino: u64::MAX - 10,
            index_ino: u64::MAX - 11,
            model_tag: u64::MAX - 12,
        },
        xattrs: core::array::from_fn(|i| i as u8),
        ..Inode::empty()
    };
    let seed = seed(&[3; 16], crc);
    let mut raw = [0; 512];
    inode.encode(&mut raw, 99, seed, crc);
    assert_eq!(Inode::parse(&raw, 99, seed, crc), Ok(inode));
}

#[test]
fn records_come_back_as_they_were_and_wrong_ones_are_refused() {
    let extent = Extent {
        logical: 5,
        physical: u64::MAX - (1 << 20),
        len: 1 << 20,
        unwritten: true,
    };
    assert_eq!(Extent::parse(5, &extent.encode()), Ok(extent));
    let wrong = |change: fn(&mut [u8; 16])| {
        let mut record = extent.encode();
        change(&mut record);
        assert!(Extent::parse(5, &record).is_err());
    };
    wrong(|r| r[8..12].fill(0));
    wrong(|r| r[8] = 1);
    wrong(|r| r[12] = 2);
    wrong(|r| r[..8].fill(0));
    wrong(|r| r[..8].fill(0xff));
    assert!(Extent::parse(u64::MAX, &extent.encode()).is_err());
    assert!(Extent::parse(5, &extent.encode()[..15]).is_err());

    let entry = Dirent {
        ino: u64::MAX,
        file_type: 12,
        name: &[b'n'; 255],
    };
    let mut buffer = [0; MAX_DIRENT];
    assert_eq!(Dirent::parse(entry.encode(&mut buffer).unwrap()), Ok(entry));
    for record in [
        &[1; 9][..],
        &[1; 300],
        b"\0\0\0\0\0\0\0\0\x08n",
        b"12345678\x08a/b",
    ] {
        assert!(Dirent::parse(record).is_err(), "{record:?}");
    }

    let row = RowMeta {
        key: u64::MAX,
        tags: 1 << 63,
        tomb_seq: 12345,
        born_seq: 0,
    };
    assert_eq!(RowMeta::parse(row.encode().as_slice()), Ok(row));
    assert_eq!(row.encode().as_slice().len(), ROW_BYTES);
    let reused = RowMeta {
        born_seq: 12346,
        ..row
    };
    assert_eq!(RowMeta::parse(reused.encode().as_slice()), Ok(reused));
    assert_eq!(reused.encode().as_slice().len(), REUSED_ROW_BYTES);
    for bytes in [23, 25, 31, 33] {
        assert!(RowMeta::parse(&vec![1; bytes]).is_err());
    }
    assert!(RowMeta::parse(&[0; REUSED_ROW_BYTES]).is_err());
}

/// A life of a row: deleted by batch 3, another in its place by batch 6, that one deleted by batch 8, and so on; a crash
/// may come after any batch, and the record may be ahead of it by one step.
#[test]
fn rows_are_deleted_and_reused_by_whole_batches() {
    let of = |tomb_seq, born_seq| RowMeta {
        key: 1,
        tags: 2,
        tomb_seq,
        born_seq,
    };
    // The record from each batch on, and whether there is a row then.
    let life = [
        (0, of(0, 0), true),
        (3, of(3, 0), false),
        (6, of(3, 6), true),
        (8, of(8, 6), false),
        (9, of(8, 9), true),
    ];
    for (at, (batch, record, _)) in life.iter().enumerate() {
        for done in 0..12 {
            let now = life[..=at]
                .iter()
                .rfind(|(batch, ..)| *batch <= done)
                .unwrap();
            // A row is only used again when its deletion is on the medium.
            let mut births = (1..=at).filter(|at| life[*at].2);
            if !births.all(|at| done >= life[at - 1].0) {
                continue;
            }
            assert_eq!(record.is_deleted(done), !now.2, "{record:?} after {done}");
            let confirmed = record.confirmed(done);
            assert_eq!(
                confirmed.is_deleted(done),
                !now.2,
                "{record:?} after {done}"
            );
            assert_eq!(
                confirmed.is_deleted(u64::MAX),
                !now.2,
                "{record:?} after {done}"
            );
            assert_eq!(confirmed.confirmed(done), confirmed);
            assert_eq!(RowMeta::parse(confirmed.encode().as_slice()), Ok(confirmed));
            assert_eq!(
                confirmed == *record,
                done >= *batch,
                "{record:?} after {done}"
            );
        }
    }
}

#[test]
fn every_element_type_has_its_metrics_and_no_other() {
    use vector_area::*;
    for element in 0..=u8::MAX {
        for metric in 0..=u8::MAX {
            let common = (ELEMENT_FLOAT32..=ELEMENT_BIT).contains(&element)
                && (METRIC_L2SQ..=METRIC_INNER_PRODUCT).contains(&metric);
            let of_bits = element == ELEMENT_BIT && metric == METRIC_HAMMING;
            let known = common || of_bits;
            assert_eq!(is_metric(metric, element), known, "{element} {metric}");
            let area = VectorArea {
                dim: 12,
                element,
                metric,
                stride: stride(12, element, 4).unwrap_or(48),
                align: 4,
                ..VectorArea::default()
            };
            assert_eq!(area.check().is_ok(), known, "{element} {metric}");
        }
    }
}

#[test]
fn strides_are_rounded_up_to_the_alignment() {
    let stride = vector_area::stride;
    assert_eq!(stride(384, vector_area::ELEMENT_FLOAT32, 64), Some(1536));
    assert_eq!(stride(100, vector_area::ELEMENT_FLOAT32, 64), Some(448));
    assert_eq!(stride(100, vector_area::ELEMENT_FLOAT32, 4), Some(400));
    assert_eq!(stride(9, vector_area::ELEMENT_BIT, 1), Some(2));
    let max = stride(65536, vector_area::ELEMENT_FLOAT32, 4096);
    assert_eq!(max, Some(65536 * 4));
    for (dim, element, align) in [
        (0, 1, 64),
        (65537, 1, 64),
        (8, 0, 64),
        (8, 7, 64),
        (8, 1, 48),
    ] {
        assert_eq!(stride(dim, element, align), None);
    }
}
