// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What stands beside a row of vectors, and which row a key has: two trees in hidden inodes.

use crate::node::Place;
use crate::{tree, Blocks, Error, Result, Txn};
use vexfs_format::row::RowMeta;

/// What stands beside `row`; nothing if it has no record.
///
/// # Errors
///
/// Those of [`tree::get`]; `CorruptInode` for a record of the wrong size.
pub fn meta<S: Blocks>(s: &S, root: &[u8], owner: u64, row: u64) -> Result<Option<RowMeta>> {
    tree::get(s, root, owner, row, RowMeta::parse)?
        .transpose()
        .map_err(|what| Place::Root(owner).corrupt(what))
}

/// Calls `f` with the record of every row from `start` on until it returns false.
///
/// # Errors
///
/// As [`meta`], and whatever `f` returns.
pub fn for_each_from<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    start: u64,
    mut f: impl FnMut(u64, RowMeta) -> Result<bool>,
) -> Result<()> {
    tree::for_each_from(s, root, owner, start, |row, record| {
        f(
            row,
            RowMeta::parse(record).map_err(|what| Place::Root(owner).corrupt(what))?,
        )
    })
}

/// Sets what stands beside `row`, new or not.
///
/// # Errors
///
/// Those of [`tree::insert`].
pub fn set_meta<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    row: u64,
    meta: &RowMeta,
) -> Result<()> {
    upsert(t, root, owner, row, meta.encode().as_slice())
}

/// The row of `key`; nothing if it has none.
///
/// # Errors
///
/// As [`meta`].
pub fn row_of_key<S: Blocks>(s: &S, root: &[u8], owner: u64, key: u64) -> Result<Option<u64>> {
    let row = tree::get(s, root, owner, key, |record| {
        record.try_into().map(u64::from_le_bytes)
    })?;
    row.transpose()
        .map_err(|_| Place::Root(owner).corrupt("key map: record has the wrong size"))
}

/// Sets the row of `key`, new or not.
///
/// # Errors
///
/// Those of [`tree::insert`].
pub fn set_row_of_key<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    key: u64,
    row: u64,
) -> Result<()> {
    upsert(t, root, owner, key, &row.to_le_bytes())
}

/// Forgets `key`.
///
/// # Errors
///
/// `NotFound` if it has no row; those of [`tree::remove`].
pub fn remove_key<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, key: u64) -> Result<()> {
    tree::remove(t, root, owner, key)
}

fn upsert<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, key: u64, record: &[u8]) -> Result<()> {
    match tree::insert(t, root, owner, key, record) {
        Err(Error::Exists) => tree::replace(t, root, owner, key, record),
        result => result,
    }
}
