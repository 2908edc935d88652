// SPDX-License-Identifier: GPL-2.0
/*
 * Which blocks a file has: truncation, preallocation and its modes, seeking for data, fiemap, files
 * in many pieces. What was in blocks before never shows.
 */
#include "vexfs_test.h"
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

CASE(truncate_down_frees_and_up_zeroes)
{
	char *buf = malloc(200000);
	int fd;

	ASSERT_EQ(0, put("f", 200000, 1));
	fd = open("f", O_RDWR);
	OK(ftruncate(fd, 5001));
	EXPECT_TRUE(holds("f", 5001, 1));
	OK(ftruncate(fd, 200000));
	for (int pass = 0; pass < 2; pass++) {
		ASSERT_EQ(200000, pread(fd, buf, 200000, 0));
		EXPECT_EQ(0, differs(buf, 5001, 1, 0));
		EXPECT_TRUE(all_zero(buf + 5001, 200000 - 5001));
		drop_caches();
	}
	OK(truncate("f", 0));
	EXPECT_EQ(0, stat_of("f").st_blocks);
}

CASE(the_tail_of_the_last_block_is_zero_after_every_size)
{
	char buf[8192];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	for (int size = 1; size < 4200; size += 389) {
		memset(buf, 0xee, sizeof(buf));
		ASSERT_EQ(8192, pwrite(fd, buf, 8192, 0));
		if (size % 2) {
			OK(fsync(fd));
		}
		OK(ftruncate(fd, size));
		if (size % 3 == 0) {
			drop_caches();
		}
		OK(ftruncate(fd, 8192));
		ASSERT_EQ(8192, pread(fd, buf, 8192, 0));
		ASSERT_TRUE(all_zero(buf + size, 8192 - size)) TH_LOG("size %d", size);
	}
}

CASE(extending_by_write_zeroes_the_old_tail)
{
	char buf[20000];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	memset(buf, 0xee, sizeof(buf));
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 0));
	OK(ftruncate(fd, 100));
	ASSERT_EQ(1, pwrite(fd, "y", 1, 19999));
	drop_caches();
	ASSERT_EQ(20000, pread(fd, buf, 20000, 0));
	EXPECT_EQ((char)0xee, buf[99]);
	EXPECT_TRUE(all_zero(buf + 100, 19899));
	EXPECT_EQ('y', buf[19999]);
}

CASE(old_contents_never_show_in_new_files)
{
	char *buf = malloc(1 << 20);
	int fd;

	/* Leaves recognisable bytes on the disk, then asks for their blocks. */
	memset(buf, 0xa5, 1 << 20);
	for (int i = 0; i < 8; i++) {
		fd = open("old", O_RDWR | O_CREAT, 0644);
		ASSERT_EQ(1 << 20, write(fd, buf, 1 << 20));
		OK(fsync(fd));
		close(fd);
		OK(unlink("old"));
	}
	sync();
	fd = open("new", O_RDWR | O_CREAT, 0644);
	if (fallocate(fd, 0, 0, 1 << 20)) {
		OK(ftruncate(fd, 1 << 20));
	}
	for (int i = 0; i < 100; i++) {
		ASSERT_EQ(1, pwrite(fd, "x", 1, i * 10007));
	}
	drop_caches();
	ASSERT_EQ(1 << 20, pread(fd, buf, 1 << 20, 0));
	for (int i = 0; i < 1 << 20; i++) {
		ASSERT_EQ(i % 10007 == 0 && i / 10007 < 100 ? 'x' : 0, buf[i]) {
			TH_LOG("byte %d", i);
		}
	}
}

