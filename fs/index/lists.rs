// SPDX-License-Identifier: GPL-2.0

//! Inverted lists over the rows of a container, see `vexfs_ann::ivf`: IVF, and PQ, which is one list.

use super::budget::{Account, Charge};
use super::catch_up::GoOn;
use super::image::Reader as Image;
use super::listed::{Elsewhere, Extent, Listed, Taken};
use super::lists_codes::{Coder, Model};
use super::lists_memory::{Batch, Memory, Scratch};
use super::lists_params::params;
use super::loaded::Loaded;
use super::pool::{Idle, Pool, CANDIDATES};
use super::search::Outcome;
use super::{
    is_live, listed, lists_check, lists_image, lists_params, lists_search, lists_train, Counts,
    Kind, Parameters, Query, Stamp, Structure,
};
use crate::candidates::Candidates;
use crate::scorer::Scan;
use crate::VexFs;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex, SetOnce};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf::params::MAX_ROWS;
use vexfs_ann::ivf::{self, Params};
use vexfs_ann::topk::TopK;
use vexfs_uapi::{self as uapi, Findings};
use vexfs_vfs::array::Array;
use vexfs_vfs::rwlock::RwLock;
use vexfs_vfs::{task, Inode};

/// Decides the sample, the first centroids and the random rotation. The same for all, so that equal rows
/// give equal indexes.
pub(super) const SEED: u64 = 1;
/// Slots whose rows are moved while searches wait: less than a millisecond. Other changes wait for the whole list.
const MOVED_AT_ONCE: u32 = 2048;
/// Rows that scratch memory has bits for at least.
const LEAST_ROWS: u64 = 1 << 16;

/// Lists over the rows of a container.
#[pin_data]
pub(super) struct Lists {
    pub(super) kind: Kind,
    pub(super) coder: Coder,
    pub(super) account: Arc<Account>,
    /// What training made. Until then there are no rows in the lists.
    pub(super) model: SetOnce<Model>,
    /// How many rows there were then; 0 if nobody knows.
    pub(super) learnt_from: u64,
    /// Held exclusively only to move the rows of a list, by who holds `writer`.
    #[pin]
    pub(super) index: RwLock<ivf::Index<Memory>>,
    /// Held by who changes the lists.
    #[pin]
    pub(super) writer: Mutex<Writer>,
    #[pin]
    pool: Pool<Scratch>,
    pub(super) progress: Progress,
}

/// How far training has come.
pub(super) struct Progress {
    pub(super) done: AtomicU64,
    pub(super) steps: AtomicU64,
}

/// What who changes the lists needs, one at a time.
pub(super) struct Writer {
    pub(super) batch: Batch,
    /// Batches of several threads, while they build.
    pub(super) wide: KVec<Batch>,
    pub(super) taken: Taken,
    /// Memory of training, before it begins.
    pub(super) training: Option<Charge>,
    /// Lists of the first rows, as training left them.
    pub(super) assigned: Option<Assigned>,
}

/// The list of each of the first rows, or both, or `u32::MAX`.
pub(super) struct Assigned {
    pub(super) lists: Array<u32>,
    pub(super) _charge: Charge,
}

pub(super) fn errno(error: ivf::Error<Error>) -> Error {
    match error {
        ivf::Error::Full => ENOMEM,
        // Memory is as long as it must be: the lists are not what they should be.
        ivf::Error::Workspace | ivf::Error::Damaged => EIO,
        ivf::Error::Caller(e) => e,
    }
}

impl Lists {
    /// Checks what a build is asked for, as [`Lists::new`] does.
    pub(super) fn check(kind: Kind, parameters: &Parameters, area: &VectorArea) -> Result {
        params(kind, parameters, area, crate::element::row_bytes(area)?).map(|_| ())
    }

