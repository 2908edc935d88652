# SPDX-License-Identifier: Apache-2.0
"""Indexes of VexFS, which other programs hold: in a guest's kernel, or the same sources in user space.

Each measures a `round` when it is asked to, and says at the `finish` what it found: (setting, recall, rate).
"""
import json
import os
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))


class Guest:
    """The index in the kernel, in User-Mode Linux, with its defaults but for INDEX_M."""

    library = "vexfs"
    name = "HNSW,kernel" + (f",M{os.environ['INDEX_M']}" if "INDEX_M" in os.environ else "")

    def __init__(self, args, truth):
        # The guest sees files, not pipes, of ours.
        self.turns = tempfile.TemporaryDirectory(prefix="turns.", dir=os.path.join(ROOT, "build/bench"))
        program = os.path.join(ROOT, "build/bench/bench_index")
        paths = [os.path.abspath(p) for p in (args.base, args.queries)]
        self.vm = subprocess.Popen(
            [os.path.join(ROOT, "qemu/vm"), "--uml", "--mem", os.environ.get("INDEX_MEM", "3G"), "--disk", "4G",
             "--env", "INDEX_M", "--share", self.turns.name, "--", os.path.join(ROOT, "tests/bench/index.sh"), program, args.data, *paths,
             str(args.rounds), self.turns.name, os.path.abspath(truth)],
            stdout=subprocess.PIPE, text=True)
        self.lines, self.turn = [], 0
        self.wait()

    def wait(self):
        """Until the guest has measured all that it may."""
        for line in self.vm.stdout:
            what = json.loads(line)
            if "turn" in what:
                return
            self.lines.append(what)

    def go(self):
        with open(os.path.join(self.turns.name, str(self.turn)), "w", encoding="utf-8"):
            self.turn += 1

    def round(self):
        self.go()
        self.wait()

    def finish(self, say):
        self.go()
        self.wait()
        status = self.vm.wait()
        self.turns.cleanup()
        if status:
            raise SystemExit(f"the guest ended with status {status}")
        for line in self.lines:
            say(**line)
            if line["bench"] == "hnsw_search":
                yield (line["ef"],), line["recall_at_10"], line["batched_searches_per_s"]


class Program:
    """One of the benchmarks of tests/recall, which reads settings from its input."""

    def __init__(self, args, command, settings):
        self.settings, self.found = settings, []
        self.process = subprocess.Popen([os.path.join(TARGET, "release", command[0]), *command[1:]],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.built = self.read()

    def read(self):
        return json.loads(self.process.stdout.readline())

    def round(self):
        for setting in self.settings:
            print(*setting, file=self.process.stdin, flush=True)
            answer = self.read()
            self.found.append((setting[:2], answer["recall@10"], answer["qps"]))

    def finish(self, say):
        say(bench="build", library=self.library, configuration=self.name, threads=1, **self.built)
        self.process.stdin.close()
        self.process.wait()
        return self.found


class Hnsw(Program):
    """The graph in user space."""

    library = "vexfs-user"

    def __init__(self, args, truth, code="rabitq4", m="16"):
        self.name = f"HNSW,{code},M{m}"
        efs = (10, 11, 12, 13, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64, 96, 128)
        # What the kernel does by default.
        settings = [(ef, max(20, ef // 2), 1) for ef in efs]
        super().__init__(args, ["hnsw_bench", "--base", args.base, "--queries", args.queries, "--truth", truth,
                                "--metric", "l2sq", "--code", code, "--m", m], settings)
        assert self.read()["ready"]


class Ivf(Program):
    """Inverted files in user space."""

    library = "vexfs-ivf"

    def __init__(self, args, truth, code="signs"):
        self.name = f"IVF,{code}"
        settings = [(n, r) for n in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128) for r in (20, 40, 80)]
        super().__init__(args, ["ivf_bench", args.base, args.queries, truth, "--code", code, "--serve"], settings)


def start(kind, args, truth):
    """What `--ours` names: guest, hnsw[:CODE[:M]] or ivf[:CODE]."""
    name, *options = kind.split(":")
    return {"guest": Guest, "hnsw": Hnsw, "ivf": Ivf}[name](args, truth, *options)
