// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which instruction set to use: the choice itself, without the processor it is made for.

use crate::Isa;

/// The most capable instruction set up to `limit` that the machine `has` and that `proves` itself.
///
/// Asks from the most capable down and stops at the first that proves itself; each that does not is
/// told to `refused`, once. What the machine lacks or the limit rules out is not tested.
/// [`Isa::Scalar`] is what the others are compared with and needs no proof.
pub fn choose(
    limit: Option<Isa>,
    mut has: impl FnMut(Isa) -> bool,
    mut proves: impl FnMut(Isa) -> bool,
    mut refused: impl FnMut(Isa),
) -> Isa {
    for isa in Isa::ALL.into_iter().rev() {
        if isa == Isa::Scalar || limit.is_some_and(|limit| !isa.is_at_most(limit)) || !has(isa) {
            continue;
        }
        if proves(isa) {
            return isa;
        }
        refused(isa);
    }
    Isa::Scalar
}