    /// Empty lists for the rows of `inode`, not trained.
    ///
    /// # Errors
    ///
    /// `EINVAL` and `EOPNOTSUPP` for parameters, `ENODATA` if there are no rows to train on, `EFBIG`, `ENOMEM`.
    pub(super) fn new(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        kind: Kind,
        parameters: &Parameters,
    ) -> Result<Arc<Self>> {
        let params = params(kind, parameters, area, crate::element::row_bytes(area)?)?;
        if area.live == 0 {
            return Err(ENODATA);
        }
        let coder = Coder::new(inode, area, params)?;
        let account = Account::new(&inode.volume().index_memory)?;
        let model = params
            .centroid_bytes()
            .saturating_add(params.codebook_bytes());
        let blocks = blocks_for(&params, area.live);
        let memory = Memory::new(account.clone(), &params, blocks, model as u64)?;
        let index = ivf::Index::new(params, memory).map_err(|_| EINVAL)?;
        Lists::with(kind, coder, account, index, Taken::new(0, None), area.live)
    }

    /// The lists of an image.
    ///
    /// # Errors
    ///
    /// `EFSCORRUPTED` with a line in the log, if the image is not what it should be; `EOPNOTSUPP`, `ENOMEM`, and
    /// what reading says.
    pub(super) fn load(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        kind: Kind,
        image: &mut Image<'_>,
    ) -> Result<Arc<Self>> {
        let parameters = lists_params::stored(kind, image.header.parameters);
        let params = params(kind, &parameters, area, crate::element::row_bytes(area)?)
            .map_err(|_| image.corrupt("has bad parameters"))?;
        let coder = Coder::new(inode, area, params)?;
        let account = Account::opened(&inode.volume().index_memory)?;
        let model = params
            .centroid_bytes()
            .saturating_add(params.codebook_bytes());
        let blocks = blocks_for(&params, area.live);
        let memory = Memory::new(account.clone(), &params, blocks, model as u64)?;
        let rows = image.header.watermark;
        let mut loaded = Loaded::none_of(&account, rows)?;
        let (index, model) = lists_image::read(image, &params, memory, &mut loaded.words)?;
        let taken = Taken::new(rows, Some(loaded));
        let learnt_from = lists_image::learnt_from(image);
        let lists = Lists::with(kind, coder, account, index, taken, learnt_from)?;
        lists.model.populate(model);
        Ok(lists)
    }

