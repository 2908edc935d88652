// SPDX-License-Identifier: Apache-2.0

//! A small filesystem over `libvexfs`: random work, a crash between any two transactions,
//! and a check of the whole volume each time.

mod common;

use common::{fresh, Random};
use libvexfs::{dir, extent, orphan, symlink, Error, Txn};
use std::collections::BTreeMap;
use vexfs_format::{Inode, FIRST_INO, ORPHAN_INO, ROOT_INO};
use vexfs_image::{check, Image, MemDevice, Transaction};

type Result<T> = std::result::Result<T, Error>;

const FILE: u16 = 0o100644;
const DIR: u16 = 0o040755;
const LINK: u16 = 0o120777;

/// Runs `f` with an inode whose tree it changes, and keeps count of the blocks it owns.
fn with_inode<R>(
    t: &mut Transaction<'_, MemDevice>,
    ino: u64,
    f: impl FnOnce(&mut Counted<'_, '_>, &mut Inode) -> Result<R>,
) -> Result<R> {
    let mut inode = t.image().read_inode(ino)?;
    let mut counted = Counted { t, nodes: 0 };
    let done = f(&mut counted, &mut inode);
    let nodes = counted.nodes;
    inode.blocks = inode.blocks.checked_add_signed(nodes).unwrap();
    t.write_inode(ino, &inode)?;
    done
}

/// A transaction that counts the nodes a tree gains and loses.
struct Counted<'a, 'i> {
    t: &'a mut Transaction<'i, MemDevice>,
    nodes: i64,
}

impl libvexfs::Blocks for Counted<'_, '_> {
    type Buf = vexfs_image::image::Buf;

    fn read(&self, block: u64, magic: u32, owner: u64) -> Result<Self::Buf> {
        self.t.read(block, magic, owner)
    }
}

impl Txn for Counted<'_, '_> {
    fn modify<'b>(&mut self, buf: &'b mut Self::Buf) -> Result<&'b mut [u8]> {
        self.t.modify(buf)
    }

    fn create(&mut self, block: u64, magic: u32, owner: u64) -> Result<Self::Buf> {
        self.t.create(block, magic, owner)
    }

    fn init_inode_block(&mut self, block: u64) -> Result<()> {
        self.t.init_inode_block(block)
    }

    fn discard(&mut self, buf: Self::Buf) -> Result<()> {
        self.t.discard(buf)
    }

    fn allocate_block(&mut self, goal: u64) -> Result<u64> {
        let block = self.t.allocate_block(goal)?;
        self.nodes += 1;
        Ok(block)
    }

    fn release_block(&mut self, block: u64) -> Result<()> {
        self.nodes -= 1;
        self.t.release_block(block)
    }
}

fn create(
    t: &mut Transaction<'_, MemDevice>,
    seed: &[u8; 16],
    parent: u64,
    name: &[u8],
    mode: u16,
) -> Result<u64> {
    let group = (parent - 1) / t.image().geometry.inodes_per_group;
    let is_dir = mode == DIR;
    let ino = t.allocate_inode(group, is_dir)?;
    let inode = Inode {
        mode,
        nlink: if is_dir { 2 } else { 1 },
        parent_ino: parent,
        ..Inode::empty()
    };
    t.write_inode(ino, &inode)?;
    if mode == LINK {
        let target = vec![b't'; 1 + name.len() * 37 % 4000];
        with_inode(t, ino, |t, inode| {
            symlink::write(t, &mut inode.tree_root, ino, &target)
        })?;
    }
    with_inode(t, parent, |t, inode| {
        inode.nlink += u32::from(is_dir);
        let kind = (mode >> 12) as u8;
        dir::insert(t, &mut inode.tree_root, parent, seed, name, ino, kind)
    })?;
    Ok(ino)
}

