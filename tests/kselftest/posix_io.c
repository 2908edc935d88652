// SPDX-License-Identifier: GPL-2.0
/*
 * File data: odd offsets, holes, far offsets, vectored and direct I/O, appending, fsync, and
 * copies inside the kernel.
 */
#include "vexfs_test.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

#define TIB (1ll << 40)

CASE(bytes_written_at_odd_offsets_come_back)
{
	static const struct { long off, len; } parts[] = {
		{ 0, 1 }, { 1, 4095 }, { 4096, 4096 }, { 8191, 2 }, { 12289, 10007 },
		{ 100001, 65536 }, { 165537, 1 }, { 165538, 300000 },
	};
	char *buf = malloc(300000);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	for (int i = 0; i < 8; i++) {
		fill(buf, parts[i].len, 1, parts[i].off);
		ASSERT_EQ(parts[i].len, pwrite(fd, buf, parts[i].len, parts[i].off));
	}
	for (int pass = 0; pass < 2; pass++) {
		for (int i = 0; i < 8; i++) {
			ASSERT_EQ(parts[i].len, pread(fd, buf, parts[i].len, parts[i].off));
			ASSERT_EQ(0, differs(buf, parts[i].len, 1, parts[i].off));
		}
		drop_caches();
	}
	EXPECT_EQ(465538, size_of("f"));
}

CASE(holes_read_as_zeros)
{
	char buf[8192];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	ASSERT_EQ(1, pwrite(fd, "x", 1, 50000));
	for (int pass = 0; pass < 2; pass++) {
		for (long off = 0; off < 49152; off += sizeof(buf)) {
			ASSERT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), off));
			ASSERT_TRUE(all_zero(buf, sizeof(buf)));
		}
		ASSERT_EQ(849, pread(fd, buf, sizeof(buf), 49152));
		ASSERT_TRUE(all_zero(buf, 848));
		ASSERT_EQ('x', buf[848]);
		drop_caches();
	}
	OK(fsync(fd));
	EXPECT_GE(64, stat_of("f").st_blocks);
}

CASE(reads_end_at_the_size)
{
	char buf[100];
	int fd;

	ASSERT_EQ(0, put("f", 50, 1));
	fd = open("f", O_RDONLY);
	EXPECT_EQ(50, read(fd, buf, 100));
	EXPECT_EQ(0, read(fd, buf, 100));
	EXPECT_EQ(0, pread(fd, buf, 100, TIB));
	EXPECT_EQ(1, pread(fd, buf, 100, 49));
	EXPECT_EQ(EINVAL, ERR(pread(fd, buf, 100, -1)));
	EXPECT_EQ(EFAULT, ERR(pread(fd, (void *)8, 50, 0)));
}

CASE(vectored_reads_and_writes)
{
	char a[3], b[5000], c[1], back[5004];
	struct iovec iov[] = { { a, 3 }, { b, 5000 }, { NULL, 0 }, { c, 1 } };
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	fill(back, sizeof(back), 3, 0);
	memcpy(a, back, 3);
	memcpy(b, back + 3, 5000);
	memcpy(c, back + 5003, 1);
	EXPECT_EQ(5004, pwritev(fd, iov, 4, 777));
	memset(b, 0, sizeof(b));
	EXPECT_EQ(5004, preadv(fd, iov, 4, 777));
	EXPECT_EQ(0, differs(b, 5000, 3, 3));
}

CASE(a_write_from_bad_memory_changes_nothing)
{
	int fd;

	ASSERT_EQ(0, put("f", 5000, 1));
	fd = open("f", O_RDWR);
	EXPECT_EQ(EFAULT, ERR(pwrite(fd, (void *)8, 100, 0)));
	EXPECT_EQ(EFAULT, ERR(pwrite(fd, (void *)8, 100, 5000)));
	EXPECT_EQ(5000, size_of("f"));
	EXPECT_TRUE(holds("f", 5000, 1));
}

