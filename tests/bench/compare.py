#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""VexFS's index beside those of other libraries, on the same vectors: recall@10 over searches per second.

    tests/bench/compare.py NAME BASE.npy QUERIES.npy [--ours guest,hnsw,ivf] [--libraries LIST]

BASE and QUERIES are float32; the metric is L2. `guest` is the index in the kernel, in
User-Mode Linux, asked through the ioctl with all queries in a call; `hnsw` and `ivf` are the same sources in
user space. Rounds take turns: ours measures all its settings, then each library all of its, and so on, on one
thread of one processor. Rates of libraries are per second of processor time, those of the guest of its clock.
Of each setting the best round counts.

Recall is against the exact answers of FAISS; the guest also says how much its own exact search agrees with them.
A library's rate at a recall is that of its best configuration there, between the two settings around it.

Prints one JSON object per line, and a table to standard error. Needs scripts/peers; `--keep DIR` keeps what was
built there, and takes what is there, with the build rates noted then.
"""
import argparse
import fcntl
import json
import os
import re
import sys
import time

# Set for old versions of the library, they make a new one slower.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)
# All may have huge pages, and have no other threads.
if "GLIBC_TUNABLES" not in os.environ:
    os.environ.update(GLIBC_TUNABLES="glibc.malloc.hugetlb=1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.execv(sys.executable, [sys.executable] + sys.argv)

import faiss
import numpy as np

import ours
import peers

TARGETS = (0.90, 0.95, 0.99)


def say(**what):
    print(json.dumps(what), flush=True)


def exact_answers(base, queries, path):
    """The nearest rows of each query, kept in `path` as int32."""
    if not os.path.exists(path):
        flat = faiss.IndexFlatL2(base.shape[1])
        flat.add(base)
        np.save(path, flat.search(queries, peers.K)[1].astype(np.int32))
    return np.load(path)


def make(index, base, queries, keep):
    """Builds an index, or loads it from `keep`; says what it is."""
    index.prepare(base, queries)
    path = os.path.join(keep, f"{index.library}-{index.name}.index")
    if not os.path.exists(path + ".json"):
        start = time.process_time()
        index.build(base)
        seconds = time.process_time() - start
        index.save(path)
        with open(path + ".json", "w", encoding="utf-8") as out:
            json.dump({"build_rows_per_s": round(len(base) / seconds), "load": os.getloadavg()[0],
                       "bytes_per_row": round(os.path.getsize(path) / len(base), 1)}, out)
    else:
        index.load(path)
    with open(path + ".json", encoding="utf-8") as of:
        facts = json.load(of)
    return facts


class Measured:
    """The best rate and the recall of each setting of an index."""

    def __init__(self, library, name):
        self.library, self.name, self.points = library, name, {}

    def add(self, setting, recall, qps):
        _, best = self.points.get(setting, (0, 0))
        self.points[setting] = (recall, max(qps, best))

    def front(self):
        """Settings that no other beats in both, by falling rate."""
        front = []
        for recall, qps in sorted(self.points.values(), key=lambda p: (-p[1], -p[0])):
            if not front or recall > front[-1][0]:
                front.append((recall, qps))
        return front

    def at(self, want):
        """The rate at a recall, or None beyond the last setting."""
        last = None
        for recall, qps in self.front():
            if recall >= want:
                if last is None or recall == want:
                    return qps
                return last[1] + (qps - last[1]) * (want - last[0]) / (recall - last[0])
            last = (recall, qps)
        return None


def measure(index, queries, truth, into):
    for setting in index.settings:
        start = time.process_time()
        found = index.search(queries, *setting)
        qps = len(queries) / (time.process_time() - start)
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth))
        into.add(setting, hits / truth.size, qps)


def summary(data, measured, out):
    """The last lines: each library's best at each recall, and how many times as fast we are."""
    names = sorted({m.library for m in measured}, key=lambda n: (not n.startswith("vexfs"), n))
    best = {}
    for want in TARGETS:
        line = {"bench": "at_recall", "data": data, "recall_at_10": want}
        for library in names:
            rates = [(m.at(want), m.name) for m in measured if m.library == library]
            qps, name = max(((q, n) for q, n in rates if q), default=(None, None))
            best[library, want] = (qps, name)
            line[library] = qps and {"searches_per_s": round(qps), "configuration": name}
            mine = best[names[0], want][0]
            if qps and mine and library != names[0]:
                line[library]["times_as_fast_are_we"] = round(mine / qps, 2)
        say(**line)
    print(f"\n{data}: searches/s at recall@10, best configuration", file=out)
    print(f"{'':14}" + "".join(f"{want:>40.2f}" for want in TARGETS), file=out)
    for library in names:
        row = f"{library:14}"
        for want in TARGETS:
            qps, name = best[library, want]
            mine = best[names[0], want][0]
            times = f" ({mine / qps:.1f}x)" if qps and mine and library != names[0] else ""
            row += f"{f'{qps:,.0f}{times} {name}' if qps else 'not reached':>40}"
        print(row, file=out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("base")
    parser.add_argument("queries")
    parser.add_argument("--ours", default="guest")
    parser.add_argument("--libraries", default="hnswlib,faiss,usearch")
    parser.add_argument("--only", default="", help="a pattern of configurations, of those libraries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="a directory for indexes that are built")
    parser.add_argument("--only-build", action="store_true")
    parser.add_argument("--lock", help="a file to lock while a round is measured")
    args = parser.parse_args()

    base, queries = np.load(args.base), np.load(args.queries)
    if base.dtype != np.float32 or queries.dtype != np.float32:
        parser.error("BASE and QUERIES must be float32; target/release/vectors widen makes them so")
    dim = base.shape[1]
    keep = args.keep or os.path.join(os.path.dirname(os.path.abspath(args.base)), "indexes")
    os.makedirs(keep, exist_ok=True)
    truth_path = os.path.join(keep, f"truth{peers.K}.npy")
    truth = exact_answers(base, queries, truth_path)

    indexes = peers.indexes(dim, len(base), args.libraries.split(","))
    indexes = [index for index in indexes if re.search(args.only, f"{index.library} {index.name}")]
    for index in indexes:
        say(bench="peer_build", data=args.data, library=index.library, configuration=index.name, rows=len(base),
            dim=dim, threads=1, **make(index, base, queries, keep))
        if args.only_build:
            index.index = None
    if args.only_build:
        return 0
    del base
    mine = [ours.start(kind, args, truth_path) for kind in args.ours.split(",")]
    measured = [Measured(i.library, i.name) for i in indexes]
    lock = args.lock and open(args.lock, "a", encoding="utf-8")
    for _ in range(args.rounds):
        if lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        for our in mine:
            our.round()
        for index, into in zip(indexes, measured):
            measure(index, queries, truth, into)
        if lock:
            fcntl.flock(lock, fcntl.LOCK_UN)
    for our in mine:
        into = Measured(our.library, our.name)
        for setting, recall, qps in our.finish(say):
            into.add(setting, recall, qps)
        measured.insert(0, into)
    for index in measured:
        for setting, (recall, qps) in sorted(index.points.items()):
            say(bench="search", data=args.data, library=index.library, configuration=index.name, setting=setting,
                k=peers.K, threads=1, recall_at_10=round(recall, 4), searches_per_s=round(qps))
    summary(args.data, measured, sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
