/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The VexFS ioctl interface: seven commands on an open file of a VexFS volume, which
 * also go through io_uring.
 *
 * Rules for every structure:
 *  - it begins with @size, the caller's sizeof, and @flags. A smaller @size
 *    than the first version is EINVAL; a larger one is accepted when the bytes
 *    this kernel does not know are zero, and E2BIG otherwise;
 *  - unknown flags and non-zero padding are EINVAL;
 *  - pointers travel as __u64, floats as IEEE-754 bits, and the layout is the
 *    same for 32-bit callers;
 *  - fields marked "out" are written only when the call returns 0, except
 *    @error_row, which is written with any error that names a row.
 *
 * A container is a regular file of rows, row after row at a fixed stride, so
 * mmap(2) of it gives the matrix. A row is known by its number, which is stable
 * until the row is deleted, and by a 64-bit key.
 */
#ifndef _UAPI_LINUX_VEXFS_H
#define _UAPI_LINUX_VEXFS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VEXFS_SUPER_MAGIC	0x56584653	/* statfs(2) f_type: "VXFS" */

/*
 * Element types. Vectors travel in them: those of a batch, of queries, and of
 * write(2) and mmap(2). Little-endian; element i of BINARY is bit i % 8 of byte
 * i / 8, bit 0 the least significant, and bits behind the last element are 0.
 */
#define VEXFS_ELEMENT_F32	1	/* IEEE-754 binary32 */
#define VEXFS_ELEMENT_F16	2	/* IEEE-754 binary16 */
#define VEXFS_ELEMENT_BF16	3	/* bfloat16, the upper half of a binary32 */
#define VEXFS_ELEMENT_I8	4	/* signed byte */
#define VEXFS_ELEMENT_U8	5	/* unsigned byte */
#define VEXFS_ELEMENT_BINARY	6	/* bit, a number 0 or 1 to the metrics */

/*
 * Metrics. Smaller distances are nearer. Distances are of the stored numbers
 * themselves, without scale or offset, and binary32 for every element type. Of
 * integers and bits they are computed exactly and rounded once.
 *
 * HAMMING is for BINARY only, the others are for all element types. Of bits, L2
 * is the same number as HAMMING, DOT counts the bits set in both and negates that,
 * and COSINE is 1 - shared / sqrt(bits of one * bits of the other).
 */
#define VEXFS_METRIC_L2		1	/* squared Euclidean distance */
#define VEXFS_METRIC_COSINE	2	/* 1 - cos; a zero vector is at 1 from all */
#define VEXFS_METRIC_DOT	3	/* the negated inner product */
#define VEXFS_METRIC_HAMMING	4	/* number of bits that differ */

/* Bounds. */
#define VEXFS_MAX_DIM		65536
#define VEXFS_MAX_BATCH_ROWS	1048576	/* rows of one batch */
#define VEXFS_MAX_BATCH_BYTES	1073741824	/* vector bytes of one batch */
#define VEXFS_MAX_QUERIES	65536	/* queries of one search */
#define VEXFS_MAX_K		16384	/* hits per query */
#define VEXFS_MAX_FILTER_KEYS	1048576
#define VEXFS_MAX_EF		4096	/* ef and ef_construction of HNSW */
#define VEXFS_MAX_M		32	/* m of HNSW */
#define VEXFS_MAX_NLIST		65536	/* lists of IVF */
#define VEXFS_MAX_NPROBE	65536
#define VEXFS_MAX_NTABLES	32	/* tables of LSH */
#define VEXFS_MAX_NBITS		16	/* bits of LSH */

/* As nbits of HNSW over F32: codes of F16, where 16 alone is BF16. */
#define VEXFS_NBITS_F16		0x110

/* Reserved values. */
#define VEXFS_KEY_NONE		(~0ULL)	/* not a key */
#define VEXFS_ROW_NONE		(~0ULL)	/* not a row */

