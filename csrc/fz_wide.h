/* What the wide implementations of ChaCha20-Poly1305 share beside vectors. */
#ifndef FZ_WIDE_H
#define FZ_WIDE_H

#include <stdbool.h>

#include "fz_common.h"

#define INLINE static inline __attribute__((always_inline))

static const uint8_t ZEROS[64] __attribute__((aligned(64))) = {0};

/* One packet to authenticate. */
typedef struct message {
  const uint8_t *text;
  const uint8_t *key; /* 32 bytes of one-time key */
  uint8_t *tag;       /* where the computed tag goes */
  uint32_t length;
} message;

/* The longest first; up to some sixteen. */
INLINE void sort_messages(message *m, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    message moved = m[i];
    uint32_t at = i;
    for (; at && m[at - 1].length < moved.length; at--) m[at] = m[at - 1];
    m[at] = moved;
  }
}

#endif
