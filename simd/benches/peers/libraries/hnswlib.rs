// SPDX-License-Identifier: Apache-2.0

//! hnswlib, from its headers: distances of f32, and of unsigned bytes as the compiler vectorises them.

use std::ffi::c_int;

use vexfs_simd_host::{Elem, Metric};

use super::{Meaning, Output, Peer};

type HnswFloat = unsafe extern "C" fn(*const u8, *const u8, *const usize) -> f32;
type HnswInt = unsafe extern "C" fn(*const u8, *const u8, *const usize) -> c_int;

extern "C" {
    fn hnswlib_l2_f32(dim: usize) -> HnswFloat;
    fn hnswlib_ip_f32(dim: usize) -> HnswFloat;
    fn hnswlib_l2_u8(dim: usize) -> HnswInt;
    fn hnswlib_has_avx512() -> c_int;
}

pub fn peers(elem: Elem, metric: Metric, dim: usize, query: &'static [u8], all: &mut Vec<Peer>) {
    let row = elem.row_bytes(dim);
    // SAFETY: asks the processor.
    let avx512 = unsafe { hnswlib_has_avx512() } != 0;
    let isa = if avx512 { "avx512" } else { "avx" }.to_string();
    if (elem, metric) == (Elem::U8, Metric::L2Sq) {
        // SAFETY: returns the address of a function.
        let pair = unsafe { hnswlib_l2_u8(dim) };
        all.push(Peer {
            name: "hnswlib",
            isa: "compiler".into(),
            output: Output::I32,
            meaning: Meaning::Same,
            biased: false,
            repacked: false,
            run: Box::new(move |rows, n, out| {
                for i in 0..n {
                    // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                    unsafe {
                        let distance = pair(query.as_ptr(), rows.add(i * row), &dim);
                        out.cast::<c_int>().add(i).write(distance);
                    }
                }
            }),
        });
        return;
    }
    // SAFETY: these return addresses of functions.
    let (pair, meaning) = match (elem, metric) {
        (Elem::F32, Metric::L2Sq) => (unsafe { hnswlib_l2_f32(dim) }, Meaning::Same),
        (Elem::F32, Metric::InnerProduct) => (unsafe { hnswlib_ip_f32(dim) }, Meaning::OneMore),
        _ => return,
    };
    all.push(Peer {
        name: "hnswlib",
        isa,
        output: Output::F32,
        meaning,
        biased: false,
        repacked: false,
        run: Box::new(move |rows, n, out| {
            for i in 0..n {
                // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                unsafe {
                    let distance = pair(query.as_ptr(), rows.add(i * row), &dim);
                    out.cast::<f32>().add(i).write(distance);
                }
            }
        }),
    });
}
