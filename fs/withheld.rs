// SPDX-License-Identifier: GPL-2.0

//! Blocks freed by transactions that have not committed yet.
//!
//! After a crash such blocks belong to their old owner again, so nobody may write to them
//! before the commit. They are free on disk and in the counts, and withheld here.

use kernel::prelude::*;
use libvexfs::format::geometry::BLOCKS_PER_GROUP;
use libvexfs::format::group::PAYLOAD_BYTES;
use vexfs_vfs::jbd2::is_not_after;

/// All ones: a group of which nothing may be used.
static WHOLE_GROUP: [u8; PAYLOAD_BYTES] = [0xff; PAYLOAD_BYTES];

struct Range {
    tid: u32,
    start: u64,
    len: u64,
}

#[derive(Default)]
struct Group {
    bitmap: Option<KBox<[u8; PAYLOAD_BYTES]>>,
    set: u32,
    /// There was no memory for the details: withhold the group until this transaction is
    /// committed.
    whole_until: Option<u32>,
}

/// The withheld blocks of a volume.
pub(crate) struct Withheld {
    ranges: KVVec<Range>,
    groups: KVVec<Group>,
    /// Some group is withheld as a whole.
    any_whole: bool,
}

impl Withheld {
    /// For a volume of `group_count` groups.
    pub(crate) fn new(group_count: u64) -> Result<Self> {
        let count = usize::try_from(group_count)?;
        let mut groups = KVVec::with_capacity(count, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..count {
            groups.push(Group::default(), GFP_KERNEL)?;
        }
        Ok(Withheld {
            ranges: KVVec::new(),
            groups,
            any_whole: false,
        })
    }

    /// Whether anything is withheld, so that a commit could make space.
    pub(crate) fn any(&self) -> bool {
        self.any_whole || !self.ranges.is_empty()
    }

    /// Withholds blocks that transaction `tid` frees. Cannot fail: without memory more is
    /// withheld than need be.
    pub(crate) fn add(&mut self, tid: u32, start: u64, len: u64) {
        let end = start.saturating_add(len);
        let mut at = start;
        while at < end {
            let group = at / BLOCKS_PER_GROUP;
            let next = group
                .saturating_add(1)
                .saturating_mul(BLOCKS_PER_GROUP)
                .min(end);
            self.add_in_group(tid, group, at, next.saturating_sub(at));
            at = next;
        }
    }

    fn add_in_group(&mut self, tid: u32, group: u64, start: u64, len: u64) {
        let Some(place) = self.groups.get_mut(group as usize) else {
            return;
        };
        if place.bitmap.is_none() {
            place.bitmap = KBox::new([0u8; PAYLOAD_BYTES], GFP_KERNEL).ok();
        }
        let listed = self
            .ranges
            .push(Range { tid, start, len }, GFP_KERNEL)
            .is_ok();
        let first = (start % BLOCKS_PER_GROUP) as usize;
        match place.bitmap.as_mut() {
            Some(bitmap) if listed => {
                fill(&mut bitmap[..], first, len as usize, true);
                place.set = place.set.saturating_add(len as u32);
            }
            _ => {
                if listed {
                    self.ranges.pop();
                }
                place.whole_until = Some(tid);
                self.any_whole = true;
            }
        }
    }

    /// Releases what transaction `tid` and those before it withheld.
    pub(crate) fn committed(&mut self, tid: u32) {
        let groups = &mut self.groups;
        self.ranges.retain(|range| {
            if !is_not_after(range.tid, tid) {
                return true;
            }
            if let Some(place) = groups.get_mut((range.start / BLOCKS_PER_GROUP) as usize) {
                let first = (range.start % BLOCKS_PER_GROUP) as usize;
                if let Some(bitmap) = place.bitmap.as_mut() {
                    fill(&mut bitmap[..], first, range.len as usize, false);
                }
                place.set = place.set.saturating_sub(range.len as u32);
                if place.set == 0 {
                    place.bitmap = None;
                }
            }
            false
        });
        if self.any_whole {
            self.any_whole = false;
            for place in groups.iter_mut() {
                if place
                    .whole_until
                    .is_some_and(|until| is_not_after(until, tid))
                {
                    place.whole_until = None;
                }
                self.any_whole |= place.whole_until.is_some();
            }
        }
    }
}

fn fill(bitmap: &mut [u8], first: usize, len: usize, value: bool) {
    for bit in first..first.saturating_add(len) {
        if let Some(byte) = bitmap.get_mut(bit / 8) {
            let mask = 1u8 << (bit % 8);
            if value {
                *byte |= mask;
            } else {
                *byte &= !mask;
            }
        }
    }
}

impl libvexfs::alloc::Withheld for Withheld {
    fn bitmap(&self, group: u64) -> Option<&[u8]> {
        let place = self.groups.get(group as usize)?;
        if place.whole_until.is_some() {
            return Some(&WHOLE_GROUP);
        }
        place.bitmap.as_ref().map(|bitmap| &bitmap[..])
    }
}
