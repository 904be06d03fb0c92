/* Poly1305 (RFC 8439 section 2.5) of several messages at once with AVX2; the implementation of AVX2 alone includes it.
 *
 * Numbers are five limbs of 26 bits in 64-bit lanes, since vpmuludq multiplies 32 bits by 32. Two blocks are taken per step,
 * h' = (h + m0) r^2 + m1 r, so that the carry chain, which nothing can overlap, is walked half as often.
 *
 * Usually a lane is a message. Messages of unequal length are aligned at their ends: a lane that has not begun yet reads zeros
 * without the 2^128 bit, and (0 + 0) r is 0. They are sorted by length first, so that lanes begin soon after each other. Where
 * most lanes would idle most of the time, one message alone above all, its own blocks are spread over the lanes instead, and
 * short ones are left to the scalar code.
 */
#ifndef FZ_POLY1305_AVX2_H
#define FZ_POLY1305_AVX2_H

#include <immintrin.h>

#include "fz_poly1305.h"
#include "fz_wide.h"

#define MAC_LANES 4u
#define MAC_GROUP 16u /* messages that are sorted and authenticated together */
#define ALONE 256u    /* bytes from which on one message's blocks are worth spreading over lanes */

typedef __m256i V;

typedef struct limbs {
  V l[5];
} limbs;

/* A factor of a product: its limbs, and those times five for where they wrap around 2^130. */
typedef struct factor {
  V r[5];
  V s[5];
} factor;

INLINE V mask26(void) { return _mm256_set1_epi64x(0x3ffffff); }

/* Cuts the 128-bit numbers low + 2^64 high into limbs and adds the bit at 2^128. */
INLINE limbs cut(V low, V high, V bit) {
  limbs m;
  m.l[0] = _mm256_and_si256(low, mask26());
  m.l[1] = _mm256_and_si256(_mm256_srli_epi64(low, 26), mask26());
  m.l[2] = _mm256_and_si256(_mm256_or_si256(_mm256_srli_epi64(low, 52), _mm256_slli_epi64(high, 12)), mask26());
  m.l[3] = _mm256_and_si256(_mm256_srli_epi64(high, 14), mask26());
  m.l[4] = _mm256_or_si256(_mm256_srli_epi64(high, 40), bit);
  return m;
}

/* The factor of a one-time key, some bits of which are always zero (RFC 8439 section 2.5). */
INLINE limbs cut_key(const V words[2]) {
  V low = _mm256_and_si256(words[0], _mm256_set1_epi64x(0x0ffffffc0fffffff));
  V high = _mm256_and_si256(words[1], _mm256_set1_epi64x(0x0ffffffc0ffffffc));
  return cut(low, high, _mm256_setzero_si256());
}

INLINE limbs add(limbs a, limbs b) {
  for (int i = 0; i < 5; i++) a.l[i] = _mm256_add_epi64(a.l[i], b.l[i]);
  return a;
}

/* a * f without carries: limbs below 2^27 times limbs below 2^29 (five times 26 bits), five of them: below 2^59. */
INLINE limbs multiply(limbs a, const factor *f) {
  limbs d;
  for (int i = 0; i < 5; i++) {
    d.l[i] = _mm256_mul_epu32(a.l[0], f->r[i]);
    for (int j = 1; j < 5; j++) {
      V by = j <= i ? f->r[i - j] : f->s[5 + i - j];
      d.l[i] = _mm256_add_epi64(d.l[i], _mm256_mul_epu32(a.l[j], by));
    }
  }
  return d;
}

