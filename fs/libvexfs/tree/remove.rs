// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Remove, and destroy a whole tree in steps.

use super::{descend, read_child, Bounds, Path, EVERYTHING};
use crate::node::{Node, NodeMut, Place, BLOCK_CAPACITY};
use crate::{Error, Result, Txn};
use vexfs_format::node::MAX_LEVEL;

/// A node with fewer bytes in use than this looks for a neighbour to merge with.
const SPARSE: usize = BLOCK_CAPACITY / 4;
/// Merged nodes have at most this many bytes in use, so that they do not split again soon.
const MERGED: usize = BLOCK_CAPACITY / 4 * 3;

/// Removes the record of `key`. Never needs space.
///
/// # Errors
///
/// `NotFound` if the key is not there; those of the transaction.
pub fn remove<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, key: u64) -> Result<()> {
    let mut path = descend(t, root, owner, key)?;
    let top = usize::from(Node::new(root, Place::Root(owner)).level());
    if top == 0 {
        let mut node = NodeMut::new(root, Place::Root(owner));
        let index = node.view().find(key).map_err(|_| Error::NotFound)?;
        return node.remove(index);
    }
    let leaf = path.step(0, owner)?;
    let place = Place::Block(leaf.block);
    let index = Node::new(&leaf.buf, place)
        .find(key)
        .map_err(|_| Error::NotFound)?;
    NodeMut::new(t.modify(&mut leaf.buf)?, place).remove(index)?;
    shrink(t, root, owner, &mut path)?;
    // No buffer may be held twice, and the root takes a child in.
    drop(path);
    collapse(t, root, owner)
}

/// After a removal: frees the leaf of `path` if it is empty, merges it if it is sparse, and
/// does the same with each parent that loses an entry by that.
fn shrink<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, path: &mut Path<T::Buf>) -> Result<()> {
    let top = usize::from(Node::new(root, Place::Root(owner)).level());
    for level in 0..top {
        let gone = path
            .steps
            .get_mut(level)
            .and_then(Option::take)
            .ok_or(Place::Root(owner).corrupt("tree: a level is missing"))?;
        let node = Node::new(&gone.buf, Place::Block(gone.block));
        let (used, empty) = (node.used(), node.count() == 0);
        let parent_level = level.saturating_add(1);
        let index = match path.steps.get(parent_level).and_then(Option::as_ref) {
            Some(step) if parent_level < top => step.index,
            _ => path.root_index,
        };
        let lost = if empty {
            t.discard(gone.buf)?;
            t.release_block(gone.block)?;
            index
        } else if used < SPARSE {
            let (parent, bounds) = parent(root, path, owner, parent_level, top)?;
            match merge(t, owner, level, gone, &parent, bounds, index)? {
                Some((lost, block)) => {
                    t.release_block(block)?;
                    lost
                }
                None => return Ok(()),
            }
        } else {
            return Ok(());
        };
        if parent_level == top {
            return NodeMut::new(root, Place::Root(owner)).remove(lost);
        }
        let step = path.step(parent_level, owner)?;
        let place = Place::Block(step.block);
        NodeMut::new(t.modify(&mut step.buf)?, place).remove(lost)?;
    }
    Ok(())
}

/// The node at `level` of the path, which is the root at `top`, and its bounds.
fn parent<'a, B: core::ops::Deref<Target = [u8]>>(
    root: &'a [u8],
    path: &'a mut Path<B>,
    owner: u64,
    level: usize,
    top: usize,
) -> Result<(Node<'a>, Bounds)> {
    if level == top {
        return Ok((Node::new(root, Place::Root(owner)), EVERYTHING));
    }
    let step = path.step(level, owner)?;
    let bounds = step.bounds;
    Ok((Node::new(&step.buf, Place::Block(step.block)), bounds))
}

