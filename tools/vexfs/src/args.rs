// SPDX-License-Identifier: Apache-2.0
//! The command line.

use clap::{ArgGroup, Args, Parser, Subcommand};
use std::path::PathBuf;
use vexfs_client::uapi::VEXFS_NBITS_F16;
use vexfs_client::{ElementType, IndexKind, Metric};

/// Create, fill and search vector containers on a VexFS volume.
#[derive(Debug, Parser)]
#[command(name = "vexfs", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON object instead of text, and no progress bar
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new file a vector container
    Create(Create),
    /// Add the vectors of a .npy, .fvecs or .bvecs file
    Import(Import),
    /// Add the vectors of a file, or replace those that have the key, in the places of deleted rows
    Upsert(Upsert),
    /// Write the live rows to a .npy, .fvecs or .bvecs file
    Export(Export),
    /// Find the nearest rows of queries, or of a row of the container
    Search(Search),
    /// Print rows by key or number
    Get(Get),
    /// Delete rows by key or number, all or none
    Delete(Delete),
    /// Tell what a container is and has done
    Stats(Stats),
    /// Check the indexes of a container against its rows
    Scrub(Scrub),
    /// Build, list and drop indexes
    #[command(subcommand)]
    Index(Index),
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
}

/// Check the indexes of a container against its rows.
#[derive(Args, Debug)]
pub struct Scrub {
    /// The container
    pub file: PathBuf,
    /// Build anew what is damaged
    #[arg(long)]
    pub repair: bool,
}

/// Make a new file a vector container.
#[derive(Args, Debug)]
pub struct Create {
    /// The container, on a VexFS volume
    pub file: PathBuf,
    /// Elements of a row
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub dim: u32,
    /// Type of the elements: f32, f16, bf16, i8, u8 or binary
    #[arg(long = "type", value_name = "TYPE", default_value = "f32")]
    pub element_type: ElementType,
    /// Distance: l2, cosine, dot, or hamming (of binary)
    #[arg(long)]
    pub metric: Metric,
    /// Align each row's start to so many bytes, a power of two from 4 to 4096
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub align: u32,
    /// A number of yours that marks the embedding model (0x for hexadecimal)
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true, value_parser = number)]
    pub model_tag: u64,
    /// Preallocate space for so many rows
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub reserve: u64,
}

/// What import and upsert read.
#[derive(Args, Debug)]
pub struct From {
    /// The container
    pub file: PathBuf,
    /// The vectors: .npy (2-d; floats, bytes, packed bits, or bf16 as uint16), .fvecs or .bvecs
    pub source: PathBuf,
    /// Tag masks, one integer for each row of the source
    #[arg(long, value_name = "FILE.npy")]
    pub tags: Option<PathBuf>,
    /// Rows of one batch; a batch is in the container as a whole or not at all
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1048576))]
    pub batch: Option<u32>,
    /// Begin at this row of the source, to continue what was interrupted
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub skip: u64,
}

/// Add the vectors of a file.
#[derive(Args, Debug)]
pub struct Import {
    /// What to read.
    #[command(flatten)]
    pub from: From,
    /// Keys, one integer for each row of the source; otherwise a row's number is its key
    #[arg(long, value_name = "FILE.npy")]
    pub keys: Option<PathBuf>,
    /// Create the container first; its dimension is the source's, eight for each byte of bits
    #[arg(long, requires = "metric")]
    pub create: bool,
    /// With --create, the distance: l2, cosine, dot, or hamming (of binary)
    #[arg(long, requires = "create")]
    pub metric: Option<Metric>,
    /// With --create, the type of the elements: f32 (default), f16, bf16, i8, u8 or binary
    #[arg(long = "type", value_name = "TYPE", requires = "create")]
    pub element_type: Option<ElementType>,
}

/// Add the vectors of a file, or replace those that have the key.
#[derive(Args, Debug)]
pub struct Upsert {
    /// What to read.
    #[command(flatten)]
    pub from: From,
    /// Keys, one integer for each row of the source
    #[arg(long, value_name = "FILE.npy")]
    pub keys: PathBuf,
}

/// Write the live rows to a file.
#[derive(Args, Debug)]
pub struct Export {
    /// The container
    pub file: PathBuf,
    /// Where to: .npy, .fvecs (float32) or .bvecs (of u8)
    pub dest: PathBuf,
    /// Write the keys of the rows, too
    #[arg(long, value_name = "OUT.npy")]
    pub keys: Option<PathBuf>,
}

