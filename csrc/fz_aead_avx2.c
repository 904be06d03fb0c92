/* AVX2: ChaCha20 in eight lanes is fz_chacha20_x8.h, Poly1305 in four is fz_poly1305_avx2.h. */
#include "fz_poly1305_avx2.h"

#define LANES 8u

#include "fz_chacha20_x8.h"

static void compute(queue *q, uint32_t n) {
  (void)n;
  load_keys(q);
  compute8(q);
}

static void settle(queue *q) { (void)q; }

/* Whole vectors of words are read and written, since a wide load must wait for narrow stores before it. */
INLINE void fill(queue *q, uint32_t from, const fz_aead_job *job, uint32_t block, const uint8_t *in, uint8_t *out) {
  const V count = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), steps = _mm256_set_epi64x(192, 128, 64, 0);
  V above = _mm256_cmpgt_epi32(count, _mm256_set1_epi32((int)from - 1));
  V words[3] = {_mm256_add_epi32(count, _mm256_set1_epi32((int)(block - from))), _mm256_set1_epi32((int)job->counter),
                _mm256_set1_epi32((int)(job->counter >> 32))};
  V *into[3] = {(V *)q->block, (V *)q->nonce[0], (V *)q->nonce[1]};
  for (int i = 0; i < 3; i++) _mm256_store_si256(into[i], _mm256_blendv_epi8(_mm256_load_si256(into[i]), words[i], above));
  V key = _mm256_set1_epi64x((long long)(uintptr_t)job->key);
  V first = _mm256_add_epi64(_mm256_set1_epi64x((long long)(uintptr_t)in), steps);
  V second = _mm256_add_epi64(_mm256_set1_epi64x((long long)(uintptr_t)out), steps);
  for (int i = 0; i < 2; i++) {
    V more = _mm256_set1_epi64x(256 * i);
    _mm256_storeu_si256((V *)(q->now->in + from + 4 * i), _mm256_add_epi64(first, more));
    _mm256_storeu_si256((V *)(q->now->out + from + 4 * i), _mm256_add_epi64(second, more));
    _mm256_storeu_si256((V *)(q->keys + from + 4 * i), key);
  }
}

INLINE void xor_text(uint8_t *out, const uint8_t *in, const uint8_t *stream, uint32_t n) {
  uint32_t i = 0;
  for (; i + 32 <= n; i += 32) {
    V text = _mm256_loadu_si256((const V *)(in + i)), key = _mm256_loadu_si256((const V *)(stream + i));
    _mm256_storeu_si256((V *)(out + i), _mm256_xor_si256(text, key));
  }
  if (i + 16 <= n) {
    __m128i text = _mm_loadu_si128((const __m128i *)(in + i)), key = _mm_loadu_si128((const __m128i *)(stream + i));
    _mm_storeu_si128((__m128i *)(out + i), _mm_xor_si128(text, key));
    i += 16;
  }
  for (; i < n; i++) out[i] = in[i] ^ stream[i];
}

/* One key and one block of text take the reference less time than eight lanes of which two are used. */
INLINE bool is_tiny(const fz_aead_job *jobs, size_t n) { return n == 1 && jobs->length <= BLOCK_SIZE; }

void fz_aead_seal_avx2(fz_aead_job *jobs, size_t n) {
  if (is_tiny(jobs, n)) fz_aead_seal_portable(jobs, n);
  else seal_and_wipe(jobs, n);
}

size_t fz_aead_open_avx2(fz_aead_job *jobs, size_t n) {
  return is_tiny(jobs, n) ? fz_aead_open_portable(jobs, n) : open_and_wipe(jobs, n);
}
