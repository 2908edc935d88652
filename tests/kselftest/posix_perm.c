// SPDX-License-Identifier: GPL-2.0
/*
 * Owners, modes, permission checks as an ordinary user, sticky and setgid
 * directories. Each test becomes another user for good: it has its own process.
 */
#include "vexfs_test.h"

FIXTURE(box) { char path[PATH_MAX]; };
FIXTURE_SETUP(box)
{
	self->path[0] = 0;
	if (geteuid())
		SKIP(return, "only root can become another user");
	BOX_ENTER("VEXFS_TEST_DIR");
	umask(0);
}
BOX_TEARDOWN(box)

#define ALICE 1001
#define BOB 1002

CASE(chmod_sets_all_twelve_bits)
{
	ASSERT_EQ(0, put("f", 1, 1));
	for (int mode = 0; mode <= 07777; mode += 0333) {
		OK(chmod("f", mode));
		EXPECT_EQ(mode, stat_of("f").st_mode & 07777);
	}
	OK(chmod("f", 06755));
	drop_caches();
	EXPECT_EQ(S_IFREG | 06755, stat_of("f").st_mode);
}

CASE(chown_sets_owners_of_any_size)
{
	ASSERT_EQ(0, put("f", 1, 1));
	OK(chown("f", 70000, 4000000000u));
	drop_caches();
	EXPECT_EQ(70000, stat_of("f").st_uid);
	EXPECT_EQ(4000000000u, stat_of("f").st_gid);
	OK(chown("f", -1, 5));
	EXPECT_EQ(70000, stat_of("f").st_uid);
	EXPECT_EQ(5, stat_of("f").st_gid);
	OK(symlink("f", "l"));
	OK(lchown("l", 7, 8));
	EXPECT_EQ(7, stat_of("l").st_uid);
	EXPECT_EQ(70000, stat_of("f").st_uid);
}

CASE(mode_bits_decide_who_may_read_and_write)
{
	static const struct { int mode, err_read, err_write; } as_other[] = {
		{ 0600, EACCES, EACCES }, { 0604, 0, EACCES }, { 0602, EACCES, 0 }, { 0606, 0, 0 },
	};
	pid_t pid;
	int status;

	ASSERT_EQ(0, put("f", 1, 1));
	OK(chown("f", ALICE, ALICE));
	for (int i = 0; i < 4; i++) {
		OK(chmod("f", as_other[i].mode));
		pid = fork();
		if (!pid) {
			become(BOB, BOB);
			_exit(ERR(open("f", O_RDONLY)) != as_other[i].err_read ||
			      ERR(open("f", O_WRONLY)) != as_other[i].err_write);
		}
		waitpid(pid, &status, 0);
		EXPECT_EQ(0, status) TH_LOG("mode %o", as_other[i].mode);
	}
	OK(chmod("f", 0077));
	OK(become(ALICE, BOB));
	EXPECT_EQ(EACCES, ERR(open("f", O_RDONLY)));
}

CASE(groups_count)
{
	gid_t groups[] = { 2001, 2002 };

	ASSERT_EQ(0, put("f", 1, 1));
	OK(chown("f", ALICE, 2002));
	OK(chmod("f", 0640));
	OK(setgroups(2, groups));
	OK(setresgid(BOB, BOB, BOB));
	OK(setresuid(BOB, BOB, BOB));
	EXPECT_EQ(0, ERR(open("f", O_RDONLY)));
	EXPECT_EQ(EACCES, ERR(open("f", O_WRONLY)));
}

CASE(directories_need_execute_to_walk_and_write_to_change)
{
	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("d/f", 1, 1));
	OK(chown("d", ALICE, ALICE));
	OK(become(BOB, BOB));
	EXPECT_EQ(0, ERR(open("d/f", O_RDONLY)));
	EXPECT_EQ(EACCES, ERR(open("d/new", O_WRONLY | O_CREAT, 0644)));
	EXPECT_EQ(EACCES, ERR(unlink("d/f")));
	EXPECT_EQ(EACCES, ERR(mkdir("d/e", 0755)));
	EXPECT_EQ(EACCES, ERR(rename("d/f", "d/g")));
	EXPECT_EQ(EACCES, ERR(symlink("x", "d/l")));
}

CASE(a_directory_without_execute_hides_what_is_in_it)
{
	OK(mkdir("d", 0755));
	ASSERT_EQ(0, put("d/f", 1, 1));
	OK(chmod("d", 0744));
	OK(become(BOB, BOB));
	EXPECT_EQ(0, ERR(open("d", O_RDONLY)));
	EXPECT_EQ(EACCES, ERR(open("d/f", O_RDONLY)));
	EXPECT_EQ(EACCES, ERR(access("d/missing", F_OK)));
}

CASE(only_owners_change_modes_and_owners)
{
	ASSERT_EQ(0, put("f", 1, 1));
	OK(chmod("f", 0666));
	OK(chown("f", ALICE, ALICE));
	OK(become(BOB, BOB));
	EXPECT_EQ(EPERM, ERR(chmod("f", 0777)));
	EXPECT_EQ(EPERM, ERR(chown("f", BOB, -1)));
	EXPECT_EQ(EPERM, ERR(chown("f", -1, BOB)));
}

CASE(an_owner_may_not_give_files_away)
{
	ASSERT_EQ(0, put("f", 1, 1));
	OK(chown("f", ALICE, ALICE));
	OK(become(ALICE, ALICE));
	EXPECT_EQ(EPERM, ERR(chown("f", BOB, -1)));
	EXPECT_EQ(EPERM, ERR(chown("f", -1, BOB)));
	EXPECT_EQ(0, ERR(chown("f", -1, ALICE)));
	EXPECT_EQ(0, ERR(chmod("f", 0604)));
}

