// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of indexes: index_memory= counts scratch memory of searches too, and
 * what the disk has as well is dropped when somebody else needs the room.
 */
#include "vector_lists.h"
#include <sys/klog.h>

VECTOR_FIXTURE(box)
SCRATCH_FIXTURE(scratch)

#define N 1200

static const struct way hnsw = { "hnsw", { .index_kind = VEXFS_INDEX_HNSW }, .least = { 0, 960 } };


/* All structures: a graph, lists with codes, hash tables; lists without codes, and one list. */
#define FOR_EACH_STRUCTURE(way)						\
	for (unsigned int n_ = 0; n_ < 5; n_ += quick() ? 1 + (n_ == 1) * 2 : 1)	\
		for (const struct way *way = n_ ? ways_of_changes[n_ - 1] : &hnsw; way; way = NULL)

static int remount(const char *options)
{
	return mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"),
		     getenv("VEXFS_TEST_FS"), MS_REMOUNT, options);
}

/* Asks the kernel to drop dentries, inodes, and what filesystems can do without. */
static void reclaim(struct __test_metadata *_metadata)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(1, write(fd, "2", 1));
	close(fd);
}

static struct vexfs_index_stats stats_now(struct __test_metadata *_metadata, int fd, unsigned int kind)
{
	struct vexfs_index_stats st = { 0 };

	ASSERT_EQ(0, ERR(stats_of_kind(fd, kind, &st))) TH_LOG("kind %u, fd %d", kind, fd);
	return st;
}

CASE(reclaim_drops_what_can_be_read_again)
{
	float *rows = new_clustered(1, 0, N + 10), *queries = new_clustered(2, 0, NQ);
	struct vexfs_index_stats st, all;
	uint64_t key = 3;

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	FOR_EACH_STRUCTURE(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_search s = wide(way);
		struct vexfs_hit before[NQ * K], after[NQ * K];
		int fd = container("f", DIM, VEXFS_METRIC_L2);
		uint64_t digest;

		OK(insert(fd, rows, NULL, N));
		OK(build_way(fd, way, 0));
		digest = digest_of_kind(fd, kind);
		run_search(_metadata, fd, queries, &s, kind, before);
		all = stats_now(_metadata, fd, kind);
		EXPECT_EQ(VEXFS_INDEX_READY, all.state) TH_LOG("%s", way->name);
		EXPECT_LT(0, all.resident_bytes);
		for (int round = 0; round < 2; round++) {
			reclaim(_metadata);
			st = stats_now(_metadata, fd, kind);
			EXPECT_EQ(VEXFS_INDEX_STORED, st.state) TH_LOG("%s", way->name);
			EXPECT_EQ(0, st.resident_bytes);
			EXPECT_EQ(0, stats_of(fd).index_count);
			/* It is there all the same. */
			EXPECT_EQ(EEXIST, round ? ERR(build_way(fd, way, 0)) : EEXIST);
			run_search(_metadata, fd, queries, &s, kind, after);
			EXPECT_EQ(0, memcmp(before, after, sizeof(before)));
			EXPECT_EQ(0, s.rows_exact);
			EXPECT_LT(0, s.hops);
			st = stats_now(_metadata, fd, kind);
			EXPECT_EQ(VEXFS_INDEX_READY, st.state);
			EXPECT_EQ(all.nodes, st.nodes);
			EXPECT_EQ(digest, digest_of_kind(fd, kind));
		}
		/* What only memory knows stays, scratch memory does not. */
		OK(insert(fd, rows + N * DIM, NULL, 10));
		OK(delete_keys(fd, &key, 1));
		all = stats_now(_metadata, fd, kind);
		reclaim(_metadata);
		st = stats_now(_metadata, fd, kind);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state) TH_LOG("%s", way->name);
		EXPECT_GT(all.resident_bytes, st.resident_bytes);
		EXPECT_LT(all.resident_bytes / 4, st.resident_bytes);
		EXPECT_EQ(N + 10, st.watermark);
		EXPECT_RECALL_OF(way->least[VEXFS_METRIC_L2], fd, way, queries, &s);
		EXPECT_EQ(0, s.rows_exact);
		/* An index over rows that were overwritten in place has no image to be read from. */
		OK(build_way(fd, way, VEXFS_BUILD_REPLACE));
		reclaim(_metadata);
		EXPECT_EQ(VEXFS_INDEX_STORED, stats_now(_metadata, fd, kind).state);
		run_search(_metadata, fd, queries, &s, kind, after);
		ASSERT_EQ(DIM * 4, pwrite(fd, rows, DIM * 4, stats_of(fd).stride * 7));
		reclaim(_metadata);
		EXPECT_EQ(VEXFS_INDEX_READY, stats_now(_metadata, fd, kind).state);
		OK(unlink("f"));
		close(fd);
	}
	free(rows);
	free(queries);
}

