// SPDX-License-Identifier: GPL-2.0
/*
 * Names and inodes: open flags, directories, links, symbolic links, special
 * files, and what a name may be.
 */
#include "vexfs_test.h"
#include <sys/sysmacros.h>

BOX_FIXTURE(box, "VEXFS_TEST_DIR")

CASE(create_makes_an_empty_file_with_the_mode)
{
	struct stat st;
	int fd;

	fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0666);
	ASSERT_LE(0, fd);
	OK(fstat(fd, &st));
	EXPECT_TRUE(S_ISREG(st.st_mode));
	EXPECT_EQ(0644, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_size);
	EXPECT_EQ(0, st.st_blocks);
	EXPECT_EQ(1, st.st_nlink);
	EXPECT_EQ(0, st.st_uid);
	EXPECT_EQ(4096, st.st_blksize);
	close(fd);
}

CASE(open_of_a_missing_name_is_enoent)
{
	EXPECT_EQ(ENOENT, ERR(open("missing", O_RDONLY)));
	EXPECT_EQ(ENOENT, ERR(open("missing/child", O_RDONLY | O_CREAT, 0644)));
	EXPECT_EQ(ENOENT, ERR(unlink("missing")));
	EXPECT_EQ(ENOENT, ERR(rmdir("missing")));
	EXPECT_EQ(ENOENT, ERR(rename("missing", "other")));
	EXPECT_EQ(ENOENT, ERR(link("missing", "other")));
	EXPECT_FALSE(exists("other"));
}

CASE(o_excl_refuses_any_existing_name)
{
	ASSERT_EQ(0, put("f", 3, 1));
	OK(mkdir("d", 0755));
	OK(symlink("nowhere", "l"));
	EXPECT_EQ(EEXIST, ERR(open("f", O_RDWR | O_CREAT | O_EXCL, 0644)));
	EXPECT_EQ(EEXIST, ERR(open("d", O_RDONLY | O_CREAT | O_EXCL, 0644)));
	EXPECT_EQ(EEXIST, ERR(open("l", O_RDWR | O_CREAT | O_EXCL, 0644)));
	EXPECT_FALSE(exists("nowhere"));
	EXPECT_TRUE(holds("f", 3, 1));
}

CASE(o_creat_follows_a_dangling_symlink)
{
	OK(symlink("target", "l"));
	EXPECT_EQ(0, ERR(open("l", O_RDWR | O_CREAT, 0644)));
	EXPECT_TRUE(S_ISREG(stat_of("target").st_mode));
}

CASE(o_trunc_empties_the_file)
{
	ASSERT_EQ(0, put("f", 100000, 1));
	EXPECT_EQ(0, ERR(open("f", O_WRONLY | O_TRUNC)));
	EXPECT_EQ(0, size_of("f"));
	EXPECT_EQ(0, stat_of("f").st_blocks);
}

CASE(o_append_writes_at_the_end_whatever_the_offset)
{
	char buf[8] = "";
	int fd, other;

	fd = open("f", O_RDWR | O_CREAT | O_APPEND, 0644);
	other = open("f", O_RDWR | O_APPEND);
	EXPECT_EQ(2, write(fd, "ab", 2));
	EXPECT_EQ(2, write(other, "cd", 2));
	EXPECT_EQ(0, lseek(fd, 0, SEEK_SET));
	EXPECT_EQ(2, write(fd, "ef", 2));
	EXPECT_EQ(6, lseek(fd, 0, SEEK_CUR));
	EXPECT_EQ(6, pread(fd, buf, 8, 0));
	EXPECT_STREQ("abcdef", buf);
}

CASE(access_mode_is_kept)
{
	char c = 'x';
	int fd;

	ASSERT_EQ(0, put("f", 1, 1));
	fd = open("f", O_RDONLY);
	EXPECT_EQ(EBADF, ERR(write(fd, &c, 1)));
	EXPECT_EQ(EINVAL, ERR(ftruncate(fd, 0)));
	close(fd);
	fd = open("f", O_WRONLY);
	EXPECT_EQ(EBADF, ERR(read(fd, &c, 1)));
	close(fd);
	fd = open("f", O_PATH);
	EXPECT_EQ(EBADF, ERR(read(fd, &c, 1)));
	close(fd);
}

