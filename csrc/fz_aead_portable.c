/* The reference: one packet, one block at a time, as RFC 8439 tells it; ChaCha20 is section 2.3. */
#include "fz_aead.h"
#include "fz_poly1305.h"

#define BLOCK_SIZE 64u

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
  s[13] = FZ_NONCE_HEAD;
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

static void authenticate(const fz_aead_job *job, const uint8_t *text, uint8_t tag[FZ_TAG_SIZE]) {
  uint8_t key[BLOCK_SIZE];
  chacha20_block(job, 0, key);
  fz_poly1305_aead(key, text, job->length, tag);
  fz_wipe(key, sizeof key);
}

FZ_WIPE_STACK(wipe_stack, 1024)

static FZ_NOINLINE void seal_all(fz_aead_job *jobs, size_t n) {
  for (fz_aead_job *job = jobs; job < jobs + n; job++) {
    chacha20(job);
    authenticate(job, job->out, job->tag);
  }
}

static FZ_NOINLINE size_t open_all(fz_aead_job *jobs, size_t n) {
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

void fz_aead_seal_portable(fz_aead_job *jobs, size_t n) {
  seal_all(jobs, n);
  wipe_stack();
}

size_t fz_aead_open_portable(fz_aead_job *jobs, size_t n) {
  size_t authentic = open_all(jobs, n);
  wipe_stack();
  return authentic;
}