CASE(a_write_that_runs_into_bad_memory_is_short)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char back[4096];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(munmap(p + 4096, 4096));
	fill(p, 4096, 4, 0);
	ASSERT_EQ(4096, write(fd, p, 8192));
	EXPECT_EQ(4096, size_of("f"));
	EXPECT_EQ(4096, pread(fd, back, 4096, 0));
	EXPECT_EQ(0, differs(back, 4096, 4, 0));
}

FIXTURE(far) { char path[PATH_MAX]; };
FIXTURE_VARIANT(far) { long long offset; };
FIXTURE_VARIANT_ADD(far, 2_GiB) { .offset = 2ll << 30 };
FIXTURE_VARIANT_ADD(far, 4_GiB) { .offset = (4ll << 30) - 5 };
FIXTURE_VARIANT_ADD(far, 1_TiB) { .offset = TIB + 12345 };
FIXTURE_VARIANT_ADD(far, 4_TiB) { .offset = 4 * TIB - 3 };
FIXTURE_VARIANT_ADD(far, 8_TiB) { .offset = 8 * TIB - 100000 };
BOX_SETUP(far, "VEXFS_TEST_DIR")
BOX_TEARDOWN(far)

TEST_F_TIMEOUT(far, offsets_hold_data_and_nothing_else, CASE_SECONDS)
{
	long long off = variant->offset;
	char buf[9000];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	fill(buf, sizeof(buf), 5, off);
	ASSERT_EQ(sizeof(buf), pwrite(fd, buf, sizeof(buf), off));
	EXPECT_EQ(off + sizeof(buf), size_of("f"));
	OK(fsync(fd));
	EXPECT_GE(128, stat_of("f").st_blocks);
	drop_caches();
	ASSERT_EQ(sizeof(buf), pread(fd, buf, sizeof(buf), off));
	EXPECT_EQ(0, differs(buf, sizeof(buf), 5, off));
	ASSERT_EQ(4096, pread(fd, buf, 4096, off - 4096));
	EXPECT_TRUE(all_zero(buf, 4096));
	ASSERT_EQ(4096, pread(fd, buf, 4096, 0));
	EXPECT_TRUE(all_zero(buf, 4096));
	EXPECT_EQ(off & ~4095ll, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));
	OK(ftruncate(fd, off + 1));
	EXPECT_EQ(1, pread(fd, buf, 9000, off));
	OK(ftruncate(fd, 0));
	OK(fsync(fd));
	EXPECT_EQ(0, stat_of("f").st_blocks);
}

CASE(the_largest_offsets_end_in_efbig)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	long long top = LLONG_MAX;

	EXPECT_NE(0, ERR(pwrite(fd, "x", 1, top)));
	EXPECT_NE(0, ERR(ftruncate(fd, -1)));
	/* Whatever the limit is, the size never passes it, nor wraps. */
	if (!ftruncate(fd, top)) {
		EXPECT_EQ(top, size_of("f"));
	} else {
		EXPECT_EQ(EFBIG, errno);
		EXPECT_EQ(0, size_of("f"));
	}
}

CASE(rlimit_fsize_is_kept)
{
	struct rlimit_ { unsigned long cur, max; } lim = { 10000, ~0ul };
	char buf[8192];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	signal(SIGXFSZ, SIG_IGN);
	OK(syscall(SYS_prlimit64, 0, 1 /* RLIMIT_FSIZE */, &lim, NULL));
	memset(buf, 'x', sizeof(buf));
	EXPECT_EQ(8192, write(fd, buf, 8192));
	EXPECT_EQ(10000 - 8192, write(fd, buf, 8192));
	EXPECT_EQ(EFBIG, ERR(write(fd, buf, 8192)));
	EXPECT_EQ(EFBIG, ERR(ftruncate(fd, 20000)));
	EXPECT_EQ(10000, size_of("f"));
}

