#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Loads the module with good and bad parameters, in a guest whose first disk is
# ours. Every instruction set must be the one asked for, or the next lower that
# the processor has, and must find what integer vectors leave no doubt about.
#
#   module.sh DIR - where the kselftest programs are
set -u
dir=$1
disk=${VEXFS_DISKS%% *}
bench=/sys/kernel/debug/vexfs/simd_bench
number=0 failed=0

# result STATUS NAME [WHY] - one line of KTAP.
result() {
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number module.$2"
	else
		[ -z "${3:-}" ] || echo "$3" | sed 's/^/# /'
		echo "not ok $number module.$2"
		failed=1
	fi
}

# load PARAMETER... - loads the module anew; $log becomes what the kernel said.
load() {
	[ ! -d /sys/module/vexfs ] || rmmod vexfs || return 2
	mark="module.sh $number $*"
	echo "$mark" >/dev/kmsg
	said=$(insmod "$VEXFS_MODULE" "$@" 2>&1)
	status=$?
	log=$(dmesg | sed "1,/$mark/d" | grep 'vexfs: ')
	return $status
}

flags=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo)
# has NAME - whether the processor has an instruction set, by what it says in /proc/cpuinfo.
has() {
	case $1 in
	scalar) set -- ;;
	avx2) set -- avx2 fma f16c popcnt ;;
	avx512) set -- avx2 fma avx512f avx512bw avx512dq avx512vl ;;
	avx512vnni) set -- avx512f avx512bw avx512_vnni avx512_vpopcntdq ;;
	avx512bf16) set -- avx512f avx512bw avx512_vnni avx512_vpopcntdq avx512_bf16 ;;
	neon) set -- asimd ;;
	neondot) set -- asimd asimddp asimdhp asimdfhm ;;
	esac
	for flag; do
		case " $flags " in *" $flag "*) ;; *) return 1 ;; esac
	done
}

# right_answers - a fresh volume, and searches over integers.
right_answers() {
	mkfs.vexfs -q -f "$disk" && mkdir -p /mnt/module && mount -t vexfs "$disk" /mnt/module || return 1
	VEXFS_TEST_FS=vexfs VEXFS_TEST_DIR=/mnt/module "$dir/vector_search" \
		-t integers_give_exact_distances_and_ties_by_key >/tmp/module.out 2>&1
	ended=$?
	umount /mnt/module && [ $ended = 0 ] && grep -q '^ok' /tmp/module.out || {
		cat /tmp/module.out
		return 1
	}
}

case $(uname -m) in
aarch64) sets="scalar neon neondot" ;;
*) sets="scalar avx2 avx512 avx512vnni avx512bf16" ;;
esac
echo "# program module"
best=scalar tried=" "
for simd in $sets auto; do
	! has "$simd" || [ "$simd" = auto ] || best=$simd
	load simd="$simd"
	result $? "loads_with_simd_$simd" "$said $log"
	case $log in *"distances are computed with $best, "*) ok=0 ;; *) ok=1 ;; esac
	result $ok "simd_${simd}_means_${best}_here" "$log"
	[ "$(cat /sys/module/vexfs/parameters/simd)" = "$simd" ]
	result $? "sysfs_says_simd_$simd"
	# What was searched with once need not be searched with again.
	case $tried in *" $best "*) continue ;; esac
	tried="$tried$best "
	out=$(right_answers)
	result $? "searches_are_right_with_$best" "$out"
done
for section_us in 1 1000; do
	load section_us=$section_us
	result $? "loads_with_section_us_$section_us" "$said $log"
	out=$(right_answers)
	result $? "searches_are_right_in_sections_of_$section_us" "$out"
done

while IFS='|' read -r parameter name sentence; do
	! load "$parameter"
	result $? "refuses_$name" "$log"
	case $said in *"nvalid "*) ok=0 ;; *) ok=1 ;; esac
	result $ok "says_invalid_to_$name" "$said"
	[ -z "$sentence" ] && continue
	case $log in *"$sentence"*) ok=0 ;; *) ok=1 ;; esac
	result $ok "explains_why_$name" "$log"
done <<'END'
simd=garbage|simd_garbage|simd= takes auto or one of scalar, avx2
simd=AVX2|simd_in_capitals|simd= takes auto or one of scalar, avx2
simd=avx|half_a_name|simd= takes auto or one of scalar, avx2
simd=|no_name|simd= takes auto or one of scalar, avx2
section_us=0|no_time|section_us= takes microseconds from 1 to 1000
section_us=1001|too_much_time|section_us= takes microseconds from 1 to 1000
section_us=-1|negative_time|
section_us=x|a_time_that_is_no_number|
END

load
result $? loads_again "$said $log"
if [ -d /sys/kernel/debug/tracing ] || [ -d /sys/kernel/debug/vexfs ]; then
	[ "$(stat -c %a:%u $bench)" = 600:0 ]
	result $? debugfs_file_is_for_root
	bad=0
	for line in "" f32 "f32 l2sq" "f32 l2sq 384" "f32 l2sq 384 85 1" "f32 hamming 384 85" \
		"f64 l2sq 384 85" "f32 l2sq 0 85" "f32 l2sq 65537 1" "f32 l2sq 384 0" \
		"f32 l2sq 65536 17" "f32 l2sq -1 -1" "f32 l2sq 18446744073709551615 1" \
		"f32 l2sq 1 18446744073709551616" "$(printf %065d 1)"; do
		# An empty write is none.
		[ -z "$line" ] || ! printf %s "$line" 2>/dev/null >$bench || {
			bad=1
			echo "# taken: $line"
		}
	done
	result $bad debugfs_file_refuses_what_it_can_not_measure
	for line in "f32 cosine 384 10" "f16 l2sq 1 1" "i8 inner_product 65536 1" "binary hamming 100 7"; do
		printf '%s\n' "$line" >$bench && answer=$(cat $bench)
		echo "$answer" | grep -qE "^[a-z0-9]+ $line [0-9]+ [0-9]+ [0-9]+$"
		result $? "debugfs_file_measures_$(echo "$line" | tr ' ' _)" "$answer"
	done
	rmmod vexfs
	[ ! -e /sys/kernel/debug/vexfs ]
	result $? debugfs_file_goes_with_the_module
	load
	result $? loads_after_all "$said $log"
fi
echo "1..$number"
exit $failed
