// SPDX-License-Identifier: GPL-2.0
/*
 * Making containers: CREATE_VECTOR, BUILD_INDEX and GET_VECTOR_STATS, and what
 * all five calls do with structures that are too small, too large, dirty, or
 * not there, and with files that are no containers.
 */
#include "vector_test.h"

VECTOR_FIXTURE(box)

#define CREATE(...) (struct vexfs_create_vector){ .size = sizeof(struct vexfs_create_vector), \
	.dim = 8, .element_type = VEXFS_ELEMENT_F32, .metric = VEXFS_METRIC_L2, ##__VA_ARGS__ }

/* CREATE_VECTOR on a new file; errno or 0. The file is removed. */
static int creating(struct vexfs_create_vector arg)
{
	int fd = open("new", O_RDWR | O_CREAT | O_EXCL, 0644), err;

	err = ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg));
	close(fd);
	unlink("new");
	return err;
}

CASE(create_tells_the_stride_and_stats_tell_the_rest)
{
	struct vexfs_create_vector arg = CREATE(.dim = 384, .metric = VEXFS_METRIC_COSINE,
						.model_tag = 0x1122334455667788);
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct vexfs_vector_stats st;

	OK(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg));
	EXPECT_EQ(1536, arg.stride);
	EXPECT_EQ(0, size_of("f"));
	st = stats_of(fd);
	EXPECT_EQ(sizeof(st), st.size);
	EXPECT_EQ(384, st.dim);
	EXPECT_EQ(VEXFS_ELEMENT_F32, st.element_type);
	EXPECT_EQ(VEXFS_METRIC_COSINE, st.metric);
	EXPECT_EQ(1536, st.stride);
	EXPECT_EQ(0x1122334455667788, st.model_tag);
	EXPECT_EQ(0, st.rows);
	EXPECT_EQ(0, st.live);
	EXPECT_EQ(0, st.durable_rows);
	EXPECT_EQ(0, st.index_count);
	EXPECT_GE(VEXFS_ISA_NEON_DOT, st.isa);
}

FIXTURE(create_aligned) { char path[PATH_MAX]; };
FIXTURE_VARIANT(create_aligned) { unsigned int dim, alignment, stride; };
FIXTURE_VARIANT_ADD(create_aligned, 3_to_4) { 3, 4, 12 };
FIXTURE_VARIANT_ADD(create_aligned, 3_to_16) { 3, 16, 16 };
FIXTURE_VARIANT_ADD(create_aligned, 1_to_64) { 1, 64, 64 };
FIXTURE_VARIANT_ADD(create_aligned, 384_to_64) { 384, 64, 1536 };
FIXTURE_VARIANT_ADD(create_aligned, 385_to_64) { 385, 64, 1600 };
FIXTURE_VARIANT_ADD(create_aligned, 100_to_4096) { 100, 4096, 4096 };
FIXTURE_VARIANT_ADD(create_aligned, 65536_to_4096) { 65536, 4096, 262144 };
VECTOR_SETUP(create_aligned)
BOX_TEARDOWN(create_aligned)

TEST_F_TIMEOUT(create_aligned, rows_start_at_multiples_of_the_stride, CASE_SECONDS)
{
	unsigned int dim = variant->dim, n = 5;
	struct vexfs_create_vector arg = CREATE(.dim = dim, .alignment = variant->alignment);
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	float *rows = new_rows(1, 0, n, dim), *back = malloc(dim * 4);
	struct model m = { dim, VEXFS_METRIC_L2, n, rows };
	struct vexfs_search s = { 0 };

	OK(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg));
	EXPECT_EQ(variant->stride, arg.stride);
	OK(insert(fd, rows, NULL, n));
	EXPECT_EQ(n * arg.stride, size_of("f"));
	for (int i = 0; i < n; i++) {
		ASSERT_EQ(dim * 4, pread(fd, back, dim * 4, i * (long)arg.stride));
		EXPECT_EQ(0, memcmp(back, rows + i * dim, dim * 4));
	}
	EXPECT_SEARCH(fd, &m, rows + 2 * dim, 3, &s);
}