/**
 * struct vexfs_create_vector - make an empty regular file a container
 * @size: sizeof(struct vexfs_create_vector)
 * @flags: must be 0
 * @dim: elements of a row, 1 to VEXFS_MAX_DIM
 * @element_type: VEXFS_ELEMENT_*
 * @metric: VEXFS_METRIC_*, one that the element type has
 * @alignment: 0, or a power of two from 4 to 4096 to which a row's start is
 *	aligned; the stride is the row's bytes rounded up to it
 * @model_tag: the caller's mark of the embedding model, kept as it is
 * @reserve_rows: rows to preallocate space for, or 0
 * @stride: out: bytes from one row to the next
 * @reserved: must be 0
 *
 * Called on a regular file open for writing. Errors: EEXIST already a container
 * or not empty; EINVAL a bad field; EBADF not open for writing; EACCES a writable
 * shared mapping exists; EOPNOTSUPP not a regular file.
 */
struct vexfs_create_vector {
	__u32 size;
	__u32 flags;
	__u32 dim;
	__u32 element_type;
	__u32 metric;
	__u32 alignment;
	__u64 model_tag;
	__u64 reserve_rows;
	__u32 stride;
	__u32 reserved;
};

/* Operations of a batch. */
#define VEXFS_OP_INSERT		1	/* add rows; an existing key is EEXIST */
#define VEXFS_OP_UPSERT		2	/* add rows, or replace those with the key */
#define VEXFS_OP_DELETE		3	/* delete rows by key or row */
#define VEXFS_OP_GET		4	/* read rows by key or row */
#define VEXFS_OP_ATTACH		5	/* embedding directories: EOPNOTSUPP for now */
#define VEXFS_OP_DETACH		6

/* Flags of a batch. */
#define VEXFS_BATCH_BY_ROW	(1U << 0)	/* DELETE, GET: @rows names the rows */
#define VEXFS_BATCH_SKIP_MISSING (1U << 1)	/* DELETE: a missing key is no error */
#define VEXFS_BATCH_REUSE	(1U << 2)	/* INSERT, UPSERT: use deleted rows again */

/**
 * struct vexfs_batch - insert, upsert, delete or get many rows
 * @size: sizeof(struct vexfs_batch)
 * @flags: VEXFS_BATCH_*
 * @op: VEXFS_OP_*
 * @vector_stride: bytes from one vector to the next in @vectors; 0 means packed,
 *	less than a row's bytes is EINVAL
 * @count: rows of the batch, 1 to VEXFS_MAX_BATCH_ROWS
 * @vectors: INSERT, UPSERT: the vectors; GET: out buffer for them, or 0
 * @keys: __u64 each. INSERT: 0 (the key of a row is its number) or the keys;
 *	UPSERT: the keys; DELETE, GET: the keys unless VEXFS_BATCH_BY_ROW, and then
 *	for GET an out buffer or 0, where missing rows are VEXFS_KEY_NONE
 * @tags: __u64 each. INSERT, UPSERT: 0 or the tag masks; GET: out buffer or 0
 * @rows: __u64 each. INSERT, UPSERT: out buffer for row numbers or 0; DELETE, GET
 *	with VEXFS_BATCH_BY_ROW: the rows; GET by key: out buffer or 0, missing
 *	rows are VEXFS_ROW_NONE
 * @done: out: rows inserted, replaced, deleted or found
 * @first_row: out: INSERT, UPSERT: number of the batch's first row; the others follow,
 *	but with VEXFS_BATCH_REUSE @rows says where they are
 * @error_row: out: index in the batch of the row an error is about, or
 *	VEXFS_ROW_NONE
 * @reserved: must be 0
 *
 * A batch is atomic: after an error or a crash it has changed nothing. INSERT,
 * UPSERT and DELETE want the file open for writing, GET for reading. GET of
 * missing rows zeroes their part of @vectors and @tags and counts the others in @done.
 *
 * Rows are added behind the last one, and the file grows with each, whatever was
 * deleted. With VEXFS_BATCH_REUSE they take the place and the number of deleted rows
 * first, and the rest are added, so a file whose rows come and go stays about as large
 * as it was. Those are used that no search may look at any more and whose deletion is on
 * the medium; while a sixteenth of the rows waits for that, the batch sees to it, as
 * fsync(2) does.
 *
 * Errors: EINVAL a bad field, a NaN, an infinity or a set bit behind the last of
 * BINARY (@error_row), a repeated key of an UPSERT or DELETE, the reserved key; EEXIST
 * a key in use or repeated by INSERT; ENOENT a key or row that DELETE does not find;
 * E2BIG too many rows or bytes; EFAULT; ENOTTY not a container; EBADF; ENOSPC; EDQUOT; EINTR; EROFS.
 */
