// SPDX-License-Identifier: GPL-2.0
/*
 * Graph indexes over containers of every element type: recall beside an exact
 * oracle, also after rows were inserted, overwritten and deleted, and remounts.
 */
#include "vector_types.h"

VECTOR_FIXTURE(box)
SCRATCH_FIXTURE(scratch)

#define CLUSTERS 30
#define K 10
#define NQ 30

static unsigned int rows_of_a_test(void)
{
	return quick() ? 1200 : 8000;
}

/* Row @row of a mixture of clusters, in the range of the type; a bit in six differs from its cluster's. */
static void make_clustered(const struct rows *r, uint64_t at, uint64_t stream, uint64_t row)
{
	uint64_t state = stream * 0x1234567 + row;
	unsigned int cluster = rnd(&state) % CLUSTERS;

	for (unsigned int i = 0; i < r->dim; i++) {
		float centre = element(99, cluster, i), own = element(stream, row, i);
		float x = r->t->bits == 1 && own > 0.66f ? -centre : 0.7f * centre + 0.3f * own;

		set_bits(r->t, row_of(r, at), i, nearest(r->t, x));
	}
}

static struct rows clustered(const struct type *t, uint64_t stream, uint64_t n, unsigned int dim)
{
	struct rows r = typed_rows(t, stream, n, dim, 0);

	for (uint64_t row = 0; row < n; row++)
		make_clustered(&r, row, stream, row);
	read_numbers(&r, n);
	return r;
}

static int build(int fd, struct vexfs_build_index arg)
{
	arg.size = sizeof(arg);
	arg.index_kind = VEXFS_INDEX_HNSW;
	return ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

/*
 * What a check of the index finds wrong, beyond @lost rows that no walk comes by;
 * or -errno.
 */
static long long findings(int fd, unsigned int lost)
{
	struct vexfs_index_check c = { .size = sizeof(c), .index_kind = VEXFS_INDEX_HNSW };

	if (ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c))
		return -errno;
	return c.faults + c.wrong_codes + c.wrong_rows + c.bad_images +
		(c.unreachable > lost ? c.unreachable : 0);
}

/*
 * Hits of the index as near as the k-th of an oracle, of 1000: of bits and bytes
 * many rows are equally far. 0 if an answer is not one at all: a row that is no
 * more, a distance that is not its own, too few or out of order.
 */
static unsigned int recall(int fd, const struct model *m, const struct rows *queries, struct vexfs_search *s)
{
	struct vexfs_hit hits[NQ * K];
	double *all = malloc(m->n * sizeof(*all)), scale;
	unsigned int good = 0;

	s->nq = NQ;
	s->k = K;
	s->index_kind = VEXFS_INDEX_HNSW;
	s->queries = PTR(queries->bytes);
	s->hits = PTR(hits);
	if (search(fd, s))
		return 0;
	for (unsigned int q = 0; q < NQ; q++) {
		uint64_t n = 0;

		for (uint64_t row = 0; row < m->n; row++)
			if (!m->dead[row])
				all[n++] = oracle(numbers_of(queries, q), m->rows + row * m->dim, m->dim,
						  m->metric, &scale);
		qsort(all, n, sizeof(*all), by_value);
		for (unsigned int i = 0; i < K; i++) {
			struct vexfs_hit *h = &hits[q * K + i];
			double want, tol;

			if (h->row >= m->n || m->dead[h->row])
				return 0;
			want = oracle(numbers_of(queries, q), m->rows + h->row * m->dim, m->dim,
				      m->metric, &scale);
			tol = tolerance(m->dim, scale);
			if (fabs(bits_to_float(h->distance) - want) > tol)
				return 0;
			if (i && bits_to_float(h[-1].distance) > bits_to_float(h->distance))
				return 0;
			for (unsigned int j = 0; j < i; j++)
				if (hits[q * K + j].row == h->row)
					return 0;
			good += want <= all[K - 1] + 2 * tol;
		}
	}
	free(all);
	return 1000 * good / (NQ * K);
}

