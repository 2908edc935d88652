/* SPDX-License-Identifier: GPL-2.0 */
/* A container that is changed in batches and indexed until the machine dies, and what has to be left of both. */

#define BATCH 160
#define MAX_DIM 48
#define KEYS 4000

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

/* And lists with rows in one each, and in two. */
static unsigned int copies_of(uint64_t round)
{
	return 1 + round % 2;
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
			b.flags = n % 4 ? VEXFS_BATCH_REUSE : 0;
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
			if (kind == VEXFS_INDEX_IVF)
				build.ntables = copies_of(round);
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
			s.nprobe = s.index_kind == VEXFS_INDEX_IVF ? 64 : s.index_kind == VEXFS_INDEX_LSH ? 8 : 0;
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
			for (int i = 0; i < K; i++) {
				uint64_t key = hits[i].key;

				if (key != VEXFS_KEY_NONE && (key >= KEYS || rows[key] != hits[i].row))
					problem("%s: index kind %u finds row %llu, which no key has", name,
						s.index_kind, (unsigned long long)hits[i].row);
				for (int j = 0; j < i; j++)
					if (key != VEXFS_KEY_NONE && hits[j].row == hits[i].row)
						problem("%s: index kind %u finds key %llu twice", name,
							s.index_kind, (unsigned long long)key);
			}
			for (int i = 0; i < K && i < live; i++) {
				f->wanted++;
				for (int j = 0; j < K; j++)
					f->found += hits[j].row == exact[i].row && exact[i].key != VEXFS_KEY_NONE;
			}
		}
	}
}

/* Says how an index of the container is; an acknowledged one must be there and in order. */
static void check_index(int fd, const char *name, uint64_t round, const struct vexfs_index_stats *before,
			bool acknowledged, const struct found *found, uint64_t live)
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
	if (kind == VEXFS_INDEX_IVF && after.ntables != copies_of(round))
		problem("%s: rows are in %u lists each, were to be in %u", name, after.ntables, copies_of(round));
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
	printf("# round index kind %u: %s before, recall@10 %u in 1000, %llu hops, %llu nodes, %llu deleted, nlist %u, ntables %u\n",
	       kind, before->state == VEXFS_INDEX_STORED ? "on disk" : "in memory", recall, found->hops,
	       (unsigned long long)after.nodes, (unsigned long long)after.deleted, after.nlist, after.ntables);
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
			check_index(fd, name, round, &before[which], acknowledged >> kind_of(round, which) & 1,
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