struct vexfs_batch {
	__u32 size;
	__u32 flags;
	__u32 op;
	__u32 vector_stride;
	__u64 count;
	__u64 vectors;
	__u64 keys;
	__u64 tags;
	__u64 rows;
	__u64 done;
	__u64 first_row;
	__u64 error_row;
	__u64 reserved[2];
};

/* How to search. */
#define VEXFS_INDEX_AUTO	0	/* the planner chooses; without an index: exact */
#define VEXFS_INDEX_EXACT	1	/* compare with every row */
#define VEXFS_INDEX_HNSW	2
#define VEXFS_INDEX_IVF		3
#define VEXFS_INDEX_PQ		4
#define VEXFS_INDEX_LSH		5

/* Flags of a search. */
#define VEXFS_SEARCH_RADIUS	(1U << 0)	/* only hits with distance <= @radius */
#define VEXFS_SEARCH_TAGS_ALL	(1U << 1)	/* only rows with all bits of @tags_all */
#define VEXFS_SEARCH_TAGS_ANY	(1U << 2)	/* only rows with a bit of @tags_any */
#define VEXFS_SEARCH_ROW_BITMAP	(1U << 3)	/* only rows set in @row_bitmap */
#define VEXFS_SEARCH_KEYS	(1U << 4)	/* only rows with a key of @filter_keys */

/* Outcome bits, out in @outcome. */
#define VEXFS_OUTCOME_PARTIAL	(1U << 0)	/* the time budget ended the search */

/**
 * struct vexfs_hit - a row found
 * @key: its key
 * @row: its number
 * @distance: IEEE-754 binary32 bits of the distance
 * @reserved: 0
 */
struct vexfs_hit {
	__u64 key;
	__u64 row;
	__u32 distance;
	__u32 reserved;
};

/**
 * struct vexfs_search - the k nearest rows of each of nq queries
 * @size: sizeof(struct vexfs_search)
 * @flags: VEXFS_SEARCH_*
 * @nq: queries, 1 to VEXFS_MAX_QUERIES
 * @k: hits per query, 1 to VEXFS_MAX_K
 * @index_kind: VEXFS_INDEX_*; a kind the container has no index of is ENOENT
 * @ef: candidates kept by HNSW, more where rows are crowded, at most VEXFS_MAX_EF; 0 for
 *	max(64, 2k). Less than @k counts as @k, and a @k beyond VEXFS_MAX_EF is answered
 *	exactly
 * @nprobe: lists visited by IVF, buckets of each table by LSH, at most VEXFS_MAX_NPROBE;
 *	0 for a 21st of the lists, at least 64 or half of them, whichever is less, and 8;
 *	LSH: 0 for two thirds of the buckets of a table divided by the number of tables, of
 *	hashes of n < 8 bits (8 - n) / 7 more. More are visited while fewer than @k rows
 *	are found, and if few rows pass a filter
 * @rerank: candidates compared exactly, at most VEXFS_MAX_EF. HNSW: 0 for the greater
 *	of 2k and half of @ef; counts as at least @k. IVF, PQ and LSH, where
 *	an index has codes, of n bits a row: 0 for (3 + 256 / n) k + 10240 / n; counts as
 *	at least @k
 * @queries: nq vectors of the container's dimension and element type
 * @query_stride: bytes from one query to the next; 0 means packed, less than a row's
 *	bytes is EINVAL
 * @radius: binary32 bits, with VEXFS_SEARCH_RADIUS
 * @hits: out: nq x k struct vexfs_hit, each query's sorted by distance, then key;
 *	entries beyond a query's count have key and row ~0 and distance +infinity
 * @counts: out: nq x __u32, or 0
 * @tags_all: with VEXFS_SEARCH_TAGS_ALL
 * @tags_any: with VEXFS_SEARCH_TAGS_ANY
 * @row_bitmap: with VEXFS_SEARCH_ROW_BITMAP: bit i of __u64 i/64, row i
 * @row_bitmap_rows: bits of @row_bitmap; rows beyond it are not hits
 * @filter_keys: with VEXFS_SEARCH_KEYS: __u64 each
 * @filter_key_count: keys of @filter_keys, 1 to VEXFS_MAX_FILTER_KEYS
 * @time_budget_ns: 0, or stop after about so long and say so in @outcome
 * @distances: out: distances computed, estimates of an index among them
 * @hops: out: graph nodes expanded, lists or buckets visited
 * @rows_exact: out: rows compared without an index
 * @elapsed_ns: out: time spent in the kernel
 * @outcome: out: VEXFS_OUTCOME_*
 * @threads: processors to use, no more than there are and the caller may run on; 0 and
 *	1: the calling thread alone. Others do their share in kernel threads, whose
 *	time does not count as the caller's. The hits are the same with any number
 *
 * With an index or without, a search sees every row acknowledged before it began
 * and none deleted before, at exact distances, and finds k of them if there are
 * that many; an index may miss some of the nearest. Where comparing all rows that
 * pass the filter is less work than the index, that is what happens; not if @index_kind
 * names the index, @ef, @nprobe or @rerank is given, and there is no filter, unless a graph
 * has hardly more rows than it would visit.
 *
 * Wants the file open for reading. Errors: EINVAL a bad field, or a query that could
 * not be a row, as one with a NaN; E2BIG nq, k or their product too large; ENOENT no such index;
 * ENOTTY not a container; EFAULT; EBADF; ENOMEM; EINTR a fatal signal.
 */
