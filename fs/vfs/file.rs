// SPDX-License-Identifier: GPL-2.0

//! Operations on open files and directories.
//!
//! C header: `linux/fs.h`, `struct file_operations`.

use crate::bindings;
use crate::inode::Inode;
use crate::{errno, iomap, FileSystem, Types};
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::prelude::*;

/// An open file, for the duration of a callback.
pub struct OpenFile<'a, T: FileSystem> {
    file: *mut bindings::file,
    _inode: PhantomData<&'a Inode<T>>,
}

impl<'a, T: FileSystem> OpenFile<'a, T> {
    /// # Safety
    ///
    /// `file` is an open file of `T` for `'a`.
    pub(crate) unsafe fn from_raw(file: *mut bindings::file) -> Self {
        OpenFile {
            file,
            _inode: PhantomData,
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.file
    }

    /// The inode.
    pub fn inode(&self) -> &'a Inode<T> {
        // SAFETY: The file is open for `'a` and keeps its inode.
        unsafe { Inode::from_raw((*self.file).f_inode) }
    }

    /// Whether it is open for reading.
    pub fn is_readable(&self) -> bool {
        // SAFETY: f_mode of an open file does not lose these bits.
        unsafe { (*self.file).f_mode & bindings::vexfs_fmode_read != 0 }
    }

    /// Whether it is open for writing.
    pub fn is_writable(&self) -> bool {
        // SAFETY: As above.
        unsafe { (*self.file).f_mode & bindings::vexfs_fmode_write != 0 }
    }

    /// Runs `f` while the mount is kept writable; `EROFS` if it is not.
    pub fn with_write_access<R>(&self, f: impl FnOnce() -> Result<R>) -> Result<R> {
        // SAFETY: The file is open.
        to_result(unsafe { bindings::mnt_want_write_file(self.file) })?;
        let result = f();
        // SAFETY: Pairs with the call above.
        unsafe { bindings::mnt_drop_write_file(self.file) };
        result
    }

    /// Drops setuid bits and updates times, as a write does. The inode's lock is held.
    pub fn modified(&self) -> Result {
        // SAFETY: The file is open, and the caller holds the inode's lock.
        to_result(unsafe { bindings::file_modified(self.file) })
    }
}

/// What readdir hands entries to.
pub struct DirEmitter<'a> {
    context: &'a mut bindings::dir_context,
}

impl DirEmitter<'_> {
    /// Where to go on: the cookie of the first entry wanted.
    pub fn position(&self) -> u64 {
        self.context.pos as u64
    }

    /// Sets where the next call goes on.
    pub fn set_position(&mut self, cookie: u64) {
        self.context.pos = cookie.min(i64::MAX as u64) as i64;
    }

    /// Hands over an entry; `false` when the caller's buffer is full. `d_type` is a `DT_` value.
    pub fn emit(&mut self, name: &[u8], ino: u64, d_type: u8) -> bool {
        // SAFETY: The context is the VFS's, and the name a live slice of at most 255 bytes.
        unsafe {
            bindings::vexfs_dir_emit(
                self.context,
                name.as_ptr().cast(),
                name.len() as c_int,
                ino,
                c_uint::from(d_type),
            )
        }
    }
}

