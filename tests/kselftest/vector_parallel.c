// SPDX-License-Identifier: GPL-2.0
/*
 * Searches on several processors: the same hits as on one, beside changes, and
 * ended by a signal or a time budget.
 */
#include "vector_test.h"
#include <dirent.h>
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define DIM 64
/* Several stretches of 1 MiB, which is what threads take of a scan. */
#define ROWS 18000
#define K 10
#define MOST_NQ 70

static const unsigned int some_threads[] = { 1, 2, 3, 4, 64, ~0u };
#define SOME (int)(sizeof(some_threads) / sizeof(some_threads[0]))

struct answer {
	struct vexfs_hit hits[MOST_NQ * K];
	uint32_t counts[MOST_NQ];
};

/*
 * Asks @s with each number of threads; NULL if all answers are that of
 * @threads = 0. A walk does the same work whoever does it, so counters agree too.
 */
static const char *threads_disagree(int fd, struct vexfs_search s)
{
	static struct answer one, many;
	static char text[100];
	uint64_t distances, hops, exact;

	memset(&one, 0x5a, sizeof(one));
	s.hits = PTR(one.hits);
	s.counts = PTR(one.counts);
	if (search(fd, &s))
		return strerror(errno);
	distances = s.distances;
	hops = s.hops;
	exact = s.rows_exact;
	s.hits = PTR(many.hits);
	s.counts = PTR(many.counts);
	for (int i = 0; i < SOME; i++) {
		memset(&many, 0x5a, sizeof(many));
		s.threads = some_threads[i];
		if (search(fd, &s))
			return strerror(errno);
		snprintf(text, sizeof(text), "nq %u, threads %u", s.nq, s.threads);
		if (memcmp(&one, &many, sizeof(one)))
			return text;
		if (s.outcome || s.hops != hops ||
		    (hops && (s.distances != distances || s.rows_exact != exact)))
			return "counters differ";
	}
	return NULL;
}

#define EXPECT_SAME(fd, s) do {						\
	const char *bad_ = threads_disagree(fd, s);			\
	EXPECT_STREQ("same", bad_ ?: "same");				\
} while (0)

/* Many rows are equally far from a query, so the order among them shows. */
static float *tied_rows(uint64_t n)
{
	float *rows = new_integer_rows(5, n, DIM);

	for (uint64_t r = 0; r < n; r++)
		for (int i = 4; i < DIM; i++)
			rows[r * DIM + i] = 0;
	return rows;
}

CASE(an_exact_search_finds_the_same_with_any_number_of_threads)
{
	static const unsigned int nqs[] = { 1, 2, 7, MOST_NQ };
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = tied_rows(ROWS), *queries = new_rows(9, 0, MOST_NQ, DIM);
	uint64_t bitmap[ROWS / 64 + 1], keys[300], tags[ROWS];
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = ROWS, .vectors = PTR(rows),
				 .tags = PTR(tags) };

	for (int i = 0; i < ROWS; i++)
		tags[i] = i % 5;
	OK(batch(fd, &b));
	for (int i = 0; i < 300; i++)
		keys[i] = i * 53;
	OK(delete_keys(fd, keys, 300));
	for (int i = 0; i < ROWS / 64 + 1; i++)
		bitmap[i] = i % 3 ? 0x00ff00ff0f0f0f0full : 0;
	for (int i = 0; i < 4; i++) {
		struct vexfs_search s = { .nq = nqs[i], .k = K, .queries = PTR(queries),
					  .index_kind = VEXFS_INDEX_EXACT };

		EXPECT_SAME(fd, s);
		s.flags = VEXFS_SEARCH_ROW_BITMAP;
		s.row_bitmap = PTR(bitmap);
		s.row_bitmap_rows = ROWS;
		EXPECT_SAME(fd, s);
		s.flags |= VEXFS_SEARCH_TAGS_ANY | VEXFS_SEARCH_RADIUS;
		s.tags_any = 1;
		s.radius = float_to_bits(30);
		EXPECT_SAME(fd, s);
		/* So few rows that most queries find fewer than k. */
		memset(bitmap + 1, 0, sizeof(bitmap) - 8);
		EXPECT_SAME(fd, s);
		for (int j = 0; j < ROWS / 64 + 1; j++)
			bitmap[j] = j % 3 ? 0x00ff00ff0f0f0f0full : 0;
	}
	free(rows);
	free(queries);
}

