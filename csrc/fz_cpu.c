#include "fz_cpu.h"

#include <stdatomic.h>
#include <stdlib.h>

#define DETECTED 0x80000000u /* tells a machine without features from a word not yet filled */

static _Atomic uint32_t detected;
static _Atomic uint32_t forced = ~0u;

/* __builtin_cpu_supports also asks whether the operating system saves the wide registers. */
static uint32_t detect(void) {
  uint32_t found = 0;
#if FZ_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found |= FZ_CPU_AVX2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512ifma"))
    found |= FZ_CPU_AVX512;
#endif
  const char *mask = getenv("FZ_CPU_MASK");
  if (mask) found &= (uint32_t)strtoul(mask, NULL, 0);
  return found | DETECTED;
}

uint32_t fz_cpu_features(void) {
  uint32_t word = atomic_load_explicit(&detected, memory_order_relaxed);
  if (FZ_UNLIKELY(!word)) {
    word = detect();
    atomic_store_explicit(&detected, word, memory_order_relaxed);
  }
  return word & FZ_CPU_KNOWN & atomic_load_explicit(&forced, memory_order_relaxed);
}

uint32_t fz_cpu_force(uint32_t mask) {
  atomic_store_explicit(&forced, mask, memory_order_relaxed);
  return fz_cpu_features();
}
