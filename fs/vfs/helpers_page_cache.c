// SPDX-License-Identifier: GPL-2.0
/* The page cache: folios, and rows that are read and written through it. See helpers.h. */

#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/prefetch.h>
#include <linux/uio.h>

#include "helpers.h"

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
	struct folio *folios[VEXFS_MAX_PARTS];
	unsigned int i;

	n = min(n, VEXFS_MAX_PARTS);
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
