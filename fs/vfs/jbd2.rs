// SPDX-License-Identifier: GPL-2.0

//! The journal.
//!
//! Rules this file enforces or its callers keep (they stand in ARCHITECTURE.md as
//! invariants): a handle is opened and closed within one callback, never held across a
//! folio lock, a copy from or to user memory, or a wait for writeback; a block is joined to
//! the handle before it changes; a freed metadata block is revoked before its bit is cleared.
//!
//! C header: `linux/jbd2.h`.

use crate::bindings;
use crate::buffer::Buffer;
use crate::inode::Inode;
use crate::super_block::SuperBlock;
use crate::FileSystem;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::sync::{new_condvar, new_mutex, CondVar, Mutex};

/// What the journal calls back.
pub trait Callbacks: Send + Sync + 'static {
    /// Computes a block's checksum; called when the block's content for a commit is final,
    /// with a spinlock held. `block` is its number, `bytes` the whole block.
    fn seal(&self, block: u64, bytes: &mut [u8]);
    /// A transaction is on the medium. Called by the journal's thread; may sleep.
    fn committed(&self, tid: u32);
}

/// A transaction number. They wrap.
pub type Tid = u32;

/// Whether transaction `a` is `b` or one before it.
pub fn is_not_after(a: Tid, b: Tid) -> bool {
    (b.wrapping_sub(a) as i32) >= 0
}

#[pin_data]
#[repr(C)]
struct Shared<C> {
    // First, so that a pointer to it is a pointer to `Shared`.
    trigger: bindings::jbd2_buffer_trigger_type,
    start: u64,
    callbacks: C,
    /// The last transaction of which `callbacks` were told that it is committed, and have returned.
    #[pin]
    told: Mutex<Tid>,
    #[pin]
    telling: CondVar,
}

/// A journal on a range of the filesystem's own device.
///
/// # Invariants
///
/// `journal` is null or a loaded journal whose `j_private` points to `shared`, which stays in
/// place until the journal is destroyed.
pub struct Journal<C: Callbacks> {
    // Null after `close`.
    journal: AtomicPtr<bindings::journal_t>,
    shared: Pin<KBox<Shared<C>>>,
}

// SAFETY: jbd2 does its own locking; `Callbacks` is Send and Sync.
unsafe impl<C: Callbacks> Send for Journal<C> {}
// SAFETY: As above.
unsafe impl<C: Callbacks> Sync for Journal<C> {}

/// How a journal is set up.
pub struct Config {
    /// First block of the log.
    pub start: u64,
    /// Blocks of the log.
    pub blocks: u32,
    /// Send cache flushes with commits.
    pub barrier: bool,
    /// Seconds between commits, 0 for jbd2's default.
    pub commit_interval: u32,
}

