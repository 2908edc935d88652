// SPDX-License-Identifier: GPL-2.0
/*
 * fsck.vexfs on volumes that the kernel wrote: it finds nothing wrong with indexes
 * of every kind over rows of every type, and what it repairs, the kernel takes.
 */
#include "vector_lists.h"
#include "vector_types.h"
#include "vexfs_device.h"
#include <sys/statfs.h>
#include <sys/wait.h>

SCRATCH_FIXTURE(scratch)

#define N 400

/* Skips the test where there is no fsck.vexfs. */
#define NEED_FSCK() do {						\
	NEED_VEXFS();							\
	if (system("command -v fsck.vexfs >/dev/null"))			\
		SKIP(return, "there is no fsck.vexfs");			\
} while (0)

/* Unmounts, runs fsck.vexfs with @options and mounts again; its exit status. What it said is in /tmp/fsck. */
static int fsck(const char *options)
{
	char command[PATH_MAX * 2];
	int status;

	for (int fd = 3; fd < 60; fd++)
		close(fd);
	if (chdir("/") || umount(getenv("VEXFS_SCRATCH_DIR")))
		return -1;
	snprintf(command, sizeof(command), "fsck.vexfs %s %s >/tmp/fsck 2>&1 </dev/null", options,
		 getenv("VEXFS_SCRATCH_DEV"));
	status = system(command);
	if (scratch_mount(0) || chdir(getenv("VEXFS_SCRATCH_DIR")))
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* How many lines of what fsck.vexfs said have @words; all of them are printed if there is none and @wanted. */
static int lines(const char *words, bool wanted)
{
	FILE *f = fopen("/tmp/fsck", "r");
	char line[4096];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, words) != NULL;
	if (f && wanted && !n) {
		rewind(f);
		while (fgets(line, sizeof(line), f))
			printf("# fsck: %s", line);
	}
	if (f)
		fclose(f);
	return n;
}

#define EXPECT_FSCK(code, options) do {					\
	int code_ = fsck(options);					\
	EXPECT_EQ(code, code_) {					\
		lines("no line has this", true);			\
	}								\
} while (0)

SCRATCH_CASE(indexes_of_every_kind_over_rows_of_every_type_are_sound)
{
	int indexes = 0, round = 0;

	NEED_FSCK();
	for (int t = 0; t < TYPES; t++)
		for (unsigned int metric = VEXFS_METRIC_L2; metric <= last_metric(&types[t]); metric++, round++) {
			struct rows rows = typed_rows(&types[t], 3 + metric, N + 100, DIM, 0);
			struct vexfs_create_vector arg = { 0 };
			char name[40];
			int fd;

			sprintf(name, "%s-%s", types[t].name, metric_names[metric]);
			fd = typed_container(name, &types[t], DIM, metric, &arg);
			ASSERT_LE(0, fd) TH_LOG("%s", name);
			OK(insert_rows(fd, &rows, 0, N, NULL));
			indexes += !build(fd, 0, 0, 0);
			/* One of each kind, with all kinds of codes in turn. */
			indexes += !build_way(fd, &ways[round % 4], 0);
			indexes += !build_way(fd, &ways[4 + round % 2], 0);
			indexes += !build_way(fd, &ways[6], 0);
			/* Rows that come and go afterwards are in the images that unmounting saves, or not. */
			OK(insert_rows(fd, &rows, N, 100, NULL));
			for (int i = 0; i < 40; i++) {
				uint64_t key = 11 + 12 * i;

				OK(delete_keys(fd, &key, 1));
			}
			close(fd);
			free_rows(&rows);
		}
	EXPECT_LT(60, indexes);
	EXPECT_FSCK(0, "-n -v");
	EXPECT_EQ(indexes, lines(" rows checked\n", true));
	EXPECT_EQ(1, lines(" indexes", true));
}

SCRATCH_CASE(a_repaired_index_answers_exactly_and_is_built_anew)
{
	float *rows = new_clustered(1, 0, N);
	struct vexfs_search s = { .ef = 100 };
	struct vexfs_index_stats st = { 0 };
	struct statfs before, after;
	int fd;

	NEED_FSCK();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, rows, NULL, N));
	OK(build(fd, 0, 8, 50));
	EXPECT_FSCK(0, "-n");
	OK(statfs(".", &before));
	OK(chdir("/"));
	OK(umount(getenv("VEXFS_SCRATCH_DIR")));
	OK(flip(data_at(find_block("vSum", 4), 4, 77), 0x10));
	OK(scratch_mount(0));
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	EXPECT_FSCK(4, "-n");
	EXPECT_EQ(1, lines("the hnsw index: 0 rows checked, 1 image damaged or outdated\n", true));
	EXPECT_FSCK(1, "-y");
	EXPECT_LE(1, lines("bad checksum: mended", true));
	EXPECT_FSCK(0, "-n -v");
	EXPECT_EQ(1, lines("the hnsw index is not built yet", true));
	/* The space of the image is free. */
	OK(statfs(".", &after));
	EXPECT_LT(before.f_bfree, after.f_bfree);
	fd = open("f", O_RDWR);
	ASSERT_LE(0, fd);
	/* The first search is exact, and has the index built with the parameters it had. */
	EXPECT_RECALL(1000, fd, rows, &s);
	EXPECT_EQ(0, s.hops);
	do {
		usleep(1000);
		OK(index_stats(fd, &st));
	} while (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING);
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(8, st.m);
	EXPECT_EQ(50, st.ef_construction);
	EXPECT_RECALL(900, fd, rows, &s);
	EXPECT_LT(0, s.hops);
	EXPECT_FSCK(0, "-n -v");
	EXPECT_EQ(1, lines("400 rows checked\n", true));
	OK(statfs(".", &after));
	EXPECT_EQ(before.f_bfree, after.f_bfree);
	EXPECT_EQ(before.f_ffree, after.f_ffree);
}

