// SPDX-License-Identifier: GPL-2.0
/*
 * Directories as lists: cookies that stay valid, nothing twice, nothing missed,
 * small buffers, many entries.
 */
#include "vexfs_test.h"

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

struct entry {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/* Makes empty files @prefix0 … by linking one, which is the quickest. */
static int make_many(const char *prefix, int from, int to)
{
	char name[64];

	if (from < to && !exists("../.seedfile") && put("../.seedfile", 0, 0))
		return errno;
	for (int i = from; i < to; i++) {
		snprintf(name, sizeof(name), "%s%d", prefix, i);
		if (link("../.seedfile", name))
			return errno;
	}
	return 0;
}

static int enter(const char *name)
{
	return ERR(mkdir(name, 0755)) ?: ERR(chdir(name));
}

/* Counts names "@prefix<number>" into seen[number]. */
static void mark(const char *name, const char *prefix, unsigned char *seen, int max)
{
	size_t n = strlen(prefix);
	int i;

	if (strncmp(name, prefix, n))
		return;
	i = atoi(name + n);
	if (i >= 0 && i < max && seen[i] < 255)
		seen[i]++;
}

CASE(an_empty_directory_lists_dot_and_dotdot)
{
	struct dirent *e;
	int dot = 0, dotdot = 0, other = 0;
	DIR *dir;

	OK(mkdir("d", 0755));
	dir = opendir("d");
	while ((e = readdir(dir))) {
		if (!strcmp(e->d_name, ".")) {
			dot++;
			EXPECT_EQ(ino_of("d"), e->d_ino);
			EXPECT_EQ(DT_DIR, e->d_type);
		} else if (!strcmp(e->d_name, "..")) {
			dotdot++;
			EXPECT_EQ(ino_of("."), e->d_ino);
		} else {
			other++;
		}
	}
	closedir(dir);
	EXPECT_EQ(1, dot);
	EXPECT_EQ(1, dotdot);
	EXPECT_EQ(0, other);
}

CASE(entries_carry_kind_and_inode)
{
	struct dirent *e;
	int seen = 0;
	DIR *dir;

	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("f", 1, 1));
	OK(symlink("f", "l"));
	OK(mkfifo("p", 0644));
	dir = opendir(".");
	while ((e = readdir(dir))) {
		static const struct { char name; int type; } want[] = {
			{ 'd', DT_DIR }, { 'f', DT_REG }, { 'l', DT_LNK }, { 'p', DT_FIFO },
		};

		for (int i = 0; i < 4; i++)
			if (e->d_name[0] == want[i].name) {
				EXPECT_EQ(want[i].type, e->d_type);
				EXPECT_EQ(ino_of(e->d_name), e->d_ino);
				seen++;
			}
	}
	closedir(dir);
	EXPECT_EQ(4, seen);
}

FIXTURE(list_of) { char path[PATH_MAX]; };
FIXTURE_VARIANT(list_of) { int count; };
FIXTURE_VARIANT_ADD(list_of, 1) { .count = 1 };
FIXTURE_VARIANT_ADD(list_of, 5) { .count = 5 };
FIXTURE_VARIANT_ADD(list_of, 50) { .count = 50 };
FIXTURE_VARIANT_ADD(list_of, 300) { .count = 300 };
FIXTURE_SETUP(list_of)
{
	BOX_ENTER("VEXFS_TEST_DIR");
	ASSERT_EQ(0, enter("d"));
	ASSERT_EQ(0, make_many("keep", 0, variant->count));
}
BOX_TEARDOWN(list_of)

static void is_complete_with_small_buffers(struct __test_metadata *_metadata, int count)
{
	unsigned char *seen = calloc(count, 1);
	int fd = open(".", O_RDONLY), size = 48;
	long n;

	/* Buffers that hold one or a few entries, changing all the time. */
	for (;;) {
		char buf[400];

		n = syscall(SYS_getdents64, fd, buf, size);
		ASSERT_LE(0, n) TH_LOG("%s with %d bytes", strerror(errno), size);
		if (!n)
			break;
		for (long at = 0; at < n; at += ((struct entry *)(buf + at))->reclen)
			mark(((struct entry *)(buf + at))->name, "keep", seen,
			     count);
		size = size == 48 ? 64 : size == 64 ? 400 : 48;
	}
	for (int i = 0; i < count; i++) {
		ASSERT_EQ(1, seen[i]) TH_LOG("keep%d", i);
	}
}

