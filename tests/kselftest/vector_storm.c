// SPDX-License-Identifier: GPL-2.0
/*
 * A storm of searches: eight threads search several containers, in vector
 * registers of the kernel, while rows are inserted, written out and evicted. All
 * answers are held against an oracle, which itself computes in the registers
 * that the kernel must give back. What else can go wrong shows in the kernel's
 * log: locks, sleeping where it is forbidden, sections inside sections.
 */
#include "vector_test.h"
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define BOXES 5
#define SEARCHERS 8
#define MAX_QUERIES 70
#define MAX_K 20

/* One row to a page and many, rows across pages, rows of the longest sections. */
static const struct {
	unsigned int dim, metric, rows, batch;
} kinds[BOXES] = {
	{ 3, VEXFS_METRIC_L2, 3000, 500 },
	{ 32, VEXFS_METRIC_DOT, 1200, 100 },
	{ 384, VEXFS_METRIC_COSINE, 240, 20 },
	{ 1024, VEXFS_METRIC_L2, 96, 8 },
	{ 20000, VEXFS_METRIC_L2, 12, 1 },
};

static struct {
	_Atomic uint64_t rows;	/* acknowledged */
	float *all;		/* as they are inserted */
} boxes[BOXES];
static _Atomic bool stop;
static _Atomic int errors;
static _Atomic uint64_t searches, answers;
static _Atomic unsigned int own_searches[SEARCHERS];
static char said[300];

static void complain(const char *what, int box)
{
	if (!atomic_fetch_add(&errors, 1))
		snprintf(said, sizeof(said), "box %d: %s (errno %s)", box, what, strerror(errno));
}

static int open_box(int i, int flags)
{
	char name[16];

	snprintf(name, sizeof(name), "box%d", i);
	return open(name, flags);
}

static void *searcher(void *arg)
{
	uintptr_t me = (uintptr_t)arg;
	uint64_t state = me * 7919 + 1;
	struct vexfs_hit *hits = calloc(MAX_QUERIES * MAX_K, sizeof(*hits));
	uint32_t counts[MAX_QUERIES];

	while (!stop && !errors) {
		/* Large groups of queries are rare, single ones common. */
		unsigned int nq = rnd(&state) % 4 ? rnd(&state) % 5 + 1 : rnd(&state) % MAX_QUERIES + 1;
		unsigned int k = rnd(&state) % MAX_K + 1, q = rnd(&state) % nq;
		int i = rnd(&state) % BOXES, fd = open_box(i, O_RDONLY);
		unsigned int dim = kinds[i].dim;
		float *queries = new_rows(1000 + i, rnd(&state) % 1000, nq, dim);
		struct vexfs_search s = { .nq = nq, .k = k, .queries = PTR(queries),
					  .hits = PTR(hits), .counts = PTR(counts) };
		uint64_t before = boxes[i].rows, after;
		struct model m = { dim, kinds[i].metric, 0, boxes[i].all };
		const char *bad;

		memset(hits, 0x5a, nq * k * sizeof(*hits));
		if (fd < 0 || search(fd, &s)) {
			complain("search", i);
		} else {
			after = stats_of(fd).rows;
			/* Rows never go away here, so how many were seen says which. */
			m.n = s.rows_exact / nq;
			if (s.rows_exact % nq || m.n < before || m.n > after || m.n % kinds[i].batch)
				complain("a search did not see whole acknowledged batches", i);
			bad = wrong_answer(&m, queries + q * dim, hits + q * k, k, counts[q], INFINITY);
			if (bad)
				complain(bad, i);
			searches++;
			own_searches[me]++;
			answers += nq;
		}
		free(queries);
		close(fd);
	}
	free(hits);
	return NULL;
}

/* Inserts a batch here and there; makes some of it durable, so that pages can go. */
static void *inserter(void *arg)
{
	uint64_t state = (uintptr_t)arg;

	while (!stop && !errors) {
		int i = rnd(&state) % BOXES, fd = open_box(i, O_RDWR);
		uint64_t rows = boxes[i].rows, n = kinds[i].batch;

		if (rows < kinds[i].rows) {
			if (fd < 0 || insert(fd, boxes[i].all + rows * kinds[i].dim, NULL, n))
				complain("insert", i);
			boxes[i].rows += n;
		}
		if (rnd(&state) % 4 == 0 && fsync(fd))
			complain("fsync", i);
		close(fd);
		usleep(20000);
	}
	return NULL;
}

/* Each thread took part. */
static bool all_searched(void)
{
	for (int i = 0; i < SEARCHERS; i++)
		if (own_searches[i] < 2)
			return false;
	return true;
}

CASE(eight_threads_get_right_answers)
{
	pthread_t thread[SEARCHERS], writer;
	const char *seconds = getenv("VEXFS_STORM_SECONDS");
	double end = now() + (seconds ? atoi(seconds) : quick() ? 10 : 60);

	for (int i = 0; i < BOXES; i++) {
		char name[16];
		int fd;

		boxes[i].all = new_rows(i, 0, kinds[i].rows, kinds[i].dim);
		snprintf(name, sizeof(name), "box%d", i);
		fd = container(name, kinds[i].dim, kinds[i].metric);
		ASSERT_LE(0, fd);
		/* Some rows first: an empty storm is none. */
		boxes[i].rows = kinds[i].rows / 3 / kinds[i].batch * kinds[i].batch;
		OK(insert(fd, boxes[i].all, NULL, boxes[i].rows));
		close(fd);
	}
	for (uintptr_t i = 0; i < SEARCHERS; i++)
		pthread_create(&thread[i], NULL, searcher, (void *)i);
	pthread_create(&writer, NULL, inserter, (void *)1);
	for (int n = 1; (now() < end || !all_searched()) && !errors; n++) {
		usleep(100000);
		if (n % 20 == 0)
			drop_caches();
	}
	stop = true;
	for (int i = 0; i < SEARCHERS; i++)
		pthread_join(thread[i], NULL);
	pthread_join(writer, NULL);
	EXPECT_EQ(0, atomic_load(&errors)) TH_LOG("%s", said);
	TH_LOG("%llu searches with %llu queries", (unsigned long long)searches,
	       (unsigned long long)answers);
}

TEST_HARNESS_MAIN
