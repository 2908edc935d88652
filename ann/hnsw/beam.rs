// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The walk on one level: expand the nearest candidate until none is near enough.

use core::sync::atomic::{AtomicU32, Ordering};

use super::head::Entry;
use super::node::{self, list, Anchor, State, NOWHERE};
use super::pool::{Pool, Visited};
use super::select::Neighbours;
use super::store::{Numeric, Store, BATCH};
use super::{Error, Index};
use crate::visible::Visible;

/// Candidates that are expanded together, while the neighbours of as many before them are scored: codes come from
/// memory beside each other and beside arithmetic, and what the first one's neighbours would have changed is little.
const WIDTH: usize = 2;

/// Nodes to be scored in one call.
pub(super) struct Batch<'s> {
    slots: [u32; BATCH],
    nodes: [&'s [AtomicU32]; BATCH],
    len: usize,
}

impl<'s> Batch<'s> {
    /// An empty batch; `any` is any slice.
    pub(super) fn new(any: &'s [AtomicU32]) -> Self {
        Batch {
            slots: [NOWHERE; BATCH],
            nodes: [any; BATCH],
            len: 0,
        }
    }

    /// Adds a node; says whether there is room for more.
    #[inline]
    pub(super) fn push(&mut self, slot: u32, node: &'s [AtomicU32]) -> bool {
        if let (Some(s), Some(n)) = (self.slots.get_mut(self.len), self.nodes.get_mut(self.len)) {
            *s = slot;
            *n = node;
            self.len += 1;
        }
        self.len < BATCH
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn slots(&self) -> &[u32] {
        self.slots.get(..self.len).unwrap_or(&[])
    }

    pub(super) fn nodes(&self) -> &[&'s [AtomicU32]] {
        self.nodes.get(..self.len).unwrap_or(&[])
    }
}

/// Why a walk came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// No candidate is left.
    Done,
    /// It was told to stop.
    Stopped,
}

/// What operations have cost so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Spent {
    pub(super) distances: u64,
    pub(super) hops: u64,
}

impl<S: Store> Index<S> {
    /// Whether a slot may be returned.
    pub(super) fn is_live(&self, slot: u32) -> bool {
        self.anchor(slot).is_some_and(|a| a.state() == State::Live)
    }

    /// What the node in `slot` is.
    pub(super) fn anchor(&self, slot: u32) -> Option<Anchor> {
        let header = self.layout.header(self.store.node(slot)?)?;
        Some(Anchor(header.anchor.load(Ordering::Acquire)))
    }

    /// Scores one node from the query.
    pub(super) fn score_one<N: Numeric>(
        &self,
        numeric: &mut N,
        slot: u32,
    ) -> Result<u32, Error<N::Error>> {
        let node = self.store.node(slot).ok_or(Error::Damaged)?;
        let mut out = [0];
        numeric.score(&[node], &mut out)?;
        let [distance] = out;
        Ok(distance)
    }

    /// Moves from `at` to ever nearer nodes of `level` until there is none: a beam of one.
    pub(super) fn descend<N: Numeric>(
        &self,
        numeric: &mut N,
        level: u32,
        at: &mut (u32, u32),
        spent: &mut Spent,
    ) -> Result<(), Error<N::Error>> {
        let mut out = [0; BATCH];
        let mut batch = Batch::new(&[]);
        // Distances fall with each step, so there are no more than there are nodes.
        loop {
            let (distance, slot) = *at;
            let Some(list) = list(&self.layout, &self.store, slot, level) else {
                return Ok(());
            };
            batch.clear();
            for next in list.iter() {
                if let Some(node) = self.store.node(next) {
                    numeric.prefetch(node.get(..self.layout.front_words()).unwrap_or(node));
                    batch.push(next, node);
                }
            }
            let Some(out) = out.get_mut(..batch.len()) else {
                return Ok(());
            };
            numeric.score(batch.nodes(), out)?;
            spent.hops += 1;
            spent.distances += batch.len() as u64;
            for (&key, &next) in out.iter().zip(batch.slots()) {
                if (key, next) < *at {
                    *at = (key, next);
                }
            }
            if (distance, slot) == *at {
                return Ok(());
            }
        }
    }

    /// Puts `at` into an empty pool, and the entry too if `at` was deleted and may have no links any more.
    pub(super) fn seed<N: Numeric>(
        &self,
        numeric: &mut N,
        entry: Entry,
        at: (u32, u32),
        pool: &mut Pool<'_>,
        visited: &mut Visited<'_>,
    ) -> Result<(), Error<N::Error>> {
        visited.insert(at.1);
        pool.offer(at.0, at.1);
        if !self.is_live(at.1) {
            let distance = self.score_one(numeric, entry.slot);
            if distance.is_err() {
                visited.clear();
            }
            if visited.insert(entry.slot) {
                pool.offer(distance?, entry.slot);
            }
        }
        Ok(())
    }

