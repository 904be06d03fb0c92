/* AVX-512: ChaCha20 in sixteen lanes, eight where no more wait; Poly1305 in eight is fz_poly1305_avx512.h. */
#include "fz_poly1305_avx512.h"

#define LANES 16u

#include "fz_chacha20_x8.h"

#define CONSTANT(i) _mm512_set1_epi32((int)CONSTANTS[i])

INLINE void quarter_round(W *a, W *b, W *c, W *d) {
  *a = _mm512_add_epi32(*a, *b);
  *d = _mm512_rol_epi32(_mm512_xor_si512(*d, *a), 16);
  *c = _mm512_add_epi32(*c, *d);
  *b = _mm512_rol_epi32(_mm512_xor_si512(*b, *c), 12);
  *a = _mm512_add_epi32(*a, *b);
  *d = _mm512_rol_epi32(_mm512_xor_si512(*d, *a), 8);
  *c = _mm512_add_epi32(*c, *d);
  *b = _mm512_rol_epi32(_mm512_xor_si512(*b, *c), 7);
}

INLINE void double_round(W x[16]) {
  quarter_round(&x[0], &x[4], &x[8], &x[12]);
  quarter_round(&x[1], &x[5], &x[9], &x[13]);
  quarter_round(&x[2], &x[6], &x[10], &x[14]);
  quarter_round(&x[3], &x[7], &x[11], &x[15]);
  quarter_round(&x[0], &x[5], &x[10], &x[15]);
  quarter_round(&x[1], &x[6], &x[11], &x[12]);
  quarter_round(&x[2], &x[7], &x[8], &x[13]);
  quarter_round(&x[3], &x[4], &x[9], &x[14]);
}

/* Sixteen rows of sixteen words become sixteen columns in two passes of four. First pass, four rows: each 128-bit part of them comes
 * to hold four words of one block. */
INLINE void join_words(queue *q, uint32_t i) {
  W *r = (W *)q->rows[4 * i];
  W low01 = _mm512_unpacklo_epi32(r[0], r[1]), high01 = _mm512_unpackhi_epi32(r[0], r[1]);
  W low23 = _mm512_unpacklo_epi32(r[2], r[3]), high23 = _mm512_unpackhi_epi32(r[2], r[3]);
  r[0] = _mm512_unpacklo_epi64(low01, low23);
  r[1] = _mm512_unpackhi_epi64(low01, low23);
  r[2] = _mm512_unpacklo_epi64(high01, high23);
  r[3] = _mm512_unpackhi_epi64(high01, high23);
}

INLINE void write_block(const lanes *l, uint32_t lane, W stream) {
  _mm512_storeu_si512(l->out[lane], _mm512_xor_si512(stream, _mm512_loadu_si512(l->in[lane])));
}

/* Second pass: the blocks of every fourth lane, which are written. */
INLINE void join_parts(queue *q, uint32_t i) {
  const W *r = (const W *)q->rows[i];
  W ab = _mm512_shuffle_i32x4(r[0], r[4], 0x44), cd = _mm512_shuffle_i32x4(r[8], r[12], 0x44);
  write_block(q->late, i, _mm512_shuffle_i32x4(ab, cd, 0x88));
  write_block(q->late, 4 + i, _mm512_shuffle_i32x4(ab, cd, 0xdd));
  ab = _mm512_shuffle_i32x4(r[0], r[4], 0xee);
  cd = _mm512_shuffle_i32x4(r[8], r[12], 0xee);
  write_block(q->late, 8 + i, _mm512_shuffle_i32x4(ab, cd, 0x88));
  write_block(q->late, 12 + i, _mm512_shuffle_i32x4(ab, cd, 0xdd));
}

/* All lanes of `now`, which become late; what was late before is sorted and written between the rounds. A round keeps both ports of
 * wide vectors busy, shuffles only one: by themselves they would leave the other idle. */
