// SPDX-License-Identifier: GPL-2.0
/*
 * Containers across mounts: everything is there again, a read-only mount reads
 * and does not write, and a full volume refuses a batch as a whole.
 */
#include "vector_test.h"

SCRATCH_FIXTURE(scratch)

#define DIM 32
#define N 3000

static uint64_t key_of(uint64_t i)
{
	return i * 0x9e3779b97f4a7c15ull >> 1;
}

/* Container "f": N rows with keys and tags, every 5th deleted, some replaced. */
static bool dead[N + 100];
static uint64_t keys[N + 100], tags[N + 100];
static float *rows;

static int make_it(void)
{
	struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = N, .keys = PTR(keys),
				 .tags = PTR(tags) };
	struct vexfs_create_vector arg = { .dim = DIM, .element_type = VEXFS_ELEMENT_F32,
		.metric = VEXFS_METRIC_COSINE, .model_tag = 0xabcdef };
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	rows = new_rows(1, 0, N + 100, DIM);
	b.vectors = PTR(rows);
	for (int i = 0; i < N; i++) {
		keys[i] = key_of(i);
		tags[i] = i * 3;
	}
	if (create_vector(fd, &arg) || batch(fd, &b))
		return -1;
	for (int i = 0; i < N; i += 5) {
		if (delete_keys(fd, &keys[i], 1))
			return -1;
		dead[i] = true;
	}
	for (int i = 0; i < 100; i++) {
		keys[N + i] = keys[i * 5 + 1];
		tags[N + i] = ~0ull - i;
		dead[i * 5 + 1] = true;
	}
	b.op = VEXFS_OP_UPSERT;
	b.count = 100;
	b.vectors = PTR(rows + N * DIM);
	b.keys = PTR(keys + N);
	b.tags = PTR(tags + N);
	return batch(fd, &b) ? -1 : fd;
}

static const char *check_it(int fd)
{
	struct model m = { DIM, VEXFS_METRIC_COSINE, N + 100, rows, keys, dead };
	struct vexfs_vector_stats st = stats_of(fd);
	struct vexfs_search s = { 0 };
	const char *bad;
	float got[DIM];
	uint64_t tag;

	if (st.rows != N + 100 || st.live != N - N / 5 || st.dim != DIM || st.model_tag != 0xabcdef ||
	    st.metric != VEXFS_METRIC_COSINE || st.durable_rows != st.rows)
		return "statistics differ";
	for (int i = 0; i < N + 100; i += 7) {
		uint64_t row = get_key(fd, keys[i], got, &tag);

		if (i % 5 == 0 && i < N && row != VEXFS_ROW_NONE)
			return "a deleted row is back";
		if (dead[i])
			continue;
		if (row != i)
			return "a key has another row";
		if (memcmp(got, rows + i * DIM, sizeof(got)))
			return "a vector differs";
		if (tag != tags[i])
			return "a tag differs";
	}
	for (int q = 0; q < 5; q++) {
		bad = search_is_wrong(fd, &m, rows + q * 5 * DIM, 20, &s);
		if (bad)
			return bad;
	}
	return "right";
}

SCRATCH_CASE(remount_keeps_rows_keys_tags_and_tombstones)
{
	float *more;
	uint64_t key = 77;

	NEED_VEXFS();
	ASSERT_LE(0, make_it());
	/* The file is open, so a plain unmount is refused. */
	OK(chdir("/"));
	EXPECT_EQ(EBUSY, ERR(umount(getenv("VEXFS_SCRATCH_DIR"))));
	for (int fd = 3; fd < 20; fd++)
		close(fd);
	for (int round = 0; round < 3; round++) {
		int fd;

		OK(scratch_cycle());
		fd = open("f", O_RDWR);
		ASSERT_LE(0, fd);
		EXPECT_STREQ("right", check_it(fd));
		EXPECT_EQ(0, stats_of(fd).inserted);
		close(fd);
	}
	/* And it can be changed afterwards. */
	more = new_rows(9, 0, 1, DIM);
	OK(insert(open("f", O_RDWR), more, &key, 1));
	EXPECT_EQ(EEXIST, ERR(insert(open("f", O_RDWR), more, &keys[2], 1)));
}

/* Every name is taken everywhere, and is a limit: the best below it of the processor's. */
SCRATCH_CASE(every_simd_option_is_a_limit_and_finds_the_same)
{
	const char *dir = getenv("VEXFS_SCRATCH_DIR");
	int fd, best, want = 0;
	char option[32];

	NEED_VEXFS();
	fd = make_it();
	ASSERT_LE(0, fd);
	OK(fsync(fd));
	best = instruction_set_of(fd);
	for (int i = 0; i < INSTRUCTION_SETS; i++) {
		for (fd = 3; fd < 20; fd++)
			close(fd);
		OK(chdir("/"));
		OK(umount(dir));
		snprintf(option, sizeof(option), "simd=%s", instruction_sets[i].name);
		OK(mount(getenv("VEXFS_SCRATCH_DEV"), dir, "vexfs", 0, option));
		OK(chdir(dir));
		fd = open("f", O_RDWR);
		ASSERT_LE(0, fd);
		if (i <= best && instruction_sets[i].here)
			want = i;
		EXPECT_EQ(want, instruction_set_of(fd)) TH_LOG("%s", option);
		EXPECT_STREQ("right", check_it(fd)) TH_LOG("%s", option);
	}
}

