// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Allocating and freeing blocks.

use super::bits::{fill, Bits};
use super::{Allocator, Withheld};
use crate::{Blocks, Error, Result, Txn};
use core::ops::Range;
use vexfs_format::geometry::BLOCKS_PER_GROUP;
use vexfs_format::group::{bits, bits_mut, BLOCK_UNINIT};
use vexfs_format::header::{check_identity, MAGIC_BLOCK_BITMAP};
use vexfs_format::Geometry;

/// Bitmaps that are searched for a long enough run before a shorter one will do.
const MAX_SEARCHED: u32 = 16;
/// A run that continues the last extent is taken from this length on, even if a longer one
/// is elsewhere.
const MIN_CONTINUED: usize = 8;
/// Blocks in 2 MiB: what asks for that much starts at a multiple of it, if it can.
const HUGE: usize = 512;

/// Writes to `bitmap` (4032 bytes) the bits of a group that holds nothing yet: metadata and
/// what lies past the end of the volume are in use.
pub fn initial_block_bitmap(geo: &Geometry, group: u64, bitmap: &mut [u8]) {
    bitmap.fill(0);
    let first = geo.group_first_block(group);
    for range in geo.metadata_in_group(group) {
        let start = range.start.saturating_sub(first) as usize;
        let end = range.end.saturating_sub(first) as usize;
        fill(bitmap, start..end, true);
    }
    let len = geo.blocks_in_group(group) as usize;
    fill(bitmap, len..BLOCKS_PER_GROUP as usize, true);
}

/// The longest run of a group that holds nothing yet.
fn longest_untouched(geo: &Geometry, group: u64) -> Range<usize> {
    let first = geo.group_first_block(group);
    let end = geo.blocks_in_group(group) as usize;
    let mut at = 0;
    let mut longest = 0..0;
    // Metadata comes first, the journal somewhere behind it.
    for range in geo.metadata_in_group(group) {
        let start = range.start.saturating_sub(first) as usize;
        if start.saturating_sub(at) > longest.len() {
            longest = at..start;
        }
        at = range.end.saturating_sub(first) as usize;
    }
    if end.saturating_sub(at) > longest.len() {
        longest = at..end;
    }
    longest
}

/// A run that was found, and whether to look further.
struct Run {
    bits: Range<usize>,
    good: bool,
}