/* Three containers of the same rows, with an index each. */
static void make_three(struct __test_metadata *_metadata, const struct way *way, const float *rows, int *fds)
{
	for (int i = 0; i < 3; i++) {
		fds[i] = container((char[]){ 'a' + i, 0 }, DIM, VEXFS_METRIC_L2);
		OK(insert(fds[i], rows, NULL, N));
		OK(build_way(fds[i], way, 0));
	}
}

static void drop_three(struct __test_metadata *_metadata, int *fds)
{
	for (int i = 0; i < 3; i++) {
		OK(unlink((char[]){ 'a' + i, 0 }));
		close(fds[i]);
	}
}

static void limit_to(struct __test_metadata *_metadata, unsigned long long bytes)
{
	char option[40];

	snprintf(option, sizeof(option), "index_memory=%llu", bytes);
	OK(remount(option));
}

#define STATE(i) (stats_now(_metadata, fds[i], kind).state)

SCRATCH_CASE(the_index_that_was_not_searched_for_longest_makes_room)
{
	float *rows = new_clustered(1, 0, N + 20), *queries = new_clustered(2, 0, NQ);
	int fds[3];

	NEED_VEXFS();
	FOR_EACH_STRUCTURE(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_search s = wide(way);
		struct vexfs_hit hits[NQ * K];
		uint64_t bytes;

		make_three(_metadata, way, rows, fds);
		reclaim(_metadata);
		run_search(_metadata, fds[0], queries, &s, kind, hits);
		bytes = stats_now(_metadata, fds[0], kind).resident_bytes;
		limit_to(_metadata, bytes * 5 / 2);
		/* Each is loaded when it is searched, in the place of the one before the last. */
		for (int i = 1; i < (quick() ? 5 : 8); i++) {
			EXPECT_RECALL_OF(way->least[VEXFS_METRIC_L2], fds[i % 3], way, queries, &s);
			EXPECT_EQ(0, s.rows_exact) TH_LOG("%s, search %d", way->name, i);
			EXPECT_EQ(VEXFS_INDEX_READY, STATE(i % 3)) TH_LOG("%s", way->name);
			EXPECT_EQ(VEXFS_INDEX_READY, STATE((i + 2) % 3)) TH_LOG("%s", way->name);
			EXPECT_EQ(VEXFS_INDEX_STORED, STATE((i + 1) % 3)) TH_LOG("%s", way->name);
		}
		/* Those that the disk does not have stay: 0 and 1. There is no room for the third. */
		OK(insert(fds[0], rows + N * DIM, NULL, 10));
		OK(insert(fds[1], rows + N * DIM, NULL, 10));
		EXPECT_RECALL_OF(1000, fds[2], way, queries, &s);
		EXPECT_EQ(NQ * N, s.rows_exact) TH_LOG("%s", way->name);
		EXPECT_EQ(VEXFS_INDEX_STORED, STATE(2));
		EXPECT_EQ(ENOMEM, stats_now(_metadata, fds[2], kind).build_error);
		EXPECT_EQ(VEXFS_INDEX_READY, STATE(0));
		EXPECT_EQ(VEXFS_INDEX_READY, STATE(1));
		EXPECT_EQ(ENOMEM, ERR(build_way(fds[2], way, VEXFS_BUILD_REPLACE))) TH_LOG("%s", way->name);
		/* With more room it is loaded, after a moment. */
		OK(remount(""));
		while (STATE(2) != VEXFS_INDEX_READY) {
			usleep(50000);
			run_search(_metadata, fds[2], queries, &s, kind, hits);
		}
		drop_three(_metadata, fds);
	}
	free(rows);
	free(queries);
}

