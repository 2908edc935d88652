// SPDX-License-Identifier: GPL-2.0
/*
 * Containers of every element type: each with every metric against an oracle,
 * rows that must be refused, write(2) and remounts.
 */
#include "vector_types.h"

VECTOR_FIXTURE(box)
SCRATCH_FIXTURE(scratch)

static void distances(struct __test_metadata *_metadata, const struct type *t)
{
	static const unsigned int dims[] = { 1, 7, 8, 9, 31, 64, 100, 129, 384, 1000, 4100 };
	char name[64];

	for (unsigned int metric = VEXFS_METRIC_L2; metric <= last_metric(t); metric++)
		for (int d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
			unsigned int dim = dims[d], n = quick() || dim > 500 ? 60 : 200;
			struct rows rows = typed_rows(t, seed(), n, dim, 0);
			struct rows queries = typed_rows(t, seed() + 1, 4, dim, 0);
			struct vexfs_create_vector arg = { .alignment = d % 3 == 2 ? 64 : 0 };
			struct vexfs_search s = { 0 };
			struct model m = { dim, metric, n, rows.numbers };
			struct vexfs_vector_stats st;
			int fd;

			/* A zero vector is at a distance too. */
			memset(row_of(&rows, 3), 0, rows.stride);
			read_numbers(&rows, n);
			snprintf(name, sizeof(name), "%s.%u.%u", t->name, metric, dim);
			fd = typed_container(name, t, dim, metric, &arg);
			ASSERT_LE(0, fd) TH_LOG("%s: %s", name, strerror(errno));
			st = stats_of(fd);
			EXPECT_EQ(t->type, st.element_type);
			EXPECT_EQ(metric, st.metric);
			EXPECT_EQ(dim, st.dim);
			EXPECT_EQ((rows.stride + st.alignment - 1) / st.alignment * st.alignment, st.stride);
			OK(insert_rows(fd, &rows, 0, n, NULL));
			EXPECT_STREQ("the same", rows_differ(fd, &rows, 0, n));
			for (int q = 0; q < 4; q++)
				EXPECT_TYPED_SEARCH(fd, &m, &queries, q, 10, &s);
			EXPECT_TYPED_SEARCH(fd, &m, &rows, 3, 10, &s);
			close(fd);
			free_rows(&rows);
			free_rows(&queries);
		}
}

