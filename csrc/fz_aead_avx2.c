/* AVX2: ChaCha20 in eight lanes, Poly1305 in four.
 *
 * ChaCha20. A lane is one 64-byte block of any packet with any key: the blocks of a group of packets stand in one queue that is
 * worked off eight at a time, so that a packet of 23 blocks leaves no lane idle at its end. Block 0 of a packet, its one-time
 * key, is a block like the others.
 *
 * Poly1305. A lane is a packet; five limbs of 26 bits in four 64-bit lanes, since vpmuludq multiplies 32 bits by 32. Two blocks
 * are taken per step, h' = (h + m0) r^2 + m1 r, so that the carry chain, which nothing can overlap, is walked half as often.
 * Packets of unequal length are aligned at their ends: a lane that has not begun yet reads zeros without the 2^128 bit, and
 * (0 + 0) r is 0. Packets are sorted by length first, so that lanes begin soon after each other; where most lanes would idle
 * most of the time, one packet alone above all, the scalar code is faster and takes over.
 *
 * Groups of GROUP packets stay in the first-level cache from encryption to authentication.
 */
#include "fz_aead.h"
#include "fz_poly1305.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define GROUP 16u
#define LANES 8u /* of ChaCha20 */
#define LANES_POLY 4u
#define ALONE 256u /* bytes from which on one packet's blocks are worth spreading over lanes */
#define BLOCK_SIZE 64u

typedef __m256i V;

static const uint8_t ZEROS[BLOCK_SIZE] = {0};

/* One block of the queue. */
typedef struct lane {
  const uint8_t *key;
  uint64_t nonce;
  const uint8_t *in;
  uint8_t *out;
  uint32_t block;
  uint32_t n; /* bytes, at most BLOCK_SIZE */
} lane;

/* Lanes that wait until there are eight of them. */
typedef struct queue {
  lane lanes[LANES];
  uint32_t n;
  const uint8_t *key; /* the key that `state` holds in every lane; NULL = none */
  V state[8];
} queue;

/* ---- ChaCha20 ---- */

