// SPDX-License-Identifier: Apache-2.0

//! Blocks in a file or in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vexfs_format::BLOCK_SIZE;

/// Something with blocks of 4096 bytes.
pub trait Device {
    /// Fills `out`, 4096 bytes, with block `block`.
    ///
    /// # Errors
    ///
    /// Those of the device; `UnexpectedEof` past its end.
    fn read_block(&self, block: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes`, 4096 of them, to block `block`.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn write_block(&mut self, block: u64, bytes: &[u8]) -> io::Result<()>;

    /// Waits until what was written is on the medium.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file or block device.
#[derive(Debug)]
pub struct FileDevice(pub File);

impl Device for FileDevice {
    fn read_block(&self, block: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, block * BLOCK_SIZE as u64)
    }

    fn write_block(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, block * BLOCK_SIZE as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Blocks in memory; those never written are zero.
#[derive(Clone, Debug, Default)]
pub struct MemDevice {
    /// What was written.
    pub blocks: HashMap<u64, Vec<u8>>,
}

impl Device for MemDevice {
    fn read_block(&self, block: u64, out: &mut [u8]) -> io::Result<()> {
        match self.blocks.get(&block) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => out.fill(0),
        }
        Ok(())
    }

    fn write_block(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        self.blocks.insert(block, bytes.to_vec());
        Ok(())
    }
}
