// SPDX-License-Identifier: Apache-2.0

//! FAISS, from its shared library: distances of f32 for one row, four and many, of codes of its
//! scalar quantizer, and of bits.

use std::ffi::{c_char, c_int, c_void, CStr, CString};

use vexfs_simd_host::{Elem, Metric};

use super::{Meaning, Output, Peer};

extern "C" {
    fn faiss_open(path: *const c_char) -> *const c_char;
    fn faiss_symbol(name: *const c_char) -> *const c_void;
    fn faiss_string(name: *const c_char) -> *const c_char;
    fn faiss_sq_new(metric: c_int, quantizer: c_int, dim: usize) -> *mut c_void;
    fn faiss_sq_run(
        computer: *mut c_void,
        query: *const f32,
        rows: *const u8,
        stride: usize,
        n: usize,
        out: *mut u8,
    );
    fn faiss_sq_run4(
        computer: *mut c_void,
        query: *const f32,
        rows: *const u8,
        stride: usize,
        n: usize,
        out: *mut u8,
    );
}

/// Loads FAISS from a shared library.
pub fn open(path: &str) -> Result<(), String> {
    let path = CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: the path ends with a zero, and so does the message.
    unsafe {
        let error = faiss_open(path.as_ptr());
        if error.is_null() {
            Ok(())
        } else {
            Err(CStr::from_ptr(error).to_string_lossy().into_owned())
        }
    }
}

/// The text that a static function of no arguments returns.
fn text(name: &CStr) -> String {
    // SAFETY: the symbols asked for are such functions; the text is copied before the next call.
    unsafe { CStr::from_ptr(faiss_string(name.as_ptr())) }
        .to_string_lossy()
        .into_owned()
}

pub fn version() -> String {
    text(c"_ZN5faiss11get_versionB5cxx11Ev")
}

/// The instruction set it dispatches to.
fn isa() -> String {
    text(c"_ZN5faiss10SIMDConfig14get_level_nameB5cxx11Ev").to_lowercase()
}

/// A function of FAISS by its mangled name.
fn function(name: &CStr) -> *const c_void {
    // SAFETY: the name ends with a zero.
    let function = unsafe { faiss_symbol(name.as_ptr()) };
    assert!(!function.is_null(), "FAISS has no {name:?}");
    function
}

type FvecPair = unsafe extern "C" fn(*const u8, *const u8, usize) -> f32;
type FvecFour = unsafe extern "C" fn(
    *const u8,
    *const u8,
    *const u8,
    *const u8,
    *const u8,
    usize,
    *mut f32,
    *mut f32,
    *mut f32,
    *mut f32,
);
type FvecMany = unsafe extern "C" fn(*mut u8, *const u8, *const u8, usize, usize);
type Hammings = unsafe extern "C" fn(*const u8, *const u8, usize, usize, usize, *mut u8);

