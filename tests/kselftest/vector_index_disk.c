// SPDX-License-Identifier: GPL-2.0
/*
 * Indexes that outlive their mount: the same index after it, changes that an
 * image does not have, images that are damaged, outdated or do not fit, and
 * space that comes back.
 */
#include "vector_index.h"
#include "vexfs_device.h"
#include <sys/statfs.h>

SCRATCH_FIXTURE(scratch)

#define N 1200

static unsigned int state_of(int fd)
{
	struct vexfs_index_stats st = { 0 };

	return index_stats(fd, &st) ? 0 : st.state;
}

/* Waits until the index is built again in the background; its state then. */
static unsigned int settled(int fd)
{
	unsigned int state;

	do {
		usleep(1000);
		state = state_of(fd);
	} while (state == VEXFS_INDEX_BUILDING || state == VEXFS_INDEX_REBUILDING);
	return state;
}

/* Checks the index; what is wrong with it, as one number, or -errno. */
static long long findings(int fd, unsigned int flags, struct vexfs_index_check *check)
{
	memset(check, 0, sizeof(*check));
	check->size = sizeof(*check);
	check->flags = flags;
	check->index_kind = VEXFS_INDEX_HNSW;
	if (ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, check))
		return -errno;
	return check->faults + check->unreachable + check->wrong_codes + check->wrong_rows +
	       check->bad_images;
}

static void close_all(void)
{
	for (int fd = 3; fd < 30; fd++)
		close(fd);
}

/* Mounts again with @options, and opens "f" for reading, or writing too. */
static int again(const char *options, unsigned long flags)
{
	close_all();
	if (chdir("/") || umount(getenv("VEXFS_SCRATCH_DIR")) ||
	    mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", flags, options) ||
	    chdir(getenv("VEXFS_SCRATCH_DIR")))
		return -1;
	return open("f", flags & MS_RDONLY ? O_RDONLY : O_RDWR);
}

/* A container "f" of @n clustered rows with an index; -1 if that fails. */
static int make_it(const float *rows, unsigned int n)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	return fd < 0 || insert(fd, rows, NULL, n) || build(fd, 0, 0, 0) ? -1 : fd;
}

SCRATCH_CASE(an_index_is_the_same_after_a_remount)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_index_stats before = { 0 }, after = { 0 };
	struct vexfs_hit first[NQ * K], second[NQ * K];
	uint64_t digest;
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	digest = digest_of(fd);
	OK(index_stats(fd, &before));
	run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, first);
	for (int round = 0; round < 3; round++) {
		/* Also where nothing can be written. */
		fd = again(NULL, round == 1 ? MS_RDONLY : 0);
		ASSERT_LE(0, fd);
		OK(index_stats(fd, &after));
		EXPECT_EQ(VEXFS_INDEX_STORED, after.state);
		EXPECT_EQ(before.m, after.m);
		EXPECT_EQ(before.ef_construction, after.ef_construction);
		EXPECT_EQ(0, after.resident_bytes);
		run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, second);
		EXPECT_LT(0, s.hops);
		EXPECT_EQ(0, memcmp(first, second, sizeof(first)));
		EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
		EXPECT_EQ(digest, digest_of(fd));
		OK(index_stats(fd, &after));
		EXPECT_EQ(N, after.nodes);
		EXPECT_EQ(N, after.watermark);
		EXPECT_EQ(1, stats_of(fd).index_count);
	}
	/* A search that leaves the choice loads it too. */
	fd = again(NULL, 0);
	run_search(_metadata, fd, queries, &s, VEXFS_INDEX_AUTO, second);
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
	/* And so does a build that must not replace it. */
	fd = again(NULL, 0);
	EXPECT_EQ(EEXIST, ERR(build(fd, 0, 0, 0)));
}

