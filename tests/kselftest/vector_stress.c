// SPDX-License-Identifier: GPL-2.0
/*
 * Containers with many users: searches see whole batches while others insert,
 * delete, replace and read.
 */
#include "vector_test.h"
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define DIM 32
#define BATCH 50

struct shared {
	const char *name;
	_Atomic uint64_t inserted;	/* rows acknowledged */
	_Atomic int stop;
	_Atomic int errors;
	char text[200];
	_Atomic uint64_t searches;
	_Atomic int readers;		/* searchers that have the file open */
};

static void complain(struct shared *sh, const char *what)
{
	if (!atomic_fetch_add(&sh->errors, 1))
		snprintf(sh->text, sizeof(sh->text), "%s (errno %s)", what, strerror(errno));
}

/* Keys say whose and which: a batch of writer w holds keys w << 32 | i. */
static void *inserter(void *arg)
{
	struct shared *sh = arg;
	static _Atomic uint64_t writers;
	uint64_t w = atomic_fetch_add(&writers, 1), keys[BATCH];
	float rows[BATCH * DIM];
	int fd = open(sh->name, O_RDWR);

	for (uint64_t i = 0; i < 2000 && !sh->stop; i += BATCH) {
		make_rows(rows, w, i, BATCH, DIM);
		for (int j = 0; j < BATCH; j++)
			keys[j] = w << 32 | (i + j);
		if (insert(fd, rows, keys, BATCH)) {
			complain(sh, "insert");
			break;
		}
		sh->inserted += BATCH;
	}
	close(fd);
	return NULL;
}

static void *searcher(void *arg)
{
	struct shared *sh = arg;
	struct vexfs_hit hits[20];
	float query[DIM], row[DIM];
	uint64_t i = 0;
	int fd = open(sh->name, O_RDONLY);

	if (fd < 0)
		complain(sh, "open for searches");
	sh->readers++;
	while (!sh->stop) {
		struct vexfs_search s = { .nq = 1, .k = 20, .queries = PTR(query),
					  .hits = PTR(hits) };
		uint64_t before = sh->inserted, after;

		make_rows(query, 1000, i++, 1, DIM);
		if (search(fd, &s)) {
			complain(sh, "search");
			break;
		}
		after = stats_of(fd).rows;
		if (s.rows_exact < before || s.rows_exact > after)
			complain(sh, "a search did not see the acknowledged rows");
		if (s.rows_exact % BATCH)
			complain(sh, "a search saw a part of a batch");
		for (int h = 0; h < 20 && before >= 20; h++) {
			double scale, want;

			make_rows(row, hits[h].key >> 32, hits[h].key & 0xffffffff, 1, DIM);
			want = oracle(query, row, DIM, VEXFS_METRIC_L2, &scale);
			if (!(fabs(bits_to_float(hits[h].distance) - want) <= tolerance(DIM, scale)))
				complain(sh, "a hit is torn or has the wrong key");
		}
		sh->searches++;
	}
	close(fd);
	return NULL;
}

CASE(searches_see_whole_acknowledged_batches)
{
	struct shared sh = { .name = "f" };
	pthread_t writers[3], readers[3];
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	ASSERT_LE(0, fd);
	for (int i = 0; i < 3; i++)
		pthread_create(&readers[i], NULL, searcher, &sh);
	for (int i = 0; i < 3; i++)
		pthread_create(&writers[i], NULL, inserter, &sh);
	for (int i = 0; i < 3; i++)
		pthread_join(writers[i], NULL);
	WAIT_FOR(sh.searches > 2 || sh.errors);
	sh.stop = 1;
	for (int i = 0; i < 3; i++)
		pthread_join(readers[i], NULL);
	EXPECT_EQ(0, atomic_load(&sh.errors)) TH_LOG("%s", sh.text);
	EXPECT_EQ(6000, stats_of(fd).live);
	/* Every row under its key. */
	for (uint64_t w = 0; w < 3; w++)
		for (uint64_t i = 0; i < 2000; i += 61) {
			float row[DIM], want[DIM];

			make_rows(want, w, i, 1, DIM);
			ASSERT_GT(6000, get_key(fd, w << 32 | i, row, NULL));
			ASSERT_EQ(0, memcmp(row, want, sizeof(row)));
		}
}

static void *replacer(void *arg)
{
	struct shared *sh = arg;
	int fd = open(sh->name, O_RDWR);

	/* Each batch replaces all rows by those of one stream: never a mixture. */
	for (uint64_t round = 1; round < 60 || (sh->searches < 20 && !sh->errors); round++) {
		uint64_t keys[BATCH];
		float rows[BATCH * DIM];
		struct vexfs_batch b = { .op = VEXFS_OP_UPSERT, .count = BATCH,
					 .vectors = PTR(rows), .keys = PTR(keys) };

		for (int i = 0; i < BATCH; i++)
			keys[i] = i;
		make_rows(rows, round % 60, 0, BATCH, DIM);
		if (batch(fd, &b))
			complain(sh, "upsert");
	}
	sh->stop = 1;
	close(fd);
	return NULL;
}

