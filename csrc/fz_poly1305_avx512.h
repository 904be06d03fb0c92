/* Poly1305 (RFC 8439 section 2.5) in eight lanes with AVX-512 IFMA; the implementation of AVX-512 alone includes it.
 *
 * Numbers are three limbs of 44, 44 and 42 bits in 64-bit lanes: vpmadd52 multiplies 52 bits by 52 and adds the low or the high
 * 52 bits of the product, so limbs may run over by some bits between carries.
 *
 * Usually a lane is a message, and a step takes four blocks, h' = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r, so that there is one
 * carry chain to four blocks. Messages are aligned at their ends: what a lane reads before its beginning is zeros without the
 * 2^128 bit, and (0 + 0) r is 0. The block of lengths is the last of the last step. Where most lanes would idle most of the time,
 * one message alone above all, its own blocks are spread over the lanes instead, and short ones are left to the scalar code.
 */
#ifndef FZ_POLY1305_AVX512_H
#define FZ_POLY1305_AVX512_H

#include <immintrin.h>

#include "fz_poly1305.h"
#include "fz_wide.h"

#define MAC_LANES 8u
#define MAC_GROUP 16u /* messages that are sorted and authenticated together */
#define STEP 4u       /* blocks of a message in a step */
#define ALONE 112u    /* bytes from which on one message's blocks are worth spreading over lanes */

typedef __m512i W;

typedef struct limbs {
  W l[3];
} limbs;

/* A factor of a product: its limbs, and limbs 1 and 2 times 20 for where they wrap: 2^132 is 4 * 5 modulo 2^130 - 5. */
typedef struct factor {
  W r[3];
  W s[3];
} factor;

/* Sums of products, low and high halves apart: limb i is low[i] + 2^52 high[i]. */
typedef struct sums {
  W low[3];
  W high[3];
} sums;

INLINE W all(uint64_t v) { return _mm512_set1_epi64((long long)v); }

/* Cuts the 128-bit numbers low + 2^64 high into limbs and adds the bit at 2^128, which is bit 40 of limb 2. */
INLINE limbs cut(W low, W high, W bit) {
  limbs m;
  m.l[0] = _mm512_and_si512(low, all(FZ_M44));
  m.l[1] = _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(low, 44), _mm512_slli_epi64(high, 20)), all(FZ_M44));
  m.l[2] = _mm512_or_si512(_mm512_srli_epi64(high, 24), bit);
  return m;
}

/* The factor of a one-time key, some bits of which are always zero (RFC 8439 section 2.5). */
INLINE limbs cut_key(W low, W high) {
  return cut(_mm512_and_si512(low, all(0x0ffffffc0fffffff)), _mm512_and_si512(high, all(0x0ffffffc0ffffffc)),
             _mm512_setzero_si512());
}

INLINE limbs add(limbs a, limbs b) {
  for (int i = 0; i < 3; i++) a.l[i] = _mm512_add_epi64(a.l[i], b.l[i]);
  return a;
}

INLINE factor to_factor(limbs a) {
  factor f;
  for (int i = 0; i < 3; i++) {
    W four = _mm512_slli_epi64(a.l[i], 2);
    f.r[i] = a.l[i];
    f.s[i] = _mm512_add_epi64(_mm512_slli_epi64(four, 2), four);
  }
  return f;
}

INLINE sums nothing(void) {
  sums d;
  for (int i = 0; i < 3; i++) d.low[i] = d.high[i] = _mm512_setzero_si512();
  return d;
}

/* d + a * f. Limbs of `a` are below 2^46, those of `f` below 2^49: sixteen such sums stay below 2^58 and 2^49. */
INLINE sums multiply_add(sums d, limbs a, const factor *f) {
  for (int j = 0; j < 3; j++) {
    for (int i = 0; i < 3; i++) {
      W by = j <= i ? f->r[i - j] : f->s[3 + i - j];
      d.low[i] = _mm512_madd52lo_epu64(d.low[i], a.l[j], by);
      d.high[i] = _mm512_madd52hi_epu64(d.high[i], a.l[j], by);
    }
  }
  return d;
}

