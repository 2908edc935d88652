#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench/run.sh: measurements in User-Mode Linux, where kernel code runs at native
# speed on one processor. Standard output is one JSON object per line.
#
#   ROWS=200000 DIM=384 BATCH=4096 ROUNDS=7 SIMD_ROUNDS=5 INDEX_ROWS=100000 INDEX_ROUNDS=5 \
#       CHURN=10 tests/bench/run.sh [insert] [index] [churn]
#
# Indexes are measured over the embeddings of tests/data, and over INDEX_ROWS synthetic rows of 128.
# INDEX_DATA="BASE.npy QUERIES.npy" are other vectors instead, float16 or float32. INDEX_M is another m than the
# kernel's default. Then each of these embeddings, or of the vectors of INDEX_DATA, is deleted and inserted again CHURN times.
#
#   PEERS=1    indexes beside hnswlib, FAISS and USearch, which are fetched; of 1,000,000 rows by
#              default, for which they take an hour to build. INDEX_KEEP=DIR keeps them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT"
out=$ROOT/build/bench
release=${CARGO_TARGET_DIR:-$ROOT/target}/release
wanted=" ${*:-insert index churn} "
mkdir -p "$out"
for name in bench bench_index bench_churn; do
	cc -O3 -march=native -Wall -Wextra -o "$out/$name" "tests/bench/$name.c"
done
say "bench: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), one thread, User-Mode Linux"

# A kernel has its memory in huge pages; that of User-Mode Linux is a file, in small ones if not told otherwise.
memory=$out/memory
mkdir -p "$memory"
if ! mountpoint -q "$memory" && mount -t tmpfs -o huge=always,size=100% tmpfs "$memory" 2>/dev/null; then
	trap 'umount "$memory"' EXIT
	export VEXFS_UML_MEMORY=$memory
else
	say "bench: no huge pages for the guest's memory, which needs root: rates of indexes are a tenth lower or more"
fi

# What ran before has left memory in pieces, of which huge pages can't be made, for the guest or for others.
sync
for of in drop_caches compact_memory; do
	{ echo 1 >"/proc/sys/vm/$of"; } 2>/dev/null || say "bench: no $of, which needs root"
done

if [[ $wanted == *" insert "* ]]; then
	undisturbed qemu/vm --uml --mem 3G --disk 2G --disk 2G --env SIMD_ROUNDS -- tests/bench/guest.sh "$out/bench" \
		"${ROWS:-200000}" "${DIM:-384}" "${BATCH:-4096}" "${ROUNDS:-7}"
fi
[[ $wanted == *" index "* || $wanted == *" churn "* ]] || exit 0

[ -z "${PEERS:-}" ] || eval "$(scripts/peers)"

# indexes NAME DIR - over DIR/base.npy, asked DIR/queries.npy.
indexes() {
	local rounds=${INDEX_ROUNDS:-5}
	if [ -n "${PEERS:-}" ]; then
		# What was built before is not measured again.
		local keep=${INDEX_KEEP:+$INDEX_KEEP/$1}
		keep=${keep:-$2/indexes}
		[ -n "${INDEX_KEEP:-}" ] || rm -rf "$keep"
		PYTHONPATH=$PEERS_PYTHON undisturbed python3 tests/bench/compare.py "$1" "$2/base.npy" "$2/queries.npy" \
			--rounds "$rounds" --keep "$keep"
		[ -n "${INDEX_KEEP:-}" ] || rm -rf "$keep"
	else
		undisturbed qemu/vm --uml --mem "${INDEX_MEM:-3G}" --disk 4G --env INDEX_M -- tests/bench/index.sh "$out/bench_index" "$1" \
			"$2/base.npy" "$2/queries.npy" "$rounds"
	fi
}

# widened NAME BASE QUERIES
widened() {
	mkdir -p "$out/data/$1"
	"$release/vectors" widen "$2" "$out/data/$1/base.npy"
	"$release/vectors" widen "$3" "$out/data/$1/queries.npy"
	[[ $wanted != *" index "* ]] || indexes "$1" "$out/data/$1"
	[[ $wanted != *" churn "* ]] ||
		undisturbed qemu/vm --uml --mem "${INDEX_MEM:-3G}" --disk 4G -- tests/bench/index.sh "$out/bench_churn" "$1" \
			"$out/data/$1/base.npy" "$out/data/$1/queries.npy" "${CHURN:-10}"
}

if [ -n "${INDEX_DATA:-}" ]; then
	read -r base queries <<<"$INDEX_DATA"
	widened "$(basename "${base%.npy}")" "$base" "$queries"
	exit
fi
widened kdocs-12000 tests/data/kdocs/base_f16.npy tests/data/kdocs/questions_f16.npy
[[ $wanted == *" index "* ]] || exit 0
rows=${INDEX_ROWS:-$([ -n "${PEERS:-}" ] && echo 1000000 || echo 100000)}
"$release/vectors" synthetic "$rows" 1000 "$out/data/synthetic-$rows"
indexes "synthetic-$rows" "$out/data/synthetic-$rows"
