// SPDX-License-Identifier: GPL-2.0
/*
 * Graph indexes: recall beside the exact search of the same kernel, inserts,
 * deletes, upserts and overwrites after the build, filters, bad parameters, and
 * builds that end early.
 */
#include "vector_index.h"

VECTOR_FIXTURE(box)

CASE(an_index_finds_what_an_exact_search_finds)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	char name[8] = "fN";

	for (unsigned int metric = VEXFS_METRIC_L2; metric <= VEXFS_METRIC_DOT; metric++) {
		struct vexfs_index_stats st = { 0 };
		struct vexfs_search s = { .ef = 200 }, narrow = { .ef = 10, .rerank = 10 };
		struct vexfs_hit hits[NQ * K], again[NQ * K];
		unsigned int last;
		int fd;

		name[1] = '0' + metric;
		fd = container(name, DIM, metric);
		OK(insert(fd, rows, NULL, n));
		EXPECT_EQ(0, stats_of(fd).index_count);
		OK(build(fd, 0, 0, 0));
		EXPECT_EQ(1, stats_of(fd).index_count);
		OK(index_stats(fd, &st));
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(16, st.m);
		EXPECT_EQ(200, st.ef_construction);
		EXPECT_EQ(n, st.nodes);
		EXPECT_EQ(n, st.watermark);
		EXPECT_EQ(0, st.deleted);
		EXPECT_EQ(0, st.digest);
		/* 48 elements are less than the links, so no half of the rows here. */
		EXPECT_LT(n * 100ull, st.resident_bytes);
		EXPECT_GT(n * 400ull + (3 << 20), st.resident_bytes);

		last = recall(_metadata, fd, queries, &narrow);
		EXPECT_LE(400, last);
		EXPECT_EQ(0, narrow.rows_exact);
		EXPECT_LT(0, narrow.hops);
		EXPECT_RECALL(980, fd, queries, &s);
		EXPECT_LT(narrow.hops, s.hops);
		EXPECT_LT(narrow.distances, s.distances);
		/* For one query the planner takes the index too, and the same walk gives the same answer. */
		narrow.nq = 1;
		narrow.queries = PTR(queries);
		narrow.hits = PTR(hits);
		narrow.index_kind = VEXFS_INDEX_HNSW;
		OK(search(fd, &narrow));
		narrow.hits = PTR(again);
		narrow.index_kind = VEXFS_INDEX_AUTO;
		OK(search(fd, &narrow));
		EXPECT_LT(0, narrow.hops);
		EXPECT_EQ(0, memcmp(hits, again, K * sizeof(*hits)));
		/* To compare so few rows with all queries at once is less work than to walk for each. */
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_AUTO, hits);
		EXPECT_EQ(0, s.hops);
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_EXACT, again);
		EXPECT_EQ(0, memcmp(hits, again, sizeof(hits)));
		close(fd);
	}
}

CASE(a_great_k_a_great_ef_and_few_rows_are_answered)
{
	unsigned int n = 600, k = 700;
	float *rows = new_clustered(1, 0, n);
	struct vexfs_hit *hits = calloc(5000, sizeof(*hits));
	struct vexfs_search s = { .nq = 1, .k = k, .index_kind = VEXFS_INDEX_HNSW,
				  .queries = PTR(rows), .hits = PTR(hits) };
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	struct model m = { DIM, VEXFS_METRIC_L2, n, rows };
	uint32_t count;

	OK(build(fd, 0, 4, 8));
	s.counts = PTR(&count);
	/* Nothing yet. */
	OK(search(fd, &s));
	EXPECT_EQ(0, count);
	OK(insert(fd, rows, NULL, n));
	/* All of them: an index may not lose one. */
	OK(search(fd, &s));
	EXPECT_STREQ("right", wrong_answer(&m, rows, hits, k, count, INFINITY) ?: "right");
	s.k = 5000;
	OK(search(fd, &s));
	EXPECT_EQ(n, count);
	s.k = 1;
	s.ef = VEXFS_MAX_EF;
	s.rerank = VEXFS_MAX_EF;
	OK(search(fd, &s));
	EXPECT_EQ(0, hits[0].row);
}

