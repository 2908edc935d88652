// SPDX-License-Identifier: GPL-2.0

//! The places of a container's indexes.

use super::build::Going;
use super::resident::{Ready, Used};
use super::{Index, Kind};
use crate::container::Hidden;
use kernel::prelude::*;
use kernel::sync::Arc;
use libvexfs::format::index::IndexRecord;
use vexfs_vfs::task;
use vexfs_vfs::work::Stop;

/// How long nothing is built by itself where there was no memory for it, in nanoseconds: a second after the first time,
/// twice as long after each further one, and 17 minutes at most.
const FIRST_PAUSE_NS: u64 = 1_000_000_000;
const LONGEST_PAUSE_NS: u64 = 1024 * FIRST_PAUSE_NS;

/// The indexes of a container, one of each kind at most.
#[derive(Default)]
pub(crate) struct Indexes {
    /// The hidden inode with their records, once there is one.
    pub(crate) tree: Option<Hidden>,
    slots: [Slot; Kind::ALL.len()],
}

/// The place of an index of one kind.
#[derive(Default)]
pub(super) struct Slot {
    /// What searches use, if it is in memory.
    pub(super) ready: Option<Ready>,
    /// Who builds or loads, and what ends that. Only one does so for a slot.
    pub(super) claim: Option<Arc<Stop>>,
    /// Nobody has asked for that, and a user's build takes its place.
    pub(super) gives_way: bool,
    /// What is being built. Deletes and overwritten rows are told to it too.
    pub(super) building: Option<Arc<Index>>,
    /// How many rows it will have.
    pub(super) target: u64,
    /// It is ready, and being saved.
    pub(super) saving: bool,
    /// The build, if it goes on in the background.
    pub(super) job: Option<Going>,
    /// Why the last build in the background failed.
    pub(super) error: Option<Error>,
    /// When to build by itself what there was no memory for.
    pub(super) retry: Retry,
    /// What is on disk.
    pub(super) record: Option<IndexRecord>,
    /// What is on disk can't be used.
    pub(super) unusable: bool,
    /// There was no memory to load it: when to try again, in nanoseconds of the monotonic clock.
    pub(super) load_at: u64,
}

/// A time in nanoseconds of the monotonic clock, and how long that was from the last try.
#[derive(Clone, Copy, Default)]
pub(super) struct Retry {
    at: u64,
    pause: u64,
}

impl Slot {
    /// What searches use, if it is in memory.
    pub(super) fn ready(&self) -> Option<Used> {
        self.ready.as_ref()?.get()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.as_ref().is_some_and(Ready::is_there)
    }

    /// What a search can load.
    pub(super) fn stored(&self) -> Option<IndexRecord> {
        let record = self.record.filter(|record| record.image_ino != 0);
        record.filter(|_| !self.unusable)
    }

    /// Notes how a build in the background has ended.
    pub(super) fn ended(&mut self, built: Result) {
        self.error = built.err();
        self.retry = match built {
            Err(ENOMEM) => {
                let pause = self.retry.pause.saturating_mul(2);
                let pause = pause.clamp(FIRST_PAUSE_NS, LONGEST_PAUSE_NS);
                Retry {
                    at: task::monotonic_ns().saturating_add(pause),
                    pause,
                }
            }
            _ => Retry::default(),
        };
    }

    /// Forgets how builds have ended: another one begins. Failures by itself go on to count.
    pub(super) fn begun(&mut self, by_itself: bool) {
        self.error = None;
        if !by_itself {
            self.retry = Retry::default();
        }
    }

    /// Whether what is lacking here may be built by itself: of what has failed, only memory may be there later.
    pub(super) fn may_build(&self) -> bool {
        let due = match self.error {
            None => true,
            Some(e) => e == ENOMEM && task::monotonic_ns() >= self.retry.at,
        };
        due && self.claim.is_none()
    }

    /// What is in memory: for searches, and being built.
    pub(super) fn in_memory(&self) -> (Option<Used>, Option<Arc<Index>>) {
        (self.ready(), self.building.clone())
    }
}

impl Indexes {
    pub(super) fn slot(&mut self, kind: Kind) -> &mut Slot {
        let [hnsw, ivf, pq, lsh] = &mut self.slots;
        match kind {
            Kind::Hnsw => hnsw,
            Kind::Ivf => ivf,
            Kind::Pq => pq,
            Kind::Lsh => lsh,
        }
    }

    /// How many there are for searches.
    pub(crate) fn count(&self) -> u32 {
        let ready = |slot: &Slot| u32::from(slot.is_ready());
        self.slots.iter().map(ready).fold(0, u32::saturating_add)
    }
}