/* Brings limbs below 2^27. Two chains, 0 to 3 and 3 to 1, side by side; the second crosses 2^130 as a factor of five. */
INLINE limbs carry(limbs d) {
  V c, e;
  c = _mm256_srli_epi64(d.l[0], 26);
  e = _mm256_srli_epi64(d.l[3], 26);
  d.l[0] = _mm256_and_si256(d.l[0], mask26());
  d.l[3] = _mm256_and_si256(d.l[3], mask26());
  d.l[1] = _mm256_add_epi64(d.l[1], c);
  d.l[4] = _mm256_add_epi64(d.l[4], e);
  c = _mm256_srli_epi64(d.l[1], 26);
  e = _mm256_srli_epi64(d.l[4], 26);
  d.l[1] = _mm256_and_si256(d.l[1], mask26());
  d.l[4] = _mm256_and_si256(d.l[4], mask26());
  d.l[2] = _mm256_add_epi64(d.l[2], c);
  d.l[0] = _mm256_add_epi64(d.l[0], _mm256_add_epi64(e, _mm256_slli_epi64(e, 2)));
  c = _mm256_srli_epi64(d.l[2], 26);
  e = _mm256_srli_epi64(d.l[0], 26);
  d.l[2] = _mm256_and_si256(d.l[2], mask26());
  d.l[0] = _mm256_and_si256(d.l[0], mask26());
  d.l[3] = _mm256_add_epi64(d.l[3], c);
  d.l[1] = _mm256_add_epi64(d.l[1], e);
  c = _mm256_srli_epi64(d.l[3], 26);
  d.l[3] = _mm256_and_si256(d.l[3], mask26());
  d.l[4] = _mm256_add_epi64(d.l[4], c);
  return d;
}

INLINE factor to_factor(limbs a) {
  factor f;
  for (int i = 0; i < 5; i++) {
    f.r[i] = a.l[i];
    f.s[i] = _mm256_add_epi64(a.l[i], _mm256_slli_epi64(a.l[i], 2));
  }
  return f;
}

/* Takes 32 bytes of each of four packets: first and second block as low and high words across the packets. */
INLINE void load_pair(const uint8_t *const p[4], V out[4]) {
  V a = _mm256_loadu_si256((const V *)p[0]), b = _mm256_loadu_si256((const V *)p[1]);
  V c = _mm256_loadu_si256((const V *)p[2]), d = _mm256_loadu_si256((const V *)p[3]);
  V ab_low = _mm256_unpacklo_epi64(a, b), ab_high = _mm256_unpackhi_epi64(a, b);
  V cd_low = _mm256_unpacklo_epi64(c, d), cd_high = _mm256_unpackhi_epi64(c, d);
  out[0] = _mm256_permute2x128_si256(ab_low, cd_low, 0x20);
  out[1] = _mm256_permute2x128_si256(ab_high, cd_high, 0x20);
  out[2] = _mm256_permute2x128_si256(ab_low, cd_low, 0x31);
  out[3] = _mm256_permute2x128_si256(ab_high, cd_high, 0x31);
}

INLINE limbs step_pair(limbs h, const V words[4], V bit0, V bit1, const factor *r1, const factor *r2) {
  limbs second = multiply(cut(words[2], words[3], bit1), r1);
  return carry(add(multiply(add(h, cut(words[0], words[1], bit0)), r2), second));
}

/* Whole blocks of four lanes; a lane whose step is 0 has not begun. */
static limbs run(limbs h, const uint8_t *p[4], const uint8_t step[4], uint32_t blocks, const factor *r1, const factor *r2) {
  V bit = _mm256_slli_epi64(_mm256_cvtepu8_epi64(_mm_loadu_si32(step)), 24 - 4); /* 16 becomes 2^24: 2^128 in limb 4 */
  V words[4];
  for (; blocks >= 2; blocks -= 2) {
    load_pair(p, words);
    h = step_pair(h, words, bit, bit, r1, r2);
    for (int i = 0; i < 4; i++) p[i] += 2 * step[i];
  }
  if (blocks) {
    uint64_t low[4], high[4];
    for (int i = 0; i < 4; i++) {
      low[i] = fz_load_le64(p[i]);
      high[i] = fz_load_le64(p[i] + 8);
      p[i] += step[i];
    }
    limbs m = cut(_mm256_loadu_si256((const V *)low), _mm256_loadu_si256((const V *)high), bit);
    h = carry(multiply(add(h, m), r1));
  }
  return h;
}

