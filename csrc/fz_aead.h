/* ChaCha20-Poly1305 (RFC 8439) over many packets at once, in place, without associated data. */
#ifndef FZ_AEAD_H
#define FZ_AEAD_H
#include "fz_common.h"
#define FZ_TAG_SIZE 16u
typedef struct fz_aead_job {
  const uint8_t *key; /* 32 bytes */
  uint64_t counter;   /* nonce: four zero bytes, then this little-endian */
  uint8_t *data;      /* length bytes, transformed in place; the 16-byte tag stands right behind them */
  uint32_t length;
  uint32_t ok;        /* open: 1 when the tag was right; otherwise data is zeroed */
} fz_aead_job;
void fz_aead_seal(fz_aead_job *jobs, size_t n);
void fz_aead_open(fz_aead_job *jobs, size_t n);
#endif
