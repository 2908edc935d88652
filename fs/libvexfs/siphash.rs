// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! SipHash-2-4 with a 64-bit result (Aumasson and Bernstein, 2012): the directory hash.
//! Keyed, so that nobody without the volume's seed can choose names that collide.

fn round(v: &mut [u64; 4]) {
    let [v0, v1, v2, v3] = v;
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

/// The hash of `bytes` under the 128-bit key `seed`.
pub(crate) fn siphash(seed: &[u8; 16], bytes: &[u8]) -> u64 {
    let key = u128::from_le_bytes(*seed);
    let (k0, k1) = (key as u64, (key >> 64) as u64);
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mix = |word: u64, rounds: usize, v: &mut [u64; 4]| {
        v[3] ^= word;
        for _ in 0..rounds {
            round(v);
        }
        v[0] ^= word;
    };
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b));
        mix(word, 2, &mut v);
    }
    let rest = chunks.remainder();
    let tail = rest.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b));
    mix((bytes.len() as u64) << 56 | tail, 2, &mut v);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v.iter().fold(0, |h, w| h ^ w)
}

#[cfg(test)]
mod tests {
    use super::siphash;

    /// Vectors from the reference implementation: key 00..0f, message 00..(n-1).
    #[test]
    fn hashes_as_the_reference_does() {
        let seed = core::array::from_fn(|i| i as u8);
        let message: [u8; 16] = core::array::from_fn(|i| i as u8);
        assert_eq!(siphash(&seed, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(&seed, &message[..8]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash(&seed, &message[..15]), 0xa129_ca61_49be_45e5);
    }
}
