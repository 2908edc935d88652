// SPDX-License-Identifier: GPL-2.0
/*
 * Builds on several processors and in the background: as good as others, beside
 * changes, ended by drop, kill, unlink and unmount, and failures that are told.
 */
#include "vector_test.h"
#include <linux/fs.h>
#include <stdatomic.h>

VECTOR_FIXTURE(box)
SCRATCH_FIXTURE(scratch)

#define DIM 32
#define NQ 60
#define K 10

static int build(int fd, unsigned int flags, unsigned int ef_construction, unsigned int threads)
{
	struct vexfs_build_index arg = {
		.size = sizeof(arg), .flags = flags, .index_kind = VEXFS_INDEX_HNSW,
		.m = flags == VEXFS_BUILD_DROP ? 0 : 8, .ef_construction = ef_construction,
		.threads = threads,
	};

	return ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

static int drop(int fd)
{
	return build(fd, VEXFS_BUILD_DROP, 0, 0);
}

static struct vexfs_index_stats index_stats(int fd, unsigned int flags)
{
	struct vexfs_index_stats st = { .size = sizeof(st), .flags = flags,
					.index_kind = VEXFS_INDEX_HNSW };

	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st))
		st.state = 0;
	return st;
}

/* Whether the index is what the rows make it, every link and code of it. */
static bool is_sound(int fd)
{
	struct vexfs_index_check c = { .size = sizeof(c), .index_kind = VEXFS_INDEX_HNSW };

	return !ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c) &&
		!(c.faults | c.unreachable | c.wrong_codes | c.wrong_rows | c.bad_images);
}

/* Waits until no build goes on; the state then. */
static struct vexfs_index_stats wait_for_build(int fd)
{
	struct vexfs_index_stats st;

	do {
		usleep(1000);
		st = index_stats(fd, 0);
	} while (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING);
	return st;
}

/*
 * Waits until a build has come as far as row @goal; says whether it goes on. Tests that
 * end a build somewhere in it ask for progress, not for time, and for some builds that
 * went on, not for all: on a fast machine one may be over before its end comes.
 */
static bool goes_on_at(int fd, uint64_t goal)
{
	struct vexfs_index_stats st;

	for (;;) {
		st = index_stats(fd, 0);
		if (st.state != VEXFS_INDEX_BUILDING && st.state != VEXFS_INDEX_REBUILDING)
			return false;
		if (st.build_watermark >= goal)
			return true;
		usleep(200);
	}
}

/* Recall@K of the index, per mille. */
static unsigned int recall(int fd, const float *queries, unsigned int ef)
{
	static struct vexfs_hit want[NQ * K], got[NQ * K];
	struct vexfs_search s = { .nq = NQ, .k = K, .queries = PTR(queries), .hits = PTR(want),
				  .index_kind = VEXFS_INDEX_EXACT };
	unsigned int same = 0;

	if (search(fd, &s))
		return 0;
	s.hits = PTR(got);
	s.index_kind = VEXFS_INDEX_HNSW;
	s.ef = ef;
	if (search(fd, &s))
		return 0;
	for (int q = 0; q < NQ; q++)
		for (int i = 0; i < K; i++)
			for (int j = 0; j < K; j++)
				same += got[q * K + i].row == want[q * K + j].row;
	return same * 1000 / (NQ * K);
}

CASE(several_threads_build_an_index_as_good_as_one_does)
{
	unsigned int n = quick() ? 2000 : 12000, ef = quick() ? 60 : 240, one, four;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM), *queries = new_rows(2, 0, NQ, DIM);
	struct vexfs_index_stats st;
	uint64_t digest;

	OK(insert(fd, rows, NULL, n));
	OK(build(fd, 0, 60, 1));
	one = recall(fd, queries, ef);
	digest = index_stats(fd, VEXFS_INDEX_STATS_DIGEST).digest;
	EXPECT_LT(900, one);
	/* One thread makes the same each time, in the background too. */
	OK(build(fd, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, 60, 0));
	EXPECT_EQ(VEXFS_INDEX_READY, wait_for_build(fd).state);
	EXPECT_EQ(digest, index_stats(fd, VEXFS_INDEX_STATS_DIGEST).digest);
	for (unsigned int threads = 2; threads < 6; threads++) {
		OK(build(fd, VEXFS_BUILD_REPLACE, 60, threads));
		st = index_stats(fd, VEXFS_INDEX_STATS_DIGEST);
		EXPECT_EQ(n, st.nodes);
		EXPECT_EQ(n, st.watermark);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_TRUE(is_sound(fd));
		four = recall(fd, queries, ef);
		EXPECT_LE(one - 30, four) TH_LOG("%u threads", threads);
	}
	free(rows);
	free(queries);
}