/// Merges a sparse node, child `index` of `parent`, with the neighbour after or before it.
/// Returns the entry that the parent loses and the block that is free then; nothing if no
/// neighbour has room.
fn merge<T: Txn>(
    t: &mut T,
    owner: u64,
    level: usize,
    sparse: super::Step<T::Buf>,
    parent: &Node<'_>,
    bounds: Bounds,
    index: usize,
) -> Result<Option<(usize, u64)>> {
    let used = Node::new(&sparse.buf, Place::Block(sparse.block)).used();
    let after = Some(index.saturating_add(1)).filter(|next| *next < parent.count());
    for neighbour in [after, index.checked_sub(1)].into_iter().flatten() {
        let block = parent.child(neighbour)?;
        if block == sparse.block {
            return Err(Place::Block(block).corrupt("tree node: has two parents"));
        }
        // Merging is for the future only: if the neighbour cannot be read, whoever needs it
        // will report that.
        let Ok(buf) = read_child(
            t,
            block,
            owner,
            level as u16,
            bounds.of_child(parent, neighbour),
        ) else {
            continue;
        };
        if Node::new(&buf, Place::Block(block))
            .used()
            .saturating_add(used)
            > MERGED
        {
            continue;
        }
        let (mut left, left_block, right, right_block, lost) = if neighbour > index {
            (sparse.buf, sparse.block, buf, block, neighbour)
        } else {
            (buf, block, sparse.buf, sparse.block, index)
        };
        let from = Node::new(&right, Place::Block(right_block));
        let mut to = NodeMut::new(t.modify(&mut left)?, Place::Block(left_block));
        for entry in 0..from.count() {
            // The first child of the right node may hold keys down to that node's bound.
            let key = if level > 0 && entry == 0 {
                parent.key(lost)
            } else {
                from.key(entry)
            };
            to.push(key, from.record(entry)?)?;
        }
        t.discard(right)?;
        return Ok(Some((lost, right_block)));
    }
    Ok(None)
}

/// Takes the last child into the root, as often as it fits; an empty root is a leaf again.
fn collapse<T: Txn>(t: &mut T, root: &mut [u8], owner: u64) -> Result<()> {
    for _ in 0..MAX_LEVEL {
        let node = Node::new(root, Place::Root(owner));
        let Some(level) = node.level().checked_sub(1) else {
            return Ok(());
        };
        if node.count() == 0 {
            NodeMut::new(root, Place::Root(owner)).init(0);
            return Ok(());
        }
        if node.count() > 1 {
            return Ok(());
        }
        let block = node.child(0)?;
        let buf = read_child(t, block, owner, level, EVERYTHING)?;
        let child = Node::new(&buf, Place::Block(block));
        // Half of the root stays free, or a directory that gains and loses one entry would
        // allocate and free a block each time.
        if child.used() > node.used().saturating_add(node.free()) / 2 {
            return Ok(());
        }
        let mut node = NodeMut::new(root, Place::Root(owner));
        node.init(level);
        for entry in 0..child.count() {
            node.push(child.key(entry), child.record(entry)?)?;
        }
        t.discard(buf)?;
        t.release_block(block)?;
    }
    Ok(())
}

/// Frees about `budget` nodes from the right without looking at their records, and returns
/// true when the tree is empty. The tree is in order between steps, so a crash between two
/// transactions loses nothing.
///
/// # Errors
///
/// Those of the transaction.
pub fn destroy_step<T: Txn>(t: &mut T, root: &mut [u8], owner: u64, budget: u32) -> Result<bool> {
    let mut freed = 0;
    while freed < budget {
        let top = usize::from(Node::new(root, Place::Root(owner)).level());
        if top == 0 {
            break;
        }
        let mut path = descend(t, root, owner, u64::MAX)?;
        for level in 0..=top {
            let last = |node: Node<'_>| node.count().saturating_sub(1);
            if level == top {
                let mut node = NodeMut::new(root, Place::Root(owner));
                node.remove(last(node.view()))?;
                if node.view().count() == 0 {
                    node.init(0);
                }
                break;
            }
            let step = path
                .steps
                .get_mut(level)
                .and_then(Option::as_mut)
                .ok_or(Place::Root(owner).corrupt("tree: a level is missing"))?;
            let place = Place::Block(step.block);
            if level > 0 {
                let mut node = NodeMut::new(t.modify(&mut step.buf)?, place);
                node.remove(last(node.view()))?;
                if node.view().count() > 0 {
                    break;
                }
            }
            if let Some(step) = path.steps.get_mut(level).and_then(Option::take) {
                t.discard(step.buf)?;
                t.release_block(step.block)?;
                freed = freed.saturating_add(1);
            }
        }
    }
    if Node::new(root, Place::Root(owner)).level() == 0 {
        NodeMut::new(root, Place::Root(owner)).init(0);
        return Ok(true);
    }
    Ok(false)
}
