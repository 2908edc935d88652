// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Deleting a row and mending the graph in its place (after IP-DiskANN, arXiv 2502.13826).
//!
//! The nodes that link to a deleted one are found among the neighbours of its neighbours; each gets
//! others of these instead of it. Their number is known, so a slot is free exactly when all
//! were found. Else the node stays with its links, because those that are not found are far away and it may
//! be their only bridge, until a sweep comes by these nodes and gives them others of the neighbours.

use core::sync::atomic::{AtomicU32, Ordering};

use super::head::Entry;
use super::node::{list, Anchor, List, State, NOWHERE};
use super::pool::Visited;
use super::select::{Neighbours, MAX_SCORED};
use super::store::{Numeric, Store, Workspace};
use super::{Error, Index};

impl<S: Store> Index<S> {
    /// Deletes `row`. Searches that begin afterwards do not find it. The query of `numeric` is of no
    /// importance.
    ///
    /// Context: takes one of the store's locks at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if the row is not in the index. An error of arithmetic leaves the row deleted and
    /// its slot in use until a [`Index::sweep`].
    pub fn delete<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        row: u64,
    ) -> Result<(), Error<N::Error>> {
        let place = self.store.place(row).ok_or(Error::Workspace)?;
        let _inside = self.head.gate.enter();
        let slot = place.load(Ordering::Acquire);
        let node = self.store.node(slot).ok_or(Error::Missing)?;
        let header = self.layout.header(node).ok_or(Error::Damaged)?;
        let level = Anchor(header.anchor.load(Ordering::Acquire)).level();
        if header.row() != row || !close(header.anchor) {
            return Err(Error::Missing);
        }
        place.store(NOWHERE, Ordering::Release);
        self.head.live.fetch_sub(1, Ordering::Relaxed);
        self.head.deleted.fetch_add(1, Ordering::Relaxed);
        for l in 1..=level {
            if let Some(list) = list(&self.layout, &self.store, slot, l) {
                close(list.anchor);
            }
        }
        self.replace_entry(slot, level);
        let mut visited = Visited::new(work.visited, work.touched, false);
        let mut result = Ok(());
        for l in (0..=level).rev() {
            let done = self.unlink(&mut visited, numeric, slot, l);
            visited.clear();
            if done.is_err() {
                result = done;
            }
        }
        self.finish(slot, level);
        result
    }

    /// Makes another node the entry if `slot` is it: a neighbour on the highest level where there is one.
    fn replace_entry(&self, slot: u32, level: u32) {
        while let Some(entry) = self.head.entry().filter(|e| e.slot == slot) {
            let neighbour = (0..=level).rev().find_map(|l| {
                let list = list(&self.layout, &self.store, slot, l)?;
                list.iter().find(|&s| self.is_live(s))
            });
            // Without a neighbour there may be live nodes all the same, if deletes run together.
            let next = neighbour.or_else(|| {
                let used = self.head.used.load(Ordering::Acquire);
                (0..used).find(|&s| self.is_live(s))
            });
            let new = next.and_then(|slot| {
                let level = self.anchor(slot)?.level();
                Some(Entry { slot, level })
            });
            if self.head.change_entry(Some(entry), new) {
                // The new one may have been deleted meanwhile, by somebody who did not find it the entry.
                match new {
                    Some(new) if !self.is_live(new.slot) => {
                        return self.replace_entry(new.slot, new.level)
                    }
                    _ => return,
                }
            }
        }
    }

    /// Takes a deleted node out of the lists of those that link to it on `level`, as far as they are near.
    fn unlink<N: Numeric>(
        &self,
        visited: &mut Visited<'_>,
        numeric: &mut N,
        slot: u32,
        level: u32,
    ) -> Result<(), Error<N::Error>> {
        let own = list(&self.layout, &self.store, slot, level).ok_or(Error::Damaged)?;
        let neighbours = Neighbours::of(&own);
        let near = neighbours.as_slice();
        let mut result = Ok(());
        let mut visit = |at: u32| {
            if visited.insert(at) && at != slot {
                if let Err(error) = self.mend(numeric, at, level, slot, near) {
                    result = Err(error);
                }
            }
            self.in_degree(slot, level) > 0
        };
        visit(slot);
        if near.iter().all(|&at| visit(at)) {
            for &at in near {
                let Some(list) = list(&self.layout, &self.store, at, level) else {
                    continue;
                };
                if !list.iter().all(&mut visit) {
                    break;
                }
            }
        }
        result
    }

    /// Gives up the links of a deleted node and retires it, if nothing leads to it.
    fn finish(&self, slot: u32, level: u32) {
        if (0..=level).any(|l| self.in_degree(slot, l) > 0) {
            return;
        }
        for l in 0..=level {
            if let Some(list) = list(&self.layout, &self.store, slot, l) {
                self.give_up_links(slot, l, &list);
            }
        }
        self.retire(slot);
    }

    /// Releases the links of a deleted node. A neighbour that nothing else links to is adopted by one of
    /// its own neighbours.
    fn give_up_links(&self, slot: u32, level: u32, own: &List<'_>) {
        // Whoever takes the links releases them: two may give up a node at once.
        let neighbours = {
            let _guard = self.store.lock(slot);
            let all = Neighbours::of(own);
            own.write(&[]);
            all
        };
        let mut kept = Neighbours::new();
        for &target in neighbours.as_slice() {
            if self.release_unless_last(target, level) {
                continue;
            }
            if self.adopt(target, level) && self.release_unless_last(target, level) {
                continue;
            }
            // Searches begin at the entry, whether links lead there or not.
            if self.head.entry().is_some_and(|e| e.slot == target) {
                self.release(target, level);
                continue;
            }
            kept.push(target);
        }
        if kept.len() > 0 {
            let _guard = self.store.lock(slot);
            own.write(kept.as_slice());
        }
    }

    /// Replaces the link from `at` to the deleted `gone`, if there is one, by links to others of `near`,
    /// its former neighbours.
    fn mend<N: Numeric>(
        &self,
        numeric: &mut N,
        at: u32,
        level: u32,
        gone: u32,
        near: &[u32],
    ) -> Result<(), Error<N::Error>> {
        let Some(list) = list(&self.layout, &self.store, at, level) else {
            return Ok(());
        };
        if !list.contains(gone) {
            return Ok(());
        }
        let _guard = self.store.lock(at);
        let old = Neighbours::of(&list);
        if !old.contains(gone) {
            return Ok(());
        }
        // The other links stay as they are: choosing anew among all would lose those that lead far, one by
        // one, and with them the way between clusters.
        let mut links = old;
        links.remove(gone);
        // Even if arithmetic fails, the link goes.
        let mut result = Ok(());
        if self.is_live(at) {
            let room = list.links.len().saturating_sub(links.len());
            match self.replacement(numeric, at, &links, near, room) {
                Ok(chosen) => chosen.as_slice().iter().for_each(|&s| links.push(s)),
                Err(error) => result = Err(error),
            }
        }
        self.relink(at, level, &list, &links);
        result
    }

    /// Chooses at most `most` of `near` that `at` does not link to.
    fn replacement<N: Numeric>(
        &self,
        numeric: &mut N,
        at: u32,
        links: &Neighbours,
        near: &[u32],
        most: usize,
    ) -> Result<Neighbours, Error<N::Error>> {
        let node = self.store.node(at).ok_or(Error::Damaged)?;
        let new = near.iter().copied();
        let new = new.filter(|&s| s != at && !links.contains(s) && self.is_live(s));
        let mut scored = [0; MAX_SCORED];
        let n = self.rank(numeric, node, new, &mut scored)?;
        self.select(numeric, scored.get(..n).unwrap_or(&[]), most, 0)
    }

    /// Lists a deleted slot as retired if nothing leads to it and it leads nowhere.
    pub(super) fn retire(&self, slot: u32) {
        let Some(header) = self.store.node(slot).and_then(|n| self.layout.header(n)) else {
            return;
        };
        let anchor = Anchor(header.anchor.load(Ordering::Acquire));
        for level in 0..=anchor.level() {
            let Some(list) = list(&self.layout, &self.store, slot, level) else {
                return;
            };
            let a = Anchor(list.anchor.load(Ordering::Acquire));
            if a.state() != State::Deleted || a.in_degree() > 0 || list.iter().next().is_some() {
                return;
            }
        }
        // Of several who see this, one retires the slot.
        let free = Anchor::new(State::Free, anchor.level());
        let unlinked = Anchor::new(State::Deleted, anchor.level());
        let won =
            header
                .anchor
                .compare_exchange(unlinked.0, free.0, Ordering::AcqRel, Ordering::Acquire);
        if won.is_ok() {
            self.head.deleted.fetch_sub(1, Ordering::Relaxed);
            self.head.gate.retire(slot, header.next_free);
        }
    }

    /// Cleans up after deletes: looks at `count` slots from `first` on, takes links to deleted nodes out of
    /// them, links nodes that nothing leads to, and lets free slots be used again. Returns the slot to
    /// go on with, or `None` at the end.
    ///
    /// Two whole rounds leave no deleted slot in use, if no writer runs. They are due when
    /// [`Counts::deleted`](super::Counts::deleted) is some percent of all. One sweep runs at a time.
    ///
    /// # Errors
    ///
    /// What arithmetic says.
    pub fn sweep<N: Numeric>(
        &self,
        numeric: &mut N,
        first: u32,
        count: u32,
    ) -> Result<Option<u32>, Error<N::Error>> {
        let used = self.head.used.load(Ordering::Acquire);
        let end = first.saturating_add(count).min(used);
        {
            let _inside = self.head.gate.enter();
            for slot in first..end {
                self.sweep_slot(numeric, slot)?;
            }
        }
        self.reclaim();
        Ok((end < used).then_some(end))
    }

    fn sweep_slot<N: Numeric>(&self, numeric: &mut N, slot: u32) -> Result<(), Error<N::Error>> {
        let Some(anchor) = self.anchor(slot) else {
            return Ok(());
        };
        let levels = (0..=anchor.level()).rev();
        match anchor.state() {
            State::Live => {
                for level in levels {
                    let Some(list) = list(&self.layout, &self.store, slot, level) else {
                        continue;
                    };
                    for target in list.iter().filter(|&t| !self.is_live(t)) {
                        let near = super::node::list(&self.layout, &self.store, target, level);
                        let near = near.map_or(Neighbours::new(), |l| Neighbours::of(&l));
                        self.mend(numeric, slot, level, target, near.as_slice())?;
                    }
                    let entry = self.head.entry().is_some_and(|e| e.slot == slot);
                    if self.in_degree(slot, level) == 0 && !entry {
                        self.adopt(slot, level);
                    }
                }
            }
            State::Deleted => {
                // Deleted nodes must not keep each other.
                for level in levels {
                    let Some(list) = list(&self.layout, &self.store, slot, level) else {
                        continue;
                    };
                    let mut dead = Neighbours::new();
                    {
                        let _guard = self.store.lock(slot);
                        let links = Neighbours::of(&list);
                        let mut kept = Neighbours::new();
                        for &target in links.as_slice() {
                            let to = if self.is_live(target) {
                                &mut kept
                            } else {
                                &mut dead
                            };
                            to.push(target);
                        }
                        list.write(kept.as_slice());
                    }
                    for &target in dead.as_slice() {
                        self.release(target, level);
                    }
                }
                self.finish(slot, anchor.level());
            }
            State::Free | State::Building => {}
        }
        Ok(())
    }
}

/// Makes a live node or level a deleted one; says whether it was live.
fn close(anchor: &AtomicU32) -> bool {
    anchor
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let a = Anchor(word);
            (a.state() == State::Live).then(|| a.with_state(State::Deleted).0)
        })
        .is_ok()
}
