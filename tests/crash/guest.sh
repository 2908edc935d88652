#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# One boot of the crash test: mounts the volume, which recovers its journal, checks
# what the last boots had acknowledged, and goes on writing until the guest dies.
#
#   guest.sh CRASH_WORK SEED          check, then write until killed
#   guest.sh CRASH_WORK SEED --check  check, mount again, check again
set -u
work=$1 seed=$2
volume=${VEXFS_DISKS%% *}
log=${VEXFS_DISKS#* }
export VEXFS_TEST_FS="${VEXFS_TEST_FS:-vexfs}"
mkdir -p /tmp/volume
if ! mount -t "$VEXFS_TEST_FS" "$volume" /tmp/volume; then
	echo "not ok 1 mount_after_a_crash"
	exit 1
fi
# Recovered and unmounted, the volume must be sound as a whole.
if [ "$VEXFS_TEST_FS" = vexfs ] && command -v fsck.vexfs >/dev/null; then
	umount /tmp/volume || { echo "not ok 1 unmount_after_recovery"; exit 1; }
	fsck.vexfs -n "$volume" >/tmp/check 2>&1 ||
		{ sed 's/^/# /' /tmp/check; echo "not ok 1 sound_after_recovery"; exit 1; }
	mount -t "$VEXFS_TEST_FS" "$volume" /tmp/volume || { echo "not ok 1 mount_again"; exit 1; }
fi
if [ "${3:-}" != --check ]; then
	exec "$work" /tmp/volume "$log" "$seed"
fi
for time in first second; do
	"$work" --check /tmp/volume "$log" "$seed" || exit 1
	umount /tmp/volume || { echo "not ok 1 unmount"; exit 1; }
	[ $time = second ] || mount -t "$VEXFS_TEST_FS" "$volume" /tmp/volume ||
		{ echo "not ok 1 mount_after_unmount"; exit 1; }
done
