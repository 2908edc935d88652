/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain functions over what bindgen can't see: static inlines and macros of the
 * kernel's headers, and variadic functions. One call each, no logic; the Rust
 * side of fs/vfs holds the rest. Each part below is in a file of its own, helpers_*.c.
 */
#ifndef _VEXFS_VFS_HELPERS_H
#define _VEXFS_VFS_HELPERS_H

#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/io_uring/cmd.h>
#include <linux/iomap.h>
#include <linux/jbd2.h>

/* Superblocks and mounting: helpers_super.c. */
const char *vexfs_param_key(const struct fs_parameter *param);
const char *vexfs_param_string(const struct fs_parameter *param);
void vexfs_super_set_uuid(struct super_block *sb, const u8 *uuid, unsigned int len);
bool vexfs_sb_rdonly(struct super_block *sb);
void vexfs_sb_start_intwrite(struct super_block *sb);
void vexfs_sb_end_intwrite(struct super_block *sb);
u64 vexfs_bdev_bytes(struct super_block *sb);
u32 vexfs_logical_block_size(struct super_block *sb);
int vexfs_bdev_rw(struct super_block *sb, u64 block, void *data, size_t len, bool write);
bool vexfs_bdev_read_only(struct super_block *sb);

bool vexfs_shrink_is_global(struct shrink_control *control);

void vexfs_seq_puts(struct seq_file *seq, const char *text);

/* Inodes: helpers_inode.c. */
struct kmem_cache *vexfs_inode_cache_create(const char *name, unsigned int size,
					    void (*ctor)(void *object));
void *vexfs_alloc_inode(struct super_block *sb, struct kmem_cache *cache);
bool vexfs_inode_is_new(struct inode *inode);
loff_t vexfs_i_size_read(const struct inode *inode);
void vexfs_i_size_write(struct inode *inode, loff_t size);
u32 vexfs_i_uid_read(const struct inode *inode);
u32 vexfs_i_gid_read(const struct inode *inode);
void vexfs_i_uid_write(struct inode *inode, u32 uid);
void vexfs_i_gid_write(struct inode *inode, u32 gid);
struct timespec64 vexfs_inode_atime(const struct inode *inode);
struct timespec64 vexfs_inode_mtime(const struct inode *inode);
struct timespec64 vexfs_inode_ctime(const struct inode *inode);
void vexfs_inode_set_atime(struct inode *inode, struct timespec64 ts);
void vexfs_inode_set_mtime(struct inode *inode, struct timespec64 ts);
void vexfs_inode_set_nlink(struct inode *inode, unsigned int nlink);
void vexfs_inode_set_fop(struct inode *inode, const struct file_operations *fop);
unsigned int vexfs_inode_nlink(const struct inode *inode);
int vexfs_inode_count(const struct inode *inode);
void vexfs_inode_init_page_cache(struct inode *inode, bool large_folios);
void vexfs_inode_lock(struct inode *inode);
bool vexfs_inode_trylock(struct inode *inode);
void vexfs_inode_unlock(struct inode *inode);
void vexfs_inode_lock_shared(struct inode *inode);
bool vexfs_inode_trylock_shared(struct inode *inode);
void vexfs_inode_unlock_shared(struct inode *inode);
void vexfs_invalidate_lock(struct inode *inode);
void vexfs_invalidate_unlock(struct inode *inode);
void vexfs_invalidate_lock_shared(struct inode *inode);
void vexfs_invalidate_unlock_shared(struct inode *inode);
bool vexfs_mapping_busy(struct inode *inode);
bool vexfs_mapping_writably_mapped(struct inode *inode);
void vexfs_mark_inode_dirty(struct inode *inode);
void vexfs_set_delayed_kfree(struct delayed_call *call, void *buffer);

/* Directories and files: helpers_file.c. */
int vexfs_finish_open_simple(struct file *file, int error);
const u8 *vexfs_dentry_name(const struct dentry *dentry, size_t *len);
bool vexfs_wbc_for_fsync(const struct writeback_control *wbc);
void vexfs_file_set_modes(struct file *file);
bool vexfs_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
		    unsigned int type);