#define EXPECT_RECALL(least, when) do {					\
	unsigned int recall_ = recall(fd, &m, &queries, &s);		\
	TH_LOG("%s %s %s: recall@10 %u of 1000, %llu distances", t->name,	\
	       metric_names[metric], when, recall_, (unsigned long long)s.distances); \
	EXPECT_LE(least, recall_);					\
	/* By the graph, not by comparing everything. */		\
	EXPECT_LT(0, s.hops);						\
	EXPECT_EQ(0, s.rows_exact);					\
	EXPECT_GT(NQ * m.n * 3 / 4, s.distances);			\
} while (0)

static void one(struct __test_metadata *_metadata, const struct type *t, unsigned int metric)
{
	unsigned int n = rows_of_a_test(), built = n * 2 / 3, dim = t->bits == 1 ? 250 : 48;
	struct rows rows = clustered(t, 1, n + 50, dim), queries = clustered(t, 2, NQ, dim);
	bool *dead = calloc(n + 50, sizeof(*dead));
	uint64_t *gone = malloc(n * sizeof(*gone));
	struct model m = { dim, metric, built, rows.numbers, NULL, dead };
	struct vexfs_create_vector arg = { 0 };
	struct vexfs_index_stats st = { .size = sizeof(st), .index_kind = VEXFS_INDEX_HNSW };
	struct vexfs_search s = { .ef = 48 };
	struct vexfs_batch b = {
		.op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_BY_ROW, .rows = PTR(gone),
	};
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "%s.%u", t->name, metric);
	fd = typed_container(name, t, dim, metric, &arg);
	ASSERT_LE(0, fd);
	OK(insert_rows(fd, &rows, 0, built, NULL));
	OK(build(fd, (struct vexfs_build_index){ 0 }));
	EXPECT_EQ(0, findings(fd, 0));
	EXPECT_RECALL(900, "built");
	/* Inserts join the graph, */
	OK(insert_rows(fd, &rows, built, n - built, NULL));
	m.n = n;
	EXPECT_RECALL(900, "and inserted");
	/* rows that are gone leave it, */
	for (unsigned int row = 3; row < n; row += 5) {
		gone[b.count++] = row;
		dead[row] = true;
	}
	OK(batch(fd, &b));
	/* and those overwritten get the codes of what they are now. */
	for (unsigned int row = 100; row < 120; row++)
		make_clustered(&rows, row, 7, row);
	read_numbers(&rows, n);
	for (unsigned int row = 100; row < 120; row++) {
		unsigned char padded[4096] = { 0 };

		memcpy(padded, row_of(&rows, row), rows.stride);
		ASSERT_EQ(arg.stride, pwrite(fd, padded, arg.stride, (off_t)row * arg.stride));
	}
	EXPECT_RECALL(900, "and changed");
	OK(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st));
	EXPECT_EQ(n - b.count, st.nodes);
	EXPECT_EQ(n, st.watermark);
	/*
	 * Codes are those of the rows as they are now. By inner products, a few short
	 * rows are far from all others, and lost by changes until the next image.
	 */
	EXPECT_EQ(0, findings(fd, metric == VEXFS_METRIC_DOT ? n / 200 : 0))
		TH_LOG("%s %s", t->name, metric_names[metric]);
	close(fd);
	free_rows(&rows);
	free_rows(&queries);
	free(dead);
	free(gone);
}

#define INDEX_CASE(which, name)						\
CASE(name##_rows_are_found_by_a_graph)					\
{									\
	const struct type *t = &types[which];				\
									\
	/* Those before have elements of the same length. */		\
	if (quick() && (which) && types[(which) - !!(which)].bits == t->bits)	\
		return;							\
	for (unsigned int metric = VEXFS_METRIC_L2; metric <= last_metric(t); metric++) \
		one(_metadata, t, metric);				\
}
INDEX_CASE(0, f32)
INDEX_CASE(1, f16)
INDEX_CASE(2, bf16)
INDEX_CASE(3, i8)
INDEX_CASE(4, u8)
INDEX_CASE(5, binary)

static struct vexfs_index_stats graph_stats(int fd)
{
	struct vexfs_index_stats st = {
		.size = sizeof(st), .index_kind = VEXFS_INDEX_HNSW, .flags = VEXFS_INDEX_STATS_DIGEST,
	};

	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st))
		st.state = 0;
	return st;
}

/*
 * Whole elements of a row as codes, or rounded ones, are as good as any, by every
 * metric. Each type has those that fit it and no others.
 */
