// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which way of searching is the least work: an index, or an exact scan of the rows that pass the filter.
//!
//! Work is counted in bytes that have to be read, because that is what binds: rows come from memory, and codes
//! from there or from a cache. The counts are estimates; being wrong by a factor of two near the border, where
//! both ways cost about the same, loses little. An exact answer is never worse, so it wins ties.

use crate::ivf::params::BLOCK_ROWS;
use crate::ivf::{Code, Params, Query};
use crate::lsh;

/// How to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Score every row that passes the filter.
    Exact,
    /// Ask the index.
    Index,
}

/// What rows read in order cost, in bytes: of each row this many, a fifth of its bytes, and for all queries that are
/// compared together its bytes once, half of them if all rows stay in a cache of so many bytes. Measured in User-Mode Linux,
/// Zen 5, where a byte of this takes 25 ps: 64 queries 2.6 ns a row and 4.4 ps a byte (8 from memory), one query 7 to 15 ps a
/// byte more, from 0.5 to 12 MB (26 from memory).
const SCANNED_ROW: u64 = 80;
const COMPARED_SHARE: u64 = 5;
const CACHE_SHARE: u64 = 2;
const CACHE_BYTES: u64 = 16 << 20;

/// To look one row up costs as much as this many bytes, and each of its bytes as much as this many of codes: 30 ns, and
/// 65 ps a byte. A byte of codes takes 17 ps from a cache, 35 from memory.
const LOOKUP: u64 = 1 << 10;
const ROW_WEIGHT: u64 = 2;

/// Before an index has scanned anything, the query is rotated, its table made, and scratch memory touched: some
/// four microseconds, as many as this many bytes of codes take.
const START_WORK: u64 = 128 << 10;

/// A bucket of a hash table takes a tenth of a microsecond to find.
const PROBE_WORK: u64 = 4 << 10;

/// A row in a bucket takes 1 ns beside its code, and of so many 6 ns more: until there are enough candidates, each is
/// one, and another table brings it again.
const BUCKET_ROW: u64 = 40;
const BUCKET_CANDIDATE: u64 = 240;
const BUCKET_CANDIDATES: u64 = 2048;

/// A node that a walk visits takes 16 ns, and a sixth of a row's bytes, of which its code is a part.
const WALKED_NODE: u64 = 640;
const WALKED_SHARE: u64 = 6;

/// Half a block: the last one of a list is scanned whole, and half of it is empty.
const EMPTY_ROWS: u64 = BLOCK_ROWS as u64 / 2;

/// The container as the planner sees it, and how it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Container {
    /// Rows there are, visible or not.
    pub rows: u64,
    /// Rows that pass the filter, at least about; as many as there are without one.
    pub allowed: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Queries that an exact scan compares with each row while it is in the cache.
    pub together: u64,
}

impl Container {
    /// The work of an exact scan for one query. A filter is a bit of a bitmap for each row; of few rows that pass it
    /// each is looked up.
    pub fn exact_work(&self) -> u64 {
        let allowed = self.allowed.min(self.rows);
        let bytes = self.rows.saturating_mul(self.row_bytes);
        let in_order = if bytes <= CACHE_BYTES {
            bytes / CACHE_SHARE
        } else {
            bytes
        };
        let fetched = in_order.min(self.rows_work(allowed));
        let fetched = fetched.checked_div(self.together).unwrap_or(fetched);
        let row = SCANNED_ROW.saturating_add(self.row_bytes / COMPARED_SHARE);
        let filter = if allowed < self.rows {
            self.rows / 8
        } else {
            0
        };
        allowed
            .saturating_mul(row)
            .saturating_add(fetched)
            .saturating_add(filter)
    }

    /// The work of scoring rows that lie anywhere.
    fn rows_work(&self, rows: u64) -> u64 {
        let row = self.row_bytes.saturating_mul(ROW_WEIGHT);
        rows.saturating_mul(row.saturating_add(LOOKUP))
    }

