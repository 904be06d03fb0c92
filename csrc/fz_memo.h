/* A memo of decisions: what a slow look-up has found for a flow, so that the size of the tables it searched costs nothing from the
 * flow's second packet on.
 *
 * A key holds all that the decision depends on, and the generation of the tables it was made by: after a change the former
 * entries are simply no longer found. A key may stand in any of FZ_MEMO_WAYS neighbouring places from its home on; where all are
 * taken one is replaced. What does not fit is decided anew, never wrongly: keys are compared whole. The hash is seeded, but cheap
 * rather than strong; who finds colliding flows makes them as slow as the look-up is.
 *
 * All memory is the caller's, 64 bytes an entry, aligned to that. Not for concurrent use.
 */
#ifndef FZ_MEMO_H
#define FZ_MEMO_H

#include <stdbool.h>

#include "fz_common.h"

#define FZ_MEMO_WAYS 4u
#define FZ_MEMO_CHUNK 32u /* rows whose cache lines are on their way at a time */

/* Whole words, since a word that was written in parts stalls whoever reads it at once. generation 0 is that of free places. */
typedef struct fz_memo_key {
  uint64_t generation;
  uint64_t source[2], destination[2]; /* as they are in memory, IPv4 in one half of the first */
  uint64_t place; /* peer row and ports */
  uint64_t kind;  /* family, protocol, flags */
} fz_memo_key;

typedef struct fz_memo_entry {
  fz_memo_key key;
  int32_t value;
  uint32_t zero;
} fz_memo_entry;

/* All zero but for the seed: an empty memo without memory. */
typedef struct fz_memo {
  fz_memo_entry *entries; /* 2^bits, and FZ_MEMO_WAYS - 1 more for keys whose home is the last */
  uint64_t seed[2];
  uint32_t bits;     /* log2 of the size, 0 without memory */
  uint32_t replaced; /* live entries that gave way since the memory was made */
  uint32_t turn;     /* which of the ways gives way next */
} fz_memo;

_Static_assert(sizeof(fz_memo_entry) == 64 && sizeof(fz_memo_key) == 56, "an entry is a cache line, its key seven words");

static inline void fz_memo_address(uint64_t field[2], const uint8_t *address, bool v6) {
  uint32_t short_one;
  if (v6) {
    memcpy(field, address, 16);
    return;
  }
  memcpy(&short_one, address, 4);
  field[0] = short_one;
  field[1] = 0;
}

static inline uint64_t fz_memo_mix(uint64_t a, uint64_t b) {
  __uint128_t product = (__uint128_t)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Where a key has its home. The generation has no part in it: what is decided anew takes the place of what was. */
static inline uint32_t fz_memo_home(const fz_memo *m, const fz_memo_key *key) {
  uint64_t a = fz_memo_mix(key->source[0] ^ m->seed[0], key->source[1] ^ m->seed[1]);
  uint64_t b = fz_memo_mix(key->destination[0] ^ m->seed[1], key->destination[1] ^ m->seed[0]);
  return (uint32_t)(fz_memo_mix(key->place ^ a ^ m->seed[0], key->kind ^ b ^ m->seed[1]) >> (64 - m->bits));
}

static inline void fz_memo_prefetch(const fz_memo *m, uint32_t home) { __builtin_prefetch(&m->entries[home]); }

/* The same flow, perhaps decided by other tables. */
static inline bool fz_memo_is_flow(const fz_memo_key *a, const fz_memo_key *b) {
  return ((a->source[0] ^ b->source[0]) | (a->source[1] ^ b->source[1]) | (a->destination[0] ^ b->destination[0]) |
          (a->destination[1] ^ b->destination[1]) | (a->place ^ b->place) | (a->kind ^ b->kind)) == 0;
}

/* What is remembered of a key, or NULL. */
static inline const int32_t *fz_memo_find(const fz_memo *m, const fz_memo_key *key, uint32_t home) {
  for (uint32_t way = 0; way < FZ_MEMO_WAYS; way++) {
    const fz_memo_entry *entry = &m->entries[home + way];
    if (entry->key.generation == key->generation && fz_memo_is_flow(&entry->key, key)) return &entry->value;
  }
  return NULL;
}

/* Remembers a key that was not found. */
void fz_memo_put(fz_memo *m, const fz_memo_key *key, uint32_t home, int32_t value);

/* Forgets a key, whatever its generation. */
void fz_memo_forget(fz_memo *m, const fz_memo_key *key);

/* Whether more memory would help: an eighth of the entries has given way to others. */
static inline bool fz_memo_is_crowded(const fz_memo *m) { return m->bits == 0 || m->replaced > (1u << m->bits) / 8; }

/* Starts anew with zeroed memory for 2^bits + FZ_MEMO_WAYS - 1 entries; the old memory is the caller's. */
static inline void fz_memo_move(fz_memo *m, fz_memo_entry *entries, uint32_t bits) {
  m->entries = entries;
  m->bits = bits;
  m->replaced = 0;
}

#endif
