/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The bytes of a volume as damage wants to know them: what kind of block each is, and
 * its checksum. What a block is can be told from its first bytes: metadata is
 * self-describing.
 */
#include "vector_test.h"
#include "vexfs_device.h"

#define GROUP_BLOCKS 32256ul

enum { SB_BYTES = 1024, INODE_BYTES = 512 };

static unsigned char *good, *copy;	/* the image, and the copy that is damaged */
static unsigned long blocks;
static bool *is_data;			/* blocks with file contents */

static uint32_t get32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint64_t get64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

enum kind { OTHER, SUPER, GROUPS, BLOCK_BITMAP, INODE_BITMAP, NODE, INODES, JOURNAL, KINDS };
static const char *const kind_name[] = {
	"other", "superblock", "group_descriptors", "block_bitmap", "inode_bitmap", "tree_node",
	"inode_table", "journal",
};

static uint64_t journal_start(void) { return get64(good + SB_AT + 128); }
static uint64_t journal_blocks(void) { return get32(good + SB_AT + 136); }

static enum kind kind_of(unsigned long block)
{
	const unsigned char *p = good + block * BLOCK;

	if (is_data[block])
		return OTHER;
	if (block >= journal_start() && block < journal_start() + journal_blocks())
		return JOURNAL;
	if (block % GROUP_BLOCKS == 0)
		return memcmp(p + SB_AT, good + SB_AT, 8) ? OTHER : SUPER;
	switch (get32(p)) {
	case 0x70724776: return GROUPS;		/* vGrp */
	case 0x706d4276: return BLOCK_BITMAP;	/* vBmp */
	case 0x706d4976: return INODE_BITMAP;	/* vImp */
	case 0x646f4e76: return NODE;		/* vNod */
	}
	for (int i = 0; i < 8; i++)
		if (p[i * INODE_BYTES] == 'v' && p[i * INODE_BYTES + 1] == 'I')
			return INODES;
	return OTHER;
}

/* Number of the inode at byte @at, from the place of its table in its group. */
static uint64_t inode_at(unsigned long at)
{
	unsigned long block = at / BLOCK, first = block;

	while (first && kind_of(first - 1) != INODE_BITMAP)
		first--;
	return get32(good + SB_AT + 104) * (block / GROUP_BLOCKS) + (at - first * BLOCK) / INODE_BYTES + 1;
}

/* Writes the checksum of @len bytes at @p to @at in them; @sum is of what goes before them. */
static void seal(unsigned char *p, size_t len, size_t at, uint32_t sum)
{
	static const unsigned char zero[4];

	sum = crc32c(sum, p, at);
	sum = crc32c(sum, zero, 4);
	sum = crc32c(sum, p + at + 4, len - at - 4);
	memcpy(p + at, &sum, 4);
}

/* Gives the block of byte @at a checksum that is right for its contents. */
static void reseal(unsigned long at)
{
	unsigned char *p = copy + at / BLOCK * BLOCK;
	uint64_t no = at / BLOCK, ino;
	uint32_t sum;

	switch (kind_of(no)) {
	case SUPER:
		seal(p + SB_AT, SB_BYTES, 8, ~0u);
		break;
	case GROUPS: case BLOCK_BITMAP: case INODE_BITMAP: case NODE:
		seal(p, BLOCK, 4, crc32c(volume_seed(copy), &no, 8));
		break;
	case INODES:
		ino = inode_at(at);
		p += at % BLOCK / INODE_BYTES * INODE_BYTES;
		/* With its number goes its generation. */
		sum = crc32c(volume_seed(copy), &ino, 8);
		seal(p, INODE_BYTES, 4, crc32c(sum, p + 28, 4));
		break;
	default:
		break;
	}
}

static void fresh(void)
{
	memcpy(copy, good, blocks * BLOCK);
}