/* The end of a packet: its last block, padded, and the block of lengths. Returns how many blocks stand before these two. */
static uint32_t make_tail(const uint8_t *text, uint32_t length, uint8_t tail[32]) {
  uint32_t last = length ? (length - 1) / 16 * 16 : 0;
  memset(tail, 0, 32);
  if (length) memcpy(tail, text + last, length - last);
  fz_store_le64(tail + 24, length);
  return last / 16;
}

/* Reduces one lane modulo 2^130 - 5, adds the second half of the one-time key and writes the tag. */
static void finish(uint64_t h[5], const uint8_t *pad, uint8_t tag[16]) {
  const uint64_t m26 = 0x3ffffff;
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < 4; i++) {
      h[i + 1] += h[i] >> 26;
      h[i] &= m26;
    }
    h[0] += (h[4] >> 26) * 5;
    h[4] &= m26;
  }
  /* Limb 0 is below 2^26 too: the second pass carries out of limb 4 only when limb 0 has just wrapped to next to nothing. */
  uint64_t g[5], over = 5;
  for (int i = 0; i < 5; i++) {
    g[i] = h[i] + over;
    over = g[i] >> 26;
    g[i] &= m26;
  }
  uint64_t take = 0 - over; /* h + 5 reached 2^130: h was not below the prime */
  for (int i = 0; i < 5; i++) h[i] = (h[i] & ~take) | (g[i] & take);
  unsigned __int128 low = (unsigned __int128)(h[0] | h[1] << 26 | h[2] << 52) + fz_load_le64(pad);
  uint64_t high = h[2] >> 12 | h[3] << 14 | h[4] << 40;
  fz_store_le64(tag, (uint64_t)low);
  fz_store_le64(tag + 8, high + fz_load_le64(pad + 8) + (uint64_t)(low >> 64));
}

/* The tags of four messages, the longest first. */
static FZ_NOINLINE void authenticate4(const message m[4]) {
  uint8_t tail[4][32], step[4] = {0};
  uint32_t blocks[5] = {0};
  const uint8_t *p[4], *tails[4], *keys[4];
  uint64_t last_bit[4], out[5][4];
  V words[4];
  limbs h;
  for (int i = 0; i < 4; i++) {
    blocks[i] = make_tail(m[i].text, m[i].length, tail[i]);
    p[i] = ZEROS;
    tails[i] = tail[i];
    keys[i] = m[i].key;
    last_bit[i] = m[i].length ? 1u << 24 : 0; /* an empty packet has no block before the lengths */
    h.l[i] = _mm256_setzero_si256();
  }
  h.l[4] = _mm256_setzero_si256();
  load_pair(keys, words);
  limbs r = cut_key(words);
  factor r1 = to_factor(r), r2 = to_factor(carry(multiply(r, &r1)));
  for (int i = 0; i < 4; i++) {
    p[i] = m[i].text;
    step[i] = 16;
    if (blocks[i] > blocks[i + 1] || i == 3) h = run(h, p, step, blocks[i] - blocks[i + 1], &r1, &r2);
  }
  load_pair(tails, words);
  h = step_pair(h, words, _mm256_loadu_si256((const V *)last_bit), _mm256_set1_epi64x(1 << 24), &r1, &r2);
  for (int i = 0; i < 5; i++) _mm256_storeu_si256((V *)out[i], h.l[i]);
  for (int i = 0; i < 4; i++) {
    uint64_t lane_h[5] = {out[0][i], out[1][i], out[2][i], out[3][i], out[4][i]};
    finish(lane_h, m[i].key + 16, m[i].tag);
  }
}

/* 64 bytes of one packet: four blocks in the lanes 0, 2, 1, 3. */
INLINE void load_four(const uint8_t *p, V out[2]) {
  V a = _mm256_loadu_si256((const V *)p), b = _mm256_loadu_si256((const V *)(p + 32));
  out[0] = _mm256_unpacklo_epi64(a, b);
  out[1] = _mm256_unpackhi_epi64(a, b);
}