    /// Collects the nearest nodes of `level` in `pool`, which holds where to start; all in it are
    /// visited. `stop` is asked once per node expanded.
    pub(super) fn beam<N: Numeric>(
        &self,
        numeric: &mut N,
        level: u32,
        pool: &mut Pool<'_>,
        visited: &mut Visited<'_>,
        spent: &mut Spent,
        mut stop: impl FnMut(u64) -> bool,
    ) -> Result<End, Error<N::Error>> {
        let mut out = [0; BATCH];
        let front = self.layout.front_words();
        // Made once: to initialise them takes as long as to score some nodes.
        let mut one = Batch::new(&[]);
        let mut other = Batch::new(&[]);
        let (mut batch, mut next) = (&mut one, &mut other);
        // Each round sends for nodes that the next one scores.
        loop {
            let mut expanded = 0;
            // A whole list fits in the end.
            while expanded < WIDTH && next.len() + self.layout.m0 <= BATCH {
                let Some(slot) = pool.next() else {
                    break;
                };
                expanded += 1;
                let Some(list) = list(&self.layout, &self.store, slot, level) else {
                    continue;
                };
                if stop(spent.distances) {
                    return Ok(End::Stopped);
                }
                spent.hops += 1;
                let mut fresh = Neighbours::new();
                visited.insert_all(list.iter(), &mut fresh);
                for &slot in fresh.as_slice() {
                    if let Some(node) = self.store.node(slot) {
                        numeric.prefetch(node.get(..front).unwrap_or(node));
                        next.push(slot, node);
                    }
                }
            }
            if expanded == 0 && batch.is_empty() {
                break;
            }
            if let Some(out) = out.get_mut(..batch.len()).filter(|out| !out.is_empty()) {
                numeric.score(batch.nodes(), out)?;
                spent.distances += batch.len() as u64;
                for ((&key, &next), &node) in out.iter().zip(batch.slots()).zip(batch.nodes()) {
                    if key <= pool.bound() && pool.offer(key, next) && level == 0 {
                        // It will be expanded soon, or fall out again.
                        numeric.prefetch(node.get(front..).unwrap_or(&[]));
                    }
                }
            }
            batch.clear();
            core::mem::swap(&mut batch, &mut next);
        }
        Ok(End::Done)
    }

    /// Prefetches some words of a node.
    fn fetch<N: Numeric>(&self, numeric: &N, slot: u32, words: core::ops::Range<usize>) {
        if let Some(node) = self.store.node(slot) {
            let words = words.start..words.end.min(node.len());
            numeric.prefetch(node.get(words).unwrap_or(&[]));
        }
    }

    /// Prefetches the headers of the nodes that `slot` links to and that were not visited.
    fn fetch_linked<N: Numeric>(&self, numeric: &N, slot: u32, visited: &Visited<'_>) {
        if let Some(list) = list(&self.layout, &self.store, slot, 0) {
            for next in list.iter().filter(|&next| !visited.contains(next)) {
                self.fetch(numeric, next, self.layout.row_words());
            }
        }
    }

    /// As [`Index::beam`] on level 0, over nodes that pass the filter. Past a node that does not, its own
    /// neighbours are looked at instead (ACORN-1, arXiv 2403.04871). Where to start need not pass.
    pub(super) fn two_hop<N: Numeric, V: Visible>(
        &self,
        numeric: &mut N,
        visible: &mut V,
        pool: &mut Pool<'_>,
        visited: &mut Visited<'_>,
        spent: &mut Spent,
    ) -> Result<End, Error<N::Error>> {
        let mut out = [0; BATCH];
        let front = self.layout.front_words();
        while let Some(slot) = pool.next() {
            let Some(list) = list(&self.layout, &self.store, slot, 0) else {
                continue;
            };
            if visible.stop(spent.distances) {
                return Ok(End::Stopped);
            }
            spent.hops += 1;
            let mut batch = Batch::new(list.links);
            let (mut fresh, mut failing) = (Neighbours::new(), Neighbours::new());
            for next in list.iter() {
                if visited.insert(next) {
                    self.fetch(numeric, next, self.layout.row_words());
                    fresh.push(next);
                }
            }
            for &next in fresh.as_slice() {
                if !self.pass(visible, next, &mut batch) {
                    self.fetch(numeric, next, front..usize::MAX);
                    failing.push(next);
                }
            }
            // What an expansion adds is bounded as without a filter; nearer neighbours come first in the next ones. While
            // the rows of one list are looked up, those of the next come from memory.
            let between = failing.as_slice().iter().copied();
            let ahead = between.clone().skip(1).map(Some).chain([None]);
            if let Some(first) = between.clone().next() {
                self.fetch_linked(numeric, first, visited);
            }
            for (between, ahead) in between.zip(ahead) {
                if batch.len() >= self.layout.m0 {
                    break;
                }
                if let Some(ahead) = ahead {
                    self.fetch_linked(numeric, ahead, visited);
                }
                let Some(list) = node::list(&self.layout, &self.store, between, 0) else {
                    continue;
                };
                for next in list.iter() {
                    if batch.len() < self.layout.m0
                        && !visited.contains(next)
                        && self.pass(visible, next, &mut batch)
                    {
                        visited.insert(next);
                    }
                }
            }
            if batch.is_empty() {
                continue;
            }
            let out = out.get_mut(..batch.len()).ok_or(Error::Damaged)?;
            for node in batch.nodes() {
                numeric.prefetch(node.get(..front).unwrap_or(node));
            }
            numeric.score(batch.nodes(), out)?;
            spent.distances += batch.len() as u64;
            for (&key, &next) in out.iter().zip(batch.slots()) {
                pool.offer(key, next);
            }
        }
        Ok(End::Done)
    }

    /// Adds a node to `batch` if its row passes the filter; says whether it does.
    fn pass<'s, V: Visible>(&'s self, visible: &mut V, slot: u32, batch: &mut Batch<'s>) -> bool {
        let Some(node) = self.store.node(slot) else {
            return true;
        };
        let Some(header) = self.layout.header(node) else {
            return true;
        };
        let passes = visible.allows(header.row());
        if passes {
            batch.push(slot, node);
        }
        passes
    }
}
