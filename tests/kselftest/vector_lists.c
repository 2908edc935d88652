// SPDX-License-Identifier: GPL-2.0
/*
 * Inverted lists, product quantisers and hash tables: recall beside the exact
 * search of the same kernel for each kind, code and metric, changes after the build,
 * filters, several indexes at once, bad parameters, and builds that end early.
 */
#include "vector_lists.h"

VECTOR_FIXTURE(box)

CASE(every_kind_finds_what_an_exact_search_finds)
{
	unsigned int n = quick() ? 1000 : 4000;
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	char name[8] = "fN";

	for (unsigned int metric = VEXFS_METRIC_L2; metric <= VEXFS_METRIC_DOT; metric++) {
		int fd;

		name[1] = '0' + metric;
		fd = container(name, DIM, metric);
		OK(insert(fd, rows, NULL, n));
		FOR_EACH_WAY(way) {
			/* Of more rows, more seem near. */
			unsigned int kind = way->build.index_kind, least, more = n / 1000;
			struct vexfs_search s = wide(way), narrow = { .nprobe = 1, .rerank = 10 * more };
			struct vexfs_index_stats st = { 0 };

			if (!way->least[metric])
				continue;
			s.rerank *= more;
			ASSERT_EQ(0, ERR(build_way(fd, way, 0))) TH_LOG("%s", way->name);
			OK(stats_of_kind(fd, kind, &st));
			EXPECT_EQ(VEXFS_INDEX_READY, st.state);
			EXPECT_EQ(n, st.nodes);
			EXPECT_EQ(n, st.watermark);
			EXPECT_EQ(0, st.deleted);
			EXPECT_EQ(1000, st.trained);
			EXPECT_EQ(way->build.nlist, st.nlist);
			EXPECT_EQ(way->nsub, st.nsub);
			EXPECT_EQ(way->nbits, st.nbits);
			/* Rows of lists are in one each, of tables in all. */
			EXPECT_EQ(way->build.ntables ?: kind == VEXFS_INDEX_LSH ? 3 : kind == VEXFS_INDEX_IVF,
				  st.ntables);
			EXPECT_EQ(0, st.m | st.ef_construction);
			EXPECT_LT(n * 4ull, st.resident_bytes);
			least = recall_of(_metadata, fd, kind, queries, &narrow);
			EXPECT_LE(100, least) TH_LOG("%s", way->name);
			EXPECT_EQ(0, narrow.rows_exact);
			EXPECT_LT(0, narrow.hops);
			EXPECT_RECALL_OF(way->least[metric], fd, way, queries, &s);
			EXPECT_EQ(0, s.rows_exact);
			if (kind != VEXFS_INDEX_PQ) {
				EXPECT_LT(narrow.hops, s.hops);
				EXPECT_LT(narrow.distances, s.distances);
			}
			OK(drop(fd, kind));
			EXPECT_EQ(ENOENT, ERR(stats_of_kind(fd, kind, &st)));
		}
		close(fd);
	}
}

