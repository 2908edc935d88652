// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The choice of an instruction set, with machines and verdicts of the test's own: what happens when
//! a variant computes wrongly can't be seen on a machine where all of them are right.

use std::cell::RefCell;

use vexfs_simd_host::{choose, Isa};

/// What was chosen, which were tested, which were refused.
fn run(limit: Option<Isa>, has: &[Isa], wrong: &[Isa]) -> (Isa, Vec<Isa>, Vec<Isa>) {
    let (tested, refused) = (RefCell::new(vec![]), RefCell::new(vec![]));
    let chosen = choose(
        limit,
        |isa| has.contains(&isa),
        |isa| {
            tested.borrow_mut().push(isa);
            !wrong.contains(&isa)
        },
        |isa| refused.borrow_mut().push(isa),
    );
    (chosen, tested.into_inner(), refused.into_inner())
}

const X86: [Isa; 5] = [
    Isa::Scalar,
    Isa::Avx2,
    Isa::Avx512,
    Isa::Avx512Vnni,
    Isa::Avx512Bf16,
];

#[test]
fn the_most_capable_that_there_is_gets_used_and_only_it_is_tested() {
    assert_eq!(
        run(None, &X86, &[]),
        (Isa::Avx512Bf16, vec![Isa::Avx512Bf16], vec![])
    );
    assert_eq!(
        run(None, &X86[..2], &[]),
        (Isa::Avx2, vec![Isa::Avx2], vec![])
    );
    let arm = [Isa::Scalar, Isa::Neon, Isa::NeonDot];
    assert_eq!(run(None, &arm, &[]).0, Isa::NeonDot);
    assert_eq!(run(None, &arm[..2], &[]).0, Isa::Neon);
    assert_eq!(
        run(None, &[Isa::Scalar], &[]),
        (Isa::Scalar, vec![], vec![])
    );
}

#[test]
fn one_that_disagrees_is_refused_once_and_the_next_lower_is_used() {
    let (chosen, tested, refused) = run(None, &X86, &[Isa::Avx512Bf16]);
    assert_eq!(chosen, Isa::Avx512Vnni);
    assert_eq!(tested, [Isa::Avx512Bf16, Isa::Avx512Vnni]);
    assert_eq!(refused, [Isa::Avx512Bf16]);

    let (chosen, _, refused) = run(None, &X86, &[Isa::Avx512Bf16, Isa::Avx512Vnni, Isa::Avx512]);
    assert_eq!(chosen, Isa::Avx2);
    assert_eq!(refused, [Isa::Avx512Bf16, Isa::Avx512Vnni, Isa::Avx512]);

    let (chosen, tested, refused) = run(None, &X86, &X86);
    assert_eq!(chosen, Isa::Scalar);
    assert_eq!(tested, refused);
    assert!(!tested.contains(&Isa::Scalar));
}

#[test]
fn a_limit_rules_out_what_is_above_it_without_testing_it() {
    for (limit, want) in [
        (Isa::Scalar, Isa::Scalar),
        (Isa::Avx2, Isa::Avx2),
        (Isa::Avx512, Isa::Avx512),
        (Isa::Avx512Bf16, Isa::Avx512Bf16),
    ] {
        let (chosen, tested, _) = run(Some(limit), &X86, &[]);
        assert_eq!(chosen, want);
        assert!(tested.iter().all(|isa| *isa == want));
    }
    // A limit that the machine lacks leaves the next lower one it has.
    assert_eq!(run(Some(Isa::Avx512), &X86[..2], &[]).0, Isa::Avx2);
    assert_eq!(run(Some(Isa::Avx512), &X86, &[Isa::Avx512]).0, Isa::Avx2);
}
