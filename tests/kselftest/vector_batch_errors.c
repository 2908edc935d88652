// SPDX-License-Identifier: GPL-2.0
/*
 * BATCH_OPERATIONS with bad arguments: keys, numbers, sizes, flags, memory, open modes.
 * After every error nothing may have changed.
 */
#include "vector_batch.h"

VECTOR_FIXTURE(box)

/* Rows, live rows and generation in one number that shows any change. */
static uint64_t state_of(int fd)
{
	struct vexfs_vector_stats st = stats_of(fd);

	return st.rows * 1000003 + st.live * 1009 + st.generation;
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

FIXTURE(bad_number) { char path[PATH_MAX]; };
FIXTURE_VARIANT(bad_number) { uint32_t bits; };
FIXTURE_VARIANT_ADD(bad_number, quiet_nan) { 0x7fc00000 };
FIXTURE_VARIANT_ADD(bad_number, signalling_nan) { 0x7f800001 };
FIXTURE_VARIANT_ADD(bad_number, negative_nan) { 0xffffffff };
FIXTURE_VARIANT_ADD(bad_number, infinity) { 0x7f800000 };
FIXTURE_VARIANT_ADD(bad_number, negative_infinity) { 0xff800000 };
VECTOR_SETUP(bad_number)
BOX_TEARDOWN(bad_number)

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

TEST_HARNESS_MAIN
