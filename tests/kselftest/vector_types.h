/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of element types share. Rows are made as bits of their type and
 * read back as numbers by code of this file: a number of any type is a binary32,
 * so the oracle of the other tests serves.
 */
#ifndef VECTOR_TYPES_H
#define VECTOR_TYPES_H

#include "vector_test.h"

static const struct type {
	unsigned int type;
	const char *name;
	unsigned int bits;
} types[] = {
	{ VEXFS_ELEMENT_F32, "f32", 32 }, { VEXFS_ELEMENT_F16, "f16", 16 },
	{ VEXFS_ELEMENT_BF16, "bf16", 16 }, { VEXFS_ELEMENT_I8, "i8", 8 },
	{ VEXFS_ELEMENT_U8, "u8", 8 }, { VEXFS_ELEMENT_BINARY, "binary", 1 },
};
#define TYPES (int)(sizeof(types) / sizeof(types[0]))

static const char *const metric_names[] = { "none", "l2", "cosine", "dot", "hamming" };

static inline unsigned int last_metric(const struct type *t)
{
	return t->bits == 1 ? VEXFS_METRIC_HAMMING : VEXFS_METRIC_DOT;
}

static inline size_t row_size(const struct type *t, unsigned int dim)
{
	return ((size_t)dim * t->bits + 7) / 8;
}

static inline bool is_float(const struct type *t)
{
	return t->bits >= 16;
}

static inline void set_bits(const struct type *t, void *row, unsigned int i, uint32_t bits)
{
	unsigned char *p = row;

	if (t->bits == 1)
		p[i / 8] = (p[i / 8] & ~(1 << i % 8)) | (bits & 1) << i % 8;
	else	/* Little-endian, as all machines here. */
		memcpy(p + i * (t->bits / 8), &bits, t->bits / 8);
}

/* The number that element @i of @row is. */
static inline float number(const struct type *t, const void *row, unsigned int i)
{
	const unsigned char *p = row;
	uint32_t bits = 0;
	unsigned int exponent;

	if (t->bits == 1)
		return p[i / 8] >> i % 8 & 1;
	memcpy(&bits, p + i * (t->bits / 8), t->bits / 8);
	switch (t->type) {
	case VEXFS_ELEMENT_F32:
		return bits_to_float(bits);
	case VEXFS_ELEMENT_BF16:
		return bits_to_float(bits << 16);
	case VEXFS_ELEMENT_I8:
		return (int8_t)bits;
	case VEXFS_ELEMENT_U8:
		return bits;
	}
	exponent = bits >> 10 & 31;
	return (bits >> 15 ? -1 : 1) *
		(exponent ? ldexpf(1024 + (bits & 1023), exponent - 25) : ldexpf(bits & 1023, -24));
}

/* Bits of the number of type @t nearest to @x in [-1, 1], which stands for the type's range. */
static inline uint32_t nearest(const struct type *t, float x)
{
	uint32_t bits = float_to_bits(x);
	int exponent;
	float m;

	switch (t->type) {
	case VEXFS_ELEMENT_F32:
		return bits;
	case VEXFS_ELEMENT_BF16:
		return bits >> 16;
	case VEXFS_ELEMENT_I8:
		return (uint8_t)(int8_t)(x * 127);
	case VEXFS_ELEMENT_U8:
		return (uint8_t)((x + 1) * 127);
	case VEXFS_ELEMENT_BINARY:
		return x > 0;
	}
	m = frexpf(fabsf(x), &exponent);
	if (exponent < -13)	/* Subnormal. */
		return bits >> 31 << 15 | (uint32_t)ldexpf(fabsf(x), 24);
	return bits >> 31 << 15 | (exponent + 14) << 10 | ((uint32_t)(m * 2048) & 1023);
}

/* Rows as bytes, @stride apart, and as numbers. */
struct rows {
	const struct type *t;
	unsigned int dim;
	size_t stride;
	unsigned char *bytes;
	float *numbers;
};

static inline void *row_of(const struct rows *r, uint64_t i)
{
	return r->bytes + i * r->stride;
}

static inline const float *numbers_of(const struct rows *r, uint64_t i)
{
	return r->numbers + i * r->dim;
}

static inline void fill_row(const struct rows *r, uint64_t at, uint64_t stream, uint64_t row)
{
	for (unsigned int i = 0; i < r->dim; i++)
		set_bits(r->t, row_of(r, at), i, nearest(r->t, element(stream, row, i)));
}

static inline void read_numbers(const struct rows *r, uint64_t n)
{
	for (uint64_t row = 0; row < n; row++)
		for (unsigned int i = 0; i < r->dim; i++)
			r->numbers[row * r->dim + i] = number(r->t, row_of(r, row), i);
}