impl<C: Callbacks> Journal<C> {
    /// Loads the journal and replays what a crash left in it.
    ///
    /// Everything read from metadata blocks before must be read again afterwards.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EUCLEAN`, `EFSBADCRC` for a log that is none; `EROFS` or `EIO` when the
    /// replay cannot write.
    pub fn load<T: FileSystem>(sb: &SuperBlock<T>, config: &Config, callbacks: C) -> Result<Self> {
        let len = c_int::try_from(config.blocks)?;
        let shared = KBox::pin_init(
            pin_init!(Shared {
                trigger: bindings::jbd2_buffer_trigger_type {
                    t_frozen: Some(frozen::<C>),
                    t_abort: None,
                },
                start: config.start,
                callbacks,
                told <- new_mutex!(0, "vexfs_journal_told"),
                telling <- new_condvar!("vexfs_journal_telling"),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The superblock is alive and has its device open during mount.
        let journal = from_err_ptr(unsafe {
            let bdev = (*sb.as_ptr()).s_bdev;
            bindings::jbd2_journal_init_dev(
                bdev,
                bdev,
                config.start,
                len,
                (*sb.as_ptr()).s_blocksize as c_int,
            )
        })?;
        let journal = NonNull::new(journal).ok_or(EINVAL)?;
        // INVARIANT: Without j_bmap jbd2 would take log blocks for device blocks, so it is
        // set before anything is read or written through the journal.
        // SAFETY: The journal is ours alone until it is loaded.
        unsafe {
            (*journal.as_ptr()).j_private = (&raw const *shared).cast_mut().cast();
            (*journal.as_ptr()).j_bmap = Some(bmap::<C>);
            (*journal.as_ptr()).j_commit_callback = Some(committed::<C>);
            bindings::vexfs_journal_set_barrier(journal.as_ptr(), config.barrier);
            if config.commit_interval != 0 {
                bindings::vexfs_journal_set_commit_interval(
                    journal.as_ptr(),
                    config.commit_interval,
                );
            }
        }
        let journal = Journal {
            journal: AtomicPtr::new(journal.as_ptr()),
            shared,
        };
        // SAFETY: Initialised above and not loaded yet. On failure `drop` destroys it.
        to_result(unsafe { bindings::jbd2_journal_load(journal.as_ptr()) })?;
        // 64-bit block numbers cost nothing on a small volume, so there is one layout only.
        // SAFETY: Loaded; features may be set before the first handle.
        let set = unsafe {
            bindings::jbd2_journal_set_features(
                journal.as_ptr(),
                0,
                0,
                (bindings::JBD2_FEATURE_INCOMPAT_64BIT
                    | bindings::JBD2_FEATURE_INCOMPAT_CSUM_V3
                    | bindings::JBD2_FEATURE_INCOMPAT_REVOKE) as c_ulong,
            )
        };
        if set == 0 {
            return Err(EINVAL);
        }
        // What was replayed is committed, and nobody is told.
        *journal.shared.told.lock() = journal.commit_sequence();
        Ok(journal)
    }

    /// Whether transaction `tid` is on the medium.
    pub fn is_committed(&self, tid: Tid) -> bool {
        is_not_after(tid, self.commit_sequence())
    }

    /// The last transaction that is committed.
    fn commit_sequence(&self) -> Tid {
        // SAFETY: Loaded by the type invariant.
        unsafe { bindings::vexfs_journal_commit_sequence(self.as_ptr()) }
    }

    fn as_ptr(&self) -> *mut bindings::journal_t {
        self.journal.load(Ordering::Acquire)
    }

    /// The filesystem's callbacks.
    pub fn callbacks(&self) -> &C {
        &self.shared.callbacks
    }

    /// Opens a handle that may join `credits` blocks and revoke `revokes`.
    ///
    /// Nested in another handle of this journal it shares that one's credits. May sleep
    /// for log space. Errors: `EROFS` when the journal is aborted, `ENOSPC` when no
    /// transaction can be that large, `ENOMEM`.
    pub fn start(&self, credits: u32, revokes: u32) -> Result<Handle<'_>> {
        if self.as_ptr().is_null() {
            return Err(EROFS);
        }
        // SAFETY: The journal is loaded by the type invariant.
        let handle = from_err_ptr(unsafe {
            bindings::jbd2__journal_start(
                self.as_ptr(),
                c_int::try_from(credits)?,
                0,
                c_int::try_from(revokes)?,
                bindings::vexfs_gfp_nofs,
                0,
                0,
            )
        })?;
        Ok(Handle {
            handle: NonNull::new(handle).ok_or(EROFS)?,
            trigger: (&raw const self.shared.trigger).cast_mut(),
            _journal: PhantomData,
        })
    }

    /// The largest number of blocks one handle may join.
    pub fn max_credits(&self) -> u32 {
        // SAFETY: Loaded by the type invariant; the field is constant after load.
        let max = unsafe { (*self.as_ptr()).j_max_transaction_buffers };
        // Half of it, so that two handles always fit one transaction.
        (max as u32 / 2).max(64)
    }

    /// Commits what is running and waits for it.
    pub fn force_commit(&self) -> Result {
        // SAFETY: Loaded by the type invariant; no handle is open in callers (they are
        // fsync, sync and unmount).
        to_result(unsafe { bindings::jbd2_journal_force_commit(self.as_ptr()) })
    }

    /// As [`Journal::force_commit`], and waits until [`Callbacks::committed`] has returned for what is committed then.
    ///
    /// jbd2 says that a transaction is committed before it calls back, and knows of no transaction to wait for from
    /// then on. Not with a lock that the callback takes.
    pub fn force_commit_and_callback(&self) -> Result {
        self.force_commit()?;
        // The callback comes for each number that jbd2 has published, also when the journal is aborted by then.
        let committed = self.commit_sequence();
        let mut told = self.shared.told.lock();
        while !is_not_after(committed, *told) {
            self.shared.telling.wait(&mut told);
        }
        Ok(())
    }

    /// Starts the commit of the running transaction, and waits for it if `wait`.
    pub fn sync(&self, wait: bool) -> Result {
        let mut tid: bindings::tid_t = 0;
        // SAFETY: Loaded by the type invariant; `tid` is a local.
        if unsafe { bindings::jbd2_journal_start_commit(self.as_ptr(), &mut tid) } != 0 && wait {
            // SAFETY: As above.
            to_result(unsafe { bindings::jbd2_log_wait_commit(self.as_ptr(), tid) })?;
        }
        Ok(())
    }

    /// Waits until transaction `tid` is on the medium. Says whether its commit sends a cache
    /// flush after the caller's data was written; if not, the caller must send one.
    pub fn complete(&self, tid: Tid) -> Result<bool> {
        // The question must be asked before waiting: afterwards the answer is always no.
        // SAFETY: Loaded by the type invariant.
        let flushes = unsafe {
            bindings::vexfs_journal_barrier(self.as_ptr())
                && bindings::jbd2_trans_will_send_data_barrier(self.as_ptr(), tid) != 0
        };
        // SAFETY: As above.
        to_result(unsafe { bindings::jbd2_complete_transaction(self.as_ptr(), tid) })?;
        Ok(flushes)
    }

    /// Writes everything to its place and empties the log, with no handle open anywhere.
    pub fn flush(&self) -> Result {
        // SAFETY: Loaded by the type invariant.
        unsafe {
            bindings::jbd2_journal_lock_updates(self.as_ptr());
            let err = bindings::jbd2_journal_flush(self.as_ptr(), 0);
            bindings::jbd2_journal_unlock_updates(self.as_ptr());
            to_result(err)
        }
    }

    /// Stops the journal for good: every later handle is `EROFS`.
    pub fn abort(&self, e: Error) {
        // SAFETY: Loaded by the type invariant.
        unsafe { bindings::jbd2_journal_abort(self.as_ptr(), e.to_errno()) }
    }

    /// Whether the journal gave up.
    pub fn is_aborted(&self) -> bool {
        // SAFETY: Loaded by the type invariant.
        unsafe { bindings::vexfs_journal_aborted(self.as_ptr()) }
    }

    /// Commits, checkpoints and closes the journal; an error means it was aborted. Called
    /// at unmount, when nobody uses the journal any more; a second call does nothing.
    pub fn close(&self) -> Result {
        let journal = self.journal.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if journal.is_null() {
            return Ok(());
        }
        // SAFETY: Taken out above, so destroyed once; handles borrow the journal, and the
        // caller says that none is left.
        to_result(unsafe { bindings::jbd2_journal_destroy(journal) })
    }
}

impl<C: Callbacks> Drop for Journal<C> {
    fn drop(&mut self) {
        // The error was or will be seen by whoever looks at the superblock's state.
        let _ = self.close();
    }
}

/// An open transaction of the current task.
///
/// # Invariants
///
/// `handle` is the current task's open handle; it is stopped when this value goes.
pub struct Handle<'j> {
    handle: NonNull<bindings::handle_t>,
    trigger: *mut bindings::jbd2_buffer_trigger_type,
    // Raw pointers keep it from leaving the task.
    _journal: PhantomData<(&'j (), *mut ())>,
}

impl Handle<'_> {
    fn as_ptr(&self) -> *mut bindings::handle_t {
        self.handle.as_ptr()
    }

    /// The transaction's number.
    pub fn tid(&self) -> Tid {
        // SAFETY: Open by the type invariant.
        unsafe { bindings::vexfs_handle_tid(self.as_ptr()) }
    }

    /// How many more blocks the handle may join; one that is in the transaction already
    /// costs nothing.
    pub fn credits_left(&self) -> u32 {
        // SAFETY: Open by the type invariant.
        unsafe { bindings::vexfs_handle_credits(self.as_ptr()) }
    }

    /// Joins a self-describing block and hands out its bytes; the journal seals the block
    /// when its content is final.
    pub fn modify<'b>(&self, buffer: &'b mut Buffer) -> Result<&'b mut [u8]> {
        // SAFETY: The handle is open and the buffer counted, by their invariants. The
        // trigger outlives the journal.
        unsafe {
            to_result(bindings::jbd2_journal_get_write_access(
                self.as_ptr(),
                buffer.as_ptr(),
            ))?;
            bindings::jbd2_journal_set_triggers(buffer.as_ptr(), self.trigger);
            // Dirtied before the change: the transaction cannot commit while this handle is
            // open, so the order within the handle is of no consequence.
            to_result(bindings::jbd2_journal_dirty_metadata(
                self.as_ptr(),
                buffer.as_ptr(),
            ))?;
        }
        Ok(buffer.bytes_mut())
    }

    /// Joins a block that several owners share and writes `bytes` at `offset`.
    pub fn write_at(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result {
        // SAFETY: The handle is open and the buffer counted, by their invariants.
        to_result(unsafe {
            bindings::jbd2_journal_get_write_access(self.as_ptr(), buffer.as_ptr())
        })?;
        buffer.write_at(offset, bytes)?;
        // SAFETY: As above, and write access was taken.
        to_result(unsafe { bindings::jbd2_journal_dirty_metadata(self.as_ptr(), buffer.as_ptr()) })
    }

    /// Joins a block that was just allocated, filled with zeros. `sealed` blocks get their
    /// checksum from the journal.
    pub fn create<T: FileSystem>(
        &self,
        sb: &SuperBlock<T>,
        block: u64,
        sealed: bool,
    ) -> Result<Buffer> {
        let mut buffer = sb.block_without_reading(block)?;
        // SAFETY: The buffer is counted; create access wants it locked.
        let result = unsafe {
            bindings::vexfs_bh_lock(buffer.as_ptr());
            let err = bindings::jbd2_journal_get_create_access(self.as_ptr(), buffer.as_ptr());
            if err == 0 {
                buffer.bytes_mut().fill(0);
                bindings::vexfs_bh_set_uptodate(buffer.as_ptr());
            }
            bindings::vexfs_bh_unlock(buffer.as_ptr());
            to_result(err)
        };
        result?;
        // SAFETY: As above; write access of a created block is implied.
        unsafe {
            if sealed {
                bindings::jbd2_journal_set_triggers(buffer.as_ptr(), self.trigger);
            }
            to_result(bindings::jbd2_journal_dirty_metadata(
                self.as_ptr(),
                buffer.as_ptr(),
            ))?;
        }
        buffer.set_verified();
        Ok(buffer)
    }

    /// Forgets a freed metadata block, so that a replay does not bring it back over what
    /// the space is used for next. Uses a revoke credit.
    pub fn revoke(&self, buffer: Buffer) -> Result {
        buffer.clear_verified();
        let block = buffer.block();
        // SAFETY: The handle is open; the revoke consumes the buffer's count.
        to_result(unsafe { bindings::jbd2_journal_revoke(self.as_ptr(), block, buffer.into_raw()) })
    }

    /// Closes the handle. Dropping it does the same but loses the error.
    pub fn stop(self) -> Result {
        let handle = self.as_ptr();
        core::mem::forget(self);
        // SAFETY: Open by the type invariant, and forgotten, so it is stopped once.
        to_result(unsafe { bindings::jbd2_journal_stop(handle) })
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // An error here means that the journal is aborted; the next start says so.
        // SAFETY: Open by the type invariant.
        unsafe { bindings::jbd2_journal_stop(self.as_ptr()) };
    }
}

