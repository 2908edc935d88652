// SPDX-License-Identifier: GPL-2.0
/*
 * VEXFS_BATCH_REUSE: rows that take the place of deleted ones, which places they may
 * take, and that keys, tags, searches and indexes know the new row and not the old one,
 * before and after a remount.
 */
#include "vector_lists.h"
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/syscall.h>

SCRATCH_FIXTURE(scratch)

#define N 1000

static int insert_again(int fd, unsigned int op, const float *vectors, const uint64_t *keys,
			const uint64_t *tags, uint64_t n, uint64_t *rows)
{
	struct vexfs_batch arg = {
		.op = op, .flags = VEXFS_BATCH_REUSE, .count = n, .vectors = PTR(vectors),
		.keys = PTR(keys), .tags = PTR(tags), .rows = PTR(rows),
	};

	return batch(fd, &arg);
}

static int delete_rows(int fd, const uint64_t *rows, uint64_t n)
{
	struct vexfs_batch arg = {
		.op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_BY_ROW, .count = n, .rows = PTR(rows),
	};

	return batch(fd, &arg);
}

/* Mounts again, and opens "f". */
static int again(void)
{
	for (int fd = 3; fd < 30; fd++)
		close(fd);
	if (chdir("/") || umount(getenv("VEXFS_SCRATCH_DIR")) ||
	    mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"), "vexfs", 0, NULL) ||
	    chdir(getenv("VEXFS_SCRATCH_DIR")))
		return -1;
	return open("f", O_RDWR);
}

/* Draws @count different numbers below @n. */
static void draw(uint64_t *out, unsigned int count, unsigned int n, uint64_t *state)
{
	bool *drawn = calloc(n, sizeof(*drawn));

	for (unsigned int i = 0; i < count;) {
		uint64_t at = rnd(state) % n;

		if (drawn[at])
			continue;
		drawn[at] = true;
		out[i++] = at;
	}
	free(drawn);
}

SCRATCH_CASE(rows_take_the_place_of_deleted_ones)
{
	float *vectors = new_rows(1, 0, 2 * N, DIM), *query = new_rows(2, 0, 1, DIM);
	uint64_t keys[N], gone[300], fresh[300], rows[300], state = 7;
	struct model m = { .dim = DIM, .metric = VEXFS_METRIC_L2, .n = N, .rows = vectors, .keys = keys };
	struct vexfs_search s = { .index_kind = VEXFS_INDEX_EXACT };
	bool deleted[N] = { false };
	struct stat before, after;
	float back[DIM];
	uint64_t tags;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	for (unsigned int i = 0; i < N; i++)
		keys[i] = 5000 + i;
	OK(insert(fd, vectors, keys, N));
	draw(gone, 300, N, &state);
	OK(delete_rows(fd, gone, 300));
	OK(fsync(fd));
	OK(fstat(fd, &before));
	for (unsigned int i = 0; i < 300; i++) {
		deleted[gone[i]] = true;
		fresh[i] = 90000 + i;
	}
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors + N * DIM, fresh, fresh, 300, rows));
	OK(fstat(fd, &after));
	EXPECT_EQ(before.st_size, after.st_size);
	EXPECT_EQ(before.st_blocks, after.st_blocks);
	EXPECT_EQ(N, stats_of(fd).rows);
	EXPECT_EQ(N, stats_of(fd).live);
	for (unsigned int i = 0; i < 300; i++) {
		ASSERT_GT(N, rows[i]);
		EXPECT_TRUE(deleted[rows[i]]);
		deleted[rows[i]] = false;
		EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, keys[rows[i]], back, &tags));
		keys[rows[i]] = fresh[i];
		memcpy(vectors + rows[i] * DIM, vectors + (N + i) * DIM, sizeof(back));
	}
	for (int mounts = 0; mounts < 2; mounts++) {
		EXPECT_SEARCH(fd, &m, query, 50, &s);
		for (unsigned int i = 0; i < N; i++) {
			EXPECT_EQ(i, get_key(fd, keys[i], back, &tags));
			EXPECT_EQ(0, memcmp(back, vectors + i * DIM, sizeof(back)));
			EXPECT_EQ(keys[i] >= 90000 ? keys[i] : 0, tags);
		}
		fd = again();
		ASSERT_LE(0, fd);
	}
	/* What a later batch deletes of them is deleted, and replaced is replaced. */
	OK(delete_keys(fd, fresh, 100));
	OK(fsync(fd));
	OK(insert_again(fd, VEXFS_OP_UPSERT, vectors, fresh + 50, NULL, 100, rows));
	EXPECT_EQ(N, stats_of(fd).rows);
	EXPECT_EQ(N - 50, stats_of(fd).live);
	for (unsigned int i = 0; i < 100; i++) {
		EXPECT_GT(N, rows[i]);
		EXPECT_EQ(rows[i], get_key(fd, fresh[50 + i], back, &tags));
		EXPECT_EQ(0, memcmp(back, vectors + i * DIM, sizeof(back)));
		EXPECT_EQ(0, tags);
	}
	fd = again();
	EXPECT_EQ(N - 50, stats_of(fd).live);
	EXPECT_EQ(rows[99], get_key(fd, fresh[149], back, &tags));
}

