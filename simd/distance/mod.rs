// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Distances from one query to many rows.
//!
//! `scalar.rs` is the reference and the fallback; the other files offer the same functions in the
//! same order, for one instruction set each.
//!
//! # Accuracy
//!
//! Let u = 2^-24 and S the sum of the absolute values of the terms: (q-r)^2 for `L2Sq`, |q*r| for
//! `InnerProduct`. Scalar code sums in f64, where products of two f32 are exact, and rounds once:
//! its error is below 1.01 u of the result plus 2^-37 S.
//! Vector code sums f32 lanes with fused multiply-add, in blocks of 512 or 1024 elements so that no
//! chain of roundings is longer than 72 + dim/256, or 140 + dim/2048 with the BF16 instructions, which
//! round twice and have larger blocks: that many u * S bounds its error on any data.
//! Rounding errors of random data largely cancel: they stay below 8 u * S = 4 eps S, and that is what
//! the self-test and most tests demand. Those of equal terms all go the same way: 6 u * S at 2048
//! dimensions, 48 at 65,536. A subnormal result has an absolute error of at most dim * 2^-149 more.
//! Cosine is within 4 eps (absolute) of 1 - cos plus the error of its dot product and norms divided by
//! |q||r|.
//! Sums that leave the f32 range, or norms too near its ends, are computed again by scalar code.
//!
//! The BF16 instructions take subnormal elements as zeros and flush subnormal products and sums, which
//! adds an absolute error of at most dim * 2^-126 * max(1, |q|, |r|), of the largest elements.
//!
//! Integer and bit vectors are summed exactly and rounded once: all instruction sets return
//! the same bits.

use crate::abi::{Distance, Elem, Isa, Metric};

// Element types and metrics as const generic arguments.
const F32: u32 = Elem::F32 as u32;
const F16: u32 = Elem::F16 as u32;
const BF16: u32 = Elem::Bf16 as u32;
const I8: u32 = Elem::I8 as u32;
const U8: u32 = Elem::U8 as u32;
const L2SQ: u32 = Metric::L2Sq as u32;
const INNER_PRODUCT: u32 = Metric::InnerProduct as u32;
const COSINE: u32 = Metric::Cosine as u32;

/// An element type and a metric.
pub trait Kind: Copy {
    fn elem(self) -> Elem;
    fn metric(self) -> Metric;
}

/// Those that a caller chose.
impl Kind for (Elem, Metric) {
    #[inline(always)]
    fn elem(self) -> Elem {
        self.0
    }

    #[inline(always)]
    fn metric(self) -> Metric {
        self.1
    }
}

/// Distances of f32. A compiler leaves the code for other elements out, and so the larger frames that some of it has
/// on a kernel's stack.
#[derive(Clone, Copy)]
pub struct F32Kind(pub Metric);

impl Kind for F32Kind {
    #[inline(always)]
    fn elem(self) -> Elem {
        Elem::F32
    }

    #[inline(always)]
    fn metric(self) -> Metric {
        self.0
    }
}

/// Calls the file's own `floats`, `bytes` or `bits` for an element type and a metric; `rest` are further
/// generic arguments. Bits have one distance of differences, so `L2Sq` and `Hamming` are the same function.
macro_rules! dispatch {
    ($kind:expr, $args:tt $(, $rest:tt)?) => {
        match ($kind.elem(), $kind.metric()) {
            (Elem::F32, Metric::InnerProduct) => floats::<_, F32, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::F32, Metric::Cosine) => floats::<_, F32, COSINE $(, $rest)?> $args,
            (Elem::F32, _) => floats::<_, F32, L2SQ $(, $rest)?> $args,
            (Elem::F16, Metric::InnerProduct) => floats::<_, F16, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::F16, Metric::Cosine) => floats::<_, F16, COSINE $(, $rest)?> $args,
            (Elem::F16, _) => floats::<_, F16, L2SQ $(, $rest)?> $args,
            (Elem::Bf16, Metric::InnerProduct) => floats::<_, BF16, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::Bf16, Metric::Cosine) => floats::<_, BF16, COSINE $(, $rest)?> $args,
            (Elem::Bf16, _) => floats::<_, BF16, L2SQ $(, $rest)?> $args,
            (Elem::I8, Metric::InnerProduct) => bytes::<_, I8, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::I8, Metric::Cosine) => bytes::<_, I8, COSINE $(, $rest)?> $args,
            (Elem::I8, _) => bytes::<_, I8, L2SQ $(, $rest)?> $args,
            (Elem::U8, Metric::InnerProduct) => bytes::<_, U8, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::U8, Metric::Cosine) => bytes::<_, U8, COSINE $(, $rest)?> $args,
            (Elem::U8, _) => bytes::<_, U8, L2SQ $(, $rest)?> $args,
            (Elem::Binary, Metric::InnerProduct) => bits::<_, INNER_PRODUCT $(, $rest)?> $args,
            (Elem::Binary, Metric::Cosine) => bits::<_, COSINE $(, $rest)?> $args,
            (Elem::Binary, _) => bits::<_, L2SQ $(, $rest)?> $args,
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
#[cfg(target_arch = "x86_64")]
mod avx512bits;
#[cfg(target_arch = "x86_64")]
mod avx512bytes;
#[cfg(target_arch = "x86_64")]
mod avx512keys;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neondot;
mod scalar;

