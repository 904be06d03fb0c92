#include "fz_csum.h"

/* Two 32-bit lanes per word, one for each half: additions without carries, which compilers turn into SIMD. A lane takes this many
 * halves of 0xFFFF without overflow. */
#define WORDS_PER_ROUND 65536u

/* The sum was taken over words in native order; a one's complement sum may be swapped at the end instead (RFC 1071 2B). */
static inline uint16_t to_big_endian(uint16_t sum) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return (uint16_t)((uint16_t)(sum << 8) | (uint16_t)(sum >> 8));
#else
  return sum;
#endif
}

static inline uint64_t sum_tail(const uint8_t *p, size_t n) {
  uint32_t word = 0;
  if (n) memcpy(&word, p, n);
  return (uint64_t)(word & 0xFFFFu) + (word >> 16);
}

uint16_t fz_sum(const uint8_t *p, size_t n) {
  uint64_t total = 0;
  while (n >= 4) {
    size_t words = n / 4 < WORDS_PER_ROUND ? n / 4 : WORDS_PER_ROUND;
    uint32_t low = 0, high = 0;
    for (size_t i = 0; i < words; i++) {
      uint32_t word;
      memcpy(&word, p + 4 * i, 4);
      low += word & 0xFFFFu;
      high += word >> 16;
    }
    total += (uint64_t)low + high;
    p += 4 * words;
    n -= 4 * words;
  }
  return to_big_endian(fz_fold(total + sum_tail(p, n)));
}

uint16_t fz_copy_sum(uint8_t *restrict out, const uint8_t *restrict in, size_t n) {
  uint64_t total = 0;
  while (n >= 4) {
    size_t words = n / 4 < WORDS_PER_ROUND ? n / 4 : WORDS_PER_ROUND;
    uint32_t low = 0, high = 0;
    for (size_t i = 0; i < words; i++) {
      uint32_t word;
      memcpy(&word, in + 4 * i, 4);
      memcpy(out + 4 * i, &word, 4);
      low += word & 0xFFFFu;
      high += word >> 16;
    }
    total += (uint64_t)low + high;
    in += 4 * words;
    out += 4 * words;
    n -= 4 * words;
  }
  if (n) memcpy(out, in, n);
  return to_big_endian(fz_fold(total + sum_tail(in, n)));
}

uint16_t fz_csum_update(uint16_t checksum, const uint8_t *before, const uint8_t *after, size_t n) {
  uint64_t sum = (uint16_t)~checksum;
  for (size_t i = 0; i + 1 < n; i += 2) sum += (uint64_t)(uint16_t)~fz_load_be16(before + i) + fz_load_be16(after + i);
  return (uint16_t)~fz_fold(sum);
}
