// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Runs of bits in a bitmap, found 64 at a time.

use core::ops::Range;

/// A bitmap and one of bits that count as set too.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    /// Set bits are in use.
    pub used: &'a [u8],
    /// Set bits are free but may not be used.
    pub withheld: Option<&'a [u8]>,
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let at = index.saturating_mul(8);
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        // Past the end, or a bitmap that is no multiple of 8 bytes.
        None => {
            let rest = bytes.get(at..).unwrap_or(&[]);
            rest.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b))
        }
    }
}

impl Bits<'_> {
    /// The first bit from `range.start` on that is set, or clear, as `value` says;
    /// `range.end` if there is none before.
    pub fn find(&self, range: Range<usize>, value: bool) -> usize {
        let mut at = range.start;
        while at < range.end {
            let index = at / 64;
            let mut bits = word(self.used, index);
            if let Some(withheld) = self.withheld {
                bits |= word(withheld, index);
            }
            if !value {
                bits = !bits;
            }
            bits &= u64::MAX << (at % 64);
            if bits != 0 {
                let found = index
                    .saturating_mul(64)
                    .saturating_add(bits.trailing_zeros() as usize);
                return found.min(range.end);
            }
            at = index.saturating_add(1).saturating_mul(64);
        }
        range.end
    }

    /// The first run of clear bits in `range`, cut to `max` bits; nothing if all are set.
    pub fn clear_run(&self, range: Range<usize>, max: usize) -> Option<Range<usize>> {
        let start = self.find(range.clone(), false);
        if start >= range.end {
            return None;
        }
        let limit = start.saturating_add(max).min(range.end);
        Some(start..self.find(start..limit, true))
    }
}

/// Sets or clears the bits of `range`; what lies outside the bitmap is left out.
pub fn fill(bits: &mut [u8], range: Range<usize>, value: bool) {
    let mut at = range.start;
    while at < range.end {
        let Some(byte) = bits.get_mut(at / 8) else {
            return;
        };
        let from = at % 8;
        let to = range.end.saturating_sub(at).saturating_add(from).min(8);
        // Bits `from..to` of this byte.
        let mask = (0xffu32 << from & 0xff & !(0xffu32 << to)) as u8;
        if value {
            *byte |= mask;
        } else {
            *byte &= !mask;
        }
        at = at.saturating_add(to.saturating_sub(from));
    }
}