SCRATCH_CASE(a_build_makes_room_too)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	const unsigned int kind = VEXFS_INDEX_HNSW;
	struct vexfs_search s = { .ef = 100 };
	uint64_t bytes;
	int fds[3];

	NEED_VEXFS();
	make_three(_metadata, &hnsw, rows, fds);
	bytes = stats_now(_metadata, fds[0], kind).resident_bytes;
	EXPECT_RECALL_OF(960, fds[0], &hnsw, queries, &s);
	limit_to(_metadata, bytes * 28 / 10);
	/* What is there stays until somebody wants the room: the second, which was not searched. */
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(VEXFS_INDEX_READY, STATE(i));
	OK(drop(fds[2], kind));
	OK(build_way(fds[2], &hnsw, 0));
	EXPECT_EQ(VEXFS_INDEX_READY, STATE(0));
	EXPECT_EQ(VEXFS_INDEX_STORED, STATE(1));
	EXPECT_EQ(VEXFS_INDEX_READY, STATE(2));
	/* Nothing goes for what would not fit anyway; that is answered exactly. */
	limit_to(_metadata, bytes / 2);
	EXPECT_EQ(ENOMEM, ERR(build_way(fds[0], &hnsw, VEXFS_BUILD_REPLACE)));
	EXPECT_EQ(VEXFS_INDEX_READY, STATE(0));
	EXPECT_EQ(VEXFS_INDEX_READY, STATE(2));
	EXPECT_EQ(VEXFS_INDEX_STORED, STATE(1));
	for (int i = 0; i < 3; i++)
		EXPECT_RECALL_OF(960, fds[i], &hnsw, queries, &s);
	drop_three(_metadata, fds);
	free(rows);
	free(queries);
}

/* The state of an index once no build of it goes on. */
static struct vexfs_index_stats when_built(struct __test_metadata *_metadata, int fd, unsigned int kind)
{
	struct vexfs_index_stats st;

	do {
		usleep(1000);
		st = stats_now(_metadata, fd, kind);
	} while (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING);
	return st;
}

/*
 * What is built because a search lacks it, and not because somebody asks, is tried
 * again when there may be memory: not before a pause, and not without a search.
 */
SCRATCH_CASE(a_build_by_itself_waits_for_memory)
{
	float *rows = new_clustered(1, 0, N + 10), *queries = new_clustered(2, 0, NQ);
	struct vexfs_build_index slow = { .size = sizeof(slow), .index_kind = VEXFS_INDEX_HNSW,
					  .flags = VEXFS_BUILD_BACKGROUND, .ef_construction = 2000 };
	const unsigned int kind = VEXFS_INDEX_HNSW;
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_hit hits[NQ * K];
	struct vexfs_index_stats st;
	double start;
	int fds[2];

	NEED_VEXFS();
	for (int i = 0; i < 2; i++) {
		fds[i] = container((char[]){ 'a' + i, 0 }, DIM, VEXFS_METRIC_L2);
		OK(insert(fds[i], rows, NULL, N));
	}
	OK(build_way(fds[0], &hnsw, 0));
	/* Cut off, so that the first search of the next mount has it built. */
	do {
		OK(ioctl(fds[1], VEXFS_IOCTL_BUILD_INDEX, &slow));
		slow.flags |= VEXFS_BUILD_REPLACE;
		close(fds[0]);
		close(fds[1]);
		OK(scratch_cycle());
		fds[0] = open("a", O_RDWR);
		fds[1] = open("b", O_RDWR);
		if (STATE(1) == VEXFS_INDEX_STORED) {
			OK(drop(fds[1], kind));
			slow.ef_construction = 4000;
		}
	} while (stats_of_kind(fds[1], kind, &st) || st.state != VEXFS_INDEX_UNUSABLE);
	/* The other one stays: the disk does not have all of it. */
	run_search(_metadata, fds[0], queries, &s, kind, hits);
	OK(insert(fds[0], rows + N * DIM, NULL, 10));
	limit_to(_metadata, stats_now(_metadata, fds[0], kind).resident_bytes * 3 / 2);
	/* It is tried at once and after a second, and then not for two. */
	for (start = now(); now() - start < 1.5;) {
		EXPECT_RECALL_OF(1000, fds[1], &hnsw, queries, &s);
		EXPECT_EQ(NQ * N, s.rows_exact);
		st = when_built(_metadata, fds[1], kind);
		EXPECT_EQ(VEXFS_INDEX_UNUSABLE, st.state);
		EXPECT_EQ(ENOMEM, st.build_error);
		EXPECT_EQ(slow.ef_construction, st.ef_construction);
	}
	OK(drop(fds[0], kind));
	usleep(100000);
	EXPECT_EQ(VEXFS_INDEX_UNUSABLE, STATE(1));
	while (STATE(1) != VEXFS_INDEX_READY && now() - start < 120) {
		run_search(_metadata, fds[1], queries, &s, kind, hits);
		usleep(20000);
	}
	EXPECT_LT(2.9, now() - start);
	EXPECT_EQ(VEXFS_INDEX_READY, STATE(1));
	EXPECT_EQ(0, stats_now(_metadata, fds[1], kind).build_error);
	EXPECT_RECALL_OF(960, fds[1], &hnsw, queries, &s);
	EXPECT_EQ(0, s.rows_exact);
	for (int i = 0; i < 2; i++)
		close(fds[i]);
	free(rows);
	free(queries);
}

