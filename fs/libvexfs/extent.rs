// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! File blocks: which logical blocks are where, and whether their data was written.
//!
//! Keys are first logical blocks, records are `format::extent`. Extents never overlap, and
//! neighbours that could be one extent are merged when one of them changes.

use crate::node::Place;
use crate::{tree, Blocks, Error, Result, Txn};
use vexfs_format::extent::{Extent, MAX_LEN, MAX_LOGICAL};

/// What a range of logical blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not allocated; reads as zeros.
    Hole,
    /// Allocated, but reads as zeros until its data has reached the disk.
    Unwritten,
    /// Allocated and written.
    Written,
}

/// A range of logical blocks in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First logical block.
    pub logical: u64,
    /// First block on the volume; 0 in a hole.
    pub physical: u64,
    /// Blocks.
    pub len: u64,
    /// What they are.
    pub state: State,
}

fn parse(owner: u64) -> impl Fn(u64, &[u8]) -> Result<Extent> + Copy {
    move |key, record| Extent::parse(key, record).map_err(|what| Place::Root(owner).corrupt(what))
}

/// The extent at or before `logical` and the one after it.
fn around<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    logical: u64,
) -> Result<(Option<Extent>, Option<Extent>)> {
    let (before, after) = tree::around(s, root, owner, logical, parse(owner))?;
    if let (Some(before), Some(after)) = (&before, &after) {
        if before.end() > after.logical {
            return Err(Place::Root(owner).corrupt("extents overlap"));
        }
    }
    Ok((before, after))
}

/// What logical block `logical` and the blocks behind it are: one state, at most `max_len`
/// blocks, at least one. Whether the blocks are on the volume is for the host to check,
/// with `Geometry::is_data_range`.
///
/// # Errors
///
/// Those of [`tree::get`]; `CorruptInode` for extents that break a rule; `Invalid` if the
/// range is empty or past the largest file.
pub fn map<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    logical: u64,
    max_len: u64,
) -> Result<Mapping> {
    if max_len == 0 || logical >= MAX_LOGICAL {
        return Err(Error::Invalid("extent map: range is out of bounds"));
    }
    let (before, after) = around(s, root, owner, logical)?;
    if let Some(extent) = before.filter(|e| logical < e.end()) {
        return Ok(Mapping {
            logical,
            physical: extent
                .physical
                .saturating_add(logical.saturating_sub(extent.logical)),
            len: extent.end().saturating_sub(logical).min(max_len),
            state: match extent.unwritten {
                true => State::Unwritten,
                false => State::Written,
            },
        });
    }
    let end = after.map_or(MAX_LOGICAL, |e| e.logical);
    Ok(Mapping {
        logical,
        physical: 0,
        len: end.saturating_sub(logical).min(max_len),
        state: State::Hole,
    })
}

/// The block that would continue the extent before `logical`: where to look for space.
pub fn goal<S: Blocks>(s: &S, root: &[u8], owner: u64, logical: u64) -> Option<u64> {
    let before = tree::seek_le(s, root, owner, logical, parse(owner)).ok()??;
    let extent = before.ok()?;
    Some(extent.physical.saturating_add(extent.len))
}

/// Blocks one [`insert`] or [`mark_written`] can join to its transaction.
pub const fn change_credits(height: u16) -> u32 {
    // At worst an extent is cut in three: two insertions, the second maybe undone, and a
    // change in place. A merge is a change in place and a removal.
    2 * tree::insert_credits(height + 1) + tree::remove_credits(height + 1) + 1
}

fn put<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, extent: Extent) -> Result<()> {
    tree::insert(t, root, owner, extent.logical, &extent.encode())
}

fn set<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, extent: Extent) -> Result<()> {
    tree::replace(t, root, owner, extent.logical, &extent.encode())
}

/// Moves the start of an extent to `to.logical`; in place unless it crosses into another
/// leaf.
fn restart<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, from: u64, to: Extent) -> Result<()> {
    if tree::rekey(t, root, owner, from, to.logical, &to.encode())? {
        return Ok(());
    }
    // First the part that can run out of space.
    put(t, root, owner, to)?;
    tree::remove(t, root, owner, from)
}

/// True if `b` continues `a` on disk, in the file and in state, and both are short enough
/// to be one extent.
fn joins(a: &Extent, b: &Extent) -> bool {
    a.end() == b.logical
        && a.physical.checked_add(a.len) == Some(b.physical)
        && a.unwritten == b.unwritten
        && a.len.saturating_add(b.len) <= MAX_LEN
}