CASE(a_get_sees_one_state_of_a_batch)
{
	struct shared sh = { .name = "f" };
	int fd = container("f", DIM, VEXFS_METRIC_L2), mixed = 0;
	float rows[BATCH * DIM];
	uint64_t keys[BATCH];
	struct vexfs_batch b = { .op = VEXFS_OP_GET, .count = BATCH, .keys = PTR(keys),
				 .vectors = PTR(rows) };
	pthread_t thread;

	for (int i = 0; i < BATCH; i++)
		keys[i] = i;
	make_rows(rows, 0, 0, BATCH, DIM);
	OK(insert(fd, rows, keys, BATCH));
	pthread_create(&thread, NULL, replacer, &sh);
	while (!sh.stop) {
		uint64_t stream = 0;

		OK(batch(fd, &b));
		EXPECT_EQ(BATCH, b.done);
		while (stream < 60 && rows[0] != element(stream, 0, 0))
			stream++;
		for (int i = 0; i < BATCH; i++)
			for (int j = 0; j < DIM; j++)
				mixed += rows[i * DIM + j] != element(stream, i, j);
		sh.searches++;
	}
	pthread_join(thread, NULL);
	EXPECT_EQ(0, atomic_load(&sh.errors)) TH_LOG("%s", sh.text);
	EXPECT_EQ(0, mixed) TH_LOG("in %d reads", (int)sh.searches);
	EXPECT_EQ(BATCH, stats_of(fd).live);
}

static void *deleter(void *arg)
{
	struct shared *sh = arg;
	int fd = open(sh->name, O_RDWR);
	uint64_t state = 1;

	while (!sh->stop) {
		uint64_t key = rnd(&state) % 300;
		float row[DIM];
		struct vexfs_batch b = { .count = 1, .keys = PTR(&key) };

		b.op = rnd(&state) % 3 + 1;
		if (b.op != VEXFS_OP_DELETE) {
			make_rows(row, 7, key, 1, DIM);
			b.vectors = PTR(row);
		}
		if (batch(fd, &b) && errno != EEXIST && errno != ENOENT)
			complain(sh, "random operation");
	}
	close(fd);
	return NULL;
}

CASE(random_changes_beside_everything_else)
{
	struct shared sh = { .name = "f" };
	pthread_t thread[4];
	int fd = container("f", DIM, VEXFS_METRIC_L2), live = 0;

	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, deleter, &sh);
	for (int i = 0; i < 150; i++) {
		struct vexfs_hit hits[400];
		float query[DIM], row[DIM];
		struct vexfs_search s = { .nq = 1, .k = 400, .queries = PTR(query),
					  .hits = PTR(hits) };
		bool seen[300] = { 0 };

		make_rows(query, 8, i, 1, DIM);
		OK(search(fd, &s));
		for (int h = 0; h < 400 && hits[h].key != ~0ull; h++) {
			double scale, want;

			ASSERT_GT(300, hits[h].key);
			EXPECT_FALSE(seen[hits[h].key]) TH_LOG("a key is there twice");
			seen[hits[h].key] = true;
			make_rows(row, 7, hits[h].key, 1, DIM);
			want = oracle(query, row, DIM, VEXFS_METRIC_L2, &scale);
			EXPECT_GT(tolerance(DIM, scale), fabs(bits_to_float(hits[h].distance) - want));
		}
		if (i % 20 == 19) {
			OK(fsync(fd));
		}
		if (i % 50 == 49)
			drop_caches();
	}
	sh.stop = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, atomic_load(&sh.errors)) TH_LOG("%s", sh.text);
	for (uint64_t key = 0; key < 300; key++)
		live += get_key(fd, key, NULL, NULL) < VEXFS_ROW_NONE - 1;
	EXPECT_EQ(live, stats_of(fd).live);
}

CASE(unlink_and_close_beside_searches)
{
	struct shared sh = { .name = "f" };
	pthread_t readers[2];
	float *rows = new_rows(0, 0, 2000, DIM);
	int fd = container("f", DIM, VEXFS_METRIC_L2);

	/* The reader expects whole batches and keys of stream 0. */
	OK(insert(fd, rows, NULL, 2000));
	sh.inserted = 2000;
	for (int i = 0; i < 2; i++)
		pthread_create(&readers[i], NULL, searcher, &sh);
	/* A reader that comes after the unlink would not find the file. */
	while ((sh.readers < 2 || sh.searches < 4) && !sh.errors)
		usleep(1000);
	OK(unlink("f"));
	close(fd);
	usleep(50000);
	sh.stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	EXPECT_EQ(0, atomic_load(&sh.errors)) TH_LOG("%s", sh.text);
}

CASE(a_killed_search_ends)
{
	int fd = container("f", 1024, VEXFS_METRIC_L2), status;
	float *rows = new_rows(1, 0, 3000, 1024);
	pid_t pid;

	OK(insert(fd, rows, NULL, 3000));
	pid = fork();
	if (!pid) {
		struct vexfs_hit *hits = calloc(3000, sizeof(*hits));
		struct vexfs_search s = { .nq = 3000, .k = 1, .queries = PTR(rows),
					  .hits = PTR(hits) };

		for (;;)
			search(fd, &s);
	}
	wait_for_work(pid, 0.2);
	kill(pid, SIGKILL);
	/* The harness ends the test when this takes too long. */
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(3000, stats_of(fd).live);
}

