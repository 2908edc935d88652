#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# All tests: in user space, then the kselftests, killed guests and damaged images
# in QEMU. Logs go to build/test; the last line is `N passed, N failed, N skipped`.
#
#   tests/run.sh [user] [kselftest] [vector] [isa] [crash] [images] [arm64] [debug]
#
# Without names all of them but `debug`, arm64 only where its kernel is in the cache. `isa`
# runs the search tests on instruction sets that the vector tests do not come by, `debug`
# the kselftests on the kernel with KASAN, lockdep, kmemleak and fault injection: without
# it allocations do not fail (vector_faults). VEXFS_PROGRAMS="..." has it run only those.
#
# VEXFS_STORM_SECONDS=300: how long vector_storm and vector_index_storm last.
#
# VEXFS_CRASH_ROUNDS=10, VEXFS_IMAGE_ROUNDS=4, VEXFS_SEED=..., VEXFS_BIG=1 for the
# sizes that take minutes more. VEXFS_VM_OPTIONS goes to qemu/vm (as --debug), but
# not for arm64.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

out=$PWD/build/test
bin=$PWD/build/kselftest
arm64_bin=$PWD/build/kselftest-arm64
wanted=" ${*:-user kselftest vector isa crash images arm64} "
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
	local name=$1 log=$2 status=0 options=("${vm_options[@]}")
	shift 2
	[ "$name" != arm64 ] || options=()
	qemu/vm --log "$out/$name.dmesg" "${options[@]}" "$@" >"$log" 2>&1 </dev/null &
	vm=$!
	wait $vm || status=$?
	say "== $name ended ($((SECONDS - started)) s)"
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
	say "== user ended ($((SECONDS - started)) s)"
	# 2.5 KiB of the 16 are left for the system call and for what the kernel's own functions need.
	printf '\n# program module\n' >>"$out/user.log"
	if scripts/stack build/x86_64/vexfs.ko 13824 >"$out/stack.log" 2>&1; then
		echo "ok 1 module.fits_a_kernels_stack" >>"$out/user.log"
	else
		sed 's/^/# /' "$out/stack.log" >>"$out/user.log"
		echo "not ok 1 module.fits_a_kernels_stack" >>"$out/user.log"
	fi
	return 0
}

build() { # build OUT
	local source to=$1
	source=$(kernel_source) && [ -n "$source" ] || die "there is no kernel source; run: make setup"
	make --no-print-directory -C tests/kselftest KSRC="$source" OUT="$to" -j"$(jobs)" >"$out/build.log" 2>&1 || {
		cat "$out/build.log" >&2
		die "the kselftests do not build; see above."
	}
}

# programs PATTERN - names of kselftest programs.
programs() { (cd tests/kselftest && ls | sed -nE "s/^(($1)_[a-z0-9_]*)\.c$/\1/p"); }

if want kselftest || want vector || want isa || want crash || want images || want debug; then
	phase "building the kselftests"
	build "$bin"
fi
if want arm64 && ! kernel_ready arm64; then
	wanted=${wanted/ arm64 / arm64-not-built }
	echo "ok 1 arm64 # SKIP there is no arm64 kernel in the cache; make test-arm64 builds it" >"$out/arm64.log"
fi

# kselftests NAME LOG DIR [OPTION...] -- PROGRAM... - a guest with programs of DIR.
kselftests() {
	local name=$1 log=$2 dir=$3 options=()
	shift 3
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	guest "$name" "$log" --cpu 2 --mem 1G --disk 3G --disk 40M --timeout "${VEXFS_GUEST_SECONDS:-3600}" \
		--env VEXFS_SEED --env VEXFS_BIG --env VEXFS_QUICK --env VEXFS_TEST_FS --env VEXFS_STORM_SECONDS \
		"${options[@]}" -- \
		tests/kselftest/guest.sh "$dir" "$@"
}

