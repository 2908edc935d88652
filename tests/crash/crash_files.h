/* SPDX-License-Identifier: GPL-2.0 */
/* Files that are written, renamed and removed until the machine dies, and what has to be left of them. */

#define FILES 500			/* per worker, before it starts changing them */

static void file_name(char *name, uint64_t round, int worker, uint64_t id, bool second)
{
	/* A few directories, some of them small, some large. */
	sprintf(name, "r%llu/w%d/%s%llu/file-%llu%s", (unsigned long long)round, worker,
		second ? "moved" : "d", (unsigned long long)(id % 7 ? 0 : id % 5),
		(unsigned long long)id, second ? "-renamed-to-a-longer-name" : "");
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
