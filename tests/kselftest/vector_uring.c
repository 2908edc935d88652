// SPDX-License-Identifier: GPL-2.0
/*
 * The commands by way of io_uring: many searches in one submission, batches, and
 * submissions that no honest program makes. With the system calls themselves, not
 * liburing, so that every field can be wrong.
 */
#include "vector_test.h"
#include <linux/io_uring.h>
#include <stdatomic.h>

VECTOR_FIXTURE(box)

#define DIM 32
#define K 6

struct ring {
	int fd;
	unsigned int flags, entries, sqe_bytes;
	_Atomic unsigned int *sq_tail, *sq_flags, *cq_head, *cq_tail;
	unsigned int *sq_array, sq_mask, cq_mask;
	struct io_uring_cqe *cqes;
	void *sq, *sqes;
	size_t sq_len, sqes_len;
	unsigned int queued;
};

static int ring_open(struct ring *r, unsigned int entries, unsigned int flags)
{
	struct io_uring_params p = { .flags = flags, .sq_thread_idle = 50 };

	memset(r, 0, sizeof(*r));
	r->fd = syscall(__NR_io_uring_setup, entries, &p);
	if (r->fd < 0)
		return -1;
	r->flags = flags;
	r->entries = p.sq_entries;
	r->sqe_bytes = flags & IORING_SETUP_SQE128 ? 128 : 64;
	r->sq_len = p.sq_off.array + p.sq_entries * 4;
	if (r->sq_len < p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe))
		r->sq_len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	r->sqes_len = (size_t)p.sq_entries * r->sqe_bytes;
	r->sq = mmap(NULL, r->sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		     IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, r->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		       IORING_OFF_SQES);
	if (r->sq == MAP_FAILED || r->sqes == MAP_FAILED)
		return -1;
	r->sq_tail = r->sq + p.sq_off.tail;
	r->sq_flags = r->sq + p.sq_off.flags;
	r->sq_array = r->sq + p.sq_off.array;
	r->sq_mask = *(unsigned int *)(r->sq + p.sq_off.ring_mask);
	r->cq_head = r->sq + p.cq_off.head;
	r->cq_tail = r->sq + p.cq_off.tail;
	r->cq_mask = *(unsigned int *)(r->sq + p.cq_off.ring_mask);
	r->cqes = r->sq + p.cq_off.cqes;
	return 0;
}

static void ring_close(struct ring *r)
{
	close(r->fd);
	munmap(r->sq, r->sq_len);
	munmap(r->sqes, r->sqes_len);
}

/* The next submission; the ring must have room. */
static struct io_uring_sqe *next_sqe(struct ring *r)
{
	unsigned int at = (*r->sq_tail + r->queued++) & r->sq_mask;
	struct io_uring_sqe *sqe = r->sqes + (size_t)at * r->sqe_bytes;

	r->sq_array[at] = at;
	memset(sqe, 0, r->sqe_bytes);
	return sqe;
}

static struct io_uring_sqe *queue(struct ring *r, int fd, unsigned long command, void *argument,
				  uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);
	struct vexfs_uring_cmd cmd = { .argument = PTR(argument) };

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = command;
	sqe->user_data = user_data;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	return sqe;
}

/* Submits what is queued and waits for @wait completions; one system call. */
static int submit(struct ring *r, unsigned int wait)
{
	unsigned int n = r->queued, flags = wait ? IORING_ENTER_GETEVENTS : 0;

	atomic_store_explicit(r->sq_tail, *r->sq_tail + n, memory_order_release);
	r->queued = 0;
	if (r->flags & IORING_SETUP_SQPOLL) {
		atomic_thread_fence(memory_order_seq_cst);
		if (*r->sq_flags & IORING_SQ_NEED_WAKEUP)
			flags |= IORING_ENTER_SQ_WAKEUP;
	}
	return syscall(__NR_io_uring_enter, r->fd, n, wait, flags, NULL, 0);
}

