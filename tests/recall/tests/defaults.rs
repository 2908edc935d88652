// SPDX-License-Identifier: Apache-2.0

//! What searches with defaults find in indexes with defaults: 0.95 of the ten nearest.

use std::path::Path;

use vexfs_ann::ivf::{self, Params};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{self, Family};
use vexfs_ann::{pq, Hit, TopK};
use vexfs_recall::hashes::{self, Tables};
use vexfs_recall::lists::{recall, All, Built, Memory, Space};
use vexfs_recall::npy::read_f32;
use vexfs_recall::synthetic::Synthetic;
use vexfs_recall::Rows;
use vexfs_simd_host::*;

const K: usize = 10;

/// Rows and queries, and the squared distance of near rows, about.
struct Set {
    name: &'static str,
    rows: Rows,
    queries: Vec<u8>,
    near: f32,
}

impl Set {
    fn new(
        name: &'static str,
        metric: Metric,
        dim: usize,
        bytes: Vec<u8>,
        queries: Vec<u8>,
        near: f32,
    ) -> Set {
        let rows = Rows {
            elem: Elem::F32,
            metric,
            dim,
            bytes,
        };
        Set {
            name,
            rows,
            queries,
            near,
        }
    }

    /// Embeddings of sentences; the first `n` of them spread over all.
    fn embeddings(n: usize, metric: Metric) -> Set {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/kdocs");
        let load = |name: &str| read_f32(&data.join(name)).expect("the data set");
        let ((base, dim), (queries, _)) = (load("base_f16.npy"), load("questions_f16.npy"));
        let every = base.len() / (4 * dim) / n;
        let rows = base.chunks(4 * dim).step_by(every).flatten();
        let rows = rows.copied().collect();
        Set::new("embeddings", metric, dim, rows, queries, 0.6)
    }

    /// Rows like image features.
    fn features(n: usize) -> Set {
        let take = |stream, n| -> Vec<u8> {
            let rows = Synthetic::new(stream).take(n).flatten();
            rows.flat_map(f32::to_le_bytes).collect()
        };
        let (rows, queries) = (take(0, n), take(1, 100));
        Set::new("features", Metric::L2Sq, 128, rows, queries, 1.2e5)
    }

    /// Rows of which nobody is near another: independent elements, uniform in -1..1.
    fn uniform(n: usize, dim: usize) -> Set {
        let mut random = Random(5);
        let mut take = |n: usize| -> Vec<u8> {
            let unit = |word: u64| (word >> 40) as f32 / (1 << 23) as f32 - 1.0;
            let elements = (0..n * dim).map(|_| unit(random.word()));
            elements.flat_map(f32::to_le_bytes).collect()
        };
        let (rows, queries) = (take(n), take(100));
        Set::new("uniform", Metric::L2Sq, dim, rows, queries, 6.0)
    }

    fn queries(&self) -> impl Iterator<Item = &[u8]> {
        self.queries.chunks(4 * self.rows.dim)
    }

    fn exact(&self) -> Vec<Vec<Hit>> {
        let hit = |(distance, row)| Hit {
            distance,
            key: row,
            row,
        };
        let nearest = |q| self.rows.nearest(q, K, |_| true).into_iter();
        self.queries()
            .map(|q| nearest(q).map(hit).collect())
            .collect()
    }

    fn by_lists(&self, params: Params) -> Vec<Vec<Hit>> {
        let Rows {
            elem, metric, dim, ..
        } = self.rows;
        let space = Space {
            elem,
            metric,
            dim,
            rows: self.rows.bytes.clone(),
            isa: Isa::best(),
            params,
        };
        let built = Built::train(space, params.most_blocks(self.rows.len() as u64) as u32);
        built.build();
        let query = ivf::Query::default_for(K as u32, &params);
        let mut memory = Memory::new(&params, query.rerank as usize);
        let mut found = |q| built.search(&mut memory, q, &mut All, &query, K).0;
        self.queries().map(&mut found).collect()
    }

    fn by_tables(&self, params: lsh::Params) -> Vec<Vec<Hit>> {
        let rows = self.rows.bytes.clone();
        let tables = Tables::new(Elem::F32, self.rows.metric, params, self.near, rows);
        tables.build();
        if params.code != ivf::Code::Flat {
            assert!(tables.bytes() * 2 < self.rows.bytes.len());
        }
        let query = lsh::Query {
            nprobe: params.default_nprobe(),
            rerank: params.default_rerank(K as u32),
            rows: self.rows.len() as u64,
        };
        let mut memory = hashes::Memory::new(self.rows.len(), query.nprobe, query.rerank as usize);
        let mut found = |q| {
            let mut hits = vec![Hit::default(); K];
            let mut top = TopK::new(&mut hits);
            tables.search(&mut memory, q, &mut All, &query, &mut top);
            top.into_sorted().to_vec()
        };
        self.queries().map(&mut found).collect()
    }
}

#[test]
fn searches_with_defaults_find_most_of_the_nearest() {
    for set in [
        Set::embeddings(12_000, Metric::Cosine),
        Set::embeddings(4000, Metric::L2Sq),
        Set::features(12_000),
        Set::uniform(4000, 24),
    ] {
        let (n, dim) = (set.rows.len() as u64, set.rows.dim as u32);
        let exact = set.exact();
        let family = match set.rows.metric {
            Metric::L2Sq => Family::Cells,
            _ => Family::Signs,
        };
        for (kind, found) in [
            ("ivf", set.by_lists(Params::default_for(n, dim, 4 * dim))),
            ("pq", set.by_lists(pq::flat(dim, false, 1))),
            (
                "lsh",
                set.by_tables(lsh::Params::default_for(n, dim, 4 * dim, family)),
            ),
        ] {
            let recall = recall(&found, &exact);
            assert!(recall >= 0.945, "{n} {} {kind}: {recall}", set.name);
        }
    }
}
