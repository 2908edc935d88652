// SPDX-License-Identifier: Apache-2.0

//! Whether everything on a volume fits together: every inode in use is walked, and what it
//! owns is compared with the bitmaps, counters and link counts.
//!
//! - this file: what a check finds
//! - `inodes.rs`: inodes, their trees, and names
//! - `containers.rs`: what containers own, and their indexes
//! - `groups.rs`: bitmaps and counters
//!
//! Memory: a bit for each block and inode of groups that are in use, and some forty bytes for each inode in use. Blocks
//! are read as they are needed and not kept. Images of indexes are in memory as a whole, one at a time.

mod containers;
mod groups;
mod inodes;

use crate::{Device, Image};
use libvexfs::alloc::{initial_block_bitmap, GroupSummary};
use libvexfs::Error;
use vexfs_format::group::PAYLOAD_BYTES;
use vexfs_format::Geometry;
use vexfs_uapi::Findings;

/// What a sound volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Directories, the root among them.
    pub directories: u64,
    /// Other inodes with a name.
    pub files: u64,
    /// Inodes without a name that the orphan tree knows.
    pub orphans: u64,
    /// Blocks of data and tree nodes.
    pub blocks: u64,
}

/// How a problem can be mended. Each of these is one block written, or blocks of which each may be written without the
/// others: [`crate::mend`] does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// The image of an index is forgotten, and the kernel builds it anew: container, kind.
    Image(u64, u32),
    /// An inode without an owner and without a name is freed.
    Free(u64),
    /// An inode that a name leads to is in use.
    InUse(u64),
    /// An inode has so many links.
    Links(u64, u32),
    /// An inode owns so many blocks.
    Blocks(u64, u64),
    /// A directory is in that one.
    Parent(u64, u64),
    /// A container has so many live rows.
    Live(u64, u64),
    /// A directory has no such entry: its inode is free.
    Name(u64, Vec<u8>),
    /// An inode is no orphan: it is free.
    Orphan(u64),
    /// What a group says about itself becomes what was found.
    Group(u64),
    /// A block of group descriptors is written anew.
    Descriptors(u64),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One sentence, which names the inode, group or block.
    pub text: String,
    /// What to do about it, if that is known.
    pub mend: Option<Mend>,
}

/// What a group should say about itself.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its block bitmap; empty if nothing is in it, or nothing is wrong.
    pub blocks: Vec<u8>,
    /// Its inode bitmap, or as there.
    pub inodes: Vec<u8>,
    /// Its counts.
    pub summary: GroupSummary,
    /// Nothing that may be in use is free here.
    pub certain: bool,
}

impl Group {
    /// Its block bitmap, to be filled in.
    fn blocks_mut(&mut self, geometry: &Geometry, group: u64) -> &mut [u8] {
        if self.blocks.is_empty() {
            self.blocks = vec![0; PAYLOAD_BYTES];
            initial_block_bitmap(geometry, group, &mut self.blocks);
        }
        &mut self.blocks
    }
}

/// An index that was looked at.
#[derive(Clone, Debug)]
pub struct IndexFound {
    /// Inode of its container.
    pub container: u64,
    /// `KIND_*` of the format.
    pub kind: u32,
    /// Inode of its image; 0 if there is none, and the kernel builds it when it is wanted.
    pub image: u64,
    /// What is wrong with it.
    pub findings: Findings,
}

/// What a check found.
#[derive(Debug)]
pub struct Found {
    /// What is there.
    pub report: Report,
    /// What is wrong, in the order in which it was found.
    pub problems: Vec<Problem>,
    /// The indexes of all containers.
    pub indexes: Vec<IndexFound>,
    /// Whether every inode, directory and tree could be read: otherwise what seems to have no owner may have one.
    pub complete: bool,
    /// What every group should say. If not everything could be read, at least what was found is in use.
    pub groups: Vec<Group>,
}

