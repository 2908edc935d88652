// SPDX-License-Identifier: GPL-2.0
/*
 * rename(2) and renameat2(2): every pair of kinds, both flags, parents and link
 * counts, and a run of random operations compared with tmpfs.
 */
#include "vexfs_test.h"

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

CASE(moves_a_file_within_a_directory)
{
	ino_t ino;

	ASSERT_EQ(0, put("a", 100, 1));
	ino = ino_of("a");
	OK(rename("a", "b"));
	EXPECT_FALSE(exists("a"));
	EXPECT_EQ(ino, ino_of("b"));
	EXPECT_TRUE(holds("b", 100, 1));
	EXPECT_EQ(1, nlink_of("b"));
}

CASE(moves_a_file_between_directories)
{
	OK(mkdir("d", 0755));
	OK(mkdir("e", 0755));
	ASSERT_EQ(0, put("d/a", 100, 1));
	OK(rename("d/a", "e/b"));
	EXPECT_FALSE(exists("d/a"));
	EXPECT_TRUE(holds("e/b", 100, 1));
	OK(rmdir("d"));
}

CASE(replaces_a_file)
{
	int fd;
	struct stat st;

	ASSERT_EQ(0, put("a", 100, 1));
	ASSERT_EQ(0, put("b", 200, 2));
	OK(link("b", "b2"));
	fd = open("b", O_RDONLY);
	OK(rename("a", "b"));
	EXPECT_TRUE(holds("b", 100, 1));
	EXPECT_TRUE(holds("b2", 200, 2));
	EXPECT_EQ(1, nlink_of("b2"));
	OK(rename("b", "b2"));
	EXPECT_TRUE(holds("b2", 100, 1));
	OK(fstat(fd, &st));
	EXPECT_EQ(0, st.st_nlink);
	EXPECT_EQ(200, st.st_size);
}

CASE(two_names_of_one_inode_stay)
{
	ASSERT_EQ(0, put("a", 1, 1));
	OK(link("a", "b"));
	OK(rename("a", "b"));
	EXPECT_TRUE(exists("a"));
	EXPECT_TRUE(exists("b"));
	EXPECT_EQ(2, nlink_of("a"));
	OK(rename("a", "a"));
	EXPECT_EQ(2, nlink_of("a"));
}

CASE(moves_a_directory_and_its_dotdot)
{
	unsigned long top = nlink_of(".");

	OK(mkdir("p", 0755));
	OK(mkdir("q", 0755));
	OK(mkdir("p/d", 0755));
	ASSERT_EQ(0, put("p/d/f", 10, 1));
	OK(rename("p/d", "q/e"));
	EXPECT_EQ(2, nlink_of("p"));
	EXPECT_EQ(3, nlink_of("q"));
	EXPECT_EQ(top + 2, nlink_of("."));
	EXPECT_EQ(ino_of("q"), ino_of("q/e/.."));
	drop_caches();
	EXPECT_EQ(ino_of("q"), ino_of("q/e/.."));
	EXPECT_TRUE(holds("q/e/f", 10, 1));
	OK(rmdir("p"));
}

CASE(replaces_an_empty_directory)
{
	unsigned long top = nlink_of(".");
	int fd;
	struct stat st;

	OK(mkdir("a", 0755));
	OK(mkdir("b", 0755));
	ASSERT_EQ(0, put("a/f", 10, 1));
	fd = open("b", O_RDONLY);
	OK(rename("a", "b"));
	EXPECT_TRUE(holds("b/f", 10, 1));
	EXPECT_EQ(top + 1, nlink_of("."));
	OK(fstat(fd, &st));
	EXPECT_EQ(0, st.st_nlink);
}

CASE(does_not_replace_a_full_directory)
{
	OK(mkdir("a", 0755));
	OK(mkdir("b", 0755));
	ASSERT_EQ(0, put("b/f", 10, 1));
	EXPECT_EQ(ENOTEMPTY, ERR(rename("a", "b")));
	EXPECT_TRUE(exists("a"));
	EXPECT_TRUE(holds("b/f", 10, 1));
}

