// SPDX-License-Identifier: GPL-2.0

//! Rows that come into inverted lists, in batches, and go by what their vectors say.

use super::lists::{errno, Assigned, Lists, Writer};
use super::lists_loader::{Loader, Source};
use super::lists_memory::{Batch, Lent};
use super::{is_live, share};
use crate::VexFs;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use vexfs_ann::ivf;
use vexfs_ann::ivf::params::MAX_ROWS;
use vexfs_vfs::Inode;

/// Batches that are encoded together, for each thread.
const BATCHES_PER_THREAD: usize = 2;

impl Lists {
    /// Finds the lists and codes of the rows of `batch`. Below `end` rows may be read on the way.
    pub(super) fn encode(
        &self,
        inode: &Inode<VexFs>,
        batch: &mut Batch,
        assigned: Option<&Assigned>,
        end: u64,
    ) -> Result {
        let model = self.model.as_ref().ok_or(EINVAL)?.lend();
        let Lent {
            load,
            mut memory,
            rows,
            lists,
            factors,
        } = batch.lend();
        if rows.is_empty() {
            return Ok(());
        }
        let mut loader = Loader::new(inode, &self.coder, load, Source::Named { end })?;
        let memory = &mut memory;
        self.index.read(|index| {
            let copies = self.coder.params.copies;
            if copy_assigned(assigned, rows, lists, copies as usize) {
                let bytes = rows.len().saturating_mul(self.coder.rows.vector_bytes());
                let vectors = memory.vectors.get_mut(..bytes).ok_or(EINVAL)?;
                ivf::Vectors::load(&mut loader, rows, vectors)?;
            } else {
                index
                    .lists_of(&mut loader, &model, rows, memory, lists)
                    .map_err(errno)?;
            }
            index
                .encode(&mut loader, &model, lists, copies, memory, factors)
                .map_err(errno)
        })
    }

    /// Puts the encoded rows of `batch` into their lists, in order; those that are there already, if that can be, for a
    /// second time, in place of the first. `in_lists` is told each of them once it and all before it are.
    pub(super) fn append(
        &self,
        inode: &Inode<VexFs>,
        batch: &mut Batch,
        again: bool,
        mut in_lists: impl FnMut(u64),
    ) -> Result {
        let Lent {
            memory,
            rows,
            lists,
            factors,
            ..
        } = batch.lend();
        self.index.read(|index| {
            let each = self.coder.params.copies as usize;
            let step = (self.coder.layout.nsub as usize).saturating_mul(each);
            let mut writer = index.writer();
            let places = lists.chunks(each).zip(factors.chunks(each));
            for (i, (row, (lists, factors))) in rows.iter().zip(places).enumerate() {
                let at = i.saturating_mul(step);
                let codes = memory.codes.get(at..at.saturating_add(step));
                let codes = codes.ok_or(EINVAL)?;
                if again {
                    writer.delete_from_all(lists, *row).map_err(errno)?;
                }
                while let Err(e) = writer.append_to(lists, *row, codes, factors) {
                    match e {
                        ivf::Error::Full => index.store().grow_by_one()?,
                        e => return Err(errno(e)),
                    }
                }
                // Who deleted it meanwhile has not found it.
                if !is_live(inode, *row) {
                    writer.delete_from_all(lists, *row).map_err(errno)?;
                }
                in_lists(*row);
            }
            Ok(())
        })
    }

    /// Takes in rows from `first` on, below `end`, as many as `threads` threads encode in some milliseconds. They are
    /// put into the lists in order. Says where it ended.
    pub(super) fn extend_wide(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        watermark: &AtomicU64,
        end: u64,
        threads: u32,
    ) -> Result<u64> {
        let Writer {
            wide,
            taken,
            assigned,
            ..
        } = writer;
        let most = (threads as usize).saturating_mul(BATCHES_PER_THREAD);
        while wide.len() < most {
            match Batch::new(&self.account, &self.coder) {
                Ok(batch) => wide.push(batch, GFP_KERNEL_ACCOUNT)?,
                // Fewer will do.
                Err(_) if !wide.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        let mut last = watermark.load(Ordering::Acquire);
        for batch in &mut *wide {
            let first = last;
            last = first.saturating_add(self.coder.batch() as u64).min(end);
            batch.fill((first..last).filter(|row| is_live(inode, *row)))?;
        }
        if last > MAX_ROWS {
            return Err(EFBIG);
        }
        taken.end = last.max(taken.end);
        let known = assigned.as_ref();
        let encode = |(): &mut (), batch: &mut Batch| self.encode(inode, batch, known, end);
        share::each(threads, wide.iter_mut(), || Ok(()), encode)?;
        for batch in wide {
            self.append(inode, batch, false, |row| {
                watermark.store(row.saturating_add(1), Ordering::Release);
            })?;
        }
        Ok(last)
    }

    /// Removes the rows of `batch` from the lists that their vectors belong to. Those that
    /// are not in all of them are left.
    pub(super) fn remove_batch(&self, inode: &Inode<VexFs>, batch: &mut Batch) -> Result {
        let model = self.model.as_ref().ok_or(EINVAL)?.lend();
        let Lent {
            load,
            mut memory,
            rows,
            lists,
            ..
        } = batch.lend();
        let end = rows.iter().max().map_or(0, |row| row.saturating_add(1));
        let mut loader = Loader::new(inode, &self.coder, load, Source::Named { end })?;
        let mut found = [false; ivf::BATCH];
        self.index.read(|index| {
            index
                .lists_of(&mut loader, &model, rows, &mut memory, lists)
                .map_err(errno)?;
            let mut writer = index.writer();
            let each = self.coder.params.copies as usize;
            for ((row, lists), found) in rows.iter().zip(lists.chunks(each)).zip(&mut found) {
                let removed = writer.delete_from_all(lists, *row).map_err(errno)?;
                *found = removed == lists.len();
            }
            Ok::<(), Error>(())
        })?;
        let mut found = found.iter();
        batch.rows.retain(|_| found.next() != Some(&true));
        Ok(())
    }
}

/// Copies the lists of `rows`, so many `each`, from what is known, if all are.
fn copy_assigned(
    assigned: Option<&Assigned>,
    rows: &[u64],
    lists: &mut [u32],
    each: usize,
) -> bool {
    let Some(assigned) = assigned else {
        return false;
    };
    rows.iter().zip(lists.chunks_mut(each)).all(|(row, lists)| {
        let at = (*row as usize).saturating_mul(each);
        let known = assigned.lists.get(at..at.saturating_add(each));
        let known = known.filter(|known| !known.contains(&u32::MAX));
        for (list, known) in lists.iter_mut().zip(known.unwrap_or(&[])) {
            *list = *known;
        }
        known.is_some()
    })
}
