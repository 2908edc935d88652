// SPDX-License-Identifier: GPL-2.0
/*
 * SIMILARITY_SEARCH, exact: every metric against an oracle in double precision,
 * filters, many queries, and bad arguments.
 */
#include "vector_test.h"

VECTOR_FIXTURE(box)

/* Every metric at dimensions around the vector widths. */
FIXTURE(exact) { char path[PATH_MAX]; };
FIXTURE_VARIANT(exact) { unsigned int metric, dim; };
#define EXACT(dim) \
	FIXTURE_VARIANT_ADD(exact, l2_##dim) { VEXFS_METRIC_L2, dim }; \
	FIXTURE_VARIANT_ADD(exact, cosine_##dim) { VEXFS_METRIC_COSINE, dim }; \
	FIXTURE_VARIANT_ADD(exact, dot_##dim) { VEXFS_METRIC_DOT, dim }
EXACT(1);
EXACT(7);
EXACT(8);
EXACT(33);
EXACT(128);
EXACT(384);
EXACT(1537);
VECTOR_SETUP(exact)
BOX_TEARDOWN(exact)

TEST_F_TIMEOUT(exact, search_agrees_with_the_oracle, CASE_SECONDS)
{
	unsigned int dim = variant->dim, n = dim > 1000 ? 300 : 1500;
	float *rows = new_rows(1, 0, n, dim), *query = new_rows(2, 0, 5, dim);
	struct model m = { dim, variant->metric, n, rows };
	int fd = container("f", dim, variant->metric);
	struct vexfs_search s = { 0 };

	OK(insert(fd, rows, NULL, n));
	for (int q = 0; q < 5; q++) {
		EXPECT_SEARCH(fd, &m, query + q * dim, 10, &s);
	}
	/* A row finds itself. */
	EXPECT_SEARCH(fd, &m, rows + (n / 2) * dim, 1, &s);
	s.index_kind = VEXFS_INDEX_EXACT;
	EXPECT_SEARCH(fd, &m, query, 100, &s);
	EXPECT_SEARCH(fd, &m, query, n, &s);
	EXPECT_LE(n, s.rows_exact);
	EXPECT_LE(n, s.distances);
	EXPECT_EQ(0, s.hops);
	EXPECT_EQ(0, s.outcome);
}

/* Exact arithmetic leaves no excuse: every bit and every tie is fixed. */
TEST_F_TIMEOUT(exact, integers_give_exact_distances_and_ties_by_key, CASE_SECONDS)
{
	unsigned int dim = variant->dim, n = 600;
	float *rows = new_integer_rows(3, n, dim), *query = new_integer_rows(4, 1, dim);
	uint64_t *keys = malloc(n * 8);
	struct vexfs_hit *hits = calloc(n, sizeof(*hits));
	struct vexfs_search s = { .nq = 1, .k = n, .queries = PTR(query), .hits = PTR(hits) };
	struct model m = { dim, variant->metric, n, rows, keys };
	int fd = container("f", dim, variant->metric);
	double scale;

	/* Keys run against rows, so that the order of ties shows. */
	for (unsigned int i = 0; i < n; i++)
		keys[i] = 10 * (n - i);
	OK(insert(fd, rows, keys, n));
	OK(search(fd, &s));
	ASSERT_STREQ("right", wrong_answer(&m, query, hits, n, -1, INFINITY) ?: "right");
	for (unsigned int i = 0; i < n && variant->metric != VEXFS_METRIC_COSINE; i++) {
		double want = oracle(query, rows + hits[i].row * dim, dim, variant->metric, &scale);

		ASSERT_EQ(float_to_bits(want + 0.0), float_to_bits(bits_to_float(hits[i].distance) + 0.0f)) {
			TH_LOG("row %llu", (unsigned long long)hits[i].row);
		}
	}
}

/* What the processor has is the runner's to know: VEXFS_TEST_ISA is its name. */
CASE(the_instruction_set_is_the_one_asked_for)
{
	const char *options = getenv("VEXFS_TEST_OPTIONS"), *wanted = getenv("VEXFS_TEST_ISA");
	int isa = instruction_set_of(container("f", 8, VEXFS_METRIC_L2));

	ASSERT_LE(0, isa);
	TH_LOG("instruction set %s", instruction_sets[isa].name);
	EXPECT_TRUE(instruction_sets[isa].here);
	if (options && strstr(options, "simd="))
		wanted = strstr(options, "simd=") + strlen("simd=");
	if (wanted)
		EXPECT_STREQ(wanted, instruction_sets[isa].name);
}

CASE(k_beyond_the_rows_marks_the_rest)
{
	float *rows = new_rows(1, 0, 5, 8);
	struct model m = { 8, VEXFS_METRIC_L2, 5, rows }, none = { 8, VEXFS_METRIC_L2 };
	int fd = container("f", 8, VEXFS_METRIC_L2);
	struct vexfs_search s = { 0 };

	EXPECT_SEARCH(fd, &none, rows, 3, &s);
	OK(insert(fd, rows, NULL, 5));
	EXPECT_SEARCH(fd, &m, rows, 4, &s);
	EXPECT_SEARCH(fd, &m, rows, 5, &s);
	EXPECT_SEARCH(fd, &m, rows, 6, &s);
	EXPECT_SEARCH(fd, &m, rows, VEXFS_MAX_K, &s);
}

CASE(zero_vectors_are_at_one_by_cosine)
{
	float *rows = new_rows(1, 0, 20, 16), zero[16] = { 0 };
	struct model m = { 16, VEXFS_METRIC_COSINE, 20, rows };
	struct vexfs_hit hits[20];
	struct vexfs_search s = { .nq = 1, .k = 20, .queries = PTR(zero), .hits = PTR(hits) };
	int fd = container("f", 16, VEXFS_METRIC_COSINE);

	memset(rows + 7 * 16, 0, 64);
	OK(insert(fd, rows, NULL, 20));
	OK(search(fd, &s));
	for (int i = 0; i < 20; i++) {
		EXPECT_EQ(float_to_bits(1), hits[i].distance);
		EXPECT_EQ(i, hits[i].key);
	}
	EXPECT_SEARCH(fd, &m, rows, 20, &s);
}

CASE(parallel_vectors_are_at_zero_by_cosine_whatever_their_length)
{
	float rows[6 * 16], base[16];
	struct vexfs_hit hits[6];
	struct vexfs_search s = { .nq = 1, .k = 6, .queries = PTR(base), .hits = PTR(hits) };
	static const float length[] = { 1, 1000, 1e-3f, 1e10f, 1e-10f, -1 };
	int fd = container("f", 16, VEXFS_METRIC_COSINE);

	make_rows(base, 1, 0, 1, 16);
	for (int r = 0; r < 6; r++)
		for (int i = 0; i < 16; i++)
			rows[r * 16 + i] = base[i] * length[r];
	OK(insert(fd, rows, NULL, 6));
	OK(search(fd, &s));
	for (int i = 0; i < 5; i++) {
		EXPECT_GT(1e-5f, fabsf(bits_to_float(hits[i].distance)));
	}
	EXPECT_EQ(5, hits[5].row);
	EXPECT_GT(1e-5f, fabsf(bits_to_float(hits[5].distance) - 2));
}

CASE(distances_that_overflow_are_ordered_and_not_nan)
{
	float rows[4 * 8], query[8];
	struct vexfs_hit hits[4];
	struct vexfs_search s = { .nq = 1, .k = 4, .queries = PTR(query), .hits = PTR(hits) };

	for (int i = 0; i < 8; i++) {
		rows[i] = 3e38f;
		rows[8 + i] = -3e38f;
		rows[16 + i] = i % 2 ? 3e38f : -3e38f;
		rows[24 + i] = 1;
		query[i] = 3e38f;
	}
	for (int metric = VEXFS_METRIC_L2; metric <= VEXFS_METRIC_DOT; metric++) {
		char name[2] = { 'a' + metric };
		int fd = container(name, 8, metric);
		bool seen[4] = { 0 };

		OK(insert(fd, rows, NULL, 4));
		OK(search(fd, &s));
		for (int i = 0; i < 4; i++) {
			ASSERT_GT(4, hits[i].row);
			EXPECT_FALSE(seen[hits[i].row]);
			seen[hits[i].row] = true;
			if (i && metric != VEXFS_METRIC_COSINE) {
				EXPECT_LE(bits_to_float(hits[i - 1].distance),
					  bits_to_float(hits[i].distance));
			}
		}
	}
}

CASE(deleted_and_replaced_rows_are_not_found)
{
	unsigned int n = 500, dim = 24;
	float *rows = new_rows(1, 0, n + 50, dim);
	uint64_t keys[550], gone[100];
	bool dead[550] = { 0 };
	struct model m = { dim, VEXFS_METRIC_L2, n + 50, rows, keys, dead };
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 50,
				 .vectors = PTR(rows + n * dim), .keys = PTR(keys + n) };
	int fd = container("f", dim, VEXFS_METRIC_L2);
	struct vexfs_search s = { 0 };

	for (unsigned int i = 0; i < n; i++)
		keys[i] = i + 1000;
	for (unsigned int i = 0; i < 100; i++) {
		gone[i] = keys[i * 3];
		dead[i * 3] = true;
	}
	for (unsigned int i = 0; i < 50; i++) {
		keys[n + i] = keys[i * 3 + 301];
		dead[i * 3 + 301] = true;
	}
	OK(insert(fd, rows, keys, n));
	OK(delete_keys(fd, gone, 100));
	OK(batch(fd, &b));
	EXPECT_EQ(n - 100, stats_of(fd).live);
	for (int q = 0; q < 6; q++) {
		EXPECT_SEARCH(fd, &m, rows + q * 3 * dim, 20, &s);
	}
	EXPECT_SEARCH(fd, &m, rows, 550, &s);
}

CASE(a_search_sees_every_acknowledged_insert)
{
	unsigned int dim = 16;
	float *rows = new_rows(1, 0, 200, dim);
	int fd = container("f", dim, VEXFS_METRIC_L2), other = open("f", O_RDONLY);
	struct vexfs_search s = { 0 };

	for (unsigned int n = 1; n <= 200; n++) {
		struct model m = { dim, VEXFS_METRIC_L2, n, rows };

		OK(insert(fd, rows + (n - 1) * dim, NULL, 1));
		EXPECT_SEARCH(other, &m, rows + (n - 1) * dim, 3, &s);
	}
}

CASE(many_queries_in_one_call)
{
	enum { N = 400, DIM = 20, NQ = 70, K = 7, WIDE = 23 };
	float *rows = new_rows(1, 0, N, DIM), *queries = new_rows(2, 0, NQ, WIDE);
	struct vexfs_hit *hits = calloc(NQ * K, sizeof(*hits));
	uint32_t counts[NQ];
	struct model m = { DIM, VEXFS_METRIC_DOT, N, rows };
	struct vexfs_search s = { .nq = NQ, .k = K, .queries = PTR(queries),
		.query_stride = WIDE * 4, .hits = PTR(hits), .counts = PTR(counts) };
	int fd = container("f", DIM, VEXFS_METRIC_DOT);

	OK(insert(fd, rows, NULL, N));
	OK(search(fd, &s));
	for (int q = 0; q < NQ; q++) {
		EXPECT_STREQ("right", wrong_answer(&m, queries + q * WIDE, hits + q * K, K,
						   counts[q], INFINITY) ?: "right");
	}
	EXPECT_EQ(NQ * N, s.rows_exact);
	EXPECT_EQ(NQ, stats_of(fd).searches);
	s.counts = 0;
	s.query_stride = 0;
	OK(search(fd, &s));
	for (int q = 0; q < NQ; q++) {
		EXPECT_STREQ("right", wrong_answer(&m, queries + q * DIM, hits + q * K, K,
						   -1, INFINITY) ?: "right");
	}
	EXPECT_EQ(2 * NQ, stats_of(fd).searches);
	s.query_stride = DIM * 4 - 4;
	EXPECT_EQ(EINVAL, ERR(search(fd, &s)));
}

/* Filters: 300 rows with tags and odd keys, of which some are deleted. */
FIXTURE(filtered) {
	char path[PATH_MAX];
	int fd;
	float *rows, *query;
	uint64_t keys[300], tags[300];
	bool dead[300];
	struct model model;
};
FIXTURE_SETUP(filtered)
{
	struct vexfs_batch b;

	VECTOR_ENTER();
	self->fd = container("f", 12, VEXFS_METRIC_L2);
	ASSERT_LE(0, self->fd);
	self->rows = new_rows(1, 0, 300, 12);
	self->query = new_rows(2, 0, 1, 12);
	for (int i = 0; i < 300; i++) {
		self->keys[i] = 5000 - i * 3;
		self->tags[i] = (uint64_t)i << 56 | (i & 255);
		self->dead[i] = false;
	}
	self->model = (struct model){ 12, VEXFS_METRIC_L2, 300, self->rows, self->keys, self->dead };
	b = (struct vexfs_batch){ .op = VEXFS_OP_INSERT, .count = 300, .vectors = PTR(self->rows),
		.keys = PTR(self->keys), .tags = PTR(self->tags) };
	OK(batch(self->fd, &b));
	for (int i = 0; i < 300; i += 11) {
		OK(delete_keys(self->fd, &self->keys[i], 1));
		self->dead[i] = true;
	}
}
BOX_TEARDOWN(filtered)

#define FILTERED(name) TEST_F_TIMEOUT(filtered, name, CASE_SECONDS)

FILTERED(by_all_tags)
{
	struct vexfs_search s = { .flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = 5 | 1ull << 57 };

	for (int i = 0; i < 300; i++)
		self->dead[i] |= (self->tags[i] & s.tags_all) != s.tags_all;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 30, &s);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
	s.tags_all = 1ull << 20;
	memset(self->dead, 1, sizeof(self->dead));
	EXPECT_SEARCH(self->fd, &self->model, self->query, 5, &s);
}

FILTERED(by_all_of_no_tags_is_no_filter)
{
	struct vexfs_search s = { .flags = VEXFS_SEARCH_TAGS_ALL };

	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
}

FILTERED(by_any_tag)
{
	struct vexfs_search s = { .flags = VEXFS_SEARCH_TAGS_ANY, .tags_any = 0x82 };

	for (int i = 0; i < 300; i++)
		self->dead[i] |= !(self->tags[i] & s.tags_any);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 10, &s);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
	s.tags_any = 0;
	memset(self->dead, 1, sizeof(self->dead));
	EXPECT_SEARCH(self->fd, &self->model, self->query, 5, &s);
}