    /// The work of a search in an inverted file for the best `k`.
    pub fn ivf_work(&self, params: &Params, query: &Query, k: u32) -> u64 {
        let nlist = u64::from(params.nlist.max(1));
        let allowed = self.allowed.clamp(1, self.rows.max(1));
        // It goes on until `k` rows are found.
        let filled = u64::from(k)
            .saturating_mul(nlist)
            .div_ceil(allowed)
            .min(nlist);
        let probes = u64::from(query.probes(params.nlist, self.rows)).max(filled);
        let in_list = |empty: u64| {
            (params.entries(self.rows) / nlist)
                .saturating_add(empty)
                .saturating_mul(probes)
        };
        let scanned = in_list(1);
        let centroid = u64::from(params.dim).saturating_mul(4);
        let layout = params.layout();
        let code = layout.map_or(0, |layout| u64::from(layout.block_words) * 4 / 32);
        // Lists are ranked by their codes if they have some, and the nearest again by their centroids.
        let lists = if params.lists_have_codes() {
            let again = probes.saturating_mul(5) / 4;
            nlist
                .saturating_mul(code)
                .saturating_add(again.saturating_mul(centroid))
        } else {
            nlist.saturating_mul(centroid)
        };
        let rows = if params.code == Code::Flat {
            // A row that does not pass is not read.
            let passing = scanned.saturating_mul(self.allowed.min(self.rows));
            passing.checked_div(self.rows).unwrap_or(0)
        } else {
            reranked(query.rerank, k).min(scanned)
        };
        START_WORK
            .saturating_add(params.codebook_bytes() as u64)
            .saturating_add(lists)
            .saturating_add(in_list(EMPTY_ROWS).saturating_mul(code))
            .saturating_add(self.rows_work(rows))
    }

    /// The work of a search for the best `k` in hash tables, `nprobe` buckets of each, with exact distances of `rerank`
    /// rows. Without
    /// codes each row that passes is scored once, in whichever of the tables it comes first: half of them have it in
    /// common, roughly.
    pub fn lsh_work(&self, params: &lsh::Params, nprobe: u32, rerank: u32, k: u32) -> u64 {
        let buckets = 1u64 << params.nbits.min(lsh::MAX_BITS);
        let probes = u64::from(nprobe).clamp(1, buckets);
        let looked = probes.saturating_mul(u64::from(params.ntables));
        let scanned = |rows: u64, empty: u64| {
            let bucket = (rows / buckets).saturating_add(empty);
            bucket.saturating_mul(looked)
        };
        let work = if params.code == Code::Flat {
            self.rows_work(scanned(self.allowed.min(self.rows), 1) / 2)
        } else {
            let layout = params.table().and_then(|table| table.layout());
            let code = layout.map_or(0, |layout| u64::from(layout.block_words) * 4 / 32);
            let codes = scanned(self.rows, EMPTY_ROWS).saturating_mul(code);
            let rows = scanned(self.rows, 0);
            let candidates = rows.min(BUCKET_CANDIDATES);
            codes
                .saturating_add(rows.saturating_mul(BUCKET_ROW))
                .saturating_add(candidates.saturating_mul(BUCKET_CANDIDATE))
                .saturating_add(self.rows_work(reranked(rerank, k)))
        };
        START_WORK
            .saturating_add(looked.saturating_mul(PROBE_WORK))
            .saturating_add(work)
    }

    /// The work of a search without a filter for the best `k` in a graph of `m` links a node, with `ef` candidates and
    /// exact distances of `rerank` rows. Some `m / 2` nodes are visited for each candidate.
    pub fn hnsw_work(&self, m: u32, ef: u32, rerank: u32, k: u32) -> u64 {
        let visited = u64::from(ef).saturating_mul(u64::from(m / 2));
        let node = WALKED_NODE.saturating_add(self.row_bytes / WALKED_SHARE);
        START_WORK
            .saturating_add(visited.saturating_mul(node))
            .saturating_add(self.rows_work(reranked(rerank, k)))
    }

    /// The plan, for an index's work.
    pub fn plan(&self, index_work: u64) -> Plan {
        if self.exact_work() <= index_work {
            Plan::Exact
        } else {
            Plan::Index
        }
    }
}

