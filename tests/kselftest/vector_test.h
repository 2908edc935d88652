/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of vector containers share: short calls, seeded vectors, and
 * an oracle that computes distances in double precision.
 */
#ifndef VECTOR_TEST_H
#define VECTOR_TEST_H

#include "vexfs_test.h"
#include <math.h>
#include "vexfs.h"

/* An address nothing is mapped at, and one half of which is. */
#define NOWHERE ((void *)8)
#define PTR(p) ((__u64)(uintptr_t)(p))

static inline int create_vector(int fd, struct vexfs_create_vector *arg)
{
	arg->size = sizeof(*arg);
	return ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, arg);
}

/* A new container @name, open for reading and writing, or -1. */
static inline int container(const char *name, unsigned int dim, unsigned int metric)
{
	struct vexfs_create_vector arg = {
		.dim = dim, .element_type = VEXFS_ELEMENT_F32, .metric = metric,
	};
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);

	if (fd < 0 || create_vector(fd, &arg))
		return -1;
	return fd;
}

static inline int batch(int fd, struct vexfs_batch *arg)
{
	arg->size = sizeof(*arg);
	return ioctl(fd, VEXFS_IOCTL_BATCH_OPERATIONS, arg);
}

static inline int insert(int fd, const float *vectors, const uint64_t *keys, uint64_t n)
{
	struct vexfs_batch arg = {
		.op = VEXFS_OP_INSERT, .count = n, .vectors = PTR(vectors), .keys = PTR(keys),
	};

	return batch(fd, &arg);
}

static inline int delete_keys(int fd, const uint64_t *keys, uint64_t n)
{
	struct vexfs_batch arg = { .op = VEXFS_OP_DELETE, .count = n, .keys = PTR(keys) };

	return batch(fd, &arg);
}

/* Gets the vector and row of one key; the row is VEXFS_ROW_NONE if missing. */
static inline uint64_t get_key(int fd, uint64_t key, float *vector, uint64_t *tags)
{
	uint64_t row = 12345;
	struct vexfs_batch arg = {
		.op = VEXFS_OP_GET, .count = 1, .keys = PTR(&key), .vectors = PTR(vector),
		.tags = PTR(tags), .rows = PTR(&row),
	};

	return batch(fd, &arg) ? VEXFS_ROW_NONE - 1 : row;
}

static inline int search(int fd, struct vexfs_search *arg)
{
	arg->size = sizeof(*arg);
	return ioctl(fd, VEXFS_IOCTL_SIMILARITY_SEARCH, arg);
}

static inline struct vexfs_vector_stats stats_of(int fd)
{
	struct vexfs_vector_stats st = { .size = sizeof(st) };

	if (ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st))
		memset(&st, 0xff, sizeof(st));
	return st;
}

/* Instruction sets in the order of what they can do, as the options name them. */
static const struct instruction_set {
	unsigned int isa;
	const char *name;
	bool here;
} instruction_sets[] = {
#ifdef __aarch64__
	{ VEXFS_ISA_SCALAR, "scalar", true }, { VEXFS_ISA_AVX2, "avx2" }, { VEXFS_ISA_AVX512, "avx512" },
	{ VEXFS_ISA_AVX512_VNNI, "avx512vnni" }, { VEXFS_ISA_AVX512_BF16, "avx512bf16" },
	{ VEXFS_ISA_NEON, "neon", true }, { VEXFS_ISA_NEON_DOT, "neondot", true },
#else
	{ VEXFS_ISA_SCALAR, "scalar", true }, { VEXFS_ISA_AVX2, "avx2", true },
	{ VEXFS_ISA_AVX512, "avx512", true }, { VEXFS_ISA_AVX512_VNNI, "avx512vnni", true },
	{ VEXFS_ISA_AVX512_BF16, "avx512bf16", true }, { VEXFS_ISA_NEON, "neon" },
	{ VEXFS_ISA_NEON_DOT, "neondot" },
#endif
};
#define INSTRUCTION_SETS (int)(sizeof(instruction_sets) / sizeof(instruction_sets[0]))

/* Where a container's is in this list. */
static inline int instruction_set_of(int fd)
{
	unsigned int isa = stats_of(fd).isa;

	for (int i = 0; i < INSTRUCTION_SETS; i++)
		if (instruction_sets[i].isa == isa)
			return i;
	return -1;
}

