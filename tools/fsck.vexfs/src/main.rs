// SPDX-License-Identifier: Apache-2.0

//! fsck.vexfs: checks a VexFS volume on a block device or in a file, and mends it.
//!
//! What is looked at and how it is mended is `vexfs_image::check` and `vexfs_image::mend`; this is the command around
//! them, with the options and exit codes of fsck(8), so that `fsck -t vexfs` and `fsck -a` at boot work.

#![deny(unsafe_code)]

mod progress;
mod session;
mod superblock;
mod target;

use clap::Parser;
use session::Consent;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use superblock::State;
use vexfs_image::check::words;
use vexfs_image::{FileDevice, Image};

/// Check a VexFS volume that is not mounted, and mend it.
///
/// Looked at are the superblock and the journal's, group descriptors, bitmaps, inodes, trees, directories, link counts,
/// orphans, containers, and their indexes: links, what a search can come by, whether each code is that of its row's
/// vector, which rows are there, and checksums.
///
/// Mended are, each by one block written: wrong counts and bitmaps, link counts, names of and references to
/// free inodes, inodes that are nobody's, and a superblock of which there is a sound copy. A damaged index is forgotten: exact
/// searches answer, and the kernel builds it anew at the first search. What can't be mended so is said, and left alone.
/// Where something can't be read, nothing that may belong to it is freed.
///
/// A volume that was not unmounted has to be mounted and unmounted first: a mount replays the journal.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.vexfs",
    version,
    disable_version_flag = true,
    after_help = "Exit status: 0 sound; 1 mended; 4 something is left; 8 the device can't be used; \
                  16 wrong command line; 32 cancelled."
)]
struct Arguments {
    /// Look only: open the device for reading and change nothing
    #[arg(short = 'n', conflicts_with_all = ["preen", "yes"])]
    no: bool,

    /// Mend without asking, as at boot (-a is the same): a volume that was unmounted is passed without a look,
    /// unless -f is given, and one that was not is left to the mount that replays its journal
    #[arg(short = 'p', short_alias = 'a', conflicts_with = "yes")]
    preen: bool,

    /// Mend without asking
    #[arg(short = 'y')]
    yes: bool,

    /// Check even if the volume seems clean; only -p and -a do not anyway
    #[arg(short = 'f')]
    force: bool,

    /// Print what was found of each index
    #[arg(short = 'v')]
    verbose: bool,

    /// Print the version
    #[arg(short = 'V', long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,

    /// Block device, or file
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
}

/// Exit status of fsck(8): cancelled by the user.
const CANCELLED: u8 = 32;

/// How a check ended; the numbers are those of fsck(8), and the last is what went wrong, in words.
enum End {
    Sound,
    Mended,
    Left,
    Cancelled,
    Failed(String),
}

fn run(arguments: &Arguments) -> End {
    let name = arguments.device.display().to_string();
    let consent = match arguments {
        Arguments { no: true, .. } => Consent::No,
        Arguments { yes: true, .. } | Arguments { preen: true, .. } => Consent::Yes,
        _ if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() => Consent::Ask,
        _ => {
            println!("{name}: there is no terminal to ask on, so nothing is changed; -y mends");
            Consent::No
        }
    };
    let target = match target::open(&arguments.device, consent != Consent::No) {
        Ok(target) => target,
        Err(sentence) => return End::Failed(sentence),
    };
    let mut device = FileDevice(target.file);
    let mut session = session::Session::new(name.clone(), consent, arguments.verbose);
    let state = match superblock::look(&mut device, target.size, &mut session) {
        Ok(state) => state,
        Err(end) => return end,
    };
    match state {
        State::Unreplayed if arguments.preen => {
            println!("{name}: was not unmounted; the mount replays its journal");
            return session.end();
        }
        State::Unreplayed => {
            println!("{name}: was not unmounted: mount it, which replays its journal, unmount it, and check again");
            return End::Left;
        }
        State::Clean if arguments.preen && !arguments.force && session.end_is_sound() => {
            println!("{name}: clean");
            return End::Sound;
        }
        State::Clean | State::Errors => {}
        State::Newer if consent != Consent::No => {
            return End::Failed(format!(
                "{name} was written by a newer VexFS; this version can only look, with -n"
            ));
        }
        State::Newer => {}
    }
    let mut image = match Image::open_damaged(device) {
        Ok(image) => image,
        Err(error) => return End::Failed(format!("{name}: {}", words(error))),
    };
    match session.rounds(&mut image) {
        Ok(true) => {}
        Ok(false) => return End::Left,
        Err(cancelled) => return cancelled,
    }
    if matches!(state, State::Errors) && consent != Consent::No {
        let mut device = image.into_device();
        if let Err(e) = superblock::forget_errors(&mut device) {
            return End::Failed(format!("{name} cannot be written: {e}"));
        }
    }
    session.end()
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors.
            let failed = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if failed { 16 } else { 0 });
        }
    };
    ExitCode::from(match run(&arguments) {
        End::Sound => 0,
        End::Mended => 1,
        End::Left => 4,
        End::Failed(sentence) => {
            eprintln!("fsck.vexfs: {sentence}");
            8
        }
        End::Cancelled => {
            eprintln!("fsck.vexfs: cancelled; what was mended so far is on the device");
            CANCELLED
        }
    })
}
