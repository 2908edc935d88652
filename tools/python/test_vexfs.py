# SPDX-License-Identifier: Apache-2.0
"""Tests of the Python client that need no kernel module: python3 -m unittest.

The structures are compared with uapi/vexfs.h; calls go to a stand-in for ioctl that
reads the client's memory where the structure says it is, as the kernel would. With
VEXFS_TEST_DIR set to a directory of a mounted volume, the client also runs on that.
"""
import array
import ctypes
import errno
import os
import pathlib
import re
import struct
import tempfile
import unittest
from unittest import mock

import vexfs

HEADER = pathlib.Path(__file__).resolve().parents[2] / "uapi" / "vexfs.h"
# pylint: disable=protected-access


def header_struct(name):
    """The struct format of a structure of the header, and its field names."""
    body = re.search(r"struct " + name + r" \{(.*?)\};", HEADER.read_text(), re.S)[1]
    fields = re.findall(r"__u(32|64) (\w+)(?:\[(\d+)\])?;", body)
    codes = {"32": "I", "64": "Q"}
    return "=" + "".join(codes[w] * int(n or 1) for w, _, n in fields), [f for _, f, _ in fields]


class Layout(unittest.TestCase):
    def test_structures_are_those_of_the_header(self):
        for name, mine in (("vexfs_create_vector", vexfs._CREATE), ("vexfs_batch", vexfs._BATCH),
                           ("vexfs_search", vexfs._SEARCH), ("vexfs_vector_stats", vexfs._STATS),
                           ("vexfs_hit", vexfs._HIT), ("vexfs_build_index", vexfs._BUILD),
                           ("vexfs_index_stats", vexfs._INDEX_STATS),
                           ("vexfs_index_check", vexfs._CHECK)):
            expanded = "=" + "".join(c * int(n or 1) for n, c in re.findall(r"(\d*)([IQ])", mine.format))
            self.assertEqual(expanded, header_struct(name)[0], name)
        self.assertEqual(header_struct("vexfs_vector_stats")[1][2:-1], vexfs._STATS_FIELDS)
        self.assertEqual(header_struct("vexfs_index_stats")[1][3:-1], vexfs._INDEX_STATS_FIELDS)
        self.assertEqual(header_struct("vexfs_index_check")[1][4:-1], vexfs._CHECK_FIELDS)

    def test_constants_are_those_of_the_header(self):
        defined = dict(re.findall(r"#define VEXFS_(\w+)\s+\(?(\w+(?: << \d+)?)", HEADER.read_text()))
        mine = {
            "METRIC_L2": vexfs.L2, "METRIC_COSINE": vexfs.COSINE, "METRIC_DOT": vexfs.DOT,
            "METRIC_HAMMING": vexfs.HAMMING, "ELEMENT_F16": vexfs.F16, "ELEMENT_BF16": vexfs.BF16,
            "ELEMENT_I8": vexfs.I8, "ELEMENT_U8": vexfs.U8, "ELEMENT_BINARY": vexfs.BINARY,
            "INDEX_AUTO": vexfs.AUTO, "INDEX_EXACT": vexfs.EXACT, "INDEX_HNSW": vexfs.HNSW,
            "INDEX_IVF": vexfs.IVF, "INDEX_PQ": vexfs.PQ, "INDEX_LSH": vexfs.LSH,
            "ELEMENT_F32": vexfs.F32, "MAX_RESULTS": vexfs.MAX_RESULTS,
            "OP_INSERT": vexfs._INSERT, "OP_UPSERT": vexfs._UPSERT, "OP_DELETE": vexfs._DELETE,
            "OP_GET": vexfs._GET, "BATCH_BY_ROW": vexfs._BY_ROW,
            "BATCH_SKIP_MISSING": vexfs._SKIP_MISSING, "BATCH_REUSE": vexfs._REUSE, "SEARCH_RADIUS": vexfs._RADIUS,
            "SEARCH_TAGS_ALL": vexfs._TAGS_ALL, "SEARCH_TAGS_ANY": vexfs._TAGS_ANY,
            "SEARCH_ROW_BITMAP": vexfs._ROW_BITMAP, "SEARCH_KEYS": vexfs._KEYS,
            "OUTCOME_PARTIAL": vexfs._PARTIAL, "BUILD_BACKGROUND": vexfs._BACKGROUND,
            "INDEX_FAILED": vexfs.FAILED,
            "BUILD_REPLACE": vexfs._REPLACE, "BUILD_DROP": vexfs._DROP,
            "INDEX_STATS_DIGEST": vexfs._DIGEST, "INDEX_BUILDING": vexfs.BUILDING,
            "INDEX_READY": vexfs.READY, "INDEX_REBUILDING": vexfs.REBUILDING,
            "INDEX_STORED": vexfs.STORED, "INDEX_UNUSABLE": vexfs.UNUSABLE, "CHECK_REPAIR": vexfs._REPAIR,
            "IOCTL_MAGIC": vexfs._IOC_STATS >> 8 & 0xFF,
        }
        for name, value in mine.items():
            text = defined[name]
            match = re.fullmatch(r"1U << (\d+)", text)
            self.assertEqual(1 << int(match[1]) if match else int(text, 0), value, name)

    def test_command_numbers(self):
        numbers = re.findall(r"_IOWR\(VEXFS_IOCTL_MAGIC, (\d), struct (\w+)\)", HEADER.read_text())
        mine = {"vexfs_create_vector": vexfs._IOC_CREATE, "vexfs_batch": vexfs._IOC_BATCH,
                "vexfs_search": vexfs._IOC_SEARCH, "vexfs_vector_stats": vexfs._IOC_STATS,
                "vexfs_build_index": vexfs._IOC_BUILD, "vexfs_index_stats": vexfs._IOC_INDEX_STATS,
                "vexfs_index_check": vexfs._IOC_CHECK}
        for number, name in numbers:
            if name in mine:
                size = struct.calcsize(header_struct(name)[0])
                self.assertEqual(mine[name], 3 << 30 | size << 16 | 0xC5 << 8 | int(number))


