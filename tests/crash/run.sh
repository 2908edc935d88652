#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Kills a guest at random while it writes files and vectors, boots it again on the
# same disk, and checks that nothing it had acknowledged is lost. Prints KTAP: one
# line per round, one for a last clean mount, one for a check of the image outside.
#
#   tests/crash/run.sh [ROUNDS] [SEED] [qemu/vm options]
#
# Expects build/kselftest/crash_work (tests/run.sh builds it) and the release tools.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
rounds=${1:-20} seed=${2:-$RANDOM}
[ $# -gt 1 ] && shift 2 || shift $#
release=${CARGO_TARGET_DIR:-$PWD/target}/release
work=${CRASH_WORK:-$PWD/build/kselftest/crash_work}
fs=${VEXFS_TEST_FS:-vexfs}
RANDOM=$seed

dir=$(mktemp -d "${TMPDIR:-/tmp}/vexfs-crash.XXXXXX") || exit 1
keep=0
trap '[ $keep = 1 ] && echo "# the disk is kept in $dir" || rm -rf "$dir"' EXIT
truncate -s 1G "$dir/volume"
truncate -s 64M "$dir/log"
echo "# program crash"
echo "# seed $seed"
echo "1..$((rounds + 3))"
if [ "$fs" = vexfs ]; then
	"$release/mkfs.vexfs" -q -f "$dir/volume" || { echo "not ok 1 mkfs"; exit 1; }
else
	"mkfs.$fs" -q -F "$dir/volume" || { echo "not ok 1 mkfs"; exit 1; }
fi

boot() { # boot OPTION... -- GUEST_ARGUMENT...
	local options=()
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	qemu/vm -q --disk "$dir/volume" --disk "$dir/log" --env VEXFS_TEST_FS="$fs" \
		--timeout 1800 --log "$dir/dmesg" "${options[@]}" -- tests/crash/guest.sh "$work" "$seed" "$@" \
		>"$dir/out" 2>"$dir/err" </dev/null
}

failed() { # failed NUMBER NAME STATUS
	echo "# qemu/vm exited with $3"
	sed 's/^\(not \)\?ok/# &/; s/^[^#]/# &/' "$dir/out" "$dir/err" | tail -n 30
	grep -iE 'vexfs|jbd2|BUG|WARNING' "$dir/dmesg" 2>/dev/null | tail -n 15 | sed 's/^/# dmesg: /'
	echo "not ok $1 $2"
	keep=1
	exit 1
}

began=0
for ((round = 1; round <= rounds; round++)); do
	# Mostly during the changes, wherever a slow machine gets to them; now and then during
	# the mount and the check before.
	after=$(awk -v r=$RANDOM 'BEGIN { printf "%.2f", r / 32768 * '"${CRASH_SECONDS:-6}"' }')
	from=(--kill-from " begins")
	[ $((round % 5)) = 0 ] && from=()
	boot --kill-after "$after" "${from[@]}" "$@" --
	status=$?
	if [ $status != 137 ] || grep -q '^not ok' "$dir/out"; then
		failed "$round" "killed_after_$after s" $status
	fi
	grep -q '^# round .* begins' "$dir/out" && began=$((began + 1))
	grep '^# round' "$dir/out" | tail -n 5
	echo "ok $round killed_after_$after s"
done
boot "$@" -- --check
status=$?
[ $status = 0 ] || failed $((rounds + 1)) last_check $status
grep '^# round' "$dir/out" | tail -n 5
echo "ok $((rounds + 1)) last_check"

# A test that was always killed too early has tested nothing.
if [ $began -ge $(((rounds + 1) / 2)) ]; then
	echo "ok $((rounds + 2)) most_rounds_were_killed_while_writing ($began of $rounds)"
else
	echo "not ok $((rounds + 2)) most_rounds_were_killed_while_writing ($began of $rounds)"
	keep=1
fi

check=("fsck.$fs" -f -n)
[ "$fs" = vexfs ] && check=("$release/fsck.vexfs" -n)
if ! command -v "${check[0]}" >/dev/null; then
	echo "ok $((rounds + 3)) sound_outside # SKIP there is no ${check[0]##*/}"
elif "${check[@]}" "$dir/volume" >"$dir/check" 2>&1; then
	echo "ok $((rounds + 3)) sound_outside"
else
	sed 's/^/# /' "$dir/check" | tail -n 20
	echo "not ok $((rounds + 3)) sound_outside"
	keep=1
	exit 1
fi
