/* Status codes, unaligned loads and stores, constant-time helpers: what every kernel in this folder shares.
 *
 * Alignment and byte order live here and nowhere else: all access to packet bytes goes through memcpy-based inlines,
 * which compilers turn into single instructions. Lengths are bytes.
 */
#ifndef FZ_COMMON_H
#define FZ_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FZ_OK 0
#define FZ_LIKELY(x) __builtin_expect(!!(x), 1)
#define FZ_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FZ_NOINLINE __attribute__((noinline))

static inline uint16_t fz_load_be16(const uint8_t *p) {
  return (uint16_t)((uint16_t)(p[0] << 8) | p[1]);
}

static inline uint32_t fz_load_be32(const uint8_t *p) {
  return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | (uint32_t)p[3];
}

static inline uint32_t fz_load_le32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap32(v);
#endif
  return v;
}

static inline uint64_t fz_load_le64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

static inline void fz_store_be16(uint8_t *p, uint16_t v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
}

static inline void fz_store_be32(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)(v >> 24);
  p[1] = (uint8_t)(v >> 16);
  p[2] = (uint8_t)(v >> 8);
  p[3] = (uint8_t)v;
}

static inline void fz_store_le32(uint8_t *p, uint32_t v) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap32(v);
#endif
  memcpy(p, &v, sizeof v);
}

static inline void fz_store_le64(uint8_t *p, uint64_t v) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  memcpy(p, &v, sizeof v);
}

/* 1 when the two regions are equal, 0 otherwise; the time depends on n only. */
static inline int fz_ct_equal(const uint8_t *a, const uint8_t *b, size_t n) {
  uint8_t difference = 0;
  for (size_t i = 0; i < n; i++) difference = (uint8_t)(difference | (a[i] ^ b[i]));
  return (int)((((uint32_t)difference) - 1u) >> 31);
}

/* Zeroes secrets in a way the optimiser may not remove. */
static inline void fz_wipe(void *p, size_t n) {
  memset(p, 0, n);
  __asm__ __volatile__("" : : "r"(p) : "memory");
}

/* Makes a function that zeroes the stack beyond its caller's frame, `size` bytes of it: what functions that were called before have
 * left there, above all words of secrets that the compiler moved out of registers, which no one can wipe by name. The caller keeps
 * its own frame clean by doing nothing else than to call those, which are FZ_NOINLINE, and this. */
#define FZ_WIPE_STACK(name, size)                                               \
  static FZ_NOINLINE void name(void) {                                          \
    uint8_t dead[size] __attribute__((aligned(64)));                            \
    for (size_t i = 0; i < sizeof dead; i += 64) {                              \
      memset(dead + i, 0, 64); /* in the loop, not as a call, which is slower */ \
      __asm__ __volatile__("" : : "r"(dead + i) : "memory");                    \
    }                                                                           \
  }

#endif