CASE(changes_after_a_build_are_seen_at_once)
{
	unsigned int n = 800, more = 200;
	float *rows = new_clustered(1, 0, n), *new_rows = new_clustered(3, 0, more);
	float *queries = new_clustered(2, 0, NQ);
	uint64_t *keys = malloc(n * sizeof(*keys));
	char name[8] = "fN";

	for (unsigned int i = 0; i < n; i++)
		keys[i] = 7000000 + i;
	FOR_EACH_WAY_OF_CHANGES(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_index_stats st = { 0 };
		struct vexfs_search s = wide(way);
		uint64_t before, bytes;
		struct vexfs_hit hit[2];
		int fd;

		name[1] = '0' + (way - ways);
		fd = container(name, DIM, VEXFS_METRIC_L2);
		OK(insert(fd, rows, keys, n));
		OK(build_way(fd, way, 0));
		/* Upserts: the new vector under the old key, and the old one gone. */
		for (unsigned int i = 0; i < more; i += 100) {
			struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 100,
						 .vectors = PTR(new_rows + i * DIM),
						 .keys = PTR(keys + i) };

			OK(batch(fd, &b));
			search_one(_metadata, fd, way, new_rows + i * DIM, 2, hit);
			EXPECT_EQ(keys[i], hit[0].key) TH_LOG("%s", way->name);
			EXPECT_EQ(n + i, hit[0].row);
			search_one(_metadata, fd, way, rows + i * DIM, 2, hit);
			EXPECT_NE(i, hit[0].row);
		}
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(n, st.nodes) TH_LOG("%s", way->name);
		EXPECT_EQ(n + more, st.watermark);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		EXPECT_EQ(0, s.rows_exact);
		/* Deletes, by tens and many at once. */
		for (unsigned int i = more; i < 2 * more; i += i < more + 50 ? 10 : 50) {
			OK(delete_keys(fd, keys + i, i < more + 50 ? 10 : 50));
			search_one(_metadata, fd, way, rows + i * DIM, 1, hit);
			EXPECT_NE(i, hit[0].row) TH_LOG("%s", way->name);
		}
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(n - more, st.nodes);
		EXPECT_EQ(stats_of(fd).live, st.nodes);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		/* Holes are filled, or there are few of them. */
		if (kind == VEXFS_INDEX_IVF)
			EXPECT_GT(n / 8, st.deleted) TH_LOG("%s", way->name);
		/* In again, a few at a time. */
		for (unsigned int i = more; i < 2 * more; i += 50)
			OK(insert(fd, rows + i * DIM, keys + i, 50));
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(n, st.nodes);
		EXPECT_EQ(stats_of(fd).rows, st.watermark);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		EXPECT_EQ(0, s.rows_exact);
		/* Over and over: space does not grow, but for a chunk. */
		bytes = st.resident_bytes;
		for (unsigned int i = 0; i < 3 * n; i += 50) {
			struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 50,
						 .vectors = PTR(rows + i % n * DIM),
						 .keys = PTR(keys + i % n) };

			OK(batch(fd, &b));
		}
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(n, st.nodes);
		EXPECT_GE(bytes * 12 / 10 + (64 << 10), st.resident_bytes) TH_LOG("%s", way->name);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		before = digest_of_kind(fd, kind);
		EXPECT_NE(0, before);
		/* Everything goes. */
		OK(delete_keys(fd, keys, n));
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(0, st.nodes);
		EXPECT_NE(before, digest_of_kind(fd, kind));
		EXPECT_RECALL_OF(1000, fd, way, queries, &s);
		close(fd);
	}
}

CASE(overwritten_rows_are_found_where_they_are)
{
	unsigned int n = 1000;
	float *rows = new_clustered(1, 0, n), *other = new_clustered(5, 0, 60);
	float *queries = new_clustered(2, 0, NQ);
	char name[8] = "fN";

	FOR_EACH_WAY_OF_CHANGES(way) {
		struct vexfs_search s = wide(way);
		struct vexfs_index_stats st = { 0 };
		struct vexfs_hit hit;
		int fd;

		name[1] = '0' + (way - ways);
		fd = container(name, DIM, VEXFS_METRIC_COSINE);
		OK(insert(fd, rows, NULL, n));
		OK(build_way(fd, way, 0));
		ASSERT_EQ(40 * DIM * 4, pwrite(fd, other, 40 * DIM * 4, 100 * DIM * 4));
		/* Some over, some behind. */
		ASSERT_EQ(20 * DIM * 4,
			  pwrite(fd, other + 40 * DIM, 20 * DIM * 4, (n - 10) * DIM * 4));
		for (unsigned int i = 0; i < 60; i++) {
			search_one(_metadata, fd, way, other + i * DIM, 1, &hit);
			EXPECT_EQ(i < 40 ? 100 + i : n - 50 + i, hit.row) TH_LOG("%s", way->name);
		}
		EXPECT_EQ(n + 10, stats_of(fd).live);
		OK(stats_of_kind(fd, way->build.index_kind, &st));
		EXPECT_EQ(n + 10, st.nodes);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		close(fd);
	}
}

