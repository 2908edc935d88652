// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Whether an instruction set makes and scores codes to the same bits as the portable code.

use super::{between, encode, quantise_query, reduce, score, HEADER_WORDS};
use crate::abi::{Elem, Isa, Metric};
use crate::cluster;

const DIM: usize = 130;
/// Five codes: one tile of four and one alone.
const CODES: usize = 5;
/// Words of a code of 8 bits, and of a query.
const CODE_WORDS: usize = DIM.div_ceil(64) * 16 + 3;
const QUERY_WORDS: usize = HEADER_WORDS + DIM.div_ceil(128) * 32;

/// Everything that is made of some rows.
struct Made {
    query: [u32; QUERY_WORDS],
    codes: [[u32; CODE_WORDS]; CODES],
    keys: [[u32; CODES]; 2],
}

impl Made {
    fn equals(&self, other: &Made) -> bool {
        let same = |a: &[u32], b: &[u32]| a.iter().zip(b).fold(true, |ok, (a, b)| ok & (a == b));
        let mut ok = same(&self.query, &other.query);
        for (a, b) in self.codes.iter().zip(&other.codes) {
            ok &= same(a, b);
        }
        for (a, b) in self.keys.iter().zip(&other.keys) {
            ok &= same(a, b);
        }
        ok
    }
}

/// Whether `isa` agrees with the portable code about codes of `bits` bits of rows that begin a few elements
/// apart at `rows`.
///
/// # Safety
///
/// The processor has `isa`, vector registers may be used, and 16 times `CODES` plus `DIM` f32 are readable at
/// `rows`.
pub unsafe fn agrees(isa: Isa, bits: u32, metric: Metric, rows: *const u8) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { make(isa, bits, metric, rows).equals(&make(Isa::Scalar, bits, metric, rows)) }
}

/// # Safety
///
/// As [`agrees`].
#[inline(never)]
unsafe fn make(isa: Isa, bits: u32, metric: Metric, rows: *const u8) -> Made {
    let mut made = Made {
        query: [0; QUERY_WORDS],
        codes: [[0; CODE_WORDS]; CODES],
        keys: [[0; CODES]; 2],
    };
    let mut vector = [0u32; DIM];
    let vector = vector.as_mut_ptr().cast::<u8>();
    let query = made.query.as_mut_ptr().cast::<u8>();
    let [first, second] = &mut made.keys;
    // SAFETY: the buffers are those of `DIM` elements and `CODES` codes; the first row serves as centre.
    unsafe {
        let mut addresses = [core::ptr::null::<u8>(); CODES];
        for (i, (code, address)) in made.codes.iter_mut().zip(&mut addresses).enumerate() {
            let row = rows.wrapping_add(64 * (i + 1));
            reduce(isa, Elem::F32, metric, row, rows, DIM, vector, query);
            cluster::rotate(isa, 9, vector, DIM);
            quantise_query(isa, vector, DIM, query);
            let code = code.as_mut_ptr().cast::<u8>();
            encode(isa, bits, vector, DIM, query, code);
            *address = code;
        }
        let nodes = addresses.as_ptr();
        score(isa, bits, query, nodes, DIM, first.as_mut_ptr(), CODES);
        between(
            isa,
            bits,
            query,
            *nodes,
            nodes,
            DIM,
            second.as_mut_ptr(),
            CODES,
        );
    }
    made
}
