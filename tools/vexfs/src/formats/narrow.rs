// SPDX-License-Identifier: Apache-2.0
//! From the elements of a file to those of a container. Floats are rounded to the floats that
//! the user chose for the container; to integers nothing is rounded, and bits are not made up:
//! where to round and where to cut is a choice that changes what is found.

use super::npy::Dtype;
use half::{bf16, f16};
use vexfs_client::{ElementType, VectorBuf};

/// Why elements of a file cannot become those of a container: the end of a sentence that begins
/// with the file's name or a row of it.
pub type Refusal = String;

/// Whether elements of type `from` can be those of a container of `to` at all.
pub fn check(from: Dtype, to: ElementType) -> Result<(), Refusal> {
    match (to, from) {
        (ElementType::Binary, Dtype::Uint(1)) | (ElementType::Bf16, Dtype::Uint(2)) => Ok(()),
        (ElementType::Binary, _) => Err(
            "has no packed bits, which a container of binary takes; save numpy.packbits(x > 0, axis=1, bitorder='little')"
                .into(),
        ),
        (_, Dtype::Float(_) | Dtype::Int(1) | Dtype::Uint(1)) => Ok(()),
        (_, Dtype::Uint(2)) => Err(format!(
            "has integers of 2 bytes, which only a container of bf16 takes, as its bits; save x.astype('float32') for one of {to}"
        )),
        _ => Err(format!(
            "has integers of {} bytes, which f32 cannot hold exactly; save x.astype('float32')",
            from.bytes()
        )),
    }
}

/// Appends a row to `out`, if elements of type `from` are those of `out` already, in either order of
/// bytes. Returns whether they are.
pub fn as_they_are(from: Dtype, big_endian: bool, bytes: &[u8], out: &mut VectorBuf) -> bool {
    let half = |b: &[u8]| match big_endian {
        true => u16::from_be_bytes([b[0], b[1]]),
        false => u16::from_le_bytes([b[0], b[1]]),
    };
    let halves = || bytes.chunks_exact(2).map(half);
    match (out, from) {
        (VectorBuf::F16(out), Dtype::Float(2)) => out.extend(halves().map(f16::from_bits)),
        (VectorBuf::Bf16(out), Dtype::Uint(2)) => out.extend(halves().map(bf16::from_bits)),
        (VectorBuf::I8(out), Dtype::Int(1)) => out.extend(bytes.iter().map(|b| *b as i8)),
        (VectorBuf::U8(out) | VectorBuf::Binary(out), Dtype::Uint(1)) => out.extend(bytes),
        _ => return false,
    }
    true
}

/// Appends numbers to `out`: rounded to nearest, ties to even, if it holds floats.
///
/// Errors: a number beyond the range of `out`, or between its integers. A NaN becomes a NaN where
/// there is one: whoever takes the row says what it thinks of it.
pub fn narrow(numbers: &[f32], out: &mut VectorBuf) -> Result<(), Refusal> {
    let beyond = |x: f32, to: &str| {
        format!("holds {x}, which is beyond {to}; scale the vectors, or use another --type")
    };
    let integer = |x: f32, least: f32, most: f32, to: &str| {
        let fits = x.fract() == 0.0 && (least..=most).contains(&x);
        fits.then_some(x as i16).ok_or_else(|| {
            format!("holds {x}, which is no {to}; scale and round knowingly, as with (x * 127).round().astype('{to}')")
        })
    };
    match out {
        VectorBuf::F32(out) => out.extend_from_slice(numbers),
        VectorBuf::F16(out) => {
            for x in numbers {
                let half = f16::from_f32(*x);
                if half.is_infinite() && x.is_finite() {
                    return Err(beyond(*x, "f16"));
                }
                out.push(half);
            }
        }
        VectorBuf::Bf16(out) => {
            for x in numbers {
                let half = bf16::from_f32(*x);
                if half.is_infinite() && x.is_finite() {
                    return Err(beyond(*x, "bf16"));
                }
                out.push(half);
            }
        }
        VectorBuf::I8(out) => {
            for x in numbers {
                out.push(integer(*x, -128.0, 127.0, "int8")? as i8);
            }
        }
        VectorBuf::U8(out) => {
            for x in numbers {
                out.push(integer(*x, 0.0, 255.0, "uint8")? as u8);
            }
        }
        // `check` lets nothing but packed bits through.
        VectorBuf::Binary(_) => return Err("has no packed bits".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(element_type: ElementType, numbers: &[f32]) -> Result<Vec<f32>, Refusal> {
        let mut out = VectorBuf::zeroed(element_type, 1, 0);
        narrow(numbers, &mut out)?;
        Ok(out.as_vectors().to_f32(1))
    }

    #[test]
    fn floats_are_rounded_to_nearest_and_stay_within_the_range() {
        // Half way between two neighbours: to the even one.
        let ties = [1.0 + 0.5 / 1024.0, 1.0 + 1.5 / 1024.0];
        assert_eq!(
            narrowed(ElementType::F16, &ties),
            Ok(vec![1.0, 1.0 + 2.0 / 1024.0])
        );
        assert_eq!(narrowed(ElementType::F16, &[65504.0]), Ok(vec![65504.0]));
        assert!(narrowed(ElementType::F16, &[65520.0]).is_err());
        let ties = [1.0 + 0.5 / 128.0, 1.0 + 1.5 / 128.0];
        assert_eq!(
            narrowed(ElementType::Bf16, &ties),
            Ok(vec![1.0, 1.0 + 2.0 / 128.0])
        );
        assert!(narrowed(ElementType::Bf16, &[f32::MAX]).is_err());
        for element_type in [ElementType::F16, ElementType::Bf16] {
            let nan = narrowed(element_type, &[f32::NAN, f32::INFINITY]).unwrap();
            assert!(nan[0].is_nan() && nan[1].is_infinite());
        }
    }

    #[test]
    fn integers_are_never_rounded() {
        assert_eq!(
            narrowed(ElementType::I8, &[-128.0, -0.0, 127.0]),
            Ok(vec![-128.0, 0.0, 127.0])
        );
        assert_eq!(
            narrowed(ElementType::U8, &[0.0, 255.0]),
            Ok(vec![0.0, 255.0])
        );
        for bad in [0.5, 128.0, -129.0, f32::NAN, f32::INFINITY] {
            assert!(narrowed(ElementType::I8, &[bad]).is_err(), "{bad}");
        }
        for bad in [256.0, -1.0, 0.5] {
            assert!(narrowed(ElementType::U8, &[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_before_a_row_is_read() {
        for element_type in ElementType::ALL {
            let taken = |dtype| check(dtype, *element_type).is_ok();
            let bits = *element_type == ElementType::Binary;
            assert_eq!(taken(Dtype::Float(4)), !bits);
            assert_eq!(taken(Dtype::Int(1)), !bits);
            assert!(taken(Dtype::Uint(1)));
            assert_eq!(taken(Dtype::Uint(2)), *element_type == ElementType::Bf16);
            assert!(!taken(Dtype::Int(2)) && !taken(Dtype::Uint(4)) && !taken(Dtype::Int(8)));
        }
    }
}