class StandIn:
    """Answers ioctls from memory: enough to see that the client's structures are right.

    There is one container, the one created last."""

    def __init__(self):
        self.shape = None
        self.rows = []
        self.threads = None

    def numbers(self, data):
        """The elements of rows: plain code beside the client's, as a kernel has it."""
        element_type, dim, _ = self.shape
        if element_type == 6:
            each = (dim + 7) // 8
            return [float(data[r + i // 8] >> i % 8 & 1) for r in range(0, len(data), each) for i in range(dim)]
        if element_type == 3:
            data = b"".join(bytes(2) + data[i:i + 2] for i in range(0, len(data), 2))
        return list(struct.unpack("=" + str(len(data) // {1: 4, 2: 2, 3: 4, 4: 1, 5: 1}[element_type]) +
                                  {1: "f", 2: "e", 3: "f", 4: "b", 5: "B"}[element_type], data))

    def row_bytes(self):
        element_type, dim, _ = self.shape
        return (dim * {1: 32, 2: 16, 3: 16, 4: 8, 5: 8, 6: 1}[element_type] + 7) // 8

    @staticmethod
    def read(address, count, code):
        kind = {"Q": ctypes.c_uint64, "B": ctypes.c_ubyte}[code]
        return list((kind * count).from_address(address)) if address else None

    @staticmethod
    def write(address, data):
        if address:
            ctypes.memmove(address, data, len(data))

    def __call__(self, _fd, command, buffer, _mutate):
        for name in ("create_vector", "batch", "search", "vector_stats"):
            layout, fields = header_struct("vexfs_" + name)
            if struct.calcsize(layout) == command >> 16 & 0x3FFF and \
                    command & 0xFF == {"create_vector": 1, "batch": 2, "search": 3, "vector_stats": 5}[name]:
                values = dict(zip(fields, struct.unpack(layout, buffer)))
                assert values["size"] == len(buffer)
                rest = struct.unpack(layout, buffer)[len(fields):]
                try:
                    getattr(self, name)(values)
                finally:
                    buffer[:] = struct.pack(layout, *values.values(), *rest)
                return 0
        raise OSError(errno.ENOTTY, "")

    def create_vector(self, v):
        self.shape, self.rows = (v["element_type"], v["dim"], v["metric"]), []
        v["stride"] = -(-self.row_bytes() // 4) * 4

    def vector_stats(self, v):
        element_type, dim, metric = self.shape
        v.update(dim=dim, element_type=element_type, metric=metric, live=len(self.rows), rows=len(self.rows))

    def batch(self, v):
        assert v["reserved"] == 0
        if v["op"] == 1:
            assert v["vector_stride"] == self.row_bytes()
            flat = bytes(self.read(v["vectors"], v["count"] * self.row_bytes(), "B"))
            keys = self.read(v["keys"], v["count"], "Q")
            tags = self.read(v["tags"], v["count"], "Q") or [0] * v["count"]
            for i in range(v["count"]):
                if keys and any(keys[i] == r[0] for r in self.rows):
                    v["error_row"] = i
                    raise OSError(errno.EEXIST, "")
            v["first_row"] = len(self.rows)
            for i in range(v["count"]):
                key = keys[i] if keys else len(self.rows)
                self.rows.append((key, tags[i], flat[i * self.row_bytes():(i + 1) * self.row_bytes()]))
            v["done"] = v["count"]
            if v["flags"] & 4:
                for i in range(v["count"]):
                    self.write(v["rows"] + 8 * i, struct.pack("=Q", v["first_row"] + i))
        elif v["op"] == 4:
            by_row = v["flags"] & 1
            wanted = self.read(v["rows"] if by_row else v["keys"], v["count"], "Q")
            for i, number in enumerate(wanted):
                at = [n for n, r in enumerate(self.rows) if number == (n if by_row else r[0])]
                other = 2**64 - 1 if not at else self.rows[at[0]][0] if by_row else at[0]
                self.write((v["keys"] if by_row else v["rows"]) + 8 * i, struct.pack("=Q", other))
                if at:
                    _, tags, vector = self.rows[at[0]]
                    self.write(v["tags"] + 8 * i, struct.pack("=Q", tags))
                    self.write(v["vectors"] + i * v["vector_stride"], vector)
                    v["done"] += 1

    def search(self, v):
        assert v["query_stride"] == self.row_bytes()
        flat = self.numbers(bytes(self.read(v["queries"], v["nq"] * self.row_bytes(), "B")))
        dim = self.shape[1]
        for q in range(v["nq"]):
            query = flat[q * dim:(q + 1) * dim]
            scored = sorted(
                (sum((a - b) ** 2 for a, b in zip(query, self.numbers(vector))), key, row)
                for row, (key, tags, vector) in enumerate(self.rows)
                if not v["flags"] & 2 or tags & v["tags_all"] == v["tags_all"])
            for i, (distance, key, row) in enumerate(scored[:v["k"]]):
                self.write(v["hits"] + 24 * (q * v["k"] + i), struct.pack("=QQfI", key, row, distance, 0))
            self.write(v["counts"] + 4 * q, struct.pack("=I", min(len(scored), v["k"])))
        v["distances"] = v["nq"] * len(self.rows)
        self.threads = v["threads"]


class Client(unittest.TestCase):
    def setUp(self):
        where = os.environ.get("VEXFS_TEST_DIR")
        self.stand_in = None
        if not where:
            self.stand_in = StandIn()
            patch = mock.patch("fcntl.ioctl", self.stand_in)
            patch.start()
            self.addCleanup(patch.stop)
        self.dir = tempfile.TemporaryDirectory(dir=where)
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "c.vec")

    def container(self):
        container = vexfs.create(self.path, dim=2, metric=vexfs.L2)
        self.addCleanup(container.close)
        return container

    def test_rows_go_in_and_come_back(self):
        c = self.container()
        self.assertEqual(c.insert([[1, 2], (3.5, -4)], keys=[70, 80], tags=[1, 2]), 0)
        self.assertEqual(c.insert(array.array("f", [5, 6]), keys=[90]), 2)
        self.assertEqual(len(c), 3)
        row, missing = c.get(keys=[80, 7])
        self.assertEqual((row.key, row.row, row.tags, list(row.vector)), (80, 1, 2, [3.5, -4]))
        self.assertIsNone(missing)
        row, missing = c.get(rows=[2, 99])
        self.assertEqual((row.key, row.row), (90, 2))
        self.assertIsNone(missing)
        with vexfs.open(self.path) as again:
            self.assertEqual(again.dim, 2)
        self.assertRaises(ValueError, again.stats)
        self.assertEqual(c.insert([[7, 8], [9, 10]], reuse=True), [3, 4])

    def test_search_sorts_and_counts(self):
        c = self.container()
        c.insert([[0, 0], [3, 4], [1, 0]], tags=[1, 1, 2])
        counters = {}
        first, second = c.search([[0, 0], [3, 4]], k=2, counters=counters)
        self.assertEqual([(h.row, h.distance) for h in first], [(0, 0.0), (2, 1.0)])
        self.assertEqual(second[0], vexfs.Hit(1, 1, 0.0))
        self.assertEqual((counters["distances"], counters["partial"]), (6, False))
        [hits] = c.search([[0, 0]], k=5, tags_all=1, threads=3)
        self.assertEqual([h.row for h in hits], [0, 1])
        if self.stand_in:
            self.assertEqual(self.stand_in.threads, 3)

    def test_an_error_names_its_row_and_changes_nothing(self):
        c = self.container()
        c.insert([[0, 0]], keys=[5])
        with self.assertRaises(vexfs.Error) as caught:
            c.insert([[1, 1], [2, 2]], keys=[6, 5])
        self.assertEqual((caught.exception.errno, caught.exception.row), (errno.EEXIST, 1))
        self.assertEqual(len(c), 1)

    def test_every_element_type_goes_in_and_comes_out(self):
        # Numbers, and the code of an array of them.
        cases = {
            vexfs.F32: ([1.5, -0.25], "f"), vexfs.F16: ([1.5, 65504.0], None),
            vexfs.BF16: ([1.5, -2.0**100], None), vexfs.I8: ([-128, 127], "b"), vexfs.U8: ([0, 255], "B"),
        }
        for element_type, (numbers, code) in cases.items():
            with self.subTest(element_type=element_type):
                path = f"{self.path}.{element_type}"
                with vexfs.create(path, dim=2, metric=vexfs.L2, element_type=element_type) as c:
                    self.assertEqual(c.element_type, element_type)
                    c.insert([numbers, [0, 1]])
                    first, _ = c.get(rows=[0, 1])
                    self.assertEqual(list(first.vector), numbers)
                    if code:
                        self.assertEqual(first.vector, array.array(code, numbers))
                        c.insert(array.array(code, numbers))
                        self.assertEqual(len(c), 3)
                    [hits] = c.search([[0, 1]], k=1)
                    self.assertEqual((hits[0].row, hits[0].distance), (1, 0.0))
                    self.assertRaises(TypeError, c.insert, array.array("d", [1, 2]))

    def test_numbers_are_rounded_to_nearest_or_refused(self):
        rounded = {
            vexfs.F16: [(1 + 2**-11, 1.0), (1 + 3 * 2**-11, 1 + 2**-9), (2**-25, 0.0)],
            vexfs.BF16: [(1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6), (-1 - 2**-7, -1 - 2**-7)],
        }
        for element_type, pairs in rounded.items():
            path = f"{self.path}.{element_type}"
            with vexfs.create(path, dim=1, metric=vexfs.L2, element_type=element_type) as c:
                c.insert([[number] for number, _ in pairs])
                got = [row.vector[0] for row in c.get(rows=range(len(pairs)))]
                self.assertEqual(got, [want for _, want in pairs])
                self.assertRaises(OverflowError, c.insert, [[3.4e38]])
        with vexfs.create(f"{self.path}.i", dim=1, metric=vexfs.L2, element_type=vexfs.I8) as c:
            self.assertRaises(OverflowError, c.insert, [[128]])
            self.assertRaises(TypeError, c.insert, [[0.5]])
            self.assertEqual(len(c), 0)

    def test_bits_go_in_as_numbers_or_packed(self):
        with vexfs.create(self.path, dim=9, metric=vexfs.HAMMING, element_type=vexfs.BINARY) as c:
            c.insert([[1, 0, 0, 0, 0, 0, 0, 1, 1], b"\xff\x00"])
            c.insert(b"\x00\x01\x0f\x00")
            self.assertEqual([row.vector for row in c.get(rows=range(4))],
                             [b"\x81\x01", b"\xff\x00", b"\x00\x01", b"\x0f\x00"])
            [hits] = c.search(b"\x80\x01", k=4)
            self.assertEqual([(h.row, h.distance) for h in hits], [(0, 1), (2, 1), (3, 6), (1, 8)])
            for bad in (b"\x00", [b"\x00"], [[1, 0]], [[2] + [0] * 8]):
                self.assertRaises(ValueError, c.insert, bad)

    def test_shapes_are_checked_first(self):
        c = self.container()
        for bad in ([[1]], [], [[1, 2, 3]], array.array("f", [1, 2, 3])):
            self.assertRaises(ValueError, c.insert, bad)
        self.assertRaises(TypeError, c.insert, array.array("d", [1, 2]))
        self.assertRaises(ValueError, c.insert, [[1, 2]], keys=[1, 2])
        self.assertRaises(TypeError, c.get)
        self.assertRaises(ValueError, c.search, [[0, 0]], k=0)


class Elsewhere(unittest.TestCase):
    def test_a_plain_file_is_no_container_and_a_failed_create_leaves_none(self):
        with tempfile.TemporaryDirectory() as where:
            path = os.path.join(where, "plain")
            with self.assertRaises(OSError):
                vexfs.create(path, dim=2)
            self.assertFalse(os.path.exists(path))
            pathlib.Path(path).write_bytes(b"kept")
            with self.assertRaises(OSError) as caught:
                vexfs.open(path)
            self.assertEqual(caught.exception.errno, errno.ENOTTY)
            self.assertEqual(pathlib.Path(path).read_bytes(), b"kept")


if __name__ == "__main__":
    unittest.main()
