// SPDX-License-Identifier: GPL-2.0

//! The ioctl interface: decodes `uapi/vexfs.h`, checks every bound, calls the rest.

use crate::container::{self, Reading};
use crate::element;
use crate::index::{self, Kind, Parameters};
use crate::rows::{self, BatchError, Vectors};
use crate::search;
use crate::VexFs;
use kernel::prelude::*;
use kernel::uaccess::UserSlice;
use libvexfs::format::{vector_area, VectorArea};
use vexfs_uapi as uapi;
use vexfs_vfs::file::OpenFile;
use vexfs_vfs::{task, work, Inode};
use zerocopy::{FromBytes as FromUser, Immutable, IntoBytes as ToUser, KnownLayout};

/// The largest structure of a future caller that is looked at.
const MAX_SIZE: usize = 4096;

/// Handles a command; `ENOTTY` if it is none of ours.
pub(crate) fn dispatch(file: &OpenFile<'_, VexFs>, command: u32, argument: usize) -> Result<isize> {
    // By magic and number, so that a structure can grow.
    if uapi::command_magic(command) != uapi::VEXFS_IOCTL_MAGIC {
        return Err(ENOTTY);
    }
    match uapi::command_nr(command) {
        uapi::nr::CREATE_VECTOR => create(file, argument),
        uapi::nr::BATCH_OPERATIONS => batch(file, argument),
        uapi::nr::SIMILARITY_SEARCH => search::ioctl(file, argument),
        uapi::nr::BUILD_INDEX => build_index(file, argument),
        uapi::nr::GET_VECTOR_STATS => stats(file, argument),
        uapi::nr::GET_INDEX_STATS => index_stats(file, argument),
        uapi::nr::CHECK_INDEX => check_index(file, argument),
        _ => Err(ENOTTY),
    }?;
    Ok(0)
}

/// Reads a structure that begins with its size. Returns it with that size.
pub(crate) fn read<T>(argument: usize, first_size: usize) -> Result<(T, usize)>
where
    T: FromUser + ToUser + Immutable + KnownLayout,
{
    let mut size = [0u8; 4];
    UserSlice::new(UserPtr::from_addr(argument), 4)
        .reader()
        .read_slice(&mut size)?;
    let size = u32::from_ne_bytes(size) as usize;
    if size < first_size {
        return Err(EINVAL);
    }
    if size > MAX_SIZE {
        return Err(E2BIG);
    }
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    let known = size.min(bytes.len());
    let mut reader = UserSlice::new(UserPtr::from_addr(argument), size).reader();
    reader.read_slice(bytes.get_mut(..known).ok_or(EINVAL)?)?;
    let mut rest = size.saturating_sub(known);
    while rest > 0 {
        let mut piece = [0u8; 64];
        let n = rest.min(piece.len());
        let piece = piece.get_mut(..n).ok_or(EINVAL)?;
        reader.read_slice(piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Err(E2BIG);
        }
        rest = rest.saturating_sub(n);
    }
    Ok((value, size))
}

/// Writes as much of a structure as the caller has room for.
pub(crate) fn write<T: ToUser + Immutable>(argument: usize, value: &T, size: usize) -> Result {
    let bytes = value.as_bytes();
    let bytes = bytes.get(..size.min(bytes.len())).ok_or(EINVAL)?;
    UserSlice::new(UserPtr::from_addr(argument), bytes.len())
        .writer()
        .write_slice(bytes)
}

