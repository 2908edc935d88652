// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Nodes in an order in which neighbours lie near each other, and without free slots between them.
//!
//! Slots are given out in the order of inserts, so a walk jumps all over memory, and on disk each of its nodes would be in
//! another block. In this order the neighbours of a node that have no place yet lie side by side, then those of its first
//! neighbour, and so on, depth first: near nodes share pages and fetches (on orders for graphs of nearest neighbours
//! see Coleman et al., arXiv 2104.03221). Nodes change their places one by one, which takes no second copy of them.

use core::sync::atomic::{AtomicU32, Ordering};

use super::head::Entry;
use super::node::{self, list, Anchor, State, NOWHERE};
use super::params::MAX_LEVEL;
use super::store::Store;
use super::{Error, Index};

/// Scratch memory of a reordering.
pub struct OrderMemory<'a> {
    /// At least as many words as nodes are in use.
    pub stack: &'a mut [u32],
    /// As many again.
    pub places: &'a mut [u32],
}

/// Nodes between two questions whether to go on.
const STEP: usize = 1024;

/// Places that were given to nodes, and nodes whose neighbours may have none yet.
struct Order<'a> {
    /// The place of each slot, or [`NOWHERE`].
    places: &'a mut [u32],
    /// The first place that is free.
    end: u32,
    stack: &'a mut [u32],
    height: usize,
}

impl Order<'_> {
    /// Gives `slot` the next place, unless it has one.
    fn add(&mut self, slot: u32) {
        let place = self.places.get_mut(slot as usize);
        let place = place.filter(|place| **place == NOWHERE);
        // Each slot comes here once at most.
        if let (Some(place), Some(top)) = (place, self.stack.get_mut(self.height)) {
            *place = self.end;
            self.end += 1;
            *top = slot;
            self.height += 1;
        }
    }

    fn pop(&mut self) -> Option<u32> {
        self.height = self.height.checked_sub(1)?;
        self.stack.get(self.height).copied()
    }
}

/// Asks every [`STEP`] nodes.
fn every_step<E>(n: usize, go_on: &mut impl FnMut() -> Result<(), E>) -> Result<(), E> {
    if n.is_multiple_of(STEP) {
        go_on()
    } else {
        Ok(())
    }
}

