// SPDX-License-Identifier: Apache-2.0

//! The device or file with the volume: opening it so that nobody else uses it meanwhile.

use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use vexfs_image::in_use::user;

/// An open device or file.
pub struct Target {
    pub file: File,
    /// Bytes it has.
    pub size: u64,
}

/// Opens `path`, for reading, or with `write` for both.
///
/// # Errors
///
/// One sentence.
pub fn open(path: &Path, write: bool) -> Result<Target, String> {
    let name = path.display();
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => format!("{name} does not exist"),
        _ => format!("{name} cannot be looked at: {e}"),
    })?;
    let is_device = metadata.file_type().is_block_device();
    if !is_device && !metadata.is_file() {
        return Err(format!(
            "{name} is neither a block device nor a regular file; name one that is"
        ));
    }
    if let Some(user) = user(path, &metadata) {
        return Err(format!("{name} is {user}; unmount or detach it first"));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    if is_device {
        // Exclusive on a device, for readers too: refused while the kernel has it mounted or in an array.
        options.custom_flags(OFlags::EXCL.bits() as i32);
    }
    let mut file = options.open(path).map_err(|e| match e.kind() {
        ErrorKind::ResourceBusy => {
            format!("{name} is in use by the system; unmount or detach it first")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if write => {
            format!("{name} cannot be opened for writing: {e}; -n only looks")
        }
        _ => format!("{name} cannot be opened: {e}"),
    })?;
    let size = file
        .seek(SeekFrom::End(0))
        .map_err(|e| format!("{name} does not tell its size: {e}"))?;
    Ok(Target { file, size })
}
