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
 * Blocks of file data have no checksum and are left alone, except by rounds that
 * do not compare contents.
 */
#include "image_use.h"

static int kmsg_fd;
static uint64_t state;

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
		/* EROFS: a feature that forbids writing, under a right checksum. */
		if (err != EUCLEAN && err != EINVAL && err != EBADMSG && err != EIO && err != EROFS) {
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

enum damage { FLIP, ZERO, ONES, ELSEWHERE, RESEALED, DAMAGES };
static const char *const damage_name[] = {
	"flipped_bits", "zeros", "ones", "a_block_from_elsewhere", "right_checksums_over_flipped_bits",
};

/* A byte to damage in block @b, which is of @kind. */
static unsigned long byte_of(enum kind kind, unsigned long b, bool early)
{
	/* Backups of the superblock matter less. */
	unsigned long from = kind == SUPER ? SB_AT : 0;
	unsigned long room = kind == SUPER ? 288 : BLOCK;
	unsigned long at = b * BLOCK + from + rnd(&state) % room;

	/* The header and the first records. */
	if (kind != SUPER && early)
		at = b * BLOCK + rnd(&state) % 128;
	if (kind == INODES) {
		int i = rnd(&state) % 8;

		while (copy[b * BLOCK + i * INODE_BYTES] != 'v')
			i = (i + 1) % 8;
		at = b * BLOCK + i * INODE_BYTES + rnd(&state) % INODE_BYTES;
	}
	return at;
}

/* Damages byte @at, or all of its block; another one of its kind is @other. */
static void inflict(enum damage damage, unsigned long at, unsigned long other)
{
	unsigned char *block = copy + at / BLOCK * BLOCK;

	switch (damage) {
	case FLIP:
		copy[at] ^= 1 << rnd(&state) % 8;
		break;
	case ZERO:
		memset(block, 0, BLOCK);
		break;
	case ONES:
		memset(block, 0xff, BLOCK);
		break;
	case ELSEWHERE:
		memcpy(block, good + other * BLOCK, BLOCK);
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
}

/* How often blocks of @kind are damaged, where most are so @rounds times. */
static int tries_of(enum kind kind, enum damage damage, int rounds)
{
	int tries = kind == SUPER || kind == INODES || kind == NODE ? rounds : rounds / 2;

	if (damage == ZERO || damage == ONES || damage == ELSEWHERE)
		return tries / 4 + 1;
	return damage == RESEALED ? tries * 3 : tries;
}

/* The @n blocks of @list, all of @kind, in one way. */
static void damaged_blocks(enum kind kind, enum damage damage, unsigned long *list, unsigned long n, int rounds)
{
	int tries = tries_of(kind, damage, rounds), failed = 0;
	char name[200], what[300];

	for (int t = 0; t < tries; t++) {
		unsigned long b = list[t < (int)n ? t : rnd(&state) % n], at, other;

		if (kind == SUPER && t % 4)
			b = 0;
		fresh();
		at = byte_of(kind, b, t % 2);
		other = n < 2 ? 2 : list[rnd(&state) % n];
		inflict(damage, at, other);
		snprintf(what, sizeof(what), "%s of block %lu byte %lu (%s)", kind_name[kind], b,
			 at % BLOCK, damage_name[damage]);
		/* A zeroed bitmap, node or inode table is one never written. */
		failed += !try_copy(damage == FLIP || damage == ONES, what);
	}
	snprintf(name, sizeof(name), "%s_in_%s", damage_name[damage], kind_name[kind]);
	report(name, tries, failed);
}

/* Every kind of block in every kind of way, or @only one kind: @rounds blocks each, or all there are. */
static void damaged_kinds(int rounds, const char *only)
{
	unsigned long *list = malloc(blocks * sizeof(*list));

	for (enum kind kind = SUPER; kind < KINDS; kind++) {
		unsigned long n = 0;

		for (unsigned long b = 0; b < blocks; b++)
			if (kind_of(b) == kind && !all_zero(good + b * BLOCK, BLOCK))
				list[n++] = b;
		if (!n || (only && strcmp(only, kind_name[kind])))
			continue;
		for (enum damage damage = FLIP; damage < DAMAGES; damage++)
			if (kind != JOURNAL || damage != RESEALED)
				damaged_blocks(kind, damage, list, n, rounds);
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

/* Copies of a volume that was not unmounted, @tries of them with damage in the log that is to be replayed. */
static void recovery(int tries)
{
	unsigned long used = 0;
	char what[200];
	int failed;

	fresh();
	failed = !try_copy(true, "the volume as it was while mounted") || !worked;
	report("a_copy_made_while_mounted_recovers", 1, failed);
	failed = 0;
	while (used < journal_blocks() - 1 && !all_zero(good + (journal_start() + used) * BLOCK, BLOCK))
		used++;
	for (int t = 0; t < tries; t++) {
		unsigned long at = (journal_start() + rnd(&state) % (t % 4 ? used : 1)) * BLOCK +
			rnd(&state) % (t % 2 ? BLOCK : 96);

		fresh();
		copy[at] ^= 1 << rnd(&state) % 8;
		snprintf(what, sizeof(what), "log to be replayed, block %lu byte %lu", at / BLOCK, at % BLOCK);
		failed += !try_copy(false, what);
	}
	report("flipped_bits_in_a_log_to_be_replayed", tries, failed);
}

int main(int argc, char **argv)
{
	/* One kind of block only, for debugging. */
	const char *only = getenv("IMAGE_ONLY");
	int rounds, fd;
	uint64_t bytes;

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
	recovery(only ? 0 : rounds * 2);
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
