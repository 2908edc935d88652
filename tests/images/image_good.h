/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The good volume: files, directories, links and a container, which blocks hold their
 * contents, and its image.
 */
#include <linux/fiemap.h>
#include <linux/fs.h>
#include "image_format.h"

#define FILES 60

static int test_number;

static void die(const char *what)
{
	printf("# %s: %s\nnot ok %d preparation\n", what, strerror(errno), ++test_number);
	exit(1);
}

static size_t file_size(int i)
{
	return i % 5 == 0 ? 0 : (size_t)i * i * 31;
}

static void file_name(char *name, int i)
{
	sprintf(name, "d%d/file-%d", i % 3, i);
}

static const float *rows(void)
{
	static float *r;

	if (!r)
		r = new_rows(1, 0, 400, 32);
	return r;
}

static void note_data(const char *name)
{
	struct { struct fiemap map; struct fiemap_extent e[1000]; } f = { 0 };
	int fd = open(name, O_RDONLY);

	f.map.fm_length = ~0ull;
	f.map.fm_flags = FIEMAP_FLAG_SYNC;
	f.map.fm_extent_count = 1000;
	if (ioctl(fd, FS_IOC_FIEMAP, &f))
		die("fiemap");
	for (unsigned int i = 0; i < f.map.fm_mapped_extents; i++)
		for (uint64_t b = f.e[i].fe_physical / BLOCK;
		     b < (f.e[i].fe_physical + f.e[i].fe_length) / BLOCK && b < blocks; b++)
			is_data[b] = true;
	close(fd);
}

static void make_good(void)
{
	char name[300], target[600];
	int fd;

	for (int d = 0; d < 3; d++) {
		sprintf(name, "d%d", d);
		if (mkdir(name, 0755))
			die(name);
	}
	for (int i = 0; i < FILES; i++) {
		file_name(name, i);
		if (put(name, file_size(i), i))
			die(name);
	}
	/* A directory and a file big enough for trees of several nodes. */
	if (mkdir("big", 0755))
		die("big");
	for (int i = 0; i < 600; i++) {
		sprintf(name, "big/a-name-of-some-length-%d", i);
		if (i ? link("big/a-name-of-some-length-0", name) : put(name, 10, 77))
			die(name);
	}
	fd = open("pieces", O_RDWR | O_CREAT, 0644);
	for (int i = 0; i < 500; i++) {
		char block[BLOCK];

		fill(block, BLOCK, 5, i * 2 * BLOCK);
		if (pwrite(fd, block, BLOCK, i * 2 * BLOCK) != BLOCK)
			die("pieces");
	}
	if (fsync(fd))
		die("fsync");
	close(fd);
	memset(target, 'l', 500);
	target[500] = 0;
	if (symlink(target, "long") || symlink("short", "link") || mkfifo("fifo", 0644))
		die("links");
	fd = container("vectors", 32, VEXFS_METRIC_L2);
	if (fd >= 0) {
		uint64_t keys[400];

		for (int i = 0; i < 400; i++)
			keys[i] = i * 1000003;
		if (insert(fd, rows(), keys, 400) || delete_keys(fd, keys + 7, 50))
			die("vectors");
		close(fd);
		note_data("vectors");
	} else if (on_vexfs()) {
		die("vectors");
	}
	for (int i = 0; i < FILES; i++) {
		file_name(name, i);
		note_data(name);
	}
	note_data("pieces");
	note_data("big/a-name-of-some-length-0");
}

/* The image as it is on the disk now; buffers would show what is not there yet. */
static void snapshot(const char *disk)
{
	int fd = open(disk, O_RDONLY | O_DIRECT);

	for (size_t off = 0; off < blocks * BLOCK; ) {
		ssize_t n = pread(fd, good + off, blocks * BLOCK - off, off);

		if (n <= 0)
			die(disk);
		off += n;
	}
	close(fd);
}
