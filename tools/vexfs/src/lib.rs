// SPDX-License-Identifier: Apache-2.0
//! The `vexfs` program as a library, so that its tests run it on a volume in memory.
//!
//! `args` is the command line, `formats` the files of vectors, `output` the terminal;
//! each other file is a command or two.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod args;
mod bench;
pub mod error;
mod export;
pub mod formats;
mod import;
mod index;
pub mod output;
pub mod recall;
mod rows;
mod scrub;
mod search;
mod stats;

use args::{Cli, Command};
use error::Result;
use output::Output;
use vexfs_client::Volume;

/// Runs one command on the containers of `volume`.
pub fn run(cli: &Cli, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    match &cli.command {
        Command::Create(args) => stats::create(args, volume, output),
        Command::Import(args) => import::import(args, volume, output),
        Command::Upsert(args) => import::upsert(args, volume, output),
        Command::Export(args) => export::export(args, volume, output),
        Command::Search(args) => search::search(args, volume, output),
        Command::Get(args) => rows::get(args, volume, output),
        Command::Delete(args) => rows::delete(args, volume, output),
        Command::Stats(args) => stats::stats(args, volume, output),
        Command::Scrub(args) => scrub::scrub(args, volume, output),
        Command::Index(command) => index::index(command, volume, output),
        Command::Bench(command) => bench::bench(command, volume, output),
    }
}
