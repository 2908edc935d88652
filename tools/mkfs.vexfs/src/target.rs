// SPDX-License-Identifier: Apache-2.0

//! The device or file that is to hold the volume: opening it, whether it is in use, and
//! making it empty.

use crate::probe::SPAN;
use rustix::fs::{fallocate, FallocateFlags, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// An open device or file.
pub struct Target {
    pub file: File,
    /// Bytes it has.
    pub size: u64,
    pub is_device: bool,
}

/// Opens `path`; with `write` so that nobody else uses the device meanwhile. `size` creates
/// or extends a regular file, if `write`.
///
/// # Errors
///
/// One sentence.
pub fn open(path: &Path, size: Option<u64>, write: bool) -> Result<Target, String> {
    let name = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(e) if e.kind() == io::ErrorKind::NotFound && size.is_some() => None,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(format!(
                "{name} does not exist; give a size, as in `mkfs.vexfs {name} 1G`, to create a file"
            ));
        }
        Err(e) => return Err(format!("{name} cannot be looked at: {e}")),
    };
    let is_device = metadata
        .as_ref()
        .is_some_and(|m| m.file_type().is_block_device());
    if let Some(metadata) = &metadata {
        if !is_device && !metadata.is_file() {
            return Err(format!(
                "{name} is neither a block device nor a regular file; name one that is"
            ));
        }
        if let Some(user) = user(path, metadata) {
            return Err(format!("{name} is {user}; unmount or detach it first"));
        }
    }
    if metadata.is_none() && !write {
        // A dry run creates nothing, but can say what it would do.
        let file = File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
        return Ok(Target {
            file,
            size: 0,
            is_device,
        });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    if is_device && write {
        // Exclusive on a device: refused while the kernel has it mounted or in an array.
        options.custom_flags(OFlags::EXCL.bits() as i32);
    }
    let mut file = options
        .create(write && metadata.is_none())
        .truncate(false)
        .open(path)
        .map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => {
                format!("{name} is in use by the system; unmount or detach it first")
            }
            _ => format!("{name} cannot be opened: {e}"),
        })?;
    let mut have = file
        .seek(SeekFrom::End(0))
        .map_err(|e| format!("{name} does not tell its size: {e}"))?;
    if let Some(size) = size.filter(|size| *size > have && !is_device && write) {
        if let Err(e) = file.set_len(size) {
            if metadata.is_none() {
                // Created a moment ago; the error that matters is the first one.
                let _ = fs::remove_file(path);
            }
            return Err(format!("{name} cannot be made {size} bytes long: {e}"));
        }
        have = size;
    }
    Ok(Target {
        file,
        size: have,
        is_device,
    })
}

/// Who uses the device or file, if somebody does.
fn user(path: &Path, metadata: &fs::Metadata) -> Option<String> {
    if metadata.file_type().is_block_device() {
        let number = metadata.rdev();
        let device = format!("{}:{}", major(number), minor(number));
        return mount_of(&device).map(|at| format!("mounted on {at}"));
    }
    let path = fs::canonicalize(path).ok()?;
    let (device, number) = loop_device_of(&path)?;
    Some(match mount_of(&number) {
        Some(at) => format!("mounted on {at} through {device}"),
        None => format!("attached to {device}"),
    })
}

fn major(number: u64) -> u64 {
    (number >> 8 & 0xfff) | (number >> 32 & 0xffff_f000)
}

fn minor(number: u64) -> u64 {
    (number & 0xff) | (number >> 12 & 0xffff_ff00)
}

/// Where the device with this number is mounted: the third field of a line of mountinfo is
/// the device, the fifth the place.
fn mount_of(device: &str) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let of_line = |line: &str| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == device).then(|| fields.nth(1).map(str::to_owned))?
    };
    mounts.lines().find_map(of_line)
}

/// The loop device that has `path` as its backing file, and its number.
fn loop_device_of(path: &Path) -> Option<(String, String)> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|b| Path::new(b.trim_end_matches('\n')) == path) {
            let number = fs::read_to_string(entry.path().join("dev")).ok()?;
            let device = format!("/dev/{}", entry.file_name().to_string_lossy());
            return Some((device, number.trim().to_owned()));
        }
    }
    None
}

impl Target {
    /// Fills `out` from byte `at`.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, at)
    }

    /// Tells the device that nothing on it is needed any more. False if it cannot: then it
    /// keeps what it has, which is no harm.
    pub fn discard(&self) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // On a block device this is a discard that reads back as zeros, or an error.
        self.size > 0 && fallocate(&self.file, flags, 0, self.size).is_ok()
    }

    /// Zeroes the first and the last MiB, where signatures are. What is zero already is not
    /// written, so that a sparse file stays one.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn wipe(&self) -> io::Result<()> {
        let span = self.size.min(SPAN);
        for start in [0, self.size - span] {
            let mut at = start;
            while at < start + span {
                let len = (start + span - at).min(4096) as usize;
                let mut bytes = vec![0; len];
                self.file.read_exact_at(&mut bytes, at)?;
                if bytes.iter().any(|b| *b != 0) {
                    self.file.write_all_at(&vec![0; len], at)?;
                }
                at += len as u64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_taken_apart_as_the_kernel_does() {
        assert_eq!((major(0x0801), minor(0x0801)), (8, 1));
        // 259:300: the minor has bits above the first eight.
        let number = 259u64 << 8 | (300 & 0xff) | (300u64 & !0xff) << 12;
        assert_eq!((major(number), minor(number)), (259, 300));
    }

    #[test]
    fn the_mount_table_is_read() {
        assert_eq!(mount_of("999999:1"), None);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().next().unwrap();
        let fields: Vec<_> = line.split(' ').collect();
        assert_eq!(mount_of(fields[2]).as_deref(), Some(fields[4]));
    }
}