CASE(o_directory_and_plain_files_do_not_mix)
{
	ASSERT_EQ(0, put("f", 1, 1));
	OK(mkdir("d", 0755));
	EXPECT_EQ(ENOTDIR, ERR(open("f", O_RDONLY | O_DIRECTORY)));
	EXPECT_EQ(ENOTDIR, ERR(open("f/x", O_RDONLY)));
	EXPECT_EQ(EISDIR, ERR(open("d", O_WRONLY)));
	EXPECT_EQ(EISDIR, ERR(open("d", O_RDONLY | O_CREAT, 0644)));
	EXPECT_EQ(0, ERR(open("d", O_RDONLY | O_DIRECTORY)));
}

CASE(reading_a_directory_is_eisdir)
{
	char c;

	EXPECT_EQ(EISDIR, ERR(read(open(".", O_RDONLY), &c, 1)));
}

CASE(o_tmpfile_has_no_name_until_linked_or_is_not_there)
{
	char path[64];
	struct stat st;
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	if (fd < 0) {
		ASSERT_EQ(EOPNOTSUPP, errno);
		SKIP(return, "this filesystem has no O_TMPFILE");
	}
	OK(fstat(fd, &st));
	EXPECT_EQ(0, st.st_nlink);
	EXPECT_EQ(4, write(fd, "data", 4));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	EXPECT_EQ(1, nlink_of("named"));
	EXPECT_EQ(4, size_of("named"));
}

CASE(o_tmpfile_unlinked_gives_its_space_back)
{
	char *buf = calloc(1, 1 << 20);
	struct statfs before, after;
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	if (fd < 0)
		SKIP(return, "this filesystem has no O_TMPFILE");
	close(fd);
	sync();
	OK(statfs(".", &before));
	for (int i = 0; i < 8; i++) {
		fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
		ASSERT_EQ(1 << 20, write(fd, buf, 1 << 20));
		OK(fsync(fd));
		close(fd);
	}
	sync();
	OK(statfs(".", &after));
	EXPECT_LE((long)before.f_bfree - 64, (long)after.f_bfree);
	EXPECT_EQ(before.f_ffree, after.f_ffree);
}

CASE(mkdir_makes_a_directory_with_two_links)
{
	OK(mkdir("d", 0777));
	EXPECT_TRUE(S_ISDIR(stat_of("d").st_mode));
	EXPECT_EQ(0755, stat_of("d").st_mode & 07777);
	EXPECT_EQ(2, nlink_of("d"));
	EXPECT_EQ(ino_of("d"), ino_of("d/."));
	EXPECT_EQ(ino_of("."), ino_of("d/.."));
	EXPECT_EQ(EEXIST, ERR(mkdir("d", 0755)));
}

CASE(subdirectories_count_as_links_of_their_parent)
{
	unsigned long before = nlink_of(".");

	OK(mkdir("a", 0755));
	OK(mkdir("b", 0755));
	ASSERT_EQ(0, put("f", 1, 1));
	EXPECT_EQ(before + 2, nlink_of("."));
	OK(rmdir("a"));
	EXPECT_EQ(before + 1, nlink_of("."));
	OK(mkdir("b/c", 0755));
	EXPECT_EQ(3, nlink_of("b"));
}

CASE(rmdir_wants_an_empty_directory)
{
	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("d/f", 1, 1));
	EXPECT_EQ(ENOTEMPTY, ERR(rmdir("d")));
	OK(unlink("d/f"));
	OK(mkdir("d/e", 0755));
	EXPECT_EQ(ENOTEMPTY, ERR(rmdir("d")));
	OK(rmdir("d/e"));
	OK(rmdir("d"));
	EXPECT_FALSE(exists("d"));
}

CASE(rmdir_of_odd_names)
{
	ASSERT_EQ(0, put("f", 1, 1));
	OK(mkdir("d", 0755));
	EXPECT_EQ(ENOTDIR, ERR(rmdir("f")));
	EXPECT_EQ(EINVAL, ERR(rmdir("d/.")));
	EXPECT_EQ(ENOTEMPTY, ERR(rmdir("d/..")));
	EXPECT_EQ(EISDIR, ERR(unlink("d")));
}

CASE(removed_directory_that_is_open_is_dead_but_readable)
{
	struct stat st;
	char buf[512];
	int fd;

	OK(mkdir("d", 0755));
	fd = open("d", O_RDONLY | O_DIRECTORY);
	OK(rmdir("d"));
	EXPECT_EQ(ENOENT, ERR(openat(fd, "f", O_RDWR | O_CREAT, 0644)));
	EXPECT_EQ(ENOENT, ERR(mkdirat(fd, "e", 0755)));
	OK(fstat(fd, &st));
	EXPECT_EQ(0, st.st_nlink);
	/* Nothing in it, and no crash: 0, ENOENT, or . and .. only. */
	EXPECT_GE(64, syscall(SYS_getdents64, fd, buf, sizeof(buf)));
}

