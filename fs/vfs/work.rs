// SPDX-License-Identifier: GPL-2.0

//! Work that other threads do: a closure on several processors at once, and jobs of a volume in
//! the background.
//!
//! C headers: `linux/workqueue.h`, `linux/memcontrol.h`, `linux/sched/signal.h`.
//!
//! Both go through `kernel::workqueue`, which takes items that own all they use. What is here lets a
//! closure borrow ([`parallel`]), and an inode be held no longer than its volume is mounted ([`Jobs`]).
//! The kernel's own helper for the former, `padata_do_multithreaded()`, is for its boot only.
//!
//! Nobody waits for a worker that has not begun: closures and jobs are also run by who waits for
//! them. So nothing here needs the workqueue to make progress, and it has no rescuer.
//!
//! Workers have no user memory, no signals, and the credentials of the kernel: who asks reads and
//! writes user memory, and checks permissions. Memory is charged to who asked; the time of
//! processors is not, for which the kernel has no way. The queue is in sysfs (`WQ_SYSFS`), where an
//! administrator limits it to some processors.

use crate::bindings;
use crate::inode::{IRef, Inode};
use crate::FileSystem;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{new_mutex, Arc, Completion, Mutex};
use kernel::task::Task;
use kernel::workqueue::Queue;

/// The workqueue of this module, for as long as a filesystem may be mounted.
pub struct Workers(());

static QUEUE: AtomicPtr<kernel::bindings::workqueue_struct> = AtomicPtr::new(ptr::null_mut());

