// SPDX-License-Identifier: GPL-2.0
/*
 * Many processes on few names, and random reads and writes against a copy in
 * memory. What counts is that contents stay right, and that it ends.
 */
#include "vexfs_test.h"
#include <linux/falloc.h>

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

/* Runs @work in @n processes; the sum of their exit codes. */
static int in_parallel(int n, int (*work)(int who))
{
	int status, sum = 0;
	pid_t pid[64];

	for (int i = 0; i < n; i++) {
		pid[i] = fork();
		if (!pid[i])
			_exit(work(i));
	}
	for (int i = 0; i < n; i++) {
		waitpid(pid[i], &status, 0);
		sum += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
	}
	return sum;
}

/* create, unlink, rename, link, readdir over 40 names in three directories. */
static int churn(int who)
{
	uint64_t state = seed() * 31 + who;
	char a[64], b[64];

	for (int i = 0; i < (quick() ? 400 : 1500); i++) {
		int err = 0;

		snprintf(a, sizeof(a), "d%d/n%d", (int)(rnd(&state) % 3), (int)(rnd(&state) % 40));
		snprintf(b, sizeof(b), "d%d/n%d", (int)(rnd(&state) % 3), (int)(rnd(&state) % 40));
		switch (rnd(&state) % 9) {
		case 0 ... 1: {
			int fd = open(a, O_RDWR | O_CREAT, 0644);

			if (fd < 0) {
				err = errno;
			} else {
				if (write(fd, a, 10) != 10)
					err = EIO;
				close(fd);
			}
			break;
		}
		case 2: err = ERR(mkdir(a, 0755)); break;
		case 3: err = ERR(unlink(a)); break;
		case 4: err = ERR(rmdir(a)); break;
		case 5: err = ERR(rename(a, b)); break;
		case 6: err = ERR(renameat2_(a, b, RENAME_EXCHANGE)); break;
		case 7: err = ERR(link(a, b)); break;
		case 8: {
			DIR *dir = opendir(a[1] == '0' ? "d0" : "d1");
			char names[64][16];
			struct dirent *e;
			int n = 0;

			while (dir && (e = readdir(dir)) && n < 64)
				snprintf(names[n++], 16, "%.15s", e->d_name);
			if (dir)
				closedir(dir);
			(void)names;
			break;
		}
		}
		switch (err) {
		case 0: case EEXIST: case ENOENT: case EISDIR: case ENOTDIR: case ENOTEMPTY:
		case EPERM: case EINVAL:
			break;
		default:
			fprintf(stderr, "# churn: %s %s: %s\n", a, b, strerror(err));
			return 1;
		}
	}
	return 0;
}

static int count_tree_errors(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)path;
	(void)ftw;
	if (kind == FTW_NS || kind == FTW_DNR)
		return 1;
	return S_ISREG(st->st_mode) && st->st_size != 10 && st->st_size != 0;
}

CASE(names_survive_many_hands)
{
	unsigned long subdirs = 0;
	struct dirent *e;
	DIR *dir;

	for (int i = 0; i < 3; i++) {
		char name[8];

		snprintf(name, sizeof(name), "d%d", i);
		OK(mkdir(name, 0755));
	}
	EXPECT_EQ(0, in_parallel(6, churn));
	drop_caches();
	EXPECT_EQ(0, nftw(".", count_tree_errors, 16, FTW_PHYS));
	/* Link counts of the directories have to match what is in them. */
	dir = opendir("d0");
	while ((e = readdir(dir)))
		subdirs += e->d_type == DT_DIR && e->d_name[0] != '.';
	closedir(dir);
	EXPECT_EQ(subdirs + 2, nlink_of("d0"));
}

static int own_count(void)
{
	return quick() ? 50 : 150;
}

/* Many files of one's own in a shared directory, half deleted again. */
static int own_files(int who)
{
	char name[64];

	for (int i = 0; i < own_count(); i++) {
		snprintf(name, sizeof(name), "w%d-%d", who, i);
		if (put(name, (i * 977) % 60000, who * 1000 + i))
			return 1;
		if (i % 2) {
			snprintf(name, sizeof(name), "w%d-%d", who, i - 1);
			if (!holds(name, ((i - 1) * 977) % 60000, who * 1000 + i - 1))
				return 2;
			if (unlink(name))
				return 3;
		}
		if (i % 16 == 0) {
			int fd = open(".", O_RDONLY);

			if (fsync(fd))
				return 4;
			close(fd);
		}
	}
	return 0;
}

CASE(many_writers_in_one_directory)
{
	char name[64];

	EXPECT_EQ(0, in_parallel(8, own_files));
	drop_caches();
	for (int who = 0; who < 8; who++)
		for (int i = 0; i < own_count(); i++) {
			snprintf(name, sizeof(name), "w%d-%d", who, i);
			if (i % 2) {
				ASSERT_TRUE(holds(name, (i * 977) % 60000, who * 1000 + i));
			} else {
				ASSERT_FALSE(exists(name)) TH_LOG("%s", name);
			}
		}
}