/* Takes the next completion, which comes sometime: its result. */
static int reap(struct ring *r, uint64_t *user_data)
{
	unsigned int head = *r->cq_head;
	int res;

	/* The call does not wait in a ring that polls for what none of its files polls. */
	for (int i = 0; head == atomic_load_explicit(r->cq_tail, memory_order_acquire); i++) {
		syscall(__NR_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
		if (i)
			usleep(1000);
	}
	res = r->cqes[head & r->cq_mask].res;
	if (user_data)
		*user_data = r->cqes[head & r->cq_mask].user_data;
	atomic_store_explicit(r->cq_head, head + 1, memory_order_release);
	return res;
}

/* One command, to its end: the errno, or 0. */
static int command(struct ring *r, int fd, unsigned long op, void *argument)
{
	queue(r, fd, op, argument, 1);
	if (submit(r, 1) < 0)
		return errno;
	return -reap(r, NULL);
}

#define SEARCHES 48
#define NQ 5

CASE(one_submission_carries_many_searches)
{
	static const unsigned int setups[] = { 0, IORING_SETUP_SQPOLL, IORING_SETUP_IOPOLL,
					       IORING_SETUP_SQE128 };
	static const unsigned int some_flags[] = { 0, IOSQE_ASYNC, IOSQE_IO_LINK };
	struct vexfs_build_index build = { .size = sizeof(build), .m = 8, .ef_construction = 40,
					   .index_kind = VEXFS_INDEX_HNSW };
	static struct vexfs_hit want[SEARCHES][NQ * K], got[SEARCHES][NQ * K];
	struct vexfs_search searches[SEARCHES];
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, 2000, DIM), *queries = new_rows(2, 0, SEARCHES * NQ, DIM);
	struct ring ring;

	OK(insert(fd, rows, NULL, 2000));
	OK(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build));
	for (int i = 0; i < SEARCHES; i++) {
		struct vexfs_search s = {
			.size = sizeof(s), .nq = NQ, .k = K, .queries = PTR(queries + i * NQ * DIM),
			.hits = PTR(want[i]), .threads = i % 4, .ef = 40,
			.index_kind = i % 2 ? VEXFS_INDEX_EXACT : VEXFS_INDEX_HNSW,
		};

		searches[i] = s;
		OK(search(fd, &s));
	}
	for (int setup = 0; setup < 4; setup++) {
		ASSERT_EQ(0, ERR(ring_open(&ring, 64, setups[setup]))) TH_LOG("%x", setups[setup]);
		for (int kind = 0; kind < 3; kind++) {
			uint64_t seen = 0, data;

			memset(got, 0x5a, sizeof(got));
			for (int i = 0; i < SEARCHES; i++) {
				searches[i].hits = PTR(got[i]);
				searches[i].elapsed_ns = 0;
				queue(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &searches[i], i)->flags =
					some_flags[kind];
			}
			EXPECT_EQ(SEARCHES, submit(&ring, SEARCHES));
			for (int i = 0; i < SEARCHES; i++) {
				EXPECT_EQ(0, reap(&ring, &data)) TH_LOG("setup %d kind %d", setup, kind);
				if (kind == 2)
					EXPECT_EQ(i, data);
				seen |= 1ull << data;
			}
			EXPECT_EQ((1ull << SEARCHES) - 1, seen);
			EXPECT_EQ(0, memcmp(want, got, sizeof(want)));
			for (int i = 0; i < SEARCHES; i++)
				EXPECT_LT(0, searches[i].elapsed_ns);
		}
		ring_close(&ring);
	}
	free(rows);
	free(queries);
}