SCRATCH_CASE(a_deletion_that_is_not_durable_keeps_its_place)
{
	float *vectors = new_rows(1, 0, N, DIM);
	uint64_t gone[] = { 3, 4, 9 }, rows[4];
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, vectors, NULL, N));
	OK(fsync(fd));
	OK(delete_rows(fd, gone, 3));
	/* After a crash they would be there again. */
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, NULL, 2, rows));
	EXPECT_EQ(N, rows[0]);
	EXPECT_EQ(N + 1, rows[1]);
	OK(fsync(fd));
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, NULL, 4, rows));
	EXPECT_EQ(3, rows[0]);
	EXPECT_EQ(4, rows[1]);
	EXPECT_EQ(9, rows[2]);
	EXPECT_EQ(N + 2, rows[3]);
	/* Without the flag nothing is used again. */
	OK(delete_rows(fd, gone, 3));
	OK(fsync(fd));
	OK(insert(fd, vectors, NULL, 1));
	EXPECT_EQ(N + 4, stats_of(fd).rows);
	EXPECT_EQ(N + 1, stats_of(fd).live);
	fd = again();
	ASSERT_LE(0, fd);
	EXPECT_EQ(N + 1, stats_of(fd).live);
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, NULL, 4, rows));
	EXPECT_EQ(3, rows[0]);
	EXPECT_EQ(N + 4, rows[3]);
}

struct slow_search {
	int fd;
	pid_t task;
	volatile bool done;
	struct vexfs_search s;
};

static void *search_slowly(void *arg)
{
	struct slow_search *me = arg;
	long failed;

	me->task = syscall(SYS_gettid);
	failed = search(me->fd, &me->s) ? errno : 0;
	me->done = true;
	return (void *)failed;
}

/* Whether a task waits and can't be woken by a signal, 50 ms long. */
static bool is_stuck(pid_t task)
{
	char path[64], state = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", task);
	for (int i = 0; i < 10; i++) {
		FILE *f = fopen(path, "r");

		if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = 0;
		if (f)
			fclose(f);
		if (state != 'D')
			return false;
		usleep(5000);
	}
	return true;
}

/*
 * A search writes the hits of its first 64 queries to memory that is mapped from a frozen
 * volume, and so stops in the middle: what it has yet to read stays as it was.
 */
