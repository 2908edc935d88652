// SPDX-License-Identifier: GPL-2.0

//! Indexes that are in memory for searches, and giving their memory back.
//!
//! An index whose image on disk says as much can be dropped while nobody uses it: the next search loads it again, as
//! the first one after a mount does. That is done when another index needs the room under `index_memory=`, and when
//! the kernel is short of memory. The one whose last search is longest ago goes first.
//!
//! Locks: the list of homes, then a home. Nothing is allocated, and nothing waited for, with either; memory reclaim,
//! which may have interrupted somebody who holds any other lock, only tries them.

use super::budget::Budget;
use super::Index;
use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::lock::{mutex::MutexBackend, Guard};
use kernel::sync::{new_mutex, Arc, Mutex};
use vexfs_vfs::task;

/// Homes that there is room for at first.
const FEW: usize = 8;
/// Bytes of a page, as reclaim counts.
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// Where an index is as long as it is in memory.
#[pin_data]
struct Home {
    #[pin]
    state: Mutex<State>,
}

struct State {
    index: Option<Arc<Index>>,
    users: u32,
    /// When the last search began, in nanoseconds of the monotonic clock.
    searched: u64,
}

impl State {
    /// The index, if it can be dropped.
    fn idle(&self) -> Option<&Arc<Index>> {
        let index = self.index.as_ref();
        index.filter(|index| self.users == 0 && index.is_stored())
    }
}

/// Whether to wait for a lock.
#[derive(Clone, Copy)]
enum How {
    Wait,
    Try,
}

fn lock<T>(mutex: &Mutex<T>, how: How) -> Option<Guard<'_, T, MutexBackend>> {
    match how {
        How::Wait => Some(mutex.lock()),
        How::Try => mutex.try_lock(),
    }
}

/// The index of a slot: in memory until this goes, or until it is dropped for its memory.
pub(super) struct Ready(Arc<Home>);

impl Ready {
    /// Puts `index` where searches and reclaim find it. `ENOMEM`.
    pub(super) fn new(budget: &Budget, index: Arc<Index>) -> Result<Self> {
        let state = State {
            index: Some(index),
            users: 0,
            searched: task::monotonic_ns(),
        };
        let home = Arc::pin_init(
            pin_init!(Home { state <- new_mutex!(state, "vexfs_home") }),
            GFP_KERNEL,
        )?;
        budget.residents.add(&home)?;
        Ok(Ready(home))
    }

    /// The index, if it is in memory; it stays there for as long as the result is kept.
    pub(super) fn get(&self) -> Option<Used> {
        let mut state = self.0.state.lock();
        let index = state.index.clone()?;
        state.users = state.users.saturating_add(1);
        Some(Used {
            home: self.0.clone(),
            index,
        })
    }

    /// Whether it is in memory.
    pub(super) fn is_there(&self) -> bool {
        self.0.state.lock().index.is_some()
    }

    /// Whether it is the same.
    pub(super) fn is(&self, used: &Used) -> bool {
        Arc::ptr_eq(&self.0, &used.home)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // Freed without the lock.
        let _index = self.0.state.lock().index.take();
    }
}

/// An index in use, which is not dropped meanwhile.
pub(crate) struct Used {
    home: Arc<Home>,
    index: Arc<Index>,
}

impl Used {
    /// Notes that it is used for a search now.
    pub(super) fn searched(self) -> Self {
        self.home.state.lock().searched = task::monotonic_ns();
        self
    }
}

impl Deref for Used {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut state = self.home.state.lock();
        state.users = state.users.saturating_sub(1);
    }
}

/// The indexes of a volume that are in memory.
#[pin_data]
pub(super) struct Residents {
    /// Homes; those whose slot is gone are empty.
    #[pin]
    homes: Mutex<KVec<Arc<Home>>>,
    /// Pages that reclaim has asked for and did not get yet.
    asked: AtomicU64,
}

