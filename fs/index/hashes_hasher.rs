// SPDX-License-Identifier: GPL-2.0

//! How rows become buckets of hash tables, and codes in them.

use super::budget::{Account, Charge};
use super::catch_up::GoOn;
use super::lists_codes::{Coder, Model};
use super::lists_loader::{LoadMemory, Loader, Source};
use super::{is_live, Parameters};
use crate::VexFs;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf::{self, Code, Vectors};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{cell_scale, sample_bits, Family, Params, MAX_BITS};
use vexfs_simd_ffi::{
    encode_signs, fixed_f32, normalise_f32, rotate_f32, subtract_f32, Distance, Elem, Metric,
};
use vexfs_vfs::array::Array;
use vexfs_vfs::page_cache::Pinned;
use vexfs_vfs::{fpu, sort, Inode};

/// Decides the hashes. The same for all, so that equal rows give equal indexes.
pub(super) const SEED: u64 = 2;
/// The factor of projections whose signs alone count: binary32 bits of 2^16. Vectors are of length 1.
const SIGNS_SCALE: u32 = 0x4780_0000;
/// Rows whose nearest ones among a sample tell how wide a cell is; the sample's rows, and bytes.
const NEAR_ROWS: usize = 64;
const SAMPLE_ROWS: usize = 4096;
const SAMPLE_BYTES: usize = 8 << 20;
/// Rows whose mean is the centre of codes.
const CENTRE_ROWS: u64 = 1000;