SCRATCH_CASE(rows_that_a_search_may_read_keep_their_place)
{
	enum { NQ_ = 65 };
	float *vectors = new_rows(1, 0, 2 * N, DIM), queries[NQ_ * DIM];
	uint64_t gone[] = { 3, 4, 9 }, rows[3];
	struct slow_search slow = { 0 };
	struct vexfs_hit *hits;
	int frozen, file, waited;
	pthread_t thread;
	void *failed;

	NEED_VEXFS();
	slow.fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, slow.fd);
	OK(insert(slow.fd, vectors, NULL, N));
	OK(fsync(slow.fd));
	for (int q = 0; q < NQ_; q++)
		memcpy(queries + q * DIM, vectors + 3 * DIM, DIM * 4);
	frozen = open(getenv("VEXFS_TEST_DIR"), O_RDONLY | O_DIRECTORY);
	file = openat(frozen, "hits", O_CREAT | O_RDWR, 0600);
	OK(ftruncate(file, NQ_ * sizeof(*hits)));
	hits = mmap(NULL, NQ_ * sizeof(*hits), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, hits);
	slow.s = (struct vexfs_search){ .nq = NQ_, .k = 1, .queries = PTR(queries), .hits = PTR(hits),
					.index_kind = VEXFS_INDEX_EXACT };
	OK(ioctl(frozen, FIFREEZE, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, search_slowly, &slow));
	for (waited = 0; !is_stuck(slow.task) && waited < 2000; waited++)
		usleep(5000);
	EXPECT_GT(2000, waited);
	EXPECT_EQ(0, ERR(delete_rows(slow.fd, gone, 3)));
	EXPECT_EQ(0, ERR(fsync(slow.fd)));
	for (int i = 1; i < 4; i++) {
		EXPECT_EQ(0, ERR(insert_again(slow.fd, VEXFS_OP_INSERT, vectors + i * N / 4 * DIM, NULL, NULL, 1, rows)));
		EXPECT_EQ(N + i - 1, rows[0]);
		EXPECT_EQ(0, ERR(fsync(slow.fd)));
	}
	EXPECT_FALSE(slow.done);
	EXPECT_EQ(0, ERR(ioctl(frozen, FITHAW, 0)));
	pthread_join(thread, &failed);
	EXPECT_EQ(NULL, failed);
	/* It sees the rows there were when it began. */
	for (int q = 0; q < NQ_; q++) {
		EXPECT_EQ(3, hits[q].row);
		EXPECT_EQ(0, hits[q].distance);
	}
	/* Nobody reads them any more. */
	OK(insert_again(slow.fd, VEXFS_OP_INSERT, vectors + N * DIM, NULL, NULL, 3, rows));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(gone[i], rows[i]);
	munmap(hits, NQ_ * sizeof(*hits));
	OK(unlinkat(frozen, "hits", 0));
	close(file);
	close(frozen);
	free(vectors);
}

SCRATCH_CASE(the_key_of_a_row_without_one_is_its_number_and_nobody_elses)
{
	float *vectors = new_rows(1, 0, N, DIM), back[DIM];
	uint64_t gone[] = { 3, 4, 9 }, four[] = { 4 }, rows[3], tags;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, vectors, NULL, 10));
	OK(delete_rows(fd, gone, 3));
	/* Row 10 has key 4, so a row without a key can't be row 4. */
	OK(insert(fd, vectors + 20 * DIM, four, 1));
	OK(fsync(fd));
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors + 30 * DIM, NULL, NULL, 3, rows));
	EXPECT_EQ(3, rows[0]);
	EXPECT_EQ(9, rows[1]);
	EXPECT_EQ(11, rows[2]);
	for (int mounts = 0; mounts < 2; mounts++) {
		EXPECT_EQ(3, get_key(fd, 3, back, &tags));
		EXPECT_EQ(0, memcmp(back, vectors + 30 * DIM, sizeof(back)));
		EXPECT_EQ(10, get_key(fd, 4, back, &tags));
		EXPECT_EQ(0, memcmp(back, vectors + 20 * DIM, sizeof(back)));
		EXPECT_EQ(9, get_key(fd, 9, back, &tags));
		fd = again();
		ASSERT_LE(0, fd);
	}
	/* One with a key can, and then no key 3 is left. */
	OK(delete_rows(fd, gone, 1));
	OK(fsync(fd));
	four[0] = 77;
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, four, NULL, 1, rows));
	EXPECT_EQ(3, rows[0]);
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 3, back, &tags));
	EXPECT_EQ(3, get_key(fd, 77, back, &tags));
	/* An error leaves the places as they were. */
	OK(delete_rows(fd, gone, 1));
	OK(fsync(fd));
	vectors[DIM] = NAN;
	EXPECT_EQ(EINVAL, ERR(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, NULL, 2, rows)));
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 3, back, &tags));
	EXPECT_EQ(12, stats_of(fd).rows);
	vectors[DIM] = 0;
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, NULL, 2, rows));
	EXPECT_EQ(3, rows[0]);
}

