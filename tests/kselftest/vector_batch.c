// SPDX-License-Identifier: GPL-2.0
/*
 * BATCH_OPERATIONS: insert, upsert, delete and get, by key and by row, with
 * good and bad arguments. After every error nothing may have changed.
 */
#include "vector_test.h"

VECTOR_FIXTURE(box)

#define DIM 8

static int l2(const char *name)
{
	return container(name, DIM, VEXFS_METRIC_L2);
}

/* Rows, live rows and generation in one number that shows any change. */
static uint64_t state_of(int fd)
{
	struct vexfs_vector_stats st = stats_of(fd);

	return st.rows * 1000003 + st.live * 1009 + st.generation;
}

static bool row_is(int fd, uint64_t key, const float *want)
{
	float got[DIM];
	uint64_t row = get_key(fd, key, got, NULL);

	return row < VEXFS_ROW_NONE - 1 && !memcmp(got, want, sizeof(got));
}

CASE(insert_gives_rows_in_order_and_keys_that_are_the_rows)
{
	float *rows = new_rows(1, 0, 10, DIM);
	uint64_t out[10];
	struct vexfs_batch b = {
		.op = VEXFS_OP_INSERT, .count = 10, .vectors = PTR(rows), .rows = PTR(out),
		.done = 99, .first_row = 99, .error_row = 99,
	};
	int fd = l2("f");

	OK(batch(fd, &b));
	EXPECT_EQ(10, b.done);
	EXPECT_EQ(0, b.first_row);
	EXPECT_EQ(VEXFS_ROW_NONE, b.error_row);
	for (int i = 0; i < 10; i++) {
		EXPECT_EQ(i, out[i]);
		EXPECT_TRUE(row_is(fd, i, rows + i * DIM));
	}
	OK(batch(fd, &b));
	EXPECT_EQ(10, b.first_row);
	EXPECT_EQ(19, out[9]);
	EXPECT_EQ(20, stats_of(fd).rows);
	EXPECT_EQ(20, stats_of(fd).live);
	EXPECT_EQ(20, stats_of(fd).inserted);
}

CASE(insert_with_keys_and_tags)
{
	float *rows = new_rows(1, 0, 4, DIM), got[4 * DIM];
	uint64_t keys[] = { 7, 0, 0xfffffffffffffffe, 1ull << 40 };
	uint64_t tags[] = { 1, 0, ~0ull, 0x8000000000000000 }, out_tags[4], out_rows[4];
	struct vexfs_batch b = {
		.op = VEXFS_OP_INSERT, .count = 4, .vectors = PTR(rows), .keys = PTR(keys),
		.tags = PTR(tags),
	};
	int fd = l2("f");

	OK(batch(fd, &b));
	b = (struct vexfs_batch){ .op = VEXFS_OP_GET, .count = 4, .keys = PTR(keys),
		.vectors = PTR(got), .tags = PTR(out_tags), .rows = PTR(out_rows) };
	OK(batch(fd, &b));
	EXPECT_EQ(4, b.done);
	EXPECT_EQ(0, memcmp(got, rows, sizeof(got)));
	EXPECT_EQ(0, memcmp(tags, out_tags, sizeof(tags)));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(i, out_rows[i]);
	}
}

CASE(insert_with_a_stride_skips_what_lies_between)
{
	float wide[3][DIM + 5], *p = &wide[0][0];
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 3, .vectors = PTR(p),
				 .vector_stride = sizeof(wide[0]) };
	int fd = l2("f");

	for (int i = 0; i < 3; i++) {
		make_rows(wide[i], 1, i, 1, DIM);
		for (int j = DIM; j < DIM + 5; j++)
			wide[i][j] = NAN;
	}
	OK(batch(fd, &b));
	for (int i = 0; i < 3; i++) {
		EXPECT_TRUE(row_is(fd, i, wide[i]));
	}
	b.vector_stride = DIM * 4 - 4;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	b.vector_stride = 1;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	EXPECT_EQ(3, stats_of(fd).rows);
}

