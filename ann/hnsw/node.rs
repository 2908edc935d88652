// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Nodes as words: anchors, which say what a node is and who links to it, and lists of links.
//!
//! # Concurrency
//!
//! Searches read all of this without a lock. A link is a slot of a node whose code was written before,
//! with release and acquire around the link itself; lists are rewritten word by word, so that a reader
//! sees some mix of two lists, of valid slots all the same. Lists are only changed under their node's
//! lock.
//!
//! An anchor holds the number of links *to* a node on one level and whether there may be more. So a
//! slot is used again only when nothing leads to it, and the last link to a live node is not given up
//! by those who prune.

use core::sync::atomic::{AtomicU32, Ordering};

use super::params::{Layout, MAX_LEVEL};
use super::store::Store;

/// No slot, no block: the end of a list.
pub const NOWHERE: u32 = u32::MAX;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum State {
    /// In no list, or in one of free slots.
    Free = 0,
    /// Being inserted: it has an owner, and nothing leads to it.
    Building = 1,
    /// A row can be found here.
    Live = 2,
    /// Deleted. Links to it vanish one by one.
    Deleted = 3,
}

/// The word that says what a node is, its top level, and how many links there are to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Anchor(pub u32);

impl Anchor {
    const ONE: u32 = 1 << 8;
    /// The most links to one node.
    pub(super) const MAX_IN: u32 = u32::MAX >> 8;

    pub(super) const fn new(state: State, level: u32) -> Anchor {
        Anchor(state as u32 | level << 2)
    }

    pub(super) const fn state(self) -> State {
        match self.0 & 3 {
            0 => State::Free,
            1 => State::Building,
            2 => State::Live,
            _ => State::Deleted,
        }
    }

    pub(super) const fn level(self) -> u32 {
        self.0 >> 2 & 63
    }

    pub(super) const fn in_degree(self) -> u32 {
        self.0 >> 8
    }

    pub(super) const fn with_state(self, state: State) -> Anchor {
        Anchor(self.0 & !3 | state as u32)
    }
}

/// Counts a link to a node, unless it must have no more.
pub(super) fn acquire(anchor: &AtomicU32) -> bool {
    anchor
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let a = Anchor(word);
            let open = a.state() == State::Live && a.in_degree() < Anchor::MAX_IN;
            open.then(|| word.wrapping_add(Anchor::ONE))
        })
        .is_ok()
}

/// Takes back a link to a node; says what the anchor is now.
pub(super) fn release(anchor: &AtomicU32) -> Anchor {
    let old = anchor.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
        word.checked_sub(Anchor::ONE)
    });
    Anchor(old.map_or(0, |word| word.wrapping_sub(Anchor::ONE)))
}

/// Takes back a link to a node, unless it is the last one to a live node.
pub(super) fn release_unless_last(anchor: &AtomicU32) -> Result<Anchor, ()> {
    anchor
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let a = Anchor(word);
            if a.in_degree() <= 1 && a.state() == State::Live {
                return None;
            }
            word.checked_sub(Anchor::ONE)
        })
        .map(|word| Anchor(word.wrapping_sub(Anchor::ONE)))
        .map_err(|_| ())
}

/// One node's links on one level.
#[derive(Clone, Copy)]
pub(super) struct List<'s> {
    /// Of links to the node on this level.
    pub(super) anchor: &'s AtomicU32,
    /// Slots of neighbours, up to [`NOWHERE`] or the end.
    pub(super) links: &'s [AtomicU32],
}

impl<'s> List<'s> {
    /// The neighbours.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + 's {
        self.links
            .iter()
            .map(|link| link.load(Ordering::Acquire))
            .take_while(|&slot| slot != NOWHERE)
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.iter().any(|link| link == slot)
    }

    /// Replaces the neighbours. Under the node's lock, or before anything leads to the node.
    pub(super) fn write(&self, slots: &[u32]) {
        let ends = slots.iter().copied().chain(core::iter::repeat(NOWHERE));
        for (link, slot) in self.links.iter().zip(ends) {
            if link.load(Ordering::Relaxed) != slot {
                link.store(slot, Ordering::Release);
            }
        }
    }
}