FILTERED(by_row_bitmap)
{
	uint64_t bitmap[5] = { 0x123456789abcdef1, 0, ~0ull, 0x8000000000000001, ~0ull };
	struct vexfs_search s = { .flags = VEXFS_SEARCH_ROW_BITMAP, .row_bitmap = PTR(bitmap),
				  .row_bitmap_rows = 300 };

	for (int i = 0; i < 300; i++)
		self->dead[i] |= !(bitmap[i / 64] >> i % 64 & 1);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
	/* Rows beyond the bitmap are not hits, whatever its last word says. */
	s.row_bitmap_rows = 140;
	for (int i = 140; i < 300; i++)
		self->dead[i] = true;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
}

FILTERED(by_a_bitmap_longer_than_the_container)
{
	uint64_t *bitmap = malloc(1 << 16);
	struct vexfs_search s = { .flags = VEXFS_SEARCH_ROW_BITMAP, .row_bitmap = PTR(bitmap),
				  .row_bitmap_rows = 8 << 16 };

	memset(bitmap, 0xff, 1 << 16);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
}

FILTERED(by_keys)
{
	/* Present, deleted, missing and repeated keys, in no order. */
	uint64_t keys[] = { self->keys[200], 1, self->keys[11], self->keys[5], self->keys[299],
			    self->keys[5], ~0ull - 1, 0 };
	struct vexfs_search s = { .flags = VEXFS_SEARCH_KEYS, .filter_keys = PTR(keys),
				  .filter_key_count = 8 };

	for (int i = 0; i < 300; i++)
		self->dead[i] |= i != 200 && i != 5 && i != 299;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 2, &s);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 10, &s);
}

