// SPDX-License-Identifier: GPL-2.0
/*
 * Inverted lists, product quantisers and hash tables that outlive their mount: the same
 * index after it, changes that an image does not have, and checks of it.
 */
#include "vector_lists.h"
#include "vexfs_device.h"

SCRATCH_FIXTURE(scratch)

#define N 1000

/* Checks an index; what is wrong with it, as one number, or -errno. */
static long long findings(int fd, unsigned int kind, unsigned int flags, uint64_t *rows)
{
	struct vexfs_index_check check = { .size = sizeof(check), .flags = flags, .index_kind = kind };

	if (ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check))
		return -errno;
	*rows = check.rows;
	return check.faults + check.unreachable + check.wrong_codes + check.wrong_rows +
	       check.bad_images;
}

static void close_all(void)
{
	for (int fd = 3; fd < 30; fd++)
		close(fd);
}

/* Mounts again with @flags, and opens "f". */
static int again(unsigned long flags)
{
	close_all();
	if (chdir("/") || umount(getenv("VEXFS_SCRATCH_DIR")) ||
	    mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", flags, NULL) ||
	    chdir(getenv("VEXFS_SCRATCH_DIR")))
		return -1;
	return open("f", flags & MS_RDONLY ? O_RDONLY : O_RDWR);
}

static unsigned int state_of(int fd, unsigned int kind)
{
	struct vexfs_index_stats st = { 0 };

	return stats_of_kind(fd, kind, &st) ? 0 : st.state;
}

/* Waits until no index of the kind is being built; what statistics say then. */
static struct vexfs_index_stats built(int fd, unsigned int kind)
{
	struct vexfs_index_stats st = { 0 };

	for (int i = 0; i < 20000 && !stats_of_kind(fd, kind, &st); i++) {
		if (st.state != VEXFS_INDEX_BUILDING && st.state != VEXFS_INDEX_REBUILDING)
			break;
		usleep(10000);
	}
	return st;
}

SCRATCH_CASE(indexes_are_the_same_after_a_remount)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	static struct vexfs_hit before[6][NQ * K], after[NQ * K];
	struct vexfs_index_stats old[6] = { 0 };
	uint64_t digests[6], looked;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, N));
	FOR_EACH_WAY_OF_CHANGES(way) {
		unsigned int kind = way->build.index_kind;
		struct vexfs_search s = wide(way);

		/* One of a kind at a time. */
		if (way == &ways[1])
			continue;
		OK(build_way(fd, way, 0));
		digests[kind] = digest_of_kind(fd, kind);
		OK(stats_of_kind(fd, kind, &old[kind]));
		run_search(_metadata, fd, queries, &s, kind, before[kind]);
	}
	for (int round = 0; round < 2; round++) {
		/* Also where nothing can be written. */
		fd = again(round ? 0 : MS_RDONLY);
		ASSERT_LE(0, fd);
		FOR_EACH_WAY_OF_CHANGES(way) {
			unsigned int kind = way->build.index_kind;
			struct vexfs_search s = wide(way);
			struct vexfs_index_stats st = { 0 };

			if (way == &ways[1])
				continue;
			OK(stats_of_kind(fd, kind, &st));
			EXPECT_EQ(VEXFS_INDEX_STORED, st.state);
			EXPECT_EQ(old[kind].nlist, st.nlist);
			EXPECT_EQ(old[kind].nsub, st.nsub);
			EXPECT_EQ(old[kind].nbits, st.nbits);
			EXPECT_EQ(old[kind].ntables, st.ntables);
			run_search(_metadata, fd, queries, &s, kind, after);
			EXPECT_LT(0, s.hops) TH_LOG("%s", way->name);
			EXPECT_EQ(0, s.rows_exact);
			EXPECT_EQ(0, memcmp(before[kind], after, sizeof(after)));
			OK(stats_of_kind(fd, kind, &st));
			EXPECT_EQ(VEXFS_INDEX_READY, st.state);
			EXPECT_EQ(N, st.nodes);
			EXPECT_EQ(N, st.watermark);
			EXPECT_EQ(1000, st.trained);
			EXPECT_EQ(digests[kind], digest_of_kind(fd, kind));
			EXPECT_EQ(0, findings(fd, kind, 0, &looked)) TH_LOG("%s", way->name);
			EXPECT_EQ(N, looked);
		}
	}
}

