// SPDX-License-Identifier: GPL-2.0
/* Superblocks, their devices, and mounting. See helpers.h. */

#include <linux/blkdev.h>
#include <linux/memcontrol.h>
#include <linux/seq_file.h>

#include "helpers.h"

#if !IS_ENABLED(CONFIG_JBD2) || !IS_ENABLED(CONFIG_FS_IOMAP)
#error "VexFS needs CONFIG_JBD2 and CONFIG_FS_IOMAP: enable CONFIG_EXT4_FS, which selects both"
#endif

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