static inline float bits_to_float(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, 4);
	return f;
}

static inline uint32_t float_to_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, 4);
	return bits;
}

/* Element @i of row @row of stream @stream: in [-1, 1), 24 bits. */
static inline float element(uint64_t stream, uint64_t row, unsigned int i)
{
	uint64_t state = stream * 0x9e3779b97f4a7c15ull + (row << 17) + i;

	return (float)(int32_t)((int64_t)(rnd(&state) >> 40) - (1 << 23)) / (1 << 23);
}

static inline void make_rows(float *out, uint64_t stream, uint64_t first, uint64_t n,
			     unsigned int dim)
{
	for (uint64_t r = 0; r < n; r++)
		for (unsigned int i = 0; i < dim; i++)
			out[r * dim + i] = element(stream, first + r, i);
}

static inline float *new_rows(uint64_t stream, uint64_t first, uint64_t n, unsigned int dim)
{
	float *out = malloc(n * dim * sizeof(float) + 1);

	make_rows(out, stream, first, n, dim);
	return out;
}

/* Small integers: every distance is exact in binary32, in any order of adding. */
static inline float *new_integer_rows(uint64_t stream, uint64_t n, unsigned int dim)
{
	float *out = malloc(n * dim * sizeof(float) + 1);

	for (uint64_t i = 0; i < n * dim; i++) {
		uint64_t state = stream + i * 0x10001;

		out[i] = (int)(rnd(&state) % 7) - 3;
	}
	return out;
}

/*
 * The distance in double precision; @scale becomes the sum of the absolute
 * values of the terms that were added, to which rounding errors relate.
 */
static inline double oracle(const float *a, const float *b, unsigned int dim,
			    unsigned int metric, double *scale)
{
	double dot = 0, aa = 0, bb = 0, l2 = 0, sum = 0;

	for (unsigned int i = 0; i < dim; i++) {
		double x = a[i], y = b[i];

		dot += x * y;
		sum += fabs(x * y);
		aa += x * x;
		bb += y * y;
		l2 += (x - y) * (x - y);
	}
	switch (metric) {
	case VEXFS_METRIC_HAMMING:	/* Of bits: a difference is 0 or 1, and so is its square. */
	case VEXFS_METRIC_L2:
		*scale = l2;
		return l2;
	case VEXFS_METRIC_DOT:
		*scale = sum;
		return -dot;
	default:
		*scale = 1;
		return aa == 0 || bb == 0 ? 1 : 1 - dot / sqrt(aa * bb);
	}
}

/*
 * How far a binary32 distance may be from the oracle. With u = 2^-24 a sum of n
 * products errs by less than n u times the sum of their absolute values, and
 * for random signs by about sqrt(n) u; several accumulators make it less. Four
 * units for the operations around the sum, and twice the square root, separates
 * correct code from a lost or doubled element at every dimension tested here.
 */
static inline double tolerance(unsigned int dim, double scale)
{
	return (4 + 2 * sqrt(dim)) * 0x1p-24 * scale + 1e-37;
}

/* The rows a search may find: everything the oracle needs of a container. */
struct model {
	unsigned int dim, metric;
	uint64_t n;
	const float *rows;
	const uint64_t *keys;	/* NULL: the key is the row */
	const bool *dead;	/* NULL: none is, else rows to leave out */
};

static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/*
 * NULL when @hits[0..k) answer @query over @m as they must, else what is wrong.
 * @limit: only distances up to it count (radius); INFINITY for all.
 */