CASE(kinds_must_match)
{
	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("f", 10, 1));
	EXPECT_EQ(EISDIR, ERR(rename("f", "d")));
	EXPECT_EQ(ENOTDIR, ERR(rename("d", "f")));
	OK(symlink("d", "l"));
	/* A symbolic link is not the directory it names. */
	EXPECT_EQ(ENOTDIR, ERR(rename("d", "l")));
	OK(rename("f", "l"));
	EXPECT_TRUE(holds("l", 10, 1));
}

CASE(a_directory_cannot_move_below_itself)
{
	OK(mkdir("d", 0755));
	OK(mkdir("d/e", 0755));
	OK(mkdir("d/e/f", 0755));
	EXPECT_EQ(EINVAL, ERR(rename("d", "d/x")));
	EXPECT_EQ(EINVAL, ERR(rename("d", "d/e/f/x")));
	EXPECT_EQ(ENOTEMPTY, ERR(rename("d/e/f", "d")));
	EXPECT_EQ(EINVAL, ERR(renameat2_("d", "d/e", RENAME_EXCHANGE)));
	EXPECT_EQ(EINVAL, ERR(renameat2_("d/e/f", "d", RENAME_EXCHANGE)));
	EXPECT_EQ(EBUSY, ERR(rename("d/.", "x")));
	EXPECT_EQ(EBUSY, ERR(rename("d/..", "x")));
	EXPECT_TRUE(exists("d/e/f"));
}

CASE(noreplace_refuses_existing_names)
{
	ASSERT_EQ(0, put("a", 10, 1));
	ASSERT_EQ(0, put("b", 20, 2));
	OK(mkdir("d", 0755));
	EXPECT_EQ(EEXIST, ERR(renameat2_("a", "b", RENAME_NOREPLACE)));
	EXPECT_EQ(EEXIST, ERR(renameat2_("a", "d", RENAME_NOREPLACE)));
	EXPECT_TRUE(holds("a", 10, 1));
	EXPECT_TRUE(holds("b", 20, 2));
	OK(renameat2_("a", "c", RENAME_NOREPLACE));
	EXPECT_TRUE(holds("c", 10, 1));
	EXPECT_FALSE(exists("a"));
}

CASE(exchange_swaps_files)
{
	ino_t a, b;

	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("a", 10, 1));
	ASSERT_EQ(0, put("d/b", 20, 2));
	a = ino_of("a");
	b = ino_of("d/b");
	OK(renameat2_("a", "d/b", RENAME_EXCHANGE));
	EXPECT_EQ(b, ino_of("a"));
	EXPECT_EQ(a, ino_of("d/b"));
	EXPECT_TRUE(holds("a", 20, 2));
	EXPECT_TRUE(holds("d/b", 10, 1));
	EXPECT_EQ(1, nlink_of("a"));
}

CASE(exchange_swaps_directories_and_fixes_dotdot)
{
	OK(mkdir("p", 0755));
	OK(mkdir("q", 0755));
	OK(mkdir("p/a", 0755));
	OK(mkdir("q/b", 0755));
	ASSERT_EQ(0, put("p/a/f", 10, 1));
	ASSERT_EQ(0, put("q/b/g", 20, 2));
	OK(renameat2_("p/a", "q/b", RENAME_EXCHANGE));
	EXPECT_TRUE(holds("q/b/f", 10, 1));
	EXPECT_TRUE(holds("p/a/g", 20, 2));
	drop_caches();
	EXPECT_EQ(ino_of("q"), ino_of("q/b/.."));
	EXPECT_EQ(ino_of("p"), ino_of("p/a/.."));
	EXPECT_EQ(3, nlink_of("p"));
	EXPECT_EQ(3, nlink_of("q"));
}