/// Sends the device a cache flush and waits for it.
pub fn flush_device<T: FileSystem>(inode: &Inode<T>) -> Result {
    // SAFETY: The inode's superblock and its device are alive while the inode is.
    to_result(unsafe { bindings::blkdev_issue_flush((*(*inode.as_ptr()).i_sb).s_bdev) })
}

/// `jbd2_buffer_trigger_type.t_frozen`.
///
/// # Safety
///
/// `trigger` is the first field of a live `Shared<C>`; `data` is the content of block `bh`,
/// `size` bytes that only the caller uses.
unsafe extern "C" fn frozen<C: Callbacks>(
    trigger: *mut bindings::jbd2_buffer_trigger_type,
    bh: *mut bindings::buffer_head,
    data: *mut c_void,
    size: usize,
) {
    // SAFETY: The trigger is the first field of a `Shared<C>` that outlives the journal;
    // jbd2 passes the block's final content, `size` bytes at `data`, which nobody else
    // changes while it holds the buffer's state lock.
    unsafe {
        let shared = &*trigger.cast::<Shared<C>>();
        let bytes = core::slice::from_raw_parts_mut(data.cast::<u8>(), size);
        shared.callbacks.seal((*bh).b_blocknr, bytes);
    }
}

/// `journal_s.j_bmap`.
///
/// # Safety
///
/// `journal` is one that [`Journal::load`] set up, and `block` the caller's to read and write.
unsafe extern "C" fn bmap<C: Callbacks>(
    journal: *mut bindings::journal_t,
    block: *mut bindings::sector_t,
) -> c_int {
    // SAFETY: j_private was set to the `Shared<C>` in `load`; `block` is jbd2's local.
    unsafe {
        let shared = (*journal).j_private.cast::<Shared<C>>();
        match (*block).checked_add((*shared).start) {
            Some(physical) => {
                *block = physical;
                0
            }
            None => EUCLEAN.to_errno(),
        }
    }
}

/// `journal_s.j_commit_callback`.
///
/// # Safety
///
/// `journal` is one that [`Journal::load`] set up, and `transaction` is alive.
unsafe extern "C" fn committed<C: Callbacks>(
    journal: *mut bindings::journal_t,
    transaction: *mut bindings::transaction_t,
) {
    // SAFETY: j_private was set to the `Shared<C>` in `load`; the transaction is alive
    // during its commit callback.
    unsafe {
        let shared = (*journal).j_private.cast::<Shared<C>>();
        let tid = (*transaction).t_tid;
        (*shared).callbacks.committed(tid);
        *(*shared).told.lock() = tid;
        (*shared).telling.notify_all();
    }
}
