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
#include "vector_test.h"

#undef TH_LOG
#define WORKERS 3
#define RECORDS 16384			/* of 512 bytes, per worker and parity */
#define FILES 500			/* per worker, before it starts changing them */
#define BATCH 160
#define MAX_DIM 48
#define KEYS 4000

enum { HEADER = 0x56584c48, RECORD = 0x56584c52 };

/* What a record says of file or container @id. */
enum verb {
	PRESENT = 1,	/* acknowledged: @size bytes of @stream, at the second name if @second */
	CHANGING,	/* about to be rewritten, renamed or removed: anything goes */
	REMOVED,	/* acknowledged to be gone */
	BATCHES,	/* the first @size batches of the container are acknowledged, and @second: indexes, bit KIND */
};

struct header {
	uint32_t magic, pad;
	uint64_t round, removing;
	char room[512 - 24];
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

/* -- files ------------------------------------------------------------------ */

static void file_name(char *name, uint64_t round, int worker, uint64_t id, bool second)
{
	/* A few directories, some of them small, some large. */
	sprintf(name, "r%llu/w%d/%s%llu/file-%llu%s", (unsigned long long)round, worker,
		second ? "moved" : "d", (unsigned long long)(id % 7 ? 0 : id % 5),
		(unsigned long long)id, second ? "-renamed-to-a-longer-name" : "");
}

static uint64_t stream_of(uint64_t round, int worker, uint64_t id, uint64_t version)
{
	uint64_t s = seed_arg ^ round << 40 ^ (uint64_t)worker << 32 ^ id << 8 ^ version;

	return rnd(&s);
}

static uint64_t size_for(uint64_t stream)
{
	uint64_t r = rnd(&stream);

	switch (r % 16) {
	case 0: return 0;
	case 1 ... 9: return r >> 32 & 0x3fff;
	case 10 ... 14: return r >> 32 & 0x1ffff;
	default: return r >> 32 & 0xfffff;
	}
}

static int write_file(const char *name, uint64_t size, uint64_t stream, bool sync)
{
	static char buf[1 << 20];
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	uint64_t chunk = 1 + (stream & 0x1ffff);

	if (fd < 0)
		return -1;
	for (uint64_t off = 0; off < size; ) {
		uint64_t n = size - off < chunk ? size - off : chunk;

		fill(buf, n, stream, off);
		if (pwrite(fd, buf, n, off) != (ssize_t)n)
			return -1;
		off += n;
	}
	if (sync && (stream & 1 ? fsync(fd) : fdatasync(fd)))
		return -1;
	return close(fd);
}

static void sync_name(const char *name)
{
	int fd = open(name, O_RDONLY);

	if (fd < 0 || fsync(fd) || close(fd))
		die(name);
}

static void sync_parent_of(char *name)
{
	*strrchr(name, '/') = 0;
	sync_name(name);
}

static void file_worker(uint64_t round, int worker)
{
	struct file { uint64_t stream, size; bool second, there; } *all = calloc(FILES, sizeof(*all));
	uint64_t state = stream_of(round, worker, 0, 0), seq = 0;
	char a[300], b[300];

	for (int d = 0; d < 5; d++) {
		sprintf(a, "r%llu/w%d/d%d", (unsigned long long)round, worker, d);
		sprintf(b, "r%llu/w%d/moved%d", (unsigned long long)round, worker, d);
		if (mkdir(a, 0755) || mkdir(b, 0755))
			die(a);
	}
	for (uint64_t n = 0;; n++) {
		uint64_t id = n < FILES ? n : rnd(&state) % FILES;
		uint64_t stream = stream_of(round, worker, id, n);
		bool sync = rnd(&state) % 4 == 0;
		struct file *f = &all[id];
		char *name;

		file_name(a, round, worker, id, false);
		file_name(b, round, worker, id, true);
		name = f->second ? b : a;
		if (n < FILES) {
			*f = (struct file){ stream, size_for(stream), false, true };
			if (write_file(a, f->size, stream, sync))
				die(a);
			if (sync)
				note(round, worker, &seq, PRESENT, id, f->size, stream, false);
			continue;
		}
		note(round, worker, &seq, CHANGING, id, 0, 0, false);
		switch (f->there ? rnd(&state) % 3 : 0) {
		case 0:
			*f = (struct file){ stream, size_for(stream), f->second, true };
			if (write_file(name, f->size, stream, true))
				die("rewrite");
			break;
		case 1:
			if (rename(name, f->second ? a : b))
				die("rename");
			f->second = !f->second;
			name = f->second ? b : a;
			/* The contents may never have been synced before. */
			sync_name(name);
			if (id % 2) {
				char parent[300];

				strcpy(parent, name);
				sync_parent_of(parent);
			}
			break;
		case 2:
			if (unlink(name))
				die("unlink");
			f->there = f->second = false;
			sync_parent_of(name);
			break;
		}
		note(round, worker, &seq, f->there ? PRESENT : REMOVED, id, f->size, f->stream, f->second);
	}
}

/* What the log says of every file, the last word counting. */
static void check_files(uint64_t round, int worker, struct record *log, int records)
{
	static char buf[2 << 20], want[2 << 20];
	char a[300], b[300];
	int acknowledged = 0, loose = 0;

	for (uint64_t id = 0; id < FILES; id++) {
		struct record last = { 0 };
		bool open_end;

		for (int i = 0; i < records; i++)
			if (log[i].id == id)
				last = log[i];
		open_end = last.verb != PRESENT;
		file_name(a, round, worker, id, false);
		file_name(b, round, worker, id, true);
		if (last.verb == REMOVED) {
			if (exists(a) || exists(b))
				problem("%s was removed and acknowledged, and is there", a);
			acknowledged++;
			continue;
		}
		for (int which = 0; which < 2; which++) {
			const char *name = which ? b : a;
			int fd = open(name, O_RDONLY);
			ssize_t n;

			if (fd < 0 && errno != ENOENT)
				problem("%s: %s", name, strerror(errno));
			if (!open_end && which == (int)last.second) {
				acknowledged++;
				n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
				if (n != (ssize_t)last.size)
					problem("%s was acknowledged with %llu bytes, has %zd", name,
						(unsigned long long)last.size, n);
				else if (differs(buf, n, last.stream, 0))
					problem("%s: acknowledged byte %zu differs", name,
						differs(buf, n, last.stream, 0) - 1);
			} else if (!open_end && fd >= 0) {
				problem("%s is there, and was acknowledged elsewhere", name);
			} else if (fd >= 0 && !last.verb) {
				/* Never acknowledged: version id of the first pass. */
				uint64_t stream = stream_of(round, worker, id, id);

				loose++;
				n = read(fd, buf, sizeof(buf));
				if (n < 0 || n > (ssize_t)size_for(stream)) {
					problem("%s has %zd bytes, at most %llu were written", name, n,
						(unsigned long long)size_for(stream));
					n = 0;
				}
				fill(want, n, stream, 0);
				for (ssize_t i = 0; i < n; i++)
					if (buf[i] && buf[i] != want[i]) {
						problem("%s: byte %zd is neither its own nor zero", name, i);
						break;
					}
			} else if (fd >= 0) {
				/* In the middle of a change: it must be readable. */
				loose++;
				if (read(fd, buf, sizeof(buf)) < 0)
					problem("%s: %s", name, strerror(errno));
			}
			if (fd >= 0)
				close(fd);
		}
	}
	printf("# round %llu worker %d: %d acknowledged, %d others, %d log records\n",
	       (unsigned long long)round, worker, acknowledged, loose, records);
}

/* -- vectors ---------------------------------------------------------------- */

/*
 * Batch @n of a container is a function of its number: mostly inserts of new keys,
 * sometimes upserts of old ones, sometimes deletes.
 */
struct change {
	int op;
	uint64_t keys[BATCH], versions[BATCH];
};

struct table {
	bool there[KEYS];
	uint64_t version[KEYS];
};

static struct change change_of(uint64_t round, uint64_t n, const struct table *t)
{
	uint64_t state = stream_of(round, 99, n, 0);
	int want = rnd(&state) % 4, found = 0;
	uint64_t at = rnd(&state) % KEYS;
	struct change c;