static void misses_nothing_while_others_come_and_go(struct __test_metadata *_metadata, int count)
{
	int n = count, step = 0, made = 0;
	int gone = n / 2 < 1000 ? n / 2 + 3 : 1000, come = n < 1000 ? 2 * n : 2000;
	unsigned char *keep = calloc(n, 1), *came = calloc(come + 10, 1);
	unsigned char *went = calloc(gone, 1);
	struct dirent *e;
	char name[64];
	DIR *dir;

	ASSERT_EQ(0, make_many("gone", 0, gone));
	dir = opendir(".");
	while ((e = readdir(dir))) {
		mark(e->d_name, "keep", keep, n);
		mark(e->d_name, "came", came, come + 10);
		mark(e->d_name, "gone", went, gone);
		/* readdir reads ahead: do much at a time, to cross its buffer. */
		if (step < gone) {
			snprintf(name, sizeof(name), "gone%d", step);
			OK(unlink(name));
		}
		if (made < come) {
			ASSERT_EQ(0, make_many("came", made, made + 2));
			made += 2;
		}
		step++;
	}
	closedir(dir);
	for (int i = 0; i < n; i++) {
		ASSERT_EQ(1, keep[i]) TH_LOG("keep%d", i);
	}
	for (int i = 0; i < come + 10; i++) {
		ASSERT_GE(1, came[i]) TH_LOG("came%d", i);
	}
	for (int i = 0; i < gone; i++) {
		ASSERT_GE(1, went[i]) TH_LOG("gone%d", i);
	}
}