CASE(exchange_swaps_a_file_and_a_directory)
{
	struct dirent *e;
	DIR *dir;
	int kinds = 0;

	OK(mkdir("p", 0755));
	OK(mkdir("q", 0755));
	OK(mkdir("p/x", 0755));
	OK(mkdir("p/x/sub", 0755));
	ASSERT_EQ(0, put("q/x", 20, 2));
	OK(renameat2_("p/x", "q/x", RENAME_EXCHANGE));
	EXPECT_TRUE(holds("p/x", 20, 2));
	EXPECT_TRUE(exists("q/x/sub"));
	EXPECT_EQ(2, nlink_of("p"));
	EXPECT_EQ(3, nlink_of("q"));
	EXPECT_EQ(ino_of("q"), ino_of("q/x/.."));
	/* The kind kept in the directory entry has to follow as well. */
	dir = opendir("p");
	while ((e = readdir(dir)))
		if (!strcmp(e->d_name, "x"))
			kinds |= e->d_type == DT_REG ? 1 : 0;
	closedir(dir);
	dir = opendir("q");
	while ((e = readdir(dir)))
		if (!strcmp(e->d_name, "x"))
			kinds |= e->d_type == DT_DIR ? 2 : 0;
	closedir(dir);
	EXPECT_EQ(3, kinds);
}

CASE(exchange_within_one_directory_keeps_its_links)
{
	unsigned long top;

	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("f", 20, 2));
	top = nlink_of(".");
	OK(renameat2_("d", "f", RENAME_EXCHANGE));
	EXPECT_TRUE(holds("d", 20, 2));
	EXPECT_EQ(2, nlink_of("f"));
	EXPECT_EQ(top, nlink_of("."));
	OK(renameat2_("d", "d", RENAME_EXCHANGE));
	EXPECT_TRUE(holds("d", 20, 2));
}

CASE(exchange_wants_both_names)
{
	ASSERT_EQ(0, put("a", 10, 1));
	EXPECT_EQ(ENOENT, ERR(renameat2_("a", "missing", RENAME_EXCHANGE)));
	EXPECT_EQ(ENOENT, ERR(renameat2_("missing", "a", RENAME_EXCHANGE)));
	EXPECT_TRUE(holds("a", 10, 1));
}

CASE(bad_flags_are_einval)
{
	ASSERT_EQ(0, put("a", 10, 1));
	ASSERT_EQ(0, put("b", 20, 2));
	EXPECT_EQ(EINVAL, ERR(renameat2_("a", "b", RENAME_NOREPLACE | RENAME_EXCHANGE)));
	EXPECT_EQ(EINVAL, ERR(renameat2_("a", "b", 1 << 5)));
	if (on_vexfs()) {
		EXPECT_EQ(EINVAL, ERR(renameat2_("a", "b", RENAME_WHITEOUT)));
		EXPECT_EQ(EINVAL, ERR(renameat2_("a", "c", RENAME_WHITEOUT |
						 RENAME_NOREPLACE)));
	}
	EXPECT_TRUE(holds("a", 10, 1));
	EXPECT_TRUE(holds("b", 20, 2));
}

CASE(grows_the_target_directory)
{
	char from[64], to[300];

	OK(mkdir("small", 0755));
	for (int i = 0; i < 400; i++) {
		snprintf(from, sizeof(from), "f%d", i);
		snprintf(to, sizeof(to), "small/%0200d", i);
		ASSERT_EQ(0, put(from, 3, i));
		OK(rename(from, to));
	}
	for (int i = 0; i < 400; i++) {
		snprintf(to, sizeof(to), "small/%0200d", i);
		ASSERT_TRUE(holds(to, 3, i));
	}
}

CASE(longer_names_in_small_directories)
{
	char old[256] = "n", new[256];

	OK(mkdir("d", 0755));
	OK(chdir("d"));
	ASSERT_EQ(0, put(old, 7, 1));
	for (int len = 2; len < 256; len++) {
		memset(new, 'n', len);
		new[len] = 0;
		OK(rename(old, new));
		strcpy(old, new);
	}
	EXPECT_TRUE(holds(old, 7, 1));
	OK(rename(old, "n"));
	EXPECT_TRUE(holds("n", 7, 1));
	OK(chdir(".."));
}

/*
 * The same random calls here and on tmpfs, which must give the same errors and
 * the same tree. Few names, so that every pair of kinds meets often.
 */
static const char *const NAMES[] = { "a", "b", "c", "dir-with-a-longer-name", "e" };