CASE(whole_elements_are_codes)
{
	enum { N = 400, DIM = 48 };
	static const struct { int type; unsigned int nbits; } ways[] = {
		{ 0, 32 }, { 0, 16 }, { 0, VEXFS_NBITS_F16 }, { 1, 16 }, { 2, 16 },
	};
	static const unsigned int none[TYPES][6] = {
		{ 2, 17, 31, 33, 64, 0x120 }, { 32, VEXFS_NBITS_F16, 17 }, { 32, VEXFS_NBITS_F16, 64 },
		{ 16, 32, VEXFS_NBITS_F16 }, { 16, 32, VEXFS_NBITS_F16 }, { 8, 16, 32, VEXFS_NBITS_F16 },
	};

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	for (int way = 0; way < TYPES; way++) {
		struct vexfs_create_vector arg = { 0 };
		int fd = typed_container("none", &types[way], DIM, VEXFS_METRIC_L2, &arg);

		for (int i = 0; i < 6 && none[way][i]; i++) {
			EXPECT_EQ(EINVAL, ERR(build(fd, (struct vexfs_build_index){ .nbits = none[way][i] })))
				TH_LOG("%s, %u bits", types[way].name, none[way][i]);
		}
		close(fd);
		OK(unlink("none"));
	}
	for (int way = 0; way < 5; way++) {
		const struct type *t = &types[ways[way].type];
		struct rows rows = clustered(t, 1, N, DIM), queries = clustered(t, 2, NQ, DIM);
		bool dead[N] = { false };

		for (unsigned int metric = VEXFS_METRIC_L2; metric <= VEXFS_METRIC_DOT; metric++) {
			struct model m = { DIM, metric, N, rows.numbers, NULL, dead };
			struct vexfs_create_vector arg = { 0 };
			struct vexfs_search s = { .ef = 32 };
			unsigned int nodes = N * (4 * (DIM * (ways[way].nbits & 0xff) / 32 + 37) + 4);
			struct vexfs_index_stats st;
			int fd = typed_container("f", t, DIM, metric, &arg);

			ASSERT_LE(0, fd);
			/* No rows tell it nothing that it would want to know of them. */
			OK(build(fd, (struct vexfs_build_index){ .nbits = ways[way].nbits,
				.ef_construction = 40 }));
			OK(insert_rows(fd, &rows, 0, N, NULL));
			st = graph_stats(fd);
			EXPECT_EQ(VEXFS_INDEX_READY, st.state);
			EXPECT_EQ(ways[way].nbits, st.nbits);
			EXPECT_EQ(16, st.m);
			EXPECT_EQ(N, st.nodes);
			EXPECT_LT(nodes, st.resident_bytes);
			EXPECT_GT(2 * nodes + (3 << 20), st.resident_bytes);
			EXPECT_RECALL(970, "whole");
			EXPECT_EQ(0, findings(fd, N / 100));
			close(fd);
			OK(unlink("f"));
		}
		free_rows(&rows);
		free_rows(&queries);
	}
}

