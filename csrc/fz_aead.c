#include "fz_aead.h"

#include "fz_cpu.h"

/* The widest implementation that fz_cpu_features() allows. */

void fz_aead_seal(fz_aead_job *jobs, size_t n) {
#if FZ_X86
  uint32_t features = fz_cpu_features();
  if (features & FZ_CPU_AVX512) {
    fz_aead_seal_avx512(jobs, n);
    return;
  }
  if (features & FZ_CPU_AVX2) {
    fz_aead_seal_avx2(jobs, n);
    return;
  }
#endif
  fz_aead_seal_portable(jobs, n);
}

size_t fz_aead_open(fz_aead_job *jobs, size_t n) {
#if FZ_X86
  uint32_t features = fz_cpu_features();
  if (features & FZ_CPU_AVX512) return fz_aead_open_avx512(jobs, n);
  if (features & FZ_CPU_AVX2) return fz_aead_open_avx2(jobs, n);
#endif
  return fz_aead_open_portable(jobs, n);
}
