// SPDX-License-Identifier: GPL-2.0
/*
 * Mapped files: shared and private writes, msync, the end of the file, holes,
 * and mappings beside truncate, read and write.
 */
#include "vexfs_test.h"

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

static char *map(int fd, size_t len, int prot, int flags)
{
	char *p = mmap(NULL, len, prot, flags, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

#define RW (PROT_READ | PROT_WRITE)

CASE(a_shared_mapping_shows_the_file)
{
	char *p;
	int fd;

	ASSERT_EQ(0, put("f", 100000, 1));
	fd = open("f", O_RDONLY);
	p = map(fd, 100000, PROT_READ, MAP_SHARED);
	ASSERT_NE(NULL, p);
	EXPECT_EQ(0, differs(p, 100000, 1, 0));
	/* The rest of the last page reads as zeros. */
	EXPECT_TRUE(all_zero(p + 100000, 102400 - 100000));
	EXPECT_EQ(EACCES, ERR((long)mmap(NULL, 4096, RW, MAP_SHARED, fd, 0)));
}

CASE(shared_writes_reach_the_file_and_the_disk)
{
	char back[8192], *p;
	int fd;

	ASSERT_EQ(0, put("f", 100000, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 100000, RW, MAP_SHARED);
	fill(p + 5000, 6000, 2, 0);
	ASSERT_EQ(6000, pread(fd, back, 6000, 5000));
	EXPECT_EQ(0, differs(back, 6000, 2, 0));
	OK(msync(p, 100000, MS_SYNC));
	OK(munmap(p, 100000));
	drop_caches();
	ASSERT_EQ(6000, pread(fd, back, 6000, 5000));
	EXPECT_EQ(0, differs(back, 6000, 2, 0));
}

CASE(shared_writes_survive_without_msync)
{
	char back[4096], *p;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ftruncate(fd, 1 << 20));
	p = map(fd, 1 << 20, RW, MAP_SHARED);
	fill(p + 70000, 4096, 2, 0);
	OK(munmap(p, 1 << 20));
	close(fd);
	drop_caches();
	fd = open("f", O_RDONLY);
	ASSERT_EQ(4096, pread(fd, back, 4096, 70000));
	EXPECT_EQ(0, differs(back, 4096, 2, 0));
}

CASE(writes_show_in_the_mapping)
{
	char buf[5000], *p;
	int fd;

	ASSERT_EQ(0, put("f", 20000, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 20000, PROT_READ, MAP_SHARED);
	EXPECT_EQ(0, differs(p, 20000, 1, 0));
	fill(buf, 5000, 2, 0);
	ASSERT_EQ(5000, pwrite(fd, buf, 5000, 3000));
	EXPECT_EQ(0, differs(p + 3000, 5000, 2, 0));
}

CASE(private_writes_stay_private)
{
	char *p;
	int fd;

	ASSERT_EQ(0, put("f", 8192, 1));
	fd = open("f", O_RDONLY);
	p = map(fd, 8192, RW, MAP_PRIVATE);
	memset(p, 0x77, 8192);
	OK(munmap(p, 8192));
	drop_caches();
	EXPECT_TRUE(holds("f", 8192, 1));
}

CASE(beyond_the_end_is_sigbus)
{
	char *p;
	int fd;

	ASSERT_EQ(0, put("f", 5000, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 16384, RW, MAP_SHARED);
	EXPECT_FALSE(load_faults(p + 4999));
	EXPECT_FALSE(store_faults(p + 8191, 1));
	EXPECT_TRUE(load_faults(p + 8192));
	EXPECT_TRUE(store_faults(p + 12288, 1));
	EXPECT_EQ(5000, size_of("f"));
	OK(ftruncate(fd, 16384));
	EXPECT_FALSE(store_faults(p + 12288, 1));
	/* What was stored behind the old end must not appear. */
	EXPECT_EQ(0, p[8191]);
	OK(ftruncate(fd, 100));
	EXPECT_TRUE(load_faults(p + 4096));
	EXPECT_FALSE(load_faults(p));
}

CASE(stores_behind_the_end_do_not_reach_the_file)
{
	char back[4096], *p;
	int fd;

	ASSERT_EQ(0, put("f", 100, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 4096, RW, MAP_SHARED);
	memset(p + 100, 0x55, 3996);
	OK(msync(p, 4096, MS_SYNC));
	OK(munmap(p, 4096));
	OK(ftruncate(fd, 4096));
	drop_caches();
	ASSERT_EQ(4096, pread(fd, back, 4096, 0));
	EXPECT_EQ(0, differs(back, 100, 1, 0));
	EXPECT_TRUE(all_zero(back + 100, 3996));
}

CASE(stores_into_holes_allocate)
{
	char back[4096], *p;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ftruncate(fd, 64 << 20));
	p = map(fd, 64 << 20, RW, MAP_SHARED);
	for (long i = 0; i < 64 << 20; i += 1234567) {
		p[i] = i % 251 + 1;
	}
	OK(msync(p, 64 << 20, MS_SYNC));
	EXPECT_GE(55 * 8 * 16, stat_of("f").st_blocks);
	OK(munmap(p, 64 << 20));
	drop_caches();
	for (long i = 0; i < 64 << 20; i += 1234567) {
		ASSERT_EQ(1, pread(fd, back, 1, i));
		ASSERT_EQ(i % 251 + 1, (unsigned char)back[0]);
	}
	ASSERT_EQ(4096, pread(fd, back, 4096, 8192));
	EXPECT_TRUE(all_zero(back, 4096));
}

CASE(reading_a_hole_then_storing_into_it)
{
	char back[4096], *p;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ftruncate(fd, 16384));
	p = map(fd, 16384, RW, MAP_SHARED);
	EXPECT_TRUE(all_zero(p, 16384));
	p[5000] = 'x';
	ASSERT_EQ(1, pread(fd, back, 1, 5000));
	EXPECT_EQ('x', back[0]);
	OK(munmap(p, 16384));
	drop_caches();
	ASSERT_EQ(4096, pread(fd, back, 4096, 4096));
	EXPECT_EQ('x', back[5000 - 4096]);
	EXPECT_TRUE(all_zero(back, 5000 - 4096));
}

CASE(msync_after_each_store_keeps_all_of_them)
{
	char *p, *back = malloc(40960);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ftruncate(fd, 40960));
	p = map(fd, 40960, RW, MAP_SHARED);
	for (int i = 0; i < 40; i++) {
		p[i * 1000] = i + 1;
		OK(msync(p + (i * 1000 & ~4095), 4096, MS_SYNC));
	}
	drop_caches();
	ASSERT_EQ(40960, pread(fd, back, 40960, 0));
	for (int i = 0; i < 40; i++) {
		EXPECT_EQ(i + 1, back[i * 1000]);
	}
}

CASE(writing_from_a_mapping_of_the_same_file)
{
	char *p, *want = malloc(65536);
	int fd;

	/* Source and target pages are the same ones: no deadlock. */
	ASSERT_EQ(0, put("f", 131072, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 131072, PROT_READ, MAP_SHARED);
	fill(want, 65536, 1, 0);
	ASSERT_EQ(65536, pwrite(fd, p, 65536, 65536));
	EXPECT_EQ(0, memcmp(want, p + 65536, 65536));
	drop_caches();
	ASSERT_EQ(8192, pwrite(fd, p + 4096, 8192, 4096));
	EXPECT_EQ(0, differs(p + 4096, 8192, 1, 4096));
}

CASE(reading_into_a_mapping_of_the_same_file)
{
	char *p;
	int fd;

	ASSERT_EQ(0, put("f", 131072, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 131072, RW, MAP_SHARED);
	drop_caches();
	ASSERT_EQ(65536, pread(fd, p + 65536, 65536, 0));
	EXPECT_EQ(0, differs(p + 65536, 65536, 1, 0));
}

static void *truncating(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < 400; i++)
		if (ftruncate(fd, i % 2 ? 200000 : 4096))
			return (void *)(long)errno;
	return NULL;
}

CASE(truncate_beside_stores_neither_hangs_nor_crashes)
{
	volatile char *p;
	pthread_t thread;
	void *result;
	int fd, faults = 0;

	ASSERT_EQ(0, put("f", 200000, 1));
	fd = open("f", O_RDWR);
	p = map(fd, 200000, RW, MAP_SHARED);
	pthread_create(&thread, NULL, truncating, &fd);
	for (int i = 0; i < 4000; i++)
		faults += store_faults(p + (i * 4099) % 200000, i);
	pthread_join(thread, &result);
	EXPECT_EQ(0, (long)result) {
		TH_LOG("ftruncate: %s", strerror((long)result));
	}
	EXPECT_FALSE(store_faults(p, 1));
	TH_LOG("%d of 4000 stores met the end", faults);
	OK(ftruncate(fd, 200000));
}

CASE(mmap_at_offsets_beyond_4_GiB)
{
	long long off = 5ll << 30;
	char back[16], *p;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ftruncate(fd, off + 8192));
	p = mmap(NULL, 8192, RW, MAP_SHARED, fd, off);
	ASSERT_NE(MAP_FAILED, p);
	memcpy(p + 100, "far away", 9);
	OK(munmap(p, 8192));
	drop_caches();
	ASSERT_EQ(9, pread(fd, back, 9, off + 100));
	EXPECT_STREQ("far away", back);
}

CASE(programs_can_be_run_from_here)
{
	char buf[65536];
	int in = open("/bin/true", O_RDONLY), out, status;
	ssize_t n;

	out = open("prog", O_WRONLY | O_CREAT, 0755);
	ASSERT_LE(0, in);
	while ((n = read(in, buf, sizeof(buf))) > 0) {
		ASSERT_EQ(n, write(out, buf, n));
	}
	close(out);
	status = system("./prog");
	EXPECT_EQ(0, status);
	OK(chmod("prog", 0644));
	EXPECT_EQ(EACCES, ERR(execl("./prog", "prog", NULL)));
}

TEST_HARNESS_MAIN