CASE(alignment_zero_is_a_default_that_stats_tell)
{
	int fd = container("f", 3, VEXFS_METRIC_L2);
	struct vexfs_vector_stats st;

	ASSERT_LE(0, fd);
	st = stats_of(fd);
	ASSERT_LE(4, st.alignment);
	EXPECT_EQ(0, st.alignment & (st.alignment - 1));
	EXPECT_EQ((12 + st.alignment - 1) / st.alignment * st.alignment, st.stride);
}

CASE(create_takes_every_metric_and_the_bounds_of_dim)
{
	EXPECT_EQ(0, creating(CREATE(.metric = VEXFS_METRIC_L2)));
	EXPECT_EQ(0, creating(CREATE(.metric = VEXFS_METRIC_COSINE)));
	EXPECT_EQ(0, creating(CREATE(.metric = VEXFS_METRIC_DOT)));
	EXPECT_EQ(0, creating(CREATE(.dim = 1)));
	EXPECT_EQ(0, creating(CREATE(.dim = VEXFS_MAX_DIM)));
	EXPECT_EQ(EINVAL, creating(CREATE(.dim = 0)));
	EXPECT_EQ(EINVAL, creating(CREATE(.dim = VEXFS_MAX_DIM + 1)));
	EXPECT_EQ(EINVAL, creating(CREATE(.dim = ~0u)));
}

CASE(create_refuses_bad_fields)
{
	EXPECT_EQ(EINVAL, creating(CREATE(.flags = 1)));
	EXPECT_EQ(EINVAL, creating(CREATE(.flags = 1u << 31)));
	EXPECT_EQ(EINVAL, creating(CREATE(.metric = 0)));
	EXPECT_EQ(EINVAL, creating(CREATE(.metric = 4)));
	EXPECT_EQ(EINVAL, creating(CREATE(.element_type = 0)));
	EXPECT_EQ(EINVAL, creating(CREATE(.element_type = 7)));
	EXPECT_EQ(EINVAL, creating(CREATE(.alignment = 1)));
	EXPECT_EQ(EINVAL, creating(CREATE(.alignment = 2)));
	EXPECT_EQ(EINVAL, creating(CREATE(.alignment = 12)));
	EXPECT_EQ(EINVAL, creating(CREATE(.alignment = 8192)));
	EXPECT_EQ(EINVAL, creating(CREATE(.alignment = 1u << 31)));
	EXPECT_EQ(EINVAL, creating(CREATE(.reserved = 1)));
}

CASE(create_wants_an_empty_plain_file_opened_for_writing)
{
	struct vexfs_create_vector arg = CREATE();
	int fd;

	ASSERT_EQ(0, put("full", 100, 1));
	fd = open("full", O_RDWR);
	EXPECT_EQ(EEXIST, ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)));
	EXPECT_TRUE(holds("full", 100, 1));
	ASSERT_EQ(0, put("empty", 0, 1));
	fd = open("empty", O_RDONLY);
	EXPECT_EQ(EBADF, ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)));
	fd = container("f", 8, VEXFS_METRIC_L2);
	EXPECT_EQ(EEXIST, ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)));
	/* A failed attempt leaves an ordinary file. */
	EXPECT_EQ(5, write(open("empty", O_WRONLY), "plain", 5));
}

CASE(create_is_refused_while_a_writable_mapping_exists)
{
	struct vexfs_create_vector arg = CREATE();
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(EACCES, ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)));
	OK(munmap(p, 4096));
	EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)));
}

CASE(a_readable_mapping_made_before_cannot_become_writable)
{
	struct vexfs_create_vector arg = CREATE();
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	float row[8] = { 1 };

	ASSERT_NE(MAP_FAILED, p);
	/* Refusing to create is one way, refusing mprotect the other. */
	if (ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg)) == EACCES)
		return;
	OK(insert(fd, row, NULL, 1));
	EXPECT_EQ(EACCES, ERR(mprotect(p, 4096, PROT_READ | PROT_WRITE)));
}

CASE(reserve_rows_takes_space_and_makes_no_rows)
{
	struct vexfs_create_vector arg = CREATE(.dim = 256, .reserve_rows = 4096);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	OK(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg));
	EXPECT_EQ(0, size_of("f"));
	EXPECT_EQ(0, stats_of(fd).rows);
	EXPECT_LE(4096 * 1024 / 512, stat_of("f").st_blocks);
	EXPECT_LE(4096 * 1024, stats_of(fd).bytes_on_disk);
}

