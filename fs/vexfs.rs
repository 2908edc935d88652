// SPDX-License-Identifier: GPL-2.0

//! VexFS: a filesystem that knows what a vector is.
//!
//! ```text
//! super_ops.rs volume.rs options.rs   mounting, the superblock, the journal
//! txn.rs withheld.rs                  blocks over buffer cache and journal
//! node.rs orphan.rs                   inodes, and those without a name
//! namei.rs file.rs                    names; data and size
//! ioctl.rs                            the interface of uapi/vexfs.h
//! container/ rows.rs element.rs       vector containers, their rows, and what these are made of
//! search.rs candidates.rs scorer.rs   searches, which rows may be hits, and comparing them
//! simd.rs                             which instruction set, for how long at once
//! spread.rs                           one search on several processors
//! index/                              indexes of containers, kept in step with the rows
//! bench.rs                            a benchmark in debugfs
//! errno.rs                            errors
//! ```
//!
//! Everything here is safe Rust over the traits of `fs/vfs`; what can be done without a
//! kernel is done in `fs/libvexfs` and `ann`.

#![deny(unsafe_code)]

use kernel::prelude::*;
use vexfs_vfs::iomap::Completions;
use vexfs_vfs::mount::Registration;
use vexfs_vfs::work::Workers;
use vexfs_vfs::FileSystem;

mod bench;
mod candidates;
mod container;
mod element;
mod errno;
mod file;
mod index;
mod ioctl;
mod namei;
mod node;
mod options;
mod orphan;
mod rows;
mod scorer;
mod search;
mod simd;
mod spread;
mod super_ops;
mod txn;
mod volume;
mod withheld;

module! {
    type: VexFsModule,
    name: "vexfs",
    authors: ["The VexFS authors"],
    description: "VexFS, a filesystem with vector containers and similarity search",
    license: "GPL",
    alias: ["fs-vexfs"],
}

/// The filesystem type.
pub(crate) struct VexFs;

impl FileSystem for VexFs {}

// Fields are dropped in this order: first no more mounts, then no more completions and workers.
struct VexFsModule {
    _registration: Registration<VexFs>,
    _completions: Completions,
    _workers: Workers,
    _bench: bench::DebugFile,
}

impl kernel::Module for VexFsModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        simd::choose()?;
        let bench = bench::DebugFile::new()?;
        let completions = Completions::new(c"vexfs-io")?;
        let workers = Workers::new(c"vexfs")?;
        let registration = Registration::new(module)?;
        Ok(VexFsModule {
            _registration: registration,
            _completions: completions,
            _workers: workers,
            _bench: bench,
        })
    }
}
