// SPDX-License-Identifier: Apache-2.0

//! The superblock and the journal's: whether there is a volume that can be checked.

use crate::session::Session;
use crate::End;
use std::io;
use vexfs_format::geometry::{has_superblock, BLOCKS_PER_GROUP};
use vexfs_format::journal::{self, JournalSuperblock};
use vexfs_format::superblock::{
    BYTES, FLAG_BACKUP, FLAG_ERRORS, FLAG_NEEDS_RECOVERY, OFFSET, STATE_CLEAN, STATE_MOUNTED,
};
use vexfs_format::{Superblock, BLOCK_SIZE};
use vexfs_image::check::words;
use vexfs_image::{crc, Device};
use zerocopy::{FromBytes, IntoBytes};

/// In what state a volume is.
pub enum State {
    Clean,
    /// Clean, but the kernel found something wrong.
    Errors,
    /// The journal has to be replayed.
    Unreplayed,
    /// It has features that are not known here.
    Newer,
}

/// Looks at the superblock, and at that of the journal. One that is damaged is made anew from a copy, if that is
/// wanted.
///
/// # Errors
///
/// How it ended, if there is nothing that can be checked.
pub fn look<D: Device>(device: &mut D, size: u64, session: &mut Session) -> Result<State, End> {
    let blocks = size / BLOCK_SIZE as u64;
    let name = session.name.clone();
    let failed = |e: io::Error| End::Failed(format!("{name} cannot be read or written: {e}"));
    if blocks == 0 {
        return Err(End::Failed(format!("{name} is too small for a volume")));
    }
    let mut block = vec![0; BLOCK_SIZE];
    device.read_block(0, &mut block).map_err(failed)?;
    let sb = match Superblock::parse(&block[OFFSET..], crc) {
        Ok(sb) => *sb,
        Err(error) => {
            let what = format!("superblock: {}", words(error.into()));
            let Some((group, copy)) = copy(device, blocks) else {
                return Err(End::Failed(format!(
                    "{name}: {what}; and there is no copy of it"
                )));
            };
            let text = format!("{what}; the copy in group {group} is sound");
            if !session.wants(&text, true)? {
                return Err(End::Left);
            }
            let made = primary(device, &copy).map_err(failed)?;
            block[OFFSET..OFFSET + BYTES].copy_from_slice(made.as_bytes());
            device
                .write_block(0, &block)
                .and_then(|()| device.sync())
                .map_err(failed)?;
            session.mended(&text);
            made
        }
    };
    if sb.blocks_count.get() > blocks {
        return Err(End::Failed(format!(
            "the volume has {} blocks, but {name} only {blocks}; the rest is missing",
            sb.blocks_count
        )));
    }
    let flags = sb.flags.get();
    if sb.state.get() != STATE_CLEAN || flags & FLAG_NEEDS_RECOVERY != 0 {
        return Ok(State::Unreplayed);
    }
    let start = sb.journal_start.get();
    device.read_block(start, &mut block).map_err(failed)?;
    if let Some(what) = wrong_journal(&block, &sb) {
        // Not mended: what it held may be what is missing elsewhere.
        session.leave(&format!("block {start}: the journal {what}"));
    }
    Ok(match flags & FLAG_ERRORS {
        _ if sb.is_read_only() => State::Newer,
        0 => State::Clean,
        _ => State::Errors,
    })
}

/// The first sound copy of the superblock, and its group.
fn copy<D: Device>(device: &D, blocks: u64) -> Option<(u64, Superblock)> {
    let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
    let mut block = vec![0; BLOCK_SIZE];
    (1..groups)
        .filter(|g| has_superblock(*g))
        .find_map(|group| {
            let read = device.read_block(group * BLOCKS_PER_GROUP, &mut block);
            read.ok()?;
            let sb = Superblock::parse(&block[OFFSET..], crc).ok()?;
            let own = u64::from(sb.own_group.get()) == group && sb.blocks_count.get() <= blocks;
            (own && sb.flags.get() & FLAG_BACKUP != 0).then_some((group, *sb))
        })
}

/// A superblock made of a copy, which does not know in what state the volume is: the journal does.
fn primary<D: Device>(device: &D, copy: &Superblock) -> io::Result<Superblock> {
    let mut sb = *copy;
    let mut block = vec![0; BLOCK_SIZE];
    device.read_block(sb.journal_start.get(), &mut block)?;
    let empty = JournalSuperblock::ref_from_prefix(&block).is_ok_and(|(journal, _)| {
        journal.magic.get() == journal::MAGIC && journal.start.get() == 0
    });
    let (state, flags) = match empty {
        true => (STATE_CLEAN, 0),
        false => (STATE_MOUNTED, FLAG_NEEDS_RECOVERY),
    };
    sb.own_group = 0.into();
    sb.state = state.into();
    sb.flags = flags.into();
    sb.seal(crc);
    Ok(sb)
}

/// What is wrong with the superblock of the journal of a volume that was unmounted.
fn wrong_journal(block: &[u8], sb: &Superblock) -> Option<&'static str> {
    let Ok((journal, _)) = JournalSuperblock::ref_from_prefix(block) else {
        return Some("is cut short");
    };
    let blocks = sb.journal_blocks.get();
    if journal.magic.get() != journal::MAGIC || journal.block_type.get() != journal::SUPERBLOCK_V2 {
        return Some("has no superblock");
    }
    if journal.block_size.get() != BLOCK_SIZE as u32 || journal.max_len.get() != blocks {
        return Some("is of another size than the superblock says");
    }
    // A log that was emptied, and so is what it holds.
    (journal.start.get() != 0).then_some("is not empty, though the volume was unmounted")
}

/// Forgets that the kernel found something wrong.
///
/// # Errors
///
/// Those of the device.
pub fn forget_errors<D: Device>(device: &mut D) -> io::Result<()> {
    let mut block = vec![0; BLOCK_SIZE];
    device.read_block(0, &mut block)?;
    if let Some(sb) = Superblock::from_bytes_mut(&mut block[OFFSET..]) {
        sb.flags.set(sb.flags.get() & !FLAG_ERRORS);
        sb.error_count = 0.into();
        sb.seal(crc);
    }
    device.write_block(0, &block)?;
    device.sync()
}
