// SPDX-License-Identifier: GPL-2.0
/*
 * What an index takes of memory, as the kernel says of itself: less than half of its rows
 * at the defaults, while it is built and afterwards, as much as its statistics say, and
 * nothing any more when it is dropped. Of other element types, what statistics say.
 */
#include "vector_types.h"
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define DIM 384
#define NQ 16
#define K 10
#define SEARCHERS 8
/*
 * KiB that samples of training and the scratch memory of eight searches take of few rows
 * too: what is told of half of the rows is told of many.
 */
#define FIXED 3072

FIXTURE_VARIANT(box) {
	unsigned int kind, ntables;
};
FIXTURE_VARIANT_ADD(box, hnsw) { VEXFS_INDEX_HNSW };
FIXTURE_VARIANT_ADD(box, ivf) { VEXFS_INDEX_IVF };
FIXTURE_VARIANT_ADD(box, ivf_two_lists) { VEXFS_INDEX_IVF, 2 };
FIXTURE_VARIANT_ADD(box, pq) { VEXFS_INDEX_PQ };
FIXTURE_VARIANT_ADD(box, lsh) { VEXFS_INDEX_LSH };

/* KiB of a line of /proc/meminfo. */
static long line_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? atol(at + strlen(name)) : 0;
}

/* KiB of memory, and those of them in vmalloc areas and in slabs that can't be shrunk. */
struct memory {
	long used, vmalloc, slab;
};

/* KiB in the processors' own lists of free pages, which meminfo takes for used. */
static long free_of_processors(void)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	long pages = 0, count;
	char line[200];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &count) == 1)
			pages += count;
	if (f)
		fclose(f);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/*
 * What is neither free, nor the page cache's, nor a process's: pages, vmalloc areas and
 * slabs of the kernel.
 */
static struct memory memory_now(void)
{
	int fd = open("/proc/meminfo", O_RDONLY);
	struct memory m = { 0 };
	char text[8192] = "";
	long before, after;

	/*
	 * Pages that go from a processor's list to the free ones between two readings, some MiB
	 * at a time, are in neither: so the list is read on both sides.
	 */
	before = free_of_processors();
	if (read(fd, text, sizeof(text) - 1) < 0)
		perror("/proc/meminfo");
	close(fd);
	after = free_of_processors();
	m.used = line_of(text, "MemTotal:") - line_of(text, "MemFree:") - line_of(text, "Buffers:") -
		 line_of(text, "\nCached:") - line_of(text, "SReclaimable:") -
		 line_of(text, "AnonPages:") - line_of(text, "PageTables:") - (before > after ? before : after);
	m.vmalloc = line_of(text, "VmallocUsed:");
	m.slab = line_of(text, "SUnreclaim:");
	return m;
}

/* Adds the processors' counters up. */
static void refresh_counters(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		perror("stat_refresh");
	close(fd);
}

/*
 * The least of some readings with caches dropped: what others free in the background is free
 * when it has not fallen for the last few.
 */
static struct memory settled_memory(void)
{
	struct memory least = { .used = LONG_MAX };

	for (int same = 0; same < 5; same++) {
		struct memory m;

		drop_caches();
		usleep(50000);
		refresh_counters();
		m = memory_now();
		if (m.used < least.used - 64)
			same = 0;
		if (m.used < least.used)
			least = m;
	}
	return least;
}

static _Atomic bool stop;
static long most;

static void *sampler(void *arg)
{
	while (!stop) {
		long used = memory_now().used;

		if (used > most)
			most = used;
		usleep(1000);
	}
	return NULL;
}

static float queries[NQ * DIM];

static void *searcher(void *arg)
{
	int fd = open("f", O_RDONLY);
	struct vexfs_hit hits[NQ * K];
	struct vexfs_search s = { .nq = NQ, .k = K, .index_kind = (uintptr_t)arg,
				  .queries = PTR(queries), .hits = PTR(hits) };
	long failed = search(fd, &s) ? errno : 0;

	close(fd);
	return (void *)failed;
}

