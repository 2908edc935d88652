// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Whether a tree is one: a full walk that trusts nothing, for fsck and for tests.

use crate::{tree, Blocks, Result};

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Records.
    pub records: u64,
    /// Blocks of nodes.
    pub nodes: u64,
}

/// Walks a whole tree. `node` gets the block of every node before the node is read, and
/// `record` every record in key order.
///
/// # Errors
///
/// The first thing that is wrong, and whatever the callbacks return.
pub fn tree<S: Blocks>(
    s: &S,
    root: &[u8],
    owner: u64,
    node: &mut impl FnMut(u64) -> Result<()>,
    record: &mut impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Tree> {
    let mut found = Tree::default();
    tree::walk_nodes(s, root, owner, &mut |block| {
        found.nodes = found.nodes.saturating_add(1);
        node(block)
    })?;
    tree::for_each_from(s, root, owner, 0, |key, bytes| {
        found.records = found.records.saturating_add(1);
        record(key, bytes)?;
        Ok(true)
    })?;
    Ok(found)
}
