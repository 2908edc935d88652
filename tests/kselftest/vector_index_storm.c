// SPDX-License-Identifier: GPL-2.0
/*
 * A storm on containers with and without indexes: eight threads search, two insert,
 * replace and delete, and one builds, drops, checks and saves indexes.
 *
 * What a key holds follows from its version, so each hit is held against the versions
 * that were there between the search's begin and its end, and exact searches against all
 * keys that nobody changed meanwhile. Runs for VEXFS_STORM_SECONDS.
 */
#include "vector_lists.h"
#include <stdatomic.h>

VECTOR_FIXTURE(box)

/* Half of these for each writer. */
#define KEYS 1000
#define SEARCHERS 8
#define WRITERS 2
#define MOST_QUERIES 3
#define MOST_K 20
#define MOST_AT_ONCE 8
#define TAGS 8
#define NEAREST 30

static const struct box_kind {
	const char *name;
	unsigned int metric;
	struct vexfs_build_index build;
} kinds[] = {
	{ "hnsw", VEXFS_METRIC_L2, { .index_kind = VEXFS_INDEX_HNSW, .m = 8, .ef_construction = 40 } },
	{ "ivf", VEXFS_METRIC_COSINE, { .index_kind = VEXFS_INDEX_IVF, .nlist = 16 } },
	{ "lsh", VEXFS_METRIC_L2, { .index_kind = VEXFS_INDEX_LSH, .nbits = 5 } },
	{ "exact", VEXFS_METRIC_DOT, { .index_kind = VEXFS_INDEX_EXACT } },
};
#define BOXES (sizeof(kinds) / sizeof(*kinds))

/*
 * Version @done of a key was acknowledged; one up to @begun may be there already. Both
 * are changed by one writer only. @drops is odd while there may be no index.
 */
static struct box {
	_Atomic uint32_t done[KEYS], begun[KEYS];
	_Atomic uint32_t drops;
	_Atomic uint64_t known, found;
} boxes[BOXES];
static _Atomic bool stop;
static _Atomic int errors;
static _Atomic uint64_t searches, compared, changed, builds, checks, by_index;
static char said[300];

static void complain(const char *what, unsigned int box, uint64_t number)
{
	int err = errno;

	if (!atomic_fetch_add(&errors, 1))
		snprintf(said, sizeof(said), "%s: %s (%llu, errno %s)", kinds[box].name, what,
			 (unsigned long long)number, strerror(err));
}

/* Of four versions one is that the key is not there; which, differs among keys. */
static bool is_there(uint64_t key, uint32_t version)
{
	return (key + version) % 4 != 3;
}

static void contents(float *row, unsigned int box, uint64_t key, uint32_t version)
{
	make_rows(row, 100 + box, key << 32 | version, 1, DIM);
}

static uint64_t tags_of(uint64_t key, uint32_t version)
{
	return 1ull << key % TAGS | (uint64_t)(version & 1) << TAGS;
}

static int open_box(unsigned int i, int flags)
{
	return open(kinds[i].name, flags);
}

/* One batch on keys that are @writer modulo WRITERS: their next versions. */
static void change(unsigned int i, int fd, unsigned int writer, uint64_t *random)
{
	struct box *box = &boxes[i];
	bool there = rnd(random) % 4;
	uint64_t keys[MOST_AT_ONCE], tags[MOST_AT_ONCE];
	float rows[MOST_AT_ONCE * DIM];
	struct vexfs_batch b = { .op = there ? VEXFS_OP_UPSERT : VEXFS_OP_DELETE, .keys = PTR(keys) };
	unsigned int wanted = rnd(random) % MOST_AT_ONCE + 1;
	uint64_t at = rnd(random) % (KEYS / WRITERS);

	if (there) {
		b.vectors = PTR(rows);
		b.tags = PTR(tags);
		b.flags = rnd(random) % 4 ? VEXFS_BATCH_REUSE : 0;
	} else {
		b.flags = VEXFS_BATCH_SKIP_MISSING;
	}
	/* Keys of which the next version is there, or those of which it is not. */
	for (unsigned int tried = 0; tried < KEYS / WRITERS && b.count < wanted; tried++) {
		uint64_t key = (at + tried) % (KEYS / WRITERS) * WRITERS + writer;
		uint32_t version = box->done[key] + 1;

		if (is_there(key, version) != there)
			continue;
		box->begun[key] = version;
		contents(rows + b.count * DIM, i, key, version);
		tags[b.count] = tags_of(key, version);
		keys[b.count++] = key;
	}
	if (!b.count)
		return;
	if (batch(fd, &b))
		complain(there ? "upsert" : "delete", i, b.error_row);
	for (uint64_t n = 0; n < b.count; n++)
		box->done[keys[n]]++;
	changed += b.count;
}