static void cookies_lead_back_also_after_reopening(struct __test_metadata *_metadata, int count)
{
	int max = count + 2, n = 0, fd = open(".", O_RDONLY);
	struct { int64_t before; char name[32]; } *list = calloc(max, sizeof(*list));
	int64_t cookie = 0;
	char buf[4096];
	uint64_t state = seed();
	long got;

	while ((got = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < got; ) {
			struct entry *e = (void *)(buf + at);

			ASSERT_LT(n, max);
			list[n].before = cookie;
			snprintf(list[n].name, sizeof(list[n].name), "%s", e->name);
			cookie = e->off;
			EXPECT_LE(0, cookie);
			at += e->reclen;
			n++;
		}
	ASSERT_EQ(max, n);
	close(fd);
	drop_caches();
	fd = open(".", O_RDONLY);
	for (int i = 0; i < 300; i++) {
		int pick = i < n ? n - 1 - i : (int)(rnd(&state) % n);

		ASSERT_EQ(list[pick].before, lseek(fd, list[pick].before, SEEK_SET));
		got = syscall(SYS_getdents64, fd, buf, sizeof(buf));
		ASSERT_LT(0, got);
		ASSERT_STREQ(list[pick].name, ((struct entry *)buf)->name);
	}
	/* Past the last entry there is nothing, and going back works. */
	lseek(fd, cookie, SEEK_SET);
	EXPECT_EQ(0, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_SET));
	EXPECT_LT(0, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
}

static void a_cookie_outlives_its_entry(struct __test_metadata *_metadata, int count)
{
	int max = count + 2, n = 0, fd = open(".", O_RDONLY), pick;
	struct { int64_t before; char name[32]; } *list = calloc(max, sizeof(*list));
	int64_t cookie = 0;
	char buf[4096];
	long got;

	while ((got = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < got && n < max; n++) {
			struct entry *e = (void *)(buf + at);

			list[n].before = cookie;
			snprintf(list[n].name, sizeof(list[n].name), "%s", e->name);
			cookie = e->off;
			at += e->reclen;
		}
	/* Delete a middle entry and its successor; the one after follows. */
	for (pick = n / 2; pick < n && list[pick].name[0] != 'k'; pick++)
		;
	OK(unlink(list[pick].name));
	if (pick + 1 < n && list[pick + 1].name[0] == 'k') {
		OK(unlink(list[++pick].name));
	}
	lseek(fd, list[pick].before, SEEK_SET);
	got = syscall(SYS_getdents64, fd, buf, sizeof(buf));
	if (pick + 1 < n) {
		EXPECT_STREQ(list[pick + 1].name, got > 0 ? ((struct entry *)buf)->name : "");
	} else {
		EXPECT_EQ(0, got);
	}
}

TEST_F_TIMEOUT(list_of, is_complete_with_small_buffers, CASE_SECONDS)
{
	is_complete_with_small_buffers(_metadata, variant->count);
}

TEST_F_TIMEOUT(list_of, misses_nothing_while_others_come_and_go, CASE_SECONDS)
{
	misses_nothing_while_others_come_and_go(_metadata, variant->count);
}

TEST_F_TIMEOUT(list_of, cookies_lead_back_also_after_reopening, CASE_SECONDS)
{
	cookies_lead_back_also_after_reopening(_metadata, variant->count);
}

TEST_F_TIMEOUT(list_of, a_cookie_outlives_its_entry, CASE_SECONDS)
{
	a_cookie_outlives_its_entry(_metadata, variant->count);
}

/* One directory for all of it: making it is what takes the time. */
TEST_F_TIMEOUT(box, ten_thousand_entries, 600)
{
	int n = big() ? 100000 : 10000;

	ASSERT_EQ(0, enter("d"));
	ASSERT_EQ(0, make_many("keep", 0, n));
	is_complete_with_small_buffers(_metadata, n);
	cookies_lead_back_also_after_reopening(_metadata, n);
	misses_nothing_while_others_come_and_go(_metadata, n);
	OK(chdir(".."));
}

CASE(a_small_directory_may_grow_while_it_is_read)
{
	unsigned char keep[4] = { 0 };
	int fd;
	long n;

	ASSERT_EQ(0, enter("d"));
	ASSERT_EQ(0, make_many("keep", 0, 4));
	fd = open(".", O_RDONLY);
	for (int step = 0;; step++) {
		char buf[40];

		n = syscall(SYS_getdents64, fd, buf, sizeof(buf));
		ASSERT_LE(0, n);
		if (!n)
			break;
		for (long at = 0; at < n; at += ((struct entry *)(buf + at))->reclen)
			mark(((struct entry *)(buf + at))->name, "keep", keep, 4);
		/* Grows far out of any inline or one-block form. */
		if (step == 2) {
			ASSERT_EQ(0, make_many("new", 0, 600));
		}
	}
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(1, keep[i]) TH_LOG("keep%d", i);
	}
	OK(chdir(".."));
}

CASE(a_directory_may_shrink_while_it_is_read)
{
	unsigned char keep[4] = { 0 };
	struct dirent *e;
	char name[32];
	DIR *dir;

	ASSERT_EQ(0, enter("d"));
	ASSERT_EQ(0, make_many("more", 0, 600));
	ASSERT_EQ(0, make_many("keep", 0, 4));
	dir = opendir(".");
	e = readdir(dir);
	for (int i = 0; i < 600; i++) {
		snprintf(name, sizeof(name), "more%d", i);
		OK(unlink(name));
	}
	for (; e; e = readdir(dir))
		mark(e->d_name, "keep", keep, 4);
	closedir(dir);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(1, keep[i]) TH_LOG("keep%d", i);
	}
	OK(chdir(".."));
}

CASE(rewinddir_shows_what_came_since)
{
	int seen = 0;
	struct dirent *e;
	DIR *dir = opendir(".");

	while (readdir(dir))
		;
	ASSERT_EQ(0, put("new", 1, 1));
	rewinddir(dir);
	while ((e = readdir(dir)))
		seen += !strcmp(e->d_name, "new");
	closedir(dir);
	EXPECT_EQ(1, seen);
}