/// Of the candidates that may be scored exactly the error bounds leave about half.
fn reranked(rerank: u32, k: u32) -> u64 {
    u64::from((rerank / 2).max(k))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rows: u64, allowed: u64, k: u32) -> Plan {
        plan_of(rows, allowed, k, 1)
    }

    fn plan_of(rows: u64, allowed: u64, k: u32, together: u64) -> Plan {
        let container = Container {
            rows,
            allowed,
            row_bytes: 1536,
            together,
        };
        let params = Params::default_for(rows, 384, 1536);
        let query = Query {
            allowed,
            ..Query::default_for(k, &params)
        };
        container.plan(container.ivf_work(&params, &query, k))
    }

    #[test]
    fn few_rows_are_scanned_and_many_are_not() {
        assert_eq!(plan(0, 0, 10), Plan::Exact);
        assert_eq!(plan(50, 50, 10), Plan::Exact);
        assert_eq!(plan(10_000, 10_000, 10), Plan::Index);
        assert_eq!(plan(1_000_000, 1_000_000, 10), Plan::Index);
        // All rows are asked for.
        assert_eq!(plan(10_000, 10_000, 10_000), Plan::Exact);
        assert_eq!(plan(u64::MAX, u64::MAX, 10), Plan::Index);
    }

    #[test]
    fn many_queries_together_are_scanned_in_more_rows_than_one() {
        assert_eq!(plan(800, 800, 10), Plan::Index);
        assert_eq!(plan_of(800, 800, 10, 64), Plan::Exact);
        assert_eq!(plan_of(4000, 4000, 10, 64), Plan::Index);
    }

    #[test]
    fn a_graph_is_walked_where_more_rows_would_be_scanned() {
        let plan = |rows, row_bytes, together| {
            let container = Container {
                rows,
                allowed: rows,
                row_bytes,
                together,
            };
            container.plan(container.hnsw_work(16, 64, 32, 10))
        };
        // Microseconds of a scan and of a walk: 11 and 16, 32 and 17; 10 and 14, 19 and 14; 18 and 19, 39 and 19.
        for (few, many, row_bytes, together) in [
            (300, 1000, 1536, 1),
            (2000, 4000, 512, 64),
            (1000, 2000, 3072, 64),
        ] {
            assert_eq!(plan(few, row_bytes, together), Plan::Exact);
            assert_eq!(plan(many, row_bytes, together), Plan::Index);
        }
        assert_eq!(plan(0, 512, 1), Plan::Exact);
        assert_eq!(plan(u64::MAX, 512, 64), Plan::Index);
    }

    #[test]
    fn selective_filters_are_scanned_and_the_choice_changes_once() {
        for rows in [10_000u64, 55_783, 1_000_000, 50_000_000] {
            assert_eq!(plan(rows, 0, 10), Plan::Exact);
            assert_eq!(plan(rows, rows / 10_000, 10), Plan::Exact);
            assert_eq!(plan(rows, rows / 2, 10), Plan::Index);
            let mut changes = 0;
            let mut before = Plan::Exact;
            for part in (1..=1000).rev() {
                let now = plan(rows, rows / part, 10);
                changes += (now != before) as u32;
                before = now;
            }
            assert_eq!(changes, 1, "{rows} rows");
        }
    }

    #[test]
    fn hash_tables_are_asked_where_their_buckets_are_a_small_part() {
        let container = |rows| Container {
            rows,
            allowed: rows,
            row_bytes: 1536,
            together: 1,
        };
        let params = |rows| lsh::Params::default_for(rows, 384, 1536, lsh::Family::Signs);
        let plan_of = |container: Container| {
            let params = params(container.rows);
            let (nprobe, rerank) = (params.default_nprobe(), params.default_rerank(10));
            container.plan(container.lsh_work(&params, nprobe, rerank, 10))
        };
        let plan = |rows| plan_of(container(rows));
        // One query: 12 microseconds and 10, 31 and 17. Of 64 queries: 18 and 28.
        assert_eq!(plan(1000), Plan::Index);
        let together = |rows| Container {
            together: 64,
            ..container(rows)
        };
        assert_eq!(plan_of(together(2000)), Plan::Exact);
        assert_eq!(plan_of(together(8000)), Plan::Index);
        assert_eq!(plan(100), Plan::Exact);
        assert_eq!(plan(100_000), Plan::Index);
        assert_eq!(plan(10_000_000), Plan::Index);
    }
}
