// SPDX-License-Identifier: Apache-2.0

//! A volume with something of everything on it, and what can be wrong with it.

#![allow(dead_code)]

use super::graph;
use libvexfs::{dir, extent, orphan, rows, Blocks, Txn};
use vexfs_format::group::{bits_mut, BLOCK_UNINIT};
use vexfs_format::header::MAGIC_INODE_BITMAP;
use vexfs_format::inode::FLAG_HIDDEN;
use vexfs_format::row::RowMeta;
use vexfs_format::{Inode, ORPHAN_INO, ROOT_INO};
use vexfs_image::{Image, MemDevice, Transaction};

/// Inodes of the volume: the container and its parts come first.
pub const CONTAINER: u64 = 11;
pub const ROW_META: u64 = 12;
pub const RECORDS: u64 = 13;
pub const IMAGE: u64 = 14;
pub const DIR: u64 = 15;
pub const FILE: u64 = 16;
pub const OTHER: u64 = 17;

const S_FILE: u16 = 0o100644;
const S_DIR: u16 = 0o040755;

type T<'i> = Transaction<'i, MemDevice>;

fn name(t: &mut T<'_>, parent: u64, name: &[u8], ino: u64, mode: u16) {
    let seed = t.image().hash_seed;
    let mut inode = t.image().read_inode(parent).unwrap();
    let (root, kind) = (&mut inode.tree_root, (mode >> 12) as u8);
    dir::insert(t, root, parent, &seed, name, ino, kind).unwrap();
    t.write_inode(parent, &inode).unwrap();
}

fn write(t: &mut T<'_>, ino: u64, len: u32) {
    let mut inode = t.image().read_inode(ino).unwrap();
    let (start, got) = t.allocate_blocks(0, len).unwrap();
    extent::insert(t, &mut inode.tree_root, ino, 0, start, got, false).unwrap();
    inode.blocks += got;
    t.write_inode(ino, &inode).unwrap();
}

fn change(t: &mut T<'_>, ino: u64, f: impl FnOnce(&mut Inode)) {
    let mut inode = t.image().read_inode(ino).unwrap();
    f(&mut inode);
    t.write_inode(ino, &inode).unwrap();
}

