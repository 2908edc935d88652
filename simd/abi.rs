// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! The numbers both sides of the float boundary agree on.
//!
//! This file is compiled into `vexfs_simd` (hard-float) and into `vexfs_simd_ffi` (soft-float), so
//! that neither imports the other: it holds enumerations and the integer image of a distance, and
//! no arithmetic on floats.

/// An instruction set that has its own kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Isa {
    /// Portable code; also the reference the others are compared with.
    Scalar = 0,
    /// x86 AVX2 with FMA, F16C and POPCNT.
    Avx2 = 1,
    /// x86 AVX-512 F, BW, DQ and VL (Skylake-X).
    Avx512 = 2,
    /// arm64 Advanced SIMD.
    Neon = 3,
    /// AVX-512 with VNNI and VPOPCNTDQ (Ice Lake, Zen 4).
    Avx512Vnni = 4,
    /// All of these with BF16 (Sapphire Rapids, Zen 4).
    Avx512Bf16 = 5,
    /// Advanced SIMD with DotProd, FP16 and FHM (Armv8.2 and later).
    NeonDot = 6,
}

impl Isa {
    /// Every instruction set, from the least to the most capable of each architecture.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
        Isa::Neon,
        Isa::NeonDot,
    ];

    /// The name used by module parameters, logs and tools.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
        }
    }

    /// Whether this set is no more capable than `limit`: it comes no later in [`Isa::ALL`], where
    /// every set includes those of its architecture before it.
    pub fn is_at_most(self, limit: Isa) -> bool {
        Isa::ALL
            .into_iter()
            .take_while(|&isa| isa != limit)
            .chain([limit])
            .any(|isa| isa == self)
    }

    /// The instruction set called `name`, if there is one.
    pub fn from_name(name: &[u8]) -> Option<Isa> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.name().as_bytes() == name)
    }

    /// The instruction set with number `n`, if there is one.
    pub const fn from_u32(n: u32) -> Option<Isa> {
        match n {
            0 => Some(Isa::Scalar),
            1 => Some(Isa::Avx2),
            2 => Some(Isa::Avx512),
            3 => Some(Isa::Neon),
            4 => Some(Isa::Avx512Vnni),
            5 => Some(Isa::Avx512Bf16),
            6 => Some(Isa::NeonDot),
            _ => None,
        }
    }
}

/// The type of one vector element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Elem {
    /// IEEE-754 binary32.
    F32 = 0,
    /// IEEE-754 binary16.
    F16 = 1,
    /// The upper half of an IEEE-754 binary32.
    Bf16 = 2,
    /// Signed bytes.
    I8 = 3,
    /// Unsigned bytes.
    U8 = 4,
    /// Bits, least significant first; bits beyond the dimension are ignored.
    Binary = 5,
}

impl Elem {
    /// Every element type.
    pub const ALL: [Elem; 6] = [
        Elem::F32,
        Elem::F16,
        Elem::Bf16,
        Elem::I8,
        Elem::U8,
        Elem::Binary,
    ];

    /// The name used by tools.
    pub const fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::F16 => "f16",
            Elem::Bf16 => "bf16",
            Elem::I8 => "i8",
            Elem::U8 => "u8",
            Elem::Binary => "binary",
        }
    }

    /// The element type with number `n`, if there is one.
    pub const fn from_u32(n: u32) -> Option<Elem> {
        match n {
            0 => Some(Elem::F32),
            1 => Some(Elem::F16),
            2 => Some(Elem::Bf16),
            3 => Some(Elem::I8),
            4 => Some(Elem::U8),
            5 => Some(Elem::Binary),
            _ => None,
        }
    }

    /// Bytes of one row of `dim` elements; `dim` is at most [`MAX_DIM`].
    pub const fn row_bytes(self, dim: usize) -> usize {
        match self {
            Elem::F32 => dim.wrapping_mul(4),
            Elem::F16 | Elem::Bf16 => dim.wrapping_mul(2),
            Elem::I8 | Elem::U8 => dim,
            Elem::Binary => dim.wrapping_add(7) >> 3,
        }
    }
}

/// What "near" means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Metric {
    /// Squared Euclidean distance. On bits this is the Hamming distance.
    L2Sq = 0,
    /// The negated inner product.
    InnerProduct = 1,
    /// One minus the cosine of the angle, in 0..=2; 1 if either vector is zero.
    Cosine = 2,
    /// Number of differing bits; for [`Elem::Binary`] only.
    Hamming = 3,
}

impl Metric {
    /// The metrics every element type has.
    pub const COMMON: [Metric; 3] = [Metric::L2Sq, Metric::InnerProduct, Metric::Cosine];

    /// The name used by tools.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::L2Sq => "l2sq",
            Metric::InnerProduct => "inner_product",
            Metric::Cosine => "cosine",
            Metric::Hamming => "hamming",
        }
    }

    /// The metric with number `n`, if there is one.
    pub const fn from_u32(n: u32) -> Option<Metric> {
        match n {
            0 => Some(Metric::L2Sq),
            1 => Some(Metric::InnerProduct),
            2 => Some(Metric::Cosine),
            3 => Some(Metric::Hamming),
            _ => None,
        }
    }
}

/// The largest dimension. It bounds the work of one row and keeps the integer sums of byte vectors
/// within 32 bits: 65,536 * 255 * 255 < 2^32.
pub const MAX_DIM: usize = 65536;

/// The order-preserving integer image of an f32 distance.
///
/// Integer comparison of two images is the comparison of the floats. Kernels never produce negative
/// zero, so equal distances have equal images. A distance that is not a number, which only rows with
/// NaN or infinity can cause, sorts after everything else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Distance(pub u32);

impl Distance {
    /// The image of a distance that is not a number.
    pub const NAN: Distance = Distance(u32::MAX);

    /// The image of the f32 with these bits.
    pub const fn from_f32_bits(bits: u32) -> Distance {
        Distance(if bits >> 31 == 0 {
            bits ^ (1 << 31)
        } else {
            !bits
        })
    }

    /// The bits of the f32 this is the image of.
    pub const fn to_f32_bits(self) -> u32 {
        if self.0 >> 31 == 0 {
            !self.0
        } else {
            self.0 ^ (1 << 31)
        }
    }
}