SCRATCH_CASE(what_changes_after_the_image_is_found_too)
{
	float *rows = new_clustered(1, 0, 2 * N), *queries = new_clustered(2, 0, NQ);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_index_stats st = { 0 };
	uint64_t key = 5, keys[100];
	struct vexfs_hit hits[NQ * K];
	unsigned int live = 2 * N - 100;
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	/* Not in memory: batches change the container alone. */
	fd = again(NULL, 0);
	OK(insert(fd, rows + N * DIM, NULL, N));
	for (int i = 0; i < 100; i++)
		keys[i] = i * 11;
	OK(delete_keys(fd, keys, 100));
	EXPECT_EQ(VEXFS_INDEX_STORED, state_of(fd));
	for (int round = 0; round < 2; round++) {
		EXPECT_RECALL(960, fd, queries, &s);
		OK(index_stats(fd, &st));
		EXPECT_EQ(live, st.nodes);
		EXPECT_EQ(2 * N, st.watermark);
		EXPECT_EQ(0, s.rows_exact);
		/* Saved at unmount: nothing is left to do. */
		fd = again(NULL, 0);
		ASSERT_LE(0, fd);
	}
	/* In memory: they change the index as well. */
	run_search(_metadata, fd, queries, &s, VEXFS_INDEX_HNSW, hits);
	OK(delete_keys(fd, &key, 1));
	OK(insert(fd, rows + 5 * DIM, NULL, 1));
	fd = again(NULL, 0);
	run_search(_metadata, fd, rows + 5 * DIM, &s, VEXFS_INDEX_HNSW, hits);
	EXPECT_EQ(2 * N, hits[0].row);
	EXPECT_EQ(0, hits[0].distance);
	EXPECT_EQ(0, s.rows_exact);
	OK(index_stats(fd, &st));
	EXPECT_EQ(live, st.nodes);
}

SCRATCH_CASE(rows_overwritten_in_place_outdate_an_image)
{
	float *rows = new_clustered(1, 0, N), *others = new_clustered(3, 0, N);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_hit hits[NQ * K];
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	/* In memory the index follows, and unmount saves it. */
	ASSERT_EQ(200 * DIM * 4, pwrite(fd, others, 200 * DIM * 4, 0));
	EXPECT_RECALL(960, fd, others, &s);
	fd = again(NULL, 0);
	EXPECT_RECALL(960, fd, others, &s);
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
	/* Not in memory it can't follow: it is noticed, and exact hits are hits too. */
	fd = again(NULL, 0);
	ASSERT_EQ(200 * DIM * 4, pwrite(fd, others + 200 * DIM, 200 * DIM * 4, 200 * DIM * 4));
	EXPECT_RECALL(1000, fd, others + 200 * DIM, &s);
	EXPECT_EQ(0, s.hops);
	/* It is built again in the background. */
	EXPECT_EQ(VEXFS_INDEX_READY, settled(fd));
	EXPECT_RECALL(960, fd, others + 200 * DIM, &s);
	EXPECT_LT(0, s.hops);
	/* Where nothing can be written it stays as it is. */
	fd = again(NULL, 0);
	ASSERT_EQ(DIM * 4, pwrite(fd, others, DIM * 4, 0));
	fd = again(NULL, MS_RDONLY);
	EXPECT_RECALL(1000, fd, others + 200 * DIM, &s);
	EXPECT_EQ(VEXFS_INDEX_UNUSABLE, state_of(fd));
	/* A build need not say that it replaces one. */
	fd = again(NULL, 0);
	OK(build(fd, 0, 0, 0));
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
	fd = again(NULL, 0);
	run_search(_metadata, fd, others + 200 * DIM, &s, VEXFS_INDEX_HNSW, hits);
	EXPECT_LT(0, s.hops);
	EXPECT_EQ(200, hits[0].row);
}

SCRATCH_CASE(a_dropped_index_is_gone_for_good)
{
	float *rows = new_clustered(1, 0, N);
	struct vexfs_hit hits[NQ * K];
	struct vexfs_search s = { 0 };
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	EXPECT_EQ(ENOENT, ERR(build(fd, VEXFS_BUILD_DROP, 0, 0)));
	fd = again(NULL, 0);
	EXPECT_EQ(0, state_of(fd));
	s.nq = NQ;
	s.k = K;
	s.index_kind = VEXFS_INDEX_HNSW;
	s.queries = PTR(rows);
	s.hits = PTR(hits);
	EXPECT_EQ(ENOENT, ERR(search(fd, &s)));
	/* Without having been loaded. */
	OK(build(fd, 0, 0, 0));
	fd = again(NULL, 0);
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	fd = again(NULL, 0);
	EXPECT_EQ(0, state_of(fd));
}

static unsigned long free_blocks(void)
{
	struct statfs fs;

	sync();
	return statfs(".", &fs) ? 0 : fs.f_bfree;
}