SCRATCH_CASE(tags_are_those_of_the_new_row)
{
	float *vectors = new_rows(1, 0, 2 * N, DIM);
	uint64_t tags[N], gone[N / 2], rows[N / 2], state = 3;
	struct vexfs_hit hits[K];
	uint32_t count;
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	for (unsigned int i = 0; i < N; i++)
		tags[i] = 1;
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors, NULL, tags, N, NULL));
	draw(gone, N / 2, N, &state);
	OK(delete_rows(fd, gone, N / 2));
	OK(fsync(fd));
	for (unsigned int i = 0; i < N; i++)
		tags[i] = 2;
	OK(insert_again(fd, VEXFS_OP_INSERT, vectors + N * DIM, NULL, tags, N / 2, rows));
	EXPECT_EQ(N, stats_of(fd).rows);
	for (unsigned int i = 0; i < 50; i++)
		for (unsigned int tag = 1; tag < 3; tag++) {
			struct vexfs_search s = {
				.nq = 1, .k = 1, .flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = tag,
				.queries = PTR(vectors + (N + i) * DIM), .hits = PTR(hits), .counts = PTR(&count),
			};

			OK(search(fd, &s));
			EXPECT_EQ(1, count);
			EXPECT_EQ(tag == 2, hits[0].row == rows[i]);
			EXPECT_EQ(tag == 2, hits[0].distance == 0);
		}
}

/* A row of key @key, which is another one in each version. */
static void contents(float *row, uint64_t key, uint64_t version)
{
	make_clustered(row, 5 + version, key, 1);
}

SCRATCH_CASE(indexes_know_the_new_rows)
{
	const unsigned int at_once = 250, rounds = quick() ? 4 : 40;
	float *vectors = malloc(at_once * DIM * sizeof(float)), *queries = new_clustered(2, 0, NQ);
	struct way graph = { "hnsw", { .index_kind = VEXFS_INDEX_HNSW }, .least = { 0, 900 } };

	NEED_VEXFS();
	for (int which = -1; which < (int)WAYS; which++) {
		const struct way *way = which < 0 ? &graph : &ways[which];
		unsigned int kind = way->build.index_kind;
		uint64_t *keys = calloc(N, sizeof(*keys)), *versions = calloc(N, sizeof(*versions));
		uint64_t drawn[250], rows[250], state = 11;
		struct vexfs_search s = wide(way);
		struct vexfs_index_stats st = { 0 };
		int fd;

		if (!way->least[VEXFS_METRIC_L2])
			continue;
		fd = container("f", DIM, VEXFS_METRIC_L2);
		ASSERT_LE(0, fd);
		for (unsigned int i = 0; i < N; i++)
			keys[i] = i;
		for (unsigned int i = 0; i < N; i += at_once) {
			for (unsigned int j = 0; j < at_once; j++)
				contents(vectors + j * DIM, i + j, 0);
			OK(insert(fd, vectors, keys + i, at_once));
		}
		OK(build_way(fd, way, 0));
		for (unsigned int round = 1; round <= rounds; round++) {
			draw(drawn, at_once, N, &state);
			OK(delete_keys(fd, drawn, at_once));
			if (round % 2)
				OK(fsync(fd));
			for (unsigned int j = 0; j < at_once; j++)
				contents(vectors + j * DIM, drawn[j], ++versions[drawn[j]]);
			OK(insert_again(fd, VEXFS_OP_UPSERT, vectors, drawn, NULL, at_once, rows));
			if (round % 4 == 3) {
				fd = again();
				ASSERT_LE(0, fd);
			}
			for (unsigned int j = 0; j < at_once; j += 10) {
				struct vexfs_hit hit;

				search_one(_metadata, fd, way, vectors + j * DIM, 1, &hit);
				EXPECT_EQ(drawn[j], hit.key) TH_LOG("%s: round %u", way->name, round);
				EXPECT_EQ(rows[j], hit.row);
				EXPECT_EQ(0, hit.distance);
			}
			EXPECT_RECALL_OF(way->least[VEXFS_METRIC_L2], fd, way, queries, &s);
			if (round % 4 == 0) {
				struct vexfs_index_check c = { .size = sizeof(c), .index_kind = kind };

				OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c));
				EXPECT_EQ(0, c.faults + c.unreachable + c.wrong_codes + c.wrong_rows + c.bad_images);
			}
		}
		OK(stats_of_kind(fd, kind, &st));
		EXPECT_EQ(VEXFS_INDEX_READY, st.state);
		EXPECT_EQ(N, st.nodes);
		/* Half of the deletions are not durable when rows come again: these wait. */
		EXPECT_EQ(N, stats_of(fd).live);
		EXPECT_GT(N + 2 * at_once, stats_of(fd).rows) TH_LOG("%s: %llu rows", way->name,
			(unsigned long long)stats_of(fd).rows);
		close(fd);
		OK(unlink("f"));
		free(keys);
		free(versions);
	}
}

