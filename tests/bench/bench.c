// SPDX-License-Identifier: Apache-2.0
/*
 * Inserts and exact scans, each beside what bounds it, in turn, in one process and on one
 * thread:
 *
 *   bench VEXFS_DIR EXT4_DIR ROWS DIM BATCH_ROWS ROUNDS
 *
 *  - insert: rows into a container, BATCH_ROWS per ioctl, beside write(2) of the same bytes
 *    in pieces of the same size to a file on ext4; both into the page cache, then fsync;
 *  - scan: one exact search per ioctl, and one ioctl with 16 queries, beside a loop that adds
 *    up the 64-bit words of the same pages, mapped from the container. Recall is against
 *    double arithmetic here.
 *
 * Prints one JSON object per line, medians over the rounds; exit status 1 if the machine
 * could not run them or a search was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../uapi/vexfs.h"
#include "bench.h"

#define K 10
#define QUERIES 16
#define MAX_ROUNDS 32

static int create_file(const char *dir, char *path, size_t len)
{
	int fd;

	snprintf(path, len, "%s/bench", dir);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		die(path);
	return fd;
}

/* Four accumulators, so that the loop waits for memory and not for additions. */
static uint64_t add_up(const uint64_t *p, size_t words)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (size_t i = 0; i + 4 <= words; i += 4) {
		a += p[i];
		b += p[i + 1];
		c += p[i + 2];
		d += p[i + 3];
	}
	return a ^ b ^ c ^ d;
}

static double search(int fd, const float *queries, unsigned int nq, struct vexfs_hit *hits)
{
	struct vexfs_search s = {
		.size = sizeof(s),
		.nq = nq,
		.k = K,
		.index_kind = VEXFS_INDEX_EXACT,
		.queries = (uintptr_t)queries,
		.hits = (uintptr_t)hits,
	};
	double start = now();

	if (ioctl(fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s))
		die("search");
	return now() - start;
}

/* How many of the hits are as near as the K nearest by double arithmetic. */
static double recall(const float *rows, size_t n, size_t dim, const float *query,
		     const struct vexfs_hit *hits)
{
	double best[K];
	int found = 0;

	for (int i = 0; i < K; i++)
		best[i] = INFINITY;
	for (size_t r = 0; r < n; r++) {
		double d = 0;

		for (size_t i = 0; i < dim; i++) {
			double x = (double)rows[r * dim + i] - query[i];

			d += x * x;
		}
		for (int i = 0; i < K; i++) {
			if (d < best[i]) {
				memmove(best + i + 1, best + i, (K - 1 - i) * sizeof(*best));
				best[i] = d;
				break;
			}
		}
	}
	for (int i = 0; i < K; i++) {
		float d;

		memcpy(&d, &hits[i].distance, sizeof(d));
		/* Ties and rounding: by distance, not by row. */
		found += d <= best[K - 1] * (1 + 1e-5);
	}
	return (double)found / K;
}

