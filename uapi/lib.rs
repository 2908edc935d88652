// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//! The VexFS ioctl interface in Rust, for the module and for its clients.
//!
//! The structures and constants come from `vexfs.h` through bindgen; nothing of
//! them is written twice. What bindgen cannot see, because it is made by
//! function-like macros or has the wrong type in Rust, stands below and is
//! compared with C by `tests/layout.rs`.
//!
//! Kbuild and cargo both put the output of bindgen at
//! `$VEXFS_GEN/uapi_generated.rs`.

#![no_std]
#![deny(unsafe_code)]

/// The output of bindgen, as it is.
#[allow(
    clippy::all,
    dead_code,
    missing_docs,
    non_camel_case_types,
    rustdoc::all,
    unreachable_pub
)]
mod generated {
    use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

    include!(concat!(env!("VEXFS_GEN"), "/uapi_generated.rs"));
}

pub use generated::*;

// bindgen gives these macros a signed type. An item that is named here hides the
// generated one of the same name.

/// Not a key: no row can have it.
pub const VEXFS_KEY_NONE: u64 = u64::MAX;

/// Not a row: no row has this number.
pub const VEXFS_ROW_NONE: u64 = u64::MAX;

/// The distance of an entry beyond a query's count: +infinity, as binary32 bits.
pub const DISTANCE_NONE: u32 = 0x7f80_0000;

/// The command number of `_IOWR(VEXFS_IOCTL_MAGIC, nr, T)`, as
/// `include/uapi/asm-generic/ioctl.h` makes it.
const fn iowr<T>(nr: u32) -> u32 {
    // From bit 0 up: number (8 bits), magic (8), size (14), direction (2).
    const DIR_WRITE_READ: u32 = 3;
    let size = size_of::<T>();
    assert!(size < 1 << 14 && nr < 1 << 8);
    DIR_WRITE_READ << 30 | (size as u32) << 16 | VEXFS_IOCTL_MAGIC << 8 | nr
}

/// The number (low 8 bits) of each command. The kernel goes by this and the magic,
/// and ignores the size field, so that a structure can grow.
pub mod nr {
    /// Number of [`VEXFS_IOCTL_CREATE_VECTOR`](super::VEXFS_IOCTL_CREATE_VECTOR).
    pub const CREATE_VECTOR: u32 = 1;
    /// Number of [`VEXFS_IOCTL_BATCH_OPERATIONS`](super::VEXFS_IOCTL_BATCH_OPERATIONS).
    pub const BATCH_OPERATIONS: u32 = 2;
    /// Number of [`VEXFS_IOCTL_SIMILARITY_SEARCH`](super::VEXFS_IOCTL_SIMILARITY_SEARCH).
    pub const SIMILARITY_SEARCH: u32 = 3;
    /// Number of [`VEXFS_IOCTL_BUILD_INDEX`](super::VEXFS_IOCTL_BUILD_INDEX).
    pub const BUILD_INDEX: u32 = 4;
    /// Number of [`VEXFS_IOCTL_GET_VECTOR_STATS`](super::VEXFS_IOCTL_GET_VECTOR_STATS).
    pub const GET_VECTOR_STATS: u32 = 5;
    /// Number of [`VEXFS_IOCTL_GET_INDEX_STATS`](super::VEXFS_IOCTL_GET_INDEX_STATS).
    pub const GET_INDEX_STATS: u32 = 6;
    /// Number of [`VEXFS_IOCTL_CHECK_INDEX`](super::VEXFS_IOCTL_CHECK_INDEX).
    pub const CHECK_INDEX: u32 = 7;
}

/// The magic byte of an ioctl command.
pub const fn command_magic(command: u32) -> u32 {
    command >> 8 & 0xff
}

/// The number of an ioctl command; compare with [`nr`].
pub const fn command_nr(command: u32) -> u32 {
    command & 0xff
}

/// Make an empty regular file a container; takes a [`vexfs_create_vector`].
pub const VEXFS_IOCTL_CREATE_VECTOR: u32 = iowr::<vexfs_create_vector>(nr::CREATE_VECTOR);
/// Insert, upsert, delete or get many rows; takes a [`vexfs_batch`].
pub const VEXFS_IOCTL_BATCH_OPERATIONS: u32 = iowr::<vexfs_batch>(nr::BATCH_OPERATIONS);
/// Find the k nearest rows of each query; takes a [`vexfs_search`].
pub const VEXFS_IOCTL_SIMILARITY_SEARCH: u32 = iowr::<vexfs_search>(nr::SIMILARITY_SEARCH);
/// Build an index over a container; takes a [`vexfs_build_index`].
pub const VEXFS_IOCTL_BUILD_INDEX: u32 = iowr::<vexfs_build_index>(nr::BUILD_INDEX);
/// Tell what a container is and has done; takes a [`vexfs_vector_stats`].
pub const VEXFS_IOCTL_GET_VECTOR_STATS: u32 = iowr::<vexfs_vector_stats>(nr::GET_VECTOR_STATS);
/// Tell what an index of a container is; takes a [`vexfs_index_stats`].
pub const VEXFS_IOCTL_GET_INDEX_STATS: u32 = iowr::<vexfs_index_stats>(nr::GET_INDEX_STATS);

