// SPDX-License-Identifier: Apache-2.0
//! The commands from the command line to the printed result, on a volume in memory
//! that keeps the rules of `vexfs.h`. The same commands run on the kernel in the guest.

use clap::Parser;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vexfs_cli::{args::Cli, formats::npy, output::Output};
use vexfs_client::memory::MemoryVolume;

struct Bench {
    volume: MemoryVolume,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            volume: MemoryVolume::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `vexfs ARGS`; `@name` is a file of the test's directory.
    fn run(&self, args: &str) -> Result<(String, String), String> {
        let words = args
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => word.into(),
            });
        let cli = Cli::try_parse_from(std::iter::once("vexfs".into()).chain(words))
            .map_err(|e| format!("usage: {e}"))?;
        let (mut to, mut remarks) = (Vec::new(), Vec::new());
        let mut output = Output {
            json: cli.json,
            to: &mut to,
            remarks: &mut remarks,
        };
        vexfs_cli::run(&cli, &self.volume, &mut output).map_err(|e| e.to_string())?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok((text(to), text(remarks)))
    }

    fn json(&self, args: &str) -> Value {
        let (out, remarks) = self.run(&format!("{args} --json")).unwrap();
        assert_eq!(remarks, "", "JSON comes alone");
        assert_eq!(out.lines().count(), 1, "one object on one line");
        serde_json::from_str(&out).unwrap()
    }

    fn npy(&self, name: &str, descr: &str, shape: &str, data: impl IntoIterator<Item = u8>) {
        let mut bytes = npy::header_bytes(descr, shape).to_vec();
        bytes.extend(data);
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn f32s(&self, name: &str, dim: usize, values: &[f32]) {
        let shape = format!("({}, {dim})", values.len() / dim);
        self.npy(
            name,
            "<f4",
            &shape,
            values.iter().flat_map(|v| v.to_le_bytes()),
        );
    }

    fn u64s(&self, name: &str, values: &[u64]) {
        let shape = format!("({},)", values.len());
        self.npy(
            name,
            "<u8",
            &shape,
            values.iter().flat_map(|v| v.to_le_bytes()),
        );
    }

    /// Rows 0..n of a line, n x 2.
    fn line(&self, name: &str, n: usize) {
        let values: Vec<f32> = (0..n).flat_map(|i| [i as f32, 0.0]).collect();
        self.f32s(name, 2, &values);
    }
}

fn rows_of(report: &Value, query: usize) -> Vec<u64> {
    let hits = report["results"][query]["hits"].as_array().unwrap();
    hits.iter().map(|h| h["row"].as_u64().unwrap()).collect()
}

#[test]
fn create_import_search_and_stats_work_together() {
    let b = Bench::new();
    b.line("base.npy", 100);
    let made = b.json("create @c --dim 2 --type f32 --metric l2 --align 64 --model-tag 0xbeef");
    assert_eq!(
        (made["dim"].as_u64(), made["stride"].as_u64()),
        (Some(2), Some(64))
    );
    assert_eq!(made["model_tag"], 0xbeef);
    let done = b.json("import @c @base.npy --batch 33");
    assert_eq!(
        (done["rows"].as_u64(), done["batches"].as_u64()),
        (Some(100), Some(4))
    );
    assert_eq!(done["first_row"], 0);
    let found = b.json("search @c --row 7 -k 3");
    assert_eq!(rows_of(&found, 0), [7, 6, 8]);
    assert_eq!(found["results"][0]["hits"][1]["distance"], 1.0);
    assert_eq!(found["distances"], 100);
    let found = b.json("search @c --queries @base.npy -k 1 --limit 60 --exact");
    assert_eq!(found["results"].as_array().unwrap().len(), 60);
    assert_eq!(rows_of(&found, 59), [59]);
    let stats = b.json("stats @c");
    assert_eq!(
        (stats["live"].as_u64(), stats["metric"].as_str()),
        (Some(100), Some("l2"))
    );
    let (text, _) = b.run("stats @c").unwrap();
    assert!(text.contains("100 live of 100"), "{text}");
}