struct vexfs_search {
	__u32 size;
	__u32 flags;
	__u32 nq;
	__u32 k;
	__u32 index_kind;
	__u32 ef;
	__u32 nprobe;
	__u32 rerank;
	__u64 queries;
	__u32 query_stride;
	__u32 radius;
	__u64 hits;
	__u64 counts;
	__u64 tags_all;
	__u64 tags_any;
	__u64 row_bitmap;
	__u64 row_bitmap_rows;
	__u64 filter_keys;
	__u64 filter_key_count;
	__u64 time_budget_ns;
	__u64 distances;
	__u64 hops;
	__u64 rows_exact;
	__u64 elapsed_ns;
	__u32 outcome;
	__u32 threads;
};

#define VEXFS_MAX_RESULTS	16777216	/* nq x k of one search */

/* Flags of a build. */
#define VEXFS_BUILD_REPLACE	(1U << 0)	/* build anew where there is one */
#define VEXFS_BUILD_DROP	(1U << 1)	/* drop the index instead, or end its build */
#define VEXFS_BUILD_BACKGROUND	(1U << 2)	/* return at once, and build then */

/**
 * struct vexfs_build_index - build or drop an index over a container
 * @size: sizeof(struct vexfs_build_index)
 * @flags: VEXFS_BUILD_*; DROP alone
 * @index_kind: VEXFS_INDEX_*. EXACT needs no building and returns 0 at once
 * @m: HNSW: links per node, even, 4 to VEXFS_MAX_M; 0 for the default of 16, or
 *	down to 8 where the index would take half of the rows' own memory. For this
 *	and all that follow 0 is the default, and all that another kind has
 * @ef_construction: HNSW: candidates while building, @m to VEXFS_MAX_EF; default 200
 * @nlist: IVF: lists, 1 to VEXFS_MAX_NLIST; by default a power of two between 2.8 and
 *	5.7 times the root of the number of rows, or less where few rows of elements
 *	shorter than 4 bytes would make it half of their memory
 * @nsub: IVF and PQ with codes of 4 or 8 bits: sub-quantisers, a divisor of the
 *	dimension; by default of 4 elements each, or 8 with 8 bits, where these divide it
 * @nbits: bits of a code. HNSW: 1 or 4 (RaBitQ) or 8 (SQ8) for each element; 4
 *	by default, or 1 where that would take half of the rows' own memory, as with
 *	elements of a byte, or where rows are too long for 4; 1 alone for BINARY. 32
 *	for the elements of F32 as they are, 16 for those of F16 and BF16, or of F32
 *	rounded to BF16, and VEXFS_NBITS_F16 for F32 rounded to F16: nearer where all
 *	elements are far from 0, and of no use beyond 65504. Those of 16 and 32 take
 *	as much memory as such rows and more time than 4 or 8, for about the same
 *	recall. IVF: 1 for a sign of each element (RaBitQ), the default for rows of
 *	more than 128 bytes that are not BINARY; 4 or 8 for each of @nsub
 *	sub-quantisers, 4 the default with @nsub; 32 for no codes: the rows of lists
 *	are compared exactly. PQ: 4, the default, or 8. LSH: hash bits of a table, 1
 *	to VEXFS_MAX_NBITS and at most the dimension; by default such that a bucket
 *	has 128 to 256 rows
 * @ntables: LSH: hash tables, 1 to VEXFS_MAX_NTABLES; by default 4, or as many
 *	as take two fifths of the rows' own memory. IVF: lists that a row is in, 1 or,
 *	if there are as many, 2, which takes more memory and less time for the same recall,
 *	above all by inner product; the default without codes by COSINE and DOT, else 1
 * @threads: processors to use, as for a search; 0 and 1: one
 * @reserved: must be 0
 *
 * Returns when the index is built. Searches and batches go on meanwhile; with
 * VEXFS_BUILD_REPLACE the old index serves them until the new one takes its place.
 * Several threads may make a different graph each time, as good as that of one. Lists and
 * hash tables are the same, however many threads make them.
 *
 * With VEXFS_BUILD_BACKGROUND a kernel thread builds, until it is done or the volume is
 * unmounted or made read-only, which ends the build and does not wait for it. Errors below
 * about fields and other indexes are told at once, later ones by struct vexfs_index_stats,
 * which also has its progress. Memory counts as the caller's, time does not.
 * VEXFS_BUILD_DROP waits until a build in the background has ended.
 *
 * Batches keep the index in step. It is saved when it is built, at unmount, and when much has
 * changed; the first search of a later mount loads it and takes in what it does not know
 * yet. An index that can't be saved, for lack of space, is in memory only; the log says so.
 * Where memory is short, for other indexes under index_memory= or for the kernel, one that
 * is saved and not in use is dropped from memory, and the next search loads it and waits for
 * that. If there is no memory for it, the search compares rows exactly, and one that comes
 * a second later tries again.
 * A search that finds it damaged or outdated on disk, or not there because a crash or an
 * unmount cut off its build, has it built in the background and compares rows exactly meanwhile.
 * A build that nobody has asked for gives way to one that somebody asks for. If there is no
 * memory for it, it is tried again by a search that comes a second later, the next time two
 * seconds later, then four, and so on up to 17 minutes.
 * Codes and lists are made for the rows that a build finds. IVF and PQ are built anew in the
 * background, by a batch that inserts, when rows are 4 times as many and at least 4096, if the
 * number of lists was the default, or there were fewer than 32 rows for each list or 64 for each
 * centroid of a sub-quantiser; HNSW if it was built over no rows, which tells it nothing about
 * codes of less than 16 bits, when there are 256. PQ is one list of codes, all of which a search
 * scans. LSH hashes places of L2, bits of HAMMING, directions else. For HNSW, BINARY rows are
 * their own codes.
 * By default an index takes less than half of the rows' own memory, if these are some thousand
 * or more. Those that may take more are HNSW and PQ over BINARY rows, and HNSW over others of less
 * than 470 bytes, or 372 of elements of a byte.
 *
 * Wants the file open for writing. Errors: EINVAL a bad field, or one that the kind does not have;
 * EEXIST there is an index of the kind; ENOENT there is none to drop; EBUSY somebody else has one
 * built; ECANCELED it was dropped while being built; EOPNOTSUPP rows are too long for it (HNSW,
 * but for BINARY: above 31,872 elements with 1 bit, 7,936 with 4, 3,968 with 8, 8,192 with 16, and
 * 4,096 with 32; PQ: above 32,512 that no sub-quantiser divides); ENODATA there are no rows to
 * train on (all kinds but HNSW); ENOTTY not a container; EBADF; ENOMEM; EINTR a fatal signal.
 * After an error all is as before.
 */