static void *writer(void *arg)
{
	unsigned int part = (uintptr_t)arg;
	uint64_t random = seed() + part;
	int fd[BOXES];

	for (unsigned int i = 0; i < BOXES; i++)
		fd[i] = open_box(i, O_RDWR);
	while (!stop && !errors) {
		unsigned int i = rnd(&random) % BOXES;

		change(i, fd[i], part, &random);
		if (rnd(&random) % 32 == 0 && fsync(fd[i]))
			complain("fsync", i, 0);
		usleep(1000);
	}
	for (unsigned int i = 0; i < BOXES; i++)
		close(fd[i]);
	return NULL;
}

/* A search as a searcher asks for it, and what was known when it began. */
struct asked {
	unsigned int box, nq, k;
	struct vexfs_search s;
	uint32_t before[KEYS], after[KEYS];
	float queries[MOST_QUERIES * DIM];
	struct vexfs_hit hits[MOST_QUERIES * MOST_K];
	/* Of filters. */
	uint64_t filter_keys[KEYS];
	bool allowed[KEYS];
	/* The key whose vector is the first query, or none. */
	uint64_t own;
};

static bool passes(const struct asked *a, uint64_t key, uint32_t version)
{
	if (!is_there(key, version) || !a->allowed[key])
		return false;
	return !(a->s.flags & VEXFS_SEARCH_TAGS_ANY) || (tags_of(key, version) & a->s.tags_any);
}

static double distance_of(const struct asked *a, unsigned int q, uint64_t key, uint32_t version,
			  double *error)
{
	float row[DIM];
	double scale, distance;

	contents(row, a->box, key, version);
	distance = oracle(a->queries + q * DIM, row, DIM, kinds[a->box].metric, &scale);
	*error = tolerance(DIM, scale);
	return distance;
}

/* Whether some version that a hit may be of has its distance. */
static bool is_of_a_version(const struct asked *a, unsigned int q, const struct vexfs_hit *hit)
{
	for (uint32_t v = a->before[hit->key]; v <= a->after[hit->key]; v++) {
		double error, want;

		if (!passes(a, hit->key, v))
			continue;
		want = distance_of(a, q, hit->key, v, &error);
		if (fabs(bits_to_float(hit->distance) - want) <= error)
			return true;
	}
	return false;
}

/* What is wrong with the hits of query @q, or NULL. @number says of which key or hit. */
static const char *wrong_hits(const struct asked *a, unsigned int q, bool compare, uint64_t *number)
{
	const struct vexfs_hit *hits = a->hits + q * a->k;
	float limit = a->s.flags & VEXFS_SEARCH_RADIUS ? bits_to_float(a->s.radius) : INFINITY;
	float last = limit;
	bool seen[KEYS] = { 0 };
	unsigned int n, least = 0;

	for (n = 0; n < a->k && hits[n].key != VEXFS_KEY_NONE; n++) {
		float distance = bits_to_float(hits[n].distance);

		*number = hits[n].key;
		if (hits[n].key >= KEYS)
			return "a key that never was";
		if (seen[hits[n].key])
			return "a key is there twice";
		seen[hits[n].key] = true;
		if (!is_of_a_version(a, q, &hits[n]))
			return "a hit is of no version that was there";
		if (distance > limit)
			return "a hit is beyond the radius";
		if (n && (bits_to_float(hits[n - 1].distance) > distance ||
			  (hits[n - 1].distance == hits[n].distance && hits[n - 1].key >= hits[n].key)))
			return "hits are not sorted";
	}
	for (unsigned int i = n; i < a->k; i++)
		if (hits[i].key != VEXFS_KEY_NONE || hits[i].row != VEXFS_ROW_NONE)
			return "an entry beyond the hits is not marked so";
	if (n == a->k)
		last = bits_to_float(hits[n - 1].distance);
	/* Keys that nobody changed were there all the time. */
	for (uint64_t key = 0; key < KEYS; key++) {
		double error, distance;

		if (a->before[key] != a->after[key] || !passes(a, key, a->before[key]))
			continue;
		if (!compare && limit == INFINITY) {
			least++;
			continue;
		}
		distance = distance_of(a, q, key, a->before[key], &error);
		least += distance <= limit - error;
		*number = key;
		if (compare && !seen[key] && distance < last - error)
			return "a near row is not found";
	}
	*number = n;
	/* Of a radius, an index may miss some, as of the nearest. */
	if (n < a->k && n < least && (compare || limit == INFINITY))
		return "fewer rows than there are";
	return NULL;
}

