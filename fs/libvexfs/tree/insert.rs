// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Insert, replace and rekey.
//!
//! Every block an insertion needs is allocated before the first byte changes, so running
//! out of space leaves the tree as it was.

use super::{descend, Bounds, Path, Step, EVERYTHING, MAX_PATH};
use crate::node::{Node, NodeMut, Place, CHILD_ENTRY};
use crate::{Error, Result, Txn};
use vexfs_format::header::MAGIC_NODE;
use vexfs_format::node::{MAX_LEVEL, MAX_RECORD, SLOT_BYTES};

/// Inserts a record of at most 1000 bytes.
///
/// # Errors
///
/// `Exists` if the key is there; `Invalid` if the record is too long; `NoSpace`, `TooDeep`;
/// those of the transaction.
pub fn insert<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    key: u64,
    record: &[u8],
) -> Result<()> {
    put(t, root, owner, key, record, false)
}

/// Replaces the record of `key` with one of any length up to 1000 bytes.
///
/// # Errors
///
/// `NotFound` if the key is not there; otherwise as [`insert`].
pub fn replace<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    key: u64,
    record: &[u8],
) -> Result<()> {
    put(t, root, owner, key, record, true)
}

/// Moves a record to another key between its neighbours and gives it new contents of the
/// same length, in place. Never needs space: an extent that shrinks from the front is the
/// reason it exists. Returns false, and has done nothing, if that is not possible because
/// the key would leave the leaf or the length changes.
///
/// # Errors
///
/// `NotFound` if `from` is not there; those of the transaction.
pub fn rekey<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    from: u64,
    to: u64,
    record: &[u8],
) -> Result<bool> {
    let mut path = descend(t, root, owner, from)?;
    let (node, bounds) = leaf(&mut path, root, owner)?;
    let Ok(index) = node.find(from) else {
        return Err(Error::NotFound);
    };
    let next = index.saturating_add(1);
    let after_previous = index.checked_sub(1).is_none_or(|p| node.key(p) < to);
    let before_next = next >= node.count() || to < node.key(next);
    let in_bounds = bounds.low <= to && to <= bounds.last;
    if !after_previous || !before_next || !in_bounds || node.record_len(index) != record.len() {
        return Ok(false);
    }
    let mut node = leaf_mut(t, &mut path, root, owner)?;
    node.set_key(index, to);
    node.set_record(index, record)?;
    Ok(true)
}

/// The leaf at the end of `path`, and its bounds.
fn leaf<'a, B: core::ops::Deref<Target = [u8]>>(
    path: &'a mut Path<B>,
    root: &'a [u8],
    owner: u64,
) -> Result<(Node<'a>, Bounds)> {
    let root = Node::new(root, Place::Root(owner));
    if root.level() == 0 {
        return Ok((root, EVERYTHING));
    }
    let step = path.step(0, owner)?;
    let bounds = step.bounds;
    Ok((Node::new(&step.buf, Place::Block(step.block)), bounds))
}

/// The leaf at the end of `path`, joined to the transaction.
fn leaf_mut<'a, T: Txn>(
    t: &mut T,
    path: &'a mut Path<T::Buf>,
    root: &'a mut [u8],
    owner: u64,
) -> Result<NodeMut<'a>> {
    if Node::new(root, Place::Root(owner)).level() == 0 {
        return Ok(NodeMut::new(root, Place::Root(owner)));
    }
    let step = path.step(0, owner)?;
    let place = Place::Block(step.block);
    Ok(NodeMut::new(t.modify(&mut step.buf)?, place))
}

fn put<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    key: u64,
    record: &[u8],
    replace: bool,
) -> Result<()> {
    if record.len() > MAX_RECORD {
        return Err(Error::Invalid("a record can have at most 1000 bytes"));
    }
    let mut path = descend(t, root, owner, key)?;
    let (node, _) = leaf(&mut path, root, owner)?;
    let (index, fits) = match (node.find(key), replace) {
        (Ok(_), false) => return Err(Error::Exists),
        (Err(_), true) => return Err(Error::NotFound),
        (Ok(index), true) => {
            let room = node.free().saturating_add(node.record_len(index));
            (index, record.len() <= room)
        }
        (Err(index), false) => {
            let need = record.len().saturating_add(SLOT_BYTES);
            (index, need <= node.free())
        }
    };
    if fits {
        let mut node = leaf_mut(t, &mut path, root, owner)?;
        return match replace {
            true => node.set_record(index, record),
            false => node.insert(index, key, record),
        };
    }
    split(t, root, owner, path, index, key, record, replace)
}