CASE(a_build_in_the_background_shows_its_progress)
{
	unsigned int n = quick() ? 1500 : 8000, errors = 0, seen = 0, busy = 0;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM), *queries = new_rows(2, 0, NQ, DIM);
	struct vexfs_index_stats st;
	uint64_t before = 0;

	OK(insert(fd, rows, NULL, n));
	/* Whoever looks on may come late: then once more. */
	for (int round = 0; round < 2 || !seen || !busy; round++) {
		OK(build(fd, VEXFS_BUILD_BACKGROUND, 400, round % 2 * 3));
		before = 0;
		do {
			st = index_stats(fd, 0);
			errors += st.build_error != 0;
			if (st.state == VEXFS_INDEX_BUILDING) {
				errors += st.build_watermark < before;
				errors += st.watermark < st.build_watermark;
				errors += st.build_rows != 0 && st.build_rows != n;
				seen += st.build_watermark && st.build_watermark < n;
				before = st.build_watermark;
				busy += ERR(build(fd, 0, 0, 0)) == EBUSY;
				busy += ERR(build(fd, VEXFS_BUILD_BACKGROUND, 0, 0)) == EBUSY;
				usleep(200);
			}
		} while (st.state == VEXFS_INDEX_BUILDING);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(n, st.nodes);
		EXPECT_EQ(n, st.watermark);
		EXPECT_EQ(0, st.build_rows);
		EXPECT_TRUE(is_sound(fd));
		EXPECT_LT(950, recall(fd, queries, 200));
		/* There is one now: this is told at once. */
		EXPECT_EQ(EEXIST, ERR(build(fd, VEXFS_BUILD_BACKGROUND, 0, 0)));
		OK(drop(fd));
	}
	EXPECT_EQ(0, errors);
	free(rows);
	free(queries);
}

CASE(bad_fields_of_a_build_are_told_at_once)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, 100, DIM);
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW };

	OK(insert(fd, rows, NULL, 100));
	b.flags = VEXFS_BUILD_DROP | VEXFS_BUILD_BACKGROUND;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
	b.flags = VEXFS_BUILD_DROP;
	b.threads = 1;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
	b.flags = VEXFS_BUILD_BACKGROUND;
	b.m = 3;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
	b.m = 0;
	b.nbits = 3;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
	b.nbits = 0;
	EXPECT_EQ(EBADF, ERR(ioctl(open("f", O_RDONLY), VEXFS_IOCTL_BUILD_INDEX, &b)));
	EXPECT_EQ(0, index_stats(fd, 0).state);
	EXPECT_EQ(ENOENT, ERR(drop(fd)));
	b.threads = ~0u;
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	EXPECT_EQ(VEXFS_INDEX_READY, wait_for_build(fd).state);
	free(rows);
}

CASE(an_old_index_serves_until_the_new_one_is_there)
{
	unsigned int n = 1200, rebuilding;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM), *queries = new_rows(2, 0, NQ, DIM);
	struct vexfs_index_stats st;

	OK(insert(fd, rows, NULL, n));
	do {
		OK(build(fd, VEXFS_BUILD_REPLACE, 60, 0));
		OK(build(fd, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, 500, 2));
		for (rebuilding = 0;; rebuilding++) {
			st = index_stats(fd, 0);
			EXPECT_LT(900, recall(fd, queries, 100));
			if (st.state != VEXFS_INDEX_REBUILDING)
				break;
			EXPECT_EQ(60, st.ef_construction);
			EXPECT_EQ(n, st.watermark);
		}
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(500, st.ef_construction);
	} while (!rebuilding);
	free(rows);
	free(queries);
}