impl Workers {
    /// Makes the queue; once, before the filesystem is registered.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: The name is NUL-terminated and copied.
        let queue =
            unsafe { bindings::vexfs_alloc_workers(kernel::str::CStrExt::as_char_ptr(name)) };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        QUEUE.store(queue, Ordering::Release);
        Ok(Workers(()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let queue = QUEUE.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: Made in `new`; the filesystem is unregistered, so nothing queues any more. Waits for
        // items whose work somebody else has done, so that none runs when the module is gone.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// The queue; `None` without [`Workers`].
fn queue() -> Option<&'static Queue> {
    let queue = QUEUE.load(Ordering::Acquire);
    // SAFETY: It lives until no filesystem is registered, and callers work for one.
    (!queue.is_null()).then(|| unsafe { Queue::from_raw(queue) })
}

/// When work has to end early: a fatal signal for the task that asked for it, or somebody's wish.
/// Other threads that do the work may ask too.
pub struct Stop {
    task: Option<ARef<Task>>,
    cancelled: AtomicBool,
}

impl Stop {
    /// Of work for the current task.
    pub fn with_task() -> Self {
        Stop {
            task: Some(ARef::from(&**kernel::current!())),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Of work that no task waits for.
    pub fn without_task() -> Self {
        Stop {
            task: None,
            cancelled: AtomicBool::new(false),
        }
    }

    /// Asks the work to end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the work may go on.
    ///
    /// # Errors
    ///
    /// `EINTR` for a fatal signal, `ECANCELED`.
    pub fn check(&self) -> Result {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ECANCELED);
        }
        let killed = self.task.as_ref().is_some_and(|task| {
            // SAFETY: The task is counted; its signals may be looked at from anywhere.
            unsafe { bindings::vexfs_task_is_killed(task.as_ptr()) }
        });
        if killed {
            return Err(EINTR);
        }
        Ok(())
    }
}

/// The memory cgroup of a task, for others that allocate for it.
///
/// # Invariants
///
/// The pointer is null or a counted memory cgroup.
struct MemCgroup(*mut c_void);

// SAFETY: A count of a cgroup belongs to no task.
unsafe impl Send for MemCgroup {}
// SAFETY: As above; entering it changes the current task only.
unsafe impl Sync for MemCgroup {}

impl MemCgroup {
    /// That of the current task, or that which it works for.
    fn current() -> Self {
        // INVARIANT: The call takes a count.
        // SAFETY: Looks at the current task.
        MemCgroup(unsafe { bindings::vexfs_memcg_get() })
    }

    /// Runs `f`, and charges what it allocates and which page cache it fills to the cgroup.
    fn charge<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: Counted by the invariant for longer than the scope, which ends below in the same
        // task.
        let before = unsafe { bindings::vexfs_memcg_enter(self.0) };
        let result = f();
        // SAFETY: `before` is what the matching call returned.
        unsafe { bindings::vexfs_memcg_enter(before) };
        result
    }
}

impl Drop for MemCgroup {
    fn drop(&mut self) {
        // SAFETY: Gives back the count of the invariant.
        unsafe { bindings::vexfs_memcg_put(self.0) }
    }
}

/// How many threads [`parallel`] uses when `wanted` are asked for: no more than there are processors,
/// nor than the current task may run on; at least one.
pub fn threads(wanted: u32) -> u32 {
    // SAFETY: Reads masks of processors.
    wanted.clamp(1, unsafe { bindings::vexfs_usable_cpus() }.max(1))
}

/// Runs `f` in the current thread, and at the same time in up to `threads - 1` workers. Returns when
/// all are done.
///
/// Each call of `f` takes what there is to do until nothing is left: workers may come late or
/// not at all, and one that has not begun when the current thread's call returns does not begin. May
/// sleep. Not within a transaction, whose handle workers do not share; and `f` takes no lock
/// that the caller holds, shared ones included.
pub fn parallel<F: Fn() + Sync>(threads: u32, f: F) {
    let threads = self::threads(threads);
    let group = match threads {
        1 => None,
        // Without memory for others the current thread does it all.
        _ => Group::new(&f).ok(),
    };
    if let (Some(group), Some(queue)) = (&group, queue()) {
        for _ in 1..threads {
            let helper = group.clone();
            let _ = queue.try_spawn(GFP_KERNEL, move || helper.help());
        }
    }
    f();
    if let Some(group) = group {
        group.close();
    }
}

/// In [`Group::state`]: no more helpers begin.
const CLOSED: u32 = 1 << 31;

/// A closure in the stack of [`parallel`], and those who run it.
///
/// # Invariants
///
/// `call` may be called with `data` until [`Group::close`] returns. The low bits of `state` are the
/// number of helpers that may be doing so; it does not grow once `CLOSED` is set.
#[pin_data]
struct Group {
    state: AtomicU32,
    data: *const (),
    call: unsafe fn(*const ()),
    charge: MemCgroup,
    /// No helper runs, and none begins.
    #[pin]
    left: Completion,
}

// SAFETY: `data` is a shared reference to a closure that is `Sync`.
unsafe impl Send for Group {}
// SAFETY: As above.
unsafe impl Sync for Group {}

/// # Safety
///
/// `data` is a `&F`.
unsafe fn call<F: Fn()>(data: *const ()) {
    // SAFETY: By the caller's promise.
    unsafe { (*data.cast::<F>())() }
}

impl Group {
    /// A group for `f`. The caller keeps `f` until it has called [`Group::close`].
    fn new<F: Fn() + Sync>(f: &F) -> Result<Arc<Self>> {
        // INVARIANT: `call::<F>` is for a `&F`. There are no helpers.
        Arc::pin_init(
            try_pin_init!(Group {
                state: AtomicU32::new(0),
                data: (&raw const *f).cast(),
                call: call::<F>,
                charge: MemCgroup::current(),
                left <- Completion::new(),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Runs the closure, unless the group is closed.
    fn help(&self) {
        let begun = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & CLOSED == 0).then(|| state.wrapping_add(1))
            });
        if begun.is_err() {
            return;
        }
        // SAFETY: This helper is counted and began before the group was closed, so `close` has not
        // returned by the invariant.
        self.charge.charge(|| unsafe { (self.call)(self.data) });
        // The last thing to do with the closure. The group itself is counted.
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.left.complete_all();
        }
    }

