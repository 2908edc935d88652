// SPDX-License-Identifier: GPL-2.0
/*
 * The volume as a whole, on a small one of our own: mount and remount, what
 * statfs says, and what happens when it is full.
 */
#include "vexfs_test.h"
#include <linux/fs.h>
#include <sys/statvfs.h>

SCRATCH_FIXTURE(scratch)

#define MNT getenv("VEXFS_SCRATCH_DIR")

static struct statfs space(void)
{
	struct statfs s = { 0 };

	sync();
	statfs(MNT, &s);
	return s;
}

SCRATCH_CASE(statfs_is_sane_on_a_new_volume)
{
	struct statvfs v;
	struct statfs s;

	s = space();
	if (on_vexfs()) {
		EXPECT_EQ(0x56584653, s.f_type);
	}
	EXPECT_EQ(4096, s.f_bsize);
	EXPECT_EQ(255, s.f_namelen);
	EXPECT_LT(0, s.f_blocks);
	EXPECT_LE(s.f_bfree, s.f_blocks);
	EXPECT_LE(s.f_bavail, s.f_bfree);
	EXPECT_LT(s.f_blocks / 2, s.f_bfree);
	EXPECT_LT(100, s.f_ffree);
	EXPECT_LE(s.f_ffree, s.f_files);
	EXPECT_TRUE(s.f_fsid.__val[0] || s.f_fsid.__val[1]);
	OK(statvfs(".", &v));
	EXPECT_EQ(0, v.f_flag & ST_RDONLY);
}

SCRATCH_CASE(a_new_root_is_empty_and_its_own_parent)
{
	struct dirent *e;
	int n = 0;
	DIR *dir;

	dir = opendir(".");
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, "lost+found") != 0;
	closedir(dir);
	EXPECT_EQ(2, n);
	EXPECT_EQ(0755, stat_of(".").st_mode & 07777);
	EXPECT_LE(2, nlink_of("."));
}

SCRATCH_CASE(space_and_inodes_come_back)
{
	struct statfs before, full, after;
	char name[32];

	/* Once round first, so that lazily made structures exist. */
	for (int round = 0; round < 2; round++) {
		before = space();
		OK(mkdir("d", 0755));
		for (int i = 0; i < 200; i++) {
			snprintf(name, sizeof(name), "d/f%d", i);
			ASSERT_EQ(0, put(name, i * 700, i));
		}
		full = space();
		EXPECT_LE(200 * 199 / 2 * 700 / 4096, before.f_bfree - full.f_bfree);
		EXPECT_EQ(201, before.f_ffree - full.f_ffree);
		OK(chdir("/"));
		snprintf(name, sizeof(name), "%s/d", MNT);
		ASSERT_EQ(0, remove_tree(name));
		OK(chdir(MNT));
		after = space();
	}
	EXPECT_EQ(before.f_bfree, after.f_bfree);
	EXPECT_EQ(before.f_ffree, after.f_ffree);
}

SCRATCH_CASE(space_of_an_open_unlinked_file_comes_back_on_close)
{
	struct statfs before;
	int fd;

	before = space();
	ASSERT_EQ(0, put("f", 4 << 20, 1));
	fd = open("f", O_RDONLY);
	OK(unlink("f"));
	EXPECT_LE(1000, before.f_bfree - space().f_bfree);
	close(fd);
	EXPECT_LE(before.f_bfree, space().f_bfree + 8);
}

SCRATCH_CASE(everything_is_there_after_a_remount)
{
	char name[300], target[5000];

	OK(mkdir("d", 01755));
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "d/file-%d", i);
		ASSERT_EQ(0, put(name, i * 97, i));
		if (i % 10 == 0) {
			OK(chmod(name, 0400 + i % 64));
		}
	}
	OK(link("d/file-7", "hard"));
	memset(target, 'x', 200);
	target[200] = 0;
	OK(symlink(target, "soft"));
	OK(symlink("short", "soft2"));
	OK(mkfifo("fifo", 0600));
	for (int round = 0; round < 2; round++) {
		OK(scratch_cycle());
		EXPECT_EQ(01755, stat_of("d").st_mode & 07777);
		for (int i = 0; i < 300; i++) {
			snprintf(name, sizeof(name), "d/file-%d", i);
			ASSERT_TRUE(holds(name, i * 97, i)) TH_LOG("%s", name);
			if (i % 10 == 0) {
				EXPECT_EQ(0400 + i % 64, stat_of(name).st_mode & 07777);
			}
		}
		EXPECT_EQ(2, nlink_of("hard"));
		EXPECT_EQ(200, readlink("soft", target, sizeof(target)));
		EXPECT_EQ(5, readlink("soft2", target, sizeof(target)));
		EXPECT_TRUE(S_ISFIFO(stat_of("fifo").st_mode));
	}
}

