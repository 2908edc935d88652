// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The B+tree: 64-bit keys to records of at most 1000 bytes, rooted in an inode.
//!
//! The root lives in the inode's 176 bytes. While everything fits there it is a leaf and
//! the tree has no blocks; otherwise it holds up to eight children. Nodes have variable
//! fill: a leaf is freed when its last record goes and merged with its neighbour when both
//! are sparse, but nothing is ever moved between two nodes that stay.
//!
//! - this file: finding; `insert.rs`: insert and replace; `remove.rs`: remove and destroy
//!
//! # Trust
//!
//! Nodes were checked one by one when they came from the disk. What only holds between two
//! nodes is checked on every step down: the child is the block it should be, one level
//! lower, not empty, and its keys lie between the bounds its parent gives. So a walk ends
//! after at most eight steps and a scan moves strictly forward, whatever is on the disk.

mod insert;
mod remove;

pub use insert::{insert, rekey, replace};
pub use remove::{destroy_step, remove};

use crate::node::{Node, NodeMut, Place};
use crate::{Blocks, Result};
use vexfs_format::header::{check_identity, MAGIC_NODE};
use vexfs_format::node::MAX_LEVEL;

/// Most node blocks between a root and a record.
const MAX_PATH: usize = MAX_LEVEL as usize;

/// Makes `root` the root of an empty tree.
pub fn init(root: &mut [u8]) {
    NodeMut::new(root, Place::Root(0)).init(0);
}

/// True if the tree has no records.
///
/// # Errors
///
/// None so far; a root is checked with its inode.
pub fn is_empty(root: &[u8]) -> Result<bool> {
    Ok(Node::new(root, Place::Root(0)).count() == 0)
}

/// Levels of node blocks below the root: 0 while everything is in the inode.
///
/// # Errors
///
/// None so far; a root is checked with its inode.
pub fn height(root: &[u8]) -> Result<u16> {
    Ok(Node::new(root, Place::Root(0)).level())
}

/// Blocks one [`insert()`] or [`replace`] can join to its transaction, on a tree of this
/// height: on every level the node and its new neighbour, and for that one a bitmap and a
/// descriptor; the same once more if the root overflows.
pub const fn insert_credits(height: u16) -> u32 {
    (height as u32 + 1) * 4
}

/// Blocks one [`remove()`] can join to its transaction, on a tree of this height: on every
/// level the node and a neighbour merged into it, and for that one a bitmap and a
/// descriptor; a bitmap and a descriptor more on every level that the root takes in.
pub const fn remove_credits(height: u16) -> u32 {
    height as u32 * 6 + 1
}

/// Blocks one [`remove()`] can revoke: on every level one that is merged away and one that
/// the root takes in.
pub const fn remove_revokes(height: u16) -> u32 {
    height as u32 * 2
}

/// Blocks one [`destroy_step`] with this budget can join to its transaction: bitmap and
/// descriptor of each node freed, and the parents that stay.
pub const fn destroy_credits(height: u16, budget: u32) -> u32 {
    (budget + height as u32) * 3
}

/// Blocks one [`destroy_step`] with this budget can revoke: a leaf more than asked for can
/// be the last one of every parent up to the root.
pub const fn destroy_revokes(height: u16, budget: u32) -> u32 {
    budget + height as u32
}

/// What a node may hold: keys from `low` to `last`, both included.
#[derive(Clone, Copy)]
struct Bounds {
    low: u64,
    last: u64,
}

const EVERYTHING: Bounds = Bounds {
    low: 0,
    last: u64::MAX,
};

impl Bounds {
    /// The bounds of child `index` of `node`, which has these bounds itself.
    fn of_child(self, node: &Node<'_>, index: usize) -> Bounds {
        let next = index.saturating_add(1);
        Bounds {
            low: if index == 0 {
                self.low
            } else {
                node.key(index)
            },
            last: if next < node.count() {
                node.key(next).saturating_sub(1)
            } else {
                self.last
            },
        }
    }
}

/// Reads a child and checks what its parent knows about it.
fn read_child<S: Blocks>(
    s: &S,
    block: u64,
    owner: u64,
    level: u16,
    bounds: Bounds,
) -> Result<S::Buf> {
    let buf = s.read(block, MAGIC_NODE, owner)?;
    check_identity(block, MAGIC_NODE, owner, &buf)?;
    let place = Place::Block(block);
    let node = Node::new(&buf, place);
    if node.level() != level {
        return Err(place.corrupt("tree node: level does not fit its parent"));
    }
    let Some(last) = node.count().checked_sub(1) else {
        return Err(place.corrupt("tree node: empty"));
    };
    if node.key(0) < bounds.low || node.key(last) > bounds.last {
        return Err(place.corrupt("tree node: keys outside what its parent says"));
    }
    Ok(buf)
}