impl Allocator<'_> {
    fn block_bitmap<S: Blocks>(&self, s: &S, group: u64) -> Result<(u64, S::Buf)> {
        let block = self.geo.block_bitmap_block(group);
        let buf = s.read(block, MAGIC_BLOCK_BITMAP, group)?;
        check_identity(block, MAGIC_BLOCK_BITMAP, group, &buf)?;
        Ok((block, buf))
    }

    /// The block bitmap of `group`, made now if it never was.
    fn open_block_bitmap<T: Txn>(&mut self, t: &mut T, group: u64) -> Result<(u64, T::Buf)> {
        if self.summary(group)?.flags & BLOCK_UNINIT == 0 {
            return self.block_bitmap(t, group);
        }
        let block = self.geo.block_bitmap_block(group);
        let mut buf = t.create(block, MAGIC_BLOCK_BITMAP, group)?;
        initial_block_bitmap(self.geo, group, bits_mut(t.modify(&mut buf)?));
        self.update(t, group, |summary| {
            summary.flags &= !BLOCK_UNINIT;
            Ok(())
        })?;
        Ok((block, buf))
    }

    /// Allocates one run of at least one and at most `want` blocks, and returns its start
    /// and length. Looks at `goal` first, then behind it, then in the groups that follow;
    /// what asks for 2 MiB or more is aligned to 2 MiB. A longer run is preferred to a
    /// nearer one, within limits. A goal of 0 or past the end is no preference.
    ///
    /// # Errors
    ///
    /// `NoSpace`, also if all that is free is withheld: the host may commit and try again;
    /// `Corrupt` naming the bitmap or descriptor; those of the transaction.
    pub fn allocate_blocks<T: Txn>(
        &mut self,
        t: &mut T,
        goal: u64,
        want: u32,
        withheld: &impl Withheld,
    ) -> Result<(u64, u64)> {
        let want = (want as usize).clamp(1, BLOCKS_PER_GROUP as usize);
        let goal = if goal < self.geo.blocks_count {
            goal
        } else {
            0
        };
        let home = self.geo.group_of_block(goal);
        let mut best: Option<(u64, Range<usize>)> = None;
        let mut searched = 0u32;
        for step in 0..self.geo.group_count {
            let group = home
                .saturating_add(step)
                .checked_rem(self.geo.group_count)
                .unwrap_or(0);
            let summary = self.summary(group)?;
            if summary.free_blocks == 0 {
                continue;
            }
            let from = match step {
                0 => goal.saturating_sub(self.geo.group_first_block(group)) as usize,
                _ => 0,
            };
            let untouched = longest_untouched(self.geo, group);
            if summary.flags & BLOCK_UNINIT != 0 && untouched.len() < want {
                // Too short, and a bitmap is only made for blocks that are taken: the
                // credits of an allocation cover one.
                if best.as_ref().is_none_or(|(_, b)| b.len() < untouched.len()) {
                    best = Some((group, untouched));
                }
                continue;
            }
            let (block, buf) = self.open_block_bitmap(t, group)?;
            let bits = Bits {
                used: bits(&buf),
                withheld: withheld.bitmap(group),
            };
            match search(&bits, from, want) {
                Some(run) if run.good => {
                    return self.take(t, group, buf, run.bits);
                }
                Some(run) if best.as_ref().is_none_or(|(_, b)| b.len() < run.bits.len()) => {
                    best = Some((group, run.bits));
                }
                Some(_) => {}
                None if bits.withheld.is_none() => {
                    return Err(Error::Corrupt {
                        block,
                        what: "block bitmap: full, but its group counts free blocks",
                    });
                }
                None => {}
            }
            searched = searched.saturating_add(1);
            if searched >= MAX_SEARCHED && best.is_some() {
                break;
            }
        }
        let (group, run) = best.ok_or(Error::NoSpace)?;
        let (_, buf) = self.open_block_bitmap(t, group)?;
        self.take(t, group, buf, run)
    }

    fn take<T: Txn>(
        &mut self,
        t: &mut T,
        group: u64,
        mut buf: T::Buf,
        run: Range<usize>,
    ) -> Result<(u64, u64)> {
        let len = run.len() as u32;
        self.update(t, group, |summary| {
            summary.free_blocks = summary
                .free_blocks
                .checked_sub(len)
                .ok_or("group descriptor: fewer free blocks than its bitmap has")?;
            Ok(())
        })?;
        fill(bits_mut(t.modify(&mut buf)?), run.clone(), true);
        let start = self
            .geo
            .group_first_block(group)
            .saturating_add(run.start as u64);
        // A bitmap that has metadata or the space past the end as free is not to be followed.
        if !self.geo.is_data_range(start, len.into()) {
            return Err(Error::Corrupt {
                block: self.geo.block_bitmap_block(group),
                what: "block bitmap: metadata is free",
            });
        }
        Ok((start, len.into()))
    }

    /// Frees `len` blocks from `start`, in as many groups as they lie in. The host withholds
    /// them until the transaction has committed.
    ///
    /// # Errors
    ///
    /// `Corrupt`, naming the first block if the range is not data, or the bitmap if a block
    /// is free already; those of the transaction.
    pub fn free_blocks<T: Txn>(&mut self, t: &mut T, start: u64, len: u64) -> Result<()> {
        if !self.geo.is_data_range(start, len) {
            return Err(Error::Corrupt {
                block: start,
                what: "blocks to be freed are metadata or past the end",
            });
        }
        let (mut start, mut len) = (start, len);
        while len > 0 {
            let group = self.geo.group_of_block(start);
            let first = start.saturating_sub(self.geo.group_first_block(group));
            let count = len.min(BLOCKS_PER_GROUP.saturating_sub(first));
            let run = first as usize..first.saturating_add(count) as usize;
            let (block, mut buf) = self.used_block_bitmap(t, group)?;
            let in_use = Bits {
                used: bits(&buf),
                withheld: None,
            };
            if in_use.find(run.clone(), false) < run.end {
                return Err(Error::Corrupt {
                    block,
                    what: "block bitmap: a block is freed twice",
                });
            }
            fill(bits_mut(t.modify(&mut buf)?), run, false);
            drop(buf);
            self.update(t, group, |summary| {
                summary.free_blocks = summary.free_blocks.saturating_add(count as u32);
                Ok(())
            })?;
            start = start.saturating_add(count);
            len = len.saturating_sub(count);
        }
        Ok(())
    }

    fn used_block_bitmap<S: Blocks>(&self, s: &S, group: u64) -> Result<(u64, S::Buf)> {
        if self.summary(group)?.flags & BLOCK_UNINIT != 0 {
            return Err(Error::Corrupt {
                block: self.geo.descriptor_location(group).0,
                what: "group descriptor: blocks in use, but no bitmap",
            });
        }
        self.block_bitmap(s, group)
    }
}

/// The run to take in one group: at `from` if that is worth it, else the first one that is
/// long enough, from `from` on and then before it, else the longest.
fn search(bits: &Bits<'_>, from: usize, want: usize) -> Option<Run> {
    let end = BLOCKS_PER_GROUP as usize;
    let here = bits.clear_run(from..end, want);
    if let Some(run) = here.filter(|run| run.start == from && from > 0) {
        if run.len() >= want.min(MIN_CONTINUED) {
            return Some(Run {
                bits: run,
                good: true,
            });
        }
    }
    let mut longest: Option<Range<usize>> = None;
    for part in [from..end, 0..from] {
        let mut at = part.start;
        while let Some(run) = bits.clear_run(at..part.end, end) {
            if run.len() >= want {
                let aligned = run.start.next_multiple_of(HUGE);
                let start = match want >= HUGE && aligned.saturating_add(want) <= run.end {
                    true => aligned,
                    false => run.start,
                };
                return Some(Run {
                    bits: start..start.saturating_add(want),
                    good: true,
                });
            }
            at = run.end;
            if longest.as_ref().is_none_or(|l| l.len() < run.len()) {
                longest = Some(run);
            }
        }
    }
    longest.map(|bits| Run { bits, good: false })
}
