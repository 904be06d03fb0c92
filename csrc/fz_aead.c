#include "fz_aead.h"

#include "fz_cpu.h"

/* The widest implementation that fz_cpu_features() allows. An AVX-512 one (sixteen ChaCha20 lanes, eight Poly1305 lanes of
 * 44-bit limbs with vpmadd52) would be fz_aead_avx512.c, asked for first, under FZ_CPU_AVX512; the ISA table of setup.py
 * knows its flags already. */

void fz_aead_seal(fz_aead_job *jobs, size_t n) {
#if FZ_X86
  if (fz_cpu_features() & FZ_CPU_AVX2) {
    fz_aead_seal_avx2(jobs, n);
    return;
  }
#endif
  fz_aead_seal_portable(jobs, n);
}

size_t fz_aead_open(fz_aead_job *jobs, size_t n) {
#if FZ_X86
  if (fz_cpu_features() & FZ_CPU_AVX2) return fz_aead_open_avx2(jobs, n);
#endif
  return fz_aead_open_portable(jobs, n);
}