#[test]
fn import_creates_and_takes_keys_and_tags() {
    let b = Bench::new();
    b.line("base.npy", 3);
    b.u64s("keys.npy", &[10, 20, 30]);
    b.u64s("tags.npy", &[1, 3, 2]);
    b.json("import @c @base.npy --create --metric cosine --keys @keys.npy --tags @tags.npy");
    let got = b.json("get @c --key 20 30");
    assert_eq!(got["rows"][0]["row"], 1);
    assert_eq!(got["rows"][1]["tags"], 2);
    let found = b.json("search @c --key 20 --tags-all 0x2 -k 9");
    assert_eq!(rows_of(&found, 0), [1, 2]);
    let found = b.json("search @c --key 20 --tags-any 1 -k 9");
    assert_eq!(found["results"][0]["hits"].as_array().unwrap().len(), 2);
    let error = b
        .run("import @c @base.npy --create --metric cosine")
        .unwrap_err();
    assert!(error.contains("container already"), "{error}");
}

#[test]
fn an_import_that_fails_says_how_to_go_on() {
    let b = Bench::new();
    b.f32s("bad.npy", 1, &[1.0, 2.0, 3.0, f32::NAN, 5.0]);
    let error = b
        .run("import @new @bad.npy --create --metric l2")
        .unwrap_err();
    assert!(
        error.contains("row 3 of") && error.contains("NaN"),
        "{error}"
    );
    assert!(
        !b.volume.contains(b.path("new")),
        "no half container is left"
    );
    b.run("create @c --dim 1 --metric l2").unwrap();
    let error = b.run("import @c @bad.npy --batch 2").unwrap_err();
    assert!(
        error.contains("row 3 of") && error.ends_with("go on with --skip 2"),
        "{error}"
    );
    assert_eq!(b.json("stats @c")["live"], 2);
    b.json("import @c @bad.npy --skip 4");
    assert_eq!(b.json("stats @c")["live"], 3);
    b.line("two.npy", 2);
    let error = b.run("import @c @two.npy").unwrap_err();
    assert!(
        error.contains("2 elements") && error.contains("wants 1"),
        "{error}"
    );
    let error = b.run("import @c @bad.npy --skip 6").unwrap_err();
    assert!(error.contains("only 5 rows"), "{error}");
}

#[test]
fn upsert_replaces_by_key_and_insert_refuses_it() {
    let b = Bench::new();
    b.line("base.npy", 3);
    b.u64s("keys.npy", &[10, 20, 30]);
    b.json("import @c @base.npy --create --metric l2 --keys @keys.npy");
    let error = b.run("import @c @base.npy --keys @keys.npy").unwrap_err();
    assert!(
        error.contains("key of row 0") && error.contains("upsert"),
        "{error}"
    );
    b.f32s("new.npy", 2, &[5.0, 5.0]);
    b.u64s("one.npy", &[20]);
    b.json("upsert @c @new.npy --keys @one.npy");
    assert_eq!(b.json("get @c --key 20")["rows"][0]["vector"][0], 5.0);
    assert_eq!(b.json("stats @c")["live"], 3);
    let error = b.run("upsert @c @new.npy --keys @keys.npy").unwrap_err();
    assert!(error.contains("3 x 1 keys for 1 rows"), "{error}");
}

#[test]
fn delete_is_all_or_none_and_get_names_what_is_missing() {
    let b = Bench::new();
    b.line("base.npy", 4);
    b.json("import @c @base.npy --create --metric l2");
    let error = b.run("delete @c --row 1 9").unwrap_err();
    assert!(
        error.contains("no row 9") && error.contains("nothing was deleted"),
        "{error}"
    );
    assert_eq!(b.json("delete @c --row 1,9 --skip-missing")["deleted"], 1);
    let error = b.run("get @c --row 1").unwrap_err();
    assert!(error.contains("no row 1"), "{error}");
    assert_eq!(rows_of(&b.json("search @c --row 0 -k 2"), 0), [0, 2]);
    let error = b.run("search @c --row 1").unwrap_err();
    assert!(error.contains("no row 1"), "{error}");
}