/* One chain from limb 0 through limb 2, five times over to limb 0, and to limb 1: limbs come below 2^44, 2^44 + 2^11 and 2^42. */
INLINE limbs carry(sums d) {
  limbs h;
  W c = _mm512_add_epi64(_mm512_srli_epi64(d.low[0], 44), _mm512_slli_epi64(d.high[0], 8));
  h.l[0] = _mm512_and_si512(d.low[0], all(FZ_M44));
  d.low[1] = _mm512_add_epi64(d.low[1], c);
  c = _mm512_add_epi64(_mm512_srli_epi64(d.low[1], 44), _mm512_slli_epi64(d.high[1], 8));
  h.l[1] = _mm512_and_si512(d.low[1], all(FZ_M44));
  d.low[2] = _mm512_add_epi64(d.low[2], c);
  c = _mm512_add_epi64(_mm512_srli_epi64(d.low[2], 42), _mm512_slli_epi64(d.high[2], 10));
  h.l[2] = _mm512_and_si512(d.low[2], all(FZ_M42));
  h.l[0] = _mm512_add_epi64(h.l[0], _mm512_add_epi64(c, _mm512_slli_epi64(c, 2)));
  h.l[1] = _mm512_add_epi64(h.l[1], _mm512_srli_epi64(h.l[0], 44));
  h.l[0] = _mm512_and_si512(h.l[0], all(FZ_M44));
  return h;
}

INLINE limbs multiply(limbs a, const factor *f) { return carry(multiply_add(nothing(), a, f)); }

/* The 64 bytes of a text from `at` on, zeros where that is before its beginning or after its end; nothing else is read. */
INLINE W load_part(const uint8_t *text, uint32_t length, int64_t at) {
  int64_t left = (int64_t)length - at;
  __mmask64 before = at >= 0 ? ~0ull : at > -64 ? ~0ull << -at : 0;
  __mmask64 until = left >= 64 ? ~0ull : left > 0 ? ~(~0ull << left) : 0;
  return _mm512_maskz_loadu_epi8(before & until, (const void *)((uintptr_t)text + (uintptr_t)at));
}

/* ---- one message per lane ---- */

/* Eight rows of eight 64-bit words become eight columns. */
INLINE void transpose(W r[8]) {
  W t[8];
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
    t[4 + i] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    const W *u = t + 4 * i;
    W low = _mm512_shuffle_i64x2(u[0], u[1], 0x44), high = _mm512_shuffle_i64x2(u[0], u[1], 0xee);
    W low2 = _mm512_shuffle_i64x2(u[2], u[3], 0x44), high2 = _mm512_shuffle_i64x2(u[2], u[3], 0xee);
    r[i] = _mm512_shuffle_i64x2(low, low2, 0x88);
    r[2 + i] = _mm512_shuffle_i64x2(low, low2, 0xdd);
    r[4 + i] = _mm512_shuffle_i64x2(high, high2, 0x88);
    r[6 + i] = _mm512_shuffle_i64x2(high, high2, 0xdd);
  }
}

/* powers[i] is r^(4 - i). */
INLINE limbs step(limbs h, const W words[8], const W bits[STEP], const factor powers[STEP]) {
  sums d = nothing();
  for (uint32_t i = 1; i < STEP; i++) d = multiply_add(d, cut(words[2 * i], words[2 * i + 1], bits[i]), &powers[i]);
  return carry(multiply_add(d, add(h, cut(words[0], words[1], bits[0])), &powers[0]));
}

/* A step of which some lanes have not begun or are ending; the last one has the lengths in its last block. */
static limbs step_part(limbs h, const message m[MAC_LANES], int64_t at[MAC_LANES], W lengths, bool is_last,
                       const factor powers[STEP]) {
  W words[8], bits[STEP], begin = _mm512_loadu_si512(at);
  for (uint32_t i = 0; i < MAC_LANES; i++) words[i] = load_part(m[i].text, m[i].length, at[i]);
  transpose(words);
  if (is_last) words[7] = _mm512_or_si512(words[7], lengths);
  for (uint32_t i = 0; i < STEP; i++) {
    bits[i] = _mm512_maskz_set1_epi64(_mm512_cmpge_epi64_mask(begin, _mm512_set1_epi64(-16 * (int64_t)i)), 1ll << 40);
  }
  _mm512_storeu_si512(at, _mm512_add_epi64(begin, all(16 * STEP)));
  return step(h, words, bits, powers);
}

/* Steps of which every lane is within its text. The words of the next are sorted while those of this are multiplied: shuffles have
 * one port, products another and that one. */
static limbs whole_steps(limbs h, const message m[MAC_LANES], int64_t at[MAC_LANES], uint32_t steps, const factor powers[STEP]) {
  const uint8_t *p[MAC_LANES];
  const W bit = all(1ull << 40), bits[STEP] = {bit, bit, bit, bit};
  W words[8], next[8];
  for (uint32_t i = 0; i < MAC_LANES; i++) {
    p[i] = m[i].text + at[i];
    at[i] += 16 * STEP * (int64_t)steps;
    words[i] = _mm512_loadu_si512(p[i]);
  }
  transpose(words);
  for (size_t s = 1; s < steps; s++) {
    for (uint32_t i = 0; i < 8; i++) next[i] = _mm512_loadu_si512(p[i] + s * 16 * STEP);
    transpose(next);
    h = step(h, words, bits, powers);
    for (uint32_t i = 0; i < 8; i++) words[i] = next[i];
  }
  return step(h, words, bits, powers);
}