/// Reads `count` 64-bit numbers.
pub(crate) fn read_u64s(address: u64, count: u64) -> Result<KVVec<u64>> {
    let count = usize::try_from(count)?;
    let mut values = KVVec::from_elem(0u64, count, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
    UserSlice::new(user_address(address)?, count.checked_mul(8).ok_or(E2BIG)?)
        .reader()
        .read_slice(values.as_mut_bytes())?;
    Ok(values)
}

pub(crate) fn write_u64s(address: u64, values: &[u64]) -> Result {
    UserSlice::new(user_address(address)?, size_of_val(values))
        .writer()
        .write_slice(values.as_bytes())
}

pub(crate) fn user_address(address: u64) -> Result<UserPtr> {
    Ok(UserPtr::from_addr(
        usize::try_from(address).map_err(|_| EFAULT)?,
    ))
}

fn create(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut c, size) =
        read::<uapi::vexfs_create_vector>(argument, uapi::first_size::CREATE_VECTOR)?;
    let inode = file.inode();
    if !inode.is_regular() {
        return Err(EOPNOTSUPP);
    }
    if !file.is_writable() {
        return Err(EBADF);
    }
    let element = u8::try_from(c.element_type)?;
    let metric = u8::try_from(c.metric)?;
    let align_ok = c.alignment == 0
        || (c.alignment.is_power_of_two() && (4..=vector_area::MAX_ALIGN).contains(&c.alignment));
    if c.flags != 0
        || c.reserved != 0
        || c.dim == 0
        || c.dim > uapi::VEXFS_MAX_DIM
        || !vector_area::is_metric(metric, element)
        || !align_ok
    {
        return Err(EINVAL);
    }
    let align = c.alignment.max(4);
    let stride = vector_area::stride(c.dim, element, align).ok_or(EINVAL)?;
    if c.reserve_rows
        .checked_mul(u64::from(stride))
        .is_none_or(|b| b > i64::MAX as u64)
    {
        return Err(EINVAL);
    }
    // The structure goes back before anything changes: a bad address changes nothing.
    c.stride = stride;
    write(argument, &c, size)?;
    file.with_write_access(|| {
        let lock = inode.lock();
        let area = VectorArea {
            dim: c.dim,
            element,
            metric,
            stride,
            align,
            model_tag: c.model_tag,
            ..VectorArea::default()
        };
        let bytes = c.reserve_rows.saturating_mul(u64::from(stride));
        container::create(inode, area, bytes)?;
        drop(lock);
        Ok(())
    })
}

const NO_ROW: u64 = uapi::VEXFS_ROW_NONE;

fn batch(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut b, size) = read::<uapi::vexfs_batch>(argument, uapi::first_size::BATCH)?;
    match run_batch(file, &mut b) {
        Ok(()) => {
            b.error_row = NO_ROW;
            write(argument, &b, size)
        }
        Err(e) => {
            if let Some(row) = e.row {
                b.done = 0;
                b.error_row = row;
                write(argument, &b, size)?;
            }
            Err(e.error)
        }
    }
}

fn run_batch(
    file: &OpenFile<'_, VexFs>,
    b: &mut uapi::vexfs_batch,
) -> core::result::Result<(), BatchError> {
    let inode = file.inode();
    if !inode.is_regular() {
        return Err(ENOTTY.into());
    }
    let known = match b.op {
        uapi::VEXFS_OP_INSERT | uapi::VEXFS_OP_UPSERT => uapi::VEXFS_BATCH_REUSE,
        uapi::VEXFS_OP_DELETE => uapi::VEXFS_BATCH_BY_ROW | uapi::VEXFS_BATCH_SKIP_MISSING,
        uapi::VEXFS_OP_GET => uapi::VEXFS_BATCH_BY_ROW,
        uapi::VEXFS_OP_ATTACH | uapi::VEXFS_OP_DETACH => return Err(EOPNOTSUPP.into()),
        _ => return Err(EINVAL.into()),
    };
    if b.flags & !known != 0 || b.reserved != [0; 2] {
        return Err(EINVAL.into());
    }
    if !crate::container::is_container(&inode.node().state.lock()) {
        return Err(ENOTTY.into());
    }
    let writes = b.op != uapi::VEXFS_OP_GET;
    if (writes && !file.is_writable()) || (!writes && !file.is_readable()) {
        return Err(EBADF.into());
    }
    if b.count == 0 {
        return Err(EINVAL.into());
    }
    if b.count > u64::from(uapi::VEXFS_MAX_BATCH_ROWS) {
        return Err(E2BIG.into());
    }
    let area = container::with(inode, |c| Ok(c.area))?;
    let bytes = element::row_bytes(&area)?;
    let user_stride = if b.vector_stride == 0 {
        bytes
    } else {
        b.vector_stride as usize
    };
    if user_stride < bytes {
        return Err(EINVAL.into());
    }
    if b.vectors != 0
        && b.count.saturating_mul(user_stride as u64) > u64::from(uapi::VEXFS_MAX_BATCH_BYTES)
    {
        return Err(E2BIG.into());
    }
    match b.op {
        uapi::VEXFS_OP_INSERT | uapi::VEXFS_OP_UPSERT => insert(file, b, user_stride),
        uapi::VEXFS_OP_DELETE => delete(file, b),
        _ => Ok(get(inode, b, user_stride)?),
    }
}

