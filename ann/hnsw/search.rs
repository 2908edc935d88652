// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Searching (the paper's algorithm 5): a walk over codes, then exact distances of the nearest.

use core::sync::atomic::Ordering;

use super::beam::{End, Spent};
use super::head::Entry;
use super::node::{Anchor, State, NOWHERE};
use super::params::MAX_EF;
use super::pool::{distance_of, slot_of, Pool, Visited};
use super::store::{Numeric, Store, Workspace, BATCH};
use super::{Error, Index};
use crate::topk::{Hit, TopK};
use crate::visible::Visible;

/// An exact distance, if there is no filter: rows may be longer than what the costs were measured with, and who asks an
/// index of few rows for many candidates wants it walked.
const UNFILTERED_COST: u64 = 4;

/// So many nodes are asked whether they pass a filter in the time of an estimated distance: their rows come from memory.
const CHECKS: u64 = 3;

/// Candidates that get an exact distance at once, after the first `k`: enough for their rows to be fetched
/// beside each other.
const RERANK_STEP: usize = 4;

/// Candidates that show how far estimates are off, at least.
const LEAST_SAMPLE: usize = 16;

/// The most candidates that a walk keeps beyond `ef`.
const MAX_CANDIDATES: u64 = 2048;

/// A walk without a filter keeps so many times `ef` candidates where that many are within reach.
const CROWDED: u64 = 8;

/// What to look for, besides the vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Candidates kept during the walk: at least `k`, at most
    /// [`MAX_EF`]. More gives more recall and takes longer. Without a filter more are kept where rows are crowded:
    /// those that are no farther than the `ef`th is on average, beyond the `k`th.
    pub ef: u32,
    /// Candidates that get an exact distance, at least `k`; more as long as fewer than `k`
    /// of them turn out visible, fewer if estimates are so good that the others cannot be expected to be
    /// nearer.
    pub rerank: u32,
    /// How many rows the filter allows, at a guess, or `None` without a filter.
    pub allowed: Option<u64>,
}

/// The least `ef` by default; more for a greater `k`.
const DEFAULT_EF: u32 = 64;

impl Query {
    /// `ef` by default.
    pub fn default_ef(k: u32) -> u32 {
        k.saturating_mul(2).clamp(DEFAULT_EF, MAX_EF)
    }

    /// `rerank` by default, for codes of `bits` bits an element. It grows with `ef`: where codes cannot tell near rows apart,
    /// more candidates alone find no more. Those of one bit hardly can, and all candidates are worth a look.
    pub fn default_rerank(k: u32, ef: u32, bits: u32) -> u32 {
        let few = if bits == 1 { ef } else { ef / 2 };
        few.max(k.saturating_mul(2).min(MAX_EF))
    }
}

/// How a search proceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plan {
    /// Walks, and takes those that pass the filter from what it finds.
    #[default]
    Walk,
    /// Walks over nodes that pass the filter and the neighbours of those that do not (ACORN-1,
    /// arXiv 2403.04871).
    TwoHop,
    /// Computes the distance of every row that passes the filter.
    Exact,
}

/// What a search did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// How it proceeded in the end.
    pub plan: Plan,
    /// Whether it was stopped. The hits are rows of the container at their distances, but nearer
    /// ones may be missing.
    pub partial: bool,
    /// Estimated distances computed.
    pub distances: u64,
    /// Exact distances computed.
    pub exact: u64,
    /// Nodes expanded.
    pub hops: u64,
}

impl<S: Store> Index<S> {
    /// Decides how to search for `k` results among the rows of the index, some of which the filter allows.
    ///
    /// In units of estimated distances, of which one takes some 45 ns with all that belongs to it; as long as an exact
    /// distance to a row of 512 bytes that comes from memory, half of one of 1536. A walk that ignores the filter keeps
    /// as many candidates more as rows fail, and visits some `m` new nodes for each of them, half as many if there are
    /// many. A walk in two hops asks at each node until it has found as many neighbours as without a filter; where there
    /// are not as many among all neighbours of neighbours, it would lose its way.
    pub fn plan(&self, query: &Query, k: usize) -> Plan {
        let n = u64::from(self.counts().live);
        let allowed = query.allowed.unwrap_or(n).min(n);
        let (ef, m) = (u64::from(query.ef), u64::from(self.params.m));
        if allowed <= k as u64 {
            return Plan::Exact;
        }
        let scan = match query.allowed {
            Some(_) => allowed,
            None => allowed.saturating_mul(UNFILTERED_COST),
        };
        let wide = self.widened(query);
        let walk = if wide > MAX_CANDIDATES.max(ef) {
            u64::MAX
        } else {
            wide.saturating_add(ef).saturating_mul(m / 2)
        };
        let m0 = 2 * m;
        let one_in = n / allowed;
        let two_hop = if one_in > m0 {
            u64::MAX
        } else {
            ef.saturating_mul(m0.saturating_mul(one_in) / CHECKS + m)
        };
        if scan <= walk.min(two_hop) {
            Plan::Exact
        } else if walk <= two_hop {
            Plan::Walk
        } else {
            Plan::TwoHop
        }
    }

