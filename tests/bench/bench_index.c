// SPDX-License-Identifier: Apache-2.0
/*
 * A graph index in the kernel: how fast it is built and extended, searches per second over
 * recall, and searches with filters, on one thread:
 *
 *   bench_index VEXFS_DIR NAME BASE QUERIES ROUNDS [TURNS TRUTH]
 *
 * BASE and QUERIES are .npy arrays of float32; the metric is L2, NAME is for the output. 9/10 of
 * the rows are there before the build, with tags that a half, a tenth, a hundredth and a
 * thousandth of them have; the rest comes in batches of 256 afterwards.
 * Searches are measured with all queries in one call, and with one in each, in turn for
 * each ef; at the end with one in each call before and after a row is deleted. Recall@10 is against the exact search of the same kernel.
 *
 * INDEX_M in the environment is another m than the kernel's default.
 *
 * With TURNS, round N waits until there is a file TURNS/N, so that something else can be
 * measured between two rounds. TRUTH is an array of int32, the nearest rows of each
 * query as someone else computed them: the exact search is compared with it.
 *
 * Prints one JSON object per line; the best round counts.
 */
#define _GNU_SOURCE
#include "index.h"

#define MAX_ROUNDS 32

static const unsigned int efs[] = { 10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64, 96, 128 };
#define EFS (sizeof(efs) / sizeof(*efs))

/* Tag bit i is on so many of the rows, at random. */
static const double shares[] = { 0.5, 0.1, 0.01, 0.001 };
#define SHARES (sizeof(shares) / sizeof(*shares))

static double insert(int fd, const struct data *d, size_t from, size_t to, const uint64_t *tags)
{
	double start = now();

	for (size_t at = from; at < to; at += BATCH) {
		struct vexfs_batch b = {
			.size = sizeof(b), .op = VEXFS_OP_INSERT,
			.count = to - at < BATCH ? to - at : BATCH,
			.vectors = (uintptr_t)(d->rows + at * d->dim),
			.tags = tags ? (uintptr_t)(tags + at) : 0,
		};

		if (ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b))
			die("insert");
	}
	return now() - start;
}

/* Searches for `each` queries per call as `s` says, and counts in it. */
static double search(int fd, const struct data *d, size_t each, struct vexfs_hit *hits,
		     struct vexfs_search *s)
{
	double start = now();

	for (size_t q = 0; q < d->nq; q += each) {
		struct vexfs_search one = *s;

		one.size = sizeof(one);
		one.nq = d->nq - q < each ? d->nq - q : each;
		one.k = K;
		one.queries = (uintptr_t)(d->queries + q * d->dim);
		one.hits = (uintptr_t)(hits + q * K);
		one.distances = one.hops = one.rows_exact = one.elapsed_ns = 0;
		if (ioctl(fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &one))
			die("search");
		s->distances += one.distances;
		s->hops += one.hops;
		s->rows_exact += one.rows_exact;
		s->elapsed_ns += one.elapsed_ns;
	}
	return now() - start;
}

static void wait_for_turn(const char *dir, int round)
{
	char path[4096];

	printf("{\"turn\":%d}\n", round);
	fflush(stdout);
	snprintf(path, sizeof(path), "%s/%d", dir, round);
	/* Seldom, so as not to disturb what is measured meanwhile. */
	while (access(path, F_OK))
		usleep(50000);
}

/*
 * Searches a second for calls of one query each, by the kernel's own clock: in User-Mode Linux
 * a system call takes longer than many a search.
 */
static double alone(int fd, const struct data *d, int rounds, struct vexfs_hit *hits, struct vexfs_search s)
{
	double most = 0, rate;

	for (int round = 0; round < rounds; round++) {
		s.elapsed_ns = 0;
		search(fd, d, 1, hits, &s);
		rate = d->nq / (s.elapsed_ns * 1e-9);
		most = rate > most ? rate : most;
	}
	return most;
}

