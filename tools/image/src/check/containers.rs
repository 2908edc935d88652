// SPDX-License-Identifier: Apache-2.0

//! What containers own besides their rows: no hidden inode is without an owner, or has two.

use super::{IndexFound, Mend, Seen, Stopped, Walk};
use crate::indexes::{self, Index};
use crate::{Device, Image};
use libvexfs::{index, rows};
use vexfs_format::inode::{FLAG_HIDDEN, FLAG_VECTOR};
use vexfs_format::{Inode, ORPHAN_INO};
use vexfs_uapi::Findings;

impl Walk<'_> {
    pub(super) fn containers<D: Device>(&mut self, image: &mut Image<D>) -> Result<(), Stopped> {
        for at in 0..self.inodes.len() {
            let Seen { ino, flags, .. } = self.inodes[at];
            if flags & FLAG_VECTOR == 0 {
                continue;
            }
            if let Ok(inode) = image.read_inode(ino) {
                self.container(image, ino, &inode)?;
            }
        }
        for at in 0..self.inodes.len() {
            let seen = self.inodes[at];
            let hidden = seen.flags & FLAG_HIDDEN != 0;
            if !hidden || seen.owned != seen.orphan || seen.ino == ORPHAN_INO {
                continue;
            }
            let ino = seen.ino;
            // Whose it is can be read, or is free.
            let known = self.found.complete && !seen.doubtful;
            let (text, mend) = match seen.owned {
                true => ("a container's, but an orphan too", Some(Mend::Orphan(ino))),
                false => (
                    "hidden, but neither a container's nor an orphan",
                    known.then_some(Mend::Free(ino)),
                ),
            };
            self.problem(format!("inode {ino}: {text}"), mend);
        }
        Ok(())
    }

    fn container<D: Device>(
        &mut self,
        image: &mut Image<D>,
        ino: u64,
        inode: &Inode,
    ) -> Result<(), Stopped> {
        let area = &inode.vector;
        for part in [area.row_meta_ino, area.key_map_ino, area.index_ino] {
            if part != 0 && !self.own(ino, part) {
                let text = format!("inode {part}: not a hidden inode of container {ino} alone");
                self.problem(text, None);
            }
        }
        self.live(image, ino, inode);
        if area.index_ino == 0 {
            return Ok(());
        }
        let Ok(tree) = image.read_inode(area.index_ino) else {
            return Ok(());
        };
        let mut records = Vec::new();
        let all = index::for_each(image, &tree.tree_root, area.index_ino, |kind, record| {
            records.push((kind, record));
            Ok(())
        });
        if let Err(error) = all {
            self.unreadable(&format!("inode {ino}: its indexes"), error);
            // What it lists is not known to be nobody's.
            for seen in &mut self.inodes {
                seen.doubtful |= seen.parent == ino;
            }
        }
        for (kind, record) in records {
            let mut findings = Findings::default();
            if record.image_ino != 0 {
                let mend = Some(Mend::Image(ino, kind));
                let name = indexes::name(kind);
                if !self.own(ino, record.image_ino) {
                    let part = record.image_ino;
                    findings.bad_image = true;
                    self.problem(
                        format!("inode {part}: not a hidden inode of container {ino} alone, but the image of its {name} index"),
                        mend,
                    );
                } else if let Ok(disk) = image.read_inode(record.image_ino) {
                    let index = Index {
                        kind,
                        record: &record,
                        disk: &disk,
                        owner_ino: ino,
                        owner: inode,
                    };
                    let wrong;
                    (findings, wrong) = indexes::check_image(image, &index, self.watch)?;
                    let part = record.image_ino;
                    for what in wrong {
                        self.problem(
                            format!("inode {part}: the {name} index of inode {ino}: {what}"),
                            mend.clone(),
                        );
                    }
                }
            }
            self.found.indexes.push(IndexFound {
                container: ino,
                kind,
                image: record.image_ino,
                findings,
            });
        }
        Ok(())
    }

    /// Makes a hidden inode that container's, if it is one and nobody else's.
    fn own(&mut self, container: u64, part: u64) -> bool {
        match self.seen(part) {
            Some(seen) if seen.flags & FLAG_HIDDEN != 0 && seen.parent == container => {
                !std::mem::replace(&mut seen.owned, true)
            }
            _ => false,
        }
    }

    /// Compares the number of live rows with the tombstones: a container of which they disagree can't be used.
    fn live<D: Device>(&mut self, image: &Image<D>, ino: u64, inode: &Inode) {
        let area = &inode.vector;
        if area.row_meta_ino == 0 {
            return;
        }
        let Ok(meta) = image.read_inode(area.row_meta_ino) else {
            return;
        };
        let mut deleted = 0u64;
        let read = rows::for_each_from(
            image,
            &meta.tree_root,
            area.row_meta_ino,
            0,
            |row, record| {
                let below = row < area.rows;
                // A batch that was cut off has deleted nothing.
                deleted += u64::from(below && record.is_deleted(area.batch_done));
                Ok(below)
            },
        );
        let live = area.rows.saturating_sub(deleted);
        match read {
            Ok(()) if live != area.live => {
                let have = area.live;
                let text = format!("inode {ino}: {have} live rows, should be {live}");
                self.problem(text, Some(Mend::Live(ino, live)));
            }
            Ok(()) => {}
            Err(error) => {
                let text = format!("inode {ino}: its rows: {}", super::words(error));
                self.problem(text, None);
            }
        }
    }
}