/* With codes of the default's bits, and of others, also of nodes longer than a block. */
SCRATCH_CASE(graphs_of_every_type_are_the_same_after_a_remount)
{
	enum { N = 1000, WAYS = TYPES + 6 };
	static const struct { int type; unsigned int nbits, dim; } other[] = {
		{ 0, 1, 192 }, { 0, 8, 192 }, { 1, 4, 192 }, { 3, 1, 192 }, { 0, VEXFS_NBITS_F16, 192 }, { 0, 32, 1001 },
	};
	uint64_t digests[WAYS];
	char name[24];

	NEED_VEXFS();
	for (int way = 0; way < WAYS; way++) {
		const struct type *t = &types[way < TYPES ? way : other[way - TYPES].type];
		unsigned int nbits = way < TYPES ? 0 : other[way - TYPES].nbits;
		unsigned int dim = way < TYPES ? 192 : other[way - TYPES].dim;
		unsigned int n = dim > 192 ? 250 : quick() ? 400 : N;
		struct rows rows = clustered(t, 1, n, dim);
		struct vexfs_create_vector arg = { 0 };
		struct vexfs_index_stats st;
		int fd;

		snprintf(name, sizeof(name), "%s%u.%u", t->name, nbits, dim);
		fd = typed_container(name, t, dim, VEXFS_METRIC_COSINE, &arg);
		ASSERT_LE(0, fd);
		OK(insert_rows(fd, &rows, 0, n, NULL));
		OK(build(fd, (struct vexfs_build_index){ .nbits = nbits }));
		if (t->bits == 1)
			EXPECT_EQ(EINVAL, ERR(build(fd, (struct vexfs_build_index){
				.nbits = 4, .flags = VEXFS_BUILD_REPLACE })));
		st = graph_stats(fd);
		digests[way] = st.digest;
		EXPECT_NE(0, st.digest);
		EXPECT_EQ(nbits ?: t->bits == 1 || t->bits == 16 ? 1 : 4, st.nbits) TH_LOG("%s", name);
		close(fd);
		free_rows(&rows);
	}
	OK(scratch_cycle());
	for (int way = 0; way < WAYS; way++) {
		const struct type *t = &types[way < TYPES ? way : other[way - TYPES].type];
		unsigned int nbits = way < TYPES ? 0 : other[way - TYPES].nbits;
		unsigned int dim = way < TYPES ? 192 : other[way - TYPES].dim;
		unsigned int n = dim > 192 ? 250 : quick() ? 400 : N;
		struct rows rows = clustered(t, 1, n, dim), queries = clustered(t, 2, NQ, dim);
		bool dead[N] = { false };
		struct model m = { dim, VEXFS_METRIC_COSINE, n, rows.numbers, NULL, dead };
		struct vexfs_search s = { .ef = 48 };
		struct vexfs_index_stats st;
		unsigned int found;
		int fd;

		snprintf(name, sizeof(name), "%s%u.%u", t->name, nbits, dim);
		fd = open(name, O_RDWR);
		found = recall(fd, &m, &queries, &s);
		/* Loaded by the search: built again it would not be there at once. */
		EXPECT_LE(900, found) TH_LOG("%s: recall@10 %u of 1000", name, found);
		EXPECT_LT(0, s.hops);
		EXPECT_EQ(0, s.rows_exact);
		st = graph_stats(fd);
		EXPECT_EQ(digests[way], st.digest) TH_LOG("%s", name);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(0, findings(fd, 0)) TH_LOG("%s", name);
		close(fd);
		free_rows(&rows);
		free_rows(&queries);
	}
}

/* Rows that are all on one side of the origin want codes around their mean, which nobody knows of no rows. */
CASE(a_graph_made_for_no_rows_is_made_anew_once_there_are_some)
{
	enum { N = 600, FEW = 300, DIM = 96 };
	const struct type *t = &types[4];
	struct rows rows = clustered(t, 1, N, DIM);
	uint64_t digests[2];

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	for (int before = 0; before < 2; before++) {
		struct vexfs_create_vector arg = { 0 };
		struct vexfs_index_stats st;
		int fd = typed_container(before ? "before" : "after", t, DIM, VEXFS_METRIC_DOT, &arg);

		ASSERT_LE(0, fd);
		if (before)
			OK(build(fd, (struct vexfs_build_index){ 0 }));
		OK(insert_rows(fd, &rows, 0, FEW, NULL));
		if (!before)
			OK(build(fd, (struct vexfs_build_index){ 0 }));
		while (st = graph_stats(fd), st.state == VEXFS_INDEX_REBUILDING)
			usleep(10000);
		OK(insert_rows(fd, &rows, FEW, N - FEW, NULL));
		st = graph_stats(fd);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(N, st.nodes);
		EXPECT_EQ(0, findings(fd, N));
		digests[before] = st.digest;
		close(fd);
	}
	EXPECT_EQ(digests[0], digests[1]);
	free_rows(&rows);
}

/*
 * Rows of bits are their own codes, so rows that come one after another make the graph that a build makes,
 * with its nodes in the order of the rows. A build moves neighbours together.
 */