FILTERED(by_many_keys)
{
	uint64_t *keys = malloc(100000 * 8);
	struct vexfs_search s = { .flags = VEXFS_SEARCH_KEYS, .filter_keys = PTR(keys),
				  .filter_key_count = 100000 };

	for (int i = 0; i < 100000; i++)
		keys[i] = 100000 - i;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
}

FILTERED(by_radius)
{
	struct vexfs_search s = { .flags = VEXFS_SEARCH_RADIUS, .radius = float_to_bits(5.5f) };

	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
	s.radius = float_to_bits(0);
	EXPECT_SEARCH(self->fd, &self->model, self->rows + 12, 10, &s);
	s.radius = float_to_bits(-1);
	EXPECT_SEARCH(self->fd, &self->model, self->query, 10, &s);
	s.radius = 0x7f800000;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
	s.radius = 0x7fc00000;
	EXPECT_STREQ(strerror(EINVAL), search_is_wrong(self->fd, &self->model, self->query, 10, &s) ?: "");
}

FILTERED(by_everything_at_once)
{
	uint64_t bitmap[5] = { ~0ull, ~0ull, ~0ull, 0, 0 }, keys[150];
	struct vexfs_search s = {
		.flags = VEXFS_SEARCH_TAGS_ALL | VEXFS_SEARCH_TAGS_ANY | VEXFS_SEARCH_KEYS |
			 VEXFS_SEARCH_ROW_BITMAP | VEXFS_SEARCH_RADIUS,
		.tags_all = 1, .tags_any = 0x60, .row_bitmap = PTR(bitmap), .row_bitmap_rows = 300,
		.filter_keys = PTR(keys), .filter_key_count = 150, .radius = float_to_bits(9),
	};

	for (int i = 0; i < 150; i++)
		keys[i] = self->keys[i];
	for (int i = 0; i < 300; i++)
		self->dead[i] |= !(i & 1) || !(i & 0x60) || i >= 150;
	EXPECT_SEARCH(self->fd, &self->model, self->query, 300, &s);
}