# Without those that test nothing which a processor could do otherwise, and take long in emulation; beside all else
# only the ones of arithmetic and the format.
arm64_programs() {
	if want vector; then
		programs posix | grep -vE '_(readdir|space)$'
		echo vector_batch vector_batch_errors vector_create vector_index vector_types
		return
	fi
	programs posix
	programs vector | grep -vE '_disk$|^vector_(build|parallel|faults|memory|numa|reclaim)$'
}

# Two cores: all else beside the kselftests; each about half of the time.
# shellcheck disable=SC2046 # lists of words
posix_job() {
	trap 'kill $vm 2>/dev/null; exit 130' INT TERM
	want kselftest && kselftests kselftest "$out/kselftest.log" "$bin" -- $(programs posix)
	want vector && kselftests vector "$out/vector.log" "$bin" -- $(programs vector | grep -vE '_(numa|fsck|reuse)$')
	want images && guest images "$out/images.log" --cpu 1 --mem 512M --disk 24M --disk 24M --disk 12M --timeout 3600 -- \
		tests/images/guest.sh "$bin/image_check" "${VEXFS_IMAGE_ROUNDS:-4}" "$VEXFS_SEED"
	want debug && kselftests debug "$out/debug.log" "$bin" --debug --mem 2G --timeout "${VEXFS_GUEST_SECONDS:-14400}" -- \
		${VEXFS_PROGRAMS:-$(programs posix) $(programs vector)}
	return 0
}

# A processor without AVX; every parameter. The emulated processor of the others has AVX2 and no more.
isa() {
	kselftests no-avx "$out/no-avx.log" "$bin" --cpu-model Nehalem --env VEXFS_TEST_ISA=scalar -- vector_search
	local model
	for model in max Nehalem; do
		guest "module_$model" "$out/module_$model.log" --cpu-model $model --mem 512M --disk 64M --timeout 3600 -- \
			tests/kselftest/module.sh "$bin"
	done
	cat "$out"/{no-avx,module_max,module_Nehalem}.log >"$out/isa.log"
}

# Compilers leave a processor idle now and then, which the other guests use.
# shellcheck disable=SC2046 # lists of words
arm64() {
	if ! {
		make --no-print-directory modules-arm64 tools-arm64 &&
			make --no-print-directory -C tests/kselftest KSRC="$(kernel_source)" OUT="$arm64_bin" -j"$(jobs)" CC="$ARM64_CC" programs
	} >"$out/arm64-build.log" 2>&1; then
		broken arm64.builds "$(tail -n 3 "$out/arm64-build.log" | tr '\n' ' ')" "$out/arm64.log"
		return
	fi
	say "== arm64 is built ($((SECONDS - started)) s)"
	kselftests arm64 "$out/arm64.log" "$arm64_bin" --arch arm64 --env VEXFS_TEST_ISA=neondot -- \
		$(arm64_programs) vector_search:simd=neon
}

other_jobs() {
	want user && user
	if want crash; then
		tests/crash/run.sh "${VEXFS_CRASH_ROUNDS:-10}" "$((VEXFS_SEED))" "${vm_options[@]}" >"$out/crash.log" 2>&1 ||
			grep -q '^not ok' "$out/crash.log" || broken crash "tests/crash/run.sh failed" "$out/crash.log"
	fi
	want crash && say "== crash ended ($((SECONDS - started)) s)"
	want isa && isa
	want arm64 && arm64
	want vector && kselftests numa "$out/numa.log" "$bin" --nodes 2 -- vector_numa vector_fsck vector_reuse vector_types:simd=scalar
	return 0
}

phase "running: ${wanted# }"
posix_job &
job=$!
other_jobs
wait $job
phase "done"

logs=()
for name in user kselftest vector numa isa images crash arm64 debug; do
	if want $name || [ -e "$out/$name.log" ]; then logs+=("$out/$name.log"); fi
done
tests/summary "${logs[@]}"