INLINE V rotate16(V v) {
  return _mm256_shuffle_epi8(v, _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2,  //
                                                13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
}

INLINE V rotate8(V v) {
  return _mm256_shuffle_epi8(v, _mm256_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3,  //
                                                14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
}

#define ROTATE(v, by) _mm256_or_si256(_mm256_slli_epi32(v, by), _mm256_srli_epi32(v, 32 - (by)))

INLINE void quarter_round(V *a, V *b, V *c, V *d) {
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
INLINE void transpose(V r[8]) {
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

/* Loads the keys of eight lanes, word by word across them. Most of the time all lanes have the key that is already there. */
static void load_keys(queue *q) {
  int same = 1;
  for (uint32_t i = 1; i < LANES; i++) same &= q->lanes[i].key == q->lanes[0].key;
  if (same) {
    if (q->key == q->lanes[0].key) return;
    q->key = q->lanes[0].key;
    for (int i = 0; i < 8; i++) q->state[i] = _mm256_set1_epi32((int)fz_load_le32(q->key + 4 * i));
    return;
  }
  q->key = NULL;
  for (uint32_t i = 0; i < LANES; i++) q->state[i] = _mm256_loadu_si256((const V *)q->lanes[i].key);
  transpose(q->state);
}

/* Computes the first `n` lanes of the queue and empties it; the others repeat lane 0 into nowhere. */
static void flush(queue *q) {
  if (!q->n) return;
  for (uint32_t i = q->n; i < LANES; i++) {
    q->lanes[i] = q->lanes[0];
    q->lanes[i].n = 0;
  }
  q->n = 0;
  load_keys(q);
  V x[16], counter[3];
  uint32_t words[3][LANES] __attribute__((aligned(32)));
  for (uint32_t i = 0; i < LANES; i++) {
    words[0][i] = q->lanes[i].block;
    words[1][i] = (uint32_t)q->lanes[i].nonce;
    words[2][i] = (uint32_t)(q->lanes[i].nonce >> 32);
  }
  for (int i = 0; i < 3; i++) counter[i] = _mm256_load_si256((const V *)words[i]);
  const V constant[4] = {_mm256_set1_epi32(0x61707865), _mm256_set1_epi32(0x3320646e), _mm256_set1_epi32(0x79622d32),
                         _mm256_set1_epi32(0x6b206574)};
  for (int i = 0; i < 4; i++) x[i] = constant[i];
  for (int i = 0; i < 8; i++) x[4 + i] = q->state[i];
  x[12] = counter[0];
  x[13] = _mm256_setzero_si256();
  x[14] = counter[1];
  x[15] = counter[2];
  for (int round = 0; round < 10; round++) {
    quarter_round(&x[0], &x[4], &x[8], &x[12]);
    quarter_round(&x[1], &x[5], &x[9], &x[13]);
    quarter_round(&x[2], &x[6], &x[10], &x[14]);
    quarter_round(&x[3], &x[7], &x[11], &x[15]);
    quarter_round(&x[0], &x[5], &x[10], &x[15]);
    quarter_round(&x[1], &x[6], &x[11], &x[12]);
    quarter_round(&x[2], &x[7], &x[8], &x[13]);
    quarter_round(&x[3], &x[4], &x[9], &x[14]);
  }
  for (int i = 0; i < 4; i++) x[i] = _mm256_add_epi32(x[i], constant[i]);
  for (int i = 0; i < 8; i++) x[4 + i] = _mm256_add_epi32(x[4 + i], q->state[i]);
  x[12] = _mm256_add_epi32(x[12], counter[0]);
  x[14] = _mm256_add_epi32(x[14], counter[1]);
  x[15] = _mm256_add_epi32(x[15], counter[2]);
  transpose(x);
  transpose(x + 8);
  for (uint32_t i = 0; i < LANES; i++) {
    const lane *l = &q->lanes[i];
    if (FZ_LIKELY(l->n == BLOCK_SIZE)) {
      V low = _mm256_xor_si256(x[i], _mm256_loadu_si256((const V *)l->in));
      V high = _mm256_xor_si256(x[8 + i], _mm256_loadu_si256((const V *)(l->in + 32)));
      _mm256_storeu_si256((V *)l->out, low);
      _mm256_storeu_si256((V *)(l->out + 32), high);
    } else if (l->n) {
      uint8_t stream[BLOCK_SIZE];
      _mm256_storeu_si256((V *)stream, x[i]);
      _mm256_storeu_si256((V *)(stream + 32), x[8 + i]);
      for (uint32_t j = 0; j < l->n; j++) l->out[j] = l->in[j] ^ stream[j];
      fz_wipe(stream, sizeof stream);
    }
  }
}

INLINE void push(queue *q, const fz_aead_job *job, uint32_t block, const uint8_t *in, uint8_t *out, uint32_t n) {
  q->lanes[q->n++] = (lane){job->key, job->counter, in, out, block, n};
  if (q->n == LANES) flush(q);
}

/* The one-time key of a packet: the first half is for Poly1305, the second unused. */
INLINE void push_key(queue *q, const fz_aead_job *job, uint8_t key[BLOCK_SIZE]) { push(q, job, 0, ZEROS, key, BLOCK_SIZE); }

INLINE void push_text(queue *q, const fz_aead_job *job) {
  uint32_t block = 1;
  for (uint32_t at = 0, left = job->length; left; block++) {
    uint32_t n = left < BLOCK_SIZE ? left : BLOCK_SIZE;
    push(q, job, block, job->in + at, job->out + at, n);
    at += n;
    left -= n;
  }
}

/* ---- Poly1305 ---- */

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
static void finish(uint64_t h[5], const uint8_t *pad, uint8_t tag[FZ_TAG_SIZE]) {
  const uint64_t m26 = 0x3ffffff;
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < 4; i++) {
      h[i + 1] += h[i] >> 26;
      h[i] &= m26;
    }
    h[0] += (h[4] >> 26) * 5;
    h[4] &= m26;
  }
  h[1] += h[0] >> 26;
  h[0] &= m26;
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

/* One packet to authenticate. */
typedef struct message {
  const uint8_t *text;
  const uint8_t *key; /* 32 bytes of one-time key */
  uint8_t *tag;       /* where the computed tag goes */
  uint32_t length;
} message;

/* The tags of four messages, the longest first. */
static void authenticate4(const message m[4]) {
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
static void authenticate_alone(const message *m) {
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

/* The tags of up to GROUP messages, in any order; the array is sorted on the way. */
static void authenticate(message *m, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    message moved = m[i];
    uint32_t at = i;
    for (; at && m[at - 1].length < moved.length; at--) m[at] = m[at - 1];
    m[at] = moved;
  }
  uint8_t nowhere[FZ_TAG_SIZE];
  for (; n % LANES_POLY; n++) m[n] = (message){ZEROS, ZEROS, nowhere, 0};
  for (uint32_t i = 0; i < n; i += LANES_POLY) {
    /* Four packets side by side, unless they take longer, walked to the end of the longest, than one after the other. */
    if (m[i].length < m[i + 1].length + m[i + 2].length + m[i + 3].length) {
      authenticate4(m + i);
      continue;
    }
    for (uint32_t j = i; j < i + LANES_POLY; j++) {
      if (m[j].length >= ALONE) authenticate_alone(&m[j]);
      else fz_poly1305_aead(m[j].key, m[j].text, m[j].length, m[j].tag);
    }
  }
}

/* ---- both together ---- */

static void seal_group(queue *q, const fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[GROUP][BLOCK_SIZE] __attribute__((aligned(64)));
  message messages[GROUP];
  for (uint32_t i = 0; i < n; i++) push_key(q, &jobs[i], keys[i]);
  for (uint32_t i = 0; i < n; i++) push_text(q, &jobs[i]);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].out, keys[i], jobs[i].tag, jobs[i].length};
  authenticate(messages, n);
  fz_wipe(keys, sizeof keys);
}

static size_t open_group(queue *q, fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[GROUP][BLOCK_SIZE] __attribute__((aligned(64))), tags[GROUP][FZ_TAG_SIZE];
  message messages[GROUP];
  size_t authentic = 0;
  for (uint32_t i = 0; i < n; i++) push_key(q, &jobs[i], keys[i]);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].in, keys[i], tags[i], jobs[i].length};
  authenticate(messages, n);
  for (uint32_t i = 0; i < n; i++) {
    jobs[i].ok = (uint32_t)fz_ct_equal(tags[i], jobs[i].tag, FZ_TAG_SIZE);
    authentic += jobs[i].ok;
    if (jobs[i].ok) push_text(q, &jobs[i]);
  }
  flush(q);
  fz_wipe(keys, sizeof keys);
  return authentic;
}

void fz_aead_seal_avx2(fz_aead_job *jobs, size_t n) {
  queue q = {.n = 0, .key = NULL};
  for (size_t at = 0; at < n; at += GROUP) seal_group(&q, jobs + at, n - at < GROUP ? (uint32_t)(n - at) : GROUP);
  fz_wipe(&q, sizeof q);
}

size_t fz_aead_open_avx2(fz_aead_job *jobs, size_t n) {
  queue q = {.n = 0, .key = NULL};
  size_t authentic = 0;
  for (size_t at = 0; at < n; at += GROUP) {
    authentic += open_group(&q, jobs + at, n - at < GROUP ? (uint32_t)(n - at) : GROUP);
  }
  fz_wipe(&q, sizeof q);
  return authentic;
}