FILTERED(with_bad_arguments)
{
	struct vexfs_hit hits[2];
	struct vexfs_search good = { .nq = 1, .k = 2, .queries = PTR(self->query),
				     .hits = PTR(hits) }, s;
	uint64_t one = 1;
	int err;

	s = good;
	s.flags = VEXFS_SEARCH_KEYS;
	s.filter_keys = PTR(&one);
	EXPECT_EQ(EINVAL, ERR(search(self->fd, &s)));
	s.filter_key_count = VEXFS_MAX_FILTER_KEYS + 1;
	err = ERR(search(self->fd, &s));
	EXPECT_TRUE(err == EINVAL || err == E2BIG) TH_LOG("%s", strerror(err));
	s.filter_key_count = ~0ull;
	err = ERR(search(self->fd, &s));
	EXPECT_TRUE(err == EINVAL || err == E2BIG) TH_LOG("%s", strerror(err));
	s.filter_key_count = 1;
	s.filter_keys = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(search(self->fd, &s)));
	s = good;
	s.flags = VEXFS_SEARCH_ROW_BITMAP;
	s.row_bitmap = PTR(NOWHERE);
	s.row_bitmap_rows = 300;
	EXPECT_EQ(EFAULT, ERR(search(self->fd, &s)));
	s.row_bitmap = PTR(&one);
	s.row_bitmap_rows = ~0ull;
	/* Only the bits of rows that exist matter; reading more may fail. */
	err = ERR(search(self->fd, &s));
	EXPECT_TRUE(!err || err == EINVAL || err == E2BIG || err == EFAULT) {
		TH_LOG("%s", strerror(err));
	}
	s.row_bitmap_rows = 1ull << 40;
	err = ERR(search(self->fd, &s));
	EXPECT_TRUE(!err || err == EINVAL || err == E2BIG || err == EFAULT);
}

