/* ChaCha20 (RFC 8439 section 2.3) in eight lanes of 256-bit vectors, over a queue of fz_aead_lanes.h; with AVX-512 VL its rotations
 * are single instructions. */
#ifndef FZ_CHACHA20_X8_H
#define FZ_CHACHA20_X8_H

#include <immintrin.h>

#include "fz_aead_lanes.h"

typedef __m256i V;

static const uint32_t CONSTANTS[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};

#ifdef __AVX512VL__
#define ROTATE(v, by) _mm256_rol_epi32(v, by)
INLINE V rotate16(V v) { return ROTATE(v, 16); }
INLINE V rotate8(V v) { return ROTATE(v, 8); }
#else
#define ROTATE(v, by) _mm256_or_si256(_mm256_slli_epi32(v, by), _mm256_srli_epi32(v, 32 - (by)))
INLINE V rotate16(V v) {
  return _mm256_shuffle_epi8(v, _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2,  //
                                                13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
}
INLINE V rotate8(V v) {
  return _mm256_shuffle_epi8(v, _mm256_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3,  //
                                                14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
}
#endif

INLINE void quarter_round8(V *a, V *b, V *c, V *d) {
  *a = _mm256_add_epi32(*a, *b);
  *d = rotate16(_mm256_xor_si256(*d, *a));
  *c = _mm256_add_epi32(*c, *d);
  *b = _mm256_xor_si256(*b, *c);
  *b = ROTATE(*b, 12);
  *a = _mm256_add_epi32(*a, *b);
  *d = rotate8(_mm256_xor_si256(*d, *a));
  *c = _mm256_add_epi32(*c, *d);
  *b = _mm256_xor_si256(*b, *c);
  *b = ROTATE(*b, 7);
}

/* Eight rows of eight words become eight columns. */
INLINE void transpose8(V r[8]) {
  V t[8], u[8];
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      u[4 * i + 2 * j] = _mm256_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
      u[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
    }
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm256_permute2x128_si256(u[i], u[4 + i], 0x20);
    r[4 + i] = _mm256_permute2x128_si256(u[i], u[4 + i], 0x31);
  }
}

/* Loads the keys of the lanes, word by word across them. Most of the time all lanes have the key that is already there. */
INLINE void load_keys(queue *q) {
  if (!q->mixed) {
    if (q->key == q->keys[0]) return;
    q->key = q->keys[0];
    for (uint32_t i = 0; i < 8; i++) {
      V word = _mm256_set1_epi32((int)fz_load_le32(q->key + 4 * i));
      for (uint32_t j = 0; j < LANES; j += 8) _mm256_store_si256((V *)&q->state[i][j], word);
    }
    return;
  }
  q->key = NULL;
  for (uint32_t j = 0; j < LANES; j += 8) {
    V rows[8];
    for (uint32_t i = 0; i < 8; i++) rows[i] = _mm256_loadu_si256((const V *)q->keys[j + i]);
    transpose8(rows);
    for (uint32_t i = 0; i < 8; i++) _mm256_store_si256((V *)&q->state[i][j], rows[i]);
  }
}

/* The first eight lanes of `now`; their keys are loaded. */
static FZ_NOINLINE void compute8(queue *q) {
  lanes *l = q->now;
  V x[16], constant[4];
  const V *state[8], *block = (const V *)q->block, *low = (const V *)q->nonce[0], *high = (const V *)q->nonce[1];
  for (int i = 0; i < 4; i++) x[i] = constant[i] = _mm256_set1_epi32((int)CONSTANTS[i]);
  for (int i = 0; i < 8; i++) x[4 + i] = _mm256_load_si256(state[i] = (const V *)q->state[i]);
  x[12] = _mm256_load_si256(block);
  x[13] = _mm256_set1_epi32((int)FZ_NONCE_HEAD);
  x[14] = _mm256_load_si256(low);
  x[15] = _mm256_load_si256(high);
  for (int round = 0; round < 10; round++) {
    quarter_round8(&x[0], &x[4], &x[8], &x[12]);
    quarter_round8(&x[1], &x[5], &x[9], &x[13]);
    quarter_round8(&x[2], &x[6], &x[10], &x[14]);
    quarter_round8(&x[3], &x[7], &x[11], &x[15]);
    quarter_round8(&x[0], &x[5], &x[10], &x[15]);
    quarter_round8(&x[1], &x[6], &x[11], &x[12]);
    quarter_round8(&x[2], &x[7], &x[8], &x[13]);
    quarter_round8(&x[3], &x[4], &x[9], &x[14]);
  }
  for (int i = 0; i < 4; i++) x[i] = _mm256_add_epi32(x[i], constant[i]);
  for (int i = 0; i < 8; i++) x[4 + i] = _mm256_add_epi32(x[4 + i], _mm256_load_si256(state[i]));
  x[12] = _mm256_add_epi32(x[12], _mm256_load_si256(block));
  x[13] = _mm256_add_epi32(x[13], _mm256_set1_epi32((int)FZ_NONCE_HEAD));
  x[14] = _mm256_add_epi32(x[14], _mm256_load_si256(low));
  x[15] = _mm256_add_epi32(x[15], _mm256_load_si256(high));
  transpose8(x);
  transpose8(x + 8);
  for (uint32_t i = 0; i < 8; i++) {
    V first = _mm256_xor_si256(x[i], _mm256_loadu_si256((const V *)l->in[i]));
    V second = _mm256_xor_si256(x[8 + i], _mm256_loadu_si256((const V *)(l->in[i] + 32)));
    _mm256_storeu_si256((V *)l->out[i], first);
    _mm256_storeu_si256((V *)(l->out[i] + 32), second);
  }
  finish_parts(q, l);
}

#endif