/// The words of a node's header.
pub(super) struct Header<'s> {
    row: [&'s AtomicU32; 2],
    /// Of level 0 and of the node as a whole.
    pub(super) anchor: &'s AtomicU32,
    /// The upper block of level 1.
    pub(super) upper: &'s AtomicU32,
    /// The next slot in a list of free ones.
    pub(super) next_free: &'s AtomicU32,
}

impl Header<'_> {
    pub(super) fn row(&self) -> u64 {
        let [low, high] = self.row.map(|word| u64::from(word.load(Ordering::Relaxed)));
        high << 32 | low
    }

    pub(super) fn set_row(&self, row: u64) {
        let [low, high] = self.row;
        low.store(row as u32, Ordering::Relaxed);
        high.store((row >> 32) as u32, Ordering::Relaxed);
    }
}

impl Layout {
    /// The header of a node, if the node is one of this layout.
    #[inline]
    pub(super) fn header<'s>(&self, node: &'s [AtomicU32]) -> Option<Header<'s>> {
        let [low, high, anchor, upper, next_free, ..] = node.get(self.code_words..)? else {
            return None;
        };
        Some(Header {
            row: [low, high],
            anchor,
            upper,
            next_free,
        })
    }

    /// The links of a node on level 0.
    #[inline]
    pub(super) fn links<'s>(&self, node: &'s [AtomicU32]) -> Option<&'s [AtomicU32]> {
        let front = self.front_words();
        node.get(front..front + self.m0)
    }
}

/// The words of an upper block: the slot of its node, its anchor, the block of the next level; links.
pub(super) struct Upper<'s> {
    pub(super) node: &'s AtomicU32,
    pub(super) anchor: &'s AtomicU32,
    pub(super) next: &'s AtomicU32,
    pub(super) links: &'s [AtomicU32],
}

/// The upper block `at`.
pub(super) fn upper<'s, S: Store>(layout: &Layout, store: &'s S, at: u32) -> Option<Upper<'s>> {
    let [node, anchor, next, links @ ..] = store.upper(at)? else {
        return None;
    };
    Some(Upper {
        node,
        anchor,
        next,
        links: links.get(..layout.m)?,
    })
}

/// The links of the node in `slot` on `level`, if it has that level.
#[inline]
pub(super) fn list<'s, S: Store>(
    layout: &Layout,
    store: &'s S,
    slot: u32,
    level: u32,
) -> Option<List<'s>> {
    let node = store.node(slot)?;
    let header = layout.header(node)?;
    if level == 0 {
        return Some(List {
            anchor: header.anchor,
            links: layout.links(node)?,
        });
    }
    let mut at = header.upper.load(Ordering::Acquire);
    for _ in 1..level.min(MAX_LEVEL) {
        at = upper(layout, store, at)?.next.load(Ordering::Acquire);
    }
    let block = upper(layout, store, at)?;
    Some(List {
        anchor: block.anchor,
        links: block.links,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_link_to_a_live_node_stays() {
        let anchor = AtomicU32::new(Anchor::new(State::Live, 3).0);
        assert!(acquire(&anchor));
        assert_eq!(release_unless_last(&anchor), Err(()));
        assert!(acquire(&anchor));
        assert_eq!(release_unless_last(&anchor).map(Anchor::in_degree), Ok(1));
        let now = Anchor(anchor.load(Ordering::Relaxed));
        assert_eq!((now.level(), now.state()), (3, State::Live));
        anchor.store(now.with_state(State::Deleted).0, Ordering::Relaxed);
        assert!(!acquire(&anchor));
        assert_eq!(release_unless_last(&anchor).map(Anchor::in_degree), Ok(0));
    }

    #[test]
    fn counts_neither_overflow_nor_underflow() {
        let full = Anchor(u32::MAX).with_state(State::Live);
        let anchor = AtomicU32::new(full.0);
        assert!(!acquire(&anchor));
        let anchor = AtomicU32::new(Anchor::new(State::Deleted, 0).0);
        assert_eq!(release(&anchor).in_degree(), 0);
        assert_eq!(
            anchor.load(Ordering::Relaxed),
            Anchor::new(State::Deleted, 0).0
        );
    }
}