TEST_F_TIMEOUT(box, an_index_takes_less_than_half_of_its_rows, 1500)
{
	uint64_t n = quick() ? (variant->ntables ? 2000 : 1000) : 30000;
	long raw = n * DIM * 4 / 1024, slack = 512 + raw / 50, half = raw / 2 + (quick() ? FIXED : 0);
	long index, peak, counted, searching;
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = variant->kind, .ntables = variant->ntables };
	struct vexfs_build_index drop = { .size = sizeof(drop), .flags = VEXFS_BUILD_DROP, .index_kind = variant->kind };
	struct vexfs_index_stats st = { .size = sizeof(st), .index_kind = variant->kind };
	int fd, first;
	pthread_t sampling, threads[SEARCHERS];
	struct memory before, after;
	float *rows = new_rows(1, 0, 500, DIM);

	/* What the first index of all leaves behind is not this one's. */
	first = container("first", DIM, VEXFS_METRIC_L2);
	OK(insert(first, rows, NULL, 500));
	OK(ioctl(first, VEXFS_IOCTL_BUILD_INDEX, &b));
	OK(unlink("first"));
	close(first);
	free(rows);
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	for (uint64_t row = 0; row < n; row += 500) {
		rows = new_rows(1, row, 500, DIM);
		OK(insert(fd, rows, NULL, 500));
		free(rows);
	}
	make_rows(queries, 2, 0, NQ, DIM);
	OK(fsync(fd));
	before = settled_memory();
	most = 0;
	stop = false;
	pthread_create(&sampling, NULL, sampler, NULL);
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	stop = true;
	pthread_join(sampling, NULL);
	/* What the disk does not have too stays when caches are dropped. */
	OK(insert(fd, queries, NULL, 1));
	after = settled_memory();
	OK(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st));
	index = after.used - before.used;
	peak = most - before.used;
	counted = st.resident_bytes / 1024;
	TH_LOG("rows %ld KiB; index %ld KiB by its statistics (%ld %%), %ld KiB by the kernel (%ld %%; "
	       "vmalloc %ld, slab %ld); at most %ld KiB while it was built (%ld %%)", raw, counted,
	       100 * counted / raw, index, 100 * index / raw, after.vmalloc - before.vmalloc,
	       after.slab - before.slab, peak, 100 * peak / raw);
	EXPECT_EQ(n + 1, st.nodes);
	EXPECT_EQ(variant->ntables ?: st.ntables, st.ntables);
	EXPECT_GT(raw / 2, counted);
	/* Of few rows a half is about what the kernel's own memory comes and goes by. */
	EXPECT_GT(raw / 2 + (quick() ? slack : 0), index);
	EXPECT_GT(half, peak);
	EXPECT_GE(counted + counted / 10 + slack, index);
	EXPECT_LE(counted - counted / 10 - slack, index);

	for (int i = 0; i < SEARCHERS; i++)
		pthread_create(&threads[i], NULL, searcher, (void *)(uintptr_t)variant->kind);
	for (int i = 0; i < SEARCHERS; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		EXPECT_EQ(NULL, failed);
	}
	searching = settled_memory().used - before.used;
	TH_LOG("after eight searches at a time %ld KiB (%ld %%)", searching, 100 * searching / raw);
	EXPECT_GT(half, searching);

	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &drop));
	after = settled_memory();
	TH_LOG("dropped, %ld KiB are left", after.used - before.used);
	EXPECT_GE(slack, after.used - before.used);
}

/* Of bits, HNSW and PQ take more than the rows: a link is as long as 32 of them. */
TEST_F_TIMEOUT(box, indexes_of_every_type_take_less_than_half_of_their_rows, 1500)
{
	bool of_bits = variant->kind == VEXFS_INDEX_IVF || variant->kind == VEXFS_INDEX_LSH;

	/* Of few rows it says nothing about a second list. */
	if (quick() && variant->ntables)
		return;
	for (int which = 0; which < TYPES; which++) {
		const struct type *t = &types[which];
		/* Rows of bits are so short that scratch memory of a search counts beside fewer. */
		uint64_t n = (quick() ? 1000 : 30000) * (t->bits == 1 ? 4 : 1);
		long raw = n * row_size(t, DIM) / 1024, counted;
		struct vexfs_build_index b = { .size = sizeof(b), .index_kind = variant->kind, .ntables = variant->ntables };
		struct vexfs_index_stats st = { .size = sizeof(st), .index_kind = variant->kind };
		struct vexfs_create_vector arg = { 0 };
		int fd;

		if (t->bits == 1 && !of_bits)
			continue;
		/* Those before have rows of the same length, and the test above has f32. */
		if (quick() && (t->bits == 32 || types[which - 1].bits == t->bits))
			continue;
		fd = typed_container("f", t, DIM, VEXFS_METRIC_L2, &arg);
		ASSERT_LE(0, fd);
		for (uint64_t row = 0; row < n; row += 500) {
			struct rows rows = typed_rows(t, row + 1, 500, DIM, 0);

			OK(insert_rows(fd, &rows, 0, 500, NULL));
			free_rows(&rows);
		}
		OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
		OK(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st));
		counted = st.resident_bytes / 1024;
		TH_LOG("%s: rows %ld KiB, index %ld KiB (%ld %%; m %u, nlist %u, nbits %u, ntables %u)",
		       t->name, raw, counted, 100 * counted / raw, st.m, st.nlist, st.nbits, st.ntables);
		EXPECT_EQ(n, st.nodes);
		EXPECT_GT(raw / 2 + (quick() ? FIXED : 0), counted);
		close(fd);
		OK(unlink("f"));
	}
}

TEST_HARNESS_MAIN
