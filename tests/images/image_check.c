// SPDX-License-Identifier: GPL-2.0
/*
 * Damaged images: makes a good volume, damages copies of it in every way it knows,
 * mounts each, and uses what mounts.
 *
 *   image_check GOOD SCRATCH SMALL MOUNTPOINT ROUNDS SEED
 *
 * GOOD and SCRATCH are disks of one size, SMALL is half of it. Wanted of every copy:
 *  - mount fails with an errno that says corrupt or invalid, and one line in the
 *    log that says where; or it works;
 *  - if the damage did not get a right checksum, every file is found and has its
 *    bytes, or there is an error: nothing wrong is returned as if it were right;
 *  - with right checksums over wrong contents, anything but a crash or a hang;
 *  - changing the volume works or fails, and it unmounts.
 * Crashes are for qemu/vm to see, in the kernel's log.
 *
 * What a block is can be told from its first bytes: metadata is self-describing.
 * Blocks of file data have no checksum and are left alone, except by rounds that
 * do not compare contents.
 */
#include "vector_test.h"
#include "vexfs_device.h"
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/sysmacros.h>

#define FILES 60
#define GROUP_BLOCKS 32256ul
#define CASE_LIMIT 300		/* seconds after which one copy hangs, on a busy emulated machine */

enum { SB_BYTES = 1024, INODE_BYTES = 512 };

static unsigned char *good, *copy;	/* the image, and the copy that is damaged */
static unsigned long blocks;
static bool *is_data;			/* blocks with file contents */
static const char *mnt;
static int kmsg_fd;
static uint64_t state;
static int test_number;

/* -- checksums, as the format has them --------------------------------------- */

static uint32_t get32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static uint64_t get64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

enum kind { OTHER, SUPER, GROUPS, BLOCK_BITMAP, INODE_BITMAP, NODE, INODES, JOURNAL, KINDS };
static const char *const kind_name[] = {
	"other", "superblock", "group_descriptors", "block_bitmap", "inode_bitmap", "tree_node",
	"inode_table", "journal",
};

static uint64_t journal_start(void) { return get64(good + SB_AT + 128); }
static uint64_t journal_blocks(void) { return get32(good + SB_AT + 136); }

static enum kind kind_of(unsigned long block)
{
	const unsigned char *p = good + block * BLOCK;

	if (is_data[block])
		return OTHER;
	if (block >= journal_start() && block < journal_start() + journal_blocks())
		return JOURNAL;
	if (block % GROUP_BLOCKS == 0)
		return memcmp(p + SB_AT, good + SB_AT, 8) ? OTHER : SUPER;
	switch (get32(p)) {
	case 0x70724776: return GROUPS;		/* vGrp */
	case 0x706d4276: return BLOCK_BITMAP;	/* vBmp */
	case 0x706d4976: return INODE_BITMAP;	/* vImp */
	case 0x646f4e76: return NODE;		/* vNod */
	}
	for (int i = 0; i < 8; i++)
		if (p[i * INODE_BYTES] == 'v' && p[i * INODE_BYTES + 1] == 'I')
			return INODES;
	return OTHER;
}

/* Number of the inode at byte @at, from the place of its table in its group. */
static uint64_t inode_at(unsigned long at)
{
	unsigned long block = at / BLOCK, first = block;

	while (first && kind_of(first - 1) != INODE_BITMAP)
		first--;
	return get32(good + SB_AT + 104) * (block / GROUP_BLOCKS) + (at - first * BLOCK) / INODE_BYTES + 1;
}

/* Gives the block of byte @at a checksum that is right for its contents. */
static void reseal(unsigned long at)
{
	unsigned char *p = copy + at / BLOCK * BLOCK, zero[4] = { 0 };
	uint64_t no = at / BLOCK, ino;
	uint32_t sum;

	switch (kind_of(no)) {
	case SUPER:
		p += SB_AT;
		sum = crc32c(~0u, p, 8);
		sum = crc32c(sum, zero, 4);
		sum = crc32c(sum, p + 12, SB_BYTES - 12);
		memcpy(p + 8, &sum, 4);
		break;
	case GROUPS: case BLOCK_BITMAP: case INODE_BITMAP: case NODE:
		sum = header_checksum(volume_seed(copy), p, no);
		memcpy(p + 4, &sum, 4);
		break;
	case INODES:
		ino = inode_at(at);
		p += at % BLOCK / INODE_BYTES * INODE_BYTES;
		sum = crc32c(volume_seed(copy), &ino, 8);
		sum = crc32c(sum, p + 28, 4);
		sum = crc32c(sum, p, 4);
		sum = crc32c(sum, zero, 4);
		sum = crc32c(sum, p + 8, INODE_BYTES - 8);
		memcpy(p + 4, &sum, 4);
		break;
	default:
		break;
	}
}