struct vexfs_build_index {
	__u32 size;
	__u32 flags;
	__u32 index_kind;
	__u32 m;
	__u32 ef_construction;
	__u32 nlist;
	__u32 nsub;
	__u32 nbits;
	__u32 ntables;
	__u32 threads;
	__u32 reserved[6];
};

/* Flags of index statistics. */
#define VEXFS_INDEX_STATS_DIGEST (1U << 0)	/* compute @digest: reads the whole index */

/* States of an index. */
#define VEXFS_INDEX_BUILDING	1	/* not used by searches yet */
#define VEXFS_INDEX_READY	2
#define VEXFS_INDEX_REBUILDING	3	/* in use, and a new one is being built */
#define VEXFS_INDEX_STORED	4	/* on disk only; the next search loads it, if there is memory */
#define VEXFS_INDEX_UNUSABLE	5	/* damaged, outdated or missing on disk; a search has it built */
#define VEXFS_INDEX_FAILED	6	/* there is none: see @build_error */

/**
 * struct vexfs_index_stats - what an index is
 * @size: sizeof(struct vexfs_index_stats)
 * @flags: VEXFS_INDEX_STATS_*
 * @index_kind: VEXFS_INDEX_* of the index meant
 * @state: out, as all that follow: VEXFS_INDEX_*
 * @m: links per node
 * @ef_construction: candidates while building
 * @nodes: rows in the index
 * @deleted: places of deleted rows that are not free for any row yet
 * @watermark: rows below it are in the index, unless deleted; others are compared
 *	exactly
 * @resident_bytes: memory the index takes of index_memory=, scratch memory of searches
 *	included
 * @digest: with VEXFS_INDEX_STATS_DIGEST: equal for equal indexes, as the same
 *	rows inserted in the same order by one thread make them; else, and
 *	while it is being built, 0
 * @nlist: lists
 * @nsub: sub-quantisers
 * @nbits: bits of a code, or of a hash; HNSW: also VEXFS_NBITS_F16
 * @ntables: hash tables; IVF: lists that a row is in
 * @trained: thousandths of training done, before any row is in
 * @build_error: errno that ended the last build in the background, until the next
 *	build or drop; ENOMEM if a search could not load the index; 0 if none did
 * @build_watermark: rows below it are in the index that is being built
 * @build_rows: where that will end; 0 if none is being built, or it has not begun
 * @reserved: must be 0
 *
 * Wants the file open for reading. Errors: EINVAL a bad field or no kind of index;
 * ENOENT no such index; ENOTTY not a container; EBADF; EFAULT.
 */
