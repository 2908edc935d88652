// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations that fail, one after the other, in every operation on a container and
 * its index: an errno or success, nothing lost, right answers afterwards, and no leak.
 * Wants a kernel with fault injection (qemu/vm --debug).
 *
 * Each operation is done again and again with its 1st, 2nd, ... allocation failing until
 * none fails any more, and once more with several failing in a row; beyond the first FIRST_FAULTS some are left out, unless VEXFS_BIG
 * is 1. After each, exact searches are held against a model of what was acknowledged.
 */
#include "vector_faults.h"

SCRATCH_FIXTURE(scratch)

#define DIM 16
#define N 96
#define AT_ONCE 8
#define MOST_ROUNDS 400
#define MOST_ROWS (N + MOST_ROUNDS * AT_ONCE)
#define K 5
#define NQ 2
#define FIRST_FAULTS 24

FIXTURE_VARIANT(scratch) {
	struct vexfs_build_index build;
};
FIXTURE_VARIANT_ADD(scratch, hnsw) {
	{ .index_kind = VEXFS_INDEX_HNSW, .m = 8, .ef_construction = 40 },
};
FIXTURE_VARIANT_ADD(scratch, ivf) {
	{ .index_kind = VEXFS_INDEX_IVF, .nlist = 8, .nsub = 4, .nbits = 4 },
};
/* Without codes, which the one above has: what a second list asks for is the same. */
FIXTURE_VARIANT_ADD(scratch, ivf_two_lists) {
	{ .index_kind = VEXFS_INDEX_IVF, .nlist = 8, .nbits = 32, .ntables = 2 },
};
FIXTURE_VARIANT_ADD(scratch, pq) {
	{ .index_kind = VEXFS_INDEX_PQ, .nbits = 4 },
};
FIXTURE_VARIANT_ADD(scratch, lsh) {
	{ .index_kind = VEXFS_INDEX_LSH, .nbits = 4, .ntables = 4 },
};

/* A container, and what must be in it. */
static struct world {
	int fd;
	const struct vexfs_build_index *build;
	/* VEXFS_SEARCH_* of the searches under way. */
	unsigned int filter;
	uint64_t n;
	float rows[MOST_ROWS * DIM];
	uint64_t keys[MOST_ROWS];
	bool dead[MOST_ROWS];
	/* What the operation under way is about. */
	float fresh[AT_ONCE * DIM];
	uint64_t fresh_keys[AT_ONCE];
} world;

static uint64_t live_rows(const struct world *w)
{
	uint64_t live = 0;

	for (uint64_t row = 0; row < w->n; row++)
		live += !w->dead[row];
	return live;
}

