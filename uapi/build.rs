// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
//! Runs bindgen over `vexfs.h` for cargo, with the options that Kbuild gives it
//! for the module, and tells `lib.rs` where the result is.

use bindgen::callbacks::{DeriveInfo, ParseCallbacks, TypeKind};
use std::{env, path::PathBuf};

/// What every structure of the interface derives. zerocopy refuses implicit
/// padding, so a hole in an ioctl structure does not compile.
const DERIVES: [&str; 4] = ["FromBytes", "IntoBytes", "Immutable", "KnownLayout"];

#[derive(Debug)]
struct Derives;

impl ParseCallbacks for Derives {
    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        if matches!(info.kind, TypeKind::Struct) && info.name.starts_with("vexfs_") {
            DERIVES.map(String::from).to_vec()
        } else {
            Vec::new()
        }
    }
}

fn main() {
    println!("cargo:rerun-if-changed=vexfs.h");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = bindgen::Builder::default()
        .header("vexfs.h")
        .use_core()
        .ctypes_prefix("::core::ffi")
        .rust_target(bindgen::RustTarget::stable(85, 0).expect("bindgen knows Rust 1.85"))
        .layout_tests(false)
        .allowlist_type("vexfs_.*")
        .allowlist_var("VEXFS_.*")
        .parse_callbacks(Box::new(Derives))
        .clang_arg("-w")
        .generate()
        .expect("bindgen reads vexfs.h; it needs libclang and the headers of linux-libc-dev");
    bindings
        .write_to_file(out.join("uapi_generated.rs"))
        .expect("OUT_DIR can be written");
    println!("cargo:rustc-env=VEXFS_GEN={}", out.display());
}
