// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Links to nodes that no path leads to.
//!
//! Neither the paper's algorithm nor any known way of mending a graph after deletes keeps it connected:
//! clusters can lose their last bridge. Every live node has a link to it, but from nodes that
//! cannot be reached either. So now and then all paths are followed, which takes the time of reading all
//! links once, and what was not reached is linked to from the nearest node that was. Its list may be full: then a
//! link goes that is no part of the tree by which nodes were reached, so nothing that was reached is lost, and one
//! pass is enough. Inner products need it most: long rows are everybody's neighbours, and short ones nobody's.

use core::sync::atomic::AtomicU32;

use super::beam::Spent;
use super::node::{list, Anchor, NOWHERE};
use super::params::{visited_words, MAX_LEVEL};
use super::pool::{slot_of, Pool, Visited};
use super::store::{Numeric, Store, Workspace};
use super::{Error, Index};

/// Scratch memory of a repair, besides a workspace.
pub struct RepairMemory<'a> {
    /// At least as many words as nodes are in use.
    pub queue: &'a mut [u32],
    /// As many again.
    pub parents: &'a mut [u32],
    /// [`visited_words`] of the nodes in use.
    pub visited: &'a mut [u64],
}

/// Nodes that were reached, and those whose links were not followed yet.
pub(super) struct Reach<'a> {
    visited: Visited<'a>,
    queue: &'a mut [u32],
    /// Where each node that was reached was reached from, if somebody wants to know.
    parents: &'a mut [u32],
    done: usize,
    end: usize,
}

impl<'a> Reach<'a> {
    pub(super) fn new(
        queue: &'a mut [u32],
        visited: &'a mut [u64],
        parents: &'a mut [u32],
    ) -> Self {
        Reach {
            visited: Visited::new(visited, &mut [], true),
            queue,
            parents,
            done: 0,
            end: 0,
        }
    }

    fn add(&mut self, slot: u32, parent: u32) {
        if self.visited.insert(slot) {
            if let Some(place) = self.queue.get_mut(self.end) {
                *place = slot;
                self.end += 1;
            }
            if let Some(place) = self.parents.get_mut(slot as usize) {
                *place = parent;
            }
        }
    }

    /// Whether a link is one of those by which nodes were reached.
    fn needs(&self, from: u32, to: u32) -> bool {
        self.parents.get(to as usize).is_none_or(|&p| p == from)
    }

    /// How many nodes were reached: the first so many of the queue.
    pub(super) fn len(&self) -> usize {
        self.end
    }

    fn next(&mut self) -> Option<u32> {
        let slot = *self.queue.get(..self.end)?.get(self.done)?;
        self.done += 1;
        Some(slot)
    }
}

/// How many of the nearest nodes are asked whether they have room for a link.
const ASKED: usize = 16;

impl<S: Store> Index<S> {
    /// Follows links on any level from `from`, to which `parent` has one; says how many more live nodes were reached.
    pub(super) fn reach(&self, from: u32, parent: u32, reach: &mut Reach<'_>) -> u32 {
        let mut live = 0;
        reach.add(from, parent);
        while let Some(slot) = reach.next() {
            live += u32::from(self.is_live(slot));
            for level in 0..=self.anchor(slot).map_or(0, Anchor::level).min(MAX_LEVEL) {
                if let Some(list) = list(&self.layout, &self.store, slot, level) {
                    for next in list.iter() {
                        reach.add(next, slot);
                    }
                }
            }
        }
        live
    }

