// SPDX-License-Identifier: GPL-2.0

//! How rows become buckets of hash tables.

use super::budget::{Account, Charge};
use super::catch_up::GoOn;
use super::exact::Rows;
use super::lists_codes::{Coder, LoadMemory, Loader, Source};
use super::Parameters;
use crate::VexFs;
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf::{self, Vectors};
use vexfs_ann::kmeans::Random;
use vexfs_ann::lsh::{cell_scale, sample_bits, Family, Params};
use vexfs_simd_ffi::{fixed_f32, rotate_f32, Distance, Elem, Metric};
use vexfs_vfs::array::Array;
use vexfs_vfs::{fpu, sort, Inode};

/// Decides the hashes. The same for all, so that equal rows give equal indexes.
pub(super) const SEED: u64 = 1;
/// The factor of projections whose signs alone count: binary32 bits of 2^16. Vectors are of length 1.
const SIGNS_SCALE: u32 = 0x4780_0000;
/// Rows whose nearest ones among a sample tell how wide a cell is; the sample's rows, and bytes.
const NEAR_ROWS: usize = 64;
const SAMPLE_ROWS: usize = 4096;
const SAMPLE_BYTES: usize = 8 << 20;

/// What a build asks for, with defaults filled in. `EINVAL`.
pub(super) fn params(parameters: &Parameters, area: &VectorArea, metric: Metric) -> Result<Params> {
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

/// How rows become buckets.
pub(super) struct Hasher {
    pub(super) rows: Rows,
    pub(super) params: Params,
    /// The factor of projections, binary32 bits, once it is known.
    scale: SetOnce<u32>,
}

impl Hasher {
    pub(super) fn new(rows: Rows, params: Params) -> Self {
        Hasher {
            rows,
            params,
            scale: SetOnce::new(),
        }
    }

    /// Sets the factor of projections, binary32 bits, once.
    pub(super) fn set_scale(&self, scale: u32) {
        self.scale.populate(scale);
    }

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

    /// Learns the factor of projections from the first `rows` rows, unless it is known.
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
        let scale = match self.params.family {
            Family::Signs => SIGNS_SCALE,
            Family::Cells => {
                let near = self.near(inode, rows, account, go_on)?;
                cell_scale(self.params.dim, near)
            }
        };
        self.set_scale(scale);
        Ok(())
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
        let table = self.params.table().map_err(|_| EINVAL)?;
        let area = inode.node().container.lock().area;
        let coder = Coder::new(inode, &area, table)?;
        let bytes = coder.rows.vector_bytes();
        let most = (SAMPLE_BYTES / bytes.max(1)).clamp(1, SAMPLE_ROWS);
        // Building takes less than half of the rows' own memory.
        let others = usize::try_from(rows / 4)?.clamp(1, most);
        let len = others.saturating_add(NEAR_ROWS).saturating_mul(bytes);
        let mut charge = Charge::new(account.clone(), len as u64)?;
        let mut sample = Array::zeros(len)?;
        let mut memory = LoadMemory::new(&mut charge, &coder)?;
        let mut loader = Loader::new(inode, &coder, &mut memory, Source::Sample)?;
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
        let dim = self.rows.dim;
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
}