CASE(batches_and_statistics_work_as_by_ioctl)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2), reader = open("f", O_RDONLY);
	float *rows = new_rows(1, 0, 100, DIM), back[DIM];
	uint64_t keys[100], key = 7, tags[100], numbers[100];
	struct vexfs_hit hits[K];
	struct vexfs_batch b = { .size = sizeof(b), .op = VEXFS_OP_INSERT, .count = 100,
				 .vectors = PTR(rows), .keys = PTR(keys), .tags = PTR(tags),
				 .rows = PTR(numbers) };
	struct vexfs_search s = { .size = sizeof(s), .nq = 1, .k = K, .queries = PTR(rows + 40 * DIM),
				  .hits = PTR(hits) };
	struct vexfs_batch get = { .size = sizeof(get), .op = VEXFS_OP_GET, .count = 1,
				   .keys = PTR(&key), .vectors = PTR(back) };
	struct vexfs_batch gone = { .size = sizeof(gone), .op = VEXFS_OP_DELETE, .count = 1,
				    .keys = PTR(&key) };
	struct vexfs_vector_stats st = { .size = sizeof(st) };
	struct vexfs_build_index build = { .size = sizeof(build), .index_kind = VEXFS_INDEX_HNSW };
	struct ring ring;

	OK(ring_open(&ring, 8, 0));
	for (int i = 0; i < 100; i++) {
		keys[i] = i + 1;
		tags[i] = i;
	}
	/* In a chain the search sees what the insert has done. */
	queue(&ring, fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b, 1)->flags = IOSQE_IO_LINK;
	queue(&ring, fd, VEXFS_IOCTL_BUILD_INDEX, &build, 2)->flags = IOSQE_IO_LINK;
	queue(&ring, reader, VEXFS_IOCTL_SIMILARITY_SEARCH, &s, 3)->flags = IOSQE_IO_LINK;
	queue(&ring, reader, VEXFS_IOCTL_BATCH_OPERATIONS, &get, 4)->flags = IOSQE_IO_LINK;
	queue(&ring, fd, VEXFS_IOCTL_BATCH_OPERATIONS, &gone, 5)->flags = IOSQE_IO_LINK;
	queue(&ring, reader, VEXFS_IOCTL_GET_VECTOR_STATS, &st, 6);
	EXPECT_EQ(6, submit(&ring, 6));
	for (int i = 0; i < 6; i++) {
		uint64_t data;

		EXPECT_EQ(0, reap(&ring, &data)) TH_LOG("%llu", (unsigned long long)data);
	}
	EXPECT_EQ(100, b.done);
	EXPECT_EQ(99, numbers[99]);
	EXPECT_EQ(41, hits[0].key);
	EXPECT_EQ(0, memcmp(back, rows + 6 * DIM, sizeof(back)));
	EXPECT_EQ(1, gone.done);
	EXPECT_EQ(99, st.live);
	EXPECT_EQ(1, st.index_count);
	EXPECT_EQ(VEXFS_ROW_NONE, get_key(fd, 7, NULL, NULL));
	/* Errors that name a row do so here as well, and end the chain. */
	keys[30] = 200;
	queue(&ring, fd, VEXFS_IOCTL_BATCH_OPERATIONS, &b, 1)->flags = IOSQE_IO_LINK;
	queue(&ring, reader, VEXFS_IOCTL_SIMILARITY_SEARCH, &s, 2);
	EXPECT_EQ(2, submit(&ring, 2));
	EXPECT_EQ(-EEXIST, reap(&ring, NULL));
	EXPECT_EQ(0, b.error_row);
	EXPECT_EQ(-ECANCELED, reap(&ring, NULL));
	EXPECT_EQ(99, stats_of(fd).live);
	/* What a file is open for counts as ever. */
	keys[0] = 1000;
	b.count = 1;
	EXPECT_EQ(EBADF, command(&ring, reader, VEXFS_IOCTL_BATCH_OPERATIONS, &b));
	EXPECT_EQ(EBADF, command(&ring, reader, VEXFS_IOCTL_BUILD_INDEX, &build));
	ring_close(&ring);
	free(rows);
}