/* The same of lists that rows have outgrown. */
SCRATCH_CASE(lists_that_were_outgrown_wait_for_memory)
{
	unsigned int n = 1000, more = 4000;
	float *rows = new_clustered(1, 0, n + more), *queries = new_clustered(2, 0, NQ);
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = VEXFS_INDEX_IVF };
	const unsigned int kind = VEXFS_INDEX_IVF;
	struct vexfs_search s = { 0 };
	struct vexfs_hit hits[NQ * K];
	struct vexfs_index_stats st;
	unsigned int lists;
	double start;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	OK(insert(fd, rows + n * DIM, NULL, more - n));
	st = stats_now(_metadata, fd, kind);
	lists = st.nlist;
	limit_to(_metadata, st.resident_bytes * 3 / 2);
	OK(insert(fd, rows + more * DIM, NULL, n));
	st = when_built(_metadata, fd, kind);
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(ENOMEM, st.build_error);
	EXPECT_EQ(lists, st.nlist);
	EXPECT_EQ(n + more, st.watermark);
	OK(remount(""));
	for (start = now(); st.nlist == lists && now() - start < 120; usleep(20000)) {
		run_search(_metadata, fd, queries, &s, kind, hits);
		st = stats_now(_metadata, fd, kind);
	}
	EXPECT_LT(lists, when_built(_metadata, fd, kind).nlist);
	EXPECT_EQ(0, stats_now(_metadata, fd, kind).build_error);
	close(fd);
	free(rows);
	free(queries);
}

/* What the log says last of the memory that an index needs, or 0. */
static unsigned long long said_to_need(void)
{
	static char log[1 << 20];
	int len = klogctl(3 /* all */, log, sizeof(log) - 1);
	unsigned long long bytes = 0;

	log[len > 0 ? len : 0] = 0;
	for (char *at = log; (at = strstr(at, " rows needs ")); at++)
		sscanf(at, " rows needs %llu bytes, index_memory=", &bytes);
	return bytes;
}

/*
 * It is enough to build the index, and then also for what is done with it: rows are deleted
 * and paths repaired, it is saved, checked, and loaded again.
 */
