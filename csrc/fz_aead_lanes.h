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
 *   compute   key stream of the first `n` lanes of `now` at least, xored with 64 bytes at `in` to 64 bytes at `out`, and finish_parts;
 *             or it leaves them to the next compute or settle as `late`, and makes the other lanes `now`
 *   settle    completes what is late
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

/* Where lanes read and write. Pointers have room for a whole vector of them wherever it begins. */
typedef struct lanes {
  const uint8_t *in[2 * LANES];
  uint8_t *out[2 * LANES];
  part parts[LANES];
  uint32_t n_parts;
} lanes;

/* Lanes that wait until all are set. */
typedef struct queue {
  uint32_t block[LANES] __attribute__((aligned(64)));
  uint32_t nonce[2][LANES] __attribute__((aligned(64))); /* low words, high words */
  uint32_t state[8][LANES] __attribute__((aligned(64))); /* words of the keys across the lanes */
  uint32_t rows[16][LANES] __attribute__((aligned(64))); /* words of the key stream of `late` across the lanes */
  uint8_t spare[LANES][BLOCK_SIZE] __attribute__((aligned(64)));
  const uint8_t *keys[2 * LANES];
  const uint8_t *key; /* the key that `state` holds in every lane; NULL = none */
  lanes *now, *late;  /* `late` is NULL where nothing is */
  lanes sides[2];
  uint32_t n; /* lanes set in `now` */
  bool mixed; /* not all of them have the key of the first */
} queue;

INLINE void fill(queue *q, uint32_t from, const fz_aead_job *job, uint32_t block, const uint8_t *in, uint8_t *out);
static void compute(queue *q, uint32_t n);
static void settle(queue *q);
INLINE void xor_text(uint8_t *out, const uint8_t *in, const uint8_t *stream, uint32_t n);

INLINE void begin(queue *q) {
  q->now = &q->sides[0];
  q->late = NULL;
  q->key = NULL;
  q->n = q->sides[0].n_parts = q->sides[1].n_parts = 0;
  q->mixed = false;
}

static void finish_parts(queue *q, lanes *l) {
  for (uint32_t i = 0; i < l->n_parts; i++) {
    const part *p = &l->parts[i];
    xor_text(p->out, p->in, q->spare[p->lane], p->n);
  }
  l->n_parts = 0;
}

/* Computes the lanes that are set and empties the queue; the others repeat lane 0 into nowhere. */
static void flush(queue *q) {
  uint32_t n = q->n;
  for (uint32_t i = n; i < LANES; i++) {
    q->keys[i] = q->keys[0];
    q->now->in[i] = ZEROS;
    q->now->out[i] = q->spare[i];
  }
  compute(q, n);
  q->n = 0;
  q->mixed = false;
}

/* After it all that was pushed is written. */
INLINE void drain(queue *q) {
  if (q->n) flush(q);
  settle(q);
}

/* One block of key stream. */
INLINE void push(queue *q, const fz_aead_job *job, uint32_t block, uint8_t *out) {
  uint32_t i = q->n++;
  q->block[i] = block;
  q->nonce[0][i] = (uint32_t)job->counter;
  q->nonce[1][i] = (uint32_t)(job->counter >> 32);
  q->keys[i] = job->key;
  q->mixed |= job->key != q->keys[0];
  q->now->in[i] = ZEROS;
  q->now->out[i] = out;
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
    lanes *l = q->now;
    l->parts[l->n_parts++] = (part){l->in[last], l->out[last], last, rest};
    l->in[last] = ZEROS;
    l->out[last] = q->spare[last];
    if (++q->n == LANES) flush(q);
  }
}

/* ---- with Poly1305 ---- */

/* Key stream of first blocks, computed in lanes that one-time keys alone would have left idle. */
typedef struct ahead {
  uint8_t stream[LANES][BLOCK_SIZE] __attribute__((aligned(64)));
  uint8_t blocks[MAC_GROUP]; /* of each packet */
} ahead;

/* What a call needs. It belongs to a function that does nothing but call and wipe, so that its own frame holds no other secrets. */
typedef struct work {
  queue q;
  uint8_t keys[MAC_GROUP][BLOCK_SIZE] __attribute__((aligned(64)));
  uint8_t tags[MAC_GROUP][FZ_TAG_SIZE];
  ahead early;
} work;

static void seal_group(work *w, const fz_aead_job *jobs, uint32_t n) {
  message messages[MAC_GROUP];
  for (uint32_t i = 0; i < n; i++) push(&w->q, &jobs[i], 0, w->keys[i]);
  for (uint32_t i = 0; i < n; i++) push_text(&w->q, &jobs[i], 0);
  drain(&w->q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].out, w->keys[i], jobs[i].tag, jobs[i].length};
  authenticate(messages, n);
}

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

static size_t open_group(work *w, fz_aead_job *jobs, uint32_t n) {
  message messages[MAC_GROUP];
  uint32_t used = 0;
  size_t authentic = 0;
  for (uint32_t i = 0; i < n; i++) push(&w->q, &jobs[i], 0, w->keys[i]);
  push_ahead(&w->q, jobs, n, &w->early);
  drain(&w->q);
  for (uint32_t i = 0; i < n; i++) messages[i] = (message){jobs[i].in, w->keys[i], w->tags[i], jobs[i].length};
  authenticate(messages, n);
  for (uint32_t i = 0; i < n; used += w->early.blocks[i++]) {
    jobs[i].ok = (uint32_t)fz_ct_equal(w->tags[i], jobs[i].tag, FZ_TAG_SIZE);
    authentic += jobs[i].ok;
    if (!jobs[i].ok) continue;
    apply_ahead(&jobs[i], w->early.stream + used, w->early.blocks[i]);
    push_text(&w->q, &jobs[i], w->early.blocks[i]);
  }
  drain(&w->q);
  return authentic;
}

INLINE uint32_t group_size(size_t n) { return n < MAC_GROUP ? (uint32_t)n : MAC_GROUP; }

static FZ_NOINLINE void seal_all(work *w, fz_aead_job *jobs, size_t n) {
  begin(&w->q);
  for (size_t at = 0; at < n; at += MAC_GROUP) seal_group(w, jobs + at, group_size(n - at));
}

static FZ_NOINLINE size_t open_all(work *w, fz_aead_job *jobs, size_t n) {
  size_t authentic = 0;
  begin(&w->q);
  for (size_t at = 0; at < n; at += MAC_GROUP) authentic += open_group(w, jobs + at, group_size(n - at));
  return authentic;
}

/* What one message needs of stack, and what more do, with something over. */
FZ_WIPE_STACK(wipe_stack_of_one, 3584)
FZ_WIPE_STACK(wipe_stack, 5632)

/* The secrets in `w`, and those that the compiler left on the stack. */
INLINE void wipe(work *w, size_t n) {
  fz_wipe(w->q.state, sizeof w->q.state);
  fz_wipe(w->q.spare, sizeof w->q.spare);
  fz_wipe(w->keys, group_size(n) * BLOCK_SIZE);
  if (n == 1) wipe_stack_of_one();
  else wipe_stack();
}

INLINE void seal_and_wipe(fz_aead_job *jobs, size_t n) {
  work w;
  seal_all(&w, jobs, n);
  wipe(&w, n);
}

INLINE size_t open_and_wipe(fz_aead_job *jobs, size_t n) {
  work w;
  size_t authentic = open_all(&w, jobs, n);
  wipe(&w, n);
  fz_wipe(w.tags, sizeof w.tags);
  fz_wipe(&w.early, sizeof w.early);
  return authentic;
}

#endif