CASE(the_last_vector_of_a_strided_batch_may_end_at_the_end_of_memory)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = l2("f"), stride = DIM * 4 + 64;
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 3, .vector_stride = stride };

	OK(munmap(page + 4096, 4096));
	b.vectors = PTR(page + 4096 - 2 * stride - DIM * 4);
	EXPECT_EQ(0, ERR(batch(fd, &b)));
	b.vectors += 4;
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	EXPECT_EQ(3, stats_of(fd).rows);
}

CASE(insert_of_a_used_key_is_eexist_and_changes_nothing)
{
	float *rows = new_rows(1, 0, 4, DIM), *other = new_rows(2, 0, 4, DIM);
	uint64_t keys[] = { 1, 2, 3, 4 }, again[] = { 10, 11, 3, 12 };
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 4, .vectors = PTR(other),
				 .keys = PTR(again), .error_row = 77 };
	int fd = l2("f");
	uint64_t before;

	OK(insert(fd, rows, keys, 4));
	before = state_of(fd);
	EXPECT_EQ(EEXIST, ERR(batch(fd, &b)));
	EXPECT_EQ(2, b.error_row);
	EXPECT_EQ(before, state_of(fd));
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 10, NULL, NULL));
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 12, NULL, NULL));
	EXPECT_TRUE(row_is(fd, 3, rows + 2 * DIM));
	EXPECT_EQ(4 * stats_of(fd).stride, size_of("f"));
}

CASE(insert_of_a_repeated_key_is_eexist_and_names_the_second)
{
	float *rows = new_rows(1, 0, 5, DIM);
	uint64_t keys[] = { 5, 6, 7, 6, 8 };
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 5, .vectors = PTR(rows),
				 .keys = PTR(keys) };
	int fd = l2("f");

	EXPECT_EQ(EEXIST, ERR(batch(fd, &b)));
	EXPECT_EQ(3, b.error_row);
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(a_key_that_is_the_next_row_blocks_keyless_inserts)
{
	float *rows = new_rows(1, 0, 2, DIM);
	uint64_t key = 1;
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 2, .vectors = PTR(rows) };
	int fd = l2("f");

	OK(insert(fd, rows, &key, 1));
	EXPECT_EQ(EEXIST, ERR(batch(fd, &b)));
	EXPECT_EQ(0, b.error_row);
	OK(delete_keys(fd, &key, 1));
	EXPECT_EQ(0, ERR(batch(fd, &b)));
	EXPECT_EQ(1, b.first_row);
	EXPECT_TRUE(row_is(fd, 1, rows));
	EXPECT_TRUE(row_is(fd, 2, rows + DIM));
}

FIXTURE(bad_number) { char path[PATH_MAX]; };
FIXTURE_VARIANT(bad_number) { uint32_t bits; };
FIXTURE_VARIANT_ADD(bad_number, quiet_nan) { 0x7fc00000 };
FIXTURE_VARIANT_ADD(bad_number, signalling_nan) { 0x7f800001 };
FIXTURE_VARIANT_ADD(bad_number, negative_nan) { 0xffffffff };
FIXTURE_VARIANT_ADD(bad_number, infinity) { 0x7f800000 };
FIXTURE_VARIANT_ADD(bad_number, negative_infinity) { 0xff800000 };
FIXTURE_SETUP(bad_number)
{
	const char *dir = getenv("VEXFS_TEST_DIR");
	struct statfs fs;

	self->path[0] = 0;
	if (!dir || statfs(dir, &fs) || fs.f_type != VEXFS_SUPER_MAGIC)
		SKIP(return, "not on VexFS");
	snprintf(self->path, sizeof(self->path), "%s/nan.XXXXXX", dir);
	ASSERT_NE(NULL, mkdtemp(self->path));
	OK(chdir(self->path));
}
FIXTURE_TEARDOWN_PARENT(bad_number)
{
	if (self->path[0]) {
		EXPECT_EQ(0, remove_tree(self->path));
	}
}