/* Takes lanes from the vectors as load_four orders blocks: block 0 from `a`, 1 from `b`, 2 from `c`, 3 from `d`. */
INLINE limbs pick(limbs a, limbs b, limbs c, limbs d) {
  for (int i = 0; i < 5; i++) {
    V ac = _mm256_blend_epi32(a.l[i], c.l[i], 0x0c), bd = _mm256_blend_epi32(b.l[i], d.l[i], 0xc0);
    a.l[i] = _mm256_blend_epi32(ac, bd, 0xf0);
  }
  return a;
}

/* The sum of the four lanes as a number of the scalar code: limbs below 2^29 before, 44 bits after. */
static void add_lanes(limbs h, uint64_t out[3]) {
  uint64_t lanes[4], sum[5];
  for (int i = 0; i < 5; i++) {
    _mm256_storeu_si256((V *)lanes, h.l[i]);
    sum[i] = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
  fz_u128 low = sum[0] + ((fz_u128)sum[1] << 26) + ((fz_u128)sum[2] << 52); /* below 2^82 */
  out[0] = (uint64_t)low & FZ_M44;
  low = (low >> 44) + ((fz_u128)sum[3] << 34) + ((fz_u128)sum[4] << 60);
  out[1] = (uint64_t)low & FZ_M44;
  out[2] = (uint64_t)(low >> 44);
}

/* The tag of one message of some length: its blocks in four lanes, h' = h r^4 + m, two such steps at once; lane i is multiplied
 * by r^(4 - i) at the end, and the scalar code takes what is left. */
static FZ_NOINLINE void authenticate_alone(const message *m) {
  fz_poly1305 p;
  V words[4];
  limbs h;
  uint32_t at = 0;
  const uint8_t *keys[4] = {m->key, m->key, m->key, m->key};
  fz_poly1305_init(&p, m->key);
  load_pair(keys, words);
  limbs r = cut_key(words);
  factor r1 = to_factor(r);
  limbs power2 = carry(multiply(r, &r1)), power3 = carry(multiply(power2, &r1));
  factor r2 = to_factor(power2);
  limbs power4 = carry(multiply(power2, &r2));
  factor r4 = to_factor(power4), r8 = to_factor(carry(multiply(power4, &r4))), last = to_factor(pick(power4, power3, power2, r));
  V bit = _mm256_set1_epi64x(1 << 24);
  for (int i = 0; i < 5; i++) h.l[i] = _mm256_setzero_si256();
  for (; m->length - at >= 128; at += 128) {
    load_four(m->text + at, words);
    load_four(m->text + at + 64, words + 2);
    limbs first = multiply(cut(words[0], words[1], bit), &r4);
    h = carry(add(add(multiply(h, &r8), first), cut(words[2], words[3], bit)));
  }
  if (m->length - at >= 64) {
    load_four(m->text + at, words);
    h = carry(add(multiply(h, &r4), cut(words[0], words[1], bit)));
    at += 64;
  }
  add_lanes(carry(multiply(h, &last)), p.h);
  fz_poly1305_rest(&p, m->text, at, m->length, m->key + 16, m->tag);
  fz_wipe(&p, sizeof p);
}

/* The tags of up to MAC_GROUP messages, in any order; the array, with room for MAC_GROUP, is sorted on the way. */
static void authenticate(message *m, uint32_t n) {
  sort_messages(m, n);
  uint8_t nowhere[16];
  for (; n % MAC_LANES; n++) m[n] = (message){ZEROS, ZEROS, nowhere, 0};
  for (uint32_t i = 0; i < n; i += MAC_LANES) {
    /* Four packets side by side, unless they take longer, walked to the end of the longest, than one after the other. */
    if (m[i].length < m[i + 1].length + m[i + 2].length + m[i + 3].length) {
      authenticate4(m + i);
      continue;
    }
    for (uint32_t j = i; j < i + MAC_LANES; j++) {
      if (m[j].length >= ALONE) authenticate_alone(&m[j]);
      else fz_poly1305_aead(m[j].key, m[j].text, m[j].length, m[j].tag);
    }
  }
}

#endif
