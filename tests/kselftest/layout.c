// SPDX-License-Identifier: GPL-2.0
/*
 * The ioctl structures have one layout for 32- and 64-bit callers. Compiled
 * for both, never run.
 */
#include <stddef.h>
#include "vexfs.h"

#define SIZE(type, n) _Static_assert(sizeof(struct type) == (n), #type)
#define AT(type, field, n) _Static_assert(offsetof(struct type, field) == (n), #type "." #field)

SIZE(vexfs_create_vector, 48);
AT(vexfs_create_vector, dim, 8);
AT(vexfs_create_vector, model_tag, 24);
AT(vexfs_create_vector, stride, 40);

SIZE(vexfs_batch, 96);
AT(vexfs_batch, count, 16);
AT(vexfs_batch, vectors, 24);
AT(vexfs_batch, error_row, 72);
AT(vexfs_batch, reserved, 80);

SIZE(vexfs_hit, 24);
AT(vexfs_hit, distance, 16);

SIZE(vexfs_search, 160);
AT(vexfs_search, queries, 32);
AT(vexfs_search, query_stride, 40);
AT(vexfs_search, hits, 48);
AT(vexfs_search, row_bitmap, 80);
AT(vexfs_search, time_budget_ns, 112);
AT(vexfs_search, elapsed_ns, 144);
AT(vexfs_search, outcome, 152);

SIZE(vexfs_build_index, 64);
AT(vexfs_build_index, threads, 36);
AT(vexfs_build_index, reserved, 40);

SIZE(vexfs_index_stats, 120);
AT(vexfs_index_stats, nodes, 24);
AT(vexfs_index_stats, digest, 56);
AT(vexfs_index_stats, nlist, 64);
AT(vexfs_index_stats, trained, 80);
AT(vexfs_index_stats, build_error, 84);
AT(vexfs_index_stats, build_rows, 96);
AT(vexfs_index_stats, reserved, 104);

SIZE(vexfs_index_check, 80);
AT(vexfs_index_check, rows, 16);
AT(vexfs_index_check, reserved, 64);

SIZE(vexfs_vector_stats, 160);
AT(vexfs_vector_stats, rows, 32);
AT(vexfs_vector_stats, search_ns, 120);
AT(vexfs_vector_stats, index_count, 128);

SIZE(vexfs_uring_cmd, 16);