TEST_F_TIMEOUT(bad_number, is_einval_and_its_row_is_named, CASE_SECONDS)
{
	unsigned int dims[] = { 1, 8, 17, 384 };

	for (int d = 0; d < 4; d++) {
		unsigned int dim = dims[d], n = 200;
		float *rows = new_rows(1, 0, n, dim);
		char name[8] = { 'a' + d };
		int fd = container(name, dim, VEXFS_METRIC_L2);
		uint64_t keys[200];

		for (int i = 0; i < n; i++)
			keys[i] = i;
		for (int at = 0; at < 6; at++) {
			/* First, last and inner elements of first, last, inner rows. */
			unsigned int row = at < 2 ? 0 : at < 4 ? n - 1 : 97;
			unsigned int i = row * dim + (at % 2 ? dim - 1 : dim / 3);
			struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = n,
				.vectors = PTR(rows), .error_row = 1234 };
			float old = rows[i];

			memcpy(&rows[i], &variant->bits, 4);
			EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
			EXPECT_EQ(row, b.error_row);
			b.op = VEXFS_OP_UPSERT;
			b.keys = PTR(keys);
			b.error_row = 1234;
			EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
			EXPECT_EQ(row, b.error_row);
			EXPECT_EQ(0, stats_of(fd).rows);
			EXPECT_EQ(0, size_of(name));
			rows[i] = old;
		}
		OK(insert(fd, rows, NULL, n));
		EXPECT_EQ(n, stats_of(fd).live);
		free(rows);
		close(fd);
	}
}

CASE(finite_oddities_are_accepted)
{
	float row[DIM] = { 0, -0.0f, 3.4028235e38f, -3.4028235e38f, 1e-45f, -1e-45f,
			   1.1754944e-38f, 1 };
	int fd = l2("f");

	OK(insert(fd, row, NULL, 1));
	EXPECT_TRUE(row_is(fd, 0, row));
}

CASE(upsert_adds_and_replaces)
{
	float *rows = new_rows(1, 0, 4, DIM), *other = new_rows(2, 0, 3, DIM);
	uint64_t keys[] = { 1, 2, 3, 4 }, some[] = { 3, 9, 1 }, out[3], tags[] = { 5, 6, 7 }, tag;
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 3, .vectors = PTR(other),
				 .keys = PTR(some), .rows = PTR(out), .tags = PTR(tags) };
	int fd = l2("f");
	float got[DIM];

	OK(insert(fd, rows, keys, 4));
	OK(batch(fd, &b));
	EXPECT_EQ(3, b.done);
	EXPECT_EQ(5, stats_of(fd).live);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(b.first_row + i, out[i]);
		EXPECT_EQ(out[i], get_key(fd, some[i], got, &tag));
		EXPECT_EQ(0, memcmp(got, other + i * DIM, sizeof(got)));
		EXPECT_EQ(tags[i], tag);
	}
	EXPECT_TRUE(row_is(fd, 2, rows + DIM));
	EXPECT_TRUE(row_is(fd, 4, rows + 3 * DIM));
}

CASE(upsert_wants_keys_and_each_once)
{
	float *rows = new_rows(1, 0, 3, DIM);
	uint64_t keys[] = { 4, 5, 4 };
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 3, .vectors = PTR(rows) };
	int fd = l2("f"), err;

	err = ERR(batch(fd, &b));
	EXPECT_TRUE(err == EINVAL || err == EFAULT) TH_LOG("%s", strerror(err));
	b.keys = PTR(keys);
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	EXPECT_EQ(2, b.error_row);
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(a_failed_upsert_leaves_every_key_where_it_was)
{
	float *rows = new_rows(1, 0, 8, DIM), *other = new_rows(2, 0, 8, DIM);
	uint64_t keys[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 8, .vectors = PTR(other),
				 .keys = PTR(keys) };
	int fd = l2("f");
	uint64_t before;

	OK(insert(fd, rows, keys, 8));
	before = state_of(fd);
	((uint32_t *)other)[7 * DIM + 3] = 0x7fc00000;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	((uint32_t *)other)[7 * DIM + 3] = 0;
	b.tags = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	b.tags = 0;
	b.rows = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	EXPECT_EQ(before, state_of(fd));
	for (int i = 0; i < 8; i++) {
		EXPECT_TRUE(row_is(fd, keys[i], rows + i * DIM)) TH_LOG("key %d", i + 1);
	}
}