/* Searches before and after one row is deleted. */
static void deleted(int fd, const struct data *d, int rounds, struct vexfs_hit *hits)
{
	struct vexfs_search s = { .index_kind = VEXFS_INDEX_HNSW };
	uint64_t key = d->n / 2;
	struct vexfs_batch b = { .size = sizeof(b), .op = VEXFS_OP_DELETE, .count = 1, .keys = (uintptr_t)&key };

	for (int rows = 0; rows < 2; rows++) {
		if (rows && ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b))
			die("delete");
		printf("{\"bench\":\"hnsw_deleted\",\"data\":\"%s\",\"rows\":%zu,\"dim\":%zu,\"k\":%d,"
		       "\"deleted\":%d,\"threads\":1,\"searches_per_s_in_kernel\":%.0f}\n",
		       d->name, d->n, d->dim, K, rows, alone(fd, d, rounds, hits, s));
	}
}

/* Searches among rows with a tag. */
static void filtered(int fd, const struct data *d, const uint64_t *tags, int rounds,
		     struct vexfs_hit *hits, struct vexfs_hit *want)
{
	for (size_t bit = 0; bit < SHARES; bit++) {
		struct vexfs_search exact = {
			.flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = 1ULL << bit,
			.index_kind = VEXFS_INDEX_EXACT,
		};
		struct vexfs_search s = exact;
		double seconds[MAX_ROUNDS], filled, found;
		size_t matches = 0;

		for (size_t r = 0; r < d->n; r++)
			matches += tags[r] >> bit & 1;
		search(fd, d, d->nq, want, &exact);
		for (int round = 0; round < rounds; round++) {
			s = (struct vexfs_search){
				.flags = VEXFS_SEARCH_TAGS_ALL, .tags_all = 1ULL << bit,
				.index_kind = VEXFS_INDEX_HNSW,
			};
			seconds[round] = search(fd, d, d->nq, hits, &s);
		}
		found = recall(hits, want, d->nq, &filled);
		printf("{\"bench\":\"hnsw_filter\",\"data\":\"%s\",\"rows\":%zu,\"dim\":%zu,\"k\":%d,"
		       "\"selectivity\":%.5f,\"threads\":1,\"recall_at_10\":%.4f,\"filled\":%.4f,"
		       "\"batched_searches_per_s\":%.0f,\"searches_per_s_in_kernel\":%.0f,\"distances\":%.0f,"
		       "\"rows_exact\":%.0f}\n",
		       d->name, d->n, d->dim, K, (double)matches / d->n, found, filled,
		       d->nq / least(seconds, rounds), alone(fd, d, rounds, hits, s), (double)s.distances / d->nq,
		       (double)s.rows_exact / d->nq);
	}
}

