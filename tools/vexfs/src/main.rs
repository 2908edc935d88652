// SPDX-License-Identifier: Apache-2.0
//! The `vexfs` program: exit status 0, 1 after an error, 2 after a wrong command line.

#![deny(unsafe_code)]

use clap::Parser;
use std::io::{stderr, stdout, BufWriter};
use std::process::ExitCode;
use vexfs_cli::{args::Cli, error::Error, output::Output};
use vexfs_client::Mounted;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output {
        json: cli.json,
        to: &mut BufWriter::new(stdout().lock()),
        remarks: &mut stderr(),
    };
    match vexfs_cli::run(&cli, &Mounted, &mut output) {
        Ok(()) | Err(Error::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vexfs: {error}");
            ExitCode::FAILURE
        }
    }
}
