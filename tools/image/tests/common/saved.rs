// SPDX-License-Identifier: Apache-2.0

//! A volume with one container whose index was saved, written as the kernel writes it.

use super::fresh;
use libvexfs::{dir, extent, index as records, rows};
use std::ops::Range;
use vexfs_format::header;
use vexfs_format::index::{
    data_position, data_sum, set_sum, sums_position, ImageHeader, IndexRecord, Parameters, Section,
    SUMS,
};
use vexfs_format::inode::{FLAG_HIDDEN, FLAG_IMAGE, FLAG_VECTOR};
use vexfs_format::row::RowMeta;
use vexfs_format::vector_area::{stride, ELEMENT_FLOAT32, METRIC_L2SQ};
use vexfs_format::{Inode, VectorArea, BLOCK_SIZE, ROOT_INO};
use vexfs_image::{check, crc, Image, MemDevice};
use vexfs_uapi::Findings;

/// What the image of an index says, and what its container does.
pub struct Saved {
    pub kind: u32,
    pub dim: u32,
    pub parameters: Parameters,
    pub state: Vec<u64>,
    /// Tag, bytes of an item, items.
    pub sections: Vec<(u32, usize, Vec<u8>)>,
    pub rows: u64,
    pub watermark: u64,
    /// At most four.
    pub deleted: Vec<u64>,
    /// The batch that deleted them; the container says that 5 are done.
    pub batch: u64,
    /// The batch that put other rows in their place; 0 if none did.
    pub born: u64,
    /// The last batch that the image knows of.
    pub known: u64,
    /// The rows, without gaps between them; none are holes, which read as zeros.
    pub vectors: Vec<u8>,
    /// Of the record.
    pub flags: u32,
}

