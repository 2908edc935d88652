#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's part of run.sh: a VexFS and an ext4 volume on disks of the same kind, then the
# distance kernels in the kernel and in user space. Indexes are index.sh's.
set -eu
program=$1
shift
vexfs=${VEXFS_DISKS%% *}
ext4=${VEXFS_DISKS#* }
mkdir -p /mnt/vexfs /mnt/ext4
mkfs.vexfs -q -f "$vexfs"
mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 "$ext4"
mount -t vexfs "$vexfs" /mnt/vexfs
mount -t ext4 "$ext4" /mnt/ext4
status=0
"$program" /mnt/vexfs /mnt/ext4 "$@" || status=$?
simd_bench --kernel /sys/kernel/debug/vexfs/simd_bench --rounds "${SIMD_ROUNDS:-5}" || status=$?
umount /mnt/vexfs /mnt/ext4
exit $status