CASE(upsert_many_times_keeps_one_live_row)
{
	uint64_t key = 42;
	int fd = l2("f");
	float row[DIM];

	for (int i = 0; i < 50; i++) {
		struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = 1,
					 .vectors = PTR(row), .keys = PTR(&key) };

		make_rows(row, 3, i, 1, DIM);
		OK(batch(fd, &b));
		ASSERT_TRUE(row_is(fd, 42, row));
	}
	EXPECT_EQ(1, stats_of(fd).live);
}

CASE(delete_removes_by_key)
{
	float *rows = new_rows(1, 0, 6, DIM);
	uint64_t keys[] = { 10, 20, 30, 40, 50, 60 }, gone[] = { 50, 10 };
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .count = 2, .keys = PTR(gone) };
	int fd = l2("f");

	OK(insert(fd, rows, keys, 6));
	OK(batch(fd, &b));
	EXPECT_EQ(2, b.done);
	EXPECT_EQ(VEXFS_ROW_NONE, b.error_row);
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 10, NULL, NULL));
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 50, NULL, NULL));
	EXPECT_TRUE(row_is(fd, 20, rows + DIM));
	EXPECT_EQ(6, stats_of(fd).rows);
	EXPECT_EQ(4, stats_of(fd).live);
	EXPECT_EQ(2, stats_of(fd).deleted);
	/* The key is free again, the row number is not. */
	OK(insert(fd, rows, gone, 1));
	EXPECT_EQ(6, get_key(fd, 50, NULL, NULL));
}

CASE(delete_of_a_missing_key_is_enoent_and_changes_nothing)
{
	float *rows = new_rows(1, 0, 3, DIM);
	uint64_t keys[] = { 10, 20, 30 }, some[] = { 10, 20, 99, 30 };
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .count = 4, .keys = PTR(some) };
	int fd = l2("f");
	uint64_t before;

	OK(insert(fd, rows, keys, 3));
	before = state_of(fd);
	EXPECT_EQ(ENOENT, ERR(batch(fd, &b)));
	EXPECT_EQ(2, b.error_row);
	EXPECT_EQ(before, state_of(fd));
	EXPECT_TRUE(row_is(fd, 10, rows));
	b.flags = VEXFS_BATCH_SKIP_MISSING;
	OK(batch(fd, &b));
	EXPECT_EQ(3, b.done);
	EXPECT_EQ(0, stats_of(fd).live);
	OK(batch(fd, &b));
	EXPECT_EQ(0, b.done);
}

CASE(delete_by_row)
{
	float *rows = new_rows(1, 0, 5, DIM);
	uint64_t keys[] = { 10, 20, 30, 40, 50 }, gone[] = { 3, 0 }, bad[] = { 1, 3 }, far[] = { 5 };
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_BY_ROW, .count = 2,
				 .rows = PTR(gone) };
	int fd = l2("f");

	OK(insert(fd, rows, keys, 5));
	OK(batch(fd, &b));
	EXPECT_EQ(2, b.done);
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 40, NULL, NULL));
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 10, NULL, NULL));
	b.rows = PTR(bad);
	EXPECT_EQ(ENOENT, ERR(batch(fd, &b)));
	EXPECT_EQ(1, b.error_row);
	EXPECT_TRUE(row_is(fd, 20, rows + DIM));
	b.rows = PTR(far);
	b.count = 1;
	EXPECT_EQ(ENOENT, ERR(batch(fd, &b)));
	far[0] = VEXFS_ROW_NONE;
	EXPECT_NE(0, ERR(batch(fd, &b)));
	far[0] = 1ull << 63;
	EXPECT_EQ(ENOENT, ERR(batch(fd, &b)));
	EXPECT_EQ(3, stats_of(fd).live);
}