CASE(a_drop_ends_a_build_in_the_background)
{
	unsigned int n = quick() ? 1500 : 8000, cut = 0;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM);
	double start, quarter;

	OK(insert(fd, rows, NULL, n));
	/* Each row is compared with all before it, so the first quarter is a sixteenth of the work. */
	start = now();
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 4096, 0));
	goes_on_at(fd, n / 4);
	quarter = now() - start;
	OK(drop(fd));
	for (int round = 0; round < 12 || !cut; round++) {
		OK(build(fd, VEXFS_BUILD_BACKGROUND, 4096, round % 4));
		cut += goes_on_at(fd, n * (round % 12) / 48);
		start = now();
		OK(drop(fd));
		EXPECT_GT(2 + 2 * quarter, now() - start) TH_LOG("a quarter of the rows took %g s", quarter);
		EXPECT_EQ(0, index_stats(fd, 0).state);
		EXPECT_EQ(ENOENT, ERR(drop(fd)));
	}
	/* What was there goes too. */
	OK(build(fd, 0, 16, 0));
	OK(build(fd, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, 4096, 2));
	OK(drop(fd));
	EXPECT_EQ(0, index_stats(fd, 0).state);
	EXPECT_EQ(0, stats_of(fd).index_count);
	OK(build(fd, 0, 16, 4));
	free(rows);
}

CASE(a_killed_build_of_several_threads_leaves_nothing)
{
	unsigned int n = quick() ? 1500 : 8000, cut = 0;
	int fd = container("f", DIM, VEXFS_METRIC_L2), status;
	float *rows = new_rows(1, 0, n, DIM);

	OK(insert(fd, rows, NULL, n));
	for (int round = 0; round < 4 || !cut; round++) {
		pid_t pid = fork();

		if (!pid)
			_exit(build(fd, 0, 4096, 3) ? 1 : 0);
		/* Not reaped before it is killed, so that its number is no other's. */
		while (!index_stats(fd, 0).build_rows && index_stats(fd, 0).state != VEXFS_INDEX_READY)
			usleep(200);
		goes_on_at(fd, n * (round % 4) / 16);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		/* If it was built before, it is whole. */
		if (index_stats(fd, 0).state == VEXFS_INDEX_READY) {
			EXPECT_TRUE(is_sound(fd));
			OK(drop(fd));
			continue;
		}
		EXPECT_TRUE(WIFSIGNALED(status));
		EXPECT_EQ(0, index_stats(fd, 0).state);
		cut++;
	}
	free(rows);
}

#define KEYS 1200

struct changes {
	_Atomic int stop, errors;
	_Atomic uint64_t done;
	uint64_t version[KEYS];
	bool there[KEYS];
	float row[KEYS][DIM];
};

/* Overwrites rows in place, deletes and inserts them, until told to stop. */
static void *changer(void *arg)
{
	struct changes *ch = arg;
	uint64_t random = seed();
	int fd = open("f", O_RDWR);

	while (!ch->stop) {
		uint64_t key = rnd(&random) % KEYS;
		struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 1, .keys = PTR(&key),
					 .vectors = PTR(ch->row[key]) };

		if (!ch->there[key]) {
			make_rows(ch->row[key], 50 + ch->version[key]++, key, 1, DIM);
			if (batch(fd, &b))
				ch->errors++;
			ch->there[key] = true;
		} else if (rnd(&random) % 4 == 0) {
			if (delete_keys(fd, &key, 1))
				ch->errors++;
			ch->there[key] = false;
		} else {
			uint64_t at = get_key(fd, key, NULL, NULL);

			make_rows(ch->row[key], 50 + ch->version[key]++, key, 1, DIM);
			if (pwrite(fd, ch->row[key], DIM * 4, at * DIM * 4) != DIM * 4)
				ch->errors++;
		}
		ch->done++;
	}
	close(fd);
	return NULL;
}