int main(int argc, char **argv)
{
	static double batched[EFS][MAX_ROUNDS], single[EFS][MAX_ROUNDS];
	struct vexfs_search counted[EFS], all = { .index_kind = VEXFS_INDEX_EXACT };
	struct vexfs_build_index build = {
		.size = sizeof(build), .index_kind = VEXFS_INDEX_HNSW,
	};
	struct vexfs_index_stats st = {
		.size = sizeof(st), .index_kind = VEXFS_INDEX_HNSW,
		.flags = VEXFS_INDEX_STATS_DIGEST,
	};
	double found[EFS], exact, built, extended, plain, agrees = -1, filled;
	struct data d = { 0 };
	struct vexfs_hit *hits, *want;
	const char *turns = NULL;
	uint64_t *tags;
	size_t first, columns;
	int rounds, fd;

	if (argc != 6 && argc != 8) {
		fprintf(stderr, "usage: bench_index VEXFS_DIR NAME BASE QUERIES ROUNDS [TURNS TRUTH]\n");
		return 2;
	}
	d.name = argv[2];
	rounds = atoi(argv[5]);
	if (rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "bench_index: rounds from 1 to %d\n", MAX_ROUNDS);
		return 2;
	}
	d.rows = read_npy(argv[3], "'<f4'", &d.n, &d.dim);
	d.queries = read_npy(argv[4], "'<f4'", &d.nq, &columns);
	if (d.n < 10 || !d.nq || columns != d.dim) {
		fprintf(stderr, "bench_index: too few rows, or queries of another length\n");
		return 2;
	}
	hits = calloc(d.nq * K, sizeof(*hits));
	want = calloc(d.nq * K, sizeof(*want));
	tags = calloc(d.n, sizeof(*tags));
	if (!hits || !want || !tags)
		die("memory");
	first = d.n - d.n / 10;
	for (size_t r = 0; r < first; r++)
		for (size_t bit = 0; bit < SHARES; bit++)
			tags[r] |= (uint64_t)((uniform() + 1) / 2 < shares[bit]) << bit;

	fd = create(argv[1], "index", d.dim);
	insert(fd, &d, 0, first, tags);
	if (getenv("INDEX_M"))
		build.m = atoi(getenv("INDEX_M"));
	built = now();
	if (ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build))
		die("build");
	built = now() - built;
	extended = insert(fd, &d, first, d.n, NULL);
	plain = insert(create(argv[1], "plain", d.dim), &d, first, d.n, NULL);
	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st))
		die("statistics");
	if (st.nodes != d.n) {
		fprintf(stderr, "bench_index: %llu of %zu rows are in the index\n",
			(unsigned long long)st.nodes, d.n);
		return 1;
	}

	exact = search(fd, &d, d.nq, want, &all);
	if (argc == 8) {
		size_t nq, same = 0;
		int32_t *truth = read_npy(argv[7], "'<i4'", &nq, &columns);

		if (nq != d.nq || columns < K)
			die("truth of other queries");
		for (size_t i = 0; i < nq * K; i++)
			for (int j = 0; j < K; j++)
				same += want[i].row == (uint64_t)truth[i / K * columns + j];
		agrees = (double)same / (nq * K);
		turns = argv[6];
	}
	printf("{\"bench\":\"hnsw_build\",\"data\":\"%s\",\"rows\":%zu,\"dim\":%zu,\"m\":%u,"
	       "\"ef_construction\":%u,\"threads\":1,\"rows_per_s\":%.0f,\"indexed_inserts_per_s\":%.0f,"
	       "\"plain_inserts_per_s\":%.0f,\"resident_bytes\":%llu,\"bytes_per_row\":%.1f,"
	       "\"share_of_rows\":%.3f,\"exact_searches_per_s\":%.0f,\"exact_agrees\":%.4f,"
	       "\"digest\":\"%016llx\"}\n", d.name, d.n, d.dim, st.m, st.ef_construction, first / built,
	       (d.n - first) / extended, (d.n - first) / plain,
	       (unsigned long long)st.resident_bytes, (double)st.resident_bytes / d.n,
	       (double)st.resident_bytes / (d.n * d.dim * 4.0), d.nq / exact, agrees,
	       (unsigned long long)st.digest);

	for (int round = 0; round < rounds; round++) {
		if (turns)
			wait_for_turn(turns, round);
		for (size_t i = 0; i < EFS; i++) {
			struct vexfs_search s = { .index_kind = VEXFS_INDEX_HNSW, .ef = efs[i] };

			single[i][round] = search(fd, &d, 1, hits, &s);
			s.distances = s.hops = s.rows_exact = 0;
			batched[i][round] = search(fd, &d, d.nq, hits, &s);
			counted[i] = s;
			found[i] = recall(hits, want, d.nq, &filled);
		}
	}
	if (turns)
		wait_for_turn(turns, rounds);
	for (size_t i = 0; i < EFS; i++)
		printf("{\"bench\":\"hnsw_search\",\"data\":\"%s\",\"rows\":%zu,\"dim\":%zu,\"k\":%d,"
		       "\"ef\":%u,\"threads\":1,\"rounds\":%d,\"recall_at_10\":%.4f,"
		       "\"batched_queries\":%zu,\"batched_searches_per_s\":%.0f,\"searches_per_s\":%.0f,"
		       "\"distances\":%.0f,\"hops\":%.0f,\"rows_exact\":%llu}\n",
		       d.name, d.n, d.dim, K, efs[i], rounds, found[i], d.nq,
		       d.nq / least(batched[i], rounds), d.nq / least(single[i], rounds),
		       (double)counted[i].distances / d.nq, (double)counted[i].hops / d.nq,
		       (unsigned long long)counted[i].rows_exact);
	filtered(fd, &d, tags, rounds, hits, want);
	deleted(fd, &d, rounds, hits);
	return 0;
}
