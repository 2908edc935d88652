// SPDX-License-Identifier: Apache-2.0
/*
 * What becomes of an index whose rows are deleted and inserted again many times:
 *
 *   bench_churn VEXFS_DIR NAME BASE QUERIES TIMES
 *
 * BASE and QUERIES are .npy arrays of float32; the metric is L2, NAME is for the output. Batches
 * of 256 rows, drawn at random from all, are deleted and inserted again, until TIMES as many rows
 * as there are have been. Recall@10, the memory of the index and the space used on the volume are
 * those before, which are a fresh build's over the same rows, and after it. Recall is at ef 48 or
 * the default nprobe, against the exact search of the same kernel at the same time.
 *
 * Prints one JSON object for each kind of index.
 */
#define _GNU_SOURCE
#include <sys/statfs.h>

#include "index.h"

#define EF 48

static const struct {
	const char *name;
	unsigned int kind;
} kinds[] = { { "hnsw", VEXFS_INDEX_HNSW }, { "ivf", VEXFS_INDEX_IVF } };

static void batch(int fd, unsigned int op, size_t count, const float *vectors, const uint64_t *keys)
{
	struct vexfs_batch b = {
		.size = sizeof(b), .op = op, .count = count,
		.flags = op == VEXFS_OP_INSERT ? VEXFS_BATCH_REUSE : 0,
		.vectors = (uintptr_t)vectors, .keys = (uintptr_t)keys,
	};

	if (ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b))
		die(op == VEXFS_OP_DELETE ? "delete" : "insert");
}

static void search(int fd, const struct data *d, unsigned int kind, struct vexfs_hit *hits)
{
	struct vexfs_search s = {
		.size = sizeof(s), .index_kind = kind, .k = K, .nq = d->nq,
		.queries = (uintptr_t)d->queries, .hits = (uintptr_t)hits,
	};

	/* One that is named is walked, whatever a scan would cost. */
	if (kind == VEXFS_INDEX_HNSW)
		s.ef = EF;
	if (ioctl(fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s))
		die("search");
}

struct state {
	double recall, filled;
	uint64_t resident, deleted, used;
};

/* The index as it is now. */
static struct state look(int fd, const struct data *d, unsigned int kind, struct vexfs_hit *hits,
			 struct vexfs_hit *want)
{
	struct vexfs_index_stats st = { .size = sizeof(st), .index_kind = kind };
	struct statfs fs;
	struct state now;

	search(fd, d, VEXFS_INDEX_EXACT, want);
	search(fd, d, kind, hits);
	now.recall = recall(hits, want, d->nq, &now.filled);
	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st) || syncfs(fd) || fstatfs(fd, &fs))
		die("statistics");
	if (st.nodes != d->n) {
		fprintf(stderr, "bench_churn: %llu of %zu rows are in the index\n",
			(unsigned long long)st.nodes, d->n);
		exit(1);
	}
	now.resident = st.resident_bytes;
	now.deleted = st.deleted;
	now.used = (fs.f_blocks - fs.f_bfree) * fs.f_bsize;
	return now;
}

/* Moves `count` keys drawn at random to the front. */
static void draw(uint64_t *keys, size_t n, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		size_t j = i + (size_t)((uniform() + 1) / 2 * (n - i));
		uint64_t key = keys[i];

		if (j >= n)
			j = n - 1;
		keys[i] = keys[j];
		keys[j] = key;
	}
}

int main(int argc, char **argv)
{
	struct data d = { 0 };
	struct vexfs_hit *hits, *want;
	size_t columns, count;
	uint64_t *keys, empty;
	struct statfs fs;
	char path[4096];
	float *rows;

	if (argc != 6 || atoi(argv[5]) < 1) {
		fprintf(stderr, "usage: bench_churn VEXFS_DIR NAME BASE QUERIES TIMES\n");
		return 2;
	}
	d.name = argv[2];
	d.rows = read_npy(argv[3], "'<f4'", &d.n, &d.dim);
	d.queries = read_npy(argv[4], "'<f4'", &d.nq, &columns);
	if (d.n < BATCH || !d.nq || columns != d.dim) {
		fprintf(stderr, "bench_churn: too few rows, or queries of another length\n");
		return 2;
	}
	count = atoi(argv[5]) * d.n / BATCH;
	hits = calloc(d.nq * K, sizeof(*hits));
	want = calloc(d.nq * K, sizeof(*want));
	keys = calloc(d.n, sizeof(*keys));
	rows = calloc(BATCH * d.dim, sizeof(*rows));
	if (!hits || !want || !keys || !rows)
		die("memory");
	for (size_t i = 0; i < d.n; i++)
		keys[i] = i;

	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(*kinds); kind++) {
		struct vexfs_build_index build = { .size = sizeof(build), .index_kind = kinds[kind].kind };
		double deleting = 0, inserting = 0;
		struct state before, after;
		int fd;

		if (statfs(argv[1], &fs))
			die(argv[1]);
		empty = (fs.f_blocks - fs.f_bfree) * fs.f_bsize;
		fd = create(argv[1], kinds[kind].name, d.dim);
		for (size_t at = 0; at < d.n; at += BATCH) {
			size_t some = d.n - at < BATCH ? d.n - at : BATCH;

			for (size_t i = 0; i < some; i++)
				memcpy(rows + i * d.dim, d.rows + keys[at + i] * d.dim, 4 * d.dim);
			batch(fd, VEXFS_OP_INSERT, some, rows, keys + at);
		}
		if (ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build))
			die("build");
		before = look(fd, &d, build.index_kind, hits, want);
		for (size_t i = 0; i < count; i++) {
			double start;

			draw(keys, d.n, BATCH);
			for (size_t j = 0; j < BATCH; j++)
				memcpy(rows + j * d.dim, d.rows + keys[j] * d.dim, 4 * d.dim);
			start = now();
			batch(fd, VEXFS_OP_DELETE, BATCH, NULL, keys);
			deleting += now() - start;
			start = now();
			batch(fd, VEXFS_OP_INSERT, BATCH, rows, keys);
			inserting += now() - start;
		}
		after = look(fd, &d, build.index_kind, hits, want);
		printf("{\"bench\":\"churn\",\"index\":\"%s\",\"data\":\"%s\",\"rows\":%zu,\"dim\":%zu,\"k\":%d,"
		       "\"threads\":1,\"replaced\":%zu,\"deletes_per_s\":%.0f,\"inserts_per_s\":%.0f,"
		       "\"recall_at_10\":[%.4f,%.4f],\"filled\":[%.4f,%.4f],\"deleted_nodes\":[%llu,%llu],"
		       "\"resident_bytes\":[%llu,%llu],\"used_bytes\":[%llu,%llu]}\n",
		       kinds[kind].name, d.name, d.n, d.dim, K, count * BATCH, count * BATCH / deleting,
		       count * BATCH / inserting, before.recall, after.recall, before.filled, after.filled,
		       (unsigned long long)before.deleted, (unsigned long long)after.deleted,
		       (unsigned long long)before.resident, (unsigned long long)after.resident,
		       (unsigned long long)(before.used - empty), (unsigned long long)(after.used - empty));
		fflush(stdout);
		close(fd);
		snprintf(path, sizeof(path), "%s/%s", argv[1], kinds[kind].name);
		if (unlink(path))
			die(path);
	}
	return 0;
}
