// SPDX-License-Identifier: GPL-2.0
/*
 * BATCH_OPERATIONS: insert, upsert, delete and get, by key and by row, in small and big
 * batches, and against a model. What they refuse is in vector_batch_errors.c.
 */
#include "vector_batch.h"

VECTOR_FIXTURE(box)

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