	c.op = want == 0 ? VEXFS_OP_DELETE : want == 1 ? VEXFS_OP_UPSERT : VEXFS_OP_INSERT;
	for (int tries = 0; tries < KEYS && found < BATCH; tries++, at = (at + 7) % KEYS)
		if (c.op == VEXFS_OP_UPSERT || t->there[at] == (c.op == VEXFS_OP_DELETE)) {
			c.keys[found] = at;
			c.versions[found++] = n;
		}
	/* Not enough keys of that kind: replace some instead. */
	if (found < BATCH) {
		c.op = VEXFS_OP_UPSERT;
		for (int i = 0; i < BATCH; i++) {
			c.keys[i] = (at + i * 7) % KEYS;
			c.versions[i] = n;
		}
	}
	return c;
}

static void apply(struct table *t, const struct change *c)
{
	for (int i = 0; i < BATCH; i++) {
		t->there[c->keys[i]] = c->op != VEXFS_OP_DELETE;
		t->version[c->keys[i]] = c->versions[i];
	}
}

/* The kinds of indexes take turns, two in each round. */
#define PER_ROUND 2

static unsigned int kind_of(uint64_t round, int which)
{
	static const unsigned int kinds[] = { VEXFS_INDEX_HNSW, VEXFS_INDEX_IVF, VEXFS_INDEX_PQ, VEXFS_INDEX_LSH };

	return kinds[(round + which) % 4];
}

/* So do rows that lists and tables keep by codes, and rows so short that they are read instead. */
static unsigned int dim_of(uint64_t round)
{
	return round / 4 % 2 ? 24 : 48;
}

/* Rows are in clusters of some 80: of rows without any, which nobody has, defaults find less. */
static void vector_of(float *row, uint64_t round, uint64_t key, uint64_t version)
{
	unsigned int dim = dim_of(round);
	float centre[MAX_DIM];

	make_rows(row, round, key << 20 | version, 1, dim);
	make_rows(centre, round ^ 0xce47e5, key % 50, 1, dim);
	for (unsigned int i = 0; i < dim; i++)
		row[i] = centre[i] + row[i] / 2;
}

static void vector_worker(uint64_t round, int worker)
{
	static struct table t;
	uint64_t state = stream_of(round, worker, 0, 0), seq = 0, indexed = 0;
	unsigned int dim = dim_of(round);
	char name[300];
	int fd;

	sprintf(name, "r%llu/w%d/vectors", (unsigned long long)round, worker);
	fd = container(name, dim, VEXFS_METRIC_L2);
	if (fd < 0)
		die(name);
	for (uint64_t n = 0;; n++) {
		struct change c = change_of(round, n, &t);
		float rows[BATCH * MAX_DIM];
		uint64_t tags[BATCH];
		struct vexfs_batch b = { .op = c.op, .count = BATCH, .keys = PTR(c.keys) };

		for (int i = 0; i < BATCH; i++) {
			vector_of(rows + i * dim, round, c.keys[i], n);
			tags[i] = n << 32 | c.keys[i];
		}
		if (c.op != VEXFS_OP_DELETE) {
			b.vectors = PTR(rows);
			b.tags = PTR(tags);
		}
		if (batch(fd, &b))
			die("batch");
		apply(&t, &c);
		/* Builds save an image each, so many deaths are in the middle of one. */
		if (rnd(&state) % 6 == 0) {
			unsigned int kind = kind_of(round, rnd(&state) % PER_ROUND);
			struct vexfs_build_index build = {
				.size = sizeof(build), .index_kind = kind,
				.flags = indexed >> kind & 1 ? VEXFS_BUILD_REPLACE : 0,
			};

			if (kind == VEXFS_INDEX_HNSW) {
				build.m = 8;
				build.ef_construction = 40;
			}
			/* With no row left there is nothing to train on. */
			if (!ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &build))
				indexed |= 1 << kind;
			else if (errno != ENODATA)
				die("build of an index");
		}
		if (rnd(&state) % 5 == 0) {
			if (fsync(fd))
				die("fsync of a container");
			note(round, worker, &seq, BATCHES, 0, n + 1, 0, indexed);
		}
	}
}