CASE(times_can_be_set_by_the_owner_or_to_now_by_writers)
{
	struct timespec set[2] = { { 1000, 5 }, { 2000, 6 } };

	ASSERT_EQ(0, put("f", 1, 1));
	ASSERT_EQ(0, put("g", 1, 1));
	OK(chmod("f", 0666));
	OK(become(BOB, BOB));
	EXPECT_EQ(EPERM, ERR(utimensat(AT_FDCWD, "f", set, 0)));
	EXPECT_EQ(0, ERR(utimensat(AT_FDCWD, "f", NULL, 0)));
	EXPECT_EQ(EACCES, ERR(utimensat(AT_FDCWD, "g", NULL, 0)));
}

CASE(writing_and_chown_clear_setuid)
{
	pid_t pid;
	int status;

	ASSERT_EQ(0, put("f", 1, 1));
	OK(chown("f", ALICE, ALICE));
	OK(chmod("f", 06777));
	pid = fork();
	if (!pid) {
		become(BOB, BOB);
		_exit(write(open("f", O_WRONLY), "x", 1) != 1);
	}
	waitpid(pid, &status, 0);
	EXPECT_EQ(0, status);
	EXPECT_EQ(0777, stat_of("f").st_mode & 07777);
	OK(chmod("f", 06777));
	OK(chown("f", BOB, BOB));
	EXPECT_EQ(0777, stat_of("f").st_mode & 07777);
	OK(chmod("f", 06777));
	OK(chown("f", ALICE, ALICE));
	OK(chmod("f", 06777));
	pid = fork();
	if (!pid) {
		become(BOB, BOB);
		_exit(truncate("f", 0));
	}
	waitpid(pid, &status, 0);
	EXPECT_EQ(0, status);
	EXPECT_EQ(0777, stat_of("f").st_mode & 07777);
}

CASE(sticky_directories_protect_others_files)
{
	OK(mkdir("t", 01777));
	OK(chmod("t", 01777));
	ASSERT_EQ(0, put("t/alices", 1, 1));
	ASSERT_EQ(0, put("t/bobs", 1, 1));
	OK(mkdir("t/alicesdir", 0777));
	OK(chown("t/alices", ALICE, ALICE));
	OK(chown("t/alicesdir", ALICE, ALICE));
	OK(chown("t/bobs", BOB, BOB));
	OK(become(BOB, BOB));
	EXPECT_EQ(EPERM, ERR(unlink("t/alices")));
	EXPECT_EQ(EPERM, ERR(rename("t/alices", "t/x")));
	EXPECT_EQ(EPERM, ERR(rename("t/bobs", "t/alices")));
	EXPECT_EQ(EPERM, ERR(rmdir("t/alicesdir")));
	EXPECT_EQ(EPERM, ERR(renameat2_("t/bobs", "t/alices", RENAME_EXCHANGE)));
	EXPECT_EQ(0, ERR(rename("t/bobs", "t/mine")));
	EXPECT_EQ(0, ERR(unlink("t/mine")));
}

CASE(new_files_take_owner_and_group_of_the_creator)
{
	OK(mkdir("d", 0777));
	OK(chown("d", ALICE, 2001));
	OK(become(BOB, BOB));
	ASSERT_EQ(0, put("d/f", 1, 1));
	OK(mkdir("d/e", 0777));
	OK(symlink("x", "d/l"));
	EXPECT_EQ(BOB, stat_of("d/f").st_uid);
	EXPECT_EQ(BOB, stat_of("d/f").st_gid);
	EXPECT_EQ(BOB, stat_of("d/e").st_gid);
	EXPECT_EQ(BOB, stat_of("d/l").st_uid);
}

CASE(setgid_directories_pass_their_group_on)
{
	int fd;

	OK(mkdir("d", 0777));
	OK(chown("d", ALICE, 2001));
	OK(chmod("d", 02777));
	OK(become(BOB, BOB));
	fd = open("d/f", O_RDWR | O_CREAT, 02755);
	ASSERT_LE(0, fd);
	OK(mkdir("d/e", 0777));
	EXPECT_EQ(2001, stat_of("d/f").st_gid);
	/* Who is not in the group cannot make a setgid program for it. */
	EXPECT_EQ(0, stat_of("d/f").st_mode & S_ISGID);
	EXPECT_EQ(2001, stat_of("d/e").st_gid);
	EXPECT_NE(0, stat_of("d/e").st_mode & S_ISGID);
}

CASE(umask_is_kept)
{
	umask(027);
	ASSERT_EQ(0, ERR(open("f", O_RDWR | O_CREAT, 0777)));
	OK(mkdir("d", 0777));
	OK(mkfifo("p", 0777));
	EXPECT_EQ(0750, stat_of("f").st_mode & 07777);
	EXPECT_EQ(0750, stat_of("d").st_mode & 07777);
	EXPECT_EQ(0750, stat_of("p").st_mode & 07777);
}

CASE(open_for_writing_follows_mode_not_the_creators_descriptor)
{
	int fd;

	OK(chmod(".", 0777));
	OK(become(ALICE, ALICE));
	fd = open("f", O_RDWR | O_CREAT, 0444);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, write(fd, "x", 1));
	EXPECT_EQ(EACCES, ERR(open("f", O_RDWR)));
}

TEST_HARNESS_MAIN