static void random_path(uint64_t *state, char *path)
{
	int depth = rnd(state) % 3;

	*path = 0;
	for (int i = 0; i <= depth; i++) {
		if (i)
			strcat(path, "/");
		strcat(path, NAMES[rnd(state) % 5]);
	}
}

static int one_call(int root, int op, const char *from, const char *to)
{
	int fd;

	switch (op) {
	case 0 ... 2:
		fd = openat(root, from, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0640);
		if (fd >= 0)
			close(fd);
		return fd < 0 ? errno : 0;
	case 3 ... 5:
		return ERR(mkdirat(root, from, 0750));
	case 6:
		return ERR(unlinkat(root, from, 0));
	case 7:
		return ERR(unlinkat(root, from, AT_REMOVEDIR));
	case 8:
		return ERR(linkat(root, from, root, to, 0));
	case 9:
		return ERR(symlinkat(to, root, from));
	case 10 ... 11:
		return ERR(syscall(SYS_renameat2, root, from, root, to, 0));
	case 12:
		return ERR(syscall(SYS_renameat2, root, from, root, to, RENAME_NOREPLACE));
	default:
		return ERR(syscall(SYS_renameat2, root, from, root, to, RENAME_EXCHANGE));
	}
}

/* A digest of the tree below @fd: names, kinds, modes, links, link targets. */
static uint64_t digest(int fd, int depth)
{
	uint64_t sum = 0;
	struct dirent *e;
	DIR *dir = fdopendir(fd);

	while (dir && (e = readdir(dir))) {
		char text[600], target[256] = "";
		uint64_t h = depth;
		struct stat st;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			return ~0ull;
		if (S_ISLNK(st.st_mode) &&
		    readlinkat(fd, e->d_name, target, sizeof(target) - 1) < 0)
			return ~0ull;
		if (e->d_type != DT_UNKNOWN && e->d_type != IFTODT(st.st_mode))
			return ~0ull;
		snprintf(text, sizeof(text), "%s %o %lu %s", e->d_name, st.st_mode,
			 (unsigned long)st.st_nlink, target);
		for (char *p = text; *p; p++) {
			h = h * 31 + (unsigned char)*p;
			h = rnd(&h);
		}
		/* Order does not matter: directories list as they like. */
		sum += h;
		if (S_ISDIR(st.st_mode))
			sum += h * digest(openat(fd, e->d_name, O_RDONLY | O_NOFOLLOW),
					  depth + 1);
	}
	if (dir)
		closedir(dir);
	return sum;
}

CASE(random_calls_behave_as_on_tmpfs)
{
	const char *tmpfs = getenv("VEXFS_TMPFS_DIR");
	uint64_t state = seed();
	char other[PATH_MAX], from[256], to[256];
	int here, there, calls = quick() ? 3000 : 6000;

	if (!tmpfs)
		SKIP(return, "VEXFS_TMPFS_DIR is not set");
	snprintf(other, sizeof(other), "%s/model.XXXXXX", tmpfs);
	ASSERT_NE(NULL, mkdtemp(other));
	OK(mkdir("model", 0700));
	here = open("model", O_RDONLY | O_DIRECTORY);
	there = open(other, O_RDONLY | O_DIRECTORY);
	TH_LOG("seed %#llx", (unsigned long long)state);
	for (int i = 0; i < calls; i++) {
		int op = rnd(&state) % 15, want, got;

		random_path(&state, from);
		random_path(&state, to);
		want = one_call(there, op, from, to);
		got = one_call(here, op, from, to);
		/* Two reasons to fail can be found in either order. */
		if ((want == EEXIST && got == ENOTEMPTY) || (want == ENOTEMPTY && got == EEXIST))
			got = want;
		ASSERT_EQ(want, got) {
			TH_LOG("call %d: op %d %s %s", i, op, from, to);
		}
		if (i % 500 == 499) {
			if (i % 1000 == 999)
				drop_caches();
			ASSERT_EQ(digest(dup(there), 0), digest(dup(here), 0)) {
				TH_LOG("trees differ after call %d", i);
			}
			lseek(here, 0, SEEK_SET);
			lseek(there, 0, SEEK_SET);
		}
	}
	EXPECT_EQ(0, remove_tree(other));
}

TEST_HARNESS_MAIN
