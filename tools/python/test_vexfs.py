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
                           ("vexfs_index_stats", vexfs._INDEX_STATS)):
            expanded = "=" + "".join(c * int(n or 1) for n, c in re.findall(r"(\d*)([IQ])", mine.format))
            self.assertEqual(expanded, header_struct(name)[0], name)
        self.assertEqual(header_struct("vexfs_vector_stats")[1][2:-1], vexfs._STATS_FIELDS)
        self.assertEqual(header_struct("vexfs_index_stats")[1][3:-1], vexfs._INDEX_STATS_FIELDS)

    def test_constants_are_those_of_the_header(self):
        defined = dict(re.findall(r"#define VEXFS_(\w+)\s+\(?(\w+(?: << \d+)?)", HEADER.read_text()))
        mine = {
            "METRIC_L2": vexfs.L2, "METRIC_COSINE": vexfs.COSINE, "METRIC_DOT": vexfs.DOT,
            "INDEX_AUTO": vexfs.AUTO, "INDEX_EXACT": vexfs.EXACT, "INDEX_HNSW": vexfs.HNSW,
            "INDEX_IVF": vexfs.IVF, "INDEX_PQ": vexfs.PQ, "INDEX_LSH": vexfs.LSH,
            "ELEMENT_F32": vexfs.F32, "MAX_RESULTS": vexfs.MAX_RESULTS,
            "OP_INSERT": vexfs._INSERT, "OP_UPSERT": vexfs._UPSERT, "OP_DELETE": vexfs._DELETE,
            "OP_GET": vexfs._GET, "BATCH_BY_ROW": vexfs._BY_ROW,
            "BATCH_SKIP_MISSING": vexfs._SKIP_MISSING, "SEARCH_RADIUS": vexfs._RADIUS,
            "SEARCH_TAGS_ALL": vexfs._TAGS_ALL, "SEARCH_TAGS_ANY": vexfs._TAGS_ANY,
            "SEARCH_ROW_BITMAP": vexfs._ROW_BITMAP, "SEARCH_KEYS": vexfs._KEYS,
            "OUTCOME_PARTIAL": vexfs._PARTIAL,
            "BUILD_REPLACE": vexfs._REPLACE, "BUILD_DROP": vexfs._DROP,
            "INDEX_STATS_DIGEST": vexfs._DIGEST, "INDEX_BUILDING": vexfs.BUILDING,
            "INDEX_READY": vexfs.READY, "INDEX_REBUILDING": vexfs.REBUILDING, "IOCTL_MAGIC": vexfs._IOC_STATS >> 8 & 0xFF,
        }
        for name, value in mine.items():
            text = defined[name]
            match = re.fullmatch(r"1U << (\d+)", text)
            self.assertEqual(1 << int(match[1]) if match else int(text, 0), value, name)

    def test_command_numbers(self):
        numbers = re.findall(r"_IOWR\(VEXFS_IOCTL_MAGIC, (\d), struct (\w+)\)", HEADER.read_text())
        mine = {"vexfs_create_vector": vexfs._IOC_CREATE, "vexfs_batch": vexfs._IOC_BATCH,
                "vexfs_search": vexfs._IOC_SEARCH, "vexfs_vector_stats": vexfs._IOC_STATS,
                "vexfs_build_index": vexfs._IOC_BUILD, "vexfs_index_stats": vexfs._IOC_INDEX_STATS}
        for number, name in numbers:
            if name in mine:
                size = struct.calcsize(header_struct(name)[0])
                self.assertEqual(mine[name], 3 << 30 | size << 16 | 0xC5 << 8 | int(number))


class StandIn:
    """Answers ioctls from memory: enough to see that the client's structures are right."""

    def __init__(self, dim):
        self.dim = dim
        self.rows = []
        self.threads = None

    @staticmethod
    def read(address, count, code):
        kind = {"Q": ctypes.c_uint64, "f": ctypes.c_float}[code]
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
        v["stride"] = 4 * v["dim"]

    def vector_stats(self, v):
        v.update(dim=self.dim, element_type=1, metric=1, live=len(self.rows), rows=len(self.rows))

    def batch(self, v):
        assert v["reserved"] == 0
        if v["op"] == 1:
            flat = self.read(v["vectors"], v["count"] * self.dim, "f")
            keys = self.read(v["keys"], v["count"], "Q")
            tags = self.read(v["tags"], v["count"], "Q") or [0] * v["count"]
            for i in range(v["count"]):
                if keys and any(keys[i] == r[0] for r in self.rows):
                    v["error_row"] = i
                    raise OSError(errno.EEXIST, "")
            v["first_row"] = len(self.rows)
            for i in range(v["count"]):
                key = keys[i] if keys else len(self.rows)
                self.rows.append((key, tags[i], flat[i * self.dim:(i + 1) * self.dim]))
            v["done"] = v["count"]
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
                    self.write(v["vectors"] + i * v["vector_stride"], array.array("f", vector).tobytes())
                    v["done"] += 1

    def search(self, v):
        flat = self.read(v["queries"], v["nq"] * self.dim, "f")
        for q in range(v["nq"]):
            query = flat[q * self.dim:(q + 1) * self.dim]
            scored = sorted(
                (sum((a - b) ** 2 for a, b in zip(query, vector)), key, row)
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
            self.stand_in = StandIn(2)
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