/// Enters `len` blocks from `physical` at `logical`, where the file has a hole. Merges them
/// with what is before and behind, if they continue it.
///
/// # Errors
///
/// `Exists` if the range is not a hole; `Invalid` if it is out of bounds; those of
/// [`tree::insert`].
pub fn insert<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    logical: u64,
    physical: u64,
    len: u64,
    unwritten: bool,
) -> Result<()> {
    let new = Extent {
        logical,
        physical,
        len,
        unwritten,
    };
    Extent::parse(logical, &new.encode()).map_err(Error::Invalid)?;
    if len > MAX_LEN {
        return Err(Error::Invalid("extent: length is out of range"));
    }
    let (before, after) = around(t, root, owner, logical)?;
    if before.is_some_and(|e| e.end() > logical) || after.is_some_and(|e| e.logical < new.end()) {
        return Err(Error::Exists);
    }
    merge(t, root, owner, before, new, after, None)
}

/// Puts `new` between its neighbours. `old` is the key of an entry that `new` replaces as a
/// whole, if there is one.
fn merge<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    before: Option<Extent>,
    new: Extent,
    after: Option<Extent>,
    old: Option<u64>,
) -> Result<()> {
    let before = before.filter(|e| joins(e, &new));
    let mut whole = new;
    if let Some(before) = before {
        whole.logical = before.logical;
        whole.physical = before.physical;
        whole.len = whole.len.saturating_add(before.len);
    }
    let after = after.filter(|e| joins(&whole, e));
    if let Some(after) = after {
        whole.len = whole.len.saturating_add(after.len);
    }
    match (before, old, after) {
        (Some(_), _, _) => {
            // Shrinking what is replaced comes first: extents never overlap.
            for gone in [old, after.map(|e| e.logical)].into_iter().flatten() {
                tree::remove(t, root, owner, gone)?;
            }
            set(t, root, owner, whole)
        }
        (None, Some(_), _) => {
            if let Some(after) = after {
                tree::remove(t, root, owner, after.logical)?;
            }
            set(t, root, owner, whole)
        }
        (None, None, Some(after)) => restart(t, root, owner, after.logical, whole),
        (None, None, None) => put(t, root, owner, whole),
    }
}

/// Marks unwritten blocks as written: their data is on the disk. Does one extent and returns
/// how many blocks of the range it has dealt with; the caller repeats from there. Blocks
/// that are written already, or a hole because the file was cut, count as dealt with.
///
/// # Errors
///
/// `Invalid` if the range is empty or out of bounds; those of [`tree::insert`]. Cutting an
/// extent can need up to two tree nodes: the host keeps space in reserve for that.
pub fn mark_written<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    logical: u64,
    len: u64,
) -> Result<u64> {
    let end = logical
        .checked_add(len)
        .filter(|end| len > 0 && *end <= MAX_LOGICAL)
        .ok_or(Error::Invalid("extent map: range is out of bounds"))?;
    let (here, after) = around(t, root, owner, logical)?;
    let Some(extent) = here.filter(|e| logical < e.end()) else {
        let next = after.map_or(end, |e| e.logical.min(end));
        return Ok(next.saturating_sub(logical));
    };
    let stop = extent.end().min(end);
    let done = stop.saturating_sub(logical);
    if !extent.unwritten {
        return Ok(done);
    }
    let part = |from: u64, to: u64, unwritten: bool| Extent {
        logical: from,
        physical: extent
            .physical
            .saturating_add(from.saturating_sub(extent.logical)),
        len: to.saturating_sub(from),
        unwritten,
    };
    let written = part(logical, stop, false);
    match (logical == extent.logical, stop == extent.end()) {
        (true, true) => {
            let before = previous(t, root, owner, logical)?;
            merge(t, root, owner, before, written, after, Some(logical))?;
        }
        (true, false) => {
            let rest = part(stop, extent.end(), true);
            match previous(t, root, owner, logical)?.filter(|e| joins(e, &written)) {
                Some(mut before) => {
                    restart(t, root, owner, logical, rest)?;
                    before.len = before.len.saturating_add(done);
                    set(t, root, owner, before)?;
                }
                None => {
                    put(t, root, owner, rest)?;
                    set(t, root, owner, written)?;
                }
            }
        }
        (false, true) => {
            let rest = part(extent.logical, logical, true);
            match after.filter(|e| joins(&written, e)) {
                Some(after) => {
                    let mut whole = written;
                    whole.len = whole.len.saturating_add(after.len);
                    restart(t, root, owner, after.logical, whole)?;
                }
                None => put(t, root, owner, written)?,
            }
            set(t, root, owner, rest)?;
        }
        (false, false) => {
            put(t, root, owner, part(stop, extent.end(), true))?;
            if let Err(error) = put(t, root, owner, written) {
                tree::remove(t, root, owner, stop)?;
                return Err(error);
            }
            set(t, root, owner, part(extent.logical, logical, true))?;
        }
    }
    Ok(done)
}

