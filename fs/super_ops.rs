// SPDX-License-Identifier: GPL-2.0

//! Mount, remount, unmount, sync, statfs, and the life of inodes.

use crate::container::{self, Unwritten};
use crate::node::{self, Change, Node};
use crate::options::{self, Options};
use crate::volume::{self, Volume};
use crate::{index, orphan, VexFs};
use kernel::prelude::*;
use kernel::str::CString;
use libvexfs::alloc;
use libvexfs::format::{self, ROOT_INO};
use vexfs_vfs::super_block::{Limits, Statfs, Super};
use vexfs_vfs::{IRef, Inode, SuperBlock, Types};

/// `statfs(2)` reports it; the same as `VEXFS_SUPER_MAGIC` of the ioctl header.
const MAGIC: u64 = vexfs_uapi::VEXFS_SUPER_MAGIC as u64;
/// Times on disk are 64-bit seconds; the VFS wants a range that its arithmetic copes with.
const TIME_RANGE: (i64, i64) = (-(1 << 40), 1 << 40);

impl Types for VexFs {
    type Options = Options;
    type Volume = Volume;
    type Node = Node;
    const NAME: &'static CStr = c"vexfs";
}

impl Super for VexFs {
    fn parse_option(options: &mut Options, key: &[u8], value: Option<&[u8]>) -> Result<bool> {
        options::parse(options, key, value)
    }

    fn mount(sb: &SuperBlock<Self>, options: Options) -> Result<(Pin<KBox<Volume>>, Limits)> {
        let volume = volume::mount(sb, options)?;
        let limits = Limits {
            magic: MAGIC,
            max_bytes: format::inode::MAX_SIZE as i64,
            max_links: format::inode::MAX_LINKS,
            time_range: TIME_RANGE,
            uuid: volume.uuid,
        };
        Ok((volume, limits))
    }

    fn root(sb: &SuperBlock<Self>) -> Result<IRef<Self>> {
        let volume = sb.volume();
        let root = node::iget(sb, ROOT_INO).map_err(|e| volume::missing(sb, ROOT_INO, e))?;
        if !root.is_dir() {
            pr_err!(
                "{}: inode {}: the root is no directory\n",
                sb.id(),
                ROOT_INO
            );
            return Err(EFSCORRUPTED);
        }
        if !sb.is_read_only() {
            volume.may_write(sb)?;
            volume.mark_mounted(sb)?;
            orphan::process(sb)?;
        }
        Ok(root)
    }

    fn reconfigure(sb: &SuperBlock<Self>, options: Options, read_only: bool) -> Result {
        let volume = sb.volume();
        if read_only && !sb.is_read_only() {
            // A build saves what it has built. No file is open for writing, so none begins.
            volume.builds.end_all(false);
            index::checkpoint::save_all(sb);
            volume.settle(sb)?;
        } else if !read_only && sb.is_read_only() {
            volume.may_write(sb)?;
            volume.mark_mounted(sb)?;
            orphan::process(sb)?;
        }
        volume.index_memory.set_limit(options.index_memory);
        *volume.options.lock() = options;
        Ok(())
    }

    fn before_shutdown(sb: &SuperBlock<Self>) {
        sb.volume().builds.end_all(true);
        index::checkpoint::save_all(sb);
    }

    fn put_super(sb: &SuperBlock<Self>) {
        sb.volume().close(sb);
    }

    fn sync_fs(sb: &SuperBlock<Self>, wait: bool) -> Result {
        if wait && !sb.is_read_only() {
            // The VFS has waited for the data by now, but had written the inodes before.
            for ino in sb.volume().take_unpushed().iter() {
                if let Some(inode) = sb.find_cached(*ino) {
                    inode.node().container.lock().registered = false;
                    container::push_durable(&inode, Unwritten::Wait)?;
                }
            }
        }
        match sb.volume().journal() {
            Ok(journal) => journal.sync(wait),
            Err(_) => Ok(()),
        }
    }

    fn freeze(sb: &SuperBlock<Self>) -> Result {
        if sb.is_read_only() {
            return Ok(());
        }
        sb.volume().settle(sb)
    }

    fn unfreeze(sb: &SuperBlock<Self>) -> Result {
        if sb.is_read_only() {
            return Ok(());
        }
        sb.volume().mark_mounted(sb)
    }

    fn statfs(sb: &SuperBlock<Self>) -> Result<Statfs> {
        let volume = sb.volume();
        let totals = volume.with_allocator(|a| alloc::totals(a.geo, a.groups));
        let half = |range: core::ops::Range<usize>| {
            volume
                .uuid
                .get(range)
                .and_then(|bytes| bytes.first_chunk::<8>())
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        Ok(Statfs {
            magic: MAGIC,
            block_size: format::BLOCK_SIZE as u32,
            blocks: totals.data_blocks,
            blocks_free: totals.free_blocks,
            blocks_available: volume.free_for_data(),
            files: volume.geo.inode_count(),
            files_free: totals.free_inodes,
            name_len: format::dirent::MAX_NAME as u32,
            id: half(0..8) ^ half(8..16),
        })
    }

    fn show_options(sb: &SuperBlock<Self>, print: &mut dyn FnMut(&CStr)) {
        let volume = sb.volume();
        let options = *volume.options.lock();
        if !options.barrier {
            print(c",nobarrier");
        }
        if options.commit_interval != 0 {
            if let Ok(text) = CString::try_from_fmt(fmt!(",commit={}", options.commit_interval)) {
                print(&text);
            }
        }
        if options.index_memory != u64::MAX {
            let bytes = options.index_memory;
            if let Ok(text) = CString::try_from_fmt(fmt!(",index_memory={bytes}")) {
                print(&text);
            }
        }
        if let Some(isa) = options.simd {
            if let Ok(text) = CString::try_from_fmt(fmt!(",simd={}", isa.name())) {
                print(&text);
            }
        }
    }

    fn reclaimable_pages(sb: &SuperBlock<Self>) -> u64 {
        sb.volume().index_memory.reclaimable()
    }

    fn reclaim(sb: &SuperBlock<Self>, pages: u64) -> u64 {
        sb.volume().index_memory.reclaim(pages)
    }

    fn node() -> impl PinInit<Node, Error> {
        Node::new()
    }

    fn dirty_inode(inode: &Inode<Self>) {
        // The VFS has no way to hear of an error; the journal remembers its own.
        let _ = node::store_alone(inode, Change::Times);
    }

    fn write_inode(inode: &Inode<Self>, wait: bool) -> Result {
        if vexfs_vfs::task::is_reclaiming() || inode.sb().is_read_only() {
            return Ok(());
        }
        container::push_durable(inode, Unwritten::Later)?;
        if wait {
            inode
                .volume()
                .journal()?
                .complete(inode.node().sync_tid(false))?;
        }
        Ok(())
    }

    fn before_evict(inode: &Inode<Self>) {
        if inode.nlink() != 0 && !inode.sb().is_read_only() {
            if let Err(e) = container::push_durable(inode, Unwritten::Never) {
                pr_err!(
                    "{}: inode {}: rows are lost (error {})\n",
                    inode.sb().id(),
                    inode.ino(),
                    e.to_errno()
                );
            }
        }
    }

    fn evict_inode(inode: &Inode<Self>, unlinked: bool) {
        if !unlinked || inode.sb().is_read_only() {
            return;
        }
        if let Err(e) = node::release(inode) {
            pr_err!(
                "{}: inode {}: can't be freed (error {})\n",
                inode.sb().id(),
                inode.ino(),
                e.to_errno()
            );
        }
    }
}
