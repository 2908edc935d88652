// SPDX-License-Identifier: GPL-2.0

//! Hash tables over the rows of a container: LSH, see `vexfs_ann::lsh`. A table is an inverted file without
//! codes whose lists are buckets.

use super::budget::{Budget, Charge};
use super::catch_up::GoOn;
use super::check::Findings;
use super::exact::Rows;
use super::hashes_search::{self, Scratch};
use super::image::Reader as Image;
use super::lists::{blocks_for, errno, Loaded, Sweep};
use super::lists_codes::{Coder, LoadMemory, Loader, Source};
use super::lists_memory::Memory;
use super::search::Outcome;
use super::{hashes_image, is_live, lists_check, Counts, Parameters, Query, Structure};
use crate::scorer::{Candidates, Scan};
use crate::VexFs;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex, SetOnce};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf::params::MAX_ROWS;
use vexfs_ann::ivf::{self, Vectors};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{cell_scale, sample_bits, Family, Params, MAX_BITS, MAX_TABLES};
use vexfs_ann::topk::TopK;
use vexfs_simd_ffi::{fixed_f32, rotate_f32, Distance, Elem, Metric};
use vexfs_uapi as uapi;
use vexfs_vfs::array::Array;
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::rwlock::RwLock;
use vexfs_vfs::{fpu, sort, task, Inode};

/// Decides the hashes. The same for all, so that equal rows give equal indexes.
pub(super) const SEED: u64 = 1;
/// Rows taken in while `Node::rows` and the writer's lock are held: a millisecond.
const PIECE: u64 = 64;
/// The factor of projections whose signs alone count: binary32 bits of 2^16. Vectors are of length 1.
const SIGNS_SCALE: u32 = 0x4780_0000;
/// Rows whose nearest ones among a sample tell how wide a cell is; the sample's rows, and bytes.
const NEAR_ROWS: usize = 64;
const SAMPLE_ROWS: usize = 4096;
const SAMPLE_BYTES: usize = 8 << 20;
/// Scratch memories of searches that are kept for the next ones.
const IDLE: usize = 8;

/// How rows become buckets.
pub(super) struct Hasher {
    pub(super) rows: Rows,
    pub(super) params: Params,
    /// The factor of projections, binary32 bits, once it is known.
    scale: SetOnce<u32>,
}

impl Hasher {
    /// The factor of projections, binary32 bits, once it is known.
    pub(super) fn scale(&self) -> Option<u32> {
        self.scale.copy()
    }

    /// Makes a row a vector: binary32, of length 1 if only its direction counts.
    pub(super) fn vector(&self, row: &[u8], out: &mut [u8]) -> Result {
        let unit = self.params.family == Family::Signs;
        fpu::section(|t| self.rows.widen(t, row, unit, out))?.map_err(|_| EINVAL)
    }

    /// Writes the projections of a row, which is also the vector, for a table to `out`. `rotated` has room for a
    /// vector.
    pub(super) fn project(
        &self,
        row: &[u8],
        vector: &[u8],
        rotated: &mut [u8],
        table: u32,
        out: &mut [i32],
    ) -> Result {
        let Params { seed, dim, .. } = self.params;
        if self.rows.elem == Elem::Binary && self.rows.metric == Metric::Hamming {
            sample_bits(seed, table, dim, row, out);
            return Ok(());
        }
        let scale = self.scale.copy().ok_or(EINVAL)?;
        let seed = seed.wrapping_add(u64::from(table));
        for (to, from) in rotated.iter_mut().zip(vector) {
            *to = *from;
        }
        let isa = self.rows.simd.isa;
        fpu::section(|t| {
            rotate_f32(t, isa, seed, rotated)?;
            fixed_f32(t, isa, rotated, scale, out)
        })?
        .map_err(|_| EINVAL)
    }
}

/// Tables over the rows of a container.
#[pin_data]
pub(super) struct Hashes {
    pub(super) hasher: Hasher,
    budget: Arc<Budget>,
    /// Held exclusively only to move the rows of a bucket, by who holds `writer`.
    #[pin]
    pub(super) tables: RwLock<KVec<ivf::Index<Memory>>>,
    /// Held by who changes the tables.
    #[pin]
    writer: Mutex<Writer>,
    #[pin]
    idle: Mutex<KVec<Scratch>>,
}

/// What who changes the tables needs, one at a time.
struct Writer {
    row: KVVec<u8>,
    vector: KVVec<u8>,
    rotated: KVVec<u8>,
    /// No row from here on was taken in.
    taken: u64,
    sweep: Sweep,
    /// Rows that an image had, until all are reconciled.
    loaded: Option<Loaded>,
}