CASE(bad_fields)
{
	float query[8] = { 1 };
	struct vexfs_hit hits[16];
	struct vexfs_search good = { .nq = 1, .k = 4, .queries = PTR(query), .hits = PTR(hits) }, s;
	int fd = container("f", 8, VEXFS_METRIC_L2);
	char *page;

	OK(insert(fd, query, NULL, 1));
#define BAD(want, field, value) do {					\
		s = good;						\
		s.field = value;					\
		EXPECT_EQ(want, ERR(search(fd, &s))) {			\
			TH_LOG("%s = %s", #field, #value);		\
		}							\
	} while (0)
	BAD(EINVAL, nq, 0);
	BAD(EINVAL, k, 0);
	BAD(E2BIG, nq, VEXFS_MAX_QUERIES + 1);
	BAD(E2BIG, nq, ~0u);
	BAD(E2BIG, k, VEXFS_MAX_K + 1);
	BAD(E2BIG, k, ~0u);
	BAD(EINVAL, index_kind, 6);
	BAD(EINVAL, index_kind, ~0u);
	BAD(ENOENT, index_kind, VEXFS_INDEX_HNSW);
	BAD(ENOENT, index_kind, VEXFS_INDEX_IVF);
	BAD(ENOENT, index_kind, VEXFS_INDEX_PQ);
	BAD(ENOENT, index_kind, VEXFS_INDEX_LSH);
	BAD(EINVAL, query_stride, 4);
	BAD(EINVAL, query_stride, 31);
	BAD(EFAULT, queries, PTR(NOWHERE));
	BAD(EFAULT, queries, 0);
	BAD(EFAULT, queries, 0xffff888000000000ull);
	BAD(EFAULT, hits, PTR(NOWHERE));
	BAD(EFAULT, hits, 0);
	BAD(EFAULT, hits, 0xffff888000000000ull);
	BAD(EFAULT, counts, PTR(NOWHERE));
	s = good;
	s.nq = VEXFS_MAX_QUERIES;
	s.k = VEXFS_MAX_K;
	EXPECT_EQ(E2BIG, ERR(search(fd, &s)));
	s.nq = VEXFS_MAX_QUERIES;
	s.k = VEXFS_MAX_RESULTS / VEXFS_MAX_QUERIES + 1;
	EXPECT_EQ(E2BIG, ERR(search(fd, &s)));
	/* The most allowed, with memory for a fraction of the hits. */
	s.k--;
	s.queries = PTR(calloc(VEXFS_MAX_QUERIES, 32));
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	OK(munmap(page + 4096, 4096));
	s.hits = PTR(page);
	EXPECT_EQ(EFAULT, ERR(search(fd, &s)));
	EXPECT_EQ(0, ERR(search(fd, &good)));
}