SCRATCH_CASE(a_read_only_mount_searches_and_refuses_changes)
{
	float row[DIM] = { 0 };
	uint64_t key = 1;
	struct vexfs_create_vector arg = { .dim = 4, .element_type = 1, .metric = 1 };
	int fd;

	NEED_VEXFS();
	ASSERT_LE(0, make_it());
	ASSERT_EQ(0, put("empty", 0, 0));
	for (fd = 3; fd < 20; fd++)
		close(fd);
	OK(chdir("/"));
	OK(umount(getenv("VEXFS_SCRATCH_DIR")));
	OK(scratch_mount(MS_RDONLY));
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	fd = open("f", O_RDONLY);
	EXPECT_STREQ("right", check_it(fd));
	EXPECT_EQ(EROFS, ERR(open("f", O_RDWR)));
	/* A descriptor that was open for writing when it became read-only. */
	close(fd);
	OK(mount(NULL, getenv("VEXFS_SCRATCH_DIR"), NULL, MS_REMOUNT, NULL));
	fd = open("f", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(EBUSY, ERR(mount(NULL, getenv("VEXFS_SCRATCH_DIR"), NULL,
				   MS_REMOUNT | MS_RDONLY, NULL)));
	close(fd);
	OK(mount(NULL, getenv("VEXFS_SCRATCH_DIR"), NULL, MS_REMOUNT | MS_RDONLY, NULL));
	fd = open("f", O_RDONLY);
	EXPECT_STREQ("right", check_it(fd));
	EXPECT_NE(0, ERR(insert(fd, row, &key, 1)));
	EXPECT_NE(0, ERR(create_vector(open("empty", O_RDONLY), &arg)));
}

SCRATCH_CASE(a_batch_that_does_not_fit_changes_nothing)
{
	unsigned int dim = 1024, n = 1024, batches = 0;
	float *big_rows = malloc(n * dim * 4);
	struct vexfs_vector_stats st;
	struct vexfs_search s = { 0 };
	struct statfs before, after;
	uint64_t rows_before;
	int fd, err = 0;

	NEED_VEXFS();
	sync();
	OK(statfs(".", &before));
	fd = container("f", dim, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	while (batches < 1000) {
		make_rows(big_rows, 1, (uint64_t)batches * n, n, dim);
		rows_before = stats_of(fd).rows;
		err = ERR(insert(fd, big_rows, NULL, n));
		if (err)
			break;
		batches++;
	}
	ASSERT_EQ(ENOSPC, err);
	ASSERT_LT(2, batches);
	TH_LOG("%u batches fit", batches);
	st = stats_of(fd);
	EXPECT_EQ(rows_before, st.rows);
	EXPECT_EQ((uint64_t)batches * n, st.live);
	EXPECT_EQ((long)(st.rows * st.stride), size_of("f"));
	EXPECT_EQ(0, ERR(fsync(fd)));
	close(fd);
	OK(scratch_cycle());
	fd = open("f", O_RDWR);
	EXPECT_EQ((uint64_t)batches * n, stats_of(fd).live);
	make_rows(big_rows, 1, (batches - 1) * n, n, dim);
	for (unsigned int i = 0; i < n; i += 100) {
		float got[1024];

		ASSERT_EQ((batches - 1) * n + i, get_key(fd, (batches - 1) * n + i, got, NULL));
		ASSERT_EQ(0, memcmp(got, big_rows + i * dim, dim * 4));
	}
	(void)s;
	close(fd);
	OK(unlink("f"));
	sync();
	OK(statfs(".", &after));
	EXPECT_LE((long)before.f_bfree - 64, (long)after.f_bfree);
}

/* Blocks of a file that is gone can't be used before a commit, which batches wait for. */
SCRATCH_CASE(a_batch_takes_space_that_a_commit_frees)
{
	enum { ROWS = 20000 };
	float *rows = new_rows(1, 0, ROWS, DIM);
	uint64_t *gone = malloc(ROWS * sizeof(*gone));
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_BY_ROW, .count = ROWS,
				 .rows = PTR(gone) };
	static char bytes[1 << 20];
	int fd, filler;

	NEED_VEXFS();
	for (int i = 0; i < ROWS; i++)
		gone[i] = i;
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, ROWS));
	filler = open("filler", O_CREAT | O_WRONLY, 0600);
	while (write(filler, bytes, sizeof(bytes)) > 0)
		;
	ASSERT_EQ(ENOSPC, errno);
	close(filler);
	sync();
	OK(unlink("filler"));
	/* A record for each, of which there was none. */
	OK(batch(fd, &b));
	EXPECT_EQ(0, stats_of(fd).live);
	close(fd);
	OK(scratch_cycle());
	fd = open("f", O_RDWR);
	EXPECT_EQ(0, stats_of(fd).live);
	close(fd);
	free(rows);
	free(gone);
}

