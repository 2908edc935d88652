// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Whether a graph is what it should be; opening an image of one.
//!
//! An image is the used nodes and upper blocks as they are, little-endian words, and an [`Image`]. It
//! may come from a damaged disk or from somebody hostile: whatever it holds, opening it ends after a
//! bounded number of steps, with an index that keeps all the promises of this module or with a report of what
//! is wrong. Codes can be wrong all the same, so an image wants a checksum besides.

use core::sync::atomic::Ordering;

use super::head::{Entry, Head};
use super::node::{self, list, Anchor, State, NOWHERE};
use super::params::{visited_words, Params, MAX_LEVEL};
use super::repair::Reach;
use super::spread::OCTAVES;
use super::store::Store;
use super::{mix, Index};

/// What must be stored of an index besides its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image {
    /// The entry: slot and level; all ones in an empty index.
    pub entry: u64,
    /// How many nodes to store, from slot 0.
    pub used: u32,
    /// How many upper blocks to store, from block 0.
    pub used_uppers: u32,
    /// How far apart near rows are, 0 where nothing is known.
    pub spread: [u32; OCTAVES],
}

/// Scratch memory of a check.
pub struct CheckMemory<'a> {
    /// At least as many words as nodes are in use.
    pub counts: &'a mut [u32],
    /// At least as many words as upper blocks are in use.
    pub upper_counts: &'a mut [u32],
    /// At least as many words as nodes are in use.
    pub queue: &'a mut [u32],
    /// [`visited_words`] of the nodes in use.
    pub visited: &'a mut [u64],
}

/// What can be wrong with a graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is more in use than there is memory for, or scratch memory is too short.
    Memory,
    /// The entry is no live node, not of its level, or missing.
    Entry,
    /// A node has a state or a level that nodes at rest do not have.
    Anchor,
    /// The upper blocks of a node are not what its level says.
    Upper,
    /// A link leads to no node of its level, to its own node or to one that is linked already.
    Link,
    /// The number of links to a node is not what its anchor says.
    InDegree,
    /// Two nodes are of one row, or a node is of a row that is none.
    Row,
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Live nodes.
    pub live: u32,
    /// Deleted nodes whose slots are not free yet.
    pub deleted: u32,
    /// Links on level 0.
    pub links: u64,
    /// Links to deleted nodes, on any level.
    pub stale_links: u64,
    /// Live nodes on level 0 that nothing links to, except for the entry.
    pub orphans: u32,
    /// Live nodes to which no path of links leads from the entry.
    pub unreachable: u32,
    /// How many faults there are.
    pub faults: u64,
    /// The first of them, and the slot at which it is.
    pub first_fault: Option<(Fault, u32)>,
}

impl Report {
    fn fault(&mut self, fault: Fault, slot: u32) {
        self.faults = self.faults.saturating_add(1);
        self.first_fault.get_or_insert((fault, slot));
    }
}

impl<S: Store> Index<S> {
    /// Checks every node, and counts. While writers run, expect faults of counts.
    pub fn check(&self, memory: &mut CheckMemory<'_>) -> Report {
        let mut report = Report::default();
        let used = self.head.used.load(Ordering::Acquire);
        let uppers = self.head.used_uppers.load(Ordering::Acquire);
        let counts = memory.counts.get_mut(..used as usize);
        let upper_counts = memory.upper_counts.get_mut(..uppers as usize);
        let queue = memory.queue.get_mut(..used as usize);
        let visited = memory.visited.get_mut(..visited_words(used));
        let (Some(counts), Some(upper_counts), Some(queue), Some(visited)) =
            (counts, upper_counts, queue, visited)
        else {
            report.fault(Fault::Memory, 0);
            return report;
        };
        if used > self.store.nodes() || uppers > self.store.uppers() {
            report.fault(Fault::Memory, 0);
            return report;
        }
        counts.fill(0);
        upper_counts.fill(0);
        for slot in 0..used {
            self.check_node(slot, used, uppers, counts, upper_counts, &mut report);
        }
        let entry = self.head.entry();
        let entry_fits = match entry {
            Some(e) => {
                self.is_live(e.slot) && self.anchor(e.slot).is_some_and(|a| a.level() == e.level)
            }
            None => report.live == 0,
        };
        if !entry_fits || entry.is_some_and(|e| e.slot >= used) {
            report.fault(Fault::Entry, entry.map_or(NOWHERE, |e| e.slot));
        }
        self.check_counts(used, entry, counts, upper_counts, &mut report);
        if report.faults == 0 {
            let mut reach = Reach::new(queue, visited, &mut []);
            let reached = entry.map_or(0, |e| self.reach(e.slot, NOWHERE, &mut reach));
            report.unreachable = report.live.saturating_sub(reached);
        }
        report
    }

