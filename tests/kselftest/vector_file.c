// SPDX-License-Identifier: GPL-2.0
/*
 * A container as a file: its bytes are the matrix, through read, write and mmap,
 * and nothing that is done to files may break its rows.
 */
#include "vector_test.h"
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/sendfile.h>

VECTOR_FIXTURE(box)

/* 16 elements are 64 bytes: a stride without padding at any usual alignment. */
#define DIM 16
#define ROW (DIM * 4)

static int filled(const char *name, unsigned int n)
{
	float *rows = new_rows(1, 0, n, DIM);
	int fd = container(name, DIM, VEXFS_METRIC_L2);

	if (fd < 0 || (n && insert(fd, rows, NULL, n)))
		return -1;
	free(rows);
	return fd;
}

static bool intact(int fd, unsigned int n)
{
	float *rows = new_rows(1, 0, n, DIM), *got = malloc(n * ROW + ROW);
	struct vexfs_vector_stats st = stats_of(fd);
	bool same;

	same = st.rows == n && st.live == n && pread(fd, got, n * ROW + ROW, 0) == n * ROW &&
		!memcmp(rows, got, n * ROW);
	free(rows);
	free(got);
	return same;
}

CASE(reading_gives_the_rows)
{
	int fd = filled("f", 1000);

	ASSERT_EQ(ROW, stats_of(fd).stride);
	EXPECT_EQ(1000 * ROW, size_of("f"));
	EXPECT_TRUE(intact(fd, 1000));
	OK(fsync(fd));
	drop_caches();
	EXPECT_TRUE(intact(fd, 1000));
}

CASE(a_shared_readable_mapping_gives_the_rows)
{
	float *rows = new_rows(1, 0, 1000, DIM), *p;
	int fd = filled("f", 1000);

	p = mmap(NULL, 1000 * ROW, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, memcmp(p, rows, 1000 * ROW));
	/* Rows that come later appear in it as well. */
	p = mmap(NULL, 2000 * ROW, PROT_READ, MAP_SHARED, open("f", O_RDONLY), 0);
	ASSERT_NE(MAP_FAILED, p);
	OK(insert(fd, rows, NULL, 500));
	EXPECT_EQ(0, memcmp(p, rows, 1000 * ROW));
	EXPECT_EQ(0, memcmp(p + 1000 * DIM, rows, 500 * ROW));
}