CASE(unlinked_file_lives_until_closed)
{
	char buf[5000], back[5000];
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	fill(buf, sizeof(buf), 7, 0);
	EXPECT_EQ(sizeof(buf), write(fd, buf, sizeof(buf)));
	OK(unlink("f"));
	EXPECT_FALSE(exists("f"));
	OK(fstat(fd, &st));
	EXPECT_EQ(0, st.st_nlink);
	EXPECT_EQ(sizeof(buf), pwrite(fd, buf, sizeof(buf), 100000));
	OK(fsync(fd));
	EXPECT_EQ(sizeof(back), pread(fd, back, sizeof(back), 100000));
	EXPECT_EQ(0, memcmp(buf, back, sizeof(buf)));
	/* The name can be used again meanwhile, by another inode. */
	ASSERT_EQ(0, put("f", 10, 8));
	EXPECT_NE(st.st_ino, ino_of("f"));
	close(fd);
	EXPECT_TRUE(holds("f", 10, 8));
}

CASE(link_adds_a_name_of_the_same_inode)
{
	ASSERT_EQ(0, put("a", 5, 1));
	OK(mkdir("d", 0755));
	OK(link("a", "b"));
	OK(link("a", "d/c"));
	EXPECT_EQ(3, nlink_of("a"));
	EXPECT_EQ(ino_of("a"), ino_of("d/c"));
	OK(unlink("a"));
	EXPECT_EQ(2, nlink_of("b"));
	EXPECT_TRUE(holds("d/c", 5, 1));
	EXPECT_EQ(EEXIST, ERR(link("b", "d/c")));
	EXPECT_EQ(2, nlink_of("b"));
}

CASE(directories_cannot_be_linked)
{
	OK(mkdir("d", 0755));
	EXPECT_EQ(EPERM, ERR(link("d", "e")));
	EXPECT_EQ(2, nlink_of("d"));
}

CASE(a_thousand_links_of_one_file)
{
	char name[32];

	ASSERT_EQ(0, put("f", 5, 1));
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "link%d", i);
		OK(link("f", name));
	}
	EXPECT_EQ(1001, nlink_of("f"));
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "link%d", i);
		OK(unlink(name));
	}
	EXPECT_EQ(1, nlink_of("f"));
}

FIXTURE(symlink_length) { char path[PATH_MAX]; };
FIXTURE_VARIANT(symlink_length) { int length; };
FIXTURE_VARIANT_ADD(symlink_length, 1) { .length = 1 };
FIXTURE_VARIANT_ADD(symlink_length, 59) { .length = 59 };
FIXTURE_VARIANT_ADD(symlink_length, 60) { .length = 60 };
FIXTURE_VARIANT_ADD(symlink_length, 255) { .length = 255 };
FIXTURE_VARIANT_ADD(symlink_length, 1024) { .length = 1024 };
FIXTURE_VARIANT_ADD(symlink_length, 4094) { .length = 4094 };
FIXTURE_VARIANT_ADD(symlink_length, 4095) { .length = 4095 };
BOX_SETUP(symlink_length, "VEXFS_TEST_DIR")
BOX_TEARDOWN(symlink_length)

TEST_F_TIMEOUT(symlink_length, is_read_back, CASE_SECONDS)
{
	char target[4200], back[4200];
	int want = variant->length;

	/* "./././…" so that no component is too long. */
	for (int i = 0; i < want; i++)
		target[i] = i % 2 || i == want - 1 ? '/' : '.';
	target[want] = 0;
	/* ext4 keeps a link in one block, with a terminator. */
	if (ERR(symlink(target, "l")) == ENAMETOOLONG && !on_vexfs())
		SKIP(return, "this filesystem has shorter symbolic links");
	ASSERT_TRUE(exists("l"));
	EXPECT_EQ(want, size_of("l"));
	drop_caches();
	memset(back, 'x', sizeof(back));
	EXPECT_EQ(want, readlink("l", back, sizeof(back)));
	EXPECT_EQ(0, memcmp(target, back, want));
	EXPECT_EQ(1, readlink("l", back, 1));
}

CASE(symlink_too_long_or_empty)
{
	char target[4200];

	memset(target, 'x', sizeof(target));
	target[4096] = 0;
	EXPECT_EQ(ENAMETOOLONG, ERR(symlink(target, "l")));
	EXPECT_EQ(ENOENT, ERR(symlink("", "l")));
	EXPECT_EQ(EINVAL, ERR(readlink(".", target, 10)));
	EXPECT_FALSE(exists("l"));
}