/// Find the nearest rows.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["queries", "row", "key"]))]
pub struct Search {
    /// The container
    pub file: PathBuf,
    /// Queries: .npy, .fvecs or .bvecs
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Use row N of the container as the query
    #[arg(long, value_name = "N")]
    pub row: Option<u64>,
    /// Use the row with key K as the query
    #[arg(long, value_name = "K")]
    pub key: Option<u64>,
    /// Hits per query
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub k: u32,
    /// Compare with every row
    #[arg(long, conflicts_with = "index")]
    pub exact: bool,
    /// Use this index: auto, exact, hnsw, ivf, pq or lsh
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub index: IndexKind,
    /// HNSW: candidates kept (0: the index's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub ef: u32,
    /// IVF: lists visited; LSH: buckets of each table (0: the index's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub nprobe: u32,
    /// Candidates of an index compared exactly (0: the index's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub rerank: u32,
    /// Processors to use, as far as there are as many
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: u32,
    /// Only hits at most this far
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub radius: Option<f32>,
    /// Only rows with all of these tag bits (0x for hexadecimal)
    #[arg(long, value_name = "MASK", value_parser = number)]
    pub tags_all: Option<u64>,
    /// Only rows with one of these tag bits
    #[arg(long, visible_alias = "filter-tag", value_name = "MASK", value_parser = number)]
    pub tags_any: Option<u64>,
    /// Only the first N queries
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Row numbers of the true neighbours of each query, to compute recall@k. A hit as
    /// near as the k-th of them counts, whichever row it is
    #[arg(long, value_name = "FILE.npy", requires = "queries")]
    pub ground_truth: Option<PathBuf>,
    /// Fail if recall@k is lower than this
    #[arg(long, value_name = "R", requires = "ground_truth")]
    pub min_recall: Option<f64>,
}

/// Rows by key or number.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Rows with these keys
    #[arg(long, value_name = "K", num_args = 1.., value_delimiter = ',')]
    pub key: Vec<u64>,
    /// Rows with these numbers
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',')]
    pub row: Vec<u64>,
}

/// Print rows by key or number.
#[derive(Args, Debug)]
pub struct Get {
    /// The container
    pub file: PathBuf,
    /// Which rows.
    #[command(flatten)]
    pub which: Which,
}

/// Delete rows by key or number.
#[derive(Args, Debug)]
pub struct Delete {
    /// The container
    pub file: PathBuf,
    /// Which rows.
    #[command(flatten)]
    pub which: Which,
    /// Delete those that are there and don't mind the others
    #[arg(long)]
    pub skip_missing: bool,
}

/// Tell what a container is and has done.
#[derive(Args, Debug)]
pub struct Stats {
    /// The container
    pub file: PathBuf,
}

/// Build, list and drop indexes.
#[derive(Debug, Subcommand)]
pub enum Index {
    /// Build an index; searches and changes go on meanwhile
    Build(Build),
    /// List the indexes of a container
    List(Stats),
    /// Drop an index, or end its build
    Drop(OfIndex),
    /// Tell what an index is, with its digest
    Status(OfIndex),
}

/// Build an index.
#[derive(Args, Debug)]
pub struct Build {
    /// The container and the kind of index.
    #[command(flatten)]
    pub of: OfIndex,
    /// HNSW: links per node, even, 4 to 32 (0: the kernel's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub m: u32,
    /// HNSW: candidates while building, m to 4096 (0: the kernel's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub ef_construction: u32,
    /// IVF: lists, 1 to 65536 (0: some 2 to 4 times the root of the rows)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub nlist: u32,
    /// IVF, PQ: sub-quantisers, a divisor of the dimension (0: of 4 elements each, or 8 with --nbits 8)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub nsub: u32,
    /// Bits of a code: HNSW 1, 4 or 8; 16 for elements of 16 bits, or of f32 as bf16, or f16 for that; 32 for elements of
    /// f32. IVF 1, 4, 8, or 32 for none; PQ 4 or 8. LSH: bits of a hash, 1 to 16 (0: the kernel's default)
    #[arg(
        long,
        default_value = "0",
        hide_default_value = true,
        value_parser = nbits
    )]
    pub nbits: u32,
    /// LSH: hash tables, 1 to 32 (0: the kernel's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub ntables: u32,
    /// IVF: lists that a row is in, 1 or 2: more memory and less time for the same recall (0: the kernel's default)
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "ntables"
    )]
    pub copies: u32,
    /// Build anew where there is one, which serves searches until then
    #[arg(long)]
    pub replace: bool,
    /// Processors to use, as far as there are as many
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: u32,
    /// Return at once; `vexfs index status` tells how far it is
    #[arg(long)]
    pub background: bool,
}

