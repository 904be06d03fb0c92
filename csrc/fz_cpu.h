/* What this CPU can do, as a word of bits; every dispatcher of this folder asks here and nowhere else.
 *
 * The word is found out once, at the first call. The environment variable FZ_CPU_MASK (a number as strtoul reads it, for
 * tests and for support) is applied to it; so is the mask of fz_cpu_force. A mask only ever removes features: an
 * implementation that the machine cannot run is never chosen. Calls are safe from any thread.
 */
#ifndef FZ_CPU_H
#define FZ_CPU_H

#include "fz_common.h"

#if defined(__x86_64__)
#define FZ_X86 1
#else
#define FZ_X86 0
#endif

#define FZ_CPU_AVX2 1u
#define FZ_CPU_AVX512 2u /* F, BW, VL, DQ and IFMA together */
#define FZ_CPU_KNOWN 3u

/* The features to use: detected, and let through by both masks. */
uint32_t fz_cpu_features(void);

/* Sets the mask of the running process and returns the features that are left; ~0u lifts it. */
uint32_t fz_cpu_force(uint32_t mask);

#endif