/*
 * Rows that threads take in out of turn, while one of them is late, are overwritten
 * just then.
 */
CASE(rows_overwritten_where_threads_are_at_work_are_found)
{
	unsigned int n = 1600, missed = 0, overwritten = 0;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM);
	uint64_t random = seed(), version = 100;

	OK(insert(fd, rows, NULL, n));
	for (int round = 0; round < (quick() ? 4 : 20) || overwritten <= 100; round++) {
		struct vexfs_index_stats st;
		bool changed[1600] = { false };

		OK(build(fd, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, 40, 4));
		for (;;) {
			uint64_t at;

			st = index_stats(fd, 0);
			if (!st.build_rows && st.state == VEXFS_INDEX_READY)
				break;
			at = st.build_watermark + rnd(&random) % 80;
			if (at >= n)
				continue;
			make_rows(rows + at * DIM, version++, at, 1, DIM);
			ASSERT_EQ(DIM * 4, pwrite(fd, rows + at * DIM, DIM * 4, at * DIM * 4));
			changed[at] = true;
			overwritten++;
		}
		for (unsigned int i = 0; i < n; i++) {
			struct vexfs_hit hit;
			/* All nodes are visited, so that it is a wrong code if a row is missing. */
			struct vexfs_search s = { .nq = 1, .k = 1, .hits = PTR(&hit), .ef = n,
						  .rerank = 10, .queries = PTR(rows + i * DIM),
						  .index_kind = VEXFS_INDEX_HNSW };

			if (!changed[i])
				continue;
			OK(search(fd, &s));
			missed += hit.row != i;
		}
		EXPECT_EQ(n, index_stats(fd, 0).nodes);
		EXPECT_TRUE(is_sound(fd));
	}
	EXPECT_EQ(0, missed) TH_LOG("%u of %u", missed, overwritten);
	free(rows);
}

CASE(changes_during_a_build_of_several_threads_are_in_it)
{
	static struct changes changes;
	struct changes *ch = &changes;
	uint64_t done = 0;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	struct vexfs_index_stats st;
	pthread_t thread;
	uint64_t keys[KEYS];

	for (uint64_t i = 0; i < KEYS; i++) {
		keys[i] = i;
		ch->there[i] = true;
		make_rows(ch->row[i], 1, i, 1, DIM);
	}
	OK(insert(fd, ch->row[0], keys, KEYS));
	for (unsigned int round = 0; round < 6 || done <= 60; round++) {
		unsigned int flags = VEXFS_BUILD_REPLACE | (round % 2 ? VEXFS_BUILD_BACKGROUND : 0);
		unsigned int live = 0, missed = 0;

		ch->stop = 0;
		ch->done = 0;
		pthread_create(&thread, NULL, changer, ch);
		while (!ch->done && !ch->errors)
			usleep(100);
		OK(build(fd, flags, 100, 2 + round % 3));
		st = wait_for_build(fd);
		ch->stop = 1;
		pthread_join(thread, NULL);
		ASSERT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(0, atomic_load(&ch->errors));
		done += ch->done;
		for (int key = 0; key < KEYS; key++) {
			struct vexfs_hit hit;
			struct vexfs_search s = { .nq = 1, .k = 1, .hits = PTR(&hit), .ef = 30,
						  .queries = PTR(ch->row[key]),
						  .index_kind = VEXFS_INDEX_HNSW };

			if (!ch->there[key])
				continue;
			live++;
			OK(search(fd, &s));
			/* At a wrong code the row is far away, and so not found. */
			missed += hit.key != key || hit.distance != 0;
		}
		EXPECT_TRUE(is_sound(fd));
		st = index_stats(fd, 0);
		EXPECT_EQ(live, st.nodes);
		EXPECT_EQ(stats_of(fd).rows, st.watermark);
		EXPECT_GE(live / 100, missed) TH_LOG("%u of %u", missed, live);
	}
}