CASE(seek_data_and_seek_hole_agree_with_what_was_written)
{
	char buf[4096];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	memset(buf, 1, sizeof(buf));
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 1 << 20));
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 3 << 20));
	OK(ftruncate(fd, 5 << 20));
	for (int pass = 0; pass < 2; pass++) {
		EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));
		EXPECT_EQ(1 << 20, lseek(fd, 0, SEEK_DATA));
		EXPECT_EQ((1 << 20) + 7, lseek(fd, (1 << 20) + 7, SEEK_DATA));
		EXPECT_EQ((1 << 20) + 4096, lseek(fd, 1 << 20, SEEK_HOLE));
		EXPECT_EQ(3 << 20, lseek(fd, 2 << 20, SEEK_DATA));
		EXPECT_EQ((3 << 20) + 4096, lseek(fd, (3 << 20) + 1, SEEK_HOLE));
		EXPECT_EQ(ENXIO, ERR(lseek(fd, 4 << 20, SEEK_DATA)));
		EXPECT_EQ(4 << 20, lseek(fd, 4 << 20, SEEK_HOLE));
		EXPECT_EQ(ENXIO, ERR(lseek(fd, 5 << 20, SEEK_HOLE)));
		EXPECT_EQ(ENXIO, ERR(lseek(fd, 6 << 20, SEEK_DATA)));
		/* First as dirty pages, then as extents. */
		OK(fsync(fd));
		drop_caches();
	}
}

FIXTURE(falloc_mode) { char path[PATH_MAX]; };
FIXTURE_VARIANT(falloc_mode) { int mode; };
FIXTURE_VARIANT_ADD(falloc_mode, plain) { .mode = 0 };
FIXTURE_VARIANT_ADD(falloc_mode, keep_size) { .mode = FALLOC_FL_KEEP_SIZE };
FIXTURE_VARIANT_ADD(falloc_mode, punch_hole) {
	.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
FIXTURE_VARIANT_ADD(falloc_mode, zero_range) { .mode = FALLOC_FL_ZERO_RANGE };
FIXTURE_VARIANT_ADD(falloc_mode, zero_range_keep_size) {
	.mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };
FIXTURE_VARIANT_ADD(falloc_mode, collapse_range) { .mode = FALLOC_FL_COLLAPSE_RANGE };
FIXTURE_VARIANT_ADD(falloc_mode, insert_range) { .mode = FALLOC_FL_INSERT_RANGE };
BOX_SETUP(falloc_mode, "VEXFS_TEST_DIR")
BOX_TEARDOWN(falloc_mode)

/* Works as documented, or is EOPNOTSUPP and changes nothing. */
TEST_F_TIMEOUT(falloc_mode, works_or_is_eopnotsupp, CASE_SECONDS)
{
	const long size = 100000, off = 8192, len = 20480;
	long from = off, to = off + len, want = size;
	unsigned char *model = calloc(1, 300000), *back = malloc(300000);
	int fd, err, mode = variant->mode;

	ASSERT_EQ(0, put("f", size, 1));
	fd = open("f", O_RDWR);
	OK(fsync(fd));
	fill(model, size, 1, 0);
	if (!(mode & ~FALLOC_FL_KEEP_SIZE)) {
		/* Past the end, unaligned. */
		from = size - 5;
		to = size + 50000;
		err = ERR(fallocate(fd, mode, from, to - from));
		want = mode ? size : to;
	} else {
		if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
			from += 100;
			to += 333;
		}
		err = ERR(fallocate(fd, mode, from, to - from));
		if (mode & FALLOC_FL_COLLAPSE_RANGE) {
			memmove(model + from, model + to, size - to);
			want = size - len;
		} else if (mode & FALLOC_FL_INSERT_RANGE) {
			memmove(model + to, model + from, size - from);
			memset(model + from, 0, len);
			want = size + len;
		} else {
			memset(model + from, 0, to - from);
		}
	}
	if (err) {
		ASSERT_EQ(EOPNOTSUPP, err);
		EXPECT_TRUE(holds("f", size, 1));
		SKIP(return, "fallocate mode %#x is EOPNOTSUPP", mode);
	}
	for (int pass = 0; pass < 2; pass++) {
		EXPECT_EQ(want, size_of("f"));
		ASSERT_EQ(want, pread(fd, back, 300000, 0));
		EXPECT_EQ(0, memcmp(model, back, want));
		drop_caches();
	}
	if (mode == FALLOC_FL_KEEP_SIZE) {
		EXPECT_LE((size + 50000) / 512, stat_of("f").st_blocks);
		OK(ftruncate(fd, size));
	}
}