/// Blocks allocated for one insertion, given back if they are not all to be had.
struct Fresh {
    blocks: [u64; MAX_PATH + 2],
    len: usize,
}

impl Fresh {
    fn allocate<T: Txn>(t: &mut T, want: usize, goal: u64) -> Result<Fresh> {
        let mut fresh = Fresh {
            blocks: [0; MAX_PATH + 2],
            len: 0,
        };
        let mut goal = goal;
        while fresh.len < want {
            match t.allocate_block(goal) {
                Ok(block) => {
                    if let Some(place) = fresh.blocks.get_mut(fresh.len) {
                        *place = block;
                    }
                    fresh.len = fresh.len.saturating_add(1);
                    goal = block.saturating_add(1);
                }
                Err(error) => {
                    while let Some(block) = fresh.pop() {
                        t.release_block(block)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(fresh)
    }

    fn pop(&mut self) -> Option<u64> {
        self.len = self.len.checked_sub(1)?;
        self.blocks.get(self.len).copied()
    }
}

/// Inserts where the leaf has no room: splits it and as many of its parents as are full.
#[allow(clippy::too_many_arguments)]
fn split<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    mut path: Path<T::Buf>,
    index: usize,
    key: u64,
    record: &[u8],
    replace: bool,
) -> Result<()> {
    let missing = Place::Root(owner).corrupt("tree: out of reserved blocks");
    let top = usize::from(Node::new(root, Place::Root(owner)).level());

    // Which nodes split: the leaf, and parents until one has room for a child more.
    let mut splits = top.min(1);
    while splits > 0 && splits < top {
        let step = path.step(splits, owner)?;
        if Node::new(&step.buf, Place::Block(step.block)).free() >= CHILD_ENTRY {
            break;
        }
        splits = splits.saturating_add(1);
    }
    let root_is_full = Node::new(root, Place::Root(owner)).free() < CHILD_ENTRY;
    let grows = splits == top && (top == 0 || root_is_full);
    if grows && top >= usize::from(MAX_LEVEL) {
        return Err(Error::TooDeep);
    }
    let goal = match path.step(0, owner) {
        Ok(leaf) if top > 0 => leaf.block.saturating_add(1),
        _ => 0,
    };
    let want = splits.saturating_add(usize::from(grows));
    let mut fresh = Fresh::allocate(t, want, goal)?;
    // A bitmap that has one of our own nodes as free would have us hold its bytes twice.
    let in_path = |block: &u64| path.steps.iter().flatten().any(|s| s.block == *block);
    if let Some(block) = fresh.blocks.iter().take(want).copied().find(in_path) {
        return Err(Error::Corrupt {
            block,
            what: "tree node: in use, but free in its bitmap",
        });
    }

    if grows {
        grow(t, root, owner, &mut path, fresh.pop().ok_or(missing)?)?;
    }

    let leaf = path.step(0, owner)?;
    if replace {
        let place = Place::Block(leaf.block);
        NodeMut::new(t.modify(&mut leaf.buf)?, place).remove(index)?;
    }
    let mut split = insert_or_divide(t, leaf, owner, index, key, record, &mut fresh)?;
    let top = usize::from(Node::new(root, Place::Root(owner)).level());
    for level in 1..=top {
        let Some(new) = split else {
            return Ok(());
        };
        let child = new.block.to_le_bytes();
        if level == top {
            let mut node = NodeMut::new(root, Place::Root(owner));
            node.set_key(path.root_index, new.low);
            return node.insert(path.root_index.saturating_add(1), new.key, &child);
        }
        let step = path.step(level, owner)?;
        let index = step.index;
        let place = Place::Block(step.block);
        // The first entry may have a key above what its child holds; now that a second one
        // follows, it has to be the bound.
        NodeMut::new(t.modify(&mut step.buf)?, place).set_key(index, new.low);
        let index = index.saturating_add(1);
        split = insert_or_divide(t, step, owner, index, new.key, &child, &mut fresh)?;
    }
    match split {
        None => Ok(()),
        Some(_) => Err(missing),
    }
}

/// A node that came to be behind another one.
struct Split {
    /// Lowest key of the new node.
    key: u64,
    /// Where it is.
    block: u64,
    /// Lower bound of the node it was split from.
    low: u64,
}

/// Inserts an entry into the node of `step`; if that is full, after moving its upper part
/// to a new node, which the caller enters into the parent.
fn insert_or_divide<T: Txn>(
    t: &mut T,
    step: &mut Step<T::Buf>,
    owner: u64,
    index: usize,
    key: u64,
    record: &[u8],
    fresh: &mut Fresh,
) -> Result<Option<Split>> {
    let place = Place::Block(step.block);
    let mut left = NodeMut::new(t.modify(&mut step.buf)?, place);
    let need = record.len().saturating_add(SLOT_BYTES);
    if left.view().free() >= need {
        left.insert(index, key, record)?;
        return Ok(None);
    }
    let block = fresh
        .pop()
        .ok_or(place.corrupt("tree: out of reserved blocks"))?;
    let mut buf = t.create(block, MAGIC_NODE, owner)?;
    let mut right = NodeMut::new(t.modify(&mut buf)?, Place::Block(block));
    right.init(left.view().level());
    let at_edge = step.bounds.last == u64::MAX;
    divide(&mut left, &mut right, index, key, record, at_edge)?;
    Ok(Some(Split {
        key: right.view().key(0),
        block,
        low: step.bounds.low,
    }))
}

/// Inserts an entry at `index` of `left` and moves what belongs behind the middle to the
/// empty node `right`. At the right edge of the tree an appended entry is all that moves,
/// because more will follow: files and row tables that grow have full nodes.
fn divide(
    left: &mut NodeMut<'_>,
    right: &mut NodeMut<'_>,
    index: usize,
    key: u64,
    record: &[u8],
    at_edge: bool,
) -> Result<()> {
    let count = left.view().count();
    if at_edge && index == count {
        return right.push(key, record);
    }
    // The entries as they would be with the new one among them, `0..=count`.
    let need = record.len().saturating_add(SLOT_BYTES);
    let half = left.view().used().saturating_add(need) / 2;
    let mut sum = 0usize;
    let mut stay = 0usize;
    // An entry is below a quarter of a node: the left part fits, and so does the right.
    while stay < count && sum < half {
        let len = match stay.cmp(&index) {
            core::cmp::Ordering::Less => left.view().record_len(stay),
            core::cmp::Ordering::Equal => record.len(),
            core::cmp::Ordering::Greater => left.view().record_len(stay.saturating_sub(1)),
        };
        sum = sum.saturating_add(len).saturating_add(SLOT_BYTES);
        stay = stay.saturating_add(1);
    }
    let first_moved = if index < stay {
        stay.saturating_sub(1)
    } else {
        stay
    };
    for from in first_moved..count {
        if from == index && index >= stay {
            right.push(key, record)?;
        }
        right.push(left.view().key(from), left.view().record(from)?)?;
    }
    if index == count && index >= stay {
        right.push(key, record)?;
    }
    left.truncate(first_moved)?;
    if index < stay {
        left.insert(index, key, record)?;
    }
    Ok(())
}

/// Moves what the root holds to block `block`, which becomes its only child.
fn grow<T: Txn>(
    t: &mut T,
    root: &mut [u8],
    owner: u64,
    path: &mut Path<T::Buf>,
    block: u64,
) -> Result<()> {
    let old = Node::new(root, Place::Root(owner));
    let level = old.level();
    let mut buf = t.create(block, MAGIC_NODE, owner)?;
    let mut node = NodeMut::new(t.modify(&mut buf)?, Place::Block(block));
    node.init(level);
    for index in 0..old.count() {
        node.push(old.key(index), old.record(index)?)?;
    }
    let mut root = NodeMut::new(root, Place::Root(owner));
    root.init(level.saturating_add(1));
    root.push(0, &block.to_le_bytes())?;
    if let Some(step) = path.steps.get_mut(usize::from(level)) {
        *step = Some(Step {
            block,
            buf,
            bounds: EVERYTHING,
            index: path.root_index,
        });
    }
    path.root_index = 0;
    Ok(())
}
