#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Inverted files of VexFS and FAISS on the same data, taking turns, one thread.

    ivf_peers.py BENCH BASE.npy QUERIES.npy GROUND_TRUTH.npy [--nlist N,..] [--rounds N] [--ours CODE,..]
             [--peers FACTORY,..]

BENCH is target/release/ivf_bench; needs numpy and faiss-cpu. Prints
a JSON object a line: every setting's recall@10 and best rate by the thread's processor time, builds, and
at the end the best rate of each index at recall 0.90, 0.95 and 0.99.
"""
import argparse, json, subprocess, time
import faiss
import numpy as np


def say(**what):
    print(json.dumps(what), flush=True)


class Ours:
    def __init__(self, args, nlist, code):
        self.bench = subprocess.Popen(
            [args.bench, args.base, args.queries, args.truth, "--nlist", str(nlist), "--code", code, "--serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        built = json.loads(self.bench.stdout.readline())
        self.name = built.pop("index")
        say(index=self.name, **built)

    def run(self, nprobe, rerank):
        self.bench.stdin.write(f"{nprobe} {rerank}\n")
        self.bench.stdin.flush()
        got = json.loads(self.bench.stdout.readline())
        return got["recall@10"], got["qps"]


class Faiss:
    def __init__(self, args, nlist, factory, xb, xq, gt):
        self.name, self.xq, self.gt = f"faiss IVF{nlist},{factory}", xq, gt
        start = time.thread_time()
        self.index = faiss.index_factory(xb.shape[1], f"IVF{nlist},{factory}")
        self.index.train(xb)
        trained = time.thread_time() - start
        self.index.add(xb)
        seconds = time.thread_time() - start
        say(index=self.name, rows=len(xb), train_s=round(trained, 2), build_s=round(seconds, 2),
            rows_per_s=round(len(xb) / seconds))

    def run(self, nprobe, rerank):
        faiss.ParameterSpace().set_index_parameter(self.index, "nprobe", nprobe)
        if isinstance(self.index, faiss.IndexRefine):
            self.index.k_factor = rerank / 10
        start = time.thread_time()
        _, ids = self.index.search(self.xq, 10)
        seconds = time.thread_time() - start
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(ids, self.gt))
        return hits / self.gt.size, len(self.xq) / seconds


def main():
    ap = argparse.ArgumentParser()
    for name in ("bench", "base", "queries", "truth"):
        ap.add_argument(name)
    ap.add_argument("--nlist", default="512,1024")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--ours", default="signs,flat")
    ap.add_argument("--peers", default="Flat;PQ{half}x4fs,RFlat;PQ{quarter}x4fs,RFlat;RaBitQfs,RFlat;RaBitQ,RFlat")
    ap.add_argument("--nprobe", default="8,12,16,24,32,48,64,96,128,192,256")
    ap.add_argument("--rerank", default="20,30,50,100")
    args = ap.parse_args()
    faiss.omp_set_num_threads(1)
    xb, xq = (np.load(p).astype(np.float32) for p in (args.base, args.queries))
    gt = np.load(args.truth)[:, :10]
    indexes = []
    for nlist in map(int, args.nlist.split(",")):
        for code in args.ours.split(","):
            indexes.append(Ours(args, nlist, code))
        for factory in args.peers.split(";"):
            factory = factory.format(half=xb.shape[1] // 2, quarter=xb.shape[1] // 4)
            try:
                indexes.append(Faiss(args, nlist, factory, xb, xq, gt))
            except RuntimeError as error:
                say(index=factory, error=str(error).splitlines()[-1])
    best = {}
    for _ in range(args.rounds):
        for nprobe in map(int, args.nprobe.split(",")):
            for rerank in map(int, args.rerank.split(",")):
                for index in indexes:
                    if index.name.lower().endswith("flat") and "rflat" not in index.name.lower() and rerank > 20:
                        continue
                    recall, qps = index.run(nprobe, rerank)
                    key = (index.name, nprobe, rerank)
                    best[key] = (recall, max(qps, best.get(key, (0, 0))[1]))
    for (name, nprobe, rerank), (recall, qps) in best.items():
        say(index=name, nprobe=nprobe, rerank=rerank, recall=round(recall, 4), qps=round(qps))
    for target in (0.90, 0.95, 0.99):
        for index in indexes:
            rates = [(qps, key) for key, (recall, qps) in best.items() if key[0] == index.name and recall >= target]
            qps, key = max(rates, default=(None, None))
            say(recall=target, index=index.name, best_qps=qps and round(qps), at=key and key[1:])


main()