static inline const char *wrong_answer(const struct model *m, const float *query,
				       const struct vexfs_hit *hits, unsigned int k,
				       long count, double limit)
{
	double *all = malloc((m->n + 1) * sizeof(*all)), scale;
	static char text[200];
	uint64_t n = 0;
	char *seen = calloc(m->n + 1, 1);
	const char *bad = NULL;

	for (uint64_t r = 0; r < m->n; r++)
		if (!m->dead || !m->dead[r]) {
			double d = oracle(query, m->rows + r * m->dim, m->dim, m->metric, &scale);

			if (d <= limit)
				all[n++] = d;
		}
	qsort(all, n, sizeof(*all), by_value);
	for (unsigned int i = 0; i < k && !bad; i++) {
		const struct vexfs_hit *h = &hits[i];
		float got = bits_to_float(h->distance);
		double want, tol;

		if (h->reserved)
			bad = "reserved is not 0";
		if (i >= n) {
			if (h->key != ~0ull || h->row != ~0ull || got != INFINITY)
				bad = "an entry beyond the hits is not marked so";
			continue;
		}
		if (h->row >= m->n || (m->dead && m->dead[h->row])) {
			snprintf(text, sizeof(text), "hit %u: row %lld must not be found", i,
				 (long long)h->row);
			bad = text;
			break;
		}
		if (seen[h->row]++)
			bad = "a row is there twice";
		if (h->key != (m->keys ? m->keys[h->row] : h->row))
			bad = "the key is not the row's";
		want = oracle(query, m->rows + h->row * m->dim, m->dim, m->metric, &scale);
		tol = tolerance(m->dim, scale);
		if (!(fabs(got - want) <= tol)) {
			snprintf(text, sizeof(text), "hit %u: distance %.9g, want %.9g +- %.3g",
				 i, got, want, tol);
			bad = text;
		}
		/* Ties within the tolerance may be in either order. */
		if (!(fabs(want - all[i]) <= 2 * tol + 2 * tolerance(m->dim, fabs(all[i])))) {
			snprintf(text, sizeof(text), "hit %u: row at %.9g, the %uth is at %.9g",
				 i, want, i, all[i]);
			bad = text;
		}
		if (i && (bits_to_float(hits[i - 1].distance) > got ||
			  (bits_to_float(hits[i - 1].distance) == got &&
			   hits[i - 1].key >= h->key)))
			bad = "hits are not sorted by distance, then key";
	}
	if (!bad && count >= 0 && count != (long)(n < k ? n : k)) {
		snprintf(text, sizeof(text), "count is %ld of %llu", count,
			 (unsigned long long)n);
		bad = text;
	}
	free(all);
	free(seen);
	return bad;
}

/* Searches for @query and judges the answer; -1 with errno when it failed. */
static inline const char *search_is_wrong(int fd, const struct model *m, const float *query,
					  unsigned int k, struct vexfs_search *arg)
{
	struct vexfs_hit *hits = malloc(k * sizeof(*hits));
	const char *bad;
	uint32_t count = 0xdead;

	memset(hits, 0x5a, k * sizeof(*hits));
	arg->nq = 1;
	arg->k = k;
	arg->queries = PTR(query);
	arg->hits = PTR(hits);
	arg->counts = PTR(&count);
	if (search(fd, arg))
		bad = strerror(errno);
	else
		bad = wrong_answer(m, query, hits, k, count,
				   arg->flags & VEXFS_SEARCH_RADIUS ?
				   bits_to_float(arg->radius) : INFINITY);
	free(hits);
	return bad;
}

#define EXPECT_SEARCH(fd, m, query, k, arg) do {			\
	const char *bad_ = search_is_wrong(fd, m, query, k, arg);	\
	EXPECT_STREQ("right", bad_ ?: "right");				\
} while (0)

/* On a scratch volume: leaves a test that is about VexFS. */
#define NEED_VEXFS() do {						\
	if (!self->mounted)						\
		return;							\
	if (!on_vexfs())						\
		SKIP(return, "not on VexFS");				\
} while (0)

/* As BOX_ENTER. Every vector test needs VexFS; others are told apart by their type. */
#define VECTOR_ENTER() do {						\
	const char *on_ = getenv("VEXFS_TEST_DIR");			\
	struct statfs fs_;						\
									\
	self->path[0] = 0;						\
	if (on_ && !getenv("VEXFS_FORCE") &&				\
	    (statfs(on_, &fs_) || fs_.f_type != VEXFS_SUPER_MAGIC))	\
		SKIP(return, "%s is not on VexFS", on_);		\
	BOX_ENTER("VEXFS_TEST_DIR");					\
} while (0)

#define VECTOR_SETUP(box)						\
FIXTURE_SETUP(box)							\
{									\
	VECTOR_ENTER();							\
}

#define VECTOR_FIXTURE(box)						\
FIXTURE(box) {								\
	char path[PATH_MAX];						\
};									\
VECTOR_SETUP(box)							\
BOX_TEARDOWN(box)

#endif /* VECTOR_TEST_H */
