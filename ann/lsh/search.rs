// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The search: buckets of each table, the likeliest first; their rows by codes or by exact distances.

use super::probe::{Heap, Perturbation};
use super::{Params, MAX_BITS};
use crate::ivf::offer::{Rows, Search};
use crate::ivf::scan::{Probe, Scan};
use crate::ivf::{self, Code, Error, Found, Index, Store};
use crate::reservoir::Reservoir;
use crate::seen::Seen;
use crate::{TopK, Visible};

/// Arithmetic for one query. One call is one FPU section. The one centre of all codes is that of list 0; without codes
/// nobody asks for it.
pub trait Numeric: ivf::Numeric {
    /// Writes the query's projections of a table, fixed-point, to `out`. For [`Family::Cells`](super::Family::Cells) a
    /// cell is 2^16 wide.
    fn project(&mut self, table: u32, out: &mut [i32]) -> Result<(), Self::Error>;
}

/// What to search for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// Buckets of each table to look into.
    pub nprobe: u32,
    /// Candidates that may be scored by their rows, at least `k`. Without codes all are.
    pub rerank: u32,
    /// Rows of the container that the index knows: `0..rows`.
    pub rows: u64,
}

/// Scratch memory of a search, lent by the caller.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// A bit for each row of the query's `rows`, all 0. A search leaves it so.
    pub visited: &'a mut [u64],
    /// Which of its words are in use; if there are more, all of `visited` is cleared at the end.
    pub touched: &'a mut [u32],
    /// At least `nprobe` elements.
    pub heap: &'a mut [Perturbation],
    /// As in [`ivf::Workspace`]; not used without codes.
    pub candidates: &'a mut [u64],
    /// As there.
    pub lower: &'a mut [u32],
    /// As there.
    pub hits: &'a mut [u32],
}

/// Finds near rows that are visible, and offers them to `top`, which holds none of `0..query.rows` yet. `tables`
/// are those of the parameters, in order.
///
/// If the buckets do not fill `top`, all other visible rows are scored too: `k` rows are found if there are as many.
///
/// # Errors
///
/// [`Error::Workspace`] if scratch memory is too short or there are not as many tables as parameters say,
/// [`Error::Caller`], [`Error::Damaged`]. `top` holds what was found so far.
pub fn search<S, N, F>(
    params: &Params,
    tables: &[Index<S>],
    work: &mut Workspace<'_>,
    numeric: &mut N,
    visible: &mut F,
    query: &Query,
    top: &mut TopK<'_>,
) -> Result<Found, Error<N::Error>>
where
    S: Store,
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    let nprobe = query.nprobe.max(1) as usize;
    let enough = tables.len() == params.ntables as usize
        && params.table().is_ok()
        && work.visited.len() as u64 >= query.rows.div_ceil(64)
        && work.heap.len() >= nprobe;
    if !enough {
        return Err(Error::Workspace);
    }
    let mut search = Search::new(numeric, visible, top);
    if search.top.k() == 0 {
        return Ok(search.found);
    }
    let mut seen = Seen::new(work.visited, work.touched);
    let buckets = Buckets {
        params,
        tables,
        nprobe: query.nprobe,
        heap: work.heap,
    };
    // Each row once, and none that the query does not know.
    let mut once = |row| row < query.rows && seen.insert(row);
    if params.code == Code::Flat {
        search.by_rows(buckets, &mut once)?;
    } else {
        let keep = (query.rerank as usize).max(search.top.k());
        let scan = Scan::new(work.lower, work.hits);
        if work.candidates.len() <= keep || scan.most() == 0 {
            return Err(Error::Workspace);
        }
        let mut into = Reservoir::new(work.candidates, keep);
        into.lower_bound_to(search.top.bound());
        search.by_codes(buckets, scan, &mut once, &mut into)?;
        search.rerank(into, &mut |_| true)?;
    }
    if !search.found.partial && !search.top.is_full() {
        seen.clear();
        for hit in search.top.hits() {
            seen.insert(hit.row);
        }
        search.offer_all(0..query.rows, &mut |row| seen.insert(row))?;
    }
    Ok(search.found)
}

