// SPDX-License-Identifier: Apache-2.0

//! Every function of the door on random shapes, places and contents, in buffers between guard pages. The
//! fuzz target `simd/fuzz` draws the same cases with an eye on the code they reach.

#[path = "common/codes.rs"]
mod codes;
mod common;
#[path = "common/doors.rs"]
mod doors;
#[path = "common/guard.rs"]
mod guard;
#[path = "common/source.rs"]
mod source;

use common::Rng;

#[test]
#[cfg_attr(
    miri,
    ignore = "page protection is what it is about, which Miri has not"
)]
fn random_cases_agree_on_every_isa_and_stay_within_their_buffers() {
    let mut arenas = doors::Arenas::new();
    for seed in 0..20_000 {
        let mut rng = Rng(seed);
        let mut bytes = vec![seed as u8];
        bytes.extend((0..200).map(|_| rng.next() as u8));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            doors::case(&bytes, &mut arenas);
        }));
        assert!(failed.is_ok(), "seed {seed}");
    }
}
