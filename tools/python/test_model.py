# SPDX-License-Identifier: Apache-2.0
"""Random operations on a container of a mounted volume against a dict.

Runs if VEXFS_TEST_DIR is a directory of a mounted volume, and is skipped otherwise.
VEXFS_TEST_SEED repeats a run. Elements are small integers, so that float32 distances
are exact and answers can be compared without tolerance.
"""
import errno
import os
import random
import tempfile
import unittest

import vexfs

WHERE = os.environ.get("VEXFS_TEST_DIR")
SEED = int(os.environ.get("VEXFS_TEST_SEED", "20261122"))
DIM = 7
KEYS = range(1000, 1400)
STEPS = 400


@unittest.skipUnless(WHERE, "VEXFS_TEST_DIR is not set")
class Model(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(SEED)
        self.dir = tempfile.TemporaryDirectory(dir=WHERE)
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "model.vec")
        self.model = {}

    def vector(self):
        return [self.random.randint(-9, 9) for _ in range(DIM)]

    def batch(self):
        keys = self.random.sample(KEYS, self.random.randint(1, 9))
        return keys, [self.vector() for _ in keys], [self.random.randint(0, 7) for _ in keys]

    def remember(self, keys, rows, tags):
        self.model.update({k: (r, t) for k, r, t in zip(keys, rows, tags)})

    def insert(self, c):
        keys, rows, tags = self.batch()
        used = [i for i, k in enumerate(keys) if k in self.model]
        if used:
            with self.assertRaises(vexfs.Error) as caught:
                c.insert(rows, keys=keys, tags=tags)
            self.assertEqual(caught.exception.errno, errno.EEXIST)
            self.assertIn(caught.exception.row, used)
        else:
            c.insert(rows, keys=keys, tags=tags)
            self.remember(keys, rows, tags)

    def upsert(self, c):
        keys, rows, tags = self.batch()
        c.upsert(rows, keys=keys, tags=tags)
        self.remember(keys, rows, tags)

    def delete(self, c):
        keys = self.random.sample(KEYS, self.random.randint(1, 9))
        there = [k for k in keys if k in self.model]
        if self.random.random() < 0.5:
            self.assertEqual(c.delete(keys=keys, skip_missing=True), len(there))
        elif len(there) == len(keys):
            self.assertEqual(c.delete(keys=keys), len(keys))
        else:
            with self.assertRaises(vexfs.Error) as caught:
                c.delete(keys=keys)
            self.assertEqual(caught.exception.errno, errno.ENOENT)
            self.assertNotIn(keys[caught.exception.row], self.model)
            return
        for key in there:
            del self.model[key]

    def get(self, c):
        keys = self.random.sample(KEYS, 20)
        got = c.get(keys=keys)
        for key, row in zip(keys, got):
            self.assertEqual(row is not None, key in self.model)
            if row:
                self.assertEqual((list(row.vector), row.tags), self.model[key])
        found = [row for row in got if row]
        self.assertEqual(c.get(rows=[row.row for row in found]), found)

    def search(self, c):
        query, k = self.vector(), self.random.choice([1, 5, 500])
        tags_all, tags_any = self.random.choice([None, 1, 3]), self.random.choice([None, 6])
        radius = self.random.choice([None, 100.0])
        only = self.random.choice([None, self.random.sample(KEYS, 150)])
        [hits] = c.search([query], k=k, tags_all=tags_all, tags_any=tags_any, radius=radius, keys=only)
        want = sorted(
            (float(sum((a - b) ** 2 for a, b in zip(query, vector))), key)
            for key, (vector, tags) in self.model.items()
            if (tags_all is None or tags & tags_all == tags_all)
            and (tags_any is None or tags & tags_any) and (only is None or key in only))
        want = [w for w in want if radius is None or w[0] <= radius]
        self.assertEqual([(hit.distance, hit.key) for hit in hits], want[:k])

    def behaves_as_a_dict(self, element_type):
        c = vexfs.create(self.path, dim=DIM, metric=vexfs.L2, alignment=64, model_tag=5,
                         element_type=element_type)
        operations = [self.insert, self.upsert, self.delete, self.get, self.search]
        for step in range(STEPS):
            operation = self.random.choice(operations)
            with self.subTest(seed=SEED, step=step, operation=operation.__name__):
                operation(c)
                self.assertEqual(len(c), len(self.model))
            if step % 50 == 49:
                c.close()
                c = vexfs.open(self.path, writable=True)
        c.close()

    def test_a_container_of_f32_behaves_as_a_dict(self):
        self.behaves_as_a_dict(vexfs.F32)

    def test_a_container_of_f16_behaves_as_a_dict(self):
        self.behaves_as_a_dict(vexfs.F16)

    def test_a_container_of_i8_behaves_as_a_dict(self):
        self.behaves_as_a_dict(vexfs.I8)


if __name__ == "__main__":
    unittest.main()
