// SPDX-License-Identifier: Apache-2.0

//! The device or file that is to hold the volume: opening it, whether it is in use, and
//! making it empty.

use crate::probe::SPAN;
use rustix::fs::{fallocate, FallocateFlags, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use vexfs_image::in_use::user;

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