/* Makes up a search. */
static void ask(struct asked *a, uint64_t *random)
{
	struct box *box;
	uint64_t key = rnd(random) % KEYS;
	uint32_t version;

	a->box = rnd(random) % BOXES;
	box = &boxes[a->box];
	a->nq = rnd(random) % 4 ? 1 : MOST_QUERIES;
	a->k = rnd(random) % MOST_K + 1;
	a->s = (struct vexfs_search){ .nq = a->nq, .k = a->k, .queries = PTR(a->queries),
				      .hits = PTR(a->hits), .threads = rnd(random) % 3 };
	switch (rnd(random) % 4) {
	case 0:
		a->s.index_kind = VEXFS_INDEX_EXACT;
		break;
	case 1:
		a->s.index_kind = VEXFS_INDEX_AUTO;
		break;
	default:
		a->s.index_kind = kinds[a->box].build.index_kind;
		/* Or else a scan of so few rows would be the better plan. */
		a->s.rerank = 64;
	}
	make_rows(a->queries, 7, rnd(random), MOST_QUERIES, DIM);
	memset(a->allowed, 1, sizeof(a->allowed));
	switch (rnd(random) % 8) {
	case 0:
		a->s.flags |= VEXFS_SEARCH_TAGS_ANY;
		a->s.tags_any = rnd(random) & ((2ull << TAGS) - 1);
		break;
	case 1:
		memset(a->allowed, 0, sizeof(a->allowed));
		a->s.flags |= VEXFS_SEARCH_KEYS;
		a->s.filter_keys = PTR(a->filter_keys);
		for (uint64_t n = rnd(random) % (KEYS / 2) + 1; n; n--) {
			uint64_t some = rnd(random) % KEYS;

			a->filter_keys[a->s.filter_key_count++] = some;
			a->allowed[some] = true;
		}
		break;
	case 2:
		a->s.flags |= VEXFS_SEARCH_RADIUS;
		a->s.radius = float_to_bits(kinds[a->box].metric == VEXFS_METRIC_L2 ? 14 : 0.7);
		break;
	}
	for (int i = 0; i < KEYS; i++)
		a->before[i] = box->done[i];
	version = a->before[key];
	a->own = is_there(key, version) ? key : VEXFS_KEY_NONE;
	if (a->own == key)
		contents(a->queries, a->box, key, version);
	memset(a->hits, 0x5a, sizeof(a->hits));
}

static void *searcher(void *arg)
{
	uint64_t random = seed() + 100 + (uintptr_t)arg, number = 0;
	struct asked *a = malloc(sizeof(*a));

	while (!stop && !errors) {
		struct box *box;
		uint32_t drops;
		bool compare;
		int fd;

		ask(a, &random);
		box = &boxes[a->box];
		drops = box->drops;
		fd = open_box(a->box, O_RDONLY);
		if (search(fd, &a->s)) {
			/* There was no index then. */
			if (errno != ENOENT || (drops == box->drops && drops % 2 == 0))
				complain("search", a->box, a->s.index_kind);
			close(fd);
			continue;
		}
		close(fd);
		for (int i = 0; i < KEYS; i++)
			a->after[i] = box->begun[i];
		/* Whoever compared all rows has the nearest; that takes long to see to, so of a few. */
		compare = !a->s.hops && rnd(&random) % 4 == 0;
		for (unsigned int q = 0; q < a->nq; q++) {
			const char *bad = wrong_hits(a, q, compare, &number);

			if (bad)
				complain(bad, a->box, number);
		}
		compared += compare;
		by_index += a->s.hops > 0;
		if (a->own != VEXFS_KEY_NONE && a->before[a->own] == a->after[a->own] &&
		    kinds[a->box].metric != VEXFS_METRIC_DOT && passes(a, a->own, a->before[a->own])) {
			box->known++;
			box->found += a->hits[0].key == a->own;
		}
		searches++;
	}
	free(a);
	return NULL;
}

