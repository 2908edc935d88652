// SPDX-License-Identifier: GPL-2.0
/*
 * Searches in a graph index while rows are inserted, replaced and deleted, and
 * while the index is built anew, dropped and built again.
 */
#include "vector_test.h"
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define DIM 24
#define KEYS 600
#define SEARCHERS 3
#define K 12

/*
 * The vector of a key is always the same. @state of a key is even while nobody
 * changes whether it is there: a multiple of 4 if it is not, else it is.
 */
struct storm {
	_Atomic int stop;
	_Atomic int errors;
	char text[200];
	_Atomic unsigned int state[KEYS];
	_Atomic uint64_t searches, known, found, hops;
	int rounds;
};

static void complain(struct storm *st, const char *what, uint64_t key)
{
	if (!atomic_fetch_add(&st->errors, 1))
		snprintf(st->text, sizeof(st->text), "%s (key %llu, errno %s)", what,
			 (unsigned long long)key, strerror(errno));
}

/* Changes the keys that are @arg->part modulo 2. */
struct part {
	struct storm *st;
	int part;
};

static void *writer(void *arg)
{
	struct part *part = arg;
	struct storm *st = part->st;
	uint64_t random = seed() + part->part;
	int fd = open("f", O_RDWR);

	for (int i = 0; i < st->rounds; i++) {
		uint64_t key = rnd(&random) % (KEYS / 2) * 2 + part->part;
		float row[DIM];
		struct vexfs_batch b = { .count = 1, .keys = PTR(&key), .vectors = PTR(row) };
		bool there = st->state[key] % 4;

		make_rows(row, 7, key, 1, DIM);
		if (there && rnd(&random) % 2) {
			/* It is there before, after, and in between. */
			b.op = VEXFS_OP_UPSERT;
			if (batch(fd, &b))
				complain(st, "upsert", key);
			continue;
		}
		b.op = there ? VEXFS_OP_DELETE : VEXFS_OP_INSERT;
		if (there)
			b.vectors = 0;
		st->state[key]++;
		if (batch(fd, &b))
			complain(st, there ? "delete" : "insert", key);
		st->state[key]++;
	}
	close(fd);
	return NULL;
}

static void *searcher(void *arg)
{
	struct storm *st = arg;
	static _Atomic uint64_t searchers;
	uint64_t random = seed() + 100 + atomic_fetch_add(&searchers, 1);
	unsigned int before[KEYS];
	int fd = open("f", O_RDONLY);

	while (!st->stop) {
		uint64_t key = rnd(&random) % KEYS;
		struct vexfs_hit hits[K];
		float query[DIM], row[DIM];
		struct vexfs_search s = { .nq = 1, .k = K, .queries = PTR(query), .ef = 40,
					  .hits = PTR(hits) };
		bool seen[KEYS] = { 0 };

		make_rows(query, 7, key, 1, DIM);
		for (int i = 0; i < KEYS; i++)
			before[i] = st->state[i];
		if (search(fd, &s))
			complain(st, "search", key);
		st->hops += s.hops;
		for (int i = 0; i < K; i++) {
			double scale, want;

			if (hits[i].key >= KEYS) {
				complain(st, "fewer rows than there are", hits[i].key);
				break;
			}
			if (seen[hits[i].key])
				complain(st, "a key is there twice", hits[i].key);
			seen[hits[i].key] = true;
			make_rows(row, 7, hits[i].key, 1, DIM);
			want = oracle(query, row, DIM, VEXFS_METRIC_L2, &scale);
			if (!(fabs(bits_to_float(hits[i].distance) - want) <= tolerance(DIM, scale)))
				complain(st, "a hit is torn or has the wrong key", hits[i].key);
			if (before[hits[i].key] % 4 == 0 &&
			    before[hits[i].key] == st->state[hits[i].key])
				complain(st, "a deleted row is found", hits[i].key);
		}
		if (before[key] % 4 == 2 && before[key] == st->state[key]) {
			st->known++;
			st->found += seen[key];
		}
		st->searches++;
	}
	close(fd);
	return NULL;
}

CASE(searches_beside_changes_and_builds_are_right)
{
	static struct storm storm;
	struct storm *st = &storm;
	struct part parts[2] = { { st, 0 }, { st, 1 } };
	pthread_t writers[2], searchers[SEARCHERS];
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW, .m = 8,
				       .ef_construction = 40 };
	struct vexfs_index_stats is = { .size = sizeof(is), .index_kind = VEXFS_INDEX_HNSW };
	int fd = container("f", DIM, VEXFS_METRIC_L2), builds = 0, live = 0;
	float *rows = new_rows(7, 0, KEYS, DIM);
	uint64_t keys[KEYS];

	st->rounds = quick() ? 1500 : 6000;
	for (unsigned int i = 0; i < KEYS; i++) {
		keys[i] = i;
		st->state[i] = 2;
	}
	OK(insert(fd, rows, keys, KEYS));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	for (int i = 0; i < SEARCHERS; i++)
		pthread_create(&searchers[i], NULL, searcher, st);
	for (int i = 0; i < 2; i++)
		pthread_create(&writers[i], NULL, writer, &parts[i]);
	/* Nobody else builds, so all of it must work. */
	for (int i = 0; i < 12; i++) {
		usleep(quick() ? 100000 : 200000);
		b.flags = i % 3 == 2 ? VEXFS_BUILD_DROP : i % 3 ? VEXFS_BUILD_REPLACE : 0;
		b.m = b.flags == VEXFS_BUILD_DROP ? 0 : 8;
		b.ef_construction = b.flags == VEXFS_BUILD_DROP ? 0 : 40;
		if (i == 0)
			b.flags = VEXFS_BUILD_REPLACE;
		EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b))) TH_LOG("%d", i);
		builds += b.flags != VEXFS_BUILD_DROP;
	}
	b = (struct vexfs_build_index){ .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW, .m = 8,
					.ef_construction = 40 };
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b));
	for (int i = 0; i < 2; i++)
		pthread_join(writers[i], NULL);
	st->stop = 1;
	for (int i = 0; i < SEARCHERS; i++)
		pthread_join(searchers[i], NULL);
	EXPECT_EQ(0, atomic_load(&st->errors)) TH_LOG("%s", st->text);
	EXPECT_EQ(8, builds);
	EXPECT_LT(0, atomic_load(&st->hops));
	EXPECT_LT(0, atomic_load(&st->known));
	/* A row whose own vector is the query is found, replaced meanwhile or not. */
	EXPECT_LE(atomic_load(&st->known) * 98 / 100, atomic_load(&st->found))
		TH_LOG("%llu of %llu", (unsigned long long)st->found, (unsigned long long)st->known);
	for (unsigned int i = 0; i < KEYS; i++)
		live += st->state[i] % 4 == 2;
	OK(ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &is));
	EXPECT_EQ(live, is.nodes);
	EXPECT_EQ(live, stats_of(fd).live);
	EXPECT_EQ(stats_of(fd).rows, is.watermark);
}

TEST_HARNESS_MAIN