/// Calls `f` with the leaf that takes `key` and with the bounds of that leaf.
fn with_leaf<S: Blocks, R>(
    s: &S,
    root: &[u8],
    owner: u64,
    key: u64,
    f: impl FnOnce(Node<'_>, Bounds) -> Result<R>,
) -> Result<R> {
    let node = Node::new(root, Place::Root(owner));
    let Some(mut level) = node.level().checked_sub(1) else {
        return f(node, EVERYTHING);
    };
    let index = node.child_index(key);
    let mut bounds = EVERYTHING.of_child(&node, index);
    let mut block = node.child(index)?;
    loop {
        let buf = read_child(s, block, owner, level, bounds)?;
        let node = Node::new(&buf, Place::Block(block));
        let Some(below) = level.checked_sub(1) else {
            return f(node, bounds);
        };
        let index = node.child_index(key);
        bounds = bounds.of_child(&node, index);
        block = node.child(index)?;
        level = below;
    }
}

/// Calls `f` with the record of `key`; nothing if there is none.
///
/// # Errors
///
/// Those of [`Blocks::read`], and `Corrupt` if nodes contradict each other.
pub fn get<S: Blocks, R>(
    s: &S,
    root: &[u8],
    owner: u64,
    key: u64,
    f: impl FnOnce(&[u8]) -> R,
) -> Result<Option<R>> {
    with_leaf(s, root, owner, key, |leaf, _| match leaf.find(key) {
        Ok(index) => Ok(Some(f(leaf.record(index)?))),
        Err(_) => Ok(None),
    })
}

/// Calls `f` with the last record whose key is not above `key`; nothing if there is none.
///
/// # Errors
///
/// As [`get`].
pub fn seek_le<S: Blocks, R>(
    s: &S,
    root: &[u8],
    owner: u64,
    key: u64,
    f: impl FnOnce(u64, &[u8]) -> R,
) -> Result<Option<R>> {
    let mut f = Some(f);
    let mut key = key;
    // A leaf is never empty, so if this one starts above `key` the one before has it.
    for _ in 0..2 {
        let before = with_leaf(s, root, owner, key, |leaf, bounds| {
            let index = match leaf.find(key) {
                Ok(index) => Some(index),
                Err(index) => index.checked_sub(1),
            };
            match (index, f.take()) {
                (Some(index), Some(f)) => Ok(Err(f(leaf.key(index), leaf.record(index)?))),
                (_, kept) => {
                    f = kept;
                    Ok(Ok(bounds.low.checked_sub(1)))
                }
            }
        })?;
        match before {
            Err(found) => return Ok(Some(found)),
            Ok(None) => return Ok(None),
            Ok(Some(lower)) => key = lower,
        }
    }
    Ok(None)
}

/// Calls `f` with the first record whose key is not below `key`; nothing if there is none.
///
/// # Errors
///
/// As [`get`].
pub fn seek_ge<S: Blocks, R>(
    s: &S,
    root: &[u8],
    owner: u64,
    key: u64,
    f: impl FnOnce(u64, &[u8]) -> R,
) -> Result<Option<R>> {
    let mut f = Some(f);
    let mut found = None;
    for_each_from(s, root, owner, key, |key, record| {
        if let Some(f) = f.take() {
            found = Some(f(key, record));
        }
        Ok(false)
    })?;
    Ok(found)
}

/// Calls `f` with every record from `start` on, in key order, until it returns false. A
/// leaf stays pinned while its records are visited; the host's lock over the tree has to
/// be held throughout.
///
/// # Errors
///
/// As [`get`], and whatever `f` returns.
pub fn for_each_from<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    start: u64,
    mut f: impl FnMut(u64, &[u8]) -> Result<bool>,
) -> Result<()> {
    let mut key = start;
    loop {
        let next = with_leaf(s, root, owner, key, |leaf, bounds| {
            let (Ok(first) | Err(first)) = leaf.find(key);
            for index in first..leaf.count() {
                if !f(leaf.key(index), leaf.record(index)?)? {
                    return Ok(None);
                }
            }
            // Above `key`, because `key` is within the bounds of its leaf.
            Ok(bounds.last.checked_add(1))
        })?;
        match next {
            Some(next) if next > key => key = next,
            _ => return Ok(()),
        }
    }
}

