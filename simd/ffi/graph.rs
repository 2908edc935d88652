// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The door to codes of graph nodes: whole rows, or 8, 4 or 1 bits per element (SQ8 and extended RaBitQ,
//! arXiv 2409.09913).

use core::sync::atomic::AtomicU32;

use crate::score::{row_bytes, vexfs_simd_score_list};
use crate::{BadShape, Elem, FpuToken, Isa, Metric};

extern "C" {
    fn vexfs_simd_convert(
        isa: u32,
        from: u32,
        to: u32,
        src: *const u8,
        dst: *mut u8,
        n: usize,
    ) -> u32;
    fn vexfs_simd_graph_prepare(
        isa: u32,
        elem: u32,
        metric: u32,
        row: *const u8,
        centre: *const u8,
        seed: u64,
        dim: usize,
        vector: *mut u8,
        query: *mut u8,
    ) -> u32;
    fn vexfs_simd_graph_encode(
        isa: u32,
        bits: u32,
        vector: *const u8,
        dim: usize,
        query: *const u8,
        code: *mut u8,
    ) -> u32;
    fn vexfs_simd_graph_score(
        isa: u32,
        bits: u32,
        query: *const u8,
        nodes: *const *const u8,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
    fn vexfs_simd_graph_between(
        isa: u32,
        bits: u32,
        query: *const u8,
        from: *const u8,
        nodes: *const *const u8,
        dim: usize,
        out: *mut u32,
        n: usize,
    ) -> u32;
}

/// The most words of a code: 4096 f32, or rows of other types as long.
pub const MAX_CODE_WORDS: usize = 4096;

/// The most words of a code with levels: it keeps sums of their products within 32 bits.
const MAX_LEVEL_WORDS: usize = 1000;

/// As `nbits` of [`GraphKind::of`], f16 made of f32: 16 alone are bf16.
pub const NBITS_F16: u32 = 0x110;

/// Codes handed over at once, on the stack.
const AT_ONCE: usize = 64;

/// What a graph keeps of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GraphKind {
    /// The row itself, or a row of f32 as f16 or bf16. Distances are those of
    /// [`score_rows`](crate::score_rows).
    Raw(Elem),
    /// 8 bits per element and a scale: errors below a hundredth of a distance.
    Sq8,
    /// 4 bits per element and a scale, extended RaBitQ.
    Rabitq4,
    /// One bit per element and a scale, RaBitQ.
    Rabitq1,
}

impl GraphKind {
    /// The name used by tools.
    pub const fn name(self) -> &'static str {
        match self {
            GraphKind::Raw(elem) => elem.name(),
            GraphKind::Sq8 => "sq8",
            GraphKind::Rabitq4 => "rabitq4",
            GraphKind::Rabitq1 => "rabitq1",
        }
    }

    /// What is called `nbits` an element in an index over rows of `elem`: 1 and 4 (RaBitQ) and 8 (SQ8) of
    /// all but bits, which have 1 of their own; 16 of f16, bf16 and, as bf16, of f32; 32 of f32; and [`NBITS_F16`]
    /// of f32.
    pub const fn of(elem: Elem, nbits: u32) -> Option<GraphKind> {
        Some(match (elem, nbits) {
            (Elem::Binary, 1) | (Elem::F16 | Elem::Bf16, 16) | (Elem::F32, 32) => {
                GraphKind::Raw(elem)
            }
            (Elem::Binary, _) => return None,
            (_, 1) => GraphKind::Rabitq1,
            (_, 4) => GraphKind::Rabitq4,
            (_, 8) => GraphKind::Sq8,
            (Elem::F32, 16) => GraphKind::Raw(Elem::Bf16),
            (Elem::F32, NBITS_F16) => GraphKind::Raw(Elem::F16),
            _ => return None,
        })
    }

    /// Bits of a level, of kinds that have them.
    const fn bits(self) -> u32 {
        match self {
            GraphKind::Raw(_) => 0,
            GraphKind::Sq8 => 8,
            GraphKind::Rabitq4 => 4,
            GraphKind::Rabitq1 => 1,
        }
    }
}

