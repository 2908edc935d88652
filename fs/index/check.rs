// SPDX-License-Identifier: GPL-2.0

//! Scrubbing: whether an index in memory is what its container's rows make it, and its image is whole.

use super::image::Reader as Image;
use super::{build, checkpoint, Kind, Parameters, Request};
use crate::container;
use crate::VexFs;
use kernel::prelude::*;
use vexfs_uapi::Findings;
use vexfs_vfs::Inode;

/// Checks the index of a kind; with `repair`, builds it anew if anything is wrong with it. Not with the
/// inode locked: searches go on meanwhile, and batches wait for short times.
///
/// # Errors
///
/// `ENOENT` if there is none; `EINTR`, `ENOMEM`, and what reading says; those of a build.
pub(crate) fn check(inode: &Inode<VexFs>, kind: Kind, repair: bool) -> Result<Findings> {
    checkpoint::load(inode, kind.number())?;
    let (findings, parameters) = look(inode, kind)?;
    if repair && !findings.is_sound() {
        let request = Request {
            kind,
            parameters,
            replace: true,
            background: false,
            threads: 1,
            by_itself: false,
        };
        build(inode, &request)?;
    }
    Ok(findings)
}

/// What is wrong, and with what parameters the index is built. Not inlined: a repair wants the stack.
#[inline(never)]
fn look(inode: &Inode<VexFs>, kind: Kind) -> Result<(Findings, Parameters)> {
    let (index, record) = container::with(inode, |c| {
        let slot = c.indexes.slot(kind);
        let ready = slot.ready();
        if ready.is_none() && slot.stored().is_some() {
            // It could not be loaded, or had to go again.
            return Err(ENOMEM);
        }
        Ok((ready, slot.record))
    })?;
    if index.is_none() && record.is_none() {
        return Err(ENOENT);
    }
    let mut findings = Findings::default();
    if let Some(index) = &index {
        let watermark = index.watermark();
        index.structure.check(inode, watermark, &mut findings)?;
    }
    match check_image(inode, kind) {
        Err(e) if e == EINTR || e == ENOMEM => return Err(e),
        checked => findings.bad_image = index.is_none() || checked.is_err(),
    }
    let structure = index.map(|index| index.structure.parameters());
    let recorded = record.map(|record| record.parameters);
    Ok((findings, structure.or(recorded).unwrap_or_default()))
}

/// Reads the image of an index, if it has one, and verifies it.
fn check_image(inode: &Inode<VexFs>, kind: Kind) -> Result {
    let _images = inode.node().images.lock_killable()?;
    let (area, record) = container::with(inode, |c| Ok((c.area, c.indexes.slot(kind).record)))?;
    match record.filter(|record| record.image_ino != 0) {
        Some(record) => Image::new(inode.sb(), record.image_ino, kind.number(), &area)?.verify(),
        None => Ok(()),
    }
}
