// SPDX-License-Identifier: Apache-2.0

//! What the tests share: a fresh volume in memory, and seeded random numbers.

#![allow(dead_code)]

pub mod damage;
pub mod graph;
pub mod lists;
pub mod saved;

use vexfs_format::inode::TREE_ROOT_BYTES;
use vexfs_format::Geometry;
use vexfs_image::{make, Image, MemDevice, Options};

/// Inode numbers stand for owners here; the tests of single trees need no inode.
pub const OWNER: u64 = 42;

pub type Root = [u8; TREE_ROOT_BYTES];

pub fn options() -> Options {
    Options {
        uuid: *b"0123456789abcdef",
        hash_seed: *b"seed of the hash",
        label: [0; 32],
        time: 1_700_000_000,
        vectors: (0, 0, 0),
    }
}

pub fn fresh(mebibytes: u64) -> Image<MemDevice> {
    let geometry = Geometry::plan(mebibytes * 256).unwrap();
    let mut device = MemDevice::default();
    make(&mut device, &geometry, &options()).unwrap();
    Image::open(device).unwrap()
}

pub fn empty_root() -> Root {
    let mut root = [0; TREE_ROOT_BYTES];
    libvexfs::tree::init(&mut root);
    root
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
