/* Poly1305 of fz_poly1305_avx512.h for tests/kernels/aead_library.py: up to MAC_GROUP messages at once. */
#include "fz_poly1305_avx512.h"

void fz_mac_avx512(const message *messages, uint32_t n) {
  message sorted[MAC_GROUP];
  memcpy(sorted, messages, n * sizeof *messages);
  authenticate(sorted, n);
}
