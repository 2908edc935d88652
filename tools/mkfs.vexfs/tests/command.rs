// SPDX-License-Identifier: Apache-2.0

//! The command as a user meets it: exit codes, sentences, and the volume it leaves.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vexfs_format::{superblock, Superblock, ROOT_INO};
use vexfs_image::{check, crc, FileDevice, Image};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn mkfs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mkfs_vexfs"))
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap()
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    }
}

/// Fails with exit code 1, nothing on stdout, and one sentence that contains `words`.
fn assert_refused(output: &Output, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(words), "{text}");
    assert!(text.starts_with("mkfs.vexfs: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
}

fn assert_made(output: &Output, path: &Path) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.is_empty(), "{text}");
    let mut image = Image::open(FileDevice(File::open(path).unwrap())).unwrap();
    let report = check::check(&mut image).unwrap();
    assert_eq!((report.directories, report.files, report.blocks), (1, 0, 0));
}

fn superblock_of(path: &Path) -> Superblock {
    let bytes = fs::read(path).unwrap();
    *Superblock::parse(&bytes[superblock::OFFSET..], crc).unwrap()
}

#[test]
fn a_file_becomes_a_sound_volume() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", 300 << 20);
    let name = path.to_str().unwrap();
    let output = mkfs(&["-L", "photos", "--vectors", "384,f32,cosine", name]);
    assert_made(&output, &path);
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["photos", "300.0 MiB", "384 x f32, cosine", "journal"] {
        assert!(text.contains(words), "{text}");
    }
    let sb = superblock_of(&path);
    assert_eq!(sb.label(), b"photos");
    assert_eq!(sb.vector_dim.get(), 384);
    assert_eq!((sb.vector_element, sb.vector_metric), (1, 2));
    let image = Image::open(FileDevice(File::open(&path).unwrap())).unwrap();
    let root = image.read_inode(ROOT_INO).unwrap();
    assert_eq!((root.mode, root.nlink, root.parent_ino), (0o040755, 2, 2));
}

#[test]
fn vectors_of_bits_can_be_the_default() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", 64 << 20);
    let name = path.to_str().unwrap();
    let output = mkfs(&["-q", "--vectors", "1024,binary,hamming", name]);
    assert_made(&output, &path);
    let sb = superblock_of(&path);
    assert_eq!((sb.vector_element, sb.vector_metric), (6, 4));
}

#[test]
fn every_size_that_is_accepted_makes_a_sound_volume() {
    let scratch = Scratch::new();
    for mebibytes in [8, 9, 13, 64, 125, 126, 127, 130, 131, 252, 400, 1000] {
        let path = scratch.path("disk");
        let size = format!("{mebibytes}M");
        let output = mkfs(&["-f", "-q", path.to_str().unwrap(), &size]);
        assert_made(&output, &path);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn superblock_copies_are_where_they_should_be() {
    let scratch = Scratch::new();
    let path = scratch.path("disk");
    mkfs(&["-q", path.to_str().unwrap(), "1300M"]);
    let bytes = fs::read(&path).unwrap();
    let group = 32256 * 4096;
    for backup in [1, 3, 5, 7, 9] {
        let at = backup * group + superblock::OFFSET;
        let sb = Superblock::parse(&bytes[at..], crc).unwrap();
        assert_eq!(sb.own_group.get() as usize, backup);
        assert_eq!(sb.flags.get(), superblock::FLAG_BACKUP);
    }
    for other in [2, 4, 6, 8] {
        assert!(Superblock::parse(&bytes[other * group + superblock::OFFSET..], crc).is_err());
    }
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let scratch = Scratch::new();
    let make = |name: &str| {
        let path = scratch.path(name);
        let status = Command::new(env!("CARGO_BIN_EXE_mkfs_vexfs"))
            .args([
                "-q",
                "-U",
                UUID,
                "-L",
                "same",
                path.to_str().unwrap(),
                "40M",
            ])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .status()
            .unwrap();
        assert!(status.success());
        fs::read(path).unwrap()
    };
    let (first, second) = (make("a"), make("b"));
    assert!(first == second, "two runs differ");
    // The golden image: what changes this changes the format, and says so.
    assert_eq!(format!("{:08x}", !crc(!0, &first)), GOLDEN);
}

/// CRC32C of the 40 MiB image made by the test above.
const GOLDEN: &str = "0ead472a";

/// Processors' time that programs started here have had, in hundredths of a second. Unlike the time that
/// passes, it is the same on a busy machine.
fn time_of_children() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // proc_pid_stat(5): cutime and cstime, counted from the state behind the program's name.
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[13..15]
        .iter()
        .map(|f| f.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn sixteen_tebibytes_take_seconds_and_little_space() {
    // Not every filesystem has files of 16 TiB, tmpfs does.
    let name = format!("/dev/shm/mkfs.vexfs-{}", std::process::id());
    let path = Path::new(&name);
    let (path, size) = match File::create(path).and_then(|f| f.set_len(1 << 44)) {
        Ok(()) => (path.to_owned(), "16T"),
        Err(_) => {
            let name = format!("mkfs.vexfs-{}", std::process::id());
            (std::env::temp_dir().join(name), "15T")
        }
    };
    let before = time_of_children();
    let output = mkfs(&["-q", "-f", path.to_str().unwrap(), size]);
    let took = time_of_children() - before;
    let disk = fs::metadata(&path).map(|m| m.blocks() * 512);
    let opened = Image::open(FileDevice(File::open(&path).unwrap())).map(|i| i.geometry);
    fs::remove_file(&path).unwrap();
    assert!(output.status.success());
    assert!(opened.unwrap().group_count > 120_000);
    assert!(took < 500, "{took}");
    assert!(disk.unwrap() < 100 << 20);
}

#[test]
fn a_dry_run_does_nothing() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", 16 << 20);
    let output = mkfs(&["-n", path.to_str().unwrap()]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("16.0 MiB"));
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 0));
    let absent = scratch.path("absent");
    let output = mkfs(&["-n", absent.to_str().unwrap(), "16M"]);
    assert!(output.status.success());
    assert!(!absent.exists());
}