#define DISTANCES(which, name)						\
CASE(distances_of_##name##_are_those_of_the_oracle)			\
{									\
	distances(_metadata, &types[which]);				\
}
DISTANCES(0, f32)
DISTANCES(1, f16)
DISTANCES(2, bf16)
DISTANCES(3, i8)
DISTANCES(4, u8)
DISTANCES(5, binary)

/* The largest numbers there are: sums must not wrap, rows of 65,536 elements must fit. */
CASE(the_largest_numbers_and_rows_have_distances)
{
	for (int which = 0; which < TYPES; which++)
		for (unsigned int metric = VEXFS_METRIC_L2; metric <= last_metric(&types[which]); metric++) {
			static const uint32_t greatest[] = { 0x50000000, 0x5000, 0x5000, 0x80, 0xff, 1 };
			const struct type *t = &types[which];
			struct rows rows = typed_rows(t, 1, 3, VEXFS_MAX_DIM, 0);
			struct vexfs_create_vector arg = { 0 };
			struct model m = { VEXFS_MAX_DIM, metric, 3, rows.numbers };
			struct vexfs_search s = { 0 };
			char name[64];
			int fd;

			for (int i = 0; i < VEXFS_MAX_DIM; i++) {
				set_bits(t, row_of(&rows, 0), i, greatest[which]);
				set_bits(t, row_of(&rows, 1), i, is_float(t) ? greatest[which] : 0x7f);
			}
			read_numbers(&rows, 3);
			snprintf(name, sizeof(name), "%s.%u", t->name, metric);
			fd = typed_container(name, t, VEXFS_MAX_DIM, metric, &arg);
			ASSERT_LE(0, fd);
			OK(insert_rows(fd, &rows, 0, 3, NULL));
			for (int q = 0; q < 3; q++)
				EXPECT_TYPED_SEARCH(fd, &m, &rows, q, 3, &s);
			close(fd);
			free_rows(&rows);
		}
}

CASE(radius_deletes_and_upserts_work_for_every_type)
{
	enum { N = 400, DIM = 40 };

	for (int which = 0; which < TYPES; which++) {
		const struct type *t = &types[which];
		struct rows rows = typed_rows(t, 5, N + 1, DIM, 0), queries = typed_rows(t, 6, 1, DIM, 0);
		struct vexfs_create_vector arg = { 0 };
		struct vexfs_search s = { 0 };
		bool dead[N + 1] = { false };
		uint64_t keys[N + 1];
		struct model m = { DIM, VEXFS_METRIC_L2, N, rows.numbers, keys, dead };
		int fd = typed_container(t->name, t, DIM, VEXFS_METRIC_L2, &arg);
		double some[N], scale;
		struct vexfs_batch b = {
			.op = VEXFS_OP_UPSERT, .count = 1, .vectors = PTR(row_of(&rows, N)),
			.keys = PTR(&keys[7]),
		};

		ASSERT_LE(0, fd);
		OK(insert_rows(fd, &rows, 0, N, NULL));
		for (int i = 0; i < N; i++) {
			keys[i] = i;
			some[i] = oracle(numbers_of(&queries, 0), numbers_of(&rows, i), DIM,
					 VEXFS_METRIC_L2, &scale);
		}
		/* A radius between two distances, so that rounding does not matter. */
		qsort(some, N, sizeof(*some), by_value);
		s.flags = VEXFS_SEARCH_RADIUS;
		s.radius = float_to_bits(some[20] / 2 + some[21] / 2);
		if (some[21] - some[20] > 1e-3 || !is_float(t))
			EXPECT_TYPED_SEARCH(fd, &m, &queries, 0, 40, &s);
		s.flags = s.radius = 0;
		OK(delete_keys(fd, keys + 100, 100));
		for (int i = 100; i < 200; i++)
			dead[i] = true;
		EXPECT_TYPED_SEARCH(fd, &m, &queries, 0, 20, &s);
		OK(batch(fd, &b));
		EXPECT_EQ(N, b.first_row);
		EXPECT_STREQ("the same", rows_differ(fd, &rows, N, 1));
		dead[7] = true;
		keys[N] = 7;
		m.n = N + 1;
		EXPECT_TYPED_SEARCH(fd, &m, &rows, N, 20, &s);
		close(fd);
		free_rows(&rows);
		free_rows(&queries);
	}
}

CASE(combinations_that_do_not_exist_are_refused)
{
	for (unsigned int type = 0; type <= 7; type++)
		for (unsigned int metric = 0; metric <= 5; metric++) {
			struct type t = { type };
			struct vexfs_create_vector arg = { 0 };
			bool known = type >= VEXFS_ELEMENT_F32 && type <= VEXFS_ELEMENT_BINARY;
			bool common = metric >= VEXFS_METRIC_L2 && metric <= VEXFS_METRIC_DOT;
			bool bits = type == VEXFS_ELEMENT_BINARY && metric == VEXFS_METRIC_HAMMING;
			int want = (known && common) || bits ? 0 : EINVAL;

			errno = 0;
			EXPECT_EQ(want == 0, typed_container("f", &t, 8, metric, &arg) >= 0);
			EXPECT_EQ(want, errno) TH_LOG("type %u, metric %u", type, metric);
			EXPECT_EQ(want ? ENOTTY : 0,
				  ERR(ioctl(open("f", O_RDONLY), VEXFS_IOCTL_GET_VECTOR_STATS,
					    &(struct vexfs_vector_stats){ .size = sizeof(struct vexfs_vector_stats) })));
			OK(unlink("f"));
		}
}

/*
 * A row with @bits at element @i, as row @bad of @n rows: refused and named by
 * insert, refused by write(2) and as a query, and nothing has changed.
 */
static const char *is_refused(int fd, const struct rows *good, uint64_t n, uint64_t bad, unsigned int i,
			      uint32_t bits)
{
	struct vexfs_vector_stats before = stats_of(fd), after;
	size_t size = row_size(good->t, good->dim);
	struct rows r = *good;
	unsigned char *rows = calloc(n, before.stride);
	struct vexfs_hit hit;
	struct vexfs_search s = { .nq = 1, .k = 1, .hits = PTR(&hit) };
	const char *wrong = NULL;
	uint64_t row;

	/* Packed as the file has them, with room between them, and with a gap that is not zero. */
	for (size_t stride = before.stride; stride <= before.stride + 24 && !wrong; stride += 12) {
		r.stride = stride;
		r.bytes = malloc(n * stride);
		memset(r.bytes, 0xff, n * stride);
		for (uint64_t k = 0; k < n; k++) {
			memset(row_of(&r, k), 0, before.stride);
			memcpy(row_of(&r, k), row_of(good, k), size);
		}
		set_bits(r.t, row_of(&r, bad), i, bits);
		if (ERR(insert_rows(fd, &r, 0, n, &row)) != EINVAL)
			wrong = "inserting it is not EINVAL";
		else if (row != bad)
			wrong = "error_row is not that row";
		s.queries = PTR(row_of(&r, bad));
		if (!wrong && ERR(search(fd, &s)) != EINVAL)
			wrong = "searching for it is not EINVAL";
		if (stride == before.stride)
			memcpy(rows, r.bytes, n * stride);
		free(r.bytes);
	}
	if (!wrong && ERR(pwrite(fd, rows, n * before.stride, before.rows * before.stride)) != EINVAL)
		wrong = "appending it with write(2) is not EINVAL";
	if (!wrong && before.rows && bad < before.rows &&
	    ERR(pwrite(fd, rows + bad * before.stride, before.stride, bad * before.stride)) != EINVAL)
		wrong = "overwriting with it by write(2) is not EINVAL";
	after = stats_of(fd);
	if (!wrong && (before.rows != after.rows || before.live != after.live ||
		       lseek(fd, 0, SEEK_END) != after.rows * after.stride))
		wrong = "something has changed";
	free(rows);
	return wrong ?: "it is";
}

CASE(rows_that_are_not_finite_are_refused_and_named)
{
	static const struct { int type; uint32_t bits[4]; } bad[] = {
		{ 0, { 0x7f800000, 0xff800000, 0x7fc00000, 0xff800001 } },
		{ 1, { 0x7c00, 0xfc00, 0x7e00, 0xfc01 } },
		{ 2, { 0x7f80, 0xff80, 0x7fc0, 0xff81 } },
	};
	/* Rows without padding and with; more than what is checked and copied at once. */
	static const unsigned int dims[] = { 2, 9, 64, 301 };

	for (int which = 0; which < 3; which++)
		for (int d = 0; d < 4; d++) {
			const struct type *t = &types[bad[which].type];
			unsigned int dim = dims[d], n = (200 << 10) / row_size(t, dim);
			struct rows rows = typed_rows(t, 1, n, dim, 0);
			struct vexfs_create_vector arg = { 0 };
			char name[32];
			int fd;

			snprintf(name, sizeof(name), "%s.%u", t->name, dim);
			fd = typed_container(name, t, dim, VEXFS_METRIC_DOT, &arg);
			ASSERT_LE(0, fd);
			OK(insert_rows(fd, &rows, 0, 5, NULL));
			for (int b = 0; b < 4; b++) {
				unsigned int row = (uint64_t[]){ 0, n / 3, n - 1, n / 2 }[b];
				unsigned int i = (unsigned int[]){ dim - 1, 0, dim / 2, dim - 1 }[b];

				EXPECT_STREQ("it is", is_refused(fd, &rows, n, row, i, bad[which].bits[b]))
					TH_LOG("%s row %u element %u bits %x", name, row, i,
					       bad[which].bits[b]);
			}
			close(fd);
			free_rows(&rows);
		}
}

CASE(bits_behind_the_last_element_are_refused_and_named)
{
	static const unsigned int dims[] = { 1, 7, 9, 31, 33, 100, 4095, 40001 };
	const struct type *t = &types[5];

	for (int d = 0; d < 8; d++) {
		unsigned int dim = dims[d], n = (150 << 10) / row_size(t, dim);
		struct rows rows = typed_rows(t, 1, n, dim, 0);
		struct vexfs_create_vector arg = { 0 };
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "%u", dim);
		fd = typed_container(name, t, dim, VEXFS_METRIC_HAMMING, &arg);
		ASSERT_LE(0, fd);
		OK(insert_rows(fd, &rows, 0, 3, NULL));
		for (unsigned int i = dim; i < (dim + 7) / 8 * 8; i += 3)
			for (int b = 0; b < 3; b++) {
				unsigned int row = (uint64_t[]){ 0, n / 3, n - 1 }[b];

				EXPECT_STREQ("it is", is_refused(fd, &rows, n, row, i, 1))
					TH_LOG("%u bits, row %u of %u, bit %u", dim, row, n, i);
			}
		close(fd);
		free_rows(&rows);
	}
}