CASE(delete_of_a_repeated_key_or_row_is_einval)
{
	float *rows = new_rows(1, 0, 3, DIM);
	uint64_t twice[] = { 0, 1, 0 };
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .count = 3, .keys = PTR(twice) };
	int fd = l2("f");

	OK(insert(fd, rows, NULL, 3));
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	EXPECT_EQ(2, b.error_row);
	b.flags = VEXFS_BATCH_SKIP_MISSING;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	b.flags = VEXFS_BATCH_BY_ROW;
	b.keys = 0;
	b.rows = PTR(twice);
	EXPECT_NE(0, ERR(batch(fd, &b)));
	EXPECT_EQ(3, stats_of(fd).live);
}

CASE(the_reserved_key_is_refused)
{
	float *rows = new_rows(1, 0, 2, DIM);
	uint64_t keys[] = { 1, VEXFS_KEY_NONE };
	struct vexfs_batch b = { .count = 2, .vectors = PTR(rows), .keys = PTR(keys) };
	int fd = l2("f");

	for (b.op = VEXFS_OP_INSERT; b.op <= VEXFS_OP_UPSERT; b.op++) {
		b.error_row = 99;
		EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
		EXPECT_EQ(1, b.error_row);
	}
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(get_marks_missing_rows)
{
	float *rows = new_rows(1, 0, 3, DIM), got[5 * DIM];
	uint64_t keys[] = { 10, 20, 30 }, ask[] = { 30, 99, 10, 98, 30 }, row[5], tags[5];
	struct vexfs_batch b = { .op = VEXFS_OP_GET, .count = 5, .keys = PTR(ask),
				 .vectors = PTR(got), .rows = PTR(row), .tags = PTR(tags) };
	int fd = l2("f");

	OK(insert(fd, rows, keys, 3));
	memset(got, 0x55, sizeof(got));
	memset(tags, 0x55, sizeof(tags));
	OK(batch(fd, &b));
	EXPECT_EQ(3, b.done);
	EXPECT_EQ(2, row[0]);
	EXPECT_EQ(VEXFS_ROW_NONE, row[1]);
	EXPECT_EQ(0, row[2]);
	EXPECT_EQ(VEXFS_ROW_NONE, row[3]);
	EXPECT_EQ(2, row[4]);
	EXPECT_EQ(0, memcmp(got, rows + 2 * DIM, DIM * 4));
	EXPECT_TRUE(all_zero(got + DIM, DIM * 4));
	EXPECT_EQ(0, memcmp(got + 2 * DIM, rows, DIM * 4));
	EXPECT_TRUE(all_zero(got + 3 * DIM, DIM * 4));
	EXPECT_TRUE(all_zero(tags, sizeof(tags)));
}

CASE(get_by_row_tells_keys)
{
	float *rows = new_rows(1, 0, 3, DIM), got[4 * DIM];
	uint64_t keys[] = { 10, 20, 30 }, ask[] = { 2, 1, 77, 0 }, out[4];
	struct vexfs_batch b = { .op = VEXFS_OP_GET, .flags = VEXFS_BATCH_BY_ROW, .count = 4,
				 .rows = PTR(ask), .keys = PTR(out), .vectors = PTR(got) };
	int fd = l2("f");

	OK(insert(fd, rows, keys, 3));
	OK(delete_keys(fd, keys + 1, 1));
	memset(got, 0x55, sizeof(got));
	OK(batch(fd, &b));
	EXPECT_EQ(2, b.done);
	EXPECT_EQ(30, out[0]);
	EXPECT_EQ(10, out[3]);
	/* What is missing has no key: a live row of zeros is told from it so. */
	EXPECT_EQ(VEXFS_KEY_NONE, out[1]);
	EXPECT_EQ(VEXFS_KEY_NONE, out[2]);
	EXPECT_EQ(0, memcmp(got, rows + 2 * DIM, DIM * 4));
	/* A deleted row's vector is not given out any more. */
	EXPECT_TRUE(all_zero(got + DIM, 2 * DIM * 4));
	EXPECT_EQ(0, memcmp(got + 3 * DIM, rows, DIM * 4));
}

CASE(get_without_buffers_counts)
{
	uint64_t ask[] = { 0, 5, 1 };
	struct vexfs_batch b = { .op = VEXFS_OP_GET, .count = 3, .keys = PTR(ask) };
	int fd = l2("f");

	OK(insert(fd, new_rows(1, 0, 2, DIM), NULL, 2));
	OK(batch(fd, &b));
	EXPECT_EQ(2, b.done);
}

CASE(counts_are_bounded)
{
	float *rows = new_rows(1, 0, 1, DIM);
	static const uint64_t huge[] = { VEXFS_MAX_BATCH_ROWS + 1, 1ull << 32, 1ull << 61, ~0ull };
	struct vexfs_batch b = { .vectors = PTR(rows) };
	uint64_t key = 0;
	int fd = l2("f");

	b.keys = PTR(&key);
	b.rows = PTR(&key);
	for (b.op = VEXFS_OP_INSERT; b.op <= VEXFS_OP_GET; b.op++) {
		b.count = 0;
		EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
		for (int i = 0; i < 4; i++) {
			b.count = huge[i];
			EXPECT_EQ(E2BIG, ERR(batch(fd, &b))) TH_LOG("op %d", b.op);
		}
		/* The most allowed, from memory that is not there. */
		b.count = VEXFS_MAX_BATCH_ROWS;
		EXPECT_NE(0, ERR(batch(fd, &b)));
	}
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(bytes_are_bounded)
{
	int fd = container("f", VEXFS_MAX_DIM, VEXFS_METRIC_L2);
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .vectors = PTR(NOWHERE),
				 .count = VEXFS_MAX_BATCH_BYTES / (VEXFS_MAX_DIM * 4) + 1 };

	ASSERT_LE(0, fd);
	EXPECT_EQ(E2BIG, ERR(batch(fd, &b)));
	b.count--;
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(unknown_operations)
{
	float *rows = new_rows(1, 0, 1, DIM);
	uint64_t key = 0;
	struct vexfs_batch b = { .count = 1, .vectors = PTR(rows), .keys = PTR(&key) };
	int fd = l2("f");

	b.op = 0;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	b.op = VEXFS_OP_ATTACH;
	EXPECT_EQ(EOPNOTSUPP, ERR(batch(fd, &b)));
	b.op = VEXFS_OP_DETACH;
	EXPECT_EQ(EOPNOTSUPP, ERR(batch(fd, &b)));
	b.op = 7;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	b.op = ~0u;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
}

CASE(flags_that_do_not_fit_the_operation_are_einval)
{
	float *rows = new_rows(1, 0, 1, DIM);
	uint64_t key = 0;
	struct vexfs_batch b = { .count = 1, .vectors = PTR(rows), .keys = PTR(&key),
				 .rows = PTR(&key) };
	int fd = l2("f");

	b.flags = VEXFS_BATCH_BY_ROW;
	for (b.op = VEXFS_OP_INSERT; b.op <= VEXFS_OP_UPSERT; b.op++) {
		EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	}
	b.flags = VEXFS_BATCH_SKIP_MISSING;
	for (b.op = VEXFS_OP_INSERT; b.op <= VEXFS_OP_UPSERT; b.op++) {
		EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	}
	EXPECT_EQ(0, stats_of(fd).rows);
}

CASE(unmapped_arrays_are_efault_and_change_nothing)
{
	float *rows = new_rows(1, 0, 2, DIM);
	uint64_t keys[] = { 5, 6 };
	struct vexfs_batch good = { .count = 2, .vectors = PTR(rows), .keys = PTR(keys) }, b;
	int fd = l2("f");
	uint64_t before;

	OK(insert(fd, rows, NULL, 2));
	before = state_of(fd);
	for (int op = VEXFS_OP_INSERT; op <= VEXFS_OP_UPSERT; op++) {
		b = good;
		b.op = op;
		b.vectors = PTR(NOWHERE);
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		b.vectors = 0;
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		b.vectors = 0xffff888000000000ull;
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		b = good;
		b.op = op;
		b.keys = PTR(NOWHERE);
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		b = good;
		b.op = op;
		b.tags = PTR(NOWHERE);
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		b = good;
		b.op = op;
		b.rows = PTR(NOWHERE);
		EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
		EXPECT_EQ(before, state_of(fd)) TH_LOG("op %d", op);
	}
	b = (struct vexfs_batch){ .op = VEXFS_OP_DELETE, .count = 2, .keys = PTR(NOWHERE) };
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	b.op = VEXFS_OP_GET;
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	keys[0] = 0;
	keys[1] = 1;
	b.keys = PTR(keys);
	b.vectors = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	b.vectors = 0;
	b.tags = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	b.tags = 0;
	b.rows = PTR(NOWHERE);
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	EXPECT_EQ(before, state_of(fd));
}

CASE(vectors_that_end_in_a_hole_of_memory_change_nothing)
{
	size_t len = 1 << 20;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = container("f", 128, VEXFS_METRIC_L2);
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 2000, .vectors = PTR(p) };

	OK(munmap(p + len / 2, 4096));
	EXPECT_EQ(EFAULT, ERR(batch(fd, &b)));
	EXPECT_EQ(0, stats_of(fd).rows);
	EXPECT_EQ(0, size_of("f"));
	b.count = 1024;
	EXPECT_EQ(0, ERR(batch(fd, &b)));
	EXPECT_EQ(1024, stats_of(fd).rows);
}

CASE(the_open_mode_is_kept)
{
	float row[DIM] = { 0 };
	uint64_t key = 0;
	struct vexfs_batch b = { .count = 1, .vectors = PTR(row), .keys = PTR(&key) };
	int fd = l2("f"), ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);

	OK(insert(wo, row, &key, 1));
	for (b.op = VEXFS_OP_INSERT; b.op <= VEXFS_OP_DELETE; b.op++) {
		EXPECT_EQ(EBADF, ERR(batch(ro, &b)));
	}
	b.op = VEXFS_OP_GET;
	EXPECT_EQ(0, ERR(batch(ro, &b)));
	EXPECT_EQ(EBADF, ERR(batch(wo, &b)));
	EXPECT_EQ(1, stats_of(fd).live);
}

