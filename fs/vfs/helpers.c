// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/backing-dev.h>
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/iomap.h>
#include <linux/jbd2.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/prefetch.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <linux/writeback.h>

#ifdef CONFIG_UML
#include <asm/cpufeature.h>
#elif defined(CONFIG_X86)
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#elif defined(CONFIG_ARM64)
#include <asm/cpufeature.h>
#include <asm/simd.h>
#include <asm/sysreg.h>
#include <linux/fpu.h>
#endif

#include "helpers.h"

#if !IS_ENABLED(CONFIG_JBD2) || !IS_ENABLED(CONFIG_FS_IOMAP)
#error "VexFS needs CONFIG_JBD2 and CONFIG_FS_IOMAP: enable CONFIG_EXT4_FS, which selects both"
#endif

void vexfs_fc_error(struct fs_context *fc, const char *message)
{
	errorfc(fc, "%s", message);
}

bool vexfs_fc_is_reconfigure(struct fs_context *fc)
{
	return fc->purpose == FS_CONTEXT_FOR_RECONFIGURE;
}

const char *vexfs_param_key(const struct fs_parameter *param)
{
	return param->key;
}

const char *vexfs_param_string(const struct fs_parameter *param)
{
	return param->type == fs_value_is_string ? param->string : NULL;
}

void vexfs_super_set_uuid(struct super_block *sb, const u8 *uuid, unsigned int len)
{
	super_set_uuid(sb, uuid, len);
}

bool vexfs_sb_rdonly(struct super_block *sb)
{
	return sb_rdonly(sb);
}

void vexfs_sb_start_intwrite(struct super_block *sb)
{
	sb_start_intwrite(sb);
}

void vexfs_sb_end_intwrite(struct super_block *sb)
{
	sb_end_intwrite(sb);
}

u64 vexfs_bdev_bytes(struct super_block *sb)
{
	return bdev_nr_bytes(sb->s_bdev);
}

u32 vexfs_logical_block_size(struct super_block *sb)
{
	return bdev_logical_block_size(sb->s_bdev);
}

int vexfs_bdev_rw(struct super_block *sb, u64 block, void *data, size_t len, bool write)
{
	sector_t sector = block << (sb->s_blocksize_bits - SECTOR_SHIFT);

	return bdev_rw_virt(sb->s_bdev, sector, data, len,
			    write ? REQ_OP_WRITE | REQ_SYNC : REQ_OP_READ);
}

bool vexfs_bdev_read_only(struct super_block *sb)
{
	return bdev_read_only(sb->s_bdev);
}

bool vexfs_shrink_is_global(struct shrink_control *control)
{
	return mem_cgroup_shrink_is_root(control);
}

void vexfs_seq_puts(struct seq_file *seq, const char *text)
{
	seq_puts(seq, text);
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

void vexfs_inode_nohighmem(struct inode *inode)
{
	inode_nohighmem(inode);
}

int vexfs_finish_open_simple(struct file *file, int error)
{
	return finish_open_simple(file, error);
}

const u8 *vexfs_dentry_name(const struct dentry *dentry, size_t *len)
{
	*len = dentry->d_name.len;
	return dentry->d_name.name;
}

bool vexfs_wbc_for_fsync(const struct writeback_control *wbc)
{
	/* sync(2) and umount commit once for all inodes, in sync_fs. */
	return wbc->sync_mode == WB_SYNC_ALL && !wbc->for_sync;
}

void vexfs_file_set_modes(struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT | FMODE_NOWAIT;
}

struct mnt_idmap *vexfs_file_idmap(struct file *file)
{
	return file_mnt_idmap(file);
}

bool vexfs_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
		    unsigned int type)
{
	return dir_emit(ctx, name, len, ino, type);
}

bool vexfs_dir_emit_dots(struct file *file, struct dir_context *ctx)
{
	return dir_emit_dots(file, ctx);
}

ssize_t vexfs_generic_write_sync(struct kiocb *iocb, ssize_t count)
{
	return generic_write_sync(iocb, count);
}

bool vexfs_desc_shared_writable(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_SHARED_BIT) && vma_desc_test(desc, VMA_WRITE_BIT);
}

bool vexfs_desc_shared_may_write(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_SHARED_BIT) && vma_desc_test(desc, VMA_MAYWRITE_BIT);
}

void vexfs_desc_forbid_write(struct vm_area_desc *desc)
{
	vma_desc_clear_flags(desc, VMA_MAYWRITE_BIT);
}

loff_t vexfs_vfs_setpos(struct file *file, loff_t offset)
{
	return vfs_setpos(file, offset, file_inode(file)->i_sb->s_maxbytes);
}