    /// Checks one node by itself, and counts its links.
    fn check_node(
        &self,
        slot: u32,
        used: u32,
        uppers: u32,
        counts: &mut [u32],
        upper_counts: &mut [u32],
        report: &mut Report,
    ) {
        let Some(header) = self.store.node(slot).and_then(|n| self.layout.header(n)) else {
            return report.fault(Fault::Memory, slot);
        };
        let anchor = Anchor(header.anchor.load(Ordering::Acquire));
        match anchor.state() {
            State::Free => return,
            State::Building => return report.fault(Fault::Anchor, slot),
            State::Live => report.live += 1,
            State::Deleted => report.deleted += 1,
        }
        if anchor.level() > MAX_LEVEL {
            return report.fault(Fault::Anchor, slot);
        }
        let mut at = header.upper.load(Ordering::Acquire);
        for level in 1..=anchor.level() {
            let block = node::upper(&self.layout, &self.store, at).filter(|_| at < uppers);
            let Some(block) = block else {
                return report.fault(Fault::Upper, slot);
            };
            let a = Anchor(block.anchor.load(Ordering::Acquire));
            if block.node.load(Ordering::Acquire) != slot
                || a.level() != level
                || a.state() != anchor.state()
            {
                return report.fault(Fault::Upper, slot);
            }
            at = block.next.load(Ordering::Acquire);
        }
        if at != NOWHERE {
            return report.fault(Fault::Upper, slot);
        }
        for level in 0..=anchor.level() {
            let Some(own) = list(&self.layout, &self.store, slot, level) else {
                return report.fault(Fault::Upper, slot);
            };
            for (i, target) in own.iter().enumerate() {
                let to = self
                    .anchor(target)
                    .filter(|_| target < used && target != slot);
                let linked = matches!(to.map(Anchor::state), Some(State::Live | State::Deleted));
                if !linked
                    || to.is_none_or(|to| to.level() < level)
                    || own.iter().take(i).any(|other| other == target)
                {
                    report.fault(Fault::Link, slot);
                    continue;
                }
                if to.is_some_and(|to| to.state() == State::Deleted) {
                    report.stale_links += 1;
                }
                let count = if level == 0 {
                    report.links += 1;
                    counts.get_mut(target as usize)
                } else {
                    self.upper_of(target, level)
                        .and_then(|at| upper_counts.get_mut(at as usize))
                };
                match count {
                    Some(count) => *count = count.saturating_add(1),
                    None => report.fault(Fault::Upper, target),
                }
            }
        }
    }

    /// The upper block of `slot` on `level`, which is not 0.
    fn upper_of(&self, slot: u32, level: u32) -> Option<u32> {
        let header = self.layout.header(self.store.node(slot)?)?;
        let mut at = header.upper.load(Ordering::Acquire);
        for _ in 1..level.min(MAX_LEVEL) {
            let block = node::upper(&self.layout, &self.store, at)?;
            at = block.next.load(Ordering::Acquire);
        }
        Some(at)
    }

    /// Compares the links counted with those that anchors know of.
    fn check_counts(
        &self,
        used: u32,
        entry: Option<Entry>,
        counts: &[u32],
        upper_counts: &[u32],
        report: &mut Report,
    ) {
        for (slot, &count) in (0..used).zip(counts) {
            let Some(anchor) = self.anchor(slot) else {
                continue;
            };
            if !matches!(anchor.state(), State::Live | State::Deleted) {
                continue;
            }
            if anchor.in_degree() != count {
                report.fault(Fault::InDegree, slot);
            }
            if anchor.state() == State::Live && count == 0 && entry.is_none_or(|e| e.slot != slot) {
                report.orphans += 1;
            }
            for level in 1..=anchor.level().min(MAX_LEVEL) {
                let count = self
                    .upper_of(slot, level)
                    .and_then(|at| upper_counts.get(at as usize));
                if count.is_none_or(|&count| self.in_degree(slot, level) != count) {
                    report.fault(Fault::InDegree, slot);
                }
            }
        }
    }

