// SPDX-License-Identifier: Apache-2.0
//! Vectors in the element types that containers have: borrowed to go in, owned when they
//! come out.

use crate::types::ElementType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use zerocopy::IntoBytes;

/// Packed vectors of one element type, row after row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vectors<'a> {
    /// IEEE-754 binary32.
    F32(&'a [f32]),
    /// IEEE-754 binary16.
    F16(&'a [f16]),
    /// The upper half of a binary32.
    Bf16(&'a [bf16]),
    /// Signed bytes.
    I8(&'a [i8]),
    /// Unsigned bytes.
    U8(&'a [u8]),
    /// Bits: each row begins with a new byte, and with its lowest bit, as
    /// `numpy.packbits(rows, axis=1, bitorder="little")` has them.
    Binary(&'a [u8]),
}

/// Calls the macro for each element type that has a Rust type of its own.
macro_rules! each_type {
    ($($type:ty, $variant:ident;)*) => { $(
        impl<'a> From<&'a [$type]> for Vectors<'a> {
            fn from(elements: &'a [$type]) -> Self {
                Vectors::$variant(elements)
            }
        }

        impl<'a> From<&'a Vec<$type>> for Vectors<'a> {
            fn from(elements: &'a Vec<$type>) -> Self {
                Vectors::$variant(elements)
            }
        }

        impl<'a, const N: usize> From<&'a [$type; N]> for Vectors<'a> {
            fn from(elements: &'a [$type; N]) -> Self {
                Vectors::$variant(elements)
            }
        }
    )* };
}

// Bytes may be numbers or bits: whoever has them says `Vectors::U8` or `Vectors::Binary`.
each_type! {
    f32, F32;
    f16, F16;
    bf16, Bf16;
    i8, I8;
}

impl<'a> From<&'a VectorBuf> for Vectors<'a> {
    fn from(buffer: &'a VectorBuf) -> Self {
        buffer.as_vectors()
    }
}

impl<'a> Vectors<'a> {
    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        match self {
            Vectors::F32(_) => ElementType::F32,
            Vectors::F16(_) => ElementType::F16,
            Vectors::Bf16(_) => ElementType::Bf16,
            Vectors::I8(_) => ElementType::I8,
            Vectors::U8(_) => ElementType::U8,
            Vectors::Binary(_) => ElementType::Binary,
        }
    }

    /// Elements, or bytes of bits.
    fn len(&self) -> usize {
        match self {
            Vectors::F32(x) => x.len(),
            Vectors::F16(x) => x.len(),
            Vectors::Bf16(x) => x.len(),
            Vectors::I8(x) => x.len(),
            Vectors::U8(x) | Vectors::Binary(x) => x.len(),
        }
    }

    /// What [`Self::len`] counts, of one row of `dim` elements.
    fn row_len(&self, dim: usize) -> usize {
        match self {
            Vectors::Binary(_) => dim.div_ceil(8),
            _ => dim,
        }
    }

    /// How many rows of `dim` elements these are, or `None` if a part of one is left.
    pub fn rows(&self, dim: usize) -> Option<usize> {
        let row = self.row_len(dim);
        let rows = self.len().checked_div(row)?;
        (rows * row == self.len()).then_some(rows)
    }

    /// Row `i` of `dim` elements, or `None` if there is none.
    pub fn row(&self, dim: usize, i: usize) -> Option<Vectors<'a>> {
        let len = self.row_len(dim);
        let start = i.checked_mul(len)?;
        let at = start..start.checked_add(len)?;
        Some(match self {
            Vectors::F32(x) => Vectors::F32(x.get(at)?),
            Vectors::F16(x) => Vectors::F16(x.get(at)?),
            Vectors::Bf16(x) => Vectors::Bf16(x.get(at)?),
            Vectors::I8(x) => Vectors::I8(x.get(at)?),
            Vectors::U8(x) => Vectors::U8(x.get(at)?),
            Vectors::Binary(x) => Vectors::Binary(x.get(at)?),
        })
    }

    /// As they lie in memory, which on a little-endian machine is as they lie in the file.
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Vectors::F32(x) => x.as_bytes(),
            Vectors::F16(x) => x.as_bytes(),
            Vectors::Bf16(x) => x.as_bytes(),
            Vectors::I8(x) => x.as_bytes(),
            Vectors::U8(x) | Vectors::Binary(x) => x,
        }
    }

    /// A copy that owns its memory.
    pub fn to_buf(&self) -> VectorBuf {
        match self {
            Vectors::F32(x) => VectorBuf::F32(x.to_vec()),
            Vectors::F16(x) => VectorBuf::F16(x.to_vec()),
            Vectors::Bf16(x) => VectorBuf::Bf16(x.to_vec()),
            Vectors::I8(x) => VectorBuf::I8(x.to_vec()),
            Vectors::U8(x) => VectorBuf::U8(x.to_vec()),
            Vectors::Binary(x) => VectorBuf::Binary(x.to_vec()),
        }
    }

    /// The numbers that the elements of rows of `dim` elements are; bits are 0 or 1. Every number of
    /// every type is an f32.
    pub fn to_f32(&self, dim: usize) -> Vec<f32> {
        match self {
            Vectors::F32(x) => x.to_vec(),
            Vectors::F16(x) => x.to_f32_vec(),
            Vectors::Bf16(x) => x.to_f32_vec(),
            Vectors::I8(x) => x.iter().map(|x| f32::from(*x)).collect(),
            Vectors::U8(x) => x.iter().map(|x| f32::from(*x)).collect(),
            Vectors::Binary(x) => {
                let bits = |row: &'a [u8]| {
                    let bits = row
                        .iter()
                        .flat_map(|byte| (0..8).map(move |i| byte >> i & 1));
                    bits.take(dim).map(f32::from)
                };
                x.chunks(dim.div_ceil(8).max(1)).flat_map(bits).collect()
            }
        }
    }

    /// Whether a container of `dim` elements takes each row: floats are finite, and no bit is
    /// set behind the last element.
    pub fn are_valid(&self, dim: usize) -> bool {
        match self {
            Vectors::F32(x) => x.iter().all(|x| x.is_finite()),
            Vectors::F16(x) => x.iter().all(|x| x.is_finite()),
            Vectors::Bf16(x) => x.iter().all(|x| x.is_finite()),
            Vectors::I8(_) | Vectors::U8(_) => true,
            Vectors::Binary(x) => {
                let stray = match dim % 8 {
                    0 => 0,
                    used => 0xffu8 << used,
                };
                let mut rows = x.chunks_exact(dim.div_ceil(8).max(1));
                rows.all(|row| row.last().is_none_or(|byte| byte & stray == 0))
            }
        }
    }
}

