/* SPDX-License-Identifier: Apache-2.0 */
/* What the benchmarks share: a clock, medians, numbers that are the same in every run. */
#ifndef VEXFS_BENCH_H
#define VEXFS_BENCH_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

static inline int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static inline double median(double *values, int n)
{
	qsort(values, n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static inline double least(const double *values, int n)
{
	double out = values[0];

	for (int i = 1; i < n; i++)
		if (values[i] < out)
			out = values[i];
	return out;
}

static uint64_t seed = 0x9e3779b97f4a7c15;

static inline float uniform(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (float)(seed >> 40) / (1 << 23) - 1.0f;
}

#endif