SCRATCH_CASE(codes_of_rows_that_were_changed_behind_its_back_are_wrong)
{
	static const unsigned int kinds[] = { VEXFS_INDEX_HNSW, VEXFS_INDEX_IVF, VEXFS_INDEX_PQ };
	float *rows = new_clustered(1, 0, N);
	int fd;

	NEED_FSCK();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, rows, NULL, N));
	OK(build(fd, 0, 0, 0));
	/* In two lists, so there are two codes of it. */
	OK(build_way(fd, &signs_twice, 0));
	OK(build_way(fd, &ways[4], 0));
	close(fd);
	OK(chdir("/"));
	OK(umount(getenv("VEXFS_SCRATCH_DIR")));
	/* Row 0 on the device: data has no checksum, but three indexes know what it was. */
	OK(flip(find_block(rows, 16) + 3, 0x40));
	OK(scratch_mount(0));
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	EXPECT_FSCK(4, "-n");
	EXPECT_EQ(3, lines("400 rows checked, 1 codes that are not those of their rows\n", true));
	EXPECT_EQ(3, lines("1 rows have not the code of their vector, the first is 0", true));
	/* The kernel's own check says the same. */
	fd = open("f", O_RDWR);
	for (int i = 0; i < 3; i++) {
		struct vexfs_index_check check = { .size = sizeof(check), .index_kind = kinds[i] };

		OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check));
		EXPECT_EQ(1, check.wrong_codes) TH_LOG("kind %u", kinds[i]);
		EXPECT_EQ(0, check.faults + check.unreachable + check.wrong_rows + check.bad_images);
	}
	EXPECT_FSCK(1, "-p -f");
	EXPECT_FSCK(0, "-n");
}

SCRATCH_CASE(a_row_that_left_one_of_its_two_lists_is_found_and_mended)
{
	float *rows = new_clustered(1, 0, N), *queries = new_clustered(2, 0, NQ);
	const struct way *way = &ways[1];
	struct vexfs_search s = wide(way);
	struct vexfs_index_stats st = { 0 };
	uint32_t slots = 0;
	int fd, list;
	off_t sums;

	NEED_FSCK();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, rows, NULL, N));
	OK(build_way(fd, way, 0));
	close(fd);
	OK(chdir("/"));
	OK(umount(getenv("VEXFS_SCRATCH_DIR")));
	/* The last row of a list, under checksums that fit; its blocks stay those that it needs. */
	sums = find_block("vSum", 4);
	for (list = -1; slots % 32 < 2;)
		OK(device_io(data_at(sums, 0, 16 * ++list + 4), &slots, 4, false));
	OK(set_data(sums, 0, 16 * list + 4, slots - 1));
	OK(scratch_mount(0));
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));
	EXPECT_FSCK(4, "-n");
	EXPECT_EQ(1, lines("a row is in fewer lists than it should be", true));
	EXPECT_FSCK(1, "-y");
	fd = open("f", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_RECALL_OF(1000, fd, way, queries, &s);
	EXPECT_EQ(0, s.hops);
	do {
		usleep(1000);
		OK(stats_of_kind(fd, VEXFS_INDEX_IVF, &st));
	} while (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING);
	EXPECT_EQ(VEXFS_INDEX_READY, st.state);
	EXPECT_EQ(2, st.ntables);
	EXPECT_RECALL_OF(900, fd, way, queries, &s);
	EXPECT_LT(0, s.hops);
	EXPECT_FSCK(0, "-n -v");
	EXPECT_EQ(1, lines("400 rows checked\n", true));
}

SCRATCH_CASE(what_is_mounted_is_refused)
{
	char command[PATH_MAX * 2];
	static const char *const modes[] = { "-n", "-y", "-p", "-a -f" };

	NEED_FSCK();
	for (int i = 0; i < 4; i++) {
		int status;

		snprintf(command, sizeof(command), "fsck.vexfs %s %s >/tmp/fsck 2>&1", modes[i],
			 getenv("VEXFS_SCRATCH_DEV"));
		status = system(command);
		EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 8);
		EXPECT_EQ(1, lines("is mounted on", true));
	}
	/* Also where the mount is not to be seen, and nobody is in it. */
	OK(chdir("/"));
	snprintf(command, sizeof(command), "unshare -m sh -c 'cd / && umount %s && fsck.vexfs -n %s' >/tmp/fsck 2>&1",
		 getenv("VEXFS_SCRATCH_DIR"), getenv("VEXFS_SCRATCH_DEV"));
	EXPECT_EQ(8 << 8, system(command));
	EXPECT_EQ(1, lines("in use by the system", true));
}

TEST_HARNESS_MAIN
