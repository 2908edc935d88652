// SPDX-License-Identifier: Apache-2.0

//! The command as a user meets it: exit codes, sentences, and the volume it leaves.

#[path = "../../image/tests/common/mod.rs"]
mod common;

use common::damage::{all, volume, Damage, CONTAINER, IMAGE, RECORDS};
use common::{graph, options};
use libvexfs::index as records;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use vexfs_format::index::KIND_HNSW;
use vexfs_format::journal::JournalSuperblock;
use vexfs_format::superblock::{
    BYTES, FLAG_ERRORS, FLAG_NEEDS_RECOVERY, OFFSET, STATE_CLEAN, STATE_MOUNTED,
};
use vexfs_format::{Geometry, Superblock, BLOCK_SIZE};
use vexfs_image::{check, crc, make, FileDevice, Image, MemDevice};
use zerocopy::IntoBytes;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    /// A sparse file with these blocks.
    fn file(&self, device: &MemDevice, mebibytes: u64) -> PathBuf {
        let path = self.0.path().join("volume");
        let file = File::create(&path).unwrap();
        file.set_len(mebibytes << 20).unwrap();
        for (block, bytes) in &device.blocks {
            file.write_all_at(bytes, block * BLOCK_SIZE as u64).unwrap();
        }
        path
    }
}

fn fsck(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fsck_vexfs"))
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs it, and wants this exit code and all of these words. Says what it printed.
fn wants(code: i32, words: &[&str], arguments: &[&str], path: &Path) -> String {
    let output = fsck(arguments, path);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for words in words {
        assert!(text.contains(words), "{arguments:?}, {words}: {text}");
    }
    text
}

fn open(path: &Path) -> Image<FileDevice> {
    Image::open(FileDevice(File::open(path).unwrap())).unwrap()
}

fn change_superblock(path: &Path, change: impl FnOnce(&mut Superblock)) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; BYTES];
    file.read_exact_at(&mut bytes, OFFSET as u64).unwrap();
    let sb = Superblock::from_bytes_mut(&mut bytes).unwrap();
    change(sb);
    sb.seal(crc);
    file.write_all_at(&bytes, OFFSET as u64).unwrap();
}

fn superblock_of(path: &Path) -> Superblock {
    let bytes = fs::read(path).unwrap();
    *Superblock::parse(&bytes[OFFSET..], crc).unwrap()
}

