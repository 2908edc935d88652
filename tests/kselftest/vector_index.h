/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of indexes share: rows in clusters, builds, and recall beside an exact search. */
#ifndef VECTOR_INDEX_H
#define VECTOR_INDEX_H

#include "vector_test.h"

#define DIM 48
#define CLUSTERS 40
#define K 10
#define NQ 40

static inline unsigned int rows_of_a_test(void)
{
	return quick() ? 1500 : 8000;
}

/* Row @row of a mixture of clusters of different widths. */
static inline void make_clustered(float *out, uint64_t stream, uint64_t first, uint64_t n)
{
	for (uint64_t r = first; r < first + n; r++, out += DIM) {
		uint64_t state = stream * 0x1234567 + r;
		unsigned int cluster = rnd(&state) % CLUSTERS;
		float width = 0.1f + 0.02f * (cluster % 10);

		for (unsigned int i = 0; i < DIM; i++)
			out[i] = element(99, cluster, i) + width * element(stream, r, i);
	}
}

static inline float *new_clustered(uint64_t stream, uint64_t first, uint64_t n)
{
	float *out = malloc(n * DIM * sizeof(float));

	make_clustered(out, stream, first, n);
	return out;
}

static inline int build(int fd, unsigned int flags, unsigned int m, unsigned int ef_construction)
{
	struct vexfs_build_index arg = {
		.size = sizeof(arg), .flags = flags, .index_kind = VEXFS_INDEX_HNSW, .m = m,
		.ef_construction = ef_construction,
	};

	return ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

static inline int index_stats(int fd, struct vexfs_index_stats *st)
{
	st->size = sizeof(*st);
	st->index_kind = VEXFS_INDEX_HNSW;
	return ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, st);
}

static inline uint64_t digest_of(int fd)
{
	struct vexfs_index_stats st = { .flags = VEXFS_INDEX_STATS_DIGEST };

	return index_stats(fd, &st) ? 0 : st.digest;
}

static inline void run_search(struct __test_metadata *_metadata, int fd, const float *queries,
		       struct vexfs_search *s, unsigned int kind, struct vexfs_hit *hits)
{
	memset(hits, 0x5a, NQ * K * sizeof(*hits));
	s->nq = NQ;
	s->k = K;
	s->index_kind = kind;
	s->queries = PTR(queries);
	s->hits = PTR(hits);
	OK(search(fd, s));
}

/*
 * Hits of an index that the exact search finds too, of 1000. Both answers hold
 * only real rows at ascending distances, or neither is counted.
 */
static inline unsigned int recall_of(struct __test_metadata *_metadata, int fd, unsigned int kind,
				     const float *queries, struct vexfs_search *s)
{
	struct vexfs_hit got[NQ * K], want[NQ * K];
	struct vexfs_search exact = *s;
	unsigned int same = 0, all = 0;

	run_search(_metadata, fd, queries, s, kind, got);
	run_search(_metadata, fd, queries, &exact, VEXFS_INDEX_EXACT, want);
	for (unsigned int q = 0; q < NQ; q++)
		for (unsigned int i = 0; i < K; i++) {
			struct vexfs_hit *w = &want[q * K + i], *g = &got[q * K + i];

			/* As many as there are. */
			ASSERT_EQ(w->key == ~0ull, g->key == ~0ull);
			if (w->key == ~0ull)
				continue;
			if (i) {
				EXPECT_LE(bits_to_float(g[-1].distance), bits_to_float(g->distance));
				EXPECT_NE(g[-1].row, g->row);
			}
			all++;
			for (unsigned int j = 0; j < K; j++)
				if (got[q * K + j].row == w->row) {
					float a = bits_to_float(w->distance);
					float b = bits_to_float(got[q * K + j].distance);

					/* Exact distances, whoever found the row. */
					EXPECT_GE(1e-5 * (1 + fabs(a)), fabs(a - b));
					same++;
				}
		}
	return all ? 1000 * same / all : 1000;
}

static inline unsigned int recall(struct __test_metadata *_metadata, int fd, const float *queries,
				  struct vexfs_search *s)
{
	return recall_of(_metadata, fd, VEXFS_INDEX_HNSW, queries, s);
}

#define EXPECT_RECALL(least, fd, queries, s) do {			\
	unsigned int recall_ = recall(_metadata, fd, queries, s);	\
	EXPECT_LE(least, recall_) TH_LOG("recall@10 0.%03u", recall_);	\
} while (0)

#endif /* VECTOR_INDEX_H */