SCRATCH_CASE(open_unlinked_files_are_gone_after_a_remount)
{
	struct statfs before;

	before = space();
	for (int i = 0; i < 10; i++) {
		int fd;

		ASSERT_EQ(0, put("f", 1 << 20, i));
		fd = open("f", O_RDWR);
		OK(unlink("f"));
		close(fd);
	}
	OK(scratch_cycle());
	EXPECT_LE(before.f_bfree, space().f_bfree + 8);
	EXPECT_EQ(before.f_ffree, space().f_ffree);
}

SCRATCH_CASE(a_read_only_mount_changes_nothing)
{
	struct statvfs v;
	int fd;

	ASSERT_EQ(0, put("f", 5000, 1));
	OK(mkdir("d", 0755));
	OK(chdir("/"));
	OK(umount(MNT));
	OK(scratch_mount(MS_RDONLY));
	OK(chdir(MNT));
	OK(statvfs(".", &v));
	EXPECT_NE(0, v.f_flag & ST_RDONLY);
	EXPECT_TRUE(holds("f", 5000, 1));
	EXPECT_EQ(EROFS, ERR(open("new", O_RDWR | O_CREAT, 0644)));
	EXPECT_EQ(EROFS, ERR(open("f", O_RDWR)));
	EXPECT_EQ(EROFS, ERR(mkdir("e", 0755)));
	EXPECT_EQ(EROFS, ERR(rmdir("d")));
	EXPECT_EQ(EROFS, ERR(unlink("f")));
	EXPECT_EQ(EROFS, ERR(rename("f", "g")));
	EXPECT_EQ(EROFS, ERR(link("f", "g")));
	EXPECT_EQ(EROFS, ERR(symlink("f", "g")));
	EXPECT_EQ(EROFS, ERR(chmod("f", 0600)));
	EXPECT_EQ(EROFS, ERR(truncate("f", 0)));
	EXPECT_EQ(EROFS, ERR(utimensat(AT_FDCWD, "f", NULL, 0)));
	fd = open("f", O_RDONLY);
	EXPECT_EQ(0, ERR(fsync(fd)));
	EXPECT_EQ(0, ERR(syncfs(fd)));
}

SCRATCH_CASE(remount_to_read_only_and_back)
{
	int fd;

	ASSERT_EQ(0, put("f", 5000, 1));
	fd = open("f", O_RDWR);
	EXPECT_EQ(EBUSY, ERR(mount(NULL, MNT, NULL, MS_REMOUNT | MS_RDONLY, NULL)));
	close(fd);
	for (int round = 0; round < 3; round++) {
		OK(mount(NULL, MNT, NULL, MS_REMOUNT | MS_RDONLY, NULL));
		EXPECT_EQ(EROFS, ERR(open("g", O_RDWR | O_CREAT, 0644)));
		EXPECT_TRUE(holds("f", 5000, 1));
		OK(mount(NULL, MNT, NULL, MS_REMOUNT, NULL));
		ASSERT_EQ(0, put("g", 100 + round, 2));
	}
	OK(scratch_cycle());
	EXPECT_TRUE(holds("g", 102, 2));
	EXPECT_TRUE(holds("f", 5000, 1));
}