/* -- the good volume ---------------------------------------------------------- */

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

/* -- using a copy ------------------------------------------------------------- */

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

/* In the child: returns 0, or 1 with a complaint printed. */
static int use_copy(bool strict)
{
	char text[PATH_MAX + 300], name[300];
	struct vexfs_hit hits[5];
	struct vexfs_search s = { .nq = 1, .k = 5, .queries = PTR(rows()), .hits = PTR(hits) };
	float more[4 * 32];
	uint64_t keys[4] = { 1, 2, 3, 4 };
	struct dirent *e;
	struct statfs fs;
	int bad = 0, n, fd;
	DIR *dir;

	if (chdir(mnt))
		return 0;
	signal(SIGALRM, too_long);
	alarm(CASE_LIMIT);
	if (strict) {
		for (int i = 0; i < FILES && !bad; i++) {
			file_name(name, i);
			bad |= file_is_wrong(text, name, file_size(i), i);
		}
		doing = "listing";
		/* A listing is complete, or ends with an error. */
		dir = bad ? NULL : opendir("big");
		errno = 0;
		for (n = 0; dir && (e = readdir(dir)); errno = 0)
			n++;
		if (dir && !errno && n != 602) {
			sprintf(text, "big: lists %d names instead of 602", n);
			bad = 1;
		}
		if (dir)
			closedir(dir);
		doing = "reading pieces";
		fd = open("pieces", O_RDONLY);
		for (int i = 0; fd >= 0 && i < 500 && !bad; i++) {
			char block[2 * BLOCK];

			if (pread(fd, block, 2 * BLOCK, i * 2 * BLOCK) < (ssize_t)BLOCK)
				continue;
			if (differs(block, BLOCK, 5, i * 2 * BLOCK)) {
				sprintf(text, "pieces: block %d differs", 2 * i);
				bad = 1;
			}
		}
		if (fd >= 0)
			close(fd);
		if (bad)
			printf("# %s\n", text);
	}
	doing = "looking at everything";
	nftw(".", look, 8, FTW_PHYS);
	statfs(".", &fs);
	doing = "using the container";
	fd = open("vectors", O_RDWR);
	if (fd >= 0) {
		struct vexfs_vector_stats st = { .size = sizeof(st) };
		uint64_t key = 1000003;
		float row[32];

		if (!search(fd, &s) && strict && on_vexfs() && hits[0].key != 0) {
			printf("# a search finds key %lld first\n", (long long)hits[0].key);
			bad = 1;
		}
		if (get_key(fd, key, row, NULL) < 400 && strict && memcmp(row, rows() + 32, sizeof(row))) {
			printf("# a vector differs\n");
			bad = 1;
		}
		ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st);
		make_rows(more, 2, 0, 4, 32);
		insert(fd, more, keys, 4);
		delete_keys(fd, keys, 2);
		fsync(fd);
		close(fd);
	}
	doing = "making files";
	/* And changes of every kind. */
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
	doing = "syncing";
	fd = open(".", O_RDONLY);
	syncfs(fd);
	close(fd);
	fflush(stdout);
	return bad;
}

