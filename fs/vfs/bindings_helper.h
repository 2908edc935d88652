/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for fs/vfs: the headers whose types the kernel crate leaves
 * out or opaque, and the prototypes of helpers_*.c.
 *
 * hrtimer_types.h comes first, as in rust/bindings/bindings_helper.h: it breaks
 * an enum forward reference.
 */
#include <linux/hrtimer_types.h>

#include <linux/backing-dev.h>
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/crc32.h>
#include <linux/exportfs.h>
#include <linux/fileattr.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/iomap.h>
#include <linux/iversion.h>
#include <linux/jbd2.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sort.h>
#include <linux/statfs.h>
#include <linux/uio.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>

#include "helpers.h"