SCRATCH_CASE(a_volume_remounted_read_only_can_be_mounted_elsewhere_as_it_is)
{
	ASSERT_EQ(0, put("f", 5000, 1));
	OK(mount(NULL, MNT, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	OK(chdir("/"));
	OK(umount(MNT));
	OK(scratch_mount(MS_RDONLY));
	OK(chdir(MNT));
	EXPECT_TRUE(holds("f", 5000, 1));
}

SCRATCH_CASE(unknown_mount_options_are_einval)
{
	OK(chdir("/"));
	OK(umount(MNT));
	EXPECT_EQ(EINVAL, ERR(mount(getenv("VEXFS_SCRATCH_DEV"), MNT, getenv("VEXFS_TEST_FS"), 0,
				    "no_such_option=1")));
	OK(scratch_mount(0));
}

SCRATCH_CASE(a_mounted_device_is_mounted_once)
{
	char other[] = "/tmp/vexfs.XXXXXX";

	ASSERT_NE(NULL, mkdtemp(other));
	/* The same volume may show at two places, as one. */
	OK(mount(getenv("VEXFS_SCRATCH_DEV"), other, getenv("VEXFS_TEST_FS"), 0, NULL));
	ASSERT_EQ(0, put("f", 100, 1));
	OK(chdir(other));
	EXPECT_TRUE(holds("f", 100, 1));
	OK(chdir("/"));
	OK(umount(other));
	OK(rmdir(other));
}

SCRATCH_CASE(fifreeze_holds_writers_and_thaw_lets_them_go)
{
	int fd, status, done = 0, pipes[2];
	pid_t pid;
	char byte;

	fd = open(".", O_RDONLY);
	if (ERR(ioctl(fd, FIFREEZE, 0)) == EOPNOTSUPP)
		SKIP(return, "no freezing");
	OK(pipe(pipes));
	pid = fork();
	if (!pid) {
		if (write(pipes[1], "", 1) != 1)
			_exit(1);
		_exit(put("f", 100, 1));
	}
	ASSERT_EQ(1, read(pipes[0], &byte, 1));
	usleep(300000);
	done = waitpid(pid, &status, WNOHANG);
	EXPECT_EQ(0, done);
	OK(ioctl(fd, FITHAW, 0));
	if (!done) {
		waitpid(pid, &status, 0);
		EXPECT_EQ(0, status);
	}
	EXPECT_TRUE(holds("f", 100, 1));
}

/* Fills the volume with files f0 …; returns how many whole ones fit. */
static int fill_up(size_t len, int *err)
{
	char name[32];
	int i;

	for (i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		*err = put(name, len, i);
		if (*err)
			break;
	}
	return i;
}

SCRATCH_CASE(a_full_volume_is_enospc_and_keeps_what_it_took)
{
	struct statfs before = { 0 }, after;
	int n = 0, first = 0, err;
	char name[32];

	for (int round = 0; round < 3; round++) {
		before = space();
		n = fill_up(1 << 20, &err);
		EXPECT_EQ(ENOSPC, err);
		if (!round)
			first = n;
		/* Every file of which all was taken is there, after going to disk. */
		OK(chdir("/"));
		OK(chdir(MNT));
		drop_caches();
		for (int i = 0; i < n; i++) {
			snprintf(name, sizeof(name), "f%d", i);
			ASSERT_TRUE(holds(name, 1 << 20, i)) TH_LOG("round %d %s", round, name);
		}
		for (int i = 0; i <= n; i++) {
			snprintf(name, sizeof(name), "f%d", i);
			OK(unlink(name));
		}
		after = space();
		EXPECT_LE((long)before.f_bfree - 4, (long)after.f_bfree);
		EXPECT_LE(first - 1, n);
	}
	/* At least nine tenths of what statfs promised. */
	EXPECT_LE((long)before.f_bavail * 9 / 10, n * 256l);
}

static _Atomic int stop_syncing;

static void *syncing(void *arg)
{
	while (!stop_syncing)
		syncfs(*(int *)arg);
	return NULL;
}

/* Whatever commits go on beside: the journal may hold on to what was freed, and gives it back before ENOSPC. */
SCRATCH_CASE(freed_space_is_there_at_once)
{
	unsigned int rounds = 0, failed = 0;
	struct statfs s = space();
	off_t size = s.f_bavail * s.f_bsize * 6 / 10;
	int fd = open("f", O_RDWR | O_CREAT, 0644), dir = open(".", O_RDONLY);
	pthread_t thread;
	double start;

	ASSERT_LE(0, fd);
	if (fallocate(fd, 0, 0, size))
		SKIP(return, "no fallocate(2): %s", strerror(errno));
	stop_syncing = 0;
	ASSERT_EQ(0, pthread_create(&thread, NULL, syncing, &dir));
	for (start = now(); now() - start < (quick() ? 10 : 60); rounds++) {
		OK(ftruncate(fd, 0));
		failed += ERR(fallocate(fd, 0, 0, size)) == ENOSPC;
	}
	stop_syncing = 1;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, failed) TH_LOG("%u of %u", failed, rounds);
	EXPECT_LT(50, rounds);
}

SCRATCH_CASE(fsync_on_a_full_volume_loses_nothing)
{
	char name[32];
	int n, err, fd;

	n = fill_up(100000, &err);
	EXPECT_EQ(ENOSPC, err);
	for (int i = 0; i < n; i += 10) {
		snprintf(name, sizeof(name), "f%d", i);
		fd = open(name, O_RDONLY);
		EXPECT_EQ(0, ERR(fsync(fd)));
		close(fd);
	}
	EXPECT_EQ(0, ERR(syncfs(open(".", O_RDONLY))));
	for (fd = 3; fd < 20; fd++)
		close(fd);
	OK(scratch_cycle());
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		ASSERT_TRUE(holds(name, 100000, i)) TH_LOG("%s", name);
	}
}