int vexfs_kiocb_modified(struct kiocb *iocb)
{
	return kiocb_modified(iocb);
}

size_t vexfs_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

size_t vexfs_copy_from_iter(void *to, size_t bytes, struct iov_iter *iter)
{
	return copy_from_iter(to, bytes, iter);
}

int vexfs_uring_cmd_read(struct io_uring_cmd *cmd, struct file **file, u32 *op, u64 words[2])
{
	const struct io_uring_sqe *sqe = cmd->sqe;

	/* uring_cmd_flags, of which none is supported, is rw_flags. */
	if (READ_ONCE(sqe->ioprio) || READ_ONCE(sqe->addr) || READ_ONCE(sqe->len) ||
	    READ_ONCE(sqe->rw_flags) || READ_ONCE(sqe->file_index))
		return -EINVAL;
	*file = cmd->file;
	*op = cmd->cmd_op;
	words[0] = READ_ONCE(sqe->addr3);
	words[1] = READ_ONCE(sqe->__pad2[0]);
	return 0;
}

void vexfs_file_accessed(struct file *file)
{
	file_accessed(file);
}

bool vexfs_access_ok(const void __user *ptr, size_t len)
{
	return access_ok(ptr, len);
}

struct buffer_head *vexfs_sb_bread(struct super_block *sb, sector_t block)
{
	return sb_bread(sb, block);
}

struct buffer_head *vexfs_sb_getblk(struct super_block *sb, sector_t block)
{
	return sb_getblk(sb, block);
}

void vexfs_sb_readahead(struct super_block *sb, sector_t block)
{
	sb_breadahead(sb, block);
}

void vexfs_get_bh(struct buffer_head *bh)
{
	get_bh(bh);
}

void vexfs_brelse(struct buffer_head *bh)
{
	brelse(bh);
}

void vexfs_bh_lock(struct buffer_head *bh)
{
	lock_buffer(bh);
}

void vexfs_bh_unlock(struct buffer_head *bh)
{
	unlock_buffer(bh);
}

void vexfs_bh_set_uptodate(struct buffer_head *bh)
{
	set_buffer_uptodate(bh);
}

bool vexfs_bh_verified(struct buffer_head *bh)
{
	return buffer_verified(bh);
}

void vexfs_bh_set_verified(struct buffer_head *bh)
{
	set_buffer_verified(bh);
}

void vexfs_bh_clear_verified(struct buffer_head *bh)
{
	clear_buffer_verified(bh);
}

int vexfs_bh_write_sync(struct buffer_head *bh, bool fua)
{
	mark_buffer_dirty(bh);
	return __sync_dirty_buffer(bh, REQ_SYNC | (fua ? REQ_FUA | REQ_PREFLUSH : 0));
}

void vexfs_clean_bdev_aliases(struct super_block *sb, sector_t block, sector_t len)
{
	clean_bdev_aliases(sb->s_bdev, block, len);
}

void vexfs_journal_set_barrier(journal_t *journal, bool on)
{
	write_lock(&journal->j_state_lock);
	if (on)
		journal->j_flags |= JBD2_BARRIER;
	else
		journal->j_flags &= ~JBD2_BARRIER;
	write_unlock(&journal->j_state_lock);
}

void vexfs_journal_set_commit_interval(journal_t *journal, unsigned int seconds)
{
	write_lock(&journal->j_state_lock);
	journal->j_commit_interval = seconds * HZ;
	write_unlock(&journal->j_state_lock);
}

tid_t vexfs_handle_tid(handle_t *handle)
{
	return handle->h_transaction ? handle->h_transaction->t_tid : 0;
}

u32 vexfs_handle_credits(handle_t *handle)
{
	int left = jbd2_handle_buffer_credits(handle);

	return left > 0 ? left : 0;
}

bool vexfs_journal_aborted(journal_t *journal)
{
	return is_journal_aborted(journal);
}

bool vexfs_in_handle(void)
{
	return journal_current_handle() != NULL;
}

bool vexfs_journal_barrier(journal_t *journal)
{
	return journal->j_flags & JBD2_BARRIER;
}

int vexfs_bio_read_folio(struct folio *folio, const struct iomap_ops *ops)
{
	iomap_bio_read_folio(folio, ops);
	return 0;
}

void vexfs_bio_readahead(struct readahead_control *rac, const struct iomap_ops *ops)
{
	iomap_bio_readahead(rac, ops);
}