/// See whether an index is what the rows make it; takes a [`vexfs_index_check`].
pub const VEXFS_IOCTL_CHECK_INDEX: u32 = iowr::<vexfs_index_check>(nr::CHECK_INDEX);

/// Sizes in bytes of the first version of each structure, the least that its
/// `size` field may say. They stay what they are when a structure grows.
pub mod first_size {
    /// Of [`vexfs_create_vector`](super::vexfs_create_vector).
    pub const CREATE_VECTOR: usize = 48;
    /// Of [`vexfs_batch`](super::vexfs_batch).
    pub const BATCH: usize = 96;
    /// Of [`vexfs_search`](super::vexfs_search).
    pub const SEARCH: usize = 160;
    /// Of [`vexfs_build_index`](super::vexfs_build_index).
    pub const BUILD_INDEX: usize = 64;
    /// Of [`vexfs_vector_stats`](super::vexfs_vector_stats).
    pub const VECTOR_STATS: usize = 160;
    /// Of [`vexfs_index_stats`](super::vexfs_index_stats).
    pub const INDEX_STATS: usize = 96;
    /// Of [`vexfs_index_check`](super::vexfs_index_check).
    pub const INDEX_CHECK: usize = 80;
}

// A structure never shrinks, and a hit is part of an array: it never changes.
const _: () = assert!(size_of::<vexfs_create_vector>() >= first_size::CREATE_VECTOR);
const _: () = assert!(size_of::<vexfs_batch>() >= first_size::BATCH);
const _: () = assert!(size_of::<vexfs_search>() >= first_size::SEARCH);
const _: () = assert!(size_of::<vexfs_build_index>() >= first_size::BUILD_INDEX);
const _: () = assert!(size_of::<vexfs_vector_stats>() >= first_size::VECTOR_STATS);
const _: () = assert!(size_of::<vexfs_index_stats>() >= first_size::INDEX_STATS);
const _: () = assert!(size_of::<vexfs_index_check>() >= first_size::INDEX_CHECK);
const _: () = assert!(size_of::<vexfs_hit>() == 24);

/// What a check of an index found: of one in use, which [`vexfs_index_check`] tells, or of its image alone, by
/// `fsck.vexfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Rows looked at.
    pub rows: u64,
    /// Rules of its structure that the index breaks: at least so many.
    pub faults: u64,
    /// Rows that no search of the index can come by.
    pub unreachable: u64,
    /// Rows whose code is not that of their vector.
    pub wrong_codes: u64,
    /// Live rows that the index lacks, and deleted ones that it has.
    pub wrong_rows: u64,
    /// What is on disk is damaged, outdated, of another index, or can't be read.
    pub bad_image: bool,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        let rows = self.rows;
        let sound = Findings {
            rows,
            ..Findings::default()
        };
        *self == sound
    }
}

/// How many rows there are, and what is wrong.
impl core::fmt::Display for Findings {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let wrong = [
            (self.faults, "rules of the index broken"),
            (self.unreachable, "rows that can't be reached"),
            (self.wrong_codes, "codes that are not those of their rows"),
            (self.wrong_rows, "rows missing, or there though deleted"),
            (u64::from(self.bad_image), "image damaged or outdated"),
        ];
        write!(f, "{} rows checked", self.rows)?;
        let mut wrong = wrong.iter().filter(|(n, _)| *n > 0);
        wrong.try_for_each(|(n, what)| write!(f, ", {n} {what}"))
    }
}

impl vexfs_index_check {
    /// What the kernel says that it found.
    pub fn findings(&self) -> Findings {
        Findings {
            rows: self.rows,
            faults: self.faults,
            unreachable: self.unreachable,
            wrong_codes: self.wrong_codes,
            wrong_rows: self.wrong_rows,
            bad_image: self.bad_images > 0,
        }
    }

    /// Says what was found.
    pub fn set_findings(&mut self, found: &Findings) {
        self.rows = found.rows;
        self.faults = found.faults;
        self.unreachable = found.unreachable;
        self.wrong_codes = found.wrong_codes;
        self.wrong_rows = found.wrong_rows;
        self.bad_images = u64::from(found.bad_image);
    }
}
