// SPDX-License-Identifier: Apache-2.0

//! SimSIMD, and NumKong, its successor: kernels of C, found by kind and element type.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use vexfs_simd_host::{Elem, Metric};

// Link the libraries.
use ::numkong as _;
use ::simsimd as _;

use super::{Meaning, Output, Peer, Run};

/// One query against one row: `n` elements, bytes or bits.
type Pair = unsafe extern "C" fn(*const u8, *const u8, usize, *mut u8);

fn pairs(pair: Pair, query: &'static [u8], row: usize, n: usize, result: usize) -> Run {
    Box::new(move |rows, count, out| {
        for i in 0..count {
            // SAFETY: the query and each row have the bytes that `n` stands for, and `out` has room
            // for `count` results.
            unsafe { pair(query.as_ptr(), rows.add(i * row), n, out.add(i * result)) };
        }
    })
}

/// The number both SimSIMD and NumKong give an element type.
fn datatype(elem: Elem) -> c_int {
    match elem {
        Elem::Binary => 1 << 1,
        Elem::I8 => 1 << 2,
        Elem::U8 => 1 << 6,
        Elem::F32 => 1 << 11,
        Elem::F16 => 1 << 12,
        Elem::Bf16 => 1 << 13,
    }
}

extern "C" {
    fn simsimd_capabilities() -> c_int;
    fn simsimd_find_kernel_punned(
        kind: c_int,
        datatype: c_int,
        supported: c_int,
        allowed: c_int,
        kernel: *mut Option<Pair>,
        capability: *mut c_int,
    );
}

pub fn simsimd_peers(
    elem: Elem,
    metric: Metric,
    dim: usize,
    query: &'static [u8],
    all: &mut Vec<Peer>,
) {
    let (kind, meaning) = match metric {
        Metric::L2Sq => (b'e', Meaning::Same),
        Metric::InnerProduct => (b'i', Meaning::Negated),
        Metric::Cosine => (b'c', Meaning::Same),
        Metric::Hamming => (b'h', Meaning::Same),
    };
    let (mut kernel, mut capability) = (None, 0);
    // SAFETY: a search in tables, whose result goes to the two variables.
    unsafe {
        simsimd_find_kernel_punned(
            kind as c_int,
            datatype(elem),
            simsimd_capabilities(),
            0x7fff_ffff,
            &mut kernel,
            &mut capability,
        );
    }
    let Some(kernel) = kernel else { return };
    let row = elem.row_bytes(dim);
    let n = if elem == Elem::Binary { row } else { dim };
    const NAMES: [(c_int, &str); 8] = [
        (1, "serial"),
        (1 << 10, "haswell"),
        (1 << 11, "skylake"),
        (1 << 12, "ice"),
        (1 << 13, "genoa"),
        (1 << 14, "sapphire"),
        (1 << 15, "turin"),
        (1 << 20, "neon"),
    ];
    all.push(Peer {
        name: "simsimd",
        isa: name_of(&NAMES, capability),
        output: Output::F64,
        meaning,
        biased: false,
        repacked: false,
        run: pairs(kernel, query, row, n, 8),
    });
}

fn name_of<T: Copy + PartialEq + std::fmt::LowerHex>(names: &[(T, &str)], bit: T) -> String {
    names
        .iter()
        .find(|(b, _)| *b == bit)
        .map_or_else(|| format!("{bit:#x}"), |(_, name)| name.to_string())
}

/// All rows at once: rows, packed query, results, number of rows, 1, dimension, strides of rows and
/// results in bytes.
type Batch = unsafe extern "C" fn(*const u8, *const u8, *mut u8, usize, usize, usize, usize, usize);
type PackedSize = unsafe extern "C" fn(usize, usize) -> usize;
type Pack = unsafe extern "C" fn(*const u8, usize, usize, usize, *mut u8);

extern "C" {
    fn nk_capabilities_available() -> u64;
    fn nk_configure_thread(capabilities: u64) -> c_int;
    fn nk_find_kernel_punned(
        kind: c_int,
        dtype: c_int,
        viable: u64,
        kernel: *mut *const c_void,
        capability: *mut u64,
    );
}

fn nk_kernel(kind: u8, elem: Elem) -> Option<(*const c_void, u64)> {
    let (mut kernel, mut capability) = (std::ptr::null(), 0);
    // SAFETY: a search in tables, whose result goes to the two variables.
    unsafe {
        let available = nk_capabilities_available();
        nk_configure_thread(available);
        nk_find_kernel_punned(
            kind as c_int,
            datatype(elem),
            available,
            &mut kernel,
            &mut capability,
        );
    }
    // Without a kernel it offers a function that writes NaN, and no capability.
    (capability != 0).then_some((kernel, capability))
}

