// SPDX-License-Identifier: GPL-2.0
/* Vector registers, what the processor can do with them, and what the module is told of it. See helpers.h. */

#include <linux/moduleparam.h>
#include <linux/sched.h>

#ifdef CONFIG_UML
#include <asm/cpufeature.h>
#elif defined(CONFIG_X86)
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#elif defined(CONFIG_ARM64)
#include <asm/cpufeature.h>
#include <asm/simd.h>
#include <asm/sysreg.h>
#include <linux/fpu.h>
#endif

#include "helpers.h"

/* The kernel crate has no string parameters. */
static char *simd = "auto";
module_param(simd, charp, 0444);
MODULE_PARM_DESC(simd, "Instruction set for distances, no higher than: auto, scalar, avx2, avx512, avx512vnni, avx512bf16, neon, neondot");

const char *vexfs_simd_parameter(void)
{
	return simd;
}

static unsigned int section_us = 20;
module_param(section_us, uint, 0444);
MODULE_PARM_DESC(section_us, "Microseconds of vector work done at once, without preemption: 1 to 1000");

unsigned int vexfs_section_parameter(void)
{
	return section_us;
}

/*
 * Vector registers, one way for each architecture: whether there are any, whether this task
 * may use them now, and how it takes and returns them. All of them keep the task on its
 * processor.
 *
 * User-Mode Linux defines CONFIG_X86_64 and CONFIG_UML, but not CONFIG_X86. Its kernel runs in
 * an ordinary process of the host, which keeps the registers; only a switch between its tasks
 * would lose them.
 */
#if defined(CONFIG_UML)
static bool fpu_exists(void)
{
	return true;
}

static bool fpu_usable(void)
{
	return true;
}

static void fpu_begin(void)
{
	preempt_disable();
}

static void fpu_end(void)
{
	preempt_enable();
}
#elif defined(CONFIG_X86)
static bool fpu_exists(void)
{
	return true;
}

static bool fpu_usable(void)
{
	return irq_fpu_usable();
}

static void fpu_begin(void)
{
	kernel_fpu_begin();
}

static void fpu_end(void)
{
	kernel_fpu_end();
}
#elif defined(CONFIG_ARM64)
static bool fpu_exists(void)
{
	return kernel_fpu_available();
}

static bool fpu_usable(void)
{
	/* kernel_neon_begin() has a BUG_ON() for each of these. */
	return may_use_simd() && !test_thread_flag(TIF_KERNEL_FPSTATE);
}

static void fpu_begin(void)
{
	kernel_fpu_begin();
	/* Rounding and flushing to zero are still as user space set them. */
	write_sysreg_s(0, SYS_FPCR);
}

static void fpu_end(void)
{
	kernel_fpu_end();
}
#else
#error "VexFS has vector kernels for x86-64 and arm64 only"
#endif

static DEFINE_PER_CPU(bool, vexfs_section_open);

/* How often the current task gave up its processor. */
static unsigned long switches(void)
{
	return current->nvcsw + current->nivcsw;
}

bool vexfs_fpu_exists(void)
{
	return fpu_exists();
}

bool vexfs_fpu_begin(unsigned long *switched)
{
	/*
	 * An open section keeps its task on its processor, so in task context the mark can
	 * only be this task's own.
	 */
	if (!in_task() || WARN_ON_ONCE(this_cpu_read(vexfs_section_open)) || !fpu_usable())
		return false;
	fpu_begin();
	__this_cpu_write(vexfs_section_open, true);
	*switched = switches();
	return true;
}

void vexfs_fpu_end(unsigned long switched)
{
	/*
	 * Sleeping is what loses the registers. Where preemption is counted the scheduler
	 * complains first; this sees it on every kernel.
	 */
	WARN_ONCE(switches() != switched, "vexfs: slept while using vector registers\n");
	__this_cpu_write(vexfs_section_open, false);
	fpu_end();
}

#if defined(CONFIG_UML) || defined(CONFIG_X86)
bool vexfs_cpu_has_avx2(void)
{
	return boot_cpu_has(X86_FEATURE_AVX2) && boot_cpu_has(X86_FEATURE_FMA);
}

bool vexfs_cpu_has_avx512(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512F) && boot_cpu_has(X86_FEATURE_AVX512BW) &&
	       boot_cpu_has(X86_FEATURE_AVX512VL) && boot_cpu_has(X86_FEATURE_AVX512DQ);
}

bool vexfs_cpu_has_avx512_vnni(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512_VNNI) && boot_cpu_has(X86_FEATURE_AVX512_VPOPCNTDQ);
}

bool vexfs_cpu_has_avx512_bf16(void)
{
	return boot_cpu_has(X86_FEATURE_AVX512_BF16);
}
#else
bool vexfs_cpu_has_avx2(void)
{
	return false;
}

bool vexfs_cpu_has_avx512(void)
{
	return false;
}

bool vexfs_cpu_has_avx512_vnni(void)
{
	return false;
}

bool vexfs_cpu_has_avx512_bf16(void)
{
	return false;
}
#endif

bool vexfs_cpu_has_neon_dot(void)
{
#ifdef CONFIG_ARM64
	/* What the processors of a machine have in common, however they differ. */
	return cpu_have_named_feature(ASIMDDP) && cpu_have_named_feature(ASIMDHP) &&
	       cpu_have_named_feature(ASIMDFHM);
#else
	return false;
#endif
}