SCRATCH_CASE(what_the_log_says_an_index_needs_is_enough_and_no_less_is)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	uint64_t gone[N / 4];
	int fd;

	NEED_VEXFS();
	for (int i = 0; i < N / 4; i++)
		gone[i] = i * 3;
	FOR_EACH_STRUCTURE(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_index_check check = { .size = sizeof(check), .index_kind = kind };
		struct vexfs_search s = wide(way);
		struct vexfs_hit hits[NQ * K];
		unsigned long long needs;

		fd = container("f", DIM, VEXFS_METRIC_L2);
		OK(insert(fd, rows, NULL, N));
		limit_to(_metadata, 1);
		EXPECT_EQ(ENOMEM, ERR(build_way(fd, way, 0)));
		needs = said_to_need();
		limit_to(_metadata, needs - 1);
		EXPECT_EQ(ENOMEM, ERR(build_way(fd, way, 0))) TH_LOG("%s", way->name);
		EXPECT_EQ(needs, said_to_need()) TH_LOG("%s", way->name);
		limit_to(_metadata, needs);
		EXPECT_EQ(0, ERR(build_way(fd, way, 0))) TH_LOG("%s: %llu", way->name, needs);
		EXPECT_GE(needs, stats_now(_metadata, fd, kind).resident_bytes);
		OK(delete_keys(fd, gone, N / 4));
		EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check))) TH_LOG("%s", way->name);
		reclaim(_metadata);
		EXPECT_EQ(VEXFS_INDEX_READY, stats_now(_metadata, fd, kind).state);
		close(fd);
		OK(scratch_cycle());
		limit_to(_metadata, needs);
		fd = open("f", O_RDWR);
		run_search(_metadata, fd, queries, &s, kind, hits);
		EXPECT_EQ(VEXFS_INDEX_READY, stats_now(_metadata, fd, kind).state) TH_LOG("%s", way->name);
		EXPECT_EQ(0, s.rows_exact) TH_LOG("%s", way->name);
		OK(unlink("f"));
		close(fd);
		OK(remount(""));
	}
	free(rows);
	free(queries);
}

struct searcher {
	pthread_t thread;
	int fd, error;
	const struct way *way;
	unsigned int threads;
	const float *queries;
	const struct vexfs_hit *want;
	int wrong;
};

static void *search_on(void *arg)
{
	struct searcher *me = arg;
	struct vexfs_hit hits[NQ * K];

	for (int i = 0; i < (quick() ? 3 : 10) && !me->error; i++) {
		struct vexfs_search s = wide(me->way);

		s.nq = NQ;
		s.k = K;
		s.index_kind = me->way->build.index_kind;
		s.threads = me->threads;
		s.queries = PTR(me->queries);
		s.hits = PTR(hits);
		if (search(me->fd, &s))
			me->error = errno;
		else
			me->wrong += memcmp(hits, me->want, sizeof(hits)) && !s.rows_exact;
	}
	return NULL;
}

SCRATCH_CASE(scratch_memory_of_searches_counts)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, N));
	FOR_EACH_STRUCTURE(way) {
		unsigned int kind = way->build.index_kind;
		/* Defaults are for more rows: of so few, all are compared sooner. */
		struct vexfs_search s = wide(way), wider = { .ef = 4096, .nprobe = 4096, .rerank = 4096 };
		struct searcher searchers[8];
		struct vexfs_hit hits[NQ * K];
		uint64_t bytes;

		OK(remount(""));
		OK(build_way(fd, way, 0));
		bytes = stats_now(_metadata, fd, kind).resident_bytes;
		OK(remount("index_memory=1K"));
		/* There is memory for one search, since the build, and the others wait for it. */
		run_search(_metadata, fd, queries, &s, kind, hits);
		EXPECT_EQ(0, s.rows_exact) TH_LOG("%s", way->name);
		for (int i = 0; i < 8; i++) {
			searchers[i] = (struct searcher){ .fd = fd, .way = way, .threads = i % 3,
							  .queries = queries, .want = hits };
			ASSERT_EQ(0, pthread_create(&searchers[i].thread, NULL, search_on, &searchers[i]));
		}
		for (int i = 0; i < 8; i++) {
			pthread_join(searchers[i].thread, NULL);
			EXPECT_EQ(0, searchers[i].error) TH_LOG("%s", strerror(searchers[i].error));
			EXPECT_EQ(0, searchers[i].wrong);
		}
		EXPECT_EQ(bytes, stats_now(_metadata, fd, kind).resident_bytes);
		/* What needs more memory than that is answered exactly. */
		EXPECT_RECALL_OF(1000, fd, way, queries, &wider);
		EXPECT_LT(0, wider.rows_exact + (kind == VEXFS_INDEX_HNSW ? wider.distances : 0));
		EXPECT_EQ(bytes, stats_now(_metadata, fd, kind).resident_bytes);
		OK(remount(""));
		run_search(_metadata, fd, queries, &s, kind, hits);
		OK(drop(fd, kind));
	}
	close(fd);
	free(rows);
	free(queries);
}

TEST_HARNESS_MAIN