CASE(changes_after_a_build_are_seen_at_once)
{
	unsigned int n = rows_of_a_test(), more = n / 40 * 10;
	float *rows = new_clustered(1, 0, n), *new_rows = new_clustered(3, 0, more);
	float *queries = new_clustered(2, 0, NQ);
	uint64_t *keys = malloc(n * sizeof(*keys));
	struct vexfs_search s = { .ef = 200 };
	struct vexfs_index_stats st = { 0 };
	struct vexfs_hit hit[2];
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	for (unsigned int i = 0; i < n; i++)
		keys[i] = 7000000 + i;
	OK(insert(fd, rows, keys, n));
	OK(build(fd, 0, 0, 100));
	/* Upserts: the new vector under the old key, and the old one gone. */
	for (unsigned int i = 0; i < more; i += 100) {
		unsigned int some = more - i < 100 ? more - i : 100;
		struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = some,
					 .vectors = PTR(new_rows + i * DIM),
					 .keys = PTR(keys + i) };
		struct vexfs_search one = { .nq = 1, .k = 2, .hits = PTR(hit),
					    .index_kind = VEXFS_INDEX_HNSW, .ef = 64 };

		OK(batch(fd, &b));
		one.queries = PTR(new_rows + i * DIM);
		OK(search(fd, &one));
		EXPECT_EQ(keys[i], hit[0].key);
		EXPECT_EQ(n + i, hit[0].row);
		one.queries = PTR(rows + i * DIM);
		OK(search(fd, &one));
		EXPECT_NE(i, hit[0].row);
	}
	OK(index_stats(fd, &st));
	EXPECT_EQ(n, st.nodes);
	EXPECT_EQ(n + more, st.watermark);
	EXPECT_RECALL(950, fd, queries, &s);
	EXPECT_EQ(0, s.rows_exact);
	/* Deletes, by tens. */
	for (unsigned int i = more; i < 3 * more; i += 10) {
		struct vexfs_search one = { .nq = 1, .k = 1, .hits = PTR(hit), .ef = 64,
					    .index_kind = VEXFS_INDEX_HNSW,
					    .queries = PTR(rows + i * DIM) };

		OK(delete_keys(fd, keys + i, 10));
		OK(search(fd, &one));
		EXPECT_TRUE(hit[0].row < i || hit[0].row >= i + 10);
	}
	OK(index_stats(fd, &st));
	EXPECT_EQ(stats_of(fd).live, st.nodes);
	EXPECT_RECALL(950, fd, queries, &s);
	/* In again, a few at a time. */
	for (unsigned int i = more; i < 3 * more; i += 50) {
		unsigned int some = 3 * more - i < 50 ? 3 * more - i : 50;

		OK(insert(fd, rows + i * DIM, keys + i, some));
	}
	OK(index_stats(fd, &st));
	EXPECT_EQ(n, st.nodes);
	EXPECT_EQ(stats_of(fd).rows, st.watermark);
	EXPECT_RECALL(950, fd, queries, &s);
	EXPECT_EQ(0, s.rows_exact);
	/* Everything goes. */
	for (unsigned int i = 0; i < n; i += 1000)
		OK(delete_keys(fd, keys + i, n - i < 1000 ? n - i : 1000));
	OK(index_stats(fd, &st));
	EXPECT_EQ(0, st.nodes);
	EXPECT_RECALL(1000, fd, queries, &s);
}

CASE(overwritten_rows_are_found_where_they_are)
{
	unsigned int n = 1000;
	float *rows = new_clustered(1, 0, n), *other = new_clustered(5, 0, 60);
	float *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .ef = 200 };
	struct vexfs_hit hit;
	int fd = container("f", DIM, VEXFS_METRIC_COSINE);

	OK(insert(fd, rows, NULL, n));
	OK(build(fd, 0, 8, 64));
	ASSERT_EQ(40 * DIM * 4, pwrite(fd, other, 40 * DIM * 4, 100 * DIM * 4));
	/* Some over, some behind. */
	ASSERT_EQ(20 * DIM * 4, pwrite(fd, other + 40 * DIM, 20 * DIM * 4, (n - 10) * DIM * 4));
	for (unsigned int i = 0; i < 60; i++) {
		struct vexfs_search one = { .nq = 1, .k = 1, .hits = PTR(&hit), .ef = 64,
					    .index_kind = VEXFS_INDEX_HNSW,
					    .queries = PTR(other + i * DIM) };

		OK(search(fd, &one));
		EXPECT_EQ(i < 40 ? 100 + i : n - 50 + i, hit.row);
	}
	EXPECT_EQ(n + 10, stats_of(fd).live);
	EXPECT_RECALL(950, fd, queries, &s);
}