impl<S: Store> Index<S> {
    /// Moves the nodes into an order in which neighbours lie near each other. Their rows and links stay the same, up to the
    /// slots' numbers, and free slots are at the end, as if they had never been used. The order depends on the
    /// graph alone.
    ///
    /// Context: nobody else may use the index, which has just been built. `go_on` is called every
    /// thousand nodes or so; once nodes are being moved all of them are, whatever it says. Takes about as long as one insert
    /// for every hundred nodes.
    ///
    /// # Errors
    ///
    /// [`Error::Workspace`] if scratch memory is too short, [`Error::Full`] if somebody may still look at slots of deleted
    /// rows; what `go_on` says.
    pub fn reorder<E>(
        &self,
        memory: &mut OrderMemory<'_>,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<(), Error<E>> {
        // A slot is in use or free from here on, and nothing in between.
        self.reclaim();
        if self.head.gate.has_retired() {
            return Err(Error::Full);
        }
        let used = self.counts().used as usize;
        let stack = memory.stack.get_mut(..used);
        let places = memory.places.get_mut(..used);
        let (Some(stack), Some(places)) = (stack, places) else {
            return Err(Error::Workspace);
        };
        places.fill(NOWHERE);
        let mut order = Order {
            places,
            end: 0,
            stack,
            height: 0,
        };
        self.order(&mut order, &mut go_on)?;
        let Order {
            places,
            end: in_use,
            ..
        } = order;
        let free = places.iter_mut().filter(|place| **place == NOWHERE);
        for (place, free) in (in_use..).zip(free) {
            *free = place;
        }
        self.rename(places, &mut go_on);
        self.move_nodes(places, &mut go_on);
        // Free slots are the last ones: to be used again they need not be listed.
        for slot in in_use..used as u32 {
            for word in self.store.node(slot).unwrap_or(&[]) {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.head.free.take();
        self.head.used.store(in_use, Ordering::Release);
        Ok(())
    }

    /// Finds places for the nodes in use.
    fn order<E>(
        &self,
        order: &mut Order<'_>,
        go_on: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(entry) = self.head.entry() {
            order.add(entry.slot);
        }
        let (mut done, mut rest) = (0, 0..order.places.len() as u32);
        loop {
            while let Some(slot) = order.pop() {
                every_step(done, go_on)?;
                done += 1;
                let below = order.height;
                for level in 0..=self.anchor(slot).map_or(0, Anchor::level).min(MAX_LEVEL) {
                    let list = list(&self.layout, &self.store, slot, level);
                    let links = list.iter().flat_map(node::List::iter);
                    links.for_each(|next| order.add(next));
                }
                // The first one on top.
                if let Some(added) = order.stack.get_mut(below..order.height) {
                    added.reverse();
                }
            }
            // Those to which no path leads.
            let in_use = |&slot: &u32| {
                let state = self.anchor(slot).map(Anchor::state);
                matches!(state, Some(State::Live | State::Deleted))
            };
            match rest.find(in_use) {
                Some(slot) => order.add(slot),
                None => return Ok(()),
            }
        }
    }

    /// Has everything that names a slot name its place.
    fn rename<E>(&self, places: &[u32], go_on: &mut impl FnMut() -> Result<(), E>) {
        let place_of = |slot: u32| places.get(slot as usize).copied().unwrap_or(NOWHERE);
        let rename = |links: &[AtomicU32]| {
            for link in links {
                let slot = link.load(Ordering::Relaxed);
                if slot == NOWHERE {
                    break;
                }
                link.store(place_of(slot), Ordering::Relaxed);
            }
        };
        for (slot, &place) in (0..).zip(places) {
            let _ = every_step(slot as usize, go_on);
            let node = self.store.node(slot).unwrap_or(&[]);
            let (Some(header), Some(links)) = (self.layout.header(node), self.layout.links(node))
            else {
                continue;
            };
            match Anchor(header.anchor.load(Ordering::Relaxed)).state() {
                State::Live => {
                    if let Some(word) = self.store.place(header.row()) {
                        word.store(place, Ordering::Relaxed);
                    }
                }
                State::Deleted => {}
                State::Free | State::Building => continue,
            }
            rename(links);
        }
        for at in 0..self.counts().used_uppers {
            let Some(block) = node::upper(&self.layout, &self.store, at) else {
                continue;
            };
            // Free ones are no node's.
            let slot = block.node.load(Ordering::Relaxed);
            if slot != NOWHERE {
                block.node.store(place_of(slot), Ordering::Relaxed);
                rename(block.links);
            }
        }
        if let Some(entry) = self.head.entry() {
            let slot = place_of(entry.slot);
            self.head
                .change_entry(Some(entry), Some(Entry { slot, ..entry }));
        }
    }

    /// Moves each node to its place. `places` has each place once, and is in order afterwards.
    fn move_nodes<E>(&self, places: &mut [u32], go_on: &mut impl FnMut() -> Result<(), E>) {
        for at in 0..places.len() {
            let _ = every_step(at, go_on);
            // What is here goes to its place, and what is there comes here, until it belongs here.
            while let Some(&to) = places.get(at).filter(|&&to| to as usize != at) {
                let (Some(one), Some(other)) = (self.store.node(at as u32), self.store.node(to))
                else {
                    break;
                };
                for (one, other) in one.iter().zip(other) {
                    let words = (one.load(Ordering::Relaxed), other.load(Ordering::Relaxed));
                    other.store(words.0, Ordering::Relaxed);
                    one.store(words.1, Ordering::Relaxed);
                }
                places.swap(at, to as usize);
            }
        }
    }
}