/* Directories moved to and fro between two parents, in both directions. */
static int move_directories(int who)
{
	char a[64], b[64];

	for (int i = 0; i < (quick() ? 150 : 400); i++) {
		snprintf(a, sizeof(a), "%s/m%d", (i + who) & 1 ? "p" : "q/deep/er", (i + who) % 4);
		snprintf(b, sizeof(b), "%s/m%d", (i + who) & 1 ? "q/deep/er" : "p", (i + who) % 4);
		if (rename(a, b) && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
			return 1;
		if (who == 0 && renameat2_("p", "q/deep", RENAME_EXCHANGE) && errno != ENOENT)
			return 2;
	}
	return 0;
}

CASE(directories_change_parents_beside_each_other)
{
	int found = 0;
	char name[64];

	OK(mkdir("p", 0755));
	OK(mkdir("q", 0755));
	OK(mkdir("q/deep", 0755));
	OK(mkdir("q/deep/er", 0755));
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "p/m%d", i);
		OK(mkdir(name, 0755));
		snprintf(name, sizeof(name), "p/m%d/f", i);
		ASSERT_EQ(0, put(name, 100, i));
	}
	EXPECT_EQ(0, in_parallel(4, move_directories));
	/* er went with one of the two; every m is in one of the places. */
	for (int i = 0; i < 4; i++) {
		static const char *const places[] = { "p", "p/er", "q/deep", "q/deep/er" };

		for (int p = 0; p < 4; p++) {
			snprintf(name, sizeof(name), "%s/m%d/f", places[p], i);
			found += holds(name, 100, i);
		}
	}
	EXPECT_EQ(4, found);
}

/* Random reads and writes through every door, against a copy in memory. */
enum { SIZE = 3 << 20 };

struct random_io {
	int fd, direct;
	char *model, *buf;
	long size;
	uint64_t state;
};

static const char *random_step(struct random_io *io, const char **what)
{
	uint64_t r = rnd(&io->state);
	long off = rnd(&io->state) % (SIZE - 1), len = rnd(&io->state) % 70000 + 1;
	long end;
	int err;

	if (r >> 60 == 0)
		len = len * 9;
	if (off + len > SIZE)
		len = SIZE - off;
	end = off + len;
	switch (r % 12) {
	case 0 ... 2:
		*what = "write";
		fill(io->buf, len, io->state, 0);
		if (pwrite(io->fd, io->buf, len, off) != len)
			return "write failed";
		memcpy(io->model + off, io->buf, len);
		io->size = end > io->size ? end : io->size;
		break;
	case 3 ... 5: {
		ssize_t want = off >= io->size ? 0 : end > io->size ? io->size - off : len, got;

		*what = "read";
		got = pread(io->fd, io->buf, len, off);
		if (got != want)
			return "read has another length";
		if (memcmp(io->buf, io->model + off, want))
			return "read differs";
		break;
	}
	case 6:
		*what = "truncate";
		if (ftruncate(io->fd, off))
			return "truncate failed";
		if (off < io->size)
			memset(io->model + off, 0, io->size - off);
		io->size = off;
		break;
	case 7: {
		char *p;

		*what = "mapped write";
		if (off >= io->size)
			break;
		if (end > io->size)
			len = io->size - off;
		p = mmap(NULL, io->size, PROT_READ | PROT_WRITE, MAP_SHARED, io->fd, 0);
		if (p == MAP_FAILED)
			return "mmap failed";
		if (memcmp(p + off, io->model + off, len))
			return "mapping differs";
		fill(p + off, len, io->state, 0);
		memcpy(io->model + off, p + off, len);
		munmap(p, io->size);
		break;
	}
	case 8:
		*what = "direct write";
		if (io->direct < 0)
			break;
		off &= ~4095l;
		len = (len + 4095) & ~4095l;
		if (off + len > SIZE)
			break;
		fill(io->buf, len, io->state, 0);
		if (pwrite(io->direct, io->buf, len, off) != len)
			return "direct write failed";
		memcpy(io->model + off, io->buf, len);
		io->size = off + len > io->size ? off + len : io->size;
		break;
	case 9: {
		ssize_t want, got;

		*what = "direct read";
		if (io->direct < 0)
			break;
		off &= ~4095l;
		len = (len + 4095) & ~4095l;
		want = off >= io->size ? 0 : off + len > io->size ? io->size - off : len;
		got = pread(io->direct, io->buf, len, off);
		if (got != want)
			return "direct read has another length";
		if (memcmp(io->buf, io->model + off, want))
			return "direct read differs";
		break;
	}
	case 10:
		*what = "punch";
		err = ERR(fallocate(io->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len));
		if (!err)
			memset(io->model + off, 0, len);
		else if (err != EOPNOTSUPP)
			return "punch failed";
		break;
	case 11:
		*what = r >> 40 & 1 ? "fsync" : r >> 41 & 1 ? "drop caches" : "preallocate";
		if (**what == 'f' && fsync(io->fd))
			return "fsync failed";
		if (**what == 'd')
			drop_caches();
		if (**what == 'p') {
			err = ERR(fallocate(io->fd, FALLOC_FL_KEEP_SIZE, off, len));
			if (err && err != EOPNOTSUPP)
				return "preallocation failed";
		}
		break;
	}
	return NULL;
}

