# SPDX-License-Identifier: Apache-2.0
"""Client for VexFS vector containers; standard library only.

    import vexfs

    with vexfs.create("/mnt/notes.vec", dim=3, metric=vexfs.COSINE) as notes:
        notes.insert([[1, 0, 0], [0.6, 0.8, 0]], keys=[10, 20])
        [hits] = notes.search([[0, 1, 0]], k=1)
        assert hits[0].key == 20

Vectors go in as rows of numbers, or as any object with the buffer protocol that holds
elements of the container's type, such as an array.array or a numpy array:

    type     buffer of               numbers           a row of `get`
    F32      float32                 rounded           array.array("f")
    F16      float16                 rounded           array.array("f")
    BF16     uint16, their bits      rounded           array.array("f")
    I8, U8   int8, uint8             integers only     array.array("b"), ("B")
    BINARY   uint8, packed bits      0 and 1           bytes, packed

A number beyond the range of the type is an OverflowError. Bits are packed as
numpy.packbits(rows, axis=1, bitorder="little") does it: every row begins with a byte. To read
a whole container without a copy, map its file:

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

__all__ = ["Container", "Error", "Hit", "Row", "create", "open", "L2", "COSINE", "DOT", "HAMMING",
           "F32", "F16", "BF16", "I8", "U8", "BINARY", "NBITS_F16"]

L2, COSINE, DOT, HAMMING = range(1, 5)
AUTO, EXACT, HNSW, IVF, PQ, LSH = range(6)
F32, F16, BF16, I8, U8, BINARY = range(1, 7)
KEY_NONE = ROW_NONE = 2**64 - 1
MAX_RESULTS = 16777216
NBITS_F16 = 0x110    # HNSW over F32: codes of float16, where nbits=16 alone is bfloat16

_INSERT, _UPSERT, _DELETE, _GET = 1, 2, 3, 4
_BY_ROW, _SKIP_MISSING, _REUSE = 1, 2, 4
_RADIUS, _TAGS_ALL, _TAGS_ANY, _ROW_BITMAP, _KEYS = 1, 2, 4, 8, 16
_PARTIAL = 1
_REPLACE, _DROP, _BACKGROUND = 1, 2, 4
_DIGEST = 1
BUILDING, READY, REBUILDING, STORED, UNUSABLE, FAILED = 1, 2, 3, 4, 5, 6

# The structures of uapi/vexfs.h, without padding, in native byte order.
_CREATE = struct.Struct("=6I2Q2I")
_BATCH = struct.Struct("=4I8Q2Q")
_SEARCH = struct.Struct("=8IQ2I13Q2I")
_STATS = struct.Struct("=8I12QI7I")
_BUILD = struct.Struct("=10I6I")
_CHECK = struct.Struct("=4I6Q2Q")
_REPAIR = 1
_INDEX_STATS = struct.Struct("=6I5Q6I2Q2Q")
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
_IOC_CHECK = _iowr(7, _CHECK)

Hit = collections.namedtuple("Hit", "key row distance")
Row = collections.namedtuple("Row", "key row tags vector")

_STATS_FIELDS = (
    "dim element_type metric stride alignment isa rows live durable_rows generation model_tag "
    "bytes_on_disk inserted deleted searches distances insert_ns search_ns index_count"
).split()

_CHECK_FIELDS = "rows faults unreachable wrong_codes wrong_rows bad_images".split()
_INDEX_STATS_FIELDS = (
    "state m ef_construction nodes deleted watermark resident_bytes digest nlist nsub nbits ntables "
    "trained build_error build_watermark build_rows"
).split()


class Error(OSError):
    """What the kernel refused; `row` is the row of the batch it is about, or None."""

    row = None


def _u64s(numbers):
    """Numbers as an array that the kernel can read, or None."""
    return None if numbers is None else array.array("Q", numbers)


def _address(buffer):
    """Where an array lies; 0 for None. The caller keeps it alive and its size."""
    return 0 if buffer is None else buffer.buffer_info()[0]


# The format of a buffer of each element type, and bits of an element.
_FORMATS = {F32: "f", F16: "e", BF16: "H", I8: "b", U8: "B", BINARY: "B"}
_NAMES = {F32: "float32", F16: "float16", BF16: "uint16, the bits of bfloat16", I8: "int8",
          U8: "uint8", BINARY: "uint8, packed bits"}
_BITS = {F32: 32, F16: 16, BF16: 16, I8: 8, U8: 8, BINARY: 1}


def _bfloat16(number):
    """The bits of the nearest bfloat16, ties to even."""
    bits, = struct.unpack("=I", struct.pack("=f", number))
    if number != number:
        return bits >> 16 | 1
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    if rounded & 0x7FFF == 0x7F80 and abs(number) != float("inf"):
        raise OverflowError(f"{number} is beyond bfloat16")
    return rounded


def _row(row, dim, element_type):
    """The bytes of a row of numbers."""
    if element_type == BINARY and isinstance(row, (bytes, bytearray, memoryview)):
        row = bytes(row)
        if len(row) != (dim + 7) // 8:
            raise ValueError(f"a row has {len(row)} bytes of bits where {(dim + 7) // 8} are wanted")
        return row
    row = list(row)
    if len(row) != dim:
        raise ValueError(f"a row has {len(row)} elements where {dim} are wanted")
    if element_type == BINARY:
        if any(bit not in (0, 1) for bit in row):
            raise ValueError("a bit is neither 0 nor 1")
        packed = sum(int(bit) << i for i, bit in enumerate(row))
        return packed.to_bytes((dim + 7) // 8, "little")
    if element_type == BF16:
        return array.array("H", map(_bfloat16, row)).tobytes()
    if element_type == F16:
        return struct.pack(f"={dim}e", *row)
    return array.array(_FORMATS[element_type], row).tobytes()


def _packed(rows, dim, element_type):
    """Rows as an array of bytes, and their number."""
    packed, row_bytes = array.array("B"), (dim * _BITS[element_type] + 7) // 8
    try:
        view = memoryview(rows)
    except TypeError:
        for row in rows:
            packed.frombytes(_row(row, dim, element_type))
    else:
        wanted = _FORMATS[element_type]
        if view.format not in (wanted, ("<" if sys.byteorder == "little" else ">") + wanted):
            raise TypeError(f"elements have the format {view.format!r}; pass {_NAMES[element_type]}")
        if view.ndim == 2 and view.shape[1] * view.itemsize != row_bytes:
            raise ValueError(f"rows have {view.shape[1]} elements where {row_bytes // view.itemsize} are wanted")
        packed.frombytes(view.tobytes())
    if not packed or len(packed) % row_bytes:
        raise ValueError(f"{len(packed)} bytes are not rows of {row_bytes}; pass at least one whole row")
    return packed, len(packed) // row_bytes


def _unpacked(packed, dim, element_type):
    """One row's bytes as `get` returns it."""
    if element_type == BINARY:
        return packed.tobytes()
    if element_type == F16:
        return array.array("f", struct.unpack(f"={dim}e", packed))
    if element_type == BF16:
        words = struct.unpack(f"={dim}H", packed)
        return array.array("f", struct.pack(f"={dim}I", *(word << 16 for word in words)))
    return array.array(_FORMATS[element_type], packed.tobytes())


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
        stats = self.stats()
        self.element_type = stats["element_type"]
        if self.element_type not in _BITS:
            raise ValueError(f"{path} holds elements of an unknown type; use a newer client")
        self.dim = stats["dim"]
        self._row_bytes = (self.dim * _BITS[self.element_type] + 7) // 8
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

    def _write(self, op, rows, keys, tags, reuse):
        vectors, count = _packed(rows, self.dim, self.element_type)
        keys, tags = _column(keys, count, "keys"), _column(tags, count, "tags")
        numbers = array.array("Q", [ROW_NONE]) * count if reuse else None
        first = self._batch(op, count, _REUSE if reuse else 0, self._row_bytes, vectors, keys, tags, numbers)[1]
        return list(numbers) if reuse else first

    def insert(self, rows, keys=None, tags=None, reuse=False):
        """Adds rows, all or none; returns the number of the first, the others follow.

        With `reuse` they may take the places and the numbers of deleted ones, so that the file need not
        grow; returns the number of each then.
        """
        return self._write(_INSERT, rows, keys, tags, reuse)

    def upsert(self, rows, keys, tags=None, reuse=False):
        """Adds rows or replaces those that have the key, all or none; returns as `insert`."""
        return self._write(_UPSERT, rows, keys, tags, reuse)

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
        size = self._row_bytes
        vectors = array.array("B", bytes(size * count))
        tags = array.array("Q", bytes(8 * count))
        other = array.array("Q", [ROW_NONE]) * count
        keys, rows = (other, which) if by_row else (which, other)
        self._batch(_GET, count, by_row, size, vectors, keys, tags, rows)
        return [
            None if other[i] == ROW_NONE else
            Row(keys[i], rows[i], tags[i],
                _unpacked(vectors[i * size:(i + 1) * size], self.dim, self.element_type))
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
        queries, nq = _packed(queries, self.dim, self.element_type)
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
            flags, nq, k, index, ef, nprobe, rerank, _address(queries), self._row_bytes, radius_bits,
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

    def build_index(self, kind=HNSW, m=0, ef_construction=0, replace=False, nlist=0, nsub=0, nbits=0,
                    ntables=0, threads=0, background=False):
        """Builds an index; 0 is the kernel's default. `replace` builds anew where there is one.

        `ntables` is the number of hash tables (LSH), or of lists that a row is in, 1 or 2 (IVF).
        `nbits` are those of a code for each element (HNSW: 1, 4, 8, or 16 and 32 for elements as they
        are or rounded, or NBITS_F16), for a part of them (IVF, PQ), or of a hash (LSH).

        With `background` it returns at once: index_stats() tells how far it is.
        """
        self._call(_IOC_BUILD, _BUILD, (
            (_REPLACE if replace else 0) | (_BACKGROUND if background else 0), kind, m, ef_construction,
            nlist, nsub, nbits, ntables, threads, *(0,) * 6))

    def drop_index(self, kind=HNSW):
        """Drops an index, or ends its build."""
        self._call(_IOC_BUILD, _BUILD, (_DROP, kind, *(0,) * 13))

    def index_stats(self, kind=HNSW, digest=False):
        """What an index is, as a dict; the names are those of vexfs.h."""
        out = self._call(_IOC_INDEX_STATS, _INDEX_STATS, (
            _DIGEST if digest else 0, kind, *(0,) * 18))
        return dict(zip(_INDEX_STATS_FIELDS, out[3:]))

    def check_index(self, kind=HNSW, repair=False):
        """What is wrong with an index, as a dict; with repair, it is built anew if anything is."""
        out = self._call(_IOC_CHECK, _CHECK, (_REPAIR if repair else 0, kind, *(0,) * 9))
        return dict(zip(_CHECK_FIELDS, out[4:]))

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


def create(path, dim, metric=COSINE, alignment=0, model_tag=0, reserve_rows=0, element_type=F32):
    """Makes a new or empty file a container and opens it for writing."""
    try:
        fd, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
    except FileExistsError:
        fd, new = os.open(path, os.O_RDWR | os.O_CLOEXEC), False
    try:
        buffer = bytearray(_CREATE.pack(
            _CREATE.size, 0, dim, element_type, metric, alignment, model_tag, reserve_rows, 0, 0))
        fcntl.ioctl(fd, _IOC_CREATE, buffer, True)
        return Container(fd, path)
    except BaseException:
        os.close(fd)
        if new:
            os.unlink(path)
        raise
