#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Damaged images, in a guest with three disks: two of one size and one of half of it.
#   guest.sh IMAGE_CHECK ROUNDS SEED
set -u
set -- "$1" "$2" "$3" $VEXFS_DISKS
mkdir -p /tmp/volume
mkfs.vexfs -q -f "$4" || { echo "not ok 1 mkfs"; exit 1; }
export VEXFS_TEST_FS=vexfs
exec "$1" "$4" "$5" "$6" /tmp/volume "$2" "$3"