pub fn numkong_peers(
    elem: Elem,
    metric: Metric,
    dim: usize,
    query: &'static [u8],
    all: &mut Vec<Peer>,
) {
    const NAMES: [(u64, &str); 10] = [
        (1, "serial"),
        (1 << 1, "neon"),
        (1 << 2, "haswell"),
        (1 << 3, "skylake"),
        (1 << 7, "icelake"),
        (1 << 8, "genoa"),
        (1 << 13, "alder"),
        (1 << 17, "sapphire"),
        (1 << 18, "sapphireamx"),
        (1 << 23, "turin"),
    ];
    let float = if elem == Elem::F32 {
        Output::F64
    } else {
        Output::F32
    };
    let integers = matches!(elem, Elem::I8 | Elem::U8 | Elem::Binary);
    let (one, many, meaning, many_meaning, output, many_output) = match metric {
        Metric::L2Sq => {
            let exact = if integers { Output::U32 } else { float };
            (b'2', b'E', Meaning::Same, Meaning::Root, exact, float)
        }
        Metric::InnerProduct => {
            let exact = match elem {
                Elem::I8 => Output::I32,
                Elem::U8 | Elem::Binary => Output::U32,
                _ => float,
            };
            (b'i', b'G', Meaning::Negated, Meaning::Negated, exact, exact)
        }
        Metric::Cosine => (b'a', b'N', Meaning::Same, Meaning::Same, float, float),
        Metric::Hamming => (
            b'h',
            b'M',
            Meaning::Same,
            Meaning::Same,
            Output::U32,
            Output::U32,
        ),
    };
    let bytes = |output| if matches!(output, Output::F64) { 8 } else { 4 };
    let row = elem.row_bytes(dim);
    if let Some((kernel, capability)) = nk_kernel(one, elem) {
        // SAFETY: kernels of these kinds have this type.
        let kernel = unsafe { std::mem::transmute::<*const c_void, Pair>(kernel) };
        all.push(Peer {
            name: "numkong",
            isa: name_of(&NAMES, capability),
            output,
            meaning,
            biased: false,
            repacked: false,
            run: pairs(kernel, query, row, dim, bytes(output)),
        });
    }
    if let (Some((kernel, capability)), Some((size, _)), Some((pack, _))) = (
        nk_kernel(many, elem),
        nk_kernel(b'P', elem),
        nk_kernel(b'Q', elem),
    ) {
        // The query is the packed matrix of one row, the rows are the other matrix.
        // SAFETY: kernels of these kinds have these types; the query is one row, and the packed
        // query goes to as many bytes as its size was said to be.
        let (kernel, packed) = unsafe {
            let size = std::mem::transmute::<*const c_void, PackedSize>(size)(1, dim);
            let packed: &'static mut [u64] = vec![0; size.div_ceil(8) + 64].leak();
            let start = packed.as_ptr().align_offset(64);
            let packed = packed[start..].as_mut_ptr().cast::<u8>();
            std::mem::transmute::<*const c_void, Pack>(pack)(query.as_ptr(), 1, dim, row, packed);
            (std::mem::transmute::<*const c_void, Batch>(kernel), packed)
        };
        let result = bytes(many_output);
        all.push(Peer {
            name: "numkong-batch",
            isa: name_of(&NAMES, capability),
            output: many_output,
            meaning: many_meaning,
            biased: false,
            repacked: false,
            run: Box::new(move |rows, n, out| {
                // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                unsafe { kernel(rows, packed, out, n, 1, dim, row, result) }
            }),
        });
        // The other way round: the query is a matrix of one row, each batch of rows is packed when it
        // is first seen.
        // SAFETY: kernels of these kinds have these types.
        let (size, pack) = unsafe {
            (
                std::mem::transmute::<*const c_void, PackedSize>(size),
                std::mem::transmute::<*const c_void, Pack>(pack),
            )
        };
        let copies = RefCell::new(HashMap::new());
        all.push(Peer {
            name: "numkong-repacked",
            isa: name_of(&NAMES, capability),
            output: many_output,
            meaning: many_meaning,
            biased: false,
            repacked: true,
            run: Box::new(move |rows, n, out| {
                let mut copies = copies.borrow_mut();
                let copy: &mut Vec<u64> = copies.entry((rows, n)).or_default();
                // SAFETY: `rows` are `n` rows, their copy has as many bytes as its size was said to be
                // behind a multiple of 64, and `out` has room for `n` results.
                unsafe {
                    if copy.is_empty() {
                        copy.resize(size(n, dim).div_ceil(8) + 8, 0);
                        let start = copy.as_ptr().align_offset(64);
                        pack(rows, n, dim, row, copy[start..].as_mut_ptr().cast());
                    }
                    let start = copy.as_ptr().align_offset(64);
                    let copy = copy[start..].as_ptr().cast();
                    kernel(query.as_ptr(), copy, out, 1, n, dim, row, n * result);
                }
            }),
        });
    }
}
