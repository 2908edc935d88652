// SPDX-License-Identifier: GPL-2.0
/*
 * Timestamps: nanoseconds, creation time, far dates, and which call moves which.
 */
#include "vexfs_test.h"

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

static struct statx xstat(const char *name)
{
	struct statx stx = { 0 };

	syscall(SYS_statx, AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, STATX_ALL | STATX_BTIME, &stx);
	return stx;
}

static int64_t ns(struct statx_timestamp t)
{
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Which of the times of @name moved since @old: a, m, c, and b for birth. */
static const char *moved(const char *name, struct statx old)
{
	static char text[5];
	struct statx now = xstat(name);
	char *p = text;

	if (ns(now.stx_atime) != ns(old.stx_atime))
		*p++ = 'a';
	if (ns(now.stx_mtime) != ns(old.stx_mtime))
		*p++ = 'm';
	if (ns(now.stx_ctime) != ns(old.stx_ctime))
		*p++ = 'c';
	if (ns(now.stx_btime) != ns(old.stx_btime))
		*p++ = 'b';
	*p = 0;
	return text;
}

CASE(a_new_file_has_four_equal_recent_times)
{
	struct timespec before, after;
	struct statx st;

	/* The coarse clock is behind the other, never ahead. */
	clock_gettime(CLOCK_REALTIME_COARSE, &before);
	ASSERT_EQ(0, put("f", 0, 1));
	clock_gettime(CLOCK_REALTIME, &after);
	st = xstat("f");
	EXPECT_NE(0, st.stx_mask & STATX_BTIME);
	EXPECT_EQ(ns(st.stx_btime), ns(st.stx_ctime));
	EXPECT_EQ(ns(st.stx_btime), ns(st.stx_mtime));
	EXPECT_EQ(ns(st.stx_btime), ns(st.stx_atime));
	EXPECT_LE(before.tv_sec * 1000000000ll + before.tv_nsec, ns(st.stx_btime));
	EXPECT_GE(after.tv_sec * 1000000000ll + after.tv_nsec, ns(st.stx_btime));
}

CASE(statx_tells_what_stat_tells)
{
	struct statx st;

	ASSERT_EQ(0, put("f", 12345, 1));
	st = xstat("f");
	EXPECT_EQ(12345, st.stx_size);
	EXPECT_EQ(ino_of("f"), st.stx_ino);
	EXPECT_EQ(1, st.stx_nlink);
	EXPECT_EQ(0644, st.stx_mode & 07777);
	EXPECT_EQ(stat_of("f").st_blocks, st.stx_blocks);
	EXPECT_EQ(4096, st.stx_blksize);
	EXPECT_EQ(STATX_BASIC_STATS, st.stx_mask & STATX_BASIC_STATS);
}

CASE(all_times_survive_the_cache)
{
	struct timespec set[2] = { { 1234567890, 123456789 }, { 987654321, 999999999 } };
	struct statx before;

	ASSERT_EQ(0, put("f", 10, 1));
	OK(utimensat(AT_FDCWD, "f", set, 0));
	before = xstat("f");
	EXPECT_EQ(123456789, before.stx_atime.tv_nsec);
	EXPECT_EQ(1234567890, before.stx_atime.tv_sec);
	EXPECT_EQ(999999999, before.stx_mtime.tv_nsec);
	drop_caches();
	EXPECT_STREQ("", moved("f", before));
}

FIXTURE(date) { char path[PATH_MAX]; };
FIXTURE_VARIANT(date) { int64_t sec; };
FIXTURE_VARIANT_ADD(date, epoch) { 0 };
FIXTURE_VARIANT_ADD(date, before_epoch) { -1 };
FIXTURE_VARIANT_ADD(date, year_1901) { -0x7fffffff };
FIXTURE_VARIANT_ADD(date, year_2038) { 0x7fffffff };
FIXTURE_VARIANT_ADD(date, after_2038) { 0x80000000ll };
FIXTURE_VARIANT_ADD(date, year_2106) { 0xffffffffll };
FIXTURE_VARIANT_ADD(date, year_2400) { 13600000000ll };
BOX_SETUP(date, "VEXFS_TEST_DIR")
BOX_TEARDOWN(date)

TEST_F_TIMEOUT(date, is_kept_to_the_nanosecond, CASE_SECONDS)
{
	struct timespec set[2] = { { variant->sec, 1 }, { variant->sec, 999999999 } };

	ASSERT_EQ(0, put("f", 10, 1));
	OK(utimensat(AT_FDCWD, "f", set, 0));
	for (int pass = 0; pass < 2; pass++) {
		EXPECT_EQ(variant->sec, xstat("f").stx_atime.tv_sec);
		EXPECT_EQ(1, xstat("f").stx_atime.tv_nsec);
		EXPECT_EQ(variant->sec, xstat("f").stx_mtime.tv_sec);
		EXPECT_EQ(999999999, xstat("f").stx_mtime.tv_nsec);
		drop_caches();
	}
}

CASE(write_and_truncate_move_mtime_and_ctime)
{
	struct statx old;
	int fd;

	ASSERT_EQ(0, put("f", 10, 1));
	fd = open("f", O_RDWR);
	old = xstat("f");
	tick();
	ASSERT_EQ(1, write(fd, "x", 1));
	EXPECT_STREQ("mc", moved("f", old));
	old = xstat("f");
	tick();
	OK(ftruncate(fd, 5));
	EXPECT_STREQ("mc", moved("f", old));
	old = xstat("f");
	tick();
	OK(ftruncate(fd, 5));
	EXPECT_STREQ("mc", moved("f", old));
}

CASE(a_mapped_store_moves_mtime_and_ctime)
{
	struct statx old;
	char *p;
	int fd;

	ASSERT_EQ(0, put("f", 4096, 1));
	fd = open("f", O_RDWR);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	old = xstat("f");
	tick();
	p[0] = 'x';
	OK(msync(p, 4096, MS_SYNC));
	EXPECT_STREQ("mc", moved("f", old));
}

CASE(chmod_chown_and_link_move_ctime_only)
{
	struct statx old;

	ASSERT_EQ(0, put("f", 10, 1));
	old = xstat("f");
	tick();
	OK(chmod("f", 0600));
	EXPECT_STREQ("c", moved("f", old));
	old = xstat("f");
	tick();
	OK(chown("f", 1, 1));
	EXPECT_STREQ("c", moved("f", old));
	old = xstat("f");
	tick();
	OK(link("f", "g"));
	EXPECT_STREQ("c", moved("f", old));
	old = xstat("f");
	tick();
	OK(unlink("g"));
	EXPECT_STREQ("c", moved("f", old));
	old = xstat("f");
	tick();
	OK(rename("f", "h"));
	EXPECT_STREQ("c", moved("h", old));
}

CASE(changing_names_moves_the_directories_mtime_and_ctime)
{
	static const char *const names[] = { "open", "mkdir", "symlink", "mknod", "link", "rename",
					     "rename away", "unlink", "rmdir" };
	struct statx d, e;

	OK(mkdir("d", 0755));
	OK(mkdir("e", 0755));
	for (int i = 0; i < 9; i++) {
		d = xstat("d");
		e = xstat("e");
		tick();
		switch (i) {
		case 0: ASSERT_EQ(0, put("d/f", 1, 1)); break;
		case 1: OK(mkdir("d/sub", 0755)); break;
		case 2: OK(symlink("x", "d/l")); break;
		case 3: OK(mkfifo("d/p", 0644)); break;
		case 4: OK(link("d/f", "d/f2")); break;
		case 5: OK(rename("d/f", "d/f3")); break;
		case 6: OK(rename("d/f3", "e/f")); break;
		case 7: OK(unlink("d/f2")); break;
		case 8: OK(rmdir("d/sub")); break;
		}
		EXPECT_STREQ("mc", moved("d", d)) TH_LOG("%s", names[i]);
		EXPECT_STREQ(i == 6 ? "mc" : "", moved("e", e)) TH_LOG("%s", names[i]);
	}
	/* What fails moves nothing. */
	d = xstat("d");
	tick();
	EXPECT_EQ(EEXIST, ERR(mkfifo("d/p", 0644)));
	EXPECT_EQ(ENOENT, ERR(unlink("d/missing")));
	EXPECT_STREQ("", moved("d", d));
}

CASE(a_directory_moved_between_parents_changes_both)
{
	struct statx d, e, s;

	OK(mkdir("d", 0755));
	OK(mkdir("e", 0755));
	OK(mkdir("d/s", 0755));
	d = xstat("d");
	e = xstat("e");
	s = xstat("d/s");
	tick();
	OK(rename("d/s", "e/s"));
	EXPECT_STREQ("mc", moved("d", d));
	EXPECT_STREQ("mc", moved("e", e));
	EXPECT_NE(NULL, strchr(moved("e/s", s), 'c'));
}

CASE(reading_moves_atime_by_relatime)
{
	struct timespec old_times[2] = { { 1000, 0 }, { 2000, 0 } };
	struct statx old;
	char c;
	int fd;

	/* atime behind mtime: the next read moves it, under relatime. */
	ASSERT_EQ(0, put("f", 10, 1));
	OK(utimensat(AT_FDCWD, "f", old_times, 0));
	old = xstat("f");
	fd = open("f", O_RDONLY);
	ASSERT_EQ(1, read(fd, &c, 1));
	EXPECT_STREQ("a", moved("f", old));
	close(fd);
	OK(utimensat(AT_FDCWD, "f", old_times, 0));
	old = xstat("f");
	fd = open("f", O_RDONLY | O_NOATIME);
	ASSERT_EQ(1, read(fd, &c, 1));
	EXPECT_STREQ("", moved("f", old));
}

CASE(utimensat_now_and_omit)
{
	struct timespec set[2] = { { 0, UTIME_OMIT }, { 0, UTIME_NOW } };
	struct statx old;

	ASSERT_EQ(0, put("f", 10, 1));
	old = xstat("f");
	tick();
	OK(utimensat(AT_FDCWD, "f", set, 0));
	EXPECT_STREQ("mc", moved("f", old));
	set[1].tv_nsec = 1000000000;
	EXPECT_EQ(EINVAL, ERR(utimensat(AT_FDCWD, "f", set, 0)));
	OK(symlink("f", "l"));
	old = xstat("f");
	set[0] = set[1] = (struct timespec){ 55, 66 };
	OK(utimensat(AT_FDCWD, "l", set, AT_SYMLINK_NOFOLLOW));
	EXPECT_STREQ("", moved("f", old));
	EXPECT_EQ(66, xstat("l").stx_mtime.tv_nsec);
}

CASE(birth_time_never_moves)
{
	struct timespec set[2] = { { 1000, 0 }, { 2000, 0 } };
	struct statx old;

	ASSERT_EQ(0, put("f", 10, 1));
	old = xstat("f");
	tick();
	ASSERT_EQ(0, put("f", 20, 2));
	OK(chmod("f", 0600));
	OK(utimensat(AT_FDCWD, "f", set, 0));
	OK(rename("f", "g"));
	drop_caches();
	EXPECT_EQ(ns(old.stx_btime), ns(xstat("g").stx_btime));
}

TEST_HARNESS_MAIN