/// What a build asks for, with defaults filled in. `EINVAL`.
pub(super) fn params(parameters: &Parameters, area: &VectorArea) -> Result<Params> {
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
    let family = match crate::element::metric(area)? {
        Metric::L2Sq => Family::Cells,
        // Rows whose directions are near have great inner products, if they are about equally long.
        _ => Family::Signs,
    };
    let row_bytes = u32::try_from(crate::element::row_bytes(area)?)?;
    let default = Params::default_for(area.live, area.dim, row_bytes, family);
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

/// How rows become buckets and codes.
pub(super) struct Hasher {
    pub(super) params: Params,
    /// Its parameters are those of the tables.
    pub(super) coder: Coder,
    /// The centre of codes, once it is known.
    pub(super) model: SetOnce<Model>,
    /// The factor of projections, binary32 bits, once it is known: after the centre.
    scale: SetOnce<u32>,
}

impl Hasher {
    /// `EINVAL` for bad parameters.
    pub(super) fn new(inode: &Inode<VexFs>, area: &VectorArea, params: Params) -> Result<Self> {
        let table = params.table().map_err(|_| EINVAL)?;
        Ok(Hasher {
            params,
            coder: Coder::new(inode, area, table)?,
            model: SetOnce::new(),
            scale: SetOnce::new(),
        })
    }

    /// Sets what is learnt, once.
    pub(super) fn set(&self, model: Model, scale: u32) {
        self.model.populate(model);
        self.scale.populate(scale);
    }

    /// The factor of projections, binary32 bits, once it is known.
    pub(super) fn scale(&self) -> Option<u32> {
        self.scale.copy()
    }

    /// Writes the projections of a row, whose vector is `vector`, for a table to `out`. `rotated` has room for a
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
        let (elem, metric) = (self.coder.rows.elem, self.coder.rows.metric);
        if elem == Elem::Binary && metric == Metric::Hamming {
            sample_bits(seed, table, dim, row, out);
            return Ok(());
        }
        let scale = self.scale().ok_or(EINVAL)?;
        let centre = &self.model.as_ref().ok_or(EINVAL)?.centroids;
        let isa = self.coder.rows.simd.isa;
        let (rotation, first) = self.params.rotation(table);
        let skip = Elem::F32.row_bytes(first as usize);
        let direction = metric == Metric::InnerProduct;
        fpu::section(|t| {
            if centre.is_empty() || direction {
                for (to, from) in rotated.iter_mut().zip(vector) {
                    *to = *from;
                }
            } else {
                // Seen from their centre rows are in more directions than from the origin.
                subtract_f32(t, isa, vector, centre, rotated)?;
            }
            if direction {
                let _ = normalise_f32(t, isa, rotated);
            }
            // Vectors for codes are rotated already.
            if self.params.code == Code::Flat || rotation != seed {
                rotate_f32(t, isa, rotation, rotated)?;
            }
            fixed_f32(t, isa, rotated.get(skip..).unwrap_or(&[]), scale, out)
        })?
        .map_err(|_| EINVAL)
    }

    /// Writes the codes and factors of a vector, if rows have some.
    pub(super) fn encode(&self, vector: &[u8], codes: &mut [u8], factors: &mut [u32; 3]) -> Result {
        if self.params.code == Code::Flat {
            return Ok(());
        }
        let centre = &self.model.as_ref().ok_or(EINVAL)?.centroids;
        let (isa, metric) = (self.coder.rows.simd.isa, self.coder.metric());
        fpu::section(|t| encode_signs(t, isa, metric, vector, centre, codes, factors))?
            .map_err(|_| EINVAL)
    }

    /// Learns the centre and the factor of projections from the first `rows` rows, unless it is known.
    ///
    /// # Errors
    ///
    /// What `go_on` says, `ENOMEM`, and what reading says.
    pub(super) fn learn(
        &self,
        inode: &Inode<VexFs>,
        rows: u64,
        account: &Arc<Account>,
        go_on: GoOn<'_>,
    ) -> Result {
        if self.scale().is_some() {
            return Ok(());
        }
        let mut model = Model::empty(&self.coder.params)?;
        self.find_centre(inode, rows, account, go_on, &mut model.centroids)?;
        let scale = match self.params.family {
            Family::Signs => SIGNS_SCALE,
            Family::Cells => {
                let near = self.near(inode, rows, account, go_on)?;
                cell_scale(self.params.dim, near)
            }
        };
        self.set(model, scale);
        Ok(())
    }

    /// Bytes of the rows that [`Hasher::near`] compares, if there are `rows`.
    fn sample_bytes(&self, rows: u64) -> usize {
        let bytes = self.coder.rows.vector_bytes();
        let most = (SAMPLE_BYTES / bytes.max(1)).clamp(1, SAMPLE_ROWS);
        // Building takes less than half of the rows' own memory.
        let others = usize::try_from(rows / 4).unwrap_or(most).clamp(1, most);
        others.saturating_add(NEAR_ROWS).saturating_mul(bytes)
    }

    /// Bytes that [`Hasher::learn`] takes for a moment, if there are `rows` rows. Nothing is made on account of
    /// `measure`. `ENOMEM`.
    pub(super) fn bytes_to_learn(&self, measure: &Arc<Account>, rows: u64) -> Result<u64> {
        if self.scale().is_some() {
            return Ok(0);
        }
        let mut charge = Charge::new(measure.clone(), 0)?;
        LoadMemory::new(&mut charge, &self.coder)?;
        let dim = self.coder.rows.dim;
        let sums = size_of::<u64>().saturating_mul(dim);
        let mean = self.coder.rows.vector_bytes().saturating_add(sums);
        let sample = match self.params.family {
            Family::Signs => 0,
            Family::Cells => self.sample_bytes(rows),
        };
        Ok(charge.bytes().saturating_add(mean.max(sample) as u64))
    }

    /// Writes the mean of some rows, as vectors, to `centre`, if there is one.
    fn find_centre(
        &self,
        inode: &Inode<VexFs>,
        rows: u64,
        account: &Arc<Account>,
        go_on: GoOn<'_>,
        centre: &mut [u8],
    ) -> Result {
        if centre.is_empty() {
            return Ok(());
        }
        let coder = &self.coder;
        let (bytes, dim) = (coder.rows.vector_bytes(), coder.rows.dim);
        let mut charge = Charge::new(account.clone(), 0)?;
        let (mut vector, mut sums) = (charge.make(bytes)?, charge.make(dim)?);
        let mut counts = [0];
        let mut memory = LoadMemory::new(&mut charge, coder)?;
        let mut loader = Loader::new(inode, coder, &mut memory, Source::Sample)?;
        let mut random = Random(SEED);
        for _ in 0..CENTRE_ROWS.min(rows) {
            go_on()?;
            loader.load(&[random.below(rows)], &mut vector)?;
            loader.accumulate(&vector, bytes, dim, &[0], &mut sums, &mut counts)?;
        }
        loader.centroids(dim, &sums, &counts, centre)
    }

    /// The squared distance of near rows as binary32 bits: the median of the distances of some rows to the nearest of a
    /// sample of others.
    fn near(
        &self,
        inode: &Inode<VexFs>,
        rows: u64,
        account: &Arc<Account>,
        go_on: GoOn<'_>,
    ) -> Result<u32> {
        let coder = &self.coder;
        let bytes = coder.rows.vector_bytes();
        let len = self.sample_bytes(rows);
        let mut charge = Charge::new(account.clone(), len as u64)?;
        let mut sample = Array::zeros(len)?;
        let mut memory = LoadMemory::new(&mut charge, coder)?;
        let mut loader = Loader::new(inode, coder, &mut memory, Source::Sample)?;
        let mut random = Random(SEED);
        for (i, vector) in sample.chunks_mut(bytes.max(1)).enumerate() {
            go_on()?;
            // The rows in question have odd numbers, the others even ones.
            let odd = u64::from(i < NEAR_ROWS);
            let row = random.below(rows.div_ceil(2)).saturating_mul(2) | odd;
            loader.load(&[row], vector)?;
        }
        let (mine, others) = sample.split_at_mut(NEAR_ROWS.saturating_mul(bytes));
        let (mut ids, mut keys) = ([0; NEAR_ROWS], [0; NEAR_ROWS]);
        let dim = coder.rows.dim;
        ivf::assign(&mut loader, mine, bytes, dim, others, &mut ids, &mut keys)?;
        // Rows that are there twice say nothing.
        let zero = Distance::from_f32_bits(0).0;
        let mut apart = KVVec::with_capacity(NEAR_ROWS, GFP_KERNEL | __GFP_NOWARN)?;
        for key in keys.into_iter().filter(|key| *key > zero) {
            apart
                .push_within_capacity((u64::from(key), 0))
                .map_err(|_| EINVAL)?;
        }
        sort::pairs(&mut apart);
        let median = apart.get(apart.len() / 2).map_or(zero, |key| key.0 as u32);
        Ok(Distance(median).to_f32_bits())
    }
}

