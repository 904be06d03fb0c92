/* The reference: one packet, one block at a time, as the RFC tells it. ChaCha20 is RFC 8439 section 2.3, Poly1305 section 2.5
 * with three limbs of 44, 44 and 42 bits (after poly1305-donna-64). */
#include "fz_aead.h"

#define BLOCK_SIZE 64u
#define M44 0xfffffffffffull
#define M42 0x3ffffffffffull

static inline uint32_t rotate(uint32_t v, int by) { return v << by | v >> (32 - by); }

static inline void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
  *a += *b;
  *d = rotate(*d ^ *a, 16);
  *c += *d;
  *b = rotate(*b ^ *c, 12);
  *a += *b;
  *d = rotate(*d ^ *a, 8);
  *c += *d;
  *b = rotate(*b ^ *c, 7);
}

static void chacha20_block(const fz_aead_job *job, uint32_t block, uint8_t out[BLOCK_SIZE]) {
  uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];
  for (int i = 0; i < 8; i++) s[4 + i] = fz_load_le32(job->key + 4 * i);
  s[12] = block;
  s[13] = 0;
  s[14] = (uint32_t)job->counter;
  s[15] = (uint32_t)(job->counter >> 32);
  memcpy(x, s, sizeof x);
  for (int i = 0; i < 10; i++) {
    for (int j = 0; j < 4; j++) quarter_round(&x[j], &x[4 + j], &x[8 + j], &x[12 + j]);
    for (int j = 0; j < 4; j++) quarter_round(&x[j], &x[4 + (j + 1) % 4], &x[8 + (j + 2) % 4], &x[12 + (j + 3) % 4]);
  }
  for (int i = 0; i < 16; i++) fz_store_le32(out + 4 * i, x[i] + s[i]);
  fz_wipe(s, sizeof s);
  fz_wipe(x, sizeof x);
}

/* The stream starts at block 1: block 0 is the one-time key. */
static void chacha20(const fz_aead_job *job) {
  uint8_t stream[BLOCK_SIZE];
  uint32_t block = 1;
  for (uint32_t at = 0, left = job->length; left; block++) {
    uint32_t n = left < BLOCK_SIZE ? left : BLOCK_SIZE;
    chacha20_block(job, block, stream);
    for (uint32_t i = 0; i < n; i++) job->out[at + i] = job->in[at + i] ^ stream[i];
    at += n;
    left -= n;
  }
  fz_wipe(stream, sizeof stream);
}

typedef unsigned __int128 u128;

typedef struct poly1305 {
  uint64_t r[3], s[3]; /* s = 20 r: five for the prime, four because limbs 1 and 2 weigh 2^132 where they wrap */
  uint64_t h[3];
} poly1305;

static void poly1305_init(poly1305 *p, const uint8_t key[16]) {
  uint64_t low = fz_load_le64(key) & 0x0ffffffc0fffffffull, high = fz_load_le64(key + 8) & 0x0ffffffc0ffffffcull;
  p->r[0] = low & M44;
  p->r[1] = (low >> 44 | high << 20) & M44;
  p->r[2] = high >> 24;
  for (int i = 0; i < 3; i++) {
    p->s[i] = p->r[i] * 20;
    p->h[i] = 0;
  }
}

static void poly1305_block(poly1305 *p, const uint8_t m[16]) {
  uint64_t low = fz_load_le64(m), high = fz_load_le64(m + 8), carry;
  const uint64_t *r = p->r, *s = p->s;
  uint64_t h0 = p->h[0] + (low & M44);
  uint64_t h1 = p->h[1] + ((low >> 44 | high << 20) & M44);
  uint64_t h2 = p->h[2] + (high >> 24 | 1ull << 40);
  u128 d0 = (u128)h0 * r[0] + (u128)h1 * s[2] + (u128)h2 * s[1];
  u128 d1 = (u128)h0 * r[1] + (u128)h1 * r[0] + (u128)h2 * s[2];
  u128 d2 = (u128)h0 * r[2] + (u128)h1 * r[1] + (u128)h2 * r[0];
  d1 += (uint64_t)(d0 >> 44);
  d2 += (uint64_t)(d1 >> 44);
  p->h[0] = ((uint64_t)d0 & M44) + (uint64_t)(d2 >> 42) * 5;
  carry = p->h[0] >> 44;
  p->h[0] &= M44;
  p->h[1] = ((uint64_t)d1 & M44) + carry;
  p->h[2] = (uint64_t)d2 & M42;
}

static void poly1305_finish(poly1305 *p, const uint8_t pad[16], uint8_t tag[FZ_TAG_SIZE]) {
  uint64_t h0 = p->h[0], h1 = p->h[1], h2 = p->h[2];
  for (int i = 0; i < 2; i++) {
    h2 += h1 >> 44;
    h1 &= M44;
    h0 += (h2 >> 42) * 5;
    h2 &= M42;
    h1 += h0 >> 44;
    h0 &= M44;
  }
  /* h + 5 - 2^130 is taken when it is not negative, that is when h >= 2^130 - 5. */
  uint64_t g0 = h0 + 5, g1 = h1 + (g0 >> 44), g2 = h2 + (g1 >> 44) - (1ull << 42);
  uint64_t take = (g2 >> 63) - 1;
  h0 = (h0 & ~take) | (g0 & M44 & take);
  h1 = (h1 & ~take) | (g1 & M44 & take);
  h2 = (h2 & ~take) | (g2 & M42 & take);
  u128 low = (u128)(h0 | h1 << 44) + fz_load_le64(pad);
  fz_store_le64(tag, (uint64_t)low);
  fz_store_le64(tag + 8, (h1 >> 20 | h2 << 24) + fz_load_le64(pad + 8) + (uint64_t)(low >> 64));
}

/* The tag over `text` (the ciphertext): no associated data, so only the padded text and the lengths. */
static void authenticate(const fz_aead_job *job, const uint8_t *text, uint8_t tag[FZ_TAG_SIZE]) {
  uint8_t key[BLOCK_SIZE], last[16] = {0};
  poly1305 p;
  uint32_t at = 0, rest = job->length % 16;
  chacha20_block(job, 0, key);
  poly1305_init(&p, key);
  for (; at < job->length - rest; at += 16) poly1305_block(&p, text + at);
  if (rest) {
    memcpy(last, text + at, rest);
    poly1305_block(&p, last);
  }
  fz_store_le64(last, 0);
  fz_store_le64(last + 8, job->length);
  poly1305_block(&p, last);
  poly1305_finish(&p, key + 16, tag);
  fz_wipe(key, sizeof key);
  fz_wipe(&p, sizeof p);
}

void fz_aead_seal_portable(fz_aead_job *jobs, size_t n) {
  for (fz_aead_job *job = jobs; job < jobs + n; job++) {
    chacha20(job);
    authenticate(job, job->out, job->tag);
  }
}

size_t fz_aead_open_portable(fz_aead_job *jobs, size_t n) {
  size_t authentic = 0;
  for (fz_aead_job *job = jobs; job < jobs + n; job++) {
    uint8_t tag[FZ_TAG_SIZE];
    authenticate(job, job->in, tag);
    job->ok = (uint32_t)fz_ct_equal(tag, job->tag, FZ_TAG_SIZE);
    if (job->ok) chacha20(job);
    authentic += job->ok;
  }
  return authentic;
}
