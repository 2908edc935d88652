// SPDX-License-Identifier: GPL-2.0

//! Names: lookup, create, link, unlink, rename, symbolic links, readdir.
//!
//! Every operation is one transaction. Credits are the sums of what its steps can join,
//! named by `libvexfs`.

use crate::errno;
use crate::node::{self, Change};
use crate::orphan;
use crate::txn::{Reader, Txn};
use crate::VexFs;
use kernel::prelude::*;
use libvexfs::format::{self, dirent::MAX_NAME};
use libvexfs::{alloc, dir, symlink, tree};
use vexfs_vfs::file::DirEmitter;
use vexfs_vfs::namei::{Idmap, Make, Names, Side, RENAME_EXCHANGE};
use vexfs_vfs::new_inode::Fields;
use vexfs_vfs::task::random_u32;
use vexfs_vfs::{IRef, Inode, NewInode};

/// The `DT_` value of a mode, which is also what a directory entry stores.
fn file_type(mode: u16) -> u8 {
    (mode >> 12) as u8
}

fn reader<'a>(inode: &'a Inode<VexFs>) -> Reader<'a> {
    Reader {
        sb: inode.sb(),
        seed: inode.volume().seed,
    }
}

fn check_name(name: &[u8]) -> Result {
    if name.len() > MAX_NAME {
        return Err(ENAMETOOLONG);
    }
    Ok(())
}

/// Credits and revokes for one change of a directory's tree and of the directory itself. A
/// change before it in the same transaction may have made the tree higher.
fn dir_credits(dir: &Inode<VexFs>) -> Result<(u32, u32)> {
    let height = tree::height(&node::root(dir)).map_err(|e| errno::of(dir.sb(), e))?;
    let height = height.saturating_add(1);
    Ok((
        tree::insert_credits(height).max(tree::remove_credits(height)) + 1,
        tree::remove_revokes(height),
    ))
}

fn find(dir: &Inode<VexFs>, name: &[u8]) -> Result<Option<(u64, u8)>> {
    let root = node::root(dir);
    dir::lookup(
        &reader(dir),
        &root,
        dir.ino(),
        &dir.volume().hash_seed,
        name,
    )
    .map_err(|e| errno::of(dir.sb(), e))
}

fn add_entry(txn: &mut Txn<'_>, dir: &Inode<VexFs>, name: &[u8], ino: u64, mode: u16) -> Result {
    let seed = &dir.volume().hash_seed;
    node::change_tree(txn, dir, |t, root, owner| {
        dir::insert(t, root, owner, seed, name, ino, file_type(mode))
    })
}

fn remove_entry(txn: &mut Txn<'_>, dir: &Inode<VexFs>, name: &[u8]) -> Result {
    let seed = &dir.volume().hash_seed;
    node::change_tree(txn, dir, |t, root, owner| {
        dir::remove(t, root, owner, seed, name)
    })
}

fn replace_entry(
    txn: &mut Txn<'_>,
    dir: &Inode<VexFs>,
    name: &[u8],
    ino: u64,
    mode: u16,
) -> Result {
    let seed = &dir.volume().hash_seed;
    node::change_tree(txn, dir, |t, root, owner| {
        dir::replace(t, root, owner, seed, name, ino, file_type(mode))
    })
}

/// Records which directory an inode is in. A file with several names keeps the first.
fn set_parent(inode: &Inode<VexFs>, dir: &Inode<VexFs>) {
    let mut state = inode.node().state.lock();
    state.disk.parent_ino = dir.ino();
    state.disk.parent_generation = dir.generation();
}

/// The name is gone: one link less, and an orphan if it was the last.
fn lost_name(txn: &mut Txn<'_>, inode: &Inode<VexFs>) -> Result {
    if inode.is_dir() {
        // Its own "." counts too.
        inode.set_nlink(0);
    } else {
        inode.drop_nlink();
    }
    inode.touch_ctime();
    if inode.nlink() == 0 {
        orphan::add(txn, inode.sb(), inode.ino())?;
    }
    node::store_locked(txn, inode, Change::Data)
}

