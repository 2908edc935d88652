#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's part of the index benchmarks: bench_index or bench_churn with the arguments that
# follow the directory, on a fresh volume.
set -eu
program=$1
shift
mkdir -p /mnt/vexfs
mkfs.vexfs -q -f "$VEXFS_DISKS"
mount -t vexfs "$VEXFS_DISKS" /mnt/vexfs
status=0
"$program" /mnt/vexfs "$@" || status=$?
umount /mnt/vexfs
exit $status
