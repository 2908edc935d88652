# SPDX-License-Identifier: Apache-2.0
"""The other libraries, one class each: how an index is built, stored, loaded and searched, on one thread.

An index has a `library`, a `name` that tells its configuration, and `settings`, what a search of it may be
asked for. Every library gets the configurations that its own documentation advises, at two sizes or more.
"""
import faiss
import hnswlib
import numpy as np
import usearch.index

K = 10
EF_CONSTRUCTION = 200
EF = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384)

faiss.omp_set_num_threads(1)


class Peer:
    """What they share."""

    def prepare(self, base, queries):
        """Sees all data before anything else happens."""


class Hnswlib(Peer):
    """Links of 2M on the lowest level, rows beside them."""

    library = "hnswlib"
    settings = [(ef,) for ef in EF]

    def __init__(self, dim, rows, m):
        self.name = f"M{m}"
        self.rows, self.m = rows, m
        self.index = hnswlib.Index("l2", dim)

    def build(self, base):
        self.index.init_index(self.rows, M=self.m, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(base, num_threads=1)

    def save(self, path):
        self.index.save_index(path)

    def load(self, path):
        self.index.load_index(path)

    def search(self, queries, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(queries, k=K, num_threads=1)[0]


class Faiss(Peer):
    """An index by its factory's name. Where it has a refinement, the second number of a setting says for how
    many candidates."""

    library = "faiss"

    def __init__(self, dim, rows, factory):
        self.name = factory
        self.index = faiss.index_factory(dim, factory)
        graph = factory.startswith("HNSW")
        refines = (10, 20, 40) if graph else (20, 40, 80)
        nprobes = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
        self.settings = [(n, r) for n in (EF if graph else nprobes) for r in
                         (refines if factory.endswith(",RFlat") else (0,)) if not graph or r <= n]

    def graph(self):
        index = self.index
        if isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.base_index)
        return index.hnsw if hasattr(index, "hnsw") else None

    def build(self, base):
        if graph := self.graph():
            graph.efConstruction = EF_CONSTRUCTION
        self.index.train(base)
        self.index.add(base)

    def save(self, path):
        faiss.write_index(self.index, path)

    def load(self, path):
        self.index = faiss.read_index(path)

    def search(self, queries, effort, refine):
        parameters = (faiss.SearchParametersHNSW(efSearch=effort) if self.graph() else
                      faiss.SearchParametersIVF(nprobe=effort))
        if refine:
            parameters = faiss.IndexRefineSearchParameters(k_factor=refine / K, base_index_params=parameters)
        return self.index.search(queries, K, params=parameters)[1]


class Usearch(Peer):
    """Elements of a type of its own choice. It wants values between -1 and 1 for int8: rows are moved and
    scaled, which changes no order of L2 distances."""

    library = "usearch"
    settings = [(ef,) for ef in EF]

    def __init__(self, dim, rows, m, dtype):
        self.name = f"{dtype},M{m}"
        self.index = usearch.index.Index(ndim=dim, metric="l2sq", dtype=dtype, connectivity=m,
                                         expansion_add=EF_CONSTRUCTION)
        self.rows, self.shift, self.scale = rows, 0, 1
        self.moved = None

    def prepare(self, base, queries):
        low, high = float(base.min()), float(base.max())
        self.shift, self.scale = (low + high) / 2, 2 / (high - low)
        self.moved = self.move(queries)

    def move(self, rows):
        return (rows - np.float32(self.shift)) * np.float32(self.scale)

    def build(self, base):
        keys = np.arange(self.rows, dtype=np.uint64)
        for at in range(0, self.rows, 1 << 16):
            self.index.add(keys[at:at + (1 << 16)], self.move(base[at:at + (1 << 16)]), threads=1, copy=True)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index.load(path)

    def search(self, _queries, ef):
        self.index.expansion_search = ef
        found = self.index.search(self.moved, K, threads=1)
        return found.keys.astype(np.int64)


def indexes(dim, rows, wanted):
    """What to measure: constructors without their data."""
    # About four and eight times the root of the number of rows: what FAISS advises begins there.
    lists = [1 << (int(4 * factor * rows ** 0.5).bit_length() - 1) for factor in (1, 2)]
    made = []
    if "hnswlib" in wanted:
        made += [Hnswlib(dim, rows, m) for m in (16, 32)]
    if "faiss" in wanted:
        for m in (16, 32):
            made += [Faiss(dim, rows, f"HNSW{m}{code}") for code in ("", "_SQ8,RFlat")]
        for nlist in lists:
            made += [Faiss(dim, rows, f"IVF{nlist},{code},RFlat")
                     for code in (f"PQ{dim // 2}x4fs", f"PQ{dim // 4}x4fs", "RaBitQfs")]
    if "usearch" in wanted:
        made += [Usearch(dim, rows, m, dtype) for m in (16, 32) for dtype in ("f32", "f16", "i8")]
    return made

