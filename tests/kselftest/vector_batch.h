/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of BATCH_OPERATIONS share: small containers, and rows by their keys. */
#ifndef VECTOR_BATCH_H
#define VECTOR_BATCH_H

#include "vector_test.h"

#define DIM 8

static inline int l2(const char *name)
{
	return container(name, DIM, VEXFS_METRIC_L2);
}

static inline bool row_is(int fd, uint64_t key, const float *want)
{
	float got[DIM];
	uint64_t row = get_key(fd, key, got, NULL);

	return row < VEXFS_ROW_NONE - 1 && !memcmp(got, want, sizeof(got));
}

#endif /* VECTOR_BATCH_H */
