// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Images in which neighbours lie near each other, and without free slots.
//!
//! Slots are given out in the order of inserts, so a walk jumps all over memory. In the order of a breadth-first
//! search from the entry, neighbours often share pages and fetches (compare Coleman et al., arXiv
//! 2104.03221). An image written in this order opens as the same graph, and takes no space for slots
//! of deleted rows.

use core::sync::atomic::{AtomicU32, Ordering};

use super::check::Image;
use super::head::Entry;
use super::node::{self, Anchor, State, NOWHERE};
use super::params::visited_words;
use super::repair::Reach;
use super::store::Store;
use super::Index;

/// An order of the nodes in use.
pub struct Order<'a> {
    /// The slot of each node in the image.
    slots: &'a [u32],
    /// The place of each slot in the image, or [`NOWHERE`].
    places: &'a [u32],
}

impl Order<'_> {
    /// How many nodes an image in this order has.
    pub fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn place(&self, slot: u32) -> u32 {
        self.places.get(slot as usize).copied().unwrap_or(NOWHERE)
    }
}

impl<S: Store> Index<S> {
    /// Finds an order of the nodes in use. No writer runs from here until the image is written.
    ///
    /// Shapes: `slots` and `places` are as long as slots are in use, `visited` has
    /// [`visited_words`] of them. `None` if they are not.
    pub fn order<'a>(
        &self,
        slots: &'a mut [u32],
        places: &'a mut [u32],
        visited: &mut [u64],
    ) -> Option<Order<'a>> {
        let used = self.counts().used;
        let slots = slots.get_mut(..used as usize)?;
        let places = places.get_mut(..used as usize)?;
        let visited = visited.get_mut(..visited_words(used))?;
        let mut reach = Reach::new(&mut *slots, visited, &mut []);
        if let Some(entry) = self.head.entry() {
            self.reach(entry.slot, NOWHERE, &mut reach);
        }
        for slot in 0..used {
            let state = self.anchor(slot).map(Anchor::state);
            if matches!(state, Some(State::Live | State::Deleted)) {
                self.reach(slot, NOWHERE, &mut reach);
            }
        }
        let reached = reach.len();
        let slots = slots.get(..reached)?;
        places.fill(NOWHERE);
        for (place, &slot) in (0..).zip(slots.iter()) {
            *places.get_mut(slot as usize)? = place;
        }
        Some(Order { slots, places })
    }

    /// Writes node `place` of an image to `out`, of [`Layout::node_words`](super::Layout::node_words) words.
    /// `None` if there is no such node, or it does not fit.
    pub fn ordered_node(&self, order: &Order<'_>, place: u32, out: &mut [u32]) -> Option<()> {
        let node = self.store.node(*order.slots.get(place as usize)?)?;
        let links = self.layout.front_words();
        copy(node, out, links..links + self.layout.m0, order)
    }

    /// Writes the upper block `at` of an image to `out`, of
    /// [`Layout::upper_words`](super::Layout::upper_words) words. Upper blocks keep their places. `None` as for
    /// nodes.
    pub fn ordered_upper(&self, order: &Order<'_>, at: u32, out: &mut [u32]) -> Option<()> {
        let block = node::upper(&self.layout, &self.store, at)?;
        let links = super::params::UPPER_HEADER_WORDS;
        copy(
            self.store.upper(at)?,
            out,
            links..links + self.layout.m,
            order,
        )?;
        *out.first_mut()? = order.place(block.node.load(Ordering::Acquire));
        Some(())
    }

    /// As [`Index::image`], for an image in this order.
    pub fn ordered_image(&self, order: &Order<'_>) -> Image {
        let entry = self.head.entry().map(|entry| Entry {
            slot: order.place(entry.slot),
            level: entry.level,
        });
        Image {
            entry: Entry::word(entry),
            used: order.len(),
            ..self.image()
        }
    }
}

/// Copies words; those in `links` are slots, and become places.
fn copy(
    words: &[AtomicU32],
    out: &mut [u32],
    links: core::ops::Range<usize>,
    order: &Order<'_>,
) -> Option<()> {
    if words.len() != out.len() {
        return None;
    }
    for (i, (to, from)) in out.iter_mut().zip(words).enumerate() {
        let word = from.load(Ordering::Acquire);
        *to = if links.contains(&i) {
            order.place(word)
        } else {
            word
        };
    }
    Some(())
}
