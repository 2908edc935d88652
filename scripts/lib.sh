# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the scripts share: where things are, how to say something, and the
# compilers the kernel is built with. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${VEXFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vexfs}
LLVM_VERSION=19
LLVM_BIN=${LLVM_BIN:-/usr/lib/llvm-$LLVM_VERSION/bin}
# The kernel asks for 1.85; the AVX-512 intrinsics are stable from 1.89.
RUST_MIN=1.89
BINDGEN_VERSION=0.72.1
# The in-kernel interfaces we are written for: linux-source-7.2 or newer.
KERNEL_MIN=7.2

export PATH=$LLVM_BIN:$CACHE/tools/bin:$PATH
# Debian keeps mkfs.ext4 and insmod where users other than root don't look.
PATH=$PATH:/usr/sbin:/sbin
[ -d "$HOME/.cargo/bin" ] && PATH=$PATH:$HOME/.cargo/bin
[ -d "$LLVM_BIN/../lib" ] && export LIBCLANG_PATH=$LLVM_BIN/../lib

say() { printf '%s\n' "$*" >&2; }
die() {
	say "error: $*"
	exit 1
}

# at_least HAVE WANT - compares dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

jobs() { echo "${JOBS:-$(nproc)}"; }

# undisturbed COMMAND... - for measurements: on the last processor alone, and ahead of other work there, if
# that is allowed. Others may share the processor, but not interrupt.
undisturbed() {
	local ahead=(taskset -c "$(($(nproc) - 1))" chrt --fifo 1)
	"${ahead[@]}" true 2>/dev/null || ahead=(taskset -c "$(($(nproc) - 1))")
	"${ahead[@]}" "$@"
}

# kernel_source - the source tree: KSRC=, or the newest one in the cache.
kernel_source() {
	if [ -n "${KSRC:-}" ]; then
		[ -f "$KSRC/Kconfig" ] || die "KSRC=$KSRC is not a kernel source tree."
		(cd "$KSRC" && pwd -P)
		return
	fi
	local newest
	newest=$(printf '%s\n' "$CACHE"/src/linux-source-*/Kconfig | sort -V | tail -n1)
	[ -f "$newest" ] && dirname "$newest"
}

# kernel_version TREE - as 7.3.4, without asking make.
kernel_version() {
	awk '$1 == "VERSION" { v = $3 } $1 == "PATCHLEVEL" { p = $3 } $1 == "SUBLEVEL" { s = $3 }
	     NR > 20 { exit } END { print v "." p "." s }' "$1/Makefile"
}

# fragments NAME - the files of qemu/config that make up a configuration.
fragments() {
	case $1 in
	um) echo common.config um.config ;;
	x86_64) echo common.config x86_64.config ;;
	x86_64-debug) echo common.config x86_64.config x86_64-debug.config ;;
	arm64) echo common.config arm64.config ;;
	*) die "there is no kernel configuration '$1': use um, x86_64, x86_64-debug or arm64." ;;
	esac
}

kernel_arch() { case $1 in um | arm64) echo "$1" ;; *) echo x86_64 ;; esac }

# kernel_id NAME - changes with whatever would change the kernel's objects.
kernel_id() {
	# shellcheck disable=SC2046 # file names without blanks
	(cd "$ROOT/qemu/config" && { grep -h '^CONFIG' $(fragments "$1") && rustc --version && clang --version | head -n1; }) |
		sha256sum | cut -c1-10
}

# kernel_tree NAME - where the build of this configuration, by these compilers, is.
kernel_tree() {
	local src tree
	src=$(kernel_source)
	tree=$CACHE/build/$(kernel_version "$src")-$1-$(kernel_id "$1")
	[ -z "${KSRC:-}" ] || tree=$tree-$(printf %s "$src" | sha256sum | cut -c1-6)
	echo "$tree"
}

# kernel_ready NAME - whether it is built, as it would be built now.
kernel_ready() {
	local tree
	[ -n "$(kernel_source)" ] || return 1
	tree=$(kernel_tree "$1")
	[ -e "$tree/.vexfs-done" ] && [ "$(readlink "$CACHE/build/$1")" = "$tree" ]
}

# --- programs for arm64 guests ----------------------------------------------

ARM64_RUST=aarch64-unknown-linux-gnu
# A small Debian: the guest's /usr, and the C library to compile for it.
ARM64_ROOT=$CACHE/arm64/root
ARM64_CC="clang --target=aarch64-linux-gnu --sysroot=$ARM64_ROOT -fuse-ld=lld"

# arm64_cargo ARGUMENT... - cargo for the guest.
arm64_cargo() {
	local flags="-Clinker=clang" f
	for f in --target=aarch64-linux-gnu "--sysroot=$ARM64_ROOT" -fuse-ld=lld; do
		flags+=" -Clink-arg=$f"
	done
	# Where scripts/setup puts Debian's libstd; rustup's is found without.
	flags+=" -L$ARM64_ROOT/usr/lib/rustlib/$ARM64_RUST/lib"
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$flags \
		BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu=--sysroot=$ARM64_ROOT \
		"${CARGO:-cargo}" "$@" --target "$ARM64_RUST"
}