SCRATCH_CASE(a_build_beside_has_each_row_once)
{
	const unsigned int at_once = 50;
	float *vectors = malloc(N * DIM * sizeof(float));

	NEED_VEXFS();
	FOR_EACH_WAY_OF_CHANGES(way) {
		uint64_t keys[N], drawn[50], rows[50], state = 5;
		unsigned int kind = way->build.index_kind, version = 0;
		struct vexfs_index_check c = { .size = sizeof(c), .index_kind = kind };
		struct vexfs_index_stats st = { 0 };
		int fd = container("f", DIM, VEXFS_METRIC_L2);

		ASSERT_LE(0, fd);
		for (unsigned int i = 0; i < N; i++) {
			keys[i] = i;
			contents(vectors + i * DIM, i, 0);
		}
		OK(insert(fd, vectors, keys, N));
		for (unsigned int builds = 0; builds < (quick() ? 2 : 20); builds++) {
			OK(build_way(fd, way, VEXFS_BUILD_BACKGROUND | (builds ? VEXFS_BUILD_REPLACE : 0)));
			do {
				draw(drawn, at_once, N, &state);
				version++;
				for (unsigned int j = 0; j < at_once; j++)
					contents(vectors + j * DIM, drawn[j], version);
				OK(insert_again(fd, VEXFS_OP_UPSERT, vectors, drawn, NULL, at_once, rows));
				OK(fsync(fd));
				OK(stats_of_kind(fd, kind, &st));
			} while (st.state == VEXFS_INDEX_BUILDING || st.state == VEXFS_INDEX_REBUILDING);
			OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c));
			EXPECT_EQ(0, c.faults + c.unreachable + c.wrong_codes + c.wrong_rows + c.bad_images)
				TH_LOG("%s: faults %llu, rows %llu, codes %llu", way->name, (unsigned long long)c.faults,
				       (unsigned long long)c.wrong_rows, (unsigned long long)c.wrong_codes);
			OK(stats_of_kind(fd, kind, &st));
			EXPECT_EQ(N, st.nodes);
		}
		close(fd);
		OK(unlink("f"));
	}
	free(vectors);
}

SCRATCH_CASE(the_flag_is_for_inserts_alone)
{
	float *vectors = new_rows(1, 0, 10, DIM);
	uint64_t key = 1;
	struct vexfs_batch b = { .op = VEXFS_OP_DELETE, .flags = VEXFS_BATCH_REUSE, .count = 1, .keys = PTR(&key) };
	int fd;

	NEED_VEXFS();
	fd = container("f", DIM, VEXFS_METRIC_L2);
	ASSERT_LE(0, fd);
	OK(insert(fd, vectors, NULL, 10));
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	b.op = VEXFS_OP_GET;
	EXPECT_EQ(EINVAL, ERR(batch(fd, &b)));
	EXPECT_EQ(10, stats_of(fd).live);
}

TEST_HARNESS_MAIN