CASE(filters_keep_recall_and_fill_k)
{
	unsigned int n = quick() ? 1000 : 4000;
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	uint64_t *tags = malloc(n * sizeof(*tags)), state = 3;
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = n, .vectors = PTR(rows),
				 .tags = PTR(tags) };
	struct vexfs_hit hits[NQ * K];
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	for (unsigned int i = 0; i < n; i++) {
		uint64_t dice = rnd(&state) % 1000;

		tags[i] = 1 | (dice < 500 ? 2 : 0) | (dice < 100 ? 4 : 0) | (dice < 10 ? 8 : 0);
	}
	OK(batch(fd, &b));
	FOR_EACH_WAY_OF_CHANGES(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_search near = wide(way);
		float within = 0;

		OK(build_way(fd, way, 0));
		for (uint64_t tag = 1; tag <= 8; tag *= 2) {
			struct vexfs_search s = wide(way);

			s.flags = VEXFS_SEARCH_TAGS_ALL;
			s.tags_all = tag | 1;
			/* Compares the number of hits, too. */
			EXPECT_RECALL_OF(850, fd, way, queries, &s);
			run_search(_metadata, fd, queries, &s, kind, hits);
			for (unsigned int i = 0; i < NQ * K; i++)
				EXPECT_TRUE(hits[i].key == ~0ull || tags[hits[i].row] & tag);
		}
		near.flags = VEXFS_SEARCH_RADIUS;
		near.radius = float_to_bits(1e30);
		run_search(_metadata, fd, queries, &near, VEXFS_INDEX_EXACT, hits);
		for (unsigned int q = 0; q < NQ; q++)
			within += bits_to_float(hits[q * K + 4].distance) / NQ;
		near.radius = float_to_bits(within);
		run_search(_metadata, fd, queries, &near, kind, hits);
		for (unsigned int i = 0; i < NQ * K; i++)
			EXPECT_TRUE(hits[i].key == ~0ull || bits_to_float(hits[i].distance) <= within);
		OK(drop(fd, kind));
	}
}

CASE(k_is_filled_and_no_row_is_lost)
{
	unsigned int n = 600, k = 700;
	float *rows = new_clustered(1, 0, n);
	struct vexfs_hit *hits = calloc(5000, sizeof(*hits));
	struct model m = { DIM, VEXFS_METRIC_L2, n, rows };
	char name[8] = "fN";
	uint32_t count;

	FOR_EACH_WAY_OF_CHANGES(way) {
		struct vexfs_search s = { .nq = 1, .k = k, .index_kind = way->build.index_kind,
					  .queries = PTR(rows), .hits = PTR(hits),
					  .counts = PTR(&count), .nprobe = 1 };
		int fd;

		name[1] = '0' + (way - ways);
		fd = container(name, DIM, VEXFS_METRIC_L2);
		/* Nothing to learn from. */
		EXPECT_EQ(ENODATA, ERR(build_way(fd, way, 0)));
		OK(insert(fd, rows, NULL, 100));
		OK(build_way(fd, way, 0));
		OK(insert(fd, rows + 100 * DIM, NULL, n - 100));
		OK(search(fd, &s));
		EXPECT_STREQ("right", wrong_answer(&m, rows, hits, k, count, INFINITY) ?: "right");
		/* Few of many: the nearest is the row itself, wherever it is looked for. */
		s.k = 1;
		OK(search(fd, &s));
		EXPECT_EQ(0, hits[0].row) TH_LOG("%s", way->name);
		close(fd);
	}
}