void vexfs_ioend_defer(struct iomap_ioend *ioend, bio_end_io_t *end_io)
{
	ioend->io_bio.bi_end_io = end_io;
	/* Completion goes to a workqueue: the block layer need not defer it too. */
	bio_clear_flag(&ioend->io_bio, BIO_COMPLETE_IN_TASK);
}

int vexfs_ioend_error(struct iomap_ioend *ioend)
{
	return blk_status_to_errno(ioend->io_bio.bi_status);
}

struct iomap_ioend *vexfs_ioend_from_bio(struct bio *bio)
{
	return iomap_ioend_from_bio(bio);
}

void vexfs_ioend_isolate(struct iomap_ioend *ioend)
{
	INIT_LIST_HEAD(&ioend->io_list);
}

struct inode *vexfs_fault_inode(struct vm_fault *vmf)
{
	return file_inode(vmf->vma->vm_file);
}

struct file *vexfs_fault_file(struct vm_fault *vmf)
{
	return vmf->vma->vm_file;
}

loff_t vexfs_fault_folio_pos(struct vm_fault *vmf, size_t *len)
{
	struct folio *folio = page_folio(vmf->page);

	*len = folio_size(folio);
	return folio_pos(folio);
}

void vexfs_sb_start_pagefault(struct super_block *sb)
{
	sb_start_pagefault(sb);
}

void vexfs_sb_end_pagefault(struct super_block *sb)
{
	sb_end_pagefault(sb);
}

/* Folios of a contiguous run of the page cache from @first on; fewer at a gap. */
unsigned int vexfs_folio_run(struct address_space *mapping, pgoff_t first, pgoff_t last,
			     struct folio **folios, unsigned int max)
{
	struct folio_batch batch;
	unsigned int n, i;

	folio_batch_init(&batch);
	n = filemap_get_folios_contig(mapping, &first, last, &batch);
	for (i = 0; i < n; i++) {
		if (i < max)
			folios[i] = batch.folios[i];
		else
			folio_put(batch.folios[i]);
	}
	return min(n, max);
}

/* A folio that is in memory and uptodate, with a count, or NULL. */
struct folio *vexfs_folio_at(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);

	if (IS_ERR(folio))
		return NULL;
	if (!folio_test_uptodate(folio)) {
		folio_put(folio);
		return NULL;
	}
	return folio;
}

/* Parts of a file that are fetched beside each other. */
#define MAX_PARTS 16

/*
 * Begins to fetch @n parts of a file, of @bytes bytes each, as far as they are in memory.
 *
 * No count is taken, so a folio may be freed meanwhile and its position be anything: what
 * is fetched then is of no use, but prefetching does not fault. In two loops, whose steps do
 * not wait for each other: each reads memory that is in no cache.
 */
void vexfs_prefetch_parts(struct address_space *mapping, const u64 *positions,
			  unsigned int n, size_t bytes)
{
	struct folio *folios[MAX_PARTS];
	unsigned int i;

	n = min(n, MAX_PARTS);
	rcu_read_lock();
	for (i = 0; i < n; i++) {
		folios[i] = xa_load(&mapping->i_pages, positions[i] >> PAGE_SHIFT);
		if (folios[i] && !xa_is_value(folios[i]))
			prefetchw(&folios[i]->_refcount);
		else
			folios[i] = NULL;
	}
	for (i = 0; i < n; i++) {
		size_t offset;

		if (!folios[i])
			continue;
		offset = positions[i] - data_race(folio_pos(folios[i]));
		prefetch_range(folio_address(folios[i]) + offset, bytes);
	}
	rcu_read_unlock();
}

void *vexfs_folio_address(struct folio *folio, size_t *bytes, loff_t *pos)
{
	*bytes = folio_size(folio);
	*pos = folio_pos(folio);
	return folio_address(folio);
}

void vexfs_prefetch(const void *bytes, size_t len)
{
	prefetch_range((void *)bytes, len);
}

bool vexfs_folio_uptodate(struct folio *folio)
{
	return folio_test_uptodate(folio);
}

void vexfs_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void vexfs_iov_iter_kvec(struct iov_iter *iter, bool source, struct kvec *vec, size_t len)
{
	iov_iter_kvec(iter, source ? ITER_SOURCE : ITER_DEST, vec, 1, len);
}

void vexfs_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

const gfp_t vexfs_gfp_nofs = GFP_NOFS;

/* The kernel crate has no string parameters. */
static char *simd = "auto";
module_param(simd, charp, 0444);
MODULE_PARM_DESC(simd, "Instruction set for distances, no higher than: auto, scalar, avx2, avx512, avx512vnni, avx512bf16, neon, neondot");

const char *vexfs_simd_parameter(void)
{
	return simd;
}