/// The buckets of all tables to look into.
struct Buckets<'s, 'h, S> {
    params: &'s Params,
    tables: &'s [Index<S>],
    nprobe: u32,
    heap: &'h mut [Perturbation],
}

impl<'s, S: Store> Buckets<'s, '_, S> {
    /// Calls `each` for every bucket, the likeliest of each table first, until it says no.
    fn each<'a, 't, N: Numeric, F>(
        self,
        search: &mut Search<'a, 't, N, F>,
        mut each: impl FnMut(
            &mut Search<'a, 't, N, F>,
            &'s Index<S>,
            u32,
        ) -> Result<bool, Error<N::Error>>,
    ) -> Result<(), Error<N::Error>> {
        let mut projections = [0; MAX_BITS as usize];
        let projections = projections
            .get_mut(..self.params.nbits as usize)
            .ok_or(Error::Workspace)?;
        for (table, index) in (0u32..).zip(self.tables) {
            search.numeric.project(table, projections)?;
            let mut memory = [Perturbation::default(); MAX_BITS as usize];
            let ways = self.params.perturbations(projections, &mut memory);
            let mut sets = Heap::new(self.heap, ways);
            let own = self.params.bucket(projections);
            let mut changed = 0;
            for _ in 0..self.nprobe.max(1) {
                // As many bits as projections, at most 16.
                if !each(search, index, own ^ changed as u32)? {
                    return Ok(());
                }
                match sets.cheapest() {
                    Some(set) => changed = set,
                    None => break,
                }
            }
        }
        Ok(())
    }
}

impl<N, F> Search<'_, '_, N, F>
where
    N: Numeric,
    F: Visible<Error = N::Error>,
{
    /// Collects the rows of buckets whose codes are nearest, of those that `once` says yes to.
    fn by_codes<'s, S: Store>(
        &mut self,
        buckets: Buckets<'s, '_, S>,
        mut scan: Scan<'_, 's>,
        once: &mut impl FnMut(u64) -> bool,
        into: &mut Reservoir<'_>,
    ) -> Result<(), Error<N::Error>> {
        let (mut near, mut rank) = (0, 0);
        self.numeric.centres(
            &[0],
            core::slice::from_mut(&mut near),
            core::slice::from_mut(&mut rank),
        )?;
        let Some(any) = buckets.tables.first() else {
            return Ok(());
        };
        let mut flush = |scan: &mut Scan<'_, 's>, search: &mut Self| {
            let Search {
                numeric, visible, ..
            } = search;
            let mut allows = |row| visible.allows(u64::from(row)) && once(u64::from(row));
            scan.flush(any, *numeric, &mut allows, into)
        };
        buckets.each(self, |search, table, list| {
            let probe = Probe { list, near, rank };
            let mut flushed = false;
            table.collect(&mut scan, probe, |scan| {
                flushed = true;
                flush(scan, search)
            })?;
            search.found.lists = search.found.lists.saturating_add(1);
            if flushed && search.visible.stop(scan.codes) {
                search.found.partial = true;
            }
            Ok(!search.found.partial)
        })?;
        flush(&mut scan, self)?;
        self.found.codes = scan.codes;
        Ok(())
    }

    /// Scores the rows of buckets that `once` says yes to.
    fn by_rows<S: Store>(
        &mut self,
        buckets: Buckets<'_, '_, S>,
        once: &mut impl FnMut(u64) -> bool,
    ) -> Result<(), Error<N::Error>> {
        let mut rows = Rows::default();
        let mut keep = |visible: &mut F, row| once(row) && visible.allows(row);
        buckets.each(self, |search, table, bucket| {
            search.offer_list(table, bucket, &mut rows, &mut keep)?;
            Ok(!search.found.partial)
        })?;
        self.offer_rows(&mut rows)?;
        Ok(())
    }
}
