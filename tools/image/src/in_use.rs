// SPDX-License-Identifier: Apache-2.0

//! Whether somebody uses a device or file, as the kernel tells.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Who uses the device or file, if somebody does: it is mounted, or attached to a loop device.
pub fn user(path: &Path, metadata: &fs::Metadata) -> Option<String> {
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
