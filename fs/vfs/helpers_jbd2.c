// SPDX-License-Identifier: GPL-2.0
/* Buffers and the journal. See helpers.h. */

#include <linux/buffer_head.h>

#include "helpers.h"

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

tid_t vexfs_journal_commit_sequence(journal_t *journal)
{
	return READ_ONCE(journal->j_commit_sequence);
}