impl Saved {
    /// A volume with a container that has this index, and the blocks of the image.
    pub fn volume(&self) -> (MemDevice, Range<u64>) {
        let mut image = fresh(16);
        let seed = image.seed;
        let hash_seed = image.hash_seed;
        let mut header = ImageHeader {
            kind: self.kind,
            generation: 1,
            watermark: self.watermark,
            batch: self.known,
            dim: self.dim,
            element: ELEMENT_FLOAT32,
            metric: METRIC_L2SQ,
            parameters: self.parameters,
            ..ImageHeader::default()
        };
        for (to, from) in header.state.iter_mut().zip(self.state.iter().copied()) {
            *to = from;
        }
        let mut data = Vec::new();
        for (to, (tag, item_bytes, bytes)) in header.sections.iter_mut().zip(&self.sections) {
            *to = Section {
                tag: *tag,
                item_bytes: *item_bytes as u32,
                items: (bytes.len() / item_bytes) as u64,
            };
            let in_block = BLOCK_SIZE / item_bytes * item_bytes;
            for bytes in bytes.chunks(in_block) {
                let mut block = bytes.to_vec();
                block.resize(BLOCK_SIZE, 0);
                data.push(block);
            }
        }
        assert_eq!(header.data_blocks(), data.len() as u64);

        let mut t = image.begin();
        let inos = [(); 4].map(|()| t.allocate_inode(0, false).unwrap());
        let [owner, meta, tree, ino] = inos;
        let (first, len) = t.allocate_blocks(0, header.blocks() as u32).unwrap();
        assert_eq!(len, header.blocks(), "the image is in one piece");
        let hidden = Inode {
            mode: 0o100600,
            nlink: 1,
            flags: FLAG_HIDDEN,
            parent_ino: owner,
            ..Inode::empty()
        };
        let stride = stride(self.dim, ELEMENT_FLOAT32, 4).unwrap();
        let mut container = Inode {
            nlink: 1,
            flags: FLAG_VECTOR,
            parent_ino: ROOT_INO,
            vector: VectorArea {
                dim: self.dim,
                element: ELEMENT_FLOAT32,
                metric: METRIC_L2SQ,
                stride,
                align: 4,
                rows: self.rows,
                live: match self.born {
                    1..=5 => self.rows,
                    _ => self.rows - self.deleted.len() as u64,
                },
                batch_started: 6,
                batch_done: 5,
                row_meta_ino: meta,
                index_ino: tree,
                ..VectorArea::default()
            },
            ..hidden.clone()
        };
        let blocks = self.vectors.len().div_ceil(BLOCK_SIZE) as u64;
        let mut data_at = 0;
        if blocks > 0 {
            let (start, got) = t.allocate_blocks(0, blocks as u32).unwrap();
            assert_eq!(got, blocks, "the rows are in one piece");
            let root = &mut container.tree_root;
            extent::insert(&mut t, root, owner, 0, start, blocks, false).unwrap();
            (container.blocks, container.size) = (blocks, self.vectors.len() as u64);
            data_at = start;
        }
        t.write_inode(owner, &container).unwrap();
        let mut inode = hidden.clone();
        let root = &mut inode.tree_root;
        for row in &self.deleted {
            let record = RowMeta {
                tomb_seq: self.batch,
                born_seq: self.born,
                ..RowMeta::default()
            };
            rows::set_meta(&mut t, root, meta, *row, &record).unwrap();
        }
        t.write_inode(meta, &inode).unwrap();
        let mut inode = hidden.clone();
        let record = IndexRecord {
            flags: self.flags,
            parameters: self.parameters,
            image_ino: ino,
            generation: 1,
        };
        records::set(&mut t, &mut inode.tree_root, tree, self.kind, &record).unwrap();
        t.write_inode(tree, &inode).unwrap();
        let mut inode = Inode {
            flags: FLAG_HIDDEN | FLAG_IMAGE,
            size: len * BLOCK_SIZE as u64,
            blocks: len,
            ..hidden
        };
        extent::insert(&mut t, &mut inode.tree_root, ino, 0, first, len, false).unwrap();
        t.write_inode(ino, &inode).unwrap();
        let mut root = t.image().read_inode(ROOT_INO).unwrap();
        let tree_root = &mut root.tree_root;
        dir::insert(&mut t, tree_root, ROOT_INO, &hash_seed, b"v", owner, 8).unwrap();
        t.write_inode(ROOT_INO, &root).unwrap();
        t.commit().unwrap();

        let mut device = image.into_device();
        for (block, bytes) in (data_at..).zip(self.vectors.chunks(BLOCK_SIZE)) {
            let mut bytes = bytes.to_vec();
            bytes.resize(BLOCK_SIZE, 0);
            device.blocks.insert(block, bytes);
        }
        let mut bytes = vec![0; BLOCK_SIZE];
        header.encode(&mut bytes, first, ino, seed, crc);
        device.blocks.insert(first, bytes);
        for (group, data) in (0..).zip(data.chunks(SUMS as usize)) {
            let at = group * SUMS;
            let mut sums = vec![0; BLOCK_SIZE];
            let block = first + sums_position(at);
            header::init(&mut sums, block, header::MAGIC_SUMS, ino);
            for (data, bytes) in (at..).zip(data) {
                let block = first + data_position(data);
                set_sum(&mut sums, data, data_sum(block, bytes, seed, crc));
                device.blocks.insert(block, bytes.clone());
            }
            header::seal(block, &mut sums, seed, crc);
            device.blocks.insert(block, sums);
        }
        (device, first..first + len)
    }
}

/// What a check of a volume finds of its one index.
pub fn findings(device: MemDevice) -> Findings {
    let mut image = Image::open(device).unwrap();
    check::examine(&mut image, &mut ()).unwrap().indexes[0].findings
}

/// What a check of a volume says.
pub fn checked(device: MemDevice) -> Result<(), Vec<String>> {
    let mut image = Image::open(device).unwrap();
    check::check(&mut image).map(|_| ())
}

/// Words as they lie in an image.
pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
