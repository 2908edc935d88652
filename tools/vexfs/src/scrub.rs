// SPDX-License-Identifier: Apache-2.0
//! `vexfs scrub`: whether the indexes of a container are what its rows make them.

use crate::args;
use crate::error::{sentence, Result};
use crate::output::Output;
use serde::Serialize;
use vexfs_client::{Access, Errno, Findings, IndexKind, Volume};

/// What was found about one index, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    kind: &'static str,
    sound: bool,
    rows: u64,
    faults: u64,
    unreachable: u64,
    wrong_codes: u64,
    wrong_rows: u64,
    bad_images: u64,
    #[serde(skip)]
    found: Findings,
}

#[derive(Debug, Serialize)]
struct Scrubbed {
    file: String,
    repaired: bool,
    indexes: Vec<Report>,
}

fn report(kind: IndexKind, found: Findings) -> Report {
    Report {
        kind: kind.name(),
        sound: found.is_sound(),
        rows: found.rows,
        faults: found.faults,
        unreachable: found.unreachable,
        wrong_codes: found.wrong_codes,
        wrong_rows: found.wrong_rows,
        bad_images: found.bad_image.into(),
        found,
    }
}

/// Checks all indexes. An error if one is damaged and was not to be repaired.
pub fn scrub(args: &args::Scrub, volume: &dyn Volume, output: &mut Output<'_>) -> Result<()> {
    let access = match args.repair {
        true => Access::Write,
        false => Access::Read,
    };
    let mut container = volume.open(&args.file, access)?;
    let mut indexes = Vec::new();
    for &kind in IndexKind::ALL {
        if matches!(kind, IndexKind::Auto | IndexKind::Exact) {
            continue;
        }
        match container.check_index(kind, args.repair) {
            Ok(found) => indexes.push(report(kind, found)),
            Err(e) if e.errno() == Some(Errno::NOENT) => (),
            Err(e) => return Err(e.into()),
        }
    }
    let damaged = indexes.iter().filter(|r| !r.sound).count();
    let scrubbed = Scrubbed {
        file: args.file.display().to_string(),
        repaired: args.repair && damaged > 0,
        indexes,
    };
    output.print(&scrubbed, |to| {
        scrubbed.indexes.iter().try_for_each(|r| {
            let verdict = match (r.sound, args.repair) {
                (true, _) => "sound",
                (false, true) => "was damaged, built anew",
                (false, false) => "DAMAGED",
            };
            writeln!(to, "{}: {} {verdict}, {}", scrubbed.file, r.kind, r.found)
        })
    })?;
    if damaged > 0 && !args.repair {
        return Err(sentence!(
            "{}: {damaged} indexes are damaged; build them anew with: vexfs scrub --repair {0}",
            scrubbed.file
        ));
    }
    Ok(())
}