#[test]
fn export_writes_the_live_rows_with_their_keys() {
    let b = Bench::new();
    b.line("base.npy", 4);
    b.json("import @c @base.npy --create --metric l2");
    b.json("delete @c --row 1");
    for dest in ["out.npy", "out.fvecs"] {
        let report = b.json(&format!("export @c @{dest} --keys @keys.npy"));
        assert_eq!(report["rows"], 3);
        let copy = format!("@copy-{dest}");
        b.json(&format!(
            "import {copy} @{dest} --create --metric l2 --keys @keys.npy"
        ));
        let got = b.json(&format!("get {copy} --key 0 2 3"));
        assert_eq!(got["rows"][2]["vector"][0], 3.0);
    }
    let error = b.run("export @c @same.npy --keys @same.npy").unwrap_err();
    assert!(error.contains("name two files"), "{error}");
}

#[test]
fn recall_allows_ties_and_can_be_demanded() {
    let b = Bench::new();
    b.f32s("base.npy", 1, &[0.0, 1.0, 1.0, 5.0]);
    b.f32s("q.npy", 1, &[0.0]);
    b.json("import @c @base.npy --create --metric l2");
    let truth = |name: &str, rows: [i32; 2]| {
        b.npy(
            name,
            "<i4",
            "(1, 2)",
            rows.iter().flat_map(|v| v.to_le_bytes()),
        );
    };
    truth("tie.npy", [0, 2]);
    let report = b.json("search @c --queries @q.npy -k 2 --ground-truth @tie.npy");
    assert_eq!(rows_of(&report, 0), [0, 1]);
    assert_eq!(report["recall"]["recall"], 1.0);
    assert_eq!(report["recall"]["max_distance_error"], 0.0);
    b.json("delete @c --row 1,2");
    let args = "search @c --queries @q.npy -k 2 --ground-truth @tie.npy";
    let error = b.run(args).unwrap_err();
    assert!(error.contains("has no row 2"), "{error}");
    truth("self.npy", [0, 0]);
    let args = "search @c --queries @q.npy -k 2 --ground-truth @self.npy --min-recall 1";
    let error = b.run(args).unwrap_err();
    assert!(error.contains("recall@2 is 0.5"), "{error}");
    let error = b
        .run("search @c --queries @q.npy -k 3 --ground-truth @tie.npy")
        .unwrap_err();
    assert!(error.contains("1 x 2 for 1 queries and k 3"), "{error}");
}

#[test]
fn the_text_of_a_search_is_the_same_for_the_same_answers() {
    let b = Bench::new();
    b.line("base.npy", 9);
    b.json("import @c @base.npy --create --metric l2");
    let (first, remarks) = b.run("search @c --queries @base.npy -k 2").unwrap();
    assert_eq!(
        first,
        b.run("search @c --queries @base.npy -k 2").unwrap().0
    );
    assert_eq!(first.lines().count(), 1 + 9 * 2);
    assert!(remarks.contains("searches/s") && !first.contains("searches/s"));
}

#[test]
fn bad_queries_and_files_are_named() {
    let b = Bench::new();
    b.line("base.npy", 2);
    b.json("import @c @base.npy --create --metric l2");
    b.f32s("nan.npy", 2, &[0.0, 0.0, f32::INFINITY, 0.0]);
    let error = b.run("search @c --queries @nan.npy").unwrap_err();
    assert!(error.contains("query 1 holds a NaN or infinity"), "{error}");
    b.f32s("three.npy", 3, &[0.0; 3]);
    let error = b.run("search @c --queries @three.npy").unwrap_err();
    assert!(error.contains("vectors of 3 elements"), "{error}");
    let error = b.run("search @c --row 0 --index hnsw").unwrap_err();
    assert!(error.contains("no index of that kind"), "{error}");
    let error = b.run("search @nothing --row 0").unwrap_err();
    assert!(error.contains("vexfs create"), "{error}");
    let error = b.run("import @c @none.npy").unwrap_err();
    assert!(error.contains("none.npy"), "{error}");
    std::fs::write(b.path("x.csv"), "1,2").unwrap();
    let error = b.run("import @c @x.csv").unwrap_err();
    assert!(error.contains("name it .npy"), "{error}");
    let error = b.run("import @c /dev/null").unwrap_err();
    assert!(error.contains("name it"), "{error}");
}