bool vexfs_dir_emit_dots(struct file *file, struct dir_context *ctx);
ssize_t vexfs_generic_write_sync(struct kiocb *iocb, ssize_t count);
bool vexfs_desc_shared_writable(const struct vm_area_desc *desc);
bool vexfs_desc_shared_may_write(const struct vm_area_desc *desc);
void vexfs_desc_forbid_write(struct vm_area_desc *desc);
loff_t vexfs_vfs_setpos(struct file *file, loff_t offset);
int vexfs_kiocb_modified(struct kiocb *iocb);
size_t vexfs_iov_iter_count(const struct iov_iter *iter);
size_t vexfs_copy_from_iter(void *to, size_t bytes, struct iov_iter *iter);
/* Constants that bindgen can't evaluate from their macros. */
static const unsigned int vexfs_sb_rdonly_flag = SB_RDONLY;
static const unsigned int vexfs_dirty_time = I_DIRTY_TIME;
static const unsigned int vexfs_seek_data = SEEK_DATA;
static const unsigned int vexfs_seek_hole = SEEK_HOLE;
static const unsigned int vexfs_dio_force_wait = IOMAP_DIO_FORCE_WAIT;
static const unsigned int vexfs_iocb_direct = (__force unsigned int)IOCB_DIRECT;
static const unsigned int vexfs_iocb_nowait = (__force unsigned int)IOCB_NOWAIT;
static const unsigned int vexfs_fmode_read = (__force unsigned int)FMODE_READ;
static const unsigned int vexfs_fmode_write = (__force unsigned int)FMODE_WRITE;
static const unsigned int vexfs_fop_flags = (__force unsigned int)(FOP_BUFFER_RASYNC | FOP_BUFFER_WASYNC);
static const int vexfs_uring_nonblock = IO_URING_F_NONBLOCK;
/* Reads the command's file and number and the words of its own; EINVAL if other fields are used. */
int vexfs_uring_cmd_read(struct io_uring_cmd *cmd, struct file **file, u32 *op, u64 words[2]);
void vexfs_file_accessed(struct file *file);

/* Buffers and the journal: helpers_jbd2.c. */
struct buffer_head *vexfs_sb_bread(struct super_block *sb, sector_t block);
struct buffer_head *vexfs_sb_getblk(struct super_block *sb, sector_t block);
void vexfs_sb_readahead(struct super_block *sb, sector_t block);
void vexfs_get_bh(struct buffer_head *bh);
void vexfs_brelse(struct buffer_head *bh);
void vexfs_bh_lock(struct buffer_head *bh);
void vexfs_bh_unlock(struct buffer_head *bh);
void vexfs_bh_set_uptodate(struct buffer_head *bh);
bool vexfs_bh_verified(struct buffer_head *bh);
void vexfs_bh_set_verified(struct buffer_head *bh);
void vexfs_bh_clear_verified(struct buffer_head *bh);
int vexfs_bh_write_sync(struct buffer_head *bh, bool fua);
void vexfs_clean_bdev_aliases(struct super_block *sb, sector_t block, sector_t len);

void vexfs_journal_set_barrier(journal_t *journal, bool on);
void vexfs_journal_set_commit_interval(journal_t *journal, unsigned int seconds);
tid_t vexfs_handle_tid(handle_t *handle);
u32 vexfs_handle_credits(handle_t *handle);
bool vexfs_journal_aborted(journal_t *journal);
bool vexfs_in_handle(void);
bool vexfs_journal_barrier(journal_t *journal);
tid_t vexfs_journal_commit_sequence(journal_t *journal);