/// The last record not above `key` and the first one above it, each as `parse` makes it.
///
/// # Errors
///
/// As [`get`], and whatever `parse` returns.
pub(crate) fn around<S: Blocks, R>(
    s: &S,
    root: &[u8],
    owner: u64,
    key: u64,
    parse: impl Fn(u64, &[u8]) -> Result<R>,
) -> Result<(Option<R>, Option<R>)> {
    // Nearly always both are in one leaf.
    let (before, after, bounds) = with_leaf(s, root, owner, key, |leaf, bounds| {
        let first_above = match leaf.find(key) {
            Ok(index) => index.saturating_add(1),
            Err(index) => index,
        };
        let entry = |index: usize| parse(leaf.key(index), leaf.record(index)?);
        let before = first_above.checked_sub(1).map(entry).transpose()?;
        let after = Some(first_above)
            .filter(|index| *index < leaf.count())
            .map(entry)
            .transpose()?;
        Ok((before, after, bounds))
    })?;
    let before = match (before, bounds.low.checked_sub(1)) {
        (None, Some(lower)) => seek_le(s, root, owner, lower, &parse)?.transpose()?,
        (before, _) => before,
    };
    let after = match (after, bounds.last.checked_add(1)) {
        (None, Some(higher)) => seek_ge(s, root, owner, higher, &parse)?.transpose()?,
        (after, _) => after,
    };
    Ok((before, after))
}

/// A node on the way from the root to a leaf, pinned.
struct Step<B> {
    block: u64,
    buf: B,
    /// The bounds its parent gives it.
    bounds: Bounds,
    /// The entry through which the way goes on.
    index: usize,
}

/// The way from the root to the leaf that takes a key.
struct Path<B> {
    /// The entry of the root through which the way goes on.
    root_index: usize,
    /// By level: 0 is the leaf. Empty if the root is the leaf.
    steps: [Option<Step<B>>; MAX_PATH + 1],
}

impl<B> Path<B> {
    fn step(&mut self, level: usize, owner: u64) -> Result<&mut Step<B>> {
        self.steps
            .get_mut(level)
            .and_then(Option::as_mut)
            .ok_or(Place::Root(owner).corrupt("tree: a level is missing"))
    }
}

/// Walks to the leaf that takes `key` and keeps the way.
fn descend<S: Blocks>(s: &S, root: &[u8], owner: u64, key: u64) -> Result<Path<S::Buf>> {
    let node = Node::new(root, Place::Root(owner));
    let mut path = Path {
        root_index: 0,
        steps: [const { None }; MAX_PATH + 1],
    };
    let mut level = usize::from(node.level());
    if level > MAX_PATH {
        return Err(Place::Root(owner).corrupt("tree root: level is too high"));
    }
    if level == 0 {
        return Ok(path);
    }
    path.root_index = node.child_index(key);
    let mut bounds = EVERYTHING.of_child(&node, path.root_index);
    let mut block = node.child(path.root_index)?;
    while let Some(below) = level.checked_sub(1) {
        level = below;
        let buf = read_child(s, block, owner, level as u16, bounds)?;
        let node = Node::new(&buf, Place::Block(block));
        let mut index = 0;
        let mut next = (bounds, block);
        if level > 0 {
            index = node.child_index(key);
            next = (bounds.of_child(&node, index), node.child(index)?);
        }
        if let Some(step) = path.steps.get_mut(level) {
            *step = Some(Step {
                block,
                buf,
                bounds,
                index,
            });
        }
        (bounds, block) = next;
    }
    Ok(path)
}

/// Calls `f` with the block of every node, parents before children, each before it is read.
pub(crate) fn walk_nodes<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    f: &mut impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    walk(s, Node::new(root, Place::Root(owner)), owner, EVERYTHING, f)
}

/// Goes down one level per call, at most eight.
fn walk<S: Blocks>(
    s: &S,
    node: Node<'_>,
    owner: u64,
    bounds: Bounds,
    f: &mut impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let Some(below) = node.level().checked_sub(1) else {
        return Ok(());
    };
    for index in 0..node.count() {
        let block = node.child(index)?;
        f(block)?;
        let bounds = bounds.of_child(&node, index);
        let buf = read_child(s, block, owner, below, bounds)?;
        walk(s, Node::new(&buf, Place::Block(block)), owner, bounds, f)?;
    }
    Ok(())
}
