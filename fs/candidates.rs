// SPDX-License-Identifier: GPL-2.0

//! The rows that may be hits of a search: those that are not deleted and that its filter takes.
//!
//! What searches without a filter, or with one of tags alone, have found out is kept for others that come before the next
//! batch: looking at the tags of a million rows takes as long as some dozen searches.

use crate::container::{self, Container};
use crate::ioctl;
use crate::VexFs;
use kernel::prelude::*;
use kernel::sync::Arc;
use vexfs_uapi as uapi;
use vexfs_vfs::work::Stop;
use vexfs_vfs::{task, Inode};

/// The rows that may be hits.
pub(crate) struct Candidates {
    /// Rows from here on are not.
    pub(crate) rows: u64,
    /// If present, a row is one only if its bit is set.
    allowed: Option<Arc<Allowed>>,
    /// There is a filter, and the bitmap does not only leave deleted rows out.
    pub(crate) filtered: bool,
    /// How many rows had been deleted, since the container was loaded, when this was made.
    pub(crate) buried: u64,
}

impl Candidates {
    /// The rows below `rows`.
    pub(crate) fn new(rows: u64) -> Self {
        Candidates {
            rows,
            allowed: None,
            filtered: false,
            buried: 0,
        }
    }

    /// Those of the rows below `rows` that have a bit in `words`. `ENOMEM`.
    pub(crate) fn among(rows: u64, words: KVVec<u64>) -> Result<Self> {
        Ok(Candidates {
            allowed: Some(Allowed::new(rows, words)?),
            ..Candidates::new(rows)
        })
    }

    /// A bit for each row that is one; nothing if all are.
    pub(crate) fn bitmap(&self) -> Option<&[u64]> {
        self.allowed.as_ref().map(|allowed| &allowed.words[..])
    }

    /// How many there are below `end`, or a few more.
    pub(crate) fn count(&self, end: u64) -> u64 {
        let end = end.min(self.rows);
        match &self.allowed {
            None => end,
            Some(allowed) if end == self.rows => allowed.count,
            Some(allowed) => {
                let words = &allowed.words;
                count_ones(words.get(..end.div_ceil(64) as usize).unwrap_or(words))
            }
        }
    }

    #[inline]
    pub(crate) fn allows(&self, row: u64) -> bool {
        self.bitmap().is_none_or(|words| {
            words
                .get((row / 64) as usize)
                .is_some_and(|word| word >> (row % 64) & 1 != 0)
        })
    }

    /// Writes the next candidates from `row` on to `out`, as long as at most `most` of each 64 rows are candidates.
    /// Returns how many; none if all rows are, or more from `row` on.
    pub(crate) fn sparse(&self, row: u64, end: u64, most: u32, out: &mut [u64]) -> usize {
        let Some(words) = self.bitmap() else {
            return 0;
        };
        let mut len = 0;
        let mut first = row / 64;
        let mut mask = u64::MAX << (row % 64);
        while let Some(&word) = words.get(first as usize) {
            if first.saturating_mul(64) >= end || word.count_ones() > most {
                break;
            }
            let mut left = word & mask;
            while left != 0 {
                let row = first
                    .saturating_mul(64)
                    .saturating_add(u64::from(left.trailing_zeros()));
                match out.get_mut(len) {
                    Some(place) if row < end => *place = row,
                    _ => return len,
                }
                len += 1;
                left &= left - 1;
            }
            mask = u64::MAX;
            first += 1;
        }
        len
    }

    /// The first candidate from `row` on.
    pub(crate) fn next(&self, mut row: u64) -> Option<u64> {
        let Some(words) = self.bitmap() else {
            return (row < self.rows).then_some(row);
        };
        while row < self.rows {
            let word = words.get((row / 64) as usize)? >> (row % 64);
            if word != 0 {
                row = row.saturating_add(u64::from(word.trailing_zeros()));
                return (row < self.rows).then_some(row);
            }
            row = (row / 64).saturating_add(1).saturating_mul(64);
        }
        None
    }
}

/// A bit for each row that may be a hit, of those there were.
pub(crate) struct Allowed {
    words: KVVec<u64>,
    /// How many bits are set.
    count: u64,
}

impl Allowed {
    /// The bits of `words` for the rows below `rows`. `ENOMEM`.
    fn new(rows: u64, mut words: KVVec<u64>) -> Result<Arc<Self>> {
        words.truncate(usize::try_from(rows.div_ceil(64))?);
        if let (Some(last), rest @ 1..) = (words.last_mut(), rows % 64) {
            *last &= (1 << rest) - 1;
        }
        let count = count_ones(&words);
        Ok(Arc::new(Allowed { words, count }, GFP_KERNEL)?)
    }
}

fn count_ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Filters whose rows are kept.
const KEPT: usize = 4;