fn insert(
    file: &OpenFile<'_, VexFs>,
    b: &mut uapi::vexfs_batch,
    stride: usize,
) -> core::result::Result<(), BatchError> {
    let upsert = b.op == uapi::VEXFS_OP_UPSERT;
    let options = rows::Options {
        upsert,
        reuse: b.flags & uapi::VEXFS_BATCH_REUSE != 0,
    };
    if b.vectors == 0 {
        return Err(EFAULT.into());
    }
    if upsert && b.keys == 0 {
        return Err(EINVAL.into());
    }
    let list = |address: u64| match address {
        0 => Ok(None),
        address => read_u64s(address, b.count).map(Some),
    };
    let keys = list(b.keys)?;
    let tags = list(b.tags)?;
    let mut numbers = KVVec::new();
    if b.rows != 0 {
        // Whether there is memory, here and there, is found out before anything changes.
        numbers.resize(
            usize::try_from(b.count).map_err(|_| E2BIG)?,
            NO_ROW,
            GFP_KERNEL | __GFP_NOWARN,
        )?;
        write_u64s(b.rows, &numbers)?;
    }
    let vectors = Vectors {
        address: usize::try_from(b.vectors).map_err(|_| EFAULT)?,
        stride,
    };
    let inode = file.inode();
    let mut failed = None;
    let outcome = file.with_write_access(|| {
        let lock = inode.lock();
        let outcome = rows::insert(
            file,
            &vectors,
            b.count,
            keys.as_deref(),
            tags.as_deref(),
            options,
        );
        drop(lock);
        outcome.map_err(|e| {
            let error = e.error;
            failed = e.row;
            error
        })
    });
    let places = outcome.map_err(|error| BatchError { error, row: failed })?;
    b.done = b.count;
    b.first_row = places.row(0);
    for (number, index) in numbers.iter_mut().zip(0..) {
        *number = places.row(index);
    }
    if b.rows != 0 {
        write_u64s(b.rows, &numbers)?;
    }
    Ok(())
}

/// Rows that are looked up while the container is locked.
const RESOLVED_AT_ONCE: usize = 256;
/// How often that is begun anew as batches come in between, before it is done with the container locked throughout.
const RESOLVED_AGAIN: u32 = 8;

/// The live rows that a batch names, by row or by key, all in one state of the container.
///
/// # Errors
///
/// `EINVAL` without names, `EFAULT`, `EINTR`, `ENOMEM`, and what reading says.
fn resolve(inode: &Inode<VexFs>, b: &uapi::vexfs_batch) -> Result<KVVec<Option<u64>>> {
    let by_row = b.flags & uapi::VEXFS_BATCH_BY_ROW != 0;
    let address = if by_row { b.rows } else { b.keys };
    if address == 0 {
        return Err(EINVAL);
    }
    let named = read_u64s(address, b.count)?;
    let mut found = KVVec::from_elem(None, named.len(), GFP_KERNEL | __GFP_NOWARN)?;
    let mut look_up = |at_once: usize| {
        let before = container::with(inode, |c| Ok(c.state()))?;
        for (names, rows) in named.chunks(at_once).zip(found.chunks_mut(at_once)) {
            if task::fatal_signal_pending() {
                return Err(EINTR);
            }
            task::cond_resched();
            container::with(inode, |c| {
                for (name, row) in names.iter().zip(rows) {
                    *row = if by_row {
                        c.is_live(*name).then_some(*name)
                    } else {
                        c.find(inode.sb(), *name)?
                    };
                }
                Ok(())
            })?;
        }
        container::with(inode, |c| Ok(c.state() == before || at_once >= named.len()))
    };
    for _ in 0..RESOLVED_AGAIN {
        if look_up(RESOLVED_AT_ONCE)? {
            return Ok(found);
        }
    }
    look_up(named.len())?;
    Ok(found)
}

