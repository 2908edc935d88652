// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The indexes that a container is to have: a tree in a hidden inode, with a record for each kind.

use crate::node::Place;
use crate::{tree, Blocks, Error, Result, Txn};
use vexfs_format::index::IndexRecord;

/// Calls `f` with the kind and record of every index.
///
/// # Errors
///
/// Those of [`tree::get`]; `CorruptInode` for a record that breaks a rule; whatever `f` returns.
pub fn for_each<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    mut f: impl FnMut(u32, IndexRecord) -> Result<()>,
) -> Result<()> {
    let corrupt = |what| Place::Root(owner).corrupt(what);
    tree::for_each_from(s, root, owner, 0, |kind, record| {
        let kind = u32::try_from(kind).map_err(|_| corrupt("index: no kind has this number"))?;
        f(kind, IndexRecord::parse(record).map_err(corrupt)?)?;
        Ok(true)
    })
}

/// Sets the record of a kind, new or not.
///
/// # Errors
///
/// Those of [`tree::insert`].
pub fn set<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    kind: u32,
    record: &IndexRecord,
) -> Result<()> {
    let record = record.encode();
    match tree::insert(t, root, owner, u64::from(kind), &record) {
        Err(Error::Exists) => tree::replace(t, root, owner, u64::from(kind), &record),
        result => result,
    }
}

/// Forgets the record of a kind.
///
/// # Errors
///
/// `NotFound` if there is none; those of [`tree::remove`].
pub fn remove<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, kind: u32) -> Result<()> {
    tree::remove(t, root, owner, u64::from(kind))
}