/// Allocates and fills an inode in the transaction; it has no name yet.
fn new_inode(
    txn: &mut Txn<'_>,
    idmap: &Idmap,
    dir: &Inode<VexFs>,
    make: &Make<'_>,
    nlink: u32,
) -> Result<NewInode<VexFs>> {
    let sb = dir.sb();
    let is_dir = make.mode & 0o170000 == 0o040000;
    let ino = txn
        .allocate_inode(dir.ino(), is_dir)
        .map_err(|e| txn.failed(e))?;
    let new = match sb.new_inode(ino) {
        Ok(new) => new,
        Err(e) => {
            if e == EUCLEAN {
                pr_err!("{}: inode {}: free on disk, but in use\n", sb.id(), ino);
            }
            node::undo_make(txn, ino, is_dir);
            return Err(e);
        }
    };
    let made = (|| {
        let mode = new.inherit_owner(idmap, dir, make.mode);
        new.set_fields(&Fields {
            mode,
            owner: None,
            nlink,
            size: make.target.map_or(0, |target| target.len() as u64),
            disk_bytes: 0,
            rdev: make.rdev,
            generation: random_u32(),
            times: None,
        })?;
        let birth = node::birth(&new);
        let mut state = new.node().state.lock();
        state.disk.generation = new.generation();
        state.disk.rdev = make.rdev;
        state.disk.size = new.size();
        state.disk.btime = birth;
        state.disk.parent_ino = dir.ino();
        state.disk.parent_generation = dir.generation();
        if let Some(target) = make.target {
            symlink::write(txn, &mut state.disk.tree_root, ino, target)
                .map_err(|e| txn.failed(e))?;
            node::count_nodes(txn, &new);
        }
        state.live = true;
        node::store(txn, &new, &mut state, Change::Data)
    })();
    if let Err(e) = made {
        new.node().state.lock().live = false;
        node::undo_make(txn, ino, is_dir);
        return Err(e);
    }
    Ok(new)
}

/// Takes back an inode of this transaction that got no name after all.
fn discard(txn: &mut Txn<'_>, new: NewInode<VexFs>) {
    let (ino, is_dir) = (new.ino(), new.is_dir());
    new.node().state.lock().live = false;
    if let Err(e) = txn.clear_inode(ino) {
        new.volume().give_up(new.sb(), e);
    }
    node::undo_make(txn, ino, is_dir);
}

fn make_once(idmap: &Idmap, dir: &Inode<VexFs>, make: &Make<'_>) -> Result<NewInode<VexFs>> {
    let (tree, revokes) = dir_credits(dir)?;
    let is_dir = make.mode & 0o170000 == 0o040000;
    let target = make.target.map_or(0, |_| symlink::WRITE_CREDITS);
    // The new inode's block may be another than the one its allocation joined.
    let credits = tree + target + alloc::ALLOCATE_INODE_CREDITS + alloc::FREE_INODE_CREDITS + 1;
    let mut txn = dir.volume().begin(dir.sb(), credits, revokes)?;
    let new = new_inode(&mut txn, idmap, dir, make, if is_dir { 2 } else { 1 })?;
    if let Err(e) = add_entry(&mut txn, dir, make.name, new.ino(), new.mode()) {
        discard(&mut txn, new);
        return Err(e);
    }
    if is_dir {
        dir.inc_nlink();
    }
    dir.touch_mtime_ctime();
    node::store_locked(&mut txn, dir, Change::Data)?;
    txn.stop()?;
    Ok(new)
}

impl Names for VexFs {
    fn lookup(dir: &Inode<Self>, name: &[u8]) -> Result<Option<IRef<Self>>> {
        check_name(name)?;
        let Some((ino, _)) = find(dir, name)? else {
            return Ok(None);
        };
        match node::iget(dir.sb(), ino) {
            Ok(inode) => Ok(Some(inode)),
            Err(e) if e == ESTALE => Err(errno::of(
                dir.sb(),
                libvexfs::Error::CorruptInode {
                    ino: dir.ino(),
                    what: "an entry leads to a free or hidden inode",
                },
            )),
            Err(e) => Err(e),
        }
    }

    fn make(idmap: &Idmap, dir: &Inode<Self>, make: &Make<'_>) -> Result<NewInode<Self>> {
        check_name(make.name)?;
        dir.volume().with_space(|| make_once(idmap, dir, make))
    }