CASE(writable_shared_mappings_are_refused)
{
	int fd = filled("f", 100);
	char *p;

	EXPECT_EQ(EACCES, ERR((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
	EXPECT_EQ(EACCES, ERR((long)mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0)));
	EXPECT_EQ(EACCES, ERR((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					 MAP_SHARED_VALIDATE, fd, 0)));
	/* Not by the back door either. */
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(EACCES, ERR(mprotect(p, 4096, PROT_READ | PROT_WRITE)));
	EXPECT_TRUE(intact(fd, 100));
}

CASE(private_mappings_may_be_written)
{
	int fd = filled("f", 100);
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	memset(p, 0xff, 4096);
	EXPECT_TRUE(intact(fd, 100));
}

CASE(whole_rows_can_be_appended_by_write)
{
	float *rows = new_rows(1, 0, 300, DIM);
	struct model m = { DIM, VEXFS_METRIC_L2, 300, rows };
	struct vexfs_search s = { 0 };
	int fd = filled("f", 100), app;

	ASSERT_EQ(100 * ROW, pwrite(fd, rows + 100 * DIM, 100 * ROW, 100 * ROW));
	app = open("f", O_WRONLY | O_APPEND);
	ASSERT_EQ(ROW, write(app, rows + 200 * DIM, ROW));
	ASSERT_EQ(99 * ROW, write(app, rows + 201 * DIM, 99 * ROW));
	EXPECT_TRUE(intact(fd, 300));
	EXPECT_SEARCH(fd, &m, rows + 250 * DIM, 10, &s);
	EXPECT_EQ(250, get_key(fd, 250, NULL, NULL));
}

CASE(an_empty_container_can_be_filled_by_write)
{
	float *rows = new_rows(1, 0, 50, DIM);
	int fd = filled("f", 0);

	ASSERT_EQ(50 * ROW, write(fd, rows, 50 * ROW));
	EXPECT_TRUE(intact(fd, 50));
}

CASE(whole_rows_can_be_overwritten)
{
	float *rows = new_rows(1, 0, 100, DIM), *other = new_rows(2, 0, 10, DIM);
	struct model m = { DIM, VEXFS_METRIC_L2, 100, rows };
	struct vexfs_search s = { 0 };
	int fd = filled("f", 100);
	uint64_t generation = stats_of(fd).generation;

	ASSERT_EQ(10 * ROW, pwrite(fd, other, 10 * ROW, 40 * ROW));
	memcpy(rows + 40 * DIM, other, 10 * ROW);
	EXPECT_EQ(100, stats_of(fd).rows);
	EXPECT_EQ(100, stats_of(fd).live);
	EXPECT_LT(generation, stats_of(fd).generation);
	EXPECT_SEARCH(fd, &m, other + 3 * DIM, 10, &s);
	EXPECT_SEARCH(fd, &m, rows, 100, &s);
}

CASE(an_overwrite_may_run_into_an_append)
{
	float *rows = new_rows(1, 0, 110, DIM);
	struct model m = { DIM, VEXFS_METRIC_L2, 110, rows };
	struct vexfs_search s = { 0 };
	int fd = filled("f", 100);

	ASSERT_EQ(20 * ROW, pwrite(fd, rows + 90 * DIM, 20 * ROW, 90 * ROW));
	EXPECT_EQ(110, stats_of(fd).rows);
	EXPECT_SEARCH(fd, &m, rows + 105 * DIM, 110, &s);
}

CASE(partial_rows_are_einval)
{
	char buf[4 * ROW] = { 0 };
	int fd = filled("f", 100);

	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, 1, 0)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, ROW - 1, 0)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, ROW + 4, 0)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, ROW, 4)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, ROW, 100 * ROW - 4)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, ROW - 4, 100 * ROW)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, buf, 2 * ROW + 1, 100 * ROW)));
	EXPECT_TRUE(intact(fd, 100));
	EXPECT_EQ(0, pwrite(fd, buf, 0, 0));
}

CASE(a_write_may_not_leave_a_gap)
{
	float row[DIM] = { 0 };
	int fd = filled("f", 100);

	EXPECT_EQ(EINVAL, ERR(pwrite(fd, row, ROW, 101 * ROW)));
	EXPECT_EQ(EINVAL, ERR(pwrite(fd, row, ROW, 1ll << 40)));
	EXPECT_NE(0, ERR(pwrite(fd, row, ROW, LLONG_MAX / ROW * ROW - ROW)));
	EXPECT_TRUE(intact(fd, 100));
}

CASE(writes_must_be_finite)
{
	float *rows = new_rows(1, 0, 10, DIM);
	int fd = filled("f", 100);

	for (int i = 0; i < 3; i++) {
		int at = i * 79;

		rows[at] = i == 1 ? INFINITY : NAN;
		EXPECT_EQ(EINVAL, ERR(pwrite(fd, rows, 10 * ROW, 50 * ROW)));
		EXPECT_EQ(EINVAL, ERR(pwrite(fd, rows, 10 * ROW, 100 * ROW)));
		rows[at] = 0;
	}
	EXPECT_TRUE(intact(fd, 100));
}

CASE(a_write_from_bad_memory_changes_nothing)
{
	int fd = filled("f", 100);

	EXPECT_EQ(EFAULT, ERR(pwrite(fd, NOWHERE, ROW, 0)));
	EXPECT_EQ(EFAULT, ERR(pwrite(fd, NOWHERE, ROW, 100 * ROW)));
	EXPECT_TRUE(intact(fd, 100));
}

CASE(truncation_is_refused)
{
	int fd = filled("f", 100);

	EXPECT_NE(0, ERR(ftruncate(fd, 0)));
	EXPECT_NE(0, ERR(ftruncate(fd, 50 * ROW)));
	EXPECT_NE(0, ERR(ftruncate(fd, 50 * ROW + 3)));
	EXPECT_NE(0, ERR(ftruncate(fd, 200 * ROW)));
	EXPECT_NE(0, ERR(truncate("f", 0)));
	EXPECT_NE(0, ERR(open("f", O_RDWR | O_TRUNC)));
	EXPECT_TRUE(intact(fd, 100));
}