/* Waits until no build goes on in the background. */
static void wait_for_build(int fd, unsigned int i)
{
	struct vexfs_index_stats st = { 0 };

	while (!errors) {
		if (stats_of_kind(fd, kinds[i].build.index_kind, &st)) {
			complain("statistics of an index", i, 0);
			return;
		}
		if (st.state != VEXFS_INDEX_BUILDING && st.state != VEXFS_INDEX_REBUILDING)
			break;
		usleep(10000);
	}
	if (!errors && st.state != VEXFS_INDEX_READY)
		complain("a build in the background has not ended well", i, st.state);
}

static void build_box(int fd, unsigned int i, unsigned int flags, unsigned int threads)
{
	struct vexfs_build_index b = kinds[i].build;

	b.size = sizeof(b);
	b.flags = flags;
	b.threads = threads;
	if (ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b))
		complain("build", i, flags);
	else if (flags & VEXFS_BUILD_BACKGROUND)
		wait_for_build(fd, i);
	builds++;
}

/* One of the things that somebody does who looks after indexes. */
static void look_after(unsigned int i, uint64_t *random)
{
	struct vexfs_index_check c = { .size = sizeof(c), .index_kind = kinds[i].build.index_kind };
	int fd = open_box(i, O_RDWR);

	switch (rnd(random) % 5) {
	case 0:
		boxes[i].drops++;
		if (drop(fd, c.index_kind))
			complain("drop", i, 0);
		usleep(50000);
		build_box(fd, i, 0, 2);
		boxes[i].drops++;
		break;
	case 1:
		build_box(fd, i, VEXFS_BUILD_REPLACE, rnd(random) % 3);
		break;
	case 2:
		build_box(fd, i, VEXFS_BUILD_REPLACE | VEXFS_BUILD_BACKGROUND, rnd(random) % 3);
		break;
	case 3:
		if (ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c))
			complain("check", i, 0);
		else if (c.faults || c.wrong_codes || c.wrong_rows)
			complain("a check finds something", i,
				 c.faults * 1000000 + c.wrong_codes * 1000 + c.wrong_rows);
		checks++;
		break;
	case 4:
		if (syncfs(fd))
			complain("syncfs", i, 0);
		drop_caches();
	}
	close(fd);
}