CASE(an_index_finds_the_same_with_any_number_of_threads)
{
	static const unsigned int nqs[] = { 1, 2, 17, MOST_NQ };
	struct vexfs_build_index build = { .size = sizeof(build), .m = 8, .ef_construction = 40,
					   .index_kind = VEXFS_INDEX_HNSW };
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	unsigned int n = quick() ? 1500 : ROWS;
	float *rows = new_rows(1, 0, n, DIM), *queries = new_rows(9, 0, MOST_NQ, DIM);
	uint64_t tags[ROWS], bitmap[ROWS / 64 + 1];
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = n, .vectors = PTR(rows),
				 .tags = PTR(tags) };

	for (int i = 0; i < ROWS; i++)
		tags[i] = i % 3;
	OK(batch(fd, &b));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build));
	OK(delete_keys(fd, (uint64_t[]){ 3, 5, 700 }, 3));
	memset(bitmap, 0x7e, sizeof(bitmap));
	for (int i = 0; i < 4; i++) {
		struct vexfs_search s = { .nq = nqs[i], .k = K, .queries = PTR(queries),
					  .index_kind = VEXFS_INDEX_HNSW, .ef = 40 };

		EXPECT_SAME(fd, s);
		s.flags = VEXFS_SEARCH_TAGS_ANY | VEXFS_SEARCH_ROW_BITMAP;
		s.tags_any = 3;
		s.row_bitmap = PTR(bitmap);
		s.row_bitmap_rows = n;
		EXPECT_SAME(fd, s);
	}
	free(rows);
	free(queries);
}

CASE(bad_arguments_are_the_same_errors)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, ROWS, DIM), *queries = new_rows(9, 0, 4, DIM);
	struct vexfs_hit hits[4 * K];
	struct vexfs_search s = { .nq = 4, .k = K, .queries = PTR(queries), .hits = PTR(hits),
				  .threads = 4 };

	OK(insert(fd, rows, NULL, ROWS));
	OK(search(fd, &s));
	s.hits = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(search(fd, &s)));
	s.hits = PTR(hits);
	s.queries = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(search(fd, &s)));
	s.queries = PTR(queries);
	queries[3 * DIM] = NAN;
	EXPECT_EQ(EINVAL, ERR(search(fd, &s)));
	queries[3 * DIM] = 0;
	s.k = VEXFS_MAX_K + 1;
	EXPECT_EQ(E2BIG, ERR(search(fd, &s)));
	free(rows);
	free(queries);
}

/* Processor time that all of the kernel's workers have had. */
static double worker_seconds(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	double sum = 0;

	while (proc && (entry = readdir(proc))) {
		char path[300], name[32] = "";
		pid_t pid = atoi(entry->d_name);
		clockid_t clock;
		FILE *comm;

		if (pid <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		comm = fopen(path, "r");
		if (!comm)
			continue;
		if (fgets(name, sizeof(name), comm) && !strncmp(name, "kworker/", 8) &&
		    !clock_getcpuclockid(pid, &clock))
			sum += seconds_of(clock);
		fclose(comm);
	}
	if (proc)
		closedir(proc);
	return sum;
}

/*
 * The part of the time of some searches of all rows that workers had and not the
 * caller. It says nothing of how fast they were: on a busy host two processors may be
 * no faster than one, but they share the work all the same.
 */
static double share_of_workers(int fd, const float *queries, unsigned int nq, unsigned int threads)
{
	struct vexfs_hit *hits = malloc(nq * K * sizeof(*hits));
	struct vexfs_search s = { .nq = nq, .k = K, .queries = PTR(queries), .hits = PTR(hits),
				  .threads = threads, .index_kind = VEXFS_INDEX_EXACT };
	double own = seconds_of(CLOCK_THREAD_CPUTIME_ID), workers = worker_seconds();
	int err = 0;

	for (int i = 0; i < 5 && !err; i++)
		err = search(fd, &s);
	own = seconds_of(CLOCK_THREAD_CPUTIME_ID) - own;
	workers = worker_seconds() - workers;
	free(hits);
	return err ? NAN : workers / (own + workers);
}

/*
 * Tries of a measurement, of which one has to be as expected: workers do other work too,
 * now and then, and an emulated processor's time goes on while its host runs others.
 */
#define TRIES 20
#define EXPECT_BETWEEN(least, most, share, measurement) do {		\
	for (int try_ = 0; try_ < TRIES && !((share) > (least) && (share) < (most)); try_++) \
		share = measurement;					\
	EXPECT_LT(least, share);					\
	EXPECT_LT(share, most);						\
} while (0)

