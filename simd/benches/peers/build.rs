// SPDX-License-Identifier: Apache-2.0

//! Compiles `shim.cc` with the headers of hnswlib, for this machine's processor.

use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=shim.cc");
    println!("cargo:rerun-if-env-changed=HNSWLIB");
    let hnswlib = env::var("HNSWLIB").expect("HNSWLIB is the directory of hnswlib's headers");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .file("shim.cc")
        .include(hnswlib)
        .flag("-march=native")
        .opt_level(3)
        .warnings(false)
        .compile("shim");

    let version = build.get_compiler().to_command().arg("--version").output();
    let version = version.map_or(Vec::new(), |output| output.stdout);
    let version = String::from_utf8_lossy(&version);
    let version = version.lines().next().unwrap_or("unknown");
    println!("cargo:rustc-env=COMPILER={version}");

    // What was resolved is told by the lock file.
    let lock = fs::read_to_string("Cargo.lock").expect("Cargo.lock is beside this file");
    println!("cargo:rerun-if-changed=Cargo.lock");
    for name in ["numkong", "simsimd"] {
        let entry = format!("name = \"{name}\"\nversion = \"");
        let version = lock
            .split_once(&entry)
            .and_then(|(_, rest)| rest.split_once('"'))
            .map_or("unknown", |(version, _)| version);
        println!("cargo:rustc-env={}_VERSION={version}", name.to_uppercase());
    }
    println!("cargo:rerun-if-env-changed=HNSWLIB_VERSION");
    let version = env::var("HNSWLIB_VERSION").unwrap_or_else(|_| "unknown".into());
    println!("cargo:rustc-env=HNSWLIB_VERSION={version}");
}
