// SPDX-License-Identifier: Apache-2.0
//! C and Rust see the same interface: sizes, offsets, constants and command
//! numbers, for 64-bit and for 32-bit callers.
//!
//! The Rust side is written into a C file as `_Static_assert`s, which compilers for
//! several targets then check. Nothing is run, so no foreign libc is needed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use vexfs_uapi as uapi;

/// Name, size and fields with their offsets, as rustc lays the structure out.
struct Layout {
    name: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        vec![$(Layout {
            name: stringify!($name),
            size: size_of::<uapi::$name>(),
            fields: vec![$((stringify!($field), std::mem::offset_of!(uapi::$name, $field))),*],
        }),*]
    };
}

fn layouts() -> Vec<Layout> {
    layouts! {
        vexfs_create_vector {
            size, flags, dim, element_type, metric, alignment, model_tag, reserve_rows,
            stride, reserved,
        }
        vexfs_batch {
            size, flags, op, vector_stride, count, vectors, keys, tags, rows, done, first_row,
            error_row, reserved,
        }
        vexfs_hit { key, row, distance, reserved }
        vexfs_search {
            size, flags, nq, k, index_kind, ef, nprobe, rerank, queries, query_stride, radius,
            hits, counts, tags_all, tags_any, row_bitmap, row_bitmap_rows, filter_keys,
            filter_key_count, time_budget_ns, distances, hops, rows_exact, elapsed_ns, outcome,
            threads,
        }
        vexfs_build_index {
            size, flags, index_kind, m, ef_construction, nlist, nsub, nbits, ntables,
            threads, reserved,
        }
        vexfs_vector_stats {
            size, flags, dim, element_type, metric, stride, alignment, isa, rows, live,
            durable_rows, generation, model_tag, bytes_on_disk, inserted, deleted, searches,
            distances, insert_ns, search_ns, index_count, reserved,
        }
        vexfs_index_stats {
            size, flags, index_kind, state, m, ef_construction, nodes, deleted, watermark,
            resident_bytes, digest, nlist, nsub, nbits, ntables, trained, build_error,
            build_watermark, build_rows, reserved,
        }
        vexfs_index_check {
            size, flags, index_kind, reserved0, rows, faults, unreachable, wrong_codes, wrong_rows,
            bad_images, reserved,
        }
        vexfs_uring_cmd { argument, reserved }
    }
}

const COMMANDS: [(&str, u32); 7] = [
    ("VEXFS_IOCTL_CREATE_VECTOR", uapi::VEXFS_IOCTL_CREATE_VECTOR),
    (
        "VEXFS_IOCTL_BATCH_OPERATIONS",
        uapi::VEXFS_IOCTL_BATCH_OPERATIONS,
    ),
    (
        "VEXFS_IOCTL_SIMILARITY_SEARCH",
        uapi::VEXFS_IOCTL_SIMILARITY_SEARCH,
    ),
    ("VEXFS_IOCTL_BUILD_INDEX", uapi::VEXFS_IOCTL_BUILD_INDEX),
    (
        "VEXFS_IOCTL_GET_VECTOR_STATS",
        uapi::VEXFS_IOCTL_GET_VECTOR_STATS,
    ),
    (
        "VEXFS_IOCTL_GET_INDEX_STATS",
        uapi::VEXFS_IOCTL_GET_INDEX_STATS,
    ),
    ("VEXFS_IOCTL_CHECK_INDEX", uapi::VEXFS_IOCTL_CHECK_INDEX),
];

const GENERATED: &str = include_str!(concat!(env!("VEXFS_GEN"), "/uapi_generated.rs"));

/// The structures of the bindgen output with their field names, in order.
fn generated_structs() -> Vec<(String, Vec<String>)> {
    let tokens = GENERATED.replace(';', " ; ");
    let mut found = Vec::new();
    for part in tokens.split("pub struct ").skip(1) {
        let (name, rest) = part.split_once('{').expect("a structure has a body");
        let body = rest.split('}').next().unwrap_or_default();
        let fields = body
            .split("pub ")
            .skip(1)
            .filter_map(|field| Some(field.split_once(':')?.0.trim().to_string()))
            .collect();
        found.push((name.trim().to_string(), fields));
    }
    found
}

/// The `u32` constants of the bindgen output.
fn generated_constants() -> Vec<(String, u64)> {
    GENERATED
        .split("pub const VEXFS_")
        .skip(1)
        .filter_map(|part| {
            let (name, rest) = part.split_once(':')?;
            let value = rest.split_once('=')?.1.split(';').next()?.trim();
            Some((format!("VEXFS_{}", name.trim()), value.parse().ok()?))
        })
        .collect()
}

