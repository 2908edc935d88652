#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the kselftests, in a guest or wherever one is root: formats the first disk
# of $VEXFS_DISKS for them, and gives them the second, a small one, to format
# themselves. Prints KTAP, one plan per program.
#
#   guest.sh DIR [PROGRAM[:OPTIONS]...]
#
# runs programs of DIR, without names all of them, on a volume mounted with OPTIONS.
#
# VEXFS_TEST_FS=ext4 runs them on another filesystem: so it is seen whether a test
# or VexFS is wrong.
set -u
dir=$1
shift
: "${VEXFS_TEST_FS:=vexfs}"
disk=${VEXFS_DISKS%% *}
scratch=${VEXFS_DISKS#* }
scratch=${scratch%% *}
case $VEXFS_TEST_FS in
vexfs) VEXFS_MKFS="mkfs.vexfs -q -f" ;;
ext4) VEXFS_MKFS="mkfs.ext4 -q -F -b 4096" ;;
*) VEXFS_MKFS="mkfs.$VEXFS_TEST_FS" ;;
esac

work=$(mktemp -d /tmp/kselftest.XXXXXX) || exit 1
VEXFS_TEST_DIR=$work/volume VEXFS_SCRATCH_DIR=$work/scratch VEXFS_TMPFS_DIR=$work/tmpfs
mkdir "$VEXFS_TEST_DIR" "$VEXFS_SCRATCH_DIR" "$VEXFS_TMPFS_DIR"
mount -t tmpfs tmpfs "$VEXFS_TMPFS_DIR" || exit 1
export VEXFS_TEST_FS VEXFS_MKFS VEXFS_TEST_DIR VEXFS_SCRATCH_DIR VEXFS_TMPFS_DIR
if [ "$scratch" != "$disk" ]; then
	export VEXFS_SCRATCH_DEV="$scratch"
fi

# The tests drop caches often; the kernel need not say so each time.
echo 4 >/proc/sys/vm/drop_caches

fresh_volume() {
	umount "$VEXFS_TEST_DIR" 2>/dev/null
	if ! $VEXFS_MKFS "$disk" >&2 ||
		! mount -t "$VEXFS_TEST_FS" -o "${1:-rw}" "$disk" "$VEXFS_TEST_DIR"; then
		echo "not ok 1 volume: $VEXFS_MKFS and mount of $disk"
		exit 1
	fi
}

# The volume must be sound after each program, as mkfs made it and the kernel left it.
number=0
check_volume() {
	number=$((number + 1))
	if [ "$VEXFS_TEST_FS" = vexfs ] && command -v fsck.vexfs >/dev/null; then
		set -- "$1" fsck.vexfs -n
	elif [ "$VEXFS_TEST_FS" = ext4 ]; then
		set -- "$1" e2fsck -f -n
	else
		echo "ok $number $1.leaves_a_sound_volume # SKIP there is no checker for it"
		return
	fi
	name_=$1
	shift
	if ! umount "$VEXFS_TEST_DIR"; then
		echo "not ok $number $name_.lets_go_of_the_volume"
		failed=1
		return
	fi
	if said=$("$@" "$disk" 2>&1); then
		echo "ok $number $name_.leaves_a_sound_volume"
	else
		echo "$said" | tail -n 12 | sed 's/^/# /'
		echo "not ok $number $name_.leaves_a_sound_volume"
		failed=1
	fi
	mount -t "$VEXFS_TEST_FS" -o "$options" "$disk" "$VEXFS_TEST_DIR"
}

failed=0
fresh_volume
[ $# -gt 0 ] || set -- $(cd "$dir" && ls | grep -E '^(posix|vector)_[a-z0-9_]*$')
for name in "$@"; do
	echo "# program $name"
	start=$(date +%s)
	options=rw
	case $name in
	*:*)
		options=${name#*:}
		fresh_volume "$options"
		export VEXFS_TEST_OPTIONS="$options"
		;;
	*) unset VEXFS_TEST_OPTIONS ;;
	esac
	timeout -k 5 3000 "$dir/${name%%:*}" 2>&1 || failed=1
	echo "# $name took $(($(date +%s) - start)) s"
	echo "# program ${name}_volume"
	check_volume "$name"
	# One program's accident must not be the next one's.
	if ! mountpoint -q "$VEXFS_TEST_DIR" || ! touch "$VEXFS_TEST_DIR/alive" ||
		! rm "$VEXFS_TEST_DIR/alive"; then
		echo "not ok 1 $name: the volume can still be written afterwards"
		failed=1
		fresh_volume
	fi
	case $name in *:*) fresh_volume ;; esac
done

# What is left must be an empty volume that unmounts and mounts again.
options=rw
echo "# program volume"
echo "1..2"
left=$(ls -A "$VEXFS_TEST_DIR" | grep -vx lost+found)
if umount "$VEXFS_TEST_DIR" && mount -t "$VEXFS_TEST_FS" "$disk" "$VEXFS_TEST_DIR"; then
	echo "ok 1 volume.mounts_again"
	[ "$left" = "$(ls -A "$VEXFS_TEST_DIR" | grep -vx lost+found)" ] &&
		echo "ok 2 volume.lists_the_same" || { echo "not ok 2 volume.lists_the_same"; failed=1; }
	umount "$VEXFS_TEST_DIR"
else
	echo "not ok 1 volume.mounts_again"
	failed=1
fi
umount "$VEXFS_TMPFS_DIR"
exit $failed
