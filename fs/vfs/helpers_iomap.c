// SPDX-License-Identifier: GPL-2.0
/* iomap: reads, writeback, and faults of mappings. See helpers.h. */

#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>

#include "helpers.h"

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

void vexfs_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool vexfs_queue_work(struct workqueue_struct *queue, struct work_struct *work)
{
	return queue_work(queue, work);
}

vm_fault_t vexfs_vmf_error(int error)
{
	return vmf_fs_error(error);
}

struct workqueue_struct *vexfs_alloc_workqueue(const char *name)
{
	/* Writeback waits for it, so it needs a rescuer. */
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
}