pub fn peers(elem: Elem, metric: Metric, dim: usize, query: &'static [u8], all: &mut Vec<Peer>) {
    let row = elem.row_bytes(dim);
    let isa = isa();
    if elem == Elem::Binary {
        if metric == Metric::Hamming {
            // SAFETY: the mangled name says this type.
            let hammings = unsafe {
                std::mem::transmute::<*const c_void, Hammings>(function(
                    c"_ZN5faiss8hammingsEPKhS1_mmmPi",
                ))
            };
            all.push(Peer {
                name: "faiss-batch",
                isa,
                output: Output::I32,
                meaning: Meaning::Same,
                biased: false,
                repacked: false,
                run: Box::new(move |rows, n, out| {
                    // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                    unsafe { hammings(query.as_ptr(), rows, 1, n, row, out) }
                }),
            });
        }
        return;
    }
    let (meaning, number) = match metric {
        Metric::InnerProduct => (Meaning::Negated, 0),
        Metric::L2Sq => (Meaning::Same, 1),
        _ => return,
    };
    if elem != Elem::F32 {
        quantizer_peers(elem, number, meaning, dim, query, &isa, all);
        return;
    }
    let (pair, four, many) = if metric == Metric::L2Sq {
        (
            c"_ZN5faiss10fvec_L2sqrEPKfS1_m",
            c"_ZN5faiss18fvec_L2sqr_batch_4EPKfS1_S1_S1_S1_mRfS2_S2_S2_",
            c"_ZN5faiss13fvec_L2sqr_nyEPfPKfS2_mm",
        )
    } else {
        (
            c"_ZN5faiss18fvec_inner_productEPKfS1_m",
            c"_ZN5faiss26fvec_inner_product_batch_4EPKfS1_S1_S1_S1_mRfS2_S2_S2_",
            c"_ZN5faiss22fvec_inner_products_nyEPfPKfS2_mm",
        )
    };
    // SAFETY: the mangled names say these types.
    let (pair, four, many) = unsafe {
        (
            std::mem::transmute::<*const c_void, FvecPair>(function(pair)),
            std::mem::transmute::<*const c_void, FvecFour>(function(four)),
            std::mem::transmute::<*const c_void, FvecMany>(function(many)),
        )
    };
    let mut add = |name, run| {
        all.push(Peer {
            name,
            isa: isa.clone(),
            output: Output::F32,
            meaning,
            biased: false,
            repacked: false,
            run,
        });
    };
    add(
        "faiss",
        Box::new(move |rows, n, out| {
            for i in 0..n {
                // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                unsafe {
                    let distance = pair(query.as_ptr(), rows.add(i * row), dim);
                    out.cast::<f32>().add(i).write(distance);
                }
            }
        }),
    );
    add(
        "faiss-four",
        Box::new(move |rows, n, out| {
            let out = out.cast::<f32>();
            let mut i = 0;
            while i + 4 <= n {
                // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                unsafe {
                    four(
                        query.as_ptr(),
                        rows.add(i * row),
                        rows.add((i + 1) * row),
                        rows.add((i + 2) * row),
                        rows.add((i + 3) * row),
                        dim,
                        out.add(i),
                        out.add(i + 1),
                        out.add(i + 2),
                        out.add(i + 3),
                    );
                }
                i += 4;
            }
            while i < n {
                // SAFETY: as above.
                unsafe {
                    out.add(i)
                        .write(pair(query.as_ptr(), rows.add(i * row), dim));
                }
                i += 1;
            }
        }),
    );
    add(
        "faiss-batch",
        Box::new(move |rows, n, out| {
            // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
            unsafe { many(out, query.as_ptr(), rows, dim, n) }
        }),
    );
}

/// FAISS measures encoded rows from a query of f32.
fn quantizer_peers(
    elem: Elem,
    metric: c_int,
    meaning: Meaning,
    dim: usize,
    query: &'static [u8],
    isa: &str,
    all: &mut Vec<Peer>,
) {
    let quantizer = match elem {
        Elem::F16 => 4,
        Elem::U8 => 5,
        Elem::Bf16 => 7,
        Elem::I8 => 8,
        Elem::F32 | Elem::Binary => return,
    };
    let query: &'static [f32] = crate::to_f32(elem, query).leak();
    for (name, run) in [
        (
            "faiss",
            faiss_sq_run as unsafe extern "C" fn(_, _, _, _, _, _),
        ),
        ("faiss-four", faiss_sq_run4),
    ] {
        // SAFETY: the numbers are those of FAISS's enumerations.
        let computer = unsafe { faiss_sq_new(metric, quantizer, dim) };
        if computer.is_null() {
            continue;
        }
        let row = elem.row_bytes(dim);
        all.push(Peer {
            name,
            isa: isa.to_string(),
            output: Output::F32,
            meaning,
            biased: elem == Elem::I8,
            repacked: false,
            run: Box::new(move |rows, n, out| {
                // SAFETY: `rows` are `n` rows, the query is one of f32, and `out` has room for `n`
                // results.
                unsafe { run(computer, query.as_ptr(), rows, row, n, out) }
            }),
        });
    }
}