CASE(symlinks_are_followed_and_loops_end)
{
	ASSERT_EQ(0, put("f", 9, 3));
	OK(symlink("f", "one"));
	OK(symlink("one", "two"));
	EXPECT_TRUE(holds("two", 9, 3));
	OK(symlink("self", "self"));
	OK(symlink("b", "a"));
	OK(symlink("a", "b"));
	EXPECT_EQ(ELOOP, ERR(open("self", O_RDONLY)));
	EXPECT_EQ(ELOOP, ERR(open("a", O_RDONLY)));
	EXPECT_EQ(ELOOP, ERR(open("one", O_RDONLY | O_NOFOLLOW)));
	EXPECT_TRUE(S_ISLNK(stat_of("self").st_mode));
	EXPECT_EQ(0777, stat_of("self").st_mode & 07777);
}

CASE(symlink_to_a_directory_is_walked)
{
	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("d/f", 9, 3));
	OK(symlink("d", "l"));
	EXPECT_TRUE(holds("l/f", 9, 3));
	EXPECT_EQ(ENOTDIR, ERR(rmdir("l")));
	OK(unlink("l"));
	EXPECT_TRUE(holds("d/f", 9, 3));
}

CASE(names_may_have_255_bytes_and_not_256)
{
	char name[300], dir[300];

	memset(name, 'n', sizeof(name));
	memset(dir, 'd', sizeof(dir));
	name[255] = dir[255] = 0;
	ASSERT_EQ(0, put(name, 4, 1));
	OK(mkdir(dir, 0755));
	EXPECT_TRUE(holds(name, 4, 1));
	name[255] = dir[255] = 'x';
	name[256] = dir[256] = 0;
	EXPECT_EQ(ENAMETOOLONG, ERR(open(name, O_RDWR | O_CREAT, 0644)));
	EXPECT_EQ(ENAMETOOLONG, ERR(mkdir(dir, 0755)));
	EXPECT_EQ(ENAMETOOLONG, ERR(symlink("x", name)));
	EXPECT_EQ(ENAMETOOLONG, ERR(access(name, F_OK)));
	EXPECT_EQ(ENAMETOOLONG, ERR(unlink(name)));
}

CASE(every_name_length_is_found_again)
{
	char name[256];

	for (int len = 1; len <= 255; len++) {
		memset(name, 'a' + len % 26, len);
		name[len] = 0;
		if (len == 1)
			name[0] = '~';
		ASSERT_EQ(0, put(name, len, len)) TH_LOG("length %d", len);
	}
	drop_caches();
	for (int len = 1; len <= 255; len++) {
		memset(name, 'a' + len % 26, len);
		name[len] = 0;
		if (len == 1)
			name[0] = '~';
		ASSERT_TRUE(holds(name, len, len)) TH_LOG("length %d", len);
	}
}

CASE(names_are_bytes)
{
	/* Every byte but NUL and '/', in pairs, most of it not UTF-8. */
	char name[4] = { 0 };
	struct dirent *d;
	int seen = 0;
	DIR *dir;

	for (int i = 1; i < 256; i++) {
		if (i == '/')
			continue;
		name[0] = i;
		name[1] = 0x80 | i;
		name[2] = '!';
		ASSERT_EQ(0, put(name, 3, i)) TH_LOG("byte %d", i);
	}
	EXPECT_FALSE(exists("\x01\x81"));
	dir = opendir(".");
	while ((d = readdir(dir)))
		if (d->d_name[0] != '.' || d->d_name[2] == '!') {
			EXPECT_EQ((unsigned char)d->d_name[1],
				  (0x80 | (unsigned char)d->d_name[0]));
			EXPECT_TRUE(holds(d->d_name, 3, (unsigned char)d->d_name[0]));
			seen++;
		}
	closedir(dir);
	EXPECT_EQ(254, seen);
}

CASE(names_differ_by_case_and_normalisation)
{
	ASSERT_EQ(0, put("name", 1, 1));
	ASSERT_EQ(0, put("Name", 2, 2));
	ASSERT_EQ(0, put("caf\xc3\xa9", 3, 3));
	ASSERT_EQ(0, put("cafe\xcc\x81", 4, 4));
	EXPECT_TRUE(holds("name", 1, 1));
	EXPECT_TRUE(holds("Name", 2, 2));
	EXPECT_TRUE(holds("caf\xc3\xa9", 3, 3));
	EXPECT_TRUE(holds("cafe\xcc\x81", 4, 4));
}

