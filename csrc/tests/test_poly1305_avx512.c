// sources: fz_cpu.c
// sanitize: address,undefined
/* Poly1305 in lanes and the scalar one, with keys and texts chosen to make every carry happen, against arithmetic on bits: random
 * keys never reach the last reduction. */
#include "fz_cpu.h"
#include "fz_poly1305_avx512.h"
#include "fz_slow_poly.h"

int main(void) {
  if (!(fz_cpu_features() & FZ_CPU_AVX512)) return 0;
  compare();
  /* h = 2^130 - 5 + k before the last reduction, one k to a lane; the pad carries from its low to its high half. */
  for (uint64_t first = 0; first < 12; first += 4) {
    uint64_t k[8], low[8], high[8];
    for (uint64_t i = 0; i < 8; i++) k[i] = first + i;
    limbs h = {{_mm512_add_epi64(all(FZ_M44 - 4), _mm512_loadu_si512(k)), all(FZ_M44), all(FZ_M42)}};
    W out[2];
    finish(h, all(~0ull), all(7), &out[0], &out[1]);
    _mm512_storeu_si512(low, out[0]);
    _mm512_storeu_si512(high, out[1]);
    for (uint64_t i = 0; i < 8; i++) CHECK(low[i] == k[i] - 1 && high[i] == 7u + (k[i] != 0));
  }
  /* A carry out of every limb at once. */
  limbs h = {{all(FZ_M44), all(FZ_M44 + 1), all(FZ_M42)}};
  W out[2];
  uint64_t low[8];
  finish(h, _mm512_setzero_si512(), _mm512_setzero_si512(), &out[0], &out[1]);
  _mm512_storeu_si512(low, out[0]);
  for (int i = 0; i < 8; i++) CHECK(low[i] == 4 + (1ull << 44)); /* 2^130 - 1 + 2^44 is 4 + 2^44 */
  return 0;
}