CASE(seek_end_and_bad_seeks)
{
	int fd;

	ASSERT_EQ(0, put("f", 1000, 1));
	fd = open("f", O_RDWR);
	EXPECT_EQ(1000, lseek(fd, 0, SEEK_END));
	EXPECT_EQ(1500, lseek(fd, 500, SEEK_END));
	EXPECT_EQ(EINVAL, ERR(lseek(fd, -2000, SEEK_END)));
	EXPECT_EQ(EINVAL, ERR(lseek(fd, -1, SEEK_SET)));
	EXPECT_EQ(EINVAL, ERR(lseek(fd, 0, 99)));
}

static void *aligned(size_t len)
{
	void *p = NULL;

	return posix_memalign(&p, 4096, len) ? NULL : p;
}

CASE(direct_io_and_the_page_cache_see_each_other)
{
	char *buf = aligned(65536);
	int direct, fd = open("f", O_RDWR | O_CREAT, 0644);

	direct = open("f", O_RDWR | O_DIRECT);
	if (direct < 0)
		SKIP(return, "no O_DIRECT");
	fill(buf, 65536, 1, 0);
	ASSERT_EQ(65536, pwrite(direct, buf, 65536, 0));
	memset(buf, 0, 65536);
	ASSERT_EQ(65536, pread(fd, buf, 65536, 0));
	EXPECT_EQ(0, differs(buf, 65536, 1, 0));
	/* Dirty pages, then a direct read; a cached page, then a direct write. */
	fill(buf, 65536, 2, 0);
	ASSERT_EQ(65536, pwrite(fd, buf, 65536, 0));
	memset(buf, 0, 65536);
	ASSERT_EQ(65536, pread(direct, buf, 65536, 0));
	EXPECT_EQ(0, differs(buf, 65536, 2, 0));
	fill(buf, 4096, 3, 0);
	ASSERT_EQ(4096, pwrite(direct, buf, 4096, 8192));
	ASSERT_EQ(4096, pread(fd, buf, 4096, 8192));
	EXPECT_EQ(0, differs(buf, 4096, 3, 0));
}

CASE(direct_io_into_holes_past_the_end_and_beyond)
{
	char *buf = aligned(131072);
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);

	if (fd < 0)
		SKIP(return, "no O_DIRECT");
	fill(buf, 8192, 1, 0);
	ASSERT_EQ(8192, pwrite(fd, buf, 8192, 1 << 20));
	EXPECT_EQ((1 << 20) + 8192, size_of("f"));
	OK(ftruncate(fd, (1 << 20) + 5000));
	ASSERT_EQ(5000, pread(fd, buf, 65536, 1 << 20));
	EXPECT_EQ(0, differs(buf, 5000, 1, 0));
	EXPECT_EQ(0, pread(fd, buf, 4096, 2 << 20));
	ASSERT_EQ(65536, pread(fd, buf, 65536, 65536));
	EXPECT_TRUE(all_zero(buf, 65536));
	/* Into the hole. */
	fill(buf, 4096, 2, 0);
	ASSERT_EQ(4096, pwrite(fd, buf, 4096, 4096));
	ASSERT_EQ(12288, pread(fd, buf, 12288, 0));
	EXPECT_TRUE(all_zero(buf, 4096));
	EXPECT_EQ(0, differs(buf + 4096, 4096, 2, 0));
	EXPECT_TRUE(all_zero(buf + 8192, 4096));
}

CASE(unaligned_direct_io_is_einval_or_right)
{
	char *buf = aligned(8192);
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);
	ssize_t n;

	if (fd < 0)
		SKIP(return, "no O_DIRECT");
	fill(buf, 8192, 1, 0);
	ASSERT_EQ(8192, pwrite(fd, buf, 8192, 0));
	n = pwrite(fd, buf, 100, 50);
	if (n < 0) {
		EXPECT_EQ(EINVAL, errno);
		EXPECT_TRUE(holds("f", 8192, 1));
	} else {
		EXPECT_EQ(100, n);
	}
	n = pread(fd, buf, 100, 50);
	if (n < 0) {
		EXPECT_EQ(EINVAL, errno);
	} else {
		EXPECT_EQ(100, n);
	}
}