/* Reduces every lane modulo 2^130 - 5 and adds the second half of the one-time key. */
INLINE void finish(limbs h, W pad_low, W pad_high, W *low, W *high) {
  W h0 = h.l[0], h1 = h.l[1], h2 = h.l[2];
  for (int i = 0; i < 2; i++) {
    h2 = _mm512_add_epi64(h2, _mm512_srli_epi64(h1, 44));
    h1 = _mm512_and_si512(h1, all(FZ_M44));
    W c = _mm512_srli_epi64(h2, 42);
    h0 = _mm512_add_epi64(h0, _mm512_add_epi64(c, _mm512_slli_epi64(c, 2)));
    h2 = _mm512_and_si512(h2, all(FZ_M42));
    h1 = _mm512_add_epi64(h1, _mm512_srli_epi64(h0, 44));
    h0 = _mm512_and_si512(h0, all(FZ_M44));
  }
  /* h + 5 - 2^130 is taken when it is not negative, that is when h >= 2^130 - 5. */
  W g0 = _mm512_add_epi64(h0, all(5)), g1 = _mm512_add_epi64(h1, _mm512_srli_epi64(g0, 44));
  W g2 = _mm512_add_epi64(h2, _mm512_srli_epi64(g1, 44));
  __mmask8 take = _mm512_cmpgt_epu64_mask(g2, all(FZ_M42));
  h0 = _mm512_mask_and_epi64(h0, take, g0, all(FZ_M44));
  h1 = _mm512_mask_and_epi64(h1, take, g1, all(FZ_M44));
  h2 = _mm512_mask_and_epi64(h2, take, g2, all(FZ_M42));
  *low = _mm512_add_epi64(_mm512_or_si512(h0, _mm512_slli_epi64(h1, 44)), pad_low);
  *high = _mm512_add_epi64(_mm512_or_si512(_mm512_srli_epi64(h1, 20), _mm512_slli_epi64(h2, 24)), pad_high);
  *high = _mm512_mask_add_epi64(*high, _mm512_cmplt_epu64_mask(*low, pad_low), *high, all(1));
}

static void store_tags(const message m[MAC_LANES], W low, W high) {
  uint8_t tags[2][4][16];
  _mm512_storeu_si512(tags[0], _mm512_unpacklo_epi64(low, high));
  _mm512_storeu_si512(tags[1], _mm512_unpackhi_epi64(low, high));
  for (uint32_t i = 0; i < MAC_LANES; i++) memcpy(m[i].tag, tags[i % 2][i / 2], 16);
}

/* The tags of eight messages, the longest first. */
static FZ_NOINLINE void authenticate8(const message m[MAC_LANES]) {
  W key[8];
  int64_t at[MAC_LANES];
  uint64_t length[MAC_LANES];
  factor powers[STEP];
  for (uint32_t i = 0; i < MAC_LANES; i++) key[i] = load_part(m[i].key, 32, 0);
  transpose(key);
  limbs r = cut_key(key[0], key[1]), r2, h = {{_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()}};
  powers[3] = to_factor(r);
  powers[2] = to_factor(r2 = multiply(r, &powers[3]));
  powers[1] = to_factor(multiply(r2, &powers[3]));
  powers[0] = to_factor(multiply(r2, &powers[2]));
  uint32_t steps = 0, whole_from = 0;
  for (uint32_t i = 0; i < MAC_LANES; i++) {
    uint32_t blocks = m[i].length / 16 + (m[i].length % 16 != 0) + 1, needs = (blocks + STEP - 1) / STEP;
    if (!i) steps = needs;
    at[i] = 16 * ((int64_t)blocks - STEP * (int64_t)steps);
    length[i] = m[i].length;
    uint32_t first = steps - needs + (blocks % STEP != 0); /* the first step that is whole in this lane */
    if (first > whole_from) whole_from = first;
  }
  W lengths = _mm512_loadu_si512(length);
  uint32_t s = 0;
  for (; s < whole_from && s + 1 < steps; s++) h = step_part(h, m, at, lengths, false, powers);
  if (s + 1 < steps) h = whole_steps(h, m, at, steps - 1 - s, powers);
  h = step_part(h, m, at, lengths, true, powers);
  W low, high;
  finish(h, key[2], key[3], &low, &high);
  store_tags(m, low, high);
}

/* ---- one message over all lanes ---- */

/* 128 bytes of one message: eight blocks in the lanes 0, 2, 4, 6, 1, 3, 5, 7. */
INLINE limbs cut_eight(W a, W b, W lengths, W bit) {
  return cut(_mm512_unpacklo_epi64(a, b), _mm512_or_si512(_mm512_unpackhi_epi64(a, b), lengths), bit);
}