CASE(filters_keep_recall_and_fill_k)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	uint64_t *tags = malloc(n * sizeof(*tags)), *keys = malloc(n * sizeof(*keys));
	uint64_t *bits = calloc(n / 64 + 1, 8), state = 3;
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = n, .vectors = PTR(rows),
				 .keys = PTR(keys), .tags = PTR(tags) };
	struct vexfs_hit hits[NQ * K];
	unsigned int nkeys = 0;
	uint64_t *few = malloc(n * sizeof(*few));
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	for (unsigned int i = 0; i < n; i++) {
		uint64_t dice = rnd(&state) % 1000;

		keys[i] = i * 3 + 5;
		tags[i] = 1 | (dice < 500 ? 2 : 0) | (dice < 100 ? 4 : 0) | (dice < 10 ? 8 : 0);
		if (dice >= 100 && dice < 300)
			bits[i / 64] |= 1ull << i % 64;
		if (dice >= 300 && dice < 350)
			few[nkeys++] = keys[i];
	}
	OK(batch(fd, &b));
	OK(build(fd, 0, 0, 0));
	for (uint64_t tag = 1; tag <= 8; tag *= 2) {
		struct vexfs_search s = { .flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = tag | 1,
					  .ef = 128 };

		EXPECT_RECALL(950, fd, queries, &s);
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, hits);
		for (unsigned int i = 0; i < NQ * K; i++)
			EXPECT_TRUE(hits[i].key == ~0ull || tags[hits[i].row] & tag);
	}
	{
		struct vexfs_search s = { .flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = 1u << 20 };

		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, hits);
		EXPECT_EQ(~0ull, hits[0].key);
	}
	{
		struct vexfs_search s = { .flags = VEXFS_SEARCH_ROW_BITMAP, .row_bitmap = PTR(bits),
					  .row_bitmap_rows = n - 7, .ef = 128 };

		EXPECT_RECALL(950, fd, queries, &s);
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, hits);
		for (unsigned int i = 0; i < NQ * K; i++)
			EXPECT_TRUE(bits[hits[i].row / 64] >> hits[i].row % 64 & 1);
	}
	{
		struct vexfs_search s = { .flags = VEXFS_SEARCH_KEYS, .filter_keys = PTR(few),
					  .filter_key_count = nkeys, .ef = 128 };

		EXPECT_RECALL(950, fd, queries, &s);
	}
	{
		struct vexfs_search s = { .flags = VEXFS_SEARCH_RADIUS, .ef = 200 };
		float within = 0;

		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_EXACT, hits);
		for (unsigned int q = 0; q < NQ; q++)
			within += bits_to_float(hits[q * K + 4].distance) / NQ;
		s.radius = float_to_bits(within);
		/* Each query has another number of them. */
		EXPECT_RECALL(950, fd, queries, &s);
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, hits);
		for (unsigned int i = 0; i < NQ * K; i++)
			EXPECT_TRUE(hits[i].key == ~0ull ||
				    bits_to_float(hits[i].distance) <= within);
	}
}