    fn with(
        kind: Kind,
        coder: Coder,
        account: Arc<Account>,
        index: ivf::Index<Memory>,
        taken: Taken,
        learnt_from: u64,
    ) -> Result<Arc<Self>> {
        let writer = Writer {
            batch: Batch::new(&account, &coder)?,
            wide: KVec::new(),
            taken,
            training: None,
            assigned: None,
        };
        let progress = Progress {
            done: AtomicU64::new(0),
            steps: AtomicU64::new(1),
        };
        let lists = Arc::pin_init(
            try_pin_init!(Lists {
                kind,
                coder,
                account,
                model: SetOnce::new(),
                learnt_from,
                index <- RwLock::new(index),
                writer <- new_mutex!(writer, "vexfs_lists_writer"),
                pool <- Pool::new()?,
                progress,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(lists)
    }
}

impl Lists {
    /// Scratch memory, charged to `account`, for searches among `rows` rows.
    fn scratch_for(&self, account: &Arc<Account>, rows: u64) -> Result<Scratch> {
        let mut scratch = Scratch::new(account, &self.coder)?;
        // Rows will be added.
        let rows = rows.saturating_mul(2).max(LEAST_ROWS);
        scratch.reserve(CANDIDATES, self.coder.marked(rows))?;
        Ok(scratch)
    }
}

impl Listed for Lists {
    type Writer = Writer;

    fn taken(writer: &mut Writer) -> &mut Taken {
        &mut writer.taken
    }

    fn extent(&self) -> Extent {
        let nlist = self.coder.params.nlist;
        self.index.read(|index| Extent {
            nlist,
            live: u64::from(index.counts().live),
            holes: deleted(index),
        })
    }

    fn remove_from_own(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        rows: &[u64],
        elsewhere: &mut Elsewhere,
    ) -> Result {
        let Writer { batch, taken, .. } = writer;
        for rows in rows.chunks(self.coder.batch()) {
            task::cond_resched();
            batch.fill(rows.iter().copied().filter(|row| *row < taken.end))?;
            // One list is looked through once for all of them.
            if self.coder.params.nlist > 1 {
                self.remove_batch(inode, batch)?;
            }
            for row in &batch.rows {
                elsewhere.push((*row, 0), GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    fn remove_where(&self, mut gone: impl FnMut(u64) -> bool) -> Result {
        self.index.read(|index| {
            for list in 0..self.coder.params.nlist {
                task::cond_resched();
                let removed = index.writer().delete_where(list, &mut gone);
                removed.map_err(errno)?;
            }
            Ok(())
        })
    }

    fn insert_live(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        rows: impl Iterator<Item = u64>,
        end: u64,
    ) -> Result {
        let batch = &mut writer.batch;
        let at_once = self.coder.batch();
        let mut rows = rows.filter(|row| is_live(inode, *row));
        loop {
            task::cond_resched();
            batch.fill(rows.by_ref().take(at_once))?;
            if batch.rows.is_empty() {
                return Ok(());
            }
            self.encode(inode, batch, None, end)?;
            self.append(inode, batch, self.coder.params.nlist > 1, |_| ())?;
        }
    }

    fn compact(&self, list: u32) -> Result {
        compact(list, |f| self.index.write(f))
    }
}

/// Moves the rows of a list together, some at a time: `exclusively` runs a closure with the index while nobody
/// searches in it.
pub(super) fn compact(
    list: u32,
    exclusively: impl Fn(&mut dyn FnMut(&mut ivf::Index<Memory>) -> Result) -> Result,
) -> Result {
    let mut compaction = None;
    let mut is_done = false;
    while !is_done {
        task::cond_resched();
        exclusively(&mut |index| {
            let going = match &mut compaction {
                Some(going) => going,
                none => none.insert(index.begin_compaction(list).map_err(errno)?),
            };
            let freed = index.compact_some(going, MOVED_AT_ONCE).map_err(errno)?;
            is_done = freed.is_some();
            Ok(())
        })?;
    }
    Ok(())
}

/// How many rows the holes are of.
fn deleted(index: &ivf::Index<Memory>) -> u64 {
    let copies = u64::from(index.params().copies);
    index.holes().checked_div(copies).unwrap_or(0)
}

/// Blocks that `live` rows are expected to need.
pub(super) fn blocks_for(params: &Params, live: u64) -> u32 {
    u32::try_from(params.usual_blocks(live)).unwrap_or(u32::MAX)
}

impl Structure for Lists {
    fn parameters(&self) -> Parameters {
        lists_params::of(self.kind, &self.coder.params)
    }

    fn counts(&self) -> Counts {
        self.index.read(|index| Counts {
            live: u64::from(index.counts().live),
            deleted: deleted(index),
        })
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn scratch(&self) -> &dyn Idle {
        &self.pool
    }

    fn digest(&self) -> u64 {
        let _writer = self.writer.lock();
        self.index.read(|index| index.digest())
    }

    fn bytes_with(&self, live: u32, rows: u64) -> Result<u64> {
        let (params, live) = (&self.coder.params, u64::from(live));
        let blocks = blocks_for(params, live);
        let bytes = self.index.read(|index| index.store().bytes_with(blocks));
        let measure = self.account.measuring()?;
        let _scratch = self.scratch_for(&measure, rows)?;
        let mut more = measure.used();
        if self.model.as_ref().is_none() {
            more = more.saturating_add(lists_train::bytes(params, live, rows));
            // One that loads rows, and one that finds their lists.
            let batch = Batch::new(&measure.measuring()?, &self.coder)?;
            more = more.saturating_add(batch.bytes().saturating_mul(2));
        }
        Ok(bytes.saturating_add(more))
    }

    fn reserve(&self, live: u32, rows: u64) -> Result {
        if rows > MAX_ROWS {
            return Err(EFBIG);
        }
        let mut writer = self.writer.lock();
        if self.model.as_ref().is_none() && writer.training.is_none() {
            let bytes = lists_train::bytes(&self.coder.params, u64::from(live), rows);
            writer.training = Some(Charge::new(self.account.clone(), bytes)?);
        }
        let blocks = blocks_for(&self.coder.params, u64::from(live));
        self.index.read(|index| index.store().grow(blocks))?;
        self.pool.prepare(|| self.scratch_for(&self.account, rows))
    }

    fn train(&self, inode: &Inode<VexFs>, rows: u64, threads: u32, go_on: GoOn<'_>) -> Result {
        if self.model.as_ref().is_some() {
            return Ok(());
        }
        lists_train::train(self, inode, rows, threads, go_on)
    }

    fn trained(&self) -> u32 {
        if self.model.as_ref().is_some() {
            return 1000;
        }
        let done = self.progress.done.load(Ordering::Relaxed);
        let steps = self.progress.steps.load(Ordering::Relaxed);
        let share = done.saturating_mul(1000).checked_div(steps).unwrap_or(0);
        share.min(999) as u32
    }

    fn outgrown(&self) -> Option<Parameters> {
        let live = self.index.read(|index| u64::from(index.counts().live));
        let Coder { params, rows, .. } = &self.coder;
        lists_params::outgrown(self.kind, params, self.learnt_from, live, rows.bytes)
    }

    fn extend(
        &self,
        inode: &Inode<VexFs>,
        watermark: &AtomicU64,
        end: u64,
        threads: u32,
    ) -> Result {
        let mut writer = self.writer.lock();
        let last = if threads > 1 {
            self.extend_wide(inode, &mut writer, watermark, end, threads)?
        } else {
            let Writer {
                batch,
                taken,
                assigned,
                ..
            } = &mut *writer;
            let first = watermark.load(Ordering::Acquire);
            let last = first.saturating_add(self.coder.batch() as u64).min(end);
            if last > MAX_ROWS {
                return Err(EFBIG);
            }
            taken.end = last.max(taken.end);
            batch.fill((first..last).filter(|row| is_live(inode, *row)))?;
            self.encode(inode, batch, assigned.as_ref(), end)?;
            self.append(inode, batch, false, |row| {
                watermark.store(row.saturating_add(1), Ordering::Release);
            })?;
            last
        };
        watermark.store(last, Ordering::Release);
        let Writer { assigned, wide, .. } = &mut *writer;
        let params = &self.coder.params;
        if assigned
            .as_ref()
            .is_some_and(|known| known.lists.len() as u64 <= params.entries(last))
        {
            *assigned = None;
        }
        if last == end {
            *wide = KVec::new();
        }
        Ok(())
    }

    fn remove(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result {
        let mut writer = self.writer.lock();
        if self.model.as_ref().is_none() {
            return Ok(());
        }
        listed::remove(self, inode, &mut writer, rows)
    }

    fn replace(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result {
        let mut writer = self.writer.lock();
        writer.assigned = None;
        listed::replace(self, inode, &mut writer, rows)
    }

    fn restore(
        &self,
        inode: &Inode<VexFs>,
        rows: &[u64],
        _below: &dyn Fn() -> u64,
        untidy: bool,
    ) -> Result {
        let mut writer = self.writer.lock();
        writer.assigned = None;
        listed::restore(self, inode, &mut writer, rows, untidy)
    }

    fn save(
        &self,
        inode: &Inode<VexFs>,
        stamp: Stamp,
        watermark: &AtomicU64,
        go_on: GoOn<'_>,
    ) -> Result<u64> {
        let _writer = self.writer.lock();
        let watermark = watermark.load(Ordering::Acquire);
        lists_image::save(self, inode, stamp, watermark, go_on)
    }

    fn reconcile(&self, inode: &Inode<VexFs>, rows: Range<u64>, since: u64) -> Result {
        let mut writer = self.writer.lock();
        listed::reconcile(self, inode, &mut writer, rows, since)
    }

    fn check(&self, inode: &Inode<VexFs>, watermark: u64, findings: &mut Findings) -> Result {
        let locked = |f: &mut dyn FnMut(&_, u64) -> Result| {
            let _inode = inode.lock();
            let writer = self.writer.lock();
            self.index.read(|index| f(index, writer.taken.moved))
        };
        let copies = self.coder.params.copies;
        lists_check::rows(inode, watermark, copies, &locked, findings)?;
        lists_check::codes(self, inode, findings)
    }

    fn plan(
        &self,
        s: &uapi::vexfs_search,
        candidates: &Candidates,
        watermark: u64,
    ) -> Result<Option<Query>> {
        lists_search::plan(self, s, candidates, watermark)
    }

    fn search(
        &self,
        scan: &Scan<'_>,
        query: &Query,
        end: u64,
        heaps: &mut [TopK<'_>],
        outcome: &mut Outcome,
    ) -> Result {
        self.pool.with(
            || Scratch::new(&self.account, &self.coder),
            |scratch| lists_search::search(self, scratch, scan, query, end, heaps, outcome),
        )
    }
}