CASE(hostile_submissions_are_errors)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2), plain = open("p", O_RDWR | O_CREAT, 0644);
	int dir = open(".", O_RDONLY);
	float *rows = new_rows(1, 0, 100, DIM);
	struct vexfs_hit hits[K];
	struct vexfs_search s = { .size = sizeof(s), .nq = 1, .k = K, .queries = PTR(rows),
				  .hits = PTR(hits) };
	struct io_uring_sqe *sqe;
	struct ring ring;

	OK(insert(fd, rows, NULL, 100));
	OK(ring_open(&ring, 8, 0));
	EXPECT_EQ(0, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	EXPECT_EQ(EFAULT, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, NULL));
	EXPECT_EQ(EFAULT, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, NOWHERE));
	EXPECT_EQ(EFAULT, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, (void *)-8));
	EXPECT_EQ(EFAULT, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH,
				  (void *)0xffff888000000000));
	EXPECT_EQ(ENOTTY, command(&ring, plain, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	EXPECT_EQ(EOPNOTSUPP, command(&ring, dir, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	EXPECT_EQ(EBADF, command(&ring, -1, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	EXPECT_EQ(ENOTTY, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH + 100, &s));
	EXPECT_EQ(ENOTTY, command(&ring, fd, 0, &s));
	EXPECT_EQ(ENOTTY, command(&ring, fd, _IO(0x12, 0), &s));
	s.size = 8;
	EXPECT_EQ(EINVAL, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	s.size = 1 << 20;
	EXPECT_EQ(E2BIG, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	s.size = sizeof(s);
	/* Fields that mean nothing here. */
	for (int i = 0; i < 8; i++) {
		sqe = queue(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s, i);
		switch (i) {
		case 0: sqe->ioprio = 1; break;
		case 1: sqe->addr = 1; break;
		case 2: sqe->len = 1; break;
		case 3: sqe->rw_flags = 1; break;		/* IORING_URING_CMD_FIXED */
		case 4: sqe->rw_flags = 1U << 31; break;
		case 5: sqe->file_index = 1; break;
		case 6: ((struct vexfs_uring_cmd *)sqe->cmd)->reserved = 1; break;
		case 7: sqe->off |= 1ull << 32; break;
		}
		EXPECT_EQ(1, submit(&ring, 1));
		EXPECT_EQ(-EINVAL, reap(&ring, NULL)) TH_LOG("field %d", i);
	}
	EXPECT_EQ(0, command(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s));
	ring_close(&ring);
	free(rows);
}

CASE(random_submissions_do_no_harm)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2), rounds = quick() ? 100 : 1000;
	float *rows = new_rows(1, 0, 200, DIM);
	uint64_t random = seed();
	unsigned char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ring ring;
	int good = 0;

	OK(insert(fd, rows, NULL, 200));
	OK(ring_open(&ring, 32, 0));
	OK(munmap(page + 4096, 4096));
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < 32; i++) {
			unsigned int nr = 1 + rnd(&random) % 7, at = 3700 + rnd(&random) % 500;
			struct io_uring_sqe *sqe;

			/* Numbers are small or next to bounds, addresses on the page or its edge. */
			for (int j = 0; j < 4096; j += 4)
				*(uint32_t *)(page + j) = rnd(&random) % 4 ? 0 :
					rnd(&random) % 3 ? rnd(&random) % 9 : rnd(&random);
			for (int j = 3704; j < 4088; j += 8)
				if (rnd(&random) % 5 == 0)
					*(uint64_t *)(page + j) = PTR(page) + rnd(&random) % 4200;
			at &= ~7u;
			if (at < 4090)
				*(uint32_t *)(page + at) = rnd(&random) % 2 ? 96 : 160;
			sqe = queue(&ring, fd, _IOWR(VEXFS_IOCTL_MAGIC, nr, int), page + at, i);
			if (rnd(&random) % 8 == 0)
				sqe->flags = (unsigned char[]){ IOSQE_IO_LINK, IOSQE_ASYNC,
					IOSQE_IO_DRAIN, IOSQE_IO_HARDLINK }[rnd(&random) % 4];
		}
		EXPECT_EQ(32, submit(&ring, 32));
		for (int i = 0; i < 32; i++) {
			int res = reap(&ring, NULL);

			EXPECT_GE(0, res);
			EXPECT_LT(-200, res);
			good += !res;
		}
		/* Changed after it was submitted. */
		memset(ring.sqes, rnd(&random), ring.sqes_len);
	}
	EXPECT_EQ(200, (int)stats_of(fd).rows) TH_LOG("%d commands worked", good);
	ring_close(&ring);
	free(rows);
}

CASE(memory_may_go_away_under_a_command)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2);
	float *rows = new_rows(1, 0, 3000, DIM);
	struct ring ring;

	OK(insert(fd, rows, NULL, 3000));
	OK(ring_open(&ring, 32, 0));
	for (int round = 0; round < 20; round++) {
		size_t len = 64 << 12;
		void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int i = 0; i < 32; i++) {
			struct vexfs_search *s = memory + i * 8192;

			*s = (struct vexfs_search){ .size = sizeof(*s), .nq = 8, .k = K,
						    .queries = PTR(rows), .hits = PTR(s + 1) };
			queue(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, s, i);
		}
		EXPECT_EQ(32, submit(&ring, round % 4));
		munmap(memory, len);
		for (int i = 0; i < 32; i++) {
			int res = reap(&ring, NULL);

			EXPECT_TRUE(res == 0 || res == -EFAULT) TH_LOG("%d", res);
		}
	}
	ring_close(&ring);
	free(rows);
}

