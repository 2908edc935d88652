// SPDX-License-Identifier: GPL-2.0

//! Pieces of work for several threads, whose results do not depend on who did which.

use core::iter::Iterator;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};
use vexfs_vfs::work;

struct Rest<I> {
    items: I,
    result: Result,
    /// Why a thread could not take part.
    absent: Option<Error>,
}

/// Runs `work` on each of `items` in up to `threads` threads, each with a state of its own that `make` makes. Nobody
/// begins an item after an error. The caller may hold `Node::rows` shared, on behalf of all.
///
/// # Errors
///
/// The first one of `work`; what `make` says if no thread has a state.
pub(super) fn each<I: Iterator + Send + Unpin, S>(
    threads: u32,
    items: I,
    make: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, I::Item) -> Result + Sync,
) -> Result {
    let rest = Rest {
        items,
        result: Ok(()),
        absent: None,
    };
    pin_init::stack_pin_init!(let rest = new_mutex!(rest, "vexfs_share"));
    let rest: &Mutex<Rest<I>> = &rest;
    work::parallel(threads, || {
        let mut state = match make() {
            Ok(state) => state,
            Err(e) => {
                rest.lock().absent = Some(e);
                return;
            }
        };
        loop {
            let mut locked = rest.lock();
            if locked.result.is_err() {
                return;
            }
            let Some(item) = locked.items.next() else {
                return;
            };
            drop(locked);
            if let Err(e) = work(&mut state, item) {
                rest.lock().result = Err(e);
                return;
            }
        }
    });
    let mut locked = rest.lock();
    locked.result?;
    match (locked.absent, locked.items.next()) {
        (Some(e), Some(_)) => Err(e),
        _ => Ok(()),
    }
}