fn delete(
    file: &OpenFile<'_, VexFs>,
    b: &mut uapi::vexfs_batch,
) -> core::result::Result<(), BatchError> {
    let inode = file.inode();
    let skip = b.flags & uapi::VEXFS_BATCH_SKIP_MISSING != 0;
    let mut failed = None;
    let done = file.with_write_access(|| {
        // Loads the container, which takes the inode lock itself.
        container::with(inode, |_| Ok(()))?;
        let lock = inode.lock();
        let found = resolve(inode, b)?;
        let mut live = KVVec::with_capacity(found.len(), GFP_KERNEL | __GFP_NOWARN)?;
        for (index, row) in found.iter().enumerate() {
            match row {
                Some(row) => live
                    .push_within_capacity((*row, index))
                    .map_err(|_| ENOMEM)?,
                None if skip => {}
                None => {
                    failed = Some(index as u64);
                    return Err(ENOENT);
                }
            }
        }
        vexfs_vfs::sort::pairs(&mut live);
        let twice = live
            .windows(2)
            .filter_map(|pair| match pair {
                [a, b] if a.0 == b.0 => Some(b.1),
                _ => None,
            })
            .min();
        if let Some(index) = twice {
            failed = Some(index as u64);
            return Err(EINVAL);
        }
        let mut rows = KVVec::with_capacity(live.len(), GFP_KERNEL | __GFP_NOWARN)?;
        for (row, _) in &live {
            rows.push_within_capacity(*row).map_err(|_| ENOMEM)?;
        }
        file.modified()?;
        rows::delete(inode, &rows)?;
        drop(lock);
        Ok(rows.len() as u64)
    });
    b.done = done.map_err(|error| BatchError { error, row: failed })?;
    Ok(())
}

fn get(inode: &Inode<VexFs>, b: &mut uapi::vexfs_batch, stride: usize) -> Result {
    let by_row = b.flags & uapi::VEXFS_BATCH_BY_ROW != 0;
    let _reading = Reading::begin(inode);
    let found = resolve(inode, b)?;
    let collect = |f: &dyn Fn(&crate::container::Container, Option<u64>) -> u64| {
        let mut values = KVVec::with_capacity(found.len(), GFP_KERNEL | __GFP_NOWARN)?;
        container::with(inode, |c| {
            for row in &found {
                values
                    .push_within_capacity(f(c, *row))
                    .map_err(|_| ENOMEM)?;
            }
            Ok(())
        })?;
        Ok::<_, Error>(values)
    };
    if b.vectors != 0 {
        let address = usize::try_from(b.vectors).map_err(|_| EFAULT)?;
        rows::read_to_user(inode, &found, address, stride)?;
    }
    if b.tags != 0 {
        let tags = collect(&|c, row| row.map_or(0, |row| c.tags_of(row)))?;
        write_u64s(b.tags, &tags)?;
    }
    if by_row && b.keys != 0 {
        let keys = collect(&|c, row| row.map_or(uapi::VEXFS_KEY_NONE, |row| c.key_of(row)))?;
        write_u64s(b.keys, &keys)?;
    }
    if !by_row && b.rows != 0 {
        let rows = collect(&|_, row| row.unwrap_or(NO_ROW))?;
        write_u64s(b.rows, &rows)?;
    }
    b.done = found.iter().flatten().count() as u64;
    b.first_row = 0;
    Ok(())
}

fn build_index(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (b, _) = read::<uapi::vexfs_build_index>(argument, uapi::first_size::BUILD_INDEX)?;
    let drop = uapi::VEXFS_BUILD_DROP;
    let known = uapi::VEXFS_BUILD_REPLACE | uapi::VEXFS_BUILD_BACKGROUND;
    if (b.flags != drop && b.flags & !known != 0) || b.reserved != [0; 6] {
        return Err(EINVAL);
    }
    let inode = file.inode();
    container::with(inode, |_| Ok(()))?;
    if !file.is_writable() {
        return Err(EBADF);
    }
    // Every container can be searched exactly as it is.
    if b.index_kind == uapi::VEXFS_INDEX_EXACT && b.flags != drop {
        return Ok(());
    }
    let kind = Kind::from_uapi(b.index_kind).ok_or(EINVAL)?;
    let parameters = Parameters {
        m: b.m,
        ef_construction: b.ef_construction,
        nlist: b.nlist,
        nsub: b.nsub,
        nbits: b.nbits,
        ntables: b.ntables,
    };
    if b.flags == drop {
        if parameters != Parameters::default() || b.threads != 0 {
            return Err(EINVAL);
        }
        return index::drop(inode, kind);
    }
    let request = index::Request {
        kind,
        parameters,
        replace: b.flags & uapi::VEXFS_BUILD_REPLACE != 0,
        background: b.flags & uapi::VEXFS_BUILD_BACKGROUND != 0,
        threads: work::threads(b.threads),
        by_itself: false,
    };
    index::build(inode, &request)
}