static int build(const struct world *w, unsigned int flags)
{
	struct vexfs_build_index arg = *w->build;

	arg.size = sizeof(arg);
	arg.flags = flags;
	return ioctl(w->fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

static int drop(const struct world *w)
{
	struct vexfs_build_index arg = { .size = sizeof(arg), .flags = VEXFS_BUILD_DROP,
					 .index_kind = w->build->index_kind };

	return ioctl(w->fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

/* Wrong things that a check of the index finds, or -1. */
static long long findings(const struct world *w)
{
	struct vexfs_index_check c = { .size = sizeof(c), .index_kind = w->build->index_kind };

	if (ioctl(w->fd, VEXFS_IOCTL_CHECK_INDEX, &c))
		return -1;
	return c.faults + c.unreachable + c.wrong_codes + c.wrong_rows + c.bad_images;
}

/* A search by the index that looks at nearly everything. */
static struct vexfs_search by_index(const struct world *w)
{
	bool graph = w->build->index_kind == VEXFS_INDEX_HNSW;

	return (struct vexfs_search){ .index_kind = w->build->index_kind, .ef = graph ? 100 : 0,
				      .nprobe = graph ? 0 : 16, .rerank = 100 };
}

/* Hits of the index that an exact search finds too, of 100; or what errno says, negated. */
static int recall(const struct world *w)
{
	struct vexfs_hit exact[NQ * K], hits[NQ * K];
	struct vexfs_search s = { .nq = NQ, .k = K, .index_kind = VEXFS_INDEX_EXACT,
				  .queries = PTR(w->rows), .hits = PTR(exact) };
	int found = 0;

	if (search(w->fd, &s))
		return -errno;
	s = by_index(w);
	s.nq = NQ;
	s.k = K;
	s.queries = PTR(w->rows);
	s.hits = PTR(hits);
	if (search(w->fd, &s))
		return -errno;
	for (int q = 0; q < NQ; q++)
		for (int i = 0; i < K; i++)
			for (int j = 0; j < K; j++)
				found += hits[q * K + i].row == exact[q * K + j].row;
	return 100 * found / (NQ * K);
}

/* What is wrong with the container, or NULL. */
static const char *wrong_world(const struct world *w)
{
	struct model m = { DIM, VEXFS_METRIC_L2, w->n, w->rows, w->keys, w->dead };
	struct vexfs_vector_stats st = stats_of(w->fd);
	static char text[200];

	if (st.rows != w->n || st.live != live_rows(w)) {
		snprintf(text, sizeof(text), "%llu rows, %llu live, want %llu, %llu",
			 (unsigned long long)st.rows, (unsigned long long)st.live,
			 (unsigned long long)w->n, (unsigned long long)live_rows(w));
		return text;
	}
	for (uint64_t row = w->n > N ? w->n - AT_ONCE : 0; row < w->n; row += 3) {
		uint64_t found = get_key(w->fd, w->keys[row], NULL, NULL);

		/* A replaced row's key is another's. */
		if (!w->dead[row] && found != row)
			return "a key has another row";
	}
	for (int q = 0; q < 2; q++) {
		struct vexfs_search s = { .index_kind = VEXFS_INDEX_EXACT };
		const char *bad = search_is_wrong(w->fd, &m, w->rows + (w->n - 1 - q) * DIM, K, &s);

		if (bad)
			return bad;
	}
	return NULL;
}

static void new_world(struct __test_metadata *_metadata, const struct vexfs_build_index *index)
{
	struct world *w = &world;

	*w = (struct world){ .fd = container("f", DIM, VEXFS_METRIC_L2), .build = index, .n = N };
	ASSERT_LE(0, w->fd);
	make_rows(w->rows, 1, 0, N, DIM);
	for (int i = 0; i < N; i++)
		w->keys[i] = 1000 + i;
	OK(insert(w->fd, w->rows, w->keys, N));
	OK(build(w, 0));
	OK(fsync(w->fd));
}

/* Operations return 0, or -1 and errno, and note in the model what was acknowledged. */
struct operation {
	const char *name;
	int (*run)(struct world *w, int round);
	unsigned int filter;
};

static void appended(struct world *w, const uint64_t *keys)
{
	memcpy(w->rows + w->n * DIM, w->fresh, sizeof(w->fresh));
	memcpy(w->keys + w->n, keys, AT_ONCE * sizeof(*keys));
	w->n += AT_ONCE;
}

static int run_insert(struct world *w, int round)
{
	uint64_t tags[AT_ONCE];
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = AT_ONCE, .vectors = PTR(w->fresh),
				 .keys = PTR(w->fresh_keys), .tags = PTR(tags) };

	for (int i = 0; i < AT_ONCE; i++) {
		w->fresh_keys[i] = 100000 + w->n + i;
		tags[i] = 1 << i;
	}
	if (batch(w->fd, &b))
		return -1;
	appended(w, w->fresh_keys);
	return 0;
}

static int run_upsert(struct world *w, int round)
{
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = AT_ONCE, .vectors = PTR(w->fresh),
				 .keys = PTR(w->fresh_keys) };

	for (int i = 0; i < AT_ONCE; i++)
		w->fresh_keys[i] = 1000 + i;
	if (batch(w->fd, &b))
		return -1;
	for (uint64_t row = 0; row < w->n; row++)
		if (w->keys[row] < 1000 + AT_ONCE)
			w->dead[row] = true;
	appended(w, w->fresh_keys);
	return 0;
}

/* Rows in the place of deleted ones, once there are some whose deletion is on the medium. */
static int run_reuse(struct world *w, int round)
{
	uint64_t rows[AT_ONCE];
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .flags = VEXFS_BATCH_REUSE, .count = AT_ONCE,
				 .vectors = PTR(w->fresh), .keys = PTR(w->fresh_keys), .rows = PTR(rows) };
	int err;

	for (int i = 0; i < AT_ONCE; i++)
		w->fresh_keys[i] = 1000 + i;
	err = batch(w->fd, &b) ? errno : 0;
	end_faults();
	if (!err) {
		for (uint64_t row = 0; row < w->n; row++)
			if (w->keys[row] < 1000 + AT_ONCE)
				w->dead[row] = true;
		for (int i = 0; i < AT_ONCE; i++) {
			memcpy(w->rows + rows[i] * DIM, w->fresh + i * DIM, DIM * 4);
			w->keys[rows[i]] = w->fresh_keys[i];
			w->dead[rows[i]] = false;
			if (rows[i] >= w->n)
				w->n = rows[i] + 1;
		}
		if (fsync(w->fd))
			err = errno;
	}
	errno = err;
	return err ? -1 : 0;
}

static int run_delete(struct world *w, int round)
{
	uint64_t row = round % N;
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .count = 1, .rows = PTR(&row),
				 .flags = VEXFS_BATCH_BY_ROW };

	while (w->dead[row])
		row++;
	if (batch(w->fd, &b))
		return -1;
	w->dead[row] = true;
	return 0;
}

