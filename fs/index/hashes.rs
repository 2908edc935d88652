// SPDX-License-Identifier: GPL-2.0

//! Hash tables over the rows of a container: LSH, see `vexfs_ann::lsh`. A table is an inverted file whose lists are
//! buckets.

use super::budget::Account;
use super::catch_up::GoOn;
use super::hashes_hasher::{params, Chunk, Hashed, Hasher, PIECE};
use super::hashes_search::{self, Scratch};
use super::image::Reader as Image;
use super::listed::{Elsewhere, Extent, Listed, Taken};
use super::lists::{blocks_for, errno};
use super::lists_memory::Memory;
use super::loaded::Loaded;
use super::pool::{Idle, Pool, CANDIDATES};
use super::search::Outcome;
use super::{
    hashes_image, is_live, listed, lists, lists_check, share, Counts, Parameters, Query, Stamp,
    Structure,
};
use crate::candidates::Candidates;
use crate::scorer::Scan;
use crate::VexFs;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf;
use vexfs_ann::ivf::params::MAX_ROWS;
use vexfs_ann::lsh::Params;
use vexfs_ann::topk::TopK;
use vexfs_uapi::{self as uapi, Findings};
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::rwlock::RwLock;
use vexfs_vfs::{task, Inode};

/// Chunks that are hashed together, for each thread.
const CHUNKS_PER_THREAD: usize = 2;
/// Rows that the scratch memory of searches is for at least.
const LEAST_ROWS: u64 = 1 << 16;
/// Tables over the rows of a container.
#[pin_data]
pub(super) struct Hashes {
    pub(super) hasher: Hasher,
    account: Arc<Account>,
    /// Held exclusively only to move the rows of a bucket, by who holds `writer`.
    #[pin]
    pub(super) tables: RwLock<KVec<ivf::Index<Memory>>>,
    /// Held by who changes the tables.
    #[pin]
    writer: Mutex<Writer>,
    #[pin]
    pool: Pool<Scratch>,
}

/// What who changes the tables needs, one at a time.
pub(super) struct Writer {
    /// A chunk, and more while several threads build.
    wide: KVec<Chunk>,
    taken: Taken,
}

impl Writer {
    /// Hashes and encodes a row. Rows below `end` may be read on the way.
    fn hash(
        &mut self,
        inode: &Inode<VexFs>,
        hasher: &Hasher,
        pinned: &mut Pinned,
        row: u64,
        end: u64,
    ) -> Result<Hashed<'_>> {
        let chunk = self.wide.first_mut().ok_or(EINVAL)?;
        chunk.hash_row(inode, hasher, pinned, 0, row, end)?;
        chunk.hashed(hasher, 0)
    }
}

impl Hashes {
    /// Checks what a build is asked for, as [`Hashes::new`] does.
    pub(super) fn check(parameters: &Parameters, area: &VectorArea) -> Result {
        params(parameters, area).map(|_| ())
    }

    /// Empty tables for the rows of `inode`, not trained.
    ///
    /// # Errors
    ///
    /// `EINVAL` for bad parameters, `ENODATA` if there are no rows to train on, `ENOMEM`.
    pub(super) fn new(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        parameters: &Parameters,
    ) -> Result<Arc<Self>> {
        let params = params(parameters, area)?;
        if area.live == 0 {
            return Err(ENODATA);
        }
        let table = params.table().map_err(|_| EINVAL)?;
        let account = Account::new(&inode.volume().index_memory)?;
        let memories = Hashes::memories(&account, area, &params)?;
        let mut tables = KVec::with_capacity(memories.len(), GFP_KERNEL_ACCOUNT)?;
        for memory in memories {
            let index = ivf::Index::new(table, memory).map_err(|_| EINVAL)?;
            tables.push_within_capacity(index).map_err(|_| ENOMEM)?;
        }
        let hasher = Hasher::new(inode, area, params)?;
        Hashes::with(account, hasher, tables, Taken::new(0, None))
    }