#[test]
fn quiet_and_verbose_are() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", 16 << 20);
    let output = mkfs(&["-q", path.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let output = mkfs(&["-v", "-f", "-K", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("wiped") && !text.contains("discard"),
        "{text}"
    );
}

#[test]
fn what_is_there_is_not_overwritten_without_force() {
    let scratch = Scratch::new();
    let cases: [(&str, u64, &[u8]); 5] = [
        ("ext4", 1080, b"\x53\xef"),
        ("btrfs", 0x10040, b"_BHRfS_M"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("VexFS v1", 0, b"VEXFS1.0"),
        ("GPT", (16 << 20) - 512, b"EFI PART"),
    ];
    for (name, at, magic) in cases {
        let path = scratch.file("disk", 16 << 20);
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(magic).unwrap();
        let before = fs::read(&path).unwrap();
        assert_refused(&mkfs(&[path.to_str().unwrap()]), name);
        assert!(fs::read(&path).unwrap() == before);
        // With -f it is gone, from both ends, even if nothing is discarded.
        assert_made(&mkfs(&["-f", "-K", path.to_str().unwrap()]), &path);
        let after = fs::read(&path).unwrap();
        assert!(!after[at as usize..].starts_with(magic), "{name}");
    }
    let path = scratch.path("disk");
    assert_refused(&mkfs(&[path.to_str().unwrap()]), "holds a VexFS volume");
}

#[test]
fn bad_devices_get_one_sentence() {
    let scratch = Scratch::new();
    let absent = scratch.path("absent");
    assert_refused(&mkfs(&[absent.to_str().unwrap()]), "does not exist");
    let small = scratch.file("small", 4 << 20);
    assert_refused(&mkfs(&[small.to_str().unwrap()]), "at least 8 MiB");
    let empty = scratch.file("empty", 0);
    assert_refused(&mkfs(&[empty.to_str().unwrap()]), "at least 8 MiB");
    assert_refused(&mkfs(&["/dev/null"]), "neither a block device nor");
    assert_refused(&mkfs(&["/"]), "neither a block device nor");
    // Refused sizes create nothing.
    assert_refused(&mkfs(&[absent.to_str().unwrap(), "4M"]), "at least 8 MiB");
    assert_refused(
        &mkfs(&[absent.to_str().unwrap(), "300T"]),
        "at most 236 TiB",
    );
    assert!(!absent.exists());
}

#[test]
fn bad_options_get_an_explanation() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", 16 << 20);
    let name = path.to_str().unwrap();
    assert_refused(&mkfs(&["-b", "1024", name]), "give -b 4096");
    let long = "x".repeat(33);
    assert_refused(&mkfs(&["-L", &long, name]), "longer than 32 bytes");
    for arguments in [
        vec!["-U", "nonsense", name],
        vec!["-U", "00000000-0000-0000-0000-000000000000", name],
        vec!["--vectors", "384,f32", name],
        vec!["--vectors", "0,f32,l2sq", name],
        vec!["--vectors", "65537,f32,l2sq", name],
        vec!["--vectors", "8,f64,l2sq", name],
        vec!["--vectors", "8,f32,manhattan", name],
        vec!["--vectors", "8,f32,hamming", name],
        vec!["--unknown", name],
        vec![name, "12X"],
        vec![name, "99999999999999T"],
        vec!["-q", "-v", name],
        vec![],
    ] {
        let output = mkfs(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 0));
    let output = mkfs(&["-V"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("2.0.0"));
}

#[test]
fn a_device_that_is_mounted_is_refused() {
    // The device below the root directory is mounted, if there is one to be seen.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let device = mounts.lines().find_map(|line| {
        let source = line.split(" - ").nth(1)?.split(' ').nth(1)?;
        let is_device = source.starts_with("/dev/") && Path::new(source).exists();
        is_device.then(|| source.to_owned())
    });
    let Some(device) = device else {
        eprintln!("skipped: no mounted block device here");
        return;
    };
    // A dry run, so that even a broken check harms nothing.
    assert_refused(&mkfs(&["-n", "-f", &device]), "mounted on");
}
