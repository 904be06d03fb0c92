// sources: fz_cpu.c
// sanitize: address,undefined
/* Poly1305 in lanes and the scalar one, with keys and texts chosen to make every carry happen, against arithmetic on bits: random
 * keys never reach the last reduction. */
#include "fz_cpu.h"
#include "fz_poly1305_avx2.h"
#include "fz_slow_poly.h"

int main(void) {
  if (!(fz_cpu_features() & FZ_CPU_AVX2)) return 0;
  compare();
  /* h = 2^130 - 5 + k before the last reduction. */
  for (uint64_t k = 0; k < 12; k++) {
    fz_poly1305 p = {.r = {1, 0, 0}, .s = {20, 0, 0}, .h = {FZ_M44 - 4, FZ_M44, FZ_M42}};
    uint64_t h[5] = {0x3fffffb + k, 0x3ffffff, 0x3ffffff, 0x3ffffff, 0x3ffffff};
    uint8_t tag[16], expected[16] = {0}, pad[16] = {0};
    p.h[0] += k;
    expected[0] = (uint8_t)k;
    fz_poly1305_finish(&p, pad, tag);
    CHECK(memcmp(tag, expected, 16) == 0);
    finish(h, pad, tag);
    CHECK(memcmp(tag, expected, 16) == 0);
  }
  return 0;
}