    fn make_tmpfile(idmap: &Idmap, dir: &Inode<Self>, mode: u16) -> Result<NewInode<Self>> {
        let make = Make {
            name: b"",
            mode,
            rdev: 0,
            target: None,
        };
        let credits =
            alloc::ALLOCATE_INODE_CREDITS + alloc::FREE_INODE_CREDITS + orphan::CREDITS + 1;
        let mut txn = dir.volume().begin(dir.sb(), credits, orphan::REVOKES)?;
        // One link for now: d_tmpfile takes it away.
        let new = new_inode(&mut txn, idmap, dir, &make, 1)?;
        if let Err(e) = orphan::add(&mut txn, dir.sb(), new.ino()) {
            discard(&mut txn, new);
            return Err(e);
        }
        txn.stop()?;
        Ok(new)
    }

    fn link(inode: &Inode<Self>, dir: &Inode<Self>, name: &[u8]) -> Result {
        check_name(name)?;
        if inode.nlink() >= format::inode::MAX_LINKS {
            return Err(EMLINK);
        }
        dir.volume().with_space(|| {
            let (tree, revokes) = dir_credits(dir)?;
            let credits = tree + orphan::CREDITS + 1;
            let mut txn = dir
                .volume()
                .begin(dir.sb(), credits, revokes + orphan::REVOKES)?;
            add_entry(&mut txn, dir, name, inode.ino(), inode.mode())?;
            if inode.nlink() == 0 {
                // A file opened with O_TMPFILE gets its first name.
                orphan::remove(&mut txn, dir.sb(), inode.ino())?;
                set_parent(inode, dir);
            }
            inode.inc_nlink();
            inode.touch_ctime();
            node::store_locked(&mut txn, inode, Change::Data)?;
            dir.touch_mtime_ctime();
            node::store_locked(&mut txn, dir, Change::Data)?;
            txn.stop()
        })
    }

    fn unlink(dir: &Inode<Self>, name: &[u8], inode: &Inode<Self>) -> Result {
        remove(dir, name, inode)
    }

    fn rmdir(dir: &Inode<Self>, name: &[u8], inode: &Inode<Self>) -> Result {
        if !dir::is_empty(&node::root(inode)).map_err(|e| errno::of(dir.sb(), e))? {
            return Err(ENOTEMPTY);
        }
        remove(dir, name, inode)
    }

    fn rename(from: &Side<'_, Self>, to: &Side<'_, Self>, flags: u32) -> Result {
        check_name(to.name)?;
        let inode = from.inode.ok_or(ENOENT)?;
        from.dir.volume().with_space(|| {
            if flags & RENAME_EXCHANGE != 0 {
                exchange(from, to, inode, to.inode.ok_or(ENOENT)?)
            } else {
                rename(from, to, inode)
            }
        })
    }

    fn read_link(inode: &Inode<Self>, buffer: &mut [u8]) -> Result<usize> {
        let root = node::root(inode);
        symlink::read(&reader(inode), &root, inode.ino(), buffer)
            .map_err(|e| errno::of(inode.sb(), e))
    }
}

/// Removes a name, and the inode if that was its last one.
fn remove(dir: &Inode<VexFs>, name: &[u8], inode: &Inode<VexFs>) -> Result {
    let (tree, revokes) = dir_credits(dir)?;
    let (credits, revokes) = (tree + orphan::CREDITS + 1, revokes + orphan::REVOKES);
    let volume = dir.volume();
    let mut txn = volume.begin(dir.sb(), credits, revokes)?.essential();
    remove_entry(&mut txn, dir, name)?;
    if inode.is_dir() {
        // Its link to its parent.
        dir.drop_nlink();
    }
    dir.touch_mtime_ctime();
    node::store_locked(&mut txn, dir, Change::Data)?;
    lost_name(&mut txn, inode)?;
    txn.stop()
}

/// Credits and revokes of a change in both directories of a rename and in two inodes.
fn rename_credits(from: &Side<'_, VexFs>, to: &Side<'_, VexFs>) -> Result<(u32, u32)> {
    let (a, revoke_a) = dir_credits(from.dir)?;
    let (b, revoke_b) = dir_credits(to.dir)?;
    Ok((
        2 * a + 2 * b + orphan::CREDITS + 2,
        2 * revoke_a + 2 * revoke_b + orphan::REVOKES,
    ))
}