static unsigned int section_us = 20;
module_param(section_us, uint, 0444);
MODULE_PARM_DESC(section_us, "Microseconds of vector work done at once, without preemption: 1 to 1000");

unsigned int vexfs_section_parameter(void)
{
	return section_us;
}

bool vexfs_queue_work(struct workqueue_struct *queue, struct work_struct *work)
{
	return queue_work(queue, work);
}

vm_fault_t vexfs_vmf_error(int error)
{
	return vmf_fs_error(error);
}

/* Buffered write from kernel memory, with the inode locked by the caller. */
ssize_t vexfs_kernel_write(struct file *file, loff_t pos, const void *bytes, size_t len,
			   const struct iomap_ops *ops, const struct iomap_write_ops *write_ops)
{
	struct kvec vec = { .iov_base = (void *)bytes, .iov_len = len };
	struct iov_iter iter;
	struct kiocb iocb;

	init_sync_kiocb(&iocb, file);
	iocb.ki_pos = pos;
	iov_iter_kvec(&iter, ITER_SOURCE, &vec, 1, len);
	return iomap_file_buffered_write(&iocb, &iter, ops, write_ops, NULL);
}

/* The same from user memory. */
ssize_t vexfs_user_write(struct file *file, loff_t pos, void __user *bytes, size_t len,
			 const struct iomap_ops *ops, const struct iomap_write_ops *write_ops)
{
	struct iov_iter iter;
	struct kiocb iocb;
	int err;

	init_sync_kiocb(&iocb, file);
	iocb.ki_pos = pos;
	err = import_ubuf(ITER_SOURCE, bytes, len, &iter);
	if (err)
		return err;
	return iomap_file_buffered_write(&iocb, &iter, ops, write_ops, NULL);
}

void vexfs_readahead(struct address_space *mapping, pgoff_t first, unsigned long pages)
{
	struct file_ra_state ra = { };

	file_ra_state_init(&ra, mapping);
	DEFINE_READAHEAD(ractl, NULL, &ra, mapping, first);
	filemap_invalidate_lock_shared(mapping);
	page_cache_ra_unbounded(&ractl, pages, 0);
	filemap_invalidate_unlock_shared(mapping);
}

int vexfs_read_folio(struct address_space *mapping, pgoff_t index, struct folio **folio)
{
	struct folio *found = read_mapping_folio(mapping, index, NULL);

	if (IS_ERR(found))
		return PTR_ERR(found);
	*folio = found;
	return 0;
}

void vexfs_init_rwsem(struct rw_semaphore *sem)
{
	init_rwsem(sem);
}

/* A lock class of its own: these are taken inside the others. */
void vexfs_init_rwlock(struct rw_semaphore *sem)
{
	init_rwsem(sem);
}

unsigned int vexfs_nofs_save(void)
{
	return memalloc_nofs_save();
}

void vexfs_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool vexfs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool vexfs_task_is_killed(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

void vexfs_cond_resched(void)
{
	cond_resched();
}

/*
 * In one piece of the linear map where there is one, which costs the fewest TLB
 * misses. Neither warns nor kills: the caller has an answer to ENOMEM.
 */
void *vexfs_chunk_alloc(size_t bytes, bool ones)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN | (ones ? 0 : __GFP_ZERO);
	void *chunk = alloc_pages_exact(bytes, gfp | __GFP_NORETRY);

	if (!chunk)
		chunk = __vmalloc(bytes, gfp | __GFP_RETRY_MAYFAIL);
	if (chunk && ones)
		memset(chunk, 0xff, bytes);
	return chunk;
}

void vexfs_chunk_free(void *chunk, size_t bytes)
{
	if (is_vmalloc_addr(chunk))
		vfree(chunk);
	else
		free_pages_exact(chunk, bytes);
}

bool vexfs_task_is_reclaiming(void)
{
	return current->flags & PF_MEMALLOC;
}

/* For loops around allocations of GFP_NOFS. */
void vexfs_wait_for_memory(void)
{
	memalloc_retry_wait(GFP_NOFS);
}

struct workqueue_struct *vexfs_alloc_workqueue(const char *name)
{
	/* Writeback waits for it, so it needs a rescuer. */
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
}

/* Nobody waits for an item that has not begun, so it needs none. */
struct workqueue_struct *vexfs_alloc_workers(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND | WQ_SYSFS, 0, name);
}

unsigned int vexfs_usable_cpus(void)
{
	return min(num_online_cpus(), cpumask_weight(current->cpus_ptr));
}

/* That of a remote charging scope if one is open, else the current task's; counted. */
void *vexfs_memcg_get(void)
{
	return get_mem_cgroup_from_mm(NULL);
}