impl Writer {
    /// Reads a row, and writes its bucket in each table to `buckets`. `end` rows may be read on the way.
    fn hash(
        &mut self,
        inode: &Inode<VexFs>,
        hasher: &Hasher,
        pinned: &mut Pinned,
        row: u64,
        end: u64,
        buckets: &mut [u32; MAX_TABLES as usize],
    ) -> Result {
        hasher.rows.read(inode, pinned, row, end, &mut self.row)?;
        hasher.vector(&self.row, &mut self.vector)?;
        let mut projections = [0; MAX_BITS as usize];
        let projections = projections
            .get_mut(..hasher.params.nbits as usize)
            .ok_or(EINVAL)?;
        for (table, bucket) in (0..hasher.params.ntables).zip(buckets) {
            hasher.project(
                &self.row,
                &self.vector,
                &mut self.rotated,
                table,
                projections,
            )?;
            *bucket = hasher.params.bucket(projections);
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let bytes = [&self.row, &self.vector, &self.rotated];
        let bytes = bytes.iter().map(|bytes| bytes.len() as u64);
        bytes.fold(0, u64::saturating_add)
    }
}

/// What a build asks for, with defaults filled in. `EINVAL`.
fn params(parameters: &Parameters, area: &VectorArea, metric: Metric) -> Result<Params> {
    let Parameters {
        m,
        ef_construction,
        nlist,
        nsub,
        nbits,
        ntables,
    } = *parameters;
    if m | ef_construction | nlist | nsub != 0 {
        return Err(EINVAL);
    }
    let family = match metric {
        Metric::L2Sq => Family::Cells,
        // Rows whose directions are near have great inner products, if they are about equally long.
        _ => Family::Signs,
    };
    let default = Params::default_for(area.live, area.dim, family);
    let or = |value, default| if value == 0 { default } else { value };
    let params = Params {
        ntables: or(ntables, default.ntables),
        nbits: or(nbits, default.nbits),
        seed: SEED,
        ..default
    };
    params.table().map_err(|_| EINVAL)?;
    Ok(params)
}

impl Hashes {
    /// Checks what a build is asked for, as [`Hashes::new`] does.
    pub(super) fn check(parameters: &Parameters, area: &VectorArea) -> Result {
        params(parameters, area, crate::element::metric(area)?).map(|_| ())
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
        let rows = Rows::new(inode, area)?;
        let params = params(parameters, area, rows.metric)?;
        if area.live == 0 {
            return Err(ENODATA);
        }
        let table = params.table().map_err(|_| EINVAL)?;
        let memories = Hashes::memories(inode, area, &params)?;
        let mut tables = KVec::with_capacity(memories.len(), GFP_KERNEL_ACCOUNT)?;
        for memory in memories {
            let index = ivf::Index::new(table, memory).map_err(|_| EINVAL)?;
            tables.push_within_capacity(index).map_err(|_| ENOMEM)?;
        }
        Hashes::with(inode, rows, params, tables, 0, None)
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
        let rows = Rows::new(inode, area)?;
        let params = params(&image.header.parameters, area, rows.metric)
            .map_err(|_| image.corrupt("has bad parameters"))?;
        let scale = hashes_image::scale(image)?;
        let watermark = image.header.watermark;
        let words = usize::try_from(watermark.div_ceil(64))?;
        let mut loaded = Loaded(KVVec::from_elem(0, words, GFP_KERNEL_ACCOUNT)?);
        let memories = Hashes::memories(inode, area, &params)?;
        let tables = hashes_image::read(image, &params, memories, &mut loaded.0)?;
        let hashes = Hashes::with(inode, rows, params, tables, watermark, Some(loaded))?;
        hashes.hasher.scale.populate(scale);
        Ok(hashes)
    }

    /// Empty memory of each table.
    fn memories(inode: &Inode<VexFs>, area: &VectorArea, params: &Params) -> Result<KVec<Memory>> {
        let table = params.table().map_err(|_| EINVAL)?;
        let blocks = blocks_for(&table, area.live);
        let budget = &inode.volume().index_memory;
        let mut memories = KVec::with_capacity(params.ntables as usize, GFP_KERNEL)?;
        for _ in 0..params.ntables {
            let memory = Memory::new(budget.clone(), &table, blocks, 0)?;
            memories.push_within_capacity(memory).map_err(|_| ENOMEM)?;
        }
        Ok(memories)
    }

