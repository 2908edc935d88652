// SPDX-License-Identifier: GPL-2.0
/*
 * Work that is interrupted by the death of the machine, and the check of what is
 * left of it.
 *
 *   crash_work MOUNTPOINT LOG SEED          check the last rounds, then write
 *   crash_work --check MOUNTPOINT LOG SEED  only check
 *
 * LOG is a raw disk of its own. What is written there with O_DIRECT is with the
 * host when the call returns, so it outlives the guest, whatever VexFS does. Two
 * workers write files and one writes vectors; each notes in the log what it is
 * about to do to acknowledged data, and what fsync(2) has acknowledged.
 *
 * After the death of the guest must hold:
 *  - a file that was acknowledged is at its name with its bytes;
 *  - a file that was not may be missing or short, but every byte of it is its own
 *    or zero: never the contents of somebody else's old block;
 *  - a container is in the state after some number of whole batches, at least as
 *    many as were acknowledged;
 *  - an index that was acknowledged is there and need not be built again, one that was not may be
 *    built again in the background; exact hits are those of the container's rows, hits of the index
 *    nearly so, and a check of it finds nothing;
 *  - every directory can be read, every name in it can be looked up, and link
 *    counts are right.
 *
 * The contents of all files follow from SEED, round and number.
 */
#include "crash_log.h"
#include "crash_files.h"
#include "crash_vectors.h"

enum { HEADER = 0x56584c48 };

struct header {
	uint32_t magic, pad;
	uint64_t round, removing;
	char room[512 - 24];
};

static struct header get_header(void)
{
	struct header *h;

	if (posix_memalign((void **)&h, 4096, 512) || pread(log_fd, h, 512, 0) != 512)
		die("log header");
	if (h->magic != HEADER)
		memset(h, 0, sizeof(*h));
	return *h;
}

static void put_header(struct header h)
{
	struct header *p;

	h.magic = HEADER;
	if (posix_memalign((void **)&p, 4096, 512))
		die("memory");
	*p = h;
	if (pwrite(log_fd, p, 512, 0) != 512)
		die("log header");
	free(p);
}

static int visit(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)ftw;
	if (kind == FTW_NS || kind == FTW_DNR) {
		problem("%s: cannot be %s", path, kind == FTW_NS ? "looked up" : "read");
		return 0;
	}
	if (S_ISDIR(st->st_mode)) {
		unsigned long subdirs = 0;
		struct dirent *e;
		DIR *dir = opendir(path);

		while (dir && (e = readdir(dir)))
			subdirs += e->d_type == DT_DIR && strcmp(e->d_name, ".") &&
				   strcmp(e->d_name, "..");
		if (dir)
			closedir(dir);
		if (st->st_nlink != subdirs + 2)
			problem("%s: %lu links for %lu directories in it", path,
				(unsigned long)st->st_nlink, subdirs);
	} else if (st->st_nlink != 1) {
		problem("%s: %lu links", path, (unsigned long)st->st_nlink);
	}
	return 0;
}

static void check_round(uint64_t round)
{
	struct record *log;
	char name[64];

	if (posix_memalign((void **)&log, 4096, RECORDS * 512))
		die("memory");
	sprintf(name, "r%llu", (unsigned long long)round);
	if (exists(name))
		nftw(name, visit, 16, FTW_PHYS);
	for (int w = 0; w < WORKERS; w++) {
		int n = 0;

		if (pread(log_fd, log, RECORDS * 512, log_at(round, w, 0)) != RECORDS * 512)
			die("log");
		while (n < RECORDS && log[n].magic == RECORD && log[n].round == round &&
		       log[n].seq == (uint64_t)n)
			n++;
		if (w == WORKERS - 1 && !on_vexfs())
			continue;
		if (w == WORKERS - 1)
			check_vectors(round, w, log, n);
		else
			check_files(round, w, log, n);
	}
	free(log);
}

int main(int argc, char **argv)
{
	bool only_check = argc > 1 && !strcmp(argv[1], "--check");
	struct header h;
	char name[300];

	setvbuf(stdout, NULL, _IOLBF, 0);
	argv += only_check;
	argc -= only_check;
	if (argc != 4) {
		fprintf(stderr, "usage: crash_work [--check] MOUNTPOINT LOG SEED\n");
		return 2;
	}
	seed_arg = strtoull(argv[3], NULL, 0);
	log_fd = open(argv[2], O_RDWR | O_DIRECT | O_DSYNC);
	if (log_fd < 0 || posix_memalign((void **)&out, 4096, 512))
		die(argv[2]);
	if (chdir(argv[1]))
		die(argv[1]);
	h = get_header();
	for (uint64_t r = h.round > 1 ? h.round - 1 : 1; r <= h.round; r++)
		if (r != h.removing)
			check_round(r);
	printf(problems ? "not ok 1 after_round_%llu\n" : "ok 1 after_round_%llu\n",
	       (unsigned long long)h.round);
	if (problems || only_check)
		return problems ? 1 : 0;
	/* Gives the blocks of the round before the last to the next one. */
	if (h.round > 1) {
		h.removing = h.round - 1;
		put_header(h);
		sprintf(name, "r%llu", (unsigned long long)h.removing);
		if (exists(name) && remove_tree(name))
			die("removing an old round");
	}
	h.round++;
	sprintf(name, "r%llu", (unsigned long long)h.round);
	/* There already, if the guest died after this and before the header. */
	if ((exists(name) && remove_tree(name)) || mkdir(name, 0755))
		die(name);
	for (int w = 0; w < WORKERS; w++) {
		sprintf(name, "r%llu/w%d", (unsigned long long)h.round, w);
		if (mkdir(name, 0755))
			die(name);
	}
	sync();
	put_header(h);
	printf("# round %llu begins\n", (unsigned long long)h.round);
	for (int w = 0; w < WORKERS; w++) {
		if ((w == WORKERS - 1 && !on_vexfs()) || fork())
			continue;
		if (w == WORKERS - 1)
			vector_worker(h.round, w);
		else
			file_worker(h.round, w);
		_exit(0);
	}
	for (int status; wait(&status) > 0; )
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			printf("not ok 2 work_of_round_%llu\n", (unsigned long long)h.round);
			return 1;
		}
	/* The log is full: as good a moment as any other. */
	for (;;)
		pause();
}