/// How rows of one container become codes.
///
/// # Invariants
///
/// `metric` exists for the elements, `dim` is in `1..=MAX_DIM`, a code has at most [`MAX_CODE_WORDS`], one with levels
/// at most [`MAX_LEVEL_WORDS`]; a raw code is of the rows' type, or of a narrower float type than f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GraphCode {
    kind: GraphKind,
    elem: Elem,
    metric: Metric,
    dim: usize,
}

impl GraphCode {
    /// Codes of `kind` for rows of `dim` elements.
    ///
    /// Errors: [`BadShape`] if `dim` is not in `1..=MAX_DIM`, the metric does not exist for the element
    /// type, rows cannot be converted to a raw kind, or a code would be too long.
    pub fn new(
        kind: GraphKind,
        elem: Elem,
        metric: Metric,
        dim: usize,
    ) -> Result<GraphCode, BadShape> {
        row_bytes(elem, metric, dim)?;
        let convertible = match kind {
            GraphKind::Raw(raw) => {
                raw == elem || (elem == Elem::F32 && matches!(raw, Elem::F16 | Elem::Bf16))
            }
            // Bits have codes of their own, themselves.
            _ => elem != Elem::Binary,
        };
        let code = GraphCode {
            kind,
            elem,
            metric,
            dim,
        };
        let most = match kind {
            GraphKind::Raw(_) => MAX_CODE_WORDS,
            _ => MAX_LEVEL_WORDS,
        };
        if !convertible || code.code_words() > most {
            return Err(BadShape);
        }
        // INVARIANT: all was checked.
        Ok(code)
    }

    /// What it was made with.
    pub fn kind(&self) -> GraphKind {
        self.kind
    }

    /// What [`GraphKind::of`] calls it.
    pub const fn nbits(&self) -> u32 {
        match (self.kind, self.elem) {
            (GraphKind::Raw(Elem::F16), Elem::F32) => NBITS_F16,
            // Bytes of eight elements are bits of one.
            (GraphKind::Raw(raw), _) => raw.row_bytes(8) as u32,
            (kind, _) => kind.bits(),
        }
    }

    /// Bytes of a centre, if there is one: `dim` f32. 0 of kinds that have none.
    pub const fn centre_bytes(&self) -> usize {
        match self.kind {
            GraphKind::Raw(_) => 0,
            _ => Elem::F32.row_bytes(self.dim),
        }
    }

    /// The type of the elements that codes are compared at the speed of, or faster.
    pub const fn compared_as(&self) -> Elem {
        match self.kind {
            GraphKind::Raw(elem) => elem,
            _ => Elem::F32,
        }
    }

    /// Words of a code.
    pub const fn code_words(&self) -> usize {
        let tail = 3;
        match self.kind {
            GraphKind::Raw(elem) => elem.row_bytes(self.dim).div_ceil(4),
            GraphKind::Sq8 => self.dim.div_ceil(64).wrapping_mul(16).wrapping_add(tail),
            GraphKind::Rabitq4 => self.dim.div_ceil(128).wrapping_mul(16).wrapping_add(tail),
            GraphKind::Rabitq1 => self.dim.div_ceil(64).wrapping_mul(2).wrapping_add(tail),
        }
    }

    /// Words of a vector between [`GraphCode::prepare`] and [`GraphCode::encode`].
    pub const fn vector_words(&self) -> usize {
        match self.kind {
            GraphKind::Raw(_) => 0,
            _ => self.dim,
        }
    }

    /// Words of a query. They are read fastest at an alignment of 64 bytes.
    pub const fn query_words(&self) -> usize {
        match self.kind {
            GraphKind::Raw(_) => self.code_words(),
            _ => self.dim.div_ceil(128).wrapping_mul(32).wrapping_add(16),
        }
    }

    /// Bytes of a row.
    pub const fn row_bytes(&self) -> usize {
        self.elem.row_bytes(self.dim)
    }

