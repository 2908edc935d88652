// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Inserting a row (the paper's algorithm 1).
//!
//! A node gets its code and all of its own links before the first link to it appears, so whoever finds
//! it can go on from it.

use core::sync::atomic::{AtomicU32, Ordering};

use super::beam::Spent;
use super::head::{next_unused, Entry};
use super::node::{self, list, Anchor, State, NOWHERE};
use super::pool::{slot_of, Pool, Visited};
use super::select::{Neighbours, MAX_SCORED};
use super::store::{Numeric, Store, Workspace};
use super::{Error, Index};

impl<S: Store> Index<S> {
    /// Inserts `row`, whose vector is the query of `numeric`, and returns its slot.
    ///
    /// Context: takes one of the store's locks at a time. `work.candidates` is at least
    /// `ef_construction` long.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if the row is in the index, [`Error::Full`] if no slot is left; what arithmetic
    /// says. An error after the node was published leaves it in the graph with fewer links.
    pub fn insert<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        row: u64,
    ) -> Result<u32, Error<N::Error>> {
        let ef = self.params.ef_construction as usize;
        let place = self.store.place(row).ok_or(Error::Workspace)?;
        if place.load(Ordering::Acquire) != NOWHERE {
            return Err(Error::Exists);
        }
        let code = work.code.get_mut(..self.layout.code_words);
        let code = code.ok_or(Error::Workspace)?;
        if work.candidates.len() < ef {
            return Err(Error::Workspace);
        }
        numeric.encode(code)?;
        // Not from inside, where the epoch could not advance far enough.
        if self.head.free.is_empty() {
            self.reclaim();
        }
        let _inside = self.head.gate.enter();
        let (slot, level) = self.allocate(row, code).ok_or(Error::Full)?;
        // Two inserts of one row: the second one gives its slot back.
        let claimed = place.compare_exchange(NOWHERE, slot, Ordering::AcqRel, Ordering::Acquire);
        if claimed.is_err() {
            self.abandon(slot, level);
            return Err(Error::Exists);
        }
        self.head
            .row_end
            .fetch_max(row.saturating_add(1), Ordering::AcqRel);
        let new = Some(Entry { slot, level });
        if self.head.entry().is_none() {
            self.set_state(slot, level, State::Live);
            if self.head.change_entry(None, new) {
                self.head.live.fetch_add(1, Ordering::Relaxed);
                return Ok(slot);
            }
            self.set_state(slot, level, State::Building);
        }
        if let Err(error) = self.find_neighbours(work, numeric, slot, level) {
            place.store(NOWHERE, Ordering::Release);
            self.abandon(slot, level);
            return Err(error);
        }
        self.set_state(slot, level, State::Live);
        self.head.live.fetch_add(1, Ordering::Relaxed);
        let result = self.publish(numeric, slot, level);
        while let Some(entry) = self.head.entry().filter(|e| e.level < level) {
            if self.head.change_entry(Some(entry), new) {
                // Only an entry may do without links to it.
                if self.in_degree(entry.slot, 0) == 0 {
                    self.adopt(entry.slot, 0);
                }
                break;
            }
        }
        result.map(|()| slot)
    }

    /// Sets what a new node is; nothing leads to it.
    fn set_state(&self, slot: u32, level: u32, state: State) {
        for l in 0..=level {
            if let Some(list) = list(&self.layout, &self.store, slot, l) {
                let anchor = Anchor(list.anchor.load(Ordering::Relaxed)).with_state(state);
                list.anchor.store(anchor.0, Ordering::Release);
            }
        }
    }

    /// Takes a free slot and writes a node without links to it. Returns the slot and its top level.
    fn allocate(&self, row: u64, code: &[u32]) -> Option<(u32, u32)> {
        let slot = self.take_slot()?;
        let node = self.store.node(slot)?;
        let header = self.layout.header(node)?;
        for (word, &value) in node.iter().zip(code) {
            word.store(value, Ordering::Relaxed);
        }
        header.set_row(row);
        for link in self.layout.links(node)? {
            link.store(NOWHERE, Ordering::Relaxed);
        }
        let mut level = 0;
        let mut link = header.upper;
        link.store(NOWHERE, Ordering::Relaxed);
        while level < self.level_of(row) {
            let Some(at) = self.take_upper() else {
                break;
            };
            let block = node::upper(&self.layout, &self.store, at)?;
            block.node.store(slot, Ordering::Relaxed);
            block
                .anchor
                .store(Anchor::new(State::Building, level + 1).0, Ordering::Relaxed);
            block.next.store(NOWHERE, Ordering::Relaxed);
            for word in block.links {
                word.store(NOWHERE, Ordering::Relaxed);
            }
            link.store(at, Ordering::Release);
            link = block.next;
            level += 1;
        }
        header
            .anchor
            .store(Anchor::new(State::Building, level).0, Ordering::Release);
        Some((slot, level))
    }

    fn next_free(&self, slot: u32) -> Option<&AtomicU32> {
        Some(self.layout.header(self.store.node(slot)?)?.next_free)
    }

    fn take_slot(&self) -> Option<u32> {
        self.head
            .free
            .pop(|slot| self.next_free(slot))
            .or_else(|| next_unused(&self.head.used, self.store.nodes()))
    }

    fn take_upper(&self) -> Option<u32> {
        let link = |at| Some(node::upper(&self.layout, &self.store, at)?.next);
        self.head
            .free_uppers
            .pop(link)
            .or_else(|| next_unused(&self.head.used_uppers, self.store.uppers()))
    }

    /// Makes retired slots free that nobody looks at any more.
    pub(super) fn reclaim(&self) {
        let used = self.head.used.load(Ordering::Acquire);
        let gate = &self.head.gate;
        // A slot is free two epochs after the one in which it was retired.
        for _ in 0..2 {
            if gate.has_retired() {
                gate.advance(used, |slot| self.next_free(slot), |slot| self.free(slot));
            }
        }
    }

    /// Gives a slot and its upper blocks back. Nobody looks at them.
    fn free(&self, slot: u32) {
        let Some(header) = self.store.node(slot).and_then(|n| self.layout.header(n)) else {
            return;
        };
        let level = Anchor(header.anchor.load(Ordering::Acquire)).level();
        let mut at = header.upper.swap(NOWHERE, Ordering::AcqRel);
        for _ in 0..level {
            let Some(block) = node::upper(&self.layout, &self.store, at) else {
                break;
            };
            let next = block.next.load(Ordering::Acquire);
            block.node.store(NOWHERE, Ordering::Relaxed);
            block.anchor.store(0, Ordering::Relaxed);
            self.head.free_uppers.push(at, block.next);
            at = next;
        }
        header.anchor.store(0, Ordering::Release);
        self.head.free.push(slot, header.next_free);
    }

    /// Frees a slot that nothing ever led to.
    fn abandon(&self, slot: u32, level: u32) {
        for l in 0..=level {
            if let Some(list) = list(&self.layout, &self.store, slot, l) {
                for target in list.iter() {
                    self.release(target, l);
                }
                list.write(&[]);
            }
        }
        self.free(slot);
    }

    /// Chooses the links of a new node on all its levels.
    fn find_neighbours<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        slot: u32,
        level: u32,
    ) -> Result<(), Error<N::Error>> {
        let Some(entry) = self.head.entry() else {
            return Ok(());
        };
        let mut spent = Spent::default();
        let mut at = (self.score_one(numeric, entry.slot)?, entry.slot);
        for l in (level + 1..=entry.level).rev() {
            self.descend(numeric, l, &mut at, &mut spent)?;
        }
        let ef = self.params.ef_construction as usize;
        let candidates = work.candidates.get_mut(..ef).ok_or(Error::Workspace)?;
        let mut visited = Visited::new(work.visited, work.touched, false);
        for l in (0..=level.min(entry.level)).rev() {
            let mut pool = Pool::new(&mut *candidates);
            self.seed(numeric, entry, at, &mut pool, &mut visited)?;
            let end = self.beam(numeric, l, &mut pool, &mut visited, &mut spent, |_| false);
            visited.clear();
            end?;
            let pool = pool.into_entries();
            if l == 0 {
                self.head.spread.learn(pool);
            }
            let chosen = self.select(numeric, pool, self.layout.m, self.layout.m / 2)?;
            let list = list(&self.layout, &self.store, slot, l).ok_or(Error::Damaged)?;
            self.relink(slot, l, &list, &chosen);
            // The nearest node is where the next level begins.
            if let Some(&nearest) = pool.first() {
                at = (super::pool::distance_of(nearest), slot_of(nearest));
            }
        }
        Ok(())
    }

    /// Lets the neighbours of a new node link to it.
    fn publish<N: Numeric>(
        &self,
        numeric: &mut N,
        slot: u32,
        level: u32,
    ) -> Result<(), Error<N::Error>> {
        let mut result = Ok(());
        for l in 0..=level {
            let list = list(&self.layout, &self.store, slot, l).ok_or(Error::Damaged)?;
            let targets = Neighbours::of(&list);
            for &target in targets.as_slice() {
                // Whatever fails, the node must end with a link to it.
                if let Err(error) = self.link_back(numeric, target, l, slot) {
                    result = Err(error);
                }
            }
            if self.in_degree(slot, l) == 0 {
                self.adopt(slot, l);
            }
        }
        result
    }

    /// Adds `slot` to the links of `at`, or chooses anew among them and it.
    fn link_back<N: Numeric>(
        &self,
        numeric: &mut N,
        at: u32,
        level: u32,
        slot: u32,
    ) -> Result<(), Error<N::Error>> {
        let Some(list) = list(&self.layout, &self.store, at, level) else {
            return Ok(());
        };
        let _guard = self.store.lock(at);
        if !self.is_live(at) || list.contains(slot) {
            return Ok(());
        }
        let mut links = Neighbours::of(&list);
        if links.len() < list.links.len() {
            links.push(slot);
            self.relink(at, level, &list, &links);
            return Ok(());
        }
        let node = self.store.node(at).ok_or(Error::Damaged)?;
        let mut scored = [0; MAX_SCORED];
        let all = list.iter().chain([slot]).filter(|&s| self.is_live(s));
        let n = self.rank(numeric, node, all, &mut scored)?;
        let scored = scored.get(..n).unwrap_or(&[]);
        let chosen = self.select(numeric, scored, list.links.len(), list.links.len() / 2)?;
        self.relink(at, level, &list, &chosen);
        Ok(())
    }

    /// Makes one of the neighbours of `slot` link to it, in place of a node that has other links to it.
    /// Says whether one could.
    pub(super) fn adopt(&self, slot: u32, level: u32) -> bool {
        let Some(own) = list(&self.layout, &self.store, slot, level) else {
            return false;
        };
        let entry = self.head.entry().filter(|e| e.level >= level);
        own.iter()
            .chain(entry.map(|e| e.slot))
            .any(|at| self.attach(at, level, slot, |_| true))
    }

    /// Adds a link from `at` to `slot`; if need be in place of one that `spare` says yes to, to the node that most
    /// others link to. Says whether there is one now.
    pub(super) fn attach(
        &self,
        at: u32,
        level: u32,
        slot: u32,
        spare: impl Fn(u32) -> bool,
    ) -> bool {
        let Some(list) = list(&self.layout, &self.store, at, level).filter(|_| at != slot) else {
            return false;
        };
        let _guard = self.store.lock(at);
        let mut links = Neighbours::of(&list);
        if links.contains(slot) {
            return true;
        }
        let full = links.len() == list.links.len();
        if !self.is_live(at) || !self.acquire(slot, level) {
            return false;
        }
        if full {
            let spares = links.as_slice().iter().copied().filter(|&t| spare(t));
            let spare = spares.max_by_key(|&t| self.in_degree(t, level));
            match spare.filter(|&t| self.release_unless_last(t, level)) {
                Some(t) => links.remove(t),
                None => {
                    self.release(slot, level);
                    return false;
                }
            }
        }
        links.push(slot);
        list.write(links.as_slice());
        true
    }
}