/* Rows that are written in place: some may be new although not all are. */
static int run_overwrite(struct world *w, int round)
{
	uint64_t first = 40;
	ssize_t done = pwrite(w->fd, w->fresh, sizeof(w->fresh), first * DIM * 4);

	if (done > 0)
		memcpy(w->rows + first * DIM, w->fresh, done);
	return done < 0 ? -1 : 0;
}

static int run_build(struct world *w, int round)
{
	return build(w, VEXFS_BUILD_REPLACE);
}

/* What follows is done on a container with an index again. */
static int run_drop(struct world *w, int round)
{
	int err = drop(w) ? errno : 0;

	end_faults();
	if (err == ENOENT || !err)
		err = build(w, VEXFS_BUILD_REPLACE) ? errno : 0;
	errno = err;
	return err ? -1 : 0;
}

static int run_check(struct world *w, int round)
{
	return findings(w) < 0 ? -1 : 0;
}

/* New rows are made durable. */
static int run_save(struct world *w, int round)
{
	end_faults();
	if (run_insert(w, round))
		return -1;
	fail_at(round);
	return fsync(w->fd) || syncfs(w->fd) ? -1 : 0;
}

static int run_exact(struct world *w, int round)
{
	struct model m = { DIM, VEXFS_METRIC_L2, w->n, w->rows, w->keys, w->dead };
	struct vexfs_hit hits[K];
	struct vexfs_search s = { .nq = 1, .k = K, .index_kind = VEXFS_INDEX_EXACT,
				  .queries = PTR(w->fresh), .hits = PTR(hits) };

	if (search(w->fd, &s))
		return -1;
	errno = EBADMSG;
	return wrong_answer(&m, w->fresh, hits, K, -1, INFINITY) ? -1 : 0;
}

/* By the index, with the operation's filter. */
static int run_search(struct world *w, int round)
{
	struct vexfs_hit hits[NQ * K];
	struct vexfs_search s = by_index(w);
	uint64_t keys[50], bitmap[MOST_ROWS / 64 + 1];
	float radius = 1e30;

	s.nq = NQ;
	s.k = K;
	s.queries = PTR(w->fresh);
	s.hits = PTR(hits);
	s.flags = w->filter;
	if (s.flags & VEXFS_SEARCH_KEYS) {
		for (int i = 0; i < 50; i++)
			keys[i] = 1000 + 3 * i;
		s.filter_keys = PTR(keys);
		s.filter_key_count = 50;
	}
	if (s.flags & VEXFS_SEARCH_TAGS_ANY)
		s.tags_any = 0x55;
	if (s.flags & VEXFS_SEARCH_ROW_BITMAP) {
		memset(bitmap, 0x77, sizeof(bitmap));
		s.row_bitmap = PTR(bitmap);
		s.row_bitmap_rows = w->n;
	}
	if (s.flags & VEXFS_SEARCH_RADIUS)
		s.radius = float_to_bits(radius);
	if (search(w->fd, &s))
		return -1;
	errno = EBADMSG;
	for (int i = 0; i < NQ * K; i++) {
		uint64_t row = hits[i].row;
		double scale, want;

		/* Rows without tags pass no filter by tags. */
		if (row == VEXFS_ROW_NONE && (s.flags & VEXFS_SEARCH_TAGS_ANY))
			continue;
		if (row >= w->n || w->dead[row] || hits[i].key != w->keys[row])
			return -1;
		want = oracle(w->fresh + i / K * DIM, w->rows + row * DIM, DIM, VEXFS_METRIC_L2, &scale);
		if (!(fabs(bits_to_float(hits[i].distance) - want) <= tolerance(DIM, scale)))
			return -1;
	}
	return 0;
}