CASE(several_indexes_serve_one_container)
{
	unsigned int n = 1200, more = 100;
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	struct vexfs_build_index graph = { .size = sizeof(graph), .index_kind = VEXFS_INDEX_HNSW,
					   .m = 8, .ef_construction = 40 };
	const struct way *all[] = { &ways[0], &ways[4], &ways[6] };
	struct vexfs_index_stats st = { 0 };
	struct vexfs_search s = { 0 };
	struct vexfs_hit hits[NQ * K];
	uint64_t keys[100], digest;
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	OK(insert(fd, rows, NULL, n - more));
	for (unsigned int i = 0; i < 3; i++) {
		OK(build_way(fd, all[i], 0));
		EXPECT_EQ(EEXIST, ERR(build_way(fd, all[i], 0)));
	}
	/* To compare so few rows with all queries at once is less work, unless somebody says how to search. */
	for (unsigned int i = 0; i < 3; i++) {
		struct vexfs_search w = wide(all[i]);

		run_search(_metadata, fd, queries, &s, all[i]->build.index_kind, hits);
		EXPECT_EQ(0, s.hops);
		run_search(_metadata, fd, queries, &w, all[i]->build.index_kind, hits);
		EXPECT_LT(0, w.hops);
		run_search(_metadata, fd, queries, &w, VEXFS_INDEX_AUTO, hits);
		EXPECT_EQ(0, w.hops);
	}
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &graph));
	EXPECT_EQ(4, stats_of(fd).index_count);
	/* Every batch is told to all of them. */
	OK(insert(fd, rows + (n - more) * DIM, NULL, more));
	for (unsigned int i = 0; i < 100; i++)
		keys[i] = i * 2;
	OK(delete_keys(fd, keys, 100));
	for (unsigned int i = 0; i < 3; i++) {
		struct vexfs_search w = wide(all[i]);

		OK(stats_of_kind(fd, all[i]->build.index_kind, &st));
		EXPECT_EQ(n - 100, st.nodes);
		EXPECT_EQ(n, st.watermark);
		EXPECT_RECALL_OF(850, fd, all[i], queries, &w);
		EXPECT_EQ(0, w.rows_exact);
	}
	s.ef = 200;
	EXPECT_LE(900, recall_of(_metadata, fd, VEXFS_INDEX_HNSW, queries, &s));
	/* One goes, the others stay. */
	OK(drop(fd, VEXFS_INDEX_IVF));
	EXPECT_EQ(3, stats_of(fd).index_count);
	EXPECT_EQ(ENOENT, ERR(drop(fd, VEXFS_INDEX_IVF)));
	s.index_kind = VEXFS_INDEX_IVF;
	EXPECT_EQ(ENOENT, ERR(search(fd, &s)));
	/* One is built anew; the same rows make the same index. */
	digest = digest_of_kind(fd, VEXFS_INDEX_LSH);
	OK(build_way(fd, all[2], VEXFS_BUILD_REPLACE));
	EXPECT_NE(0, digest_of_kind(fd, VEXFS_INDEX_LSH));
	OK(build_way(fd, all[0], VEXFS_BUILD_REPLACE));
	digest = digest_of_kind(fd, VEXFS_INDEX_IVF);
	OK(build_way(fd, all[0], VEXFS_BUILD_REPLACE));
	EXPECT_EQ(digest, digest_of_kind(fd, VEXFS_INDEX_IVF));
	EXPECT_EQ(4, stats_of(fd).index_count);
}

CASE(rows_without_codes_are_in_two_lists_by_inner_product)
{
	static const struct {
		unsigned int metric;
		struct vexfs_build_index build;
		unsigned int copies;
	} of[] = {
		{ VEXFS_METRIC_DOT, { .nbits = 32 }, 2 },
		{ VEXFS_METRIC_COSINE, { .nbits = 32 }, 2 },
		{ VEXFS_METRIC_DOT, { .nbits = 32, .nlist = 1 }, 1 },
		{ VEXFS_METRIC_DOT, { .nbits = 32, .ntables = 1 }, 1 },
		{ VEXFS_METRIC_DOT, { .nbits = 1 }, 1 },
		{ VEXFS_METRIC_L2, { .nbits = 32 }, 1 },
		{ VEXFS_METRIC_L2, { .nsub = 12, .ntables = 2 }, 2 },
	};
	float *rows = new_clustered(1, 0, 500);
	char name[8] = "fN";

	for (unsigned int i = 0; i < sizeof(of) / sizeof(*of); i++) {
		struct vexfs_build_index arg = of[i].build;
		struct vexfs_index_stats st = { 0 };
		int fd;

		name[1] = '0' + i;
		fd = container(name, DIM, of[i].metric);
		OK(insert(fd, rows, NULL, 500));
		arg.size = sizeof(arg);
		arg.index_kind = VEXFS_INDEX_IVF;
		OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg));
		OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
		EXPECT_EQ(of[i].copies, st.ntables) TH_LOG("%u", i);
		EXPECT_EQ(500, st.nodes);
		close(fd);
	}
}

CASE(rows_of_few_lists_are_in_two_if_asked_for)
{
	struct vexfs_build_index arg = { .size = sizeof(arg), .index_kind = VEXFS_INDEX_IVF };
	struct vexfs_create_vector bytes = { .dim = 384, .element_type = VEXFS_ELEMENT_U8, .metric = VEXFS_METRIC_L2 };
	unsigned char rows[20 * 384];
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 20, .vectors = PTR(rows) };
	struct vexfs_index_stats st = { 0 };
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	fill(rows, sizeof(rows), 1, 0);
	OK(create_vector(fd, &bytes));
	OK(batch(fd, &b));
	/* Of so few bytes a list by default: centroids are four times as long. */
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg));
	OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
	EXPECT_EQ(1, st.nlist);
	EXPECT_EQ(1, st.ntables);
	arg.ntables = 2;
	arg.flags = VEXFS_BUILD_REPLACE;
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg));
	OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
	EXPECT_EQ(2, st.nlist);
	EXPECT_EQ(2, st.ntables);
	EXPECT_EQ(20, st.nodes);
	close(fd);
	/* Of none there is nothing to learn from, however many lists they would be in. */
	fd = container("g", DIM, VEXFS_METRIC_L2);
	arg.flags = 0;
	EXPECT_EQ(ENODATA, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	close(fd);
}

