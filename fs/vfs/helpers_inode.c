// SPDX-License-Identifier: GPL-2.0
/* Inodes and their locks. See helpers.h. */

#include <linux/pagemap.h>
#include <linux/slab.h>

#include "helpers.h"

struct kmem_cache *vexfs_inode_cache_create(const char *name, unsigned int size,
					    void (*ctor)(void *object))
{
	return kmem_cache_create(name, size, 0, SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ctor);
}

void *vexfs_alloc_inode(struct super_block *sb, struct kmem_cache *cache)
{
	return alloc_inode_sb(sb, cache, GFP_KERNEL);
}

bool vexfs_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

loff_t vexfs_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

void vexfs_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

u32 vexfs_i_uid_read(const struct inode *inode)
{
	return i_uid_read(inode);
}

u32 vexfs_i_gid_read(const struct inode *inode)
{
	return i_gid_read(inode);
}

void vexfs_i_uid_write(struct inode *inode, u32 uid)
{
	i_uid_write(inode, uid);
}

void vexfs_i_gid_write(struct inode *inode, u32 gid)
{
	i_gid_write(inode, gid);
}

struct timespec64 vexfs_inode_atime(const struct inode *inode)
{
	return inode_get_atime(inode);
}

struct timespec64 vexfs_inode_mtime(const struct inode *inode)
{
	return inode_get_mtime(inode);
}

struct timespec64 vexfs_inode_ctime(const struct inode *inode)
{
	return inode_get_ctime(inode);
}

void vexfs_inode_set_atime(struct inode *inode, struct timespec64 ts)
{
	inode_set_atime_to_ts(inode, ts);
}

void vexfs_inode_set_mtime(struct inode *inode, struct timespec64 ts)
{
	inode_set_mtime_to_ts(inode, ts);
}

void vexfs_inode_set_nlink(struct inode *inode, unsigned int nlink)
{
	set_nlink(inode, nlink);
}

void vexfs_inode_set_fop(struct inode *inode, const struct file_operations *fop)
{
	inode->i_fop = fop;
}

int vexfs_inode_count(const struct inode *inode)
{
	return icount_read_once(inode);
}

unsigned int vexfs_inode_nlink(const struct inode *inode)
{
	return inode->i_nlink;
}

void vexfs_inode_init_page_cache(struct inode *inode, bool large_folios)
{
	if (large_folios)
		mapping_set_large_folios(inode->i_mapping);
}

void vexfs_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

bool vexfs_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

void vexfs_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

void vexfs_inode_lock_shared(struct inode *inode)
{
	inode_lock_shared(inode);
}

bool vexfs_inode_trylock_shared(struct inode *inode)
{
	return inode_trylock_shared(inode);
}

void vexfs_inode_unlock_shared(struct inode *inode)
{
	inode_unlock_shared(inode);
}

void vexfs_invalidate_lock(struct inode *inode)
{
	filemap_invalidate_lock(inode->i_mapping);
}

void vexfs_invalidate_unlock(struct inode *inode)
{
	filemap_invalidate_unlock(inode->i_mapping);
}

void vexfs_invalidate_lock_shared(struct inode *inode)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
}

void vexfs_invalidate_unlock_shared(struct inode *inode)
{
	filemap_invalidate_unlock_shared(inode->i_mapping);
}

bool vexfs_mapping_busy(struct inode *inode)
{
	return mapping_tagged(inode->i_mapping, PAGECACHE_TAG_DIRTY) ||
	       mapping_tagged(inode->i_mapping, PAGECACHE_TAG_WRITEBACK);
}

bool vexfs_mapping_writably_mapped(struct inode *inode)
{
	return mapping_writably_mapped(inode->i_mapping);
}

void vexfs_mark_inode_dirty(struct inode *inode)
{
	mark_inode_dirty(inode);
}

void vexfs_set_delayed_kfree(struct delayed_call *call, void *buffer)
{
	set_delayed_call(call, kfree_link, buffer);
}