CASE(append_from_many_threads_loses_nothing)
{
	int count[8] = { 0 }, fd;
	char record[64];
	pid_t pid[8];

	for (int w = 0; w < 8; w++) {
		pid[w] = fork();
		if (!pid[w]) {
			fd = open("f", O_WRONLY | O_CREAT | O_APPEND, 0644);
			memset(record, 'A' + w, sizeof(record));
			for (int i = 0; i < 300; i++)
				if (write(fd, record, sizeof(record)) != sizeof(record))
					_exit(1);
			_exit(0);
		}
	}
	for (int w = 0; w < 8; w++) {
		int status;

		waitpid(pid[w], &status, 0);
		EXPECT_EQ(0, status);
	}
	fd = open("f", O_RDONLY);
	while (read(fd, record, sizeof(record)) == sizeof(record)) {
		for (int i = 1; i < sizeof(record); i++) {
			ASSERT_EQ(record[0], record[i]);
		}
		ASSERT_LE('A', record[0]);
		ASSERT_GE('H', record[0]);
		count[record[0] - 'A']++;
	}
	for (int w = 0; w < 8; w++) {
		EXPECT_EQ(300, count[w]);
	}
}

CASE(fsync_and_fdatasync_work_on_files_and_directories)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), dir = open(".", O_RDONLY);

	EXPECT_EQ(0, ERR(fsync(fd)));
	EXPECT_EQ(4, write(fd, "data", 4));
	EXPECT_EQ(0, ERR(fdatasync(fd)));
	EXPECT_EQ(0, ERR(fsync(fd)));
	EXPECT_EQ(0, ERR(fsync(dir)));
	EXPECT_EQ(0, ERR(sync_file_range(fd, 0, 4, SYNC_FILE_RANGE_WRITE)));
	EXPECT_EQ(0, ERR(syncfs(fd)));
	close(fd);
	fd = open("g", O_RDWR | O_CREAT | O_SYNC, 0644);
	EXPECT_EQ(4, write(fd, "data", 4));
	close(fd);
	fd = open("h", O_RDWR | O_CREAT | O_DSYNC, 0644);
	EXPECT_EQ(4, write(fd, "data", 4));
}

CASE(copies_inside_the_kernel)
{
	loff_t from = 3, to = 5;
	int in, out, pipes[2];
	ssize_t n;

	ASSERT_EQ(0, put("in", 100000, 1));
	in = open("in", O_RDONLY);
	out = open("out", O_RDWR | O_CREAT, 0644);
	for (long done = 0; done < 100000; done += n) {
		n = sendfile(out, in, NULL, 100000 - done);
		ASSERT_LT(0, n);
	}
	EXPECT_TRUE(holds("out", 100000, 1));
	OK(ftruncate(out, 0));
	n = copy_file_range(in, &from, out, &to, 5000, 0);
	ASSERT_EQ(5000, n);
	EXPECT_EQ(5005, size_of("out"));
	OK(pipe(pipes));
	from = 0;
	EXPECT_EQ(4096, splice(in, &from, pipes[1], NULL, 4096, 0));
	to = 0;
	EXPECT_EQ(4096, splice(pipes[0], NULL, out, &to, 4096, 0));
	EXPECT_EQ(4096, to);
}

CASE(file_locks_and_leases)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };
	int fd = open("f", O_RDWR | O_CREAT, 0644), status;
	pid_t pid;

	OK(fcntl(fd, F_SETLK, &fl));
	pid = fork();
	if (!pid)
		_exit(ERR(fcntl(fd, F_SETLK, &fl)) == EAGAIN ? 0 : 1);
	waitpid(pid, &status, 0);
	EXPECT_EQ(0, status);
	close(fd);
	fd = open("f", O_RDONLY);
	EXPECT_EQ(0, ERR(fcntl(fd, F_SETLEASE, F_RDLCK)));
}

TEST_HARNESS_MAIN