/// Vectors of one element type that own their memory.
#[derive(Clone, Debug, PartialEq)]
pub enum VectorBuf {
    /// IEEE-754 binary32.
    F32(Vec<f32>),
    /// IEEE-754 binary16.
    F16(Vec<f16>),
    /// The upper half of a binary32.
    Bf16(Vec<bf16>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Bits, as [`Vectors::Binary`].
    Binary(Vec<u8>),
}

impl Default for VectorBuf {
    /// No vectors, of f32.
    fn default() -> Self {
        VectorBuf::F32(Vec::new())
    }
}

impl VectorBuf {
    /// `rows` rows of `dim` zeros.
    pub fn zeroed(element_type: ElementType, dim: usize, rows: usize) -> Self {
        let elements = rows.saturating_mul(dim);
        match element_type {
            ElementType::F32 => VectorBuf::F32(vec![0.0; elements]),
            ElementType::F16 => VectorBuf::F16(vec![f16::ZERO; elements]),
            ElementType::Bf16 => VectorBuf::Bf16(vec![bf16::ZERO; elements]),
            ElementType::I8 => VectorBuf::I8(vec![0; elements]),
            ElementType::U8 => VectorBuf::U8(vec![0; elements]),
            ElementType::Binary => VectorBuf::Binary(vec![0; rows.saturating_mul(dim.div_ceil(8))]),
        }
    }

