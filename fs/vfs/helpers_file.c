// SPDX-License-Identifier: GPL-2.0
/* Directories and files. See helpers.h. */

#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/writeback.h>

#include "helpers.h"

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