/* Nobody changes anything any more: exactly the last versions are there. */
static void expect_the_last_versions(struct __test_metadata *_metadata, unsigned int i)
{
	struct vexfs_index_check c = { .size = sizeof(c), .index_kind = kinds[i].build.index_kind };
	struct vexfs_index_stats st = { 0 };
	int fd = open_box(i, O_RDWR), live = 0;
	static struct asked a;
	uint64_t number = 0;

	a = (struct asked){ .box = i, .nq = 1, .k = MOST_K };
	a.s = (struct vexfs_search){ .nq = 1, .k = MOST_K, .index_kind = VEXFS_INDEX_EXACT,
				     .queries = PTR(a.queries), .hits = PTR(a.hits) };
	memset(a.allowed, 1, sizeof(a.allowed));
	for (uint64_t key = 0; key < KEYS; key++) {
		float want[DIM], got[DIM];
		uint64_t tags = 0, row;

		ASSERT_EQ(atomic_load(&boxes[i].done[key]), atomic_load(&boxes[i].begun[key]));
		a.before[key] = a.after[key] = boxes[i].done[key];
		row = get_key(fd, key, got, &tags);
		ASSERT_EQ(is_there(key, a.after[key]), row != VEXFS_ROW_NONE);
		if (row == VEXFS_ROW_NONE)
			continue;
		live++;
		contents(want, i, key, a.after[key]);
		ASSERT_EQ(0, memcmp(want, got, sizeof(want)));
		ASSERT_EQ(tags_of(key, a.after[key]), tags);
	}
	EXPECT_EQ(live, stats_of(fd).live);
	for (int n = 0; n < NEAREST; n++) {
		const char *bad;

		make_rows(a.queries, 8, n, 1, DIM);
		OK(search(fd, &a.s));
		bad = wrong_hits(&a, 0, true, &number);
		ASSERT_STREQ("right", bad ?: "right") TH_LOG("%s, query %d", kinds[i].name, n);
	}
	if (c.index_kind != VEXFS_INDEX_EXACT) {
		OK(stats_of_kind(fd, c.index_kind, &st));
		EXPECT_EQ(live, st.nodes);
		EXPECT_EQ(stats_of(fd).rows, st.watermark);
		OK(ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &c));
		EXPECT_EQ(0, c.faults + c.wrong_codes + c.wrong_rows + c.bad_images);
		/* A row whose own vector is the query is the first hit, with few exceptions. */
		EXPECT_LE(atomic_load(&boxes[i].known), atomic_load(&boxes[i].found) + boxes[i].known * 3 / 100 + 1)
			TH_LOG("%s: %llu of %llu", kinds[i].name, (unsigned long long)boxes[i].found,
			       (unsigned long long)boxes[i].known);
	} else {
		EXPECT_EQ(atomic_load(&boxes[i].known), atomic_load(&boxes[i].found));
	}
	close(fd);
}

/* Whether there was enough of all that is looked at in the end. */
static bool has_seen_enough(void)
{
	for (unsigned int i = 0; i < BOXES; i++)
		if (kinds[i].metric != VEXFS_METRIC_DOT && boxes[i].known < 10)
			return false;
	return by_index > SEARCHERS && compared > SEARCHERS && changed > KEYS / 8;
}

/* As long as it is told to, which may be longer than others. */
TEST_F_TIMEOUT(box, searches_beside_changes_and_builds_are_right, 3000)
{
	pthread_t searching[SEARCHERS], writing[WRITERS];
	const char *seconds = getenv("VEXFS_STORM_SECONDS");
	uint64_t random = seed() + 1000;
	double end;

	for (unsigned int i = 0; i < BOXES; i++) {
		int fd = container(kinds[i].name, DIM, kinds[i].metric);

		ASSERT_LE(0, fd);
		/* Version 1 of all keys of which that is there. */
		for (uint64_t key = 0; key < KEYS; key++) {
			float row[DIM];
			uint64_t tags = tags_of(key, 1);
			struct vexfs_batch b = { .op = VEXFS_OP_INSERT, .count = 1, .vectors = PTR(row),
						 .keys = PTR(&key), .tags = PTR(&tags) };

			contents(row, i, key, 1);
			if (is_there(key, 1))
				OK(batch(fd, &b));
			boxes[i].done[key] = boxes[i].begun[key] = 1;
		}
		build_box(fd, i, 0, 1);
		close(fd);
	}
	ASSERT_EQ(0, atomic_load(&errors)) TH_LOG("%s", said);
	for (uintptr_t i = 0; i < SEARCHERS; i++)
		pthread_create(&searching[i], NULL, searcher, (void *)i);
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&writing[i], NULL, writer, (void *)i);
	end = now() + (seconds ? atoi(seconds) : quick() ? 10 : 60);
	while ((now() < end || !has_seen_enough()) && !errors) {
		look_after(rnd(&random) % (BOXES - 1), &random);
		usleep(20000);
	}
	stop = true;
	for (int i = 0; i < SEARCHERS; i++)
		pthread_join(searching[i], NULL);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(writing[i], NULL);
	EXPECT_EQ(0, atomic_load(&errors)) TH_LOG("%s", said);
	TH_LOG("%llu searches, %llu by an index, %llu held against all rows; %llu rows changed, "
	       "%llu builds, %llu checks", (unsigned long long)searches, (unsigned long long)by_index,
	       (unsigned long long)compared, (unsigned long long)changed, (unsigned long long)builds,
	       (unsigned long long)checks);
	for (unsigned int i = 0; i < BOXES && !errors; i++)
		expect_the_last_versions(_metadata, i);
}

TEST_HARNESS_MAIN