/// The extent before the one that starts at `logical`.
fn previous<S: Blocks>(s: &S, root: &[u8], owner: u64, logical: u64) -> Result<Option<Extent>> {
    match logical.checked_sub(1) {
        Some(lower) => tree::seek_le(s, root, owner, lower, parse(owner))?.transpose(),
        None => Ok(None),
    }
}

/// Frees what lies at `from_logical` and behind it, from the end, at most `max_extents`
/// extents. Returns true when nothing is left there; until then the caller repeats in
/// another transaction. `freed` gets each physical range after the tree has forgotten it.
///
/// # Errors
///
/// Those of [`tree::remove`], and whatever `freed` returns.
pub fn remove_tail<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    from_logical: u64,
    max_extents: u32,
    freed: &mut impl FnMut(&mut T, u64, u64) -> Result<()>,
) -> Result<bool> {
    for _ in 0..max_extents {
        let last = tree::seek_le(t, root, owner, u64::MAX, parse(owner))?.transpose()?;
        let Some(mut extent) = last.filter(|e| e.end() > from_logical) else {
            return Ok(true);
        };
        if extent.logical >= from_logical {
            tree::remove(t, root, owner, extent.logical)?;
            freed(t, extent.physical, extent.len)?;
        } else {
            let keep = from_logical.saturating_sub(extent.logical);
            let cut = extent.len.saturating_sub(keep);
            extent.len = keep;
            set(t, root, owner, extent)?;
            freed(t, extent.physical.saturating_add(keep), cut)?;
            return Ok(true);
        }
    }
    let last = tree::seek_le(t, root, owner, u64::MAX, parse(owner))?.transpose()?;
    Ok(last.is_none_or(|e| e.end() <= from_logical))
}

/// Makes the range a hole, at most `max_extents` extents at a time, otherwise as
/// [`remove_tail`]. A hole in the middle of an extent can need space for a tree node.
///
/// # Errors
///
/// `Invalid` if the range is out of bounds; `NoSpace`; those of [`tree::remove`], and
/// whatever `freed` returns.
pub fn punch<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    logical: u64,
    len: u64,
    max_extents: u32,
    freed: &mut impl FnMut(&mut T, u64, u64) -> Result<()>,
) -> Result<bool> {
    let end = logical
        .checked_add(len)
        .filter(|end| *end <= MAX_LOGICAL)
        .ok_or(Error::Invalid("extent map: range is out of bounds"))?;
    for _ in 0..max_extents {
        let last = match end.checked_sub(1) {
            Some(last) => tree::seek_le(t, root, owner, last, parse(owner))?.transpose()?,
            None => None,
        };
        let Some(extent) = last.filter(|e| e.end() > logical) else {
            return Ok(true);
        };
        let (from, to) = (extent.logical.max(logical), extent.end().min(end));
        let part = |from: u64, to: u64| Extent {
            logical: from,
            physical: extent
                .physical
                .saturating_add(from.saturating_sub(extent.logical)),
            len: to.saturating_sub(from),
            unwritten: extent.unwritten,
        };
        let (head, tail) = (part(extent.logical, from), part(to, extent.end()));
        match (head.len > 0, tail.len > 0) {
            (false, false) => tree::remove(t, root, owner, extent.logical)?,
            (true, false) => set(t, root, owner, head)?,
            (false, true) => restart(t, root, owner, extent.logical, tail)?,
            (true, true) => {
                put(t, root, owner, tail)?;
                set(t, root, owner, head)?;
            }
        }
        let gone = part(from, to);
        freed(t, gone.physical, gone.len)?;
        if head.len > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