CASE(fallocate_refuses_bad_arguments)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), ro;

	EXPECT_EQ(EINVAL, ERR(fallocate(fd, 0, -1, 10)));
	EXPECT_EQ(EINVAL, ERR(fallocate(fd, 0, 0, 0)));
	EXPECT_NE(0, ERR(fallocate(fd, 0x8000, 0, 10)));
	EXPECT_NE(0, ERR(fallocate(fd, 0, LLONG_MAX - 10, 100)));
	ro = open("f", O_RDONLY);
	EXPECT_EQ(EBADF, ERR(fallocate(ro, 0, 0, 10)));
	EXPECT_EQ(0, size_of("f"));
}

CASE(preallocated_space_reads_as_zeros_and_takes_writes)
{
	char *back = malloc(1 << 20);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	if (ERR(fallocate(fd, 0, 0, 1 << 20)) == EOPNOTSUPP)
		SKIP(return, "fallocate is EOPNOTSUPP");
	EXPECT_LE(2048, stat_of("f").st_blocks);
	fill(back, 10000, 2, 0);
	ASSERT_EQ(10000, pwrite(fd, back, 10000, 500001));
	drop_caches();
	ASSERT_EQ(1 << 20, pread(fd, back, 1 << 20, 0));
	EXPECT_TRUE(all_zero(back, 500001));
	EXPECT_EQ(0, differs(back + 500001, 10000, 2, 0));
	EXPECT_TRUE(all_zero(back + 510001, (1 << 20) - 510001));
}

CASE(fiemap_lists_the_extents)
{
	struct { struct fiemap map; struct fiemap_extent extents[64]; } f = { 0 };
	char buf[8192];
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	uint64_t end = 0;

	memset(buf, 1, sizeof(buf));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(8192, pwrite(fd, buf, 8192, i * 65536));
	}
	f.map.fm_length = ~0ull;
	f.map.fm_flags = FIEMAP_FLAG_SYNC;
	f.map.fm_extent_count = 64;
	if (ERR(ioctl(fd, FS_IOC_FIEMAP, &f)) == EOPNOTSUPP)
		SKIP(return, "no fiemap");
	ASSERT_EQ(20, f.map.fm_mapped_extents);
	for (int i = 0; i < 20; i++) {
		struct fiemap_extent *e = &f.extents[i];

		EXPECT_EQ(i * 65536, e->fe_logical);
		EXPECT_EQ(8192, e->fe_length);
		EXPECT_NE(0, e->fe_physical);
		EXPECT_LE(end, e->fe_logical);
		end = e->fe_logical + e->fe_length;
		EXPECT_EQ(i == 19, !!(e->fe_flags & FIEMAP_EXTENT_LAST));
	}
}

CASE(a_file_in_thousands_of_pieces_is_intact)
{
	char buf[4096];
	int fd = open("f", O_RDWR | O_CREAT, 0644), n = quick() ? 1500 : 4000;

	/* Every other block, in an order that splits and fills tree nodes. */
	for (int i = 0; i < n; i++) {
		long block = (i * 1117l % n) * 2;

		fill(buf, 4096, 9, block * 4096);
		ASSERT_EQ(4096, pwrite(fd, buf, 4096, block * 4096));
		if (i % 512 == 0) {
			OK(fdatasync(fd));
		}
	}
	drop_caches();
	for (int i = 0; i < 2 * n - 1; i++) {
		ASSERT_EQ(4096, pread(fd, buf, 4096, i * 4096l));
		if (i % 2) {
			ASSERT_TRUE(all_zero(buf, 4096)) TH_LOG("block %d", i);
		} else {
			ASSERT_EQ(0, differs(buf, 4096, 9, i * 4096l)) TH_LOG("block %d", i);
		}
	}
	/* Cut it in the middle of the tree, fill a gap, and look again. */
	OK(ftruncate(fd, n * 4096l));
	fill(buf, 4096, 9, 4096);
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 4096));
	drop_caches();
	EXPECT_EQ(4096, pread(fd, buf, 4096, 4096));
	EXPECT_EQ(0, differs(buf, 4096, 9, 4096));
	EXPECT_EQ(n * 4096l, size_of("f"));
	OK(fsync(fd));
	OK(ftruncate(fd, 0));
	EXPECT_EQ(0, stat_of("f").st_blocks);
}

TEST_HARNESS_MAIN