/// Rows hashed by one thread while `Node::rows` is held: a millisecond.
pub(super) const PIECE: u64 = 64;

/// Rows that one thread hashes and encodes.
pub(super) struct Chunk {
    pub(super) rows: Range<u64>,
    /// A bit for each that was live when it was hashed.
    live: u64,
    /// Of each of these rows a bucket for each table, then codes and factors; anything for rows that are not live.
    buckets: KVVec<u32>,
    codes: KVVec<u8>,
    factors: KVVec<[u32; 3]>,
    row: KVVec<u8>,
    vector: KVVec<u8>,
    rotated: KVVec<u8>,
    _charge: Charge,
}

/// What became of a row.
pub(super) struct Hashed<'a> {
    pub(super) buckets: &'a [u32],
    pub(super) codes: &'a [u8],
    pub(super) factors: &'a [u32; 3],
}

impl Chunk {
    /// Memory for [`PIECE`] rows, charged to `account`.
    pub(super) fn new(account: &Arc<Account>, hasher: &Hasher) -> Result<Self> {
        let mut charge = Charge::new(account.clone(), 0)?;
        let coder = &hasher.coder;
        let (rows, wide) = (PIECE as usize, coder.rows.vector_bytes());
        let buckets = rows.saturating_mul(hasher.params.ntables as usize);
        let codes = rows.saturating_mul(coder.layout.nsub as usize);
        Ok(Chunk {
            rows: 0..0,
            live: 0,
            buckets: charge.make(buckets)?,
            codes: charge.make(codes)?,
            factors: charge.make(rows)?,
            row: charge.make(coder.rows.bytes)?,
            vector: charge.make(wide)?,
            rotated: charge.make(wide)?,
            _charge: charge,
        })
    }

    /// Hashes and encodes the live ones of its rows. Rows below `end` may be read on the way.
    pub(super) fn hash(&mut self, inode: &Inode<VexFs>, hasher: &Hasher, end: u64) -> Result {
        let mut pinned = Pinned::new()?;
        self.live = 0;
        for (at, row) in self.rows.clone().enumerate() {
            if is_live(inode, row) {
                self.hash_row(inode, hasher, &mut pinned, at, row, end)?;
                self.live |= 1 << at;
            }
        }
        Ok(())
    }

    /// Whether its row `at` was hashed. One that took a deleted one's place since was not.
    pub(super) fn is_hashed(&self, at: usize) -> bool {
        self.live >> at & 1 != 0
    }

    /// Reads, hashes and encodes `row` as its row `at`, which is below [`PIECE`].
    pub(super) fn hash_row(
        &mut self,
        inode: &Inode<VexFs>,
        hasher: &Hasher,
        pinned: &mut Pinned,
        at: usize,
        row: u64,
        end: u64,
    ) -> Result {
        let (coder, params) = (&hasher.coder, &hasher.params);
        coder.rows.read(inode, pinned, row, end, &mut self.row)?;
        coder.vector(&self.row, &mut self.vector)?;
        let codes = place(at, coder.layout.nsub as usize);
        let codes = self.codes.get_mut(codes).ok_or(EINVAL)?;
        let factors = self.factors.get_mut(at).ok_or(EINVAL)?;
        hasher.encode(&self.vector, codes, factors)?;
        let mut projections = [0; MAX_BITS as usize];
        let projections = projections.get_mut(..params.nbits as usize).ok_or(EINVAL)?;
        let buckets = place(at, params.ntables as usize);
        let buckets = self.buckets.get_mut(buckets).ok_or(EINVAL)?;
        for (table, bucket) in (0..params.ntables).zip(buckets) {
            let rotated = &mut self.rotated;
            hasher.project(&self.row, &self.vector, rotated, table, projections)?;
            *bucket = params.bucket(projections);
        }
        Ok(())
    }

    /// What became of its row `at`.
    pub(super) fn hashed(&self, hasher: &Hasher, at: usize) -> Result<Hashed<'_>> {
        let codes = place(at, hasher.coder.layout.nsub as usize);
        let buckets = place(at, hasher.params.ntables as usize);
        Ok(Hashed {
            buckets: self.buckets.get(buckets).ok_or(EINVAL)?,
            codes: self.codes.get(codes).ok_or(EINVAL)?,
            factors: self.factors.get(at).ok_or(EINVAL)?,
        })
    }
}

/// Where the values of row `at` are, if each has `len`.
fn place(at: usize, len: usize) -> Range<usize> {
    let start = at.saturating_mul(len);
    start..start.saturating_add(len)
}