struct vexfs_index_stats {
	__u32 size;
	__u32 flags;
	__u32 index_kind;
	__u32 state;
	__u32 m;
	__u32 ef_construction;
	__u64 nodes;
	__u64 deleted;
	__u64 watermark;
	__u64 resident_bytes;
	__u64 digest;
	__u32 nlist;
	__u32 nsub;
	__u32 nbits;
	__u32 ntables;
	__u32 trained;
	__u32 build_error;
	__u64 build_watermark;
	__u64 build_rows;
	__u64 reserved[2];
};

/* Flags of a check. */
#define VEXFS_CHECK_REPAIR	(1U << 0)	/* build the index anew if anything is wrong */

/**
 * struct vexfs_index_check - see whether an index is what the rows make it
 * @size: sizeof(struct vexfs_index_check)
 * @flags: VEXFS_CHECK_*
 * @index_kind: VEXFS_INDEX_* of the index meant
 * @reserved0: must be 0
 * @rows: out, as all that follow: rows looked at
 * @faults: rules of its structure that the index breaks
 * @unreachable: rows that no walk through the index comes by
 * @wrong_codes: rows whose code is not that of their vector
 * @wrong_rows: live rows that the index lacks, and deleted ones that it has
 * @bad_images: 1 if what is on disk is damaged or outdated, else 0
 * @reserved: must be 0
 *
 * Reads all rows, and what is saved of the index. Searches and batches go on meanwhile.
 * With VEXFS_CHECK_REPAIR the index is built anew after that, with the parameters it has,
 * if anything was found; what was found is told all the same.
 *
 * Wants the file open for reading, with VEXFS_CHECK_REPAIR for writing too. Errors: EINVAL
 * a bad field or no kind of index; ENOENT no such index; ENOTTY not a container; EBADF;
 * ENOMEM; EINTR a fatal signal; with VEXFS_CHECK_REPAIR those of a build.
 */
struct vexfs_index_check {
	__u32 size;
	__u32 flags;
	__u32 index_kind;
	__u32 reserved0;
	__u64 rows;
	__u64 faults;
	__u64 unreachable;
	__u64 wrong_codes;
	__u64 wrong_rows;
	__u64 bad_images;
	__u64 reserved[2];
};