/// What searches have found out of a container in one state.
#[derive(Default)]
pub(crate) struct Recent {
    /// [`Container::state`] then.
    state: (u64, u64, u64),
    kept: KVec<(Tags, Arc<Allowed>)>,
    /// The next to go.
    oldest: usize,
}

impl Recent {
    fn get(&self, state: (u64, u64, u64), tags: Tags) -> Option<Arc<Allowed>> {
        let mut kept = self.kept.iter().filter(|_| self.state == state);
        Some(kept.find(|(of, _)| *of == tags)?.1.clone())
    }

    /// Keeps what was found out, if there is memory. What goes for that is freed when the result is.
    fn put(&mut self, state: (u64, u64, u64), tags: Tags, allowed: Arc<Allowed>) -> impl Sized {
        let mut outdated = KVec::new();
        if self.state != state {
            outdated = core::mem::take(&mut self.kept);
            self.state = state;
        }
        let mut gone = None;
        if self.kept.len() < KEPT {
            let _ = self.kept.push((tags, allowed), GFP_KERNEL);
        } else if let Some(place) = self.kept.get_mut(self.oldest) {
            gone = Some(core::mem::replace(place, (tags, allowed)));
            self.oldest = self.oldest.saturating_add(1) % KEPT;
        }
        (outdated, gone)
    }
}

/// What a filter asks of the tags of rows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tags {
    all: u64,
    any: Option<u64>,
}

impl Tags {
    fn are_all(&self) -> bool {
        *self == Tags { all: 0, any: None }
    }

    fn take(&self, tags: u64) -> bool {
        tags & self.all == self.all && self.any.is_none_or(|any| tags & any != 0)
    }

    /// A bit for each of the first 64 rows that have these tags, or none where there are fewer.
    fn among(&self, tags: &[u64]) -> u64 {
        let bit = |row| u64::from(self.take(tags.get(row).copied().unwrap_or(0))) << row;
        (0..64).map(bit).fold(0, |word, bit| word | bit)
    }
}

/// The rows that may be hits, as of now: a search sees every insert acknowledged before it
/// and no row deleted before it. A `Reading` has begun.
///
/// # Errors
///
/// `EINVAL`, `E2BIG`, `EFAULT` for a bad filter; `EINTR`, `ENOMEM`, and what reading says.
pub(crate) fn of_search(
    inode: &Inode<VexFs>,
    s: &uapi::vexfs_search,
    stop: &Stop,
) -> Result<Candidates> {
    let has = |bit: u32| s.flags & bit != 0;
    let tags = Tags {
        all: if has(uapi::VEXFS_SEARCH_TAGS_ALL) {
            s.tags_all
        } else {
            0
        },
        any: has(uapi::VEXFS_SEARCH_TAGS_ANY).then_some(s.tags_any),
    };
    if has(uapi::VEXFS_SEARCH_ROW_BITMAP | uapi::VEXFS_SEARCH_KEYS) {
        let bitmap = read_bitmap(inode, s)?;
        let keys = read_keys(s)?;
        return Ok(filtered(inode, Filter { keys, tags }, bitmap, stop)?.0);
    }
    let known = container::with(inode, |c| {
        let (rows, buried, state) = (c.area.rows, c.buried, c.state());
        let found = |allowed| Candidates {
            rows,
            allowed,
            filtered: !tags.are_all(),
            buried,
        };
        if tags.are_all() && c.deleted() == 0 {
            return Ok(Some(found(None)));
        }
        let recent = c.recent.get(state, tags);
        Ok(recent.map(|allowed| found(Some(allowed))))
    })?;
    if let Some(known) = known {
        return Ok(known);
    }
    let (candidates, state) = filtered(inode, Filter { keys: None, tags }, None, stop)?;
    if let Some(allowed) = candidates.allowed.clone() {
        // Freed without the lock.
        let _gone = container::with(inode, |c| Ok(c.recent.put(state, tags, allowed)))?;
    }
    Ok(candidates)
}

fn read_bitmap(inode: &Inode<VexFs>, s: &uapi::vexfs_search) -> Result<Option<KVVec<u64>>> {
    if s.flags & uapi::VEXFS_SEARCH_ROW_BITMAP == 0 {
        return Ok(None);
    }
    let rows = container::with(inode, |c| Ok(c.area.rows))?;
    let rows = s.row_bitmap_rows.min(rows);
    let mut words = ioctl::read_u64s(s.row_bitmap, rows.div_ceil(64))?;
    if let (Some(last), rest @ 1..) = (words.last_mut(), rows % 64) {
        *last &= (1 << rest) - 1;
    }
    Ok(Some(words))
}