CASE(queries_must_be_finite)
{
	static const uint32_t bits[] = { 0x7fc00000, 0x7f800001, 0xff800000, 0x7f800000 };
	float queries[5 * 8] = { 0 };
	struct vexfs_hit hits[5 * 2];
	struct vexfs_search s = { .nq = 5, .k = 2, .queries = PTR(queries), .hits = PTR(hits) };
	int fd = container("f", 8, VEXFS_METRIC_L2);

	OK(insert(fd, queries, NULL, 3));
	for (int i = 0; i < 40; i += 13)
		for (int b = 0; b < 4; b++) {
			memcpy(&queries[i], &bits[b], 4);
			EXPECT_EQ(EINVAL, ERR(search(fd, &s)));
			queries[i] = 0;
		}
	EXPECT_EQ(0, ERR(search(fd, &s)));
}

CASE(searching_needs_a_file_open_for_reading)
{
	float query[8] = { 1 };
	struct vexfs_hit hit;
	struct vexfs_search s = { .nq = 1, .k = 1, .queries = PTR(query), .hits = PTR(&hit) };

	OK(insert(container("f", 8, VEXFS_METRIC_L2), query, NULL, 1));
	EXPECT_EQ(EBADF, ERR(search(open("f", O_WRONLY), &s)));
	EXPECT_EQ(0, ERR(search(open("f", O_RDONLY), &s)));
}

