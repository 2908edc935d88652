#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# All tests: in user space, then the kselftests, killed guests and damaged images
# in QEMU. Logs go to build/test; the last line is `N passed, N failed, N skipped`.
#
#   tests/run.sh [user] [kselftest] [vector] [crash] [images]    default: all
#
# VEXFS_CRASH_ROUNDS=20, VEXFS_IMAGE_ROUNDS=4, VEXFS_SEED=..., VEXFS_BIG=1 for the
# sizes that take minutes more. VEXFS_VM_OPTIONS goes to qemu/vm (as --debug).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

out=$PWD/build/test
bin=$PWD/build/kselftest
wanted=" ${*:-user kselftest vector crash images} "
rm -rf "$out"
mkdir -p "$out"
started=$SECONDS
vm_options=()
read -ra vm_options <<<"${VEXFS_VM_OPTIONS:-}"
export VEXFS_SEED="${VEXFS_SEED:-0x5eed}"
# Emulation is ten to twenty times slower; `VEXFS_QUICK=0` runs the full sizes in it.
export VEXFS_QUICK="${VEXFS_QUICK:-1}"

# Interrupted, it takes its guests along.
vm= job=
trap 'kill $vm $job 2>/dev/null; exit 130' INT TERM

want() { [[ $wanted == *" $1 "* ]]; }
phase() { say "== $* ($((SECONDS - started)) s)"; }

# broken NAME WHY LOG - a step that left no results of its own counts as one failure.
broken() {
	printf '# %s\nnot ok 1 %s\n' "$2" "$1" >>"$3"
}

# guest NAME LOG OPTION... -- COMMAND... - runs a guest; its exit status counts as a test.
guest() {
	local name=$1 log=$2 status=0
	shift 2
	qemu/vm --log "$out/$name.dmesg" "${vm_options[@]}" "$@" >"$log" 2>&1 </dev/null &
	vm=$!
	wait $vm || status=$?
	printf '\n# program guest\n' >>"$log"
	case $status in
	0 | 1) echo "ok 1 $name.kernel_log_is_clean" >>"$log" ;;
	99)
		grep -nE 'WARNING|BUG|Oops|INFO: |KASAN|panicked' "$out/$name.dmesg" | head -n 8 | sed 's/^/# /' >>"$log"
		echo "not ok 1 $name.kernel_log_is_clean" >>"$log"
		;;
	124) broken "$name.ends_in_time" "qemu/vm: the guest took too long" "$log" ;;
	*) broken "$name.guest" "qemu/vm exited with $status; the kernel's log is build/test/$name.dmesg" "$log" ;;
	esac
}

user() {
	local status=0
	if cargo nextest --version >/dev/null 2>&1; then
		cargo nextest run --workspace --release --no-fail-fast --color never >"$out/user.log" 2>&1 || status=$?
		cargo test --workspace --release --doc --no-fail-fast --color never >>"$out/user.log" 2>&1 || status=$?
	else
		cargo test --workspace --release --no-fail-fast --color never >"$out/user.log" 2>&1 || status=$?
	fi
	if [ $status != 0 ] && ! grep -qE 'FAIL|failed' "$out/user.log"; then
		broken cargo_test "$(tail -n 3 "$out/user.log" | tr '\n' ' ')" "$out/user.log"
	fi
	return 0
}

build() {
	local source
	source=$(kernel_source) && [ -n "$source" ] || die "there is no kernel source; run: make setup"
	make --no-print-directory -C tests/kselftest KSRC="$source" OUT="$bin" -j"$(jobs)" >"$out/build.log" 2>&1 || {
		cat "$out/build.log" >&2
		die "the kselftests do not build; see above."
	}
}

# programs PATTERN - names of kselftest programs.
programs() { (cd "$bin" && ls | grep -E "^($1)_[a-z0-9_]*$"); }

if want kselftest || want vector || want crash || want images; then
	phase "building the kselftests"
	build
fi

# Two cores: user-space tests and killed guests beside the kselftests.
posix_job() {
	trap 'kill $vm 2>/dev/null; exit 130' INT TERM
	want kselftest && guest kselftest "$out/kselftest.log" --cpu 2 --mem 1G --disk 3G --disk 40M \
		--timeout "${VEXFS_GUEST_SECONDS:-1500}" --env VEXFS_SEED --env VEXFS_BIG --env VEXFS_QUICK --env VEXFS_TEST_FS -- \
		tests/kselftest/guest.sh "$bin" $(programs posix)
	# shellcheck disable=SC2046
	want vector && guest vector "$out/vector.log" --cpu 2 --mem 1G --disk 3G --disk 40M \
		--timeout "${VEXFS_GUEST_SECONDS:-1500}" --env VEXFS_SEED --env VEXFS_BIG --env VEXFS_QUICK --env VEXFS_TEST_FS -- \
		tests/kselftest/guest.sh "$bin" $(programs vector) vector_search:simd=scalar
	# The second processor has no AVX.
	for model in max Nehalem; do
		want vector && guest "module_$model" "$out/module_$model.log" --cpu-model $model --mem 512M --disk 64M \
			--timeout 900 -- tests/kselftest/module.sh "$bin"
	done
	return 0
}

other_jobs() {
	want user && user
	want images && guest images "$out/images.log" --cpu 1 --mem 512M --disk 24M --disk 24M --disk 12M --timeout 900 -- \
		tests/images/guest.sh "$bin/image_check" "${VEXFS_IMAGE_ROUNDS:-4}" "$VEXFS_SEED"
	if want crash; then
		tests/crash/run.sh "${VEXFS_CRASH_ROUNDS:-20}" "$((VEXFS_SEED))" "${vm_options[@]}" >"$out/crash.log" 2>&1 ||
			grep -q '^not ok' "$out/crash.log" || broken crash "tests/crash/run.sh failed" "$out/crash.log"
	fi
	return 0
}

phase "running: ${wanted# }"
posix_job &
job=$!
other_jobs
wait $job
phase "done"

logs=()
for name in user kselftest vector module_max module_Nehalem images crash; do
	[ -e "$out/$name.log" ] && logs+=("$out/$name.log")
done
tests/summary "${logs[@]}"