static inline struct rows typed_rows(const struct type *t, uint64_t stream, uint64_t n, unsigned int dim,
			      size_t stride)
{
	struct rows r = { t, dim, stride ?: row_size(t, dim) };

	r.bytes = calloc(n, r.stride);
	r.numbers = malloc(n * dim * sizeof(float));
	for (uint64_t row = 0; row < n; row++)
		fill_row(&r, row, stream, row);
	read_numbers(&r, n);
	return r;
}

static inline void free_rows(struct rows *r)
{
	free(r->bytes);
	free(r->numbers);
}

static inline int typed_container(const char *name, const struct type *t, unsigned int dim,
			   unsigned int metric, struct vexfs_create_vector *arg)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);

	arg->dim = dim;
	arg->element_type = t->type;
	arg->metric = metric;
	return fd < 0 || create_vector(fd, arg) ? -1 : fd;
}

static inline int insert_rows(int fd, const struct rows *r, uint64_t first, uint64_t n, uint64_t *error_row)
{
	struct vexfs_batch b = {
		.op = VEXFS_OP_INSERT, .count = n, .vectors = PTR(row_of(r, first)),
		.vector_stride = r->stride,
	};
	int done = batch(fd, &b);

	if (error_row)
		*error_row = b.error_row;
	return done;
}

/* Searches for row @q of @queries and judges the answer. */
static inline const char *typed_search_is_wrong(int fd, const struct model *m, const struct rows *queries,
					 uint64_t q, unsigned int k, struct vexfs_search *s)
{
	struct vexfs_hit hits[64];
	const char *bad;
	uint32_t count = 0;

	memset(hits, 0x5a, sizeof(hits));
	s->nq = 1;
	s->k = k;
	s->queries = PTR(row_of(queries, q));
	s->hits = PTR(hits);
	s->counts = PTR(&count);
	if (search(fd, s))
		return strerror(errno);
	bad = wrong_answer(m, numbers_of(queries, q), hits, k, count,
			   s->flags & VEXFS_SEARCH_RADIUS ? bits_to_float(s->radius) : INFINITY);
	/* Of integers and bits, the distance is the exact one, rounded once. */
	for (uint32_t i = 0; !bad && i < count && !is_float(queries->t); i++) {
		double scale, want = oracle(numbers_of(queries, q), m->rows + hits[i].row * m->dim,
					    m->dim, m->metric, &scale);

		if (fabs(bits_to_float(hits[i].distance) - want) > fabs(want) * 0x1p-24 +
		    (m->metric == VEXFS_METRIC_COSINE ? 0x1p-50 : 0))
			bad = "the distance is not exact";
	}
	return bad;
}

#define EXPECT_TYPED_SEARCH(fd, m, queries, q, k, s) do {		\
	const char *bad_ = typed_search_is_wrong(fd, m, queries, q, k, s); \
	EXPECT_STREQ("right", bad_ ?: "right")				\
		TH_LOG("%s %s, %u elements, query %d", (queries)->t->name, \
		       metric_names[(m)->metric], (m)->dim, (int)(q));	\
} while (0)

/* Whether rows [@first, @first + @n) of the file and of GET are those of @r. */
static inline const char *rows_differ(int fd, const struct rows *r, uint64_t first, uint64_t n)
{
	size_t size = row_size(r->t, r->dim), stride = stats_of(fd).stride;
	unsigned char *file = malloc(n * stride), *got = calloc(n, size);
	uint64_t *which = malloc(n * sizeof(*which));
	struct vexfs_batch b = {
		.op = VEXFS_OP_GET, .flags = VEXFS_BATCH_BY_ROW, .count = n, .rows = PTR(which),
		.vectors = PTR(got),
	};
	const char *bad = NULL;

	for (uint64_t i = 0; i < n; i++)
		which[i] = first + i;
	if (batch(fd, &b) || b.done != n)
		bad = "GET fails";
	if (pread(fd, file, n * stride, first * stride) != n * stride)
		bad = "read fails";
	for (uint64_t i = 0; i < n && !bad; i++) {
		if (memcmp(got + i * size, row_of(r, first + i), size))
			bad = "GET gives another row";
		if (memcmp(file + i * stride, row_of(r, first + i), size))
			bad = "read gives another row";
		if (!all_zero(file + i * stride + size, stride - size))
			bad = "the padding of a row is not zero";
	}
	free(file);
	free(got);
	free(which);
	return bad ?: "the same";
}

#endif /* VECTOR_TYPES_H */