    /// Links to the live nodes that no path leads to from the entry; returns how many it had to join. The
    /// query of `numeric` is of no importance.
    ///
    /// It is due when as many rows were deleted as some percent of all, after a round of
    /// [`Index::sweep`], and after a build. Afterwards every row can be reached, if no writer runs. Takes about as long as
    /// that many inserts, and a pass over all links.
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if scratch memory is too short; what arithmetic says.
    pub fn repair<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        memory: &mut RepairMemory<'_>,
        numeric: &mut N,
    ) -> Result<u32, Error<N::Error>> {
        let used = self.counts().used;
        let queue = memory.queue.get_mut(..used as usize);
        let parents = memory.parents.get_mut(..used as usize);
        let visited = memory.visited.get_mut(..visited_words(used));
        let (Some(queue), Some(parents), Some(visited)) = (queue, parents, visited) else {
            return Err(Error::Workspace);
        };
        let _inside = self.head.gate.enter();
        let Some(entry) = self.head.entry() else {
            return Ok(0);
        };
        let mut reach = Reach::new(queue, visited, parents);
        self.reach(entry.slot, NOWHERE, &mut reach);
        // Of the nodes reached last, none of whose links is needed, the next to be asked if no near one has room.
        let mut remote = reach.len();
        let mut joined = 0;
        for slot in 0..used {
            // Those that only upper levels lead to are as good as lost to a walk on the lowest.
            let lost = !reach.visited.contains(slot) || self.in_degree(slot, 0) == 0;
            if lost && slot != entry.slot && self.is_live(slot) {
                joined += 1;
                let near = self.join(work, numeric, slot, &reach)?;
                let parent = near.or_else(|| self.join_anywhere(slot, &mut remote, &reach));
                self.reach(slot, parent.unwrap_or(NOWHERE), &mut reach);
            }
        }
        Ok(joined)
    }

    /// Links to `slot` from a near node that was reached; says which, if one could.
    fn join<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        slot: u32,
        reach: &Reach<'_>,
    ) -> Result<Option<u32>, Error<N::Error>> {
        let node = self.store.node(slot).ok_or(Error::Damaged)?;
        let mut numeric = From { numeric, node };
        let Some(entry) = self.head.entry() else {
            return Ok(None);
        };
        let mut spent = Spent::default();
        let mut at = (self.score_one(&mut numeric, entry.slot)?, entry.slot);
        for level in (1..=entry.level).rev() {
            self.descend(&mut numeric, level, &mut at, &mut spent)?;
        }
        let ef = self.params.ef_construction as usize;
        let candidates = work.candidates.get_mut(..ef).ok_or(Error::Workspace)?;
        let mut visited = Visited::new(work.visited, work.touched, false);
        let mut pool = Pool::new(candidates);
        self.seed(&mut numeric, entry, at, &mut pool, &mut visited)?;
        let end = self.beam(&mut numeric, 0, &mut pool, &mut visited, &mut spent, |_| {
            false
        });
        visited.clear();
        end?;
        let near = pool.into_entries().iter().map(|&e| slot_of(e));
        let near = near.filter(|&at| reach.visited.contains(at));
        let joined = near
            .clone()
            .take(ASKED)
            .find(|&at| self.attach(at, 0, slot, |_| false))
            .or_else(|| near.clone().find(|&at| self.hang(at, slot, reach)));
        // And back, if there is room.
        if let Some(at) = joined {
            self.attach(slot, 0, at, |_| false);
        }
        Ok(joined)
    }

    /// Links to `slot` from `at`, which was reached, and nothing that was is lost.
    fn hang(&self, at: u32, slot: u32, reach: &Reach<'_>) -> bool {
        self.attach(at, 0, slot, |target| !reach.needs(at, target))
    }

    /// Links to `slot` from any node that was reached: the first that can, of those before place `last` of the queue.
    fn join_anywhere(&self, slot: u32, last: &mut usize, reach: &Reach<'_>) -> Option<u32> {
        loop {
            let at = *reach.queue.get(last.checked_sub(1)?)?;
            if self.hang(at, slot, reach) {
                return Some(at);
            }
            *last = last.saturating_sub(1);
        }
    }
}

/// A node as the query.
struct From<'a, N> {
    numeric: &'a mut N,
    node: &'a [AtomicU32],
}

impl<N: Numeric> Numeric for From<'_, N> {
    type Error = N::Error;

    fn encode(&mut self, code: &mut [u32]) -> Result<(), N::Error> {
        self.numeric.encode(code)
    }

    fn score(&mut self, nodes: &[&[AtomicU32]], out: &mut [u32]) -> Result<(), N::Error> {
        self.numeric.between(self.node, nodes, out)
    }

    fn between(
        &mut self,
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), N::Error> {
        self.numeric.between(from, nodes, out)
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), N::Error> {
        self.numeric.exact(rows, out)
    }

    fn prefetch(&self, part: &[AtomicU32]) {
        self.numeric.prefetch(part);
    }
}
