// SPDX-License-Identifier: GPL-2.0

//! What a structure that was loaded has to make up for.

use super::budget::{Account, Charge};
use crate::VexFs;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_vfs::Inode;

/// A bit for each row that an image had.
pub(super) struct Loaded {
    pub(super) words: KVVec<u64>,
    _charge: Charge,
}

impl Loaded {
    /// None of `rows` rows; charged to `account`.
    pub(super) fn none_of(account: &Arc<Account>, rows: u64) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let words = usize::try_from(rows.div_ceil(64))?;
        Ok(Loaded {
            words: charge.make(words)?,
            _charge: charge,
        })
    }

    pub(super) fn has(&self, row: u64) -> bool {
        let word = self.words.get((row / 64) as usize).copied();
        word.unwrap_or(0) >> (row % 64) & 1 != 0
    }

    /// Rows that were taken in since.
    pub(super) fn learn(&mut self, rows: &[u64]) {
        for row in rows {
            if let Some(word) = self.words.get_mut((row / 64) as usize) {
                *word |= 1 << (row % 64);
            }
        }
    }

    /// Rows that were removed since.
    pub(super) fn forget(&mut self, rows: &[u64]) {
        for row in rows {
            if let Some(word) = self.words.get_mut((row / 64) as usize) {
                *word &= !(1 << (row % 64));
            }
        }
    }
}

/// How a structure differs from the rows of its container.
pub(super) struct Difference {
    /// Rows that it has and that were deleted, whether or not others are in their place.
    pub(super) gone: KVVec<u64>,
    /// Live rows that it has not.
    pub(super) missing: KVVec<u64>,
}

impl Difference {
    /// About `rows`, of which the structure has those that `here` says yes to, as they were after batch `since`. Who
    /// changes it is kept out. Rows that are deleted later are told to the structure by who deletes them.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn of(
        inode: &Inode<VexFs>,
        rows: Range<u64>,
        since: u64,
        here: impl Fn(u64) -> bool,
    ) -> Result<Self> {
        let (mut gone, mut missing) = (KVVec::new(), KVVec::new());
        for row in rows {
            let (is_live, is_other) = {
                let container = inode.node().container.lock();
                (container.is_live(row), container.born(row) > since)
            };
            let is_here = here(row);
            if is_here && (!is_live || is_other) {
                gone.push(row, GFP_KERNEL)?;
            }
            if is_live && (!is_here || is_other) {
                missing.push(row, GFP_KERNEL)?;
            }
        }
        Ok(Difference { gone, missing })
    }
}