    fn with(
        inode: &Inode<VexFs>,
        rows: Rows,
        params: Params,
        tables: KVec<ivf::Index<Memory>>,
        taken: u64,
        loaded: Option<Loaded>,
    ) -> Result<Arc<Self>> {
        let budget = inode.volume().index_memory.clone();
        let wide = rows.vector_bytes();
        let writer = Writer {
            row: KVVec::from_elem(0, rows.bytes, GFP_KERNEL_ACCOUNT)?,
            vector: KVVec::from_elem(0, wide, GFP_KERNEL_ACCOUNT)?,
            rotated: KVVec::from_elem(0, wide, GFP_KERNEL_ACCOUNT)?,
            taken,
            sweep: Sweep::default(),
            loaded,
        };
        let hasher = Hasher {
            rows,
            params,
            scale: SetOnce::new(),
        };
        let idle = KVec::with_capacity(IDLE, GFP_KERNEL_ACCOUNT)?;
        let hashes = Arc::pin_init(
            try_pin_init!(Hashes {
                hasher,
                budget,
                tables <- RwLock::new(tables),
                writer <- new_mutex!(writer, "vexfs_hashes_writer"),
                idle <- new_mutex!(idle, "vexfs_hashes_idle"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(hashes)
    }

    /// Runs `f` with scratch memory.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> Result<R>) -> Result<R> {
        let idle = self.idle.lock().pop();
        let mut scratch = match idle {
            Some(scratch) => scratch,
            None => Scratch::new(&self.hasher)?,
        };
        let result = f(&mut scratch);
        let mut idle = self.idle.lock();
        if idle.len() < idle.capacity() {
            let _ = idle.push_within_capacity(scratch);
        }
        result
    }

    /// The squared distance of near rows as binary32 bits: the median of the distances of some rows to the nearest of a
    /// sample of others.
    fn near(&self, inode: &Inode<VexFs>, rows: u64, stop: &mut dyn FnMut() -> bool) -> Result<u32> {
        let table = self.hasher.params.table().map_err(|_| EINVAL)?;
        let area = inode.node().container.lock().area;
        let coder = Coder::new(inode, &area, table)?;
        let bytes = coder.rows.vector_bytes();
        let most = (SAMPLE_BYTES / bytes.max(1)).clamp(1, SAMPLE_ROWS);
        let others = usize::try_from(rows / 2)?.clamp(1, most);
        let len = others.saturating_add(NEAR_ROWS).saturating_mul(bytes);
        let _charge = Charge::new(self.budget.clone(), len as u64)?;
        let mut sample = Array::zeros(len)?;
        let mut memory = LoadMemory::new(&coder)?;
        let mut loader = Loader::new(inode, &coder, &mut memory, Source::Sample)?;
        let mut random = Random(SEED);
        for (i, vector) in sample.chunks_mut(bytes.max(1)).enumerate() {
            if stop() {
                return Err(super::stopped());
            }
            // The rows in question have odd numbers, the others even ones.
            let odd = u64::from(i < NEAR_ROWS);
            let row = random.below(rows.div_ceil(2)).saturating_mul(2) | odd;
            loader.load(&[row], vector)?;
        }
        let (mine, others) = sample.split_at_mut(NEAR_ROWS.saturating_mul(bytes));
        let (mut ids, mut keys) = ([0; NEAR_ROWS], [0; NEAR_ROWS]);
        let dim = self.hasher.rows.dim;
        ivf::assign(&mut loader, mine, bytes, dim, others, &mut ids, &mut keys)?;
        // Rows that are there twice say nothing.
        let zero = Distance::from_f32_bits(0).0;
        let mut apart = KVVec::with_capacity(NEAR_ROWS, GFP_KERNEL)?;
        for key in keys.into_iter().filter(|key| *key > zero) {
            apart
                .push_within_capacity((u64::from(key), 0))
                .map_err(|_| EINVAL)?;
        }
        sort::pairs(&mut apart);
        let median = apart.get(apart.len() / 2).map_or(zero, |key| key.0 as u32);
        Ok(Distance(median).to_f32_bits())
    }

    /// Puts a row into its buckets. If it can't, it is in none.
    fn insert(&self, row: u64, buckets: &[u32]) -> Result {
        self.tables.read(|tables| {
            for (at, (table, bucket)) in tables.iter().zip(buckets).enumerate() {
                while let Err(e) = table.writer().append(*bucket, row, &[], &[0; 3]) {
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
    fn remove_from_own(&self, row: u64, buckets: &[u32]) -> Result<bool> {
        self.tables.read(|tables| {
            let mut all = true;
            for (table, bucket) in tables.iter().zip(buckets) {
                all &= table.writer().delete_from(*bucket, row).map_err(errno)?;
            }
            Ok(all)
        })
    }

    /// Takes the rows that `gone` says yes to out of whatever buckets they are in.
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

    /// Removes rows; those that were not taken in are left out.
    fn remove_all(&self, inode: &Inode<VexFs>, writer: &mut Writer, rows: &[u64]) -> Result {
        let mut elsewhere = KVVec::new();
        let mut pinned = Pinned::new()?;
        let mut buckets = [0; MAX_TABLES as usize];
        for row in rows {
            if *row >= writer.taken {
                continue;
            }
            task::cond_resched();
            let end = row.saturating_add(1);
            writer.hash(inode, &self.hasher, &mut pinned, *row, end, &mut buckets)?;
            if !self.remove_from_own(*row, &buckets)? {
                elsewhere.push((*row, 0usize), GFP_KERNEL)?;
            }
        }
        if elsewhere.is_empty() {
            return Ok(());
        }
        sort::pairs(&mut elsewhere);
        self.remove_where(|row| elsewhere.binary_search_by_key(&row, |gone| gone.0).is_ok())
    }

    /// Takes in the live ones of `rows`, none of which is here.
    fn insert_live(
        &self,
        inode: &Inode<VexFs>,
        writer: &mut Writer,
        rows: Range<u64>,
        wanted: impl Fn(u64) -> bool,
    ) -> Result {
        let mut pinned = Pinned::new()?;
        let mut buckets = [0; MAX_TABLES as usize];
        let end = rows.end;
        for row in rows.filter(|row| wanted(*row)) {
            if is_live(inode, row) {
                task::cond_resched();
                writer.hash(inode, &self.hasher, &mut pinned, row, end, &mut buckets)?;
                self.insert(row, &buckets)?;
            }
        }
        Ok(())
    }

    /// How many of `rows`, if they are live, are not in a bucket of theirs. `Node::rows` is held shared.
    fn wrong_buckets(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result<u64> {
        let mut writer = self.writer.lock();
        let mut pinned = Pinned::new()?;
        let mut buckets = [0; MAX_TABLES as usize];
        let mut wrong = 0u64;
        let end = rows.end;
        for row in rows {
            writer.hash(inode, &self.hasher, &mut pinned, row, end, &mut buckets)?;
            let all = self.tables.read(|tables| {
                let mut places = tables.iter().zip(&buckets);
                places.all(|(table, bucket)| table.is_in(*bucket, row))
            });
            // Who deletes it marks it first.
            if !all && is_live(inode, row) {
                wrong = wrong.saturating_add(1);
            }
        }
        Ok(wrong)
    }

    /// Moves the rows of some buckets together, in proportion to the `removed` rows.
    fn tidy(&self, sweep: &mut Sweep, removed: u64) -> Result {
        let state = self.tables.read(|tables| {
            let table = tables.first()?;
            let (live, holes) = (table.counts().live, table.holes());
            Some((table.params().nlist, u64::from(live), holes))
        });
        let Some((nlist, live, holes)) = state else {
            return Ok(());
        };
        for _ in 0..Sweep::due(nlist, live, holes, removed) {
            task::cond_resched();
            let bucket = sweep.next(nlist);
            self.tables.write(|tables| {
                for table in tables {
                    table.compact(bucket).map_err(errno)?;
                }
                Ok::<(), Error>(())
            })?;
        }
        Ok(())
    }

    /// A sum over all tables.
    fn sum(&self, of: impl Fn(&ivf::Index<Memory>) -> u64) -> u64 {
        self.tables
            .read(|tables| tables.iter().map(of).fold(0, u64::saturating_add))
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

    fn bytes(&self) -> u64 {
        let writer = self.writer.lock().bytes();
        let idle = self.idle.lock();
        let idle = idle.iter().map(Scratch::bytes).fold(0, u64::saturating_add);
        (size_of::<Hashes>() as u64)
            .saturating_add(self.sum(|table| table.store().bytes()))
            .saturating_add(writer)
            .saturating_add(idle)
    }

    fn digest(&self) -> u64 {
        let _writer = self.writer.lock();
        self.tables.read(|tables| {
            let digests = tables.iter().map(ivf::Index::digest);
            digests.fold(0u64, |all, one| all.rotate_left(1) ^ one)
        })
    }

    fn bytes_with(&self, live: u32, _rows: u64) -> u64 {
        self.sum(|table| {
            let blocks = blocks_for(table.params(), u64::from(live));
            table.store().bytes_with(blocks)
        })
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
            Ok(())
        })
    }

    fn train(&self, inode: &Inode<VexFs>, rows: u64, go_on: GoOn<'_>) -> Result {
        if self.hasher.scale.copy().is_some() {
            return Ok(());
        }
        let scale = match self.hasher.params.family {
            Family::Signs => SIGNS_SCALE,
            Family::Cells => {
                let near = self.near(inode, rows, &mut || go_on().is_err())?;
                cell_scale(self.hasher.params.dim, near)
            }
        };
        self.hasher.scale.populate(scale);
        Ok(())
    }

    fn trained(&self) -> u32 {
        match self.hasher.scale.copy() {
            Some(_) => 1000,
            None => 0,
        }
    }

    fn extend(&self, inode: &Inode<VexFs>, watermark: &AtomicU64, end: u64) -> Result {
        let mut writer = self.writer.lock();
        let first = watermark.load(Ordering::Acquire);
        let last = first.saturating_add(PIECE).min(end);
        if last > MAX_ROWS {
            return Err(EFBIG);
        }
        writer.taken = last.max(writer.taken);
        let mut pinned = Pinned::new()?;
        let mut buckets = [0; MAX_TABLES as usize];
        for row in first..last {
            if is_live(inode, row) {
                writer.hash(inode, &self.hasher, &mut pinned, row, end, &mut buckets)?;
                self.insert(row, &buckets)?;
                // Who deleted it meanwhile has not found it.
                if !is_live(inode, row) {
                    self.remove_from_own(row, &buckets)?;
                }
            }
            watermark.store(row.saturating_add(1), Ordering::Release);
        }
        Ok(())
    }

    fn remove(&self, inode: &Inode<VexFs>, rows: &[u64]) -> Result {
        let mut writer = self.writer.lock();
        if let Some(loaded) = &mut writer.loaded {
            loaded.forget(rows);
        }
        self.remove_all(inode, &mut writer, rows)?;
        self.tidy(&mut writer.sweep, rows.len() as u64)
    }

    fn replace(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result {
        let mut writer = self.writer.lock();
        if rows.start >= writer.taken {
            return Ok(());
        }
        // Where they are, their former vectors would say.
        self.remove_where(|row| rows.contains(&row))?;
        self.insert_live(inode, &mut writer, rows, |_| true)
    }

    fn save(&self, inode: &Inode<VexFs>, generation: u64, watermark: &AtomicU64) -> Result<u64> {
        let _writer = self.writer.lock();
        hashes_image::save(self, inode, generation, watermark.load(Ordering::Acquire))
    }

    fn reconcile(&self, inode: &Inode<VexFs>, rows: Range<u64>) -> Result {
        let mut writer = self.writer.lock();
        let Some(loaded) = writer.loaded.take() else {
            return Ok(());
        };
        let mut gone = KVVec::new();
        for row in rows.clone().filter(|row| loaded.has(*row)) {
            if !is_live(inode, row) {
                gone.push(row, GFP_KERNEL)?;
            }
        }
        self.remove_all(inode, &mut writer, &gone)?;
        let last = rows.end >= writer.taken;
        self.insert_live(inode, &mut writer, rows, |row| !loaded.has(row))?;
        if !last {
            writer.loaded = Some(loaded);
        }
        Ok(())
    }

    fn check(&self, inode: &Inode<VexFs>, watermark: u64, findings: &mut Findings) -> Result {
        let lock = inode.lock();
        let writer = self.writer.lock();
        self.tables.read(|tables| {
            for (at, table) in tables.iter().enumerate() {
                let mut of_table = Findings::default();
                lists_check::rows(table, inode, watermark, &mut of_table)?;
                findings.faults = findings.faults.saturating_add(of_table.faults);
                findings.wrong_rows = findings.wrong_rows.saturating_add(of_table.wrong_rows);
                if at == 0 {
                    findings.rows = findings.rows.saturating_add(of_table.rows);
                }
            }
            Ok::<(), Error>(())
        })?;
        core::mem::drop((writer, lock));
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
        self.with_scratch(|scratch| {
            hashes_search::search(self, scratch, scan, query, end, heaps, outcome)
        })
    }
}