    /// Makes a query of a row: what codes are scored with, and made from.
    ///
    /// Shapes: `row` has [`GraphCode::row_bytes`], `vector` [`GraphCode::vector_words`], `query`
    /// [`GraphCode::query_words`]; `centre` has [`GraphCode::centre_bytes`], the mean of a sample of rows
    /// (normalised ones, if the metric is cosine), or is empty. Rows without NaN and infinity. `seed` and `centre` are the same for
    /// all codes of a graph. The same bits on every instruction set.
    ///
    /// Context: an FPU section, of some microseconds per thousand elements.
    ///
    /// Errors: [`BadShape`] if the lengths do not fit.
    pub fn prepare(
        &self,
        _token: &FpuToken<'_>,
        isa: Isa,
        seed: u64,
        centre: &[u8],
        row: &[u8],
        vector: &mut [u32],
        query: &mut [u32],
    ) -> Result<(), BadShape> {
        let centre_fits = centre.is_empty() || centre.len() == self.centre_bytes();
        if row.len() != self.row_bytes()
            || vector.len() != self.vector_words()
            || query.len() != self.query_words()
            || !centre_fits
        {
            return Err(BadShape);
        }
        if let GraphKind::Raw(raw) = self.kind {
            if raw == self.elem {
                let mut bytes = row.chunks(4);
                for word in query {
                    let mut padded = [0; 4];
                    for (to, from) in padded.iter_mut().zip(bytes.next().unwrap_or(&[])) {
                        *to = *from;
                    }
                    *word = u32::from_ne_bytes(padded);
                }
                return Ok(());
            }
            query.fill(0);
            // SAFETY: the row has `dim` f32 and the query room for as many narrower ones, by the invariant.
            // The token proves that vector registers may be used, and `word` that the processor has the
            // instructions.
            return done(unsafe {
                vexfs_simd_convert(
                    isa.word(),
                    self.elem as u32,
                    raw as u32,
                    row.as_ptr(),
                    query.as_mut_ptr().cast(),
                    self.dim,
                )
            });
        }
        let centre = if centre.is_empty() {
            core::ptr::null()
        } else {
            centre.as_ptr()
        };
        // SAFETY: the row and the centre have `dim` elements, the vector has room for as many and the query
        // for what they are filled up to, as just checked. The token proves that vector registers may be
        // used, and `word` that the processor has the instructions.
        done(unsafe {
            vexfs_simd_graph_prepare(
                isa.word(),
                self.elem as u32,
                self.metric as u32,
                row.as_ptr(),
                centre,
                seed,
                self.dim,
                vector.as_mut_ptr().cast(),
                query.as_mut_ptr().cast(),
            )
        })
    }

    /// Writes the code of a row.
    ///
    /// Shapes: `vector` and `query` are from [`GraphCode::prepare`], `code` has
    /// [`GraphCode::code_words`]. The same bits on every instruction set.
    ///
    /// Errors: [`BadShape`] if the lengths do not fit.
    pub fn encode(
        &self,
        _token: &FpuToken<'_>,
        isa: Isa,
        vector: &[u32],
        query: &[u32],
        code: &mut [u32],
    ) -> Result<(), BadShape> {
        if vector.len() != self.vector_words()
            || query.len() != self.query_words()
            || code.len() != self.code_words()
        {
            return Err(BadShape);
        }
        if let GraphKind::Raw(_) = self.kind {
            for (to, from) in code.iter_mut().zip(query) {
                *to = *from;
            }
            return Ok(());
        }
        // SAFETY: the vector has `dim` f32, the query a header, and there is room for the code, as just
        // checked. The token proves that vector registers may be used, and `word` that the processor has
        // the instructions.
        done(unsafe {
            vexfs_simd_graph_encode(
                isa.word(),
                self.kind.bits(),
                vector.as_ptr().cast(),
                self.dim,
                query.as_ptr().cast(),
                code.as_mut_ptr().cast(),
            )
        })
    }