CASE(bad_parameters_are_refused)
{
	static const struct vexfs_build_index bad[] = {
		{ .index_kind = VEXFS_INDEX_IVF, .m = 16 },
		{ .index_kind = VEXFS_INDEX_IVF, .ef_construction = 100 },
		{ .index_kind = VEXFS_INDEX_IVF, .ntables = 3 },
		{ .index_kind = VEXFS_INDEX_IVF, .nlist = 1, .ntables = 2 },
		{ .index_kind = VEXFS_INDEX_PQ, .ntables = 1 },
		{ .index_kind = VEXFS_INDEX_PQ, .ntables = 2 },
		{ .index_kind = VEXFS_INDEX_IVF, .nlist = VEXFS_MAX_NLIST + 1 },
		{ .index_kind = VEXFS_INDEX_IVF, .nlist = ~0u },
		{ .index_kind = VEXFS_INDEX_IVF, .nbits = 2 },
		{ .index_kind = VEXFS_INDEX_IVF, .nbits = ~0u },
		{ .index_kind = VEXFS_INDEX_IVF, .nbits = 1, .nsub = 12 },
		{ .index_kind = VEXFS_INDEX_IVF, .nbits = 32, .nsub = 12 },
		{ .index_kind = VEXFS_INDEX_IVF, .nsub = 5 },
		{ .index_kind = VEXFS_INDEX_IVF, .nsub = ~0u },
		{ .index_kind = VEXFS_INDEX_PQ, .nlist = 1 },
		{ .index_kind = VEXFS_INDEX_PQ, .m = 16 },
		{ .index_kind = VEXFS_INDEX_PQ, .nbits = 1 },
		{ .index_kind = VEXFS_INDEX_PQ, .nbits = 32 },
		{ .index_kind = VEXFS_INDEX_PQ, .nbits = 5 },
		{ .index_kind = VEXFS_INDEX_PQ, .nsub = 96 },
		{ .index_kind = VEXFS_INDEX_PQ, .nsub = 7, .nbits = 8 },
		{ .index_kind = VEXFS_INDEX_LSH, .nlist = 1 },
		{ .index_kind = VEXFS_INDEX_LSH, .nsub = 1 },
		{ .index_kind = VEXFS_INDEX_LSH, .m = 16 },
		{ .index_kind = VEXFS_INDEX_LSH, .ntables = VEXFS_MAX_NTABLES + 1 },
		{ .index_kind = VEXFS_INDEX_LSH, .ntables = ~0u },
		{ .index_kind = VEXFS_INDEX_LSH, .nbits = VEXFS_MAX_NBITS + 1 },
		{ .index_kind = VEXFS_INDEX_LSH, .nbits = ~0u },
		{ .index_kind = 6 }, { .index_kind = 0 },
	};
	float *rows = new_clustered(1, 0, 300);
	struct vexfs_hit hit;
	struct vexfs_search s = { .nq = 1, .k = 1, .queries = PTR(rows), .hits = PTR(&hit) };
	int fd = container("f", DIM, VEXFS_METRIC_L2), ro, few, wide;

	OK(insert(fd, rows, NULL, 300));
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct vexfs_build_index arg = bad[i];

		arg.size = sizeof(arg);
		EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg))) TH_LOG("%u", i);
	}
	EXPECT_EQ(0, stats_of(fd).index_count);
	ro = open("f", O_RDONLY);
	FOR_EACH_WAY_OF_CHANGES(way) {
		EXPECT_EQ(EBADF, ERR(build_way(ro, way, 0)));
		s.index_kind = way->build.index_kind;
		EXPECT_EQ(ENOENT, ERR(search(ro, &s)));
		OK(build_way(fd, way, 0));
		OK(search(ro, &s));
		s.nprobe = VEXFS_MAX_NPROBE;
		OK(search(ro, &s));
		EXPECT_EQ(0, hit.row);
		s.nprobe++;
		EXPECT_EQ(EINVAL, ERR(search(ro, &s)));
		s.nprobe = 0;
		s.rerank = VEXFS_MAX_EF + 1;
		EXPECT_EQ(EINVAL, ERR(search(ro, &s)));
		s.rerank = 0;
		OK(drop(fd, way->build.index_kind));
	}
	/* More hash bits than elements. */
	few = container("few", 3, VEXFS_METRIC_L2);
	OK(insert(few, rows, NULL, 10));
	{
		struct vexfs_build_index arg = { .size = sizeof(arg), .nbits = 4,
						 .index_kind = VEXFS_INDEX_LSH };

		EXPECT_EQ(EINVAL, ERR(ioctl(few, VEXFS_IOCTL_BUILD_INDEX, &arg)));
		arg.nbits = 3;
		EXPECT_EQ(0, ERR(ioctl(few, VEXFS_IOCTL_BUILD_INDEX, &arg)));
		/* Rows of 12 bytes have no codes. */
		arg.index_kind = VEXFS_INDEX_IVF;
		arg.nbits = 0;
		EXPECT_EQ(0, ERR(ioctl(few, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	}
	/* The largest dimension that a part is no divisor of. */
	wide = container("wide", 65535, VEXFS_METRIC_L2);
	OK(insert(wide, new_rows(1, 0, 1, 65535), NULL, 1));
	{
		struct vexfs_build_index arg = { .size = sizeof(arg), .nbits = 8,
						 .index_kind = VEXFS_INDEX_PQ };

		EXPECT_EQ(EOPNOTSUPP, ERR(ioctl(wide, VEXFS_IOCTL_BUILD_INDEX, &arg)));
		arg.nsub = 65535;
		EXPECT_EQ(EINVAL, ERR(ioctl(wide, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	}
}

/* A build that takes long: of parts with 256 centroids each. */
static const struct way slow = {
	"slow", { .index_kind = VEXFS_INDEX_PQ, .nsub = DIM, .nbits = 8 },
};

/* Waits until a build by @child is on its way and has trained some, or is over; its state then. */
static unsigned int wait_for_build(int fd, pid_t child, unsigned int trained)
{
	struct vexfs_index_stats st = { 0 };

	WAIT_FOR((!stats_of_kind(fd, VEXFS_INDEX_PQ, &st) && st.trained >= trained) || has_ended(child));
	return st.state;
}

CASE(a_killed_build_leaves_nothing)
{
	unsigned int n = 4 * rows_of_a_test();
	float *rows = new_clustered(1, 0, n);
	struct vexfs_index_stats st = { 0 };
	unsigned int state;
	uint64_t key = 3;
	int fd = container("f", DIM, VEXFS_METRIC_L2), status = 0, busy;
	pid_t child;

	OK(insert(fd, rows, NULL, n));
	for (;; key++) {
		child = fork();
		if (!child)
			_exit(build_way(fd, &slow, 0) ? 1 : 0);
		state = wait_for_build(fd, child, 2);
		busy = ERR(build_way(fd, &slow, 0));
		/* Rows come and go meanwhile. */
		OK(insert(fd, rows, NULL, 1));
		OK(delete_keys(fd, &key, 1));
		ASSERT_EQ(DIM * 4, pwrite(fd, rows, DIM * 4, (key + 4) * DIM * 4));
		kill(child, SIGKILL);
		ASSERT_EQ(child, waitpid(child, &status, 0));
		if (stats_of_kind(fd, VEXFS_INDEX_PQ, &st) || st.state != VEXFS_INDEX_READY)
			break;
		/* It was over before it was killed: once more. */
		OK(drop(fd, VEXFS_INDEX_PQ));
	}
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(VEXFS_INDEX_BUILDING, state);
	EXPECT_EQ(EBUSY, busy);
	EXPECT_EQ(ENOENT, ERR(stats_of_kind(fd, VEXFS_INDEX_PQ, &st)));
	EXPECT_EQ(0, stats_of(fd).index_count);
}

CASE(dropping_an_index_ends_its_build)
{
	unsigned int n = 4 * rows_of_a_test();
	float *rows = new_clustered(1, 0, n);
	struct vexfs_index_stats st = { 0 };
	int fd = container("f", DIM, VEXFS_METRIC_L2), status = 0;
	pid_t child;

	OK(insert(fd, rows, NULL, n));
	/* Until it was not over before that. */
	do {
		child = fork();
		if (!child)
			_exit(build_way(fd, &slow, 0) ? errno == ECANCELED ? 3 : 4 : 5);
		wait_for_build(fd, child, 1);
		OK(drop(fd, VEXFS_INDEX_PQ));
		ASSERT_EQ(child, waitpid(child, &status, 0));
	} while (WIFEXITED(status) && WEXITSTATUS(status) == 5);
	EXPECT_EQ(3, WEXITSTATUS(status));
	EXPECT_EQ(ENOENT, ERR(stats_of_kind(fd, VEXFS_INDEX_PQ, &st)));
}

CASE(a_time_budget_ends_a_search_and_says_so)
{
	unsigned int n = 1000;
	float *rows = new_clustered(1, 0, n);
	struct vexfs_hit *hits = calloc(n, sizeof(*hits));
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	OK(insert(fd, rows, NULL, n));
	FOR_EACH_WAY_OF_CHANGES(way) {
		struct vexfs_search s = wide(way);

		s.nq = n;
		s.k = 1;
		s.queries = PTR(rows);
		s.hits = PTR(hits);
		s.index_kind = way->build.index_kind;
		s.time_budget_ns = 1;
		OK(build_way(fd, way, 0));
		OK(search(fd, &s));
		EXPECT_EQ(VEXFS_OUTCOME_PARTIAL, s.outcome) TH_LOG("%s", way->name);
		OK(drop(fd, s.index_kind));
	}
}

SCRATCH_FIXTURE(scratch)

CASE(threads_make_the_same_lists)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	OK(insert(fd, rows, NULL, n));
	OK(delete_keys(fd, (uint64_t[]){ 0, 64, 65, 900 }, 4));
	FOR_EACH_WAY(way) {
		struct vexfs_build_index arg = way->build;
		unsigned int kind = arg.index_kind;
		struct vexfs_search s = wide(way);
		uint64_t digest = 0;

		/* Of more rows, more seem near. */
		s.rerank *= n / 1000;
		arg.size = sizeof(arg);
		arg.flags = VEXFS_BUILD_REPLACE;
		for (unsigned int threads = 1; threads <= 8; threads *= quick() ? 3 : 2) {
			arg.threads = threads;
			OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg));
			if (threads == 1)
				digest = digest_of_kind(fd, kind);
			EXPECT_NE(0, digest);
			EXPECT_EQ(digest, digest_of_kind(fd, kind)) TH_LOG("%s, %u threads", way->name, threads);
		}
		EXPECT_RECALL_OF(way->least[VEXFS_METRIC_L2], fd, way, queries, &s);
		OK(drop(fd, kind));
	}
	close(fd);
	free(rows);
	free(queries);
}

/* A list is long if its rows are not moved at once. */
CASE(a_long_list_is_compacted_too)
{
	static const struct {
		struct vexfs_build_index build;
		unsigned int rows;
	} long_lists[] = {
		{ { .index_kind = VEXFS_INDEX_PQ }, 70000 },
		{ { .index_kind = VEXFS_INDEX_LSH, .nbits = 1, .ntables = 2 }, 9000 },
	};

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	for (int i = 0; i < 2; i++) {
		struct vexfs_build_index arg = long_lists[i].build;
		struct vexfs_index_check check = { .size = sizeof(check), .index_kind = arg.index_kind };
		const unsigned int n = long_lists[i].rows, gone = n / 12, dim = 4;
		float *rows = new_rows(1, 0, n, dim);
		uint64_t *keys = malloc(gone * sizeof(*keys));
		struct vexfs_index_stats st = { 0 };
		int fd = container("f", dim, VEXFS_METRIC_L2);

		arg.size = sizeof(arg);
		OK(insert(fd, rows, NULL, n));
		OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg));
		for (unsigned int key = 0; key < gone; key++)
			keys[key] = key * 11;
		OK(delete_keys(fd, keys, gone));
		OK(stats_of_kind(fd, arg.index_kind, &st));
		EXPECT_EQ(n - gone, st.nodes);
		/* Holes of a sixteenth of the rows are not kept. */
		EXPECT_EQ(0, st.deleted);
		OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check));
		EXPECT_EQ(0, check.faults + check.wrong_codes + check.wrong_rows);
		close(fd);
		OK(unlink("f"));
		free(rows);
		free(keys);
	}
}

