/* Blocks of many packets in the lanes of a vector: what the wide implementations of fz_aead.h share.
 *
 * A lane is one 64-byte block of any packet with any key: the blocks of a group of packets stand in one queue that is worked off
 * LANES at a time, so that a packet of 23 blocks leaves no lane idle at its end. Block 0 of a packet, its one-time key, is a
 * block like the others. Groups of MAC_GROUP packets stay in the first-level cache from encryption to authentication.
 *
 * Opening needs the one-time keys before anything else, and may not decrypt in place before the tag is known to be right. Where it
 * saves a pass, lanes beside the keys compute key stream for first blocks into a buffer.
 *
 * Whoever includes this has defined LANES, MAC_GROUP, message and authenticate, and defines after it
 *
 *   fill      sets the lanes from `from` to the last to blocks of one packet's text that follow each other
 *   compute   key stream of the first `n` lanes at least, xored with 64 bytes at `in` to 64 bytes at `out`
 *   xor_text  out[i] = in[i] ^ stream[i] for 1 to 64 bytes; `out` may be `in`
 */
#ifndef FZ_AEAD_LANES_H
#define FZ_AEAD_LANES_H

#include "fz_aead.h"
#include "fz_wide.h"

#define BLOCK_SIZE 64u

/* The last block of a packet, if it is not whole: its lane writes key stream to `spare`. */
typedef struct part {
  const uint8_t *in;
  uint8_t *out;
  uint32_t lane;
  uint32_t n; /* bytes, below BLOCK_SIZE */
} part;

/* Lanes that wait until all are set. Pointers have room for a whole vector of them wherever it begins. */
typedef struct queue {
  uint32_t block[LANES] __attribute__((aligned(64)));
  uint32_t nonce[2][LANES] __attribute__((aligned(64))); /* low words, high words */
  uint32_t state[8][LANES] __attribute__((aligned(64))); /* words of the keys across the lanes */
  uint8_t spare[LANES][BLOCK_SIZE] __attribute__((aligned(64)));
  const uint8_t *in[2 * LANES];
  uint8_t *out[2 * LANES];
  const uint8_t *keys[2 * LANES];
  const uint8_t *key; /* the key that `state` holds in every lane; NULL = none */
  part parts[LANES];
  uint32_t n; /* lanes set */
  uint32_t n_parts;
  bool mixed; /* not all lanes have the key of the first */
} queue;

INLINE void fill(queue *q, uint32_t from, const fz_aead_job *job, uint32_t block, const uint8_t *in, uint8_t *out);
static void compute(queue *q, uint32_t n);
INLINE void xor_text(uint8_t *out, const uint8_t *in, const uint8_t *stream, uint32_t n);

static void reset(queue *q) {
  q->n = q->n_parts = 0;
  q->mixed = false;
}

/* Computes the lanes that are set and empties the queue; the others repeat lane 0 into nowhere. */
static void flush(queue *q) {
  uint32_t n = q->n;
  if (!n) return;
  for (uint32_t i = n; i < LANES; i++) {
    q->keys[i] = q->keys[0];
    q->in[i] = ZEROS;
    q->out[i] = q->spare[i];
  }
  compute(q, n);
  for (uint32_t i = 0; i < q->n_parts; i++) {
    const part *p = &q->parts[i];
    xor_text(p->out, p->in, q->spare[p->lane], p->n);
  }
  reset(q);
}

/* One block of key stream. */
INLINE void push(queue *q, const fz_aead_job *job, uint32_t block, uint8_t *out) {
  uint32_t i = q->n++;
  q->block[i] = block;
  q->nonce[0][i] = (uint32_t)job->counter;
  q->nonce[1][i] = (uint32_t)(job->counter >> 32);
  q->keys[i] = job->key;
  q->mixed |= job->key != q->keys[0];
  q->in[i] = ZEROS;
  q->out[i] = out;
  if (q->n == LANES) flush(q);
}

/* The text of a packet without its first `done` blocks. */
INLINE void push_text(queue *q, const fz_aead_job *job, uint32_t done) {
  uint64_t at = (uint64_t)done * BLOCK_SIZE;
  while (at < job->length) {
    uint32_t from = q->n, left = job->length - (uint32_t)at, room = (LANES - from) * BLOCK_SIZE;
    fill(q, from, job, (uint32_t)(at / BLOCK_SIZE) + 1, job->in + at, job->out + at);
    q->mixed |= job->key != q->keys[0];
    at += room;
    if (left >= room) {
      q->n = LANES;
      flush(q);
      continue;
    }
    uint32_t last = from + left / BLOCK_SIZE, rest = left % BLOCK_SIZE;
    q->n = last;
    if (!rest) break;
    q->parts[q->n_parts++] = (part){q->in[last], q->out[last], last, rest};
    q->in[last] = ZEROS;
    q->out[last] = q->spare[last];
    if (++q->n == LANES) flush(q);
  }
}

