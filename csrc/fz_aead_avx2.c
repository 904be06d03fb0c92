/* AVX2: ChaCha20 in eight lanes; Poly1305 in four is fz_poly1305_avx2.h.
 *
 * A lane is one 64-byte block of any packet with any key: the blocks of a group of packets stand in one queue that is worked off
 * eight at a time, so that a packet of 23 blocks leaves no lane idle at its end. Block 0 of a packet, its one-time key, is a
 * block like the others. Groups of GROUP packets stay in the first-level cache from encryption to authentication.
 *
 * Opening needs the one-time keys before anything else, and may not decrypt in place before the tag is known to be right. Where it
 * saves a pass, lanes beside the keys compute key stream for first blocks into a buffer.
 */
#include "fz_aead.h"
#include "fz_poly1305_avx2.h"

#define GROUP MAC_GROUP
#define LANES 8u
#define BLOCK_SIZE 64u

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

/* The text of a packet without its first `done` blocks. */
INLINE void push_text(queue *q, const fz_aead_job *job, uint32_t done) {
  uint32_t at = done * BLOCK_SIZE;
  for (uint32_t block = done + 1; at < job->length; block++) {
    uint32_t left = job->length - at, n = left < BLOCK_SIZE ? left : BLOCK_SIZE;
    push(q, job, block, job->in + at, job->out + at, n);
    at += n;
  }
}

/* ---- with Poly1305 ---- */

static void seal_group(queue *q, const fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[GROUP][BLOCK_SIZE] __attribute__((aligned(64)));
  message messages[GROUP];
  for (uint32_t i = 0; i < n; i++) push_key(q, &jobs[i], keys[i]);
  for (uint32_t i = 0; i < n; i++) push_text(q, &jobs[i], 0);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].out, keys[i], jobs[i].tag, jobs[i].length};
  authenticate(messages, n);
  fz_wipe(keys, sizeof keys);
}

/* Key stream of first blocks, computed in lanes that one-time keys alone would have left idle. */
typedef struct ahead {
  uint8_t stream[LANES][BLOCK_SIZE];
  uint8_t blocks[GROUP]; /* of each packet */
} ahead;

static void push_ahead(queue *q, const fz_aead_job *jobs, uint32_t n, ahead *a) {
  uint64_t texts = 0;
  uint32_t used = 0;
  memset(a->blocks, 0, sizeof a->blocks);
  for (uint32_t i = 0; i < n; i++) texts += ((uint64_t)jobs[i].length + BLOCK_SIZE - 1) / BLOCK_SIZE;
  if (!q->n || (texts - 1) % LANES >= LANES - q->n) return; /* does not save a pass */
  for (uint32_t i = 0; i < n && q->n; i++) {
    for (; q->n && (uint64_t)a->blocks[i] * BLOCK_SIZE < jobs[i].length; used++) {
      push(q, &jobs[i], ++a->blocks[i], ZEROS, a->stream[used], BLOCK_SIZE);
    }
  }
}

/* Decrypts the blocks that are ahead, from `stream` on. */
static void apply_ahead(const fz_aead_job *job, const uint8_t *stream, uint32_t blocks) {
  uint32_t n = blocks * BLOCK_SIZE < job->length ? blocks * BLOCK_SIZE : job->length, i = 0;
  for (; i + 32 <= n; i += 32) {
    V text = _mm256_loadu_si256((const V *)(job->in + i)), key = _mm256_loadu_si256((const V *)(stream + i));
    _mm256_storeu_si256((V *)(job->out + i), _mm256_xor_si256(text, key));
  }
  for (; i < n; i++) job->out[i] = job->in[i] ^ stream[i];
}

static size_t open_group(queue *q, fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[GROUP][BLOCK_SIZE] __attribute__((aligned(64))), tags[GROUP][FZ_TAG_SIZE];
  message messages[GROUP];
  ahead early;
  size_t authentic = 0;
  for (uint32_t i = 0; i < n; i++) push_key(q, &jobs[i], keys[i]);
  push_ahead(q, jobs, n, &early);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].in, keys[i], tags[i], jobs[i].length};
  authenticate(messages, n);
  uint32_t used = 0;
  for (uint32_t i = 0; i < n; used += early.blocks[i++]) {
    jobs[i].ok = (uint32_t)fz_ct_equal(tags[i], jobs[i].tag, FZ_TAG_SIZE);
    authentic += jobs[i].ok;
    if (!jobs[i].ok) continue;
    if (early.blocks[i]) apply_ahead(&jobs[i], early.stream[used], early.blocks[i]);
    push_text(q, &jobs[i], early.blocks[i]);
  }
  flush(q);
  fz_wipe(keys, sizeof keys);
  fz_wipe(&early, sizeof early);
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