FIXTURE(random_io) { char path[PATH_MAX]; };
FIXTURE_VARIANT(random_io) { int n; };
FIXTURE_VARIANT_ADD(random_io, seed_1) { 1 };
FIXTURE_VARIANT_ADD(random_io, seed_2) { 2 };
FIXTURE_VARIANT_ADD(random_io, seed_3) { 3 };
BOX_SETUP(random_io, "VEXFS_TEST_DIR")
BOX_TEARDOWN(random_io)

TEST_F_TIMEOUT(random_io, matches_a_copy_in_memory, 600)
{
	struct random_io io = { .state = seed() * 1000 + variant->n };
	const char *bad, *what = "";
	struct stat st;

	TH_LOG("seed %#llx", (unsigned long long)io.state);
	io.fd = open("f", O_RDWR | O_CREAT, 0644);
	io.direct = open("f", O_RDWR | O_DIRECT);
	io.model = calloc(1, SIZE + 4096);
	ASSERT_EQ(0, posix_memalign((void **)&io.buf, 4096, SIZE + 4096));
	for (int i = 0; i < (big() ? 20000 : quick() ? 400 : 1200); i++) {
		bad = random_step(&io, &what);
		ASSERT_EQ(NULL, bad) TH_LOG("step %d, %s: %s", i, what, bad);
		OK(fstat(io.fd, &st));
		ASSERT_EQ(io.size, st.st_size) TH_LOG("step %d, %s", i, what);
	}
	drop_caches();
	ASSERT_EQ(io.size, pread(io.fd, io.buf, SIZE, 0));
	for (long i = 0; i < io.size; i++) {
		ASSERT_EQ(io.model[i], io.buf[i]) TH_LOG("byte %ld at the end", i);
	}
}

static int write_regions(int who)
{
	char *buf = malloc(65536);
	int fd = open("shared", O_RDWR);

	/* Interleaved 1000-byte records: neighbours share pages. */
	for (int i = 0; i < 200; i++) {
		long off = ((long)i * 6 + who) * 1000;

		fill(buf, 1000, who, off);
		if (pwrite(fd, buf, 1000, off) != 1000)
			return 1;
		if (i % 50 == 49 && fdatasync(fd))
			return 2;
	}
	return 0;
}

CASE(writers_of_one_file_do_not_disturb_each_other)
{
	char buf[1000];
	int fd = open("shared", O_RDWR | O_CREAT, 0644);

	EXPECT_EQ(0, in_parallel(6, write_regions));
	drop_caches();
	for (int i = 0; i < 1200; i++) {
		ASSERT_EQ(1000, pread(fd, buf, 1000, i * 1000l));
		ASSERT_EQ(0, differs(buf, 1000, i % 6, i * 1000l)) TH_LOG("record %d", i);
	}
}

static int fsync_one(int who)
{
	char name[16];

	for (int i = 0; i < 40; i++) {
		int fd;

		snprintf(name, sizeof(name), "s%d", who);
		fd = open(name, O_RDWR | O_CREAT | O_APPEND, 0644);
		if (write(fd, name, 2) != 2 || fsync(fd))
			return 1;
		close(fd);
	}
	return 0;
}

CASE(many_fsyncs_at_once)
{
	EXPECT_EQ(0, in_parallel(8, fsync_one));
	EXPECT_EQ(80, size_of("s3"));
}

CASE(many_small_files_in_many_directories)
{
	char name[64];
	int n = big() ? 100000 : quick() ? 3000 : 10000;

	for (int d = 0; d < 100; d++) {
		snprintf(name, sizeof(name), "d%d", d);
		OK(mkdir(name, 0755));
	}
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "d%d/f%d", i % 100, i);
		ASSERT_EQ(0, put(name, i % 50, i)) TH_LOG("%s", name);
	}
	drop_caches();
	for (int i = 0; i < n; i += 17) {
		snprintf(name, sizeof(name), "d%d/f%d", i % 100, i);
		ASSERT_TRUE(holds(name, i % 50, i)) TH_LOG("%s", name);
	}
}

TEST_HARNESS_MAIN
