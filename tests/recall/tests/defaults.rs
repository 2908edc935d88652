// SPDX-License-Identifier: Apache-2.0

//! What searches with defaults find in indexes with defaults: 0.95 of the ten nearest.

use std::path::Path;

use vexfs_ann::hnsw;
use vexfs_ann::hnsw::params::Defaults;
use vexfs_ann::ivf::{self, Code, Params};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{self, Family};
use vexfs_ann::{pq, Hit, TopK};
use vexfs_recall::hashes::{self, Tables};
use vexfs_recall::lists::{Built, Memory, Space};
use vexfs_recall::npy::read_f32;
use vexfs_recall::synthetic::Synthetic;
use vexfs_recall::{
    graph_words, index, insert, narrow, search, All, Arithmetic, Codec, Rows, Scratch,
};
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

    /// The same in another type, compared by `metric`.
    fn narrow(&self, elem: Elem, metric: Metric) -> Set {
        let Rows { dim, ref bytes, .. } = self.rows;
        let most = narrow::greatest(bytes);
        let scale = match elem {
            Elem::I8 | Elem::U8 => 127.0 / most,
            _ => 1.0,
        };
        Set {
            name: self.name,
            rows: Rows {
                elem,
                metric,
                dim,
                bytes: narrow::rows(elem, dim, most, bytes),
            },
            queries: narrow::rows(elem, dim, most, &self.queries),
            near: self.near * scale * scale,
        }
    }

    fn row_bytes(&self) -> usize {
        self.rows.elem.row_bytes(self.rows.dim)
    }

    fn queries(&self) -> impl Iterator<Item = &[u8]> {
        self.queries.chunks(self.row_bytes())
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

    fn by_graph(&self) -> Vec<Vec<Hit>> {
        let Rows { elem, dim, .. } = self.rows;
        let words = |bits| graph_words(elem, bits, dim);
        let Defaults { bits, m } = match elem {
            Elem::Binary => Defaults { bits: 1, m: 16 },
            _ => Defaults::of(dim as u32, self.row_bytes() as u32, words),
        };
        let n = self.rows.len();
        let codec = Codec::new(&self.rows, GraphKind::of(elem, bits).expect("codes exist"));
        let index = index(&codec, &self.rows, n as u32, m, 200);
        let mut scratch = Scratch::new(n as u32);
        let mut arithmetic = Arithmetic::new(&self.rows, &codec);
        for row in 0..n {
            insert(&index, &mut scratch, &mut arithmetic, row);
        }
        let ef = hnsw::Query::default_ef(K as u32);
        let query = hnsw::Query {
            ef,
            rerank: hnsw::Query::default_rerank(K as u32, ef, bits),
            allowed: None,
        };
        let mut found = |q| {
            let (scratch, arithmetic) = (&mut scratch, &mut arithmetic);
            search(&index, scratch, arithmetic, q, &query, |_| true, K)
        };
        self.queries().map(&mut found).collect()
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
        let rows = self.rows.len();
        let mut memory = Memory::new(&params, query.rerank as usize, rows);
        let mut found = |q| built.search(&mut memory, q, &mut All, &query, K).0;
        self.queries().map(&mut found).collect()
    }

    fn by_tables(&self, params: lsh::Params) -> Vec<Vec<Hit>> {
        let rows = self.rows.bytes.clone();
        let Rows { elem, metric, .. } = self.rows;
        let tables = Tables::new(elem, metric, params, self.near, rows);
        tables.build();
        let short = params.code == ivf::Code::Flat && elem == Elem::F32;
        assert!(short || tables.bytes() * 2 < self.rows.bytes.len());
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

/// How many of the exact answer were found, or others as near.
fn recall(found: &[Vec<Hit>], exact: &[Vec<Hit>]) -> f64 {
    let near = |found: &[Hit], exact: &[Hit]| {
        let last = exact.last().map_or(0, |last| last.distance);
        found.iter().filter(|hit| hit.distance <= last).count()
    };
    let near: usize = found.iter().zip(exact).map(|(f, e)| near(f, e)).sum();
    near as f64 / exact.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

impl Set {
    /// Searches by every kind of index with defaults.
    fn check(&self) {
        let (n, dim) = (self.rows.len() as u64, self.rows.dim as u32);
        let row_bytes = self.row_bytes() as u32;
        let exact = self.exact();
        let family = match self.rows.metric {
            Metric::L2Sq => Family::Cells,
            _ => Family::Signs,
        };
        let lists = Params::default_for(n, dim, row_bytes);
        let tables = lsh::Params::default_for(n, dim, row_bytes, family);
        let mut all = vec![
            ("hnsw", self.by_graph()),
            ("ivf", self.by_lists(lists)),
            ("pq", self.by_lists(pq::flat(dim, false, 1))),
            ("lsh", self.by_tables(tables)),
        ];
        if matches!(self.rows.metric, Metric::Cosine | Metric::InnerProduct) {
            let mut twice = Params {
                code: Code::Flat,
                ..lists
            };
            twice.copies = twice.default_copies(true);
            twice.nlist = twice.default_nlist(n, row_bytes);
            assert_eq!(twice.copies, 2);
            all.push(("ivf without codes", self.by_lists(twice)));
        }
        for (kind, found) in all {
            let recall = recall(&found, &exact);
            let what = format!(
                "{n} {} {} {kind}: {recall}",
                self.name,
                self.rows.elem.name()
            );
            println!("{what}");
            assert!(recall >= 0.945, "{what}");
        }
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
        set.check();
    }
}

#[test]
fn and_in_rows_of_other_types() {
    let set = Set::embeddings(12_000, Metric::Cosine);
    for (elem, metric) in [
        (Elem::F16, Metric::Cosine),
        (Elem::Bf16, Metric::L2Sq),
        (Elem::I8, Metric::Cosine),
        (Elem::U8, Metric::L2Sq),
        (Elem::Binary, Metric::Hamming),
    ] {
        set.narrow(elem, metric).check();
    }
}