/* Reads, writeback and faults of mappings: helpers_iomap.c. */
int vexfs_bio_read_folio(struct folio *folio, const struct iomap_ops *ops);
void vexfs_bio_readahead(struct readahead_control *rac, const struct iomap_ops *ops);
void vexfs_ioend_defer(struct iomap_ioend *ioend, bio_end_io_t *end_io);
int vexfs_ioend_error(struct iomap_ioend *ioend);
struct iomap_ioend *vexfs_ioend_from_bio(struct bio *bio);
void vexfs_ioend_isolate(struct iomap_ioend *ioend);
struct file *vexfs_fault_file(struct vm_fault *vmf);
loff_t vexfs_fault_folio_pos(struct vm_fault *vmf, size_t *len);
void vexfs_sb_start_pagefault(struct super_block *sb);
void vexfs_sb_end_pagefault(struct super_block *sb);
bool vexfs_queue_work(struct workqueue_struct *queue, struct work_struct *work);
vm_fault_t vexfs_vmf_error(int error);
void vexfs_init_work(struct work_struct *work, work_func_t func);
struct workqueue_struct *vexfs_alloc_workqueue(const char *name);

/* The page cache: helpers_page_cache.c. */
unsigned int vexfs_folio_run(struct address_space *mapping, pgoff_t first, pgoff_t last,
			     struct folio **folios, unsigned int max);
struct folio *vexfs_folio_at(struct address_space *mapping, pgoff_t index);
/* Parts of a file that are fetched beside each other. */
#define VEXFS_MAX_PARTS 16
void vexfs_prefetch_parts(struct address_space *mapping, const u64 *positions,
			  unsigned int n, size_t bytes);
void *vexfs_folio_address(struct folio *folio, size_t *bytes, loff_t *pos);
void vexfs_prefetch(const void *bytes, size_t len);
bool vexfs_folio_uptodate(struct folio *folio);
void vexfs_folio_put(struct folio *folio);
ssize_t vexfs_kernel_write(struct file *file, loff_t pos, const void *bytes, size_t len,
			   const struct iomap_ops *ops, const struct iomap_write_ops *write_ops);
ssize_t vexfs_user_write(struct file *file, loff_t pos, void __user *bytes, size_t len,
			 const struct iomap_ops *ops, const struct iomap_write_ops *write_ops);
void vexfs_readahead(struct address_space *mapping, pgoff_t first, unsigned long pages);
int vexfs_read_folio(struct address_space *mapping, pgoff_t index, struct folio **folio);

/* Tasks, locks, memory, and work for other threads: helpers_task.c. */
void vexfs_init_rwsem(struct rw_semaphore *sem);
void vexfs_init_rwlock(struct rw_semaphore *sem);
void vexfs_init_mutex(struct mutex *mutex);
void vexfs_mutex_lock(struct mutex *mutex);
int vexfs_mutex_lock_killable(struct mutex *mutex);
void vexfs_mutex_unlock(struct mutex *mutex);
unsigned int vexfs_nofs_save(void);
void vexfs_nofs_restore(unsigned int flags);
bool vexfs_fatal_signal_pending(void);
bool vexfs_task_is_killed(struct task_struct *task);
void vexfs_cond_resched(void);
bool vexfs_task_is_reclaiming(void);
void vexfs_wait_for_memory(void);
int vexfs_memory_node(void);
void *vexfs_chunk_alloc(size_t bytes, bool ones, int node);
void vexfs_chunk_free(void *chunk, size_t bytes);
struct workqueue_struct *vexfs_alloc_workers(const char *name);
unsigned int vexfs_usable_cpus(void);
void *vexfs_memcg_get(void);
void *vexfs_memcg_enter(void *memcg);
void vexfs_memcg_put(void *memcg);

extern const gfp_t vexfs_gfp_nofs;

/*
 * Vector registers, and the module's parameters, which are about them: helpers_fpu.c. Begin says
 * whether they may be used, and if so @switched is for the end.
 */
const char *vexfs_simd_parameter(void);
unsigned int vexfs_section_parameter(void);
bool vexfs_fpu_exists(void);
bool vexfs_fpu_begin(unsigned long *switched);
void vexfs_fpu_end(unsigned long switched);
bool vexfs_cpu_has_avx2(void);
bool vexfs_cpu_has_avx512(void);
bool vexfs_cpu_has_avx512_vnni(void);
bool vexfs_cpu_has_avx512_bf16(void);
bool vexfs_cpu_has_neon_dot(void);

#endif /* _VEXFS_VFS_HELPERS_H */