fn rename(from: &Side<'_, VexFs>, to: &Side<'_, VexFs>, inode: &Inode<VexFs>) -> Result {
    let sb = from.dir.sb();
    if let Some(target) = to.inode.filter(|target| target.is_dir()) {
        if !dir::is_empty(&node::root(target)).map_err(|e| errno::of(sb, e))? {
            return Err(ENOTEMPTY);
        }
    }
    let moves_dir = inode.is_dir() && from.dir.ino() != to.dir.ino();
    let (credits, revokes) = rename_credits(from, to)?;
    let mut txn = from.dir.volume().begin(sb, credits, revokes)?.essential();
    // The new name first: it is the step that can run out of space.
    match to.inode {
        Some(_) => replace_entry(&mut txn, to.dir, to.name, inode.ino(), inode.mode())?,
        None => add_entry(&mut txn, to.dir, to.name, inode.ino(), inode.mode())?,
    }
    if let Err(e) = remove_entry(&mut txn, from.dir, from.name) {
        // Two names for one link must not be committed.
        from.dir.volume().give_up(sb, e);
        return Err(e);
    }
    if let Some(target) = to.inode {
        if target.is_dir() {
            to.dir.drop_nlink();
        }
        lost_name(&mut txn, target)?;
    }
    if moves_dir {
        from.dir.drop_nlink();
        to.dir.inc_nlink();
    }
    if from.dir.ino() != to.dir.ino() {
        set_parent(inode, to.dir);
    }
    inode.touch_ctime();
    node::store_locked(&mut txn, inode, Change::Data)?;
    store_dirs(&mut txn, from, to)?;
    txn.stop()
}

fn exchange(
    from: &Side<'_, VexFs>,
    to: &Side<'_, VexFs>,
    a: &Inode<VexFs>,
    b: &Inode<VexFs>,
) -> Result {
    let sb = from.dir.sb();
    let (credits, revokes) = rename_credits(from, to)?;
    let mut txn = from.dir.volume().begin(sb, credits, revokes)?.essential();
    replace_entry(&mut txn, from.dir, from.name, b.ino(), b.mode())?;
    if let Err(e) = replace_entry(&mut txn, to.dir, to.name, a.ino(), a.mode()) {
        from.dir.volume().give_up(sb, e);
        return Err(e);
    }
    if from.dir.ino() != to.dir.ino() {
        if a.is_dir() && !b.is_dir() {
            from.dir.drop_nlink();
            to.dir.inc_nlink();
        }
        if b.is_dir() && !a.is_dir() {
            to.dir.drop_nlink();
            from.dir.inc_nlink();
        }
        set_parent(a, to.dir);
        set_parent(b, from.dir);
    }
    for inode in [a, b] {
        inode.touch_ctime();
        node::store_locked(&mut txn, inode, Change::Data)?;
    }
    store_dirs(&mut txn, from, to)?;
    txn.stop()
}

fn store_dirs(txn: &mut Txn<'_>, from: &Side<'_, VexFs>, to: &Side<'_, VexFs>) -> Result {
    from.dir.touch_mtime_ctime();
    node::store_locked(txn, from.dir, Change::Data)?;
    if from.dir.ino() != to.dir.ino() {
        to.dir.touch_mtime_ctime();
        node::store_locked(txn, to.dir, Change::Data)?;
    }
    Ok(())
}

/// Lists a directory from the emitter's position on.
pub(crate) fn read_dir(dir: &Inode<VexFs>, out: &mut DirEmitter<'_>) -> Result {
    /// Beyond the last entry; larger than any cookie that a name can have.
    const END: u64 = i64::MAX as u64;
    if out.position() >= END {
        return Ok(());
    }
    // No lock of ours is held while entries are copied out, as that can fault. The inode's
    // lock, held by the VFS, keeps the tree as it is.
    let root = node::root(dir);
    let mut full = false;
    let from = out.position().max(dir::FIRST_COOKIE);
    dir::for_each_from(&reader(dir), &root, dir.ino(), from, |entry| {
        out.set_position(entry.cookie);
        full = !out.emit(entry.name, entry.ino, entry.file_type);
        if !full {
            // Should the next leaf be damaged, the next call begins there and says so.
            out.set_position(entry.cookie.saturating_add(1));
        }
        Ok(!full)
    })
    .map_err(|e| errno::of(dir.sb(), e))?;
    if !full {
        out.set_position(END);
    }
    Ok(())
}