CASE(impossible_reservations_fail_and_leave_a_plain_file)
{
	static const uint64_t counts[] = { 1ull << 40, 1ull << 58, 1ull << 62, ~0ull };
	struct statfs before, after;

	sync();
	OK(statfs(".", &before));
	for (int i = 0; i < 4; i++) {
		struct vexfs_create_vector arg = CREATE(.dim = 1024, .reserve_rows = counts[i]);
		struct vexfs_vector_stats st = { .size = sizeof(st) };
		int fd = open("f", O_RDWR | O_CREAT, 0644), err;

		err = ERR(ioctl(fd, VEXFS_IOCTL_CREATE_VECTOR, &arg));
		EXPECT_TRUE(err == ENOSPC || err == EFBIG || err == E2BIG || err == EINVAL) {
			TH_LOG("%s for %llu rows", strerror(err), (unsigned long long)counts[i]);
		}
		EXPECT_EQ(ENOTTY, ERR(ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st)));
		EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
		close(fd);
		OK(unlink("f"));
	}
	sync();
	OK(statfs(".", &after));
	EXPECT_LE(before.f_bfree, after.f_bfree + 16);
}

CASE(build_index_exact_is_done_at_once_and_others_want_rows)
{
	struct vexfs_build_index arg = { .size = sizeof(arg) };
	int fd = container("f", 8, VEXFS_METRIC_L2), ro;

	for (arg.index_kind = VEXFS_INDEX_IVF; arg.index_kind <= VEXFS_INDEX_LSH; arg.index_kind++) {
		EXPECT_EQ(ENODATA, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	}
	arg.index_kind = VEXFS_INDEX_EXACT;
	EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.index_kind = 6;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.index_kind = ~0u;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.index_kind = VEXFS_INDEX_EXACT;
	arg.flags = VEXFS_BUILD_REPLACE;
	EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.flags = VEXFS_BUILD_DROP;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.flags = 8;
	EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
	arg.flags = 0;
	for (int i = 0; i < 6; i++) {
		arg.reserved[i] = 1;
		EXPECT_EQ(EINVAL, ERR(ioctl(fd, VEXFS_IOCTL_BUILD_INDEX, &arg)));
		arg.reserved[i] = 0;
	}
	ASSERT_EQ(0, put("plain", 10, 1));
	ro = open("plain", O_RDWR);
	EXPECT_EQ(ENOTTY, ERR(ioctl(ro, VEXFS_IOCTL_BUILD_INDEX, &arg)));
}

/*
 * The size rules, for each of the six: a valid argument in a buffer with room
 * behind it, for which the call is made with other sizes.
 */
FIXTURE(abi) {
	char path[PATH_MAX];
	int fd;
	unsigned char *arg;	/* 4096 bytes, zero behind the structure */
	float vector[8];
	struct vexfs_hit hits[4];
};
/* @first: the size of the first version, since when a structure may have grown. */
FIXTURE_VARIANT(abi) { unsigned long command; unsigned int size, first; };
#define ABI_GROWN(name, cmd, type, first) FIXTURE_VARIANT_ADD(abi, name) { cmd, sizeof(struct type), first }
#define ABI(name, cmd, type) ABI_GROWN(name, cmd, type, sizeof(struct type))
ABI(create_vector, VEXFS_IOCTL_CREATE_VECTOR, vexfs_create_vector);
ABI(batch_operations, VEXFS_IOCTL_BATCH_OPERATIONS, vexfs_batch);
ABI(similarity_search, VEXFS_IOCTL_SIMILARITY_SEARCH, vexfs_search);
ABI(build_index, VEXFS_IOCTL_BUILD_INDEX, vexfs_build_index);
ABI(get_vector_stats, VEXFS_IOCTL_GET_VECTOR_STATS, vexfs_vector_stats);
ABI_GROWN(get_index_stats, VEXFS_IOCTL_GET_INDEX_STATS, vexfs_index_stats, 96);
FIXTURE_SETUP(abi)
{
	VECTOR_ENTER();
	self->arg = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* The argument ends where memory ends, in tests that want that. */
	OK(munmap(self->arg + 4096, 4096));
	self->fd = variant->command == VEXFS_IOCTL_CREATE_VECTOR ?
		open("f", O_RDWR | O_CREAT, 0644) : container("f", 8, VEXFS_METRIC_L2);
	ASSERT_LE(0, self->fd);
	switch (variant->command) {
	case VEXFS_IOCTL_CREATE_VECTOR:
		*(struct vexfs_create_vector *)self->arg = CREATE();
		break;
	case VEXFS_IOCTL_BATCH_OPERATIONS:
		*(struct vexfs_batch *)self->arg = (struct vexfs_batch){
			.op = VEXFS_OP_INSERT, .count = 1, .vectors = PTR(self->vector) };
		break;
	case VEXFS_IOCTL_SIMILARITY_SEARCH:
		*(struct vexfs_search *)self->arg = (struct vexfs_search){
			.nq = 1, .k = 4, .queries = PTR(self->vector), .hits = PTR(self->hits) };
		break;
	case VEXFS_IOCTL_BUILD_INDEX:
		*(struct vexfs_build_index *)self->arg = (struct vexfs_build_index){
			.index_kind = VEXFS_INDEX_EXACT };
		break;
	case VEXFS_IOCTL_GET_INDEX_STATS: {
		struct vexfs_build_index build = { .size = sizeof(build),
						   .index_kind = VEXFS_INDEX_HNSW };

		OK(ioctl(self->fd, VEXFS_IOCTL_BUILD_INDEX, &build));
		*(struct vexfs_index_stats *)self->arg = (struct vexfs_index_stats){
			.index_kind = VEXFS_INDEX_HNSW };
		break;
	}
	}
	*(uint32_t *)self->arg = variant->size;
}
BOX_TEARDOWN(abi)

#define ABI_CASE(name) TEST_F_TIMEOUT(abi, name, CASE_SECONDS)
#define CALL(arg) ERR(ioctl(self->fd, variant->command, arg))

ABI_CASE(the_right_size_works)
{
	EXPECT_EQ(0, CALL(self->arg));
	EXPECT_EQ(variant->size, *(uint32_t *)self->arg);
}

ABI_CASE(the_right_size_works_at_the_end_of_memory)
{
	unsigned char *end = self->arg + 4096 - variant->size;

	memmove(end, self->arg, variant->size);
	EXPECT_EQ(0, CALL(end));
}

ABI_CASE(a_smaller_size_is_einval)
{
	for (unsigned int size = 0; size < variant->first; size++) {
		*(uint32_t *)self->arg = size;
		ASSERT_EQ(EINVAL, CALL(self->arg)) TH_LOG("size %u", size);
	}
}

ABI_CASE(the_first_size_works_and_nothing_is_written_behind_it)
{
	*(uint32_t *)self->arg = variant->first;
	memset(self->arg + variant->first, 0x5a, 256);
	EXPECT_EQ(0, CALL(self->arg));
	for (int i = 0; i < 256; i++)
		EXPECT_EQ(0x5a, self->arg[variant->first + i]);
}

ABI_CASE(a_larger_size_with_a_zero_tail_works)
{
	*(uint32_t *)self->arg = variant->size + 8;
	EXPECT_EQ(0, CALL(self->arg));
}

ABI_CASE(a_much_larger_size_with_a_zero_tail_works)
{
	*(uint32_t *)self->arg = 4096;
	EXPECT_EQ(0, CALL(self->arg));
}

ABI_CASE(a_dirty_tail_is_e2big)
{
	for (int at = variant->size; at < 4096; at += 491) {
		self->arg[at] = 1;
		*(uint32_t *)self->arg = 4096;
		ASSERT_EQ(E2BIG, CALL(self->arg)) TH_LOG("byte %d", at);
		self->arg[at] = 0;
	}
	self->arg[4095] = 1;
	EXPECT_EQ(E2BIG, CALL(self->arg));
	/* A dirty byte behind the given size is nobody's business. */
	*(uint32_t *)self->arg = variant->size;
	EXPECT_EQ(0, CALL(self->arg));
}

ABI_CASE(huge_sizes_fail)
{
	static const uint32_t sizes[] = { 8192, 65536, 1u << 30, 0x7fffffff, 0x80000000, ~0u };

	for (int i = 0; i < 6; i++) {
		int err;

		*(uint32_t *)self->arg = sizes[i];
		err = CALL(self->arg);
		EXPECT_TRUE(err == E2BIG || err == EFAULT) TH_LOG("%u: %s", sizes[i], strerror(err));
	}
}

ABI_CASE(unmapped_arguments_are_efault)
{
	EXPECT_EQ(EFAULT, CALL(NOWHERE));
	EXPECT_EQ(EFAULT, CALL(NULL));
	EXPECT_EQ(EFAULT, CALL((void *)-4096l));
	EXPECT_EQ(EFAULT, CALL((void *)0xffff888000000000ul));
	/* The size is readable, the rest is not. */
	memcpy(self->arg + 4096 - 8, self->arg, 8);
	EXPECT_EQ(EFAULT, CALL(self->arg + 4096 - 8));
	memcpy(self->arg + 4096 - variant->size + 4, self->arg, variant->size - 4);
	EXPECT_EQ(EFAULT, CALL(self->arg + 4096 - variant->size + 4));
}

ABI_CASE(every_unknown_flag_is_einval)
{
	uint32_t known = 0;

	if (variant->command == VEXFS_IOCTL_BATCH_OPERATIONS)
		known = 7;
	if (variant->command == VEXFS_IOCTL_SIMILARITY_SEARCH)
		known = 31;
	if (variant->command == VEXFS_IOCTL_BUILD_INDEX)
		known = VEXFS_BUILD_REPLACE | VEXFS_BUILD_DROP | VEXFS_BUILD_BACKGROUND;
	if (variant->command == VEXFS_IOCTL_GET_INDEX_STATS)
		known = VEXFS_INDEX_STATS_DIGEST;
	for (int bit = 0; bit < 32; bit++) {
		if (known & 1u << bit)
			continue;
		((uint32_t *)self->arg)[1] = 1u << bit;
		ASSERT_EQ(EINVAL, CALL(self->arg)) TH_LOG("bit %d", bit);
	}
}

ABI_CASE(the_size_in_the_command_does_not_matter)
{
	unsigned long cmd = variant->command & ~((unsigned long)_IOC_SIZEMASK << _IOC_SIZESHIFT);

	EXPECT_EQ(0, ERR(ioctl(self->fd, cmd | 8ul << _IOC_SIZESHIFT, self->arg)));
}

ABI_CASE(read_only_arguments_do_not_lose_changes_silently)
{
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	memcpy(page, self->arg, variant->size);
	OK(mprotect(page, 4096, PROT_READ));
	err = CALL(page);
	/* BUILD_INDEX has nothing to write; the others say that they could not. */
	if (variant->command == VEXFS_IOCTL_BUILD_INDEX) {
		EXPECT_TRUE(err == 0 || err == EFAULT);
	} else {
		EXPECT_EQ(EFAULT, err);
	}
}

ABI_CASE(files_without_vectors_are_enotty)
{
	int want = variant->command == VEXFS_IOCTL_CREATE_VECTOR ? EOPNOTSUPP : ENOTTY;
	int fd, err, pair[2];

	if (variant->command != VEXFS_IOCTL_CREATE_VECTOR) {
		fd = open("plain", O_RDWR | O_CREAT, 0644);
		EXPECT_EQ(ENOTTY, ERR(ioctl(fd, variant->command, self->arg)));
		EXPECT_EQ(1, write(fd, "x", 1));
		EXPECT_EQ(ENOTTY, ERR(ioctl(fd, variant->command, self->arg)));
	}
	/* A directory cannot be open for writing either. */
	err = ERR(ioctl(open(".", O_RDONLY), variant->command, self->arg));
	EXPECT_TRUE(err == want || err == EBADF) TH_LOG("directory: %s", strerror(err));
	OK(mkfifo("fifo", 0644));
	fd = open("fifo", O_RDWR);
	EXPECT_EQ(ENOTTY, ERR(ioctl(fd, variant->command, self->arg)));
	fd = open("f", O_PATH);
	EXPECT_EQ(EBADF, ERR(ioctl(fd, variant->command, self->arg)));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	EXPECT_EQ(ENOTTY, ERR(ioctl(fd, variant->command, self->arg)));
	OK(pipe(pair));
	EXPECT_EQ(ENOTTY, ERR(ioctl(pair[0], variant->command, self->arg)));
	fd = memfd_create("other", 0);
	EXPECT_EQ(ENOTTY, ERR(ioctl(fd, variant->command, self->arg)));
	EXPECT_EQ(EBADF, ERR(ioctl(-1, variant->command, self->arg)));
}

ABI_CASE(padding_must_be_zero)
{
	struct { unsigned long command; int offset, len; } pads[] = {
		{ VEXFS_IOCTL_CREATE_VECTOR, offsetof(struct vexfs_create_vector, reserved), 4 },
		{ VEXFS_IOCTL_BATCH_OPERATIONS, offsetof(struct vexfs_batch, reserved), 16 },
		{ VEXFS_IOCTL_BUILD_INDEX, offsetof(struct vexfs_build_index, reserved), 24 },
		{ VEXFS_IOCTL_GET_INDEX_STATS, offsetof(struct vexfs_index_stats, reserved), 16 },
	};

	for (int i = 0; i < 4; i++)
		for (int at = 0; pads[i].command == variant->command && at < pads[i].len; at++) {
			self->arg[pads[i].offset + at] = 0x80;
			ASSERT_EQ(EINVAL, CALL(self->arg)) TH_LOG("padding byte %d", at);
			self->arg[pads[i].offset + at] = 0;
		}
}

CASE(stats_wants_no_flags_and_fills_everything)
{
	int fd = container("f", 8, VEXFS_METRIC_DOT);
	struct vexfs_vector_stats st;

	memset(&st, 0xff, sizeof(st));
	st.size = sizeof(st);
	st.flags = 0;
	/* The reserved words are output, so what is in them does not matter. */
	EXPECT_EQ(0, ERR(ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st)));
	for (int i = 0; i < 7; i++) {
		EXPECT_EQ(0, st.reserved[i]);
	}
	EXPECT_EQ(0, st.flags);
	EXPECT_EQ(VEXFS_METRIC_DOT, st.metric);
	EXPECT_EQ(0, st.searches);
	fd = open("f", O_WRONLY);
	EXPECT_EQ(EBADF, ERR(ioctl(fd, VEXFS_IOCTL_GET_VECTOR_STATS, &st)));
}