/* The next mount's first search loads the container and its index. */
static int run_load(struct world *w, int round)
{
	struct vexfs_hit hits[K];
	struct vexfs_search s = { .nq = 1, .k = K, .queries = PTR(w->rows), .hits = PTR(hits),
				  .index_kind = w->build->index_kind };
	int err;

	end_faults();
	close(w->fd);
	if (scratch_cycle())
		return -1;
	fail_at(round);
	w->fd = open("f", O_RDWR);
	if (w->fd >= 0)
		return search(w->fd, &s);
	/* The inode could not be read. */
	err = errno;
	end_faults();
	w->fd = open("f", O_RDWR);
	errno = err;
	return -1;
}

/* A mount that fails leaves nothing; unmounting does not fail. */
static int run_mount(struct world *w, int round)
{
	int err = 0;

	end_faults();
	close(w->fd);
	if (chdir("/"))
		return -1;
	fail_at(round);
	if (umount(getenv("VEXFS_SCRATCH_DIR"))) {
		err = errno;
	} else if (scratch_mount(0)) {
		err = errno;
		end_faults();
		if (err != EBUSY && scratch_mount(0))
			err = ENOTRECOVERABLE;
	}
	end_faults();
	if (chdir(getenv("VEXFS_SCRATCH_DIR")))
		err = errno;
	w->fd = open("f", O_RDWR);
	errno = err;
	return err ? -1 : 0;
}

/*
 * Waits until no build goes on in the background: an index that can't follow its rows is
 * given up, and built again by the search that comes by.
 */
static void settle(const struct world *w)
{
	struct vexfs_index_stats st;

	do {
		st = (struct vexfs_index_stats){ .size = sizeof(st), .index_kind = w->build->index_kind };
		usleep(1000);
	} while (!ioctl(w->fd, VEXFS_IOCTL_GET_INDEX_STATS, &st) &&
		 (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING));
}

/* Which allocation fails next. */
static int next_fault(int n)
{
	return n < FIRST_FAULTS || big() ? n + 1 : n + n / 4;
}

static void one_after_the_other(struct __test_metadata *_metadata, const struct operation *op)
{
	struct world *w = &world;
	int faults = 0, errors = 0, rounds = 0, n;
	bool hit = true;

	w->filter = op->filter;
	for (n = 1; hit && rounds < MOST_ROUNDS; n = next_fault(n), rounds++) {
		const char *bad;
		int err;

		make_rows(w->fresh, 50 + in_a_row, AT_ONCE * n, AT_ONCE, DIM);
		fail_at(n);
		err = op->run(w, n) ? errno : 0;
		end_faults();
		hit = happened;
		ASSERT_LE(0, w->fd) TH_LOG("%s, fault %d: %s", op->name, n, strerror(err));
		if (err)
			ASSERT_TRUE(is_fault(err)) TH_LOG("%s, fault %d: %s", op->name, n, strerror(err));
		if (!hit)
			ASSERT_EQ(0, err) TH_LOG("%s fails by itself: %s", op->name, strerror(err));
		bad = wrong_world(w);
		ASSERT_STREQ("right", bad ?: "right") TH_LOG("%s, fault %d (%s)", op->name, n, strerror(err));
		ASSERT_LE(80, recall(w)) TH_LOG("%s, fault %d (%s)", op->name, n, strerror(err));
		settle(w);
		faults += hit;
		errors += err != 0;
	}
	EXPECT_FALSE(hit) TH_LOG("%s: there are more than %d faults", op->name, n);
	TH_LOG("%s: %d times %d of some %d allocations failed, %d errors", op->name, faults, in_a_row,
	       n, errors);
	EXPECT_LT(0, faults);
}

/* Each operation of a test on one container after the other. */
static void all_of(struct __test_metadata *_metadata, const struct operation *operations)
{
	struct world *w = &world;

	for (const struct operation *op = operations; op->run; op++) {
		in_a_row = 1;
		one_after_the_other(_metadata, op);
		in_a_row = 8;
		one_after_the_other(_metadata, op);
		/* The volume is in order, and the index can be built again. */
		OK(fsync(w->fd));
		OK(build(w, VEXFS_BUILD_REPLACE));
		EXPECT_LE(90, recall(w)) TH_LOG("after %s", op->name);
		EXPECT_EQ(0, findings(w)) TH_LOG("after %s", op->name);
	}
	close(w->fd);
	OK(scratch_cycle());
	w->fd = open("f", O_RDWR);
	ASSERT_LE(0, w->fd);
	EXPECT_STREQ("right", wrong_world(w) ?: "right");
	EXPECT_LE(90, recall(w));
	EXPECT_EQ(0, findings(w));
}