fn read_keys(s: &uapi::vexfs_search) -> Result<Option<KVVec<u64>>> {
    if s.flags & uapi::VEXFS_SEARCH_KEYS == 0 {
        return Ok(None);
    }
    if s.filter_key_count == 0 {
        return Err(EINVAL);
    }
    if s.filter_key_count > u64::from(uapi::VEXFS_MAX_FILTER_KEYS) {
        return Err(E2BIG);
    }
    let mut keys = ioctl::read_u64s(s.filter_keys, s.filter_key_count)?;
    // Neighbours are near each other in the map, too.
    keys.sort_unstable();
    Ok(Some(keys))
}

/// The live rows that a filter takes and that have a bit in `bitmap`, and of which state of the container that is true.
fn filtered(
    inode: &Inode<VexFs>,
    filter: Filter,
    bitmap: Option<KVVec<u64>>,
    stop: &Stop,
) -> Result<(Candidates, (u64, u64, u64))> {
    let filtered = bitmap.is_some() || filter.keys.is_some() || !filter.tags.are_all();
    let mut named = Named::by(inode, filter, stop)?;
    let (rows, buried, state) = container::with(inode, |c| {
        named.follow(c)?;
        for (index, word) in named.rows.iter_mut().enumerate() {
            if let Some(bitmap) = &bitmap {
                *word &= bitmap.get(index).copied().unwrap_or(0);
            }
            *word &= !c.tombstones.get(index).copied().unwrap_or(0);
        }
        Ok((c.area.rows, c.buried, c.state()))
    })?;
    let candidates = Candidates {
        filtered,
        buried,
        ..Candidates::among(rows, named.rows)?
    };
    Ok((candidates, state))
}

/// Keys that are looked up while the container is locked.
const KEYS_AT_ONCE: usize = 256;
/// Words of 64 rows whose tags are looked at while it is.
const TAGGED_AT_ONCE: usize = 1024;

/// What a filter asks of the keys and tags of rows.
struct Filter {
    /// In order.
    keys: Option<KVVec<u64>>,
    tags: Tags,
}

impl Filter {
    fn takes(&self, c: &Container, row: u64) -> bool {
        let is_named = |keys: &KVVec<u64>| keys.binary_search(&c.key_of(row)).is_ok();
        self.tags.take(c.tags_of(row)) && self.keys.as_ref().is_none_or(is_named)
    }
}

/// The rows that a filter takes, some of them deleted.
struct Named {
    filter: Filter,
    /// A bit for each row.
    rows: KVVec<u64>,
    /// How many rows there were at first.
    end: u64,
    /// The last batch then.
    batch: u64,
}

impl Named {
    /// Looks the rows up, some at a time: others use the container meanwhile. A `Reading` has begun.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, what `stop` says, and what reading says.
    fn by(inode: &Inode<VexFs>, filter: Filter, stop: &Stop) -> Result<Self> {
        let (end, batch) = container::with(inode, |c| Ok((c.area.rows, c.area.batch_done)))?;
        let words = usize::try_from(end.div_ceil(64))?;
        let before = if filter.keys.is_some() { 0 } else { u64::MAX };
        let mut rows = KVVec::from_elem(before, words, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        for keys in filter
            .keys
            .iter()
            .flat_map(|keys| keys.chunks(KEYS_AT_ONCE))
        {
            stop.check()?;
            task::cond_resched();
            container::with(inode, |c| {
                for key in keys {
                    if let Some(row) = c.find(inode.sb(), *key)? {
                        set_bit(&mut rows, row, true);
                    }
                }
                Ok(())
            })?;
        }
        if !filter.tags.are_all() {
            let mut first = 0;
            for words in rows.chunks_mut(TAGGED_AT_ONCE) {
                stop.check()?;
                task::cond_resched();
                container::with(inode, |c| {
                    for word in words {
                        let tags = c.tags.get(first..).unwrap_or(&[]);
                        first = first.saturating_add(64);
                        *word &= filter.tags.among(tags);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(Named {
            filter,
            rows,
            end,
            batch,
        })
    }

    /// Adds what came since. `ENOMEM`.
    fn follow(&mut self, c: &Container) -> Result {
        let words = usize::try_from(c.area.rows.div_ceil(64))?;
        self.rows
            .resize(words, 0, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        // A row keeps its key and tags, so only rows that came meanwhile are missing: behind the last one then, or in
        // the place of deleted ones.
        let Named { filter, rows, .. } = self;
        let mut look = |row| set_bit(rows, row, filter.takes(c, row));
        (self.end..c.area.rows).for_each(&mut look);
        if c.has_births() && c.area.batch_done != self.batch {
            let came = |row: &u64| c.born(*row) > self.batch;
            (0..self.end).filter(came).for_each(look);
        }
        Ok(())
    }
}

fn set_bit(words: &mut [u64], row: u64, to: bool) {
    if let Some(word) = words.get_mut((row / 64) as usize) {
        *word = *word & !(1 << (row % 64)) | u64::from(to) << (row % 64);
    }
}