CASE(write_appends_and_overwrites_rows_of_every_type)
{
	enum { N = 500, DIM = 27 };

	for (int which = 0; which < TYPES; which++) {
		const struct type *t = &types[which];
		struct vexfs_create_vector arg = { .alignment = 8 };
		int fd = typed_container(t->name, t, DIM, VEXFS_METRIC_COSINE, &arg);
		size_t stride = arg.stride;
		struct rows rows = typed_rows(t, 8, N, DIM, stride);
		struct model m = { DIM, VEXFS_METRIC_COSINE, N, rows.numbers };
		struct vexfs_search s = { 0 };

		ASSERT_LE(0, fd);
		ASSERT_EQ(N * stride, write(fd, rows.bytes, N * stride));
		EXPECT_STREQ("the same", rows_differ(fd, &rows, 0, N));
		EXPECT_TYPED_SEARCH(fd, &m, &rows, 17, 10, &s);
		for (int row = 50; row < 60; row++)
			fill_row(&rows, row, 9, row);
		read_numbers(&rows, N);
		ASSERT_EQ(10 * stride, pwrite(fd, row_of(&rows, 50), 10 * stride, 50 * stride));
		EXPECT_STREQ("the same", rows_differ(fd, &rows, 0, N));
		EXPECT_TYPED_SEARCH(fd, &m, &rows, 55, 10, &s);
		EXPECT_EQ(EINVAL, ERR(pwrite(fd, rows.bytes, stride - 1, N * stride)));
		EXPECT_EQ(EINVAL, ERR(pwrite(fd, rows.bytes, stride, N * stride - 1)));
		close(fd);
		free_rows(&rows);
	}
}

