/* SPDX-License-Identifier: Apache-2.0 */
/* What the benchmarks of indexes share: vectors from a file, containers, recall. */
#ifndef VEXFS_BENCH_INDEX_H
#define VEXFS_BENCH_INDEX_H

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../uapi/vexfs.h"
#include "bench.h"

#define K 10
#define BATCH 256

/* What is searched in, and for what. */
struct data {
	const char *name;
	size_t n, dim, nq;
	float *rows, *queries;
};

/* Reads a matrix whose elements have 4 bytes, of the type that `descr` names. */
static inline void *read_npy(const char *path, const char *descr, size_t *rows, size_t *columns)
{
	FILE *f = fopen(path, "r");
	unsigned char start[10];
	char header[1024], *shape;
	size_t len;
	void *out;

	if (!f || fread(start, 1, sizeof(start), f) != sizeof(start))
		die(path);
	len = start[8] | start[9] << 8;
	errno = EINVAL;
	if (memcmp(start, "\x93NUMPY\x01", 7) || len >= sizeof(header) || fread(header, 1, len, f) != len)
		die(path);
	header[len] = 0;
	shape = strstr(header, "'shape': (");
	if (!strstr(header, descr) || !shape || sscanf(shape, "'shape': (%zu, %zu)", rows, columns) != 2)
		die(path);
	out = malloc(*rows * *columns * 4);
	if (!out || fread(out, 4 * *columns, *rows, f) != *rows)
		die(path);
	fclose(f);
	return out;
}

static inline int create(const char *dir, const char *name, size_t dim)
{
	struct vexfs_create_vector c = {
		.size = sizeof(c), .dim = dim, .element_type = VEXFS_ELEMENT_F32,
		.metric = VEXFS_METRIC_L2,
	};
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &c))
		die(path);
	return fd;
}

/* The share of the hits wanted that were found, and the share of places that are filled. */
static inline double recall(const struct vexfs_hit *got, const struct vexfs_hit *want, size_t nq,
		     double *filled)
{
	size_t same = 0, wanted = 0, full = 0;

	for (size_t q = 0; q < nq; q++, got += K, want += K)
		for (int i = 0; i < K; i++) {
			if (want[i].row == VEXFS_ROW_NONE)
				continue;
			wanted++;
			full += got[i].row != VEXFS_ROW_NONE;
			for (int j = 0; j < K; j++)
				same += got[j].row == want[i].row;
		}
	*filled = wanted ? (double)full / wanted : 1;
	return wanted ? (double)same / wanted : 1;
}

#endif