fn check_index(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut c, size) = read::<uapi::vexfs_index_check>(argument, uapi::first_size::INDEX_CHECK)?;
    if c.flags & !uapi::VEXFS_CHECK_REPAIR != 0 || c.reserved0 != 0 || c.reserved != [0; 2] {
        return Err(EINVAL);
    }
    let repair = c.flags & uapi::VEXFS_CHECK_REPAIR != 0;
    let inode = file.inode();
    container::with(inode, |_| Ok(()))?;
    if !file.is_readable() || (repair && !file.is_writable()) {
        return Err(EBADF);
    }
    let kind = Kind::from_uapi(c.index_kind).ok_or(EINVAL)?;
    c.set_findings(&index::check(inode, kind, repair)?);
    write(argument, &c, size)
}

fn index_stats(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut s, size) = read::<uapi::vexfs_index_stats>(argument, uapi::first_size::INDEX_STATS)?;
    if s.flags & !uapi::VEXFS_INDEX_STATS_DIGEST != 0 || s.reserved != [0; 2] {
        return Err(EINVAL);
    }
    let inode = file.inode();
    container::with(inode, |_| Ok(()))?;
    if !file.is_readable() {
        return Err(EBADF);
    }
    let kind = Kind::from_uapi(s.index_kind).ok_or(EINVAL)?;
    let summary = index::summary(inode, kind, s.flags & uapi::VEXFS_INDEX_STATS_DIGEST != 0)?;
    s = uapi::vexfs_index_stats {
        size: s.size,
        flags: s.flags,
        index_kind: s.index_kind,
        state: summary.state,
        m: summary.parameters.m,
        ef_construction: summary.parameters.ef_construction,
        nodes: summary.counts.live,
        deleted: summary.counts.deleted,
        watermark: summary.watermark,
        resident_bytes: summary.bytes,
        digest: summary.digest,
        nlist: summary.parameters.nlist,
        nsub: summary.parameters.nsub,
        nbits: summary.parameters.nbits,
        ntables: summary.parameters.ntables,
        trained: summary.trained,
        build_error: summary
            .build_error
            .map_or(0, |e| e.to_errno().unsigned_abs()),
        build_watermark: summary.build_watermark,
        build_rows: summary.build_rows,
        reserved: [0; 2],
    };
    write(argument, &s, size)
}

fn stats(file: &OpenFile<'_, VexFs>, argument: usize) -> Result {
    let (mut s, size) = read::<uapi::vexfs_vector_stats>(argument, uapi::first_size::VECTOR_STATS)?;
    if s.flags != 0 {
        return Err(EINVAL);
    }
    if !file.is_readable() {
        return Err(EBADF);
    }
    let inode = file.inode();
    let (area, counters, indexes) =
        container::with(inode, |c| Ok((c.area, c.counters, c.indexes.count())))?;
    s = uapi::vexfs_vector_stats {
        size: s.size,
        flags: 0,
        dim: area.dim,
        element_type: u32::from(area.element),
        metric: u32::from(area.metric),
        stride: area.stride,
        alignment: area.align,
        isa: inode.volume().simd.isa as u32,
        rows: area.rows,
        live: area.live,
        durable_rows: inode.node().state.lock().disk.vector.rows,
        generation: area.generation,
        model_tag: area.model_tag,
        bytes_on_disk: inode.disk_bytes(),
        inserted: counters.inserted,
        deleted: counters.deleted,
        searches: counters.searches,
        distances: counters.distances,
        insert_ns: counters.insert_ns,
        search_ns: counters.search_ns,
        index_count: indexes,
        reserved: [0; 7],
    };
    write(argument, &s, size)
}
