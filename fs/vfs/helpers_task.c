// SPDX-License-Identifier: GPL-2.0
/* Tasks, locks, memory, and work for other threads. See helpers.h. */

#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "helpers.h"

const gfp_t vexfs_gfp_nofs = GFP_NOFS;

void vexfs_init_rwsem(struct rw_semaphore *sem)
{
	init_rwsem(sem);
}

/* A lock class of its own: these are taken inside the others. */
void vexfs_init_rwlock(struct rw_semaphore *sem)
{
	init_rwsem(sem);
}

void vexfs_init_mutex(struct mutex *mutex)
{
	mutex_init(mutex);
}

/* Macros where locks are checked. */
void vexfs_mutex_lock(struct mutex *mutex)
{
	mutex_lock(mutex);
}

int vexfs_mutex_lock_killable(struct mutex *mutex)
{
	return mutex_lock_killable(mutex);
}

void vexfs_mutex_unlock(struct mutex *mutex)
{
	mutex_unlock(mutex);
}

unsigned int vexfs_nofs_save(void)
{
	return memalloc_nofs_save();
}

void vexfs_nofs_restore(unsigned int flags)
{
	memalloc_nofs_restore(flags);
}

bool vexfs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool vexfs_task_is_killed(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

void vexfs_cond_resched(void)
{
	cond_resched();
}

/* That of this processor, or the nearest one that has memory. */
int vexfs_memory_node(void)
{
	return numa_mem_id();
}

/* As alloc_pages_exact(), which takes no node: alloc_pages_exact_nid() is for booting. */
static void *alloc_exact_on(int node, size_t bytes, gfp_t gfp)
{
	unsigned int order = get_order(bytes);
	struct page *page = alloc_pages_node(node, gfp, order);
	unsigned long i;

	if (!page)
		return NULL;
	split_page(page, order);
	for (i = PAGE_ALIGN(bytes) >> PAGE_SHIFT; i < 1UL << order; i++)
		__free_page(page + i);
	return page_address(page);
}

/*
 * In one piece of the linear map where there is one, which costs the fewest TLB
 * misses. On @node if that has memory left, else on the nearest one, whatever the memory
 * policy of the task: others will use the memory. Neither warns nor kills: the caller has
 * an answer to ENOMEM.
 */
void *vexfs_chunk_alloc(size_t bytes, bool ones, int node)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN | (ones ? 0 : __GFP_ZERO);
	void *chunk = alloc_exact_on(node, bytes, gfp | __GFP_NORETRY);

	if (!chunk)
		chunk = vmalloc_huge_node(bytes, gfp | __GFP_RETRY_MAYFAIL, node);
	if (chunk && ones)
		memset(chunk, 0xff, bytes);
	return chunk;
}

void vexfs_chunk_free(void *chunk, size_t bytes)
{
	if (is_vmalloc_addr(chunk))
		vfree(chunk);
	else
		free_pages_exact(chunk, bytes);
}

bool vexfs_task_is_reclaiming(void)
{
	return current->flags & PF_MEMALLOC;
}

/* For loops around allocations of GFP_NOFS. */
void vexfs_wait_for_memory(void)
{
	memalloc_retry_wait(GFP_NOFS);
}

/* Nobody waits for an item that has not begun, so it needs none. */
struct workqueue_struct *vexfs_alloc_workers(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND | WQ_SYSFS, 0, name);
}

unsigned int vexfs_usable_cpus(void)
{
	return min(num_online_cpus(), cpumask_weight(current->cpus_ptr));
}

/* That of a remote charging scope if one is open, else the current task's; counted. */
void *vexfs_memcg_get(void)
{
	return get_mem_cgroup_from_mm(NULL);
}

void *vexfs_memcg_enter(void *memcg)
{
	return set_active_memcg(memcg);
}

void vexfs_memcg_put(void *memcg)
{
	mem_cgroup_put(memcg);
}
