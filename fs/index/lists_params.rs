// SPDX-License-Identifier: GPL-2.0

//! Parameters of inverted lists: what the interface calls them, and their defaults.

use super::lists::SEED;
use super::{Kind, Parameters};
use kernel::prelude::*;
use libvexfs::format::vector_area::{METRIC_COSINE, METRIC_INNER_PRODUCT};
use libvexfs::format::VectorArea;
use vexfs_ann::ivf::params::MAX_NLIST;
use vexfs_ann::ivf::{train, Code, Params};
use vexfs_ann::pq;

/// Lists of a row: one, or so many.
const MOST_COPIES: u32 = 2;

/// Bits of a code in the interface: signs of the elements, and none at all.
const SIGNS: u32 = 1;
const NO_CODES: u32 = 32;

/// What a build asks for, with defaults filled in.
///
/// # Errors
///
/// `EINVAL` for a bad field, `EOPNOTSUPP` if rows are too long for the defaults.
pub(super) fn params(
    kind: Kind,
    parameters: &Parameters,
    area: &VectorArea,
    bytes: usize,
) -> Result<Params> {
    let Parameters {
        m,
        ef_construction,
        nlist,
        nsub,
        nbits,
        ntables,
    } = *parameters;
    let (ivf, dim) = (kind == Kind::Ivf, area.dim);
    if m | ef_construction != 0 || (!ivf && nlist | ntables != 0) || ntables > MOST_COPIES {
        return Err(EINVAL);
    }
    let parts = |eight_bits| match (pq::flat(dim, eight_bits, SEED).code, nsub) {
        (code, 0) => code,
        (Code::Pq8 { .. }, nsub) => Code::Pq8 { nsub },
        (_, nsub) => Code::Pq4 { nsub },
    };
    let row_bytes = u32::try_from(bytes)?;
    let code = match (nbits, nsub) {
        (0, 0) if ivf => Params::default_for(area.live, dim, row_bytes).code,
        (SIGNS, 0) if ivf => Code::Signs,
        (NO_CODES, 0) if ivf => Code::Flat,
        (0 | 4, _) => parts(false),
        (8, _) => parts(true),
        _ => return Err(EINVAL),
    };
    let mut params = Params {
        dim,
        nlist: 1,
        code,
        copies: 1,
        hashed: false,
        seed: SEED,
    };
    params.copies = match ntables {
        // Of one list there are no two.
        0 if ivf && nlist != 1 => params.default_copies(is_angular(area)),
        0 => 1,
        copies => copies,
    };
    params.nlist = match (kind, nlist) {
        // Of few rows it is one.
        (Kind::Ivf, 0) => params.default_nlist(area.live, row_bytes).max(ntables),
        (Kind::Ivf, nlist) => nlist,
        _ => 1,
    };
    if ntables == 0 {
        params.copies = params.copies.min(params.nlist.max(1));
    } else if ntables > params.nlist {
        return Err(EINVAL);
    }
    match params.layout() {
        Ok(_) => Ok(params),
        // What the caller chose is good, so it is the code that is too long.
        Err(_) if nsub == 0 && nlist <= MAX_NLIST => Err(EOPNOTSUPP),
        Err(_) => Err(EINVAL),
    }
}

fn is_angular(area: &VectorArea) -> bool {
    matches!(area.metric, METRIC_INNER_PRODUCT | METRIC_COSINE)
}

/// The parameters of an image. Before rows could be in two lists, it said of neither.
pub(super) fn stored(kind: Kind, parameters: Parameters) -> Parameters {
    Parameters {
        ntables: match kind {
            Kind::Ivf => parameters.ntables.max(1),
            _ => parameters.ntables,
        },
        ..parameters
    }
}

/// What to build lists anew with that were made for `learnt_from` rows, now that there are `live`; `None` if they are
/// still good. What is a default stays one. Rows are of `bytes` bytes.
pub(super) fn outgrown(
    kind: Kind,
    params: &Params,
    learnt_from: u64,
    live: u64,
    bytes: usize,
) -> Option<Parameters> {
    let row_bytes = u32::try_from(bytes).ok()?;
    let mut parameters = of(kind, params);
    if train::has_default_lists(params, learnt_from, row_bytes) {
        parameters.nlist = 0;
    }
    train::is_outgrown(params, learnt_from, live, row_bytes).then_some(parameters)
}

/// Parameters as the interface has them.
pub(super) fn of(kind: Kind, params: &Params) -> Parameters {
    let Params {
        nlist,
        code,
        copies,
        ..
    } = *params;
    let (nsub, nbits) = match code {
        Code::Flat => (0, NO_CODES),
        Code::Signs => (0, SIGNS),
        Code::Pq4 { nsub } => (nsub, 4),
        Code::Pq8 { nsub } => (nsub, 8),
    };
    let ivf = kind == Kind::Ivf;
    Parameters {
        nlist: if ivf { nlist } else { 0 },
        ntables: if ivf { copies } else { 0 },
        nsub,
        nbits,
        ..Parameters::default()
    }
}