impl Residents {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Residents {
            homes <- new_mutex!(KVec::new(), "vexfs_homes"),
            asked: AtomicU64::new(0),
        })
    }

    fn add(&self, home: &Arc<Home>) -> Result {
        loop {
            let mut homes = self.homes.lock();
            homes.retain(|home| home.state.lock().index.is_some());
            let Err(full) = homes.push_within_capacity(home.clone()) else {
                return Ok(());
            };
            let more = homes.capacity().saturating_mul(2).max(FEW);
            drop(homes);
            drop(full);
            let mut wider = KVec::with_capacity(more, GFP_KERNEL)?;
            let mut homes = self.homes.lock();
            if homes.len() < wider.capacity() {
                while let Some(home) = homes.pop() {
                    // There is room, as just seen.
                    let _ = wider.push_within_capacity(home);
                }
                core::mem::swap(&mut *homes, &mut wider);
            }
        }
    }

    /// Bytes that dropping all that can be dropped would give back.
    pub(super) fn droppable(&self) -> u64 {
        self.sum(How::Wait, |state| {
            let held = |index: &Arc<Index>| index.structure.account().held();
            state.idle().map_or(0, held)
        })
    }

    fn sum(&self, how: How, bytes: impl Fn(&State) -> u64) -> u64 {
        let Some(homes) = lock(&self.homes, how) else {
            return 0;
        };
        let all = homes.iter().filter_map(|home| lock(&home.state, how));
        all.map(|state| bytes(&state)).fold(0, u64::saturating_add)
    }

    /// Drops the index whose last search is longest ago among those that can be dropped. Says how many bytes
    /// that gave back; `None` if there is none.
    pub(super) fn drop_oldest(&self) -> Option<u64> {
        self.take_oldest(How::Wait, u64::MAX)
    }

    /// As [`Residents::drop_oldest`], unless it has more than `most` bytes.
    fn take_oldest(&self, how: How, most: u64) -> Option<u64> {
        let homes = lock(&self.homes, how)?;
        let searched = |home: &&Arc<Home>| {
            let state = lock(&home.state, how)?;
            state.idle().map(|_| state.searched)
        };
        let all = homes
            .iter()
            .filter_map(|home| Some((searched(&home)?, home)));
        let (_, home) = all.min_by_key(|(searched, _)| *searched)?;
        let home = home.clone();
        drop(homes);
        let mut state = lock(&home.state, how)?;
        let bytes = state.idle()?.charged();
        if bytes > most {
            return None;
        }
        let index = state.index.take();
        drop(state);
        // The last reference, as it was not in use. All that this does is to free memory.
        drop(index);
        Some(bytes)
    }

    /// Pages that [`Residents::reclaim`] could free, about. Waits for nothing.
    pub(super) fn reclaimable(&self) -> u64 {
        self.sum(How::Try, |state| match (state.idle(), &state.index) {
            (Some(index), _) => index.charged(),
            (None, Some(index)) => index.structure.scratch().idle_bytes(),
            (None, None) => 0,
        }) / PAGE
    }

    /// Frees memory, `pages` pages more than before, as memory reclaim wants it: waits for nothing and
    /// allocates nothing. Returns how many pages it freed. An index goes when as many pages were asked for as it
    /// has, so that large ones do not go for the sake of a few.
    pub(super) fn reclaim(&self, pages: u64) -> u64 {
        let mut freed = self.drop_scratch();
        let before = self.asked.fetch_add(pages, Ordering::Relaxed);
        let asked = before.saturating_add(pages).saturating_mul(PAGE);
        let mut gone = 0;
        while let Some(bytes) = self.take_oldest(How::Try, asked.saturating_sub(gone)) {
            gone = gone.saturating_add(bytes.max(1));
        }
        let left = self.asked.load(Ordering::Relaxed);
        let left = left.saturating_sub(gone / PAGE).min(self.reclaimable());
        self.asked.store(left, Ordering::Relaxed);
        freed = freed.saturating_add(gone);
        freed / PAGE
    }

    /// Frees scratch memory that nobody uses. Returns the bytes.
    fn drop_scratch(&self) -> u64 {
        let Some(homes) = self.homes.try_lock() else {
            return 0;
        };
        let mut freed = 0u64;
        for home in homes.iter() {
            if let Some(state) = home.state.try_lock() {
                if let Some(index) = &state.index {
                    freed = freed.saturating_add(index.structure.scratch().drop_idle());
                }
            }
        }
        freed
    }
}
