// SPDX-License-Identifier: Apache-2.0

//! Checks a volume and prints what is wrong, one sentence per line; changes nothing.
//!
//! For tests and for developers: a volume whose journal was not replayed (mounted, or not
//! unmounted) is refused, because it says nothing about itself before that.

#![deny(unsafe_code)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::ExitCode;
use vexfs_format::superblock::{self, STATE_CLEAN};
use vexfs_format::Superblock;
use vexfs_image::{check, crc, FileDevice, Image};

fn run(path: &str) -> Result<(), Vec<String>> {
    let one = |text: String| vec![format!("{path}: {text}")];
    let mut file = File::open(path).map_err(|e| one(format!("cannot be opened: {e}")))?;
    let mut bytes = [0; superblock::BYTES];
    file.seek(SeekFrom::Start(superblock::OFFSET as u64))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|e| one(format!("cannot be read: {e}")))?;
    let sb = Superblock::parse(&bytes, crc).map_err(|e| one(format!("{e:?}")))?;
    let replay = sb.flags.get() & superblock::FLAG_NEEDS_RECOVERY != 0;
    if sb.state.get() != STATE_CLEAN || replay {
        return Err(one("was not unmounted; mount and unmount it first".into()));
    }
    let mut image = Image::open(FileDevice(file)).map_err(|e| one(format!("{e:?}")))?;
    let report = check::check(&mut image).map_err(|all| {
        all.into_iter()
            .map(|p| format!("{path}: {p}"))
            .collect::<Vec<_>>()
    })?;
    println!(
        "{path}: sound; {} directories, {} files, {} orphans, {} blocks in use",
        report.directories, report.files, report.orphans, report.blocks
    );
    Ok(())
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: vexfs_check DEVICE");
        return ExitCode::FAILURE;
    };
    match run(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
}
