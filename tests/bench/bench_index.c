// SPDX-License-Identifier: Apache-2.0
/*
 * A graph index in the kernel: how fast it is built and extended, and searches per second
 * over recall, on one thread:
 *
 *   bench_index VEXFS_DIR ROWS DIM ROUNDS [BASE QUERIES]
 *
 * BASE and QUERIES are files of binary32, row after row; without them rows are a mixture of
 * clusters. 9/10 of the rows are there before the build, the rest comes in batches of 256
 * afterwards. Searches are measured with all queries in one call, and with one in each, in
 * turn for each ef. Recall@10 is against the exact search of the same kernel.
 *
 * Prints one JSON object per line, medians over the rounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../uapi/vexfs.h"
#include "bench.h"

#define K 10
#define MAX_QUERIES 1000
#define MAX_ROUNDS 32
#define BATCH 256
#define CLUSTERS 200

static const unsigned int efs[] = { 10, 16, 24, 32, 48, 64, 96, 128, 192, 256 };
#define EFS (sizeof(efs) / sizeof(*efs))

/* Clusters along a few directions each, so that neighbours are not a matter of chance alone. */
static float *mixture(size_t n, size_t dim, const float *centres)
{
	float *out = malloc(n * dim * sizeof(float));

	if (!out)
		die("memory");
	for (size_t r = 0; r < n; r++) {
		size_t c = (size_t)((uniform() + 1) / 2 * CLUSTERS) % CLUSTERS;
		float along[8];

		for (int j = 0; j < 8; j++)
			along[j] = uniform();
		for (size_t i = 0; i < dim; i++) {
			float x = centres[c * dim + i];

			for (int j = 0; j < 8; j++)
				x += 0.5f * along[j] * centres[((c + j * 31 + 1) % CLUSTERS) * dim + i];
			out[r * dim + i] = x + 0.1f * uniform();
		}
	}
	return out;
}

static float *read_rows(const char *path, size_t dim, size_t *n)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	size_t bytes, at = 0;
	char *out;

	if (fd < 0 || fstat(fd, &st))
		die(path);
	if (*n > st.st_size / (dim * sizeof(float)))
		*n = st.st_size / (dim * sizeof(float));
	bytes = *n * dim * sizeof(float);
	out = malloc(bytes);
	while (out && at < bytes) {
		ssize_t got = read(fd, out + at, bytes - at);

		if (got <= 0)
			die(path);
		at += got;
	}
	if (!out)
		die("memory");
	close(fd);
	return (float *)out;
}

static void insert(int fd, const float *rows, size_t n, size_t dim)
{
	for (size_t at = 0; at < n; at += BATCH) {
		struct vexfs_batch b = {
			.size = sizeof(b), .op = VEXFS_OP_INSERT,
			.count = n - at < BATCH ? n - at : BATCH,
			.vectors = (uintptr_t)(rows + at * dim),
		};

		if (ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b))
			die("insert");
	}
}

static struct vexfs_search search(int fd, unsigned int kind, unsigned int ef, const float *queries,
				  size_t nq, size_t each, size_t dim, struct vexfs_hit *hits,
				  double *seconds)
{
	struct vexfs_search s = { 0 };
	double start = now();

	for (size_t q = 0; q < nq; q += each) {
		struct vexfs_search one = {
			.size = sizeof(one), .nq = nq - q < each ? nq - q : each, .k = K,
			.index_kind = kind, .ef = ef, .queries = (uintptr_t)(queries + q * dim),
			.hits = (uintptr_t)(hits + q * K),
		};

		if (ioctl(fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &one))
			die("search");
		s.distances += one.distances;
		s.hops += one.hops;
		s.rows_exact += one.rows_exact;
	}
	*seconds = now() - start;
	return s;
}

static double recall(const struct vexfs_hit *got, const struct vexfs_hit *want, size_t nq)
{
	size_t same = 0;

	for (size_t q = 0; q < nq; q++)
		for (int i = 0; i < K; i++)
			for (int j = 0; j < K; j++)
				same += got[q * K + i].row == want[q * K + j].row;
	return (double)same / (nq * K);
}