CASE(unknown_commands_are_enotty)
{
	int fd = container("f", 8, VEXFS_METRIC_L2);
	char arg[256] = { 0 };

	for (int nr = 0; nr < 256; nr++) {
		if (nr >= 1 && nr <= 7)
			continue;
		EXPECT_EQ(ENOTTY, ERR(ioctl(fd, _IOWR(VEXFS_IOCTL_MAGIC, nr, char[64]), arg)));
	}
	EXPECT_EQ(ENOTTY, ERR(ioctl(fd, _IOWR('V', 1, char[64]), arg)));
}

CASE(a_container_is_told_from_a_plain_file_by_stats_only)
{
	int fd = container("f", 8, VEXFS_METRIC_L2);
	struct stat st;

	OK(fstat(fd, &st));
	EXPECT_TRUE(S_ISREG(st.st_mode));
	EXPECT_EQ(1, st.st_nlink);
	OK(fchmod(fd, 0600));
	OK(link("f", "g"));
	OK(rename("g", "h"));
	EXPECT_EQ(8, stats_of(open("h", O_RDONLY)).dim);
	OK(unlink("f"));
	OK(unlink("h"));
	EXPECT_EQ(8, stats_of(fd).dim);
}

CASE(unlinking_a_container_gives_all_its_space_back)
{
	float *rows = new_rows(1, 0, 2000, 128);
	uint64_t keys[2000];
	struct statfs before, after;

	sync();
	OK(statfs(".", &before));
	for (int round = 0; round < 3; round++) {
		int fd = container("f", 128, VEXFS_METRIC_L2);

		for (int i = 0; i < 2000; i++)
			keys[i] = i * 77777777777ull;
		OK(insert(fd, rows, keys, 2000));
		OK(delete_keys(fd, keys, 700));
		OK(fsync(fd));
		close(fd);
		OK(unlink("f"));
	}
	sync();
	OK(statfs(".", &after));
	EXPECT_LE((long)before.f_bfree - 8, (long)after.f_bfree);
	EXPECT_LE((long)before.f_ffree, (long)after.f_ffree);
}

TEST_HARNESS_MAIN
