// SPDX-License-Identifier: GPL-2.0

//! The superblock and its operations.
//!
//! C header: `linux/fs/super_types.h`.

use crate::bindings;
use crate::buffer::Buffer;
use crate::inode::{IRef, Inode};
use crate::inode_cache;
use crate::{errno, FileSystem, Types};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Range;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::ForeignOwnable;

/// What statfs(2) tells.
pub struct Statfs {
    /// Magic number of the filesystem.
    pub magic: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Data blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks that files may take.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name, in bytes.
    pub name_len: u32,
    /// Volume identifier.
    pub id: u64,
}

/// Limits and identity that the VFS wants to know.
pub struct Limits {
    /// Magic number of the filesystem.
    pub magic: u64,
    /// Largest file, in bytes.
    pub max_bytes: i64,
    /// Most links of an inode.
    pub max_links: u32,
    /// Earliest and latest time, in seconds.
    pub time_range: (i64, i64),
    /// The volume's UUID.
    pub uuid: [u8; 16],
}

/// Mounting, unmounting and the superblock operations.
pub trait Super: Types {
    /// Takes one mount option; `Ok(false)` if it is none of ours, an error if its value is bad.
    fn parse_option(options: &mut Self::Options, key: &[u8], value: Option<&[u8]>) -> Result<bool>;
    /// Reads the volume: superblock, journal replay, allocation groups.
    fn mount(
        sb: &SuperBlock<Self>,
        options: Self::Options,
    ) -> Result<(Pin<KBox<Self::Volume>>, Limits)>
    where
        Self: FileSystem;
    /// The root directory; then whatever has to be finished before the mount appears.
    fn root(sb: &SuperBlock<Self>) -> Result<IRef<Self>>
    where
        Self: FileSystem;
    /// Remount. The dirty data has been written.
    fn reconfigure(sb: &SuperBlock<Self>, options: Self::Options, read_only: bool) -> Result
    where
        Self: FileSystem;
    /// Nobody uses the volume any more: no file is open, and no system call begins. References to
    /// inodes that the filesystem itself holds, such as those of [`Jobs`](crate::work::Jobs), are
    /// given back here, before inodes are evicted.
    fn before_shutdown(_sb: &SuperBlock<Self>)
    where
        Self: FileSystem,
    {
    }
    /// Last call on a mounted volume, all inodes are gone.
    fn put_super(sb: &SuperBlock<Self>)
    where
        Self: FileSystem;
    /// Commits what is in memory; waits for the medium if `wait`.
    fn sync_fs(sb: &SuperBlock<Self>, wait: bool) -> Result
    where
        Self: FileSystem;
    /// Makes the volume consistent on the medium, with writers stopped.
    fn freeze(sb: &SuperBlock<Self>) -> Result
    where
        Self: FileSystem;
    /// Undoes `freeze`.
    fn unfreeze(sb: &SuperBlock<Self>) -> Result
    where
        Self: FileSystem;
    /// statfs(2).
    fn statfs(sb: &SuperBlock<Self>) -> Result<Statfs>
    where
        Self: FileSystem;
    /// Prints the options as they would be given to mount.
    fn show_options(sb: &SuperBlock<Self>, print: &mut dyn FnMut(&CStr))
    where
        Self: FileSystem;

    /// Pages of memory that [`Super::reclaim`] could free, about. Asked at any time while the volume is mounted, by
    /// tasks that hold any locks: it waits for none.
    fn reclaimable_pages(_sb: &SuperBlock<Self>) -> u64
    where
        Self: FileSystem,
    {
        0
    }
    /// Frees memory that can be read again, about `pages` pages, and returns how many it freed. Called by memory
    /// reclaim, in tasks that hold any locks but those of a transaction, and try to allocate: it waits for no
    /// lock, allocates nothing and starts no transaction.
    fn reclaim(_sb: &SuperBlock<Self>, _pages: u64) -> u64
    where
        Self: FileSystem,
    {
        0
    }