CASE(other_processors_do_a_share)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, ROWS, DIM), *queries = new_rows(9, 0, 8, DIM);
	double alone = NAN, helped = NAN, bound = NAN;
	cpu_set_t all, first;

	OK(insert(fd, rows, NULL, ROWS));
	OK(sched_getaffinity(0, sizeof(all), &all));
	if (CPU_COUNT(&all) < 2)
		SKIP(return, "there is one processor");
	CPU_ZERO(&first);
	for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&first); i++)
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &first);
	/* Workers write back the rows meanwhile, if they are not on the disk yet. */
	OK(fsync(fd));
	EXPECT_BETWEEN(-1, 0.1, alone, share_of_workers(fd, queries, 8, 1));
	EXPECT_BETWEEN(0.25, 0.75, helped, share_of_workers(fd, queries, 8, 2));
	/* A caller who may use one processor gets no other's help. */
	OK(sched_setaffinity(0, sizeof(first), &first));
	EXPECT_BETWEEN(-1, 0.1, bound, share_of_workers(fd, queries, 8, 2));
	OK(sched_setaffinity(0, sizeof(all), &all));
	free(rows);
	free(queries);
}

/* As share_of_workers(), of a build; it is saved, by the caller. */
static double share_of_build(int fd, struct vexfs_build_index arg, unsigned int threads)
{
	double own = seconds_of(CLOCK_THREAD_CPUTIME_ID), workers = worker_seconds();
	int err;

	arg.size = sizeof(arg);
	arg.flags = VEXFS_BUILD_REPLACE;
	arg.threads = threads;
	err = ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
	own = seconds_of(CLOCK_THREAD_CPUTIME_ID) - own;
	workers = worker_seconds() - workers;
	return err ? NAN : workers / (own + workers);
}

CASE(other_processors_do_a_share_of_builds)
{
	static const struct vexfs_build_index builds[] = {
		{ .index_kind = VEXFS_INDEX_HNSW, .ef_construction = 60 },
		{ .index_kind = VEXFS_INDEX_IVF, .nlist = 64 },
		{ .index_kind = VEXFS_INDEX_IVF, .nlist = 64, .nsub = 16 },
		{ .index_kind = VEXFS_INDEX_PQ, .nsub = 8, .nbits = 8 },
		{ .index_kind = VEXFS_INDEX_LSH },
	};
	unsigned int n = quick() ? 3000 : ROWS;
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, n, DIM);
	cpu_set_t all;

	OK(sched_getaffinity(0, sizeof(all), &all));
	if (CPU_COUNT(&all) < 2)
		SKIP(return, "there is one processor");
	OK(insert(fd, rows, NULL, n));
	OK(fsync(fd));
	for (int i = 0; i < sizeof(builds) / sizeof(*builds); i += quick() && i == 1 ? 2 : 1) {
		double alone = NAN, helped = NAN;

		EXPECT_BETWEEN(-1, 0.05, alone, share_of_build(fd, builds[i], 1));
		/* Learning hyperplanes is one thread's. */
		EXPECT_BETWEEN(0.1, 0.75, helped, share_of_build(fd, builds[i], 2));
		TH_LOG("kind %u: workers have %.2f of the time, alone %.2f", builds[i].index_kind,
		       helped, alone);
	}
	free(rows);
}

CASE(a_time_budget_ends_all_threads)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, ROWS, DIM), *queries = new_rows(9, 0, 2000, DIM);
	struct vexfs_hit *hits = malloc(2000 * K * sizeof(*hits));
	struct vexfs_search s = { .nq = 2000, .k = K, .queries = PTR(queries), .hits = PTR(hits),
				  .threads = 4, .time_budget_ns = 1000 * 1000 };

	OK(insert(fd, rows, NULL, ROWS));
	OK(search(fd, &s));
	EXPECT_EQ(VEXFS_OUTCOME_PARTIAL, s.outcome);
	EXPECT_GT(2000ull * ROWS, s.distances);
	/* Filled to the end all the same. */
	EXPECT_EQ(~0ull, hits[2000 * K - 1].key);
	free(rows);
	free(queries);
	free(hits);
}

CASE(a_killed_search_ends_soon)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2), status;
	float *rows = new_rows(1, 0, ROWS, DIM);
	static struct vexfs_hit some[64];
	struct vexfs_search s = { .nq = 64, .k = 1, .queries = PTR(rows), .hits = PTR(some),
				  .threads = 4 };
	double start, part;

	OK(insert(fd, rows, NULL, ROWS));
	/* A small part of what is killed, on this machine as it is now. */
	start = now();
	OK(search(fd, &s));
	part = now() - start;
	for (int round = 0; round < 4; round++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			unsigned int nq = VEXFS_MAX_QUERIES;
			float *queries = calloc(nq, DIM * sizeof(float));
			struct vexfs_hit *hits = malloc(nq * sizeof(*hits));
			struct vexfs_search s = { .nq = nq, .k = 1, .queries = PTR(queries),
						  .hits = PTR(hits), .threads = 4 };

			/* A thousand times as long, where it is not killed. */
			for (;;)
				search(fd, &s);
		}
		wait_for_work(pid, 0.2 + round * 0.05);
		start = now();
		OK(kill(pid, SIGKILL));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		EXPECT_GT(2 + 16 * part, now() - start) TH_LOG("64 queries took %g s", part);
	}
	free(rows);
}