/* Whether the container is in the state of table @t. */
static bool is_state(uint64_t round, const struct table *t, const float *got, const uint64_t *rows,
		     const uint64_t *tags)
{
	unsigned int dim = dim_of(round);
	float want[MAX_DIM];

	for (uint64_t key = 0; key < KEYS; key++) {
		if (t->there[key] != (rows[key] != VEXFS_ROW_NONE))
			return false;
		if (!t->there[key])
			continue;
		if (tags[key] != (t->version[key] << 32 | key))
			return false;
		vector_of(want, round, key, t->version[key]);
		if (memcmp(want, got + key * dim, dim * sizeof(*want)))
			return false;
	}
	return true;
}

static int by_distance(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

#define K 10

/* What searches in an index of the container found. */
struct found {
	bool there;
	unsigned int found, wanted;
	unsigned long long hops;
};

/*
 * Searches for every 50th vector: exact distances must be those of the rows, as computed here. Counts how
 * many of them each index finds.
 */
static void check_searches(int fd, const char *name, uint64_t round, const float *got,
			   const uint64_t *rows, struct found *found)
{
	static struct vexfs_hit exact[K], hits[K];
	static double all[KEYS];
	unsigned int dim = dim_of(round);

	for (int q = 0; q < KEYS; q += 50) {
		struct vexfs_search s = { .nq = 1, .k = K, .hits = PTR(exact), .queries = PTR(got + q * dim),
					  .index_kind = VEXFS_INDEX_EXACT };
		int live = 0;

		if (rows[q] == VEXFS_ROW_NONE)
			continue;
		for (int i = 0; i < KEYS; i++) {
			double sum = 0;

			if (rows[i] == VEXFS_ROW_NONE)
				continue;
			for (unsigned int d = 0; d < dim; d++) {
				double x = (double)got[q * dim + d] - got[i * dim + d];

				sum += x * x;
			}
			all[live++] = sum;
		}
		qsort(all, live, sizeof(all[0]), by_distance);
		if (search(fd, &s))
			problem("%s: exact search: %s", name, strerror(errno));
		for (int i = 0; i < K && i < live; i++)
			if (fabs(bits_to_float(exact[i].distance) - all[i]) > 1e-4 * (1 + all[i]))
				problem("%s: exact hit %d of key %d is at %g, should be at %g", name, i, q,
					bits_to_float(exact[i].distance), all[i]);
		for (int which = 0; which < PER_ROUND; which++) {
			struct found *f = &found[which];

			s.index_kind = kind_of(round, which);
			s.ef = s.index_kind == VEXFS_INDEX_HNSW ? 100 : 0;
			/* What the defaults are; without a word the planner takes few rows to be compared at once. */
			s.nprobe = s.index_kind == VEXFS_INDEX_IVF ? 64 : s.index_kind == VEXFS_INDEX_LSH ? 5 : 0;
			s.rerank = s.index_kind == VEXFS_INDEX_PQ ? 300 : 0;
			s.hits = PTR(hits);
			s.hops = 0;
			if (f->there && search(fd, &s)) {
				problem("%s: search in the index of kind %u: %s", name, s.index_kind, strerror(errno));
				f->there = false;
			}
			if (!f->there)
				continue;
			f->hops += s.hops;
			for (int i = 0; i < K && i < live; i++) {
				f->wanted++;
				for (int j = 0; j < K; j++)
					f->found += hits[j].row == exact[i].row && exact[i].key != VEXFS_KEY_NONE;
			}
		}
	}
}

/* Says how an index of the container is; an acknowledged one must be there and in order. */
static void check_index(int fd, const char *name, const struct vexfs_index_stats *before, bool acknowledged,
			const struct found *found, uint64_t live)
{
	struct vexfs_index_stats after = { .size = sizeof(after), .index_kind = before->index_kind };
	struct vexfs_index_check check = { .size = sizeof(check), .index_kind = before->index_kind };
	unsigned int kind = before->index_kind;
	unsigned int recall = found->wanted ? 1000 * found->found / found->wanted : 1000;

	/* The first build, cut off, starts again by itself. */
	while (!acknowledged && !ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &after) &&
	       after.state == VEXFS_INDEX_BUILDING)
		usleep(1000);
	if (ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &after))
		problem("%s: statistics of index kind %u: %s", name, kind, strerror(errno));
	if (live && (after.state != VEXFS_INDEX_READY || after.nodes != live))
		problem("%s: index kind %u is in state %u with %llu rows of %llu", name, kind, after.state,
			(unsigned long long)after.nodes, (unsigned long long)live);
	if (acknowledged && kind != VEXFS_INDEX_HNSW && found->wanted && !found->hops)
		problem("%s: searches did without index kind %u", name, kind);
	if (recall < 950)
		problem("%s: recall@10 of index kind %u is %u in 1000", name, kind, recall);
	if (live && ioctl(fd, VEXFS_IOCTL_CHECK_INDEX, &check))
		problem("%s: check of index kind %u: %s", name, kind, strerror(errno));
	if (check.faults || check.unreachable || check.wrong_codes || check.wrong_rows || check.bad_images)
		problem("%s: index kind %u: %llu faults, %llu rows unreachable, %llu codes and %llu rows wrong, %s image",
			name, kind, (unsigned long long)check.faults, (unsigned long long)check.unreachable,
			(unsigned long long)check.wrong_codes, (unsigned long long)check.wrong_rows,
			check.bad_images ? "bad" : "good");
	printf("# round index kind %u: %s before, recall@10 %u in 1000, %llu hops, %llu nodes, %llu deleted, nlist %u\n",
	       kind, before->state == VEXFS_INDEX_STORED ? "on disk" : "in memory", recall, found->hops,
	       (unsigned long long)after.nodes, (unsigned long long)after.deleted, after.nlist);
}