    /// The tables of an image.
    ///
    /// # Errors
    ///
    /// `EFSCORRUPTED` with a line in the log, if the image is not what it should be; `ENOMEM`, and what reading says.
    pub(super) fn load(
        inode: &Inode<VexFs>,
        area: &VectorArea,
        image: &mut Image<'_>,
    ) -> Result<Arc<Self>> {
        let params = params(&image.header.parameters, area)
            .map_err(|_| image.corrupt("has bad parameters"))?;
        let scale = hashes_image::scale(image)?;
        let watermark = image.header.watermark;
        let account = Account::opened(&inode.volume().index_memory)?;
        let mut loaded = Loaded::none_of(&account, watermark)?;
        let memories = Hashes::memories(&account, area, &params)?;
        let (tables, model) = hashes_image::read(image, &params, memories, &mut loaded.words)?;
        let hasher = Hasher::new(inode, area, params)?;
        hasher.set(model, scale);
        let hashes = Hashes::with(account, hasher, tables, Taken::new(watermark, Some(loaded)))?;
        Ok(hashes)
    }

    /// Empty memory of each table.
    fn memories(
        account: &Arc<Account>,
        area: &VectorArea,
        params: &Params,
    ) -> Result<KVec<Memory>> {
        let table = params.table().map_err(|_| EINVAL)?;
        let blocks = blocks_for(&table, area.live);
        let mut memories = KVec::with_capacity(params.ntables as usize, GFP_KERNEL)?;
        for at in 0..params.ntables {
            // One centre for all.
            let model = if at == 0 { table.centroid_bytes() } else { 0 };
            let memory = Memory::new(account.clone(), &table, blocks, model as u64)?;
            memories.push_within_capacity(memory).map_err(|_| ENOMEM)?;
        }
        Ok(memories)
    }

