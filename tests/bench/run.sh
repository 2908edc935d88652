#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# tests/bench/run.sh: measurements in User-Mode Linux, where kernel code runs at native
# speed on one processor. Standard output is one JSON object per line.
#
#   ROWS=200000 DIM=384 BATCH=4096 ROUNDS=7 SIMD_ROUNDS=5 INDEX_ROWS=100000 INDEX_ROUNDS=5 \
#       tests/bench/run.sh
#
# INDEX_DATA="BASE QUERIES" are files of binary32 for the index, instead of a mixture.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$root/build/bench
mkdir -p "$out"
for name in bench bench_index; do
	cc -O3 -march=native -Wall -Wextra -o "$out/$name" "$root/tests/bench/$name.c" -lm
done

echo "bench: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), one thread, User-Mode Linux" >&2
exec "$root/qemu/vm" --uml --mem 3G --disk 2G --disk 2G --env SIMD_ROUNDS --env INDEX_ROWS \
	--env INDEX_ROUNDS --env INDEX_DATA -- \
	"$root/tests/bench/guest.sh" "$out/bench" \
	"${ROWS:-200000}" "${DIM:-384}" "${BATCH:-4096}" "${ROUNDS:-7}"