void *vexfs_memcg_enter(void *memcg)
{
	return set_active_memcg(memcg);
}

void vexfs_memcg_put(void *memcg)
{
	mem_cgroup_put(memcg);
}

/*
 * Vector registers, one way for each architecture: whether there are any, whether this task
 * may use them now, and how it takes and returns them. All of them keep the task on its
 * processor.
 *
 * User-Mode Linux defines CONFIG_X86_64 and CONFIG_UML, but not CONFIG_X86. Its kernel runs in
 * an ordinary process of the host, which keeps the registers; only a switch between its tasks
 * would lose them.
 */
#if defined(CONFIG_UML)
static bool fpu_exists(void)
{
	return true;
}

static bool fpu_usable(void)
{
	return true;
}

static void fpu_begin(void)
{
	preempt_disable();
}

static void fpu_end(void)
{
	preempt_enable();
}
#elif defined(CONFIG_X86)
static bool fpu_exists(void)
{
	return true;
}

static bool fpu_usable(void)
{
	return irq_fpu_usable();
}

static void fpu_begin(void)
{
	kernel_fpu_begin();
}

static void fpu_end(void)
{
	kernel_fpu_end();
}
#elif defined(CONFIG_ARM64)
static bool fpu_exists(void)
{
	return kernel_fpu_available();
}

static bool fpu_usable(void)
{
	/* kernel_neon_begin() has a BUG_ON() for each of these. */
	return may_use_simd() && !test_thread_flag(TIF_KERNEL_FPSTATE);
}

static void fpu_begin(void)
{
	kernel_fpu_begin();
	/* Rounding and flushing to zero are still as user space set them. */
	write_sysreg_s(0, SYS_FPCR);
}

static void fpu_end(void)
{
	kernel_fpu_end();
}
#else
#error "VexFS has vector kernels for x86-64 and arm64 only"
#endif

static DEFINE_PER_CPU(bool, vexfs_section_open);

/* How often the current task gave up its processor. */
static unsigned long switches(void)
{
	return current->nvcsw + current->nivcsw;
}

bool vexfs_fpu_exists(void)
{
	return fpu_exists();
}

bool vexfs_fpu_begin(unsigned long *switched)
{
	/*
	 * An open section keeps its task on its processor, so in task context the mark can
	 * only be this task's own.
	 */
	if (!in_task() || WARN_ON_ONCE(this_cpu_read(vexfs_section_open)) || !fpu_usable())
		return false;
	fpu_begin();
	__this_cpu_write(vexfs_section_open, true);
	*switched = switches();
	return true;
}

void vexfs_fpu_end(unsigned long switched)
{
	/*
	 * Sleeping is what loses the registers. Where preemption is counted the scheduler
	 * complains first; this sees it on every kernel.
	 */
	WARN_ONCE(switches() != switched, "vexfs: slept while using vector registers\n");
	__this_cpu_write(vexfs_section_open, false);
	fpu_end();
}

#if defined(CONFIG_UML) || defined(CONFIG_X86)
bool vexfs_cpu_has_avx2(void)
{
	return boot_cpu_has(X86_FEATURE_AVX2) && boot_cpu_has(X86_FEATURE_FMA);
}

bool vexfs_cpu_has_avx512(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512F) && boot_cpu_has(X86_FEATURE_AVX512BW) &&
	       boot_cpu_has(X86_FEATURE_AVX512VL) && boot_cpu_has(X86_FEATURE_AVX512DQ);
}

bool vexfs_cpu_has_avx512_vnni(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512_VNNI) && boot_cpu_has(X86_FEATURE_AVX512_VPOPCNTDQ);
}

bool vexfs_cpu_has_avx512_bf16(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512_BF16);
}
#else
bool vexfs_cpu_has_avx2(void)
{
	return false;
}

bool vexfs_cpu_has_avx512(void)
{
	return false;
}

bool vexfs_cpu_has_avx512_vnni(void)
{
	return false;
}

bool vexfs_cpu_has_avx512_bf16(void)
{
	return false;
}
#endif

bool vexfs_cpu_has_neon_dot(void)
{
#ifdef CONFIG_ARM64
	/* What the processors of a machine have in common, however they differ. */
	return cpu_have_named_feature(ASIMDDP) && cpu_have_named_feature(ASIMDHP) &&
	       cpu_have_named_feature(ASIMDFHM);
#else
	return false;
#endif
}

struct kmem_cache *vexfs_inode_cache_create(const char *name, unsigned int size,
					    void (*ctor)(void *object))
{
	return kmem_cache_create(name, size, 0, SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, ctor);
}