struct changer {
	int fd, error;
	const float *rows;
	volatile int stop;
};

/* Inserts, deletes and overwrites until told to stop. */
static void *change(void *arg)
{
	struct changer *me = arg;
	uint64_t next = 0;

	while (!me->stop && !me->error) {
		const float *rows = me->rows + next % 64 * DIM;

		if (insert(me->fd, rows, NULL, 8) || delete_keys(me->fd, (uint64_t[]){ next }, 1) ||
		    (next % 5 == 0 && pwrite(me->fd, rows, DIM * 4, (next + 1) * DIM * 4) != DIM * 4))
			me->error = errno;
		next++;
	}
	return NULL;
}

CASE(a_check_goes_on_beside_changes)
{
	unsigned int n = rows_of_a_test();
	float *rows = new_clustered(1, 0, n);

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	FOR_EACH_WAY_OF_CHANGES(way) {
		struct changer changer = { .rows = rows };
		pthread_t thread;

		changer.fd = container("f", DIM, VEXFS_METRIC_L2);
		ASSERT_EQ(DIM * 4, stats_of(changer.fd).stride);
		OK(insert(changer.fd, rows, NULL, n));
		OK(build_way(changer.fd, way, 0));
		ASSERT_EQ(0, pthread_create(&thread, NULL, change, &changer));
		for (int i = 0; i < (quick() ? 3 : 10); i++) {
			struct vexfs_index_check check = { .size = sizeof(check),
							   .index_kind = way->build.index_kind };

			EXPECT_EQ(0, ERR(ioctl(changer.fd, VEXFS_IOCTL_CHECK_INDEX, &check)));
			EXPECT_LE(n, check.rows);
			EXPECT_EQ(0, check.faults + check.wrong_codes + check.wrong_rows)
				TH_LOG("%s: %llu faults, %llu codes, %llu rows", way->name, check.faults,
				       check.wrong_codes, check.wrong_rows);
		}
		changer.stop = 1;
		pthread_join(thread, NULL);
		EXPECT_EQ(0, changer.error) TH_LOG("%s", strerror(changer.error));
		OK(unlink("f"));
		close(changer.fd);
	}
	free(rows);
}

