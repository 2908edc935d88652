// SPDX-License-Identifier: Apache-2.0

//! What is on a device already: the signatures of filesystems, partition tables and other
//! things somebody may still want.

use std::io;
use vexfs_format::superblock;

/// Bytes at each end of a device where signatures are looked for and wiped. The farthest
/// one, of ZFS, is within the first and the last 512 KiB.
pub const SPAN: u64 = 1 << 20;

/// A signature: these bytes at this place, and nothing else.
struct Magic {
    name: &'static str,
    at: usize,
    bytes: &'static [u8],
}

const fn magic(name: &'static str, at: usize, bytes: &'static [u8]) -> Magic {
    Magic { name, at, bytes }
}

/// Signatures at a fixed distance from the start.
const AT_START: &[Magic] = &[
    magic("a VexFS volume", superblock::OFFSET, &superblock::MAGIC),
    magic("a VexFS v1 volume", 0, b"VEXFS1.0"),
    magic("a VexFS v1 volume", 0, b"EPUSFXEV"),
    magic("a VexFS v1 volume", 0, b"FXEV"),
    magic("an ext2, ext3 or ext4 filesystem", 1080, b"\x53\xef"),
    magic("an XFS filesystem", 0, b"XFSB"),
    magic("a btrfs filesystem", 0x10040, b"_BHRfS_M"),
    magic(
        "a bcachefs filesystem",
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
    ),
    magic(
        "a bcachefs filesystem",
        4120,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9",
    ),
    magic("an F2FS filesystem", 1024, b"\x10\x20\xf5\xf2"),
    magic("an EROFS filesystem", 1024, b"\xe2\xe1\xf5\xe0"),
    magic("a squashfs filesystem", 0, b"hsqs"),
    magic("a JFS filesystem", 32768, b"JFS1"),
    magic("a NILFS2 filesystem", 1030, b"\x34\x34"),
    magic("a ReiserFS filesystem", 65588, b"ReIsEr"),
    magic("a GFS2 filesystem", 65536, b"\x01\x16\x19\x70"),
    magic("an OCFS2 filesystem", 8192, b"OCFSV2"),
    magic("an ISO 9660 filesystem", 32769, b"CD001"),
    magic("a UDF filesystem", 32769, b"BEA01"),
    magic("an NTFS filesystem", 3, b"NTFS    "),
    magic("an exFAT filesystem", 3, b"EXFAT   "),
    magic("a FAT filesystem", 82, b"FAT32"),
    magic("a FAT filesystem", 54, b"FAT1"),
    magic("an HFS+ filesystem", 1024, b"H+\x00\x04"),
    magic("an APFS container", 32, b"NXSB"),
    magic("swap space", 4086, b"SWAPSPACE2"),
    magic("swap space", 4086, b"SWAP-SPACE"),
    magic("a LUKS volume", 0, b"LUKS\xba\xbe"),
    magic("an LVM physical volume", 536, b"LVM2 001"),
    magic("an LVM physical volume", 24, b"LVM2 001"),
    magic("a RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    magic("a RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    magic("a bcache device", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    magic("a GPT partition table", 512, b"EFI PART"),
    magic("a GPT partition table", 4096, b"EFI PART"),
];

/// Names what is on a device of `size` bytes, of which `read(offset, buffer)` fills the
/// buffer; nothing if nothing is known.
///
/// # Errors
///
/// Those of `read`.
pub fn probe(
    size: u64,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<&'static str>> {
    let span = size.min(SPAN);
    let mut start = vec![0; span as usize];
    read(0, &mut start)?;
    let mut end = vec![0; span as usize];
    read(size - span, &mut end)?;
    Ok(at_start(&start).or_else(|| at_end(&end)))
}

fn holds(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn at_start(start: &[u8]) -> Option<&'static str> {
    for magic in AT_START {
        if holds(start, magic.at, magic.bytes) {
            return Some(magic.name);
        }
    }
    // ZFS: uberblocks fill the second half of a 256 KiB label.
    if (131_072..262_144)
        .step_by(1024)
        .any(|at| is_uberblock(start, at))
    {
        return Some("a ZFS pool");
    }
    // Any of four entries with a type: an empty table has none worth keeping.
    let has_partition = [450, 466, 482, 498]
        .iter()
        .any(|at| start.get(*at).is_some_and(|kind| *kind != 0));
    if holds(start, 510, b"\x55\xaa") && has_partition {
        return Some("a DOS partition table");
    }
    None
}

fn is_uberblock(bytes: &[u8], at: usize) -> bool {
    holds(bytes, at, b"\x0c\xb1\xba\x00\0\0\0\0") || holds(bytes, at, b"\0\0\0\0\x00\xba\xb1\x0c")
}

fn at_end(end: &[u8]) -> Option<&'static str> {
    for sector in [512, 4096] {
        let at = end.len().checked_sub(sector);
        if at.is_some_and(|at| holds(end, at, b"EFI PART")) {
            return Some("a GPT partition table");
        }
    }
    // Metadata 1.0 is 8 to 12 KiB before the end, 0.90 64 to 128 KiB, both aligned.
    let raid = (end.len().saturating_sub(131_072)..end.len())
        .step_by(4096)
        .any(|at| holds(end, at, b"\xfc\x4e\x2b\xa9"));
    raid.then_some("a RAID member")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_bytes(bytes: &[u8]) -> Option<&'static str> {
        probe(bytes.len() as u64, |at, out| {
            out.copy_from_slice(&bytes[at as usize..][..out.len()]);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn every_signature_is_found_where_it_belongs() {
        assert_eq!(probe_bytes(&vec![0; 8 << 20]), None);
        for magic in AT_START {
            let mut bytes = vec![0; 4 << 20];
            bytes[magic.at..magic.at + magic.bytes.len()].copy_from_slice(magic.bytes);
            let found = probe_bytes(&bytes).unwrap();
            // The first eight bytes of bcache and bcachefs are the same.
            assert!(
                found == magic.name || magic.name.contains("bcache"),
                "{found}"
            );
        }
    }

    #[test]
    fn what_is_only_at_the_end_is_found() {
        let mut bytes = vec![0; 4 << 20];
        let len = bytes.len();
        bytes[len - 512..len - 504].copy_from_slice(b"EFI PART");
        assert_eq!(probe_bytes(&bytes), Some("a GPT partition table"));
        let mut bytes = vec![0; 4 << 20];
        bytes[len - 65536..len - 65532].copy_from_slice(b"\xfc\x4e\x2b\xa9");
        assert_eq!(probe_bytes(&bytes), Some("a RAID member"));
    }

    #[test]
    fn a_boot_sector_without_partitions_is_nobodys() {
        let mut bytes = vec![0; 4 << 20];
        bytes[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(probe_bytes(&bytes), None);
        bytes[450] = 0x83;
        assert_eq!(probe_bytes(&bytes), Some("a DOS partition table"));
    }

    #[test]
    fn a_device_smaller_than_any_signature_is_nobodys() {
        assert_eq!(probe_bytes(&[0; 100]), None);
        assert_eq!(probe_bytes(&[]), None);
    }
}