CASE(another_user_needs_permission)
{
	float row[DIM] = { 0 };
	int fd = l2("f");

	if (geteuid())
		SKIP(return, "only root can become another user");
	OK(insert(fd, row, NULL, 1));
	OK(fchmod(fd, 0600));
	OK(become(65534, 65534));
	EXPECT_EQ(EACCES, ERR(open("f", O_RDONLY)));
	EXPECT_EQ(EACCES, ERR(open("f", O_RDWR)));
}

CASE(a_big_batch_in_one_call)
{
	unsigned int n = quick() ? 6000 : 20000, dim = 64;
	float *rows = new_rows(4, 0, n, dim), got[64];
	uint64_t *keys = malloc(n * 8);
	int fd = container("f", dim, VEXFS_METRIC_L2);

	for (unsigned int i = 0; i < n; i++)
		keys[i] = (uint64_t)i * 0x9e3779b97f4a7c15ull & ~(1ull << 63);
	OK(insert(fd, rows, keys, n));
	EXPECT_EQ(n, stats_of(fd).live);
	for (unsigned int i = 0; i < n; i += 331) {
		ASSERT_EQ(i, get_key(fd, keys[i], got, NULL));
		ASSERT_EQ(0, memcmp(got, rows + i * dim, sizeof(got)));
	}
	OK(delete_keys(fd, keys, n / 2));
	EXPECT_EQ(n / 2, stats_of(fd).live);
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, keys[n / 2 - 1], NULL, NULL));
	EXPECT_EQ(n / 2, get_key(fd, keys[n / 2], NULL, NULL));
}

