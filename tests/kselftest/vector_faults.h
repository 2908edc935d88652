/* SPDX-License-Identifier: GPL-2.0 */
/* Allocations of the kernel that fail: failslab and fail_page_alloc, for one thread or for the kernel's workers. */
#ifndef VECTOR_FAULTS_H
#define VECTOR_FAULTS_H

#include "vector_test.h"

static inline bool kernel_has_faults(void)
{
	return !access("/sys/kernel/debug/failslab/times", W_OK) && !access("/proc/self/fail-nth", W_OK);
}

/* Files open for good: opening one allocates. */
static int nth_fd = -1, times_fd[2] = { -1, -1 };

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static int open_fault(const char *kind, const char *name)
{
	char path[100];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", kind, name);
	return open(path, O_RDWR);
}

static bool set_fault(const char *kind, const char *name, const char *value)
{
	int fd = open_fault(kind, name);
	bool ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);

	if (fd >= 0)
		close(fd);
	return ok;
}

/*
 * Faults hit allocations that may sleep too, of any order, of this thread only, and
 * say nothing in the log.
 */
static bool faults_are_here(void)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	int fd = open("/proc/thread-self/make-it-fail", O_WRONLY);

	if (fd < 0)
		return false;
	for (int i = 0; i < 2; i++) {
		const char *kind = kinds[i];

		times_fd[i] = open_fault(kind, "times");
		if (times_fd[i] < 0 || write(times_fd[i], "0", 1) != 1 ||
		    !set_fault(kind, "ignore-gfp-wait", "N") || !set_fault(kind, "task-filter", "Y") ||
		    !set_fault(kind, "probability", "100") ||
		    !set_fault(kind, "verbose", getenv("VEXFS_FAULTS_VERBOSE") ?: "0"))
			return false;
	}
	if (!set_fault("fail_page_alloc", "ignore-gfp-highmem", "N") ||
	    !set_fault("fail_page_alloc", "min-order", "0") || write(fd, "1", 1) != 1)
		return false;
	close(fd);
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	return nth_fd >= 0;
}

static void put_number(int fd, int n)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", n);
	if (write(fd, text, strlen(text)) < 0)
		perror("fault injection");
}

/* How many allocations fail, one after the other: what falls back to other memory wants several. */
static int in_a_row = 1;

static bool armed, happened;

/* No fault happens from now on. */
static void end_faults(void)
{
	char text[16] = { 0 };

	if (!armed)
		return;
	if (pread(nth_fd, text, sizeof(text) - 1, 0) < 0)
		perror("fail-nth");
	happened = atoi(text) == 0;
	armed = false;
	put_number(nth_fd, 0);
	for (int i = 0; i < 2; i++)
		put_number(times_fd[i], 0);
}

/* Allocation @n from now on, and those that follow it, fail. */
static void fail_at(int n)
{
	for (int i = 0; i < 2; i++)
		put_number(times_fd[i], in_a_row - 1);
	put_number(nth_fd, n);
	armed = true;
}

/* Out of memory, or what that makes of an access to user memory or to a block. */
static bool is_fault(int err)
{
	return err == ENOMEM || err == EFAULT || err == EIO || err == EAGAIN;
}

/* Has faults hit the kernel's workers, or not, and those that are started from now on. */
static int mark_workers(bool hit)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int marked = 0;

	while ((entry = readdir(proc))) {
		char path[300], name[32] = "";
		int fd;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		fd = *entry->d_name >= '0' && *entry->d_name <= '9' ? open(path, O_RDONLY) : -1;
		if (fd < 0)
			continue;
		if (read(fd, name, sizeof(name) - 1) < 0)
			perror(path);
		close(fd);
		snprintf(path, sizeof(path), "/proc/%s/make-it-fail", entry->d_name);
		if (!strncmp(name, "kworker", 7) || !strncmp(name, "kthreadd", 8))
			marked += write_text(path, hit ? "1" : "0");
	}
	closedir(proc);
	return marked;
}

#endif /* VECTOR_FAULTS_H */
