/* Poly1305 (RFC 8439 section 2.5) one block at a time, with three limbs of 44, 44 and 42 bits (after poly1305-donna-64).
 *
 * The reference implementation authenticates with it, and so do the wide ones where too few packets are there to fill lanes.
 */
#ifndef FZ_POLY1305_H
#define FZ_POLY1305_H

#include "fz_common.h"

#define FZ_M44 0xfffffffffffull
#define FZ_M42 0x3ffffffffffull

typedef unsigned __int128 fz_u128;

typedef struct fz_poly1305 {
  uint64_t r[3], s[3]; /* s = 20 r: five for the prime, four because limbs 1 and 2 weigh 2^132 where they wrap */
  uint64_t h[3];
} fz_poly1305;

static inline void fz_poly1305_init(fz_poly1305 *p, const uint8_t key[16]) {
  uint64_t low = fz_load_le64(key) & 0x0ffffffc0fffffffull, high = fz_load_le64(key + 8) & 0x0ffffffc0ffffffcull;
  p->r[0] = low & FZ_M44;
  p->r[1] = (low >> 44 | high << 20) & FZ_M44;
  p->r[2] = high >> 24;
  for (int i = 0; i < 3; i++) {
    p->s[i] = p->r[i] * 20;
    p->h[i] = 0;
  }
}

static inline void fz_poly1305_block(fz_poly1305 *p, const uint8_t m[16]) {
  uint64_t low = fz_load_le64(m), high = fz_load_le64(m + 8), carry;
  const uint64_t *r = p->r, *s = p->s;
  uint64_t h0 = p->h[0] + (low & FZ_M44);
  uint64_t h1 = p->h[1] + ((low >> 44 | high << 20) & FZ_M44);
  uint64_t h2 = p->h[2] + (high >> 24 | 1ull << 40);
  fz_u128 d0 = (fz_u128)h0 * r[0] + (fz_u128)h1 * s[2] + (fz_u128)h2 * s[1];
  fz_u128 d1 = (fz_u128)h0 * r[1] + (fz_u128)h1 * r[0] + (fz_u128)h2 * s[2];
  fz_u128 d2 = (fz_u128)h0 * r[2] + (fz_u128)h1 * r[1] + (fz_u128)h2 * r[0];
  d1 += (uint64_t)(d0 >> 44);
  d2 += (uint64_t)(d1 >> 44);
  p->h[0] = ((uint64_t)d0 & FZ_M44) + (uint64_t)(d2 >> 42) * 5;
  carry = p->h[0] >> 44;
  p->h[0] &= FZ_M44;
  p->h[1] = ((uint64_t)d1 & FZ_M44) + carry;
  p->h[2] = (uint64_t)d2 & FZ_M42;
}

static inline void fz_poly1305_finish(fz_poly1305 *p, const uint8_t pad[16], uint8_t tag[16]) {
  uint64_t h0 = p->h[0], h1 = p->h[1], h2 = p->h[2];
  for (int i = 0; i < 2; i++) {
    h2 += h1 >> 44;
    h1 &= FZ_M44;
    h0 += (h2 >> 42) * 5;
    h2 &= FZ_M42;
    h1 += h0 >> 44;
    h0 &= FZ_M44;
  }
  /* h + 5 - 2^130 is taken when it is not negative, that is when h >= 2^130 - 5. */
  uint64_t g0 = h0 + 5, g1 = h1 + (g0 >> 44), g2 = h2 + (g1 >> 44) - (1ull << 42);
  uint64_t take = (g2 >> 63) - 1;
  h0 = (h0 & ~take) | (g0 & FZ_M44 & take);
  h1 = (h1 & ~take) | (g1 & FZ_M44 & take);
  h2 = (h2 & ~take) | (g2 & FZ_M42 & take);
  fz_u128 low = (fz_u128)(h0 | h1 << 44) + fz_load_le64(pad);
  fz_store_le64(tag, (uint64_t)low);
  fz_store_le64(tag + 8, (h1 >> 20 | h2 << 24) + fz_load_le64(pad + 8) + (uint64_t)(low >> 64));
}

/* Takes the text from `at` (whole blocks before it are in) and finishes the tag of an AEAD without associated data: the text
 * padded to whole blocks, then both lengths (RFC 8439 section 2.8). */
static inline void fz_poly1305_rest(fz_poly1305 *p, const uint8_t *text, uint32_t at, uint32_t length, const uint8_t pad[16],
                                    uint8_t tag[16]) {
  uint8_t last[16] = {0};
  uint32_t rest = length % 16;
  for (; at < length - rest; at += 16) fz_poly1305_block(p, text + at);
  if (rest) {
    memcpy(last, text + at, rest);
    fz_poly1305_block(p, last);
  }
  fz_store_le64(last, 0);
  fz_store_le64(last + 8, length);
  fz_poly1305_block(p, last);
  fz_poly1305_finish(p, pad, tag);
}

/* The tag over a whole ciphertext; the key is the one-time key, 32 bytes. */
static inline void fz_poly1305_aead(const uint8_t key[32], const uint8_t *text, uint32_t length, uint8_t tag[16]) {
  fz_poly1305 p;
  fz_poly1305_init(&p, key);
  fz_poly1305_rest(&p, text, 0, length, key + 16, tag);
  fz_wipe(&p, sizeof p);
}

#endif