CASE(fallocate_does_not_break_rows)
{
	static const int modes[] = {
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
	};
	int fd = filled("f", 1000);

	for (int i = 0; i < 5; i++) {
		EXPECT_NE(0, ERR(fallocate(fd, modes[i], 4096, 8192))) TH_LOG("mode %#x", modes[i]);
	}
	/* Growing by zeros would make rows nobody wrote. */
	EXPECT_NE(0, ERR(fallocate(fd, 0, 0, 2000 * ROW)));
	EXPECT_TRUE(intact(fd, 1000));
}

CASE(copies_into_a_container_are_whole_rows_or_refused)
{
	int fd = filled("f", 100), in, pipes[2];
	loff_t from = 0, to = 100 * ROW;
	char junk[100];
	uint64_t rows;

	ASSERT_EQ(0, put("in", 10 * ROW + 1, 1));
	in = open("in", O_RDONLY);
	(void)!copy_file_range(in, &from, fd, &to, 10 * ROW + 1, 0);
	(void)!sendfile(fd, in, NULL, 10 * ROW + 1);
	OK(pipe(pipes));
	memset(junk, 0, sizeof(junk));
	ASSERT_EQ(100, write(pipes[1], junk, 100));
	to = 0;
	(void)!splice(pipes[0], NULL, fd, &to, 100, 0);
	rows = stats_of(fd).rows;
	EXPECT_EQ(rows * ROW, size_of("f"));
}

CASE(direct_io_reads_rows_and_writes_are_checked_as_well)
{
	float *buf = NULL;
	int fd = filled("f", 1024), direct;

	ASSERT_EQ(0, posix_memalign((void **)&buf, 4096, 65536));
	OK(fsync(fd));
	direct = open("f", O_RDWR | O_DIRECT);
	if (direct < 0)
		SKIP(return, "no O_DIRECT");
	if (pread(direct, buf, 65536, 0) == 65536) {
		float *rows = new_rows(1, 0, 1024, DIM);

		EXPECT_EQ(0, memcmp(buf, rows, 65536));
	}
	buf[5] = NAN;
	EXPECT_EQ(EINVAL, ERR(pwrite(direct, buf, 65536, 0)));
	EXPECT_TRUE(intact(fd, 1024));
}

CASE(seek_hole_and_data_see_only_data)
{
	int fd = filled("f", 1000);

	EXPECT_EQ(0, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(1000 * ROW, lseek(fd, 0, SEEK_HOLE));
}

CASE(container_files_cannot_be_cloned_over_or_exchanged_with)
{
	int fd = filled("f", 100), other = open("other", O_RDWR | O_CREAT, 0644);

	ASSERT_EQ(5, write(other, "plain", 5));
	EXPECT_NE(0, ERR(ioctl(fd, FICLONE, other)));
	EXPECT_TRUE(intact(fd, 100));
	/* Names may change places: contents go with the inode. */
	OK(renameat2_("f", "other", RENAME_EXCHANGE));
	EXPECT_TRUE(intact(open("other", O_RDONLY), 100));
	EXPECT_EQ(5, size_of("f"));
}

CASE(times_follow_batches)
{
	int fd = filled("f", 10);
	struct stat a, b;
	float row[DIM] = { 0 };

	OK(fstat(fd, &a));
	tick();
	OK(insert(fd, row, NULL, 1));
	OK(fstat(fd, &b));
	EXPECT_TRUE(b.st_mtim.tv_sec > a.st_mtim.tv_sec || b.st_mtim.tv_nsec > a.st_mtim.tv_nsec);
	EXPECT_TRUE(b.st_ctim.tv_sec > a.st_ctim.tv_sec || b.st_ctim.tv_nsec > a.st_ctim.tv_nsec);
}

CASE(hidden_data_of_containers_has_no_name)
{
	struct dirent *e;
	int n = 0;
	DIR *dir;

	ASSERT_LE(0, filled("f", 100));
	dir = opendir(".");
	while ((e = readdir(dir)))
		n++;
	closedir(dir);
	EXPECT_EQ(3, n);
}

TEST_HARNESS_MAIN
