// SPDX-License-Identifier: Apache-2.0

//! Feeds libFuzzer's bytes to the cases of `tests/common/doors.rs`: any difference between instruction
//! sets that documentation does not allow, and any access beyond a buffer, is a finding.

#![no_main]

#[path = "../tests/common/codes.rs"]
mod codes;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/doors.rs"]
mod doors;
#[path = "../tests/common/guard.rs"]
mod guard;
#[path = "../tests/common/source.rs"]
mod source;

use std::cell::RefCell;

thread_local! {
    static ARENAS: RefCell<doors::Arenas> = RefCell::new(doors::Arenas::new());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ARENAS.with_borrow_mut(|arenas| doors::case(bytes, arenas));
});