INLINE limbs blend(__mmask8 from_b, limbs a, limbs b) {
  for (int i = 0; i < 3; i++) a.l[i] = _mm512_mask_mov_epi64(a.l[i], from_b, b.l[i]);
  return a;
}

/* The tag of one message of some length: its blocks in eight lanes, h' = h r^8 + m, two such steps at once where there are two; at
 * the end block i of the last eight is multiplied by r^(8 - i). */
static FZ_NOINLINE void authenticate_alone(const message *m) {
  fz_poly1305 p;
  fz_poly1305_init(&p, m->key);
  limbs r = {{all(p.r[0]), all(p.r[1]), all(p.r[2])}};
  factor r1 = to_factor(r);
  limbs power2 = multiply(r, &r1);
  factor r2 = to_factor(power2);
  limbs power3 = multiply(power2, &r1), power4 = multiply(power2, &r2);
  factor r4 = to_factor(power4);
  limbs low = blend(0xc0, blend(0x30, blend(0x0c, power4, power3), power2), r); /* 4 4 3 3 2 2 1 1 */
  limbs powers = blend(0x55, low, multiply(low, &r4)), power8;                  /* 8 4 7 3 6 2 5 1 */
  for (int i = 0; i < 3; i++) power8.l[i] = _mm512_broadcastq_epi64(_mm512_castsi512_si128(powers.l[i]));
  factor last = to_factor(powers), r8 = to_factor(power8), r16 = to_factor(multiply(power8, &r8));
  const W bit = all(1ull << 40), none = _mm512_setzero_si512();
  limbs h = {{none, none, none}};
  uint32_t blocks = m->length / 16 + (m->length % 16 != 0) + 1, steps = (blocks + 7) / 8;
  int64_t at = 16 * ((int64_t)blocks - 8 * (int64_t)steps);
  W order = _mm512_set_epi64(-112, -48, -96, -32, -80, -16, -64, 0);
  for (uint32_t s = 0; s < steps; s++, at += 128) {
    bool is_last = s + 1 == steps;
    if (at >= 0 && s + 2 < steps) {
      const uint8_t *text = m->text + at;
      sums d = multiply_add(nothing(), cut_eight(_mm512_loadu_si512(text), _mm512_loadu_si512(text + 64), none, bit), &r8);
      d = multiply_add(d, h, &r16);
      limbs second = cut_eight(_mm512_loadu_si512(text + 128), _mm512_loadu_si512(text + 192), none, bit);
      for (int i = 0; i < 3; i++) d.low[i] = _mm512_add_epi64(d.low[i], second.l[i]);
      h = carry(d);
      s++;
      at += 128;
      continue;
    }
    W a = load_part(m->text, m->length, at), b = load_part(m->text, m->length, at + 64);
    W bits = _mm512_maskz_mov_epi64(_mm512_cmpge_epi64_mask(_mm512_set1_epi64(at), order), bit);
    limbs block = cut_eight(a, b, is_last ? _mm512_maskz_set1_epi64(0x80, m->length) : none, bits);
    h = s ? add(multiply(h, &r8), block) : block;
  }
  h = multiply(h, &last);
  for (int i = 0; i < 3; i++) p.h[i] = (uint64_t)_mm512_reduce_add_epi64(h.l[i]);
  fz_poly1305_finish(&p, m->key + 16, m->tag);
  fz_wipe(&p, sizeof p);
}

/* Cycles, as measured on a Xeon: of which only the proportions matter. */
INLINE uint64_t cost_of_eight(uint32_t longest) { return 340 + 4 * (uint64_t)longest / 3; }
INLINE uint64_t cost_of_one(uint32_t length) { return length < ALONE ? 55 + 7 * length / 4 : 220 + length / 5; }

static void authenticate_one(const message *m) {
  if (m->length >= ALONE) authenticate_alone(m);
  else fz_poly1305_aead(m->key, m->text, m->length, m->tag);
}

/* The tags of up to MAC_GROUP messages, in any order; the array, with room for MAC_GROUP, is sorted on the way. Eight packets go
 * side by side, unless they take longer, walked to the end of the longest, than one after the other. */
static void authenticate(message *m, uint32_t n) {
  uint8_t nowhere[16];
  sort_messages(m, n);
  for (uint32_t i = 0; i < n; i += MAC_LANES) {
    uint32_t end = n - i < MAC_LANES ? n : i + MAC_LANES;
    uint64_t apart = 0;
    for (uint32_t j = i; j < end; j++) apart += cost_of_one(m[j].length);
    if (apart <= cost_of_eight(m[i].length)) {
      for (uint32_t j = i; j < end; j++) authenticate_one(&m[j]);
      continue;
    }
    for (; end < i + MAC_LANES; end++) m[end] = (message){ZEROS, ZEROS, nowhere, 0};
    authenticate8(m + i);
  }
}

#endif
