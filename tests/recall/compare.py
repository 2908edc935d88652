#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""VexFS's graph and hnswlib's on the same vectors: recall over searches per second, one JSON object a line.

    cargo build --release -p vexfs_recall
    tests/recall/compare.py BASE.npy QUERIES.npy [--metric inner_product|l2sq] [--truth TRUTH.npy]

Both run in user space on one thread, and measurements take turns, so that whatever else the machine does
meets both. Rates are per second of processor time; the best of several passes over all queries counts.
BASE and QUERIES are float16 or float32; TRUTH lists the nearest rows of each query as int32, and is
computed if missing. Needs numpy and hnswlib.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import hnswlib
import numpy as np

K = 10
HERE = os.path.dirname(os.path.abspath(__file__))


def truth_of(base, queries, metric):
    norms = (base * base).sum(1) if metric == "l2sq" else 0
    out = np.empty((len(queries), K), np.int32)
    for i in range(0, len(queries), 50):
        dot = queries[i : i + 50] @ base.T
        distance = norms - 2 * dot if metric == "l2sq" else -dot
        near = np.argpartition(distance, K, axis=1)[:, :K]
        order = np.take_along_axis(distance, near, 1).argsort(1, kind="stable")
        out[i : i + 50] = np.take_along_axis(near, order, 1)
    return out


def at_recall(points, want):
    """The rate at a recall, between the two settings around it; None beyond the last one."""
    points = sorted((p["recall@10"], p["qps"]) for p in points)
    for (r0, q0), (r1, q1) in zip(points, points[1:]):
        if r0 <= want <= r1:
            return q0 + (q1 - q0) * (want - r0) / (r1 - r0) if r1 > r0 else q1
    return points[0][1] if points[0][0] > want else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("queries")
    parser.add_argument("--truth")
    parser.add_argument("--metric", default="inner_product", choices=["inner_product", "l2sq"])
    parser.add_argument("--limit", type=int, default=1 << 31)
    parser.add_argument("--code", default="rabitq4")
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--efc", type=int, default=200)
    parser.add_argument("--peer-m", type=int, default=16)
    parser.add_argument("--peer-efc", type=int, default=200)
    parser.add_argument("--rerank", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    base = np.load(args.base)[: args.limit].astype(np.float32)
    queries = np.load(args.queries).astype(np.float32)
    with tempfile.TemporaryDirectory() as temp:
        path = args.truth
        if not path:
            path = os.path.join(temp, "truth.npy")
            np.save(path, truth_of(base, queries, args.metric))
        truth = np.load(path)[:, :K]
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "../../target"))
        command = [os.path.join(target, "release/hnsw_bench"), "--base", args.base, "--queries", args.queries]
        for name in "metric", "limit", "code", "m", "efc":
            command += ["--" + name, str(getattr(args, name))]
        # Both may have huge pages.
        env = dict(os.environ, GLIBC_TUNABLES="glibc.malloc.hugetlb=1")
        ours = subprocess.Popen(command + ["--truth", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, env=env)
        built = json.loads(ours.stdout.readline())
        print(json.dumps(dict(library="vexfs", **built)), flush=True)
        assert json.loads(ours.stdout.readline())["ready"]

    peer = hnswlib.Index("l2" if args.metric == "l2sq" else "ip", base.shape[1])
    peer.init_index(len(base), M=args.peer_m, ef_construction=args.peer_efc)
    start = time.thread_time()
    peer.add_items(base, num_threads=1)
    rate = len(base) / (time.thread_time() - start)
    # A row, a list of 2M links and its length, a label, and links of upper levels.
    size = 4 * base.shape[1] + 4 * (2 * args.peer_m + 1) + 8 + 4 * (args.peer_m + 1) / (args.peer_m - 1)
    print(json.dumps(dict(library="hnswlib", rows=len(base), dim=base.shape[1], m=args.peer_m,
                          ef_construction=args.peer_efc, build_rows_per_s=round(rate),
                          bytes_per_row=round(size, 1))), flush=True)

    sweep = [10, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 384]
    best = {"vexfs": {}, "hnswlib": {}}

    def keep(library, ef, recall, qps, **more):
        old = best[library].get(ef)
        if old is None or qps > old["qps"]:
            best[library][ef] = {"library": library, "ef": ef, "recall@10": recall, "qps": qps, **more}

    for _ in range(args.rounds):
        for ef in sweep:
            print(ef, min(ef, args.rerank), 2, file=ours.stdin, flush=True)
            answer = json.loads(ours.stdout.readline())
            keep("vexfs", ef, answer["recall@10"], answer["qps"], distances=answer["distances"])
            peer.set_ef(ef)
            for _ in range(2):
                start = time.thread_time()
                found, _ = peer.knn_query(queries, k=K, num_threads=1)
                qps = len(queries) / (time.thread_time() - start)
            recall = np.mean([len(set(f) & set(t)) / K for f, t in zip(found, truth)])
            keep("hnswlib", ef, round(float(recall), 4), round(qps))
    for library in best.values():
        for point in library.values():
            print(json.dumps(point))
    for want in 0.90, 0.95, 0.99:
        rates = {name: at_recall(points.values(), want) for name, points in best.items()}
        if all(rates.values()):
            ratio = rates["vexfs"] / rates["hnswlib"]
            print(json.dumps({"recall@10": want, **{k: round(v) for k, v in rates.items()}, "ratio": round(ratio, 2)}))
    ours.stdin.close()
    return ours.wait()


if __name__ == "__main__":
    # hnswlib's memory is that of this process.
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable] + sys.argv)
    sys.exit(main())