CASE(special_files_keep_type_and_device_number)
{
	struct stat st;

	OK(mkfifo("fifo", 0644));
	OK(mknod("sock", S_IFSOCK | 0644, 0));
	OK(mknod("null", S_IFCHR | 0644, makedev(1, 3)));
	OK(mknod("wide", S_IFBLK | 0644, makedev(4000, 1000000)));
	drop_caches();
	EXPECT_TRUE(S_ISFIFO(stat_of("fifo").st_mode));
	EXPECT_TRUE(S_ISSOCK(stat_of("sock").st_mode));
	st = stat_of("null");
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(1, major(st.st_rdev));
	EXPECT_EQ(3, minor(st.st_rdev));
	st = stat_of("wide");
	EXPECT_TRUE(S_ISBLK(st.st_mode));
	EXPECT_EQ(4000, major(st.st_rdev));
	EXPECT_EQ(1000000, minor(st.st_rdev));
}

CASE(a_fifo_carries_data)
{
	char c = 0;
	int r, w;

	OK(mkfifo("fifo", 0644));
	r = open("fifo", O_RDONLY | O_NONBLOCK);
	w = open("fifo", O_WRONLY);
	ASSERT_LE(0, w);
	EXPECT_EQ(1, write(w, "x", 1));
	EXPECT_EQ(1, read(r, &c, 1));
	EXPECT_EQ('x', c);
}

CASE(a_socket_can_be_bound_and_reached)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "s" };
	int a = socket(AF_UNIX, SOCK_STREAM, 0), b = socket(AF_UNIX, SOCK_STREAM, 0);

	OK(bind(a, (void *)&addr, sizeof(addr)));
	OK(listen(a, 1));
	OK(connect(b, (void *)&addr, sizeof(addr)));
	EXPECT_EQ(ENXIO, ERR(open("s", O_RDONLY)));
}

CASE(deep_paths_work)
{
	char up[16];
	int depth = 200;

	for (int i = 0; i < depth; i++) {
		OK(mkdir("d", 0755));
		OK(chdir("d"));
	}
	ASSERT_EQ(0, put("leaf", 11, 5));
	drop_caches();
	EXPECT_TRUE(holds("leaf", 11, 5));
	strcpy(up, "..");
	for (int i = 0; i < depth; i++) {
		OK(chdir(up));
	}
	EXPECT_EQ(ino_of(self->path), ino_of("."));
}

CASE(getcwd_knows_renamed_parents)
{
	char cwd[PATH_MAX];

	OK(mkdir("old", 0755));
	OK(mkdir("old/sub", 0755));
	OK(chdir("old/sub"));
	OK(rename("../../old", "../../new"));
	ASSERT_NE(NULL, getcwd(cwd, sizeof(cwd)));
	EXPECT_NE(NULL, strstr(cwd, "/new/sub"));
}

CASE(inode_numbers_are_unique)
{
	unsigned long seen[300];
	char name[32];

	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		ASSERT_EQ(0, i % 3 ? put(name, 1, 1) : ERR(mkdir(name, 0755)));
		seen[i] = ino_of(name);
		for (int j = 0; j < i; j++) {
			ASSERT_NE(seen[j], seen[i]);
		}
	}
}

CASE(file_handles_find_the_file_and_go_stale)
{
	struct { struct file_handle h; char room[128]; } fh;
	int mount_id, mount_fd, fd;
	char buf[16];

	ASSERT_EQ(0, put("f", 16, 6));
	fh.h.handle_bytes = sizeof(fh.room);
	if (ERR(name_to_handle_at(AT_FDCWD, "f", &fh.h, &mount_id, 0)) == EOPNOTSUPP)
		SKIP(return, "this filesystem has no file handles");
	mount_fd = open(".", O_RDONLY | O_DIRECTORY);
	fd = open_by_handle_at(mount_fd, &fh.h, O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(16, read(fd, buf, sizeof(buf)));
	EXPECT_EQ(0, differs(buf, 16, 6, 0));
	close(fd);
	OK(unlink("f"));
	drop_caches();
	EXPECT_EQ(ESTALE, ERR(open_by_handle_at(mount_fd, &fh.h, O_RDONLY)));
	/* Nor may it open a new file that got the old inode. */
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%d", i);
		ASSERT_EQ(0, put(name, 16, 7));
	}
	EXPECT_EQ(ESTALE, ERR(open_by_handle_at(mount_fd, &fh.h, O_RDONLY)));
}

TEST_HARNESS_MAIN
