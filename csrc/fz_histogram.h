/* How often a number was how large, in powers of two: bucket 0 counts zeros, bucket i what lies in [2^(i-1), 2^i), the last one all
 * above as well. One add costs about a nanosecond. Not for concurrent use. */
#ifndef FZ_HISTOGRAM_H
#define FZ_HISTOGRAM_H

#include <stdint.h>

#define FZ_HISTOGRAM_BUCKETS 13 /* the last begins at 2048, the rows of a full batch */

typedef struct fz_histogram {
  uint64_t counts[FZ_HISTOGRAM_BUCKETS];
  uint64_t sum;
} fz_histogram;

static inline void fz_histogram_add(fz_histogram *h, uint32_t value) {
  uint32_t bucket = value == 0 ? 0u : 32u - (uint32_t)__builtin_clz(value);
  if (bucket >= FZ_HISTOGRAM_BUCKETS) bucket = FZ_HISTOGRAM_BUCKETS - 1u;
  h->counts[bucket]++;
  h->sum += value;
}

#endif
