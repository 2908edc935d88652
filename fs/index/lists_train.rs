// SPDX-License-Identifier: GPL-2.0

//! Training of inverted lists: centroids and codebooks from a sample of the rows, then the list of each row,
//! so that a list's blocks lie together.

use super::catch_up::GoOn;
use super::lists::{errno, Assigned, Lists};
use super::lists_codes::Model;
use super::lists_loader::{LoadMemory, Loader, Source, Wide};
use super::lists_memory::Batch;
use super::{is_live, share, stopped};
use crate::VexFs;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use vexfs_ann::ivf::params::BLOCK_ROWS;
use vexfs_ann::ivf::train::{self, TrainMemory, TrainSizes};
use vexfs_ann::ivf::Params;
use vexfs_ann::kmeans::Failure;
use vexfs_vfs::array::Array;
use vexfs_vfs::Inode;

/// The sample is a 1/[`SAMPLE_SHARE`] of the rows at most, or [`LEAST_SAMPLE`]: so building takes less than half of
/// the rows' own memory.
const SAMPLE_SHARE: u64 = 4;
const LEAST_SAMPLE: u64 = 1024;

fn sizes(params: &Params, live: u64, rows: u64) -> TrainSizes {
    TrainMemory::sizes_of(params, rows, (live / SAMPLE_SHARE).max(LEAST_SAMPLE))
}

/// Bytes of memory while the lists of a container with `live` rows, numbered below `rows`, are trained.
pub(super) fn bytes(params: &Params, live: u64, rows: u64) -> u64 {
    let sizes = sizes(params, live, rows);
    let longs = sizes.sums.saturating_add(sizes.counts);
    let words = sizes.rows.saturating_mul(2);
    (sizes.sample as u64)
        .saturating_add((longs as u64).saturating_mul(8))
        .saturating_add((words as u64).saturating_mul(4))
        .saturating_add(params.entries(rows).saturating_mul(4))
        .saturating_add(u64::from(params.nlist).saturating_mul(4))
}

/// As `Structure::train`.
pub(super) fn train(
    lists: &Lists,
    inode: &Inode<VexFs>,
    rows: u64,
    threads: u32,
    go_on: GoOn<'_>,
) -> Result {
    let params = &lists.coder.params;
    // Loading takes `Node::rows`, which is never taken while lists are changed.
    let (charge, moved) = {
        let mut writer = lists.writer.lock();
        let charge = writer.training.take().ok_or(EINVAL)?;
        (charge, writer.taken.moved)
    };
    let mut batch = Batch::new(&lists.account, &lists.coder)?;
    let live = inode.node().container.lock().area.live;
    let sizes = sizes(params, live, rows);
    let batches = rows.div_ceil(lists.coder.batch() as u64);
    let steps = train::steps(params, sizes.rows).saturating_add(batches);
    lists.progress.steps.store(steps, Ordering::Relaxed);
    let step = || {
        lists.progress.done.fetch_add(1, Ordering::Relaxed);
        go_on()
    };
    let wide = Wide {
        threads,
        go_on: &step,
    };
    let model = make_model(lists, inode, &mut batch.load, rows, &sizes, wide)?;
    let assigned = assign(lists, inode, rows, &model, wide)?;
    let mut writer = lists.writer.lock();
    make_room(lists, inode, &mut batch, &model, &assigned)?;
    lists.model.populate(model);
    // Others are in the place of some rows now, or other bytes.
    if writer.taken.moved == moved {
        writer.assigned = Some(Assigned {
            lists: assigned,
            _charge: charge,
        });
    }
    Ok(())
}