SCRATCH_CASE(names_on_a_full_volume_work_or_are_enospc)
{
	char name[64];
	int n, err, made = 0;

	n = fill_up(1 << 20, &err);
	ASSERT_LT(1, n);
	/* The last gaps as well. */
	for (size_t len = 65536; len >= 512; len /= 2) {
		snprintf(name, sizeof(name), "gap%zu", len);
		put(name, len, 1);
	}
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "a-rather-long-directory-name-%d", i);
		err = ERR(mkdir(name, 0755));
		if (err) {
			ASSERT_EQ(ENOSPC, err);
			break;
		}
		made++;
	}
	TH_LOG("%d directories on a full volume", made);
	EXPECT_EQ(2 + made + (exists("lost+found") ? 1 : 0), nlink_of("."));
	/* Removing and renaming must still work: they are the way out. */
	OK(rename("f0", "g0"));
	for (int i = 1; i < n; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		OK(unlink(name));
	}
	EXPECT_TRUE(holds("g0", 1 << 20, 0));
	ASSERT_EQ(0, put("again", 1 << 20, 5));
	EXPECT_TRUE(holds("again", 1 << 20, 5));
}

SCRATCH_CASE(a_mapped_store_on_a_full_volume_is_sigbus_or_kept)
{
	char back, *p, name[32];
	long stored = 0;
	int fd, err;

	fd = open("sparse", O_RDWR | O_CREAT, 0644);
	OK(ftruncate(fd, 16 << 20));
	p = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fill_up(1 << 20, &err);
	for (size_t len = 65536; len >= 512; len /= 2) {
		snprintf(name, sizeof(name), "gap%zu", len);
		put(name, len, 1);
	}
	for (long i = 0; i < 16 << 20; i += 4096) {
		if (store_faults(p + i, 'x'))
			break;
		stored++;
	}
	TH_LOG("%ld stores fitted", stored);
	EXPECT_GT(4096, stored);
	EXPECT_EQ(0, ERR(msync(p, 16 << 20, MS_SYNC)));
	drop_caches();
	for (long i = 0; i < stored; i++) {
		ASSERT_EQ(1, pread(fd, &back, 1, i * 4096));
		ASSERT_EQ('x', back);
	}
}

SCRATCH_CASE(inodes_run_out_as_enospc_and_come_back)
{
	struct statfs before, after;
	char name[32];
	int n, err = 0;

	before = space();
	for (n = 0; n < 200000; n++) {
		snprintf(name, sizeof(name), "i%d", n);
		err = ERR(mknod(name, S_IFREG | 0644, 0));
		if (err)
			break;
	}
	if (!err)
		SKIP(return, "200000 files did not use up the inodes");
	EXPECT_EQ(ENOSPC, err);
	EXPECT_LE(before.f_ffree * 9 / 10, n);
	OK(scratch_cycle());
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "i%d", i);
		ASSERT_EQ(0, ERR(unlink(name))) TH_LOG("%s", name);
	}
	after = space();
	EXPECT_EQ(before.f_ffree, after.f_ffree);
}

SCRATCH_CASE(a_full_volume_takes_direct_io_up_to_the_end)
{
	char *buf = NULL;
	ssize_t n;
	long got = 0;
	int fd;

	ASSERT_EQ(0, posix_memalign((void **)&buf, 4096, 1 << 20));
	memset(buf, 'd', 1 << 20);
	fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);
	if (fd < 0)
		SKIP(return, "no O_DIRECT");
	while ((n = write(fd, buf, 1 << 20)) > 0)
		got += n;
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(got, size_of("f"));
	OK(fsync(fd));
	close(fd);
	OK(unlink("f"));
	ASSERT_EQ(0, put("g", 1 << 20, 1));
}

TEST_HARNESS_MAIN