/// Where row `i` of a batch starts.
pub trait Rows: Copy {
    /// Whether rows of `len_bytes` follow each other with hardly a gap.
    fn are_dense(self, len_bytes: usize) -> bool;

    /// Whether rows of `len_bytes` follow each other without a gap.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn are_packed(self, len_bytes: usize) -> bool {
        let _ = len_bytes;
        false
    }

    /// # Safety
    ///
    /// `i` is below the length of the batch.
    unsafe fn row(self, i: usize) -> *const u8;
}

/// Rows at a fixed distance in memory.
#[derive(Clone, Copy)]
pub struct Strided {
    pub base: *const u8,
    pub stride: usize,
}

impl Rows for Strided {
    #[inline(always)]
    fn are_dense(self, len_bytes: usize) -> bool {
        // The difference of a smaller stride wraps to a large number.
        self.stride.wrapping_sub(len_bytes) < 64
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn are_packed(self, len_bytes: usize) -> bool {
        self.stride == len_bytes
    }

    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller keeps `i` inside the batch, whose rows lie in one allocation.
        unsafe { self.base.add(i.wrapping_mul(self.stride)) }
    }
}

/// Rows at listed byte offsets.
#[derive(Clone, Copy)]
pub struct Gathered {
    pub base: *const u8,
    pub offsets: *const u64,
}

impl Rows for Gathered {
    #[inline(always)]
    fn are_dense(self, _: usize) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller keeps `i` inside the list, and every offset in it is inside the
        // allocation that `base` points to.
        unsafe { self.base.add(*self.offsets.add(i) as usize) }
    }
}

/// Rows at listed addresses.
#[derive(Clone, Copy)]
pub struct Listed {
    pub rows: *const *const u8,
}

impl Rows for Listed {
    #[inline(always)]
    fn are_dense(self, _: usize) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller keeps `i` inside the list.
        unsafe { *self.rows.add(i) }
    }
}

/// Rows that share each load of the query.
const TILE: usize = 4;

/// Rows whose sums are added up at the same time.
#[cfg(target_arch = "x86_64")]
const BLOCK_ROWS: usize = 16;

/// How far ahead of its loads a tile prefetches, in bytes of each of its rows. Four times this must
/// cover the latency of memory and leave room in a 32 KiB first-level cache.
const LEAD: usize = 1024;

/// How far ahead of its loads a kernel prefetches that reads rows one after the other, in bytes. Of rows without
/// gaps it hides the second-level cache, since a Zen 5 core's own prefetcher hides the memory. Less of it leaves that
/// prefetcher behind where rows are short: 37 instead of 40 GB/s for cosines of 128 bytes.
#[cfg(target_arch = "x86_64")]
const ROW_LEAD: usize = 6144;

/// The same for two long rows at a time, whose query fills more of the first-level cache.
#[cfg(target_arch = "x86_64")]
const PAIR_LEAD: usize = 3584;