fn write(t: &mut Transaction<'_, MemDevice>, ino: u64, at: u64, len: u32) -> Result<()> {
    let inode = t.image().read_inode(ino)?;
    let goal = extent::goal(t, &inode.tree_root, ino, at).unwrap_or(0);
    let hole = extent::map(t, &inode.tree_root, ino, at, len.into())?;
    if hole.state != extent::State::Hole {
        return with_inode(t, ino, |t, inode| {
            extent::mark_written(t, &mut inode.tree_root, ino, at, hole.len).map(|_| ())
        });
    }
    let (start, got) = t.allocate_blocks(goal, hole.len as u32)?;
    with_inode(t, ino, |t, inode| {
        inode.blocks += got;
        extent::insert(t, &mut inode.tree_root, ino, at, start, got, true)
    })
}

/// First half of an unlink: the name goes, the inode is an orphan.
fn unlink(
    t: &mut Transaction<'_, MemDevice>,
    seed: &[u8; 16],
    parent: u64,
    name: &[u8],
    ino: u64,
) -> Result<()> {
    let mut inode = t.image().read_inode(ino)?;
    let is_dir = inode.mode == DIR;
    if is_dir && !dir::is_empty(&inode.tree_root)? {
        return Err(Error::NotEmpty);
    }
    with_inode(t, parent, |t, inode| {
        inode.nlink -= u32::from(is_dir);
        dir::remove(t, &mut inode.tree_root, parent, seed, name)
    })?;
    inode.nlink = 0;
    t.write_inode(ino, &inode)?;
    with_inode(t, ORPHAN_INO, |t, list| {
        orphan::add(t, &mut list.tree_root, ino)
    })
}

/// Second half, in steps: false while there is more to do.
fn finish(t: &mut Transaction<'_, MemDevice>, ino: u64) -> Result<bool> {
    let mode = t.image().read_inode(ino)?.mode;
    let mut freed_blocks = 0;
    let done = with_inode(t, ino, |t, inode| {
        let done = match mode {
            FILE => {
                extent::remove_tail(t, &mut inode.tree_root, ino, 0, 2, &mut |t, start, len| {
                    freed_blocks += len;
                    t.t.free_blocks(start, len)
                })?
            }
            _ => libvexfs::tree::destroy_step(t, &mut inode.tree_root, ino, 2)?,
        };
        inode.blocks -= freed_blocks;
        Ok(done)
    })?;
    if done {
        t.free_inode(ino, mode == DIR)?;
        with_inode(t, ORPHAN_INO, |t, list| {
            orphan::remove(t, &mut list.tree_root, ino)
        })?;
    }
    Ok(done)
}

/// What mount does after a crash.
fn recover(image: &mut Image<MemDevice>) {
    while let Some(ino) = {
        let list = image.read_inode(ORPHAN_INO).unwrap();
        orphan::next(&*image, &list.tree_root, 0).unwrap()
    } {
        let mut t = image.begin();
        finish(&mut t, ino).unwrap();
        t.commit().unwrap();
    }
}

/// Only the names: parent and name to inode.
type Model = BTreeMap<(u64, Vec<u8>), u64>;