CASE(bad_parameters_are_refused)
{
	static const struct vexfs_build_index bad[] = {
		{ .m = 3 }, { .m = 2 }, { .m = 17 }, { .m = 34 }, { .m = ~0u },
		{ .m = 16, .ef_construction = 15 }, { .ef_construction = 8 },
		{ .ef_construction = VEXFS_MAX_EF + 1 }, { .ef_construction = ~0u },
		{ .nlist = 1 }, { .nsub = 1 }, { .nbits = 2 }, { .nbits = ~0u }, { .ntables = 1 },
		{ .flags = 8 }, { .flags = VEXFS_BUILD_REPLACE | VEXFS_BUILD_DROP },
		{ .flags = VEXFS_BUILD_DROP, .m = 16 }, { .flags = 1u << 31 },
	};
	float *rows = new_clustered(1, 0, 500);
	struct vexfs_hit hit;
	struct vexfs_index_stats st = { 0 };
	struct vexfs_search s = { .nq = 1, .k = 1, .queries = PTR(rows), .hits = PTR(&hit) };
	int fd = container("f", DIM, VEXFS_METRIC_L2), ro, wide;

	OK(insert(fd, rows, NULL, 500));
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct vexfs_build_index arg = bad[i];

		arg.size = sizeof(arg);
		arg.index_kind = VEXFS_INDEX_HNSW;
		EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg))) TH_LOG("%u", i);
	}
	EXPECT_EQ(ENOENT, ERR(build(fd, VEXFS_BUILD_DROP, 0, 0)));
	EXPECT_EQ(ENOENT, ERR(index_stats(fd, &st)));
	ro = open("f", O_RDONLY);
	EXPECT_EQ(EBADF, ERR(build(ro, 0, 0, 0)));
	s.index_kind = VEXFS_INDEX_HNSW;
	EXPECT_EQ(ENOENT, ERR(search(fd, &s)));
	OK(build(fd, 0, 0, 0));
	OK(search(ro, &s));
	s.ef = VEXFS_MAX_EF + 1;
	EXPECT_EQ(EINVAL, ERR(search(fd, &s)));
	s.ef = 0;
	s.rerank = ~0u;
	EXPECT_EQ(EINVAL, ERR(search(fd, &s)));
	s.rerank = 0;
	s.index_kind = VEXFS_INDEX_IVF;
	EXPECT_EQ(ENOENT, ERR(search(fd, &s)));
	EXPECT_EQ(EEXIST, ERR(build(fd, 0, 0, 0)));
	st.flags = 2;
	EXPECT_EQ(EINVAL, ERR(index_stats(fd, &st)));
	st.flags = 0;
	st.reserved[1] = 1;
	EXPECT_EQ(EINVAL, ERR(index_stats(fd, &st)));
	st.reserved[1] = 0;
	st.size = sizeof(st);
	st.index_kind = VEXFS_INDEX_EXACT;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st)));
	st.index_kind = VEXFS_INDEX_PQ;
	EXPECT_EQ(ENOENT, ERR(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st)));
	EXPECT_EQ(EFAULT, ERR(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, NOWHERE)));
	EXPECT_EQ(ENOTTY, ERR(index_stats(open(".", O_RDONLY), &st)));
	/* Rows that are too long for any code. */
	wide = container("wide", 31873, VEXFS_METRIC_L2);
	EXPECT_EQ(EOPNOTSUPP, ERR(build(wide, 0, 0, 0)));
	wide = container("less", 31872, VEXFS_METRIC_L2);
	EXPECT_EQ(0, ERR(build(wide, 0, 32, 0)));
}

CASE(equal_rows_in_equal_order_make_equal_indexes)
{
	unsigned int n = 800;
	float *rows = new_clustered(1, 0, n);
	int a = container("a", DIM, VEXFS_METRIC_L2), b = container("b", DIM, VEXFS_METRIC_L2);
	uint64_t first, key = 17;

	OK(insert(a, rows, NULL, n));
	OK(build(a, 0, 8, 40));
	first = digest_of(a);
	EXPECT_NE(0, first);
	for (unsigned int i = 0; i < n; i += 100)
		OK(insert(b, rows + i * DIM, NULL, 100));
	OK(build(b, 0, 8, 40));
	EXPECT_EQ(first, digest_of(b));
	/* Also what comes later. */
	OK(insert(a, rows, NULL, 50));
	EXPECT_NE(first, digest_of(a));
	for (unsigned int i = 0; i < 50; i++)
		OK(insert(b, rows + i * DIM, NULL, 1));
	EXPECT_EQ(digest_of(a), digest_of(b));
	OK(delete_keys(a, &key, 1));
	EXPECT_NE(digest_of(a), digest_of(b));
	OK(delete_keys(b, &key, 1));
	EXPECT_EQ(digest_of(a), digest_of(b));
	/* Other parameters, another graph. */
	OK(build(b, VEXFS_BUILD_REPLACE, 16, 40));
	EXPECT_NE(digest_of(a), digest_of(b));
	OK(build(b, VEXFS_BUILD_DROP, 0, 0));
	EXPECT_EQ(0, stats_of(b).index_count);
	EXPECT_EQ(ENOENT, ERR(build(b, VEXFS_BUILD_DROP, 0, 0)));
	OK(build(b, 0, 8, 40));
	OK(build(a, VEXFS_BUILD_REPLACE, 8, 40));
	EXPECT_EQ(digest_of(a), digest_of(b));
}