/* Checks the searches of the container, and its indexes, of which those of the bits @acknowledged must be there. */
static void check_indexes(int fd, const char *name, uint64_t round, uint64_t acknowledged, const float *got,
			  const uint64_t *rows, uint64_t live)
{
	struct vexfs_index_stats before[PER_ROUND];
	struct found found[PER_ROUND] = { 0 };

	for (int which = 0; which < PER_ROUND; which++) {
		unsigned int kind = kind_of(round, which);

		before[which] = (struct vexfs_index_stats){ .size = sizeof(*before), .index_kind = kind };
		found[which].there = !ioctl(fd, VEXFS_IOCTL_GET_INDEX_STATS, &before[which]);
		if (!found[which].there && acknowledged >> kind & 1)
			problem("%s: the index of kind %u is not there: %s", name, kind, strerror(errno));
	}
	check_searches(fd, name, round, got, rows, found);
	for (int which = 0; which < PER_ROUND; which++)
		if (found[which].there)
			check_index(fd, name, &before[which], acknowledged >> kind_of(round, which) & 1,
				    &found[which], live);
}

static void check_vectors(uint64_t round, int worker, struct record *log, int records)
{
	static struct table t;
	static float got[KEYS * MAX_DIM];
	static uint64_t keys[KEYS], rows[KEYS], tags[KEYS];
	uint64_t acknowledged = records ? log[records - 1].size : 0, found = ~0ull, live = 0;
	struct vexfs_batch b = { .op = VEXFS_OP_GET, .count = KEYS, .keys = PTR(keys),
				 .vectors = PTR(got), .rows = PTR(rows), .tags = PTR(tags) };
	struct vexfs_vector_stats st;
	unsigned int dim = dim_of(round);
	char name[300];
	int fd;

	sprintf(name, "r%llu/w%d/vectors", (unsigned long long)round, worker);
	fd = open(name, O_RDONLY);
	if (fd < 0) {
		if (acknowledged || errno != ENOENT)
			problem("%s: %s", name, strerror(errno));
		return;
	}
	st = stats_of(fd);
	if (st.dim != dim) {
		/* Made, and not yet a container: fine as long as nothing was promised. */
		if (acknowledged)
			problem("%s is no container any more", name);
		close(fd);
		return;
	}
	for (int i = 0; i < KEYS; i++)
		keys[i] = i;
	if (batch(fd, &b)) {
		problem("%s: GET: %s", name, strerror(errno));
		close(fd);
		return;
	}
	memset(&t, 0, sizeof(t));
	for (uint64_t n = 0; n < acknowledged + 4000 && found == ~0ull; n++) {
		struct change c;

		if (n >= acknowledged && is_state(round, &t, got, rows, tags))
			found = n;
		c = change_of(round, n, &t);
		apply(&t, &c);
	}
	for (int i = 0; i < KEYS; i++)
		live += rows[i] != VEXFS_ROW_NONE;
	if (found == ~0ull)
		problem("%s: no number of whole batches from %llu on gives this state (%llu rows, %llu live)",
			name, (unsigned long long)acknowledged, (unsigned long long)st.rows,
			(unsigned long long)st.live);
	if (st.rows % BATCH)
		problem("%s: %llu rows are not whole batches", name, (unsigned long long)st.rows);
	if (live != st.live || b.done != live)
		problem("%s: %llu rows are live, %llu keys are found", name,
			(unsigned long long)st.live, (unsigned long long)live);
	if (stat_of(name).st_size != (off_t)(st.rows * st.stride))
		problem("%s: %lld bytes for %llu rows", name, (long long)stat_of(name).st_size,
			(unsigned long long)st.rows);
	check_indexes(fd, name, round, records ? log[records - 1].second : 0, got, rows, live);
	/* A row finds itself. */
	for (int i = 0; i < KEYS; i += 97)
		if (rows[i] != VEXFS_ROW_NONE) {
			struct vexfs_hit hit;
			struct vexfs_search s = { .nq = 1, .k = 1, .hits = PTR(&hit),
						  .queries = PTR(got + i * dim) };

			if (search(fd, &s) || hit.key != (uint64_t)i || hit.distance != 0)
				problem("%s: key %d is not found by its vector", name, i);
		}
	printf("# round %llu vectors: %llu batches acknowledged, %llu found, %llu live\n",
	       (unsigned long long)round, (unsigned long long)acknowledged,
	       (unsigned long long)found, (unsigned long long)live);
	close(fd);
}

/* -- rounds ----------------------------------------------------------------- */

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