#[test]
fn a_sound_volume_is_sound_in_every_mode() {
    let scratch = Scratch::new();
    let path = scratch.file(&volume(), 16);
    let before = fs::read(&path).unwrap();
    for arguments in [&["-n"][..], &["-y"], &["-pf"], &["-a", "-f"], &["-f", "-y"]] {
        wants(0, &["sound; 2 directories, 3 files"], arguments, &path);
    }
    wants(0, &["clean"], &["-p"], &path);
    wants(0, &["clean"], &["-a"], &path);
    wants(0, &["no terminal to ask on", "sound"], &[], &path);
    let numbers = "inode 11: the hnsw index: 290 rows checked\n";
    wants(0, &[numbers], &["-n", "-v"], &path);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn each_kind_of_damage_is_said_then_mended_or_left() {
    for Damage { words, can, make } in all() {
        let scratch = Scratch::new();
        let path = scratch.file(&make(volume()), 16);
        let before = fs::read(&path).unwrap();
        wants(4, &[words, " left; "], &["-n"], &path);
        wants(4, &[words, "no terminal"], &[], &path);
        assert_eq!(fs::read(&path).unwrap(), before, "{words}: it only looked");
        if can {
            wants(1, &[words, ": mended", "sound"], &["-y"], &path);
            let after = fs::read(&path).unwrap();
            wants(0, &["sound"], &["-n"], &path);
            wants(0, &["sound"], &["-y"], &path);
            assert_eq!(fs::read(&path).unwrap(), after, "{words}");
        } else {
            wants(4, &[words], &["-p", "-f"], &path);
            wants(4, &[words, "can't be mended"], &["-n"], &path);
        }
        let sound = check::check(&mut open(&path));
        assert_eq!(sound.is_ok(), can, "{words}: {sound:?}");
    }
}

#[test]
fn a_damaged_index_is_forgotten_and_its_space_is_free() {
    type Wrong = fn(&mut common::saved::Saved);
    let damage: [(&str, Wrong); 3] = [
        (
            "290 rows checked, 1 rows that can't be reached\n",
            graph::cut_off,
        ),
        ("checked, 1 codes that are not those of their rows\n", |s| {
            graph::change_node(s, 5, |words| words[3] ^= 4);
        }),
        ("checked, 1 rows missing, or there though deleted\n", |s| {
            s.deleted.remove(0);
        }),
    ];
    for (words, wrong) in damage {
        let mut saved = graph::saved();
        wrong(&mut saved);
        let scratch = Scratch::new();
        let path = scratch.file(&saved.volume().0, 16);
        let (free, parameters) = (open(&path).groups[0].free_blocks, saved.parameters);
        let blocks = open(&path).read_inode(IMAGE).unwrap().blocks;
        wants(4, &[words], &["-n"], &path);
        wants(1, &[words], &["-y"], &path);
        wants(0, &["is not built yet"], &["-n", "-v"], &path);
        let image = open(&path);
        let tree = image.read_inode(RECORDS).unwrap().tree_root;
        let mut found = Vec::new();
        records::for_each(&image, &tree, RECORDS, |kind, record| {
            found.push((kind, record.image_ino, record.flags, record.parameters));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(KIND_HNSW, 0, 0, parameters)]);
        assert!(image.is_zeroed(IMAGE) && !image.is_zeroed(CONTAINER));
        assert_eq!(
            u64::from(image.groups[0].free_blocks),
            u64::from(free) + blocks
        );
    }
}

#[test]
fn a_volume_that_was_not_unmounted_is_left_to_a_mount() {
    let scratch = Scratch::new();
    let path = scratch.file(&volume(), 16);
    change_superblock(&path, |sb| {
        sb.state.set(STATE_MOUNTED);
        sb.flags.set(FLAG_NEEDS_RECOVERY);
    });
    let before = fs::read(&path).unwrap();
    wants(
        4,
        &["was not unmounted", "replays its journal"],
        &["-n"],
        &path,
    );
    wants(4, &["was not unmounted"], &["-y"], &path);
    // Boot goes on: it is the mount that mends this.
    wants(0, &["the mount replays its journal"], &["-a"], &path);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_the_kernel_noted_is_looked_at_and_forgotten() {
    let scratch = Scratch::new();
    let path = scratch.file(&volume(), 16);
    change_superblock(&path, |sb| sb.flags.set(FLAG_ERRORS));
    wants(0, &["sound"], &["-n"], &path);
    assert_eq!(superblock_of(&path).flags.get(), FLAG_ERRORS);
    wants(0, &["sound"], &["-a"], &path);
    assert_eq!(superblock_of(&path).flags.get(), 0);
    wants(0, &["clean"], &["-a"], &path);
}

#[test]
fn a_superblock_is_made_anew_from_a_copy() {
    let scratch = Scratch::new();
    let geometry = Geometry::plan(300 * 256).unwrap();
    let mut device = MemDevice::default();
    make(&mut device, &geometry, &options()).unwrap();
    let path = scratch.file(&device, 300);
    let before = superblock_of(&path);
    let zero = |at: u64| {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 100], at).unwrap();
    };
    for at in [0, 64] {
        zero(OFFSET as u64 + at);
        let words = ["superblock: ", "the copy in group 1 is sound"];
        wants(4, &words, &["-n"], &path);
        wants(
            1,
            &[words[0], words[1], "sound; 1 directories"],
            &["-y"],
            &path,
        );
        wants(0, &["sound"], &["-n"], &path);
        assert_eq!(superblock_of(&path).as_bytes(), before.as_bytes());
    }
    // Whether the journal has to be replayed, only the journal knows now.
    let mut journal = JournalSuperblock::empty(geometry.journal_blocks as u32, before.uuid);
    journal.start = 7.into();
    let file = File::options().write(true).open(&path).unwrap();
    let at = geometry.journal_start * BLOCK_SIZE as u64;
    file.write_all_at(journal.as_bytes(), at).unwrap();
    wants(4, &["block", "the journal is not empty"], &["-n"], &path);
    zero(OFFSET as u64);
    wants(
        4,
        &["the copy in group 1 is sound", "was not unmounted"],
        &["-y"],
        &path,
    );
    assert_eq!(superblock_of(&path).state.get(), STATE_MOUNTED);
    // A small volume has no copy.
    let path = scratch.file(&volume(), 16);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 100], OFFSET as u64).unwrap();
    wants(8, &["there is no copy of it"], &["-y"], &path);
}

#[test]
fn what_is_no_volume_is_refused() {
    let scratch = Scratch::new();
    let empty = scratch.file(&MemDevice::default(), 1);
    wants(
        8,
        &["fsck.vexfs: ", "no VexFS v2 superblock"],
        &["-n"],
        &empty,
    );
    wants(
        8,
        &["does not exist"],
        &["-n"],
        &scratch.0.path().join("none"),
    );
    wants(8, &["neither a block device"], &["-n"], scratch.0.path());
    let path = scratch.file(&volume(), 16);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    wants(8, &["the volume has 4096 blocks"], &["-n"], &path);
    let path = scratch.file(&volume(), 16);
    change_superblock(&path, |sb| sb.feature_ro_compat.set(1 << 40));
    wants(8, &["written by a newer VexFS"], &["-y"], &path);
    wants(0, &["sound"], &["-n"], &path);
    assert_eq!(superblock_of(&path).state.get(), STATE_CLEAN);
}

#[test]
fn wrong_command_lines_are_told_apart() {
    let path = Path::new("/nowhere");
    wants(16, &["cannot be used with"], &["-n", "-y"], path);
    wants(16, &["cannot be used with"], &["-a", "-n"], path);
    wants(16, &["unexpected argument"], &["-x"], path);
    wants(0, &["fsck.vexfs 2."], &["-V"], path);
    wants(0, &["Exit status: 0 sound; 1 mended"], &["--help"], path);
}
