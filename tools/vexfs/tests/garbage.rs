// SPDX-License-Identifier: Apache-2.0
//! Files of vectors that are cut off, flipped or made up: an error in one sentence,
//! or rows of the right shape, but never a panic and never a surprise of memory.

use proptest::prelude::*;
use std::io::Cursor;
use vexfs_cli::formats::{integers::Integers, npy, source::Source, Format};
use vexfs_client::{ElementType, VectorBuf};

const FORMATS: [Format; 3] = [Format::Npy, Format::Fvecs, Format::Bvecs];

/// Reads all of `bytes` as vectors; the values and their dimension.
fn vectors(format: Format, bytes: &[u8]) -> Result<(usize, Vec<f32>), String> {
    for element_type in ElementType::ALL {
        // Whatever it is read as.
        if let Err(error) = vectors_of(format, bytes, *element_type) {
            assert!(is_sentence(&error), "{format:?} {element_type}: {error}");
        }
    }
    vectors_of(format, bytes, ElementType::F32)
}

fn vectors_of(
    format: Format,
    bytes: &[u8],
    element_type: ElementType,
) -> Result<(usize, Vec<f32>), String> {
    let open = Source::new("x", format, Cursor::new(bytes), bytes.len() as u64);
    let mut source = open.map_err(|e| e.to_string())?;
    let dim = source.dim_of(element_type).map_err(|e| e.to_string())?;
    let (mut all, mut some) = (Vec::new(), VectorBuf::zeroed(element_type, dim, 0));
    loop {
        let rows = source.read(7, &mut some).map_err(|e| e.to_string())?;
        assert_eq!(some.as_vectors().rows(dim), Some(rows));
        if rows == 0 {
            break;
        }
        all.extend(some.as_vectors().to_f32(dim));
    }
    assert_eq!(all.len() as u64, source.rows() * dim as u64);
    Ok((dim, all))
}

/// Reads all of `bytes` as integers; how many.
fn integers(bytes: &[u8]) -> Result<usize, String> {
    let open = Integers::new("x", Cursor::new(bytes), bytes.len() as u64);
    let mut matrix = open.map_err(|e| e.to_string())?;
    let mut count = 0;
    loop {
        let some = matrix.read(7).map_err(|e| e.to_string())?;
        if some.is_empty() {
            break Ok(count);
        }
        count += some.len();
    }
}

fn is_sentence(error: &str) -> bool {
    error.len() > 20 && !error.contains('\n') && error.starts_with(|c: char| c.is_lowercase())
}

/// A valid file of each format with the same 5 x 3 values.
fn valid(format: Format) -> Vec<u8> {
    let rows: Vec<[f32; 3]> = (0..5).map(|i| [i as f32, 1.0, 2.0]).collect();
    let mut bytes = Vec::new();
    if format == Format::Npy {
        bytes.extend(npy::header_bytes("<f4", "(5, 3)"));
    }
    for row in rows {
        match format {
            Format::Npy => {}
            Format::Fvecs | Format::Bvecs => bytes.extend(3i32.to_le_bytes()),
        }
        match format {
            Format::Bvecs => bytes.extend(row.map(|v| v as u8)),
            _ => bytes.extend(row.iter().flat_map(|v| v.to_le_bytes())),
        }
    }
    bytes
}

#[test]
fn every_truncation_of_a_valid_file_is_refused() {
    for format in FORMATS {
        let whole = valid(format);
        assert_eq!(vectors(format, &whole).unwrap().1.len(), 15);
        let row_bytes = match format {
            Format::Npy => usize::MAX,
            Format::Fvecs => 16,
            Format::Bvecs => 7,
        };
        for end in 0..whole.len() {
            // A vecs file of fewer whole rows is a valid file: it has no header.
            if end > 0 && end % row_bytes == 0 {
                continue;
            }
            let error = vectors(format, &whole[..end]).unwrap_err();
            assert!(is_sentence(&error), "{format:?} {end}: {error}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_header_is_an_error_or_a_valid_file() {
    for format in FORMATS {
        let whole = valid(format);
        for bit in 0..8 * whole.len().min(140) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Err(error) = vectors(format, &bytes) {
                assert!(is_sentence(&error), "{format:?} bit {bit}: {error}");
            }
            let _ = integers(&bytes);
        }
    }
}

/// Text that looks like a header, so that garbage gets past the first checks.
fn header_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "(",
        ")",
        "'",
        "\"",
        ":",
        ",",
        " ",
        "\n",
        "[",
        "L",
        "-",
        "descr",
        "'descr': '<f4'",
        "'descr': '>f8'",
        "'descr': '|u1'",
        "'descr': '<i8'",
        "'fortran_order': False",
        "'fortran_order': True",
        "'shape': (",
        "'shape': (2, 3)",
        "'shape': (0, 3)",
        "1",
        "3",
        "65536",
        "18446744073709551615",
        "99999999999999999999999",
    ]);
    let bytes = (
        prop::collection::vec(piece, 0..24),
        any::<Vec<u8>>(),
        0u8..5,
    );
    bytes.prop_map(|(pieces, data, version)| {
        let text = pieces.concat();
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            2 | 3 => bytes.extend((text.len() as u32).to_le_bytes()),
            _ => bytes.extend((text.len() as u16).to_le_bytes()),
        }
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        bytes
    })
}

/// A header that is right in its parts, with any shape and length of data.
fn almost_valid() -> impl Strategy<Value = Vec<u8>> {
    let descr = prop::sample::select(vec![
        "<f2", "<f4", ">f4", "<f8", "|i1", "|u1", "<u2", "<i4", "<u8",
    ]);
    let size = prop_oneof![0u64..6, any::<u64>()];
    let parts = (
        descr,
        size.clone(),
        size,
        prop::collection::vec(any::<u8>(), 0..200),
    );
    parts.prop_map(|(descr, rows, dim, data)| {
        let mut bytes = npy::header_bytes(descr, &format!("({rows}, {dim})")).to_vec();
        bytes.extend(data);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        for format in FORMATS {
            if let Err(error) = vectors(format, &bytes) {
                prop_assert!(is_sentence(&error), "{}", error);
            }
        }
        let _ = integers(&bytes);
    }

    #[test]
    fn header_like_text_never_panics(bytes in header_like()) {
        if let Err(error) = vectors(Format::Npy, &bytes) {
            prop_assert!(is_sentence(&error), "{}", error);
        }
        let _ = integers(&bytes);
    }

    #[test]
    fn a_shape_is_believed_only_if_the_data_is_there(bytes in almost_valid()) {
        if let Ok((dim, values)) = vectors(Format::Npy, &bytes) {
            prop_assert!(dim > 0 && values.len() <= 200);
        }
        if let Ok(count) = integers(&bytes) {
            prop_assert!(count <= 200);
        }
    }

    #[test]
    fn values_survive_a_round_trip_through_each_type(
        values in prop::collection::vec(-2048i32..=2048, 1..60),
    ) {
        let floats: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        let f64s: Vec<u8> = floats.iter().flat_map(|v| f64::from(*v).to_be_bytes()).collect();
        let f16s: Vec<u8> = floats.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        for (descr, data) in [(">f8", f64s), ("<f2", f16s)] {
            let mut bytes = npy::header_bytes(descr, &format!("(1, {})", floats.len())).to_vec();
            bytes.extend(data);
            prop_assert_eq!(&vectors(Format::Npy, &bytes).unwrap().1, &floats);
        }
    }
}