SCRATCH_CASE(a_check_finds_what_is_wrong_and_repairs_it)
{
	float *rows = new_clustered(1, 0, N), zeros[DIM] = { 0 };
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_index_check check;
	uint64_t keys[300];
	off_t at;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-ENOENT, findings(fd, 0, &check));
	OK(insert(fd, rows, NULL, N));
	OK(build(fd, 0, 0, 0));
	EXPECT_EQ(0, findings(fd, 0, &check));
	EXPECT_EQ(N, check.rows);
	for (int i = 0; i < 300; i++)
		keys[i] = i * 3;
	OK(delete_keys(fd, keys, 300));
	OK(insert(fd, rows, NULL, 100));
	EXPECT_EQ(0, findings(fd, 0, &check));
	EXPECT_EQ(N + 100, check.rows);
	fd = again(NULL, 0);
	EXPECT_EQ(0, findings(fd, 0, &check));
	EXPECT_EQ(N + 100, check.rows);

	/* A vector that changes behind the back of VexFS. */
	close_all();
	OK(chdir("/"));
	OK(umount(getenv("VEXFS_SCRATCH_DIR")));
	at = find_block(rows, sizeof(zeros));
	ASSERT_LT(0, at);
	/* Row 1: row 0 is deleted. */
	OK(device_io(at + sizeof(zeros), zeros, sizeof(zeros), true));
	OK(scratch_mount(0));
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	fd = open("f", O_RDWR);
	EXPECT_EQ(1, findings(fd, 0, &check));
	EXPECT_EQ(1, check.wrong_codes);
	EXPECT_EQ(-EBADF, findings(open("f", O_RDONLY), VEXFS_CHECK_REPAIR, &check));
	EXPECT_EQ(1, findings(fd, VEXFS_CHECK_REPAIR, &check));
	EXPECT_EQ(0, findings(fd, VEXFS_CHECK_REPAIR, &check));

	/* An outdated image. */
	fd = again(NULL, 0);
	ASSERT_EQ(DIM * 4, pwrite(fd, zeros, DIM * 4, 5 * DIM * 4));
	EXPECT_EQ(1, findings(fd, 0, &check));
	EXPECT_EQ(1, check.bad_images);
	EXPECT_EQ(VEXFS_INDEX_UNUSABLE, state_of(fd));
	EXPECT_EQ(1, findings(fd, VEXFS_CHECK_REPAIR, &check));
	EXPECT_EQ(0, findings(fd, 0, &check));
	EXPECT_RECALL(960, fd, rows + 10 * DIM, &s);

	check = (struct vexfs_index_check) { .size = sizeof(check), .flags = 2, .index_kind = 2 };
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check)));
	check = (struct vexfs_index_check) { .size = sizeof(check), .index_kind = VEXFS_INDEX_EXACT };
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check)));
	check = (struct vexfs_index_check) { .size = sizeof(check), .index_kind = 2, .reserved0 = 1 };
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check)));
	check = (struct vexfs_index_check) { .size = 8, .index_kind = 2 };
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check)));
}

SCRATCH_CASE(images_give_their_space_back)
{
	float *rows = new_clustered(1, 0, N);
	unsigned long empty, with_rows, with_index;
	int fd;

	NEED_VEXFS();
	empty = free_blocks();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, N));
	with_rows = free_blocks();
	OK(build(fd, 0, 0, 0));
	with_index = free_blocks();
	/* About as much as the index takes in memory: 160 bytes of code and links a row at least. */
	EXPECT_LE(N * 160 / 4096, with_rows - with_index);
	EXPECT_GE(N * 400 / 4096 + 16, with_rows - with_index);
	for (int i = 0; i < 3; i++)
		OK(build(fd, VEXFS_BUILD_REPLACE, 0, 0));
	EXPECT_EQ(with_index, free_blocks());
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	/* But for the inode's tree of records, which has no block of its own. */
	EXPECT_EQ(with_rows, free_blocks());
	OK(build(fd, 0, 0, 0));
	EXPECT_EQ(with_index, free_blocks());
	close_all();
	OK(unlink("f"));
	EXPECT_EQ(empty, free_blocks());
}

SCRATCH_CASE(a_full_volume_keeps_the_index_in_memory)
{
	float *rows = new_clustered(1, 0, N);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_hit hits[NQ * K];
	int fd, filler;
	char block[65536] = { 1 };

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, N));
	OK(fsync(fd));
	filler = open("filler", O_RDWR | O_CREAT, 0600);
	while (write(filler, block, sizeof(block)) > 0)
		;
	while (write(filler, block, 512) > 0)
		;
	OK(build(fd, 0, 0, 0));
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
	EXPECT_RECALL(960, fd, rows, &s);
	/* It was never on disk, but that there is to be one: it is built again. */
	fd = again(NULL, 0);
	EXPECT_EQ(VEXFS_INDEX_UNUSABLE, state_of(fd));
	run_search(_metadata, fd, rows, &s, VEXFS_INDEX_HNSW, hits);
	EXPECT_EQ(0, s.hops);
	EXPECT_EQ(VEXFS_INDEX_READY, settled(fd));
	EXPECT_RECALL(960, fd, rows, &s);
}

