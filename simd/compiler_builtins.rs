// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What rustc links to every `no_std` crate, empty: `Kbuild` builds it where the toolchain has
//! no prebuilt one. What it would have defined is an undefined symbol at modpost.

#![no_std]
#![feature(compiler_builtins)]
#![compiler_builtins]