/// Who watches a check.
pub trait Watch {
    /// `done` of `all` parts of what is called `what` have been looked at. Says whether to go on.
    fn step(&mut self, what: &'static str, done: u64, all: u64) -> bool;
}

/// Nobody watches.
impl Watch for () {
    fn step(&mut self, _: &'static str, _: u64, _: u64) -> bool {
        true
    }
}

/// Whoever watches wants no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Looks at the whole volume as it is on the device.
///
/// # Errors
///
/// [`Stopped`] if `watch` says so. What is wrong with the volume is no error.
pub fn examine<D: Device>(image: &mut Image<D>, watch: &mut dyn Watch) -> Result<Found, Stopped> {
    let mut walk = Walk {
        watch,
        inodes: Vec::new(),
        found: Found {
            report: Report::default(),
            problems: Vec::new(),
            indexes: Vec::new(),
            complete: true,
            groups: (0..image.geometry.group_count)
                .map(|group| Group {
                    blocks: Vec::new(),
                    inodes: Vec::new(),
                    summary: image.groups[group as usize],
                    certain: false,
                })
                .collect(),
        },
    };
    walk.scan(image)?;
    walk.directories(image)?;
    walk.orphans(image);
    walk.containers(image)?;
    walk.paths();
    walk.names();
    walk.groups(image);
    Ok(walk.found)
}

/// Checks the volume as it is on the device.
///
/// # Errors
///
/// Everything that is wrong, one sentence each.
pub fn check<D: Device>(image: &mut Image<D>) -> Result<Report, Vec<String>> {
    let Ok(found) = examine(image, &mut ()) else {
        return Err(vec!["the check was stopped".into()]);
    };
    match found.problems.is_empty() {
        true => Ok(found.report),
        false => Err(found.problems.into_iter().map(|p| p.text).collect()),
    }
}

/// An inode in use, and what is known of it.
#[derive(Clone, Copy)]
struct Seen {
    ino: u64,
    /// The directory, or the container, that it says it is in.
    parent: u64,
    nlink: u32,
    flags: u32,
    /// Names that lead to it.
    names: u32,
    /// Directories in it.
    subdirs: u32,
    mode: u16,
    orphan: bool,
    /// It belongs to a container.
    owned: bool,
    /// Its container can't be known, so it may be its.
    doubtful: bool,
    /// Of a directory.
    path: Path,
}

/// Whether a path leads to a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Unknown,
    /// It was looked for, and not found.
    Asked,
    FromRoot,
}

struct Walk<'w> {
    watch: &'w mut dyn Watch,
    /// In order.
    inodes: Vec<Seen>,
    found: Found,
}

impl Walk<'_> {
    fn problem(&mut self, text: String, mend: Option<Mend>) {
        self.found.problems.push(Problem { text, mend });
    }

    /// A part of the volume that can't be read: what is behind it is not known.
    fn unreadable(&mut self, what: &str, error: Error) {
        self.found.complete = false;
        let error = words(error);
        self.problem(
            match error.starts_with(what) {
                true => error,
                false => format!("{what}: {error}"),
            },
            None,
        );
    }

    fn step(&mut self, what: &'static str, done: u64, all: u64) -> Result<(), Stopped> {
        match self.watch.step(what, done, all) {
            true => Ok(()),
            false => Err(Stopped),
        }
    }

    fn seen(&mut self, ino: u64) -> Option<&mut Seen> {
        let at = self.inodes.binary_search_by_key(&ino, |seen| seen.ino);
        at.ok().and_then(|at| self.inodes.get_mut(at))
    }
}

/// An error in words.
pub fn words(error: Error) -> String {
    match error {
        Error::Io => "the device could not be read".into(),
        Error::Corrupt { block, what } => format!("block {block}: {what}"),
        Error::BadChecksum { block } => format!("block {block}: bad checksum"),
        Error::CorruptInode { ino, what } => format!("inode {ino}: {what}"),
        Error::BadInodeChecksum { ino } => format!("inode {ino}: bad checksum"),
        Error::NoSpace => "there is no free block or inode".into(),
        Error::Invalid(what) => what.into(),
        other => format!("{other:?}"),
    }
}
