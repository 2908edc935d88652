#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The part of `make run` inside the guest: format, mount, import 12,000 real
# embeddings, ask 100 questions, unmount, mount again, ask again. Any step that
# fails, and any answer that is not exact or changes, ends it with status 1.
set -eEuo pipefail
# Commands are shown here, wherever their own output goes.
exec 3>&1

disk=${VEXFS_DISKS%% *}
data=$VEXFS_ROOT/tests/data/kdocs
mnt=/mnt/demo
container=$mnt/kdocs.vec
work=$(mktemp -d)

doing="preparing"
trap 'echo "FAILED: $doing" >&2' ERR

# step WHAT - what the next commands do; printed if one of them fails.
step() {
	doing=$1
	printf '\n== %s\n' "$1"
}

# run COMMAND... - shows a command as one would type it, then runs it.
run() {
	printf '$ %s\n' "${*//$VEXFS_ROOT\//}" >&3
	"$@"
}

# field NAME FILE - a number of a JSON object.
field() {
	sed -n 's/.*"'"$1"'":\([0-9.e+-]*\).*/\1/p' "$2"
}

# ask NAME - all questions; hits go to NAME, rates and recall to NAME.rates.
ask() {
	run vexfs search "$container" --queries "$data/questions_f16.npy" -k 10 --exact \
		--ground-truth "$data/exact_cosine_rows.npy" --min-recall 1 \
		>"$work/$1" 2>"$work/$1.rates" || {
		cat "$work/$1.rates" >&2
		return 1
	}
}

# answers NAME QUESTION... - questions with the three nearest passages of each.
answers() {
	local hits=$work/$1
	shift
	# The passages are read from the volume, where they lie beside their vectors.
	awk -v wanted="$*" -v questions="$data/questions.tsv" -v passages="$mnt/passages.tsv" '
	BEGIN {
		FS = "\t"
		while ((getline line < questions) > 0) question[n++] = line
		while ((getline < passages) > 0) {
			place[rows] = $1 ":" $2 "-" $3
			text[rows++] = $4 (length($4) < 80 ? "" : "...")
		}
		if (n != 100 || rows != 12000) exit 1
		count = split(wanted, order, " ")
		FS = " "
	}
	# query rank distance row key, below a line of titles
	NR > 1 && $2 <= 3 { hit[$1, $2] = sprintf("  %.4f  %s\n          %s", $3, place[$4], text[$4]) }
	END {
		for (i = 1; i <= count; i++) {
			q = order[i]
			printf "\n%s\n", question[q]
			for (r = 1; r <= 3; r++) {
				if (!((q, r) in hit)) exit 1
				print hit[q, r]
			}
		}
	}' "$hits"
}

# compare NAME - the distances of the hits with those computed outside, in float64.
compare() {
	# 100 distances per question; hits that tie may be swapped, their distances not.
	od -An -v -w800 -tf8 -j128 "$data/exact_cosine_distances.npy" |
		awk '
	NR == FNR { for (r = 1; r <= 10; r++) exact[NR - 1, r] = $r; next }
	FNR > 1 {
		error = $3 - exact[$1, $2]
		if (error < 0) error = -error
		if (error > worst) worst = error
		hits++
	}
	END {
		printf "%d distances differ by %.1e at most from those computed outside the kernel\n", hits, worst
		exit !(hits == 1000 && worst < 2e-6)
	}' - "$work/$1"
}

step "A blank disk becomes a volume"
run mkfs.vexfs -L demo "$disk"
mkdir -p $mnt
run mount -t vexfs "$disk" $mnt

step "Files and vectors go into it"
run cp "$data/passages.tsv" $mnt/
run vexfs create "$container" --dim 384 --type f32 --metric cosine --json
run vexfs import "$container" "$data/base_f16.npy" --json >"$work/import.json"
cat "$work/import.json"
[ "$(field rows "$work/import.json")" = 12000 ]

step "100 questions are answered by comparing with every row"
ask before
answers before 2 7 31 33 87

step "Exactness and rates"
cat "$work/before.rates"
compare before
awk -v insert="$(field inserts_per_second "$work/import.json")" -v all="$(field rows_per_second "$work/import.json")" 'BEGIN {
	printf "%.0f inserts/s; with reading the source file and waiting for the disk, %.0f rows/s\n", insert, all
}'
if grep -q 'QEMU TCG' /proc/cpuinfo; then
	echo "note: this guest's instructions are emulated, so these timings mean nothing; make bench measures"
elif [ "$VEXFS_GUEST" = uml ]; then
	echo "note: User-Mode Linux computes at native speed, but a system call costs tens of microseconds"
fi

step "It is a file, and its bytes are the matrix"
run vexfs export "$container" "$work/copy.npy"
# The header of a .npy file written by vexfs has 128 bytes.
tail -c +129 "$work/copy.npy" | cmp - "$container"
echo "the same $(stat -c %s "$container") bytes from vexfs export and from reading the file"

step "Statistics"
run vexfs stats "$container"
run df -hT $mnt
run stat -f $mnt
run stat "$container"

step "Unmounted and mounted again, the same questions have the same answers"
run umount $mnt
run mount -t vexfs "$disk" $mnt
run cmp "$data/passages.tsv" $mnt/passages.tsv
ask after
cmp "$work/before" "$work/after"
cat "$work/after.rates"
echo "all $(($(wc -l <"$work/after") - 1)) hits of the 100 questions are the same, byte for byte"
run umount $mnt
rm -r "$work"

printf '\nDone: every step succeeded.\n'
