# SPDX-License-Identifier: Apache-2.0
"""Client for VexFS vector containers; standard library only.

    import vexfs

    with vexfs.create("/mnt/notes.vec", dim=3, metric=vexfs.COSINE) as notes:
        notes.insert([[1, 0, 0], [0.6, 0.8, 0]], keys=[10, 20])
        [hits] = notes.search([[0, 1, 0]], k=1)
        assert hits[0].key == 20

Vectors go in as rows of numbers, or as any object with the buffer protocol that
holds float32 elements, such as an array.array("f") or a numpy array. They come
out as array.array("f"). To read a whole container without a copy, map its file:

    numpy.memmap("/mnt/notes.vec", "<f4", "r").reshape(-1, dim)    # stride == 4 * dim

Every call is one call of the kernel, and as atomic: after an exception a batch has
changed nothing. Errors are OSError with the kernel's errno; `row` is the row of the
batch it is about, or None.
"""
import array
import collections
import fcntl
import os
import struct
import sys

__all__ = ["Container", "Error", "Hit", "Row", "create", "open", "L2", "COSINE", "DOT"]

L2, COSINE, DOT = 1, 2, 3
AUTO, EXACT, HNSW, IVF, PQ, LSH = range(6)
F32 = 1
KEY_NONE = ROW_NONE = 2**64 - 1
MAX_RESULTS = 16777216

_INSERT, _UPSERT, _DELETE, _GET = 1, 2, 3, 4
_BY_ROW, _SKIP_MISSING = 1, 2
_RADIUS, _TAGS_ALL, _TAGS_ANY, _ROW_BITMAP, _KEYS = 1, 2, 4, 8, 16
_PARTIAL = 1
_REPLACE, _DROP = 1, 2
_DIGEST = 1
BUILDING, READY, REBUILDING = 1, 2, 3

# The structures of uapi/vexfs.h, without padding, in native byte order.
_CREATE = struct.Struct("=6I2Q2I")
_BATCH = struct.Struct("=4I8Q2Q")
_SEARCH = struct.Struct("=8IQ2I13Q2I")
_STATS = struct.Struct("=8I12QI7I")
_BUILD = struct.Struct("=9I7I")
_INDEX_STATS = struct.Struct("=6I5Q4Q")
_HIT = struct.Struct("=2Q2I")


def _iowr(number, layout):
    """The command number of _IOWR(0xC5, number, layout)."""
    return 3 << 30 | layout.size << 16 | 0xC5 << 8 | number


_IOC_CREATE = _iowr(1, _CREATE)
_IOC_BATCH = _iowr(2, _BATCH)
_IOC_SEARCH = _iowr(3, _SEARCH)
_IOC_BUILD = _iowr(4, _BUILD)
_IOC_STATS = _iowr(5, _STATS)
_IOC_INDEX_STATS = _iowr(6, _INDEX_STATS)

Hit = collections.namedtuple("Hit", "key row distance")
Row = collections.namedtuple("Row", "key row tags vector")

_STATS_FIELDS = (
    "dim element_type metric stride alignment isa rows live durable_rows generation model_tag "
    "bytes_on_disk inserted deleted searches distances insert_ns search_ns index_count"
).split()

_INDEX_STATS_FIELDS = "state m ef_construction nodes deleted watermark resident_bytes digest".split()


class Error(OSError):
    """What the kernel refused; `row` is the row of the batch it is about, or None."""

    row = None


def _u64s(numbers):
    """Numbers as an array that the kernel can read, or None."""
    return None if numbers is None else array.array("Q", numbers)


def _address(buffer):
    """Where an array lies; 0 for None. The caller keeps it alive and its size."""
    return 0 if buffer is None else buffer.buffer_info()[0]


def _floats(rows, dim):
    """Rows as a flat array of float32 and their number."""
    flat = array.array("f")
    try:
        view = memoryview(rows)
    except TypeError:
        for row in rows:
            row = array.array("f", row)
            if len(row) != dim:
                raise ValueError(f"a row has {len(row)} elements where {dim} are wanted") from None
            flat.extend(row)
    else:
        if view.format not in ("f", "<f" if sys.byteorder == "little" else ">f"):
            raise TypeError(f"elements have the format {view.format!r}; pass float32")
        if view.ndim == 2 and view.shape[1] != dim:
            raise ValueError(f"rows have {view.shape[1]} elements where {dim} are wanted")
        flat.frombytes(view.tobytes())
    if not flat or len(flat) % dim:
        raise ValueError(f"{len(flat)} elements are not rows of {dim}; pass at least one whole row")
    return flat, len(flat) // dim