SCRATCH_CASE(a_build_that_an_unmount_cuts_off_starts_again)
{
	unsigned int n = 4 * N;
	float *rows = new_clustered(1, 0, n);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_build_index b = { .size = sizeof(b), .flags = VEXFS_BUILD_BACKGROUND,
				       .index_kind = VEXFS_INDEX_HNSW, .m = 12, .ef_construction = 300 };
	struct vexfs_index_stats st = { 0 };
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, NULL, n));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	fd = again(NULL, 0);
	ASSERT_LE(0, fd);
	OK(index_stats(fd, &st));
	EXPECT_EQ(VEXFS_INDEX_UNUSABLE, st.state) TH_LOG("the build was done before the unmount");
	EXPECT_RECALL(1000, fd, rows, &s);
	EXPECT_EQ(VEXFS_INDEX_READY, settled(fd));
	OK(index_stats(fd, &st));
	EXPECT_EQ(12, st.m);
	EXPECT_EQ(300, st.ef_construction);
	EXPECT_EQ(n, st.nodes);
	EXPECT_RECALL(960, fd, rows, &s);
	EXPECT_LT(0, s.hops);
	/* One that is dropped does not. */
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	b.flags = VEXFS_BUILD_BACKGROUND;
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	OK(build(fd, VEXFS_BUILD_DROP, 0, 0));
	fd = again(NULL, 0);
	EXPECT_EQ(0, state_of(fd));
}

SCRATCH_CASE(a_ceiling_that_an_image_exceeds_is_no_loss)
{
	float *rows = new_clustered(1, 0, N);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_index_stats st = { 0 };
	struct vexfs_index_check check;
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	fd = again("index_memory=100K", 0);
	ASSERT_LE(0, fd);
	EXPECT_RECALL(1000, fd, rows, &s);
	EXPECT_EQ(0, s.hops);
	EXPECT_EQ(VEXFS_INDEX_STORED, state_of(fd));
	OK(index_stats(fd, &st));
	EXPECT_EQ(ENOMEM, st.build_error);
	/* It is there, and checking it takes as much memory. */
	EXPECT_EQ(-ENOMEM, findings(fd, 0, &check));
	EXPECT_EQ(EEXIST, ERR(build(fd, 0, 0, 0)));
	fd = again(NULL, 0);
	EXPECT_RECALL(960, fd, rows, &s);
	EXPECT_EQ(VEXFS_INDEX_READY, state_of(fd));
}

SCRATCH_CASE(a_damaged_image_is_noticed)
{
	/* A bit of: the header, the checksums, the first data block, a later one. */
	static const struct { const char *magic; int block, byte; } damage[] = {
		{ "vIdx", 0, 40 }, { "vIdx", 0, 300 }, { "vSum", 0, 70 }, { "vSum", 1, 0 },
		{ "vSum", 1, 4095 }, { "vSum", 20, 1234 }, { "vSum", 40, 17 },
	};
	float *rows = new_clustered(1, 0, N);
	struct vexfs_search s = { .ef = 100 };
	int fd;

	NEED_VEXFS();
	fd = make_it(rows, N);
	ASSERT_LE(0, fd);
	for (int i = 0; i < sizeof(damage) / sizeof(damage[0]); i += quick() ? 2 : 1) {
		off_t at;

		close_all();
		OK(chdir("/"));
		OK(umount(getenv("VEXFS_SCRATCH_DIR")));
		at = find_block(damage[i].magic, 4);
		ASSERT_LT(0, at) TH_LOG("%s", damage[i].magic);
		OK(flip(at + damage[i].block * BLOCK + damage[i].byte, 0x10));
		OK(scratch_mount(0));
		OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
		fd = open("f", O_RDWR);
		EXPECT_RECALL(1000, fd, rows, &s);
		EXPECT_EQ(0, s.hops) TH_LOG("damage %d was not noticed", i);
		/* Inserts go on, and it is built again in the background. */
		OK(insert(fd, rows, NULL, 1));
		EXPECT_EQ(VEXFS_INDEX_READY, settled(fd));
		EXPECT_RECALL(960, fd, rows + 10 * DIM, &s);
		EXPECT_LT(0, s.hops);
		/* So that the next image lies where this one did, before what is left of others. */
		close_all();
		OK(chdir("/"));
		OK(umount(getenv("VEXFS_SCRATCH_DIR")));
		OK(scratch_format());
		OK(scratch_mount(0));
		OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
		fd = make_it(rows, N);
		ASSERT_LE(0, fd);
	}
}

TEST_HARNESS_MAIN