CASE(a_killed_build_leaves_nothing)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n);
	struct vexfs_index_stats st = { 0 }, after = { 0 };
	int fd = container("f", DIM, VEXFS_METRIC_L2), status = 0, busy;
	pid_t child;

	OK(insert(fd, rows, NULL, n));
	for (;;) {
		child = fork();
		if (!child)
			_exit(build(fd, 0, 32, 4096) ? 1 : 0);
		WAIT_FOR(!index_stats(fd, &st) || has_ended(child));
		busy = ERR(build(fd, 0, 0, 0));
		kill(child, SIGKILL);
		ASSERT_EQ(child, waitpid(child, &status, 0));
		if (index_stats(fd, &after) || after.state != VEXFS_INDEX_READY)
			break;
		/* It was over before it was killed: once more. */
		OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	}
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(VEXFS_INDEX_BUILDING, st.state);
	EXPECT_EQ(EBUSY, busy);
	EXPECT_EQ(ENOENT, ERR(index_stats(fd, &st)));
	EXPECT_EQ(0, stats_of(fd).index_count);
	OK(build(fd, 0, 4, 8));
	EXPECT_EQ(1, stats_of(fd).index_count);
}

CASE(dropping_an_index_ends_its_build)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n);
	struct vexfs_index_stats st = { 0 };
	int fd = container("f", DIM, VEXFS_METRIC_L2), status = 0;
	pid_t child;

	OK(insert(fd, rows, NULL, n));
	/* Until it was not over before that. */
	do {
		child = fork();
		if (!child)
			_exit(build(fd, 0, 32, 4096) ? errno == ECANCELED ? 3 : 4 : 5);
		WAIT_FOR(!index_stats(fd, &st) || has_ended(child));
		OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
		ASSERT_EQ(child, waitpid(child, &status, 0));
	} while (WIFEXITED(status) && WEXITSTATUS(status) == 5);
	EXPECT_EQ(3, WEXITSTATUS(status));
	EXPECT_EQ(ENOENT, ERR(index_stats(fd, &st)));
}

static int write_text(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX];
	int fd, ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	ok = fd >= 0 && write(fd, text, strlen(text)) == strlen(text);
	close(fd);
	return ok ? 0 : -1;
}

CASE(a_build_that_memory_does_not_suffice_for_fails_and_changes_nothing)
{
	char cgroups[] = "/tmp/cgroups.XXXXXX", group[64];
	unsigned int n = 20000;
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .nq = 1, .k = 1 };
	struct vexfs_index_stats st = { 0 };
	struct vexfs_hit hit;
	int fd = container("f", DIM, VEXFS_METRIC_L2), status = 0;
	pid_t child;

	OK(insert(fd, rows, NULL, n));
	ASSERT_NE(NULL, mkdtemp(cgroups));
	if (mount("none", cgroups, "cgroup2", 0, NULL)) {
		rmdir(cgroups);
		SKIP(return, "there are no control groups");
	}
	snprintf(group, sizeof(group), "%s/small", cgroups);
	if (write_text(cgroups, "cgroup.subtree_control", "+memory") || mkdir(group, 0755)) {
		umount(cgroups);
		rmdir(cgroups);
		SKIP(return, "control groups don't count memory");
	}
	/* Nodes of 384 bytes. */
	EXPECT_EQ(0, write_text(group, "memory.max", "4M"));
	child = fork();
	if (!child) {
		if (write_text(group, "cgroup.procs", "0"))
			_exit(99);
		_exit(build(fd, 0, 32, 64) ? errno : 0);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(ENOMEM, WEXITSTATUS(status)) TH_LOG("%s", strerror(WEXITSTATUS(status)));
	/* In the background the memory is the asker's too, though he is gone. */
	child = fork();
	if (!child) {
		if (write_text(group, "cgroup.procs", "0"))
			_exit(99);
		_exit(build(fd, VEXFS_BUILD_BACKGROUND, 32, 64) ? errno : 0);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, WEXITSTATUS(status));
	while (!index_stats(fd, &st) && st.state == VEXFS_INDEX_BUILDING)
		usleep(1000);
	EXPECT_EQ(VEXFS_INDEX_FAILED, st.state);
	EXPECT_EQ(ENOMEM, st.build_error);
	EXPECT_EQ(0, stats_of(fd).index_count);
	s.queries = PTR(queries);
	s.hits = PTR(&hit);
	OK(search(fd, &s));
	EXPECT_EQ(n, s.rows_exact);
	EXPECT_EQ(0, rmdir(group));
	EXPECT_EQ(0, umount(cgroups));
	EXPECT_EQ(0, rmdir(cgroups));
}