SCRATCH_CASE(what_changes_after_the_image_is_found_too)
{
	float *rows = new_clustered(1, 0, 2 * N), *queries = new_clustered(2, 0, NQ);
	uint64_t keys[100], key = 5, looked;
	struct vexfs_hit hits[NQ * K];

	NEED_VEXFS();
	FOR_EACH_WAY_OF_CHANGES(way) {
		unsigned int kind = way->build.index_kind, live = N + 200 - 100;
		struct vexfs_search s = wide(way);
		struct vexfs_index_stats st = { 0 };
		int fd = container("f", DIM, VEXFS_METRIC_L2);

		OK(insert(fd, rows, NULL, N));
		OK(build_way(fd, way, 0));
		/* Not in memory: batches change the container alone. */
		fd = again(0);
		ASSERT_LE(0, fd);
		OK(insert(fd, rows + N * DIM, NULL, 200));
		for (int i = 0; i < 100; i++)
			keys[i] = i * 7;
		OK(delete_keys(fd, keys, 100));
		EXPECT_EQ(VEXFS_INDEX_STORED, state_of(fd, kind));
		for (int round = 0; round < 2; round++) {
			EXPECT_RECALL_OF(850, fd, way, queries, &s);
			EXPECT_EQ(0, s.rows_exact);
			OK(stats_of_kind(fd, kind, &st));
			EXPECT_EQ(live, st.nodes) TH_LOG("%s", way->name);
			EXPECT_EQ(N + 200, st.watermark);
			EXPECT_EQ(0, findings(fd, kind, 0, &looked)) TH_LOG("%s", way->name);
			/* Saved at unmount: nothing is left to do. */
			fd = again(0);
			ASSERT_LE(0, fd);
		}
		/* In memory: they change the index as well. */
		run_search(_metadata, fd, queries, &s, kind, hits);
		OK(delete_keys(fd, &key, 1));
		OK(insert(fd, rows + 5 * DIM, NULL, 1));
		ASSERT_EQ(DIM * 4, pwrite(fd, queries, DIM * 4, 9 * DIM * 4));
		fd = again(0);
		run_search(_metadata, fd, rows + 5 * DIM, &s, kind, hits);
		EXPECT_EQ(N + 200, hits[0].row) TH_LOG("%s", way->name);
		EXPECT_EQ(0, hits[0].distance);
		run_search(_metadata, fd, queries, &s, kind, hits);
		EXPECT_EQ(9, hits[0].row) TH_LOG("%s", way->name);
		EXPECT_EQ(0, s.rows_exact);
		EXPECT_EQ(0, findings(fd, kind, 0, &looked)) TH_LOG("%s", way->name);
		/* Not in memory it can't follow what is overwritten. */
		fd = again(0);
		ASSERT_EQ(DIM * 4, pwrite(fd, rows, DIM * 4, 9 * DIM * 4));
		EXPECT_LT(0, findings(fd, kind, 0, &looked));
		EXPECT_EQ(VEXFS_INDEX_UNUSABLE, state_of(fd, kind));
		EXPECT_LT(0, findings(fd, kind, VEXFS_CHECK_REPAIR, &looked));
		EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd, kind));
		EXPECT_EQ(0, findings(fd, kind, 0, &looked));
		EXPECT_RECALL_OF(850, fd, way, queries, &s);
		EXPECT_LT(0, s.hops);
		close(fd);
		OK(unlink("f"));
	}
}

/* Rows in two lists each, without codes and with. */
static const struct way *const twice[] = { &ways[1], &signs_twice };

#define ROOM 1000