static FZ_NOINLINE void compute16(queue *q) {
  W x[16], *rows = (W *)q->rows;
  for (int i = 0; i < 4; i++) x[i] = CONSTANT(i);
  for (int i = 0; i < 8; i++) x[4 + i] = _mm512_load_si512(q->state[i]);
  x[12] = _mm512_load_si512(q->block);
  x[13] = _mm512_set1_epi32((int)FZ_NONCE_HEAD);
  x[14] = _mm512_load_si512(q->nonce[0]);
  x[15] = _mm512_load_si512(q->nonce[1]);
  for (uint32_t i = 0; i < 4; i++) {
    double_round(x);
    if (q->late) join_words(q, i);
  }
  for (uint32_t i = 0; i < 4; i++) {
    double_round(x);
    if (q->late) join_parts(q, i);
  }
  for (uint32_t i = 0; i < 2; i++) double_round(x);
  for (int i = 0; i < 4; i++) rows[i] = _mm512_add_epi32(x[i], CONSTANT(i));
  for (int i = 0; i < 8; i++) rows[4 + i] = _mm512_add_epi32(x[4 + i], _mm512_load_si512(q->state[i]));
  rows[12] = _mm512_add_epi32(x[12], _mm512_load_si512(q->block));
  rows[13] = _mm512_add_epi32(x[13], _mm512_set1_epi32((int)FZ_NONCE_HEAD));
  rows[14] = _mm512_add_epi32(x[14], _mm512_load_si512(q->nonce[0]));
  rows[15] = _mm512_add_epi32(x[15], _mm512_load_si512(q->nonce[1]));
  if (q->late) finish_parts(q, q->late);
  q->late = q->now;
  q->now = q->now == q->sides ? q->sides + 1 : q->sides;
}

static void settle(queue *q) {
  if (!q->late) return;
  for (uint32_t i = 0; i < 4; i++) join_words(q, i);
  for (uint32_t i = 0; i < 4; i++) join_parts(q, i);
  finish_parts(q, q->late);
  q->late = NULL;
  fz_wipe(q->rows, sizeof q->rows);
}

static void compute(queue *q, uint32_t n) {
  load_keys(q);
  if (n <= 8) compute8(q);
  else compute16(q);
}

/* Whole vectors are read and written, since a wide load must wait for narrow stores before it. */
INLINE void fill(queue *q, uint32_t from, const fz_aead_job *job, uint32_t block, const uint8_t *in, uint8_t *out) {
  const W count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const W steps = _mm512_set_epi64(448, 384, 320, 256, 192, 128, 64, 0), half = _mm512_set1_epi64(512);
  __mmask16 above = (__mmask16)(0xffffu << from);
  W old[3] = {_mm512_load_si512(q->block), _mm512_load_si512(q->nonce[0]), _mm512_load_si512(q->nonce[1])};
  _mm512_store_si512(q->block, _mm512_mask_add_epi32(old[0], above, count, _mm512_set1_epi32((int)(block - from))));
  _mm512_store_si512(q->nonce[0], _mm512_mask_set1_epi32(old[1], above, (int)job->counter));
  _mm512_store_si512(q->nonce[1], _mm512_mask_set1_epi32(old[2], above, (int)(job->counter >> 32)));
  W low = _mm512_add_epi64(_mm512_set1_epi64((long long)(uintptr_t)in), steps);
  _mm512_storeu_si512(q->now->in + from, low);
  _mm512_storeu_si512(q->now->in + from + 8, _mm512_add_epi64(low, half));
  low = _mm512_add_epi64(_mm512_set1_epi64((long long)(uintptr_t)out), steps);
  _mm512_storeu_si512(q->now->out + from, low);
  _mm512_storeu_si512(q->now->out + from + 8, _mm512_add_epi64(low, half));
  low = _mm512_set1_epi64((long long)(uintptr_t)job->key);
  _mm512_storeu_si512(q->keys + from, low);
  _mm512_storeu_si512(q->keys + from + 8, low);
}

INLINE void xor_text(uint8_t *out, const uint8_t *in, const uint8_t *stream, uint32_t n) {
  __mmask64 mask = ~0ull >> (64 - n);
  W text = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, in), _mm512_loadu_si512(stream));
  _mm512_mask_storeu_epi8(out, mask, text);
}

void fz_aead_seal_avx512(fz_aead_job *jobs, size_t n) { seal_and_wipe(jobs, n); }
size_t fz_aead_open_avx512(fz_aead_job *jobs, size_t n) { return open_and_wipe(jobs, n); }
