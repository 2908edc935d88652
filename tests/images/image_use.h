/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Using a copy that mounts: reading what the good volume has, and changes of every kind.
 */
#include "image_good.h"

#define CASE_LIMIT 300		/* seconds after which one copy hangs, on a busy emulated machine */

static const char *mnt;

static bool honest(int err)
{
	return err == EUCLEAN || err == EBADMSG || err == EIO || err == EINVAL || err == EROFS ||
		err == ENOMEM || err == EOVERFLOW || err == EFBIG;
}

/* What the child is doing, for the message when it does not end. */
static const char *doing = "";

static void too_long(int sig)
{
	(void)sig;
	printf("# took too long: %s\n", doing);
	fflush(stdout);
	_exit(3);
}

/* What a file may show: its contents or an error. Fills @text with a complaint. */
static bool file_is_wrong(char *text, const char *name, size_t len, uint64_t stream)
{
	static char buf[4 << 20];
	int fd = open(name, O_RDONLY | O_NONBLOCK);
	size_t done = 0;
	ssize_t n = 0;

	doing = "reading files";
	if (fd < 0) {
		sprintf(text, "%s: open: %s", name, strerror(errno));
		return !honest(errno);
	}
	while (done <= len && (n = read(fd, buf + done, len + 1 - done)) > 0)
		done += n;
	close(fd);
	if (n < 0) {
		sprintf(text, "%s: read: %s", name, strerror(errno));
		return !honest(errno);
	}
	if (done != len || differs(buf, len, stream, 0)) {
		sprintf(text, "%s: %zu bytes instead of %zu, or other ones", name, done, len);
		return true;
	}
	return false;
}

/* Looks at everything without expecting anything. */
static int look(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	char buf[8192];
	int fd;

	(void)ftw;
	if (kind == FTW_SL && readlink(path, buf, sizeof(buf)) < 0)
		return 0;
	if (kind == FTW_F && S_ISREG(st->st_mode)) {
		fd = open(path, O_RDONLY | O_NONBLOCK);
		for (off_t off = 0; fd >= 0 && off < 64 << 20; ) {
			ssize_t n = pread(fd, buf, sizeof(buf), off);

			if (n <= 0)
				break;
			off = lseek(fd, off + n, SEEK_DATA);
			if (off < 0)
				break;
		}
		if (fd >= 0)
			close(fd);
	}
	return 0;
}

/* Files, a listing and the blocks of a file in pieces are right or end with an error. */
static bool contents_are_wrong(char *text)
{
	char name[300], block[2 * BLOCK];
	bool bad = false;
	struct dirent *e;
	int n = 0, fd;
	DIR *dir;

	for (int i = 0; i < FILES; i++) {
		file_name(name, i);
		if (file_is_wrong(text, name, file_size(i), i))
			return true;
	}
	doing = "listing";
	dir = opendir("big");
	if (dir) {
		for (errno = 0; (e = readdir(dir)); errno = 0)
			n++;
		bad = !errno && n != 602;
		closedir(dir);
	}
	if (bad) {
		sprintf(text, "big: lists %d names instead of 602", n);
		return true;
	}
	doing = "reading pieces";
	fd = open("pieces", O_RDONLY);
	for (int i = 0; fd >= 0 && i < 500 && !bad; i++) {
		if (pread(fd, block, 2 * BLOCK, i * 2 * BLOCK) < (ssize_t)BLOCK)
			continue;
		bad = differs(block, BLOCK, 5, i * 2 * BLOCK);
		if (bad)
			sprintf(text, "pieces: block %d differs", 2 * i);
	}
	if (fd >= 0)
		close(fd);
	return bad;
}

/* Searches, reads and changes it; says whether a result was wrong. */
static bool container_is_wrong(char *text)
{
	struct vexfs_hit hits[5];
	struct vexfs_search s = { .nq = 1, .k = 5, .queries = PTR(rows()), .hits = PTR(hits) };
	struct vexfs_vector_stats st = { .size = sizeof(st) };
	uint64_t key = 1000003, keys[4] = { 1, 2, 3, 4 };
	float row[32], more[4 * 32];
	bool bad = false;
	int fd;

	doing = "using the container";
	fd = open("vectors", O_RDWR);
	if (fd < 0)
		return false;
	if (!search(fd, &s) && on_vexfs() && hits[0].key != 0) {
		sprintf(text, "a search finds key %lld first", (long long)hits[0].key);
		bad = true;
	}
	if (get_key(fd, key, row, NULL) < 400 && memcmp(row, rows() + 32, sizeof(row))) {
		sprintf(text, "a vector differs");
		bad = true;
	}
	ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st);
	make_rows(more, 2, 0, 4, 32);
	insert(fd, more, keys, 4);
	delete_keys(fd, keys, 2);
	fsync(fd);
	close(fd);
	return bad;
}

/* Changes of every kind, whatever becomes of them. */
static void change_files(void)
{
	char name[300];

	doing = "making files";
	for (int i = 0; i < 20; i++) {
		sprintf(name, "new-%d", i);
		put(name, i * 3000, i);
	}
	doing = "changing names";
	mkdir("newdir", 0755);
	put("d0/new", 5000, 1);
	put("big/new", 5000, 1);
	rename("d0/file-6", "big/moved");
	renameat2_("d0", "d1", RENAME_EXCHANGE);
	unlink("big/a-name-of-some-length-300");
	symlink("x", "newlink");
	doing = "truncating";
	truncate("pieces", 100 * BLOCK);
	truncate("d2/file-59", 10);
	put("d2/file-59", 30000, 3);
	unlink("d2/file-56");
	rmdir("newdir");
}

/* In the child: returns 0, or 1 with a complaint printed. What is read need not be right unless @strict. */
static int use_copy(bool strict)
{
	char text[PATH_MAX + 300];
	struct statfs fs;
	int bad = 0, fd;

	if (chdir(mnt))
		return 0;
	signal(SIGALRM, too_long);
	alarm(CASE_LIMIT);
	if (strict && contents_are_wrong(text)) {
		printf("# %s\n", text);
		bad = 1;
	}
	doing = "looking at everything";
	nftw(".", look, 8, FTW_PHYS);
	statfs(".", &fs);
	if (container_is_wrong(text) && strict) {
		printf("# %s\n", text);
		bad = 1;
	}
	change_files();
	doing = "syncing";
	fd = open(".", O_RDONLY);
	syncfs(fd);
	close(fd);
	fflush(stdout);
	return bad;
}