/* A batch that fails in the middle of a transaction, in which the tree of keys has grown. */
SCRATCH_CASE(keys_that_do_not_fit_leave_those_there_are)
{
	enum { ROWS = 30000, FIRST = 1000, MORE = 2900 };
	float *rows = new_rows(1, 0, MORE, DIM), got[DIM];
	uint64_t *ids = malloc(ROWS * sizeof(*ids)), n = FIRST;
	struct vexfs_create_vector arg = { .size = sizeof(arg), .element_type = VEXFS_ELEMENT_F32,
					   .metric = VEXFS_METRIC_L2, .dim = DIM, .reserve_rows = ROWS };
	static char bytes[1 << 20];
	int fd, filler, err = 0;
	ssize_t some;

	NEED_VEXFS();
	for (int i = 0; i < ROWS; i++)
		ids[i] = key_of(i);
	fd = open("f", O_CREAT | O_RDWR, 0644);
	OK(create_vector(fd, &arg));
	OK(insert(fd, rows, ids, FIRST));
	filler = open("filler", O_CREAT | O_WRONLY, 0600);
	for (size_t len = sizeof(bytes); len >= 4096; len = some > 0 ? len : len / 2)
		some = write(filler, bytes, len);
	close(filler);
	sync();
	while (!err && n + MORE <= ROWS) {
		err = ERR(insert(fd, rows, ids + n, MORE));
		n += err ? 0 : MORE;
	}
	ASSERT_EQ(ENOSPC, err);
	TH_LOG("%lu keys fit", (unsigned long)n);
	for (int pass = 0; pass < 2; pass++) {
		EXPECT_EQ(n, stats_of(fd).live);
		for (uint64_t i = 0; i < n; i++) {
			ASSERT_EQ(i, get_key(fd, ids[i], got, NULL)) {
				TH_LOG("key %lu is lost, pass %d", (unsigned long)i, pass);
			}
		}
		close(fd);
		OK(scratch_cycle());
		fd = open("f", O_RDWR);
	}
	OK(unlink("filler"));
	OK(insert(fd, rows, ids + n, MORE));
	EXPECT_EQ(n + MORE, stats_of(fd).live);
	close(fd);
	free(rows);
	free(ids);
}

SCRATCH_CASE(an_upsert_that_does_not_fit_leaves_every_key)
{
	enum { ROWS = 500, WIDE = 512 };
	float *old = new_rows(1, 0, ROWS, WIDE), *other = new_rows(2, 0, ROWS, WIDE), got[WIDE];
	uint64_t ids[ROWS];
	struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = ROWS, .vectors = PTR(other),
				 .keys = PTR(ids) };
	char name[32];
	int fd, err = 0;

	NEED_VEXFS();
	for (int i = 0; i < ROWS; i++)
		ids[i] = key_of(i);
	fd = container("f", WIDE, VEXFS_METRIC_L2);
	OK(insert(fd, old, ids, ROWS));
	OK(fsync(fd));
	for (int i = 0; !err && i < 100000; i++) {
		snprintf(name, sizeof(name), "fill%d", i);
		err = put(name, 60000, i);
	}
	ASSERT_EQ(ENOSPC, err);
	/* A few may still fit into what was preallocated. */
	for (int i = 0; i < 40; i++) {
		err = ERR(batch(fd, &b));
		if (err)
			break;
		memcpy(old, other, ROWS * WIDE * 4);
		make_rows(other, 3 + i, 0, ROWS, WIDE);
	}
	ASSERT_EQ(ENOSPC, err);
	for (int pass = 0; pass < 2; pass++) {
		EXPECT_EQ(ROWS, stats_of(fd).live);
		for (int i = 0; i < ROWS; i++) {
			ASSERT_GT(VEXFS_ROW_NONE - 1, get_key(fd, ids[i], got, NULL)) {
				TH_LOG("key %d is lost, pass %d", i, pass);
			}
			ASSERT_EQ(0, memcmp(got, old + i * WIDE, sizeof(got)));
		}
		close(fd);
		OK(scratch_cycle());
		fd = open("f", O_RDWR);
	}
}

SCRATCH_CASE(containers_are_found_after_the_inode_was_forgotten)
{
	NEED_VEXFS();
	ASSERT_LE(0, make_it());
	for (int fd = 3; fd < 20; fd++)
		close(fd);
	for (int round = 0; round < 5; round++) {
		int fd;

		drop_caches();
		fd = open("f", O_RDONLY);
		EXPECT_STREQ("right", check_it(fd));
		close(fd);
	}
}

TEST_HARNESS_MAIN