/* What is in a container. */
struct contents {
	uint64_t n, keys[ROOM];
	bool dead[ROOM];
	float rows[ROOM * DIM];
};

static uint64_t row_of(const struct contents *c, uint64_t key)
{
	uint64_t row = c->n;

	while (row-- && (c->dead[row] || c->keys[row] != key))
		;
	return row;
}

/* Deletes 30 rows and replaces as many, from key @from on. */
static int change(int fd, struct contents *c, uint64_t from)
{
	uint64_t gone[30], *replaced = c->keys + c->n;
	struct vexfs_batch upsert = { .op = VEXFS_OP_UPSERT, .count = 30, .keys = PTR(replaced),
				      .vectors = PTR(c->rows + c->n * DIM) };

	for (int i = 0; i < 30; i++) {
		gone[i] = from + 3 * i;
		replaced[i] = from + 3 * i + 1;
		c->dead[row_of(c, gone[i])] = true;
		c->dead[row_of(c, replaced[i])] = true;
	}
	make_clustered(c->rows + c->n * DIM, 3, c->n, 30);
	if (delete_keys(fd, gone, 30) || batch(fd, &upsert))
		return -1;
	c->n += 30;
	return 0;
}

/* A search of the index for more rows than there are finds all that are left, each once. */
#define EXPECT_ALL_OF(fd, way, c) do {							\
	struct model model_ = { DIM, VEXFS_METRIC_L2, (c)->n, (c)->rows, (c)->keys, (c)->dead };	\
	struct vexfs_search s_ = { .index_kind = VEXFS_INDEX_IVF, .nprobe = (way)->build.nlist,	\
				   .rerank = (way)->rerank ? 2 * ROOM : 0 };		\
	const char *bad_ = search_is_wrong(fd, &model_, queries, ROOM, &s_);		\
											\
	EXPECT_STREQ("right", bad_ ?: "right") TH_LOG("%s", (way)->name);		\
	EXPECT_LT(0, s_.hops);								\
	EXPECT_EQ(0, s_.rows_exact);							\
} while (0)

SCRATCH_CASE(rows_in_two_lists_are_found_once_whatever_comes_and_goes)
{
	float *queries = new_clustered(2, 0, NQ);
	static struct contents c;

	NEED_VEXFS();
	for (int i = 0; i < 2; i++) {
		const struct way *way = twice[i];
		struct vexfs_index_stats st = { 0 };
		uint64_t looked;
		int fd = container("f", DIM, VEXFS_METRIC_L2);

		memset(&c, 0, sizeof(c));
		c.n = 600;
		make_clustered(c.rows, 1, 0, c.n);
		for (uint64_t row = 0; row < c.n; row++)
			c.keys[row] = row;
		OK(insert(fd, c.rows, c.keys, c.n));
		OK(build_way(fd, way, 0));
		/* In memory: the index follows, and unmounting saves it. */
		OK(change(fd, &c, 0));
		make_clustered(c.rows + 400 * DIM, 5, 0, 20);
		ASSERT_EQ(20 * DIM * 4, pwrite(fd, c.rows + 400 * DIM, 20 * DIM * 4, 400 * DIM * 4));
		EXPECT_ALL_OF(fd, way, &c);
		fd = again(0);
		/* Not in memory: the first search finds what has changed since. */
		OK(change(fd, &c, 100));
		EXPECT_EQ(VEXFS_INDEX_STORED, state_of(fd, VEXFS_INDEX_IVF));
		EXPECT_ALL_OF(fd, way, &c);
		OK(change(fd, &c, 200));
		EXPECT_ALL_OF(fd, way, &c);
		fd = again(MS_RDONLY);
		EXPECT_ALL_OF(fd, way, &c);
		OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
		EXPECT_EQ(2, st.ntables);
		EXPECT_EQ(600 - 3 * 30, st.nodes);
		EXPECT_EQ(c.n, st.watermark);
		EXPECT_EQ(0, findings(fd, VEXFS_INDEX_IVF, 0, &looked)) TH_LOG("%s", way->name);
		EXPECT_EQ(c.n, looked);
		fd = again(0);
		OK(unlink("f"));
	}
}