    /// Scores a query against codes.
    ///
    /// Shapes: `query` is from [`GraphCode::prepare`]; each of `nodes` begins with a code. `out[i]` becomes the
    /// (estimated) [`Distance`](crate::Distance) of code `i`. The same bits on every instruction set,
    /// unless the kind is raw and of a float type. Codes that are being written give any key.
    ///
    /// Context: an FPU section; some nanoseconds for each 64 bytes of code.
    ///
    /// Errors: [`BadShape`] if the lengths do not fit.
    pub fn score(
        &self,
        _token: &FpuToken<'_>,
        isa: Isa,
        query: &[u32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), BadShape> {
        if query.len() != self.query_words() || !self.are_codes(nodes) || nodes.len() != out.len() {
            return Err(BadShape);
        }
        // SAFETY: the query is one row or query, and vector registers may be used, as the token proves.
        unsafe { self.score_from(isa, query.as_ptr().cast(), None, nodes, out) }
    }

    /// Scores the code that `from` begins with against others.
    ///
    /// As [`GraphCode::score`]; `query` is any one with the same centre.
    ///
    /// Errors: [`BadShape`] as there.
    pub fn between(
        &self,
        _token: &FpuToken<'_>,
        isa: Isa,
        query: &[u32],
        from: &[AtomicU32],
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), BadShape> {
        if query.len() != self.query_words()
            || from.len() < self.code_words()
            || !self.are_codes(nodes)
            || nodes.len() != out.len()
        {
            return Err(BadShape);
        }
        // SAFETY: `from` is as long as a code, the query is one row or query, and vector registers may be
        // used, as the token proves.
        unsafe { self.score_from(isa, query.as_ptr().cast(), Some(from), nodes, out) }
    }

    fn are_codes(&self, nodes: &[&[AtomicU32]]) -> bool {
        let words = self.code_words();
        nodes.iter().all(|node| node.len() >= words)
    }

    /// # Safety
    ///
    /// `query` is a query of this shape, `from` and `nodes` are codes of it, there are as many results as
    /// nodes, and vector registers may be used.
    #[inline]
    unsafe fn score_from(
        &self,
        isa: Isa,
        query: *const u8,
        from: Option<&[AtomicU32]>,
        nodes: &[&[AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), BadShape> {
        for (nodes, out) in nodes.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
            // Not initialised one by one before they are filled in: this is called once per hop.
            let mut addresses = [core::mem::MaybeUninit::<*const u8>::uninit(); AT_ONCE];
            for (address, node) in addresses.iter_mut().zip(nodes) {
                address.write(node.as_ptr().cast());
            }
            let addresses = addresses.as_ptr().cast::<*const u8>();
            // SAFETY: as many addresses as results were filled in, and each is that of a code, as promised.
            // Words of a code may change while they are read, by somebody who uses the slot of a node again
            // against the rules of the graph; any words give a key. `word` proves that the processor has
            // the instructions.
            let failed = unsafe {
                match (self.kind, from) {
                    (GraphKind::Raw(elem), _) => vexfs_simd_score_list(
                        isa.word(),
                        elem as u32,
                        self.metric as u32,
                        from.map_or(query, |from| from.as_ptr().cast()),
                        addresses,
                        self.dim,
                        out.as_mut_ptr(),
                        out.len(),
                    ),
                    (kind, None) => vexfs_simd_graph_score(
                        isa.word(),
                        kind.bits(),
                        query,
                        addresses,
                        self.dim,
                        out.as_mut_ptr(),
                        out.len(),
                    ),
                    (kind, Some(from)) => vexfs_simd_graph_between(
                        isa.word(),
                        kind.bits(),
                        query,
                        from.as_ptr().cast(),
                        addresses,
                        self.dim,
                        out.as_mut_ptr(),
                        out.len(),
                    ),
                }
            };
            done(failed)?;
        }
        Ok(())
    }
}

fn done(failed: u32) -> Result<(), BadShape> {
    if failed == 0 {
        Ok(())
    } else {
        Err(BadShape)
    }
}

/// Asks for the cache lines of `words`. Uses no vector register.
#[inline]
pub fn prefetch(words: &[AtomicU32]) {
    let mut lines = words.chunks(16);
    while let Some([first, ..]) = lines.next() {
        let address: *const AtomicU32 = first;
        // SAFETY: a prefetch reads nothing and cannot fault.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        unsafe {
            core::arch::asm!("prefetcht0 [{}]", in(reg) address,
                options(nostack, preserves_flags, readonly));
        }
        // SAFETY: as above.
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        unsafe {
            core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address,
                options(nostack, preserves_flags, readonly));
        }
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        let _ = address;
    }
}