SCRATCH_CASE(rows_of_every_type_are_there_after_a_remount)
{
	enum { N = 300, DIM = 50 };

	NEED_VEXFS();
	for (int which = 0; which < TYPES; which++) {
		struct rows rows = typed_rows(&types[which], which, N, DIM, 0);
		struct vexfs_create_vector arg = { .model_tag = which };
		int fd = typed_container(types[which].name, &types[which], DIM,
					 last_metric(&types[which]), &arg);

		ASSERT_LE(0, fd);
		OK(insert_rows(fd, &rows, 0, N, NULL));
		close(fd);
		free_rows(&rows);
	}
	OK(scratch_cycle());
	for (int which = 0; which < TYPES; which++) {
		const struct type *t = &types[which];
		struct rows rows = typed_rows(t, which, N, DIM, 0);
		struct model m = { DIM, last_metric(t), N, rows.numbers };
		struct vexfs_search s = { 0 };
		int fd = open(t->name, O_RDWR);
		struct vexfs_vector_stats st = stats_of(fd);

		EXPECT_EQ(t->type, st.element_type);
		EXPECT_EQ(last_metric(t), st.metric);
		EXPECT_EQ(N, st.durable_rows);
		EXPECT_STREQ("the same", rows_differ(fd, &rows, 0, N));
		EXPECT_TYPED_SEARCH(fd, &m, &rows, 17, 10, &s);
		close(fd);
		free_rows(&rows);
	}
}

TEST_HARNESS_MAIN
