// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Names in a directory, found by a keyed hash, read in the order of their cookies.
//!
//! "." and ".." are not stored: the host makes them up at cookies 0 and 1, and entries start
//! behind. A cookie never changes while its entry lives, so a reader that goes on from one
//! misses no entry that was there throughout, and sees none twice.

use crate::node::Place;
use crate::siphash::siphash;
use crate::{tree, Blocks, Error, Result, Txn};
use vexfs_format::dirent::{
    is_name, Dirent, FIRST_DISAMBIGUATOR, LAST_DISAMBIGUATOR, MAX_DIRENT, MAX_NAME,
};

/// First cookie of a stored entry.
pub const FIRST_COOKIE: u64 = FIRST_DISAMBIGUATOR;

/// An entry, borrowed while it is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its place in the order, 2 to 2^63 - 1.
    pub cookie: u64,
    /// The inode named.
    pub ino: u64,
    /// Its type, as `DT_*`.
    pub file_type: u8,
    /// The name.
    pub name: &'a [u8],
}

/// Cookies of all names with the hash of `name`: from the first on, 254 of them.
fn first_cookie(seed: &[u8; 16], name: &[u8]) -> u64 {
    // 55 bits of hash and 8 below them are 63: cookies are never negative.
    (siphash(seed, name) >> 9) << 8 | FIRST_DISAMBIGUATOR
}

const SPAN: u64 = LAST_DISAMBIGUATOR - FIRST_DISAMBIGUATOR;

fn check_name(name: &[u8]) -> Result<()> {
    match (name.len() > MAX_NAME, is_name(name)) {
        (true, _) => Err(Error::NameTooLong),
        (false, true) => Ok(()),
        (false, false) => Err(Error::Invalid("not a name for a directory entry")),
    }
}

/// The entry called `name`, as cookie, inode and type; and the lowest cookie that is free
/// for it if there is none.
struct Found {
    entry: Option<(u64, u64, u8)>,
    free: Option<u64>,
}

fn find<S: Blocks>(s: &S, root: &[u8], owner: u64, seed: &[u8; 16], name: &[u8]) -> Result<Found> {
    let first = first_cookie(seed, name);
    let last = first.saturating_add(SPAN);
    let mut entry = None;
    let mut free = first;
    tree::for_each_from(s, root, owner, first, |cookie, record| {
        if cookie > last {
            return Ok(false);
        }
        if cookie == free {
            free = free.saturating_add(1);
        }
        let dirent = Dirent::parse(record).map_err(|what| Place::Root(owner).corrupt(what))?;
        if dirent.name == name {
            entry = Some((cookie, dirent.ino, dirent.file_type));
        }
        Ok(entry.is_none())
    })?;
    Ok(Found {
        entry,
        free: Some(free).filter(|cookie| *cookie <= last),
    })
}

/// Inode and type of the entry called `name`; nothing if there is none.
///
/// # Errors
///
/// `NameTooLong`; those of [`tree::get`]; `CorruptInode` for entries that break a rule.
pub fn lookup<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    seed: &[u8; 16],
    name: &[u8],
) -> Result<Option<(u64, u8)>> {
    if name.len() > MAX_NAME {
        return Err(Error::NameTooLong);
    }
    let found = find(s, root, owner, seed, name)?;
    Ok(found.entry.map(|(_, ino, file_type)| (ino, file_type)))
}

/// Enters a name.
///
/// # Errors
///
/// `Exists` if the name is there; `NameTooLong`, `Invalid` for what is not a name;
/// `TooManyCollisions`; those of [`tree::insert`].
pub fn insert<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    seed: &[u8; 16],
    name: &[u8],
    ino: u64,
    file_type: u8,
) -> Result<()> {
    check_name(name)?;
    let found = find(t, root, owner, seed, name)?;
    if found.entry.is_some() {
        return Err(Error::Exists);
    }
    let cookie = found.free.ok_or(Error::TooManyCollisions)?;
    let mut buffer = [0; MAX_DIRENT];
    let record = encode(name, ino, file_type, &mut buffer)?;
    tree::insert(t, root, owner, cookie, record)
}

/// Makes the entry called `name` name another inode.
///
/// # Errors
///
/// `NotFound` if there is no such entry; otherwise as [`lookup`] and those of the
/// transaction. Never `NoSpace`.
pub fn replace<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    seed: &[u8; 16],
    name: &[u8],
    ino: u64,
    file_type: u8,
) -> Result<()> {
    check_name(name)?;
    let found = find(t, root, owner, seed, name)?;
    let (cookie, _, _) = found.entry.ok_or(Error::NotFound)?;
    let mut buffer = [0; MAX_DIRENT];
    let record = encode(name, ino, file_type, &mut buffer)?;
    tree::replace(t, root, owner, cookie, record)
}

/// Removes the entry called `name`.
///
/// # Errors
///
/// `NotFound` if there is no such entry; otherwise as [`lookup`] and [`tree::remove`].
pub fn remove<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    seed: &[u8; 16],
    name: &[u8],
) -> Result<()> {
    check_name(name)?;
    let found = find(t, root, owner, seed, name)?;
    let (cookie, _, _) = found.entry.ok_or(Error::NotFound)?;
    tree::remove(t, root, owner, cookie)
}

fn encode<'b>(
    name: &[u8],
    ino: u64,
    file_type: u8,
    buffer: &'b mut [u8; MAX_DIRENT],
) -> Result<&'b [u8]> {
    let dirent = Dirent {
        ino,
        file_type,
        name,
    };
    let record = dirent.encode(buffer).map_err(Error::Invalid)?;
    // What would not be read back is not written either.
    Dirent::parse(record).map_err(Error::Invalid)?;
    Ok(record)
}

/// Calls `f` with every entry whose cookie is not below `cookie`, in the order of cookies,
/// until it returns false.
///
/// # Errors
///
/// As [`lookup`], and whatever `f` returns.
pub fn for_each_from<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    cookie: u64,
    mut f: impl FnMut(Entry<'_>) -> Result<bool>,
) -> Result<()> {
    let start = cookie.max(FIRST_COOKIE);
    tree::for_each_from(s, root, owner, start, |cookie, record| {
        let corrupt = |what| Place::Root(owner).corrupt(what);
        let dirent = Dirent::parse(record).map_err(corrupt)?;
        if cookie > i64::MAX as u64 {
            return Err(corrupt("directory entry: cookie is too large"));
        }
        f(Entry {
            cookie,
            ino: dirent.ino,
            file_type: dirent.file_type,
            name: dirent.name,
        })
    })
}

/// True if the directory has no entries besides "." and "..".
///
/// # Errors
///
/// None so far.
pub fn is_empty(root: &[u8]) -> Result<bool> {
    tree::is_empty(root)
}