static int remount(const char *options)
{
	return mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"),
		     getenv("VEXFS_TEST_FS"), MS_REMOUNT, options);
}

SCRATCH_CASE(index_memory_is_a_ceiling_that_holds)
{
	unsigned int n = 1000, more = 5000;
	float *rows = new_clustered(1, 0, more), *queries = new_clustered(2, 0, NQ);
	struct vexfs_build_index many = { .size = sizeof(many), .index_kind = VEXFS_INDEX_IVF,
					  .nlist = VEXFS_MAX_NLIST };

	if (!self->mounted || !on_vexfs())
		SKIP(return, "not on VexFS");
	FOR_EACH_WAY_OF_CHANGES(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_search s = wide(way);
		struct vexfs_index_stats st = { 0 };
		uint64_t keys[500];
		int fd = container("f", DIM, VEXFS_METRIC_L2);

		OK(insert(fd, rows, NULL, n));
		/* Neither what training needs nor centroids come from nowhere. */
		OK(remount("index_memory=100K"));
		EXPECT_EQ(ENOMEM, ERR(build_way(fd, way, 0))) TH_LOG("%s", way->name);
		OK(remount("index_memory=2M"));
		EXPECT_EQ(ENOMEM, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &many)));
		EXPECT_EQ(ENOENT, ERR(stats_of_kind(fd, kind, &st)));
		EXPECT_EQ(0, stats_of(fd).index_count);
		OK(build_way(fd, way, 0));
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_GT(2 << 20, st.resident_bytes);
		/* Rows come in all the same, and are found. */
		OK(remount("index_memory=1K"));
		for (unsigned int i = n; i < more; i += 500)
			OK(insert(fd, rows + i * DIM, NULL, 500));
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_LE(n, st.watermark);
		/* Without codes all of them fit the chunk that there is. */
		if (kind != VEXFS_INDEX_LSH && way->nbits != 32)
			EXPECT_GT(more, st.watermark) TH_LOG("%s", way->name);
		EXPECT_EQ(st.watermark, st.nodes);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		EXPECT_EQ(NQ * (more - st.watermark), s.rows_exact);
		/* Places of deleted rows are used again, and with more memory the next batch catches up. */
		for (unsigned int i = 0; i < 500; i++)
			keys[i] = i;
		OK(delete_keys(fd, keys, 500));
		OK(insert(fd, rows, NULL, 10));
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		OK(remount("index_memory=64M"));
		OK(insert(fd, rows, NULL, 1));
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(more + 11, st.watermark);
		EXPECT_EQ(more + 11 - 500, st.nodes);
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		OK(unlink("f"));
		close(fd);
	}
	OK(remount(""));
}

TEST_HARNESS_MAIN
