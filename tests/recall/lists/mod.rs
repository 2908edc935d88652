// SPDX-License-Identifier: Apache-2.0

//! Inverted files in user space: memory, locks and arithmetic over arrays, for tests and benchmarks.

mod arena;
mod built;
mod scorer;
mod space;

pub use arena::Arena;
pub use built::{train, Built, Memory};
pub use scorer::Scorer;
pub use space::Space;