/// Operations on open files.
pub trait Files: Types {
    /// Lists a directory from the emitter's position on. `.` and `..` are positions 0 and 1
    /// and are already emitted. The directory's lock is held shared.
    fn read_dir(dir: &Inode<Self>, out: &mut DirEmitter<'_>) -> Result
    where
        Self: FileSystem;
    /// Makes data and metadata durable. `data_only` may leave times behind.
    fn fsync(inode: &Inode<Self>, start: u64, end: u64, data_only: bool) -> Result
    where
        Self: FileSystem;
    /// An ioctl that the VFS does not handle.
    fn ioctl(file: &OpenFile<'_, Self>, command: u32, argument: usize) -> Result<isize>
    where
        Self: FileSystem;
    /// May the file be mapped shared and writable?
    fn may_map_writable(inode: &Inode<Self>) -> Result
    where
        Self: FileSystem;
    /// A write(2) that the filesystem handles itself, `None` for ordinary files. The
    /// inode's lock is held; `position` is checked and `len` is the bytes of `source`.
    fn write_special(
        file: &OpenFile<'_, Self>,
        position: u64,
        source: &mut Source<'_>,
    ) -> Option<Result<usize>>
    where
        Self: FileSystem;
    /// Before bytes are written at `position`, beyond the end: zero what lies between.
    fn before_extending(inode: &Inode<Self>, position: u64) -> Result
    where
        Self: FileSystem;
    /// Preallocates, see fallocate(2).
    fn fallocate(inode: &Inode<Self>, mode: u32, offset: u64, len: u64) -> Result
    where
        Self: FileSystem;
}

/// The bytes of a write(2).
pub struct Source<'a>(&'a mut bindings::iov_iter);

impl Source<'_> {
    /// Bytes left.
    pub fn len(&self) -> usize {
        // SAFETY: The iterator is valid for the callback.
        unsafe { bindings::vexfs_iov_iter_count(self.0) }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` bytes. `EFAULT` if they can't be read.
    pub fn read(&mut self, out: &mut [u8]) -> Result {
        // SAFETY: The iterator is valid for the callback and `out` is a live slice.
        let n =
            unsafe { bindings::vexfs_copy_from_iter(out.as_mut_ptr().cast(), out.len(), self.0) };
        if n == out.len() {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }
}

pub(crate) struct Ops<T>(PhantomData<T>);

impl<T: FileSystem> Ops<T> {
    pub(crate) const DIRECTORY: &'static bindings::file_operations = &bindings::file_operations {
        llseek: Some(bindings::generic_file_llseek),
        read: Some(bindings::generic_read_dir),
        iterate_shared: Some(iterate::<T>),
        fsync: Some(fsync::<T>),
        unlocked_ioctl: Some(ioctl::<T>),
        compat_ioctl: bindings::compat_ptr_ioctl,
        ..pin_init::zeroed()
    };

    pub(crate) const REGULAR: &'static bindings::file_operations = &bindings::file_operations {
        llseek: Some(llseek::<T>),
        read_iter: Some(read_iter::<T>),
        write_iter: Some(write_iter::<T>),
        unlocked_ioctl: Some(ioctl::<T>),
        compat_ioctl: bindings::compat_ptr_ioctl,
        uring_cmd: Some(uring_cmd::<T>),
        mmap_prepare: Some(mmap_prepare::<T>),
        open: Some(open),
        fsync: Some(fsync::<T>),
        fallocate: Some(fallocate::<T>),
        splice_read: Some(bindings::filemap_splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        setlease: Some(bindings::generic_setlease),
        fop_flags: bindings::vexfs_fop_flags,
        ..pin_init::zeroed()
    };
}

/// `file_operations.open` of regular files.
///
/// # Safety
///
/// The caller is opening `file`, so nobody else uses it yet.
unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The file is being opened by this call. Without a_ops->direct_IO the VFS wants
    // to be told that direct I/O works.
    unsafe { bindings::vexfs_file_set_modes(file) };
    0
}

/// `file_operations.iterate_shared`.
///
/// # Safety
///
/// `file` is an open directory of `T` whose lock is held shared, and `context` belongs to this
/// call.
unsafe extern "C" fn iterate<T: FileSystem>(
    file: *mut bindings::file,
    context: *mut bindings::dir_context,
) -> c_int {
    // SAFETY: The VFS holds the directory's lock shared and keeps file and context.
    unsafe {
        if (*context).pos < 2 && !bindings::vexfs_dir_emit_dots(file, context) {
            return 0;
        }
        let dir = Inode::<T>::from_raw((*file).f_inode);
        errno(T::read_dir(
            dir,
            &mut DirEmitter {
                context: &mut *context,
            },
        ))
    }
}

/// `file_operations.fsync`.
///
/// # Safety
///
/// `file` is an open file or directory of `T` and stays open for the call.
unsafe extern "C" fn fsync<T: FileSystem>(
    file: *mut bindings::file,
    start: bindings::loff_t,
    end: bindings::loff_t,
    data_only: c_int,
) -> c_int {
    // SAFETY: The file is open.
    let inode = unsafe { Inode::<T>::from_raw((*file).f_inode) };
    let result = T::fsync(inode, start as u64, end as u64, data_only != 0);
    // SAFETY: The file is open. Reports each writeback error once for each open file.
    let seen = to_result(unsafe { bindings::file_check_and_advance_wb_err(file) });
    errno(result.and(seen))
}

/// `file_operations.unlocked_ioctl`.
///
/// # Safety
///
/// `file` is an open file or directory of `T` and stays open for the call.
unsafe extern "C" fn ioctl<T: FileSystem>(
    file: *mut bindings::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: The file is open for the call.
    let file = unsafe { OpenFile::<T>::from_raw(file) };
    match T::ioctl(&file, command, argument) {
        Ok(value) => value as c_long,
        Err(e) => e.to_errno() as c_long,
    }
}

/// `file_operations.uring_cmd` of regular files: an ioctl whose command is `cmd_op`, and whose
/// argument is the first of the two words of the submission's own; the second is 0.
///
/// # Safety
///
/// `command` is a command on an open regular file of `T`, and stays for the call.
unsafe extern "C" fn uring_cmd<T: FileSystem>(
    command: *mut bindings::io_uring_cmd,
    issue_flags: c_uint,
) -> c_int {
    if issue_flags as c_int & bindings::vexfs_uring_nonblock != 0 {
        // Ioctls sleep. One of io_uring's own workers issues it again, from a copy of the submission
        // and with the submitter's memory and credentials.
        return EAGAIN.to_errno();
    }
    let (mut file, mut op, mut words) = (core::ptr::null_mut(), 0, [0u64; 2]);
    // SAFETY: The command is valid for the call, and the places are ours.
    let err =
        unsafe { bindings::vexfs_uring_cmd_read(command, &mut file, &mut op, words.as_mut_ptr()) };
    let [argument, reserved] = words;
    if err != 0 {
        return err;
    }
    if reserved != 0 {
        return EINVAL.to_errno();
    }
    let Ok(argument) = usize::try_from(argument) else {
        return EFAULT.to_errno();
    };
    // SAFETY: io_uring keeps the file open for as long as the command.
    let file = unsafe { OpenFile::<T>::from_raw(file) };
    match T::ioctl(&file, op, argument) {
        Ok(value) => value as c_int,
        Err(e) => e.to_errno(),
    }
}

/// `file_operations.llseek` of regular files.
///
/// # Safety
///
/// `file` is an open regular file of `T`, its position is locked, its inode is not.
unsafe extern "C" fn llseek<T: FileSystem>(
    file: *mut bindings::file,
    offset: bindings::loff_t,
    whence: c_int,
) -> bindings::loff_t {
    // SAFETY: The file is open; the iomap calls want the inode's lock shared.
    unsafe {
        let raw = (*file).f_inode;
        let found = match whence as u32 {
            bindings::vexfs_seek_hole => {
                let _lock = Inode::<T>::from_raw(raw).lock_shared();
                bindings::iomap_seek_hole(raw, offset, iomap::Ops::<T>::REPORT)
            }
            bindings::vexfs_seek_data => {
                let _lock = Inode::<T>::from_raw(raw).lock_shared();
                bindings::iomap_seek_data(raw, offset, iomap::Ops::<T>::REPORT)
            }
            _ => return bindings::generic_file_llseek(file, offset, whence),
        };
        if found < 0 {
            return found;
        }
        bindings::vexfs_vfs_setpos(file, found)
    }
}

/// `file_operations.read_iter`.
///
/// # Safety
///
/// `iocb` is for an open regular file of `T` whose inode is not locked by the caller; `to` is the
/// iterator that goes with it. Both outlive the call.
unsafe extern "C" fn read_iter<T: FileSystem>(
    iocb: *mut bindings::kiocb,
    to: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The VFS keeps iocb and iterator for the call.
    unsafe {
        if bindings::vexfs_iov_iter_count(to) == 0 {
            return 0;
        }
        if (*iocb).ki_flags & bindings::vexfs_iocb_direct as c_int == 0 {
            return bindings::generic_file_read_iter(iocb, to);
        }
        let raw = (*(*iocb).ki_filp).f_inode;
        if (*iocb).ki_flags & bindings::vexfs_iocb_nowait as c_int != 0 {
            if !bindings::vexfs_inode_trylock_shared(raw) {
                return EAGAIN.to_errno() as isize;
            }
        } else {
            bindings::vexfs_inode_lock_shared(raw);
        }
        bindings::vexfs_file_accessed((*iocb).ki_filp);
        let n = bindings::iomap_dio_rw(
            iocb,
            to,
            iomap::Ops::<T>::READ,
            core::ptr::null(),
            0,
            core::ptr::null_mut(),
            0,
        );
        bindings::vexfs_inode_unlock_shared(raw);
        n
    }
}

/// `file_operations.write_iter`.
///
/// # Safety
///
/// `iocb` is for a regular file of `T` that is open for writing and whose inode is not locked by
/// the caller; `from` is the iterator that goes with it. Both outlive the call.
unsafe extern "C" fn write_iter<T: FileSystem>(
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The VFS keeps iocb and iterator for the call.
    unsafe {
        let raw = (*(*iocb).ki_filp).f_inode;
        if (*iocb).ki_flags & bindings::vexfs_iocb_nowait as c_int != 0 {
            if !bindings::vexfs_inode_trylock(raw) {
                return EAGAIN.to_errno() as isize;
            }
        } else {
            bindings::vexfs_inode_lock(raw);
        }
        let n = write_locked::<T>(iocb, from);
        bindings::vexfs_inode_unlock(raw);
        if n > 0 {
            bindings::vexfs_generic_write_sync(iocb, n)
        } else {
            n
        }
    }
}

/// # Safety
///
/// Arguments of write_iter, with the inode's lock held.
unsafe fn write_locked<T: FileSystem>(
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: By the caller's promise.
    unsafe {
        let n = bindings::generic_write_checks(iocb, from);
        if n <= 0 {
            return n;
        }
        let file = OpenFile::<T>::from_raw((*iocb).ki_filp);
        let inode = file.inode();
        let position = (*iocb).ki_pos as u64;
        if let Some(result) = T::write_special(&file, position, &mut Source(&mut *from)) {
            return match result {
                Ok(written) => {
                    (*iocb).ki_pos += written as i64;
                    written as isize
                }
                Err(e) => e.to_errno() as isize,
            };
        }
        let err = bindings::vexfs_kiocb_modified(iocb);
        if err != 0 {
            return err as isize;
        }
        if position > inode.size() {
            if let Err(e) = T::before_extending(inode, position) {
                return e.to_errno() as isize;
            }
        }
        if (*iocb).ki_flags & bindings::vexfs_iocb_direct as c_int != 0 {
            return direct_write::<T>(iocb, from);
        }
        bindings::iomap_file_buffered_write(
            iocb,
            from,
            iomap::Ops::<T>::WRITE,
            iomap::Ops::<T>::write_ops(),
            core::ptr::null_mut(),
        )
    }
}

/// # Safety
///
/// As for [`write_locked`].
unsafe fn direct_write<T: FileSystem>(
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: By the caller's promise.
    unsafe {
        let raw = (*(*iocb).ki_filp).f_inode;
        let end = (*iocb).ki_pos as u64 + bindings::vexfs_iov_iter_count(from) as u64;
        // A write that grows the file must be over before the lock is released, because
        // the size is updated at completion.
        let flags = if end > Inode::<T>::from_raw(raw).size() {
            bindings::vexfs_dio_force_wait
        } else {
            0
        };
        let n = bindings::iomap_dio_rw(
            iocb,
            from,
            iomap::Ops::<T>::WRITE,
            iomap::Ops::<T>::DIRECT_WRITE,
            flags,
            core::ptr::null_mut(),
            0,
        );
        if n != ENOTBLK.to_errno() as isize {
            return n;
        }
        // The page cache could not be invalidated: write through it, then out.
        let start = (*iocb).ki_pos;
        let n = bindings::iomap_file_buffered_write(
            iocb,
            from,
            iomap::Ops::<T>::WRITE,
            iomap::Ops::<T>::write_ops(),
            core::ptr::null_mut(),
        );
        if n > 0 {
            let err = bindings::filemap_write_and_wait_range(
                (*raw).i_mapping,
                start,
                start + n as i64 - 1,
            );
            if err != 0 {
                return err as isize;
            }
        }
        n
    }
}

/// `file_operations.mmap_prepare`.
///
/// # Safety
///
/// `desc` describes a mapping under construction of an open regular file of `T`.
unsafe extern "C" fn mmap_prepare<T: FileSystem>(desc: *mut bindings::vm_area_desc) -> c_int {
    // SAFETY: The descriptor is ours to fill for the call, and its file is open.
    unsafe {
        let file = (*desc).file;
        if bindings::vexfs_desc_shared_may_write(desc) {
            if let Err(e) = T::may_map_writable(Inode::from_raw((*file).f_inode)) {
                if bindings::vexfs_desc_shared_writable(desc) {
                    return e.to_errno();
                }
                // Mapped for reading: mprotect must not make it writable later.
                bindings::vexfs_desc_forbid_write(desc);
            }
        }
        bindings::vexfs_file_accessed(file);
        (*desc).vm_ops = iomap::Ops::<T>::MAPPED;
    }
    0
}

/// `file_operations.fallocate`.
///
/// # Safety
///
/// `file` is a regular file of `T` that is open for writing; its inode is not locked by the
/// caller.
unsafe extern "C" fn fallocate<T: FileSystem>(
    file: *mut bindings::file,
    mode: c_int,
    offset: bindings::loff_t,
    len: bindings::loff_t,
) -> c_long {
    // SAFETY: The file is open for the call.
    let open = unsafe { OpenFile::<T>::from_raw(file) };
    let inode = open.inode();
    let lock = inode.lock();
    inode.wait_for_direct_io();
    let result = open
        .modified()
        .and_then(|()| T::fallocate(inode, mode as u32, offset as u64, len as u64));
    drop(lock);
    errno(result) as c_long
}