CASE(a_build_moves_neighbours_together)
{
	enum { DIM = 250 };
	const struct type *t = &types[5];
	unsigned int n = rows_of_a_test(), metric = VEXFS_METRIC_HAMMING;
	struct rows rows = clustered(t, 1, n, DIM), queries = clustered(t, 2, NQ, DIM);
	bool *dead = calloc(n, sizeof(*dead));
	struct model m = { DIM, metric, n, rows.numbers, NULL, dead };
	struct vexfs_create_vector arg = { 0 };
	struct vexfs_search s = { .ef = 48 };
	struct vexfs_index_stats came, built;
	int fd = typed_container("f", t, DIM, metric, &arg);

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	OK(build(fd, (struct vexfs_build_index){ 0 }));
	OK(insert_rows(fd, &rows, 0, n, NULL));
	came = graph_stats(fd);
	EXPECT_EQ(n, came.nodes);
	EXPECT_RECALL(900, "in the order of rows");
	OK(build(fd, (struct vexfs_build_index){ .flags = VEXFS_BUILD_REPLACE }));
	built = graph_stats(fd);
	EXPECT_EQ(n, built.nodes);
	EXPECT_NE(came.digest, built.digest);
	EXPECT_RECALL(900, "in the order of the graph");
	EXPECT_EQ(0, findings(fd, 0));
	/* The same graph has the same order. */
	OK(build(fd, (struct vexfs_build_index){ .flags = VEXFS_BUILD_REPLACE }));
	EXPECT_EQ(built.digest, graph_stats(fd).digest);
	close(fd);
	free_rows(&rows);
	free_rows(&queries);
	free(dead);
}

/* Of many rows a sample is looked at, and it must not be that none of it is left. */
CASE(a_graph_knows_the_mean_of_rows_of_which_every_other_one_is_deleted)
{
	enum { N = 10002 };
	struct rows rows = typed_rows(&types[0], 1, N, 4, 0);
	uint64_t *gone = malloc(N / 2 * sizeof(*gone));
	struct vexfs_batch b = {
		.op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_BY_ROW, .rows = PTR(gone), .count = N / 2,
	};
	struct vexfs_create_vector arg = { 0 };
	int fd = typed_container("f", &types[0], 4, VEXFS_METRIC_L2, &arg);

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	OK(insert_rows(fd, &rows, 0, N, NULL));
	for (uint64_t i = 0; i < N / 2; i++)
		gone[i] = 2 * i;
	OK(batch(fd, &b));
	OK(build(fd, (struct vexfs_build_index){ .m = 4, .ef_construction = 8 }));
	/* A graph that knows of no rows is built anew. */
	OK(insert_rows(fd, &rows, 0, 1, NULL));
	EXPECT_EQ(VEXFS_INDEX_READY, graph_stats(fd).state);
	close(fd);
	free_rows(&rows);
	free(gone);
}

/* As long as rows may be for an index, and one element longer. */
CASE(rows_too_long_for_an_index_are_told)
{
	static const struct { int type; unsigned int nbits, most; } ways[] = {
		{ 0, 0, 31872 }, { 1, 0, 31872 }, { 2, 0, 31872 }, { 3, 0, 31872 }, { 4, 0, 31872 },
		{ 5, 0, VEXFS_MAX_DIM }, { 0, 4, 7936 }, { 0, 8, 3968 }, { 0, 16, 8192 }, { 0, 32, 4096 },
	};

	for (unsigned int way = 0; way < sizeof(ways) / sizeof(*ways); way++) {
		const struct type *t = &types[ways[way].type];
		unsigned int most = ways[way].most;

		/* The first five have the same code. */
		if (quick() && way && way < 5)
			continue;
		for (unsigned int dim = most; dim <= most + 1 && dim <= VEXFS_MAX_DIM; dim++) {
			struct rows rows = clustered(t, 1, 40, dim);
			struct vexfs_create_vector arg = { 0 };
			bool dead[40] = { false };
			int fd = typed_container("f", t, dim, VEXFS_METRIC_L2, &arg);

			ASSERT_LE(0, fd);
			OK(insert_rows(fd, &rows, 0, 40, NULL));
			EXPECT_EQ(dim == most ? 0 : EOPNOTSUPP,
				  ERR(build(fd, (struct vexfs_build_index){ .nbits = ways[way].nbits })))
				TH_LOG("%s, %u elements, %u bits", t->name, dim, ways[way].nbits);
			if (dim == most) {
				struct model m = { dim, VEXFS_METRIC_L2, 40, rows.numbers, NULL, dead };
				struct vexfs_search s = { .index_kind = VEXFS_INDEX_HNSW, .ef = 40, .rerank = 40 };

				EXPECT_TYPED_SEARCH(fd, &m, &rows, 5, 40, &s);
			}
			close(fd);
			OK(unlink("f"));
			free_rows(&rows);
		}
	}
}

TEST_HARNESS_MAIN