#[test]
fn indexes_are_listed_and_missing_ones_are_named() {
    let b = Bench::new();
    b.line("base.npy", 2);
    b.json("import @c @base.npy --create --metric l2");
    let list = b.json("index list @c");
    assert_eq!(list["indexes"].as_array().map(Vec::len), Some(0));
    assert!(b.run("index list @c").unwrap().0.contains("no index"));
    // Containers in memory have none.
    let error = b.run("index build @c").unwrap_err();
    assert!(error.contains("no index of that kind yet"), "{error}");
    let error = b
        .run("index build @c --threads 4 --background")
        .unwrap_err();
    assert!(error.contains("no index of that kind yet"), "{error}");
    let scrubbed = b.json("scrub @c");
    assert_eq!(scrubbed["indexes"].as_array().map(Vec::len), Some(0));
    for command in ["index status @c", "index drop @c"] {
        let error = b.run(command).unwrap_err();
        assert!(error.contains("it has no index of that kind"), "{error}");
    }
}

/// The shipped data, with the exact answers that were made outside of all this.
#[test]
fn the_shipped_questions_have_recall_one_on_the_shipped_passages() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kdocs");
    let data = data.display();
    let b = Bench::new();
    let done = b.json(&format!(
        "import @c {data}/base_f16.npy --create --metric cosine"
    ));
    assert_eq!(
        (done["rows"].as_u64(), done["dim"].as_u64()),
        (Some(12000), Some(384))
    );
    let report = b.json(&format!(
        "search @c --queries {data}/questions_f16.npy -k 10 --exact --limit 5 \
         --ground-truth {data}/exact_cosine_rows.npy --min-recall 1"
    ));
    assert_eq!(report["recall"]["recall"], 1.0);
    assert!(report["recall"]["max_distance_error"].as_f64().unwrap() < 1e-7);
}

#[test]
fn containers_of_every_type_are_filled_searched_and_exported() {
    let b = Bench::new();
    b.f32s("f.npy", 2, &[0.0, 1.0, 3.0, 4.0, 127.0, 2.0]);
    for element_type in ["f16", "bf16", "i8", "u8"] {
        let c = format!("@{element_type}");
        let done = b.json(&format!(
            "import {c} @f.npy --create --metric l2 --type {element_type}"
        ));
        assert_eq!(done["element_type"], element_type);
        assert_eq!(b.json(&format!("stats {c}"))["element_type"], element_type);
        let got = b.json(&format!("get {c} --row 2"));
        assert_eq!(got["rows"][0]["vector"][0].as_f64(), Some(127.0));
        let whole = got["rows"][0]["vector"][0].is_u64();
        assert_eq!(
            whole,
            element_type.ends_with('8'),
            "integers are printed as such"
        );
        let found = b.json(&format!("search {c} --queries @f.npy -k 1"));
        assert_eq!(rows_of(&found, 1), [1]);
        assert_eq!(found["results"][1]["hits"][0]["distance"], 0.0);
        // An exported file has the type of the container, and goes back as it is.
        b.json(&format!("export {c} @out.npy"));
        b.json(&format!(
            "import {c}.copy @out.npy --create --metric dot --type {element_type}"
        ));
        let found = b.json(&format!("search {c}.copy --row 2 -k 1"));
        assert_eq!(
            found["results"][0]["hits"][0]["distance"],
            -127.0 * 127.0 - 4.0
        );
    }
    b.npy("bits.npy", "|u1", "(3, 2)", [0xff, 0, 0x0f, 0, 0, 1]);
    b.json("import @b @bits.npy --create --metric hamming --type binary");
    assert_eq!(b.json("stats @b")["dim"], 16);
    let found = b.json("search @b --queries @bits.npy -k 3");
    assert_eq!(rows_of(&found, 0), [0, 1, 2]);
    assert_eq!(found["results"][0]["hits"][2]["distance"], 9.0);
    assert_eq!(b.json("get @b --row 2")["rows"][0]["vector"][8], 1);
    b.json("export @b @out.npy");
    b.json("create @nine --dim 9 --metric hamming --type binary");
    b.json("import @nine @out.npy");
    b.npy(
        "truth.npy",
        "<i4",
        "(3, 1)",
        [0i32, 1, 2].iter().flat_map(|v| v.to_le_bytes()),
    );
    let report = b.json("search @nine --queries @bits.npy -k 1 --ground-truth @truth.npy");
    assert_eq!(report["recall"]["recall"], 1.0);
    assert_eq!(report["recall"]["max_distance_error"], 0.0);
}