fn make_model(
    lists: &Lists,
    inode: &Inode<VexFs>,
    load: &mut LoadMemory,
    rows: u64,
    sizes: &TrainSizes,
    wide: Wide<'_>,
) -> Result<Model> {
    let params = &lists.coder.params;
    let mut model = Model::empty(params)?;
    let mut sample = Array::zeros(sizes.sample)?;
    let (mut ids, mut keys) = (Array::zeros(sizes.rows)?, Array::zeros(sizes.rows)?);
    let (mut sums, mut counts) = (Array::zeros(sizes.sums)?, Array::zeros(sizes.counts)?);
    let mut memory = TrainMemory {
        sample: &mut sample,
        ids: &mut ids,
        keys: &mut keys,
        sums: &mut sums,
        counts: &mut counts,
    };
    let mut loader = Loader::new(inode, &lists.coder, load, Source::Sample)?;
    if wide.threads > 1 {
        loader.widen(wide);
    }
    let mut stop = || (wide.go_on)().is_err();
    let (centroids, codebooks) = (&mut model.centroids, &mut model.codebooks);
    let trained = train::train(
        params,
        &mut loader,
        rows,
        &mut memory,
        centroids,
        codebooks,
        &mut stop,
    );
    match trained {
        Ok(()) => Ok(model),
        Err(Failure::Stopped) => Err(stopped()),
        // There is as much as `sizes` says, but no row.
        Err(Failure::Memory) => Err(ENODATA),
        Err(Failure::Caller(e)) => Err(e),
    }
}

/// Finds the lists of the live ones of the first `rows` rows: one each, or two one after the other.
fn assign(
    lists: &Lists,
    inode: &Inode<VexFs>,
    rows: u64,
    model: &Model,
    wide: Wide<'_>,
) -> Result<Array<u32>> {
    let params = &lists.coder.params;
    let each = params.copies as usize;
    let mut assigned = Array::zeros(usize::try_from(params.entries(rows))?)?;
    assigned.fill(u32::MAX);
    let at_once = lists.coder.batch();
    let some = |batch: &mut Batch, (at, places): (usize, &mut [u32])| {
        (wide.go_on)()?;
        let first = at.saturating_mul(at_once) as u64;
        let last = first.saturating_add((places.len().checked_div(each).unwrap_or(0)) as u64);
        batch.fill((first..last).filter(|row| is_live(inode, *row)))?;
        let mut lent = batch.lend();
        let source = Source::Named { end: rows };
        let mut loader = Loader::new(inode, &lists.coder, lent.load, source)?;
        let (numbers, memory) = (lent.rows, &mut lent.memory);
        let find = || {
            lists.index.read(|index| {
                index.lists_of(&mut loader, &model.lend(), numbers, memory, lent.lists)
            })
        };
        inode.node().rows.read(find).map_err(errno)?;
        for (row, found) in numbers.iter().zip(lent.lists.chunks(each)) {
            let at = row.checked_sub(first).ok_or(EINVAL)? as usize;
            let places = places.chunks_mut(each).nth(at).ok_or(EINVAL)?;
            for (place, list) in places.iter_mut().zip(found) {
                *place = *list;
            }
        }
        Ok(())
    };
    let make = || Batch::new(&lists.account, &lists.coder);
    let pieces = assigned
        .chunks_mut(at_once.saturating_mul(each))
        .enumerate();
    share::each(wide.threads, pieces, make, some)?;
    Ok(assigned)
}

/// Makes room for as many rows as each list will have, one list after the other, and encodes the lists themselves.
/// The writer is locked.
fn make_room(
    lists: &Lists,
    inode: &Inode<VexFs>,
    batch: &mut Batch,
    model: &Model,
    assigned: &[u32],
) -> Result {
    let nlist = lists.coder.params.nlist;
    let mut counts = Array::<u32>::zeros(nlist as usize)?;
    for list in assigned {
        if let Some(count) = counts.get_mut(*list as usize) {
            *count = count.saturating_add(1);
        }
    }
    let blocks = counts.iter().map(|count| count.div_ceil(BLOCK_ROWS));
    let blocks = blocks.fold(nlist.div_ceil(BLOCK_ROWS), u32::saturating_add);
    let lent = batch.lend();
    let mut memory = lent.memory;
    let mut loader = Loader::new(inode, &lists.coder, lent.load, Source::Sample)?;
    lists.index.read(|index| {
        index.store().grow(blocks)?;
        index
            .encode_lists(&mut loader, &model.lend(), &mut memory)
            .map_err(errno)?;
        for (list, count) in (0..nlist).zip(counts.iter()) {
            index.writer().reserve(list, *count).map_err(errno)?;
        }
        Ok(())
    })
}
