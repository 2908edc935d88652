/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every VexFS kselftest shares: a fresh directory per test, short names
 * for the calls that are made all the time, and seeded contents.
 *
 * The tests say nothing of VexFS where POSIX or Linux fixes the behaviour, so
 * they run on other filesystems too, and were first run on ext4. The run
 * script says where through the environment:
 *
 *   VEXFS_TEST_DIR     a writable directory on the filesystem under test
 *   VEXFS_TEST_FS      its type, "vexfs" or another
 *   VEXFS_TMPFS_DIR    a writable directory on a tmpfs
 *   VEXFS_SCRATCH_DEV  a small block device the tests may format
 *   VEXFS_SCRATCH_DIR  where they mount it
 *   VEXFS_MKFS         the command that formats a device, given as its last
 *                      argument
 *   VEXFS_BIG          1: the sizes that take minutes
 *   VEXFS_QUICK        1: fewer rounds, for emulated machines
 *   VEXFS_SEED         seed of the random tests; the default is fixed
 */
#ifndef VEXFS_TEST_H
#define VEXFS_TEST_H

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

/*
 * Seconds after which a test hangs. No test measures by it: emulated machines are slow and
 * shared, so what takes a few seconds alone takes minutes beside others.
 */
#define CASE_SECONDS 900

/* The errno a call that must return >= 0 fails with, or 0. */
#define ERR(call) ({ errno = 0; (call) < 0 ? errno : 0; })

/* A call that must work for the test to make sense. */
#define OK(call) ASSERT_EQ(0, ERR(call)) TH_LOG("%s", #call)

static inline bool on_vexfs(void)
{
	const char *fs = getenv("VEXFS_TEST_FS");

	return fs && !strcmp(fs, "vexfs");
}

static inline bool big(void)
{
	const char *v = getenv("VEXFS_BIG");

	return v && *v == '1';
}

static inline bool quick(void)
{
	const char *v = getenv("VEXFS_QUICK");

	return v && *v == '1';
}

static inline uint64_t seed(void)
{
	const char *v = getenv("VEXFS_SEED");

	return v ? strtoull(v, NULL, 0) : 0x5eed;
}

/* Waits for what comes, however long it takes: the harness ends a test that hangs. */
#define WAIT_FOR(condition) do {					\
	while (!(condition))						\
		usleep(1000);						\
} while (0)

static inline double seconds_of(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) ? 0 : t.tv_sec + t.tv_nsec / 1e9;
}

/* Monotonic seconds. */
static inline double now(void)
{
	return seconds_of(CLOCK_MONOTONIC);
}

/* Waits until the clock that times of files may be of has ticked. */
static inline void tick(void)
{
	double before = seconds_of(CLOCK_REALTIME_COARSE);

	WAIT_FOR(seconds_of(CLOCK_REALTIME_COARSE) > before);
}

/* Whether child @pid has ended; it stays a zombie. */
static inline bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == pid;
}

/*
 * Waits until child @pid is at work: until it has had @seconds of processors' time more
 * than it has now, or has ended.
 */
static inline void wait_for_work(pid_t pid, double seconds)
{
	clockid_t clock;
	double before;

	if (clock_getcpuclockid(pid, &clock))
		return;
	before = seconds_of(clock);
	WAIT_FOR(seconds_of(clock) > before + seconds || has_ended(pid));
}

/* splitmix64: one line, good bits, the same everywhere. */
static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* Fills @buf as the bytes [@off, @off + @len) of the stream @stream. */
static inline void fill(void *buf, size_t len, uint64_t stream, uint64_t off)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; ) {
		uint64_t state = stream * 0x2545f4914f6cdd1dull + ((off + i) >> 3);
		uint64_t word = rnd(&state);
		unsigned int at = (off + i) & 7;

		for (; at < 8 && i < len; at++, i++)
			p[i] = word >> (8 * at);
	}
}