/// An index of a container.
#[derive(Args, Debug)]
pub struct OfIndex {
    /// The container
    pub file: PathBuf,
    /// The kind of index: hnsw, ivf, pq or lsh
    #[arg(long, default_value = "hnsw")]
    pub kind: IndexKind,
}

/// Measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Recall and rate of the indexes of a container, beside its exact answers
    Recall(Recall),
}

/// Recall and rate of the indexes of a container.
#[derive(Args, Debug)]
pub struct Recall {
    /// The container
    pub file: PathBuf,
    /// Queries: .npy, .fvecs or .bvecs; without it, rows of the container, each left out of
    /// its own answers
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sample", "seed"])]
    pub queries: Option<PathBuf>,
    /// Only the first N queries
    #[arg(long, value_name = "N", requires = "queries", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// So many rows of the container
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1048576))]
    pub sample: u32,
    /// Which rows
    #[arg(long, value_name = "N", default_value = "1", value_parser = number)]
    pub seed: u64,
    /// Hits per query
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=16383))]
    pub k: u32,
    /// Only these indexes (hnsw, ivf, pq, lsh, exact), otherwise all that are built
    #[arg(long, value_name = "KIND,..", value_delimiter = ',')]
    pub index: Vec<IndexKind>,
    /// Values of ef (HNSW), nprobe (IVF, LSH) or rerank (PQ), otherwise a dozen
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub sweep: Vec<u32>,
    /// Candidates of an index compared exactly (0: the index's default)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub rerank: u32,
    /// Only rows with all of these tag bits (0x for hexadecimal)
    #[arg(long, value_name = "MASK", value_parser = number)]
    pub tags_all: Option<u64>,
    /// Passes over the queries for each value, of which the fastest counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Write all that was measured as JSON, too
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Draw recall over searches per second
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

#[cfg(test)]
impl Recall {
    /// The defaults for a container.
    pub(crate) fn of(file: &str) -> Self {
        match Cli::parse_from(["vexfs", "bench", "recall", file]).command {
            Command::Bench(Bench::Recall(args)) => args,
            other => panic!("{other:?}"),
        }
    }
}

/// A number, decimal or with 0x.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "use a number from 0 to 2^64-1, or 0x and hexadecimal digits".into())
}

/// What the interface calls bits of codes: f16 of f32 have a name of their own there.
fn nbits(text: &str) -> Result<u32, String> {
    match text {
        "f16" => Ok(VEXFS_NBITS_F16),
        _ => text.parse().map_err(|_| "use a number, or f16".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("0xff"), Ok(255));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        assert!(number("-1").is_err() && number("0x").is_err());
    }

    #[test]
    fn bits_of_codes_are_a_number_or_f16() {
        let parse = |args: &str| {
            let line = format!("vexfs index build f{args}");
            match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
                Ok(Command::Index(Index::Build(build))) => Some(build.nbits),
                _ => None,
            }
        };
        let f16 = Some(VEXFS_NBITS_F16);
        assert_eq!((parse(""), parse(" --nbits f16")), (Some(0), f16));
        assert_eq!(parse(" --nbits 32"), Some(32));
        assert_eq!((parse(" --nbits f32"), parse(" --nbits -1")), (None, None));
    }

    #[test]
    fn a_search_has_one_kind_of_query() {
        let parse = |args: &[&str]| Cli::try_parse_from(args);
        assert!(parse(&["vexfs", "search", "f"]).is_err());
        assert!(parse(&["vexfs", "search", "f", "--row", "1", "--key", "2"]).is_err());
        assert!(parse(&["vexfs", "search", "f", "--row", "1", "-k", "5", "--json"]).is_ok());
        assert!(parse(&["vexfs", "search", "f", "--row", "1", "-k", "0"]).is_err());
        assert!(parse(&["vexfs", "search", "f", "--row", "1", "--filter-tag", "0x6"]).is_ok());
        assert!(parse(&["vexfs", "import", "f", "s.npy", "--create"]).is_err());
        assert!(parse(&["vexfs", "delete", "f"]).is_err());
    }
}
