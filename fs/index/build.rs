// SPDX-License-Identifier: GPL-2.0

//! Building indexes, in the background too, and dropping them.

use super::catch_up::GoOn;
use super::claim::Claim;
use super::graph::Graph;
use super::hashes::Hashes;
use super::lists::Lists;
use super::{checkpoint, is_live, Index, Kind, Parameters, Slot, Structure};
use crate::container;
use crate::VexFs;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use libvexfs::format::index::IndexRecord;
use vexfs_vfs::work::{Job, Started, Stop};
use vexfs_vfs::{task, Inode};

/// What a build is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) parameters: Parameters,
    /// Builds anew where there is one, which serves searches meanwhile.
    pub(crate) replace: bool,
    /// Returns at once and builds then.
    pub(crate) background: bool,
    /// Processors to use.
    pub(crate) threads: u32,
    /// Nobody has asked for it: it gives way to a build that somebody asks for.
    pub(crate) by_itself: bool,
}

/// Builds an index over the rows of a container, which searches then use. Not with the inode locked:
/// searches and batches go on meanwhile.
///
/// # Errors
///
/// `EEXIST` if there is one that is not to be replaced, `EBUSY` if somebody else has one built, `EINVAL`
/// for bad parameters, `EOPNOTSUPP` if rows are too long, `ENODATA` if there are none to train on,
/// `ECANCELED` if it was dropped meanwhile; `EINTR`, `ENOMEM`, and what reading says. Then all is as before.
pub(crate) fn build(inode: &Inode<VexFs>, request: &Request) -> Result {
    check(inode, request)?;
    checkpoint::load(inode, request.kind.number())?;
    let mut build = begin(inode, request)?;
    if let Some(lost) = build.lost.take() {
        lost.end();
    }
    if request.background {
        return start(inode, build);
    }
    build.run_here(inode)
}

/// Tells bad parameters before anything is read. Not inlined, as the steps that follow: each wants the stack.
#[inline(never)]
fn check(inode: &Inode<VexFs>, request: &Request) -> Result {
    let (kind, parameters) = (request.kind, &request.parameters);
    let area = container::with(inode, |c| Ok(c.area))?;
    match kind {
        Kind::Hnsw => Graph::check(parameters, &area),
        Kind::Ivf | Kind::Pq => Lists::check(kind, parameters, &area),
        Kind::Lsh => Hashes::check(parameters, &area),
    }
}

/// Claims the place of an index that is to be built, and records that it is.
#[inline(never)]
fn begin(inode: &Inode<VexFs>, request: &Request) -> Result<KBox<Build>> {
    let Request {
        kind, by_itself, ..
    } = *request;
    let stop = if request.background {
        Stop::without_task()
    } else {
        Stop::with_task()
    };
    let may = |slot: &Slot| match slot.is_ready() || slot.stored().is_some() {
        true if !request.replace => Err(EEXIST),
        _ => Ok(()),
    };
    wait_for_save(inode, kind, &stop)?;
    let (claim, lost) = Claim::take(inode, kind, stop, by_itself, may)?;
    claim.with_slot(inode, |slot| slot.begun(by_itself));
    let before = checkpoint::define(inode, &claim, kind, &request.parameters)
        .inspect_err(|_| claim.give_up(inode, |_| {}))?;
    let build = Build {
        request: *request,
        claim: claim.clone(),
        before,
        lost,
    };
    let build = KBox::new(build, GFP_KERNEL);
    Ok(build.inspect_err(|_| {
        checkpoint::undefine(inode, &claim, kind, before);
        claim.give_up(inode, |_| {});
    })?)
}

/// Has `build` run in the background.
#[inline(never)]
fn start(inode: &Inode<VexFs>, build: KBox<Build>) -> Result {
    let (
        Request {
            kind, by_itself, ..
        },
        before,
    ) = (build.request, build.before);
    let claim = build.claim.clone();
    let builds = &inode.volume().builds;
    match builds.start(inode, claim.stop.clone(), KBox::into_inner(build)) {
        Ok(job) => {
            // It may be over.
            claim.with_slot(inode, |slot| slot.job = Some(job));
            Ok(())
        }
        Err(e) => {
            checkpoint::undefine(inode, &claim, kind, before);
            claim.give_up(inode, |slot| {
                if by_itself {
                    slot.ended(Err(e));
                }
            });
            Err(e)
        }
    }
}