/// Where a tile prefetches: element bytes `at` of row `k` bring in `at << shift` of `near[k]` if `at`
/// is below `cut`, and of `far[k]` if not. The addresses need not be inside of anything.
struct Ahead<const N: usize> {
    near: [*const u8; N],
    far: [*const u8; N],
    cut: usize,
    shift: u32,
}

impl<const N: usize> Ahead<N> {
    /// What follows `N` rows of `len_bytes` without gaps that begin at `p`, in the order of addresses. `N` is a
    /// power of two.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn linear(p: *const u8, len_bytes: usize) -> Self {
        let mut ahead = Ahead::none(p);
        ahead.shift = N.trailing_zeros();
        // The last row's beginning is read at the same time as the first's.
        let lead = if N == 1 { ROW_LEAD } else { PAIR_LEAD };
        let p = p.wrapping_add((N - 1) * len_bytes + lead);
        for k in 0..N {
            ahead.near[k] = p.wrapping_add(64 * k);
        }
        ahead
    }

    /// The same for a tile whose rows begin `at` bytes later.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn after(self, at: usize) -> Self {
        let later = |p: *const u8| p.wrapping_add(at << self.shift);
        Ahead {
            near: self.near.map(later),
            far: self.far.map(later),
            cut: self.cut.saturating_sub(at),
            shift: self.shift,
        }
    }

    /// The row that comes `lead` rows after row `i` of `n`, if there is one.
    ///
    /// # Safety
    ///
    /// `i` is below `n`, the length of the batch.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn row<R: Rows>(lead: usize, rows: R, i: usize, n: usize) -> Self {
        let k = if n - i > lead { i + lead } else { i };
        // SAFETY: `k` is below `n`.
        Ahead::none(unsafe { rows.row(k) })
    }

    /// Nothing that is not there already: `p` itself.
    #[inline(always)]
    fn none(p: *const u8) -> Self {
        Ahead {
            near: [p; N],
            far: [p; N],
            cut: usize::MAX,
            shift: 0,
        }
    }
}

impl Ahead<TILE> {
    /// The same for the first and the last two rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn halves(&self) -> [Ahead<2>; 2] {
        let [a, b, c, d] = self.near;
        let [e, f, g, h] = self.far;
        [([a, b], [e, f]), ([c, d], [g, h])].map(|(near, far)| Ahead {
            near,
            far,
            cut: self.cut,
            shift: self.shift,
        })
    }

    /// What to prefetch beside the tile at row `i` of `n`, with rows of `len_bytes`.
    ///
    /// Rows without gaps are prefetched in the order of their addresses, because the memory
    /// controller and the processor's own prefetcher like one stream better than four: 15 instead
    /// of 10 GB/s for 512-byte rows on a Zen 3 core that reads 20 GB/s. Of other rows it is the
    /// same rows further on if they are long, later tiles if they are short.
    ///
    /// # Safety
    ///
    /// `i` is below `n`, the length of the batch.
    #[inline(always)]
    unsafe fn tile<R: Rows>(rows: R, i: usize, n: usize, len_bytes: usize) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { Self::tile_by(LEAD, rows, i, n, len_bytes) }
    }

    /// The same, `lead` bytes of each row ahead.
    ///
    /// # Safety
    ///
    /// As [`Self::tile`].
    #[inline(always)]
    unsafe fn tile_by<R: Rows>(lead: usize, rows: R, i: usize, n: usize, len_bytes: usize) -> Self {
        let at = |tile: usize, k: usize, offset: usize| {
            let row = i + tile * TILE + k;
            // SAFETY: `row` or else `i` is below `n`.
            unsafe { rows.row(if row < n { row } else { i }) }.wrapping_add(offset)
        };
        let mut ahead = Ahead::none(at(0, 0, TILE * lead));
        if rows.are_dense(len_bytes) {
            ahead.shift = 2;
            for k in 0..TILE {
                ahead.near[k] = at(0, 0, TILE * lead + 64 * k);
            }
        } else {
            let (tiles, rest) = if len_bytes > lead || len_bytes == 0 {
                (0, lead)
            } else {
                (lead / len_bytes, lead % len_bytes)
            };
            ahead.cut = len_bytes.wrapping_sub(rest);
            for k in 0..TILE {
                ahead.near[k] = at(tiles, k, rest);
                ahead.far[k] = at(tiles + 1, k, rest.wrapping_sub(len_bytes));
            }
        }
        ahead
    }
}