CASE(bad_seeks_and_buffers)
{
	int fd = open(".", O_RDONLY);
	char buf[512];

	EXPECT_EQ(EINVAL, ERR(lseek(fd, -1, SEEK_SET)));
	EXPECT_EQ(EINVAL, ERR(syscall(SYS_getdents64, fd, buf, 8)));
	EXPECT_EQ(EFAULT, ERR(syscall(SYS_getdents64, fd, (void *)8, 512)));
	EXPECT_LT(0, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	/* Any cookie may be tried: an answer or an error, no crash. */
	for (int bit = 0; bit < 63; bit++) {
		if (lseek(fd, 1ll << bit, SEEK_SET) < 0)
			continue;
		EXPECT_LE(-1, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	}
	ASSERT_EQ(0, put("f", 1, 1));
	EXPECT_EQ(ENOTDIR, ERR(syscall(SYS_getdents64, open("f", O_RDONLY), buf, 512)));
}

CASE(names_with_equal_hashes_or_prefixes_are_told_apart)
{
	char name[256];
	int n = quick() ? 1000 : 3000;

	/* Long common prefixes and many short names, in one directory. */
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), i % 2 ? "%d" :
			 "a-very-long-common-prefix-that-is-the-same-in-all-names-%d", i);
		ASSERT_EQ(0, ERR(mknod(name, S_IFREG | 0644, 0)));
	}
	for (int i = 0; i < n; i += 3) {
		snprintf(name, sizeof(name), i % 2 ? "%d" :
			 "a-very-long-common-prefix-that-is-the-same-in-all-names-%d", i);
		OK(unlink(name));
	}
	drop_caches();
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), i % 2 ? "%d" :
			 "a-very-long-common-prefix-that-is-the-same-in-all-names-%d", i);
		ASSERT_EQ(i % 3 != 0, exists(name)) TH_LOG("%s", name);
	}
}

CASE(an_emptied_directory_can_be_removed_and_refilled)
{
	char name[64];

	int n = quick() ? 600 : 2000;

	ASSERT_EQ(0, enter("d"));
	for (int round = 0; round < 3; round++) {
		ASSERT_EQ(0, make_many("x", 0, n));
		for (int i = 0; i < n; i++) {
			/* Front to back, back to front, and every other. */
			int k = round == 0 ? i : round == 1 ? n - 1 - i :
				i < n / 2 ? 2 * i : 2 * (i - n / 2) + 1;

			snprintf(name, sizeof(name), "x%d", k);
			OK(unlink(name));
		}
	}
	OK(chdir(".."));
	OK(rmdir("d"));
}

TEST_F_TIMEOUT(box, a_big_directory, 1800)
{
	int n = big() ? 1000000 : quick() ? 5000 : 20000, max_links, part = 0;
	unsigned char *seen = calloc(n, 1);
	char name[64], source[64] = "";
	struct dirent *e;
	DIR *dir;

	/* Hard links, and a new file whenever one has enough of them. */
	max_links = 30000;
	OK(mkdir("src", 0755));
	ASSERT_EQ(0, enter("d"));
	for (int i = 0; i < n; i++) {
		if (i % max_links == 0) {
			snprintf(source, sizeof(source), "../src/%d", part++);
			ASSERT_EQ(0, put(source, 0, 0));
		}
		snprintf(name, sizeof(name), "entry%d", i);
		ASSERT_EQ(0, ERR(link(source, name))) TH_LOG("%s", name);
	}
	drop_caches();
	for (int i = 0; i < n; i += 97) {
		snprintf(name, sizeof(name), "entry%d", i);
		ASSERT_TRUE(exists(name)) TH_LOG("%s", name);
	}
	EXPECT_FALSE(exists("entry-1"));
	dir = opendir(".");
	while ((e = readdir(dir)))
		mark(e->d_name, "entry", seen, n);
	closedir(dir);
	for (int i = 0; i < n; i++) {
		ASSERT_EQ(1, seen[i]) TH_LOG("entry%d", i);
	}
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "entry%d", i);
		ASSERT_EQ(0, ERR(unlink(name))) TH_LOG("%s", name);
	}
	OK(chdir(".."));
	OK(rmdir("d"));
}

TEST_HARNESS_MAIN