/// Has an index built in the background that nobody has asked for now. It says in the log what it fails by. Where that is
/// a lack of memory, a search that comes by after a pause has it tried again. Who else builds it meanwhile has done
/// what is wanted.
pub(super) fn by_itself(inode: &Inode<VexFs>, kind: Kind, parameters: Parameters) {
    let request = Request {
        kind,
        parameters,
        replace: true,
        background: true,
        threads: 0,
        by_itself: true,
    };
    let _ = begin(inode, &request).and_then(|build| start(inode, build));
}

/// Has indexes that were made for much fewer rows than there are now built anew in the background. A batch does so at
/// its end, with the inode locked. Not inlined: what comes before wants the stack.
#[inline(never)]
pub(super) fn outgrown(inode: &Inode<VexFs>) {
    for kind in Kind::ALL {
        let ready = {
            let mut container = inode.node().container.lock();
            let slot = container.indexes.slot(kind);
            slot.ready().filter(|_| slot.may_build())
        };
        if let Some(parameters) = ready.and_then(|index| index.structure.outgrown()) {
            by_itself(inode, kind, parameters);
        }
    }
}

/// Waits while the last build saves its index, which is up for searches: nobody would expect to be refused
/// for its sake.
fn wait_for_save(inode: &Inode<VexFs>, kind: Kind, stop: &Stop) -> Result {
    while container::with(inode, |c| Ok(c.indexes.slot(kind).saving))? {
        stop.check()?;
        task::cond_resched();
        // Who saves holds it, or is about to.
        core::mem::drop(inode.node().images.lock_killable()?);
    }
    Ok(())
}

/// A build that goes on in the background.
pub(super) type Going = Arc<Started<Build>>;

/// A build that has its slot.
pub(crate) struct Build {
    request: Request,
    claim: Claim,
    /// What was recorded of the index before.
    before: Option<IndexRecord>,
    /// What gave way to it.
    lost: Option<Going>,
}

impl Job for Build {
    type Of = VexFs;

    fn run(self, inode: &Inode<VexFs>) {
        let go_on = || {
            // Nobody can search in a file that is gone, and its space waits for the build.
            if inode.is_abandoned() {
                return Err(ECANCELED);
            }
            self.claim.stop.check()
        };
        let built = self.run_now(inode, &go_on);
        // Cancelled, it starts again after the next mount; a drop has seen to the record itself.
        if built.is_err_and(|e| e != ECANCELED) {
            self.undefine(inode);
        }
        self.claim.give_up(inode, |slot| slot.ended(built));
    }
}

impl Build {
    /// Takes back what was recorded at its start.
    fn undefine(&self, inode: &Inode<VexFs>) {
        checkpoint::undefine(inode, &self.claim, self.request.kind, self.before);
    }

    /// Runs it in the current task, which waits for it.
    #[inline(never)]
    fn run_here(&self, inode: &Inode<VexFs>) -> Result {
        let built = self.run_now(inode, &|| self.claim.stop.check());
        if built.is_err() {
            self.undefine(inode);
        }
        self.claim.give_up(inode, |_| {});
        built
    }

    /// Makes the index, puts it up for searches and saves it.
    fn run_now(&self, inode: &Inode<VexFs>, go_on: GoOn<'_>) -> Result {
        let Request { kind, threads, .. } = self.request;
        go_on()?;
        let (index, rows) = self.empty(inode, go_on)?;
        self.claim.list(inode, &index, rows)?;
        self.claim
            .put_up(inode, &index, rows, threads, go_on)
            .inspect_err(|e| self.log(inode, *e))?;
        self.save(inode, kind);
        Ok(())
    }

    /// An index with room for the rows, and how many these are. Not inlined: taking rows in wants the stack.
    #[inline(never)]
    fn empty(&self, inode: &Inode<VexFs>, go_on: GoOn<'_>) -> Result<(Arc<Index>, u64)> {
        let area = &container::with(inode, |c| Ok(c.area))?;
        let Request {
            kind, parameters, ..
        } = self.request;
        let takes = |row| is_live(inode, row);
        let structure: Arc<dyn Structure> = match kind {
            Kind::Hnsw => Graph::new(inode, area, &parameters, takes, go_on)
                .inspect_err(|e| self.log(inode, *e))?,
            Kind::Ivf | Kind::Pq => Lists::new(inode, area, kind, &parameters)?,
            Kind::Lsh => Hashes::new(inode, area, &parameters)?,
        };
        let index = Index::new(kind, structure)?;
        reserve(inode, &index, area.live, area.rows)?;
        Ok((index, area.rows))
    }