/// The C file that holds what Rust believes.
fn assertions() -> String {
    let mut c = format!(
        "#include \"{}/vexfs.h\"\n",
        Path::new(env!("CARGO_MANIFEST_DIR")).display()
    );
    for layout in layouts() {
        let name = layout.name;
        writeln!(
            c,
            "_Static_assert(sizeof(struct {name}) == {}, \"sizeof {name}\");",
            layout.size
        )
        .unwrap();
        for (field, offset) in layout.fields {
            writeln!(
                c,
                "_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, \
                 \"{name}.{field}\");"
            )
            .unwrap();
        }
    }
    for (name, value) in COMMANDS {
        writeln!(c, "_Static_assert({name} == {value:#x}U, \"{name}\");").unwrap();
    }
    for (name, value) in generated_constants() {
        writeln!(c, "_Static_assert({name} == {value}ULL, \"{name}\");").unwrap();
    }
    for (name, value) in [
        ("VEXFS_KEY_NONE", uapi::VEXFS_KEY_NONE),
        ("VEXFS_ROW_NONE", uapi::VEXFS_ROW_NONE),
    ] {
        writeln!(c, "_Static_assert({name} == {value}ULL, \"{name}\");").unwrap();
    }
    c
}

/// A compiler by its usual names, or where Debian keeps the versioned ones.
fn find_compiler(names: &[&str]) -> Option<PathBuf> {
    let versioned = (14..30)
        .rev()
        .map(|v| format!("/usr/lib/llvm-{v}/bin/clang"));
    let clang = names.contains(&"clang");
    names
        .iter()
        .map(|name| name.to_string())
        .chain(versioned.filter(|_| clang))
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|out| out.status.success())
        })
        .map(PathBuf::from)
}

/// Compiles `source` without libc, with the kernel's user-space headers only.
fn compiles(compiler: &Path, target: &[&str], source: &Path) -> Result<(), String> {
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(compiler)
        .args(target)
        .args(["-nostdinc", "-fsyntax-only", "-Werror", "-std=gnu11"])
        .args(["-isystem", "/usr/include", "-isystem", &multiarch])
        .arg(source)
        .output()
        .map_err(|e| e.to_string())?;
    if out.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// The compilers and targets at hand. Most are 32-bit: i386 aligns `__u64` to 4
/// bytes and 32-bit Arm to 8, so both kinds of implicit padding would show.
fn targets() -> Vec<(PathBuf, Vec<&'static str>)> {
    let mut all = Vec::new();
    if let Some(clang) = find_compiler(&["clang"]) {
        for target in [
            "--target=x86_64-linux-gnu",
            "--target=i386-linux-gnu",
            "--target=aarch64-linux-gnu",
            "--target=arm-linux-gnueabihf",
        ] {
            all.push((clang.clone(), vec![target]));
        }
    }
    if let Some(cc) = find_compiler(&["gcc", "cc"]) {
        all.push((cc.clone(), vec![]));
        if cfg!(target_arch = "x86_64") {
            all.push((cc.clone(), vec!["-m32"]));
        }
    }
    all
}

#[test]
fn c_and_rust_agree_for_64_and_32_bit_callers() {
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vexfs_layout.c");
    std::fs::write(&source, assertions()).unwrap();
    let targets = targets();
    assert!(
        !targets.is_empty(),
        "no C compiler found: install gcc or clang"
    );
    for (compiler, target) in targets {
        if let Err(errors) = compiles(&compiler, &target, &source) {
            panic!("{} {target:?}: {errors}", compiler.display());
        }
    }
}

/// The comparison itself must be able to fail.
#[test]
fn a_wrong_offset_is_noticed() {
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vexfs_layout_wrong.c");
    let wrong = assertions().replace(
        "struct vexfs_hit, row) == 8",
        "struct vexfs_hit, row) == 12",
    );
    assert_ne!(wrong, assertions());
    std::fs::write(&source, wrong).unwrap();
    for (compiler, target) in targets() {
        let errors = compiles(&compiler, &target, &source).unwrap_err();
        assert!(errors.contains("vexfs_hit.row"), "{errors}");
    }
}

/// A field or structure added to the header must be added to the list above.
#[test]
fn every_structure_and_field_of_the_header_is_compared() {
    let listed: Vec<(String, Vec<String>)> = layouts()
        .into_iter()
        .map(|l| {
            let fields = l.fields.iter().map(|(f, _)| f.to_string()).collect();
            (l.name.to_string(), fields)
        })
        .collect();
    let mut generated = generated_structs();
    let mut sorted = listed;
    generated.sort();
    sorted.sort();
    assert_eq!(sorted, generated);
    assert!(generated_constants().len() > 40, "constants were found");
}

#[test]
fn commands_carry_their_magic_and_number() {
    for (i, (name, command)) in COMMANDS.into_iter().enumerate() {
        assert_eq!(
            uapi::command_magic(command),
            uapi::VEXFS_IOCTL_MAGIC,
            "{name}"
        );
        assert_eq!(uapi::command_nr(command), i as u32 + 1, "{name}");
    }
}
