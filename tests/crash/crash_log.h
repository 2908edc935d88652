/* SPDX-License-Identifier: GPL-2.0 */
/* The log of crash_work.c, which outlives the guest, and how its parts say that something is wrong. */
#include "vector_test.h"

#undef TH_LOG
#define WORKERS 3
#define RECORDS 16384			/* of 512 bytes, per worker and parity */

enum { RECORD = 0x56584c52 };

/* What a record says of file or container @id. */
enum verb {
	PRESENT = 1,	/* acknowledged: @size bytes of @stream, at the second name if @second */
	CHANGING,	/* about to be rewritten, renamed or removed: anything goes */
	REMOVED,	/* acknowledged to be gone */
	BATCHES,	/* the first @size batches of the container are acknowledged, and @second: indexes, bit KIND */
};

struct record {
	uint32_t magic, verb;
	uint64_t round, seq, id, size, stream, second;
	char room[512 - 56];
};

static int log_fd;
static uint64_t seed_arg;
static struct record *out;	/* aligned for O_DIRECT */
static int problems;

static void problem(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("# ");
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
	problems++;
}

static void die(const char *what)
{
	printf("# %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(2);
}

static off_t log_at(uint64_t round, int worker, uint64_t seq)
{
	return 4096 + (((round % 2) * WORKERS + worker) * RECORDS + seq) * 512;
}

static void note(uint64_t round, int worker, uint64_t *seq, int verb, uint64_t id, uint64_t size,
		 uint64_t stream, uint64_t second)
{
	if (*seq >= RECORDS)
		_exit(0);
	*out = (struct record){ RECORD, verb, round, *seq, id, size, stream, second };
	if (pwrite(log_fd, out, 512, log_at(round, worker, *seq)) != 512)
		die("log");
	++*seq;
}

static uint64_t stream_of(uint64_t round, int worker, uint64_t id, uint64_t version)
{
	uint64_t s = seed_arg ^ round << 40 ^ (uint64_t)worker << 32 ^ id << 8 ^ version;

	return rnd(&s);
}
