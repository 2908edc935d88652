// SPDX-License-Identifier: GPL-2.0

//! What statistics say about indexes.

use super::{Counts, Index, Kind, Parameters};
use crate::container;
use crate::VexFs;
use kernel::prelude::*;
use vexfs_uapi as uapi;
use vexfs_vfs::Inode;

/// What statistics say about an index.
#[derive(Default)]
pub(crate) struct Summary {
    pub(crate) parameters: Parameters,
    pub(crate) counts: Counts,
    pub(crate) bytes: u64,
    pub(crate) watermark: u64,
    /// `VEXFS_INDEX_*`.
    pub(crate) state: u32,
    /// Thousandths of training.
    pub(crate) trained: u32,
    pub(crate) digest: u64,
    /// Rows that the build that goes on has taken in and will take in.
    pub(crate) build_watermark: u64,
    pub(crate) build_rows: u64,
    /// Why the last build in the background failed.
    pub(crate) build_error: Option<Error>,
}

/// What the index of a kind is, or one that is being built, if there is no other. With `digest` a
/// checksum of it, unless it is being built.
///
/// # Errors
///
/// `ENOENT` if there is none and no build failed.
pub(crate) fn summary(inode: &Inode<VexFs>, kind: Kind, digest: bool) -> Result<Summary> {
    let (state, (ready, being_built), record, target, error) = container::with(inode, |c| {
        let slot = c.indexes.slot(kind);
        let building = slot.claim.is_some() && !slot.saving;
        let state = match (slot.is_ready(), building, &slot.record) {
            (true, false, _) => uapi::VEXFS_INDEX_READY,
            (true, true, _) => uapi::VEXFS_INDEX_REBUILDING,
            (false, true, _) => uapi::VEXFS_INDEX_BUILDING,
            (false, false, Some(_)) if slot.stored().is_none() => uapi::VEXFS_INDEX_UNUSABLE,
            (false, false, Some(_)) => uapi::VEXFS_INDEX_STORED,
            (false, false, None) if slot.error.is_some() => uapi::VEXFS_INDEX_FAILED,
            (false, false, None) => return Err(ENOENT),
        };
        let (record, target, error) = (slot.record, slot.target, slot.error);
        Ok((state, slot.in_memory(), record, target, error))
    })?;
    let mut summary = Summary {
        state,
        build_watermark: being_built.as_ref().map_or(0, |index| index.watermark()),
        build_rows: target,
        build_error: error,
        ..Summary::default()
    };
    if let Some(index) = ready.as_deref().or(being_built.as_deref()) {
        let structure = &index.structure;
        summary.parameters = structure.parameters();
        summary.counts = structure.counts();
        summary.bytes = (size_of::<Index>() as u64).saturating_add(index.charged());
        summary.watermark = index.watermark();
        summary.trained = structure.trained();
        if digest && ready.is_some() {
            summary.digest = structure.digest();
        }
    } else if let Some(record) = record {
        summary.parameters = record.parameters;
        summary.trained = 1000;
    }
    Ok(summary)
}