CASE(hits_end_at_the_end_of_memory)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	float *rows = new_rows(1, 0, 50, 8);
	struct vexfs_search s = { .nq = 2, .k = 20, .queries = PTR(rows) };
	int fd = container("f", 8, VEXFS_METRIC_L2);

	OK(munmap(page + 4096, 4096));
	OK(insert(fd, rows, NULL, 50));
	s.hits = PTR(page + 4096 - 40 * sizeof(struct vexfs_hit));
	EXPECT_EQ(0, ERR(search(fd, &s)));
	s.hits += 8;
	EXPECT_EQ(EFAULT, ERR(search(fd, &s)));
}

CASE(a_time_budget_ends_in_time_and_says_so)
{
	unsigned int n = 4000, dim = 384, nq = 200;
	float *rows = new_rows(1, 0, n, dim);
	struct vexfs_hit *hits = calloc(nq, sizeof(*hits));
	struct vexfs_search s = { .nq = nq, .k = 1, .queries = PTR(rows), .hits = PTR(hits),
				  .time_budget_ns = 1 };
	int fd = container("f", dim, VEXFS_METRIC_L2);

	OK(insert(fd, rows, NULL, n));
	OK(search(fd, &s));
	/* Nothing was worth a nanosecond: an answer that is complete must say so. */
	EXPECT_EQ(0, s.outcome & ~VEXFS_OUTCOME_PARTIAL);
	if (!(s.outcome & VEXFS_OUTCOME_PARTIAL)) {
		for (unsigned int q = 0; q < nq; q++) {
			EXPECT_EQ(q, hits[q].row);
		}
	}
	s.time_budget_ns = ~0ull;
	OK(search(fd, &s));
	EXPECT_EQ(0, s.outcome);
	for (unsigned int q = 0; q < nq; q++) {
		EXPECT_EQ(q, hits[q].row);
	}
	EXPECT_LT(0, s.elapsed_ns);
}

CASE(statistics_count)
{
	float *rows = new_rows(1, 0, 100, 8);
	struct vexfs_search s = { 0 };
	struct model m = { 8, VEXFS_METRIC_L2, 100, rows };
	int fd = container("f", 8, VEXFS_METRIC_L2);
	struct vexfs_vector_stats a, b;
	uint64_t key = 3;

	OK(insert(fd, rows, NULL, 100));
	a = stats_of(fd);
	EXPECT_EQ(100, a.inserted);
	EXPECT_LT(0, a.insert_ns);
	EXPECT_SEARCH(fd, &m, rows, 5, &s);
	OK(delete_keys(fd, &key, 1));
	OK(fsync(fd));
	b = stats_of(fd);
	EXPECT_EQ(a.searches + 1, b.searches);
	EXPECT_EQ(a.distances + s.distances, b.distances);
	EXPECT_LT(a.search_ns, b.search_ns);
	EXPECT_EQ(1, b.deleted);
	EXPECT_EQ(a.generation + 1, b.generation);
	EXPECT_EQ(100, b.durable_rows);
	EXPECT_LE(100 * b.stride, b.bytes_on_disk);
}

TEST_HARNESS_MAIN