    /// What to store besides the blocks. No writer may run from before the blocks are read until
    /// this is taken.
    pub fn image(&self) -> Image {
        Image {
            entry: Entry::word(self.head.entry()),
            used: self.head.used.load(Ordering::Acquire),
            used_uppers: self.head.used_uppers.load(Ordering::Acquire),
            spread: self.head.spread.words(),
        }
    }

    /// An index from an image whose blocks are in `store`. The places of all rows are
    /// [`NOWHERE`]; those of the index's rows are filled in.
    ///
    /// # Errors
    ///
    /// A report with a fault in it, if anything is wrong. Places may have been filled in then.
    pub fn open(
        params: Params,
        store: S,
        image: Image,
        memory: &mut CheckMemory<'_>,
    ) -> Result<Self, Report> {
        let bad = |fault| {
            let mut report = Report::default();
            report.fault(fault, 0);
            report
        };
        let layout = params.layout().map_err(|_| bad(Fault::Memory))?;
        let index = Index {
            params,
            layout,
            head: Head::new(),
            store,
        };
        index.head.used.store(image.used, Ordering::Relaxed);
        index
            .head
            .used_uppers
            .store(image.used_uppers, Ordering::Relaxed);
        index.head.change_entry(None, Entry::from_word(image.entry));
        index.head.spread.set(image.spread);
        let mut report = index.check(memory);
        if report.faults == 0 {
            index.take_stock(&mut report);
        }
        if report.faults > 0 {
            return Err(report);
        }
        index.head.live.store(report.live, Ordering::Relaxed);
        index.head.deleted.store(report.deleted, Ordering::Relaxed);
        Ok(index)
    }

    /// Finds free slots and blocks, and the places of rows.
    fn take_stock(&self, report: &mut Report) {
        let used = self.head.used.load(Ordering::Relaxed);
        for at in (0..self.head.used_uppers.load(Ordering::Relaxed)).rev() {
            let Some(block) = node::upper(&self.layout, &self.store, at) else {
                continue;
            };
            let level = Anchor(block.anchor.load(Ordering::Relaxed)).level();
            let owner = block.node.load(Ordering::Relaxed);
            let owned = self.anchor(owner).is_some_and(|a| {
                owner < used
                    && matches!(a.state(), State::Live | State::Deleted)
                    && level > 0
                    && level <= a.level()
            });
            if !owned || self.upper_of(owner, level) != Some(at) {
                block.node.store(NOWHERE, Ordering::Relaxed);
                self.head.free_uppers.push(at, block.next);
            }
        }
        for slot in (0..used).rev() {
            let Some(header) = self.store.node(slot).and_then(|n| self.layout.header(n)) else {
                continue;
            };
            match Anchor(header.anchor.load(Ordering::Relaxed)).state() {
                State::Live => {
                    let row = header.row();
                    let place = self.store.place(row);
                    let place = place.filter(|p| p.swap(slot, Ordering::AcqRel) == NOWHERE);
                    if place.is_none() {
                        report.fault(Fault::Row, slot);
                    }
                    self.head
                        .row_end
                        .fetch_max(row.saturating_add(1), Ordering::AcqRel);
                }
                State::Free => {
                    // Its blocks, if it was on the way to be free, are among the free ones.
                    header.anchor.store(0, Ordering::Relaxed);
                    header.upper.store(NOWHERE, Ordering::Relaxed);
                    self.head.free.push(slot, header.next_free);
                }
                State::Building | State::Deleted => {}
            }
        }
    }

    /// A number that equal graphs have in common: the same slots hold the same rows on the same levels with
    /// the same links and codes. No writer may run.
    pub fn digest(&self) -> u64 {
        let mut digest = mix(Entry::word(self.head.entry()));
        let mut add = |word: u64| digest = mix(digest ^ word);
        for slot in 0..self.head.used.load(Ordering::Acquire) {
            let Some(anchor) = self.anchor(slot).filter(|a| a.state() == State::Live) else {
                continue;
            };
            let Some(node) = self.store.node(slot) else {
                continue;
            };
            add(slot.into());
            add(self.layout.header(node).map_or(0, |header| header.row()));
            for word in node.iter().take(self.layout.code_words) {
                add(word.load(Ordering::Relaxed).into());
            }
            for level in 0..=anchor.level() {
                add(level.into());
                if let Some(list) = list(&self.layout, &self.store, slot, level) {
                    list.iter().for_each(|target| add(target.into()));
                }
            }
        }
        digest
    }
}