int main(int argc, char **argv)
{
	char vexfs_path[4096], ext4_path[4096];
	double ext4[MAX_ROUNDS], vexfs[MAX_ROUNDS], ext4_sync[MAX_ROUNDS], vexfs_sync[MAX_ROUNDS];
	double one[MAX_ROUNDS], many[MAX_ROUNDS], plain[MAX_ROUNDS], found = 0;
	static struct vexfs_hit hits[QUERIES * K];
	volatile uint64_t sink = 0;
	size_t n, dim, batch, bytes;
	float *rows, *queries;
	int rounds, fd = -1;
	uint64_t *mapped;

	if (argc != 7) {
		fprintf(stderr, "usage: bench VEXFS_DIR EXT4_DIR ROWS DIM BATCH_ROWS ROUNDS\n");
		return 2;
	}
	n = strtoul(argv[3], NULL, 0);
	dim = strtoul(argv[4], NULL, 0);
	batch = strtoul(argv[5], NULL, 0);
	rounds = atoi(argv[6]);
	if (!n || !dim || !batch || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "bench: counts must be positive, rounds at most %d\n", MAX_ROUNDS);
		return 2;
	}
	bytes = n * dim * sizeof(float);
	rows = aligned_alloc(4096, (bytes + 4095) & ~4095UL);
	queries = malloc(QUERIES * dim * sizeof(float));
	if (!rows || !queries)
		die("memory");
	for (size_t i = 0; i < n * dim; i++)
		rows[i] = uniform();
	for (size_t i = 0; i < QUERIES * dim; i++)
		queries[i] = uniform();

	for (int round = 0; round < rounds; round++) {
		struct vexfs_create_vector create = {
			.size = sizeof(create),
			.dim = dim,
			.element_type = VEXFS_ELEMENT_F32,
			.metric = VEXFS_METRIC_L2,
		};
		double start;

		fd = create_file(argv[2], ext4_path, sizeof(ext4_path));
		sync();
		start = now();
		for (size_t at = 0; at < n; at += batch) {
			size_t count = n - at < batch ? n - at : batch;
			size_t len = count * dim * sizeof(float);

			if (write(fd, rows + at * dim, len) != (ssize_t)len)
				die("write");
		}
		ext4[round] = now() - start;
		start = now();
		if (fsync(fd))
			die("fsync");
		ext4_sync[round] = now() - start;
		close(fd);
		unlink(ext4_path);

		fd = create_file(argv[1], vexfs_path, sizeof(vexfs_path));
		if (ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &create))
			die("create");
		sync();
		start = now();
		for (size_t at = 0; at < n; at += batch) {
			struct vexfs_batch b = {
				.size = sizeof(b),
				.op = VEXFS_OP_INSERT,
				.count = n - at < batch ? n - at : batch,
				.vectors = (uintptr_t)(rows + at * dim),
			};

			if (ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b))
				die("insert");
		}
		vexfs[round] = now() - start;
		start = now();
		if (fsync(fd))
			die("fsync");
		vexfs_sync[round] = now() - start;
		if (round + 1 < rounds) {
			close(fd);
			unlink(vexfs_path);
		}
	}

	mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (mapped == MAP_FAILED)
		die("mmap");
	for (int round = 0; round < rounds; round++) {
		double start = now();

		sink += add_up(mapped, bytes / 8);
		plain[round] = now() - start;
		one[round] = search(fd, queries + (round % QUERIES) * dim, 1, hits);
		many[round] = search(fd, queries, QUERIES, hits);
	}
	for (int q = 0; q < 4; q++)
		found += recall(rows, n, dim, queries + q * dim, hits + q * K);

	{
		double e = median(ext4, rounds), v = median(vexfs, rounds);
		double es = median(ext4_sync, rounds), vs = median(vexfs_sync, rounds);

		printf("{\"bench\":\"insert\",\"data\":\"uniform\",\"rows\":%zu,\"dim\":%zu,"
		       "\"element\":\"f32\",\"batch_rows\":%zu,\"threads\":1,\"rounds\":%d,"
		       "\"rows_per_s\":%.0f,\"bytes_per_s\":%.0f,\"ext4_write_bytes_per_s\":%.0f,"
		       "\"ratio_to_ext4\":%.3f,\"with_fsync_bytes_per_s\":%.0f,"
		       "\"ext4_with_fsync_bytes_per_s\":%.0f,\"ratio_with_fsync\":%.3f}\n",
		       n, dim, batch, rounds, n / v, bytes / v, bytes / e, e / v, bytes / (v + vs),
		       bytes / (e + es), (e + es) / (v + vs));
	}
	{
		double p = median(plain, rounds), o = median(one, rounds), m = median(many, rounds);

		printf("{\"bench\":\"exact_scan\",\"data\":\"uniform\",\"rows\":%zu,\"dim\":%zu,"
		       "\"element\":\"f32\",\"metric\":\"l2\",\"k\":%d,\"threads\":1,\"rounds\":%d,"
		       "\"recall_at_10\":%.3f,\"searches_per_s\":%.1f,\"bytes_per_s\":%.0f,"
		       "\"read_loop_bytes_per_s\":%.0f,\"ratio_to_read_loop\":%.3f,"
		       "\"batched_queries\":%d,\"batched_searches_per_s\":%.1f}\n",
		       n, dim, K, rounds, found / 4, 1 / o, bytes / o, bytes / p, p / o, QUERIES,
		       QUERIES / m);
	}
	return found / 4 == 1.0 ? 0 : 1;
}