    /// Candidates of which `ef` pass the filter.
    fn widened(&self, query: &Query) -> u64 {
        let n = u64::from(self.counts().live);
        let ef = u64::from(query.ef);
        let allowed = query
            .allowed
            .map_or(n, |allowed| allowed.clamp(1, n.max(1)));
        ef.saturating_mul(n).checked_div(allowed).unwrap_or(ef)
    }

    /// How long `work.candidates` should be for a search.
    pub fn candidates(&self, query: &Query) -> usize {
        let ef = u64::from(query.ef);
        let wide = match query.allowed {
            Some(_) => self.widened(query),
            None if self.head.spread.is_known() => ef.saturating_mul(CROWDED),
            None => ef,
        };
        wide.min(MAX_CANDIDATES).max(ef) as usize
    }

    /// Offers the nearest rows to the query of `numeric` to `top`, whose capacity is `k`.
    ///
    /// If `k` visible rows are in the index, as many are found, by an exact scan if the walk does not
    /// find them.
    ///
    /// Context: takes no lock. `work.candidates` is at least `ef` long; what is beyond serves walks with a
    /// filter, see [`Index::candidates`].
    ///
    /// # Errors
    ///
    /// What arithmetic or the filter say; `top` holds what was found until then.
    pub fn search<E, N, V>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        visible: &mut V,
        query: &Query,
        top: &mut TopK<'_>,
    ) -> Result<Found, Error<E>>
    where
        N: Numeric<Error = E>,
        V: Visible<Error = E>,
    {
        let ef = query.ef as usize;
        if ef == 0 || query.ef > MAX_EF || work.candidates.len() < ef {
            return Err(Error::Workspace);
        }
        let mut found = Found {
            plan: self.plan(query, top.k()),
            ..Found::default()
        };
        top.clear();
        let _inside = self.head.gate.enter();
        let Some(entry) = self.head.entry().filter(|_| top.k() > 0) else {
            return Ok(found);
        };
        if found.plan != Plan::Exact {
            self.walk(work, numeric, visible, query, entry, top, &mut found)?;
            if top.is_full() || found.partial {
                return Ok(found);
            }
            found.plan = Plan::Exact;
            top.clear();
        }
        self.scan(numeric, visible, top, &mut found)?;
        Ok(found)
    }

    /// Searches the graph.
    #[allow(clippy::too_many_arguments)]
    fn walk<E, N, V>(
        &self,
        work: &mut Workspace<'_>,
        numeric: &mut N,
        visible: &mut V,
        query: &Query,
        entry: Entry,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<E>>
    where
        N: Numeric<Error = E>,
        V: Visible<Error = E>,
    {
        let mut spent = Spent::default();
        let mut at = (self.score_one(numeric, entry.slot)?, entry.slot);
        for level in (1..=entry.level).rev() {
            self.descend(numeric, level, &mut at, &mut spent)?;
        }
        // With a filter as many candidates shall pass it as without one.
        let ef = match found.plan {
            Plan::Walk => work.candidates.len().min(self.candidates(query)),
            _ => query.ef as usize,
        };
        // Where many fail the filter, distances of candidates say little about those of results.
        let reach = match (found.plan, query.allowed) {
            (Plan::Walk, None) => {
                let k = u32::try_from(top.k()).unwrap_or(u32::MAX);
                self.head.spread.between(k, query.ef)
            }
            _ => None,
        };
        let candidates = work.candidates.get_mut(..ef).ok_or(Error::Workspace)?;
        let mut visited = Visited::new(work.visited, work.touched, false);
        let mut pool = Pool::new(candidates);
        if let Some(reach) = reach {
            pool = pool.within(query.ef as usize, top.k(), reach);
        }
        self.seed(numeric, entry, at, &mut pool, &mut visited)?;
        let end = if found.plan == Plan::TwoHop {
            self.two_hop(numeric, visible, &mut pool, &mut visited, &mut spent)
        } else {
            let stop = |distances| visible.stop(distances);
            self.beam(numeric, 0, &mut pool, &mut visited, &mut spent, stop)
        };
        visited.clear();
        found.partial = end? == End::Stopped;
        found.distances = spent.distances;
        found.hops = spent.hops;
        self.rerank(numeric, visible, query, pool.into_entries(), top, found)
    }

    /// Computes exact distances of the nearest candidates that are visible.
    fn rerank<E, N, V>(
        &self,
        numeric: &mut N,
        visible: &mut V,
        query: &Query,
        candidates: &[u64],
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<E>>
    where
        N: Numeric<Error = E>,
        V: Visible<Error = E>,
    {
        let mut rows = Rows::new();
        let mut left = (query.rerank as usize).max(top.k());
        // The first ones show how far estimates are off, the others come a few at a time.
        let mut at_once = top.k().max(LEAST_SAMPLE);
        let mut excess = Excess::default();
        let mut candidates = candidates.iter();
        while left > 0 || !top.is_full() {
            rows.clear();
            for &candidate in candidates.by_ref() {
                let Some(node) = self.store.node(slot_of(candidate)) else {
                    continue;
                };
                let Some(header) = self.layout.header(node) else {
                    continue;
                };
                let anchor = Anchor(header.anchor.load(Ordering::Acquire));
                let row = header.row();
                if anchor.state() != State::Live || !visible.allows(row) {
                    continue;
                }
                let estimate = distance_of(candidate);
                if top.is_full() && excess.excludes(estimate, top.bound()) {
                    left = 0;
                    break;
                }
                left = left.saturating_sub(1);
                if !rows.push(row, estimate) || left == 0 || rows.len >= at_once {
                    break;
                }
            }
            if rows.as_slice().is_empty() {
                break;
            }
            rows.score(numeric, visible, top, found, &mut excess)?;
            at_once = RERANK_STEP;
        }
        Ok(())
    }

    /// Computes exact distances of all rows in the index that pass the filter.
    fn scan<E, N, V>(
        &self,
        numeric: &mut N,
        visible: &mut V,
        top: &mut TopK<'_>,
        found: &mut Found,
    ) -> Result<(), Error<E>>
    where
        N: Numeric<Error = E>,
        V: Visible<Error = E>,
    {
        let end = self.head.row_end.load(Ordering::Acquire);
        let mut rows = Rows::new();
        let mut from = 0;
        loop {
            rows.clear();
            while let Some(row) = visible.next_allowed(from..end) {
                from = row.saturating_add(1);
                let place = self.store.place(row);
                if place.is_none_or(|p| p.load(Ordering::Acquire) == NOWHERE) {
                    continue;
                }
                if !rows.push(row, 0) {
                    break;
                }
            }
            if rows.as_slice().is_empty() {
                return Ok(());
            }
            rows.score(numeric, visible, top, found, &mut Excess::default())?;
            if visible.stop(found.distances.saturating_add(found.exact)) {
                found.partial = true;
                return Ok(());
            }
        }
    }
}

/// How far the distances of rows were from what they seemed, at most. Those that seem nearest seem nearer than
/// they are more often than not; the others are as likely to be nearer than they seem.
///
/// A row that is not among the `k` nearest by its estimate, less this, is not likely to be among them, nor
/// those that seem farther. Keys of distances are nearly logarithms, so this is a ratio rather than a difference.
#[derive(Default)]
struct Excess(u32);

impl Excess {
    fn learn(&mut self, estimate: u32, exact: u32) {
        self.0 = self.0.max(estimate.abs_diff(exact));
    }

    fn excludes(&self, estimate: u32, bound: u32) -> bool {
        estimate.saturating_sub(self.0) > bound
    }
}

/// Rows to be scored in one call.
struct Rows {
    rows: [u64; BATCH],
    estimates: [u32; BATCH],
    len: usize,
}

impl Rows {
    const fn new() -> Self {
        Rows {
            rows: [0; BATCH],
            estimates: [0; BATCH],
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a row with its estimated distance; says whether there is room for more.
    fn push(&mut self, row: u64, estimate: u32) -> bool {
        if let (Some(place), Some(estimated)) = (
            self.rows.get_mut(self.len),
            self.estimates.get_mut(self.len),
        ) {
            *place = row;
            *estimated = estimate;
            self.len += 1;
        }
        self.len < BATCH
    }

    fn as_slice(&self) -> &[u64] {
        self.rows.get(..self.len).unwrap_or(&[])
    }

    fn score<E, N, V>(
        &self,
        numeric: &mut N,
        visible: &mut V,
        top: &mut TopK<'_>,
        found: &mut Found,
        excess: &mut Excess,
    ) -> Result<(), E>
    where
        N: Numeric<Error = E>,
        V: Visible<Error = E>,
    {
        let mut out = [0; BATCH];
        let Some(out) = out.get_mut(..self.len) else {
            return Ok(());
        };
        numeric.exact(self.as_slice(), out)?;
        found.exact = found.exact.saturating_add(out.len() as u64);
        for ((&distance, &row), &estimate) in out.iter().zip(self.as_slice()).zip(&self.estimates) {
            excess.learn(estimate, distance);
            if distance > top.bound() {
                continue;
            }
            if let Some(key) = visible.key(row)? {
                top.push(Hit { distance, key, row });
            }
        }
        Ok(())
    }
}
