// SPDX-License-Identifier: GPL-2.0

//! Whether a graph is sound, and of the rows that its container has.

use super::codes::Arithmetic;
use super::graph::{Graph, Scratch};
use super::is_live;
use crate::VexFs;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::{CheckMemory, Numeric, Store, NOWHERE};
use vexfs_uapi::Findings;
use vexfs_vfs::Inode;

/// Checks the graph's links. Nobody changes them meanwhile, or has what is spare of its account.
pub(super) fn links(graph: &Graph, findings: &mut Findings) -> Result {
    let counts = graph.graph.image();
    let (used, uppers) = (counts.used as usize, counts.used_uppers as usize);
    let mut counts = KVVec::from_elem(0u32, used, GFP_KERNEL | __GFP_NOWARN)?;
    let mut upper_counts = KVVec::from_elem(0u32, uppers, GFP_KERNEL | __GFP_NOWARN)?;
    let mut queue = KVVec::from_elem(0u32, used, GFP_KERNEL | __GFP_NOWARN)?;
    let mut visited =
        KVVec::from_elem(0u64, visited_words(used as u32), GFP_KERNEL | __GFP_NOWARN)?;
    let report = graph.graph.check(&mut CheckMemory {
        counts: &mut counts,
        upper_counts: &mut upper_counts,
        queue: &mut queue,
        visited: &mut visited,
    });
    findings.faults = findings.faults.saturating_add(report.faults);
    findings.unreachable = findings
        .unreachable
        .saturating_add(u64::from(report.unreachable));
    Ok(())
}

/// Compares the codes of the rows `rows`, all below the watermark, with their vectors. Nobody changes the
/// graph meanwhile, and `Node::rows` is held shared.
pub(super) fn codes(
    graph: &Graph,
    inode: &Inode<VexFs>,
    scratch: &mut Scratch,
    rows: core::ops::Range<u64>,
    findings: &mut Findings,
) -> Result {
    let Scratch { vectors, .. } = scratch;
    let mut code = KVVec::from_elem(0u32, graph.codec.code_words(), GFP_KERNEL | __GFP_NOWARN)?;
    let mut arithmetic = Arithmetic::new(inode, &graph.codec, vectors)?;
    let store = graph.graph.store();
    for row in rows.clone() {
        let place = store.place(row).map(|place| place.load(Ordering::Relaxed));
        let slot = place.filter(|slot| *slot != NOWHERE);
        findings.rows = findings.rows.saturating_add(1);
        if slot.is_some() != is_live(inode, row) {
            findings.wrong_rows = findings.wrong_rows.saturating_add(1);
            continue;
        }
        let Some(node) = slot.and_then(|slot| store.node(slot)) else {
            continue;
        };
        arithmetic.set_row(row, rows.end)?;
        arithmetic.encode(&mut code)?;
        let same = |(word, code): (&core::sync::atomic::AtomicU32, &u32)| {
            word.load(Ordering::Relaxed) == *code
        };
        if !node.iter().zip(&code).all(same) {
            findings.wrong_codes = findings.wrong_codes.saturating_add(1);
        }
    }
    Ok(())
}