fn run(volume_mebibytes: u64, seed: u64, steps: u32) {
    let mut random = Random(seed);
    let mut image = fresh(volume_mebibytes);
    let hash_seed = image.hash_seed;
    let mut model = Model::new();
    let mut full = 0;
    for step in 0..steps {
        let dirs: Vec<u64> = std::iter::once(ROOT_INO)
            .chain(model.values().copied())
            .filter(|ino| image.read_inode(*ino).unwrap().mode == DIR)
            .collect();
        let parent = dirs[random.below(dirs.len() as u64) as usize];
        let victim = match model.len() as u64 {
            0 => None,
            len => model.iter().nth(random.below(len) as usize),
        };
        let victim = victim.map(|(key, ino)| (key.clone(), *ino));
        let mut crash = random.below(7) == 0;
        let mut t = image.begin();
        let mut done = Ok(());
        let mut new = model.clone();
        match (random.below(12), victim) {
            (0..=4, _) | (_, None) => {
                let mut name = format!("{}-{step}", random.below(50)).into_bytes();
                name.resize(name.len() + random.below(120) as usize, b'n');
                let mode = match random.below(10) {
                    0 | 1 => DIR,
                    2 => LINK,
                    _ => FILE,
                };
                done = create(&mut t, &hash_seed, parent, &name, mode).map(|ino| {
                    assert!(ino >= FIRST_INO);
                    new.insert((parent, name), ino);
                });
            }
            (5..=9, Some((_, ino))) => {
                if t.image().read_inode(ino).unwrap().mode == FILE {
                    for _ in 0..random.below(8) {
                        let (at, len) = (random.below(500), 1 + random.below(40) as u32);
                        done = done.and_then(|()| write(&mut t, ino, at, len));
                    }
                }
            }
            (_, Some(((parent, name), ino))) => {
                done = unlink(&mut t, &hash_seed, parent, &name, ino);
                if done.is_ok() {
                    new.remove(&(parent, name));
                }
            }
        }
        match done {
            Ok(()) => {}
            Err(Error::NoSpace) => {
                full += 1;
                crash = true;
            }
            Err(Error::NotEmpty) => crash = true,
            Err(error) => panic!("seed {seed} step {step}: {error:?}"),
        }
        if crash {
            drop(t);
        } else {
            t.commit().unwrap();
            model = new;
        }
        if random.below(4) == 0 {
            // The device as a crash leaves it, mounted again.
            image = Image::open(image.into_device()).unwrap();
            recover(&mut image);
        }
        if step % 25 == 0 {
            let report = check::check(&mut image);
            assert!(report.is_ok(), "seed {seed} step {step}: {report:#?}");
        }
    }
    recover(&mut image);
    let report = check::check(&mut image).unwrap();
    assert_eq!(report.orphans, 0);
    assert_eq!(report.directories + report.files, 1 + model.len() as u64);
    for ((parent, name), ino) in &model {
        let root = image.read_inode(*parent).unwrap().tree_root;
        let found = dir::lookup(&image, &root, *parent, &hash_seed, name).unwrap();
        assert_eq!(found.map(|f| f.0), Some(*ino), "seed {seed}");
    }
    if volume_mebibytes == 8 {
        assert!(full > 0, "seed {seed}: the small volume never was full");
    }
}

#[test]
fn a_volume_is_sound_after_a_crash_between_any_two_transactions() {
    for seed in 0..6 {
        run(300, seed, 500);
    }
}

#[test]
fn a_volume_that_is_full_stays_sound() {
    for seed in 100..106 {
        run(8, seed, 800);
    }
}

/// The check itself finds what is wrong: otherwise the tests above mean nothing.
#[test]
fn the_check_notices_leaks_and_wrong_counts() {
    type Damage = fn(&mut Transaction<'_, MemDevice>);
    let damage: [(&str, Damage); 5] = [
        ("bitmap does not fit", |t| {
            t.allocate_blocks(0, 3).unwrap();
        }),
        ("has no name", |t| {
            let ino = t.allocate_inode(0, false).unwrap();
            let inode = Inode {
                mode: FILE,
                nlink: 1,
                ..Inode::empty()
            };
            t.write_inode(ino, &inode).unwrap();
        }),
        ("links, should be", |t| {
            let mut root = t.image().read_inode(ROOT_INO).unwrap();
            root.nlink = 5;
            t.write_inode(ROOT_INO, &root).unwrap();
        }),
        ("which is free", |t| {
            let seed = t.image().hash_seed;
            with_inode(t, ROOT_INO, |t, i| {
                dir::insert(t, &mut i.tree_root, ROOT_INO, &seed, b"ghost", 77, 8)
            })
            .unwrap();
        }),
        ("not for data", |t| {
            let seed = t.image().hash_seed;
            let ino = create(t, &seed, ROOT_INO, b"file", FILE).unwrap();
            with_inode(t, ino, |t, i| {
                i.blocks = 1;
                extent::insert(t, &mut i.tree_root, ino, 0, 1, 1, false)
            })
            .unwrap();
        }),
    ];
    for (words, damage) in damage {
        let mut image = fresh(8);
        check::check(&mut image).unwrap();
        let mut t = image.begin();
        damage(&mut t);
        t.commit().unwrap();
        let problems = check::check(&mut image).unwrap_err();
        assert!(problems.iter().any(|p| p.contains(words)), "{problems:?}");
    }
}