/// How many rows ahead of its loads a kernel that reads short rows one by one prefetches.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bit_lead(len_bytes: usize) -> usize {
    if len_bytes > LEAD {
        1
    } else {
        // At least 16 lines are under way, each row has one or more.
        (LEAD >> 6) * 64 / (if len_bytes < 64 { 64 } else { len_bytes })
    }
}

/// Writes the keys of the distances from `query` to `n` rows to `out`.
///
/// A row's key does not depend on its place in the batch or on how its address was found.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, `query` and each row are readable for
/// `kind.elem().row_bytes(dim)` bytes at any alignment, and `out` is writable for `n` elements.
pub unsafe fn score<R: Rows>(
    isa: Isa,
    kind: impl Kind,
    query: *const u8,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    // SAFETY: the caller's promises are those of each variant.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512bf16::score(kind, [query], rows, dim, [out], n),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512vnni::score(kind, [query], rows, dim, [out], n),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::score(kind, [query], rows, dim, [out], n),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::score(kind, query, rows, dim, out, n),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => neondot::score(kind, query, rows, dim, out, n),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::score(kind, query, rows, dim, out, n),
            _ => scalar::score(kind, query, rows, dim, out, n),
        }
    }
}

/// Rows of a larger batch, from `first` on.
#[derive(Clone, Copy)]
struct Part<R> {
    rows: R,
    first: usize,
}

impl<R: Rows> Rows for Part<R> {
    #[inline(always)]
    fn are_dense(self, len_bytes: usize) -> bool {
        self.rows.are_dense(len_bytes)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn are_packed(self, len_bytes: usize) -> bool {
        self.rows.are_packed(len_bytes)
    }

    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller keeps `i` inside the part, which lies inside the batch.
        unsafe { self.rows.row(self.first + i) }
    }
}

/// Bytes of rows that all queries meet before the next rows: with two queries, half of a first-level cache.
const ROWS_AT_ONCE: usize = 24 * 1024;

/// Writes the keys of the distances from `nq` queries to `n` rows to `out`, those of a query together.
///
/// A pair's key is the same as from [`score`]. With AVX-512 two queries share each load of a row, and
/// everywhere rows are read from memory once.
///
/// # Safety
///
/// As [`score`], for each of the queries; `out` is writable for `nq * n` elements.
pub unsafe fn score_many<R: Rows>(
    isa: Isa,
    kind: impl Kind,
    queries: Strided,
    nq: usize,
    rows: R,
    dim: usize,
    out: *mut u32,
    n: usize,
) {
    let len_bytes = kind.elem().row_bytes(dim);
    // At least so many that what is done once per query and part does not count.
    let fit = ROWS_AT_ONCE.checked_div(len_bytes).unwrap_or(n);
    let step = (if fit < 4 * TILE { 4 * TILE } else { fit }) & !(TILE - 1);
    let mut first = 0;
    while first < n {
        let count = if n - first < step { n - first } else { step };
        let part = Part { rows, first };
        let mut q = 0;
        // SAFETY: the part is inside the batch and each query below `nq`; otherwise as promised by
        // the caller.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            while q + 1 < nq {
                let pair = [queries.row(q), queries.row(q + 1)];
                let to = [out.add(q * n + first), out.add((q + 1) * n + first)];
                match isa {
                    Isa::Avx512Bf16 => avx512bf16::score(kind, pair, part, dim, to, count),
                    Isa::Avx512Vnni => avx512vnni::score(kind, pair, part, dim, to, count),
                    Isa::Avx512 => avx512::score(kind, pair, part, dim, to, count),
                    _ => break,
                }
                q += 2;
            }
            while q < nq {
                let to = out.add(q * n + first);
                score(isa, kind, queries.row(q), part, dim, to, count);
                q += 1;
            }
        }
        first += count;
    }
}

/// The key of a distance; one key for all NaNs, and none for negative zero.
#[inline(always)]
fn key(distance: f32) -> u32 {
    if distance.is_nan() {
        Distance::NAN.0
    } else {
        Distance::from_f32_bits((distance + 0.0).to_bits()).0
    }
}