CASE(many_small_batches)
{
	int n = quick() ? 1000 : 3000, fd = l2("f");
	float row[DIM];

	for (int i = 0; i < n; i++) {
		uint64_t key = 1000000 - i * 7;

		make_rows(row, 5, i, 1, DIM);
		ASSERT_EQ(0, ERR(insert(fd, row, &key, 1))) TH_LOG("row %d", i);
	}
	for (int i = 0; i < n; i += 7) {
		make_rows(row, 5, i, 1, DIM);
		ASSERT_TRUE(row_is(fd, 1000000 - i * 7, row)) TH_LOG("row %d", i);
	}
}

/* Random batches against a table in memory. */
CASE(random_batches_match_a_model)
{
	enum { KEYS = 400 };
	const int rounds = quick() ? 200 : 400;
	static float value[KEYS][DIM];
	static bool there[KEYS];
	static uint64_t tag[KEYS];
	uint64_t state = seed();
	int fd = l2("f");
	unsigned int live = 0;

	TH_LOG("seed %#llx", (unsigned long long)state);
	for (int round = 0; round < rounds; round++) {
		unsigned int n = rnd(&state) % 12 + 1, op = rnd(&state) % 3 + 1;
		unsigned int bad = 0, faults = 0;
		uint64_t keys[12], tags[12];
		float rows[12 * DIM];
		struct vexfs_batch b = { .op = op, .count = n, .vectors = PTR(rows),
					 .keys = PTR(keys), .tags = PTR(tags) };
		int want = 0, got;

		if (op == VEXFS_OP_DELETE)
			b.vectors = b.tags = 0;
		make_rows(rows, state, 0, n, DIM);
		for (unsigned int i = 0; i < n; i++) {
			keys[i] = rnd(&state) % KEYS;
			tags[i] = rnd(&state);
			/* Mostly batches that can work. */
			for (int t = 0; t < 8 && op != VEXFS_OP_UPSERT &&
			     there[keys[i]] == (op == VEXFS_OP_INSERT); t++)
				keys[i] = rnd(&state) % KEYS;
		}
		for (unsigned int i = 0; i < n; i++) {
			bool used = op != VEXFS_OP_UPSERT &&
				there[keys[i]] == (op == VEXFS_OP_INSERT);
			bool again = false;

			for (unsigned int j = 0; j < i; j++)
				again |= keys[j] == keys[i];
			if (!used && !again)
				continue;
			faults++;
			bad = i;
			want = op == VEXFS_OP_INSERT ? EEXIST : again ? EINVAL : ENOENT;
		}
		got = ERR(batch(fd, &b));
		/* Of several faults any may be named. */
		if (faults > 1) {
			ASSERT_NE(0, got);
		} else {
			ASSERT_EQ(want, got) TH_LOG("round %d op %u", round, op);
		}
		if (faults == 1) {
			EXPECT_EQ(bad, b.error_row) TH_LOG("round %d op %u", round, op);
		}
		for (unsigned int i = 0; i < n && !got; i++) {
			live += op == VEXFS_OP_DELETE ? -1 : !there[keys[i]];
			there[keys[i]] = op != VEXFS_OP_DELETE;
			tag[keys[i]] = tags[i];
			memcpy(value[keys[i]], rows + i * DIM, DIM * 4);
		}
		ASSERT_EQ(live, stats_of(fd).live) TH_LOG("round %d op %u", round, op);
		if (round % 100 == 99)
			drop_caches();
	}
	for (int key = 0; key < KEYS; key++) {
		float row[DIM];
		uint64_t t;

		if (!there[key]) {
			ASSERT_EQ(VEXFS_ROW_NONE, get_key(fd, key, NULL, NULL));
			continue;
		}
		ASSERT_GT(VEXFS_ROW_NONE - 1, get_key(fd, key, row, &t));
		ASSERT_EQ(0, memcmp(row, value[key], sizeof(row))) TH_LOG("key %d", key);
		ASSERT_EQ(tag[key], t);
	}
}

TEST_HARNESS_MAIN
