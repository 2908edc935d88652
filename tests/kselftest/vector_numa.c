// SPDX-License-Identifier: GPL-2.0
/*
 * Where the memory of an index is on a machine with several nodes of it: on that of the
 * processor that builds it, whatever the memory policy of its task says.
 */
#include "vector_test.h"
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>

VECTOR_FIXTURE(box)

#define DIM 128
#define ROWS 16000

/* KiB of free memory of a node, or -1 if there is no such node. */
static long free_of(int node)
{
	char path[80], line[200];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", node);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Node %*d MemFree: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* The first processor of a node, or -1. */
static int processor_of(int node)
{
	char path[80];
	int cpu = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist", node);
	f = fopen(path, "r");
	if (f && fscanf(f, "%d", &cpu) != 1)
		cpu = -1;
	if (f)
		fclose(f);
	return cpu;
}

static int run_on(int node)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor_of(node), &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

/* Has all memory of this task come from @node. */
static int bind_to(int node)
{
	unsigned long mask = 1ul << node;

	return syscall(__NR_set_mempolicy, MPOL_BIND, &mask, 8 * sizeof(mask));
}

CASE(an_index_is_on_the_node_of_who_builds_it)
{
	/* Much memory for each row, which is there before the first of them is in the index. */
	struct vexfs_build_index b = { .size = sizeof(b), .index_kind = VEXFS_INDEX_HNSW, .m = VEXFS_MAX_M,
				       .ef_construction = 4096 };
	int fd = container("f", DIM, VEXFS_METRIC_L2), status;
	float *rows = new_rows(1, 0, ROWS, DIM);

	if (processor_of(0) < 0 || processor_of(1) < 0)
		SKIP(return, "there are no two nodes with processors");
	OK(insert(fd, rows, NULL, ROWS));
	OK(fsync(fd));
	for (int round = 0; round < 4; round++) {
		int home = round % 2, other = !home;
		struct vexfs_index_stats st = { .size = sizeof(st), .index_kind = VEXFS_INDEX_HNSW };
		long before[2], taken[2];
		pid_t pid;

		before[0] = free_of(0);
		before[1] = free_of(1);
		pid = fork();
		if (!pid) {
			if (run_on(home) || (round >= 2 && bind_to(other)))
				_exit(255);
			_exit(ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &b)));
		}
		while ((ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st) || !st.build_rows) &&
		       !waitpid(pid, &status, WNOHANG))
			usleep(1000);
		taken[0] = before[0] - free_of(0);
		taken[1] = before[1] - free_of(1);
		TH_LOG("on node %d%s: the index has %lld KiB, %ld of node 0 and %ld of node 1", home,
		       round >= 2 ? ", bound to the other" : "", (long long)st.resident_bytes / 1024,
		       taken[0], taken[1]);
		kill(pid, SIGKILL);
		EXPECT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status)) TH_LOG("%x", status);
		EXPECT_LT(4 << 20, st.resident_bytes);
		EXPECT_LT(st.resident_bytes / 1024 * 9 / 10, taken[home]);
		EXPECT_GT((long)st.resident_bytes / 1024 / 4, taken[other]);
		/* What is freed with the task is free again. */
		while (!ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &st))
			usleep(1000);
	}
	close(fd);
	free(rows);
}

TEST_HARNESS_MAIN
