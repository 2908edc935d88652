/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of inverted lists, product quantisers and hash tables share. */
#ifndef VECTOR_LISTS_H
#define VECTOR_LISTS_H

#include "vector_index.h"

/* An index, how it is searched, and the recall@10 it has then, of 1000. */
static const struct way {
	const char *name;
	struct vexfs_build_index build;
	unsigned int nprobe, rerank;
	/* What statistics say. */
	unsigned int nsub, nbits;
	/* By VEXFS_METRIC_*: L2, COSINE, DOT. */
	unsigned int least[4];
} ways[] = {
	{ "ivf", { .index_kind = VEXFS_INDEX_IVF, .nlist = 16 }, 8, 100, 0, 1, { 0, 900, 900, 900 } },
	{ "ivf flat", { .index_kind = VEXFS_INDEX_IVF, .nlist = 16, .nbits = 32, .ntables = 2 }, 8, 0, 0, 32,
	  { 0, 900, 0, 900 } },
	{ "ivf pq4", { .index_kind = VEXFS_INDEX_IVF, .nlist = 8, .nsub = 24 }, 6, 100, 24, 4,
	  { 0, 0, 900 } },
	{ "ivf pq8", { .index_kind = VEXFS_INDEX_IVF, .nlist = 8, .nbits = 8, .ntables = 2 }, 6, 100, 6, 8,
	  { 0, 900 } },
	{ "pq4", { .index_kind = VEXFS_INDEX_PQ }, 0, 100, 12, 4, { 0, 900, 0, 900 } },
	{ "pq8", { .index_kind = VEXFS_INDEX_PQ, .nsub = 4, .nbits = 8 }, 0, 100, 4, 8, { 0, 900 } },
	{ "lsh", { .index_kind = VEXFS_INDEX_LSH, .nbits = 6 }, 3, 0, 0, 6, { 0, 850, 850, 850 } },
};
/* Rows in two lists, with codes that need no training. */
__attribute__((unused)) static const struct way signs_twice = {
	"ivf twice", { .index_kind = VEXFS_INDEX_IVF, .nlist = 8, .nbits = 1, .ntables = 2 }, 6, 100, 0, 1,
};

#define WAYS (sizeof(ways) / sizeof(*ways))
#define FOR_EACH_WAY(way) for (const struct way *way = ways; way < ways + WAYS; way++)

static inline int build_way(int fd, const struct way *way, unsigned int flags)
{
	struct vexfs_build_index arg = way->build;

	arg.size = sizeof(arg);
	arg.flags = flags;
	return ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

static inline int drop(int fd, unsigned int kind)
{
	struct vexfs_build_index arg = { .size = sizeof(arg), .flags = VEXFS_BUILD_DROP,
					 .index_kind = kind };

	return ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg);
}

static inline int stats_of_kind(int fd, unsigned int kind, struct vexfs_index_stats *st)
{
	st->size = sizeof(*st);
	st->index_kind = kind;
	return ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, st);
}

static inline uint64_t digest_of_kind(int fd, unsigned int kind)
{
	struct vexfs_index_stats st = { .flags = VEXFS_INDEX_STATS_DIGEST };

	return stats_of_kind(fd, kind, &st) ? 0 : st.digest;
}

/* A search as wide as the way's recall was measured with, over some 1000 rows. */
static inline struct vexfs_search wide(const struct way *way)
{
	/* Whoever says ef wants a graph to be walked, though a scan of so few rows takes less time. */
	unsigned int ef = way->build.index_kind == VEXFS_INDEX_HNSW ? 64 : 0;

	return (struct vexfs_search){ .ef = ef, .nprobe = way->nprobe, .rerank = way->rerank };
}

#define EXPECT_RECALL_OF(least, fd, way, queries, s) do {					\
	unsigned int recall_ = recall_of(_metadata, fd, (way)->build.index_kind, queries, s); \
	EXPECT_LE(least, recall_) TH_LOG("%s: recall@10 0.%03u", (way)->name, recall_);	\
} while (0)

/* The kinds that differ in how rows come and go. */
__attribute__((unused)) static const struct way *ways_of_changes[] = { &ways[0], &ways[1], &ways[4], &ways[6] };
#define FOR_EACH_WAY_OF_CHANGES(way)						\
	for (unsigned int i_ = 0; i_ < 4; i_++)					\
		for (const struct way *way = ways_of_changes[i_]; way; way = NULL)

/* The hits of a search for one vector. */
static inline void search_one(struct __test_metadata *_metadata, int fd, const struct way *way,
			      const float *query, unsigned int k, struct vexfs_hit *hits)
{
	struct vexfs_search s = wide(way);

	s.nq = 1;
	s.k = k;
	s.index_kind = way->build.index_kind;
	s.queries = PTR(query);
	s.hits = PTR(hits);
	OK(search(fd, &s));
}

#endif /* VECTOR_LISTS_H */
