#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# bindgen.sh BINDGEN KERNEL_BINDINGS HEADER OUT PARAMETERS -- CFLAGS...
#
# Generates the bindings of fs/vfs: the types and functions that the kernel crate
# leaves out. What kernel::bindings has in full is blocked here and imported from
# there, so that there is one Rust type for each C type. Which types those are
# depends on the kernel configuration, so the list is computed for each build tree.
set -eu

bindgen=$1 kernel_bindings=$2 header=$3 out=$4 parameters=$5
shift 6

list=$(mktemp)
trap 'rm -f "$list"' EXIT

# Types that the kernel crate has opaque and that are needed in full here.
full='^(buffer_head|fs_context|fs_parameter|fs_parameter_spec|iomap_ops|kstatfs)$'

# Structures, unions, type aliases and functions.
awk -v full="$full" '
	/^pub (struct|union) [A-Za-z_0-9]+ \{/ { name = $3; if (name !~ full) print "T", name; next }
	/^pub (struct|union) [A-Za-z_0-9]+</ { name = $3; sub(/<.*/, "", name); print "T", name; next }
	/^pub struct [A-Za-z_0-9]+\(/ { name = $3; sub(/\(.*/, "", name); print "T", name; next }
	/^pub type [A-Za-z_0-9]+/ { name = $3; sub(/[^A-Za-z_0-9].*/, "", name); print "T", name; next }
	/^ *pub fn [A-Za-z_0-9]+\(/ { name = $3; sub(/\(.*/, "", name); print "F", name; next }
' "$kernel_bindings" | sort -u > "$list"

# One argument must stay below 128 KiB.
args() {
	awk -v kind="$1" -v option="$2" '
		$1 == kind { if (length(s) > 60000) { print option; print s; s = "" } s = s (s == "" ? "" : "|") $2 }
		END { if (s != "") { print option; print s } }' "$list"
}

{ args T --blocklist-type; args F --blocklist-function; } > "$list.args"
trap 'rm -f "$list" "$list.args"' EXIT

# Names hold no blanks and no globs; the kernel's parameter file is quoted for a shell.
set -f
cflags=$*
eval "set -- $(grep -Ev '^#|^$' "$parameters" | tr '\n' ' ')"
# shellcheck disable=SC2046,SC2086
"$bindgen" "$header" "$@" $(cat "$list.args") \
	--rust-target 1.85 --use-core --with-derive-default --ctypes-prefix kernel::ffi \
	--no-layout-tests --no-debug '.*' --enable-function-attribute-detection \
	--allowlist-file '.*/linux/(jbd2|iomap|buffer_head|fs_context|fs_parser|statfs|posix_acl|fileattr|exportfs|pagemap|iversion)\.h' \
	--allowlist-file '.*/fs/vfs/helpers\.h' \
	--allowlist-function 'crc32c|get_tree_bdev|kill_block_super|(un)?register_filesystem|iget_locked|iget_failed|unlock_new_inode|insert_inode_locked4?|discard_new_inode|new_inode|iput|ihold|clear_inode|(set|inc|drop|clear)_nlink|inode_init_owner|inode_init_once|d_(make_root|instantiate_new|instantiate|splice_alias|add|tmpfile)|setattr_(prepare|copy)|generic_(fillattr|file_llseek|file_read_iter|read_dir|write_checks|setlease|update_time|file_fsync)|simple_inode_init_ts|inode_set_ctime_(to_ts|current)|current_time|timestamp_truncate|file_(modified|write_and_wait_range|check_and_advance_wb_err|fdatawait_range|update_time)|filemap_.*|truncate_(setsize|inode_pages_final|pagecache|pagecache_range)|pagecache_isize_extended|sb_(min|set)_blocksize|blkdev_issue_(flush|discard)|posix_acl_.*|touch_atime|init_special_inode|sync_(filesystem|blockdev)|invalidate_bdev|alloc_workqueue_noprof|destroy_workqueue|flush_workqueue|queue_work_on|mnt_(want|drop)_write_file|file_ra_state_init|iov_iter_.*|kvfree_call_rcu|unregister_shrinker|freezer_.*|seq_(puts|printf)|fserror_report|bmap|inode_dio_wait|inode_.*_bytes|nop_mnt_idmap|folio_wait_writeback|kmem_cache_destroy|__kmem_cache_create_args|kmem_cache_free|rcu_barrier|page_get_link|security_inode_init_security|read_cache_folio|mark_buffer_dirty|generic_file_mmap_prepare|generic_block_fiemap|fiemap_prep|d_obtain_alias|dentry_.*|iter_file_splice_write|unmap_mapping_range|ilookup|get_random_u32|ktime_get|sort|ktime_get_real_seconds|generic_error_remove_folio|(down|up)_(read|write)' \
	--allowlist-type 'super_operations|inode_operations|file_operations|address_space_operations|file_system_type|dir_context|kstat|iattr|vm_operations_struct|kmem_cache_args|fs_update_time|workqueue_struct|kstatfs|mnt_idmap|delayed_call|seq_file|writeback_control|work_struct' \
	--allowlist-var 'SB_.*|S_I.*|S_[A-Z]+|ATTR_.*|STATX_.*|RENAME_.*|FS_.*|I_(NEW|DIRTY.*)|IOMAP_.*|JBD2_.*|DT_.*|FMODE_.*|IOCB_.*|FIEMAP_.*|VM_.*|WB_SYNC.*|WQ_.*|DIR_CONTEXT.*|GFP_.*|PAGECACHE_TAG.*|SLAB_.*|_SLAB_.*|MAX_LFS_FILESIZE|vexfs_.*' \
	--raw-line '#[allow(unused_imports)] pub(crate) use kernel::bindings::*;' \
	--raw-line '#[allow(unused_imports)] use pin_init::{MaybeZeroable, Zeroable};' \
	-o "$out" -- $cflags -fno-builtin -D__BINDGEN__ -DMODULE