/// Changes a volume in one transaction.
pub fn with(device: MemDevice, f: impl FnOnce(&mut T<'_>)) -> MemDevice {
    let mut image = Image::open(device).unwrap();
    let mut t = image.begin();
    f(&mut t);
    t.commit().unwrap();
    image.into_device()
}

/// A container with a graph, a directory with a file in it, and another file.
pub fn volume() -> MemDevice {
    let (device, _) = graph::saved().volume();
    with(device, |t| {
        for (parent, text, mode, links) in [
            (ROOT_INO, &b"d"[..], S_DIR, 2),
            (DIR, b"f", S_FILE, 1),
            (ROOT_INO, b"g", S_FILE, 1),
        ] {
            let ino = t.allocate_inode(0, mode == S_DIR).unwrap();
            let inode = Inode {
                mode,
                nlink: links,
                parent_ino: parent,
                ..Inode::empty()
            };
            t.write_inode(ino, &inode).unwrap();
            name(t, parent, text, ino, mode);
        }
        change(t, ROOT_INO, |root| root.nlink += 1);
        write(t, FILE, 5);
        write(t, OTHER, 3);
    })
}

/// Something that is wrong.
pub struct Damage {
    /// What is said about it.
    pub words: &'static str,
    /// Whether it can be mended.
    pub can: bool,
    pub make: fn(MemDevice) -> MemDevice,
}

fn flip(mut device: MemDevice, block: u64, at: usize) -> MemDevice {
    device.blocks.get_mut(&block).unwrap()[at] ^= 0x10;
    device
}

fn bad(words: &'static str, make: fn(MemDevice) -> MemDevice) -> Damage {
    Damage {
        words,
        can: false,
        make,
    }
}

fn good(words: &'static str, make: fn(MemDevice) -> MemDevice) -> Damage {
    let can = true;
    Damage { words, can, make }
}

/// The block and the byte of an inode.
fn place(device: &MemDevice, ino: u64) -> (u64, usize) {
    let image = Image::open(device.clone()).unwrap();
    image.geometry.inode_location(ino).unwrap()
}

pub fn all() -> Vec<Damage> {
    vec![
        good("its block bitmap does not fit", |d| {
            with(d, |t| {
                t.allocate_blocks(0, 3).unwrap();
            })
        }),
        good("inode 16: 3 links, should be 1", |d| {
            with(d, |t| change(t, FILE, |i| i.nlink = 3))
        }),
        good("inode 2: 9 links, should be", |d| {
            with(d, |t| change(t, ROOT_INO, |i| i.nlink = 9))
        }),
        good("inode 16: 77 blocks, should be 5", |d| {
            with(d, |t| change(t, FILE, |i| i.blocks = 77))
        }),
        good("the name \"ghost\" leads to inode 77, which is free", |d| {
            with(d, |t| name(t, DIR, b"ghost", 77, S_FILE))
        }),
        good("leads to inode 18446744073709551615, which is free", |d| {
            with(d, |t| name(t, DIR, b"beyond", u64::MAX, S_FILE))
        }),
        good("inode 90: an orphan, but free", |d| {
            with(d, |t| {
                let mut list = t.image().read_inode(ORPHAN_INO).unwrap();
                orphan::add(t, &mut list.tree_root, 90).unwrap();
                t.write_inode(ORPHAN_INO, &list).unwrap();
            })
        }),
        good("inode 12: a container's, but an orphan too", |d| {
            with(d, |t| {
                let mut list = t.image().read_inode(ORPHAN_INO).unwrap();
                orphan::add(t, &mut list.tree_root, ROW_META).unwrap();
                t.write_inode(ORPHAN_INO, &list).unwrap();
            })
        }),
        good("inode 18: hidden, but neither", |d| {
            with(d, |t| {
                let ino = t.allocate_inode(0, false).unwrap();
                let inode = Inode {
                    mode: S_FILE,
                    flags: FLAG_HIDDEN | vexfs_format::inode::FLAG_IMAGE,
                    parent_ino: CONTAINER,
                    ..Inode::empty()
                };
                t.write_inode(ino, &inode).unwrap();
                write(t, ino, 20);
            })
        }),
        good("inode 18: has no name", |d| {
            with(d, |t| {
                let ino = t.allocate_inode(0, false).unwrap();
                let mode = S_FILE;
                let inode = Inode {
                    mode,
                    ..Inode::empty()
                };
                t.write_inode(ino, &inode).unwrap();
                write(t, ino, 9);
            })
        }),
        good(
            "inode 18: in use by its bitmap, but there is nothing",
            |d| {
                with(d, |t| {
                    t.allocate_inode(0, false).unwrap();
                })
            },
        ),
        good("inode 15: its parent is inode 2", |d| {
            with(d, |t| change(t, DIR, |i| i.parent_ino = 5))
        }),
        good("leads to inode 16, which its bitmap has as free", |d| {
            with(d, |t| {
                let block = t.image().geometry.inode_bitmap_block(0);
                let mut buf = t.read(block, MAGIC_INODE_BITMAP, 0).unwrap();
                bits_mut(t.modify(&mut buf).unwrap())[1] &= !0x80;
            })
        }),
        good("free blocks, should be", |d| {
            with(d, |t| {
                let mut summary = t.image().groups[0];
                summary.free_blocks -= 7;
                t.set_summary(0, summary).unwrap();
            })
        }),
        good("free inodes, should be", |d| {
            with(d, |t| {
                let mut summary = t.image().groups[0];
                summary.free_inodes -= 7;
                summary.used_dirs += 1;
                t.set_summary(0, summary).unwrap();
            })
        }),
        good("its block bitmap does not fit", |d| {
            with(d, |t| {
                let mut summary = t.image().groups[0];
                let geometry = t.image().geometry;
                summary.flags |= BLOCK_UNINIT;
                summary.free_blocks = geometry.data_blocks_in_group(0) as u32;
                t.set_summary(0, summary).unwrap();
            })
        }),
        good("group descriptors: block 1: bad checksum", |d| {
            flip(d, 1, 900)
        }),
        good(
            "group descriptors: block 1: block is of another kind",
            |d| {
                let mut d = flip(d, 1, 0);
                let seed = vexfs_format::seed(&super::options().uuid, vexfs_image::crc);
                let bytes = d.blocks.get_mut(&1).unwrap();
                vexfs_format::header::seal(1, bytes, seed, vexfs_image::crc);
                d
            },
        ),
        good("group descriptors: block 1: bad checksum", |mut d| {
            d.blocks.insert(1, vec![0xa5; 4096]);
            flip(d, 3, 100)
        }),
        good("group 0: block 2: bad checksum", |d| flip(d, 2, 900)),
        good("group 0: block 3: bad checksum", |d| flip(d, 3, 900)),
        good("inode 11: 299 live rows, should be 298", |d| {
            with(d, |t| change(t, CONTAINER, |i| i.vector.live = 299))
        }),
        good("inode 11: 298 live rows, should be 297", |d| {
            with(d, |t| {
                let mut meta = t.image().read_inode(ROW_META).unwrap();
                let record = RowMeta {
                    tomb_seq: 3,
                    ..RowMeta::default()
                };
                let root = &mut meta.tree_root;
                rows::set_meta(t, root, ROW_META, 290, &record).unwrap();
                t.write_inode(ROW_META, &meta).unwrap();
            })
        }),
        good("the hnsw index of inode 11: block", |d| {
            let image = Image::open(d.clone()).unwrap();
            let disk = image.read_inode(IMAGE).unwrap();
            let map = extent::map(&image, &disk.tree_root, IMAGE, 3, 1).unwrap();
            flip(d, map.physical, 5)
        }),
        good("the image of its hnsw index", |d| {
            with(d, |t| change(t, IMAGE, |i| i.parent_ino = FILE))
        }),
        bad("inode 18: has no name", |d| {
            with(d, |t| {
                let ino = t.allocate_inode(0, false).unwrap();
                let inode = Inode {
                    mode: S_FILE,
                    nlink: 1,
                    ..Inode::empty()
                };
                t.write_inode(ino, &inode).unwrap();
            })
        }),
        bad("owns blocks 1+1, which are not for data", |d| {
            with(d, |t| {
                change(t, OTHER, |i| i.blocks += 1);
                let mut inode = t.image().read_inode(OTHER).unwrap();
                let root = &mut inode.tree_root;
                extent::insert(t, root, OTHER, 9, 1, 1, false).unwrap();
                t.write_inode(OTHER, &inode).unwrap();
            })
        }),
        bad("has another owner too, and 4 behind it", |d| {
            with(d, |t| {
                let file = t.image().read_inode(FILE).unwrap();
                change(t, OTHER, |i| {
                    i.tree_root = file.tree_root;
                    i.blocks = file.blocks;
                });
            })
        }),
        bad("the name \"g\" has the wrong type for inode 17", |d| {
            with(d, |t| change(t, OTHER, |i| i.mode = 0o060644))
        }),
        bad("inode 18: no path leads here from the root", |d| {
            with(d, |t| {
                // A directory in itself.
                let ino = t.allocate_inode(0, true).unwrap();
                let inode = Inode {
                    mode: S_DIR,
                    nlink: 3,
                    parent_ino: ino,
                    ..Inode::empty()
                };
                t.write_inode(ino, &inode).unwrap();
                name(t, ino, b"me", ino, S_DIR);
            })
        }),
        bad(
            "leads to inode 17, which can't be read, or was never made",
            |d| {
                // A descriptor that is wrong is no reason to remove names.
                with(d, |t| {
                    let mut summary = t.image().groups[0];
                    summary.itable_init_blocks = 1;
                    t.set_summary(0, summary).unwrap();
                })
            },
        ),
        bad("inode 15: a directory with 2 names", |d| {
            with(d, |t| {
                name(t, ROOT_INO, b"again", DIR, S_DIR);
                change(t, ROOT_INO, |root| root.nlink += 1);
            })
        }),
        bad("inode 16: bad checksum", |d| {
            let (block, at) = place(&d, FILE);
            flip(d, block, at + 60)
        }),
        bad("inode 15: bad checksum", |d| {
            let (block, at) = place(&d, DIR);
            flip(d, block, at + 60)
        }),
    ]
}
