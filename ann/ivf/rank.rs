// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which lists are near: by their codes, or by the distances to all their centroids.

use super::scan::{Probe, Scan};
use super::store::{Numeric, Store, BATCH};
use super::{Error, Index, Workspace};
use crate::reservoir::{candidate, number_of, Reservoir};

/// Lists ranked by their codes beyond those asked for, some of which will turn out to be farther.
pub(super) const SPARE_LISTS: usize = 24;

impl<S: Store> Index<S> {
    /// Writes the nearest lists to `work.lists`, in order; says how many, which is none if ranking all of them
    /// is no more work.
    pub(super) fn rank_near<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        probes: usize,
    ) -> Result<usize, Error<N::Error>> {
        let nlist = self.params.nlist as usize;
        let wanted = (probes.saturating_mul(5) / 4).saturating_add(SPARE_LISTS);
        if !self.params.lists_have_codes() || wanted.saturating_mul(3) > nlist {
            return Ok(0);
        }
        let mut probe = Probe {
            list: self.params.nlist,
            ..Probe::default()
        };
        numeric.centres(
            &[probe.list],
            core::slice::from_mut(&mut probe.near),
            core::slice::from_mut(&mut probe.rank),
        )?;
        let mut into = Reservoir::new(work.lists, wanted);
        let mut scan = Scan::new(work.lower, work.hits);
        self.collect(&mut scan, probe, |scan| {
            scan.flush(self, numeric, &mut |_| true, &mut into)
        })?;
        scan.flush(self, numeric, &mut |_| true, &mut into)?;
        let lists = into.into_sorted();
        self.rank(lists, work.near, numeric)?;
        lists.sort_unstable();
        Ok(lists.len())
    }

    /// Ranks all lists but the first `from` of `work.lists`, behind those.
    pub(super) fn rank_others<N: Numeric>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        from: usize,
    ) -> Result<(), Error<N::Error>> {
        let nlist = self.params.nlist as usize;
        let near = work.near.get_mut(..nlist).ok_or(Error::Workspace)?;
        let lists = work.lists.get_mut(..nlist).ok_or(Error::Workspace)?;
        near.fill(0);
        let (done, others) = lists.split_at_mut_checked(from).ok_or(Error::Workspace)?;
        for &list in done.iter() {
            if let Some(near) = near.get_mut(number_of(list) as usize) {
                *near = u32::MAX;
            }
        }
        let left = (0u32..).zip(near.iter()).filter(|(_, near)| **near == 0);
        for (place, (list, _)) in others.iter_mut().zip(left) {
            *place = candidate(0, list);
        }
        self.rank(others, work.near, numeric)?;
        others.sort_unstable();
        Ok(())
    }

    /// Replaces the distances of lists by exact ones, and writes those by L2 to `near`.
    fn rank<N: Numeric>(
        &self,
        lists: &mut [u64],
        near: &mut [u32],
        numeric: &mut N,
    ) -> Result<(), Error<N::Error>> {
        for batch in lists.chunks_mut(BATCH) {
            let (mut numbers, mut nears, mut ranks) = ([0; BATCH], [0; BATCH], [0; BATCH]);
            let n = batch.len();
            for (number, list) in numbers.iter_mut().zip(batch.iter()) {
                *number = number_of(*list);
            }
            if let (Some(numbers), Some(nears), Some(ranks)) =
                (numbers.get(..n), nears.get_mut(..n), ranks.get_mut(..n))
            {
                numeric.centres(numbers, nears, ranks)?;
                for ((list, number), (key, rank)) in batch
                    .iter_mut()
                    .zip(numbers)
                    .zip(nears.iter().zip(ranks.iter()))
                {
                    *list = candidate(*rank, *number);
                    if let Some(place) = near.get_mut(*number as usize) {
                        *place = *key;
                    }
                }
            }
        }
        Ok(())
    }
}
