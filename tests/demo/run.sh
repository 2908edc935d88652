#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The main job, from a blank disk to answers: what `make run` runs when the module
# and the tools are built. Options go to qemu/vm, such as --uml or --debug.
set -euo pipefail
cd "$(dirname "$0")/../.."

release=${CARGO_TARGET_DIR:-$PWD/target}/release
for tool in vexfs mkfs.vexfs; do
	if [ ! -x "$release/$tool" ]; then
		echo "error: $release/$tool is not built; run: make tools" >&2
		exit 1
	fi
done

exec qemu/vm --disk 512M --timeout 1200 "$@" -- tests/demo/guest.sh