def _column(numbers, count, what):
    numbers = _u64s(numbers)
    if numbers is not None and len(numbers) != count:
        raise ValueError(f"{len(numbers)} {what} for {count} rows; pass one for each row")
    return numbers


class Container:
    """An open vector container; made by `create` and `open`."""

    def __init__(self, fd, path):
        self._fd = fd
        self.path = path
        self.dim = None
        stats = self.stats()
        if stats["element_type"] != F32:
            raise ValueError(f"{path} does not hold f32 elements; use a newer client")
        self.dim = stats["dim"]
        self.metric = stats["metric"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the file. Batches are atomic, so nothing is lost but durability: see `sync`."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def fileno(self):
        """The file descriptor, for select and mmap."""
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    def _call(self, command, layout, values):
        """One ioctl; returns the fields that came back."""
        buffer = bytearray(layout.pack(layout.size, *values))
        try:
            fcntl.ioctl(self.fileno(), command, buffer, True)
        except OSError as e:
            error = Error(e.errno, os.strerror(e.errno), str(self.path))
            if layout is _BATCH:
                row = layout.unpack(buffer)[11]
                error.row = None if row == ROW_NONE else row
            raise error from None
        return layout.unpack(buffer)

    def _batch(self, op, count, flags=0, stride=0, vectors=None, keys=None, tags=None, rows=None):
        """One batch; returns (done, first_row). The arrays live in the caller's frame."""
        out = self._call(_IOC_BATCH, _BATCH, (
            flags, op, stride, count, _address(vectors), _address(keys), _address(tags),
            _address(rows), 0, 0, ROW_NONE, 0, 0))
        return out[9], out[10]

    def _write(self, op, rows, keys, tags):
        vectors, count = _floats(rows, self.dim)
        keys, tags = _column(keys, count, "keys"), _column(tags, count, "tags")
        return self._batch(op, count, stride=4 * self.dim, vectors=vectors, keys=keys, tags=tags)[1]

    def insert(self, rows, keys=None, tags=None):
        """Adds rows, all or none; returns the number of the first, the others follow."""
        return self._write(_INSERT, rows, keys, tags)

    def upsert(self, rows, keys, tags=None):
        """Adds rows or replaces those that have the key, all or none; returns as `insert`."""
        return self._write(_UPSERT, rows, keys, tags)

    @staticmethod
    def _select(keys, rows):
        if (keys is None) == (rows is None):
            raise TypeError("name rows either by keys= or by rows=")
        return _u64s(keys if rows is None else rows), _BY_ROW if keys is None else 0

    def delete(self, keys=None, rows=None, skip_missing=False):
        """Deletes rows by key or number, all or none; returns how many."""
        which, by_row = self._select(keys, rows)
        if not which:
            return 0
        flags = by_row | (_SKIP_MISSING if skip_missing else 0)
        name = "rows" if by_row else "keys"
        return self._batch(_DELETE, len(which), flags, **{name: which})[0]

    def get(self, keys=None, rows=None):
        """Rows by key or number: a list of Row, with None for each that is missing."""
        which, by_row = self._select(keys, rows)
        count = len(which)
        if not count:
            return []
        vectors = array.array("f", bytes(4 * self.dim * count))
        tags = array.array("Q", bytes(8 * count))
        other = array.array("Q", [ROW_NONE]) * count
        keys, rows = (other, which) if by_row else (which, other)
        self._batch(_GET, count, by_row, 4 * self.dim, vectors, keys, tags, rows)
        return [
            None if other[i] == ROW_NONE else
            Row(keys[i], rows[i], tags[i], vectors[i * self.dim:(i + 1) * self.dim])
            for i in range(count)
        ]

    def search(self, queries, k=10, index=AUTO, ef=0, nprobe=0, rerank=0, radius=None,
               tags_all=None, tags_any=None, keys=None, row_bitmap=None, budget_ns=0, threads=0,
               counters=None):
        """The nearest rows of each query: a list of lists of Hit, nearest first.

        `keys` are the only keys wanted; `row_bitmap` has bit i % 64 of word i // 64 set for
        each row i wanted. `threads` are the processors to use. A dict in `counters` takes
        what the search cost.
        """
        queries, nq = _floats(queries, self.dim)
        if not 1 <= nq * k <= MAX_RESULTS:
            raise ValueError(f"{nq} queries for {k} hits each: at least 1 and at most {MAX_RESULTS} hits")
        keys, row_bitmap = _u64s(keys), _u64s(row_bitmap)
        flags = 0
        for value, flag in ((radius, _RADIUS), (tags_all, _TAGS_ALL), (tags_any, _TAGS_ANY),
                            (row_bitmap, _ROW_BITMAP), (keys, _KEYS)):
            flags |= 0 if value is None else flag
        radius_bits, = struct.unpack("=I", struct.pack("=f", radius or 0.0))
        hits = array.array("B", bytes(nq * k * _HIT.size))
        counts = array.array("I", bytes(4 * nq))
        out = self._call(_IOC_SEARCH, _SEARCH, (
            flags, nq, k, index, ef, nprobe, rerank, _address(queries), 4 * self.dim, radius_bits,
            _address(hits), _address(counts), tags_all or 0, tags_any or 0, _address(row_bitmap),
            64 * len(row_bitmap or ()), _address(keys), len(keys or ()), budget_ns, 0, 0, 0, 0, 0, threads))
        if counters is not None:
            names = ("distances", "hops", "rows_exact", "elapsed_ns")
            counters.update(zip(names, out[-6:-2]), partial=bool(out[-2] & _PARTIAL))
        found = []
        for q in range(nq):
            some = memoryview(hits)[q * k * _HIT.size:(q * k + counts[q]) * _HIT.size]
            found.append([
                Hit(key, row, struct.unpack("=f", struct.pack("=I", distance))[0])
                for key, row, distance, _ in _HIT.iter_unpack(some)
            ])
        return found

    def build_index(self, kind=HNSW, m=0, ef_construction=0, replace=False):
        """Builds an index; 0 is the kernel's default. `replace` builds anew where there is one."""
        self._call(_IOC_BUILD, _BUILD, (
            _REPLACE if replace else 0, kind, m, ef_construction, *(0,) * 11))

    def drop_index(self, kind=HNSW):
        """Drops an index, or ends its build."""
        self._call(_IOC_BUILD, _BUILD, (_DROP, kind, *(0,) * 13))

    def index_stats(self, kind=HNSW, digest=False):
        """What an index is, as a dict; the names are those of vexfs.h."""
        out = self._call(_IOC_INDEX_STATS, _INDEX_STATS, (
            _DIGEST if digest else 0, kind, *(0,) * 12))
        return dict(zip(_INDEX_STATS_FIELDS, out[3:]))

    def stats(self):
        """What the container is and has done, as a dict; the names are those of vexfs.h."""
        out = self._call(_IOC_STATS, _STATS, (0,) * 27)
        return dict(zip(_STATS_FIELDS, out[2:]))

    def sync(self):
        """Returns when every batch so far is on the disk."""
        os.fsync(self.fileno())

    def __len__(self):
        return self.stats()["live"]


def open(path, writable=False):  # pylint: disable=redefined-builtin
    """Opens a container."""
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        return Container(fd, path)
    except BaseException:
        os.close(fd)
        raise


def create(path, dim, metric=COSINE, alignment=0, model_tag=0, reserve_rows=0):
    """Makes a new or empty file a container and opens it for writing."""
    try:
        fd, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
    except FileExistsError:
        fd, new = os.open(path, os.O_RDWR | os.O_CLOEXEC), False
    try:
        buffer = bytearray(_CREATE.pack(
            _CREATE.size, 0, dim, F32, metric, alignment, model_tag, reserve_rows, 0, 0))
        fcntl.ioctl(fd, _IOC_CREATE, buffer, True)
        return Container(fd, path)
    except BaseException:
        os.close(fd)
        if new:
            os.unlink(path)
        raise
