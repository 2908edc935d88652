// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Orphans: inodes without a name that are still open, or whose blocks are being freed in
//! steps. Their numbers are keys, with empty records, in the tree of a hidden inode; mount
//! finishes what a crash interrupted.

use crate::{tree, Blocks, Error, Result, Txn};
use vexfs_format::ORPHAN_INO;

/// Notes `ino` as an orphan; nothing changes if it is one.
///
/// # Errors
///
/// Those of [`tree::insert`].
pub fn add<T: Txn>(t: &mut T, root: &mut [u8], ino: u64) -> Result<()> {
    match tree::insert(t, root, ORPHAN_INO, ino, &[]) {
        Err(Error::Exists) => Ok(()),
        result => result,
    }
}

/// Forgets `ino`; nothing changes if it is no orphan.
///
/// # Errors
///
/// Those of [`tree::remove`].
pub fn remove<T: Txn>(t: &mut T, root: &mut [u8], ino: u64) -> Result<()> {
    match tree::remove(t, root, ORPHAN_INO, ino) {
        Err(Error::NotFound) => Ok(()),
        result => result,
    }
}

/// The first orphan whose number is not below `from`.
///
/// # Errors
///
/// Those of [`tree::get`].
pub fn next<S: Blocks>(s: &S, root: &[u8], from: u64) -> Result<Option<u64>> {
    tree::seek_ge(s, root, ORPHAN_INO, from, |ino, _| ino)
}