#define FAULT_CASE(name, ...)						\
TEST_F_TIMEOUT(scratch, allocations_that_fail_##name, 1500)		\
{									\
	static const struct operation operations[] = { __VA_ARGS__, { 0 } }; \
									\
	NEED_VEXFS();							\
	ASSERT_TRUE(faults_are_here());					\
	new_world(_metadata, &variant->build);				\
	all_of(_metadata, operations);					\
}

FAULT_CASE(in_batches, { "insert", run_insert }, { "upsert", run_upsert }, { "reuse", run_reuse }, { "delete", run_delete },
	   { "overwrite", run_overwrite }, { "save", run_save })
FAULT_CASE(in_builds, { "build", run_build }, { "drop", run_drop }, { "check", run_check })
FAULT_CASE(in_searches, { "exact", run_exact }, { "search", run_search },
	   { "by key", run_search, VEXFS_SEARCH_KEYS }, { "by tag", run_search, VEXFS_SEARCH_TAGS_ANY },
	   { "by row", run_search, VEXFS_SEARCH_ROW_BITMAP },
	   { "within a radius", run_search, VEXFS_SEARCH_RADIUS })
FAULT_CASE(around_mounts, { "load", run_load }, { "mount", run_mount })

/* Rows go to the medium, and their blocks are recorded as written, in workers: nobody is told of errors there. */
TEST_F_TIMEOUT(scratch, allocations_that_fail_in_workers, 1500)
{
	struct world *w = &world;
	int errors = 0;

	NEED_VEXFS();
	ASSERT_TRUE(faults_are_here());
	new_world(_metadata, &variant->build);
	ASSERT_TRUE(write_text("/proc/thread-self/make-it-fail", "0"));
	ASSERT_LT(1, mark_workers(true));
	for (int round = 0; round < (big() ? 200 : 30); round++) {
		const char *bad;
		int err;

		make_rows(w->fresh, 60, AT_ONCE * round, AT_ONCE, DIM);
		OK(run_insert(w, round));
		for (int i = 0; i < 2; i++)
			put_number(times_fd[i], 20);
		err = ERR(fsync(w->fd));
		for (int i = 0; i < 2; i++)
			put_number(times_fd[i], 0);
		EXPECT_TRUE(!err || is_fault(err)) TH_LOG("%s", strerror(err));
		errors += err != 0;
		/* What was acknowledged is there, on the medium too. */
		drop_caches();
		bad = wrong_world(w);
		ASSERT_STREQ("right", bad ?: "right") TH_LOG("round %d (%s)", round, strerror(err));
		OK(fsync(w->fd));
	}
	TH_LOG("%d errors", errors);
	EXPECT_LT(0, mark_workers(false));
	close(w->fd);
	OK(scratch_cycle());
	w->fd = open("f", O_RDWR);
	EXPECT_STREQ("right", wrong_world(w) ?: "right");
}

/* After all of the above, so the last fixture. */
FIXTURE(kmemleak) {
	int fd;
};

FIXTURE_SETUP(kmemleak)
{
	self->fd = open("/sys/kernel/debug/kmemleak", O_RDWR);
	if (self->fd < 0)
		SKIP(return, "the kernel has no kmemleak");
}

FIXTURE_TEARDOWN(kmemleak)
{
	if (self->fd >= 0)
		close(self->fd);
}

TEST_F_TIMEOUT(kmemleak, has_found_nothing, 600)
{
	char text[4096] = "";

	/* Of young objects it says nothing. A pointer in a register hides a leak from one scan, and makes one up in another. */
	sleep(6);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(4, write(self->fd, "scan", 4)) TH_LOG("kmemleak has given up: %s", strerror(errno));
	ASSERT_LE(0, read(self->fd, text, sizeof(text) - 1));
	EXPECT_STREQ("", text);
}

/* As TEST_HARNESS_MAIN; but where nothing can be tested, no volume is made for it. */
int main(int argc, char **argv)
{
	if (!kernel_has_faults()) {
		puts("TAP version 13\n1..1\nok 1 vector_faults # SKIP the kernel has no fault injection: make test-debug");
		return 0;
	}
	return test_harness_run(argc, argv);
}