static int drain_kmsg(char *out, size_t room)
{
	char line[2048];
	int lines = 0;
	ssize_t n;

	*out = 0;
	while ((n = read(kmsg_fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		if (n <= 0)
			continue;
		line[n] = 0;
		if (!strstr(line, "vexfs") && !strstr(line, "JBD2"))
			continue;
		lines++;
		if (strlen(out) + n + 2 < room) {
			strcat(out, strchr(line, ';') ? strchr(line, ';') + 1 : line);
		}
	}
	return lines;
}

static int refused, worked, hung;

/* One damaged copy; what is printed on failure ends with @what. */
static bool try_copy(bool strict, const char *what)
{
	char messages[8192];
	int status, err, lines, waited;
	/* Closed again before the mount: a device open for writing is busy. */
	int scratch_fd = open(getenv("IMAGE_SCRATCH"), O_RDWR | O_DIRECT);
	pid_t pid;

	for (size_t off = 0; off < blocks * BLOCK; ) {
		ssize_t n = pwrite(scratch_fd, copy + off, blocks * BLOCK - off, off);

		if (n <= 0)
			die("writing a copy");
		off += n;
	}
	close(scratch_fd);
	drain_kmsg(messages, sizeof(messages));
	err = ERR(mount(getenv("IMAGE_SCRATCH"), mnt, "vexfs", 0, NULL));
	lines = drain_kmsg(messages, sizeof(messages));
	if (err) {
		refused++;
		if (err != EUCLEAN && err != EINVAL && err != EBADMSG && err != EIO) {
			printf("# %s: mount fails with %s\n", what, strerror(err));
			return false;
		}
		if (!lines) {
			printf("# %s: mount fails with %s and says nothing in the log\n", what, strerror(err));
			return false;
		}
		return true;
	}
	worked++;
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit(use_copy(strict));
	for (waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited++) {
		if (waited == CASE_LIMIT * 20) {
			printf("# %s: hangs\n", what);
			kill(pid, SIGKILL);
		}
		if (waited == CASE_LIMIT * 40) {
			printf("not ok %d %s: cannot even be killed\n", ++test_number, what);
			fflush(stdout);
			_exit(1);
		}
		usleep(50000);
	}
	for (waited = 0; (err = ERR(umount(mnt))) == EBUSY && waited < CASE_LIMIT * 20; waited++)
		usleep(50000);
	if (err) {
		printf("# %s: unmount: %s\n", what, strerror(err));
		umount2(mnt, MNT_DETACH);
		return false;
	}
	if (status) {
		printf("# %s: used wrongly (status %#x)\n", what, status);
		hung += WIFSIGNALED(status) || WEXITSTATUS(status) == 3;
		if (hung > 3) {
			printf("# giving up: too many copies made something hang\n");
			printf("not ok %d hangs\n", ++test_number);
			exit(1);
		}
		return false;
	}
	return true;
}

static void report(const char *name, int cases, int failed)
{
	printf("%sok %d %s (%d copies: %d refused, %d mounted)\n", failed ? "not " : "", ++test_number,
	       name, cases, refused, worked);
	fflush(stdout);
	refused = worked = 0;
}

static void fresh(void)
{
	memcpy(copy, good, blocks * BLOCK);
}

/* -- the cases ---------------------------------------------------------------- */

enum damage { FLIP, ZERO, ONES, ELSEWHERE, RESEALED, DAMAGES };
static const char *const damage_name[] = {
	"flipped_bits", "zeros", "ones", "a_block_from_elsewhere", "right_checksums_over_flipped_bits",
};

/* Every kind of block in every kind of way: @rounds blocks each, or all there are. */
static void damaged_kinds(int rounds, const char *only)
{
	unsigned long *list = malloc(blocks * sizeof(*list));
	char name[200], what[300];

	for (enum kind kind = SUPER; kind < KINDS; kind++) {
		unsigned long n = 0;

		for (unsigned long b = 0; b < blocks; b++)
			if (kind_of(b) == kind && !all_zero(good + b * BLOCK, BLOCK))
				list[n++] = b;
		if (!n || (only && strcmp(only, kind_name[kind])))
			continue;
		for (enum damage damage = FLIP; damage < DAMAGES; damage++) {
			int tries = kind == SUPER || kind == INODES || kind == NODE ? rounds : rounds / 2;
			int failed = 0;

			if (kind == JOURNAL && damage == RESEALED)
				continue;
			if (damage == ZERO || damage == ONES || damage == ELSEWHERE)
				tries = tries / 4 + 1;
			if (damage == RESEALED)
				tries *= 3;
			for (int t = 0; t < tries; t++) {
				unsigned long b = list[t < (int)n ? t : rnd(&state) % n], at;
				/* Backups of the superblock matter less. */
				unsigned long from = kind == SUPER ? SB_AT : 0;
				unsigned long room = kind == SUPER ? 288 : BLOCK;

				if (kind == SUPER && t % 4)
					b = 0;
				fresh();
				at = b * BLOCK + from + rnd(&state) % room;
				/* The header and the first records more often than the rest. */
				if (kind != SUPER && t % 2)
					at = b * BLOCK + rnd(&state) % 128;
				if (kind == INODES) {
					unsigned long used = b * BLOCK;
					int i = rnd(&state) % 8;

					while (copy[used + i * INODE_BYTES] != 'v')
						i = (i + 1) % 8;
					at = used + i * INODE_BYTES + rnd(&state) % INODE_BYTES;
				}
				switch (damage) {
				case FLIP:
					copy[at] ^= 1 << rnd(&state) % 8;
					break;
				case ZERO:
					memset(copy + b * BLOCK, 0, BLOCK);
					break;
				case ONES:
					memset(copy + b * BLOCK, 0xff, BLOCK);
					break;
				case ELSEWHERE:
					memcpy(copy + b * BLOCK,
					       good + list[rnd(&state) % n] * BLOCK, BLOCK);
					if (n < 2)
						memcpy(copy + b * BLOCK, good + 2 * BLOCK, BLOCK);
					break;
				default:
					for (int f = rnd(&state) % 3; f >= 0; f--) {
						copy[at] = rnd(&state) % 4 ? copy[at] ^ 1 << rnd(&state) % 8 :
							rnd(&state) % 2 ? 0xff : 0;
						reseal(at);
						at = at / 64 * 64 + rnd(&state) % 64;
					}
					break;
				}
				snprintf(what, sizeof(what), "%s of block %lu byte %lu (%s)",
					 kind_name[kind], b, at % BLOCK, damage_name[damage]);
				/* A zeroed bitmap, node or inode table is one never written. */
				failed += !try_copy(damage == FLIP || damage == ONES, what);
			}
			snprintf(name, sizeof(name), "%s_in_%s", damage_name[damage], kind_name[kind]);
			report(name, tries, failed);
		}
	}
	free(list);
}

static void random_damage(int rounds)
{
	char what[200];
	int failed = 0;

	for (int r = 0; r < rounds; r++) {
		int flips = 1 + rnd(&state) % 200;

		fresh();
		for (int f = 0; f < flips; f++) {
			unsigned long at = rnd(&state) % (blocks * BLOCK);

			copy[at] ^= 1 << rnd(&state) % 8;
		}
		snprintf(what, sizeof(what), "round %d, %d flips anywhere", r, flips);
		failed += !try_copy(false, what);
	}
	report("random_flips_anywhere", rounds, failed);
	failed = 0;
	for (int r = 0; r < rounds; r++) {
		unsigned long from = rnd(&state) % (blocks - 1), n = 1 + rnd(&state) % 300;

		fresh();
		for (unsigned long b = from; b < from + n && b < blocks; b++)
			for (unsigned long i = 0; i < BLOCK; i += 8) {
				uint64_t junk = rnd(&state);

				memcpy(copy + b * BLOCK + i, &junk, 8);
			}
		snprintf(what, sizeof(what), "round %d, junk in %lu blocks from %lu", r, n, from);
		failed += !try_copy(false, what);
	}
	report("junk_in_ranges", rounds, failed);
}

static void whole_volume(const char *small)
{
	struct { const char *name; size_t from, len; int value; } cuts[] = {
		{ "zeroed_superblock", SB_AT, SB_BYTES, 0 },
		{ "zeroed_first_block", 0, BLOCK, 0 },
		{ "zeroed_first_megabyte", 0, 1 << 20, 0 },
		{ "zeroed_volume", 0, blocks * BLOCK, 0 },
		{ "ones_for_a_volume", 0, blocks * BLOCK, 0xff },
		{ "zeroed_second_half", blocks * BLOCK / 2, blocks * BLOCK / 2, 0 },
	};
	int fd, err, failed;
	char messages[8192];

	fresh();
	failed = !try_copy(true, "the good volume itself") || !worked;
	report("an_undamaged_copy_works", 1, failed);
	for (int i = 0; i < 6; i++) {
		fresh();
		memset(copy + cuts[i].from, cuts[i].value, cuts[i].len);
		failed = !try_copy(false, cuts[i].name);
		/* Without its superblock nothing is a volume. */
		if (i < 5 && worked) {
			printf("# %s: mounts\n", cuts[i].name);
			failed = 1;
		}
		report(cuts[i].name, 1, failed);
	}
	fd = open(small, O_RDWR | O_DIRECT);
	if (fd < 0 || pwrite(fd, good, blocks * BLOCK / 2, 0) != (ssize_t)(blocks * BLOCK / 2))
		die(small);
	close(fd);
	drain_kmsg(messages, sizeof(messages));
	err = ERR(mount(small, mnt, "vexfs", 0, NULL));
	if (!err)
		umount(mnt);
	failed = err != EINVAL && err != EUCLEAN;
	if (!drain_kmsg(messages, sizeof(messages)) || failed)
		printf("# mount of half a volume: %s; %s\n", strerror(err), messages);
	refused = !!err;
	worked = !err;
	report("truncated_volume", 1, failed);
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

int main(int argc, char **argv)
{
	/* One kind of block only, for debugging. */
	const char *only = getenv("IMAGE_ONLY");
	int rounds, fd;
	uint64_t bytes;
	bool recovered;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 7) {
		fprintf(stderr, "usage: image_check GOOD SCRATCH SMALL MOUNTPOINT ROUNDS SEED\n");
		return 2;
	}
	mnt = argv[4];
	rounds = atoi(argv[5]);
	state = strtoull(argv[6], NULL, 0);
	printf("# program images\n# seed %s\n", argv[6]);
	setenv("IMAGE_SCRATCH", argv[2], 1);
	kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	lseek(kmsg_fd, 0, SEEK_END);
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		die(argv[1]);
	close(fd);
	blocks = bytes / BLOCK;
	is_data = calloc(blocks, sizeof(bool));
	if (posix_memalign((void **)&good, BLOCK, bytes) || posix_memalign((void **)&copy, BLOCK, bytes))
		die("memory");
	if (mount(argv[1], mnt, "vexfs", 0, NULL) || chdir(mnt))
		die("mounting the good volume");
	make_good();
	/* Synced and still mounted: a volume whose journal wants recovery. */
	sync();
	put("after-the-sync", 3000, 1);
	fd = open("after-the-sync", O_RDONLY);
	fsync(fd);
	close(fd);
	snapshot(argv[1]);
	if (chdir("/"))
		die("/");
	recovered = true;
	for (int pass = 0; pass < 2; pass++) {
		char what[200];
		int failed = 0, tries = only ? 0 : rounds * 2;

		if (!pass) {
			fresh();
			recovered = try_copy(true, "the volume as it was while mounted") && worked;
			report("a_copy_made_while_mounted_recovers", 1, !recovered);
			continue;
		}
		/* Damage in the log that is to be replayed. */
		for (int t = 0; t < tries; t++) {
			unsigned long at, used = 0;

			fresh();
			while (used < journal_blocks() - 1 &&
			       !all_zero(good + (journal_start() + used) * BLOCK, BLOCK))
				used++;
			at = (journal_start() + rnd(&state) % (t % 4 ? used : 1)) * BLOCK +
				rnd(&state) % (t % 2 ? BLOCK : 96);
			copy[at] ^= 1 << rnd(&state) % 8;
			snprintf(what, sizeof(what), "log to be replayed, block %lu byte %lu",
				 at / BLOCK, at % BLOCK);
			failed += !try_copy(false, what);
		}
		report("flipped_bits_in_a_log_to_be_replayed", tries, failed);
	}
	if (umount(mnt))
		die("unmounting the good volume");
	snapshot(argv[1]);
	if (!only)
		whole_volume(argv[3]);
	damaged_kinds(rounds, only);
	if (!only)
		random_damage(rounds);
	printf("1..%d\n", test_number);
	return 0;
}