    /// Saves the index that was built.
    #[inline(never)]
    fn save(&self, inode: &Inode<VexFs>, kind: Kind) {
        // What an unmount cancels is saved all the same: it is built. A drop takes the claim away.
        let wanted = || {
            let cancelled = self.claim.stop.check();
            match self.claim.with_slot(inode, |_| ()) {
                None => Err(ECANCELED),
                Some(()) => cancelled.or_else(|e| if e == ECANCELED { Ok(()) } else { Err(e) }),
            }
        };
        checkpoint::save_or_warn(inode, kind, &wanted);
    }

    /// Says what nobody else is told.
    fn log(&self, inode: &Inode<VexFs>, e: Error) {
        if self.request.background && e != ECANCELED {
            pr_warn!(
                "{}: inode {}: the {} index could not be built (error {})\n",
                inode.sb().id(),
                inode.ino(),
                self.request.kind.name(),
                e.to_errno()
            );
        }
    }
}

/// Makes room for all rows at once, so that what does not fit is known before it takes time.
fn reserve(inode: &Inode<VexFs>, index: &Index, live: u64, rows: u64) -> Result {
    let live = u32::try_from(live).map_err(|_| EFBIG)?;
    let structure = &index.structure;
    let (account, more) = (structure.account(), structure.bytes_with(live, rows)?);
    let needs = account.held().saturating_add(more);
    let reserved = account
        .open(more)
        .and_then(|()| structure.reserve(live, rows));
    reserved.inspect_err(|_| {
        let (id, ino, name) = (inode.sb().id(), inode.ino(), index.kind.name());
        let left = inode.volume().index_memory.left();
        if needs > left {
            pr_warn!("{id}: inode {ino}: the {name} index over {live} rows needs {needs} bytes, index_memory= leaves {left}\n");
        } else {
            pr_warn!("{id}: inode {ino}: there is no memory for the {name} index over {live} rows, which needs {needs} bytes\n");
        }
    })
}

/// Drops the index of a kind, and ends the build of one, which it waits for if that is in the background.
/// The caller holds no lock.
///
/// # Errors
///
/// `ENOENT` if there is none, and those of [`checkpoint::forget`].
pub(crate) fn drop(inode: &Inode<VexFs>, kind: Kind) -> Result {
    // Loads what the disk says.
    container::with(inode, |_| Ok(()))?;
    let dropped = drop_from_memory(inode, kind, true);
    if let Some(job) = dropped.job {
        job.end();
    }
    match dropped.record {
        Some(record) => checkpoint::forget(inode, kind, &record),
        None if dropped.any => Ok(()),
        None => Err(ENOENT),
    }
}

/// What [`drop_from_memory`] has found.
pub(super) struct Dropped {
    /// There was an index in memory, or a build.
    any: bool,
    /// What is on disk.
    record: Option<IndexRecord>,
    /// The build, if it goes on in the background.
    job: Option<Going>,
}

/// Has searches not use the index of a kind any more, and tells a build to end. `forever` if its record is
/// about to go too.
pub(super) fn drop_from_memory(inode: &Inode<VexFs>, kind: Kind, forever: bool) -> Dropped {
    let mut container = inode.node().container.lock();
    let slot = container.indexes.slot(kind);
    let record = slot.record;
    let dropped = core::mem::replace(
        slot,
        Slot {
            record,
            unusable: record.is_some(),
            // No search has it built again before its record is gone too.
            error: record.filter(|_| forever).map(|_| ECANCELED),
            ..Slot::default()
        },
    );
    core::mem::drop(container);
    let ready = dropped.ready();
    let any = ready.is_some() || dropped.claim.is_some();
    if let Some(stop) = dropped.claim {
        stop.cancel();
    }
    for index in [ready.as_deref(), dropped.building.as_deref()]
        .into_iter()
        .flatten()
    {
        index.cancelled.store(true, Ordering::Relaxed);
    }
    Dropped {
        any,
        record,
        job: dropped.job,
    }
}
