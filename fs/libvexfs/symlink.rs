// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The target of a symbolic link: records of up to 960 bytes with keys 0, 1, 2 and so on.
//! A target of up to 156 bytes stays in the inode.

use crate::node::Place;
use crate::{format, tree, Blocks, Error, Result, Txn};

/// Longest target in bytes: `PATH_MAX` without its NUL.
pub const MAX_TARGET: usize = 4095;
/// Bytes of target per record.
const CHUNK: usize = 960;

/// Blocks one [`write()`] can join to its transaction.
pub const WRITE_CREDITS: u32 = 5 * tree::insert_credits(2);

/// Writes the target of a new link, whose tree is empty. If this fails the tree may hold a
/// part of it: the inode is not to be kept.
///
/// # Errors
///
/// `NameTooLong`, `Invalid` if it is empty; those of [`tree::insert`].
pub fn write<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, target: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Error::Invalid("a symbolic link needs a target"));
    }
    if target.len() > MAX_TARGET {
        return Err(Error::NameTooLong);
    }
    for (key, chunk) in (0u64..).zip(target.chunks(CHUNK)) {
        tree::insert(t, root, owner, key, chunk)?;
    }
    Ok(())
}

/// Reads the target to the start of `out`, 4095 bytes, and returns its length.
///
/// # Errors
///
/// `CorruptInode` if the records are not a target; those of [`tree::get`].
pub fn read<S: Blocks>(s: &S, root: &[u8], owner: u64, out: &mut [u8]) -> Result<usize> {
    let corrupt = |what| Place::Root(owner).corrupt(what);
    let mut len = 0usize;
    let mut next = 0;
    tree::for_each_from(s, root, owner, 0, |key, record| {
        if key != next || record.is_empty() {
            return Err(corrupt("symbolic link: a part is missing"));
        }
        next = key.saturating_add(1);
        let end = len.saturating_add(record.len());
        let place = out
            .get_mut(len..end)
            .ok_or(corrupt("symbolic link: target is too long"))?;
        format::copy(place, record);
        len = end;
        Ok(true)
    })?;
    match len {
        0 => Err(corrupt("symbolic link: no target")),
        len => Ok(len),
    }
}
