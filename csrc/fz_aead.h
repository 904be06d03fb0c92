/* ChaCha20-Poly1305 (RFC 8439 section 2.8) over many packets in one call, without associated data.
 *
 * Jobs are independent: any mix of keys, counters and lengths, in any order; jobs of about the same length and key side by
 * side are fastest. The nonce is four zero bytes and the counter in little endian (WireGuard paper 5.4.6). Lengths are bytes,
 * up to 64 * (2^32 - 1). No alignment is asked of anything.
 *
 * Aliasing: `out` is `in` or does not overlap it; tags lie outside both; no two jobs share bytes that are written.
 * Inputs whose length is 0 may have `in` and `out` NULL. n = 0 is allowed.
 *
 * Time depends on lengths and on whether a tag was right, never on keys, contents or tags.
 */
#ifndef FZ_AEAD_H
#define FZ_AEAD_H

#include "fz_common.h"

#ifndef FZ_NONCE_HEAD
#define FZ_NONCE_HEAD 0u /* the first word of the nonce; tests that have vectors with another one define it */
#endif

#define FZ_KEY_SIZE 32u
#define FZ_TAG_SIZE 16u

typedef struct fz_aead_job {
  const uint8_t *key; /* FZ_KEY_SIZE bytes */
  uint64_t counter;   /* never twice with one key when sealing */
  const uint8_t *in;  /* length bytes */
  uint8_t *out;       /* length bytes */
  uint8_t *tag;       /* FZ_TAG_SIZE bytes: written by seal, read by open */
  uint32_t length;
  uint32_t ok; /* set by open: 1 = authentic, 0 = forged */
} fz_aead_job;

/* Encrypts every job and writes its tag. */
void fz_aead_seal(fz_aead_job *jobs, size_t n);

/* Checks every job and decrypts the authentic ones; a forged one has `ok` 0 and its `out` untouched. Returns how many are ok. */
size_t fz_aead_open(fz_aead_job *jobs, size_t n);

/* The implementations behind the two; only the dispatcher and tests call them. */
void fz_aead_seal_portable(fz_aead_job *jobs, size_t n);
size_t fz_aead_open_portable(fz_aead_job *jobs, size_t n);
void fz_aead_seal_avx2(fz_aead_job *jobs, size_t n);
size_t fz_aead_open_avx2(fz_aead_job *jobs, size_t n);
void fz_aead_seal_avx512(fz_aead_job *jobs, size_t n);
size_t fz_aead_open_avx512(fz_aead_job *jobs, size_t n);

#endif