/* The header of an image is before its checksums. */
#define HEADER(sums, at) ((sums) - BLOCK + (at))

static int flip_rows(off_t sums)
{
	return flip(data_at(sums, 1, 3000), 0x10);
}

/* In the last block, which any bytes could be in. */
static int flip_centroids(off_t sums)
{
	uint64_t blocks;

	return device_io(HEADER(sums, 88), &blocks, 8, false) ?: flip(data_at(sums, blocks - 1, 17), 0x10);
}

/* Takes the last row out of a list, though it is in another one; under checksums that fit, as what follows. */
static int lose_one_of_two(off_t sums)
{
	uint32_t slots;

	for (int list = 0; list < 8; list++) {
		if (device_io(data_at(sums, 0, 16 * list + 4), &slots, 4, false))
			return -1;
		/* Its blocks stay those that it needs. */
		if (slots % 32 > 1)
			return set_data(sums, 0, 16 * list + 4, slots - 1);
	}
	return -1;
}

/* Puts a row of another list into the place of one, without codes: it is in three places then, the other in one. */
static int put_into_a_third(off_t sums)
{
	uint32_t rows[2], block;
	unsigned int d[2], at[2];

	for (int i = 0; i < 2; i++) {
		if (device_io(data_at(sums, 0, 16 * i), &block, 4, false))
			return -1;
		/* 21 blocks of 48 words each in one of the volume, with rows from word 16 on. */
		d[i] = 1 + block / 21;
		at[i] = block % 21 * 192 + 64;
		if (device_io(data_at(sums, d[i], at[i]), &rows[i], 4, false))
			return -1;
	}
	return rows[0] == rows[1] ? -1 : set_data(sums, d[0], at[0], rows[1]);
}

/* Says that each row is in one list. */
static int claim_one_list(off_t sums)
{
	uint32_t one = 1;

	return device_io(HEADER(sums, 84), &one, 4, true) ?: seal_block(HEADER(sums, 0));
}

SCRATCH_CASE(damage_to_rows_in_two_lists_is_noticed_and_mended)
{
	static const struct { const char *name; int (*damage)(off_t sums); int way; } damages[] = {
		{ "rows", flip_rows, 0 }, { "centroids", flip_centroids, 1 },
		{ "one of two lists", lose_one_of_two, 0 }, { "one of two codes", lose_one_of_two, 1 },
		{ "three lists", put_into_a_third, 0 }, { "one list each", claim_one_list, 1 },
	};
	const unsigned int n = 300;
	float *rows = new_clustered(1, 0, n), *queries = new_clustered(2, 0, NQ);

	NEED_VEXFS();
	for (int i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
		const struct way *way = twice[damages[i].way];
		struct vexfs_search s = wide(way);
		struct vexfs_index_stats st;
		uint64_t key = 5, looked;
		off_t sums;
		int fd = container("f", DIM, VEXFS_METRIC_L2);

		ASSERT_LE(0, fd);
		OK(insert(fd, rows, NULL, n));
		OK(build_way(fd, way, 0));
		close_all();
		OK(chdir("/"));
		OK(umount(getenv("VEXFS_SCRATCH_DIR")));
		sums = find_block("vSum", 4);
		ASSERT_LT(0, sums);
		ASSERT_EQ(0, damages[i].damage(sums)) TH_LOG("%s", damages[i].name);
		OK(scratch_mount(0));
		OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
		fd = open("f", O_RDWR);
		/* Reported to who asks, and to a search, by whichever comes first. */
		if (i % 2) {
			EXPECT_EQ(1, findings(fd, VEXFS_INDEX_IVF, 0, &looked)) TH_LOG("%s", damages[i].name);
			EXPECT_EQ(VEXFS_INDEX_UNUSABLE, state_of(fd, VEXFS_INDEX_IVF));
		}
		EXPECT_RECALL_OF(1000, fd, way, queries, &s);
		EXPECT_EQ(0, s.hops) TH_LOG("%s: not noticed", damages[i].name);
		/* Batches go on, and it is built again in the background, with rows in two lists. */
		OK(insert(fd, rows, NULL, 1));
		OK(delete_keys(fd, &key, 1));
		st = built(fd, VEXFS_INDEX_IVF);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state) TH_LOG("%s", damages[i].name);
		EXPECT_EQ(2, st.ntables);
		EXPECT_EQ(way->build.nlist, st.nlist);
		/* The next batch takes in what came too late for the build. */
		EXPECT_EQ(n, st.nodes + n + 1 - st.watermark);
		EXPECT_RECALL_OF(900, fd, way, queries, &s);
		EXPECT_LT(0, s.hops);
		EXPECT_EQ(0, findings(fd, VEXFS_INDEX_IVF, 0, &looked)) TH_LOG("%s", damages[i].name);
		/* So that the next image lies where this one did, before what is left of others. */
		close_all();
		OK(chdir("/"));
		OK(umount(getenv("VEXFS_SCRATCH_DIR")));
		OK(scratch_format());
		OK(scratch_mount(0));
		OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	}
	free(rows);
	free(queries);
}