    /// A node for an inode that is about to be read or made.
    fn node() -> impl PinInit<Self::Node, Error>;
    /// The VFS changed the inode's fields (times, mode): record them.
    fn dirty_inode(inode: &Inode<Self>)
    where
        Self: FileSystem;
    /// Makes the inode durable if `wait`.
    fn write_inode(inode: &Inode<Self>, wait: bool) -> Result
    where
        Self: FileSystem;
    /// The last reference is gone, and with it the page cache. An inode without links gives
    /// its space back here.
    fn evict_inode(inode: &Inode<Self>, unlinked: bool)
    where
        Self: FileSystem;
    /// The inode leaves memory with dirty pages still to be dropped: release what hangs on
    /// its page cache.
    fn before_evict(_inode: &Inode<Self>)
    where
        Self: FileSystem,
    {
    }
}

/// A superblock of filesystem `T`.
#[repr(transparent)]
pub struct SuperBlock<T: FileSystem>(UnsafeCell<bindings::super_block>, PhantomData<T>);

impl<T: FileSystem> SuperBlock<T> {
    /// # Safety
    ///
    /// `sb` is a live superblock of `T` for as long as the reference is used.
    pub(crate) unsafe fn from_raw<'a>(sb: *mut bindings::super_block) -> &'a Self {
        // SAFETY: repr(transparent), and alive by the caller's promise.
        unsafe { &*sb.cast() }
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::super_block {
        self.0.get()
    }

    /// The volume. Only after `Super::mount`.
    pub fn volume(&self) -> &T::Volume {
        // SAFETY: s_fs_info is set between `mount` and `kill_sb`, before any inode exists and
        // until all are gone, and points to the box made from `mount`'s result.
        unsafe { &*(*self.as_ptr()).s_fs_info.cast::<T::Volume>() }
    }

    /// Whether the superblock is mounted read-only now.
    pub fn is_read_only(&self) -> bool {
        // SAFETY: Alive by the type's use.
        unsafe { bindings::vexfs_sb_rdonly(self.as_ptr()) }
    }

    /// Whether the device refuses writes.
    pub fn is_device_read_only(&self) -> bool {
        // SAFETY: The device is open while the superblock lives.
        unsafe { bindings::vexfs_bdev_read_only(self.as_ptr()) }
    }

    /// Makes the superblock read-only, after an error.
    pub fn set_read_only(&self) {
        // SAFETY: A flag that the VFS also sets without a lock (`-o errors=remount-ro` of
        // other filesystems does the same).
        unsafe { (*self.as_ptr()).s_flags |= bindings::vexfs_sb_rdonly_flag as c_ulong };
    }

    /// The device's name.
    pub fn id(&self) -> &CStr {
        // SAFETY: s_id is a NUL-terminated array that is not changed after setup.
        unsafe { kernel::str::CStr::from_char_ptr((*self.as_ptr()).s_id.as_ptr()) }
    }

    /// Bytes of the device.
    pub fn device_bytes(&self) -> u64 {
        // SAFETY: The device is open while the superblock lives.
        unsafe { bindings::vexfs_bdev_bytes(self.as_ptr()) }
    }

    /// The smallest unit of direct I/O, in bytes.
    pub fn logical_block_size(&self) -> u32 {
        // SAFETY: The device is open while the superblock lives.
        unsafe { bindings::vexfs_logical_block_size(self.as_ptr()) }
    }

    /// Sets the size of a block. `EINVAL` if the device or the kernel cannot.
    pub fn set_block_size(&self, bytes: u32) -> Result {
        // SAFETY: Called during mount, when the superblock is ours alone.
        match unsafe { bindings::sb_set_blocksize(self.as_ptr(), bytes as c_int) } {
            0 => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// A block, read if it is not cached. `EIO` if it can't be read.
    pub fn read_block(&self, block: u64) -> Result<Buffer> {
        // SAFETY: The superblock is alive; the result is null or counted and uptodate.
        unsafe { Buffer::from_raw(bindings::vexfs_sb_bread(self.as_ptr(), block)) }
    }

    /// Starts reading a block without waiting.
    pub fn read_ahead(&self, block: u64) {
        // SAFETY: The superblock is alive.
        unsafe { bindings::vexfs_sb_readahead(self.as_ptr(), block) }
    }

    pub(crate) fn block_without_reading(&self, block: u64) -> Result<Buffer> {
        // SAFETY: The superblock is alive; the result is null or counted. Only the journal
        // uses it, to fill a new block before anybody reads it.
        unsafe { Buffer::from_raw(bindings::vexfs_sb_getblk(self.as_ptr(), block)) }
    }

    /// Runs `f`, which changes the volume on the kernel's own behalf, while it is not frozen.
    pub fn with_internal_write<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: The superblock is alive; pairs with the call below.
        unsafe { bindings::vexfs_sb_start_intwrite(self.as_ptr()) };
        let result = f();
        // SAFETY: Pairs with the call above.
        unsafe { bindings::vexfs_sb_end_intwrite(self.as_ptr()) };
        result
    }

    /// Drops cached copies of blocks that become file data.
    pub fn forget_cached(&self, block: u64, blocks: u64) {
        // SAFETY: The device is open while the superblock lives.
        unsafe { bindings::vexfs_clean_bdev_aliases(self.as_ptr(), block, blocks) }
    }

    /// Reads from block `block` on into `range` of `to`, whole blocks, past the cache.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not in `to` or that is past the end of the device; `EIO`.
    pub fn read_past_cache(&self, block: u64, to: &mut KVec<u8>, range: Range<usize>) -> Result {
        let to = to.get_mut(range).ok_or(EINVAL)?;
        self.check_range(block, to.len())?;
        // SAFETY: The device is open while the superblock lives. A `KVec` is of a slab or of pages of the
        // linear map, as bios want it, and `to` is ours while this waits.
        to_result(unsafe {
            bindings::vexfs_bdev_rw(
                self.as_ptr(),
                block,
                to.as_mut_ptr().cast(),
                to.len(),
                false,
            )
        })
    }

    /// Writes `range` of `from`, whole blocks, to block `block` and the following, past the cache. A
    /// journal commit that begins later flushes them to the medium.
    ///
    /// # Errors
    ///
    /// As [`SuperBlock::read_past_cache`].
    pub fn write_past_cache(&self, block: u64, from: &KVec<u8>, range: Range<usize>) -> Result {
        let from = from.get(range).ok_or(EINVAL)?;
        self.check_range(block, from.len())?;
        let data = from.as_ptr().cast_mut().cast();
        // SAFETY: As for reading; a write only reads the memory, which nobody changes while `from` is
        // borrowed.
        to_result(unsafe { bindings::vexfs_bdev_rw(self.as_ptr(), block, data, from.len(), true) })
    }

    fn check_range(&self, block: u64, bytes: usize) -> Result {
        // SAFETY: Alive by the type's use; set at mount.
        let block_bytes = unsafe { (*self.as_ptr()).s_blocksize } as u64;
        let start = block.checked_mul(block_bytes).ok_or(EINVAL)?;
        let end = start.checked_add(bytes as u64).ok_or(EINVAL)?;
        let whole = (bytes as u64).checked_rem(block_bytes) == Some(0);
        if bytes == 0 || !whole || end > self.device_bytes() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Writes the device's cached blocks and waits.
    pub fn sync_device(&self) -> Result {
        // SAFETY: The device is open while the superblock lives.
        to_result(unsafe { bindings::sync_blockdev((*self.as_ptr()).s_bdev) })
    }
}

struct Ops<T>(PhantomData<T>);

impl<T: FileSystem> Ops<T> {
    const SUPER: &'static bindings::super_operations = &bindings::super_operations {
        alloc_inode: Some(inode_cache::alloc::<T>),
        destroy_inode: Some(inode_cache::destroy::<T>),
        free_inode: Some(inode_cache::free::<T>),
        dirty_inode: Some(dirty_inode::<T>),
        write_inode: Some(write_inode::<T>),
        evict_inode: Some(evict_inode::<T>),
        put_super: Some(put_super::<T>),
        sync_fs: Some(sync_fs::<T>),
        freeze_fs: Some(freeze_fs::<T>),
        unfreeze_fs: Some(unfreeze_fs::<T>),
        statfs: Some(statfs::<T>),
        show_options: Some(show_options::<T>),
        nr_cached_objects: Some(nr_cached_objects::<T>),
        free_cached_objects: Some(free_cached_objects::<T>),
        ..pin_init::zeroed()
    };
}

pub(crate) fn fill<T: FileSystem>(sb: &SuperBlock<T>, options: T::Options) -> Result {
    let raw = sb.as_ptr();
    let (volume, limits) = T::mount(sb, options)?;
    // SAFETY: The superblock is ours alone until this function returns.
    unsafe {
        (*raw).s_fs_info = volume.into_foreign().cast();
        (*raw).s_magic = limits.magic as c_ulong;
        (*raw).s_maxbytes = limits.max_bytes;
        (*raw).s_max_links = limits.max_links;
        (*raw).s_time_gran = 1;
        (*raw).s_time_min = limits.time_range.0;
        (*raw).s_time_max = limits.time_range.1;
        (*raw).s_op = Ops::<T>::SUPER;
        (*raw).s_xattr = core::ptr::null();
        bindings::vexfs_super_set_uuid(raw, limits.uuid.as_ptr(), 16);
    }
    let root = T::root(sb).and_then(|root| {
        // SAFETY: d_make_root takes over the reference, also when it fails.
        let dentry = unsafe { bindings::d_make_root(root.into_raw()) };
        if dentry.is_null() {
            Err(ENOMEM)
        } else {
            Ok(dentry)
        }
    });
    match root {
        Ok(dentry) => {
            // SAFETY: As above.
            unsafe { (*raw).s_root = dentry };
            Ok(())
        }
        Err(e) => {
            // Without s_root the VFS does not call put_super.
            // Inodes read so far are gone: a superblock that is not active keeps none.
            T::put_super(sb);
            Err(e)
        }
    }
}

/// # Safety
///
/// `volume` is null or the `s_fs_info` of a superblock that was shut down.
pub(crate) unsafe fn drop_volume<T: FileSystem>(volume: *mut c_void) {
    if !volume.is_null() {
        // SAFETY: Made by `into_foreign` in `fill`, and dropped once.
        drop(unsafe { Pin::<KBox<T::Volume>>::from_foreign(volume.cast()) });
    }
}

/// `super_operations.dirty_inode`.
///
/// # Safety
///
/// `inode` is a live inode of `T`.
unsafe extern "C" fn dirty_inode<T: FileSystem>(inode: *mut bindings::inode, flags: c_int) {
    // Only lazy times changed: they wait for a real change, sync or eviction.
    if flags & bindings::vexfs_dirty_time as c_int != 0 {
        return;
    }
    // SAFETY: The VFS holds a reference for the duration of the callback.
    T::dirty_inode(unsafe { Inode::from_raw(inode) });
}

/// `super_operations.write_inode`.
///
/// # Safety
///
/// `inode` is a live inode of `T`, and `wbc` outlives the call.
unsafe extern "C" fn write_inode<T: FileSystem>(
    inode: *mut bindings::inode,
    wbc: *mut bindings::writeback_control,
) -> c_int {
    // SAFETY: The VFS holds a reference for the duration of the callback, and wbc is valid.
    let (inode, wait) = unsafe {
        (
            Inode::<T>::from_raw(inode),
            bindings::vexfs_wbc_for_fsync(wbc),
        )
    };
    errno(T::write_inode(inode, wait))
}

/// `super_operations.evict_inode`.
///
/// # Safety
///
/// `raw` is an inode of `T` with its last reference gone, which nobody else can reach; called
/// once.
unsafe extern "C" fn evict_inode<T: FileSystem>(raw: *mut bindings::inode) {
    // SAFETY: The VFS passes an inode without references that nobody else can reach.
    unsafe {
        let inode = Inode::<T>::from_raw(raw);
        T::before_evict(inode);
        bindings::truncate_inode_pages_final(&mut (*raw).i_data);
        T::evict_inode(inode, inode.nlink() == 0);
        bindings::clear_inode(raw);
    }
}

/// `super_operations.put_super`.
///
/// # Safety
///
/// `sb` is a superblock of `T` that [`fill`] filled, with all its inodes gone; called once.
unsafe extern "C" fn put_super<T: FileSystem>(sb: *mut bindings::super_block) {
    // SAFETY: The VFS passes a live superblock, in this and the callbacks below.
    T::put_super(unsafe { SuperBlock::from_raw(sb) });
}

/// `super_operations.sync_fs`.
///
/// # Safety
///
/// `sb` is a mounted superblock of `T`.
unsafe extern "C" fn sync_fs<T: FileSystem>(sb: *mut bindings::super_block, wait: c_int) -> c_int {
    // SAFETY: As in `put_super`.
    errno(T::sync_fs(unsafe { SuperBlock::from_raw(sb) }, wait != 0))
}

/// `super_operations.freeze_fs`.
///
/// # Safety
///
/// `sb` is a mounted superblock of `T` with its writers stopped.
unsafe extern "C" fn freeze_fs<T: FileSystem>(sb: *mut bindings::super_block) -> c_int {
    // SAFETY: As in `put_super`.
    errno(T::freeze(unsafe { SuperBlock::from_raw(sb) }))
}

/// `super_operations.unfreeze_fs`.
///
/// # Safety
///
/// [`freeze_fs`] succeeded on `sb`.
unsafe extern "C" fn unfreeze_fs<T: FileSystem>(sb: *mut bindings::super_block) -> c_int {
    // SAFETY: As in `put_super`.
    errno(T::unfreeze(unsafe { SuperBlock::from_raw(sb) }))
}

/// `super_operations.statfs`.
///
/// # Safety
///
/// `dentry` is a live dentry of `T`, and `buf` the caller's to fill.
unsafe extern "C" fn statfs<T: FileSystem>(
    dentry: *mut bindings::dentry,
    buf: *mut kernel::bindings::kstatfs,
) -> c_int {
    // SAFETY: The VFS passes a live dentry and a buffer to fill.
    let (sb, buf) = unsafe {
        (
            SuperBlock::<T>::from_raw((*dentry).d_sb),
            &mut *buf.cast::<bindings::kstatfs>(),
        )
    };
    errno(T::statfs(sb).map(|s| {
        buf.f_type = s.magic as c_long;
        buf.f_bsize = s.block_size as c_long;
        buf.f_frsize = s.block_size as c_long;
        buf.f_blocks = s.blocks;
        buf.f_bfree = s.blocks_free;
        buf.f_bavail = s.blocks_available;
        buf.f_files = s.files;
        buf.f_ffree = s.files_free;
        buf.f_namelen = s.name_len as c_long;
        buf.f_fsid.val = [s.id as c_int, (s.id >> 32) as c_int];
    }))
}

/// `super_operations.show_options`.
///
/// # Safety
///
/// `dentry` is a live dentry of `T`, and `seq` is open.
unsafe extern "C" fn show_options<T: FileSystem>(
    seq: *mut bindings::seq_file,
    dentry: *mut bindings::dentry,
) -> c_int {
    // SAFETY: The VFS passes a live dentry and an open seq_file.
    let sb = unsafe { SuperBlock::<T>::from_raw((*dentry).d_sb) };
    T::show_options(sb, &mut |text| {
        // SAFETY: The text is NUL-terminated and lives for the call.
        unsafe { bindings::vexfs_seq_puts(seq, kernel::str::CStrExt::as_char_ptr(text)) }
    });
    0
}

/// `super_operations.nr_cached_objects`.
///
/// # Safety
///
/// `sb` is a mounted superblock of `T`, and `control` outlives the call.
unsafe extern "C" fn nr_cached_objects<T: FileSystem>(
    sb: *mut bindings::super_block,
    control: *mut bindings::shrink_control,
) -> c_long {
    // SAFETY: By the caller's promise. What is freed belongs to no cgroup more than to another, so only reclaim for
    // all is counted.
    if !unsafe { bindings::vexfs_shrink_is_global(control) } {
        return 0;
    }
    // SAFETY: The VFS asks after the mount has succeeded, and unregisters the shrinker before it shuts the superblock
    // down.
    let pages = T::reclaimable_pages(unsafe { SuperBlock::from_raw(sb) });
    c_long::try_from(pages).unwrap_or(c_long::MAX)
}

/// `super_operations.free_cached_objects`.
///
/// # Safety
///
/// As [`nr_cached_objects`].
unsafe extern "C" fn free_cached_objects<T: FileSystem>(
    sb: *mut bindings::super_block,
    control: *mut bindings::shrink_control,
) -> c_long {
    // SAFETY: By the caller's promise.
    let pages = unsafe { (*control).nr_to_scan } as u64;
    // SAFETY: As in `nr_cached_objects`; besides, the VFS holds `s_umount` shared.
    let freed = T::reclaim(unsafe { SuperBlock::from_raw(sb) }, pages);
    c_long::try_from(freed).unwrap_or(c_long::MAX)
}