/* ---- with Poly1305 ---- */

static void seal_group(queue *q, const fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[MAC_GROUP][BLOCK_SIZE] __attribute__((aligned(64)));
  message messages[MAC_GROUP];
  for (uint32_t i = 0; i < n; i++) push(q, &jobs[i], 0, keys[i]);
  for (uint32_t i = 0; i < n; i++) push_text(q, &jobs[i], 0);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].out, keys[i], jobs[i].tag, jobs[i].length};
  authenticate(messages, n);
  fz_wipe(keys, n * BLOCK_SIZE);
}

/* Key stream of first blocks, computed in lanes that one-time keys alone would have left idle. */
typedef struct ahead {
  uint8_t stream[LANES][BLOCK_SIZE] __attribute__((aligned(64)));
  uint8_t blocks[MAC_GROUP]; /* of each packet */
} ahead;

static void push_ahead(queue *q, const fz_aead_job *jobs, uint32_t n, ahead *a) {
  uint64_t texts = 0;
  uint32_t used = 0;
  memset(a->blocks, 0, sizeof a->blocks);
  for (uint32_t i = 0; i < n; i++) texts += ((uint64_t)jobs[i].length + BLOCK_SIZE - 1) / BLOCK_SIZE;
  if (!q->n || (texts - 1) % LANES >= LANES - q->n) return; /* does not save a pass */
  for (uint32_t i = 0; i < n && q->n; i++) {
    for (; q->n && (uint64_t)a->blocks[i] * BLOCK_SIZE < jobs[i].length; used++) {
      push(q, &jobs[i], ++a->blocks[i], a->stream[used]);
    }
  }
}

/* Decrypts the blocks that are ahead, from `stream` on. */
static void apply_ahead(const fz_aead_job *job, uint8_t (*stream)[BLOCK_SIZE], uint32_t blocks) {
  for (uint32_t i = 0; i < blocks; i++) {
    uint32_t at = i * BLOCK_SIZE, left = job->length - at;
    xor_text(job->out + at, job->in + at, stream[i], left < BLOCK_SIZE ? left : BLOCK_SIZE);
  }
}

static size_t open_group(queue *q, fz_aead_job *jobs, uint32_t n) {
  uint8_t keys[MAC_GROUP][BLOCK_SIZE] __attribute__((aligned(64))), tags[MAC_GROUP][FZ_TAG_SIZE];
  message messages[MAC_GROUP];
  ahead early;
  size_t authentic = 0;
  for (uint32_t i = 0; i < n; i++) push(q, &jobs[i], 0, keys[i]);
  push_ahead(q, jobs, n, &early);
  flush(q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].in, keys[i], tags[i], jobs[i].length};
  authenticate(messages, n);
  uint32_t used = 0;
  for (uint32_t i = 0; i < n; used += early.blocks[i++]) {
    jobs[i].ok = (uint32_t)fz_ct_equal(tags[i], jobs[i].tag, FZ_TAG_SIZE);
    authentic += jobs[i].ok;
    if (!jobs[i].ok) continue;
    apply_ahead(&jobs[i], early.stream + used, early.blocks[i]);
    push_text(q, &jobs[i], early.blocks[i]);
  }
  flush(q);
  fz_wipe(keys, n * BLOCK_SIZE);
  fz_wipe(&early, sizeof early);
  return authentic;
}

INLINE uint32_t group_size(size_t n) { return n < MAC_GROUP ? (uint32_t)n : MAC_GROUP; }

/* What one message needs of stack, and what more do, with something over. */
FZ_WIPE_STACK(wipe_stack_of_one, 3456)
FZ_WIPE_STACK(wipe_stack, 5120)

/* The secrets in the queue, and those that the compiler left on the stack. */
static void wipe(queue *q, size_t n) {
  fz_wipe(q->state, sizeof q->state);
  fz_wipe(q->spare, sizeof q->spare);
  if (n == 1) wipe_stack_of_one();
  else wipe_stack();
}

INLINE void seal_all(fz_aead_job *jobs, size_t n) {
  queue q;
  reset(&q);
  q.key = NULL;
  for (size_t at = 0; at < n; at += MAC_GROUP) seal_group(&q, jobs + at, group_size(n - at));
  wipe(&q, n);
}

INLINE size_t open_all(fz_aead_job *jobs, size_t n) {
  queue q;
  size_t authentic = 0;
  reset(&q);
  q.key = NULL;
  for (size_t at = 0; at < n; at += MAC_GROUP) authentic += open_group(&q, jobs + at, group_size(n - at));
  wipe(&q, n);
  return authentic;
}

#endif