SCRATCH_CASE(lists_made_for_few_rows_are_made_anew_for_many)
{
	const unsigned int few = 500, many = 4400;
	static const unsigned int kinds[] = { VEXFS_INDEX_IVF, VEXFS_INDEX_PQ };
	float *rows = new_clustered(1, 0, many), *queries = new_clustered(2, 0, NQ);
	struct vexfs_build_index chosen = { .size = sizeof(chosen), .index_kind = VEXFS_INDEX_IVF, .nlist = 12 };
	struct vexfs_search s = { 0 };
	struct vexfs_hit hits[NQ * K];
	struct vexfs_index_stats st;
	uint64_t digests[2], looked;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, few));
	for (int i = 0; i < 2; i++) {
		struct vexfs_build_index build = { .size = sizeof(build), .index_kind = kinds[i] };

		OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build));
		digests[i] = digest_of_kind(fd, kinds[i]);
	}
	st = built(fd, VEXFS_INDEX_IVF);
	EXPECT_EQ(64, st.nlist);
	/* Known after a mount too. */
	fd = again(0);
	ASSERT_LE(0, fd);
	for (int i = 0; i < 2; i++) {
		run_search(_metadata, fd, queries, &s, kinds[i], hits);
		EXPECT_EQ(digests[i], digest_of_kind(fd, kinds[i]));
	}
	OK(insert(fd, rows + few * DIM, NULL, many - few - 1));
	for (int i = 0; i < 2; i++) {
		st = built(fd, kinds[i]);
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(0, st.build_error);
		EXPECT_EQ(many - 1, st.nodes);
		if (kinds[i] == VEXFS_INDEX_IVF)
			EXPECT_EQ(256, st.nlist);
		EXPECT_NE(digests[i], digest_of_kind(fd, kinds[i]));
		digests[i] = digest_of_kind(fd, kinds[i]);
		EXPECT_EQ(0, findings(fd, kinds[i], 0, &looked));
	}
	/* The planner takes it: of so many rows a part is less work. */
	run_search(_metadata, fd, queries, &s, VEXFS_INDEX_AUTO, hits);
	EXPECT_LT(0, s.hops);
	EXPECT_EQ(0, s.rows_exact);
	/* Once. */
	OK(insert(fd, rows + (many - 1) * DIM, NULL, 1));
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd, VEXFS_INDEX_IVF));
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd, VEXFS_INDEX_PQ));
	/* A number of lists that was asked for stays, if each had rows enough to learn from. */
	close(fd);
	fd = container("g", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, few));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &chosen));
	OK(insert(fd, rows + few * DIM, NULL, many - few));
	OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(12, st.nlist);
	EXPECT_EQ(many, st.nodes);
	close(fd);
	free(rows);
	free(queries);
}

TEST_HARNESS_MAIN
