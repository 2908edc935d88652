# SPDX-License-Identifier: GPL-2.0
#
# The commands of VexFS. Kbuild beside this file is what the kernel's build reads;
# this one only calls it, through scripts/kbuild. `make help` lists the commands.

# The kernel's build takes Kbuild before Makefile; were this file included there
# nevertheless, it would have nothing to say.
ifeq ($(KERNELRELEASE),)

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
export KSRC KDIR JOBS CARGO PEERS

# scripts/lib.sh knows where the compilers are.
WITH_ENV := . scripts/lib.sh &&

## run         set up, build, boot a guest and search real embeddings in it
.PHONY: run
run: modules tools
	tests/demo/run.sh

## test        user-space tests, then the kselftests in a guest
.PHONY: test
test: modules tools
	tests/run.sh

## test-arm64  the kselftests in an emulated arm64 guest
.PHONY: test-arm64
test-arm64: modules-arm64 tools-arm64
	tests/run.sh arm64

## test-debug  the kselftests on a kernel with KASAN, lockdep, kmemleak and fault injection; not part of test; hours
.PHONY: test-debug
test-debug: modules-debug tools
	tests/run.sh debug

## check       formatting, clippy, layouts, forbidden words; boots nothing
.PHONY: check
check: setup-tools
	scripts/check

## test-in-tree  VexFS inside a kernel tree, =m and =y, booted; not part of test; needs root
.PHONY: test-in-tree
test-in-tree: kernel-x86_64 tools
	scripts/test-in-tree

## test-simd-arm64  simd/ in an emulator, with and without DotProd; test-simd-miri: in Miri
.PHONY: test-simd-arm64 test-simd-miri
test-simd-arm64 test-simd-miri: test-simd-%: setup-tools
	scripts/test-simd $*

## fuzz-simd   libFuzzer on the door of simd/, for SECONDS=60
.PHONY: fuzz-simd
fuzz-simd: setup-tools
	scripts/test-simd fuzz $(or $(SECONDS),60)

## bench       measurements, one JSON object per line: in User-Mode Linux, then bench-simd; PEERS=1: beside others
.PHONY: bench
bench: modules-um tools
	@tests/bench/run.sh
	@tests/bench/simd.sh $(FILTER)

## bench-simd  the arithmetic alone, in user space; PEERS=1: beside other libraries, FILTER=f32/l2sq
.PHONY: bench-simd
bench-simd: setup-tools
	@tests/bench/simd.sh $(FILTER)

## shell       a guest with a VexFS volume mounted, for trying things
.PHONY: shell
shell: modules tools
	qemu/vm --tty --disk 1G -- qemu/shell

## setup       packages, Rust, kernel source and the guest kernel (part of the others)
.PHONY: setup setup-tools
setup: kernel
setup-tools:
	@scripts/setup --tools

## kernel      the guest kernel for QEMU; kernel-um, kernel-x86_64-debug, kernel-arm64: the others
.PHONY: kernel kernel-x86_64 kernel-um kernel-x86_64-debug kernel-arm64
kernel: kernel-x86_64
kernel-x86_64 kernel-um kernel-x86_64-debug kernel-arm64: kernel-%:
	@scripts/setup $*

## modules     vexfs.ko for that kernel (build/x86_64); modules-um, modules-debug, modules-arm64
.PHONY: modules modules-um modules-debug modules-arm64
modules: kernel-x86_64
	@scripts/kbuild x86_64
modules-um: kernel-um
	@scripts/kbuild um
modules-debug: kernel-x86_64-debug
	@scripts/kbuild x86_64-debug
modules-arm64: kernel-arm64
	@scripts/kbuild arm64

## tools       mkfs.vexfs, fsck.vexfs, vexfs and the others, in target/release; tools-arm64 for arm64 guests
.PHONY: tools tools-arm64
tools: setup-tools
	@$(WITH_ENV) $(CARGO) build --release --workspace --bins
	@ln -sf mkfs_vexfs "$${CARGO_TARGET_DIR:-target}/release/mkfs.vexfs" # cargo's names have no dot
	@ln -sf fsck_vexfs "$${CARGO_TARGET_DIR:-target}/release/fsck.vexfs"
tools-arm64: kernel-arm64
	@$(WITH_ENV) arm64_cargo build --release --workspace --bins
	@ln -sf mkfs_vexfs "$${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/release/mkfs.vexfs"
	@ln -sf fsck_vexfs "$${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/release/fsck.vexfs"

## install     tools and header to PREFIX=/usr/local, a module built with KDIR= to its kernel
.PHONY: install
install: tools
	scripts/install "$(DESTDIR)" "$(PREFIX)"

## clean       what was built in the checkout; the cache stays
.PHONY: clean
clean:
	rm -rf build target

.PHONY: help
help:
	@echo "VexFS: make COMMAND"
	@sed -n 's/^## \([^ ]*\) */\1 /p' Makefile | while read -r c what; do printf '  %-15s %s\n' "$$c" "$$what"; done
	@echo "KSRC=DIR: a kernel source of yours. KDIR=DIR: a built kernel tree. JOBS=N: compilers at once."
	@echo "VEXFS_CACHE=DIR: where kernels go (~/.cache/vexfs). Guests by hand: qemu/vm --help."

endif