int main(int argc, char **argv)
{
	static double batched[EFS][MAX_ROUNDS], single[EFS][MAX_ROUNDS];
	struct vexfs_search counted[EFS];
	struct vexfs_create_vector create = {
		.size = sizeof(create), .element_type = VEXFS_ELEMENT_F32,
		.metric = VEXFS_METRIC_L2,
	};
	struct vexfs_build_index build = {
		.size = sizeof(build), .index_kind = VEXFS_INDEX_HNSW,
	};
	struct vexfs_index_stats st = {
		.size = sizeof(st), .index_kind = VEXFS_INDEX_HNSW,
		.flags = VEXFS_INDEX_STATS_DIGEST,
	};
	double found[EFS], exact, built, extended, plain;
	size_t n, dim, first, nq = MAX_QUERIES;
	struct vexfs_hit *hits, *want;
	float *rows, *queries;
	char path[4096];
	int rounds, fd, other;

	if (argc != 5 && argc != 7) {
		fprintf(stderr, "usage: bench_index VEXFS_DIR ROWS DIM ROUNDS [BASE QUERIES]\n");
		return 2;
	}
	n = strtoul(argv[2], NULL, 0);
	dim = strtoul(argv[3], NULL, 0);
	rounds = atoi(argv[4]);
	if (n < 10 || !dim || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "bench_index: at least 10 rows, rounds from 1 to %d\n", MAX_ROUNDS);
		return 2;
	}
	if (argc == 7) {
		rows = read_rows(argv[5], dim, &n);
		queries = read_rows(argv[6], dim, &nq);
	} else {
		float *centres = malloc(CLUSTERS * dim * sizeof(float));

		if (!centres)
			die("memory");
		for (size_t i = 0; i < CLUSTERS * dim; i++)
			centres[i] = uniform();
		rows = mixture(n, dim, centres);
		queries = mixture(nq, dim, centres);
	}
	hits = calloc(nq * K, sizeof(*hits));
	want = calloc(nq * K, sizeof(*want));
	if (!hits || !want)
		die("memory");
	create.dim = dim;
	snprintf(path, sizeof(path), "%s/index", argv[1]);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &create))
		die(path);
	snprintf(path, sizeof(path), "%s/plain", argv[1]);
	other = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (other < 0 || ioctl(other, VEXFS_IOCTL_CREATE_VECTOR, &create))
		die(path);

	first = n - n / 10;
	insert(fd, rows, first, dim);
	built = now();
	if (ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build))
		die("build");
	built = now() - built;
	extended = now();
	insert(fd, rows + first * dim, n - first, dim);
	extended = now() - extended;
	plain = now();
	insert(other, rows + first * dim, n - first, dim);
	plain = now() - plain;
	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st))
		die("statistics");
	if (st.nodes != n) {
		fprintf(stderr, "bench_index: %llu of %zu rows are in the index\n",
			(unsigned long long)st.nodes, n);
		return 1;
	}
	printf("{\"bench\":\"hnsw_build\",\"rows\":%zu,\"dim\":%zu,\"m\":%u,\"ef_construction\":%u,"
	       "\"rows_per_s\":%.0f,\"indexed_inserts_per_s\":%.0f,\"plain_inserts_per_s\":%.0f,"
	       "\"resident_bytes\":%llu,\"bytes_per_row\":%.1f,\"share_of_rows\":%.3f,"
	       "\"digest\":\"%016llx\"}\n", n, dim, st.m, st.ef_construction, first / built,
	       (n - first) / extended, (n - first) / plain, (unsigned long long)st.resident_bytes,
	       (double)st.resident_bytes / n, (double)st.resident_bytes / (n * dim * 4.0),
	       (unsigned long long)st.digest);

	search(fd, VEXFS_INDEX_EXACT, 0, queries, nq, nq, dim, want, &exact);
	for (int round = 0; round < rounds; round++)
		for (size_t i = 0; i < EFS; i++) {
			counted[i] = search(fd, VEXFS_INDEX_HNSW, efs[i], queries, nq, nq, dim,
					    hits, &batched[i][round]);
			found[i] = recall(hits, want, nq);
			search(fd, VEXFS_INDEX_HNSW, efs[i], queries, nq, 1, dim, hits,
			       &single[i][round]);
		}
	for (size_t i = 0; i < EFS; i++)
		printf("{\"bench\":\"hnsw_search\",\"rows\":%zu,\"dim\":%zu,\"k\":%d,\"ef\":%u,"
		       "\"threads\":1,\"rounds\":%d,\"recall_at_10\":%.4f,"
		       "\"batched_queries\":%zu,\"batched_searches_per_s\":%.0f,"
		       "\"searches_per_s\":%.0f,\"exact_searches_per_s\":%.0f,"
		       "\"distances\":%.0f,\"hops\":%.0f,\"rows_exact\":%llu}\n",
		       n, dim, K, efs[i], rounds, found[i], nq, nq / median(batched[i], rounds),
		       nq / median(single[i], rounds), nq / exact,
		       (double)counted[i].distances / nq, (double)counted[i].hops / nq,
		       (unsigned long long)counted[i].rows_exact);
	return 0;
}