static uint64_t free_bytes(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) ? 0 : fs.f_bfree * fs.f_bsize;
}

CASE(an_unlinked_file_does_not_wait_for_its_build)
{
	unsigned int n = quick() ? 3000 : 20000;
	float *rows = new_rows(1, 0, n, DIM);
	uint64_t before = free_bytes("."), used;
	double start, part;
	int fd;

	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	OK(fsync(fd));
	used = before - free_bytes(".");
	start = now();
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 4096, 2));
	/* Who has it open still gets its index. */
	OK(unlink("f"));
	/* A 64th of the work, as each row is compared with all before it. */
	EXPECT_TRUE(goes_on_at(fd, n / 8));
	part = now() - start;
	close(fd);
	start = now();
	while (before - free_bytes(".") > used / 2) {
		usleep(20000);
		sync();
	}
	EXPECT_GT(2 + 8 * part, now() - start) TH_LOG("an eighth of the rows took %g s", part);
	fd = container("g", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, 500));
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 40, 2));
	OK(unlink("g"));
	EXPECT_EQ(VEXFS_INDEX_READY, wait_for_build(fd).state);
	free(rows);
}

SCRATCH_CASE(a_build_in_the_background_does_not_hold_an_unmount)
{
	unsigned int n = 4000, cut = 0;
	float *rows = new_rows(1, 0, n, DIM);
	unsigned int state;
	int fd;

	if (!self->mounted || !on_vexfs())
		SKIP(return, "not on VexFS");
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	close(fd);
	for (int round = 0; round < 12 || !cut; round++) {
		fd = open("f", O_RDWR);
		ASSERT_LE(0, fd);
		/* What was cut off, and so not waited for, is known to be missing. */
		state = index_stats(fd, 0).state;
		cut += state == VEXFS_INDEX_UNUSABLE;
		EXPECT_TRUE(round % 3 ? state == VEXFS_INDEX_UNUSABLE || state == VEXFS_INDEX_STORED
				      : state == 0) TH_LOG("state %u", state);
		OK(build(fd, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, 4096, round % 4));
		goes_on_at(fd, n * (round % 12) / 48);
		/* It may be the last reference. */
		if (round % 3 == 2)
			OK(unlink("f"));
		close(fd);
		OK(scratch_cycle());
		if (round % 3 == 2) {
			EXPECT_EQ(-1, access("f", F_OK));
			fd = container("f", DIM, VEXFS_METRIC_L2);
			OK(insert(fd, rows, NULL, n));
			close(fd);
		}
	}
	fd = open("f", O_RDWR);
	EXPECT_EQ(n, stats_of(fd).live);
	free(rows);
}

/* What an unmount cut off starts again by itself, and gives way to a build that somebody asks for. */
SCRATCH_CASE(a_build_that_nobody_asked_for_gives_way)
{
	unsigned int n = 4000, taken = 0;
	float *rows = new_rows(1, 0, n, DIM), *queries = new_rows(2, 0, NQ, DIM);
	struct vexfs_index_stats st;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	/* An unmount, or who takes its place, may come when it is over: then once more. */
	for (int round = 0; round < 4 || taken < 4; round++) {
		unsigned int flags = VEXFS_BUILD_REPLACE | (round % 2 ? VEXFS_BUILD_BACKGROUND : 0);

		OK(build(fd, VEXFS_BUILD_BACKGROUND, 4096, 2));
		close(fd);
		OK(scratch_cycle());
		fd = open("f", O_RDWR);
		ASSERT_LE(0, fd);
		EXPECT_EQ(1000, recall(fd, queries, 60));
		taken += goes_on_at(fd, n * (round % 4) / 32);
		OK(build(fd, flags, 20 + round, 2));
		st = wait_for_build(fd);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(20 + round, st.ef_construction);
		EXPECT_EQ(0, st.build_error);
		EXPECT_EQ(n, st.nodes);
		EXPECT_TRUE(is_sound(fd));
		/* That one is saved. */
		close(fd);
		OK(scratch_cycle());
		fd = open("f", O_RDWR);
		ASSERT_LE(0, fd);
		EXPECT_LT(500, recall(fd, queries, 60));
		st = index_stats(fd, 0);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(20 + round, st.ef_construction);
		OK(drop(fd));
	}
	free(rows);
	free(queries);
}