    fn with(
        account: Arc<Account>,
        hasher: Hasher,
        tables: KVec<ivf::Index<Memory>>,
        taken: Taken,
    ) -> Result<Arc<Self>> {
        let mut wide = KVec::new();
        wide.push(Chunk::new(&account, &hasher)?, GFP_KERNEL_ACCOUNT)?;
        let writer = Writer { wide, taken };
        let hashes = Arc::pin_init(
            try_pin_init!(Hashes {
                hasher,
                account,
                tables <- RwLock::new(tables),
                writer <- new_mutex!(writer, "vexfs_hashes_writer"),
                pool <- Pool::new()?,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(hashes)
    }

    /// Scratch memory, charged to `account`, for searches among `rows` rows.
    fn scratch_for(&self, account: &Arc<Account>, rows: u64) -> Result<Scratch> {
        let mut scratch = Scratch::new(account, &self.hasher)?;
        // Rows will be added, and a search marks all that it has seen.
        let probes = self.hasher.params.default_nprobe();
        scratch.reserve(rows.saturating_mul(2).max(LEAST_ROWS), probes, CANDIDATES)?;
        Ok(scratch)
    }

    /// Puts a row into its buckets. If it can't, it is in none.
    fn insert(&self, row: u64, hashed: &Hashed<'_>) -> Result {
        let Hashed {
            buckets,
            codes,
            factors,
        } = *hashed;
        self.tables.read(|tables| {
            for (at, (table, bucket)) in tables.iter().zip(buckets).enumerate() {
                loop {
                    // The table's lock is let go of at the end of the line.
                    let appended = table.writer().append(*bucket, row, codes, factors);
                    let Err(e) = appended else {
                        break;
                    };
                    let result = match e {
                        ivf::Error::Full => table.store().grow_by_one(),
                        e => Err(errno(e)),
                    };
                    if let Err(e) = result {
                        for (table, bucket) in tables.iter().zip(buckets).take(at) {
                            table.writer().delete_from(*bucket, row).map_err(errno)?;
                        }
                        return Err(e);
                    }
                }
            }
            Ok(())
        })
    }

    /// Takes a row out of its buckets. Says whether it was in all of them.
    fn remove_row(&self, row: u64, buckets: &[u32]) -> Result<bool> {
        self.tables.read(|tables| {
            let mut all = true;
            for (table, bucket) in tables.iter().zip(buckets) {
                all &= table.writer().delete_from(*bucket, row).map_err(errno)?;
            }
            Ok(all)
        })
    }

    /// How many of `rows`, if they are live, are not in a bucket of theirs with their codes. `Node::rows` is held shared.
    fn wrong_buckets(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result<u64> {
        let mut writer = self.writer.lock();
        let mut pinned = Pinned::new()?;
        let mut wrong = 0u64;
        let end = rows.end;
        for row in rows {
            let Hashed {
                buckets,
                codes,
                factors,
            } = writer.hash(inode, &self.hasher, &mut pinned, row, end)?;
            let all = self.tables.read(|tables| {
                let mut places = tables.iter().zip(buckets);
                places.all(|(table, bucket)| table.has(*bucket, row, codes, factors))
            });
            // Who deletes it marks it first.
            if !all && is_live(inode, row) {
                wrong = wrong.saturating_add(1);
            }
        }
        Ok(wrong)
    }

    /// A sum over all tables.
    fn sum(&self, of: impl Fn(&ivf::Index<Memory>) -> u64) -> u64 {
        self.tables
            .read(|tables| tables.iter().map(of).fold(0, u64::saturating_add))
    }
}

impl Listed for Hashes {
    type Writer = Writer;

    fn taken(writer: &mut Writer) -> &mut Taken {
        &mut writer.taken
    }

    /// All tables have the same rows, and about as many holes.
    fn extent(&self) -> Extent {
        self.tables.read(|tables| match tables.first() {
            Some(table) => Extent {
                nlist: table.params().nlist,
                live: u64::from(table.counts().live),
                holes: table.holes(),
            },
            None => Extent::default(),
        })
    }

    fn remove_from_own(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        rows: &[u64],
        elsewhere: &mut Elsewhere,
    ) -> Result {
        let mut pinned = Pinned::new()?;
        for row in rows {
            if *row >= writer.taken.end {
                continue;
            }
            task::cond_resched();
            let end = row.saturating_add(1);
            let hashed = writer.hash(inode, &self.hasher, &mut pinned, *row, end)?;
            if !self.remove_row(*row, hashed.buckets)? {
                elsewhere.push((*row, 0), GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    fn remove_where(&self, mut gone: impl FnMut(u64) -> bool) -> Result {
        self.tables.read(|tables| {
            for table in tables {
                for bucket in 0..table.params().nlist {
                    task::cond_resched();
                    let removed = table.writer().delete_where(bucket, &mut gone);
                    removed.map_err(errno)?;
                }
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
        let mut pinned = Pinned::new()?;
        for row in rows.filter(|row| is_live(inode, *row)) {
            task::cond_resched();
            let hashed = writer.hash(inode, &self.hasher, &mut pinned, row, end)?;
            self.remove_row(row, hashed.buckets)?;
            self.insert(row, &hashed)?;
        }
        Ok(())
    }

    fn compact(&self, bucket: u32) -> Result {
        for at in 0..self.hasher.params.ntables as usize {
            lists::compact(bucket, |f| {
                self.tables
                    .write(|tables| f(tables.get_mut(at).ok_or(EIO)?))
            })?;
        }
        Ok(())
    }
}

impl Structure for Hashes {
    fn parameters(&self) -> Parameters {
        Parameters {
            nbits: self.hasher.params.nbits,
            ntables: self.hasher.params.ntables,
            ..Parameters::default()
        }
    }

    fn counts(&self) -> Counts {
        self.tables.read(|tables| match tables.first() {
            Some(table) => Counts {
                live: u64::from(table.counts().live),
                deleted: table.holes(),
            },
            None => Counts::default(),
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
        self.tables.read(|tables| {
            let digests = tables.iter().map(ivf::Index::digest);
            digests.fold(0u64, |all, one| all.rotate_left(1) ^ one)
        })
    }

    fn bytes_with(&self, live: u32, rows: u64) -> Result<u64> {
        let tables = self.sum(|table| {
            let blocks = blocks_for(table.params(), u64::from(live));
            table.store().bytes_with(blocks)
        });
        let measure = self.account.measuring()?;
        let _scratch = self.scratch_for(&measure, rows)?;
        let learning = self.hasher.bytes_to_learn(&measure, rows)?;
        Ok(tables
            .saturating_add(measure.used())
            .saturating_add(learning))
    }

    fn reserve(&self, live: u32, rows: u64) -> Result {
        if rows > MAX_ROWS {
            return Err(EFBIG);
        }
        let _writer = self.writer.lock();
        self.tables.read(|tables| {
            for table in tables {
                let blocks = blocks_for(table.params(), u64::from(live));
                table.store().grow(blocks)?;
            }
            Ok::<(), Error>(())
        })?;
        self.pool.prepare(|| self.scratch_for(&self.account, rows))
    }

    fn train(&self, inode: &Inode<VexFs>, rows: u64, _threads: u32, go_on: GoOn<'_>) -> Result {
        self.hasher.learn(inode, rows, &self.account, go_on)
    }

    fn trained(&self) -> u32 {
        match self.hasher.scale() {
            Some(_) => 1000,
            None => 0,
        }
    }

    fn extend(
        &self,
        inode: &Inode<VexFs>,
        watermark: &AtomicU64,
        end: u64,
        threads: u32,
    ) -> Result {
        let mut writer = self.writer.lock();
        let Writer { wide, taken } = &mut *writer;
        let most = match threads as usize {
            0 | 1 => 1,
            threads => threads.saturating_mul(CHUNKS_PER_THREAD),
        };
        while wide.len() < most {
            match Chunk::new(&self.account, &self.hasher) {
                Ok(chunk) => wide.push(chunk, GFP_KERNEL_ACCOUNT)?,
                // Fewer will do.
                Err(_) => break,
            }
        }
        let mut last = watermark.load(Ordering::Acquire);
        for chunk in &mut *wide {
            chunk.rows = last..last.saturating_add(PIECE).min(end);
            last = chunk.rows.end;
        }
        if last > MAX_ROWS {
            return Err(EFBIG);
        }
        taken.end = last.max(taken.end);
        let hash = |(): &mut (), chunk: &mut Chunk| chunk.hash(inode, &self.hasher, end);
        share::each(threads, wide.iter_mut(), || Ok(()), hash)?;
        for chunk in &*wide {
            for (at, row) in chunk.rows.clone().enumerate() {
                if chunk.is_hashed(at) && is_live(inode, row) {
                    let hashed = chunk.hashed(&self.hasher, at)?;
                    self.insert(row, &hashed)?;
                    // Who deleted it meanwhile has not found it.
                    if !is_live(inode, row) {
                        self.remove_row(row, hashed.buckets)?;
                    }
                }
                watermark.store(row.saturating_add(1), Ordering::Release);
            }
        }
        while last == end && wide.len() > 1 {
            wide.pop();
        }
        Ok(())
    }

    fn remove(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result {
        let mut writer = self.writer.lock();
        listed::remove(self, inode, &mut writer, rows)
    }

    fn replace(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result {
        let mut writer = self.writer.lock();
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
        hashes_image::save(self, inode, stamp, watermark, go_on)
    }

    fn reconcile(&self, inode: &Inode<VexFs>, rows: Range<u64>, since: u64) -> Result {
        let mut writer = self.writer.lock();
        listed::reconcile(self, inode, &mut writer, rows, since)
    }

    fn check(&self, inode: &Inode<VexFs>, watermark: u64, findings: &mut Findings) -> Result {
        for at in 0..self.hasher.params.ntables as usize {
            let locked = |f: &mut dyn FnMut(&_, u64) -> Result| {
                let _inode = inode.lock();
                let writer = self.writer.lock();
                self.tables
                    .read(|tables| f(tables.get(at).ok_or(EIO)?, writer.taken.moved))
            };
            let before = findings.rows;
            lists_check::rows(inode, watermark, 1, &locked, findings)?;
            if at > 0 {
                // All tables have the same rows.
                findings.rows = before;
            }
        }
        let mut first = 0;
        while first < watermark {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            let rows = first..first.saturating_add(PIECE).min(watermark);
            first = rows.end;
            let wrong = || self.wrong_buckets(inode, rows);
            let wrong = inode.node().rows.read(wrong)?;
            findings.wrong_codes = findings.wrong_codes.saturating_add(wrong);
        }
        Ok(())
    }

    fn plan(
        &self,
        s: &uapi::vexfs_search,
        candidates: &Candidates,
        watermark: u64,
    ) -> Result<Option<Query>> {
        hashes_search::plan(self, s, candidates, watermark)
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
            || Scratch::new(&self.account, &self.hasher),
            |scratch| hashes_search::search(self, scratch, scan, query, end, heaps, outcome),
        )
    }
}