/* 0 when @buf holds those bytes, else 1 + the index of the first difference. */
static inline size_t differs(const void *buf, size_t len, uint64_t stream,
			     uint64_t off)
{
	const unsigned char *p = buf;
	unsigned char want[4096];

	for (size_t i = 0; i < len; i += sizeof(want)) {
		size_t n = len - i < sizeof(want) ? len - i : sizeof(want);

		fill(want, n, stream, off + i);
		for (size_t j = 0; j < n; j++)
			if (p[i + j] != want[j])
				return i + j + 1;
	}
	return 0;
}

static inline bool all_zero(const void *buf, size_t len)
{
	const unsigned char *p = buf;

	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Makes @name a file of @len bytes of stream @stream; errno, or 0. */
static inline int put(const char *name, size_t len, uint64_t stream)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644), err = 0;
	char *buf;
	ssize_t n;

	if (fd < 0)
		return errno;
	buf = malloc(len ? len : 1);
	fill(buf, len, stream, 0);
	for (size_t done = 0; done < len && !err; done += n) {
		n = write(fd, buf + done, len - done);
		if (n < 0) {
			err = errno;
			n = 0;
		}
	}
	free(buf);
	if (close(fd) && !err)
		err = errno;
	return err;
}

/* Whether @name is a file of exactly those bytes. */
static inline bool holds(const char *name, size_t len, uint64_t stream)
{
	int fd = open(name, O_RDONLY);
	char *buf = malloc(len + 1);
	size_t done = 0;
	ssize_t n = 1;
	bool same;

	while (fd >= 0 && n > 0 && done <= len) {
		n = read(fd, buf + done, len + 1 - done);
		done += n > 0 ? n : 0;
	}
	same = fd >= 0 && !n && done == len && !differs(buf, len, stream, 0);
	free(buf);
	if (fd >= 0)
		close(fd);
	return same;
}

static inline struct stat stat_of(const char *name)
{
	struct stat st;

	memset(&st, 0, sizeof(st));
	if (lstat(name, &st))
		memset(&st, 0xff, sizeof(st));
	return st;
}

static inline bool exists(const char *name)
{
	struct stat st;

	return !lstat(name, &st);
}

#define nlink_of(name) ((unsigned long)stat_of(name).st_nlink)
#define ino_of(name) ((unsigned long)stat_of(name).st_ino)
#define size_of(name) ((long)stat_of(name).st_size)

static inline int renameat2_(const char *from, const char *to, unsigned int flags)
{
	return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags);
}

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#define RENAME_EXCHANGE (1 << 1)
#define RENAME_WHITEOUT (1 << 2)
#endif

static inline int remove_one(const char *path, const struct stat *st, int kind,
			     struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	return kind == FTW_DP || kind == FTW_DNR ? rmdir(path) : unlink(path);
}

/* rm -rf; errno of the first failure, or 0. */
static inline int remove_tree(const char *path)
{
	return ERR(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT));
}

/* Forgets clean caches, so that the next read comes from the disk. */
static inline void drop_caches(void)
{
	int fd;

	sync();
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd >= 0) {
		if (write(fd, "3", 1) != 1)
			perror("drop_caches");
		close(fd);
	}
}

/* Becomes an ordinary user, for good: tests run in a process of their own. */
static inline int become(uid_t uid, gid_t gid)
{
	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return -1;
	return 0;
}

/* Whether a load or store through @p raises SIGBUS. */
static sigjmp_buf bus_jump;

static inline void bus_handler(int sig)
{
	(void)sig;
	siglongjmp(bus_jump, 1);
}

static inline bool store_faults(volatile char *p, char value)
{
	struct sigaction sa = { .sa_handler = bus_handler }, old;
	bool faulted;

	sigaction(SIGBUS, &sa, &old);
	faulted = sigsetjmp(bus_jump, 1);
	if (!faulted)
		*p = value;
	sigaction(SIGBUS, &old, NULL);
	return faulted;
}

static inline bool load_faults(volatile char *p)
{
	struct sigaction sa = { .sa_handler = bus_handler }, old;
	bool faulted;

	sigaction(SIGBUS, &sa, &old);
	faulted = sigsetjmp(bus_jump, 1);
	if (!faulted)
		(void)*p;
	sigaction(SIGBUS, &old, NULL);
	return faulted;
}