#define KEYS 500
#define NQ 12

struct storm {
	_Atomic int stop, errors;
	char text[200];
	_Atomic uint64_t searches;
	uint64_t rounds;
};

static void complain(struct storm *st, const char *what, uint64_t key)
{
	if (!atomic_fetch_add(&st->errors, 1))
		snprintf(st->text, sizeof(st->text), "%s (key %llu, errno %s)", what,
			 (unsigned long long)key, strerror(errno));
}

/* The vector of a key is always the same; keys below KEYS / 2 are always there. */
static void *changer(void *arg)
{
	struct storm *st = arg;
	uint64_t random = seed();
	int fd = open("f", O_RDWR);

	for (uint64_t i = 0; i < st->rounds || (st->searches <= 10 && !st->errors); i++) {
		uint64_t key = KEYS / 2 + rnd(&random) % (KEYS / 2);
		float row[DIM];
		struct vexfs_batch b = { .count = 1, .keys = PTR(&key), .vectors = PTR(row) };

		make_rows(row, 7, key, 1, DIM);
		b.op = rnd(&random) % 2 ? VEXFS_OP_UPSERT : VEXFS_OP_DELETE;
		if (b.op == VEXFS_OP_DELETE) {
			b.vectors = 0;
			b.flags = VEXFS_BATCH_SKIP_MISSING;
		}
		if (batch(fd, &b))
			complain(st, "change", key);
	}
	st->stop = 1;
	close(fd);
	return NULL;
}

static void *searcher(void *arg)
{
	struct storm *st = arg;
	uint64_t random = seed() + 1;
	int fd = open("f", O_RDONLY);

	for (unsigned int round = 0; !st->stop; round++) {
		struct vexfs_hit hits[NQ * K];
		float queries[NQ * DIM], row[DIM];
		uint64_t keys[NQ];
		struct vexfs_search s = { .nq = NQ, .k = K, .queries = PTR(queries), .ef = 40,
					  .hits = PTR(hits), .threads = 1 + round % 4 };

		for (int i = 0; i < NQ; i++) {
			keys[i] = rnd(&random) % (KEYS / 2);
			make_rows(queries + i * DIM, 7, keys[i], 1, DIM);
		}
		s.index_kind = round % 3 ? VEXFS_INDEX_AUTO : VEXFS_INDEX_EXACT;
		if (search(fd, &s)) {
			complain(st, "search", round);
			break;
		}
		for (int i = 0; i < NQ * K; i++) {
			double scale, want;

			if (hits[i].key >= KEYS) {
				complain(st, "fewer rows than there are", hits[i].key);
				break;
			}
			make_rows(row, 7, hits[i].key, 1, DIM);
			want = oracle(queries + i / K * DIM, row, DIM, VEXFS_METRIC_L2, &scale);
			if (!(fabs(bits_to_float(hits[i].distance) - want) <= tolerance(DIM, scale)))
				complain(st, "a hit is of another query or torn", hits[i].key);
			if (i % K && bits_to_float(hits[i - 1].distance) > bits_to_float(hits[i].distance))
				complain(st, "hits are not sorted", hits[i].key);
		}
		/* Exact answers begin with the query's own row, which nobody changes. */
		for (int i = 0; i < NQ && s.index_kind == VEXFS_INDEX_EXACT; i++)
			if (hits[i * K].key != keys[i])
				complain(st, "the nearest row is missing", keys[i]);
		st->searches++;
	}
	close(fd);
	return NULL;
}

CASE(searches_on_several_processors_beside_changes_are_right)
{
	static struct storm storm;
	struct storm *st = &storm;
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW, .m = 8,
				       .ef_construction = 40 };
	struct vexfs_build_index drop = { .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW,
					  .flags = VEXFS_BUILD_DROP };
	pthread_t change, search_threads[3];
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(7, 0, KEYS, DIM);
	uint64_t keys[KEYS];

	st->rounds = quick() ? 800 : 8000;
	for (int i = 0; i < KEYS; i++)
		keys[i] = i;
	OK(insert(fd, rows, keys, KEYS));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	for (int i = 0; i < 3; i++)
		pthread_create(&search_threads[i], NULL, searcher, st);
	pthread_create(&change, NULL, changer, st);
	while (!st->stop) {
		usleep(100000);
		EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &drop)));
		usleep(20000);
		EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
	}
	pthread_join(change, NULL);
	for (int i = 0; i < 3; i++)
		pthread_join(search_threads[i], NULL);
	EXPECT_EQ(0, atomic_load(&st->errors)) TH_LOG("%s", st->text);
	free(rows);
}

TEST_HARNESS_MAIN