#[test]
fn what_a_type_cannot_hold_is_said_in_a_sentence() {
    let b = Bench::new();
    b.f32s("f.npy", 2, &[0.0, 1.0, 0.5, 4.0]);
    b.f32s("large.npy", 1, &[1.0, 1e5]);
    b.npy("bits.npy", "|u1", "(2, 2)", [0, 0, 0, 2]);
    for (args, words) in [
        (
            "import @c @f.npy --create --metric l2 --type i8",
            "row 1 of",
        ),
        (
            "import @c @f.npy --create --metric l2 --type u8",
            "0.5, which is no uint8",
        ),
        (
            "import @c @large.npy --create --metric l2 --type f16",
            "beyond f16",
        ),
        (
            "import @c @f.npy --create --metric hamming --type binary",
            "packbits",
        ),
        (
            "import @c @f.npy --create --metric hamming",
            "binary elements only",
        ),
        (
            "create @c --dim 8 --metric hamming --type u8",
            "binary elements only",
        ),
        ("create @c --dim 8 --metric l2 --type f64", "usage"),
    ] {
        let error = b.run(args).unwrap_err();
        assert!(error.contains(words), "{args}: {error}");
        assert!(!b.volume.contains(b.path("c")), "{args}");
    }
    b.json("create @nine --dim 9 --metric cosine --type binary");
    let error = b.run("import @nine @bits.npy").unwrap_err();
    assert!(
        error.contains("row 1 of") && error.contains("behind the 9"),
        "{error}"
    );
    let error = b.run("search @nine --queries @bits.npy").unwrap_err();
    assert!(error.contains("query 1 holds a bit behind"), "{error}");
    let error = b.run("export @nine @out.fvecs").unwrap_err();
    assert!(error.contains("export to .npy"), "{error}");
}

#[test]
fn bench_recall_measures_what_is_there_and_writes_it() {
    let b = Bench::new();
    b.line("base.npy", 200);
    b.json("import @c @base.npy --create --metric l2");
    let error = b.run("bench recall @c").unwrap_err();
    assert!(error.contains("has no index"), "{error}");
    let report = b.json(
        "bench recall @c --index exact --sample 50 -k 4 --rounds 1 --report @r.json --plot @r.svg",
    );
    assert_eq!(
        (report["queries"].as_u64(), report["held_out"].as_bool()),
        (Some(50), Some(true))
    );
    let point = &report["curves"][0]["points"][0];
    assert_eq!(point["recall"], 1.0);
    assert_eq!(point["rows_exact"], 200.0);
    let written = std::fs::read_to_string(b.path("r.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), report);
    let drawn = std::fs::read_to_string(b.path("r.svg")).unwrap();
    assert!(
        drawn.contains("recall@4") && drawn.contains("exact"),
        "{drawn}"
    );
    let report = b.json("bench recall @c --index exact --queries @base.npy --limit 7 --rounds 1");
    assert_eq!(
        (report["queries"].as_u64(), report["held_out"].as_bool()),
        (Some(7), Some(false))
    );
    let (text, _) = b
        .run("bench recall @c --index exact --sample 5 --rounds 1")
        .unwrap();
    assert!(text.contains("recall@10"), "{text}");
    assert!(b.run("bench recall @c --index hnsw").is_err(), "not built");
}
