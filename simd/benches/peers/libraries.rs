// SPDX-License-Identifier: Apache-2.0

//! The distance functions of the peers, each as something that scores a batch of rows.

use std::ffi::{c_char, c_int, c_void, CStr, CString};

use vexfs_simd_host::{Elem, Metric};

// Link their libraries.
use numkong as _;
use simsimd as _;

/// How a peer writes a distance, and what it means.
#[derive(Clone, Copy)]
pub enum Output {
    F32,
    F64,
    I32,
    U32,
}

/// From a peer's number to ours.
#[derive(Clone, Copy)]
pub enum Meaning {
    /// The same.
    Same,
    /// The inner product: ours is negated.
    Negated,
    /// One minus the inner product: ours is less by one.
    OneMore,
    /// The Euclidean distance: ours is squared.
    Root,
}

/// Scores rows `rows[..n]`, which follow each other without gaps, and writes `n` numbers to `out`.
type Run = Box<dyn Fn(*const u8, usize, *mut u8)>;

pub struct Peer {
    /// The library, and which of its interfaces if it has several.
    pub name: &'static str,
    /// The instruction set it chose.
    pub isa: String,
    pub output: Output,
    pub meaning: Meaning,
    /// Whether its signed bytes are stored with 128 added.
    pub biased: bool,
    pub run: Run,
}

impl Peer {
    /// The distance the peer found for row `i`, in our terms.
    pub fn distance(&self, out: &[u64], i: usize) -> f64 {
        let half = |i: usize| (out[i / 2] >> (32 * (i % 2))) as u32;
        let number = match self.output {
            Output::F32 => f32::from_bits(half(i)) as f64,
            Output::F64 => f64::from_bits(out[i]),
            Output::I32 => half(i) as i32 as f64,
            Output::U32 => half(i) as f64,
        };
        match self.meaning {
            Meaning::Same => number,
            Meaning::Negated => -number,
            Meaning::OneMore => number - 1.0,
            Meaning::Root => number * number,
        }
    }
}

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

/// Every peer that has this distance. The query stays where it is.
pub fn peers(elem: Elem, metric: Metric, dim: usize, query: &'static [u8]) -> Vec<Peer> {
    let mut all = Vec::new();
    simsimd_peers(elem, metric, dim, query, &mut all);
    numkong_peers(elem, metric, dim, query, &mut all);
    faiss_peers(elem, metric, dim, query, &mut all);
    hnswlib_peers(elem, metric, dim, query, &mut all);
    all
}

/// What each library says of itself.
pub fn versions() -> Vec<(&'static str, String)> {
    let text = |name: &CStr| {
        // SAFETY: the symbol is a function of no arguments that returns a string; the text is copied
        // before the next call.
        unsafe { CStr::from_ptr(faiss_string(name.as_ptr())) }
            .to_string_lossy()
            .into_owned()
    };
    vec![
        ("simsimd", env!("SIMSIMD_VERSION").into()),
        ("numkong", env!("NUMKONG_VERSION").into()),
        ("faiss", text(c"_ZN5faiss11get_versionB5cxx11Ev")),
        ("hnswlib", env!("HNSWLIB_VERSION").into()),
    ]
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

// --- SimSIMD ----------------------------------------------------------------

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

fn simsimd_peers(
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
        run: pairs(kernel, query, row, n, 8),
    });
}

fn name_of<T: Copy + PartialEq + std::fmt::LowerHex>(names: &[(T, &str)], bit: T) -> String {
    names
        .iter()
        .find(|(b, _)| *b == bit)
        .map_or_else(|| format!("{bit:#x}"), |(_, name)| name.to_string())
}

// --- NumKong ----------------------------------------------------------------

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

fn numkong_peers(
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
            run: Box::new(move |rows, n, out| {
                // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                unsafe { kernel(rows, packed, out, n, 1, dim, row, result) }
            }),
        });
    }
}

// --- FAISS ------------------------------------------------------------------

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
pub fn open_faiss(path: &str) -> Result<(), String> {
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

/// The instruction set FAISS dispatches to.
fn faiss_isa() -> String {
    // SAFETY: a static function of no arguments that returns a string.
    unsafe {
        CStr::from_ptr(faiss_string(
            c"_ZN5faiss10SIMDConfig14get_level_nameB5cxx11Ev".as_ptr(),
        ))
    }
    .to_string_lossy()
    .to_lowercase()
}

/// A function of FAISS by its mangled name.
fn faiss_function(name: &CStr) -> *const c_void {
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

fn faiss_peers(elem: Elem, metric: Metric, dim: usize, query: &'static [u8], all: &mut Vec<Peer>) {
    let row = elem.row_bytes(dim);
    let isa = faiss_isa();
    if elem == Elem::Binary {
        if metric == Metric::Hamming {
            // SAFETY: the mangled name says this type.
            let function = unsafe {
                std::mem::transmute::<*const c_void, Hammings>(faiss_function(
                    c"_ZN5faiss8hammingsEPKhS1_mmmPi",
                ))
            };
            all.push(Peer {
                name: "faiss-batch",
                isa,
                output: Output::I32,
                meaning: Meaning::Same,
                biased: false,
                run: Box::new(move |rows, n, out| {
                    // SAFETY: `rows` are `n` rows and `out` has room for `n` results.
                    unsafe { function(query.as_ptr(), rows, 1, n, row, out) }
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
        faiss_sq_peers(elem, number, meaning, dim, query, &isa, all);
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
            std::mem::transmute::<*const c_void, FvecPair>(faiss_function(pair)),
            std::mem::transmute::<*const c_void, FvecFour>(faiss_function(four)),
            std::mem::transmute::<*const c_void, FvecMany>(faiss_function(many)),
        )
    };
    let mut add = |name, run| {
        all.push(Peer {
            name,
            isa: isa.clone(),
            output: Output::F32,
            meaning,
            biased: false,
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
fn faiss_sq_peers(
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
            run: Box::new(move |rows, n, out| {
                // SAFETY: `rows` are `n` rows, the query is one of f32, and `out` has room for `n`
                // results.
                unsafe { run(computer, query.as_ptr(), rows, row, n, out) }
            }),
        });
    }
}

// --- hnswlib ----------------------------------------------------------------

type HnswFloat = unsafe extern "C" fn(*const u8, *const u8, *const usize) -> f32;
type HnswInt = unsafe extern "C" fn(*const u8, *const u8, *const usize) -> c_int;

extern "C" {
    fn hnswlib_l2_f32(dim: usize) -> HnswFloat;
    fn hnswlib_ip_f32(dim: usize) -> HnswFloat;
    fn hnswlib_l2_u8(dim: usize) -> HnswInt;
    fn hnswlib_has_avx512() -> c_int;
}

fn hnswlib_peers(
    elem: Elem,
    metric: Metric,
    dim: usize,
    query: &'static [u8],
    all: &mut Vec<Peer>,
) {
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