    /// The same, borrowed.
    pub fn as_vectors(&self) -> Vectors<'_> {
        match self {
            VectorBuf::F32(x) => Vectors::F32(x),
            VectorBuf::F16(x) => Vectors::F16(x),
            VectorBuf::Bf16(x) => Vectors::Bf16(x),
            VectorBuf::I8(x) => Vectors::I8(x),
            VectorBuf::U8(x) => Vectors::U8(x),
            VectorBuf::Binary(x) => Vectors::Binary(x),
        }
    }

    /// Removes all vectors and keeps the memory.
    pub fn clear(&mut self) {
        match self {
            VectorBuf::F32(x) => x.clear(),
            VectorBuf::F16(x) => x.clear(),
            VectorBuf::Bf16(x) => x.clear(),
            VectorBuf::I8(x) => x.clear(),
            VectorBuf::U8(x) | VectorBuf::Binary(x) => x.clear(),
        }
    }

    /// As [`Vectors::as_bytes`], to be changed: every pattern of bytes is a vector.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        match self {
            VectorBuf::F32(x) => x.as_mut_bytes(),
            VectorBuf::F16(x) => x.as_mut_bytes(),
            VectorBuf::Bf16(x) => x.as_mut_bytes(),
            VectorBuf::I8(x) => x.as_mut_bytes(),
            VectorBuf::U8(x) | VectorBuf::Binary(x) => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_bytes_of_their_type() {
        let halves = [f16::from_f32(1.5), f16::from_f32(-2.0), f16::MAX];
        let vectors = Vectors::from(&halves);
        assert_eq!(vectors.as_bytes(), [0x00, 0x3e, 0x00, 0xc0, 0xff, 0x7b]);
        assert_eq!((vectors.rows(3), vectors.rows(2)), (Some(1), None));
        assert_eq!(vectors.row(1, 1), Some(Vectors::F16(&halves[1..2])));
        assert_eq!(vectors.row(2, 1), None);
        assert_eq!(vectors.to_f32(3), [1.5, -2.0, 65504.0]);
        let brains = [bf16::from_f32(1.5), bf16::INFINITY];
        assert_eq!(Vectors::from(&brains).as_bytes(), [0xc0, 0x3f, 0x80, 0x7f]);
        assert!(!Vectors::from(&brains).are_valid(1));
        assert_eq!(Vectors::from(&[-128i8, 127]).to_f32(2), [-128.0, 127.0]);
        assert_eq!(Vectors::U8(&[0, 255]).to_f32(2), [0.0, 255.0]);
    }

    #[test]
    fn bits_begin_with_the_lowest_and_rows_with_a_byte() {
        let bits = Vectors::Binary(&[0b0000_0101, 0b1, 0b1000_0000, 0]);
        assert_eq!(
            (bits.rows(9), bits.rows(8), bits.rows(17)),
            (Some(2), Some(4), None)
        );
        let row = |ones: [usize; 2]| (0..9).map(move |i| f32::from(u8::from(ones.contains(&i))));
        let mut want: Vec<f32> = row([0, 2]).collect();
        want[8] = 1.0;
        want.extend(row([7, 7]));
        assert_eq!(bits.to_f32(9), want);
        assert!(bits.are_valid(9));
        assert!(!Vectors::Binary(&[0, 0, 0, 2]).are_valid(9));
    }

    #[test]
    fn zeros_of_every_type_have_as_many_bytes_as_a_row() {
        for element_type in ElementType::ALL {
            for dim in [1, 8, 9, 100] {
                let mut zeros = VectorBuf::zeroed(*element_type, dim, 3);
                assert_eq!(zeros.as_vectors().rows(dim), Some(3));
                assert_eq!(zeros.as_mut_bytes().len(), 3 * element_type.row_bytes(dim));
                assert_eq!(zeros.as_vectors().to_f32(dim), vec![0.0; 3 * dim]);
            }
        }
    }
}