SCRATCH_CASE(a_failed_build_in_the_background_is_told)
{
	unsigned int n = 8000;
	float *rows = new_rows(1, 0, n, DIM);
	struct vexfs_index_stats st;
	int fd;

	if (!self->mounted || !on_vexfs())
		SKIP(return, "not on VexFS");
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	OK(mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", MS_REMOUNT,
		 "index_memory=100K"));
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 40, 2));
	st = wait_for_build(fd);
	EXPECT_EQ(VEXFS_INDEX_FAILED, st.state);
	EXPECT_EQ(ENOMEM, st.build_error);
	EXPECT_EQ(0, st.nodes + st.build_rows + st.resident_bytes);
	EXPECT_EQ(0, stats_of(fd).index_count);
	/* A drop of none forgets it; so does the next build. */
	EXPECT_EQ(ENOENT, ERR(drop(fd)));
	EXPECT_EQ(0, index_stats(fd, 0).state);
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 40, 0));
	EXPECT_EQ(ENOMEM, wait_for_build(fd).build_error);
	OK(mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", MS_REMOUNT,
		 ""));
	OK(build(fd, VEXFS_BUILD_BACKGROUND, 20, 2));
	st = wait_for_build(fd);
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(0, st.build_error);
	/* A failed successor leaves the index. */
	OK(mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", MS_REMOUNT,
		 "index_memory=100K"));
	/* It may not be saved yet, which is part of its build. */
	while (ERR(build(fd, VEXFS_BUILD_BACKGROUND | VEXFS_BUILD_REPLACE, 40, 2)) == EBUSY)
		usleep(1000);
	st = wait_for_build(fd);
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(ENOMEM, st.build_error);
	EXPECT_EQ(20, st.ef_construction);
	EXPECT_EQ(n, st.nodes);
	free(rows);
}

/*
 * An index that is built while the volume is frozen waits to be saved until it is thawed. Who
 * waits for that in turn, here a check of the image, can be killed.
 */
SCRATCH_CASE(who_waits_for_a_save_can_be_killed)
{
	struct vexfs_index_check check = { .size = sizeof(check), .index_kind = VEXFS_INDEX_HNSW };
	unsigned int waited;
	bool stuck = false;
	int fd, volume;
	float *rows;
	pid_t pid;

	NEED_VEXFS();
	volume = open(".", O_RDONLY | O_DIRECTORY);
	/* A fast machine has few rows in an index before the volume is frozen. */
	for (unsigned int n = 300; !stuck && n < 20000; n *= 4) {
		rows = new_rows(1, 0, n, DIM);
		fd = container("f", DIM, VEXFS_METRIC_L2);
		OK(insert(fd, rows, NULL, n));
		OK(build(fd, VEXFS_BUILD_BACKGROUND, 1000, 1));
		OK(ioctl(volume, FIFREEZE, 0));
		EXPECT_EQ(VEXFS_INDEX_READY, wait_for_build(fd).state);
		pid = fork();
		if (!pid)
			_exit(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check) ? errno : 0);
		/* It is through with the index in memory by then. */
		usleep(1000000);
		stuck = !waitpid(pid, NULL, WNOHANG);
		if (stuck) {
			OK(kill(pid, SIGKILL));
			for (waited = 0; waited < 1000 && !waitpid(pid, NULL, WNOHANG); waited++)
				usleep(5000);
			EXPECT_GT(1000, waited);
		}
		EXPECT_EQ(0, ERR(ioctl(volume, FITHAW, 0)));
		if (stuck && waited == 1000)
			waitpid(pid, NULL, 0);
		OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check));
		EXPECT_EQ(0, check.bad_images);
		close(fd);
		OK(unlink("f"));
		free(rows);
	}
	EXPECT_TRUE(stuck);
	close(volume);
}

TEST_HARNESS_MAIN