/* In the setup of a fixture that has a path: a new, empty working directory in that of @variable. */
#define BOX_ENTER(variable) do {					\
	const char *dir_ = getenv(variable);				\
									\
	self->path[0] = 0;						\
	if (!dir_)							\
		SKIP(return, variable " is not set");			\
	snprintf(self->path, sizeof(self->path), "%s/test.XXXXXX", dir_); \
	ASSERT_NE(NULL, mkdtemp(self->path));				\
	OK(chmod(self->path, 0755));					\
	OK(chdir(self->path));						\
	umask(0022);							\
} while (0)

/* Of fixtures that have variants. */
#define BOX_SETUP(box, variable)					\
FIXTURE_SETUP(box)							\
{									\
	BOX_ENTER(variable);						\
}

#define BOX_TEARDOWN(box)						\
FIXTURE_TEARDOWN_PARENT(box)						\
{									\
	if (!self->path[0])						\
		return;							\
	EXPECT_EQ(0, chdir("/"));					\
	EXPECT_EQ(0, remove_tree(self->path));				\
}

/*
 * The fixture of most tests: the working directory is a new, empty one on the
 * filesystem under test.
 */
#define BOX_FIXTURE(box, variable)					\
FIXTURE(box) {								\
	char path[PATH_MAX];						\
};									\
BOX_SETUP(box, variable)						\
BOX_TEARDOWN(box)

/* A test in such a directory. */
#define CASE(name) TEST_F_TIMEOUT(box, name, CASE_SECONDS)

/*
 * A volume of our own, freshly formatted and mounted, for tests that fill it up
 * or mount it again. Wants to be root.
 */
static inline int scratch_mount(unsigned long flags)
{
	return mount(getenv("VEXFS_SCRATCH_DEV"), getenv("VEXFS_SCRATCH_DIR"),
		     getenv("VEXFS_TEST_FS"), flags, NULL);
}

static inline int scratch_format(void)
{
	char command[PATH_MAX * 2];

	snprintf(command, sizeof(command), "%s %s >/dev/null",
		 getenv("VEXFS_MKFS"), getenv("VEXFS_SCRATCH_DEV"));
	return system(command);
}

/* Unmounts and mounts again: what follows comes from the disk. */
static inline int scratch_cycle(void)
{
	if (chdir("/") || umount(getenv("VEXFS_SCRATCH_DIR")) || scratch_mount(0))
		return -1;
	return chdir(getenv("VEXFS_SCRATCH_DIR"));
}

#define SCRATCH_FIXTURE(scratch)					\
FIXTURE(scratch) {							\
	bool mounted;							\
};									\
FIXTURE_SETUP(scratch)							\
{									\
	self->mounted = false;						\
	if (!getenv("VEXFS_SCRATCH_DEV") || !getenv("VEXFS_SCRATCH_DIR") || \
	    !getenv("VEXFS_MKFS") || !getenv("VEXFS_TEST_FS"))		\
		SKIP(return, "no scratch device is set");		\
	if (geteuid())							\
		SKIP(return, "only root can mount");			\
	/* A test that hung and was killed may have left it mounted. */	\
	while (!umount2(getenv("VEXFS_SCRATCH_DIR"), MNT_DETACH))	\
		;							\
	ASSERT_EQ(0, scratch_format());					\
	OK(scratch_mount(0));						\
	self->mounted = true;						\
	OK(chdir(getenv("VEXFS_SCRATCH_DIR")));				\
	umask(0022);							\
}									\
FIXTURE_TEARDOWN_PARENT(scratch)						\
{									\
	/* The test's process is gone, so nothing may hold the volume. */	\
	if (self->mounted) {						\
		int err = ERR(umount(getenv("VEXFS_SCRATCH_DIR")));	\
									\
		EXPECT_TRUE(err == 0 || err == EINVAL);			\
	}								\
}

#define SCRATCH_CASE(name) TEST_F_TIMEOUT(scratch, name, CASE_SECONDS)

#endif /* VEXFS_TEST_H */
