#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench/simd.sh [FILTER]: the arithmetic of simd/ in user space, on one thread, beside a
# plain read of the same memory. Standard output is one JSON object per line.
#
#   PEERS=1    then distances beside SimSIMD, NumKong, FAISS and hnswlib, which are fetched; those
#              that come as sources built by GCC and by Clang
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT"

say "bench: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), one thread, user space"
export CRITERION_HOME=$ROOT/build/bench/criterion
rm -rf "$CRITERION_HOME"
mkdir -p "$CRITERION_HOME"
cargo bench --quiet -p vexfs_simd --no-run >&2
undisturbed cargo bench --quiet -p vexfs_simd -- --color never "$@" >&2
python3 - "$CRITERION_HOME" <<'END'
import json, pathlib, sys

# Criterion's estimates of each benchmark.
for path in sorted(pathlib.Path(sys.argv[1]).rglob("new/benchmark.json")):
    what = json.loads(path.read_text())
    ns = json.loads(path.with_name("estimates.json").read_text())["median"]["point_estimate"]
    item = what["throughput"]["BytesDecimal"]
    print(json.dumps({"bench": "simd", "what": what["full_id"], "ns": round(ns, 3), "gb_s": round(item / ns, 2)}))
END

[ -n "${PEERS:-}" ] || exit 0
eval "$(scripts/peers)"
# What the compiler makes of the peers' sources differs by more than what is to be shown.
for compiler in "gcc g++" "clang clang++"; do
	read -r CC CXX <<<"$compiler"
	command -v "$CXX" >/dev/null || continue
	export CC CXX
	target=$PEERS_DIR/target-$CC
	cargo build --quiet --release --manifest-path simd/benches/peers/Cargo.toml --target-dir "$target" >&2
	OMP_NUM_THREADS=1 undisturbed "$target/release/peers" "$PEERS_FAISS" "$@"
done