    /// Lets no more helpers begin and waits for those that have.
    fn close(&self) {
        if self.state.fetch_or(CLOSED, Ordering::AcqRel) != 0 {
            self.left.wait_for_completion();
        }
    }
}

/// Work on an inode that nobody waits for.
pub trait Job: Send + Unpin + 'static {
    /// The filesystem.
    type Of: FileSystem;

    /// Does the work, or as much as its [`Stop`] lets it; called once, also if that says no at once.
    /// The inode may have lost its name, and no task may have it open.
    fn run(self, inode: &Inode<Self::Of>);
}

/// The jobs of a volume.
pub struct Jobs<J: Job>(Arc<List<J>>);

#[pin_data]
struct List<J: Job> {
    #[pin]
    running: Mutex<Running<J>>,
}

struct Running<J: Job> {
    closed: bool,
    jobs: KVec<Arc<Started<J>>>,
}

/// A job that was started.
#[pin_data]
pub struct Started<J: Job> {
    /// What is to be done, until somebody does it.
    #[pin]
    todo: Mutex<Option<Todo<J>>>,
    stop: Arc<Stop>,
    /// The job has run, and its reference to the inode is gone.
    #[pin]
    ended: Completion,
}

struct Todo<J: Job> {
    job: J,
    inode: IRef<J::Of>,
    charge: MemCgroup,
}

impl<J: Job> Jobs<J> {
    /// No jobs.
    pub fn new() -> Result<Self> {
        let running = Running {
            closed: false,
            jobs: KVec::new(),
        };
        let list = Arc::pin_init(
            pin_init!(List { running <- new_mutex!(running, "vexfs_jobs") }),
            GFP_KERNEL,
        )?;
        Ok(Jobs(list))
    }

    /// Starts `job` on `inode` in a worker and returns; `stop` is what the job looks at. Memory is
    /// charged to the current task.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ESHUTDOWN` after [`Jobs::end_all`].
    pub fn start(&self, inode: &Inode<J::Of>, stop: Arc<Stop>, job: J) -> Result<Arc<Started<J>>> {
        let todo = Todo {
            job,
            inode: inode.hold(),
            charge: MemCgroup::current(),
        };
        let started = Arc::pin_init(
            try_pin_init!(Started {
                todo <- new_mutex!(Some(todo), "vexfs_job"),
                stop,
                ended <- Completion::new(),
            }? Error),
            GFP_KERNEL,
        )?;
        let mut running = self.0.running.lock();
        if running.closed {
            return Err(ESHUTDOWN);
        }
        running.jobs.push(started.clone(), GFP_KERNEL)?;
        drop(running);
        let (list, job) = (self.0.clone(), started.clone());
        let queued = queue().ok_or(ENOMEM).and_then(|queue| {
            Ok(queue.try_spawn(GFP_KERNEL, move || {
                job.run();
                list.forget(&job);
            })?)
        });
        if let Err(e) = queued {
            self.0.forget(&started);
            return Err(e);
        }
        Ok(started)
    }

    /// Cancels all jobs and waits until none of them has an inode any more. With `for_good` no more
    /// are started.
    pub fn end_all(&self, for_good: bool) {
        let mut running = self.0.running.lock();
        running.closed |= for_good;
        let jobs = core::mem::replace(&mut running.jobs, KVec::new());
        drop(running);
        for job in &jobs {
            job.stop.cancel();
        }
        for job in &jobs {
            job.end();
        }
    }
}

impl<J: Job> List<J> {
    fn forget(&self, job: &Arc<Started<J>>) {
        self.running
            .lock()
            .jobs
            .retain(|other| !Arc::ptr_eq(other, job));
    }
}

impl<J: Job> Started<J> {
    /// Cancels the job and waits for its end. The caller holds no lock that the job takes.
    pub fn end(&self) {
        self.stop.cancel();
        self.run();
        self.ended.wait_for_completion();
    }

    /// Runs the job, unless somebody else does or did.
    fn run(&self) {
        let Some(todo) = self.todo.lock().take() else {
            return;
        };
        let Todo { job, inode, charge } = todo;
        charge.charge(|| {
            job.run(&inode);
            drop(inode);
        });
        self.ended.complete_all();
    }
}