/* Instruction sets, in @isa of the statistics. */
#define VEXFS_ISA_SCALAR	0
#define VEXFS_ISA_AVX2		1
#define VEXFS_ISA_AVX512	2
#define VEXFS_ISA_NEON		3
#define VEXFS_ISA_AVX512_VNNI	4	/* and VPOPCNTDQ */
#define VEXFS_ISA_AVX512_BF16	5	/* and VNNI */
#define VEXFS_ISA_NEON_DOT	6	/* DotProd, FP16, FHM */

/**
 * struct vexfs_vector_stats - what a container is and has done
 * @size: sizeof(struct vexfs_vector_stats)
 * @flags: must be 0
 * @dim: elements of a row
 * @element_type: VEXFS_ELEMENT_*
 * @metric: VEXFS_METRIC_*
 * @stride: bytes from one row to the next
 * @alignment: of a row's start
 * @isa: VEXFS_ISA_* in use
 * @rows: row numbers given out, deleted rows among them
 * @live: rows that a search can find
 * @durable_rows: rows that are there after a power loss now
 * @generation: changes made, one per batch
 * @model_tag: as created
 * @bytes_on_disk: bytes allocated to the file
 * @inserted: rows inserted since the inode was loaded, as for all that follow
 * @deleted: rows deleted
 * @searches: queries answered
 * @distances: distances computed
 * @insert_ns: time in batches that insert
 * @search_ns: time in searches
 * @index_count: indexes built
 * @reserved: 0
 *
 * Wants the file open for reading. Errors: ENOTTY not a container; EINVAL; EFAULT.
 */
struct vexfs_vector_stats {
	__u32 size;
	__u32 flags;
	__u32 dim;
	__u32 element_type;
	__u32 metric;
	__u32 stride;
	__u32 alignment;
	__u32 isa;
	__u64 rows;
	__u64 live;
	__u64 durable_rows;
	__u64 generation;
	__u64 model_tag;
	__u64 bytes_on_disk;
	__u64 inserted;
	__u64 deleted;
	__u64 searches;
	__u64 distances;
	__u64 insert_ns;
	__u64 search_ns;
	__u32 index_count;
	__u32 reserved[7];
};

/* 0xC5 is not taken in Documentation/userspace-api/ioctl/ioctl-number.rst. */
#define VEXFS_IOCTL_MAGIC 0xC5

/*
 * The kernel goes by magic and number and ignores the size field of the command,
 * so that a structure can grow without a new command.
 */
#define VEXFS_IOCTL_CREATE_VECTOR \
	_IOWR(VEXFS_IOCTL_MAGIC, 1, struct vexfs_create_vector)
#define VEXFS_IOCTL_BATCH_OPERATIONS \
	_IOWR(VEXFS_IOCTL_MAGIC, 2, struct vexfs_batch)
#define VEXFS_IOCTL_SIMILARITY_SEARCH \
	_IOWR(VEXFS_IOCTL_MAGIC, 3, struct vexfs_search)
#define VEXFS_IOCTL_BUILD_INDEX \
	_IOWR(VEXFS_IOCTL_MAGIC, 4, struct vexfs_build_index)
#define VEXFS_IOCTL_GET_VECTOR_STATS \
	_IOWR(VEXFS_IOCTL_MAGIC, 5, struct vexfs_vector_stats)
#define VEXFS_IOCTL_GET_INDEX_STATS \
	_IOWR(VEXFS_IOCTL_MAGIC, 6, struct vexfs_index_stats)
#define VEXFS_IOCTL_CHECK_INDEX \
	_IOWR(VEXFS_IOCTL_MAGIC, 7, struct vexfs_index_check)

/**
 * struct vexfs_uring_cmd - a command by way of io_uring
 * @argument: address of the command's structure
 * @reserved: must be 0
 *
 * Each command above also goes as IORING_OP_URING_CMD on a regular file, with its number
 * in cmd_op and this structure in cmd. ioprio, addr, len, uring_cmd_flags and file_index
 * must be 0, else EINVAL. What the ioctl returns, 0 or a negated errno, is the
 * completion's res. Commands of one submission run at the same time unless they are
 * linked. The structure and all that it points to stay until the completion.
 */
struct vexfs_uring_cmd {
	__u64 argument;
	__u64 reserved;
};

#endif /* _UAPI_LINUX_VEXFS_H */