CASE(a_killed_submitter_is_gone_soon)
{
	int fd = container("f", DIM, VEXFS_METRIC_L2), status;
	float *rows = new_rows(1, 0, 20000, DIM);
	static struct vexfs_hit some[64];
	struct vexfs_search one = { .nq = 64, .k = 1, .queries = PTR(rows), .hits = PTR(some) };
	double start, part, *left = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
					 -1, 0);

	ASSERT_NE(MAP_FAILED, left);
	OK(insert(fd, rows, NULL, 20000));
	/* A small part of what is killed, on this machine as it is now. */
	start = now();
	OK(search(fd, &one));
	part = now() - start;
	for (int round = 0; round < 4; round++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid) {
			unsigned int nq = 20000;
			static struct vexfs_search s[16];
			struct vexfs_hit *hits = malloc(nq * sizeof(*hits));
			struct ring ring;

			if (ring_open(&ring, 16, 0))
				_exit(1);
			for (int i = 0; i < 16; i++) {
				s[i] = (struct vexfs_search){ .size = sizeof(s[i]), .nq = nq, .k = 1,
							      .queries = PTR(rows), .hits = PTR(hits),
							      .threads = i % 4 };
				queue(&ring, fd, VEXFS_IOCTL_SIMILARITY_SEARCH, &s[i], i);
			}
			/*
			 * Thousands of times as long, unless it dies; or leaves on its own, with all
			 * of it under way.
			 */
			submit(&ring, round % 2 ? 0 : 16);
			if (round % 2) {
				WAIT_FOR(seconds_of(CLOCK_PROCESS_CPUTIME_ID) > 0.2);
				*left = now();
				_exit(0);
			}
			for (;;)
				pause();
		}
		if (round % 2 == 0) {
			wait_for_work(pid, 0.2);
			*left = now();
			kill(pid, SIGKILL);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(round % 2 ? WIFEXITED(status) && !WEXITSTATUS(status) : WIFSIGNALED(status));
		EXPECT_GT(2 + 32 * part, now() - *left) TH_LOG("64 queries took %g s", part);
	}
	free(rows);
}

TEST_HARNESS_MAIN
