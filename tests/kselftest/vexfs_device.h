/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The volume on the device while it is not mounted: blocks found by their magic, bits inverted, words replaced, and
 * checksums that fit what is there then.
 */
#ifndef VEXFS_DEVICE_H
#define VEXFS_DEVICE_H

#include "vexfs_test.h"

#define BLOCK 4096ul
enum { SB_AT = 1024 };

static inline uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
	static uint32_t table[256];
	const unsigned char *p = data;

	if (!table[1])
		for (int i = 0; i < 256; i++) {
			uint32_t c = i;

			for (int k = 0; k < 8; k++)
				c = c & 1 ? c >> 1 ^ 0x82f63b78 : c >> 1;
			table[i] = c;
		}
	while (len--)
		crc = table[(crc ^ *p++) & 255] ^ crc >> 8;
	return crc;
}

/* What checksums begin with, from the first blocks of the volume. */
static inline uint32_t volume_seed(const unsigned char *image)
{
	return crc32c(~0u, image + SB_AT + 16, 16);
}

/* The checksum of block @p at number @no with the common header. */
static inline uint32_t header_checksum(uint32_t seed, const unsigned char *p, uint64_t no)
{
	static const unsigned char zero[4];
	uint32_t sum = crc32c(seed, &no, 8);

	sum = crc32c(sum, p, 4);
	sum = crc32c(sum, zero, 4);
	return crc32c(sum, p + 8, BLOCK - 8);
}

/* Reads @len bytes at @at of the scratch device, or writes them; 0 if that was done. */
static inline int device_io(off_t at, void *bytes, size_t len, bool write)
{
	int dev = open(getenv("VEXFS_SCRATCH_DEV"), write ? O_RDWR : O_RDONLY);
	ssize_t done = write ? pwrite(dev, bytes, len, at) : pread(dev, bytes, len, at);
	int bad = done != (ssize_t)len || (write && fsync(dev));

	return bad | (dev < 0 ? -1 : close(dev));
}

/* Inverts bits @mask of byte @at. */
static inline int flip(off_t at, char mask)
{
	char byte;

	if (device_io(at, &byte, 1, false))
		return -1;
	byte ^= mask;
	return device_io(at, &byte, 1, true);
}

/* The first block that begins with @len bytes like @what; -1 if there is none. */
static inline off_t find_block(const void *what, size_t len)
{
	int dev = open(getenv("VEXFS_SCRATCH_DEV"), O_RDONLY);
	unsigned char block[BLOCK];
	bool found = false;
	off_t at;

	for (at = 0; pread(dev, block, BLOCK, at) == BLOCK; at += BLOCK)
		if ((found = !memcmp(block, what, len)))
			break;
	close(dev);
	return found ? at : -1;
}

/* Gives the block at @at, with the common header, a checksum that is right for its contents. */
static inline int seal_block(off_t at)
{
	unsigned char first[BLOCK], block[BLOCK];
	uint32_t sum;

	if (device_io(0, first, BLOCK, false) || device_io(at, block, BLOCK, false))
		return -1;
	sum = header_checksum(volume_seed(first), block, at / BLOCK);
	return device_io(at + 4, &sum, 4, true);
}

/*
 * An image of an index that lies in one piece: the header, checksums, then data blocks. Byte @at of
 * data block @d of the image with checksums at @sums.
 */
static inline off_t data_at(off_t sums, unsigned int d, unsigned int at)
{
	return sums + (1 + d) * BLOCK + at;
}

/* Replaces a word of a data block, under checksums that fit. */
static inline int set_data(off_t sums, unsigned int d, unsigned int at, uint32_t word)
{
	unsigned char first[BLOCK], block[BLOCK];
	uint64_t no = data_at(sums, d, 0) / BLOCK;
	uint32_t sum;

	if (device_io(data_at(sums, d, at), &word, 4, true) ||
	    device_io(0, first, BLOCK, false) || device_io(no * BLOCK, block, BLOCK, false))
		return -1;
	sum = crc32c(crc32c(volume_seed(first), &no, 8), block, BLOCK);
	return device_io(sums + 64 + 4 * d, &sum, 4, true) ?: seal_block(sums);
}

#endif /* VEXFS_DEVICE_H */