/* Asks for statistics again and again, and notes when it was answered. */
struct onlooker {
	int fd;
	volatile int stop;
	unsigned int answers;
	double at[10000];
};

static void *look_on(void *arg)
{
	struct onlooker *me = arg;

	while (!me->stop && me->answers < 10000) {
		stats_of(me->fd);
		me->at[me->answers++] = now();
		usleep(1000);
	}
	return NULL;
}

static int run_search(int fd, void *arg)
{
	return search(fd, arg);
}

static int run_batch(int fd, void *arg)
{
	return batch(fd, arg);
}

/* Runs something long, during which others are answered, and kills it when it runs again. */
static void lets_others_in_and_is_killed(struct __test_metadata *_metadata, int fd, int (*run)(int, void *), void *arg)
{
	static struct onlooker onlooker;
	double begun, took, killed;
	unsigned int answers = 0;
	pthread_t thread;
	pid_t child;

	onlooker = (struct onlooker){ .fd = fd };
	ASSERT_EQ(0, pthread_create(&thread, NULL, look_on, &onlooker));
	begun = now();
	OK(run(fd, arg));
	took = now() - begun;
	onlooker.stop = true;
	pthread_join(thread, NULL);
	/* Long after it began, and long before its end: nobody, if it held the lock throughout. */
	for (unsigned int i = 0; i < onlooker.answers; i++)
		answers += onlooker.at[i] > begun + took * 0.3 && onlooker.at[i] < begun + took * 0.9;
	EXPECT_LE(1, answers);
	TH_LOG("it took %.2f s, others were answered %u times meanwhile", took, answers);
	child = fork();
	if (!child) {
		run(fd, arg);
		_exit(0);
	}
	usleep(took / 10 * 1e6);
	killed = now();
	OK(kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, NULL, 0));
	EXPECT_GT(took * 2 / 3, now() - killed);
}

CASE(a_search_for_many_keys_lets_others_in_and_can_be_killed)
{
	enum { ROWS = 4000 };
	unsigned int n = quick() ? 150000 : 500000;
	uint64_t *keys = malloc(n * sizeof(*keys)), state = seed();
	float *rows = new_rows(1, 0, ROWS, DIM);
	struct vexfs_hit hit;
	struct vexfs_search s = {
		.nq = 1, .k = 1, .queries = PTR(rows), .hits = PTR(&hit), .flags = VEXFS_SEARCH_KEYS,
		.filter_keys = PTR(keys), .filter_key_count = n,
	};
	int fd;

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	for (unsigned int i = 0; i < n; i++)
		keys[i] = rnd(&state) >> 1;
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, keys, ROWS));
	lets_others_in_and_is_killed(_metadata, fd, run_search, &s);
	EXPECT_EQ(keys[0], hit.key);
	close(fd);
	free(rows);
	free(keys);
}

/* The keys of a batch are looked up in pieces, and all in one state of the container. */
CASE(a_get_of_many_keys_lets_others_in_and_sees_one_state)
{
	enum { ROWS = 4000, SOME = 64 };
	unsigned int n = quick() ? 60000 : 500000;
	uint64_t *keys = malloc(n * sizeof(*keys)), *found = malloc(n * sizeof(*found)), own[ROWS];
	float *rows = new_rows(1, 0, ROWS, DIM);
	struct vexfs_batch get = {
		.op = VEXFS_OP_GET, .count = n, .keys = PTR(keys), .rows = PTR(found),
	};
	unsigned int mixed = 0;
	pid_t child;
	int fd;

	if (!on_vexfs())
		SKIP(return, "not on VexFS");
	for (unsigned int i = 0; i < ROWS; i++)
		own[i] = 1000000 + i;
	fd = container("f", DIM, VEXFS_METRIC_L2);
	OK(insert(fd, rows, own, ROWS));
	for (unsigned int i = 0; i < n; i++)
		keys[i] = own[i % ROWS];
	lets_others_in_and_is_killed(_metadata, fd, run_batch, &get);
	EXPECT_EQ(n, get.done);

	/* Rows are replaced a batch at a time meanwhile: all of some keys are of one batch. */
	child = fork();
	if (!child) {
		struct vexfs_batch replace = {
			.op = VEXFS_OP_UPSERT, .count = SOME, .vectors = PTR(rows), .keys = PTR(own),
		};

		for (;;)
			batch(fd, &replace);
	}
	for (unsigned int i = 0; i < n; i++)
		keys[i] = own[i % SOME];
	for (int round = 0; round < 2; round++) {
		OK(batch(fd, &get));
		for (unsigned int i = 0; i < n; i++)
			mixed += found[i] != found[0] + i % SOME;
	}
	EXPECT_EQ(0, mixed);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(fd);
	free(rows);
	free(keys);
	free(found);
}

TEST_HARNESS_MAIN
