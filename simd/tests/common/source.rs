// SPDX-License-Identifier: Apache-2.0

//! Shapes, places and contents of a case, drawn from bytes: libFuzzer's or a generator's.

use crate::common::*;
use crate::guard::Side;
use vexfs_simd_host::*;

/// Choices from bytes, zeros after the last.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte as usize
            }
            None => 0,
        }
    }

    /// A number of 16 bits.
    pub fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }

    /// A number below `n`, which is at most 65,536.
    pub fn below(&mut self, n: usize) -> usize {
        self.word() % n
    }

    /// A generator for what needs more than a few bytes.
    pub fn rng(&mut self) -> Rng {
        Rng((self.word() | self.word() << 16) as u64)
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.byte() % of.len()]
    }

    /// A place in an arena.
    pub fn side(&mut self) -> Side {
        match self.byte() {
            0..96 => Side::Start,
            96..192 => Side::End,
            shift => Side::Inside(shift),
        }
    }

    /// Mostly what fits a few registers, at times what fills blocks of sums, seldom the largest.
    pub fn dim(&mut self, most: usize) -> usize {
        let dim = match self.byte() {
            0..192 => 1 + self.below(130),
            192..240 => 1 + self.below(800),
            240..254 => self.pick(&[768, 1024, 1025, 1536, 2047, 2049, 4096]),
            _ => MAX_DIM,
        };
        dim.min(most)
    }

    /// A row of `dim` elements. Whether it is finite is for the caller to find out.
    pub fn row(&mut self, elem: Elem, dim: usize) -> Vec<u8> {
        let (mode, mut rng) = (self.byte(), self.rng());
        let size = elem.row_bytes(1);
        let special = [
            0u32,
            0x8000_0000,
            1,
            0x007f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x2000_0000,
            0x5f00_0000,
        ];
        let mut row: Vec<u8> = match mode % 6 {
            0 | 1 => return random_row(&mut rng, elem, dim),
            // Any bits: every exponent, NaN and infinity.
            2 | 3 => (0..elem.row_bytes(dim)).map(|_| rng.next() as u8).collect(),
            // Few numbers, with all their consequences of equality and of the range.
            4 => {
                let few = [self.pick(&special), self.pick(&special)];
                let mut row = vec![0; elem.row_bytes(dim)];
                for element in row.chunks_mut(size) {
                    let bytes = few[(rng.next() % 2) as usize].to_be_bytes();
                    for (to, from) in element.iter_mut().rev().zip(bytes) {
                        *to = from;
                    }
                }
                row
            }
            // The fuzzer's own.
            _ => {
                let own: Vec<u8> = (0..16).map(|_| self.byte() as u8).collect();
                own.into_iter().cycle().take(elem.row_bytes(dim)).collect()
            }
        };
        if FLOATS.contains(&elem) && mode % 6 != 3 {
            for element in row.chunks_mut(size).filter(|e| !is_finite(elem, e)) {
                element[size - 1] &= 0xbf;
            }
        }
        row
    }
}

/// Whether no element of a row is NaN or infinite.
pub fn is_finite(elem: Elem, row: &[u8]) -> bool {
    first_non_finite(&token(), Isa::Scalar, elem, row).is_none()
}