SCRATCH_FIXTURE(scratch)

static int remount(const char *options)
{
	return mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"),
		     getenv("VEXFS_TEST_FS"), MS_REMOUNT, options);
}

SCRATCH_CASE(index_memory_is_a_ceiling_that_holds)
{
	unsigned int n = 1000, more = 8000;
	float *rows = new_clustered(1, 0, more), *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .ef = 200 };
	struct vexfs_index_stats st = { 0 };
	uint64_t bytes, keys[500];
	int fd, big;

	if (!self->mounted || !on_vexfs())
		SKIP(return, "not on VexFS");
	EXPECT_EQ(EINVAL, ERR(remount("index_memory=1X")));
	EXPECT_EQ(EINVAL, ERR(remount("index_memory=")));
	EXPECT_EQ(EINVAL, ERR(remount("index_memory=99999999999G")));
	OK(remount("index_memory=1M"));
	big = container("big", DIM, VEXFS_METRIC_L2);
	OK(insert(big, rows, NULL, more));
	EXPECT_EQ(ENOMEM, ERR(build(big, 0, 0, 40)));
	EXPECT_EQ(ENOENT, ERR(index_stats(big, &st)));
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	OK(build(fd, 0, 0, 40));
	/* There is not enough for another one, be it its own successor. */
	EXPECT_EQ(ENOMEM, ERR(build(big, 0, 0, 40)));
	/* Rows come in all the same, and are found. */
	for (unsigned int i = n; i < more; i += 500)
		OK(insert(fd, rows + i * DIM, NULL, 500));
	OK(index_stats(fd, &st));
	EXPECT_LE(n, st.watermark);
	EXPECT_GT(more, st.watermark);
	EXPECT_GT(1500000, st.resident_bytes);
	EXPECT_RECALL(980, fd, queries, &s);
	EXPECT_EQ(NQ * (more - st.watermark), s.rows_exact);
	/* With more of it the next batch catches up. */
	bytes = st.resident_bytes;
	OK(remount("index_memory=64M"));
	OK(insert(fd, rows, NULL, 1));
	OK(index_stats(fd, &st));
	EXPECT_EQ(more + 1, st.watermark);
	EXPECT_LT(bytes, st.resident_bytes);
	/* With less, what there is stays, and places of deleted rows are used again. */
	OK(remount("index_memory=1M"));
	for (unsigned int i = 0; i < 500; i++)
		keys[i] = i;
	OK(delete_keys(fd, keys, 500));
	OK(insert(fd, rows, NULL, 10));
	EXPECT_RECALL(980, fd, queries, &s);
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	OK(remount(""));
	OK(build(big, 0, 0, 40));
	close(fd);
	close(big);
}

CASE(a_time_budget_ends_a_walk_and_says_so)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n);
	struct vexfs_hit *hits = calloc(n, sizeof(*hits));
	struct vexfs_search s = { .nq = n, .k = 1, .queries = PTR(rows), .hits = PTR(hits), .ef = 100,
				  .index_kind = VEXFS_INDEX_HNSW, .time_budget_ns = 1 };
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	unsigned int found = 0;

	OK(insert(fd, rows, NULL, n));
	OK(build(fd, 0, 8, 40));
	OK(search(fd, &s));
	EXPECT_EQ(VEXFS_OUTCOME_PARTIAL, s.outcome);
	s.time_budget_ns = ~0ull;
	OK(search(fd, &s));
	EXPECT_EQ(0, s.outcome);
	for (unsigned int q = 0; q < n; q++)
		found += hits[q].row == q;
	EXPECT_LE(n * 98 / 100, found);
}

CASE(an_unlinked_container_keeps_its_index_until_it_goes)
{
	float *rows = new_clustered(1, 0, 1000), *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .ef = 200 };
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	OK(insert(fd, rows, NULL, 900));
	OK(build(fd, 0, 8, 40));
	OK(unlink("f"));
	OK(insert(fd, rows + 900 * DIM, NULL, 100));
	EXPECT_RECALL(950, fd, queries, &s);
	close(fd);
	/* The name is free, and what gets it has no index. */
	fd = container("f", DIM, VEXFS_METRIC_L2);
	EXPECT_LE(0, fd);
	EXPECT_EQ(0, stats_of(fd).index_count);
}

TEST_HARNESS_MAIN
